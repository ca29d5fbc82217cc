"""The store on SQLite: `eventsourcing`'s recorder on one file, made and opened so that nothing is lost or mixed up.

Rules of this room: everything that only SQLite has is here (pragmas, locks, file modes, error codes, creation), behind
the port of `database`, and nothing that another database would have as well.

The file: WAL, `synchronous = FULL`, mode 0600, one writer at a time (an OS lock on `<path>.lock`, held while it is
open). It is made complete beside its place and then moved there, so that a crash leaves a whole store or none. A file
that is not ours is never written to.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteCursor,
    SQLiteFactory,
)

from exitfsm import projections
from exitfsm.errors import StoreDamaged, StoreError, StoreLocked, StoreMissing
from exitfsm.outside import logger
from exitfsm.store.database import FORMAT, ChainRow, EventRow, Params, Write

log = logger("exitfsm")

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows: SQLite's own locks are then the only ones
    _HAS_FLOCK = False
else:
    _HAS_FLOCK = True

#: Marks the file as ours ("ExFS"), where SQLite and `file` look for it.
APPLICATION_ID = 0x45784653
#: Bytes in a row, a text or a blob, written or read; an event is some hundreds.
ROW_MAX = 1 << 20
#: Bytes that the WAL has room for once it is settled: a sync within a file costs less than one that makes it longer.
_ROOM = 4 << 20
#: Bytes in the WAL at which an operator is warned that another program holds it.
_WAL_LARGE = 64 << 20
#: A store with this many commits since it last settled does so again.
_SETTLE_AFTER = 64
#: Pages in the WAL at which a commit itself must put them into the main file, because nobody settled the store.
_PAGES_MAX = 4000
#: Pages kept in memory, at most: a thousand exits in one commit, with all indexes that they touch, fit in.
_CACHE_KB = 8000

#: How SQLite spells the kinds of columns; NUMERIC stores the nearest float, and a whole one as an int.
TYPES: dict[projections.Kind, str] = {
    "text": "TEXT",
    "number": "NUMERIC",
    "integer": "INTEGER",
    "place": "INTEGER PRIMARY KEY AUTOINCREMENT",
}
#: The statements that make the read models.
DDL = projections.ddl(TYPES)
_TABLES = (
    # The library's own table, with its implicit row id spelled out: the place in the store must survive a VACUUM.
    """CREATE TABLE stored_events (
    rowid INTEGER PRIMARY KEY,
    originator_id TEXT NOT NULL,
    originator_version INTEGER NOT NULL,
    topic TEXT NOT NULL,
    state BLOB NOT NULL,
    UNIQUE (originator_id, originator_version))""",
    "CREATE TABLE chain (sequence INTEGER PRIMARY KEY, hash BLOB NOT NULL)",
    "CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",
)

# Text is read as bytes: where somebody was at it, it may be no text any more, and reading it must not fail.
_RAW = (
    "SELECT e.rowid, CAST(e.originator_id AS BLOB), e.originator_version, CAST(e.topic AS BLOB), "
    "CAST(e.state AS BLOB), CAST(c.hash AS BLOB), typeof(e.originator_id) || ' ' || typeof(e.originator_version) || "
    "' ' || typeof(e.topic) || ' ' || typeof(e.state) || ' ' || typeof(c.hash) "
    "FROM stored_events e LEFT JOIN chain c ON c.sequence = e.rowid "
)
# The types count here as well, or a row could hide from reads.
_RAW_PAGE = (
    "SELECT rowid, typeof(originator_id) = 'text' AND typeof(topic) = 'text', "
    "CAST(originator_id AS BLOB), originator_version, CAST(topic AS BLOB), state, hash "
    "FROM stored_events JOIN chain ON sequence = rowid WHERE rowid >= ? ORDER BY rowid LIMIT ?"
)
#: What the program that docs/how-to/keep-a-copy.md recommends puts into a file; it holds nothing that is read here.
_OF_LITESTREAM = {
    ("table", "_litestream_seq"): "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)",
    ("table", "_litestream_lock"): "CREATE TABLE _litestream_lock (id INTEGER)",
}
_SCHEMA = "SELECT type, name, sql FROM sqlite_schema WHERE substr(name, 1, 7) <> 'sqlite_'"

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


class _Connection(SQLiteConnection):
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


class _Pool(SQLiteConnectionPool):
    """A pool of exactly one connection, which the lock of `ExitStore` guards: one writer, one cache of statements."""

    def __init__(self, db_name: str, *, read_only: bool, synced: bool) -> None:
        super().__init__(db_name=db_name, pool_size=1, max_overflow=0)
        self._only: _Connection | None = None
        self._read_only, self._synced = read_only, synced

    def _create_connection(self) -> _Connection:
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
        return _Connection(c)

    def get_connection(
        self,
        timeout: float | None = None,  # noqa: ARG002  the signature is the library's
        *,
        is_writer: bool | None = None,  # noqa: ARG002  the same
    ) -> _Connection:
        if self._only is None:
            self._only = self._create_connection()
        return self._only

    def put_connection(self, conn: SQLiteConnection) -> None:
        pass

    def close(self) -> None:
        only, self._only = self._only, None
        if only is not None:
            only.close()


class Recorder(SQLiteApplicationRecorder):
    """The library's recorder. It reads as the library does; what writes is `SQLiteDatabase.insert`."""

    def construct_create_table_statements(self) -> list[str]:
        """All tables and indexes."""
        return [*_TABLES, *DDL]

    def _insert_events(
        self,
        c: SQLiteCursor,  # noqa: ARG002  the signature is the library's
        stored_events: Sequence[StoredEvent],  # noqa: ARG002  the same
        **_: Any,
    ) -> Sequence[int]:
        raise StoreError("events are stored by ExitStore alone, with their hashes and read models")


