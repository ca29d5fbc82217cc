"""What a broker's report of an order means: fills are facts, terminal records are sticky, surprises are recorded.

Reports come by several channels, late, doubled and in any order. So a report is held against what is known: cumulative
quantity only grows (except by an explicit correction), a live status never undoes a terminal one, and a figure that was
not said is not zero. What others do to our order at the broker (restate it, replace it, correct its executions) is
recorded and told to a person; where more could be sold by it than is left, nothing automatic follows any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from exitfsm.events import (
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    ProtectionLost,
)
from exitfsm.fix import DUPLICATE_OF_VERBAL
from exitfsm.lifecycle import State
from exitfsm.messages import RecordRead, Report
from exitfsm.ports import Capabilities
from exitfsm.position.state import WORKING, EndedOrder, Position, fold
from exitfsm.values import ZERO, ExecutionReport, ExitType, OrderStatus, TimeInForce, plain, tradable

#: A broker's answer that may be behind is believed after this many equal ones in a row.
READS_MIN = 3
_HOW = {OrderStatus.REJECTED: "rejected", OrderStatus.CANCELED: "canceled", OrderStatus.EXPIRED: "expired"}


def on_report(p: Position, m: Report, broker: Capabilities) -> list[Event]:
    """The events that a report means; none for one that says nothing new or is about no order of this position."""
    events = _meant(p, m, broker)
    return [*events, *_oversold(p, events, m.at)] if p.state is State.UNPROTECTED else events


def _oversold(p: Position, events: Sequence[Event], at: datetime) -> list[Event]:
    """From here on more is sold than was held, of a position whose alarm may have been acknowledged before."""
    after = _folded(p, events)
    if p.remaining_qty < 0 or after.remaining_qty >= 0:
        return []
    text = (
        f"by our own count {plain(-after.remaining_qty)} {p.symbol} more was sold than was held; nothing watches that"
    )
    return alarm(p, "oversold", text, at, after=events)


def _meant(p: Position, m: Report, broker: Capabilities) -> list[Event]:
    r = m.report
    if r.client_order_id != p.client_order_id:
        known = {o.client_order_id: o for o in p.ended_orders}
        return _late(p, r, known[r.client_order_id], m.at) if r.client_order_id in known else []
    mismatch = _mismatch(p, r)
    if mismatch:
        over = _over(p, r, p.filled_qty)  # whatever it is, once it is over a person can go on
        if p.state is State.UNPROTECTED:
            return over
        first, *alarms = lost(p, mismatch, m.at)
        return [first, *over, *alarms]
    if _is_restated(p, r):
        return _on_restated(p, m, broker)
    if r.refused_at_submit and p.order_live and p.state is not State.PENDING and p.state is not State.UNPROTECTED:
        return []  # the broker has it: another copy of the request was refused
    filled = _filled(p, r)
    if r.corrected and (filled != p.filled_qty or _is_repriced(p, r)):
        return _corrected(p, r, filled, m.at)
    if filled > p.order_qty:
        return _overfilled(p, r, filled, m.at)
    if r.status is OrderStatus.REPLACED and p.state is not State.UNPROTECTED:
        return _replaced(p, r, filled, m.at)
    if p.state in _WORKING and p.order_live:
        return _working(p, r, filled, m.at, broker)
    if p.state is State.UNPROTECTED:
        return _unprotected(p, r, filled, m.at)
    return _after_the_end(p, r, filled, m.at)


_WORKING = (State.PENDING, State.SUBMITTED, State.PARTIAL, State.CANCELING)


def _filled(p: Position, r: ExecutionReport) -> Decimal:
    """Cumulative quantity: what the report says, never below what is known; a filled order is filled whole."""
    said = r.filled_qty
    if said is None:
        said = p.order_qty if r.status is OrderStatus.FILLED else p.filled_qty
    return said if r.corrected else max(said, p.filled_qty)


def _mismatch(p: Position, r: ExecutionReport) -> str:
    """Why the order under our id cannot be ours; empty when it can."""
    if r.symbol is not None and r.symbol.replace("/", "") != p.symbol.replace("/", ""):
        return f"order {r.client_order_id} at the broker is for {r.symbol}, not {p.symbol}"
    if r.side is not None and r.side is not p.side.exit_side:
        return f"order {r.client_order_id} at the broker is a {r.side}, not a {p.side.exit_side}"
    if r.qty is not None and not (tradable(r.qty) and r.qty >= 0):
        return f"order {r.client_order_id} at the broker is for {plain(r.qty)}, not {plain(p.order_qty)}"
    if r.filled_qty is not None and not (tradable(r.filled_qty) and r.filled_qty >= 0):
        return f"order {r.client_order_id} is reported with a filled quantity of {plain(r.filled_qty)}"
    return ""


def _fills(p: Position, r: ExecutionReport, filled: Decimal, *, corrected: bool = False) -> FillsRecorded:
    average = _average(r)
    if average is None and filled == p.filled_qty:
        average = p.avg_fill_price
    return FillsRecorded(
        client_order_id=r.client_order_id, filled_qty=filled, avg_fill_price=average, at=r.at, corrected=corrected
    )


def _average(r: ExecutionReport) -> Decimal | None:
    """The average price that the report brings; None when it is none."""
    average = r.avg_fill_price
    return average if average is not None and tradable(average) and average > 0 else None


def _better_average(p: Position, r: ExecutionReport) -> bool:
    """True when the report brings the average price that an earlier one left out."""
    return p.filled_qty > 0 and p.avg_fill_price is None and _average(r) is not None


def _working(p: Position, r: ExecutionReport, filled: Decimal, at: datetime, broker: Capabilities) -> list[Event]:
    """A report of the current, live order."""
    events: list[Event] = []
    refused = r.status is OrderStatus.REJECTED and filled == 0
    if p.state is State.PENDING and not refused:
        events.append(OrderAccepted(client_order_id=r.client_order_id, broker_order_id=r.broker_order_id, at=r.at))
    grown = filled > p.filled_qty or (_better_average(p, r) and filled == p.filled_qty)
    if p.state is State.CANCELING and r.status is OrderStatus.CANCEL_REJECTED:
        events.append(CancelRefused(client_order_id=r.client_order_id, at=r.at, text=r.text))
        grown = grown or filled > 0
        if p.cancels_refused:
            why = (
                f"order {r.client_order_id} works, and the broker will not cancel it: {r.text or 'it does not say why'}"
            )
            events += alarm(p, "cancel_refused", why, at, after=events)
    if grown:
        events.append(_fills(p, r, filled))
    if filled == p.order_qty:
        short = p.restated and p.remaining_qty > filled - p.filled_qty
        return [*events, *_end(p, r, "canceled", filled, at, broker)] if short else events
    if r.status is OrderStatus.FILLED:
        # The broker calls it filled with less than we asked for: it is over, and short.
        return [*events, *_end(p, r, "canceled", filled, at, broker)]
    if r.status in (OrderStatus.CANCELED, OrderStatus.EXPIRED) and r.filled_qty is None:
        return events  # over, but with how much filled? Our own count is no record: the order is looked up
    if _is_done_for_good(p, r):
        return [*events, *_end(p, r, "expired", filled, at, broker)]
    if r.status in _HOW:
        how = "refused" if r.refused_at_submit and filled == 0 else _HOW[r.status]
        return [*events, *_end(p, r, how, filled, at, broker)]
    return events


def is_over(p: Position, r: ExecutionReport) -> bool:
    """True where a report of the current order says that nothing can fill by it any more."""
    return r.status.terminal or _is_done_for_good(p, r)


def is_proved_over(p: Position, record: RecordRead, how: str, broker: Capabilities) -> bool:
    """True where the broker's own record proves that an order of which the end was reported can fill no more.

    That no record is shown proves something of an order that was refused; and, several times in a row, of one that was
    rejected, and of any at a broker that shows working orders only. One that shows ended orders, too, would show what
    was canceled or has expired: there it is a contradiction.

    Args:
        p: the position.
        record: what the look-up said.
        how: how the order ended, as reported.
        broker: what the broker shows.
    """
    if record.report is not None:
        return is_over(p, record.report)
    would_show_it = record.by_id and broker.lookup_sees_closed and how != "rejected"
    return how == "refused" or (record.times >= READS_MIN and not would_show_it)


def _is_done_for_good(p: Position, r: ExecutionReport) -> bool:
    """True for a day order that is done for the day and of which the broker says that nothing is left to fill.

    Of an order that was found at the broker it is not known for how long it was sent.
    """
    none_left = r.leaves_qty is not None and r.leaves_qty.is_finite() and r.leaves_qty == 0
    said = r.status is OrderStatus.DONE_FOR_DAY and none_left and r.filled_qty is not None
    found = p.reason is ExitType.RECOVERED and not p.ended_orders
    return said and p.time_in_force == TimeInForce.DAY and not found


def _end(p: Position, r: ExecutionReport, how: str, filled: Decimal, at: datetime, broker: Capabilities) -> list[Event]:
    """The order is over with quantity left: when may the next attempt follow, if at all?"""
    window = broker.late_fill_window_s if broker.late_fills else 0
    delay = p.policy.partial_fills.resubmit_delay_seconds
    next_at: datetime | None = at + timedelta(seconds=delay)
    if how == "canceled":
        wait = None if window is None else window if p.escalated else max(window, delay)
        next_at = None if wait is None else at + timedelta(seconds=wait)
    refusal = (r.refusal or "unspecified") if how in ("rejected", "refused") else ""
    ended = OrderEnded(
        client_order_id=r.client_order_id,
        how=how,
        filled_qty=filled,
        at=r.at,
        next_attempt_at=next_at,
        refusal=refusal,
        text=r.text,
    )
    if next_at is None:
        bound = "the broker declares no bound for late fills"
        why = f"order {r.client_order_id} was canceled and {bound}: no attempt follows"
        return [ended, *lost(p, why, at, after=[ended])]
    if refusal == DUPLICATE_OF_VERBAL:
        why = f"order {r.client_order_id} was rejected because another one, passed on by word of mouth, does the same"
        return [ended, *lost(p, why, at, after=[ended])]
    if refusal and refusal == p.last_refusal:
        why = f"refused twice for the same reason ({refusal}): {r.text or 'no text'}"
        return [ended, *lost(p, why, at, after=[ended])]
    return [ended]


def _after_the_end(p: Position, r: ExecutionReport, filled: Decimal, at: datetime) -> list[Event]:
    """The current order is over, or filled whole, and the broker says something more about it."""
    fills = [_fills(p, r, filled)] if filled > p.filled_qty else []
    if _works_after_all(p.ended_how, r):
        return _works_all_the_same(p, r, fills, at)
    if fills:
        return _late_fill(p, fills[0], p.remaining_qty - (filled - p.filled_qty), at)
    if _better_average(p, r) and p.state in (State.PARTIAL, State.CANCELING, State.REJECTED):
        return [_fills(p, r, filled)]
    return []


def _works_after_all(how: str, r: ExecutionReport) -> bool:
    """True where the broker shows an order live that it had refused: another copy of the request came after that."""
    return how == "refused" and not r.status.terminal and r.status is not OrderStatus.CANCEL_REJECTED


def _works_all_the_same(p: Position, r: ExecutionReport, fills: Sequence[Event], at: datetime) -> list[Event]:
    """An order that the broker refused is working there: with another one, too much could be sold.

    It is live from here on, and ended; until then nothing of the position is over.
    """
    order_id, why = r.client_order_id, "it was refused, and works all the same"
    text = f"order {order_id} was refused, and is working at the broker all the same"
    accepted = OrderAccepted(client_order_id=order_id, broker_order_id=r.broker_order_id, at=r.at)
    events = [accepted, *fills, CancelRequested(client_order_id=order_id, at=at, why=why)]
    events += cancel(p, at, "an order before it works after all")
    if p.state is State.UNPROTECTED:
        return [*events, *alarm(p, "refused_order_works", text, at, after=events)]
    first, *alarms = lost(p, text, at, after=events)
    return [first, *events, *alarms]


def _late(p: Position, r: ExecutionReport, order: EndedOrder, at: datetime) -> list[Event]:
    """An earlier order of the position, which was over, turns out to have filled more (or less), or to work."""
    known, said = order.filled_qty, r.filled_qty
    fills: list[FillsRecorded] = []
    left = p.remaining_qty
    if said is not None and tradable(said) and said >= 0 and (said > known or (said < known and r.corrected)):
        fills.append(
            FillsRecorded(
                client_order_id=r.client_order_id,
                filled_qty=said,
                avg_fill_price=_average(r),
                at=r.at,
                corrected=said < known,
            )
        )
        known, left = said, left - (said - known)
    if _works_after_all(order.how, r):
        return _works_all_the_same(p, r, fills, at)
    events = _late_fill(p, fills[0], left, at) if fills else []
    how_much = said is not None or r.status is OrderStatus.REJECTED  # our own count is no record: it is looked up
    return [*events, _end_of(r, known)] if order.how == WORKING and is_over(p, r) and how_much else events


def _late_fill(p: Position, fills: FillsRecorded, remaining: Decimal, at: datetime) -> list[Event]:
    """Record a fill that came after the end.

    Between attempts it only makes the next one smaller; otherwise a person must look.
    """
    if p.state is State.REJECTED and remaining >= 0 and not fills.corrected:
        return [fills]
    if p.state is State.UNPROTECTED:
        return [fills, *_cancel_excess(p, remaining, at)]
    what = "was taken back" if fills.corrected else "came"
    left = f"{plain(remaining)} is left by our own count"
    why = f"a fill of order {fills.client_order_id} {what} after it had ended; {left}"
    events = lost(p, why, at)
    return [events[0], fills, *_cancel_excess(p, remaining, at), *events[1:]]


def _cancel_excess(p: Position, remaining: Decimal, at: datetime) -> list[Event]:
    """End the live order where it would now sell more than is left."""
    return cancel(p, at, "it could sell more than is left") if p.leaves_qty > remaining else []


def cancel(p: Position, at: datetime, why: str) -> list[Event]:
    """End the order of ours that may be live, if there is one."""
    return [CancelRequested(client_order_id=p.client_order_id or "", at=at, why=why)] if p.order_live else []


def _is_restated(p: Position, r: ExecutionReport) -> bool:
    """True when the order at the broker is for another quantity than we know, and that matters.

    For an order that is over, less changes nothing, and what it could not sell by that anyway is older news.
    """
    if not r.qty or r.qty == p.order_qty:
        return False
    if p.order_live or p.state is State.UNPROTECTED:
        return True
    return r.qty > p.order_qty and not _sells_no_more(p, r)


def _sells_no_more(p: Position, r: ExecutionReport) -> bool:
    """True when an order of the quantity that is reported can sell no more than is left."""
    said = p.filled_qty if r.filled_qty is None else r.filled_qty
    assert r.qty is not None
    return ZERO <= r.qty - said <= p.remaining_qty - (said - p.filled_qty)


def _on_restated(p: Position, m: Report, broker: Capabilities) -> list[Event]:
    """Our order was made larger or smaller: recorded, told to a person, and then the report is what it says.

    One that can still sell no more than is left goes on, and what a smaller one leaves is the next attempt's. Any
    other, and one whose fills are not those that we know (a split changes both), could sell what is not ours to sell.
    """
    r = m.report
    assert r.qty is not None
    known = r.corrected or r.filled_qty is None or r.filled_qty >= p.filled_qty
    if not known:
        m = Report(at=m.at, report=replace(r, corrected=True))
    why = f"order {r.client_order_id} was changed at the broker from {plain(p.order_qty)} to {plain(r.qty)}"
    events: list[Event] = [OrderRestated(client_order_id=r.client_order_id, qty=r.qty, at=r.at, text=r.text)]
    last: list[Event] = []
    if p.state is not State.UNPROTECTED and known and _sells_no_more(p, r):
        if p.state is State.PENDING:
            broker_id = r.broker_order_id
            events.insert(0, OrderAccepted(client_order_id=r.client_order_id, broker_order_id=broker_id, at=r.at))
        events += alarm(p, "order_restated", why, m.at, after=events)
    elif p.state is not State.UNPROTECTED:
        first, *last = lost(p, why, m.at)
        events.insert(0, first)
    after = _folded(p, events)
    news = _meant(after, m, broker)
    after = _folded(after, news)
    if after.state is State.UNPROTECTED and after.leaves_qty > after.remaining_qty and not after.cancel_asked:
        news += cancel(after, m.at, "it could sell more than is left")
    return [*events, *news, *last]


def _folded(p: Position, events: Sequence[Event]) -> Position:
    after = fold(p, events)
    assert after is not None
    return after


def _replaced(p: Position, r: ExecutionReport, filled: Decimal, at: datetime) -> list[Event]:
    """Somebody replaced our order: what works now has an id that we do not know."""
    if not p.order_live:
        return _after_the_end(p, r, filled, at)
    why = f"order {r.client_order_id} was replaced at the broker, and goes on under an id that is not known here"
    first, *alarms = lost(p, why, at)
    return [first, *([_fills(p, r, filled)] if filled > p.filled_qty else []), *alarms]


def _is_repriced(p: Position, r: ExecutionReport) -> bool:
    """True when a correction brings another average price of what is filled."""
    return p.filled_qty > 0 and _average(r) not in (None, p.avg_fill_price)


def _corrected(p: Position, r: ExecutionReport, filled: Decimal, at: datetime) -> list[Event]:
    """The broker changed a fill it had reported: a fact, and a case for a person.

    Another price alone stops nothing that is under way.
    """
    fills = _fills(p, r, filled, corrected=True)
    if filled == p.filled_qty and p.state in (State.PARTIAL, State.CANCELING, State.REJECTED):
        text = f"the broker corrected the price of order {r.client_order_id}"
        return [fills, *alarm(p, "fill_corrected", text, at, after=[fills])]
    events: list[Event] = [fills]
    last: list[Event] = []
    if p.state is not State.UNPROTECTED:
        why = f"the broker corrected order {r.client_order_id} from {plain(p.filled_qty)} to {plain(filled)}"
        first, *last = lost(p, why, at)
        events.insert(0, first)
    return [*events, *_over(_folded(p, events), r, filled), *last]


def _overfilled(p: Position, r: ExecutionReport, filled: Decimal, at: datetime) -> list[Event]:
    """More was filled than asked for: recorded as it is."""
    if filled == p.filled_qty:
        return []
    fills = _fills(p, r, filled)
    if p.state is State.UNPROTECTED:
        return [fills]
    events = lost(
        p, f"order {r.client_order_id} filled {plain(filled)} of {plain(p.order_qty)}: more than was sent", at
    )
    return [events[0], fills, *events[1:]]


def _unprotected(p: Position, r: ExecutionReport, filled: Decimal, at: datetime) -> list[Event]:
    """Fills and the end of the order are facts here too; nothing follows from them by itself."""
    events: list[Event] = []
    if filled > p.filled_qty or _better_average(p, r):
        events.append(_fills(p, r, filled))
    if _works_after_all(p.ended_how, r):
        return _works_all_the_same(p, r, events, at)
    return [*events, *_over(p, r, filled)]


def _over(p: Position, r: ExecutionReport, filled: Decimal) -> list[Event]:
    """The end of the live order, where the report is its terminal record; no attempt follows by itself."""
    cut_short = p.restated and filled == p.filled_qty == p.order_qty
    if not (p.order_live and (filled < p.order_qty or cut_short) and is_over(p, r)):
        return []
    return [_end_of(r, filled)]


def _end_of(r: ExecutionReport, filled: Decimal) -> OrderEnded:
    """The end of an order, after which nothing follows by itself."""
    how = _HOW.get(r.status, "canceled" if r.status.terminal else "expired")
    return OrderEnded(
        client_order_id=r.client_order_id,
        how="refused" if r.refused_at_submit else how,
        filled_qty=filled,
        at=r.at,
        next_attempt_at=None,
        refusal=r.refusal or "",
        text=r.text,
    )


def alarm(p: Position, kind: str, text: str, at: datetime, *, after: Sequence[Event] = ()) -> list[Event]:
    """An alarm, unless one of its kind stands already. `after` are the events that precede it in the same commit."""
    if any(a.kind == kind for a in p.alarms):
        return []
    alarm_id = f"{p.position_id}/{kind}/{p.version + len(after) + 1}"
    return [AlarmRaised(alarm_id=alarm_id, kind=kind, text=text, at=at)]


def lost(p: Position, why: str, at: datetime, *, after: Sequence[Event] = ()) -> list[Event]:
    """The position becomes `unprotected`, and a person is told."""
    first = ProtectionLost(why=why, at=at)
    raised = AlarmRaised(
        alarm_id=f"{p.position_id}/protection_lost/{p.version + len(after) + 2}",
        kind="protection_lost",
        text=why,
        at=at,
    )
    return [first, raised]
