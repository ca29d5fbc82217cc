"""What the broker holds, held against what is watched.

A read proves little by itself: lists are behind, empty, or older than what an order has told. It counts by how often in
a row it says the same, and by what the executions say. It is as old as its beginning: what was due or known only later
is not decided on it.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from exitfsm.broker.calls import BrokerCalls, Held
from exitfsm.clocks import SteadyTime
from exitfsm.engine import Engine
from exitfsm.errors import BrokerError
from exitfsm.lifecycle import State
from exitfsm.manager.door import Door
from exitfsm.manager.executions import (
    amount,
    average_entry,
    entered_anew,
    is_since,
    sold_by_others,
    surplus,
    told_by_executions,
)
from exitfsm.manager.tasks import begin_shared, shared
from exitfsm.messages import Contradiction, PositionRead, RecordRead, Recover
from exitfsm.outside import logger
from exitfsm.ports import Clock
from exitfsm.position import READS_MIN, Position, client_order_id, is_proved_over
from exitfsm.values import EXACT, ZERO, ExecutionReport, Fill, exactly, plain, tradable

log = logger("exitfsm")

#: How long one look at what is held may take, where something waits for it.
LOOK_MAX_S = 1.0


#: What we know of a position that a read of the broker's books is held against: state, quantity left, current order.
Expectation = tuple[State, Decimal, str | None]
#: The same of a position and of the others of its symbol and side, by their ids.
Seen = tuple[tuple[str, Expectation], ...]
#: A time before everything.
NEVER = -math.inf


@dataclass(slots=True)
class _Reading:
    """How often in a row the broker showed the same quantity for a position of which we expected the same.

    `began` is when the newest of these reads began: one read counts once, however many callers shared it.
    """

    qty: Decimal
    expected: Expectation
    reads: int
    began: float


class Reader:
    """Reads the broker's books, and tells positions what that means for them."""

    def __init__(self, engine: Engine, door: Door, calls: BrokerCalls, time: SteadyTime, clock: Clock) -> None:
        self._engine, self._door, self._calls, self._time, self._clock = engine, door, calls, time, clock
        self._readings: dict[str, _Reading] = {}
        self._ahead: dict[tuple[str, datetime], float] = {}
        #: When no fill can follow each canceled order any more, in monotonic seconds: no clock that is set moves it.
        self._settled: dict[tuple[str, datetime | None], float] = {}
        #: Orders whose end was reported, and whose record showed them working.
        self._working: set[str] = set()
        #: How often in a row an ended order was not shown.
        self._absent: dict[str, int] = {}
        #: When the look-up began that showed an ended order over, in monotonic seconds.
        self._over: dict[str, float] = {}
        self._newest: asyncio.Task[Held] | None = None
        self._reads: set[asyncio.Task[Held]] = set()
        #: Executions of others that the bot's updates told of, one for each order: where the broker lists none.
        self.told: dict[str, Fill] = {}

    async def positions(self) -> Held:
        """What the broker holds, by a read that begins after this call; callers that wait together share one."""
        running = self._newest
        if running is not None and not running.done():
            await asyncio.wait([running], timeout=LOOK_MAX_S)  # one that hangs must not hold up the others
        if self._newest is None or self._newest is running:
            self._newest = begin_shared(self._calls.positions(), "exitfsm-positions")
            self._reads.add(self._newest)
            self._newest.add_done_callback(self._reads.discard)
        return await shared(self._newest)  # begun after this call, by this or another caller

    async def agreed(self, p: Position) -> Held:
        """What the broker holds; less of a position than is left of it only where several reads in a row agree.

        Raises:
            BrokerError: it cannot be read, or one read says another thing than the one before.
        """
        held, shown = Held(began=NEVER), None
        for _ in range(READS_MIN):
            held = await self.positions()
            if held.is_silent_about(p.symbol):
                raise BrokerError(f"what the broker holds of {p.symbol} cannot be read")
            net, _entry = self.net_of(p, held)
            if net >= p.remaining_qty:
                return held
            if shown is not None and net != shown:
                raise BrokerError(f"the broker shows {plain(shown)} of {p.symbol}, and then {plain(net)}: try again")
            shown = net
        return held

    def seen(self, p: Position) -> Seen:
        """What is known of a position now, and of the others of its holding: the broker shows all of them in one."""
        return tuple(sorted((q.position_id, expectation(q)) for q in (p, *self._engine.beside(p))))

    def expectations(self) -> dict[str, Seen]:
        """What is known of each position now; taken before a read, so that a read that was overtaken is seen to be."""
        return {p.position_id: self.seen(p) for p in list(self._engine.positions.values())}

    async def tell_read(self, position_id: str, held: Held, expected: dict[str, Seen]) -> None:
        """Tell a position what the broker holds for it, and how often in a row that was so.

        A read that began before we learned the newest about the position proves nothing about it, and is dropped.
        """
        p = self._engine.positions.get(position_id)
        if p is None or expected.get(position_id) != self.seen(p) or held.is_silent_about(p.symbol):
            return
        began, record = self.at(p, held.began), None
        due = p.next_attempt_at is not None and began >= p.next_attempt_at
        if due or p.remaining_qty <= ZERO or self.net_of(p, held)[0] < p.remaining_qty:
            record = await self._record_of_ended(p)
        if self._engine.positions.get(position_id) is not p or expected[position_id] != self.seen(p):
            return  # its record, or other news, said more than this read knows
        proved = record is not None and is_proved_over(p.order, record, self._calls.capabilities)
        if due and proved and await self._took_over(p):
            return
        net, entry = self.net_of(p, held)
        if p.state is State.MONITORING and net == p.remaining_qty and entry in (None, p.entry_price):
            self._readings.pop(position_id, None)
            return  # as expected: nothing follows from that
        at_rest = p.state is State.MONITORING or not p.order_live
        fills = await self.fills_of(p) if net != p.remaining_qty or at_rest else []
        if entry is None and net > p.remaining_qty:
            entry = average_entry(fills or (), p.side)  # the broker shows no average: what was bought on says it
        shown, net = net, EXACT.subtract(net, surplus(p, net, fills or ()))
        reads = self.count(p, net, held.began)
        if at_rest and shown > ZERO and entered_anew(fills or (), p.side, shown, reads) and self._is_alone(p):
            # What is held now is another position, with a first fill of its own; this one was sold by other hands.
            record = record or await self._record_of_ended(p)
            now = self.now_for(p)
            gone = PositionRead(at=now, began=began, qty=ZERO, reads=READS_MIN, known=expectation(p), record=record)
            await self._door.tell(position_id, gone)
            return
        if net < p.remaining_qty and sold_by_others(p, fills or ()) >= EXACT.subtract(p.remaining_qty, net):
            reads = max(reads, READS_MIN)  # the executions say the same: two sources agree
        elif not held and p.remaining_qty > ZERO:
            if reads >= READS_MIN and p.state is not State.UNPROTECTED and not p.order_live:
                why = f"the broker shows no position at all, and no execution that explains it for {p.symbol}"
                known = expectation(p)
                await self._door.tell(position_id, Contradiction(at=self._time.now(), why=why, known=known))
            return
        elif p.state is State.MONITORING and net > p.remaining_qty and reads < READS_MIN and self._calls.has("fills"):
            explained = amount(fills or (), p.side) == net
            if not explained:
                return  # before the executions are there, it cannot be told from a position that was entered anew
        if net < p.remaining_qty:
            record = record or await self._record_of_ended(p)
        message = PositionRead(
            at=self.now_for(p),
            began=began,
            qty=net,
            avg_entry_price=entry,
            reads=reads,
            known=expectation(p),
            record=record,
        )
        await self._door.tell(position_id, message)

    async def _record_of_ended(self, p: Position) -> RecordRead | None:
        """The record of the newest order, where its end was reported: an attempt, or the position's end, rests on it.

        Raises:
            BrokerError: it cannot be read.
        """
        if p.client_order_id is None or p.order_live or p.state not in (State.REJECTED, State.UNPROTECTED):
            return None
        return await self.record_of(p, p.client_order_id)

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
            told = told_by_executions(p, [f for f in fills if same_symbol(f.symbol, p.symbol)])
        if told is not None:
            await self._door.report(told)
        record = RecordRead(
            client_order_id=client_order_id,
            began=began,
            report=report,
            times=self._count_absent(client_order_id, report),
            by_id=self._calls.can_look_up(client_order_id),
        )
        order = p.find(client_order_id)
        if order is not None and is_proved_over(order, record, self._calls.capabilities):
            self._over[client_order_id] = mono
            self._working.discard(client_order_id)
        else:
            self._over.pop(client_order_id, None)
            if report is not None:
                self._working.add(client_order_id)
        return record

    def _count_absent(self, client_order_id: str, report: ExecutionReport | None) -> int:
        """How often in a row an order was not shown; often enough where the broker cannot show any."""
        if report is not None:
            self._absent.pop(client_order_id, None)
            return 0
        if not self._calls.can_look_up(client_order_id) and not self._calls.has("open_orders"):
            return READS_MIN
        self._absent[client_order_id] = self._absent.get(client_order_id, 0) + 1
        return self._absent[client_order_id]

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

    def works_by_record(self, client_order_id: str) -> bool:
        """True when the newest look-up of an order whose end was reported showed it working."""
        return client_order_id in self._working

    def shown_over(self, client_order_id: str) -> float:
        """When the newest look-up began that showed an ended order over, in monotonic seconds."""
        return self._over.get(client_order_id, NEVER)

    async def _took_over(self, p: Position) -> bool:
        """The next attempt is the broker's already: another machine sent it, or a life of which the record is lost.

        True when it was taken up. What it sells would look as if other hands had sold it.
        """
        if p.state is not State.REJECTED or p.remaining_qty <= ZERO or not self._calls.asks_by_our_id:
            return False
        attempt, report = p.attempt + 1, None
        with suppress(BrokerError):  # then it is sent, and refused where it is there
            report = await self._calls.order(client_order_id(p.position_id, attempt))
        if report is not None and self._engine.positions.get(p.position_id) is p:
            await self._door.tell(p.position_id, Recover(at=self.now_for(p), attempt=attempt, report=report))
        return self._engine.positions.get(p.position_id) is not p

    def _is_alone(self, p: Position) -> bool:
        """True when no other position of the symbol is open, so that all its executions are this one's."""
        others = (q for q in list(self._engine.positions.values()) if q.position_id != p.position_id)
        return not any(same_symbol(q.symbol, p.symbol) for q in others)

    @exactly
    def net_of(self, p: Position, held: Held) -> tuple[Decimal, Decimal | None]:
        """The broker's quantity for a position, less what other known epochs of the symbol hold; and its entry.

        Where it shows less than all of them together, that is missing of the oldest first.
        """
        beside = self._engine.beside(p)
        others = _left(beside)
        bp = next((bp for bp in held if bp.symbol == p.symbol or same_symbol(bp.symbol, p.symbol)), None)
        if bp is not None and bp.side is not p.side:
            return -bp.qty, None
        shown = bp.qty if bp is not None else ZERO
        entry = bp.avg_entry_price if bp is not None and not others else None
        entry = entry if entry is not None and tradable(entry) and entry > 0 else None
        missing = _left([p, *beside]) - shown
        if missing <= ZERO:
            return shown - others, entry
        missing -= _left([q for q in beside if is_older(q, p)])
        return min(_left([p]), max(ZERO, _left([p]) - missing)), entry

    def count(self, p: Position, net: Decimal, began: float) -> int:
        """Note that a read that began then showed this much for a position; returns how often in a row that was so.

        A read that is older than the newest one, or that other callers have counted, adds nothing.
        """
        reading = self._readings.get(p.position_id)
        if reading is None or reading.qty != net or reading.expected != expectation(p):
            if reading is not None and reading.expected == expectation(p) and began <= reading.began:
                return 1
            reading = self._readings[p.position_id] = _Reading(net, expectation(p), 0, NEVER)
        if began > reading.began:
            reading.reads, reading.began = reading.reads + 1, began
        return reading.reads

    async def fills_of(self, p: Position) -> list[Fill] | None:
        """The executions in a position's symbol since its entry; None where they cannot be had.

        A broker may list more than it is asked for: what was sold before the entry is no sale of this position.
        """
        if not self._calls.has("fills"):
            told = list(self.told.values())
            return [f for f in told if same_symbol(f.symbol, p.symbol) and f.at >= p.opened_at]
        try:
            fills = await self._calls.fills(p.opened_at)
        except BrokerError as error:
            log.warning("fills_failed position=%s error=%s", p.position_id, error)
            return None
        return [f for f in fills if same_symbol(f.symbol, p.symbol) and is_since(f, p.opened_at)]

    def shown_before(self, p: Position) -> Decimal | None:
        """What the newest reads agree is held for a position; None where they do not, or are older than other news."""
        reading = self._readings.get(p.position_id)
        if reading is None or reading.expected != expectation(p) or reading.reads < READS_MIN:
            return None
        return reading.qty

    def last_shown(self, p: Position) -> Decimal | None:
        """What the newest read showed for a position, if only once; None where its orders have filled something since.

        No proof, but a reason to ask again.
        """
        reading = self._readings.get(p.position_id)
        return reading.qty if reading is not None and reading.expected[1] == p.remaining_qty else None

    def now_for(self, p: Position) -> datetime:
        """The present as the waits of a position see it.

        Where its record lies ahead of the clock, because the clock was set back before a restart, its time goes on from
        there: a wait is as long as it was meant to be, whatever the clock says.
        """
        now = self._time.now()
        longest = timedelta(
            seconds=max(p.policy.partial_fills.resubmit_delay_seconds, self._calls.capabilities.late_fill_window_s or 0)
        )
        if p.next_attempt_at is not None:
            began = p.next_attempt_at - longest
        elif p.waiting_since is not None:
            began = p.waiting_since
        else:
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
            late = p.ended_how == "canceled" and self._calls.capabilities.late_fills and p.next_attempt_at is not None
            window = self._calls.capabilities.late_fill_window_s or 0 if late else 0
            left = (p.next_attempt_at - self.now_for(p)).total_seconds() if p.next_attempt_at is not None else 0
            self._settled[key] = self._clock.monotonic() + min(window, max(0, left))
        return self._settled[key]

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._readings.pop(p.position_id, None)
        self._settled = {key: at for key, at in self._settled.items() if key[0] != p.position_id}
        self._ahead = {key: at for key, at in self._ahead.items() if key[0] != p.position_id}
        for order in p.orders:
            self._over.pop(order.client_order_id, None)
            self._absent.pop(order.client_order_id, None)
            self._working.discard(order.client_order_id)

    async def close(self) -> None:
        """Give up the reads that are under way."""
        reads = list(self._reads)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


def _left(positions: list[Position]) -> Decimal:
    """What is still to sell of these together; one that sold too much takes nothing from the others."""
    return sum((max(ZERO, p.remaining_qty) for p in positions), ZERO)


def is_older(one: Position, other: Position) -> bool:
    """True when the first was opened before the second."""
    return (one.opened_at, one.position_id) < (other.opened_at, other.position_id)


def expectation(p: Position) -> Expectation:
    """What a read of the broker's books is held against."""
    return p.state, p.remaining_qty, p.client_order_id


def same_symbol(one: str, other: str) -> bool:
    """True for two spellings of one instrument (a pair comes with and without its slash)."""
    if one == other or ("/" in one) == ("/" in other):
        return one == other
    return one.replace("/", "") == other.replace("/", "")
