"""Runs simulated days: `python3 dev simulation --seed S --days N`.

Exit code 0: nothing was violated, and a run that is long enough has exercised every row of the fault table that it
claims. 1: something was violated, or never exercised. 2: the command line is wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import secrets
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

from simulation.day import Day, DayResult
from simulation.faults import CLAIMED, ROWS
from simulation.oracle import CHECKS
from simulation.profile import BROKERS, OTHERS
from simulation.shrink import ranges, shrink
from simulation.worlds import KINDS, Account, draw_account

#: From so many days on, a row of the fault table that was never exercised fails the run.
LONG_DAYS = 100


@dataclass(slots=True)
class Run:
    """The sum of the days of a run."""

    seed: int
    bare: bool = False
    days: int = 0
    exits: int = 0
    closed: int = 0
    events: int = 0
    faults: int = 0
    deaths: int = 0
    settled_s: float = 0.0
    rows: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    brokers: Counter[str] = field(default_factory=Counter)
    machines: Counter[str] = field(default_factory=Counter)
    violations: list[dict[str, Any]] = field(default_factory=list)
    digests: Any = field(default_factory=sha256)

    def add(self, day: DayResult) -> None:
        """One more day."""
        self.days += 1
        self.exits += day.exits
        self.closed += day.closed
        self.events += day.events
        self.faults += day.faults
        self.deaths += day.deaths
        self.settled_s = max(self.settled_s, day.settled_s)
        self.rows += day.rows
        self.kinds += day.kinds
        self.checks += day.checks
        self.brokers[day.profile.broker] += 1
        self.machines[day.profile.machines] += 1
        self.digests.update(day.digest.encode())
        if day.violation is not None:
            self.violations.append({"day": day.number, "what": day.violation, "digest": day.digest})

    @property
    def never(self) -> list[int]:
        """The claimed rows of the fault table that were not exercised."""
        return [number for number in CLAIMED if not self.rows[number]]

    @property
    def never_happened(self) -> list[str]:
        """What only some days have, and none of these had."""
        return [] if self.bare else [kind for kind in KINDS if not self.kinds[kind]]

    @property
    def failed(self) -> bool:
        """True for a run that proves the opposite of what it is for, or not enough."""
        return bool(self.violations) or (self.days >= LONG_DAYS and bool(self.never or self.never_happened))

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "seed": self.seed,
            "days": self.days,
            "exits": self.exits,
            "closed_by_other_hands": self.closed,
            "events": self.events,
            "faults": self.faults,
            "process_deaths": self.deaths,
            "longest_until_settled_s": self.settled_s,
            "fault_table": {str(row.number): self.rows[row.number] for row in ROWS if not row.elsewhere},
            "covered_elsewhere": {str(row.number): row.elsewhere for row in ROWS if row.elsewhere},
            "never_exercised": self.never,
            "never_happened": self.never_happened,
            "fault_kinds": dict(sorted(self.kinds.items())),
            "checks": {name: self.checks[name] for name in CHECKS},
            "brokers": dict(sorted(self.brokers.items())),
            "machines": dict(sorted(self.machines.items())),
            "violations": self.violations,
            "digest": self.digests.hexdigest(),
        }


def main(arguments: Iterable[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 dev simulation", description="Simulated days of the real manager, under faults."
    )
    parser.add_argument(
        "--seed", type=seed, default=1, help="names the run; the same seed gives the same bytes; now: one that is drawn"
    )
    parser.add_argument("--days", type=int, default=1, help="how many days to simulate")
    parser.add_argument("--first", type=int, default=0, help="number of the first day; a day does not depend on others")
    parser.add_argument("--symbols", type=int, help="how many symbols are traded; drawn for each day when not given")
    parser.add_argument("--minutes", type=int, help="length of the session; drawn for each day when not given")
    parser.add_argument("--broker", choices=(*BROKERS, *OTHERS), help="the broker; drawn for each day when not given")
    parser.add_argument("--without", default="", help="numbers of faults that do not happen, as 3,17,40-90")
    parser.add_argument(
        "--shrink", type=int, default=0, metavar="TRIES", help="find fewer faults with which a day fails"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that the days are shared out to")
    parser.add_argument(
        "--bare",
        action="store_true",
        help="nothing of what only some days have: rows in lots, fees in the base, bars that form, orders of others, …",
    )
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    given = parser.parse_args(list(arguments) if arguments is not None else None)
    run, began = Run(given.seed, given.bare), cpu_s()
    if not given.json:
        print(f"seed {given.seed}", flush=True)
    for day in _days(given):
        run.add(day)
        if not given.json:
            _print_day(day)
        if day.violation is not None and not given.trace:
            _print_violation(given, day)
    _print_run(run, cpu_s() - began, as_json=given.json)
    return 1 if run.failed else 0


def seed(text: str) -> int:
    """The seed that is named; `now` draws one."""
    return secrets.randbelow(10**9) if text == "now" else int(text)


def cpu_s() -> float:
    """Seconds of processor that this process and its children have taken, those that have ended."""
    return sum(os.times()[:4])


def _days(given: argparse.Namespace) -> Iterator[DayResult]:
    """The days of a run in order, whichever of several processes has run them."""
    wanted = range(given.first, given.first + given.days)
    one = partial(_one_day, given)
    if given.jobs <= 1 or given.trace:
        yield from map(one, wanted)
        return
    with ProcessPoolExecutor(given.jobs) as processes:
        yield from processes.map(one, wanted)


def _one_day(given: argparse.Namespace, number: int) -> DayResult:
    gc.disable()  # a day's garbage is taken away after it
    day = Day(
        given.seed,
        number,
        without=numbers(given.without),
        symbols=given.symbols,
        minutes=given.minutes,
        broker=given.broker,
        show=_show if given.trace else None,
        account=_account(given, number),
    ).run()
    gc.collect()
    return day


def _account(given: argparse.Namespace, number: int) -> Account | None:
    """What the account of a day shows beside its positions, and what happens to it; by default as the seed has it."""
    return None if given.bare else draw_account(random.Random(f"{given.seed}/{number}/kind"))


def numbers(text: str) -> frozenset[int]:
    """The numbers that `3,17,40-90` names."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _show(line: str) -> None:
    print(line)


