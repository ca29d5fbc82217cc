"""Bars that breach nothing, through the engine: what a bar costs beside a bare loop with two comparisons.

The bare loop is the least that any watching of levels is: it looks up the two floats of the bar's symbol and compares.
It keeps no last price, knows no order of time, and does not ask whether the symbol is held. Bars are made beforehand, a
seeded walk between the levels, and both ways are given the same ones.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import process_time

from side_by_side import Table, Timed, main

from exitfsm import Bar, Engine, ExitStore, Side, SimulatedBroker
from exitfsm.manager import ExitManager
from exitfsm.messages import Open
from exitfsm.policy import ExitPolicy
from exitfsm.position import account_hash, epoch_of

START = datetime(2024, 1, 2, 15, 0, tzinfo=UTC)
BARS = 20_000


class Watched:
    """An engine with so many positions, one in each symbol, and an endless feed of quiet bars for some of them."""

    def __init__(self, positions: int, fed: int | None = None) -> None:
        self.store = ExitStore(":memory:")
        self.engine = Engine(self.store)
        self.symbols = [f"S{number:05d}" for number in range(positions)]
        with self.store.bulk():
            for symbol in self.symbols:
                self.engine.open(opening(symbol), reference=Decimal(100))
        self.stored = self.store.count()
        self.levels = {symbol: (float(99), float(102)) for symbol in self.symbols}
        self._feed = walk(self.symbols[:fed])
        self.bars: list[Bar] = []

    def ours(self, look: Callable[[list[Bar]], object]) -> Timed:
        """Look at fresh bars, as fresh as the engine wants them."""

        def run() -> float:
            kept, self.bars = self.bars, [next(self._feed) for _ in range(BARS)]
            took = self._timed(lambda: look(self.bars))
            del kept  # not while the time is taken: to free a bar is nobody's work here
            return took

        return run

    def bare(self, look: Callable[[list[Bar], dict[str, tuple[float, float]]], object]) -> Timed:
        """A bare way over the same bars."""
        return lambda: self._timed(lambda: look(self.bars, self.levels))

    def _timed(self, work: Callable[[], object]) -> float:
        """The processor time of work on bars that have just been touched, as bars have that have just been made."""
        gc.collect()
        for bar in self.bars:
            hash((bar.symbol, bar.timestamp, bar.floor, bar.ceiling))
        begun = process_time()
        work()
        return process_time() - begun

    def one_by_one(self, bars: list[Bar]) -> None:
        """Each bar through the public door."""
        engine = self.engine
        for bar in bars:
            engine.on_bar(bar)

    def by_the_minute(self, bars: list[Bar]) -> None:
        """The bars of all symbols of a minute together."""
        minute = len(self.symbols)
        for first in range(0, len(bars), minute):
            self.engine.on_bars(bars[first : first + minute])


def opening(symbol: str) -> Open:
    """Ten bought at 100, with the rules' defaults: +2 %, -1 %."""
    return Open(
        at=START,
        account=account_hash("benchmark"),
        symbol=symbol,
        side=Side.LONG,
        epoch=epoch_of(START),
        qty=Decimal(10),
        entry_price=Decimal(100),
        opened_at=START,
        policy=ExitPolicy(),
        source="broker",
    )


def walk(symbols: list[str]) -> Iterator[Bar]:
    """A bar a minute for each symbol, for ever; the prices stay between 99.1 and 101.9."""
    dice, closes, at = random.Random(5), dict.fromkeys(symbols, 100.0), START
    while True:
        at += timedelta(minutes=1)
        for symbol in symbols:
            before = closes[symbol]
            close = closes[symbol] = round(min(101.85, max(99.15, before + dice.gauss(0, 0.05))), 2)
            low, high = min(before, close) - 0.01, max(before, close) + 0.01
            yield Bar(symbol, at, before, round(high, 2), round(low, 2), close)


def bare_loop(bars: list[Bar], levels: dict[str, tuple[float, float]]) -> int:
    """Two comparisons for each bar; how many touched a level."""
    touched = 0
    for bar in bars:
        lower, upper = levels[bar.symbol]
        if not (lower < bar.floor and bar.ceiling < upper):
            touched += 1
    return touched


def bare_calls(bars: list[Bar], levels: dict[str, tuple[float, float]]) -> None:
    """The same two comparisons in a function that is called for each bar, as a bot calls its own."""

    def look(bar: Bar) -> bool:
        lower, upper = levels[bar.symbol]
        return lower < bar.floor and bar.ceiling < upper

    for bar in bars:
        look(bar)


def measure(table: Table) -> None:
    """Fill the table."""
    for positions in (1, 100, 1_000, 10_000):
        watched = Watched(positions)
        ours, bare = watched.ours(watched.one_by_one), watched.bare(bare_loop)
        held = f"{positions:,} position{'s' if positions > 1 else ''}"
        per_s = table.speed(f"on_bar, {held}", ours, bare, count=BARS, rounds=15, at_least=0.5)
        table.figure(f"on_bar, {held}: bars a second", per_s, at_least=1_000_000)
        table.figure(f"on_bar, {held}: events written", watched.store.count() - watched.stored, at_most=0)
        watched.store.close()
    watched = Watched(1_000)
    ours, bare = watched.ours(watched.by_the_minute), watched.bare(bare_loop)
    table.speed("on_bars, a minute of 1,000 symbols at once", ours, bare, count=BARS, rounds=15, at_least=0.7)
    called = watched.bare(bare_calls)
    table.speed("the bare comparisons in a function of their own", called, bare, count=BARS, rounds=15)
    watched.store.close()
    alone, among = Watched(1), Watched(10_000, fed=1)
    table.cost(
        "on_bar of one symbol, 9,999 others held, against none",
        among.ours(among.one_by_one),
        alone.ours(alone.one_by_one),
        count=BARS,
        rounds=15,
        at_most=1.1,
    )
    alone.store.close()
    among.store.close()
    asyncio.run(managed(table))


async def managed(table: Table) -> None:
    """The same through the manager, which a bot awaits; its own clock says that the bars are fresh."""
    with tempfile.TemporaryDirectory() as folder:
        broker = SimulatedBroker()
        now = datetime.now(UTC).replace(microsecond=0)
        broker.hold("AAPL", Side.LONG, Decimal(10), Decimal(100), now - timedelta(minutes=5))
        manager = ExitManager(broker, Path(folder, "exits.db"))
        await manager.start()
        bars = [Bar("AAPL", now - timedelta(seconds=60) + timedelta(microseconds=n), 100, 100.1, 99.9, 100)
                for n in range(BARS)]  # fmt: skip
        begun = 0

        async def loop(some: list[Bar]) -> None:
            for bar in some:
                await manager.on_bar(bar)

        took = []
        while begun < BARS:
            some, begun = bars[begun : begun + 2_000], begun + 2_000
            before = asyncio.get_running_loop().time()
            await loop(some)
            took.append((asyncio.get_running_loop().time() - before) / len(some))
        await manager.stop()
        table.figure("await ExitManager.on_bar, 1 position: bars a second", 1 / sorted(took)[len(took) // 2])


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
