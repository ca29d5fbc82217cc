"""Defects put back on purpose: each is found on the recorded day that is made for it, and none is left in the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulation import Day
from simulation.defects import DEFECTS, Change, function_of, main, put_back
from simulation.recorded import RecordedDay

#: Settings that a person changes may be odd ones: what is warned of is not what these days are about.
pytestmark = pytest.mark.filterwarnings("ignore::exitfsm.config.ConfigWarning")

DAYS = Path(__file__).parent / "days"
#: On which recorded day a defect shows.
SHOWS = {
    "D1": "store_lost_in_an_outage",
    "D2": "end_denied",
    "D3": "late_fill_sold_twice",
    "M02": "sold_past_zero_in_the_queue",
    "M07": "two_exits_in_the_queue",
    "M42": "error_after_arrival",
    "M44": "repeated_request_told",
}


def _violation(day: str) -> str:
    return RecordedDay((DAYS / f"{day}.txt").read_text()).run().violation or ""


#: On which drawn day one shows that is about the account itself, and no recorded day has that.
SHOWS_ON = {"W1": (3, 0), "W2": (3, 3), "W3": (3, 0), "W4": (3, 0), "W5": (3, 0)}


def _drawn(name: str) -> str:
    defect, (seed, number) = DEFECTS[name], SHOWS_ON[name]
    return Day(seed, number, broker=defect.broker, account=defect.account).run().violation or ""


def test_each_defect_has_its_day() -> None:
    assert SHOWS.keys() | SHOWS_ON.keys() == DEFECTS.keys()


@pytest.mark.parametrize("name", SHOWS_ON)
def test_a_defect_in_what_the_account_shows_is_found(name: str) -> None:
    with put_back(DEFECTS[name].changes):
        assert _drawn(name).startswith(DEFECTS[name].shows)


@pytest.mark.parametrize("name", SHOWS)
def test_a_defect_that_is_put_back_is_found(name: str) -> None:
    with put_back(DEFECTS[name].changes):
        assert _violation(SHOWS[name]).startswith(DEFECTS[name].shows)
    assert _violation(SHOWS[name]) == ""


def test_afterwards_the_code_is_as_it_was() -> None:
    changes = [change for defect in DEFECTS.values() for change in defect.changes]
    before = [function_of(change.where).__code__ for change in changes]
    for name in DEFECTS:
        with put_back(DEFECTS[name].changes):
            assert function_of(DEFECTS[name].changes[0].where).__code__ not in before
    assert [function_of(change.where).__code__ for change in changes] == before


def test_a_text_that_is_not_there_exactly_once_is_refused_and_changes_nothing() -> None:
    (good,) = DEFECTS["M42"].changes
    before = function_of(good.where).__code__
    for old, times in (("never written", 0), ("except", 4)):
        wrong = Change(good.where, old, "")
        with pytest.raises(AssertionError, match=f"occurs {times} times, not once"), put_back([good, wrong]):
            pass
        assert function_of(good.where).__code__ is before


def test_a_defect_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["M99"])
    assert "unknown: M99; there are D1" in capsys.readouterr().err
