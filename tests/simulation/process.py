"""One process of the simulated bot: the real manager on its machine's disk, and its restarts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial, wraps
from typing import Any

from exitfsm.errors import BrokerError, StoreError, StoreLocked
from exitfsm.events import Recorded
from exitfsm.lifecycle import State
from exitfsm.manager import ExitManager
from exitfsm.position import Position
from exitfsm.store import ExitStore
from exitfsm.values import Alarm, Bar, ExecutionReport
from simulation.disk import Disk
from simulation.faults import Faults
from simulation.loop import ProcessLoop, World
from simulation.oracle import Oracle
from simulation.trace import Trace
from simulation.venue import OPENING
from simulation.wire import Line

ACCOUNT = "simulated"
MakeLine = Callable[[ProcessLoop, str], Line]


class SimulatedClock:
    """A machine's clock: steady in the world's time, and wrong by `offset_s`. Sleepers wake late, as they do.

    Args:
        slowness: seconds by which a sleep is longer than was asked for.
    """

    def __init__(self, world: World, slowness: Callable[[], float]) -> None:
        self._world, self._slowness = world, slowness
        self.offset_s = 0.0

    def now(self) -> datetime:
        """What the wall clock shows."""
        return OPENING + timedelta(seconds=self._world.time + self.offset_s)

    def monotonic(self) -> float:
        """The world's seconds."""
        return self._world.time

    async def sleep(self, seconds: float) -> None:
        """Sleep at least so long."""
        await asyncio.sleep(seconds + self._slowness())


