"""From a bot's own objects to ours: dictionaries, dataclasses, rows or SDK models, floats or text, in other spellings.

A bot was written before this library; its broker wrapper returns what it returns. This is the only place that guesses
at names (the table is `spellings`), and it never guesses at values: what is missing stays unknown, what is no number is
an error that says which field of what. What a broker's words mean for an order is in `exitfsm.fix`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from numbers import Integral, Real
from typing import Any, TypeVar

from msgspec.structs import replace

from exitfsm import fix
from exitfsm.broker.spellings import (
    BUY_WORDS,
    FILL_KINDS,
    OVER_WORDS,
    SELL_WORDS,
    SHORT_WORDS,
    SPELLINGS,
    field,
    meant,
    word,
)
from exitfsm.errors import BrokerError
from exitfsm.ports import Session
from exitfsm.values import (
    EXACT,
    ZERO,
    Bar,
    BrokerPosition,
    ExecutionReport,
    Fill,
    OrderSide,
    OrderStatus,
    Side,
    canonical_symbol,
    decimal_of,
    plain,
    tradable,
    utc,
)

#: Quantities are exact to this; what a float shows beyond it is its own noise (0.1 + 0.2 is 0.30000000000000004).
_GRAIN = Decimal("0.000000001")
_NOISE = Decimal("0.00000000001")
_NAN = Decimal("NaN")
_Ours = TypeVar("_Ours", BrokerPosition, ExecutionReport, Fill)
#: Noise shows in a number's last digits, so that it has so many of them.
_NOISY_DIGITS = 15
#: A number of time above each of these counts a unit 1,000 times smaller: seconds, ms, µs, ns since 1970.
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
#: How deep an update may be wrapped.
_WRAPS_MAX = 3


def number(source: Any, meaning: str) -> Decimal | None:
    """A numeric field as an exact decimal; None when it is missing (which is not zero).

    Raises:
        BrokerError: the field holds something that is not a number.
    """
    value = meant(source, meaning)
    if value is None or value == "" or isinstance(value, bool):  # `filled: True` is no figure
        return None
    try:
        figure = decimal_of(value)
    except (ValueError, TypeError):
        raise BrokerError(f"{meaning} is {str(value)[:60]!r}, which is not a number") from None
    if figure.is_finite() and not tradable(figure):
        raise BrokerError(f"{meaning} is {plain(figure)}, which no market has")
    return figure if not figure.is_snan() else _NAN  # comparing the signaling kind would raise


def quantity(source: Any, meaning: str) -> Decimal | None:
    """A quantity: a number without what floating point arithmetic leaves behind.

    Raises:
        BrokerError: the field holds something that is not a number.
    """
    value = number(source, meaning)
    if value is None or not tradable(value) or len(value.as_tuple().digits) < _NOISY_DIGITS:
        return value
    grains = EXACT.divide(value, _GRAIN).to_integral_value(ROUND_HALF_EVEN)
    near = EXACT.multiply(grains, _GRAIN)
    off, most = EXACT.subtract(near, value).copy_abs(), EXACT.multiply(_NOISE, max(value.copy_abs(), Decimal(1)))
    if near == value or off > most:
        return value
    return near.normalize(EXACT)


def moment(source: Any, meaning: str) -> datetime | None:
    """A time as aware UTC: a datetime or ISO 8601 (without a zone it counts as UTC), or a number since 1970.

    Raises:
        BrokerError: the field holds something that is not a time.
    """
    value = meant(source, meaning)
    return None if value is None or value == "" else time_of(value, meaning)


def time_of(value: Any, name: str) -> datetime:
    """One value as a time; see `moment`."""
    try:
        if isinstance(value, datetime):
            at = value
        elif isinstance(value, Real):
            return _since_1970(float(value))
        else:
            text = str(value).strip()
            if text.replace(".", "", 1).isdigit() and len(text.split(".")[0]) >= 9:
                return _since_1970(float(text))
            at = datetime.fromisoformat(_iso(text))
        if type(at) is not datetime:  # a subclass may carry more than can be stored: nanoseconds
            at = datetime.combine(at.date(), at.time().replace(tzinfo=at.tzinfo))
        return utc(at) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        raise BrokerError(f"{name} is {value!r}, which is not a time") from None


def _iso(text: str) -> str:
    """A time as ISO 8601 writes it; FIX writes 20240102-15:30:00.000, in UTC."""
    return f"{text[:8]}T{text[9:]}Z" if len(text) > 9 and text[:8].isdigit() and text[8] == "-" else text


def _since_1970(value: float) -> datetime:
    for above, per_second in _UNITS:
        if abs(value) > above:
            return datetime.fromtimestamp(value / per_second, UTC)
    return datetime.fromtimestamp(value, UTC)


def name_of(value: Any) -> str:
    """A symbol as text, out of a string or of an object that carries one."""
    inner = None if isinstance(value, str) else field(value, "symbol", "ticker", "value", "name")
    return str(inner if inner is not None else value)


# --- bars -------------------------------------------------------------------------------------------------------------


def bar_of(source: Any, symbol: str | None = None) -> Bar:
    """A bar out of whatever carries symbol, time and prices; a feed with a single price gives a flat bar.

    Args:
        source: an object, a mapping, a row, or a plain sequence `([symbol,] time, open, high, low, close[, volume])`.
        symbol: of what it is a bar, where the bar does not say so itself.

    Raises:
        BrokerError: something is missing, or is not what it should be.
        ValueError: the prices are no numbers, or the symbol is none.
    """
    if isinstance(source, Bar):
        return source
    if isinstance(source, (tuple, list)) and not hasattr(source, "_fields"):
        source = _bar_of_sequence(source, symbol)
    wrapped = _unwrapped_bar(source)
    named = meant(wrapped, "symbol")
    named = named if named is not None else symbol if symbol is not None else meant(source, "symbol")
    value = _bar_time(wrapped)
    close = number(wrapped, "close")
    lacks = [what for what, it in (("symbol", named), ("timestamp", value), ("close", close)) if it is None]
    if close is None or lacks:
        raise BrokerError(f"not a bar: {type(source).__name__} has no {' and no '.join(lacks)} (looked for: {_SOUGHT})")
    opened, high, low = (number(wrapped, name) for name in ("open", "high", "low"))
    return Bar(
        name_of(named),
        time_of(value, "timestamp"),
        opened if opened is not None else close,
        high if high is not None else close,
        low if low is not None else close,
        close,
        number(wrapped, "volume") or 0,
    )


_SOUGHT = "; ".join(", ".join(SPELLINGS[name][:6]) for name in ("symbol", "bar_at", "close"))


def _bar_of_sequence(source: tuple[Any, ...] | list[Any], symbol: str | None) -> dict[str, Any]:
    names = ["timestamp", "open", "high", "low", "close", "volume"]
    if symbol is None or (source and isinstance(source[0], str) and source[0].upper() == symbol.upper()):
        names.insert(0, "symbol")
    if not len(names) - 1 <= len(source):
        raise BrokerError(f"not a bar: a sequence of {len(source)} values; {', '.join(names)} are expected")
    return dict(zip(names, source, strict=False))


def _unwrapped_bar(source: Any) -> Any:
    """What carries the prices: the object itself, or what it wraps."""
    inner = source
    for _ in range(_WRAPS_MAX):
        if meant(inner, "close") is not None:
            return inner
        inner = field(inner, "bar", "candle", "data", "payload")
        if inner is None or isinstance(inner, str):
            break
    return source


def _bar_time(source: Any) -> Any:
    """When the bar is of; a row of a table may be indexed by it."""
    value = meant(source, "bar_at")
    index = getattr(source, "name", None) if value is None else None
    return index if isinstance(index, (datetime, Real)) else value


def is_bar(source: Any) -> bool:
    """True when an event on a bus looks like a bar: it has a closing price and a time."""
    if isinstance(source, Bar):
        return True
    inner = _unwrapped_bar(source)
    closes = field(inner, "close", "c", "close_price") is not None
    named = meant(inner, "symbol") is not None or meant(source, "symbol") is not None
    return closes and named and _bar_time(inner) is not None and not _is_order(inner)


# --- positions --------------------------------------------------------------------------------------------------------


def position_of(source: Any, symbol: str | None = None) -> BrokerPosition | None:
    """A position; None for one of quantity zero, which is none. A negative quantity is a short.

    Args:
        source: an object or mapping; or a bare quantity, or `(quantity, entry price)`.
        symbol: whose position it is, where it does not say so itself.
    """
    if isinstance(source, BrokerPosition):
        position = source if type(source.qty) is Decimal and type(source.side) is Side else _as_declared(source, Side)
        return position if position.qty and position.qty.is_finite() else _if_held(position)
    if symbol is not None and isinstance(source, (Real, Decimal, str)):
        source = {"qty": source}
    elif symbol is not None and isinstance(source, (tuple, list)) and not hasattr(source, "_fields"):
        source = dict(zip(("qty", "avg_entry_price"), source, strict=False))
    named = meant(source, "symbol")
    named = named if named is not None else symbol
    qty = quantity(source, "held")
    if named is None or qty is None or not qty.is_finite():
        raise BrokerError(f"a position without symbol or quantity: {type(source).__name__}")
    entry, cost = number(source, "entry_price"), number(source, "cost")
    if entry is None and cost is not None and cost.is_finite() and qty:
        entry = EXACT.divide(cost.copy_abs(), qty.copy_abs()).quantize(_GRAIN, context=EXACT)
    said = meant(source, "position_side")
    short = qty < 0 or (said is not None and word(said) in SHORT_WORDS)
    available = quantity(source, "available")
    return _if_held(
        BrokerPosition(
            symbol=canonical_symbol(name_of(named)),
            side=Side.SHORT if short else Side.LONG,
            qty=qty.copy_abs(),
            avg_entry_price=entry.copy_abs() if entry is not None else _NAN,
            qty_available=available.copy_abs() if available is not None else None,
            current_price=number(source, "price"),
            opened_at=_time_if_any(source, "opened_at"),
        )
    )


def _as_declared(source: _Ours, side: type[Side | OrderSide]) -> _Ours:
    """One of our own objects with each field what it is declared to be: nobody checks that when it is made.

    Raises:
        ValueError: a side or status that there is not.
    """
    changes: dict[str, Any] = {}
    for name in source.__struct_fields__:
        value = getattr(source, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            changes[name] = decimal_of(value)
        elif name == "side" and value is not None and type(value) is not side:
            changes[name] = side(str(value))
        elif name == "status" and type(value) is not OrderStatus:
            changes[name] = OrderStatus(str(value))
    return replace(source, **changes) if changes else source


def _time_if_any(source: Any, meaning: str) -> datetime | None:
    """A time that is welcome but not needed: one that cannot be read is none."""
    try:
        return moment(source, meaning)
    except BrokerError:
        return None


def _if_held(position: BrokerPosition) -> BrokerPosition | None:
    """The position, unless it is of quantity zero."""
    if not position.qty.is_finite():
        raise BrokerError(f"a position of {position.symbol} without a quantity: {position.qty}")
    return position if position.qty != 0 else None


# --- orders and executions --------------------------------------------------------------------------------------------


def report_of(
    source: Any,
    *,
    now: datetime,
    client_order_id: str | None = None,
    client_id_of: Callable[[str], str | None] = lambda broker_order_id: None,
) -> ExecutionReport | None:
    """What a broker says of an order; None when it names no order, or does not say what became of it.

    None too where it says that it does not know the order, or that it knows the id already: that is no record of it.

    Args:
        source: a report, an order, or an update that carries an order.
        now: the time to assume where the broker gives none.
        client_order_id: the id that was asked for, where an answer may leave it out.
        client_id_of: our id of an order that is named by the broker's id alone.
    """
    if isinstance(source, ExecutionReport):
        return _as_declared(source, OrderSide)
    event, order = _parts(source)
    broker_id = _text(meant(order, "broker_order_id"))
    order_id = _text(meant(order, "client_order_id")) or client_order_id
    if order_id is None and broker_id is not None:
        order_id = client_id_of(broker_id) or broker_id
    kind, status = _kind(event), _status(event, order)
    if order_id is None or status is None or _is_no_record(order, kind, status):
        return None
    qty, filled = _figures(order)
    if filled is None and (left := _left_to_fill(order, qty, status)) is not None and qty is not None:
        filled = EXACT.subtract(qty.copy_abs(), left)
    symbol, code = meant(order, "symbol"), str(meant(order, "fix_side"))
    told_at = moment(event, "update_at") if order is not event else None
    return ExecutionReport(
        client_order_id=order_id,
        status=status,
        at=told_at or moment(order, "order_at") or now,
        filled_qty=filled,
        avg_fill_price=number(order, "avg_fill_price"),
        broker_order_id=broker_id,
        symbol=name_of(symbol).upper() if symbol is not None else None,
        side=_order_side(meant(order, "side")) or _FIX_SIDES.get(code),
        qty=qty,
        execution_id=_text(meant(event, "execution_id")),
        refusal=_refusal(order),
        text=_text(meant(order, "reason")) or "",
        corrected=fix.corrects(kind),
        leaves_qty=quantity(order, "remaining"),
        orig_client_order_id=_text(meant(order, "original_id")),
    )


_FIX_SIDES = {"1": OrderSide.BUY, "2": OrderSide.SELL, "5": OrderSide.SELL}


def _parts(source: Any) -> tuple[Any, Any]:
    """The update and the order in it: the same where it is flat."""
    event = _by_text(source)
    for _ in range(_WRAPS_MAX):
        order = meant(event, "order_in")
        if order is not None and not isinstance(order, (str, int)):
            return event, order
        inner = meant(event, "wrapped") if meant(event, "client_order_id") is None else None
        if inner is None or isinstance(inner, (str, int, float)):
            break
        event = inner
    return event, event


def _by_text(source: Any) -> Any:
    """FIX's tags come as numbers, too."""
    tagged = type(source) is dict and any(isinstance(key, int) for key in source)
    return {str(key): value for key, value in source.items()} if tagged else source


