"""What a broker lists, in any of many shapes: its working orders, and executions.

Rules of this room: one that cannot be read hides none of the others, and what is to be said of it is handed back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from msgspec.structs import replace

from exitfsm.broker.fields import (
    as_declared,
    id_of,
    moment,
    name_of,
    number,
    order_side,
    position_side,
    quantity,
    symbol_in,
    symbol_of,
)
from exitfsm.broker.orders import client_id_in
from exitfsm.broker.spellings import SPELLINGS, meant, whole, word
from exitfsm.errors import BrokerError
from exitfsm.values import ZERO, ExecutionReport, Fill, OrderSide, OrderStatus, WorkingOrder, bare, symbol_key

#: How brokers write the types of working orders that matter here, by word; numbers are FIX's.
_TYPES = {
    "2": "limit", "lmt": "limit", "limit_maker": "limit", "post_only": "limit", "1": "market", "mkt": "market",
    "3": "stop", "stp": "stop", "stop_loss": "stop", "stop_market": "stop", "stop_order": "stop", "sl_m": "stop",
    "4": "stop_limit", "stp_lmt": "stop_limit", "stop_loss_limit": "stop_limit", "sl": "stop_limit",
}  # fmt: skip


class Executed(NamedTuple):
    """The executions in a list, oldest first; and by bare symbol what is to be said of one that cannot be read."""

    items: list[Fill]
    unreadable: dict[str, str]

    def why_unreadable(self, symbol: str) -> str:
        """Why not all of a symbol is known; empty where it is. One that does not even name its symbol may be any."""
        return self.unreadable.get(bare(symbol)) or self.unreadable.get("", "")

    def of(self, symbol: str | None) -> list[Fill]:
        """The executions; `BrokerError` where one of this symbol cannot be read."""
        if symbol is not None and (why := self.why_unreadable(symbol)):
            raise BrokerError(why)
        return self.items


def working_orders_of(
    answers: Sequence[Any],
    read: Callable[[Any], ExecutionReport | None],
    now: datetime,
    client_id_of: Callable[[str], str | None],
) -> tuple[list[ExecutionReport | None], list[str]]:
    """The orders in a list of working ones; and what is to be said of those that cannot be read, but work.

    None stands for each of which not even the id can be read.

    Args:
        answers: the list.
        read: reads one of them as an order that works.
        now: when it was listed.
        client_id_of: knows our ids by the broker's own.
    """
    found: list[ExecutionReport | None] = []
    unreadable: list[str] = []
    for answer in answers:
        try:
            report = read(answer)
            found.append(working_of(answer, report) if report is not None else None)
        except (BrokerError, ValueError) as error:
            working, text = unreadable_order(answer, error, now, client_id_of)
            found.append(working)
            unreadable.append(text)
    return found, unreadable


def working_of(source: Any, report: ExecutionReport) -> ExecutionReport:
    """The report on an order in a list of working orders, with its type and its prices."""
    if isinstance(source, ExecutionReport):
        return report
    source = whole(source)
    said, limit, stop = meant(source, "order_type"), _price(source, "limit_price"), _price(source, "stop_price")
    kind = _TYPES.get(word(said), word(said)) if said is not None else ""
    if stop is not None and kind in ("limit", "market", ""):
        kind = "stop_limit" if kind == "limit" else "stop"
    said_of_it = {name: getattr(report, name) for name in report.__struct_fields__}
    return WorkingOrder(**said_of_it, order_type=kind, limit_price=limit, stop_price=stop)


def _price(source: Any, meaning: str) -> Decimal | None:
    """A price; 0 is none, and so is what cannot be read: it only helps a person."""
    try:
        price = number(source, meaning)
    except BrokerError:
        return None
    return price if price is not None and price.is_finite() and price > 0 else None


def unreadable_order(
    source: Any, error: Exception, now: datetime, client_id_of: Callable[[str], str | None]
) -> tuple[ExecutionReport | None, str]:
    """A working order with a field that cannot be read: that it works, where it says its id; and what to tell a person.

    What it has filled is not known; its own record says it when it is looked up.
    """
    said, own = id_of(source, "client_order_id"), id_of(source, "broker_order_id")
    name = said or (client_id_of(own) if own is not None else None) or own or ""
    text = f"working order {name or 'without an id'} cannot be read ({error}): what it has filled is not known"
    symbol = meant(source, "symbol")
    report = ExecutionReport(
        client_order_id=name,
        status=OrderStatus.NEW,
        at=now,
        broker_order_id=own,
        symbol=canonical_or_none(symbol),
        side=order_side(source),
    )
    return (report if name else None), text[:500]


def canonical_or_none(symbol: Any) -> str | None:
    """A symbol in our spelling; None where it is none."""
    try:
        return symbol_of(symbol) if symbol is not None else None
    except BrokerError:
        return None


#: What an execution must say, and the names under which it is looked for first.
_NEEDED_IN_FILLS = ("symbol", "side", "fill_qty", "fill_price", "fill_at")
SOUGHT_IN_FILLS = "; ".join(", ".join(SPELLINGS[name][:5]) for name in _NEEDED_IN_FILLS)


def lacking(source: Any) -> list[str]:
    """What an execution does not say that it must."""
    merged = whole(source)
    return [
        name.removeprefix("fill_")
        for name in _NEEDED_IN_FILLS
        if (symbol_in(merged) if name == "symbol" else meant(merged, name)) is None
    ]


def fills_of(
    answers: Sequence[Any], client_id_of: Callable[[str], str | None] = lambda broker_order_id: None
) -> tuple[list[Fill], dict[str, str]]:
    """The executions in a list; and for each symbol what is to be said of one that cannot be read ("": of none).

    One of an order that is named by the broker's own id alone gets ours, where `client_id_of` knows it.
    """
    found: list[Fill] = []
    unreadable: dict[str, str] = {}
    for answer in answers:
        try:
            fill = fill_of(answer)
            if fill is not None:
                own = fill.broker_order_id if fill.client_order_id is None else None
                ours = client_id_of(own) if own is not None else None
                found.append(fill if ours is None else replace(fill, client_order_id=ours))
                continue
            why = f"a {type(answer).__name__} that lacks {' and '.join(lacking(answer)) or 'a side'}"
        except (BrokerError, ValueError) as error:  # one hides none of the others
            why = str(error)
        name = symbol_key(name_of(symbol_in(answer) or ""))
        unreadable.setdefault(bare(name), f"an execution {f'of {name} ' if name else ''}cannot be read: {why}")
    return found, unreadable


def fill_of(source: Any) -> Fill | None:
    """One execution; None when it lacks symbol, side, quantity, price or time (no trade without them)."""
    if isinstance(source, Fill):
        return as_declared(source, OrderSide)
    source = whole(source)
    symbol, side = symbol_in(source), order_side(source)
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
        client_order_id=client_id_in(source),
        broker_order_id=id_of(source, "fill_order_id"),
        position_side=position_side(source),
    )
