"""`decide`: what a message means for a position, as events or as nothing.

One handler for each message; the facts of a broker report are weighed in `reporting`. Nothing here raises for what a
market or a broker does: it is recorded, or it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

from exitfsm.events import (
    AlarmAcknowledged,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitRetried,
    ExitTriggered,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
)
from exitfsm.lifecycle import State
from exitfsm.messages import (
    Acknowledge,
    BarSeen,
    ChangePolicy,
    Contradiction,
    ForceExit,
    GiveWay,
    Known,
    Message,
    Open,
    PositionRead,
    RaiseAlarm,
    RecordRead,
    Recover,
    Release,
    Report,
    TimeSeen,
)
from exitfsm.policy import BEFORE_ENTRY, ORDER_FAULTS, PRICE_FAULTS, Fault, bar_fault, is_ahead, typed
from exitfsm.ports import CAREFUL, Capabilities
from exitfsm.position.evaluating import Verdict, due_by_time, evaluate, next_stops
from exitfsm.position.reporting import READS_MIN, alarm, cancel, is_proved_over, lost, on_report
from exitfsm.position.state import Position, client_order_id, fold
from exitfsm.values import (
    EXACT,
    ZERO,
    EvaluateOn,
    ExitType,
    OrderType,
    TimeInForce,
    canonical_symbol,
    first_by_precedence,
    floor_to,
    plain,
    round_to_tick,
    tradable,
)

#: A run of this many refused bars is an alarm: without prices there is no protection.
REFUSED_BARS_ALARM = 10


def decide(position: Position | None, message: Message, broker: Capabilities = CAREFUL) -> tuple[Event, ...]:
    """The events that `message` means for `position`; empty when it means nothing.

    Args:
        position: the position as it stands, None before `Open`.
        message: what it is told.
        broker: what the broker can do; the most careful assumptions by default.

    Raises:
        ValueError: an `Open` that no position can be made of, or settings that are none.
    """
    if position is None:
        return open_position(message) if isinstance(message, Open) else ()
    handler = _HANDLERS.get(type(message))
    if handler is None:
        return ()
    with localcontext(EXACT):  # whatever the bot has set for its own arithmetic must not round ours
        return tuple(handler(position, message, broker))


def open_position(m: Open) -> tuple[Event, ...]:
    """The first event of a position."""
    for name, number in (("qty", m.qty), ("entry_price", m.entry_price)):
        if not (tradable(number) and number > 0):
            raise ValueError(f"cannot watch {m.symbol}: {name} is {number}, it must be a finite number above 0")
    return (
        PositionOpened(
            account=m.account,
            symbol=canonical_symbol(m.symbol),
            side=m.side,
            epoch=m.epoch,
            qty=m.qty,
            entry_price=m.entry_price,
            opened_at=m.opened_at,
            policy=typed(m.policy),
            atr=m.atr if m.atr is not None and tradable(m.atr) else None,
            strategy_name=m.strategy_name,
            source=m.source,
        ),
    )


# --- bars -------------------------------------------------------------------------------------------------------------


def on_bar(p: Position, m: BarSeen, broker: Capabilities) -> list[Event]:
    """Refuse the bar, or test the levels, then let the stops follow."""
    fault = fault_of(p, m)
    if p.state is not State.MONITORING:
        if fault is None:
            return escalate_on_stop(p, m)
        return jump_alarm(p, m, fault, ()) if fault.reason == "price_jump" and p.state.exiting else []
    if m.bar.timestamp <= p.opened_at and fault is None:
        if not is_ahead(p.opened_at, m.received_at, p.policy.price_guard):
            return []
        fault = Fault(BEFORE_ENTRY, plain(m.bar.close))
    verdict = None if fault else evaluate(p, m.bar, session_close=m.session_close, custom=m.verdict)
    if verdict is not None and (m.paused or not p.policy.enabled):
        fault = Fault("paused" if m.paused else "disabled", plain(verdict.price))
    if fault is not None:
        return refuse(p, m, fault)
    events: list[Event] = []
    if verdict is not None or p.refusing not in ORDER_FAULTS:
        events += _end_refusals(p, m.bar.timestamp, m.refused_count)
    if verdict is not None:
        return [*events, trigger(p, verdict, m.at, broker, bar_at=m.bar.timestamp)]
    events += [
        StopMoved(rule=rule, stop=stop, best_price=best, bar_at=m.bar.timestamp)
        for rule, stop, best in next_stops(p, m.bar)
    ]
    return events


def fault_of(p: Position, m: BarSeen) -> Fault | None:
    """Why the bar is not believed; a confirmed price is held to everything but the jump guard."""
    return bar_fault(
        m.bar,
        p.policy.price_guard,
        reference=None if m.confirmed else m.reference_price,
        previous_at=m.previous_bar_at,
        received_at=m.received_at,
        on_range=p.policy.evaluate_on is EvaluateOn.RANGE,
    )


def refuse(p: Position, m: BarSeen, fault: Fault) -> list[Event]:
    """Record the start of a run of refusals, and alarm where the position stands without prices."""
    events: list[Event] = []
    if p.refusing != fault.reason:
        events += _end_refusals(p, m.bar.timestamp, m.refused_count)
        events.append(
            TriggerRefused(
                reason=fault.reason, bar_at=m.bar.timestamp, price=fault.price, reference_price=m.reference_price
            )
        )
    if fault.reason == "price_jump":
        events += jump_alarm(p, m, fault, events)
    elif fault.reason == BEFORE_ENTRY:
        text = f"bars of {p.symbol} are dated before its entry at {p.opened_at.isoformat()}: a clock is wrong"
        events += alarm(p, "feed_unusable", f"{text}, and there is no price to watch", m.at, after=events)
    elif fault.reason in PRICE_FAULTS and p.refusing == fault.reason and m.refused_count + 1 >= REFUSED_BARS_ALARM:
        text = f"{m.refused_count + 1} bars of {p.symbol} in a row were refused ({fault.reason}): no price to watch"
        events += alarm(p, "feed_unusable", text, m.at, after=events)
    return events


def jump_alarm(p: Position, m: BarSeen, fault: Fault, after: Sequence[Event]) -> list[Event]:
    """A price that cannot be true is a case for a person, also while an exit is under way."""
    ratio, reference = plain(p.policy.price_guard.max_jump_ratio), plain(m.reference_price or ZERO)
    text = (
        f"{p.symbol} at {fault.price} is more than {ratio} times away from {reference}; "
        "nothing is decided on it: a split, or a real crash?"
    )
    return alarm(p, "price_jump", text, m.at, after=after)


def trigger(
    p: Position, v: Verdict, at: datetime, broker: Capabilities, bar_at: datetime | None = None
) -> ExitTriggered:
    """The decision to exit, with everything its order needs."""
    rules = broker.rules(p.symbol)
    section = p.policy.profit_taking if v.reason is ExitType.PROFIT_TAKE else p.policy.stop_loss
    wanted = p.policy.profit_taking.order_type if v.reason is ExitType.PROFIT_TAKE else OrderType.MARKET
    order_type = rules.accepted_type(wanted)
    limit = None
    if order_type is OrderType.LIMIT:
        tick = rules.tick(v.level)
        limit = round_to_tick(v.level, tick, up=p.side.sign > 0) if tick > 0 else v.level
    attempt = p.attempt + 1
    left = p.remaining_qty
    size = sellable(p, left, broker) or left  # of a mere residue the venue is to say so itself
    return ExitTriggered(
        reason=v.reason,
        client_order_id=client_order_id(p.position_id, attempt),
        attempt=attempt,
        qty=size,
        order_type=order_type,
        time_in_force=rules.accepted_time(section.time_in_force, size),
        at=at,
        trigger_price=v.price,
        level=v.level,
        threshold_pct=v.threshold_pct,
        limit_price=limit,
        bar_at=bar_at,
        best_price=p.best_price,
        detail=v.detail,
        sold_elsewhere=p.sold_elsewhere,
    )


def escalate_on_stop(p: Position, m: BarSeen) -> list[Event]:
    """A resting profit limit gives way at once to the stop, and to the time."""
    if p.state not in (State.SUBMITTED, State.PARTIAL) or p.order_type is not OrderType.LIMIT or not p.order_live:
        return []
    verdict = evaluate(p, m.bar, session_close=m.session_close)
    if verdict is None or verdict.reason is ExitType.PROFIT_TAKE:
        return []
    return [_escalated(p, m.at, str(verdict.reason), verdict.price)]


def _escalated(p: Position, at: datetime, why: str, price: Decimal | None = None) -> ExitEscalated:
    return ExitEscalated(client_order_id=p.client_order_id or "", at=at, why=why, price=price)


# --- the broker's position --------------------------------------------------------------------------------------------


def on_position_read(p: Position, m: PositionRead, broker: Capabilities) -> list[Event]:
    """What the broker's quantity proves, disproves, or leaves open."""
    if _overtaken(p, m.known) or not tradable(m.qty):
        return []
    if m.qty < 0 and not p.state.terminal and p.state is not State.UNPROTECTED:
        why = f"the broker shows {p.symbol} on the other side ({plain(m.qty)})"
        first, *alarms = lost(p, why, m.at)
        return [first, *cancel(p, m.at, why), *alarms]
    if p.state is State.MONITORING:
        return _read_while_monitoring(p, m)
    if p.order_live:
        return _read_while_working(p, m)
    if p.state.terminal or p.works_again:
        return []
    if not _is_over_by_record(p, m, broker):
        return _works_by_record(p, m)
    if p.state is State.REJECTED and p.remaining_qty > 0:
        return _read_between_attempts(p, m, broker)
    if p.remaining_qty == 0 and m.qty == 0:
        return _completed(p, m.at) if p.client_order_id else []
    if p.state is State.UNPROTECTED:
        return _elsewhere(p, m, "by_hand") if m.qty == 0 and m.reads >= READS_MIN else []
    if m.qty < p.remaining_qty and m.reads < READS_MIN:
        return []
    if p.remaining_qty > 0 and m.qty <= p.remaining_qty and sellable(p, m.qty, broker) == 0:
        return _elsewhere(p, m, "residue" if m.qty > 0 else "by_hand")
    if m.reads < READS_MIN:
        return []
    sold = plain(p.sold_qty)
    return lost(p, f"our orders sold {sold} of {plain(p.qty)} but the broker shows {plain(m.qty)} left", m.at)


