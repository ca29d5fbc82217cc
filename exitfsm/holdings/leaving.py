"""Whether an exit order may leave, and how large: the answer just before it does.

What was true before a wait is not taken for true here. One exit of a holding leaves after the other. An order is never
larger than what is ours, nor than what a read shows that began after the last order's final record; where the books say
nothing, the venue is the guard, if it is one: if it refuses an order for more than is held. That it takes what an order
is to sell from what is available guards against a second order, not against what others have sold.

Where the size is still open, the answer is the size. Where an intent is durable, its order leaves whole or not at all:
that less is held is a refusal, which no reads but such as agree, and no executions but such as explain it, may bring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

import msgspec

from exitfsm.errors import OrderRefused
from exitfsm.holdings.beside import FRESH_S, Beside, another_goes_first
from exitfsm.holdings.executions import sold_by_others
from exitfsm.holdings.facts import BEFORE, Failed, Instrument, Key, Memory, Read, Scope, Watched
from exitfsm.holdings.reads import Count, agreed_qty, last_qty
from exitfsm.holdings.rows import Said, Shown, Silent, is_worth_sending, leaves, net, sellable, sign
from exitfsm.holdings.units import factor_of
from exitfsm.position import Action, Position, Submit
from exitfsm.values import ZERO, Fill, exactly, floor_to, plain

#: A clean read so many seconds old still says that so much was held, where none is answered any more.
SHOWN_LAST_S = 60.0
#: A quantity that was refused for its value is tried again once it is worth so much more.
_WORTH_MORE = Decimal("1.005")


class Working(msgspec.Struct, frozen=True, kw_only=True):
    """A working order of the account that closes the holding: ours or not.

    `qty` is what it may still fill; None where it does not say that.
    """

    order_id: str
    qty: Decimal | None
    broker_order_id: str | None = None


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """The order of a durable intent, and what is known of it and beside it. Times are monotonic seconds.

    Attributes:
        order: what was owed when its turn was asked for. `owed`: what its position owes now.
        position: as it is now, or as it was last. `beside`: the others of its symbol.
        asked: when the first of what was read for it was asked for. `fresh_s`: how old that may be.
        is_held_back: another exit of ours works that belongs to no known position, or might.
        may_have_left: an earlier copy of the order may still arrive at the broker.
        is_gap: its trigger is so far from the price before that the unit may have changed. Where the venue is the guard
            no read sizes an order: there the shell looks at that before its turn.
        executions: those in its symbol, where less is held than it is for.
        count: what the reads before have shown of its position.
    """

    order: Submit
    position: Position
    owed: Action | None
    beside: tuple[Beside, ...] = ()
    asked: float = 0.0
    fresh_s: float = FRESH_S
    is_held_back: bool = False
    may_have_left: bool = False
    is_gap: bool = False
    executions: Sequence[Fill] = ()
    count: Count | None = None

    @property
    def qty(self) -> Decimal:
        """What the order is for."""
        return self.order.order.qty


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
        failed: reads in a row that said nothing of the holding. `looks`: those for this order that said something.
        ours: in scope by ids, what is ours at most by the executions that are known (`ours_at_most`); None otherwise.
        intent: the order of a durable intent; None where the size is still open.
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
    looks: int = 1
    ours: Decimal | None = None
    intent: Intent | None = None


class Send(NamedTuple):
    """It may leave, for so much."""

    qty: Decimal


class Short(NamedTuple):
    """Less is held than the order of an intent is for: it is not sent, and that is a refusal."""

    held: Decimal


class Wait(NamedTuple):
    """Not before this was asked again: `what` is one of those below; `alarm` where a person should know why.

    owed: what the position owes. beside: the other exits of the holding. reads, record, orders, executions: the
    broker's. unit: whether it has changed. price: the next one.
    """

    what: str
    alarm: str = ""


class Blocked(NamedTuple):
    """An order is in the way, or nothing shows what is held: a person must look."""

    alarm: str
    by: tuple[str, ...] = ()


Permit = Send | Short | Wait | Blocked
_Row = Callable[[Leaving], Permit | None]


def more_than_held(qty: Decimal, short: Short) -> OrderRefused:
    """That refusal."""
    return OrderRefused("more_than_held", f"{plain(qty)} to sell, and {plain(short.held)} is held")


@exactly
def may_send(leaving: Leaving) -> Permit:
    """The first row that applies; the last one is the size."""
    for row in _FIRST:
        permit = row(leaving)
        if permit is not None:
            return permit
    read, intent = leaving.read, leaving.intent
    shown = net(read, leaving.key, hedge=leaving.instrument.hedge) if isinstance(read, Read) else None
    if isinstance(shown, Silent) and shown.kind == "both_sides":
        return Blocked("both_sides")
    if intent is not None:
        return _whole(leaving, intent, shown if isinstance(shown, Shown) else None)
    if not isinstance(shown, Shown) or shown.said is Said.EMPTY:
        return _unseen(leaving)
    for said in (_other_unit, _refused, _foreign, _not_there):
        answer = said(leaving, shown)
        if answer is not None:
            return answer
    return _sized(leaving, shown)


def _not_owed(leaving: Leaving) -> Permit | None:
    """Something else was learned while it waited, or what was read for it is old."""
    intent = leaving.intent
    if intent is None:
        return None
    is_old = leaving.now - intent.asked > intent.fresh_s
    return Wait("owed") if is_old or intent.owed != intent.order else None


def _after_another(leaving: Leaving) -> Permit | None:
    intent = leaving.intent
    if intent is None:
        return None
    waits = another_goes_first(intent.position, intent.beside, intent.asked, leaving.now, intent.may_have_left)
    return Wait("beside") if waits else None


def _no_record(leaving: Leaving) -> Permit | None:
    """The end of an order counts once its record was asked for after the last moment at which it could fill."""
    late = leaving.instrument.late_fill_s
    return None if all(order.is_final(late) for order in leaving.position.orders) else Wait("record")


def _twins(leaving: Leaving) -> Permit | None:
    """Two working orders of one id; and an exit under our prefix that is nobody's we know goes first."""
    if leaving.intent is not None and leaving.intent.is_held_back:
        return Wait("orders")
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
        return None if _is_guard(leaving, leaving.intent) else Wait("reads")
    if isinstance(read, Failed):
        return None
    since = max([leaving.since, *(order.read for order in leaving.position.orders if not order.dead)])
    learned = max((c.at for c in leaving.memory.changes), default=BEFORE)
    if read.begin < since or learned > read.begin - leaving.instrument.lag_s:
        return Wait("reads")
    return Wait("reads") if read.begin - leaving.instrument.lag_s < leaving.memory.unit_at else None


