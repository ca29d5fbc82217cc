"""What the bot hands in: bars and order updates, in its own shapes, as far as they can be read.

What cannot be read decides nothing, and is an alarm. What decides something is durable before the call returns; the
orders that it leads to leave on their own.

Where a price jumped beyond belief, the broker's own price and position are the second source. The same quantity and
entry at a price that agrees: a real crash, exit at once. A quantity and an entry that moved as the price did: a split
or the like, new levels and no exit. Anything else, and no answer: an alarm, and the next bar asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from exitfsm import holdings
from exitfsm.bar_keeping import BarKeeper
from exitfsm.broker.market import bar_of
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import Meaning, Read, same_symbol
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context, Part, in_order
from exitfsm.manager.executor import Executor
from exitfsm.manager.reconciler import Reconciler
from exitfsm.manager.timer import Timer
from exitfsm.manager.view import View
from exitfsm.messages import PositionRead
from exitfsm.order_ids import looks_like_exit
from exitfsm.outside import logger
from exitfsm.position import READS_MIN, Position
from exitfsm.values import Bar, ExecutionReport

log = logger("exitfsm")

#: How long an update waits until a new position is adopted; a bot with one consumer has bars waiting behind.
SYNC_WAIT_S = 1.0


class Intake(Part):
    """Reads what comes in, and hands it to the parts that it concerns."""

    def __init__(
        self,
        context: Context,
        view: View,
        executor: Executor,
        reconciler: Reconciler,
        timer: Timer,
        keeper: BarKeeper,
    ) -> None:
        super().__init__(context)
        self._view, self._executor, self._reconciler, self._timer = view, executor, reconciler, timer
        self._keeper = keeper
        #: The newest bar of each symbol that jumped and is asked about; and the questions that are under way.
        self._jumped: dict[str, Bar] = {}
        self.asking: set[asyncio.Task[None]] = set()

    # --- bars ---------------------------------------------------------------------------------------------------------

    async def bars(self, bars: Sequence[Any] | Mapping[str, Any]) -> None:
        """Many bars at once, in order or by symbol; returns when what they decided is durable, or could not be."""
        named = bars.items() if isinstance(bars, Mapping) else ((None, bar) for bar in bars)
        readable = [bar for symbol, raw in named if (bar := self._readable(raw, symbol)) is not None]
        for bar in readable:
            self._orders.note_spelling(bar.symbol)
        self._timer.prices_moved()
        arrived_at = self._time.now()
        others = self._keeper.note_held(readable, arrived_at)
        try:
            await self._mailbox.bars(readable)
        except StoreError:
            return  # reported by the group; the next bar decides it again
        finally:
            # What was entered while its bar waited in the mailbox saw that bar, too.
            for bar in others:
                if bar.symbol in self._engine.levels.slots:
                    self._keeper.note(bar, arrived_at)
        await self._executor.grace()

    def _readable(self, raw: Any, symbol: str | None) -> Bar | None:
        try:
            return bar_of(raw, symbol)
        except (BrokerError, ValueError) as error:
            log.warning("bar_unreadable error=%s", error)
            self._alarms.raise_soon("bar_unreadable", f"a bar cannot be read, so nothing is decided on it: {error}")
            return None

    # --- prices that jumped -------------------------------------------------------------------------------------------

    def confirm(self, bars: list[Bar]) -> None:
        """Ask the broker about the newest of these bars of each symbol, one question for each at a time."""
        for bar in bars:
            if bar.symbol not in self._jumped:
                self._ask(bar.symbol)
            self._jumped[bar.symbol] = bar

    def _ask(self, symbol: str) -> None:
        task = self._tasks.spawn(self._confirm(symbol), "exitfsm-confirm")
        self.asking.add(task)
        task.add_done_callback(self.asking.discard)

    async def _confirm(self, symbol: str) -> None:
        """Ask about the newest jump. Of one that comes meanwhile the answer may know nothing: that is asked anew."""
        bar, expected = self._jumped[symbol], self._view.expectations()
        again = False
        try:
            try:
                held = await self._view.positions()
            except BrokerError as error:
                log.warning("price_not_confirmed symbol=%s error=%s", symbol, error)
                held = Read()
            held_now = in_order(self._engine)
            watched = [p for p in held_now if p.symbol == symbol and p.state is State.MONITORING]
            overtaken = any(expected.get(p.position_id) != self._view.seen(p) for p in watched)
            again = overtaken or self._jumped[symbol] is not bar
        finally:
            if not again:
                del self._jumped[symbol]  # also where something failed: the next jump is asked about
        if again:
            self._ask(symbol)
        if not overtaken:
            await self._settle(bar, held, watched)

    async def _settle(self, bar: Bar, held: Read, watched: list[Position]) -> None:
        """What the broker's answer means for a bar that jumped."""
        beside = {q.position_id: q for p in watched for q in self._engine.beside(p) if q not in watched}
        jump = holdings.Jumped(
            bar=bar,
            price_before=self._engine.last_price(bar.symbol),
            row=next((row for row in held.rows if same_symbol(row.symbol, bar.symbol)), None),
            watched=tuple(watched),
            beside=tuple(beside.values()),
            ratio_max=self._given.config.policy.price_guard.max_jump_ratio,
        )
        meaning = holdings.meaning_of(jump)
        if meaning is Meaning.SPLIT:
            reads = [(p.position_id, self._read_of(p, held)) for p in watched]

            def rebased() -> None:
                # At once, or a bar in between would be held against the levels of before.
                self._engine.tell_all(reads)
                self._engine.rebase(bar.symbol, bar)

            await self._mailbox.run(rebased)
        elif meaning is Meaning.REAL:
            await self._mailbox.bars([bar], confirmed=True)
        else:
            await self._mailbox.run(lambda: self._engine.on_bar(bar, received_at=self._given.clock.now()))

    def _read_of(self, p: Position, held: Read) -> PositionRead:
        net, entry = self._view.net_of(p, held)
        now, began, known = self._time.now(), self._waits.at(p, held.began), holdings.known(p)
        return PositionRead(at=now, began=began, qty=net, avg_entry_price=entry, reads=READS_MIN, known=known)

    # --- order updates ------------------------------------------------------------------------------------------------

    async def update(self, update: Any) -> None:
        """A report on any order of the account. One that is not understood makes the orders be looked up."""
        try:
            report = self._calls.report_of(update)
        except (BrokerError, ValueError) as error:
            log.warning("update_unreadable error=%s", error)
            report = None
        if report is None or holdings.may_be_ours(list(self._engine.positions.values()), report):
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

        So is one of which the broker has corrected an execution: a report may be older than the correction. And reports
        from before our order was changed at the broker are not taken for another change.
        """
        p = self._owner(report)
        if p is not None and self._calls.asks_by_our_id and holdings.precedes_a_change(p, report):
            self._timer.look_up_soon(p.position_id, report.client_order_id)
            return
        await self._mailbox.report(report)
        p = self._owner(report)
        if p is not None and holdings.leaves_open(p, report):
            self._timer.look_up_soon(p.position_id, report.client_order_id)

    def _owner(self, report: ExecutionReport) -> Position | None:
        return self._engine.positions.get(self._engine.known_owner(report.client_order_id) or "")

    async def _on_foreign(self, report: ExecutionReport) -> None:
        """An order that is not ours: remember it while it works; what it filled is adopted at once."""
        self._orders.note_foreign(report, self._time.monotonic())
        if not holdings.brings_fills(report):
            return
        self._orders.note_fills(report)
        sync = self._tasks.spawn(self._reconciler.try_sync(), "exitfsm-sync")
        await asyncio.wait([sync], timeout=SYNC_WAIT_S)
