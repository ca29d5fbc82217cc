"""Defects put back on purpose: one-place changes of a function, and after how many exits the simulation finds each.

    python3 dev defects [NAME ...] [--exits 20000] [--seed now] [--jobs 2]

A day counts only where what is violated is what the defect shows as, and the code as it is passes the same day.
Exit code 1: a defect was not found.
"""

from __future__ import annotations

import argparse
import inspect
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from multiprocessing import Pool
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from simulation import Day, DayResult
from simulation.__main__ import seed
from simulation.worlds import Account

#: So many days are run at most to come to the exits that are asked for: a day that finds the defect ends early.
DAYS_MAX = 400


class Change(NamedTuple):
    """One place that is changed.

    Attributes:
        where: the function, as `module:Class.method`.
        old, new: the text of its source, without the indentation of the whole; `old` occurs exactly once.
    """

    where: str
    old: str
    new: str


class Defect(NamedTuple):
    """What is changed, what is wrong then, and how the violations begin that show it.

    `often`: what happens often on the days on which it is looked for, with which chance. A defect that shows only where
    several rare faults meet is looked for on days that have them; all else is drawn as on any day. `account`, `broker`:
    as of `Day`.
    """

    what: str
    shows: tuple[str, ...]
    changes: tuple[Change, ...]
    often: tuple[tuple[str, float], ...] = ()
    account: Account | None = None
    broker: str | None = None


_CALLS = "exitfsm.broker.calls:BrokerCalls"
_READ = "exitfsm.position.reading:on_position_read"
_NOT_BEFORE_IT_LEAVES = Change("exitfsm.holdings.beside:order_to_prove", "if len(p.orders) < 2 or", "if True or")
DEFECTS: dict[str, Defect] = {
    "D1": Defect(
        "a position is taken up though the record of its exit cannot be read; what is held is called the next one's",
        ("I18", "I2", "I5", "S1"),
        (
            Change("exitfsm.holdings.executions:surplus", " or p.remaining_qty < ZERO:", ":"),
            Change("exitfsm.holdings.adopting:is_safe_unprobed", "return not sold and ", "return "),
            Change("exitfsm.broker.probing:find_exit", "is_safe and broker.reduce_only", "is_safe"),
        ),
        (("store lost, look-ups out", 0.5), ("killed at the update", 0.05)),
    ),
    "D2": Defect(
        "an end that an update reported counts, whatever the order's record says",
        ("I4", "I8", "S2"),
        (Change(_READ, "if not _is_over_by_record(p, m, broker):", "if False:"), _NOT_BEFORE_IT_LEAVES),
    ),
    "D3": Defect(
        "an attempt that came due while the positions were read counts as due; the ended order's record is not read",
        ("I18",),
        (
            Change(
                _READ,
                "if not _is_over_by_record(p, m, broker):",
                "if m.record is not None and not _is_over_by_record(p, m, broker):",
            ),
            Change(
                "exitfsm.position.reading:_read_between_attempts",
                "m.began < p.next_attempt_at",
                "m.at < p.next_attempt_at",
            ),
            _NOT_BEFORE_IT_LEAVES,
        ),
        (
            ("ended by the venue", 0.5),
            ("late fill", 1.0),
            ("update lost", 0.5),
            ("read slow", 0.5),
            ("answer slow", 0.5),
        ),
    ),
    "M02": Defect(
        "no second look at what is owed after waiting for the rate",
        ("I11", "S1"),
        (Change("exitfsm.holdings.leaving:_not_owed", " or intent.owed != intent.order", ""),),
    ),
    "M07": Defect(
        "no second look, after waiting for the rate, whether another exit of the holding works",
        ("S2",),
        (Change("exitfsm.holdings.leaving:_after_another", "if waits else None", "if False else None"),),
    ),
    "M42": Defect(
        "any error of the broker at a submit counts as: it never left",
        ("a second order", "S2", "S1"),
        (Change(f"{_CALLS}._submit", "except NotSent as error:", "except BrokerError as error:"),),
    ),
    "M44": Defect(
        "a reject because of a repeated id ends the order",
        ("I5", "I4", "S2"),
        (Change(f"{_CALLS}.report_of", "return None if same_id else report", "return report"),),
    ),
    "W1": Defect(
        "of several rows of a symbol the first counts, and the others are dropped without a word",
        ("I", "S", "L1"),
        (
            Change(
                "exitfsm.holdings.rows:own_rows", "if len(of_one) == 1 else _one(of_one)", "if True else _one(of_one)"
            ),
        ),
        account=Account(lots=True),
    ),
    "W2": Defect(
        "a second working order of one id is taken for the first",
        ("W2",),
        (Change("exitfsm.holdings.working:twins", "if len(same) < 2 or", "if True or"),),
        account=Account(twins=True),
    ),
    "W3": Defect(
        "an exit leaves beside a closing order of others, at a venue that sells both",
        ("I31",),
        (
            Change("exitfsm.holdings.working:blocking", "if asked and asked + p.remaining_qty > held", "if False"),
            Change("exitfsm.holdings.leaving:_beside_others", "if leaving.instrument.reduce_only or", "if True or"),
        ),
        account=Account(foreign=True),
        broker="no guard",
    ),
    "W4": Defect(
        "what an exit and the fee of a purchase left, and nobody can sell, is adopted as a position",
        ("I36", "a defect was logged"),
        (Change("exitfsm.holdings.residues:too_little", "return not sellable(", "return False and not sellable("),),
        account=Account(fees=True),
    ),
    "W5": Defect(
        "the average entry that the account shows for a whole contract is taken for a price",
        ("I39",),
        (
            Change("exitfsm.holdings.units:in_prices", "if multiplier == 1 or not", "if True or not"),
            Change(
                "exitfsm.holdings.units:entry", "return said if is_off(average, said) else average", "return average"
            ),
            Change("exitfsm.holdings.units:entry", "if price is None or instrument", "if True or instrument"),
        ),
        account=Account(multiples=True),
    ),
}


