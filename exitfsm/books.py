"""The broker's books as a shell reads them: positions, records of orders, executions.

Rules of this room: it asks the broker, and nothing else. What an answer means is decided in `holdings`; who is told of
it is the shell's. Where the broker does not answer, its `BrokerError` goes to whoever asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol

from exitfsm import holdings
from exitfsm.aio.tasks import Fresh, leave_turn
from exitfsm.broker.calls import BrokerCalls, describe
from exitfsm.clocks import SteadyTime
from exitfsm.errors import BrokerError
from exitfsm.holdings import Read, same_symbol
from exitfsm.holdings.facts import Failed, Scope
from exitfsm.memory.memory import Memory
from exitfsm.memory.orders import own_id
from exitfsm.outside import logged
from exitfsm.position import Position
from exitfsm.values import BrokerPosition, ExecutionReport, Fill
from exitfsm.values import Rows as Indexed

Rows = tuple[BrokerPosition, ...]
#: How long one look at what is held may take, where something waits for it.
LOOK_MAX_S = 1.0


class Share(Protocol):
    """What of the account is ours."""

    scope: Scope

    async def limits(self) -> Callable[[Rows], Rows]:
        """What a read that begins now is to show of its rows."""

    def priced(self, rows: Rows) -> Rows:
        """The rows with their average entries as prices."""

    def own(self, fills: Iterable[Fill]) -> list[Fill]:
        """Those of these executions that are in scope."""


class Books:
    """Asks the broker what its books say.

    Args:
        calls: the broker.
        memory: of orders, for their ids and the spelling of their symbols.
        time: the present.
        is_ours: whether an account of this name is the one that is managed.
        share: asked when a read begins: what of the rows that it will show is ours.
        ask: see to it that the broker was asked about a symbol.
    """

    def __init__(
        self,
        calls: BrokerCalls,
        memory: Memory,
        time: SteadyTime,
        is_ours: Callable[[str], bool],
        share: Share,
        ask: Callable[[str], Awaitable[None]],
    ) -> None:
        self._calls, self._orders, self._seen = calls, memory.orders, memory.seen
        self._time, self._is_ours, self._share, self._ask = time, is_ours, share, ask
        #: Reads of what is held; callers that wait together share one.
        self.reads = Fresh(self._read, "exitfsm-positions")
        #: Since when positions are not listed that a person wants to release, in monotonic seconds.
        self._missing: dict[str, float] = {}

    # --- what is held -------------------------------------------------------------------------------------------------

    async def positions(self) -> Read:
        """What the broker holds, by a read that begins after this call; callers that wait together share one."""
        return await self.reads.answer(LOOK_MAX_S)

    async def not_missing(self, read: Read, p: Position) -> Read:
        """The read, unless it does not list a position and no execution says why: that proves nothing for a while.

        Raises:
            BrokerError: it does not, for a position of which something is left; what was asked since when is kept.
        """
        if holdings.row_of(read, p.symbol, p.side) is not None:
            self._missing.pop(p.position_id, None)
            return read
        fills = await self.fills_of(p) if self._calls.has("fills") else None
        if fills is not None and holdings.say_closed(p, fills):
            return read
        since = self._missing.setdefault(p.position_id, read.began)
        if holdings.is_missing_for_good(since, read.began):
            return read
        shows = f"does not list {p.symbol}" if read.rows else "lists no position at all"
        raise BrokerError(f"the broker {shows}, and no execution says that it was closed: try again in 5 minutes")

    async def look(self, symbol: str) -> tuple[Read | None, str]:
        """What is held, soon; or None and why, where that is not known of this symbol."""
        try:
            async with asyncio.timeout(LOOK_MAX_S):
                held = await self.positions()
        except (BrokerError, TimeoutError) as error:
            return None, describe(error)
        return (None, "it cannot be read") if holdings.is_silent(held, symbol) else (held, "")

    async def _read(self) -> Read:
        """The rows of our account, those of one symbol and side added up, as far as they are ours."""
        limited = await self._share.limits()
        held = await self._calls.positions()
        await leave_turn(len(held))
        own = holdings.own_rows(held, self._is_ours)
        ended = self._time.monotonic()
        priced = self._share.priced(own.rows)
        unclear, whole = held.unclear | own.unclear, Indexed(priced) if self._share.scope.by_ids else None
        rows = Indexed(limited(priced))
        for symbol in sorted(self._orders.of_other_sides(rows)):
            await self._ask(symbol)  # in hedge mode that is no contradiction, and no reversal
        hedged = self._orders.hedged(row.symbol for row in rows)
        both = holdings.contradicting(rows, hedged)
        self._orders.shown_on_both_sides(both)
        read = Read(
            rows=rows, began=held.began, ended=ended, unreadable=unclear, whole=whole, hedged=hedged, both=both
        )  # fmt: skip
        return self._seen.noted(read)

    # --- records ------------------------------------------------------------------------------------------------------

    async def record(self, p: Position, client_order_id: str) -> ExecutionReport | None:
        """An order's record; by the list of working orders, where the broker cannot be asked about this one."""
        if self._calls.can_look_up(client_order_id):
            return await self._calls.order(client_order_id)
        if not self._calls.has("open_orders"):
            return None  # what the updates say is all there is
        own, listed = own_id(p, client_order_id), await self._calls.open_orders()
        mine = (r for r in listed if r.client_order_id == client_order_id or (own and r.broker_order_id == own))
        return next(mine, None)

    async def record_with_quantity(self, p: Position | None, client_order_id: str) -> ExecutionReport | None:
        """An order's record; where it calls the order filled, and says that it filled nothing, what executions say."""
        report = await self._calls.order(client_order_id)
        if report is not None and p is not None and holdings.says_no_quantity(p, report):
            return await self.record_by_executions(p) or report
        return report

    async def record_by_executions(self, p: Position) -> ExecutionReport | None:
        """What the executions say that a position's newest order has filled; None where they say nothing new."""
        if not self._calls.has("fills"):
            return None
        fills = await self._calls.fills(p.opened_at, p.symbol)
        return holdings.report_from_executions(p, [f for f in fills if same_symbol(f.symbol, p.symbol)])

    # --- executions ---------------------------------------------------------------------------------------------------

    async def fills_of(self, p: Position) -> tuple[Fill, ...] | None:
        """The executions in a position's symbol since its entry; None where they cannot be had."""
        listed = self._calls.has("fills")
        with logged("fills_failed position=%s error=%s", p.position_id):
            told = self._orders.reported.of(p.symbol)
            fills = self._share.own(await self._calls.fills(p.opened_at, p.symbol)) if listed else told
            both = self._calls.capabilities.holds_both(p.symbol)
            return holdings.executions_of(p, holdings.of_side(fills, p.side) if both else fills, listed=listed)
        return None

    async def fills_since(self, since: datetime, symbol: str) -> tuple[Fill, ...] | Failed:
        """The account's executions since a time; `Failed` where they, or one of this symbol, cannot be read."""
        began = self._time.monotonic()
        with logged("fills_failed error=%s"):
            return tuple(await self._calls.fills(since.replace(microsecond=0), symbol))
        return Failed(begin=began, end=self._time.monotonic(), why="the executions cannot be read")

    async def executed(self, lookback_days: int) -> holdings.Executed:
        """The executions in scope as far as they are looked at, oldest first."""
        if not self._calls.has("fills"):
            return holdings.Executed(None, self._calls.capabilities)
        fills = await self._calls.fills(self._time.now() - timedelta(days=lookback_days))
        return holdings.Executed(self._orders.by_symbol(self._share.own(fills)), self._calls.capabilities)
