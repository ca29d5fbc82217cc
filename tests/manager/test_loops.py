"""One guard on every public method: before the start, from elsewhere, after the stop, with its loop gone."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from harness import GOOD, MakeWorld, World

from exitfsm import Bar, ExitStore
from exitfsm.errors import StoreError
from exitfsm.events import AlarmRaised
from exitfsm.manager import ExitManager, ManualClock
from exitfsm.testing import ScriptedBroker

AT = datetime(2024, 1, 2, 16, tzinfo=UTC)
BAR = Bar(symbol="AAPL", timestamp=AT, open=100, high=100, low=100, close=100)
Call = Callable[[ExitManager], Any]

#: Every method that is awaited, with one way to call it.
AWAITED: dict[str, Call] = {
    "on_bar": lambda m: m.on_bar(BAR),
    "on_bars": lambda m: m.on_bars([BAR]),
    "on_price": lambda m: m.on_price("AAPL", 100),
    "on_order_update": lambda m: m.on_order_update({"id": "bot-1", "status": "new"}),
    "watch": lambda m: m.watch("MSFT", "long", 1, 50, AT),
    "sync": lambda m: m.sync(),
    "settled": lambda m: m.settled(),
    "force_exit": lambda m: m.force_exit("AAPL"),
    "flatten_all": lambda m: m.flatten_all(),
    "change_policy": lambda m: m.change_policy("AAPL", stop_loss={"threshold_pct": 2}),
    "set_stop": lambda m: m.set_stop("AAPL", 90),
    "reload": lambda m: m.reload({}),
    "tick": lambda m: m.tick(),
}
#: Those that do their work without being awaited.
BEGUN: dict[str, Call] = {
    "pause": lambda m: m.pause(),
    "resume": lambda m: m.resume(),
    "acknowledge": lambda m: m.acknowledge("of nothing"),
    "release": lambda m: m.release("AAPL"),
}
#: Questions, and what they answer before the start.
QUESTIONS: dict[str, tuple[Call, Any]] = {
    "positions": (lambda m: m.positions(), []),
    "alarms": (lambda m: m.alarms(), []),
    "may_enter": (lambda m: m.may_enter("AAPL"), False),
    "entry_block": (lambda m: m.entry_block("AAPL"), "not reconciled with the broker yet"),
}
#: Those that may be called at any time.
LIFE = ("start", "stop")
both = pytest.mark.parametrize("name", [*AWAITED, *BEGUN])


def called(manager: ExitManager, name: str) -> Any:
    return (AWAITED | BEGUN)[name](manager)


async def result_of(manager: ExitManager, name: str) -> Any:
    return await called(manager, name)


async def elsewhere(world: World, work: Callable[[], Any]) -> Any:
    """Run `work` in a thread of its own, while the manager's loop goes on."""
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(work)
        while not done.done():
            await asyncio.sleep(0.001)
        return done.result()


def unstarted(path: Path) -> ExitManager:
    clock = ManualClock(AT)
    return ExitManager(ScriptedBroker(clock, GOOD), path / "exits.db", clock=clock)


def left_behind(path: Path) -> tuple[ExitManager, asyncio.AbstractEventLoop]:
    """A manager whose loop has ended without stopping it, as after `asyncio.run(manager.start())`."""
    loop, manager = asyncio.new_event_loop(), unstarted(path)
    loop.run_until_complete(manager.start())
    return manager, loop


def test_every_public_method_is_among_them() -> None:
    public = {name for name, _ in inspect.getmembers(ExitManager, inspect.isfunction) if not name.startswith("_")}
    assert public == {*AWAITED, *BEGUN, *QUESTIONS, *LIFE}


# --- before the start -------------------------------------------------------------------------------------------------


@both
async def test_before_the_start_each_says_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"^not started: await manager.start\(\) first"):
        await result_of(unstarted(tmp_path), name)


@pytest.mark.parametrize("name", BEGUN)
def test_before_the_start_a_plain_one_says_so_in_a_thread_without_a_loop(tmp_path: Path, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"^not started:"):
        called(unstarted(tmp_path), name)


def test_before_the_start_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^not started:"):
        _ = unstarted(tmp_path).store


@pytest.mark.parametrize("name", QUESTIONS)
def test_before_the_start_questions_are_answered(tmp_path: Path, name: str) -> None:
    question, answer = QUESTIONS[name]
    assert question(unstarted(tmp_path)) == answer


async def test_before_the_start_there_is_nothing_to_stop(tmp_path: Path) -> None:
    await unstarted(tmp_path).stop()


