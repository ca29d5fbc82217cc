"""Where things stand in a picture: time from left to right, price from bottom to top.

Rules of this room: pure arithmetic. Prices become floats here, for drawing only. A stretch in which nothing happened
(a night, a weekend) takes little room, and is marked as a break.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

#: A pause longer than this many usual steps is folded to as many.
_STEPS_MAX = 8
_TICKS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)


class Break(NamedTuple):
    """A folded pause: where it is drawn, and how long it was."""

    x: float
    length: timedelta


class TimeAxis:
    """Times to positions between `left` and `right`.

    Args:
        times: every time that matters, in any order; at least one.
        left, right: where the first and the last stand.
    """

    def __init__(self, times: Iterable[datetime], left: float, right: float) -> None:
        known = sorted(set(times))
        steps = [(b - a).total_seconds() for a, b in pairwise(known)]
        usual = max(60.0, _median(steps)) if steps else 60.0
        shown = [min(step, usual * _STEPS_MAX) for step in steps]
        whole = sum(shown) or 1.0
        self.left, self.right = left, right
        self._known = known
        self._at = [left]
        for step in shown:
            self._at.append(self._at[-1] + step / whole * (right - left))
        if len(known) == 1:
            self._at = [(left + right) / 2]
        self.breaks = [
            Break((self._at[i] + self._at[i + 1]) / 2, timedelta(seconds=step))
            for i, step in enumerate(steps)
            if step > max(usual * _STEPS_MAX * 4, 7200)
        ]

    def x(self, at: datetime) -> float:
        """The position of a time; one outside what is known stands at the edge."""
        i = bisect_right(self._known, at) - 1
        if i < 0:
            return self._at[0]
        if i >= len(self._known) - 1:
            return self._at[-1]
        span = (self._known[i + 1] - self._known[i]).total_seconds()
        part = (at - self._known[i]).total_seconds() / span
        return self._at[i] + part * (self._at[i + 1] - self._at[i])

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Labels: round times in UTC, with the day where it changes; at most about `most`."""
        if len(self._known) == 1:
            return [(self._at[0], f"{self._known[0]:%Y-%m-%d %H:%M}")]
        apart = (self.right - self.left) / most
        found: list[tuple[float, str]] = []
        day = None
        for at in self._round_times(most):
            x = self.x(at)
            if found and x - found[-1][0] < apart:
                continue
            found.append((x, f"{at:%H:%M}" if at.date() == day else f"{at:%m-%d %H:%M}"))
            day = at.date()
        return found

    def _round_times(self, most: int) -> list[datetime]:
        """Round times that lie in parts that are drawn: a known time is near."""
        worth = sum(min(step, _TICKS[-1]) for step in ((b - a).total_seconds() for a, b in pairwise(self._known)))
        step = next((s for s in _TICKS if worth / s <= most * 2), _TICKS[-1])
        times: dict[datetime, None] = {}
        for at in self._known:
            seconds = at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6
            times[at + timedelta(seconds=math.ceil(seconds / step) * step - seconds)] = None
        return sorted(at for at in times if self._known[0] <= at <= self._known[-1])


class PriceAxis:
    """Prices to positions between `bottom` (the lowest) and `top`."""

    def __init__(self, prices: Iterable[float], top: float, bottom: float) -> None:
        known = list(prices)
        low, high = min(known), max(known)
        room = (high - low) * 0.06 or abs(high) * 0.01 or 1.0
        self.low, self.high = low - room, high + room
        self.top, self.bottom = top, bottom

    def y(self, price: float) -> float:
        """The position of a price, also beyond the edge."""
        return self.bottom - (price - self.low) / (self.high - self.low) * (self.bottom - self.top)

    def inside(self, price: float) -> bool:
        """True when the price is in the picture."""
        return self.low <= price <= self.high

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Round prices with their positions."""
        raw = (self.high - self.low) / about
        scale = 10.0 ** math.floor(math.log10(raw))
        step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw)
        places = max(0, -math.floor(math.log10(step) + 1e-9) + (1 if step / scale == 2.5 else 0))
        first = math.ceil(self.low / step)
        return [
            (self.y(k * step), f"{k * step:,.{min(places, 8)}f}")
            for k in range(first, math.floor(self.high / step) + 1)
        ]


def duration(length: timedelta) -> str:
    """A span of time, short: `17 h`, `2 d 17 h`, `45 min`."""
    seconds = round(length.total_seconds())
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h" if hours else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min" if minutes else f"{rest} s"


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
