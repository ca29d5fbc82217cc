"""The frozen nouns: bars, orders, reports, and the enumerations everybody speaks.

`Bar` has a room of its own, `bar`, and numbers and times have theirs, `exact`; both are had from here.

Rules of this room: nothing here knows a clock, a file or a broker. Times are aware UTC datetimes, prices and quantities
are `Decimal`; a float is taken at its shortest decimal text, never at its binary value. A noun may hold a bad value (a
bar with a NaN price is still a bar): judging it is the business of `position.decide`, which records what it refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec

from exitfsm.bar import Bar, CheckedBar, symbol_key
from exitfsm.errors import OrderRefused
from exitfsm.exact import (
    EXACT,
    HUNDRED,
    NANO,
    PCT,
    PRICE_MAX,
    PRICE_MIN,
    ZERO,
    decimal_of,
    exactly,
    floor_to,
    plain,
    round_to_tick,
    rounded,
    significant,
    stamp,
    tradable,
    utc,
)

__all__ = [
    "EXACT",
    "HUNDRED",
    "NANO",
    "PCT",
    "PRICE_MAX",
    "PRICE_MIN",
    "SYMBOL_MAX",
    "ZERO",
    "Alarm",
    "Bar",
    "BrokerPosition",
    "CheckedBar",
    "EvaluateOn",
    "ExecutionReport",
    "ExitStatus",
    "ExitType",
    "Fill",
    "Order",
    "OrderSide",
    "OrderStatus",
    "OrderType",
    "Rows",
    "Side",
    "TimeInForce",
    "bare",
    "canonical_symbol",
    "decimal_of",
    "exactly",
    "first_by_precedence",
    "floor_to",
    "is_symbol",
    "named",
    "pct_change",
    "plain",
    "refused_report",
    "round_to_tick",
    "rounded",
    "rows_of",
    "same_symbol",
    "significant",
    "stamp",
    "symbol_key",
    "tradable",
    "utc",
]

SYMBOL_MAX = 64  # characters; an option on a perpetual at a crypto exchange has 30


class Side(StrEnum):
    """Which way a position is held."""

    LONG = "long"
    SHORT = "short"

    sign: int

    def __init__(self, name: str) -> None:
        self.sign = 1 if name == "long" else -1  # an attribute: every level asks for it

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
    OPERATOR = "operator"
    BREAK_EVEN = "break_even"
    TRAILING_STOP = "trailing_stop"
    TIME_LIMIT = "time_limit"
    END_OF_SESSION = "end_of_session"
    PROFIT_TAKE = "profit_take"
    CUSTOM = "custom"
    RECOVERED = "recovered"

    @property
    def takes_profit(self) -> bool:
        """True where the price was reached on the favourable side; every other exit stands in nobody's way."""
        return self is ExitType.PROFIT_TAKE


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


def pct_change(entry: Decimal, price: Decimal, side: Side) -> Decimal:
    """Profit of `side` from `entry` to `price` in percent, rounded half-even to 4 places."""
    change = EXACT.divide(EXACT.multiply(EXACT.subtract(price, entry), HUNDRED), entry)
    return rounded(EXACT.multiply(change, side.sign), PCT)


def bare(symbol: str) -> str:
    """The spelling without a slash, by which two spellings of one instrument are compared: `BTC/USD` and `BTCUSD`."""
    return symbol.replace("/", "")


def same_symbol(one: str, other: str) -> bool:
    """True for two spellings of one instrument: a pair comes with and without its slash."""
    if one == other or ("/" in one) == ("/" in other):
        return one == other
    return bare(one) == bare(other)


def is_symbol(text: str) -> bool:
    """True for a text that can be the symbol of what is held."""
    key = symbol_key(text)
    return 0 < len(key) <= SYMBOL_MAX and key.isprintable() and key == key.strip()


def canonical_symbol(symbol: str) -> str:
    """The one spelling of a symbol inside the library: as the venue calls it, with ASCII letters in upper case.

    Raises:
        ValueError: not 1 to 64 characters that can be printed, or a space at either end.
    """
    if not is_symbol(symbol):
        raise ValueError(
            f"{symbol!r} is not a symbol: use 1 to {SYMBOL_MAX} printable characters, without space around"
        )
    return symbol_key(symbol)


class Order(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is sent to the broker: one closing order.

    `position_side` is the side that it closes: an adapter sets the venue's own reduce-only or sell-to-close flag by it,
    and in hedge mode the side that the venue wants named.
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
        passing: whether the cause of a refusal passes by itself; None where its code and words are to decide.
        position_side: the side that it opens or closes, where both can be held at once and the broker says it.
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
    passing: bool | None = None
    position_side: Side | None = None


class WorkingOrder(ExecutionReport, frozen=True, kw_only=True):
    """An order in a list of working orders, which says more of it than a report.

    Attributes:
        order_type: `market`, `limit`, `stop`, `stop_limit`, or the broker's own word; empty where it does not say.
        limit_price, stop_price: its prices, where it has them.
    """

    order_type: str = ""
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None

    @property
    def price_of_it(self) -> Decimal | None:
        """The price at which it would work: its stop's, else its limit."""
        return self.stop_price if self.stop_price is not None else self.limit_price


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
        passing=refusal.passing,
    )


class BrokerPosition(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker says it holds: `qty` is positive on both sides; `qty_available` is what no order reserves.

    `opened_at` is when it was first filled since the symbol was flat, where the broker keeps that with the position.
    `account` and `product` tell rows of one symbol apart, where the broker names them.
    """

    symbol: str
    side: Side
    qty: Decimal
    avg_entry_price: Decimal
    qty_available: Decimal | None = None
    current_price: Decimal | None = None
    opened_at: datetime | None = None
    account: str | None = None
    product: str = ""


class Rows(tuple[BrokerPosition, ...]):
    """What the broker says it holds, with an index, made when it is first asked for: none of them is searched."""

    @cached_property
    def by_name(self) -> dict[str, list[BrokerPosition]]:
        """The rows by the bare name of their symbol, in their order."""
        found: dict[str, list[BrokerPosition]] = {}
        for row in self:
            found.setdefault(bare(row.symbol), []).append(row)
        return found


def named(rows: Sequence[BrokerPosition], symbol: str) -> Sequence[BrokerPosition]:
    """The rows whose symbol has the same bare name."""
    name = bare(symbol)
    if isinstance(rows, Rows):
        return rows.by_name.get(name, ())
    return [row for row in rows if bare(row.symbol) == name]


def rows_of(rows: Sequence[BrokerPosition], symbol: str) -> list[BrokerPosition]:
    """The rows of a symbol, in their order."""
    return [row for row in named(rows, symbol) if same_symbol(row.symbol, symbol)]


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """One execution at the broker, of any order.

    `position_side` is the side it opened or closed, where both can be held at once. `base_fee` is what the venue kept
    of a purchase in the asset itself.
    """

    fill_id: str
    symbol: str
    side: OrderSide
    qty: Decimal
    price: Decimal
    at: datetime
    client_order_id: str | None = None
    broker_order_id: str | None = None
    account: str | None = None
    position_side: Side | None = None
    base_fee: Decimal = ZERO


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
