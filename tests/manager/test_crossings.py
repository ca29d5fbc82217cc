"""A holding that comes to the other side while its exit is under way: by others it is a reversal, by us it is said."""

from __future__ import annotations

from decimal import Decimal

from harness import GOOD, MakeWorld, World
from msgspec.structs import replace

from exitfsm import OrderSide, State

BARE = replace(GOOD, reduce_only=False)


def states(world: World) -> dict[str, str]:
    return {str(p.side): str(p.state) for p in world.manager.positions()}


async def test_a_reversal_during_an_exit_ends_its_order_first_and_then_watches_the_new_side(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"profit_taking": {"threshold_pct": 2, "order_type": "limit"}}, capabilities=BARE)
    await world.enter(10, at=100)
    await world.bar(102)
    assert world.state is State.SUBMITTED
    resting = world.last_order
    world.broker.trade_by_hand("AAPL", "sell", 15, 101)
    await world.until(lambda: states(world) == {"short": "monitoring"}, 200)
    booked = world.broker.booked(resting.client_order_id)
    assert booked is not None
    assert not booked.live
    assert [str(p.state) for p in world.ended()] == ["closed"]
    assert (world.alarm_kinds, len(world.orders), world.position.remaining_qty) == ([], 1, 5)
    await world.bar("102.5")  # the stop of the short
    assert (world.last_order.side, world.last_order.qty) == (OrderSide.BUY, 5)
    await world.fill()
    await world.until(lambda: states(world) == {}, 100)
    assert world.broker.held("AAPL") == 0


async def test_what_our_own_exit_opened_is_said_by_its_order_and_nothing_more_is_sent(make_world: MakeWorld) -> None:
    world = await make_world(capabilities=BARE)
    await world.enter(10, at=100)
    await world.bar("98.5")
    world.broker.trade_by_hand("AAPL", "sell", 10, "98.5")  # others are faster
    await world.fill(price="98.5")
    await world.until(lambda: "oversold" in world.alarm_kinds, 100)
    (alarm,) = [a for a in world.manager.alarms() if a.kind == "oversold"]
    assert f"exit order {world.last_order.client_order_id} took AAPL from 0 to -10" in alarm.text
    for price in (99, 101, 103):
        await world.bar(price)
    await world.passes(200, step=5)
    assert (states(world), len(world.orders)) == ({"long": "unprotected"}, 1)
    world.broker.trade_by_hand("AAPL", "buy", 10, 103)
    await world.until(lambda: states(world) == {}, 100)
    assert world.broker.held("AAPL") == Decimal(0)


async def test_what_an_exit_opened_after_its_position_ended_is_not_adopted(make_world: MakeWorld) -> None:
    world = await make_world(capabilities=BARE)
    await world.enter(10, at=100)
    await world.bar("98.5")
    order = world.last_order
    world.broker.end_cancel(order)
    await world.deliver()
    world.broker.trade_by_hand("AAPL", "sell", 10, "98.5")
    await world.until(lambda: states(world) == {}, 300)
    world.broker.fill(order, 10, "98.5", late=True)
    world.broker.lose_updates()
    await world.passes(100, step=5)
    assert (states(world), len(world.orders)) == ({}, 1)
    (alarm,) = [a for a in world.manager.alarms() if a.kind == "oversold"]
    assert "took AAPL from 0 to -10" in alarm.text
