"""Whose order is it? Ours and the broker's ids of one order, held against each other."""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from exitfsm.broker.fitting import Known
from exitfsm.engine import Engine
from exitfsm.manager.driving import Driver
from exitfsm.manager.executions import ORDER_PREFIX
from exitfsm.manager.reading import same_symbol
from exitfsm.position import Position
from exitfsm.values import ExecutionReport, tradable

#: Ids, and orders of others, that are remembered.
REMEMBERED_MAX = 10_000
T = TypeVar("T")


class Identity:
    """What is known of orders' ids."""

    def __init__(self, engine: Engine, driver: Driver) -> None:
        self._engine, self._driver = engine, driver
        self._renamed: dict[str, str] = {}

    def known(self, client_order_id: str) -> Known:
        """The broker's own id of an order, and its symbol, for a broker that wants to be asked by them."""
        p = self._engine.positions.get(self._engine.known_owner(client_order_id) or "")
        if p is not None:
            own = next((own for own, ours in p.broker_order_ids.items() if ours == client_order_id), None)
            return Known(own, p.symbol)
        for working in self._driver.foreign.values():
            if client_order_id in working:
                return Known(working[client_order_id].broker_order_id, working[client_order_id].symbol)
        return Known()

    def client_id(self, broker_order_id: str) -> str | None:
        """Our id of an exit order that is named by the broker's id alone."""
        for p in list(self._engine.positions.values()):
            ours = p.broker_order_ids.get(broker_order_id)
            if ours is not None:
                return ours
        return None

    def under_our_id(self, report: ExecutionReport) -> ExecutionReport:
        """The report under the id that we gave its order.

        In FIX a request to cancel or to replace has an id of its own: what it leads to is reported under that, with the
        one before it beside it, and of a replaced order all that follows is reported under the new id alone.
        """
        told, before = report.client_order_id, report.orig_client_order_id
        if told.startswith(ORDER_PREFIX):
            return report
        ours = self._renamed.get(told) or (self._renamed.get(before, before) if before is not None else None)
        if ours is None or not ours.startswith(ORDER_PREFIX):
            return report
        remember(self._renamed, told, ours)
        return replace(report, client_order_id=ours)

    def may_be_ours(self, report: ExecutionReport) -> bool:
        """True when an update names its order by the broker's id alone, and may mean an exit whose id is not known yet.

        Taken for somebody else's, our own sale would count as one by other hands.
        """
        if report.client_order_id != report.broker_order_id or report.symbol is None:
            return False
        return any(
            p.order_live and p.broker_order_id is None and same_symbol(p.symbol, report.symbol)
            for p in list(self._engine.positions.values())
        )


def precedes_a_change(p: Position, report: ExecutionReport) -> bool:
    """True for news of a live order from before it was changed at the broker, by the broker's own times.

    They name the quantity of then. Taken for another change they would stop an exit that is in order.
    """
    return (
        p.order_live
        and p.order.restated
        and p.client_order_id == report.client_order_id
        and report.qty is not None
        and tradable(report.qty)
        and report.qty != p.order_qty
        and not report.corrected
        and p.waiting_since is not None
        and report.at < p.waiting_since
    )


def remember(memory: dict[str, T], key: str, value: T) -> None:
    """Put the newest into a memory that forgets the oldest."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > REMEMBERED_MAX:
        del memory[next(iter(memory))]