def _figures(order: Any) -> tuple[Decimal | None, Decimal | None]:
    """Ordered and filled quantity, both without a sign: some write what is sold as less than nothing."""
    qty, filled = quantity(order, "order_qty"), quantity(order, "filled_qty")
    if qty is not None and qty.is_finite() and qty < 0:
        return qty.copy_abs(), filled.copy_abs() if filled is not None else None
    return qty, filled


def _left_to_fill(order: Any, qty: Decimal | None, status: OrderStatus | None) -> Decimal | None:
    """What is left of an order, where that says how much is filled: of one that is over and not filled it does not."""
    left = quantity(order, "remaining")
    if qty is None or left is None or not (qty.is_finite() and left.is_finite()):
        return None
    over = status is not None and status is not OrderStatus.FILLED and (status.terminal or left == 0)
    return None if over else left.copy_abs()


def _kind(event: Any) -> fix.Word | None:
    """What happened, where the update says it in a word, or in FIX's own code."""
    said, coded = meant(event, "update_kind"), meant(event, "fix_kind")
    found = fix.event_of(word(said)) if said is not None else None
    return found or (fix.event_of(word(coded), coded=True) if coded is not None else None)


def _state(order: Any) -> OrderStatus | None:
    """The order's own state, in a word, or in FIX's own code."""
    said, coded = meant(order, "order_status"), meant(order, "fix_status")
    found = fix.status_of(word(said)) if said is not None else None
    if found is None and coded is not None:
        found = fix.status_of(word(coded), coded=True)
    if said is not None and word(said) in OVER_WORDS:
        qty, filled = _figures(order)
        if filled is not None and filled.is_finite() and (qty is None or qty.is_finite()):
            return OrderStatus.FILLED if qty is None or filled >= qty else OrderStatus.CANCELED
    return found


