"""What is reported of orders that are over, corrected or contradicted, and how old a read is."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from positions import (
    BROKERS,
    canceling,
    closed,
    expired,
    filled,
    monitoring,
    partial,
    pending,
    second,
    submitted,
    unprotected,
)

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CancelRequested,
    ExitCompleted,
    ExitRetried,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
    ProtectionLost,
)
from exitfsm.lifecycle import State
from exitfsm.messages import (
    Contradiction,
    ForceExit,
    Recover,
    Release,
)
from exitfsm.ports import CAREFUL, Capabilities
from exitfsm.position import (
    READS_MIN,
    Cancel,
    ReadPosition,
    client_order_id,
    is_exit_of,
)
from exitfsm.testing.given import (
    BROKER,
    Scenario,
    after,
    bar,
    given,
    holds,
    like,
    opened,
    order_id,
    refused,
    reported,
    seen,
    timer,
)
from exitfsm.values import OrderSide

# --- fills after the end, corrections, contradictions -----------------------------------------------------------------


def test_given_a_canceled_order_when_a_fill_comes_late_then_the_next_attempt_is_smaller() -> None:
    s = (
        partial.when(reported("canceled", 4))
        .when(reported("canceled", 7, 99, at=65))
        .then(like(FillsRecorded, filled_qty=Decimal(7)))
    )
    s.is_in("rejected").when(holds(3, at=200)).then(like(ExitRetried, qty=Decimal(3)))


def test_given_a_canceled_order_when_the_late_fills_complete_it_then_the_exit_is_complete() -> None:
    s = partial.when(reported("canceled", 4)).when(reported("filled", 10, 99, at=65)).then(FillsRecorded)
    s.is_in("rejected").owes(ReadPosition, after(66)).when(holds(0, at=66, reads=1)).then(ExitCompleted)


def test_given_the_next_attempt_is_working_when_the_first_turns_out_to_have_filled_more_then_it_is_ended() -> None:
    s = second.when(reported("new", at=201), reported("canceled", 7, 99, attempt=1, at=202))
    s.then(
        ProtectionLost,
        like(FillsRecorded, client_order_id=order_id(1), filled_qty=Decimal(7)),
        CancelRequested,
        AlarmRaised,
    )
    s.is_in("unprotected").owes(Cancel).has(sold_qty=Decimal(7))


def test_given_a_finished_exit_when_a_fill_comes_late_then_a_person_is_told() -> None:
    filled.when(reported("filled", 11, 99)).then(ProtectionLost, FillsRecorded, AlarmRaised).is_in("unprotected")
    second.when(reported("filled", 6, 99), holds(0, at=203)).is_in("filled").when(
        reported("canceled", 6, 99, attempt=1, at=300)
    ).then(ProtectionLost, FillsRecorded, AlarmRaised).is_in("unprotected").has(sold_qty=Decimal(12))


def test_given_a_position_closed_by_hand_when_a_fill_comes_late_then_a_person_is_told() -> None:
    s = expired.when(holds(0)).is_in("closed").when(reported("expired", 5, 99, at=300))
    s.then(ProtectionLost, like(FillsRecorded, filled_qty=Decimal(5)), AlarmRaised).is_in("unprotected")


def test_given_a_position_back_under_watch_when_a_fill_comes_late_then_a_person_is_told() -> None:
    s = partial.at(CAREFUL).when(
        reported("canceled", 4), Release(at=after(100), qty=Decimal(6), entry_price=Decimal(100))
    )
    s.is_in("monitoring").when(reported("canceled", 5, 99, at=101)).then(ProtectionLost, FillsRecorded, AlarmRaised)


def test_given_fills_when_the_broker_takes_one_back_then_it_is_recorded_and_a_person_is_told() -> None:
    for s in (partial, filled, partial.when(reported("canceled", 4))):
        bust = reported("partially_filled", 1, 99, at=300, corrected=True)
        s.when(bust).then(
            ProtectionLost, like(FillsRecorded, filled_qty=Decimal(1), corrected=True), AlarmRaised
        ).is_in("unprotected").has(sold_qty=Decimal(1)).when(bust).then()
    second.when(reported("canceled", 1, 99, attempt=1, at=300, corrected=True)).then(
        ProtectionLost, like(FillsRecorded, client_order_id=order_id(1), corrected=True), AlarmRaised
    ).has(sold_qty=Decimal(1))


def test_given_an_earlier_order_when_a_late_report_says_less_then_nothing_follows() -> None:
    second.when(reported("partially_filled", 2, 99, attempt=1)).then()
    second.when(reported("expired", None, attempt=1)).then()


def test_given_an_order_when_more_fills_than_was_sent_then_it_is_recorded_and_a_person_is_told() -> None:
    s = submitted.when(reported("filled", 12, 99)).then(
        ProtectionLost, like(FillsRecorded, filled_qty=Decimal(12)), AlarmRaised
    )
    s.is_in("unprotected").has(sold_qty=Decimal(12), remaining_qty=Decimal(-2)).when(reported("filled", 12, 99)).then()


@pytest.mark.parametrize(
    "fields",
    [
        {"symbol": "MSFT"},
        {"side": OrderSide.BUY},
        {"qty": Decimal("NaN")},
        {"filled": "NaN"},
        {"filled": "-1"},
        {"filled": "Infinity"},
    ],
    ids=str,
)
def test_given_an_order_under_our_id_that_is_not_ours_then_nothing_automatic_follows(fields: dict[str, Any]) -> None:
    for s in (pending, submitted, partial):
        mismatch = reported("new", **fields)
        doubted = s.when(mismatch).then(ProtectionLost, AlarmRaised).is_in("unprotected").when(mismatch).then()
        # Once it is over at the broker, whatever it was, the position can be released or exited again.
        over = reported("canceled", **fields)
        doubted.when(over).then(OrderEnded).has(order_live=False).when(over).then()


def test_given_an_order_that_fits_when_it_is_described_in_full_then_it_is_ours() -> None:
    pending.when(reported("new", symbol="AAPL", side=OrderSide.SELL, qty=Decimal(10))).then(OrderAccepted)
    coin = given(opened(symbol="BTC/USD"))
    coin.when(seen(bar(99, symbol="BTC/USD")), reported("new", symbol="BTCUSD")).is_in("submitted")


def test_given_a_refused_order_when_it_turns_up_at_the_broker_then_a_person_is_told() -> None:
    gone = pending.when(refused())
    gone.when(reported("new", at=70)).then(ProtectionLost, OrderAccepted, CancelRequested, AlarmRaised).is_in(
        "unprotected"
    )
    again = gone.when(holds(10, at=200), reported("new", at=201))
    both = again.when(reported("new", attempt=1, at=202))
    both.then(
        ProtectionLost,
        like(OrderAccepted, client_order_id=order_id(1)),
        like(CancelRequested, client_order_id=order_id(1)),
        like(CancelRequested, client_order_id=order_id(2)),
        AlarmRaised,
    ).is_in("unprotected").has(live_orders=(order_id(2), order_id(1)))
    both.when(reported("new", attempt=1, at=203)).then()
    gone.when(reported("cancel_rejected", at=70)).then()  # an answer about it does not show it working
    second.when(reported("new", attempt=1, at=202)).then()  # an old word about an order that did exist


@pytest.mark.parametrize("before", [monitoring, pending, submitted, partial, canceling, expired, filled, closed])
def test_given_evidence_that_contradicts_itself_then_nothing_automatic_follows(before: Scenario) -> None:
    s = before.when(Contradiction(at=after(300), why="two of them"))
    s.then(like(ProtectionLost, why="two of them"), like(AlarmRaised, kind="protection_lost", text="two of them"))
    s.is_in("unprotected").when(Contradiction(at=after(301), why="still"), seen(50, at=302), timer(9999, 1)).then()


def test_given_an_unprotected_position_when_its_order_fills_or_ends_then_it_is_recorded() -> None:
    unprotected.when(reported("partially_filled", 4, 99)).then(like(FillsRecorded, filled_qty=Decimal(4)))
    unprotected.when(reported("canceled", 4, 99)).then(FillsRecorded, like(OrderEnded, next_attempt_at=None))
    unprotected.when(reported("filled", 10, 99), holds(0)).then(ExitCompleted).is_in("filled")
    unprotected.when(reported("canceled", 0), holds(0)).then(PositionClosedElsewhere).is_in("closed")
    unprotected.when(reported("canceled", 0), holds(10)).then().owes(ReadPosition)


# --- truthful reports, in any order, any number of times --------------------------------------------------------------


@st.composite
def one_orders_life(draw: Any) -> list[tuple[str, int]]:
    """What a broker truthfully says of one order of 10, from first to last."""
    fills = sorted(draw(st.sets(st.integers(1, 9), max_size=4)))
    life = [("new", 0), *[("partially_filled", f) for f in fills]]
    last = draw(st.sampled_from(["filled", "canceled", "expired", "rejected", "open"]))
    cumulative = fills[-1] if fills else 0
    if last == "canceled":
        life.append(("pending_cancel", cumulative))
    if last != "open":
        life.append((last, 10 if last == "filled" else cumulative))
    return life


@for_all(one_orders_life(), st.data(), st.sampled_from(BROKERS))
def test_reports_of_one_order_in_any_order_and_number_end_in_the_same_fills(
    life: list[tuple[str, int]], data: Any, broker: Capabilities
) -> None:
    doubled = [*life, *data.draw(st.lists(st.sampled_from(life), max_size=6))]
    shuffled = data.draw(st.permutations(doubled))

    s = pending.at(broker)
    cumulative = Decimal(0)
    for status, qty in shuffled:
        s = s.when(reported(status, qty, 99 if qty else None))
        assert s.now.sold_qty >= cumulative  # fills are facts: they are never forgotten
        cumulative = s.now.sold_qty

    assert cumulative == max(qty for _, qty in life)
    ended = life[-1][0] not in ("partially_filled", "new")
    assert s.now.order_live is not ended


def test_three_reports_in_all_six_orders_end_in_the_same_place() -> None:
    reports = [reported("new"), reported("partially_filled", 4, 99), reported("expired", 7, 99)]
    ends = {
        pending.when(*order).has(sold_qty=Decimal(7), order_live=False).now.state for order in permutations(reports)
    }
    assert ends == {State.REJECTED}


# --- a read is as old as its beginning, and an end is one by its record ---------------------------------------------


ended = pending.when(reported("new"), reported("expired", 4, 99, at=62))


def test_given_a_read_that_began_before_the_attempt_was_due_when_it_comes_after_that_then_nothing_follows() -> None:
    ended.when(holds(6, 93, began=91.9)).then().is_in("rejected")
    ended.when(holds(6, 93, began=92)).then(ExitRetried).is_in("pending")


def test_given_an_ended_order_when_its_record_was_not_read_then_neither_an_attempt_nor_the_end_follows() -> None:
    for qty in (6, 0, 3):
        ended.when(holds(qty, 93, record_read=False)).then().is_in("rejected")
    ended.when(holds(0, 93)).then(PositionClosedElsewhere).is_in("closed")


@pytest.mark.parametrize("qty", [6, 0, 3])
def test_given_an_ended_order_whose_record_shows_it_working_then_it_waits_and_a_person_is_told_in_time(
    qty: int,
) -> None:
    ended.when(holds(qty, 93, reads=1, record="partially_filled")).then().is_in("rejected")
    ended.when(holds(qty, 80, record="partially_filled")).then().is_in("rejected")  # it is not due yet
    works = ended.when(holds(qty, 93, record="partially_filled"))
    works.then(like(AlarmRaised, kind="ended_order_works")).is_in("rejected")
    works.when(holds(qty, 94, record="partially_filled")).then()
    works.when(holds(6, 95, record="expired")).then(ExitRetried, like(AlarmAcknowledged, by="exitfsm"))


def test_given_a_record_that_is_not_shown_then_it_proves_an_end_only_where_the_broker_would_not_show_it() -> None:
    read = holds(6, 93)(ended.now)
    assert read.record is not None
    absent = msgspec.structs.replace(read, record=msgspec.structs.replace(read.record, report=None))
    thrice = msgspec.structs.replace(absent, record=msgspec.structs.replace(absent.record, times=READS_MIN))
    ended.when(absent).then()
    ended.when(thrice).then(like(AlarmRaised, kind="order_not_found"))
    hides = ended.at(msgspec.structs.replace(BROKER, lookup_sees_closed=False))
    hides.when(absent).then()
    hides.when(thrice).then(ExitRetried)
    by_list = msgspec.structs.replace(thrice, record=msgspec.structs.replace(thrice.record, by_id=False))
    ended.when(by_list).then(ExitRetried)


def test_given_an_order_then_how_it_ended_and_whose_it_is_are_known() -> None:
    p = ended.when(holds(6, 93)).now
    first, second_id = (client_order_id(p.position_id, n, "xf1") for n in (1, 2))
    assert [(order.client_order_id, order.ended_how) for order in p.orders] == [(first, "expired"), (second_id, "")]
    assert [p.find(one) for one in (first, second_id, "another")] == [*p.orders, None]
    assert is_exit_of(p.position_id, second_id)
    assert not is_exit_of(p.position_id, "xf1-0")
    assert not is_exit_of(p.position_id, None)


def test_given_a_record_that_is_older_than_the_read_or_of_another_order_then_it_counts_for_nothing() -> None:
    read = holds(6, 93)(ended.now)
    assert read.record is not None
    older = msgspec.structs.replace(read.record, began=after(92.9))
    ended.when(msgspec.structs.replace(read, record=older)).then()
    of_another = msgspec.structs.replace(read.record, client_order_id="xf1-0")
    ended.when(msgspec.structs.replace(read, record=of_another)).then()


def test_given_an_unprotected_position_when_its_order_may_work_by_its_record_then_it_does_not_end() -> None:
    unprotected = ended.when(Contradiction(at=after(63), why="a test"))
    unprotected.when(holds(0, 64, record="partially_filled")).then(AlarmRaised).is_in("unprotected")
    unprotected.when(holds(0, 64)).then(PositionClosedElsewhere).is_in("closed")


def test_given_another_machine_s_attempt_when_nothing_is_left_to_sell_then_a_person_must_look() -> None:
    sold = ended.when(reported("expired", 10, 99, at=63))
    found = reported("new", 0, qty=Decimal(6), attempt=2)(sold.now).report
    sold.when(Recover(at=after(100), attempt=2, report=found)).then(ProtectionLost, AlarmRaised)


@pytest.mark.parametrize("command", [Release, ForceExit])
def test_given_a_command_that_rests_on_an_older_read_then_it_is_not_done_and_says_so(command: Any) -> None:
    unprotected = ended.when(Contradiction(at=after(63), why="a test"))
    known = (State.UNPROTECTED, Decimal(8), unprotected.now.client_order_id)
    price = {"entry_price": Decimal(100)} if command is Release else {}
    old = command(at=after(70), qty=Decimal(8), known=known, **price)
    unprotected.when(old).then(like(AlarmRaised, kind="not_done")).is_in("unprotected")
    fresh = command(at=after(70), qty=Decimal(6), known=(known[0], Decimal(6), known[2]), **price)
    assert unprotected.when(fresh).now.state in (State.MONITORING, State.PENDING)