def _overtaken(p: Position, known: Known | None) -> bool:
    """True when the position is another than it was when a read of the broker's books began."""
    return known is not None and known != (p.state, p.remaining_qty, p.client_order_id)


def _is_over_by_record(p: Position, m: PositionRead, broker: Capabilities) -> bool:
    """True when nothing can fill any more by the newest order, and the broker's own record of it says so.

    An update that reports an end is not enough: the record must have been read since. An order that has filled all it
    was for needs none.
    """
    if p.client_order_id is None or p.state not in (State.REJECTED, State.UNPROTECTED) or p.leaves_qty <= 0:
        return True
    record = _record(p, m)
    return record is not None and is_proved_over(p, record, p.ended_how, broker)


def _record(p: Position, m: PositionRead) -> RecordRead | None:
    """The newest order's record, where it was read after this read began."""
    record = m.record
    return record if record and record.client_order_id == p.client_order_id and record.began >= m.began else None


def _works_by_record(p: Position, m: PositionRead) -> list[Event]:
    """The end of an order was reported, and its record does not show it: wait, and tell a person."""
    record = _record(p, m)
    waits = p.state is State.REJECTED and p.next_attempt_at is not None and m.began < p.next_attempt_at
    if record is None or waits or m.reads < READS_MIN:
        return []
    text = f"the end of order {p.client_order_id} ({p.ended_how}) was reported, and "
    if record.report is None:
        why = "the broker does not show it: nothing is sent before its record does"
        return alarm(p, "order_not_found", text + why, m.at) if record.times >= READS_MIN else []
    why = "its record shows it working: nothing is sent before the record shows its end"
    return alarm(p, "ended_order_works", text + why, m.at)


