"""`ExitManager`: watches a running bot's positions and gets it out of them.

It decides nothing itself. It brings bars, order updates, the broker's positions and the passing of time to the engine's
one door, and carries out what the engine says is owed. Start-up recovery is not a path of its own: open positions are
loaded, everything is reconciled with the broker, and what is then still owed is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from exitfsm.config import ExitConfig, load_config
from exitfsm.engine import CustomRuleFunction, Engine
from exitfsm.errors import BrokerError, StoreError
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    BreakerClosed,
    BreakerOpened,
    Event,
    ExitCompleted,
    OrderEnded,
    PositionClosedElsewhere,
    Recorded,
    TradingPaused,
    TradingResumed,
)
from exitfsm.lifecycle import State
from exitfsm.manager.account import Account
from exitfsm.manager.calls import Breaker, BrokerCalls, Held
from exitfsm.manager.clock import SteadyTime, SystemClock
from exitfsm.manager.door import Door, Group
from exitfsm.manager.driving import ORDER_PREFIX, Driver, same_symbol
from exitfsm.manager.ingest import bar_of, is_bar, is_order_update, report_of
from exitfsm.manager.keeping import BarKeeper
from exitfsm.manager.reconcile import Reconciler, brings_fills
from exitfsm.messages import (
    Acknowledge,
    ForceExit,
    Message,
    Open,
    PositionRead,
    RaiseAlarm,
    Release,
    TimeSeen,
)
from exitfsm.policy import is_jump
from exitfsm.ports import Clock, EventBus, Session
from exitfsm.position import READS_MIN, Position, account_hash, epoch_of
from exitfsm.recorded_bars import bars_path
from exitfsm.store import ExitStore
from exitfsm.values import Alarm, Bar, BrokerPosition, ExecutionReport, Side, canonical_symbol, decimal_of, utc

log = logging.getLogger("exitfsm")

#: How often the manager looks at what time has brought, in seconds.
TICK_S = 0.25
#: How long `on_bar` waits for orders that it caused to have left; a broker that is slower is not waited for.
GRACE_S = 0.01
#: How long `on_order_update` waits until a new position is taken up; a bot with one consumer has bars waiting behind.
SYNC_WAIT_S = 1.0
#: How old the last bar must be before a time rule is decided without one.
NO_BAR_S = 90.0
MARKS_EVERY_S = 1.0
#: The hours of a market that never closes.
ALWAYS = Session(is_open=True)
#: A forced exit's word to `may_enter`: these states have nothing under way.
_FREE = (State.MONITORING,)

OnEvent = Callable[[Position | None, Recorded], Any]
OnAlarm = Callable[[Alarm], Any]


class ExitManager:
    """Gets a bot out of its positions: exactly once, through crashes, with every step recorded.

    Args:
        broker: anything with the methods of the `Broker` port, plain or async; its `capabilities` attribute says what
            it can do, and where it has none the most careful assumptions hold.
        state_store: an `ExitStore`, or the path of one (then it is opened and closed here).
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
        self._alarms: dict[str, tuple[str, Alarm]] = {}
        self._cooldowns: dict[str, datetime] = {}
        #: Timestamp of the last bar of each symbol that was believed, and when it was seen to be.
        self._believed: dict[str, tuple[datetime | None, float]] = {}
        self._jumped: dict[str, Bar] = {}
        self._polled: dict[str, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writes: set[asyncio.Task[Any]] = set()
        self._running = False
        self._synced = False
        self._sync_at = 0.0
        self._marks_at = 0.0
        self._marks_due = False
        self._paused = False
        self._keeper: BarKeeper | None = None
        self._unsubscribe: Callable[[], None] | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, restore what was under way, reconcile with the broker, and begin to watch. Idempotent.

        A broker that cannot be reached does not keep it from starting: it is asked again, and until it has answered
        once nothing may be entered.

        Raises:
            StoreError: the store cannot be opened, or belongs to another account.
        """
        if self._running:
            return
        loop = asyncio.get_running_loop()
        self._store_owned = not isinstance(self._store_given, ExitStore)
        given = self._store_given
        store = given if isinstance(given, ExitStore) else await loop.run_in_executor(None, ExitStore, given)
        self.store = store
        self._calls.open()
        self._synced, self._alarms = False, {}
        self._engine = Engine(store, self._calls.capabilities, rules=self._rules, session_close=self._session_close)
        self._account = Account(store, self._account_id)
        self._door = Door(self._engine, self._time.now, self._clock.now, self._after_group)
        self._driver = Driver(
            self._engine, self._door, self._calls, self._breaker, self._time, self._clock, self.config.live
        )
        self._reconciler = Reconciler(
            self._engine, self._door, self._calls, self._driver, self._time, self.config,
            self._account_id, self.strategy_name, self._raise_account_alarm,
        )  # fmt: skip
        self._door.open()
        try:
            await self._door.run(self._restore)
        except BaseException:
            await self._door.close()
            if self._store_owned:
                store.close()
            raise
        self._running = True
        self._keeper = self._new_keeper()
        self._breaker.is_open = self._account.breaker_open
        for _, alarm in list(self._alarms.values()):
            self._call_back(self._on_alarm, alarm)
        if self._bus is not None:
            self._unsubscribe = self._bus.subscribe(self._on_bus_event)
        await self._try_sync()
        self._spawn(self._watch_time(), "exitfsm-time")

    def _restore(self) -> None:
        """In the writer's thread: everything the store knows."""
        self.store.bind(self._account_id)
        self._engine.load()
        self._account.load()
        self._paused = self._engine.paused = self._account.paused
        for row in self.store.alarms():
            alarm = Alarm(alarm_id=row.alarm_id, kind=row.kind, text=row.text, raised_at=row.raised_at_utc)
            self._alarms[alarm.alarm_id] = (row.stream_id, alarm)
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
        path = bars_path(self.store)
        if path is None:
            log.warning("bars_not_recorded error=the store is no file, so that there is no place beside it")
        return BarKeeper(path, self._ever_held) if path is not None else None

    async def stop(self) -> None:
        """Stop watching. Idempotent; loses nothing and leaves no task behind: what is owed stays owed in the store."""
        if not self._running:
            return
        self._running = False
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        passing = self._tasks - self._writes
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        await self._reconciler.close()
        await self._driver.close(float(self.config.live.broker_timeout_seconds))
        await asyncio.gather(*self._writes, return_exceptions=True)
        try:
            await self._door.run(self._save_marks)
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

    async def on_bar(self, bar: Any) -> None:
        """A bar, of any symbol; returns when what it decided is durable. Orders leave on their own.

        Args:
            bar: a `Bar`, or anything that carries symbol, timestamp and prices.
        """
        await self.on_bars([bar])

    async def on_bars(self, bars: Sequence[Any]) -> None:
        """Many bars at once, for feeds that deliver a whole minute: what breaches together is committed together."""
        readable = [bar for raw in bars if (bar := self._readable_bar(raw)) is not None]
        if self._running:
            for bar in readable:
                self._reconciler.note_spelling(bar.symbol)
        self._marks_due = True
        arrived_at = self._time.now()
        others = self._keep(readable, arrived_at)
        try:
            await self._door.bars(readable)
        except StoreError:
            return  # reported by the group; the next bar decides it again
        finally:
            # What was entered while its bar waited at the door was told that bar, too.
            self._keep([bar for bar in others if bar.symbol in self._engine.levels.slots], arrived_at, new=True)
        if self._driver.tasks:
            await asyncio.wait(self._driver.tasks, timeout=GRACE_S)

    async def on_order_update(self, update: Any) -> None:
        """News of any order of the account: an exit of ours, or an entry of the bot.

        Args:
            update: an `ExecutionReport`, or an order or update in the broker's own shape. It may come late, doubled or
                out of order. One that is not understood makes the order be looked up.
        """
        try:
            report = report_of(update, now=self._time.now())
        except (BrokerError, ValueError) as error:
            log.warning("update_unreadable error=%s", error)
            self._sync_at = 0.0
            return
        if report is None:
            log.warning("update_not_understood type=%s", type(update).__name__)
            self._sync_at = 0.0
            return
        try:
            if report.client_order_id.startswith(ORDER_PREFIX):
                await self._door.report(report)
            else:
                await self._on_foreign(report)
        except StoreError:
            return  # reported by the group; the order is looked up again
        if self._driver.tasks:
            await asyncio.wait(self._driver.tasks, timeout=GRACE_S)

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

        Args:
            symbol, side, qty, entry_price: what is held, at which average price.
            first_fill_at: the broker's time of the first fill since the symbol was flat; it names the position.
            atr: average true range at the entry, for `atr_levels`.

        Raises:
            ValueError: quantity or price is not a finite number above 0, or the symbol is none.
        """
        at = utc(first_fill_at)
        name = canonical_symbol(symbol)
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
        position: Position = await self._door.run(lambda: self._engine.open(message))
        return position

    async def sync(self) -> None:
        """Reconcile with the broker now.

        Raises:
            BrokerError: the broker did not answer; nothing was concluded from that.
        """
        await self._reconciler.sync()
        self._synced = True
        self._sync_at = self._clock.monotonic() + float(self.config.live.sync_seconds)
        if any(tries < READS_MIN for tries in self._reconciler.missing.values()):
            self._sync_at = self._clock.monotonic() + MARKS_EVERY_S

    # --- questions ----------------------------------------------------------------------------------------------------

    def may_enter(self, symbol: str, at: datetime | None = None) -> bool:
        """True when nothing here speaks against entering `symbol` at `at` (now when None)."""
        return self.entry_block(symbol, at) is None

    def entry_block(self, symbol: str, at: datetime | None = None) -> str | None:
        """Why `symbol` may not be entered at `at`; None when it may."""
        name, when = canonical_symbol(symbol), utc(at) if at is not None else self._time.now()
        if not self._running or not self._synced:
            return "not reconciled with the broker yet"
        if self._paused:
            return "paused"
        for p in list(self._engine.positions.values()):
            if same_symbol(p.symbol, name) and p.state not in _FREE:
                return f"an exit of {p.symbol} is under way ({p.state})"
        for cooled, until in self._cooldowns.items():
            if same_symbol(cooled, name) and when < until:
                return f"cooldown until {until.isoformat()}"
        return None

    def positions(self) -> list[Position]:
        """All open positions, oldest first."""
        return sorted(self._engine.positions.values(), key=lambda p: (p.opened_at, p.position_id))

    def alarms(self) -> list[Alarm]:
        """All alarms that stand, oldest first."""
        return sorted((alarm for _, alarm in self._alarms.values()), key=lambda a: (a.raised_at, a.alarm_id))

    async def settled(self) -> None:
        """Return when nothing is being carried out any more. What waits for time or for the broker still waits."""
        while self._driver.tasks:
            await asyncio.wait(self._driver.tasks)
            await asyncio.sleep(0)

    # --- operators ----------------------------------------------------------------------------------------------------

    async def force_exit(self, symbol: str, reason: str = "", *, who: str = "operator") -> list[Position]:
        """Exit all positions of a symbol now, whatever their levels; returns them. Repeating it does no more.

        An exit under way goes on; an unprotected position gets one more attempt, after its orders were looked up.
        """
        name = canonical_symbol(symbol)
        return await self._force([p for p in self.positions() if same_symbol(p.symbol, name)], reason, who)

    async def flatten_all(self, reason: str = "", *, who: str = "operator") -> list[Position]:
        """Exit everything, now; returns the positions concerned. Needs no prices.

        What is watched goes first; then the broker is asked for what is not watched yet, and that follows.
        """
        first = await self._force(self.positions(), reason, who)
        try:
            await self.sync()
        except BrokerError as error:
            log.warning("sync_after_flatten_failed error=%s", error)
        known = {p.position_id for p in first}
        return first + await self._force([p for p in self.positions() if p.position_id not in known], reason, who)

    async def _force(self, positions: list[Position], reason: str, who: str) -> list[Position]:
        stuck = [p for p in positions if p.state is State.UNPROTECTED]
        held: Held | None = None
        if stuck:
            # A second order is only safe on fresh knowledge: the old one's record, and what is left to sell. Where the
            # broker does not give it, the others are exited all the same.
            try:
                for p in stuck:
                    await self._driver.clear_up(p)
                held = await self._driver.positions()
            except BrokerError as error:
                log.error("unprotected_not_forced positions=%s error=%s", [p.position_id for p in stuck], error)
                positions = [p for p in positions if p not in stuck]
        messages: list[tuple[str, Message]] = []
        for p in positions:
            qty = self._driver.net_of(p, held)[0] if held is not None and p in stuck else None
            price = self._engine.last_price(p.symbol)
            force = ForceExit(at=self._time.now(), who=who, reason=reason, price=price, qty=qty)
            messages.append((p.position_id, force))
        await self._door.tell_all(messages)
        ids = [p.position_id for p in positions]
        self._driver.drive(ids)
        if self._driver.tasks:
            await asyncio.wait(self._driver.tasks, timeout=GRACE_S)
        return [self._engine.positions.get(key) or positions[n] for n, key in enumerate(ids)]

    def pause(self, who: str = "operator", why: str = "") -> Awaitable[None]:
        """No new triggers and no entries, at once; exits under way go on. Await it to know that it is durable."""
        self._paused = self._engine.paused = True
        return self._record(TradingPaused(by=who, at=self._time.now(), why=why))

    def resume(self, who: str = "operator") -> Awaitable[None]:
        """End the pause. Await it to know that it is durable."""
        self._paused = self._engine.paused = False
        return self._record(TradingResumed(by=who, at=self._time.now()))

    def acknowledge(self, alarm: Alarm | str, who: str = "operator") -> Awaitable[None]:
        """A person has seen an alarm; it no longer stands. Await it to know that it is durable."""
        alarm_id = alarm if isinstance(alarm, str) else alarm.alarm_id
        stream = self._alarms[alarm_id][0] if alarm_id in self._alarms else ""
        now = self._time.now()
        if stream == self._account.stream_id:
            if alarm_id not in self._account.alarms:
                self._alarms.pop(alarm_id, None)  # it could not be stored when it went up
            return self._write(self._in_writer(lambda: self._account.acknowledge(alarm_id, at=now, who=who)))
        return self._write(self._door.tell(stream, Acknowledge(at=now, alarm_id=alarm_id, who=who)))

    def release(self, position: Position | str, who: str = "operator") -> Awaitable[None]:
        """Hand an unprotected position back to the rules, with what the broker shows for it now.

        Where the broker shows nothing, it is over: then the operator's word makes up for the missing execution.
        Nothing happens while an order of it may be live.
        """
        key = position if isinstance(position, str) else position.position_id
        return self._spawn(self._release(key, who), "exitfsm-release")

    async def _release(self, key: str, who: str) -> None:
        p = self._engine.positions.get(key)
        if p is None:
            return
        await self._driver.clear_up(p)
        held = await self._driver.positions()
        if held.is_silent_about(p.symbol):
            raise BrokerError(f"what the broker holds of {p.symbol} cannot be read")
        net, entry = self._driver.net_of(p, held)
        now = self._time.now()
        if net == 0:
            await self._door.tell(key, PositionRead(at=now, qty=net, reads=READS_MIN))
        else:
            await self._door.tell(key, Release(at=now, qty=net, entry_price=entry or p.entry_price, who=who))

    # --- inside: what comes back from the door ------------------------------------------------------------------------

    def _after_group(self, group: Group) -> None:
        """On the event loop, after each group: tell the callbacks, work on what is owed, confirm prices that jumped."""
        for position, recorded in group.commits:
            if any(isinstance(one.event, (ExitCompleted, PositionClosedElsewhere)) for one in recorded):
                self._on_ended(position)
            for one in recorded:
                self._announce(position, one)
                if isinstance(one.event, OrderEnded):
                    self._sync_at = 0.0  # what stands in the way of the next attempt is read before it is due
        for error in group.failures if self._running else ():
            log.critical("not_stored error=%s", error)
            text = f"the store could not be written: {error}"
            self._alarm_without_store("store_unwritable", text)
        self._driver.drive(group.owing)
        for bar in group.jumps:
            if bar.symbol not in self._jumped:
                self._spawn(self._confirm(bar.symbol), "exitfsm-confirm")
            self._jumped[bar.symbol] = bar

    def _on_ended(self, p: Position) -> None:
        self._driver.forget(p)
        if p.cooldown_until is not None:
            self._cooldowns[p.symbol] = max(p.cooldown_until, self._cooldowns.get(p.symbol, p.cooldown_until))
        self._reconciler.note_end(p)
        self._sync_at = 0.0  # what was bought meanwhile is taken up now

    def _announce(self, position: Position | None, recorded: Recorded) -> None:
        event = recorded.event
        log.info(
            "event=%s stream=%s version=%s by=%s",
            type(event).__name__,
            recorded.stream_id,
            recorded.version,
            recorded.by,
        )
        if isinstance(event, AlarmRaised):
            alarm = Alarm(alarm_id=event.alarm_id, kind=event.kind, text=event.text, raised_at=event.at)
            self._alarms[alarm.alarm_id] = (recorded.stream_id, alarm)
            log.error("alarm kind=%s text=%s", alarm.kind, alarm.text)
            self._call_back(self._on_alarm, alarm)
        elif isinstance(event, AlarmAcknowledged):
            self._alarms.pop(event.alarm_id, None)
        self._call_back(self._on_event, position, recorded)

    def _call_back(self, callback: Callable[..., Any] | None, *args: Any) -> None:
        """Callbacks are guests: plain or async, and one that raises harms nothing."""
        if callback is None:
            return
        try:
            result = callback(*args)
        except Exception:
            log.exception("callback_failed")
            return
        if asyncio.iscoroutine(result):
            self._spawn(result, "exitfsm-callback")

    def _alarm_without_store(self, kind: str, text: str) -> None:
        """An alarm that cannot be stored still reaches a person: the log, the callback, and `alarms()`."""
        alarm = Alarm(alarm_id=f"{self._account.stream_id}/{kind}", kind=kind, text=text, raised_at=self._time.now())
        if alarm.alarm_id not in self._alarms:
            self._alarms[alarm.alarm_id] = (self._account.stream_id, alarm)
            self._call_back(self._on_alarm, alarm)

    async def _in_writer(self, work: Callable[[], Sequence[Recorded]]) -> None:
        """Work on the account's stream, and news of it."""
        for recorded in await self._door.run(work):
            self._announce(None, recorded)

    def _record(self, event: Event) -> Awaitable[None]:
        at, by = self._time.now(), "operator" if isinstance(event, (TradingPaused, TradingResumed)) else "broker"
        return self._write(self._in_writer(lambda: self._account.record(event, at=at, by=by)))

    async def _raise_account_alarm(self, kind: str, text: str) -> None:
        now = self._time.now()
        await self._in_writer(lambda: self._account.raise_alarm(kind, text, at=now))

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _write(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """The same for what must become durable: it is waited for when the manager stops."""
        task = self._spawn(work, "exitfsm-write")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task_failed name=%s error=%s", task.get_name(), task.exception())

    # --- inside: bars and updates -------------------------------------------------------------------------------------

    def _readable_bar(self, raw: Any) -> Bar | None:
        try:
            return bar_of(raw)
        except (BrokerError, ValueError) as error:
            log.warning("bar_unreadable error=%s", error)
            return None

    async def _on_bus_event(self, event: Any) -> None:
        if is_bar(event):
            await self.on_bar(event)
        elif is_order_update(event):
            await self.on_order_update(event)

    async def _on_foreign(self, report: ExecutionReport) -> None:
        """An order that is not ours: remember it while it works; what it filled is taken up at once."""
        self._reconciler.note_foreign(report)
        if not brings_fills(report):
            return
        self._reconciler.note_fills(report)
        sync = self._spawn(self._try_sync(), "exitfsm-sync")
        await asyncio.wait([sync], timeout=SYNC_WAIT_S)

    async def _try_sync(self) -> None:
        try:
            await self.sync()
        except (BrokerError, StoreError) as error:
            log.warning("sync_failed error=%s", error)
            self._sync_at = self._clock.monotonic() + MARKS_EVERY_S

    async def _confirm(self, symbol: str) -> None:
        """A price jumped beyond belief: the broker's own price and position are the second source.

        The same quantity and entry at a price that agrees: a real crash, exit at once. Another quantity or entry: a
        split or the like, new levels and no exit. No answer: an alarm, and the next bar asks again.
        """
        try:
            held = await self._driver.positions()
        except BrokerError as error:
            log.warning("price_not_confirmed symbol=%s error=%s", symbol, error)
            held = Held()
        bar = self._jumped.pop(symbol)
        shown = next((bp for bp in held if same_symbol(bp.symbol, symbol)), None)
        watched = [p for p in self.positions() if p.symbol == symbol and p.state is State.MONITORING]
        if shown is not None and watched and self._was_split(watched, shown):
            await self._door.run(lambda: self._engine.rebase(symbol, bar))
            for p in watched:
                await self._driver_read(p, held)
            return
        agrees = (
            shown is not None
            and shown.current_price is not None
            and shown.current_price.is_finite()
            and shown.current_price > 0
            and not is_jump(bar.close, shown.current_price, self.config.policy.price_guard.max_jump_ratio)
        )
        if agrees:
            await self._door.bars([bar], confirmed=True)
        else:
            await self._door.run(lambda: self._engine.on_bar(bar, received_at=self._clock.now()))

    async def _driver_read(self, p: Position, held: Held) -> None:
        net, entry = self._driver.net_of(p, held)
        read = PositionRead(at=self._time.now(), qty=net, avg_entry_price=entry, reads=READS_MIN)
        await self._door.tell(p.position_id, read)

    def _was_split(self, watched: list[Position], shown: BrokerPosition) -> bool:
        qty = sum((p.remaining_qty for p in watched), Decimal(0))
        entry = shown.avg_entry_price
        return shown.qty != qty or (entry.is_finite() and all(entry != p.entry_price for p in watched))

    # --- inside: time -------------------------------------------------------------------------------------------------

    async def _watch_time(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            try:
                await self.tick()
            except (BrokerError, StoreError) as error:
                log.warning("tick_failed error=%s", error)
            except Exception:
                # The timer is what retries everything: a defect in one turn must not be its last.
                log.exception("tick_crashed")

    async def tick(self) -> None:
        """Do what has come due: timers, what is owed, look-ups, reconciliation, marks. Called by the manager itself."""
        now, mono = self._time.now(), self._clock.monotonic()
        busy = [p for p in self.positions() if p.state is not State.MONITORING]
        if busy:
            messages = [(p.position_id, self._time_seen(p)) for p in busy]
            await self._door.tell_all(messages)
            self._driver.drive([p.position_id for p in busy], now=False)
            await self._poll(busy, mono)
        await self._rules_of_time(now, mono)
        if mono >= self._sync_at:
            self._sync_at = mono + float(self.config.live.sync_seconds)
            self._spawn(self._try_sync(), "exitfsm-sync")
        if self._marks_due and mono >= self._marks_at:
            self._marks_due, self._marks_at = False, mono + MARKS_EVERY_S
            if self._keeper is not None:
                self._keeper.write()
            await self._door.run(self._save_marks)
        failure = self._keeper.failure() if self._keeper is not None else None
        if failure is not None:
            await self._raise_account_alarm("bars_not_recorded", failure)

    def _time_seen(self, p: Position) -> TimeSeen:
        """Patience runs while the market is open only: a closed one keeps everybody waiting."""
        hours = ALWAYS if self._calls.capabilities.rules(p.symbol).always_open else self._driver.hours(p.symbol)
        is_open = hours is not None and hours.is_open
        patience_s = float(self.config.live.patience_seconds) if is_open else None
        return TimeSeen(at=self._driver.now_for(p), patience_s=patience_s)

    async def _poll(self, busy: list[Position], mono: float) -> None:
        """Look working orders up now and then: an update may have been lost."""
        every = float(self.config.live.poll_seconds)
        for p in busy:
            order_id = p.client_order_id
            if order_id is None or not p.order_live or p.state is State.PENDING:
                continue
            if mono - self._polled.setdefault(order_id, mono) >= every:
                self._polled[order_id] = mono
                self._spawn(self._look_up(p.position_id, order_id), "exitfsm-poll")

    async def _look_up(self, key: str, order_id: str) -> None:
        try:
            await self._driver.look_up(key, order_id)
        except (BrokerError, StoreError) as error:
            log.warning("look_up_failed id=%s error=%s", order_id, error)

    async def _rules_of_time(self, now: datetime, mono: float) -> None:
        """Time rules where no bar comes, and a word to a person where none has come for long."""
        for p in self.positions():
            if p.state is not State.MONITORING:
                continue
            silence = self._silence_s(p.symbol, mono)
            timed = p.policy.time_limit.enabled or p.policy.end_of_session.enabled
            if timed or silence >= float(self.config.live.feed_silence_seconds):
                always = self._calls.capabilities.rules(p.symbol).always_open
                hours = ALWAYS if always else self._driver.hours(p.symbol)
                if hours is None:
                    continue
                if timed and silence >= NO_BAR_S and not self._paused:
                    price = self._engine.last_price(p.symbol) or p.entry_price
                    due = TimeSeen(at=now, price=price, session_close=hours.close)
                    await self._door.tell(p.position_id, due)
                if silence >= float(self.config.live.feed_silence_seconds) and hours.is_open:
                    text = f"no bar of {p.symbol} for {silence:.0f} s: its levels are not being watched"
                    alarm = RaiseAlarm(at=now, kind="feed_silent", text=text)
                    await self._door.tell(p.position_id, alarm)

    def _silence_s(self, symbol: str, mono: float) -> float:
        """How long no bar of a symbol has been believed; one that was refused leaves it as unwatched as none."""
        slot = self._engine.levels.slots.get(symbol)
        at = slot.previous_at if slot is not None else None
        known = self._believed.get(symbol)
        if known is None or known[0] != at:
            known = self._believed[symbol] = (at, mono)
        return mono - known[1]

    def _session_close(self, symbol: str, _: datetime) -> datetime | None:
        """For the engine, in the writer's thread: when the session ends, as last read."""
        if self._calls.capabilities.rules(symbol).always_open:
            return None
        session = self._driver.known_session(symbol)
        return session.close if session is not None else None

    def _save_marks(self) -> None:
        self.store.save_marks(self._engine.marks())

    def _on_call(self, answered: bool, method: str) -> None:
        """Sends that fail in a row open the breaker; one that gets through closes it."""
        if method not in ("submit", "cancel"):
            return
        if not answered and self._breaker.failed():
            self._record(BreakerOpened(failures=self._breaker.failures, at=self._time.now(), why=method))
        elif answered and self._breaker.succeeded():
            self._record(BreakerClosed(at=self._time.now()))
