"""What other hands do to a position, and what the broker's books say or fail to say, on the real manager."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness import GOOD, T0, MakeWorld, World, executed
from msgspec.structs import replace

from exitfsm import Bar, BrokerError, BrokerPosition, Fill, IdMemory, OrderSide, Side, State
from exitfsm.holdings import TRIES_MAX
from exitfsm.position import client_order_id, epoch_of
from exitfsm.testing import Hang, Raises, Returns

CAREFUL_OF_SIZE = replace(GOOD, reduce_only=False)


# --- empty, failing and stale answers ---------------------------------------------------------------------------------


async def test_given_a_few_empty_position_lists_then_the_position_is_watched_on(world: World) -> None:
    world.broker.answer("positions", Returns([]), times=2)
    await world.manager.sync()
    await world.manager.sync()
    await world.bar(98)
    assert [o.qty for o in world.orders] == [10]


async def test_given_only_empty_position_lists_then_the_position_is_never_forgotten(world: World) -> None:
    world.broker.always("positions", Returns([]))
    await world.passes(900, step=5)
    assert [p.remaining_qty for p in world.manager.positions()] == [10]
    assert world.alarm_kinds != []
    world.broker.always("positions", None)
    await world.passes(120)
    assert [p.remaining_qty for p in world.manager.positions()] == [10]


async def test_given_empty_position_lists_during_an_exit_then_it_is_neither_closed_nor_sent_again(world: World) -> None:
    await world.bar(98)
    await world.fill(4)
    world.broker.expire(world.last_order)
    await world.deliver()
    world.broker.always("positions", Returns([]))
    await world.passes(200)
    assert len(world.orders) == 1
    assert [p.remaining_qty for p in world.manager.positions()] == [6]
    assert world.alarm_kinds != []


async def test_given_a_read_that_waits_behind_the_news_of_a_fill_then_it_proves_nothing(world: World) -> None:
    await world.bar(98)
    await world.until(lambda: world.state == "submitted")
    for _ in range(2):
        await world.manager.sync()
    view, mailbox = world.manager._parts.view, world.manager._parts.context.mailbox
    expected, held = view.expectations(), await world.manager._parts.context.books.positions()
    filled = world.broker.fill(world.last_order)
    await asyncio.gather(mailbox.report(filled), view.tell_read(world.position.position_id, held, expected))
    await world.until(lambda: world.state == "filled", seconds=20)
    assert world.alarm_kinds == []


async def test_given_positions_that_cannot_be_read_then_nothing_is_concluded(world: World) -> None:
    world.broker.always("positions", Raises(ConnectionError()))
    await world.passes(300, step=5)
    assert world.state == "monitoring"
    await world.bar(98)
    assert len(world.orders) == 1


@pytest.mark.parametrize(
    "garbage",
    [{"symbol": "AAPL", "qty": "n/a"}, {"symbol": "AAPL", "qty": float("nan")}, {"symbol": "AAPL"}, {"qty": 3}],
)
async def test_given_a_position_that_is_garbage_then_it_does_not_count_as_gone(
    make_world: MakeWorld, garbage: dict[str, object]
) -> None:
    world = await make_world()
    await world.enter()
    await world.enter(5, 50, symbol="MSFT")
    msft = world.broker.snapshot()[1]
    world.broker.always("positions", Returns([garbage, msft]))
    await world.passes(400, step=5)
    assert [(p.symbol, str(p.state)) for p in world.manager.positions()] == [
        ("AAPL", "monitoring"),
        ("MSFT", "monitoring"),
    ]


async def test_given_stale_positions_after_a_fill_then_the_exit_waits_for_the_proof_and_raises_no_alarm(
    world: World,
) -> None:
    await world.manager.sync()
    await world.manager.sync()
    await world.manager.sync()
    stale = world.broker.snapshot()
    await world.bar(98)
    world.broker.answer("positions", Returns(stale), times=2)
    await world.fill()
    assert world.state == "partial"
    await world.until(lambda: world.state == "filled", seconds=10)
    assert world.alarm_kinds == []


async def test_given_a_stale_read_that_began_before_an_addition_then_nothing_is_resized_back(world: World) -> None:
    stale = world.broker.snapshot()
    await world.enter(5, 102)
    assert world.position.qty == 15
    world.broker.answer("positions", Returns(stale))
    await world.manager.sync()
    await world.bar(98)
    assert world.last_order.qty == 15


async def test_given_reconciling_twice_then_the_second_time_changes_nothing(world: World) -> None:
    await world.enter(7, 50, symbol="MSFT")
    await world.manager.sync()
    events = len(world.events)
    await world.manager.sync()
    await world.manager.sync()
    assert len(world.events) == events


# --- by hand ----------------------------------------------------------------------------------------------------------


async def test_given_a_position_closed_by_hand_then_it_is_closed_soon_and_nothing_is_sold(world: World) -> None:
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)
    await world.until(lambda: [p.state for p in world.ended()] == ["closed"], seconds=90)
    await world.bar(90)
    assert world.orders == []
    assert not world.manager.may_enter("AAPL")
    await world.passes(301)
    assert world.manager.may_enter("AAPL")


@pytest.mark.parametrize("again", [7, 10, 25])
async def test_given_a_position_closed_by_hand_and_entered_anew_in_between_then_that_is_another_position(
    world: World, again: int
) -> None:
    before = world.position.position_id
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)
    world.clock.move_to(world.clock.now() + timedelta(seconds=1))
    world.broker.trade_by_hand("AAPL", "buy", again, 101)
    world.broker.lose_updates()
    await world.passes(120)
    assert [p.position_id for p in world.ended()] == [before]
    assert world.position.position_id != before
    assert (world.position.qty, world.position.entry_price) == (again, 101)
    await world.bar("99.9")
    assert world.last_order.qty == again
    await world.fill()
    await world.until(lambda: len(world.ended()) == 2)


async def test_given_an_unprotected_position_closed_by_hand_and_entered_anew_then_that_is_another_position(
    world: World,
) -> None:
    before = world.position.position_id
    await world.bar(98)
    while world.state is not State.UNPROTECTED:
        world.broker.reject(world.last_order, "not_tradable")
        await world.deliver()
        await world.until(lambda: world.state in (State.SUBMITTED, State.UNPROTECTED), 120)
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)
    world.clock.move_to(world.clock.now() + timedelta(seconds=1))
    world.broker.trade_by_hand("AAPL", "buy", 3, 101)
    world.broker.lose_updates()
    await world.passes(120)
    assert [p.position_id for p in world.ended()] == [before]
    assert (world.position.qty, world.position.entry_price) == (3, 101)


@pytest.mark.parametrize("listed", [True, False], ids=["at-once", "late"])
async def test_given_more_is_held_then_that_counts_once_the_executions_are_there(world: World, listed: bool) -> None:
    world.broker.trade_by_hand("AAPL", "buy", 5, 101)
    world.broker.lose_updates()
    if not listed:
        world.broker.answer("fills", Returns([]))
    await world.manager.sync()
    assert world.position.remaining_qty == (15 if listed else 10)
    await world.manager.sync()
    assert world.position.remaining_qty == 15


def last_of(world: World) -> list[Any]:
    """The last event of each position that is over."""
    return [list(world.manager.store.stream(p.position_id))[-1] for p in world.ended()]


async def test_given_the_last_position_closed_by_hand_where_the_broker_lists_no_fills_then_it_ends_after_a_while(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    await world.enter()
    world.broker.fills = None  # type: ignore[assignment, method-assign]
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)
    await world.until(lambda: world.alarm_kinds == ["positions_missing"], seconds=200)
    assert world.state == "monitoring"
    await world.until(world.ended, seconds=400)
    assert [p.state for p in world.ended()] == ["closed"]
    assert [r.event.how for r in last_of(world)] == ["vanished"]


async def test_given_a_hand_trade_that_is_told_then_it_counts_at_once(world: World) -> None:
    by_hand = world.broker.place("AAPL", "sell", 4, client_order_id="by-hand")
    world.broker.fill(by_hand, 4, 101)
    await world.deliver()
    await world.passes(5)
    assert world.position.remaining_qty == 6
    await world.bar(98)
    assert world.last_order.qty == 6


async def test_given_part_sold_by_hand_then_the_exit_is_for_the_rest(world: World) -> None:
    world.broker.trade_by_hand("AAPL", "sell", 4, 101)
    await world.until(lambda: world.position.remaining_qty == 6, seconds=90)
    await world.bar(98)
    assert [o.qty for o in world.orders] == [6]


async def test_given_part_sold_by_hand_just_before_the_breach_then_no_more_is_sold_than_is_held(world: World) -> None:
    world.broker.trade_by_hand("AAPL", "sell", 4, 101)
    await world.bar(98)
    await world.until(lambda: world.orders, seconds=60)
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    assert executed(world.broker, "AAPL", "sell") == 10


async def test_given_a_broker_without_a_guard_and_part_sold_by_hand_just_before_then_no_more_is_sold_than_is_held(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=CAREFUL_OF_SIZE)
    await world.enter()
    world.broker.trade_by_hand("AAPL", "sell", 4, 101)
    await world.bar(98)
    await world.until(lambda: world.orders, seconds=60)
    assert [o.qty for o in world.orders] == [6]


async def test_given_a_broker_without_a_guard_and_all_sold_by_hand_just_before_then_nothing_is_sold(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=CAREFUL_OF_SIZE)
    await world.enter()
    await world.enter(5, 50, symbol="MSFT")
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)
    await world.bar(98)
    await world.until(lambda: [p.state for p in world.ended()] == ["closed"], seconds=90)
    assert world.orders == []


async def test_given_a_broker_without_a_guard_when_its_positions_hang_then_the_exit_goes_out_all_the_same(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=CAREFUL_OF_SIZE)
    await world.enter()
    world.broker.always("positions", Raises(ConnectionError()))
    await world.bar(98)
    await world.until(lambda: world.orders, seconds=5)


async def test_given_a_position_closed_by_hand_while_the_exit_works_then_the_order_is_canceled_and_it_is_closed(
    world: World,
) -> None:
    await world.bar(98)
    world.broker.trade_by_hand("AAPL", "sell", 10, 98)
    await world.until(lambda: [p.state for p in world.ended()] == ["closed"], seconds=200)
    assert world.broker.live_exits() == []
    assert world.broker.held("AAPL") == 0


async def test_given_part_sold_by_hand_while_the_exit_works_then_only_the_rest_is_sold(world: World) -> None:
    await world.bar(98)
    world.broker.trade_by_hand("AAPL", "sell", 4, 98)
    await world.until(lambda: len(world.orders) == 2, seconds=300)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    assert world.broker.held("AAPL") == 0


async def test_given_part_sold_by_hand_between_attempts_then_the_next_is_smaller(world: World) -> None:
    await world.bar(98)
    world.broker.expire(world.last_order)
    world.broker.trade_by_hand("AAPL", "sell", 4, 98)
    await world.deliver()
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])


# --- more, other, none ------------------------------------------------------------------------------------------------


async def test_given_an_addition_while_watched_then_the_levels_follow_the_new_entry(world: World) -> None:
    await world.enter(10, 110)
    assert (world.position.qty, world.position.entry_price) == (20, 105)
    await world.bar(103)
    assert [o.qty for o in world.orders] == [20]


async def test_given_an_addition_that_nobody_told_then_reconciling_finds_it(world: World) -> None:
    await world.enter(5, 100, tell=False)
    await world.passes(61)
    assert world.position.qty == 15


async def test_given_a_purchase_during_an_exit_then_it_is_a_new_epoch_after_it(world: World) -> None:
    await world.bar(98)
    await world.enter(5, 97)
    await world.fill()
    await world.until(lambda: [p.state for p in world.ended()] == ["filled"], seconds=10)
    assert world.ended()[0].sold_qty == 10
    await world.until(lambda: [p.remaining_qty for p in world.manager.positions()] == [5], seconds=10)
    assert world.alarm_kinds == []
    first, second = world.orders[0].client_order_id, client_order_id(world.position.position_id, 1)
    assert first != second
    await world.bar(90)
    assert [o.qty for o in world.orders] == [10, 5]


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_given_executions_that_name_no_id_of_ours_then_an_exit_before_is_nobody_elses_sale(
    world: World, is_restarted: bool
) -> None:
    """As Alpaca lists them. The second epoch began while the first one's exit worked: its sale is in that list, too."""
    as_listed = world.broker.fills

    async def nameless(since: datetime) -> list[Fill]:
        return [replace(fill, client_order_id=None) for fill in await as_listed(since)]

    world.broker.fills = nameless  # type: ignore[method-assign]
    world.clock.move(1)
    await world.bar(98)
    world.clock.move(1)
    world.broker.enter("AAPL", "long", 5, 97)
    world.clock.move(1)
    await world.fill()
    await world.until(lambda: [p.remaining_qty for p in world.manager.positions()] == [5], seconds=90)
    if is_restarted:
        await world.restart_in_order()
    await world.bar(90)
    world.clock.move(1)
    world.broker.enter("AAPL", "long", 3, 90)
    world.clock.move(1)
    await world.fill()
    await world.until(lambda: [p.remaining_qty for p in world.manager.positions()] == [3], seconds=90)
    assert [p.state for p in world.ended()] == ["filled", "filled"]
    assert world.alarm_kinds == []


