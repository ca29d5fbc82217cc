"""How a bot's broker is called: which of its methods does what, and what each of their parameters is given.

The methods of the `Broker` port are taken as they are. Where one is missing, the usual other names are looked for, and
the parameters are given what their names ask for (`symbol`, `qty`, `client_order_id`, …). What cannot be fitted is said
before anything is watched, not found out when an exit is due.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, get_type_hints

import msgspec

from exitfsm.bars.names import fold
from exitfsm.broker.spellings import word
from exitfsm.errors import nearest
from exitfsm.ports import CAREFUL, Capabilities
from exitfsm.values import Order, decimal_of

#: Method of the port -> the names under which it is looked for; the first is the port's own.
METHODS: dict[str, tuple[str, ...]] = {
    "positions": (
        "positions", "get_positions", "get_all_positions", "list_positions", "fetch_positions", "open_positions",
        "get_open_positions",
    ),
    "submit": ("submit", "submit_order", "place_order", "create_order", "send_order"),
    "order": (
        "order", "get_order_by_client_order_id", "get_order_by_client_id", "order_by_client_id", "get_order",
        "fetch_order", "find_order", "query_order",
    ),
    "open_orders": ("open_orders", "get_open_orders", "list_open_orders", "fetch_open_orders"),
    "cancel": ("cancel", "cancel_order", "cancel_order_by_client_id", "cancel_order_by_id"),
    "fills": ("fills", "get_fills", "list_fills", "executions", "get_executions"),
    "session": ("session", "get_session", "get_clock", "is_market_open", "market_is_open"),
}  # fmt: skip
#: Without these nothing can be watched.
NEEDED = ("positions", "submit")
#: What it means where one of the others is missing.
WITHOUT: dict[str, str] = {
    "order": "an exit order whose fate is not known can never be found out, and a restart loses sight of working ones",
    "cancel": "a limit order that does not fill cannot be taken back",
}

#: What a parameter is named (folded) -> what it is given.
_GIVEN: dict[str, str] = {
    fold(name): meaning
    for meaning, names in {
        "order": "order request order_request order_data ticket payload",
        "symbol": "symbol ticker instrument pair symbols",
        "qty": "qty quantity amount size shares volume units",
        "side": "side action direction order_side",
        "order_type": "type order_type ordertype kind",
        "time_in_force": "time_in_force tif duration",
        "limit_price": "limit_price price limit lmt_price",
        "client_order_id": "client_order_id client_id cl_ord_id client_oid coid order_ref user_order_id",
        "order_id": "order_id id oid broker_order_id order_number",
        "reduce_only": "reduce_only",
        "params": "params",
        "since": "since after start from_time start_time",
        "at": "at now when",
    }.items()
    for name in names.split()
}
_NO_DEFAULT = inspect.Parameter.empty
#: Classes of errors that mean that there is no such order, by folded name.
_NOT_FOUND = frozenset(
    {"ordernotfound", "ordernotfounderror", "notfound", "notfounderror", "unknownorder", "unknownordererror"}
)
#: What brokers say of an id that they know already.
_DUPLICATE_WORDS = ("duplicate", "must be unique", "not unique", "already exist", "already used", "already been used")


class Known(NamedTuple):
    """What is known of an order before it is asked about: the broker's own id, and the symbol."""

    broker_order_id: str | None = None
    symbol: str | None = None


