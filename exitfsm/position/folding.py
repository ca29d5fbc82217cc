"""How events change a position.

Folding is total: whatever was stored can be folded, so an old log always reads back. Legality is checked when an event
is appended (by the machine) and when a log is verified (by the lookup), never here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from msgspec import UNSET
from msgspec.structs import force_setattr, replace

from exitfsm.errors import IllegalTransition
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitPostponed,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.lifecycle import LOOKUP, NOTHING, State
from exitfsm.policy import is_jump, rescaled
from exitfsm.position.order import ExitOrder
from exitfsm.position.state import NO_EXIT, Exit, Parts, Position, Stops, position_id
from exitfsm.values import EXACT, ZERO, Alarm, ExitType, significant

#: An average entry that moved by more than this did not move by trading a little more: the share itself changed.
SPLIT_RATIO = Decimal("1.3")


def evolve(position: Position | None, event: Event) -> Position:
    """`position` after `event`. Never fails on an event that was appended once.

    An event that the lifecycle does not allow leaves the state as it is and changes the figures only: refusing it is
    the business of append and verify, and a log must stay readable. Only a stream that does not start with
    `PositionOpened` cannot be folded.

    Raises:
        IllegalTransition: the first event is not `PositionOpened`.
    """
    after = fold(position, (event,))
    assert after is not None
    return after


def fold(position: Position | None, events: Iterable[Event]) -> Position | None:
    """`position` after all `events`, each as `evolve` says; `position` itself stays as it is.

    Raises:
        IllegalTransition: the first event is not `PositionOpened`.
    """
    p, version = position, 0 if position is None else position.version
    for event in events:
        version += 1
        if p is None:
            p = _opened(event)
            continue
        change, targets = _FOLD[type(event)]
        before, p = p, change(p, event)
        if p is before:
            p = replace(p)
        # What was just made is nobody else's yet, and to copy it once more would take as long as all the rest.
        target = targets.get(before.state)
        if target is not None:
            force_setattr(p, "state", target)
    if p is not None and p is not position:
        force_setattr(p, "version", version)
    return p


def replay(events: Iterable[Event]) -> Position:
    """The position that a whole stream of events makes.

    Raises:
        IllegalTransition: the stream is empty or does not start with `PositionOpened`.
    """
    position = fold(None, events)
    if position is None:
        raise IllegalTransition(NOTHING, "(no event)")
    return position


# --- what each event changes ------------------------------------------------------------------------------------------


def _opened(event: Event) -> Position:
    if not isinstance(event, PositionOpened):
        raise IllegalTransition(NOTHING, type(event).__name__)
    return Position(
        position_id=position_id(event.account, event.symbol, event.side, event.epoch),
        account=sys.intern(event.account),  # one for all positions of it
        symbol=event.symbol,
        side=event.side,
        epoch=event.epoch,
        qty=event.qty,
        entry_price=event.entry_price,
        opened_at=event.opened_at,
        policy=event.policy,
        own_policy=event.own_policy is True,
        atr=event.atr,
        strategy_name=event.strategy_name,
        source=event.source,
        id_form=sys.intern(event.form),
    )


def _resized(p: Position, e: PositionResized) -> Position:
    """New figures. A stop that had moved stays, for it never loosens; only a split leaves it without a meaning.

    What a person has put at a price keeps its distance from the entry then.
    """
    qty = EXACT.add(EXACT.add(e.qty, p.sold_qty), p.sold_elsewhere)
    if not is_jump(e.entry_price, p.entry_price, SPLIT_RATIO):
        return replace(p, qty=qty, entry_price=e.entry_price)
    factor = EXACT.divide(p.entry_price, e.entry_price) if e.entry_price else ZERO
    at_hand, best = _scaled(p.stops.operator, factor), _scaled(p.stops.best_price, factor)
    stops = Stops(moved_at=p.stops.moved_at)
    if at_hand is not None:
        stops = replace(stops, operator=at_hand, best_price=best)
    return replace(p, qty=qty, entry_price=e.entry_price, stops=stops, policy=rescaled(p.policy, factor))


def _scaled(price: Decimal | None, factor: Decimal) -> Decimal | None:
    """A price in a unit of which there are `factor` times as many."""
    return significant(EXACT.divide(price, factor)) if price is not None and factor else price


def _stop_moved(p: Position, e: StopMoved) -> Position:
    stops = p.stops
    if e.rule is ExitType.TRAILING_STOP:
        return replace(p, stops=Stops(stops.break_even, e.stop, e.best_price, e.bar_at, stops.operator))
    if e.rule is ExitType.OPERATOR:
        return replace(p, stops=Stops(None, None, e.best_price, e.bar_at, e.stop))
    return replace(p, stops=Stops(e.stop, stops.trail, e.best_price, e.bar_at, stops.operator))


def _policy_changed(p: Position, e: PolicyChanged) -> Position:
    return replace(p, policy=e.policy, own_policy=p.own_policy if e.own is UNSET else e.own)


def _triggered(p: Position, e: ExitTriggered) -> Position:
    keep = e.keep_qty if isinstance(e.keep_qty, Decimal) else ZERO
    leg = e.leg if isinstance(e.leg, str) else ""
    parts = p.parts
    if leg and not parts.done:
        parts = Parts(p.remaining_qty, 0, parts.orders)
    return replace(
        p,
        exit=Exit(e.reason, e.at, e.trigger_price, p.exit.budget_spent, keep, leg),
        parts=parts,
        orders=(*p.orders, _new_order(e, found=e.reason is ExitType.RECOVERED)),
        sold_elsewhere=e.sold_elsewhere,
        refusing=None,
        waiting_since=e.at,
    )


def _retried(p: Position, e: ExitRetried) -> Position:
    return replace(
        p,
        exit=replace(p.exit, budget_spent=e.budget_spent),
        orders=(*p.orders, _new_order(e, by=e.by)),
        sold_elsewhere=e.sold_elsewhere,
        waiting_since=e.at,
    )


def _new_order(e: ExitTriggered | ExitRetried, *, found: bool = False, by: str = "") -> ExitOrder:
    """An order of which the broker has said nothing."""
    return ExitOrder(
        client_order_id=e.client_order_id,
        attempt=e.attempt,
        qty=e.qty,
        order_type=e.order_type,
        time_in_force=e.time_in_force,
        limit_price=e.limit_price,
        found=found,
        ordered_by=by,
    )


def _with(p: Position, order: ExitOrder) -> tuple[ExitOrder, ...]:
    """The position's orders, with another current one; none where it has none."""
    orders = p.orders
    return (order,) if len(orders) == 1 else (*orders[:-1], order) if orders else ()


