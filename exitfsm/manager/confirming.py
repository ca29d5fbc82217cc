"""A price jumped beyond belief: the broker's own price and position are the second source.

The same quantity and entry at a price that agrees: a real crash, exit at once. A quantity and an entry
that moved as the price did: a split or the like, new levels and no exit. Anything else, and no answer: an alarm, and
the next bar asks again.
"""

from __future__ import annotations

import asyncio

from exitfsm import holdings
from exitfsm.errors import BrokerError
from exitfsm.holdings import Meaning, Read, same_symbol
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context
from exitfsm.manager.view import View
from exitfsm.messages import PositionRead
from exitfsm.outside import logger
from exitfsm.position import READS_MIN, Position
from exitfsm.values import Bar

log = logger("exitfsm")


class Confirmer:
    """Settles prices that jumped, one question for each symbol at a time."""

    def __init__(self, context: Context, view: View) -> None:
        self._engine, self._mailbox, self._tasks, self._view = context.engine, context.mailbox, context.tasks, view
        self._time, self._clock = context.given.time, context.given.clock
        self._guard = context.given.config.policy.price_guard
        self._jumped: dict[str, Bar] = {}
        #: Questions that are under way.
        self.tasks: set[asyncio.Task[None]] = set()

    def confirm(self, bars: list[Bar]) -> None:
        """Ask the broker about the newest of these bars of each symbol."""
        for bar in bars:
            if bar.symbol not in self._jumped:
                self._ask(bar.symbol)
            self._jumped[bar.symbol] = bar

    def _ask(self, symbol: str) -> None:
        task = self._tasks.spawn(self._confirm(symbol), "exitfsm-confirm")
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _confirm(self, symbol: str) -> None:
        """Ask about the newest jump. Of one that comes meanwhile the answer may know nothing: that is asked anew."""
        bar, expected = self._jumped[symbol], self._view.expectations()
        again = False
        try:
            try:
                held = await self._view.positions()
            except BrokerError as error:
                log.warning("price_not_confirmed symbol=%s error=%s", symbol, error)
                held = Read()
            watched = self._watched(symbol)
            overtaken = any(expected.get(p.position_id) != self._view.seen(p) for p in watched)
            again = overtaken or self._jumped[symbol] is not bar
        finally:
            if not again:
                del self._jumped[symbol]  # also where something failed: the next jump is asked about
        if again:
            self._ask(symbol)
        if not overtaken:
            await self._settle(symbol, bar, held, watched)

    def _watched(self, symbol: str) -> list[Position]:
        open_now = sorted(self._engine.positions.values(), key=lambda p: (p.opened_at, p.position_id))
        return [p for p in open_now if p.symbol == symbol and p.state is State.MONITORING]

    async def _settle(self, symbol: str, bar: Bar, held: Read, watched: list[Position]) -> None:
        """What the broker's answer means for a bar that jumped."""
        row = next((row for row in held.rows if same_symbol(row.symbol, symbol)), None)
        beside = {q.position_id: q for p in watched for q in self._engine.beside(p) if q not in watched}
        jump = holdings.Jumped(
            bar=bar,
            price_before=self._engine.last_price(symbol),
            row=row,
            watched=tuple(watched),
            beside=tuple(beside.values()),
            ratio_max=self._guard.max_jump_ratio,
        )
        meaning = holdings.meaning_of(jump)
        if meaning is Meaning.SPLIT:
            reads = [(p.position_id, self._read_of(p, held)) for p in watched]

            def rebased() -> None:
                # At once, or a bar in between would be held against the levels of before.
                self._engine.tell_all(reads)
                self._engine.rebase(symbol, bar)

            await self._mailbox.run(rebased)
        elif meaning is Meaning.REAL:
            await self._mailbox.bars([bar], confirmed=True)
        else:
            await self._mailbox.run(lambda: self._engine.on_bar(bar, received_at=self._clock.now()))

    def _read_of(self, p: Position, held: Read) -> PositionRead:
        net, entry = self._view.net_of(p, held)
        return PositionRead(
            at=self._time.now(),
            began=self._view.at(p, held.began),
            qty=net,
            avg_entry_price=entry,
            reads=READS_MIN,
            known=holdings.known(p),
        )
