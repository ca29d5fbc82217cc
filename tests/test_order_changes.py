"""What others do to our order at the broker: restated, replaced, corrected, passed on by word of mouth."""

from __future__ import annotations

from decimal import Decimal

from exitfsm.events import (
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    ExitCompleted,
    ExitRetried,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    ProtectionLost,
)
from exitfsm.messages import ForceExit, Release
from exitfsm.position import Cancel
from exitfsm.testing.given import after, given, holds, like, opened, order_id, policy, reported, seen, timer, triggered
from exitfsm.values import ZERO

pending = given(opened(), triggered())
submitted = pending.when(reported("new"))
partial = submitted.when(reported("partially_filled", 4, 99))
expired = partial.when(reported("expired", 4))
filled = partial.when(reported("filled", 10, 99), holds(0))
LIMIT = policy(profit_taking={"order_type": "limit"})
resting = given(opened(policy=LIMIT), triggered(reason="profit_take", limit=102)).when(reported("new"))
canceling = resting.when(reported("partially_filled", 4, 102), timer(200))


def test_given_an_order_made_larger_at_the_broker_then_it_is_canceled_and_a_person_is_told() -> None:
    for s in (pending, submitted, partial):
        filled = s.now.filled_qty
        larger = s.when(reported("new", filled, qty=Decimal(11)))
        larger.then(ProtectionLost, like(OrderRestated, qty=Decimal(11)), CancelRequested, AlarmRaised)
        larger.is_in("unprotected").has(order_qty=Decimal(11), order_live=True).owes(Cancel)
        larger.when(reported("new", filled, qty=Decimal(11))).then()
        # All that it fills is recorded, and it is not over before it has filled what it is for now.
        all_of_ours = larger.when(reported("partially_filled", 10, 99, qty=Decimal(11)))
        all_of_ours.then(FillsRecorded).has(order_live=True).owes(Cancel)
        over = all_of_ours.when(reported("filled", 11, 99, qty=Decimal(11)))
        over.then(FillsRecorded, like(AlarmRaised, kind="oversold")).has(order_live=False)


def test_given_a_filled_order_made_larger_at_the_broker_then_it_is_canceled_though_the_exit_was_over() -> None:
    filled.when(reported("partially_filled", 10, 99, qty=Decimal(12))).then(
        ProtectionLost, OrderRestated, CancelRequested, AlarmRaised
    ).has(order_live=True).owes(Cancel)


def test_given_an_order_made_smaller_at_the_broker_then_it_goes_on_and_the_next_attempt_has_the_rest() -> None:
    smaller = submitted.when(reported("new", qty=Decimal(8)))
    smaller.then(like(OrderRestated, qty=Decimal(8)), like(AlarmRaised, kind="order_restated")).is_in("submitted")
    smaller.when(reported("new", qty=Decimal(8))).then()
    ended = smaller.when(reported("filled", 8, 99, qty=Decimal(8)))
    ended.then(FillsRecorded, like(OrderEnded, how="canceled", filled_qty=Decimal(8))).is_in("rejected")
    # Older news of it, from before it was changed, does not bring it back.
    ended.when(reported("new", qty=Decimal(10))).then()
    ended.when(holds(2, at=200)).then(like(ExitRetried, qty=Decimal(2)))


def test_given_an_order_made_as_small_as_what_it_has_filled_then_it_is_over() -> None:
    partial.when(reported("partially_filled", 4, 99, qty=Decimal(4))).then(
        OrderRestated, AlarmRaised, like(OrderEnded, how="canceled", filled_qty=Decimal(4))
    )


def test_given_an_order_and_its_fills_that_a_split_changed_then_its_own_figures_count_and_a_person_is_told() -> None:
    merged = partial.when(reported("partially_filled", 2, 198, qty=Decimal(5)))
    merged.then(ProtectionLost, OrderRestated, like(FillsRecorded, filled_qty=Decimal(2), corrected=True), AlarmRaised)
    merged.has(order_live=True).when(reported("filled", 5, 198, qty=Decimal(5), at=90)).then(FillsRecorded).has(
        order_live=False
    )


