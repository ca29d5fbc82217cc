"""What many decisions end with: an alarm, the loss of protection, the cancel of a live order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from exitfsm.events import AlarmAcknowledged, AlarmRaised, CancelRequested, Event, ProtectionLost
from exitfsm.kinds import AlarmKind
from exitfsm.position.state import Position


def alarm(p: Position, kind: str, text: str, at: datetime, *, after: Sequence[Event] = ()) -> list[Event]:
    """An alarm, unless one of its kind stands already. `after` are the events that precede it in the same commit."""
    if any(a.kind == kind for a in p.alarms):
        return []
    alarm_id = f"{p.position_id}/{kind}/{p.version + len(after) + 1}"
    return [AlarmRaised(alarm_id=alarm_id, kind=kind, text=text, at=at)]


def ended(p: Position, kind: str, why: str, at: datetime) -> list[Event]:
    """The end of an alarm that solved itself; none where none of its kind is active."""
    by = "exitfsm"
    return [AlarmAcknowledged(alarm_id=a.alarm_id, by=by, at=at, why=why) for a in p.alarms if a.kind == kind]


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
