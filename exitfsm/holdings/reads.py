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
from msgspec.structs import replace

from exitfsm.holdings.executions import (
    average_entry,
    closed_since,
    entered_anew,
    is_since,
    net_traded,
    sold_by_others,
    surplus,
)  # fmt: skip
from exitfsm.lifecycle import State
from exitfsm.messages import Known, PositionRead, RecordRead
from exitfsm.order_ids import looks_like_exit
from exitfsm.policy import is_jump
from exitfsm.ports import Capabilities
from exitfsm.position import EMPTY_S, READS_MIN, Position, entered_at, is_proved_over
from exitfsm.position.attempting import is_price
from exitfsm.values import ZERO, Bar, BrokerPosition, Fill, Side, bare, exactly, named, rows_of, same_symbol

#: A time before everything.
NEVER = -math.inf
#: That a row is merely absent must be shown for so many times as long as a list of positions can be behind.
ABSENT_BY_LAG = 3
#: What is expected of a position and of the others of its holding, by their ids: the broker shows them in one row.
Expected = tuple[tuple[str, Known], ...]


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """What one read of the broker's positions showed."""

    rows: tuple[BrokerPosition, ...] = ()  # those that could be read
    ended: float = NEVER
    began: float = NEVER  # in monotonic seconds; it is as old as that, however long the answer took
    unreadable: frozenset[str] = frozenset()  # symbols of the others; empty text for one that does not even name it
    exact: bool = False  # the books cannot be behind (a simulated venue): one read says what several in a row do
    hedged: frozenset[str] = frozenset()  # symbols, by their bare names, of which each side is a holding of its own
    both: frozenset[str] = frozenset()  # the others that are shown on both sides: a contradiction

    @property
    def clear(self) -> tuple[BrokerPosition, ...]:
        """The rows that contradict no other."""
        return tuple(row for row in self.rows if bare(row.symbol) not in self.both) if self.both else self.rows

    whole: tuple[BrokerPosition, ...] | None = None  # all rows, where `rows` show no more of them than is ours

    def of_all(self) -> Read:
        """The same with all that the account holds."""
        return self if self.whole is None else replace(self, rows=self.whole)


class Executions(msgspec.Struct, frozen=True, kw_only=True):
    """The executions in a position's symbol since its entry, oldest first."""

    items: tuple[Fill, ...] = ()  # none where they could not be had
    offered: bool = True  # the broker lists executions
    shared: bool = False  # another position of the symbol is open, so that not all of them are this one's


class Count(msgspec.Struct, frozen=True, gc=False):
    """How often in a row the books showed the same quantity for a position while the same was expected."""

    qty: Decimal
    expected: Known
    reads: int
    began: float  # of the newest: one read counts once, however many callers shared it
    since: float = NEVER  # when the first of them began
    shown: float = NEVER  # when the newest read began that showed something of it


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a position when a read of the broker's positions is weighed."""

    position: Position
    beside: tuple[Position, ...]  # the others of its symbol and side
    expected: Expected | None  # of them, before the read began; None where the position was not watched then
    read: Read
    began: datetime  # the read, in the position's own time
    broker: Capabilities
    record: RecordRead | None = None  # of the newest order, where its end was reported; None until it was read
    executions: Executions | None = None  # None until they were read
    next_order_known: bool = False  # the broker was asked for the order of the next attempt, or cannot be asked
    lapsed: bool = False  # as of `PositionRead`


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


def expect(p: Position, beside: Sequence[Position]) -> Expected:
    """What is known of a position and of the others of its holding; taken before a read, it shows one overtaken."""
    if not beside:  # mostly
        return ((p.position_id, known(p)),)
    return tuple(sorted((q.position_id, known(q)) for q in (p, *beside)))


def is_silent(read: Read, symbol: str) -> bool:
    """True when a symbol may be held although no readable row says so, or is shown on both sides: that is no proof."""
    if bare(symbol) in read.both:
        return True
    if not read.unreadable or named(read.rows, symbol):
        return False
    return not read.unreadable.isdisjoint(("", bare(symbol)))


