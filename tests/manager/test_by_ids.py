"""Scope by ids, live: what the bot's orders bought is watched and sold, whatever else the account holds of it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from harness import GOOD, T0, MakeWorld, World
from msgspec.structs import replace
from scopes import BARE, BEHIND, by, told, wants_one_exit_of_each

from exitfsm.errors import ConfigError
from exitfsm.lifecycle import State
from exitfsm.order_ids import looks_like_exit
from exitfsm.testing.scripted import Raises


async def beside_a_hand(make_world: MakeWorld, config: dict[str, Any] | None = None, **options: Any) -> World:
    """A bot `A-` beside 90 AAPL that a hand bought long ago."""
    world = await make_world(config or by("A-"), started=False, **options)
    world.broker.now = lambda: world.clock.now() - timedelta(days=20)
    world.broker.enter("AAPL", "long", 90, 80, client_order_id="by-hand-1")
    world.broker.lose_updates()
    world.broker.now = world.clock.now
    await world.start()
    return world


async def buys(world: World, qty: int, order_id: str, at: int = 100, *others: World) -> None:
    world.broker.enter("AAPL", "long", qty, at, client_order_id=order_id)
    await told(world, *others)


def sold(world: World) -> list[tuple[str, Decimal]]:
    return [(order.symbol, order.qty) for order in world.orders]


async def test_of_a_holding_only_what_the_bots_ids_bought_is_watched_and_sold(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world)
    (line,) = [line for line in world.heard.lines if "scope " in line]
    assert "90 AAPL long: not managed (no order of A-… bought it)" in line
    assert world.manager.positions() == []
    await buys(world, 10, "A-1")
    assert [(p.symbol, p.qty, p.entry_price) for p in world.manager.positions()] == [("AAPL", 10, 100)]
    await world.passes(200, step=10)
    assert world.position.remaining_qty == 10
    await world.bar("98.9")
    assert sold(world) == [("AAPL", 10)]
    await world.fill()
    await world.until(lambda: not world.manager.positions())
    await world.passes(300, step=10)
    assert (world.broker.held("AAPL"), len(world.orders), world.manager.positions()) == (90, 1, [])
    assert world.alarm_kinds == []


async def test_a_name_has_the_scope_in_it_and_so_has_the_id(make_world: MakeWorld) -> None:
    names = []
    for config in ({}, by("A-"), by("B-"), {"manage": {"owner": "handed"}}):
        world = await make_world(config)
        world.broker.enter("AAPL", "long", 10, 100, client_order_id=f"{'B-' if 'B-' in str(config) else 'A-'}1")
        await told(world)
        await world.manager.watch("AAPL", "long", 10, 100, T0)
        await world.bar("98.9")
        names.append((world.position.position_id, world.last_order.client_order_id))
    plain, a, b, handed = names
    assert plain[0].endswith(":626cb000cf2a")
    assert len({name for name, _ in names}) == len({order_id for _, order_id in names}) == 4
    for name, order_id in (a, b, handed):
        account, _, mark = name.rpartition(":")[2].partition("-")
        assert (account, looks_like_exit(order_id, mark)) == ("626cb000cf2a", True)
        assert not looks_like_exit(plain[1], mark)


@pytest.mark.parametrize("capabilities", [GOOD, BARE, BEHIND])
async def test_what_the_bot_sells_by_itself_is_not_sold_again_out_of_what_a_hand_holds(
    make_world: MakeWorld, capabilities: Any
) -> None:
    world = await beside_a_hand(make_world, capabilities=capabilities)
    await buys(world, 10, "A-1")
    await world.passes(100, step=5)
    world.broker.enter("AAPL", "short", 4, 100, client_order_id="A-2")
    await told(world)
    await world.until(lambda: world.position.remaining_qty == 6, seconds=120)
    await world.bar("98.9")
    await world.until(lambda: world.orders)
    assert sold(world) == [("AAPL", 6)]


@pytest.mark.parametrize("capabilities", [GOOD, BARE, BEHIND])
async def test_what_the_bot_sells_as_an_exit_begins_is_not_sold_again(make_world: MakeWorld, capabilities: Any) -> None:
    world = await beside_a_hand(make_world, capabilities=capabilities)
    await buys(world, 10, "A-1")
    await world.passes(100, step=5)
    world.broker.enter("AAPL", "short", 4, 99, client_order_id="A-2")
    world.broker.lose_updates()
    await world.bar("98.9", after=0.1)
    await world.until(lambda: world.orders, seconds=120)
    assert sold(world)[-1] == ("AAPL", 6)
    assert len(world.orders) == 1


async def test_what_a_hand_trades_beside_it_changes_nothing(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world, capabilities=BEHIND)
    await buys(world, 10, "A-1")
    for n, side in enumerate(("long", "short", "short", "long")):
        world.broker.enter("AAPL", side, 30 + n, 101, client_order_id=f"by-hand-{n + 2}")
        await told(world)
        await world.passes(60, step=5)
    assert [(p.qty, p.remaining_qty, p.entry_price) for p in world.manager.positions()] == [(10, 10, 100)]
    assert [name for name in world.names() if name != "PositionOpened"] == []


async def test_what_it_buys_on_is_added_and_what_it_buys_after_an_exit_is_the_next(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world)
    await buys(world, 10, "A-1")
    world.clock.move(1)
    await buys(world, 10, "A-2", 102)
    await world.until(lambda: world.position.remaining_qty == 20, seconds=100)
    assert world.position.entry_price == 101
    await world.bar("99.9")
    await world.fill()
    await world.until(lambda: not world.manager.positions())
    world.clock.move(5)
    await buys(world, 7, "A-3", 99)
    await world.until(lambda: [p.qty for p in world.manager.positions()] == [7], seconds=100)
    await world.bar("97.9")
    await world.until(lambda: len(world.orders) == 2)
    assert sold(world) == [("AAPL", 20), ("AAPL", 7)]


async def test_what_was_bought_before_the_start_is_named_and_priced_by_what_the_ids_bought(
    make_world: MakeWorld,
) -> None:
    world = await beside_a_hand(make_world)
    await world.stop()
    world.clock.move(60)
    first = world.clock.now()
    for n, (who, side, qty, price) in enumerate(
        [("A", "long", 4, 100), ("by-hand", "long", 30, 70), ("A", "long", 6, 105), ("by-hand", "short", 10, 90)]
    ):
        world.broker.enter("AAPL", side, qty, price, client_order_id=f"{who}-{n}")
        world.clock.move(5)
    world.broker.lose_updates()
    world.manager = world._new_manager()
    await world.start()
    await world.until(world.manager.positions, seconds=60)
    p = world.position
    assert (p.qty, p.entry_price, p.opened_at) == (10, 103, first)


async def test_a_restart_changes_nothing_of_it(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world, capabilities=BEHIND)
    await buys(world, 10, "A-1")
    world.broker.enter("AAPL", "long", 30, 101, client_order_id="by-hand-2")
    await world.passes(100, step=5)
    await world.restart()
    await world.passes(200, step=5)
    assert [(p.qty, p.remaining_qty) for p in world.manager.positions()] == [(10, 10)]
    world.broker.enter("AAPL", "short", 3, 100, client_order_id="A-2")
    await world.restart()
    await world.until(lambda: world.position.remaining_qty == 7, seconds=200, step=5)
    await world.bar("98.9")
    await world.until(lambda: world.orders)
    await world.fill()
    await world.until(lambda: not world.manager.positions())
    for _ in range(2):
        await world.restart()
        await world.passes(200, step=5)
    assert (sold(world), world.manager.positions()) == ([("AAPL", 7)], [])
    assert "scope_unknown" not in world.alarm_kinds


async def test_what_a_hand_sells_of_it_is_a_cap(make_world: MakeWorld) -> None:
    world = await make_world(by("A-"), capabilities=BEHIND)
    await buys(world, 10, "A-1")
    await world.passes(100, step=5)
    world.broker.trade_by_hand("AAPL", "sell", 4, 100)
    await world.until(lambda: world.position.remaining_qty == 6, seconds=300, step=5)
    world.broker.trade_by_hand("AAPL", "sell", 6, 100)
    await world.until(lambda: not world.manager.positions(), seconds=400, step=5)
    world.broker.enter("AAPL", "long", 50, 90, client_order_id="by-hand-9")
    await world.passes(200, step=5)
    assert (world.manager.positions(), world.orders) == ([], [])


async def test_two_bots_of_one_account_leave_each_other_alone(make_world: MakeWorld) -> None:
    a = await beside_a_hand(make_world, by("A-"))
    b = await second_bot(make_world, a, by("B-"))
    await buys(a, 10, "A-1", 100, b)
    await buys(a, 20, "B-1", 100, b)
    assert [p.qty for p in a.manager.positions()] == [10]
    assert [p.qty for p in b.manager.positions()] == [20]
    await both_bar(a, b, "98.9")  # both stops are reached at once, and neither waits for the other
    assert sorted(order.qty for order in a.orders) == [10, 20]
    for order in list(a.orders):
        a.broker.fill(order, order.qty, Decimal("98.9"))
    await told(a, b)
    for world in (a, b):
        await world.until(lambda world=world: not world.manager.positions(), seconds=200)
        await world.passes(100, step=10)
        assert world.manager.positions() == []
        assert not {"foreign_order", "unknown_exit_order", "other_exit"} & {alarm.kind for alarm in world.alarms}
    assert (a.broker.held("AAPL"), len(a.orders)) == (90, 2)


async def test_while_the_exit_of_one_bot_rests_the_other_gets_out(make_world: MakeWorld) -> None:
    a = await beside_a_hand(make_world, by("A-"), capabilities=BARE)
    b = await second_bot(make_world, a, by("B-"))
    await buys(a, 10, "A-1", 100, b)
    await buys(a, 20, "B-1", 100, b)
    await a.bar("98.9")
    assert sold(a) == [("AAPL", 10)]
    await b.passes(120, step=10)
    await b.bar("98.8")
    assert sold(a) == [("AAPL", 10), ("AAPL", 20)]


async def second_bot(make_world: MakeWorld, first: World, config: dict[str, Any]) -> World:
    """A second manager of the same account, with a store of its own."""
    wants_one_exit_of_each(first.broker)
    world = await make_world(config, started=False)
    world.clock, world.broker, world.seen_by_manager = first.clock, first.broker, first.broker
    world.manager = world._new_manager()
    await world.start()
    return world


async def both_bar(a: World, b: World, close: str) -> None:
    a.clock.move(1)
    a.broker.price("AAPL", close)
    bar = a.make_bar(close)
    await a.manager.on_bar(bar)
    await b.manager.on_bar(bar)
    await a.settle()
    await b.settle()


async def test_an_order_of_the_bot_that_would_sell_it_too_is_waited_for(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world)
    await buys(world, 10, "A-1")
    world.broker.place("AAPL", "sell", 10, client_order_id="A-2")
    await told(world)
    await world.bar("98.9")
    await world.passes(10)
    assert world.orders == []
    hand = await beside_a_hand(make_world)
    await buys(hand, 10, "A-1")
    hand.broker.place("AAPL", "sell", 90, client_order_id="by-hand-2")  # its own: both fit in what is held
    await told(hand)
    await hand.bar("98.9")
    assert sold(hand) == [("AAPL", 10)]
    assert "foreign_order" not in hand.alarm_kinds


@pytest.mark.parametrize("lacks", ["fills", "ids"])
async def test_a_broker_whose_executions_do_not_say_whose_they_are_is_refused_at_the_start(
    make_world: MakeWorld, lacks: str
) -> None:
    world = await make_world(by("A-"), started=False)
    world.broker.enter("AAPL", "long", 10, 100, client_order_id="A-1")
    if lacks == "fills":
        world.broker.always("fills", Raises(NotImplementedError()))
    else:
        world.broker.executions[:] = [replace(fill, client_order_id=None) for fill in world.broker.executions]
    with pytest.raises(ConfigError, match=r"manage\.owner: ids goes by the client order ids.*manage\.owner: handed"):
        await world.manager.start()
    assert not world.manager._running


async def test_in_hedge_mode_it_is_refused_at_the_start(make_world: MakeWorld) -> None:
    world = await make_world(by("A-"), started=False, capabilities=replace(GOOD, hedge=True))
    with pytest.raises(ConfigError, match="in hedge mode what is ours"):
        await world.manager.start()


async def test_executions_that_cannot_be_read_are_an_alarm_and_nothing_is_taken_up(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world)
    world.broker.always("fills", Raises(TimeoutError("no answer")))
    await buys(world, 10, "A-1")
    await world.until(lambda: "scope_unknown" in world.alarm_kinds, seconds=300, step=5)
    assert world.manager.positions() == []
    world.broker.truthful()
    await world.until(world.manager.positions, seconds=100)


async def test_what_is_executed_and_never_shown_is_an_alarm(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world)
    snapshot = world.broker.snapshot
    world.broker.snapshot = lambda: [row for row in snapshot() if row.symbol != "MSFT"]  # type: ignore[method-assign]
    world.broker.enter("MSFT", "long", 5, 50, client_order_id="A-1")
    await told(world)
    await world.until(lambda: "entry_not_shown" in world.alarm_kinds, seconds=200, step=5)
    assert world.manager.positions() == []


async def test_what_others_hold_against_it_is_an_alarm_and_no_more_is_sold(make_world: MakeWorld) -> None:
    world = await make_world(by("A-"), capabilities=BARE)
    await buys(world, 10, "A-1")
    await world.passes(60, step=5)
    tell = world.broker.fills
    world.broker.fills = lambda since: _without(tell, since, "by-hand-2")  # type: ignore[method-assign]
    world.broker.enter("AAPL", "short", 40, 100, client_order_id="by-hand-2")
    await told(world)
    await world.until(lambda: "scope_netted" in world.alarm_kinds, seconds=200, step=5)
    await world.bar("98.9")
    await world.passes(30)
    assert world.orders == []


async def test_what_was_watched_of_the_whole_account_is_cut_to_what_the_ids_bought(make_world: MakeWorld) -> None:
    world = await make_world({})
    world.broker.enter("AAPL", "long", 90, 100, client_order_id="by-hand-1")
    world.broker.enter("AAPL", "long", 10, 100, client_order_id="A-1")
    await told(world)
    assert world.position.qty == 100
    world.config = by("A-")
    await world.restart()
    await world.until(lambda: world.position.remaining_qty == 10, seconds=200, step=5)
    assert "scope_unknown" in world.alarm_kinds
    await world.bar("98.9")
    await world.until(lambda: world.orders)
    assert sold(world) == [("AAPL", 10)]


async def test_handed_over_before_its_executions_are_listed_it_is_counted_once(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world, capabilities=BEHIND)
    await world.passes(60, step=5)
    tell = world.broker.fills
    world.broker.fills = lambda since: _without(tell, since, "A-1")  # type: ignore[method-assign]
    world.broker.enter("AAPL", "long", 10, 100, client_order_id="A-1")
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 10, 100, world.clock.now())
    await world.passes(25, step=5)
    world.broker.fills = tell  # type: ignore[method-assign]
    await world.passes(300, step=5)
    assert [p.remaining_qty for p in world.manager.positions()] == [10]


async def _without(tell: Any, since: Any, order_id: str) -> list[Any]:
    return [fill for fill in await tell(since) if fill.client_order_id != order_id]


async def test_what_was_exited_is_not_taken_up_again_while_its_sale_is_not_listed(make_world: MakeWorld) -> None:
    for is_handed in (False, True):
        world = await beside_a_hand(make_world, capabilities=BEHIND)
        await world.passes(60, step=5)
        if is_handed:
            world.broker.enter("AAPL", "long", 10, 100, client_order_id="A-1")
            world.broker.lose_updates()
            await world.manager.watch("AAPL", "long", 10, 100, world.clock.now())
        else:
            await buys(world, 10, "A-1")
        await world.bar("98.9")
        tell, exit_id = world.broker.fills, world.last_order.client_order_id
        world.broker.fills = lambda since, tell=tell, exit_id=exit_id: _without(tell, since, exit_id)  # type: ignore[method-assign, misc]
        await world.fill()
        await world.until(lambda world=world: not world.manager.positions())
        await world.passes(20)
        assert world.manager.positions() == []
        world.broker.fills = tell  # type: ignore[method-assign]
        await world.passes(60, step=5)
        await buys(world, 5, "A-2", 99)
        await world.until(lambda world=world: world.manager.positions(), seconds=200)
        assert [p.qty for p in world.manager.positions()] == [5]


async def test_what_is_ignored_and_was_watched_is_not_exited_any_more(make_world: MakeWorld) -> None:
    world = await make_world({})
    world.broker.enter("AAPL", "long", 10, 100)
    world.broker.enter("MSFT", "long", 10, 100)
    await told(world)
    await world.bar("98.9", "MSFT")  # its exit is under way
    assert [order.symbol for order in world.orders] == ["MSFT"]
    world.config = {"manage": {"ignore": ["AAPL", "MSFT"]}}
    await world.restart()
    said = [line for line in world.heard.lines if "scope " in line and "not managed any more" in line]
    assert ["AAPL" in said[-2], "MSFT" in said[-1]] == [True, True]
    await world.bar("90")
    await world.manager.flatten_all()
    await world.passes(30)
    await world.fill()
    await world.until(lambda: not world.manager.positions())
    assert [order.symbol for order in world.orders] == ["MSFT"]
    world.config = {}
    await world.restart()
    assert [(p.symbol, p.state) for p in world.manager.positions()] == [("AAPL", State.MONITORING)]


async def test_what_the_ids_bought_and_nobody_watches_is_an_alarm_whatever_is_remembered(make_world: MakeWorld) -> None:
    world = await beside_a_hand(make_world)
    kept = world.manager._parts.context.memory.kept
    kept.weigh_new = lambda evidence: ((), kept.memory_of(evidence))  # type: ignore[method-assign]  # it forgets
    await buys(world, 10, "A-1")
    await world.passes(60, step=10)
    assert (world.manager.positions(), world.alarm_kinds) == ([], [])
    await world.passes(180, step=10)
    assert (world.manager.positions(), world.alarm_kinds) == ([], ["scope_unknown"])
