"""What is to be watched: its name by the fill that opened it, and its entry price; what is lacking is waited for."""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace

from exitfsm.holdings import units
from exitfsm.holdings.cases import Case, figures, remembered
from exitfsm.holdings.facts import BEFORE, Adopted, Answer, Change, Needed
from exitfsm.holdings.rows import scope_tag, side_of, sign
from exitfsm.holdings.trades import Origin, name_of, origin, trades
from exitfsm.values import ZERO

#: How much longer than the executions may be late a name is waited for, in seconds.
NAME_S = 20.0


def origin_of(case: Case, qty: Decimal) -> Origin | None:
    """Where so much comes from; None where the executions do not reach to flat, or none are listed."""
    return origin(case.found, qty, case.e.instrument) if case.found is not None and qty else None


def _reported_entry(case: Case) -> Decimal | None:
    """The average entry by what updates have reported, where the broker lists no executions."""
    if case.found is not None:
        return None
    first = origin(trades(case.e.reported, case.e.key, case.memory), case.shown.qty, case.e.instrument)
    return first.entry if first is not None else None


def entry_of(case: Case) -> Decimal | None:
    """The average entry of what is shown; None where it is unclear."""
    first = origin_of(case, case.shown.qty)
    said = first.entry if first is not None else _reported_entry(case)
    return units.entry(case.shown.average, said, case.shown.price or case.e.price, case.e.instrument)


def name(case: Case, first: Origin | None, entry: Decimal) -> str:
    """Its name, in which the scope is, so that two bots never share one."""
    return name_of(first, case.shown.qty, case.e.key, scope_tag(case.e.scope), entry)


def opening_of(case: Case) -> Origin | None:
    """Where what is to be adopted comes from.

    Bought on while an exit was under way it was never flat: then it begins with the first purchase since that exit was
    decided.
    """
    first, since = origin_of(case, case.shown.qty), case.e.exit_began
    if first is None or since is None or case.found is None or not _is_over(case, first):
        return first
    way, scope = 1 if case.shown.qty > 0 else -1, case.e.scope
    later = [t for t in case.found if t.at >= since and t.qty * way > 0 and not scope.is_exit(t.order_id)]
    return Origin(entry=later[0].price, opened=later[0]) if later else first


def await_name(case: Case) -> Answer | None:
    """Row 20: what is adopted is named by executions that lead from flat to exactly this; they are waited for."""
    if case.found is None:
        return None
    first = opening_of(case)
    if first is not None and not _is_over(case, first):
        return None
    since = case.memory.naming if case.memory.naming > BEFORE else case.read.end
    memory = replace(remembered(case), naming=since)
    instrument = case.e.instrument
    if case.read.end - since < instrument.executions_late_s + instrument.lag_s + NAME_S:
        return (Needed("executions"),), memory
    return None


def _is_over(case: Case, first: Origin) -> bool:
    called = name(case, first, ZERO)
    return called in case.memory.ended or any(p.name == called for p in case.e.watched)


def adopt(case: Case, after: Answer) -> Answer:
    """What is shown is watched from now on, after these conclusions; or an alarm says why not."""
    said, memory = list(after[0]), after[1]
    first, entry = opening_of(case), entry_of(case)
    if first is not None and case.e.scope.is_exit(first.opened.order_id):
        return (*said, figures(case, "oversold")), memory
    if entry is None:
        return (*said, figures(case, "unpriceable")), memory
    if case.found is not None and (first is None or _is_over(case, first)):
        said.append(figures(case, "epoch_unknown"))
        first = None
    called = name(case, first, entry)
    while called in memory.ended:
        called += "'"
    adopted = Adopted(
        side=side_of(case.shown.qty, case.e.key),
        qty=abs(case.shown.qty),
        entry=entry,
        name=called,
        first=first.opened.at if first is not None else None,
    )
    change = Change(adopted.qty * sign(adopted.side, case.e.key), case.read.end)
    return (*said, adopted), replace(memory, changes=(*memory.changes, change))
