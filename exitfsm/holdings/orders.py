"""What is said of orders, ours and others': whose they are, what they filled, and whether they may still work."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from exitfsm.holdings.adopting import Alarm
from exitfsm.holdings.reads import NEVER
from exitfsm.kinds import AlarmKind
from exitfsm.lifecycle import State
from exitfsm.messages import RecordRead
from exitfsm.order_ids import is_exit_of, looks_like_exit
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.position import READS_MIN, ExitOrder, Position, is_over, is_proved_over
from exitfsm.values import ZERO, ExecutionReport, Fill, OrderStatus, same_symbol, symbol_key, tradable

#: A submit whose outcome stays unknown is looked up and repeated so often before a person is alarmed.
UNKNOWN_MAX = 3


class LookUps(msgspec.Struct, frozen=True):
    """What the look-ups of an order whose end was reported have shown."""

    shown_over: float = NEVER  # when the newest one began that showed it over, in monotonic seconds
    works: bool = False  # the newest one that showed it showed it working
    absent: int = 0  # how often in a row it was not shown


def looked_up(
    p: Position, record: RecordRead, before: LookUps, asked: float, broker: Capabilities, *, can_show: bool
) -> tuple[RecordRead, LookUps]:
    """A look-up begun at `asked` beside those before: its record, with how often in a row none was shown; what to keep.

    Where the broker can neither be asked about it nor lists working orders, that it shows none is all there is to know.
    """
    absent = 0 if record.report is not None else before.absent + can_show
    record = replace(record, times=absent if can_show or record.report is not None else READS_MIN)
    order = p.find(record.client_order_id)
    if order is not None and is_proved_over(order, record, broker):
        return record, LookUps(asked, False, absent)
    return record, LookUps(NEVER, before.works or record.report is not None, absent)


def record_of_live(before: Position | None, now: Position | None, report: ExecutionReport) -> ExecutionReport | None:
    """The record of an order that may be live, as its position is to see it; None where it may be too old for that.

    An execution may have been corrected meanwhile. After one correction older reports may come: the record counts.
    """
    known = before.corrected_orders if before is not None else ()
    if known != (now.corrected_orders if now is not None else ()):
        return None
    return replace(report, corrected=True) if report.client_order_id in known else report


def may_be_ours(positions: Iterable[Position], report: ExecutionReport) -> bool:
    """True for an update by the broker's id alone that may mean an exit: as another's, our sale counts as theirs."""
    symbol = report.symbol
    if report.client_order_id != report.broker_order_id or symbol is None:
        return False
    return any(p.order_live and p.broker_order_id is None and same_symbol(p.symbol, symbol) for p in positions)


def in_question(positions: Iterable[Position], unknown: Collection[str]) -> dict[str, str]:
    """Exit orders that may be live, or were corrected by the broker, and whose each is; not what never left.

    `unknown` are those that were sent, or may have been, and of which the broker has said nothing.
    """
    return {
        order_id: p.position_id
        for p in positions
        for order_id in p.orders_in_question
        if p.state is not State.PENDING or order_id in unknown
    }


def precedes_a_change(p: Position, report: ExecutionReport) -> bool:
    """True for a report of a live order from before it was changed at the broker, by the broker's own times.

    It names the quantity of then. Taken for another change it would stop an exit that is in order.
    """
    if not p.order_live or not p.order.restated or p.client_order_id != report.client_order_id or report.corrected:
        return False
    other = report.qty is not None and tradable(report.qty) and report.qty != p.order_qty
    return other and p.waiting_since is not None and report.at < p.waiting_since


def our_id(report: ExecutionReport, renamed: Mapping[str, str]) -> str | None:
    """The id that we gave the order of a report; None where it is not ours, or not known to be.

    In FIX a request has an id of its own, with the one before beside it; and what follows for a replaced order comes
    under the new id alone: `renamed` has our ids by those.
    """
    now, before = report.client_order_id, report.orig_client_order_id
    if looks_like_exit(now):
        return now
    ours = renamed.get(now) or (renamed.get(before, before) if before is not None else None)
    return ours if looks_like_exit(ours) else None


def orphan(report: ExecutionReport, positions: Iterable[Position]) -> Alarm:
    """The alarm for a working order that looks like an exit of ours, and that is not on record."""
    order_id = report.client_order_id
    p = next((p for p in positions if is_exit_of(p.position_id, order_id)), None)
    if p is None or is_exit_of(p.position_id, order_id, p.id_form):
        text = f"order {order_id} of {report.symbol} looks like an exit of ours and belongs to no known position"
        return Alarm(kind=AlarmKind.UNKNOWN_EXIT_ORDER, text=text)
    text = (
        f"order {order_id} is an exit of {p.position_id}, whose ids have the form {p.id_form} here: another machine "
        "exits it with another version, or with other capabilities. Nothing is sent beside it; stop one of them"
    )
    return Alarm(kind=AlarmKind.ID_FORM_DIFFERS, text=text)


def brings_fills(report: ExecutionReport) -> bool:
    """True when a report of somebody's order means that the account's positions changed."""
    return bool(report.filled_qty) or report.status in (OrderStatus.FILLED, OrderStatus.PARTIALLY_FILLED)


def leaves_open(p: Position, report: ExecutionReport) -> bool:
    """True for a report of our order that does not say how much has filled, or may be older than a correction."""
    said_how_much = report.filled_qty is not None or not (brings_fills(report) or report.status.terminal)
    return not said_how_much or report.client_order_id in p.corrected_orders


def says_no_quantity(p: Position, report: ExecutionReport) -> bool:
    """True for a record that calls the position's newest order filled, and says that it filled nothing."""
    said = report.status is OrderStatus.FILLED and report.filled_qty == 0
    return said and p.client_order_id == report.client_order_id and p.order_live


