"""The frozen nouns: bars, orders, reports, and the enumerations everybody speaks.

Rules of this room: nothing here knows a clock, a file or a broker. Times are aware UTC datetimes, prices and quantities
are `Decimal`; a float is taken at its shortest decimal text, never at its binary value. A noun may hold a bad value (a
bar with a NaN price is still a bar): judging it is the business of `position.decide`, which records what it refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import (
    ROUND_CEILING,
    ROUND_DOWN,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    InvalidOperation,
    localcontext,
)
from enum import StrEnum
from functools import wraps
from string import ascii_lowercase
from typing import Any, ParamSpec, TypeVar
from unicodedata import normalize

import msgspec
from msgspec.structs import force_setattr

from exitfsm.errors import OrderRefused

#: Wide enough that sums, products and the percentages of this library are exact for every price and quantity
#: (a trigger is entry · (100 ± pct) / 100: no rounding takes place).
EXACT = Context(prec=76)
ZERO = Decimal(0)
HUNDRED = Decimal(100)
_SCALE_MAX = 30
_P = ParamSpec("_P")
_T = TypeVar("_T")
#: A price of a market is at least the one and below the other, as floats; see `tradable`.
PRICE_MIN, PRICE_MAX = float(f"1e-{_SCALE_MAX}"), float(f"1e{_SCALE_MAX}")
SYMBOL_MAX = 64  # characters; an option on a perpetual at a crypto exchange has 30
_UPPER = {ord(letter): letter.upper() for letter in ascii_lowercase}


class Side(StrEnum):
    """Which way a position is held."""

    LONG = "long"
    SHORT = "short"

    @property
    def sign(self) -> int:
        """+1 for long, -1 for short."""
        return 1 if self is Side.LONG else -1

    @property
    def exit_side(self) -> OrderSide:
        """The side of an order that closes this position."""
        return OrderSide.SELL if self is Side.LONG else OrderSide.BUY


class OrderSide(StrEnum):
    """Side of an order."""

    BUY = "buy"
    SELL = "sell"


class OrderType(StrEnum):
    """Order types that an exit uses."""

    MARKET = "market"
    LIMIT = "limit"


class TimeInForce(StrEnum):
    """How long the venue keeps an order working."""

    DAY = "day"
    GTC = "gtc"
    IOC = "ioc"


class EvaluateOn(StrEnum):
    """What of a bar is the current price: its close, or its whole range (low and high)."""

    CLOSE = "close"
    RANGE = "range"


class ExitType(StrEnum):
    """Why a position is exited. The order of the members is the order of precedence: the first that applies wins."""

    EMERGENCY = "emergency"
    STOP_LOSS = "stop_loss"
    BREAK_EVEN = "break_even"
    TRAILING_STOP = "trailing_stop"
    TIME_LIMIT = "time_limit"
    END_OF_SESSION = "end_of_session"
    PROFIT_TAKE = "profit_take"
    CUSTOM = "custom"
    RECOVERED = "recovered"


class ExitStatus(StrEnum):
    """Where one exit order stands."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    PARTIAL = "partial"
    CANCELING = "canceling"
    FILLED = "filled"
    REJECTED = "rejected"
    CANCELED = "canceled"
    EXPIRED = "expired"


class OrderStatus(StrEnum):
    """What the broker says of an order. Only the four named by `terminal` end it; all others are live.

    `replaced`: it lives on under another id. `done_for_day`: it may go on the next day; see `leaves_qty` of a report.
    """

    NEW = "new"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    CANCEL_REJECTED = "cancel_rejected"
    SUSPENDED = "suspended"
    DONE_FOR_DAY = "done_for_day"
    REPLACED = "replaced"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"

    @property
    def terminal(self) -> bool:
        """True when the venue will do nothing more with the order."""
        return self in _TERMINAL


_TERMINAL = frozenset({OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED})


