"""A refusal that was said of another copy of a request does not mean that the order is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import GOOD, World
from msgspec.structs import replace

from exitfsm import Order, OrderRefused, State
from exitfsm.position import order_of
from exitfsm.testing import LostReply, Raises, Returns, ScriptedBroker
from exitfsm.values import OrderStatus, refused_report

HELD = OrderRefused("insufficient_qty", "the first copy holds it")


async def test_a_refusal_of_a_request_that_was_repeated_on_the_way_is_checked_by_the_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", LostReply(HELD))  # the first copy was taken, the second one is answered
    await world.bar("98.9")
    assert world.state is State.SUBMITTED
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_refusal_is_no_end_of_an_order_that_the_broker_has_told_of(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    await world.fill(4)
    assert world.state is State.PARTIAL
    await world.manager.on_order_update(refused_report(world.last_order.client_order_id, HELD, world.clock.now()))
    await world.settle()
    assert world.state is State.PARTIAL
    await world.fill(6)
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_real_refusal_still_ends_the_attempt(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("not_tradable")))
    await world.bar("98.9")
    assert world.state is State.REJECTED
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_refusal_of_a_second_send_is_checked_by_the_record(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(ConnectionError()), LostReply(HELD))
    await world.bar("98.9")
    await world.until(lambda: world.state is State.SUBMITTED, 60)
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_refusal_counts_only_once_the_record_could_be_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", LostReply(OrderRefused("not_tradable", "said of a copy")))
    world.broker.answer("order", Raises(ConnectionError()), times=2)
    await world.bar("98.9")
    assert world.state is State.PENDING
    await world.until(lambda: world.state is State.SUBMITTED, 60)
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


NAMED = OrderRefused("insufficient_qty", "insufficient qty available {'related_orders': ['venue-77', 'venue-78']}")


async def test_a_refusal_that_names_an_order_which_nobody_knows_may_mean_the_first_copy(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", LostReply(NAMED))  # the first copy was taken, and the records are behind
    world.broker.answer("order", Returns(None), times=3)
    world.broker.lose_updates()
    await world.bar("98.9")
    assert world.state is State.PENDING
    await world.until(lambda: world.state is State.SUBMITTED, 60)
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_refusal_that_names_a_known_order_of_others_counts_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.place("AAPL", "sell", 2, client_order_id="web-1")
    await world.manager.sync()
    own = world.broker.booked("web-1")
    assert own is not None
    world.broker.answer("submit", Raises(OrderRefused("no", f"related_orders: [{own.broker_order_id}]")))
    await world.bar("98.9")
    assert world.state is State.REJECTED


async def test_a_refusal_that_names_unknown_orders_counts_in_the_end(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.always("submit", Raises(NAMED))
    await world.bar("98.9")
    await world.passes(90)
    assert world.state is State.PENDING
    await world.until(lambda: world.state is State.REJECTED, 60)


class OwnIds:
    """The broker, for a bot whose methods name an order by the broker's own id."""

    order = cancel = None

    def __init__(self, broker: ScriptedBroker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def _ours(self, order_id: str) -> str | None:
        return next((b.order.client_order_id for b in self._broker.working() if b.broker_order_id == order_id), None)

    async def get_order(self, order_id: str) -> Any:
        """One that works; of those that are over it tells nothing."""
        ours = self._ours(order_id)
        return await self._broker.order(ours) if ours else None

    async def cancel_order(self, order_id: str) -> Any:
        """Ask for the cancel."""
        ours = self._ours(order_id)
        if ours is None:
            raise OrderRefused("not_cancelable", f"order {order_id} cannot be canceled")
        return await self._broker.cancel(ours)


async def an_earlier_one_works_after_all(path: Path, *, own_ids: bool = False) -> tuple[World, Order]:
    """The first order was refused and the second rejected; then a copy of the first arrives and is taken."""
    world = World(path)
    if own_ids:
        world.seen_by_manager = OwnIds(world.broker)
        world.manager = world._new_manager()
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("not_tradable")))
    await world.bar("98.9")
    first = order_of(world.position)
    await world.until(lambda: len(world.orders) == 1, 120)
    await world.deliver()
    world.broker.reject(world.last_order, "margin")
    await world.deliver()
    world.broker.cancels = "pending"
    world.broker.take(first)
    await world.deliver()
    await world.until(lambda: world.state is State.UNPROTECTED, 60)
    assert world.position.works_again == (first.client_order_id,)
    return world, first


