"""How costs grow: with the positions held, those of one symbol, those that breach together, the active alarms, the
symbols of a simulated crash, and the length of the history.

Each row is what one thing costs at that size, and how many times that is of its cost at the smallest: 1.0 does not
grow. The last row of each kind is an exponent, of the cost of all of them together (1 is linear, 2 is quadratic); of a
restart, which is one thing, 0 does not grow. It is processor time, so that the disk does not count; every commit is a
durable one all the same, where the row does not say otherwise. EVENTS in the environment makes the longest history
shorter or longer: up to 10,000,000, which takes ten minutes and 8 GB of disk.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

from durable import ENTRY, Desk, bar, open_positions, symbol
from lives import EACH, T0, fill, place
from quiet_bars import BARS, Watched
from side_by_side import Table, main

from exitfsm.account import Account
from exitfsm.clocks import ManualClock
from exitfsm.engine import Engine
from exitfsm.manager import ExitManager
from exitfsm.messages import Open
from exitfsm.policy import ExitPolicy
from exitfsm.position import account_hash
from exitfsm.simulate import simulate
from exitfsm.store import ExitStore
from exitfsm.values import Bar, Side

HELD = (1, 100, 1_000, 10_000)
#: The least is as many as are decided on one after the other.
DECIDING = (50, 1_000, 10_000)
BREACHES = (1, 10, 100, 1_000)
MANAGED = (100, 1_000, 5_000)
OF_ONE_SYMBOL = (10, 100, 1_000)
ALARMS = (100, 1_000, 10_000)
SIMULATED = (100, 1_000, 10_000)
#: So many are added beside those that are there, one by one.
_ADDED = 50
EVENTS = int(os.environ.get("EVENTS", "1000000"))
#: Open positions that each history ends with.
OPEN = 1_000


def quiet_bar(_: Path, held: int) -> float:
    """Nanoseconds of a bar of one symbol that changes nothing, so many positions held."""
    watched = Watched(held, fed=1)
    run = watched.ours(watched.one_by_one)
    took = min(run() for _ in range(5)) / BARS
    watched.store.close()
    return took * 1e9


def decision(folder: Path, held: int) -> float:
    """Microseconds of a bar that breaches, so many positions held."""
    at = T0 + timedelta(minutes=1)
    with ExitStore(folder / "s.db") as store:
        engine = open_positions(store, held)
        store.settle()
        return median([_cpu(partial(engine.on_bar, bar(number, at))) for number in range(DECIDING[0])]) * 1e6


def together(folder: Path, count: int) -> float:
    """Microseconds for each of so many positions that breach together, in one commit."""
    bars = [bar(number, T0 + timedelta(minutes=1)) for number in range(count)]
    with ExitStore(folder / "s.db") as store:
        engine = open_positions(store, count)
        store.settle()
        return _cpu(lambda: engine.on_bars(bars)) / count * 1e6


def restart(folder: Path, events: int) -> float:
    """Milliseconds to take the open positions up again, so many events in the history."""
    fill(folder / "s.db", events=events, open_positions=OPEN)
    with ExitStore(folder / "s.db", read_only=True) as store:
        return min(_cpu(lambda: Engine(store).load()) for _ in range(3)) * 1e3


def managed(what: str, folder: Path, count: int) -> float:
    """Microseconds for each of so many positions that a manager starts with, reconciles, or exits at once."""
    with ExitStore(folder / "s.db") as store:
        open_positions(store, count)

    async def run() -> float:
        at = T0 + timedelta(minutes=1)
        clock, unlimited = ManualClock(at), {"live": {"orders_per_minute": 100_000}}  # its clock stands still
        manager = ExitManager(Desk(count, guards=True), folder / "s.db", config=unlimited, clock=clock)
        begun = process_time()
        await manager.start()
        if what != "start":
            await manager.settled()
            bars = [bar(n, at) for n in range(count)]
            begun = process_time()
            await (manager.sync() if what == "sync" else manager.on_bars(bars))
            await manager.settled()
        taken = process_time() - begun
        await manager.stop()
        return taken

    return asyncio.run(run()) / count * 1e6


def of_one_symbol(folder: Path, held: int) -> float:
    """Microseconds to watch one more position of a symbol of which so many are held; the commits are not durable."""

    def opened(number: int) -> Open:
        at = T0 + timedelta(seconds=number)
        return Open(
            at=at, account=account_hash("default"), symbol="AAPL", side=Side.LONG, epoch=f"{at:%Y%m%dT%H%M%SZ}",
            qty=Decimal(10), entry_price=ENTRY, opened_at=at, policy=ExitPolicy(),
        )  # fmt: skip

    with ExitStore(folder / "s.db") as store, store.bulk(10**9):
        engine = Engine(store)
        for number in range(held):
            engine.open(opened(number), reference=ENTRY)
        messages = [opened(held + number) for number in range(_ADDED)]
        return _cpu(lambda: [engine.open(message, reference=ENTRY) for message in messages]) / _ADDED * 1e6


def alarms(folder: Path, active: int) -> float:
    """Microseconds to raise one more alarm of the account, and to acknowledge it; the commits are not durable."""
    with ExitStore(folder / "s.db") as store, store.bulk(10**9):
        account = Account(store, account_hash("default"))

        def more(since: int, count: int) -> None:
            for number in range(since, since + count):
                account.raise_alarm("bar_unreadable", f"text {number}", at=T0)

        def come_and_go() -> None:
            more(active, _ADDED)
            for alarm_id in list(account.alarms)[-_ADDED:]:
                account.acknowledge(alarm_id, at=T0, who="operator")

        more(0, active)
        return _cpu(come_and_go) / _ADDED * 1e6


def crash(folder: Path, symbols: int) -> float:
    """Microseconds of each simulated life, where all that is held is stopped out in one bar."""
    prices = [Decimal(price) for price in ("100", "99.9", "95", "95")]
    times = [(T0 + timedelta(minutes=number), price) for number, price in enumerate(prices)]
    bars = [Bar(symbol(n), at, price, price, price, price, 100) for at, price in times for n in range(symbols)]
    with ExitStore(folder / "s.db") as store:
        return _cpu(lambda: simulate(bars, store=store)) / symbols * 1e6


def _cpu(work: Callable[[], object]) -> float:
    begun = process_time()
    work()
    return process_time() - begun


def measure(table: Table) -> None:
    """Fill the table."""
    place().mkdir(exist_ok=True)
    histories = tuple(n for n in (OPEN * EACH, 50_000, 200_000, 1_000_000, 10_000_000) if n <= EVENTS)
    for what, cost, unit, sizes, rounds in (
        ("a quiet bar, {:,} held", quiet_bar, "ns", HELD, 1),
        ("a decision, {:,} held", decision, "µs", DECIDING, table.rounds or 3),
        ("each of {:,} that breach together", together, "µs", BREACHES, table.rounds or 7),
        ("a start, each of {:,}", partial(managed, "start"), "µs", MANAGED, 1),
        ("sync, each of {:,}", partial(managed, "sync"), "µs", MANAGED, 1),
        ("through the manager, each of {:,} that breach together", partial(managed, "breach"), "µs", MANAGED, 1),
        ("one more position of a symbol, {:,} held", of_one_symbol, "µs", OF_ONE_SYMBOL, 3),
        ("one more alarm, and its end, {:,} active", alarms, "µs", ALARMS, 1),
        ("a simulated life, {:,} stopped out in one bar", crash, "µs", SIMULATED, 1),
        (f"a restart with {OPEN:,} open, {{:,}} events", restart, "ms", histories, 1),
    ):
        grow(table, what, cost, unit, sizes, rounds)


def grow(
    table: Table, what: str, cost: Callable[[Path, int], float], unit: str, sizes: Sequence[int], rounds: int
) -> None:
    """One row for each size, the sizes taken in turns."""
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            with tempfile.TemporaryDirectory(dir=place()) as folder:
                taken[size].append(cost(Path(folder), size))
    first = median(taken[sizes[0]])
    for size in sizes:
        one = median(taken[size])
        table.figure(what.format(size), one / first, "×", measured=f"{one:,.1f} {unit}")
    if len(sizes) == 1:
        return
    grown = math.log(median(taken[sizes[-1]]) / first) / math.log(sizes[-1] / sizes[0])
    table.figure(f"{what.format(sizes[-1])}: exponent", grown if unit == "ms" else 1 + grown)


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
