"""What a symbol's executions say: when a position began, at which average, and what others than we sold of it.

Lists of fills in, figures out, exact in whatever decimal context they are called.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from exitfsm.lifecycle import State
from exitfsm.order_ids import looks_like_exit
from exitfsm.position import READS_MIN, Position
from exitfsm.position.attempting import is_price
from exitfsm.values import ZERO, ExecutionReport, Fill, OrderStatus, Side, exactly, rounded

#: How much older than the newest row a sale may be that explains an empty list, beside the lag: clocks differ.
LATELY_S = 5.0


@exactly
def first_since_flat(fills: Sequence[Fill], side: Side, qty: Decimal) -> datetime | None:
    """The time of the fill, of these, oldest first, that opened what is held now; None when they do not reach it."""
    at = _opening_of(fills, side, qty)
    return fills[at].at if at is not None else None


def _opening_of(fills: Sequence[Fill], side: Side, qty: Decimal) -> int | None:
    """Walk back from what is held now to the fill that opened it."""
    held = qty
    for at in reversed(range(len(fills))):
        opening = fills[at].side is not side.exit_side
        held = held - fills[at].qty if opening else held + fills[at].qty
        if opening and held <= 0:
            return at
    return None


def is_since(fill: Fill, since: datetime) -> bool:
    """True for an execution at or after a time, as far as its own time tells: many brokers cut theirs off."""
    step = next(step for step in (1_000_000, 1000, 1) if fill.at.microsecond % step == 0)
    return fill.at >= since.replace(microsecond=since.microsecond // step * step)


def closed_since(fills: Iterable[Fill], side: Side, read: datetime, seconds: float) -> bool:
    """True where something was closed no longer than so many seconds before a read: it may explain an empty list.

    It explains no row that was there after it. So it is after a split during an exit: executions of two units may come
    to nothing while something is held.
    """
    since = (
        read - timedelta(seconds=seconds + LATELY_S)
        if math.isfinite(seconds)
        else datetime.min.replace(tzinfo=read.tzinfo)
    )
    return any(fill.side is side.exit_side and fill.at >= since for fill in fills)


@exactly
def net_traded(fills: Iterable[Fill], side: Side) -> Decimal:
    """What these executions together opened, less what they closed."""
    return sum((-fill.qty if fill.side is side.exit_side else fill.qty for fill in fills), ZERO)


@exactly
def entered_anew(fills: Sequence[Fill], side: Side, qty: Decimal, reads: int) -> bool:
    """True when the symbol came to be flat among these executions and was entered anew: it is another position now.

    They are those since the position's first one, oldest first. Where they amount to more than is held, a list lags;
    where to less, earlier sales are among them: that counts once so much was held in `READS_MIN` reads in a row.
    """
    at, traded = _opening_of(fills, side, qty), net_traded(fills, side)
    if at is None or traded > qty or (traded < qty and reads < READS_MIN):
        return False
    return any(fill.side is not side.exit_side for fill in fills[:at])


@exactly
def average_entry(fills: Sequence[Fill], side: Side) -> Decimal | None:
    """The average entry that executions, oldest first, amount to; None where unsaid. A sale leaves it as it is."""
    held, average = ZERO, ZERO
    for fill in fills:
        if fill.side is side.exit_side:
            held -= fill.qty
        elif not is_price(fill.price):
            return None
        elif fill.qty > 0:
            before = max(held, ZERO)
            held = before + fill.qty
            average = before.fma(average, fill.qty * fill.price) / held
    return _rounded(average) if held > 0 else None


def _rounded(price: Decimal) -> Decimal:
    return rounded(price).normalize()


@exactly
def next_epoch_start(fills: Sequence[Fill], previous: Position, side: Side) -> datetime | None:
    """The first fill that is not the ended position's, though it never came to be flat: the next epoch's start.

    It came while the exit was under way, or shortly before it and beyond the quantity that was exited.
    """
    since, left = previous.triggered_at or previous.ended_at, previous.qty
    opening = [f for f in fills if f.side is not side.exit_side and f.at >= previous.opened_at]
    during = [f.at for f in opening if since is not None and f.at >= since]
    beyond = (f.at for f in opening if (left := left - f.qty) < 0)
    return during[0] if during else next(beyond, None)


@exactly
def surplus(p: Position, net: Decimal, fills: Iterable[Fill]) -> Decimal:
    """What of the broker's quantity was bought beyond a position on its way out: it belongs to the next epoch.

    Our own executions may still be missing among the fills, so that they are left out of the sum. Where our orders sold
    more than the position ever was, its quantity is wrong, and nothing is known of what lies beyond it.
    """
    if p.state is State.MONITORING or net <= p.remaining_qty or p.remaining_qty < ZERO:
        return ZERO
    *_, (opened, by_others) = _by_others(p, fills, by_name_only=p.order_live)
    beyond = opened - by_others - (p.qty - p.sold_elsewhere)
    return max(ZERO, min(beyond, net - max(ZERO, p.remaining_qty)))


@exactly
def report_from_executions(p: Position, fills: Iterable[Fill]) -> ExecutionReport | None:
    """What the executions say that a position's ended order has filled, where that is more than is known of it.

    Of an order that the broker has corrected they say nothing: they may be those of before.
    """
    own = p.broker_order_id
    if p.client_order_id in p.corrected_orders:
        return None
    ours = [f for f in fills if f.client_order_id == p.client_order_id or (own and f.broker_order_id == own)]
    filled = sum((f.qty for f in ours), ZERO)
    if filled <= p.filled_qty or not all(is_price(f.price) for f in ours):
        return None
    return ExecutionReport(
        client_order_id=p.client_order_id or "",
        status=OrderStatus.CANCELED,
        at=max(*(f.at for f in ours), p.opened_at),
        filled_qty=filled,
        avg_fill_price=_rounded(sum((f.qty * f.price for f in ours), ZERO) / filled),
        broker_order_id=own,
        symbol=p.symbol,
        side=p.side.exit_side,
    )


@exactly
def sold_by_others(p: Position, fills: Iterable[Fill], *, unsent: bool = False) -> Decimal:
    """What others have certainly sold of a position since its entry, beyond what it accounts for already.

    What is bought on may be what is sold after that. What was sold of a position on its way out before it was bought on
    stays sold: that is another position's. Where the current exit order is `unsent`, no execution can be its.
    """
    ordered = sorted(fills, key=lambda fill: fill.at)
    before = sum(p.triggered_at is None or fill.at < p.triggered_at for fill in ordered)
    sums = list(_by_others(p, ordered, by_name_only=p.order_live and not unsent))[before:]
    certain = max(by_others - max(ZERO, opened - p.qty) for opened, by_others in sums)
    return max(ZERO, certain - p.sold_elsewhere)


@exactly
def say_closed(p: Position, fills: Iterable[Fill]) -> bool:
    """True where executions since its entry say that others sold what was left of a position.

    Of one of which our orders sold all or more by its own record, only if together they leave nothing: that record is
    in doubt then.
    """
    listed = tuple(fills)
    if p.remaining_qty > 0:
        return sold_by_others(p, listed) >= p.remaining_qty
    *_, (_, by_others) = _by_others(p, sorted(listed, key=lambda fill: fill.at), by_name_only=False)
    return by_others > 0 and net_traded(listed, p.side) <= 0


def _by_others(p: Position, fills: Iterable[Fill], *, by_name_only: bool) -> Iterator[tuple[Decimal, Decimal]]:
    """After each execution, what was opened in all, and what others than our exits closed: while one works, by name.

    Of an order whose answer was lost the broker's id is not known: what it may have sold counts as ours first.
    """
    own_ids, sent = p.broker_order_ids, {order.client_order_id for order in p.orders}
    opened = ours = theirs = nameless = ZERO
    yield ZERO, ZERO
    for f in fills:
        if f.side is not p.side.exit_side:
            opened += f.qty
        elif f.client_order_id in sent or looks_like_exit(f.client_order_id) or f.broker_order_id in own_ids:
            ours += f.qty
        elif f.client_order_id or f.broker_order_id:
            theirs += f.qty
        else:
            nameless += f.qty
        if by_name_only:
            yield opened, max(ZERO, theirs - (p.sold_qty - p.filled_qty))
        else:
            yield opened, max(ZERO, ours + theirs + nameless - max(ours, p.sold_qty))
