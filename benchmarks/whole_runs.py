"""Whole processes, start-up included: `exitfsm simulate` beside a bare csv loop, and `import exitfsm` beside its needs.

The bare loop reads the same file with `csv.reader`, makes one float of each line and compares it twice. The simulation
keeps every event in a SQLite file. Both import compiled modules, as an installed package does.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from side_by_side import Table, main, process

BARS, SYMBOLS = 300_000, 1_000
NEEDS = "import eventsourcing.persistence, eventsourcing.sqlite, transitions, msgspec, sqlite3, decimal, hashlib"
BARE = """
import csv, sys
levels, touched = {}, 0
with open(sys.argv[1], newline="") as file:
    rows = csv.reader(file)
    next(rows)
    for symbol, at, opened, high, low, close, volume in rows:
        price = float(close)
        if symbol not in levels:
            levels[symbol] = (price * 0.99, price * 1.02)
            continue
        lower, upper = levels[symbol]
        if price <= lower or price >= upper:
            touched += 1
print(touched)
"""


def write_bars(path: Path) -> None:
    """A seeded walk of a thousand symbols, minute by minute: about four in ten reach a level."""
    dice, start = random.Random(7), datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
    closes = [dice.uniform(20, 400) for _ in range(SYMBOLS)]
    with path.open("w") as file:
        file.write("symbol,timestamp,open,high,low,close,volume\n")
        for minute in range(BARS // SYMBOLS):
            at = (start + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")
            for number, before in enumerate(closes):
                close = closes[number] = before * (1 + dice.gauss(0, 0.0006))
                high = max(before, close) * (1 + abs(dice.gauss(0, 0.0002)))
                low = min(before, close) * (1 - abs(dice.gauss(0, 0.0002)))
                prices = f"{before:.4f},{high:.4f},{low:.4f},{close:.4f}"
                file.write(f"S{number:04d},{at},{prices},{dice.randint(100, 9000)}\n")


def measure(table: Table) -> None:
    """Fill the table."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    python = sys.executable
    table.cost(
        "import exitfsm with its store, against the import of its needs",
        process(python, "-c", "import exitfsm.engine, exitfsm.store"),
        process(python, "-c", NEEDS),
        rounds=15,
        at_most=1.6,
    )
    with tempfile.TemporaryDirectory() as folder:
        bars, store = Path(folder, "bars.csv"), Path(folder, "exits.db")
        write_bars(bars)

        def afresh() -> None:
            for path in Path(folder).glob("exits.db*"):
                path.unlink()

        for what, more in (("", ()), (" --json", ("--json",))):
            table.cost(
                f"exitfsm simulate{what}, {BARS:,} bars of {SYMBOLS:,} symbols, against a bare csv loop",
                process(python, "-m", "exitfsm", "simulate", str(bars), "--store", str(store), *more, prepare=afresh),
                process(python, "-c", BARE, str(bars)),
                at_most=4,
            )
        table.cost("exitfsm --version: start-up, against the same loop", process(python, "-m", "exitfsm", "--version"),
                   process(python, "-c", BARE, str(bars)))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
