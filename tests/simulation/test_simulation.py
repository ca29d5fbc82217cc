"""The deterministic simulation: a slice of it, that it is deterministic, and that it finds what is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from exitfsm.testing.simulation import CLAIMED, ROWS, Day
from exitfsm.testing.simulation.__main__ import main, numbers

DIGEST = "from exitfsm.testing.simulation import Day; print(Day(11, 1, symbols=10, minutes=4).run().digest)"


@pytest.mark.parametrize("day", range(6))
def test_a_day_under_faults_violates_nothing(day: int) -> None:
    result = Day(5, day, symbols=12, minutes=8).run()
    assert result.violation is None, "\n".join([*result.story[-60:], result.violation])
    assert result.exits > 0
    assert result.faults > 0


def test_the_same_seed_gives_the_same_bytes_in_every_process() -> None:
    here = Day(11, 1, symbols=10, minutes=4).run()
    assert here.lines > 100
    assert here.digest != Day(11, 2, symbols=10, minutes=4).run().digest
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    there = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here.digest


def test_every_row_of_the_fault_table_is_claimed_or_covered_elsewhere() -> None:
    assert [row.number for row in ROWS] == list(range(1, 55))
    assert set(CLAIMED) | {row.number for row in ROWS if row.elsewhere} == set(range(1, 55))


def test_numbers_of_faults_can_be_left_out() -> None:
    assert numbers("3,17,40-42") == {3, 17, 40, 41, 42}
    whole = Day(5, 0, symbols=8, minutes=5).run()
    assert whole.faults > 0
    without = Day(5, 0, symbols=8, minutes=5, without=range(1, 10_000)).run()
    assert sum(without.kinds.values()) == 0
    assert without.violation is None


def test_the_command_line_tells_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "5", "--days", "1", "--symbols", "4", "--minutes", "3", "--json"]) == 0
    assert '"violations": []' in capsys.readouterr().out


def _found(days: int = 4) -> str:
    """The first violation in a few days."""
    for number in range(days):
        result = Day(5, number, symbols=12, minutes=8).run()
        if result.violation is not None:
            return result.violation
    return ""


Break = Callable[[pytest.MonkeyPatch], Any]


def _send_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    from exitfsm.manager.driving import Driver

    async def not_there(*_: Any) -> bool:
        return False

    monkeypatch.setattr(Driver, "look_up", not_there)


def test_what_is_never_looked_up_is_found_to_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    _send_before_the_commit(monkeypatch)
    assert _found()
