"""Hedge mode, live: both sides of a symbol are two positions, and nothing of one counts for the other."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from harness import GOOD, T0, World
from msgspec.structs import replace
from two_sided import HEDGED, Telling, TwoSided, two_sided

from exitfsm import ConfigError, OrderSide, Side, State

#: A stop at 1 %, and nothing that takes profit nearby.
FAR = {"profit_taking": {"threshold_pct": 30}}


def states(world: World) -> dict[str, tuple[str, Decimal]]:
    return {str(p.side): (str(p.state), p.remaining_qty) for p in world.manager.positions()}


async def both_held(path: Path, **options: object) -> tuple[World, TwoSided]:
    """Long 10 and short 4 of a symbol, both entered at 100 by the bot."""
    world, broker = await two_sided(path, FAR, **options)  # type: ignore[arg-type]
    await world.enter(10, at=100)
    world.clock.move(5)
    await world.enter(4, at=100, side="short")
    await world.passes(20)
    assert states(world) == {"long": ("monitoring", 10), "short": ("monitoring", 4)}
    return world, broker


@pytest.mark.parametrize("kind", [TwoSided, Telling])
async def test_both_sides_are_watched_and_one_that_is_stopped_out_leaves_the_other(tmp_path: Path, kind: type) -> None:
    capabilities = HEDGED if kind is TwoSided else GOOD
    world, broker = await both_held(tmp_path, capabilities=capabilities, kind=kind)
    assert world.alarm_kinds == []
    assert len({p.position_id for p in world.manager.positions()}) == 2
    await world.bar("101.5")  # the short's stop; the long is in profit
    (order,) = world.orders
    assert (order.side, order.qty, order.position_side) == (OrderSide.BUY, 4, Side.SHORT)
    await world.fill(price="101.5")
    await world.until(lambda: "short" not in states(world), 100)
    await world.passes(200, step=5)
    assert states(world) == {"long": ("monitoring", 10)}
    assert [str(p.state) for p in world.ended()] == ["filled"]
    assert (broker.on("AAPL", "long"), broker.on("AAPL", "short"), len(world.orders)) == (10, 0, 1)
    await world.bar("98.5")  # the stop of the long
    assert (world.last_order.side, world.last_order.qty, world.last_order.position_side) == (
        OrderSide.SELL,
        10,
        Side.LONG,
    )
    await world.fill()
    await world.until(lambda: states(world) == {}, 100)
    assert world.alarm_kinds == []
    await world.finish()


async def test_the_exits_of_both_sides_work_at_the_same_time(tmp_path: Path) -> None:
    world, broker = await both_held(tmp_path)
    await world.manager.flatten_all("enough")
    await world.settle()
    assert {(o.position_side, o.qty) for o in world.orders} == {(Side.LONG, 10), (Side.SHORT, 4)}
    for order in list(world.orders):
        broker.fill(order, None, 100)
    await world.deliver()
    await world.until(lambda: states(world) == {}, 100)
    assert broker.snapshot() == []
    assert world.alarm_kinds == []
    await world.finish()


@pytest.mark.parametrize("moment", ["at rest", "in flight"])
async def test_a_restart_in_between_changes_nothing(tmp_path: Path, moment: str) -> None:
    world, broker = await both_held(tmp_path)
    if moment == "in flight":
        await world.bar("101.5")
    await world.restart()
    await world.passes(30)
    if moment == "at rest":
        assert states(world) == {"long": ("monitoring", 10), "short": ("monitoring", 4)}
        await world.bar("101.5")
    assert [(o.position_side, o.qty) for o in world.orders] == [(Side.SHORT, 4)]
    await world.fill(price="101.5")
    await world.until(lambda: states(world) == {"long": ("monitoring", Decimal(10))}, 100)
    await world.restart()
    await world.passes(100, step=5)
    assert states(world) == {"long": ("monitoring", 10)}
    assert (world.alarm_kinds, len(world.orders), broker.on("AAPL", "long")) == ([], 1, 10)
    await world.finish()


@pytest.mark.parametrize("gone", ["long", "short"])
@pytest.mark.parametrize("says_sides", [True, False])
async def test_a_side_that_others_close_is_over_and_the_other_stays(
    tmp_path: Path, gone: str, says_sides: bool
) -> None:
    world, broker = await both_held(tmp_path)
    broker.says_sides = says_sides
    stays = "short" if gone == "long" else "long"
    broker.close_by_hand("AAPL", gone, broker.on("AAPL", gone), 100)
    await world.passes(300, step=5)
    assert list(states(world)) == [stays]
    assert [(str(p.side), str(p.state)) for p in world.ended()] == [(gone, "closed")]
    assert world.alarm_kinds == []
    assert world.orders == []
    await world.finish()


async def test_what_one_side_is_bought_on_by_is_no_news_of_the_other(tmp_path: Path) -> None:
    world, broker = await both_held(tmp_path)
    await world.enter(5, at=100, side="short")
    broker.close_by_hand("AAPL", "long", 3, 100)
    await world.passes(200, step=5)
    assert states(world) == {"long": ("monitoring", 7), "short": ("monitoring", 9)}
    assert world.alarm_kinds == []
    await world.finish()


async def test_a_part_that_others_close_during_an_exit_is_taken_from_its_own_side(tmp_path: Path) -> None:
    world, broker = await both_held(tmp_path, capabilities=replace(HEDGED, reduce_only=False))
    broker.close_by_hand("AAPL", "long", 4, 100)
    await world.bar("98.5")  # the long's stop
    await world.until(lambda: world.orders, 30)
    assert [(o.position_side, o.qty) for o in world.orders] == [(Side.LONG, 6)]
    await world.fill(price="98.5")
    await world.until(lambda: states(world) == {"short": ("monitoring", Decimal(4))}, 100)
    await world.finish()


async def test_blocks_and_cooldowns_are_each_sides_own_also_after_a_restart(tmp_path: Path) -> None:
    world, _ = await both_held(tmp_path)
    await world.bar("101.5")
    manager = world.manager
    assert (manager.may_enter("AAPL", side="long"), manager.may_enter("AAPL", side=Side.SHORT)) == (True, False)
    assert "under way" in (manager.entry_block("AAPL") or "")
    await world.fill(price="101.5")
    await world.until(lambda: "short" not in states(world), 100)
    for _ in range(2):
        manager = world.manager
        assert manager.entry_block("AAPL", side="long") is None
        assert "cooldown" in (manager.entry_block("AAPL", side="short") or "")
        assert "cooldown" in (manager.entry_block("AAPL") or "")
        await world.restart()
    await world.finish()


async def test_an_operator_says_which_side_is_meant(tmp_path: Path) -> None:
    world, _ = await both_held(tmp_path)
    with pytest.raises(ValueError, match=r"both sides \(long 10 and short 4\): nothing was done"):
        await world.manager.force_exit("AAPL")
    await world.settle()
    assert world.orders == []
    with pytest.raises(ValueError, match="sideways"):
        await world.manager.force_exit("AAPL", side="sideways")
    (p,) = await world.manager.force_exit("AAPL", side="short")
    await world.settle()
    assert (p.side, [(o.position_side, o.qty) for o in world.orders]) == (Side.SHORT, [(Side.SHORT, 4)])
    await world.fill(price=100)
    await world.until(lambda: "short" not in states(world), 100)
    assert [p.side for p in await world.manager.force_exit("AAPL")] == [Side.LONG]
    await world.finish()


async def test_both_sides_are_found_at_the_start_each_with_its_own_first_fill(tmp_path: Path) -> None:
    world, broker = await two_sided(tmp_path, FAR)
    await world.stop()
    broker.enter("AAPL", "long", 10, 100)
    world.clock.move(7)
    broker.enter("AAPL", "short", 4, 101)
    broker.lose_updates()
    world.clock.move(60)
    world.manager = world._new_manager()
    await world.start()
    await world.passes(5)
    opened = {str(p.side): (p.opened_at - T0).total_seconds() for p in world.manager.positions()}
    assert opened == {"long": 0, "short": 7}
    assert world.alarm_kinds == []
    await world.finish()


async def test_without_hedge_both_sides_are_an_alarm_and_nothing_is_sent_for_either(tmp_path: Path) -> None:
    world, broker = await two_sided(tmp_path, FAR, replace(HEDGED, hedge=False))
    await world.enter(10, at=100)
    broker.enter("AAPL", "short", 4, 100)
    await world.deliver()
    await world.passes(60)
    assert list(states(world)) == ["long"]
    (alarm,) = world.manager.alarms()
    assert alarm.kind == "both_sides"
    assert "long 10 and short 4" in alarm.text
    await world.bar("98.5")
    await world.passes(100, step=5)
    assert (world.orders, list(states(world))) == ([], ["long"])
    broker.close_by_hand("AAPL", "short", 4, 98)
    await world.until(lambda: world.orders, 60)
    assert [(o.position_side, o.qty) for o in world.orders] == [(Side.LONG, 10)]
    await world.fill(price="98.5")
    await world.until(lambda: world.state is State.FILLED, 100)
    await world.finish()


async def test_an_instrument_that_is_not_told_yet_makes_no_reversal(tmp_path: Path) -> None:
    world, broker = await both_held(tmp_path, capabilities=GOOD, kind=Telling)
    await world.crash()
    broker.close_by_hand("AAPL", "long", 10, 100)
    await world.start()
    await world.passes(100, step=5)
    assert states(world) == {"short": ("monitoring", 4)}
    assert [(str(p.side), str(p.state)) for p in world.ended()] == [("long", "closed")]
    assert world.alarm_kinds == []
    await world.finish()


async def test_in_hedge_mode_an_account_that_is_not_all_ours_is_refused_at_the_start(tmp_path: Path) -> None:
    world = World(tmp_path, {"manage": {"owner": "handed"}}, capabilities=HEDGED)
    with pytest.raises(ConfigError, match="in hedge mode what is ours of an account is not told apart"):
        await world.start()
