"""What the broker's position proves, disproves, or leaves open."""

from __future__ import annotations

from datetime import datetime, timedelta

from exitfsm.events import Event, ExitCompleted, OrderEnded, PositionClosedElsewhere, PositionResized
from exitfsm.kinds import AlarmKind, OrderEnd, PositionEnd
from exitfsm.lifecycle import State
from exitfsm.messages import Known, PositionRead, RecordRead
from exitfsm.ports import Capabilities
from exitfsm.position.alarming import alarm, cancel, lost
from exitfsm.position.attempting import Attempt, is_price, is_rounded_off, next_attempt, sellable, spent_by_next
from exitfsm.position.parting import completed
from exitfsm.position.reports import READS_MIN, held_within, is_proved_over
from exitfsm.position.state import Position
from exitfsm.values import EXACT, ZERO, plain, tradable


def on_position_read(p: Position, m: PositionRead, broker: Capabilities) -> list[Event]:
    """What the broker's quantity proves, disproves, or leaves open."""
    if overtaken(p, m.known) or not tradable(m.qty):
        return []
    if m.qty < 0 and not p.state.terminal and p.state is not State.UNPROTECTED:
        why = f"the broker shows {p.symbol} on the other side ({plain(m.qty)})"
        return lost(p, why, m.at, facts=cancel(p, m.at, why))
    if p.state is State.MONITORING:
        return _read_while_monitoring(p, m)
    if p.order.live:
        return _read_while_working(p, m)
    if p.state.terminal or p.works_again:
        return []
    if not _is_over_by_record(p, m, broker):
        return _works_by_record(p, m)
    return _read_at_rest(p, m, broker)


def _read_at_rest(p: Position, m: PositionRead, broker: Capabilities) -> list[Event]:
    """Nothing of ours can fill any more: all is sold, or the rest is for the next attempt, or others have sold it."""
    left = p.remaining_qty
    if p.state is State.REJECTED and left > 0:
        return _read_between_attempts(p, m, broker)
    is_residue = m.qty >= 0 and sellable(p, m.qty, broker) == 0
    if left == 0 and (m.qty == 0 or (is_residue and m.reads >= READS_MIN)):
        return _completed(p, m.at) if p.orders else []
    if p.state is State.UNPROTECTED:
        return closed_elsewhere(p, m.at, PositionEnd.BY_HAND) if m.qty == 0 and m.reads >= READS_MIN else []
    if m.qty < left and m.reads < READS_MIN:
        return []
    if left > 0 and m.qty <= left and sellable(p, m.qty, broker) == 0:
        return closed_elsewhere(p, m.at, PositionEnd.RESIDUE if m.qty > 0 else PositionEnd.BY_HAND)
    if m.reads < READS_MIN:
        return []
    beside = ZERO if m.qty < left else EXACT.subtract(m.qty, left)  # what an exit before has left is no contradiction
    if left > 0 and sellable(p, left, broker) == sellable(p, beside, broker) == 0:
        return closed_elsewhere(p, m.at, PositionEnd.RESIDUE)
    sold = plain(p.sold_qty)
    return lost(p, f"our orders sold {sold} of {plain(p.qty)} but the broker shows {plain(m.qty)} left", m.at)


def overtaken(p: Position, known: Known | None) -> bool:
    """True when the position is another than it was when a read of the broker's books began."""
    return known is not None and known != (p.state, p.remaining_qty, p.client_order_id)


def _is_over_by_record(p: Position, m: PositionRead, broker: Capabilities) -> bool:
    """True when nothing can fill any more by the newest order, and the broker's own record of it says so.

    An update that reports an end is not enough: the record must have been read since. An order that has filled all it
    was for needs none.
    """
    if not p.orders or p.state not in (State.REJECTED, State.UNPROTECTED) or p.order.leaves_qty <= 0:
        return True
    record = _record(p, m)
    return record is not None and is_proved_over(p.order, record, broker)


def _record(p: Position, m: PositionRead) -> RecordRead | None:
    """The newest order's record, where it was read after this read began."""
    record = m.record
    return record if record and record.client_order_id == p.client_order_id and record.began >= m.began else None


def _works_by_record(p: Position, m: PositionRead) -> list[Event]:
    """The end of an order was reported, and its record does not show it: wait, and tell a person."""
    record, order = _record(p, m), p.order
    waits = p.state is State.REJECTED and order.next_attempt_at is not None and m.began < order.next_attempt_at
    if record is None or waits or m.reads < READS_MIN:
        return []
    text = f"the end of order {order.client_order_id} ({order.ended_how}) was reported, and "
    if record.report is None:
        why = "the broker does not show it: nothing is sent before its record does"
        return alarm(p, AlarmKind.ORDER_NOT_FOUND, text + why, m.at) if record.times >= READS_MIN else []
    why = "its record shows it working: nothing is sent before the record shows its end"
    return alarm(p, AlarmKind.ENDED_ORDER_WORKS, text + why, m.at)


