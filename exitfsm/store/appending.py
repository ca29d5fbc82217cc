"""Taking appends and writing them together: one transaction for a group, or an open one for a whole simulation.

Rules of this room: an append is taken whole or refused whole, and what was taken is written with its hashes and its
read-model rows. When anything fails in between, the transaction is given up with all that was taken into it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from exitfsm.errors import StoreError, VersionConflict
from exitfsm.events import Event, Recorded
from exitfsm.projections import TABLES, ReadModels, Row
from exitfsm.store.database import Database
from exitfsm.store.mapping import GENESIS, Encoded, EventMapper, chain_hash
from exitfsm.values import utc

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Append(msgspec.Struct, frozen=True, gc=False):
    """One append of a group: the arguments of `ExitStore.append`."""

    stream_id: str
    expected_version: int
    events: Sequence[Event]
    at: datetime
    by: str


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """An append with its events as bytes."""

    stream_id: str
    expected_version: int
    at_ns: int
    by: str
    events: list[Encoded]


#: What becomes of one append of a group.
Result = list[Recorded] | StoreError


def prepare(batch: Append, mapper: EventMapper) -> Prepared | StoreError:
    """The append as bytes, made before the transaction, which must be short; or the error that keeps it out.

    Raises:
        ValueError: the expected version is negative, or the time is naive.
    """
    if batch.expected_version < 0:
        raise ValueError(f"expected_version is the number of events already there, not {batch.expected_version}")
    at_ns, by = _ns(utc(batch.at)), batch.by
    if "\0" in batch.stream_id:
        return StoreError(f"{batch.stream_id!r} is no stream: its name holds a NUL character, which databases refuse")
    try:
        encoded = [mapper.encode(at_ns, by, event) for event in batch.events]
    except StoreError as e:
        return e
    return Prepared(batch.stream_id, batch.expected_version, at_ns, by, encoded)


@lru_cache(maxsize=16)
def _ns(at: datetime) -> int:
    """A time in UTC as nanoseconds since 1970; what is appended together mostly has the same."""
    since = at - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def stored_rows(db: Database, name: str, owner: str) -> list[Row]:
    """The rows of a read model that belong to an owner, in key order, as the transaction under way sees them."""
    table = TABLES[name]
    columns, order = ", ".join(table.columns), ", ".join(table.key)
    rows = db.rows(f"SELECT {columns} FROM {name} WHERE {table.owner} = ? ORDER BY {order}", (owner,))
    return [dict(zip(table.columns, row, strict=True)) for row in rows]


def last_order_id(db: Database) -> int:
    """The highest `exit_orders.id`, 0 when there is none."""
    return int(db.rows("SELECT MAX(id) FROM exit_orders")[0][0] or 0)


class Writer:
    """Takes appends into a transaction and writes them together.

    Between transactions it keeps the newest sequence and hash and the read-model rows in memory. They are those of the
    database for as long as nobody else writes; when somebody did, the next insert collides, and all is read again.
    Whatever fails, the transaction is given up and nothing is kept.

    Attributes:
        models: the rows.
    """

    def __init__(self, db: Database, models: ReadModels) -> None:
        self.models = models
        self._db = db
        self._active = False
        self._head: tuple[int, bytes] | None = None
        self._versions: dict[str, int] = {}
        self._stored: list[tuple[int, str, int, str, bytes]] = []
        self._chain: list[tuple[int, bytes]] = []

    @property
    def active(self) -> bool:
        """True while a transaction is open."""
        return self._active

    def append(self, group: Sequence[Prepared | StoreError]) -> list[Result]:
        """Stores appends in one transaction of their own.

        Raises:
            StoreError: it was not stored, or that cannot be found out.
            Exception: what the database did not take it for, or a bug in a projection.
        """
        if not any(not isinstance(p, StoreError) and p.events for p in group):
            return [p if isinstance(p, StoreError) else [] for p in group]
        known = self._head is not None
        try:
            return self._append(group)
        except self._db.errors as e:
            if not known or not self._db.is_conflict(e):
                raise
            return self._append(group)  # perhaps only because of what was kept in memory: now with what is stored

    def _append(self, group: Sequence[Prepared | StoreError]) -> list[Result]:
        try:
            self.begin()
            results = [self.take(p) for p in group]
            self.commit()
        except BaseException:
            self.give_up()
            raise
        return results

    def begin(self) -> None:
        """Begins a transaction; `commit` or `give_up` ends it."""
        self._db.begin()
        self._active = True

    def take(self, append: Prepared | StoreError) -> Result:
        """Takes an append if its stream is where its writer thinks it is; `write` or `commit` writes it."""
        if isinstance(append, StoreError):
            return append
        stream_id, version, at_ns, by = append.stream_id, append.expected_version, append.at_ns, append.by
        if not self._is_at(stream_id, version):
            return VersionConflict(stream_id, version)
        sequence, head = self._newest()
        recorded = []
        for encoded in append.events:
            sequence, version = sequence + 1, version + 1
            stored = (stream_id, version, encoded.topic, encoded.state)
            head = chain_hash(head, sequence, stored)
            self._stored.append((sequence, *stored))
            self._chain.append((sequence, head))
            r = Recorded(
                stream_id=stream_id, version=version, at_ns=at_ns, by=by, event=encoded.event, sequence=sequence
            )
            self.models.apply(r)
            recorded.append(r)
        self._head = sequence, head
        self._versions[stream_id] = version
        return recorded

    def write(self) -> None:
        """Writes what was taken into the transaction, which stays open."""
        self.check_active()
        if self._stored:
            self._db.insert(self._stored, self._chain, self.models.writes())
            self._stored, self._chain = [], []

    def commit(self) -> None:
        """Writes what was taken, and commits."""
        self.write()
        self._db.commit()
        self._active = False
        self._versions.clear()

    def give_up(self) -> None:
        """Ends the transaction without a trace of what was taken into it."""
        self._active, self._head = False, None
        self._versions.clear()
        self._stored, self._chain = [], []
        self.models.forget()
        self._db.give_up()

    def check_active(self) -> None:
        """Refuses to go on where no transaction is open any more."""
        if not self._active:
            raise StoreError("a group of this bulk could not be stored: leave the block, and see what is there")

    def _newest(self) -> tuple[int, bytes]:
        """Sequence and hash of the newest event, taken or stored."""
        if self._head is None:
            self.check_active()
            rows = self._db.rows("SELECT sequence, hash FROM chain ORDER BY sequence DESC LIMIT 1")
            self._head = rows[0] if rows else (0, GENESIS)
        return self._head

    def _is_at(self, stream_id: str, expected: int) -> bool:
        """True when a stream has `expected` events, taken or stored."""
        version = self._versions.get(stream_id)
        if version is None and self.models.version(stream_id) != expected:  # not in memory, or out of date there
            self.check_active()
            sql = "SELECT MAX(originator_version) FROM stored_events WHERE originator_id = ?"
            version = self._db.rows(sql, (stream_id,))[0][0] or 0
        return version is None or version == expected


class Bulk:
    """A writer's transactions one after the other, each committed when `every` events have come together."""

    def __init__(self, writer: Writer, every: int) -> None:
        self._writer, self._every, self._taken = writer, every, 0
        writer.begin()

    def add(self, group: Sequence[Prepared | StoreError]) -> list[Result]:
        """Takes appends; commits when there are enough. Any failure gives the transaction up, and the bulk with it."""
        writer = self._writer
        writer.check_active()
        try:
            results = [writer.take(p) for p in group]
            self._taken += sum(len(r) for r in results if not isinstance(r, StoreError))
            if self._taken >= self._every:
                writer.commit()
                writer.begin()
                self._taken = 0
        except BaseException:
            writer.give_up()
            raise
        return results

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """The open transaction, with what was taken written into it. Any failure gives it up, and the bulk with it."""
        self._writer.check_active()
        try:
            self._writer.write()
            yield
        except BaseException:
            self._writer.give_up()
            raise

    @property
    def active(self) -> bool:
        """False once it is finished, or has failed."""
        return self._writer.active

    def finish(self) -> None:
        """Commits what was taken, unless the bulk has failed before."""
        if self.active:
            try:
                self._writer.commit()
            except BaseException:
                self._writer.give_up()
                raise
