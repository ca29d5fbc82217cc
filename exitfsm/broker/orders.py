"""Orders and executions, in anybody's shape: which order, what became of it, and what was traded.

What leaves open which order it is about, or what became of it, is None and never guessed at: the order is looked up
then. A figure that is no number, a time or a symbol that is none, is a `BrokerError`. What a broker's words mean for an
order is in `exitfsm.fix`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from exitfsm import fix
from exitfsm.broker.fields import as_declared, moment, name_of, number, order_side, quantity, symbol_of, text_of
from exitfsm.broker.spellings import FILL_KINDS, OVER_WORDS, meant, word
from exitfsm.values import EXACT, ZERO, ExecutionReport, Fill, OrderSide, OrderStatus, symbol_key

#: How deep an update may be wrapped.
WRAPS_MAX = 3
_FIX_SIDES = {"1": OrderSide.BUY, "2": OrderSide.SELL, "5": OrderSide.SELL}


def report_of(
    source: Any,
    *,
    now: datetime,
    client_order_id: str | None = None,
    client_id_of: Callable[[str], str | None] = lambda broker_order_id: None,
) -> ExecutionReport | None:
    """What a broker says of an order, or in an update; None when it names none, or not what became of it.

    None too where it says that it does not know the order, or that it knows the id already: that is no record of it.
    Where it gives no time it is `now`, and where no id, that which was asked for; `client_id_of` knows ours by its own.
    """
    if isinstance(source, ExecutionReport):
        return as_declared(source, OrderSide)
    event, order, kind, status = _read(source)
    broker_id = text_of(order, "broker_order_id")
    order_id = text_of(order, "client_order_id") or client_order_id
    if order_id is None and broker_id is not None:
        order_id = client_id_of(broker_id) or broker_id
    if order_id is None or status is None or _is_no_record(order, kind, status):
        return None
    qty, filled = _figures(order)
    filled = filled if filled is not None else _filled_by_leaves(order, qty, status)
    symbol = meant(order, "symbol")
    updated_at = moment(event, "update_at") if order is not event else None
    return ExecutionReport(
        client_order_id=order_id,
        status=status,
        at=updated_at or moment(order, "order_at") or now,
        filled_qty=filled,
        avg_fill_price=number(order, "avg_fill_price"),
        broker_order_id=broker_id,
        symbol=symbol_key(name_of(symbol)) if symbol is not None else None,
        side=order_side(order) or _FIX_SIDES.get(str(meant(order, "fix_side"))),
        qty=qty,
        execution_id=text_of(event, "execution_id"),
        refusal=_refusal(order),
        text=text_of(order, "reason") or "",
        corrected=fix.corrects(kind),
        leaves_qty=quantity(order, "remaining"),
        orig_client_order_id=text_of(order, "original_id"),
    )


def says_unknown(source: Any) -> bool:
    """True for an answer that says that the broker does not know the order it was asked about."""
    if source is None or isinstance(source, ExecutionReport):
        return False
    _, order, kind, status = _read(source)
    return _is_no_record(order, kind, status) and _refusal(order) != fix.DUPLICATE_ORDER


def is_order_update(source: Any) -> bool:
    """True when an event on a bus looks like an update of an order."""
    if isinstance(source, ExecutionReport):
        return True
    event, order = _parts(source)
    if order is event:
        return is_order(event)
    return _is_named(order) and (meant(event, "update_kind") is not None or meant(order, "order_status") is not None)


def is_order(source: Any) -> bool:
    """True for what names an order and says what became of it."""
    if not _is_named(source):
        return False
    if _state(source) is not None or _kind(source) is not None:
        return True
    said = [word(value) for value in (meant(source, "order_status"), meant(source, "update_kind")) if value is not None]
    return any(fix.status_of(one) or one in OVER_WORDS or one in FILL_KINDS for one in said)


def _is_named(order: Any) -> bool:
    return meant(order, "client_order_id") is not None or meant(order, "broker_order_id") is not None


def _read(source: Any) -> tuple[Any, Any, fix.Word | None, OrderStatus | None]:
    """An update and the order in it; what happened, and the state that the order is in after that."""
    event, order = _parts(source)
    kind = _kind(event)
    return event, order, kind, _status(event, order, kind)


def _parts(source: Any) -> tuple[Any, Any]:
    """The update and the order in it: the same where it is flat."""
    event = source
    if type(source) is dict and any(isinstance(key, int) for key in source):  # FIX's tags come as numbers, too
        event = {str(key): value for key, value in source.items()}
    for _ in range(WRAPS_MAX):
        order = meant(event, "order_in")
        if order is not None and not isinstance(order, (str, int)):
            return event, order
        inner = meant(event, "wrapped") if meant(event, "client_order_id") is None else None
        if inner is None or isinstance(inner, (str, int, float)):
            break
        event = inner
    return event, event


def _figures(order: Any) -> tuple[Decimal | None, Decimal | None]:
    """Ordered and filled quantity, both without a sign: some write what is sold as less than nothing."""
    qty, filled = quantity(order, "order_qty"), quantity(order, "filled_qty")
    if qty is not None and qty.is_finite() and qty < 0:
        return qty.copy_abs(), filled.copy_abs() if filled is not None else None
    return qty, filled


def _filled_by_leaves(order: Any, qty: Decimal | None, status: OrderStatus) -> Decimal | None:
    """Filled quantity by what is left to fill; of an order that is over and not filled that says nothing."""
    left = quantity(order, "remaining")
    if qty is None or left is None or not (qty.is_finite() and left.is_finite()):
        return None
    over = status is not OrderStatus.FILLED and (status.terminal or left == 0)
    return None if over else EXACT.subtract(qty.copy_abs(), left.copy_abs())


def _kind(event: Any) -> fix.Word | None:
    """What happened, where the update says it in a word, or in FIX's own code."""
    said, coded = meant(event, "update_kind"), meant(event, "fix_kind")
    found = fix.event_of(word(said)) if said is not None else None
    return found or (fix.event_of(word(coded), coded=True) if coded is not None else None)


