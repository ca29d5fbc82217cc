"""Orders, in anybody's shape: which order, and what became of it.

What leaves open which order it is about, or what became of it, is None and never guessed at: the order is looked up
then. A figure that is no number, a time or a symbol that is none, is a `BrokerError`. What a broker's words mean for an
order is in `exitfsm.fix`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from exitfsm import fix
from exitfsm.broker.fields import (
    as_declared,
    id_of,
    moment,
    name_of,
    names_an_order,
    number,
    order_side,
    position_side,
    quantity,
    symbol_in,
    text_of,
)
from exitfsm.broker.spellings import FILL_KINDS, OVER_WORDS, SPELLINGS, Whole, field, meant, whole, word
from exitfsm.errors import BrokerError, storable
from exitfsm.kinds import AlarmKind
from exitfsm.order_ids import looks_like_exit
from exitfsm.values import (
    EXACT,
    ExecutionReport,
    OrderSide,
    OrderStatus,
    rounded,
    symbol_key,
)

#: How deep an update may be wrapped.
WRAPS_MAX = 3
_FIX_SIDES = {"1": OrderSide.BUY, "2": OrderSide.SELL, "5": OrderSide.SELL}
#: What an answer to a request says of the request, and nothing of the order.
_SAYS_NOTHING = frozenset({"success", "ok", "true", "none", "null"})
_T = TypeVar("_T")


class Dialect(NamedTuple):
    """How one broker speaks of orders.

    Attributes:
        words: its own words for an order's state, by their plain spelling (`fix.plain_word`); they go before the table.
        note: hears what could not be read: the kind of alarm, and what to say.
        unknown: what a word that is not known counts as; None where it leaves open what became of the order.
    """

    words: Mapping[str, OrderStatus] = {}
    note: Callable[[AlarmKind, str], None] = lambda kind, text: None
    unknown: OrderStatus | None = None

    def status_of(self, said: Any) -> OrderStatus | None:
        """What a word for an order's state means, by what a member of an enumeration is worth or is called."""
        names = (word(said), said.name) if isinstance(said, Enum) else (word(said),)
        for name in names:
            found = self.words.get(fix.plain_word(name)) or fix.status_of(name)
            if found is not None:
                return found
        return None


PLAIN = Dialect()


def report_of(
    source: Any,
    *,
    now: datetime,
    client_order_id: str | None = None,
    client_id_of: Callable[[str], str | None] = lambda broker_order_id: None,
    dialect: Dialect = PLAIN,
) -> ExecutionReport | None:
    """What a broker says of an order, or in an update; None when it names none, or not what became of it.

    None too where it says that it does not know the order, or that it knows the id already: that is no record of it.
    Where it gives no time it is `now`, and where no id, that which was asked for; `client_id_of` knows ours by its own.
    A field that cannot be read counts as not said, and is noted: it discards none of the others.
    """
    if isinstance(source, ExecutionReport):
        return _with_an_id(as_declared(source, OrderSide), client_order_id, client_id_of)
    event, order, kind, status = _read(source, dialect)
    order_id, broker_id = client_id_in(order) or client_order_id, id_of(order, "broker_order_id")
    if order_id is None and broker_id is not None:
        order_id = client_id_of(broker_id) or broker_id
    if order_id is None or (status is None and not _note_unknown(event, order, order_id, dialect)):
        return None
    status = status or dialect.unknown
    if status is None or _is_no_record(order, kind, status):
        return None

    def read(reader: Callable[[Any, str], _T | None], thing: Any, meaning: str) -> _T | None:
        try:
            return reader(thing, meaning)
        except BrokerError as error:
            dialect.note(AlarmKind.ANSWER_UNREADABLE, f"{error}: what the broker says of an order is used without it")
            return None

    qty, filled = _figures(order, read)
    filled = filled if filled is not None else _filled_by_leaves(order, qty, status)
    symbol = symbol_in(order)
    updated_at = read(moment, event, "update_at") if order is not event else None
    return ExecutionReport(
        client_order_id=order_id,
        status=status,
        at=updated_at or read(moment, order, "order_at") or now,
        filled_qty=filled,
        avg_fill_price=_average(order, filled, read),
        broker_order_id=broker_id,
        symbol=symbol_key(name_of(symbol)) if symbol is not None else None,
        side=order_side(order) or _FIX_SIDES.get(str(meant(order, "fix_side"))),
        qty=qty,
        execution_id=text_of(event, "execution_id"),
        refusal=_refusal(order),
        text=_text(order, status),
        corrected=fix.corrects(kind),
        leaves_qty=read(quantity, order, "remaining"),
        orig_client_order_id=text_of(order, "original_id"),
        position_side=position_side(order),
    )


