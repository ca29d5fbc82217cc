"""Recorded days: scripts of what happened on days that failed once, played without chance."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulation.recorded import RecordedDay, read

DAYS = Path(__file__).parent / "days"


NAMES = sorted(path.stem for path in DAYS.glob("*.txt"))


@pytest.mark.parametrize("name", NAMES)
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
