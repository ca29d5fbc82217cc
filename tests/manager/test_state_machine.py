"""The real manager against a hostile world: whatever happens in whatever order, the promise holds.

The scripted broker's books are the model. Rules are all that can happen: bars, fills, rejects, lost and late answers,
updates in any order, hand trades, crashes, operators, the clock. After every step no two exit orders work in a symbol,
no more is sold than is held, the log says what memory says, and nothing crashed. When the faults stop and time passes,
everything is flat, watched, or a person was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from collections.abc import Coroutine
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness import GOOD, World, check_store
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from exitfsm import IdMemory, OrderRefused, Session, State
from exitfsm.events import OrderEnded
from exitfsm.position import replay
from exitfsm.testing import Hang, LostReply, Raises, Returns
from exitfsm.testing.books import Booked

SYMBOLS = ("AAPL", "TSLA")
VENUES = {
    "good": GOOD,
    "no guard": replace(GOOD, reduce_only=False),
    "ids may repeat": replace(GOOD, ids_refused=IdMemory.NEVER),
    "no bound for late fills": replace(GOOD, late_fill_window_s=None),
    "closed orders are forgotten": replace(GOOD, lookup_sees_closed=False),
}
CONFIG = {
    "profit_taking": {"order_type": "limit"},
    "live": {"broker_timeout_seconds": 600, "entry_id_prefix": "bot-", "feed_silence_seconds": 80_000},
}
symbols = st.sampled_from(SYMBOLS)
quantities = st.integers(1, 12)
seeds = st.integers(0, 99)


class Hostile(RuleBasedStateMachine):
    """All that can happen to a manager."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.hang: Hang | None = None
        self.told: set[str] = set()

    def run_now(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let the loop of this machine do something."""
        return self.loop.run_until_complete(work)

    @initialize(venue=st.sampled_from(sorted(VENUES)), plain=st.booleans())
    def begin(self, venue: str, plain: bool) -> None:
        async def make() -> World:
            world = World(Path(self.folder.name), CONFIG, capabilities=VENUES[venue], plain=plain)
            for symbol in SYMBOLS:
                world.broker.price(symbol, 100)
            await world.start()
            return world

        self.world = self.run_now(make())
        self.broker = self.world.broker

    # --- the bot ------------------------------------------------------------------------------------------------------

    @rule(symbol=symbols, side=st.sampled_from(("long", "short")), qty=quantities, told=st.booleans())
    def enter(self, symbol: str, side: str, qty: int, told: bool) -> None:
        if self.broker.held(symbol) == 0 and self.world.manager.may_enter(symbol):
            self.broker.enter(symbol, side, qty, self.broker.prices[symbol])
            if told:
                self.run_now(self.world.deliver())

    @rule(symbol=symbols, qty=quantities, told=st.booleans())
    def add(self, symbol: str, qty: int, told: bool) -> None:
        held = self.broker.held(symbol)
        if held != 0 and self.world.manager.may_enter(symbol):
            self.broker.enter(symbol, "long" if held > 0 else "short", qty, self.broker.prices[symbol])
            if told:
                self.run_now(self.world.deliver())

    @rule(symbol=symbols)
    def let_an_entry_rest(self, symbol: str) -> None:
        if self.world.manager.may_enter(symbol) and not any(b for b in self.broker.working() if not b.ours):
            self.broker.place(symbol, "buy", 3)

    # --- the market ---------------------------------------------------------------------------------------------------

    @rule(symbol=symbols, pct=st.sampled_from((-3, -1.1, -0.5, 0, 0.5, 2.1, 4)), after=st.sampled_from((1, 5, 30)))
    def bar(self, symbol: str, pct: float, after: float) -> None:
        price = (self.broker.prices[symbol] * (100 + Decimal(str(pct))) / 100).quantize(Decimal("0.01"))
        self.run_now(self.world.bar(price, symbol, after=after))

    def _live(self, which: int) -> Booked | None:
        live = self.broker.live_exits()
        return live[which % len(live)] if live else None

    @rule(which=seeds, part=st.sampled_from((1, 1, 2)), told=st.booleans())
    def fill(self, which: int, part: int, told: bool) -> None:
        booked = self._live(which)
        if booked is not None:
            self.broker.fill(booked.order, booked.leaves if part == 1 else max(Decimal(1), booked.leaves // part))
            if told:
                self.run_now(self.world.deliver())

    @rule(which=seeds, how=st.sampled_from(("reject", "expire", "cancel", "suspend")), kind=st.sampled_from("abc"))
    def end(self, which: int, how: str, kind: str) -> None:
        booked = self._live(which)
        if booked is None:
            return
        if how == "reject" and booked.filled == 0:
            self.broker.reject(booked.order, kind)
        elif how == "expire":
            self.broker.expire(booked.order)
        elif how == "cancel":
            self.broker.end_cancel(booked.order)
        elif how == "suspend":
            self.broker.suspend(booked.order)

    @rule(how=st.sampled_from(("at_once", "pending", "refused")))
    def cancels_are(self, how: Any) -> None:
        self.broker.cancels = how

    @rule(which=seeds)
    def turn_a_cancel_down(self, which: int) -> None:
        booked = self._live(which)
        if booked is not None and booked.status == "pending_cancel":
            self.broker.refuse_cancel(booked.order)

    @rule(which=seeds)
    def fill_late(self, which: int) -> None:
        """A fill crosses a cancel, within the time that the venue declares for it."""
        window = self.broker.capabilities.late_fill_window_s
        now = self.broker.now()
        over = [
            b
            for b in self.broker.ended_exits()
            if b.status == "canceled"
            and b.leaves > 0
            and (window is None or now - b.at < timedelta(seconds=window))
            and not self.broker.live_exits(b.order.symbol)
            and self.broker.held(b.order.symbol) * b.order.position_side.sign >= 1
        ]
        if over:
            self.broker.fill(over[which % len(over)].order, 1, late=True)

    @rule(is_open=st.booleans())
    def market_is(self, is_open: bool) -> None:
        self.broker.market = Session(is_open=is_open)

    # --- the wire -----------------------------------------------------------------------------------------------------

    @rule(times=st.sampled_from((1, 2)), seed=seeds)
    def deliver(self, times: int, seed: int) -> None:
        self.run_now(self.world.deliver(times=times, order=random.Random(seed)))

    @rule()
    def lose_updates(self) -> None:
        self.broker.lose_updates()

    @rule(
        method=st.sampled_from(("submit", "submit", "submit", "cancel", "order", "positions", "open_orders", "fills")),
        how=st.sampled_from(("lost", "failed", "refused", "duplicate")),
        times=st.sampled_from((1, 1, 3)),
    )
    def wire_fails(self, method: str, how: str, times: int) -> None:
        answer: Any = Raises(ConnectionError())
        if how == "lost":
            answer = LostReply()
        elif how == "refused" and method in ("submit", "cancel"):
            answer = Raises(OrderRefused("not_tradable", "not now"))
        elif how == "duplicate" and method == "submit":
            answer = LostReply(OrderRefused("duplicate_id"))
        self.broker.answer(method, answer, times=times)

    @rule(times=st.sampled_from((1, 2)), empty=st.booleans())
    def positions_are_stale(self, times: int, empty: bool) -> None:
        self.broker.answer("positions", Returns([] if empty else self.broker.snapshot()), times=times)

    @precondition(lambda self: self.hang is None)
    @rule(method=st.sampled_from(("submit", "cancel", "order")), effect=st.sampled_from(("first", "on_release")))
    def hang_one(self, method: str, effect: Any) -> None:
        self.hang = Hang(effect)
        self.broker.answer(method, self.hang)

    @precondition(lambda self: self.hang is not None)
    @rule()
    def release_it(self) -> None:
        hang, self.hang = self.hang, None
        if hang is not None:
            hang.release()
            self.run_now(self.world.settle())

    # --- people -------------------------------------------------------------------------------------------------------

    @rule(symbol=symbols, part=st.sampled_from((1, 2)), told=st.booleans())
    def sell_by_hand(self, symbol: str, part: int, told: bool) -> None:
        held = self.broker.held(symbol)
        if abs(held) < 2 or self.broker.live_exits(symbol):
            return
        qty, side = abs(held) // part, "sell" if held > 0 else "buy"
        if told:
            order = self.broker.place(symbol, side, qty, client_order_id=f"hand-{len(self.broker.executions)}")
            self.broker.fill(order)
        else:
            self.broker.trade_by_hand(symbol, side, qty)

    @rule(symbol=symbols)
    def force(self, symbol: str) -> None:
        self.run_now(self._quietly(self.world.manager.force_exit(symbol, "a person")))

    @rule()
    def flatten(self) -> None:
        self.run_now(self._quietly(self.world.manager.flatten_all("a person")))

    @rule(pause=st.booleans())
    def pause_or_resume(self, pause: bool) -> None:
        async def do() -> None:
            await (self.world.manager.pause() if pause else self.world.manager.resume())

        self.run_now(self._quietly(do()))

    @rule()
    def release_all(self) -> None:
        for p in self.world.manager.positions():
            if p.state is State.UNPROTECTED:
                self.run_now(self._release(p.position_id))

    async def _release(self, position_id: str) -> None:
        await self._quietly(self.world.manager.release(position_id))

    @rule()
    def acknowledge_all(self) -> None:
        async def acknowledge() -> None:
            for alarm in self.world.manager.alarms():
                self.told.add(f"{alarm.alarm_id} {alarm.text}")
                await self.world.manager.acknowledge(alarm)

        self.run_now(acknowledge())

    async def _quietly(self, work: Any) -> None:
        """An operator's command may fail for want of an answer; it may not hang, nor break anything."""
        from exitfsm import BrokerError

        task = asyncio.ensure_future(work)
        await self.world.settle()
        if not task.done():
            task.cancel()
        with contextlib.suppress(BrokerError, asyncio.CancelledError):
            await task

    # --- time, and the process ----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((1, 6, 31, 130)))
    def wait(self, seconds: int) -> None:
        self.run_now(self.world.passes(seconds, step=max(1, seconds / 15)))

    @rule()
    def clock_steps_back(self) -> None:
        self.world.clock.set(self.world.clock.now() - timedelta(hours=1))

    @rule()
    def crash(self) -> None:
        self.run_now(self.world.restart())

    @precondition(lambda self: self.hang is None)
    @rule()
    def stop_and_start(self) -> None:
        self.run_now(self.world.restart_in_order())

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        if not hasattr(self, "world"):
            return
        self.broker.verify()
        assert not self.world.defects(), self.world.defects()
        store, manager = self.world.manager.store, self.world.manager
        for p in manager.positions():
            assert replay(r.event for r in store.stream(p.position_id)) == p
            exiting = p.state is not State.MONITORING
            assert not (exiting and manager.may_enter(p.symbol))
        now = manager._given.time.now()
        for p in self.world.ended():
            if p.cooldown_until is not None and now < p.cooldown_until:
                assert not manager.may_enter(p.symbol)
        waits = [a.alarm_id.rsplit("/", 1)[0] for a in manager.alarms() if a.kind != "protection_lost"]
        assert len(waits) == len(set(waits)), "two alarms for one wait"

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.run_now(self._aftermath())
        finally:
            if hasattr(self, "world"):
                self.broker.truthful()
                self.run_now(self.world.bury())
            self.loop.close()
            self.folder.cleanup()

    async def _aftermath(self) -> None:
        """The faults stop and time passes."""
        world, broker = self.world, self.broker
        broker.truthful()
        broker.cancels = "at_once"
        broker.market = Session(is_open=True)
        await world.settle()
        await world.manager.resume()
        for _ in range(14):
            await world.deliver()
            for booked in broker.live_exits():
                broker.fill(booked.order)
            await world.passes(62, step=2)
        broker.verify()
        check_store(world.manager.store, world.manager)
        self._evidence()
        self._everything_is_in_order()
        await world.finish()

    def _evidence(self) -> None:
        """Each end that was recorded is one at the venue, and each figure is the venue's."""
        store = self.world.manager.store
        for row in store.exit_orders():
            booked = self.broker.booked(row.client_order_id)
            assert row.filled_qty <= (booked.filled if booked is not None else 0)
        for stream in store.stream_ids():
            for recorded in store.stream(stream):
                event = recorded.event
                if isinstance(event, OrderEnded):
                    booked = self.broker.booked(event.client_order_id)
                    assert (booked is None) if event.how == "refused" else (booked is not None and not booked.live)

    def _everything_is_in_order(self) -> None:
        manager = self.world.manager
        texts = self.told | {f"{alarm.alarm_id} {alarm.text}" for alarm in manager.alarms()}
        for symbol in SYMBOLS:
            held = self.broker.held(symbol)
            alarmed = any(symbol in text for text in texts)
            watched = [p for p in manager.positions() if p.symbol == symbol]
            for p in watched:
                assert p.state is State.MONITORING or alarmed, f"{symbol} is {p.state}: {self.world.story()}"
            watching = sum((p.remaining_qty * p.side.sign for p in watched if p.state is State.MONITORING), Decimal(0))
            assert watching == held or alarmed, f"{symbol}: {held} held, {watching} watched; {self.world.story()}"


TestHostileWorld = Hostile.TestCase
TestHostileWorld.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
