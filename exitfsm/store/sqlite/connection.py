"""The connection to a file, set up so that a commit is durable; the library's recorder on it; what its errors mean.

Rules of this room: nothing here knows where the file lies or whose it is.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteCursor,
    SQLiteFactory,
)

from exitfsm.errors import StoreError
from exitfsm.store.database import Params
from exitfsm.store.sqlite.layout import DDL, TABLES

#: Bytes in a row, a text or a blob, written or read; an event is some hundreds.
ROW_MAX = 1 << 20
#: Pages in the WAL at which a commit itself must put them into the main file, because nobody settled the store.
_PAGES_MAX = 4000
#: Pages kept in memory, at most: a thousand exits in one commit, with all indexes that they touch, fit in.
_CACHE_KB = 8000

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full and nothing was stored: free space, then try again",
    sqlite3.SQLITE_IOERR: "the disk failed; whether it was stored is not known: check the disk, then read the stream",
    sqlite3.SQLITE_READONLY: "it cannot be written: check the permissions, or open it with read_only=True",
    sqlite3.SQLITE_CANTOPEN: "check the path and its permissions",
    sqlite3.SQLITE_BUSY: "another program holds the file, and nothing was stored: close that program",
    sqlite3.SQLITE_LOCKED: "another program holds the file, and nothing was stored: close that program",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop, keep a copy of it and of its -wal, and restore a backup",
    sqlite3.SQLITE_NOTADB: "it is not an exitfsm store: give another path",
    sqlite3.SQLITE_TOOBIG: f"an event is longer than {ROW_MAX} bytes, which none of ours is",
    sqlite3.SQLITE_CONSTRAINT: "this contradicts what is stored already, and was not stored",
}


class Connection(SQLiteConnection):
    """A connection that takes the write lock first and leaves no transaction behind, whatever COMMIT says."""

    def __init__(self, sqlite_conn: sqlite3.Connection) -> None:
        super().__init__(sqlite_conn, max_age=None)
        self._cursor = self.cursor()
        self._bare = self.bare_cursor()

    def begin(self, *, write: bool) -> None:
        """Begins a transaction, which `commit` or `give_up` ends."""
        if self._sqlite_conn.in_transaction:  # an earlier rollback failed too
            self._sqlite_conn.rollback()
        # Deferred, a transaction that reads before it writes fails at once when another writer got in between.
        self._bare.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    def commit(self) -> None:
        """Ends the transaction; durable when this returns."""
        self._bare.execute("COMMIT")  # the connection's own method has SQLite parse the word each time

    def bare_cursor(self) -> sqlite3.Cursor:
        """A cursor whose rows are tuples: the library's rows know their columns' names, and take twice the time."""
        cursor = self._sqlite_conn.cursor()
        cursor.row_factory = None
        return cursor

    def rows(self, sql: str, params: Params) -> list[Params]:
        """All rows of a query."""
        return self._bare.execute(sql, params).fetchall()

    def checkpoint(self) -> bool:
        """Puts what is in the WAL into the main file, where no reader needs it as it is; True when that was all."""
        # All rows are fetched: SQLite does not let go of the file while a cursor has rows left.
        busy, frames, moved = self.rows("PRAGMA wal_checkpoint(PASSIVE)", ())[0]
        return not busy and bool(frames == moved)

    def executemany(self, sql: str, rows: Sequence[Params]) -> None:
        """Executes a statement for each of the rows."""
        self._bare.executemany(sql, rows)

    def give_up(self) -> None:
        """Undoes the transaction, if SQLite has not done so already."""
        with contextlib.suppress(sqlite3.Error):
            self._sqlite_conn.rollback()

    @contextmanager
    def transaction(self, *, commit: bool) -> Iterator[SQLiteCursor]:
        """A transaction of the block; undone at its end where it is not to be committed."""
        self.begin(write=commit)
        try:
            yield self._cursor
            if commit:
                self.commit()
        except BaseException:
            self.give_up()
            raise
        if not commit:
            self.give_up()


class Pool(SQLiteConnectionPool):
    """A pool of exactly one connection, which the lock of `ExitStore` guards: one writer, one cache of statements."""

    def __init__(self, db_name: str, *, read_only: bool, synced: bool) -> None:
        super().__init__(db_name=db_name, pool_size=1, max_overflow=0)
        self._only: Connection | None = None
        self._read_only, self._synced = read_only, synced

    def _create_connection(self) -> Connection:
        c = sqlite3.connect(
            self.db_name, timeout=5.0, uri=True, check_same_thread=False, isolation_level=None, cached_statements=256
        )
        try:
            c.execute("PRAGMA trusted_schema = OFF")
            c.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, ROW_MAX)
            c.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            # FULL: a commit is on the disk before the order is sent.
            synchronous = "PRAGMA synchronous = FULL" if self._synced else "PRAGMA synchronous = OFF"
            c.execute("PRAGMA query_only = ON" if self._read_only else synchronous)
            c.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_MAX}")
            c.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        except BaseException:
            c.close()
            raise
        c.row_factory = sqlite3.Row
        return Connection(c)

    def get_connection(
        self,
        timeout: float | None = None,  # noqa: ARG002  the signature is the library's
        *,
        is_writer: bool | None = None,  # noqa: ARG002  the same
    ) -> Connection:
        """The one connection."""
        if self._only is None:
            self._only = self._create_connection()
        return self._only

    def put_connection(self, conn: SQLiteConnection) -> None:
        """Keep it."""

    def close(self) -> None:
        """Close it."""
        only, self._only = self._only, None
        if only is not None:
            only.close()


class Recorder(SQLiteApplicationRecorder):
    """The library's recorder. It reads as the library does; what writes is `SQLiteDatabase.insert`."""

    def construct_create_table_statements(self) -> list[str]:
        """All tables and indexes."""
        return [*TABLES, *DDL]

    def _insert_events(
        self,
        c: SQLiteCursor,  # noqa: ARG002  the signature is the library's
        stored_events: Sequence[StoredEvent],  # noqa: ARG002  the same
        **_: Any,
    ) -> Sequence[int]:
        raise StoreError("events are stored by ExitStore alone, with their hashes and read models")


class Factory(SQLiteFactory):
    """Builds the recorder from what it is given here, so that no environment variable can change the store."""

    def __init__(self, db_name: str, *, read_only: bool, synced: bool) -> None:
        super().__init__({"SQLITE_DBNAME": db_name, "ORIGINATOR_ID_TYPE": "text", "CREATE_TABLE": "n"})
        self.datastore.pool = self.pool = Pool(db_name, read_only=read_only, synced=synced)

    def application_recorder(self) -> Recorder:
        """The recorder."""
        return Recorder(datastore=self.datastore)


def code(error: Exception) -> int:
    """SQLite's primary code of an error; 0 where it has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else 0


def advice(error: Exception) -> str:
    """What to do about an error."""
    return _ADVICE.get(code(error), "nothing was stored")


__all__ = ["ROW_MAX", "Connection", "Factory", "Pool", "Recorder", "advice", "code"]
