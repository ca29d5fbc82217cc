"""From a bot's own objects to ours: dictionaries, dataclasses or SDK models, floats or text, in the usual spellings.

A bot was written before this library; its broker wrapper returns what it returns. This is the only place that guesses
at names, and it never guesses at values: what is missing stays unknown, what is no number is an error that says which
field of what. The words of statuses are those of Alpaca, FIX and the common wrappers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from exitfsm.errors import BrokerError
from exitfsm.ports import Session
from exitfsm.values import (
    Bar,
    BrokerPosition,
    ExecutionReport,
    Fill,
    OrderSide,
    OrderStatus,
    Side,
    canonical_symbol,
    decimal_of,
    utc,
)

_MISSING = object()

_WORDS: dict[OrderStatus, str] = {
    OrderStatus.NEW: (
        "new accepted pending_new submitted open working live held accepted_for_bidding pending pending_replace "
        "order_replace_rejected replace_rejected restated calculated stopped"
    ),
    OrderStatus.PARTIALLY_FILLED: "partially_filled partial_fill partial partialfill partiallyfilled",
    OrderStatus.FILLED: "filled fill executed complete completed",
    OrderStatus.CANCELED: "canceled cancelled",
    OrderStatus.EXPIRED: "expired",
    OrderStatus.REJECTED: "rejected failed",
    OrderStatus.PENDING_CANCEL: "pending_cancel pendingcancel canceling cancelling",
    OrderStatus.CANCEL_REJECTED: "order_cancel_rejected cancel_rejected",
    OrderStatus.SUSPENDED: "suspended halted",
    OrderStatus.DONE_FOR_DAY: "done_for_day doneforday",
}
#: A broker's word for an order's status, or for an update's kind -> ours. A word that is not here is not understood:
#: "closed", say, may mean filled or canceled.
STATUS_WORDS: dict[str, OrderStatus] = {word: status for status, words in _WORDS.items() for word in words.split()}
#: Update kinds that lower or change an earlier fill.
CORRECTIONS = frozenset({"trade_bust", "trade_correct", "bust", "correct", "trade_cancel"})


def field(source: Any, *names: str) -> Any:
    """The first of `names` that `source` has and that is not None, by key or by attribute; None when there is none."""
    for name in names:
        value = source.get(name, _MISSING) if isinstance(source, Mapping) else getattr(source, name, _MISSING)
        if value is not _MISSING and value is not None and not callable(value):
            return value
    return None


def number(source: Any, *names: str) -> Decimal | None:
    """A numeric field as an exact decimal; None when it is missing (which is not zero).

    Raises:
        BrokerError: the field holds something that is not a number.
    """
    value = field(source, *names)
    if value is None or value == "":
        return None
    try:
        return decimal_of(value)
    except (ValueError, TypeError):
        raise BrokerError(f"{names[0]} is {value!r}, which is not a number") from None


def word(value: Any) -> str:
    """A status or side as a plain lower-case word, out of a string or an enum."""
    text = str(value.value if isinstance(value, Enum) else value)
    return text.rsplit(".", 1)[-1].strip().lower().replace(" ", "_").replace("-", "_")


def moment(source: Any, *names: str) -> datetime | None:
    """A time as aware UTC; text must be ISO 8601, a naive time counts as UTC, a number as seconds since 1970."""
    value = field(source, *names)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC)
        at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except (ValueError, OverflowError):
        raise BrokerError(f"{names[0]} is {value!r}, which is not a time") from None
    return utc(at) if at.tzinfo is not None else at.replace(tzinfo=UTC)


def bar_of(source: Any) -> Bar:
    """A bar out of whatever carries symbol, time and prices; a feed with a single price gives a flat bar."""
    if isinstance(source, Bar):
        return source
    symbol = field(source, "symbol", "S", "ticker")
    at = moment(source, "timestamp", "time", "t", "at", "ts", "bar_time", "start")
    close = number(source, "close", "c", "price", "last", "close_price")
    if symbol is None or at is None or close is None:
        raise BrokerError(f"not a bar (symbol, timestamp and close are needed): {type(source).__name__}")
    prices = [number(source, *names) for names in (("open", "o", "open_price"), ("high", "h"), ("low", "l"))]
    opened, high, low = (price if price is not None else close for price in prices)
    return Bar(str(symbol), at, opened, high, low, close, number(source, "volume", "v") or 0)


def position_of(source: Any) -> BrokerPosition | None:
    """A position; None for one of quantity zero, which is none. A negative quantity is a short."""
    if isinstance(source, BrokerPosition):
        return _if_held(source)
    symbol = field(source, "symbol", "ticker")
    qty = number(source, "qty", "quantity", "size", "shares", "position")
    if symbol is None or qty is None or not qty.is_finite():
        raise BrokerError(f"a position without symbol or quantity: {type(source).__name__}")
    entry = number(
        source, "avg_entry_price", "average_entry_price", "avg_price", "entry_price", "cost_price", "average_price"
    )
    said = field(source, "side", "position_side")
    side = Side.SHORT if qty < 0 or (said is not None and word(said) in ("short", "sell")) else Side.LONG
    available = number(source, "qty_available", "available", "available_qty")
    return _if_held(
        BrokerPosition(
            symbol=canonical_symbol(str(symbol)),
            side=side,
            qty=abs(qty),
            avg_entry_price=entry if entry is not None else Decimal("NaN"),
            qty_available=abs(available) if available is not None else None,
            current_price=number(source, "current_price", "market_price", "last_price", "mark_price"),
        )
    )


def _if_held(position: BrokerPosition) -> BrokerPosition | None:
    """The position, unless it is of quantity zero."""
    if not position.qty.is_finite():
        raise BrokerError(f"a position of {position.symbol} without a quantity: {position.qty}")
    return position if position.qty != 0 else None


def report_of(source: Any, *, now: datetime, client_order_id: str | None = None) -> ExecutionReport | None:
    """What a broker says of an order; None when it names no order id or a status that is not understood.

    Args:
        source: a report, an order, or an update that carries an order in `order`.
        now: the time to assume where the broker gives none.
        client_order_id: the id that was asked for, where an answer may leave it out.
    """
    if isinstance(source, ExecutionReport):
        return source
    data = field(source, "data") if field(source, "client_order_id", "order") is None else None
    event, order = source if data is None else data, None
    order = field(event, "order")
    order = event if order is None or isinstance(order, str) else order
    order_id = field(order, "client_order_id", "clOrdID", "cl_ord_id", "client_id") or client_order_id
    kind = field(event, "event", "update_type", "kind", "exec_type") if order is not event else None
    status = _status(kind, field(order, "status", "order_status", "ord_status", "state"))
    if order_id is None or status is None:
        return None
    symbol, side = field(order, "symbol", "ticker"), field(order, "side")
    broker_id = field(order, "broker_order_id", "alpaca_order_id", "order_id", "id")
    return ExecutionReport(
        client_order_id=str(order_id),
        status=status,
        at=moment(event, "timestamp", "at", "time", "updated_at")
        or moment(order, "filled_at", "updated_at", "canceled_at", "expired_at", "failed_at", "submitted_at")
        or now,
        filled_qty=number(order, "filled_qty", "filled_quantity", "cum_qty", "filled", "executed_qty"),
        avg_fill_price=number(order, "filled_avg_price", "avg_fill_price", "average_fill_price", "avg_price", "avg_px"),
        broker_order_id=str(broker_id) if broker_id is not None else None,
        symbol=str(symbol).upper() if symbol is not None else None,
        side=_order_side(side),
        qty=number(order, "qty", "quantity", "order_qty"),
        execution_id=_text(field(event, "execution_id", "exec_id")),
        refusal=_text(field(order, "refusal", "reject_code")),
        text=_text(field(order, "reject_reason", "reason", "text", "message")) or "",
        corrected=kind is not None and word(kind) in CORRECTIONS,
    )


def _status(kind: Any, status: Any) -> OrderStatus | None:
    """Our word for what happened. The order's own status counts; the update's kind only where it says more."""
    by_kind = STATUS_WORDS.get(word(kind)) if kind is not None else None
    by_status = STATUS_WORDS.get(word(status)) if status is not None else None
    if by_kind is OrderStatus.CANCEL_REJECTED:
        return by_kind if by_status is None or not by_status.terminal else by_status
    return by_status if by_status is not None else by_kind


def _order_side(value: Any) -> OrderSide | None:
    if value is None:
        return None
    said = word(value)
    if said in ("sell", "sell_short", "short"):
        return OrderSide.SELL
    return OrderSide.BUY if said in ("buy", "buy_to_cover", "long") else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:500]


def fill_of(source: Any) -> Fill | None:
    """One execution; None when it lacks symbol, side, quantity, price or time (no trade without them)."""
    if isinstance(source, Fill):
        return source
    symbol, side = field(source, "symbol", "ticker"), _order_side(field(source, "side"))
    qty, price = number(source, "qty", "quantity"), number(source, "price", "fill_price")
    at = moment(source, "at", "transaction_time", "timestamp", "time", "filled_at")
    if symbol is None or side is None or qty is None or price is None or at is None:
        return None
    if not (qty.is_finite() and price.is_finite()):
        return None
    fill_id = field(source, "fill_id", "id", "execution_id")
    order_id = field(source, "broker_order_id", "order_id")
    return Fill(
        fill_id=str(fill_id) if fill_id is not None else f"{symbol}-{at.isoformat()}-{side}-{qty}-{price}",
        symbol=canonical_symbol(str(symbol)),
        side=side,
        qty=abs(qty),
        price=price,
        at=at,
        client_order_id=_text(field(source, "client_order_id")),
        broker_order_id=_text(order_id),
    )


def session_of(source: Any) -> Session:
    """The market's hours out of a clock object, a dictionary, or a plain truth value."""
    if isinstance(source, Session):
        return source
    if isinstance(source, bool):
        return Session(is_open=source)
    is_open = field(source, "is_open", "open")
    if not isinstance(is_open, bool):
        raise BrokerError(f"a market clock without is_open: {type(source).__name__}")
    close = moment(source, "close", "next_close", "closes_at") if is_open else None
    return Session(is_open=is_open, close=close, next_open=moment(source, "next_open", "opens_at"))


def is_bar(source: Any) -> bool:
    """True when an event on a bus looks like a bar."""
    return isinstance(source, Bar) or (
        field(source, "symbol", "S") is not None
        and field(source, "close", "c") is not None
        and field(source, "timestamp", "t", "time") is not None
    )


def is_order_update(source: Any) -> bool:
    """True when an event on a bus looks like news of an order."""
    if isinstance(source, ExecutionReport):
        return True
    order = field(source, "order", "data")
    return any(
        candidate is not None
        and field(candidate, "client_order_id") is not None
        and field(candidate, "status", "event")
        for candidate in (source, order, field(order, "order") if order is not None else None)
    )
