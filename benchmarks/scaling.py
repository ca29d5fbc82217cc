"""How costs grow: with the positions held, with those that breach together, and with the length of the history.

Each row is what one thing costs at that size, and how many times that is of its cost at the smallest: 1.0 does not
grow. It is processor time, so that the disk does not count; every commit is a durable one all the same. EVENTS in the
environment makes the longest history shorter or longer: up to 10,000,000, which takes ten minutes and 8 GB of disk.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time

from durable import bar, open_positions
from lives import EACH, T0, fill, place
from quiet_bars import BARS, Watched
from side_by_side import Table, main

from exitfsm.engine import Engine
from exitfsm.store import ExitStore

HELD = (1, 100, 1_000, 10_000)
#: The least is as many as are decided on one after the other.
DECIDING = (50, 1_000, 10_000)
BREACHES = (1, 10, 100, 1_000)
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


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
