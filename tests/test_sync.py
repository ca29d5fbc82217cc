"""The manager for bots without asyncio: the same calls, from any thread, and nothing left when it stops."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from exitfsm import Bar, Capabilities, ExitStore, Side, State, StoreError
from exitfsm import manager as by_asyncio
from exitfsm.ports import IdMemory
from exitfsm.sync import ExitManager
from exitfsm.testing import ScriptedBroker

OPENED = datetime(2024, 1, 2, 15, 0, tzinfo=UTC)
GOOD = Capabilities(ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, reduce_only=True)


@pytest.fixture
def broker() -> ScriptedBroker:
    return ScriptedBroker(capabilities=GOOD)


@pytest.fixture
def manager(broker: ScriptedBroker, tmp_path: Path) -> Iterator[ExitManager]:
    with ExitManager(broker, tmp_path / "a.db") as made:
        yield made


def bar(price: float, symbol: str = "AAPL") -> Bar:
    now, close = datetime.now(UTC), Decimal(str(price))
    return Bar(symbol=symbol, timestamp=now, open=close, high=close, low=close, close=close, volume=Decimal(1))


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def enter(broker: ScriptedBroker, symbol: str) -> None:
    """The bot has bought, at a time that the broker knows."""
    broker.enter(symbol, Side.LONG, 10, 100)


#: Threads that were there before a test: calls that hang by the will of another test outlive it.
BEFORE: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _before() -> None:
    BEFORE.clear()
    BEFORE.update(threading.enumerate())


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("exitfsm") and t not in BEFORE]


def public(kind: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(member).parameters) if callable(member) else []
        for part in reversed(kind.__mro__[:-1])
        for name, member in vars(part).items()
        if not name.startswith("_")
    }


def test_it_has_the_same_calls_with_the_same_parameters() -> None:
    ours, theirs = public(ExitManager), public(by_asyncio.ExitManager)
    attributes = {"config", "strategy_name"}  # properties here, attributes there
    assert {name: p for name, p in ours.items() if name not in attributes} == theirs
    assert (
        inspect.signature(ExitManager).parameters.keys() == inspect.signature(by_asyncio.ExitManager).parameters.keys()
    )
    assert {"change_policy", "set_stop", "reload", "may_enter"} <= theirs.keys()
    calls = [member for name, member in vars(ExitManager).items() if name in ours and callable(member)]
    assert not any(inspect.iscoroutinefunction(call) for call in calls)


def test_given_a_position_when_a_bar_breaches_then_its_exit_is_durable_on_return_and_leaves_on_its_own(
    manager: ExitManager, broker: ScriptedBroker
) -> None:
    enter(broker, "AAPL")
    manager.watch("AAPL", "long", 10, 100, datetime.now(UTC))
    manager.on_bar(bar(100))
    manager.on_bar(bar(98.9))
    assert [p.state for p in manager.positions()] != [State.MONITORING]
    manager.settled()
    until(lambda: [call for call in broker.calls if call.method == "submit"])
    assert len([call for call in broker.calls if call.method == "submit"]) == 1
    assert not manager.may_enter("AAPL")


def test_given_many_threads_when_all_call_at_once_then_each_is_carried_out_once(
    manager: ExitManager, broker: ScriptedBroker
) -> None:
    names = [f"S{n}" for n in range(12)]
    failures: list[BaseException] = []
    together = threading.Barrier(len(names))

    def work(name: str) -> None:
        try:
            enter(broker, name)
            together.wait()
            manager.sync()
            manager.on_bar(bar(100, name))
            manager.pause(who=name)
            manager.resume(who=name)
            manager.on_bars([bar(98.5, name)])
            manager.positions(), manager.alarms(), manager.may_enter(name)
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=work, args=(name,)) for name in names]
    for one in running:
        one.start()
    for one in running:
        one.join()
    assert failures == []
    for name in names:
        manager.force_exit(name)
    manager.settled()
    submits = [call for call in broker.calls if call.method == "submit"]
    assert len(submits) == len(names)


def test_given_a_quantity_when_it_is_exited_then_so_much_is_sold_and_the_rest_is_watched(
    manager: ExitManager, broker: ScriptedBroker
) -> None:
    enter(broker, "AAPL")
    manager.sync()
    [held] = manager.force_exit("AAPL", qty=4)
    manager.settled()
    until(lambda: [call for call in broker.calls if call.method == "submit"])
    assert [order.qty for order in broker.orders] == [4]
    manager.force_exit("AAPL", qty=4)
    assert [alarm.kind for alarm in manager.alarms()] == ["not_done"]
    manager.on_order_update(broker.fill(broker.orders[0]))
    until(lambda: [p.state for p in manager.positions()] == [State.MONITORING])
    assert manager.positions()[0].remaining_qty == held.qty - 4
    assert len(broker.orders) == 1


def test_given_commands_when_they_return_then_they_are_durable(manager: ExitManager) -> None:
    manager.pause(who="me", why="lunch")
    stored = [type(recorded.event).__name__ for recorded in manager.store.events()]
    assert stored[-1] == "TradingPaused"
    assert manager.entry_block("AAPL") is not None
    manager.resume()
    manager.on_bar(object())
    until(manager.alarms)
    manager.acknowledge(manager.alarms()[0])
    assert manager.alarms() == []
    manager.sync()
    manager.tick()


def test_given_errors_when_called_then_they_are_the_managers_own(manager: ExitManager) -> None:
    with pytest.raises(ValueError, match=r"qty|quantity|10"):
        manager.watch("AAPL", "long", 0, 100, OPENED)


def test_given_it_is_not_started_when_called_then_it_says_so(broker: ScriptedBroker, tmp_path: Path) -> None:
    made = ExitManager(broker, tmp_path / "a.db")
    with pytest.raises(RuntimeError, match=r"call manager\.start\(\) first"):
        made.on_bar(bar(1))
    assert made.positions() == []
    assert not made.may_enter("AAPL")
    made.stop()


def test_given_it_is_stopped_when_called_then_what_comes_in_is_ignored_and_a_command_fails(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    made = ExitManager(broker, tmp_path / "a.db")
    made.start()
    made.start()
    assert "exitfsm-loop" in threads()
    made.stop()
    made.stop()
    assert threads() == []
    made.on_bar(bar(1))
    made.on_order_update({})
    for command in (made.sync, made.pause, lambda: made.force_exit("AAPL")):
        with pytest.raises(StoreError, match="stopped"):
            command()
    assert not made.may_enter("AAPL")
    with made:  # and it can be started again
        made.on_bar(bar(1))


def test_given_a_store_that_is_taken_when_started_then_it_raises_and_leaves_no_thread(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    with ExitStore(tmp_path / "a.db"):
        made = ExitManager(broker, tmp_path / "a.db")
        with pytest.raises(StoreError):
            made.start()
    assert threads() == []
    with made:
        assert made.positions() == []


def test_given_a_standby_that_waits_when_stopped_from_another_thread_then_its_start_ends(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    failures: list[Exception] = []
    with ExitStore(tmp_path / "a.db"):
        made = ExitManager(broker, tmp_path / "a.db", standby=True)

        def start() -> None:
            try:
                made.start()
            except StoreError as error:
                failures.append(error)

        waiting = threading.Thread(target=start)
        waiting.start()
        until(lambda: "exitfsm-loop" in threads())
        time.sleep(0.3)
        made.stop()
        waiting.join(10)
        assert not waiting.is_alive()
    assert len(failures) == 1
    until(lambda: threads() == [])


def test_given_a_stop_while_others_call_when_it_returns_then_nobody_waits_for_ever(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    made = ExitManager(broker, tmp_path / "a.db")
    made.start()
    seen: list[type[BaseException]] = []

    def call() -> None:
        try:
            while True:
                made.pause()
        except BaseException as error:
            seen.append(type(error))

    running = [threading.Thread(target=call) for _ in range(4)]
    for one in running:
        one.start()
    time.sleep(0.2)
    made.stop()
    for one in running:
        one.join(10)
    assert seen == [StoreError] * 4
    assert threads() == []


def test_given_a_call_that_would_not_end_when_another_thread_stops_then_it_hears_so(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    made, heard = ExitManager(broker, tmp_path / "a.db"), []
    made.start()

    def call() -> None:
        try:
            made._call(lambda: asyncio.sleep(3600))
        except StoreError as error:
            heard.append(str(error))

    waiting = threading.Thread(target=call, daemon=True)
    waiting.start()
    time.sleep(0.2)
    made.stop()
    waiting.join(10)
    assert heard == ["the manager is stopped"]


def test_given_a_callback_that_calls_back_when_called_then_it_hears_that_it_may_not_and_may_ask(
    broker: ScriptedBroker, tmp_path: Path
) -> None:
    heard: list[Any] = []

    def on_alarm(_: Any) -> None:
        heard.append(made.positions())
        try:
            made.pause()
        except RuntimeError as error:
            heard.append(str(error))

    made = ExitManager(broker, tmp_path / "a.db", on_alarm=on_alarm)
    with made:
        made.on_bar(object())
        until(lambda: len(heard) == 2)
    assert heard[0] == []
    assert "hand the call to another thread" in heard[1]


def test_given_a_bus_of_threads_when_it_publishes_then_its_bars_arrive(broker: ScriptedBroker, tmp_path: Path) -> None:
    handlers: list[Callable[[Any], Any]] = []

    class Bus:
        def subscribe(self, handler: Callable[[Any], Any]) -> Callable[[], None]:
            handlers.append(handler)
            return lambda: handlers.remove(handler)

    enter(broker, "AAPL")
    with ExitManager(broker, tmp_path / "a.db", Bus()) as made:
        made.watch("AAPL", "long", 10, 100, datetime.now(UTC))
        handlers[0](bar(98.9))
        until(lambda: [call for call in broker.calls if call.method == "submit"])
    assert handlers == []


def test_given_a_plain_broker_when_it_reports_from_its_own_thread_then_nothing_waits_for_itself(tmp_path: Path) -> None:
    broker = ScriptedBroker(capabilities=GOOD)
    with ExitManager(broker.plain, tmp_path / "a.db") as made:
        enter(broker, "AAPL")
        made.watch("AAPL", "long", 10, 100, datetime.now(UTC))
        made.on_bar(bar(98.9))
        made.settled()
        assert [call.method for call in broker.calls].count("submit") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_given_a_fork_when_the_child_calls_then_it_hears_so_and_does_not_hang(manager: ExitManager) -> None:
    child = os.fork()
    if child == 0:
        try:
            manager.pause()
        except RuntimeError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_given_a_bot_that_ends_without_a_stop_when_it_ends_then_its_process_ends_too(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom exitfsm.sync import ExitManager\nfrom exitfsm.testing import ScriptedBroker\n"
        "made = ExitManager(ScriptedBroker(), sys.argv[1]); made.start(); made.pause(); print('paused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.db")], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "paused\n"), done.stderr
