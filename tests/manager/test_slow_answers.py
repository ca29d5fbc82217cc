"""Brokers that are slow, or go on without an answer for good: an exit leaves in the end, or a person can make it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from harness import GOOD, T0, MakeWorld, World
from msgspec.structs import replace

from exitfsm import BrokerError, NotSent, Order
from exitfsm.aio.budget import RateBudget
from exitfsm.lifecycle import State
from exitfsm.manager import ManualClock
from exitfsm.messages import Contradiction
from exitfsm.ports import Session
from exitfsm.testing import Hang, Meanwhile, Raises, Returns

SOON = {"partial_fills": {"resubmit_delay_seconds": 1}}
PATIENT = {**SOON, "live": {"patience_seconds": 3000}}
BARE = replace(GOOD, reduce_only=False)


def sizes(world: World) -> list[str]:
    """The quantities of the exit orders that reached the venue."""
    return [str(o.qty) for o in world.orders]


def hides(world: World, orders: list[Order], error: BrokerError | None) -> None:
    """From now on a look-up of these finds nothing, or fails."""
    ids, true = {o.client_order_id for o in orders}, world.broker._effect

    def effect(method: str, args: Any) -> Any:
        if method != "order" or args[0] not in ids:
            return true(method, args)
        if error is not None:
            raise error
        return None

    world.broker._effect = effect  # type: ignore[method-assign]


async def refused_twice(make_world: MakeWorld, config: Any = None) -> World:
    """10 AAPL, unprotected after two rejects."""
    world = await make_world(config or SOON)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    for _ in range(2):
        world.broker.reject(world.last_order, "not_tradable")
        await world.deliver()
        await world.passes(10)
    assert world.state == "unprotected"
    return world


async def two_epochs(make_world: MakeWorld) -> World:
    """10 AAPL whose exit works, and 12 bought after it was triggered, which are watched."""
    world = await make_world(PATIENT)
    await world.enter(10, at=100)
    world.broker.always("submit", Raises(NotSent("rate")))
    await world.bar("98.9")
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 12, "98.9")
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 12, "98.9", world.clock.now())
    world.broker.truthful()
    await world.until(lambda: world.orders)
    await world.deliver()
    return world


async def test_given_look_ups_that_take_six_seconds_then_the_next_attempt_leaves(make_world: MakeWorld) -> None:
    world = await make_world(SOON)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    world.broker.always("order", Meanwhile(lambda: world.clock.sleep(6)))
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.passes(60)
    assert sizes(world) == ["10", "10"]


async def test_given_looks_that_are_cut_off_and_slow_look_ups_then_the_next_attempt_leaves(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON, capabilities=BARE)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()

    def look() -> None:
        if world.state == "pending":
            world.clock.move(1)
            raise TimeoutError("cut off")
        world.clock.move(1.2)

    world.broker.always("order", Meanwhile(lambda: world.clock.move(1.2)))
    world.broker.always("positions", Meanwhile(look))
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.passes(120, 0.5)
    assert sizes(world) == ["10", "10"]


async def test_given_a_slow_broker_and_an_unprotected_position_beside_it_then_a_first_exit_leaves(
    make_world: MakeWorld,
) -> None:
    world = await refused_twice(make_world)
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 12, 98)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 12, 98, world.clock.now())
    world.broker.always("order", Meanwhile(lambda: world.clock.sleep(6)))
    looked_up, sent = world.broker.count("order"), len(world.orders)
    await world.bar(96)
    await world.until(lambda: len(world.orders) > sent, 60)
    assert world.broker.count("order") - looked_up < 30


@pytest.mark.parametrize("error", [None, BrokerError("HTTP 410: purged")], ids=["gone", "error"])
async def test_given_a_released_position_whose_old_orders_are_forgotten_then_its_stop_leaves(
    make_world: MakeWorld, error: BrokerError | None
) -> None:
    world = await refused_twice(make_world)
    world.broker.price("AAPL", Decimal(100))
    await world.manager.release(world.position)
    sent = len(world.orders)
    hides(world, world.orders, error)
    await world.bar("98.9", after=61)
    await world.bar(98, after=61)
    await world.until(lambda: len(world.orders) > sent, 120)


async def test_given_a_canceled_order_that_is_forgotten_then_a_released_position_still_exits(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON, capabilities=replace(GOOD, late_fill_window_s=None))
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    await world.passes(10)
    world.broker.price("AAPL", Decimal(100))
    await world.manager.release(world.position)
    hides(world, world.orders, None)
    await world.bar(98, after=61)
    await world.passes(60)
    assert sizes(world) == ["10", "10"]


async def test_given_another_positions_record_that_cannot_be_read_then_an_exit_leaves_all_the_same(
    make_world: MakeWorld,
) -> None:
    world = await refused_twice(make_world, PATIENT)
    before = list(world.orders)
    await world.crash()
    hides(world, before, BrokerError("HTTP 410: purged"))
    await world.start()
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 12, 98)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 12, 98, world.clock.now())
    await world.bar(96)
    await world.until(lambda: len(world.orders) > len(before), 120)


async def test_given_a_record_that_is_never_readable_then_an_operator_can_go_on(make_world: MakeWorld) -> None:
    world = await make_world({**SOON, "live": {"patience_seconds": 60}})
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    hides(world, world.orders, BrokerError("HTTP 410: purged"))
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.passes(120)
    assert (world.state, sizes(world)) == ("rejected", ["10"])
    assert "retry_stalled" in world.alarm_kinds
    await world.manager.force_exit("AAPL", "it has expired, I looked")
    await world.passes(10)
    assert sizes(world) == ["10"]
    assert "not_done" in world.alarm_kinds
    await world.manager.force_exit("AAPL", "yes")
    await world.passes(10)
    assert sizes(world) == ["10", "10"]


async def test_given_hours_that_cannot_be_read_any_more_after_the_open_then_the_exit_leaves(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"session": {"trade": "extended"}})
    await world.enter(10)
    world.broker.market = Session(is_open=False, next_open=world.clock.now() + timedelta(seconds=120))
    await world.passes(40)
    await world.bar(98)
    assert world.orders == []
    world.broker.always("session", Raises(TimeoutError("no answer")))
    await world.passes(120, 5)
    assert sizes(world) == ["10"]


async def test_given_empty_lists_and_an_exit_that_left_meanwhile_then_they_contradict_nothing(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON)
    await world.enter(10)
    world.broker.answer("positions", Returns([]), times=3)
    for _ in range(2):
        await world.manager.sync()
        world.clock.move(1)
    hang = Hang("first")
    world.broker.answer("fills", hang)
    sync = asyncio.create_task(world.manager.sync())
    await world.settle()
    await world.bar(98)
    await world.deliver()
    hang.release()
    await sync
    assert world.state == "submitted"


async def test_given_a_release_whose_look_up_began_before_the_order_arrived_then_nothing_is_released(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON)
    await world.enter(10)
    submit, look = Hang("on_release"), Hang("first")
    world.broker.answer("submit", submit)
    await world.bar(98)
    key = world.position.position_id
    await world.manager._parts.context.mailbox.tell(key, Contradiction(at=world.clock.now(), why="a test"))
    world.broker.answer("order", look)
    release = world.manager.release(key)
    await world.settle()
    world.clock.move(0.1)
    submit.release()
    await world.settle()
    look.release()
    with pytest.raises(BrokerError, match="was being sent"):
        await release
    assert world.state == "unprotected"
    assert world.position.live_orders


async def test_given_an_empty_list_when_an_operator_releases_then_nothing_is_called_closed(
    make_world: MakeWorld,
) -> None:
    world = await refused_twice(make_world)
    one = [replace(bp, qty=Decimal(3)) for bp in world.broker.snapshot()]
    world.broker.answer("positions", Returns([]), Returns(one))
    with pytest.raises(BrokerError, match="shows 0 of AAPL, and then 3"):
        await world.manager.release(world.position)
    assert world.state == "unprotected"
    world.broker.answer("positions", Returns([]))
    await world.manager.release(world.position)
    assert (world.state, world.position.remaining_qty) == ("monitoring", Decimal(10))


async def test_given_an_older_positions_fill_after_the_read_then_the_younger_is_not_resized(
    make_world: MakeWorld,
) -> None:
    world = await two_epochs(make_world)
    older = world.last_order
    world.manager._parts.context.calls._not_implemented.add("fills")

    def fills() -> None:
        world.broker.fill(older)
        world.broker.lose_updates()

    world.broker.answer("positions", Meanwhile(fills))
    await world.manager.sync()
    await world.settle()
    assert [p.qty for p in world.manager.positions()] == [Decimal(12)]


async def test_given_an_order_that_fills_while_its_position_is_taken_up_then_the_fill_counts_once(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON)
    await world.enter(10)
    await world.bar(98)
    await world.deliver()
    await world.crash()
    for file in world.path.glob("exits-*"):
        file.unlink()

    def fills() -> None:
        if world.broker.held("AAPL") == 10:
            world.broker.fill(world.last_order, 4, 98)
            world.broker.lose_updates()

    true = world.broker._effect
    world.broker._effect = lambda method, args: (  # type: ignore[method-assign]
        (fills(), true(method, args))[1] if method == "order" else true(method, args)
    )
    await world.start()
    await world.passes(30)
    assert (world.position.qty, world.position.sold_qty) == (Decimal(10), Decimal(4))


async def test_given_a_crash_beside_an_exit_under_way_then_it_is_not_taken_for_a_split(make_world: MakeWorld) -> None:
    world = await two_epochs(make_world)
    world.broker.price("AAPL", Decimal(30))
    await world.bar(30)
    await world.passes(5)
    world.broker.fill(world.last_order, None, 30)
    await world.deliver()
    await world.passes(20)
    assert all(p.state != "monitoring" for p in world.manager.positions())
    assert sizes(world)[-1] == "12"


async def test_given_an_unprotected_one_whose_look_up_hangs_then_the_others_are_forced_at_once(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON)
    await world.enter(10)
    await world.enter(10, symbol="MSFT")
    await world.bar(98)
    await world.deliver()
    stuck = next(p for p in world.manager.positions() if p.symbol == "AAPL")
    await world.manager._parts.context.mailbox.tell(
        stuck.position_id, Contradiction(at=world.clock.now(), why="a test")
    )
    world.broker.always("order", Hang("never"))
    flat = asyncio.create_task(world.manager.flatten_all("out"))
    await world.settle()
    assert [o.symbol for o in world.orders] == ["AAPL", "MSFT"]
    world.broker.truthful()
    await world.settle()
    await flat


async def test_given_a_place_that_was_kept_and_withdrawn_at_once_then_the_budgets_timer_lives() -> None:
    budget = RateBudget(ManualClock(T0), 1, {"x": -1.0, "y": 0.0}.__getitem__)
    budget.announce("x")
    spent = asyncio.create_task(budget.spend("y"))
    for _ in range(2):
        await asyncio.sleep(0)
    budget.withdraw("x")
    for _ in range(5):
        await asyncio.sleep(0)
    assert spent.done()
    assert budget._timer is None or not budget._timer.done() or budget._timer.exception() is None
    await budget.close()


async def test_given_a_row_that_is_missing_for_a_while_between_two_attempts_then_the_position_is_not_given_up(
    make_world: MakeWorld,
) -> None:
    """A list that is behind shows the same to all who ask within seconds: they are one witness."""
    world = await make_world(SOON, capabilities=replace(GOOD, positions_lag_s=10, executions_late_s=30))
    await world.enter(10)
    await world.enter(3, symbol="MSFT")
    await world.bar(98)
    await world.deliver()
    world.broker.reject(world.last_order, "halted")
    await world.deliver()
    others = [bp for bp in world.broker.snapshot() if bp.symbol == "MSFT"]
    world.broker.always("positions", Returns(others))
    await world.passes(25)
    (p,) = [p for p in world.manager.positions() if p.symbol == "AAPL"]
    assert p.state is State.REJECTED
    world.broker.always("positions", None)
    await world.passes(15)
    assert sizes(world) == ["10", "10"]


async def test_given_a_row_that_is_missing_when_an_exit_is_due_then_it_leaves_once_the_row_is_back(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SOON, capabilities=replace(BARE, positions_lag_s=10, executions_late_s=30))
    await world.enter(10)
    await world.enter(3, symbol="MSFT")
    world.broker.always("positions", Returns([bp for bp in world.broker.snapshot() if bp.symbol == "MSFT"]))
    await world.bar(98)
    await world.passes(25)
    assert sizes(world) == []
    world.broker.always("positions", None)
    await world.passes(15)
    assert sizes(world) == ["10"]
