"""An exit order of ours that no position here knows of: while it works, no second one is sent beside it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from harness import World

from exitfsm import Order, State
from exitfsm.position import client_order_id
from exitfsm.testing import Raises, Returns
from exitfsm.values import OrderSide


async def with_a_stranger(path: Path) -> tuple[World, Order]:
    """A position, and a working exit of ours whose record was lost and named the position otherwise."""
    world = World(path)
    await world.start()
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
    return world, stray


async def test_no_exit_is_sent_beside_one_of_ours_that_belongs_to_no_known_position(tmp_path: Path) -> None:
    world, stray = await with_a_stranger(tmp_path)
    await world.bar("98.9")
    await world.passes(60)
    assert world.state is State.PENDING
    assert [order.client_order_id for order in world.orders] == [stray.client_order_id]
    world.broker.end_cancel(stray.client_order_id)
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_list_of_orders_that_is_empty_does_not_prove_that_the_other_one_is_over(tmp_path: Path) -> None:
    world, stray = await with_a_stranger(tmp_path)
    world.broker.always("open_orders", Returns([]))
    await world.bar("98.9")
    await world.passes(300, step=5)
    assert [order.client_order_id for order in world.orders] == [stray.client_order_id]
    world.broker.end_cancel(stray.client_order_id)
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_new_life_asks_twice_where_the_first_list_of_orders_is_empty_or_fails(tmp_path: Path) -> None:
    world, stray = await with_a_stranger(tmp_path)
    for answer in (Returns([]), Raises(ConnectionError())):
        await world.crash()
        world.broker.answer("open_orders", answer)
        await world.start()
        await world.bar("98.9")
        await world.passes(5)
        assert [order.client_order_id for order in world.orders] == [stray.client_order_id]
    await world.finish()


async def test_in_a_new_life_no_exit_leaves_before_the_working_orders_were_listed(tmp_path: Path) -> None:
    world, stray = await with_a_stranger(tmp_path)
    await world.bar("98.9")
    await world.crash()
    world.broker.answer("positions", Raises(ConnectionError()), times=3)
    world.broker.answer("open_orders", Raises(ConnectionError()), times=5)
    await world.start()
    await world.passes(60)
    assert [order.client_order_id for order in world.orders] == [stray.client_order_id]
    await world.finish()


async def test_where_the_working_orders_cannot_be_listed_an_exit_does_not_wait_for_ever(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.broker.always("open_orders", Raises(ConnectionError()))
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    assert world.orders == []
    await world.until(lambda: len(world.orders) == 1, seconds=60)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_where_listing_orders_is_not_implemented_no_exit_waits_for_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.broker.always("open_orders", Raises(NotImplementedError()))
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()