async def test_a_start_that_failed_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "exits.db").write_text("no store", encoding="utf-8")
    manager = unstarted(tmp_path)
    with pytest.raises(StoreError):
        await manager.start()
    with pytest.raises(RuntimeError, match=r"^not started:"):
        await manager.sync()


async def test_two_starts_at_once_are_one(tmp_path: Path) -> None:
    manager = unstarted(tmp_path)
    await asyncio.gather(manager.start(), manager.start())
    assert sum(t.get_name() == "exitfsm-time" for t in asyncio.all_tasks()) == 1
    await manager.stop()


# --- from another loop, and from a thread without one -----------------------------------------------------------------


@both
async def test_from_another_loop_it_is_carried_out_and_answers(world: World, name: str) -> None:
    unknown = name in ("acknowledge", "release")  # what is asked for is not there: that is the answer
    with pytest.raises(ValueError, match=r"is called|is active") if unknown else nullcontext():
        await elsewhere(world, lambda: asyncio.run(result_of(world.manager, name)))
    await world.settle()


@pytest.mark.parametrize("name", QUESTIONS)
async def test_questions_are_answered_in_a_thread_without_a_loop(world: World, name: str) -> None:
    question, before_the_start = QUESTIONS[name]
    answer = await elsewhere(world, lambda: question(world.manager))
    assert answer == question(world.manager)
    assert name == "alarms" or answer != before_the_start


async def test_what_is_done_from_another_loop_is_done(world: World) -> None:
    manager = world.manager
    watched = await elsewhere(world, lambda: asyncio.run(result_of(manager, "watch")))
    assert watched in manager.positions()
    await elsewhere(world, lambda: asyncio.run(result_of(manager, "force_exit")))
    await world.settle()
    assert [order.symbol for order in world.orders] == ["AAPL"]


async def test_an_error_reaches_the_caller_on_another_loop(world: World) -> None:
    async def watch_nothing() -> None:
        await world.manager.watch("MSFT", "long", "a lot", 100, AT)

    with pytest.raises(ValueError, match="a lot"):
        await elsewhere(world, lambda: asyncio.run(watch_nothing()))


async def test_a_pause_from_another_loop_counts_at_the_call_and_is_durable_when_it_was_awaited(world: World) -> None:
    seen: list[bool] = []

    async def pause() -> None:
        paused = world.manager.pause("somebody", "a test")
        seen.append(world.manager.may_enter("MSFT"))
        await paused
        seen.append("TradingPaused" in world.names())

    assert world.manager.may_enter("MSFT")
    await elsewhere(world, lambda: asyncio.run(pause()))
    assert seen == [False, True]


async def test_a_pause_counts_at_the_call_in_a_thread_without_a_loop_and_nobody_need_await_it(world: World) -> None:
    def pause() -> str | None:
        world.manager.pause()
        return world.manager.entry_block("MSFT")

    assert await elsewhere(world, pause) == "paused"
    await world.settle()
    await world.restart()
    assert world.manager.entry_block("MSFT") == "paused"
    await elsewhere(world, world.manager.resume)
    await world.settle()
    assert world.manager.may_enter("MSFT")


async def test_what_came_back_may_be_awaited_on_any_loop_and_often(world: World) -> None:
    begun_here = world.manager.pause()
    begun_there = await elsewhere(world, world.manager.resume)

    async def both_of_them() -> None:
        await begun_here
        await begun_there

    await elsewhere(world, lambda: asyncio.run(both_of_them()))
    await both_of_them()
    await both_of_them()
    assert [n for n in world.names() if n.startswith("Trading")] == ["TradingPaused", "TradingResumed"]


async def test_a_caller_elsewhere_that_gives_up_does_not_take_the_pause_back(world: World) -> None:
    async def briefly() -> None:
        pausing = asyncio.ensure_future(world.manager.pause())
        await asyncio.sleep(0)
        pausing.cancel()

    await elsewhere(world, lambda: asyncio.run(briefly()))
    await world.settle()
    assert "TradingPaused" in world.names()


async def test_an_alarm_is_taken_down_and_a_position_released_from_a_thread_without_a_loop(world: World) -> None:
    await world.manager._parts.context.alarms.raise_alarm("a_test", "to be seen")
    alarm = world.manager.alarms()[0]
    await elsewhere(world, lambda: world.manager.acknowledge(alarm))
    await elsewhere(world, lambda: world.manager.release(world.position))
    await world.settle()
    assert [alarm.kind for alarm in world.manager.alarms()] == ["not_done"]  # it is only watched: there was no need
    assert AlarmRaised in [type(event) for _, event in world.events]


