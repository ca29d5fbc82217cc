"""Prices that jump beyond belief, in a simulation: a bad print, a crash, or a split that the bars are not adjusted for.

Rules of this room: nobody can be asked, as a second source is asked live; so what follows decides. A jump after which
the price comes back was a bad print. One that `CONFIRMING_BARS` bars in a row confirm happened: where it is near a
ratio in which shares are split, it is taken for a split, else for a crash (or its mirror image).
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from exitfsm.policy import is_jump
from exitfsm.values import EXACT, Bar

#: Bars in a row, the first one included, that have to be near each other.
CONFIRMING_BARS = 3
#: Ratios in which shares are split, or (the other way round) put together.
_COMMON = tuple((n, 1) for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 50, 100))
_SEVERAL = ((3, 2),)
_RARE = ((5, 4), (4, 3), (5, 2))
#: How far the price may move overnight beside a split, as a part of it: less beside those that are rare.
_NEAR, _NEAR_RARE = Decimal("0.025"), Decimal("0.01")


def split_ratio(before: Decimal, after: Decimal) -> str | None:
    """The split that the two prices look like, e.g. `7:1` (or `1:7`, of shares put together); None for none."""
    falls = before > after
    ratio = EXACT.divide(before, after) if falls else EXACT.divide(after, before)
    for ratios, near in (((*_COMMON, *_SEVERAL), _NEAR), (_RARE, _NEAR_RARE)):
        for n, m in ratios:
            off = EXACT.subtract(EXACT.divide(EXACT.multiply(ratio, m), n), 1)
            if abs(off) <= near:
                return f"{n}:{m}" if falls else f"{m}:{n}"
    return None


class Jump(msgspec.Struct):
    """A run of bars beyond belief that are near each other.

    Attributes:
        before: the last bar that was believed.
        reference: the last price that was believed.
        first: the first bar of the run.
        last: the newest.
        count: how many there are.
    """

    before: Bar
    reference: Decimal
    first: Bar
    last: Bar
    count: int = 1

    def split(self, ratio: Decimal) -> str | None:
        """The split that it looks like; None where it does not.

        Args:
            ratio: of the price guard.
        """
        # The first print of the day may still be one from before the split.
        opened = is_jump(self.first.open, self.reference, ratio)
        return split_ratio(self.reference, self.first.open if opened else self.first.close)


class Jumps:
    """The jumps that are not settled yet, by symbol."""

    def __init__(self) -> None:
        self._runs: dict[str, Jump] = {}

    def confirmed(self, bar: Bar, before: Bar, reference: Decimal, ratio: Decimal) -> Jump | None:
        """Take note of a bar beyond belief; the jump where this bar confirms it.

        Args:
            bar: the bar.
            before: the last bar of its symbol that was believed.
            reference: the last price that was believed.
            ratio: of the price guard.
        """
        run = self._runs.get(bar.symbol)
        if run is not None and run.before is before and not _away(bar, run.last.close, ratio):
            run.last, run.count = bar, run.count + 1
        else:
            run = self._runs[bar.symbol] = Jump(before, reference, bar, bar)
        return self._runs.pop(bar.symbol) if run.count >= CONFIRMING_BARS else None


def _away(bar: Bar, price: Decimal, ratio: Decimal) -> bool:
    return is_jump(bar.open, price, ratio) or is_jump(bar.close, price, ratio)


__all__ = ["CONFIRMING_BARS", "Jump", "Jumps", "split_ratio"]
