"""What a broker's report of an order is: where its order stands, and what kind of report it is.

Reports come by several channels, late, doubled and in any order. So a report is held against what is known: cumulative
quantity only grows (except by an explicit correction), a live status never undoes a terminal one, and a figure that was
not said is not zero.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from exitfsm.kinds import OrderEnd
from exitfsm.lifecycle import State
from exitfsm.messages import RecordRead
from exitfsm.ports import Capabilities
from exitfsm.position.order import ExitOrder
from exitfsm.position.state import Position
from exitfsm.values import ZERO, ExecutionReport, ExitType, OrderStatus, TimeInForce, bare, plain, stamp, tradable

#: A broker's answer that may be behind is believed after this many equal ones in a row.
READS_MIN = 3
#: A list of positions without any must be so for this long, in seconds, before that says something of one.
EMPTY_S = 300.0
#: A broker's date of a fact may lie so far beside what we know of its time before a person is told.
CLOCKS_APART_MAX = timedelta(seconds=60)
#: How an order ended, by the status that ends it short.
HOW = {
    OrderStatus.REJECTED: OrderEnd.REJECTED,
    OrderStatus.CANCELED: OrderEnd.CANCELED,
    OrderStatus.EXPIRED: OrderEnd.EXPIRED,
}
#: What can say that an order is over.
_ENDS = frozenset({*HOW, OrderStatus.FILLED, OrderStatus.DONE_FOR_DAY})


class Stage(StrEnum):
    """Where the order stands that a report is about."""

    PENDING = "pending"  # the current one; the broker has said nothing of it
    WORKING = "working"  # the current one; the broker has it
    CANCELING = "canceling"  # the current one; its cancel is asked for
    OVER = "over"  # the current one; it has ended, or is filled whole
    UNPROTECTED = "unprotected"  # the current one, live or not, of an unprotected position
    EARLIER = "earlier"  # one before the current one


class Kind(StrEnum):
    """What kind of report it is. The first that fits counts."""

    IMPOSSIBLE = "impossible"  # it cannot be about our order, or its figures cannot be
    RESTATED = "restated"  # our order is for another quantity there
    COPY_REFUSED = "copy_refused"  # the broker has the order, and another copy of the request was refused
    CORRECTED = "corrected"  # the broker takes back or changes what it had said of the fills
    OVERFILLED = "overfilled"  # more was filled than the order was for
    REVIVED = "revived"  # an order that was refused works all the same
    REPLACED = "replaced"  # somebody replaced it: what works now has another id
    CANCEL_REFUSED = "cancel_refused"  # the broker will not cancel it, as it was asked to
    REFUSED = "refused"  # it was rejected or refused, with nothing filled
    UNSAID = "unsaid"  # it is called filled, with a quantity of 0: how much, and whether, nobody says
    ENDED = "ended"  # it is over, with quantity left
    NEWS = "news"  # it works, or what more it has filled


#: What a status is a report of, where it fits.
_SPECIAL = {
    OrderStatus.REPLACED: Kind.REPLACED,
    OrderStatus.CANCEL_REJECTED: Kind.CANCEL_REFUSED,
    OrderStatus.REJECTED: Kind.REFUSED,
}


class News(msgspec.Struct, frozen=True, gc=False):
    """A report beside what is known of its order.

    Attributes:
        p, order, stage: the position, which of its orders the report is about, and where that stands.
        report, at: the report, and when it was heard.
        broker: what the broker can do.
        impossible: why it cannot be about the current order; empty when it can.
        filled: the cumulative quantity that the report and what is known amount to.
        grown: how much more that is than was known; below zero where some was taken back.
    """

    p: Position
    order: ExitOrder
    stage: Stage
    report: ExecutionReport
    at: datetime
    broker: Capabilities
    impossible: str
    filled: Decimal
    grown: Decimal

    @property
    def average(self) -> Decimal | None:
        """The average price that the report brings; None when it is none."""
        average = self.report.avg_fill_price
        return average if average is not None and tradable(average) and average > 0 else None

    @property
    def completes_the_average(self) -> bool:
        """True when the report brings the average price that an earlier one left out."""
        return self.order.filled_qty > 0 and self.order.avg_fill_price is None and self.average is not None


def news_of(p: Position, report: ExecutionReport, at: datetime, broker: Capabilities) -> News | None:
    """The report beside its order; None for one that is about no order of this position."""
    order = p.find(report.client_order_id)
    if order is None:
        return None
    stage = stage_of(p, order)
    impossible = why_impossible(p, order, report) if stage is not Stage.EARLIER else ""
    filled = order.filled_qty if impossible else filled_by(order, stage, report)
    return News(p, order, stage, report, at, broker, impossible, filled, filled - order.filled_qty)


def held_within(p: Position, at: datetime, now: datetime) -> datetime:
    """A broker's time of a fact about an exit, held between the decision to exit and now: it is evidence, no clock.

    Of an exit that was found at the broker it is not known when it was decided; there the entry is the bound.
    """
    decided = p.triggered_at if p.reason is not ExitType.RECOVERED else None
    return max(min(decided or p.opened_at, now), min(at, now))


def dated(p: Position, r: ExecutionReport, now: datetime) -> tuple[ExecutionReport, str]:
    """The report with a time that it can have, and what a person is told where it said quite another one."""
    if r.client_order_id == p.client_order_id:
        at = held_within(p, r.at, now)
    else:  # an earlier order, perhaps of a decision before this one
        at = max(min(p.opened_at, now), min(r.at, now))
    if at == r.at:
        return r, ""
    text = ""
    if abs(r.at - at) > CLOCKS_APART_MAX:
        said = f"the broker dates its report of order {r.client_order_id} {stamp(r.at)}"
        why = "a clock is wrong, or the store is an older copy"
        text = f"{said}, before the exit was decided or in the future ({why}): it counts as of {stamp(at)}"
    return replace(r, at=at), text


_BY_STATE = {
    State.PENDING: Stage.PENDING,
    State.SUBMITTED: Stage.WORKING,
    State.PARTIAL: Stage.WORKING,
    State.CANCELING: Stage.CANCELING,
}


def stage_of(p: Position, order: ExitOrder) -> Stage:
    """Where an order of a position stands."""
    if order is not p.orders[-1]:
        return Stage.EARLIER
    if p.state is State.UNPROTECTED:
        return Stage.UNPROTECTED
    return _BY_STATE.get(p.state, Stage.OVER) if order.live else Stage.OVER


def filled_by(order: ExitOrder, stage: Stage, r: ExecutionReport) -> Decimal:
    """Cumulative quantity: what the report says, never below what is known unless it is a correction.

    A current order that is reported filled without a figure is filled whole; of an earlier one the figure must be said.
    """
    said = r.filled_qty
    if said is None:
        return order.qty if r.status is OrderStatus.FILLED and stage is not Stage.EARLIER else order.filled_qty
    if stage is Stage.EARLIER and (not _is_quantity(said) or said == order.filled_qty):
        return order.filled_qty  # as it was said first: 6 and 6.0 are not the same bytes
    return said if r.corrected else max(said, order.filled_qty)


def why_impossible(p: Position, order: ExitOrder, r: ExecutionReport) -> str:
    """Why the order under our id cannot be ours; empty when it can."""
    if r.symbol is not None and bare(r.symbol) != bare(p.symbol):
        return f"order {r.client_order_id} at the broker is for {r.symbol}, not {p.symbol}"
    if r.side is not None and r.side is not p.side.exit_side:
        return f"order {r.client_order_id} at the broker is a {r.side}, not a {p.side.exit_side}"
    if r.qty is not None and not _is_quantity(r.qty):
        return f"order {r.client_order_id} at the broker is for {plain(r.qty)}, not {plain(order.qty)}"
    if r.filled_qty is not None and not _is_quantity(r.filled_qty):
        return f"order {r.client_order_id} is reported with a filled quantity of {plain(r.filled_qty)}"
    return ""


def _is_quantity(value: Decimal) -> bool:
    return tradable(value) and value >= 0


def kind_of(n: News) -> Kind:
    """What kind of report it is."""
    if n.stage is Stage.EARLIER:
        return Kind.REVIVED if _is_revived(n) else Kind.NEWS
    changed = _kind_of_change(n)
    if changed is not None:
        return changed
    if _is_revived(n):
        return Kind.REVIVED
    special = _SPECIAL.get(n.report.status)
    if special is not None and (
        special is Kind.REPLACED
        or (special is Kind.CANCEL_REFUSED and n.stage is Stage.CANCELING)
        or (special is Kind.REFUSED and n.filled == 0)
    ):
        return special
    if is_unsaid(n.report) and not n.filled:
        return Kind.UNSAID
    return Kind.ENDED if how_ended(n) else Kind.NEWS


def _kind_of_change(n: News) -> Kind | None:
    """In what the report contradicts what is known of the current order; None where it does not."""
    if n.impossible:
        return Kind.IMPOSSIBLE
    if _is_restated(n):
        return Kind.RESTATED
    if n.report.refused_at_submit and n.stage in (Stage.WORKING, Stage.CANCELING):
        return Kind.COPY_REFUSED
    if n.report.corrected and (n.grown != 0 or is_repriced(n)):
        return Kind.CORRECTED
    return Kind.OVERFILLED if n.filled > n.order.qty else None


def _is_restated(n: News) -> bool:
    """True when the order at the broker is for another quantity than we know, and that matters.

    For an order that is over, less changes nothing, and what it could not sell by that anyway is older news.
    """
    qty = n.report.qty
    if not qty or qty == n.order.qty:
        return False
    return n.stage is not Stage.OVER or (qty > n.order.qty and not sells_no_more(n, qty))


def sells_no_more(n: News, qty: Decimal) -> bool:
    """True when the order, made one for `qty`, can sell no more than is left."""
    known = n.order.filled_qty
    said = known if n.report.filled_qty is None else n.report.filled_qty
    return ZERO <= qty - said <= n.p.remaining_qty - (said - known)


def is_repriced(n: News) -> bool:
    """True when a correction brings another average price of what is filled."""
    return n.order.filled_qty > 0 and n.average not in (None, n.order.avg_fill_price)


def _is_revived(n: News) -> bool:
    """True where the broker shows an order live that it had refused: another copy of the request came after that."""
    status = n.report.status
    return n.order.ended_how == "refused" and not status.terminal and status is not OrderStatus.CANCEL_REJECTED


def how_ended(n: News) -> str:
    """How a live order ended by this report; empty where it goes on, is filled whole, or its fills are not said."""
    r, order = n.report, n.order
    if n.filled == order.qty:
        cut_short = order.restated and n.p.remaining_qty - n.p.keep_qty > n.grown
        return "canceled" if cut_short else ""
    if r.status not in _ENDS:
        return ""
    if r.status is OrderStatus.FILLED:
        return "canceled"  # the broker calls it filled with less than we asked for: it is over, and short
    if r.status in (OrderStatus.CANCELED, OrderStatus.EXPIRED) and r.filled_qty is None:
        return ""  # with how much filled? Our own count is no record: the order is looked up
    if is_done_for_good(order, r):
        return "expired"
    how = HOW.get(r.status, "")
    return "refused" if how and r.refused_at_submit and n.filled == 0 else how


def is_unsaid(r: ExecutionReport) -> bool:
    """True for a report that calls an order filled, and says that it filled nothing: it contradicts itself."""
    return r.status is OrderStatus.FILLED and r.filled_qty == 0


def is_over(order: ExitOrder, r: ExecutionReport) -> bool:
    """True where a report of an order says that nothing can fill by it any more."""
    return (r.status.terminal and not is_unsaid(r)) or is_done_for_good(order, r)


def is_done_for_good(order: ExitOrder, r: ExecutionReport) -> bool:
    """True for a day order that is done for the day and of which the broker says that nothing is left to fill.

    Of an order that was found at the broker it is not known for how long it was sent.
    """
    if r.status is not OrderStatus.DONE_FOR_DAY or r.filled_qty is None:
        return False
    none_left = r.leaves_qty is not None and r.leaves_qty.is_finite() and r.leaves_qty == 0
    return none_left and order.time_in_force == TimeInForce.DAY and not order.found


def is_proved_over(order: ExitOrder, record: RecordRead, broker: Capabilities) -> bool:
    """True where the broker's own record proves that an order of which the end was reported can fill no more.

    That no record is shown proves something of an order that was refused; and, several times in a row, of one that was
    rejected, and of any at a broker that shows working orders only. One that shows ended orders, too, would show what
    was canceled or has expired: there it is a contradiction.

    Args:
        order: the order.
        record: what the look-up said.
        broker: what the broker shows.
    """
    if record.report is not None:
        return is_over(order, record.report)
    would_show_it = record.by_id and broker.lookup_sees_closed and order.ended_how != "rejected"
    return order.ended_how == "refused" or (record.times >= READS_MIN and not would_show_it)
