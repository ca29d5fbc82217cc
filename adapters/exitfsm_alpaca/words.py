"""The translation table: Alpaca's JSON to our nouns, and our order to Alpaca's.

Pure functions. What is missing stays unknown (None or NaN, never zero); a word that is not in a table is not guessed.
Symbols: positions name a pair without its slash (BTCUSD), orders with it; ours have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from exitfsm import (
    Bar,
    BrokerError,
    BrokerPosition,
    ExecutionReport,
    Fill,
    Order,
    OrderRefused,
    OrderSide,
    OrderStatus,
    OrderType,
    Side,
    canonical_symbol,
    decimal_of,
    plain,
    tradable,
    utc,
)
from exitfsm_alpaca.rest import Refused

#: The order's status. `replaced` is not here: the order goes on under another id, see `AlpacaBroker.order`.
STATUS: dict[str, OrderStatus] = {
    "new": OrderStatus.NEW,
    "accepted": OrderStatus.NEW,
    "pending_new": OrderStatus.NEW,
    "accepted_for_bidding": OrderStatus.NEW,
    "pending_replace": OrderStatus.NEW,
    "pending_review": OrderStatus.NEW,
    "held": OrderStatus.NEW,
    "stopped": OrderStatus.NEW,
    "calculated": OrderStatus.NEW,
    "partially_filled": OrderStatus.PARTIALLY_FILLED,
    "pending_cancel": OrderStatus.PENDING_CANCEL,
    "suspended": OrderStatus.SUSPENDED,
    "done_for_day": OrderStatus.DONE_FOR_DAY,
    "filled": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELED,
    "expired": OrderStatus.EXPIRED,
    "rejected": OrderStatus.REJECTED,
}
#: Kinds of update that are fully told by the order in them.
KINDS = frozenset({
    "new", "fill", "partial_fill", "canceled", "expired", "done_for_day", "accepted", "rejected", "pending_new",
    "stopped", "pending_cancel", "pending_replace", "calculated", "suspended", "order_replace_rejected",
    "order_cancel_rejected", "held", "accepted_for_bidding",
})  # fmt: skip
#: Kinds of update that change an earlier execution.
CORRECTIONS = frozenset({"trade_bust", "trade_correct"})
#: The time that belongs to a status.
_TIMES = {"filled": "filled_at", "canceled": "canceled_at", "expired": "expired_at", "rejected": "failed_at"}
#: Refusals by their message: Alpaca uses one code for many. The first that matches counts.
_REFUSALS: Sequence[tuple[str, str]] = (
    (r"insufficient (qty|balance)", "insufficient_qty"),
    (r"wash trade|opposite side", "wash_trade"),
    (r"cannot open a (long|short)", "opposite_order"),
    (r"not fractionable", "not_fractionable"),
    (r"fractional orders must be|time_in_force|time in force", "time_in_force"),
    (r"not tradable|not active|not found|could not find asset", "not_tradable"),
    (r"not allowed to short|cannot be sold short|not shortable", "not_shortable"),
    (r"buying power|insufficient day trading", "insufficient_funds"),
    (r"day.?trad", "day_trading"),
    (r"sub-penny|limit.?price|minimum pricing", "bad_price"),
    (r"minimal|minimum|must be >|at most \d+ decimals", "bad_quantity"),
    (r"halted", "halted"),
    (r"blocked|restricted|account is not", "account_blocked"),
)
_FIELDS: Sequence[tuple[str, str]] = (("held_for_orders", "insufficient_qty"), ("existing_order_id", "wash_trade"))
_QUOTES = ("USDT", "USDC", "USD", "BTC")


def spelled(symbol: str, asset_class: object) -> str:
    """Our spelling: a pair of the class `crypto` gets its slash back.

    Raises:
        BrokerError: it is no symbol.
    """
    try:
        name = canonical_symbol(str(symbol))
    except ValueError as error:
        raise BrokerError(str(error)) from None
    if asset_class != "crypto" or "/" in name:
        return name
    quote = next((q for q in _QUOTES if name.endswith(q) and len(name) > len(q)), None)
    return f"{name.removesuffix(quote)}/{quote}" if quote else name


def number(source: Mapping[str, Any], name: str) -> Decimal | None:
    """A field as an exact number; None when it is missing or null.

    Raises:
        BrokerError: it is no number.
    """
    value = source.get(name)
    if value is None or value == "":
        return None
    try:
        figure = decimal_of(value)
    except (ValueError, TypeError):
        raise BrokerError(f"{name} is {str(value)[:40]!r}, which is no number") from None
    if figure.is_finite() and not tradable(figure):
        raise BrokerError(f"{name} is {plain(figure)}, which no market has")
    return figure if not figure.is_snan() else Decimal("NaN")  # comparing the signaling kind would raise


def moment(source: Mapping[str, Any], *names: str) -> datetime | None:
    """The first of these fields that holds a time.

    Raises:
        BrokerError: what is there is no time.
    """
    for name in names:
        if source.get(name):
            try:
                return utc(datetime.fromisoformat(str(source[name])))
            except (ValueError, OverflowError):  # the first and the last day there are have no UTC everywhere
                raise BrokerError(f"{name} is {str(source[name])[:40]!r}, which is no time") from None
    return None


def mapping(source: object, what: str) -> Mapping[str, Any]:
    """An answer that must be one JSON object.

    Raises:
        BrokerError: it is none.
    """
    if not isinstance(source, Mapping):
        raise BrokerError(f"{what} is no JSON object, but {type(source).__name__}")
    return source


def rows(source: object, what: str) -> list[Any]:
    """An answer that must be a list, whatever is in it: one thing that cannot be read hides no other.

    Raises:
        BrokerError: it is none.
    """
    if not isinstance(source, list):
        raise BrokerError(f"{what} is no list, but {type(source).__name__}")
    return source


def listed(source: object, what: str) -> list[Mapping[str, Any]]:
    """An answer that must be a list of JSON objects. An empty answer is not an empty list.

    Raises:
        BrokerError: it is none.
    """
    return [mapping(item, what) for item in rows(source, what)]


# --- orders -----------------------------------------------------------------------------------------------------------


def order_body(order: Order) -> dict[str, str]:
    """What is POSTed: numbers as plain text. Stocks say that they close; a pair cannot be sold short anyway."""
    body = {
        "symbol": order.symbol,
        "qty": plain(order.qty),
        "side": str(order.side),
        "type": str(order.order_type),
        "time_in_force": str(order.time_in_force),
        "client_order_id": order.client_order_id,
    }
    if order.order_type is OrderType.LIMIT and order.limit_price is not None:
        body["limit_price"] = plain(order.limit_price)
    if "/" not in order.symbol and order.side is order.position_side.exit_side:
        body["position_intent"] = f"{order.side}_to_close"
    return body


def report_of(order: Mapping[str, Any], **changes: Any) -> ExecutionReport:
    """What Alpaca says of an order.

    Raises:
        BrokerError: the order has no id or time, or a status that is not in the table.
    """
    word, name = str(order.get("status")), order.get("client_order_id")
    status = STATUS.get(word)
    at = moment(order, _TIMES.get(word, "updated_at"), "updated_at", "submitted_at", "created_at")
    if status is None or not isinstance(name, str) or at is None:
        raise BrokerError(f"order {str(name)[:60]!r} with status {word[:40]!r} is not understood")
    fields: dict[str, Any] = {
        "client_order_id": name,
        "status": status,
        "at": at,
        "filled_qty": number(order, "filled_qty"),
        "avg_fill_price": number(order, "filled_avg_price"),
        "broker_order_id": str(order["id"]) if order.get("id") else None,
        "symbol": spelled(order["symbol"], order.get("asset_class")) if order.get("symbol") else None,
        "side": order_side(order.get("side")),
        "qty": number(order, "qty"),
        "text": str(order.get("reject_reason") or "")[:300],
    }
    return ExecutionReport(**(fields | changes))


def working(source: Any) -> tuple[ExecutionReport | None, str | None]:
    """An order out of the list of working ones, and what of it cannot be read, where something cannot.

    It works, also where its status is not in the table. One field that cannot be read hides no order: it may hold the
    quantity of a position. None only for one that does not even say its id: it is no exit of ours.
    """
    order = source if isinstance(source, Mapping) else {}
    shown = order if str(order.get("status")) in STATUS else {**order, "status": "new"}
    try:
        return report_of(shown), None
    except (BrokerError, ValueError) as error:
        why = str(error)[:120]
    name = order.get("client_order_id")
    if not isinstance(name, str) or not name:
        return None, why
    report = ExecutionReport(
        client_order_id=name,
        status=OrderStatus.NEW,
        at=datetime.now(UTC),
        broker_order_id=str(order["id"]) if order.get("id") else None,
        symbol=_symbol_or_none(order),
        side=order_side(order.get("side")),
        text="a field of it cannot be read",
    )
    return report, why


def _symbol_or_none(order: Mapping[str, Any]) -> str | None:
    try:
        return spelled(order["symbol"], order.get("asset_class")) if order.get("symbol") else None
    except BrokerError:
        return None


def name_of_order(source: Any) -> str:
    """What tells an order from another: Alpaca's id, or ours; of what is no order, that it is none."""
    order = source if isinstance(source, Mapping) else {}
    return str(order.get("id") or order.get("client_order_id") or "without an id")[:60]


