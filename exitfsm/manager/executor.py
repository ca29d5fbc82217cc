"""Carrying out what is owed: one task for each position, so that a slow answer about one never delays another.

A task asks the engine what its position owes, does it, tells the engine what came of it, and asks again until nothing
is owed or nothing moves. What did not move is asked again by the manager's timer, after a pause that grows. The same
code serves the first send, the retry and the recovery after a crash.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from decimal import Decimal
from functools import partial

from exitfsm import holdings
from exitfsm.errors import BrokerError, StoreError
from exitfsm.holdings import UNKNOWN_MAX
from exitfsm.manager.budget import PAUSE_S, Turns
from exitfsm.manager.context import Context
from exitfsm.manager.sending import Sender
from exitfsm.manager.view import View
from exitfsm.outside import logger
from exitfsm.position import (
    Action,
    Cancel,
    ExitOrder,
    LookUp,
    Position,
    ReadPosition,
    Submit,
    is_over,
)

log = logger("exitfsm")

#: Steps that one task takes in a row before it leaves the rest to the timer: a bound on any loop with the broker.
STEPS_MAX = 25
#: The longest pause before the same thing is tried again; the first is `PAUSE_S`.
PAUSE_MAX_S = 30.0
#: How long the bot's call waits for orders that it caused to have left; a broker that is slower is not waited for.
GRACE_S = 0.01


class Executor:
    """Does what positions owe the broker."""

    def __init__(self, context: Context, view: View) -> None:
        self._engine, self._mailbox, self._calls = context.engine, context.mailbox, context.calls
        self._view, self._hours, self._instruments = view, context.hours, context.instruments
        self._time, self._clock = context.given.time, context.given.clock
        self._turns = Turns(context.given.clock, context.given.config.live.orders_per_minute, self._standing)
        #: Sends what is to be sent.
        self.sender = Sender(context, view, self._turns)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self._pauses: dict[str, tuple[float, float]] = {}

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
                    self._turns.announce(position_id, self._engine.owed_by(p, self._view.now_for(p)))
                task = asyncio.create_task(self._run(position_id), name=f"exitfsm-{position_id}")
                self._tasks[position_id] = task
                task.add_done_callback(partial(self._ended, position_id))

    def _ended(self, position_id: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(position_id, None)
        self._turns.announce(position_id, None)

    def _standing(self, position_id: str) -> float:
        p = self._engine.positions.get(position_id)
        return self._engine.standing(p) if p is not None else math.inf

    async def grace(self) -> None:
        """Give orders that were caused just now a moment to leave."""
        if self._tasks:
            await asyncio.wait(self.tasks, timeout=GRACE_S)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is being worked on."""
        return list(self._tasks.values())

    async def close(self, wait_s: float) -> None:
        """Let calls that are under way come back, within reason; then give up. Nothing is lost: it stays owed.

        What only waits for time to pass is not waited for.
        """
        self._closing = True
        self._turns.stop()
        if self._tasks:
            await asyncio.wait(self.tasks, timeout=wait_s)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._turns.close()
        await self._hours.close()
        await self._instruments.close()
        await self._view.close()

    async def _run(self, position_id: str) -> None:
        for _ in range(STEPS_MAX):
            if self._closing:
                return
            p = self._engine.positions.get(position_id)
            action = self._engine.owed_by(p, self._view.now_for(p)) if p is not None else None
            if p is None or action is None:
                self._pauses.pop(position_id, None)
                return
            self._turns.announce(position_id, action)
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
                return await self.sender.submit(p, action)
            case LookUp():
                return await self.look_up(p.position_id, action.client_order_id)
            case Cancel():
                return await self._cancel(p, action)
            case ReadPosition():
                return await self._read(p)

    async def look_up(self, position_id: str, client_order_id: str) -> bool:
        """Ask what the broker knows of an order, and tell its position; True when something moved."""
        before, asked = self._engine.positions.get(position_id), self._clock.monotonic()
        report = await self._calls.order(client_order_id)
        if report is not None:
            self.sender.was_found(client_order_id)
            report = holdings.record_of_live(before, self._engine.positions.get(position_id), report)
            if report is None:
                return False
            await self._mailbox.report(report)
            return self._engine.positions.get(position_id) is not before
        if self.sender.sent_since(client_order_id, asked):
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
        if report is None and self.sender.sent_since(client_order_id, asked):
            raise BrokerError(f"exit order {client_order_id} was being sent at that moment")
        await self._mailbox.report(holdings.end_of_live(report, client_order_id, filled, self._time.now()))

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
            report = holdings.record_of_ended(order, report)
            await self._mailbox.report(report)
        if report is None or is_over(order, report):
            return
        await self._calls.cancel(client_order_id)
        report = await self._calls.order(client_order_id)
        if report is not None and not is_over(order, report):
            raise BrokerError(f"exit order {client_order_id} works again at the broker, and is asked to be canceled")
        if report is not None:
            await self._mailbox.report(report)

    async def _not_found(self, position_id: str, client_order_id: str) -> bool:
        """The broker does not know the id. Proof of nothing, unless it refuses a repeated id for ever."""
        times = self.sender.was_not_found(client_order_id)
        p = self._engine.positions.get(position_id)
        if p is None or p.client_order_id != client_order_id or not p.order_live:
            return False
        can_resend = holdings.may_resend(p, self._calls.capabilities)
        if can_resend:
            self._engine.not_known(client_order_id)
        if holdings.is_unresolved(p, times, self._calls.capabilities):
            text = f"the broker does not know exit order {client_order_id} of {p.symbol}, asked {times} times; " + (
                "the same order is sent again, while so much is held"
                if can_resend
                else "it is not sent again: the broker might take it twice"
            )
            await self._mailbox.alarm(position_id, "order_not_found", text)
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
        spent = await self._turns.take(position_id)
        p = self._engine.positions.get(position_id)
        if p is None or client_order_id not in p.live_orders:
            self._turns.give_back(spent)
            return  # it has ended while this waited for its turn
        refused = await self._calls.cancel(client_order_id)
        report = await self._calls.order(client_order_id)
        if report is not None and (report.status.terminal or refused is None):
            await self._mailbox.report(report)
        elif refused is not None:
            await self._mailbox.report(refused)

    async def _read(self, p: Position) -> bool:
        """A fresh read for one position, and what it means."""
        expected = self._view.expectations()
        held = await self._view.positions()
        await self._view.tell_read(p.position_id, held, expected)
        return self._engine.positions.get(p.position_id) is not p

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._view.forget(p)
        self._pauses.pop(p.position_id, None)
        self.sender.forget(p)
