"""What is said of orders: whose they are, what they filled, whether they still work, what an operator's word makes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import BROKER, T0, at, changed, ended, exiting, fill, held, mirrored, report
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.holdings import LookUps
from exitfsm.lifecycle import State
from exitfsm.messages import RecordRead
from exitfsm.order_ids import client_order_id
from exitfsm.ports import CAREFUL
from exitfsm.values import ExecutionReport, Fill, OrderSide

NAMELESS = report("filled", 4, client_order_id="B7", broker_order_id="B7")
BOT = report("partially_filled", 4, client_order_id="bot-1", side=OrderSide.BUY, avg_fill_price=Decimal(99))


def test_given_an_update_by_the_brokers_id_alone_then_it_may_be_an_exit_whose_id_is_not_known_yet() -> None:
    waiting = exiting(broker_order_id=None)
    assert holdings.may_be_ours([held(), waiting], NAMELESS)
    assert not holdings.may_be_ours([exiting()], NAMELESS)
    assert not holdings.may_be_ours([replace(waiting, symbol="MSFT")], NAMELESS)
    assert not holdings.may_be_ours([waiting], replace(NAMELESS, symbol=None))
    assert not holdings.may_be_ours([waiting], BOT)


OURS, NEXT = client_order_id("P", 1), client_order_id("P", 2, "xf1")  # whatever form it has


@pytest.mark.parametrize(
    ("named", "before", "ours"),
    [
        (OURS, None, OURS),
        (OURS, "bot-1", OURS),
        ("cancel-7", OURS, OURS),  # its own id beside ours
        ("replace-8", None, NEXT),  # known from before
        ("cancel-9", "replace-8", NEXT),
        ("bot-1", None, None),
        ("bot-2", "bot-1", None),
    ],
)
def test_an_order_is_ours_under_whatever_id_a_request_about_it_has(named: str, before: Any, ours: str | None) -> None:
    said = report("new", client_order_id=named, orig_client_order_id=before)
    assert holdings.our_id(said, {"replace-8": NEXT}) == ours


@pytest.mark.parametrize(
    ("changes", "precedes"),
    [
        ({}, True),
        ({"at": at(31)}, False),
        ({"qty": Decimal(6)}, False),
        ({"qty": None}, False),
        ({"qty": Decimal("NaN")}, False),
        ({"corrected": True}, False),
        ({"client_order_id": "xf1-2"}, False),
    ],
)
def test_a_report_from_before_our_order_was_changed_names_the_quantity_of_then(changes: Any, precedes: bool) -> None:
    p = exiting(order_qty=Decimal(6), restated=True, waiting_since=at(30))
    older = report("new", 0, qty=Decimal(10), at=at(29))
    assert holdings.precedes_a_change(p, replace(older, **changes)) is precedes
    assert not holdings.precedes_a_change(changed(p, restated=False), older)
    assert not holdings.precedes_a_change(replace(p, waiting_since=None), older)


def test_a_report_brings_fills_where_it_says_so() -> None:
    assert holdings.brings_fills(BOT)
    assert holdings.brings_fills(report("filled"))
    assert not holdings.brings_fills(report("canceled", 0))
    assert not holdings.brings_fills(report("new"))


# --- executions of others, by updates ---------------------------------------------------------------------------------


def test_given_updates_of_an_order_then_they_are_one_execution_that_only_grows() -> None:
    first = holdings.execution_of(replace(BOT, at=at(22)), None)
    assert first is not None
    assert (first.qty, first.price, first.at, first.client_order_id) == (4, 99, at(22), "bot-1")
    second = holdings.execution_of(replace(BOT, filled_qty=Decimal(3), at=at(25)), first)
    assert second is not None
    assert (second.qty, second.at) == (4, at(22))
    whole = holdings.execution_of(replace(BOT, filled_qty=None, status=report("filled").status, qty=Decimal(9)), first)
    assert whole is not None
    assert whole.qty == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"symbol": None},
        {"side": None},
        {"filled_qty": Decimal(0)},
        {"filled_qty": Decimal("NaN")},
        {"filled_qty": None, "status": report("filled").status},
    ],
)
def test_given_an_update_that_does_not_say_what_was_filled_then_there_is_no_execution(changes: dict[str, Any]) -> None:
    assert holdings.execution_of(replace(BOT, **changes), None) is None


def test_given_an_order_that_has_filled_nothing_yet_then_its_execution_is_of_nothing() -> None:
    nothing = holdings.execution_of(replace(BOT, filled_qty=None, avg_fill_price=None), None)
    assert nothing is not None
    assert (nothing.qty, nothing.price) == (0, 0)


@given(st.permutations([(1, 21), (3, 23), (4, 25)]))
def test_the_order_of_updates_is_irrelevant(updates: list[tuple[int, int]]) -> None:
    known: Fill | None = None
    for filled, second in updates:
        known = holdings.execution_of(replace(BOT, filled_qty=Decimal(filled), at=at(second)), known)
    assert known is not None
    assert (known.qty, known.at) == (4, at(21))


def test_what_others_opened_since_the_exit_was_triggered_is_the_start_of_the_next_position() -> None:
    over = ended(ended_at=at(30))
    fills = [fill("buy", 1, second=9), fill("sell", 1, second=12), fill("buy", 1, second=15), fill("buy", 1, second=14)]
    elsewhere = replace(fill("buy", 1, second=11), symbol="MSFT")
    assert holdings.opened_since_exit(over, [*fills, elsewhere]) == at(14)
    assert holdings.opened_since_exit(mirrored(over), [*map(mirrored, fills)]) == at(14)
    assert holdings.opened_since_exit(changed(over, triggered_at=None), fills) is None
    assert holdings.opened_since_exit(held(), fills) is None


# --- whether it works -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "times", "may_work"),
    [(report("new"), 9, True), (report("canceled", 0), 1, False), (None, 1, True), (None, 2, True), (None, 3, False)],
)
def test_an_order_that_is_not_listed_may_work_until_that_is_proved(
    record: ExecutionReport | None, times: int, may_work: bool
) -> None:
    assert holdings.may_still_work(record, times) is may_work


def test_an_order_that_the_broker_does_not_know_is_sent_again_where_a_repeated_id_is_refused() -> None:
    pending = exiting(state=State.PENDING)
    assert holdings.may_resend(pending, BROKER)
    assert not holdings.may_resend(pending, CAREFUL)
    assert not holdings.may_resend(exiting(), BROKER)
    assert [holdings.is_unresolved(pending, times, BROKER) for times in (1, 2, 3)] == [False, False, True]
    assert holdings.is_unresolved(pending, 1, CAREFUL)
    assert not holdings.is_unresolved(exiting(), 1, CAREFUL)


def test_given_an_order_that_is_not_found_then_a_person_hears_what_its_newest_send_ended_with() -> None:
    p = exiting(state=State.PENDING)
    assert "; the same order is sent again" in holdings.not_found(p, 3, "", can_resend=True)
    assert "3 times (its newest send: HTTP 503); it is not sent again" in holdings.not_found(
        p, 3, "HTTP 503", can_resend=False
    )


# --- an operator's word -----------------------------------------------------------------------------------------------


def test_given_an_order_that_the_broker_does_not_know_then_on_an_operators_word_it_was_refused() -> None:
    gone = holdings.end_of_live(None, "xf1-1", Decimal(0), T0)
    assert (gone.status, gone.refusal, gone.refused_at_submit, gone.at) == ("rejected", "not_known", True, T0)


def test_given_a_replaced_order_or_one_that_does_not_say_how_much_then_it_ended_with_what_is_known() -> None:
    replaced = holdings.end_of_live(report("replaced"), "xf1-1", Decimal(4), T0)
    assert (replaced.status, replaced.filled_qty) == ("canceled", 4)
    working = report("new")
    assert holdings.end_of_live(working, "xf1-1", Decimal(4), T0) == working
    said = report("canceled", 6)
    assert holdings.end_of_live(said, "xf1-1", Decimal(4), T0) == said


def test_given_an_ended_order_whose_record_shows_less_then_some_was_taken_back() -> None:
    order = ended(filled_qty=Decimal(4)).order
    assert holdings.record_of_ended(order, report("canceled", 3)).corrected
    for same in (report("canceled", 4), report("canceled"), report("new", 3)):
        assert holdings.record_of_ended(order, same) == same


@pytest.mark.parametrize(
    ("said", "leaves_open"),
    [
        (report("partially_filled", 4), False),
        (report("partially_filled"), True),
        (report("canceled"), True),
        (report("new"), False),
    ],
)
def test_given_a_report_that_does_not_say_how_much_then_the_order_is_looked_up(said, leaves_open: bool) -> None:
    assert holdings.leaves_open(exiting(), said) is leaves_open
    assert holdings.leaves_open(exiting(corrected=True), said)


# --- look-ups of an order whose end was reported ----------------------------------------------------------------------


NEVER_LOOKED = LookUps()


def looked(
    shown: ExecutionReport | None, before: LookUps = NEVER_LOOKED, *, broker: Any = BROKER, can_show=True
) -> Any:
    """The look-up of the first exit order, begun in the fortieth second."""
    record = RecordRead(client_order_id="xf1-1", began=at(40), report=shown)
    return holdings.looked_up(ended(), record, before, 40.0, broker, can_show=can_show)


def test_given_a_record_that_shows_the_end_then_it_is_proved_from_then_on() -> None:
    record, after = looked(report("canceled", 0), LookUps(works=True, absent=2))
    assert (record.times, after) == (0, LookUps(40.0))


def test_given_a_record_that_denies_the_end_then_what_was_proved_before_is_not_any_more() -> None:
    record, after = looked(report("new", 0), LookUps(30.0, absent=1))
    assert (record.times, after) == (0, LookUps(works=True))


def test_given_no_record_where_ended_orders_are_shown_then_it_is_a_contradiction_and_is_counted() -> None:
    first, after = looked(None, LookUps(30.0))
    second, again = looked(None, LookUps(works=True, absent=5))
    assert (first.times, after) == (1, LookUps(absent=1))
    assert (second.times, again) == (6, LookUps(works=True, absent=6))


def test_given_no_record_where_only_working_orders_are_shown_then_several_of_them_prove_the_end() -> None:
    listing = replace(BROKER, lookup_sees_closed=False)
    assert looked(None, LookUps(absent=1), broker=listing)[1] == LookUps(absent=2)
    assert looked(None, LookUps(absent=2), broker=listing)[1] == LookUps(40.0, absent=3)
    record, after = looked(None, broker=listing, can_show=False)
    assert (record.times, after) == (3, LookUps(40.0))


def test_given_a_record_read_while_an_execution_was_corrected_then_it_may_be_too_old() -> None:
    working, corrected = exiting(), exiting(corrected=True)
    said = report("partially_filled", 3)
    assert holdings.record_of_live(working, working, said) == said
    assert holdings.record_of_live(None, None, said) == said
    assert holdings.record_of_live(working, corrected, said) is None
    assert holdings.record_of_live(corrected, corrected, said) == replace(said, corrected=True)
    assert holdings.record_of_live(corrected, None, said) is None


# --- orphan orders ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order_id", "kind"),
    [
        (client_order_id("p", 2), "id_form_differs"),  # the position has ids of the first form
        (client_order_id("p", 2, "xf1"), "unknown_exit_order"),
        (client_order_id("another", 2), "unknown_exit_order"),
    ],
)
def test_an_orphan_order_that_is_an_exit_of_a_watched_position_under_another_form_says_so(
    order_id: str, kind: str
) -> None:
    working = report("new", client_order_id=order_id)
    alarm = holdings.orphan(working, [replace(held(), position_id="q"), held()])
    assert alarm.kind == kind
    assert order_id in alarm.text


def test_given_positions_then_the_orders_in_question_are_those_that_may_be_live_and_have_left() -> None:
    working, waiting = exiting(), exiting(state=State.PENDING)
    name = working.client_order_id
    assert holdings.in_question([held(), working], ()) == {name: working.position_id}
    assert holdings.in_question([waiting], ()) == {}
    assert holdings.in_question([waiting], [name]) == {name: waiting.position_id}


@pytest.mark.parametrize(
    ("said", "so"),
    [
        (report("filled", 0), True),
        (report("filled"), False),  # it does not say how much: that is another matter
        (report("filled", 10), False),
        (report("canceled", 0), False),
        (report("filled", 0, client_order_id="xf1-0"), False),
    ],
)
def test_a_record_of_the_newest_order_that_is_filled_with_nothing_says_no_quantity(
    said: ExecutionReport, so: bool
) -> None:
    assert holdings.says_no_quantity(exiting(), said) is so
    assert not holdings.says_no_quantity(ended(), said)  # its end is known already
