"""What the store knows of a symbol's earlier positions; asked in the writer's thread."""

from __future__ import annotations

from decimal import Decimal

from exitfsm import holdings
from exitfsm.engine import Engine
from exitfsm.events import PositionClosedElsewhere
from exitfsm.kinds import PositionEnd
from exitfsm.position import Position, position_id
from exitfsm.values import ZERO, Side


def newest(engine: Engine, symbol: str, side: Side) -> tuple[Position | None, Decimal]:
    """The newest position on record of a symbol and side, and what it left as a residue."""
    row = engine.store.newest_position(symbol, side)
    p = engine.get(row.position_id) if row is not None else None
    if p is None or not p.state.terminal:
        return p, ZERO
    ends = (one.event for one in engine.store.stream(p.position_id))
    left = [e for e in ends if isinstance(e, PositionClosedElsewhere) and e.how == PositionEnd.RESIDUE]
    return p, left[-1].remaining_qty if left else ZERO


def epoch_by_price(engine: Engine, account: str, symbol: str, side: Side, entry: Decimal) -> str:
    """The first name by price that no ended position has."""
    for epoch in holdings.names_by_price(entry):
        known = engine.get(position_id(account, symbol, side, epoch))
        if known is None or not known.state.terminal:
            break
    return epoch
