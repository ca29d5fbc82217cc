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
from functools import partial
from typing import Any, NamedTuple, get_type_hints

import msgspec
from msgspec.structs import replace

from exitfsm.bars.names import fold
from exitfsm.broker.spellings import word
from exitfsm.errors import BrokerError, ConfigError, nearest
from exitfsm.order_ids import form_mistake
from exitfsm.ports import CAREFUL, Capabilities
from exitfsm.values import Order, decimal_of

#: Method of the port -> the names under which it is looked for; the first is the port's own.
METHODS: dict[str, tuple[str, ...]] = {
    method: tuple(names.split())
    for method, names in {
        "positions": """
            positions get_positions get_all_positions list_positions fetch_positions open_positions
            get_open_positions""",
        "submit": "submit submit_order place_order create_order send_order",
        "order": """
            order get_order_by_client_order_id get_order_by_client_id order_by_client_id get_order fetch_order
            find_order query_order""",
        "open_orders": "open_orders get_open_orders list_open_orders fetch_open_orders",
        "cancel": "cancel cancel_order cancel_order_by_client_id cancel_order_by_id",
        "fills": "fills get_fills list_fills executions get_executions",
        "instrument": "instrument get_instrument",
        "order_ids": "order_ids",
        "troubles": "troubles",
        "session": "session get_session get_clock is_market_open market_is_open",
    }.items()
}
#: Without these nothing can be watched.
NEEDED = ("positions", "submit")
#: What it means where one of the others is missing.
WITHOUT: dict[str, str] = {
    "order": "an exit order whose fate is not known can never be found out, and a restart loses sight of working ones",
    "cancel": "a limit order that does not fill cannot be taken back",
}

_NO_SESSION = (
    "a rule goes by the end of the session (end_of_session), and nobody says when that is: give the broker a method "
    "session(symbol, at), or name session.calendar (as XNYS or 24/7), or the hours in session.open and session.close"
)

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
        "position_side": "position_side pos_side hold_side",
        "params": "params",
        "since": "since after start from_time start_time",
        "at": "at now when",
    }.items()
    for name in names.split()
}
_NO_DEFAULT = inspect.Parameter.empty
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
#: How many arguments the port's own methods are given.
_PORT_ARGUMENTS = dict.fromkeys(METHODS, 1) | {"session": 2, "positions": 0, "open_orders": 0, "troubles": 0}
#: What the parameters of each method but submit may ask for, beside an order.
_ORDER = ("client_order_id", "order_id", "symbol")
_ASKS = {"order": _ORDER, "cancel": _ORDER, "fills": ("since",), "session": ("symbol", "at"), "instrument": ("symbol",)}
_ASKS["order_ids"] = ("since",)
#: What the port's own method may be given by name, where it takes that.
_ADDED = {"order": ("symbol",), "cancel": ("symbol", "broker_order_id"), "fills": ("symbol",)}
_WRAP_PORT = "wrap it in a class that has the port's"
_WRAP = "wrap it in a class whose submit(order) makes one of order.symbol, .qty, .side, .client_order_id, …"


