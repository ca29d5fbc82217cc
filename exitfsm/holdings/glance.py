"""What mostly is all there is to see: a read shows what is watched, and there was nothing to ask or to wait for.

`at_a_glance` says only what `weighing` would say too, at a quarter of its cost: of thousands of positions hardly one
needs more.
"""

from __future__ import annotations

from exitfsm.holdings.facts import BEFORE, Answer, Evidence, Failed, Memory, Needed
from exitfsm.holdings.rows import KEPT_S, Said, Shown, in_scope, net
from exitfsm.values import exactly

_UNSET = (BEFORE,) * 6
#: Some of what is expected is younger than the read may be.
_TOO_YOUNG = (Needed("reads"),)


@exactly
def at_a_glance(e: Evidence, memory: Memory) -> Answer | None:
    """What `weigh` answers where a row shows the one position that is watched, exactly; None where it is to be asked.

    Such a read is no news, and leaves what is remembered as it was.
    """
    if isinstance(e.read, Failed) or e.key.side is not None or e.scope.by_ids or e.reported or e.executions:
        return None
    if len(e.watched) != 1 or e.works is False or not _is_settled(memory) or not in_scope(e.key.symbol, e.scope):
        return None
    if any(change.at <= e.read.end - KEPT_S for change in memory.changes):
        return None  # they are forgotten now
    p, shown = e.watched[0], net(e.read, e.key, hedge=e.instrument.hedge)
    if p.orders or p.wanted is not None or not isinstance(shown, Shown) or shown.said is not Said.ROW:
        return None
    if shown.qty != p.left * p.side.sign or shown.average not in (None, p.entry):
        return None
    is_young = any(change.qty and change.at > e.read.begin - e.instrument.lag_s for change in memory.changes)
    return (_TOO_YOUNG if is_young else ()), memory


def _is_settled(memory: Memory) -> bool:
    """True where no read, order or alarm left anything to be remembered but what changed of the expectation."""
    if memory.run is not None or memory.odd is not None or memory.raised or memory.units:
        return False
    since = (memory.empty, memory.naming, memory.unshown, memory.flat, memory.refused, memory.unit_at)
    return memory.confirmed and not memory.runs and not memory.failed and since == _UNSET
