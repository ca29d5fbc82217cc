"""How settings differ, setting by setting, in words: `stop 1 % → 2 %`."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from exitfsm.policy.exit_policy import ExitPolicy
from exitfsm.policy.listed import RULES
from exitfsm.policy.settings import Section
from exitfsm.values import plain

#: Settings that have a name of their own: how far away a level is, and at which price it is.
_NAMES = {f"{rule.name}.threshold_pct": rule.noun for rule in RULES if rule.noun}
_NAMES |= {f"{rule.name}.price": f"{rule.noun} at" for rule in RULES if rule.price_side}


class Difference(NamedTuple):
    """A setting that differs, by its dotted name, and what it was and is."""

    name: str
    before: object
    after: object

    def __str__(self) -> str:
        unit = " %" if self.name.endswith("_pct") else ""
        return f"{_NAMES.get(self.name, self.name)} {_text(self.before)}{unit} → {_text(self.after)}{unit}"


def differences(before: msgspec.Struct, after: msgspec.Struct, prefix: str = "") -> Iterator[Difference]:
    """Each setting in which two policies, or two sections of one kind, differ, in their order."""
    for name in before.__struct_fields__:
        one, other = _setting(before, name), _setting(after, name)
        if one == other:
            continue
        if isinstance(one, Section) and isinstance(other, Section):
            yield from differences(one, other, f"{prefix}{name}.")
        else:
            yield Difference(prefix + name, one, other)


def _setting(of: msgspec.Struct, name: str) -> Any:
    return of.section(name) if isinstance(of, ExitPolicy) else getattr(of, name)


def _text(value: object) -> str:
    if value is msgspec.UNSET:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_text, value)) + ")"
    if isinstance(value, msgspec.Struct):
        return " ".join(_text(getattr(value, name)) for name in value.__struct_fields__)
    return str(value) or "none"
