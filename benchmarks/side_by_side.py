"""Two ways of doing the same work, timed in turns in one run: the shared part of every benchmark here.

A figure is a ratio of two things that were measured side by side, the median over several rounds, so that a busy
machine bends both alike. What is timed is a `Timed`: a function that does the work once and returns the seconds; `cpu`,
`wall` and `process` make them. A script fills a `Table` and hands itself to `main`, which first asks `exactness`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from exactness import differences

#: Does the work once; returns the seconds it took.
Timed = Callable[[], float]


def cpu(work: Callable[[], object]) -> Timed:
    """The processor time of this process: for work that waits for nothing."""
    return lambda: _taken(time.process_time, work)


def wall(work: Callable[[], object]) -> Timed:
    """The time on the wall: for work that waits for a disk."""
    return lambda: _taken(time.perf_counter, work)


def process(*argv: str, on_the_wall: bool = False, prepare: Callable[[], object] = lambda: None) -> Timed:
    """A whole process, start-up included: its processor time, or its time on the wall.

    Args:
        argv: the program and its arguments; its output goes nowhere.
        on_the_wall: take the time on the wall.
        prepare: called before each run, outside the time.
    """

    def run() -> float:
        prepare()
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        taken, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        return taken if on_the_wall else after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return run


def _taken(clock: Callable[[], float], work: Callable[[], object]) -> float:
    gc.collect()
    begun = clock()
    work()
    return clock() - begun


@dataclass(frozen=True)
class Row:
    """One figure, its goal, and what was measured. `met` is None where there is no goal."""

    what: str
    figure: float
    unit: str
    goal: str
    met: bool | None
    measured: str


@dataclass
class Table:
    """The figures of one script.

    Attributes:
        rounds: how often each pair is timed; the script's own number unless the command line says otherwise.
    """

    rounds: int | None = None
    rows: list[Row] = field(default_factory=list)

    def cost(
        self,
        what: str,
        ours: Timed,
        bare: Timed,
        *,
        rounds: int = 7,
        at_most: float | None = None,
        count: int = 1,
    ) -> float:
        """How many times the bare way's time ours takes (less is better).

        Args:
            what: the work, in a few words.
            ours, bare: the two ways.
            rounds: how often each is timed, in turns.
            at_most: the goal.
            count: how many things one run does; shown as time for each.
        """
        took, bare_took, ratio = self._in_turns(ours, bare, rounds)
        self._add(what, ratio, "×", None, at_most, f"{_each(took, count)} against {_each(bare_took, count)}")
        return ratio

    def speed(
        self,
        what: str,
        ours: Timed,
        bare: Timed,
        *,
        count: int,
        rounds: int = 7,
        at_least: float | None = None,
    ) -> float:
        """Our speed as a part of the bare way's (more is better). Returns ours in things per second."""
        took, bare_took, ratio = self._in_turns(ours, bare, rounds)
        self._add(what, 1 / ratio, "×", at_least, None, f"{count / took:,.0f}/s against {count / bare_took:,.0f}/s")
        return count / took

    def figure(
        self,
        what: str,
        value: float,
        unit: str = "",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        measured: str = "",
    ) -> None:
        """A figure that is no ratio: a size, a number of differences, a rate."""
        self._add(what, value, unit, at_least, at_most, measured)

    def _in_turns(self, ours: Timed, bare: Timed, rounds: int) -> tuple[float, float, float]:
        """Median seconds of each, and the median of the rounds' ratios; one round before them warms up."""
        ours()
        bare()
        pairs = [(ours(), bare()) for _ in range(self.rounds or rounds)]
        return median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs)

    def _add(
        self, what: str, value: float, unit: str, at_least: float | None, at_most: float | None, measured: str
    ) -> None:
        goal, met = "", None
        if at_least is not None:
            goal, met = f"≥ {at_least:,g}", value >= at_least
        elif at_most is not None:
            goal, met = f"≤ {at_most:,g}", value <= at_most
        self.rows.append(Row(what, value, unit, goal, met, measured))

    def markdown(self) -> str:
        """The rows as a table for a page."""
        lines = ["| what | figure | goal | | measured |", "|---|---|---|---|---|"]
        words = {True: "met", False: "short", None: ""}
        for row in self.rows:
            value = f"{row.figure:,.0f}" if row.figure == int(row.figure) or row.figure >= 1000 else f"{row.figure:.2f}"
            shown = f"{value} {row.unit}".strip()
            lines.append(f"| {row.what} | {shown} | {row.goal} | {words[row.met]} | {row.measured} |")
        return "\n".join(lines)


def _each(seconds: float, count: int) -> str:
    value = seconds / count
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def main(
    about: str,
    measure: Callable[[Table], object],
    argv: Sequence[str] | None = None,
    *,
    stores: Mapping[str, Callable[[Table], object]] | None = None,
) -> int:
    """Read the command line, measure, print the table; returns 0, for a figure is no test.

    With `stores`, `--store NAME` measures that way instead. Where exits are not exactly what the rules ask for it
    measures nothing, and returns 1.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, help="how often each pair is timed")
    if stores:
        parser.add_argument("--store", choices=sorted(stores), help="on which store, in the place of a file")
    given = parser.parse_args(argv)
    chosen = (stores or {}).get(getattr(given, "store", None) or "", measure)
    table = Table(rounds=given.rounds)
    wrong, asked = differences()
    table.figure(
        "exits that differ from the exact rule, at and around thresholds", wrong, at_most=0, measured=f"of {asked:,}"
    )
    if not wrong:
        chosen(table)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    if given.json:
        print(json.dumps({"machine": machine, "rows": [asdict(row) for row in table.rows]}, indent=1))
    else:
        print(f"{table.markdown()}\n\n{machine}")
    return 1 if wrong else 0
