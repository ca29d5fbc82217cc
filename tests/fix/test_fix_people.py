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
