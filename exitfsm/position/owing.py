"""What the broker must be told or asked next: the state is the outbox.

There is no second record of things to do. After any message, after any crash, the same question gives the same answer,
so that recovery is simply asking it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from exitfsm.lifecycle import State
from exitfsm.position.order import ExitOrder
from exitfsm.position.state import Position
from exitfsm.values import ZERO, Order


class Submit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Send this order. Sending it twice is the same as sending it once: the id is the order."""

    position_id: str
    order: Order


class Cancel(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Ask for the cancel of this order; harmless when repeated."""

    position_id: str
    client_order_id: str


class ReadPosition(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Read what the broker holds, freshly."""

    position_id: str
    symbol: str


class LookUp(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Ask the broker what it knows of this order."""

    position_id: str
    client_order_id: str


Action = Submit | Cancel | ReadPosition | LookUp
#: The broker has the order, or had it. Named once: to look a member of an enumeration up costs more than all the rest.
_WORKING = (State.SUBMITTED, State.PARTIAL, State.CANCELING)


def owed(p: Position, now: datetime, *, outcome_unknown: bool = False) -> Action | None:
    """What the broker must be told or asked about `p` at `now`; None when nothing is owed.

    Args:
        outcome_unknown: an earlier send of the current order may or may not have arrived (a time-out, or a restart).
            Then the broker is asked about the id before it is sent again.
    """
    if not p.orders:
        return None
    order = p.orders[-1]
    if p.state in _WORKING:
        if not order.live:
            return ReadPosition(position_id=p.position_id, symbol=p.symbol)
        asked = p.state is State.CANCELING
        return Cancel(position_id=p.position_id, client_order_id=order.client_order_id) if asked else None
    if p.state is State.PENDING:
        if outcome_unknown:
            return LookUp(position_id=p.position_id, client_order_id=order.client_order_id)
        if order.postponed_until is not None and now < order.postponed_until:
            return None
        return Submit(position_id=p.position_id, order=order_of(p))
    due = order.next_attempt_at
    if p.state is State.REJECTED and (p.remaining_qty <= ZERO or (due is not None and now >= due)):
        return ReadPosition(position_id=p.position_id, symbol=p.symbol)
    return _owed_unprotected(p, order) if p.state is State.UNPROTECTED else None


def _owed_unprotected(p: Position, order: ExitOrder) -> Action | None:
    """The cancel of what may be live and is not wanted; where nothing is live, a read shows whether it was closed."""
    if p.works_again:
        return Cancel(position_id=p.position_id, client_order_id=p.works_again[0])
    if not order.live:
        return ReadPosition(position_id=p.position_id, symbol=p.symbol)
    if order.cancel_asked or order.leaves_qty > p.remaining_qty:
        return Cancel(position_id=p.position_id, client_order_id=order.client_order_id)
    return None


def may_owe(positions: Sequence[Position], most: int) -> list[str]:
    """The ids of those to be asked what they owe: of more than `most`, only those on their way out owe anything."""
    return [p.position_id for p in positions if len(positions) <= most or p.state is not State.MONITORING]


def order_of(p: Position) -> Order:
    """The current exit order of `p`, as it is sent."""
    order = p.order
    return Order(
        client_order_id=order.client_order_id,
        symbol=p.symbol,
        side=p.side.exit_side,
        qty=order.qty,
        order_type=order.order_type,
        time_in_force=order.time_in_force,
        limit_price=order.limit_price,
        position_side=p.side,
    )
