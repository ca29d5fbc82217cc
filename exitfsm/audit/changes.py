"""Settings to try: the combinations of a grid, and what policies have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from exitfsm.config.changes import Changes
from exitfsm.config.settings import plain_value
from exitfsm.errors import ConfigError
from exitfsm.policy import ExitPolicy

#: Most combinations of a grid.
GRID_MAX = 1000


def grid(base: Changes, axes: Sequence[tuple[str, Sequence[str]]]) -> list[dict[str, str]]:
    """Every combination of the values of the axes, each on top of `base`; `base` alone without axes.

    Raises:
        ConfigError: there are more than `GRID_MAX`.
    """
    combinations = [dict(base)]
    if axes:
        names = [name for name, _ in axes]
        combinations = [{**base, **dict(zip(names, c, strict=True))} for c in product(*(v for _, v in axes))]
    if len(combinations) > GRID_MAX:
        raise ConfigError([f"the grid has {len(combinations):,} combinations; {GRID_MAX:,} are allowed"])
    return combinations


def settings_of(policies: Iterable[ExitPolicy]) -> dict[str, Any] | None:
    """The settings of policies as plain data, a setting in which they differ as None; None where there is no policy."""
    common: dict[str, Any] | None = None
    for policy in {policy.digest(): policy for policy in policies}.values():
        data = plain_value(policy)
        common = data if common is None else _common(common, data)
    return common


def _common(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for key, value in one.items():
        theirs = other.get(key)
        if isinstance(value, dict) and isinstance(theirs, dict):
            merged[key] = _common(value, theirs)
        else:
            merged[key] = value if value == theirs else None
    return merged
