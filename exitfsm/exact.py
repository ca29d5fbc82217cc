"""Exact numbers and times: how a figure is read, rounded, and written, everywhere the same.

Rules of this room: a number is a `Decimal`, and a float counts as its shortest decimal text, never as its binary value.
Nothing here depends on what a bot has set for its own decimals. A time is an aware datetime in UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import (
    ROUND_CEILING,
    ROUND_DOWN,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    InvalidOperation,
    getcontext,
    setcontext,
)
from functools import wraps
from typing import ParamSpec, TypeVar

#: Wide enough that sums, products and the percentages of this library are exact for every price and quantity
#: (a trigger is entry · (100 ± pct) / 100: no rounding takes place).
EXACT = Context(prec=76)
ZERO = Decimal(0)
HUNDRED = Decimal(100)
#: What figures that come of a division are rounded to: an average price, and a percentage.
NANO, PCT = Decimal("1e-9"), Decimal("0.0001")
_SCALE_MAX = 30
_P = ParamSpec("_P")
_T = TypeVar("_T")
#: A price of a market is at least the one and below the other, as floats; see `tradable`.
PRICE_MIN, PRICE_MAX = float(f"1e-{_SCALE_MAX}"), float(f"1e{_SCALE_MAX}")


def exactly(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same function, calculating in `EXACT`: whatever the bot has set for its own decimals must not round ours."""

    @wraps(function)
    def in_exact(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        before = getcontext()
        if before is EXACT:  # called by another such function
            return function(*args, **kwargs)
        setcontext(EXACT)
        try:
            return function(*args, **kwargs)
        finally:
            setcontext(before)

    return in_exact


def decimal_of(value: Decimal | float | str) -> Decimal:
    """The exact decimal a number stands for; a float counts as its shortest text (0.1 is 0.1).

    Raises:
        ValueError: the value is no number at all (NaN and infinity are numbers here: the caller judges them).
    """
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is a truth value, not a number")
    try:
        return Decimal(value) if isinstance(value, (int, str)) else Decimal(str(float(value)))
    except (InvalidOperation, TypeError):
        raise ValueError(f"{value!r} is not a number") from None


def tradable(value: Decimal) -> bool:
    """True for a number that a quantity or a price can be: finite, with at most 30 digits on either side of the point.

    What lies beyond is no market's number: in plain digits, 1E+999999999 alone would fill the memory.
    """
    if not value.is_finite() or not -_SCALE_MAX <= value.adjusted() < _SCALE_MAX:
        return False
    most = 2 * _SCALE_MAX
    return len(str(value)) <= most or len(value.as_tuple().digits) <= most  # the text has all the digits, and is quick


def plain(value: Decimal) -> str:
    """A decimal as canonical text: no exponent, no trailing zeros (`1.10` is `1.1`, `-0` is `0`).

    What cannot be traded has no canonical text; it is shown with an exponent, and short.
    """
    if not tradable(value):
        return f"{value:.6E}" if value.is_finite() else str(value)
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def rounded(value: Decimal, quantum: Decimal = NANO) -> Decimal:
    """`value` at the nearest whole multiple of a power of ten, half to even; by default at nine places."""
    return value.quantize(quantum, ROUND_HALF_EVEN, EXACT)


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """`value` rounded toward zero to a whole number of `step`s."""
    if step <= 0:
        return value
    return EXACT.multiply(EXACT.divide(value, step).to_integral_value(ROUND_DOWN), step)


def round_to_tick(price: Decimal, tick: Decimal, *, up: bool) -> Decimal:
    """`price` on the tick grid, rounded up or down; the price itself when it is on the grid already."""
    return EXACT.multiply(EXACT.divide(price, tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR), tick)


def utc(value: datetime) -> datetime:
    """`value` in UTC.

    Raises:
        ValueError: the datetime is naive, so its zone would be a guess; or it is none at all.
    """
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is no datetime: give an aware one, e.g. datetime.now(UTC)")
    if value.tzinfo is UTC:
        return value
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(f"{value.isoformat()} has no time zone: give an aware datetime, e.g. with tzinfo=datetime.UTC")
    return value.astimezone(UTC)


def stamp(value: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SSZ`, with a fraction of a second only where there is one."""
    return utc(value).isoformat().replace("+00:00", "Z")
