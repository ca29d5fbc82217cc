"""Orders of others in a symbol that is exited, and orders of ours that should not work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness import GOOD, World
from msgspec.structs import replace

from exitfsm.lifecycle import State
from exitfsm.testing import ScriptedBroker
from exitfsm.testing.scripted import LostReply, Raises
from exitfsm.values import ExecutionReport, OrderSide, OrderStatus, WorkingOrder

BARE = replace(GOOD, reduce_only=False)


class Listing(ScriptedBroker):
    """A broker whose list of working orders shows what the test adds, and that cancels by its own ids, too."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.added: list[ExecutionReport] = []
        self.types: dict[str, dict[str, Any]] = {}
        self.canceled: list[tuple[str, str | None]] = []

    async def open_orders(self) -> Sequence[ExecutionReport]:
        found = [*await super().open_orders(), *self.added]
        said = [(r, self.types.get(r.client_order_id)) for r in found]
        fields = ExecutionReport.__struct_fields__
        return [WorkingOrder(**{n: getattr(r, n) for n in fields} | of) if of else r for r, of in said]

    async def cancel(
        self, client_order_id: str, *, symbol: str | None = None, broker_order_id: str | None = None
    ) -> None:
        self.canceled.append((client_order_id, broker_order_id))
        if broker_order_id is None:
            await super().cancel(client_order_id)
        self.added = [r for r in self.added if r.broker_order_id != broker_order_id]


async def a_world(path: Path, config: dict[str, Any] | None = None, capabilities: Any = BARE) -> tuple[World, Listing]:
    world = World(path, config, capabilities=capabilities)
    broker = Listing(world.clock, capabilities)
    world.broker = world.seen_by_manager = broker
    world.manager = world._new_manager()
    await world.start()
    await world.enter(10, at=100)
    return world, broker


# --- a protective order that is not ours ------------------------------------------------------------------------------


async def test_a_stop_of_others_is_waited_for_until_it_has_gone_and_then_the_exit_leaves(tmp_path: Path) -> None:
    world, broker = await a_world(tmp_path)
    theirs = broker.place("AAPL", "sell", 10, client_order_id="web-1", tell=False)
    broker.types["web-1"] = {"order_type": "stop", "stop_price": Decimal(98)}
    await world.bar("98.9")
    await world.passes(100, step=5)
    assert world.orders == []
    assert world.alarm_kinds == ["foreign_order"]
    await world.passes(60, step=5)
    assert world.orders == []
    (blocked,) = [alarm for alarm in world.alarms if alarm.kind == "blocked_by_order"]
    assert "stop web-1 for 10 at 98" in blocked.text
    assert "decided at 98.9" in blocked.text
    broker.end_cancel(theirs)
    await world.until(lambda: world.orders, seconds=60)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    assert broker.held("AAPL") == 0
    await world.finish()


async def test_a_stop_of_others_that_fills_ends_the_position_and_nothing_is_sold_twice(tmp_path: Path) -> None:
    world, broker = await a_world(tmp_path)
    theirs = broker.place("AAPL", "sell", 10, client_order_id="web-1", tell=False)
    await world.bar("98.9")
    await world.passes(10)
    broker.fill(theirs, 10, 98)
    await world.until(world.ended, seconds=120)
    assert world.orders == []
    assert broker.held("AAPL") == 0
    await world.finish()


@pytest.mark.parametrize("side", ["long", "short"])
async def test_where_it_is_set_a_closing_order_of_others_is_canceled_for_the_exit(tmp_path: Path, side: str) -> None:
    world = World(tmp_path, {"live": {"foreign_exits": "cancel"}}, capabilities=BARE)
    await world.start()
    await world.enter(10, at=100, side=side)
    world.broker.place("AAPL", "sell" if side == "long" else "buy", 10, client_order_id="web-1", tell=False)
    await world.bar("98.9" if side == "long" else "101.1")
    await world.until(lambda: world.orders, seconds=30)
    assert world.broker.booked("web-1").status is OrderStatus.CANCELED  # type: ignore[union-attr]  # it is there
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_closing_order_for_what_is_held_beside_ours_is_in_nobodys_way(tmp_path: Path) -> None:
    world, broker = await a_world(tmp_path)
    broker.place("AAPL", "buy", 3, client_order_id="web-1", tell=False)  # an entry: it closes nothing
    await world.bar("98.9")
    await world.until(lambda: world.orders, seconds=10)
    assert world.alarm_kinds == ["foreign_order"]
    await world.fill()
    await world.finish()


async def test_a_limit_of_others_is_an_alarm_when_the_position_is_adopted(tmp_path: Path) -> None:
    world = World(tmp_path, capabilities=BARE)
    broker = Listing(world.clock, BARE)
    world.broker = world.seen_by_manager = broker
    world.manager = world._new_manager()
    broker.enter("AAPL", "long", 10, 100)
    broker.place("AAPL", "sell", 10, client_order_id="web-1", tell=False)
    broker.types["web-1"] = {"order_type": "limit", "limit_price": Decimal(130)}
    await world.start()
    await world.passes(3)
    (blocked,) = [alarm for alarm in world.alarms if alarm.kind == "blocked_by_order"]
    assert "limit web-1 for 10 at 130" in blocked.text
    await world.finish()


