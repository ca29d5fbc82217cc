"""Recorded days: scripts of what happened on days that failed once, played without chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from exitfsm.testing.simulation.recorded import RecordedDay, read

DAYS = Path(__file__).parent / "days"
#: What the code still does wrong, by the name of the day.
NOT_YET = {
    "late_fill_sold_twice": "whether the next attempt is due is judged by two different times",
    "end_denied": "a next attempt leaves although the record of the order before it shows it working",
    "end_taken_back": "the same, where an order works again",
    "store_lost_in_an_outage": "what an order of an earlier life sells is taken for sold by other hands",
    "end_denied_beside": "the exit of another position of the holding leaves beside the order that works",
    "sold_in_the_queue": "what is held is looked at before an exit waits for its turn, and not after it",
    "closed_in_the_queue": "so are the hours",
}


def _days() -> list[object]:
    names = sorted(path.stem for path in DAYS.glob("*.txt"))
    return [pytest.param(name, marks=_not_yet(NOT_YET[name]) if name in NOT_YET else ()) for name in names]


def _not_yet(why: str) -> pytest.MarkDecorator:
    return pytest.mark.xfail(reason=why, strict=True, raises=AssertionError)


@pytest.mark.parametrize("name", _days())
def test_a_recorded_day_violates_nothing(name: str) -> None:
    result = RecordedDay((DAYS / f"{name}.txt").read_text()).run()
    assert result.violation is None, "\n".join([*result.story[-60:], result.violation])
    assert result.events > 0


def test_a_recorded_day_gives_the_same_bytes_again() -> None:
    text = (DAYS / "late_fill_sold_twice.txt").read_text()
    assert RecordedDay(text).run().digest == RecordedDay(text).run().digest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 start", "the last line of a script is: TIME stop"),
        ("0 begin\n1 stop", "line 1: what happens is one of start"),
        ("5 start\n1 stop", "line 2: 1 lies before the line above it"),
        ("0 start\nbroker good\n1 stop", "line 2: a happening begins with its time"),
    ],
)
def test_a_script_that_cannot_be_read_says_where_and_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("broker nobody\n0 stop", "line 1: 'broker nobody' is no surrounding: write `broker NAME`"),
        (
            "0 fill S1/1 3\n1 stop",
            "line 1: 'fill S1/1 3' cannot happen at 0.0: the venue has taken 0 exit orders of S1",
        ),
        ("0 fault rain\n1 stop", "there is no fault 'rain'"),
        ("0 start m9\n1 stop", "there is no process m9"),
    ],
)
def test_what_cannot_happen_says_where_and_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        RecordedDay(text).run()
