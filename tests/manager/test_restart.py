"""A hard stop at every step of an exit: around each commit and around each effect at the broker.

One life is lived again and again, and each time the process dies one moment later than the time before, until a life
passes without dying. Whatever the moment: the exit ends, with exactly the orders it takes, and no more is sold than is
held.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness import GOOD, World, executed
from msgspec.structs import replace

from exitfsm import BrokerError, IdMemory, Order, Session, Side, State
from exitfsm.position import client_order_id
from exitfsm.testing import LostReply, Raises, Returns
from exitfsm.values import OrderSide, OrderStatus

#: Steps of five seconds that a life may take.
STEPS_MAX = 60


class Killed(Exception):
    """The process is dead; nothing that it still does has an effect."""


class Fate:
    """Lets a world's process die at its n-th moment."""

    def __init__(self, world: World, at: int) -> None:
        self.world, self.at, self.count, self.dead = world, at, 0, False
        world.broker.moment = self.moment

    def moment(self, where: str) -> None:
        """One moment of the process: before or after a commit or an effect at the broker. Mere reads are none."""
        if not self.dead and where.startswith(("commit", "submit", "cancel")):
            self.count += 1
            if self.count == self.at:
                self.dead, self.where = True, where
                self.world.keep_files()
        if self.dead:
            raise Killed

    def watch_store(self) -> None:
        """Count the commits of the manager that has just been made."""
        store = self.world.manager.store
        stored = store.append_many

        def counted(batches: Any) -> Any:
            self.moment("commit before")
            result = stored(batches)
            self.moment("commit after")
            return result

        store.append_many = counted  # type: ignore[method-assign]

    async def revive(self) -> None:
        """A new process finds what the old one left."""
        await self.world.bury()
        self.world.broker.moment = None
        self.world.heard.lines.clear()
        self.world._generation += 1
        self.world.manager = self.world._new_manager()
        await self.world.start()


Market = Callable[[World], None]


def partial_fill_expiry_and_retry(world: World) -> None:
    """The first order fills 4 and expires, the second fills whole."""
    for number, order in enumerate(world.orders, 1):
        booked = world.broker.booked(order.client_order_id)
        assert booked is not None
        if not booked.live:
            continue
        if number == 1 and booked.filled == 0:
            world.broker.fill(order, 4, 98)
        elif number == 1:
            world.broker.expire(order)
        else:
            world.broker.fill(order, None, 97)


def limit_that_gives_way(world: World) -> None:
    """A limit fills 3 and rests; its cancel takes a while and lets 2 more fill; the market order fills whole."""
    for number, order in enumerate(world.orders, 1):
        booked = world.broker.booked(order.client_order_id)
        assert booked is not None
        if not booked.live:
            continue
        if number > 1:
            world.broker.fill(order, None, 97)
        elif booked.filled == 0:
            world.broker.fill(order, 3, 102)
        elif booked.status is OrderStatus.PENDING_CANCEL and booked.filled == 3:
            world.broker.fill(order, 2, 102)
            booked.status = OrderStatus.PENDING_CANCEL
        elif booked.status is OrderStatus.PENDING_CANCEL:
            world.broker.end_cancel(order)


def one_fill(world: World) -> None:
    """The order fills whole."""
    for booked in world.broker.live_exits():
        world.broker.fill(booked.order, None, 98)


async def live(world: World, fate: Fate, market: Market, prices: list[float], *, lose_updates: bool = False) -> None:
    """One life, from the entry to the end of the exit."""
    world.broker.enter("AAPL", "long", 10, 100)
    await world.manager.start()
    fate.watch_store()
    await world.settle()
    for step in range(STEPS_MAX):
        if fate.dead and world.broker.moment is not None:
            await fate.revive()
        market(world)
        if lose_updates:
            world.broker.lose_updates()
        await world.deliver()
        await world.bar(prices[min(step, len(prices) - 1)])
        await world.passes(4, step=2)
        if not fate.dead or world.broker.moment is None:
            ended = world.ended()
            if ended and not world.manager.positions():
                assert [p.state for p in ended] == ["filled"]
                return
    raise AssertionError(f"it never ended: {world.story()}")


