"""What the parts of this room stand on: the broker, what is remembered, and who is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from exitfsm.broker.calls import BrokerCalls
from exitfsm.clocks import SteadyTime
from exitfsm.config import LiveSettings
from exitfsm.engine import Engine
from exitfsm.holdings.facts import Scope
from exitfsm.memory.orders import Orders
from exitfsm.messages import Message
from exitfsm.order_ids import looks_like_exit
from exitfsm.values import ExecutionReport

T = TypeVar("T")


class Positions(Protocol):
    """Where positions are told of things."""

    async def owner_of(self, client_order_id: str) -> str | None:
        """The position that an order belongs to, open or ended."""

    async def tell_all(self, messages: Sequence[tuple[str, Message]]) -> None:
        """Messages to several positions, committed together."""

    async def run(self, work: Callable[[], T]) -> T:
        """Have a function done in the writer's thread."""

    async def report(self, report: ExecutionReport) -> None:
        """A report on an order of ours."""

    async def alarm(self, position_id: str, kind: str, text: str) -> None:
        """An alarm of a position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """It is whole before the first part is made. `raise_alarm` raises one about the account. `scope`: what is ours."""

    calls: BrokerCalls
    orders: Orders
    positions: Positions
    engine: Engine
    time: SteadyTime
    live: LiveSettings
    raise_alarm: Callable[[str, str], Awaitable[None]]
    scope: Scope

    async def is_ours(self, order_id: str) -> bool:
        """True for an exit of ours: of this scope by its id, or of a position on record."""
        if looks_like_exit(order_id, self.scope.mark):
            return True
        return looks_like_exit(order_id) and await self.positions.owner_of(order_id) is not None