def _with_earlier(p: Position, client_order_id: str, **changes: Any) -> tuple[ExitOrder, ...]:
    """The position's orders, with what is reported of one before the current one: refused, it may work after all."""
    return tuple([replace(o, **changes) if o.client_order_id == client_order_id else o for o in p.orders])


def _fills(p: Position, e: FillsRecorded) -> Position:
    order, filled = p.order, e.filled_qty
    if e.client_order_id != order.client_order_id:
        changes: dict[str, Any] = {"filled_qty": filled, "avg_fill_price": e.avg_fill_price}
        changes |= {"corrected": True} if e.corrected else {}
        return replace(p, orders=_with_earlier(p, e.client_order_id, **changes), last_fill_at=e.at)
    # An order that was over because it was filled whole may work again when some of that is taken back.
    works = order.live or (e.corrected and order.filled_qty >= order.qty)
    live = works and filled < order.qty
    corrected = order.corrected or e.corrected
    order = replace(order, filled_qty=filled, avg_fill_price=e.avg_fill_price, live=live, corrected=corrected)
    return replace(p, orders=_with(p, order), last_fill_at=e.at, waiting_since=_waiting(p, e.at))


def _accepted(p: Position, e: OrderAccepted) -> Position:
    """The broker has it; and where it had been refused, it has it after all."""
    order, own = p.order, e.broker_order_id
    if e.client_order_id != order.client_order_id:
        earlier = _with_earlier(p, e.client_order_id, live=True, ended_how="", broker_order_id=own)
        return replace(p, orders=earlier)
    if order.live:
        order = replace(order, broker_order_id=own)
    else:
        again: dict[str, Any] = {"live": True, "ended_how": "", "next_attempt_at": None, "cancel_asked": False}
        order = replace(order, broker_order_id=own, **again)
    return replace(p, orders=_with(p, order), waiting_since=_waiting(p, e.at))


