"""How often the broker is asked, counted in virtual time; and that one thing that cannot be read hides no other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from harness import T0, MakeWorld, World

from exitfsm.errors import BrokerError, NotSent, RateLimited
from exitfsm.holdings import Read
from exitfsm.memory.seen import Seen
from exitfsm.ports import EXIT_WAITS, Capabilities
from exitfsm.testing import Raises, Returns
from exitfsm.testing.scripted import ScriptedBroker
from exitfsm.values import BrokerPosition, Side

NAMES = [f"S{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(60)]


def list_ids(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The broker lists the ids of all orders, too; returns since when it was asked to."""
    asked: list[datetime] = []

    async def order_ids(since: datetime) -> Sequence[str]:
        asked.append(since)
        return broker.ids()

    monkeypatch.setattr(broker, "order_ids", order_ids, raising=False)
    return asked


async def test_given_many_positions_and_a_new_store_then_one_list_answers_for_all(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(started=False)
    for symbol in NAMES:
        world.broker.enter(symbol, "long", 10, 100)
    lists = list_ids(world.broker, monkeypatch)
    await world.start()
    assert len(world.manager.positions()) == len(NAMES)
    assert world.broker.count("order") == 0
    assert len(lists) == 1


async def test_given_a_list_that_fails_then_each_is_looked_up_as_before(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(started=False)
    for symbol in NAMES:
        world.broker.enter(symbol, "long", 10, 100)

    async def order_ids(since: datetime) -> Sequence[str]:
        raise BrokerError("HTTP 500")

    monkeypatch.setattr(world.broker, "order_ids", order_ids, raising=False)
    await world.start()
    assert len(world.manager.positions()) == len(NAMES)
    assert world.broker.count("order") >= len(NAMES)


async def test_given_an_exit_that_a_lost_store_sent_then_the_list_leads_to_its_record(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its quantity is the position's again, and no second order of its number leaves."""
    world = await make_world(started=False)
    for symbol in NAMES[:5]:
        world.broker.enter(symbol, "long", 10, 100)
    list_ids(world.broker, monkeypatch)
    await world.start()
    await world.bar(90, symbol=NAMES[2])
    (order,) = world.orders
    await world.fill(4)
    await world.stop()
    world.store_path.unlink()
    await world.start()
    (found,) = [p for p in world.manager.positions() if p.symbol == NAMES[2]]
    assert (found.qty, found.sold_qty, found.client_order_id) == (10, 4, order.client_order_id)
    world.broker.fill(order, 6)
    await world.deliver()
    await world.until(lambda: len(world.ended()) == 1)
    assert len(world.orders) == 1


async def test_given_many_exits_under_way_then_the_list_tells_of_them_and_few_are_looked_up(world: World) -> None:
    for symbol in NAMES[:20]:
        await world.enter(10, 100, symbol=symbol)
    await world.passes(2)
    await world.manager.on_bars([world.make_bar(90, symbol) for symbol in NAMES[:20]])
    await world.settle()
    assert len(world.orders) == 20
    before = world.broker.count("order")
    await world.passes(60)
    assert world.broker.count("order") - before <= 5
    assert world.broker.count("open_orders") >= 10  # each five seconds, one for all


async def test_given_an_update_that_was_lost_among_many_then_its_order_is_looked_up(world: World) -> None:
    for symbol in NAMES[:20]:
        await world.enter(10, 100, symbol=symbol)
    await world.passes(2)
    await world.manager.on_bars([world.make_bar(90, symbol) for symbol in NAMES[:20]])
    await world.settle()
    world.broker.fill(world.orders[7], 10, 90)
    world.broker.lose_updates()
    await world.until(lambda: len(world.ended()) == 1, seconds=30)


async def test_what_an_exit_waits_for_is_marked_and_nothing_else_is(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked: list[tuple[str, bool]] = []
    real = world.broker._asked

    async def asked(method: str, *args: Any) -> Any:
        marked.append((method, EXIT_WAITS.get()))
        return await real(method, *args)

    monkeypatch.setattr(world.broker, "_asked", asked)
    await world.manager.sync()
    await world.passes(20)
    assert {waits for _, waits in marked} == {False}
    marked.clear()
    await world.bar(90)
    assert ("submit", True) in marked
    marked.clear()
    await world.fill()
    await world.until(world.ended)
    assert {waits for _, waits in marked} == {False}  # nothing is left to sell


async def test_given_more_exits_than_may_leave_then_a_person_hears_how_many_wait_and_for_how_long(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"orders_per_minute": 10}})
    for symbol in NAMES[:25]:
        await world.enter(10, 100, symbol=symbol)
    await world.passes(2)
    await world.manager.on_bars([world.make_bar(90, symbol) for symbol in NAMES[:25]])
    await world.passes(2)
    assert len(world.orders) == 10
    (alarm,) = world.manager.alarms()
    assert alarm.kind == "exits_wait"
    assert alarm.text.startswith("15 exits wait 119 s: at most 10 orders")
    await world.passes(120)
    assert len(world.orders) == 25
    assert "exits_wait" not in world.alarm_kinds  # none waits any more
    told = [(alarm.kind, alarm.text) for alarm in world.alarms if alarm.kind == "exits_wait"]
    assert len(told) == 1  # of all that waited together


async def test_given_requests_that_were_one_too_many_then_the_broker_does_not_count_as_failing(world: World) -> None:
    world.broker.answer("submit", *[Raises(RateLimited("used up", 1.0))] * 8)
    await world.bar(90)
    await world.until(lambda: world.orders, seconds=200)
    assert "BreakerOpened" not in world.names()
    world.broker.answer("submit", *[Raises(NotSent("no connection"))] * 8)
    await world.enter(10, 100, symbol="MSFT")
    await world.bar(90, symbol="MSFT")
    await world.passes(120)
    assert "BreakerOpened" in world.names()


async def test_given_an_entry_that_nobody_announced_then_it_is_watched_within_15_seconds(world: World) -> None:
    await world.passes(3)
    world.broker.enter("MSFT", "long", 10, 100)
    world.broker.lose_updates()
    await world.passes(15)
    assert "MSFT" in [p.symbol for p in world.manager.positions()]


@pytest.mark.parametrize("field", ["qty", "filled_qty"])
async def test_given_a_working_order_that_cannot_be_read_then_the_others_are_and_it_is_said_once(
    world: World, field: str
) -> None:
    await world.bar(90)
    (order,) = world.orders
    odd = {"client_order_id": "bot-1", "symbol": "AAPL", "side": "sell", "status": "new", "qty": "1", field: "?!"}
    shown = [odd, {"client_order_id": order.client_order_id, "symbol": "AAPL", "status": "new", "filled_qty": "3"}]
    world.broker.always("open_orders", Returns(shown))
    await world.manager.sync()
    assert world.position.sold_qty == 3
    await world.passes(40)
    alarms = [alarm.text for alarm in world.manager.alarms() if alarm.kind == "answer_unreadable"]
    assert len(alarms) == 1
    assert "'?!', which is not a number" in alarms[0]


async def test_given_an_execution_that_cannot_be_read_then_those_of_other_symbols_are(world: World) -> None:
    await world.enter(10, 100, symbol="MSFT")
    truth = list(world.broker.executions)
    odd = {"symbol": "AAPL", "side": "sell", "qty": "?!", "price": "100", "id": "1", "time": "2024-01-02T15:00:00Z"}
    world.broker.always("fills", Returns([odd, *truth]))
    calls, since = world.manager._parts.context.calls, T0
    assert "MSFT" in [fill.symbol for fill in await calls.fills(since, "MSFT")]
    with pytest.raises(BrokerError, match="of AAPL cannot be read"):
        await calls.fills(since, "AAPL")
    await world.settle()
    (alarm,) = world.manager.alarms()
    assert alarm.kind == "answer_unreadable"
    assert "an execution of AAPL cannot be read: fill_qty is '?!', which is not a number" in alarm.text


async def test_what_troubles_the_broker_is_said_when_it_begins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the keys are refused"]
    monkeypatch.setattr(world.broker, "troubles", lambda: list(texts), raising=False)
    await world.restart()
    await world.passes(60)
    assert [a.text for a in world.manager.alarms() if a.kind == "broker_trouble"] == texts
    world.manager.acknowledge(world.manager.alarms()[0])
    await world.passes(60)
    assert world.manager.alarms() == []
    texts.clear()
    await world.passes(30)
    texts.append("the keys are refused")
    await world.passes(30)
    assert [a.kind for a in world.manager.alarms()] == ["broker_trouble"]


# --- what was last seen of the account --------------------------------------------------------------------------------


def row(symbol: str) -> BrokerPosition:
    return BrokerPosition(symbol=symbol, side=Side.LONG, qty=Decimal(1), avg_entry_price=Decimal(1))


def test_a_symbol_may_be_held_unless_the_newest_read_shows_that_it_is_not() -> None:
    seen = Seen(13)
    assert seen.may_hold("AAPL")
    seen.noted(Read(rows=(row("AAPL"),), began=1.0))
    assert (seen.may_hold("AAPL"), seen.may_hold("MSFT")) == (True, False)
    seen.noted(Read(rows=(), began=0.5))  # an older one says nothing
    assert seen.may_hold("AAPL")
    seen.noted(Read(rows=(), began=2.0))
    assert not seen.may_hold("AAPL")
    seen.noted(Read(rows=(), began=3.0, unreadable=frozenset({""})))
    assert seen.may_hold("AAPL")


def test_what_nobody_watches_is_told_once_for_each_read() -> None:
    seen = Seen(13)
    seen.noted(Read(rows=(row("AAPL"), row("MSFT")), began=1.0))
    assert [one.symbol for one in seen.unwatched({"AAPL"}, Capabilities().rules)] == ["MSFT"]
    assert seen.unwatched({"AAPL"}, Capabilities().rules) == []
    seen.noted(Read(rows=(row("MSFT"),), began=2.0))
    assert [one.symbol for one in seen.unwatched({"AAPL"}, Capabilities().rules)] == ["MSFT"]


def test_the_account_is_looked_at_now_and_then() -> None:
    seen = Seen(13)
    assert [at for at in range(40) if seen.is_due(float(at))] == [13, 26, 39]
