"""The tables of a store on SQLite, and the queries of a check.

Rules of this room: text only, no connection.
"""

from __future__ import annotations

from exitfsm import projections

#: Marks the file as ours ("ExFS"), where SQLite and `file` look for it.
APPLICATION_ID = 0x45784653

#: How SQLite spells the kinds of columns; NUMERIC stores the nearest float, and a whole one as an int.
TYPES: dict[projections.Kind, str] = {
    "text": "TEXT",
    "number": "NUMERIC",
    "integer": "INTEGER",
    "place": "INTEGER PRIMARY KEY AUTOINCREMENT",
}
#: The statements that make the read models.
DDL = projections.ddl(TYPES)
TABLES = (
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
RAW = (
    "SELECT e.rowid, CAST(e.originator_id AS BLOB), e.originator_version, CAST(e.topic AS BLOB), "
    "CAST(e.state AS BLOB), CAST(c.hash AS BLOB), typeof(e.originator_id) || ' ' || typeof(e.originator_version) || "
    "' ' || typeof(e.topic) || ' ' || typeof(e.state) || ' ' || typeof(c.hash) "
    "FROM stored_events e LEFT JOIN chain c ON c.sequence = e.rowid "
)
# The types count here as well, or a row could hide from reads.
RAW_PAGE = (
    "SELECT rowid, typeof(originator_id) = 'text' AND typeof(topic) = 'text', "
    "CAST(originator_id AS BLOB), originator_version, CAST(topic AS BLOB), state, hash "
    "FROM stored_events JOIN chain ON sequence = rowid WHERE rowid >= ? ORDER BY rowid LIMIT ?"
)
#: What the program that docs/how-to/keep-a-copy.md recommends puts into a file; it holds nothing that is read here.
OF_LITESTREAM = {
    ("table", "_litestream_seq"): "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)",
    ("table", "_litestream_lock"): "CREATE TABLE _litestream_lock (id INTEGER)",
}
SCHEMA = "SELECT type, name, sql FROM sqlite_schema WHERE substr(name, 1, 7) <> 'sqlite_'"

__all__ = [
    "APPLICATION_ID",
    "DDL",
    "OF_LITESTREAM",
    "RAW",
    "RAW_PAGE",
    "SCHEMA",
    "TABLES",
    "TYPES",
]
