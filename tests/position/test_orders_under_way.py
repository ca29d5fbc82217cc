"""An order on its way, when a position is flat, and the ids: the protocol with the broker as `decide` sees it."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from positions import expired, filled, monitoring, partial, pending, second, submitted, unprotected

from exitfsm.events import (
    AlarmRaised,
    CancelRequested,
    ExitCompleted,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
    PositionResized,
    ProtectionLost,
)
from exitfsm.messages import (
    Report,
)
from exitfsm.position import (
    READS_MIN,
    Cancel,
    LookUp,
    ReadPosition,
    Submit,
    client_order_id,
    owed,
    position_id,
)
from exitfsm.testing.given import (
    after,
    given,
    holds,
    like,
    opened,
    order_id,
    reported,
    seen,
)
from exitfsm.values import ExecutionReport, OrderSide, OrderStatus, Side

# --- the order on its way ---------------------------------------------------------------------------------------------


def test_given_a_breach_when_it_is_decided_then_the_intent_is_owed_and_its_order_is_complete() -> None:
    s = monitoring.when(seen(99)).then(
        like(
            ExitTriggered,
            reason="stop_loss",
            client_order_id=order_id(1),
            attempt=1,
            qty=Decimal(10),
            order_type="market",
            time_in_force="day",
            trigger_price=Decimal(99),
            level=Decimal(99),
            threshold_pct=Decimal(1),
            at=after(60),
            bar_at=after(60),
        )
    )
    action = owed(s.now, after(60))
    assert isinstance(action, Submit)
    assert action.order.client_order_id == order_id(1)
    assert (action.order.side, action.order.qty, action.order.limit_price) == (OrderSide.SELL, Decimal(10), None)
    s.owes(LookUp, outcome_unknown=True)


def test_given_a_short_position_when_it_exits_then_the_order_buys() -> None:
    s = given(opened("short")).when(seen(101))
    action = owed(s.now, after(60))
    assert isinstance(action, Submit)
    assert (action.order.side, action.order.position_side) == (OrderSide.BUY, Side.SHORT)


def test_given_an_intent_when_the_order_is_acknowledged_then_nothing_more_is_owed() -> None:
    pending.when(reported("new", broker_order_id="b1")).then(
        OrderAccepted(client_order_id=order_id(1), broker_order_id="b1", at=after(61))
    ).is_in("submitted").owes(None)


def test_given_an_intent_when_a_fill_comes_before_the_ack_then_both_are_recorded_at_once() -> None:
    pending.when(reported("partially_filled", 4, 99)).then(OrderAccepted, like(FillsRecorded, filled_qty=Decimal(4)))
    pending.when(reported("filled", 10, 99)).then(OrderAccepted, FillsRecorded).is_in("partial").owes(ReadPosition)


def test_given_an_intent_when_the_order_was_canceled_before_we_heard_of_it_then_it_was_accepted_and_ended() -> None:
    pending.when(reported("canceled", 4, 99)).then(
        OrderAccepted, like(FillsRecorded, filled_qty=Decimal(4)), like(OrderEnded, how="canceled")
    ).is_in("rejected")


@pytest.mark.parametrize("status", ["new", "pending_cancel", "done_for_day", "cancel_rejected"])
def test_given_a_working_order_when_a_status_is_not_final_then_it_stays_live(status: str) -> None:
    submitted.when(reported(status)).then().has(order_live=True).is_in("submitted")
    partial.when(reported(status, 4)).then().has(order_live=True).is_in("partial")


def test_given_a_working_order_when_the_broker_says_it_does_not_work_then_it_is_live_and_a_person_hears() -> None:
    for story, so_far in ((submitted, None), (partial, 4)):
        held = story.when(reported("suspended", so_far, text="Inactive: margin"))
        held.then(like(AlarmRaised, kind="order_inactive")).has(order_live=True).is_in(story.now.state)
        assert "Inactive: margin" in held.now.alarms[-1].text
        held.when(reported("suspended", so_far)).then()  # one that is active is enough
    pending.when(reported("suspended")).then(OrderAccepted, AlarmRaised).is_in("submitted").owes(None)
    submitted.when(reported("suspended", 10, 99)).then(FillsRecorded)  # it is filled whole: nothing waits


def test_given_fills_when_reports_are_doubled_or_late_then_nothing_follows() -> None:
    s = submitted.when(reported("partially_filled", 6, 99))
    for stale in (reported("new"), reported("partially_filled", 6, 99), reported("partially_filled", 2, 99)):
        s.when(stale).then().has(filled_qty=Decimal(6))


def test_given_fills_when_the_terminal_record_says_less_then_they_are_not_forgotten() -> None:
    for status in ("canceled", "expired", "rejected", "filled"):
        partial.when(reported(status, 2, 99)).then(like(OrderEnded, filled_qty=Decimal(4))).has(sold_qty=Decimal(4))
    unprotected.when(reported("partially_filled", 4, 99), reported("canceled", 2, 99)).then(
        like(OrderEnded, filled_qty=Decimal(4))
    ).has(sold_qty=Decimal(4))


def test_given_fills_when_a_report_leaves_the_quantity_out_then_missing_is_not_zero() -> None:
    partial.when(reported("partially_filled", None)).then().has(filled_qty=Decimal(4))
    # Over, but with how much filled? Our own count is no record (the order is looked up), so nothing ends yet.
    partial.when(reported("canceled", None)).then().has(remaining_qty=Decimal(6), order_live=True)
    partial.when(reported("canceled", 7)).then(FillsRecorded, like(OrderEnded, filled_qty=Decimal(7)))
    partial.when(reported("filled", None)).then(like(FillsRecorded, filled_qty=Decimal(10)))


def test_given_fills_without_a_price_when_a_report_brings_it_then_it_is_recorded() -> None:
    s = submitted.when(reported("partially_filled", 4)).has(avg_exit_price=None)
    s.when(reported("partially_filled", 4, 99)).then(
        like(FillsRecorded, filled_qty=Decimal(4), avg_fill_price=Decimal(99))
    ).when(reported("partially_filled", 4, 99)).then()


@pytest.mark.parametrize("price", ["NaN", "Infinity", "0", "-1"])
def test_given_a_fill_at_an_impossible_price_when_it_is_recorded_then_the_price_is_unknown(price: str) -> None:
    submitted.when(reported("partially_filled", 4, price)).then(
        like(FillsRecorded, filled_qty=Decimal(4), avg_fill_price=None)
    ).when(reported("partially_filled", 4, price)).then()
    expired.when(reported("expired", 5, price)).then(like(FillsRecorded, avg_fill_price=None))
    second.when(reported("expired", 5, price, attempt=1)).then(
        ProtectionLost, like(FillsRecorded, filled_qty=Decimal(5), avg_fill_price=None), CancelRequested, AlarmRaised
    )


def test_given_the_last_fill_when_the_broker_calls_it_partial_then_the_order_is_over_all_the_same() -> None:
    partial.when(reported("partially_filled", 10, 99)).then(FillsRecorded).has(order_live=False).owes(ReadPosition)


def test_given_a_report_of_somebody_elses_order_then_nothing_follows() -> None:
    stranger = ExecutionReport(
        client_order_id="manual-1", status=OrderStatus.FILLED, at=after(61), filled_qty=Decimal(9)
    )
    for s in (monitoring, pending, partial, filled, unprotected):
        s.when(Report(at=after(61), report=stranger)).then()


# --- flat is a proof --------------------------------------------------------------------------------------------------


def test_given_all_is_sold_when_the_broker_shows_flat_then_the_exit_is_complete_and_cools_down_from_the_fill() -> None:
    partial.when(reported("filled", 10, "98.5", at=70)).is_in("partial").when(holds(0, at=75, reads=1)).then(
        ExitCompleted(
            filled_qty=Decimal(10),
            avg_fill_price=Decimal("98.5"),
            filled_at=after(70),
            at=after(75),
            cooldown_until=after(370),
        )
    ).is_in("filled").owes(None)


def test_given_all_is_sold_when_the_broker_still_shows_some_then_it_is_read_again_and_then_a_person_is_told() -> None:
    s = partial.when(reported("filled", 10, 99))
    s.when(holds(3, reads=READS_MIN - 1)).then().owes(ReadPosition)
    s.when(holds(3)).then(ProtectionLost, AlarmRaised).is_in("unprotected")


def test_given_an_order_that_may_be_live_when_the_broker_shows_flat_then_it_is_no_proof() -> None:
    for s in (pending, submitted, partial):
        assert ExitCompleted not in map(type, s.when(holds(0)).news)


def test_given_a_position_when_it_looks_flat_less_than_three_times_then_it_is_kept() -> None:
    for reads in range(1, READS_MIN):
        monitoring.when(holds(0, reads=reads)).then()
        expired.when(holds(0, reads=reads)).then()
        unprotected.when(reported("canceled", 0), holds(0, reads=reads)).is_in("unprotected")


def test_given_a_position_when_it_is_closed_by_hand_then_it_is_over_and_cools_down() -> None:
    monitoring.when(holds(0)).then(
        PositionClosedElsewhere(how="by_hand", remaining_qty=Decimal(10), at=after(62), cooldown_until=after(362))
    ).is_in("closed")
    expired.when(holds(0)).then(like(PositionClosedElsewhere, how="by_hand", remaining_qty=Decimal(6)))


def test_given_a_working_order_when_less_is_left_than_it_could_sell_then_it_is_canceled_before_anything_else() -> None:
    for s, left in ((submitted, 0), (submitted, 7), (partial, 0), (partial, 5)):
        s.when(holds(left, reads=READS_MIN - 1)).then()
        s.when(holds(left)).then(like(CancelRequested, client_order_id=order_id(1))).is_in("canceling").owes(Cancel)
    for s, left in ((submitted, 10), (partial, 6), (partial, 10)):
        s.when(holds(left)).then()
    submitted.when(holds(0), reported("canceled", 0, at=63), holds(0, at=70)).then(
        like(PositionClosedElsewhere, how="by_hand")
    )


def test_given_a_position_when_the_broker_shows_the_other_side_then_a_person_is_told_and_a_live_order_is_ended() -> (
    None
):
    monitoring.when(holds(-3)).then(ProtectionLost, AlarmRaised)
    for s in (submitted, partial):
        s.when(holds(-3)).then(ProtectionLost, CancelRequested, AlarmRaised).is_in("unprotected").owes(Cancel)


def test_given_a_monitored_position_when_its_quantity_changes_then_it_is_resized() -> None:
    monitoring.when(holds(12, reads=1, entry=101)).then(
        like(PositionResized, qty=Decimal(12), entry_price=Decimal(101))
    ).when(holds(12, reads=1, entry=101)).then().has(remaining_qty=Decimal(12))
    monitoring.when(holds(7, reads=READS_MIN - 1)).then()
    monitoring.when(holds(7)).then(like(PositionResized, qty=Decimal(7), entry_price=Decimal(100)))
    monitoring.when(holds(10, entry="100.5")).then(like(PositionResized, entry_price=Decimal("100.5")))


@pytest.mark.parametrize("entry", ["0", "-1", "NaN", "Infinity"])
def test_given_a_read_with_an_impossible_entry_price_then_the_known_one_stands(entry: str) -> None:
    monitoring.when(holds(10, entry=entry)).then()
    monitoring.when(holds(12, entry=entry)).then(like(PositionResized, entry_price=Decimal(100)))


@pytest.mark.parametrize("qty", ["NaN", "Infinity", "-Infinity"])
def test_given_a_read_that_is_no_number_then_nothing_follows(qty: str) -> None:
    for s in (monitoring, submitted, expired, partial.when(reported("filled", 10, 99)), unprotected):
        s.when(holds(qty)).then()


# --- ids --------------------------------------------------------------------------------------------------------------

PARTS = st.text(st.characters(codec="utf-8"), max_size=40)


@for_all(PARTS, PARTS, st.sampled_from(Side), PARTS, st.integers(1, 10**6))
def test_ids_are_pure_short_and_plain(account: str, symbol: str, side: Side, epoch: str, attempt: int) -> None:
    name = position_id(account, symbol, side, epoch)
    assert client_order_id(name, attempt, "xf1") == client_order_id(str(name.encode(), "utf-8"), attempt, "xf1")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,48}", client_order_id(name, attempt, "xf1"))


def test_each_attempt_and_each_position_has_an_id_of_its_own() -> None:
    names = [
        position_id(account, symbol, side, epoch)
        for account in ("a1", "a2")
        for symbol in ("AAPL", "MSFT")
        for side in Side
        for epoch in ("20240102T143000Z", "20240103T143000Z")
    ]
    forms = ("xf1", "xf2", "xf2-20", "uuid")
    ids = [client_order_id(name, attempt, form) for name in names for attempt in range(1, 30) for form in forms]
    assert len(set(ids)) == len(ids)


def test_the_ids_of_stored_orders_never_change() -> None:
    assert order_id(1) == "xf1-05fe1127a532a69278dc268dec996b92-1"
    assert order_id(2) == "xf1-05fe1127a532a69278dc268dec996b92-2"


def test_given_fills_taken_back_unheard_of_when_the_end_is_reported_then_it_is_known() -> None:
    s = submitted.when(reported("canceled", 0, corrected=True)).then(like(OrderEnded, filled_qty=0, corrected=True))
    assert s.now.corrected_orders == (order_id(1),)
    plain = submitted.when(reported("canceled", 0)).then(like(OrderEnded, filled_qty=0))
    assert plain.now.corrected_orders == ()