async def test_given_an_exit_of_another_machine_behind_a_purchase_then_nothing_grows_before_it_is_looked_up(
    world: World,
) -> None:
    """It sold all, the bot bought more than that, and no order can be looked up: that proves nothing."""
    p, held = world.position, world.broker.held("AAPL")
    world.clock.move(1)
    other = world.broker.place(
        "AAPL", OrderSide.SELL, held, client_order_id=client_order_id(p.position_id, 1, p.id_form)
    )
    world.broker.fill(other)
    world.clock.move(1)
    world.broker.enter("AAPL", "long", 15, 97)
    world.broker.lose_updates()
    world.broker.always("order", Raises(BrokerError("HTTP 503")))
    await world.passes(200, step=5)
    assert [q.remaining_qty for q in world.manager.positions()] == [10]
    assert "PositionResized" not in world.names()
    world.broker.always("order", None)
    await world.until(lambda: [q.remaining_qty for q in world.manager.positions()] == [15], seconds=120)
    assert [(q.position_id, q.state) for q in world.ended()] == [(p.position_id, "filled")]


async def test_given_a_purchase_shortly_before_the_breach_that_nobody_told_then_it_is_exited_too(world: World) -> None:
    world.clock.move(5)
    await world.enter(5, "99.5", tell=False)
    world.broker.lose_updates()
    await world.bar(98)
    assert world.last_order.qty == 10
    await world.fill()
    await world.until(lambda: [p.state for p in world.ended()] == ["filled"], seconds=10)
    await world.until(lambda: [p.remaining_qty for p in world.manager.positions()] == [5], seconds=10)
    assert world.alarm_kinds == []
    await world.bar(97)
    assert world.last_order.qty == 5


