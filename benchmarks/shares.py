"""Where the processor's time goes, of a decision and of a fold: modules and functions in which it is spent, sampled.

The share of one is what was spent in it and in what it calls that is not Python (SQLite, msgspec, decimals).
Linux and macOS only. LIVES in the environment makes the fold longer or shorter.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType

from durable import bar, open_positions
from lives import EACH, T0, fill, place
from side_by_side import Table, main

from exitfsm.position import fold
from exitfsm.store import ExitStore

LIVES = int(os.environ.get("LIVES", "40000"))
AT_ONCE = 1_000
_EVERY_S = 0.001
_SHOWN = 12
_HERE = Path(__file__).parent


class Sampled:
    """Counts in which function the program is, again and again, while a block runs."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample inside the block; may be entered many times."""
        before = signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def _take(self, _: int, frame: FrameType | None) -> None:
        if frame is None or Path(frame.f_code.co_filename).parent == _HERE:
            return
        module = frame.f_globals.get("__name__", "?")
        self.seen[module, frame.f_code.co_qualname] += 1

    def by_function(self) -> list[tuple[str, float]]:
        """Each function and its share, the largest first."""
        return _shares(Counter({".".join(name): count for name, count in self.seen.items()}))

    def by_module(self) -> list[tuple[str, float]]:
        """The same of modules, those outside the library together."""
        modules: Counter[str] = Counter()
        for (module, _), count in self.seen.items():
            modules[module if module.startswith("exitfsm.") else "elsewhere"] += count
        return _shares(modules)


def _shares(seen: Counter[str]) -> list[tuple[str, float]]:
    total = seen.total() or 1
    return [(name, count / total) for name, count in seen.most_common()]


def decisions(sampled: Sampled, folder: Path, rounds: int) -> None:
    """A thousand positions that breach in one bar, in one commit."""
    bars = [bar(number, T0 + timedelta(minutes=1)) for number in range(AT_ONCE)]
    for number in range(rounds):
        with ExitStore(folder / f"{number}.db") as store:
            engine = open_positions(store, AT_ONCE)
            store.settle()
            with sampled.sampling():
                engine.on_bars(bars)


def folded(sampled: Sampled, folder: Path, rounds: int) -> None:
    """Whole lives, read and folded."""
    fill(folder / "lives.db", events=LIVES * EACH)
    with ExitStore(folder / "lives.db", read_only=True) as store:
        for _round in range(rounds):
            with sampled.sampling():
                for _, events in store.histories(store.stream_ids()):
                    fold(None, events)


def measure(table: Table) -> None:
    """Fill the table."""
    place().mkdir(exist_ok=True)
    works: tuple[tuple[str, Callable[[Sampled, Path, int], None], int], ...] = (
        ("a decision", decisions, 40),
        ("a fold", folded, 4),
    )
    for what, work, rounds in works:
        sampled = Sampled()
        with tempfile.TemporaryDirectory(dir=place()) as folder:
            work(sampled, Path(folder), table.rounds or rounds)
        for name, share in (*sampled.by_module()[:_SHOWN], *sampled.by_function()[:_SHOWN]):
            table.figure(f"{what}: `{name.removeprefix('exitfsm.')}`", 100 * share, "%")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
