"""A native stop of the bot's own beside the rules, as docs/explanation/native-orders.md says."""

from __future__ import annotations

from harness import MakeWorld, World

from exitfsm.lifecycle import State

CONFIG = {"live": {"entry_id_prefix": "bot-"}}


async def beside(make_world: MakeWorld) -> World:
    """10 AAPL at 100, and a stop of the bot at the broker, further away than the one here."""
    world = await make_world(CONFIG)
    await world.enter()
    world.broker.place("AAPL", "sell", 10, client_order_id="bot-disaster")
    await world.deliver()
    return world


async def test_given_a_disaster_stop_with_the_prefix_then_it_is_canceled_before_the_exit_leaves(
    make_world: MakeWorld,
) -> None:
    world = await beside(make_world)
    await world.bar(98)
    await world.until(lambda: world.orders, seconds=5)
    methods = [call.method for call in world.broker.calls if call.method in ("cancel", "submit")]
    assert methods == ["cancel", "submit"]
    assert not world.broker.booked("bot-disaster").live  # type: ignore[union-attr]
    await world.fill()
    await world.until(lambda: len(world.ended()) == 1)
    assert world.state is State.FILLED
    assert world.alarm_kinds == []


async def test_given_a_disaster_stop_that_fills_then_the_position_ends_and_no_exit_leaves(
    make_world: MakeWorld,
) -> None:
    world = await beside(make_world)
    world.broker.fill("bot-disaster", 10, 95)
    await world.deliver()
    await world.until(lambda: len(world.ended()) == 1, seconds=30)
    assert world.state is State.CLOSED
    assert world.orders == []
    assert "PositionClosedElsewhere" in world.names()
