"""The stop at the entry."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

from exitfsm.policy.prices import Level, away, reached
from exitfsm.policy.rule import Conflict, Held, Rule
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import ExitType, plain

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy


class BreakEven(Section, frozen=True):
    """Move the stop to the entry once the profit has reached the activation."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    activation_pct: Annotated[Decimal, Spec("profit in percent at which the stop moves", gt=0, le=1000)] = Decimal(
        "1.0"
    )
    offset_pct: Annotated[Decimal, Spec("where the stop goes, in percent beyond the entry", ge=0, le=1000)] = Decimal(
        "0"
    )


class BreakEvenRule(Rule[BreakEven]):
    """A stop that moves once."""

    name = "break_even"
    section = BreakEven
    reason = ExitType.BREAK_EVEN

    def moved_stop(self, p: Held) -> Level | None:
        stop = p.stops.break_even
        return Level(stop, self.reason, p.policy.break_even.offset_pct) if stop is not None else None

    def next_stop(self, p: Held, best: Decimal) -> Decimal | None:
        settings, sign = p.policy.break_even, p.side.sign
        if p.stops.break_even is not None:
            return None
        if not reached(best, away(p.entry_price, settings.activation_pct, sign), sign):
            return None
        return away(p.entry_price, settings.offset_pct, sign)

    def next_stop_at(self, p: Held) -> Decimal | None:
        if p.stops.break_even is not None:
            return None
        return away(p.entry_price, p.policy.break_even.activation_pct, p.side.sign)

    def loosens(self, standing: Decimal, stop: Decimal, sign: int) -> bool:
        return True

    def begins_pct(self, p: Held) -> Decimal | None:
        return p.policy.break_even.activation_pct if p.stops.break_even is None else None

    def conflicts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        offset, activation = policy.break_even.offset_pct, policy.break_even.activation_pct
        if offset >= activation:
            text = f"{plain(offset)} is not allowed; must be less than activation_pct ({plain(activation)})"
            yield [(self.name, "offset_pct"), (self.name, "activation_pct")], text


RULE = BreakEvenRule()