async def test_stopped_from_another_loop_it_is_stopped_whole(world: World) -> None:
    await elsewhere(world, lambda: asyncio.run(world.manager.stop()))
    assert [t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("exitfsm")] == []
    with ExitStore(world.store_path) as store:  # its lock is gone, too
        assert len(store.positions()) == 1
    await world.manager.start()  # and it can be started anew
    assert len(world.manager.positions()) == 1


# --- after the stop ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["on_bar", "on_bars", "on_order_update"])
async def test_after_the_stop_what_is_fed_is_left_alone(world: World, name: str) -> None:
    await world.stop()
    await result_of(world.manager, name)
    assert any("_ignored" in line and "why=stopped" in line for line in world.heard.lines)


@pytest.mark.parametrize("name", ["watch", "sync", "force_exit", "flatten_all", "tick", *BEGUN])
async def test_after_the_stop_a_command_fails(world: World, name: str) -> None:
    await world.stop()
    with pytest.raises(StoreError, match="the manager is stopped"):
        await result_of(world.manager, name)
    assert [t.get_name() for t in asyncio.all_tasks() if t.get_name().startswith("exitfsm")] == []


async def test_after_the_stop_the_rest_is_harmless(world: World) -> None:
    await world.stop()
    await world.manager.settled()
    await world.manager.stop()
    assert [p.symbol for p in world.manager.positions()] == ["AAPL"]
    assert world.manager.alarms() == []
    assert world.manager.entry_block("MSFT") == "not reconciled with the broker yet"


async def test_after_the_stop_it_can_be_started_on_another_loop(tmp_path: Path) -> None:
    def one_life() -> ExitManager:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(manager.start())
        loop.run_until_complete(manager.sync())
        loop.run_until_complete(manager.stop())
        loop.close()
        return manager

    manager = unstarted(tmp_path)
    await asyncio.to_thread(one_life)
    await asyncio.to_thread(one_life)


# --- with its loop gone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*AWAITED, *BEGUN, *LIFE])
def test_with_its_loop_gone_each_says_so_instead_of_waiting(tmp_path: Path, name: str) -> None:
    manager, loop = left_behind(tmp_path)
    calls = AWAITED | BEGUN | {"start": lambda m: m.start(), "stop": lambda m: m.stop()}

    async def call() -> None:
        await calls[name](manager)

    with pytest.raises(RuntimeError, match="does not run any more"):
        asyncio.run(asyncio.wait_for(call(), 5))
    loop.run_until_complete(manager.stop())
    loop.close()


@pytest.mark.parametrize("name", BEGUN)
def test_with_its_loop_gone_a_plain_one_says_so_in_a_thread_without_a_loop(tmp_path: Path, name: str) -> None:
    manager, loop = left_behind(tmp_path)
    with pytest.raises(RuntimeError, match="does not run any more"):
        called(manager, name)
    loop.run_until_complete(manager.stop())
    loop.close()


def test_with_its_loop_gone_questions_are_answered_and_nothing_may_be_entered(tmp_path: Path) -> None:
    manager, loop = left_behind(tmp_path)
    assert manager.may_enter("AAPL")  # a loop that is run step by step
    loop.run_until_complete(manager.stop())
    loop.run_until_complete(manager.start())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert manager.entry_block("AAPL") == "not reconciled with the broker yet"
    assert manager.positions() == manager.alarms() == []
    manager._parts.context.mailbox._thread.shutdown(wait=True)
    manager.store.close()


def test_a_loop_that_ends_while_another_waits_for_it_is_noticed(tmp_path: Path) -> None:
    """The caller is not canceled by the end of a loop that is not its own."""
    manager, started, ended = unstarted(tmp_path), threading.Event(), threading.Event()

    async def bot() -> None:
        async with manager:
            manager._parts.executor.workers._tasks["never"] = asyncio.create_task(asyncio.sleep(3600), name="a-never")
            started.set()
            await asyncio.to_thread(ended.wait)
            del manager._parts.executor.workers._tasks["never"]

    async def wait_for_it() -> None:
        waiting = asyncio.ensure_future(manager.settled())
        await asyncio.sleep(0.05)
        ended.set()
        await waiting

    thread = threading.Thread(target=lambda: asyncio.run(bot()))
    thread.start()
    started.wait()
    with pytest.raises(RuntimeError, match="does not run any more"):
        asyncio.run(asyncio.wait_for(wait_for_it(), 5))
    thread.join()


async def test_a_manager_made_for_a_loop_is_still_one_coroutine_function_a_method(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    assert all(inspect.iscoroutinefunction(getattr(world.manager, name)) for name in AWAITED)
