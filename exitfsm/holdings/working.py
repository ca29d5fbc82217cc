"""Working orders that an exit of ours meets: what gives way, what keeps it from leaving, and what is one too many.

Where the venue takes what a working order is to sell from what is available, or refuses to sell more than is held, it
is the guard. At any other, two orders that together sell more than is held never work at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import NamedTuple

from exitfsm.holdings.sides import concerns
from exitfsm.ports import Capabilities
from exitfsm.position import Position
from exitfsm.values import ZERO, ExecutionReport, OrderStatus, WorkingOrder, exactly, plain

#: For so many seconds after a position's end a list may still show its order working: lists are behind, too.
SHOWS_ON_S = 10.0


class Pass(Enum):
    """What is said of an order that an exit waits for."""

    WAIT = "nothing yet: a stop may fill"
    ALARM = "a person must look"


def is_guarded(broker: Capabilities) -> bool:
    """True where the venue sees to it that no more is sold than is held."""
    return broker.reduce_only or broker.reserves


def gives_way(order: ExecutionReport, p: Position, foreign_exits: str, entry_prefix: str) -> bool:
    """True for a working order of others that is canceled before an exit leaves.

    An entry of the bot's own is; a closing order by what is set, and where nothing is, if it has the bot's prefix.
    """
    is_the_bots = bool(entry_prefix) and order.client_order_id.startswith(entry_prefix)
    if order.side is not p.side.exit_side or foreign_exits == "by_prefix":
        return is_the_bots
    return foreign_exits == "cancel"


def closing(p: Position, working: Iterable[ExecutionReport]) -> tuple[ExecutionReport, ...]:
    """Those of others that would close the position."""
    return tuple(order for order in working if order.side is p.side.exit_side and concerns(order, p.side))


@exactly
def blocking(p: Position, theirs: Sequence[ExecutionReport], held: Decimal) -> tuple[ExecutionReport, ...]:
    """Closing orders that together with ours would sell more than is held; one that does not say how much would."""
    asked = ZERO
    for order in theirs:
        leaves = leaves_of(order)
        if leaves is None:
            return tuple(theirs)
        asked += leaves
    return tuple(theirs) if asked and asked + p.remaining_qty > held else ()


def leaves_of(order: ExecutionReport) -> Decimal | None:
    """What a working order may still fill; None where it does not say that."""
    if order.leaves_qty is not None:
        return order.leaves_qty
    return order.qty - (order.filled_qty or ZERO) if order.qty is not None else None


def rests(order: ExecutionReport) -> bool:
    """True for a limit order: it may rest for ever while the price falls. Where no type is said it is none."""
    return isinstance(order, WorkingOrder) and order.order_type == "limit"


def waits_for(order: ExecutionReport, waited_s: float, patience_s: float) -> Pass:
    """Whether a person must know that an exit waits for this order: at once for a limit, else once patience ends."""
    return Pass.ALARM if rests(order) or waited_s >= patience_s else Pass.WAIT


def blocked_by(order: ExecutionReport, p: Position) -> str:
    """What keeps an exit from leaving, with both prices."""
    price = order.price_of_it if isinstance(order, WorkingOrder) else None
    theirs = f" at {plain(price)}" if price is not None else ""
    kind = order.order_type if isinstance(order, WorkingOrder) and order.order_type else "order"
    ours = f"decided at {plain(p.trigger_price)}" if p.trigger_price is not None else "to come"
    qty = f" for {plain(order.qty)}" if order.qty is not None else ""
    return (
        f"{kind} {order.client_order_id}{qty}{theirs} closes {p.symbol}, too, and the venue would sell both: the exit "
        f"of {plain(p.remaining_qty)} ({ours}) does not leave meanwhile. Cancel it, or set live.foreign_exits: cancel"
    )


class Surplus(NamedTuple):
    """A second working order of one id; `is_sure` where it is known that the other one is ours."""

    report: ExecutionReport
    is_sure: bool


def twins(listed: Sequence[ExecutionReport], known: Mapping[str, str | None]) -> list[Surplus]:
    """Second working orders of one id of ours, by the broker's own ids.

    The one on record stays. Where none is on record yet, as before the answer to a submit, it is not known which one
    that answer will name: none of them may be canceled. `known`: the broker's id on record of each id of ours. While
    an order is being replaced two of one id are one.
    """
    surplus: list[Surplus] = []
    for order_id, own in known.items():
        same = {r.broker_order_id: r for r in listed if r.client_order_id == order_id}
        replaced = any(r.status is OrderStatus.REPLACED or r.orig_client_order_id for r in same.values())
        if len(same) < 2 or None in same or replaced:
            continue
        oldest = min(same, key=lambda own_id: (same[own_id].at, own_id or ""))
        stays = own if own in same else oldest
        surplus += [Surplus(report, own in same) for own_id, report in same.items() if own_id != stays]
    return surplus


def works_after_its_end(record: ExecutionReport | None, ended_at: datetime | None, now: datetime) -> bool:
    """True for an exit that goes on to work though its position has ended, and for longer than lists are behind."""
    if record is None or record.status.terminal:
        return False
    return ended_at is None or (now - ended_at).total_seconds() >= SHOWS_ON_S
