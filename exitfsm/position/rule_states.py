"""What rules fold of bars: kept beside the log, and folded anew where it is lost.

The states of a position are no events: a decision that rests on them records its own evidence. They are saved with the
marks, and what came since, or all where nothing was saved, is folded from bars again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec

from exitfsm.kinds import BarRefusal
from exitfsm.policy import NOTHING_FOLDED, Folded, bar_fault, is_jump
from exitfsm.position.state import Position
from exitfsm.values import ZERO, Bar


class RuleStates(NamedTuple):
    """The states of a position's rules, by the name of the rule, after the bar of `to`; None before the first.

    `base` are those before that bar, where they are known: a later look at it is folded into them.
    """

    to: datetime | None = None
    states: Folded = NOTHING_FOLDED
    base: Folded | None = None

    def before(self, at: datetime) -> Folded:
        """The states before the bar of a time, also where an earlier look at it was folded."""
        return self.base if self.base is not None and self.to == at else self.states


NO_STATES = RuleStates()


class _Saved(msgspec.Struct, frozen=True):
    to: datetime
    rules: dict[str, msgspec.Raw]


def fold_bar(p: Position, bar: Bar, known: RuleStates) -> RuleStates:
    """The states after a bar that was accepted; one from before the entry, or one before the newest, changes nothing.

    A later look at the newest bar, as a whole, takes the place of the look before it: a bar counts once.
    """
    if bar.timestamp <= p.opened_at or (known.to is not None and bar.timestamp < known.to):
        return known
    if bar.timestamp == known.to and known.base is None:
        return known  # what was before it is not known any more
    asked, states = p.policy.plan.folding, known.before(bar.timestamp)
    return RuleStates(bar.timestamp, {rule.name: rule.fold(states.get(rule.name), p, bar) for rule in asked}, states)


def fold_bars(p: Position, bars: Iterable[Bar], known: RuleStates = NO_STATES) -> Iterator[RuleStates]:
    """The states after each bar of the position's symbol that is accepted.

    Whether prices jumped by a split or by a crash, bars alone do not say: where they stay, the states begin anew.
    """
    previous_at: datetime | None = None
    reference, doubted, volume = None, None, ZERO
    for bar in bars:
        if bar.symbol != p.symbol:
            continue
        again = bar.timestamp == previous_at and bar.volume > volume  # a later look at it has all of the bar
        before = previous_at if not again else None
        fault = bar_fault(bar, p.policy.price_guard, reference=reference, previous_at=before)
        if fault is not None and fault.reason is BarRefusal.PRICE_JUMP:
            if doubted is None or is_jump(bar.close, doubted, p.policy.price_guard.max_jump_ratio):
                doubted = bar.close
                continue
            known, fault = NO_STATES, None
        if fault is None:
            reference, previous_at, doubted, volume = bar.close, bar.timestamp, None, bar.volume
            known = fold_bar(p, bar, known)
            yield known


def refolded(p: Position, bars: Iterable[Bar], known: RuleStates = NO_STATES) -> RuleStates:
    """The states after the last of the bars."""
    for states in fold_bars(p, bars, known):
        known = states
    return known


def saved(known: RuleStates) -> str:
    """States as text; empty where there are none."""
    if known.to is None:
        return ""
    return msgspec.json.encode({"to": known.to, "rules": dict(known.states)}).decode()


def restored(p: Position, text: str) -> RuleStates:
    """The states that a text says; none where it says none of a rule that is on, or cannot be read."""
    try:
        read = msgspec.json.decode(text, type=_Saved)
        kinds = {rule.name: rule.state for rule in p.policy.plan.folding}
        states = {name: msgspec.json.decode(read.rules[name], type=kind) for name, kind in kinds.items() if kind}
    except (msgspec.MsgspecError, KeyError):
        return NO_STATES
    return RuleStates(read.to, states)
