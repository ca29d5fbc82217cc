"""What a read of the account means for a holding of which all is ours: one table, the first row that applies.

A read inside the interval that is expected proves nothing, or that all is as expected. One outside it is news, and news
needs a second witness: executions that say exactly the same, a definite refusal, or equal reads over a time that is
longer than the books can be behind. Nothing is called external before our own sales were looked for. What cannot be
decided is asked for again, and every such wait ends in a conclusion or an alarm.

The same read weighed twice concludes nothing twice: what was concluded widens the interval of reads as old as that.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from exitfsm.holdings import units
from exitfsm.holdings.cases import Case, booked, case_of, concluded, count, empty_since, figures, remembered
from exitfsm.holdings.facts import (
    BEFORE,
    Adopted,
    Answer,
    Calm,
    Change,
    ClosedBy,
    Concluded,
    Evidence,
    Failed,
    Flat,
    Memory,
    Needed,
    Raise,
    Read,
    Reported,
    Rescaled,
    Resized,
    Shrink,
    Unit,
    Watched,
)
from exitfsm.holdings.ledger import ledger, less, ours_at_most
from exitfsm.holdings.opening import adopt, await_name, entry_of, origin_of
from exitfsm.holdings.rows import KEPT_S, Said, Shown, Silent, in_scope, net, side_of, sign
from exitfsm.holdings.trades import crosses, lost_exits, nobodys, own_sales, total
from exitfsm.values import ZERO, exactly

#: How much longer than executions may be late what is executed and not shown is waited for, in seconds.
SHOWN_S = 15.0
_SHIFT_MAX = Decimal("0.0001")  # two averages that differ by less are one


#: A row of the table: None where it does not apply.
Row = Callable[[Case], Answer | None]


@exactly
def weigh(e: Evidence, memory: Memory) -> Answer:
    """What a read means for a holding, and what is to be remembered for the next one."""
    if not in_scope(e.key.symbol, e.scope):
        return (), memory
    shown = e.read if isinstance(e.read, Failed) else net(e.read, e.key, hedge=e.instrument.hedge)
    if isinstance(e.read, Failed) or isinstance(shown, (Failed, Silent)):
        return _unanswered(e, shown, memory)
    memory, calmed = _answered(e.read, memory)
    if e.read.begin - e.instrument.lag_s < memory.unit_at:
        return (*calmed, Needed("reads")), memory
    if isinstance(e.executions, Failed):
        said, memory = _unlisted(case_of(replace(e, executions=()), e.read, shown, memory))
    else:
        case = case_of(e, e.read, shown, memory)
        said, memory = (ledger if e.scope.by_ids else _first)(case)
    return _spoken((*calmed, *said), memory)


def _unlisted(case: Case) -> Answer:
    """The executions could not be read: their silence says nothing. A person hears; after long the reads decide."""
    if case.is_long and not case.e.scope.by_ids:
        return _first(case)
    said: tuple[Concluded, ...] = (Needed("executions"),)
    if case.enough and (case.e.scope.by_ids or not case.is_inside):
        said = (figures(case, "scope_unknown" if case.e.scope.by_ids else "unexplained_quantity"), *said)
    return said, remembered(case)


def _first(case: Case) -> Answer:
    """The first row that applies; the last one always does."""
    return next(answer for row in TABLE if (answer := row(case)) is not None)


@exactly
def at_most(e: Evidence, memory: Memory) -> Decimal | None:
    """In scope by ids, what of the holding is ours at most, as a send is to know; None where that is not the question.

    The account's figure counts where it is known.
    """
    if not e.scope.by_ids or not isinstance(e.read, Read) or not isinstance(e.executions, tuple):
        return None
    shown = net(e.read, e.key, hedge=e.instrument.hedge)
    if isinstance(shown, Silent) or shown.said is Said.EMPTY:
        return None
    return ours_at_most(case_of(e, e.read, shown, memory))


def _unanswered(e: Evidence, shown: Failed | Silent | Shown, memory: Memory) -> Answer:
    """Rows 1 and 3: no answer is no statement; so often in a row, a person is told."""
    memory = replace(memory, failed=memory.failed + 1)
    kind = shown.kind if isinstance(shown, Silent) else "positions_unanswered"
    text = shown.text if isinstance(shown, Silent) else getattr(shown, "why", "")
    said: tuple[Concluded, ...] = (Needed("reads"),)
    if kind == "both_sides" or memory.failed >= e.instrument.reads_min:
        said = (Raise(kind, {"text": text}), *said)
    return _spoken(said, memory)


def _answered(read: Read, memory: Memory) -> tuple[Memory, tuple[Concluded, ...]]:
    kept = tuple(c for c in memory.changes if c.at > read.end - KEPT_S)
    memory = replace(memory, failed=0, changes=kept)
    return memory, tuple(Calm(kind) for kind in ("positions_unanswered", "positions_unreadable", "both_sides"))


def _spoken(said: tuple[Concluded, ...], memory: Memory) -> Answer:
    """Alarms are raised once, and only what was raised is calmed; what is adopted begins without any."""
    raised, heard = set(memory.raised), list[Concluded]()
    for one in said:
        if isinstance(one, Raise):
            if one.kind in raised:
                continue
            raised.add(one.kind)
        elif isinstance(one, Calm):
            if one.kind not in raised:
                continue
            raised.discard(one.kind)
        elif isinstance(one, Adopted | ClosedBy):
            raised.clear()
        if one not in heard:
            heard.append(one)
    return tuple(heard), replace(memory, raised=frozenset(raised))


# --- the table --------------------------------------------------------------------------------------------------------


def _reports(case: Case) -> Answer | None:
    """Own sales first: less is held, and executions under our ids say more than the records do."""
    if case.is_inside or not case.is_smaller or case.found is None:
        return None
    said = tuple(
        Reported(order.order_id, min(cum, order.qty), average)
        for p in case.e.watched
        for order_id, (cum, average) in own_sales(case.found, p).items()
        for order in p.orders
        if order.order_id == order_id and order.cum < min(cum, order.qty)
    )
    return ((*said, Needed("record")), case.memory) if said else None


def _as_expected(case: Case) -> Answer | None:
    """Rows 4 to 7: inside, and clean. The executions may still say that it was closed and entered anew."""
    if not case.is_inside or not case.is_clean:
        return None
    memory = replace(
        case.memory, confirmed=True, runs=0, naming=BEFORE, refused=BEFORE, empty=empty_since(case), flat=BEFORE
    )
    if case.new and not total(case.new):
        return _exchanged(replace(case, memory=memory))
    memory = replace(memory, run=None)
    said: tuple[Concluded, ...] = (Calm("unexplained_quantity"), *_calm_missing(case))
    memory, unshown = _not_shown(case, memory)
    memory, odd = _average(case, memory)
    flat = tuple(Flat(p.name) for p in case.e.watched if p.orders and not case.can_be_sold(p.left))
    return (*said, *unshown, *odd, *flat), memory


def _exchanged(case: Case) -> Answer | None:
    """Row 4: traded by others, with the same quantity after it."""
    crossed = crosses(case.expected.qty, case.new, case.e.instrument)
    return None if crossed and case.e.watched else _as_history(case)


def _as_history(case: Case) -> Answer:
    return (Calm("entry_not_shown"),), booked(case)


def _calm_missing(case: Case) -> tuple[Concluded, ...]:
    return (Calm("positions_missing"),) if case.shown.said is not Said.EMPTY else ()


def _not_shown(case: Case, memory: Memory) -> tuple[Memory, tuple[Concluded, ...]]:
    """Row 5: executed, and not shown: silence for longer than the books can be behind is an alarm."""
    instrument = case.e.instrument
    lately = [t for t in case.new if t.at >= memory.born]
    if not case.can_be_sold(total(lately)):
        return replace(memory, unshown=BEFORE), (Calm("entry_not_shown"),)
    since = memory.unshown if memory.unshown > BEFORE else case.read.begin
    memory = replace(memory, unshown=since)
    if case.read.begin - since < instrument.lag_s + instrument.executions_late_s + SHOWN_S:
        return memory, (Needed("reads"),)
    return memory, (figures(case, "entry_not_shown"), Needed("reads"))


def _average(case: Case, memory: Memory) -> tuple[Memory, tuple[Concluded, ...]]:
    """Row 6: the quantity is as expected, and the average is another."""
    average, watched = case.shown.average, case.e.watched
    if average is None or len(watched) != 1 or watched[0].wanted is not None:
        return replace(memory, odd=None), ()
    p = watched[0]
    first = origin_of(case, case.shown.qty)
    if abs(average / p.entry - 1) <= _SHIFT_MAX or (first is not None and units.is_off(average, first.entry)):
        return replace(memory, odd=None), ()
    odd = count(memory.odd, average, (p.entry, p.left), "average", case.read.begin, case.e.instrument.gap_s)
    memory = replace(memory, odd=odd)
    if odd.reads < case.e.instrument.reads_min or odd.last - odd.first < case.e.instrument.lag_s:
        return memory, (Needed("reads"),)
    if units.is_off(average, p.entry):
        return memory, (figures(case, "unit_unclear"),)
    return replace(memory, odd=None), (Resized(position=p.name, left=p.left, entry=average, why="average"),)


def _undecided(case: Case) -> Answer | None:
    """Row 8: inside, not clean: nothing can be told apart yet, but that nothing is held for ever."""
    if not case.is_inside or case.is_clean or (case.told and case.shown.qty != case.expected.qty):
        return None
    memory = replace(case.memory, run=None, unshown=BEFORE)
    said: tuple[Concluded, ...] = (*_calm_missing(case), Calm("entry_not_shown"), Needed("reads"))
    nothing = case.shown.said is not Said.EMPTY and not case.can_be_sold(case.shown.qty) and case.expected.qty
    if not nothing or case.e.works is not False:
        return said, replace(memory, flat=BEFORE)
    since = memory.flat if memory.flat > BEFORE else case.read.begin
    memory = replace(memory, flat=since)
    if case.read.begin - since < case.e.instrument.empty_s:
        return said, memory
    return concluded(case, [ClosedBy(p.name, "unresolved", p.left) for p in case.e.watched], memory)


def _forgotten(case: Case) -> Answer | None:
    """Own sales first, also behind a purchase: is an exit on no record here, or one without a name, our next one?"""
    if case.e.next_ids_known or case.found is None or not case.e.watched:
        return None
    theirs = lost_exits(case.found, case.e.watched, case.memory)
    theirs += tuple(t for t in case.new if not t.order_id and t.qty * case.expected.qty < 0)
    if not theirs and case.is_smaller:
        theirs = nobodys(case.found, case.e.watched, case.e.scope, case.memory)
    return ((Needed("next_id"),), case.memory) if theirs else None


def _is_empty(case: Case) -> Answer | None:
    """Rows 9 to 11: an empty list is no statement about a position."""
    if case.shown.said is not Said.EMPTY or not case.expected.qty or case.told:
        return None
    instrument, run = case.e.instrument, case.counted
    since = case.memory.empty if case.memory.empty > BEFORE else case.read.begin
    memory = replace(case.memory, run=run, empty=since)
    said: list[Concluded] = [Needed("reads")]
    often = run.reads >= instrument.reads_min and case.read.end - run.first >= instrument.lag_s
    if often:
        said.insert(0, figures(case, "positions_missing"))
    long = case.read.end - since >= instrument.empty_s
    unlisted = case.e.executions is None and not case.e.works
    if often and long and unlisted and case.is_clean:
        if not case.e.next_ids_known:
            return (Needed("next_id"),), memory
        return concluded(case, [ClosedBy(p.name, "vanished", p.left) for p in case.e.watched], memory)
    return tuple(said), memory


def _unsettled(case: Case) -> Answer | None:
    """Rows 12 and 13: outside, while an order of ours may still fill, or its record is not final."""
    memory, instrument = remembered(case), case.e.instrument
    if not case.is_clean and not case.told:
        low = min(case.expected.low * case.way, case.expected.high * case.way)
        shown = case.shown.qty * case.way
        if case.enough and low > 0 and 0 <= shown < low:
            working = [p for p in case.e.watched if any(not o.is_final(instrument.late_fill_s) for o in p.orders)]
            return (*(Shrink(p.name) for p in working), Needed("reads")), memory
        return (Needed("reads"),), memory
    if any(p.orders and not p.orders[-1].is_final(instrument.late_fill_s) for p in case.e.watched):
        return (Needed("record"),), memory
    return None


def _rescaled(case: Case) -> Answer | None:
    """Row 17: the unit changed."""
    shown, watched = case.shown, case.e.watched
    if len(watched) != 1 or not shown.average or shown.qty * case.expected.qty <= 0 or case.told or case.is_inside:
        return None
    p, price = watched[0], shown.price or case.e.price
    change = units.unit(p, shown.qty, shown.average, price, case.new, sign(p.side, case.e.key))
    if change is None:
        return None
    if case.counted.reads < 2:
        return (Needed("reads"),), remembered(case)
    later = case.new[change.before :]
    at = min(case.counted.first, later[0].at) if later else case.counted.first
    memory = replace(
        booked(case),
        run=None,
        unit_at=case.read.end,
        changes=(),
        units=(*case.memory.units, Rescaled(at, change.factor)),
    )
    return (Unit(position=p.name, factor=change.factor, left=abs(shown.qty), entry=change.entry),), memory


def _unwitnessed(case: Case) -> Answer | None:
    """Rows 23 and 24: outside, and nothing else says so yet."""
    if case.told or case.enough:
        return None
    said: list[Concluded] = [Needed("executions" if case.e.executions is not None else "reads")]
    if remembered(case).runs > case.e.instrument.changes_max:
        said.insert(0, figures(case, "unexplained_quantity"))
    return tuple(said), remembered(case)


def _unclear_unit(case: Case) -> Answer | None:
    """The reads agree on quantity and average, and together they are no trade that is known."""
    if not _unclear(case):
        return None
    said, memory = _grown(case) or _decided(case)
    return (figures(case, "unit_unclear"), *said), memory


def _unclear(case: Case) -> bool:
    """True where the average is far from the entry, and no executions that reach to flat say which of them is right."""
    watched, average = case.e.watched, case.shown.average
    if len(watched) != 1 or not average or case.told or case.shown.qty * case.expected.qty <= 0:
        return False
    return units.is_off(average, watched[0].entry) and origin_of(case, case.shown.qty) is None


def _grown(case: Case) -> Answer | None:
    """Row 22: more, and since our last sale the books have not shown what is expected: are they behind?"""
    if case.is_smaller or case.told or case.memory.confirmed:
        return None
    if case.is_long and not any(p.sold for p in case.e.watched):  # after a part its repetition would sell it twice
        return None
    return (figures(case, "unexplained_quantity"), Needed("reads")), remembered(case)


def _decided(case: Case) -> Answer:
    """Rows 14 to 21: it is so."""
    shown, watched = case.shown.qty, case.e.watched
    if case.is_smaller and not case.told and watched and not case.e.next_ids_known:
        return (Needed("next_id"),), remembered(case)
    went_flat = not case.can_be_sold(shown)
    sold = tuple(p for p in watched if p.orders and not case.can_be_sold(p.left))
    if sold and not went_flat:
        return _after_an_exit(case, sold)
    gone = tuple(p for p in watched if p.side is not side_of(shown, case.e.key))
    if not went_flat and 0 < len(gone) < len(watched):
        return _after_the_other_side(case, gone)
    crossed = case.told and bool(watched) and crosses(case.expected.qty, case.new, case.e.instrument)
    keeps = bool(watched) and not went_flat and shown * case.expected.qty > 0 and not crossed
    if keeps:
        return _resized(case)
    if not went_flat:
        waited = await_name(case)
        if waited is not None:
            return waited
    said, memory = _others_exit(case)
    how = "reversed" if shown * case.expected.qty < 0 else "residue" if went_flat and shown else "external"
    if said and how == "external":
        how = "other_exit"
    closed = [ClosedBy(p.name, how, p.left) for p in watched]
    after = concluded(case, [*said, *closed], replace(booked(case), others=memory.others))
    if went_flat:
        return after
    return adopt(case, after)


@exactly
def _after_the_other_side(case: Case, gone: tuple[Watched, ...]) -> Answer:
    """Row 16 where the next position is watched already: those of the other side are over, the rest is held."""
    said, memory = concluded(case, [ClosedBy(p.name, "reversed", p.left) for p in gone], booked(case))
    rest = tuple(p for p in case.e.watched if p not in gone)
    if sum((p.left for p in rest), ZERO) == abs(case.shown.qty):
        return said, memory
    more, memory = _resized(replace(case, memory=memory, e=msgspec.structs.replace(case.e, watched=rest)))
    return (*said, *more), memory


def _after_an_exit(case: Case, sold: tuple[Watched, ...]) -> Answer:
    """Row 19: an exit is over, and what is held beyond it is the next position's, with what was too little to sell."""
    rest = tuple(p for p in case.e.watched if p not in sold)
    flat = tuple(Flat(p.name) for p in sold)
    if rest:
        said, memory = _resized(replace(case, e=msgspec.structs.replace(case.e, watched=rest)))
        return (*flat, *said), memory
    waited = await_name(case)
    if waited is not None:
        return waited
    gone = tuple(Change(-p.left * sign(p.side, case.e.key), case.read.end) for p in sold if p.left)
    memory = booked(case)
    over = memory.ended | {p.name for p in sold}
    memory = replace(memory, ended=over, changes=(*memory.changes, *gone))
    return adopt(case, (flat, memory))


