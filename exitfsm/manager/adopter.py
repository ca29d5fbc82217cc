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
from exitfsm.manager.context import Context, Part
from exitfsm.manager.view import View
from exitfsm.messages import Open, Recover
from exitfsm.order_ids import FIRST_FORM
from exitfsm.outside import logger
from exitfsm.position import READS_MIN, Position, epoch_of, position_id
from exitfsm.values import EXACT, ZERO, BrokerPosition, Fill, Side, plain

log = logger("exitfsm")

#: How many positions are adopted at the same time.
ADOPTED_AT_ONCE = 16


class Adopter(Part):
    """Adopts positions."""

    def __init__(self, context: Context, view: View) -> None:
        super().__init__(context)
        self._view = view
        #: Positions that could not be adopted yet, with how often that was tried.
        self._missing: dict[tuple[str, Side], Tries] = {}
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

    def is_impatient(self) -> bool:
        """True while something could not be adopted yet, and the next answer may help."""
        return any(tries.answered < READS_MIN for tries in self._missing.values())

    async def adopt_all(self, rows: Sequence[BrokerPosition], watched: set[str], *, is_first: bool) -> None:
        """Watch what the broker shows and nobody watches, or watched when it was read.

        The fills are read after the positions; what changed in between is looked at anew, or the quantity would be
        held against the wrong fills and the position get a name that no other machine arrives at.
        """
        new = holdings.unwatched(rows, watched | {p.symbol for p in list(self._engine.positions.values())})
        keys = {_key(bp) for bp in new}
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
                self._missing.setdefault(_key(bp), Tries(bp.qty))
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

    def _tried(self, bp: BrokerPosition, *, answered: bool = True) -> Tries:
        """One more try to adopt a position has come to nothing."""
        tries = holdings.tried(self._missing.get(_key(bp)), bp.qty, answered=answered)
        self._missing[_key(bp)] = tries
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
        by_symbol: dict[str, list[Fill]] = {}
        for fill in await self._calls.fills(self._time.now() - timedelta(days=self._live.lookback_days)):
            self._orders.note_spelling(fill.symbol)
            by_symbol.setdefault(bare(fill.symbol), []).append(fill)
        return by_symbol

    async def _adopt(self, bp: BrokerPosition, fills: dict[str, list[Fill]] | None, is_first: bool) -> None:
        """Watch one position, if its price, its name and its orders can be known."""
        symbol = self._orders.known_spelling(bp.symbol)
        what, listed = holdings.described(bp, symbol), fills.get(bare(symbol), []) if fills is not None else None
        adopt = await self._named_and_priced(bp, symbol, listed, is_first)
        if adopt is None:
            return
        by_price = partial(self._epoch_by_price, symbol, bp.side, adopt.entry_price)
        epoch: str = adopt.epoch or await self._mailbox.run(by_price)
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
        self._missing.pop(_key(bp), None)
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
        conclusion, tries = holdings.adopt(opening, self._missing.get(_key(bp)))
        if tries is not None:
            self._missing[_key(bp)] = tries
        if isinstance(conclusion, holdings.Alarm):
            await self._alarms.raise_alarm(conclusion.kind, conclusion.text)
        return conclusion if isinstance(conclusion, Adopt) else None

    async def _open(self, bp: BrokerPosition, symbol: str, epoch: str, adopt: Adopt, found: Found) -> Position:
        """Watch a position, and recover its order; returns what is watched then."""
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

        position: Position = await self._mailbox.run(opened)
        return position

    async def watch(
        self, symbol: str, side: Side, qty: Decimal, entry: Decimal, first: datetime, atr: Decimal | None
    ) -> Position:
        """Watch a position on the bot's word, unless it is watched already."""
        await self._instruments.ask(self._orders.known_spelling(symbol))
        message = self._open_message(
            at=self._time.now(),
            symbol=self._orders.known_spelling(symbol),
            side=side,
            epoch=epoch_of(first),
            qty=qty,
            entry_price=entry,
            opened_at=first,
            atr=atr,
        )
        price = self._fresh(entry, first)
        watched: Position = await self._mailbox.run(lambda: self._engine.open_unless_watched(message, reference=price))
        return watched

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
        broker = self._calls.capabilities
        is_safe = holdings.is_safe_unprobed(name, listed, broker)
        form, is_new = broker.form(symbol), first is not None and first >= self._began
        found = await probed(self._calls, name, form, is_safe)
        if found is None or found.order is not None or form == FIRST_FORM or is_new:
            return found  # no earlier version ran when a new one was opened
        # Under another form a repeated order is not refused for its id: what guards there is the quantity.
        before = await probed(self._calls, name, FIRST_FORM, is_safe and broker.reduce_only)
        return found if before is not None and before.order is None else before


def _key(bp: BrokerPosition) -> tuple[str, Side]:
    return bare(bp.symbol), bp.side
