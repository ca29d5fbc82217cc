"""Any single bit that changes in the log is found: every one of them, in a log of a thousand events.

A change is found at the very event in which it lies: what stands before that event is untouched, so that holding the
changed row against the hash of the row before it is what a whole verification does there, and all it takes. So every
bit of every row is flipped and put through that step: `_Run._check_link`, or, where the row still has its types, the
`Stored.follows` that it asks. Whole files with one flipped bit, verified whole, are the proof that the step is taken.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stores import tamper

from exitfsm import ExitStore, StoreError
from exitfsm.audit import verify
from exitfsm.audit.verify import _Run
from exitfsm.projections import MARKS, TABLES
from exitfsm.store import checking
from exitfsm.store.checking import GENESIS, Stored, _stored

TYPES = "text integer text blob blob"
Row = tuple[int, bytes, int, bytes, bytes, bytes]


def rows_of(path: Path) -> list[Row]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        sql = (
            "SELECT rowid, CAST(originator_id AS BLOB), originator_version, CAST(topic AS BLOB), state, hash "
            "FROM stored_events JOIN chain ON sequence = rowid ORDER BY rowid"
        )
        return db.execute(sql).fetchall()


def flipped(row: Row, columns: range = range(4)) -> Iterator[Row]:
    """The row with each single bit of these columns changed: numbers as the eight bytes that they take at most."""
    for column in columns:
        value = row[column]
        content = struct.pack(">q", value) if isinstance(value, int) else value
        for at in range(len(content)):
            for bit in range(8):
                other: Any = bytearray(content)
                other[at] ^= 1 << bit
                changed: Any = bytes(other) if isinstance(value, bytes) else struct.unpack(">q", other)[0]
                yield (*row[:column], changed, *row[column + 1 :])  # type: ignore[misc]


def undetected(rows: list[Row], which: range) -> tuple[int, list[tuple[int, int]]]:
    """How many bits were flipped in these rows, and the row and bit of every change that went unseen."""
    with ExitStore(":memory:") as store:
        run = _Run(store, [], None)
        count, unseen = 0, []
        for index in which:
            before, row = rows[index - 1][5] if index else GENESIS, rows[index]
            for column in (4, 5):  # bytes stay bytes: what `_check_link` asks is all there is
                found = unseen_bits(_stored((*row, TYPES)), column, before)
                count += 8 * len(row[column])  # type: ignore[arg-type]
                unseen += [(index, bit) for bit in found]
            for bit, changed in enumerate(flipped(row)):
                count += 1
                run._head = before
                run._check_link(_stored((*changed, TYPES)), index + 1)
                if not run._findings:
                    unseen.append((index, bit))
                run._findings.clear()
    return count, unseen


def unseen_bits(intact: Stored, column: int, before: bytes) -> list[int]:
    """The bits of the state (4) or the hash (5) whose change is not seen."""
    sequence, stream, version, topic, state, hash_, _ = intact
    assert hash_ is not None
    content = bytearray(state if column == 4 else hash_)
    unseen = []
    for bit in range(8 * len(content)):
        content[bit >> 3] ^= 1 << (bit & 7)
        told = (bytes(content), hash_) if column == 4 else (state, bytes(content))
        if Stored(sequence, stream, version, topic, *told).follows(before):
            unseen.append(bit)
        content[bit >> 3] ^= 1 << (bit & 7)
    return unseen


def test_the_untouched_log_is_not_suspected(thousand: Path) -> None:
    rows = rows_of(thousand)
    with ExitStore(":memory:") as store:
        run = _Run(store, [], None)
        for expected, row in enumerate(rows, 1):
            run._check_link(_stored((*row, TYPES)), expected)
        assert run._findings == []
    assert len(rows) >= 1000


def test_every_bit_of_some_events_is_found(thousand: Path) -> None:
    rows = rows_of(thousand)
    count, unseen = undetected(rows, range(0, len(rows), 97))
    assert unseen == []
    assert count > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_bit_of_a_thousand_events_is_found(thousand: Path, part: int) -> None:
    rows = rows_of(thousand)[:1000]
    count, unseen = undetected(rows, range(part, 1000, 4))
    assert unseen == []
    assert count > 250_000


def test_verification_finds_what_the_step_finds(exits: Path) -> None:
    """One random bit in each column of random rows, written into the file, and the file verified whole."""
    rng = random.Random(7)
    rows, names = rows_of(exits), ("rowid", "originator_id", "originator_version", "topic", "state")
    original = exits.read_bytes()
    for column, name in enumerate(names):
        for _ in range(2):
            row = rng.choice(rows)
            other = rng.choice(list(flipped(row, range(column, column + 1))))
            changed = other[column]
            with contextlib.closing(sqlite3.connect(exits)) as db, db:
                cast = "CAST(? AS TEXT)" if name in ("originator_id", "topic") else "?"
                db.execute(f"UPDATE stored_events SET {name} = {cast} WHERE rowid = ?", (changed, row[0]))
            found = verify(exits)
            assert not found.ok, (name, row, changed)
            exits.write_bytes(original)


def everything(path: Path) -> list[Any]:
    """All that a store says, marks and what it says of itself aside."""
    with ExitStore(path, read_only=True) as store:
        said: list[Any] = list(checking.stored(store))
        for name, table in TABLES.items():
            columns = ", ".join(c for c in table.columns if c not in MARKS)
            said.append(store._rows(f"SELECT {columns} FROM {name} ORDER BY {', '.join(table.key)}"))
        return said


@pytest.mark.parametrize("seed", range(3))
def test_a_bit_of_the_file_is_found_or_says_nothing(tmp_path: Path, make: Any, seed: int) -> None:
    """Of a flipped bit anywhere in the file: it is found, or it lies where nothing stands and all reads as before."""
    make("small.db", re_enter=False)
    path = tmp_path / "small.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    original, before = path.read_bytes(), everything(path)
    rng = random.Random(seed)
    for _ in range(60):
        content = bytearray(original)
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            ok = verify(path).ok
        except StoreError:
            continue  # not even a store any more
        assert not ok or everything(path) == before, at
    path.write_bytes(original)
    assert verify(path).ok


def test_bytes_kept_as_text_are_found(exits: Path) -> None:
    """A single bit of a record's header makes the same bytes text instead of a blob."""
    tamper(exits, "UPDATE stored_events SET state = CAST(state AS TEXT) WHERE rowid = 5")
    assert any("stored as text integer text text blob" in f.what for f in verify(exits).findings)
