"""A refusal that was said of another copy of a request does not mean that the order is not there."""

from __future__ import annotations

from pathlib import Path

from harness import World

from exitfsm import OrderRefused, State
from exitfsm.simulate import refused_report
from exitfsm.testing import LostReply, Raises

HELD = OrderRefused("insufficient_qty", "the first copy holds it")


async def test_a_refusal_of_a_request_that_was_repeated_on_the_way_is_checked_by_the_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", LostReply(HELD))  # the first copy was taken, the second one is answered
    await world.bar("98.9")
    assert world.state is State.SUBMITTED
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_refusal_is_no_end_of_an_order_that_the_broker_has_told_of(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    await world.fill(4)
    assert world.state is State.PARTIAL
    await world.manager.on_order_update(refused_report(world.last_order.client_order_id, HELD, world.clock.now()))
    await world.settle()
    assert world.state is State.PARTIAL
    await world.fill(6)
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_real_refusal_still_ends_the_attempt(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("halted")))
    await world.bar("98.9")
    assert world.state is State.REJECTED
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_refusal_of_a_second_send_is_checked_by_the_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(ConnectionError()), LostReply(HELD))
    await world.bar("98.9")
    await world.until(lambda: world.state is State.SUBMITTED, 60)
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_refusal_counts_only_once_the_record_could_be_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", LostReply(OrderRefused("not_tradable", "said of a copy")))
    world.broker.answer("order", Raises(ConnectionError()), times=2)
    await world.bar("98.9")
    assert world.state is State.PENDING
    await world.until(lambda: world.state is State.SUBMITTED, 60)
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()
