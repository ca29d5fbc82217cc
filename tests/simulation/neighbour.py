"""Another bot on the same account, which trades symbols of its own: what it holds is to be left alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from exitfsm.values import OrderSide
from simulation.faults import Faults
from simulation.loop import World
from simulation.trace import Trace
from simulation.venue import Venue

#: What it trades, and how its order ids begin.
SYMBOLS = ("N00", "N01", "N02")
PREFIX = "two-"
#: How likely it enters what is flat, at each bar, and closes what it holds; and how long its orders work.
ENTERS, CLOSES, WORKS_S = 0.3, 0.15, (0.1, 15.0)


class Neighbour:
    """The other bot.

    Args:
        rng: for nothing but this.
        fail: told of what does not hold.
        lives_here: False on days without it.

    Attributes:
        symbols: what it trades.
    """

    def __init__(
        self,
        world: World,
        venue: Venue,
        faults: Faults,
        trace: Trace,
        rng: random.Random,
        fail: Callable[[str, str], None],
        *,
        lives_here: bool,
    ) -> None:
        self._world, self._venue, self._faults, self._trace, self._rng = world, venue, faults, trace, rng
        self._fail = fail
        self.symbols = list(SYMBOLS) if lives_here else []
        self.checks: Counter[str] = Counter()
        self._count = 0
        for symbol in self.symbols:
            venue.price(symbol, 100)

    def minute(self) -> None:
        """At a bar it may trade."""
        for symbol in self.symbols:
            held, busy = self._venue.held(symbol), any(b.order.symbol == symbol for b in self._venue.working())
            if busy or not self._venue.is_open or not self._faults.on:
                continue
            if held == 0 and self._rng.random() < ENTERS:
                side = self._rng.choice((OrderSide.BUY, OrderSide.SELL))
                self._trade(symbol, side, Decimal(self._rng.randint(1, 90)))
            elif held != 0 and self._rng.random() < CLOSES:
                self._trade(symbol, OrderSide.SELL if held > 0 else OrderSide.BUY, abs(held))

    def _trade(self, symbol: str, side: OrderSide, qty: Decimal) -> None:
        self._count += 1
        order = self._venue.place(symbol, side, qty, client_order_id=f"{PREFIX}{self._count}")
        self._faults.count("a trade of another bot")
        self._trace("another", f"sends {side} {qty} {symbol}")
        self._venue.on_updates()
        self._world.after(self._rng.uniform(*WORKS_S), self._filled, order.client_order_id)

    def _filled(self, client_order_id: str) -> None:
        booked = self._venue.booked(client_order_id)
        if booked is not None and booked.live:
            self._venue.fill(booked.order)
            self._venue.on_updates()

    def check(self, symbol: str, what: str) -> None:
        """What is watched, or sold, is none of its own."""
        self.checks["I41"] += bool(self.symbols)
        if symbol in self.symbols:
            self._fail("I41", f"{symbol} is another bot's, and {what}")
