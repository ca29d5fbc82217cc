"""Watching what the broker shows and nobody watches yet.

It never invents exposure: a position is named by the broker's own fills and priced by what it says; what cannot be
named, or priced, or may have an exit of ours that cannot be found, is an alarm. Holdings decides; here it is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from exitfsm import holdings
from exitfsm.broker.probing import Found, probed
from exitfsm.errors import BrokerError
from exitfsm.holdings import Adopt, Tries, bare, is_price
from exitfsm.manager.context import Context
from exitfsm.manager.view import View
from exitfsm.messages import Open, Recover
from exitfsm.order_ids import FIRST_FORM
from exitfsm.outside import logger
from exitfsm.position import READS_MIN, Position, epoch_of, position_id
from exitfsm.values import EXACT, ZERO, BrokerPosition, Fill, Side, plain

log = logger("exitfsm")

#: How many positions are adopted at the same time.
ADOPTED_AT_ONCE = 16


class Adopter:
    """Adopts positions."""

    def __init__(self, context: Context, view: View) -> None:
        self._engine, self._mailbox, self._calls = context.engine, context.mailbox, context.calls
        self._time, self._alarms, self._orders, self._view = context.given.time, context.alarms, context.orders, view
        self._given, self._config, self._instruments = context.given, context.given.config, context.instruments
        #: Positions that could not be adopted yet, with how often that was tried.
        self._missing: dict[tuple[str, Side], Tries] = {}
        self._began = context.given.time.now()
        self._store_is_new = False

    def load(self) -> None:
        """In the writer's thread: whether the store has a past."""
        self._store_is_new = self._engine.store.count() == 0

    def is_impatient(self) -> bool:
        """True while something could not be adopted yet, and the next answer may help."""
        return any(tries.answered < READS_MIN for tries in self._missing.values())

    async def adopt_all(self, rows: Sequence[BrokerPosition], watched: set[str], *, is_first: bool) -> None:
        """Watch what the broker shows and nobody watches, or watched when it was read.

        The fills are read after the positions; what changed in between is looked at anew, or the quantity would be
        held against the wrong fills and the position get a name that no other machine arrives at.
        """
        new = holdings.unwatched(rows, watched | {p.symbol for p in list(self._engine.positions.values())})
        keys = {self._key(bp) for bp in new}
        self._missing = {key: tries for key, tries in self._missing.items() if key in keys}
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
                self._missing.setdefault(self._key(bp), Tries(bp.qty))
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

    def _key(self, bp: BrokerPosition) -> tuple[str, Side]:
        return self._orders.known_spelling(bp.symbol), bp.side

    def _tried(self, bp: BrokerPosition, *, answered: bool = True) -> Tries:
        """One more try to adopt a position has come to nothing."""
        tries = self._missing[self._key(bp)] = holdings.tried(
            self._missing.get(self._key(bp)), bp.qty, answered=answered
        )
        return tries

    async def _cannot_name(self, new: list[BrokerPosition]) -> None:
        """The executions cannot be read: once that has failed again, it is an alarm for each position."""
        for bp in new:
            tries = self._tried(bp, answered=False)
            if tries.in_all + tries.failed >= READS_MIN:
                what = holdings.described(bp, self._orders.known_spelling(bp.symbol))
                text = f"{what}: the broker's fills cannot be read, so it is NOT protected"
                await self._alarms.raise_alarm("epoch_unknown", text)

    async def _fills(self) -> dict[str, list[Fill]] | None:
        """The account's executions as far as they are looked at, oldest first; None where the broker lists none."""
        if not self._calls.has("fills"):
            return None
        fills = await self._calls.fills(self._time.now() - timedelta(days=self._config.live.lookback_days))
        by_symbol: dict[str, list[Fill]] = {}
        for fill in fills:
            self._orders.note_spelling(fill.symbol)
            by_symbol.setdefault(bare(fill.symbol), []).append(fill)
        return by_symbol

    async def _adopt(self, bp: BrokerPosition, fills: dict[str, list[Fill]] | None, is_first: bool) -> None:
        """Watch one position, if its price, its name and its orders can be known."""
        symbol, what = (
            self._orders.known_spelling(bp.symbol),
            holdings.described(bp, self._orders.known_spelling(bp.symbol)),
        )
        listed = fills.get(bare(symbol), []) if fills is not None else None
        adopt = await self._named_and_priced(bp, symbol, listed, is_first)
        if isinstance(adopt, holdings.Alarm):
            await self._alarms.raise_alarm(adopt.kind, adopt.text)
        if not isinstance(adopt, Adopt):
            return
        epoch = adopt.epoch or await self._mailbox.run(
            partial(self._epoch_by_price, symbol, bp.side, adopt.entry_price)
        )
        name = position_id(self._given.account, symbol, bp.side, epoch)
        await self._instruments.ask(symbol)  # its ids may have a form of their own
        found = await self._found_order(name, symbol, adopt.first_fill, listed or ())
        if found is None:
            if self._tried(bp).are_enough:
                text = f"{what}: whether an exit of it works is not known: it is NOT protected"
                await self._alarms.raise_alarm("exit_unknown", text)
            return
        if found.order is not None and not holdings.still_held(await self._view.positions(), bp):
            self._tried(bp)
            return  # the order has filled since the positions were read: its figures and theirs are of different ages
        if adopt.first_fill is None:
            await self._alarms.raise_alarm(
                "epoch_unknown",
                f"{what}: its first fill is not known. It is watched, under a name made of its entry price; with a "
                "list of fills, or manager.watch() after each entry, another machine would find the same name",
            )
        self._missing.pop(self._key(bp), None)
        await self._open(bp, symbol, epoch, adopt, found)

    async def _named_and_priced(
        self, bp: BrokerPosition, symbol: str, listed: list[Fill] | None, is_first: bool
    ) -> Adopt | holdings.Alarm | holdings.Nothing:
        """Under which name, and at which price, a position can be watched."""
        previous = await self._mailbox.run(lambda: self._last_epoch(symbol, bp.side)) if listed is not None else None
        opening = holdings.Opening(
            row=bp,
            symbol=symbol,
            executions=listed,
            updates=tuple(self._orders.told.values()),
            first_fill=self._orders.first_fills.get((symbol, bp.side)),
            previous=previous,
            is_old=is_first and listed is None,
        )
        conclusion, tries = holdings.adopt(opening, self._missing.get(self._key(bp)))
        if tries is not None:
            self._missing[self._key(bp)] = tries
        return conclusion

    async def _open(
        self,
        bp: BrokerPosition,
        symbol: str,
        epoch: str,
        adopt: Adopt,
        found: Found,
    ) -> None:
        order, first, entry = found.order, adopt.first_fill, adopt.entry_price
        filled = order.filled_qty or ZERO if order is not None else ZERO
        now = self._time.now()
        message = Open(
            at=now,
            account=self._given.account,
            symbol=symbol,
            side=bp.side,
            epoch=epoch,
            qty=EXACT.add(bp.qty, filled),
            entry_price=entry,
            opened_at=min(first, now) if first is not None else now,  # a broker's clock that is ahead must not blind us
            policy=self._config.policy,
            strategy_name=self._given.strategy_name,
            source="broker",
            id_form=found.form,
        )
        reference = bp.current_price if bp.current_price is not None and is_price(bp.current_price) else None
        if reference is None and first is not None:
            reference = self._fresh(entry, first)
        recover = Recover(at=now, attempt=found.attempt, report=order) if order is not None else None
        position = await self._mailbox.run(partial(self._open_with, message, reference, recover))
        if position.position_id != position_id(self._given.account, symbol, bp.side, epoch):
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

    async def watch(
        self, symbol: str, side: Side, qty: Decimal, entry: Decimal, first: datetime, atr: Decimal | None
    ) -> Position:
        """Watch a position on the bot's word, unless it is watched already."""
        await self._instruments.ask(self._orders.known_spelling(symbol))
        message = Open(
            at=self._time.now(),
            account=self._given.account,
            symbol=self._orders.known_spelling(symbol),
            side=side,
            epoch=epoch_of(first),
            qty=qty,
            entry_price=entry,
            opened_at=first,
            policy=self._config.policy,
            atr=atr,
            strategy_name=self._given.strategy_name,
            source="broker",
        )
        price = self._fresh(entry, first)
        watched: Position = await self._mailbox.run(lambda: self._engine.open_unless_watched(message, reference=price))
        return watched

    def _fresh(self, entry: Decimal, first_fill_at: datetime) -> Decimal | None:
        """An entry price, where it is no older than a bar may be: then the first bar is held against it."""
        max_age = timedelta(seconds=self._config.policy.price_guard.max_age_seconds)
        return entry if self._time.age(first_fill_at) <= max_age else None

    def _epoch_by_price(self, symbol: str, side: Side, entry: Decimal) -> str:
        """In the writer's thread: the first name by price that no ended position has."""
        for epoch in holdings.names_by_price(entry):
            known = self._engine.get(position_id(self._given.account, symbol, side, epoch))
            if known is None or not known.state.terminal:
                break
        return epoch

    def _last_epoch(self, symbol: str, side: Side) -> Position | None:
        """The newest position on record of a symbol and side, in the writer's thread."""
        newest = self._engine.store.newest_position(symbol, side)
        return self._engine.get(newest.position_id) if newest is not None else None

    async def _found_order(
        self, name: str, symbol: str, first: datetime | None, listed: Sequence[Fill]
    ) -> Found | None:
        """The newest exit order of ours that the broker knows for a position that we have no record of.

        Its ids have the form of today, or the first one where an earlier version may have sent it.

        None when that could not be found out, and a repeated id would not be refused, or the executions show that there
        is one: what it has sold already is not known then, and so not what the position was.
        """
        known = await self._mailbox.run(lambda: self._engine.get(name))
        if known is not None:
            return Found(form=known.id_form)
        if not self._calls.asks_by_our_id:
            began = self._began if self._store_is_new else None
            return Found() if holdings.is_free_of_exits(symbol, first, began, self._orders.open_exits) else None
        broker = self._calls.capabilities
        is_safe = holdings.is_safe_unprobed(name, listed, broker)
        form, is_new = broker.form(symbol), first is not None and first >= self._began
        found = await probed(self._calls, name, form, is_safe)
        if found is None or found.order is not None or form == FIRST_FORM or is_new:
            return found  # no earlier version ran when a new one was opened
        # Under another form a repeated order is not refused for its id: what guards there is the quantity.
        before = await probed(self._calls, name, FIRST_FORM, is_safe and broker.reduce_only)
        return found if before is not None and before.order is None else before
