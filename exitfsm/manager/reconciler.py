"""Reconciling with the broker: what it holds against what is watched, order by order and position by position.

The same code runs at the start, after a reconnect, and on a timer. It is idempotent: a second run right after the first
changes nothing. An answer that fails or is empty proves nothing.

What is held and nobody watches yet is adopted. That never invents exposure: a position is named by the broker's own
fills and priced by what it says; what cannot be named, or priced, or may have an exit of ours that cannot be found, is
an alarm. Holdings decides; here it is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from exitfsm import holdings
from exitfsm.aio.tasks import OneAtATime
from exitfsm.broker.probing import Found, find_exit, working_orders
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import Adopt, Tries, bare, is_price
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context, Part
from exitfsm.manager.executor import Executor
from exitfsm.manager.view import View
from exitfsm.memory.intervals import Due
from exitfsm.memory.shown import Missing
from exitfsm.messages import Open, Recover
from exitfsm.order_ids import looks_like_exit
from exitfsm.outside import log, logged
from exitfsm.position import READS_MIN, Position, epoch_of, position_id
from exitfsm.values import EXACT, ZERO, BrokerPosition, ExecutionReport, Fill, Side, plain

#: How soon it is tried again where it failed, or where something could not be adopted yet, in seconds.
SOON_S = 1.0
#: How many positions are adopted at the same time.
ADOPTED_AT_ONCE = 16


class Adopter(Part):
    """Adopts positions."""

    def __init__(self, context: Context, view: View) -> None:
        super().__init__(context)
        self._view = view
        #: Positions that could not be adopted yet.
        self.missing = Missing()
        #: When the store was empty; None where it has a past, and knows every order.
        self._empty_at: datetime | None = self._time.now()
        self._began = self._time.now()
        self._open_message = partial(
            Open,
            account=self._given.account,
            policy=self._given.config.policy,
            strategy_name=self._given.strategy_name,
            source="broker",
        )

    def load(self) -> None:
        """In the writer's thread: see whether the store has a past."""
        if self._engine.store.count():
            self._empty_at = None

    async def adopt_all(self, rows: Sequence[BrokerPosition], watched: set[str], *, is_first: bool) -> None:
        """Watch what the broker shows and nobody watches, or watched when it was read.

        The fills are read after the positions; what changed in between is looked at anew, or the quantity would be
        held against the wrong fills and the position get a name that no other machine arrives at.
        """
        new = holdings.unwatched(rows, watched | {p.symbol for p in list(self._engine.positions.values())})
        self.missing.keep_only(new)
        if not new:
            return
        try:
            fills = await self._fills()
        except BrokerError:
            await self._cannot_name(new)
            raise
        again = await self._view.positions()
        at_once = asyncio.Semaphore(ADOPTED_AT_ONCE)

        async def one(bp: BrokerPosition) -> None:
            if not holdings.still_held(again, bp):
                self.missing.keep(bp, self.missing.tries(bp) or Tries(bp.qty))
                return
            async with at_once:
                await self._adopt(bp, fills, is_first)

        # A slow look-up about one must not leave the others unprotected for long, nor must one that fails.
        failed: BaseException | None = None
        for bp, result in zip(new, await asyncio.gather(*map(one, new), return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                log.warning("not_taken_up symbol=%s error=%s", bp.symbol, result)
                failed = failed or result
        if failed is not None:
            raise failed

    async def _cannot_name(self, new: list[BrokerPosition]) -> None:
        """The executions cannot be read: once that has failed again, it is an alarm for each position."""
        for bp in new:
            tries = self.missing.tried(bp, answered=False)
            if tries.in_all + tries.failed >= READS_MIN:
                what = holdings.described(bp, self._orders.known_spelling(bp.symbol))
                text = f"{what}: the broker's fills cannot be read, so it is NOT protected"
                await self._alarms.raise_alarm("epoch_unknown", text)

    async def _fills(self) -> dict[str, list[Fill]] | None:
        """The account's executions as far as they are looked at, oldest first; None where the broker lists none."""
        if not self._calls.has("fills"):
            return None
        by_symbol: dict[str, list[Fill]] = {}
        for fill in await self._calls.fills(self._time.now() - timedelta(days=self._live.lookback_days)):
            self._orders.note_spelling(fill.symbol)
            by_symbol.setdefault(bare(fill.symbol), []).append(fill)
        return by_symbol

    async def _adopt(self, bp: BrokerPosition, fills: dict[str, list[Fill]] | None, is_first: bool) -> None:
        symbol = self._orders.known_spelling(bp.symbol)
        what, listed = (
            holdings.described(bp, symbol),
            fills.get(bare(symbol), []) if fills is not None else None,
        )
        adopt = await self._named_and_priced(bp, symbol, listed, is_first)
        if adopt is None:
            return
        by_price = partial(self._epoch_by_price, symbol, bp.side, adopt.entry_price)
        epoch = adopt.epoch if adopt.epoch is not None else await self._mailbox.run(by_price)
        name = position_id(self._given.account, symbol, bp.side, epoch)
        await self._instruments.ask(symbol)  # its ids may have a form of their own
        found = await self._found_order(name, symbol, adopt.first_fill, listed or ())
        if found is None:
            if self.missing.tried(bp).are_enough:
                text = f"{what}: whether an exit of it works is not known: it is NOT protected"
                await self._alarms.raise_alarm("exit_unknown", text)
            return
        if found.order is not None and not holdings.still_held(await self._view.positions(), bp):
            self.missing.tried(bp)
            return  # the order has filled since the positions were read: its figures and theirs are of different ages
        if adopt.first_fill is None:
            await self._alarms.raise_alarm(
                "epoch_unknown",
                f"{what}: its first fill is not known. It is watched, under a name made of its entry price; with a "
                "list of fills, or manager.watch() after each entry, another machine would find the same name",
            )
        self.missing.found(bp)
        position = await self._open(bp, symbol, epoch, adopt, found)
        if position.position_id != name:
            return  # the bot has said meanwhile, under another time, that it is to be watched
        if position.state.terminal:
            text = f"{what}: its first fill names {name}, which has ended; it is NOT protected"
            await self._alarms.raise_alarm("epoch_unknown", text)
            return
        log.info("adopted position=%s qty=%s entry=%s", name, plain(bp.qty), plain(adopt.entry_price))

    async def _named_and_priced(
        self, bp: BrokerPosition, symbol: str, listed: list[Fill] | None, is_first: bool
    ) -> Adopt | None:
        """Under which name, and at which price, a position can be watched; None where it cannot, or not yet."""
        previous = await self._mailbox.run(partial(self._newest, symbol, bp.side)) if listed is not None else None
        opening = holdings.Opening(
            row=bp,
            symbol=symbol,
            executions=listed,
            updates=tuple(self._orders.told.values()),
            first_fill=self._orders.first_fills.get((symbol, bp.side)),
            previous=previous,
            is_old=is_first and listed is None,
        )
        conclusion, tries = holdings.adopt(opening, self.missing.tries(bp))
        self.missing.keep(bp, tries)
        if isinstance(conclusion, holdings.Alarm):
            await self._alarms.raise_alarm(conclusion.kind, conclusion.text)
        return conclusion if isinstance(conclusion, Adopt) else None

    async def _open(self, bp: BrokerPosition, symbol: str, epoch: str, adopt: Adopt, found: Found) -> Position:
        order, first, now = found.order, adopt.first_fill, self._time.now()
        message = self._open_message(
            at=now,
            symbol=symbol,
            side=bp.side,
            epoch=epoch,
            qty=EXACT.add(bp.qty, order.filled_qty or ZERO if order is not None else ZERO),
            entry_price=adopt.entry_price,
            opened_at=min(first, now) if first is not None else now,  # a broker's clock that is ahead must not blind us
            id_form=found.form,
        )
        reference = bp.current_price if bp.current_price is not None and is_price(bp.current_price) else None
        if reference is None and first is not None:
            reference = self._fresh(adopt.entry_price, first)

        def opened() -> Position:
            # In one: a bar between would send another order.
            position = self._engine.open_unless_watched(message, reference=reference)
            if order is not None:
                self._engine.tell(position.position_id, Recover(at=now, attempt=found.attempt, report=order))
            return position

        return await self._mailbox.run(opened)

    async def watch(
        self, symbol: str, side: Side, qty: Decimal, entry: Decimal, first: datetime, atr: Decimal | None
    ) -> Position:
        """Watch a position on the bot's word, unless it is watched already."""
        symbol = self._orders.known_spelling(symbol)
        await self._instruments.ask(symbol)
        message = self._open_message(
            at=self._time.now(),
            symbol=symbol,
            side=side,
            epoch=epoch_of(first),
            qty=qty,
            entry_price=entry,
            opened_at=first,
            atr=atr,
        )
        price = self._fresh(entry, first)
        return await self._mailbox.run(lambda: self._engine.open_unless_watched(message, reference=price))

    def _fresh(self, entry: Decimal, first_fill_at: datetime) -> Decimal | None:
        """An entry price, where it is no older than a bar may be: then the first bar is held against it."""
        max_age = timedelta(seconds=self._given.config.policy.price_guard.max_age_seconds)
        return entry if self._time.age(first_fill_at) <= max_age else None

    def _epoch_by_price(self, symbol: str, side: Side, entry: Decimal) -> str:
        """In the writer's thread: the first name by price that no ended position has."""
        for epoch in holdings.names_by_price(entry):
            known = self._engine.get(position_id(self._given.account, symbol, side, epoch))
            if known is None or not known.state.terminal:
                break
        return epoch

    def _newest(self, symbol: str, side: Side) -> Position | None:
        """In the writer's thread: the newest position on record of a symbol and side."""
        newest = self._engine.store.newest_position(symbol, side)
        return self._engine.get(newest.position_id) if newest is not None else None

    async def _found_order(
        self, name: str, symbol: str, first: datetime | None, listed: Sequence[Fill]
    ) -> Found | None:
        """The newest exit order of ours that the broker knows for a position that we have no record of.

        None when that could not be found out, and a repeated id would not be refused, or the executions show that there
        is one: what it has sold already is not known then, and so not what the position was.
        """
        known = await self._mailbox.run(partial(self._engine.get, name))
        if known is not None:
            return Found(form=known.id_form)
        if not self._calls.asks_by_our_id:
            exits = self._orders.open_exits
            return Found() if holdings.is_free_of_exits(symbol, first, self._empty_at, exits) else None
        is_safe = holdings.is_safe_unprobed(name, listed, self._calls.capabilities)
        is_new = first is not None and first >= self._began
        return await find_exit(self._calls, name, symbol, is_safe=is_safe, is_new=is_new)


class Reconciler(Part):
    """Brings what is watched in line with what the broker shows."""

    def __init__(self, context: Context, view: View, executor: Executor, adopter: Adopter) -> None:
        super().__init__(context)
        self._view, self._executor, self._adopter = view, executor, adopter
        #: When the next reconciliation is due.
        self.due = Due(self._time.monotonic, float(self._live.sync_seconds), SOON_S)
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
        self.due.again(soon=self._adopter.missing.are_impatient())

    async def try_sync(self) -> None:
        """The same; where it fails it is tried again soon. Where it fails for long, that is an alarm."""
        try:
            await self.sync()
        except (BrokerError, StoreError) as error:
            log.warning("sync_failed error=%s", error)
            self.due.again(soon=True)
            # What the store raises is a matter of the disk, of which there is an alarm; the broker answered.
            if isinstance(error, BrokerError) and self.due.failed() >= float(self._live.patience_seconds):
                text = f"the broker cannot be reconciled with: what is bought or sold since is not known here ({error})"
                self._alarms.raise_soon("not_reconciled", text)
        else:
            self.due.worked()

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
            with logged("read_not_understood position=%s error=%s", watched):
                await self._view.tell_read(watched, held, expected)
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
        asked = (which for which in due if which[1] not in self._sends.under_way)
        await asyncio.gather(*(self._executor.try_look_up(*which) for which in asked))

    async def _list_orders(self) -> None:
        """Note the working orders of the account: those of others, and orphan orders that look like ours."""
        self._orders.not_listed()
        began = self._time.monotonic()
        orders = None
        with logged("open_orders_failed error=%s"):
            orders = (
                await working_orders(self._calls, is_first=self._is_first) if self._calls.has("open_orders") else None
            )
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

    async def _may_work(self, order_id: str) -> bool:
        """False for an orphan order that the list of working orders does not show any more, once that is proved."""
        times = self._absent[order_id] = self._absent.get(order_id, 0) + 1
        with logged("look_up_failed id=%s error=%s", order_id):
            report = await self._calls.order(order_id) if self._calls.asks_by_our_id else None
            return holdings.may_still_work(report, times)
        return True

    async def _tell_of_exits(self) -> None:
        """Working orders that look like exits of ours: reports for their positions, and alarms where there is none."""
        listed, self._listed = self._listed, []
        for report in listed:
            order_id = report.client_order_id
            if await self._mailbox.owner_of(order_id) is not None:
                self._orders.orphans.pop(order_id, None)
                await self._mailbox.report(report)
            else:
                alarm = holdings.orphan(report, list(self._engine.positions.values()))
                await self._alarms.raise_alarm(alarm.kind, alarm.text)
