"""What an operator, or whoever looks after the account, wants of a position."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from exitfsm.events import AlarmAcknowledged, Event, PositionReleased
from exitfsm.kinds import AlarmKind, PositionEnd
from exitfsm.lifecycle import State
from exitfsm.messages import Acknowledge, Contradiction, ForceExit, GiveWay, Ignore, RaiseAlarm, Release
from exitfsm.ports import Capabilities
from exitfsm.position.alarming import alarm, cancel, lost
from exitfsm.position.attempting import Attempt, escalated, is_price, next_attempt, rests, sellable, trigger
from exitfsm.position.evaluating import Verdict
from exitfsm.position.parting import part_by_hand, why_no_part, widened
from exitfsm.position.reading import closed_elsewhere, overtaken
from exitfsm.position.state import Position
from exitfsm.position.watching import end_refusals
from exitfsm.values import ZERO, ExitType, plain, tradable


def on_force_exit(p: Position, m: ForceExit, broker: Capabilities) -> list[Event]:
    """Exit now: from monitoring the first order, from `unprotected` the next one; an exit under way goes on.

    Where nothing can be done by this, an alarm says so, and what can.
    """
    if p.state is State.MONITORING:
        return _first_exit(p, m, broker)
    if p.keep_qty > 0 and p.state.exiting and m.at_most is None:
        return widened(p, ExitType.EMERGENCY, m.at, m.price, f"{m.who}: {m.reason}")
    if p.state is State.UNPROTECTED or (p.state is State.REJECTED and m.qty is not None):
        if overtaken(p, m.known):
            return _too_old(p, m.at)
        left = p.remaining_qty if m.qty is None or not tradable(m.qty) else min(p.remaining_qty, m.qty)
        size = sellable(p, left if m.at_most is None else min(left, m.at_most), broker)
        if p.live_orders or size <= 0:
            return _not_done(p, m.qty, m.at)
        return [next_attempt(p, Attempt(size, gone=p.remaining_qty - left, spent=0), m.at, broker, by=m.who)]
    if p.state.exiting and m.at_most is not None:
        return _no_part(p, m.at_most, m.at, broker)  # nor is an order that rests hurried: it sells more than is wanted
    if rests(p):
        return [escalated(p, m.at, f"{m.who}: {m.reason}")]
    return _nothing_to_do(p, m)


def _first_exit(p: Position, m: ForceExit, broker: Capabilities) -> list[Event]:
    """The exit of a position that is monitored: of all, or of a part."""
    part = None
    if m.at_most is not None and m.at_most < p.remaining_qty:
        part = part_by_hand(p, m.at_most, broker)
    if m.at_most is not None and why_no_part(p, m.at_most, broker) is not None:
        return _no_part(p, m.at_most, m.at, broker)
    price = m.price if m.price is not None and is_price(m.price) else p.entry_price
    verdict = Verdict(ExitType.EMERGENCY, price, price, ZERO, f"{m.who}: {m.reason}")
    return [*end_refusals(p, m.at), trigger(p, verdict, m.at, broker, part=part)]


def _no_part(p: Position, qty: Decimal, at: datetime, broker: Capabilities) -> list[Event]:
    """Where a person cannot have a part he is told why; nothing where he can."""
    why = why_no_part(p, qty, broker)
    return alarm(p, AlarmKind.NOT_DONE, f"nothing was done for {p.symbol}: {why}", at) if why is not None else []


#: What keeps an exit from going on, by the alarm about it, and what a person can do.
_WAITS_FOR: dict[str, str] = {
    "submit_unresolved": "see at the broker whether it is there; if it is not: release(position, order_not_there=True)",
    "order_not_found": "see at the broker whether it is there; if it is not: release(position, order_not_there=True)",
    "exit_postponed": "the broker refuses it for now, and the same order is sent again; else close it at the broker",
    "order_inactive": "the broker has it, and it does not work: cancel it there, and the next attempt follows",
    "order_stalled": "it works without a fill: let it fill, or cancel it at the broker",
    "cancel_unresolved": "it was asked to be canceled: end it at the broker",
    "cancel_refused": "the broker will not cancel it: let it fill, or end it there",
}


def _nothing_to_do(p: Position, m: ForceExit) -> list[Event]:
    """An exit is under way. It goes on by itself; where it does not, an operator is not answered by silence."""
    if p.state.terminal or not p.orders:
        return []
    waits = next((a.kind for a in p.alarms if a.kind in _WAITS_FOR), "submit_unresolved" if m.in_doubt else "")
    if not waits:
        return []
    text = f"nothing was done for {p.symbol}: its exit order {p.client_order_id} is under way; {_WAITS_FOR[waits]}"
    return alarm(p, AlarmKind.NOT_DONE, text, m.at)


def _too_old(p: Position, at: datetime) -> list[Event]:
    """What an operator's command rests on was read before something else became known."""
    text = f"nothing was done for {p.symbol}: its orders changed while the broker's books were read; try again"
    return alarm(p, AlarmKind.NOT_DONE, text, at)