def _state(order: Any) -> OrderStatus | None:
    """The order's own state, in a word, or in FIX's own code."""
    said, coded = meant(order, "order_status"), meant(order, "fix_status")
    if said is not None and word(said) in OVER_WORDS:
        qty, filled = _figures(order)
        if filled is not None and filled.is_finite() and (qty is None or qty.is_finite()):
            return OrderStatus.FILLED if qty is None or filled >= qty else OrderStatus.CANCELED
    found = fix.status_of(word(said)) if said is not None else None
    return found or (fix.status_of(word(coded), coded=True) if coded is not None else None)


def _status(event: Any, order: Any, kind: fix.Word | None) -> OrderStatus | None:
    """Our word for the order's state. It counts; what happened counts only where no state is said, or it says more."""
    state = _state(order)
    if _is_refused_cancel(event):
        # That the order is unknown or rejected is no record of it here: it may arrive after the request.
        over = state is not None and state.terminal and state is not OrderStatus.REJECTED
        return state if over else OrderStatus.CANCEL_REJECTED
    said = meant(event, "update_kind")
    if state is not None or meant(order, "order_status") is not None or said is None:
        return state if state is not None else kind.status if kind is not None else None
    if word(said) in FILL_KINDS:
        # Something filled; whether it was all, only the figures can say.
        qty, filled = _figures(order)
        whole = filled == qty if filled is not None else word(said) == "fill" and order is not event
        return OrderStatus.FILLED if whole else OrderStatus.PARTIALLY_FILLED
    return kind.status if kind is not None else fix.status_of(word(said))


def _is_refused_cancel(event: Any) -> bool:
    """True where a request to cancel was refused."""
    if str(meant(event, "reject_answers")) == "2":
        return False  # a request to replace
    said = [meant(event, name) for name in ("update_kind", "fix_kind", "message_type")]
    return str(said[2]) == "9" or any(fix.refuses_cancel(word(value)) for value in said if value is not None)


def _is_no_record(order: Any, kind: fix.Word | None, status: OrderStatus | None) -> bool:
    """True for a reject that is about a question or a repetition, not about the order."""
    if status is not OrderStatus.REJECTED:
        return False
    asked = kind is not None and kind.code == "I" and quantity(order, "order_qty") == 0
    return asked or _refusal(order) in (fix.UNKNOWN_ORDER, fix.DUPLICATE_ORDER)


def _refusal(order: Any) -> str | None:
    """The class of a reject: by its FIX code, or as the broker says it."""
    for meaning, table in (("reject_code", fix.ORD_REJ_REASON), ("cancel_reject_code", fix.CXL_REJ_REASON)):
        code = meant(order, meaning)
        if code is not None:
            return fix.reason_of(str(code)) or table.get(str(code), str(code))
    said = text_of(order, "refusal")
    return (fix.reason_of(said) or said) if said is not None else fix.reason_of(str(meant(order, "reason") or ""))


def fill_of(source: Any) -> Fill | None:
    """One execution; None when it lacks symbol, side, quantity, price or time (no trade without them)."""
    if isinstance(source, Fill):
        return as_declared(source, OrderSide)
    symbol, side = meant(source, "symbol"), order_side(source)
    qty, price, at = quantity(source, "fill_qty"), number(source, "fill_price"), moment(source, "fill_at")
    if symbol is None or qty is None or price is None or at is None or not (qty.is_finite() and price.is_finite()):
        return None
    if side is None:
        if qty >= ZERO:
            return None
        side = OrderSide.SELL
    fill_id = meant(source, "fill_id")
    return Fill(
        fill_id=str(fill_id) if fill_id is not None else f"{name_of(symbol)}-{at.isoformat()}-{side}-{qty}-{price}",
        symbol=symbol_of(symbol),
        side=side,
        qty=qty.copy_abs(),
        price=price,
        at=at,
        client_order_id=text_of(source, "client_order_id"),
        broker_order_id=text_of(source, "fill_order_id"),
    )
