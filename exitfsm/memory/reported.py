"""Executions of others as the bot's order updates reported them: one for each order, found by their symbol."""

from __future__ import annotations

from exitfsm.holdings import bare
from exitfsm.values import Fill


class Reported:
    """The newest of them: each holding asks for its own, and must not search those of all others.

    Args:
        most: so many are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_order: dict[str, Fill] = {}
        self._by_name: dict[str, dict[str, Fill]] = {}

    def get(self, order_id: str) -> Fill | None:
        """What an order has filled, as far as is known."""
        return self._by_order.get(order_id)

    def of(self, symbol: str) -> list[Fill]:
        """The executions in a symbol, however it is spelled; the one that was reported last is the last."""
        return list(self._by_name.get(bare(symbol), {}).values())

    def note(self, fill: Fill) -> None:
        """Remember an execution in the place of what its order had filled before; forget the oldest of too many."""
        self._drop(fill.fill_id)
        self._by_order[fill.fill_id] = fill
        self._by_name.setdefault(bare(fill.symbol), {})[fill.fill_id] = fill
        if len(self._by_order) > self._most:
            self._drop(next(iter(self._by_order)))

    def _drop(self, order_id: str) -> None:
        before = self._by_order.pop(order_id, None)
        if before is None:
            return
        of_symbol = self._by_name[bare(before.symbol)]
        del of_symbol[order_id]
        if not of_symbol:
            del self._by_name[bare(before.symbol)]