@pytest.mark.parametrize("guard", ["reduce_only", "reserves"])
async def test_where_the_venue_guards_ours_is_sent_beside_it(tmp_path: Path, guard: str) -> None:
    world, broker = await a_world(tmp_path, capabilities=replace(BARE, **{guard: True}))
    broker.types["web-1"] = {"order_type": "limit", "limit_price": Decimal(130)}
    broker.place("AAPL", "sell", 4, client_order_id="web-1", tell=False)
    await world.bar("98.9")
    await world.until(lambda: broker.count("submit"), seconds=20)
    assert "blocked_by_order" not in world.alarm_kinds
    await world.stop()


async def test_what_of_others_works_is_asked_when_the_exit_is_due_and_not_taken_from_the_last_list(
    tmp_path: Path,
) -> None:
    world, broker = await a_world(tmp_path)
    theirs = broker.place("AAPL", "sell", 10, client_order_id="web-1")
    await world.deliver()  # it was told of, and has gone since
    broker.end_cancel(theirs)
    broker.lose_updates()
    await world.bar("98.9")
    await world.until(lambda: world.orders, seconds=10)
    assert world.alarm_kinds == []
    await world.fill()
    await world.finish()


# --- what should not work ---------------------------------------------------------------------------------------------


async def test_a_second_order_of_one_id_is_an_alarm_and_canceled_by_the_brokers_own_id_alone(tmp_path: Path) -> None:
    world, broker = await a_world(tmp_path)
    await world.bar("98.9")
    (ours,) = await ScriptedBroker.open_orders(broker)
    broker.added = [replace(ours, broker_order_id="another")]
    await world.passes(70, step=5)
    (alarm,) = [alarm for alarm in world.alarms if alarm.kind == "twin_orders"]
    assert "order another is canceled" in alarm.text
    assert broker.canceled == [(ours.client_order_id, "another")]
    assert world.state is State.SUBMITTED
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


@pytest.mark.parametrize("later_s", [-5, 0, 5])
async def test_which_of_two_orders_is_ours_is_learned_by_a_look_up_and_never_from_the_list_that_shows_both(
    tmp_path: Path, later_s: float
) -> None:
    """The answer to the submit is lost, and no order can be looked up, while the list shows two of its id.

    Taken from the list, the other one would be called ours, and ours canceled: its end by the record would let the next
    attempt leave beside the one that works.
    """
    world, broker = await a_world(tmp_path)
    broker.answer("submit", LostReply())
    broker.always("order", Raises(TimeoutError("no answer")))
    await world.bar("98.9")
    await world.until(lambda: broker.count("order"))
    (ours,) = await ScriptedBroker.open_orders(broker)
    assert ours.broker_order_id is not None
    assert ours.broker_order_id > "another"
    broker.added = [replace(ours, broker_order_id="another", at=ours.at + timedelta(seconds=later_s))]
    await world.passes(70, step=5)
    assert [alarm.text for alarm in world.alarms if alarm.kind == "twin_orders"] == [
        f"order {ours.client_order_id} of AAPL works twice at the broker: which one is ours is not known yet"
    ]
    assert broker.canceled == []
    broker.always("order", None)
    await world.passes(140, step=5)
    assert broker.canceled == [(ours.client_order_id, "another")]
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    assert len(world.orders) == 1
    await world.finish()


async def test_an_exit_that_works_after_its_position_has_ended_is_an_alarm_and_canceled(tmp_path: Path) -> None:
    world, broker = await a_world(tmp_path)
    await world.bar("98.9")
    (ours,) = await ScriptedBroker.open_orders(broker)
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    broker.added = [replace(ours, broker_order_id="another")]
    broker.always("order", None)
    world_order = broker.order

    async def works(client_order_id: str) -> Any:
        return replace(ours, broker_order_id="another") if broker.added else await world_order(client_order_id)

    broker.order = works  # type: ignore[method-assign]  # its record shows the one that works
    await world.passes(130, step=5)
    (alarm,) = [alarm for alarm in world.alarms if alarm.kind == "exit_works_on"]
    assert "order another is canceled" in alarm.text
    assert broker.canceled == [(ours.client_order_id, "another")]
    await world.stop()


async def test_a_broker_that_takes_our_id_alone_is_never_asked_to_cancel_one_of_two(tmp_path: Path) -> None:
    world = World(tmp_path, capabilities=BARE)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    (ours,) = await world.broker.open_orders()
    listed = world.broker.open_orders

    async def twice() -> Sequence[ExecutionReport]:
        return [*await listed(), replace(ours, broker_order_id="another")]

    world.broker.open_orders = twice  # type: ignore[method-assign]
    await world.passes(70, step=5)
    (alarm,) = [alarm for alarm in world.alarms if alarm.kind == "twin_orders"]
    assert "cancel order another there by hand" in alarm.text
    assert world.broker.count("cancel") == 0
    await world.fill()
    await world.finish()
    assert ours.side is OrderSide.SELL
