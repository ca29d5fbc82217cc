"""Reconciling with the broker: what it holds against what is watched, order by order and position by position.

The same code runs at the start, after a reconnect, and on a timer. It is idempotent: a second run right after the first
changes nothing. It never invents exposure: what it takes up is what the broker shows, named by the broker's own fills;
what it cannot name or price is an alarm. An answer that fails or is empty proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from exitfsm import holdings
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import ORDER_PREFIX, Adopt, Tries, bare, is_price, known_spelling
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context
from exitfsm.manager.executor import Executor
from exitfsm.manager.orders import remember
from exitfsm.manager.tasks import begin_shared, shared
from exitfsm.manager.view import View
from exitfsm.messages import Open, Recover
from exitfsm.outside import logger
from exitfsm.position import READS_MIN, Position, client_order_id, position_id
from exitfsm.values import EXACT, ZERO, BrokerPosition, ExecutionReport, Fill, OrderSide, Side, plain

log = logger("exitfsm")

#: Attempts of a position that are looked up one after another when its record may be lost.
ATTEMPTS_PROBED_MAX = 50
#: How soon it is tried again where it failed, or where something could not be taken up yet, in seconds.
SOON_S = 1.0
#: How many positions are taken up at the same time.
ADOPTED_AT_ONCE = 16


class Reconciler:
    """Brings what is watched in line with what the broker shows."""

    def __init__(self, context: Context, view: View, executor: Executor) -> None:
        self._engine, self._mailbox, self._calls = context.engine, context.mailbox, context.calls
        self._time, self._clock = context.time, context.clock
        self._alarms, self._orders = context.alarms, context.orders
        self._view, self._executor = view, executor
        self._config, self._account = context.config, context.given.account
        self._strategy_name = context.given.strategy_name
        #: When the next reconciliation is due, in monotonic seconds; since when they have failed.
        self._due_at = 0.0
        self._failing_since: float | None = None
        #: True once the broker has been reconciled with.
        self.is_done = False
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[None] | None = None
        #: First fill of an entry order that updates told of, by (symbol, side): where the broker lists no fills.
        self.first_fills: dict[tuple[str, Side], datetime] = {}
        self._ended: dict[str, datetime] = {}
        self._strange: list[ExecutionReport] = []
        #: How often in a row the list of working orders did not show an exit of ours that it had shown.
        self._absent: dict[str, int] = {}
        self._pairs: dict[str, str] = {}
        #: Positions that could not be taken up yet, with how often that was tried.
        self.missing: dict[tuple[str, Side], Tries] = {}
        self._first_sync = True
        self._began = context.time.now()
        self._store_is_new = False
        #: Working exit orders of ours as last listed; None where the broker does not list any.
        self._open_exits: list[ExecutionReport] | None = None

    def load(self) -> None:
        """In the writer's thread: whether the store has a past."""
        self._store_is_new = self._engine.store.count() == 0

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
        soon = any(tries.answered < READS_MIN for tries in self.missing.values())
        self._due_in(SOON_S if soon else float(self._config.live.sync_seconds))

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
            if now - self._failing_since >= float(self._config.live.patience_seconds):
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
            self._due_at = monotonic + float(self._config.live.sync_seconds)
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
        await self._adopt_all(held.rows, symbols)
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

        await asyncio.gather(*(one(*which) for which in due if which[1] not in self._executor.sending))

    async def _foreign(self) -> None:
        """Note the working orders of others; one that looks like ours and is not known is an alarm."""
        self._open_exits = None
        if not self._calls.has("open_orders"):
            self._executor.were_listed()
            return
        began = self._time.monotonic()
        try:
            orders = [self._orders.under_our_id(report) for report in await self._working_orders()]
        except BrokerError as error:
            log.warning("open_orders_failed error=%s", error)
            if not self._calls.has("open_orders"):
                self._executor.were_listed()  # it has just said that it is not implemented
            return
        self._orders.forget_foreign(before=began)
        self._strange = [report for report in orders if report.client_order_id.startswith(ORDER_PREFIX)]
        # Known before anything is taken up that could send a second one.
        listed = {
            report.client_order_id: bare(report.symbol)
            for report in self._strange
            if report.symbol is not None and await self._owner(report.client_order_id) is None
        }
        gone = {key: symbol for key, symbol in self._orders.strangers.items() if key not in listed}
        self._orders.now_strangers(listed | {key: symbol for key, symbol in gone.items() if await self._may_work(key)})
        self._absent = {key: times for key, times in self._absent.items() if key in gone}
        self._executor.were_listed()
        self._open_exits = list(self._strange)
        for report in orders:
            if not report.client_order_id.startswith(ORDER_PREFIX):
                self.note_foreign(report)

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
            if await self._owner(order_id) is not None:
                self._orders.strangers.pop(order_id, None)
                await self._mailbox.report(report)
            else:
                text = (
                    f"order {order_id} of {report.symbol} looks like an exit of ours and belongs to no known position"
                )
                await self._alarms.raise_alarm("unknown_exit_order", text)

    async def _owner(self, order_id: str) -> str | None:
        """The position that an order belongs to, by memory or by the store; None where it belongs to none."""
        owner: str | None = self._engine.known_owner(order_id)
        if owner is None:
            owner = await self._mailbox.run(partial(self._engine.owner_of, order_id))
        return owner

    def note_spelling(self, symbol: str) -> None:
        """Remember how a pair is written with its slash: some lists of positions leave it out."""
        if "/" in symbol:
            self._pairs[bare(symbol)] = symbol

    def note_foreign(self, report: ExecutionReport) -> None:
        """Remember, or forget, a working order of somebody else."""
        if report.symbol is not None:
            self.note_spelling(report.symbol)
        self._orders.note_foreign(report, self._time.monotonic())

    def note_fills(self, report: ExecutionReport) -> None:
        """An order of somebody else has filled so far: what the bot's updates tell, once or often, in any order."""
        fill = holdings.execution_of(report, self._view.told.get(report.client_order_id))
        if fill is None:
            return
        remember(self._view.told, report.client_order_id, fill)
        key = (fill.symbol, Side.LONG if fill.side is OrderSide.BUY else Side.SHORT)
        ended = self._ended.get(fill.symbol)
        if ended is None or fill.at > ended:
            self.first_fills[key] = min(fill.at, self.first_fills.get(key, fill.at))

    def note_end(self, p: Position) -> None:
        """A position has ended. What others opened since its exit was triggered is the start of the one after it."""
        if p.ended_at is not None:
            self._ended[p.symbol] = p.ended_at
        opened_at = holdings.opened_since_exit(p, self._view.told.values())
        self.first_fills.pop((p.symbol, p.side), None)
        if opened_at is not None:
            self.first_fills[p.symbol, p.side] = opened_at

    # --- positions that are not watched yet ---------------------------------------------------------------------------

    async def _adopt_all(self, rows: Sequence[BrokerPosition], watched: set[str]) -> None:
        """Watch what the broker shows and nobody watches, or watched when it was read.

        The fills are read after the positions; what changed in between is looked at anew, or the quantity would be
        held against the wrong fills and the position get a name that no other machine arrives at.
        """
        new = holdings.unwatched(rows, watched | {p.symbol for p in list(self._engine.positions.values())})
        keys = {self._key(bp) for bp in new}
        self.missing = {key: tries for key, tries in self.missing.items() if key in keys}
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
                self.missing.setdefault(self._key(bp), Tries(bp.qty))
                return
            async with at_once:
                await self._adopt(bp, fills)

        # A slow look-up about one must not leave the others unprotected for long, nor must one that fails.
        failed: BaseException | None = None
        for bp, result in zip(new, await asyncio.gather(*map(one, new), return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                log.warning("not_taken_up symbol=%s error=%s", bp.symbol, result)
                failed = failed or result
        if failed is not None:
            raise failed

    def _key(self, bp: BrokerPosition) -> tuple[str, Side]:
        return self.known_spelling(bp.symbol), bp.side

    def _tried(self, bp: BrokerPosition, *, answered: bool = True) -> Tries:
        """One more try to adopt a position has come to nothing."""
        tries = self.missing[self._key(bp)] = holdings.tried(self.missing.get(self._key(bp)), bp.qty, answered=answered)
        return tries

    async def _cannot_name(self, new: list[BrokerPosition]) -> None:
        """The executions cannot be read: once that has failed again, it is an alarm for each position."""
        for bp in new:
            tries = self._tried(bp, answered=False)
            if tries.in_all + tries.failed >= READS_MIN:
                what = holdings.described(bp, self.known_spelling(bp.symbol))
                text = f"{what}: the broker's fills cannot be read, so it is NOT protected"
                await self._alarms.raise_alarm("epoch_unknown", text)

    async def _fills(self) -> dict[str, list[Fill]] | None:
        """The account's executions as far as they are looked at, oldest first; None where the broker lists none."""
        if not self._calls.has("fills"):
            return None
        fills = await self._calls.fills(self._time.now() - timedelta(days=self._config.live.lookback_days))
        by_symbol: dict[str, list[Fill]] = {}
        for fill in fills:
            self.note_spelling(fill.symbol)
            by_symbol.setdefault(bare(fill.symbol), []).append(fill)
        return by_symbol

    async def _adopt(self, bp: BrokerPosition, fills: dict[str, list[Fill]] | None) -> None:
        """Watch one position, if its price, its name and its orders can be known."""
        symbol, what = self.known_spelling(bp.symbol), holdings.described(bp, self.known_spelling(bp.symbol))
        listed = fills.get(bare(symbol), []) if fills is not None else None
        adopt = await self._named_and_priced(bp, symbol, listed)
        if isinstance(adopt, holdings.Alarm):
            await self._alarms.raise_alarm(adopt.kind, adopt.text)
        if not isinstance(adopt, Adopt):
            return
        epoch = adopt.epoch or await self._mailbox.run(
            partial(self._epoch_by_price, symbol, bp.side, adopt.entry_price)
        )
        name = position_id(self._account, symbol, bp.side, epoch)
        found = await self._found_order(name, symbol, adopt.first_fill, listed or ())
        if found is None:
            if self._tried(bp).are_enough:
                text = f"{what}: whether an exit of it works is not known: it is NOT protected"
                await self._alarms.raise_alarm("exit_unknown", text)
            return
        if found[1] is not None and not holdings.still_held(await self._view.positions(), bp):
            self._tried(bp)
            return  # the order has filled since the positions were read: its figures and theirs are of different ages
        if adopt.first_fill is None:
            await self._alarms.raise_alarm(
                "epoch_unknown",
                f"{what}: its first fill is not known. It is watched, under a name made of its entry price; with a "
                "list of fills, or manager.watch() after each entry, another machine would find the same name",
            )
        self.missing.pop(self._key(bp), None)
        await self._open(bp, symbol, epoch, adopt, found)

    async def _named_and_priced(
        self, bp: BrokerPosition, symbol: str, listed: list[Fill] | None
    ) -> Adopt | holdings.Alarm | holdings.Nothing:
        """Under which name, and at which price, a position can be watched."""
        previous = await self._mailbox.run(lambda: self._last_epoch(symbol, bp.side)) if listed is not None else None
        opening = holdings.Opening(
            row=bp,
            symbol=symbol,
            executions=listed,
            updates=tuple(self._view.told.values()),
            first_fill=self.first_fills.get((symbol, bp.side)),
            previous=previous,
            is_old=self._first_sync and listed is None,
        )
        conclusion, tries = holdings.adopt(opening, self.missing.get(self._key(bp)))
        if tries is not None:
            self.missing[self._key(bp)] = tries
        return conclusion

    async def _open(
        self,
        bp: BrokerPosition,
        symbol: str,
        epoch: str,
        adopt: Adopt,
        found: tuple[int, ExecutionReport | None],
    ) -> None:
        (attempt, order), first, entry = found, adopt.first_fill, adopt.entry_price
        filled = order.filled_qty or ZERO if order is not None else ZERO
        now = self._time.now()
        message = Open(
            at=now,
            account=self._account,
            symbol=symbol,
            side=bp.side,
            epoch=epoch,
            qty=EXACT.add(bp.qty, filled),
            entry_price=entry,
            opened_at=min(first, now) if first is not None else now,  # a broker's clock that is ahead must not blind us
            policy=self._config.policy,
            strategy_name=self._strategy_name,
            source="broker",
        )
        reference = bp.current_price if bp.current_price is not None and is_price(bp.current_price) else None
        if reference is None and first is not None:
            reference = self.fresh(entry, first)
        recover = Recover(at=now, attempt=attempt, report=order) if order is not None else None
        position = await self._mailbox.run(partial(self._open_with, message, reference, recover))
        if position.position_id != position_id(self._account, symbol, bp.side, epoch):
            return  # the bot has said meanwhile, under another time, that it is to be watched
        if position.state.terminal:
            text = (
                f"{plain(bp.qty)} {symbol} {bp.side}: its first fill names {position.position_id}, which has ended; "
                "it is NOT protected"
            )
            await self._alarms.raise_alarm("epoch_unknown", text)
            return
        log.info("adopted position=%s qty=%s entry=%s", position.position_id, plain(bp.qty), plain(entry))

    def _open_with(self, message: Open, reference: Decimal | None, recover: Recover | None) -> Position:
        """In the writer's thread: watch a position and take up its order in one: a bar between would send another."""
        position = self._engine.open_unless_watched(message, reference=reference)
        if recover is not None:
            self._engine.tell(position.position_id, recover)
        return position

    async def watch(self, message: Open) -> Position:
        """Watch a position on the bot's word, unless it is watched already."""
        price = self.fresh(message.entry_price, message.opened_at)
        watched: Position = await self._mailbox.run(lambda: self._engine.open_unless_watched(message, reference=price))
        return watched

    def fresh(self, entry: Decimal, first_fill_at: datetime) -> Decimal | None:
        """An entry price, where it is no older than a bar may be: then the first bar is held against it."""
        max_age = timedelta(seconds=self._config.policy.price_guard.max_age_seconds)
        return entry if self._time.age(first_fill_at) <= max_age else None

    def _epoch_by_price(self, symbol: str, side: Side, entry: Decimal) -> str:
        """In the writer's thread: the first name by price that no ended position has."""
        for epoch in holdings.names_by_price(entry):
            known = self._engine.get(position_id(self._account, symbol, side, epoch))
            if known is None or not known.state.terminal:
                break
        return epoch

    def known_spelling(self, symbol: str) -> str:
        """The spelling under which the bars of a pair come: with its slash where that is already known."""
        return known_spelling(symbol, list(self._engine.levels.slots), self._pairs)

    def _last_epoch(self, symbol: str, side: Side) -> Position | None:
        """The newest position on record of a symbol and side, in the writer's thread."""
        newest = self._engine.store.newest_position(symbol, side)
        return self._engine.get(newest.position_id) if newest is not None else None

    async def _found_order(
        self, name: str, symbol: str, first: datetime | None, listed: Sequence[Fill]
    ) -> tuple[int, ExecutionReport | None] | None:
        """The newest exit order of ours that the broker knows for a position that we have no record of.

        None when that could not be found out, and a repeated id would not be refused, or the executions show that there
        is one: what it has sold already is not known then, and so not what the position was.
        """
        known = await self._mailbox.run(lambda: self._engine.get(name))
        if known is not None:
            return 0, None
        if not self._calls.asks_by_our_id:
            began = self._began if self._store_is_new else None
            return (0, None) if holdings.is_free_of_exits(symbol, first, began, self._open_exits) else None
        newest: tuple[int, ExecutionReport | None] = (0, None)
        for attempt in range(1, ATTEMPTS_PROBED_MAX + 1):
            try:
                report = await self._calls.order(client_order_id(name, attempt))
            except BrokerError as error:
                log.warning("probe_failed position=%s attempt=%s error=%s", name, attempt, error)
                return newest if holdings.is_safe_unprobed(name, listed, self._calls.capabilities) else None
            if report is None:
                return newest
            newest = (attempt, report)
        return newest
