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
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
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
)
from exitfsm.lifecycle import LOOKUP, NOTHING, State
from exitfsm.policy import is_jump
from exitfsm.position.order import NO_ORDER, ExitOrder
from exitfsm.position.state import NO_EXIT, Exit, Position, Stops, position_id
from exitfsm.values import EXACT, ZERO, Alarm, ExitType

#: An average entry that moved by more than this did not move by trading a little more: the share itself changed.
SPLIT_RATIO = Decimal("1.3")

#: Fields and their new values.
_Values = dict[str, Any]
#: What an event changes: of the position, and of its current order.
_Changes = tuple[_Values, _Values]
_NONE: _Values = {}
_OVER: _Values = {"live": False}


def evolve(position: Position | None, event: Event) -> Position:
    """`position` after `event`. Never fails on an event that was appended once.

    An event that the lifecycle does not allow leaves the state as it is and changes the figures only: refusing it is
    the business of append and verify, and a log must stay readable. Only a stream that does not start with
    `PositionOpened` cannot be folded.

    Raises:
        IllegalTransition: the first event is not `PositionOpened`.
    """
    if position is None:
        if not isinstance(event, PositionOpened):
            raise IllegalTransition(NOTHING, type(event).__name__)
        return _opened(event)
    change, targets = _FOLD[type(event)]
    orders = position.orders
    order = orders[-1] if orders else NO_ORDER
    changes, of_order = change(position, order, event)
    p = replace(position)
    for field, value in changes.items():
        force_setattr(p, field, value)
    if of_order and orders:
        force_setattr(p, "orders", (*orders[:-1], replace(order, **of_order)))
    target = targets.get(position.state)
    if target is not None:
        force_setattr(p, "state", target)
    force_setattr(p, "version", position.version + 1)
    return p


def fold(position: Position | None, events: Iterable[Event]) -> Position | None:
    """`position` after all `events`, each as `evolve` says; `position` itself stays as it is.

    Raises:
        IllegalTransition: the first event is not `PositionOpened`.
    """
    events = iter(events)
    first = next(events, None)
    if first is None:
        return position
    # From here on the position is changed in place: nobody else has it yet, and copies would take twice the time. So it
    # is with its orders, but for the last of those that it begins with: `position` may have that, too.
    p = evolve(position, first)
    version, shared = p.version, len(p.orders)
    for event in events:
        version += 1
        change, targets = _FOLD[type(event)]
        orders = p.orders
        order = orders[-1] if orders else NO_ORDER
        changes, of_order = change(p, order, event)
        for field, value in changes.items():
            force_setattr(p, field, value)
        if of_order and orders:
            if len(orders) == shared:
                order, shared = replace(order), 0
                force_setattr(p, "orders", (*orders[:-1], order))
            for field, value in of_order.items():
                force_setattr(order, field, value)
        target = targets.get(p.state)
        if target is not None:
            force_setattr(p, "state", target)
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


def _opened(event: PositionOpened) -> Position:
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
        atr=event.atr,
        strategy_name=event.strategy_name,
        source=event.source,
        id_form=sys.intern(event.form),
    )


def _resized(p: Position, order: ExitOrder, e: PositionResized) -> _Changes:
    """New figures. A stop that had moved stays, for it never loosens; only a split leaves it without a meaning."""
    changes: _Values = {"qty": EXACT.add(e.qty, p.sold_qty), "entry_price": e.entry_price}
    if is_jump(e.entry_price, p.entry_price, SPLIT_RATIO):
        changes["stops"] = Stops(moved_at=p.stops.moved_at)
    return changes, _NONE


def _stop_moved(p: Position, order: ExitOrder, e: StopMoved) -> _Changes:
    stops = p.stops
    if e.rule is ExitType.TRAILING_STOP:
        return {"stops": Stops(stops.break_even, e.stop, e.best_price, e.bar_at)}, _NONE
    return {"stops": Stops(e.stop, stops.trail, e.best_price, e.bar_at)}, _NONE


def _triggered(p: Position, order: ExitOrder, e: ExitTriggered) -> _Changes:
    return {
        "exit": Exit(e.reason, e.at, e.trigger_price, p.exit.budget_spent),
        "orders": (*p.orders, _new_order(e, found=e.reason is ExitType.RECOVERED)),
        "sold_elsewhere": e.sold_elsewhere,
        "refusing": None,
        "waiting_since": e.at,
    }, _NONE


def _retried(p: Position, order: ExitOrder, e: ExitRetried) -> _Changes:
    return {
        "exit": Exit(p.exit.reason, p.exit.triggered_at, p.exit.trigger_price, e.budget_spent),
        "orders": (*p.orders, _new_order(e, by=e.by)),
        "sold_elsewhere": e.sold_elsewhere,
        "waiting_since": e.at,
    }, _NONE


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


def _fills(p: Position, order: ExitOrder, e: FillsRecorded) -> _Changes:
    if e.client_order_id != order.client_order_id:
        return {**_told_of_earlier(p, e), "last_fill_at": e.at}, _NONE
    # An order that was over because it was filled whole may work again when some of that is taken back.
    works = order.live or (e.corrected and order.filled_qty >= order.qty)
    of_order: _Values = {
        "filled_qty": e.filled_qty,
        "avg_fill_price": e.avg_fill_price,
        "live": works and e.filled_qty < order.qty,
    }
    if e.corrected:
        of_order["corrected"] = True
    return {"last_fill_at": e.at, "waiting_since": _waiting(p, e.at)}, of_order


