"""A paper run: recorded bars through the live manager, on the simulated broker, with time that follows the bars.

Everything but the venue and the clock is what runs live: the manager, its store, its timers, its reconciliation. A
small stand-in for a bot enters each symbol once (and again, where wanted, whenever the manager lets it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal

from exitfsm.clocks import ManualClock
from exitfsm.config import ExitConfig
from exitfsm.manager.manager import ExitManager
from exitfsm.others.alarms import OnAlarm, OnEvent
from exitfsm.policy import is_jump
from exitfsm.simulate import market_session
from exitfsm.simulated import SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.values import Bar, ExecutionReport, Side

#: The account name of paper runs.
PAPER_ACCOUNT = "paper"


class PaperRun:
    """One paper run.

    Args:
        config: the rules and the live settings.
        store: the store, or its path; a run continues what an earlier one left open only if its broker does too, so
            give a new one.
        qty, side: what the stand-in enters, at the close of a symbol's first bar.
        re_enter: enter again whenever the symbol is flat and `may_enter` allows it.
        pace_s: real seconds to wait between bars, to watch it; 0 runs as fast as it goes.
        on_event, on_alarm: told as the manager tells them.
    """

    def __init__(
        self,
        config: ExitConfig,
        store: ExitStore | str,
        *,
        qty: Decimal = Decimal(10),
        side: Side = Side.LONG,
        re_enter: bool = False,
        pace_s: float = 0.0,
        on_event: OnEvent | None = None,
        on_alarm: OnAlarm | None = None,
    ) -> None:
        self._config, self._store = config, store
        self._qty, self._side, self._re_enter, self._pace_s = qty, side, re_enter, pace_s
        self._on_event, self._on_alarm = on_event, on_alarm
        self.broker = SimulatedBroker(hours=lambda symbol, at: market_session(config.session, symbol, at))
        self.bars = 0
        self._entered: set[str] = set()
        self._prices: dict[str, Decimal] = {}
        self._updates: list[ExecutionReport] = []

    async def run(self, bars: Iterable[Bar], progress: Callable[[int], None] | None = None) -> ExitManager:
        """Feed all bars, then stop the manager and return it; its store has everything that happened."""
        self.broker.subscribe(self._updates.append)
        manager: ExitManager | None = None
        clock: ManualClock | None = None
        try:
            for bar in bars:
                if manager is None or clock is None:
                    clock = ManualClock(bar.timestamp)
                    manager = await self._started(clock)
                clock.move_to(bar.timestamp)
                await self._one(manager, bar)
                if progress is not None:
                    progress(self.bars)
                if self._pace_s > 0:
                    await asyncio.sleep(self._pace_s)
            return (
                manager if manager is not None else await self._started(ManualClock(datetime.min.replace(tzinfo=UTC)))
            )
        finally:
            if manager is not None:
                await manager.stop()

    async def _started(self, clock: ManualClock) -> ExitManager:
        manager = ExitManager(
            self.broker,
            self._store,
            config=self._config,
            strategy_name="paper",
            account=PAPER_ACCOUNT,
            clock=clock,
            on_event=self._on_event,
            on_alarm=self._on_alarm,
        )
        await manager.start()
        return manager

    async def _one(self, manager: ExitManager, bar: Bar) -> None:
        self.bars += 1
        if self._is_traded_on(bar):
            self._prices[bar.symbol] = bar.close
            self.broker.on_bar(bar)
        await self._deliver(manager)
        await manager.tick()
        await manager.settled()
        await manager.on_bar(bar)
        await manager.settled()
        await self._deliver(manager)
        if bar.floor > 0 and self._may_enter(manager, bar):
            self._entered.add(bar.symbol)
            self.broker.hold(bar.symbol, self._side, self._qty, bar.close, bar.timestamp)
            await manager.sync()

    def _is_traded_on(self, bar: Bar) -> bool:
        """False for a bar that the venue must not know.

        Where a held position's price jumps beyond belief, the venue is asked for its own; one that only repeats the
        same bar would confirm a split as a crash.
        """
        price, guard = self._prices.get(bar.symbol), self._config.policy.price_guard
        if not bar.floor > 0:
            return False
        if price is None or not guard.enabled or self.broker.held(bar.symbol) == 0:
            return True
        return not any(is_jump(one, price, guard.max_jump_ratio) for one in (bar.open, bar.close))

    async def _deliver(self, manager: ExitManager) -> None:
        """Hand over the broker's updates, as its stream would."""
        while self._updates:
            await manager.on_order_update(self._updates.pop(0))
            await manager.settled()

    def _may_enter(self, manager: ExitManager, bar: Bar) -> bool:
        if self.broker.held(bar.symbol) != 0 or (bar.symbol in self._entered and not self._re_enter):
            return False
        return manager.may_enter(bar.symbol, bar.timestamp)