async def test_an_earlier_order_that_works_after_all_is_canceled_and_nothing_is_sent_beside_it(tmp_path: Path) -> None:
    world, first = await an_earlier_one_works_after_all(tmp_path)
    await world.manager.force_exit("AAPL")
    await world.manager.release(world.position)
    await world.restart()
    await world.manager.force_exit("AAPL")
    await world.passes(120, step=5)
    assert (len(world.orders), world.state) == (2, State.UNPROTECTED)
    assert "not_done" in world.alarm_kinds
    world.broker.fill(first, 4)
    world.broker.end_cancel(first)
    await world.until(lambda: not world.position.live_orders, 120)
    await world.manager.force_exit("AAPL")
    await world.until(lambda: len(world.orders) == 3, 60)
    assert world.last_order.qty == 6
    await world.fill()
    await world.until(lambda: world.state is State.FILLED, 60)
    await world.finish()


async def test_an_earlier_order_that_works_after_all_is_given_up_on_an_operators_word(tmp_path: Path) -> None:
    world, first = await an_earlier_one_works_after_all(tmp_path)
    world.broker.always("order", Returns(None))
    await world.manager.release(world.position)
    assert (world.state, world.position.live_orders) == (State.MONITORING, ())
    world.broker.always("order", None)
    await world.manager.sync()
    await world.settle()
    assert world.position.live_orders == (first.client_order_id,)  # the operator was wrong, and it is not forgotten
    await world.finish()


def cancels_of(world: World, order: Order) -> int:
    """How often the cancel of an order was asked for."""
    return sum(call.method == "cancel" and call.args[0] == order.client_order_id for call in world.broker.calls)


async def test_an_earlier_order_that_works_after_all_is_canceled_by_the_brokers_own_id(tmp_path: Path) -> None:
    world, first = await an_earlier_one_works_after_all(tmp_path, own_ids=True)
    await world.restart()
    world.broker.cancels = "at_once"
    asked = cancels_of(world, first)
    await world.until(lambda: cancels_of(world, first) > asked, 60)
    await world.deliver()
    assert not world.position.live_orders
    await world.manager.force_exit("AAPL")
    await world.until(lambda: len(world.orders) == 3, 60)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED, 60)
    await world.finish()


@pytest.mark.parametrize("cancels", ["pending", "refused"])
async def test_neither_of_two_orders_that_work_waits_for_the_cancel_of_the_other(tmp_path: Path, cancels: str) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("not_tradable")))
    await world.bar("98.9")
    first = order_of(world.position)
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    second = world.last_order
    world.broker.cancels = cancels
    late = world.broker._book(first, ours=True)  # at once with the second: no rule of the books allows that
    world.broker._tell(late)
    await world.deliver()
    await world.passes(60)
    assert world.position.live_orders == (second.client_order_id, first.client_order_id)
    assert min(cancels_of(world, first), cancels_of(world, second)) > 0
    world.broker.fill(first, 1)
    world.broker.end_cancel(second)
    world.broker.end_cancel(first)
    await world.until(lambda: not world.position.live_orders, 120)
    await world.manager.release(world.position)
    assert (world.state, world.position.remaining_qty) == (State.MONITORING, 9)
    await world.finish()


async def test_how_much_an_earlier_order_that_worked_has_filled_is_looked_up_where_its_end_does_not_say(
    tmp_path: Path,
) -> None:
    world, first = await an_earlier_one_works_after_all(tmp_path)
    await world.restart()
    world.broker.fill(first, 4)
    world.broker.lose_updates()
    end = world.broker.end_cancel(first)
    world.broker.lose_updates()
    world.broker.always("positions", Raises(ConnectionError()))
    await world.manager.on_order_update(replace(end, filled_qty=None, avg_fill_price=None))
    await world.until(lambda: not world.position.live_orders, 10)
    assert world.position.remaining_qty == 6
    await world.finish()


