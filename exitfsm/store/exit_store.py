"""`ExitStore`: the interface of the store.

Rules of this room: every method takes the lock, says what to do when it fails, and leaves the object usable.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
from msgspec.structs import replace

from exitfsm import projections
from exitfsm.errors import StoreDamaged, StoreError
from exitfsm.events import Event, Recorded
from exitfsm.position import fold
from exitfsm.projections import AlarmRow, ExitOrderRow, HeldRow, Mark, PositionRow, ReadModels, TrackingRow
from exitfsm.store.appending import Append, Bulk, Prepared, Result, Writer, last_order_id, prepare, stored_rows
from exitfsm.store.database import Database, Heart, Write
from exitfsm.store.mapping import GENESIS, EventMapper, link
from exitfsm.store.opening import open_database
from exitfsm.values import ExitStatus, Side, stamp

_EVENT = "originator_id, originator_version, topic, state"
_BODIES = "SELECT originator_id, topic, state FROM stored_events WHERE originator_id IN"
_IN_ORDER = "ORDER BY originator_id, originator_version"
_BY_AGE = "opened_at_utc, position_id"
_PAGE = 1000
#: Digits of a figure that the tables hold whatever it is.
_HELD_DIGITS = 15
#: How the rows begin that hold, beside the marks, what a position's rules have folded of bars.
FOLDED = "folded/"
#: The row that holds what has been sent of the alarms.
OUTBOX = "alerts/outbox"
FOLD = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_DROP_FOLDED = (
    "DELETE FROM meta WHERE key >= 'folded/' AND key < 'folded0' AND NOT EXISTS "
    f"(SELECT 1 FROM positions WHERE 'folded/' || position_id = key AND {projections.OPEN})"
)
_STREAMS = 200
_Row = TypeVar("_Row", bound=msgspec.Struct)


class ExitStore:
    """The events of all positions of one account, with their read models.

    One process writes a store; any number may read it meanwhile with `read_only=True`. An object may be used from any
    thread, one call at a time (it has a lock of its own). Use it as a context manager, or call `close`.

    Args:
        url: path of the file (made where there is none), `"postgresql://…"`, or `":memory:"`.
        read_only: only read; takes no lock.
        account: the account (a hash) whose store is meant; on a server each has a schema of its own.

    Raises:
        StoreLocked: another process writes this store.
        StoreError: the file is not a store, newer than this library, somebody else's, or cannot be opened.
    """

    def __init__(self, url: str | os.PathLike[str], *, read_only: bool = False, account: str = "") -> None:
        self._prepare()
        self._use(open_database(url, read_only=read_only, account=account))

    @classmethod
    def on(cls, db: Database) -> Self:
        """A store on a database that is open already, and is closed with it."""
        store = cls.__new__(cls)
        store._prepare()
        store._use(db)
        return store

    def _prepare(self) -> None:
        self._lock = threading.RLock()
        self._bulk: Bulk | None = None
        self._on_commit: Callable[[float], None] | None = None
        self._mapper = EventMapper()
        self._pid = os.getpid()
        self._db: Database | None = None

    def _use(self, db: Database) -> None:
        self._db = db
        self._writer = Writer(db, ReadModels(partial(stored_rows, db), partial(last_order_id, db)))
        self._event = f"{db.place}, {_EVENT}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the store and frees it for another writer. May be called twice."""
        with self._lock:
            if self._db is None:
                return
            try:
                if self._bulk is not None:
                    with self._translated():
                        self._bulk.finish()
            finally:
                self._db.close()
                self._db = None

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

    def append_many(self, batches: Iterable[Append]) -> list[Result]:
        """Stores several appends in one durable commit; a bad one fails alone.

        Returns:
            For each batch, in order, its events as recorded, or the error that kept this one out (`VersionConflict`
            where its stream had moved on).

        Raises:
            StoreError: the commit failed, as in `append`: no batch was stored.
        """
        group = [prepare(batch, self._mapper) for batch in batches]
        with self._lock:
            self._open_db(write=True)
            try:
                return self._committed(group) if self._bulk is None else self._bulk.add(group)
            except StoreError:
                raise
            except Exception as e:
                if self._bulk is not None or self._open_db().is_whole(e):
                    raise self._failure(e) from e
                return [self._failure(e)] if len(group) == 1 else self._one_by_one(group)

    def _committed(self, group: list[Prepared | StoreError]) -> list[Result]:
        began = time.perf_counter()
        results = self._writer.append(group)
        if self._on_commit is not None:
            self._on_commit(time.perf_counter() - began)
        return results

    def time_commits(self, heard: Callable[[float], None] | None) -> None:
        """Have `heard(seconds)` called after each durable commit of events, in the thread that writes; None ends it."""
        self._on_commit = heard

    def _one_by_one(self, group: list[Prepared | StoreError]) -> list[Result]:
        """After one of several appends made the whole group fail: each in a commit of its own."""
        results: list[Result] = []
        for prepared in group:
            try:
                results += self._writer.append([prepared])
            except Exception as e:  # each is told by itself, whatever it is
                results.append(self._failure(e))
        return results

    @contextmanager
    def bulk(self, every: int = 5000) -> Iterator[None]:
        """Inside the block appends are committed in groups of about `every` events, and at its end: for simulations.

        An append inside the block is seen by every read of this object at once, but is durable only from the next
        group commit on. What was appended is kept also when an exception leaves the block.

        Raises:
            StoreError: a group could not be committed. The events since the last group commit are not stored, and
                nothing more is taken in this block.
        """
        with self._translated(write=True):
            if self._bulk is not None:
                raise StoreError("bulk() is active already")
            bulk = self._bulk = Bulk(self._writer, every)
        try:
            yield
        finally:
            with self._lock:
                self._bulk = None
                if bulk.active:
                    with self._translated():
                        bulk.finish()

    def save_marks(self, marks: Iterable[Mark]) -> None:
        """Writes the last look at positions into `position_tracking`. Marks are no events and are not rebuilt."""
        given = list(marks)
        writes: list[Write] = [(projections.MARK, [projections.mark_params(mark) for mark in given])] if given else []
        if folded := [(f"{FOLDED}{mark.position_id}", mark.folded) for mark in given if mark.folded]:
            # There is no other column for it in a store of format 1: what it says of itself takes text of any kind.
            writes += [(_DROP_FOLDED, [()]), (FOLD, folded)]
        if writes:
            self._write(writes)

    def folded(self, position_id: str) -> str:
        """What the rules of a position had folded of bars when its marks were saved; empty where nothing is known."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (f"{FOLDED}{position_id}",))
        return str(rows[0][0]) if rows else ""

    def outbox(self) -> str:
        """What has been sent of the alarms, as it was saved; empty where nothing was."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (OUTBOX,))
        return str(rows[0][0]) if rows else ""

    def save_outbox(self, text: str) -> None:
        """Writes what has been sent of the alarms. It is no event: what is active, the events say."""
        self._write([(FOLD, [(OUTBOX, text)])])

    def settle(self) -> None:
        """For a moment in which nothing is urgent: has work of the database done that a later commit would have to do.

        Costs nothing where there is nothing to do; call it every second or so.

        Raises:
            StoreError: the disk did not take it. Nothing is lost.
        """
        with self._translated(write=True) as db:
            if self._bulk is None:
                db.settle()

    def heart(self) -> Heart | None:
        """What says to others that this owner is alive; None where nobody would take the store from it."""
        with self._lock:
            return self._open_db(write=True).heart()

    # ---- reading events

    def stream(self, stream_id: str, after: int = 0) -> list[Recorded]:
        """The events of one stream with a version above `after`, in order; empty when there is none."""
        return [
            self._recorded(row)
            for row in self._rows(
                f"SELECT {self._event} FROM stored_events WHERE originator_id = ? AND originator_version > ? "
                "ORDER BY originator_version",
                (stream_id, after),
            )
        ]

    def events(self, after: int = 0, limit: int | None = None) -> Iterator[Recorded]:
        """All events with a sequence above `after`, in commit order, at most `limit`; in constant memory."""
        left, place = limit, self._open_db().place
        while left is None or left > 0:
            page = _PAGE if left is None else min(_PAGE, left)
            rows = self._rows(
                f"SELECT {self._event} FROM stored_events WHERE {place} > ? ORDER BY {place} LIMIT ?", (after, page)
            )
            for row in rows:
                yield self._recorded(row)
            if len(rows) < page:
                return
            after = rows[-1][0]
            left = None if left is None else left - page

    def histories(self, stream_ids: Iterable[str]) -> Iterator[tuple[str, list[Event]]]:
        """What happened in each of many streams, in the order given: a few reads for all of them, in constant memory.

        A stream of which there is nothing has an empty list.
        """
        ids = iter(stream_ids)
        while page := list(islice(ids, _STREAMS)):
            found: dict[str, list[Event]] = {stream_id: [] for stream_id in page}
            marks = ", ".join("?" * len(page))
            self._mapper.sort_into(found, self._rows(f"{_BODIES} ({marks}) {_IN_ORDER}", tuple(page)))
            yield from found.items()

    def stream_ids(self) -> list[str]:
        """All streams, in the order of their first events."""
        place = self._open_db().place
        sql = f"SELECT originator_id FROM stored_events WHERE originator_version = 1 ORDER BY {place}"
        return [str(row[0]) for row in self._rows(sql)]

    def count(self) -> int:
        """How many events there are."""
        return int(self._rows("SELECT COUNT(*) FROM stored_events")[0][0])

    def _recorded(self, row: Sequence[Any]) -> Recorded:
        return self._mapper.recorded(*row)

    # ---- reading the read models

    def exit_order(self, client_order_id: str) -> ExitOrderRow | None:
        """The exit order with this id; None when there is none."""
        return next(iter(self._table("exit_orders", ExitOrderRow, client_order_id=client_order_id)), None)

    def exit_orders(self, symbol: str | None = None, status: ExitStatus | str | None = None) -> list[ExitOrderRow]:
        """Exit orders, oldest first, of one symbol and of one status where given."""
        return self._table("exit_orders", ExitOrderRow, symbol=symbol, status=status)

    def newest_broker_ids(self, limit: int) -> dict[str, str]:
        """Our ids of the newest exit orders by the broker's own, oldest first; found without reading the history."""
        sql = (
            "SELECT alpaca_order_id, client_order_id FROM exit_orders WHERE alpaca_order_id IS NOT NULL "
            "ORDER BY id DESC LIMIT ?"
        )
        return dict(reversed(self._rows(sql, (limit,))))

    def tracking(self, symbol: str) -> TrackingRow | None:
        """The newest position of a symbol; None when there never was one."""
        return next(iter(self._table("position_tracking", TrackingRow, symbol=symbol)), None)

    def trackings(self) -> list[TrackingRow]:
        """The newest position of each symbol."""
        return self._table("position_tracking", TrackingRow)

    def positions(self, symbol: str | None = None, state: str | None = None) -> list[PositionRow]:
        """Positions, open and over, oldest first, of one symbol and in one state where given."""
        return self._table("positions", PositionRow, order=_BY_AGE, symbol=symbol, state=state)

    def position_ids(self) -> list[str]:
        """The ids of all positions, open and over, oldest first."""
        return [str(row[0]) for row in self._rows(f"SELECT position_id FROM positions ORDER BY {_BY_AGE}")]

    def count_positions(self) -> int:
        """How many positions there are, open and over."""
        return int(self._rows("SELECT COUNT(*) FROM positions")[0][0])

    def newest_position(self, symbol: str, side: Side) -> PositionRow | None:
        """The position of a symbol and side that was opened last, open or over; found without reading the history."""
        # As text a whole second sorts after its fractions: all of the newest second are looked at.
        sql = (
            f"SELECT {', '.join(PositionRow.__struct_fields__)} FROM positions WHERE symbol = ? AND side = ? AND "
            "opened_at_utc >= (SELECT substr(opened_at_utc, 1, 19) FROM positions WHERE symbol = ? AND side = ? "
            "ORDER BY opened_at_utc DESC LIMIT 1)"
        )
        found = self._rows(sql, (symbol, str(side)) * 2)
        rows = [self._converted("positions", row, PositionRow) for row in found]
        return max(rows, key=lambda row: (row.opened_at_utc, row.position_id), default=None)

    def open_positions(self) -> list[PositionRow]:
        """The positions that are neither `filled` nor `closed`, oldest first; found without reading the history."""
        return self._table("positions", PositionRow, projections.OPEN, order=_BY_AGE)

    def held(self) -> list[HeldRow]:
        """The open positions, oldest first, with the last look at each; found without reading the history."""
        return [self._converted("positions", row, HeldRow) for row in self._rows(projections.HELD)]

    def cooldown_until(self, symbol: str) -> datetime | None:
        """When the latest cooldown of a symbol ends; None when it never had one."""
        # Without the Z, text sorts as time: a whole second comes before its fractions.
        sql = "SELECT MAX(RTRIM(cooldown_until_utc, 'Z')) FROM positions WHERE symbol = ?"
        newest = self._rows(sql, (symbol,))[0][0]
        return None if newest is None else datetime.fromisoformat(newest).replace(tzinfo=UTC)

    def cooldowns(self, at: datetime) -> dict[str, datetime]:
        """The symbols that cool down at `at`, and until when each does; found without reading the history."""
        found: dict[str, datetime] = {}
        for (symbol, _), until in self.cooldowns_of_sides(at).items():
            found[symbol] = max(until, found.get(symbol, until))
        return found

    def cooldowns_of_sides(self, at: datetime) -> dict[tuple[str, Side], datetime]:
        """The same by symbol and side."""
        # As text a whole second sorts after its fractions, so the index finds a second more than is needed.
        since = stamp(at.replace(microsecond=0) - timedelta(seconds=1))
        found: dict[tuple[str, Side], datetime] = {}
        sql = "SELECT symbol, side, cooldown_until_utc FROM positions WHERE cooldown_until_utc >= ?"
        for symbol, side, text in self._rows(sql, (since,)):
            until, key = datetime.fromisoformat(text), (symbol, Side(side))
            if until > at:
                found[key] = max(until, found.get(key, until))
        return found

    def alarms(self, standing_only: bool = True) -> list[AlarmRow]:
        """Alarms, oldest first; by default those that nobody has acknowledged."""
        where = "acknowledged_at_utc IS NULL" if standing_only else ""
        return self._table("alarms", AlarmRow, where, order="raised_at_utc, stream_id, alarm_id")

    def _table(
        self, table: str, row: type[_Row], condition: str = "", *, order: str = "", **equal: str | None
    ) -> list[_Row]:
        """The rows of a read model that meet `condition` and equal what is given; None is no condition."""
        given = {column: str(value) for column, value in equal.items() if value is not None}
        where = " AND ".join([condition or "1 = 1", *(f"{column} = ?" for column in given)])
        order = order or ", ".join(projections.TABLES[table].key)
        sql = f"SELECT {', '.join(row.__struct_fields__)} FROM {table} WHERE {where} ORDER BY {order}"
        found = [self._converted(table, r, row) for r in self._rows(sql, tuple(given.values()))]
        return [self._with_all_digits(one) if _is_wide(one) else one for one in found]

    def _with_all_digits(self, row: _Row) -> _Row:
        """A row whose figures have more digits than its table holds, with those of the events."""
        p = fold(None, (r.event for r in self.stream(getattr(row, "position_id", ""))))
        if p is None:
            return row
        figures = [p.qty, p.remaining_qty, p.entry_price, p.sold_qty, p.avg_exit_price]
        for order in p.orders:
            figures += [order.qty, order.filled_qty, order.avg_fill_price]
        known = {float(figure): figure for figure in figures if figure is not None}
        wide = {name: value for name in row.__struct_fields__ if _digits(value := getattr(row, name)) > _HELD_DIGITS}
        return replace(row, **{name: known.get(float(value), value) for name, value in wide.items()})

    def _converted(self, table: str, values: tuple[Any, ...], row: type[_Row]) -> _Row:
        """One row of a read model.

        Raises:
            StoreDamaged: it holds what no event made.
        """
        try:
            return row_of(values, row)
        except ValueError as e:
            raise StoreDamaged(
                f"{self.where}: the row {values[0]!r} of {table} cannot be read: {e}: the events are beside it; stop "
                "the bot and start it again (it makes the tables anew), and see exitfsm verify"
            ) from e

    # ---- keeping

    def rebuild(self) -> None:
        """Drops the read models and makes them again from the events, in one transaction.

        Marks are kept where the row is still about the same position.
        """
        if self._bulk is not None:
            raise StoreError("leave bulk() before rebuild(): it must be a transaction of its own")
        columns = ", ".join((*projections.MARKS, "symbol", "position_id"))
        with self._writing() as db:
            marks = db.rows(f"SELECT {columns} FROM position_tracking")
            db.remake()
            self._fold(db, self.events())
            db.insert((), (), [(projections.MARK, marks)] if marks else [])

    def verify_read_models(self) -> list[str]:
        """What in the read models differs from a rebuild, marks aside, one line each; empty when all is well."""
        found: list[str] = []
        with ExitStore(":memory:") as fresh, self._reading():
            with fresh._writing() as db:
                fresh._fold(db, self.events())
            for name, table in projections.TABLES.items():
                sql = f"SELECT {', '.join(table.columns)} FROM {name}"
                found += projections.differences(name, self._rows(sql), fresh._rows(sql))
        return found

    def _fold(self, db: Database, events: Iterable[Recorded]) -> None:
        """Makes the rows of all events in tables that are empty."""
        models = self._writer.models
        models.forget()
        try:
            for number, recorded in enumerate(events, 1):
                models.apply(recorded)
                if number % _PAGE == 0:
                    db.insert((), (), models.writes())
            db.insert((), (), models.writes())
        finally:
            models.forget()

    @property
    def path(self) -> Path | None:
        """The file; None for a store in memory or on a server."""
        return self._open_db().path

    @property
    def where(self) -> str:
        """The file or the URL, for people: it holds no password."""
        return self._open_db().where

    def chain_head(self) -> tuple[int, str]:
        """Sequence and hash (hex) of the newest event; `(0, "00…")` when there is none.

        Kept somewhere else, it proves that no event up to it was changed since; in the file alone, whoever can write
        all of it can also write new hashes.
        """
        rows = self._rows("SELECT sequence, hash FROM chain ORDER BY sequence DESC LIMIT 1")
        sequence, head = rows[0] if rows else (0, GENESIS)
        return int(sequence), bytes(head).hex()

    def verify_chain(self) -> int | None:
        """The first sequence at which the stored event is not the one that was stored; None when all are."""
        head, expected = GENESIS, 1
        with self._reading():
            db = self._open_db()
            while rows := self._rows(db.raw_page, (expected, _PAGE)):
                for sequence, are_text, stream, version, topic, state, stored_hash in rows:
                    if sequence != expected or not (are_text and _is_sound(version, state)):
                        return expected
                    if not (stream.isascii() and topic.isascii()):  # what is can be read as text
                        try:
                            stream.decode(), topic.decode()
                        except UnicodeDecodeError:
                            return expected
                    head = link(head, sequence, version, stream, topic, state)
                    if head != stored_hash:
                        return expected
                    expected += 1
            ends = self._rows(
                f"SELECT MIN({db.place}), MAX({db.place}) FROM stored_events "
                "UNION SELECT MIN(sequence), MAX(sequence) FROM chain"
            )
        if any(first is not None and first < 1 for first, _ in ends):
            return 1
        return expected if any(last is not None and last >= expected for _, last in ends) else None

    @property
    def meta(self) -> dict[str, str]:
        """What the store says of itself: `format`, `created_by`, and `account` and `endpoint` once bound."""
        return {str(key): str(value) for key, value in self._rows("SELECT key, value FROM meta ORDER BY key")}

    def bind(self, account: str, endpoint: str = "") -> None:
        """Ties the store to an account (a hash) and an endpoint the first time, and checks that they match ever after.

        An empty text is not checked and ties to nothing.

        Raises:
            StoreError: the store was written for another account or endpoint.
        """
        with self._lock:
            known, wanted = self.meta, {"account": account, "endpoint": endpoint}
            for key, value in wanted.items():
                if value and known.get(key, value) != value:
                    raise StoreError(
                        f"this store was written for {key} {known[key]!r}, not {value!r}: give each its own store"
                    )
            new = [(key, value) for key, value in wanted.items() if value and key not in known]
            if new and not self._open_db().read_only:
                self._write([("INSERT INTO meta VALUES (?, ?)", new)])

    # ---- inside

    def _open_db(self, *, write: bool = False) -> Database:
        if self._db is None:
            raise StoreError("the store is closed")
        if self._pid != os.getpid():
            raise StoreError("the store was opened before a fork: open it again in the new process")
        if write and self._db.read_only:
            raise StoreError("the store was opened with read_only=True: open it without to write")
        return self._db

    def _failure(self, e: Exception) -> StoreError:
        """An exception as what it means to the user."""
        if isinstance(e, StoreError):
            return e
        db = self._open_db()
        failure = db.failure(e) if isinstance(e, db.errors) else StoreError(f"not stored: {e!r}")
        failure.__cause__ = e
        return failure

    @contextmanager
    def _translated(self, *, write: bool = False) -> Iterator[Database]:
        """The database, with the lock held and its errors in plain words."""
        with self._lock:
            db = self._open_db(write=write)
            try:
                yield db
            except db.errors as e:
                raise self._failure(e) from e

    @contextmanager
    def _writing(self) -> Iterator[Database]:
        """A transaction of its own, or the one of the bulk that is under way."""
        with (
            self._translated(write=True) as db,
            self._bulk.transaction() if self._bulk is not None else db.transaction(),
        ):
            yield db

    def _write(self, writes: Sequence[Write]) -> None:
        with self._writing() as db:
            db.insert((), (), writes)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One state of the store for several reads."""
        with self._translated() as db, self._bulk.transaction() if self._bulk is not None else db.snapshot():
            yield

    def _rows(self, sql: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """What a query gives, with everything that a bulk has taken so far."""
        with self._translated() as db:
            if self._bulk is not None:
                with self._bulk.transaction():
                    return db.rows(sql, params)
            return db.rows(sql, params)


def _is_wide(row: msgspec.Struct) -> bool:
    return any(_digits(getattr(row, name)) > _HELD_DIGITS for name in row.__struct_fields__)


def _digits(value: object) -> int:
    return len(value.as_tuple().digits) if type(value) is Decimal else 0


def row_of(values: tuple[Any, ...], row: type[_Row]) -> _Row:
    """What a row of a table says.

    Raises:
        ValueError: it holds what nothing of ours has written.
    """
    try:
        made = msgspec.convert(values, row)
    except (TypeError, OverflowError) as e:
        raise ValueError(str(e)) from e
    for name in row.__struct_fields__:
        value = getattr(made, name)
        if type(value) is datetime and value.tzinfo is not UTC:
            raise ValueError(f"{name} is {value.isoformat()}, which is not in UTC")
    return made


def _is_sound(version: object, state: object) -> bool:
    """True for what a column of an intact event holds."""
    return type(version) is int and version > 0 and type(state) is bytes