LIVES: dict[str, tuple[Market, list[float], dict[str, Any], int]] = {
    "retry": (partial_fill_expiry_and_retry, [100, 98], {}, 2),
    "escalate": (limit_that_gives_way, [100, 102, 102, 98], {"profit_taking": {"order_type": "limit"}}, 2),
    "lost-reply": (one_fill, [100, 98], {}, 1),
}


@pytest.mark.parametrize("lose_updates", [False, True], ids=["told", "untold"])
@pytest.mark.parametrize("name", LIVES)
async def test_given_a_crash_at_any_moment_then_the_exit_ends_with_exactly_the_orders_it_takes(
    tmp_path: Path, name: str, lose_updates: bool
) -> None:
    market, prices, config, orders = LIVES[name]
    at = 0
    while True:
        at += 1
        path = tmp_path / str(at)
        path.mkdir()
        world = World(path, config)
        if name == "escalate":
            world.broker.cancels = "pending"
        if name == "lost-reply":
            world.broker.answer("submit", LostReply())
        fate = Fate(world, at)
        try:
            await live(world, fate, market, prices, lose_updates=lose_updates)
            assert [o.client_order_id[-3:] for o in world.orders] == [f"{n:03}" for n in range(1, orders + 1)]
            assert executed(world.broker, "AAPL", "sell") == 10
            assert world.alarm_kinds == []
            world.broker.moment = None
            await world.finish()
        except BaseException as error:
            raise AssertionError(f"dying at moment {at} ({getattr(fate, 'where', 'never')}): {error}") from error
        if not fate.dead:
            break
    assert at > 10, "there were fewer moments than an exit has"


@pytest.mark.parametrize("at_once", [False, True], ids=["works", "fills-at-once"])
@pytest.mark.parametrize("memory", [IdMemory.NEVER, IdMemory.OPEN_ORDERS])
async def test_given_a_crash_at_any_moment_where_ids_may_repeat_then_nothing_is_sent_twice(
    tmp_path: Path, memory: IdMemory, at_once: bool
) -> None:
    at = 0
    while True:
        at += 1
        path = tmp_path / str(at)
        path.mkdir()
        world = World(path, capabilities=replace(GOOD, ids_refused=memory))
        world.broker.fills_at_once = at_once
        fate = Fate(world, at)
        try:
            await live(world, fate, one_fill, [100, 98])
        except AssertionError as error:
            # The one way not to end by itself: the intent was stored, the order perhaps sent, and the broker does not
            # know it. It must not be sent again; a person was told.
            assert str(error).startswith("it never ended"), f"dying at moment {at}: {error}"  # noqa: PT017  it may, and need not
            assert "order_not_found" in world.alarm_kinds, f"dying at moment {at}: {error}"  # noqa: PT017  as above
            assert world.orders == []
        assert len(world.orders) <= 1
        world.broker.moment = None
        await world.finish()
        if not fate.dead:
            break