class Process:
    """A process that is started, killed and started again.

    Args:
        make_line: its connection to the broker, anew for each life.
        config: what is configured; asked at each start.

    Attributes:
        manager: of the present life; None while it is down.
        ready: the manager has started.
    """

    def __init__(
        self,
        name: str,
        world: World,
        rng: random.Random,
        faults: Faults,
        trace: Trace,
        disk: Disk,
        oracle: Oracle,
        make_line: MakeLine,
        config: Callable[[], dict[str, Any]],
        *,
        plain: bool,
    ) -> None:
        self.name, self.disk = name, disk
        self._world, self._rng, self._faults, self._trace, self._oracle = world, rng, faults, trace, oracle
        self._make_line, self._config, self._plain = make_line, config, plain
        self.manager: ExitManager | None = None
        self.ready = False
        self.deaths = 0
        self.store: ExitStore | None = None
        self.clock = SimulatedClock(world, self._slowness)
        self.loop = ProcessLoop(world, self._thread_delay)
        self.line: Line | None = None
        self.on_death: Callable[[Process], None] = lambda _: None

    def _slowness(self) -> float:
        return 0.2 + self._rng.random() * 1.4

    def _thread_delay(self) -> float:
        return self._rng.random() * 0.004

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Start it; False where the store does not let it.

        Raises:
            StoreError: the store cannot be opened, and no other process holds it.
        """
        loop = self.loop = ProcessLoop(self._world, self._thread_delay)
        loop.on_last_step = self._last_step
        try:
            self.store = self.disk.open(loop, self.kill_after, self._about_to_write)
        except StoreLocked:
            self._faults.seen(31)
            self._trace(self.name, "is refused the store: another process has it")
            return False
        self._trace(self.name, "starts")
        line = self.line = self._make_line(loop, self.name)
        broker: Any = _Threaded(line) if self._plain else line
        manager = self.manager = ExitManager(
            broker,
            self.store,
            config=self._config(),
            account=ACCOUNT,
            clock=self.clock,
            on_event=self._on_event,
            on_alarm=self._on_alarm,
        )
        self.spawn(self._begin(manager))
        return True

    async def _begin(self, manager: ExitManager) -> None:
        try:
            await manager.start()
        except StoreError as error:
            self._trace(self.name, f"cannot start: {error}".replace(str(self.disk.path.parent), ""))
            self.kill_after(0)
            return
        self.ready = True

    def kill_after(self, steps: int) -> None:
        """It dies after so many more of its steps; 0: now."""
        if steps > 0:
            self.loop.steps_left = min(self.loop.steps_left, steps)
        elif not self.loop.dead:
            self.loop.kill()
            self._trace(self.name, "dies")
            # What it left in memory is cleared away from outside, when it is surely no longer running.
            self._world.after(0, self._bury, self.loop, self.store)

    def _last_step(self) -> None:
        self._faults.seen(40)
        self.kill_after(0)

    def _bury(self, loop: ProcessLoop, store: ExitStore | None) -> None:
        loop.bury()
        if store is not None:
            self.disk.died(store)
        self.manager, self.store, self.line, self.ready = None, None, None, False
        self.deaths += 1
        self.on_death(self)

    async def _end(self, manager: ExitManager, store: ExitStore) -> None:
        self.ready = False
        await manager.stop()
        store.close()
        self._trace(self.name, "has stopped in good order")
        self.kill_after(0)

    def stop(self) -> None:
        """Stop it in good order."""
        if self.manager is not None and self.store is not None:
            self.spawn(self._end(self.manager, self.store))

    @property
    def up(self) -> bool:
        """True while it lives and its manager has started."""
        return self.ready and not self.loop.dead

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Let it do something of its own."""
        return self.loop.create_task(work, name="bot")

    # --- what reaches it ----------------------------------------------------------------------------------------------

    def feed(self, bars: Sequence[Bar]) -> None:
        """Bars arrive."""
        if self.up and self.manager is not None:
            self.spawn(self.manager.on_bars(bars))

    def quote(
        self, symbol: str, price: Decimal | None, bid: Decimal | None, ask: Decimal | None, at: datetime | None
    ) -> None:
        """A price without a bar arrives."""
        if self.up and self.manager is not None:
            self.spawn(self.manager.on_price(symbol, price, bid=bid, ask=ask, at=at))

    def hear(self, report: ExecutionReport) -> None:
        """An update of an order arrives."""
        if not self.up or self.manager is None:
            return
        if report.filled_qty and self.line is not None and report.client_order_id in self.line.awaited:
            self._faults.seen(11)
        if report.corrected:
            lives = self.deaths
            self._oracle.told[report.client_order_id] = lambda: self.deaths == lives
        self.spawn(self.manager.on_order_update(report))
        if self._faults.happens("killed at the update", 12 if report.filled_qty else 40, report.client_order_id):
            self.kill_after(self._rng.randint(1, 6))

    def hear_unknown(self, update: dict[str, Any]) -> None:
        """An update of an order arrives, in words that nobody knows."""
        if self.up and self.manager is not None:
            self.spawn(self.manager.on_order_update(update))

    def _about_to_write(self, lines: list[str]) -> None:
        for line in lines:
            self._trace(self.disk.name, f"writes {line}")

    # --- what it tells ------------------------------------------------------------------------------------------------

    def _on_event(self, position: Position | None, recorded: Recorded) -> None:
        if position is not None and not self.loop.dead and recorded.version == position.version:
            self._oracle.remembered(self.disk.name, position)

    def _on_alarm(self, alarm: Alarm) -> None:
        if self.loop.dead:
            return
        self._trace(self.name, f"alarm {alarm.kind}: {alarm.text}".replace(str(self.disk.path.parent), ""))
        if self._faults.happens("alarm channel", 54, alarm.kind):
            raise ConnectionError("the channel for alarms is down")

    def exiting(self) -> bool:
        """True while an exit is under way, by its log."""
        lives = self._oracle.lives.get(self.disk.name, {})
        return any(life.position.state.exiting for life in lives.values())

    def unprotected(self) -> list[Position]:
        """Positions that wait for a person."""
        if self.manager is None:
            return []
        return [p for p in self.manager.positions() if p.state is State.UNPROTECTED]

    def command(self, what: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """An operator's command: it may fail for want of an answer, and the operator tries again later.

        What it is about may have ended meanwhile: then the answer is that nothing is known by that name.
        """

        async def quietly() -> None:
            with suppress(BrokerError, StoreError, ValueError):
                await what(*args)

        self.spawn(quietly())


class _Threaded:
    """The same connection with plain methods, which the manager calls in threads of its own."""

    def __init__(self, line: Line) -> None:
        self.capabilities = line.capabilities
        for name in ("submit", "cancel", "order", "positions", "open_orders", "fills", "session"):
            method = getattr(line, name)
            if method is not None:
                setattr(self, name, _plainly(method))


def _plainly(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)  # a submit that does not say what it takes is refused, and a cancel says which ids it takes
    def call(*args: Any, **named: Any) -> Any:
        return _Answer(partial(method, **named), args)

    return call


class _Answer:
    """What a thread brings back: the call begins when somebody waits for it, and not at all in a dead process."""

    def __init__(self, method: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._method, self._args = method, args

    def __await__(self) -> Generator[Any, None, Any]:
        return self._method(*self._args).__await__()  # type: ignore[no-any-return]