class Fitted(NamedTuple):
    """One method: its name at the broker, and its parameters by meaning; None where it takes the port's arguments.

    `also`: what the port may add by name, and this method takes.
    """

    name: str
    wants: tuple[tuple[inspect.Parameter, str], ...] | None = None
    hints: Mapping[str, Any] = {}
    also: tuple[str, ...] = ()

    def arguments(self, port: tuple[Any, ...], given: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What to call it with: the port's arguments, or what each parameter's name asks for."""
        if self.wants is None:
            return port, {name: given[name] for name in self.also if given.get(name) is not None}
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
    """A broker's methods, as far as they fit, and what it declares, as they are when this is made."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker
        self._found: dict[str, Fitted] = {}
        #: Why nothing can be watched with this broker, and what to do; empty when it can.
        self.mistakes: list[str] = []
        #: What the broker has no method for that can be done without at a price, and the price.
        self.missing: list[str] = []
        for method in METHODS:
            fitted, why = _fit(broker, method)
            if fitted is not None:
                self._found[method] = fitted
            elif method in NEEDED:
                looked_for = ", ".join(METHODS[method][:4])
                lack = f"it has no {method}() (looked for {looked_for}, …): give it one, or {_WRAP_PORT}"
                self.mistakes.append(f"broker {type(broker).__name__}: {why or lack}")
            elif method in WITHOUT:
                self.missing.append(f"{method}(): {f'{why}; ' if why else ''}{WITHOUT[method]}")
        declared, wrong = _capabilities(broker)
        #: A copy: what is learned of instruments is added to it.
        self.capabilities = replace(declared, instruments=dict(declared.instruments))
        forms = {declared.id_form, *(one.id_form or declared.id_form for one in declared.instruments.values())}
        mistakes = (mistake for form in sorted(forms) if (mistake := form_mistake(form)) is not None)
        self.mistakes += [*wrong, *(f"broker {type(broker).__name__}: {mistake}" for mistake in mistakes)]

    def check(self, *, needs_session: bool = False) -> None:
        """Raise `ConfigError` where the broker cannot be asked what is needed, so that nothing is watched with it."""
        if mistakes := [*self.mistakes, *([_NO_SESSION] if needs_session and "session" not in self._found else [])]:
            raise ConfigError(mistakes)

    def takes_our_id(self, method: str) -> bool:
        """True when the broker has this method, and it names an order by our id."""
        return method in self._found and not self.takes_its_own_id(method)

    def takes_its_own_id(self, method: str) -> bool:
        """True when the broker has this method, and it names an order by the broker's own id."""
        wants = self._found[method].wants if method in self._found else None
        return wants is not None and not any(meaning == "client_order_id" for _, meaning in wants)

    def takes_both_ids(self, method: str) -> bool:
        """True when the broker has this method, and it can be told its own id of an order beside ours, or alone."""
        fitted = self._found.get(method)
        if fitted is None or fitted.wants is None:
            return fitted is not None and "broker_order_id" in fitted.also
        return self.takes_its_own_id(method) or any(meaning == "broker_order_id" for _, meaning in fitted.wants)

    def function(self, method: str) -> Callable[..., Any] | None:
        """The broker's own function for a method of the port, as it is now; None when there is none."""
        function = getattr(self._broker, self._found[method].name, None) if method in self._found else None
        return function if callable(function) else None

    def call(self, method: str, port: tuple[Any, ...], given: Mapping[str, Any]) -> partial[Any]:
        """A call with the port's arguments, or what a fitted method asks for; `BrokerError` where there is none."""
        function = self.function(method)
        if function is None:
            raise BrokerError(f"the broker has no method {method!r}")
        positional, named = self._found[method].arguments(port, given)
        return partial(function, *positional, **named)


def _fit(broker: Any, method: str) -> tuple[Fitted | None, str]:
    """The first of a method's names that can be called; and why one that is there cannot."""
    why = ""
    for name in METHODS[method]:
        function = getattr(broker, name, None)
        if callable(function):
            fitted, reason = _fit_one(function, name, method)
            if fitted is not None:
                return fitted, ""
            why = why or reason
    return None, why


def _fit_one(function: Callable[..., Any], name: str, method: str) -> tuple[Fitted | None, str]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # not written in Python
        return Fitted(name), ""
    parameters, hints = list(signature.parameters.values()), _hints(function)
    if method == "submit" and parameters and all(parameter.kind in _VARIABLE for parameter in parameters):
        return None, (
            f"{name}{signature} does not say what it takes, so that an order might be sent without its id: write "
            f"`def {name}(self, order)` and send order.symbol, .side, .qty and .client_order_id; where it is wrapped, "
            "give the wrapper functools.wraps"
        )
    if name == METHODS[method][0] and _takes_port(signature, method):
        as_dict = method == "submit" and _is_mapping(hints.get(parameters[0].name))
        also = tuple(one for one in _ADDED.get(method, ()) if one in signature.parameters and parameters[0].name != one)
        return Fitted(name, ((parameters[0], "order_dict"),) if as_dict else None, also=also), ""
    known = [(parameter, _meaning(parameter, method, hints)) for parameter in parameters]
    for parameter, meaning in known:
        if meaning is None and parameter.default is _NO_DEFAULT and parameter.kind not in _VARIABLE:
            return None, f"{name}: nothing is known for its parameter {parameter.name!r}"
    wants = [(parameter, meaning) for parameter, meaning in known if meaning is not None]
    meanings, why = {meaning for _, meaning in wants}, ""
    if method == "cancel" and "client_order_id" in meanings:
        wants = [(p, "broker_order_id" if fold(p.name) == "brokerorderid" else meaning) for p, meaning in wants]
    if method == "submit":
        if not meanings & {"order", "order_dict", "client_order_id", "params"}:
            wants += [(p, "rest") for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
        why = _why_no_submit(name, wants, hints)
    elif method in ("order", "cancel") and not meanings & {"client_order_id", "order_id"}:
        why = f"{name}: no parameter for the order's id"
    return (None, why) if why else (Fitted(name, tuple(wants), hints), "")


def _takes_port(signature: inspect.Signature, method: str) -> bool:
    """True when a method can be called just as the port says."""
    try:
        signature.bind(*[None] * _PORT_ARGUMENTS[method])
    except TypeError:
        return False
    # submit(symbol, qty=…): its first parameter is no order
    return method != "submit" or _GIVEN.get(fold(next(iter(signature.parameters)))) in (None, "order")


def _meaning(parameter: inspect.Parameter, method: str, hints: Mapping[str, Any]) -> str | None:
    """What a parameter is given; None for nothing that is known."""
    if parameter.kind in _VARIABLE:
        return None
    meaning = _GIVEN.get(fold(parameter.name))
    if meaning == "order":
        if method in ("order", "cancel"):
            return "order_id"
        return "order_dict" if _is_mapping(hints.get(parameter.name)) else "order"
    if method == "submit":
        return None if meaning in ("since", "at") else "client_order_id" if meaning == "order_id" else meaning
    return meaning if meaning in _ASKS.get(method, ()) else None


def _why_no_submit(name: str, wants: list[tuple[inspect.Parameter, str]], hints: Mapping[str, Any]) -> str:
    """Why orders cannot be sent by this method; empty when they can."""
    theirs = next((hints.get(parameter.name) for parameter, meaning in wants if meaning == "order"), None)
    if theirs not in (None, Any, object, Order):
        return f"{name} wants a {theirs.__name__ if isinstance(theirs, type) else theirs}: {_WRAP}"
    meanings = {meaning for _, meaning in wants}
    if not meanings & {"order", "order_dict", "client_order_id", "params", "rest"}:
        return (
            f"{name} takes no client order id: without one an order whose fate is unknown cannot be found again, "
            "and might be sent twice; give it a parameter client_order_id that is sent to the broker"
        )
    if not meanings & {"order", "order_dict"} and not {"symbol", "qty", "side"} <= meanings:
        return f"{name}: symbol, qty and side cannot all be given to it"
    return ""


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:  # annotations may name what is not there at run time; they are a help, no condition
        return {}


def _is_mapping(hint: Any) -> bool:
    origin = getattr(hint, "__origin__", hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def order_parts(order: Order, *, hedged: bool = False) -> dict[str, Any]:
    """What the parameters of a submit may ask for, by meaning; in hedge mode also the side that it closes."""
    order_id, qty, limit = order.client_order_id, order.qty, order.limit_price
    words = {
        "symbol": order.symbol,
        "side": order.side.value,
        "order_type": order.order_type.value,
        "time_in_force": order.time_in_force.value,
        "client_order_id": order_id,
    }
    as_dict = {**words, "type": words["order_type"], "qty": _number(qty), "quantity": _number(qty)}
    as_dict |= {"limit_price": _number(limit)} if limit is not None else {}
    given = {**words, "qty": qty, "limit_price": limit, "order": order, "order_dict": as_dict, "reduce_only": True}
    params: dict[str, Any] = {"clientOrderId": order_id}
    rest = {"client_order_id": order_id}
    if hedged:
        closes = order.position_side.value
        given["position_side"] = as_dict["position_side"] = rest["position_side"] = closes
        params |= {"hedged": True, "reduceOnly": True}  # as ccxt has it: it makes the venue's own words of them
    return {**given, "params": params, "rest": rest}


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
