"""Sending an exit order whose intent is durable: once, and only on knowledge that is fresh.

Before it leaves, everything that it could meet is read: the market's hours, the records of orders beside it, what is
held where the broker would not refuse to sell more. Each read waits, so that what was true before it is asked again
after it. Whether it may leave is decided in `holdings`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from exitfsm import holdings
from exitfsm.broker.calls import Outcome, describe
from exitfsm.errors import BrokerError, OrderRefused
from exitfsm.holdings import FRESH_S, NEVER, Answer, Beside, Read, bare
from exitfsm.lifecycle import State
from exitfsm.manager.budget import Turns
from exitfsm.manager.context import Context
from exitfsm.manager.view import LOOK_MAX_S, View
from exitfsm.messages import GiveWay
from exitfsm.outside import logger
from exitfsm.ports import IdMemory
from exitfsm.position import READS_MIN, Position, Submit, is_proved_over
from exitfsm.values import ExecutionReport, ExitType, Order, OrderType, plain, refused_report

log = logger("exitfsm")


class Sender:
    """Sends exit orders."""

    def __init__(self, context: Context, view: View, turns: Turns) -> None:
        self._engine, self._mailbox, self._calls = context.engine, context.mailbox, context.calls
        self._breaker, self._hours, self._orders = context.breaker, context.hours, context.orders
        self._instruments = context.instruments
        self._time, self._clock, self._live = context.given.time, context.given.clock, context.given.config.live
        self._view, self._turns = view, turns
        #: How often each exit order was looked up, and not known to the broker.
        self._unknown: dict[str, int] = {}
        #: When each exit order was last sent, in monotonic seconds: what was asked before says nothing of it.
        self._sent_at: dict[str, float] = {}
        #: Exit orders that are being sent at this moment: the broker may not know them yet.
        self._sending: set[str] = set()
        #: Until when no exit leaves before the working orders were listed once: one of ours might be among them.
        self._listed_by = context.given.clock.monotonic() + 2 * float(context.given.config.live.broker_timeout_seconds)

    def were_listed(self) -> None:
        """The working orders were listed once, or cannot be: nothing need wait for that any more."""
        self._listed_by = 0.0

    def sent_since(self, client_order_id: str, monotonic: float) -> bool:
        """True for an order that is being sent, or was since then: what was asked then says nothing of it."""
        return client_order_id in self._sending or monotonic < self._sent_at.get(client_order_id, NEVER)

    def is_sending(self, client_order_id: str) -> bool:
        """True for an order that is being sent at this moment."""
        return client_order_id in self._sending

    def was_found(self, client_order_id: str) -> None:
        """The broker knows an order."""
        self._unknown.pop(client_order_id, None)

    def was_not_found(self, client_order_id: str) -> int:
        """The broker does not know an order; returns how often that was so."""
        self._unknown[client_order_id] = self._unknown.get(client_order_id, 0) + 1
        return self._unknown[client_order_id]

    def forget(self, p: Position) -> None:
        """A position has ended."""
        for order in p.orders:
            self._sent_at.pop(order.client_order_id, None)
            self._unknown.pop(order.client_order_id, None)
            self._instruments.forget(order.client_order_id)

    async def submit(self, p: Position, action: Submit) -> bool:
        """Send the order whose intent is durable; once.

        What is read for it is read after it waited for its turn, and must still be fresh when it leaves.
        """
        began = self._clock.monotonic()
        if not await self._hours.let_pass(p.symbol) or not self._breaker.allows(self._clock.monotonic()):
            return False
        if self._is_held_back(p) or await self._waits(p, action.order):
            return False
        await self._prove_over(p, began)
        if holdings.another_goes_first(p, self._beside(p), began, self._clock.monotonic()):
            await self._ask_for_way(p)
            await self._turns.pause(p.position_id)
            return True
        await self._make_way(p)
        spent = await self._turns.take(p.position_id)
        left = False
        try:
            asked = self._clock.monotonic()
            await self._prove_over(p, asked)
            answer = self._may_send(p, action, asked)
            if answer is not Answer.SEND:
                return answer is Answer.WAIT  # it was learned while it waited
            if self._hours.may_have_changed(p.symbol) and not await self._hours.let_pass(p.symbol):
                return False
            guarded = self._calls.capabilities.reduce_only and not self._engine.against(p)
            refusal = None if guarded else await self._no_longer_held(p, action.order)
            if refusal is not None:
                return await self._not_sent(action.order, refusal)
            if not await self._one_before_is_over(p):
                return False
            answer = self._may_send(p, action, asked)
            if answer is not Answer.SEND:
                return answer is Answer.WAIT
            left = True
        finally:
            if not left:
                self._turns.give_back(spent)
        return await self._send(p, action.order)

    def _is_held_back(self, p: Position) -> bool:
        """True while another exit of ours is, or might be, at the broker. Of one that is known there is an alarm."""
        return self._clock.monotonic() < self._listed_by or self._stranger_works(p.symbol)

    def _may_send(self, p: Position, action: Submit, asked: float) -> Answer:
        """Whether an order may leave now; the last look, after everything that had to be waited for.

        Args:
            asked: when the first of what was read for it was asked for, in monotonic seconds.
        """
        now, current = self._clock.monotonic(), self._engine.positions.get(p.position_id)
        beside = self._beside(current) if current is not None else ()
        leaving = holdings.Leaving(
            order=action,
            position=current,
            owed=self._engine.owed_by(current, self._view.now_for(current)) if current is not None else None,
            beside=beside,
            asked=asked,
            now=now,
            # A slow broker is no reason never to send, a long sleep is one.
            fresh_s=FRESH_S + (1 + len(beside)) * float(self._live.broker_timeout_seconds),
            is_held_back=self._is_held_back(p),
        )
        answer = holdings.may_send(leaving)
        closed = self._hours.heard_closed(p.symbol) or not self._breaker.allows(now)
        return Answer.BLOCKED if closed and answer is Answer.SEND else answer

    def _beside(self, p: Position) -> tuple[Beside, ...]:
        """The other positions of a symbol, and what is known of their newest orders."""
        return tuple(map(self._known_of, self._others(p)))

    def _others(self, p: Position) -> list[Position]:
        """The other open positions of a symbol, of either side."""
        return [*self._engine.beside(p), *self._engine.against(p)]

    def _known_of(self, q: Position) -> Beside:
        order_id, reported = q.client_order_id or "", q.state is State.REJECTED and holdings.was_reported_over(q)
        return Beside(
            q,
            is_unknown=order_id in self._engine.unknown,
            look_ups=self._view.look_ups(order_id),
            settled=self._view.note_wait(q) if reported else NEVER,
        )

    async def _one_before_is_over(self, p: Position) -> bool:
        """True unless the record of the order before this one shows it working; then a person is told.

        It was read before this attempt was decided. After a long wait, or a restart, it is read again.

        Raises:
            BrokerError: it cannot be read.
        """
        before = holdings.order_to_prove(p)
        if (
            before is None
            or self._clock.monotonic() - self._view.look_ups(before.client_order_id).shown_over <= FRESH_S
        ):
            return True
        record = await self._view.record_of(p, before.client_order_id)
        if is_proved_over(before, record, self._calls.capabilities):
            return True
        if record.report is None:
            return False  # it is looked up again: an answer may be behind
        named, waits = before.client_order_id, p.client_order_id
        text = f"the end of order {named} was reported, and its record shows it working: {waits} waits"
        await self._mailbox.alarm(p.position_id, "ended_order_works", text)
        return False

    async def _send(self, p: Position, order: Order) -> bool:
        """It leaves now; what comes of it is told to its position."""
        self._breaker.sends(self._clock.monotonic())
        self._engine.sent(order.client_order_id)
        self._sending.add(order.client_order_id)
        try:
            outcome = await self._calls.submit(order)
        finally:
            self._sending.discard(order.client_order_id)
            self._sent_at[order.client_order_id] = self._clock.monotonic()
        log.info(
            "submit id=%s symbol=%s side=%s qty=%s outcome=%s why=%s",
            order.client_order_id, order.symbol, order.side, plain(order.qty), outcome.outcome.value, outcome.why,
        )  # fmt: skip
        if outcome.report is not None:
            report = outcome.report
            if outcome.outcome is Outcome.REFUSED:
                report = await self._there_after_all(order) or report
            if await self._waits(p, order, report):
                self._engine.not_known(order.client_order_id)  # it never was
                return False
            self._unknown.pop(order.client_order_id, None)
            await self._mailbox.report(report)
            return True
        if outcome.outcome is Outcome.NOT_SENT:
            self._engine.not_known(order.client_order_id)
            return False
        return True  # unknown: what is owed now is a look-up

    async def _waits(self, p: Position, order: Order, report: ExecutionReport | None = None) -> bool:
        """True while an order is worth less than the venue takes, by its answer too; what an operator ordered goes."""
        price = self._engine.last_price(order.symbol)
        waits = await self._instruments.hold_back(p.position_id, order, price, report)
        return waits and not p.order.ordered_by

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

    async def _prove_over(self, p: Position, asked: float) -> None:
        """Read the record of each order beside a position's own of which only an update has reported the end.

        Raises:
            BrokerError: one cannot be read.
        """
        for q in self._others(p):
            if holdings.awaits_record(self._known_of(q), asked, self._clock.monotonic()):
                try:
                    await self._view.record_of(q, q.client_order_id or "")
                except BrokerError:
                    if q.state is not State.UNPROTECTED:  # a person looks after that
                        raise

    async def _ask_for_way(self, p: Position) -> None:
        """A limit order that rests does not keep a stop waiting: it is canceled for it."""
        if p.reason is ExitType.PROFIT_TAKE:
            return
        why = f"the exit of {p.position_id} ({p.reason}) waits for it"
        resting = [q for q in self._others(p) if q.order_live and q.order_type is OrderType.LIMIT]
        await self._mailbox.tell_all([(q.position_id, GiveWay(at=self._time.now(), why=why)) for q in resting])

    def _stranger_works(self, symbol: str) -> bool:
        """True while an exit order of ours works that belongs to no position, not even by now."""
        name = bare(symbol)
        return any(of == name and self._engine.known_owner(key) is None for key, of in self._orders.strangers.items())

    async def _no_longer_held(self, p: Position, order: Order) -> OrderRefused | None:
        """The refusal of an order that would sell more than is held, at a broker that does not refuse it by itself.

        What that means for the position is decided before the next attempt, as after any refusal.

        Raises:
            BrokerError: what is held is not known, and it waits for that.
        """
        failed = shown = 0
        while True:
            seen = self._view.seen(p)
            read, why = await self._look(p.symbol)
            p = self._engine.positions.get(p.position_id, p)
            if read is not None and self._view.seen(p) != seen:
                continue  # its orders, or those beside it, have changed what is held since
            held = None
            if read is not None:
                held = self._view.net_of(p, read)[0]
                self._view.count(p, held, read.began)
            failed, shown = failed + (read is None), shown + (read is not None)
            look = holdings.Look(
                position=p,
                qty=order.qty,
                held=held,
                executions=await self._view.fills_of(p) or () if held is not None and held < order.qty else (),
                count=self._view.counted(p),
                failed=failed,
                shown=shown,
                may_have_left=order.client_order_id in self._unknown,
            )
            answer = holdings.covered(look)
            if isinstance(answer, holdings.Short):
                return holdings.more_than_held(order.qty, answer)
            if answer is Answer.SEND:
                return None
            if answer is Answer.BLOCKED:
                raise BrokerError(f"what is held of {p.symbol} is not known: {why}")
            await self._turns.pause(p.position_id)

    async def _look(self, symbol: str) -> tuple[Read | None, str]:
        """What is held; or None and why, where that is not known of this symbol."""
        try:
            async with asyncio.timeout(LOOK_MAX_S):
                held = await self._view.positions()
        except (BrokerError, TimeoutError) as error:
            return None, describe(error)
        return (None, "it cannot be read") if holdings.is_silent(held, symbol) else (held, "")

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
        await self._mailbox.report(report or refused_report(order.client_order_id, refusal, self._time.now()))
        return True

    async def _make_way(self, p: Position) -> None:
        """The exit goes before the bot's entries: one that is known to rest on the symbol is canceled, or reported."""
        working = self._orders.foreign.get(bare(p.symbol), {})
        for order_id, order in list(working.items()):
            if not holdings.gives_way(order_id, self._live.entry_id_prefix):
                text = (
                    f"order {order_id} ({order.side or 'unknown side'}) of {p.symbol} works while {p.symbol} is exited"
                )
                await self._mailbox.alarm(p.position_id, "foreign_order", text)
                continue
            with suppress(BrokerError):
                await self._calls.cancel(order_id)
                for _ in range(READS_MIN):
                    record = await self._calls.order(order_id)
                    if record is None or record.status.terminal:
                        working.pop(order_id, None)
                        break
                    await self._turns.pause(p.position_id)
