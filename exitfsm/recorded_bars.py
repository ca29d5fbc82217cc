"""The bars that were looked at, kept beside the store, for audit pages and what-if: `record_bars: true`.

Rules of this room: bars are evidence for people, never what protects money. So they lie in a file of their own
(`exits.db.bars` beside `exits.db`), outside the hash chain, written in groups without waiting for the disk. A bar that
cannot be recorded is logged, and recording ends: an exit never waits for it and never fails by it. A crash can lose the
last second of bars; it loses no event.

The file is SQLite with one table: `bars(id, symbol, at_us, open, high, low, close, volume, received_us)`, prices as
exact text as they came (a refused bar may hold `nan`), times in microseconds since 1970 UTC, rows in order of arrival.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

from exitfsm.errors import StoreError
from exitfsm.outside import logger
from exitfsm.store import ExitStore, is_url
from exitfsm.values import Bar, utc

log = logger("exitfsm")

#: Marks the file as ours ("ExFB").
APPLICATION_ID = 0x45784642
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GROUP = 1000
_ROW_MAX = 1 << 16  # bytes in a row: six figures
#: How long a write or a read waits for somebody else who has the file locked.
_PATIENCE_S = 5.0
_TABLE = (
    "CREATE TABLE IF NOT EXISTS bars (id INTEGER PRIMARY KEY, symbol TEXT NOT NULL, at_us INTEGER NOT NULL, "
    "open TEXT NOT NULL, high TEXT NOT NULL, low TEXT NOT NULL, close TEXT NOT NULL, volume TEXT NOT NULL, "
    "received_us INTEGER)"
)
_INDEX = "CREATE INDEX IF NOT EXISTS bars_of_symbol ON bars (symbol, at_us)"
_INSERT = (
    "INSERT INTO bars (symbol, at_us, open, high, low, close, volume, received_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


class Seen(NamedTuple):
    """A recorded bar, and when it arrived; None where arrival means nothing (simulation)."""

    bar: Bar
    received_at: datetime | None


def bars_path(store: ExitStore | str | os.PathLike[str], chosen: str = "") -> Path | None:
    """Where the bars of a store are kept: where that was chosen, else beside its file. The file need not be there.

    None for a store that is no file, in memory or on a server, and no place was chosen.
    """
    if chosen:
        return Path(chosen).expanduser()
    if isinstance(store, ExitStore):
        path = store.path
    else:
        path = None if str(store) == ":memory:" or is_url(store) else Path(store)
    return None if path is None else path.with_name(path.name + ".bars")


def new_bars_path(store: ExitStore, chosen: str = "") -> Path | None:
    """Where the bars of a run that begins with an empty store are to be kept; None where there is no place for them.

    Raises:
        StoreError: bars of another run lie there.
    """
    path = bars_path(store, chosen)
    if path is not None and path.exists():
        raise StoreError(f"{path} holds the bars of another run: move it away, or give a new path for the store")
    return path


class BarDamaged(StoreError):
    """One recorded bar cannot be read; those before it were given."""


class BarRecorder:
    """Writes bars down, in groups. May be used from any thread; `record` and `flush` never raise.

    Args:
        path: the file, made where there is none (mode 0600); one that is there is added to.

    Attributes:
        failure: why recording has ended; None while it goes on.

    Raises:
        StoreError: the file is something else, or cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.failure: str | None = None
        self._lock = threading.Lock()
        self._waiting: list[tuple[str | int | None, ...]] = []
        try:
            _make(self.path)
            self._db: sqlite3.Connection | None = _prepared(self.path)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot record bars in {self.path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, bar: Bar, *, received_at: datetime | None = None) -> None:
        """Note a bar, sound or not; it is written with the next group, by `flush`, or by `close`."""
        try:
            received = _microseconds(received_at) if received_at is not None else None
            prices = (bar.open, bar.high, bar.low, bar.close, bar.volume)
            bar.symbol.encode()  # text that SQLite could not take would take its whole group with it
            row = (bar.symbol, _microseconds(bar.timestamp), *map(str, prices), received)
        except ValueError as error:
            log.error("bar_not_recorded symbol=%s at=%s error=%s", bar.symbol, bar.timestamp, error)
            return
        with self._lock:
            if self._db is not None:
                self._waiting.append(row)
                if len(self._waiting) >= _GROUP:
                    self._write()

    def flush(self) -> None:
        """Write what waits, so that readers see it."""
        with self._lock:
            self._write()

    def close(self) -> None:
        """Write what waits and close the file. May be called twice."""
        with self._lock:
            self._write()
            db, self._db = self._db, None
            if db is not None:
                db.close()

    def _write(self) -> None:
        rows, self._waiting = self._waiting, []
        if not rows or self._db is None:
            return
        try:
            with self._db:
                self._db.executemany(_INSERT, rows)
        except sqlite3.Error as error:
            log.error("bars_not_recorded file=%s lost=%s error=%s; recording ends", self.path, len(rows), error)
            self.failure = str(error)
            self._db.close()
            self._db = None


