"""The first price of a position has its entry to be held against, so that a bad print exits nothing."""

from __future__ import annotations

from pathlib import Path

from harness import World

from exitfsm import Side, State


async def test_an_absurd_first_price_decides_nothing_on_a_position_that_the_bot_has_just_named(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    world.broker.enter("AAPL", "short", 10, 100)
    await world.manager.watch("AAPL", Side.SHORT, 10, 100, world.clock.now())
    price = world.broker.prices["AAPL"]
    await world.manager.on_bar(world.make_bar(10))
    world.broker.price("AAPL", price)
    await world.settle()
    assert world.state is State.MONITORING
    assert world.alarm_kinds == ["price_jump"]
    await world.bar("101.2")
    assert world.state is State.SUBMITTED
    await world.fill()
    await world.finish()


async def test_an_absurd_first_price_decides_nothing_after_a_restart_that_no_price_came_before(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.restart()
    await world.manager.on_bar(world.make_bar(1000))
    await world.settle()
    assert world.state is State.MONITORING
    assert "price_jump" in world.alarm_kinds
    await world.finish()