async def test_given_a_purchase_between_attempts_then_the_exit_sells_only_its_own(world: World) -> None:
    await world.bar(98)
    await world.fill(4)
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.enter(5, 97)
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: [p.remaining_qty for p in world.manager.positions()] == [5], seconds=20)


@pytest.mark.parametrize("who", ["a person", "the bot"])
async def test_given_one_order_that_goes_through_zero_then_the_old_side_is_over_and_the_new_one_is_watched(
    world: World, who: str
) -> None:
    if who == "a person":
        world.broker.trade_by_hand("AAPL", "sell", 25, 100)
    else:
        world.broker.fill(world.broker.place("AAPL", "sell", 25, client_order_id="bot-flip"), 25, 100)
        await world.deliver()
    await world.until(lambda: [(p.side, p.qty) for p in world.manager.positions()] == [("short", 15)], seconds=90)
    assert [r.event.how for r in last_of(world)] == ["reversed"]
    assert world.alarm_kinds == []
    await world.bar(99)
    assert world.orders == []
    await world.bar(102)
    assert [(o.side, o.qty) for o in world.orders] == [("buy", 15)]


async def test_given_a_split_then_the_levels_are_new_and_nothing_is_sold(world: World) -> None:
    await world.bar(101)
    world.broker.split("AAPL", 7)
    await world.bar("14.43")
    assert world.orders == []
    assert world.state == "monitoring"
    assert world.position.qty == 70
    assert abs(world.position.entry_price - Decimal(100) / 7) < Decimal("0.0001")
    await world.bar("14.3")
    assert world.orders == []
    await world.bar("14.1")
    assert [o.qty for o in world.orders] == [70]