class _Factory(SQLiteFactory):
    """Builds the recorder from what it is given here, so that no environment variable can change the store."""

    def __init__(self, db_name: str, *, read_only: bool, synced: bool) -> None:
        super().__init__({"SQLITE_DBNAME": db_name, "ORIGINATOR_ID_TYPE": "text", "CREATE_TABLE": "n"})
        self.datastore.pool = self.pool = _Pool(db_name, read_only=read_only, synced=synced)

    def application_recorder(self) -> Recorder:
        return Recorder(datastore=self.datastore)


class SQLiteDatabase:
    """One SQLite file, or memory. Not thread safe: `ExitStore` holds a lock around every use.

    Args:
        path: absolute path of the file, made when there is none; None for memory.
        read_only: only read, without the writer's lock.
        synced: commits wait for the disk; False for a file that is thrown away in a moment.

    Raises:
        StoreLocked: another process writes it.
        StoreError: it cannot be used; the text says why and what to do.
    """

    recorder: Recorder
    errors: tuple[type[Exception], ...] = (sqlite3.Error,)
    place = "rowid"
    raw = _RAW
    raw_page = _RAW_PAGE

    def __init__(self, path: Path | None, *, read_only: bool, synced: bool = True) -> None:
        self.path, self.read_only, self._synced = path, read_only, synced
        self.where = "the store in memory" if path is None else str(path)
        self._name = None if path is None else str(path)
        self._pid = os.getpid()
        self._lock_fd: int | None = None
        self._lock_name, self._lock_inode = "", (0, 0)
        self._factory: _Factory | None = None
        self._inode: tuple[int, int] | None = None
        self._unsettled = _SETTLE_AFTER
        self._wal_warned_at = _WAL_LARGE
        self._in_snapshot = False
        try:
            if path is None:
                self._connect(":memory:")
                self._create()
            else:
                self._open(path)
        except (sqlite3.Error, OSError) as e:
            self.close()
            raise self.failure(e) from e
        except BaseException:
            self.close()
            raise

    # ---- using

    def begin(self) -> None:
        """Begins a transaction that writes; `commit` or `give_up` ends it."""
        if self._name is not None and self._inode != _inode(self._name):
            raise StoreError(f"{self.path} was moved, replaced or deleted while in use: stop, and put it back")
        if self._lock_fd is not None and self._lock_inode != _inode(self._lock_name):
            self._lock_again()
        self._connection.begin(write=True)

    def insert(self, events: Sequence[EventRow], chain: Sequence[ChainRow], writes: Iterable[Write]) -> None:
        """Stores events, the hash of each, and the read-model rows of all."""
        executemany = self._connection.executemany
        if events:
            executemany("INSERT INTO stored_events VALUES (?, ?, ?, ?, ?)", events)
            executemany("INSERT INTO chain VALUES (?, ?)", chain)
        for sql, params in writes:
            executemany(sql, params)

    def remake(self) -> None:
        """Drops the read models and makes them again, empty, in the transaction that has begun."""
        for statement in (*(f"DROP TABLE {table}" for table in projections.TABLES), *DDL):
            self._connection.executemany(statement, [()])

    def commit(self) -> None:
        """Makes the transaction durable. When this fails, `give_up` must follow."""
        self._connection.commit()
        self._unsettled += 1

    def settle(self) -> None:
        """While nothing is urgent: what the WAL has grown by goes into the main file, and the next commits find room.

        Otherwise a commit has to do it, sooner or later, and that may be the one that an exit order waits for.
        """
        if self.path is None or self._unsettled < _SETTLE_AFTER:
            return
        self._unsettled = 0
        wal = self.path.with_name(self.path.name + "-wal")
        if not self._connection.checkpoint():  # somebody reads from it, as who copies the store away does: it is theirs
            self._watch(wal)
            return
        with self.transaction():  # the WAL begins anew with it, which takes a sync more than another commit
            self._connection.executemany("UPDATE meta SET value = value WHERE key = 'format'", [()])
        _make_room(wal)

    def _watch(self, wal: Path) -> None:
        """Warns of a WAL that another program keeps from being put away, each time that it has doubled."""
        with contextlib.suppress(OSError):
            size = wal.stat().st_size
            if size >= self._wal_warned_at:
                self._wal_warned_at = 2 * size
                log.warning(
                    "wal_grows store=%s megabytes=%s text=another program reads from it and keeps it from being put "
                    "away: a copy that fell behind, or a reader that hangs",
                    *(self.path, size >> 20),
                )

    def give_up(self) -> None:
        """Undoes the transaction."""
        self._connection.give_up()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that commits when the block ends well and leaves nothing when it does not."""
        self.begin()
        try:
            yield
            self.commit()
        except BaseException:
            self.give_up()
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Inside the block every read sees one state, whoever writes meanwhile; one within one is the same."""
        if self._in_snapshot:
            yield
            return
        with self._connection.transaction(commit=False):
            self._in_snapshot = True
            try:
                yield
            finally:
                self._in_snapshot = False

    def rows(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self._connection.rows(sql, params)

    def each(self, sql: str, params: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, read as they are asked for."""
        for row in self._connection.bare_cursor().execute(sql, params):  # noqa: UP028  yield from would close the cursor
            yield row  # even after the database

    def damage(self) -> Iterator[str]:
        """What is wrong with the file and its tables apart from what stands in them, one line each."""
        for (line,) in self.each("PRAGMA integrity_check"):
            if line != "ok":
                yield f"the file is damaged: {line}"
        found = {(kind, name): sql for kind, name, sql in self.rows(_SCHEMA)}
        fresh = SQLiteDatabase(None, read_only=False)
        wanted = {(kind, name): sql for kind, name, sql in fresh.rows(_SCHEMA)}
        wanted |= {key: sql for key, sql in _OF_LITESTREAM.items() if key in found}
        fresh.close()
        for kind, name in sorted(found.keys() | wanted.keys()):
            have, want = found.get((kind, name)), wanted.get((kind, name))
            if have != want:
                how = "is missing" if have is None else "does not belong there" if want is None else "was changed"
                yield f"the {kind} {name} {how}"

    def failure(self, error: Exception) -> StoreError:
        """What `error` means and what to do about it."""
        if isinstance(error, OSError):
            return StoreError(
                f"cannot open {self.where}: {error.strerror or error}: check the path and its permissions"
            )
        kind = StoreDamaged if self.is_damage(error) else StoreError
        return kind(f"{self.where}: {error}: {_ADVICE.get(_code(error), 'nothing was stored')}")

    def is_conflict(self, error: Exception) -> bool:
        """True when what was written contradicts what is stored."""
        return isinstance(error, sqlite3.IntegrityError)

    def is_whole(self, error: Exception) -> bool:
        """True for a failure of the file (full, read-only, busy, damaged), which is not the fault of one append."""
        return isinstance(error, sqlite3.Error) and not isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError))

    def is_damage(self, error: Exception) -> bool:
        """True when the file is damaged; False when it is no store, or out of reach."""
        return _code(error) == sqlite3.SQLITE_CORRUPT

    def close(self) -> None:
        """Closes the file and frees the lock; may be called twice. After a fork it is the parent's, and left alone."""
        if getattr(self, "_pid", None) != os.getpid():
            return
        if self._factory is not None and self.path is not None and not self.read_only:
            with contextlib.suppress(sqlite3.Error):  # what is committed is safe in the WAL as well
                self._connection.checkpoint()
        self._disconnect()
        self._unlock()

    def abandon(self) -> None:
        """Let go of it as a process does that is killed: the transaction is gone, and another writer may have it."""
        self.give_up()
        self._unlock()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()

    # ---- opening

    def _connect(self, db_name: str) -> None:
        factory = _Factory(db_name, read_only=self.read_only, synced=self._synced)
        self.recorder = factory.application_recorder()
        self._connection = factory.pool.get_connection()
        self._factory = factory  # only now is there something to close

    def _disconnect(self) -> None:
        factory, self._factory = self._factory, None
        if factory is not None:
            factory.datastore.close()

    def _open(self, path: Path) -> None:
        if not path.parent.is_dir():
            raise StoreError(f"there is no directory {path.parent}: make it first, or give another path")
        if not self.read_only:
            self._lock(path)
        if not self._inspect(path):
            if self.read_only:
                raise StoreMissing(f"there is no store at {path}: check the path, or open it for writing to make one")
            self._make(path)
        if not self.read_only:
            self._close_to_others(path)
        self._inode = _inode(str(path))
        if self.read_only:
            self._connect_to_read(path)
        else:
            self._connect(f"{path.as_uri()}?mode=rw")
        self._check_identity()
        if not self.read_only:
            with self.transaction():  # what cannot be written shows now, not at an exit
                self._connection.executemany("DELETE FROM meta WHERE key IS NULL", [()])
                self._check_whole()

    def _inspect(self, path: Path) -> bool:
        """False when there is nothing at `path` yet. Touches nothing.

        The header is read through SQLite and not with `open`: closing a second descriptor of the file would drop the
        locks that another connection of this process holds on it.
        """
        info = _own_file(path)
        for suffix in ("-wal", "-shm", "-journal"):
            _own_file(path.with_name(path.name + suffix))
        if info is None:
            return False
        if info.st_nlink != 1 and not self.read_only:
            raise StoreError(f"{path} has {info.st_nlink} hard links, which SQLite cannot protect: remove the others")
        if info.st_size == 0:
            return False
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as c:
            try:
                application_id = c.execute("PRAGMA application_id").fetchone()[0]
            except sqlite3.DatabaseError as e:
                if e.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                    return True  # opened for real it will say what is wrong with it
                application_id = None
        if application_id != APPLICATION_ID:
            raise StoreError(f"{path} is not an exitfsm store: give another path; the file was not touched")
        return True

    def _close_to_others(self, path: Path) -> None:
        """Takes the rights of group and others away; refuses what cannot be written."""
        mode = stat.S_IMODE(path.stat().st_mode) & 0o700
        for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            with contextlib.suppress(FileNotFoundError):
                file.chmod(mode)  # the others as well: a reader may have made them while the store was write protected
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StoreError(f"{path} cannot be written: check the permissions, or open it with read_only=True")

    def _connect_to_read(self, path: Path) -> None:
        """Connects to a store that a writer may be using; where none can be, to the bare file."""
        try:
            self._connect(f"{path.as_uri()}?mode=ro")
            self.rows("SELECT 1 FROM meta")
        except sqlite3.OperationalError:
            # WAL wants to make its -shm, even to read. Without a -wal the file alone is the whole store.
            if path.with_name(path.name + "-wal").exists():
                raise
            self._disconnect()
            self._connect(f"{path.as_uri()}?mode=ro&immutable=1")

    def _check_identity(self) -> None:
        sql = "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
        application_id, version = self.rows(sql)[0]
        if application_id != APPLICATION_ID:
            raise StoreError(f"{self.path} is not an exitfsm store: give another path")
        if version > FORMAT:
            raise StoreError(
                f"{self.path} was written by a newer version of exitfsm (format {version}, this one knows {FORMAT}): "
                "upgrade exitfsm"
            )

    def _check_whole(self) -> None:
        events, chain = self.rows("SELECT (SELECT MAX(rowid) FROM stored_events), (SELECT MAX(sequence) FROM chain)")[0]
        if events != chain:
            raise StoreError(
                f"{self.path} was changed by other hands: its events end at {events or 0}, its chain at {chain or 0}: "
                "keep a copy, restore a backup, and see verify_chain() with read_only=True"
            )

    # ---- making

    def _make(self, path: Path) -> None:
        """Makes the store beside its place and moves it there complete: a crash leaves a whole store or none."""
        for suffix in ("-wal", "-journal"):
            remains = path.with_name(path.name + suffix)
            if remains.exists():
                raise StoreError(
                    f"{remains} lies where the store {path} is missing: it may hold the newest events of a lost store; "
                    "put that store back, or move this file away"
                )
        new = path.with_name(path.name + ".new")
        for suffix in ("", "-wal", "-journal", "-shm"):
            new.with_name(new.name + suffix).unlink(missing_ok=True)  # of a crash in this very place
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600))
        try:
            self._connect(f"{new.as_uri()}?mode=rw")
            self._create()
            self.rows("PRAGMA journal_mode = WAL")
            self._disconnect()
            new.replace(path)
        except BaseException:
            self._disconnect()
            new.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)

    def _create(self) -> None:
        with self._connection.transaction(commit=True) as c:
            for statement in self.recorder.construct_create_table_statements():
                c.execute(statement)
            c.execute("INSERT INTO meta VALUES ('created_by', 'exitfsm'), ('format', ?)", (str(FORMAT),))
            c.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            c.execute(f"PRAGMA user_version = {FORMAT}")

    def _lock_again(self) -> None:
        """The lock's file was removed: take a new one, unless another writer was faster.

        Raises:
            StoreLocked: one was; nothing more is written here.
        """
        assert self.path is not None
        log.warning("lock_removed store=%s text=somebody removed the file of the writer's lock", self.path)
        old = self._lock_fd
        try:
            self._lock(self.path)
        except StoreError as e:
            raise StoreLocked(
                f"the lock of {self.path} was removed while in use, and another writer has it now: stop one of the two"
            ) from e
        if old is not None:
            os.close(old)

    def _unlock(self) -> None:
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            os.close(fd)

    def _lock(self, path: Path) -> None:
        """Takes the lock of the one writer, beside the store, for as long as this object is open."""
        if not _HAS_FLOCK:  # pragma: no cover
            return
        lock = path.with_name(path.name + ".lock")
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            raise StoreError(
                f"cannot make {lock}: {e.strerror}: check the path and its permissions, or open with read_only=True"
            ) from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            whose = "this very process" if holder == str(os.getpid()) else f"process {holder}"
            raise StoreLocked(
                f"{path} is being written by {whose}: stop that one first, or open the store with read_only=True"
            ) from e
        self._lock_fd, self._lock_name = fd, str(lock)
        info = os.fstat(fd)
        self._lock_inode = info.st_dev, info.st_ino
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)


