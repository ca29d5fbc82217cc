"""Exits in parts on the real manager: targets, what widens a part, restarts, and parts that a person orders."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from harness import GOOD, MakeWorld, World
from msgspec.structs import replace
from test_steering import give, runtime_folder, steered
from test_steering_failures import typed

from exitfsm.events import ExitTriggered, LegCompleted, LegWidened, PositionResized, StopMoved
from exitfsm.ports import AssetRules
from exitfsm.testing import Hang, Returns

__all__ = ["runtime_folder"]

HALVES = {"targets": [{"at_pct": 2, "sell_pct": 50, "then": {"stop": "entry"}}, {"at_pct": 4, "sell_pct": 50}]}


@pytest.fixture
async def halves(make_world: MakeWorld) -> World:
    """Ten at 100: half at 102 and the stop to the entry, the rest at 104."""
    world = await make_world(HALVES)
    await world.enter()
    return world


def kinds(world: World, *wanted: type) -> list[Any]:
    return [event for _, event in world.events if isinstance(event, wanted)]


async def sells_the_first_half(world: World) -> None:
    await world.bar(102)
    assert world.last_order.qty == 5
    await world.fill()
    await world.until(lambda: world.state == "monitoring", seconds=30)
    assert world.position.remaining_qty == 5


async def test_given_two_targets_when_both_are_reached_then_each_sells_its_part_and_there_is_one_end(
    halves: World,
) -> None:
    await sells_the_first_half(halves)
    [moved] = kinds(halves, StopMoved)
    assert (moved.rule, moved.stop) == ("break_even", 100)
    await halves.bar(104)
    assert (halves.last_order.qty, len(halves.orders)) == (5, 2)
    await halves.fill()
    await halves.until(lambda: halves.state == "filled", seconds=30)
    assert halves.orders[0].client_order_id != halves.orders[1].client_order_id
    assert [e.qty for e in kinds(halves, ExitTriggered)] == [5, 5]
    assert halves.ended()[0].sold_qty == 10


async def test_given_a_price_beyond_both_targets_then_one_order_sells_everything(halves: World) -> None:
    await halves.bar(105)
    assert [order.qty for order in halves.orders] == [10]
    await halves.fill()
    await halves.until(lambda: halves.state == "filled", seconds=30)


async def test_given_a_part_is_sold_when_the_price_is_back_at_the_entry_then_the_rest_leaves(halves: World) -> None:
    await sells_the_first_half(halves)
    await halves.bar(100)
    assert [order.qty for order in halves.orders] == [5, 5]
    await halves.fill()
    await halves.until(lambda: halves.state == "filled", seconds=30)


async def test_given_a_part_that_fills_in_two_when_its_rest_is_rejected_then_only_the_parts_rest_is_sent_again(
    halves: World,
) -> None:
    await halves.bar(102)
    await halves.fill(2)
    halves.broker.expire(halves.last_order)
    await halves.deliver()
    await halves.until(lambda: len(halves.orders) == 2, seconds=60)
    assert halves.last_order.qty == 3
    await halves.fill()
    await halves.until(lambda: halves.state == "monitoring", seconds=30)
    assert halves.position.remaining_qty == 5
    [done] = kinds(halves, LegCompleted)
    assert done.remaining_qty == 5


async def test_given_a_part_at_work_when_the_stop_is_reached_then_it_is_widened_and_there_is_never_a_second_order(
    halves: World,
) -> None:
    await halves.bar(102)
    await halves.bar("98.5")
    assert len(halves.orders) == 1, "the part works, and nothing leaves beside it"
    assert [e.reason for e in kinds(halves, LegWidened)] == ["stop_loss"]
    await halves.fill()
    await halves.until(lambda: len(halves.orders) == 2, seconds=60)
    assert halves.last_order.qty == 5
    await halves.fill()
    await halves.until(lambda: halves.state == "filled", seconds=30)


@pytest.mark.parametrize("filled", [0, 2, 5])
async def test_given_a_crash_while_a_part_works_then_after_the_restart_it_is_completed_once(
    halves: World, filled: int
) -> None:
    await halves.bar(102)
    if filled:
        halves.broker.fill(halves.last_order, filled)
    halves.broker.lose_updates()
    await halves.restart()
    if filled < 5:
        halves.broker.fill(halves.last_order)
        await halves.deliver()
    await halves.until(lambda: halves.state == "monitoring", seconds=90)
    assert halves.position.remaining_qty == 5
    assert len(halves.orders) == 1
    await halves.bar(104)
    await halves.until(lambda: len(halves.orders) == 2, seconds=30)
    assert halves.last_order.qty == 5


async def test_given_a_part_is_sold_when_a_read_still_shows_what_was_held_before_then_that_is_not_taken_in(
    halves: World,
) -> None:
    """The endpoint is one fill behind: more than is left is shown for a while."""
    before = await halves.broker.positions()
    await sells_the_first_half(halves)
    halves.broker.answer("positions", Returns(list(before)), times=2)
    for _ in range(2):
        await halves.manager.sync()
    assert halves.position.remaining_qty == 5
    assert kinds(halves, PositionResized) == []


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("since_the_fill", [False, True])
async def test_given_books_that_stay_behind_after_a_part_then_more_is_never_believed_and_nothing_is_sold_twice(
    halves: World, since_the_fill: bool, restarts: bool
) -> None:
    """However often they repeat it. A person hears of it, and the rest leaves as before."""
    behind = Returns(list(await halves.broker.positions()))
    await halves.bar(102)
    if since_the_fill:
        halves.broker.always("positions", behind)
    await halves.fill()
    await halves.until(lambda: halves.state == "monitoring", seconds=30)
    halves.broker.always("positions", behind)
    if restarts:
        await halves.restart()
    await halves.passes(600, step=5)
    [held] = halves.manager.positions()
    assert held.remaining_qty == 5
    assert halves.alarm_kinds == ["unexplained_quantity"]
    await halves.bar("98.5")
    await halves.until(lambda: len(halves.orders) == 2, seconds=60)
    assert halves.last_order.qty == 5
    assert kinds(halves, PositionResized) == []
    halves.broker.always("positions", None)
    await halves.fill()
    await halves.until(lambda: halves.state == "filled", seconds=60)


async def test_given_books_that_were_behind_when_they_show_what_is_left_then_the_alarm_ends(halves: World) -> None:
    behind = Returns(list(await halves.broker.positions()))
    await sells_the_first_half(halves)
    halves.broker.always("positions", behind)
    await halves.passes(200, step=5)
    assert halves.alarm_kinds == ["unexplained_quantity"]
    halves.broker.always("positions", None)
    await halves.until(lambda: not halves.alarm_kinds, seconds=120)


@pytest.mark.parametrize("restarts", [False, True])
async def test_given_a_purchase_after_a_part_that_the_executions_show_then_it_is_watched(
    halves: World, restarts: bool
) -> None:
    """The books never show the 5 alone, and need not: two sources agree."""
    await sells_the_first_half(halves)
    halves.broker.enter("AAPL", "long", 4, 102)
    halves.broker.lose_updates()
    if restarts:
        await halves.restart()
    await halves.until(lambda: halves.position.remaining_qty == 9, seconds=120)
    assert halves.alarm_kinds == []


async def test_given_a_purchase_while_a_part_works_then_the_part_stays_as_it_is_and_all_else_is_watched(
    halves: World,
) -> None:
    await halves.bar(102)
    halves.broker.enter("AAPL", "long", 4, 102)
    await halves.deliver()
    await halves.passes(30)
    assert [order.qty for order in halves.orders] == [5]
    await halves.fill()
    await halves.until(lambda: halves.state == "monitoring", seconds=60)
    await halves.until(lambda: halves.position.remaining_qty == 9, seconds=120)
    assert len(halves.orders) == 1


@pytest.mark.parametrize(("sold", "left"), [(2, 3), (5, 0), (7, 3), (10, 0)])
async def test_given_others_sell_while_a_part_works_then_no_more_is_sold_than_held_and_what_is_left_is_watched(
    halves: World, sold: int, left: int
) -> None:
    await halves.bar(102)
    halves.broker.trade_by_hand("AAPL", "sell", sold)
    await halves.deliver()
    await halves.passes(120, step=5)
    assert halves.broker.count("cancel") == (sold > 5), "where it would sell more than is held"
    if halves.broker.live_exits():
        await halves.fill()
    await halves.passes(120, step=5)
    assert [p.remaining_qty for p in halves.manager.positions()] == ([left] if left else [])
    assert halves.broker.held("AAPL") == left
    assert [order.qty for order in halves.orders] == [5]


async def test_given_a_part_at_work_when_all_is_to_be_flat_then_the_rest_follows_its_record(halves: World) -> None:
    await halves.bar(102)
    await halves.fill(2)
    await halves.manager.flatten_all("out")
    assert len(halves.orders) == 1
    assert len(kinds(halves, LegWidened)) == 1
    await halves.fill()
    await halves.until(lambda: len(halves.orders) == 2, seconds=60)
    assert halves.last_order.qty == 5
    await halves.fill()
    await halves.until(lambda: halves.state == "filled", seconds=60)


@pytest.mark.parametrize("state", ["pending", "submitted", "partial", "canceling", "rejected"])
async def test_given_a_crash_in_any_state_of_a_part_then_the_part_is_sold_once_and_the_rest_is_watched(
    halves: World, state: str
) -> None:
    if state == "pending":
        halves.broker.answer("submit", Hang("first"))
    await halves.bar(102)
    if state in ("partial", "rejected"):
        await halves.fill(2)
    if state == "rejected":
        halves.broker.expire(halves.last_order)
        await halves.deliver()
    if state == "canceling":
        halves.broker.answer("cancel", Hang("never"))
        halves.broker.trade_by_hand("AAPL", "sell", 7)
        await halves.until(lambda: halves.state == "canceling", seconds=60)
    assert halves.state == state
    halves.broker.lose_updates()
    await halves.restart()
    halves.broker.truthful()
    if state == "rejected":
        await halves.until(lambda: len(halves.orders) == 2, seconds=90)
        assert halves.last_order.qty == 3
    if halves.broker.live_exits():
        halves.broker.fill(halves.last_order)
        await halves.deliver()
    await halves.until(lambda: halves.state == "monitoring", seconds=120)
    assert halves.position.remaining_qty == halves.broker.held("AAPL") == (3 if state == "canceling" else 5)
    await halves.passes(200, step=5)
    assert len(halves.broker.live_exits()) == 0
    assert len(halves.orders) == (2 if state == "rejected" else 1)


async def test_given_a_time_rule_that_comes_due_while_a_part_works_then_it_is_widened(make_world: MakeWorld) -> None:
    world = await make_world(HALVES | {"time_limit": {"enabled": True, "max_seconds": 3600}})
    await world.enter()
    await world.bar(102)
    await world.passes(3700, step=20)
    assert len(kinds(world, LegWidened)) == 1
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert world.last_order.qty == 5


async def test_given_the_store_is_lost_after_a_part_then_the_rest_is_watched_and_sold_once(
    halves: World,
) -> None:
    await sells_the_first_half(halves)
    await halves.stop()
    for path in halves.path.glob("exits*"):
        path.unlink()
    halves.events.clear()
    await halves.start()
    await halves.until(halves.manager.positions, seconds=60)
    assert halves.position.remaining_qty == 5
    await halves.bar("98.5")
    await halves.until(lambda: len(halves.orders) == 2, seconds=60)
    assert halves.last_order.qty == 5


async def test_given_a_step_when_a_part_is_less_than_it_then_it_waits_for_the_next_target(
    make_world: MakeWorld,
) -> None:
    whole = AssetRules(qty_step=Decimal(1), qty_min=Decimal(1))
    world = await make_world(HALVES, capabilities=replace(GOOD, stocks=whole))
    await world.enter(1)
    await world.bar(102)
    assert world.orders == []
    await world.bar(104)
    assert [order.qty for order in world.orders] == [1]


# --- by hand ----------------------------------------------------------------------------------------------------------


async def test_given_a_quantity_when_a_person_exits_it_then_the_rest_is_watched_without_a_cooldown(
    world: World,
) -> None:
    await world.manager.force_exit("AAPL", "half off", qty=4)
    assert world.last_order.qty == 4
    await world.fill()
    await world.until(lambda: world.state == "monitoring", seconds=30)
    assert world.position.remaining_qty == 6
    await world.bar(98)
    assert world.last_order.qty == 6


async def test_given_a_part_at_work_when_a_person_exits_all_then_it_is_widened(world: World) -> None:
    await world.manager.force_exit("AAPL", "half off", qty=4)
    await world.manager.force_exit("AAPL", "all of it")
    assert [str(e.reason) for e in kinds(world, LegWidened)] == ["emergency"]
    await world.fill()
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert world.last_order.qty == 6


async def test_given_a_quantity_from_outside_then_it_is_sold_once_and_refused_beside_an_exit(world: World) -> None:
    async with steered(world):
        answer = await give(world, lambda c: c.exit("AAPL", qty=3, reason="half off"))
        assert answer.code == 0
        assert "3 left to sell, 7 is kept" in answer.lines[0]
        again = await give(world, lambda c: c.exit("AAPL", qty=3))
        assert again.code == 1
        assert "an exit is under way" in again.lines[0]
        assert "no part beside it" in again.lines[0]
    assert [order.qty for order in world.orders] == [3]


async def test_given_a_quantity_that_a_person_types_then_it_is_sold_once_and_a_second_is_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ("exit", str(world.store_path), "AAPL", "--yes", "--qty")
    async with steered(world):
        assert await typed(*line, "11") == 1
        assert "11 is more than the 10 that is held" in capsys.readouterr().err
        assert await typed(*line, "3") == 0
        assert "3 left to sell, 7 is kept" in capsys.readouterr().out
        assert await typed(*line, "3") == 1
        assert "no part beside it" in capsys.readouterr().err
    assert [order.qty for order in world.orders] == [3]


async def test_given_a_command_for_a_part_when_it_is_said_again_after_a_restart_then_it_sells_once(
    world: World,
) -> None:
    command = "00000000deadbee1"
    async with steered(world):
        await give(world, lambda c: c.command("exit", "AAPL", given=("3",), command_id=command))
    await world.fill()
    await world.until(lambda: world.state == "monitoring", seconds=30)
    await world.restart()
    async with steered(world):
        await give(world, lambda c: c.command("exit", "AAPL", given=("3",), command_id=command))
        await asyncio.sleep(0)
    assert [order.qty for order in world.orders] == [3]
    assert world.position.remaining_qty == 7


@pytest.mark.parametrize(
    ("qty", "said"),
    [("15", "15 is more than the 10 that is held"), ("0.4", "0.4 is less than the venue takes in one order")],
)
async def test_given_a_quantity_that_cannot_be_had_then_nothing_is_sold_and_the_answer_says_why(
    make_world: MakeWorld, qty: str, said: str
) -> None:
    whole = AssetRules(qty_step=Decimal(1), qty_min=Decimal(1))
    world = await make_world(capabilities=replace(GOOD, stocks=whole))
    await world.enter()
    async with steered(world):
        answer = await give(world, lambda c: c.exit("AAPL", qty=qty))
    assert (answer.code, answer.lines) == (1, (f"AAPL: nothing was done: {said}",))
    assert world.alarm_kinds == []
    for _ in range(2):  # the alarm of the first is active when the second comes
        await world.manager.force_exit("AAPL", qty=qty)
        assert [alarm.text for alarm in world.manager.alarms()] == [f"nothing was done for AAPL: {said}"]
    assert world.orders == []
    assert world.state == "monitoring"


async def test_given_a_limit_order_that_rests_for_all_when_a_person_wants_a_part_then_it_rests_on(
    make_world: MakeWorld,
) -> None:
    """It was canceled, and everything sold at the market."""
    world = await make_world({"profit_taking": {"threshold_pct": 2, "order_type": "limit"}})
    await world.enter()
    await world.bar(102)
    await world.manager.force_exit("AAPL", qty=4)
    await world.settle()
    assert [order.order_type for order in world.orders] == ["limit"]
    assert world.broker.count("cancel") == 0
    [alarm] = world.manager.alarms()
    assert alarm.text == "nothing was done for AAPL: an exit is under way, and no part leaves beside it"


async def test_given_a_part_at_work_when_a_part_is_wanted_again_then_it_is_not_sold_twice(world: World) -> None:
    await world.manager.force_exit("AAPL", qty=4)
    await world.manager.force_exit("AAPL", qty=4)
    assert world.alarm_kinds == ["not_done"]
    await world.fill()
    await world.until(lambda: world.state == "monitoring", seconds=30)
    await world.passes(60)
    assert [order.qty for order in world.orders] == [4]
