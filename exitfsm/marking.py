"""What is kept beside the events of an open position: its marks, and the states that its rules folded from bars.

Neither is an event: both are saved each second and when the manager stops, and can be made again from bars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal

from exitfsm.levels import Slot
from exitfsm.position import Position, RuleStates, refolded, restored, saved
from exitfsm.projections import Mark
from exitfsm.values import Bar, pct_change

#: The bars of a symbol after a time, in order; empty where there are none.
BarsSince = Callable[[str, datetime], Iterable[Bar]]


def marks_of(slots: Iterable[Slot]) -> list[Mark]:
    """Last price, profit and highest price of each open position of which a bar was seen."""
    return [
        Mark(
            symbol=p.symbol,
            position_id=p.position_id,
            price=bar.close,
            pnl_pct=pct_change(p.entry_price, bar.close, p.side),
            best_price=Decimal(str(slot.highest)),
            at=bar.timestamp,
            folded=saved(slot.folded_of(p)) if slot.folded else "",
        )
        for slot in slots
        if (bar := slot.last_bar) is not None
        for p in slot.positions
    ]


def states_of(p: Position, saved_text: str, bars_since: BarsSince | None) -> RuleStates:
    """The states of a position's rules: as they were saved, and what bars have come since."""
    known = restored(p, saved_text)
    return refolded(p, bars_since(p.symbol, known.to or p.opened_at), known) if bars_since is not None else known