@exactly
def net(read: Read, p: Position, beside: Sequence[Position]) -> tuple[Decimal, Decimal | None]:
    """The broker's quantity for a position, less what the others of its holding have left; and its average entry.

    What it shows too little for all of them is missing of the oldest first. What is held on the other side is negative.
    """
    row = row_of(read, p.symbol, p.side)
    if row is not None and row.side is not p.side:
        return -row.qty, None
    shown, others, left = row.qty if row is not None else ZERO, _left(beside), _left((p,))
    missing = left + others - shown
    if missing > ZERO:
        missing -= _left(q for q in beside if is_older(q, p))
        shown_of_it = min(left, max(ZERO, left - missing))
    else:
        shown_of_it = shown - others
    entry = row.avg_entry_price if row is not None and not others else None
    return shown_of_it, entry if entry is not None and is_price(entry) else None


def row_of(read: Read, symbol: str, side: Side) -> BrokerPosition | None:
    """The row of a holding: of its symbol, and in hedge mode of its side."""
    one_side = bool(read.hedged) and bare(symbol) in read.hedged
    return next((row for row in rows_of(read.rows, symbol) if row.side is side or not one_side), None)


def _left(positions: Iterable[Position]) -> Decimal:
    """What is still to sell of these together; one that sold too much takes nothing from the others."""
    left = ZERO
    for p in positions:
        left += max(ZERO, p.remaining_qty)
    return left


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
    return any(one is None or (looks_like_exit(one) and p.find(one) is None) for one in sold)


def executions_of(p: Position, fills: Iterable[Fill], *, listed: bool) -> tuple[Fill, ...]:
    """The executions in a position's symbol since its entry, oldest first; a `listed` time may be cut off."""
    ours = (f for f in fills if same_symbol(f.symbol, p.symbol))
    began = entered_at(p)
    since = (f for f in ours if (is_since(f, began) if listed else f.at >= began))
    return tuple(sorted(since, key=lambda fill: fill.at))


def count(memory: Count | None, p: Position, qty: Decimal, began: float) -> tuple[int, Count]:
    """How often in a row this much was shown, by a read that began then; and what is to be remembered of that.

    A read that is older than the newest one, or that other callers have counted, adds nothing.
    """
    shown = began if qty else NEVER if memory is None else memory.shown
    if memory is None or memory.expected != known(p):
        memory = Count(qty, known(p), int(began > NEVER), began, began, shown)
    elif began > memory.began:
        same = memory.qty == qty
        since = memory.since if same else began
        memory = Count(qty, memory.expected, memory.reads + 1 if same else 1, began, since, shown)
    return memory.reads if memory.qty == qty else 1, memory


def agreed_qty(memory: Count | None, p: Position) -> Decimal | None:
    """What the newest reads agree is held for a position; None where they do not, or more was learned since."""
    if memory is None or memory.expected != known(p) or memory.reads < READS_MIN:
        return None
    return memory.qty


def last_qty(memory: Count | None, p: Position) -> Decimal | None:
    """What the newest read showed, if only once: no proof, a reason to ask again; None where orders filled since."""
    return memory.qty if memory is not None and memory.expected[1] == p.remaining_qty else None


def agreement(p: Position, shown: Sequence[Decimal]) -> bool | None:
    """Whether reads in a row agree on what is held; None where one more is needed, as it is for less than is left."""
    if shown[-1] >= p.remaining_qty:
        return True
    if len(set(shown)) > 1:
        return False
    return True if len(shown) >= READS_MIN else None


def is_missing_for_good(since: float, began: float) -> bool:
    """True where a person says again, long after the first time, that what is not listed is to be released (H6)."""
    return began - since >= EMPTY_S


@exactly
def weigh(e: Evidence, memory: Count | None) -> tuple[Conclusion, Count | None]:
    """What a read means for a position, and what is to be remembered for the next one.

    A read that began before the newest was learned about the position, or about one beside it, proves nothing. Asked
    again with the same evidence, it concludes the same, and counts the read no second time.
    """
    p, left = e.position, e.position.remaining_qty
    if e.expected != expect(p, e.beside) or is_silent(e.read, p.symbol):
        return Nothing(), memory
    qty, entry = net(e.read, p, e.beside)
    due = p.next_attempt_at is not None and e.began >= p.next_attempt_at
    if (due or left <= ZERO or qty < left) and _lacks_record(e):
        return Need.RECORD, memory
    if due and _lacks_next_order(e):
        return Need.NEXT_ORDER, memory
    if p.state is State.MONITORING and qty == left and entry in (None, p.entry_price):
        return Nothing(), None
    if e.executions is not None:
        return _explained(e, e.executions, qty, entry, memory)
    # Where nothing is left and nothing is shown, no execution can say anything else.
    asks = p.state is State.MONITORING or (not p.order_live and not qty == left == ZERO)
    if qty != left or (not e.read.exact and asks):
        return Need.EXECUTIONS, memory
    if e.read.exact:
        return Holds(qty, entry, READS_MIN), memory
    reads, memory = count(memory, p, qty, e.read.began)
    return Holds(qty, entry, reads), memory


