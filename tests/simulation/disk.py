"""The disk under a store: the real `ExitStore` on a real file in memory, whose transactions fail as the seed has it.

What is durable is read here from the transactions themselves, as bytes, so that the oracle's log owes nothing to what
the manager believes. Power that fails takes the newest commits along: the files are put back as they lay before them.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from exitfsm.errors import StoreError
from exitfsm.events import Recorded
from exitfsm.store import ExitStore
from exitfsm.store.database import ChainRow, EventRow, Write
from exitfsm.store.mapping import EventMapper
from simulation.faults import Faults
from simulation.loop import ProcessKilled, ProcessLoop, World
from simulation.trace import Trace

_SUFFIXES = ("", "-wal")
#: Names of the events that are a decision to send an order.
_INTENTS = ("exit_triggered", "exit_retried")


_BUSY = "another program holds the file, and nothing was stored: close that program"
_FULL = "the disk is full and nothing was stored: free space, then try again"
_FAILED = "the disk failed; whether it was stored is not known: check the disk, then read the stream"


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
        db.abandon()
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
        self._begin, self._commit, self._give_up, self._insert = db.begin, db.commit, db.give_up, db.insert
        self._where = db.where
        self._pending: list[EventRow] = []
        db.begin = self.begin  # type: ignore[method-assign]  # the failures of a disk, where the disk would fail
        db.commit = self.commit  # type: ignore[method-assign]
        db.give_up = self.give_up  # type: ignore[method-assign]
        db.insert = self.insert  # type: ignore[method-assign]

    def begin(self) -> None:
        if self._loop.dead:
            raise ProcessKilled
        faults = self._disk._faults
        if faults.happens("busy", 34):
            raise self._failure(_BUSY)
        if faults.happens("disk full", 35):
            raise self._failure(_FULL)
        self._pending.clear()
        self._begin()

    def _failure(self, what: str) -> StoreError:
        return StoreError(f"{self._where}: {what}")

    def insert(self, events: Sequence[EventRow], chain: Sequence[ChainRow], writes: Iterable[Write]) -> None:
        self._pending += events
        self._insert(events, chain, writes)

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
            raise self._failure(_FAILED)
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
            raise self._failure(_FAILED)
