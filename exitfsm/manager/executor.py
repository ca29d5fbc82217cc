"""Carrying out what is owed: one task for each position, so that a slow answer about one never delays another.

A task asks the engine what its position owes, takes that step, tells the engine what came of it, and asks again until
nothing is owed or nothing moves. What did not move is asked again by the manager's timer, after a pause that grows. The
same code serves the first send, the retry and the recovery after a crash.

An exit order whose intent is durable is sent once, and only on knowledge that is fresh. Before it leaves, everything
that it could meet is read: the market's hours, the records of orders beside it, what is held where the broker would not
refuse to sell more. Each read waits, so that what was true before it is asked again after it. Whether it may leave is
decided in `holdings`. Where the broker does not answer, its `BrokerError` ends the step: it is still owed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal

from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.aio.budget import PAUSE_S, Turns
from exitfsm.aio.workers import Workers
from exitfsm.broker.calls import Outcome
from exitfsm.broker.probing import there_after_all
from exitfsm.errors import BrokerError, OrderRefused, StoreError
from exitfsm.holdings import (
    FRESH_S,
    NEVER,
    UNKNOWN_MAX,
    Beside,
    Blocked,
    Intent,
    Looks,
    Permit,
    Send,
    Short,
    Wait,
    bare,
)  # fmt: skip
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context, Part
from exitfsm.manager.view import View
from exitfsm.messages import GiveWay
from exitfsm.others.way import Way
from exitfsm.outside import log, logged
from exitfsm.ports import EXIT_WAITS
from exitfsm.position import Action, Cancel, LookUp, Position, Submit, is_proved_over
from exitfsm.values import ExecutionReport, Order, refused_report

#: How long the bot's call waits for orders that it caused to have left; a broker that is slower is not waited for.
GRACE_S = 0.01
#: Something else was learned: what is owed is asked again.
_ASK_AT_ONCE = (Wait("owed"), Wait("beside"))


class Executor(Part):
    """Works on what positions owe the broker."""

    def __init__(self, context: Context, view: View) -> None:
        super().__init__(context)
        self._view = view
        #: Whose turn it is to send.
        self._turns = Turns(
            self._given.clock, self._live.orders_per_minute, self._standing, self._alarms.raise_soon,
            lambda kind, why: self._tasks.write(self._alarms.keep_only({kind}, (), why)),
        )  # fmt: skip
        self.workers = Workers(
            self._step,
            begins=lambda position_id: self._announce(position_id, self._owed(position_id)[1]),
            ended=lambda position_id: self._announce(position_id, None),
            monotonic=self._time.monotonic,
            pause_s=PAUSE_S,
        )
        self.way = Way(self._ground, self._held_for, self._turns.pause)
        #: See to it that what positions owe is worked on; how many wait for their turn to send, and how long.
        self.drive, self.waiting = self.workers.drive, self._turns.waiting

    async def grace(self) -> None:
        """Give orders that were caused just now a moment to leave."""
        await self.workers.wait(GRACE_S)

    async def close(self, wait_s: float) -> None:
        """Let calls under way, but not waits for time, come back within reason; what is given up stays owed."""
        self._turns.stop()
        await self.workers.close(wait_s)
        await self._turns.close()

    def _standing(self, position_id: str) -> float:
        p = self._engine.positions.get(position_id)
        return self._engine.standing(p) if p is not None else math.inf

    def _owed(self, position_id: str) -> tuple[Position | None, Action | None]:
        p = self._engine.positions.get(position_id)
        return p, self._engine.owed_by(p, self._waits.now(p)) if p is not None else None

    def _announce(self, position_id: str, action: Action | None) -> None:
        self._turns.announce(position_id, sends=isinstance(action, (Submit, Cancel)))

    async def _step(self, position_id: str) -> bool | None:
        p, action = self._owed(position_id)
        if p is None or action is None:
            return None
        self._announce(position_id, action)
        EXIT_WAITS.set(p.leaves_qty > 0)  # in this task, and in what it begins
        try:
            return await self._take(p, action)
        except (BrokerError, StoreError) as error:
            log.warning("owed_failed position=%s action=%s error=%s", position_id, type(action).__name__, error)
        except Exception:
            # A defect here must not end the only task that gets this position out: log it, and try again later.
            log.exception("owed_crashed position=%s action=%s", position_id, type(action).__name__)
        return False

    async def _take(self, p: Position, action: Action) -> bool:
        """Take one step; True when something moved, so that asking what is owed makes sense at once."""
        if isinstance(action, Submit):
            return await self._submit(p, action)
        if isinstance(action, LookUp):
            return await self.look_up(p.position_id, action.client_order_id)
        if isinstance(action, Cancel):
            return await self._cancel(p, action)
        await self._turns.gather(p.position_id, len(self.workers.tasks), is_urgent=p.leaves_qty > 0)
        expected = self._view.expectations(p.symbol)
        await self._view.tell_read(p.position_id, await self._books.positions(), expected)
        return self._engine.positions.get(p.position_id) is not p

    # --- looking up, and canceling ------------------------------------------------------------------------------------

    async def look_up(self, position_id: str, client_order_id: str) -> bool:
        """Ask what the broker knows of an order, and tell its position; True when something moved."""
        before, asked = self._engine.positions.get(position_id), self._time.monotonic()
        report = await self._books.record_with_quantity(before, client_order_id)
        if report is not None:
            self._sends.found(client_order_id)
            report = holdings.record_of_live(before, self._engine.positions.get(position_id), report)
            if report is None:
                return False
            await self._mailbox.report(report)
            return self._engine.positions.get(position_id) is not before
        if self._sends.since(client_order_id, asked):
            return False  # it was asked for before it was sent
        return await self._not_found(position_id, client_order_id)

    async def try_look_up(self, position_id: str, client_order_id: str, *of: type[Exception]) -> None:
        """The same; where the broker does not answer, or what is `of` these fails, it is asked another time."""
        with logged("look_up_failed id=%s error=%s", client_order_id, of=(BrokerError, *of)):
            await self.look_up(position_id, client_order_id)

    def look_up_soon(self, position_id: str, client_order_id: str) -> None:
        """The same, without waiting for the answer."""
        self._tasks.spawn(self.try_look_up(position_id, client_order_id, StoreError), "exitfsm-poll")

    async def _not_found(self, position_id: str, client_order_id: str) -> bool:
        """The broker does not know the id. Proof of nothing, unless it refuses a repeated id for ever."""
        times, p = self._sends.not_found(client_order_id), self._engine.positions.get(position_id)
        if p is None or p.client_order_id != client_order_id or not p.order_live:
            return False
        can_resend = holdings.may_resend(p, self._calls.capabilities)
        if can_resend:
            self._engine.not_known(client_order_id)
        if holdings.is_unresolved(p, times, self._calls.capabilities):
            text = holdings.not_found(p, times, self._calls.why(client_order_id), can_resend=can_resend)
            await self._mailbox.alarm(position_id, "order_not_found", text)
        return can_resend and times < UNKNOWN_MAX

    async def _cancel(self, p: Position, action: Cancel) -> bool:
        """Ask for the cancel, then for what became of the order: only its record ends it."""
        failed: BrokerError | None = None
        # Where an earlier order works again, none of those that may be live waits for another's cancel.
        for order_id in p.live_orders if p.works_again else (action.client_order_id,):
            try:
                await self._cancel_one(p.position_id, order_id)
            except BrokerError as error:
                failed = error
        if failed is not None:
            raise failed
        return self._engine.positions.get(p.position_id) is not p

    async def _cancel_one(self, position_id: str, client_order_id: str) -> None:
        place = await self._turns.take(position_id)
        p = self._engine.positions.get(position_id)
        if p is None or client_order_id not in p.live_orders:
            self._turns.give_back(place)
            return  # it has ended while this waited for its turn
        refused = await self._calls.cancel(client_order_id)
        report = await self._calls.order(client_order_id)
        if report is None or (refused is not None and not report.status.terminal):
            report = refused
        if report is not None:
            await self._mailbox.report(report)

    # --- whether an order may leave -----------------------------------------------------------------------------------

    async def _submit(self, p: Position, action: Submit) -> bool:
        """Send the order whose intent is durable; once."""
        began = self._time.monotonic()
        if not await self._hours.let_pass(p.symbol) or not self._breaker.allows(self._time.monotonic()):
            return False
        if self._orders.hold_back(p.symbol, self._time.monotonic()) or await self._is_too_small(p, action.order):
            return False
        await self._prove_over(p, began)
        again = self._sends.may_have_left(action.order.client_order_id)
        if holdings.another_goes_first(p, tuple(self._beside(p)), began, self._time.monotonic(), again):
            await self._ask_for_way(p)
            await self._turns.pause(p.position_id)
            return True
        if self.way.broker.reduce_only and self._kept.is_gap(p) and await self._view.is_rescaled(p):
            return True
        if not await self.way.is_free(p):
            return False
        place, permit = await self._turns.take(p.position_id), None
        try:
            permit = await self._last_look(p, action)
        finally:
            if not isinstance(permit, Send):
                self._turns.give_back(place)
        if isinstance(permit, Send):
            return await self._send(p, action.order)
        if isinstance(permit, Short):
            return await self._not_sent(action.order, holdings.more_than_held(action.order.qty, permit))
        return permit in _ASK_AT_ONCE

    async def _last_look(self, p: Position, action: Submit) -> Permit:
        """What is read for an order is read after it waited for its turn, and must still be fresh when it leaves."""
        asked, looks = self._time.monotonic(), Looks()
        await self._prove_over(p, asked)
        permit = self._may_send(p, action, asked, looks)
        if permit in _ASK_AT_ONCE or isinstance(permit, Blocked):
            return permit  # it was learned while it waited
        if self._hours.may_have_changed(p.symbol) and not await self._hours.let_pass(p.symbol):
            return Blocked("closed")
        permit = self._may_send(p, action, asked, looks)
        while isinstance(permit, Wait):
            if permit.what == "reads":
                looks = await self._look(p, action.order, looks)
            elif permit.what != "record" or not await self._one_before_is_over(p):
                break
            permit = self._may_send(p, action, asked, looks)
        if isinstance(permit, Blocked) and permit.alarm == "exit_held_back":
            raise BrokerError(f"what is held of {p.symbol} is not known: {looks.why}")
        if permit == Wait("unit") and looks.read is not None and await self._view.take_back(p, looks.read):
            return Wait("owed")
        return permit

    def _may_send(self, p: Position, action: Submit, asked: float, looks: Looks) -> Permit:
        """Whether an order may leave now, by what was asked for since `asked` (monotonic seconds)."""
        now, current = self._time.monotonic(), self._engine.positions.get(p.position_id)
        beside, before = tuple(self._beside(current)) if current is not None else (), holdings.order_to_prove(p)
        intent = Intent(
            order=action,
            position=current or p,
            owed=self._engine.owed_by(current, self._waits.now(current)) if current is not None else None,
            beside=beside,
            asked=asked,
            # A slow broker is no reason never to send, a long sleep is one.
            fresh_s=FRESH_S + (1 + len(beside)) * float(self._live.broker_timeout_seconds),
            is_held_back=self._orders.hold_back(p.symbol, now),
            may_have_left=self._sends.may_have_left(action.order.client_order_id),
            is_gap=self._kept.is_gap(p),
            count=self._shown.counted(p),
        )
        if before is not None:
            looks = replace(looks, proved=self._shown.look_ups(before.client_order_id).shown_over)
        others = self.way.in_scope(self._orders.foreign.get(bare(p.symbol), {}).values())
        permit = holdings.may_send(holdings.leaving_of(intent, looks, self.way.broker, now, others))
        closed = self._hours.heard_closed(p.symbol) or not self._breaker.allows(now)
        return Blocked("closed") if closed and isinstance(permit, Send) else permit

    # --- the orders beside it -----------------------------------------------------------------------------------------

    def _beside(self, p: Position) -> Iterator[Beside]:
        """The other positions of a symbol, of either side, and what is known at this moment of their newest orders."""
        for q in (*self._engine.beside(p), *self._engine.against(p)):
            order_id, reported = q.client_order_id or "", q.state is State.REJECTED and holdings.was_reported_over(q)
            yield Beside(
                q,
                is_unknown=order_id in self._engine.unknown,
                look_ups=self._shown.look_ups(order_id),
                settled=self._waits.settled(q) if reported else NEVER,
                may_have_left=self._sends.may_have_left(order_id),
            )

    async def _prove_over(self, p: Position, asked: float) -> None:
        """Read the record of each order beside a position's own of which only an update has reported the end."""
        for other in self._beside(p):
            if holdings.awaits_record(other, asked, self._time.monotonic()):
                q = other.position
                try:
                    await self._view.record_of(q, q.client_order_id or "")
                except BrokerError:
                    if q.state is not State.UNPROTECTED:  # a person looks after that
                        raise

    async def _one_before_is_over(self, p: Position) -> bool:
        """Read the record of the order before this one; False where it shows it working, of which a person hears."""
        before = holdings.order_to_prove(p)
        if before is None:
            return True
        record = await self._view.record_of(p, named := before.client_order_id)
        if is_proved_over(before, record, self._calls.capabilities):
            return True
        if record.report is not None:  # else it is looked up again: an answer may be behind
            text = f"the end of order {named} was reported, and its record shows it working: {p.client_order_id} waits"
            await self._mailbox.alarm(p.position_id, "ended_order_works", text)
        return False

    async def _ask_for_way(self, p: Position) -> None:
        """A limit order that rests does not keep a stop waiting: it is canceled for it."""
        if p.reason is not None and p.reason.takes_profit:
            return
        why = f"the exit of {p.position_id} ({p.reason}) waits for it"
        resting = [other.position for other in self._beside(p) if other.position.order.resting]
        await self._mailbox.tell_all([(q.position_id, GiveWay(at=self._time.now(), why=why)) for q in resting])

    async def _held_for(self, p: Position) -> tuple[Decimal, Decimal]:
        read = await self._books.positions()
        return self._view.net_of(p, read)[0], self._view.net_of(p, read.of_all())[0]

    async def _look(self, p: Position, order: Order, looks: Looks) -> Looks:
        """One more look at what is held; one that was overtaken by what an order filled does not count."""
        if looks.shown + looks.failed:
            await self._turns.pause(p.position_id)
        while True:
            seen = self._view.seen(p)
            read, why = await self._books.look(p.symbol)
            p = self._engine.positions.get(p.position_id, p)
            if read is None:
                return replace(looks, read=None, failed=looks.failed + 1, why=why)
            if self._view.seen(p) == seen:
                break
        held = self._view.net_of(p, read)[0]
        self._shown.count(p, held, read.began)
        executions = await self._books.fills_of(p) or () if held < order.qty else ()
        return replace(looks, read=read, shown=looks.shown + 1, executions=executions)

    async def _not_sent(self, order: Order, refusal: OrderRefused) -> bool:
        # An earlier life, whose store was lost, may have sent the same id: then what is missing is what it sold.
        report = await self._calls.order(order.client_order_id) if self._calls.asks_by_our_id else None
        if report is None and self._sends.may_have_left(order.client_order_id):
            # It may be on its way, with the same effect. Not sent, not refused; it is asked for again.
            log.warning("submit_held_back id=%s why=%s", order.client_order_id, refusal)
            self._engine.sent(order.client_order_id)
            return False
        await self._mailbox.report(report or refused_report(order.client_order_id, refusal, self._time.now()))
        return True

    async def _send(self, p: Position, order: Order) -> bool:
        name = order.client_order_id
        self._breaker.sends(self._time.monotonic())
        self._engine.sent(name)
        with self._sends.sending(name):
            outcome = await self._calls.submit(order)
        report = outcome.report
        if report is not None:
            if outcome.outcome is Outcome.REFUSED:
                may_have_left = self._sends.may_have_left(name)
                there = await there_after_all(self._calls, name, may_have_left=may_have_left)
                unknown = self._orders.names_unknown(report.text)
                if there is None and self._sends.may_be_on_its_way(name, is_held_by_unknown=unknown):
                    return False  # an earlier copy may be there, and hold what this one was refused: it is looked up
                report = there or report
            if await self._is_too_small(p, order, report):
                self._engine.not_known(name)  # it never was
                return False
            self._sends.found(name)
            await self._mailbox.report(report)
            if report is outcome.report:
                self._engine.not_known(name)  # refused for now, it is sent again
            return True
        if outcome.outcome is Outcome.NOT_SENT:
            self._engine.not_known(name)
            return False
        self._sends.unclear(name)
        return True  # unknown: what is owed now is a look-up

    async def _is_too_small(self, p: Position, order: Order, report: ExecutionReport | None = None) -> bool:
        """True while an order is worth less than the venue takes, by its answer too; what an operator ordered goes."""
        price = self._engine.last_price(order.symbol)
        waits = await self._instruments.hold_back(p.position_id, order, price, report, p.qty)
        return waits and not p.order.ordered_by
