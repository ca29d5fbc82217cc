"""What reads of positions mean for those that are monitored, at a broker whose books may be behind."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from harness import GOOD, MakeWorld, World
from msgspec.structs import replace

from exitfsm.ports import AssetRules
from exitfsm.testing.scripted import Raises

#: The same broker, that says nothing of how old its books are.
BEHIND = replace(GOOD, positions_lag_s=10.0, executions_late_s=30.0)
TRAILING = {
    "trailing_stop": {"enabled": True, "activation_pct": 1, "trail_pct": 5},
    "profit_taking": {"enabled": False},
}


def how_ended(world: World) -> list[Any]:
    """How each position that is over has ended."""
    return [list(world.manager.store.stream(p.position_id))[-1].event.how for p in world.ended()]


async def test_given_less_that_no_execution_explains_then_it_counts_once_no_list_can_be_so_late(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=BEHIND)
    await world.enter(10)
    await world.passes(20)
    world.broker.fills = lambda since: []  # type: ignore[method-assign, assignment]
    world.broker.trade_by_hand("AAPL", "sell", 4, 100)
    await world.passes(35)
    assert world.position.remaining_qty == 10
    await world.until(lambda: world.position.remaining_qty == 6, seconds=150)


async def test_given_executions_that_cannot_be_read_then_their_silence_says_nothing_and_a_person_hears(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=BEHIND)
    await world.enter(10)
    await world.passes(20)
    world.broker.always("fills", Raises(TimeoutError("no answer")))
    world.broker.trade_by_hand("AAPL", "sell", 4, 100)
    await world.passes(100, step=2)
    assert world.position.remaining_qty == 10
    assert "unexplained_quantity" in world.alarm_kinds
    world.broker.truthful()
    await world.until(lambda: world.position.remaining_qty == 6, seconds=90)
    await world.until(lambda: "unexplained_quantity" not in world.alarm_kinds, seconds=150)


async def test_given_executions_that_cannot_be_read_for_minutes_then_the_reads_decide(make_world: MakeWorld) -> None:
    world = await make_world(capabilities=BEHIND)
    await world.enter(10)
    await world.passes(20)
    world.broker.always("fills", Raises(TimeoutError("no answer")))
    world.broker.trade_by_hand("AAPL", "sell", 4, 100)
    await world.until(lambda: world.position.remaining_qty == 6, seconds=400, step=2)


async def test_given_an_empty_list_for_ten_minutes_then_the_rules_go_on_and_the_alarm_is_taken_down(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=BEHIND)
    await world.enter(10)
    await world.passes(60)
    snapshot = world.broker.snapshot
    world.broker.snapshot = lambda: []  # type: ignore[method-assign]
    await world.until(lambda: world.alarm_kinds == ["positions_missing"], seconds=200)
    await world.passes(600, step=20)
    assert world.state == "monitoring"
    world.broker.snapshot = snapshot  # type: ignore[method-assign]
    await world.until(lambda: "positions_missing" not in [a.kind for a in world.manager.alarms()], seconds=120)
    await world.bar(98)
    assert [o.qty for o in world.orders] == [10]


async def test_given_a_split_below_the_guards_ratio_then_the_trail_is_restated(make_world: MakeWorld) -> None:
    world = await make_world(TRAILING, capabilities=BEHIND)
    await world.enter(100, 100)
    await world.bar(110)
    await world.passes(120)
    world.broker.split("AAPL", Decimal("1.25"))
    await world.until(lambda: world.position.qty == 125, seconds=200)
    assert world.position.trail_stop == Decimal("83.6")
    await world.bar(88)
    assert world.orders == []
    await world.bar("83.5")
    assert [o.qty for o in world.orders] == [125]


async def test_given_a_price_in_the_new_unit_before_any_read_then_the_exit_is_taken_back_before_it_leaves(
    make_world: MakeWorld,
) -> None:
    world = await make_world(TRAILING, capabilities=BEHIND)
    await world.enter(100, 100)
    await world.bar(110)
    await world.passes(120)
    world.broker.split("AAPL", Decimal("1.25"))
    await world.bar(88)
    await world.passes(3)
    assert world.orders == []
    assert (world.state, world.position.qty, world.position.trail_stop) == ("monitoring", 125, Decimal("83.6"))
    await world.bar("83.5")
    assert [o.qty for o in world.orders] == [125]


async def test_given_a_fall_that_is_no_split_then_the_exit_leaves(make_world: MakeWorld) -> None:
    world = await make_world(TRAILING, capabilities=BEHIND)
    await world.enter(100, 100)
    await world.passes(120)
    await world.bar(88)
    assert [o.qty for o in world.orders] == [100]


async def test_given_less_than_a_step_was_bought_then_it_is_a_residue_and_that_is_said(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=replace(BEHIND, stocks=AssetRules(qty_step=Decimal(1), qty_min=Decimal(1))))
    world.broker.trade_by_hand("AAPL", "buy", Decimal("0.5"), 100)
    await world.passes(200, step=5)
    assert world.manager.positions() == []
    assert world.alarm_kinds == ["residue_doubted"]
    assert world.manager.may_enter("AAPL")


@pytest.mark.parametrize(("shows_price", "orders"), [(False, 1), (True, 0)])
async def test_given_four_bars_that_agree_and_a_holding_as_it_was_then_it_is_a_crash(
    make_world: MakeWorld, shows_price: bool, orders: int
) -> None:
    world = await make_world(capabilities=BEHIND)
    await world.enter(10, 100)
    price = Decimal(100) if shows_price else None
    snapshot = world.broker.snapshot
    world.broker.snapshot = lambda: [  # type: ignore[method-assign]
        replace(row, current_price=price) for row in snapshot()
    ]
    await world.bar(100)
    for close in (60, 58, 55):
        await world.bar(close)
        assert world.orders == []
    await world.bar(50)
    await world.settle()
    assert len(world.orders) == orders
