"""The invariants hold for whatever `decide` decides, and each of them is broken by what it is there to find."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from exitfsm.audit.invariants import INVARIANTS, Invariants, Violation
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    Event,
    ExitCompleted,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    LegCompleted,
    LegWidened,
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
    RecordRead,
    Recover,
    Release,
    Report,
    TimeSeen,
)
from exitfsm.ports import CAREFUL, Capabilities
from exitfsm.position import Position, client_order_id, decide, evolve, position_id
from exitfsm.testing.given import ACCOUNT, BROKER, T0, bar, opened, policy, reported, to_open
from exitfsm.values import ExecutionReport, ExitType, OrderStatus, OrderType, Side, TimeInForce

POLICIES = (
    policy(),
    policy(trailing_stop={"activation_pct": "0.2", "trail_pct": "0.3", "step_pct": 0}, evaluate_on="range"),
    policy(
        break_even={"activation_pct": "0.3"}, time_limit={"max_seconds": 900}, profit_taking={"order_type": "limit"}
    ),
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
            stream = (
                self.position.position_id if self.position else position_id(ACCOUNT, "AAPL", event.side, event.epoch)
            )
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
            client_order_id=client_order_id(p.position_id, attempt, p.id_form),
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
        ended = reported("canceled", p.filled_qty)(p).report if rng.random() < 0.5 else None
        record = RecordRead(client_order_id=p.client_order_id or "", began=self.at, report=ended)
        reads = rng.choice((1, 3))
        return PositionRead(at=self.at, began=self.at, qty=qty, avg_entry_price=entry, reads=reads, record=record)

    def timer(self, p: Position) -> Message:
        return TimeSeen(at=self.at, patience_s=self.rng.choice((None, 60.0)), price=self.rng.choice((None, self.price)))

    def operator(self, p: Position) -> Message:
        rng = self.rng
        alarm = p.alarms[0].alarm_id if p.alarms else "none"
        order = ExecutionReport(
            client_order_id=client_order_id(p.position_id, p.attempt + 1, p.id_form),
            status=OrderStatus.NEW,
            at=self.at,
            qty=Decimal(5),
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


@pytest.mark.parametrize("seed", range(150))
def test_whatever_is_decided_keeps_them(seed: int) -> None:
    walk = Walk(seed)
    assert violations(walk.run(120)) == []
    assert len(walk.recorded) > 1


# --- each is broken by what it is there to find -----------------------------------------------------------------------

ID = position_id(ACCOUNT, "AAPL", Side.LONG, "20240102T143000Z")
FIRST, SECOND, THIRD = (client_order_id(ID, number, "xf1") for number in (1, 2, 3))
COOLED = T0 + timedelta(seconds=61 + 300)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def trigger(**changes: Any) -> ExitTriggered:
    fields: dict[str, Any] = {
        "reason": ExitType.STOP_LOSS,
        "client_order_id": FIRST,
        "attempt": 1,
        "qty": Decimal(10),
        "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "at": at(60),
        "trigger_price": Decimal("98.9"),
        "level": Decimal(99),
        "threshold_pct": Decimal("1.0"),
        "bar_at": at(60),
    }
    return ExitTriggered(**fields | changes)


def accept(attempt: int = 1) -> OrderAccepted:
    return OrderAccepted(client_order_id=client_order_id(ID, attempt, "xf1"), broker_order_id="b", at=at(60))


def fills(qty: int, price: str | None = "98.8", attempt: int = 1, **changes: Any) -> FillsRecorded:
    fields = {"client_order_id": client_order_id(ID, attempt, "xf1"), "filled_qty": Decimal(qty), "at": at(61)}
    return FillsRecorded(**fields | {"avg_fill_price": Decimal(price) if price else None} | changes)


def end(how: str = "rejected", filled: int = 0, refusal: str = "x", **changes: Any) -> OrderEnded:
    fields = {"client_order_id": FIRST, "how": how, "filled_qty": Decimal(filled), "at": at(61)}
    return OrderEnded(**fields | {"next_attempt_at": at(91), "refusal": refusal} | changes)


def retry(attempt: int = 2, qty: int = 10, spent: int = 1, **changes: Any) -> ExitRetried:
    fields: dict[str, Any] = {
        "client_order_id": client_order_id(ID, attempt, "xf1"),
        "attempt": attempt,
        "qty": Decimal(qty),
        "order_type": OrderType.MARKET,
        "time_in_force": TimeInForce.DAY,
        "at": at(91),
        "budget_spent": spent,
    }
    return ExitRetried(**fields | changes)


def complete(**changes: Any) -> ExitCompleted:
    fields = {"filled_qty": Decimal(10), "avg_fill_price": Decimal("98.8"), "filled_at": at(61), "at": at(61)}
    return ExitCompleted(**fields | {"cooldown_until": COOLED} | changes)


def part_completed(**changes: Any) -> LegCompleted:
    fields = {"client_order_id": FIRST, "leg": "1", "filled_qty": Decimal(4), "remaining_qty": Decimal(6), "at": at(62)}
    return LegCompleted(**fields | {"avg_fill_price": Decimal("98.8")} | changes)


def moved(stop: str, best: str, rule: ExitType = ExitType.TRAILING_STOP) -> StopMoved:
    return StopMoved(rule=rule, stop=Decimal(stop), best_price=Decimal(best), bar_at=at(30))


TRAIL = opened(
    policy=policy(trailing_stop={"activation_pct": "0.5", "trail_pct": "1"}, break_even={"activation_pct": 1})
)
ALARM = AlarmRaised(alarm_id="a", kind="k", text="t", at=at(61))
TO_FILLED = (trigger(), accept(), fills(10))


def broken(*events: Event, first: PositionOpened | None = None, by: str = "") -> set[str]:
    told = [first or opened(), *events]
    tellers = {PositionOpened: "bot", ExitTriggered: "bar", StopMoved: "bar"}
    recorded = [
        Recorded(
            stream_id=ID,
            version=version,
            at_ns=version,
            by=by or tellers.get(type(e), "broker"),
            event=e,
            sequence=version,
        )
        for version, e in enumerate(told, 1)
    ]
    return {violation.invariant for violation in violations(recorded)}


def test_the_plain_way_breaks_nothing() -> None:
    assert broken(*TO_FILLED, complete()) == set()
    assert broken(trigger(), end(), retry(), accept(2), fills(10, attempt=2), complete()) == set()
    assert broken(moved("99.495", "100.5"), first=TRAIL) == set()


FORGED: list[tuple[str, tuple[Event, ...], dict[str, Any]]] = [
    ("I1", (trigger(qty=Decimal(11)),), {}),
    ("I1", (trigger(), accept(), fills(11)), {}),
    ("I1", (trigger(), end(filled=4), retry(qty=10)), {}),
    ("I2", (trigger(), accept(), fills(6), fills(5)), {}),
    ("I2", (trigger(), accept(), fills(6), fills(6)), {}),
    ("I2", (trigger(), accept(), fills(6), end(filled=5)), {}),
    ("I3", (trigger(client_order_id="mine"),), {}),
    ("I3", (trigger(attempt=2, client_order_id=SECOND),), {}),
    ("I3", (trigger(), accept(2)), {}),
    ("I3", (trigger(), accept(), fills(3, attempt=7)), {}),
    ("I3", (), {"first": opened(epoch="another")}),
    ("I4", (trigger(), accept(), retry()), {}),
    ("I4", (trigger(), end(), retry(at=at(90))), {}),
    ("I4", (trigger(), end(next_attempt_at=None), retry()), {}),
    ("I5", (trigger(), accept(), fills(10)), {"by": "bar"}),
    ("I5", (trigger(), end("timed out")), {}),
    ("I5", (trigger(), end()), {"by": "timer"}),
    ("I6", (trigger(level=Decimal("99.5")),), {}),
    ("I6", (trigger(trigger_price=Decimal("99.1")),), {}),
    ("I6", (trigger(threshold_pct=Decimal(2)),), {}),
    ("I6", (trigger(bar_at=T0, at=T0),), {}),
    ("I6", (TriggerRefused(reason="price_jump", bar_at=at(1), price="9"), trigger()), {}),
    ("I6", (trigger(),), {"first": opened(policy=msgspec.structs.replace(policy(), enabled=False))}),
    ("I8", (trigger(), accept(), fills(4), complete()), {}),
    ("I9", (ProtectionLost(why="w", at=at(1)),), {}),
    ("I9", (trigger(), ProtectionLost(why="w", at=at(61)), fills(1), retry(by="ann")), {}),
    ("I9", (AlarmAcknowledged(alarm_id="none", by="ann", at=at(1)),), {}),
    ("I9", (ALARM, ALARM), {}),
    ("I10", (trigger(), accept(), fills(4), complete()), {}),
    ("I11", (trigger(), end(), retry(spent=3)), {}),
    (
        "I11",
        (trigger(), end(), retry(spent=0), end(client_order_id=SECOND), retry(3, spent=0)),
        {},
    ),
    ("I11", (trigger(), end(), retry(), end(client_order_id=SECOND)), {}),
    ("I11", (trigger(), end(), retry()), {"first": opened(policy=policy(partial_fills={"max_resubmit_attempts": 0}))}),
    ("I13", (trigger(qty=Decimal(0)),), {}),
    ("I13", (trigger(), accept(), fills(-1)), {}),
    ("I13", (trigger(trigger_price=Decimal("NaN"), reason=ExitType.CUSTOM, bar_at=None),), {}),
    ("I13", (trigger(order_type=OrderType.LIMIT),), {}),
    ("I15", (moved("99.6", "100.5"),), {"first": TRAIL}),
    ("I15", (moved("99.099", "100.1"),), {"first": TRAIL}),
    ("I15", (moved("100.485", "101.5"), moved("99.99", "101")), {"first": TRAIL}),
    ("I15", (moved("100", "101", ExitType.BREAK_EVEN), moved("100", "102", ExitType.BREAK_EVEN)), {"first": TRAIL}),
    ("I15", (moved("99", "101", ExitType.STOP_LOSS),), {"first": TRAIL}),
    ("I18", (trigger(), accept(), fills(4), complete()), {}),
    ("I19", (*TO_FILLED, complete(cooldown_until=at(0))), {}),
    ("I19", (*TO_FILLED, complete(avg_fill_price=Decimal(99))), {}),
    ("I19", (*TO_FILLED, complete(filled_at=at(70), cooldown_until=at(370))), {}),
    ("I19", (RefusalEnded(reason="stale", count=1, bar_at=at(1)),), {}),
    ("I19", (PositionResized(qty=Decimal(10), entry_price=Decimal(100), at=at(1)),), {}),
    (
        "I19",
        (PositionClosedElsewhere(how="by_hand", remaining_qty=Decimal(3), at=at(0), cooldown_until=at(300)),),
        {},
    ),
    ("I26", (trigger(), accept(), fills(4), part_completed()), {}),
    ("I26", (trigger(), LegWidened(reason=ExitType.STOP_LOSS, at=at(61))), {}),
    (
        "I20",
        (trigger(reason=ExitType.CUSTOM, level=Decimal("98.9"), threshold_pct=Decimal(0)),),
        {},
    ),
    (
        "I20",
        (
            trigger(
                reason=ExitType.PROFIT_TAKE,
                trigger_price=Decimal(103),
                level=Decimal(102),
                threshold_pct=Decimal("2.0"),
            ),
        ),
        {"first": opened(policy=policy(time_limit={"max_seconds": 60}))},
    ),
]


@pytest.mark.parametrize(("invariant", "events", "options"), FORGED)
def test_a_forged_log_breaks_it(invariant: str, events: tuple[Event, ...], options: dict[str, Any]) -> None:
    assert invariant in broken(*events, **options)


def test_an_exit_by_a_later_look_at_the_bar_of_the_entry_breaks_nothing() -> None:
    assert broken(trigger(bar_at=T0, at=at(1))) == set()


def test_each_invariant_has_a_forged_log() -> None:
    assert {invariant for invariant, _, _ in FORGED} == set(INVARIANTS)


def test_a_recovered_order_may_be_of_any_attempt() -> None:
    found = trigger(
        reason=ExitType.RECOVERED,
        attempt=3,
        client_order_id=THIRD,
        bar_at=None,
        level=Decimal(100),
    )
    assert broken(found) == set()
