"""Entries of the bot that work: found in the list of working orders, and canceled where a person wants out of all.

Rules of this room: an order is the bot's by its id alone, which begins with what is configured. What a person ordered
is never canceled here, nor what closes something: an exit makes way for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

from exitfsm.broker.probing import cancel
from exitfsm.errors import BrokerError
from exitfsm.holdings.facts import Scope
from exitfsm.order_ids import looks_like_exit
from exitfsm.others.ground import Ground
from exitfsm.others.scope import Scoped
from exitfsm.outside import log
from exitfsm.position import READS_MIN
from exitfsm.scope import why_not
from exitfsm.values import BrokerPosition, ExecutionReport, bare, same_symbol

#: How long is waited between two looks at what became of a cancel, in seconds.
PAUSE_S = 0.3


class Entries:
    """Cancels the bot's entries."""

    def __init__(self, ground: Ground, scoped: Scoped) -> None:
        self._calls, self._orders, self._time = ground.calls, ground.orders, ground.time
        self._prefix, self._scoped = ground.live.entry_id_prefix, scoped

    async def cancel(self, rows: Sequence[BrokerPosition]) -> list[tuple[ExecutionReport, bool]]:
        """Have all that work canceled; each with whether its record shows that it has ended.

        Args:
            rows: what is held, as far as it is ours: what closes it is no entry.

        Raises:
            BrokerError: the broker does not say which orders work.
        """
        if not bots_ids(self._scoped.scope, self._prefix) or not self._calls.has("open_orders"):
            return []
        found = entries(await self._calls.open_orders(), rows, self._scoped.scope, self._prefix)
        ends = []
        for order in found:
            self._orders.note_foreign(order, self._time.monotonic())  # a cancel names the broker's id
            name, is_over = order.client_order_id, False
            try:
                is_over = await cancel(self._calls, name, READS_MIN, partial(asyncio.sleep, PAUSE_S))
            except BrokerError as error:
                log.warning("entry_not_canceled id=%s error=%s", name, error)
            if is_over and order.symbol is not None:
                self._orders.foreign.get(bare(order.symbol), {}).pop(name, None)
            ends.append((order, is_over))
        return ends


def entries(
    orders: Iterable[ExecutionReport], rows: Sequence[BrokerPosition], scope: Scope, prefix: str
) -> list[ExecutionReport]:
    """Of working orders those that the bot entered with, in what is managed, and that open or add to something.

    One that does not say its side is none: what closes a position is not to be canceled by a guess.
    """
    mine = (o for o in orders if o.client_order_id.startswith(bots_ids(scope, prefix)))
    managed = (o for o in mine if not (looks_like_exit(o.client_order_id) or is_others(o, scope, prefix)))
    return [o for o in managed if o.side is not None and not _closes(o, rows)]


def _closes(order: ExecutionReport, rows: Sequence[BrokerPosition]) -> bool:
    held = [row for row in rows if order.symbol is not None and same_symbol(row.symbol, order.symbol)]
    return any(order.side is row.side.exit_side for row in held)


def is_others(order: ExecutionReport, scope: Scope, prefix: str) -> bool:
    """True for a working order that is nobody's here: in a symbol that is not managed, or by another than the bot.

    An exit of ours is ours wherever it works. Where only what is handed over is managed, ids alone say who ordered.
    """
    order_id, ids = order.client_order_id, bots_ids(scope, prefix)
    if order.symbol is None or looks_like_exit(order_id, scope.mark):
        return False
    if why_not(order.symbol, scope, watched=True):
        return True
    by_ids = bool(scope.ids) or (scope.handed and bool(ids) and not scope.choices.takes_in(order.symbol))
    return by_ids and not order_id.startswith(ids)


def bots_ids(scope: Scope, prefix: str) -> tuple[str, ...]:
    """How the ids of the bot's orders begin, as far as that is configured."""
    return scope.ids or ((prefix,) if prefix else ())


__all__ = ["Entries", "bots_ids", "entries", "is_others"]
