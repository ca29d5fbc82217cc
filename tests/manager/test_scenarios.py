"""What happens to an exit order, on the real manager: answers and updates that are lost, late, doubled or wrong."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from harness import GOOD, MakeWorld, World, executed, shuffled
from msgspec.structs import replace

from exitfsm import IdMemory, NotSent, OrderRefused
from exitfsm.events import OrderEnded
from exitfsm.testing import Hang, LostReply, Raises, Returns

LIMIT = {"profit_taking": {"threshold_pct": 2, "order_type": "limit"}}
IMPATIENT = {"live": {"broker_timeout_seconds": 0.03}}


# --- the submit -------------------------------------------------------------------------------------------------------


async def test_given_a_breach_when_the_venue_fills_then_the_exit_is_complete_with_one_order(world: World) -> None:
    await world.bar(99.01)
    assert world.orders == []
    await world.bar(99)
    assert [o.qty for o in world.orders] == [10]
    await world.fill(10, "98.97")
    await world.until(lambda: world.state == "filled")
    assert world.position.avg_exit_price == Decimal("98.97")
    assert world.alarm_kinds == []


async def test_given_a_submit_that_times_out_but_was_accepted_then_the_order_is_found_and_followed(
    world: World,
) -> None:
    world.broker.answer("submit", LostReply())
    await world.bar(98)
    assert world.state == "submitted"
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert len(world.orders) == 1
    assert world.broker.count("submit") == 1


async def test_given_a_submit_that_never_arrived_then_the_same_order_is_sent_again(world: World) -> None:
    world.broker.answer("submit", Raises(TimeoutError()))
    await world.bar(98)
    sent = [call.args[0] for call in world.broker.calls if call.method == "submit"]
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert world.orders == [sent[0]]


async def test_given_a_submit_that_arrives_late_then_it_is_refused_as_a_repetition_and_there_is_one_order(
    make_world: MakeWorld,
) -> None:
    world = await make_world(IMPATIENT)
    await world.enter()
    late = Hang("on_release")
    world.broker.answer("submit", late)
    await world.bar(98)
    await world.really(lambda: world.orders)
    late.release()
    await world.settle()
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert world.broker.count("submit") == 2
    assert len(world.orders) == 1


async def test_given_a_submit_that_arrives_late_where_ids_may_repeat_then_it_is_found_and_never_sent_twice(
    make_world: MakeWorld,
) -> None:
    world = await make_world(IMPATIENT, capabilities=replace(GOOD, ids_refused=IdMemory.NEVER))
    await world.enter()
    late = Hang("on_release")
    world.broker.answer("submit", late)
    await world.bar(98)
    await world.really(lambda: world.alarm_kinds == ["order_not_found"])
    await world.passes(60)
    assert world.state == "pending"
    assert world.broker.count("submit") == 1
    late.release()
    await world.until(lambda: world.state == "submitted")
    assert len(world.orders) == 1


async def test_given_a_reply_of_duplicate_id_then_the_order_counts_as_accepted(world: World) -> None:
    world.broker.answer("submit", LostReply(OrderRefused("duplicate_id", "client_order_id must be unique")))
    await world.bar(98)
    assert world.state == "submitted"
    assert world.broker.count("submit") == 1


async def test_given_a_request_that_never_left_then_it_goes_out_soon_under_the_same_id(world: World) -> None:
    world.broker.answer("submit", Raises(NotSent("connection refused")))
    await world.bar(98)
    assert world.orders == []
    await world.passes(3)
    assert len(world.orders) == 1
    assert world.position.attempt == 1


async def test_given_an_answer_that_is_not_understood_then_the_order_is_looked_up(world: World) -> None:
    order_was_taken = Hang("first")
    order_was_taken.release()
    world.broker.answer("submit", LostReply(ValueError("cannot parse")))
    await world.bar(98)
    assert world.state == "submitted"
    assert world.broker.count("submit") == 1


async def test_given_an_order_replaced_twice_unheard_when_looked_up_then_the_brokers_own_id_says_that_it_is_ours(
    world: World,
) -> None:
    await world.bar(98)
    await world.until(lambda: world.state == "submitted")
    first = world.broker.fill(world.last_order, 4)
    twice = replace(first, client_order_id="their-2", orig_client_order_id="their-1")
    world.broker.always("order", Returns(replace(twice, broker_order_id="another")))
    await world.passes(20)
    assert world.state == "submitted"
    world.broker.always("order", Returns(twice))
    await world.until(lambda: world.state == "partial", seconds=20)
    assert world.position.filled_qty == 4


async def test_given_late_news_from_before_our_order_was_changed_then_the_broker_is_asked_how_it_stands(
    world: World,
) -> None:
    await world.bar(98)
    await world.until(lambda: world.state == "submitted")
    old = world.broker.booked(world.last_order.client_order_id).report()  # type: ignore[union-attr]
    world.clock.move(2)
    smaller = replace(old, qty=Decimal(8), at=world.clock.now())
    world.broker.always("order", Returns(smaller))
    await world.manager.on_order_update(smaller)
    looks = world.broker.count("order")
    await world.manager.on_order_update(old)
    await world.settle()
    assert world.broker.count("order") > looks
    assert world.position.order_qty == 8
    assert world.names().count("OrderRestated") == 1
    # What the broker's record says is believed, whatever its time.
    world.broker.always("order", Returns(replace(old, qty=Decimal(12))))
    await world.manager.on_order_update(old)
    await world.settle()
    assert world.state == "unprotected"


async def test_given_a_failing_look_up_then_nothing_is_sent_until_the_broker_has_answered(world: World) -> None:
    world.broker.answer("submit", LostReply())
    world.broker.always("order", Raises(ConnectionError()))
    world.broker.always("open_orders", Raises(ConnectionError()))
    await world.bar(98)
    await world.passes(90)
    assert world.state == "pending"
    assert world.broker.count("submit") == 1
    world.broker.always("order", None)
    await world.until(lambda: world.state == "submitted")
    assert world.broker.count("submit") == 1


async def test_given_an_unresolved_submit_when_it_lasts_too_long_then_an_alarm_stands(world: World) -> None:
    world.broker.answer("submit", LostReply())
    world.broker.always("order", Raises(ConnectionError()))
    world.broker.always("open_orders", Raises(ConnectionError()))
    await world.bar(98)
    await world.until(lambda: "submit_unresolved" in world.alarm_kinds)


async def test_given_a_look_up_that_fails_when_the_list_of_orders_shows_it_then_that_will_do(world: World) -> None:
    world.broker.answer("submit", LostReply())
    world.broker.always("order", Raises(ConnectionError()))
    await world.bar(98)
    await world.until(lambda: world.state == "submitted", seconds=70)


async def test_given_a_submit_under_way_when_everything_is_reconciled_then_it_is_no_case_for_an_alarm(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=replace(GOOD, ids_refused=IdMemory.NEVER))
    await world.enter()
    slow = Hang("on_release")
    world.broker.answer("submit", slow)
    await world.bar(98)
    await world.manager.sync()
    assert world.alarm_kinds == []
    slow.release()
    await world.settle()
    assert world.state == "submitted"
    assert world.broker.count("submit") == 1


# --- the updates ------------------------------------------------------------------------------------------------------


async def test_given_a_fill_before_the_acknowledgement_then_both_are_recorded_once(world: World) -> None:
    slow = Hang("first")
    world.broker.answer("submit", slow)
    await world.bar(98)
    world.broker.fill(world.last_order, 4, 98)
    await world.deliver()
    assert world.state == "partial"
    slow.release()
    await world.settle()
    await world.fill(6, 98)
    await world.until(lambda: world.state == "filled")
    assert world.names().count("OrderAccepted") == 1


@pytest.mark.parametrize(
    ("times", "order"),
    [(2, "as_told"), (1, "reversed"), (3, "reversed"), (3, shuffled(1)), (3, shuffled(2)), (3, shuffled(3))],
    ids=["doubled", "reversed", "tripled-reversed", "shuffled-1", "shuffled-2", "shuffled-3"],
)
async def test_given_updates_doubled_and_in_any_order_then_the_fills_count_once(
    world: World, times: int, order: Any
) -> None:
    await world.bar(98)
    for qty, price in ((3, 98), (3, 97), (4, 96)):
        world.broker.fill(world.last_order, qty, price)
    await world.deliver(times=times, order=order)
    await world.until(lambda: world.state == "filled")
    assert world.position.sold_qty == 10
    assert world.position.avg_exit_price == Decimal("96.9")
    assert world.alarm_kinds == []


async def test_given_updates_that_are_lost_then_the_order_is_looked_up_now_and_then(world: World) -> None:
    await world.bar(98)
    world.broker.fill(world.last_order, 4, 98)
    world.broker.lose_updates()
    await world.until(lambda: world.position.filled_qty == 4, seconds=6)
    world.broker.fill(world.last_order, 6, 98)
    world.broker.lose_updates()
    await world.until(lambda: world.state == "filled", seconds=12)


async def test_given_an_update_that_is_not_understood_then_the_order_is_looked_up(world: World) -> None:
    await world.bar(98)
    world.broker.fill(world.last_order, price=98)
    world.broker.lose_updates()
    await world.manager.on_order_update({"client_order_id": world.last_order.client_order_id, "status": "quantum"})
    await world.until(lambda: world.state == "filled", seconds=4)


async def test_given_old_updates_of_an_exit_that_is_over_then_they_change_nothing(world: World) -> None:
    await world.bar(98)
    world.broker.fill(world.last_order, 4, 98)
    world.broker.fill(world.last_order, 6, 98)
    old = list(world.broker.updates)
    await world.deliver()
    await world.until(lambda: world.state == "filled")
    events = len(world.events)
    for update in old * 2:
        await world.manager.on_order_update(update)
    await world.passes(90)
    assert len(world.events) == events
    assert world.alarm_kinds == []


# --- partial fills, ends, retries -------------------------------------------------------------------------------------


async def test_given_an_order_canceled_with_fills_inside_then_the_next_attempt_is_for_the_rest(world: World) -> None:
    await world.bar(98)
    world.broker.fill(world.last_order, 4, 98)
    world.broker.lose_updates()
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    assert world.state == "rejected"
    assert world.position.sold_qty == 4
    await world.passes(29)
    assert len(world.orders) == 1
    await world.until(lambda: len(world.orders) == 2, seconds=5)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert executed(world.broker, "AAPL", "sell") == 10


async def test_given_a_partial_fill_when_the_price_moves_away_then_the_exit_goes_on(world: World) -> None:
    await world.bar(98)
    await world.fill(4, 98)
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.bar(101)
    assert not world.manager.may_enter("AAPL")
    await world.until(lambda: len(world.orders) == 2, seconds=40)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_a_market_order_that_does_not_fill_then_it_is_left_alone_and_a_person_is_told(world: World) -> None:
    await world.bar(98)
    world.broker.suspend(world.last_order)
    await world.deliver()
    await world.passes(130)
    assert world.broker.count("cancel") == 0
    assert len(world.orders) == 1
    assert "order_stalled" in world.alarm_kinds


async def test_given_two_rejects_for_the_same_reason_then_there_is_no_third_attempt(world: World) -> None:
    for n in (1, 2):
        if n == 1:
            await world.bar(98)
        await world.until(lambda n=n: len(world.orders) == n, seconds=40)  # type: ignore[misc]
        world.broker.reject(world.last_order, "not_tradable")
        await world.deliver()
    assert world.state == "unprotected"
    await world.passes(200)
    assert len(world.orders) == 2
    assert "protection_lost" in world.alarm_kinds


async def test_given_rejects_for_different_reasons_then_the_budget_ends_them(world: World) -> None:
    await world.bar(98)
    for n, kind in enumerate(("a", "b", "c", "d"), 1):
        await world.until(lambda n=n: len(world.orders) == n, seconds=40)  # type: ignore[misc]
        world.broker.reject(world.last_order, kind)
        await world.deliver()
    await world.until(lambda: world.state == "unprotected", seconds=60)
    assert len(world.orders) == 4
    assert "protection_lost" in world.alarm_kinds


async def test_given_a_definite_refusal_then_the_position_is_read_before_the_next_attempt(world: World) -> None:
    world.broker.answer("submit", Raises(OrderRefused("halted", "trading halt")))
    await world.bar(98)
    assert world.state == "rejected"
    reads = world.broker.count("positions")
    await world.until(lambda: len(world.orders) == 1, seconds=40)
    assert world.broker.count("positions") > reads
    assert world.last_order.client_order_id.endswith("002")


async def test_given_quantity_held_by_another_order_when_that_one_goes_then_the_next_attempt_sells(
    world: World,
) -> None:
    other = world.broker.place("AAPL", "sell", 10, client_order_id="by-hand-1", tell=False)
    await world.bar(98)
    assert world.state == "rejected"
    assert world.orders == []
    world.broker.end_cancel(other)
    await world.until(lambda: len(world.orders) == 1, seconds=40)
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_quantity_held_by_another_order_that_stays_then_two_refusals_end_it_with_an_alarm(
    world: World,
) -> None:
    world.broker.place("AAPL", "sell", 10, client_order_id="by-hand-1", tell=False)
    await world.bar(98)
    await world.until(lambda: world.state == "unprotected", seconds=60)
    assert world.orders == []
    assert {"protection_lost", "foreign_order"} <= set(world.alarm_kinds)


async def test_given_what_is_left_is_below_the_venues_least_then_it_closes_as_residue_and_is_never_retried(
    make_world: MakeWorld,
) -> None:
    whole = replace(GOOD, stocks=replace(GOOD.stocks, qty_step=Decimal(1), qty_min=Decimal(1)))
    world = await make_world(capabilities=whole)
    await world.enter("10.4")
    await world.bar(98)
    assert world.last_order.qty == 10
    await world.fill()
    await world.until(lambda: world.state == "closed")
    await world.passes(200)
    assert len(world.orders) == 1
    assert [p.remaining_qty for p in world.ended()] == [Decimal("0.4")]


# --- cancels ----------------------------------------------------------------------------------------------------------


async def escalating(make_world: MakeWorld, cancels: str) -> World:
    """A limit exit that rests, and a stop that makes it give way."""
    world = await make_world(LIMIT)
    await world.enter()
    await world.bar(102)
    assert world.last_order.limit_price == 102
    world.broker.cancels = cancels  # type: ignore[assignment]
    await world.bar(98.5)
    return world


async def test_given_a_resting_limit_when_the_stop_is_hit_then_it_is_canceled_and_a_market_order_follows(
    make_world: MakeWorld,
) -> None:
    world = await escalating(make_world, "at_once")
    await world.until(lambda: len(world.orders) == 2, seconds=10)
    assert world.last_order.limit_price is None
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert world.position.exit.budget_spent == 0


async def test_given_a_limit_without_progress_then_it_escalates_to_market(make_world: MakeWorld) -> None:
    world = await make_world(LIMIT)
    await world.enter()
    await world.bar(102)
    await world.passes(28)
    assert len(world.orders) == 1
    assert world.state == "submitted"
    await world.until(lambda: len(world.orders) == 2, seconds=12)
    assert world.last_order.limit_price is None


async def test_given_a_fill_while_the_cancel_is_pending_then_the_next_attempt_is_for_the_rest(
    make_world: MakeWorld,
) -> None:
    world = await escalating(make_world, "pending")
    assert world.state == "canceling"
    world.broker.fill(world.orders[0], 4, 102)
    await world.deliver()
    await world.passes(60)
    assert len(world.orders) == 1, "resubmitted while the cancel was pending"
    world.broker.end_cancel(world.orders[0])
    await world.deliver()
    await world.until(lambda: len(world.orders) == 2, seconds=10)
    assert world.last_order.qty == 6


async def test_given_a_whole_fill_while_the_cancel_is_pending_then_nothing_follows(make_world: MakeWorld) -> None:
    world = await escalating(make_world, "pending")
    world.broker.fill(world.orders[0], 10, 102)
    await world.deliver()
    await world.until(lambda: world.state == "filled")
    await world.passes(120)
    assert len(world.orders) == 1


async def test_given_a_cancel_that_is_lost_then_it_is_asked_for_again(make_world: MakeWorld) -> None:
    world = await make_world(LIMIT)
    await world.enter()
    await world.bar(102)
    world.broker.answer("cancel", Raises(TimeoutError()))
    await world.bar(98.5)
    await world.until(lambda: len(world.orders) == 2, seconds=15)
    assert world.broker.count("cancel") >= 2


async def test_given_a_cancel_that_is_refused_then_the_order_works_on_and_is_followed(make_world: MakeWorld) -> None:
    world = await escalating(make_world, "refused")
    assert world.state == "submitted"
    world.broker.fill(world.orders[0], 10, 102)
    await world.deliver()
    await world.until(lambda: world.state == "filled")
    assert len(world.orders) == 1


async def test_given_a_cancel_that_is_refused_because_all_is_filled_then_the_record_decides(
    make_world: MakeWorld,
) -> None:
    world = await make_world(LIMIT)
    await world.enter()
    await world.bar(102)
    world.broker.fill(world.orders[0], 10, 102)
    world.broker.lose_updates()
    await world.bar(98.5)
    await world.until(lambda: world.state == "filled")
    assert len(world.orders) == 1


async def test_given_a_cancel_turned_down_later_then_the_exit_goes_on_with_the_same_order(
    make_world: MakeWorld,
) -> None:
    world = await escalating(make_world, "pending")
    world.broker.fill(world.orders[0], 3, 102)
    world.broker.refuse_cancel(world.orders[0])
    await world.deliver()
    assert world.position.filled_qty == 3
    assert len(world.orders) == 1
    world.broker.cancels = "at_once"
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert world.last_order.qty == 7


async def test_given_a_broker_without_a_bound_for_late_fills_then_no_attempt_follows_a_cancel_by_itself(
    make_world: MakeWorld,
) -> None:
    world = await make_world(LIMIT, capabilities=replace(GOOD, late_fill_window_s=None))
    await world.enter()
    await world.bar(102)
    await world.bar(98.5)
    await world.passes(120)
    assert len(world.orders) == 1
    assert world.state == "unprotected"
    assert "protection_lost" in world.alarm_kinds


# --- fills that come late, fills that are taken back ------------------------------------------------------------------


async def test_given_a_late_fill_within_the_window_after_a_cancel_then_the_next_attempt_is_smaller(
    make_world: MakeWorld,
) -> None:
    world = await escalating(make_world, "at_once")
    world.broker.fill(world.orders[0], 4, 102, late=True)
    await world.deliver()
    await world.until(lambda: len(world.orders) == 2, seconds=10)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert world.alarm_kinds == []


async def test_given_a_late_fill_whose_update_is_lost_then_the_next_attempt_is_not_larger_than_what_is_held(
    make_world: MakeWorld,
) -> None:
    world = await escalating(make_world, "at_once")
    world.broker.fill(world.orders[0], 4, 102, late=True)
    world.broker.lose_updates()
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert world.last_order.qty == 6


async def test_given_a_late_fill_after_the_next_attempt_is_out_then_the_excess_is_canceled_and_a_person_is_told(
    make_world: MakeWorld,
) -> None:
    world = await escalating(make_world, "at_once")
    await world.until(lambda: len(world.orders) == 2, seconds=10)
    world.broker.fill(world.orders[0], 4, 102, late=True)
    await world.deliver()
    assert world.state == "unprotected"
    await world.until(lambda: not world.broker.live_exits(), seconds=10)
    assert "protection_lost" in world.alarm_kinds


async def test_given_a_fill_beyond_a_filled_exit_then_it_is_recorded_and_a_person_is_told(world: World) -> None:
    await world.bar(98)
    await world.fill()
    await world.until(lambda: world.state == "filled")
    world.broker.fill(world.orders[0], 2, 98, late=True)
    await world.deliver()
    assert world.state == "unprotected"
    assert world.position.sold_qty == 12
    assert "protection_lost" in world.alarm_kinds
    await world.passes(120)
    assert len(world.orders) == 1


async def test_given_a_bust_after_the_exit_was_filled_then_it_is_recorded_and_a_person_is_told(world: World) -> None:
    await world.bar(98)
    await world.fill()
    await world.until(lambda: world.state == "filled")
    world.broker.bust(world.orders[0], 4)
    await world.deliver()
    assert world.state == "unprotected"
    assert world.position.remaining_qty == 4
    assert "protection_lost" in world.alarm_kinds
    assert len(world.orders) == 1
    await world.manager.force_exit("AAPL", "sell the rest")
    await world.settle()
    assert [o.qty for o in world.orders] == [10, 4]


# --- entry orders of the bot ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [True, False], ids=["told-by-update", "found-by-reconciling"])
async def test_given_an_entry_of_the_bot_resting_on_the_other_side_then_it_is_canceled_before_the_exit(
    make_world: MakeWorld, told: bool
) -> None:
    world = await make_world({"live": {"entry_id_prefix": "bot-"}})
    await world.enter()
    entry = world.broker.place("AAPL", "buy", 5, client_order_id="bot-again", tell=told)
    await (world.deliver() if told else world.manager.sync())
    await world.bar(98)
    await world.until(lambda: world.orders, seconds=5)
    methods = [call.method for call in world.broker.calls if call.method in ("cancel", "submit")]
    assert methods == ["cancel", "submit"]
    assert not world.broker.booked(entry.client_order_id).live  # type: ignore[union-attr]
    assert world.alarm_kinds == []


async def test_given_an_entry_that_fills_as_it_is_canceled_then_it_is_exited_too(make_world: MakeWorld) -> None:
    world = await make_world({"live": {"entry_id_prefix": "bot-"}})
    await world.enter()
    entry = world.broker.place("AAPL", "buy", 5, client_order_id="bot-again")
    await world.deliver()
    world.broker.cancels = "pending"
    await world.bar(98)
    world.broker.fill(entry, 5, 98)
    world.broker.cancels = "at_once"
    await world.deliver()
    await world.until(lambda: world.orders, seconds=10)
    await world.fill()
    await world.until(lambda: len(world.ended()) == 1)
    await world.until(lambda: [p.remaining_qty for p in world.manager.positions()] == [5], seconds=20)
    await world.bar(97)
    assert world.last_order.qty == 5


async def test_given_somebody_elses_resting_order_then_it_is_reported_and_the_exit_goes_out(world: World) -> None:
    world.broker.place("AAPL", "buy", 5, client_order_id="somebody-1")
    await world.deliver()
    await world.bar(98)
    assert len(world.orders) == 1
    assert world.alarm_kinds == ["foreign_order"]
    assert world.broker.count("cancel") == 0


async def test_given_a_stale_answer_to_a_submit_then_only_the_same_order_counts(world: World) -> None:
    other = {"client_order_id": "somebody-else", "status": "filled", "filled_qty": 10}
    world.broker.answer("submit", Returns(other))
    await world.bar(98)
    assert world.position.filled_qty == 0
    await world.until(lambda: len(world.orders) == 1)
    assert world.state == "submitted"


async def test_given_a_broker_whose_words_hold_nul_characters_then_they_are_stored_without_them(world: World) -> None:
    world.broker.answer("submit", Raises(OrderRefused("halted\0", "trading in A\0 is halted")))
    await world.bar(98)
    assert [e.text for _, e in world.events if isinstance(e, OrderEnded)] == ["trading in A\ufffd is halted"]
    await world.until(lambda: len(world.orders) == 1)
    await world.fill()
    await world.until(lambda: world.state == "filled")
