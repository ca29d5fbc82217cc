"""What of the account is managed, live: what is left out is neither watched nor sold, and the start says so."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from harness import GOOD, T0, MakeWorld, World
from msgspec.structs import replace

from exitfsm.lifecycle import State
from exitfsm.ports import AssetRules, IdMemory


async def held_before(make_world: MakeWorld, config: dict[str, Any], **options: Any) -> World:
    """A manager that starts where 100 AAPL and 5 MSFT have been held for long."""
    world = await make_world(config, started=False, **options)
    world.broker.now = lambda: world.clock.now() - timedelta(days=20)
    world.broker.enter("AAPL", "long", 100, 100, client_order_id="by-hand-1")
    world.broker.enter("MSFT", "long", 5, 50, client_order_id="by-hand-2")
    world.broker.lose_updates()
    world.broker.now = world.clock.now
    await world.start()
    return world


def watched(world: World) -> set[str]:
    return {p.symbol for p in world.manager.positions()}


@pytest.mark.parametrize(
    ("manage", "symbols"),
    [
        ({}, {"AAPL", "MSFT"}),
        ({"ignore": ["AAPL"]}, {"MSFT"}),
        ({"symbols": ["AAPL"]}, {"AAPL"}),
        ({"owner": "handed"}, set()),
    ],
)
async def test_the_start_says_what_is_managed_and_why_not(
    make_world: MakeWorld, manage: dict[str, Any], symbols: set[str]
) -> None:
    world = await held_before(make_world, {"manage": manage})
    assert watched(world) == symbols
    said = [line for line in world.heard.lines if "scope " in line]
    assert len(said) == 2
    for symbol in ("AAPL", "MSFT"):
        (line,) = [line for line in said if symbol in line]
        assert (": managed" in line) is (symbol in symbols)
    await world.bar("98.9")
    assert {order.symbol for order in world.orders} <= symbols


async def test_what_is_ignored_is_not_flattened_and_may_be_entered(make_world: MakeWorld) -> None:
    world = await held_before(make_world, {"manage": {"ignore": ["AAPL"]}})
    await world.manager.flatten_all()
    await world.settle()
    assert {order.symbol for order in world.orders} == {"MSFT"}
    assert world.manager.may_enter("AAPL")
    with pytest.raises(ValueError, match="ignore names it"):
        await world.manager.watch("AAPL", "long", 1, 100, T0)


@pytest.mark.parametrize("manage", [{"ignore": ["AAPL"]}, {"symbols": ["MSFT"]}])
async def test_what_is_not_managed_is_no_reason_to_reconcile_at_each_look(
    make_world: MakeWorld, manage: dict[str, Any]
) -> None:
    world = await held_before(make_world, {"manage": manage, "live": {"sync_seconds": 3600}})
    await world.passes(60, step=5)  # MSFT is confirmed
    before = world.broker.count("open_orders")
    await world.passes(120, step=1)
    assert world.broker.count("open_orders") == before


async def test_handed_over_means_this_much_and_no_more(make_world: MakeWorld) -> None:
    world = await held_before(make_world, {"manage": {"owner": "handed"}})
    world.broker.enter("AAPL", "long", 1, 100)
    await world.manager.watch("AAPL", "long", 1, 100, world.clock.now())
    await world.passes(200, step=10)
    assert [(p.symbol, p.remaining_qty) for p in world.manager.positions()] == [("AAPL", 1)]
    await world.bar("98.9")
    assert [(order.symbol, order.qty) for order in world.orders] == [("AAPL", 1)]
    await world.fill()
    await world.until(lambda: not world.manager.positions())
    await world.passes(100, step=5)
    assert world.broker.held("AAPL") == 100
    assert watched(world) == set()
    assert len(world.orders) == 1


async def test_what_was_handed_over_and_is_sold_by_hand_ends(make_world: MakeWorld) -> None:
    world = await make_world({"manage": {"owner": "handed"}})
    world.broker.enter("AAPL", "long", 1, 100)
    await world.manager.watch("AAPL", "long", 1, 100, world.clock.now())
    await world.bar(100)
    world.broker.trade_by_hand("AAPL", "sell", 1, 100)
    await world.until(lambda: not world.manager.positions(), seconds=600, step=5)
    assert world.orders == []


async def test_what_others_bought_is_said_where_the_bots_ids_are_known(make_world: MakeWorld) -> None:
    world = await held_before(make_world, {"live": {"entry_id_prefix": "bot-"}})
    texts = [alarm.text for alarm in world.alarms if alarm.kind == "scope_unclear"]
    assert len(texts) >= 1
    assert "by by-hand-1, not by bot-…" in texts[0]
    world.broker.enter("TSLA", "long", 3, 100, client_order_id="bot-7")
    await world.passes(130, step=10)
    assert not any("TSLA" in alarm.text for alarm in world.alarms)
    assert "TSLA" in watched(world)


async def test_of_what_cannot_be_sold_nobody_is_asked_who_bought_it(make_world: MakeWorld) -> None:
    whole = replace(GOOD, stocks=AssetRules(qty_step=Decimal(1), qty_min=Decimal(1)))
    world = await make_world({"live": {"entry_id_prefix": "bot-"}}, started=False, capabilities=whole)
    world.broker.enter("AAPL", "long", "0.5", 100, client_order_id="by-hand-1")
    world.broker.enter("MSFT", "long", 5, 50, client_order_id="by-hand-2")
    world.broker.lose_updates()
    await world.start()
    await world.passes(130, step=10)
    said = [alarm.text for alarm in world.alarms if alarm.kind == "scope_unclear"]
    assert ["MSFT" in text for text in said] == [True]


async def test_an_execution_that_cannot_be_read_hides_nothing_of_other_symbols(make_world: MakeWorld) -> None:
    world = await make_world({"live": {"entry_id_prefix": "bot-"}}, started=False)
    world.broker.enter("AAPL", "long", 100, 100, client_order_id="by-hand-1")
    world.broker.enter("MSFT", "long", 5, 50, client_order_id="bot-2")
    world.broker.lose_updates()
    tell = world.broker.fills

    async def one_is_odd(since: datetime) -> list[Any]:
        listed = list(await tell(since))
        return [{"symbol": "MSFT"} if fill.symbol == "MSFT" else fill for fill in listed]

    world.broker.fills = one_is_odd  # type: ignore[method-assign]
    await world.start()
    await world.passes(100, step=5)
    said = [alarm.text for alarm in world.alarms if alarm.kind == "scope_unclear"]
    assert ["AAPL" in text for text in said] == [True]  # nothing is said of MSFT, of which not all is known
    world.broker.fills = tell  # type: ignore[method-assign]
    await world.passes(100, step=5)
    assert not any("MSFT" in alarm.text for alarm in world.alarms if alarm.kind == "scope_unclear")


async def test_a_broker_that_takes_a_symbol_is_asked_for_the_executions_of_that_alone(make_world: MakeWorld) -> None:
    world = await make_world({"live": {"entry_id_prefix": "bot-"}}, started=False)
    world.broker.enter("AAPL", "long", 100, 100, client_order_id="bot-1")
    tell, asked = world.broker.fills, list[str | None]()

    async def of_one(since: datetime, symbol: str | None = None) -> list[Any]:
        asked.append(symbol)
        return [fill for fill in await tell(since) if symbol in (None, fill.symbol)]

    world.broker.fills = of_one  # type: ignore[method-assign]
    await world.start()
    await world.passes(30, step=5)
    assert "AAPL" in asked
    assert watched(world) == {"AAPL"}


TIMED = {"time_limit": {"enabled": True, "max_seconds": 600}}


async def test_shares_held_for_years_are_not_sold_by_the_clock_before_a_bar_of_them_came(make_world: MakeWorld) -> None:
    world = await held_before(make_world, TIMED)
    await world.passes(200, step=5)
    assert world.orders == []
    assert world.alarm_kinds.count("no_price") == 2
    await world.bar(100)
    await world.until(lambda: world.orders, seconds=200)
    assert {order.symbol for order in world.orders} == {"AAPL"}


@pytest.mark.parametrize("how", ["named", "handed over", "bought since"])
async def test_the_clock_sells_what_is_named_handed_over_or_bought_since(make_world: MakeWorld, how: str) -> None:
    config = {**TIMED, "manage": {"symbols": ["AAPL"]}} if how == "named" else TIMED
    world = await make_world(config, started=how != "named")
    world.broker.enter("AAPL", "long", 10, 100)
    if how == "named":
        await world.start()
    if how == "handed over":
        await world.manager.watch("AAPL", "long", 10, 100, T0 - timedelta(seconds=1))
    await world.until(lambda: world.orders, seconds=900, step=5)
    assert "no_price" not in world.alarm_kinds


async def test_beside_an_exit_at_work_only_what_is_shown_beyond_it_is_taken_up(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter(10, at=100)
    await world.bar("98.9")
    (exit_,) = world.manager.positions()
    assert exit_.state is State.SUBMITTED
    world.clock.move(1)
    again = await world.manager.watch("AAPL", "long", 10, 99, world.clock.now())
    assert again.position_id == exit_.position_id
    world.broker.enter("AAPL", "long", 3, 99)
    world.broker.lose_updates()
    world.clock.move(1)
    third = await world.manager.watch("AAPL", "long", 10, 99, world.clock.now())
    assert (third.position_id != exit_.position_id, third.qty) == (True, 3)
    await world.fill()
    await world.until(lambda: [p.qty for p in world.manager.positions()] == [3], seconds=60)


async def test_where_ids_are_taken_again_the_start_warns_of_a_second_manager(make_world: MakeWorld) -> None:
    for ids, warns in ((IdMemory.NEVER, True), (IdMemory.OPEN_ORDERS, True), (IdMemory.FOREVER, False)):
        world = await make_world(capabilities=replace(GOOD, ids_refused=ids))
        assert any("two_managers" in line for line in world.heard.lines) is warns