def test_given_an_order_that_was_replaced_by_one_that_is_not_known_then_a_person_is_told() -> None:
    for s in (pending, submitted, partial, canceling):
        doubted = s.when(reported("replaced")).then(ProtectionLost, AlarmRaised).is_in("unprotected")
        doubted.when(reported("replaced")).then().has(order_live=True)
    submitted.when(reported("replaced", 4, 99)).then(ProtectionLost, FillsRecorded, AlarmRaised)
    expired.when(reported("replaced", 4)).then()


def test_given_an_order_rejected_because_it_was_passed_on_by_word_of_mouth_then_no_attempt_follows() -> None:
    verbal = reported("rejected", refusal="duplicate_of_verbal")
    pending.when(verbal).then(OrderEnded, ProtectionLost, AlarmRaised).is_in("unprotected")


def test_given_a_day_order_done_for_the_day_when_the_broker_says_that_nothing_is_left_then_it_is_over() -> None:
    partial.when(reported("done_for_day", 4)).then()
    partial.when(reported("done_for_day", None, leaves_qty=Decimal(0))).then()
    done = partial.when(reported("done_for_day", 4, leaves_qty=Decimal(0)))
    done.then(like(OrderEnded, how="expired", filled_qty=Decimal(4))).is_in("rejected")
    for_days = given(opened(policy=policy(stop_loss={"time_in_force": "gtc"}))).when(seen(99))
    for_days.when(reported("new"), reported("done_for_day", 0, leaves_qty=Decimal(0))).then().is_in("submitted")


def test_given_an_unprotected_position_when_its_day_order_is_done_with_nothing_left_then_the_order_is_over() -> None:
    unprotected = partial.when(reported("partially_filled", 3, 99, corrected=True)).is_in("unprotected")
    unprotected.when(reported("done_for_day", 3)).then().has(order_live=True)
    done = unprotected.when(reported("done_for_day", 3, leaves_qty=Decimal(0)))
    done.then(like(OrderEnded, how="expired", filled_qty=Decimal(3))).is_in("unprotected").has(order_live=False)
    done.when(ForceExit(at=after(300), qty=Decimal(7))).then(like(ExitRetried, qty=Decimal(7)))


def test_given_an_unprotected_position_when_more_is_sold_than_was_held_then_a_person_is_told_of_that_too() -> None:
    larger = partial.when(reported("new", 4, qty=Decimal(12))).is_in("unprotected")
    larger.when(reported("partially_filled", 10, 99, qty=Decimal(12))).then(FillsRecorded)
    over = larger.when(reported("filled", 12, 99, qty=Decimal(12)))
    over.then(FillsRecorded, like(AlarmRaised, kind="oversold"))
    over.when(reported("filled", 12, 99, qty=Decimal(12))).then()
    unasked = larger.when(reported("canceled", 10, 99, qty=Decimal(12)), reported("filled", 13, 99, qty=Decimal(12)))
    unasked.then(FillsRecorded, like(AlarmRaised, kind="oversold"))


def test_given_an_operators_word_on_an_unprotected_position_when_it_cannot_be_done_then_that_is_said() -> None:
    oversold = partial.when(reported("new", 4, qty=Decimal(12)), reported("filled", 12, 99, qty=Decimal(12)))
    live = partial.when(reported("partially_filled", 3, 99, corrected=True))
    busted = filled.when(reported("canceled", 8, 99, corrected=True), reported("filled", 10, 99)).has(
        remaining_qty=ZERO
    )
    for s, held in ((oversold, -2), (live, 7), (busted, 1)):
        force = ForceExit(at=after(300), qty=Decimal(held))
        s.is_in("unprotected").when(force).then(like(AlarmRaised, kind="not_done")).when(force).then()
        s.when(ForceExit(at=after(300), qty=ZERO)).then()  # nothing is held, and nothing need be done
    release = Release(at=after(300), qty=Decimal(-2), entry_price=Decimal(99))
    oversold.when(release).then(like(AlarmRaised, kind="not_done")).is_in("unprotected")