def exactly(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same function, calculating in `EXACT`: whatever the bot has set for its own decimals must not round ours."""

    @wraps(function)
    def in_exact(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with localcontext(EXACT):
            return function(*args, **kwargs)

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
    return len(value.as_tuple().digits) <= 2 * _SCALE_MAX


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


def pct_change(entry: Decimal, price: Decimal, side: Side) -> Decimal:
    """Profit of `side` from `entry` to `price` in percent, rounded half-even to 4 places."""
    change = EXACT.divide(EXACT.multiply(EXACT.subtract(price, entry), HUNDRED), entry)
    return EXACT.multiply(change, side.sign).quantize(Decimal("0.0001"), ROUND_HALF_EVEN, EXACT)


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """`value` rounded toward zero to a whole number of `step`s."""
    if step <= 0:
        return value
    return EXACT.multiply(EXACT.divide(value, step).to_integral_value(ROUND_DOWN), step)


def round_to_tick(price: Decimal, tick: Decimal, *, up: bool) -> Decimal:
    """`price` on the tick grid, rounded up or down; the price itself when it is on the grid already."""
    return EXACT.multiply(EXACT.divide(price, tick).to_integral_value(ROUND_CEILING if up else ROUND_FLOOR), tick)


def symbol_key(symbol: str) -> str:
    """The spelling by which symbols are compared, whatever text it is: ASCII letters in upper case, composed (NFC).

    Only ASCII letters: `upper` would make SS of one German letter, and so one holding of two.
    """
    if symbol.isascii():
        return symbol.upper()
    return normalize("NFC", symbol).translate(_UPPER)


def canonical_symbol(symbol: str) -> str:
    """The one spelling of a symbol inside the library: as the venue calls it, with ASCII letters in upper case.

    Raises:
        ValueError: not 1 to 64 characters that can be printed, or a space at either end.
    """
    key = symbol_key(symbol)
    if not 0 < len(key) <= SYMBOL_MAX or not key.isprintable() or key != key.strip():
        raise ValueError(
            f"{symbol!r} is not a symbol: it has 1 to {SYMBOL_MAX} printable characters, and no space around"
        )
    return key


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


class _Given(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What a bar was made of. A struct, for one is made for each line of a feed."""

    symbol: str
    timestamp: datetime
    open: Decimal | float | str
    high: Decimal | float | str
    low: Decimal | float | str
    close: Decimal | float | str
    volume: Decimal | float | str = 0
    floor: float = math.nan
    ceiling: float = math.nan


# What was given, where the properties of a bar make decimals of it.
_given_open, _given_high, _given_low, _given_close, _given_volume = (
    _Given.__dict__[name].__get__ for name in ("open", "high", "low", "close", "volume")
)


class Bar(_Given, frozen=True, gc=False, eq=False):
    """One price bar of one symbol: immutable, cheap to make, and cheap to find quiet.

    Args:
        symbol: the instrument, as the venue calls it; ASCII letters are kept in upper case.
        timestamp: aware datetime that identifies the bar.
        open, high, low, close: prices as Decimal, int, text or float (a float counts as its shortest text).
        volume: traded quantity; not used for decisions.

    `floor` and `ceiling`, which are not given but computed, are the lowest and highest of the four prices as floats, or
    NaN when the bar is not sound (a price that is no market's, or high below low). Rounding to float is
    monotone, so `lower < bar.floor and bar.ceiling < upper` on floats is never true when the exact prices say
    otherwise: it is the whole test that a quiet bar needs, and everything else is decided on the exact decimals.

    Raises:
        ValueError: a price is no number, or the timestamp has no zone.
    """

    def __post_init__(self) -> None:
        given = (_given_open(self), _given_high(self), _given_low(self), _given_close(self))
        try:
            o, h, lo, c = map(float, given)
        except (TypeError, ValueError, OverflowError):
            what = ", ".join(map(repr, given))
            raise ValueError(f"bar of {self.symbol} at {self.timestamp}: {what} are not prices") from None
        if PRICE_MIN <= lo <= o <= h < PRICE_MAX and lo <= c <= h:
            floor, ceiling = lo, h
        elif PRICE_MIN <= lo <= h < PRICE_MAX and PRICE_MIN <= o < PRICE_MAX and PRICE_MIN <= c < PRICE_MAX:
            floor, ceiling = min(o, lo, c), max(o, h, c)
        else:
            floor = ceiling = math.nan
            for price in given:
                decimal_of(price)  # whoever records why it is refused must be able to read it
        force_setattr(self, "floor", floor)
        force_setattr(self, "ceiling", ceiling)
        if not self.symbol.isupper():
            force_setattr(self, "symbol", symbol_key(self.symbol))
        if self.timestamp.tzinfo is not UTC:
            force_setattr(self, "timestamp", utc(self.timestamp))

    # The type of each price is narrowed here, which mypy knows no way to say of a field.
    @property  # type: ignore[misc]
    def open(self) -> Decimal:
        """First price."""
        return decimal_of(_given_open(self))

    @property  # type: ignore[misc]
    def high(self) -> Decimal:
        """Highest price."""
        return decimal_of(_given_high(self))

    @property  # type: ignore[misc]
    def low(self) -> Decimal:
        """Lowest price."""
        return decimal_of(_given_low(self))

    @property  # type: ignore[misc]
    def close(self) -> Decimal:
        """Last price: the current price when `evaluate_on` is `close`."""
        return decimal_of(_given_close(self))

    @property  # type: ignore[misc]
    def volume(self) -> Decimal:
        """Traded quantity."""
        return decimal_of(_given_volume(self))

    def __reduce__(self) -> tuple[type[Bar], tuple[object, ...]]:
        return Bar, (
            self.symbol,
            self.timestamp,
            _given_open(self),
            _given_high(self),
            _given_low(self),
            _given_close(self),
            _given_volume(self),
        )

    def _key(self) -> tuple[object, ...]:
        return (self.symbol, self.timestamp, self.open, self.high, self.low, self.close, self.volume)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bar) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.symbol, self.timestamp))

    def __repr__(self) -> str:
        o, h, low, c = (plain(p) for p in (self.open, self.high, self.low, self.close))
        return f"Bar({self.symbol} {stamp(self.timestamp)} o={o} h={h} l={low} c={c})"


