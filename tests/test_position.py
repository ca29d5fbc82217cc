"""What a position is told, and what follows: the protocol with the broker as `decide` sees it, and its invariants."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, localcontext
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionEvent,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
)
from exitfsm.lifecycle import State, advance
from exitfsm.messages import (
    Acknowledge,
    ChangePolicy,
    Contradiction,
    ForceExit,
    GiveWay,
    Message,
    PositionRead,
    RaiseAlarm,
    Recover,
    Release,
    Report,
)
from exitfsm.ports import CAREFUL, AssetRules, Capabilities
from exitfsm.position import (
    READS_MIN,
    Cancel,
    LookUp,
    Position,
    ReadPosition,
    Submit,
    client_order_id,
    decide,
    evolve,
    fold,
    is_exit_of,
    owed,
    position_id,
    replay,
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
    policy,
    refused,
    reported,
    seen,
    timer,
    to_open,
    triggered,
)
from exitfsm.values import ExecutionReport, ExitType, OrderSide, OrderStatus, Side, TimeInForce

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


@pytest.mark.parametrize("status", ["new", "pending_cancel", "suspended", "done_for_day", "cancel_rejected"])
def test_given_a_working_order_when_a_status_is_not_final_then_it_stays_live(status: str) -> None:
    submitted.when(reported(status)).then().has(order_live=True).is_in("submitted")
    partial.when(reported(status, 4)).then().has(order_live=True).is_in("partial")


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


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_given_a_refused_order_when_the_delay_is_over_and_the_position_was_read_then_the_next_attempt_follows() -> None:
    s = pending.when(refused()).then(
        like(OrderEnded, how="refused", refusal="insufficient_qty", filled_qty=Decimal(0), next_attempt_at=after(91))
    )
    s.is_in("rejected").owes(None, after(90)).owes(ReadPosition, after(91))
    s.when(holds(10, at=90)).then()
    s.when(holds(10, at=91, reads=1)).then(
        like(ExitRetried, client_order_id=order_id(2), attempt=2, qty=Decimal(10), order_type="market", budget_spent=1)
    ).is_in("pending").owes(Submit)


def test_given_an_ended_order_when_time_passes_then_nothing_is_sent_without_a_read() -> None:
    expired.when(timer(10_000)).then().is_in("rejected").owes(ReadPosition, after(10_000))


def test_given_a_partial_fill_when_the_order_expires_then_the_next_attempt_sells_the_rest() -> None:
    second.then(like(ExitRetried, attempt=2, qty=Decimal(6))).when(
        reported("new", at=201), reported("filled", 6, 98, at=202), holds(0, at=203)
    ).then(like(ExitCompleted, filled_qty=Decimal(10), avg_fill_price=Decimal("98.4")))


def test_given_others_sold_some_when_the_next_attempt_is_sized_then_it_is_no_more_than_the_broker_shows() -> None:
    expired.when(holds(5, at=200, reads=READS_MIN - 1)).then()
    s = expired.when(holds(5, at=200)).then(like(ExitRetried, qty=Decimal(5), sold_elsewhere=Decimal(1)))
    s.when(reported("filled", 5, 99, at=201), holds(0, at=202)).then(like(ExitCompleted, filled_qty=Decimal(9)))


def test_given_more_is_held_than_is_ours_when_the_next_attempt_is_sized_then_it_sells_only_what_is_ours() -> None:
    expired.when(holds(50, at=200, reads=1)).then(like(ExitRetried, qty=Decimal(6)))


def test_given_the_budget_is_spent_when_the_last_attempt_ends_then_the_position_is_unprotected_with_an_alarm() -> None:
    s = pending
    for attempt in range(1, 5):
        s = s.when(refused(f"reason {attempt}", at=100 * attempt)).is_in("rejected")
        s = s.when(holds(10, at=100 * attempt + 50))
        s = s.then(like(ExitRetried, attempt=attempt + 1, budget_spent=attempt)) if attempt < 4 else s
    s.then(ProtectionLost, like(AlarmRaised, kind="protection_lost")).is_in("unprotected").owes(ReadPosition)
    assert s.now.attempt == 4  # the first, and max_resubmit_attempts more
    s.when(timer(9999), holds(10, at=9999)).then()


def test_given_no_budget_when_the_first_attempt_ends_then_there_is_no_second() -> None:
    p = policy(partial_fills={"max_resubmit_attempts": 0})
    given(opened(policy=p), triggered()).when(refused(), holds(10, at=200)).then(ProtectionLost, AlarmRaised)


def test_given_a_day_order_when_it_expires_at_the_close_then_the_budget_is_not_spent() -> None:
    s = pending
    for day in range(1, 8):
        s = s.when(reported("expired", 0, at=86_400 * day), holds(10, at=86_400 * day + 60))
        s.then(like(ExitRetried, attempt=day + 1, budget_spent=0))


def test_given_an_order_that_is_not_for_the_day_when_it_expires_then_the_budget_is_spent() -> None:
    ioc = msgspec.structs.replace(triggered(), time_in_force=TimeInForce.IOC)
    broker = Capabilities(stocks=AssetRules(times_in_force=(TimeInForce.IOC,)), late_fills=False)
    given(opened(), ioc).at(broker).when(reported("expired", 0), holds(10, at=200)).then(
        like(ExitRetried, budget_spent=1, time_in_force="ioc")
    )


def test_given_two_identical_refusals_in_a_row_then_no_third_is_tried() -> None:
    again = pending.when(refused("not_tradable"), holds(10, at=100))
    again.when(refused("not_tradable", at=101)).then(OrderEnded, ProtectionLost, AlarmRaised).is_in("unprotected")
    again.when(refused("insufficient_qty", at=101)).then(OrderEnded).is_in("rejected")
    again.when(reported("new", at=101), reported("rejected", 0, at=102, refusal="not_tradable")).then(
        OrderEnded, ProtectionLost, AlarmRaised
    )
    other = again.when(reported("expired", 0, at=101), holds(10, at=200), refused("not_tradable", at=201))
    other.then(OrderEnded).is_in("rejected")


def test_given_a_canceled_order_when_the_broker_declares_a_window_then_the_next_attempt_waits_for_it() -> None:
    slow = Capabilities(late_fills=True, late_fill_window_s=120)
    partial.at(slow).when(reported("canceled", 4)).then(like(OrderEnded, next_attempt_at=after(61 + 120)))
    partial.when(reported("canceled", 4)).then(like(OrderEnded, next_attempt_at=after(61 + 30)))
    sure = Capabilities(late_fills=False)
    partial.at(sure).when(reported("canceled", 4)).then(like(OrderEnded, next_attempt_at=after(61 + 30)))


def test_given_a_canceled_order_when_the_broker_declares_no_window_then_no_attempt_follows_but_an_alarm() -> None:
    s = (
        partial.at(CAREFUL)
        .when(reported("canceled", 4))
        .then(
            like(OrderEnded, how="canceled", next_attempt_at=None),
            ProtectionLost,
            like(AlarmRaised, kind="protection_lost"),
        )
    )
    s.is_in("unprotected").when(timer(9999), holds(6, at=9999)).then()


def test_given_the_broker_calls_an_order_filled_that_is_short_then_it_is_over_with_the_rest_to_sell() -> None:
    submitted.when(reported("filled", 6, 99)).then(
        like(FillsRecorded, filled_qty=Decimal(6)), like(OrderEnded, how="canceled", filled_qty=Decimal(6))
    )


def test_given_a_step_when_the_next_attempt_is_sized_then_it_is_rounded_down_and_a_residue_closes() -> None:
    broker = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal("0.1"), qty_min=Decimal("0.5")))
    s = given(opened(qty="6.25"), triggered(qty="6.25")).at(broker).when(reported("expired", 3, 99))
    s.when(holds("3.25", at=200)).then(like(ExitRetried, qty=Decimal("3.2")))
    s.when(holds("0.4", at=200)).then(like(PositionClosedElsewhere, how="residue")).is_in("closed")


def test_given_a_step_when_all_that_can_be_sold_is_sold_then_the_residue_closes_the_position() -> None:
    broker = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal("0.1")))
    s = given(opened(qty="6.25")).at(broker).when(seen(99)).then(like(ExitTriggered, qty=Decimal("6.2")))
    s = s.when(reported("filled", "6.2", 99)).owes(ReadPosition)
    s.when(holds("0.05", at=62)).then(like(PositionClosedElsewhere, how="residue", remaining_qty=Decimal("0.05")))


# --- limits -----------------------------------------------------------------------------------------------------------


def test_given_a_limit_policy_when_the_target_is_reached_then_the_limit_is_the_target_on_the_grid() -> None:
    given(opened(entry="99.99", policy=LIMIT)).when(seen(103)).then(
        like(ExitTriggered, order_type="limit", limit_price=Decimal("101.99"), level=Decimal("101.9898"))
    )
    given(opened("short", entry="99.99", policy=LIMIT)).when(seen(97)).then(
        like(ExitTriggered, order_type="limit", limit_price=Decimal("97.99"), level=Decimal("97.9902"))
    )
    given(opened(entry="0.5001", policy=LIMIT)).when(seen(0.52)).then(
        like(ExitTriggered, limit_price=Decimal("0.5102"), level=Decimal("0.510102"))
    )
    given(opened(policy=LIMIT)).when(seen(99)).then(like(ExitTriggered, order_type="market", limit_price=None))


def test_given_a_resting_limit_when_the_stop_is_breached_then_it_gives_way_to_a_market_order() -> None:
    resting.when(seen(100, at=70)).then()
    s = resting.when(seen(99, at=70)).then(
        ExitEscalated(client_order_id=order_id(1), at=after(70), why="stop_loss", price=Decimal(99))
    )
    s = s.is_in("canceling").owes(Cancel).when(seen(90, at=71)).then()
    s = s.when(reported("canceled", 0, at=72)).then(like(OrderEnded, next_attempt_at=after(77)))  # the window only
    s.when(holds(10, at=77)).then(like(ExitRetried, order_type="market", limit_price=None, budget_spent=0))


def test_given_a_resting_limit_when_it_makes_no_progress_then_it_gives_way_to_a_market_order() -> None:
    resting.when(timer(90)).then()
    resting.when(timer(91)).then(like(ExitEscalated, why="no progress")).is_in("canceling")
    moving = resting.when(reported("partially_filled", 4, 102, at=80))
    moving.when(timer(109)).then()
    moving.when(timer(110)).then(ExitEscalated)


def test_given_a_working_market_order_when_it_is_slow_then_it_is_never_canceled() -> None:
    for s in (submitted, partial):
        waited = s.when(timer(500, 60), seen(50, at=501), timer(90_000, 60))
        assert {type(e) for e in waited.history[len(s.history) :]} == {AlarmRaised}
        waited.is_in(s.now.state).has(order_live=True).owes(None, after(90_000))


def test_given_an_escalation_when_the_cancel_is_refused_then_the_limit_works_on_and_escalates_again() -> None:
    s = canceling.when(reported("cancel_rejected", 4, at=201)).then(
        CancelRefused, like(FillsRecorded, filled_qty=Decimal(4))
    )
    s = s.is_in("partial").has(order_live=True)
    s.when(timer(202)).then()
    s.when(timer(231)).then(ExitEscalated)
    resting.when(timer(200), reported("cancel_rejected", 0, at=201)).then(CancelRefused).is_in("submitted")
    # The escalation is off: what ends this order later counts as it would have without it.
    s.when(reported("rejected", 4, at=210), holds(6, at=300)).then(like(ExitRetried, budget_spent=1))
    s.when(reported("expired", 4, at=210), holds(6, at=300)).then(like(ExitRetried, order_type="limit"))


def test_given_a_cancel_that_came_too_late_when_the_order_was_filled_then_nothing_is_sent_again() -> None:
    s = canceling.when(reported("filled", 10, 102, at=201)).then(FillsRecorded).is_in("canceling")
    s.has(order_live=False).owes(ReadPosition).when(holds(0, at=202)).then(ExitCompleted).is_in("filled")


def test_given_a_cancel_under_way_when_fills_come_inside_then_they_count() -> None:
    s = canceling.when(reported("pending_cancel", 7, 102, at=201)).then(like(FillsRecorded, filled_qty=Decimal(7)))
    s = s.is_in("canceling").when(reported("canceled", 8, 102, at=202))
    s.then(like(FillsRecorded, filled_qty=Decimal(8)), like(OrderEnded, filled_qty=Decimal(8)))
    s.when(holds(2, at=300)).then(like(ExitRetried, qty=Decimal(2), order_type="market"))


def test_given_a_limit_that_expired_at_the_close_when_it_is_tried_again_then_it_is_the_same_limit() -> None:
    resting.when(reported("expired", 0), holds(10, at=200)).then(
        like(ExitRetried, order_type="limit", limit_price=Decimal(102))
    )


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


# --- operators --------------------------------------------------------------------------------------------------------


def test_given_a_monitored_position_when_an_operator_wants_out_then_it_exits_at_market_without_needing_a_price() -> (
    None
):
    order = ForceExit(at=after(60), who="ann", reason="news")
    given(opened(policy=LIMIT)).when(order).then(
        like(ExitTriggered, reason="emergency", order_type="market", detail="ann: news", trigger_price=Decimal(100))
    )
    monitoring.when(ForceExit(at=after(60), price=Decimal(97))).then(like(ExitTriggered, trigger_price=Decimal(97)))
    monitoring.when(ForceExit(at=after(60), price=Decimal("NaN"))).then(like(ExitTriggered, trigger_price=Decimal(100)))


def test_given_refused_bars_or_a_switched_off_policy_when_an_operator_wants_out_then_it_exits() -> None:
    monitoring.when(seen("NaN"), ForceExit(at=after(90))).then(RefusalEnded, like(ExitTriggered, reason="emergency"))
    given(opened(policy=policy(enabled=False))).when(ForceExit(at=after(60))).then(ExitTriggered)


def test_given_an_exit_under_way_when_an_operator_wants_out_then_no_second_order_is_made() -> None:
    for s in (pending, submitted, partial, canceling, expired, filled, closed, unprotected):
        s.when(ForceExit(at=after(61))).then()
    resting.when(ForceExit(at=after(70), who="ann", reason="now")).then(like(ExitEscalated, why="ann: now"))


def test_given_an_unprotected_position_when_an_operator_wants_out_then_the_next_attempt_is_made() -> None:
    ended = unprotected.when(reported("canceled", 4, 99))
    ended.when(ForceExit(at=after(300), who="ann")).then(
        like(ExitRetried, attempt=2, qty=Decimal(6), by="ann", budget_spent=0, order_type="market")
    ).is_in("pending")


def test_given_an_unprotected_position_when_it_is_released_then_it_is_watched_again_with_what_is_left() -> None:
    release = Release(at=after(300), qty=Decimal(6), entry_price=Decimal(101), who="ann")
    unprotected.when(release).then(like(AlarmRaised, kind="not_done")).is_in("unprotected")  # its order may be live
    s = unprotected.when(reported("canceled", 4, 99), release).then(
        PositionReleased(by="ann", at=after(300), qty=Decimal(6), entry_price=Decimal(101))
    )
    s.is_in("monitoring").has(remaining_qty=Decimal(6), reason=None)
    assert s.now.exit.budget_spent == 0
    s.when(seen("99.99", at=360)).then(like(ExitTriggered, attempt=2, qty=Decimal(6), client_order_id=order_id(2)))


@pytest.mark.parametrize(
    ("qty", "entry"), [("0", "100"), ("-1", "0"), ("6", "0"), ("NaN", "100"), ("6", "NaN"), ("Infinity", "1")]
)
def test_given_a_release_with_impossible_figures_then_nothing_follows(qty: str, entry: str) -> None:
    ended = unprotected.when(reported("canceled", 4, 99))
    ended.when(Release(at=after(300), qty=Decimal(qty), entry_price=Decimal(entry))).then()


def test_given_a_monitored_position_when_the_policy_changes_then_it_applies_and_otherwise_not() -> None:
    change = ChangePolicy(at=after(60), policy=policy(stop_loss={"threshold_pct": 5}), who="ann")
    monitoring.when(change).then(like(PolicyChanged, by="ann")).when(change).then().when(seen(96, at=120)).then()
    for s in (pending, submitted, partial, canceling, expired, filled, closed, unprotected):
        s.when(change).then()


def test_given_an_alarm_when_it_is_raised_again_then_it_is_not_doubled_until_it_is_acknowledged() -> None:
    raised = RaiseAlarm(at=after(60), kind="feed_lost", text="no bars")
    s = monitoring.when(raised).then(like(AlarmRaised, kind="feed_lost", text="no bars")).when(raised).then()
    s.when(RaiseAlarm(at=after(61), kind="rule_failed", text="x")).then(AlarmRaised)
    first = s.now.alarms[0].alarm_id
    s = s.when(Acknowledge(at=after(62), alarm_id=first, who="ann")).then(
        AlarmAcknowledged(alarm_id=first, by="ann", at=after(62))
    )
    s = s.has(alarms=()).when(Acknowledge(at=after(63), alarm_id=first)).then().when(raised).then(AlarmRaised)
    assert s.now.alarms[0].alarm_id != first


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (pending, "submit_unresolved"),
        (submitted, "order_stalled"),
        (partial, "order_stalled"),
        (canceling, "cancel_unresolved"),
        (expired, "retry_stalled"),
    ],
)
def test_given_a_wait_for_the_broker_when_it_lasts_too_long_then_a_person_is_told_once(
    before: Scenario, kind: str
) -> None:
    start = max(t for t in (before.now.waiting_since, before.now.next_attempt_at) if t is not None)
    early, late = (start + timedelta(seconds=s) for s in (119, 120))
    s = before.when(msgspec.structs.replace(timer(0, 120), at=early)).then()
    s = s.when(msgspec.structs.replace(timer(0, 120), at=late)).then(like(AlarmRaised, kind=kind))
    s.when(msgspec.structs.replace(timer(0, 120), at=late)).then().is_in(before.now.state)
    before.when(msgspec.structs.replace(timer(0), at=late)).then()  # where time passes only at bars


# --- time without bars, and a store that was lost ---------------------------------------------------------------------


def test_given_a_time_rule_when_no_bar_comes_then_the_timer_exits_at_the_last_known_price() -> None:
    s = given(opened(policy=policy(time_limit={"max_seconds": 600})))
    late = msgspec.structs.replace(timer(600), price=Decimal(101))
    s.when(msgspec.structs.replace(late, at=after(599))).then()
    s.when(timer(600)).then()  # without a price the bars must tell
    s.when(late).then(like(ExitTriggered, reason="time_limit", trigger_price=Decimal(101), detail="no bar came"))
    monitoring.when(late).then()


@pytest.mark.parametrize("price", ["NaN", "Infinity", "0", "-1"])
def test_given_a_time_rule_when_the_last_known_price_is_impossible_then_it_is_not_recorded_as_one(price: str) -> None:
    s = given(opened(policy=policy(time_limit={"max_seconds": 600})))
    s = s.when(msgspec.structs.replace(timer(600), price=Decimal(price)))
    assert all(e.trigger_price > 0 for e in s.news if isinstance(e, ExitTriggered))


def test_given_a_lost_store_when_our_order_is_found_at_the_broker_then_the_exit_goes_on() -> None:
    found = reported("partially_filled", 4, 99, qty=Decimal(10), attempt=2)(monitoring.now)
    recover = Recover(at=after(60), attempt=2, report=found.report)
    s = monitoring.when(recover).then(
        like(ExitTriggered, reason="recovered", attempt=2, client_order_id=order_id(2), qty=Decimal(10)),
        OrderAccepted,
        like(FillsRecorded, filled_qty=Decimal(4)),
    )
    s.is_in("partial").when(recover).then().owes(None)
    s.when(reported("expired", 4), holds(6, at=200)).then(like(ExitRetried, attempt=3, qty=Decimal(6)))


@pytest.mark.parametrize(("attempt", "qty"), [(1, "11"), (1, "NaN"), (1, "0"), (0, "10")])
def test_given_a_lost_store_when_the_order_found_cannot_be_taken_over_then_a_person_is_told(
    attempt: int, qty: str
) -> None:
    found = reported("new", 0, qty=Decimal(qty), attempt=attempt)(monitoring.now)
    s = monitoring.when(Recover(at=after(60), attempt=attempt, report=found.report))
    s.then(ProtectionLost, AlarmRaised).is_in("unprotected")


def test_given_an_order_under_another_id_when_it_is_taken_for_ours_then_nothing_follows() -> None:
    found = reported("new", 0, qty=Decimal(10), attempt=1)(monitoring.now)
    monitoring.when(Recover(at=after(60), attempt=2, report=found.report)).then()
    submitted.when(Recover(at=after(60), attempt=1, report=found.report)).then()


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


# --- whatever comes, in whatever order --------------------------------------------------------------------------------

QTYS = (None, "0", "1", "3", "4", "6", "10", "11", "0.5", "-1", "NaN", "Infinity")
PRICES = (None, "97", "99", "100", "101", "102", "105", "50", "0", "-5", "NaN", "Infinity", "99.123456789")
BAR_PRICES = tuple(p for p in PRICES if p is not None)
POLICIES = (
    policy(),
    LIMIT,
    policy(trailing_stop={"trail_pct": 1}, break_even={}, evaluate_on="range"),
    policy(atr_levels={}, time_limit={"max_seconds": 900}, profit_taking={"order_type": "limit"}),
    policy(
        target_ladder={"steps": [{"after_seconds": 60, "threshold_pct": "0.5"}]},
        partial_fills={"max_resubmit_attempts": 1},
    ),
    policy(enabled=False),
)
BROKERS = (
    BROKER,
    CAREFUL,
    Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal(1), qty_min=Decimal(2))),
)
SECONDS = (0, 1, 30, 61, 600)
#: What a position can be told, as plain data: a kind, and for each of its parts what to choose from.
TOLD: dict[str, tuple[tuple[Any, ...], ...]] = {
    "bar": (BAR_PRICES, BAR_PRICES, (None, "99", "100"), (True, False, False), (None, None, "sell"), (0, 1, 9)),
    "report": (tuple(OrderStatus), QTYS, PRICES, (0, 0, 0, -1, 1, 7), (True, False, False, False), (None, "a", "b")),
    "refused": (("a", "b"),),
    "read": (tuple(q for q in QTYS if q), (1, READS_MIN), PRICES),
    "time": ((None, 60.0), (None, None, "100", "NaN", "0")),
    "recover": ((0, 1, 2, 9), QTYS, tuple(OrderStatus), QTYS),
    "force": (PRICES, QTYS),
    "policy": (POLICIES,),
    "release": (tuple(q for q in QTYS if q), BAR_PRICES),
    "acknowledge": ((0, -1),),
    "alarm": (("x", "price_jump"),),
    "doubt": (("why",),),
    "open": ((None,),),
}
Command = tuple[Any, ...]
COMMANDS = st.lists(
    st.one_of(
        *(
            st.tuples(st.just(kind), st.sampled_from(SECONDS), *map(st.sampled_from, parts))
            for kind, parts in [*TOLD.items(), *[(k, TOLD[k]) for k in ("bar", "report", "report", "read")]]
        )
    ),
    max_size=30,
)
STARTS = st.tuples(st.sampled_from(Side), st.sampled_from(POLICIES), st.sampled_from(BROKERS))


def dec(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def message_of(p: Position, command: Command, at: Any) -> Message:
    """The message that a command means for this position."""
    match command:
        case "bar", _, close, other, reference, paused, verdict, count:
            prices = sorted((close, other), key=lambda text: float(Decimal(text)) if text != "NaN" else 0.0)
            the_bar = msgspec.structs.replace(seen(bar(close, low=prices[0], high=prices[1])), at=at)
            context = {"reference_price": dec(reference), "paused": paused, "verdict": verdict, "refused_count": count}
            moved = type(the_bar.bar)("AAPL", at, close, prices[1], prices[0], close)
            return msgspec.structs.replace(the_bar, bar=moved, **context)
        case "report", _, status, qty, price, which, corrected, refusal:
            attempt = max(p.attempt + which, 0)
            message = reported(status, qty, price, attempt=attempt, corrected=corrected, refusal=refusal)(p)
        case "refused", _, kind:
            message = refused(kind)(p)
        case "read", _, qty, reads, entry:
            return msgspec.structs.replace(holds(qty, reads=reads, entry=entry)(p), at=at, began=at)
        case "time", _, patience, price:
            return msgspec.structs.replace(timer(0, patience), at=at, price=dec(price))
        case "recover", _, attempt, qty, status, done:
            found = reported(status, done, qty=dec(qty), attempt=attempt)(p).report
            return Recover(at=at, attempt=attempt, report=found)
        case "force", _, price, qty:
            return ForceExit(at=at, price=dec(price), qty=dec(qty))
        case "policy", _, new:
            return ChangePolicy(at=at, policy=new)
        case "release", _, qty, entry:
            return Release(at=at, qty=Decimal(qty), entry_price=Decimal(entry))
        case "acknowledge", _, index:
            return Acknowledge(at=at, alarm_id=p.alarms[index].alarm_id if p.alarms else "none")
        case "alarm", _, kind:
            return RaiseAlarm(at=at, kind=kind, text=kind)
        case "doubt", _, why:
            return Contradiction(at=at, why=why)
        case _:
            return to_open(opened())
    return msgspec.structs.replace(message, at=at, report=msgspec.structs.replace(message.report, at=at))


def walk(
    side: Side, rules: Any, broker: Capabilities, commands: Iterable[Command]
) -> list[tuple[Message, tuple[Event, ...], Position]]:
    """Tell a position all this; each step as (message, its events, the position after it)."""
    p = evolve(None, opened(side, policy=rules, atr="0.7"))
    steps, at = [], p.opened_at
    for command in commands:
        at += timedelta(seconds=command[1])
        message = message_of(p, command, at)
        events = decide(p, message, broker)
        p = fold(p, events)
        assert p is not None
        steps.append((message, events, p))
    return steps


def events_of(steps: list[tuple[Message, tuple[Event, ...], Position]]) -> list[Event]:
    return [event for _, events, _ in steps for event in events]


@for_all(STARTS, COMMANDS)
def test_whatever_comes_every_event_is_legal_and_the_log_tells_it_all(start: Any, commands: list[Command]) -> None:
    side, rules, broker = start
    first = opened(side, policy=rules, atr="0.7")
    before, log = evolve(None, first), [first]
    for message, events, p in walk(side, rules, broker, commands):
        assert decide(before, message, broker) == events  # deciding changes nothing, and is the same every time
        state: State = before.state
        for event in events:
            state = advance(state, type(event))
        assert p.state is state
        log += events
        assert p.version == len(log)
        assert replay(log) == p
        if isinstance(message, (Report, PositionRead)):
            assert decide(p, message, broker) == ()  # saying it twice is saying it once
        before = p
    stored = [msgspec.json.decode(msgspec.json.encode(e), type=PositionEvent) for e in log]
    assert stored == log
    assert replay(stored) == before


@for_all(STARTS, COMMANDS)
def test_whatever_comes_folding_all_at_once_is_folding_one_by_one_and_touches_nothing_that_was_handed_out(
    start: Any, commands: list[Command]
) -> None:
    log = [opened(start[0], policy=start[1], atr="0.7"), *events_of(walk(*start, commands))]
    alone: list[Position] = []
    for event in log:
        alone.append(evolve(alone[-1] if alone else None, event))
    as_they_were = [msgspec.json.encode(p) for p in alone]
    for n in range(len(log) + 1):
        begun = fold(None, log[:n])
        assert begun == (alone[n - 1] if n else None)
        assert fold(begun, log[n:]) == alone[-1]
        assert begun == (alone[n - 1] if n else None)
    assert [msgspec.json.encode(p) for p in alone] == as_they_were


@for_all(STARTS, COMMANDS)
def test_whatever_comes_no_more_is_sold_or_on_offer_than_is_held(start: Any, commands: list[Command]) -> None:
    for _, _, p in walk(*start, commands):
        on_offer = p.leaves_qty if p.order_live else Decimal(0)
        if p.state is not State.UNPROTECTED:
            assert p.sold_qty + on_offer + p.sold_elsewhere <= p.qty
        if p.state is State.MONITORING:
            assert p.remaining_qty > 0
            assert not p.order_live
        if p.state is State.FILLED:
            assert p.sold_qty + p.sold_elsewhere == p.qty
        assert p.order_live <= (p.state.order_may_be_live or p.state is State.UNPROTECTED)


@for_all(STARTS, COMMANDS)
def test_whatever_comes_an_attempt_follows_only_when_the_one_before_is_over(
    start: Any, commands: list[Command]
) -> None:
    attempt, over, name = 0, True, evolve(None, opened(start[0])).position_id
    for message, events, p in walk(*start, commands):
        for event in events:
            if isinstance(event, (ExitTriggered, ExitRetried)):
                assert over
                # An order found at the broker after the store was lost may be of any later attempt.
                assert event.attempt > attempt if isinstance(message, Recover) else event.attempt == attempt + 1
                assert event.client_order_id == client_order_id(name, event.attempt, "xf1")
                assert event.qty > 0
                attempt, over, qty = event.attempt, False, event.qty
            elif isinstance(event, OrderAccepted) and event.client_order_id == client_order_id(name, attempt, "xf1"):
                over = False  # refused, and taken after all
            elif isinstance(event, OrderEnded) or (
                isinstance(event, FillsRecorded)
                and event.client_order_id == client_order_id(name, attempt, "xf1")
                and event.filled_qty >= qty
            ):
                over = True
            if isinstance(event, ExitRetried) and not isinstance(message, ForceExit):
                assert isinstance(message, PositionRead)  # never without a fresh read
                assert event.qty <= message.qty
            if isinstance(event, ExitRetried):
                limit = p.policy.partial_fills.max_resubmit_attempts
                assert event.budget_spent <= limit or event.by
        assert over == (not p.order_live)


@for_all(STARTS, COMMANDS)
def test_whatever_comes_the_figures_are_decimals_that_exist(start: Any, commands: list[Command]) -> None:
    steps = walk(*start, commands)
    for struct in [*events_of(steps), *(one for _, _, p in steps for one in (p, p.stops, p.exit, *p.orders))]:
        for field in struct.__struct_fields__:
            value = getattr(struct, field)
            assert not isinstance(value, float), field
            if isinstance(value, Decimal):
                assert value.is_finite(), field
                assert value >= 0 or field in ("stop", "limit_price", "level", "remaining_qty"), field


@for_all(STARTS, COMMANDS)
def test_whatever_comes_a_stop_only_ever_tightens(start: Any, commands: list[Command]) -> None:
    sign = start[0].sign
    stops: dict[ExitType, Decimal] = {}
    for event in events_of(walk(*start, commands)):
        if isinstance(event, PositionResized):
            stops.clear()  # another entry price: the stops of the old one are gone
        if isinstance(event, StopMoved):
            if event.rule in stops:
                assert event.stop * sign > stops[event.rule] * sign
            stops[event.rule] = event.stop


@for_all(STARTS, COMMANDS)
def test_whatever_comes_open_quantity_has_a_way_out_or_an_alarm(start: Any, commands: list[Command]) -> None:
    alarmed = False
    for _, events, p in walk(*start, commands):
        for event in events:
            if isinstance(event, ProtectionLost):
                alarmed = False
            alarmed = alarmed or (isinstance(event, AlarmRaised) and event.kind == "protection_lost")
        action = owed(p, p.opened_at + timedelta(days=1))
        match p.state:
            case State.UNPROTECTED:
                assert alarmed
            case State.PENDING:
                assert isinstance(action, Submit)
                assert action.order.qty == p.leaves_qty > 0
            case State.CANCELING:
                assert isinstance(action, Cancel if p.order_live else ReadPosition)
            case State.REJECTED:
                assert isinstance(action, ReadPosition)
            case State.SUBMITTED | State.PARTIAL:
                assert p.order_live or isinstance(action, ReadPosition)
            case _:
                assert action is None
        ids = [a.alarm_id for a in p.alarms]
        assert len(set(ids)) == len(ids)


@for_all(STARTS, COMMANDS)
def test_whatever_comes_a_terminal_position_is_disturbed_only_by_a_contradiction(
    start: Any, commands: list[Command]
) -> None:
    steps = walk(*start, commands)
    for (_, _, before), (_, events, _) in pairwise(steps):
        if before.state.terminal and events:
            assert {type(e) for e in events} <= {AlarmRaised, AlarmAcknowledged} or type(events[0]) is ProtectionLost


@for_all(STARTS, COMMANDS, st.integers(6, 50))
def test_whatever_comes_the_decimal_context_of_the_bot_changes_nothing(
    start: Any, commands: list[Command], digits: int
) -> None:
    qty, entry = Decimal("123456.123456789"), Decimal("98765.987654321")
    told = [holds(qty), seen(bar(entry)), seen(bar(entry * 2)), reported("partially_filled", "23456.111111111", entry)]
    told += [reported("canceled", "23456.222222222"), holds("50000.987654321", at=300)]  # others sold of it, too

    def run() -> bytes:
        s = given(opened(start[0], qty=qty, entry=entry, policy=start[1])).at(start[2]).when(*told)
        return msgspec.json.encode([s.history, events_of(walk(*start, commands)), s.now.remaining_qty])

    expected = run()
    with localcontext() as context:
        context.prec = digits
        assert run() == expected


@pytest.mark.parametrize("digits", [6, 9, 28])
def test_given_a_bot_that_rounds_when_orders_are_sized_then_they_are_rounded_down_all_the_same(digits: int) -> None:
    whole = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal(1)))
    qty, sold = Decimal("123456.923456789"), Decimal("23456.511111111")
    with localcontext() as context:
        context.prec = digits
        s = given(opened(qty=qty)).at(whole).when(seen(99)).then(like(ExitTriggered, qty=Decimal(123456)))
        s = s.when(reported("expired", sold, 99)).has(remaining_qty=Decimal("100000.412345678"))
        s = s.when(holds("99999.912345678", at=200))
        s.then(like(ExitRetried, qty=Decimal(99999), sold_elsewhere=Decimal("0.5")))
        s.has(remaining_qty=Decimal("99999.912345678"), leaves_qty=Decimal(99999))


# --- determinism ------------------------------------------------------------------------------------------------------


def digest_of_many_walks() -> str:
    """Fingerprint of all events of a few hundred walks: the same on every machine and in every process."""
    rng = random.Random(20240102)
    digest = hashlib.sha256()
    for _ in range(200):
        start = rng.choice(list(Side)), rng.choice(POLICIES), rng.choice(BROKERS)
        kinds = rng.choices(list(TOLD), k=40, weights=[8, 10, 2, 6, *[1] * (len(TOLD) - 4)])
        commands = [(kind, rng.choice(SECONDS), *map(rng.choice, TOLD[kind])) for kind in kinds]
        for event in events_of(walk(*start, commands)):
            digest.update(msgspec.json.encode(event))
    return digest.hexdigest()


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_the_same_messages_give_the_same_bytes_in_every_process(hash_seed: str) -> None:
    code = "import test_position; print(test_position.digest_of_many_walks())"
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": "Asia/Tokyo", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest_of_many_walks()


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
    works.when(holds(6, 95, record="expired")).then(ExitRetried)


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
    first, second_id = client_order_id(p.position_id, 1, "xf1"), client_order_id(p.position_id, 2, "xf1")
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


# --- against a venue that is truthful, and a world that is not kind ---------------------------------------------------


@dataclass
class Booked:
    """One order as the venue has it."""

    id: str
    qty: int
    filled: int = 0
    status: OrderStatus = OrderStatus.NEW
    ended_at: float = 0


class World:
    """A venue, a shell around one position, and between them a network that loses, delays, doubles and reorders.

    The venue refuses a repeated id for ever, may still fill in the five seconds after a cancel, and says so. The shell
    does what is owed, as it is owed, and after a crash knows nothing but the log.
    """

    def __init__(self, rules: Any) -> None:
        self.log: list[Event] = [opened(policy=rules)]
        self.p = replay(self.log)
        self.held = 10
        self.orders: dict[str, Booked] = {}
        self.said: list[tuple[str, OrderStatus, int]] = []
        self.on_the_way: list[tuple[str, int]] = []
        self.at = 60.0
        self.unknown = False
        self.reads = (-1, 0)

    # the venue

    def live(self) -> list[Booked]:
        return [o for o in self.orders.values() if not o.status.terminal]

    def arrive(self, order_id: str, qty: int) -> None:
        if order_id not in self.orders:
            self.orders[order_id] = Booked(order_id, qty)
            self.say(self.orders[order_id])

    def say(self, order: Booked) -> None:
        self.said.append((order.id, order.status, order.filled))

    def fill(self, order: Booked, qty: int) -> None:
        qty = min(qty, order.qty - order.filled)
        order.filled += qty
        self.held -= qty
        if not order.status.terminal:
            order.status = OrderStatus.FILLED if order.filled == order.qty else OrderStatus.PARTIALLY_FILLED
        self.say(order)

    def end(self, order: Booked, status: OrderStatus) -> None:
        order.status, order.ended_at = status, self.at
        self.say(order)

    # the shell

    def tell(self, message: Message) -> None:
        events = decide(self.p, message, BROKER)
        state: State = self.p.state
        for event in events:
            state = advance(state, type(event))
        self.log += events
        after_it = fold(self.p, events)
        assert after_it is not None
        if after_it.client_order_id != self.p.client_order_id:
            self.unknown = False
        self.p = after_it

    def hear(self, order_id: str, status: OrderStatus, filled: int) -> None:
        if order_id == self.p.client_order_id:
            self.unknown = False
        report = ExecutionReport(
            client_order_id=order_id,
            status=status,
            at=after(self.at),
            filled_qty=Decimal(filled),
            avg_fill_price=Decimal(99) if filled else None,
        )
        self.tell(Report(at=after(self.at), report=report))

    def look_up(self, order_id: str) -> None:
        order = self.orders.get(order_id)
        if order is not None:
            self.hear(order.id, order.status, order.filled)
        elif order_id == self.p.client_order_id:
            self.unknown = False  # this venue refuses a repeated id, so the same order may be sent again

    def act(self, luck: int) -> None:
        action = owed(self.p, after(self.at), outcome_unknown=self.unknown)
        match action:
            case Submit(order=order):
                self.unknown = True
                if luck == 0:
                    self.on_the_way.append((order.client_order_id, int(order.qty)))  # and the answer never comes
                    return
                self.arrive(order.client_order_id, int(order.qty))
                if luck == 1:
                    return  # it arrived, and the answer is lost
                self.look_up(order.client_order_id)
            case LookUp(client_order_id=order_id):
                if luck:
                    self.look_up(order_id)
            case Cancel(client_order_id=order_id):
                order = self.orders.get(order_id)
                if luck and order is not None and not order.status.terminal:
                    self.end(order, OrderStatus.PENDING_CANCEL if luck == 1 else OrderStatus.CANCELED)
            case ReadPosition():
                reads = self.reads[1] + 1 if self.reads[0] == self.held else 1
                self.reads = (self.held, reads)
                known = self.orders.get(self.p.client_order_id or "")
                if self.p.state is State.REJECTED and known is not None:
                    self.hear(known.id, known.status, known.filled)
                self.tell(holds(self.held, self.at, reads=reads, record=known.status if known else None)(self.p))
            case None:
                pass

    # what may happen

    def happen(self, what: str, number: int) -> None:
        live = self.live()
        match what:
            case "act":
                self.act(number % 4)
            case "bar":
                self.tell(seen((99, 102, 100)[number % 3], self.at))
            case "fill" if live:
                self.fill(live[0], 1 + number % 10)
            case "late_fill":
                lately = [o for o in self.orders.values() if o.status is OrderStatus.CANCELED]
                if lately and self.at - lately[-1].ended_at < 5:
                    self.fill(lately[-1], 1 + number % 3)
            case "end" if live:
                self.end(live[0], (OrderStatus.EXPIRED, OrderStatus.REJECTED, OrderStatus.CANCELED)[number % 3])
            case "deliver" if self.said:
                self.hear(*self.said[-1 - number % len(self.said)])
            case "arrive" if self.on_the_way:
                self.arrive(*self.on_the_way.pop(number % len(self.on_the_way)))
            case "time":
                self.at += (1, 4, 31, 600)[number % 4]
                self.tell(timer(self.at, 60))
            case "crash":
                self.p, self.unknown, self.reads = replay(self.log), True, (-1, 0)
            case "exit":
                self.tell(ForceExit(at=after(self.at)))
        self.check()

    def check(self) -> None:
        assert self.held >= 0, "more was sold than was held"
        assert len(self.live()) <= 1, "two orders work at the venue"
        assert sum(o.filled for o in self.orders.values()) == 10 - self.held
        if self.p.state.terminal:
            assert self.held == 0
        assert self.p.state is not State.CLOSED, "nobody trades by hand here"
        if self.p.state is State.FILLED:
            assert self.p.sold_qty == 10, "the record of each order was read before the next one, and before the end"

    def become_kind(self) -> None:
        """Nothing more is lost or delayed: every order is looked up, and time goes on."""
        for _ in range(60):
            if self.p.state.terminal or self.p.state is State.UNPROTECTED:
                return
            if self.p.state is State.MONITORING:
                self.happen("exit", 0)
            for order in list(self.orders.values()):
                self.hear(order.id, order.status, order.filled)
            self.happen("act", 3)
            self.happen("fill", 9)
            self.happen("time", 2)
        raise AssertionError(f"it is stuck in {self.p.state}")


WHAT = (*["act"] * 4, *["deliver"] * 3, *["fill"] * 2, "bar", "late_fill", "end", "arrive", "time", "crash", "exit")
HAPPENINGS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 11)), min_size=20, max_size=80)


@for_all(st.sampled_from([policy(), LIMIT]), HAPPENINGS)
def test_whatever_the_network_does_nothing_is_sold_twice_and_it_ends_flat_or_alarmed(
    rules: Any, happenings: list[tuple[str, int]]
) -> None:
    live_through(World(rules), happenings)


def test_a_thousand_unkind_worlds_and_nothing_is_sold_twice() -> None:
    rng = random.Random(43)
    ends = set()
    for number in range(1000):
        happenings = [(rng.choice(WHAT), rng.randrange(12)) for _ in range(60)]
        world = World((policy(), LIMIT)[number % 2])
        live_through(world, happenings)
        ends.add((world.p.state, world.p.attempt))
    assert {(State.FILLED, 1), (State.FILLED, 3), (State.UNPROTECTED, 2)} <= ends


def live_through(world: World, happenings: list[tuple[str, int]]) -> None:
    """All that happens, then a kind world; it ends flat, or unprotected and alarmed."""
    world.happen("bar", 1 if world.p.policy is LIMIT else 0)
    for what, number in happenings:
        world.happen(what, number)
    world.become_kind()
    if world.p.state is State.UNPROTECTED:
        assert any(isinstance(e, AlarmRaised) and e.kind == "protection_lost" for e in world.log)
    assert replay(world.log) == world.p


def test_given_less_than_a_step_is_left_when_it_looks_flat_less_than_three_times_then_it_is_kept() -> None:
    broker = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal("0.1")))
    s = given(opened(qty="6.25")).at(broker).when(seen(99), reported("filled", "6.2", 99))
    for reads in range(1, READS_MIN):
        s.when(holds(0, reads=reads)).then().owes(ReadPosition)
    s.when(holds(0)).then(like(PositionClosedElsewhere, how="by_hand", remaining_qty=Decimal("0.05")))


def test_given_orders_of_which_one_has_no_price_then_the_average_is_unknown_and_else_it_is_over_all() -> None:
    two = expired.when(holds(6, at=200), reported("new", attempt=2, at=201))
    assert two.now.avg_exit_price == Decimal(99)
    both = two.when(reported("partially_filled", 2, 102, attempt=2, at=202))
    assert both.now.avg_exit_price == Decimal(100)
    assert two.when(reported("partially_filled", 2, attempt=2, at=202)).now.avg_exit_price is None
    assert monitoring.now.avg_exit_price is None


def test_given_an_order_that_is_not_ours_when_it_is_over_then_a_person_can_go_on() -> None:
    theirs = {"symbol": "MSFT"}
    s = submitted.when(reported("new", **theirs)).then(ProtectionLost, AlarmRaised).has(order_live=True)
    s.when(reported("new", **theirs)).then().has(order_live=True)
    s.when(reported("canceled", 0, **theirs)).then(
        OrderEnded(
            client_order_id=order_id(1), how="canceled", filled_qty=Decimal(0), at=after(61), next_attempt_at=None
        )
    ).has(order_live=False).is_in("unprotected")
    submitted.when(reported("rejected", 0, refusal="halted", text="no", **theirs)).then(
        ProtectionLost, like(OrderEnded, how="rejected", refusal="halted", text="no"), AlarmRaised
    )


def test_given_an_order_that_is_over_when_its_price_is_told_later_then_it_is_recorded_once() -> None:
    s = submitted.when(reported("partially_filled", 4), reported("expired", 4)).has(avg_exit_price=None)
    s = s.when(reported("expired", 4, 99)).then(like(FillsRecorded, filled_qty=Decimal(4), avg_fill_price=Decimal(99)))
    s.is_in("rejected").when(reported("expired", 4, 99)).then()


def test_given_a_refused_order_when_it_fills_beside_the_next_one_then_that_is_ended_and_a_person_is_told() -> None:
    s = pending.when(refused(), holds(10, at=200), reported("new", attempt=2, at=201))
    s = s.when(reported("partially_filled", 3, 99, attempt=1, at=202))
    s.then(
        ProtectionLost,
        like(OrderAccepted, client_order_id=order_id(1)),
        FillsRecorded(client_order_id=order_id(1), filled_qty=Decimal(3), avg_fill_price=Decimal(99), at=after(202)),
        like(CancelRequested, client_order_id=order_id(1)),
        like(CancelRequested, client_order_id=order_id(2)),
        AlarmRaised,
    ).is_in("unprotected").has(remaining_qty=Decimal(7))


def test_given_a_refused_order_that_works_after_all_then_nothing_is_over_before_it_is() -> None:
    s = pending.when(refused(), reported("partially_filled", 2, 99, at=70))
    s.has(live_orders=(order_id(1),), remaining_qty=Decimal(8)).owes(Cancel)
    for _ in range(3):
        s.when(holds(0, reads=3)).then()
    s.when(Release(at=after(300), qty=Decimal(8), entry_price=Decimal(100), who="op")).then(
        like(AlarmRaised, kind="not_done")
    )
    s.when(ForceExit(at=after(300), qty=Decimal(8))).then(like(AlarmRaised, kind="not_done"))
    over = s.when(reported("canceled", 3, 99, at=80))
    over.then(FillsRecorded, like(OrderEnded, how="canceled", filled_qty=Decimal(3))).has(live_orders=())
    over.when(holds(0, reads=3)).then(PositionClosedElsewhere).is_in("closed")
    over.when(Release(at=after(300), qty=Decimal(7), entry_price=Decimal(100), who="op")).then(PositionReleased).is_in(
        "monitoring"
    )


def test_given_an_earlier_order_that_was_refused_and_works_after_all_then_nothing_is_over_before_it_is() -> None:
    s = pending.when(refused(), holds(10, at=200), reported("new", attempt=2, at=201))
    s = s.when(reported("new", attempt=1, at=202))
    s = s.when(reported("canceled", 0, attempt=2, at=203)).has(live_orders=(order_id(1),)).owes(Cancel)
    s.when(holds(0, reads=3)).then()
    s.when(ForceExit(at=after(300), qty=Decimal(10))).then(like(AlarmRaised, kind="not_done"))
    s.when(Release(at=after(300), qty=Decimal(10), entry_price=Decimal(100), who="op")).then(
        like(AlarmRaised, kind="not_done")
    )
    part = s.when(reported("partially_filled", 4, 99, attempt=1, at=204)).then(FillsRecorded)
    part.when(reported("canceled", None, attempt=1, at=205)).then()  # with how much filled? It is looked up
    done = part.when(reported("done_for_day", 4, attempt=1, at=205, leaves_qty=Decimal(0)))
    done.then(like(OrderEnded, how="expired")).has(live_orders=())
    part.when(reported("rejected", None, attempt=1, at=205)).then(like(OrderEnded, filled_qty=Decimal(4)))
    over = part.when(reported("canceled", 6, 99, attempt=1, at=205))
    over.then(FillsRecorded, like(OrderEnded, client_order_id=order_id(1), how="canceled"))
    over.has(live_orders=(), remaining_qty=Decimal(4))
    over.when(holds(0, reads=3)).then(PositionClosedElsewhere).is_in("closed")
    over.when(ForceExit(at=after(300), qty=Decimal(4))).then(ExitRetried).is_in("pending")
    part.when(reported("filled", 10, 99, attempt=1, at=205)).then(FillsRecorded, OrderEnded).when(holds(0)).then(
        ExitCompleted
    )


@pytest.mark.parametrize("how", ["released", "over"])
def test_given_a_refused_order_when_it_works_after_its_exit_was_given_up_or_over_then_it_is_ended(how: str) -> None:
    s = pending.when(refused())
    if how == "released":
        s = s.when(
            Contradiction(at=after(65), why="it cannot be"),
            Release(at=after(300), qty=Decimal(10), entry_price=Decimal(100), who="op"),
        ).is_in("monitoring")
    else:
        s = s.when(holds(0, reads=3)).is_in("closed")
    s = s.when(reported("new", at=400))
    s.then(ProtectionLost, OrderAccepted, CancelRequested, AlarmRaised).is_in("unprotected").owes(Cancel)


def test_given_orders_with_ids_of_the_brokers_own_then_each_is_known_by_it() -> None:
    s = pending.when(refused()).has(broker_order_ids={})
    s = s.when(holds(10, at=200), reported("new", attempt=2, at=201, broker_order_id="b2"))
    s = s.when(reported("new", attempt=1, at=202, broker_order_id="b1"))
    s.has(broker_order_ids={"b1": order_id(1), "b2": order_id(2)})


def test_given_the_next_attempt_when_another_machine_has_sent_it_then_it_is_taken_over() -> None:
    def found(attempt: int, qty: int, at: float, status: str = "new", **fields: Any) -> Recover:
        report = ExecutionReport(
            client_order_id=order_id(attempt), status=OrderStatus(status), at=after(150), qty=Decimal(qty), **fields
        )
        return Recover(at=after(at), attempt=attempt, report=report)

    taken = expired.when(found(2, 6, 200)).then(like(ExitRetried, attempt=2, qty=Decimal(6)), OrderAccepted)
    taken.is_in("submitted").has(sold_elsewhere=Decimal(0))
    assert taken.now.exit.budget_spent == 0
    assert partial.when(reported("rejected", 4)).when(found(2, 6, 200)).now.exit.budget_spent == 1
    expired.when(found(2, 6, 200, "expired", filled_qty=Decimal(2))).is_in("rejected").has(remaining_qty=Decimal(4))
    larger = expired.when(found(2, 7, 200)).is_in("unprotected")
    larger.has(attempt=2, order_qty=Decimal(7), cancel_asked=True).owes(Cancel)
    unsaid = expired.when(
        Recover(at=after(200), attempt=2, report=msgspec.structs.replace(found(2, 6, 200).report, qty=None))
    )
    unsaid.is_in("submitted").has(order_qty=Decimal(6))
    expired.when(found(2, 6, 200), reported("expired", 0, at=201)).when(found(2, 6, 300)).then()  # an old answer
    expired.when(found(2, 6, 81)).then()  # not due
    expired.when(found(3, 6, 200)).then()
    last = given(opened(policy=policy(partial_fills={"max_resubmit_attempts": 0})), triggered())
    last = last.when(reported("rejected", 4, at=80)).when(found(2, 6, 200)).has(attempt=2)
    assert last.now.exit.budget_spent == 0


def test_given_another_exit_that_waits_when_a_limit_order_rests_then_it_gives_way() -> None:
    way = GiveWay(at=after(70), why="a stop waits for it")
    for s in (resting, resting.when(reported("partially_filled", 4, 102))):
        asked = s.when(way).then(like(ExitEscalated, why="a stop waits for it")).is_in("canceling")
        asked.when(way).then()
        asked.when(reported("cancel_rejected", at=75)).when(way).then()  # the broker will not
        alarmed = s.when(Contradiction(at=after(65), why="it cannot be"))
        alarmed.when(way).then(like(CancelRequested, why="a stop waits for it")).when(way).then()
    for s in (monitoring, pending, submitted, partial, expired, filled, unprotected):
        s.when(way).then()


def test_given_an_unprotected_position_when_its_refused_order_works_then_it_is_ended_and_a_person_is_told() -> None:
    s = pending.when(refused(), Contradiction(at=after(65), why="it cannot be"), reported("new", at=70))
    s.then(OrderAccepted, CancelRequested, like(AlarmRaised, kind="refused_order_works")).owes(Cancel)
    earlier = second.when(Contradiction(at=after(202), why="it cannot be"))
    earlier.when(reported("new", attempt=1, at=203)).then()  # it had been accepted, so that this is old news


def test_given_an_unprotected_position_when_more_was_filled_than_known_then_what_could_sell_too_much_is_ended() -> None:
    s = second.when(reported("new", attempt=2, at=201), Contradiction(at=after(202), why="it cannot be"))
    late = s.when(reported("expired", 5, 99, attempt=1, at=203))
    late.then(
        like(FillsRecorded, client_order_id=order_id(1), filled_qty=Decimal(5)),
        like(CancelRequested, client_order_id=order_id(2)),
    ).is_in("unprotected").has(remaining_qty=Decimal(5))
    # Of an order that was cut by as much, nothing need be ended.
    fewer = s.when(reported("new", 0, qty=Decimal(5), attempt=2, at=203))
    fewer.when(reported("expired", 5, 99, attempt=1, at=204)).then(FillsRecorded)
    over = unprotected.when(reported("partially_filled", 11, 99, at=203))
    over.then(like(FillsRecorded, filled_qty=Decimal(11)), like(AlarmRaised, kind="oversold"))
    over.has(remaining_qty=Decimal(-1))
    over.when(reported("partially_filled", 11, 99, at=204)).then()


def test_given_an_order_that_works_when_a_repetition_of_its_request_is_refused_then_it_works_on() -> None:
    for s in (submitted, partial, canceling):
        s.when(refused()).then().has(order_live=True)
    pending.when(refused()).then(like(OrderEnded, how="refused")).has(order_live=False)
    unprotected.when(refused()).then(like(OrderEnded, how="refused")).has(order_live=False)