def function_of(where: str) -> FunctionType:
    """The function that `module:Class.method` names.

    Raises:
        AttributeError, ModuleNotFoundError: there is none.
    """
    module, _, path = where.partition(":")
    found: Any = import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType), f"{where} is no plain function"
    return found


def changed(source: str, change: Change) -> str:
    """The source of a function with the one place changed.

    Raises:
        AssertionError: the text to replace does not occur exactly once.
    """
    times = source.count(change.old)
    assert times == 1, f"the text to replace in {change.where} occurs {times} times, not once: {change.old!r}"
    return source.replace(change.old, change.new)


def compiled(function: FunctionType, source: str) -> CodeType:
    """The code of a function with another source, in its own module's namespace."""
    names: dict[str, Any] = {}
    made = compile(source, function.__code__.co_filename, "exec")  # annotations stay text, as in this file
    exec(made, function.__globals__, names)
    code: CodeType = inspect.unwrap(names[function.__name__]).__code__
    assert code.co_freevars == function.__code__.co_freevars
    return code


@contextmanager
def put_back(changes: Iterable[Change]) -> Iterator[None]:
    """The changes are in the code, wherever it is used; afterwards it is as it was."""
    sources: dict[FunctionType, str] = {}
    for change in changes:
        function = function_of(change.where)
        source = sources.get(function) or textwrap.dedent(inspect.getsource(function))
        sources[function] = changed(source, change)
    codes = {function: compiled(function, source) for function, source in sources.items()}
    before = {function: function.__code__ for function in codes}
    try:
        for function, code in codes.items():
            function.__code__ = code
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code
        assert all(function.__code__ is code for function, code in before.items())


def one_day(name: str, seed_of_run: int, number: int) -> tuple[DayResult, str | None]:
    """A day with a defect; and what was violated, where the defect shows like that and the day passes without it."""
    defect = DEFECTS[name]
    with put_back(defect.changes):
        day = _run(seed_of_run, number, defect)
    if day.violation is None or not day.violation.startswith(defect.shows):
        return day, None
    return day, day.violation if _run(seed_of_run, number, defect).violation is None else None


#: The day that this process is running.
_running: list[Day] = []


def _run(seed_of_run: int, number: int, defect: Defect) -> DayResult:
    day = Day(seed_of_run, number, broker=defect.broker, account=defect.account)
    for kind, chance in defect.often:
        day.faults.often(kind, chance)
    _running[:] = [day]
    return day.run()


def _ends_clean() -> None:
    """In a process of its own: a day that is cut short leaves no files behind."""

    def end(*_: object) -> None:
        for day in _running:
            shutil.rmtree(day.folder, ignore_errors=True)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)


def search(name: str, seed_of_run: int, exits_max: int, jobs: int) -> str:
    """Run days until the defect is found; returns where it was, empty where it was not."""
    exits = overshadowed = 0
    with Pool(jobs, _ends_clean) as processes:  # its end ends the days that are under way
        for day, violation in processes.imap(partial(one_day, name, seed_of_run), range(DAYS_MAX)):
            exits += day.exits
            overshadowed += day.violation is not None and violation is None
            if violation is not None:
                where = f"seed {seed_of_run} day {day.number}"
                print(f"{name}: found after {exits} exits, {where}: {violation}", flush=True)
                return violation
            if exits >= exits_max:
                break
    print(f"{name}: not found in {exits} exits, seed {seed_of_run}; {overshadowed} days fail anyway", flush=True)
    return ""


def main(arguments: Iterable[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python3 dev defects", description="Put defects back, and see after how many exits each is found."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones: {', '.join(DEFECTS)}; all by default")
    parser.add_argument("--exits", type=int, default=20_000, help="how many exits may go by until it is found")
    parser.add_argument("--seed", type=seed, default="now", help="names the days; now, the default, draws one")
    parser.add_argument("--jobs", type=int, default=2, help="processes that the days are shared out to")
    given = parser.parse_args(list(arguments) if arguments is not None else None)
    unknown = sorted(set(given.names) - DEFECTS.keys())
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(DEFECTS)}")
    found = [search(name, given.seed, given.exits, given.jobs) for name in given.names or DEFECTS]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