def _accepted(p: Position, order: ExitOrder, e: OrderAccepted) -> _Changes:
    """The broker has it; and where it had been refused, it has it after all."""
    if e.client_order_id != order.client_order_id:
        return _told_of_earlier(p, e), _NONE
    of_order: _Values = {"broker_order_id": e.broker_order_id}
    if not order.live:
        of_order |= {"live": True, "ended_how": "", "next_attempt_at": None, "cancel_asked": False}
    return {"waiting_since": _waiting(p, e.at)}, of_order


def _restated(p: Position, order: ExitOrder, e: OrderRestated) -> _Changes:
    """One that is made as small as what it has filled works until its end is reported."""
    if e.client_order_id != order.client_order_id:
        return _NONE, _NONE
    over = not order.live and order.filled_qty < order.qty
    live = not over and (e.qty > order.filled_qty or (order.live and e.qty == order.filled_qty))
    return {"waiting_since": e.at}, {"qty": e.qty, "restated": True, "live": live}


def _cancel_requested(p: Position, order: ExitOrder, e: CancelRequested) -> _Changes:
    """Of an earlier order that works again the cancel is owed without being noted."""
    if e.client_order_id != order.client_order_id:
        return _NONE, _NONE
    return {"waiting_since": e.at}, {"cancel_asked": True}


def _cancel_refused(p: Position, order: ExitOrder, e: CancelRefused) -> _Changes:
    return {"waiting_since": e.at}, {
        "cancel_asked": False,
        "escalated": False,
        "cancels_refused": order.cancels_refused + 1,
    }


def _ended(p: Position, order: ExitOrder, e: OrderEnded) -> _Changes:
    if e.client_order_id != order.client_order_id:
        return _told_of_earlier(p, e), _NONE
    return {"waiting_since": e.at}, {
        "filled_qty": max(order.filled_qty, e.filled_qty),
        "live": False,
        "ended_how": e.how,
        "refusal": e.refusal,
        "next_attempt_at": e.next_attempt_at,
    }


def _told_of_earlier(p: Position, e: FillsRecorded | OrderAccepted | OrderEnded) -> _Values:
    """The orders, with what is told of one before the current one. One that was refused may turn out to work."""
    values: _Values
    if isinstance(e, FillsRecorded):
        values = {"filled_qty": e.filled_qty, "avg_fill_price": e.avg_fill_price}
        values |= {"corrected": True} if e.corrected else {}
    elif isinstance(e, OrderAccepted):
        values = {"live": True, "ended_how": "", "broker_order_id": e.broker_order_id}
    else:
        values = {"live": False, "ended_how": e.how}
    return {"orders": tuple([replace(o, **values) if o.client_order_id == e.client_order_id else o for o in p.orders])}


def _waiting(p: Position, at: datetime) -> datetime:
    """Since when we wait, after news that the broker dates `at`: its clock may be slow, but our order came first."""
    since = p.waiting_since
    return since if since is not None and since > at else at


def _completed(p: Position, order: ExitOrder, e: ExitCompleted) -> _Changes:
    return {"ended_at": e.filled_at, "cooldown_until": e.cooldown_until}, _OVER if order.live else _NONE


def _closed_elsewhere(p: Position, order: ExitOrder, e: PositionClosedElsewhere) -> _Changes:
    return {"ended_at": e.at, "cooldown_until": e.cooldown_until}, _OVER if order.live else _NONE


def _released(p: Position, order: ExitOrder, e: PositionReleased) -> _Changes:
    """Nothing of the exit outlasts it; its orders stay, for what they sold is sold."""
    return {
        "qty": EXACT.add(e.qty, p.sold_qty),
        "entry_price": e.entry_price,
        "exit": NO_EXIT,
        "sold_elsewhere": ZERO,
        "waiting_since": None,
    }, {"escalated": False, "refusal": "", "next_attempt_at": None}


def _alarm(p: Position, order: ExitOrder, e: AlarmRaised) -> _Changes:
    alarm = Alarm(alarm_id=e.alarm_id, kind=e.kind, text=e.text, raised_at=e.at)
    return {"alarms": (*p.alarms, alarm)}, _NONE


_CHANGES: dict[type[Event], Callable[[Position, ExitOrder, Any], _Changes]] = {
    PositionResized: _resized,
    PolicyChanged: lambda p, order, e: ({"policy": e.policy}, _NONE),
    StopMoved: _stop_moved,
    TriggerRefused: lambda p, order, e: ({"refusing": e.reason}, _NONE),
    RefusalEnded: lambda p, order, e: ({"refusing": None}, _NONE),
    ExitTriggered: _triggered,
    OrderAccepted: _accepted,
    FillsRecorded: _fills,
    OrderRestated: _restated,
    CancelRequested: _cancel_requested,
    CancelRefused: _cancel_refused,
    ExitEscalated: lambda p, order, e: ({"waiting_since": e.at}, {"cancel_asked": True, "escalated": True}),
    OrderEnded: _ended,
    ExitRetried: _retried,
    ExitCompleted: _completed,
    PositionClosedElsewhere: _closed_elsewhere,
    ProtectionLost: lambda p, order, e: ({"waiting_since": None}, _NONE),
    PositionReleased: _released,
    AlarmRaised: _alarm,
    AlarmAcknowledged: lambda p, order, e: ({"alarms": tuple(a for a in p.alarms if a.alarm_id != e.alarm_id)}, _NONE),
    PositionOpened: lambda p, order, e: (_NONE, _NONE),  # it is open already
}
#: event class -> what it changes, and state before -> state after, of the lifecycle's rows.
_FOLD: dict[type[Event], tuple[Callable[[Position, ExitOrder, Any], _Changes], dict[State | None, State]]] = {
    kind: (changes, {source: target for (source, event), target in LOOKUP.items() if event is kind})
    for kind, changes in _CHANGES.items()
}
