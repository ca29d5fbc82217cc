"""Everything that can happen to a manager on your adapter, in any order: a state machine for hypothesis.

    class MyMachine(ManagerMachine):
        def adapter(self, venue): return MyBroker(venue)

    TestMyMachine = MyMachine.TestCase

The venue is a `ScriptedBroker`: its books are the model, and say at each step what may never happen. Time is the
machine's: nothing waits, and a run of hundreds of steps takes a moment. Each example has a store of its own.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from exitfsm.lifecycle import State
from exitfsm.manager import ExitManager, ManualClock
from exitfsm.testing.books import Booked
from exitfsm.testing.scripted import Answer, ScriptedBroker
from exitfsm.testing.strategies import faults
from exitfsm.values import Bar

_SYMBOL = "AAPL"
_START = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)
_CENT = Decimal("0.01")
#: Seconds of calm at the end, in which everything must come to rest, and how they are cut.
_CALM_S, _STEP_S = 900, 3


class ManagerMachine(RuleBasedStateMachine):
    """A manager, an adapter and a venue whose books are the model.

    Attributes:
        config: what the manager is given; override it, or leave the defaults.
        venue, clock, manager: what the rules use; more rules may.
    """

    config: Any = None

    def adapter(self, venue: ScriptedBroker) -> Any:
        """The broker port under test, talking to `venue`; the venue itself where this is not overridden."""
        return venue

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._at_work: set[asyncio.Future[Any]] = set()
        self._count_thread_work()
        self._folder = tempfile.TemporaryDirectory(prefix="exitfsm-")
        self._told: list[str] = []
        self.clock = ManualClock(_START)
        self.venue = ScriptedBroker(self.clock)
        self.venue.price(_SYMBOL, 100)

    # --- life ---------------------------------------------------------------------------------------------------------

    def _count_thread_work(self) -> None:
        """Know what runs in threads, so that `_settle` can wait for it."""
        run = self._loop.run_in_executor

        def counting(executor: Any, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
            future = run(executor, function, *args)
            self._at_work.add(future)
            future.add_done_callback(self._at_work.discard)
            return future

        self._loop.run_in_executor = counting  # type: ignore[method-assign, assignment]  # the loop is this object's own

    async def _settle(self) -> None:
        """Until nothing is left to do but to wait for time."""
        while True:
            await asyncio.sleep(0)
            if self._at_work:
                await asyncio.wait(self._at_work, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            elif not self._loop._ready:  # type: ignore[attr-defined]  # the loop's own list of what is due
                return

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let the machine's loop do something, and whatever follows from it without time passing."""

        async def both() -> None:
            await work
            await self._settle()

        self._loop.run_until_complete(both())

    async def _start(self) -> None:
        self.manager = ExitManager(
            self.adapter(self.venue),
            Path(self._folder.name, "exits.db"),
            config=self.config,
            clock=self.clock,
            on_alarm=lambda alarm: self._told.append(alarm.text),
        )
        await self.manager.start()

    @initialize()
    def begin(self) -> None:
        """The manager starts on an empty store."""
        self.run(self._start())

    def teardown(self) -> None:
        """The faults stop and time passes: everything is flat, watched, or a person was told."""
        try:
            if hasattr(self, "manager"):
                self.venue.truthful()
                self.run(self._calm_down())
                self._in_order()
        finally:
            if hasattr(self, "manager"):
                self.run(self.manager.stop())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
            self._folder.cleanup()

    async def _calm_down(self) -> None:
        for _ in range(_CALM_S // _STEP_S):
            for booked in self.venue.live_exits():
                self.venue.fill(booked.order)
            await self.venue.deliver(self.manager.on_order_update)
            self.clock.move(_STEP_S)
            await self._settle()

    def _in_order(self) -> None:
        self.venue.verify()
        held = self.venue.held(_SYMBOL)
        watched = sum((p.remaining_qty * p.side.sign for p in self.manager.positions()), Decimal(0))
        exiting = [p for p in self.manager.positions() if p.state is not State.MONITORING]
        told = any(_SYMBOL in text for text in self._told)
        assert told or (watched == held and not exiting), f"{held} held, {watched} watched, {exiting}: nobody was told"

    # --- what can happen ----------------------------------------------------------------------------------------------

    @rule(side=st.sampled_from(("long", "short")), qty=st.integers(1, 12), told=st.booleans())
    def enter(self, side: str, qty: int, told: bool) -> None:
        """The bot enters, where the manager lets it."""
        if self.venue.held(_SYMBOL) == 0 and self.manager.may_enter(_SYMBOL):
            self.venue.enter(_SYMBOL, side, qty, self.venue.prices[_SYMBOL])
            if told:
                self.run(self._deliver())

    @rule(pct=st.sampled_from((0, -3, -1, 1, 3)), after=st.sampled_from((60, 5, 300)))
    def bar(self, pct: int, after: int) -> None:
        """A bar comes."""
        price = (self.venue.prices[_SYMBOL] * (100 + pct) / 100).quantize(_CENT)
        self.venue.price(_SYMBOL, price)
        self.clock.move(after)
        self.run(self.manager.on_bar(Bar(_SYMBOL, self.clock.now(), price, price, price, price)))

    def _working(self) -> Booked | None:
        return next(iter(self.venue.live_exits(_SYMBOL)), None)

    @rule(part=st.booleans(), told=st.booleans())
    def fill(self, part: bool, told: bool) -> None:
        """The venue fills an exit order, whole or in part."""
        if (booked := self._working()) is not None:
            self.venue.fill(booked.order, 1 if part else booked.leaves)
            if told:
                self.run(self._deliver())

    @rule(how=st.sampled_from(("expire", "cancel", "reject")))
    def end(self, how: str) -> None:
        """The venue ends an exit order."""
        if (booked := self._working()) is None:
            return
        if how == "reject" and booked.filled == 0:
            self.venue.reject(booked.order)
        elif how == "cancel":
            self.venue.end_cancel(booked.order)
        else:
            self.venue.expire(booked.order)

    @rule(times=st.sampled_from((1, 2)), seed=st.integers(0, 99))
    def deliver(self, times: int, seed: int) -> None:
        """The updates arrive: once or twice, in any order."""
        self.run(self._deliver(times=times, order=random.Random(seed)))

    async def _deliver(self, **how: Any) -> None:
        await self.venue.deliver(self.manager.on_order_update, **how)

    @rule()
    def lose_updates(self) -> None:
        """The updates never arrive."""
        self.venue.lose_updates()

    @rule(fault=faults())
    def fault(self, fault: tuple[str, Answer]) -> None:
        """The next call of a method goes wrong."""
        method, answer = fault
        self.venue.answer(method, answer)

    @rule(seconds=st.sampled_from((1, 10, 60, 400)))
    def wait(self, seconds: int) -> None:
        """Time passes."""

        async def passes() -> None:
            for _ in range(10):
                self.clock.move(seconds / 10)
                await self._settle()

        self.run(passes())

    @rule()
    def restart(self) -> None:
        """The manager stops, and another starts on what is in the store."""

        async def again() -> None:
            await self.manager.stop()
            await self._start()

        self.run(again())

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_happened_that_never_may(self) -> None:
        """Never two live exit orders, never more sold than held, never an id used twice."""
        self.venue.verify()
