"""The stop loss."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from exitfsm.policy.prices import Level, PriceSetting, level_at
from exitfsm.policy.rule import Conflict, Held, OrderTerms, Rule
from exitfsm.policy.rules.scaling import of_all, scaled
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import ExitType, OrderType, TimeInForce, plain

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy


class StopLoss(Section, frozen=True):
    """Stop the loss at a fixed percentage below the entry (above it for a short). The order is always market."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = True
    threshold_pct: Annotated[Decimal, Spec("loss in percent of the entry price at which to exit", gt=0, lt=100)] = (
        Decimal("1.0")
    )
    order_type: Annotated[
        Literal["market"],
        Spec(
            "only `market`: a stop that rests is no stop",
            why="a stop order is always market, because one that waits at a limit may never fill",
        ),
    ] = "market"
    time_in_force: Annotated[TimeInForce, Spec("how long the venue keeps the order")] = TimeInForce.DAY
    price: Annotated[
        PriceSetting,
        Spec("the price at which to exit, in place of the percentage; for the policy of one position", gt=0, lt=1e15),
    ] = msgspec.UNSET


class StopLossRule(Rule[StopLoss]):
    """A level below the entry. Its order is that of every exit but the profit target's."""

    name = "stop_loss"
    section = StopLoss
    reason = ExitType.STOP_LOSS
    noun = "stop"
    price_side = -1

    def entry_stop(self, p: Held) -> Level | None:
        settings = p.policy.stop_loss
        return level_at(p.entry_price, settings.price, settings.threshold_pct, -p.side.sign, self.reason)

    def orders(self, reason: ExitType) -> bool:
        return not reason.takes_profit

    def terms(self, policy: ExitPolicy) -> OrderTerms:
        return OrderTerms(OrderType.MARKET, policy.stop_loss.time_in_force)

    def doubts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        settings = policy.stop_loss
        if isinstance(settings.price, Decimal):
            yield [(self.name, "price")], of_all(settings.price)
        elif settings.enabled:
            yield from self.too_near("threshold_pct", settings.threshold_pct)
        if not policy.plan.aiming and not policy.plan.entry_stops and not policy.plan.stops:
            text = "no stop and no target are on: nothing ends a position at a loss"
            yield [(self.name, "enabled")], text

    def brief(self, policy: ExitPolicy) -> str:
        settings = policy.stop_loss
        if isinstance(settings.price, Decimal):
            return f"stop at {plain(settings.price)}"
        return f"stop {plain(settings.threshold_pct)} %"

    def alternatives(self, policy: ExitPolicy) -> list[dict[str, str]]:
        settings = policy.stop_loss
        name = f"{self.name}.threshold_pct"
        counts = settings.enabled and settings.price is msgspec.UNSET
        return [{name: scaled(settings.threshold_pct, by)} for by in ("0.5", "2")] if counts else []


RULE = StopLossRule()
