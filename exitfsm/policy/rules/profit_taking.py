"""The profit target."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import msgspec

from exitfsm.policy.prices import Level, PriceSetting, level_at
from exitfsm.policy.rule import Conflict, Held, OrderTerms, Rule
from exitfsm.policy.rules.scaling import of_all, scaled
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import ExitType, OrderType, TimeInForce, plain

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy


class ProfitTaking(Section, frozen=True):
    """Take the profit at a fixed percentage above the entry (below it for a short)."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = True
    threshold_pct: Annotated[Decimal, Spec("profit in percent of the entry price at which to exit", gt=0, le=1000)] = (
        Decimal("2.0")
    )
    order_type: Annotated[
        OrderType, Spec("`market`, or `limit` at the target (escalated to market when it does not fill)")
    ] = OrderType.MARKET
    time_in_force: Annotated[TimeInForce, Spec("how long the venue keeps the order")] = TimeInForce.DAY
    price: Annotated[
        PriceSetting,
        Spec("the price at which to exit, in place of the percentage; for the policy of one position", gt=0, lt=1e15),
    ] = msgspec.UNSET


class ProfitTakingRule(Rule[ProfitTaking]):
    """A level above the entry."""

    name = "profit_taking"
    section = ProfitTaking
    reason = ExitType.PROFIT_TAKE
    noun = "target"
    price_side = 1

    def target(self, p: Held, at: datetime) -> Level | None:
        settings = p.policy.profit_taking
        return level_at(p.entry_price, settings.price, settings.threshold_pct, p.side.sign, self.reason)

    def orders(self, reason: ExitType) -> bool:
        return reason.takes_profit

    def terms(self, policy: ExitPolicy) -> OrderTerms:
        settings = policy.profit_taking
        return OrderTerms(settings.order_type, settings.time_in_force)

    def doubts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        profit, stop = policy.profit_taking, policy.stop_loss
        if isinstance(profit.price, Decimal):
            yield [(self.name, "price")], of_all(profit.price)
            return
        counts = self in policy.plan.aiming and stop.price is msgspec.UNSET
        if counts and stop.enabled and profit.threshold_pct <= stop.threshold_pct:
            figures = (
                f"{plain(profit.threshold_pct)} is not above stop_loss.threshold_pct ({plain(stop.threshold_pct)})"
            )
            yield [(self.name, "threshold_pct")], f"{figures}: a win would gain no more than a loss costs"
        if counts:
            yield from self.too_near("threshold_pct", profit.threshold_pct)

    def brief(self, policy: ExitPolicy) -> str:
        settings = policy.profit_taking
        if isinstance(settings.price, Decimal):
            return f"target at {plain(settings.price)}"
        return f"target {plain(settings.threshold_pct)} %"

    def alternatives(self, policy: ExitPolicy) -> list[dict[str, str]]:
        settings = policy.profit_taking
        name = f"{self.name}.threshold_pct"
        counts = settings.enabled and settings.price is msgspec.UNSET
        return [{name: scaled(settings.threshold_pct, by)} for by in ("0.5", "2")] if counts else []


RULE = ProfitTakingRule()
