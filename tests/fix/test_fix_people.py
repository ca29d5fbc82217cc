"""What is left to a person when the broker has done something to our order that leads nowhere by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness import World

from exitfsm.values import OrderStatus


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path, {"profit_taking": {"order_type": "limit"}})
    await world.start()
    await world.enter()
    yield world
    await world.finish()


async def test_an_order_replaced_by_an_unknown_one_can_be_cleared_up_once_nothing_is_held(world: World) -> None:
    await world.bar(98)
    booked = world.broker.booked(world.last_order.client_order_id)
    assert booked is not None
    booked.status = OrderStatus.REPLACED
    await world.manager.on_order_update(booked.report())
    assert (world.state, world.alarm_kinds) == ("unprotected", ["protection_lost"])
    await world.passes(30)
    assert len(world.orders) == 1
    world.broker.trade_by_hand("AAPL", "sell", 10, 98)  # what the replacement sold, under an id that nobody here knows
    await world.passes(30)
    assert world.state == "unprotected"
    await world.manager.release(world.position)
    await world.settle()
    assert world.state == "closed"


async def test_a_cancel_that_is_always_refused_is_an_alarm_and_not_an_endless_secret(world: World) -> None:
    world.broker.cancels = "refused"
    await world.bar("102.5")
    await world.until(lambda: "cancel_refused" in world.alarm_kinds, seconds=120)
    assert len(world.orders) == 1
    world.broker.fill(world.last_order, price=102)
    await world.deliver()
    await world.until(lambda: world.state == "filled")


async def test_of_a_replaced_order_what_comes_under_its_new_id_is_its_own(world: World) -> None:
    await world.bar(98)
    ours, looked = world.last_order.client_order_id, world.broker.count("order")
    replaced = {
        "ClOrdID": "other-1",
        "OrigClOrdID": ours,
        "ExecType": "5",
        "OrdStatus": "0",
        "OrderQty": 10,
        "CumQty": 0,
    }
    again = {"ClOrdID": "other-2", "OrigClOrdID": "other-1", "ExecType": "5", "OrdStatus": "0", "OrderQty": 10}
    part = {"ClOrdID": "other-2", "ExecType": "F", "OrdStatus": "1", "OrderQty": 10, "CumQty": 4, "AvgPx": 98}
    for update in (replaced, again, part):
        await world.manager.on_order_update(update)
    assert (world.state, world.position.filled_qty, world.broker.count("order")) == ("partial", 4, looked)
    stranger = part | {"ClOrdID": "other-3", "OrigClOrdID": "nobody-1", "CumQty": 9}
    await world.manager.on_order_update(stranger)
    assert world.position.filled_qty == 4
    world.broker.fill(ours, price=98)