async def test_given_a_restart_in_every_state_then_the_state_is_the_same_and_nothing_is_sent_again(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()

    async def unchanged(state: str) -> None:
        before, orders = world.position, len(world.orders)
        assert before.state == state
        await world.restart()
        assert world.position == before
        await world.restart_in_order()
        assert world.position == before
        assert len(world.orders) == orders

    await world.enter()
    await unchanged("monitoring")
    await world.bar(98)
    await unchanged("submitted")
    await world.fill(4)
    await unchanged("partial")
    world.broker.expire(world.last_order)
    await world.deliver()
    await unchanged("rejected")
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    world.broker.reject(world.last_order, "not_tradable")
    await world.deliver()
    await world.until(lambda: len(world.orders) == 3, seconds=60)
    world.broker.reject(world.last_order, "not_tradable")
    await world.deliver()
    await unchanged("unprotected")
    await world.manager.force_exit("AAPL")
    await world.settle()
    await world.fill()
    await world.until(lambda: world.state == "filled")
    await unchanged("filled")
    await world.finish()


async def test_given_a_crash_before_the_send_and_a_sale_by_hand_then_what_is_not_held_is_not_sold(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    world.clock.set(world.clock.now() - timedelta(hours=1))  # the executions since the entry do not show the sale
    world.broker.trade_by_hand("AAPL", "sell", 3)
    forced = asyncio.ensure_future(world.manager.force_exit("AAPL", "a person"))
    await world.settle()
    assert world.state == "pending"
    await world.restart()
    forced.cancel()
    await world.passes(60)
    assert world.orders == []
    assert "order_not_found" in world.alarm_kinds
    with pytest.raises(BrokerError, match="lists no position at all"):
        await world.manager.release(world.position.position_id)  # an empty list alone does not end what was held
    world.broker.trade_by_hand("MSFT", "buy", 1, 50)
    with pytest.raises(BrokerError, match="does not list AAPL"):  # nor does one that lacks it
        await world.manager.release(next(p.position_id for p in world.manager.positions() if p.symbol == "AAPL"))
    await world.passes(310, step=10)  # it ends by itself: nothing of it can be on its way any more
    await world.until(lambda: [p.state for p in world.ended() if p.symbol == "AAPL"] == ["closed"], seconds=60)
    await world.finish()


async def test_given_no_executions_and_a_row_that_is_missing_when_it_is_released_then_that_proves_nothing_yet(
    tmp_path: Path,
) -> None:
    """A row may be missing for seconds; three reads of one moment are no proof, and nothing else says more."""
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    context = world.manager._parts.context
    world.broker.always("fills", Raises(NotImplementedError()))
    assert await context.books.fills_of(world.position) is None
    assert not context.calls.has("fills")
    world.broker.trade_by_hand("MSFT", "buy", 1, 50)
    others = [row for row in await world.broker.positions() if row.symbol == "MSFT"]
    world.broker.always("positions", Returns(others))
    books = context.books
    with pytest.raises(BrokerError, match=r"does not list AAPL.*try again in 5 minutes"):
        await books.not_missing(await books.positions(), world.position)
    world.clock.move(300)
    assert await books.not_missing(await books.positions(), world.position)
    await world.finish()


async def test_given_a_crash_before_the_send_and_holdings_shown_late_then_it_is_sent_once_they_are_shown(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    world.broker.answer("positions", Returns([]), times=8)
    forced = asyncio.ensure_future(world.manager.force_exit("AAPL", "a person"))
    await world.settle()
    await world.restart()
    forced.cancel()
    await world.until(lambda: world.state == "submitted", seconds=120)
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state == "filled")
    await world.finish()


async def test_given_less_was_shown_before_and_now_the_broker_does_not_answer_then_not_more_than_that_is_sold(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, {"session": {"trade": "extended"}}, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    world.broker.market = Session(is_open=False)
    world.broker.capabilities = replace(world.broker.capabilities, queues_orders=False)
    await world.bar(98)
    world.clock.set(world.clock.now() - timedelta(hours=1))
    world.broker.trade_by_hand("AAPL", "sell", 2)
    for _ in range(3):
        await world.manager.sync()
    world.broker.always("positions", Raises(ConnectionError()))
    world.broker.market = Session(is_open=True)
    await world.passes(60)
    assert world.orders == []
    world.broker.always("positions", None)
    await world.until(lambda: len(world.orders) == 1, seconds=120)
    assert world.last_order.qty == 1
    await world.fill()
    await world.until(lambda: world.state == "filled")
    await world.finish()


async def test_given_less_was_shown_once_before_the_exit_and_then_no_answer_then_it_waits_for_one(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    world.clock.set(world.clock.now() - timedelta(hours=1))  # the executions since the entry do not show the sale
    world.broker.trade_by_hand("AAPL", "sell", 3)
    world.broker.lose_updates()
    await world.manager.sync()
    world.broker.always("positions", Raises(ConnectionError()))
    await world.manager.force_exit("AAPL", "a person")
    await world.passes(60)
    assert world.orders == []
    world.broker.always("positions", None)
    await world.until(lambda: world.state == "unprotected", seconds=120)  # the list is empty, and nothing explains that
    assert world.orders == []
    await world.finish()


@pytest.mark.parametrize("answer", [Raises(ConnectionError()), Returns([{"symbol": "AAPL"}])], ids=["none", "unclear"])
async def test_given_a_crash_before_the_send_and_a_broker_that_does_not_say_what_is_held_then_it_waits(
    tmp_path: Path, answer: Any
) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    world.broker.always("submit", Raises(ConnectionError()))
    await world.bar(98)
    await world.crash()
    world.broker.trade_by_hand("AAPL", "sell", 3)
    world.broker.always("submit", None)
    world.broker.always("positions", answer)
    await world.start()
    await world.passes(120)
    assert world.orders == []
    world.broker.always("positions", None)
    await world.passes(120)
    assert world.orders == []
    await world.finish()


async def test_given_a_first_send_and_a_broker_that_does_not_say_what_is_held_then_it_leaves_all_the_same(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    world.broker.always("positions", Raises(ConnectionError()))
    await world.bar(98)
    assert world.orders == []
    await world.until(lambda: len(world.orders) == 1, seconds=3)
    world.broker.always("positions", None)
    await world.fill()
    await world.until(lambda: world.state == "filled")
    await world.finish()


async def test_given_a_lost_store_and_an_exit_that_filled_meanwhile_then_it_is_not_called_refused(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    sent = client_order_id(world.position.position_id, 1)
    await world.crash()
    world.store_path.unlink()
    Path(f"{world.store_path}-wal").unlink(missing_ok=True)
    world.broker.answer("order", Raises(ConnectionError()))  # the new life cannot find out about the order
    await world.start()
    assert client_order_id(world.position.position_id, 1) == sent
    world.broker.take(
        Order(client_order_id=sent, symbol="AAPL", side=OrderSide.SELL, qty=Decimal(3), position_side=Side.LONG)
    )
    world.broker.fill(sent)
    world.broker.lose_updates()
    await world.bar(98)
    await world.until(lambda: world.state == "filled", seconds=60)
    assert [order.client_order_id for order in world.orders] == [sent]
    await world.finish()


async def test_given_a_read_that_fails_when_nobody_waits_for_it_any_more_then_that_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exitfsm.books.LOOK_MAX_S", 0.01)
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(3)
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    late, truth = asyncio.Event(), world.broker.positions

    async def fails_late() -> Any:
        world.broker.positions = truth  # type: ignore[method-assign]
        await late.wait()
        raise ConnectionError

    world.broker.positions = fails_late  # type: ignore[method-assign]
    await world.bar(98)
    for _ in range(5):
        await asyncio.sleep(0.05)
        await world.passes(1)
    await world.really(lambda: world.orders)  # the exit did not wait for it
    late.set()
    await world.settle()
    gc.collect()
    assert heard == []
    await world.fill()
    await world.until(lambda: world.state == "filled")
    await world.finish()


async def test_the_next_attempt_of_another_machine_is_taken_over(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    world.broker.reject(world.last_order, "not_tradable")
    await world.deliver()
    theirs = replace(world.last_order, client_order_id=client_order_id(world.position.position_id, 2))
    await world.passes(20)
    world.broker.take(theirs)
    world.broker.fill(theirs, 4)
    world.broker.lose_updates()
    await world.until(lambda: world.state is State.PARTIAL, 60)
    assert (world.position.attempt, world.position.remaining_qty, world.position.sold_elsewhere) == (2, 6, 0)
    assert len(world.orders) == 2
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    assert "protection_lost" not in world.alarm_kinds
    await world.finish()


async def test_the_next_attempt_of_another_machine_that_is_too_large_is_canceled(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    world.broker.reject(world.last_order, "not_tradable")
    await world.deliver()
    order_id = client_order_id(world.position.position_id, 2)
    world.broker.trade_by_hand("AAPL", "buy", 5, 99)
    world.broker.take(replace(world.last_order, client_order_id=order_id, qty=Decimal(15)))
    world.broker.lose_updates()
    await world.until(lambda: world.state is State.UNPROTECTED, 60)
    await world.until(lambda: not world.position.live_orders, 60)
    assert world.broker.working() == []
    assert "protection_lost" in world.alarm_kinds
    await world.finish()
