"""Stores for the tests: events to put into them, and the engines that the contract of `ExitStore` is held against.

An `Engine` opens the same store again and again, and does behind its back what a store cannot be asked for: it changes
rows, makes a commit fail, and counts them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Server

from exitfsm.events import Event, ExitCompleted, ExitTriggered, FillsRecorded, OrderAccepted, PositionOpened, StopMoved
from exitfsm.policy import ExitPolicy
from exitfsm.projections import Mark
from exitfsm.store import ExitStore
from exitfsm.store.database import Database
from exitfsm.values import ExitType, OrderType, Side, TimeInForce

T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
D = Decimal

#: For a process that imports this file.
_PATHS = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, _PATHS))}


def opened(symbol: str = "AAPL") -> PositionOpened:
    return PositionOpened(
        account="acc", symbol=symbol, side=Side.LONG, epoch="e1", qty=D(10), entry_price=D("100.5"), opened_at=T0,
        policy=ExitPolicy(),
    )  # fmt: skip


def triggered(coid: str = "c1") -> ExitTriggered:
    return ExitTriggered(
        reason=ExitType.STOP_LOSS, client_order_id=coid, attempt=1, qty=D(10), order_type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY, at=T0, trigger_price=D(99), level=D("99.495"), threshold_pct=D(1),
    )  # fmt: skip


def life(coid: str = "c1", symbol: str = "AAPL") -> list[Event]:
    """A whole exit: five events."""
    return [
        opened(symbol),
        triggered(coid),
        OrderAccepted(client_order_id=coid, broker_order_id="b1", at=T0),
        FillsRecorded(client_order_id=coid, filled_qty=D(10), avg_fill_price=D("99.1"), at=T0),
        ExitCompleted(
            filled_qty=D(10), avg_fill_price=D("99.1"), filled_at=T0, at=T0, cooldown_until=T0 + timedelta(seconds=300)
        ),
    ]


def stop_moved(n: int) -> StopMoved:
    return StopMoved(rule=ExitType.TRAILING_STOP, stop=D(n), best_price=D(n + 1), bar_at=T0)


def put(store: ExitStore, stream_id: str, *events: Event, after: int = 0) -> None:
    store.append(stream_id, after, events, at=T0, by="bar")


def check(store: ExitStore) -> None:
    """What must be true of every store at any time."""
    assert store.verify_chain() is None
    assert store.verify_read_models() == []
    assert store.chain_head()[0] == store.count()


def mark(position_id: str = "p1", price: str = "101.5", symbol: str = "AAPL") -> Mark:
    return Mark(symbol=symbol, position_id=position_id, price=D(price), pnl_pct=D(1), best_price=D(102), at=T0)


# ---- engines


class Engine:
    """An engine, and one store on it.

    Attributes:
        url: what `ExitStore` is given.
        words: how the engine spells what `tamper` and `raw` need: `place`, a text as bytes (`b0`, `b1` around it),
            bytes as text (`t0`, `t1`), and 32 bytes of zero (`zeros`).
        typed: its columns hold values of their type only.
    """

    url: str
    words: dict[str, str]
    typed = False

    def __init__(self) -> None:
        self._opened: list[ExitStore] = []

    def open(self, *, read_only: bool = False) -> ExitStore:
        """The store, open; it is closed at the end of the test, if not before."""
        store = ExitStore(self.url, read_only=read_only)
        self._opened.append(store)
        return store

    def close(self) -> None:
        """Close what was opened."""
        for store in self._opened:
            store.close()

    def tamper(self, *statements: str) -> None:
        """Change what is stored, behind the back of whoever has it open."""
        raise NotImplementedError

    def raw(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query finds in the store, by the driver alone."""
        raise NotImplementedError

    def driver_error(self) -> Exception:
        """An error of the driver that is no fault of one append."""
        raise NotImplementedError

    def holder(self, pid: int) -> str:
        """A pattern for how a message names the process that writes the store."""
        raise NotImplementedError

    @contextmanager
    def commits(self, store: ExitStore, instead: Callable[[Callable[[], None]], None]) -> Iterator[None]:
        """In the block, each commit of `store` calls `instead` with the real one."""
        db: Database = store._open_db()
        real = db.commit
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(db, "commit", lambda: instead(real))
            yield


class Memory(Engine):
    """SQLite in memory: the store ends with its object."""

    url = ":memory:"
    words: dict[str, str] = {  # noqa: RUF012  constant
        "place": "rowid", "t0": "CAST(", "t1": " AS TEXT)", "b0": "CAST(", "b1": " AS BLOB)", "zeros": "zeroblob(32)",
    }  # fmt: skip

    def tamper(self, *statements: str) -> None:
        for sql in statements:
            self._opened[-1]._rows(sql.format(**self.words))

    def raw(self, sql: str) -> list[tuple[Any, ...]]:
        return self._opened[-1]._rows(sql.format(**self.words))

    def driver_error(self) -> Exception:
        return sqlite3.OperationalError("disk I/O error")


class File(Memory):
    """SQLite on a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.url = str(path)

    def tamper(self, *statements: str) -> None:
        with contextlib.closing(sqlite3.connect(self.url)) as db, db:
            for sql in statements:
                db.execute(sql.format(**self.words))

    def raw(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.url)) as db:
            return db.execute(sql.format(**self.words)).fetchall()

    def holder(self, pid: int) -> str:
        return "this very process" if pid == os.getpid() else f"process {pid}"


class Postgres(Engine):
    """A schema of its own on a PostgreSQL server."""

    typed = True
    words: dict[str, str] = {  # noqa: RUF012  constant
        "place": "notification_id",
        "t0": "convert_from(",
        "t1": ", 'UTF8')",
        "b0": "convert_to(",
        "b1": ", 'UTF8')",
        "zeros": "decode(repeat('00', 32), 'hex')",
    }
    _numbers = count()

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server, self.schema = server, f"test_{next(self._numbers)}"
        self.url = f"{server.url}?exitfsm_schema={self.schema}"

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.server.url, options=f"-c search_path={self.schema}")

    def tamper(self, *statements: str) -> None:
        with self._connect() as db:
            for sql in statements:
                db.execute(sql.format(**self.words))

    def raw(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connect() as db:
            return [tuple(row) for row in db.execute(sql.format(**self.words)).fetchall()]

    def driver_error(self) -> Exception:
        import psycopg

        return psycopg.errors.DiskFull("could not extend file")

    def holder(self, pid: int) -> str:
        return rf"process {pid} on \S+ \(session \d+ from \S+\)"


def made(kind: str, folder: Path, request: pytest.FixtureRequest) -> Engine:
    """An engine of a kind, with nothing on it yet."""
    if kind == "memory":
        return Memory()
    return File(folder / "exits.db") if kind == "file" else Postgres(request.getfixturevalue("postgres_server"))
