"""Prices that jumped too far, in a row: each near the one before, and none believed in between."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from exitfsm.policy import is_jump
from exitfsm.values import Bar


class _Run(NamedTuple):
    bars: int
    last: Bar
    believed_at: datetime | None


class Jumps:
    """How many bars of a symbol in a row jumped from the last believed price, and agree with each other."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def note(self, bar: Bar, believed_at: datetime | None, ratio_max: Decimal) -> int:
        """One more bar jumped; the last price was believed at that time. Returns how many have in a row, with this.

        Where none was believed yet, what jumped is the entry: it may be in another unit, and bars confirm nothing.
        """
        run, bars = self._runs.get(bar.symbol), 1
        if believed_at is None:
            return bars
        if run is not None and run.believed_at == believed_at and bar.timestamp > run.last.timestamp:
            bars = 1 if is_jump(bar.close, run.last.close, ratio_max) else run.bars + 1
        elif run is not None and run.last.timestamp == bar.timestamp:
            bars = run.bars
        self._runs[bar.symbol] = _Run(bars, bar, believed_at)
        return bars
