"""What a bar means: it is refused, it ends the position, or the stops follow it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from exitfsm.events import Event, RefusalEnded, StopMoved, TriggerRefused
from exitfsm.kinds import AlarmKind, BarRefusal
from exitfsm.lifecycle import State
from exitfsm.messages import BarSeen
from exitfsm.policy import BEFORE_ENTRY, ORDER_FAULTS, PRICE_FAULTS, Fault, bar_fault, is_ahead
from exitfsm.ports import Capabilities
from exitfsm.position.alarming import ENDED_BY_A_BAR, alarm, ended
from exitfsm.position.attempting import escalated, rests, trigger
from exitfsm.position.evaluating import Verdict, evaluate, next_stops
from exitfsm.position.looks import at_its_close
from exitfsm.position.parting import Part, part_of, widened
from exitfsm.position.state import Position
from exitfsm.values import ZERO, Bar, EvaluateOn, plain

#: A run of this many refused bars is an alarm: without prices there is no protection.
REFUSED_BARS_ALARM = 10


def on_bar(p: Position, m: BarSeen, broker: Capabilities) -> list[Event]:
    """Refuse the bar, or test the levels, then let the stops follow."""
    fault = fault_of(p, m)
    if p.state is not State.MONITORING:
        if fault is None:
            return escalate_on_stop(p, m)
        return jump_alarm(p, m, fault, ()) if fault.reason == "price_jump" and p.state.exiting else []
    bar = counted(p, m)
    if bar is None and fault is None:
        if not is_ahead(p.opened_at, m.received_at, p.policy.price_guard):
            return []
        fault = Fault(BEFORE_ENTRY, plain(m.bar.close))
    verdict, part = _verdict(p, m, bar, broker) if bar and not fault else (None, None)
    if verdict is not None and (m.paused or not p.policy.enabled):
        fault = Fault(BarRefusal.PAUSED if m.paused else BarRefusal.DISABLED, plain(verdict.price))
    if fault is not None or bar is None:
        return refuse(p, m, fault) if fault is not None else []
    events: list[Event] = []
    if verdict is not None or p.refusing not in ORDER_FAULTS:
        events += end_refusals(p, m.bar.timestamp, m.refused_count)
    if p.alarms and m.received_at is not None:
        events += [e for kind in ENDED_BY_A_BAR for e in ended(p, kind, "a bar is believed again", m.at)]
    if verdict is not None:
        return [*events, trigger(p, verdict, m.at, broker, bar_at=m.bar.timestamp, part=part)]
    events += [
        StopMoved(rule=rule, stop=stop, best_price=best, bar_at=m.bar.timestamp)
        for rule, stop, best in next_stops(p, bar)
    ]
    return events


def _verdict(p: Position, m: BarSeen, bar: Bar, broker: Capabilities) -> tuple[Verdict | None, Part | None]:
    """What the bar decides, and of which part; nothing where the venue takes nothing of it: it leaves with the next."""
    verdict = evaluate(p, bar, session_close=m.session_close, custom=_custom(p, m), folded=m.folded)
    part = part_of(p, verdict, broker) if verdict is not None else None
    return (verdict, part) if part is None or part.qty else (None, None)


def _custom(p: Position, m: BarSeen, counts: bool = True) -> str | None:
    return custom_of(p, m) if counts and m.verdict is not None else None


def counted(p: Position, m: BarSeen) -> Bar | None:
    """What of a bar counts for a position: all of it after the entry; None where that is nothing.

    Of the bar in which the entry fell only the closes of later looks count, received after it.
    """
    if m.bar.timestamp > p.opened_at:
        return m.bar
    came_after = m.is_look and m.received_at is not None and m.received_at > p.opened_at
    had_ended = m.length is not None and m.bar.timestamp + m.length <= p.opened_at
    return at_its_close(m.bar) if came_after and not had_ended else None


def custom_of(p: Position, m: BarSeen) -> str:
    """What one of the user's own rules answered to the bar, with its name."""
    name = m.verdict_of or next(map(str, p.policy.plan.user_rules), "a rule")
    return f"{name}: {m.verdict}"


def fault_of(p: Position, m: BarSeen) -> Fault | None:
    """Why the bar is not believed; a confirmed price is held to everything but the jump guard."""
    fault = bar_fault(
        m.bar,
        p.policy.price_guard,
        reference=None if m.confirmed else m.reference_price,
        previous_at=m.previous_bar_at,
        received_at=m.received_at,
        on_range=p.policy.evaluate_on is EvaluateOn.RANGE,
        length=m.length,
    )
    if fault is None and m.shut and (p.state is State.MONITORING or p.keep_qty > 0):
        return Fault(BarRefusal.OUT_OF_SESSION, plain(m.bar.close))
    return fault


def refuse(p: Position, m: BarSeen, fault: Fault) -> list[Event]:
    """Record the start of a run of refusals, and alarm where the position stands without prices."""
    events: list[Event] = []
    if p.refusing != fault.reason:
        events += end_refusals(p, m.bar.timestamp, m.refused_count)
        events.append(
            TriggerRefused(
                reason=fault.reason, bar_at=m.bar.timestamp, price=fault.price, reference_price=m.reference_price
            )
        )
    if fault.reason == "price_jump":
        events += jump_alarm(p, m, fault, events)
    elif fault.reason == BEFORE_ENTRY:
        text = f"bars of {p.symbol} are dated before its entry at {p.opened_at.isoformat()}: a clock is wrong"
        events += alarm(p, AlarmKind.FEED_UNUSABLE, f"{text}, and there is no price to watch", m.at, after=events)
    elif fault.reason in PRICE_FAULTS and p.refusing == fault.reason and m.refused_count + 1 >= REFUSED_BARS_ALARM:
        text = f"{m.refused_count + 1} bars of {p.symbol} in a row were refused ({fault.reason}): no price to watch"
        events += alarm(p, AlarmKind.FEED_UNUSABLE, text, m.at, after=events)
    return events


def jump_alarm(p: Position, m: BarSeen, fault: Fault, after: Sequence[Event]) -> list[Event]:
    """A price that cannot be true is a case for a person, also while an exit is under way."""
    ratio, reference = plain(p.policy.price_guard.max_jump_ratio), plain(m.reference_price or ZERO)
    text = (
        f"{p.symbol} at {fault.price} is more than {ratio} times away from {reference}; "
        "nothing is decided on it: a split, or a real crash?"
    )
    return alarm(p, AlarmKind.PRICE_JUMP, text, m.at, after=after)


def escalate_on_stop(p: Position, m: BarSeen) -> list[Event]:
    """A resting profit limit gives way at once to the stop, and to the time; a part is widened by them."""
    is_part = p.keep_qty > 0 and p.policy.enabled and not m.paused
    if not (is_part or rests(p)):
        return []
    verdict = evaluate(p, m.bar, session_close=m.session_close, custom=_custom(p, m, is_part), folded=m.folded)
    if verdict is None or verdict.reason.takes_profit:
        return []
    events = widened(p, verdict.reason, m.at, verdict.price, verdict.detail) if is_part else []
    return [*events, escalated(p, m.at, str(verdict.reason), verdict.price)] if rests(p) else events


def end_refusals(p: Position, at: datetime, count: int = 1) -> list[Event]:
    """The run of refused prices that is under way, if there is one, is over."""
    return [RefusalEnded(reason=p.refusing, count=max(count, 1), bar_at=at)] if p.refusing is not None else []
