"""The invariants hold for whatever `decide` decides, and each of them is broken by what it is there to find."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from given import ACCOUNT, BROKER, T0, bar, opened, policy, to_open

from exitfsm.audit.invariants import INVARIANTS, Invariants, Violation
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    Event,
    ExitCompleted,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
    PositionOpened,
    PositionResized,
    ProtectionLost,
    Recorded,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
)
from exitfsm.lifecycle import allows
from exitfsm.messages import (
    Acknowledge,
    BarSeen,
    ChangePolicy,
    Contradiction,
    ForceExit,
    Message,
    PositionRead,
    RaiseAlarm,
    Recover,
    Release,
    Report,
    TimeSeen,
)
from exitfsm.ports import CAREFUL, Capabilities
from exitfsm.position import Position, client_order_id, decide, evolve, position_id
from exitfsm.values import ExecutionReport, ExitType, OrderStatus, OrderType, Side, TimeInForce

POLICIES = (
    policy(),
    policy(trailing_stop={"activation_pct": "0.2", "trail_pct": "0.3", "step_pct": 0}, evaluate_on="range"),
    policy(break_even={"activation_pct": "0.3"}, time_limit={"max_seconds": 900}, profit_taking={"order_type": "limit"}),
    policy(atr_levels={"period": 3}, target_ladder={"steps": [{"after_seconds": 300, "threshold_pct": "0.5"}]}),
    policy(stop_loss=False, custom_rule={"name": "mine"}),
)


class Walk:
    """A position told at random whatever it can be told, with what was recorded of it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.broker = self.rng.choice((BROKER, CAREFUL, Capabilities(late_fills=False, late_fill_window_s=0)))
        self.at = T0
        self.price = Decimal(100)
        self.previous: datetime | None = None
        self.position: Position | None = None
        self.recorded: list[Recorded] = []

    def run(self, steps: int) -> list[Recorded]:
        side = self.rng.choice(list(Side))
        first = opened(side, policy=self.rng.choice(POLICIES), atr=self.rng.choice((None, "0.4")))
        self.tell(to_open(first))
        for _ in range(steps):
            self.at += timedelta(seconds=self.rng.choice((1, 10, 60, 60, 300)))
            assert self.position is not None
            self.tell(self.message(self.position))
        return self.recorded

    def tell(self, message: Message) -> None:
        for event in decide(self.position, message, self.broker):
            state = self.position.state if self.position is not None else None
            assert allows(state, type(event)), (state, event)
            stream = self.position.position_id if self.position else position_id(ACCOUNT, "AAPL", event.side, event.epoch)
            at_ns = round((message.at - T0).total_seconds() * 1e9)
            version = len(self.recorded) + 1
            r = Recorded(stream_id=stream, version=version, at_ns=at_ns, by=message.by, event=event, sequence=version)
            self.recorded.append(r)
            self.position = evolve(self.position, event)

    def message(self, p: Position) -> Message:
        makers = [self.bar] * 6 + [self.report] * 6 + [self.read] * 3 + [self.timer] * 2 + [self.operator]
        return self.rng.choice(makers)(p)

    def bar(self, p: Position) -> Message:
        rng = self.rng
        self.price = max(Decimal("0.5"), self.price + Decimal(rng.randint(-60, 60)) / 100)
        close = Decimal(rng.choice(("NaN", "0", "500"))) if rng.random() < 0.03 else self.price
        spread = Decimal(rng.randint(0, 50)) / 100
        seconds = (self.at - T0).total_seconds() - rng.choice((0, 0, 0, 0, 120))
        told = bar(close, seconds, high=close + spread, low=close - spread)
        message = BarSeen(
            at=self.at,
            bar=told,
            reference_price=self.price,
            previous_bar_at=self.previous,
            refused_count=rng.choice((0, 1, 20)),
            verdict="because" if p.policy.custom_rule.enabled and rng.random() < 0.2 else None,
            paused=rng.random() < 0.05,
        )
        if self.previous is None or told.timestamp > self.previous:
            self.previous = told.timestamp
        return message

    def report(self, p: Position) -> Message:
        rng = self.rng
        attempt = rng.randint(1, p.attempt) if p.attempt and rng.random() < 0.15 else p.attempt
        filled = Decimal(rng.randint(0, 12)) if rng.random() < 0.8 else None
        report = ExecutionReport(
            client_order_id=client_order_id(p.position_id, attempt),
            status=rng.choice(list(OrderStatus)),
            at=self.at,
            filled_qty=filled,
            avg_fill_price=Decimal(99) + Decimal(rng.randint(0, 9)) / 10 if filled and rng.random() < 0.9 else None,
            qty=rng.choice((None, None, p.order_qty)),
            refusal=rng.choice((None, "insufficient_qty", "not_tradable")),
            refused_at_submit=rng.random() < 0.3,
            corrected=rng.random() < 0.1,
        )
        return Report(at=self.at, report=report)

    def read(self, p: Position) -> Message:
        rng = self.rng
        qty = p.remaining_qty if rng.random() < 0.7 else Decimal(rng.randint(-1, 14))
        entry = rng.choice((None, p.entry_price, Decimal(101)))
        return PositionRead(at=self.at, qty=qty, avg_entry_price=entry, reads=rng.choice((1, 3)))

    def timer(self, p: Position) -> Message:
        return TimeSeen(at=self.at, patience_s=self.rng.choice((None, 60.0)), price=self.rng.choice((None, self.price)))

    def operator(self, p: Position) -> Message:
        rng = self.rng
        alarm = p.alarms[0].alarm_id if p.alarms else "none"
        order = ExecutionReport(
            client_order_id=client_order_id(p.position_id, p.attempt + 1), status=OrderStatus.NEW, at=self.at, qty=Decimal(5)
        )
        return rng.choice(
            (
                ForceExit(at=self.at, qty=rng.choice((None, Decimal(4)))),
                ChangePolicy(at=self.at, policy=rng.choice(POLICIES)),
                Release(at=self.at, qty=Decimal(7), entry_price=Decimal(100)),
                Acknowledge(at=self.at, alarm_id=alarm),
                RaiseAlarm(at=self.at, kind="feed_silent", text="nothing comes"),
                Contradiction(at=self.at, why="it does not fit"),
                Recover(at=self.at, attempt=p.attempt + 1, report=order),
            )
        )


def violations(recorded: Sequence[Recorded]) -> list[Violation]:
    checks, found, p = Invariants(), [], None
    for r in recorded:
        before, p = p, evolve(p, r.event)
        found += checks.check(before, r, p)
    return [*found, *checks.finish()]


@pytest.mark.parametrize("seed", range(8000))
def test_whatever_is_decided_keeps_them(seed: int) -> None:
    walk = Walk(seed)
    assert violations(walk.run(120)) == []
    assert len(walk.recorded) > 1
