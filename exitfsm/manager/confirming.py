"""A price jumped beyond belief: the broker's own price and position are the second source.

The same quantity and entry at a price that agrees: a real crash, exit at once. Another quantity or entry: a split or
the like, new levels and no exit. No answer: an alarm, and the next bar asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal

from exitfsm.engine import Engine
from exitfsm.errors import BrokerError
from exitfsm.lifecycle import State
from exitfsm.manager.calls import Held
from exitfsm.manager.clock import SteadyTime
from exitfsm.manager.door import Door
from exitfsm.manager.reading import Reader, same_symbol
from exitfsm.manager.tasks import Tasks
from exitfsm.messages import PositionRead
from exitfsm.outside import logger
from exitfsm.policy import PriceGuard, is_jump
from exitfsm.position import READS_MIN, Position
from exitfsm.values import Bar, BrokerPosition, exactly

log = logger("exitfsm")


class Confirmer:
    """Settles prices that jumped, one question for each symbol at a time."""

    def __init__(
        self,
        engine: Engine,
        door: Door,
        reader: Reader,
        time: SteadyTime,
        received: Callable[[], datetime],
        tasks: Tasks,
        guard: PriceGuard,
    ) -> None:
        self._engine, self._door, self._reader, self._time = engine, door, reader, time
        self._received, self._tasks, self._guard = received, tasks, guard
        self._jumped: dict[str, Bar] = {}
        #: Questions that are under way.
        self.tasks: set[asyncio.Task[None]] = set()

    def confirm(self, bars: list[Bar]) -> None:
        """Ask the broker about the newest of these bars of each symbol."""
        for bar in bars:
            if bar.symbol not in self._jumped:
                task = self._tasks.spawn(self._confirm(bar.symbol), "exitfsm-confirm")
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            self._jumped[bar.symbol] = bar

    async def _confirm(self, symbol: str) -> None:
        try:
            held = await self._reader.positions()
        except BrokerError as error:
            log.warning("price_not_confirmed symbol=%s error=%s", symbol, error)
            held = Held()
        bar = self._jumped.pop(symbol)
        shown = next((bp for bp in held if same_symbol(bp.symbol, symbol)), None)
        open_now = sorted(self._engine.positions.values(), key=lambda p: (p.opened_at, p.position_id))
        watched = [p for p in open_now if p.symbol == symbol and p.state is State.MONITORING]
        if shown is not None and watched and _was_split(watched, shown):
            await self._door.run(lambda: self._engine.rebase(symbol, bar))
            for p in watched:
                net, entry = self._reader.net_of(p, held)
                read = PositionRead(at=self._time.now(), qty=net, avg_entry_price=entry, reads=READS_MIN)
                await self._door.tell(p.position_id, read)
        elif shown is not None and self._agrees(bar, shown):
            await self._door.bars([bar], confirmed=True)
        else:
            await self._door.run(lambda: self._engine.on_bar(bar, received_at=self._received()))

    def _agrees(self, bar: Bar, shown: BrokerPosition) -> bool:
        """True when the broker's own price is as far out as the bar's."""
        price = shown.current_price
        if price is None or not price.is_finite() or price <= 0:
            return False
        return not is_jump(bar.close, price, self._guard.max_jump_ratio)


@exactly
def _was_split(watched: list[Position], shown: BrokerPosition) -> bool:
    qty = sum((p.remaining_qty for p in watched), Decimal(0))
    entry = shown.avg_entry_price
    return shown.qty != qty or (entry.is_finite() and all(entry != p.entry_price for p in watched))
