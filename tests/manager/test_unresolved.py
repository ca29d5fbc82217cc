"""An order of which nobody can say whether it arrived: nothing is stuck for good by it, and it stays in watch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness import GOOD, World
from msgspec.structs import replace

from exitfsm import Position, State
from exitfsm.events import PositionClosedElsewhere
from exitfsm.ports import IdMemory
from exitfsm.position import order_of
from exitfsm.testing import Raises

MakeWorld = Callable[..., Awaitable[World]]
#: A venue that takes an order id again, and that knows of nothing.
FORGETFUL = replace(GOOD, ids_refused=IdMemory.NEVER, lookup_sees_closed=False, reduce_only=False)


async def sent_into_the_dark(make_world: MakeWorld, *, beside: bool = True, **options: Any) -> World:
    """An exit was sent, no answer came, and the venue cannot be asked about orders."""
    world = await make_world(started=False, capabilities=FORGETFUL, **options)
    world.broker.order = None  # type: ignore[assignment, method-assign]
    world.broker.fills = None  # type: ignore[assignment, method-assign]
    await world.start()
    if beside:
        await world.enter(5, symbol="MSFT")
    await world.enter()
    world.broker.answer("submit", Raises(TimeoutError()))
    await world.bar(98)
    await world.passes(5)
    assert state_of(world) is State.PENDING
    return world


def held(world: World) -> Position | None:
    """The position whose exit is in doubt, as long as it is open."""
    return next((p for p in world.manager.positions() if p.symbol == "AAPL"), None)


def state_of(world: World) -> State | None:
    p = held(world)
    return p.state if p is not None else None


def close_by_hand(world: World, symbol: str = "AAPL") -> None:
    """Somebody closes it at the broker, with no word of it."""
    world.broker.trade_by_hand(symbol, "sell", 10, 98)


async def test_what_is_flat_for_longer_than_a_request_can_live_is_closed(make_world: MakeWorld) -> None:
    world = await sent_into_the_dark(make_world)
    close_by_hand(world)
    await world.passes(90, step=5)
    assert state_of(world) is State.PENDING  # a copy may still be on its way
    await world.until(lambda: held(world) is None, 240, step=5)
    assert [e.how for _, e in world.events if isinstance(e, PositionClosedElsewhere)] == ["unresolved"]
    assert len(world.orders) == 0


async def test_while_it_is_held_it_is_not_given_up(make_world: MakeWorld) -> None:
    world = await sent_into_the_dark(make_world)
    await world.passes(900, step=10)
    assert state_of(world) is State.PENDING
    assert "submit_unresolved" in world.alarm_kinds


async def test_how_long_a_request_lives_is_a_setting(make_world: MakeWorld) -> None:
    world = await sent_into_the_dark(make_world, config={"live": {"request_life_seconds": 900}})
    close_by_hand(world)
    await world.passes(800, step=10)
    assert state_of(world) is State.PENDING
    await world.until(lambda: held(world) is None, 300, step=5)


async def test_an_empty_list_must_be_empty_for_longer(make_world: MakeWorld) -> None:
    world = await sent_into_the_dark(make_world, beside=False)
    close_by_hand(world)
    await world.passes(240, step=5)
    assert state_of(world) is State.PENDING
    await world.until(lambda: not world.manager.positions(), 300, step=5)


async def test_a_restart_begins_to_wait_anew(make_world: MakeWorld) -> None:
    world = await sent_into_the_dark(make_world)
    close_by_hand(world)
    await world.passes(60, step=5)
    await world.restart()
    await world.passes(90, step=5)
    assert held(world) is not None
    await world.until(lambda: held(world) is None, 240, step=5)


async def test_at_a_venue_that_knows_of_nothing_and_says_so_it_is_the_same(make_world: MakeWorld) -> None:
    world = await make_world(capabilities=FORGETFUL)
    world.broker.fills = None  # type: ignore[assignment, method-assign]
    await world.enter(5, symbol="MSFT")
    await world.enter()
    world.broker.answer("submit", Raises(TimeoutError()))
    await world.bar(98)
    await world.passes(5)
    assert state_of(world) is State.PENDING
    close_by_hand(world)
    await world.until(lambda: held(world) is None, 400, step=5)


async def test_a_look_up_that_fails_says_nothing_of_the_order(make_world: MakeWorld) -> None:
    world = await make_world(capabilities=FORGETFUL)
    await world.enter(5, symbol="MSFT")
    await world.enter()
    world.broker.answer("submit", Raises(TimeoutError()))
    world.broker.always("order", Raises(ConnectionError()))
    await world.bar(98)
    close_by_hand(world)
    await world.passes(600, step=10)
    assert state_of(world) is State.PENDING


@pytest.mark.parametrize("by", ["force_exit", "flatten"])
async def test_an_operator_hears_what_is_in_doubt_and_what_to_do(make_world: MakeWorld, by: str) -> None:
    world = await sent_into_the_dark(make_world)
    position = held(world)
    assert position is not None
    await (world.manager.force_exit("AAPL") if by == "force_exit" else world.manager.flatten_all())
    said = next(a.text for a in world.manager.alarms() if a.kind == "not_done")
    assert position.client_order_id in said
    assert "order_not_there=True" in said


async def test_the_word_that_it_is_not_there_counts_of_an_unprotected_position_too(make_world: MakeWorld) -> None:
    world = await sent_into_the_dark(make_world)
    world.broker.trade_by_hand("AAPL", "sell", 20, 98)  # it is on the other side now
    await world.until(lambda: state_of(world) is State.UNPROTECTED, 200, step=5)
    world.broker.trade_by_hand("AAPL", "buy", 20, 98)
    position = held(world)
    assert position is not None
    await world.manager.release(position, who="ann", order_not_there=True)
    await world.until(lambda: state_of(world) is State.MONITORING, 60, step=1)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("by", ["list", "update"])
async def test_where_it_shows_up_after_all_it_is_canceled_with_an_alarm(
    make_world: MakeWorld, restarted: bool, by: str
) -> None:
    world = await sent_into_the_dark(make_world)
    position = held(world)
    assert position is not None
    order = order_of(position)
    close_by_hand(world)
    await world.until(lambda: held(world) is None, 400, step=5)
    if restarted:
        await world.restart()
    world.broker._tell(world.broker._book(order, ours=True))  # it arrives at last; by now it is too large
    if by == "update":
        await world.deliver()
    else:
        world.broker.lose_updates()
    await world.until(lambda: not world.broker.live_exits(), 120, step=5)
    named = [a for a in world.alarms if a.kind == "protection_lost" and order.client_order_id in a.text]
    assert len(named) == 1
    assert world.broker.held("AAPL") == 0
