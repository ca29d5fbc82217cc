"""What a person, or the bot on a person's behalf, may order: exits by force, release, and taking alarms down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exitfsm import holdings
from exitfsm.errors import BrokerError
from exitfsm.holdings import Read
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context
from exitfsm.manager.executor import Executor
from exitfsm.manager.reconciler import Reconciler
from exitfsm.manager.view import View
from exitfsm.messages import Acknowledge, ForceExit, Message, PositionRead, RecordRead, Release
from exitfsm.outside import logger
from exitfsm.position import READS_MIN, Position
from exitfsm.values import ExecutionReport, OrderStatus

log = logger("exitfsm")


#: Alarms of an exit between two attempts that does not go on by itself.
STALLED = ("retry_stalled", "ended_order_works", "order_not_found")


def is_stuck(p: Position) -> bool:
    """True for a position whose exit goes on with an operator's word only."""
    stalled = p.state is State.REJECTED and any(alarm.kind in STALLED for alarm in p.alarms)
    return stalled or p.state is State.UNPROTECTED


class Operators:
    """Commands from outside the rules."""

    def __init__(self, context: Context, view: View, executor: Executor, reconciler: Reconciler) -> None:
        self._engine, self._mailbox, self._time = context.engine, context.mailbox, context.given.time
        self._alarms, self._tasks = context.alarms, context.tasks
        self._view, self._executor, self._reconciler = view, executor, reconciler

    async def flatten(self, positions: Callable[[], list[Position]], reason: str, who: str) -> list[Position]:
        """Exit all there is: what is watched first, then what the broker shows beside it."""
        first = await self.force(positions(), reason, who)
        try:
            await self._reconciler.sync()
        except BrokerError as error:
            log.warning("sync_after_flatten_failed error=%s", error)
        known = {p.position_id for p in first}
        return first + await self.force([p for p in positions() if p.position_id not in known], reason, who)

    async def force(self, positions: list[Position], reason: str, who: str) -> list[Position]:
        """Exit these positions now; returns them as they are then.

        Those that need a look at the broker first do not keep the others waiting.
        """
        stuck = [p for p in positions if is_stuck(p)]
        await self._tell_force([p for p in positions if p not in stuck], reason, who, None)
        if stuck:
            cleared, held = await self._clear_up(stuck)
            await self._tell_force(cleared, reason, who, held)
        await self._executor.grace()
        return [self._engine.positions.get(p.position_id) or p for p in positions]

    async def _clear_up(self, stuck: list[Position]) -> tuple[list[Position], Read | None]:
        """Look up the orders of these, and what is held: a second order is only safe on fresh knowledge.

        An ended order's record that cannot be read keeps an exit back until the operator, who was told, says it again.

        Returns those of which all is known, as they are before what is held was read, and that.
        """
        failed: list[tuple[Position, BaseException]] = []
        told = [any(alarm.kind == "not_done" for alarm in p.alarms) for p in stuck]
        # What is sent is no more than is held.
        looks = (self._executor.clear_up(p, must=not before) for p, before in zip(stuck, told, strict=True))
        for p, result in zip(stuck, await asyncio.gather(*looks, return_exceptions=True), strict=True):
            if isinstance(result, BaseException):
                failed.append((p, result))
        given_up = {p.position_id for p, _ in failed}
        current = (self._engine.positions.get(p.position_id) for p in stuck if p.position_id not in given_up)
        known, held = [p for p in current if p is not None], None
        try:
            held = await self._view.positions() if known else None
        except BrokerError as error:
            failed += [(p, error) for p in known]
            known = []
        for p, why in failed:
            log.error("unprotected_not_forced position=%s error=%s", p.position_id, why)
            text = f"nothing was done for what is unprotected: {why}; say it again to go on without such a record"
            await self._mailbox.alarm(p.position_id, "not_done", text)
            if not isinstance(why, BrokerError):
                raise why
        return known, held

    async def _tell_force(self, positions: list[Position], reason: str, who: str, held: Read | None) -> None:
        messages: list[tuple[str, Message]] = []
        for p in positions:
            qty = self._view.net_of(p, held)[0] if held is not None else None
            price = self._engine.last_price(p.symbol)
            # One that became unprotected since is not among those that were looked up.
            known = holdings.known(p)
            force = ForceExit(at=self._time.now(), who=who, reason=reason, price=price, qty=qty, known=known)
            messages.append((p.position_id, force))
        await self._mailbox.tell_all(messages)
        self._executor.drive([p.position_id for p in positions])

    def acknowledge(self, alarm_id: str, who: str) -> asyncio.Task[None]:
        """Take an alarm down. Await it to know that it is durable."""
        stream = self._alarms.active[alarm_id][0] if alarm_id in self._alarms.active else ""
        if stream == self._alarms.account_stream:
            return self._alarms.acknowledge(alarm_id, who)
        message = Acknowledge(at=self._time.now(), alarm_id=alarm_id, who=who)
        return self._tasks.write(self._mailbox.tell(stream, message))

    def release(self, position_id: str, who: str) -> asyncio.Task[None]:
        """Hand an unprotected position back to the rules. Await it to know that it is done."""
        return self._tasks.spawn(self._release(position_id, who), "exitfsm-release")

    async def _release(self, key: str, who: str) -> None:
        p = self._engine.positions.get(key)
        if p is None:
            return
        await self._executor.clear_up(p, must=True)
        p = self._engine.positions.get(key)
        if p is None:
            return
        held = await self._view.agreed(p)
        net, entry = self._view.net_of(p, held)
        now, known = self._time.now(), holdings.known(p)
        if net == 0:
            # Its orders were cleared up before this read: what their records leave open, the operator answers for.
            began = self._view.at(p, held.began)
            order_id = p.client_order_id or ""
            over = ExecutionReport(client_order_id=order_id, status=OrderStatus.CANCELED, at=now)
            record = RecordRead(client_order_id=order_id, began=began, report=over)
            read = PositionRead(at=now, began=began, qty=net, reads=READS_MIN, known=known, record=record)
            await self._mailbox.tell(key, read)
        else:
            price = entry or p.entry_price
            await self._mailbox.tell(key, Release(at=now, qty=net, entry_price=price, who=who, known=known))
