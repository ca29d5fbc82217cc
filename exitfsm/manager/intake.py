"""What the bot hands in: bars and order updates, in its own shapes, as far as they can be read.

What cannot be read decides nothing, and is said. What decides something is durable before the call returns; the orders
that it leads to leave on their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from exitfsm.bar_keeping import BarKeeper
from exitfsm.broker.market import bar_of
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import brings_fills, leaves_open, may_be_ours, precedes_a_change
from exitfsm.manager.context import Context
from exitfsm.manager.executor import Executor
from exitfsm.manager.reconciler import Reconciler
from exitfsm.manager.timer import Timer
from exitfsm.order_ids import looks_like_exit
from exitfsm.outside import logger
from exitfsm.values import Bar, ExecutionReport

log = logger("exitfsm")

#: How long an update waits until a new position is taken up; a bot with one consumer has bars waiting behind.
SYNC_WAIT_S = 1.0


class Intake:
    """Reads what comes in, and tells the parts that it concerns."""

    def __init__(
        self, context: Context, executor: Executor, reconciler: Reconciler, timer: Timer, keeper: BarKeeper | None
    ) -> None:
        self._engine, self._mailbox, self._calls = context.engine, context.mailbox, context.calls
        self._time, self._tasks, self._alarms = context.given.time, context.tasks, context.alarms
        self._orders = context.orders
        self._executor, self._reconciler, self._timer, self._keeper = executor, reconciler, timer, keeper

    # --- bars ---------------------------------------------------------------------------------------------------------

    async def bars(self, bars: Sequence[Any] | Mapping[str, Any]) -> None:
        """Many bars at once, in order or by symbol; returns when what they decided is durable, or could not be."""
        named = bars.items() if isinstance(bars, Mapping) else ((None, bar) for bar in bars)
        readable = [bar for symbol, raw in named if (bar := self._readable(raw, symbol)) is not None]
        for bar in readable:
            self._orders.note_spelling(bar.symbol)
        self._timer.prices_moved()
        arrived_at = self._time.now()
        others = self._keep(readable, arrived_at)
        try:
            await self._mailbox.bars(readable)
        except StoreError:
            return  # reported by the group; the next bar decides it again
        finally:
            # What was entered while its bar waited in the mailbox was told that bar, too.
            self._keep([bar for bar in others if bar.symbol in self._engine.levels.slots], arrived_at, new=True)
        await self._executor.grace()

    def _readable(self, raw: Any, symbol: str | None) -> Bar | None:
        try:
            return bar_of(raw, symbol)
        except (BrokerError, ValueError) as error:
            log.warning("bar_unreadable error=%s", error)
            self._alarms.raise_soon("bar_unreadable", f"a bar cannot be read, so nothing is decided on it: {error}")
            return None

    def _keep(self, bars: Sequence[Bar], arrived_at: datetime, *, new: bool = False) -> list[Bar]:
        """Keep the bars whose symbol was ever held (`new`: all of them); returns the others."""
        keeper = self._keeper
        if keeper is None:
            return []
        for bar in bars:
            if new or keeper.keeps(bar.symbol):
                keeper.note(bar, arrived_at)
        return [bar for bar in bars if not keeper.keeps(bar.symbol)]

    # --- order updates ------------------------------------------------------------------------------------------------

    async def update(self, update: Any) -> None:
        """Alarms of any order of the account. One that is not understood makes the orders be looked up."""
        try:
            report = self._calls.report_of(update)
        except (BrokerError, ValueError) as error:
            log.warning("update_unreadable error=%s", error)
            report = None
        if report is None or may_be_ours(list(self._engine.positions.values()), report):
            log.warning("update_not_understood type=%s", type(update).__name__)
            self._reconciler.hurry()
            return
        report = self._orders.under_our_id(report)
        try:
            if looks_like_exit(report.client_order_id):
                await self._on_ours(report)
            else:
                await self._on_foreign(report)
        except StoreError:
            return  # reported by the group; the order is looked up again
        await self._executor.grace()

    async def _on_ours(self, report: ExecutionReport) -> None:
        """An exit of ours. One that has filled, nobody says how much, is looked up.

        So is one of which the broker has corrected an execution: news may be older than the correction. And news from
        before our order was changed at the broker are not taken for another change.
        """
        p = self._engine.positions.get(self._engine.known_owner(report.client_order_id) or "")
        if p is not None and self._calls.asks_by_our_id and precedes_a_change(p, report):
            self._timer.look_up_soon(p.position_id, report.client_order_id)
            return
        await self._mailbox.report(report)
        p = self._engine.positions.get(self._engine.known_owner(report.client_order_id) or "")
        if p is not None and leaves_open(p, report):
            self._timer.look_up_soon(p.position_id, report.client_order_id)

    async def _on_foreign(self, report: ExecutionReport) -> None:
        """An order that is not ours: remember it while it works; what it filled is taken up at once."""
        self._orders.note_foreign(report, self._time.monotonic())
        if not brings_fills(report):
            return
        self._orders.note_fills(report)
        sync = self._tasks.spawn(self._reconciler.try_sync(), "exitfsm-sync")
        await asyncio.wait([sync], timeout=SYNC_WAIT_S)
