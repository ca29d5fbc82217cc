"""The network between a process and the venue: requests and answers that are late, repeated, lost or garbled.

A request that was sent arrives whether or not its process still lives, and whether or not anybody waits for the answer.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from exitfsm.errors import BrokerError, NotSent, OrderRefused
from exitfsm.ports import Capabilities, IdMemory, Session
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, Order, plain
from simulation.faults import Faults
from simulation.loop import ProcessLoop, World
from simulation.trace import Trace
from simulation.venue import BEHIND_MAX_S, Venue, seconds_of
from simulation.worlds import Worlds

#: Longest time that a late request is under way; the person who clears up waits for longer.
LATE_MAX_S = 45.0
#: How many seconds a slow read takes longer, on its way there, or back.
SLOW_S = (0.2, 5.0)
READS = frozenset({"order", "positions", "open_orders", "fills", "order_ids", "session"})
#: What no client can read, among what it can: it hides none of the others.
UNREADABLE: Any = {"id": "?", "symbol": "OTHER", "qty": "?", "filled_qty": "?", "status": "new"}
#: How many answers in a row may be behind or empty: the manager believes a smaller position after three equal reads.
LIES_MAX = 2


class Line:
    """A process's connection to the broker: the `Broker` port, with an unreliable network behind it.

    Args:
        world, rng, faults, trace: the simulation's.
        venue: where the requests go.
        loop: the process's.
        name: of the process, for the trace.
        plain: the methods are plain functions, as a bot with a thread pool has them.
        lists_fills: the broker lists executions.
        lists_ids: it lists the ids of all orders, whatever became of them.
        worlds: how the account shows what it holds.
        on_submit: told of each exit order that leaves, before it does; and of each that arrives.
        on_answer: told when the answer to a submit has come, after the process has it.

    Attributes:
        awaited: exit orders whose submit has not been answered.
        hours_heard: symbols whose hours this life has heard.
        closed_heard: since when it has heard that a symbol's market is closed.
    """

    def __init__(
        self,
        world: World,
        rng: random.Random,
        faults: Faults,
        trace: Trace,
        venue: Venue,
        loop: ProcessLoop,
        name: str,
        *,
        lists_fills: bool,
        lists_ids: bool,
        worlds: Worlds,
        on_submit: Callable[[Line, Order, bool], None],
        on_answer: Callable[[Line, str], None],
    ) -> None:
        self._world, self._rng, self._faults, self._trace, self._venue = world, rng, faults, trace, venue
        self._loop, self.name, self._worlds = loop, name, worlds
        self.capabilities: Capabilities = venue.capabilities
        self._on_submit, self._on_answer = on_submit, on_answer
        self.awaited: set[str] = set()
        self.hours_heard: dict[str, float] = {}
        self.closed_heard: dict[str, float] = {}
        self._last_positions: tuple[float, list[BrokerPosition]] = (-1e9, [])
        self._lies = 0
        #: How often in a row the record of an order was behind, and the list of working orders was.
        self._lies_about: Counter[str] = Counter()
        self._lists_behind = 0
        #: In how many answers an execution was missing.
        self._missing: Counter[str] = Counter()
        if not lists_fills:
            self.fills = None  # type: ignore[assignment, method-assign]  # a broker without this method
        if not lists_ids:
            self.order_ids = None  # type: ignore[assignment, method-assign]  # the same

    # --- the port -----------------------------------------------------------------------------------------------------

    async def submit(self, order: Order) -> Any:
        """Send one order."""
        order_id = order.client_order_id
        self._on_submit(self, order, False)
        if self._faults.happens("not sent", 9, order_id):
            raise NotSent("too many requests")
        self.awaited.add(order_id)
        try:
            return await self._ask("submit", order_id, self._submit, order)
        finally:
            self.awaited.discard(order_id)

    async def cancel(self, client_order_id: str, *, broker_order_id: str | None = None) -> Any:
        """Ask for a cancel; of one of two orders of an id by the broker's own."""
        if broker_order_id is not None:
            return await self._ask("cancel", client_order_id, self._worlds.canceled, broker_order_id)
        return await self._ask("cancel", client_order_id, self._venue.take_cancel, client_order_id)

    async def order(self, client_order_id: str) -> Any:
        """Look an order up."""
        return await self._ask("order", client_order_id, self._order, client_order_id)

    async def positions(self) -> Any:
        """All positions."""
        return await self._ask("positions", "", lambda: self._worlds.rows(self._positions()))

    async def open_orders(self) -> Any:
        """All working orders."""
        return await self._ask("open_orders", "", lambda: self._worlds.orders(self._open_orders()))

    async def fills(self, since: datetime) -> Any:
        """Executions since a time."""
        return await self._ask("fills", "", self._fills, since)

    async def order_ids(self, since: datetime) -> Any:
        """Our ids of all orders since a time."""
        return await self._ask("order_ids", "", self._order_ids, since)

    async def session(self, symbol: str, at: datetime) -> Any:
        """The market's hours."""
        return await self._ask("session", symbol, self._venue.session)

    # --- there --------------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, about: str, effect: Callable[..., Any], *args: Any) -> Any:
        future = self._loop.create_future()
        ways = self.way_there(method, about)
        self._trace(self.name, f"asks {method} {about}")
        for n, delay in enumerate(ways, start=1):
            self._venue.under_way[about] += 1
            answered = future if n == len(ways) else None  # of a request that is repeated one answer comes
            self._world.after(delay, self._arrive, method, about, answered, effect, args)
        return await future

    def way_there(self, method: str, about: str) -> list[float]:
        """How many seconds a request is under way: one number for each time it arrives."""
        faults, rng = self._faults, self._rng
        delay = 0.002 + rng.random() * 0.04
        row = 4 if method == "submit" else 19 if method == "cancel" else 30
        if faults.happens("request lost", row, about):
            return []
        if faults.happens("request late", row, about):
            return [delay + rng.uniform(2, LATE_MAX_S)]
        if method in READS:
            return [delay + rng.uniform(*SLOW_S) if faults.happens("read slow", None, method) else delay]
        repeats = method == "submit" and self.capabilities.ids_refused is IdMemory.FOREVER
        if repeats and faults.happens("request repeated", 7, about):
            # Somewhere on the way the request is sent again; the answer to the first one gets lost.
            return [delay, delay + rng.uniform(0.01, 5)]
        return [delay]

    def way_back(self, method: str, about: str) -> float | None:
        """How many seconds an answer is under way; None for one that never comes."""
        delay = 0.002 + self._rng.random() * 0.04
        if method in READS and self._faults.happens("answer slow", None, method):
            delay += self._rng.uniform(*SLOW_S)
        return delay

    def _arrive(
        self,
        method: str,
        about: str,
        future: asyncio.Future[Any] | None,
        effect: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        error: Exception | None = None
        answer: Any = None
        self._venue.under_way[about] -= 1
        try:
            answer = effect(*args)
        except (OrderRefused, BrokerError) as said:
            error = said
        if future is None:
            return
        faults = self._faults
        acts = method in ("submit", "cancel")
        if faults.happens("reply lost", 19 if method == "cancel" else None, about):
            if method == "submit" and error is None:
                faults.seen(5)
            if self._rng.random() < 0.5:
                return  # and the process waits until its patience ends
            error = ConnectionError("the connection was reset")
        elif acts and error is None and faults.happens("error after arrival", 5 if method == "submit" else 19, about):
            error = BrokerError("HTTP 500")
        elif error is None and faults.happens("answer unreadable", 30, method):
            answer = {"message": "internal server error"}
            if method == "order":
                faults.seen(60)
                answer = {"client_order_id": about, "status": "frozen solid", "qty": 1}
        back = self.way_back(method, about)
        if back is not None:
            self._world.after(back, self._reply, method, about, future, answer, error)

    def _reply(
        self, method: str, about: str, future: asyncio.Future[Any], answer: Any, error: Exception | None
    ) -> None:
        loop = self._loop
        if loop.dead:
            return
        if loop.asleep_until > self._world.time:
            self._world.at(loop.asleep_until, self._reply, method, about, future, answer, error)
            return
        if future.done():
            return
        if error is not None:
            self._trace(self.name, f"hears {method} {about}: {type(error).__name__} {error}")
            future.set_exception(error)
        else:
            future.set_result(answer)
            if isinstance(answer, Session):
                self.hours_heard[about] = self._world.time
                if not answer.is_open:
                    self.closed_heard.setdefault(about, self._world.time)
        if method == "submit":
            if error is None:
                self._trace(self.name, f"hears {method} {about}")
                booked = self._venue.booked(about)
                if booked is not None and not booked.live and booked.filled:
                    self._faults.seen(6)
            self._on_answer(self, about)

    # --- what is told -------------------------------------------------------------------------------------------------

    def _submit(self, order: Order) -> Any:
        self._on_submit(self, order, True)
        report = self._venue.take_exit(order)
        self._trace("venue", f"takes {order.side} {plain(order.qty)} {order.symbol} as {order.client_order_id}")
        return report

    def _positions(self) -> list[Any]:
        now, rng = self._world.time, self._rng
        truth = self._venue.positions_now()
        at, older = self._last_positions
        if self._lies < LIES_MAX:
            if now - at < BEHIND_MAX_S and self._faults.happens("positions behind", 29):
                self._lies += 1
                return list(older)
            if self._faults.happens("positions empty", 29):
                self._lies += 1
                return []
            if truth and self._faults.happens("quantity absurd", 45):
                self._lies += 1
                absurd = rng.choice((Decimal("NaN"), Decimal("Infinity"), Decimal("-1E30")))
                shown = replace(truth[0], qty=absurd) if not absurd.is_signed() else {"symbol": truth[0].symbol}
                return [shown, *truth[1:]]
            if truth and self._faults.happens("no entry price", 46):
                self._lies += 1
                chosen = rng.randrange(len(truth))
                return [replace(bp, avg_entry_price=Decimal(0)) if n == chosen else bp for n, bp in enumerate(truth)]
        self._lies = 0
        self._last_positions = (now, truth)
        if truth and self._faults.happens("position unreadable", 55):
            return [*truth, UNREADABLE]
        return truth

    def _order(self, client_order_id: str) -> ExecutionReport | None:
        """The record of an order, or what it was a moment ago."""
        now, venue = self._world.time, self._venue
        if now < venue.look_ups_out_until:
            raise BrokerError("HTTP 503")
        truth, lies = venue.order_now(client_order_id), self._lies_about[client_order_id]
        if lies < LIES_MAX and now - venue.past.changed_at(client_order_id) < BEHIND_MAX_S:
            may_say, older = venue.order_before(client_order_id, now - self._rng.uniform(0.1, BEHIND_MAX_S))
            if may_say and older != truth and self._faults.happens("record behind", None, client_order_id):
                self._lies_about[client_order_id] += 1
                return older
        self._lies_about.pop(client_order_id, None)
        return truth

    def _open_orders(self) -> list[ExecutionReport]:
        """The working orders, none of them, or those of a moment ago."""
        truth, then = self._venue.open_orders_now(), self._world.time - self._rng.uniform(0.1, BEHIND_MAX_S)
        if truth and self._faults.happens("list empty", 30):
            return []
        if self._lists_behind < LIES_MAX and self._faults.happens("list behind", 30, "open_orders"):
            self._lists_behind += 1
            return self._venue.open_orders_before(then)
        self._lists_behind = 0
        if truth and self._faults.happens("order unreadable", 55):
            return [*truth, UNREADABLE]
        return truth

    def _order_ids(self, _: datetime) -> list[str]:
        """Every order that was taken: the list is complete, or there is none."""
        if self._world.time < self._venue.look_ups_out_until:
            raise BrokerError("HTTP 503")
        return self._venue.ids()

    def _fills(self, since: datetime) -> list[Fill]:
        """The executions, none of them, or those of a moment ago; each is missing so often at most."""
        truth = self._venue.fills_since(since)
        if truth and self._faults.happens("list empty", 30):
            return []
        if truth and self._faults.happens("execution unreadable", 55):
            return [*truth, UNREADABLE]
        now = self._world.time
        if not truth or now - seconds_of(truth[-1].at) >= BEHIND_MAX_S:
            return truth
        if not self._faults.happens("list behind", 30, "fills"):
            return truth
        then, shown = now - self._rng.uniform(0.1, BEHIND_MAX_S), len(truth)
        while shown and seconds_of(truth[shown - 1].at) > then:
            newest = truth[shown - 1]
            if self._missing[newest.fill_id] == LIES_MAX or self._venue.newest_is_final(newest):
                break
            self._missing[newest.fill_id] += 1
            shown -= 1
        return truth[:shown]