def _with_an_id(
    report: ExecutionReport, asked: str | None, client_id_of: Callable[[str], str | None]
) -> ExecutionReport | None:
    """The same; where its id is none, under that which was asked for, ours by the broker's own, or the broker's own."""
    if names_an_order(report.client_order_id):
        return report
    own = report.broker_order_id
    own = own if own is not None and names_an_order(own) else None
    order_id = asked or (client_id_of(own) or own if own is not None else None)
    return replace(report, client_order_id=order_id, broker_order_id=own) if order_id is not None else None


def client_id_in(source: Any) -> str | None:
    """Our id of an order. It may stand in a note, or beside an id of the client program (IB's `clientId`)."""
    said = id_of(source, "client_order_id")
    if looks_like_exit(said):
        return said
    others = (field(source, name) for name in (*SPELLINGS["client_order_id"], *SPELLINGS["client_note"]))
    ours = (storable(str(other)) for other in others if other is not None)
    return next((one for one in ours if looks_like_exit(one)), said)


def _note_unknown(event: Any, order: Any, order_id: str, dialect: Dialect) -> bool:
    """Note the word that leaves open what became of an order; True where there is one."""
    said = meant(order, "order_status")
    said = said if said is not None else meant(event, "update_kind")
    if said is None or fix.plain_word(str(said)) in _SAYS_NOTHING or not (_is_named(order) or _has_figures(order)):
        return False
    text = (
        f"the broker calls order {order_id} {str(said)[:60]!r}, a word that is not known: nothing is concluded, "
        f"and the order is looked up; say what it means by Capabilities(status_words={{{str(said)[:60]!r}: …}})"
    )
    dialect.note(AlarmKind.STATUS_UNKNOWN, text)
    return True


def _text(order: Any, status: OrderStatus) -> str:
    """The broker's own reason; of an order that does not work, its word for that, too: it may mean several things."""
    reason, said = text_of(order, "reason") or "", meant(order, "order_status")
    if status is not OrderStatus.SUSPENDED or said is None:
        return reason
    return f"{str(said)[:60]}: {reason}" if reason else str(said)[:60]


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
    """True for what names an order and says what became of it, in a word that is known or not."""
    source = whole(source)
    if not _is_named(source):
        return False
    if _state(source) is not None or _kind(source) is not None:
        return True
    said = [value for value in (meant(source, "order_status"), meant(source, "update_kind")) if value is not None]
    known = any(PLAIN.status_of(one) or word(one) in OVER_WORDS or word(one) in FILL_KINDS for one in said)
    return known or (bool(said) and _is_ours_or_whole(source))


def _is_ours_or_whole(source: Any) -> bool:
    """True for what can only be an order, whatever its state is called: by our id, or by its side and quantity."""
    return looks_like_exit(client_id_in(source)) or (
        order_side(source) is not None and meant(source, "order_qty") is not None
    )


def _has_figures(order: Any) -> bool:
    return meant(order, "order_qty") is not None or meant(order, "filled_qty") is not None


def _is_named(order: Any) -> bool:
    return meant(order, "client_order_id") is not None or meant(order, "broker_order_id") is not None


def _read(source: Any, dialect: Dialect = PLAIN) -> tuple[Any, Any, fix.Word | None, OrderStatus | None]:
    """An update and the order in it; what happened, and the state that the order is in after that."""
    event, order = _parts(source)
    kind = _kind(event)
    return event, order, kind, _status(event, order, kind, dialect)


def _parts(source: Any) -> tuple[Any, Any]:
    """The update and the order in it: the same where it is flat, or where an SDK keeps the order's state beside it."""
    event = source
    if type(source) is dict and any(isinstance(key, int) for key in source):  # FIX's tags come as numbers, too
        event = {str(key): value for key, value in source.items()}
    for _ in range(WRAPS_MAX):
        order = meant(event, "order_in")
        if order is not None and not isinstance(order, (str, int)):
            merged = whole(event)
            if isinstance(merged, Whole):
                merged = Whole((*merged.parts, order))
                return merged, merged
            return event, whole(order)
        inner = meant(event, "wrapped") if meant(event, "client_order_id") is None else None
        if inner is None or isinstance(inner, (str, int, float)):
            break
        event = inner
    event = whole(event)
    return event, event