def _lacks_record(e: Evidence) -> bool:
    """True where an attempt, or the position's end, rests on the record of an order whose end was only reported."""
    p = e.position
    return e.record is None and bool(p.orders) and not p.order_live and p.state in (State.REJECTED, State.UNPROTECTED)


def _lacks_next_order(e: Evidence) -> bool:
    """True where the next attempt may be the broker's already: what it sells would look as if others had sold it."""
    p, record = e.position, e.record
    waits = not e.next_order_known and p.state is State.REJECTED and p.remaining_qty > ZERO
    return waits and record is not None and is_proved_over(p.order, record, e.broker)


def _explained(
    e: Evidence, listed: Executions, qty: Decimal, entry: Decimal | None, memory: Count | None
) -> tuple[Conclusion, Count]:
    """What the quantity means beside the executions."""
    p, left = e.position, e.position.remaining_qty
    if entry is None and qty > left:
        entry = average_entry(listed.items, p.side)  # the broker shows no average: what was bought on says it
    shown, qty = qty, qty - surplus(p, qty, listed.items)
    reads, memory = count(memory, p, qty, e.read.began)
    reads = max(reads, READS_MIN) if e.read.exact else _witnesses(e, listed, memory, reads)
    lasted_s = memory.began - memory.since if e.lapsed else 0.0
    if _is_another(e, listed, shown, reads):
        return Need.RECORD if _lacks_record(e) else Closed(), memory
    sold = sold_by_others(p, listed.items) if qty < left else ZERO
    is_flat = sold == left - qty or net_traded(listed.items, p.side) == ZERO
    empty_s = e.read.began - memory.shown + e.broker.positions_lag_s
    seen = memory.shown > NEVER or p.state is not State.UNPROTECTED  # else a life before this one saw what contradicts
    proved = bool(e.read.rows) or (is_flat and seen and closed_since(listed.items, p.side, e.began, empty_s))
    if qty < left and sold >= left - qty and (proved or not is_flat):
        # Two sources agree: at once, but for a list without any row, with which they must agree to the last share.
        reads = max(reads, READS_MIN) if proved else reads
    elif not e.read.rows and not e.read.exact and left != ZERO and lasted_s < EMPTY_S:
        missing = reads >= READS_MIN and p.state is not State.UNPROTECTED and not p.order_live
        return Missing() if missing else Nothing(), memory
    elif _may_be_another(p, listed, qty, reads):
        return Nothing(), memory
    return Holds(qty, entry, reads), memory


def _witnesses(e: Evidence, listed: Executions, memory: Count, reads: int) -> int:
    """Equal reads that deviate are a second witness once they last longer than the books can be behind.

    That no execution is listed says something only after executions had time to be.
    """
    p, broker = e.position, e.broker
    if memory.qty == p.remaining_qty:
        return reads
    late_s = broker.executions_late_s if listed.offered else 0.0
    absent_s = 0.0 if row_of(e.read, p.symbol, p.side) is not None else ABSENT_BY_LAG * broker.positions_lag_s
    lasted = memory.began - memory.since >= max(broker.positions_lag_s + late_s, absent_s)
    return reads if lasted else min(reads, READS_MIN - 1)


def _is_another(e: Evidence, listed: Executions, shown: Decimal, reads: int) -> bool:
    """True where what is held is another position, with a first fill of its own; this one was sold by others."""
    p = e.position
    at_rest = p.state is State.MONITORING or not p.order_live
    return at_rest and shown > ZERO and not listed.shared and entered_anew(listed.items, p.side, shown, reads)


