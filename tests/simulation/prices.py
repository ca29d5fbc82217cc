"""How prices are told on some days: bars that still form, bars of an hour, prices without bars, and prices at night.

Which symbols are told how follows from their numbers. A bar that forms comes in looks, each with what is new in it; of
a bar of an hour too, of which one look comes where a bar of other symbols does. Out of session a price decides nothing,
where the process has heard that the market is closed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from exitfsm.values import Bar
from simulation.faults import Faults
from simulation.loop import World
from simulation.oracle import Oracle
from simulation.process import Process
from simulation.profile import in_parts
from simulation.trace import Trace
from simulation.venue import Venue

#: When after its first look the later ones of a bar come, in seconds.
LOOKS_S = (5.0, 10.0, 15.0)
#: How likely a look comes again after a later one; and the same look twice.
AGAIN_CHANCE = 0.03
#: So much below, and above, the price are bid and ask.
SPREAD = Decimal("0.01")
#: How far prices at night are from those of the day: every stop and every target is reached.
AWAY = (Decimal("0.94"), Decimal("1.06"))
_CENT = Decimal("0.01")


class Kinds(NamedTuple):
    """The symbols whose prices come in looks, in bars of an hour, and without bars."""

    looks: frozenset[str] = frozenset()
    hours: frozenset[str] = frozenset()
    quotes: frozenset[str] = frozenset()


def kinds(symbols: Sequence[str], *, looks: bool, hours: bool, quotes: bool) -> Kinds:
    """How each symbol of a day is told: one of four in each of these ways, where the day has that way."""
    of = [
        frozenset(s for n, s in enumerate(symbols) if is_on and n % 4 == way)
        for way, is_on in enumerate((looks, hours, quotes), start=1)
    ]
    return Kinds(*of)


class _Forming(NamedTuple):
    """A bar so far."""

    label: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    looks: int


class Tape:
    """Tells the prices of one day that are told in other ways than by bars of a minute.

    Args:
        rng: for nothing but this.
        processes: to whom they are told.
    """

    def __init__(
        self,
        kinds: Kinds,
        world: World,
        venue: Venue,
        faults: Faults,
        trace: Trace,
        oracle: Oracle,
        rng: random.Random,
        processes: Sequence[Process],
    ) -> None:
        self.kinds, self._world, self._venue, self._faults, self._trace = kinds, world, venue, faults, trace
        self._oracle, self._rng, self._processes = oracle, rng, processes
        self._others = kinds.looks | kinds.hours | kinds.quotes
        self._forming: dict[str, _Forming] = {}
        self._count = 0

    def tells(self, symbol: str) -> bool:
        """True for a symbol whose prices come in another way than as bars of a minute."""
        return symbol in self._others

    def tell(self, moves: Sequence[tuple[str, Decimal, Decimal]]) -> None:
        """These prices move now, from one to the other."""
        hours = [self._look(symbol, close, self._hour()) for symbol, _, close in moves if symbol in self.kinds.hours]
        if hours:
            self._faults.count("a look at a bar of an hour")
            self._feed(hours)
        for symbol, _, close in moves:
            if symbol in self.kinds.quotes:
                self._quote(symbol, close)
        looked_at = [move for move in moves if move[0] in self.kinds.looks]
        if looked_at:
            label = self._venue.now()
            for symbol, before, _ in looked_at:
                self._venue.price(symbol, before)
            self._look_at(label, looked_at, 0)
            for n, seconds in enumerate(LOOKS_S, start=1):
                self._world.after(seconds, self._look_at, label, looked_at, n)

    # --- bars that form -----------------------------------------------------------------------------------------------

    def _look_at(self, label: datetime, moves: Sequence[tuple[str, Decimal, Decimal]], n: int) -> None:
        if not self._faults.on or not self._venue.is_open:
            return
        bars = []
        for symbol, before, close in moves:
            price = (before + (close - before) * n / len(LOOKS_S)).quantize(_CENT)
            held_before = self._venue.prices[symbol]
            if self._is_split(symbol, before, close, held_before):
                continue
            self._venue.price(symbol, price)
            bars.append(self._look(symbol, price, label))
            self._venue.on_price(symbol)
        self._faults.count("a look at a bar that forms")
        self._feed(bars)

    def _is_split(self, symbol: str, before: Decimal, close: Decimal, price: Decimal) -> bool:
        """True where the price is in another unit by now: then this bar is over."""
        return not min(before, close) - 1 <= price <= max(before, close) + 1

    def _look(self, symbol: str, price: Decimal, label: datetime) -> Bar:
        """One more look at the bar of this label."""
        was = self._forming.get(symbol)
        if was is None or was.label != label:
            was = _Forming(label, price, price, price, 0)
        now = self._forming[symbol] = _Forming(
            label, was.open, max(was.high, price), min(was.low, price), was.looks + 1
        )
        self._oracle.looks.setdefault((symbol, label), set()).add(price)
        return Bar(symbol, label, now.open, now.high, now.low, price, now.looks)

    def _hour(self) -> datetime:
        return self._venue.now().replace(minute=0, second=0, microsecond=0)

    def _feed(self, bars: Sequence[Bar]) -> None:
        again = [bar for bar in bars if self._faults.drawn(self._rng, "a look that comes again", AGAIN_CHANCE, 43)]
        for process in self._processes:
            self._world.after(self._rng.uniform(0.02, 0.3), process.feed, list(bars))
            if again:
                self._world.after(self._rng.uniform(0.4, 12), process.feed, again)

    # --- prices without bars ------------------------------------------------------------------------------------------

    def _quote(self, symbol: str, price: Decimal) -> None:
        bid, ask = price - SPREAD, price + SPREAD
        told = self._oracle.quotes.setdefault(symbol, set())
        sided = self._rng.random() < 0.5
        at = self._venue.now() if self._rng.random() < 0.5 else None
        told |= {bid, ask} if sided else {price}
        self._faults.count("a price without a bar")
        for process in self._processes:
            self._world.after(
                self._rng.uniform(0.02, 0.3), process.quote, symbol, None if sided else price,
                bid if sided else None, ask if sided else None, at,
            )  # fmt: skip

    # --- at night -----------------------------------------------------------------------------------------------------

    def at_night(self, symbols: Iterable[str]) -> None:
        """While the market is closed, prices come from elsewhere."""
        label, bars = self._venue.now(), []
        for symbol in symbols:
            if self._venue.held(symbol) == 0 or self.tells(symbol):
                continue
            close = (self._venue.prices[symbol] * self._rng.choice(AWAY)).quantize(_CENT)
            self._oracle.night[symbol, label] = close
            self._faults.count("a price out of session")
            bars.append(Bar(symbol, label, close, close, close, close))
        for process in self._processes:
            self._world.after(self._rng.uniform(0.02, 0.3), process.feed, bars)


def other_rules(config: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The configuration with another target, trail, break-even or time limit: what a person changes at a restart."""
    section, change = rng.choice(
        (
            ("profit_taking", {"threshold_pct": rng.choice((1.0, 2.0, 4.0))}),
            ("trailing_stop", {"enabled": rng.random() < 0.7, "trail_pct": rng.choice((0.5, 1.0, 2.0))}),
            ("break_even", {"enabled": rng.random() < 0.5}),
            ("time_limit", {"enabled": rng.random() < 0.5, "max_seconds": rng.choice((150, 600))}),
            ("stop_loss", {"threshold_pct": rng.choice((0.8, 1.5, 2.5))}),
        )
    )
    if section == "profit_taking" and "targets" in config:
        return {**config, "targets": in_parts(rng)}
    before = config.get(section, {})
    assert isinstance(before, dict)
    return {**config, section: {**before, **change}}
