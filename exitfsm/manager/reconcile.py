"""Reconciling with the broker: what it holds against what is watched, order by order and position by position.

The same code runs at the start, after a reconnect, and on a timer. It is idempotent: a second run right after the first
changes nothing. It never invents exposure: what it takes up is what the broker shows, named by the broker's own fills;
what it cannot name or price is an alarm. An answer that fails or is empty proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial

from exitfsm.config import ExitConfig
from exitfsm.engine import Engine
from exitfsm.errors import BrokerError
from exitfsm.lifecycle import State
from exitfsm.manager.calls import BrokerCalls
from exitfsm.manager.clock import SteadyTime
from exitfsm.manager.door import Door
from exitfsm.manager.driving import ORDER_PREFIX, Driver, same_symbol
from exitfsm.manager.identity import Identity, remember
from exitfsm.messages import Open, Recover
from exitfsm.outside import logger
from exitfsm.ports import IdMemory
from exitfsm.position import READS_MIN, Position, client_order_id, epoch_of, position_id
from exitfsm.values import (
    ZERO,
    BrokerPosition,
    ExecutionReport,
    Fill,
    OrderSide,
    OrderStatus,
    Side,
    canonical_symbol,
    plain,
    tradable,
)

log = logger("exitfsm")

#: Attempts of a position that are looked up one after another when its record may be lost.
ATTEMPTS_PROBED_MAX = 50

RaiseAccountAlarm = Callable[[str, str], Awaitable[None]]


class Reconciler:
    """Brings what is watched in line with what the broker shows."""

    def __init__(
        self,
        engine: Engine,
        door: Door,
        calls: BrokerCalls,
        driver: Driver,
        identity: Identity,
        time: SteadyTime,
        config: ExitConfig,
        account: str,
        strategy_name: str,
        alarm: RaiseAccountAlarm,
    ) -> None:
        self._engine, self._door, self._calls, self._driver, self._time = engine, door, calls, driver, time
        self._identity = identity
        self._config, self._account, self._strategy_name, self._alarm = config, account, strategy_name, alarm
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[None] | None = None
        #: First fill of an entry order that updates told of, by (symbol, side): where the broker lists no fills.
        self.first_fills: dict[tuple[str, Side], datetime] = {}
        self._ended: dict[str, datetime] = {}
        self._over: dict[str, ExecutionReport] = {}
        self._strange: list[ExecutionReport] = []
        self._pairs: dict[str, str] = {}
        #: Positions that could not be taken up yet, with how often that was tried.
        self.missing: dict[tuple[str, Side], int] = {}

    async def sync(self) -> None:
        """Reconcile everything with what the broker says after this call; callers that wait together share one run.

        Raises:
            BrokerError: the broker did not answer; nothing was concluded from that.
        """
        if self._lock.locked():
            if self._waiting is None or self._waiting.done():
                self._waiting = asyncio.create_task(self._exclusive(), name="exitfsm-sync")
            await asyncio.shield(self._waiting)
        else:
            await self._exclusive()

    async def close(self) -> None:
        """Give up the run that callers wait for together."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)

    async def _exclusive(self) -> None:
        async with self._lock:
            self._waiting = None
            await self._sync()

    async def _sync(self) -> None:
        # Positions are read before the orders: whatever an order had filled by then, its own record tells afterwards.
        expected = self._driver.expectations()
        symbols = {p.symbol for p in list(self._engine.positions.values())}
        held = await self._driver.positions()
        await self._orders()
        await self._foreign()
        for watched in expected:
            try:
                await self._driver.tell_read(watched, held, expected)
            except BrokerError as error:
                log.warning("read_not_understood position=%s error=%s", watched, error)
        # One that was watched when the read began may have ended since: the read is then too old to take it up.
        await self._adopt_all([bp for bp in held if not any(same_symbol(bp.symbol, symbol) for symbol in symbols)])
        await self._strange_orders()
        self._driver.drive([p.position_id for p in list(self._engine.positions.values())], now=False)

    async def _orders(self) -> None:
        """Look up every exit order of ours that may be live, and those that the broker has corrected."""
        due = [
            (p.position_id, order_id)
            for p in list(self._engine.positions.values())
            for order_id in p.orders_in_question
            if p.state is not State.PENDING or order_id in self._engine.unknown
        ]

        async def one(position_id: str, order_id: str) -> None:
            try:
                await self._driver.look_up(position_id, order_id)
            except BrokerError as error:
                log.warning("look_up_failed id=%s error=%s", order_id, error)

        await asyncio.gather(*(one(*which) for which in due if which[1] not in self._driver.sending))

    async def _foreign(self) -> None:
        """Note the working orders of others; one that looks like ours and is not known is an alarm."""
        if not self._calls.has("open_orders"):
            return
        try:
            orders = [self._identity.under_our_id(report) for report in await self._calls.open_orders()]
        except BrokerError as error:
            log.warning("open_orders_failed error=%s", error)
            return
        self._driver.foreign.clear()
        self._strange = [report for report in orders if report.client_order_id.startswith(ORDER_PREFIX)]
        # Known before anything is taken up that could send a second one.
        self._driver.strangers = {
            report.client_order_id: report.symbol.replace("/", "")
            for report in self._strange
            if report.symbol is not None and await self._owner(report.client_order_id) is None
        }
        for report in orders:
            if not report.client_order_id.startswith(ORDER_PREFIX):
                self.note_foreign(report)

    async def _strange_orders(self) -> None:
        """Working orders that look like exits of ours: news for their positions, and an alarm where there is none."""
        strange, self._strange = self._strange, []
        for report in strange:
            order_id = report.client_order_id
            if await self._owner(order_id) is not None:
                self._driver.strangers.pop(order_id, None)
                await self._door.report(report)
            else:
                text = (
                    f"order {order_id} of {report.symbol} looks like an exit of ours and belongs to no known position"
                )
                await self._alarm("unknown_exit_order", text)

    async def _owner(self, order_id: str) -> str | None:
        """The position that an order belongs to, by memory or by the store; None where it belongs to none."""
        owner: str | None = self._engine.known_owner(order_id)
        if owner is None:
            owner = await self._door.run(partial(self._engine.owner_of, order_id))
        return owner

    def note_spelling(self, symbol: str) -> None:
        """Remember how a pair is written with its slash: some lists of positions leave it out."""
        if "/" in symbol:
            self._pairs[symbol.replace("/", "")] = symbol

    def note_foreign(self, report: ExecutionReport) -> None:
        """Remember, or forget, a working order of somebody else."""
        if report.symbol is None:
            return
        self.note_spelling(report.symbol)
        order_id = report.client_order_id
        if report.status.terminal:
            remember(self._over, order_id, report)
        elif order_id in self._over:
            return  # older news than its end
        working = self._driver.foreign.setdefault(report.symbol.replace("/", ""), {})
        if report.status.terminal:
            working.pop(report.client_order_id, None)
        else:
            working[report.client_order_id] = report

    def note_fills(self, report: ExecutionReport) -> None:
        """An order of somebody else has filled so far: what the bot's updates tell, once or often, in any order."""
        filled = report.filled_qty if report.filled_qty is not None else report.qty
        if report.symbol is None or report.side is None or filled is None or not (tradable(filled) and filled > 0):
            return
        known = self._driver.told.get(report.client_order_id)
        fill = Fill(
            fill_id=report.client_order_id,
            symbol=canonical_symbol(report.symbol),
            side=report.side,
            qty=max(filled, known.qty) if known is not None else filled,
            price=report.avg_fill_price or ZERO,
            at=min(report.at, known.at) if known is not None else report.at,
            client_order_id=report.client_order_id,
        )
        remember(self._driver.told, report.client_order_id, fill)
        side = Side.LONG if report.side is OrderSide.BUY else Side.SHORT
        key = (fill.symbol, side)
        ended = self._ended.get(fill.symbol)
        if ended is None or fill.at > ended:
            self.first_fills[key] = min(fill.at, self.first_fills.get(key, fill.at))

    def note_end(self, p: Position) -> None:
        """A position has ended. What others opened since its exit was triggered is the start of the one after it."""
        if p.ended_at is not None:
            self._ended[p.symbol] = p.ended_at
        since = p.triggered_at or p.ended_at
        later = [
            fill.at
            for fill in self._driver.told.values()
            if since is not None
            and fill.at >= since  # first, because it leaves few of thousands
            and same_symbol(fill.symbol, p.symbol)
            and fill.side is not p.side.exit_side
        ]
        self.first_fills.pop((p.symbol, p.side), None)
        if later:
            self.first_fills[p.symbol, p.side] = min(later)

    # --- positions that are not watched yet ---------------------------------------------------------------------------

    async def _adopt_all(self, shown: list[BrokerPosition]) -> None:
        """Watch what the broker shows and nobody watches.

        The fills are read after the positions; what changed in between is looked at anew, or the quantity would be
        held against the wrong fills and the position get a name that no other machine arrives at.
        """
        new = [bp for bp in shown if await self._can_be_watched(bp)]
        keys = {(self.known_spelling(bp.symbol), bp.side) for bp in new}
        self.missing = {key: tries for key, tries in self.missing.items() if key in keys}
        if not new:
            return
        try:
            fills = await self._fills()
        except BrokerError:
            await self._cannot_name(new)
            raise
        again = {(bp.symbol, bp.side): bp.qty for bp in await self._driver.positions()}
        for bp in new:
            if again.get((bp.symbol, bp.side)) == bp.qty:
                await self._adopt(bp, fills)
            else:
                self.missing.setdefault((self.known_spelling(bp.symbol), bp.side), 0)

    async def _cannot_name(self, new: list[BrokerPosition]) -> None:
        """The executions cannot be read: once that has failed again, it is an alarm for each position."""
        for bp in new:
            key = (self.known_spelling(bp.symbol), bp.side)
            self.missing[key] = self.missing.get(key, 0) + 1
            if self.missing[key] >= READS_MIN:
                text = f"{plain(bp.qty)} {key[0]} {bp.side}: the broker's fills cannot be read, so it is NOT protected"
                await self._alarm("epoch_unknown", text)

    async def _fills(self) -> dict[str, list[Fill]] | None:
        """The account's executions as far as they are looked at, oldest first; None where the broker lists none."""
        if not self._calls.has("fills"):
            return None
        fills = await self._calls.fills(self._time.now() - timedelta(days=self._config.live.lookback_days))
        by_symbol: dict[str, list[Fill]] = {}
        for fill in fills:
            self.note_spelling(fill.symbol)
            by_symbol.setdefault(fill.symbol.replace("/", ""), []).append(fill)
        return by_symbol

    async def _can_be_watched(self, bp: BrokerPosition) -> bool:
        """False for a position that is watched already, and for one without a price to measure from."""
        if any(same_symbol(p.symbol, bp.symbol) for p in list(self._engine.positions.values())):
            return False  # more than is watched: resized while monitored, a new epoch once the exit under way is over
        if tradable(bp.avg_entry_price) and bp.avg_entry_price > 0:
            return True
        await self._alarm(
            "unpriceable", f"{plain(bp.qty)} {bp.symbol} {bp.side} has no entry price: it is NOT protected"
        )
        return False

    async def _adopt(self, bp: BrokerPosition, fills: dict[str, list[Fill]] | None) -> None:
        """Watch one position, if its name and its orders can be known."""
        symbol = self.known_spelling(bp.symbol)
        key = (symbol, bp.side)
        first = await self._first_fill(symbol, bp, fills)
        if first is None:
            self.missing[key] = self.missing.get(key, 0) + 1
            if fills is not None and self.missing[key] < READS_MIN:
                return  # the list of fills may be a moment behind the list of positions
            text = f"{plain(bp.qty)} {symbol} {bp.side}: its first fill is not known, so it is NOT protected"
            await self._alarm("epoch_unknown", text)
            return
        epoch = epoch_of(first)
        name = position_id(self._account, symbol, bp.side, epoch)
        found = await self._found_order(name)
        if found is None:
            self.missing[key] = self.missing.get(key, 0) + 1
            if self.missing[key] >= READS_MIN:
                text = (
                    f"{plain(bp.qty)} {symbol} {bp.side}: whether an exit of it works is not known: it is NOT protected"
                )
                await self._alarm("exit_unknown", text)
            return
        self.missing.pop(key, None)
        attempt, order = found
        reference = bp.current_price
        if reference is not None and not (tradable(reference) and reference > 0):
            reference = None
        filled = order.filled_qty or ZERO if order is not None else ZERO
        now = self._time.now()
        message = Open(
            at=now,
            account=self._account,
            symbol=symbol,
            side=bp.side,
            epoch=epoch,
            qty=bp.qty + filled,
            entry_price=bp.avg_entry_price,
            opened_at=first,
            policy=self._config.policy,
            strategy_name=self._strategy_name,
            source="broker",
        )
        position = await self._door.run(lambda: self._engine.open(message, reference=reference))
        if position.state.terminal:
            text = (
                f"{plain(bp.qty)} {symbol} {bp.side}: its first fill names {name}, which has ended; it is NOT protected"
            )
            await self._alarm("epoch_unknown", text)
            return
        log.info("adopted position=%s qty=%s entry=%s", name, plain(bp.qty), plain(bp.avg_entry_price))
        if order is not None:
            await self._door.tell(name, Recover(at=now, attempt=attempt, report=order))

    def known_spelling(self, symbol: str) -> str:
        """The spelling under which the bars of a pair come: with its slash where that is already known."""
        for known in list(self._engine.levels.slots):
            if same_symbol(known, symbol):
                return known
        return self._pairs.get(symbol) or canonical_symbol(symbol)

    async def _first_fill(
        self, symbol: str, bp: BrokerPosition, listed: dict[str, list[Fill]] | None
    ) -> datetime | None:
        """When the broker first filled this position since the symbol was flat; None when that cannot be known."""
        if listed is None:
            return self.first_fills.get((symbol, bp.side))
        fills = listed.get(symbol.replace("/", ""), [])
        found = first_since_flat(fills, bp.side, bp.qty)
        previous: Position | None = await self._door.run(lambda: self._last_epoch(symbol, bp.side))
        if previous is not None and not previous.state.terminal:
            return previous.opened_at  # on record, and watched by nobody: its commit seemed to fail
        if previous is not None and found is not None and found <= previous.opened_at:
            return _bought_beyond(fills, previous, bp.side)  # the symbol has not been flat since that one began
        return found

    def _last_epoch(self, symbol: str, side: Side) -> Position | None:
        """The newest ended position of a symbol and side, in the writer's thread."""
        rows = [r for r in self._engine.store.positions(symbol=symbol) if r.side is side]
        newest = max(rows, key=lambda r: (r.opened_at_utc, r.position_id), default=None)
        return self._engine.get(newest.position_id) if newest is not None else None

    async def _found_order(self, name: str) -> tuple[int, ExecutionReport | None] | None:
        """The newest exit order of ours that the broker knows for a position that we have no record of.

        None when that could not be found out, and a repeated id would not be refused.
        """
        known = await self._door.run(lambda: self._engine.get(name))
        if known is not None:
            return 0, None
        newest: tuple[int, ExecutionReport | None] = (0, None)
        for attempt in range(1, ATTEMPTS_PROBED_MAX + 1):
            try:
                report = await self._calls.order(client_order_id(name, attempt))
            except BrokerError as error:
                log.warning("probe_failed position=%s attempt=%s error=%s", name, attempt, error)
                if self._calls.capabilities.ids_refused is not IdMemory.FOREVER:
                    return None
                return newest  # safe: a first send under a used id is refused, looked up and taken over then
            if report is None:
                return newest
            newest = (attempt, report)
        return newest


