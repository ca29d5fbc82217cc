"""Which trade brought a holding to the other side: another's is a reversal, an exit order of ours has sold too much.

A reversal ends the old position and begins the next one. What our own order has opened is nobody's: it is an alarm that
says which order took the holding from what to what, and nothing is watched or sent for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from exitfsm.holdings.facts import Instrument
from exitfsm.holdings.rows import sellable
from exitfsm.order_ids import looks_like_exit
from exitfsm.position import Position
from exitfsm.values import ZERO, Fill, OrderSide, Side, exactly, plain


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """A trade took a holding from `before` to `after`, signed: through zero, or from it."""

    symbol: str
    order_id: str
    before: Decimal
    after: Decimal
    is_exit: bool

    @property
    def text(self) -> str:
        """What an exit order of ours has done, in words."""
        what = f"{self.symbol} from {plain(self.before)} to {plain(self.after)}"
        return f"exit order {self.order_id} took {what}: what it opened is not watched, close it at the broker"


def _own_fills(p: Position, listed: Sequence[Fill]) -> tuple[Fill, ...]:
    """What is known of a position's own orders, as executions, of those of which none is listed."""
    known = {fill.client_order_id for fill in listed} | {fill.broker_order_id for fill in listed} - {None}
    return tuple(
        Fill(
            fill_id=order.client_order_id,
            symbol=p.symbol,
            side=p.side.exit_side,
            qty=order.filled_qty,
            price=order.avg_fill_price or ZERO,
            at=p.last_fill_at or p.opened_at,
            client_order_id=order.client_order_id,
        )
        for order in p.orders
        if order.filled_qty and not {order.client_order_id, order.broker_order_id} & known
    )


def crossing_of(p: Position, fills: Sequence[Fill], held: Decimal, instrument: Instrument) -> Crossing | None:
    """The same of a position's holding, by the executions since its entry, and by what its own orders have filled."""
    known = sorted((*fills, *_own_fills(p, fills)), key=lambda fill: fill.at)
    return crossing(known, held, instrument, frozenset(p.broker_order_ids))


@exactly
def crossing(
    fills: Sequence[Fill], held: Decimal, instrument: Instrument, own_ids: frozenset[str] = frozenset()
) -> Crossing | None:
    """The trade that opened what is held (signed), out of a symbol's executions, oldest first.

    None where they do not lead to what is held: one is missing yet, and which one is not known; and where what is held
    is a residue, which no trade opened. `own_ids`: the broker's own ids of exits of ours.
    """
    traded = [fill.qty if fill.side is OrderSide.BUY else -fill.qty for fill in fills]
    if not _is_held(held, held, instrument) or _is_held(held - sum(traded, ZERO), held, instrument):
        return None
    opened = _opened(traded, held, instrument)
    fill, before = fills[opened], held - sum(traded[opened:], ZERO)
    return Crossing(
        symbol=fill.symbol,
        order_id=fill.client_order_id or fill.broker_order_id or "without an id",
        before=before,
        after=before + traded[opened],
        is_exit=looks_like_exit(fill.client_order_id) or fill.broker_order_id in own_ids,
    )


def _opened(traded: Sequence[Decimal], held: Decimal, instrument: Instrument) -> int:
    """Which trade was the first of what is held; before all of them it was not."""
    at, before = len(traded), held
    while _is_held(before, held, instrument):
        at, before = at - 1, before - traded[at - 1]
    return at


def _is_held(qty: Decimal, like: Decimal, instrument: Instrument) -> bool:
    """True for something that could be sold, on the same side."""
    return qty * like > 0 and bool(sellable(qty, instrument))


def opened_by_exit(fills: Sequence[Fill], qty: Decimal, side: Side, instrument: Instrument) -> Crossing | None:
    """How an exit order of ours opened what is held; None where it did not, or where that is not known."""
    found = crossing(fills, qty * side.sign, instrument)
    return found if found is not None and found.is_exit else None
