"""What a restart costs, and what it costs to fold a whole log: 10,000 open positions among 1,000,000 events.

EVENTS in the environment makes the log longer or shorter. A restart (`Engine.load`) is held against a raw SELECT of the
rows of the open positions, and against a store that has nothing but them. Folding is held against the `eventsourcing`
library as it comes: its default mapper, its aggregates and its repository, on the same lives in a file of its own. One
more row shows its mapper and aggregates alone, on rows that were read beforehand, which ours never are.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from lives import EACH, T0, fill, place, raw
from side_by_side import Table, Timed, cpu, main

from exitfsm.engine import Engine
from exitfsm.position import fold
from exitfsm.store import ExitStore

EVENTS = int(os.environ.get("EVENTS", "1000000"))
OPEN = 10_000
#: Lives that the slow way folds; its time for each event does not depend on how many there are.
SLOW_LIVES = 2_000


class Theirs(Aggregate):
    """The same life as an aggregate of the library."""

    @event("Opened")
    def __init__(self, account: str, symbol: str, side: str, epoch: str, qty: Decimal, entry_price: Decimal) -> None:
        self.account, self.symbol, self.side, self.epoch = account, symbol, side, epoch
        self.qty, self.entry_price, self.state = qty, entry_price, "monitoring"

    @event("Triggered")
    def trigger(self, reason: str, client_order_id: str, qty: Decimal, at: datetime, trigger_price: Decimal) -> None:
        """The exit is decided."""
        self.reason, self.client_order_id, self.order_qty = reason, client_order_id, qty
        self.triggered_at, self.trigger_price, self.state = at, trigger_price, "pending"

    @event("Accepted")
    def accept(self, broker_order_id: str, at: datetime) -> None:
        """The broker has it."""
        self.broker_order_id, self.accepted_at, self.state = broker_order_id, at, "submitted"

    @event("Filled")
    def take(self, filled_qty: Decimal, avg_fill_price: Decimal, at: datetime) -> None:
        """Something was filled."""
        self.filled_qty, self.avg_fill_price, self.filled_at, self.state = filled_qty, avg_fill_price, at, "partial"

    @event("Completed")
    def complete(self, filled_at: datetime, cooldown_until: datetime) -> None:
        """It is over."""
        self.ended_at, self.cooldown_until, self.state = filled_at, cooldown_until, "filled"


class Library:
    """The library's own way, on a file: so many lives, each got from the repository of an application."""

    def __init__(self, path: Path) -> None:
        sqlite = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        self._app: Application[Any] = Application(env=sqlite)
        self._ids = [self._live(number) for number in range(SLOW_LIVES)]
        self._read = [list(self._app.recorder.select_events(one)) for one in self._ids]

    def _live(self, number: int) -> Any:
        one = Theirs("1f0c4a7be2d1", "S001", "long", f"e{number}", Decimal(10), Decimal("100.25"))
        one.trigger("stop_loss", "c" * 38, Decimal(10), T0, Decimal("98.5"))
        one.accept("b" * 36, T0)
        one.take(Decimal(10), Decimal("98.49"), T0)
        one.complete(T0, T0)
        self._app.save(one)
        return one.id

    def got(self) -> None:
        """Read and folded."""
        for one in self._ids:
            self._app.repository.get(one)

    def folded(self) -> None:
        """Folded only: what was read beforehand."""
        for rows in self._read:
            aggregate = None
            for row in rows:
                happened: Any = self._app.mapper.to_domain_event(row)
                aggregate = happened.mutate(aggregate)

    def close(self) -> None:
        """Close the file."""
        self._app.close()


def folded(path: Path) -> None:
    """Every life of the store, folded, in constant memory."""
    with ExitStore(path, read_only=True) as store:
        for _, events in store.histories(store.stream_ids()):
            fold(None, events)


def verified(path: Path) -> None:
    """The same, and the hash chain over all that is stored."""
    folded(path)
    with ExitStore(path, read_only=True) as store:
        assert store.verify_chain() is None


def selected(path: Path) -> None:
    """The rows of the open positions, by sqlite3 alone."""
    with closing(raw(path)) as db:
        assert len(db.execute("SELECT * FROM positions WHERE state NOT IN ('filled', 'closed')").fetchall()) == OPEN


def restarted(path: Path) -> None:
    """The open positions, watched again."""
    with ExitStore(path, read_only=True) as store:
        assert Engine(store).load() == OPEN


def per_event(table: Table, what: str, ours: Timed, bare: Timed, at_least: float | None = None) -> None:
    """How many times as many events in a second as the library's own way, which folds fewer of them."""
    rounds = [(ours() / EVENTS, bare() / (SLOW_LIVES * EACH)) for _ in range(table.rounds or 3)]
    speed = median(theirs / mine for mine, theirs in rounds)
    mine, other = (1 / median(pair[side] for pair in rounds) for side in (0, 1))
    table.figure(what, speed, "×", at_least=at_least, measured=f"{mine:,.0f}/s against {other:,.0f}/s")


def measure(table: Table) -> None:
    """Fill the table."""
    place().mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place()) as folder:
        long, short = Path(folder, "long.db"), Path(folder, "short.db")
        fill(long, events=EVENTS, open_positions=OPEN)
        fill(short, events=OPEN * EACH, open_positions=OPEN)
        history = f"{OPEN:,} open positions among {EVENTS:,} events"
        table.cost(
            f"restart with {history}, folded, of a raw SELECT of their rows",
            cpu(lambda: restarted(long)), cpu(lambda: selected(long)), at_most=5, rounds=5,
        )  # fmt: skip
        table.cost(
            "the same, of a restart on a store that holds nothing else",
            cpu(lambda: restarted(long)), cpu(lambda: restarted(short)), rounds=5,
        )  # fmt: skip
        library = Library(Path(folder, "library.db"))
        got, only_folded = cpu(library.got), cpu(library.folded)
        what = f"{EVENTS:,} stored events folded, of the library's own way"
        per_event(table, what, cpu(lambda: folded(long)), got, 12)
        per_event(table, "the same with the hash chain verified", cpu(lambda: verified(long)), got, 7)
        per_event(table, "read and folded, of its mapper and aggregates alone", cpu(lambda: folded(long)), only_folded)
        library.close()


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
