"""Digests of what must be the same bytes on every Python: `python tests/same_bytes.py` prints one a line.

The frozen stores as they read back, and all that happens on simulated days of fixed seeds, one for each kind of broker
and disk that those seeds bring. `python3 dev pythons` compares them.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import msgspec
from corpus.freeze import readings
from simulation import Day

from exitfsm.store import ExitStore

CORPUS = Path(__file__).parent / "corpus"
#: (seed, day): small days, so that each takes a second or two.
DAYS = ((5, 0), (5, 1), (11, 1), (11, 2))


def corpus(frozen: Path) -> str:
    """A frozen store, opened and folded again: its events, positions, rows and chain."""
    with (
        tempfile.TemporaryDirectory(prefix="exitfsm-") as directory,
        ExitStore(shutil.copy(frozen, Path(directory, "exits.db"))) as store,
    ):
        store.rebuild()
        return hashlib.sha256(msgspec.json.encode(readings(store), order="deterministic")).hexdigest()


def day(seed: int, number: int) -> str:
    """A simulated day: every line of its trace."""
    result = Day(seed, number, symbols=10, minutes=6).run()
    assert result.violation is None, result.violation
    return result.digest


if __name__ == "__main__":
    for store in sorted(CORPUS.glob("*.store")):
        print(store.name, corpus(store))
    for seed, number in DAYS:
        print(f"day {seed}/{number}", day(seed, number))
