"""What comes in from outside: bars and order updates as the bot has them, and what a person orders.

What cannot be read decides nothing, and is an alarm. What decides something is durable before the call returns; the
orders that it leads to leave on their own.

Where a price jumped beyond belief, the broker's own price and position are the second source. The same quantity and
entry at a price that agrees: a real crash, exit at once. A quantity and an entry that moved as the price did: a split
or the like, new levels and no exit. Anything else, and no answer: an alarm, and the next bar asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from exitfsm import holdings
from exitfsm.broker.market import bar_of
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import Meaning, Read
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context, Part, in_order
from exitfsm.manager.executor import Executor
from exitfsm.manager.reconciler import Reconciler
from exitfsm.manager.timer import Timer
from exitfsm.manager.view import View
from exitfsm.messages import ForceExit, Message, RecordRead, Release
from exitfsm.outside import log, logged
from exitfsm.position import ExitOrder, Position, is_over
from exitfsm.position.operating import is_in_the_dark, is_stuck
from exitfsm.values import Bar, ExecutionReport, OrderStatus

#: How long an update waits until a new position is adopted; a bot with one consumer has bars waiting behind.
SYNC_WAIT_S = 1.0
#: How soon an update that could not be stored is told again, and how seldom at last.
AGAIN_S, AGAIN_MAX_S = 1.0, 60.0
#: Tasks that ask the broker about a price that jumped.
CONFIRM = "exitfsm-confirm"


class Operators(Part):
    """Commands from outside the rules."""

    def __init__(self, context: Context, view: View, executor: Executor, reconciler: Reconciler) -> None:
        super().__init__(context)
        self._view, self._executor, self._reconciler = view, executor, reconciler

    async def flatten(self, asked: dict[str, Any]) -> list[Position]:
        """Exit all there is: what is watched first, then what the broker shows beside it."""
        first = await self.force(in_order(self._engine), asked)
        with logged("sync_after_flatten_failed error=%s"):
            await self._reconciler.sync()
        known = {p.position_id for p in first}
        return first + await self.force([p for p in in_order(self._engine) if p.position_id not in known], asked)

    async def force(self, positions: list[Position], asked: dict[str, Any], *, must: bool = False) -> list[Position]:
        """Exit these now, as is `asked` (of `ForceExit`). `must`: the records of ended orders must be readable."""
        stuck = [p for p in positions if is_stuck(p)]  # they need a look at the broker, and do not keep others waiting
        await self._tell_force([(p, None) for p in positions if p not in stuck], asked)
        if stuck:
            await self._tell_force(await self._cleared_up(stuck, must=must), asked)
        await self._executor.grace()
        return [self._engine.positions.get(p.position_id) or p for p in positions]

    async def _tell_force(self, positions: list[tuple[Position, Decimal | None]], asked: dict[str, Any]) -> None:
        messages: list[tuple[str, Message]] = []
        for p, qty in positions:
            now, price, known = self._time.now(), self._engine.last_price(p.symbol), holdings.known(p)
            in_doubt = p.client_order_id in self._engine.unknown and self._sends.is_in_doubt(p, self._calls.can_look_up)
            force = ForceExit(at=now, price=price, qty=qty, known=known, in_doubt=in_doubt, **asked)
            messages.append((p.position_id, force))
        await self._mailbox.tell_all(messages)
        self._executor.drive([p.position_id for p, _ in positions])

    async def _cleared_up(self, stuck: list[Position], *, must: bool) -> list[tuple[Position, Decimal | None]]:
        """Look up the orders of these, and what is held: a second order is only safe on fresh knowledge.

        An ended order's record that cannot be read keeps an exit back until the operator, who has read the alarm,
        orders it again. Returns those of which all is known, as they are before what is held was read, with that.
        """
        # What is sent is no more than is held.
        looks = (self._clear_up(p, must=must or all(a.kind != "not_done" for a in p.alarms)) for p in stuck)
        results = zip(stuck, await asyncio.gather(*looks, return_exceptions=True), strict=True)
        failed = {p.position_id: result for p, result in results if isinstance(result, BaseException)}
        current = (self._engine.positions.get(p.position_id) for p in stuck if p.position_id not in failed)
        known, held = [p for p in current if p is not None], None
        try:
            held = await self._books.positions() if known else None
        except BrokerError as error:
            failed |= {p.position_id: error for p in known}
        for position_id, why in failed.items():
            log.error("unprotected_not_forced position=%s error=%s", position_id, why)
            text = f"nothing was done for what is unprotected: {why}; say it again once no order of it works there"
            await self._mailbox.alarm(position_id, "not_done", text)
            if not isinstance(why, BrokerError):
                raise why
        return [(p, self._view.net_of(p, held)[0]) for p in known] if held is not None else []

    async def release(self, position_id: str, who: str, *, not_there: bool = False) -> None:
        """Hand an unprotected position back to the rules; `not_there`: its order does not exist, on his word."""
        p = self._engine.positions.get(position_id)
        if p is None:
            raise ValueError(f"no open position is called {position_id!r}: nothing was released")
        if not_there and is_in_the_dark(p) and p.client_order_id not in self._sends.under_way:
            await self._mailbox.report(holdings.not_there(p.order.client_order_id, who, self._time.now()))
            if p.state is State.PENDING:
                return  # the next attempt follows by itself
            p = self._engine.positions.get(position_id, p)
        await self._clear_up(p, must=True)
        p = self._engine.positions.get(position_id)
        if p is None:
            return
        held = await self._view.agreed(p)
        (net, entry), now, known = self._view.net_of(p, held), self._time.now(), holdings.known(p)
        if net != 0:
            price = entry or p.entry_price
            await self._mailbox.tell(position_id, Release(at=now, qty=net, entry_price=price, who=who, known=known))
            return
        # Its orders were cleared up before this read: what their records leave open, the operator answers for.
        order_id = p.client_order_id or ""
        ended = ExecutionReport(client_order_id=order_id, status=OrderStatus.CANCELED, at=now)
        record = RecordRead(client_order_id=order_id, began=self._waits.at(p, held.began), report=ended)
        await self._mailbox.tell(position_id, self._view.message(p, held, record))

    async def _clear_up(self, p: Position, *, must: bool) -> None:
        """Find out what became of a position's orders, on an operator's word.

        One that the broker does not know counts as refused then, and one that was replaced there as canceled: the
        operator has looked, and answers for it. `must`: the records of ended orders must be readable, too.

        Raises:
            BrokerError: an order may be live and cannot be looked up, or works again, or its record must be read.
        """
        must = must and self._calls.asks_by_our_id and self._calls.capabilities.lookup_sees_closed
        for order in p.orders:
            if order.live:
                await self._end_live(order)
            else:
                await self._check_ended(order, must=must)

    async def _end_live(self, order: ExitOrder) -> None:
        asked, name = self._time.monotonic(), order.client_order_id
        report = await self._calls.order(name)
        if report is None and self._sends.since(name, asked):
            raise BrokerError(f"exit order {name} was being sent at that moment")
        await self._mailbox.report(holdings.end_of_live(report, name, order.filled_qty, self._time.now()))

    async def _check_ended(self, order: ExitOrder, *, must: bool) -> None:
        name, report = order.client_order_id, None
        try:
            report = await self._calls.order(name)
        except BrokerError:
            if must:
                raise
        if report is not None:
            report = holdings.record_of_ended(order, report)
            await self._mailbox.report(report)
        if report is None or is_over(order, report):
            return
        await self._calls.cancel(name)
        report = await self._calls.order(name)
        if report is None:
            return
        if not is_over(order, report):  # the venue took a fill back, or its end: nothing may be sent beside it
            raise BrokerError(f"exit order {name} works again at the broker, and is asked to be canceled")
        await self._mailbox.report(report)


class Intake(Part):
    """Reads what comes in, and hands it to the parts that it concerns."""

    def __init__(self, context: Context, view: View, executor: Executor, reconciler: Reconciler, timer: Timer) -> None:
        super().__init__(context)
        self._view, self._executor, self._reconciler, self._timer = view, executor, reconciler, timer
        self._keeper = timer.keeper
        #: The newest bar of each symbol that jumped and is asked about.
        self._jumped: dict[str, Bar] = {}

    async def bars(self, bars: Sequence[Any] | Mapping[str, Any]) -> None:
        """Many bars at once, in order or by symbol; returns when what they decided is durable, or could not be."""
        named = bars.items() if isinstance(bars, Mapping) else ((None, bar) for bar in bars)
        readable = [bar for symbol, raw in named if (bar := self._readable(raw, symbol)) is not None]
        for bar in readable:
            self._orders.note_spelling(bar.symbol)
        self._timer.marks.want()
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

    def confirm(self, bars: list[Bar]) -> None:
        """Ask the broker about the newest of these bars of each symbol, one question for each at a time."""
        for bar in bars:
            if bar.symbol not in self._jumped:
                self._tasks.spawn(self._confirm(bar.symbol), CONFIRM)
            self._jumped[bar.symbol] = bar

    async def _confirm(self, symbol: str) -> None:
        """Ask about the newest jump. Of one that comes meanwhile the answer may know nothing: that is asked anew."""
        bar, expected = self._jumped[symbol], self._view.expectations(symbol)
        again = False
        try:
            held = Read()
            with logged("price_not_confirmed symbol=%s error=%s", symbol):
                held = await self._books.positions()
            watched = [p for p in in_order(self._engine) if p.symbol == symbol and p.state is State.MONITORING]
            overtaken = any(expected.get(p.position_id) != self._view.seen(p) for p in watched)
            again = overtaken or self._jumped[symbol] is not bar
        finally:
            if not again:
                del self._jumped[symbol]  # also where something failed: the next jump is asked about
        if again:
            self._tasks.spawn(self._confirm(symbol), CONFIRM)
        if not overtaken:
            await self._settle(bar, held, watched)

    async def _settle(self, bar: Bar, held: Read, watched: list[Position]) -> None:
        row, of_row = holdings.jumped_rows(held, bar.symbol, watched)
        beside = {q.position_id: q for p in of_row for q in self._engine.beside(p) if q not in watched}
        ratio_max = self._settings.policy.price_guard.max_jump_ratio
        jump = holdings.Jumped(
            bar=bar,
            price_before=self._engine.last_price(bar.symbol),
            row=row,
            watched=tuple(of_row),
            beside=tuple(beside.values()),
            ratio_max=ratio_max,
            bars=self._jumps.note(bar, self._engine.levels.last_at(bar.symbol), ratio_max),
        )
        meaning = holdings.meaning_of(jump)
        if meaning is Meaning.SPLIT:
            await self._view.tell_split(watched, held, bar)
        elif meaning is Meaning.REAL:
            await self._mailbox.bars([bar], confirmed=True)
        else:
            await self._mailbox.run(lambda: self._engine.on_bar(bar, self._given.clock.now(), at=self._time.now()))

    async def update(self, update: Any) -> None:
        """A report on any order of the account. One that is not understood makes the orders be looked up."""
        report = None
        with logged("update_unreadable error=%s", of=(BrokerError, ValueError)):
            report = self._calls.report_of(update)
        if report is None or holdings.may_be_ours(list(self._engine.positions.values()), report):
            log.warning("update_not_understood type=%s", type(update).__name__)
            self._reconciler.due.hurry()
            return
        report = self._orders.under_our_id(report)
        is_ours = True
        try:
            if is_ours := await self._ground.is_ours(report.client_order_id):
                await self._on_ours(report)
            else:
                await self._on_foreign(report)
        except StoreError:  # reported by the group
            if is_ours:
                self._tasks.spawn(self._once_more(report), "exitfsm-again")
            return
        await self._executor.grace()

    async def _once_more(self, report: ExecutionReport) -> None:
        """Tell what the store could not take again until it does: of an order that has ended nobody asks any more."""
        pause_s = AGAIN_S
        while True:
            await self._given.clock.sleep(pause_s)
            with logged("update_not_stored error=%s", of=(StoreError,)):
                return await self._on_ours(report)
            pause_s = min(2 * pause_s, AGAIN_MAX_S)

    async def _on_ours(self, report: ExecutionReport) -> None:
        """An exit of ours. One that has filled, nobody says how much, is looked up.

        So is one of which the broker has corrected an execution: a report may be older than the correction. And reports
        from before our order was changed at the broker are not taken for another change.
        """
        p = self._orders.owner(report.client_order_id)
        if p is not None and self._calls.asks_by_our_id and holdings.precedes_a_change(p, report):
            self._executor.look_up_soon(p.position_id, report.client_order_id)
            return
        await self._mailbox.report(report)
        p = self._orders.owner(report.client_order_id)
        if p is not None and holdings.leaves_open(p, report):
            self._executor.look_up_soon(p.position_id, report.client_order_id)

    async def _on_foreign(self, report: ExecutionReport) -> None:
        """An order that is not ours: remember it while it works; what it filled is adopted at once."""
        self._orders.note_foreign(report, self._time.monotonic())
        if not holdings.brings_fills(report):
            return
        self._orders.note_fills(report)
        sync = self._tasks.spawn(self._reconciler.try_sync(), "exitfsm-sync")
        await asyncio.wait([sync], timeout=SYNC_WAIT_S)
