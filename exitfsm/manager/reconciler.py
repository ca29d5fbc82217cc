"""Reconciling with the broker: what it holds against what is watched, order by order and position by position.

The same code runs at the start, after a reconnect, and on a timer. It is idempotent: a second run right after the first
changes nothing. It never invents exposure: what it takes up is what the broker shows, named by the broker's own fills;
what it cannot name or price is an alarm. An answer that fails or is empty proves nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from exitfsm import holdings
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import bare
from exitfsm.lifecycle import State
from exitfsm.manager.adopter import Adopter
from exitfsm.manager.context import Context
from exitfsm.manager.executor import Executor
from exitfsm.manager.tasks import begin_shared, shared
from exitfsm.manager.view import View
from exitfsm.order_ids import looks_like_exit
from exitfsm.outside import logger
from exitfsm.values import ExecutionReport

log = logger("exitfsm")

#: Attempts of a position that are looked up one after another when its record may be lost.
ATTEMPTS_PROBED_MAX = 50
#: How soon it is tried again where it failed, or where something could not be taken up yet, in seconds.
SOON_S = 1.0
#: How many positions are taken up at the same time.
ADOPTED_AT_ONCE = 16


class Reconciler:
    """Brings what is watched in line with what the broker shows."""

    def __init__(self, context: Context, view: View, executor: Executor, adopter: Adopter) -> None:
        self._engine, self._mailbox, self._calls = context.engine, context.mailbox, context.calls
        self._time, self._clock = context.given.time, context.given.clock
        self._alarms, self._orders = context.alarms, context.orders
        self._view, self._executor, self._adopter = view, executor, adopter
        self._live = context.given.config.live
        #: When the next reconciliation is due, in monotonic seconds; since when they have failed.
        self._due_at = 0.0
        self._failing_since: float | None = None
        #: True once the broker has been reconciled with.
        self.is_done = False
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[None] | None = None
        self._strange: list[ExecutionReport] = []
        #: How often in a row the list of working orders did not show an exit of ours that it had shown.
        self._absent: dict[str, int] = {}
        self._first_sync = True

    async def sync(self) -> None:
        """Reconcile everything with what the broker says after this call; callers that wait together share one run.

        Raises:
            BrokerError: the broker did not answer; nothing was concluded from that.
        """
        if self._lock.locked():
            if self._waiting is None or self._waiting.done():
                self._waiting = begin_shared(self._exclusive(), "exitfsm-sync")
            await shared(self._waiting)
        else:
            await self._exclusive()
        self.is_done = True
        self._due_in(SOON_S if self._adopter.is_impatient() else float(self._live.sync_seconds))

    async def try_sync(self) -> None:
        """The same, unheard where it fails: it is tried again soon. Where it fails for long, a person is told."""
        try:
            await self.sync()
        except (BrokerError, StoreError) as error:
            log.warning("sync_failed error=%s", error)
            self._due_in(SOON_S)
            if isinstance(error, StoreError):
                return  # a matter of the disk, of which a person is told; the broker answered
            now = self._clock.monotonic()
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

    def _due_in(self, seconds: float) -> None:
        self._due_at = self._clock.monotonic() + seconds

    async def close(self) -> None:
        """Give up the run that callers wait for together."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)

    async def _exclusive(self) -> None:
        async with self._lock:
            self._waiting = None
            await self._sync()

    async def _sync(self) -> None:
        # Positions are read before the orders: whatever an order had filled by then, its own record tells afterwards.
        expected = self._view.expectations()
        symbols = {p.symbol for p in list(self._engine.positions.values())}
        if self._first_sync:
            await self._foreign()  # nothing leaves before that
        held = await self._view.positions()
        for symbol in sorted(held.unreadable):
            text = (
                f"an entry {f'for {symbol} ' if symbol else ''}in the broker's positions cannot be read: NOT protected"
            )
            await self._alarms.raise_alarm("position_unreadable", text)
        await self._look_up_orders()
        if not self._first_sync:
            await self._foreign()
        for watched in expected:
            try:
                await self._view.tell_read(watched, held, expected)
            except BrokerError as error:
                log.warning("read_not_understood position=%s error=%s", watched, error)
        # One that was watched when the read began may have ended since: the read is then too old to adopt it.
        await self._adopter.adopt_all(held.rows, symbols, is_first=self._first_sync)
        await self._strange_orders()
        self._first_sync = False
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

        await asyncio.gather(*(one(*which) for which in due if not self._executor.sender.is_sending(which[1])))

    async def _foreign(self) -> None:
        """Note the working orders of others; one that looks like ours and is not known is an alarm."""
        self._orders.not_listed()
        if not self._calls.has("open_orders"):
            self._executor.sender.were_listed()
            return
        began = self._time.monotonic()
        try:
            orders = [self._orders.under_our_id(report) for report in await self._working_orders()]
        except BrokerError as error:
            log.warning("open_orders_failed error=%s", error)
            if not self._calls.has("open_orders"):
                self._executor.sender.were_listed()  # it has just said that it is not implemented
            return
        self._orders.forget_foreign(before=began)
        self._strange = [report for report in orders if looks_like_exit(report.client_order_id)]
        # Known before anything is taken up that could send a second one.
        listed = {
            report.client_order_id: bare(report.symbol)
            for report in self._strange
            if report.symbol is not None and await self._mailbox.owner_of(report.client_order_id) is None
        }
        gone = {key: symbol for key, symbol in self._orders.strangers.items() if key not in listed}
        gone_and_working = {key: symbol for key, symbol in gone.items() if await self._may_work(key)}
        self._orders.listed(list(self._strange), listed | gone_and_working)
        self._absent = {key: times for key, times in self._absent.items() if key in gone}
        self._executor.sender.were_listed()
        for report in orders:
            if not looks_like_exit(report.client_order_id):
                self._orders.note_foreign(report, self._time.monotonic())

    async def _working_orders(self) -> list[ExecutionReport]:
        """The working orders of the account. The first time, when nothing is remembered, an answer that is missing or
        empty is asked for once more: an exit that works would not be seen, and a second one sent.

        Raises:
            BrokerError: no answer.
        """
        if self._first_sync:
            with suppress(BrokerError):
                if orders := await self._calls.open_orders():
                    return orders
        return await self._calls.open_orders()

    async def _may_work(self, order_id: str) -> bool:
        """False for an exit order of ours that the list of working orders does not show any more, once that is proved.

        A list that is behind, or empty, proves nothing.
        """
        times = self._absent[order_id] = self._absent.get(order_id, 0) + 1
        try:
            report = await self._calls.order(order_id) if self._calls.asks_by_our_id else None
        except BrokerError as error:
            log.warning("look_up_failed id=%s error=%s", order_id, error)
            return True
        return holdings.may_still_work(report, times)

    async def _strange_orders(self) -> None:
        """Working orders that look like exits of ours: news for their positions, and an alarm where there is none."""
        strange, self._strange = self._strange, []
        for report in strange:
            order_id = report.client_order_id
            if await self._mailbox.owner_of(order_id) is not None:
                self._orders.strangers.pop(order_id, None)
                await self._mailbox.report(report)
            else:
                kind, text = holdings.stranger(report, list(self._engine.positions.values()))
                await self._alarms.raise_alarm(kind, text)
