"""What an open position weighs in the engine: its position, its symbol's slot, and its places in the engine's maps."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from dataclasses import dataclass, field
from decimal import Decimal

from quiet_bars import Watched
from side_by_side import Table, main

POSITIONS = 10_000
_ONE = Decimal(1)


@dataclass(frozen=True)
class Bare:
    """The least that a bot keeps: a frozen dataclass of decimals."""

    symbol: str
    qty: Decimal = field(default_factory=lambda: _ONE * 10)
    entry: Decimal = field(default_factory=lambda: _ONE * 100)
    target: Decimal = field(default_factory=lambda: _ONE * 102)
    stop: Decimal = field(default_factory=lambda: _ONE * 99)
    last: Decimal = field(default_factory=lambda: _ONE * 100)
    best: Decimal = field(default_factory=lambda: _ONE * 101)


def weight(make: object) -> float:
    """KB that each of the things weighs that `make` makes, less what is made once."""
    assert callable(make)
    kept = [make(100)]  # what is made once is there now
    gc.collect()
    tracemalloc.start()
    kept.append(make(POSITIONS))
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    kept.clear()
    return size / POSITIONS / 1000


def with_store(count: int) -> object:
    """An engine with so many positions, and what its store keeps of each to write the read model."""
    made = Watched(count)
    made.levels.clear()
    made.symbols.clear()
    return made


def watched(count: int) -> object:
    """The same without the store."""
    made = Watched(count)
    made.store.close()
    return made.engine.positions, made.engine.levels.slots


def measure(table: Table) -> None:
    """Fill the table."""
    bare = weight(lambda count: [Bare(f"S{number:05d}") for number in range(count)])
    table.figure("an open position in the engine", weight(watched), "KB", at_most=1.2)
    table.figure("the same with what its store keeps", weight(with_store), "KB")
    table.figure("a frozen dataclass of six decimals", bare, "KB")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
