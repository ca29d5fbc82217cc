"""Reading the broker's books for the proof that an account is flat. What they prove is decided in `deciding`.

Rules of this room: it asks, and orders nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exitfsm.control.deciding import Books, Proof, proof_of
from exitfsm.position import READS_MIN

if TYPE_CHECKING:
    from exitfsm.manager.parts import Parts

#: How long lies between two looks, in seconds.
BETWEEN_LOOKS_S = 0.3


async def proved(parts: Parts, doubts: Sequence[str] = ()) -> Proof:
    """The proof, by looks in a row with some time between them: one that shows nothing proves nothing."""
    proof = await look(parts, doubts)
    for _ in range(READS_MIN - 1):
        if proof.is_flat:
            await asyncio.sleep(BETWEEN_LOOKS_S)
            proof = await look(parts, doubts)
    return proof


async def look(parts: Parts, doubts: Sequence[str] = ()) -> Proof:
    """One look: the orders first and what is held after them, so that what fills in between is seen."""
    context = parts.context
    orders = tuple(await context.calls.listed_orders()) if context.calls.has("open_orders") else None
    read = await context.books.positions()
    foreign = tuple(order for working in context.memory.orders.foreign.values() for order in working.values())
    positions = tuple(sorted(context.engine.positions.values(), key=lambda p: (p.opened_at, p.position_id)))
    hours = {p.symbol: context.hours.at_a_glance(p.symbol) for p in positions}
    opens = {symbol: known.next_open for symbol, known in hours.items() if known is not None and not known.is_open}
    books = Books(
        rows=read.rows, unreadable=read.unreadable, orders=orders, foreign=foreign, positions=positions, opens=opens,
        doubts=tuple(doubts),
    )  # fmt: skip
    return proof_of(books)
