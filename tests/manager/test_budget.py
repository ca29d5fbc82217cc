"""Who goes first where more is to be sent than fits into a minute: whoever loses most, in whatever order they ask."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime
from typing import Any

import pytest
from harness import T0, MakeWorld, World
from hypothesis import given
from hypothesis import strategies as st

from exitfsm import NotSent
from exitfsm.aio.budget import KEPT_S, SPAN_S, RateBudget, Turns
from exitfsm.manager import ManualClock
from exitfsm.ports import Session
from exitfsm.testing import Raises
from exitfsm.values import Order

LOSS = {"A": 3, "B": 9, "C": 1, "D": 7, "E": 5, "F": 2}


class Desk:
    """A budget, and who got a place when."""

    def __init__(self, per_minute: int, returns: dict[str, float]) -> None:
        self.clock = ManualClock(T0)
        self.returns = returns
        self.budget = RateBudget(self.clock, per_minute, lambda name: self.returns[name])
        self.went: list[str] = []
        self.at: list[float] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def asks(self, name: str) -> None:
        self.tasks[name] = asyncio.create_task(self._ask(name))

    async def _ask(self, name: str) -> None:
        await self.budget.spend(name)
        self.went.append(name)
        self.at.append(self.clock.monotonic())

    async def rest(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def passes(self, seconds: float) -> None:
        self.clock.move(seconds)
        await self.rest()

    async def over(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await self.budget.close()


def on_one_loop(test: Any) -> None:
    """Hypothesis runs plain functions."""
    asyncio.run(asyncio.wait_for(test, 10))


async def test_while_there_are_places_a_send_does_not_even_give_up_its_turn() -> None:
    desk = Desk(3, {"A": -1, "B": -2, "C": -3})
    for name in "ABC":
        desk.budget.announce(name)
    for name in "ABC":
        with pytest.raises(StopIteration):
            desk.budget.spend(name).send(None)


def orders() -> st.SearchStrategy[list[str]]:
    return st.permutations("ABCDEF")


@given(orders(), orders(), st.integers(1, 5))
def test_in_whatever_order_they_are_announced_and_ask_then_the_worst_go_first(
    announced: list[str], asking: list[str], places: int
) -> None:
    async def told() -> None:
        desk = Desk(places, {name: -lost for name, lost in LOSS.items()})
        for name in announced:
            desk.budget.announce(name)
        for name in asking:
            desk.asks(name)
            await desk.rest()
        worst_first = sorted(LOSS, key=lambda name: -LOSS[name])
        assert sorted(desk.went) == sorted(worst_first[:places])
        while len(desk.went) < len(LOSS):
            await desk.passes(SPAN_S)
        for first in range(0, len(LOSS), places):
            assert sorted(desk.went[first : first + places]) == sorted(worst_first[first : first + places])
        await desk.over()

    on_one_loop(told())


@given(
    st.lists(st.sampled_from(["announce", "ask", "withdraw", "cancel", "second", "half a minute"]), max_size=60),
    st.data(),
)
def test_whatever_happens_no_minute_sees_too_many_and_nobody_waits_for_ever(
    what: list[str], data: st.DataObject
) -> None:
    async def told() -> None:
        desk = Desk(2, {name: -lost for name, lost in LOSS.items()})
        for step in what:
            name = data.draw(st.sampled_from("ABCDEF"))
            busy = name in desk.tasks and not desk.tasks[name].done()
            if step == "announce" and not busy:
                desk.budget.announce(name)
            elif step == "ask" and not busy:
                desk.asks(name)
            elif step == "withdraw" and not busy:
                desk.budget.withdraw(name)
            elif step == "cancel" and busy:
                desk.tasks[name].cancel()
            elif step in ("second", "half a minute"):
                await desk.passes(1 if step == "second" else 30)
            await desk.rest()
        waiting = [task for task in desk.tasks.values() if not task.done()]
        await desk.passes(KEPT_S)
        for _ in range(len(waiting)):
            await desk.passes(SPAN_S)
        assert all(task.done() for task in waiting)
        for earlier, later in zip(desk.at, desk.at[2:], strict=False):
            assert later - earlier >= SPAN_S
        await desk.over()

    on_one_loop(told())


async def test_a_place_is_kept_for_a_worse_one_on_its_way_but_not_for_long() -> None:
    desk = Desk(1, {"A": -1, "B": -9})
    desk.budget.announce("A")
    desk.budget.announce("B")
    desk.asks("A")
    await desk.passes(KEPT_S - 0.1)
    assert desk.went == []
    await desk.passes(0.1)
    assert desk.went == ["A"]
    await desk.over()


async def test_one_that_does_not_come_to_send_makes_way_at_once() -> None:
    desk = Desk(1, {"A": -1, "B": -9})
    desk.budget.announce("A")
    desk.budget.announce("B")
    desk.asks("A")
    await desk.rest()
    desk.budget.withdraw("B")
    await desk.rest()
    assert desk.went == ["A"]
    await desk.over()


async def test_who_loses_most_when_the_place_is_free_goes_first_not_who_did_when_it_asked() -> None:
    desk = Desk(1, {"A": -1, "B": -2, "C": -3})
    for name in "CBA":
        desk.asks(name)
        await desk.rest()
    assert desk.went == ["C"]
    desk.returns["A"] = -8
    await desk.passes(SPAN_S)
    assert desk.went == ["C", "A"]
    await desk.over()


# --- in the manager ---------------------------------------------------------------------------------------------------


class Gates:
    """A broker whose answers about the market's hours come when they are let through, symbol by symbol."""

    def __init__(self, world: World) -> None:
        self._open = {symbol: asyncio.Event() for symbol in LOSS}
        self._answer = world.broker.session
        world.broker.session = self.session  # type: ignore[method-assign]

    async def session(self, symbol: str, at: datetime) -> Session:
        await self._open[symbol].wait()
        return await self._answer(symbol, at)

    def let_through(self, symbol: str) -> None:
        self._open[symbol].set()