def _code(error: Exception) -> int:
    """SQLite's primary code of an error; 0 where it has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else 0


def _inode(path: str) -> tuple[int, int] | None:
    """What file lies at `path` now; None when none does."""
    try:
        info = os.stat(path)  # noqa: PTH116  at each commit: a path object takes twice as long
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino


def _own_file(path: Path) -> os.stat_result | None:
    """What lies at `path`, which must be a plain file of this user; None when nothing does.

    Raises:
        StoreError: it is something else; nothing was done to it.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(info.st_mode):
        raise StoreError(f"{path} is a symbolic link: give the path of the store itself")
    if not stat.S_ISREG(info.st_mode):
        raise StoreError(f"{path} is no file: give the path of a store, or of a file that does not exist yet")
    if hasattr(os, "geteuid") and info.st_uid != os.geteuid():
        raise StoreError(f"{path} belongs to another user (uid {info.st_uid}): open it as that user, or copy it")
    return info


def _make_room(wal: Path) -> None:
    """Writes zeros behind the end of a WAL that is short: no frame, and no more to SQLite than what a crash may leave.

    SQLite holds no locks on this file, so that closing it here drops none.
    """
    with contextlib.suppress(OSError):  # it does without
        fd = os.open(wal, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            end = os.fstat(fd).st_size
            if 0 < end < _ROOM:
                os.pwrite(fd, bytes(_ROOM - end), end)
                os.fsync(fd)
        finally:
            os.close(fd)


def _sync_directory(directory: Path) -> None:
    """Makes a rename in `directory` durable, where the platform can."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
