"""Attempts, and limits that rest."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from positions import (
    LIMIT,
    canceling,
    expired,
    partial,
    pending,
    resting,
    second,
    submitted,
)

from exitfsm.events import (
    AlarmRaised,
    CancelRefused,
    ExitCompleted,
    ExitEscalated,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderEnded,
    PositionClosedElsewhere,
    ProtectionLost,
)
from exitfsm.ports import CAREFUL, AssetRules, Capabilities
from exitfsm.position import (
    READS_MIN,
    Cancel,
    ReadPosition,
    Submit,
)
from exitfsm.testing.given import (
    after,
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
    triggered,
)
from exitfsm.values import TimeInForce

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


@pytest.mark.parametrize("shown", ["0.09", "0.13"])
def test_given_a_residue_of_an_exit_before_when_it_lies_beside_ours_then_ours_ends_all_the_same(shown: str) -> None:
    """0.05 of ours cannot be sold, whatever else is there; that is for whoever watches it next."""
    broker = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal("0.1")))
    s = given(opened(qty="6.25")).at(broker).when(seen(99)).when(reported("filled", "6.2", 99))
    s.when(holds(shown, at=62, reads=1)).then()
    over = like(PositionClosedElsewhere, how="residue", remaining_qty=Decimal("0.05"))
    s.when(holds(shown, at=62, reads=3)).then(over)


def test_given_a_residue_of_an_exit_before_when_all_of_ours_is_sold_then_the_exit_is_complete() -> None:
    broker = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal("0.1")))
    s = given(opened(qty=6)).at(broker).when(seen(99)).when(reported("filled", 6, 99))
    s.when(holds("0.04", at=62, reads=1)).then()
    s.when(holds("0.04", at=62, reads=3)).then(like(ExitCompleted, filled_qty=Decimal(6))).is_in("filled")


def test_given_all_of_ours_is_sold_when_the_other_side_is_shown_then_that_is_no_residue() -> None:
    broker = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal("0.1")))
    s = given(opened(qty=6)).at(broker).when(seen(99)).when(reported("filled", 6, 99))
    s.when(holds(-6, at=62, reads=3)).then(ProtectionLost, AlarmRaised)


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
