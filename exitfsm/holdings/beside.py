"""Exits of one holding, one after the other: which goes first, and whose record must be read before another leaves."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from exitfsm.holdings.orders import LookUps
from exitfsm.holdings.reads import NEVER, is_older
from exitfsm.lifecycle import State
from exitfsm.ports import Capabilities
from exitfsm.position import ExitOrder, Position

#: How old, in seconds, what was read for a send may be when that leaves.
FRESH_S = 5.0


class Beside(msgspec.Struct, frozen=True):
    """Another position of the symbol, of either side, and what is known of its newest order."""

    position: Position
    is_unknown: bool = False  # the order was sent, or may have been, and the broker has said nothing of it
    look_ups: LookUps = LookUps()  # what they have shown of it, where its end was reported
    settled: float = NEVER  # when no fill can follow its cancel any more, in monotonic seconds
    may_have_left: bool = False  # it was sent, and the broker does not know it: it may still arrive


def another_goes_first(
    p: Position, beside: Iterable[Beside], asked: float, now: float, may_have_left: bool = False
) -> bool:
    """True while an exit order of another position of the symbol may work, or is to leave before this one.

    What is held may be less than all of them are to sell: one after the other, each is sized by what is there. Of two
    sides only one can be held: there the one goes first whose quantity is shown. One of which an earlier copy may still
    arrive goes before one that never left (`may_have_left`): sent again, it is the same order. Else the older goes
    first.
    """
    for other in beside:
        q = other.position
        if q.state is not State.PENDING or other.is_unknown:
            goes_first = bool(q.live_orders) or may_work(other, asked, now)
        elif other.may_have_left is not may_have_left:
            goes_first = other.may_have_left
        else:
            goes_first = q.side is p.side and is_older(q, p)
        if goes_first:
            return True
    return False


def may_work(other: Beside, asked: float, now: float) -> bool:
    """True where the end of a position's newest order was reported, and its record has not shown it since.

    Of an unprotected one only where the record shows it working: a person looks after that. Once no fill can follow a
    cancel any more, what was read before proves nothing: it may have been taken back.
    """
    if not was_reported_over(other.position):
        return False
    if other.position.state is State.UNPROTECTED:
        return other.look_ups.works
    since = asked - FRESH_S
    return other.look_ups.shown_over < (max(since, other.settled) if now >= other.settled else since)


def was_reported_over(q: Position) -> bool:
    """True where the end of a position's newest order, before it was filled, was reported: its record must show it."""
    over = q.client_order_id is not None and not q.order_live and q.leaves_qty > 0 and q.ended_how != "refused"
    return over and q.state in (State.REJECTED, State.UNPROTECTED)


def awaits_record(other: Beside, asked: float, now: float) -> bool:
    """True where the record of a position's newest order is to be read before another exit of its holding leaves."""
    q = other.position
    lost = q.state is State.UNPROTECTED and q.client_order_id is not None and not q.order_live
    return (lost and q.ended_how != "refused") or may_work(other, asked, now)


def order_to_prove(p: Position) -> ExitOrder | None:
    """The order before the current one, whose record must show its end before this one leaves.

    Not before the first order of an exit, nor one that an operator ordered: what was before was cleared up on his word.
    """
    if len(p.orders) < 2 or p.waiting_since == p.triggered_at or p.order.ordered_by:
        return None
    return p.orders[-2]


def wait_began(p: Position, broker: Capabilities) -> datetime | None:
    """When what a position waits for began, by its record; None where it waits for nothing."""
    if p.next_attempt_at is None:
        return p.waiting_since
    longest_s = max(p.policy.partial_fills.resubmit_delay_seconds, broker.late_fill_window_s or 0)
    return p.next_attempt_at - timedelta(seconds=longest_s)


def late_fills_s(p: Position, broker: Capabilities, now: datetime) -> float:
    """For how long, from now on, fills may still follow the cancel of a position's order, in seconds."""
    if p.next_attempt_at is None or p.ended_how != "canceled" or not broker.late_fills:
        return 0.0
    return min(broker.late_fill_window_s or 0, max(0.0, (p.next_attempt_at - now).total_seconds()))
