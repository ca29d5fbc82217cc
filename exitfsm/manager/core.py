"""`ExitManager`: watches a running bot's positions and gets it out of them.

It decides nothing itself. It brings bars, order updates, the broker's positions and the passing of time to the engine's
one door, and carries out what the engine says is owed. Start-up recovery is not a path of its own: open positions are
loaded, everything is reconciled with the broker, and what is then still owed is done.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from exitfsm.bar_keeping import BarKeeper
from exitfsm.broker.calls import Breaker, BrokerCalls
from exitfsm.broker.hours import Hours
from exitfsm.broker.ingest import bar_of, is_bar, is_order_update
from exitfsm.clocks import SteadyTime, SystemClock
from exitfsm.config import ExitConfig, load_config
from exitfsm.custom_rules import CustomRuleFunction
from exitfsm.engine import Engine
from exitfsm.errors import BrokerError, StoreError
from exitfsm.events import (
    BreakerClosed,
    BreakerOpened,
    ExitCompleted,
    OrderEnded,
    PositionClosedElsewhere,
    TradingPaused,
    TradingResumed,
)
from exitfsm.lifecycle import State
from exitfsm.manager.account import Account
from exitfsm.manager.bus import check_bus
from exitfsm.manager.confirming import Confirmer
from exitfsm.manager.door import Door, Group
from exitfsm.manager.driving import GRACE_S, Driver
from exitfsm.manager.executions import ORDER_PREFIX
from exitfsm.manager.identity import Identity, precedes_a_change
from exitfsm.manager.news import News, OnAlarm, OnEvent
from exitfsm.manager.operators import Operators
from exitfsm.manager.reading import Reader, same_symbol
from exitfsm.manager.reconcile import Reconciler, brings_fills
from exitfsm.manager.tasks import Tasks
from exitfsm.manager.timekeeping import MARKS_EVERY_S, Timekeeper
from exitfsm.messages import Open
from exitfsm.outside import logger
from exitfsm.ports import Clock, EventBus
from exitfsm.position import READS_MIN, Position, account_hash, epoch_of
from exitfsm.recorded_bars import bars_path
from exitfsm.store import ExitStore
from exitfsm.values import Alarm, Bar, ExecutionReport, Side, canonical_symbol, decimal_of, utc

log = logger("exitfsm")

#: How long `on_order_update` waits until a new position is taken up; a bot with one consumer has bars waiting behind.
SYNC_WAIT_S = 1.0
T = TypeVar("T")
#: A forced exit's word to `may_enter`: these states have nothing under way.
_FREE = (State.MONITORING,)


class ExitManager:
    """Gets a bot out of its positions: exactly once, through crashes, with every step recorded.

    Args:
        broker: anything with the methods of the `Broker` port, plain or async; its `capabilities` attribute says what
            it can do, and where it has none the most careful assumptions hold.
        state_store: an `ExitStore`, or the path or URL of one (then it is opened and closed here).
        event_bus: anything with `subscribe(handler)`; bars and order updates on it are taken up. None: call `on_bar`
            and `on_order_update` yourself.
        config: an `ExitConfig`, a mapping, or the path of a YAML file; the defaults when None.
        strategy_name: a label on the positions taken up.
        account: names the account; enters ids and the store as a hash only.
        clock: the system's clock when None.
        rules: functions for `custom_rule`, by (name, version).
        on_event: called with (position or None, recorded event) for each event, after it is durable.
        on_alarm: called for each alarm that goes up, and at the start for each that still stands.

    All methods belong to one event loop. Callbacks may be plain or async; one that raises is logged and harms nothing.
    """

    def __init__(
        self,
        broker: Any,
        state_store: ExitStore | str | os.PathLike[str],
        event_bus: EventBus | None = None,
        config: ExitConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        strategy_name: str = "",
        *,
        account: str = "default",
        clock: Clock | None = None,
        rules: Mapping[tuple[str, str], CustomRuleFunction] | None = None,
        on_event: OnEvent | None = None,
        on_alarm: OnAlarm | None = None,
    ) -> None:
        self.config = load_config(config) if config is not None else ExitConfig()
        self.strategy_name = strategy_name
        self._store_given, self._bus, self._rules = state_store, event_bus, rules
        self._account_id = account_hash(account)
        self._clock: Clock = clock or SystemClock()
        self._time = SteadyTime(self._clock)
        live = self.config.live
        self._breaker = Breaker(live.breaker_failures, float(live.breaker_probe_seconds))
        self._calls = BrokerCalls(broker, self._time, float(live.broker_timeout_seconds), self._on_call)
        self._on_event, self._on_alarm = on_event, on_alarm
        self._tasks = Tasks()
        self._cooldowns: dict[str, datetime] = {}
        self._running = False
        self._synced = False
        self._keeper: BarKeeper | None = None
        self._failing_since: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsubscribe: Callable[[], Any] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, restore what was under way, reconcile with the broker, and begin to watch. Idempotent.

        A broker that cannot be reached does not keep it from starting: it is asked again, and until it has answered
        once nothing may be entered.

        Raises:
            ConfigError: the broker or the bus lacks what is needed; every mistake at once, each with what to do.
            StoreError: the store cannot be opened, or belongs to another account.
        """
        if self._running:
            return
        loop = asyncio.get_running_loop()
        self._calls.open()
        self._calls.check()
        check_bus(self._bus)
        self._store_owned = not isinstance(self._store_given, ExitStore)
        given = self._store_given
        if isinstance(given, ExitStore):
            store = given
        else:  # on a server each account has one of its own
            store = await loop.run_in_executor(None, partial(ExitStore, given, account=self._account_id))
        self.store = store
        self._synced = False
        self._build(store)
        self._loop = loop
        self._door.open()
        try:
            await self._door.run(self._restore)
        except BaseException:
            await self._door.close()
            if self._store_owned:
                store.close()
            raise
        self._running = True
        self._keeper = self._timekeeper.keeper = self._new_keeper()
        self._breaker.is_open = self._account.breaker_open
        self._news.remind()
        for lack in self._calls.missing:
            await self._news.raise_alarm("broker_incomplete", f"the broker has no {lack}")
        if self._bus is not None:
            ending = await _awaited(self._bus.subscribe(self._on_bus_event))
            self._unsubscribe = ending if callable(ending) else None
        await self._try_sync()
        self._tasks.spawn(self._timekeeper.watch(), "exitfsm-time")

    def _build(self, store: ExitStore) -> None:
        """The manager's parts, on an open store."""
        live = self.config.live
        self._engine = Engine(store, self._calls.capabilities, rules=self._rules, session_close=self._session_close)
        self._account = Account(store, self._account_id)
        self._door = Door(self._engine, self._time.now, self._clock.now, self._after_group)
        self._news = News(self._door, self._account, self._tasks, self._time.now, self._on_event, self._on_alarm)
        self._reader = Reader(self._engine, self._door, self._calls, self._time, self._clock)
        self._hours = Hours(self._calls, self._time, self._clock)
        self._driver = Driver(
            self._engine,
            self._door,
            self._calls,
            self._reader,
            self._hours,
            self._breaker,
            self._time,
            self._clock,
            live,
        )
        self._identity = Identity(self._engine, self._driver)
        self._calls.known, self._calls.client_id_of = self._identity.known, self._identity.client_id
        self._reconciler = Reconciler(
            self._engine, self._door, self._calls, self._driver, self._reader, self._identity, self._time, self.config,
            self._account_id, self.strategy_name, self._news.raise_alarm,
        )  # fmt: skip
        self._timekeeper = Timekeeper(
            self._engine, self._door, self._driver, self._reader, self._hours, self._calls, self._time, self._clock,
            live, self._tasks, self._try_sync, self._news.raise_alarm,
        )  # fmt: skip
        self._confirmer = Confirmer(
            self._engine, self._door, self._reader, self._time, self._clock.now, self._tasks,
            self.config.policy.price_guard,
        )  # fmt: skip
        self._operators = Operators(
            self._engine,
            self._door,
            self._driver,
            self._reader,
            self._time,
            self._news,
            self._tasks,
            self._account.stream_id,
        )

    def _restore(self) -> None:
        """In the writer's thread: everything the store knows."""
        self.store.bind(self._account_id)
        self._reconciler.load()
        self._engine.load()
        self._account.load()
        self._engine.paused = self._account.paused
        self._news.load(self.store)
        self._cooldowns = dict(self.store.cooldowns(self._time.now()))
        self._ever_held = [row.symbol for row in self.store.trackings()] if self.config.record_bars else []

    def _keep(self, bars: Sequence[Bar], arrived_at: datetime, *, new: bool = False) -> list[Bar]:
        """Keep the bars whose symbol was ever held (`new`: all of them); returns the others."""
        keeper = self._keeper
        if keeper is None:
            return []
        for bar in bars:
            if new or keeper.keeps(bar.symbol):
                keeper.note(bar, arrived_at)
        return [bar for bar in bars if not keeper.keeps(bar.symbol)]

    def _new_keeper(self) -> BarKeeper | None:
        if not self.config.record_bars:
            return None
        path = bars_path(self.store, self.config.bars)
        if path is None:
            log.warning("bars_not_recorded error=the store is no file: set bars: PATH to record them there")
        return BarKeeper(path, self._ever_held) if path is not None else None

    async def stop(self) -> None:
        """Stop watching. Idempotent; loses nothing and leaves no task behind: what is owed stays owed in the store."""
        if not self._running:
            return
        self._running = False
        if self._unsubscribe is not None:
            await _awaited(self._unsubscribe())
            self._unsubscribe = None
        await self._tasks.cancel()
        await self._reconciler.close()
        await self._driver.close(float(self.config.live.broker_timeout_seconds))
        await self._tasks.finish_writes()
        try:
            await self._door.run(self._timekeeper.save_marks)
        except StoreError as error:
            log.error("marks_not_saved error=%s", error)
        await self._door.close()
        self._calls.close()
        if self._store_owned:
            self.store.close()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.close()

    async def __aenter__(self) -> ExitManager:
        """`async with ExitManager(...) as manager:` starts and stops it."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- what comes in ------------------------------------------------------------------------------------------------

    async def on_bar(self, bar: Any, symbol: str | None = None) -> None:
        """A bar, of any symbol; returns when what it decided is durable. Orders leave on their own.

        Args:
            bar: a `Bar`, or anything that carries symbol, timestamp and prices. One that cannot be read is an alarm.
            symbol: of what it is a bar, where the bar does not say so itself.
        """
        await self.on_bars([bar] if symbol is None else {symbol: bar})

    async def on_bars(self, bars: Sequence[Any] | Mapping[str, Any]) -> None:
        """Many bars at once, for feeds that deliver a whole minute: what breaches together is committed together.

        Args:
            bars: a sequence of bars, or a mapping of them by symbol.
        """
        if asyncio.get_running_loop() is not self._loop:
            return await self._on_its_loop(lambda: self.on_bars(bars))
        if not self._running:
            log.warning("bars_ignored count=%s why=stopped", len(bars))
            return None
        named = bars.items() if isinstance(bars, Mapping) else ((None, bar) for bar in bars)
        readable = [bar for symbol, raw in named if (bar := self._readable_bar(raw, symbol)) is not None]
        for bar in readable:
            self._reconciler.note_spelling(bar.symbol)
        self._timekeeper.marks_due = True
        arrived_at = self._time.now()
        others = self._keep(readable, arrived_at)
        try:
            await self._door.bars(readable)
        except StoreError:
            return None  # reported by the group; the next bar decides it again
        finally:
            # What was entered while its bar waited at the door was told that bar, too.
            self._keep([bar for bar in others if bar.symbol in self._engine.levels.slots], arrived_at, new=True)
        if self._driver.tasks:
            await asyncio.wait(self._driver.tasks, timeout=GRACE_S)
        return None

    async def on_order_update(self, update: Any) -> None:
        """News of any order of the account: an exit of ours, or an entry of the bot.

        Args:
            update: an `ExecutionReport`, or an order or update in the broker's own shape. It may come late, doubled or
                out of order. One that is not understood makes the order be looked up.
        """
        if asyncio.get_running_loop() is not self._loop:
            return await self._on_its_loop(lambda: self.on_order_update(update))
        if not self._running:
            log.warning("update_ignored why=stopped")
            return None
        try:
            report = self._calls.report_of(update)
        except (BrokerError, ValueError) as error:
            log.warning("update_unreadable error=%s", error)
            report = None
        if report is None or self._identity.may_be_ours(report):
            log.warning("update_not_understood type=%s", type(update).__name__)
            self._timekeeper.sync_at = 0.0
            return None
        report = self._identity.under_our_id(report)
        try:
            if report.client_order_id.startswith(ORDER_PREFIX):
                await self._on_ours(report)
            else:
                await self._on_foreign(report)
        except StoreError:
            return None  # reported by the group; the order is looked up again
        if self._driver.tasks:
            await asyncio.wait(self._driver.tasks, timeout=GRACE_S)
        return None

    async def watch(
        self,
        symbol: str,
        side: Side | str,
        qty: Decimal | float | str,
        entry_price: Decimal | float | str,
        first_fill_at: datetime,
        *,
        atr: Decimal | None = None,
    ) -> Position:
        """Watch a position from now on, without waiting for a reconciliation to find it. Repeating it changes nothing.

        Where the symbol is watched already, that position is returned as it is; only what was first filled after its
        exit had begun is another one.

        Args:
            symbol, side, qty, entry_price: what is held, at which average price.
            first_fill_at: the broker's time of the first fill since the symbol was flat; it names the position.
            atr: average true range at the entry, for `atr_levels`.

        Raises:
            ValueError: quantity or price is not a finite number above 0, or the symbol is none.
        """
        if asyncio.get_running_loop() is not self._loop:
            return await self._on_its_loop(lambda: self.watch(symbol, side, qty, entry_price, first_fill_at, atr=atr))
        at = utc(first_fill_at)
        name = self._reconciler.known_spelling(symbol)
        message = Open(
            at=self._time.now(),
            account=self._account_id,
            symbol=name,
            side=Side(str(side)),
            epoch=epoch_of(at),
            qty=decimal_of(qty),
            entry_price=decimal_of(entry_price),
            opened_at=at,
            policy=self.config.policy,
            atr=atr,
            strategy_name=self.strategy_name,
            source="broker",
        )
        price = self._reconciler.fresh(message.entry_price, at)
        watched: Position = await self._door.run(lambda: self._engine.open_unless_watched(message, reference=price))
        return watched

    async def sync(self) -> None:
        """Reconcile with the broker now.

        Raises:
            BrokerError: the broker did not answer; nothing was concluded from that.
        """
        if asyncio.get_running_loop() is not self._loop:
            return await self._on_its_loop(self.sync)
        await self._reconciler.sync()
        self._synced = True
        soon = any(tries.answered < READS_MIN for tries in self._reconciler.missing.values())
        self._timekeeper.sync_in(MARKS_EVERY_S if soon else float(self.config.live.sync_seconds))
        return None

    # --- questions ----------------------------------------------------------------------------------------------------

    def may_enter(self, symbol: str, at: datetime | None = None) -> bool:
        """True when nothing here speaks against entering `symbol` at `at` (now when None)."""
        return self.entry_block(symbol, at) is None

    def entry_block(self, symbol: str, at: datetime | None = None) -> str | None:
        """Why `symbol` may not be entered at `at`; None when it may."""
        name, when = canonical_symbol(symbol), utc(at) if at is not None else self._time.now()
        if not self._running or not self._synced:
            return "not reconciled with the broker yet"
        if self._engine.paused:
            return "paused"
        for p in list(self._engine.positions.values()):
            if same_symbol(p.symbol, name) and p.state not in _FREE:
                return f"an exit of {p.symbol} is under way ({p.state})"
        for cooled, until in self._cooldowns.items():
            if same_symbol(cooled, name) and when < until:
                return f"cooldown until {until.isoformat()}"
        return None

    def positions(self) -> list[Position]:
        """All open positions, oldest first; none before the start."""
        if self._loop is None:
            return []
        return sorted(self._engine.positions.values(), key=lambda p: (p.opened_at, p.position_id))

    def alarms(self) -> list[Alarm]:
        """All alarms that stand, oldest first; none before the start."""
        if self._loop is None:
            return []
        return sorted((alarm for _, alarm in self._news.alarms.values()), key=lambda a: (a.raised_at, a.alarm_id))

    async def settled(self) -> None:
        """Return when nothing is being carried out or confirmed. What waits for time or for the broker still waits."""
        while under_way := [*self._driver.tasks, *self._confirmer.tasks]:
            await asyncio.wait(under_way)
            await asyncio.sleep(0)

    # --- operators ----------------------------------------------------------------------------------------------------

    async def force_exit(self, symbol: str, reason: str = "", *, who: str = "operator") -> list[Position]:
        """Exit all positions of a symbol now, whatever their levels; returns them. Repeating it does no more.

        An exit under way goes on; an unprotected position gets one more attempt, after its orders were looked up.
        """
        if asyncio.get_running_loop() is not self._loop:
            return await self._on_its_loop(lambda: self.force_exit(symbol, reason, who=who))
        name = canonical_symbol(symbol)
        return await self._operators.force([p for p in self.positions() if same_symbol(p.symbol, name)], reason, who)

    async def flatten_all(self, reason: str = "", *, who: str = "operator") -> list[Position]:
        """Exit everything, now; returns the positions concerned. Needs no prices.

        What is watched goes first; then the broker is asked for what is not watched yet, and that follows.
        """
        if asyncio.get_running_loop() is not self._loop:
            return await self._on_its_loop(lambda: self.flatten_all(reason, who=who))
        return await self._operators.flatten(self.positions, self.sync, reason, who)

    def pause(self, who: str = "operator", why: str = "") -> Awaitable[None]:
        """No new triggers and no entries, at once; exits under way go on. Await it to know that it is durable."""
        self._engine.paused = True
        return self._news.record(TradingPaused(by=who, at=self._time.now(), why=why))

    def resume(self, who: str = "operator") -> Awaitable[None]:
        """End the pause. Await it to know that it is durable."""
        self._engine.paused = False
        return self._news.record(TradingResumed(by=who, at=self._time.now()))

    def acknowledge(self, alarm: Alarm | str, who: str = "operator") -> Awaitable[None]:
        """A person has seen an alarm; it no longer stands. Await it to know that it is durable."""
        return self._operators.acknowledge(alarm if isinstance(alarm, str) else alarm.alarm_id, who)

    def release(self, position: Position | str, who: str = "operator") -> Awaitable[None]:
        """Hand an unprotected position back to the rules, with what the broker shows for it now.

        Where the broker shows nothing, it is over: then the operator's word makes up for the missing execution.
        Nothing happens while an order of it may be live.
        """
        return self._operators.release(position if isinstance(position, str) else position.position_id, who)

    async def tick(self) -> None:
        """Do what has come due: timers, what is owed, look-ups, reconciliation, marks. Called by the manager itself."""
        await self._timekeeper.tick()

    # --- inside: what comes back from the door ------------------------------------------------------------------------

    def _after_group(self, group: Group) -> None:
        """On the event loop, after each group: tell the callbacks, work on what is owed, confirm prices that jumped."""
        for position, recorded in group.commits:
            if any(isinstance(one.event, (ExitCompleted, PositionClosedElsewhere)) for one in recorded):
                self._on_ended(position)
            waiting = [q.position_id for q in self._engine.beside(position) if q.state is State.PENDING]
            self._driver.drive(waiting)  # one exit goes after the other
            for one in recorded:
                self._news.announce(position, one)
                if isinstance(one.event, OrderEnded):
                    self._reader.note_wait(position)
                    self._timekeeper.sync_at = (
                        0.0  # what stands in the way of the next attempt is read before it is due
                    )
        for error in group.failures if self._running else ():
            log.critical("not_stored error=%s", error)
            self._news.alarm_without_store("store_unwritable", f"the store could not be written: {error}")
        self._driver.drive(group.owing)
        self._confirmer.confirm(group.jumps)

    def _on_ended(self, p: Position) -> None:
        self._driver.forget(p)
        if p.cooldown_until is not None:
            self._cooldowns[p.symbol] = max(p.cooldown_until, self._cooldowns.get(p.symbol, p.cooldown_until))
        self._reconciler.note_end(p)
        self._timekeeper.sync_at = 0.0  # what was bought meanwhile is taken up now

    # --- inside: bars and updates -------------------------------------------------------------------------------------

    def _readable_bar(self, raw: Any, symbol: str | None) -> Bar | None:
        try:
            return bar_of(raw, symbol)
        except (BrokerError, ValueError) as error:
            log.warning("bar_unreadable error=%s", error)
            self._news.raise_soon("bar_unreadable", f"a bar cannot be read, so nothing is decided on it: {error}")
            return None

    def _on_bus_event(self, event: Any) -> Any:
        """For the bus: whether it awaits what comes back or not, and from whatever thread it calls."""
        take = self.on_bar if is_bar(event) else self.on_order_update if is_order_update(event) else None
        assert self._loop is not None  # subscribed in start
        here = _running_loop()
        if here is self._loop:
            if take is not None and self._running:
                return self._tasks.spawn(take(event), "exitfsm-bus")
            nothing = self._loop.create_future()
            nothing.set_result(None)
            return nothing
        if take is None or not self._running or not self._loop.is_running():
            return None
        taken = asyncio.run_coroutine_threadsafe(take(event), self._loop)
        return asyncio.wrap_future(taken) if here is not None else taken

    async def _on_its_loop(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Called on another event loop: have it done on the one that the manager was started on.

        Raises:
            RuntimeError: there is none, or it does not run any more.
        """
        if self._loop is None:
            raise RuntimeError("the manager is not started: await manager.start() first")
        if not self._loop.is_running():
            raise RuntimeError(
                "the event loop that the manager was started on does not run any more: start, feed and stop it on one "
                "loop that keeps running (not with asyncio.run for each call)"
            )
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), self._loop))

    async def _on_ours(self, report: ExecutionReport) -> None:
        """An exit of ours. One that has filled, nobody says how much, is looked up.

        So is one of which the broker has corrected an execution: news may be older than the correction. And news from
        before our order was changed at the broker are not taken for another change.
        """
        p = self._engine.positions.get(self._engine.known_owner(report.client_order_id) or "")
        if p is not None and self._calls.asks_by_our_id and precedes_a_change(p, report):
            self._timekeeper.look_up_soon(p.position_id, report.client_order_id)
            return
        await self._door.report(report)
        said_how_much = report.filled_qty is not None or not (brings_fills(report) or report.status.terminal)
        p = self._engine.positions.get(self._engine.known_owner(report.client_order_id) or "")
        if p is not None and (not said_how_much or report.client_order_id in p.corrected_orders):
            self._timekeeper.look_up_soon(p.position_id, report.client_order_id)

    async def _on_foreign(self, report: ExecutionReport) -> None:
        """An order that is not ours: remember it while it works; what it filled is taken up at once."""
        self._reconciler.note_foreign(report)
        if not brings_fills(report):
            return
        self._reconciler.note_fills(report)
        sync = self._tasks.spawn(self._try_sync(), "exitfsm-sync")
        await asyncio.wait([sync], timeout=SYNC_WAIT_S)

    async def _try_sync(self) -> None:
        try:
            await self.sync()
        except (BrokerError, StoreError) as error:
            log.warning("sync_failed error=%s", error)
            self._timekeeper.sync_in(MARKS_EVERY_S)
            if isinstance(error, StoreError):
                return  # a matter of the disk, of which a person is told; the broker answered
            now = self._clock.monotonic()
            self._failing_since = now if self._failing_since is None else self._failing_since
            if now - self._failing_since >= float(self.config.live.patience_seconds):
                text = f"the broker cannot be reconciled with: what is bought or sold since is not known here ({error})"
                self._news.raise_soon("not_reconciled", text)
        else:
            self._failing_since = None

    def _session_close(self, symbol: str, at: datetime) -> datetime | None:
        return self._timekeeper.session_close(symbol, at)

    def _on_call(self, answered: bool, method: str) -> None:
        """Sends that fail in a row open the breaker; one that gets through closes it."""
        if method not in ("submit", "cancel"):
            return
        if not answered and self._breaker.failed():
            self._news.record(BreakerOpened(failures=self._breaker.failures, at=self._time.now(), why=method))
        elif answered and self._breaker.succeeded():
            self._news.record(BreakerClosed(at=self._time.now()))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
