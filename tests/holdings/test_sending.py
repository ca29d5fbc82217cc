"""Whether an exit order may leave: what else works, how fresh the news is, and what is held."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import at, changed, ended, executions, exiting, fill, held, mirrored, over, positions, quantities
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.holdings import Answer, Beside, Count, Leaving, Look, LookUps, Short
from exitfsm.lifecycle import State
from exitfsm.position import Position, Submit, order_of, owed
from exitfsm.values import Fill, Side

PENDING = exiting(state=State.PENDING, position_id="newer", opened_at=at(5), broker_order_id=None)
ORDER = Submit(position_id="newer", order=order_of(PENDING))
#: A position beside it that is watched and owes nothing.
QUIET = held(position_id="older")
BEFORE = over("xf1-0", 4, "canceled")


def leaving(*beside: Beside, **fields: Any) -> Leaving:
    """The order of the newer position, a hundred seconds after a machine was started."""
    given_fields: dict[str, Any] = {
        "order": ORDER, "position": PENDING, "owed": owed(PENDING, at(20)), "beside": beside,
        "asked": 99.0, "now": 100.0,
    }  # fmt: skip
    return Leaving(**(given_fields | fields))


# --- may_send ---------------------------------------------------------------------------------------------------------


def test_given_an_order_that_is_owed_and_nothing_beside_it_then_it_leaves() -> None:
    assert holdings.may_send(leaving()) is Answer.SEND
    assert holdings.may_send(leaving(Beside(QUIET))) is Answer.SEND


@pytest.mark.parametrize(
    "changes",
    [{"position": None, "owed": None}, {"owed": None}, {"asked": 94.9}],
    ids=["over", "not owed any more", "read too long ago"],
)
def test_given_that_something_changed_while_it_waited_then_what_is_owed_is_asked_again(changes: dict[str, Any]) -> None:
    assert holdings.may_send(leaving(**changes)) is Answer.WAIT


def test_given_another_exit_that_belongs_to_nobody_known_then_it_is_blocked() -> None:
    assert holdings.may_send(leaving(is_held_back=True)) is Answer.BLOCKED
    assert holdings.may_send(leaving(is_held_back=True, owed=None)) is Answer.WAIT


@pytest.mark.parametrize(
    ("beside", "answer"),
    [
        (Beside(exiting()), Answer.WAIT),  # it works
        (Beside(exiting(state=State.PENDING)), Answer.WAIT),  # the older one leaves first
        (Beside(exiting(state=State.PENDING, opened_at=at(7), order_live=False)), Answer.SEND),  # a younger one
        (Beside(exiting(state=State.PENDING, opened_at=at(7)), is_unknown=True), Answer.WAIT),  # may be there already
        (Beside(exiting(state=State.PENDING, side=Side.SHORT)), Answer.SEND),  # of two sides, the one that is held
        (Beside(exiting(side=Side.SHORT)), Answer.WAIT),  # works on the other side
        (Beside(exiting(state=State.PENDING, side=Side.SHORT), is_unknown=True), Answer.WAIT),
        (Beside(exiting(state=State.PENDING, opened_at=at(7)), may_have_left=True), Answer.WAIT),  # it may still arrive
        (Beside(exiting(state=State.PENDING, side=Side.SHORT), may_have_left=True), Answer.WAIT),
        (Beside(ended()), Answer.WAIT),  # its end was only reported
        (Beside(ended(), look_ups=LookUps(98.0)), Answer.SEND),
        (Beside(ended(), look_ups=LookUps(93.9)), Answer.WAIT),  # too long ago
        (Beside(ended(), look_ups=LookUps(98.0), settled=99.0), Answer.WAIT),  # before late fills were over
        (Beside(ended(), look_ups=LookUps(98.0), settled=101.0), Answer.SEND),
        (Beside(ended(ended_how="refused")), Answer.SEND),
        (Beside(ended(filled_qty=Decimal(10))), Answer.SEND),
        (Beside(ended(state=State.UNPROTECTED)), Answer.SEND),
        (Beside(ended(state=State.UNPROTECTED), look_ups=LookUps(works=True)), Answer.WAIT),
    ],
)
def test_one_exit_of_a_holding_goes_after_the_other(beside: Beside, answer: Answer) -> None:
    assert holdings.may_send(leaving(Beside(QUIET), beside)) is answer
    assert holdings.may_send(leaving(beside, Beside(QUIET))) is answer


def test_given_two_that_may_have_left_then_the_older_one_goes_first() -> None:
    older = Beside(exiting(state=State.PENDING), may_have_left=True)
    younger = Beside(exiting(state=State.PENDING, opened_at=at(7)), may_have_left=True)
    assert holdings.may_send(leaving(older, may_have_left=True)) is Answer.WAIT
    assert holdings.may_send(leaving(younger, may_have_left=True)) is Answer.SEND
    never_sent = replace(older, may_have_left=False)
    assert holdings.may_send(leaving(never_sent, may_have_left=True)) is Answer.SEND


@given(st.lists(positions(), max_size=3), st.floats(90, 100), st.booleans(), st.booleans())
def test_no_order_leaves_beside_one_that_is_live(
    others: list[Position], shown: float, unknown: bool, works: bool
) -> None:
    beside = [Beside(q, unknown, LookUps(shown, works)) for q in others]
    answer = holdings.may_send(leaving(*beside))
    if any(q.live_orders for q in others):
        assert answer is Answer.WAIT
    mirror = [replace(one, position=mirrored(one.position)) for one in beside]
    assert holdings.may_send(leaving(*mirror)) is answer


# --- records that must be read ----------------------------------------------------------------------------------------


def test_given_an_end_that_was_only_reported_then_its_record_is_read_before_another_exit_leaves() -> None:
    assert holdings.awaits_record(Beside(ended()), 99.0, 100.0)
    assert not holdings.awaits_record(Beside(ended(), look_ups=LookUps(98.0)), 99.0, 100.0)
    lost = ended(state=State.UNPROTECTED)
    assert holdings.awaits_record(Beside(lost), 99.0, 100.0)
    for known in (changed(lost, ended_how="refused"), changed(lost, order_live=True), QUIET, exiting()):
        assert not holdings.awaits_record(Beside(known), 99.0, 100.0)


def test_given_an_attempt_then_the_record_of_the_one_before_must_show_its_end() -> None:
    second = exiting(before=(BEFORE,), waiting_since=at(40))
    assert holdings.order_to_prove(second) == BEFORE
    assert holdings.order_to_prove(exiting()) is None
    assert holdings.order_to_prove(replace(second, waiting_since=second.triggered_at)) is None
    assert holdings.order_to_prove(changed(second, ordered_by="operator")) is None


# --- what is held -----------------------------------------------------------------------------------------------------


def look(**fields: Any) -> Look:
    """A look for an order of ten."""
    given_fields: dict[str, Any] = {"position": PENDING, "qty": Decimal(10), "shown": 1}
    return Look(**(given_fields | fields))


def test_given_that_as_much_is_held_then_the_order_is_covered() -> None:
    assert holdings.covered(look(held=Decimal(10))) is Answer.SEND
    assert holdings.covered(look(held=Decimal(11))) is Answer.SEND


def test_given_that_less_is_held_then_executions_or_several_looks_make_it_a_refusal() -> None:
    assert holdings.covered(look(held=Decimal(6))) is Answer.WAIT
    assert holdings.covered(look(held=Decimal(6), shown=3)) == Short(Decimal(6))
    sold = [fill("buy", 10), fill("sell", 4, second=7, client_order_id="web-17")]
    assert holdings.covered(look(held=Decimal(6), executions=sold)) == Short(Decimal(6))
    assert holdings.covered(look(held=Decimal(5), executions=sold)) is Answer.WAIT


def test_an_order_for_more_than_is_held_is_refused_in_words() -> None:
    assert (
        str(holdings.more_than_held(Decimal(10), Short(Decimal("6.50"))))
        == "more_than_held: 10 to sell, and 6.5 is held"
    )


def test_given_looks_that_fail_then_a_first_send_is_not_held_up_for_long() -> None:
    answers = [holdings.covered(look(failed=failed)) for failed in (1, 2, 3)]
    assert answers == [Answer.WAIT, Answer.WAIT, Answer.SEND]
    assert holdings.covered(look(failed=3, may_have_left=True)) is Answer.BLOCKED


def test_given_looks_that_fail_after_reads_that_showed_less_then_it_does_not_leave() -> None:
    def read_before(reads: int, qty: int) -> Count:
        return Count(Decimal(qty), holdings.known(PENDING), reads, 20.0)

    assert holdings.covered(look(failed=1, count=read_before(3, 6))) == Short(Decimal(6))
    assert holdings.covered(look(failed=3, count=read_before(3, 10))) is Answer.SEND
    assert holdings.covered(look(failed=3, count=read_before(1, 6))) is Answer.BLOCKED


@given(positions(), quantities, st.one_of(st.none(), quantities), executions(), st.integers(0, 4))
def test_no_order_leaves_for_more_than_the_newest_look_showed(
    p: Position, qty: Decimal, shown: Decimal | None, fills: list[Fill], failed: int
) -> None:
    one = Look(position=p, qty=qty, held=shown, executions=fills, failed=failed, shown=1)
    answer = holdings.covered(one)
    if shown is not None:
        assert (answer is Answer.SEND) == (shown >= qty)
    if isinstance(answer, Short):
        assert answer.held == shown
    mirror = replace(one, position=mirrored(p), executions=[*map(mirrored, fills)])
    assert holdings.covered(mirror) == answer
    assert holdings.covered(replace(one, executions=fills * 0)) in (answer, Answer.WAIT)
