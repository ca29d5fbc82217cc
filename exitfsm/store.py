"""The event store: what was decided, durable before anything is sent, and readable back.

Rules of this room: this is the only module that touches `eventsourcing` or a database. An append either stores all its
events, their read-model rows and their hashes in one transaction, or nothing. Nothing here knows a clock, decides
anything, or checks the lifecycle: it stores what `position.decide` returned and refuses a writer that did not know the
newest event of the stream. Every failure is a `StoreError` that says what to do.

`ExitStore` is the whole interface. `_SQLite` holds everything that is particular to SQLite; another database is another
class with the same five methods, under the same mapper, projections and hash chain.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import stat
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import msgspec
from eventsourcing.persistence import JSONTranscoder, Mapper, StoredEvent
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteCursor,
    SQLiteFactory,
)

from exitfsm import projections
from exitfsm.errors import StoreError, StoreLocked, VersionConflict
from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS, UPCASTS, Event, Recorded, tag_of
from exitfsm.projections import AlarmRow, ExitOrderRow, Mark, PositionRow, TrackingRow
from exitfsm.values import ExitStatus, stamp, utc

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows: SQLite's own locks are then the only ones
    fcntl = None  # type: ignore[assignment]  # the module is missing there, and every use asks first

#: Marks the file as ours ("ExFS"), where `file` and SQLite's tools look for it.
APPLICATION_ID = 0x45784653
#: Version of the file format: the tables, the envelope, the chain. A newer one is refused.
FORMAT = 1
#: Hash before the first event.
GENESIS = bytes(32)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE = 1000
_Row = TypeVar("_Row", bound=msgspec.Struct)
_Body = TypeVar("_Body")


class Append(NamedTuple):
    """One append of a group: the arguments of `ExitStore.append`."""

    stream_id: str
    expected_version: int
    events: Sequence[Event]
    at: datetime
    by: str


# ------------------------------------------------------------------------------------------------- events <-> bytes


class _Envelope(msgspec.Struct, Generic[_Body], frozen=True, gc=False):
    """What is stored of an event beside its stream, its version and its topic."""

    at: int
    by: str
    body: _Body


class _Tag(msgspec.Struct):
    event: str


class _EventMapper(Mapper[Any]):
    """`Recorded` events <-> stored bytes: readable JSON under readable topics (`exit_triggered.v1`)."""

    def __init__(self) -> None:
        super().__init__(transcoder=JSONTranscoder())  # never used: the bytes are ours
        self._encode = msgspec.json.Encoder().encode
        self._topics: dict[type[Event], str] = {cls: tag_of(cls) for cls in (*POSITION_EVENTS, *ACCOUNT_EVENTS)}
        self._decoders: dict[str, Callable[[bytes], _Envelope[Event]]] = {
            topic: msgspec.json.Decoder(_Envelope[cls]).decode  # type: ignore[valid-type]  # made from the table of events
            for cls, topic in self._topics.items()
        }

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        recorded: Recorded = domain_event
        topic = self._topics.get(type(recorded.event))
        if topic is None:
            raise StoreError(f"{type(recorded.event).__name__} is no event that could be read back; nothing was stored")
        try:
            state = self._encode(_Envelope(recorded.at_ns, recorded.by, recorded.event))
        except (TypeError, ValueError) as e:
            raise StoreError(f"{topic} of {recorded.stream_id!r} cannot be written as JSON: {e}") from e
        return StoredEvent(recorded.stream_id, recorded.version, topic, state)

    def to_domain_event(self, stored_event: StoredEvent, sequence: int = 0) -> Recorded:
        topic = stored_event.topic
        try:
            decode = self._decoders.get(topic) or self._old_version(topic)
            envelope = decode(stored_event.state)
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            raise StoreError(
                f"event {sequence} ({topic}, version {stored_event.originator_version} of "
                f"{stored_event.originator_id!r}) cannot be read: {e}; check the store with verify_chain()"
            ) from e
        return Recorded(
            stream_id=str(stored_event.originator_id),
            version=stored_event.originator_version,
            at_ns=envelope.at,
            by=envelope.by,
            event=envelope.body,
            sequence=sequence,
        )

    def _old_version(self, topic: str) -> Callable[[bytes], _Envelope[Event]]:
        """A reader for an event that was stored under an older version of its name."""
        upcast = UPCASTS.get(topic)
        name = topic.rpartition(".")[0]
        current = next((t for t in self._decoders if t.rpartition(".")[0] == name), None)
        if upcast is None or current is None:
            raise StoreError(f"the store holds {topic!r}, written by a newer version of exitfsm: upgrade exitfsm")
        decode_current, decode_raw = self._decoders[current], msgspec.json.Decoder(_Envelope[dict[str, Any]]).decode

        def decode(state: bytes) -> _Envelope[Event]:
            raw = decode_raw(state)
            fields = upcast({key: value for key, value in raw.body.items() if key != "event"})
            return decode_current(self._encode(_Envelope(raw.at, raw.by, {**fields, "event": current})))

        return decode


def chain_hash(previous: bytes, sequence: int, stored: StoredEvent) -> bytes:
    """The hash of the store up to and with this event: over the stored bytes, each part with its length before it."""
    stream, topic = str(stored.originator_id).encode(), stored.topic.encode()
    digest = hashlib.sha256(previous)
    digest.update(struct.pack(">QIQII", sequence, len(stream), stored.originator_version, len(topic), len(stored.state)))
    digest.update(stream + topic + stored.state)
    return digest.digest()


# ------------------------------------------------------------------------------------------- eventsourcing on SQLite

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


class _Connection(SQLiteConnection):
    """A connection that takes the write lock first and leaves no transaction behind, whatever COMMIT says."""

    @contextmanager
    def transaction(self, *, commit: bool) -> Iterator[SQLiteCursor]:
        connection, cursor = self._sqlite_conn, self.cursor()
        if connection.in_transaction:  # an earlier rollback failed too
            connection.rollback()
        # Deferred, a transaction that reads before it writes fails at once when another writer got in between.
        cursor.execute("BEGIN IMMEDIATE" if commit else "BEGIN")
        try:
            yield cursor
            if commit:
                connection.commit()
            else:
                connection.rollback()
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.rollback()
            raise


class _Pool(SQLiteConnectionPool):
    """A pool of exactly one connection, which the lock of `ExitStore` guards: one writer, one cache of statements."""

    def __init__(self, db_name: str, *, read_only: bool) -> None:
        super().__init__(db_name=db_name, pool_size=1, max_overflow=0)
        self._only: _Connection | None = None
        self._read_only = read_only

    def _create_connection(self) -> _Connection:
        c = sqlite3.connect(
            self.db_name, timeout=5.0, uri=True, check_same_thread=False, isolation_level=None, cached_statements=256
        )
        try:
            c.execute("PRAGMA trusted_schema = OFF")
            if self._read_only:
                c.execute("PRAGMA query_only = ON")
            else:
                c.execute("PRAGMA synchronous = FULL")  # a commit is on the disk before the order is sent
        except BaseException:
            c.close()
            raise
        c.row_factory = sqlite3.Row
        return _Connection(sqlite_conn=c, max_age=None)

    def get_connection(self, timeout: float | None = None, *, is_writer: bool | None = None) -> _Connection:
        if self._only is None:
            self._only = self._create_connection()
        return self._only

    def put_connection(self, conn: SQLiteConnection) -> None:
        pass

    def close(self) -> None:
        only, self._only = self._only, None
        if only is not None:
            only.close()


class _Recorder(SQLiteApplicationRecorder):
    """The library's recorder; the read models and the hash chain are written in the transaction of the events."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.insert_events_statement = (
            "INSERT INTO stored_events (originator_id, originator_version, topic, state) VALUES (?, ?, ?, ?)"
        )

    def construct_create_table_statements(self) -> list[str]:
        return [*_TABLES, *projections.DDL]

    def _insert_events(
        self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], recorded: Sequence[Recorded] = (), **_: Any
    ) -> Sequence[int]:
        c.execute("SELECT sequence, hash FROM chain ORDER BY sequence DESC LIMIT 1")
        sequence, head = c.fetchone() or (0, GENESIS)
        ids = super()._insert_events(c, stored_events)
        if ids is None or list(ids) != list(range(sequence + 1, sequence + 1 + len(stored_events))):
            raise StoreError(f"the events and the hash chain disagree after event {sequence}: see verify_chain()")
        for at, stored in zip(ids, stored_events, strict=True):
            head = chain_hash(head, at, stored)
            c.execute("INSERT INTO chain VALUES (?, ?)", (at, head))
        for each in recorded:
            for sql, params in projections.statements(each):
                c.execute(sql, params)
        return ids