def _may_be_another(p: Position, listed: Executions, qty: Decimal, reads: int) -> bool:
    """True where more is held, and before its executions are there it may just as well have been entered anew."""
    grew = p.state is State.MONITORING and qty > p.remaining_qty and reads < READS_MIN
    return grew and listed.offered and net_traded(listed.items, p.side) != qty


def position_read(e: Evidence, conclusion: Holds | Closed, at: datetime) -> PositionRead:
    """The message to a position that carries the conclusion."""
    holds = Holds(ZERO, None, READS_MIN) if isinstance(conclusion, Closed) else conclusion
    qty, entry, reads = holds.qty, holds.entry_price, holds.reads
    seen = known(e.position)
    return PositionRead(
        at=at, began=e.began, qty=qty, avg_entry_price=entry, reads=reads, known=seen, record=e.record, lapsed=e.lapsed
    )


# --- a price that jumped beyond belief: the broker's row is the second source -----------------------------------------


#: A bar that jumped, and three that confirm it: where the broker shows no price, that is a crash.
CRASH_BARS = 4


class Meaning(Enum):
    """What a price that jumped is."""

    SPLIT = "quantity and entry moved as it did: the unit changed, and no level was reached"
    REAL = "the broker's own price is as far out, or the bars agree and the holding is as it was"
    UNCLEAR = "the broker says neither"


def jumped_rows(read: Read, symbol: str, watched: Sequence[Position]) -> tuple[BrokerPosition | None, list[Position]]:
    """The row that says what a price which jumped is, and the positions that it is of: in hedge mode those of one side.

    A split is one of both.
    """
    side = watched[0].side if watched else Side.LONG
    row = row_of(read, symbol, side)
    return row, [p for p in watched if p.side is side or bare(symbol) not in read.hedged]


class Jumped(msgspec.Struct, frozen=True, kw_only=True):
    """A price that jumped, and what the broker shows."""

    bar: Bar
    price_before: Decimal | None  # the last accepted one
    row: BrokerPosition | None  # the broker's row of the symbol
    watched: tuple[Position, ...]  # the symbol's monitored positions
    beside: tuple[Position, ...]  # the others of their holdings, on their way out
    ratio_max: Decimal  # what counts as a jump
    bars: int = 1  # so many in a row have jumped like that, each near the one before


@exactly
def meaning_of(jump: Jumped) -> Meaning:
    """What a price that jumped is, by the broker's row. Sold and entered anew is no split: the print may be bad."""
    row = jump.row
    if row is None:
        return Meaning.UNCLEAR
    if jump.watched and jump.price_before is not None and _was_split(jump, jump.price_before, row):
        return Meaning.SPLIT
    price = row.current_price
    if price is None or not price.is_finite() or price <= 0:
        return Meaning.REAL if jump.bars >= CRASH_BARS and _is_as_it_was(jump, row) else Meaning.UNCLEAR
    return Meaning.REAL if _near(jump, jump.bar.close, price) else Meaning.UNCLEAR


def _is_as_it_was(jump: Jumped, row: BrokerPosition) -> bool:
    """True where quantity and entry stay: no unit has changed."""
    holding = (*jump.watched, *jump.beside)
    entries = {p.entry_price for p in holding}
    return row.qty == sum((p.remaining_qty for p in holding), ZERO) and entries == {row.avg_entry_price}


def _was_split(jump: Jumped, before: Decimal, row: BrokerPosition) -> bool:
    """True when quantity and entry moved as the price did: a tenth of the price, ten times the shares.

    Beside an exit that is under way, what is held may be less by what that has filled, and its average is of both.
    """
    holding, entry, now = (*jump.watched, *jump.beside), row.avg_entry_price, jump.bar.close
    if entry.is_finite() and not any(_near(jump, entry * before, p.entry_price * now) for p in holding):
        return False
    most = sum((p.remaining_qty for p in holding), ZERO)
    least = sum((p.remaining_qty for p in jump.watched), ZERO)
    if least <= row.qty <= most:
        return entry.is_finite()  # the entry alone moved: a part of the company was spun off, say
    was = row.qty * now / before
    return least <= was <= most or _near(jump, was, least) or _near(jump, was, most)


def _near(jump: Jumped, one: Decimal, other: Decimal) -> bool:
    return not is_jump(one, other, jump.ratio_max)
