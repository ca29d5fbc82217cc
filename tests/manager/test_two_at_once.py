"""Two positions of one holding: their exits leave one after the other, and what is missing is missing of the older."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from harness import MakeWorld, World

from exitfsm import BrokerPosition, NotSent, Order, OrderSide, Position, Session, Side, State, client_order_id
from exitfsm.messages import Contradiction
from exitfsm.testing import Raises, Returns


async def with_two(path: Path, again: int, first: int = 10) -> tuple[World, Position, Position]:
    """An exit that could not leave; then its position was sold by hand, entered anew, and both are to be exited."""
    world = World(path)
    await world.start()
    await world.enter(first, at=100)
    world.broker.always("submit", Raises(NotSent("rate")))
    await world.bar("98.9")
    older = world.position
    world.broker.trade_by_hand("AAPL", "sell", first, 99)
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", again, 99)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", again, 99, world.clock.now())
    await world.bar("97.9")
    newer = next(p for p in world.manager.positions() if p.position_id != older.position_id)
    assert (newer.state, newer.order_qty) == (State.PENDING, again)
    return world, older, newer


def now(world: World, p: Position) -> Position:
    """A position, open or over, as it is now."""
    found = world.manager._engine.get(p.position_id)
    assert found is not None
    return found


def states(world: World, *positions: Position) -> list[State]:
    """Where they stand now."""
    return [now(world, p).state for p in positions]


async def test_two_exits_of_one_holding_leave_one_after_the_other(tmp_path: Path) -> None:
    world, older, newer = await with_two(tmp_path, again=12)
    world.broker.truthful()
    await world.passes(40)
    assert [order.client_order_id for order in world.orders] == [older.client_order_id]
    await world.fill()
    await world.until(lambda: len(world.orders) == 2, 120)
    assert world.last_order.qty == 2  # the older one has sold the rest of what the newer one was
    await world.fill()
    await world.until(lambda: states(world, older, newer) == [State.FILLED, State.FILLED], 120)
    await world.finish()


@pytest.mark.parametrize("seconds", [20, 400])
async def test_an_exit_that_waits_for_another_one_is_told_and_the_other_ends_where_its_shares_are_gone(
    tmp_path: Path, seconds: int
) -> None:
    world, older, newer = await with_two(tmp_path, again=12)
    world.broker.truthful()
    world.broker.cancels = "pending"
    await world.until(lambda: states(world, older) == [State.CANCELING], 300)
    await world.passes(seconds)
    assert [order.client_order_id for order in world.orders] == [older.client_order_id]
    assert ("submit_unresolved" in world.alarm_kinds) is (seconds > 100)
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    await world.passes(0.5, 0.5)
    assert len(world.orders) == 2  # however long it has waited
    assert world.last_order.qty == 12
    await world.fill()
    await world.until(lambda: states(world, older, newer) == [State.CLOSED, State.FILLED], 120)
    await world.finish()


async def test_what_is_missing_of_two_positions_is_missing_of_the_older_one(tmp_path: Path) -> None:
    world, older, newer = await with_two(tmp_path, again=3)
    world.broker.truthful()
    await world.until(lambda: len(world.orders) == 1, 60)
    assert (world.last_order.client_order_id, world.last_order.qty) == (newer.client_order_id, Decimal(3))
    await world.fill()
    await world.until(lambda: states(world, older, newer) == [State.CLOSED, State.FILLED], 120)
    assert "protection_lost" not in world.alarm_kinds
    await world.finish()


async def test_the_older_one_of_two_is_closed_by_hand_while_the_newer_one_is_only_watched(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.always("submit", Raises(NotSent("rate")))
    await world.bar("98.9")
    older = world.position
    world.broker.trade_by_hand("AAPL", "sell", 10, 99)
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 4, 99)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 4, 99, world.clock.now())
    newer = next(p for p in world.manager.positions() if p.position_id != older.position_id)
    await world.passes(300, step=5)
    assert states(world, older, newer) == [State.PENDING, State.MONITORING]
    assert now(world, newer).remaining_qty == 4
    world.broker.truthful()
    await world.until(lambda: states(world, older) == [State.CLOSED], 120)
    assert (world.state, world.position.remaining_qty) == (State.MONITORING, 4)
    assert [alarm.kind for alarm in world.alarms] == ["submit_unresolved"]
    assert world.alarm_kinds == []  # over with its position
    await world.finish()


async def test_an_exit_that_may_still_arrive_leaves_again_before_one_that_never_left(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    older = world.position
    world.broker.expire(world.last_order)
    await world.deliver()
    assert states(world, older) == [State.REJECTED]  # its next attempt waits 30 s
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 4, 99)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 4, 99, world.clock.now())
    newer = next(p for p in world.manager.positions() if p.position_id != older.position_id)
    await world.passes(20)
    world.broker.answer("submit", Raises(ConnectionError("cut")))  # its request is under way
    world.broker.always("submit", Raises(NotSent("rate")))
    await world.bar("97.9")
    await world.passes(20)
    assert states(world, older, newer) == [State.PENDING, State.PENDING]
    world.broker.truthful()
    await world.passes(10)
    assert [order.client_order_id for order in world.orders[1:]] == [newer_id := now(world, newer).client_order_id]
    await world.fill()
    await world.until(lambda: len(world.orders) == 3, 120)
    assert newer_id != world.last_order.client_order_id == now(world, older).client_order_id
    await world.fill()
    await world.until(lambda: states(world, older, newer) == [State.FILLED, State.FILLED], 120)
    await world.finish()


async def refused_and_entered_anew(path: Path) -> tuple[World, Order, Position]:
    """An exit that was refused because its position had been sold by hand; and another position of the symbol."""
    world = World(path)
    await world.start()
    await world.enter(4, at=100)
    world.broker.trade_by_hand("AAPL", "sell", 4, 99)
    await world.bar("98.9")
    older = world.position
    await world.until(lambda: world.state is State.CLOSED, 120)
    assert world.orders == []  # refused by the broker's own guard
    await world.enter(6, at=99)
    late = Order(
        client_order_id=older.client_order_id or "", symbol="AAPL", side=older.side.exit_side, qty=older.order_qty
    )
    return world, late, older


@pytest.mark.parametrize("told", [True, False], ids=["told", "listed"])
async def test_a_refused_order_that_comes_after_all_is_ended_before_another_exit_leaves(
    tmp_path: Path, told: bool
) -> None:
    world, late, older = await refused_and_entered_anew(tmp_path)
    newer = world.position
    world.broker.cancels = "pending"
    world.broker.take(late)
    if told:
        await world.deliver()
    else:
        world.broker.lose_updates()
        await world.manager.sync()
        await world.settle()
    assert states(world, older, newer) == [State.UNPROTECTED, State.MONITORING]
    assert world.alarm_kinds == ["protection_lost"]
    await world.bar("97.9")
    await world.passes(120, step=5)
    assert states(world, older, newer) == [State.UNPROTECTED, State.PENDING]
    assert world.orders == [late]
    world.broker.end_cancel(late)
    await world.until(lambda: len(world.orders) == 2, 120)
    assert (world.last_order.client_order_id, world.last_order.qty) == (now(world, newer).client_order_id, Decimal(6))
    await world.fill()
    await world.until(lambda: states(world, older, newer) == [State.CLOSED, State.FILLED], 200)
    await world.finish()


async def test_what_a_refused_order_sells_after_all_is_not_sold_again(tmp_path: Path) -> None:
    world, late, older = await refused_and_entered_anew(tmp_path)
    newer = world.position
    world.broker.take(late)
    world.broker.fill(late, 3)
    await world.deliver()
    await world.until(lambda: states(world, older) == [State.CLOSED], 200)
    await world.until(lambda: now(world, newer).remaining_qty == 3, 200)
    await world.bar("97.9")
    await world.until(lambda: len(world.orders) == 2, 120)
    await world.fill()
    await world.until(lambda: states(world, newer) == [State.FILLED], 120)
    assert world.broker.held("AAPL") == 0
    await world.finish()


@pytest.mark.parametrize("alarmed", [False, True], ids=["on-its-way", "unprotected"])
async def test_a_stop_does_not_wait_for_the_limit_order_of_another_position(tmp_path: Path, alarmed: bool) -> None:
    world = World(tmp_path, {"profit_taking": {"order_type": "limit"}})
    await world.start()
    await world.enter(100, at=100)
    await world.bar("102.1")
    older = world.position
    await world.fill(10)
    if alarmed:
        contradiction = Contradiction(at=world.clock.now(), why="it cannot be")
        await world.manager._parts.context.mailbox.tell(older.position_id, contradiction)
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 10, 102)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 10, 102, world.clock.now())
    newer = next(p for p in world.manager.positions() if p.position_id != older.position_id)
    await world.bar("100.5")  # the stop of the newer one, not of the older one
    await world.passes(3)
    orders = [order.client_order_id for order in world.orders]
    assert orders == [older.client_order_id, now(world, newer).client_order_id]
    await world.finish()


async def test_a_profit_does_not_cancel_the_limit_order_of_another_position(tmp_path: Path) -> None:
    world = World(tmp_path, {"profit_taking": {"order_type": "limit"}})
    await world.start()
    await world.enter(100, at=100)
    await world.bar("102.1")
    older = world.position
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 10, 100)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 10, 100, world.clock.now())
    await world.bar("102.2")
    await world.passes(5)
    assert states(world, older) == [State.SUBMITTED]
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: len(world.orders) == 2, 5)
    await world.finish()


async def test_a_limit_order_does_not_give_way_to_an_exit_that_cannot_leave(tmp_path: Path) -> None:
    config = {"profit_taking": {"order_type": "limit"}, "partial_fills": {"resubmit_delay_seconds": 999}}
    world = World(tmp_path, config | {"session": {"trade": "extended"}})
    await world.start()
    await world.enter(100, at=100)
    await world.bar("102.1")
    older = world.position
    world.clock.move(1)
    world.broker.trade_by_hand("AAPL", "buy", 10, 102)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", 10, 102, world.clock.now())
    world.broker.market = Session(is_open=False)
    await world.passes(70)
    await world.bar("100.5")
    await world.passes(60)
    assert states(world, older) == [State.SUBMITTED]
    world.broker.market = Session(is_open=True)
    await world.until(lambda: states(world, older) != [State.SUBMITTED], 120)
    await world.until(lambda: len(world.orders) == 2, 5)
    await world.finish()


async def both_sides(world: World, *, bar: str, short: int = 5, long: int = 10) -> tuple[Position, Position]:
    """A short that somebody bought back, unread, and a long that was entered since; then a bar comes."""
    await world.enter(short, at=100, side="short")
    old = world.position
    world.broker.trade_by_hand("AAPL", "buy", short, 103)
    world.broker.trade_by_hand("AAPL", "buy", long, 103)
    world.broker.lose_updates()
    await world.manager.watch("AAPL", "long", long, 103, world.clock.now())
    new = next(p for p in world.manager.positions() if p.position_id != old.position_id)
    await world.bar(bar)
    return old, new


def sent(world: World) -> list[str]:
    """The orders that were sent, whether the broker took them or not."""
    return [call.args[0].client_order_id for call in world.broker.calls if call.method == "submit"]


async def test_of_two_sides_only_what_is_held_is_exited(make_world: MakeWorld) -> None:
    world = await make_world()
    old, new = await both_sides(world, bar="101.5")
    await world.passes(3)
    assert sent(world) == [client_order_id(new.position_id, 1)]
    assert world.last_order.side is OrderSide.SELL
    await world.fill()
    await world.until(lambda: states(world, old, new) == [State.CLOSED, State.FILLED], 200)
    assert len(sent(world)) == 1


async def test_the_exit_of_one_side_waits_while_one_of_the_other_side_works(make_world: MakeWorld) -> None:
    world = await make_world()
    _, new = await both_sides(world, bar="100.9")
    shown = [BrokerPosition(symbol="AAPL", side=Side.SHORT, qty=Decimal(5), avg_entry_price=Decimal(100))]
    world.broker.always("positions", Returns(shown))  # a list that is behind: it shows the short, and nothing else
    await world.bar("101.5")
    await world.passes(20)
    assert sent(world) == [client_order_id(new.position_id, 1)]
