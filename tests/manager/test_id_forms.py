"""Exits whose ids have another form than those of today: of an earlier version, or of another machine."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from harness import GOOD, World
from msgspec.structs import replace

from exitfsm import ConfigError, Order, State
from exitfsm.order_ids import client_order_id, form_of
from exitfsm.values import OrderSide


@pytest.mark.parametrize("form", ["xf1", "xf2", "uuid"])
async def test_given_a_lost_store_when_an_exit_of_before_works_then_it_is_found_under_its_form(
    tmp_path: Path, form: str
) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, id_form=form))
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    (sent,) = world.orders
    assert form_of(sent.client_order_id) == form
    world.broker.capabilities = replace(GOOD, id_form="xf2" if form == "xf1" else form)
    world.clock.move(30)
    await world.bury()  # with its store
    world._generation += 1
    world.manager = world._new_manager()
    await world.start()
    await world.bar(97)
    await world.passes(30)
    assert world.state is State.SUBMITTED
    assert world.orders == [sent]  # no second one
    assert world.position.id_form == form
    world.broker.expire(sent)
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert world.last_order.client_order_id == client_order_id(world.position.position_id, 2, form)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_given_another_machine_whose_ids_have_another_form_then_that_is_an_alarm_and_nothing_is_sent_beside(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    theirs = Order(
        client_order_id=client_order_id(world.position.position_id, 1, "xf1"),
        symbol="AAPL",
        side=OrderSide.SELL,
        qty=Decimal(10),
    )
    world.broker.take(theirs)
    await world.manager.sync()
    assert world.alarm_kinds == ["id_form_differs"]
    await world.bar("98.9")
    await world.passes(60)
    assert world.orders == [theirs]
    world.broker.end_cancel(theirs.client_order_id)
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_given_a_venue_without_room_for_our_ids_then_the_start_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.broker.capabilities = replace(GOOD, id_form="xf2-18")
    with pytest.raises(ConfigError, match="18 characters have no room"):
        await world.start()
