"""Whose order is it? Ours and the broker's ids of one order, held against each other."""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from exitfsm.broker.fitting import Known
from exitfsm.engine import Engine
from exitfsm.holdings import our_id
from exitfsm.manager.driving import Driver
from exitfsm.values import ExecutionReport

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
        """The report under the id that we gave its order, where it is ours."""
        named, ours = report.client_order_id, our_id(report, self._renamed)
        if ours is None or ours == named:
            return report
        remember(self._renamed, named, ours)
        return replace(report, client_order_id=ours)


def remember(memory: dict[str, T], key: str, value: T) -> None:
    """Put the newest into a memory that forgets the oldest."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > REMEMBERED_MAX:
        del memory[next(iter(memory))]