def _not_done(p: Position, held: Decimal | None, at: datetime) -> list[Event]:
    """What an operator wants cannot be done, and must not look as if it were; where nothing is held, it need not be."""
    if held is None or not tradable(held) or held == 0:
        return []
    left = plain(p.remaining_qty)
    why = f"the broker shows {plain(held)} beside what else is watched, and by our own count {left} is left to sell"
    if p.live_orders:
        why = f"order {p.live_orders[0]} may still be live"
    return alarm(p, AlarmKind.NOT_DONE, f"nothing was done for {p.symbol}: {why}", at)


def on_release(p: Position, m: Release, broker: Capabilities) -> list[Event]:
    """Back to monitoring, with what the broker shows; only when nothing of ours can be live.

    What an exit of ours left, and the venue does not take, is a residue: it ends.
    """
    if p.state is State.REJECTED:
        return []  # its attempt has ended, perhaps on this word: the next one follows by itself
    if p.state is not State.UNPROTECTED:
        text = f"nothing was released: {p.symbol} is {p.state}, and only an unprotected position is to be released"
        return alarm(p, AlarmKind.NOT_DONE, text, m.at)
    if not is_price(m.entry_price):
        return []
    if overtaken(p, m.known):
        return _too_old(p, m.at)
    if p.live_orders or not is_price(m.qty):
        return _not_done(p, m.qty, m.at)
    if p.sold_qty and not sellable(p, m.qty, broker):
        return closed_elsewhere(p, m.at, PositionEnd.RESIDUE)  # watched on, it would take the next purchase for its own
    return [PositionReleased(by=m.who, at=m.at, qty=m.qty, entry_price=m.entry_price)]


def on_ignore(p: Position, m: Ignore, broker: Capabilities) -> list[Event]:
    """It is watched no more, though it is held; only where no exit is under way and no order of ours can be live."""
    if p.state is not State.MONITORING or p.live_orders:
        return []
    return [*end_refusals(p, m.at), *closed_elsewhere(p, m.at, PositionEnd.IGNORED)]


def on_acknowledge(p: Position, m: Acknowledge, broker: Capabilities) -> list[Event]:
    """Take down one alarm."""
    standing = any(a.alarm_id == m.alarm_id for a in p.alarms)
    return [AlarmAcknowledged(alarm_id=m.alarm_id, by=m.who, at=m.at)] if standing else []


def on_raise_alarm(p: Position, m: RaiseAlarm, broker: Capabilities) -> list[Event]:
    """Put up an alarm; one of the same kind that still stands is enough."""
    return alarm(p, m.kind, m.text, m.at)


def on_contradiction(p: Position, m: Contradiction, broker: Capabilities) -> list[Event]:
    """Stop everything automatic, and end an order of ours that could sell more than is left."""
    if p.state is State.UNPROTECTED or overtaken(p, m.known):
        return []
    return [*lost(p, m.why, m.at), *(cancel(p, m.at, m.why) if p.leaves_qty > p.remaining_qty else [])]


def on_give_way(p: Position, m: GiveWay, broker: Capabilities) -> list[Event]:
    """A limit order that rests is canceled for another exit of the same holding; any other is on its way.

    Once, where the broker refuses that.
    """
    order = p.order
    if not order.resting or order.cancel_asked or order.cancels_refused:
        return []
    if rests(p):
        return [escalated(p, m.at, m.why)]
    return cancel(p, m.at, m.why) if p.state is State.UNPROTECTED else []


#: Alarms of an exit between two attempts that does not go on by itself.
_STALLED = ("retry_stalled", "ended_order_works", "order_not_found")


def is_in_the_dark(p: Position) -> bool:
    """True where the current order may have been sent, and no word of it ever came from the broker."""
    return p.state in (State.PENDING, State.UNPROTECTED) and p.order_live and p.broker_order_id is None


def is_stuck(p: Position) -> bool:
    """True for a position whose exit goes on with an operator's word only."""
    stalled = p.state is State.REJECTED and any(alarm.kind in _STALLED for alarm in p.alarms)
    return stalled or p.state is State.UNPROTECTED