@pytest.mark.parametrize(
    ("qty", "entry", "price"),
    [
        (18, 101, "10.1"),  # sold and entered anew
        (100, 100, "10.1"),  # bought on, and the entry did not move as the price did
        (10, "100.5", "10.1"),  # an entry with its fees, beside the same quantity
        (10, 100, "1000"),  # nothing but the price
        (5, 200, "10.1"),  # put together, not split: the price ought to have risen
        (100, 100, "14.43"),  # a split of which the average knows nothing yet
    ],
)
async def test_given_a_bad_print_and_other_figures_than_known_then_it_is_no_split(
    world: World, qty: int, entry: float | str, price: float | str
) -> None:
    await world.bar(101)
    world.broker.price("AAPL", 101)
    world.broker._held["AAPL"] = (Decimal(qty), Decimal(entry))
    for close in (Decimal(price), Decimal(price) * Decimal("0.98")):
        world.clock.move(1)
        await world.manager.on_bar(world.make_bar(close))
        await world.settle()
    assert world.orders == []
    assert "price_jump" in world.alarm_kinds


@pytest.mark.parametrize(
    ("qty", "entry", "price"),
    [
        (70, "14.2857", "14.43"),
        (5, 200, 202),  # put together
        (16, "60.6061", 61),  # 33 for 20, a part of one share paid in cash
        (10, 60, "60.6"),  # a part of the company spun off
    ],
)
async def test_given_figures_that_moved_as_the_price_did_then_the_levels_are_new(
    world: World, qty: int, entry: float | str, price: float | str
) -> None:
    await world.bar(101)
    world.broker._held["AAPL"] = (Decimal(qty), Decimal(entry))
    await world.bar(price)
    assert world.orders == []
    assert (world.position.qty, world.position.entry_price) == (Decimal(qty), Decimal(entry))
    await world.bar(Decimal(price) * Decimal("0.97"))
    assert [o.qty for o in world.orders] == [qty]


