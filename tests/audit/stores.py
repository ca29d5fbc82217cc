"""What the audited stores are made of: wandering prices, a venue with trouble, and ways to tamper."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from exitfsm import Act, Bar, SimulatedBroker
from exitfsm.store.mapping import GENESIS, chain_hash

T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
REAL_BARS = Path(__file__).resolve().parents[3] / "shared" / "data" / "bars"
TRAILING = {
    "trailing_stop": {"enabled": True, "activation_pct": 0.2, "trail_pct": 0.3, "step_pct": 0},
    "stop_loss": {"threshold_pct": 0.6},
    "exit_cooldown_seconds": 60,
}


def wander(symbols: int = 3, minutes: int = 400, seed: int = 1, spread: float = 0.002) -> Iterator[Bar]:
    """Minute bars of prices that wander."""
    rng = random.Random(seed)
    prices = {f"S{i}": 100.0 for i in range(symbols)}
    for minute in range(minutes):
        at = T0 + timedelta(minutes=minute)
        for symbol, price in prices.items():
            close = prices[symbol] = round(max(5.0, price * (1 + rng.gauss(0, spread))), 2)
            yield Bar(symbol, at, price, round(max(price, close) + 0.02, 2), round(min(price, close) - 0.02, 2), close)


def troubled() -> SimulatedBroker:
    """A venue at which much goes wrong."""
    venue = SimulatedBroker()
    venue.script("S0", Act(reject="insufficient_qty"), Act(fills=(Decimal(3), Decimal(2))), Act(refuse="not_tradable"))
    venue.script("S1", Act(fills=(Decimal(4),), then="expire"), Act(then="cancel"))
    return venue


def tamper(path: Path, *statements: str) -> None:
    """Somebody is at the file with SQLite's own tools."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def rechain(path: Path) -> None:
    """Somebody who knows how makes the hash chain fit what now stands in the file."""
    with closing(sqlite3.connect(path)) as db, db:
        rows = db.execute(
            "SELECT rowid, originator_id, originator_version, topic, state FROM stored_events ORDER BY rowid"
        )
        head, chain = GENESIS, []
        for sequence, *stored in rows.fetchall():
            head = chain_hash(head, sequence, tuple(stored))
            chain.append((sequence, head))
        db.execute("DELETE FROM chain")
        db.executemany("INSERT INTO chain VALUES (?, ?)", chain)
