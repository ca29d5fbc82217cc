"""`ExitManager`: watches a running bot's positions and gets it out of them.

It decides nothing itself. Its parts bring bars, order updates, what the broker shows and the passing of time to the
engine, and carry out what the engine says is owed. Start-up recovery is not a path of its own: open positions are
loaded, everything is reconciled with the broker, and what is then still owed is done.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any

from exitfsm import holdings
from exitfsm.aio.bus import Subscription, check_bus
from exitfsm.aio.loops import NOT_STARTED, Begun, handed_over, home, on_its_loop, running
from exitfsm.alerts import Alerting
from exitfsm.broker.fitting import Fitting
from exitfsm.broker.market import is_bar
from exitfsm.broker.orders import is_order_update
from exitfsm.clocks import SteadyTime, SystemClock
from exitfsm.config import ExitConfig, load_config
from exitfsm.custom_rules import CustomRuleFunction
from exitfsm.engine import Engine
from exitfsm.errors import StoreError, StoreLocked
from exitfsm.events import Event
from exitfsm.manager.context import Given, in_order
from exitfsm.manager.intake import CONFIRM
from exitfsm.manager.mailbox import Mailbox
from exitfsm.manager.parts import Parts
from exitfsm.others.alarms import OnAlarm, OnEvent
from exitfsm.others.entering import MayEnter
from exitfsm.others.pausing import Pausable
from exitfsm.others.prices import Prices
from exitfsm.others.settings import Adjustable, Settings
from exitfsm.outside import log
from exitfsm.ownership import Opening
from exitfsm.policy import ExitPolicy
from exitfsm.ports import Broker, Clock, EventBus
from exitfsm.position import Position, account_hash
from exitfsm.sessions import asks_the_broker
from exitfsm.store import ExitStore
from exitfsm.values import Alarm, Side, decimal_of, symbol_key, utc


class ExitManager(Adjustable, MayEnter, Pausable, Prices):
    """Gets a bot out of its positions: exactly once, through crashes, with every step recorded.

    Args:
        broker: anything with the methods of the `Broker` port, plain or async; its `capabilities` attribute says what
            it can do, and where it has none the most careful assumptions hold.
        state_store: an `ExitStore`, or the path or URL of one (then it is opened and closed here).
        event_bus: anything with `subscribe(handler)`; it brings bars and order updates. None: call `on_bar` and
            `on_order_update` yourself.
        config: an `ExitConfig`, a mapping, or the path of a YAML file; the defaults when None.
        strategy_name: a label on the positions it watches.
        account: names the account; enters ids and the store as a hash only.
        clock: the system's clock when None.
        standby: wait at the start until the store is nobody else's, and take it where its owner on a server has been
            silent for `live.takeover_after_seconds`. The process that writes a file is only waited for.
        rules: functions for `custom_rule`, by (name, version).
        on_event: called with (position or None, recorded event) for each event, after it is durable.
        on_alarm: called for each alarm that goes up, and at the start for each that is active.

    It works on the event loop of `start`; what is called elsewhere is carried out there. Callbacks may be plain or
    async; one that raises is logged and harms nothing.
    """

    def __init__(  # noqa: PLR0913  # the public constructor: a bot names what it needs
        self,
        broker: Broker,
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
        standby: bool = False,
    ) -> None:
        self.config, self._config_given = load_config(config) if config is not None else ExitConfig(), config
        self.strategy_name = strategy_name
        self._broker, self._store_given, self._bus = broker, state_store, event_bus
        self._subscription, self._alerting = Subscription(event_bus), Alerting(self.config.alerts, self.alarms)
        clock = clock or SystemClock()
        self._given = Given(
            config=self.config,
            account=account_hash(account),
            strategy_name=strategy_name,
            clock=clock,
            time=SteadyTime(clock),
            rules=rules,
            on_event=on_event,
            on_alarm=on_alarm,
        )
        after_s = float(self.config.live.takeover_after_seconds) if standby else None
        self._opening = Opening(state_store, self._given.account, after_s)
        self._starting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._made: Parts | None = None

    @property
    def store(self) -> ExitStore:
        """The store it works on; `RuntimeError` before the start."""
        return self._parts.store

    @property
    def _parts(self) -> Parts:
        """What it is made of since the last start."""
        if self._made is None:
            raise RuntimeError(NOT_STARTED)
        return self._made

    @property
    def _at_work(self) -> Parts:
        """The same for a command, which must not come to nothing without an error."""
        if not self._parts.running:
            raise StoreError("the manager is stopped")
        return self._parts

    @property
    def _settings(self) -> tuple[Settings, Mailbox]:
        return self._at_work.context.settings, self._at_work.context.mailbox

    def _goes_by(self, config: ExitConfig) -> None:
        self.config, self._given = config, replace(self._given, config=config)

    @property
    def _running(self) -> bool:
        return self._made is not None and self._made.running

    @property
    def _engine(self) -> Engine:
        return self._parts.context.engine

    @property
    def lost_to(self) -> str | None:
        """Who has taken the store from this manager, in words; it has stopped then. None while nobody has."""
        return self._made.ownership.lost if self._made is not None else None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, restore what was under way, reconcile with the broker, and begin to watch. Idempotent.

        A broker that cannot be reached does not keep it from starting: it is asked again, and until it has answered
        once nothing may be entered.

        Raises:
            ConfigError: the broker or the bus lacks what is needed; every mistake at once, each with what to do.
            StoreError: the store cannot be opened, or belongs to another account.
            RuntimeError: it was started already, on an event loop that does not run any more.
        """
        async with self._starting:
            if self._running:
                running(self._loop)
            else:
                await self._start()

    async def _start(self) -> None:
        loop, fitting = home(), Fitting(self._broker)
        fitting.check(needs_session=asks_the_broker(self.config))
        check_bus(self._bus)
        store = await self._opening.opened()
        self._made, self._loop = Parts(self._given, store, fitting, is_own=store is not self._store_given), loop
        try:
            await self._made.ownership.begin(self._stop)
            await self._made.begin()
        except BaseException:
            await self._made.ownership.end()
            self._made = self._loop = None
            raise
        self._alerting.begin(store)
        await self._subscription.begin(self._on_bus_event)
        await self._made.reconciler.try_sync()
        self._made.context.tasks.spawn(self._made.timer.watch(), "exitfsm-time")
        if self._made.ownership.lost is not None:
            await self._stop()
            raise StoreLocked(self._made.ownership.lost)

    async def stop(self) -> None:
        """Stop watching, or waiting (a standby's `start` raises `StoreError`). Idempotent; what is owed stays owed."""
        self._opening.end()
        if self._running:
            await self._stop()

    @on_its_loop
    async def _stop(self) -> None:
        if self._parts.running:
            await self._parts.end(self._subscription.end, self._alerting.end)

    async def __aenter__(self) -> ExitManager:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- what comes in ------------------------------------------------------------------------------------------------

    async def on_bar(self, bar: Any, symbol: str | None = None) -> None:
        """A bar, of any symbol; returns when what it decided is durable. Orders leave on their own.

        It is a `Bar`, or anything with timestamp, prices and symbol (or that beside it); an unreadable one is an alarm.
        """
        await self.on_bars([bar] if symbol is None else {symbol: bar})

    @on_its_loop
    async def on_bars(self, bars: Sequence[Any] | Mapping[str, Any]) -> None:
        """Many bars at once, in order or by symbol: what breaches together is committed together."""
        if not self._running:
            log.warning("bars_ignored count=%s why=stopped", len(bars))
            return
        await self._parts.intake.bars(bars)

    @on_its_loop
    async def on_order_update(self, update: Any) -> None:
        """A report on any order of the account: an exit of ours, or an entry of the bot.

        It is an `ExecutionReport`, or an order or update in the broker's own shape, and may come late, doubled or out
        of order. One that is not understood makes the order be looked up.
        """
        if not self._running:
            log.warning("update_ignored why=stopped")
            return
        await self._parts.intake.update(update)

    @on_its_loop
    async def watch(  # noqa: PLR0913  # what a position is, and what a bot may say of it
        self,
        symbol: str,
        side: Side | str,
        qty: Decimal | float | str,
        entry_price: Decimal | float | str,
        first_fill_at: datetime,
        *,
        atr: Decimal | None = None,
        policy: ExitPolicy | Mapping[str, Any] | None = None,
    ) -> Position:
        """Watch a position from now on, before a reconciliation finds it. Repeating it changes nothing.

        Where the symbol is watched, that position is returned as it is, unless this was filled after its exit began.

        Args:
            symbol, side, qty, entry_price: what is held, at which average price.
            first_fill_at: the broker's time of the first fill since the symbol was flat; it names the position.
            atr: average true range at the entry, for `atr_levels`.
            policy: settings of its own, as of `change_policy`; a position that has its own already keeps them.

        Raises:
            ConfigError: the policy cannot be had.
            ValueError: quantity or price is not a finite number above 0, or the symbol is none.
        """
        adopter, kind, entry = self._at_work.adopter, Side(str(side)), decimal_of(entry_price)
        more = {"atr": atr, **self._settings[0].at_entry(policy, kind, entry)}
        return await adopter.watch(symbol, kind, decimal_of(qty), entry, utc(first_fill_at), more)

    @on_its_loop
    async def sync(self) -> None:
        """Reconcile with the broker now.

        Raises:
            BrokerError: the broker did not answer; nothing was concluded from that.
        """
        await self._at_work.reconciler.sync()

    # --- questions ----------------------------------------------------------------------------------------------------

    def _account(self, symbol: str, side: Side | None) -> holdings.Account | None:
        is_watching = self._loop is not None and not self._loop.is_closed()
        return self._made.account(symbol, side) if self._made is not None and is_watching else None

    def _now(self) -> datetime:
        return self._given.time.now()

    def _record(self, event: Event) -> asyncio.Task[None]:
        return self._parts.context.alarms.record(event)

    def positions(self) -> list[Position]:
        """All open positions, oldest first; none before the start."""
        return in_order(self._engine) if self._made is not None else []

    def alarms(self) -> list[Alarm]:
        """All active alarms, oldest first; none before the start."""
        active = list(self._made.context.alarms.active.values()) if self._made is not None else []
        return sorted((alarm for _, alarm in active), key=lambda a: (a.raised_at, a.alarm_id))

    @on_its_loop
    async def settled(self) -> None:
        """Return when nothing is being carried out or confirmed. What waits for time or for the broker still waits."""
        parts = self._parts
        while under_way := [*parts.executor.workers.tasks, *parts.context.tasks.named(CONFIRM)]:
            await asyncio.wait(under_way)
            await asyncio.sleep(0)

    # --- operators ----------------------------------------------------------------------------------------------------

    @on_its_loop
    async def force_exit(
        self, symbol: str, reason: str = "", *, who: str = "operator",
        qty: Decimal | float | str | None = None, side: holdings.OnSide = None,
    ) -> list[Position]:  # fmt: skip
        """Exit all positions of a symbol now, whatever their levels; returns them. Repeating it does no more.

        With `qty` so much is sold, and the rest is watched on. An exit under way goes on; an unprotected position gets
        one more attempt (`qty` at most) after its orders were looked up. Where nothing can be done, the alarm
        `not_done` says why. In hedge mode `side` must say which of two.
        """
        name, most = symbol_key(str(symbol)), decimal_of(qty) if qty is not None else None
        positions = holdings.meant(self.positions(), name, side, self._engine.broker)
        return await self._at_work.operators.force(positions, {"reason": reason, "who": who, "at_most": most})

    @on_its_loop
    async def flatten_all(self, reason: str = "", *, who: str = "operator") -> list[Position]:
        """Exit everything, now; returns the positions concerned. What is not watched yet is asked for, and follows."""
        return await self._at_work.operators.flatten({"reason": reason, "who": who})

    def acknowledge(self, alarm: Alarm | str, who: str = "operator") -> Awaitable[None]:
        """A person has seen an alarm; it is no longer active. Await it to know that it is durable."""
        alarm_id = alarm if isinstance(alarm, str) else alarm.alarm_id
        return Begun(self._loop, lambda: self._at_work.context.alarms.acknowledge(alarm_id, who))

    def release(self, position: Position | str, who: str = "operator", order_not_there: bool = False) -> Begun:
        """Hand an unprotected position back to the rules, with what the broker shows now, unless an order may be live.

        Where nothing is shown, it has ended: then the operator's word makes up for the missing execution.
        `order_not_there` is the operator's word that an order which is not known to have arrived does not exist: the
        attempt ends. An unknown position is a `ValueError`.
        """
        key = position if isinstance(position, str) else position.position_id

        def begin() -> asyncio.Task[None]:
            released = self._at_work.operators.release(key, who, not_there=order_not_there)
            return self._parts.context.tasks.spawn(released, "exitfsm-release")

        return Begun(self._loop, begin)

    @on_its_loop
    async def tick(self) -> None:
        """Do what has come due: timers, what is owed, look-ups, reconciliation, marks. Called by the manager itself."""
        await self._at_work.timer.tick()

    def _on_bus_event(self, event: Any) -> Any:
        """For the bus: whether it awaits what comes back or not, and from whatever thread it calls."""
        take = self.on_bar if is_bar(event) else self.on_order_update if is_order_update(event) else None
        assert self._loop is not None  # subscribed in start
        work = partial(take, event) if take is not None and self._running else None
        return handed_over(self._loop, work, lambda begun: self._parts.context.tasks.spawn(begun, "exitfsm-bus"))