class CheckedBar(Bar, frozen=True, gc=False, eq=False):
    """A bar whose maker, a feed of millions of them, has done the whole of `Bar`'s work: nothing is looked at again.

    Args:
        symbol: in upper case.
        timestamp: in UTC.
        open, high, low, close, volume: as given to a `Bar`.
        floor, ceiling: as they are computed by a `Bar`. A wrong one would let a breach pass unseen.
    """

    def __post_init__(self) -> None:
        pass


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is sent to the broker: one closing order.

    `position_side` lets an adapter set the venue's own reduce-only or sell-to-close flag.
    """

    client_order_id: str
    symbol: str
    side: OrderSide
    qty: Decimal
    order_type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce = TimeInForce.DAY
    limit_price: Decimal | None = None
    position_side: Side = Side.LONG


class ExecutionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker says of one order, by whichever channel it came (answer, update stream, look-up).

    Attributes:
        filled_qty: cumulative filled quantity, or None when the broker did not say (missing is not zero).
        avg_fill_price: average price of all fills so far.
        leaves_qty: what may still fill, where the broker says it: 0 with `done_for_day` ends a day order.
        orig_client_order_id: the id before this one, where a request to cancel or replace has an id of its own.
        refusal: class of refusal when `status` is `rejected`.
        refused_at_submit: the order never existed at the broker (a definite refusal), so its id was not used up.
        corrected: the broker lowered or changed an earlier fill (a bust or a correction).
        at: the broker's own time of this fact.
    """

    client_order_id: str
    status: OrderStatus
    at: datetime
    filled_qty: Decimal | None = None
    avg_fill_price: Decimal | None = None
    broker_order_id: str | None = None
    symbol: str | None = None
    side: OrderSide | None = None
    qty: Decimal | None = None
    execution_id: str | None = None
    refusal: str | None = None
    text: str = ""
    refused_at_submit: bool = False
    corrected: bool = False
    leaves_qty: Decimal | None = None
    orig_client_order_id: str | None = None


def refused_report(client_order_id: str, refusal: OrderRefused, at: datetime) -> ExecutionReport:
    """A definite refusal at submit, as the report that it amounts to."""
    return ExecutionReport(
        client_order_id=client_order_id,
        status=OrderStatus.REJECTED,
        at=at,
        filled_qty=ZERO,
        refusal=refusal.kind,
        text=refusal.text,
        refused_at_submit=True,
    )


class BrokerPosition(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker says it holds: `qty` is positive on both sides; `qty_available` is what no order reserves.

    `opened_at` is when it was first filled since the symbol was flat, where the broker keeps that with the position.
    """

    symbol: str
    side: Side
    qty: Decimal
    avg_entry_price: Decimal
    qty_available: Decimal | None = None
    current_price: Decimal | None = None
    opened_at: datetime | None = None


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """One execution at the broker, of any order."""

    fill_id: str
    symbol: str
    side: OrderSide
    qty: Decimal
    price: Decimal
    at: datetime
    client_order_id: str | None = None
    broker_order_id: str | None = None


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Something a person must look at. It stands until it is acknowledged."""

    alarm_id: str
    kind: str
    text: str
    raised_at: datetime


def first_by_precedence(reasons: Iterable[ExitType]) -> ExitType | None:
    """The winner among simultaneous reasons; None when there is none."""
    return min(reasons, key=_PRECEDENCE.__getitem__, default=None)


_PRECEDENCE: dict[Any, int] = {reason: rank for rank, reason in enumerate(ExitType)}
