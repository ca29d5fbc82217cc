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
from typing import Any

from exitfsm import holdings, scope
from exitfsm.aio.tasks import MANY, OneAtATime, in_slices
from exitfsm.broker.calls import describe
from exitfsm.broker.probing import Found, Sent, find_exit, list_sent
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import Adopt, Executed, Expected, Read, Tries, Watching, is_price, watching
from exitfsm.manager.context import Context, Part
from exitfsm.manager.executor import Executor
from exitfsm.manager.view import View
from exitfsm.memory.intervals import LOOK_UPS_MAX, Due
from exitfsm.memory.past import epoch_by_price, newest
from exitfsm.memory.shown import Missing
from exitfsm.messages import Open, Recover
from exitfsm.others.around import look_around
from exitfsm.others.listing import Listing
from exitfsm.outside import log
from exitfsm.position import READS_MIN, Position, epoch_of, may_owe, part_of, position_id
from exitfsm.values import EXACT, ZERO, BrokerPosition, Fill, Side, plain

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
        self._sent: Sent | None = None  # for those that are being adopted
        self._part = part_of(self._given.account, context.ground.scope.mark)
        self._open_message = partial(
            Open,
            account=self._part,
            strategy_name=self._given.strategy_name,
            source="broker",
        )

    def load(self) -> None:
        """In the writer's thread: see whether the store has a past."""
        if self._engine.store.count():
            self._empty_at = None

    async def adopt_all(self, rows: Sequence[BrokerPosition], watched: set[Watching], *, is_first: bool) -> None:
        """Watch what the broker shows and nobody watches, or watched when it was read.

        The fills are read after the positions; what changed in between is looked at anew, or the quantity would be
        held against the wrong fills and the position get a name that no other machine arrives at.
        """
        new = holdings.unwatched(rows, watched | self._orders.watched(), self._orders.rules)
        self.missing.keep_only(new)
        if not new:
            return
        try:
            fills = await self._books.executed(self._live.lookback_days)
        except BrokerError:
            await self._cannot_name(new)
            raise
        again = await self._books.positions()
        self._sent = await list_sent(self._calls, len(new), holdings.first_fills(new, fills))
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

    async def _adopt(self, bp: BrokerPosition, fills: Executed, is_first: bool) -> None:
        symbol = self._orders.known_spelling(bp.symbol)
        what = holdings.described(bp, symbol)
        listed = fills.of(symbol, bp.side)
        adopt = await self._named_and_priced(bp, symbol, listed, is_first)
        if adopt is None:
            return
        by_price = partial(epoch_by_price, self._engine, self._part, symbol, bp.side, adopt.entry_price)
        epoch = adopt.epoch if adopt.epoch is not None else await self._mailbox.run(by_price)
        name = position_id(self._part, symbol, bp.side, epoch)
        await self._instruments.ask(symbol)  # its ids may have a form of their own
        found = await self._found_order(name, symbol, adopt.first_fill, listed or ())
        if found is None:
            if self.missing.tried(bp).are_enough:
                text = f"{what}: whether an exit of it works is not known: it is NOT protected"
                await self._alarms.raise_alarm("exit_unknown", text)
            return
        if found.order is not None and not holdings.still_held(await self._books.positions(), bp):
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
        self._kept.adopted(position)
        if position.position_id != name:
            return  # the bot has said meanwhile, under another time, that it is to be watched
        if position.state.terminal:
            text = f"{what}: its first fill names {name}, which has ended; it is NOT protected"
            await self._alarms.raise_alarm("epoch_unknown", text)
            return
        is_lost = is_first and self._empty_at is not None and found.order is None
        if is_lost and (anew := holdings.stops_begin_anew(position, bp.current_price)):
            await self._mailbox.alarm(name, "stops_begin_anew", anew)
        log.info("adopted position=%s qty=%s entry=%s", name, plain(bp.qty), plain(adopt.entry_price))

    async def _named_and_priced(
        self, bp: BrokerPosition, symbol: str, listed: list[Fill] | None, is_first: bool
    ) -> Adopt | None:
        """Under which name, and at which price, a position can be watched; None where it cannot, or not yet."""
        previous, residue = await self._mailbox.run(partial(newest, self._engine, symbol, bp.side))
        opening = holdings.Opening(
            row=bp,
            symbol=symbol,
            executions=listed,
            updates=tuple(self._orders.reported.of(symbol)),
            first_fill=self._orders.first_fills.get((symbol, bp.side)),
            previous=previous,
            residue=residue,
            instrument=watching.instrument_of(self._calls.capabilities, symbol),
            is_old=is_first and listed is None,
            by_ids=bool(self._scoped.scope.ids),
        )
        conclusion, tries = holdings.adopt(self._scoped.as_taken_in(opening), self.missing.tries(bp))
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
            policy=self._settings.policy,
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
        self, symbol: str, side: Side, qty: Decimal, entry: Decimal, first: datetime, more: dict[str, Any]
    ) -> Position:
        """Watch a position on the bot's word, unless it is watched already; never what an exit at work still sells.

        `more` of `Open`: a policy of its own is also given to a position that was found before the bot could say so.
        """
        symbol = self._orders.known_spelling(symbol)
        self._scoped.check(symbol)
        await self._instruments.ask(symbol)
        if selling := self._scoped.selling(symbol, side):
            shown = abs(self._view.net_of(selling[0], await self._books.positions())[0])
            qty = scope.beyond_exits(qty, shown, selling)
            if holdings.too_little(qty, self._orders.rules(symbol)):
                return selling[-1]  # once the broker shows more, that is adopted
        message = self._open_message(
            at=self._time.now(),
            symbol=symbol,
            side=side,
            epoch=epoch_of(first),
            qty=qty,
            entry_price=entry,
            opened_at=first,
            **more,
        )
        price = self._fresh(entry, first)
        opened = await self._mailbox.run(lambda: self._settings.opened(message, price))
        return self._scoped.handed_over(opened)

    def _fresh(self, entry: Decimal, first_fill_at: datetime) -> Decimal | None:
        """An entry price, where it is no older than a bar may be: then the first bar is held against it."""
        max_age = timedelta(seconds=self._settings.policy.price_guard.max_age_seconds)
        return entry if self._time.age(first_fill_at) <= max_age else None

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
        return await find_exit(self._calls, name, symbol, is_safe=is_safe, is_new=is_new, first=first, sent=self._sent)


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
        self._listing = Listing(self._ground)
        self._is_first = True

    async def sync(self) -> None:
        """Reconcile everything with what the broker says after this call; callers that wait together share one run."""
        await self.runs.run()
        self.is_done = True
        self.due.again(soon=self._adopter.missing.are_impatient(), by=self._kept.next_look())

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
        symbols = self._orders.watched()
        if self._is_first:
            await self._listing.read(is_first=True)  # nothing leaves before that
        held = await self._books.positions()
        for fault in (faults := holdings.faults(held)):
            await self._alarms.raise_alarm(fault.kind, fault.text)
        due = holdings.in_question(list(self._engine.positions.values()), self._engine.unknown)
        due = {order_id: owner for order_id, owner in due.items() if order_id not in self._sends.under_way}
        if are_many := len(due) > LOOK_UPS_MAX:
            due = await self._listing.leaves_of(due)
        await asyncio.gather(*(self._executor.try_look_up(owner, order_id) for order_id, owner in due.items()))
        if not self._is_first and not are_many:
            await self._listing.read(is_first=False)
        texts = {fault.text for fault in faults} | await self._tell_all(expected, held)
        # One that was watched when the read began may have ended since: the read is then too old to adopt it.
        await self._adopter.adopt_all(await self._scoped.to_adopt(held), symbols, is_first=self._is_first)
        await self._listing.tell()
        await self._executor.way.look_at_adopted()
        over = self._adopter.missing.over()
        await self._alarms.keep_only(over, texts, "the broker's books are clear again")
        self._is_first = False
        self._executor.drive(may_owe(list(self._engine.positions.values()), MANY), now=False)

    async def _tell_all(self, expected: dict[str, Expected], held: Read) -> set[str]:
        """Tell each position what the broker holds of it; the texts of the alarms where that failed."""
        texts: set[str] = set()
        async for watched in in_slices(expected):
            try:
                await self._view.tell_read(watched, held, expected)
            except StoreError:
                raise
            except BrokerError as error:
                log.warning("read_not_understood position=%s error=%s", watched, error)
            except Exception as error:  # a defect of ours: it must not hide any other position
                log.exception("read_not_understood position=%s", watched)
                text = f"{watched}: what the broker holds of it is not understood here ({describe(error)}): look there"
                await self._alarms.raise_alarm("position_unreadable", text)
                texts.add(text)
        return texts

    def look_around(self, monotonic: float) -> None:
        """Read what is held where that is long ago; reconcile at once where a read shows what nobody watches."""
        if self._seen.is_due(monotonic):
            self._tasks.spawn(look_around(self._calls, self._books.positions, self._alarms), "exitfsm-look")
        if not self.runs.is_running:
            new = self._seen.unwatched(self._orders.watched(), self._orders.rules)
            if any(self._adopter.missing.tries(row) is None for row in self._scoped.managed(new)):
                self.due.hurry()
