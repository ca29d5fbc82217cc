"""Reconciling with the broker: what it holds against what is watched, order by order and position by position.

The same code runs at the start, after a reconnect, and on a timer. It is idempotent: a second run right after the first
changes nothing. An answer that fails or is empty proves nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from exitfsm import holdings
from exitfsm.aio.tasks import OneAtATime
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import bare
from exitfsm.lifecycle import State
from exitfsm.manager.adopter import Adopter
from exitfsm.manager.context import Context, Part
from exitfsm.manager.executor import Executor
from exitfsm.manager.view import View
from exitfsm.order_ids import looks_like_exit
from exitfsm.outside import logger
from exitfsm.values import ExecutionReport

log = logger("exitfsm")

#: How soon it is tried again where it failed, or where something could not be adopted yet, in seconds.
SOON_S = 1.0


class Reconciler(Part):
    """Brings what is watched in line with what the broker shows."""

    def __init__(self, context: Context, view: View, executor: Executor, adopter: Adopter) -> None:
        super().__init__(context)
        self._view, self._executor, self._adopter = view, executor, adopter
        #: When the next reconciliation is due, in monotonic seconds; since when they have failed.
        self._due_at = 0.0
        self._failing_since: float | None = None
        #: True once the broker has been reconciled with.
        self.is_done = False
        #: Its runs, one at a time.
        self.runs = OneAtATime(self._sync, "exitfsm-sync")
        #: Working orders that look like exits of ours, as the newest list shows them, until they are passed on.
        self._listed: list[ExecutionReport] = []
        #: How often in a row the list of working orders did not show an orphan order that it had shown.
        self._absent: dict[str, int] = {}
        self._is_first = True

    async def sync(self) -> None:
        """Reconcile everything with what the broker says after this call; callers that wait together share one run."""
        await self.runs.run()
        self.is_done = True
        soon = self._adopter.is_impatient()
        self._due_at = self._time.monotonic() + (SOON_S if soon else float(self._live.sync_seconds))

    async def try_sync(self) -> None:
        """The same; where it fails it is tried again soon. Where it fails for long, that is an alarm."""
        try:
            await self.sync()
        except (BrokerError, StoreError) as error:
            log.warning("sync_failed error=%s", error)
            now = self._time.monotonic()
            self._due_at = now + SOON_S
            if isinstance(error, StoreError):
                return  # a matter of the disk, of which there is an alarm; the broker answered
            self._failing_since = now if self._failing_since is None else self._failing_since
            if now - self._failing_since >= float(self._live.patience_seconds):
                text = f"the broker cannot be reconciled with: what is bought or sold since is not known here ({error})"
                self._alarms.raise_soon("not_reconciled", text)
        else:
            self._failing_since = None

    def hurry(self) -> None:
        """The next reconciliation is due at once."""
        self._due_at = 0.0

    def is_due(self, monotonic: float) -> bool:
        """True when it is time to reconcile; the next time is in a while then."""
        due = monotonic >= self._due_at
        if due:
            self._due_at = monotonic + float(self._live.sync_seconds)
        return due

    async def _sync(self) -> None:
        # Positions are read before the orders: whatever an order had filled by then, its own record says afterwards.
        expected = self._view.expectations()
        symbols = {p.symbol for p in list(self._engine.positions.values())}
        if self._is_first:
            await self._list_orders()  # nothing leaves before that
        held = await self._view.positions()
        for symbol in sorted(held.unreadable):
            of = f"for {symbol} " if symbol else ""
            text = f"an entry {of}in the broker's positions cannot be read: NOT protected"
            await self._alarms.raise_alarm("position_unreadable", text)
        await self._look_up_orders()
        if not self._is_first:
            await self._list_orders()
        for watched in expected:
            try:
                await self._view.tell_read(watched, held, expected)
            except BrokerError as error:
                log.warning("read_not_understood position=%s error=%s", watched, error)
        # One that was watched when the read began may have ended since: the read is then too old to adopt it.
        await self._adopter.adopt_all(held.rows, symbols, is_first=self._is_first)
        await self._tell_of_exits()
        self._is_first = False
        self._executor.drive([p.position_id for p in list(self._engine.positions.values())], now=False)

    async def _look_up_orders(self) -> None:
        """Look up every exit order of ours that may be live, and those that the broker has corrected."""
        due = [
            (p.position_id, order_id)
            for p in list(self._engine.positions.values())
            for order_id in p.orders_in_question
            if p.state is not State.PENDING or order_id in self._engine.unknown
        ]

        async def one(position_id: str, order_id: str) -> None:
            try:
                await self._executor.look_up(position_id, order_id)
            except BrokerError as error:
                log.warning("look_up_failed id=%s error=%s", order_id, error)

        await asyncio.gather(*(one(*which) for which in due if which[1] not in self._sends.under_way))

    async def _list_orders(self) -> None:
        """Note the working orders of the account: those of others, and orphan orders that look like ours."""
        self._orders.not_listed()
        began = self._time.monotonic()
        try:
            orders = await self._working_orders() if self._calls.has("open_orders") else None
        except BrokerError as error:
            log.warning("open_orders_failed error=%s", error)
            orders = None
        if orders is None:
            if not self._calls.has("open_orders"):
                self._orders.wait_for_no_list()  # it has none, or has just said that it is not implemented
            return
        orders = [self._orders.under_our_id(report) for report in orders]
        self._orders.forget_foreign(before=began)
        self._listed = [report for report in orders if looks_like_exit(report.client_order_id)]
        # Known before anything is adopted that could send a second one.
        orphans = {
            report.client_order_id: bare(report.symbol)
            for report in self._listed
            if report.symbol is not None and await self._mailbox.owner_of(report.client_order_id) is None
        }
        gone = {key: symbol for key, symbol in self._orders.orphans.items() if key not in orphans}
        gone_and_working = {key: symbol for key, symbol in gone.items() if await self._may_work(key)}
        self._orders.listed(list(self._listed), orphans | gone_and_working)
        self._absent = {key: times for key, times in self._absent.items() if key in gone}
        for report in orders:
            if not looks_like_exit(report.client_order_id):
                self._orders.note_foreign(report, self._time.monotonic())

    async def _working_orders(self) -> list[ExecutionReport]:
        """The working orders of the account."""
        if self._is_first:
            # Nothing is remembered: where an answer is missing or empty, an exit that works would not be seen, and a
            # second one sent.
            with suppress(BrokerError):
                if orders := await self._calls.open_orders():
                    return orders
        return await self._calls.open_orders()

    async def _may_work(self, order_id: str) -> bool:
        """False for an orphan order that the list of working orders does not show any more, once that is proved."""
        times = self._absent[order_id] = self._absent.get(order_id, 0) + 1
        try:
            report = await self._calls.order(order_id) if self._calls.asks_by_our_id else None
        except BrokerError as error:
            log.warning("look_up_failed id=%s error=%s", order_id, error)
            return True
        return holdings.may_still_work(report, times)

    async def _tell_of_exits(self) -> None:
        """Working orders that look like exits of ours: reports for their positions, and alarms where there is none."""
        listed, self._listed = self._listed, []
        for report in listed:
            order_id = report.client_order_id
            if await self._mailbox.owner_of(order_id) is not None:
                self._orders.orphans.pop(order_id, None)
                await self._mailbox.report(report)
            else:
                alarm = holdings.stranger(report, list(self._engine.positions.values()))
                await self._alarms.raise_alarm(alarm.kind, alarm.text)
