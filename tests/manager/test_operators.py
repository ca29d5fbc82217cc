"""What an operator can do, what is remembered over a restart, and how sends are rationed, on the real manager."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness import T0, MakeWorld, World

from exitfsm import Alarm, BrokerError, ExecutionReport, OrderRefused, OrderStatus, StoreError
from exitfsm.manager import ExitManager, InProcessBus
from exitfsm.testing import Hang, LostReply, Meanwhile, Raises, Returns
from exitfsm.values import ZERO

CANARY = "PKTESTSECRETCANARY0123456789"


async def unprotected(world: World) -> None:
    """The position gets into a state in which only a person helps."""
    await world.bar(98)
    for n in (1, 2):
        await world.until(lambda n=n: len(world.orders) == n, seconds=60)  # type: ignore[misc]
        world.broker.reject(world.last_order, "not_tradable")
        await world.deliver()
    assert world.state == "unprotected"


# --- force, flatten, release ------------------------------------------------------------------------------------------


async def test_given_two_callers_that_force_the_same_exit_at_once_then_there_is_one_order(world: World) -> None:
    await asyncio.gather(*(world.manager.force_exit("AAPL", f"caller {n}") for n in range(5)))
    await world.settle()
    assert len(world.orders) == 1
    assert world.position.reason == "emergency"


async def test_given_a_breach_and_a_forced_exit_at_once_then_there_is_one_order(world: World) -> None:
    world.clock.move(1)
    await asyncio.gather(
        world.manager.on_bar(world.make_bar(98)),
        world.manager.force_exit("AAPL", "now"),
        world.manager.flatten_all("now"),
        world.manager.on_bar(world.make_bar(97)),
    )
    await world.settle()
    assert len(world.orders) == 1


async def test_given_no_prices_when_everything_is_flattened_then_every_position_is_exited(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    await world.enter(10, 100)
    await world.enter(3, 200, symbol="TSLA", side="short")
    world.broker.enter("MSFT", "long", 4, 50)
    world.broker.lose_updates()
    await world.manager.flatten_all("the end")
    await world.settle()
    assert sorted((o.symbol, str(o.side), o.qty) for o in world.orders) == [
        ("AAPL", "sell", 10), ("MSFT", "sell", 4), ("TSLA", "buy", 3),
    ]  # fmt: skip


async def test_given_a_broker_that_does_not_list_positions_when_flattened_then_what_is_known_is_exited(
    world: World,
) -> None:
    await unprotected(world)
    await world.enter(4, 50, symbol="MSFT")
    world.broker.always("positions", Raises(ConnectionError()))
    await world.manager.flatten_all("the end")
    await world.settle()
    assert [o.symbol for o in world.orders][2:] == ["MSFT"]


async def test_given_an_unprotected_position_when_forced_then_it_gets_one_more_attempt_of_what_is_held(
    world: World,
) -> None:
    await unprotected(world)
    world.broker.trade_by_hand("AAPL", "sell", 4, 98)
    await world.manager.force_exit("AAPL", "again")
    await world.settle()
    assert [o.qty for o in world.orders] == [10, 10, 6]
    await world.fill()
    await world.until(lambda: world.manager.positions() == [], seconds=20)


async def test_given_an_unprotected_position_when_forced_twice_at_once_then_there_is_one_more_order(
    world: World,
) -> None:
    await unprotected(world)
    await asyncio.gather(world.manager.force_exit("AAPL"), world.manager.force_exit("AAPL"))
    await world.settle()
    assert len(world.orders) == 3


@pytest.mark.parametrize("cancels", ["at_once", "pending"])
async def test_given_an_ended_order_that_works_again_when_forced_then_it_is_ended_before_another_is_sent(
    world: World, cancels: Any
) -> None:
    await unprotected(world)
    first = world.last_order
    world.broker.reopen(first)
    world.broker.cancels = cancels
    await world.manager.force_exit("AAPL")
    await world.settle()
    assert len(world.orders) == (3 if cancels == "at_once" else 2)
    if cancels == "pending":
        world.broker.end_cancel(first)
        await world.manager.force_exit("AAPL")
        await world.settle()
        assert len(world.orders) == 3
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_an_unprotected_position_that_cannot_be_cleared_up_when_forced_then_that_is_said(
    world: World,
) -> None:
    await unprotected(world)
    world.broker.always("positions", Raises(ConnectionError()))
    await world.manager.force_exit("AAPL")
    assert len(world.orders) == 2
    assert "not_done" in world.alarm_kinds


async def test_given_an_ended_day_order_that_is_done_for_the_day_with_nothing_left_when_forced_then_another_is_sent(
    world: World,
) -> None:
    await unprotected(world)
    done = ExecutionReport(
        client_order_id=world.last_order.client_order_id,
        status=OrderStatus.DONE_FOR_DAY,
        at=world.clock.now(),
        filled_qty=ZERO,
        leaves_qty=ZERO,
    )
    world.broker.answer("order", Meanwhile(lambda: None), Returns(done))  # the truth about the first one
    await world.manager.force_exit("AAPL")
    await world.settle()
    assert len(world.orders) == 3
    assert world.broker.count("cancel") == 0
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_an_unprotected_position_when_released_then_the_rules_watch_it_again(world: World) -> None:
    await unprotected(world)
    await world.manager.release(world.position)
    assert world.state == "monitoring"
    await world.bar(100)
    assert len(world.orders) == 2
    await world.bar(98)
    assert len(world.orders) == 3
    assert world.last_order.client_order_id.endswith("003")
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_a_live_order_when_released_then_nothing_happens(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter()
    await world.bar(98)
    await world.manager.release(world.position)
    assert world.state == "submitted"


async def test_given_an_unprotected_position_closed_by_hand_then_it_is_over(world: World) -> None:
    await unprotected(world)
    world.broker.trade_by_hand("AAPL", "sell", 10, 98)
    await world.until(lambda: [p.state for p in world.ended()] == ["closed"], seconds=120)


async def test_given_a_terminal_exit_earlier_the_same_day_then_a_new_one_is_not_suppressed(world: World) -> None:
    for n in (1, 2, 3):
        await world.bar(98)
        assert len(world.orders) == n
        await world.fill()
        await world.until(lambda n=n: len(world.ended()) == n)  # type: ignore[misc]
        if n < 3:
            await world.passes(301, step=10)
            await world.enter()
    assert len({o.client_order_id for o in world.orders}) == 3


# --- may the bot enter ------------------------------------------------------------------------------------------------


async def test_given_an_exit_then_the_cooldown_runs_from_the_fill_and_outlasts_a_restart(world: World) -> None:
    assert world.manager.may_enter("AAPL")
    await world.bar(98)
    assert not world.manager.may_enter("AAPL")
    await world.fill()
    filled_at = world.clock.now()
    await world.until(lambda: world.state == "filled")
    await world.passes(100, step=10)
    await world.restart()
    assert not world.manager.may_enter("AAPL")
    assert not world.manager.may_enter("AAPL", filled_at + timedelta(seconds=299))
    assert world.manager.may_enter("AAPL", filled_at + timedelta(seconds=300))
    assert world.manager.may_enter("MSFT")
    await world.passes(210, step=10)
    assert world.manager.may_enter("AAPL")


async def test_given_a_manager_that_has_not_heard_from_the_broker_yet_then_nothing_may_be_entered(
    make_world: MakeWorld,
) -> None:
    world = await make_world(started=False)
    world.broker.always("positions", Raises(ConnectionError()))
    await world.start()
    assert world.manager.entry_block("AAPL") == "not reconciled with the broker yet"
    world.broker.always("positions", None)
    await world.passes(3)
    assert world.manager.may_enter("AAPL")


@pytest.mark.parametrize("state", ["pending", "rejected", "unprotected"])
async def test_given_an_exit_under_way_then_its_symbol_may_not_be_entered_also_after_a_restart(
    world: World, state: str
) -> None:
    if state == "pending":
        world.broker.always("submit", Raises(TimeoutError()))
        world.broker.always("order", Raises(TimeoutError()))
        await world.bar(98)
    elif state == "rejected":
        world.broker.answer("submit", Raises(OrderRefused("not_tradable")))
        await world.bar(98)
    else:
        await unprotected(world)
    assert world.state == state
    assert not world.manager.may_enter("AAPL")
    await world.restart()
    assert not world.manager.may_enter("AAPL")


async def test_given_a_pause_then_no_new_exit_is_triggered_but_those_under_way_go_on_also_after_a_restart(
    world: World,
) -> None:
    await world.enter(4, 50, symbol="MSFT")
    await world.bar(98)
    await world.manager.pause(why="news")
    await world.restart()
    assert not world.manager.may_enter("TSLA")
    await world.bar(49, "MSFT")
    assert [o.symbol for o in world.orders] == ["AAPL"]
    await world.fill()
    await world.until(lambda: [p.symbol for p in world.manager.positions()] == ["MSFT"])
    await world.manager.resume()
    await world.restart()
    await world.bar(48.9, "MSFT")
    assert [o.symbol for o in world.orders] == ["AAPL", "MSFT"]


async def test_given_a_pause_that_nobody_waited_for_when_it_is_stopped_then_the_pause_is_kept(world: World) -> None:
    pausing = world.manager.pause()
    await world.restart_in_order()
    assert not world.manager.may_enter("AAPL")
    await asyncio.gather(pausing, return_exceptions=True)
    await world.bar(98)
    assert world.orders == []


async def test_given_a_policy_that_is_off_then_positions_are_tracked_and_nothing_is_triggered(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"enabled": False})
    await world.enter()
    await world.bar(90)
    assert world.orders == []
    assert world.state == "monitoring"
    assert "TriggerRefused" in world.names()
    await world.manager.force_exit("AAPL")
    await world.settle()
    assert len(world.orders) == 1


# --- alarms -----------------------------------------------------------------------------------------------------------


async def test_given_an_alarm_then_it_is_raised_again_at_each_start_until_somebody_has_seen_it(world: World) -> None:
    await unprotected(world)
    assert [a.kind for a in world.alarms] == ["protection_lost"]
    await world.restart()
    await world.restart()
    assert [a.kind for a in world.alarms] == ["protection_lost"] * 3
    await world.manager.acknowledge(world.manager.alarms()[0])
    assert world.manager.alarms() == []
    await world.restart()
    assert len(world.alarms) == 3


async def test_given_an_alarm_about_the_account_then_it_can_be_acknowledged(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.executions.clear()
    await world.start()
    await world.passes(3)
    await world.restart()
    assert world.alarm_kinds == ["epoch_unknown"]
    await world.manager.acknowledge(world.manager.alarms()[0].alarm_id)
    assert world.alarm_kinds == []


async def test_given_a_position_that_cannot_be_named_then_the_broker_is_not_asked_about_it_every_second(
    make_world: MakeWorld,
) -> None:
    world = await make_world(started=False)
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.executions.clear()
    await world.start()
    await world.passes(300)
    assert world.broker.count("positions") < 40  # a reconciliation each minute, and a look each 13 s


async def test_given_a_disk_that_fails_once_then_nothing_is_sent_a_person_is_told_and_the_next_bar_decides_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.expected = {"not_stored"}
    store = world.manager.store
    with monkeypatch.context() as broken:
        broken.setattr(store, "append_many", failing(StoreError("the disk is full")))
        await world.bar(98)
        await world.passes(5)
        assert world.orders == []
        assert world.alarm_kinds == ["store_unwritable"]
    await world.bar(97.9)
    assert len(world.orders) == 1
    assert world.alarm_kinds == []  # it takes commits again: no person need look


async def test_given_a_disk_that_fails_for_long_then_nothing_is_said_of_the_broker_and_other_alarms_are_heard(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.expected = {"not_stored"}
    with monkeypatch.context() as broken:
        broken.setattr(world.manager.store, "append_many", failing(StoreError("the disk is full")))
        broken.setattr(world.manager.store, "append", failing(StoreError("the disk is full")))
        world.broker.enter("MSFT", "long", 10, 100)
        await world.passes(600)
        assert world.alarm_kinds == ["store_unwritable"]
        await world.manager.on_bar({"symbol": "AAPL"})
        await world.settle()
        assert sorted(world.alarm_kinds) == ["bar_unreadable", "store_unwritable"]
    assert not [line for line in world.heard.lines if "task_failed" in line]


async def test_given_a_disk_that_fails_during_an_exit_then_the_order_is_followed_once_it_works_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.expected = {"not_stored"}
    with monkeypatch.context() as broken:

        def break_disk(where: str) -> None:
            if where == "submit before":
                broken.setattr(world.manager.store, "append_many", failing(StoreError("the disk is full")))

        world.broker.moment = break_disk
        await world.bar(98)
        await world.fill()
        await world.passes(20)
        assert world.state == "pending"
        world.broker.moment = None
    await world.until(lambda: world.state == "filled", seconds=60)
    assert len(world.orders) == 1


async def test_given_a_correction_that_the_store_cannot_take_then_it_is_told_again_once_it_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the order of a part that is sold nobody asks any more: the update is the only word of it."""
    world.expected = {"not_stored"}
    await world.manager.force_exit("AAPL", "a part", qty=4)
    await world.until(lambda: world.orders)
    await world.fill()
    await world.until(lambda: (world.state, world.position.remaining_qty) == ("monitoring", 6), seconds=30)
    with monkeypatch.context() as broken:
        broken.setattr(world.manager.store, "append_many", failing(StoreError("another program holds the file")))
        world.broker.bust(world.last_order, 4)
        await world.deliver()
        await world.passes(2)
    assert world.position.orders[0].filled_qty == 4
    await world.until(lambda: world.position.orders[0].filled_qty == 0, seconds=10)


