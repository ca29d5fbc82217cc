"""What a person, or the bot on a person's behalf, may order: exits by force, and release."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from exitfsm import holdings
from exitfsm.errors import BrokerError
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context, Part, in_order
from exitfsm.manager.executor import Executor
from exitfsm.manager.reconciler import Reconciler
from exitfsm.manager.view import View
from exitfsm.messages import ForceExit, Message, PositionRead, RecordRead, Release
from exitfsm.outside import logger
from exitfsm.position import READS_MIN, ExitOrder, Position, is_over
from exitfsm.values import ExecutionReport, OrderStatus

log = logger("exitfsm")

#: Alarms of an exit between two attempts that does not go on by itself.
STALLED = ("retry_stalled", "ended_order_works", "order_not_found")


def is_stuck(p: Position) -> bool:
    """True for a position whose exit goes on with an operator's word only."""
    stalled = p.state is State.REJECTED and any(alarm.kind in STALLED for alarm in p.alarms)
    return stalled or p.state is State.UNPROTECTED


class Operators(Part):
    """Commands from outside the rules."""

    def __init__(self, context: Context, view: View, executor: Executor, reconciler: Reconciler) -> None:
        super().__init__(context)
        self._view, self._executor, self._reconciler = view, executor, reconciler

    async def flatten(self, reason: str, who: str) -> list[Position]:
        """Exit all there is: what is watched first, then what the broker shows beside it."""
        first = await self.force(in_order(self._engine), reason, who)
        try:
            await self._reconciler.sync()
        except BrokerError as error:
            log.warning("sync_after_flatten_failed error=%s", error)
        known = {p.position_id for p in first}
        beside = [p for p in in_order(self._engine) if p.position_id not in known]
        return first + await self.force(beside, reason, who)

    async def force(self, positions: list[Position], reason: str, who: str) -> list[Position]:
        """Exit these positions now; returns them as they are then."""
        stuck = [p for p in positions if is_stuck(p)]  # they need a look at the broker, and do not keep others waiting
        await self._tell_force([(p, None) for p in positions if p not in stuck], reason, who)
        if stuck:
            await self._tell_force(await self._cleared_up(stuck), reason, who)
        await self._executor.grace()
        return [self._engine.positions.get(p.position_id) or p for p in positions]

    async def _tell_force(self, positions: list[tuple[Position, Decimal | None]], reason: str, who: str) -> None:
        """Tell each position that it is to exit, with what is held of it where that was read."""
        messages: list[tuple[str, Message]] = []
        for p, qty in positions:
            # One that became unprotected since is not among those that were looked up.
            now, price, known = self._time.now(), self._engine.last_price(p.symbol), holdings.known(p)
            force = ForceExit(at=now, who=who, reason=reason, price=price, qty=qty, known=known)
            messages.append((p.position_id, force))
        await self._mailbox.tell_all(messages)
        self._executor.drive([p.position_id for p, _ in positions])

    async def _cleared_up(self, stuck: list[Position]) -> list[tuple[Position, Decimal | None]]:
        """Look up the orders of these, and what is held: a second order is only safe on fresh knowledge.

        An ended order's record that cannot be read keeps an exit back until the operator, who has read the alarm,
        orders it again. Returns those of which all is known, as they are before what is held was read, with that.
        """
        # What is sent is no more than is held.
        looks = (self._clear_up(p, must=all(alarm.kind != "not_done" for alarm in p.alarms)) for p in stuck)
        results = zip(stuck, await asyncio.gather(*looks, return_exceptions=True), strict=True)
        failed = {p.position_id: result for p, result in results if isinstance(result, BaseException)}
        current = (self._engine.positions.get(p.position_id) for p in stuck if p.position_id not in failed)
        known, held = [p for p in current if p is not None], None
        try:
            held = await self._view.positions() if known else None
        except BrokerError as error:
            failed |= {p.position_id: error for p in known}
        for position_id, why in failed.items():
            log.error("unprotected_not_forced position=%s error=%s", position_id, why)
            text = f"nothing was done for what is unprotected: {why}; say it again to go on without such a record"
            await self._mailbox.alarm(position_id, "not_done", text)
            if not isinstance(why, BrokerError):
                raise why
        return [(p, self._view.net_of(p, held)[0]) for p in known] if held is not None else []

    async def release(self, position_id: str, who: str) -> None:
        """Hand an unprotected position back to the rules."""
        p = self._engine.positions.get(position_id)
        if p is None:
            return
        await self._clear_up(p, must=True)
        p = self._engine.positions.get(position_id)
        if p is None:
            return
        held = await self._view.agreed(p)
        net, entry = self._view.net_of(p, held)
        now, known = self._time.now(), holdings.known(p)
        if net != 0:
            price = entry or p.entry_price
            await self._mailbox.tell(position_id, Release(at=now, qty=net, entry_price=price, who=who, known=known))
            return
        # Its orders were cleared up before this read: what their records leave open, the operator answers for.
        began, order_id = self._waits.at(p, held.began), p.client_order_id or ""
        ended = ExecutionReport(client_order_id=order_id, status=OrderStatus.CANCELED, at=now)
        record = RecordRead(client_order_id=order_id, began=began, report=ended)
        read = PositionRead(at=now, began=began, qty=net, reads=READS_MIN, known=known, record=record)
        await self._mailbox.tell(position_id, read)

    async def _clear_up(self, p: Position, *, must: bool) -> None:
        """Find out what became of a position's orders, on an operator's word.

        One that the broker does not know counts as refused then, and one that was replaced there as canceled: the
        operator has looked, and answers for it. `must`: the records of ended orders must be readable, too.

        Raises:
            BrokerError: an order may be live and cannot be looked up, or works again, or its record must be read.
        """
        must = must and self._calls.asks_by_our_id and self._calls.capabilities.lookup_sees_closed
        for order in p.orders:
            if order.live:
                await self._end_live(order)
            else:
                await self._check_ended(order, must=must)

    async def _end_live(self, order: ExitOrder) -> None:
        """What became of an order that may be live, by its record or by the operator's word."""
        asked, name = self._time.monotonic(), order.client_order_id
        report = await self._calls.order(name)
        if report is None and self._sends.since(name, asked):
            raise BrokerError(f"exit order {name} was being sent at that moment")
        await self._mailbox.report(holdings.end_of_live(report, name, order.filled_qty, self._time.now()))

    async def _check_ended(self, order: ExitOrder, *, must: bool) -> None:
        """What an ended order's record says now: more filled than is known, or less, or that it works again."""
        name, report = order.client_order_id, None
        try:
            report = await self._calls.order(name)
        except BrokerError:
            if must:
                raise
        if report is not None:
            report = holdings.record_of_ended(order, report)
            await self._mailbox.report(report)
        if report is None or is_over(order, report):
            return
        await self._calls.cancel(name)
        report = await self._calls.order(name)
        if report is None:
            return
        if not is_over(order, report):  # the venue took a fill back, or its end: nothing may be sent beside it
            raise BrokerError(f"exit order {name} works again at the broker, and is asked to be canceled")
        await self._mailbox.report(report)
