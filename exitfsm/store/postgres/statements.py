"""The store's SQL as PostgreSQL wants it: its tables, its parameters, and the rows of a commit as arrays.

Rules of this room: text only, no session. Parameters go over as text whose type the server knows from where it stands,
so that each statement is prepared once whatever its values are. Numbers are the nearest floats, as in SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from exitfsm import projections
from exitfsm.projections import Kind, Shape
from exitfsm.store.database import SOUND, ChainRow, EventRow, Params, Write

#: How PostgreSQL spells the kinds of columns. Text is compared by its bytes, as SQLite does.
TYPES: dict[Kind, str] = {
    "text": 'TEXT COLLATE "C"',
    "number": "DOUBLE PRECISION",
    "integer": "BIGINT",
    "place": "BIGINT PRIMARY KEY",
}
_ARRAYS: dict[Kind, str] = {"text": "text[]", "number": "float8[]", "integer": "bigint[]", "place": "bigint[]"}
#: The column that numbers the events; the library's own readers know it by this name.
PLACE = "notification_id"
#: What a session that is no longer the owner is refused with.
FENCED = "EXF01"

#: That the owner is alive, said each second: not in its own row, which a commit that hangs keeps locked.
HEARTBEAT = (
    "CREATE TABLE heartbeat (id BIGINT PRIMARY KEY CHECK (id = 1), fence BIGINT NOT NULL, seen TIMESTAMPTZ NOT NULL)",
    "INSERT INTO heartbeat VALUES (1, 0, now())",
)
_TABLES = (
    f"""CREATE TABLE stored_events (
    originator_id TEXT COLLATE "C" NOT NULL,
    originator_version BIGINT NOT NULL,
    topic TEXT COLLATE "C" NOT NULL,
    state BYTEA NOT NULL,
    {PLACE} BIGINT NOT NULL UNIQUE,
    PRIMARY KEY (originator_id, originator_version))""",
    "CREATE TABLE chain (sequence BIGINT PRIMARY KEY, hash BYTEA NOT NULL)",
    'CREATE TABLE meta (key TEXT COLLATE "C" PRIMARY KEY, value TEXT COLLATE "C" NOT NULL)',
    # Who writes the store: the fence rises each time somebody takes it, and each commit asks for its own.
    "CREATE TABLE owner (id BIGINT PRIMARY KEY CHECK (id = 1), fence BIGINT NOT NULL, who TEXT NOT NULL, "
    "since TIMESTAMPTZ NOT NULL)",
    "INSERT INTO owner VALUES (1, 0, 'nobody', now())",
    *HEARTBEAT,
    # Sharing the row lets nobody take the store between this question and the commit.
    f"""CREATE FUNCTION check_fence(mine BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM owner WHERE id = 1 AND fence = mine FOR SHARE;
    IF NOT FOUND THEN RAISE EXCEPTION 'another session has taken the store' USING ERRCODE = '{FENCED}'; END IF;
END $$""",
)
#: The statements that make the read models.
DDL = projections.ddl(TYPES)
#: The statements that make a store in an empty schema.
MAKE = (*_TABLES, *DDL)
#: Columns have types here, which no row can leave.
RAW = (
    f"SELECT e.{PLACE}, convert_to(e.originator_id, 'UTF8'), e.originator_version, convert_to(e.topic, 'UTF8'), "
    f"e.state, c.hash, CASE WHEN c.hash IS NULL THEN 'null' ELSE '{SOUND}' END "
    f"FROM stored_events e LEFT JOIN chain c ON c.sequence = e.{PLACE} "
)
RAW_PAGE = (
    f"SELECT {PLACE}, true, convert_to(originator_id, 'UTF8'), originator_version, convert_to(topic, 'UTF8'), state, "
    f"hash FROM stored_events JOIN chain ON sequence = {PLACE} WHERE {PLACE} >= ? ORDER BY {PLACE} LIMIT ?"
)
#: The rows that an update must change one after the other, in their order: see `projections`.
_IN_ORDER = "exit_orders"


# Both tables by one statement: each costs the driver as much as the rows in it.
_INSERT_EVENTS = f"INSERT INTO stored_events ({PLACE}, originator_id, originator_version, topic, state)"
_INSERT = (
    f"WITH stored AS ({_INSERT_EVENTS} "
    "SELECT * FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[], %s::bytea[])) "
    "INSERT INTO chain SELECT * FROM unnest(%s::bigint[], %s::bytea[])"
)
# Arrays of one take the server a tenth of a commit longer.
_INSERT_ONE = f"WITH stored AS ({_INSERT_EVENTS} VALUES (%s, %s, %s, %s, %s)) INSERT INTO chain VALUES (%s, %s)"


class Statement(NamedTuple):
    """What is sent: SQL with `%s` for each parameter."""

    sql: str
    params: Params


@lru_cache(maxsize=1024)
def translated(sql: str) -> str:
    """SQL with `%s` for each `?`."""
    return sql.replace("%", "%%").replace("?", "%s")


def inserting(events: Sequence[EventRow], chain: Sequence[ChainRow]) -> Iterator[Statement]:
    """What stores events and their hashes."""
    if not events:
        return
    if len(events) == 1:
        yield Statement(_INSERT_ONE, (*events[0], *chain[0]))
        return
    places, streams, versions, topics, states = zip(*events, strict=True)
    _, hashes = zip(*chain, strict=True)  # of the same places
    stored = _plain(places), _quoted(streams), _plain(versions), _quoted(topics), _binary(states)
    yield Statement(_INSERT, (*stored, stored[0], _binary(hashes)))


def writing(write: Write) -> Iterator[Statement]:
    """What writes rows of a read model: one statement for all of them, where their order does not matter."""
    sql, rows = write
    shape = projections.shape(sql) if len(rows) > 1 else None
    if shape is not None and shape.verb == "INSERT":
        rows = list({tuple(row[i] for i in shape.key_at): row for row in rows}.values())  # the last one stays
    elif shape is not None and (shape.table == _IN_ORDER or not _all_different(rows, shape.key_at)):
        shape = None
    if shape is None:
        yield from (Statement(translated(sql), row) for row in rows)
    else:
        many, casts = _of_arrays(sql)
        yield Statement(many, tuple(cast(column) for cast, column in zip(casts, zip(*rows, strict=True), strict=True)))


def _all_different(rows: Sequence[Params], key_at: Sequence[int]) -> bool:
    return len({tuple(row[i] for i in key_at) for row in rows}) == len(rows)


@lru_cache(maxsize=512)
def _of_arrays(sql: str) -> tuple[str, tuple[Callable[[Sequence[Any]], str], ...]]:
    """The same for many rows at once, each parameter an array; and what makes the arrays."""
    shape = projections.shape(sql)
    assert shape is not None
    kinds = [projections.KINDS[shape.table][column] for column in shape.columns]
    arrays = ", ".join(f"%s::{_ARRAYS[kind]}" for kind in kinds)
    casts = tuple(_quoted if kind == "text" else _plain for kind in kinds)
    if shape.verb == "INSERT":
        head, _, tail = sql.partition(" VALUES ")
        return f"{head} SELECT * FROM unnest({arrays}){tail[tail.index(')') + 1 :]}", casts
    return _update(shape, arrays), casts


def _update(shape: Shape, arrays: str) -> str:
    names = [f"c{number}" for number in range(len(shape.columns))]
    keys = set(shape.key_at)
    changes = ", ".join(
        f"{c} = v.{n}" for i, (c, n) in enumerate(zip(shape.columns, names, strict=True)) if i not in keys
    )
    same = " AND ".join(f"t.{shape.columns[i]} = v.{names[i]}" for i in shape.key_at)
    return f"UPDATE {shape.table} t SET {changes} FROM unnest({arrays}) AS v({', '.join(names)}) WHERE {same}"


# --- arrays as PostgreSQL writes them; a list would be looked through for its type, and be prepared anew for each


def _plain(values: Sequence[Any]) -> str:
    """Numbers."""
    return "{" + ",".join(["NULL" if v is None else repr(v) for v in values]) + "}"


def _quoted(values: Sequence[Any]) -> str:
    """Texts."""
    return "{" + ",".join(["NULL" if v is None else f'"{_escaped(v)}"' for v in values]) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _binary(values: Sequence[bytes]) -> str:
    """Bytes."""
    return "{" + ",".join([f'"\\\\x{v.hex()}"' for v in values]) + "}"


__all__ = [
    "DDL",
    "FENCED",
    "HEARTBEAT",
    "MAKE",
    "PLACE",
    "RAW",
    "RAW_PAGE",
    "TYPES",
    "Statement",
    "inserting",
    "translated",
    "writing",
]