async def test_given_a_commit_that_reports_an_error_though_it_was_stored_then_there_is_one_order(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.expected = {"not_stored"}
    store = world.manager.store
    stored = store.append_many
    lost: list[Any] = []

    def stores_and_fails(batches: Any) -> Any:
        monkeypatch.setattr(store, "append_many", stored)
        lost.append(stored(batches))
        raise StoreError("whether it was stored is not known")

    monkeypatch.setattr(store, "append_many", stores_and_fails)
    await world.bar(98)
    await world.bar(97.9)
    await world.passes(5)
    assert lost
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state == "filled")


def failing(error: Exception) -> Any:
    """A function that raises."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# --- breaker, budget --------------------------------------------------------------------------------------------------


async def test_given_sends_that_keep_failing_then_the_breaker_opens_spaces_them_out_and_closes_again(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"breaker_failures": 3, "breaker_probe_seconds": 20}})
    await world.enter()
    world.broker.always("submit", Raises(ConnectionError()))
    await world.bar(98)
    await world.passes(120)
    assert "BreakerOpened" in world.names()
    sends = world.broker.count("submit")
    await world.passes(200)
    assert 1 <= world.broker.count("submit") - sends <= 10
    await world.restart()
    sends = world.broker.count("submit")
    await world.passes(100)
    assert 1 <= world.broker.count("submit") - sends <= 5
    world.broker.always("submit", None)
    await world.until(lambda: world.state == "submitted", seconds=60)
    assert world.names()[-1] != "BreakerOpened"
    assert "BreakerClosed" in world.names()


async def test_given_an_open_breaker_then_look_ups_go_on_and_a_found_order_is_followed(make_world: MakeWorld) -> None:
    world = await make_world({"live": {"breaker_failures": 1, "breaker_probe_seconds": 3000}})
    await world.enter()
    world.broker.answer("submit", LostReply())
    world.broker.answer("order", Raises(ConnectionError()), times=5)
    world.broker.always("open_orders", Raises(ConnectionError()))
    await world.bar(98)
    await world.until(lambda: world.state == "submitted", seconds=60)
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert "BreakerOpened" in world.names()


async def test_given_refusals_then_they_are_answers_and_the_breaker_stays_closed(make_world: MakeWorld) -> None:
    world = await make_world({"live": {"breaker_failures": 1}})
    await world.enter()
    world.broker.answer("submit", Raises(OrderRefused("not_tradable")))
    await world.bar(98)
    assert "BreakerOpened" not in world.names()


@pytest.mark.parametrize("plain", [False, True], ids=["async", "threads"])
async def test_given_many_breaches_at_once_then_they_commit_together_and_the_worst_goes_first(
    make_world: MakeWorld, plain: bool
) -> None:
    world = await make_world({"live": {"orders_per_minute": 3}}, plain=plain)
    loss = {"A": 3, "B": 9, "C": 1, "D": 7, "E": 5, "F": 2}
    for symbol in loss:
        await world.enter(10, 100, symbol=symbol)
    world.clock.move(1)
    await world.manager.on_bars([world.make_bar(100 - lost - 1, symbol) for symbol, lost in loss.items()])
    await world.settle()
    assert [p.state for p in world.manager.positions()].count("monitoring") == 0
    assert sorted(o.symbol for o in world.orders) == ["B", "D", "E"]
    await world.passes(61)
    assert sorted(o.symbol for o in world.orders) == sorted(loss)
    worst_first = ["B", "D", "E", "A", "F", "C"]
    assert plain or [o.symbol for o in world.orders] == worst_first


# --- guests and neighbours --------------------------------------------------------------------------------------------


async def test_given_callbacks_that_raise_then_they_harm_nothing(make_world: MakeWorld) -> None:
    def plain_callback(*_: object) -> None:
        raise RuntimeError("a guest misbehaves")

    async def async_callback(*_: object) -> None:
        raise RuntimeError("another guest misbehaves")

    world = await make_world(on_event=plain_callback, on_alarm=async_callback)
    world.expected = {"task_failed"}
    await world.enter()
    await unprotected(world)
    await world.manager.force_exit("AAPL")
    await world.settle()
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_a_rule_of_the_users_that_raises_then_the_stop_is_tested_all_the_same(
    make_world: MakeWorld,
) -> None:
    def rule(*_: object) -> str | None:
        raise RuntimeError("a rule misbehaves")

    world = await make_world(
        {"custom_rule": {"enabled": True, "name": "mine", "version": "1"}}, rules={("mine", "1"): rule}
    )
    world.expected = {"rule_failed"}
    await world.enter()
    await world.bar(98)
    assert world.position.reason == "stop_loss"


async def test_given_a_bus_then_bars_and_updates_on_it_are_taken_up_and_nobody_elses_are_taken_away(
    make_world: MakeWorld,
) -> None:
    bus = InProcessBus()
    others: list[object] = []
    bus.subscribe(others.append)
    world = await make_world(event_bus=bus)
    world.broker.enter("AAPL", "long", 10, 100)
    await world.broker.deliver(bus.publish)
    await world.settle()
    world.clock.move(1)
    await bus.publish(world.make_bar(98))
    await bus.publish("something else")
    await world.settle()
    await world.broker.deliver(bus.publish)
    world.broker.fill(world.last_order, price=98)
    await world.broker.deliver(bus.publish)
    await world.until(lambda: world.state == "filled")
    assert len(others) == 1 + 2 + 1 + 1


async def test_given_a_hanging_call_about_one_position_then_the_others_go_on(make_world: MakeWorld) -> None:
    world = await make_world({"live": {"broker_timeout_seconds": 60}})
    for symbol in ("A", "B", "C"):
        await world.enter(10, 100, symbol=symbol)
    stuck = Hang("never")
    world.broker.answer("submit", stuck)
    await world.bar(97, "A")
    await world.bar(97, "B")
    assert [o.symbol for o in world.orders] == ["B"]
    await world.fill()
    await world.until(lambda: [p.symbol for p in world.ended()] == ["B"])
    await world.bar(97, "C")
    assert [o.symbol for o in world.orders] == ["B", "C"]
    stuck.release()
    await world.until(lambda: len(world.orders) == 3)


async def test_given_a_hanging_list_of_positions_then_another_position_is_exited_to_the_end(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"broker_timeout_seconds": 60}})
    for symbol in ("A", "B"):
        await world.enter(10, 100, symbol=symbol)
    await world.bar(97, "A")
    await world.bar(97, "B")
    for order in list(world.orders):
        world.broker.fill(order)
    stuck = Hang("never")
    world.broker.answer("positions", stuck)
    await world.deliver()
    await world.really(lambda: len(world.ended()) >= 1, seconds=4)


async def test_given_a_hanging_list_of_positions_when_an_entry_is_told_then_the_bots_bars_are_not_held_up(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"broker_timeout_seconds": 60}})
    await world.enter()
    world.broker.answer("positions", Hang("never"))
    world.broker.enter("MSFT", "long", 5, 50)
    await asyncio.wait_for(world.broker.deliver(world.manager.on_order_update), 3)
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_a_disk_that_is_slow_then_the_event_loop_keeps_ticking(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    stored = world.manager.store.append_many

    def slowly(batches: Any) -> Any:
        time.sleep(0.3)
        return stored(batches)

    monkeypatch.setattr(world.manager.store, "append_many", slowly)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    world.clock.move(1)
    await world.manager.on_bar(world.make_bar(98))
    ticking.cancel()
    await asyncio.gather(ticking, return_exceptions=True)
    assert len(ticks) > 10
    assert max(b - a for a, b in pairwise(ticks)) < 0.2
    await world.settle()
    assert len(world.orders) == 1


# --- stop, start, who may use a store ---------------------------------------------------------------------------------


async def test_given_it_is_stopped_twice_then_that_is_once_and_nothing_is_lost(world: World) -> None:
    await world.bar(98)
    await world.manager.stop()
    await world.manager.stop()
    world.broker.fill(world.last_order, price=98)
    world.manager = world._new_manager()
    await world.start()
    await world.until(lambda: world.state == "filled")
    assert len(world.orders) == 1


@pytest.mark.parametrize("method", ["submit", "positions", "order", "session", "open_orders", "fills"])
@pytest.mark.parametrize("plain", [False, True], ids=["async", "threads"])
async def test_given_calls_that_hang_when_it_is_stopped_then_no_task_is_left(
    make_world: MakeWorld, method: str, plain: bool
) -> None:
    world = await make_world({"live": {"broker_timeout_seconds": 0.2}}, plain=plain)
    await world.enter()
    world.broker.always(method, Hang("never"))
    await world.passes(61, step=30)
    world.clock.move(1)
    await world.manager.on_bar(world.make_bar(98))
    first = asyncio.create_task(world.manager.sync())
    second = asyncio.create_task(world.manager.sync())
    await asyncio.sleep(0.01)
    await asyncio.wait_for(world.manager.stop(), 5)
    await asyncio.gather(first, second, return_exceptions=True)
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("exitfsm")]
    assert left == []
    world.broker.truthful()


async def test_given_an_order_that_waits_for_its_turn_when_it_is_stopped_then_nobody_waits_for_that(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"broker_timeout_seconds": 600, "orders_per_minute": 1}})
    await world.enter()
    await world.enter(symbol="MSFT")
    await world.bar(98)
    await world.bar(98, symbol="MSFT")
    assert len(world.orders) == 1
    await asyncio.wait_for(world.restart_in_order(), 5)
    await world.until(lambda: len(world.orders) == 2, seconds=120)
    for order in world.orders:
        world.broker.fill(order)
    await world.until(lambda: len(world.ended()) == 2, seconds=60)


@pytest.mark.parametrize("plain", [False, True], ids=["async", "threads"])
async def test_given_it_was_stopped_when_the_same_object_is_started_again_then_it_works(
    make_world: MakeWorld, plain: bool
) -> None:
    world = await make_world(plain=plain)
    await world.enter()
    await world.manager.stop()
    await world.manager.start()
    await world.settle()
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_a_store_of_one_account_then_another_account_cannot_use_it(make_world: MakeWorld) -> None:
    world = await make_world(account="111")
    await world.stop()
    other = ExitManager(world.broker, world.store_path, account="222", clock=world.clock)
    with pytest.raises(StoreError, match="written for account"):
        await other.start()
    await world.manager.start()


async def test_given_a_store_in_use_then_a_second_manager_cannot_use_it(world: World) -> None:
    second = ExitManager(world.broker, world.store_path, clock=world.clock)
    with pytest.raises(StoreError, match="is being written by"):
        await second.start()


async def test_given_secrets_in_errors_then_they_reach_neither_log_nor_events_nor_alarms(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world = await make_world(account=CANARY, plain=True)
    await world.enter()
    secret = ConnectionError(f"GET https://api.example.com?key={CANARY}")
    for method in ("submit", "order", "positions", "open_orders", "fills", "session", "cancel"):
        world.broker.always(method, Raises(secret))
    await world.bar(98)
    await world.passes(200, step=2)
    assert world.alarm_kinds != []
    with pytest.raises(BrokerError) as raised:
        await world.manager.sync()
    assert CANARY not in repr(raised.value)
    assert CANARY not in "\n".join(world.heard.lines)
    assert CANARY not in caplog.text
    assert CANARY not in "".join(a.text for a in world.alarms)
    for file in world.path.iterdir():
        assert CANARY.encode() not in file.read_bytes()


async def test_given_alarms_then_the_callback_has_them_as_alarms(world: World) -> None:
    await unprotected(world)
    assert all(isinstance(a, Alarm) and a.raised_at >= T0 for a in world.alarms)


async def test_given_an_id_that_is_not_there_when_it_is_released_or_acknowledged_then_the_operator_hears_it(
    world: World,
) -> None:
    with pytest.raises(ValueError, match="no open position is called 'AAPL:typo'"):
        await world.manager.release("AAPL:typo")
    with pytest.raises(ValueError, match="no alarm is active under the id 'typo'"):
        await world.manager.acknowledge("typo")


async def test_given_an_order_that_cannot_be_looked_up_when_it_is_not_there_then_the_operators_word_goes_on(
    make_world: MakeWorld,
) -> None:
    world = await make_world(started=False)
    world.broker.order = None  # type: ignore[assignment, method-assign]
    await world.start()
    await world.enter()
    world.broker.answer("submit", Raises(ConnectionError()))
    await world.bar(98)
    await world.passes(5)
    assert world.state == "pending"
    await world.manager.force_exit("AAPL")
    assert "not_done" in world.alarm_kinds
    assert any("order_not_there=True" in alarm.text for alarm in world.manager.alarms())
    await world.manager.release(world.position, who="ann", order_not_there=True)
    await world.until(lambda: world.state == "submitted", 120)
    assert world.position.attempt == 2
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state == "filled")
