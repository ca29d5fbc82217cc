"""A refusal that was said of another copy of a request does not mean that the order is not there."""

from __future__ import annotations

from pathlib import Path

from harness import World

from exitfsm import Order, OrderRefused, State
from exitfsm.position import order_of
from exitfsm.simulate import refused_report
from exitfsm.testing import LostReply, Raises, Returns

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


async def an_earlier_one_works_after_all(path: Path) -> tuple[World, Order]:
    """The first order was refused and the second rejected; then a copy of the first arrives and is taken."""
    world = World(path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("halted")))
    await world.bar("98.9")
    first = order_of(world.position)
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    world.broker.reject(world.last_order, "margin")
    await world.deliver()
    world.broker.cancels = "pending"
    world.broker.take(first)
    await world.deliver()
    await world.until(lambda: world.state is State.UNPROTECTED, 60)
    assert world.position.works_again == (first.client_order_id,)
    return world, first


async def test_an_earlier_order_that_works_after_all_is_canceled_and_nothing_is_sent_beside_it(tmp_path: Path) -> None:
    world, first = await an_earlier_one_works_after_all(tmp_path)
    await world.manager.force_exit("AAPL")
    await world.manager.release(world.position)
    await world.restart()
    await world.manager.force_exit("AAPL")
    await world.passes(120, step=5)
    assert (len(world.orders), world.state) == (2, State.UNPROTECTED)
    assert "not_done" in world.alarm_kinds
    world.broker.fill(first, 4)
    world.broker.end_cancel(first)
    await world.until(lambda: not world.position.live_orders, 120)
    await world.manager.force_exit("AAPL")
    await world.until(lambda: len(world.orders) == 3, 60)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: world.state is State.FILLED, 60)
    await world.finish()


async def test_an_earlier_order_that_works_after_all_is_given_up_on_an_operators_word(tmp_path: Path) -> None:
    world, first = await an_earlier_one_works_after_all(tmp_path)
    world.broker.always("order", Returns(None))
    await world.manager.release(world.position)
    assert (world.state, world.position.live_orders) == (State.MONITORING, ())
    world.broker.always("order", None)
    await world.manager.sync()
    await world.settle()
    assert world.position.live_orders == (first.client_order_id,)  # the operator was wrong, and it is not forgotten
    await world.finish()