ANSWERING = [list("CFAEDB"), list("BDEAFC"), list("CBADFE"), list("FEDCBA")]


@pytest.mark.parametrize("answering", ANSWERING, ids="".join)
async def test_given_more_breaches_than_places_then_the_worst_leave_in_whatever_order_the_broker_answers(
    make_world: MakeWorld, answering: list[str]
) -> None:
    world = await make_world({"live": {"orders_per_minute": 3}})
    for symbol in LOSS:
        await world.enter(10, 100, symbol=symbol)
    await world.passes(40, 40)  # the hours that were read are old
    gates = Gates(world)
    bars = [world.make_bar(100 - lost - 1, symbol) for symbol, lost in LOSS.items()]
    told = asyncio.create_task(world.manager.on_bars(bars))
    await world.settle()
    for symbol in answering:
        gates.let_through(symbol)
        await world.settle()
    await told
    assert sorted(o.symbol for o in world.orders) == ["B", "D", "E"]
    await world.passes(61)
    assert sorted(o.symbol for o in world.orders[3:]) == ["A", "C", "F"]


async def test_given_a_worse_one_whose_answer_hangs_then_the_others_wait_for_it_no_longer_than_said(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"orders_per_minute": 1}})
    for symbol in "AB":
        await world.enter(10, 100, symbol=symbol)
    await world.passes(1)
    await world.passes(40, 40)
    gates = Gates(world)
    told = asyncio.create_task(world.manager.on_bars([world.make_bar(96, "A"), world.make_bar(90, "B")]))
    await world.settle()
    gates.let_through("A")
    await world.settle()
    assert _symbols(world.orders) == []
    await world.passes(KEPT_S, KEPT_S)
    assert _symbols(world.orders) == ["A"]
    gates.let_through("B")
    await told
    await world.passes(61)
    assert _symbols(world.orders) == ["A", "B"]


@pytest.mark.parametrize("entered", list(itertools.permutations("ABC")), ids="".join)
async def test_given_sends_that_did_not_get_through_then_the_worst_is_repeated_first_whatever_is_older(
    make_world: MakeWorld, entered: tuple[str, ...]
) -> None:
    world = await make_world({"live": {"orders_per_minute": 4}})
    world.broker.answer("submit", *[Raises(NotSent("no line"))] * 3)
    for symbol in entered:
        await world.enter(10, 100, symbol=symbol)
        await world.passes(1)
    bars = [world.make_bar(100 - LOSS[symbol] - 1, symbol) for symbol in entered]
    await world.manager.on_bars(bars)
    await world.settle()
    assert _symbols(world.orders) == []
    await world.passes(3)
    assert _symbols(world.orders) == ["B"]
    await world.until(lambda: len(world.orders) == 3, seconds=90)
    # Three places become free at once: both may leave, and which does first is a matter of what is read for them then.
    assert sorted(_symbols(world.orders[1:])) == ["A", "C"]


def _symbols(orders: list[Order]) -> list[str]:
    return [order.symbol for order in orders]


async def test_given_a_place_that_was_not_used_when_it_is_given_back_then_the_worst_of_those_that_wait_has_it() -> None:
    desk = Desk(1, {"A": -1, "B": -2, "C": -3})
    place = await desk.budget.spend("A")
    for name in "BC":
        desk.asks(name)
    await desk.rest()
    assert desk.went == []
    desk.budget.give_back(place)
    await desk.rest()
    assert (desk.went, desk.at) == (["C"], [0])
    await desk.passes(SPAN_S)
    assert "B" in desk.went
    await desk.over()


@pytest.mark.parametrize(("busy", "is_urgent", "read_at"), [(19, False, 0.3), (20, True, 0.3), (20, False, 1.0)])
async def test_what_is_not_urgent_is_read_together_where_many_are_busy(
    busy: int, is_urgent: bool, read_at: float
) -> None:
    clock = ManualClock(T0)
    turns = Turns(clock, 10, lambda name: 0.0, lambda kind, text: None)
    clock.move(0.3)
    reads: list[float] = []

    async def read() -> None:
        await turns.gather("A", busy, is_urgent=is_urgent)
        reads.append(clock.monotonic())

    task = asyncio.create_task(read())
    for step in (0.0, 0.4, 0.3):
        clock.move(step)
        for _ in range(5):
            await asyncio.sleep(0)
    await task
    assert reads == [pytest.approx(read_at)]
    await turns.close()
