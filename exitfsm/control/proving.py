"""Reading the broker's books for the proof that an account is flat. What they prove is decided in `deciding`.

Rules of this room: it asks, and orders nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from exitfsm.control.deciding import Books, Proof, held_on, proof_of
from exitfsm.others.entries import is_others
from exitfsm.position import READS_MIN
from exitfsm.scope import why_not
from exitfsm.values import bare, plain

if TYPE_CHECKING:
    from exitfsm.manager.parts import Parts

#: How long lies between two looks, in seconds.
BETWEEN_LOOKS_S = 0.3


async def proved(parts: Parts, doubts: Sequence[str] = (), *, of_all: bool = False) -> Proof:
    """The proof, by looks in a row with some time between them: one that shows nothing proves nothing.

    Args:
        parts: of the manager.
        doubts: why what is known may not be enough.
        of_all: what is not managed must be gone, too.
    """
    proof = await look(parts, doubts, of_all=of_all)
    for _ in range(READS_MIN - 1):
        if proof.is_flat:
            await asyncio.sleep(BETWEEN_LOOKS_S)
            proof = await look(parts, doubts, of_all=of_all)
    return proof


async def look(parts: Parts, doubts: Sequence[str] = (), *, of_all: bool = False) -> Proof:
    """One look: the orders first and what is held after them, so that what fills in between is seen."""
    context = parts.context
    orders = tuple(await context.calls.listed_orders()) if context.calls.has("open_orders") else None
    read = await context.books.positions()
    outside = context.scoped.outside()
    foreign = tuple(order for working in context.memory.orders.foreign.values() for order in working.values())
    positions = tuple(sorted(context.engine.positions.values(), key=lambda p: (p.opened_at, p.position_id)))
    rows, unreadable = read.rows, read.unreadable
    scope, prefix = context.scoped.scope, context.ground.live.entry_id_prefix
    if of_all and not scope.ids:
        rows, outside = context.scoped.rows, []
    else:
        left_out = {one.row.symbol for one in outside if why_not(one.row.symbol, scope, watched=True)}
        rows = tuple(row for row in rows if row.symbol not in left_out and row.qty)  # a part of nothing is nobody's
        unreadable = frozenset(
            symbol for symbol in unreadable if not symbol or not why_not(symbol, scope, watched=True)
        )
        orders = (
            tuple(o for o in orders if o is None or not is_others(o, scope, prefix)) if orders is not None else None
        )
        foreign = tuple(o for o in foreign if not is_others(o, scope, prefix))
    watched, owned = {bare(p.symbol) for p in positions}, context.scoped.owned
    managed = {name: qty for name, qty in owned.items() if qty and not why_not(name, scope, watched=True)}
    doubts = (
        *doubts,
        *(
            f"{name}: {plain(abs(qty))} that its ids bought is not watched yet"
            for name, qty in managed.items()
            if name not in watched
        ),
        *(held_on(one.row.symbol, one.qty) for one in outside if of_all and scope.ids),
    )
    hours = {p.symbol: context.hours.at_a_glance(p.symbol) for p in positions}
    opens = {symbol: known.next_open for symbol, known in hours.items() if known is not None and not known.is_open}
    books = Books(
        rows=rows, unreadable=unreadable, orders=orders, foreign=foreign, positions=positions, opens=opens,
        doubts=tuple(doubts), outside=tuple(str(one) for one in outside),
    )  # fmt: skip
    return proof_of(books)
