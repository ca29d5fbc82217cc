"""Reading the broker's books: positions, records and executions, and telling positions what they prove.

What they prove is decided in `holdings`; here it is read, asked, told, and remembered from one read to the next.
"""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal

from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.aio.tasks import Fresh
from exitfsm.errors import BrokerError
from exitfsm.holdings import Evidence, Executions, Expected, Need, Read, same_symbol
from exitfsm.manager.context import Context, Part
from exitfsm.memory.orders import own_id
from exitfsm.messages import Contradiction, PositionRead, RecordRead, Recover
from exitfsm.outside import logged
from exitfsm.position import READS_MIN, Position, client_order_id
from exitfsm.values import ExecutionReport, Fill, plain

#: How long one look at what is held may take, where something waits for it.
LOOK_MAX_S = 1.0


class View(Part):
    """Reads the broker's books, and tells positions what that means for them."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        #: Reads of what is held; callers that wait together share one.
        self.reads = Fresh(self._read, "exitfsm-positions")

    # --- what is held -------------------------------------------------------------------------------------------------

    async def positions(self) -> Read:
        """What the broker holds, by a read that begins after this call; callers that wait together share one."""
        return await self.reads.answer(LOOK_MAX_S)

    async def _read(self) -> Read:
        held = await self._calls.positions()
        return Read(rows=tuple(held), began=held.began, unreadable=held.unclear)

    async def agreed(self, p: Position) -> Read:
        """What the broker holds; less of a position than is left of it only where several reads in a row agree."""
        shown: list[Decimal] = []
        while True:
            read = await self.positions()
            if holdings.is_silent(read, p.symbol):
                raise BrokerError(f"what the broker holds of {p.symbol} cannot be read")
            shown.append(self.net_of(p, read)[0])
            agree = holdings.agreement(p, shown)
            if agree:
                return read
            if agree is False:
                before, now = map(plain, shown[-2:])
                raise BrokerError(f"the broker shows {before} of {p.symbol}, and then {now}: try again")

    def seen(self, p: Position) -> Expected:
        """What is expected of a position now, and of the others of its holding."""
        return holdings.expect(p, self._engine.beside(p))

    def expectations(self) -> dict[str, Expected]:
        """What is expected of each position now; taken before a read, so that a read that was overtaken shows."""
        return {p.position_id: self.seen(p) for p in list(self._engine.positions.values())}

    def net_of(self, p: Position, read: Read) -> tuple[Decimal, Decimal | None]:
        """The broker's quantity for a position, and its average entry."""
        return holdings.net(read, p, self._engine.beside(p))

    def message(self, p: Position, read: Read, record: RecordRead | None = None) -> PositionRead:
        """What a read shows for a position, as a message to it that leaves no doubt."""
        net, entry = self.net_of(p, read)
        now, began, known = self._time.now(), self._waits.at(p, read.began), holdings.known(p)
        return PositionRead(
            at=now, began=began, qty=net, avg_entry_price=entry, reads=READS_MIN, known=known, record=record
        )

    # --- what a read means --------------------------------------------------------------------------------------------

    async def tell_read(self, position_id: str, read: Read, expected: dict[str, Expected]) -> None:
        """Tell a position what the broker's positions mean for it, with what else must be read for that."""
        p = self._engine.positions.get(position_id)
        if p is None or expected.get(position_id) != self.seen(p) or holdings.is_silent(read, p.symbol):
            return  # `weigh` would say so, too; but no wait may begin with such a read
        evidence: Evidence | None = Evidence(
            position=p,
            beside=tuple(self._engine.beside(p)),
            expected=expected.get(position_id),
            read=read,
            began=self._waits.at(p, read.began),
            broker=self._calls.capabilities,
            next_order_known=not self._calls.asks_by_our_id,
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

    async def _read_more(self, evidence: Evidence, need: Need) -> Evidence | None:
        """The evidence with what it lacks; None where the position has changed over that."""
        p = evidence.position
        if need is Need.NEXT_ORDER:
            return None if await self._took_over(p) else replace(evidence, next_order_known=True)
        if need is Need.EXECUTIONS:
            items, offered = await self.fills_of(p) or (), self._calls.has("fills")
            is_shared = holdings.is_shared(p, list(self._engine.positions.values()))
            return replace(evidence, executions=Executions(items=items, offered=offered, shared=is_shared))
        record = await self.record_of(p, p.client_order_id or "")
        if evidence.executions is None and self._engine.positions.get(p.position_id) is not p:
            return None  # its record, or another report, said more than this read knows
        return replace(evidence, record=record, beside=tuple(self._engine.beside(p)))

    async def _took_over(self, p: Position) -> bool:
        """True when the order of the next attempt was at the broker already, and was recovered."""
        attempt, report = p.attempt + 1, None
        with suppress(BrokerError):  # then it is sent, and refused where it is there
            report = await self._calls.order(client_order_id(p.position_id, attempt, p.id_form))
        if report is not None and self._engine.positions.get(p.position_id) is p:
            await self._mailbox.tell(p.position_id, Recover(at=self._waits.now(p), attempt=attempt, report=report))
        return self._engine.positions.get(p.position_id) is not p

    # --- records and executions ---------------------------------------------------------------------------------------

    async def record_of(self, p: Position, client_order_id: str) -> RecordRead:
        """What the broker's record says of an order of a position that has ended; the position hears of it.

        It may have filled after its end was reported, or be working all the same.
        """
        mono, began = self._time.monotonic(), self._waits.at(p, self._time.monotonic())
        report = told = await self._record(p, client_order_id)
        hidden = report is None and not self._calls.capabilities.lookup_sees_closed
        if hidden and client_order_id == p.client_order_id and self._calls.has("fills"):
            fills = await self._calls.fills(p.opened_at)
            told = holdings.report_from_executions(p, [f for f in fills if same_symbol(f.symbol, p.symbol)])
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

    async def _record(self, p: Position, client_order_id: str) -> ExecutionReport | None:
        """An order's record; by the list of working orders, where the broker cannot be asked about this one."""
        if self._calls.can_look_up(client_order_id):
            return await self._calls.order(client_order_id)
        if not self._calls.has("open_orders"):
            return None  # what the updates say is all there is
        own, listed = own_id(p, client_order_id), await self._calls.open_orders()
        mine = (r for r in listed if r.client_order_id == client_order_id or (own and r.broker_order_id == own))
        return next(mine, None)

    async def fills_of(self, p: Position) -> tuple[Fill, ...] | None:
        """The executions in a position's symbol since its entry; None where they cannot be had."""
        if not self._calls.has("fills"):
            return holdings.executions_of(p, self._orders.told.values(), listed=False)
        with logged("fills_failed position=%s error=%s", p.position_id):
            return holdings.executions_of(p, await self._calls.fills(p.opened_at), listed=True)
        return None
