"""The core scenarios: what the market does while an exit is under way, told as a function of the venue's books.

A market looks at the books and moves them on, so that it does not matter how often a bot dies in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from exitfsm.testing import ScriptedBroker
from exitfsm.testing.books import Booked
from exitfsm.values import OrderStatus

Market = Callable[[ScriptedBroker], None]


def _live(broker: ScriptedBroker) -> list[tuple[int, Booked]]:
    """The exit orders that work, each with its number."""
    numbered = ((n, broker.booked(order.client_order_id)) for n, order in enumerate(broker.orders, 1))
    return [(n, booked) for n, booked in numbered if booked is not None and booked.live]


def fills_whole(broker: ScriptedBroker) -> None:
    """Every order fills whole."""
    for _, booked in _live(broker):
        broker.fill(booked.order, None, 102)


def part_fills_then_expires(broker: ScriptedBroker) -> None:
    """The first order fills 4 and expires, the second fills whole."""
    for number, booked in _live(broker):
        if number == 1 and booked.filled == 0:
            broker.fill(booked.order, 4, 98)
        elif number == 1:
            broker.expire(booked.order)
        else:
            broker.fill(booked.order, None, 97)


def rejects_the_first(broker: ScriptedBroker) -> None:
    """The first order is taken and then rejected, the second fills whole."""
    for number, booked in _live(broker):
        if number == 1:
            broker.reject(booked.order, "halted")
        else:
            broker.fill(booked.order, None, 97)


def limit_gives_way(broker: ScriptedBroker) -> None:
    """A limit fills 3 and rests; its cancel takes a while and lets 2 more fill; the market order fills whole."""
    for _, booked in _live(broker):
        if booked.order.limit_price is None:
            broker.fill(booked.order, None, 97)
        elif booked.filled == 0:
            broker.fill(booked.order, 3, 102)
        elif booked.status is OrderStatus.PENDING_CANCEL and booked.filled == 3:
            broker.fill(booked.order, 2, 102)
            booked.status = OrderStatus.PENDING_CANCEL
        elif booked.status is OrderStatus.PENDING_CANCEL:
            broker.end_cancel(booked.order)


@dataclass(frozen=True)
class Life:
    """One scenario.

    Attributes:
        prices: closes of the bars, the last for ever.
        orders: how many exit orders it takes; fewer where the store could not be written until the price had moved on.
        before: steps that another process lives first; then it is killed, and the life is that of the one after it.
        made: the store is there when the life begins; otherwise it makes it.
    """

    market: Market
    prices: tuple[float, ...]
    orders: int = 1
    config: dict[str, Any] = field(default_factory=dict)
    before: int = 0
    made: bool = True


LIVES = {
    "take-profit": Life(fills_whole, (100, 102)),
    "part-fill-resubmit": Life(part_fills_then_expires, (100, 98), 2),
    "reject-retry": Life(rejects_the_first, (100, 98), 2),
    "cancel-escalate": Life(limit_gives_way, (100, 102, 102, 98), 2, {"profit_taking": {"order_type": "limit"}}),
    "restart": Life(part_fills_then_expires, (100, 98), 2, before=3),
    "first-start": Life(fills_whole, (100, 98), made=False),
}