async def test_given_a_price_jump_that_the_broker_confirms_then_it_exits_at_once(world: World) -> None:
    await world.bar(101)
    await world.bar(60)
    assert [o.qty for o in world.orders] == [10]


async def test_given_a_price_jump_that_the_broker_does_not_confirm_then_it_is_an_alarm_and_no_exit(
    world: World,
) -> None:
    await world.bar(101)
    world.broker.price("AAPL", 101)
    world.clock.move(1)
    await world.manager.on_bar(world.make_bar(60))
    await world.settle()
    assert world.orders == []
    assert world.alarm_kinds == ["price_jump"]
    await world.bar(98.5)
    assert len(world.orders) == 1


async def test_given_a_price_jump_and_no_answer_then_the_next_bar_asks_again(world: World) -> None:
    await world.bar(101)
    world.broker.answer("positions", Raises(ConnectionError()))
    await world.bar(60)
    assert world.orders == []
    assert world.alarm_kinds == ["price_jump"]
    await world.bar(59)
    assert len(world.orders) == 1


# --- taking up --------------------------------------------------------------------------------------------------------


async def test_given_positions_opened_while_offline_then_they_are_watched_from_the_start(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    world.broker.enter("AAPL", "long", 10, 100)
    world.clock.move(60)
    world.broker.enter("TSLA", "short", 3, 200)
    world.broker.lose_updates()
    await world.start()
    epochs = [p.epoch for p in world.manager.positions()]
    assert epochs == ["20240102T153000Z", "20240102T153100Z"]
    await world.bar(204, "TSLA")
    assert [(o.symbol, o.side, o.qty) for o in world.orders] == [("TSLA", "buy", 3)]


async def test_given_an_entry_in_several_fills_then_the_epoch_is_the_first_one_since_flat(
    make_world: MakeWorld,
) -> None:
    world = await make_world(started=False)
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.trade_by_hand("AAPL", "sell", 10, 100)
    world.clock.move(60)
    entry = world.broker.place("AAPL", "buy", 9)
    world.broker.fill(entry, 4, 101)
    world.clock.move(60)
    world.broker.fill(entry, 5, 101)
    await world.start()
    assert world.position.epoch == "20240102T153100Z"


async def test_given_an_entry_that_fills_while_it_is_taken_up_then_the_epoch_is_still_its_first_fill(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    entry = world.broker.place("AAPL", "buy", 10)
    world.broker.fill(entry, 4, 100)
    before = world.broker.snapshot()
    world.clock.move(2)
    world.broker.fill(entry, 6, 100)
    world.broker.answer("positions", Returns(before))
    await world.deliver()
    await world.until(lambda: world.manager.positions() != [], seconds=10)
    assert world.position.epoch == "20240102T153000Z"
    await world.until(lambda: world.position.qty == 10, seconds=10)


async def test_given_fills_that_do_not_reach_back_then_it_is_watched_by_its_price_and_alarmed(
    make_world: MakeWorld,
) -> None:
    world = await make_world(started=False)
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.executions.clear()
    await world.start()
    await world.passes(5)
    assert [p.epoch for p in world.manager.positions()] == ["at-100"]
    assert world.alarm_kinds == ["epoch_unknown"]
    await world.manager.watch("AAPL", "long", 10, 100, T0)
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_a_position_without_an_entry_price_then_it_is_an_alarm(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    world.broker.always("positions", Returns([{"symbol": "AAPL", "qty": 10}]))
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.executions.clear()
    await world.start()
    await world.passes(5)
    assert world.alarm_kinds == ["unpriceable"]
    assert world.manager.positions() == []


async def test_given_a_position_without_an_entry_price_then_the_fills_say_it(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    world.broker.always("positions", Returns([{"symbol": "AAPL", "qty": 10}]))
    order = world.broker.place("AAPL", "buy", 10)
    world.broker.fill(order, 5, 100)
    world.broker.fill(order, 5, 101)
    await world.start()
    assert [p.entry_price for p in world.manager.positions()] == [Decimal("100.5")]
    assert world.alarm_kinds == []


@pytest.mark.parametrize("price", [Decimal("NaN"), Decimal(0), Decimal("Infinity"), Decimal(-1)])
async def test_given_a_current_price_that_is_none_then_the_position_is_watched_all_the_same(
    make_world: MakeWorld, price: Decimal
) -> None:
    world = await make_world(started=False)
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.prices["AAPL"] = price
    await world.start()
    assert world.state == "monitoring"
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_a_pair_that_the_broker_spells_without_its_slash_then_its_bars_are_watched(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.broker.enter("BTC/USD", "long", 2, 40000)
    entry = world.broker.snapshot()[0]
    world.broker.always("positions", Returns([replace(entry, symbol="BTCUSD")]))
    await world.deliver()
    await world.settle()
    assert [p.symbol for p in world.manager.positions()] == ["BTC/USD"]
    await world.bar(39000, "BTC/USD")
    assert [(o.symbol, o.qty, str(o.time_in_force)) for o in world.orders] == [("BTC/USD", 2, "gtc")]


async def test_given_one_broken_list_of_fills_then_the_other_positions_are_reconciled(world: World) -> None:
    await world.enter(5, 50, symbol="MSFT")
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)
    world.broker.trade_by_hand("MSFT", "sell", 2, 51)
    world.broker.always("fills", Raises(ConnectionError()))
    await world.passes(200)
    assert [(p.symbol, p.remaining_qty) for p in world.manager.positions()] == [("MSFT", 3)]


# --- the store is gone ------------------------------------------------------------------------------------------------


async def lose_store(world: World) -> None:
    """The process dies, and its disk with it."""
    await world.bury()
    world._generation += 1
    world.manager = world._new_manager()


async def test_given_a_lost_store_when_an_exit_of_ours_works_then_it_is_found_and_taken_over(world: World) -> None:
    await world.bar(98)
    await world.fill(4)
    await lose_store(world)
    await world.start()
    assert world.state == "partial"
    assert world.position.reason == "recovered"
    await world.bar(95)
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert executed(world.broker, "AAPL", "sell") == 10


async def test_given_a_lost_store_between_attempts_then_the_numbering_goes_on(world: World) -> None:
    await world.bar(98)
    await world.fill(4)
    world.broker.expire(world.last_order)
    await lose_store(world)
    await world.start()
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert world.last_order.client_order_id.endswith("002")
    assert world.last_order.qty == 6


async def test_given_a_lost_store_when_the_look_up_fails_then_a_breach_sends_nothing_twice(world: World) -> None:
    await world.bar(98)
    await lose_store(world)
    world.broker.answer("order", Raises(ConnectionError()))
    await world.start()
    await world.bar(97)
    await world.passes(10)
    assert len(world.orders) == 1
    assert world.state == "submitted"


async def test_given_a_lost_store_where_ids_may_repeat_when_the_look_up_fails_then_nothing_is_sent_twice(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=replace(GOOD, ids_refused=IdMemory.NEVER))
    await world.enter()
    await world.bar(98)
    await lose_store(world)
    world.broker.answer("order", Raises(ConnectionError()))
    await world.start()
    await world.bar(97)
    await world.passes(10)
    assert len(world.orders) == 1


async def test_given_an_exit_order_that_looks_like_ours_and_is_not_known_then_a_person_is_told(world: World) -> None:
    world.broker.place("AAPL", "sell", 3, client_order_id="xf1-00000000000000000000000000000000-1", tell=False)
    await world.manager.sync()
    assert world.alarm_kinds == ["unknown_exit_order"]


async def test_given_another_machine_with_a_store_of_its_own_then_it_names_the_same_order(
    make_world: MakeWorld,
) -> None:
    one = await make_world()
    await one.enter()
    two = await make_world(started=False)
    two.broker, two.seen_by_manager = one.broker, one.broker
    two.manager = two._new_manager()
    await two.start()
    await one.bar(98)
    two.clock.move(1)
    await two.manager.on_bar(two.make_bar(98))
    await two.settle()
    assert len(one.orders) == 1
    assert two.state == "submitted"
    await one.fill()
    await one.until(lambda: one.state == "filled")
    await two.until(lambda: two.state == "filled", seconds=20)
    await two.stop()


async def test_given_an_old_update_of_an_entry_after_a_restart_then_a_new_position_is_watched_or_alarmed(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.broker.fills = None  # type: ignore[assignment, method-assign]
    await world.enter()
    old = world.broker.booked("bot-1").report()  # type: ignore[union-attr]
    await world.bar(98)
    await world.fill()
    await world.until(lambda: world.state == "filled")
    await world.restart()
    await world.passes(400, step=5)
    world.broker.enter("AAPL", "long", 7, 100)
    await world.manager.on_order_update(old)
    await world.deliver()
    await world.passes(5)
    assert [p.remaining_qty for p in world.manager.positions()] == [7] or world.alarm_kinds == ["epoch_unknown"]


async def test_given_an_alarm_of_an_old_position_when_it_is_acknowledged_then_a_new_entry_is_not_forgotten(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.broker.fills = None  # type: ignore[assignment, method-assign]
    await world.enter()
    await world.bar(98)
    await world.manager._parts.context.mailbox.alarm(world.position.position_id, "order_restated", "look at it")
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert world.alarm_kinds == ["order_restated"]
    world.clock.move(2)
    await world.settle()
    world.broker.answer("positions", Raises(ConnectionError()))
    world.broker.enter("AAPL", "long", 7, 100)
    await world.deliver()
    await world.manager.acknowledge(world.manager.alarms()[0])
    await world.passes(3)
    assert [p.remaining_qty for p in world.manager.positions()] == [7]


async def test_given_a_short_position_then_it_is_the_mirror_image(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter(10, 100, side="short")
    await world.bar(100.99)
    assert world.orders == []
    await world.bar(101)
    assert [(o.side, o.qty, o.position_side) for o in world.orders] == [("buy", 10, Side.SHORT)]
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_a_bar_of_the_future_and_positions_of_nobody_then_nothing_happens(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.manager.on_bar(Bar("AAPL", T0, 100, 100, 100, 100))
    world.broker.answer(
        "positions", Returns([BrokerPosition(symbol="X", side=Side.LONG, qty=Decimal(0), avg_entry_price=Decimal(1))])
    )
    await world.manager.sync()
    assert world.manager.positions() == []
    assert world.events == []


# --- taking up --------------------------------------------------------------------------------------------------------


async def test_given_a_position_whose_look_up_hangs_then_the_others_are_watched_meanwhile(tmp_path: Path) -> None:
    world = World(tmp_path, {"live": {"broker_timeout_seconds": 5}})
    for symbol in ("AAPL", "MSFT", "TSLA"):
        world.broker.enter(symbol, "long", 10, 100)
    world.broker.answer("order", Hang())
    starting = asyncio.create_task(world.manager.start())
    await world.settle()
    assert sorted(p.symbol for p in world.manager.positions()) == ["MSFT", "TSLA"]
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await world.stop()


async def test_given_another_quantity_than_before_then_it_is_tried_as_often_to_find_its_first_fill(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()
    world.broker.enter("AAPL", "long", 44, 100)
    world.broker.lose_updates()
    world.broker.answer("fills", Returns([]), times=3)
    await world.manager.sync()
    await world.manager.sync()
    world.broker.trade_by_hand("AAPL", "sell", 44, 100)
    world.clock.move(1)
    first = world.clock.now()
    world.broker.enter("AAPL", "long", 16, 100)
    world.broker.lose_updates()
    await world.manager.sync()
    assert world.manager.positions() == []
    await world.manager.sync()
    assert (world.position.qty, world.position.opened_at, world.alarm_kinds) == (16, first, [])
    await world.finish()


async def test_given_a_list_of_fills_that_failed_before_then_it_is_tried_as_often_to_find_the_first_fill(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.lose_updates()
    world.broker.answer("fills", *[Raises(ConnectionError())] * TRIES_MAX, Returns([]))
    for _ in range(TRIES_MAX):
        with pytest.raises(BrokerError):
            await world.manager.sync()
    await world.manager.sync()
    assert world.manager.positions() == []
    await world.manager.sync()
    assert (world.position.epoch, world.alarm_kinds) == (epoch_of(T0), ["epoch_unknown"])  # it could not be read
    await world.finish()


async def test_given_a_quantity_that_changes_all_the_time_then_it_is_watched_under_its_price_in_the_end(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()
    world.broker.enter("AAPL", "long", 100, 100)
    world.broker.lose_updates()
    world.broker.executions.clear()  # the list does not reach back so far
    for _ in range(TRIES_MAX):
        assert world.manager.positions() == []
        world.broker.trade_by_hand("AAPL", "sell", 1, 100)
        await world.manager.sync()
    assert (world.position.qty, world.alarm_kinds) == (100 - TRIES_MAX, ["epoch_unknown"])
    await world.finish()
