"""The people of a simulated day: the bot that enters, and the person who looks after alarms."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from exitfsm.lifecycle import State
from exitfsm.position import Position
from exitfsm.values import ZERO, Side, plain
from simulation.faults import Faults
from simulation.loop import World
from simulation.process import Process
from simulation.trace import Trace
from simulation.venue import LATE_MAX_S as LATE_FILL_MAX_S
from simulation.venue import Venue
from simulation.wire import LATE_MAX_S

#: How long a person waits before clearing up: longer than anything may still be under way.
WAITS_S = LATE_MAX_S + LATE_FILL_MAX_S + 30
#: How likely a person sells a part of something, each time he looks, on days that sell in parts.
PART_CHANCE = 0.15


class _Somebody:
    """Where the people of a day are, and what they have to do with."""

    def __init__(
        self,
        world: World,
        venue: Venue,
        faults: Faults,
        trace: Trace,
        rng: random.Random,
        processes: Sequence[Process],
    ) -> None:
        self.world, self.venue, self.faults, self.trace, self.rng = world, venue, faults, trace, rng
        self.processes = processes


class Bot(_Somebody):
    """Enters what is flat, where the manager lets it.

    Args:
        sides: on which side each symbol is entered.
        spread: lets the venue's news go out.
        in_parts: an entry may be filled in parts.
        watches: it names its positions to the manager itself.
    """

    def __init__(
        self, *around: Any, sides: Mapping[str, Side], spread: Callable[[], None], in_parts: bool, watches: bool
    ) -> None:
        super().__init__(*around)
        self.sides = sides
        self._spread, self._in_parts, self._watches = spread, in_parts, watches
        self._entered: set[str] = set()

    def enter_what_is_flat(self) -> None:
        """Look at every symbol once."""
        process = self.processes[0]
        if not process.up:
            process = self.processes[-1]
        manager = process.manager
        if manager is None or not process.up or not self.venue.is_open:
            return
        rng = self.rng
        exiting = {p.symbol for p in manager.positions() if p.state.exiting}
        for symbol in self.sides:
            held = self.venue.held(symbol) if not self.venue.is_flat(symbol) else ZERO
            if self.venue.halted.get(symbol, 0.0) > self.world.time:
                continue
            if held != 0 and manager.may_enter(symbol) and self.faults.happens("more bought", 28, symbol):
                self._enter(process, symbol, Decimal(rng.randint(1, 10)))
            elif held != 0 and symbol in exiting and self.faults.happens("bought during an exit", 28, symbol):
                self._enter(process, symbol, Decimal(rng.randint(1, 20)))
            elif held == 0 and rng.random() < 0.9 and manager.may_enter(symbol) and not self._working(symbol):
                if symbol in self._entered:
                    self.faults.seen(33)
                self._entered.add(symbol)
                self._enter(process, symbol, Decimal(rng.randint(1, 60)))

    def _working(self, symbol: str) -> bool:
        return any(b.order.symbol == symbol for b in self.venue.working())

    def _enter(self, process: Process, symbol: str, qty: Decimal) -> None:
        venue = self.venue
        held = venue.held(symbol)
        side = self.sides[symbol] if held == 0 else Side.LONG if held > 0 else Side.SHORT
        order = venue.place(symbol, "buy" if side is Side.LONG else "sell", qty, tell=False)
        self.trace("bot", f"enters {side} {plain(qty)} {symbol}")
        if qty > 5 and self.rng.random() < 0.1 and self._in_parts:
            venue.fill(order, qty // 2)
            self.world.after(self.rng.uniform(0.1, 5), self._rest_of_entry, order.client_order_id)
        else:
            venue.fill(order)
        if self._watches and process.manager is not None:
            opened = (symbol, side, abs(venue.held(symbol) - held), venue.prices[symbol], venue.now())
            process.command(process.manager.watch, *opened)
        self._spread()

    def _rest_of_entry(self, client_order_id: str) -> None:
        booked = self.venue.booked(client_order_id)
        if booked is not None and booked.live and self.venue.is_open:
            self.venue.fill(booked.order)
            self._spread()


class Person(_Somebody):
    """Acknowledges alarms, and clears up what waits for a person, once nothing can be under way any more."""

    def __init__(self, *around: Any, symbols: Sequence[str], trades: bool) -> None:
        super().__init__(*around)
        self.symbols, self._trades = symbols, trades
        self._noticed: dict[str, float] = {}
        #: On days that sell in parts: draws whether a person sells a part by hand.
        self.parts: random.Random | None = None

    def look(self) -> None:
        """Now, and every twenty seconds from now on."""
        self.world.after(20.0, self.look)
        if not self.faults.on:
            return
        process = self.processes[0] if self.processes[0].up else self.processes[-1]
        manager = process.manager
        if manager is None or not process.up:
            return
        now, rng = self.world.time, self.rng
        for alarm in manager.alarms():
            if rng.random() < 0.3:
                process.command(manager.acknowledge, alarm)
        waiting = {p.symbol: p for p in manager.positions() if p.state is State.UNPROTECTED}
        watched = {p.symbol for p in manager.positions()}
        for symbol in self.symbols:
            held = self.venue.held(symbol)
            if symbol not in waiting and (self.venue.is_flat(symbol) or symbol in watched):
                self._noticed.pop(symbol, None)
                continue
            if now - self._noticed.setdefault(symbol, now) < WAITS_S:
                continue
            del self._noticed[symbol]
            self._clear_up(process, symbol, waiting.get(symbol), held)
        if rng.random() < 0.01:
            self._force(process, rng.choice(self.symbols))
        if self._trades and self.parts is not None and self.parts.random() < PART_CHANCE:
            self._sell_part(process, self.parts)

    def _sell_part(self, process: Process, rng: random.Random) -> None:
        manager = process.manager
        assert manager is not None
        if whole := [p for p in manager.positions() if p.state is State.MONITORING and p.remaining_qty >= 2]:
            p = rng.choice(whole)
            qty = rng.randint(1, int(p.remaining_qty) - 1)
            self.trace("person", f"sells {qty} of {p.position_id}")
            process.command(partial(manager.force_exit, qty=qty), p.symbol, "a part")

    def _clear_up(self, process: Process, symbol: str, p: Position | None, held: Decimal) -> None:
        manager, rng = process.manager, self.rng
        assert manager is not None
        if p is None or (self._trades and held != 0 and rng.random() < 0.3):
            if self._trades and held != 0 and not self.venue.live_exits(symbol) and self.venue.others_may_trade(symbol):
                self.venue.by_hand(symbol, abs(held))
        elif rng.random() < 0.5:
            self.trace("person", f"releases {p.position_id}")
            process.command(manager.release, p)
        else:
            self._force(process, symbol)

    def _force(self, process: Process, symbol: str) -> None:
        """Force an exit; where the alarm asks to look at the broker before it is said again, do so."""
        manager = process.manager
        assert manager is not None
        refused = any(alarm.kind == "not_done" for p in manager.positions() if p.symbol == symbol for alarm in p.alarms)
        if refused and self.venue.live_exits(symbol):
            self.trace("person", f"does not force {symbol}: an exit order works at the broker")
            return
        self.trace("person", f"forces {symbol}")
        process.command(manager.force_exit, symbol, "a person")