def client_id(order: Mapping[str, Any]) -> str:
    """The client order id of an order.

    Raises:
        BrokerError: it has none.
    """
    name = order.get("client_order_id")
    if not isinstance(name, str) or not name:
        raise BrokerError(f"order {str(order.get('id'))[:60]!r} has no client order id")
    return name


def order_side(word: object) -> OrderSide | None:
    """Side of an order or an execution; None for a word that is none."""
    return {"buy": OrderSide.BUY, "sell": OrderSide.SELL, "sell_short": OrderSide.SELL}.get(str(word))


def report_of_update(data: Mapping[str, Any]) -> ExecutionReport:
    """What a trade update says. Its order's cumulative figures count, not the quantity of the single execution.

    Raises:
        BrokerError: the kind is not in the table, or the order in it is not understood: look the order up.
    """
    kind, order = str(data.get("event")), mapping(data.get("order"), "the order of an update")
    if kind not in KINDS and kind not in CORRECTIONS:
        raise BrokerError(f"an update of kind {kind[:40]!r} is not understood")
    changes: dict[str, Any] = {"corrected": kind in CORRECTIONS}
    if data.get("execution_id"):
        changes["execution_id"] = str(data["execution_id"])
    report = report_of(order, **changes)
    if kind == "order_cancel_rejected" and not report.status.terminal:
        report = report_of(order, **changes, status=OrderStatus.CANCEL_REJECTED)
    return report


