"""What a few other policies would have made of a position: the card that begs the question on its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from exitfsm.audit import WhatIfPosition, whatif
from exitfsm.config import SessionHours
from exitfsm.errors import ConfigError
from exitfsm.policy import RULES, ExitPolicy
from exitfsm.position import replay
from exitfsm.recorded_bars import Seen
from exitfsm.store import ExitStore


class Supposed(NamedTuple):
    """A change of the policy in words, and how the position would have gone. The first has no change."""

    changes: str
    found: WhatIfPosition


def suppose(
    store: ExitStore, position_id: str, bars: Sequence[Seen], *, session: SessionHours | None = None
) -> list[Supposed]:
    """The position replayed with its own policy, and with each of its levels nearer and further.

    Args:
        store: where its log is.
        position_id: the position.
        bars: bars in order of arrival; those of other symbols are left alone.
        session: the market's hours, for `end_of_session`.

    Returns:
        The replays; none where the bars do not reach the entry, or the policy has a custom rule, unknown here.

    Raises:
        StoreError: there is no such position.
    """
    policy = replay(r.event for r in store.stream(position_id)).policy
    found: list[Supposed] = []
    for changes in [{}, *_changes(policy)]:
        try:
            ran = whatif(store, lambda: bars, changes, positions=[position_id], session=session).positions[0]
        except ConfigError:
            return []
        if not ran.entered:
            return []
        said = ", ".join(f"{name} {value}" for name, value in changes.items())
        found.append(Supposed(said or "the same policy", ran))
    return found


def _changes(policy: ExitPolicy) -> list[dict[str, str]]:
    """What each rule has to offer: mostly its level at half and at twice the distance."""
    return [changes for rule in RULES for changes in rule.alternatives(policy)]
