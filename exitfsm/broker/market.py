"""Positions, bars and hours, in anybody's shape.

All of them are read with care, for positions are exited on them: what lacks what it needs is a `BrokerError` that says
so. How long hours are valid is in `exitfsm.broker.hours`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import msgspec

from exitfsm.broker.fields import NAN, as_declared, moment, name_of, number, quantity, symbol_of, time_of
from exitfsm.broker.orders import WRAPS_MAX, is_order
from exitfsm.broker.spellings import SHORT_WORDS, SPELLINGS, field, meant, word
from exitfsm.errors import BrokerError
from exitfsm.order_ids import form_mistake
from exitfsm.ports import AssetRules, Instrument, Session
from exitfsm.values import EXACT, Bar, BrokerPosition, Side, rounded, tradable

_SOUGHT = "; ".join(", ".join(SPELLINGS[name][:6]) for name in ("symbol", "bar_at", "close"))


def position_of(source: Any, symbol: str | None = None) -> BrokerPosition | None:
    """A position, None for none held; of a given symbol a bare quantity, or `(quantity, entry price)`, will do."""
    if isinstance(source, BrokerPosition):
        exact = (  # mostly, and there may be hundreds in each answer: in a row, because that costs the least
            type(source.qty) is type(source.avg_entry_price) is Decimal
            and type(source.side) is Side
            and (source.current_price is None or type(source.current_price) is Decimal)
            and (source.qty_available is None or type(source.qty_available) is Decimal)
        )
        return _if_held(source if exact else as_declared(source, Side))
    if symbol is not None and isinstance(source, (Real, Decimal, str)):
        source = {"qty": source}
    elif symbol is not None and isinstance(source, (tuple, list)) and not hasattr(source, "_fields"):
        source = dict(zip(("qty", "avg_entry_price"), source, strict=False))
    said, qty = meant(source, "symbol"), quantity(source, "held")
    named = said if said is not None else symbol
    if named is None or qty is None or not qty.is_finite():
        raise BrokerError(f"a position without symbol or quantity: {type(source).__name__}")
    entry, cost = number(source, "entry_price"), number(source, "cost")
    if entry is None and cost is not None and cost.is_finite() and qty:
        entry = rounded(EXACT.divide(cost.copy_abs(), qty.copy_abs()))
    short = qty < 0 or word(meant(source, "position_side")) in SHORT_WORDS
    available = quantity(source, "available")
    try:
        opened_at = moment(source, "opened_at")
    except BrokerError:
        opened_at = None  # it is welcome but not needed
    position = BrokerPosition(
        symbol=symbol_of(named),
        side=Side.SHORT if short else Side.LONG,
        qty=qty.copy_abs(),
        avg_entry_price=entry.copy_abs() if entry is not None else NAN,
        qty_available=available.copy_abs() if available is not None else None,
        current_price=number(source, "price"),
        opened_at=opened_at,
    )
    return _if_held(position)


def _if_held(position: BrokerPosition) -> BrokerPosition | None:
    """The position, unless it is of quantity zero."""
    if not position.qty.is_finite():
        raise BrokerError(f"a position of {position.symbol} without a quantity: {position.qty}")
    return position if position.qty != 0 else None


def bar_of(source: Any, symbol: str | None = None) -> Bar:
    """A bar of an object, a mapping or `([symbol,] time, open, high, low, close[, volume])`; flat of one price."""
    if isinstance(source, Bar):
        return source
    if isinstance(source, (tuple, list)) and not hasattr(source, "_fields"):
        source = _named_values(source, symbol)
    inner = _unwrapped(source)
    named = meant(inner, "symbol")
    named = named if named is not None else symbol if symbol is not None else meant(source, "symbol")
    at = _time_in(inner)
    close = number(inner, "close")
    lacks = [what for what, it in (("symbol", named), ("timestamp", at), ("close", close)) if it is None]
    if close is None or lacks:
        raise BrokerError(f"not a bar: {type(source).__name__} has no {' and no '.join(lacks)} (looked for: {_SOUGHT})")
    given = (number(inner, name) for name in ("open", "high", "low"))
    opened, high, low = (close if price is None else price for price in given)
    return Bar(name_of(named), time_of(at, "timestamp"), opened, high, low, close, number(inner, "volume") or 0)


def _named_values(source: tuple[Any, ...] | list[Any], symbol: str | None) -> dict[str, Any]:
    names = ["timestamp", "open", "high", "low", "close", "volume"]
    if symbol is None or (source and isinstance(source[0], str) and source[0].upper() == symbol.upper()):
        names.insert(0, "symbol")
    if len(source) < len(names) - 1:
        raise BrokerError(f"not a bar: a sequence of {len(source)} values; {', '.join(names)} are expected")
    return dict(zip(names, source, strict=False))


def _unwrapped(source: Any) -> Any:
    """What carries the prices: the object itself, or what it wraps."""
    inner = source
    for _ in range(WRAPS_MAX):
        if meant(inner, "close") is not None:
            return inner
        inner = field(inner, "bar", "candle", "data", "payload")
        if inner is None or isinstance(inner, str):
            break
    return source


def _time_in(source: Any) -> Any:
    """When the bar is of; a row of a table may be indexed by it."""
    value = meant(source, "bar_at")
    index = getattr(source, "name", None) if value is None else None
    return index if isinstance(index, (datetime, Real)) else value


def is_bar(source: Any) -> bool:
    """True when an event on a bus looks like a bar: it has a symbol, a closing price and a time, and is no order."""
    if isinstance(source, Bar):
        return True
    inner = _unwrapped(source)
    closes = field(inner, "close", "c", "close_price") is not None
    named = meant(inner, "symbol") is not None or meant(source, "symbol") is not None
    return closes and named and _time_in(inner) is not None and not is_order(inner)


def session_of(source: Any) -> Session:
    """The market's hours out of a clock object, a mapping, a plain truth value, or the word `open` or `closed`."""
    if isinstance(source, Session):
        return source
    is_open = source if isinstance(source, bool) else meant(source, "is_open")
    if isinstance(source, str) and word(source) in ("open", "closed"):
        is_open = word(source) == "open"
    elif isinstance(is_open, Integral) and is_open in (0, 1):
        is_open = bool(is_open)
    if not isinstance(is_open, bool):
        raise BrokerError(f"a market clock without is_open: {type(source).__name__}")
    return Session(
        is_open=is_open, close=moment(source, "closes_at") if is_open else None, next_open=moment(source, "opens_at")
    )


