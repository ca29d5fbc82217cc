"""What a read of the broker's positions means for a position.

A read proves little by itself: a list may be behind, empty, or older than what an order has reported since. It counts
by how often in a row it shows the same, and by what the executions say. It is as old as its beginning: what became due
or known later is not decided on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from enum import Enum

import msgspec

from exitfsm.holdings.executions import (
    ORDER_PREFIX,
    average_entry,
    entered_anew,
    is_since,
    net_traded,
    sold_by_others,
    surplus,
)
from exitfsm.holdings.symbols import bare, same_symbol
from exitfsm.lifecycle import State
from exitfsm.messages import Known, PositionRead, RecordRead
from exitfsm.ports import Capabilities
from exitfsm.position import READS_MIN, Position, is_proved_over
from exitfsm.values import ZERO, BrokerPosition, Fill, exactly, tradable

#: A time before everything.
NEVER = -math.inf
#: What is expected of a position and of the others of its holding, by their ids: the broker shows them in one row.
Expected = tuple[tuple[str, Known], ...]


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What one read of the broker's positions showed.

    Attributes:
        rows: the rows that could be read.
        began: monotonic seconds at which the read began; it is as old as that, however long the answer took.
        unreadable: symbols of rows that could not be read; empty text for one that does not even name its symbol.
        exact: the books cannot be behind (a simulated venue), so that one read says what several in a row do.
    """

    rows: tuple[BrokerPosition, ...] = ()
    began: float = NEVER
    unreadable: frozenset[str] = frozenset()
    exact: bool = False


class Executions(msgspec.Struct, frozen=True, kw_only=True):
    """The executions in a position's symbol since its entry, oldest first.

    Attributes:
        items: the executions; none where they could not be had.
        offered: the broker lists executions.
        shared: another position of the symbol is open, so that not all of them are this one's.
    """

    items: tuple[Fill, ...] = ()
    offered: bool = True
    shared: bool = False


class Count(msgspec.Struct, frozen=True, gc=False):
    """How often in a row the books showed the same quantity for a position while the same was expected.

    `began` is when the newest of these reads began: one read counts once, however many callers shared it.
    """

    qty: Decimal
    expected: Known
    reads: int
    began: float


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a position when a read of the broker's positions is weighed.

    Attributes:
        position, beside: the position, and the others of its symbol and side.
        expected: what `expect` said of them before the read began; None where the position was not watched then.
        read: the read.
        began: when it began, in the position's own time.
        broker: what the broker can do.
        record: the record of the newest order, where its end was reported; None until it was read.
        executions: None until they were read.
        next_order_known: the broker was asked for the order of the next attempt, or cannot be asked.
    """

    position: Position
    beside: tuple[Position, ...]
    expected: Expected | None
    read: Read
    began: datetime
    broker: Capabilities
    record: RecordRead | None = None
    executions: Executions | None = None
    next_order_known: bool = False


class Need(Enum):
    """Nothing can be concluded before this was read: the shell reads it, and asks again."""

    RECORD = "the record of the position's newest order"
    EXECUTIONS = "the executions in its symbol"
    NEXT_ORDER = "the order of its next attempt: another machine, or a lost life, may have sent it"


class Nothing(msgspec.Struct, frozen=True):
    """The read shows what is expected, or is no proof."""


class Holds(msgspec.Struct, frozen=True):
    """So much is held for the position, as shown by so many reads in a row: the position decides what follows."""

    qty: Decimal
    entry_price: Decimal | None
    reads: int


class Closed(msgspec.Struct, frozen=True):
    """The position was closed by others: what is held now was entered anew, and is another position."""


class Missing(msgspec.Struct, frozen=True):
    """The broker lists no position at all, and nothing explains it."""


Conclusion = Need | Nothing | Holds | Closed | Missing


def known(p: Position) -> Known:
    """What a read of the broker's positions is held against."""
    return p.state, p.remaining_qty, p.client_order_id


def expect(p: Position, beside: Iterable[Position]) -> Expected:
    """What is known of a position and of the others of its holding; taken before a read, it shows one overtaken."""
    return tuple(sorted((q.position_id, known(q)) for q in (p, *beside)))


def is_silent(read: Read, symbol: str) -> bool:
    """True when the symbol may be held although no readable row says so: that it is missing proves nothing."""
    if not read.unreadable or any(bare(row.symbol) == bare(symbol) for row in read.rows):
        return False
    return not read.unreadable.isdisjoint(("", bare(symbol)))