def _read_while_working(p: Position, m: PositionRead) -> list[Event]:
    """Other hands sold while our order works: it is ended before it sells what is no longer there."""
    if p.state not in (State.SUBMITTED, State.PARTIAL) or m.reads < READS_MIN or m.qty >= p.leaves_qty:
        return []
    why = f"the broker shows {plain(m.qty)} left, less than the {plain(p.leaves_qty)} that the order still sells"
    return cancel(p, m.at, why)


def _read_while_monitoring(p: Position, m: PositionRead) -> list[Event]:
    if m.qty == p.remaining_qty:
        same = not _is_price(m.avg_entry_price) or m.avg_entry_price == p.entry_price
        return [] if same or m.reads < READS_MIN else _resize(p, m, "the broker's average entry changed")
    if m.qty < p.remaining_qty and m.reads < READS_MIN:
        return []
    if m.qty == 0:
        return _elsewhere(p, m, "by_hand")
    return _resize(p, m, "bought" if m.qty > p.remaining_qty else "sold by other hands")


def _resize(p: Position, m: PositionRead, why: str) -> list[Event]:
    entry = m.avg_entry_price if m.avg_entry_price is not None and _is_price(m.avg_entry_price) else p.entry_price
    return [PositionResized(qty=m.qty, entry_price=entry, at=m.at, why=why)]