def recorded_bars(
    path: str | os.PathLike[str],
    symbols: Iterable[str] | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Iterator[Seen]:
    """The bars of a file in the order in which they arrived; in constant memory.

    Args:
        path: the file, as by `bars_path`.
        symbols: only these; all when None.
        since, until: only bars with a timestamp from, and up to and with, these times.

    Raises:
        StoreError: while iterating: there is no such file, or it cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise StoreError(f"there are no recorded bars at {file}: set record_bars: true, or give bars from files")
    where, given = _condition(symbols, since, until)
    sql = f"SELECT id, symbol, at_us, open, high, low, close, volume, received_us FROM bars {where}ORDER BY id"
    try:
        with closing(_connect_to_read(file)) as db:
            if _is_blank(db):
                return  # somebody is about to make it
            _check(db, file)
            for place, symbol, at, *prices, received in db.execute(sql, given):
                try:
                    bar = Bar(symbol, _time(at), *prices)
                    seen = Seen(bar, _time(received) if received is not None else None)
                except (ValueError, OverflowError, TypeError, AttributeError) as error:
                    raise BarDamaged(
                        f"{file}: the bar in row {place} cannot be read: {error}: delete that row, or give other bars"
                    ) from error
                yield seen
    except sqlite3.Error as error:
        raise StoreError(f"cannot read the bars in {file}: {error}: give bars from files") from error


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect to a file that somebody may be writing; where nobody can be, to the bare file."""
    db = _connect(path, "ro")
    try:
        db.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        db.close()
        # WAL wants to make its -shm, even to read. Without a -wal the file alone is all there is.
        if path.with_name(path.name + "-wal").exists():
            raise
        return _connect(path, "ro&immutable=1")
    return db


def bars_since(path: str | os.PathLike[str]) -> Callable[[str, datetime], Iterator[Bar]]:
    """What gives the recorded bars of a symbol from a time on; none where there is no file, or it cannot be read."""

    def since(symbol: str, at: datetime) -> Iterator[Bar]:
        try:
            yield from (seen.bar for seen in recorded_bars(path, [symbol], since=at))
        except StoreError as error:
            log.warning("bars_not_read symbol=%s error=%s", symbol, error)

    return since


def _condition(
    symbols: Iterable[str] | None, since: datetime | None, until: datetime | None
) -> tuple[str, list[str | int]]:
    parts: list[str] = []
    given: list[str | int] = []
    if symbols is not None:
        names = sorted(set(symbols))
        parts.append(f"symbol IN ({', '.join('?' * len(names))})")
        given += names
    if since is not None:
        parts.append("at_us >= ?")
        given.append(_microseconds(since))
    if until is not None:
        parts.append("at_us <= ?")
        given.append(_microseconds(until))
    return (f"WHERE {' AND '.join(parts)} " if parts else ""), given


def _make(path: Path) -> None:
    """Make the file where there is none, and take the rights of others away from one that is there."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        info = os.fstat(fd)
        if hasattr(os, "geteuid") and info.st_uid != os.geteuid():
            raise StoreError(f"{path} belongs to another user (uid {info.st_uid}): move it away")
        if stat.S_IMODE(info.st_mode) & 0o077:
            os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    where = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(where, uri=True, check_same_thread=False, timeout=_PATIENCE_S)
    try:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ROW_MAX)
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        db.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        db.close()
        raise
    return db


def _prepared(path: Path) -> sqlite3.Connection:
    """Open a file to write to, with its table made where it is new; refuse one that is not ours."""
    db = _connect(path, "rw")
    try:
        if _is_blank(db):
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute("PRAGMA journal_mode = WAL")  # whoever reads a page meanwhile holds nobody up
        _check(db, path)
        db.execute("PRAGMA synchronous = NORMAL")
        with db:
            db.execute(_TABLE)
            db.execute(_INDEX)
    except BaseException:
        db.close()
        raise
    return db


def _is_blank(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()[0] == 0)


def _check(db: sqlite3.Connection, path: Path) -> None:
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(f"{path} holds no recorded bars: move it away; the file was not touched")


def _microseconds(at: datetime) -> int:
    since = utc(at) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _time(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


__all__ = ["BarDamaged", "BarRecorder", "Seen", "bars_path", "bars_since", "new_bars_path", "recorded_bars"]
