"""`SQLiteDatabase`: a store in one file, or in memory, behind the port of `database`.

Rules of this room: a file is made complete beside its place and then moved there, so that a crash leaves a whole store
or none.
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

from exitfsm import projections
from exitfsm.errors import StoreDamaged, StoreError, StoreLocked, StoreMissing
from exitfsm.outside import logger
from exitfsm.store.database import FORMAT, ChainRow, EventRow, Heart, Write
from exitfsm.store.sqlite.connection import Factory, Recorder, advice, code
from exitfsm.store.sqlite.files import inode, lock, make_room, own_file, sync_directory
from exitfsm.store.sqlite.layout import APPLICATION_ID, DDL, OF_LITESTREAM, RAW, RAW_PAGE, SCHEMA

log = logger("exitfsm")

#: Bytes in the WAL at which an operator is warned that another program holds it.
_WAL_LARGE = 64 << 20
#: A store with this many commits since it last settled does so again.
_SETTLE_AFTER = 64


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
    raw = RAW
    raw_page = RAW_PAGE

    def __init__(self, path: Path | None, *, read_only: bool, synced: bool = True) -> None:
        self.path, self.read_only, self._synced = path, read_only, synced
        self.where = "the store in memory" if path is None else str(path)
        self._name = None if path is None else str(path)
        self._pid = os.getpid()
        self._lock_fd: int | None = None
        self._lock_name, self._lock_inode = "", (0, 0)
        self._factory: Factory | None = None
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
        if self._name is not None and self._inode != inode(self._name):
            raise StoreError(f"{self.path} was moved, replaced or deleted while in use: stop, and put it back")
        if self._lock_fd is not None and self._lock_inode != inode(self._lock_name):
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
        make_room(wal)

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
        found = {(kind, name): sql for kind, name, sql in self.rows(SCHEMA)}
        fresh = SQLiteDatabase(None, read_only=False)
        wanted = {(kind, name): sql for kind, name, sql in fresh.rows(SCHEMA)}
        wanted |= {key: sql for key, sql in OF_LITESTREAM.items() if key in found}
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
        return kind(f"{self.where}: {error}: {advice(error)}")

    def is_conflict(self, error: Exception) -> bool:
        """True when what was written contradicts what is stored."""
        return isinstance(error, sqlite3.IntegrityError)

    def is_whole(self, error: Exception) -> bool:
        """True for a failure of the file (full, read-only, busy, damaged), which is not the fault of one append."""
        return isinstance(error, sqlite3.Error) and not isinstance(error, (sqlite3.IntegrityError, sqlite3.DataError))

    def is_damage(self, error: Exception) -> bool:
        """True when the file is damaged; False when it is no store, or out of reach."""
        return code(error) == sqlite3.SQLITE_CORRUPT

    def heart(self) -> Heart | None:
        """None: the lock of a file ends with its process, and nobody takes it from one that lives."""
        return None

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
        factory = Factory(db_name, read_only=self.read_only, synced=self._synced)
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
            self._take_lock(path)
        if not self._inspect(path):
            if self.read_only:
                raise StoreMissing(f"there is no store at {path}: check the path, or open it for writing to make one")
            self._make(path)
        if not self.read_only:
            self._close_to_others(path)
        self._inode = inode(str(path))
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
        info = own_file(path)
        for suffix in ("-wal", "-shm", "-journal"):
            own_file(path.with_name(path.name + suffix))
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
        sync_directory(path.parent)

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
            StoreError: none can be made.
        """
        assert self.path is not None
        log.warning("lock_removed store=%s text=somebody removed the file of the writer's lock", self.path)
        old = self._lock_fd
        try:
            self._take_lock(self.path)
        except StoreLocked as e:
            raise StoreLocked(
                f"the lock of {self.path} was removed while in use, and another writer has it now: stop one of the two"
            ) from e
        if old is not None:
            os.close(old)

    def _unlock(self) -> None:
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            os.close(fd)

    def _take_lock(self, path: Path) -> None:
        """Takes the lock of the one writer, and notes which file it is."""
        fd = lock(path)
        if fd is not None:
            info = os.fstat(fd)
            self._lock_fd, self._lock_name, self._lock_inode = fd, f"{path}.lock", (info.st_dev, info.st_ino)


__all__ = ["SQLiteDatabase"]