def _restated(p: Position, e: OrderRestated) -> Position:
    """One that is made as small as what it has filled works until its end is reported."""
    order = p.order
    if e.client_order_id != order.client_order_id:
        return p
    over = not order.live and order.filled_qty < order.qty
    live = not over and (e.qty > order.filled_qty or (order.live and e.qty == order.filled_qty))
    return replace(p, orders=_with(p, replace(order, qty=e.qty, restated=True, live=live)), waiting_since=e.at)


def _cancel_requested(p: Position, e: CancelRequested) -> Position:
    """Of an earlier order that works again the cancel is owed without being noted."""
    if e.client_order_id != p.order.client_order_id:
        return p
    return replace(p, orders=_with(p, replace(p.order, cancel_asked=True)), waiting_since=e.at)


def _cancel_refused(p: Position, e: CancelRefused) -> Position:
    refused = p.order.cancels_refused + 1
    order = replace(p.order, cancel_asked=False, escalated=False, cancels_refused=refused)
    return replace(p, orders=_with(p, order), waiting_since=e.at)


def _escalated(p: Position, e: ExitEscalated) -> Position:
    return replace(p, orders=_with(p, replace(p.order, cancel_asked=True, escalated=True)), waiting_since=e.at)


def _ended(p: Position, e: OrderEnded) -> Position:
    order = p.order
    if e.client_order_id != order.client_order_id:
        return replace(p, orders=_with_earlier(p, e.client_order_id, live=False, ended_how=e.how))
    order = replace(
        order,
        filled_qty=max(order.filled_qty, e.filled_qty),
        corrected=order.corrected or e.corrected is True,
        live=False,
        ended_how=e.how,
        refusal=e.refusal,
        said=e.text,
        passing=e.passing is True,
        next_attempt_at=e.next_attempt_at,
    )
    return replace(p, orders=_with(p, order), waiting_since=e.at)


def _postponed(p: Position, e: ExitPostponed) -> Position:
    """The order is as it was: it is to be sent, and the broker has nothing of it."""
    if e.client_order_id != p.order.client_order_id:
        return p
    order = replace(p.order, postponed=e.times, postponed_until=e.until, refusal=e.refusal, said=e.text)
    return replace(p, orders=_with(p, order), waiting_since=e.at)


def _waiting(p: Position, at: datetime) -> datetime:
    """Since when we wait, after a report dated `at`: the broker's clock may be slow, but our order came first."""
    since = p.waiting_since
    return since if since is not None and since > at else at


def _leg_completed(p: Position, e: LegCompleted) -> Position:
    """Monitored again: what is left of it, and which targets are sold. Its orders stay, for what they sold is sold."""
    gone = EXACT.subtract(EXACT.subtract(p.qty, p.sold_qty), e.remaining_qty)
    orders = _with(p, replace(p.order, live=False, refusal=None, next_attempt_at=None))
    return replace(p, exit=NO_EXIT, parts=_parts_after(p), orders=orders, sold_elsewhere=gone, waiting_since=None)


def _parts_after(p: Position) -> Parts:
    """What is sold in parts once the part under way is over, however it ended: no target is sold twice."""
    leg = p.exit.leg
    done = max(p.parts.done, int(leg)) if leg.isdecimal() else p.parts.done
    return Parts(p.parts.base_qty, done, len(p.orders))


def _leg_widened(p: Position, e: LegWidened) -> Position:
    price = e.price if e.price is not None else p.exit.trigger_price
    return replace(p, exit=replace(p.exit, reason=e.reason, trigger_price=price, keep_qty=ZERO))


def _protection_lost(p: Position, e: ProtectionLost) -> Position:
    """A part that was under way is over: whatever follows is of everything."""
    if not p.exit.leg:
        return replace(p, waiting_since=None)
    return replace(p, waiting_since=None, exit=replace(p.exit, keep_qty=ZERO, leg=""), parts=_parts_after(p))