class _Factory(SQLiteFactory):
    """Builds the recorder from what it is given, so that no environment variable can change the store."""

    application_recorder_class = _Recorder

    def __init__(self, db_name: str, *, read_only: bool) -> None:
        super().__init__({"SQLITE_DBNAME": db_name, "ORIGINATOR_ID_TYPE": "text", "CREATE_TABLE": "n"})
        self.datastore.pool = _Pool(db_name, read_only=read_only)

    def application_recorder(self) -> _Recorder:
        return _Recorder(datastore=self.datastore)


class _SQLite:
    """One SQLite file (or memory): creation, safety checks, the lock of the one writer, errors in plain words."""

    placeholder = "?"

    def __init__(self, path: Path | None, *, read_only: bool) -> None:
        self.path, self.read_only = path, read_only
        self._lock_fd: int | None = None
        self._factory: _Factory | None = None
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

    # ---- opening

    def _connect(self, db_name: str) -> None:
        self._factory = _Factory(db_name, read_only=self.read_only)
        self.recorder = self._factory.application_recorder()
        self.recorder.datastore.pool.get_connection()

    def _open(self, path: Path) -> None:
        if not self.read_only:
            self._lock(path)
        there = self._inspect(path)
        if not there:
            if self.read_only:
                raise StoreError(f"there is no store at {path}: check the path, or open it for writing to make one")
            self._make(path)
        self._connect(f"{path.as_uri()}?mode={'ro' if self.read_only else 'rw'}")
        self._check_identity()
        if not self.read_only:
            path.chmod(0o600)
            with self.transaction():  # a file that cannot be written must show now, not at the first exit
                pass

    def _inspect(self, path: Path) -> bool:
        """False when there is nothing at `path` yet. Touches nothing.

        The header is read through SQLite and not with `open`: closing a second descriptor of the file would drop the
        locks that another connection of this process holds on it.
        """
        try:
            info = path.lstat()
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(info.st_mode):
            raise StoreError(f"{path} is a symbolic link: give the path of the store itself")
        if not stat.S_ISREG(info.st_mode):
            raise StoreError(f"{path} is no file: give the path of a store, or of a file that does not exist yet")
        if hasattr(os, "geteuid") and info.st_uid != os.geteuid():
            raise StoreError(f"{path} belongs to another user (uid {info.st_uid}): open it as that user, or copy it")
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

    def _check_identity(self) -> None:
        c = self.cursor()
        c.execute("PRAGMA application_id")
        application_id = c.fetchone()[0]
        c.execute("PRAGMA user_version")
        version = c.fetchone()[0]
        if application_id != APPLICATION_ID:
            raise StoreError(f"{self.path} is not an exitfsm store: give another path")
        if version > FORMAT:
            raise StoreError(
                f"{self.path} has format {version}, written by a newer version of exitfsm (this one knows {FORMAT}): "
                "upgrade exitfsm"
            )

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
            c = self.cursor()
            c.execute("PRAGMA journal_mode = WAL")
            self._disconnect()
            new.replace(path)
        except BaseException:
            self._disconnect()
            new.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)

    def _create(self) -> None:
        with self.transaction() as c:
            for statement in self.recorder.construct_create_table_statements():
                c.execute(statement)
            c.execute("INSERT INTO meta VALUES ('created_by', 'exitfsm'), ('format', ?)", (str(FORMAT),))
            c.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            c.execute(f"PRAGMA user_version = {FORMAT}")

    def _lock(self, path: Path) -> None:
        """Takes the lock of the one writer, beside the store, for as long as this object is open."""
        if fcntl is None:  # pragma: no cover
            return
        lock = path.with_name(path.name + ".lock")
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            raise StoreError(f"cannot make {lock} ({e.strerror}): a store is written only where its lock can be") from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            whose = "this very process" if holder == str(os.getpid()) else f"process {holder}"
            raise StoreLocked(
                f"{path} is being written by {whose}: stop that one first, or open the store with read_only=True"
            ) from e
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    # ---- using

    @contextmanager
    def transaction(self) -> Iterator[SQLiteCursor]:
        """A transaction that commits when the block ends well and leaves nothing when it does not."""
        with self.recorder.datastore.transaction(commit=True) as c:
            yield c

    @contextmanager
    def snapshot(self) -> Iterator[SQLiteCursor]:
        """A cursor that sees one state of the store, whoever writes meanwhile."""
        with self.recorder.datastore.transaction(commit=False) as c:
            yield c

    def cursor(self) -> SQLiteCursor:
        """A cursor for single statements."""
        return self.recorder.datastore.pool.get_connection().cursor()

    def failure(self, error: Exception) -> StoreError:
        """What `error` means and what to do about it."""
        where = self.path or "the store in memory"
        if isinstance(error, OSError):
            return StoreError(f"cannot open {where}: {error.strerror or error}; check the path and its permissions")
        code = getattr(error, "sqlite_errorcode", None)
        advice = _ADVICE.get(code & 0xFF) if isinstance(code, int) else None
        return StoreError(f"{where}: {error}; {advice or 'nothing was stored'}")

    def _disconnect(self) -> None:
        factory, self._factory = self._factory, None
        if factory is not None:
            factory.datastore.close()

    def close(self) -> None:
        """Puts everything into the main file, closes it and frees the lock; may be called twice."""
        if self._factory is not None and self.path is not None and not self.read_only:
            with contextlib.suppress(sqlite3.Error):  # what is committed is safe in the WAL as well
                self.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._disconnect()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full and nothing was stored: free space, then try again",
    sqlite3.SQLITE_IOERR: "the disk failed; whether it was stored is not known: check the disk, then read the stream",
    sqlite3.SQLITE_READONLY: "it cannot be written: check the permissions, or open it with read_only=True",
    sqlite3.SQLITE_CANTOPEN: "check the path and its permissions",
    sqlite3.SQLITE_BUSY: "another program holds the file: close it; nothing was stored",
    sqlite3.SQLITE_LOCKED: "another program holds the file: close it; nothing was stored",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: stop, keep a copy of it and its -wal, and restore a backup",
    sqlite3.SQLITE_NOTADB: "it is not an exitfsm store: give another path",
    sqlite3.SQLITE_CONSTRAINT: "the event contradicts one that is stored already; nothing was stored",
}