def test_given_a_fill_taken_back_from_a_filled_order_then_it_may_work_again() -> None:
    taken_back = filled.when(reported("partially_filled", 8, 99, corrected=True))
    taken_back.has(order_live=True, corrected_orders=(order_id(1),)).is_in("unprotected").owes(None)
    taken_back.when(reported("filled", 10, 99, at=300), holds(0)).then(ExitCompleted)
    over = filled.when(reported("canceled", 8, 99, corrected=True))
    over.then(ProtectionLost, FillsRecorded, like(OrderEnded, filled_qty=Decimal(8)), AlarmRaised).has(order_live=False)


def test_given_only_a_price_that_was_corrected_then_nothing_stops_and_a_person_is_told() -> None:
    fair = partial.when(reported("partially_filled", 4, 98, corrected=True))
    fair.then(like(FillsRecorded, avg_fill_price=Decimal(98), corrected=True), like(AlarmRaised, kind="fill_corrected"))
    fair.is_in("partial").has(order_live=True).when(reported("partially_filled", 4, 98, corrected=True)).then()
    again = reported("filled", 10, 98, corrected=True)
    complete = filled.when(again).then(like(FillsRecorded, corrected=True), like(AlarmRaised, kind="fill_corrected"))
    complete.is_in("filled").has(avg_exit_price=Decimal(98), cooldown_until=filled.position.cooldown_until)
    complete.when(again).then()
    filled.when(reported("filled", 8, 98, corrected=True)).is_in("unprotected")  # another quantity is another matter


def test_given_an_earlier_order_whose_price_is_corrected_after_the_end_then_the_average_follows() -> None:
    two = partial.when(
        reported("expired", 4), timer(200), holds(6, at=200), reported("filled", 6, 98, attempt=2, at=201)
    )
    ended = two.when(holds(0, at=202)).is_in("filled")
    corrected = ended.when(reported("expired", 4, 97, corrected=True, attempt=1, at=300))
    corrected.then(like(FillsRecorded, avg_fill_price=Decimal(97)), like(AlarmRaised, kind="fill_corrected"))
    corrected.is_in("filled").has(avg_exit_price=Decimal("97.6"), sold_qty=Decimal(10))


def test_given_a_cancel_that_is_refused_again_and_again_then_a_person_is_told() -> None:
    once = canceling.when(reported("cancel_rejected", 4, 102, at=201)).then(CancelRefused, FillsRecorded)
    twice = once.when(timer(300), reported("cancel_rejected", 4, 102, at=301))
    twice.then(CancelRefused, like(AlarmRaised, kind="cancel_refused"), FillsRecorded).is_in("partial")
    twice.when(timer(400), reported("cancel_rejected", 4, 102, at=401)).then(CancelRefused, FillsRecorded)


def test_given_an_intent_whose_order_was_made_smaller_before_it_was_acknowledged_then_it_is_accepted_first() -> None:
    smaller = pending.when(reported("new", qty=Decimal(8), broker_order_id="b1"))
    smaller.then(
        like(OrderAccepted, client_order_id=order_id(1), broker_order_id="b1"),
        like(OrderRestated, qty=Decimal(8)),
        like(AlarmRaised, kind="order_restated"),
    ).is_in("submitted").has(order_qty=Decimal(8))


def test_given_a_corrected_earlier_order_then_both_orders_are_to_be_asked_for_and_known() -> None:
    second = expired.when(holds(6, at=200), reported("new", attempt=2, at=201))
    assert second.now.orders_in_question == (order_id(2),)
    corrected = second.when(reported("expired", 3, 99, attempt=1, at=210, corrected=True))
    assert corrected.now.orders_in_question == (order_id(2), order_id(1))
    assert [corrected.now.find(order_id(n)) is not None for n in (1, 2, 3)] == [True, True, False]
    assert given(opened()).now.orders_in_question == ()
