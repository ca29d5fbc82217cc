"""The deterministic simulation: a slice of it, that it is deterministic, and that it finds what is broken."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import exitfsm
import simulation
from exitfsm import OrderRefused
from exitfsm.manager.executor import Executor
from exitfsm.position import reports
from exitfsm.values import OrderStatus, refused_report
from simulation import CLAIMED, ROWS, Day, DayResult
from simulation.__main__ import main, numbers
from simulation.recorded import RecordedDay
from simulation.worlds import KINDS, Account

#: Settings that a person changes may be odd ones: what is warned of is not what these days are about.
pytestmark = pytest.mark.filterwarnings("ignore::exitfsm.config.ConfigWarning")

DIGEST = "from simulation import Day; print(Day(11, 1, symbols=10, minutes=4).run().digest)"


#: Faults that come often enough to be in these few days.
COMMON = {"read slow", "answer slow", "record behind", "list behind", "duplicate told", "waited for its turn"}


@cache
def _day(number: int) -> DayResult:
    return Day(5, number, symbols=12, minutes=8).run()


@pytest.mark.parametrize("day", range(6))
def test_a_day_under_faults_violates_nothing(day: int) -> None:
    result = _day(day)
    assert result.violation is None, "\n".join([*result.story[-60:], result.violation])
    assert result.exits > 0
    assert result.faults > 0


def test_a_few_days_have_the_faults_that_are_common() -> None:
    happened = set().union(*(_day(number).kinds for number in range(6)))
    assert happened >= COMMON


def test_the_same_seed_gives_the_same_bytes_in_every_process() -> None:
    here = Day(11, 1, symbols=10, minutes=4).run()
    assert here.lines > 100
    assert here.digest != Day(11, 2, symbols=10, minutes=4).run().digest
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    code = [sys.executable, "-c", DIGEST]
    tests = Path(__file__).parents[1]
    there = subprocess.run(code, cwd=tests, env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here.digest


def test_every_row_of_the_fault_table_is_claimed_or_covered_elsewhere() -> None:
    assert [row.number for row in ROWS] == list(range(1, 61))
    assert set(CLAIMED) | {row.number for row in ROWS if row.elsewhere} == set(range(1, 61))


def test_every_claimed_row_is_counted_somewhere() -> None:
    assert _counted() == set(CLAIMED)


def _counted() -> set[int]:
    """The rows that the code counts: the numbers in its calls of `seen` and `happens`, and in what is called `row`."""
    found: set[int] = set()
    for file in Path(simulation.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            call = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            target = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
            if call.endswith((".seen", ".happens")) or target == "row":
                found |= _integers(node)
    return found


def _integers(node: ast.AST) -> set[int]:
    return {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and type(one.value) is int}


#: What accounts may show, or have happen to them, and what is counted of it even on a short day.
WORLDS = {
    "what is shown": (
        Account(lots=True, accounts=True, repeats=True, words=True, fees=True, multiples=True, neighbour=True),
        {"rows in lots", "rows of another account", "an order listed twice", "unknown status word"}
        | {"a fee taken in the base", "an average in whole contracts", "a trade of another bot"},
    ),
    "what happens": (
        Account(twins=True, foreign=True, empty=True, splits=True, refusals=True, settings=True),
        {"a stop of others", "a limit of others", "positions empty for a while", "refused for good"},
    ),
    "how prices come": (
        Account(looks=True, hours=True, quotes=True, night=True),
        {"a look at a bar that forms", "a look that comes again", "a look at a bar of an hour"}
        | {"a price without a bar", "a price out of session"},
    ),
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_day_of_another_account_violates_nothing(world: str) -> None:
    account, kinds = WORLDS[world]
    result = Day(5, 2, symbols=13, minutes=8, account=account).run()
    assert result.violation is None, "\n".join([*result.story[-60:], result.violation])
    assert result.kinds.keys() & set(KINDS) >= kinds


def test_every_kind_that_only_some_days_have_is_counted_somewhere() -> None:
    sources = "".join(file.read_text() for file in Path(simulation.__file__).parent.glob("*.py"))
    assert [kind for kind in KINDS if sources.count(f'"{kind}"') < 2] == []


def test_a_day_without_any_of_it_is_the_day_that_it_was() -> None:
    plain = Day(5, 0, symbols=8, minutes=5).run()
    assert Day(5, 0, symbols=8, minutes=5, account=Account()).run().digest == plain.digest
    assert not set(plain.kinds) & set(KINDS)


def test_two_machines_that_decide_the_same_exit_are_counted_and_violate_nothing() -> None:
    result = Day(5, 0, symbols=12, minutes=8).run()
    assert result.profile.machines == "two machines"
    assert result.rows[32] > 0
    assert result.violation is None


def test_what_a_reverse_split_leaves_and_cannot_be_sold_is_closed_as_a_residue() -> None:
    result = Day(3, 0, symbols=12, minutes=8, broker="whole shares").run()
    assert result.violation is None, "\n".join([*result.story[-60:], result.violation])
    assert result.checks["I14"] > 0


def test_numbers_of_faults_can_be_left_out() -> None:
    assert numbers("3,17,40-42") == {3, 17, 40, 41, 42}
    whole = Day(5, 0, symbols=8, minutes=5).run()
    assert whole.faults > 0
    without = Day(5, 0, symbols=8, minutes=5, without=range(1, 10_000)).run()
    assert sum(without.kinds.values()) == 0
    assert without.violation is None


def test_the_command_line_tells_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "7", "--days", "1", "--symbols", "4", "--minutes", "3", "--json"]) == 0
    assert '"violations": []' in capsys.readouterr().out


def test_days_that_are_shared_out_to_processes_give_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    digests = set()
    for jobs in ("1", "2"):
        main(["--seed", "7", "--days", "3", "--symbols", "3", "--minutes", "2", "--json", "--jobs", jobs])
        digests.add(json.loads(capsys.readouterr().out)["digest"])
    assert len(digests) == 1


def test_a_seed_that_is_drawn_at_the_start_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = set()
    for _ in range(2):
        main(["--seed", "now", "--days", "1", "--symbols", "1", "--minutes", "1"])
        drawn.add(capsys.readouterr().out.partition("\n")[0])
    assert len(drawn) == 2
    assert all(line.startswith("seed ") for line in drawn)


Break = Callable[[pytest.MonkeyPatch], Any]


def _a_pending_cancel_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reports.HOW, OrderStatus.PENDING_CANCEL, "canceled")
    monkeypatch.setattr(reports, "_ENDS", reports._ENDS | {OrderStatus.PENDING_CANCEL})


def _not_found_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(executor: Any, position_id: str, client_order_id: str) -> bool:
        report = refused_report(client_order_id, OrderRefused("not_known", ""), executor._time.now())
        await executor._mailbox.report(report)
        return True

    monkeypatch.setattr(Executor, "_not_found", refused)


@pytest.mark.parametrize(
    ("broken", "day", "how"),
    [(_a_pending_cancel_is_the_end, "cancel_pending", "I5"), (_not_found_is_a_refusal, "not_found_yet", "S2")],
    ids=["a pending cancel is the end", "not found is a refusal"],
)
def test_what_is_broken_on_purpose_is_found(broken: Break, day: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent / "days" / f"{day}.txt").read_text()
    assert RecordedDay(text).run().violation is None
    broken(monkeypatch)
    assert (RecordedDay(text).run().violation or "").startswith(how)


def test_the_simulation_is_not_shipped_and_its_old_name_says_where_it_is() -> None:
    assert not (Path(exitfsm.__file__).parent / "testing" / "simulation").exists()
    code = [sys.executable, "-m", "exitfsm.testing.simulation", "--seed", "1"]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "python3 dev simulation --seed" in done.stderr
