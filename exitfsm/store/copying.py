"""Copying a store into another one, on whatever engines: the same bytes, the same chain.

Rules of this room: events go over as they lie there, in commit order, in transactions of many; so a copy that was
broken off is a prefix, and goes on where it ended. Each hash is held against the one that the source has before it is
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from exitfsm.errors import StoreError
from exitfsm.projections import MARK, MARKS
from exitfsm.store import checking
from exitfsm.store.checking import Stored
from exitfsm.store.database import ChainRow, Database, EventRow
from exitfsm.store.exit_store import FOLD, FOLDED, OUTBOX, ExitStore
from exitfsm.store.mapping import chain_hash

#: Events in a transaction of the copy.
GROUP = 5000
_HASH = "SELECT hash FROM chain WHERE sequence = ?"


def copy_store(source: ExitStore, target: ExitStore, progress: Callable[[int, int], None] | None = None) -> int:
    """Copy all events of a store, with their hashes, read models and marks.

    Args:
        source: what is copied, as far as it reaches now; its writer may go on meanwhile.
        target: a store that is empty, or that a copy of the same store was begun in.
        progress: told now and then how many events are there, of how many.

    Returns:
        How many events were copied.

    Raises:
        StoreError: the target holds something else, the source is not what its hashes say, or one of them failed. What
            was copied until then stays, and another call goes on behind it.
    """
    end, head = source.chain_head()
    begun, ours = target.chain_head()
    if begun > end or (begun and bytes(source._rows(_HASH, (begun,))[0][0]).hex() != ours):
        raise StoreError(
            f"{target.where} holds {begun} events that are not the first of {source.where}: copy into a new store"
        )
    target.bind(source.meta.get("account", ""), source.meta.get("endpoint", ""))
    previous, done = bytes.fromhex(ours), begun
    rows = _behind(source, begun, end)
    while group := list(islice(rows, GROUP)):
        previous = _store(source, target, group, previous)
        done += len(group)
        if progress is not None:
            progress(done, end)
    _copy_marks(source, target)
    if target.chain_head() != (end, head):
        raise StoreError(f"the copy ends at {target.chain_head()}, and not at {(end, head)} as {source.where} does")
    return done - begun


def _behind(source: ExitStore, begun: int, end: int) -> Iterator[Stored]:
    """The events behind the first `begun`, in order."""
    expected = begun + 1
    while expected <= end:
        page = checking.page(source, expected, min(expected + GROUP - 1, end))
        for row in page:
            if row.sequence != expected:
                break
            yield row
            expected += 1
        else:
            if page:
                continue
        raise StoreError(f"{source.where} is not whole: event {expected} is missing; see exitfsm verify")


def _store(source: ExitStore, target: ExitStore, group: list[Stored], previous: bytes) -> bytes:
    """Store events in one transaction; returns the hash of the last one."""
    with target._translated(write=True) as db:
        models = target._writer.models
        target._writer.give_up()  # what it knows of the newest event is out of date after this
        try:
            with db.transaction():
                previous = _insert(source, target, db, group, previous)
        finally:
            models.forget()
    return previous


def _insert(source: ExitStore, target: ExitStore, db: Database, group: list[Stored], previous: bytes) -> bytes:
    events: list[EventRow] = []
    chain: list[ChainRow] = []
    models = target._writer.models
    for row in group:
        if not row.follows(previous) or row.hash is None:
            raise StoreError(f"event {row.sequence} of {source.where} is not what was stored; see exitfsm verify")
        stored = (row.stream_id, row.version, row.topic, row.state)
        previous = chain_hash(previous, row.sequence, stored)
        events.append((row.sequence, *stored))
        chain.append((row.sequence, previous))
        models.apply(checking.read(source, row))
    db.insert(events, chain, models.writes())
    return previous


def _copy_marks(source: ExitStore, target: ExitStore) -> None:
    sql = f"SELECT {', '.join(MARKS)}, symbol, position_id FROM position_tracking WHERE {MARKS[-1]} IS NOT NULL"
    if marks := source._rows(sql):
        target._write([(MARK, marks)])
    if beside := [(key, text) for key, text in source.meta.items() if key.startswith(FOLDED) or key == OUTBOX]:
        target._write([(FOLD, beside)])


__all__ = ["GROUP", "copy_store"]
