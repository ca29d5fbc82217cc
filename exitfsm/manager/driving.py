"""Carrying out what is owed: one task for each position, so that a slow answer about one never delays another.

A task asks the engine what its position owes, does it, tells the engine what came of it, and asks again until nothing
is owed or nothing moves. What did not move is asked again by the manager's timer, after a pause that grows. The same
code serves the first send, the retry and the recovery after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from msgspec.structs import replace

from exitfsm.config import LiveSettings
from exitfsm.engine import Engine
from exitfsm.errors import BrokerError, OrderRefused, StoreError
from exitfsm.lifecycle import State
from exitfsm.manager.calls import Breaker, BrokerCalls, Held, Outcome, RateBudget, describe
from exitfsm.manager.clock import SteadyTime
from exitfsm.manager.door import Door
from exitfsm.manager.executions import amount, average_entry, entered_anew, sold_by_others, surplus
from exitfsm.messages import Contradiction, PositionRead, RaiseAlarm
from exitfsm.outside import logger
from exitfsm.ports import Clock, IdMemory, Session
from exitfsm.position import READS_MIN, Action, Cancel, LookUp, Position, ReadPosition, Submit
from exitfsm.simulate import refused_report
from exitfsm.values import EXACT, ZERO, ExecutionReport, Fill, Order, OrderStatus, exactly, plain, tradable

log = logger("exitfsm")

#: Steps that one task takes in a row before it leaves the rest to the timer: a bound on any loop with the broker.
STEPS_MAX = 25
#: Pause before the same thing is tried again, doubled up to the longest.
PAUSE_S, PAUSE_MAX_S = 0.5, 30.0
#: A submit whose outcome stays unknown is looked up and repeated so often before a person is told.
UNKNOWN_MAX = 3
#: How long the look at what is held may take before an order is sent to a broker that does not look by itself.
LOOK_MAX_S = 1.0
#: How often it is tried again where it fails, before an order that never left is sent all the same.
LOOKS_MAX = 3
#: How long a market session that was read is believed.
SESSION_AGE_S = 30.0
#: How soon it is asked for again when it could not be read.
SESSION_RETRY_S = 5.0
#: How long the bot's call waits for orders that it caused to have left; a broker that is slower is not waited for.
GRACE_S = 0.01


#: What we know of a position that a read of the broker's books is held against: state, quantity left, current order.
Expectation = tuple[State, Decimal, str | None]


@dataclass(slots=True)
class _Reading:
    """How often in a row the broker showed the same quantity for a position of which we expected the same."""

    qty: Decimal
    expected: Expectation
    reads: int


class Driver:
    """Does what positions owe the broker."""

    def __init__(
        self,
        engine: Engine,
        door: Door,
        calls: BrokerCalls,
        breaker: Breaker,
        time: SteadyTime,
        clock: Clock,
        live: LiveSettings,
    ) -> None:
        self._engine, self._door, self._calls, self._breaker = engine, door, calls, breaker
        self._time, self._clock, self._live = time, clock, live
        self._budget = RateBudget(clock, live.orders_per_minute)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: Those of them that wait for nothing but time.
        self._resting: set[asyncio.Task[None]] = set()
        self._closing = False
        self._pauses: dict[str, tuple[float, float]] = {}
        self._unknown: dict[str, int] = {}
        self._readings: dict[str, _Reading] = {}
        self._ahead: dict[tuple[str, datetime], float] = {}
        self._reading: asyncio.Task[Held] | None = None
        self._reads: set[asyncio.Task[Held]] = set()
        #: The market's hours by symbol, and until when they are believed.
        self._sessions: dict[str, tuple[float, Session]] = {}
        self._session_reads: dict[str, asyncio.Task[None]] = {}
        #: Exit orders that are being sent at this moment: the broker may not know them yet.
        self.sending: set[str] = set()
        #: Orders that look like exits of ours, work, and belong to no known position: their symbols, by id.
        self.strangers: dict[str, str] = {}
        #: Orders of others that are known to work, by symbol and id: the bot's entries above all.
        self.foreign: dict[str, dict[str, ExecutionReport]] = {}
        #: Executions of others that the bot's updates told of, one for each order: where the broker lists none.
        self.told: dict[str, Fill] = {}

    # --- tasks --------------------------------------------------------------------------------------------------------

    def drive(self, position_ids: Iterable[str], *, now: bool = True) -> None:
        """See to it that each position's debts are worked on; `now` does not wait for its pause to end."""
        for position_id in position_ids:
            if now:
                self._pauses.pop(position_id, None)
            elif self._clock.monotonic() < self._pauses.get(position_id, (0.0, 0.0))[0]:
                continue
            if position_id not in self._tasks:
                task = asyncio.create_task(self._run(position_id), name=f"exitfsm-{position_id}")
                self._tasks[position_id] = task
                task.add_done_callback(partial(self._ended, position_id))

    def _ended(self, position_id: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(position_id, None)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is being worked on."""
        return list(self._tasks.values())

    async def close(self, wait_s: float) -> None:
        """Let calls that are under way come back, within reason; then give up. Nothing is lost: it stays owed.

        What only waits for time to pass is not waited for.
        """
        self._closing = True
        for task in self._resting:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self.tasks, timeout=wait_s)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        reads = [*self._session_reads.values(), *self._reads]
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    async def _rest(self, waiting: Callable[[], Awaitable[None]]) -> None:
        """Wait for time to pass, in a task of a position."""
        task = asyncio.current_task()
        assert task is not None
        if self._closing:
            raise asyncio.CancelledError
        self._resting.add(task)
        try:
            await waiting()
        finally:
            self._resting.discard(task)

    async def _run(self, position_id: str) -> None:
        for _ in range(STEPS_MAX):
            if self._closing:
                return
            p = self._engine.positions.get(position_id)
            action = self._engine.owed_by(p, self.now_for(p)) if p is not None else None
            if p is None or action is None:
                self._pauses.pop(position_id, None)
                return
            try:
                moved = await self._act(p, action)
            except (BrokerError, StoreError) as error:
                log.warning("owed_failed position=%s action=%s error=%s", position_id, type(action).__name__, error)
                moved = False
            except Exception:
                # A defect here must not end the only task that gets this position out: log it, and try again later.
                log.exception("owed_crashed position=%s action=%s", position_id, type(action).__name__)
                moved = False
            if not moved:
                break
        pause = min(self._pauses.get(position_id, (0.0, PAUSE_S / 2))[1] * 2, PAUSE_MAX_S)
        self._pauses[position_id] = (self._clock.monotonic() + pause, pause)

    async def _act(self, p: Position, action: Action) -> bool:
        """Do one thing; True when something moved, so that the next question makes sense at once."""
        match action:
            case Submit():
                return await self._submit(p, action)
            case LookUp():
                return await self.look_up(p.position_id, action.client_order_id)
            case Cancel():
                return await self._cancel(p, action)
            case ReadPosition():
                return await self._read(p)

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
        if began <= now:
            return now
        seen = self._ahead.setdefault((p.position_id, began), self._clock.monotonic())
        return began + timedelta(seconds=self._clock.monotonic() - seen)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _submit(self, p: Position, action: Submit) -> bool:
        """Send the order whose intent is durable; once."""
        order = action.order
        if self._stranger_works(p.symbol):
            return False  # it would be a second exit of ours; a person has been told
        if not await self._may_send(p.symbol) or not self._breaker.allows(self._clock.monotonic()):
            return False
        await self._make_way(p)
        refusal = None if self._calls.capabilities.reduce_only else await self._no_longer_held(p, order)
        if refusal is not None:
            return await self._not_sent(order, refusal)
        await self._rest(self._budget.spend)
        current = self._engine.positions.get(p.position_id)
        if current is None or self._engine.owed_by(current, self.now_for(current)) != action:
            return True  # while it waited for its turn, something else was learned
        self._engine.sent(order.client_order_id)
        self.sending.add(order.client_order_id)
        try:
            outcome = await self._calls.submit(order)
        finally:
            self.sending.discard(order.client_order_id)
        log.info(
            "submit id=%s symbol=%s side=%s qty=%s outcome=%s why=%s",
            order.client_order_id, order.symbol, order.side, plain(order.qty), outcome.outcome.value, outcome.why,
        )  # fmt: skip
        if outcome.report is not None:
            report = outcome.report
            if outcome.outcome is Outcome.REFUSED:
                report = await self._there_after_all(order) or report
            self._unknown.pop(order.client_order_id, None)
            await self._door.report(report)
            return True
        if outcome.outcome is Outcome.NOT_SENT:
            self._engine.not_known(order.client_order_id)
            return False
        return True  # unknown: what is owed now is a look-up

    async def _there_after_all(self, order: Order) -> ExecutionReport | None:
        """The record of an order that was just refused, where the refusal was said of another copy of its request.

        What is repeated on the way, or sent again, can be refused because of the first copy: it holds the quantity.

        Raises:
            BrokerError: the record cannot be read, and an earlier copy may have arrived.
        """
        try:
            return await self._calls.order(order.client_order_id)
        except BrokerError:
            if order.client_order_id in self._unknown:
                raise
            return None

    def _stranger_works(self, symbol: str) -> bool:
        """True while an exit order of ours works that belongs to no position, not even by now."""
        name = symbol.replace("/", "")
        return any(of == name and self._engine.known_owner(key) is None for key, of in self.strangers.items())

    async def _no_longer_held(self, p: Position, order: Order) -> OrderRefused | None:
        """The refusal of an order that would sell more than is held, at a broker that does not refuse it by itself.

        A broker that does not answer holds up no first send for long, unless it has shown less before; a smaller
        quantity, also that nothing is held at all, counts when the executions say the same, or when it is shown often
        enough. What that means for the position is decided before the next attempt, as after any refusal.

        Raises:
            BrokerError: no answer, and an earlier copy of the order may have left: it waits for one.
        """
        failed = shown = 0
        while True:
            try:
                async with asyncio.timeout(LOOK_MAX_S):
                    held = await self.positions()
            except (BrokerError, TimeoutError) as error:
                failed += 1
                refusal = self._shown_before(p, order)
                if refusal is not None:
                    return refusal
                if failed == LOOKS_MAX:
                    if order.client_order_id in self._unknown:
                        raise BrokerError(f"what is held of {p.symbol} is not known: {describe(error)}") from None
                    return None
            else:
                net, _ = self.net_of(p, held)
                if held.is_silent_about(p.symbol):
                    return None
                self._count(p, net)
                if net >= order.qty:
                    return None
                shown += 1
                agreed = sold_by_others(p, await self._fills_of(p) or (), unsent=True) >= EXACT.subtract(order.qty, net)
                if agreed or shown == READS_MIN:
                    return _more_than_held(order, net)
            await self._rest(partial(self._clock.sleep, PAUSE_S))

    async def _not_sent(self, order: Order, refusal: OrderRefused) -> bool:
        """What becomes of an order that would sell more than is held.

        Raises:
            BrokerError: its record cannot be read.
        """
        # An earlier life, whose store was lost, may have sent the same id: then what is missing is what it sold.
        report = await self._calls.order(order.client_order_id) if self._calls.asks_by_our_id else None
        if report is None and order.client_order_id in self._unknown:
            # It may be on its way, with the same effect. Not sent, not refused; it is asked for again.
            log.warning("submit_held_back id=%s why=%s", order.client_order_id, refusal)
            self._engine.sent(order.client_order_id)
            return False
        await self._door.report(report or refused_report(order.client_order_id, refusal, self._time.now()))
        return True

    def _shown_before(self, p: Position, order: Order) -> OrderRefused | None:
        """The refusal that the newest reads of this position amount to, while the broker does not answer."""
        reading = self._readings.get(p.position_id)
        if reading is None or reading.expected != expectation(p) or reading.reads < READS_MIN:
            return None
        return _more_than_held(order, reading.qty) if reading.qty < order.qty else None

    async def look_up(self, position_id: str, client_order_id: str) -> bool:
        """Ask what the broker knows of an order, and tell its position; True when something moved."""
        before = self._engine.positions.get(position_id)
        report = await self._calls.order(client_order_id)
        if report is not None:
            self._unknown.pop(client_order_id, None)
            if before is not None and client_order_id in before.corrected_orders:
                # The broker has corrected it once, and older news of it may still come: its record is what counts.
                report = replace(report, corrected=True)
            await self._door.report(report)
            return self._engine.positions.get(position_id) is not before
        return await self._not_found(position_id, client_order_id)

    async def clear_up(self, p: Position) -> None:
        """Find out what became of an unprotected position's order, on an operator's word.

        One that the broker does not know counts as refused then, and one that was replaced there as canceled: the
        operator has looked, and answers for it.
        """
        if p.client_order_id is None:
            return
        if not p.order_live:
            await self._news_of_ended(p.client_order_id)
            return
        report = await self._calls.order(p.client_order_id)
        if report is not None and report.status is OrderStatus.REPLACED:
            filled = p.filled_qty if report.filled_qty is None else report.filled_qty
            report = replace(report, status=OrderStatus.CANCELED, filled_qty=filled)
        await self._door.report(
            report
            or ExecutionReport(
                client_order_id=p.client_order_id,
                status=OrderStatus.REJECTED,
                at=self._time.now(),
                refusal="not_known",
                refused_at_submit=True,
                text="the broker does not know it; given up on an operator's word",
            )
        )

    async def _news_of_ended(self, client_order_id: str) -> None:
        """An ended order may have gained a fill since, of which nobody told: its record says so, where there is one."""
        if not self._calls.capabilities.lookup_sees_closed:
            return
        with suppress(BrokerError):
            report = await self._calls.order(client_order_id)
            if report is not None:
                await self._door.report(report)

    async def _not_found(self, position_id: str, client_order_id: str) -> bool:
        """The broker does not know the id. Proof of nothing, unless it refuses a repeated id for ever."""
        times = self._unknown[client_order_id] = self._unknown.get(client_order_id, 0) + 1
        p = self._engine.positions.get(position_id)
        if p is None or p.client_order_id != client_order_id or not p.order_live:
            return False
        can_resend = p.state is State.PENDING and self._calls.capabilities.ids_refused is IdMemory.FOREVER
        if can_resend:
            self._engine.not_known(client_order_id)
        if times >= UNKNOWN_MAX or (p.state is State.PENDING and not can_resend):
            text = f"the broker does not know exit order {client_order_id} of {p.symbol}, asked {times} times; " + (
                "the same order is sent again, while so much is held"
                if can_resend
                else "it is not sent again: the broker might take it twice"
            )
            await self._door.tell(position_id, RaiseAlarm(at=self._time.now(), kind="order_not_found", text=text))
        return can_resend and times < UNKNOWN_MAX

    async def _cancel(self, p: Position, action: Cancel) -> bool:
        """Ask for the cancel, then for what became of the order: only its record ends it."""
        await self._rest(self._budget.spend)
        refused = await self._calls.cancel(action.client_order_id)
        report = await self._calls.order(action.client_order_id)
        if report is not None and (report.status.terminal or refused is None):
            await self._door.report(report)
        elif refused is not None:
            await self._door.report(refused)
        return self._engine.positions.get(p.position_id) is not p

    async def _make_way(self, p: Position) -> None:
        """The exit goes before the bot's entries: one that is known to rest on the symbol is canceled, or reported."""
        working = self.foreign.get(p.symbol.replace("/", ""), {})
        for order_id, order in list(working.items()):
            prefix = self._live.entry_id_prefix
            if not prefix or not order_id.startswith(prefix):
                text = (
                    f"order {order_id} ({order.side or 'unknown side'}) of {p.symbol} works while {p.symbol} is exited"
                )
                await self._door.tell(p.position_id, RaiseAlarm(at=self._time.now(), kind="foreign_order", text=text))
                continue
            with suppress(BrokerError):
                await self._calls.cancel(order_id)
                for _ in range(READS_MIN):
                    record = await self._calls.order(order_id)
                    if record is None or record.status.terminal:
                        working.pop(order_id, None)
                        break
                    await self._rest(partial(self._clock.sleep, PAUSE_S))

    # --- the market's hours -------------------------------------------------------------------------------------------

    async def session(self, symbol: str) -> Session:
        """The market's hours now; read again when what is known is old. Open where the broker cannot say."""
        reading = self._ask_session(symbol)
        if reading is not None:
            await asyncio.wait([reading], timeout=LOOK_MAX_S)  # no exit waits for long to hear whether it may go
        return self.known_session(symbol) or Session(is_open=True)

    def hours(self, symbol: str) -> Session | None:
        """The same without waiting: as last read, None before the first answer; what is old is read anew meanwhile."""
        self._ask_session(symbol)
        return self.known_session(symbol)

    def known_session(self, symbol: str) -> Session | None:
        """The market's hours as last read."""
        known = self._sessions.get(symbol)
        return known[1] if known is not None else None

    def _ask_session(self, symbol: str) -> asyncio.Task[None] | None:
        """The read of a symbol's hours that is under way; None when what is known is fresh."""
        if symbol in self._session_reads:
            return self._session_reads[symbol]
        known = self._sessions.get(symbol)
        if known is not None and self._clock.monotonic() < known[0] and not _is_over(known[1], self._time.now()):
            return None
        task = asyncio.create_task(self._read_session(symbol), name="exitfsm-session")
        self._session_reads[symbol] = task
        task.add_done_callback(lambda _: self._session_reads.pop(symbol, None))
        return task

    async def _read_session(self, symbol: str) -> None:
        age = SESSION_AGE_S
        try:
            session = await self._calls.session(symbol, self._time.now())
        except BrokerError as error:
            log.warning("session_unknown symbol=%s error=%s", symbol, error)
            session, age = self.known_session(symbol) or Session(is_open=True), SESSION_RETRY_S
        self._sessions[symbol] = (self._clock.monotonic() + age, session)

    async def _may_send(self, symbol: str) -> bool:
        capabilities = self._calls.capabilities
        if capabilities.queues_orders or capabilities.rules(symbol).always_open:
            return True
        return (await self.session(symbol)).is_open

    # --- reading positions --------------------------------------------------------------------------------------------

    async def positions(self) -> Held:
        """What the broker holds, by a read that begins after this call; callers that wait together share one."""
        running = self._reading
        if running is not None and not running.done():
            await asyncio.wait([running], timeout=LOOK_MAX_S)  # one that hangs must not hold up the others
        if self._reading is None or self._reading is running:
            self._reading = asyncio.create_task(self._calls.positions(), name="exitfsm-positions")
            self._reads.add(self._reading)
            self._reading.add_done_callback(self._reads.discard)
        return await asyncio.shield(self._reading)  # begun after this call, by this or another caller

    async def _read(self, p: Position) -> bool:
        """A fresh read for one position, and what it means."""
        expected = self.expectations()
        held = await self.positions()
        await self.tell_read(p.position_id, held, expected)
        return self._engine.positions.get(p.position_id) is not p

    def expectations(self) -> dict[str, Expectation]:
        """What is known of each position now; taken before a read, so that a read that was overtaken is seen to be."""
        return {p.position_id: expectation(p) for p in list(self._engine.positions.values())}

    async def tell_read(self, position_id: str, held: Held, expected: dict[str, Expectation]) -> None:
        """Tell a position what the broker holds for it, and how often in a row that was so.

        A read that began before we learned the newest about the position proves nothing about it, and is dropped.
        """
        p = self._engine.positions.get(position_id)
        if p is None or expected.get(position_id) != expectation(p) or held.is_silent_about(p.symbol):
            return
        if self._may_have_filled_late(p):
            report = await self._calls.order(p.client_order_id or "")
            if report is not None:
                await self._door.report(report)
            if expected[position_id] != expectation(self._engine.positions.get(position_id, p)):
                return
        net, entry = self.net_of(p, held)
        if p.state is State.MONITORING and net == p.remaining_qty and entry in (None, p.entry_price):
            self._readings.pop(position_id, None)
            return  # as expected: nothing follows from that
        at_rest = p.state is State.MONITORING or not p.order_live
        fills = await self._fills_of(p) if net != p.remaining_qty or at_rest else []
        if entry is None and net > p.remaining_qty:
            entry = average_entry(fills or (), p.side)  # the broker shows no average: what was bought on says it
        shown, net = net, EXACT.subtract(net, surplus(p, net, fills or ()))
        reads = self._count(p, net)
        if at_rest and shown > ZERO and entered_anew(fills or (), p.side, shown, reads) and self._is_alone(p):
            # What is held now is another position, with a first fill of its own; this one was sold by other hands.
            gone = PositionRead(at=self.now_for(p), qty=ZERO, reads=READS_MIN)
            await self._door.tell(position_id, gone)
            return
        if net < p.remaining_qty and sold_by_others(p, fills or ()) >= EXACT.subtract(p.remaining_qty, net):
            reads = max(reads, READS_MIN)  # the executions say the same: two sources agree
        elif not held and p.remaining_qty > ZERO:
            if reads >= READS_MIN and p.state is not State.UNPROTECTED and not p.order_live:
                why = f"the broker shows no position at all, and no execution that explains it for {p.symbol}"
                await self._door.tell(position_id, Contradiction(at=self._time.now(), why=why))
            return
        elif p.state is State.MONITORING and net > p.remaining_qty and reads < READS_MIN and self._calls.has("fills"):
            explained = amount(fills or (), p.side) == net
            if not explained:
                return  # before the executions are there, it cannot be told from a position that was entered anew
        message = PositionRead(at=self.now_for(p), qty=net, avg_entry_price=entry, reads=reads)
        await self._door.tell(position_id, message)

    def _may_have_filled_late(self, p: Position) -> bool:
        """True when the next attempt is due after a cancel: only now the order's record can gain no fill any more.

        What it filled since the cancel is neither sold by others, nor still to be sold.
        """
        due = p.next_attempt_at is not None and self.now_for(p) >= p.next_attempt_at
        capabilities = self._calls.capabilities
        readable = capabilities.late_fills and capabilities.lookup_sees_closed
        return p.state is State.REJECTED and p.ended_how == "canceled" and due and readable

    def _is_alone(self, p: Position) -> bool:
        """True when no other position of the symbol is open, so that all its executions are this one's."""
        others = (q for q in list(self._engine.positions.values()) if q.position_id != p.position_id)
        return not any(same_symbol(q.symbol, p.symbol) for q in others)

    @exactly
    def net_of(self, p: Position, held: Held) -> tuple[Decimal, Decimal | None]:
        """The broker's quantity for a position, less what other known epochs of the symbol hold; and its entry."""
        slot = self._engine.levels.slots.get(p.symbol)
        of_symbol = slot.positions if slot is not None else ()
        others = sum(
            (q.remaining_qty for q in of_symbol if q.side is p.side and q.position_id != p.position_id),
            ZERO,
        )
        bp = next((bp for bp in held if bp.symbol == p.symbol or same_symbol(bp.symbol, p.symbol)), None)
        if bp is None:
            return ZERO - others, None
        if bp.side is not p.side:
            return -bp.qty, None
        entry = bp.avg_entry_price if tradable(bp.avg_entry_price) and bp.avg_entry_price > 0 else None
        return bp.qty - others, entry if not others else None

    def _count(self, p: Position, net: Decimal) -> int:
        reading = self._readings.get(p.position_id)
        if reading is None or reading.qty != net or reading.expected != expectation(p):
            reading = self._readings[p.position_id] = _Reading(net, expectation(p), 0)
        reading.reads += 1
        return reading.reads

    async def _fills_of(self, p: Position) -> list[Fill] | None:
        """The executions in a position's symbol since its entry; None where they cannot be had."""
        if not self._calls.has("fills"):
            told = list(self.told.values())
            return [f for f in told if same_symbol(f.symbol, p.symbol) and f.at >= p.opened_at]
        try:
            fills = await self._calls.fills(p.opened_at)
        except BrokerError as error:
            log.warning("fills_failed position=%s error=%s", p.position_id, error)
            return None
        return [f for f in fills if same_symbol(f.symbol, p.symbol)]

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._readings.pop(p.position_id, None)
        self._pauses.pop(p.position_id, None)


def _is_over(session: Session, now: datetime) -> bool:
    """True when the market has opened or closed since."""
    until = session.close if session.is_open else session.next_open
    return until is not None and now >= until


def _more_than_held(order: Order, held: Decimal) -> OrderRefused:
    return OrderRefused("more_than_held", f"{plain(order.qty)} to sell, and {plain(held)} is held")


def expectation(p: Position) -> Expectation:
    """What a read of the broker's books is held against."""
    return p.state, p.remaining_qty, p.client_order_id


def same_symbol(one: str, other: str) -> bool:
    """True for two spellings of one instrument (a pair comes with and without its slash)."""
    if one == other or ("/" in one) == ("/" in other):
        return one == other
    return one.replace("/", "") == other.replace("/", "")
