"""Whether the order of a durable intent may leave: what else works, how fresh what was read is, and what is held."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import at, changed, ended, executions, exiting, fill, held, mirrored, over, positions, quantities, row
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.holdings import (
    Beside,
    Blocked,
    Count,
    Intent,
    Looks,
    LookUps,
    Permit,
    Read,
    Send,
    Short,
    Wait,
    leaving_of,
)
from exitfsm.lifecycle import State
from exitfsm.ports import Capabilities
from exitfsm.position import Position, Submit, order_of, owed
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, OrderSide, OrderStatus, Side, WorkingOrder

PENDING = exiting(state=State.PENDING, position_id="newer", opened_at=at(5), broker_order_id=None)
ORDER = Submit(position_id="newer", order=order_of(PENDING))
#: A position beside it that is watched and owes nothing.
QUIET = held(position_id="older")
BEFORE = over("xf1-0", 4, "canceled")


#: A venue that would take an order for more than is held, one that refuses it, and one that only reserves.
BARE, GUARD, RESERVES = Capabilities(), Capabilities(reduce_only=True), Capabilities(reserves=True)
SENT, OWED, AFTER, ORDERS, READS = Send(Decimal(10)), Wait("owed"), Wait("beside"), Wait("orders"), Wait("reads")


def seen(*rows: BrokerPosition, began: float = 99.5, **fields: Any) -> Looks:
    """A look that showed these rows; ten AAPL where none are given."""
    shown = Read(rows=rows or (row(10),), began=began, ended=began + 0.1)
    return Looks(**{"read": shown, "shown": 1, **fields})


#: No look, and one that showed nothing of AAPL.
NO_LOOK, NOTHING = Looks(), seen(row(3, symbol="MSFT"))


def intent(*beside: Beside, **fields: Any) -> Intent:
    """The order of the newer position, a hundred seconds after a machine was started."""
    given_fields: dict[str, Any] = {
        "order": ORDER, "position": PENDING, "owed": owed(PENDING, at(20)), "beside": beside, "asked": 99.0,
    }  # fmt: skip
    return Intent(**(given_fields | fields))


def may_send(one: Intent, looks: Looks | None = None, broker: Capabilities = BARE, **fields: Any) -> Permit:
    """What is said of it at that moment; the newest look shows ten where none is given."""
    return holdings.may_send(
        leaving_of(one, looks or seen(), broker, fields.get("now", 100.0), fields.get("working", ()))
    )


# --- may_send ---------------------------------------------------------------------------------------------------------


def test_given_an_order_that_is_owed_and_nothing_beside_it_then_it_leaves() -> None:
    assert may_send(intent()) == SENT
    assert may_send(intent(Beside(QUIET)), seen(row(20))) == SENT


@pytest.mark.parametrize(
    "changes",
    [{"owed": None}, {"asked": 94.9}],
    ids=["over, or not owed any more", "read too long ago"],
)
def test_given_that_something_changed_while_it_waited_then_what_is_owed_is_asked_again(changes: dict[str, Any]) -> None:
    assert may_send(intent(**changes)) == OWED


def test_given_another_exit_that_belongs_to_nobody_known_then_it_is_blocked() -> None:
    assert may_send(intent(is_held_back=True)) == ORDERS
    assert may_send(intent(is_held_back=True, owed=None)) == OWED


@pytest.mark.parametrize(
    ("beside", "answer"),
    [
        (Beside(exiting()), AFTER),  # it works
        (Beside(exiting(state=State.PENDING)), AFTER),  # the older one leaves first
        (Beside(exiting(state=State.PENDING, opened_at=at(7), order_live=False)), SENT),  # a younger one
        (Beside(exiting(state=State.PENDING, opened_at=at(7)), is_unknown=True), AFTER),  # may be there already
        (Beside(exiting(state=State.PENDING, side=Side.SHORT)), SENT),  # of two sides, the one that is held
        (Beside(exiting(side=Side.SHORT)), AFTER),  # works on the other side
        (Beside(exiting(state=State.PENDING, side=Side.SHORT), is_unknown=True), AFTER),
        (Beside(exiting(state=State.PENDING, opened_at=at(7)), may_have_left=True), AFTER),  # it may still arrive
        (Beside(exiting(state=State.PENDING, side=Side.SHORT), may_have_left=True), AFTER),
        (Beside(ended()), AFTER),  # its end was only reported
        (Beside(ended(), look_ups=LookUps(98.0)), SENT),
        (Beside(ended(), look_ups=LookUps(93.9)), AFTER),  # too long ago
        (Beside(ended(), look_ups=LookUps(98.0), settled=99.0), AFTER),  # before late fills were over
        (Beside(ended(), look_ups=LookUps(98.0), settled=101.0), SENT),
        (Beside(ended(ended_how="refused")), SENT),
        (Beside(ended(filled_qty=Decimal(10))), SENT),
        (Beside(ended(state=State.UNPROTECTED)), SENT),
        (Beside(ended(state=State.UNPROTECTED), look_ups=LookUps(works=True)), AFTER),
    ],
)
def test_one_exit_of_a_holding_goes_after_the_other(beside: Beside, answer: Permit) -> None:
    for one in (intent(Beside(QUIET), beside), intent(beside, Beside(QUIET))):
        assert may_send(one, seen(row(30))) == answer
        assert may_send(one, seen(row(30)), GUARD) == answer


def test_given_two_that_may_have_left_then_the_older_one_goes_first() -> None:
    older = Beside(exiting(state=State.PENDING), may_have_left=True)
    younger = Beside(exiting(state=State.PENDING, opened_at=at(7)), may_have_left=True)
    assert may_send(intent(older, may_have_left=True), seen(row(20))) == AFTER
    assert may_send(intent(younger, may_have_left=True), seen(row(20))) == SENT
    never_sent = replace(older, may_have_left=False)
    assert may_send(intent(never_sent, may_have_left=True), seen(row(20))) == SENT


@given(st.lists(positions(), max_size=3), st.floats(90, 100), st.booleans(), st.booleans())
def test_no_order_leaves_beside_one_that_is_live(
    others: list[Position], shown: float, unknown: bool, works: bool
) -> None:
    beside = [Beside(q, unknown, LookUps(shown, works)) for q in others]
    mirror = [replace(one, position=mirrored(one.position)) for one in beside]
    for broker in (BARE, GUARD):
        answer = may_send(intent(*beside), seen(row(40)), broker)
        if any(q.live_orders for q in others):
            assert answer == AFTER
        other_way = intent(*mirror, position=mirrored(PENDING))
        assert may_send(other_way, seen(row(40, side=Side.SHORT)), broker) == answer


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


def test_given_an_attempt_then_the_look_that_sizes_it_begins_after_the_record_of_the_one_before() -> None:
    second = exiting(
        state=State.PENDING,
        before=(BEFORE,),
        waiting_since=at(40),
        position_id="newer",
        opened_at=at(5),
        qty=Decimal(14),
    )
    one = intent(position=second)
    assert second.remaining_qty == 10
    for proved in (holdings.NEVER, 93.9):
        assert may_send(one, seen(proved=proved)) == Wait("record")
        assert may_send(one, replace(NO_LOOK, proved=proved), GUARD) == Wait("record")
    assert may_send(one, seen(proved=99.2)) == SENT
    assert may_send(one, seen(proved=99.6)) == READS
    assert may_send(one, replace(NO_LOOK, proved=99.6), GUARD) == SENT


# --- what is held -----------------------------------------------------------------------------------------------------


def test_given_a_venue_that_refuses_more_than_is_held_then_no_look_is_needed_but_for_two_sides() -> None:
    assert may_send(intent(), NO_LOOK, GUARD) == SENT
    assert may_send(intent(), NO_LOOK, BARE) == READS
    assert may_send(intent(), NO_LOOK, RESERVES) == READS
    assert may_send(intent(Beside(held(side=Side.SHORT))), NO_LOOK, GUARD) == READS


def test_given_a_look_that_began_before_its_turn_then_it_does_not_count() -> None:
    assert may_send(intent(), seen(began=98.9)) == READS


def test_given_that_as_much_is_held_then_the_order_is_covered() -> None:
    assert may_send(intent(), seen(row(10))) == SENT
    assert may_send(intent(), seen(row(11))) == SENT


def test_given_that_less_is_held_then_executions_or_several_looks_make_it_a_refusal() -> None:
    assert may_send(intent(), seen(row(6))) == READS
    assert may_send(intent(), seen(row(6), shown=3)) == Short(Decimal(6))
    sold = (fill("buy", 10), fill("sell", 4, second=7, client_order_id="web-17"))
    assert may_send(intent(), seen(row(6), executions=sold)) == Short(Decimal(6))
    assert may_send(intent(), seen(row(5), executions=sold)) == READS


@pytest.mark.parametrize("broker", [BARE, RESERVES])
def test_given_nothing_or_the_other_side_then_it_never_leaves(broker: Capabilities) -> None:
    """That a venue reserves is no guard: what it does not hold, it sells short."""
    for looks, left in ((NOTHING, 0), (seen(row(5, side=Side.SHORT)), -5)):
        assert may_send(intent(), looks, broker) == READS
        assert may_send(intent(), replace(looks, shown=3), broker) == Short(Decimal(left))
    empty = Looks(read=Read(began=99.5), shown=3)
    assert may_send(intent(), empty, broker) == Short(Decimal(0))


def test_given_two_positions_then_what_is_missing_is_missing_of_the_older_one() -> None:
    older, younger = Beside(held(position_id="older", opened_at=at(1))), Beside(held(position_id="p", opened_at=at(9)))
    assert may_send(intent(older), seen(row(12), shown=3)) == SENT
    assert may_send(intent(older), seen(row(8), shown=3)) == Short(Decimal(8))
    assert may_send(intent(younger), seen(row(12), shown=3)) == Short(Decimal(2))
    assert may_send(intent(younger), seen(row(12), shown=1)) == READS
    oversold = Beside(held(position_id="older", opened_at=at(1), qty=Decimal(-5)))
    assert may_send(intent(oversold), seen(row(10))) == SENT


def working(qty: int | None, **fields: Any) -> ExecutionReport:
    """A closing order of somebody else."""
    given_fields: dict[str, Any] = {
        "client_order_id": "web-1", "status": OrderStatus.NEW, "at": at(1), "side": OrderSide.SELL, "symbol": "AAPL",
        "qty": Decimal(qty) if qty is not None else None,
    }  # fmt: skip
    return WorkingOrder(**(given_fields | fields))


def test_given_a_closing_order_of_others_then_both_never_sell_more_than_is_held() -> None:
    blocked = Blocked("foreign_order", ("web-1",))
    assert may_send(intent(), working=[working(3)]) == blocked
    assert may_send(intent(), working=[working(None)]) == blocked
    assert may_send(intent(), seen(row(13)), working=[working(3)]) == SENT
    assert may_send(intent(), working=[working(3, filled_qty=Decimal(3))]) == SENT
    assert may_send(intent(), working=[working(3, side=OrderSide.BUY)]) == SENT
    for guard in (GUARD, RESERVES):
        assert may_send(intent(), broker=guard, working=[working(3)]) == SENT


def test_given_figures_in_another_unit_after_a_gap_then_the_unit_comes_first() -> None:
    split = seen(replace(row(20), avg_entry_price=Decimal(50)))
    assert may_send(intent(is_gap=True), split) == Wait("unit")
    assert may_send(intent(is_gap=False), split) == SENT
    assert may_send(intent(is_gap=True), seen()) == SENT
    assert may_send(intent(Beside(held(position_id="b")), is_gap=True), split) != Wait("unit")


def test_an_order_for_more_than_is_held_is_refused_in_words() -> None:
    assert (
        str(holdings.more_than_held(Decimal(10), Short(Decimal("6.50"))))
        == "more_than_held: 10 to sell, and 6.5 is held"
    )


def test_given_looks_that_fail_then_a_first_send_is_not_held_up_for_long() -> None:
    assert [may_send(intent(), Looks(failed=failed)) for failed in (1, 2, 3)] == [READS, READS, SENT]
    assert may_send(intent(may_have_left=True), Looks(failed=3)) == Blocked("exit_held_back")
    assert may_send(intent(), Looks(failed=1), GUARD) == SENT


def test_given_looks_that_fail_after_reads_that_showed_less_then_it_does_not_leave() -> None:
    def read_before(reads: int, qty: int) -> Count:
        return Count(Decimal(qty), holdings.known(PENDING), reads, 20.0)

    assert may_send(intent(count=read_before(3, 6)), Looks(failed=1)) == Short(Decimal(6))
    assert may_send(intent(count=read_before(3, 10)), Looks(failed=3)) == SENT
    assert may_send(intent(count=read_before(1, 6)), Looks(failed=3)) == Blocked("exit_held_back")


def test_given_both_sides_where_only_one_can_be_held_then_nothing_leaves() -> None:
    assert may_send(intent(), seen(row(10), row(3, side=Side.SHORT))) == Blocked("both_sides")


def test_given_hedge_mode_then_the_other_side_is_another_holding() -> None:
    hedged = Capabilities(hedge=True)
    both = seen(row(10), row(3, side=Side.SHORT))
    assert may_send(intent(), both, hedged) == SENT
    assert may_send(intent(), seen(row(30, side=Side.SHORT), shown=3), hedged) == Short(Decimal(0))
    short = mirrored(PENDING)
    assert may_send(intent(position=short), both, hedged) == READS
    assert may_send(intent(position=short), seen(row(30), row(10, side=Side.SHORT)), hedged) == SENT


@given(positions(), quantities, st.one_of(st.none(), quantities), executions(), st.integers(0, 4), st.booleans())
def test_no_order_leaves_for_more_than_the_newest_look_showed(
    p: Position, qty: Decimal, shown: Decimal | None, fills: list[Fill], failed: int, reserves: bool
) -> None:
    order = Submit(position_id=p.position_id, order=replace(order_of(exiting()), qty=qty))
    one, broker = intent(position=p, order=order, owed=order), RESERVES if reserves else BARE
    rows = () if shown is None else (row(3, symbol="MSFT"), replace(row(1), qty=shown))
    read = Read(rows=rows, began=99.5) if shown is not None else None
    looks = Looks(read=read, shown=1, failed=failed, executions=tuple(fills), proved=99.2)
    answer = may_send(one, looks, broker)
    if shown is not None and p.side is Side.LONG:
        assert (answer == Send(qty)) == (shown >= qty)
    if isinstance(answer, Short):
        assert answer.held == (shown if p.side is Side.LONG else -(shown or 0))
    turned = tuple(replace(r, side=Side.SHORT) for r in rows) if p.side is Side.LONG else rows
    if p.side is Side.LONG:
        again = replace(looks, executions=tuple(map(mirrored, fills)))
        again = replace(again, read=replace(read, rows=turned) if read is not None else None)
        assert may_send(replace(one, position=mirrored(p)), again, broker) == answer
    assert may_send(one, replace(looks, executions=()), broker) in (answer, READS)