@exactly
def net(read: Read, p: Position, beside: Sequence[Position]) -> tuple[Decimal, Decimal | None]:
    """The broker's quantity for a position, less what the others of its holding have left; and its average entry.

    Where it shows less than all of them together, that is missing of the oldest first. What is held on the other side
    is negative.
    """
    row = next((row for row in read.rows if same_symbol(row.symbol, p.symbol)), None)
    if row is not None and row.side is not p.side:
        return -row.qty, None
    shown, others = row.qty if row is not None else ZERO, _left(beside)
    missing = _left([p]) + others - shown
    if missing > ZERO:
        missing -= _left([q for q in beside if is_older(q, p)])
        shown_of_it = min(_left([p]), max(ZERO, _left([p]) - missing))
    else:
        shown_of_it = shown - others
    entry = row.avg_entry_price if row is not None and not others else None
    return shown_of_it, entry if entry is not None and tradable(entry) and entry > 0 else None


def _left(positions: Sequence[Position]) -> Decimal:
    """What is still to sell of these together; one that sold too much takes nothing from the others."""
    return sum((max(ZERO, p.remaining_qty) for p in positions), ZERO)


def is_older(one: Position, other: Position) -> bool:
    """True when the first was opened before the second."""
    return (one.opened_at, one.position_id) < (other.opened_at, other.position_id)


def is_shared(p: Position, watched: Iterable[Position]) -> bool:
    """True when another position of the symbol is open, so that not all of its executions are this one's."""
    return any(q.position_id != p.position_id and same_symbol(q.symbol, p.symbol) for q in watched)


def may_have_exited(e: Evidence, conclusion: Conclusion) -> bool:
    """True where less is held of a watched position, and an exit of ours may have sold it that the store forgot.

    So it is with an old copy of the store that was put back: the broker knows our order by its id.
    """
    p, executions = e.position, e.executions
    if p.state is not State.MONITORING:
        return False
    if isinstance(conclusion, Missing):
        return True
    if not isinstance(conclusion, Holds) or conclusion.qty >= p.remaining_qty:
        return False
    if executions is None or not executions.offered:
        return True
    sold = [f.client_order_id for f in executions.items if f.side is p.side.exit_side]
    return any(one is None or (one.startswith(ORDER_PREFIX) and p.find(one) is None) for one in sold)


def executions_of(p: Position, fills: Iterable[Fill], *, listed: bool) -> tuple[Fill, ...]:
    """The executions in a position's symbol since its entry, oldest first: what was sold before is no sale of it.

    Args:
        listed: they are the broker's list, which may hold more than it was asked for, at times that are cut off;
            otherwise the bot's order updates reported them.
    """
    ours = [f for f in fills if same_symbol(f.symbol, p.symbol)]
    since = [f for f in ours if (is_since(f, p.opened_at) if listed else f.at >= p.opened_at)]
    return tuple(sorted(since, key=lambda fill: fill.at))


def count(memory: Count | None, p: Position, qty: Decimal, began: float) -> tuple[int, Count]:
    """How often in a row this much was shown, by a read that began then; and what is to be remembered of that.

    A read that is older than the newest one, or that other callers have counted, adds nothing.
    """
    if memory is None or memory.expected != known(p):
        memory = Count(qty, known(p), 0, NEVER)
    elif memory.qty != qty:
        if began <= memory.began:
            return 1, memory
        memory = Count(qty, known(p), 0, NEVER)
    if began > memory.began:
        memory = Count(qty, memory.expected, memory.reads + 1, began)
    return memory.reads, memory


def agreed_qty(memory: Count | None, p: Position) -> Decimal | None:
    """What the newest reads agree is held for a position; None where they do not, or more was learned since."""
    if memory is None or memory.expected != known(p) or memory.reads < READS_MIN:
        return None
    return memory.qty


def last_qty(memory: Count | None, p: Position) -> Decimal | None:
    """What the newest read showed, if only once; None where orders have filled something since: a reason to ask again.

    No proof.
    """
    return memory.qty if memory is not None and memory.expected[1] == p.remaining_qty else None


def agreement(p: Position, shown: Sequence[Decimal]) -> bool | None:
    """Whether reads in a row agree on what is held for a position; None where one more is needed.

    Less than is left counts only where `READS_MIN` of them say the same.
    """
    if shown[-1] >= p.remaining_qty:
        return True
    if len(set(shown)) > 1:
        return False
    return True if len(shown) >= READS_MIN else None


