"""Bots and brokers of strangers: what they leave out, what they get wrong, and that nothing stays unprotected."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bots import order_dict
from harness import GOOD, T0, MakeWorld, World
from msgspec.structs import replace

from exitfsm import Bar
from exitfsm.manager import ExitManager, SystemClock
from exitfsm.ports import CAREFUL
from exitfsm.position import epoch_of
from exitfsm.testing import Hang, Raises, Returns, ScriptedBroker
from exitfsm.values import ExecutionReport, OrderStatus, Side


def without_fills(world: World) -> None:
    """The broker lists no executions."""
    world.broker.fills = None  # type: ignore[assignment, method-assign]


# --- positions that were there before us ------------------------------------------------------------------------------


async def test_given_a_position_from_before_and_no_list_of_fills_then_it_is_watched_at_once_and_a_person_is_told(
    make_world: MakeWorld,
) -> None:
    world = await make_world(started=False)
    without_fills(world)
    world.broker.enter("AAPL", "long", 10, "100.50")
    world.broker.lose_updates()
    await world.start()
    assert [p.epoch for p in world.manager.positions()] == ["at-100.5"]
    assert world.alarm_kinds == ["epoch_unknown"]
    await world.bar(99)
    assert [o.qty for o in world.orders] == [10]
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_the_same_price_again_then_the_next_position_has_a_name_of_its_own(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    without_fills(world)
    for _ in range(2):
        world.broker.enter("AAPL", "long", 10, 100)
        world.broker.lose_updates()
        if not world.manager._running:
            await world.start()
        await world.passes(90)
        await world.bar(98.9)
        await world.fill()
        await world.until(lambda: not world.manager.positions())
        await world.passes(310, step=5)
    assert [p.epoch for p in world.ended()] == ["at-100", "at-100-2"]
    assert len({o.client_order_id for o in world.orders}) == 2


async def test_given_several_entries_in_one_moment_then_nobody_is_alarmed_by_the_order_of_the_news(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    without_fills(world)
    for symbol in ("AAPL", "MSFT", "TSLA"):
        world.broker.enter(symbol, "long", 10, 100)
    await world.deliver()
    await world.passes(5)
    assert {p.epoch for p in world.manager.positions()} == {epoch_of(T0)}
    assert world.alarm_kinds == []


async def test_given_positions_without_prices_then_the_updates_say_them(make_world: MakeWorld) -> None:
    world = await make_world()
    without_fills(world)
    bare: Callable[[], Any] = lambda: {p.symbol: float(p.qty * p.side.sign) for p in world.broker.snapshot()}  # noqa: E731
    world.broker.positions = bare  # type: ignore[method-assign, assignment]
    entry = world.broker.place("AAPL", "sell", 10)
    world.broker.fill(entry, 4, 100)
    await world.deliver()
    await world.passes(3)
    world.broker.fill(entry, 6, 110)
    await world.deliver()
    await world.until(lambda: world.position.qty == 10, seconds=70)
    assert (world.position.side, world.position.entry_price) == (Side.SHORT, 106)
    await world.bar(107.1)
    assert [(str(o.side), o.qty) for o in world.orders] == [("buy", 10)]


async def test_given_an_entry_time_on_the_position_then_it_names_it(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    without_fills(world)
    world.broker.enter("AAPL", "long", 10, 100)
    shown = {"symbol": "AAPL", "qty": 10, "avg_price": 100.0, "entry_time": "2024-01-02T15:00:00Z"}
    world.broker.always("positions", Returns([shown]))
    await world.start()
    assert [p.epoch for p in world.manager.positions()] == ["20240102T150000Z"]
    assert world.alarm_kinds == []


async def test_given_watch_under_another_time_than_was_found_then_one_holding_is_watched_once(world: World) -> None:
    found = world.position
    again = await world.manager.watch("aapl", "long", 10, 100.0, T0 + timedelta(seconds=7))
    assert again == found
    await world.bar(98)
    await world.bar(97)
    assert [o.qty for o in world.orders] == [10]


async def test_given_watch_for_two_entries_at_one_moment_then_one_holding_is_watched_once(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.lose_updates()
    first, second = await asyncio.gather(
        world.manager.watch("AAPL", "long", 10, 100, T0),
        world.manager.watch("AAPL", "long", 10, 100, T0 + timedelta(seconds=20)),
    )
    assert first == second
    await world.bar(98)
    assert [o.qty for o in world.orders] == [10]


async def test_given_watch_while_the_same_holding_is_being_found_then_it_is_watched_once(make_world: MakeWorld) -> None:
    world = await make_world()
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.lose_updates()
    probe = Hang()
    world.broker.answer("order", probe)  # whether an exit of it works already
    syncing = asyncio.ensure_future(world.manager.sync())
    await world.settle()
    watched = await world.manager.watch("AAPL", "long", 10, 100, T0 - timedelta(seconds=1))
    probe.release()
    await syncing
    assert world.manager.positions() == [watched]
    await world.bar(98)
    assert [o.qty for o in world.orders] == [10]


class GoesByItsOwnIds:
    """A broker that can only be asked by its own ids, and lists nothing."""

    def __init__(self, broker: ScriptedBroker, *, lists: bool = False) -> None:
        self.broker, self.capabilities = broker, CAREFUL
        if lists:
            self.get_open_orders = broker._open_orders

    def get_positions(self) -> Any:
        return self.broker.snapshot()

    def submit(self, order: Any) -> str:
        return str(self.broker.take(order).broker_order_id)

    def get_order(self, order_id: str) -> Any:
        for booked in (*self.broker.live_exits(), *self.broker.ended_exits()):
            if booked.report().broker_order_id == order_id:
                return {**order_dict(booked.report()), "client_order_id": None}
        raise KeyError(order_id)

    def cancel_order(self, order_id: str) -> None:
        raise AssertionError("nothing here is canceled")


async def own_ids(make_world: MakeWorld, *, lists: bool = False) -> World:
    world = await make_world(started=False, capabilities=CAREFUL)
    world.seen_by_manager = GoesByItsOwnIds(world.broker, lists=lists)
    world.manager = world._new_manager()
    return world


async def test_given_a_broker_that_goes_by_its_own_ids_then_an_entry_under_our_eyes_is_exited(
    make_world: MakeWorld,
) -> None:
    world = await own_ids(make_world)
    await world.start()
    await world.enter()
    await world.bar(98)
    report = world.broker.fill(world.last_order)
    world.broker.lose_updates()
    del report
    await world.until(lambda: world.state == "filled", seconds=20)  # looked up by the id that the submit returned
    assert len(world.orders) == 1


@pytest.mark.parametrize(("lists", "watched"), [(True, True), (False, False)])
async def test_given_a_new_store_and_an_exit_that_might_work_then_only_a_list_of_orders_can_rule_it_out(
    make_world: MakeWorld, lists: bool, watched: bool
) -> None:
    world = await own_ids(make_world, lists=lists)
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.lose_updates()
    await world.start()
    await world.passes(5)
    assert [p.symbol for p in world.manager.positions()] == (["AAPL"] if watched else [])
    assert world.alarm_kinds == (["epoch_unknown"] if watched else ["exit_unknown"])


# --- what is no longer held -------------------------------------------------------------------------------------------


async def test_given_the_only_position_closed_by_hand_in_silence_then_no_order_opens_the_other_side(
    make_world: MakeWorld,
) -> None:
    """An empty list proves nothing, so that the position is not forgotten; but what nobody shows is not sold either."""
    world = await make_world(capabilities=replace(GOOD, reduce_only=False))
    without_fills(world)
    await world.enter()
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)
    world.broker.lose_updates()
    await world.bar(98)
    await world.passes(130)
    assert world.orders == []
    assert world.alarm_kinds == ["protection_lost"]


async def test_given_a_list_of_positions_that_is_empty_for_a_moment_then_the_exit_goes_out_all_the_same(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=replace(GOOD, reduce_only=False))
    await world.enter()
    world.broker.answer("positions", Returns([]), times=2)
    await world.bar(98)
    await world.until(lambda: world.orders, seconds=3)
    assert [o.qty for o in world.orders] == [10]


async def test_given_an_execution_without_a_name_before_ours_was_sent_then_it_was_by_other_hands(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=replace(GOOD, reduce_only=False))
    await world.enter()
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)
    world.broker.lose_updates()
    world.broker.executions[-1] = replace(world.broker.executions[-1], client_order_id=None, broker_order_id=None)
    await world.bar(98)
    await world.until(lambda: not world.manager.positions(), seconds=60)
    assert world.orders == []
    assert world.alarm_kinds == []


# --- updates ----------------------------------------------------------------------------------------------------------


async def test_given_our_own_fill_under_the_brokers_id_before_the_answer_then_it_is_not_a_sale_by_others(
    world: World,
) -> None:
    taken = world.broker.submit

    async def submit(order: Any) -> Any:
        report = await taken(order)
        world.broker.fill(order)
        nameless = order_dict(world.broker.booked(order.client_order_id).report())  # type: ignore[union-attr]
        await world.manager.on_order_update({**nameless, "client_order_id": None})
        return report

    world.broker.submit = submit  # type: ignore[method-assign]
    await world.bar(98)
    await world.until(lambda: world.state == "filled", seconds=20)
    reported = world.manager._parts.context.memory.orders.reported
    assert [fill.fill_id for fill in reported.of("AAPL")] == ["bot-1"]
    assert world.names().count("ExitTriggered") == len(world.orders) == 1


async def test_given_a_fill_that_does_not_say_how_much_then_the_order_is_looked_up(world: World) -> None:
    await world.bar(98)
    world.broker.fill(world.last_order, 4)
    world.broker.lose_updates()
    await world.manager.on_order_update(
        {"event": "fill", "client_order_id": world.last_order.client_order_id, "qty": 4, "price": 98.0}
    )
    await world.settle()
    assert (world.state, world.position.filled_qty) == ("partial", 4)


async def test_given_a_rejection_for_a_repeated_id_as_an_update_then_no_second_order_follows(world: World) -> None:
    await world.bar(98)
    order_id = world.last_order.client_order_id
    await world.manager.on_order_update(
        {"client_order_id": order_id, "status": "rejected", "reject_reason": "Duplicate ClOrdID"}
    )
    await world.passes(60)
    assert (world.state, len(world.orders)) == ("submitted", 1)


async def test_given_a_broker_whose_clock_is_slow_then_no_wait_is_longer_than_it_is(world: World) -> None:
    await world.bar(98)
    report = ExecutionReport(
        client_order_id=world.last_order.client_order_id, status=OrderStatus.PARTIALLY_FILLED, filled_qty=Decimal(4),
        at=world.clock.now() - timedelta(hours=5), avg_fill_price=Decimal(98),
    )  # fmt: skip
    world.broker.fill(world.last_order, 4)
    world.broker.lose_updates()
    await world.manager.on_order_update(report)
    await world.passes(60)
    assert world.alarm_kinds == ["broker_time"]
    await world.passes(70)
    assert world.alarm_kinds == ["broker_time", "order_stalled"]


# --- clocks -----------------------------------------------------------------------------------------------------------


async def test_given_a_clock_set_back_an_hour_under_bars_and_all_then_the_stop_still_counts(world: World) -> None:
    await world.passes(4000, step=40)
    await world.bar(99.5)
    world.clock.set(world.clock.now() - timedelta(hours=1))
    await world.bar(98.5)
    assert [o.qty for o in world.orders] == [10]


async def test_given_a_clock_set_back_behind_the_entry_then_a_person_is_told_at_once(world: World) -> None:
    """On the record such a bar is older than the position, so that nothing can be decided on it."""
    await world.bar(99.5)
    world.clock.set(world.clock.now() - timedelta(hours=1))
    await world.bar(98.5)
    assert world.orders == []
    assert world.alarm_kinds == ["feed_unusable"]
    assert "dated before its entry" in world.manager.alarms()[0].text


async def test_given_entries_dated_ahead_then_the_position_is_not_blind_until_then(make_world: MakeWorld) -> None:
    """A broker that tells its local time without a zone: the entry seems to lie hours ahead of every bar."""
    world = await make_world()
    without_fills(world)
    entry = world.broker.place("AAPL", "buy", 10)
    world.broker.fill(entry, 10, 100)
    ahead = replace(world.broker.updates[-1], at=world.clock.now() + timedelta(hours=8))
    world.broker.lose_updates()
    await world.manager.on_order_update(ahead)
    await world.bar(98.5)
    assert [o.qty for o in world.orders] == [10]


async def test_given_one_bar_dated_ahead_then_the_bars_after_it_are_not_old(world: World) -> None:
    ahead = world.make_bar(99.9, at=world.clock.now() + timedelta(hours=20))
    await world.manager.on_bar(ahead)
    await world.bar(98.5)
    assert [o.qty for o in world.orders] == [10]


async def test_given_bars_a_little_out_of_order_then_they_are_refused_as_ever(world: World) -> None:
    await world.bar(99.5)
    await world.manager.on_bar(world.make_bar(98, at=world.clock.now() - timedelta(seconds=30)))
    await world.settle()
    assert world.orders == []


# --- nothing goes wrong in silence ------------------------------------------------------------------------------------


async def test_given_a_bar_that_cannot_be_read_then_a_person_is_told_once(world: World) -> None:
    for _ in range(3):
        await world.manager.on_bar({"symbol": "AAPL", "mid": 98.0, "timestamp": world.clock.now()})
    await world.settle()
    told = [alarm.text for alarm in world.manager.alarms()]
    assert len(told) == 1
    assert "dict has no close" in told[0]


async def test_given_a_position_that_cannot_be_read_then_a_person_is_told(world: World) -> None:
    world.broker.answer("positions", Returns([*world.broker.snapshot(), {"symbol": "BTC/USDT\tUSDT", "qty": 1}]))
    await world.manager.sync()
    assert world.alarm_kinds == ["position_unreadable"]
    assert "BTCUSDT\tUSDT" in world.manager.alarms()[0].text


async def test_given_a_broker_that_cannot_be_reconciled_with_then_a_person_is_told_in_time(
    make_world: MakeWorld,
) -> None:
    world = await make_world(started=False)
    world.broker.always("positions", Raises(ConnectionError()))
    await world.start()
    await world.passes(100, step=5)
    assert world.alarm_kinds == []
    await world.passes(60, step=5)
    assert world.alarm_kinds == ["not_reconciled"]
    assert not world.manager.may_enter("AAPL")


async def test_given_an_execution_that_cannot_be_read_then_it_starts_and_a_person_is_told(
    make_world: MakeWorld,
) -> None:
    """One odd row among the executions of an account: what cannot be taken up because of it must not be silent."""
    world = await make_world(started=False)
    odd = {"symbol": "AAPL\t240621C00190000", "side": "buy", "qty": 1, "price": 2, "at": T0}
    world.broker.always("fills", Returns([odd]))
    world.broker.enter("AAPL", "long", 10, 100)
    await world.start()
    assert not world.manager.may_enter("AAPL")
    await world.passes(160, step=5)
    assert world.alarm_kinds == ["answer_unreadable", "epoch_unknown", "not_reconciled"]
    assert "NOT protected" in world.manager.alarms()[1].text
    assert "is not a symbol" in world.manager.alarms()[0].text
    world.broker.truthful()
    await world.passes(60, step=5)
    assert [p.qty for p in world.manager.positions()] == [10]


async def test_given_a_method_that_is_not_implemented_then_it_counts_as_not_there(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    world.broker.always("fills", Raises(NotImplementedError()))
    world.broker.enter("AAPL", "long", 10, 100)
    await world.start()
    await world.passes(5)
    assert [p.qty for p in world.manager.positions()] == [10]


# --- loops, threads and buses -----------------------------------------------------------------------------------------


class Still(ScriptedBroker):
    """A broker with real time."""


async def live_manager(path: Path, bus: Any = None) -> tuple[ExitManager, ScriptedBroker]:
    broker = Still(SystemClock())
    broker.enter("AAPL", "long", 10, 100)
    manager = ExitManager(broker, path / "exits.db", bus)
    await manager.start()
    return manager, broker


def breach() -> Bar:
    return Bar("AAPL", datetime.now(UTC), 98, 98, 98, 98)


async def test_a_bot_in_another_thread_with_a_loop_of_its_own_is_served(tmp_path: Path) -> None:
    manager, broker = await live_manager(tmp_path)
    await asyncio.sleep(0.002)

    def bot() -> None:
        async def feed() -> None:
            await manager.on_bar(breach())
            await manager.sync()

        asyncio.run(feed())

    await asyncio.to_thread(bot)
    await manager.settled()
    assert len(broker.orders) == 1
    await manager.stop()


def test_a_loop_that_is_gone_is_said_and_not_waited_for(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    manager, _ = loop.run_until_complete(live_manager(tmp_path))
    with pytest.raises(RuntimeError, match="one loop that keeps running"):
        asyncio.run(manager.on_bar(breach()))
    loop.run_until_complete(manager.stop())
    loop.close()


async def test_a_manager_that_is_not_started_says_so(tmp_path: Path) -> None:
    manager = ExitManager(Still(), tmp_path / "exits.db")
    for call in (manager.on_bar(breach()), manager.on_order_update({}), manager.sync(), manager.force_exit("AAPL")):
        with pytest.raises(RuntimeError, match=r"await manager.start\(\) first"):
            await call
    assert manager.positions() == manager.alarms() == []
    assert not manager.may_enter("AAPL")


class PlainBus:
    """Calls its handlers and waits for nothing, perhaps from a thread of its own."""

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    async def subscribe(self, handler: Any) -> int:
        self.handlers.append(handler)
        return len(self.handlers)

    def publish(self, event: Any) -> None:
        for handler in self.handlers:
            handler(event)


@pytest.mark.parametrize("threaded", [False, True])
async def test_a_bus_that_awaits_nothing_is_heard_all_the_same(tmp_path: Path, threaded: bool) -> None:
    bus = PlainBus()
    manager, broker = await live_manager(tmp_path, bus)
    await asyncio.sleep(0.002)
    events: list[Any] = ["hello", {"type": "quote", "symbol": "AAPL"}, breach()]
    if threaded:
        thread = threading.Thread(target=lambda: [bus.publish(event) for event in events])
        thread.start()
        await asyncio.to_thread(thread.join)
    else:
        for event in events:
            bus.publish(event)
    async with asyncio.timeout(30):
        while not broker.orders:
            await asyncio.sleep(0.002)
    assert len(broker.orders) == 1
    await manager.stop()
    bus.publish(breach())  # nobody listens any more, and nothing fails