async def test_a_fill_that_is_taken_back_while_an_earlier_order_works_is_stored(tmp_path: Path) -> None:
    world = World(tmp_path, capabilities=replace(GOOD, reduce_only=False))
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("not_tradable")))
    await world.bar("98.9")
    first = order_of(world.position)
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    second = world.last_order
    await world.fill()
    await world.until(lambda: world.state is State.FILLED, 60)
    world.broker.cancels = "pending"
    world.broker._tell(world.broker._book(first, ours=True))
    await world.deliver()
    assert world.position.live_orders == (first.client_order_id,)
    world.broker._find(second).status = OrderStatus.PARTIALLY_FILLED
    world.broker.bust(second, 3)
    await world.deliver()
    assert (world.position.remaining_qty, len(world.position.live_orders)) == (3, 2)
    world.broker.end_cancel(first)
    world.broker.end_cancel(second)
    await world.until(lambda: not world.position.live_orders, 120)
    await world.finish()


async def test_an_order_whose_record_never_says_how_much_it_filled_ends_on_an_operators_word(tmp_path: Path) -> None:
    world, first = await an_earlier_one_works_after_all(tmp_path)
    end = replace(world.broker.end_cancel(first), filled_qty=None)
    world.broker.lose_updates()
    told = world.broker.order

    async def order(client_order_id: str) -> Any:
        return end if client_order_id == first.client_order_id else await told(client_order_id)

    world.broker.order = order  # type: ignore[method-assign]  # its records leave the quantity out
    await world.passes(60)
    assert world.position.live_orders == (first.client_order_id,)
    await world.manager.release(world.position)
    assert (world.state, world.position.live_orders) == (State.MONITORING, ())
    await world.finish()


async def test_an_order_that_was_refused_is_looked_up_once_more_before_the_next_attempt(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("insufficient_qty")))
    await world.bar("98.9")
    assert world.state is State.REJECTED
    first = order_of(world.position)
    world.broker.take(first)
    world.broker.fill(first, 10)
    world.broker.lose_updates()
    world.broker.trade_by_hand("AAPL", "buy", 10, 99)  # so that what is held hides it
    await world.until(
        lambda: not any(p.order_live or p.state is State.REJECTED for p in world.manager.positions()), 120
    )
    await world.passes(60)
    assert world.orders == [first]
    assert world.broker.held("AAPL") == 10
    await world.finish()


async def test_a_repeat_refused_while_the_first_copy_may_be_on_its_way_concludes_nothing(tmp_path: Path) -> None:
    """The first copy holds the quantity that the second one is refused for; the look-up is behind."""
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", LostReply(ConnectionError()), Raises(HELD))
    world.broker.answer("order", Returns(None), times=3)
    await world.bar("98.9")
    await world.until(lambda: world.broker.count("submit") >= 2, 60)
    assert world.state is State.PENDING
    assert world.position.attempt == 1
    await world.until(lambda: world.state is State.SUBMITTED, 60)
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_after_the_longest_life_of_a_request_a_refused_repeat_is_a_refusal(tmp_path: Path) -> None:
    """The first copy never arrived: nothing stays pending for good."""
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(ConnectionError()))
    world.broker.answer("submit", Raises(OrderRefused("not_tradable", "the share is gone")), times=50)
    await world.bar("98.9")
    await world.until(lambda: world.broker.count("submit") >= 2, 60)
    assert world.state is State.PENDING
    await world.until(lambda: world.state is State.UNPROTECTED, 400)
    assert any("the share is gone" in alarm.text for alarm in world.manager.alarms())
    await world.finish()


async def test_a_refusal_that_passes_sends_the_same_order_again_and_its_alarm_ends_by_itself(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("market_halted", "paused")), times=6)
    await world.bar("98.9")
    assert world.state is State.PENDING
    assert world.alarm_kinds == ["exit_postponed"]
    await world.until(lambda: world.state is State.SUBMITTED, 400)
    assert world.broker.count("submit") == 7
    assert len(world.orders) == 1
    assert world.position.attempt == 1
    assert world.manager.alarms() == []
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_refusal_that_passes_of_a_repeat_proves_nothing_of_the_first_copy(tmp_path: Path) -> None:
    """It is looked up before it is sent once more, or two of them might live where ids are forgotten."""
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", LostReply(ConnectionError()), Raises(OrderRefused("market_halted", "paused")))
    world.broker.answer("order", Returns(None), times=3)
    await world.bar("98.9")
    await world.until(lambda: world.state is State.SUBMITTED, 120)
    assert len(world.orders) == 1
    await world.finish()
