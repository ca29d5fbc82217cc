"""The life of a position, from its log: its entry, what changed its size, and each decision with its orders.

Rules of this room: everything as it was *then*. A later split, top-up or release changes nothing of what stood before.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec

from exitfsm.audit.facts import ChangeFact, EntryFact, ExitFact, OrderFact, OvertakenFact
from exitfsm.audit.trail import Step
from exitfsm.events import (
    CancelRequested,
    ExitEscalated,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PositionOpened,
    PositionReleased,
    PositionResized,
    UnitChanged,
)
from exitfsm.position import levels
from exitfsm.profit import Change, change_of
from exitfsm.values import ExitType


def entry_of(told: Sequence[Step]) -> EntryFact:
    """What it was entered at, then."""
    e = told[0].recorded.event
    assert isinstance(e, PositionOpened)
    return EntryFact(qty=e.qty, price=e.entry_price, at=e.opened_at)


def changes_of(told: Sequence[Step]) -> list[ChangeFact]:
    """Every change of its size or its average entry while it was watched, and every release."""
    found = []
    for s in told:
        e, before = s.recorded.event, s.before
        if before is None or not isinstance(e, PositionResized | PositionReleased | UnitChanged):
            continue
        found.append(
            ChangeFact(
                event=s.version,
                at=e.at,
                kind=change_of(before, e),
                qty_before=before.remaining_qty,
                entry_price_before=before.entry_price,
                qty=e.qty,
                entry_price=e.entry_price,
                by=e.by if isinstance(e, PositionReleased) else "",
            )
        )
    return found


def last_split(told: Sequence[Step]) -> Step | None:
    """The newest split: prices of before it are in other units."""
    for s in reversed(told):
        e, before = s.recorded.event, s.before
        if before is None or not isinstance(e, PositionResized | UnitChanged):
            continue
        if change_of(before, e) is Change.SPLIT:
            return s
    return None


def decisions_of(told: Sequence[Step]) -> list[Step]:
    """Every decision to exit; each but the last was given up by a release."""
    return [s for s in told if isinstance(s.recorded.event, ExitTriggered)]


def exit_fact(trigger: Step, bar: dict[str, str] | None) -> ExitFact:
    """One decision and its evidence."""
    e = trigger.recorded.event
    assert isinstance(e, ExitTriggered)
    return ExitFact(
        event=trigger.version,
        reason=e.reason,
        at=e.at,
        by=trigger.recorded.by,
        bar_at=e.bar_at,
        trigger_price=e.trigger_price,
        level=e.level,
        threshold_pct=e.threshold_pct,
        best_price=e.best_price,
        detail=e.detail,
        bar=bar,
        level_set_by_event=trigger.cause,
        part=e.leg if isinstance(e.leg, str) else "",
        keep_qty=e.keep_qty if isinstance(e.keep_qty, Decimal) else None,
    )


def overtaken_of(told: Sequence[Step]) -> list[OvertakenFact]:
    """Every limit that was given up, and for what: with the level that was reached, where a rule overtook it."""
    return [fact for s in told if (fact := _overtaken(s)) is not None]


def _overtaken(s: Step) -> OvertakenFact | None:
    e, p = s.recorded.event, s.before
    if not isinstance(e, ExitEscalated) or p is None:
        return None
    level = None
    if e.why in _RULES and e.price is not None:
        reached = [one for one in levels(p, e.at)[1] if (e.price - one.price) * p.side.sign <= 0]
        level = next((one for one in reached if str(one.rule) == e.why), None)
    return OvertakenFact(
        event=s.version,
        at=e.at,
        client_order_id=e.client_order_id,
        why=e.why,
        price=e.price,
        level=level.price if level is not None else None,
        threshold_pct=level.threshold_pct if level is not None else None,
    )


_RULES = frozenset(str(rule) for rule in ExitType)


def orders_of(told: Sequence[Step]) -> list[OrderFact]:
    """Every exit order in the order of its intent, each with the decision that it belongs to."""
    found: dict[str, OrderFact] = {}
    decision = 0
    for s in told:
        e = s.recorded.event
        if isinstance(e, ExitTriggered):
            decision = s.version
        if isinstance(e, ExitTriggered | ExitRetried):
            found[e.client_order_id] = OrderFact(
                event=s.version,
                decision=decision,
                client_order_id=e.client_order_id,
                attempt=e.attempt,
                qty=e.qty,
                order_type=e.order_type,
                time_in_force=e.time_in_force,
                limit_price=e.limit_price,
                at=e.at,
                by=s.recorded.by,
            )
            continue
        order = found.get(getattr(e, "client_order_id", ""))
        if isinstance(e, ExitWithdrawn):
            found.pop(e.client_order_id, None)
        elif order is not None:
            found[order.client_order_id] = msgspec.structs.replace(order, **_said_of(e))
    return list(found.values())


def _said_of(e: Any) -> dict[str, Any]:
    """What an event says of its order."""
    match e:
        case OrderAccepted():
            return {"accepted_at": e.at, "broker_order_id": e.broker_order_id}
        case FillsRecorded():
            return {"filled_qty": e.filled_qty, "avg_fill_price": e.avg_fill_price, "filled_at": e.at}
        case OrderRestated():
            return {"qty": e.qty}
        case CancelRequested() | ExitEscalated():
            return {"cancel_asked": e.why}
        case OrderEnded():
            return {
                "ended_how": e.how,
                "ended_at": e.at,
                "refusal": e.refusal,
                "text": e.text,
                "next_attempt_at": e.next_attempt_at,
            }
    return {}