def _is_price(value: Decimal | None) -> bool:
    """True for a number that a price or a held quantity can be."""
    return value is not None and tradable(value) and value > 0


def _read_between_attempts(p: Position, m: PositionRead, broker: Capabilities) -> list[Event]:
    """The next attempt, sized by what is left of ours and by what the broker still has."""
    if m.qty < p.remaining_qty and m.reads < READS_MIN:
        return []
    if m.qty == 0:
        return _elsewhere(p, m, "by_hand")
    if p.next_attempt_at is None or m.began < p.next_attempt_at:
        return []
    size = sellable(p, min(p.remaining_qty, m.qty), broker)
    if size == 0:
        return _elsewhere(p, m, "residue")
    spent = _spent(p)
    if spent > p.policy.partial_fills.max_resubmit_attempts:
        return lost(p, f"{p.attempt} attempts ended with {plain(p.remaining_qty)} {p.symbol} left to sell", m.at)
    return [next_attempt(p, size, m.at, broker, spent=spent, gone=p.remaining_qty - min(p.remaining_qty, m.qty))]


def _spent(p: Position) -> int:
    """What of the budget is spent by one more attempt; one that follows the day's end, or a limit given up, is free."""
    free = p.escalated or (p.ended_how == "expired" and p.time_in_force == TimeInForce.DAY)
    return p.budget_spent + (0 if free else 1)


def sellable(p: Position, qty: Decimal, broker: Capabilities) -> Decimal:
    """As much of `qty` as the venue takes in one order: whole steps, and 0 when that is below its least."""
    rules = broker.rules(p.symbol)
    size = floor_to(qty, rules.qty_step)
    return size if size >= rules.qty_min and size > 0 else ZERO


def next_attempt(
    p: Position, size: Decimal, at: datetime, broker: Capabilities, *, spent: int, gone: Decimal, by: str = ""
) -> ExitRetried:
    """The intent of the next order. It is market, except for a limit that merely ran out its day."""
    again = p.ended_how == "expired" and not p.escalated and p.order_type is OrderType.LIMIT
    attempt = p.attempt + 1
    wanted: TimeInForce = p.time_in_force
    return ExitRetried(
        client_order_id=client_order_id(p.position_id, attempt),
        attempt=attempt,
        qty=size,
        order_type=OrderType.LIMIT if again else OrderType.MARKET,
        time_in_force=broker.rules(p.symbol).accepted_time(wanted, size),
        at=at,
        budget_spent=spent,
        limit_price=p.limit_price if again else None,
        sold_elsewhere=p.sold_elsewhere + gone,
        by=by,
    )


def _completed(p: Position, at: datetime) -> list[Event]:
    filled_at = p.last_fill_at or at
    return [
        ExitCompleted(
            filled_qty=p.sold_qty,
            avg_fill_price=p.avg_exit_price,
            filled_at=filled_at,
            at=at,
            cooldown_until=_cooldown(p, filled_at),
        )
    ]


def _elsewhere(p: Position, m: PositionRead, how: str) -> list[Event]:
    ended = p.last_fill_at if how == "residue" and p.last_fill_at else m.at
    return [
        PositionClosedElsewhere(how=how, remaining_qty=p.remaining_qty, at=m.at, cooldown_until=_cooldown(p, ended))
    ]


def _cooldown(p: Position, since: datetime) -> datetime:
    return since + timedelta(seconds=p.policy.exit_cooldown_seconds)


# --- time -------------------------------------------------------------------------------------------------------------

_WAITS: dict[State, tuple[str, str]] = {
    State.PENDING: ("submit_unresolved", "is not known to have reached the broker"),
    State.SUBMITTED: ("order_stalled", "is working without a fill"),
    State.PARTIAL: ("order_stalled", "makes no progress"),
    State.CANCELING: ("cancel_unresolved", "was asked to be canceled and has no final record"),
    State.REJECTED: ("retry_stalled", "ended, and no further attempt could be made"),
}