def refusal_of(refused: Refused) -> BrokerError:
    """An error body at submit as a definite refusal with its class; a duplicate id is none."""
    if refused.duplicate_id:
        return BrokerError(f"duplicate_id: {refused.message}")
    kind = next((kind for field, kind in _FIELDS if field in refused.fields), None) or next(
        (kind for pattern, kind in _REFUSALS if re.search(pattern, refused.message, re.IGNORECASE)),
        f"alpaca_{refused.code}",
    )
    held = {
        k: refused.fields[k]
        for k in ("held_for_orders", "related_orders", "existing_order_id")
        if refused.fields.get(k)
    }
    return OrderRefused(kind, f"{refused.message}{f' {held}' if held else ''}"[:500])


# --- positions, executions, bars --------------------------------------------------------------------------------------


def position_of(source: Mapping[str, Any]) -> BrokerPosition:
    """A position. A quantity or price that cannot be read is NaN: held, but not known how much.

    Raises:
        BrokerError: there is no symbol.
    """
    if not source.get("symbol"):
        raise BrokerError("a position without a symbol")
    qty, available = _or_nan(source, "qty"), _or_nan(source, "qty_available")
    short = source.get("side") == "short" or (qty.is_finite() and qty < 0)
    price = _or_nan(source, "current_price")
    return BrokerPosition(
        symbol=spelled(source["symbol"], source.get("asset_class")),
        side=Side.SHORT if short else Side.LONG,
        qty=qty.copy_abs(),
        avg_entry_price=_or_nan(source, "avg_entry_price"),
        qty_available=available.copy_abs() if available.is_finite() else None,
        current_price=price if price.is_finite() else None,
    )


def _or_nan(source: Mapping[str, Any], name: str) -> Decimal:
    try:
        value = number(source, name)
    except BrokerError:
        value = None
    return value if value is not None else Decimal("NaN")


def fill_of(activity: Mapping[str, Any]) -> Fill:
    """One execution out of the account's activities.

    Raises:
        BrokerError: it lacks what makes an execution.
    """
    qty, price = number(activity, "qty"), number(activity, "price")
    side, at = order_side(activity.get("side")), moment(activity, "transaction_time")
    if qty is None or price is None or side is None or at is None or not activity.get("symbol"):
        raise BrokerError(f"activity {str(activity.get('id'))[:60]!r} is no execution")
    pair = re.fullmatch(rf"[A-Z0-9]+({'|'.join(_QUOTES)})", str(activity["symbol"])) and len(activity["symbol"]) > 5
    return Fill(
        fill_id=str(activity.get("id")),
        symbol=spelled(activity["symbol"], "crypto" if pair else None),  # activities name no class; no stock is as long
        side=side,
        qty=qty.copy_abs(),
        price=price,
        at=at,
        broker_order_id=str(activity["order_id"]) if activity.get("order_id") else None,
    )


def bar_of(symbol: str, source: Mapping[str, Any], at: datetime) -> Bar:
    """A bar out of REST or the stream.

    Raises:
        BrokerError: a price is missing or no number.
    """
    try:
        volume = number(source, "v") or 0  # unlike a price it is not looked at before it is used
        return Bar(symbol, at, source["o"], source["h"], source["l"], source["c"], volume)
    except (KeyError, ValueError, TypeError):
        raise BrokerError(f"a bar of {symbol} without usable prices") from None
