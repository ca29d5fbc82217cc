"""The first price of a position has its entry to be held against, so that a bad print exits nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from harness import World
from msgspec.structs import replace

from exitfsm import Side, State
from exitfsm.testing import Returns


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


@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
async def test_an_absurd_first_price_decides_nothing_where_the_clock_was_ahead_for_a_while(
    tmp_path: Path, named: bool
) -> None:
    world = World(tmp_path)
    await world.start()
    right = world.clock.now()
    world.clock.set(right + timedelta(hours=1))
    await world.passes(2)
    world.clock.set(right)
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.always("positions", Returns([replace(world.broker.snapshot()[0], current_price=None)]))
    if named:
        await world.manager.watch("AAPL", Side.LONG, 10, 100, world.clock.now())
    else:
        await world.deliver()
    await world.manager.on_bar(world.make_bar(1000))
    await world.settle()
    assert world.state is State.MONITORING
    assert "price_jump" in world.alarm_kinds
    world.broker.always("positions", None)
    await world.finish()
