"""The trailing stop."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING, Annotated

from exitfsm.policy.prices import Level, away, reached
from exitfsm.policy.rule import Conflict, Held, Rule
from exitfsm.policy.rules.scaling import scaled
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import EXACT, HUNDRED, ExitType, plain

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy


class TrailingStop(Section, frozen=True):
    """A stop that follows the best price at a distance, once the profit has reached the activation."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    activation_pct: Annotated[
        Decimal, Spec("profit in percent of the entry price at which it starts", ge=0, le=1000)
    ] = Decimal("1.0")
    trail_pct: Annotated[Decimal, Spec("distance from the best price, in percent of that price", gt=0, lt=100)] = (
        Decimal("1.0")
    )
    step_pct: Annotated[
        Decimal, Spec("smallest move of the stop worth recording, in percent of the stop; 0 records each", ge=0, lt=100)
    ] = Decimal("0.1")


class TrailingStopRule(Rule[TrailingStop]):
    """A stop that moves with the best price and never loosens."""

    name = "trailing_stop"
    section = TrailingStop
    reason = ExitType.TRAILING_STOP

    def moved_stop(self, p: Held) -> Level | None:
        stop = p.stops.trail
        return Level(stop, self.reason, p.policy.trailing_stop.trail_pct) if stop is not None else None

    def next_stop(self, p: Held, best: Decimal) -> Decimal | None:
        settings, sign = p.policy.trailing_stop, p.side.sign
        stop, standing = away(best, settings.trail_pct, -sign), p.stops.trail
        if standing is None:
            return stop if reached(best, away(p.entry_price, settings.activation_pct, sign), sign) else None
        least = away(standing, settings.step_pct, sign)
        return stop if stop != standing and reached(stop, least, sign) else None

    def next_stop_at(self, p: Held) -> Decimal | None:
        settings, sign, standing = p.policy.trailing_stop, p.side.sign, p.stops.trail
        if standing is None:
            return away(p.entry_price, settings.activation_pct, sign)
        least = away(standing, settings.step_pct, sign).scaleb(2, EXACT)
        # The one division: rounded toward the entry, so that it wakes early rather than late.
        rounding = Context(prec=28, rounding=ROUND_FLOOR if sign > 0 else ROUND_CEILING)
        return rounding.divide(least, away(HUNDRED, settings.trail_pct, -sign))

    def doubts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        settings, plan = policy.trailing_stop, policy.plan
        if not settings.enabled:
            return
        yield from self.too_near("trail_pct", settings.trail_pct)
        if settings.activation_pct > 0 and not plan.entry_stops and not plan.stops:
            begins = plain(settings.activation_pct)
            text = f"no other stop is on: before a profit of {begins} % nothing ends a position at a loss"
            yield [(self.name, "activation_pct")], text

    def begins_pct(self, p: Held) -> Decimal | None:
        return p.policy.trailing_stop.activation_pct if p.stops.trail is None else None

    def alternatives(self, policy: ExitPolicy) -> list[dict[str, str]]:
        settings = policy.trailing_stop
        name = f"{self.name}.trail_pct"
        found = [{name: scaled(settings.trail_pct, by)} for by in ("0.5", "2")] if settings.enabled else []
        return [*found, {f"{self.name}.enabled": "false" if settings.enabled else "true"}]


RULE = TrailingStopRule()
