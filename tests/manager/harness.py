"""A world for the real manager: a scripted broker, a clock that only moves when told, a store in a file.

    world.enter(10, at=100); await world.bar(98.9); await world.fill(); assert world.state == "filled"

Nothing here sleeps: `settle` returns when nothing is left to do but wait for time or for a broker that hangs. `crash`
is a hard stop: the tasks are gone, the file is what lay on the disk at that moment, and a new manager opens it. Every
world is checked at its end (`check`): the broker's own safety rules, the log against memory, its order, its legality.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from exitfsm import Alarm, Bar, ExitStore, Order, Position, Recorded, Side, State
from exitfsm.events import (
    AlarmRaised,
    Event,
    ExitCompleted,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    OrderEnded,
    ProtectionLost,
)
from exitfsm.lifecycle import LOOKUP
from exitfsm.manager import ExitManager, ManualClock
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.position import client_order_id, replay
from exitfsm.testing import ScriptedBroker
from exitfsm.values import Fill

#: A Tuesday, an hour into the New York session.
T0 = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)
#: A broker that refuses repeated ids and oversized orders, and declares for how long fills may follow a cancel.
GOOD = Capabilities(
    ids_refused=IdMemory.FOREVER,
    lookup_sees_closed=True,
    reduce_only=True,
    late_fills=True,
    late_fill_window_s=5,
    positions_lag_s=0,
    executions_late_s=0,
)
#: Words in the log that only a defect writes.
DEFECTS = ("owed_crashed", "tick_crashed", "task_failed", "not_stored", "listener_failed", "rule_failed")


class Heard(logging.Handler):
    """Everything that was logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter("%(levelname)s %(message)s").format(record))


