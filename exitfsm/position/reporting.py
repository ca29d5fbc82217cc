"""What a broker's report of an order leads to: one table, of where the order stands and what kind of report it is.

Fills are facts, terminal records are sticky, surprises are recorded. What others do to our order at the broker (restate
it, replace it, correct its executions) is recorded and told to a person; where more could be sold by it than is left,
nothing automatic follows any more. In an unprotected position the same facts are recorded, and nothing follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec import UNSET
from msgspec.structs import replace

from exitfsm.events import (
    CancelRefused,
    CancelRequested,
    Event,
    ExitPostponed,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    ProtectionLost,
)
from exitfsm.fix import DUPLICATE_OF_VERBAL
from exitfsm.kinds import AlarmKind
from exitfsm.lifecycle import State
from exitfsm.messages import Report
from exitfsm.ports import Capabilities
from exitfsm.position.alarming import alarm, cancel, lost
from exitfsm.position.alarming import ended as solved
from exitfsm.position.folding import fold
from exitfsm.position.order import ExitOrder
from exitfsm.position.parting import after_news
from exitfsm.position.refusing import again_at, passes, pause, postponed_in_a_row, what_would_work
from exitfsm.position.reports import (
    HOW,
    Kind,
    News,
    Stage,
    dated,
    how_ended,
    is_over,
    is_repriced,
    kind_of,
    news_of,
    sells_no_more,
)
from exitfsm.position.state import Position
from exitfsm.values import ZERO, ExecutionReport, OrderStatus, plain

#: States in which a position waits for something that a report can bring, and goes on with it.
_GOES_ON = (State.PARTIAL, State.CANCELING, State.REJECTED)


def on_report(p: Position, m: Report, broker: Capabilities) -> list[Event]:
    """The events that a report means; none for one that says nothing new or is about no order of this position."""
    report, misdated = dated(p, m.report, m.at)
    events = _meant(p, report, m.at, broker)
    if p.exit.leg or p.state is State.MONITORING:
        events = after_news(p, events, m.at)
    if p.state is State.UNPROTECTED:
        events = [*events, *_oversold(p, events, m.at)]
    if report.status is OrderStatus.SUSPENDED:
        events = [*events, *_inactive(p, report, events, m.at)]
    return [*events, *alarm(p, AlarmKind.BROKER_TIME, misdated, m.at, after=events)] if misdated and events else events


def _meant(p: Position, report: ExecutionReport, at: datetime, broker: Capabilities) -> list[Event]:
    news = news_of(p, report, at, broker)
    return TABLE[news.stage][kind_of(news)](news) if news is not None else []


def _oversold(p: Position, events: Sequence[Event], at: datetime) -> list[Event]:
    """From here on more is sold than was held, of a position whose alarm may have been acknowledged before."""
    after = _folded(p, events)
    if p.remaining_qty < 0 or after.remaining_qty >= 0:
        return []
    text = (
        f"by our own count {plain(-after.remaining_qty)} {p.symbol} more was sold than was held; nothing watches that"
    )
    return alarm(p, AlarmKind.OVERSOLD, text, at, after=events)


def _inactive(p: Position, report: ExecutionReport, events: Sequence[Event], at: datetime) -> list[Event]:
    """Our order is there and does not work: whether it was refused, or only waits, a person must see."""
    if p.client_order_id != report.client_order_id or not p.order_live or not _folded(p, events).order_live:
        return []
    said = report.text or "suspended"
    text = f"the broker has order {report.client_order_id} of {p.symbol}, and it does not work there: {said}"
    return alarm(p, AlarmKind.ORDER_INACTIVE, text, at, after=events)


def _folded(p: Position, events: Sequence[Event]) -> Position:
    after = fold(p, events)
    assert after is not None
    return after


# --- a live order -----------------------------------------------------------------------------------------------------


def nothing(n: News) -> list[Event]:
    """It means nothing: the broker has the order, and refused another copy of the request for it."""
    return []


def accepted(n: News) -> list[Event]:
    """The first that is heard of an order, with what it has filled and how it has ended already, where it has."""
    events = [_accepted(n), *(ended(n) if how_ended(n) else progress(n))]
    return [*events, *solved(n.p, AlarmKind.EXIT_POSTPONED, "the broker took the order", n.at)]


def progress(n: News) -> list[Event]:
    """What more the order has filled, or at which average, where something is new in that."""
    return [_fills(n)] if n.grown > 0 or n.completes_the_average else []


def ended(n: News) -> list[Event]:
    """The order is over with quantity left."""
    return [*progress(n), *_end(n, how_ended(n))]


def unsaid(n: News) -> list[Event]:
    """The order is called filled with a quantity of 0: nothing follows before its executions, or a person, say more."""
    events = [_accepted(n)] if n.stage is Stage.PENDING else []
    text = (
        f"order {n.order.client_order_id} is called filled, with a quantity of 0: how much was sold is not known, and "
        "nothing more is sent for it"
    )
    return [*events, *alarm(n.p, AlarmKind.FILLED_WITHOUT_QUANTITY, text, n.at, after=events)]


def cancel_refused(n: News) -> list[Event]:
    """It works on; the second time a person is told. What it has filled is said again: it is `partial` by that."""
    r = n.report
    events: list[Event] = [CancelRefused(client_order_id=r.client_order_id, at=r.at, text=r.text)]
    if n.order.cancels_refused:
        why = f"order {r.client_order_id} works, and the broker will not cancel it: {r.text or 'it does not say why'}"
        events += alarm(n.p, AlarmKind.CANCEL_REFUSED, why, n.at, after=events)
    events += [_fills(n)] if n.filled > 0 else []
    how = how_ended(n)
    return [*events, *_end(n, how)] if how else events


def _end(n: News, how: str) -> list[Event]:
    """The order is over with quantity left: when may the next attempt follow, if at all?"""
    r, why = n.report, ""
    passing = _is_passing_reject(n, how)
    told = OrderEnded(
        client_order_id=r.client_order_id,
        how=how,
        filled_qty=n.filled,
        at=r.at,
        next_attempt_at=_next_attempt_at(n, how),
        refusal=(r.refusal or "unspecified") if how in ("rejected", "refused") else "",
        text=r.text,
        passing=passing or UNSET,
        corrected=(r.corrected and not n.grown) or UNSET,
    )
    if told.next_attempt_at is None:
        bound = "the broker declares no bound for late fills"
        why = f"order {r.client_order_id} was canceled and {bound}: no attempt follows"
    elif told.refusal == DUPLICATE_OF_VERBAL:
        why = f"order {r.client_order_id} was rejected because another one, passed on by word of mouth, does the same"
    elif told.refusal and told.refusal == n.p.last_refusal and not passing:
        would = what_would_work(n.p, f"{told.refusal} {r.text}")
        why = f"refused twice for the same reason ({told.refusal}): {r.text or 'no text'}{would}"
    return [told, *(lost(n.p, why, n.at, after=[told]) if why else [])]


def postponed(n: News) -> list[Event]:
    """Refused when it was sent. Where the cause passes, the same order is sent again: the broker has nothing of it.

    What it is sent again for is what is held: for as long as that is so, and without an end.
    """
    r = n.report
    if not (r.refused_at_submit and n.filled == 0 and passes(r.refusal or "", r.text, r.passing)):
        return [*ended(n), *solved(n.p, AlarmKind.EXIT_POSTPONED, "the order was refused for another cause", n.at)]
    refusal, order = r.refusal or "unspecified", n.order
    times = order.postponed + 1
    told = ExitPostponed(
        client_order_id=r.client_order_id,
        at=n.at,
        until=again_at(n.p, n.at),
        times=times,
        refusal=refusal,
        text=r.text,
    )
    if times > 1 and refusal == order.refusal:
        return [told]  # a person who took the alarm down has heard of this
    said = f"{refusal}: {r.text}" if r.text else refusal
    text = f"the broker refuses exit order {r.client_order_id} of {n.p.symbol} for now ({said}); it is sent again"
    return [told, *alarm(n.p, AlarmKind.EXIT_POSTPONED, text, n.at, after=[told])]


def _next_attempt_at(n: News, how: str) -> datetime | None:
    """After the delay; after a cancel, not before fills can follow it no more; None where that has no bound."""
    if _is_passing_reject(n, how):
        return n.at + pause(postponed_in_a_row(n.p.orders[:-1]) + 1)
    delay = n.p.policy.partial_fills.resubmit_delay_seconds
    if how == "canceled":
        window = n.broker.late_fill_window_s if n.broker.late_fills else 0
        if window is None:
            return None
        delay = window if n.order.escalated else max(window, delay)
    return n.at + timedelta(seconds=delay)


def _is_passing_reject(n: News, how: str) -> bool:
    """True where the broker had the order and rejected it, with nothing filled, for a cause that passes."""
    r = n.report
    return how == "rejected" and n.filled == 0 and bool(r.refusal or r.text) and passes(r.refusal or "", r.text)


def replaced(n: News) -> list[Event]:
    """Somebody replaced our order: what works now has an id that we do not know."""
    order_id = n.order.client_order_id
    why = f"order {order_id} was replaced at the broker, and goes on under an id that is not known here"
    return lost(n.p, why, n.at, facts=_more(n))


# --- what contradicts what is known -----------------------------------------------------------------------------------


def impossible(n: News) -> list[Event]:
    """It cannot be our order. Whatever it is, once it is over a person can go on."""
    return lost(n.p, n.impossible, n.at, facts=impossible_fact(n))


def impossible_fact(n: News) -> list[Event]:
    """Its end alone."""
    return _end_of_live(n.order, n.report, n.order.filled_qty)


def corrected(n: News) -> list[Event]:
    """The broker changed a fill it had reported: a fact, and a case for a person.

    Another price alone stops nothing that is under way, and undoes nothing that is complete.
    """
    order_id = n.order.client_order_id
    if n.grown == 0 and (n.p.state in _GOES_ON or n.p.state.terminal):
        return repriced(n)
    why = f"the broker corrected order {order_id} from {plain(n.order.filled_qty)} to {plain(n.filled)}"
    return lost(n.p, why, n.at, facts=corrected_fact(n))


def repriced(n: News) -> list[Event]:
    """The other price, and a person is told."""
    fills = _fills(n, corrected=True)
    text = f"the broker corrected the price of order {n.order.client_order_id}"
    if n.p.state.terminal:
        text += f" to {plain(n.average or ZERO)} after the exit was complete: the quantity is as it was"
    return [fills, *alarm(n.p, AlarmKind.FILL_CORRECTED, text, n.at, after=[fills])]


def corrected_fact(n: News) -> list[Event]:
    """The other figure, and the end of the order where it comes with that."""
    fills = _fills(n, corrected=True)
    return [fills, *_end_of_live(_folded(n.p, [fills]).order, n.report, n.filled)]


def overfilled(n: News) -> list[Event]:
    """More was filled than asked for: recorded as it is."""
    sent = plain(n.order.qty)
    why = f"order {n.order.client_order_id} filled {plain(n.filled)} of {sent}: more than was sent"
    return lost(n.p, why, n.at, facts=[_fills(n)]) if n.grown else []


def overfilled_fact(n: News) -> list[Event]:
    """The figure alone."""
    return [_fills(n)] if n.grown else []


def restated(n: News) -> list[Event]:
    """Our order was made larger or smaller: recorded, told to a person, and then the report is what it says.

    One that can still sell no more than is left goes on, and what a smaller one leaves is the next attempt's. Any
    other, and one whose fills are not those that we know (a split changes both), could sell what is not ours to sell.
    """
    r, qty = n.report, _qty(n)
    told = _restated(n)
    why = f"order {r.client_order_id} was changed at the broker from {plain(n.order.qty)} to {plain(qty)}"
    if not (_fills_are_known(n) and sells_no_more(n, qty)):
        unprotected = _folded(n.p, [ProtectionLost(why=why, at=n.at), told])
        return lost(n.p, why, n.at, facts=[told, *_after_restating(unprotected, n)])
    events = [_accepted(n), told] if n.stage is Stage.PENDING else [told]
    events += alarm(n.p, AlarmKind.ORDER_RESTATED, why, n.at, after=events)
    return [*events, *_after_restating(_folded(n.p, events), n)]


def restated_fact(n: News) -> list[Event]:
    """The other quantity, and what the report says beside it."""
    told = _restated(n)
    return [told, *_after_restating(_folded(n.p, [told]), n)]


def _after_restating(p: Position, n: News) -> list[Event]:
    """What the report says of the order as it now is; what could sell more than is left is ended."""
    report = n.report if _fills_are_known(n) else replace(n.report, corrected=True)
    events = _meant(p, report, n.at, n.broker)
    after = _folded(p, events)
    excess = after.state is State.UNPROTECTED and after.leaves_qty > after.remaining_qty and not after.cancel_asked
    return [*events, *(cancel(after, n.at, "it could sell more than is left") if excess else [])]


def _fills_are_known(n: News) -> bool:
    """False where the report says less than is known to be filled, and does not say that this corrects it."""
    said = n.report.filled_qty
    return n.report.corrected or said is None or said >= n.order.filled_qty


# --- an order that is over --------------------------------------------------------------------------------------------


def late(n: News) -> list[Event]:
    """The current order is over, or filled whole, and the broker says something more about it."""
    if n.grown > 0:
        return _late_fill(n, _fills(n))
    return [_fills(n)] if n.completes_the_average and n.p.state in _GOES_ON else []


def late_of_earlier(n: News) -> list[Event]:
    """An earlier order of the position, which was over, turns out to have filled more, or less; or one ends again."""
    r, order = n.report, n.order
    if r.corrected and n.grown == 0 and is_repriced(n) and (n.p.state in _GOES_ON or n.p.state.terminal):
        return repriced(n)
    events = [event for fills in _more(n) for event in _late_fill(n, fills)]
    how_much = r.filled_qty is not None or r.status is OrderStatus.REJECTED  # else it is looked up: we cannot know
    return [*events, _end_of(r, n.filled)] if order.live and how_much and is_over(order, r) else events


def _late_fill(n: News, fills: FillsRecorded) -> list[Event]:
    """Record a fill that came after the end.

    Between attempts it only makes the next one smaller; otherwise a person must look.
    """
    p, remaining = n.p, n.p.remaining_qty - n.grown
    if p.state is State.REJECTED and remaining >= 0 and not fills.corrected:
        return [fills]
    excess = cancel(p, n.at, "it could sell more than is left") if p.leaves_qty > remaining else []
    if p.state is State.UNPROTECTED:
        return [fills, *excess]
    what = "was taken back" if fills.corrected else "came"
    left = f"{plain(remaining)} is left by our own count"
    why = f"a fill of order {fills.client_order_id} {what} after it had ended; {left}"
    return lost(p, why, n.at, facts=[fills, *excess])


def revived(n: News) -> list[Event]:
    """An order that the broker refused is working there: with another one, too much could be sold.

    It is live from here on, and ended; until then nothing of the position is over.
    """
    return _revived(n, _more(n))


def revived_fact(n: News) -> list[Event]:
    """The same, of the current order of a position that is `unprotected` already."""
    return _revived(n, progress(n))


def _revived(n: News, fills: Sequence[Event]) -> list[Event]:
    p, order_id = n.p, n.order.client_order_id
    why = "it was refused, and works all the same"
    facts = [_accepted(n), *fills, CancelRequested(client_order_id=order_id, at=n.at, why=why)]
    facts += cancel(p, n.at, "an order before it works after all")
    text = f"order {order_id} was refused, and is working at the broker all the same"
    if p.state is State.UNPROTECTED:
        return [*facts, *alarm(p, AlarmKind.REFUSED_ORDER_WORKS, text, n.at, after=facts)]
    return lost(p, text, n.at, facts=facts, after=facts)


# --- an unprotected position ------------------------------------------------------------------------------------------


def facts(n: News) -> list[Event]:
    """Fills and the end of the order are facts here too; nothing follows from them by itself."""
    return [*progress(n), *_end_of_live(n.order, n.report, n.filled)]


def _end_of_live(order: ExitOrder, r: ExecutionReport, filled: Decimal) -> list[Event]:
    """The end of the current order, live so far, where the report is its terminal record."""
    cut_short = order.restated and filled == order.filled_qty == order.qty
    if not (order.live and (filled < order.qty or cut_short) and is_over(order, r)):
        return []
    return [_end_of(r, filled)]


# --- events -----------------------------------------------------------------------------------------------------------


def _accepted(n: News) -> Event:
    r = n.report
    return OrderAccepted(client_order_id=r.client_order_id, broker_order_id=r.broker_order_id, at=r.at)


def _qty(n: News) -> Decimal:
    assert n.report.qty is not None
    return n.report.qty


def _restated(n: News) -> Event:
    r = n.report
    return OrderRestated(client_order_id=r.client_order_id, qty=_qty(n), at=r.at, text=r.text)


def _more(n: News) -> list[FillsRecorded]:
    """The fills, where their quantity is another than was known."""
    return [_fills(n, corrected=n.grown < 0)] if n.grown else []


def _fills(n: News, *, corrected: bool = False) -> FillsRecorded:
    r, average = n.report, n.average
    if average is None and not n.grown:
        average = n.order.avg_fill_price
    return FillsRecorded(
        client_order_id=r.client_order_id, filled_qty=n.filled, avg_fill_price=average, at=r.at, corrected=corrected
    )


def _end_of(r: ExecutionReport, filled: Decimal) -> OrderEnded:
    """The end of an order, after which nothing follows by itself."""
    how = HOW.get(r.status, "canceled" if r.status.terminal else "expired")
    return OrderEnded(
        client_order_id=r.client_order_id,
        how="refused" if r.refused_at_submit else how,
        filled_qty=filled,
        at=r.at,
        next_attempt_at=None,
        refusal=r.refusal or "",
        text=r.text,
    )


# --- the table --------------------------------------------------------------------------------------------------------

Handler = Callable[[News], list[Event]]


def _each(handler: Handler) -> dict[Kind, Handler]:
    return dict.fromkeys(Kind, handler)


_LIVE: dict[Kind, Handler] = {
    Kind.IMPOSSIBLE: impossible,
    Kind.RESTATED: restated,
    Kind.COPY_REFUSED: nothing,
    Kind.CORRECTED: corrected,
    Kind.OVERFILLED: overfilled,
    Kind.REVIVED: progress,  # does not occur: a live order is none that was refused
    Kind.REPLACED: replaced,
    Kind.CANCEL_REFUSED: progress,  # occurs where a cancel was asked for
    Kind.REFUSED: ended,
    Kind.UNSAID: unsaid,
    Kind.ENDED: ended,
    Kind.NEWS: progress,
}
#: stage -> kind of report -> what it leads to.
TABLE: dict[Stage, dict[Kind, Handler]] = {
    Stage.PENDING: {**_LIVE, Kind.ENDED: accepted, Kind.NEWS: accepted, Kind.REFUSED: postponed},
    Stage.WORKING: _LIVE,
    Stage.CANCELING: {**_LIVE, Kind.CANCEL_REFUSED: cancel_refused},
    Stage.OVER: {
        **_each(late),
        Kind.IMPOSSIBLE: impossible,
        Kind.RESTATED: restated,
        Kind.CORRECTED: corrected,
        Kind.OVERFILLED: overfilled,
        Kind.REVIVED: revived,
    },
    Stage.UNPROTECTED: {
        **_each(facts),
        Kind.UNSAID: unsaid,
        Kind.IMPOSSIBLE: impossible_fact,
        Kind.RESTATED: restated_fact,
        Kind.CORRECTED: corrected_fact,
        Kind.OVERFILLED: overfilled_fact,
        Kind.REVIVED: revived_fact,
    },
    Stage.EARLIER: {**_each(late_of_earlier), Kind.REVIVED: revived},
}