def execution_of(report: ExecutionReport, before: Fill | None) -> Fill | None:
    """What somebody else's order has filled so far, as one execution; None where an update does not say.

    Updates come once or often, in any order: `before` is what they said of the order until now.
    """
    said, filled = report.filled_qty, report.filled_qty
    if said is None:  # how much is only known of an order that is filled whole
        filled = report.qty if report.status is OrderStatus.FILLED else ZERO
    if report.symbol is None or report.side is None or filled is None or not tradable(filled):
        return None
    if said is not None and said <= 0:
        return None
    return Fill(
        fill_id=report.client_order_id,
        symbol=symbol_key(report.symbol),
        side=report.side,
        qty=max(filled, before.qty) if before is not None else filled,
        price=report.avg_fill_price or ZERO,
        at=min(report.at, before.at) if before is not None else report.at,
        client_order_id=report.client_order_id,
        position_side=report.position_side,
    )


def opened_since_exit(p: Position, executions: Iterable[Fill]) -> datetime | None:
    """When others first opened something of its symbol since its exit was triggered, or else its end: the next one."""
    since = p.triggered_at or p.ended_at
    if since is None:
        return None
    later = (f for f in executions if f.at >= since)  # first, because it leaves few of thousands
    opened = [
        f.at
        for f in later
        if same_symbol(f.symbol, p.symbol) and f.side is not p.side.exit_side and f.position_side in (None, p.side)
    ]
    return min(opened, default=None)


def may_still_work(report: ExecutionReport | None, times: int) -> bool:
    """False where an order's record, or so many lists in a row that lack it, prove its end: one list may be behind."""
    return not report.status.terminal if report is not None else times < READS_MIN


def may_resend(p: Position, broker: Capabilities) -> bool:
    """True where an order that the broker does not know may be sent again: it refuses a repeated id for ever."""
    return p.state is State.PENDING and broker.ids_refused is IdMemory.FOREVER


def is_unresolved(p: Position, times: int, broker: Capabilities) -> bool:
    """True where a person must hear of an order that the broker does not know, asked so often."""
    return times >= UNKNOWN_MAX or (p.state is State.PENDING and not may_resend(p, broker))


def not_found(p: Position, times: int, why: str, *, can_resend: bool) -> str:
    """What a person hears of an order that the broker does not know; `why` is what its newest send ended with."""
    then = (
        "the same order is sent again, while so much is held"
        if can_resend
        else "it is not sent again: the broker might take it twice"
    )
    sent = f" (its newest send: {why})" if why else ""
    return f"the broker does not know exit order {p.client_order_id} of {p.symbol}, asked {times} times{sent}; {then}"


def end_of_live(report: ExecutionReport | None, order_id: str, filled: Decimal, at: datetime) -> ExecutionReport:
    """What became of an order that may be live, on an operator's word: one that the broker does not know was refused.

    One that was replaced there is canceled, and one that does not say how much has filled what is known.
    """
    if report is None:
        status, text = OrderStatus.REJECTED, "the broker does not know it; given up on an operator's word"
        return ExecutionReport(
            client_order_id=order_id, status=status, at=at, refusal="not_known", refused_at_submit=True, text=text
        )
    if report.status is OrderStatus.REPLACED:
        report = replace(report, status=OrderStatus.CANCELED)
    if report.status.terminal and report.filled_qty is None:
        report = replace(report, filled_qty=filled)
    return report


def not_there(order_id: str, who: str, at: datetime) -> ExecutionReport:
    """The end of an order that may have been sent, on the word of an operator who saw that it does not exist."""
    text = f"{who} says that the broker does not have it"
    return ExecutionReport(
        client_order_id=order_id,
        status=OrderStatus.REJECTED,
        at=at,
        filled_qty=ZERO,
        refusal="not_there",
        refused_at_submit=True,
        text=text,
        passing=False,
    )


def record_of_ended(order: ExitOrder, report: ExecutionReport) -> ExecutionReport:
    """An ended order's record. Less than is known was taken back: an older record would show the order working."""
    said = report.filled_qty
    less = is_over(order, report) and said is not None and said < order.filled_qty
    return replace(report, corrected=True) if less else report
