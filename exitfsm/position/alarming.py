"""What many decisions end with: an alarm, the loss of protection, the cancel of a live order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
    PositionReleased,
    ProtectionLost,
)
from exitfsm.kinds import AlarmKind, PositionEnd
from exitfsm.position.state import Position

#: Nothing is held any more.
_GONE: tuple[type[Event], ...] = (ExitCompleted, PositionClosedElsewhere)
_ORDER_OVER: tuple[type[Event], ...] = (OrderEnded, *_GONE)
#: What an alarm is over by: any of these events, of the position that it is about. `kinds.ENDS_WHEN` says it in words.
ENDED_BY: dict[str, tuple[type[Event], ...]] = {
    AlarmKind.NOT_DONE: (ExitTriggered, ExitRetried, PositionReleased, *_GONE),
    AlarmKind.ORDER_NOT_FOUND: (OrderAccepted, FillsRecorded, ExitRetried, *_ORDER_OVER),
    AlarmKind.SUBMIT_UNRESOLVED: (OrderAccepted, *_ORDER_OVER),
    AlarmKind.CANCEL_UNRESOLVED: (CancelRefused, *_ORDER_OVER),
    AlarmKind.ORDER_STALLED: (FillsRecorded, *_ORDER_OVER),
    AlarmKind.RETRY_STALLED: (ExitRetried, PositionReleased, *_GONE),
    AlarmKind.ENDED_ORDER_WORKS: (ExitRetried, OrderAccepted, *_GONE),
    AlarmKind.FILLED_WITHOUT_QUANTITY: (FillsRecorded, *_ORDER_OVER),
    AlarmKind.CANCEL_REFUSED: _ORDER_OVER,
    AlarmKind.VALUE_TOO_SMALL: (OrderAccepted, *_GONE),
    AlarmKind.FOREIGN_ORDER: _GONE,
    AlarmKind.BLOCKED_BY_ORDER: (OrderAccepted, *_GONE),
    AlarmKind.ORDER_INACTIVE: (FillsRecorded, *_ORDER_OVER),
    AlarmKind.EXIT_POSTPONED: _GONE,
    AlarmKind.PRICE_JUMP: _GONE,
    AlarmKind.FEED_UNUSABLE: _GONE,
    AlarmKind.FEED_SILENT: _GONE,
    AlarmKind.NO_PRICE: _GONE,
}
#: Alarms that are over once a bar is believed.
ENDED_BY_A_BAR = frozenset({
    AlarmKind.PRICE_JUMP, AlarmKind.FEED_UNUSABLE, AlarmKind.FEED_SILENT, AlarmKind.NO_PRICE
})  # fmt: skip


def awaits_a_bar(p: Position) -> bool:
    """True where an alarm is over with the next bar that is believed, so that no bar is quiet."""
    return any(a.kind in ENDED_BY_A_BAR for a in p.alarms)


def with_ends(p: Position, events: Sequence[Event], at: datetime) -> list[Event]:
    """Events with the ends of active alarms whose cause is over by them, before the one by which nothing is held.

    A position that was given up with an order without a record keeps its alarms: that is for a person to look at.
    """
    if any(isinstance(e, PositionClosedElsewhere) and e.how == PositionEnd.UNRESOLVED for e in events):
        return [*events]
    taken_down = {e.alarm_id for e in events if isinstance(e, AlarmAcknowledged)}
    found: list[Event] = []
    for a in p.alarms:
        by = next((e for e in events if isinstance(e, ENDED_BY.get(a.kind, ()))), None)
        if by is not None and a.alarm_id not in taken_down:
            found.append(AlarmAcknowledged(alarm_id=a.alarm_id, by=BY_ITSELF, at=at, why=_WHY[type(by)]))
    gone = next((i for i, e in enumerate(events) if isinstance(e, _GONE)), len(events))
    return [*events[:gone], *found, *events[gone:]]


#: Who takes down an alarm that is over.
BY_ITSELF = "exitfsm"
_WHY: dict[type[Event], str] = {
    ExitTriggered: "an exit has begun",
    ExitRetried: "the next order follows",
    PositionReleased: "the position is released",
    OrderAccepted: "the broker has the order",
    CancelRefused: "the broker refused the cancel",
    FillsRecorded: "the order fills",
    OrderEnded: "the order has ended",
    ExitCompleted: "nothing is held any more",
    PositionClosedElsewhere: "nothing is held any more",
}


def alarm(p: Position, kind: str, text: str, at: datetime, *, after: Sequence[Event] = ()) -> list[Event]:
    """An alarm, unless one of its kind stands already. `after` are the events that precede it in the same commit."""
    if any(a.kind == kind for a in p.alarms):
        return []
    alarm_id = f"{p.position_id}/{kind}/{p.version + len(after) + 1}"
    return [AlarmRaised(alarm_id=alarm_id, kind=kind, text=text, at=at)]


def ended(p: Position, kind: str, why: str, at: datetime) -> list[Event]:
    """The end of an alarm that solved itself; none where none of its kind is active."""
    return [AlarmAcknowledged(alarm_id=a.alarm_id, by=BY_ITSELF, at=at, why=why) for a in p.alarms if a.kind == kind]


def lost(
    p: Position, why: str, at: datetime, *, facts: Sequence[Event] = (), after: Sequence[Event] = ()
) -> list[Event]:
    """The position becomes `unprotected`, and a person is told: the whole of it, in the order in which it is recorded.

    Args:
        p: the position.
        why: what a person is told.
        at: when.
        facts: what came with the same news; it stands between the loss and its alarm.
        after: the events of the same commit that the alarm's id counts.
    """
    raised = AlarmRaised(
        alarm_id=f"{p.position_id}/{AlarmKind.PROTECTION_LOST}/{p.version + len(after) + 2}",
        kind=AlarmKind.PROTECTION_LOST,
        text=why,
        at=at,
    )
    return [ProtectionLost(why=why, at=at), *facts, raised]


def cancel(p: Position, at: datetime, why: str) -> list[Event]:
    """End the current order where it may be live."""
    order = p.order
    return [CancelRequested(client_order_id=order.client_order_id, at=at, why=why)] if order.live else []