def _sync_directory(directory: Path) -> None:
    """Makes a rename in `directory` durable, where the platform can."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# --------------------------------------------------------------------------------------------------- the interface


class ExitStore:
    """The events of all positions of one account, with their read models.

    One process writes a store; any number may read it meanwhile with `read_only=True`. An object may be used from any
    thread, one call at a time (it has a lock of its own). Use it as a context manager, or call `close`.

    Args:
        url: path of the file (made where there is none), or `":memory:"`.
        read_only: only read; takes no lock.

    Raises:
        StoreLocked: another process writes this store.
        StoreError: the file is not a store, newer than this library, somebody else's, or cannot be opened.
    """

    def __init__(self, url: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self._lock = threading.RLock()
        self._bulk: _Bulk | None = None
        self._mapper = _EventMapper()
        self._pid = os.getpid()
        self._db: _SQLite | None = _SQLite(_path_of(url), read_only=read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the store and frees it for another writer. May be called twice."""
        with self._lock:
            db, self._db = self._db, None
            if db is not None and self._pid == os.getpid():
                db.close()

    # ---- writing

    def append(
        self, stream_id: str, expected_version: int, events: Sequence[Event], *, at: datetime, by: str
    ) -> list[Recorded]:
        """Stores `events` at the end of a stream, durably, all or none.

        Args:
            stream_id: the position's id, or `account:…`.
            expected_version: how many events the writer knows to be in the stream already; 0 for a new one.
            events: what happened, in order.
            at: when the message that caused it happened.
            by: who told: `bar`, `broker`, `timer`, `operator`, `reconcile`, `bot`.

        Returns:
            The events as recorded. When this returns they survive a crash of the machine (inside `bulk` only of the
            block).

        Raises:
            VersionConflict: the stream is not at `expected_version`. Nothing was stored: reload and decide again.
            StoreError: it could not be stored. Nothing was, except where the text says that it is not known: then
                read the stream before doing anything else.
        """
        result = self.append_many([Append(stream_id, expected_version, events, at, by)])[0]
        if isinstance(result, StoreError):
            raise result
        return result

    def append_many(self, batches: Iterable[Append]) -> list[list[Recorded] | StoreError]:
        """Stores several appends in one durable commit; a bad one fails alone.

        Returns:
            For each batch, in order, its events as recorded, or the error that kept this one out (`VersionConflict`
            where its stream had moved on).

        Raises:
            StoreError: the commit failed, as in `append`: no batch was stored.
        """
        prepared = [(batch, self._prepare(batch)) for batch in batches]
        if not any(batch.events for batch, _ in prepared):
            return [[] for _ in prepared]
        with self._writing() as c:
            results = [p if isinstance(p, StoreError) else self._append(c, batch, p) for batch, p in prepared]
        if self._bulk is not None:
            self._bulk.count(sum(len(r) for r in results if not isinstance(r, StoreError)))
        return results

    def _prepare(self, batch: Append) -> list[tuple[Recorded, StoredEvent]] | StoreError:
        """The events of one append and their bytes; made before the transaction, which must be short."""
        if batch.expected_version < 0:
            raise ValueError(f"expected_version is the number of events already there, not {batch.expected_version}")
        at_ns = _nanoseconds(batch.at)
        recorded = [
            Recorded(stream_id=batch.stream_id, version=version, at_ns=at_ns, by=batch.by, event=event)
            for version, event in enumerate(batch.events, batch.expected_version + 1)
        ]
        try:
            return [(r, self._mapper.to_stored_event(r)) for r in recorded]
        except StoreError as e:
            return e

    def _append(
        self, c: SQLiteCursor, batch: Append, prepared: list[tuple[Recorded, StoredEvent]]
    ) -> list[Recorded] | StoreError:
        """Stores one append behind a savepoint: when it fails, what others wrote in the transaction stands."""
        db = self._open_db()
        c.execute("SAVEPOINT append_one")
        try:
            c.execute("SELECT MAX(originator_version) FROM stored_events WHERE originator_id = ?", (batch.stream_id,))
            if (c.fetchone()[0] or 0) != batch.expected_version:
                raise VersionConflict(batch.stream_id, batch.expected_version)
            recorded = [r for r, _ in prepared]
            ids = db.recorder._insert_events(c, [s for _, s in prepared], recorded=recorded)
        except sqlite3.OperationalError:
            raise  # full, read-only, busy: not the fault of this append, and SQLite may have rolled back already
        except Exception as e:
            c.execute("ROLLBACK TO append_one")
            c.execute("RELEASE append_one")
            if isinstance(e, StoreError):
                return e
            failure = db.failure(e) if isinstance(e, sqlite3.Error) else StoreError(f"cannot be stored: {e!r}")
            failure.__cause__ = e
            return failure
        c.execute("RELEASE append_one")
        return [msgspec.structs.replace(r, sequence=i) for r, i in zip(recorded, ids, strict=True)]

    @contextmanager
    def bulk(self, every: int = 5000) -> Iterator[None]:
        """Inside the block appends are committed in groups of about `every` events, and at its end: for simulations.

        An append inside the block is seen by every read of this object at once, but is durable only from the next
        group commit on. What was appended is kept also when an exception leaves the block.

        Raises:
            StoreError: a group could not be committed. The events since the last group commit are not stored, and
                nothing more is taken in this block.
        """
        with self._lock:
            db = self._open_db(write=True)
            if self._bulk is not None:
                raise StoreError("bulk() is active already")
            self._bulk = _Bulk(db, every)
        try:
            yield
        finally:
            with self._lock:
                bulk, self._bulk = self._bulk, None
                bulk.finish()

    def save_marks(self, marks: Iterable[Mark]) -> None:
        """Writes the last look at positions into `position_tracking`. Marks are no events and are not rebuilt."""
        params = [projections.mark_params(mark) for mark in marks]
        if params:
            with self._writing() as c:
                c.executemany(projections.MARK, params)

    # ---- reading events

    def stream(self, stream_id: str, after: int = 0) -> list[Recorded]:
        """The events of one stream with a version above `after`, in order; empty when there is none."""
        return [
            self._recorded(row)
            for row in self._rows(
                f"SELECT {_EVENT_COLUMNS} FROM stored_events WHERE originator_id = ? AND originator_version > ? "
                "ORDER BY originator_version",
                (stream_id, after),
            )
        ]

    def events(self, after: int = 0, limit: int | None = None) -> Iterator[Recorded]:
        """All events with a sequence above `after`, in commit order, at most `limit`; in constant memory."""
        left = limit
        while left is None or left > 0:
            page = _PAGE if left is None else min(_PAGE, left)
            rows = self._rows(
                f"SELECT {_EVENT_COLUMNS} FROM stored_events WHERE rowid > ? ORDER BY rowid LIMIT ?", (after, page)
            )
            for row in rows:
                yield self._recorded(row)
            if len(rows) < page:
                return
            after = rows[-1][0]
            left = None if left is None else left - page

    def stream_ids(self) -> list[str]:
        """All streams, in the order of their first events."""
        return [
            str(row[0])
            for row in self._rows("SELECT originator_id FROM stored_events WHERE originator_version = 1 ORDER BY rowid")
        ]

    def count(self) -> int:
        """How many events there are."""
        return int(self._rows("SELECT COUNT(*) FROM stored_events")[0][0])

    def _recorded(self, row: Sequence[Any]) -> Recorded:
        return self._mapper.to_domain_event(StoredEvent(*row[1:]), row[0])

    # ---- reading the read models

    def exit_order(self, client_order_id: str) -> ExitOrderRow | None:
        """The exit order with this id; None when there is none."""
        return next(iter(self._table("exit_orders", ExitOrderRow, client_order_id=client_order_id)), None)

    def exit_orders(self, symbol: str | None = None, status: ExitStatus | str | None = None) -> list[ExitOrderRow]:
        """Exit orders, oldest first, of one symbol and of one status where given."""
        return self._table("exit_orders", ExitOrderRow, symbol=symbol, status=status)

    def tracking(self, symbol: str) -> TrackingRow | None:
        """The newest position of a symbol; None when there never was one."""
        return next(iter(self._table("position_tracking", TrackingRow, symbol=symbol)), None)

    def trackings(self) -> list[TrackingRow]:
        """The newest position of each symbol."""
        return self._table("position_tracking", TrackingRow)

    def positions(self, symbol: str | None = None, state: str | None = None) -> list[PositionRow]:
        """Positions, open and over, oldest first, of one symbol and in one state where given."""
        return self._table("positions", PositionRow, order="opened_at_utc, position_id", symbol=symbol, state=state)

    def open_positions(self) -> list[PositionRow]:
        """The positions that are neither `filled` nor `closed`, oldest first; found without reading the history."""
        columns = ", ".join(PositionRow.__struct_fields__)
        where = f"{projections.OPEN_POSITIONS} ORDER BY opened_at_utc, position_id"
        return [msgspec.convert(r, PositionRow) for r in self._rows(f"SELECT {columns} FROM positions WHERE {where}")]

    def cooldown_until(self, symbol: str) -> datetime | None:
        """When the latest cooldown of a symbol ends; None when it never had one."""
        # Without the Z, text sorts as time: a whole second comes before its fractions.
        newest = self._rows("SELECT MAX(RTRIM(cooldown_until_utc, 'Z')) FROM positions WHERE symbol = ?", (symbol,))[0][0]
        return None if newest is None else datetime.fromisoformat(newest).replace(tzinfo=UTC)

    def cooldowns(self, at: datetime) -> dict[str, datetime]:
        """The symbols that cool down at `at`, and until when each does; found without reading the history."""
        # As text a whole second sorts after its fractions, so the index finds a second more than is needed.
        since = stamp(at.replace(microsecond=0) - timedelta(seconds=1))
        found: dict[str, datetime] = {}
        sql = "SELECT symbol, cooldown_until_utc FROM positions WHERE cooldown_until_utc >= ?"
        for symbol, text in self._rows(sql, (since,)):
            until = datetime.fromisoformat(text)
            if until > at:
                found[symbol] = max(until, found.get(symbol, until))
        return found

    def alarms(self, standing_only: bool = True) -> list[AlarmRow]:
        """Alarms, oldest first; by default those that nobody has acknowledged."""
        rows = self._table("alarms", AlarmRow, order="raised_at_utc, stream_id, alarm_id")
        return [row for row in rows if not standing_only or row.acknowledged_at_utc is None]

    def _table(self, table: str, row: type[_Row], *, order: str = "", **equal: str | None) -> list[_Row]:
        """The rows of a read model whose columns equal what is given; None is no condition."""
        given = {column: str(value) for column, value in equal.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "1 = 1"
        order = order or ", ".join(projections.ROWS[table][1])
        sql = f"SELECT {', '.join(row.__struct_fields__)} FROM {table} WHERE {where} ORDER BY {order}"
        return [msgspec.convert(r, row) for r in self._rows(sql, tuple(given.values()))]

    # ---- keeping

    def rebuild(self) -> None:
        """Drops the read models and makes them again from the events, in one transaction.

        Marks are kept where the row is still about the same position.
        """
        columns = ", ".join((*projections.MARKS, "symbol", "position_id"))
        with self._writing() as c:
            c.execute(f"SELECT {columns} FROM position_tracking")
            marks = [tuple(row) for row in c.fetchall()]
            for table in projections.ROWS:
                c.execute(f"DROP TABLE {table}")
            for statement in projections.DDL:
                c.execute(statement)
            for recorded in self.events():
                for sql, params in projections.statements(recorded):
                    c.execute(sql, params)
            c.executemany(projections.MARK, marks)

    def verify_read_models(self) -> list[str]:
        """What in the read models differs from a rebuild, marks aside, one line each; empty when all is well."""
        with self._lock, ExitStore(":memory:") as fresh, self._reading(), fresh._writing() as c:
            for recorded in self.events():
                for sql, params in projections.statements(recorded):
                    c.execute(sql, params)
            return [line for table in projections.ROWS for line in _differences(table, self._rows, fresh._rows)]

    def chain_head(self) -> tuple[int, str]:
        """Sequence and hash (hex) of the newest event: write it down elsewhere, and no older event can change unseen."""
        rows = self._rows("SELECT sequence, hash FROM chain ORDER BY sequence DESC LIMIT 1")
        sequence, head = rows[0] if rows else (0, GENESIS)
        return int(sequence), bytes(head).hex()

    def verify_chain(self) -> int | None:
        """The first sequence at which the stored bytes do not have the hash they were stored with; None when all do."""
        head, expected = GENESIS, 1
        while True:
            rows = self._rows(
                f"SELECT {_EVENT_COLUMNS}, hash FROM stored_events JOIN chain ON sequence = rowid "
                "WHERE rowid >= ? ORDER BY rowid LIMIT ?",
                (expected, _PAGE),
            )
            for row in rows:
                head = chain_hash(head, row[0], StoredEvent(*row[1:5]))
                if row[0] != expected or head != row[5]:
                    return expected
                expected += 1
            if len(rows) < _PAGE:
                newest = self._rows("SELECT MAX(rowid) FROM stored_events UNION SELECT MAX(sequence) FROM chain")
                return expected if any((row[0] or 0) >= expected for row in newest) else None

    @property
    def meta(self) -> dict[str, str]:
        """What the store says of itself: `format`, `created_by`, and `account` and `endpoint` once bound."""
        return {str(key): str(value) for key, value in self._rows("SELECT key, value FROM meta ORDER BY key")}

    def bind(self, account: str, endpoint: str = "") -> None:
        """Ties the store to an account (a hash) and an endpoint the first time, and checks that they match ever after.

        Raises:
            StoreError: the store was written for another account or endpoint.
        """
        with self._lock:
            known, wanted = self.meta, {"account": account, "endpoint": endpoint}
            for key, value in wanted.items():
                if known.get(key, value) != value:
                    raise StoreError(
                        f"this store was written for {key} {known[key]!r}, not {value!r}: use a store of its own for each"
                    )
            missing = [(key, value) for key, value in wanted.items() if key not in known]
            if missing and not self._open_db().read_only:
                with self._writing() as c:
                    c.executemany("INSERT INTO meta VALUES (?, ?)", missing)

    # ---- inside

    def _open_db(self, *, write: bool = False) -> _SQLite:
        if self._db is None:
            raise StoreError("the store is closed")
        if self._pid != os.getpid():
            raise StoreError("the store was opened before a fork: open it again in the new process")
        if write and self._db.read_only:
            raise StoreError("the store was opened with read_only=True: open it without to write")
        return self._db

    @contextmanager
    def _writing(self) -> Iterator[SQLiteCursor]:
        """A transaction of its own, or the one of the bulk that is under way."""
        with self._lock:
            db = self._open_db(write=True)
            try:
                if self._bulk is not None:
                    with self._bulk.use() as c:
                        yield c
                else:
                    with db.transaction() as c:
                        yield c
            except sqlite3.Error as e:
                raise db.failure(e) from e

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the store for several reads."""
        with self._lock:
            db = self._open_db()
            if self._bulk is not None:
                yield
            else:
                with db.snapshot():
                    yield

    def _rows(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            db = self._open_db()
            try:
                c = db.cursor()
                c.execute(sql, params)
                return [tuple(row) for row in c.fetchall()]
            except sqlite3.Error as e:
                raise db.failure(e) from e


_EVENT_COLUMNS = "rowid, originator_id, originator_version, topic, state"


class _Bulk:
    """A transaction that stays open over many appends and commits when enough have come together."""

    def __init__(self, db: _SQLite, every: int) -> None:
        self._db, self._every, self._pending = db, every, 0
        self._stack = contextlib.ExitStack()
        self._cursor: SQLiteCursor | None = self._stack.enter_context(db.transaction())

    @contextmanager
    def use(self) -> Iterator[SQLiteCursor]:
        if self._cursor is None:
            raise StoreError("an earlier group of this bulk could not be stored: leave the block")
        try:
            yield self._cursor
        except sqlite3.Error as e:
            self._cursor = None
            with contextlib.suppress(sqlite3.Error):
                self._stack.__exit__(type(e), e, e.__traceback__)
            raise

    def count(self, events: int) -> None:
        self._pending += events
        if self._pending >= self._every:
            self.finish()
            self._cursor, self._pending = self._stack.enter_context(self._db.transaction()), 0

    def finish(self) -> None:
        if self._cursor is not None:
            self._cursor = None
            try:
                self._stack.close()
            except sqlite3.Error as e:
                raise self._db.failure(e) from e


def _path_of(url: str | os.PathLike[str]) -> Path | None:
    """The file that `url` names; None for memory."""
    text = os.fspath(url)
    if text == ":memory:":
        return None
    if text.startswith(("postgresql://", "postgres://")):
        raise StoreError("PostgreSQL is not supported yet: give the path of a file")
    if not text or "://" in text or "\0" in text:
        raise StoreError(f"{text!r} is no store: give the path of a file, or ':memory:'")
    return Path(text).expanduser().absolute()


def _nanoseconds(at: datetime) -> int:
    since = utc(at) - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def _differences(
    table: str, ours: Callable[[str], list[tuple[Any, ...]]], fresh: Callable[[str], list[tuple[Any, ...]]]
) -> Iterator[str]:
    """How `table` differs from a fresh one, one line for each row."""
    row_class, keys = projections.ROWS[table]
    columns = [c for c in row_class.__struct_fields__ if c not in projections.MARKS]
    where = [columns.index(key) for key in keys]
    sql = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(keys)}"
    have = {tuple(row[i] for i in where): row for row in ours(sql)}
    want = {tuple(row[i] for i in where): row for row in fresh(sql)}
    for key in sorted(have.keys() | want.keys()):
        name = f"{table} {'/'.join(map(str, key))}"
        if key not in want:
            yield f"{name}: no event made this row"
        elif key not in have:
            yield f"{name}: the row is missing"
        elif have[key] != want[key]:
            pairs = zip(columns, have[key], want[key], strict=True)
            yield f"{name}: " + ", ".join(f"{c} is {h!r}, not {w!r}" for c, h, w in pairs if h != w)
