"""The price guard: which prices are believed.

Rules of this room: a price is refused for a reason that is recorded, never silently; everything is decided on exact
numbers, and floats only say quickly that all is well.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, NamedTuple

from exitfsm.kinds import BarRefusal
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import EXACT, PRICE_MAX, Bar, plain


class PriceGuard(Section, frozen=True):
    """Refuses prices that cannot be true, so that a split or a bad print stops nobody out."""

    enabled: Annotated[bool, Spec("whether the guard is on")] = True
    max_jump_ratio: Annotated[
        Decimal, Spec("largest believable ratio between an accepted price and the next, either way", gt=1, le=1000)
    ] = Decimal("1.3")
    max_age_seconds: Annotated[
        int, Spec("oldest bar that may trigger, in seconds (live only: a simulation has no age)", gt=0, le=10**9)
    ] = 300


class Fault(NamedTuple):
    """Why a price is not believed, and the price itself as text."""

    reason: BarRefusal
    price: str


#: Reasons that concern the order of bars; a feed that repeats itself would otherwise open and close a run at every bar.
ORDER_FAULTS = frozenset({BarRefusal.ALREADY_SEEN, BarRefusal.OUT_OF_ORDER})
#: A bar of the present that is dated before the position's entry: one of the two was dated by a clock that is wrong.
BEFORE_ENTRY = BarRefusal.BEFORE_ENTRY
#: Reasons that leave a position without a price to watch.
PRICE_FAULTS = frozenset(
    {
        BarRefusal.NOT_FINITE,
        BarRefusal.NOT_POSITIVE,
        BarRefusal.HIGH_BELOW_LOW,
        BarRefusal.NOT_TRADABLE,
        BarRefusal.STALE,
        BarRefusal.IN_THE_FUTURE,
    }
)
#: A bar that is dated further ahead of its arrival is none: once it were believed, all that come after it would be old.
AHEAD_MAX = timedelta(days=1)
#: What is within a ratio that is made shorter by this on floats is within the ratio itself.
_SHORTER = 1 - 1e-9


def bar_fault(
    bar: Bar,
    guard: PriceGuard,
    *,
    reference: Decimal | None,
    previous_at: datetime | None,
    received_at: datetime | None = None,
    on_range: bool = False,
    length: timedelta | None = None,
) -> Fault | None:
    """Why `bar` may decide nothing; None when it may.

    Args:
        reference: the last accepted price of the symbol, None when there is none yet.
        previous_at: timestamp of the last accepted bar.
        received_at: when the bar arrived, None where age means nothing (simulation).
        on_range: low and high decide too, so that they must be believable as well.
        length: how long the bars of the symbol are, where that is known.
    """
    if previous_at is not None and bar.timestamp == previous_at:
        return Fault(BarRefusal.ALREADY_SEEN, str(bar.close))
    if previous_at is not None and bar.timestamp < previous_at and not is_ahead(previous_at, received_at, guard):
        return Fault(BarRefusal.OUT_OF_ORDER, str(bar.close))
    if not bar.floor > 0:  # NaN when unsound: say which price and why
        prices = (bar.open, bar.high, bar.low, bar.close)
        for price in prices:
            if not price.is_finite():
                return Fault(BarRefusal.NOT_FINITE, str(price))
            if price <= 0:
                return Fault(BarRefusal.NOT_POSITIVE, str(price))
        if bar.high < bar.low:
            return Fault(BarRefusal.HIGH_BELOW_LOW, f"{bar.high} < {bar.low}")
        top = max(prices)
        return Fault(BarRefusal.NOT_TRADABLE, plain(top if float(top) >= PRICE_MAX else min(prices)))
    if received_at is not None and received_at - bar.timestamp > age_max(guard, length):
        return Fault(BarRefusal.STALE, str(bar.close))
    if received_at is not None and bar.timestamp - received_at > AHEAD_MAX:
        return Fault(BarRefusal.IN_THE_FUTURE, str(bar.close))
    if guard.enabled and reference is not None and not _near(bar, float(reference), float(guard.max_jump_ratio)):
        for price in (bar.close, bar.open, bar.low, bar.high) if on_range else (bar.close, bar.open):
            if is_jump(price, reference, guard.max_jump_ratio):
                return Fault(BarRefusal.PRICE_JUMP, str(price))
    return None


def age_max(guard: PriceGuard, length: timedelta | None) -> timedelta:
    """How old a bar may be by its time when it arrives: a long one comes at its end, and may be dated by its start.

    Args:
        guard: the position's.
        length: how long the bars are, where that is known; short ones change nothing.
    """
    most = timedelta(seconds=guard.max_age_seconds)
    return most if length is None else max(most, length + min(length, most))


def silence_max_s(seconds: float, guard: PriceGuard, length: timedelta | None) -> float:
    """How long a symbol may be without a bar before a person is told, in seconds.

    Args:
        seconds: how long it may be where nothing is known of its bars.
        guard: one that lets bars be older than by default says that they are long.
        length: how long the bars are, where that is known.
    """
    longest = age_max(guard, length).total_seconds()
    return max(seconds, longest) if longest > PriceGuard().max_age_seconds else seconds


def _near(bar: Bar, reference: float, ratio: float) -> bool:
    """True when all prices of the bar are surely within `ratio` of the reference; False says nothing.

    On floats, with a reach so much shorter than the ratio that no rounding can make it longer.
    """
    reach = ratio * _SHORTER
    return reference < bar.floor * reach and bar.ceiling < reference * reach


def is_ahead(at: datetime, received_at: datetime | None, guard: PriceGuard) -> bool:
    """True when a time on record lies further ahead of the present than a bar may lie behind it.

    A clock was set back since, or was wrong then: bars of the present must not count as old beside it.
    """
    return received_at is not None and (at - received_at).total_seconds() > guard.max_age_seconds


def is_jump(price: Decimal, reference: Decimal, ratio: Decimal) -> bool:
    """True when the two prices are more than `ratio` apart, either way; exact."""
    return price > EXACT.multiply(reference, ratio) or EXACT.multiply(price, ratio) < reference