def _plainly(reader: Callable[[Any, str], _T | None], thing: Any, meaning: str) -> _T | None:
    """A field where nobody asks why it cannot be read."""
    try:
        return reader(thing, meaning)
    except BrokerError:
        return None


def _figures(order: Any, read: Callable[..., Decimal | None] = _plainly) -> tuple[Decimal | None, Decimal | None]:
    """Ordered and filled quantity, both without a sign: some write what is sold as less than nothing."""
    qty, filled = read(quantity, order, "order_qty"), read(quantity, order, "filled_qty")
    if qty is not None and qty.is_finite() and qty < 0:
        return qty.copy_abs(), filled.copy_abs() if filled is not None else None
    return qty, filled


def _average(order: Any, filled: Decimal | None, read: Callable[..., Decimal | None]) -> Decimal | None:
    """The average price of what is filled; where it is not said, by what that cost."""
    average = read(number, order, "avg_fill_price")
    cost = read(number, order, "fill_cost") if average is None and filled else None
    if cost is None or not filled or not (filled.is_finite() and cost.is_finite() and cost):
        return average
    return rounded(EXACT.divide(cost.copy_abs(), filled.copy_abs())).normalize(EXACT)


def _filled_by_leaves(order: Any, qty: Decimal | None, status: OrderStatus) -> Decimal | None:
    """Filled quantity by what is left to fill; of an order that is over and not filled that says nothing."""
    left = _plainly(quantity, order, "remaining")
    if qty is None or left is None or not (qty.is_finite() and left.is_finite()):
        return None
    over = status is not OrderStatus.FILLED and (status.terminal or left == 0)
    return None if over else EXACT.subtract(qty.copy_abs(), left.copy_abs())


def _kind(event: Any) -> fix.Word | None:
    """What happened, where the update says it in a word, or in FIX's own code."""
    said, coded = meant(event, "update_kind"), meant(event, "fix_kind")
    found = fix.event_of(word(said)) if said is not None else None
    return found or (fix.event_of(word(coded), coded=True) if coded is not None else None)


def _state(order: Any, dialect: Dialect = PLAIN) -> OrderStatus | None:
    """The order's own state, in a word, or in FIX's own code."""
    said, coded = meant(order, "order_status"), meant(order, "fix_status")
    if said is not None and word(said) in OVER_WORDS:
        qty, filled = _figures(order)
        if filled is not None and filled.is_finite() and (qty is None or qty.is_finite()):
            return OrderStatus.FILLED if qty is None or filled >= qty else OrderStatus.CANCELED
    found = dialect.status_of(said) if said is not None else None
    if found is OrderStatus.REJECTED and fix.plain_word(word(said)) in fix.FAILURES:
        # A request fails in the same words: of the order it is only where the order is named, or its figures are.
        found = found if _is_named(order) or _has_figures(order) else None
    return found or (fix.status_of(word(coded), coded=True) if coded is not None else None)


def _status(event: Any, order: Any, kind: fix.Word | None, dialect: Dialect) -> OrderStatus | None:
    """Our word for the order's state. It counts; what happened counts only where no state is said, or it says more."""
    state = _state(order, dialect)
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
    return kind.status if kind is not None else dialect.status_of(said)


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
    asked = kind is not None and kind.code == "I" and _plainly(quantity, order, "order_qty") == 0
    return asked or _refusal(order) in (fix.UNKNOWN_ORDER, fix.DUPLICATE_ORDER)


def _refusal(order: Any) -> str | None:
    """The class of a reject: by its FIX code, or as the broker says it."""
    for meaning, table in (("reject_code", fix.ORD_REJ_REASON), ("cancel_reject_code", fix.CXL_REJ_REASON)):
        code = meant(order, meaning)
        if code is not None:
            return fix.reason_of(str(code)) or table.get(str(code), str(code))
    said = text_of(order, "refusal")
    return (fix.reason_of(said) or said) if said is not None else fix.reason_of(str(meant(order, "reason") or ""))
