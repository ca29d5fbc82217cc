"""Carrying out what is owed: one task for each position, so that a slow answer about one never delays another.

A task asks the engine what its position owes, does it, tells the engine what came of it, and asks again until nothing
is owed or nothing moves. What did not move is asked again by the manager's timer, after a pause that grows. The same
code serves the first send, the retry and the recovery after a crash.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from functools import partial

from msgspec.structs import replace

from exitfsm.broker.calls import Breaker, BrokerCalls, Held, Outcome, describe
from exitfsm.broker.hours import Hours
from exitfsm.clocks import SteadyTime
from exitfsm.config import LiveSettings
from exitfsm.engine import Engine
from exitfsm.errors import BrokerError, OrderRefused, StoreError
from exitfsm.lifecycle import State
from exitfsm.manager.budget import RateBudget
from exitfsm.manager.door import Door
from exitfsm.manager.executions import sold_by_others
from exitfsm.manager.reading import LOOK_MAX_S, NEVER, Reader, is_older
from exitfsm.messages import GiveWay, RaiseAlarm
from exitfsm.outside import logger
from exitfsm.ports import Clock, IdMemory
from exitfsm.position import (
    READS_MIN,
    Action,
    Cancel,
    ExitOrder,
    LookUp,
    Position,
    ReadPosition,
    Submit,
    is_over,
    is_proved_over,
)
from exitfsm.values import EXACT, ExecutionReport, ExitType, Order, OrderStatus, OrderType, plain, refused_report

log = logger("exitfsm")

#: Steps that one task takes in a row before it leaves the rest to the timer: a bound on any loop with the broker.
STEPS_MAX = 25
#: Pause before the same thing is tried again, doubled up to the longest.
PAUSE_S, PAUSE_MAX_S = 0.5, 30.0
#: A submit whose outcome stays unknown is looked up and repeated so often before a person is told.
UNKNOWN_MAX = 3
#: How often it is tried again where it fails, before an order that never left is sent all the same.
LOOKS_MAX = 3
#: How old, in seconds, what was read for a send may be when that leaves.
FRESH_S = 5.0
#: How long the bot's call waits for orders that it caused to have left; a broker that is slower is not waited for.
GRACE_S = 0.01


class _Later(Enum):
    """What becomes of a send that may not leave now."""

    ASK_AGAIN = "something else was learned: ask at once what is owed"
    PAUSE = "it is tried again after a pause"


class Driver:
    """Does what positions owe the broker."""

    def __init__(
        self,
        engine: Engine,
        door: Door,
        calls: BrokerCalls,
        reader: Reader,
        hours: Hours,
        breaker: Breaker,
        time: SteadyTime,
        clock: Clock,
        live: LiveSettings,
    ) -> None:
        self._engine, self._door, self._calls, self._breaker = engine, door, calls, breaker
        self._reader, self._hours = reader, hours
        self._time, self._clock, self._live = time, clock, live
        self._budget = RateBudget(clock, live.orders_per_minute, self._standing)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: Those of them that wait for nothing but time.
        self._resting: set[asyncio.Task[None]] = set()
        self._closing = False
        self._pauses: dict[str, tuple[float, float]] = {}
        self._unknown: dict[str, int] = {}
        #: When each exit order was last sent, in monotonic seconds: what was asked before says nothing of it.
        self._sent_at: dict[str, float] = {}
        #: Exit orders that are being sent at this moment: the broker may not know them yet.
        self.sending: set[str] = set()
        #: Until when no exit leaves before the working orders were listed once: one of ours might be among them.
        self.listed_by = clock.monotonic() + 2 * float(live.broker_timeout_seconds)
        #: Orders that look like exits of ours, work, and belong to no known position: their symbols, by id.
        self.strangers: dict[str, str] = {}
        #: Orders of others that are known to work, by symbol and id: the bot's entries above all.
        self.foreign: dict[str, dict[str, ExecutionReport]] = {}

    # --- tasks --------------------------------------------------------------------------------------------------------

    def drive(self, position_ids: Iterable[str], *, now: bool = True) -> None:
        """See to it that each position's debts are worked on; `now` does not wait for its pause to end."""
        for position_id in position_ids:
            if now:
                self._pauses.pop(position_id, None)
            elif self._clock.monotonic() < self._pauses.get(position_id, (0.0, 0.0))[0]:
                continue
            if position_id not in self._tasks:
                p = self._engine.positions.get(position_id)
                if p is not None:  # all of these are announced before the first of them runs
                    self._announce(position_id, self._engine.owed_by(p, self._reader.now_for(p)))
                task = asyncio.create_task(self._run(position_id), name=f"exitfsm-{position_id}")
                self._tasks[position_id] = task
                task.add_done_callback(partial(self._ended, position_id))

    def _ended(self, position_id: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(position_id, None)
        self._budget.withdraw(position_id)

    def _announce(self, position_id: str, action: Action | None) -> None:
        """Tell the budget whether a position is about to send something."""
        if isinstance(action, (Submit, Cancel)):
            self._budget.announce(position_id)
        else:
            self._budget.withdraw(position_id)

    def _standing(self, position_id: str) -> float:
        p = self._engine.positions.get(position_id)
        return self._engine.standing(p) if p is not None else math.inf

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
        await self._budget.close()
        await self._hours.close()
        await self._reader.close()

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

    async def _pause(self, position_id: str) -> None:
        """Wait before the same is tried again; no place among the sends is kept meanwhile."""
        self._budget.withdraw(position_id)
        await self._rest(partial(self._clock.sleep, PAUSE_S))

    async def _run(self, position_id: str) -> None:
        for _ in range(STEPS_MAX):
            if self._closing:
                return
            p = self._engine.positions.get(position_id)
            action = self._engine.owed_by(p, self._reader.now_for(p)) if p is not None else None
            if p is None or action is None:
                self._pauses.pop(position_id, None)
                return
            self._announce(position_id, action)
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

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _submit(self, p: Position, action: Submit) -> bool:
        """Send the order whose intent is durable; once.

        What is read for it is read after it waited for its turn, and must still be fresh when it leaves.
        """
        began = self._clock.monotonic()
        if not await self._hours.let_pass(p.symbol) or not self._breaker.allows(self._clock.monotonic()):
            return False
        if self._is_held_back(p):
            return False
        await self._prove_over(p, began)
        if self._another_goes_first(p, began):
            await self._ask_for_way(p)
            await self._pause(p.position_id)
            return True
        await self._make_way(p)
        spent = await self._turn(p.position_id)
        left = False
        try:
            asked = self._clock.monotonic()
            await self._prove_over(p, asked)
            why_not = self._may_not_leave(p, action, asked)
            if why_not is not None:
                return why_not is _Later.ASK_AGAIN  # it was learned while it waited
            if self._hours.may_have_changed(p.symbol) and not await self._hours.let_pass(p.symbol):
                return False
            refusal = None if self._calls.capabilities.reduce_only else await self._no_longer_held(p, action.order)
            if refusal is not None:
                return await self._not_sent(action.order, refusal)
            if not await self._one_before_is_over(p):
                return False
            why_not = self._may_not_leave(p, action, asked)
            if why_not is not None:
                return why_not is _Later.ASK_AGAIN
            left = True
        finally:
            if not left:
                self._budget.give_back(spent)
        return await self._send(action.order)

    async def _turn(self, position_id: str) -> float:
        """Wait for a place among the sends of this minute; returns what `give_back` takes."""
        place = math.inf

        async def spend() -> None:
            nonlocal place
            place = await self._budget.spend(position_id)

        await self._rest(spend)
        return place

    def _is_held_back(self, p: Position) -> bool:
        """True while another exit of ours is, or might be, at the broker. Of one that is known there is an alarm."""
        return self._clock.monotonic() < self.listed_by or self._stranger_works(p.symbol)

    def _may_not_leave(self, p: Position, action: Submit, asked: float) -> _Later | None:
        """Why an order may not leave now; None when it may.

        The last look before it leaves, after everything that had to be waited for: nothing that was true before an
        await is taken for true here. What was read for it counts only while it is fresh.

        Args:
            asked: when the first of what was read for it was asked for, in monotonic seconds.
        """
        now = self._clock.monotonic()
        current = self._engine.positions.get(p.position_id)
        if current is None or self._engine.owed_by(current, self._reader.now_for(current)) != action:
            return _Later.ASK_AGAIN  # while it waited for its turn, something else was learned
        if now - asked > self._fresh_for(current) or self._another_goes_first(current, asked):
            return _Later.ASK_AGAIN
        if self._is_held_back(current) or self._hours.heard_closed(p.symbol) or not self._breaker.allows(now):
            return _Later.PAUSE
        return None

    def _fresh_for(self, p: Position) -> float:
        """How old what was read in one turn may be: a slow broker is no reason never to send, a long sleep is one."""
        look_ups = 1 + len(self._engine.beside(p))
        return FRESH_S + look_ups * float(self._live.broker_timeout_seconds)

    async def _one_before_is_over(self, p: Position) -> bool:
        """True unless the record of the order before this one shows it working; then a person is told.

        It was read before this attempt was decided. After a long wait, or a restart, it is read again; not for the
        first order of an exit, nor for one that an operator ordered: what was before that was cleared up on his word.

        Raises:
            BrokerError: it cannot be read.
        """
        if len(p.orders) < 2 or p.waiting_since == p.triggered_at or p.order.ordered_by:
            return True
        before = p.orders[-2]
        if self._clock.monotonic() - self._reader.shown_over(before.client_order_id) <= FRESH_S:
            return True
        record = await self._reader.record_of(p, before.client_order_id)
        if is_proved_over(before, record, self._calls.capabilities):
            return True
        if record.report is None:
            return False  # it is looked up again: an answer may be behind
        named, waits = before.client_order_id, p.client_order_id
        text = f"the end of order {named} was reported, and its record shows it working: {waits} waits"
        await self._door.tell(p.position_id, RaiseAlarm(at=self._time.now(), kind="ended_order_works", text=text))
        return False

    async def _send(self, order: Order) -> bool:
        """It leaves now; what comes of it is told to its position."""
        self._breaker.sends(self._clock.monotonic())
        self._engine.sent(order.client_order_id)
        self.sending.add(order.client_order_id)
        try:
            outcome = await self._calls.submit(order)
        finally:
            self.sending.discard(order.client_order_id)
            self._sent_at[order.client_order_id] = self._clock.monotonic()
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
            BrokerError: the record cannot be read, and an earlier copy may have arrived, or asking again harms nothing.
        """
        try:
            return await self._calls.order(order.client_order_id)
        except BrokerError:
            again = self._calls.capabilities.ids_refused is IdMemory.FOREVER and self._calls.asks_by_our_id
            if again or order.client_order_id in self._unknown:
                raise
            return None

    def _another_goes_first(self, p: Position, asked: float) -> bool:
        """True while an exit order of another position of the same holding may work, or of an older one is to leave.

        What is held may be less than all of them are to sell: one after the other, each is sized by what is there.

        Args:
            asked: since when, in monotonic seconds, the records of those that have ended were read, or a little before.
        """

        def first(q: Position) -> bool:
            if q.state is State.PENDING and q.client_order_id not in self._engine.unknown:
                return is_older(q, p)
            return bool(q.live_orders) or self._may_work(q, asked)

        return any(first(q) for q in self._engine.beside(p))

    def _may_work(self, q: Position, asked: float) -> bool:
        """True where the end of a position's newest order was reported, and its record has not shown it since.

        Of an unprotected one, only where the record shows it working: a person looks after that.
        """
        order_id = q.client_order_id
        if order_id is None or q.order_live or q.leaves_qty <= 0 or q.ended_how == "refused":
            return False
        if q.state is State.UNPROTECTED:
            return self._reader.works_by_record(order_id)
        if q.state is not State.REJECTED:
            return False
        # Once no fill can follow a cancel any more, what was read before proves nothing: it may have been taken back.
        since, settled = asked - FRESH_S, self._reader.note_wait(q)
        if self._clock.monotonic() >= settled:
            since = max(since, settled)
        return self._reader.shown_over(order_id) < since

    async def _prove_over(self, p: Position, asked: float) -> None:
        """Read the record of each order beside a position's own of which only an update has reported the end.

        Raises:
            BrokerError: one cannot be read.
        """
        for q in self._engine.beside(p):
            order_id = q.client_order_id
            if order_id is not None and q.state is State.UNPROTECTED and not q.order_live and q.ended_how != "refused":
                with suppress(BrokerError):
                    await self._reader.record_of(q, order_id)
            elif order_id is not None and self._may_work(q, asked):
                await self._reader.record_of(q, order_id)

    async def _ask_for_way(self, p: Position) -> None:
        """A limit order that rests does not keep a stop waiting: it is canceled for it."""
        if p.reason is ExitType.PROFIT_TAKE:
            return
        why = f"the exit of {p.position_id} ({p.reason}) waits for it"
        resting = [q for q in self._engine.beside(p) if q.order_live and q.order_type is OrderType.LIMIT]
        await self._door.tell_all([(q.position_id, GiveWay(at=self._time.now(), why=why)) for q in resting])

    def _stranger_works(self, symbol: str) -> bool:
        """True while an exit order of ours works that belongs to no position, not even by now."""
        name = symbol.replace("/", "")
        return any(of == name and self._engine.known_owner(key) is None for key, of in self.strangers.items())

    async def _no_longer_held(self, p: Position, order: Order) -> OrderRefused | None:
        """The refusal of an order that would sell more than is held, at a broker that does not refuse it by itself.

        A broker that does not answer holds up no first send for long, unless its last answer showed less; a smaller
        quantity, also that nothing is held at all, counts when the executions say the same, or when it is shown often
        enough. What that means for the position is decided before the next attempt, as after any refusal.

        Raises:
            BrokerError: no answer, and the last one showed less, or an earlier copy of the order may have left: it
                waits for one.
        """
        failed = shown = 0
        while True:
            seen = self._reader.seen(p)
            held, why = await self._look(p.symbol)
            p = self._engine.positions.get(p.position_id, p)
            if held is not None and self._reader.seen(p) != seen:
                continue  # its orders, or those beside it, have changed what is held since
            if held is None:
                failed += 1
                known = self._reader.shown_before(p)
                if known is not None and known < order.qty:
                    return _more_than_held(order, known)
                if failed == LOOKS_MAX:
                    last = self._reader.last_shown(p)
                    if order.client_order_id in self._unknown or (last is not None and last < order.qty):
                        raise BrokerError(f"what is held of {p.symbol} is not known: {why}")
                    return None
            else:
                net, _ = self._reader.net_of(p, held)
                self._reader.count(p, net, held.began)
                if net >= order.qty:
                    return None
                shown += 1
                agreed = sold_by_others(p, await self._reader.fills_of(p) or (), unsent=True) >= EXACT.subtract(
                    order.qty, net
                )
                if agreed or shown == READS_MIN:
                    return _more_than_held(order, net)
            await self._pause(p.position_id)

    async def _look(self, symbol: str) -> tuple[Held | None, str]:
        """What is held; or None and why, where that is not known of this symbol."""
        try:
            async with asyncio.timeout(LOOK_MAX_S):
                held = await self._reader.positions()
        except (BrokerError, TimeoutError) as error:
            return None, describe(error)
        return (None, "it cannot be read") if held.is_silent_about(symbol) else (held, "")

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

    async def look_up(self, position_id: str, client_order_id: str) -> bool:
        """Ask what the broker knows of an order, and tell its position; True when something moved."""
        before, asked = self._engine.positions.get(position_id), self._clock.monotonic()
        report = await self._calls.order(client_order_id)
        if report is not None:
            self._unknown.pop(client_order_id, None)
            known = _corrections(before)
            if known != _corrections(self._engine.positions.get(position_id)):
                return False  # the broker corrected an execution meanwhile, which this record may not show
            if client_order_id in known:
                # The broker has corrected it once, and older news of it may still come: its record is what counts.
                report = replace(report, corrected=True)
            await self._door.report(report)
            return self._engine.positions.get(position_id) is not before
        if client_order_id in self.sending or asked < self._sent_at.get(client_order_id, NEVER):
            return False  # it was asked for before it was sent
        return await self._not_found(position_id, client_order_id)

    async def clear_up(self, p: Position, *, must: bool) -> None:
        """Find out what became of a position's orders, on an operator's word.

        One that the broker does not know counts as refused then, and one that was replaced there as canceled: the
        operator has looked, and answers for it.

        Args:
            p: the position.
            must: the records of orders that have ended must be readable, too, where the broker shows such.

        Raises:
            BrokerError: an order that may be live cannot be looked up, or one that had ended works again, or cannot be
                read and must be.
        """
        must = must and self._calls.asks_by_our_id and self._calls.capabilities.lookup_sees_closed
        for order in p.orders:
            if order.live:
                await self._end_of_live(order.client_order_id, order.filled_qty)
            else:
                await self._news_of_ended(order, must=must)

    async def _end_of_live(self, client_order_id: str, filled: Decimal) -> None:
        """What became of an order that may be live, by its record or by the operator's word.

        Raises:
            BrokerError: it cannot be looked up.
        """
        asked = self._clock.monotonic()
        report = await self._calls.order(client_order_id)
        if report is None and (client_order_id in self.sending or asked < self._sent_at.get(client_order_id, NEVER)):
            raise BrokerError(f"exit order {client_order_id} was being sent at that moment")
        if report is not None and report.status is OrderStatus.REPLACED:
            report = replace(report, status=OrderStatus.CANCELED)
        if report is not None and report.status.terminal and report.filled_qty is None:
            report = replace(report, filled_qty=filled)
        await self._door.report(
            report
            or ExecutionReport(
                client_order_id=client_order_id,
                status=OrderStatus.REJECTED,
                at=self._time.now(),
                refusal="not_known",
                refused_at_submit=True,
                text="the broker does not know it; given up on an operator's word",
            )
        )

    async def _news_of_ended(self, order: ExitOrder, *, must: bool) -> None:
        """What an ended order's record says now: more filled than is known, or less, or that it works again.

        Raises:
            BrokerError: it works again (the venue took a fill back, or its end); nothing may be sent beside it. Or it
                cannot be read, and must be.
        """
        client_order_id, report = order.client_order_id, None
        try:
            report = await self._calls.order(client_order_id)
        except BrokerError:
            if must:
                raise
        if report is not None:
            said = report.filled_qty
            if is_over(order, report) and said is not None and said < order.filled_qty:
                # Older news would show it working, for what has ended fills no less: some was taken back.
                report = replace(report, corrected=True)
            await self._door.report(report)
        if report is None or is_over(order, report):
            return
        await self._calls.cancel(client_order_id)
        report = await self._calls.order(client_order_id)
        if report is not None and not is_over(order, report):
            raise BrokerError(f"exit order {client_order_id} works again at the broker, and is asked to be canceled")
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
        """Ask for the cancel, then for what became of the order: only its record ends it.

        Where an earlier order works again, none of those that may be live waits for another's cancel.

        Raises:
            BrokerError: of one of them there was no answer.
        """
        failed: BrokerError | None = None
        for order_id in p.live_orders if p.works_again else (action.client_order_id,):
            try:
                await self._cancel_one(p.position_id, order_id)
            except BrokerError as error:
                failed = error
        if failed is not None:
            raise failed
        return self._engine.positions.get(p.position_id) is not p

    async def _cancel_one(self, position_id: str, client_order_id: str) -> None:
        spent = await self._turn(position_id)
        p = self._engine.positions.get(position_id)
        if p is None or client_order_id not in p.live_orders:
            self._budget.give_back(spent)
            return  # it has ended while this waited for its turn
        refused = await self._calls.cancel(client_order_id)
        report = await self._calls.order(client_order_id)
        if report is not None and (report.status.terminal or refused is None):
            await self._door.report(report)
        elif refused is not None:
            await self._door.report(refused)

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
                    await self._pause(p.position_id)

    async def _read(self, p: Position) -> bool:
        """A fresh read for one position, and what it means."""
        expected = self._reader.expectations()
        held = await self._reader.positions()
        await self._reader.tell_read(p.position_id, held, expected)
        return self._engine.positions.get(p.position_id) is not p

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._reader.forget(p)
        self._pauses.pop(p.position_id, None)
        for order in p.orders:
            self._sent_at.pop(order.client_order_id, None)
            self._unknown.pop(order.client_order_id, None)


def _corrections(p: Position | None) -> tuple[str, ...]:
    """The orders of a position of which the broker has corrected executions."""
    return p.corrected_orders if p is not None else ()


def _more_than_held(order: Order, held: Decimal) -> OrderRefused:
    return OrderRefused("more_than_held", f"{plain(order.qty)} to sell, and {plain(held)} is held")