def _status(event: Any, order: Any) -> OrderStatus | None:
    """Our word for the order's state. It counts; what happened counts only where no state is said, or it says more."""
    state = _state(order)
    if _is_refused_cancel(event):
        # That the order is unknown or rejected is no record of it here: it may arrive after the request.
        over = state is not None and state.terminal and state is not OrderStatus.REJECTED
        return state if over else OrderStatus.CANCEL_REJECTED
    kind, said = _kind(event), meant(event, "update_kind")
    if state is not None or meant(order, "order_status") is not None or said is None:
        return state if state is not None else kind.status if kind is not None else None
    if word(said) in FILL_KINDS:
        # Something filled; whether it was all, only the figures can say.
        qty, filled = _figures(order)
        whole = filled == qty if filled is not None else word(said) == "fill" and order is not event
        return OrderStatus.FILLED if whole else OrderStatus.PARTIALLY_FILLED
    return kind.status if kind is not None else fix.status_of(word(said))


def _is_refused_cancel(event: Any) -> bool:
    """True for news that a request to cancel was refused."""
    if str(meant(event, "reject_answers")) == "2":
        return False  # a request to replace
    said = [meant(event, name) for name in ("update_kind", "fix_kind", "message_type")]
    return str(said[2]) == "9" or any(fix.refuses_cancel(word(value)) for value in said if value is not None)


