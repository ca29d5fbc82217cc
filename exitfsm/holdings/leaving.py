"""Whether an exit order may leave, and how large: the answer just before it does.

What was true before a wait is not taken for true here. An order is never larger than what is ours, nor than what a read
shows that began after the last order's final record; where the books say nothing, the venue is the guard, if it is one.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

import msgspec

from exitfsm.holdings.facts import BEFORE, Failed, Instrument, Key, Memory, Read, Scope, Watched
from exitfsm.holdings.rows import Said, Shown, Silent, is_worth_sending, leaves, net, sellable, sign
from exitfsm.holdings.units import factor_of
from exitfsm.values import ZERO, exactly, floor_to

#: A clean read so many seconds old still says that so much was held, where none is answered any more.
SHOWN_LAST_S = 60.0
#: A quantity that was refused for its value is tried again once it is worth so much more.
_WORTH_MORE = Decimal("1.005")


class Working(msgspec.Struct, frozen=True, kw_only=True):
    """A working order of the account that closes the holding: ours or not. `qty` is what it may still fill."""

    order_id: str
    qty: Decimal
    broker_order_id: str | None = None


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """An exit order that is about to leave, and what is known at this moment.

    Attributes:
        position: whose order it is. `watched`: all open positions of the holding.
        read: the newest read of positions.
        since: when the trigger, or a bar after a gap, came: a read before it does not count.
        working: closing orders of the holding that work, asked now; None where the venue lists none.
        ended: ids of exits under our prefix that belong to no order we know and ended just now.
        price: the last accepted price. `refused_value`: a value that was refused as too small.
        shown: what the last clean read showed for the position, and when it began.
        failed: reads in a row that said nothing of the holding.
        ours: in scope by ids, what is ours at most by the executions that are known (`ours_at_most`); None otherwise.
    """

    key: Key
    instrument: Instrument
    memory: Memory
    position: Watched
    watched: tuple[Watched, ...]
    read: Read | Failed | None
    scope: Scope = Scope()
    since: float = BEFORE
    now: float = 0.0
    working: tuple[Working, ...] | None = None
    ended: tuple[str, ...] = ()
    price: Decimal | None = None
    refused_value: Decimal | None = None
    shown: tuple[Decimal, float] | None = None
    failed: int = 0
    ours: Decimal | None = None


class Send(NamedTuple):
    """It may leave, for so much."""

    qty: Decimal


class Wait(NamedTuple):
    """Not before this was asked again: reads, record, orders, unit, price; `alarm` where a person should know why."""

    what: str
    alarm: str = ""


class Blocked(NamedTuple):
    """An order is in the way, or nothing shows what is held: a person must look."""

    alarm: str
    by: tuple[str, ...] = ()


Permit = Send | Wait | Blocked
_Row = Callable[[Leaving], Permit | None]


@exactly
def may_send(leaving: Leaving) -> Permit:
    """The first row that applies; the last one is the size."""
    for row in _FIRST:
        permit = row(leaving)
        if permit is not None:
            return permit
    read = leaving.read
    shown = net(read, leaving.key, hedge=leaving.instrument.hedge) if isinstance(read, Read) else None
    if isinstance(shown, Silent) and shown.kind == "both_sides":
        return Blocked("both_sides")
    if not isinstance(shown, Shown) or shown.said is Said.EMPTY:
        return _unseen(leaving)
    for said in (_other_unit, _refused, _foreign, _not_there):
        answer = said(leaving, shown)
        if answer is not None:
            return answer
    return _sized(leaving, shown)


def _no_record(leaving: Leaving) -> Permit | None:
    late = leaving.instrument.late_fill_s
    return None if all(order.is_final(late) for order in leaving.position.orders) else Wait("record")


def _twins(leaving: Leaving) -> Permit | None:
    """Two working orders of one id; and an exit under our prefix that is nobody's we know goes first."""
    working = leaving.working or ()
    ids = [order.order_id for order in working if order.order_id not in ("", "0")]
    twice = {one for one in ids if ids.count(one) > 1 and leaving.scope.is_exit(one)}
    if twice:
        return Blocked("twin_orders", tuple(sorted(twice)))
    return Wait("orders") if _strangers(leaving) or leaving.ended else None


def _strangers(leaving: Leaving) -> list[str]:
    known = {order.order_id for p in leaving.watched for order in p.orders}
    return [o.order_id for o in leaving.working or () if leaving.scope.is_exit(o.order_id) and o.order_id not in known]