class World:
    """One bot's surroundings, and its manager.

    Args:
        path: a directory of its own; the store lies in it.
        config: what to set beside the defaults; `policy` sections stand flat, as in the file.
        plain: the broker's methods are plain functions, called in threads.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any] | None = None,
        *,
        capabilities: Capabilities = GOOD,
        plain: bool = False,
        start: datetime = T0,
        **options: Any,
    ) -> None:
        self.path, self.config, self.options = path, config or {}, options
        self.clock = ManualClock(start)
        self.broker = ScriptedBroker(self.clock, capabilities)
        self.seen_by_manager: Any = self.broker.plain if plain else self.broker
        self.alarms: list[Alarm] = []
        self.events: list[tuple[str, Event]] = []
        self.heard = Heard()
        self.expected: set[str] = set()
        self._generation = 0
        self._loop = asyncio.get_running_loop()
        self._outstanding: set[asyncio.Future[Any]] = set()
        self._count_thread_work()
        logging.getLogger("exitfsm").addHandler(self.heard)
        logging.getLogger("exitfsm").setLevel(logging.DEBUG)
        self.manager = self._new_manager()

    # --- life ---------------------------------------------------------------------------------------------------------

    @property
    def store_path(self) -> Path:
        """The store's file; another one after each crash."""
        return self.path / f"exits-{self._generation}.db"

    def _new_manager(self) -> ExitManager:
        return ExitManager(
            self.seen_by_manager,
            self.store_path,
            config=self.config,
            strategy_name="test",
            clock=self.clock,
            **{"on_alarm": self.alarms.append, "on_event": self._on_event, **self.options},
        )

    def _on_event(self, position: Position | None, recorded: Recorded) -> None:
        self.events.append((recorded.stream_id, recorded.event))

    async def start(self) -> None:
        """Start the manager, and let it find everything."""
        await self.manager.start()
        await self.settle()

    async def stop(self) -> None:
        """Stop it in good order."""
        await self.manager.stop()

    async def crash(self) -> None:
        """The process dies now: what lies on the disk is all that is left."""
        self.keep_files()
        await self.bury()
        self._generation += 1
        self.manager = self._new_manager()

    def keep_files(self) -> None:
        """Copy the store as it lies on the disk at this moment, for the next generation."""
        following = self.path / f"exits-{self._generation + 1}.db"
        for suffix in ("", "-wal"):
            source = Path(f"{self.store_path}{suffix}")
            if source.exists():
                shutil.copyfile(source, f"{following}{suffix}")

    async def bury(self) -> None:
        """Take the dead manager's tasks and files away."""
        manager = self.manager
        current = asyncio.current_task()
        tasks = [t for t in asyncio.all_tasks() if t is not current and t.get_name().startswith("exitfsm")]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if manager._made is not None:
            manager._made.context.mailbox._thread.shutdown(wait=True)
            manager._made.context.calls.close()
            manager._made.store.close()
        self._outstanding.clear()

    async def restart(self) -> None:
        """Crash, and start anew on what is left."""
        await self.crash()
        await self.start()

    async def restart_in_order(self) -> None:
        """Stop properly, and start anew."""
        await self.stop()
        self.manager = self._new_manager()
        await self.start()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _count_thread_work(self) -> None:
        """Know what runs in threads, so that `settle` can wait for it."""
        run = self._loop.run_in_executor

        def counting(executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
            future = run(executor, function, *args)
            self._outstanding.add(future)
            future.add_done_callback(self._outstanding.discard)
            return future

        self._loop.run_in_executor = counting  # type: ignore[method-assign, assignment]

    async def settle(self) -> None:
        """Until nothing is left to do but to wait for time, or for a broker that hangs."""
        while True:
            await asyncio.sleep(0)
            if self._loop._ready:  # type: ignore[attr-defined]
                continue
            at_work = [f for f in self._outstanding if not f.done()]
            if len(at_work) <= (self.broker.hanging if self.seen_by_manager is not self.broker else 0):
                return
            await asyncio.wait(at_work, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)

    async def passes(self, seconds: float, step: float = 1.0) -> None:
        """Time passes."""
        left = seconds
        while left > 0:
            self.clock.move(min(step, left))
            left -= step
            await self.settle()

    async def until(self, true: Callable[[], Any], seconds: float = 300, step: float = 1.0) -> None:
        """Let time pass until something holds."""
        await self.settle()
        for _ in range(int(seconds / step)):
            if true():
                return
            await self.passes(step, step)
        assert true(), f"not within {seconds} s; {self.story()}"

    async def really(self, true: Callable[[], Any], seconds: float = 5.0) -> None:
        """Until something holds that takes real time: a broker's time-out above all."""
        for _ in range(int(seconds / 0.005)):
            if true():
                await self.settle()
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"not within {seconds} real seconds; {self.story()}")

    # --- the market and the bot ---------------------------------------------------------------------------------------

    async def enter(
        self,
        qty: Decimal | int | str = 10,
        at: Decimal | int | str = 100,
        *,
        symbol: str = "AAPL",
        side: Side | str = "long",
        tell: bool = True,
    ) -> None:
        """The bot enters, and hands the broker's update to the manager."""
        self.broker.enter(symbol, side, qty, at)
        if tell:
            await self.deliver()
            await self.settle()
            assert any(p.symbol == symbol for p in self.manager.positions()), f"not taken up: {self.heard.lines[-5:]}"

    async def bar(
        self,
        close: Decimal | int | str | float,
        symbol: str = "AAPL",
        *,
        low: Decimal | int | str | float | None = None,
        high: Decimal | int | str | float | None = None,
        after: float = 1.0,
    ) -> None:
        """A bar comes, a second after the last thing that happened."""
        self.clock.move(after)
        await self.settle()
        self.broker.price(symbol, Decimal(str(close)))
        await self.manager.on_bar(self.make_bar(close, symbol, low=low, high=high))
        await self.settle()

    def make_bar(
        self,
        close: Decimal | int | str | float,
        symbol: str = "AAPL",
        *,
        low: Decimal | int | str | float | None = None,
        high: Decimal | int | str | float | None = None,
        at: datetime | None = None,
    ) -> Bar:
        """A bar of now."""
        top, bottom = close if high is None else high, close if low is None else low
        return Bar(symbol, at or self.clock.now(), close, top, bottom, close)

    async def deliver(self, *, times: int = 1, order: Any = "as_told") -> None:
        """The broker's news arrive."""
        await self.broker.deliver(self.manager.on_order_update, times=times, order=order)
        await self.settle()

    async def fill(
        self, qty: Decimal | int | str | None = None, price: Decimal | int | str | None = None, *, tell: bool = True
    ) -> None:
        """The venue fills the newest exit order."""
        self.broker.fill(self.last_order, qty, price)
        if tell:
            await self.deliver()

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def orders(self) -> list[Order]:
        """The exit orders that reached the venue."""
        return self.broker.orders

    @property
    def last_order(self) -> Order:
        """The newest of them."""
        return self.broker.orders[-1]

    def ended(self) -> list[Position]:
        """Positions that are over, oldest first."""
        rows = self.manager.store.positions()
        all_of_them = [self.manager._engine.get(row.position_id) for row in rows]
        return [p for p in all_of_them if p is not None and p.state.terminal]

    @property
    def position(self) -> Position:
        """The only position there is, open or over: the newest."""
        held = self.manager.positions()
        if len(held) == 1:
            return held[0]
        assert not held, f"several positions: {held}"
        return self.ended()[-1]

    @property
    def state(self) -> State:
        """Its state."""
        return self.position.state

    @property
    def alarm_kinds(self) -> list[str]:
        """The kinds of the alarms that stand."""
        return sorted(alarm.kind for alarm in self.manager.alarms())

    def names(self, stream: str | None = None) -> list[str]:
        """The events so far, by name."""
        return [type(event).__name__ for at, event in self.events if stream in (None, at)]

    def story(self) -> str:
        """What happened, for a failed assertion."""
        states = [(p.position_id, str(p.state), str(p.remaining_qty)) for p in self.manager.positions()]
        lines = [line for line in self.heard.lines if not line.startswith("DEBUG")]
        return "\n".join([f"positions {states}", *(str(o) for o in self.orders), *lines[-40:]])

    # --- what must always hold ----------------------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold in every world, at any moment of rest."""
        self.broker.verify()
        check_store(self.manager.store, self.manager)
        assert not self.defects(), "\n".join(self.defects())

    def defects(self) -> list[str]:
        """What was logged and only a defect logs. An operator's command may fail, and says so to the operator."""
        words = set(DEFECTS) - self.expected
        return [n for n in self.heard.lines if any(w in n for w in words) and "name=exitfsm-release" not in n]

    async def finish(self) -> None:
        """The end of a test: let everything come back, check, stop."""
        self.broker.truthful()
        await self.settle()
        if self.manager._running:
            self.check()
        await self.stop()
        await self.settle()
        logging.getLogger("exitfsm").removeHandler(self.heard)


