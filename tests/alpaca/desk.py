"""A desk on the local server: the real manager, the adapter, the unmodified SDK; and what must never happen there.

Every desk is checked when it is closed: the venue never held less than nothing, never saw two live exit orders in a
symbol, and the manager's log tells of no defect.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from exitfsm_alpaca import ALPACA, Access, AlpacaBars, AlpacaBroker, AlpacaUpdates
from msgspec.structs import replace

from exitfsm import Alarm, Bar, Event, ExecutionReport, ExitStore, Position, Recorded, State
from exitfsm.manager import ExitManager
from exitfsm.order_ids import looks_like_exit
from exitfsm.testing.alpaca_server import AlpacaServer

#: So that tests need not wait for what is a matter of seconds in life.
QUICK = replace(ALPACA, late_fill_window_s=0)
CONFIG: dict[str, Any] = {
    "partial_fills": {"resubmit_delay_seconds": 0, "max_resubmit_attempts": 3},
    "live": {"broker_timeout_seconds": 60, "poll_seconds": 0.3, "sync_seconds": 1, "patience_seconds": 2,
             "breaker_failures": 50},
}  # fmt: skip
#: Words in the log that only a defect writes.
DEFECTS = (
    *("owed_crashed", "tick_crashed", "task_failed", "not_stored", "listener_failed", "callback_failed"),
    *("frame_failed", "bars_turn_failed", "updates_crashed", "after_group_crashed"),
)


class Heard(logging.Handler):
    """Everything that was logged, by anybody."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Desk:
    """One bot's desk at the server.

    Args:
        streams: which streams run beside the manager.
        config: sections to set beside the quick defaults.
        answer_s: how long an answer is waited for: long, but where a server that does not answer is what is tested.
        updates: options of `AlpacaUpdates`.
    """

    def __init__(
        self,
        server: AlpacaServer,
        path: Path,
        *,
        streams: str = "updates",
        config: dict[str, Any] | None = None,
        answer_s: float = 30.0,
        **updates: Any,
    ) -> None:
        self.server, self.path, self.streams = server, path, streams
        self.answer_s = answer_s
        self.config = {**CONFIG, **(config or {})}
        self.access = Access.from_environment(server.environment)
        self.backfill_max_s = updates.pop("backfill_max_s", 300.0)
        self.updates_options = {"poll_s": 0.3, "check_s": 0.5, "grace_s": 10.0, **updates}
        self.broken: list[str] = []
        self.alarms: list[Alarm] = []
        self.events: list[Event] = []
        self.heard = Heard()
        self.generation = 0
        logging.getLogger("exitfsm").addHandler(self.heard)
        logging.getLogger("exitfsm").setLevel(logging.DEBUG)
        server.do(lambda: server.account.venue.subscribe(self._watch))

    def _watch(self, report: ExecutionReport) -> None:
        """In the server's thread, at each change of an order."""
        account, symbol = self.server.account, report.symbol or ""
        ours = looks_like_exit(report.client_order_id)
        if ours and report.side == "sell" and account.venue.held(symbol) < 0:
            self.broken.append(f"{symbol} is short: {account.venue.held(symbol)}")
        live = [r for r in account.orders("open") if r.symbol == symbol and looks_like_exit(r.client_order_id)]
        if len(live) > 1:
            self.broken.append(f"two live exits: {[r.client_order_id for r in live]}")

    # --- life ---------------------------------------------------------------------------------------------------------

    @property
    def store(self) -> Path:
        return self.path / f"exits-{self.generation}.db"

    async def start(self) -> Desk:
        self.broker = AlpacaBroker(
            self.access,
            timeout_s=(30.0, self.answer_s),
            requests_per_minute=100_000,
            reserve=10,
            capabilities=QUICK,
        )
        self.manager = ExitManager(
            self.broker, self.store, None, self.config, "desk", on_alarm=self.alarms.append, on_event=self._on_event
        )
        await self.manager.start()
        self.updates = AlpacaUpdates(
            self.access, self.broker, self.manager.on_order_update, self.manager.sync, **self.updates_options
        )
        if "updates" in self.streams:
            await self.updates.start()
            await self.until(lambda: self.updates.listening, "the stream listens")
        self.bars = AlpacaBars(self.access, stale_after_s=0.6, poll_s=0.2, backfill_max_s=self.backfill_max_s)
        self.feeding: asyncio.Task[None] | None = None
        if "bars" in self.streams:
            await self.bars.start()
            self.feeding = asyncio.create_task(self._feed(), name="feed")
        return self

    def _on_event(self, position: Position | None, recorded: Recorded) -> None:
        self.events.append(recorded.event)

    async def _feed(self) -> None:
        async for batch in self.bars.batches():
            await self.manager.on_bars(batch)

    async def stop(self) -> None:
        await self.bars.stop()
        if self.feeding is not None:
            await self.feeding
        await self.updates.stop()
        await self.manager.stop()
        self.broker.close()

    async def crash(self) -> None:
        """The process is gone; the next one finds what lies on the disk."""
        following = self.path / f"exits-{self.generation + 1}.db"
        for suffix in ("", "-wal"):
            if Path(f"{self.store}{suffix}").exists():
                shutil.copyfile(f"{self.store}{suffix}", f"{following}{suffix}")
        await self.stop()
        self.generation += 1

    async def __aenter__(self) -> Desk:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.stop()
        logging.getLogger("exitfsm").removeHandler(self.heard)
        if kind is None:
            self.check()

    def check(self) -> None:
        assert not self.broken, self.broken
        defects = [line for line in self.heard.lines if any(word in line for word in DEFECTS)]
        assert not defects, defects
        ids = [order["client_order_id"] for order in self.server.orders()]
        assert len(ids) == len(set(ids))

    # --- what happens -------------------------------------------------------------------------------------------------

    async def held(self, qty: str | int = 10, price: str | int = 100, symbol: str = "AAPL", **options: Any) -> Position:
        """A position is held and watched."""
        self.server.hold(symbol, qty, price, **options)
        await self.manager.sync()
        await self.until(lambda: symbol in [p.symbol for p in self.manager.positions()], f"{symbol} is watched")
        return self.position(symbol)

    async def price(self, close: str | float, symbol: str = "AAPL") -> None:
        """A bar closes: at the venue, and for the manager (by the stream where it runs)."""
        await asyncio.sleep(0.002)
        value = Decimal(str(close))
        bar = Bar(symbol, datetime.now(UTC), value, value, value, value, 100)
        await asyncio.to_thread(self.server.bar, bar)
        if "bars" not in self.streams:
            await self.manager.on_bar(bar)

    def position(self, symbol: str = "AAPL") -> Position:
        return next(p for p in self.manager.positions() if p.symbol == symbol)

    async def until(self, what: Callable[[], Any], say: str = "", seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            answer = what()
            answer = await answer if isinstance(answer, Awaitable) else answer
            if answer:
                return
            if time.monotonic() > deadline:
                lines = "\n".join(self.heard.lines[-25:])
                raise AssertionError(f"never: {say}\n{[str(p.state) for p in self.manager.positions()]}\n{lines}")
            await asyncio.sleep(0.02)

    async def state(self, *wanted: State | str, symbol: str = "AAPL") -> Position:
        """The position once it is in one of these states; ended ones are read from the store."""

        def there() -> bool:
            last = self.last(symbol)
            return last is not None and str(last.state) in wanted

        await self.until(there, f"{symbol} is {' or '.join(wanted)}")
        found = self.last(symbol)
        assert found is not None
        return found

    def last(self, symbol: str = "AAPL") -> Position | None:
        """The newest position of a symbol, open or ended."""
        engine = self.manager._engine
        rows = [p for p in engine.positions.values() if p.symbol == symbol]
        rows += [p for r in engine.store.positions(symbol=symbol) if (p := engine.get(r.position_id)) is not None]
        return max(rows, key=lambda p: p.opened_at, default=None)

    @property
    def exits(self) -> list[dict[str, Any]]:
        """The bodies of the exit orders that were POSTed, each time they were."""
        return [body for body in self.server.posts if looks_like_exit(body.get("client_order_id"))]

    @property
    def taken(self) -> list[dict[str, Any]]:
        """The exit orders that the venue took."""
        return [o for o in self.server.orders() if looks_like_exit(o["client_order_id"])]

    def kinds(self) -> list[str]:
        """The kinds of the alarms that went up."""
        return [a.kind for a in self.alarms]

    async def gone(self, symbol: str = "AAPL", qty: str = "10") -> Position:
        """The exit is complete: proved flat, and sold once."""
        p = await self.state("filled", symbol=symbol)
        assert p.sold_qty == Decimal(qty), p.sold_qty
        assert self.server.held(symbol) == 0
        return p


def stored(path: Path) -> list[Event]:
    """All events of a store."""
    with ExitStore(path, read_only=True) as store:
        return [r.event for stream in store.stream_ids() for r in store.stream(stream)]
