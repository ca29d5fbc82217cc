"""The broker's time is evidence, not a clock: whatever it says, no end and no cooldown lies outside of what can be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from exitfsm.events import AlarmRaised, FillsRecorded
from exitfsm.messages import PositionRead, Recover, Report
from exitfsm.position import Position, decide, fold
from exitfsm.testing.given import after, given, holds, opened, reported, seen, timer, triggered
from exitfsm.values import ExecutionReport, ExitType, OrderStatus

pending = given(opened(), triggered())
DECIDED, NOW = after(60), after(70)
BROKER_TIMES = st.datetimes(timezones=st.just(UTC))


def filled(p: Position, at: datetime) -> Report:
    report = ExecutionReport(
        client_order_id=p.client_order_id or "",
        status=OrderStatus.FILLED,
        at=at,
        filled_qty=Decimal(10),
        avg_fill_price=Decimal(99),
    )
    return Report(at=NOW, report=report)


def flat(at: datetime) -> PositionRead:
    return PositionRead(at=at, began=at, qty=Decimal(0), reads=3)


def told(p: Position, message: Report | PositionRead) -> Position:
    after_it = fold(p, decide(p, message))
    assert after_it is not None
    return after_it


@drawn(BROKER_TIMES)
def test_given_any_date_of_a_fill_then_end_and_cooldown_are_held_within_what_can_be(at: datetime) -> None:
    p = told(pending.position, filled(pending.position, at))
    ended = told(p, flat(NOW))
    assert ended.ended_at is not None
    assert DECIDED <= ended.ended_at <= NOW
    assert ended.cooldown_until == ended.ended_at + timedelta(seconds=300)
    assert ended.ended_at == min(max(at, DECIDED), NOW)
    apart = max(DECIDED - at, at - NOW) > timedelta(seconds=60)
    assert [a.kind for a in ended.alarms] == (["broker_time"] if apart else [])


@pytest.mark.parametrize(
    "at", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), after(365 * 86400)]
)
def test_given_an_impossible_date_then_the_broker_s_own_is_kept_in_the_alarm(at: datetime) -> None:
    events = decide(pending.position, filled(pending.position, at))
    alarm = next(e for e in events if isinstance(e, AlarmRaised))
    assert at.isoformat().replace("+00:00", "Z") in alarm.text
    fills = next(e for e in events if isinstance(e, FillsRecorded))
    assert DECIDED <= fills.at <= NOW


def test_given_a_clock_that_is_a_year_ahead_then_a_wait_is_as_long_as_it_should_be() -> None:
    resting = given(opened(), triggered(reason="profit_take", limit=102)).when(reported("new"))
    ahead = given(opened(), triggered(reason="profit_take", limit=102))
    p = ahead.position
    accepted = ExecutionReport(client_order_id=p.client_order_id or "", status=OrderStatus.NEW, at=after(365 * 86400))
    p = told(p, Report(at=after(61), report=accepted))
    assert p.waiting_since == resting.position.waiting_since
    assert decide(p, timer(120))  # given up for a market order, as it has no progress


def test_given_an_exit_found_at_the_broker_then_its_fill_may_lie_before_it_was_found() -> None:
    watched = given(opened()).position
    report = ExecutionReport(
        client_order_id=pending.position.client_order_id or "",
        status=OrderStatus.FILLED,
        at=after(30),
        qty=Decimal(10),
        filled_qty=Decimal(10),
        avg_fill_price=Decimal(99),
    )
    p = fold(watched, decide(watched, Recover(at=after(200), attempt=1, report=report)))
    assert p is not None
    assert p.reason is ExitType.RECOVERED
    ended = told(p, flat(after(200)))
    assert ended.ended_at == after(30)
    assert not ended.alarms


def test_given_a_record_of_an_older_version_with_a_wrong_date_then_the_end_is_held_all_the_same() -> None:
    odd = pending.when(seen(98)).position
    fills = FillsRecorded(
        client_order_id=odd.client_order_id or "",
        filled_qty=Decimal(10),
        avg_fill_price=Decimal(99),
        at=datetime(2000, 1, 1, tzinfo=UTC),
    )
    p = fold(odd, [fills])
    assert p is not None
    ended = told(p, holds(0, at=90)(p))
    assert ended.ended_at == DECIDED
