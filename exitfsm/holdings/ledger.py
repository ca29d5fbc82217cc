"""What a read means where only what certain orders bought is ours: the account is a cap, the ids are the facts.

What others hold beside it is never stored as truth, only the last settled figure as a hint. All executions since the
last settled point are walked each time: our share grows and shrinks by our ids, and is never more than the account
holds at that moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from exitfsm.holdings.cases import Case, concluded, count, figures
from exitfsm.holdings.facts import (
    BEFORE,
    Adopted,
    Answer,
    Calm,
    Change,
    ClosedBy,
    Concluded,
    Flat,
    Memory,
    Needed,
    Resized,
    Run,
    Watched,
)
from exitfsm.holdings.rows import Said, scope_tag, sellable, side_of, sign
from exitfsm.holdings.trades import Origin, Trade, lost_exits, name_of, origin, total
from exitfsm.position.attempting import is_price
from exitfsm.values import ZERO

#: How much longer than executions may be late a purchase that is not shown is waited for, in seconds.
_SHOWN_S = 15.0


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """Our share, execution by execution.

    Attributes:
        start, share: what was ours before, and what is now. `history`: what was after each.
        before: what others held before, as the account's figure says.
        lost: what of ours is gone. `plain`: it never was cut by what the account holds.
        fits: the account held at least our share at the start.
        mine: executions of our ids that were not taken up yet.
    """

    start: Decimal
    share: Decimal
    before: Decimal
    history: tuple[Decimal, ...]
    lost: Decimal
    plain: bool
    fits: bool
    mine: tuple[Trade, ...]


def ledger(case: Case) -> Answer:
    """What a read means, by the ids: the first row that applies."""
    case = _with_early_settled(case)
    if case.found is None:
        return (figures(case, "scope_unknown"), Needed("executions")), case.memory
    if gone := lost_exits(case.found, case.e.watched, case.memory):
        if not case.e.next_ids_known:
            return (Needed("next_id"),), case.memory
        case = replace(case, new=tuple(sorted((*case.new, *gone), key=lambda t: (t.at, t.root))))
    walk = _walked(case)
    if case.new and case.is_clean and (case.shown.said is not Said.EMPTY or _is_exact(case, walk.before)):
        return _traded(case, walk)
    return _quiet(case, walk)


def ours_at_most(case: Case) -> Decimal:
    """What of the account is ours at most, by the executions that are known now: an order is never larger.

    They may not be settled yet; what they say of a sale, or of an account that was flat, holds an order back already.
    """
    return abs(_walked(_with_early_settled(case)).share)


def _is_mine(t: Trade, case: Case) -> bool:
    """True for a trade of our ids, or of an exit of ours that is on no record here."""
    scope = case.e.scope
    return bool(scope.ids) and (t.order_id.startswith(scope.ids) or scope.is_exit(t.order_id))


def _with_early_settled(case: Case) -> Case:
    """What was taken up at once counts as settled when exits have eaten into it."""
    memory, now = case.memory, case.expected.qty
    eaten = now != memory.early and (now - memory.early) * now <= 0
    if not memory.early or not (eaten or not case.e.watched):
        return case
    new = tuple(t for t in case.new if t.root not in memory.early_ids)
    memory = replace(memory, booked=memory.booked | memory.early_ids, early=ZERO, early_ids=frozenset())
    return replace(case, memory=memory, new=new)


def _walked(case: Case) -> Walk:
    memory = case.memory
    mine = tuple(t for t in case.new if _is_mine(t, case) and t.root not in memory.early_ids)
    start = case.expected.qty - memory.early
    held = case.shown.qty - total(case.new)
    way = 1 if (start or total(mine)) >= 0 else -1
    share, history, lost = start, list[Decimal](), ZERO
    plain = fits = held * way >= start * way
    for t in case.new:
        held += t.qty
        ours = _is_mine(t, case)
        share += t.qty if ours else ZERO
        kept = max(ZERO, min(share, held)) if share > 0 else min(ZERO, max(share, held))
        plain = plain and kept == share
        lost += abs(share - kept) + (abs(t.qty) if ours and t.qty * way < 0 else ZERO)
        share = kept
        history.append(share)
    return Walk(
        start=start,
        share=share,
        before=case.shown.qty - total(case.new) - start,
        history=tuple(history),
        lost=lost,
        plain=plain,
        fits=fits,
        mine=mine,
    )


def _is_exact(case: Case, before: Decimal) -> bool:
    """True where others held before what they did when that was last settled."""
    return case.memory.foreign is not None and not sellable(before - case.memory.foreign, case.e.instrument)


def _counted(case: Case, before: Decimal) -> Run:
    gap_s = case.e.instrument.gap_s
    return count(case.memory.run, before, (ZERO, ZERO), "foreign", case.read.begin, gap_s)


def _is_long_enough(case: Case, run: Run) -> bool:
    instrument = case.e.instrument
    span = instrument.lag_s + instrument.executions_late_s
    return run.reads >= instrument.reads_min and case.read.begin - run.first >= span


def _traded(case: Case, walk: Walk) -> Answer:
    """Rows 1 to 3: something was traded."""
    run = _counted(case, walk.before)
    settled = _is_exact(case, walk.before) or (walk.fits and _is_long_enough(case, run))
    memory = replace(case.memory, run=run)
    if settled:
        memory = replace(_booked(case), foreign=case.shown.qty - walk.share)
    elif not _may_be_early(case, walk):
        return _unsettled(case, walk, memory)
    else:
        share = case.expected.qty + total(walk.mine)
        walk = replace(walk, share=share, history=(share,))
        early = memory.early + total(walk.mine)
        ids = memory.early_ids | {t.root for t in walk.mine}
        memory = replace(memory, early=early, early_ids=ids, unshown=BEFORE)
    if walk.share == case.expected.qty and not walk.mine:
        return _capped(case, replace(memory, run=None))
    said, memory = _shared(replace(case, memory=memory), walk)
    return (Calm("entry_not_shown"), *said), memory


def _may_be_early(case: Case, walk: Walk) -> bool:
    """Row 3: nothing of ours is watched, and all that was traded is on our side: it is protected first."""
    if not walk.mine or case.e.watched or not walk.plain:
        return False
    way = total(walk.mine) * (walk.share or 1)
    steps = zip(walk.history, case.new, strict=True)
    one_way = all(t.qty * walk.share > 0 for t in case.new)
    return way > 0 and one_way and all(case.can_be_sold(held) for held, t in steps if _is_mine(t, case))


def _unsettled(case: Case, walk: Walk, memory: Memory) -> Answer:
    """Row 6: what our ids traded must be shown within a bound."""
    if not walk.mine:
        return (Needed("reads"),), replace(memory, unshown=BEFORE)
    since = memory.unshown if memory.unshown > BEFORE else case.read.begin
    memory = replace(memory, unshown=since)
    instrument = case.e.instrument
    if case.read.begin - since < instrument.lag_s + instrument.executions_late_s + _SHOWN_S:
        return (Needed("reads"),), memory
    return (figures(case, "entry_not_shown"), Needed("reads")), memory


def _booked(case: Case) -> Memory:
    """All that was traded is accounted for; times prove nothing here, for others trade beside us."""
    ids = case.memory.booked | {t.root for t in case.new}
    return replace(case.memory, booked=ids, run=None, early=ZERO, early_ids=frozenset(), unshown=BEFORE)


def _shared(case: Case, walk: Walk) -> Answer:
    """Row 2: our share is another; what came to be flat on the way is closed, and the rest is the next position."""
    watched, share = case.e.watched, walk.share
    begun = 0
    if not case.can_be_sold(walk.start):
        begun = next((at for at, held in enumerate(walk.history) if case.can_be_sold(held)), 0)
    way = case.expected.qty
    crossed = bool(watched) and any(not case.can_be_sold(h) or h * way < 0 for h in walk.history[begun:])
    said: list[Concluded] = []
    if watched and (crossed or not case.can_be_sold(share)):
        said = [ClosedBy(p.name, "external", min(max(ZERO, p.left), walk.lost)) for p in watched]
        watched = ()
    answer = concluded(case, said, case.memory)
    if not case.can_be_sold(share):
        return answer
    first, newest = _origin(case, walk, crossed=crossed)
    if watched:
        return _sized(case, walk, first)
    return _begun(case, walk, answer, (first, newest))


def _origin(case: Case, walk: Walk, *, crossed: bool) -> tuple[Origin | None, Trade | None]:
    """Where our share comes from, by the executions of our ids and our exits; and the newest of them."""
    scope = case.e.scope
    if crossed:
        zero = max((at for at, held in enumerate(walk.history) if not case.can_be_sold(held)), default=-1)
        own = [t for t in case.new[zero + 1 :] if _is_mine(t, case)]
    else:
        own = [t for t in case.found or () if _is_mine(t, case) or scope.is_exit(t.order_id)]
    return origin(own, walk.share, case.e.instrument), own[-1] if own else None


def _begun(case: Case, walk: Walk, after: Answer, known: tuple[Origin | None, Trade | None]) -> Answer:
    said, memory = after
    first, newest = known
    if first is None and newest is not None and is_price(newest.price):
        first = Origin(entry=newest.price, opened=newest)
    entry = first.entry if first is not None else case.shown.average
    if entry is None:
        return (*said, figures(case, "unpriceable")), memory
    name = name_of(first, walk.share, case.e.key, scope_tag(case.e.scope), entry)
    if name in memory.ended:
        return (*said, figures(case, "epoch_unknown")), memory
    adopted = Adopted(
        side=side_of(walk.share, case.e.key),
        qty=abs(walk.share),
        entry=entry,
        name=name,
        first=first.opened.at if first is not None else None,
    )
    change = Change(adopted.qty * sign(adopted.side, case.e.key), case.read.end)
    return (*said, adopted), replace(memory, changes=(*memory.changes, change))


def _sized(case: Case, walk: Walk, first: Origin | None) -> Answer:
    """More goes to the newest, what is missing is missing of the oldest first."""
    watched = case.e.watched
    beyond = abs(walk.share) - abs(case.expected.qty)
    if beyond >= 0:
        p = watched[-1]
        entry = first.entry if first is not None else p.entry
        said: list[Concluded] = [Resized(position=p.name, left=p.left + beyond, entry=entry, why="bought on")]
        return concluded(case, said if beyond else [], case.memory)
    return concluded(case, less(case, watched, -beyond, "external"), case.memory)


def less(case: Case, watched: Sequence[Watched], missing: Decimal, why: str) -> list[Concluded]:
    """So much is missing: of the oldest first."""
    said: list[Concluded] = []
    for p in watched:
        gone = min(missing, max(ZERO, p.left))
        missing -= gone
        if gone and not case.can_be_sold(p.left - gone):
            said.append(ClosedBy(p.name, why, p.left))
        elif gone:
            said.append(Resized(position=p.name, left=p.left - gone, entry=p.entry, why=why, external=gone))
    return said


def _quiet(case: Case, walk: Walk) -> Answer:
    """Nothing was traded that is not accounted for: what others hold settles when it is shown for long enough."""
    memory, beyond = case.memory, case.shown.qty - case.expected.qty
    if case.is_clean and case.shown.said is not Said.EMPTY and beyond * case.way >= 0:
        run = _counted(case, walk.before)
        memory = replace(memory, run=run)
        if _is_long_enough(case, run):
            memory = replace(memory, foreign=beyond)
    return _capped(case, memory)


def _capped(case: Case, memory: Memory) -> Answer:
    """Rows 4, 5 and 7: the account holds at least our share, or it is cut to what is there."""
    watched, way = case.e.watched, case.way
    held = case.shown.qty * way
    said: list[Concluded] = []
    if case.is_clean and held >= abs(case.expected.qty):
        said += [Flat(p.name) for p in watched if p.orders and not case.can_be_sold(p.left)]
    least = min(case.expected.low * way, case.expected.high * way)
    if not watched or held >= least:
        return (*said, *([Calm("positions_missing")] if case.shown.said is not Said.EMPTY else [])), memory
    if case.shown.said is Said.EMPTY:
        return _missing(case, said, memory)
    return _short(case, said, memory)


def _missing(case: Case, said: list[Concluded], memory: Memory) -> Answer:
    run, instrument = case.counted, case.e.instrument
    said = [*said, Needed("reads")]
    if run.reads >= instrument.reads_min and case.read.end - run.first >= instrument.lag_s:
        said.insert(0, figures(case, "positions_missing"))
    return tuple(said), replace(memory, run=run)


def _short(case: Case, said: list[Concluded], memory: Memory) -> Answer:
    """Row 4: less is held than ours, and no execution says why: the account is a physical cap."""
    run, instrument = case.counted, case.e.instrument
    memory = replace(memory, run=run)
    span = max(instrument.lag_s, 0.0 if case.shown.said is Said.ROW else instrument.absent_s)
    unsettled = any(p.orders and not p.orders[-1].is_final(instrument.late_fill_s) for p in case.e.watched)
    enough = run.reads >= instrument.reads_min and case.read.begin - run.first >= span
    if not case.is_clean or not enough or unsettled:
        return (*said, Needed("reads")), memory
    held = case.shown.qty * case.way
    if held < 0:
        return (*said, figures(case, "scope_netted")), memory
    ours = sum((max(ZERO, p.left) for p in case.e.watched), ZERO)
    return concluded(case, [*said, *less(case, case.e.watched, ours - held, "external")], replace(memory, run=None))