def _is_no_record(order: Any, kind: fix.Word | None, status: OrderStatus) -> bool:
    """True for a reject that is about a question or a repetition, not about the order."""
    if status is not OrderStatus.REJECTED:
        return False
    asked = kind is not None and kind.code == "I" and quantity(order, "order_qty") == 0
    return asked or _refusal(order) in (fix.UNKNOWN_ORDER, fix.DUPLICATE_ORDER)


def says_unknown(source: Any) -> bool:
    """True for an answer that says that the broker does not know the order it was asked about."""
    if source is None or isinstance(source, ExecutionReport):
        return False
    event, order = _parts(source)
    status = _status(event, order)
    no_record = status is not None and _is_no_record(order, _kind(event), status)
    return no_record and _refusal(order) != fix.DUPLICATE_ORDER


def _refusal(order: Any) -> str | None:
    """The class of a reject: by its FIX code, or as the broker says it."""
    for meaning, table in (("reject_code", fix.ORD_REJ_REASON), ("cancel_reject_code", fix.CXL_REJ_REASON)):
        code = meant(order, meaning)
        if code is not None:
            return fix.reason_of(str(code)) or table.get(str(code), str(code))
    said = _text(meant(order, "refusal"))
    return (fix.reason_of(said) or said) if said is not None else fix.reason_of(str(meant(order, "reason") or ""))