class Fitted(NamedTuple):
    """One method: its name at the broker, whether it wants the port's own arguments, and its parameters by meaning."""

    name: str
    as_port: bool
    wants: tuple[tuple[inspect.Parameter, str], ...] = ()
    hints: Mapping[str, Any] = {}

    def names_order_by_its_own_id(self) -> bool:
        """True when it asks for the broker's id of an order, not for ours."""
        return not self.as_port and not any(meaning == "client_order_id" for _, meaning in self.wants)

    def arguments(self, port: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What to call it with: the port's arguments, or what each parameter's name asks for."""
        if self.as_port:
            return port, {}
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for parameter, meaning in self.wants:
            value = given.get(meaning)
            if value is None and parameter.default is not _NO_DEFAULT:
                continue
            value = _as_hinted(value, self.hints.get(parameter.name), meaning)
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                positional.append(value)
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            else:
                named[parameter.name] = value
        return tuple(positional), named


class Fitting:
    """A broker's methods, as far as they fit.

    Args:
        broker: the bot's broker.

    Attributes:
        missing: what the broker has no method for that can be done without at a price, and the price.
        mistakes: why nothing can be watched with this broker, and what to do; empty when it can.
    """

    def __init__(self, broker: Any) -> None:
        self.mistakes: list[str] = []
        self.missing: list[str] = []
        self._found: dict[str, Fitted] = {}
        for method in METHODS:
            fitted, why = _fit(broker, method)
            if fitted is not None:
                self._found[method] = fitted
            elif method in NEEDED:
                self.mistakes.append(_mistake(broker, method, why))
            elif method in WITHOUT:
                self.missing.append(f"{method}(): {f'{why}; ' if why else ''}{WITHOUT[method]}")
        self.capabilities, wrong = _capabilities(broker)
        self.mistakes += wrong

    def get(self, method: str) -> Fitted | None:
        """How a method of the port is called; None when the broker has nothing for it."""
        return self._found.get(method)


def _fit(broker: Any, method: str) -> tuple[Fitted | None, str]:
    """The first of a method's names that can be called; and why one that is there cannot."""
    why = ""
    for name in METHODS[method]:
        function = getattr(broker, name, None)
        if not callable(function):
            continue
        fitted, reason = _fit_one(function, name, method)
        if fitted is not None:
            return fitted, ""
        why = why or reason
    return None, why


def _fit_one(function: Callable[..., Any], name: str, method: str) -> tuple[Fitted | None, str]:
    own = name == METHODS[method][0]
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # not written in Python
        return Fitted(name, as_port=True), ""
    if own and _takes_port(parameters, method):
        annotated = _hints(function).get(parameters[0].name) if parameters else None
        if method == "submit" and _is_mapping(annotated):
            return Fitted(name, as_port=False, wants=((parameters[0], "order_dict"),)), ""
        return Fitted(name, as_port=True), ""
    wants: list[tuple[inspect.Parameter, str]] = []
    hints = _hints(function)
    for parameter in parameters:
        meaning = _meaning(parameter, method, hints)
        if meaning is not None:
            wants.append((parameter, meaning))
        elif parameter.default is _NO_DEFAULT and parameter.kind not in (_VAR_POSITIONAL, _VAR_KEYWORD):
            return None, f"{name}: nothing is known for its parameter {parameter.name!r}"
    meanings = {meaning for _, meaning in wants}
    if method == "submit":
        theirs = next((hints.get(p.name) for p, meaning in wants if meaning == "order"), None)
        if theirs not in (None, Any, object, Order):
            return None, f"{name} wants a {theirs.__name__ if isinstance(theirs, type) else theirs}: {_WRAP}"
        wants = _with_an_id(wants, parameters, meanings)
        meanings = {meaning for _, meaning in wants}
        if not meanings & {"order", "order_dict", "client_order_id", "params", "rest"}:
            return None, (
                f"{name} takes no client order id: without one an order whose fate is unknown cannot be found again, "
                "and might be sent twice; give it a parameter client_order_id that is sent to the broker"
            )
        if not meanings & {"order", "order_dict"} and not {"symbol", "qty", "side"} <= meanings:
            return None, f"{name}: symbol, qty and side cannot all be given to it"
    if method in ("order", "cancel") and not meanings & {"client_order_id", "order_id"}:
        return None, f"{name}: no parameter for the order's id"
    return Fitted(name, as_port=False, wants=tuple(wants), hints=hints), ""


_WRAP = "wrap it in a class whose submit(order) makes one of order.symbol, .qty, .side, .client_order_id, …"
_VAR_POSITIONAL, _VAR_KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
#: How many arguments the port's own methods are given.
_PORT_ARGUMENTS = {"submit": 1, "order": 1, "cancel": 1, "fills": 1, "session": 2, "positions": 0, "open_orders": 0}


def _takes_port(parameters: list[inspect.Parameter], method: str) -> bool:
    """True when a method can be called just as the port says."""
    by_position = [p for p in parameters if p.kind not in (_VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)]
    if any(p.default is _NO_DEFAULT and p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters):
        return False
    least = sum(p.default is _NO_DEFAULT and p.kind is not _VAR_POSITIONAL for p in by_position)
    most = 99 if any(p.kind is _VAR_POSITIONAL for p in by_position) else len(by_position)
    if method == "submit" and by_position and _GIVEN.get(fold(by_position[0].name)) not in (None, "order"):
        return False  # submit(symbol, qty=…): its first parameter is no order
    return least <= _PORT_ARGUMENTS[method] <= most


def _meaning(parameter: inspect.Parameter, method: str, hints: Mapping[str, Any]) -> str | None:
    if parameter.kind is _VAR_POSITIONAL or parameter.kind is _VAR_KEYWORD:
        return None
    meaning = _GIVEN.get(fold(parameter.name))
    if meaning == "order":
        if method in ("order", "cancel"):
            return "order_id"
        return "order_dict" if _is_mapping(hints.get(parameter.name)) else "order"
    if method == "submit":
        return None if meaning in ("since", "at") else "client_order_id" if meaning == "order_id" else meaning
    if method in ("order", "cancel"):
        return meaning if meaning in ("client_order_id", "order_id", "symbol") else None
    return meaning if meaning in {"fills": ("since",), "session": ("symbol", "at")}.get(method, ()) else None


def _with_an_id(
    wants: list[tuple[inspect.Parameter, str]], parameters: list[inspect.Parameter], meanings: set[str]
) -> list[tuple[inspect.Parameter, str]]:
    """Where nothing else takes the client order id, further keyword arguments do."""
    rest = [p for p in parameters if p.kind is _VAR_KEYWORD]
    if rest and not meanings & {"order", "order_dict", "client_order_id", "params"}:
        return [*wants, (rest[0], "rest")]
    return wants


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:
        # Annotations may name what is not there at run time; they are a help, no condition.
        return {}


def _is_mapping(hint: Any) -> bool:
    origin = getattr(hint, "__origin__", hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def order_parts(order: Order) -> dict[str, Any]:
    """What the parameters of a submit may ask for."""
    parts: dict[str, Any] = {
        "symbol": order.symbol,
        "qty": order.qty,
        "side": order.side.value,
        "order_type": order.order_type.value,
        "time_in_force": order.time_in_force.value,
        "limit_price": order.limit_price,
        "client_order_id": order.client_order_id,
    }
    plain = {**parts, "qty": _number(order.qty), "type": parts["order_type"]}
    if order.limit_price is None:
        del plain["limit_price"]
    else:
        plain["limit_price"] = _number(order.limit_price)
    return {
        **parts,
        "order": order,
        "order_dict": {**plain, "quantity": plain["qty"]},
        "reduce_only": True,
        "params": {"clientOrderId": order.client_order_id},
        "rest": {"client_order_id": order.client_order_id},
    }


def _number(value: Decimal) -> float | Decimal:
    """A float, the language of bots, where it says exactly the same."""
    as_float = float(value)
    return as_float if decimal_of(as_float) == value else value


def _as_hinted(value: Any, hint: Any, meaning: str) -> Any:
    """A value as the parameter's annotation wants it."""
    if isinstance(value, Decimal):
        if hint is str:
            return format(value, "f")
        if hint is int and value == value.to_integral_value():
            return int(value)
        return value if hint is Decimal else _number(value)
    if isinstance(value, str) and isinstance(hint, type) and issubclass(hint, Enum) and meaning != "client_order_id":
        return next((member for member in hint if word(member) == value or fold(member.name) == fold(value)), value)
    return value


def _mistake(broker: Any, method: str, why: str) -> str:
    names = ", ".join(METHODS[method][:4])
    what = f"broker {type(broker).__name__}: "
    if why:
        return f"{what}{why}"
    return f"{what}it has no {method}() (looked for {names}, …): give it one, or wrap it in a class that has the port's"


def _capabilities(broker: Any) -> tuple[Capabilities, list[str]]:
    """What the broker declares; a mapping is read, anything else is as if nothing were declared."""
    declared = getattr(broker, "capabilities", None)
    if isinstance(declared, Capabilities):
        return declared, []
    if not isinstance(declared, Mapping):
        return CAREFUL, []
    fields = Capabilities.__struct_fields__
    what = f"broker {type(broker).__name__}: capabilities: "
    wrong = [
        f"{what}{key!r} is not known" + (f'; did you mean "{guess}"?' if (guess := nearest(str(key), fields)) else "")
        for key in declared
        if key not in fields
    ]
    try:
        return msgspec.convert(dict(declared), Capabilities, strict=False), wrong
    except (msgspec.ValidationError, TypeError) as error:
        return CAREFUL, [*wrong, f"{what}{error}"]


# --- what an error says -----------------------------------------------------------------------------------------------


def says_not_found(error: BaseException, asked: str) -> bool:
    """True when an error of a look-up means that the broker does not know the id, and nothing else."""
    if isinstance(error, KeyError):
        return error.args == (asked,)  # any other key is a defect in the wrapper, and proves nothing
    if any(fold(cls.__name__) in _NOT_FOUND for cls in type(error).__mro__):
        return True
    response = getattr(error, "response", None)
    codes = (getattr(source, name, None) for source in (error, response) for name in ("status_code", "status", "code"))
    return any(code in (404, "404") for code in codes)


def says_duplicate(*texts: object) -> bool:
    """True when what a broker says of an order means that it has one of this id already: then it was not refused."""
    said = " ".join(str(text) for text in texts if text is not None).lower().replace("_", " ")
    return any(words in said for words in _DUPLICATE_WORDS)