def _completed(p: Position, e: ExitCompleted) -> Position:
    return _at_end(p, e.filled_at, e.cooldown_until)


def _closed_elsewhere(p: Position, e: PositionClosedElsewhere) -> Position:
    return _at_end(p, e.at, e.cooldown_until)


def _at_end(p: Position, at: datetime, cooldown_until: datetime) -> Position:
    orders = _with(p, replace(p.order, live=False)) if p.order_live else p.orders
    return replace(p, orders=orders, ended_at=at, cooldown_until=cooldown_until)


def _released(p: Position, e: PositionReleased) -> Position:
    """Nothing of the exit outlasts it; its orders stay, for what they sold is sold."""
    return replace(
        p,
        qty=EXACT.add(e.qty, p.sold_qty),
        entry_price=e.entry_price,
        exit=NO_EXIT,
        orders=_with(p, replace(p.order, escalated=False, refusal="", next_attempt_at=None)),
        sold_elsewhere=ZERO,
        waiting_since=None,
    )


def _rescaled(p: Position, e: UnitChanged) -> Position:
    """What is left is restated; what our orders have sold stays in its unit, and so does what others have."""
    stops, factor = p.stops, e.factor
    return replace(
        p,
        qty=EXACT.add(EXACT.add(e.qty, p.sold_qty), p.sold_elsewhere),
        entry_price=e.entry_price,
        policy=rescaled(p.policy, factor),
        atr=_scaled(p.atr, factor),
        parts=_rescaled_parts(p.parts, factor),
        stops=Stops(
            _scaled(stops.break_even, factor),
            _scaled(stops.trail, factor),
            _scaled(stops.best_price, factor),
            stops.moved_at,
            _scaled(stops.operator, factor),
        ),
    )


def _rescaled_parts(parts: Parts, factor: Decimal) -> Parts:
    base = parts.base_qty
    return parts if base is None else Parts(significant(EXACT.multiply(base, factor)), parts.done, parts.orders)


def _withdrawn(p: Position, e: ExitWithdrawn) -> Position:
    """As if it had not been triggered: its order is taken off, so that the next one has its number."""
    return replace(p, orders=p.orders[:-1], exit=NO_EXIT, waiting_since=None)


def _alarm(p: Position, e: AlarmRaised) -> Position:
    return replace(p, alarms=(*p.alarms, Alarm(alarm_id=e.alarm_id, kind=e.kind, text=e.text, raised_at=e.at)))


_CHANGES: dict[type[Event], Callable[[Position, Any], Position]] = {
    PositionResized: _resized,
    PolicyChanged: _policy_changed,
    StopMoved: _stop_moved,
    TriggerRefused: lambda p, e: replace(p, refusing=e.reason),
    RefusalEnded: lambda p, e: replace(p, refusing=None),
    ExitTriggered: _triggered,
    OrderAccepted: _accepted,
    FillsRecorded: _fills,
    OrderRestated: _restated,
    CancelRequested: _cancel_requested,
    CancelRefused: _cancel_refused,
    ExitEscalated: _escalated,
    OrderEnded: _ended,
    ExitPostponed: _postponed,
    ExitRetried: _retried,
    LegCompleted: _leg_completed,
    LegWidened: _leg_widened,
    ExitCompleted: _completed,
    PositionClosedElsewhere: _closed_elsewhere,
    ProtectionLost: _protection_lost,
    PositionReleased: _released,
    UnitChanged: _rescaled,
    ExitWithdrawn: _withdrawn,
    AlarmRaised: _alarm,
    AlarmAcknowledged: lambda p, e: replace(p, alarms=tuple(a for a in p.alarms if a.alarm_id != e.alarm_id)),
    PositionOpened: lambda p, e: p,  # it is open already
}
#: event class -> what it makes of a position, and state before -> state after, of the lifecycle's rows.
_FOLD: dict[type[Event], tuple[Callable[[Position, Any], Position], dict[State | None, State]]] = {
    kind: (change, {source: target for (source, event), target in LOOKUP.items() if event is kind})
    for kind, change in _CHANGES.items()
}
