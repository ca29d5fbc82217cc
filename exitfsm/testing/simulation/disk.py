"""The disk under a store: the real `ExitStore` on a real file in memory, whose transactions fail as the seed has it.

What is durable is read here from the transactions themselves, as bytes, so that the oracle's log owes nothing to what
the manager believes. Power that fails takes the newest commits along: the files are put back as they lay before them.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exitfsm.events import Recorded
from exitfsm.store import ExitStore
from exitfsm.store.mapping import EventMapper
from exitfsm.testing.simulation.faults import Faults
from exitfsm.testing.simulation.loop import ProcessKilled, ProcessLoop, World
from exitfsm.testing.simulation.trace import Trace

_SUFFIXES = ("", "-wal")
#: Names of the events that are a decision to send an order.
_INTENTS = ("exit_triggered", "exit_retried")


def failure(code: int, text: str) -> sqlite3.OperationalError:
    """What SQLite raises for a failure of the disk."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class Disk:
    """One machine's disk, with one store on it.

    Args:
        folder: a directory of its own.
        on_commit: told of each durable commit: the machine, and its events as read back from their bytes.
        on_kill: asked to kill the process that writes, after so many more steps (0: at once).

    Attributes:
        stores: everything that was opened here; a dead process leaves its store open, as it leaves its memory.
        power_at: the sequence to which the next kill takes the store back; None for a kill that loses nothing.
        lost_power: the last kill took commits along.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        world: World,
        rng: random.Random,
        faults: Faults,
        trace: Trace,
        on_commit: Callable[[Disk, list[Recorded]], None],
    ) -> None:
        self.name, self._folder = name, folder
        self._world, self._rng, self._faults, self._trace = world, rng, faults, trace
        self._on_commit = on_commit
        self._mapper = EventMapper()
        self._generation = 0
        self.sequence = 0
        self.power_at: int | None = None
        self.lost_power = False
        self.stores: list[ExitStore] = []

    @property
    def path(self) -> Path:
        """Where the store lies; another place after it was lost, or put back."""
        return self._folder / f"{self.name}-{self._generation}.db"

    def open(self, loop: ProcessLoop, kill: Callable[[int], None], written: Callable[[list[str]], None]) -> ExitStore:
        """Open the store for a process.

        Args:
            kill: kills the process after so many more of its steps.
            written: told the events that a transaction is about to make durable, by name and stream.

        Raises:
            StoreError: as `ExitStore` does.
        """
        store = ExitStore(self.path)
        self.stores.append(store)
        _Transactions(self, store, loop, kill, written)
        return store

    # --- the end of a process -----------------------------------------------------------------------------------------

    def died(self, store: ExitStore) -> None:
        """The process that had the store open is dead: what it did not commit is gone, and its lock with it."""
        db = store._db
        if db is None:
            return
        db.give_up()
        fd, db._lock_fd = db._lock_fd, None
        if fd is not None:
            os.close(fd)
        if self.power_at is not None:
            self._put_back()

    def lose(self) -> None:
        """The file is gone, or set aside: the machine begins with an empty one."""
        self._generation += 1
        self.sequence = 0

    def damage(self) -> None:
        """Something has written over the file."""
        with self.path.open("r+b") as file:
            file.write(b"\0" * 100)

    def keep(self) -> None:
        """Note how the store lies now, for power that is about to fail."""
        self.power_at = self.sequence
        for suffix in _SUFFIXES:
            source = Path(f"{self.path}{suffix}")
            if source.exists():
                shutil.copyfile(source, f"{self.path}.kept{suffix}")

    def _put_back(self) -> None:
        before = self.path
        self._generation += 1
        for suffix in _SUFFIXES:
            kept = Path(f"{before}.kept{suffix}")
            if kept.exists():
                kept.replace(f"{self.path}{suffix}")
        self.path.chmod(0o600)
        self.sequence, self.power_at, self.lost_power = self.power_at or 0, None, True

    def close(self) -> None:
        """Close everything."""
        for store in self.stores:
            store.close()


class _Transactions:
    """Stands before the transactions of one open store."""

    def __init__(
        self,
        disk: Disk,
        store: ExitStore,
        loop: ProcessLoop,
        kill: Callable[[int], None],
        written: Callable[[list[str]], None],
    ) -> None:
        db = store._db
        assert db is not None
        self._disk, self._loop, self._kill, self._told = disk, loop, kill, written
        self._begin, self._commit, self._give_up, self._insert = db.begin, db.commit, db.give_up, db.recorder.insert
        self._pending: list[tuple[int, str, int, str, bytes]] = []
        db.begin = self.begin  # type: ignore[method-assign]  # the failures of a disk, where the disk would fail
        db.commit = self.commit  # type: ignore[method-assign]
        db.give_up = self.give_up  # type: ignore[method-assign]
        db.recorder.insert = self.insert  # type: ignore[method-assign, assignment]

    def begin(self) -> Any:
        if self._loop.dead:
            raise ProcessKilled
        faults = self._disk._faults
        if faults.happens("busy", 34):
            raise failure(sqlite3.SQLITE_BUSY, "database is locked")
        if faults.happens("disk full", 35):
            raise failure(sqlite3.SQLITE_FULL, "database or disk is full")
        self._pending.clear()
        return self._begin()

    def insert(
        self,
        cursor: Any,
        events: Sequence[tuple[int, str, int, str, bytes]],
        chain: Sequence[tuple[int, bytes]],
        writes: Any,
    ) -> None:
        self._pending += events
        self._insert(cursor, events, chain, writes)

    def give_up(self) -> None:
        self._pending.clear()
        self._give_up()

    def commit(self) -> None:
        if self._loop.dead:
            raise ProcessKilled
        if not self._pending:
            self._commit()
            return
        disk, faults = self._disk, self._disk._faults
        lines = [f"{topic.partition('.')[0]} {stream}" for _, stream, _, topic, _ in self._pending]
        self._told(lines)
        decides = any(line.startswith(_INTENTS) for line in lines)
        if faults.happens("killed at the commit", 1 if decides else 40, "before"):
            self._kill(0)
            raise ProcessKilled
        if faults.happens("commit fails", 35):
            raise failure(sqlite3.SQLITE_IOERR, "disk I/O error")
        if disk.power_at is None and faults.happens("power", 38):
            disk.keep()
            self._kill(disk._rng.randint(1, 60))
        self._commit()
        recorded = [disk._mapper.recorded(*row) for row in self._pending]
        self._pending.clear()
        disk.sequence = recorded[-1].sequence
        disk._on_commit(disk, recorded)
        if faults.happens("killed at the commit", 3 if decides else 40, "after"):
            self._kill(0)
            raise ProcessKilled
        if faults.happens("commit unclear", 36):
            faults.seen(2)
            raise failure(sqlite3.SQLITE_IOERR, "disk I/O error")