def _order_side(value: Any) -> OrderSide | None:
    if value is None:
        return None
    said = word(value)
    if said in SELL_WORDS:
        return OrderSide.SELL
    return OrderSide.BUY if said in BUY_WORDS else None


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)[:500]


def _is_order(source: Any) -> bool:
    """True for what names an order and says what became of it."""
    if meant(source, "client_order_id") is None and meant(source, "broker_order_id") is None:
        return False
    if _state(source) is not None or _kind(source) is not None:
        return True
    said = [word(value) for value in (meant(source, "order_status"), meant(source, "update_kind")) if value is not None]
    return any(fix.status_of(one) or one in OVER_WORDS or one in FILL_KINDS for one in said)


def is_order_update(source: Any) -> bool:
    """True when an event on a bus looks like news of an order."""
    if isinstance(source, ExecutionReport):
        return True
    event, order = _parts(source)
    if order is event:
        return _is_order(event)
    named = meant(order, "client_order_id") is not None or meant(order, "broker_order_id") is not None
    return named and (meant(event, "update_kind") is not None or meant(order, "order_status") is not None)


def fill_of(source: Any) -> Fill | None:
    """One execution; None when it lacks symbol, side, quantity, price or time (no trade without them)."""
    if isinstance(source, Fill):
        return _as_declared(source, OrderSide)
    symbol, side = meant(source, "symbol"), _order_side(meant(source, "side"))
    qty, price, at = quantity(source, "fill_qty"), number(source, "fill_price"), moment(source, "fill_at")
    if symbol is None or qty is None or price is None or at is None or not (qty.is_finite() and price.is_finite()):
        return None
    if side is None:
        if qty >= ZERO:
            return None
        side = OrderSide.SELL
    fill_id = meant(source, "fill_id")
    name = name_of(symbol)
    return Fill(
        fill_id=str(fill_id) if fill_id is not None else f"{name}-{at.isoformat()}-{side}-{qty}-{price}",
        symbol=canonical_symbol(name),
        side=side,
        qty=qty.copy_abs(),
        price=price,
        at=at,
        client_order_id=_text(meant(source, "client_order_id")),
        broker_order_id=_text(meant(source, "fill_order_id")),
    )


# --- hours ------------------------------------------------------------------------------------------------------------


def session_of(source: Any) -> Session:
    """The market's hours out of a clock object, a mapping, a plain truth value, or the word `open` or `closed`."""
    if isinstance(source, Session):
        return source
    if isinstance(source, bool):
        return Session(is_open=source)
    if isinstance(source, str) and word(source) in ("open", "closed"):
        return Session(is_open=word(source) == "open")
    is_open = meant(source, "is_open")
    if isinstance(is_open, Integral) and is_open in (0, 1):
        is_open = bool(is_open)
    if not isinstance(is_open, bool):
        raise BrokerError(f"a market clock without is_open: {type(source).__name__}")
    return Session(
        is_open=is_open, close=moment(source, "closes_at") if is_open else None, next_open=moment(source, "opens_at")
    )
