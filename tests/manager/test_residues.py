"""What the venue would not take, where nothing or the wrong thing is declared: learnt of refusals, and doubted."""

from __future__ import annotations

from decimal import Decimal

import pytest
from harness import GOOD, MakeWorld, World
from msgspec.structs import replace

from exitfsm import OrderRefused
from exitfsm.ports import Instrument
from exitfsm.testing.scripted import Raises

LEAST = OrderRefused("MIN_QTY", "quantity is too small")


def declaring(**fields: Decimal) -> object:
    return replace(GOOD, instruments={"AAPL": Instrument(**fields)})  # type: ignore[arg-type]


async def with_a_residue(make_world: MakeWorld, refusal: OrderRefused) -> World:
    """An exit sold 10 of 10.05, and the venue refuses the rest, of which no step is declared."""
    world = await make_world()
    await world.enter("10.05", at=100)
    await world.bar("98.5")
    world.broker.fill(world.last_order, 10, "98.5")
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    world.broker.always("submit", Raises(refusal))
    await world.until(lambda: world.manager.positions() == [], 300)
    world.broker.truthful()
    return world


@pytest.mark.parametrize("refusal", [LEAST, OrderRefused("LOT_SIZE", "Filter failure: LOT_SIZE")])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_refusal_teaches_the_least_and_what_is_left_is_no_position(
    make_world: MakeWorld, refusal: OrderRefused, restarted: bool
) -> None:
    world = await with_a_residue(make_world, refusal)
    assert [str(p.state) for p in world.ended()] == ["closed"]
    assert world.alarm_kinds == ["quantity_refused"]
    sent = len([call for call in world.broker.calls if call.method == "submit"])
    assert sent == 2
    if restarted:
        await world.restart()
    await world.passes(1200, step=5)
    await world.bar(97)
    await world.passes(60, step=5)
    assert (world.manager.positions(), world.alarm_kinds) == ([], ["quantity_refused"])
    assert len([call for call in world.broker.calls if call.method == "submit"]) == sent
    await world.enter(5, at=100)
    assert [p.remaining_qty for p in world.manager.positions()] == [Decimal("5.05")]


async def test_a_declared_step_that_what_was_bought_contradicts_is_an_alarm(make_world: MakeWorld) -> None:
    world = await make_world(capabilities=declaring(qty_step=Decimal(1)))
    world.broker.enter("AAPL", "long", "0.9", 100)
    await world.deliver()
    await world.passes(60)
    assert world.manager.positions() == []
    (alarm,) = world.manager.alarms()
    assert alarm.kind == "residue_doubted"
    assert "0.9 AAPL long were bought as they are, and cannot be sold by the step 1" in alarm.text
    asked = [call for call in world.broker.calls if call.method == "fills"]
    await world.passes(600, step=5)
    assert len([call for call in world.broker.calls if call.method == "fills"]) - len(asked) <= 1
    assert len(world.manager.alarms()) == 1


async def test_what_an_exit_left_by_a_right_step_is_silent(make_world: MakeWorld) -> None:
    world = await make_world(capabilities=declaring(qty_step=Decimal(1)))
    await world.enter(3, at=100)
    world.broker.trade_by_hand("AAPL", "sell", 2, 100)
    world.broker._move("AAPL", world.broker.executions[-1].side, Decimal("0.1"), Decimal(100))  # a fee, say
    await world.until(lambda: world.manager.positions() == [], 200)
    await world.passes(100, step=5)
    assert world.alarm_kinds == []
