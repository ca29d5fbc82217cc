"""A fill that came late, or was taken back, and was never told is known before anything is sized by it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from harness import GOOD, World
from msgspec.structs import replace

from exitfsm import BrokerError, State
from exitfsm.testing import Raises, Returns


async def test_a_late_fill_that_nobody_told_of_is_not_sold_a_second_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    assert world.state is State.REJECTED
    world.broker.fill(world.last_order, 4, late=True)
    world.broker.lose_updates()
    world.broker.trade_by_hand("AAPL", "buy", 20)  # so that what is held hides it
    await world.until(lambda: len(world.orders) == 2, 120)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: not any(p.state is not State.MONITORING for p in world.manager.positions()), 120)
    assert world.ended()[0].sold_qty == 10
    assert world.ended()[0].sold_elsewhere == 0
    await world.finish()


async def test_while_the_record_cannot_be_read_no_next_attempt_is_sent(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    world.broker.always("order", Raises(ConnectionError()))
    await world.passes(200)
    assert len(world.orders) == 1
    assert world.alarm_kinds == ["retry_stalled"]
    world.broker.always("order", None)
    await world.until(lambda: len(world.orders) == 2, 120)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def _canceled_after_four_of_ten(tmp_path: Path) -> World:
    """A position that waits for a person: its broker declares no bound for late fills."""
    world = World(tmp_path, capabilities=replace(GOOD, late_fill_window_s=None))
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    await world.fill(4)
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    await world.until(lambda: world.state is State.UNPROTECTED, 60)
    return world


async def test_a_release_asks_for_a_fill_that_the_last_order_has_gained_since_it_ended(tmp_path: Path) -> None:
    world = await _canceled_after_four_of_ten(tmp_path)
    world.broker.fill(world.last_order, 1, late=True)
    world.broker.lose_updates()
    await world.manager.release(world.position.position_id)
    assert (world.position.sold_qty, world.position.remaining_qty) == (5, 5)
    await world.finish()


async def test_a_release_asks_for_a_fill_that_was_taken_back_of_which_nobody_told(tmp_path: Path) -> None:
    world = await _canceled_after_four_of_ten(tmp_path)
    world.broker.bust(world.last_order, 3)
    world.broker.lose_updates()
    await world.manager.release(world.position.position_id)
    assert (world.position.sold_qty, world.position.remaining_qty, world.state) == (1, 9, State.MONITORING)
    await world.finish()


async def test_a_forced_exit_asks_for_all_orders_of_which_a_fill_may_have_been_taken_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    first = world.last_order
    await world.fill(4)
    world.broker.end_cancel(first)
    await world.deliver()
    await world.until(lambda: len(world.orders) == 2, 120)
    world.broker.bust(first, 2)
    world.broker.lose_updates()
    await world.fill()
    await world.until(lambda: world.state is State.UNPROTECTED, 60)
    assert world.position.sold_qty == 10
    await world.manager.force_exit("AAPL")
    assert world.last_order.qty == 2
    await world.fill()
    await world.until(lambda: not world.manager.positions())
    assert world.ended()[0].sold_qty == 10
    await world.finish()


async def test_a_release_waits_for_the_record_of_an_ended_order_that_cannot_be_read(tmp_path: Path) -> None:
    world = await _canceled_after_four_of_ten(tmp_path)
    world.broker.fill(world.last_order, 3, late=True)
    world.broker.lose_updates()
    world.broker.answer("order", Raises(ConnectionError()))
    with pytest.raises(BrokerError, match="order"):
        await world.manager.release(world.position.position_id)
    assert world.state is State.UNPROTECTED
    await world.manager.release(world.position.position_id)
    assert (world.state, world.position.sold_qty, world.position.remaining_qty) == (State.MONITORING, 7, 3)
    await world.finish()


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "list-fails"])
async def test_a_late_fill_of_an_order_that_is_not_shown_any_more_is_known_by_the_executions(
    tmp_path: Path, listed: bool
) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, lookup_sees_closed=False))
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    await world.fill(1, 98)
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    world.broker.fill(world.last_order, 3, 96, late=True)
    world.broker.lose_updates()
    world.broker.trade_by_hand("AAPL", "buy", 20)  # so that what is held hides it
    if not listed:
        world.broker.always("fills", Raises(ConnectionError()))
        await world.passes(120)
        assert len(world.orders) == 1
        world.broker.always("fills", None)
    await world.until(lambda: len(world.orders) == 2, 120)
    assert world.last_order.qty == 6
    p = next(p for p in world.manager.positions() if p.attempt == 2)
    assert (p.orders[0].filled_qty, p.orders[0].avg_fill_price) == (4, Decimal("96.5"))
    await world.fill()
    await world.until(lambda: len(world.ended()) == 1, 120)
    await world.finish()


async def test_a_fill_that_was_taken_back_is_not_put_back_by_the_executions(tmp_path: Path) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, lookup_sees_closed=False))
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    world.broker.fill(world.last_order, 6)
    await world.deliver()
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    world.broker.bust(world.last_order, 4)
    await world.deliver()
    assert (world.state, world.position.sold_qty) == (State.UNPROTECTED, 2)
    world.broker.trade_by_hand("AAPL", "sell", 3)
    await world.passes(200, 5)
    assert world.position.sold_qty == 2
    await world.finish()


async def test_a_release_believes_no_empty_list_that_no_execution_explains(tmp_path: Path) -> None:
    world = await _canceled_after_four_of_ten(tmp_path)
    world.broker.answer("positions", *([Returns([])] * 9))
    with pytest.raises(BrokerError, match="lists no position at all"):
        await world.manager.release(world.position.position_id)
    assert world.state is State.UNPROTECTED
    world.broker.trade_by_hand("AAPL", "sell", 6)  # and now it is so: executions say it
    world.broker.answer("positions", *([Returns([])] * 9))
    await world.manager.release(world.position.position_id)
    assert not world.manager.positions()
    await world.finish()