def on_time(p: Position, m: TimeSeen, broker: Capabilities) -> list[Event]:
    """Give up a limit that does not fill; tell a person of a wait that lasts too long; exit by time without a bar."""
    if p.state is State.MONITORING:
        return _exit_by_time(p, m, broker)
    if p.waiting_since is None:
        return []
    waited = (m.at - p.waiting_since).total_seconds()
    resting = p.state in (State.SUBMITTED, State.PARTIAL) and p.order_type is OrderType.LIMIT and p.order_live
    if resting and waited >= p.policy.partial_fills.resubmit_delay_seconds:
        return [_escalated(p, m.at, "no progress")]
    if m.patience_s is None or p.state not in _WAITS:
        return []
    since = p.waiting_since if p.next_attempt_at is None else max(p.waiting_since, p.next_attempt_at)
    if (m.at - since).total_seconds() < m.patience_s:
        return []
    kind, text = _WAITS[p.state]
    return alarm(p, kind, f"exit order {p.client_order_id} of {p.symbol} {text} since {since.isoformat()}", m.at)


def _exit_by_time(p: Position, m: TimeSeen, broker: Capabilities) -> list[Event]:
    """A time rule is due and no bar came to say so: the last known price is the evidence."""
    if m.price is None or not _is_price(m.price) or not p.policy.enabled:
        return []
    due = first_by_precedence(due_by_time(p, m.at, m.session_close))
    if due is None:
        return []
    return [*_end_refusals(p, m.at), trigger(p, Verdict(due, m.price, m.price, ZERO, "no bar came"), m.at, broker)]


def _end_refusals(p: Position, at: datetime, count: int = 1) -> list[Event]:
    return [RefusalEnded(reason=p.refusing, count=max(count, 1), bar_at=at)] if p.refusing is not None else []


# --- operators --------------------------------------------------------------------------------------------------------


def on_force_exit(p: Position, m: ForceExit, broker: Capabilities) -> list[Event]:
    """Exit now: from monitoring the first order, from `unprotected` the next one; an exit under way goes on."""
    if p.state is State.MONITORING:
        price = m.price if m.price is not None and _is_price(m.price) else p.entry_price
        verdict = Verdict(ExitType.EMERGENCY, price, price, ZERO, f"{m.who}: {m.reason}")
        return [*_end_refusals(p, m.at), trigger(p, verdict, m.at, broker)]
    if p.state is State.UNPROTECTED or (p.state is State.REJECTED and m.qty is not None):
        if _overtaken(p, m.known):
            return _too_old(p, m.at)
        left = p.remaining_qty if m.qty is None or not tradable(m.qty) else min(p.remaining_qty, m.qty)
        size = sellable(p, left, broker)
        if p.live_orders or size <= 0:
            return _not_done(p, m.qty, m.at)
        return [next_attempt(p, size, m.at, broker, spent=0, gone=p.remaining_qty - left, by=m.who)]
    if p.state in (State.SUBMITTED, State.PARTIAL) and p.order_type is OrderType.LIMIT and p.order_live:
        return [_escalated(p, m.at, f"{m.who}: {m.reason}")]
    return []


def _too_old(p: Position, at: datetime) -> list[Event]:
    """What an operator's command rests on was read before something else became known."""
    text = f"nothing was done for {p.symbol}: its orders changed while the broker's books were read; try again"
    return alarm(p, "not_done", text, at)


def _not_done(p: Position, held: Decimal | None, at: datetime) -> list[Event]:
    """What an operator wants cannot be done, and must not look as if it were; where nothing is held, it need not be."""
    if held is None or not tradable(held) or held == 0:
        return []
    left = plain(p.remaining_qty)
    why = f"the broker shows {plain(held)} beside what else is watched, and by our own count {left} is left to sell"
    if p.live_orders:
        why = f"order {p.live_orders[0]} may still be live"
    return alarm(p, "not_done", f"nothing was done for {p.symbol}: {why}", at)


def on_change_policy(p: Position, m: ChangePolicy, broker: Capabilities) -> list[Event]:
    """New settings while monitored; a position on its way out keeps those that decided it."""
    policy = typed(m.policy)
    if p.state is not State.MONITORING or policy == p.policy:
        return []
    return [PolicyChanged(policy=policy, at=m.at, by=m.who)]


def on_release(p: Position, m: Release, broker: Capabilities) -> list[Event]:
    """Back to monitoring, with what the broker shows; only when nothing of ours can be live."""
    if p.state is not State.UNPROTECTED or not _is_price(m.entry_price):
        return []
    if _overtaken(p, m.known):
        return _too_old(p, m.at)
    if p.live_orders or not _is_price(m.qty):
        return _not_done(p, m.qty, m.at)
    return [PositionReleased(by=m.who, at=m.at, qty=m.qty, entry_price=m.entry_price)]