def _print_day(day: DayResult) -> None:
    p = day.profile
    print(
        f"day {day.number}: {p.broker}, {p.machines}, {p.symbols} symbols: {day.exits} exits, {day.faults} faults, "
        f"{day.deaths} deaths, settled after {day.settled_s:.0f} s, {day.digest[:16]}",
        flush=True,
    )


def _print_violation(given: argparse.Namespace, day: DayResult) -> None:
    for line in day.story:
        print(line, file=sys.stderr)
    again = f"--seed {given.seed} --first {day.number}"
    for name in ("symbols", "minutes", "broker"):
        if getattr(given, name) is not None:
            again += f" --{name} {shlex.quote(str(getattr(given, name)))}"
    if given.bare:
        again += " --bare"
    if given.shrink:
        without = numbers(given.without) | _shrunk(given, day)
        again += f" --without {ranges(without)}"
        print(f"fails with {day.faults - len(without)} of {day.faults} faults", file=sys.stderr)
    elif given.without:
        again += f" --without {given.without}"
    print(f"day {day.number}: {day.violation}", file=sys.stderr)
    print(f"again: python3 dev simulation {again} --trace", file=sys.stderr)


def _shrunk(given: argparse.Namespace, day: DayResult) -> frozenset[int]:
    """The faults that the day needs not, to fail in the same way."""
    kind = (day.violation or "").partition(":")[0]

    def fails(without: frozenset[int]) -> bool:
        out = numbers(given.without) | without
        again = Day(
            given.seed,
            day.number,
            without=out,
            symbols=given.symbols,
            minutes=given.minutes,
            broker=given.broker,
            account=_account(given, day.number),
        ).run()
        return again.violation is not None and again.violation.partition(":")[0] == kind

    return shrink(day.faults, fails, given.shrink)


def _print_run(run: Run, cpu_s: float, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**run.as_dict(), "cpu_s": round(cpu_s, 1)}, indent=1))
        return
    print(
        f"\n{run.exits} exits and {run.closed} positions closed by other hands on {run.days} days; {run.events} events"
    )
    print(
        f"{run.faults} faults, {run.deaths} deaths of processes; {cpu_s:.1f} s of CPU; digest {run.digests.hexdigest()}"
    )
    for row in ROWS:
        print(f"  {row.number:2} {row.what}: {row.elsewhere or run.rows[row.number]}")
    for kind in () if run.bare else KINDS:
        print(f"     {kind}: {run.kinds[kind]}")
    if run.never:
        print(f"never exercised: {', '.join(map(str, run.never))}")
    print(f"{len(run.violations)} violations")


if __name__ == "__main__":
    sys.exit(main())