def instrument_of(source: Any, rules: AssetRules) -> Instrument | None:
    """What a broker says of one symbol, out of an `Instrument` or a mapping of its fields; None where it says nothing.

    Args:
        source: the answer.
        rules: those of its class, for what a mapping leaves out.

    Raises:
        BrokerError: it is neither, or a figure in it can be none.
    """
    if source is None or isinstance(source, Instrument):
        found = source
    elif isinstance(source, Mapping):
        given = {str(key): value for key, value in source.items() if key in Instrument.__struct_fields__}
        if not given:
            raise BrokerError(
                f"an instrument has {', '.join(Instrument.__struct_fields__)}, and the answer none of them"
            )
        try:
            by_class = msgspec.structs.asdict(rules) | {"always_open": None}
            found = msgspec.convert(by_class | given, Instrument, strict=False)
        except (msgspec.ValidationError, TypeError) as error:
            raise BrokerError(f"an instrument that cannot be read: {error}") from None
    else:
        raise BrokerError(f"an Instrument, or a mapping of its fields, was expected, not {type(source).__name__}")
    wrong = _mistake_of(found) if found is not None else None
    if wrong is not None:
        raise BrokerError(f"an instrument that cannot be: {wrong}")
    return found


def _mistake_of(instrument: Instrument) -> str | None:
    figures = ("qty_step", "qty_min", "price_tick", "price_tick_below_1", "value_min", "multiplier")
    for name in figures:
        value = getattr(instrument, name)
        if not tradable(value) or value < 0 or (name == "multiplier" and value == 0):
            return f"{name} is {value}"
    return form_mistake(instrument.id_form) if instrument.id_form else None
