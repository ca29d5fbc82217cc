"""What is remembered between two looks at the broker: sends, whose orders work, tries to adopt, and what is due."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from harness import T0
from msgspec.structs import replace

from exitfsm.clocks import SteadyTime
from exitfsm.holdings import Tries
from exitfsm.manager import ManualClock
from exitfsm.memory.intervals import Due, Polls, Silence, Spaced
from exitfsm.memory.orders import Orders
from exitfsm.memory.sends import Sends
from exitfsm.memory.shown import Missing
from exitfsm.position import READS_MIN
from exitfsm.testing.given import given, opened, triggered
from exitfsm.values import BrokerPosition, ExecutionReport, OrderStatus, Side


def report(client_order_id: str, status: OrderStatus = OrderStatus.NEW) -> ExecutionReport:
    return ExecutionReport(client_order_id=client_order_id, status=status, at=T0, symbol="AAPL")


def orders(owners: dict[str, str] | None = None) -> Orders:
    """Nothing is watched; nothing leaves before the first list, or second 10."""
    engine: Any = SimpleNamespace(
        positions={}, known_owner=({} if owners is None else owners).get, levels=SimpleNamespace(slots={})
    )
    return Orders(engine, listed_by=10.0)


def test_given_an_order_that_is_being_sent_then_what_was_asked_before_it_came_back_says_nothing_of_it() -> None:
    clock = ManualClock(T0)
    sends = Sends(SteadyTime(clock))
    asked = clock.monotonic()
    with sends.sending("x"):
        clock.move(1)
        assert sends.since("x", clock.monotonic())
        clock.move(1)
    assert sends.since("x", asked)
    assert not sends.since("x", clock.monotonic())
    assert not sends.since("another", asked)


def test_given_a_send_that_fails_then_it_is_under_way_no_more_and_counts_as_sent() -> None:
    clock = ManualClock(T0)
    clock.move(1)
    sends = Sends(SteadyTime(clock))
    with pytest.raises(RuntimeError), sends.sending("x"):
        raise RuntimeError
    assert sends.under_way == set()
    assert sends.since("x", 0.5)


def test_given_an_order_that_was_not_found_when_it_is_found_then_no_earlier_copy_of_it_is_feared() -> None:
    sends = Sends(SteadyTime(ManualClock(T0)))
    assert (sends.not_found("x"), sends.not_found("x")) == (1, 2)
    assert sends.may_have_left("x")
    sends.found("x")
    assert not sends.may_have_left("x")


def test_an_order_has_lapsed_once_the_broker_does_not_know_it_when_it_can_arrive_no_more() -> None:
    """It may have come after the look-up that did not find it, and look-ups that fail since then say nothing."""
    clock, p = ManualClock(T0), given(opened(), triggered()).now
    name = p.client_order_id or ""
    sends = Sends(SteadyTime(clock), 105)
    sends.unclear(name)
    clock.move(10)
    sends.not_found(name)
    clock.move(200)
    assert not sends.has_lapsed(p, lambda _: True, {name})
    assert sends.has_lapsed(p, lambda _: False, {name})  # nobody can ask: the time alone says so
    sends.not_found(name)
    assert sends.has_lapsed(p, lambda _: True, {name})
    assert not sends.has_lapsed(p, lambda _: True, {"another"})


def test_given_no_list_of_working_orders_yet_then_exits_are_held_back_for_a_while() -> None:
    known = orders()
    assert known.hold_back("AAPL", 9.9)
    assert not known.hold_back("AAPL", 10.0)
    known.not_listed()
    assert known.hold_back("AAPL", 0.0), "a list that failed is no list"
    known.wait_for_no_list()
    assert not known.hold_back("AAPL", 0.0)


def test_given_an_orphan_order_that_works_then_exits_of_its_symbol_are_held_back_until_it_has_an_owner() -> None:
    owners: dict[str, str] = {}
    known = orders(owners)
    known.listed([report("xf1-a-01")], {"xf1-a-01": "BTCUSD"})
    assert known.hold_back("BTC/USD", 0.0)
    assert not known.hold_back("AAPL", 0.0)
    owners["xf1-a-01"] = "a position"
    assert not known.hold_back("BTC/USD", 0.0)


def test_given_an_order_of_others_that_has_ended_then_an_older_report_does_not_revive_it() -> None:
    known = orders()
    known.note_foreign(report("bot-1"), 1.0)
    assert "bot-1" in known.foreign["AAPL"]
    known.note_foreign(report("bot-1", OrderStatus.CANCELED), 2.0)
    known.note_foreign(report("bot-1"), 3.0)
    assert known.foreign["AAPL"] == {}


def test_given_a_list_of_working_orders_when_it_is_noted_then_what_came_up_since_it_began_stays() -> None:
    known = orders()
    known.note_foreign(report("before"), 1.0)
    known.note_foreign(report("since"), 3.0)
    known.forget_foreign(before=2.0)
    assert list(known.foreign["AAPL"]) == ["since"]


def test_given_work_that_comes_again_when_it_fails_then_it_is_due_soon_and_the_first_failure_counts() -> None:
    clock = ManualClock(T0)
    due = Due(clock.monotonic, every_s=60, soon_s=1)
    assert due.has_come(clock.monotonic())
    assert not due.has_come(clock.monotonic())
    due.again(soon=True)
    assert due.failed() == 0
    clock.move(1)
    assert due.has_come(clock.monotonic())
    assert due.failed() == 1
    due.worked()
    assert due.failed() == 0
    due.hurry()
    assert due.has_come(clock.monotonic())


def test_given_an_order_that_works_then_it_is_polled_in_its_time_and_one_that_ended_begins_anew() -> None:
    polls = Polls(every_s=5)
    assert polls.due(["a"], 0) == []
    assert polls.due(["a", "b"], 5) == ["a"]
    assert polls.due(["a", "b"], 9) == []
    assert polls.due(["b", "a"], 10) == ["b", "a"]
    assert polls.due([], 11) == []
    assert polls.due(["a"], 20) == []


def test_given_no_new_bar_then_the_silence_grows_and_it_begins_anew_with_each() -> None:
    silence = Silence()
    assert silence.since("AAPL", None, 5) == 0
    assert silence.since("AAPL", None, 9) == 4
    assert silence.since("MSFT", T0, 9) == 0
    assert silence.since("AAPL", T0, 10) == 0
    assert silence.since("AAPL", T0, 12) == 2


def test_given_work_that_is_called_for_often_then_it_is_done_once_in_its_time() -> None:
    marks = Spaced(every_s=1)
    assert not marks.has_come(10)
    marks.want()
    assert marks.has_come(10)
    marks.want()
    assert not marks.has_come(10.5)
    assert marks.has_come(11)
    assert not marks.has_come(12)


def test_given_a_position_that_could_not_be_adopted_then_its_tries_count_until_it_is_found() -> None:
    row = BrokerPosition(symbol="BTC/USD", side=Side.LONG, qty=Decimal(3), avg_entry_price=Decimal(9))
    missing = Missing()
    assert not missing.are_impatient()
    assert missing.tries(row) is None
    missing.keep(row, Tries(row.qty))
    missing.keep(row, None)
    assert missing.are_impatient()
    tried = [missing.tried(replace(row, symbol="BTCUSD")) for _ in range(READS_MIN)]
    assert tried[-1] == missing.tries(row) == Tries(row.qty, READS_MIN, READS_MIN)
    assert not missing.are_impatient()
    missing.keep_only([row])
    assert missing.tries(row) is not None
    missing.found(row)
    assert missing.tries(row) is None
    missing.tried(row)
    missing.keep_only([])
    assert missing.tries(row) is None
