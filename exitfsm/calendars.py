"""Sessions of exchanges by a published calendar, half days and holidays included: the library `exchange_calendars`.

Rules of this room: the library and what it brings (pandas, numpy) is loaded when a session of a named calendar is first
asked for, and never otherwise. What it does not know (it is not installed, has no such calendar, or does not reach that
day) is said once, and is for the caller to make up for.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

#: The calendars of markets that never close.
ALWAYS_OPEN = frozenset({"24/7"})
#: So far beyond the year that is needed a calendar is read.
_MARGIN = timedelta(days=400)


class CalendarWarning(UserWarning):
    """A market's calendar cannot be had, so that the configured hours count: holidays may be missing."""


def sessions(name: str, at: datetime) -> Iterator[tuple[datetime, datetime]] | None:
    """The opening and the close of each session of a calendar that ends after a moment; None where it is not known.

    Args:
        name: of the calendar, e.g. `XLON`.
        at: the moment.
    """
    known = _known(name, at.year)
    if known is None:
        return None
    opens, closes = known
    first = bisect_right(closes, at)
    if first == len(closes) or at < opens[0]:
        _warn(f"the calendar {name} does not reach {at:%Y-%m-%d}")
        return None
    return zip(opens[first:], closes[first:], strict=True)


@lru_cache(maxsize=64)
def _known(name: str, year: int) -> tuple[list[datetime], list[datetime]] | None:
    """All openings and closes around a year, in UTC."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # between the library and pandas
        calendar = _calendar(name, year)
    if calendar is None:
        return None
    opens, closes = (
        [moment.to_pydatetime().astimezone(UTC) for moment in calendar.schedule[side]] for side in ("open", "close")
    )
    return opens, closes


def _calendar(name: str, year: int) -> Any:
    """The library's calendar; None where there is none."""
    try:
        import exchange_calendars
    except ImportError:
        return _warn("exchange_calendars is not installed: pip install 'exitfsm[calendars]'")
    around = {"start": date(year, 1, 1) - _MARGIN, "end": date(year, 12, 31) + _MARGIN}
    for bounds in (around, {}):
        try:
            return exchange_calendars.get_calendar(name, **bounds)
        except exchange_calendars.errors.InvalidCalendarName:
            break
        except ValueError:  # it does not reach that far
            continue
    return _warn(f"exchange_calendars knows no calendar {name!r}")


@lru_cache(maxsize=1000)
def _warn(why: str) -> None:
    """Say it once."""
    warnings.warn(f"{why}; the configured hours count, without holidays but New York's", CalendarWarning, stacklevel=2)


__all__ = ["ALWAYS_OPEN", "CalendarWarning", "sessions"]