_FIRST: tuple[_Row, ...] = (_not_owed, _after_another, _no_record, _twins, _too_old)


def _is_guard(leaving: Leaving, intent: Intent | None) -> bool:
    """True where the venue refuses an order for more than is held, and only one side can be meant."""
    if intent is None or not leaving.instrument.reduce_only:
        return False
    return all(other.position.side is intent.position.side for other in intent.beside)


# --- the order of an intent: whole, or not at all ---------------------------------------------------------------------


def _whole(leaving: Leaving, intent: Intent, shown: Shown | None) -> Permit:
    """Less counts when the executions say the same, or when it is shown often enough."""
    if _is_guard(leaving, intent):
        return Send(intent.qty)
    if shown is None:
        return _unseen_whole(leaving, intent)
    held = _share(leaving, shown)
    if intent.is_gap and not intent.beside and _is_other_unit(leaving, shown):
        return Wait("unit")
    blocked = _beside_others(leaving, held)
    if blocked is not None:
        return blocked
    if held >= intent.qty:
        return Send(intent.qty)
    explained = sold_by_others(intent.position, intent.executions, unsent=True) >= intent.qty - held
    return Short(held) if explained or leaving.looks >= leaving.instrument.reads_min else Wait("reads")


def _unseen_whole(leaving: Leaving, intent: Intent) -> Permit:
    """Looks that fail hold up no first send for long, unless the last that did not fail showed less.

    How old that one is does not count, as it does where the size is open: what is watched is on record, and books that
    answer nothing for minutes come with the prices that stops are for.
    """
    p, count = intent.position, intent.count
    agreed, last = agreed_qty(count, p), last_qty(count, p)
    if agreed is not None and agreed < intent.qty:
        return Short(agreed)
    if leaving.failed < leaving.instrument.reads_min:
        return Wait("reads")
    if intent.may_have_left or (last is not None and last < intent.qty):
        return Blocked("exit_held_back")
    return Send(intent.qty)


def _share(leaving: Leaving, shown: Shown) -> Decimal:
    """What of it is the position's: what is missing is missing of the oldest first; on the other side it is negative.

    One that sold too much takes nothing from the others.
    """
    p, held = leaving.position, _held(leaving, shown)
    if held < 0:
        return held
    at = [q.name for q in leaving.watched].index(p.name)
    older = sum((max(ZERO, q.left) for q in leaving.watched[:at]), ZERO)
    younger = sum((max(ZERO, q.left) for q in leaving.watched[at + 1 :]), ZERO)
    left = max(ZERO, p.left)
    missing = left + older + younger - held
    if missing <= 0:
        return held - older - younger
    return min(left, max(ZERO, left - max(ZERO, missing - older)))


# --- a size that is open ----------------------------------------------------------------------------------------------


def _unseen(leaving: Leaving) -> Permit:
    """Rows 9 and 10: nothing shows what is held."""
    p, instrument = leaving.position, leaving.instrument
    if instrument.reduce_only:
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
    return Wait("unit") if _is_other_unit(leaving, shown) else None


def _is_other_unit(leaving: Leaving, shown: Shown) -> bool:
    p, average, held = leaving.position, shown.average, _held(leaving, shown)
    return bool(average) and held != p.left and factor_of(p.left, p.entry, held, average or ZERO) is not None


def _refused(leaving: Leaving, shown: Shown) -> Permit | None:
    """Row 11: refused as more than is held: not again before a read agrees."""
    refused = leaving.memory.refused
    if refused == BEFORE or leaving.read is None:
        return None
    agrees = leaving.read.begin >= refused and _held(leaving, shown) == leaving.position.left
    return None if agrees else Wait("reads")


def _foreign(leaving: Leaving, shown: Shown) -> Permit | None:
    return _beside_others(leaving, _held(leaving, shown))


def _beside_others(leaving: Leaving, held: Decimal) -> Permit | None:
    """Row 5: another's closing order works, and together they would sell more than is there."""
    if leaving.instrument.reduce_only or leaving.instrument.reserves:
        return None
    others = [order for order in leaving.working or () if not leaving.scope.is_exit(order.order_id)]
    leave = [order.qty for order in others if order.qty is not None]
    asked = sum(leave, ZERO)
    if len(leave) == len(others) and (not asked or asked + leaving.position.left <= held):
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
