"""A broker whose list of executions holds more than was asked for: those from before a position say nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from harness import World
from msgspec.structs import replace

from exitfsm import Fill


def lists_everything(world: World, *, coarse: bool = False) -> None:
    """A wrapper that leaves out what it is asked since; `coarse`: its times are whole seconds."""

    async def fills(_since: datetime) -> Sequence[Fill]:
        return [replace(f, at=f.at.replace(microsecond=0)) if coarse else f for f in world.broker.executions]

    world.broker.fills = fills  # type: ignore[method-assign]


async def round_trip(world: World) -> None:
    await world.bar(98)
    await world.fill()
    await world.until(lambda: [p.state for p in world.ended()] == ["filled"])
    await world.passes(301)


@pytest.mark.parametrize("coarse", [False, True])
async def test_given_a_refused_exit_of_a_second_position_then_it_is_tried_again(world: World, coarse: bool) -> None:
    """The first position's sale is no proof that the second one was sold by hand."""
    lists_everything(world, coarse=coarse)
    await round_trip(world)
    world.clock.move_to(world.clock.now() + timedelta(microseconds=1500))
    await world.enter(10, 100)
    held = world.position.position_id
    await world.bar(98)
    world.broker.reject(world.last_order, "not_tradable")
    await world.deliver()
    await world.until(lambda: len(world.orders) == 3, seconds=90)
    await world.fill()
    await world.until(lambda: len(world.ended()) == 2)
    assert [(p.position_id, str(p.state)) for p in world.ended()][1:] == [(held, "filled")]
    assert world.alarm_kinds == []


async def test_given_an_addition_to_a_second_position_then_it_grows(world: World) -> None:
    """What was bought and sold before counts for nothing where the executions must explain a larger quantity."""
    lists_everything(world)
    await round_trip(world)
    await world.enter(10, 100)
    held = world.position.position_id
    world.broker.trade_by_hand("AAPL", "buy", 5, 100)
    world.broker.lose_updates()
    await world.passes(200)
    assert (world.position.position_id, world.position.qty) == (held, 15)
