"""Where the stories of what is decided begin, and what is told in several of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from exitfsm.messages import (
    Contradiction,
    ForceExit,
    Recover,
)
from exitfsm.ports import AssetRules, Capabilities
from exitfsm.testing.given import (
    Scenario,
    Told,
    after,
    given,
    holds,
    opened,
    order_id,
    policy,
    reported,
    timer,
    triggered,
)
from exitfsm.values import ExecutionReport, OrderStatus

#: Name, where it starts, and what is told. Each is told at the broker of its start.
Story = tuple[str, Scenario, list[Told]]
D = Decimal
NEVER_LATE = Capabilities(late_fills=False)
STEPS = Capabilities(late_fills=False, stocks=AssetRules(qty_step=D("0.1"), qty_min=D("0.5"), price_tick=D("0.05")))
LIMIT = policy(profit_taking={"order_type": "limit", "time_in_force": "gtc"}, stop_loss={"time_in_force": "day"})
TIMED = policy(time_limit={"max_seconds": 600}, end_of_session={"minutes_before_close": 5})
TRAIL = policy(trailing_stop={"activation_pct": 1, "trail_pct": 1}, break_even={"activation_pct": 1, "offset_pct": 0})

nothing = given()
monitored = given(opened())
pending = given(opened(), triggered())
submitted = pending.when(reported("new", broker_order_id="b1"))
partial = submitted.when(reported("partially_filled", 4, "98.5"))
resting = given(opened(policy=LIMIT), triggered(reason="profit_take", limit=102)).when(reported("new"))
canceling = resting.when(reported("partially_filled", 4, 102), timer(200))
expired = partial.when(reported("expired", 4, at=70))
second = expired.when(holds(6, at=200), reported("new", attempt=2, at=201))
filled = partial.when(reported("filled", 10, 99), holds(0))
unprotected = submitted.when(Contradiction(at=after(90), why="it cannot be"))
loose = unprotected.when(reported("canceled", 0, at=91))


def recovered(
    attempt: int, qty: int | str, status: str = "new", filled: int = 0, at: int = 50, **fields: Any
) -> Recover:
    """Our order is found at the broker."""
    report = ExecutionReport(
        client_order_id=order_id(attempt), status=OrderStatus(status), at=after(40), qty=D(qty), filled_qty=D(filled),
        **fields,
    )  # fmt: skip
    return Recover(at=after(at), attempt=attempt, report=report)


def asked(who: str = "jo", **fields: Any) -> ForceExit:
    """An operator wants out."""
    return ForceExit(at=after(100), who=who, reason="news", **fields)
