"""What only a check of a store asks: the rows as they lie there, and whether the tables are sound and true.

Rules of this room: it reads, in constant memory, and changes nothing. It takes nothing for granted: the store may have
been damaged, or somebody may have been at it. What it finds is said in a line; a file that cannot be read on is a
`StoreError`, as everywhere.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from exitfsm.errors import StoreDamaged, StoreError
from exitfsm.events import Recorded
from exitfsm.projections import MARKS, TABLES, TrackingRow
from exitfsm.store.database import FORMAT, SOUND, Database
from exitfsm.store.exit_store import FOLDED, OUTBOX, ExitStore, row_of
from exitfsm.store.mapping import GENESIS, chain_hash
from exitfsm.store.sqlite import SQLiteDatabase

_Row = tuple[Any, ...]
_PAGE = 1000
_ORPHANS = (
    "SELECT sequence FROM chain WHERE sequence NOT IN (SELECT {place} FROM stored_events) ORDER BY sequence LIMIT 10"
)
#: What a store says of itself; None where any value may stand.
_META: dict[object, str | None] = {"created_by": "exitfsm", "format": str(FORMAT), "account": None, "endpoint": None}


class Stored(NamedTuple):
    """One event as it lies in the store, unread, beside the hash it was stored with (None where there is none).

    What an intact store cannot hold is passed on as far as that goes; `unsound` then says what is wrong with it.
    """

    sequence: int
    stream_id: str
    version: int
    topic: str
    state: bytes
    hash: bytes | None
    unsound: str = ""

    def follows(self, previous: bytes) -> bool:
        """True when the hash it was stored with is that of these bytes after an event with the hash `previous`."""
        if self.unsound or not (0 <= self.version < 1 << 64 and 0 <= self.sequence < 1 << 64):
            return False
        return chain_hash(previous, self.sequence, (self.stream_id, self.version, self.topic, self.state)) == self.hash


class Difference(NamedTuple):
    """A row of a read model that is not what the events make it, and the stream it is about."""

    stream_id: str
    what: str


def is_damage(error: StoreError) -> bool:
    """True when an error says that a store is damaged; False when it is no store, or out of reach."""
    return isinstance(error, StoreDamaged)


@contextmanager
def snapshot(store: ExitStore) -> Iterator[None]:
    """Every read inside the block sees the store as it is now, whoever writes meanwhile."""
    with store._reading():
        yield


def stored(store: ExitStore, stream_id: str | None = None, *, by_stream: bool = False) -> Iterator[Stored]:
    """The events unread: of one stream, or all, in commit order or (`by_stream`) stream by stream, by version.

    It reads as it goes: hold a `snapshot` meanwhile where somebody may be writing.

    Raises:
        StoreError: the file is so damaged that it cannot be read on.
    """
    db = store._open_db()
    order = "e.originator_id, e.originator_version" if by_stream or stream_id is not None else f"e.{db.place}"
    where = "" if stream_id is None else "WHERE e.originator_id = ? "
    given = () if stream_id is None else (stream_id,)
    yield from map(_stored, _each(store, f"{db.raw}{where}ORDER BY {order}", given))


def page(store: ExitStore, first: int, last: int) -> list[Stored]:
    """The events from one place to another unread, in commit order."""
    db = store._open_db()
    sql = f"{db.raw}WHERE e.{db.place} BETWEEN ? AND ? ORDER BY e.{db.place}"
    return [_stored(row) for row in store._rows(sql, (first, last))]


def read(store: ExitStore, event: Stored) -> Recorded:
    """What the bytes of an event say.

    Raises:
        StoreError: they are not those of an event, or of one that only a newer version of this library knows.
    """
    return store._mapper.recorded(event.sequence, event.stream_id, event.version, event.topic, event.state)


def damage(store: ExitStore) -> Iterator[str]:
    """What is wrong with the file and its tables apart from what stands in them, one line each."""
    try:
        with store._translated() as db:
            yield from db.damage()
        orphans = [row[0] for row in _each(store, _ORPHANS.format(place=db.place))]
    except StoreError as e:
        yield f"the file is damaged: {e}"
        return
    for sequence in orphans:
        yield f"event {sequence} is missing: only its hash is there"
    yield from _of_the_store(store)
    yield from _unreadable_marks(store)


def _of_the_store(store: ExitStore) -> Iterator[str]:
    """What the store says of itself and cannot say."""
    for key, value in _each(store, "SELECT key, value FROM meta ORDER BY key"):
        if isinstance(key, str) and (key.startswith(FOLDED) or key == OUTBOX):
            continue  # no event: what rules folded is folded anew, and what was sent is sent again
        if key not in _META or (_META[key] is not None and value != _META[key]):
            yield f"the row {key!r} of meta, {value!r}, is none that this library writes"


def _unreadable_marks(store: ExitStore) -> Iterator[str]:
    """Marks are no events, so that their figures prove nothing; but they are read, and must be figures."""
    columns = TrackingRow.__struct_fields__
    for row in _each(store, f"SELECT {', '.join(columns)} FROM position_tracking"):
        try:
            row_of(row, TrackingRow)
        except ValueError as e:
            yield f"position_tracking {row[columns.index('symbol')]}: the row cannot be read: {e}"


class Rebuilt:
    """The read models as the events make them, beside those of a store."""

    def __init__(self, store: ExitStore, fresh: ExitStore, db: Database) -> None:
        self._store, self._fresh, self._db = store, fresh, db
        self._models = fresh._writer.models
        self._contradictions: tuple[type[Exception], ...] = (*db.errors, LookupError, ValueError)
        self._waiting = 0

    def add(self, recorded: Recorded) -> None:
        """The next event.

        Raises:
            StoreError: it contradicts an earlier one, so that the tables cannot hold both.
        """
        try:
            self._models.apply(recorded)
            self._waiting += 1
            if self._waiting >= _PAGE:
                self._write()
        except self._contradictions as e:
            raise StoreError(f"the read models cannot hold these events: {e}") from e

    def differences(self) -> Iterator[Difference]:
        """How the tables of the store differ from these, marks aside; one line for each row.

        Raises:
            StoreError: the file is so damaged that it cannot be read, or the tables cannot hold the events.
        """
        try:
            self._write()
        except self._db.errors as e:
            raise StoreError(f"the read models cannot hold these events: {e}") from e
        for name in TABLES:
            yield from self._of_table(name)

    def _write(self) -> None:
        self._db.insert((), (), self._models.writes())
        self._waiting = 0

    def _of_table(self, name: str) -> Iterator[Difference]:
        table = TABLES[name]
        columns = [c for c in table.columns if c not in MARKS]
        key = [columns.index(column) for column in table.key]
        owner = columns.index("position_id" if "position_id" in columns else "stream_id")
        sql = f"SELECT {', '.join(columns)} FROM {name} ORDER BY {', '.join(table.key)}"
        for have, want in _unequal(_each(self._store, sql), _each(self._fresh, sql), key):
            row = want or have or ()
            if want is None:
                said = "no event made this row"
            elif have is None:
                said = "the row is missing"
            else:
                pairs = zip(columns, have, want, strict=True)
                said = ", ".join(f"{c} is {h!r}, not {w!r}" for c, h, w in pairs if not _same(h, w))
            yield Difference(str(row[owner]), f"{name} {'/'.join(str(row[i]) for i in key)}: {said}")


@contextmanager
def rebuilding(store: ExitStore) -> Iterator[Rebuilt]:
    """The read models made anew, in a temporary file: `add` every event in commit order, then ask for `differences`."""
    with tempfile.TemporaryDirectory(prefix="exitfsm-") as directory:
        made = SQLiteDatabase(Path(directory, "rebuilt.db"), read_only=False, synced=False)
        with ExitStore.on(made) as fresh, fresh._writing() as db:
            yield Rebuilt(store, fresh, db)


def _each(store: ExitStore, sql: str, params: tuple[Any, ...] = ()) -> Iterator[_Row]:
    """The rows of a query, one at a time."""
    with store._translated() as db:
        yield from db.each(sql, params)


def _stored(row: Sequence[Any]) -> Stored:
    sequence, stream, version, topic, state, chained, types = row
    unsound = "" if types == SOUND else "it has no hash" if chained is None else f"it is stored as {types}"
    try:
        stream_id, name = (stream or b"").decode(), (topic or b"").decode()
    except UnicodeDecodeError as e:
        stream_id, name, unsound = str(stream), str(topic), f"its stream or topic is no text: {e}"
    number = version if isinstance(version, int) else -1
    return Stored(sequence, stream_id, number, name, state or b"", chained, unsound)


_Pair = tuple[_Row | None, _Row | None]


def _unequal(ours: Iterator[_Row], theirs: Iterator[_Row], key: list[int]) -> Iterator[_Pair]:
    """The rows of two results, both sorted by their key, that are not the same; None where one has no such row."""
    have, want = next(ours, None), next(theirs, None)
    while have is not None or want is not None:
        if want is None or (have is not None and _place(have, key) < _place(want, key)):
            yield have, None
            have = next(ours, None)
        elif have is None or _place(want, key) < _place(have, key):
            yield None, want
            want = next(theirs, None)
        else:
            if not all(map(_same, have, want)):
                yield have, want
            have, want = next(ours, None), next(theirs, None)


def _place(row: _Row, key: list[int]) -> tuple[tuple[int, Any], ...]:
    """Where SQLite sorts a row: nothing, then numbers, then text, then bytes."""
    return tuple((_rank(row[i]), row[i]) for i in key)


def _rank(value: object) -> int:
    return 0 if value is None else 1 if isinstance(value, (int, float)) else 2 if isinstance(value, str) else 3


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


__all__ = [
    "GENESIS",
    "Difference",
    "Rebuilt",
    "Stored",
    "damage",
    "is_damage",
    "page",
    "read",
    "rebuilding",
    "snapshot",
    "stored",
]