def first_since_flat(fills: Sequence[Fill], side: Side, qty: Decimal) -> datetime | None:
    """Walk back from what is held now to the fill that opened it; None when the fills do not reach that far.

    Args:
        fills: the symbol's executions, oldest first.
        side, qty: what is held now.
    """
    held = qty
    for fill in reversed(fills):
        opening = fill.side is not side.exit_side
        held = held - fill.qty if opening else held + fill.qty
        if opening and held <= 0:
            return fill.at
    return None


def _bought_beyond(fills: Sequence[Fill], previous: Position, side: Side) -> datetime | None:
    """The first fill that is not the ended position's, though it never came to be flat: the next epoch's start.

    It came while the exit was under way, or shortly before it and beyond the quantity that was exited.
    """
    since = previous.triggered_at or previous.ended_at
    opening = [f for f in fills if f.side is not side.exit_side and f.at >= previous.opened_at]
    during = [f.at for f in opening if since is not None and f.at >= since]
    if during:
        return during[0]
    left = previous.qty
    for fill in opening:
        left -= fill.qty
        if left < 0:
            return fill.at
    return None


def brings_fills(report: ExecutionReport) -> bool:
    """True when a report of somebody's order means that the account's positions changed."""
    return bool(report.filled_qty) or report.status in (OrderStatus.FILLED, OrderStatus.PARTIALLY_FILLED)
