"""What is true when it is acted on: reads that straddle a deadline, ends that the record denies, news in between.

The clock moves and news come while a call is under way (`Meanwhile`): nothing that was seen before it may be taken for
true after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from harness import GOOD, MakeWorld, World
from msgspec.structs import replace

from exitfsm import BrokerError, NotSent
from exitfsm.messages import Contradiction
from exitfsm.ports import IdMemory
from exitfsm.position import client_order_id
from exitfsm.testing import Hang, LostReply, Meanwhile, Raises, Returns

SOON = {"partial_fills": {"resubmit_delay_seconds": 1}}
BARE = replace(GOOD, reduce_only=False)


def attempts(world: World) -> list[tuple[str, str]]:
    """The exit orders that reached the venue: number and quantity."""
    return [(o.client_order_id[-1:], str(o.qty)) for o in world.orders]


# --- a read is as old as its beginning --------------------------------------------------------------------------------


async def exit_that_fills_late(make_world: MakeWorld, early: float = 0.96, **options: Any) -> World:
    """Canceled with nothing filled, more was bought meanwhile, and 4 of 10 fill late without a word.

    The next attempt is due in `1 - early` seconds.
    """
    world = await make_world(SOON, **options)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    first = world.last_order
    world.broker.trade_by_hand("AAPL", "buy", 10, 98)
    world.broker.end_cancel(first)
    await world.deliver()
    await world.passes(4)
    world.broker.fill(first, 4, 98, late=True)
    world.broker.lose_updates()
    await world.passes(early, early)
    return world


@pytest.mark.parametrize("method", ["positions", "fills", "order"])
@pytest.mark.parametrize("early", [0.5, 0.9, 0.96])
async def test_given_an_attempt_comes_due_while_the_books_are_read_then_a_late_fill_is_not_sold_again(
    make_world: MakeWorld, method: str, early: float
) -> None:
    world = await exit_that_fills_late(make_world, early)
    hang = Hang("first")
    world.broker.answer(method, hang)
    sync = asyncio.create_task(world.manager.sync())
    await world.settle()
    await world.passes(0.55, 0.05)
    hang.release()
    await world.settle()
    await sync
    await world.passes(3)
    assert attempts(world) == [("1", "10"), ("2", "6")]
    await world.fill()
    await world.passes(5)
    [ended] = world.ended()
    assert (ended.sold_qty, str(ended.state)) == (Decimal(10), "filled")


@pytest.mark.parametrize("seconds", [0.05, 0.5, 3, 40])
async def test_given_the_clock_moves_within_the_read_then_a_late_fill_is_not_sold_again(
    make_world: MakeWorld, seconds: float
) -> None:
    world = await exit_that_fills_late(make_world)
    world.broker.answer("positions", Meanwhile(lambda: world.clock.move(seconds)))
    await world.manager.sync()
    await world.passes(3)
    assert attempts(world) == [("1", "10"), ("2", "6")]


async def test_given_a_clock_that_is_set_ahead_then_the_time_for_late_fills_is_waited_for_all_the_same(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    first = world.last_order
    world.broker.end_cancel(first)
    await world.deliver()
    world.clock.set(world.clock.now() + timedelta(hours=1))
    await world.passes(4)
    world.broker.fill(first, 4, 98, late=True)  # within the 5 seconds that the broker declares
    world.broker.lose_updates()
    await world.passes(5)
    assert attempts(world) == [("1", "10"), ("2", "6")]


async def test_given_one_read_that_two_callers_share_then_it_counts_once(make_world: MakeWorld) -> None:
    world = await make_world(capabilities=BARE)
    await world.enter(10)
    p = world.position
    view, books = world.manager._parts.view, world.manager._parts.context.books
    shown = world.manager._parts.context.memory.shown
    world.broker.answer("positions", Returns([]), times=1)
    expected = view.expectations()
    shared = await books.positions()
    for _ in range(3):
        await view.tell_read(p.position_id, shared, expected)
    assert shown.counted(p).reads == 1
    older = await books.positions()
    world.clock.move(1)
    newer = await books.positions()
    assert shown.count(p, Decimal(7), newer.began) == 1
    assert shown.count(p, Decimal(3), older.began) == 1
    assert shown.counted(p).qty == 7  # one that began before it is no newer word


# --- an end that the record denies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("word", ["canceled", "expired", "rejected"])
async def test_given_an_end_that_the_record_denies_then_nothing_is_sent_until_the_record_shows_it(
    make_world: MakeWorld, word: str, guarded: bool
) -> None:
    world = await make_world(SOON, capabilities=replace(GOOD, reduce_only=guarded))
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    first = world.last_order
    await world.manager.on_order_update({"client_order_id": first.client_order_id, "status": word, "filled_qty": 0})
    await world.passes(60)
    assert attempts(world) == [("1", "10")]
    assert world.state == "rejected"
    assert "ended_order_works" in world.alarm_kinds
    world.broker.fill(first, 3)
    world.broker.expire(first)
    await world.deliver()
    await world.passes(60)
    assert attempts(world) == [("1", "10"), ("2", "7")]
    await world.fill()
    await world.passes(5)
    assert str(world.ended()[0].state) == "filled"


async def test_given_a_word_that_ends_nothing_then_the_order_goes_on(make_world: MakeWorld) -> None:
    world = await make_world(SOON)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    order_id = world.last_order.client_order_id
    await world.manager.on_order_update({"client_order_id": order_id, "status": "ApiCancelled", "filled_qty": 0})
    await world.passes(12)
    assert (attempts(world), str(world.state)) == ([("1", "10")], "submitted")


@pytest.mark.parametrize("told", [True, False])
async def test_given_the_venue_takes_an_end_back_then_no_attempt_follows_while_the_order_works(
    make_world: MakeWorld, told: bool
) -> None:
    world = await make_world(capabilities=BARE)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    first = world.last_order
    world.broker.end_cancel(first)
    await world.deliver()
    world.broker.reopen(first)
    if told:
        await world.deliver()
    world.broker.lose_updates()
    await world.passes(120)
    assert attempts(world) == [("1", "10")]
    world.broker.fill(first)
    await world.deliver()
    await world.passes(5)
    assert str(world.ended()[0].state) == "filled"


async def test_given_an_order_works_again_while_the_next_attempt_waits_for_the_rate_then_that_does_not_leave(
    make_world: MakeWorld,
) -> None:
    world = await make_world({**SOON, "live": {"orders_per_minute": 2, "patience_seconds": 3000}}, capabilities=BARE)
    await world.enter(10)
    await world.enter(10, symbol="MSFT")
    await world.bar(98)
    await world.deliver()
    first = world.last_order
    await world.bar(98, "MSFT")
    await world.deliver()
    world.broker.end_cancel(first)
    await world.deliver()
    await world.passes(10)
    assert "AAPL pending" in {f"{p.symbol} {p.state}" for p in world.manager.positions()}
    world.broker.reopen(first)
    world.broker.lose_updates()
    await world.passes(120)
    assert [o.symbol for o in world.orders] == ["AAPL", "MSFT"]
    assert "ended_order_works" in world.alarm_kinds
    world.broker.expire(first)
    await world.passes(60)
    assert [o.symbol for o in world.orders] == ["AAPL", "MSFT", "AAPL"]


async def test_given_an_end_is_taken_back_after_it_was_proved_then_no_other_exit_leaves_beside_the_order(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"partial_fills": {"resubmit_delay_seconds": 300}, "live": {"patience_seconds": 3000}})
    await world.enter(10, at=100)
    await world.bar(98)
    await world.deliver()
    first, older = world.last_order, world.position.position_id
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 12, 98)
    world.broker.end_cancel(first)
    await world.deliver()
    view = world.manager._parts.view
    await view.record_of(world.position, first.client_order_id)
    assert world.manager._parts.context.memory.shown.look_ups(first.client_order_id).shown_over > 0
    world.broker.reopen(first)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 12, 98, world.clock.now())
    await world.passes(10)
    await world.bar(96)
    await world.passes(30)
    assert attempts(world) == [("1", "10")]
    assert not world.broker.violations
    world.broker.fill(first)
    await world.deliver()
    await world.passes(30)
    assert [str(o.qty) for o in world.orders] == ["10", "12"]
    assert older not in {p.position_id for p in world.manager.positions()}


async def test_given_an_end_proved_before_late_fills_are_over_then_it_is_proved_anew_after_that(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"partial_fills": {"resubmit_delay_seconds": 300}, "live": {"patience_seconds": 3000}})
    await world.enter(10, at=100)
    await world.bar(98)
    await world.deliver()
    first = world.last_order
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 12, 98)
    world.broker.end_cancel(first)
    await world.deliver()
    await world.manager.watch("AAPL", "long", 12, 98, world.clock.now())
    await world.passes(3, 0.5)
    older = next(p for p in world.manager.positions() if p.client_order_id == first.client_order_id)
    await world.manager._parts.view.record_of(older, first.client_order_id)
    await world.passes(1, 0.5)
    world.broker.reopen(first)
    world.broker.lose_updates()
    await world.passes(1, 0.5)  # five seconds after the cancel, two after its record was read
    await world.bar(96, after=0.1)
    await world.passes(20)
    assert attempts(world) == [("1", "10")]
    assert not world.broker.violations


async def test_given_the_record_cannot_be_read_then_the_attempt_waits_for_it(make_world: MakeWorld) -> None:
    world = await make_world({**SOON, "live": {"patience_seconds": 60}})
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    world.broker.always("order", Raises(TimeoutError("no answer")))
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.passes(120)
    assert attempts(world) == [("1", "10")]
    assert "retry_stalled" in world.alarm_kinds
    world.broker.always("order", None)
    await world.passes(60)
    assert attempts(world) == [("1", "10"), ("2", "10")]


# --- what was not asked for, or sent, when it was decided -------------------------------------------------------------


@pytest.mark.parametrize("with_names", [True, False], ids=["named executions", "executions without names"])
async def test_given_a_lost_store_and_no_look_ups_then_what_is_still_held_is_not_called_closed(
    make_world: MakeWorld, with_names: bool
) -> None:
    world = await make_world(SOON)
    await world.enter()
    await world.bar(98)
    await world.deliver()
    await world.fill(4, 98)
    await world.crash()
    for file in world.path.glob("exits-*"):
        file.unlink()
    world.broker.always("open_orders", Returns([]))
    world.broker.always("order", Raises(TimeoutError("no answer")))
    if not with_names:
        listed = [replace(f, client_order_id=None, broker_order_id=None) for f in world.broker.executions]
        world.broker.always("fills", Returns(listed))
    await world.start()
    await world.passes(10)
    world.broker.always("order", None)
    world.broker.fill(world.last_order, 3, 98)
    world.broker.lose_updates()
    await world.bar(98)
    await world.passes(400)
    assert world.broker.held("AAPL") == 3
    assert world.ended() == []
    [p] = world.manager.positions()
    if with_names:
        assert (p.qty, p.remaining_qty, str(p.state)) == (Decimal(10), Decimal(3), "partial")
    else:
        assert "protection_lost" in world.alarm_kinds
    assert attempts(world) == [("1", "10")]


async def test_given_the_other_side_is_shown_while_an_exit_waits_for_the_rate_then_it_does_not_leave(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"orders_per_minute": 1, "patience_seconds": 3000}}, capabilities=BARE)
    await world.enter(10, symbol="MSFT")
    await world.enter(10, symbol="AAPL")
    await world.bar(98, "MSFT")
    await world.deliver()
    await world.bar(98, "AAPL")
    await world.passes(3)
    world.broker.trade_by_hand("AAPL", "sell", 15, 98)
    await world.manager.sync()
    await world.passes(90)
    assert [o.symbol for o in world.orders] == ["MSFT"]


async def test_given_it_became_unprotected_while_it_waited_for_the_rate_then_it_does_not_leave(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"orders_per_minute": 1, "patience_seconds": 3000}})
    await world.enter(10, symbol="MSFT")
    await world.enter(10, symbol="AAPL")
    await world.bar(98, "MSFT")
    await world.deliver()
    await world.bar(98, "AAPL")
    await world.passes(3)
    await world.manager._parts.context.mailbox.tell(_of(world, "AAPL").position_id, _contradiction(world))
    await world.passes(90)
    assert [o.symbol for o in world.orders] == ["MSFT"]


async def test_given_less_is_held_when_its_turn_comes_then_no_more_leaves_than_is_held(make_world: MakeWorld) -> None:
    world = await make_world(
        {"live": {"orders_per_minute": 1, "patience_seconds": 3000, "sync_seconds": 3000}}, capabilities=BARE
    )
    await world.enter(10, symbol="MSFT")
    await world.enter(10, symbol="AAPL")
    await world.bar(98, "MSFT")
    await world.deliver()
    await world.bar(98, "AAPL")
    await world.passes(3)
    world.broker.trade_by_hand("AAPL", "sell", 4, 98)
    await world.passes(58)  # the look that came before the wait had shown ten
    for _ in range(120):
        if len(world.orders) > 1:
            break
        await world.passes(1)
    assert [(o.symbol, str(o.qty)) for o in world.orders] == [("MSFT", "10"), ("AAPL", "6")]


async def test_given_two_epochs_that_wait_for_the_rate_then_one_exit_works_at_a_time(make_world: MakeWorld) -> None:
    world = await make_world({**SOON, "live": {"orders_per_minute": 1, "patience_seconds": 3000}})
    await world.enter(10, at=100)
    world.broker.always("submit", Raises(NotSent("rate")))
    await world.bar("98.9")
    world.broker.trade_by_hand("AAPL", "sell", 10, 99)
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 22, 99)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 12, 99, world.clock.now())
    await world.bar("97.9")
    world.broker.truthful()
    await world.until(lambda: world.orders)
    world.broker.reject(world.last_order, "not_tradable")
    await world.deliver()
    for _ in range(200):
        await world.passes(1)
        assert len(world.broker.live_exits()) <= 1
        assert not world.broker.violations
    assert len(world.orders) > 1


async def test_given_an_error_of_the_broker_after_the_order_arrived_then_it_is_not_sent_again(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=replace(GOOD, ids_refused=IdMemory.NEVER))
    await world.enter(10)
    world.broker.answer("submit", LostReply(BrokerError("HTTP 500")))
    await world.bar(98)
    await world.passes(10)
    assert attempts(world) == [("1", "10")]
    assert world.state == "submitted"


async def test_given_a_reject_that_complains_of_the_id_then_the_order_goes_on(make_world: MakeWorld) -> None:
    world = await make_world(SOON)
    await world.enter()
    await world.bar(98)
    await world.deliver()
    order_id = world.last_order.client_order_id
    said = {"client_order_id": order_id, "status": "rejected", "reason": "client_order_id must be unique"}
    await world.manager.on_order_update({**said, "filled_qty": 0})
    await world.passes(20)
    assert attempts(world) == [("1", "10")]
    assert world.state == "submitted"


async def test_given_the_breaker_opens_while_an_exit_waits_then_that_waits_for_the_probe(
    make_world: MakeWorld,
) -> None:
    live = {"orders_per_minute": 1, "breaker_failures": 1, "breaker_probe_seconds": 600, "patience_seconds": 3000}
    world = await make_world({"live": live})
    for symbol in ("MSFT", "AAPL"):
        await world.enter(10, symbol=symbol)
    await world.bar(98, "MSFT")
    await world.bar(98, "AAPL")
    breaker = world.manager._parts.context.breaker
    breaker.failed()
    breaker.sends(world.clock.monotonic())
    await world.passes(300)
    assert [o.symbol for o in world.orders] == ["MSFT"]
    await world.passes(400)
    assert [o.symbol for o in world.orders] == ["MSFT", "AAPL"]


async def test_given_an_id_was_asked_for_before_it_was_sent_then_not_found_says_nothing(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter(10)
    world.broker.answer("submit", LostReply())
    slow = Hang("first")
    world.broker.answer("order", slow)
    key = world.position.position_id
    look_up = asyncio.create_task(world.manager._parts.executor.look_up(key, client_order_id(key, 1)))
    await world.settle()
    world.broker.always("order", Raises(TimeoutError("no answer")))
    await world.bar(98)
    slow.release()
    await world.settle()
    assert await look_up is False
    await world.passes(30)
    assert world.broker.count("submit") == 1
    world.broker.always("order", None)
    await world.passes(30)
    assert attempts(world) == [("1", "10")]
    assert world.state == "submitted"


# --- operators --------------------------------------------------------------------------------------------------------


async def unprotected(make_world: MakeWorld) -> World:
    """6 of 10 held without protection: the order was refused twice, after a late fill of 4."""
    world = await make_world(SOON)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    await world.fill(4, 98)
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    for _ in range(2):
        await world.passes(10)
        if world.state == "submitted":
            world.broker.reject(world.last_order, "not_tradable")
            await world.deliver()
    assert world.state == "unprotected"
    return world


async def test_given_a_fill_is_heard_of_while_a_release_reads_the_books_then_nothing_is_released(
    make_world: MakeWorld,
) -> None:
    world = await unprotected(make_world)
    first = world.orders[0]

    async def fills_late() -> None:
        world.broker.fill(first, 2, 98, late=True)
        await world.broker.deliver(world.manager.on_order_update)

    world.broker.answer("positions", Meanwhile(fills_late))
    await world.manager.release(world.position)
    await world.settle()
    assert world.state == "unprotected"
    assert "not_done" in world.alarm_kinds
    await world.manager.release(world.position)
    assert (world.state, world.position.remaining_qty) == ("monitoring", Decimal(4))


async def test_given_it_became_unprotected_while_another_one_was_cleared_up_then_it_is_not_forced_blindly(
    make_world: MakeWorld,
) -> None:
    world = await unprotected(make_world)
    await world.enter(10, symbol="MSFT")
    await world.bar(98, "MSFT")
    await world.deliver()
    other = world.last_order

    async def lost_meanwhile() -> None:
        world.broker.reject(other, "no_more")
        await world.broker.deliver(world.manager.on_order_update)
        await world.manager._parts.context.mailbox.tell(_of(world, "MSFT").position_id, _contradiction(world))

    world.broker.answer("positions", Meanwhile(lost_meanwhile))
    await world.manager.flatten_all("out")
    await world.settle()
    assert str(_of(world, "MSFT").state) == "unprotected"
    assert [o.symbol for o in world.orders].count("MSFT") == 1


def _of(world: World, symbol: str) -> Any:
    return next(p for p in world.manager.positions() if p.symbol == symbol)


def _contradiction(world: World) -> Contradiction:
    return Contradiction(at=world.clock.now(), why="the books contradict themselves")


# --- lists, bars and adoption -----------------------------------------------------------------------------------------


async def test_given_an_entry_begins_to_work_while_the_list_is_read_then_it_is_remembered(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"entry_id_prefix": "bot-"}})
    await world.enter(10)

    async def entry_comes() -> None:
        world.broker.place("AAPL", "buy", 5, client_order_id="bot-77")
        await world.broker.deliver(world.manager.on_order_update)

    world.broker.answer("open_orders", Meanwhile(entry_comes))
    await world.manager.sync()
    assert "bot-77" in world.manager._parts.context.memory.orders.foreign["AAPL"]
    await world.manager.sync()
    assert "bot-77" in world.manager._parts.context.memory.orders.foreign["AAPL"]


async def test_given_another_price_jumps_while_the_broker_is_asked_then_that_one_is_asked_about_anew(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=BARE)
    await world.enter(10)
    await world.bar(100)
    hang = Hang("first")
    world.broker.answer("positions", hang)
    world.clock.move(1)
    await world.manager.on_bar(world.make_bar(50))
    await world.settle()  # the broker is asked, and shows a price of 100
    await world.bar(20)
    assert world.orders == []
    hang.release()
    await world.settle()
    assert attempts(world) == [("1", "10")]  # by the second answer, which shows 20


async def test_given_a_bar_breaches_while_a_position_is_taken_up_then_its_order_is_known_first(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON, capabilities=replace(GOOD, ids_refused=IdMemory.NEVER))
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    await world.crash()
    for file in world.path.glob("exits-*"):
        file.unlink()
    await world.manager.start()
    bars: list[asyncio.Task[None]] = []
    run: Callable[..., Any] = world.manager._engine.open_unless_watched

    def opened(*args: Any, **options: Any) -> Any:
        world.clock._now += timedelta(seconds=1)
        world.manager._loop.call_soon_threadsafe(  # type: ignore[union-attr]
            lambda: bars.append(asyncio.ensure_future(world.manager.on_bar(world.make_bar(97))))
        )
        return run(*args, **options)

    world.manager._engine.open_unless_watched = opened  # type: ignore[method-assign]
    await world.manager.sync()
    await world.settle()
    await world.passes(5)
    assert attempts(world) == [("1", "10")]


async def test_given_a_pause_after_the_time_was_told_then_no_exit_by_time_is_triggered(make_world: MakeWorld) -> None:
    world = await make_world({"time_limit": {"enabled": True, "max_seconds": 60}})
    await world.enter(10)
    await world.passes(30)
    world.clock.move(200)
    tick = asyncio.ensure_future(world.manager.tick())
    await asyncio.sleep(0)  # it has told what is due
    pause = world.manager.pause()
    await tick
    await pause
    await world.settle()
    assert world.orders == []
