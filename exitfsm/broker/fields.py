"""What a field holds, whoever wrote it: numbers, quantities, times, sides and names, as values of ours.

This is where values are read and never guessed: what is missing is None, which is not zero, and what is not what it
should be is a `BrokerError` that says which field. Only `spellings` guesses at names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from numbers import Real
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from exitfsm.broker.spellings import BUY_WORDS, SELL_WORDS, SPELLINGS, field, meant, word
from exitfsm.errors import BrokerError, storable
from exitfsm.values import EXACT, OrderSide, OrderStatus, Side, canonical_symbol, decimal_of, plain, tradable, utc

NAN = Decimal("NaN")
#: Quantities are exact to this; what a float shows beyond it is its own noise (0.1 + 0.2 is 0.30000000000000004).
GRAIN = Decimal("0.000000001")
_NOISE = Decimal("0.00000000001")
#: Noise shows in a number's last digits, so that it has so many of them.
_NOISY_DIGITS = 15
#: A number of time above each of these counts a unit 1,000 times smaller: seconds, ms, µs, ns since 1970.
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))
#: Keys under which a broker's answer says that it is none.
_NO_ANSWER = frozenset({"error", "errors", "code", "msg", "message", "status_code"})
#: Keys under which a list may lie in an answer.
_LISTS = ("positions", "orders", "fills", "data", "items", "results", "result", "net")
#: What each thing in it is called, where a list is left out for the only one (Tradier).
_SINGLE = frozenset({"position", "order", "fill", "trade", "execution"})
_T = TypeVar("_T")
_Ours = TypeVar("_Ours", bound=Struct)


def number(source: Any, meaning: str) -> Decimal | None:
    """A numeric field as an exact decimal; None when it is missing."""
    value = meant(source, meaning)
    if value is None or value == "" or isinstance(value, bool):  # `filled: True` is no figure
        return None
    try:
        figure = decimal_of(value)
    except (ValueError, TypeError):
        raise BrokerError(f"{meaning} is {str(value)[:60]!r}, which is not a number") from None
    if figure.is_finite() and not tradable(figure):
        raise BrokerError(f"{meaning} is {plain(figure)}, which no market has")
    return figure if not figure.is_snan() else NAN  # comparing the signaling kind would raise


def quantity(source: Any, meaning: str) -> Decimal | None:
    """A quantity: a `number` without what floating point arithmetic leaves behind."""
    value = number(source, meaning)
    if value is None or not tradable(value) or len(value.as_tuple().digits) < _NOISY_DIGITS:
        return value
    grains = EXACT.divide(value, GRAIN).to_integral_value(ROUND_HALF_EVEN)
    near = EXACT.multiply(grains, GRAIN)
    off, most = EXACT.subtract(near, value).copy_abs(), EXACT.multiply(_NOISE, max(value.copy_abs(), Decimal(1)))
    return value if near == value or off > most else near.normalize(EXACT)


def moment(source: Any, meaning: str) -> datetime | None:
    """A time field, read by `time_of`; None when it is missing."""
    value = meant(source, meaning)
    return None if value is None or value == "" else time_of(value, meaning)


def time_of(value: Any, name: str) -> datetime:
    """A time as aware UTC: ISO 8601 or a datetime, without a zone in UTC; or a number of s, ms, µs or ns since 1970."""
    try:
        if isinstance(value, datetime):
            at = value
        elif isinstance(value, Real):
            return _since_1970(float(value))
        else:
            said = str(value).strip()
            if said.replace(".", "", 1).isdigit() and len(said.split(".")[0]) >= 9:
                return _since_1970(float(said))
            at = datetime.fromisoformat(_iso(said))
        if type(at) is not datetime:  # a subclass may carry more than can be stored: nanoseconds
            at = datetime.combine(at.date(), at.time().replace(tzinfo=at.tzinfo))
        return utc(at) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        raise BrokerError(f"{name} is {value!r}, which is not a time") from None


def _iso(said: str) -> str:
    """A time as ISO 8601 writes it; FIX writes 20240102-15:30:00.000, in UTC."""
    return f"{said[:8]}T{said[9:]}Z" if len(said) > 9 and said[:8].isdigit() and said[8] == "-" else said


def _since_1970(value: float) -> datetime:
    per_second = next((per_second for above, per_second in _UNITS if abs(value) > above), 1)
    return datetime.fromtimestamp(value / per_second, UTC)


def name_of(value: Any) -> str:
    """A symbol as text, out of a string or of an object that carries one."""
    inner = None if isinstance(value, str) else field(value, "symbol", "ticker", "value", "name")
    return str(inner if inner is not None else value)


def symbol_in(source: Any) -> Any:
    """What an order, an execution or a position says that it is of: a text, or an object; None for neither."""
    said = meant(source, "symbol")
    return said if said is not None else meant(source, "contract")


def symbol_of(value: Any) -> str:
    """A symbol in our spelling, out of the same; a `BrokerError` where it is none that can be watched."""
    return _read_as(canonical_symbol, name_of(value))


def text_of(source: Any, meaning: str) -> str | None:
    """A field as text of at most 500 characters; None when it is missing or empty."""
    value = meant(source, meaning)
    return None if value is None or value == "" else str(value)[:500]


def id_of(source: Any, meaning: str) -> str | None:
    """An id as text. 0 and empty text are none, as orders made by hand have them: another name counts then."""
    found = meant(source, meaning)
    if found is None or names_an_order(found):
        return str(found)[:500] if found is not None else None
    others = (storable(field(source, name)) for name in SPELLINGS[meaning])
    return next((str(one)[:500] for one in others if one is not None and names_an_order(one)), None)


def names_an_order(value: object) -> bool:
    """False for what is written where there is no id: 0, or nothing."""
    return str(value).strip() not in ("", "0")


def order_side(source: Any) -> OrderSide | None:
    """The side of an order or an execution; None when it is missing, or a word that is not known."""
    said = word(meant(source, "side"))
    return OrderSide.SELL if said in SELL_WORDS else OrderSide.BUY if said in BUY_WORDS else None


def position_side(source: Any) -> Side | None:
    """The side that an order or an execution opens or closes; None where it does not say, or says both."""
    said = word(meant(source, "side_named"))
    return Side(said) if said in (Side.LONG, Side.SHORT) else None


def as_declared(source: _Ours, side: type[Side | OrderSide]) -> _Ours:
    """One of our own objects with each field what it is declared to be: nobody checks that when it is made."""
    changes: dict[str, Any] = {}
    for name in source.__struct_fields__:
        value = getattr(source, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            changes[name] = decimal_of(value)
        elif name == "side" and value is not None and type(value) is not side:
            changes[name] = _read_as(side, str(value))
        elif name == "position_side" and value is not None and type(value) is not Side:
            changes[name] = _read_as(Side, str(value))
        elif name == "status" and type(value) is not OrderStatus:
            changes[name] = _read_as(OrderStatus, str(value))
        elif type(value) is str and "\0" in value:
            changes[name] = storable(value)
    return replace(source, **changes) if changes else source


def _read_as(make: Callable[[str], _T], text: str) -> _T:
    try:
        return make(text)
    except ValueError as error:
        raise BrokerError(str(error)) from None


def listed(answer: Any) -> list[Any]:
    """A list of things, out of a list, of a dictionary of them, or of one that a list lies in; all else is none."""
    return [thing for _, thing in by_symbol(answer)]


def by_symbol(answer: Any) -> list[tuple[str | None, Any]]:
    """The same for positions, each with the symbol that it is listed under, where it is."""
    if isinstance(answer, Mapping):
        return _within(answer)
    if answer is None or isinstance(answer, (str, bytes)) or not isinstance(answer, Iterable):
        raise BrokerError(f"a list was expected, not {type(answer).__name__}")
    return [(None, thing) for thing in answer]


def _within(answer: Mapping[Any, Any]) -> list[tuple[str | None, Any]]:
    """The things in a dictionary: under one of the names of lists, by symbol, or the only one, under its own name."""
    if _NO_ANSWER & answer.keys():
        raise BrokerError(f"a list was expected, not an answer with {', '.join(sorted(map(str, answer)))}"[:200])
    name = next((key for key in _LISTS if key in answer), None)
    only = next(iter(answer), None) if len(answer) == 1 else None
    if name is None and only in _SINGLE:
        thing = answer[only]
        return [(None, one) for one in thing] if isinstance(thing, (list, tuple)) else [(None, thing)]
    if name is None:
        return [(str(key), value) for key, value in answer.items()]
    found = answer[name]
    return [] if found == "null" else by_symbol(found)  # Tradier says so that there is none
