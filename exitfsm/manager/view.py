"""Reading the broker's books: positions, records and executions, and telling positions what they prove.

What they prove is decided in `holdings`; here it is read, asked, told, and remembered from one read to the next.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.errors import BrokerError
from exitfsm.holdings import Count, Evidence, Executions, Expected, LookUps, Need, Read, same_symbol
from exitfsm.manager.context import Context
from exitfsm.manager.tasks import begin_shared, shared
from exitfsm.messages import Contradiction, RecordRead, Recover
from exitfsm.outside import logger
from exitfsm.position import Position, client_order_id
from exitfsm.values import ExecutionReport, Fill, plain

log = logger("exitfsm")

#: How long one look at what is held may take, where something waits for it.
LOOK_MAX_S = 1.0


class View:
    """Reads the broker's books, and tells positions what that means for them."""

    def __init__(self, context: Context) -> None:
        self._engine, self._mailbox, self._calls = context.engine, context.mailbox, context.calls
        self._time, self._clock, self._orders = context.given.time, context.given.clock, context.orders
        self._counts: dict[str, Count] = {}
        self._ahead: dict[tuple[str, datetime], float] = {}
        #: When no fill can follow each canceled order any more, in monotonic seconds: no clock that is set moves it.
        self._settled: dict[tuple[str, datetime | None], float] = {}
        self._look_ups: dict[str, LookUps] = {}
        self._newest: asyncio.Task[Read] | None = None
        self._reads: set[asyncio.Task[Read]] = set()

    async def positions(self) -> Read:
        """What the broker holds, by a read that begins after this call; callers that wait together share one."""
        running = self._newest
        if running is not None and not running.done():
            await asyncio.wait([running], timeout=LOOK_MAX_S)  # one that hangs must not hold up the others
        if self._newest is None or self._newest is running:
            self._newest = begin_shared(self._read(), "exitfsm-positions")
            self._reads.add(self._newest)
            self._newest.add_done_callback(self._reads.discard)
        return await shared(self._newest)  # begun after this call, by this or another caller

    async def _read(self) -> Read:
        held = await self._calls.positions()
        return Read(rows=tuple(held), began=held.began, unreadable=held.unclear)

    async def agreed(self, p: Position) -> Read:
        """What the broker holds; less of a position than is left of it only where several reads in a row agree.

        Raises:
            BrokerError: it cannot be read, or one read says another thing than the one before.
        """
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

    async def tell_read(self, position_id: str, read: Read, expected: dict[str, Expected]) -> None:
        """Tell a position what the broker's positions mean for it, with what else must be read for that.

        Raises:
            BrokerError: the record of its newest order cannot be read.
        """
        p = self._engine.positions.get(position_id)
        if p is None or expected.get(position_id) != self.seen(p) or holdings.is_silent(read, p.symbol):
            return  # `weigh` would say so, too; but no wait may begin with such a read
        evidence = Evidence(
            position=p,
            beside=tuple(self._engine.beside(p)),
            expected=expected.get(position_id),
            read=read,
            began=self.at(p, read.began),
            broker=self._calls.capabilities,
            next_order_known=not self._calls.asks_by_our_id,
        )
        while isinstance(conclusion := self._weighed(evidence), Need):
            more = await self._read_more(evidence, conclusion)
            if more is None:
                return
            evidence = more
        if isinstance(conclusion, holdings.Missing):
            why = f"the broker shows no position at all, and no execution that explains it for {p.symbol}"
            missing = Contradiction(at=self._time.now(), why=why, known=holdings.known(p))
            await self._mailbox.tell(position_id, missing)
        elif not isinstance(conclusion, holdings.Nothing):
            await self._mailbox.tell(position_id, holdings.position_read(evidence, conclusion, self.now_for(p)))

    def _weighed(self, evidence: Evidence) -> holdings.Conclusion:
        """What the evidence proves, held against the reads before it."""
        position_id = evidence.position.position_id
        conclusion, count = holdings.weigh(evidence, self._counts.get(position_id))
        if count is not None:
            self._counts[position_id] = count
        else:
            self._counts.pop(position_id, None)
        return conclusion

    async def _read_more(self, evidence: Evidence, need: Need) -> Evidence | None:
        """The evidence with what it lacks; None where the position has changed over that.

        Raises:
            BrokerError: the record of its newest order cannot be read.
        """
        p = evidence.position
        if need is Need.NEXT_ORDER:
            return None if await self._took_over(p) else replace(evidence, next_order_known=True)
        if need is Need.EXECUTIONS:
            items, offered = await self.fills_of(p) or (), self._calls.has("fills")
            listed = Executions(
                items=items, offered=offered, shared=holdings.is_shared(p, list(self._engine.positions.values()))
            )
            return replace(evidence, executions=listed)
        record = await self.record_of(p, p.client_order_id or "")
        if evidence.executions is None and self._engine.positions.get(p.position_id) is not p:
            return None  # its record, or other news, said more than this read knows
        return replace(evidence, record=record, beside=tuple(self._engine.beside(p)))

    async def record_of(self, p: Position, client_order_id: str) -> RecordRead:
        """What the broker's record says of an order of a position that has ended; the position is told of it.

        It may have filled after its end was reported, or be working all the same.

        Raises:
            BrokerError: it cannot be read.
        """
        mono, began = self._clock.monotonic(), self.at(p, self._clock.monotonic())
        report = await self._shown(p, client_order_id)
        told = report
        hidden = report is None and not self._calls.capabilities.lookup_sees_closed
        if hidden and client_order_id == p.client_order_id and self._calls.has("fills"):
            fills = await self._calls.fills(p.opened_at)
            told = holdings.report_from_executions(p, [f for f in fills if same_symbol(f.symbol, p.symbol)])
        if told is not None:
            await self._mailbox.report(told)
        record = RecordRead(
            client_order_id=client_order_id,
            began=began,
            report=report,
            by_id=self._calls.can_look_up(client_order_id),
        )
        record, self._look_ups[client_order_id] = holdings.looked_up(
            p, record, self.look_ups(client_order_id), mono, self._calls.capabilities,
            can_show=record.by_id or self._calls.has("open_orders"),
        )  # fmt: skip
        return record

    async def _shown(self, p: Position, client_order_id: str) -> ExecutionReport | None:
        """An order's record; by the list of working orders, where the broker cannot be asked about this one.

        Raises:
            BrokerError: no answer.
        """
        if self._calls.can_look_up(client_order_id):
            return await self._calls.order(client_order_id)
        if not self._calls.has("open_orders"):
            return None  # what the updates say is all there is
        own = next((own for own, ours in p.broker_order_ids.items() if ours == client_order_id), None)
        listed = await self._calls.open_orders()
        return next(
            (r for r in listed if r.client_order_id == client_order_id or (own and r.broker_order_id == own)), None
        )

    def look_ups(self, client_order_id: str) -> LookUps:
        """What the look-ups of an order whose end was reported have shown."""
        return self._look_ups.get(client_order_id, LookUps())

    async def _took_over(self, p: Position) -> bool:
        """True when the order of the next attempt was at the broker already, and was taken up."""
        attempt, report = p.attempt + 1, None
        with suppress(BrokerError):  # then it is sent, and refused where it is there
            report = await self._calls.order(client_order_id(p.position_id, attempt, p.id_form))
        if report is not None and self._engine.positions.get(p.position_id) is p:
            await self._mailbox.tell(p.position_id, Recover(at=self.now_for(p), attempt=attempt, report=report))
        return self._engine.positions.get(p.position_id) is not p

    def net_of(self, p: Position, read: Read) -> tuple[Decimal, Decimal | None]:
        """The broker's quantity for a position, and its average entry."""
        return holdings.net(read, p, self._engine.beside(p))

    def count(self, p: Position, net: Decimal, began: float) -> int:
        """Note that a read that began then showed this much for a position; returns how often in a row that was so."""
        reads, self._counts[p.position_id] = holdings.count(self._counts.get(p.position_id), p, net, began)
        return reads

    def counted(self, p: Position) -> Count | None:
        """What the newest reads showed for a position."""
        return self._counts.get(p.position_id)

    async def fills_of(self, p: Position) -> tuple[Fill, ...] | None:
        """The executions in a position's symbol since its entry; None where they cannot be had."""
        if not self._calls.has("fills"):
            return holdings.executions_of(p, self._orders.told.values(), listed=False)
        try:
            fills = await self._calls.fills(p.opened_at)
        except BrokerError as error:
            log.warning("fills_failed position=%s error=%s", p.position_id, error)
            return None
        return holdings.executions_of(p, fills, listed=True)

    def now_for(self, p: Position) -> datetime:
        """The present as the waits of a position see it.

        Where its record lies ahead of the clock, because the clock was set back before a restart, its time goes on from
        there: a wait is as long as it was meant to be, whatever the clock says.
        """
        now, began = self._time.now(), holdings.wait_began(p, self._calls.capabilities)
        if began is None:
            return now
        mono, key = self._clock.monotonic(), (p.position_id, began)
        if began > now:
            self._ahead.setdefault(key, mono)
        seen = self._ahead.get(key)
        # Once ahead, it stays ahead: when the clock comes to where the wait began, its time must not go back.
        return now if seen is None else max(now, began + timedelta(seconds=mono - seen))

    def at(self, p: Position, monotonic: float) -> datetime:
        """A moment of which the monotonic time is known, as the waits of a position see it.

        Before the time in which fills may follow a cancel has really passed, it lies before the next attempt, whatever
        the clock was set to meanwhile.
        """
        moment = self.now_for(p) - timedelta(seconds=self._clock.monotonic() - monotonic)
        if p.next_attempt_at is None or monotonic >= (settled := self.note_wait(p)):
            return moment
        return min(moment, p.next_attempt_at - timedelta(seconds=settled - monotonic))

    def note_wait(self, p: Position) -> float:
        """When no fill can follow a position's canceled order any more, in monotonic seconds from the first call on."""
        key = (p.position_id, p.next_attempt_at)
        if key not in self._settled:
            late_s = holdings.late_fills_s(p, self._calls.capabilities, self.now_for(p))
            self._settled[key] = self._clock.monotonic() + late_s
        return self._settled[key]

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._counts.pop(p.position_id, None)
        self._settled = {key: at for key, at in self._settled.items() if key[0] != p.position_id}
        self._ahead = {key: at for key, at in self._ahead.items() if key[0] != p.position_id}
        for order in p.orders:
            self._look_ups.pop(order.client_order_id, None)

    async def close(self) -> None:
        """Give up the reads that are under way."""
        reads = list(self._reads)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
