"""When New York's stock exchanges do not open, or close early: by their rules, for simulations of bars from files.

Held against a published calendar for each day from 1993 to 2035. A live broker tells its own hours, and they hold. The
rules are those in force today, with what was otherwise as exceptions; what will be decided later (a day of mourning) is
not known here.
"""

from __future__ import annotations

from datetime import date, time, timedelta
from functools import lru_cache

EARLY_CLOSE = time(13, 0)
#: The zones, by name, of configured hours to which these days apply.
ZONES = frozenset({"America/New_York", "US/Eastern", "EST5EDT"})

_CLOSED_ONCE = frozenset(
    map(
        date.fromisoformat,
        (
            "1994-04-27", "2001-09-11", "2001-09-12", "2001-09-13", "2001-09-14", "2004-06-11", "2007-01-02",
            "2012-10-29", "2012-10-30", "2018-12-05", "2025-01-09",
        ),
    )
)  # fmt: skip
_EARLY_ONCE = frozenset(map(date.fromisoformat, ("1996-07-05", "1997-12-26", "1999-12-31", "2002-07-05", "2003-12-26")))
_NOT_EARLY = frozenset(map(date.fromisoformat, ("1996-07-03", "2002-07-03")))
_MONDAY, _THURSDAY, _SATURDAY, _SUNDAY = 0, 3, 5, 6
_KING_SINCE, _JUNETEENTH_SINCE = 1998, 2022


def is_holiday(day: date) -> bool:
    """True for a day on which they do not open, weekends left aside."""
    return day in _holidays(day.year)


def closes_early(day: date) -> bool:
    """True for a day on which they close at 13:00: before the Fourth of July, Christmas, and after Thanksgiving."""
    if day.weekday() >= _SATURDAY or is_holiday(day) or day in _NOT_EARLY:
        return False
    eves = ((7, 3), (12, 24))
    return (day.month, day.day) in eves or day == _thanksgiving(day.year) + timedelta(days=1) or day in _EARLY_ONCE


@lru_cache(maxsize=64)
def _holidays(year: int) -> frozenset[date]:
    days = {
        _nth(year, 2, _MONDAY, 3),
        _easter(year) - timedelta(days=2),
        _nth(year, 6, _MONDAY, 1) - timedelta(days=7),
        _observed(date(year, 7, 4)),
        _nth(year, 9, _MONDAY, 1),
        _thanksgiving(year),
        _observed(date(year, 12, 25)),
    }
    new_year = date(year, 1, 1)
    if new_year.weekday() != _SATURDAY:  # it is not observed on the last day of the year before
        days.add(_observed(new_year))
    if year >= _KING_SINCE:
        days.add(_nth(year, 1, _MONDAY, 3))
    if year >= _JUNETEENTH_SINCE:
        days.add(_observed(date(year, 6, 19)))
    return frozenset(days) | _CLOSED_ONCE


def _observed(day: date) -> date:
    """The Friday before a Saturday, the Monday after a Sunday."""
    return day + timedelta(days={_SATURDAY: -1, _SUNDAY: 1}.get(day.weekday(), 0))


def _nth(year: int, month: int, weekday: int, number: int) -> date:
    """The first, second, ... of a weekday in a month."""
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (number - 1))


def _thanksgiving(year: int) -> date:
    return _nth(year, 11, _THURSDAY, 4)


def _easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar, by Meeus, Jones and Butcher."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (b - (b + 8) // 25 + 1) // 3
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (32 + 2 * e + 2 * i - h - k) % 7
    n = h + m - 7 * ((a + 11 * h + 22 * m) // 451) + 114
    return date(year, n // 31, n % 31 + 1)


__all__ = ["EARLY_CLOSE", "ZONES", "closes_early", "is_holiday"]
