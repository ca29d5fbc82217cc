"""A read of a holding beside everything that it is held against, and what a conclusion leaves to be remembered."""

from __future__ import annotations

from decimal import Decimal
from math import floor

import msgspec
from msgspec.structs import replace

from exitfsm.holdings.facts import (
    BEFORE,
    Answer,
    Change,
    ClosedBy,
    Concluded,
    Evidence,
    Memory,
    Raise,
    Read,
    Resized,
    Run,
    Watched,
)
from exitfsm.holdings.rows import Expected, Said, Shown, expect, sellable, sign
from exitfsm.holdings.trades import Trade, doubles_merged, explain, total, trades
from exitfsm.values import ZERO, plain


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A read of a holding beside everything that it is held against.

    Attributes:
        shown, expected: what the account shows, and what it should.
        found: the holding's executions; None where none are listed. `new`: those of others that nothing accounts for.
        told: executions say exactly what the read says.
        counted: the equal reads in a row. `enough`: they are a second witness.
    """

    e: Evidence
    read: Read
    memory: Memory
    shown: Shown
    expected: Expected
    found: tuple[Trade, ...] | None
    new: tuple[Trade, ...]
    told: bool
    counted: Run
    enough: bool = False

    @property
    def is_inside(self) -> bool:
        """True where the read shows what may be shown."""
        return self.expected.holds(self.shown.qty)

    @property
    def is_clean(self) -> bool:
        """True where the read could say only one thing."""
        return self.expected.is_clean

    @property
    def is_smaller(self) -> bool:
        """True where less is held, on the same side."""
        shown, expected = self.shown.qty, self.expected.qty
        return abs(shown) < abs(expected) and shown * expected >= 0

    @property
    def is_long(self) -> bool:
        """True where the equal reads are so many, over so long, that they stand for a witness of more."""
        run, instrument = self.counted, self.e.instrument
        return run.reads >= instrument.growth_reads and self.read.begin - run.first >= instrument.growth_s

    @property
    def way(self) -> int:
        """The sign of what is watched."""
        return 1 if self.expected.qty >= 0 else -1

    def can_be_sold(self, qty: Decimal) -> bool:
        """True for what is no residue."""
        return bool(sellable(qty, self.e.instrument))


def case_of(e: Evidence, read: Read, shown: Shown, memory: Memory) -> Case:
    """A read beside the expectation, the executions, and the reads before it."""
    instrument = e.instrument
    expected = expect(e.watched, memory, read.begin, read.end, e.key, instrument)
    found = trades(e.executions, e.key, memory) if isinstance(e.executions, tuple) else None
    new = _since_known(explain(found, e, memory), e, memory) if found is not None else _reported(e, memory)
    if not _explains(new, shown.qty - expected.qty, e) and _explains(doubles_merged(new), shown.qty - expected.qty, e):
        new = doubles_merged(new)
    settled = expected.is_clean or _is_at_rest(e)
    told = bool(new) and settled and _explains(new, shown.qty - expected.qty, e)
    if memory.born > BEFORE and memory.horizon == BEFORE and not e.watched:
        told = False  # a life with an empty store has no base to add executions to
    counted = count(memory.run, shown.qty, (expected.low, expected.high), shown.said.name, read.begin, instrument.gap_s)
    case = Case(
        e=e, read=read, memory=memory, shown=shown, expected=expected, found=found, new=new, told=told, counted=counted
    )
    return replace(case, enough=_is_enough(case))


def _is_at_rest(e: Evidence) -> bool:
    """True where no order of ours can change what is held: what executions say beyond what is watched is exact then."""
    orders = [order for p in e.watched for order in p.orders]
    late, by_ids = e.instrument.late_fill_s, e.scope.by_ids
    resting = all(p.wanted is None for p in e.watched) and all(order.is_final(late) for order in orders)
    return resting and bool(e.watched) and not by_ids


def _since_known(new: tuple[Trade, ...], e: Evidence, memory: Memory) -> tuple[Trade, ...]:
    """What was traded after the executions first came to what is watched; none where they do not say when that was.

    In a life that has concluded nothing yet no time says which executions are history: they are walked from the first
    fill of the oldest position on.
    """
    if memory.horizon > BEFORE or not e.watched or e.scope.by_ids:
        return new
    since, held, bought = floor(min(p.opened for p in e.watched)), ZERO, ZERO
    wanted = _bought_of(e)
    for at, t in enumerate(new):
        if t.at < since:
            continue
        held, bought = held + t.qty, bought + max(ZERO, t.qty)
        if held - bought * e.instrument.fee_max <= wanted <= held:
            return new[at + 1 :]
    return ()


def _bought_of(e: Evidence) -> Decimal:
    """What is watched, before our own orders sold of it; signed."""
    return sum(((p.left + sum((o.cum for o in p.orders), ZERO)) * sign(p.side, e.key) for p in e.watched), ZERO)


def _reported(e: Evidence, memory: Memory) -> tuple[Trade, ...]:
    """What updates have reported beyond what is watched, where none are listed: of each order one sum, that grows.

    What closed the other side first, as one order does that turns a holding, opened nothing. Where less was reported
    bought than is watched, not all was reported, or the unit changed: what is missing was not sold.
    """
    known = explain(trades(e.reported, e.key, memory), e, replace(memory, horizon=BEFORE, booked=frozenset()))
    since = floor(min(p.opened for p in e.watched)) if e.watched else BEFORE
    found = tuple(t for t in known if t.at >= since)
    bought, before = _bought_of(e), total(t for t in known if t.at < since)
    closing = total(t for t in found if t.qty * bought < 0)
    beyond = total(found) - bought
    if e.watched:
        beyond = max(beyond, closing) if bought > 0 else min(beyond, closing)
    if e.watched and before * beyond < 0 and abs(beyond) <= abs(before):
        return ()
    return (replace(found[-1], qty=beyond),) if found and beyond else ()


def _explains(new: tuple[Trade, ...], qty: Decimal, e: Evidence) -> bool:
    """True where trades come to this quantity; a purchase may come to a little less by what the venue kept of it."""
    kept = sum((t.qty for t in new if t.qty > 0), ZERO) * e.instrument.fee_max
    return total(new) - kept <= qty <= total(new)


def count(
    run: Run | None, qty: Decimal, expected: tuple[Decimal, Decimal], said: str, begin: float, gap_s: float
) -> Run:
    """How often in a row this was shown while that was expected; a read soon after the one before adds nothing."""
    if run is None or (run.qty, run.expected) != (qty, expected):
        return Run(qty, expected, said, 1, begin, begin)
    if begin - run.last < gap_s or begin == run.last:
        return run
    return Run(qty, expected, said, run.reads + 1, run.first, begin)


def _is_enough(case: Case) -> bool:
    """True where equal reads, or a refusal as more than is held, are a second witness."""
    instrument, run = case.e.instrument, case.counted
    if case.is_smaller and BEFORE < case.memory.refused <= case.read.begin:
        return True
    late = instrument.executions_late_s if case.e.executions is not None else 0.0
    span = max(instrument.lag_s + late, 0.0 if case.shown.said is Said.ROW else instrument.absent_s)
    return run.reads >= instrument.reads_min and case.read.begin - run.first >= span


def figures(case: Case, kind: str) -> Raise:
    """An alarm with the figures."""
    figures = {
        "symbol": case.e.key.symbol,
        "shown": plain(case.shown.qty),
        "expected": plain(case.expected.qty),
        "reads": str(case.counted.reads),
    }
    if case.new:
        figures["executions"] = ", ".join(f"{plain(t.qty)} by {t.order_id or 'no id'}" for t in case.new[-3:])
    return Raise(kind, figures)


def empty_since(case: Case) -> float:
    """Since when the list is empty; this read may have ended that."""
    if case.shown.said is not Said.EMPTY:
        return BEFORE
    return case.memory.empty


def remembered(case: Case) -> Memory:
    """The memory with this read counted."""
    before, run = case.memory.run, case.counted
    other = before is None or (before.qty, before.expected) != (run.qty, run.expected)
    return replace(case.memory, run=run, runs=case.memory.runs + other, empty=empty_since(case))


def booked(case: Case) -> Memory:
    """The memory after a conclusion: what was executed until now is history."""
    instrument = case.e.instrument
    last = max((t.at for t in case.new), default=BEFORE)
    horizon = max(case.memory.horizon, last if case.told else case.read.end - instrument.lag_s)
    ids = frozenset(t.root for t in (case.found or case.new) if t.at > horizon and t in case.new)
    return replace(
        case.memory,
        run=None,
        runs=0,
        unshown=BEFORE,
        naming=BEFORE,
        odd=None,
        empty=empty_since(case),
        horizon=horizon,
        booked=case.memory.booked | ids,
    )


def concluded(case: Case, said: list[Concluded], memory: Memory) -> Answer:
    """Conclusions, and what they change of what is expected."""
    key, at = case.e.key, case.read.end
    by_name = {p.name: p for p in case.e.watched}
    changes = list(memory.changes)
    for one in said:
        if isinstance(one, ClosedBy):
            p = by_name[one.position]
            changes.append(Change(-p.left * sign(p.side, key), at))
        elif isinstance(one, Resized):
            p = by_name[one.position]
            changes.append(Change((one.left - p.left) * sign(p.side, key), at))
    over = {one.position for one in said if isinstance(one, ClosedBy) and one.how != "vanished"}
    memory = replace(memory, run=None, changes=tuple(c for c in changes if c.qty), ended=memory.ended | over)
    return tuple(said), memory


def over(memory: Memory, p: Watched) -> Memory:
    """A position of ours has ended: its name is never adopted again."""
    return replace(memory, ended=memory.ended | {p.name})
