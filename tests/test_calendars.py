"""Sessions by a published calendar, and without one."""

from __future__ import annotations

import subprocess
import sys
import warnings
from datetime import UTC, datetime, time, timedelta

import pytest

from exitfsm import Bar, calendars, exchange_days
from exitfsm.calendars import CalendarWarning
from exitfsm.config import ExitConfig, SessionHours, load_config
from exitfsm.sessions import LongBars, market_session
from exitfsm.simulate import simulate

LONDON = SessionHours(timezone="Europe/London", open=time(8), close=time(16, 30), calendar="XLON")
#: What the library says: a plain day, the day before Christmas, Boxing Day, and the days around.
EVE = datetime(2024, 12, 24, tzinfo=UTC)


#: What the library and the newest pandas say to each other.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _said_nothing_yet() -> None:
    calendars._warn.cache_clear()
    calendars._known.cache_clear()


def test_half_days_and_holidays_are_known() -> None:
    pytest.importorskip("exchange_calendars")
    session = market_session(LONDON, "VOD", EVE.replace(hour=10))
    assert session.is_open
    assert session.close == EVE.replace(hour=12, minute=30)
    assert session.next_open == datetime(2024, 12, 27, 8, tzinfo=UTC)
    assert not market_session(LONDON, "VOD", EVE.replace(hour=13)).is_open
    assert not market_session(LONDON, "VOD", datetime(2024, 12, 26, 10, tzinfo=UTC)).is_open


def test_a_session_that_runs_over_midnight_has_its_close() -> None:
    pytest.importorskip("exchange_calendars")
    tokyo_from_new_york = SessionHours(calendar="XTKS")
    at = datetime(2024, 3, 5, 4, 30, tzinfo=UTC)  # 23:30 of the day before in New York
    closes = datetime(2024, 3, 5, 6, tzinfo=UTC)
    assert market_session(tokyo_from_new_york, "7203", at).close == closes
    assert LongBars(tokyo_from_new_york).close("7203", at, at - timedelta(minutes=1)) == closes


def test_what_never_closes_is_said_by_the_calendar_and_not_by_a_slash() -> None:
    pytest.importorskip("exchange_calendars")
    sunday = datetime(2024, 3, 3, 12, tzinfo=UTC)
    assert market_session(SessionHours(calendar="24/7"), "ANY", sunday).is_open
    assert not market_session(SessionHours(calendar="XNYS"), "BRK/B", sunday).is_open


def test_new_yorks_own_days_are_those_of_the_calendar() -> None:
    pytest.importorskip("exchange_calendars")
    known = calendars._calendar("XNYS", 2025)
    day = datetime(2024, 1, 1, tzinfo=UTC)
    for ahead in range(3 * 366 - 10):
        one = (day + timedelta(days=ahead)).date()
        is_open = one.weekday() < 5 and not exchange_days.is_holiday(one)
        assert known.is_session(str(one)) is is_open, one
        if is_open:
            closes = known.session_close(str(one)).tz_convert("America/New_York").time()
            assert (closes == time(13)) is exchange_days.closes_early(one), one


def london_bars() -> list[Bar]:
    """The day before Christmas until 12:30, and the next one, 3 % lower."""
    start = EVE.replace(hour=10)
    first = [Bar("VOD", start + timedelta(minutes=5 * n), 100, 100, 100, 100) for n in range(30)]
    after = datetime(2024, 12, 27, 8, tzinfo=UTC)
    return first + [Bar("VOD", after + timedelta(minutes=5 * n), 97, 97, 97, 97) for n in range(6)]


def by_end_of_session(hours: SessionHours) -> str | None:
    config = load_config({"end_of_session": {"enabled": True, "minutes_before_close": 10}})
    result = simulate(london_bars(), ExitConfig(policy=config.policy, session=hours))
    return result.exits[0].reason


def test_a_simulation_ends_its_session_on_a_half_day() -> None:
    pytest.importorskip("exchange_calendars")
    assert by_end_of_session(LONDON) == "end_of_session"


def test_without_the_library_the_hours_count_and_it_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    with pytest.warns(CalendarWarning, match="not installed") as said:
        assert by_end_of_session(LONDON) == "stop_loss"  # the close of 12:30 is not known
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert market_session(LONDON, "VOD", EVE.replace(hour=13)).is_open


def test_a_calendar_that_there_is_not_is_said() -> None:
    pytest.importorskip("exchange_calendars")
    with pytest.warns(CalendarWarning, match="knows no calendar 'XNON'"):
        assert market_session(SessionHours(calendar="XNON"), "AAPL", datetime(2024, 3, 5, 16, tzinfo=UTC)).is_open


SIMULATED = """
import sys
from datetime import UTC, datetime, timedelta
from exitfsm import Bar, load_config
from exitfsm.simulate import simulate
at = datetime(2024, 3, 5, 15, tzinfo=UTC)
config = load_config({config})
bars = [Bar("AAPL", at + timedelta(minutes=n), p, p, p, p) for n, p in enumerate((100, 100, 98, 98))]
assert len(simulate(bars, config).exits) == 1
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize("config", [{}, {"session": {"calendar": "XNYS"}}, {"end_of_session": {"enabled": True}}])
def test_neither_the_library_nor_a_simulation_without_a_calendar_loads_pandas_or_numpy(config: object) -> None:
    code = SIMULATED.format(config=config)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"pandas", "numpy", "exchange_calendars"}.isdisjoint(ran.stdout.split())
