"""An exit order of ours that no position here knows of: while it works, no second one is sent beside it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from harness import World

from exitfsm import Order, State
from exitfsm.position import client_order_id
from exitfsm.values import OrderSide


async def test_no_exit_is_sent_beside_one_of_ours_that_belongs_to_no_known_position(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    # The lost record named the position otherwise: it was closed by hand and opened anew, and nobody noticed.
    await world.enter(10, at=100)
    stray = Order(
        client_order_id=client_order_id("AAPL:long:20240102T000000Z:626cb000cf2a", 1),
        symbol="AAPL",
        side=OrderSide.SELL,
        qty=Decimal(10),
    )
    world.broker.take(stray)
    await world.manager.sync()
    assert world.alarm_kinds == ["unknown_exit_order"]
    await world.bar("98.9")
    await world.passes(60)
    assert world.state is State.PENDING
    assert [order.client_order_id for order in world.orders] == [stray.client_order_id]
    world.broker.end_cancel(stray.client_order_id)
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()
