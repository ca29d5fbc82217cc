"""Positions in each state, as the tests of `decide` begin with them, and brokers of each kind."""

from __future__ import annotations

from decimal import Decimal

from exitfsm.messages import (
    Contradiction,
)
from exitfsm.ports import CAREFUL, AssetRules, Capabilities
from exitfsm.testing.given import (
    BROKER,
    after,
    given,
    holds,
    opened,
    policy,
    reported,
    timer,
    triggered,
)

LIMIT = policy(profit_taking={"order_type": "limit"})
monitoring = given(opened())
pending = given(opened(), triggered())
submitted = pending.when(reported("new"))
partial = submitted.when(reported("partially_filled", 4, 99))
resting = given(opened(policy=LIMIT), triggered(reason="profit_take", limit=102)).when(reported("new"))
canceling = resting.when(reported("partially_filled", 4, 102), timer(200))
expired = partial.when(reported("expired", 4))
second = expired.when(holds(6, at=200))
filled = partial.when(reported("filled", 10, 99), holds(0))
closed = monitoring.when(holds(0))
unprotected = submitted.when(Contradiction(at=after(90), why="it cannot be"))
BROKERS = (
    BROKER,
    CAREFUL,
    Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal(1), qty_min=Decimal(2))),
)
