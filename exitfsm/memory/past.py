"""What the store knows of a symbol's earlier positions; asked in the writer's thread."""

from __future__ import annotations

from decimal import Decimal

from exitfsm import holdings
from exitfsm.engine import Engine
from exitfsm.position import Position, position_id
from exitfsm.values import Side


def newest(engine: Engine, symbol: str, side: Side) -> Position | None:
    """The newest position on record of a symbol and side."""
    row = engine.store.newest_position(symbol, side)
    return engine.get(row.position_id) if row is not None else None


def epoch_by_price(engine: Engine, account: str, symbol: str, side: Side, entry: Decimal) -> str:
    """The first name by price that no ended position has."""
    for epoch in holdings.names_by_price(entry):
        known = engine.get(position_id(account, symbol, side, epoch))
        if known is None or not known.state.terminal:
            break
    return epoch
