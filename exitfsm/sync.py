"""`ExitManager` for bots without asyncio: the same calls, plain ones, safe from any thread.

Rules of this room: nothing is decided here. The manager runs as ever, on an event loop of its own in a thread of its
own; a call is carried out there and waited for. A question that only reads memory is answered where it is asked.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from datetime import datetime
from decimal import Decimal
from typing import Any, Self, TypeVar

from exitfsm import manager
from exitfsm.config import ExitConfig
from exitfsm.custom_rules import CustomRuleFunction
from exitfsm.errors import StoreError
from exitfsm.holdings import OnSide
from exitfsm.others.alarms import OnAlarm, OnEvent
from exitfsm.others.settings import CONFIGURATION
from exitfsm.outside import log
from exitfsm.policy import ExitPolicy
from exitfsm.ports import Broker, Clock, EventBus
from exitfsm.position import Position
from exitfsm.store import ExitStore
from exitfsm.values import Alarm, Side

T = TypeVar("T")

NOT_STARTED = "not started: call manager.start() first, or use `with manager:`"
_STOPPED = "the manager is stopped"
_INSIDE = (
    "called in the manager's own thread, by a callback or a broker of its: that would wait for itself for ever; hand "
    "the call to another thread (positions, alarms, may_enter and entry_block may be asked anywhere)"
)
_FORKED = "the manager was started before a fork: start one of its own in the new process, on another store"


class _Home:
    """An event loop in a thread, from its birth to `close`."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.starting = asyncio.Lock()
        self.is_ending = False
        self._loop = asyncio.new_event_loop()
        self._taking, self._is_closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name="exitfsm-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._wind_up())
            self._loop.close()

    async def _wind_up(self) -> None:
        """Whoever still waits for something hears that it does not come."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Have work done there, and wait for it.

        Raises:
            RuntimeError: it cannot be waited for from here.
            StoreError: the loop has ended before it.
        """
        if self.pid != os.getpid() or threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(_INSIDE if self.pid == os.getpid() else _FORKED)
        with self._taking:
            if self._is_closed:
                work.close()
                raise StoreError(_STOPPED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise StoreError(_STOPPED) from None

    def close(self) -> None:
        """End the loop; nothing of it is left. May be called twice."""
        with self._taking:
            was_closed, self._is_closed = self._is_closed, True
        if not was_closed:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class ExitManager:
    """`exitfsm.manager.ExitManager`, with plain calls that return when the work is done.

    What each call means, takes and raises is said there. Differences: `with` for `async with`; `pause`, `resume`,
    `acknowledge` and `release` return when it is durable; `on_event`, `on_alarm` and an async broker are called in the
    manager's thread, and must not call the manager back there, but for its questions. Where the broker's methods are
    plain, they are called in further threads.

    Calls may come from any thread, at once. A bot that ends without `stop` loses nothing: what is owed is in the store.
    """

    def __init__(  # the constructor that it stands for
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
        self._manager = manager.ExitManager(
            broker,
            state_store,
            event_bus,
            config,
            strategy_name,
            account=account,
            clock=clock,
            rules=rules,
            on_event=on_event,
            on_alarm=on_alarm,
            standby=standby,
        )
        self._changing = threading.Lock()
        self._home: _Home | None = None
        self._was_started = False

    @property
    def config(self) -> ExitConfig:
        """The configuration in effect."""
        return self._manager.config

    @property
    def strategy_name(self) -> str:
        """The label on the positions it watches."""
        return self._manager.strategy_name

    @property
    def store(self) -> ExitStore:
        """The store it works on; `RuntimeError` before the start."""
        return self._manager.store

    @property
    def lost_to(self) -> str | None:
        """Who has taken the store from this manager, in words; it has stopped then."""
        return self._manager.lost_to

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """See `exitfsm.manager.ExitManager.start`; idempotent, also from several threads at once."""
        with self._changing:
            home = self._home = self._home or _Home()
        try:
            home.call(self._start(home))
        except BaseException:
            if not self._was_started:
                self._leave(home)
            raise

    async def _start(self, home: _Home) -> None:
        async with home.starting:
            if home.is_ending:
                raise StoreError(_STOPPED)
            await self._manager.start()
            self._was_started = True

    def stop(self) -> None:
        """See `exitfsm.manager.ExitManager.stop`; no thread is left. Idempotent; a standby's `start` ends, too."""
        home = self._home
        if home is not None:
            home.call(self._stop(home))
            self._leave(home)

    async def _stop(self, home: _Home) -> None:
        home.is_ending = True
        await self._manager.stop()
        async with home.starting:  # a start that was under way meanwhile has come to its end
            await self._manager.stop()

    def _leave(self, home: _Home) -> None:
        with self._changing:
            if self._home is home:
                self._home = None
        home.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what comes in ------------------------------------------------------------------------------------------------

    def on_bar(self, bar: Any, symbol: str | None = None) -> None:
        """See `exitfsm.manager.ExitManager.on_bar`."""
        self._take(lambda: self._manager.on_bar(bar, symbol), "bars_ignored")

    def on_bars(self, bars: Sequence[Any] | Mapping[str, Any]) -> None:
        """See `exitfsm.manager.ExitManager.on_bars`."""
        self._take(lambda: self._manager.on_bars(bars), "bars_ignored")

    def on_price(self, symbol: str, price: Any = None, *, bid: Any = None, ask: Any = None, at: Any = None) -> None:
        """See `exitfsm.manager.ExitManager.on_price`."""
        self._take(lambda: self._manager.on_price(symbol, price, bid=bid, ask=ask, at=at), "bars_ignored")

    def on_order_update(self, update: Any) -> None:
        """See `exitfsm.manager.ExitManager.on_order_update`."""
        self._take(lambda: self._manager.on_order_update(update), "update_ignored")

    def watch(
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
        """See `exitfsm.manager.ExitManager.watch`."""
        more: dict[str, Any] = {"atr": atr, "policy": policy}
        return self._call(lambda: self._manager.watch(symbol, side, qty, entry_price, first_fill_at, **more))

    def sync(self) -> None:
        """See `exitfsm.manager.ExitManager.sync`."""
        self._call(self._manager.sync)

    # --- questions ----------------------------------------------------------------------------------------------------

    def may_enter(self, symbol: str, at: datetime | None = None, side: OnSide = None) -> bool:
        """See `exitfsm.manager.ExitManager.may_enter`."""
        return self._manager.may_enter(symbol, at, side)

    def entry_block(self, symbol: str, at: datetime | None = None, side: OnSide = None) -> str | None:
        """See `exitfsm.manager.ExitManager.entry_block`."""
        return self._manager.entry_block(symbol, at, side)

    def positions(self) -> list[Position]:
        """See `exitfsm.manager.ExitManager.positions`."""
        return self._manager.positions()

    def alarms(self) -> list[Alarm]:
        """See `exitfsm.manager.ExitManager.alarms`."""
        return self._manager.alarms()

    def settled(self) -> None:
        """See `exitfsm.manager.ExitManager.settled`."""
        self._call(self._manager.settled)

    # --- operators ----------------------------------------------------------------------------------------------------

    def force_exit(
        self,
        symbol: str,
        reason: str = "",
        *,
        who: str = "operator",
        qty: Decimal | float | str | None = None,
        side: OnSide = None,
    ) -> list[Position]:
        """See `exitfsm.manager.ExitManager.force_exit`."""
        return self._call(lambda: self._manager.force_exit(symbol, reason, who=who, qty=qty, side=side))

    def flatten_all(self, reason: str = "", *, who: str = "operator") -> list[Position]:
        """See `exitfsm.manager.ExitManager.flatten_all`."""
        return self._call(lambda: self._manager.flatten_all(reason, who=who))

    def change_policy(
        self,
        /,
        symbol: str,
        policy: ExitPolicy | Mapping[str, Any] | None = None,
        *,
        who: str = "operator",
        reason: str = "",
        **sections: Any,
    ) -> list[Position]:
        """See `exitfsm.manager.ExitManager.change_policy`."""
        return self._call(lambda: self._manager.change_policy(symbol, policy, who=who, reason=reason, **sections))

    def set_stop(
        self, symbol: str, price: Decimal | float | str, *, who: str = "operator", reason: str = ""
    ) -> list[Position]:
        """See `exitfsm.manager.ExitManager.set_stop`."""
        return self._call(lambda: self._manager.set_stop(symbol, price, who=who, reason=reason))

    def reload(
        self, config: ExitConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None, *, who: str = CONFIGURATION
    ) -> list[str]:
        """See `exitfsm.manager.ExitManager.reload`."""
        return self._call(lambda: self._manager.reload(config, who=who))

    def pause(self, who: str = "operator", why: str = "") -> None:
        """See `exitfsm.manager.ExitManager.pause`."""
        self._call_begun(lambda: self._manager.pause(who, why))

    def resume(self, who: str = "operator") -> None:
        """See `exitfsm.manager.ExitManager.resume`."""
        self._call_begun(lambda: self._manager.resume(who))

    def acknowledge(self, alarm: Alarm | str, who: str = "operator") -> None:
        """See `exitfsm.manager.ExitManager.acknowledge`."""
        self._call_begun(lambda: self._manager.acknowledge(alarm, who))

    def release(self, position: Position | str, who: str = "operator", order_not_there: bool = False) -> None:
        """See `exitfsm.manager.ExitManager.release`."""
        self._call_begun(lambda: self._manager.release(position, who, order_not_there))

    def tick(self) -> None:
        """See `exitfsm.manager.ExitManager.tick`."""
        self._call(self._manager.tick)

    # --- how a call gets there ----------------------------------------------------------------------------------------

    def _call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have work done in the manager's thread.

        Raises:
            RuntimeError: it is not started, or is asked in its own thread.
            StoreError: it is stopped.
        """
        home = self._home
        if home is None:
            raise StoreError(_STOPPED) if self._was_started else RuntimeError(NOT_STARTED)
        return home.call(work())

    def _call_begun(self, begin: Callable[[], Awaitable[None]]) -> None:
        """The same for a command that is begun there and then waited for."""
        self._call(lambda: _awaited(begin))

    def _take(self, work: Callable[[], Coroutine[Any, Any, None]], ignored: str) -> None:
        """Have it take something in; what comes after a stop is logged, as a feed may outlive its manager."""
        if self._home is None and self._was_started:
            log.warning("%s why=stopped", ignored)
            return
        self._call(work)


async def _awaited(begin: Callable[[], Awaitable[None]]) -> None:
    await begin()


__all__ = ["ExitManager"]
