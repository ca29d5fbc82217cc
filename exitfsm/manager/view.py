"""Reading the broker's books: positions, records and executions, and telling positions what they prove.

What they prove is decided in `holdings`; here it is read, asked, told, and remembered from one read to the next.
"""

from __future__ import annotations

from decimal import Decimal
from functools import partial

from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.errors import BrokerError
from exitfsm.holdings import Evidence, Executions, Expected, Need, Read, watching
from exitfsm.holdings.facts import Adopted, Needed
from exitfsm.manager.context import Part
from exitfsm.memory.kept import Asked
from exitfsm.messages import Contradiction, Message, PositionRead, RecordRead, Recover, Rescale
from exitfsm.position import READS_MIN, Position, client_order_id
from exitfsm.values import Bar, plain


class View(Part):
    """Reads the broker's books, and tells positions what that means for them."""

    # --- what is held -------------------------------------------------------------------------------------------------

    async def agreed(self, p: Position) -> Read:
        """What the broker holds; less of a position than is left of it only where several reads in a row agree."""
        shown: list[Decimal] = []
        while True:
            read = await self._books.positions()
            if holdings.is_silent(read, p.symbol):
                raise BrokerError(f"what the broker holds of {p.symbol} cannot be read")
            shown.append(self.net_of(p, read)[0])
            agree = holdings.agreement(p, shown)
            if agree:
                return await self._books.not_missing(read, p)
            if agree is False:
                before, now = map(plain, shown[-2:])
                raise BrokerError(f"the broker shows {before} of {p.symbol}, and then {now}: try again")

    def seen(self, p: Position) -> Expected:
        """What is expected of a position now, and of the others of its holding."""
        return holdings.expect(p, self._engine.beside(p))

    def expectations(self, symbol: str = "") -> dict[str, Expected]:
        """What is expected of each position now, or of a symbol's; taken before a read, to show what overtook it."""
        watched = self._engine.levels.holding(symbol) if symbol else list(self._engine.positions.values())
        return {p.position_id: self.seen(p) for p in watched}

    def net_of(self, p: Position, read: Read) -> tuple[Decimal, Decimal | None]:
        """The broker's quantity for a position, and its average entry."""
        return holdings.net(read, p, self._engine.beside(p))

    def message(self, p: Position, read: Read, record: RecordRead | None = None) -> PositionRead:
        """What a read shows for a position, as a message to it that leaves no doubt."""
        (qty, entry), at, known = self.net_of(p, read), self._time.now(), holdings.known(p)
        told = PositionRead(at=at, began=self._waits.at(p, read.began), qty=qty, avg_entry_price=entry, reads=READS_MIN)
        return replace(told, known=known, record=record)

    # --- what a read means --------------------------------------------------------------------------------------------

    async def tell_read(self, position_id: str, read: Read, expected: dict[str, Expected]) -> None:
        """Tell a position what the broker's positions mean for it, with what else must be read for that.

        Where nothing of its symbol is on its way out, all its positions are told, with the first of them.
        """
        p = self._engine.positions.get(position_id)
        holding = self._orders.holding(p) if p is not None else []
        if holding and watching.are_at_rest(holding):
            if position_id == holding[0].position_id:
                await self._tell_holding(holding[0], read, expected)
            return
        if p is None or expected.get(position_id) != self.seen(p) or holdings.is_silent(read, p.symbol):
            return  # `weigh` would say so, too; but no wait may begin with such a read
        read = await self._scoped.crossings.seen_by(p, read)
        evidence: Evidence | None = Evidence(
            position=p,
            beside=tuple(self._engine.beside(p)),
            expected=expected.get(position_id),
            read=read,
            began=self._waits.at(p, read.began),
            broker=self._calls.capabilities,
            next_order_known=not self._calls.asks_by_our_id,
            lapsed=self._sends.has_lapsed(p, self._calls.can_look_up, self._engine.unknown),
        )
        while evidence is not None:
            conclusion, count = holdings.weigh(evidence, self._shown.counted(p))
            self._shown.keep(p, count)
            if isinstance(conclusion, Need):
                evidence = await self._read_more(evidence, conclusion)
                continue
            forgotten = self._calls.asks_by_our_id and holdings.may_have_exited(evidence, conclusion)
            if forgotten and await self._took_over(p):
                return  # an exit of ours that an old copy of the store does not know
            if isinstance(conclusion, holdings.Missing):
                why = f"the broker shows no position at all, and no execution that explains it for {p.symbol}"
                missing = Contradiction(at=self._time.now(), why=why, known=holdings.known(p))
                await self._mailbox.tell(position_id, missing)
            elif not isinstance(conclusion, holdings.Nothing):
                await self._mailbox.tell(position_id, holdings.position_read(evidence, conclusion, self._waits.now(p)))
            return

    async def _tell_holding(self, p: Position, read: Read, expected: dict[str, Expected]) -> None:
        """Tell the positions of a holding, all of them at rest, what a read means for what is held of it."""
        asked, symbol = Asked(), p.symbol
        while (holding := self._orders.holding(p)) and watching.are_at_rest(holding):
            overtaken = any(expected.get(p.position_id) != self.seen(p) for p in holding)
            by = self._time.monotonic() if overtaken else read.began
            price, listed = self._engine.last_price(symbol), self._calls.has("fills")
            for q in holding:
                self._shown.count(q, self.net_of(q, read)[0], read.began)  # a send that cannot look goes by it
            evidence = self._kept.evidence(holding, read, asked, price, listed=listed)
            if (news := watching.is_news(evidence)) and listed and asked.executions is None:
                fills = await self._books.fills_since(holding[0].opened_at, symbol)
                asked = replace(asked, executions=fills)
                continue
            said, memory = self._kept.weigh(evidence, by)
            if Needed("next_id") in said and not asked.next_ids:
                took = [await self._took_over(p) for p in holding] if self._calls.asks_by_our_id else []
                if None in took:  # no answer is no proof that there is none: with the next read it is asked again
                    self._kept.look_in(watching.next_look_s(memory, evidence.instrument))
                if any(took) or None in took:
                    return  # an exit of ours that an old copy of the store does not know, or perhaps
                asked = replace(asked, next_ids=True)
                continue
            began = {p.position_id: self._waits.at(p, read.began) for p in holding}
            told = watching.messages(said, {p.position_id: p for p in holding}, began, self._time.now())
            if told:
                await self._mailbox.run(partial(self._conclude, symbol, told))
            self._kept.keep(evidence, memory, self._orders.holding(p), news=news)
            if any(isinstance(one, Needed | Adopted) for one in said):
                self._kept.look_in(watching.next_look_s(memory, evidence.instrument))
            return

    def _conclude(self, symbol: str, told: list[tuple[str, Message]]) -> None:
        """In the writer's thread, in one: a bar in between would be held against levels of another unit."""
        for position_id, message in told:
            before = self._engine.positions.get(position_id)
            self._engine.tell(position_id, message)
            if isinstance(message, Rescale) and self._engine.positions.get(position_id) is not before:
                self._engine.levels.rescale(symbol, message.factor)

    async def is_rescaled(self, p: Position) -> bool:
        """True where a look says that a split has overtaken an order: `take_back`. One that fails says nothing."""
        read, _ = await self._books.look(p.symbol)
        alone = not (self._engine.beside(p) or self._engine.against(p))
        return read is not None and alone and await self.take_back(p, read)

    async def take_back(self, p: Position, read: Read) -> bool:
        """True where a split overtook an order before it left: it is taken back, and its position told of the split."""
        withdraw = watching.withdrawn(p, self.message(p, read))
        if withdraw is None:
            return False
        await self._mailbox.tell(p.position_id, withdraw)
        now, bar = self._engine.positions.get(p.position_id), self._engine.levels.slots[p.symbol].last_bar
        if now is None or bar is None or not self._engine.levels.watched(p.symbol):
            return False
        await self.tell_split([now], read, bar)
        return True

    async def tell_split(self, watched: list[Position], read: Read, bar: Bar) -> None:
        """Tell positions of a split that a price which jumped has shown: their figures, and that price is the first."""
        told = [(p.position_id, watching.split_message(p, self.message(p, read))) for p in watched]

        def rebased() -> None:
            # At once, or a bar in between would be held against the levels of before.
            self._engine.tell_all(told)
            self._engine.rebase(bar.symbol, bar)

        await self._mailbox.run(rebased)
        for p, (_, message) in zip(watched, told, strict=True):
            if isinstance(message, Rescale):
                self._kept.rescaled(p, message.factor, self._time.monotonic(), self._orders.holding(p))

    async def _read_more(self, evidence: Evidence, need: Need) -> Evidence | None:
        """The evidence with what it lacks; None where the position has changed over that."""
        p = evidence.position
        if need is Need.NEXT_ORDER:
            return None if await self._took_over(p) else replace(evidence, next_order_known=True)
        if need is Need.EXECUTIONS:
            items, offered = await self._books.fills_of(p) or (), self._calls.has("fills")
            is_shared = bool(self._engine.beside(p) or self._engine.against(p))
            return replace(evidence, executions=Executions(items=items, offered=offered, shared=is_shared))
        record = await self.record_of(p, p.client_order_id or "")
        if evidence.executions is None and self._engine.positions.get(p.position_id) is not p:
            return None  # its record, or another report, said more than this read knows
        return replace(evidence, record=record, beside=tuple(self._engine.beside(p)))

    async def _took_over(self, p: Position) -> bool | None:
        """True when the order of the next attempt was at the broker already, and was recovered; None: no answer."""
        attempt = p.attempt + 1
        try:
            report = await self._calls.order(client_order_id(p.position_id, attempt, p.id_form))
        except BrokerError:
            return None
        if report is not None and self._engine.positions.get(p.position_id) is p:
            await self._mailbox.tell(p.position_id, Recover(at=self._waits.now(p), attempt=attempt, report=report))
        return self._engine.positions.get(p.position_id) is not p

    # --- records and executions ---------------------------------------------------------------------------------------

    async def record_of(self, p: Position, client_order_id: str) -> RecordRead:
        """What the broker's record says of an order of a position that has ended; the position hears of it.

        It may have filled after its end was reported, or be working all the same.
        """
        mono, began = self._time.monotonic(), self._waits.at(p, self._time.monotonic())
        report = told = await self._books.record(p, client_order_id)
        hidden = report is None and not self._calls.capabilities.lookup_sees_closed
        if hidden and client_order_id == p.client_order_id:
            told = await self._books.record_by_executions(p)
        if told is not None:
            await self._mailbox.report(told)
        by_id = self._calls.can_look_up(client_order_id)
        record = RecordRead(client_order_id=client_order_id, began=began, report=report, by_id=by_id)
        record, look_ups = holdings.looked_up(
            p, record, self._shown.look_ups(client_order_id), mono, self._calls.capabilities,
            can_show=by_id or self._calls.has("open_orders"),
        )  # fmt: skip
        self._shown.looked_up(client_order_id, look_ups)
        return record