def _too_old(leaving: Leaving) -> Permit | None:
    """The read that sizes began after the trigger, the last record, and everything that changed since."""
    read = leaving.read
    if read is None:
        return Wait("reads")
    if isinstance(read, Failed):
        return None
    since = max([leaving.since, *(order.read for order in leaving.position.orders if not order.dead)])
    learned = max((c.at for c in leaving.memory.changes), default=BEFORE)
    if read.begin < since or learned > read.begin - leaving.instrument.lag_s:
        return Wait("reads")
    return Wait("reads") if read.begin - leaving.instrument.lag_s < leaving.memory.unit_at else None


_FIRST: tuple[_Row, ...] = (_no_record, _twins, _too_old)


def _unseen(leaving: Leaving) -> Permit:
    """Rows 9 and 10: nothing shows what is held."""
    p, instrument = leaving.position, leaving.instrument
    if instrument.reduce_only or instrument.reserves:
        return _worth(leaving, floor_to(p.left, instrument.step))
    if leaving.failed < instrument.reads_min:
        return Wait("reads")
    if leaving.shown is not None and leaving.now - leaving.shown[1] <= SHOWN_LAST_S and leaving.shown[0] >= p.left:
        return _worth(leaving, floor_to(p.left, instrument.step))
    return Blocked("exit_held_back")


def _held(leaving: Leaving, shown: Shown) -> Decimal:
    return shown.qty * sign(leaving.position.side, leaving.key)


def _other_unit(leaving: Leaving, shown: Shown) -> Permit | None:
    """Row 3: quantity and average say that the unit changed: that is settled first, and the trigger judged again."""
    p, average, held = leaving.position, shown.average, _held(leaving, shown)
    if not average or held == p.left or factor_of(p.left, p.entry, held, average) is None:
        return None
    return Wait("unit")


def _refused(leaving: Leaving, shown: Shown) -> Permit | None:
    """Row 11: refused as more than is held: not again before a read agrees."""
    refused = leaving.memory.refused
    if refused == BEFORE or leaving.read is None:
        return None
    agrees = leaving.read.begin >= refused and _held(leaving, shown) == leaving.position.left
    return None if agrees else Wait("reads")


def _foreign(leaving: Leaving, shown: Shown) -> Permit | None:
    """Row 5: another's closing order works, and together they would sell more than is there."""
    if leaving.instrument.reduce_only or leaving.instrument.reserves:
        return None
    others = [order for order in leaving.working or () if not leaving.scope.is_exit(order.order_id)]
    asked = sum((order.qty for order in others), ZERO)
    if not others or asked + leaving.position.left <= _held(leaving, shown):
        return None
    return Blocked("foreign_order", tuple(order.broker_order_id or order.order_id for order in others))


def _not_there(leaving: Leaving, shown: Shown) -> Permit | None:
    """Row 6: nothing is held, or the other side: never the other side's quantity."""
    held, venue_guards = _held(leaving, shown), leaving.instrument.reduce_only
    if shown.said is not Said.ROW and venue_guards:
        return _unseen(leaving)
    if held <= 0 or (held < leaving.position.left and shown.said is not Said.ROW):
        return Wait("reads")
    return None


def _sized(leaving: Leaving, shown: Shown) -> Permit:
    """Rows 6b to 8: what is ours, what is there beside the others' leaves, and what is available."""
    p, instrument = leaving.position, leaving.instrument
    late = instrument.late_fill_s
    beside = sum((leaves(q, leaving.now, late) for q in leaving.watched if q.name != p.name), ZERO)
    size = min(p.left, _held(leaving, shown) - beside)
    if leaving.ours is not None:
        size = min(size, leaving.ours - sum((q.left for q in leaving.watched if q.name != p.name), ZERO))
    if size <= 0:
        return Wait("record" if beside else "executions")
    free = shown.available
    if free is not None and free < size:
        if not sellable(free, instrument):
            return Wait("reads", "not_sellable_now")
        size = free
    return _worth(leaving, size)


def _worth(leaving: Leaving, size: Decimal) -> Permit:
    qty, price, instrument = sellable(size, leaving.instrument), leaving.price, leaving.instrument
    if not qty:
        return Wait("reads")
    refused = leaving.refused_value
    again = price is None or refused is None or qty * price * instrument.multiplier >= refused * _WORTH_MORE
    if not again or not is_worth_sending(qty, price, instrument):
        return Wait("price", "below_least_value")
    return Send(qty)