def check_store(store: ExitStore, manager: ExitManager | None = None) -> None:
    """The log says the same as memory, every step is legal, and every order has the one id it can have."""
    assert store.verify_chain() is None
    assert store.verify_read_models() == []
    if manager is not None:
        for p in manager.positions():
            assert replay(r.event for r in store.stream(p.position_id)) == p
    for stream in store.stream_ids():
        recorded = store.stream(stream)
        assert [r.version for r in recorded] == list(range(1, len(recorded) + 1))
        if not stream.startswith("account:"):
            check_stream(stream, [r.event for r in recorded])


def check_stream(stream: str, events: list[Event]) -> None:
    """One position's log, held against the rules."""
    state: State | None = None
    attempt, over, qty, form = 0, True, Decimal(0), getattr(events[0], "form", "")
    for event in events:
        following = LOOKUP.get((state, type(event)))
        assert following is not None, f"{type(event).__name__} in {state}"
        if isinstance(event, ExitWithdrawn):
            attempt, over = attempt - 1, True  # its number is the next one's
        if isinstance(event, ExitTriggered | ExitRetried):
            assert event.attempt == attempt + 1, "an attempt was left out"
            assert event.client_order_id == client_order_id(stream, event.attempt, form)
            assert over, f"attempt {event.attempt} before the end of the one before it"
            attempt, over, qty = event.attempt, False, event.qty
        elif isinstance(event, OrderEnded) or (isinstance(event, FillsRecorded) and event.filled_qty >= qty):
            over = True
        elif isinstance(event, ExitCompleted):
            assert event.cooldown_until >= event.filled_at
        elif isinstance(event, LegCompleted):
            assert over
            assert event.remaining_qty > 0
        elif isinstance(event, ProtectionLost):
            assert any(isinstance(e, AlarmRaised) for e in events[events.index(event) :]), "unprotected without alarm"
        state = following


def executed(broker: ScriptedBroker, symbol: str, side: str) -> Decimal:
    """How much was bought or sold of a symbol in all."""
    found: list[Fill] = [f for f in broker.executions if f.symbol == symbol and f.side == side]
    return sum((f.qty for f in found), Decimal(0))


def shuffled(seed: int) -> random.Random:
    """A source of disorder that is the same each time."""
    return random.Random(seed)


MakeWorld = Callable[..., Awaitable[World]]