def _read_while_working(p: Position, m: PositionRead) -> list[Event]:
    """Other hands sold while our order works: it is ended before it sells what is no longer there."""
    if p.state is State.PENDING:
        return _unresolved(p, m) if m.lapsed and m.qty == 0 and m.reads >= READS_MIN else []
    if p.state not in (State.SUBMITTED, State.PARTIAL) or m.reads < READS_MIN or m.qty >= p.leaves_qty:
        return []
    why = f"the broker shows {plain(m.qty)} left, less than the {plain(p.leaves_qty)} that the order still sells"
    return cancel(p, m.at, why)


def _unresolved(p: Position, m: PositionRead) -> list[Event]:
    """Nothing is held, and an order that may have been sent can arrive no more: whatever became of it, it is over.

    Where it shows up after all, it is one that was refused and works all the same: it is canceled, with an alarm.
    """
    ended = OrderEnded(
        client_order_id=p.order.client_order_id,
        how=OrderEnd.REFUSED,
        filled_qty=p.filled_qty,
        at=m.at,
        next_attempt_at=None,
        refusal="unresolved",
        text="no record of it, and nothing is held for longer than a request can be on its way",
    )
    return [ended, *closed_elsewhere(p, m.at, PositionEnd.UNRESOLVED)]


def _read_while_monitoring(p: Position, m: PositionRead) -> list[Event]:
    if m.qty == p.remaining_qty:
        same = not is_price(m.avg_entry_price) or m.avg_entry_price == p.entry_price
        return [] if same or m.reads < READS_MIN else _resize(p, m, "the broker's average entry changed")
    if m.qty < p.remaining_qty and m.reads < READS_MIN:
        return []
    if m.qty == 0:
        return closed_elsewhere(p, m.at, PositionEnd(m.how or PositionEnd.BY_HAND))
    return _resize(p, m, "bought" if m.qty > p.remaining_qty else "sold by other hands")


def _resize(p: Position, m: PositionRead, why: str) -> list[Event]:
    entry = m.avg_entry_price if m.avg_entry_price is not None and is_price(m.avg_entry_price) else p.entry_price
    return [PositionResized(qty=m.qty, entry_price=entry, at=m.at, why=why)]


def _read_between_attempts(p: Position, m: PositionRead, broker: Capabilities) -> list[Event]:
    """The next attempt, sized by what is left of ours and by what the broker still has."""
    left = p.remaining_qty
    if m.qty < left and m.reads < READS_MIN:
        return []
    if m.qty == 0:
        return closed_elsewhere(p, m.at, PositionEnd.BY_HAND)
    if p.next_attempt_at is None or m.began < p.next_attempt_at:
        return []
    there = min(left, m.qty)
    size = sellable(p, there - p.keep_qty, broker)
    if size == 0 and p.keep_qty > 0:
        return completed(p, m.at, there)  # what is left of the part is less than the venue takes, or others sold it
    if size == 0 and p.sold_qty == 0:  # all of it is no residue, and whoever ends it must know
        return lost(p, f"all {plain(there)} {p.symbol} is less than the venue takes in one order", m.at)
    if size == 0 or (p.order.refusal and is_rounded_off(p, there)):
        return closed_elsewhere(p, m.at, PositionEnd.RESIDUE)
    spent = spent_by_next(p)
    if spent > p.policy.partial_fills.max_resubmit_attempts:
        return lost(p, f"{p.attempt} attempts ended with {plain(left)} {p.symbol} left to sell", m.at)
    return [next_attempt(p, Attempt(size, gone=left - there, spent=spent), m.at, broker)]


def _completed(p: Position, at: datetime) -> list[Event]:
    filled_at = held_within(p, p.last_fill_at or at, at)
    return [
        ExitCompleted(
            filled_qty=p.sold_qty,
            avg_fill_price=p.avg_exit_price,
            filled_at=filled_at,
            at=at,
            cooldown_until=_cooldown(p, filled_at),
        )
    ]


def closed_elsewhere(p: Position, at: datetime, how: PositionEnd) -> list[Event]:
    """The end of a position that no order of ours has brought about, or not whole."""
    ended = held_within(p, p.last_fill_at, at) if how == PositionEnd.RESIDUE and p.last_fill_at else at
    return [PositionClosedElsewhere(how=how, remaining_qty=p.remaining_qty, at=at, cooldown_until=_cooldown(p, ended))]


def _cooldown(p: Position, since: datetime) -> datetime:
    return since + timedelta(seconds=p.policy.exit_cooldown_seconds)