@exactly
def weigh(e: Evidence, memory: Count | None) -> tuple[Conclusion, Count | None]:
    """What a read means for a position, and what is to be remembered for the next one.

    A read that began before the newest was learned about the position, or about one beside it, proves nothing. Asked
    again with the same evidence, it concludes the same, and counts the read no second time.
    """
    p = e.position
    if e.expected != expect(p, e.beside) or is_silent(e.read, p.symbol):
        return Nothing(), memory
    qty, entry = net(e.read, p, e.beside)
    due = p.next_attempt_at is not None and e.began >= p.next_attempt_at
    if (due or p.remaining_qty <= ZERO or qty < p.remaining_qty) and _lacks_record(e):
        return Need.RECORD, memory
    if due and _lacks_next_order(e):
        return Need.NEXT_ORDER, memory
    if p.state is State.MONITORING and qty == p.remaining_qty and entry in (None, p.entry_price):
        return Nothing(), None
    if _lacks_executions(e, qty):
        return Need.EXECUTIONS, memory
    return _explained(e, qty, entry, memory)


def _lacks_record(e: Evidence) -> bool:
    """True where an attempt, or the position's end, rests on the record of an order whose end was only reported."""
    p = e.position
    ended = p.client_order_id is not None and not p.order_live and p.state in (State.REJECTED, State.UNPROTECTED)
    return ended and e.record is None


def _lacks_next_order(e: Evidence) -> bool:
    """True where the next attempt may be the broker's already: what it sells would look as if others had sold it."""
    p = e.position
    if e.next_order_known or e.record is None or p.state is not State.REJECTED or p.remaining_qty <= ZERO:
        return False
    return is_proved_over(p.order, e.record, e.broker)


def _lacks_executions(e: Evidence, qty: Decimal) -> bool:
    """True where what is shown must be held against the executions; not where exact books show what is expected."""
    p = e.position
    if e.executions is not None or (e.read.exact and qty == p.remaining_qty):
        return False
    return qty != p.remaining_qty or p.state is State.MONITORING or not p.order_live


def _explained(e: Evidence, qty: Decimal, entry: Decimal | None, memory: Count | None) -> tuple[Conclusion, Count]:
    """What the quantity means beside the executions."""
    p, listed = e.position, e.executions or Executions()
    if entry is None and qty > p.remaining_qty:
        entry = average_entry(listed.items, p.side)  # the broker shows no average: what was bought on says it
    shown, qty = qty, qty - surplus(p, qty, listed.items)
    reads, memory = count(memory, p, qty, e.read.began)
    reads = max(reads, READS_MIN) if e.read.exact else reads
    if _is_another(e, listed, shown, reads):
        return Need.RECORD if _lacks_record(e) else Closed(), memory
    if qty < p.remaining_qty and sold_by_others(p, listed.items) >= p.remaining_qty - qty:
        reads = max(reads, READS_MIN)  # two sources agree
    elif not e.read.rows and not e.read.exact and p.remaining_qty > ZERO:
        missing = reads >= READS_MIN and p.state is not State.UNPROTECTED and not p.order_live
        return Missing() if missing else Nothing(), memory
    elif _may_be_another(e, listed, qty, reads):
        return Nothing(), memory
    return Holds(qty, entry, reads), memory


def _is_another(e: Evidence, listed: Executions, shown: Decimal, reads: int) -> bool:
    """True where what is held is another position, with a first fill of its own; this one was sold by others."""
    p = e.position
    at_rest = p.state is State.MONITORING or not p.order_live
    return at_rest and shown > ZERO and not listed.shared and entered_anew(listed.items, p.side, shown, reads)


def _may_be_another(e: Evidence, listed: Executions, qty: Decimal, reads: int) -> bool:
    """True where more is held, and before its executions are there it may just as well have been entered anew."""
    p = e.position
    grew = p.state is State.MONITORING and qty > p.remaining_qty and reads < READS_MIN
    return grew and listed.offered and net_traded(listed.items, p.side) != qty


def position_read(e: Evidence, conclusion: Holds | Closed, at: datetime) -> PositionRead:
    """The message to a position that carries the conclusion."""
    holds = Holds(ZERO, None, READS_MIN) if isinstance(conclusion, Closed) else conclusion
    return PositionRead(
        at=at,
        began=e.began,
        qty=holds.qty,
        avg_entry_price=holds.entry_price,
        reads=holds.reads,
        known=known(e.position),
        record=e.record,
    )