TABLE: tuple[Row, ...] = (
    _reports,
    _forgotten,
    _as_expected,
    _undecided,
    _is_empty,
    _unsettled,
    _rescaled,
    _unwitnessed,
    _unclear_unit,
    _grown,
    _decided,
)


# --- what is concluded ------------------------------------------------------------------------------------------------


def _others_exit(case: Case) -> tuple[list[Concluded], Memory]:
    """Less is held, and exits under our prefix that are nobody's we know say why."""
    if not case.is_smaller or case.told or case.found is None:
        return [], case.memory
    theirs = nobodys(case.found, case.e.watched, case.e.scope, case.memory)
    if total(theirs) * (case.shown.qty - case.expected.qty) <= 0:
        return [], case.memory
    return [figures(case, "other_exit")], replace(case.memory, others=case.memory.others | {t.root for t in theirs})


@exactly
def _resized(case: Case) -> Answer:
    """Rows 14, 18 and 19: more goes to the newest, what is missing is missing of the oldest first."""
    watched = case.e.watched
    beyond = abs(case.shown.qty) - sum((p.left for p in watched), ZERO)
    if beyond >= 0:
        return _grown_by(case, beyond)
    said, memory = _others_exit(case)
    why = "other_exit" if said else "external"
    said += less(case, watched, -beyond, why)
    return concluded(case, said, replace(booked(case), others=memory.others))


def _grown_by(case: Case, beyond: Decimal) -> Answer:
    p = case.e.watched[-1]
    if p.wanted is not None and case.found is not None:
        return (), remembered(case)  # it belongs to the next position, once this one is over
    average = entry_of(case) or p.entry
    unclear = bool(case.shown.average) and units.is_off(average, p.entry) and _unclear(case)
    why = "unit_unclear" if unclear else "bought on"
    said: list[Concluded] = [Resized(position=p.name, left=p.left + beyond, entry=average, why=why)]
    return concluded(case, said, booked(case))
