"""What the tests of scope by ids share: several managers on one account."""

from __future__ import annotations

from typing import Any

from harness import GOOD, World
from msgspec.structs import replace

from exitfsm.testing import ScriptedBroker
from exitfsm.values import Order

#: The same broker, that says nothing of how old its books are; and one where nothing guards against selling more.
BEHIND = replace(GOOD, positions_lag_s=10.0, executions_late_s=30.0)
BARE = replace(GOOD, reduce_only=False)


def by(*ids: str, **more: Any) -> dict[str, Any]:
    return {"manage": {"owner": "ids", "ids": list(ids)}, **more}


async def told(*worlds: World) -> None:
    """Every manager of the account hears of every order."""
    news = list(worlds[0].broker.updates)
    worlds[0].broker.lose_updates()
    for world in worlds:
        for update in news:
            await world.manager.on_order_update(update)
    for world in worlds:
        await world.settle()


def wants_one_exit_of_each(broker: ScriptedBroker) -> None:
    """Two managers are at work: each sends one exit of a symbol after the other."""
    check, all_exits = broker._check_size, broker.live_exits

    def check_size(order: Order) -> None:
        mark = order.client_order_id[:8]
        broker.live_exits = lambda symbol=None: [  # type: ignore[method-assign, misc]
            booked for booked in all_exits(symbol) if booked.order.client_order_id.startswith(mark)
        ]
        try:
            check(order)
        finally:
            broker.live_exits = all_exits  # type: ignore[method-assign]

    broker._check_size = check_size  # type: ignore[method-assign]