def on_acknowledge(p: Position, m: Acknowledge, broker: Capabilities) -> list[Event]:
    """Take down one alarm."""
    standing = any(a.alarm_id == m.alarm_id for a in p.alarms)
    return [AlarmAcknowledged(alarm_id=m.alarm_id, by=m.who, at=m.at)] if standing else []


def on_raise_alarm(p: Position, m: RaiseAlarm, broker: Capabilities) -> list[Event]:
    """Put up an alarm; one of the same kind that still stands is enough."""
    return alarm(p, m.kind, m.text, m.at)


def on_recover(p: Position, m: Recover, broker: Capabilities) -> list[Event]:
    """Take up the exit where the lost record left it: the order is ours, so the decision to exit was taken.

    So it is with the next attempt, where another machine was faster.
    """
    r = m.report
    if r.client_order_id != client_order_id(p.position_id, m.attempt):
        return []
    if p.state is State.REJECTED:
        return _taken_over(p, m, broker)
    if p.state is not State.MONITORING or r.qty is None:
        return []
    if m.attempt <= p.attempt or not _is_price(r.qty) or r.qty > p.remaining_qty:
        return lost(p, f"the broker has exit order {r.client_order_id} for {r.qty} of {plain(p.remaining_qty)}", m.at)
    triggered = ExitTriggered(
        reason=ExitType.RECOVERED,
        client_order_id=r.client_order_id,
        attempt=m.attempt,
        qty=r.qty,
        order_type=OrderType.MARKET,
        time_in_force=broker.rules(p.symbol).accepted_time(p.policy.stop_loss.time_in_force, r.qty),
        at=m.at,
        trigger_price=p.entry_price,
        level=p.entry_price,
        threshold_pct=ZERO,
        detail="found at the broker",
    )
    return _with_news(p, [*_end_refusals(p, m.at), triggered], m, broker)


def _taken_over(p: Position, m: Recover, broker: Capabilities) -> list[Event]:
    """The next attempt, as it is at the broker. One that is larger than what is left is so by its record."""
    if m.attempt != p.attempt + 1 or p.next_attempt_at is None or m.at < p.next_attempt_at:
        return []
    if p.remaining_qty <= ZERO:
        return lost(p, f"the broker has exit order {m.report.client_order_id}, and nothing is left to sell", m.at)
    qty = m.report.qty
    size = min(qty, p.remaining_qty) if qty is not None and _is_price(qty) else p.remaining_qty
    spent = min(_spent(p), p.policy.partial_fills.max_resubmit_attempts)
    return _with_news(p, [next_attempt(p, size, m.at, broker, spent=spent, gone=ZERO)], m, broker)


def _with_news(p: Position, events: list[Event], m: Recover, broker: Capabilities) -> list[Event]:
    """The order that was found, and what its record says."""
    after = fold(p, events)
    assert after is not None
    return [*events, *on_report(after, Report(at=m.at, report=m.report), broker)]


def on_contradiction(p: Position, m: Contradiction, broker: Capabilities) -> list[Event]:
    """Stop everything automatic, and end an order of ours that could sell more than is left."""
    if p.state is State.UNPROTECTED or _overtaken(p, m.known):
        return []
    return [*lost(p, m.why, m.at), *(cancel(p, m.at, m.why) if p.leaves_qty > p.remaining_qty else [])]


def on_give_way(p: Position, m: GiveWay, broker: Capabilities) -> list[Event]:
    """A limit order that rests is canceled for another exit of the same holding; any other is on its way.

    Once, where the broker refuses that.
    """
    if p.order_type is not OrderType.LIMIT or not p.order_live or p.cancel_asked or p.cancels_refused:
        return []
    if p.state in (State.SUBMITTED, State.PARTIAL):
        return [_escalated(p, m.at, m.why)]
    return cancel(p, m.at, m.why) if p.state is State.UNPROTECTED else []


_HANDLERS: dict[type[Message], Callable[[Position, Any, Capabilities], list[Event]]] = {
    BarSeen: on_bar,
    Report: on_report,
    PositionRead: on_position_read,
    TimeSeen: on_time,
    ForceExit: on_force_exit,
    ChangePolicy: on_change_policy,
    Release: on_release,
    Acknowledge: on_acknowledge,
    Recover: on_recover,
    RaiseAlarm: on_raise_alarm,
    Contradiction: on_contradiction,
    GiveWay: on_give_way,
}
