"""Carrying out what is owed: one task for each position, so that a slow answer about one never delays another.

A task asks the engine what its position owes, does it, tells the engine what came of it, and asks again until nothing
is owed or nothing moves. What did not move is asked again by the manager's timer, after a pause that grows. The same
code serves the first send, the retry and the recovery after a crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from exitfsm.config import LiveSettings
from exitfsm.engine import Engine
from exitfsm.errors import BrokerError, StoreError
from exitfsm.lifecycle import State
from exitfsm.manager.calls import Breaker, BrokerCalls, Outcome, RateBudget
from exitfsm.manager.clock import SteadyTime
from exitfsm.manager.door import Door
from exitfsm.messages import Contradiction, PositionRead, RaiseAlarm
from exitfsm.ports import Clock, IdMemory, Session
from exitfsm.position import READS_MIN, Action, Cancel, LookUp, Position, ReadPosition, Submit
from exitfsm.values import ZERO, BrokerPosition, ExecutionReport, plain

log = logging.getLogger("exitfsm")

#: Steps that one task takes in a row before it leaves the rest to the timer: a bound on any loop with the broker.
STEPS_MAX = 25
#: Pause before the same thing is tried again, doubled up to the longest.
PAUSE_S, PAUSE_MAX_S = 0.5, 30.0
#: A submit whose outcome stays unknown is looked up and repeated so often before a person is told.
UNKNOWN_MAX = 3
#: How long a market session that was read is believed.
SESSION_AGE_S = 30.0
ORDER_PREFIX = "xf1-"


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
        self._pauses: dict[str, tuple[float, float]] = {}
        self._unknown: dict[str, int] = {}
        self._readings: dict[str, _Reading] = {}
        self._reading: asyncio.Task[list[BrokerPosition]] | None = None
        self._sessions: dict[str, tuple[float, Session]] = {}
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
                task = asyncio.create_task(self._run(position_id), name=f"exitfsm-{position_id}")
                self._tasks[position_id] = task
                task.add_done_callback(partial(self._ended, position_id))

    def _ended(self, position_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(position_id, None)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is being worked on."""
        return list(self._tasks.values())

    async def close(self, wait_s: float) -> None:
        """Let calls that are under way come back, within reason; then give up. Nothing is lost: it stays owed."""
        if self._tasks:
            await asyncio.wait(self.tasks, timeout=wait_s)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _run(self, position_id: str) -> None:
        for _ in range(STEPS_MAX):
            p = self._engine.positions.get(position_id)
            action = self._engine.owed_by(p, self._time.now()) if p is not None else None
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

    # --- sending ------------------------------------------------------------------------------------------------------

    async def _submit(self, p: Position, action: Submit) -> bool:
        """Send the order whose intent is durable; once."""
        order = action.order
        if not await self._may_send(p.symbol) or not self._breaker.allows(self._clock.monotonic()):
            return False
        await self._make_way(p)
        await self._budget.spend()
        current = self._engine.positions.get(p.position_id)
        if current is None or self._engine.owed_by(current, self._time.now()) != action:
            return True  # while it waited for its turn, something else was learned
        self._engine.sent(order.client_order_id)
        outcome = await self._calls.submit(order)
        log.info(
            "submit id=%s symbol=%s side=%s qty=%s outcome=%s why=%s",
            order.client_order_id, order.symbol, order.side, plain(order.qty), outcome.outcome.value, outcome.why,
        )  # fmt: skip
        if outcome.report is not None:
            self._unknown.pop(order.client_order_id, None)
            await self._door.report(outcome.report)
            return True
        if outcome.outcome is Outcome.NOT_SENT:
            self._engine.not_known(order.client_order_id)
            return False
        return True  # unknown: what is owed now is a look-up

    async def look_up(self, position_id: str, client_order_id: str) -> bool:
        """Ask what the broker knows of an order, and tell its position; True when something moved."""
        before = self._engine.positions.get(position_id)
        report = await self._calls.order(client_order_id)
        if report is not None:
            self._unknown.pop(client_order_id, None)
            await self._door.report(report)
            return self._engine.positions.get(position_id) is not before
        return await self._not_found(position_id, client_order_id)

    async def _not_found(self, position_id: str, client_order_id: str) -> bool:
        """The broker does not know the id. Proof of nothing, unless it refuses a repeated id for ever."""
        times = self._unknown[client_order_id] = self._unknown.get(client_order_id, 0) + 1
        p = self._engine.positions.get(position_id)
        if p is None or p.client_order_id != client_order_id:
            return False
        can_resend = p.state is State.PENDING and self._calls.capabilities.ids_refused is IdMemory.FOREVER
        if can_resend:
            self._engine.not_known(client_order_id)
        if times >= UNKNOWN_MAX or (p.state is State.PENDING and not can_resend):
            text = (
                f"the broker does not know exit order {client_order_id} of {p.symbol}, asked {times} times; "
                + ("the same order is sent again" if can_resend else "it is not sent again: the broker might take it twice")
            )
            await self._door.tell(position_id, RaiseAlarm(at=self._time.now(), kind="order_not_found", text=text))
        return can_resend and times < UNKNOWN_MAX

    async def _cancel(self, p: Position, action: Cancel) -> bool:
        """Ask for the cancel, then for what became of the order: only its record ends it."""
        await self._budget.spend()
        refused = await self._calls.cancel(action.client_order_id)
        report = await self._calls.order(action.client_order_id)
        if report is not None and (report.status.terminal or refused is None):
            await self._door.report(report)
        elif refused is not None:
            await self._door.report(refused)
        return self._engine.positions.get(p.position_id) is not p

    async def _make_way(self, p: Position) -> None:
        """The exit goes before the bot's entries: one that is known to rest on the symbol is canceled, or reported."""
        for order_id, order in list(self.foreign.get(p.symbol, {}).items()):
            prefix = self._live.entry_id_prefix
            if not prefix or not order_id.startswith(prefix):
                text = f"order {order_id} ({order.side or 'unknown side'}) of {p.symbol} works while {p.symbol} is exited"
                await self._door.tell(
                    p.position_id, RaiseAlarm(at=self._time.now(), kind="foreign_order", text=text)
                )
                continue
            with suppress(BrokerError):
                await self._calls.cancel(order_id)
                for _ in range(READS_MIN):
                    record = await self._calls.order(order_id)
                    if record is None or record.status.terminal:
                        self.foreign.get(p.symbol, {}).pop(order_id, None)
                        break
                    await self._clock.sleep(PAUSE_S)

    # --- the market's hours -------------------------------------------------------------------------------------------

    async def session(self, symbol: str) -> Session:
        """The market's hours now; read again when what is known is old. Open where the broker cannot say."""
        known = self._sessions.get(symbol)
        if known is not None and self._clock.monotonic() - known[0] < SESSION_AGE_S:
            return known[1]
        try:
            session = await self._calls.session(symbol, self._time.now())
        except BrokerError as error:
            log.warning("session_unknown symbol=%s error=%s", symbol, error)
            return known[1] if known is not None else Session(is_open=True)
        self._sessions[symbol] = (self._clock.monotonic(), session)
        return session

    def known_session(self, symbol: str) -> Session | None:
        """The market's hours as last read."""
        known = self._sessions.get(symbol)
        return known[1] if known is not None else None

    async def _may_send(self, symbol: str) -> bool:
        capabilities = self._calls.capabilities
        if capabilities.queues_orders or capabilities.rules(symbol).always_open:
            return True
        return (await self.session(symbol)).is_open

    # --- reading positions --------------------------------------------------------------------------------------------

    async def positions(self) -> list[BrokerPosition]:
        """What the broker holds, by a read that begins after this call; callers that wait together share one."""
        while self._reading is not None and not self._reading.done():
            running = self._reading
            await asyncio.wait([running])
            if self._reading is not running:
                return await asyncio.shield(self._reading)  # begun by another caller, after this call
        self._reading = asyncio.create_task(self._calls.positions(), name="exitfsm-positions")
        return await asyncio.shield(self._reading)

    async def _read(self, p: Position) -> bool:
        """A fresh read for one position, and what it means."""
        expected = self.expectations()
        held = await self.positions()
        await self.tell_read(p.position_id, held, expected)
        return self._engine.positions.get(p.position_id) is not p

    def expectations(self) -> dict[str, Expectation]:
        """What is known of each position now; taken before a read, so that a read that was overtaken is seen to be."""
        return {p.position_id: expectation(p) for p in list(self._engine.positions.values())}

    async def tell_read(self, position_id: str, held: list[BrokerPosition], expected: dict[str, Expectation]) -> None:
        """Tell a position what the broker holds for it, and how often in a row that was so.

        A read that began before we learned the newest about the position proves nothing about it, and is dropped.
        """
        p = self._engine.positions.get(position_id)
        if p is None or expected.get(position_id) != expectation(p):
            return
        net, entry = self.net_of(p, held)
        reads = self._count(p, net)
        if not held and p.remaining_qty > ZERO and not await self._explained(p):
            if reads >= READS_MIN and p.state is not State.UNPROTECTED and not p.order_live:
                why = f"the broker shows no position at all, and no execution that explains it for {p.symbol}"
                await self._door.tell(position_id, Contradiction(at=self._time.now(), why=why))
            return
        message = PositionRead(at=self._time.now(), qty=net, avg_entry_price=entry, reads=reads)
        await self._door.tell(position_id, message)

    def net_of(self, p: Position, held: list[BrokerPosition]) -> tuple[Decimal, Decimal | None]:
        """The broker's quantity for a position, less what other known epochs of the symbol hold; and its entry."""
        others = sum(
            (
                q.remaining_qty
                for q in list(self._engine.positions.values())
                if q.symbol == p.symbol and q.side is p.side and q.position_id != p.position_id
            ),
            ZERO,
        )
        for bp in held:
            if same_symbol(bp.symbol, p.symbol):
                if bp.side is not p.side:
                    return -bp.qty, None
                entry = bp.avg_entry_price if bp.avg_entry_price.is_finite() and bp.avg_entry_price > 0 else None
                return bp.qty - others, entry if not others else None
        return ZERO - others, None

    def _count(self, p: Position, net: Decimal) -> int:
        reading = self._readings.get(p.position_id)
        if reading is None or reading.qty != net or reading.expected != expectation(p):
            reading = self._readings[p.position_id] = _Reading(net, expectation(p), 0)
        reading.reads += 1
        return reading.reads

    async def _explained(self, p: Position) -> bool:
        """True when executions since the entry account for the whole position being gone."""
        if not self._calls.has("fills"):
            return False
        fills = await self._calls.fills(p.opened_at)
        closing = p.side.exit_side
        gone = sum((f.qty for f in fills if same_symbol(f.symbol, p.symbol) and f.side is closing), ZERO)
        return gone >= p.qty

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._readings.pop(p.position_id, None)
        self._pauses.pop(p.position_id, None)


def expectation(p: Position) -> Expectation:
    """What a read of the broker's books is held against."""
    return p.state, p.remaining_qty, p.client_order_id


def same_symbol(one: str, other: str) -> bool:
    """True for two spellings of one instrument (a pair comes with and without its slash)."""
    return one == other or one.replace("/", "") == other.replace("/", "")

