"""Times as files write them: ISO 8601, a number since 1970, days in any order, a time of day beside them.

Rules of this room: a text is a time or a `ValueError`; a number counts its unit by its size, exactly. Which of 3/4/2024
is the month cannot be seen in it: `day_first` says it, and `order_of_days` finds it out from many. A text without a
zone is read in the zone that the file is in; where that zone's clocks are set back, the hour that comes twice is told
apart by the times before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import pairwise

from exitfsm.values import utc

CACHE_MAX = 1 << 14  # texts remembered
SHOWN_MAX = 60  # characters of a bad value in a message

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: A number of time at or above each of these counts a unit smaller by this: ns, µs, ms since 1970, else seconds.
_UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
_FIRST_YEAR, _LAST_YEAR = 1900, 2100
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1
    )
}
#: Zones that are written as a word. Others, such as IST, mean different ones in different places.
_ZONES = {"utc": 0, "gmt": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7}
_WEEKDAY = re.compile(r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,?\s+", re.IGNORECASE)
_DAY = re.compile(
    r"(?P<y>\d{4})(?P<s1>[./-])(?P<m>\d{1,2})(?P=s1)(?P<d>\d{1,2})"
    r"|(?P<a>\d{1,2})(?P<s2>[./-])(?P<b>\d{1,2})(?P=s2)(?P<y2>\d{4}|\d{2})"
    r"|(?P<d3>\d{1,2})[ -](?P<m3>[A-Za-z]{3,9})[ ,-]+(?P<y3>\d{4}|\d{2})"
    r"|(?P<m4>[A-Za-z]{3,9})[ .-]+(?P<d4>\d{1,2}),?\s+(?P<y4>\d{4})"
    r"|(?P<packed>\d{8})"
)
_CLOCK = re.compile(
    r"[T ,;]*(?:(?P<h>\d{1,2}):(?P<m>\d{2})(?::(?P<s>\d{2})(?:[.,:](?P<f>\d+))?)?"
    r"|(?P<packed>\d{3,6})(?:[.,]?(?P<f2>(?<=\d{6})\d{3}|(?<=\.)\d+))?)"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?"
)
_ZONE = re.compile(r"\s*(?:(?P<word>[A-Za-z]{1,3}))?\s*(?:(?P<sign>[+-])(?P<h>\d{2}):?(?P<m>\d{2})?)?\s*(?:\(.*\))?")


class Times(dict[str, datetime]):
    """Times by their text, in UTC: the symbols of a market share their minutes.

    Args:
        zone: where a text that names no zone is; None where each has to name one.
        day_first: 3/4/2024 is the third of April.
    """

    def __init__(self, zone: tzinfo | None, day_first: bool = False) -> None:
        super().__init__()
        self.zone, self.day_first = zone, day_first
        self._last_twice, self._fold = datetime.min, 0  # noqa: DTZ901  a time on the wall

    def __missing__(self, text: str) -> datetime:
        at = parsed(text, self.day_first)
        if at.tzinfo is None:
            if self.zone is None:
                raise ValueError(f"{shown(text)} has no time zone, and others of this file have one")
            if self.zone is not UTC and at.replace(fold=1, tzinfo=self.zone).utcoffset() != (
                at.replace(fold=0, tzinfo=self.zone).utcoffset()
            ):
                return self._of_a_change(at)
            at = at.replace(tzinfo=self.zone)
        try:
            at = utc(at)
        except OverflowError:
            raise ValueError(f"{shown(text)} is not a time") from None
        if len(self) >= CACHE_MAX:
            self.clear()
        self[text] = at
        return at

    def _of_a_change(self, at: datetime) -> datetime:
        """A time that comes twice, or never: which of the two it is depends on what came before, so it is not kept."""
        if self._last_twice.date() != at.date():
            self._fold = 0
        elif at < self._last_twice:
            self._fold = 1 - self._fold
        self._last_twice = at
        return utc(at.replace(tzinfo=self.zone, fold=self._fold))


def parsed(text: str, day_first: bool = False) -> datetime:
    """A text as a datetime: aware where it names a zone (or is a number since 1970), else naive.

    Raises:
        ValueError: it is no time.
    """
    try:
        if len(text) > 8 and text[4] == "-":
            return datetime.fromisoformat(text)
    except ValueError:
        pass
    try:
        stripped = text.strip()
        if stripped.lstrip("-").replace(".", "", 1).isdecimal():
            return _number(stripped)
        return _written(stripped, day_first)
    except (ValueError, OverflowError):
        raise ValueError(f"{shown(text)} is not a time") from None


def shown(text: str) -> str:
    """A text from outside, short and in ASCII."""
    return ascii(text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "...")


def _number(text: str) -> datetime:
    """A number: a day such as 20240102, with its time of day or without, or seconds (or a smaller unit) since 1970."""
    whole, _, fraction = text.partition(".")
    if not fraction and len(whole) in (8, 12, 14, 17) and _FIRST_YEAR <= int(whole[:4]) <= _LAST_YEAR:
        try:
            return _day_of(whole[:8]) + _clock_of(whole[8:14].ljust(6, "0"), whole[14:], None)
        except ValueError:
            pass
    if len(whole.lstrip("-")) <= 8 and not whole.startswith("-"):
        raise ValueError(f"{text} is too small a number for a time since 1970")
    value = int(whole)
    for least, per_second in _UNITS:
        if abs(value) >= least:
            return _EPOCH + timedelta(microseconds=value * 10**6 // per_second)
    return _EPOCH + timedelta(seconds=value, microseconds=int(fraction[:6].ljust(6, "0")))


def _written(text: str, day_first: bool) -> datetime:
    if found := _WEEKDAY.match(text):
        text = text[found.end() :]
    day = _DAY.match(text)
    if day is None:
        raise ValueError("no day")
    at, rest = _day(day, day_first), text[day.end() :]
    if rest and (clock := _CLOCK.match(rest)) is not None:
        at += _clock(clock)
        rest = rest[clock.end() :]
    if not rest.strip():
        return at
    zone = _ZONE.fullmatch(rest)
    if zone is None:
        raise ValueError("what follows is no zone")
    return at.replace(tzinfo=_zone(zone))


def _day(found: re.Match[str], day_first: bool) -> datetime:
    part = found.groupdict()
    if part["packed"]:
        return _day_of(part["packed"])
    if part["y"]:
        return _date(part["y"], int(part["m"]), part["d"])
    if part["y2"]:
        first, second = part["a"], part["b"]
        return _date(part["y2"], int(second), first) if day_first else _date(part["y2"], int(first), second)
    month = _MONTHS.get((part["m3"] or part["m4"])[:3].lower())
    if month is None:
        raise ValueError("no month")
    return _date(part["y3"] or part["y4"], month, part["d3"] or part["d4"])


def _day_of(packed: str) -> datetime:
    return _date(packed[:4], int(packed[4:6]), packed[6:8])


def _date(year: str, month: int, day: str) -> datetime:
    number = int(year)
    if len(year) == 2:
        number += 2000 if number < 69 else 1900
    return datetime(number, month, int(day))  # noqa: DTZ001  the zone is the caller's


def _clock(found: re.Match[str]) -> timedelta:
    part = found.groupdict()
    if part["packed"]:
        digits = part["packed"]
        packed = digits.zfill(4) + "00" if len(digits) <= 4 else digits.zfill(6)
        return _clock_of(packed, part["f2"] or "", part["half"])
    return _clock_of(f"{part['h']:0>2}{part['m']}{part['s'] or '00'}", part["f"] or "", part["half"])


def _clock_of(packed: str, fraction: str, half: str | None) -> timedelta:
    """A time of day from HHMMSS. 24:00 is the end of the day."""
    hour, minute, second = int(packed[:2]), int(packed[2:4]), int(packed[4:6])
    if half is not None:
        if not 1 <= hour <= 12:
            raise ValueError("no hour of a half day")
        hour = hour % 12 + (12 if half[0] in "Pp" else 0)
    if hour > 24 or minute > 59 or second > 60 or (hour == 24 and (minute or second)):
        raise ValueError("no time of day")
    return timedelta(
        hours=hour, minutes=minute, seconds=second, microseconds=int(fraction[:6].ljust(6, "0")) if fraction else 0
    )


def _zone(found: re.Match[str]) -> tzinfo | None:
    word = (found["word"] or "").lower()
    if word in ("", "z") and not found["sign"]:
        return UTC if word else None
    if word not in ("", "z") and word not in _ZONES:
        raise ValueError("no zone")
    offset = timedelta(hours=_ZONES.get(word, 0))
    if found["sign"]:
        far = timedelta(hours=int(found["h"]), minutes=int(found["m"] or 0))
        offset += far if found["sign"] == "+" else -far
    return timezone(offset) if offset else UTC


def has_zone(text: str) -> bool:
    """True when a time says where it is."""
    return parsed(text).tzinfo is not None


def is_time(text: str) -> bool:
    """True for what can be read as a time, whichever of its numbers is the day."""
    for day_first in (False, True):
        try:
            parsed(text, day_first)
        except ValueError:
            continue
        return True
    return False


def is_clock(text: str) -> bool:
    """True for a time of day without a day."""
    found = _CLOCK.fullmatch(text.strip())
    try:
        return found is not None and _clock(found) is not None
    except ValueError:
        return False


def is_day(text: str) -> bool:
    """True for a day without a time of day."""
    return _DAY.fullmatch(_WEEKDAY.sub("", text.strip())) is not None and is_time(text)


def is_ambiguous(text: str) -> bool:
    """True for a time whose year is not first and whose month is a number, so that either number may be the day."""
    found = _DAY.match(_WEEKDAY.sub("", text.strip()))
    return found is not None and found["y2"] is not None


def order_of_days(texts: Iterable[str]) -> bool | None:
    """Whether days are written before months; None where nothing shows it, or each is written as a year first."""
    sample = [found for text in texts if (found := _DAY.match(_WEEKDAY.sub("", text.strip()))) and found["y2"]]
    if not sample:
        return None
    firsts, seconds = {int(found["a"]) for found in sample}, {int(found["b"]) for found in sample}
    if max(firsts) > 12:
        return True
    if max(seconds) > 12:
        return False
    return _steadier(sample)


def _steadier(sample: Sequence[re.Match[str]]) -> bool | None:
    """The order in which the days of a file run one way, where they do so in one order only."""
    runs = {}
    for day_first in (False, True):
        days = [_day(found, day_first) for found in sample]
        pairs = list(pairwise(days))
        runs[day_first] = all(a <= b for a, b in pairs) or all(a >= b for a, b in pairs)
    steady = [order for order, runs_one_way in runs.items() if runs_one_way]
    return steady[0] if len(steady) == 1 else None


__all__ = ["Times", "has_zone", "is_ambiguous", "is_clock", "is_day", "is_time", "order_of_days", "parsed", "shown"]
