"""The armed prices of every position: what makes a quiet bar cheap.

For each symbol there is one band of floats. A bar whose lowest and highest price lie strictly inside it can change
nothing for any position of the symbol: no level is breached, no stop moves, no price is beyond belief. That is two
comparisons, whatever else is held. Everything outside is decided exactly, on decimals, by `position.decide`; the band
may be too narrow (it then wakes for nothing), never too wide.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from exitfsm.lifecycle import State
from exitfsm.position import Position, wake_band
from exitfsm.values import Bar

_NEVER = datetime.max.replace(tzinfo=UTC)
_BEFORE = datetime.min.replace(tzinfo=UTC)
#: The jump guard as a band round an anchor is narrowed by this, so that rounding can only wake too early.
_NARROWER = 1 - 1e-9


class Slot:
    """All that concerns one symbol's bars.

    Attributes:
        lower, upper: the quiet band; NaN wakes for every bar.
        until: when time alone wakes the symbol.
        busy: a position of the symbol is on its way out, so that time and the broker matter to it.
        max_age: how old a bar may be when it arrives, where age counts.
        last_at: timestamp of the last accepted bar.
        reference: the last accepted price as given with a position, until a bar brings a newer one.
        last_bar: the last accepted bar.
        highest: highest price seen since the oldest position opened, for the read model.
        positions: the open positions of the symbol.
    """

    __slots__ = (
        "busy",
        "highest",
        "last_at",
        "last_bar",
        "lower",
        "max_age",
        "positions",
        "reference",
        "symbol",
        "until",
        "upper",
    )

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.lower = math.nan
        self.upper = math.nan
        self.until = _NEVER
        self.busy = False
        self.max_age = timedelta.max
        self.last_at = _BEFORE
        self.reference: Decimal | None = None
        self.last_bar: Bar | None = None
        self.highest = -math.inf
        self.positions: dict[str, Position] = {}

    @property
    def reference_price(self) -> Decimal | None:
        """The last accepted price; None before there is one."""
        return self.last_bar.close if self.last_bar is not None else self.reference

    @property
    def previous_at(self) -> datetime | None:
        """Timestamp of the last accepted bar; None before there is one."""
        return self.last_at if self.last_at is not _BEFORE else None

    def accept(self, bar: Bar) -> None:
        """`bar` is the newest that is believed."""
        self.last_bar = bar
        self.last_at = bar.timestamp
        self.highest = max(self.highest, bar.ceiling)

    def arm(self) -> None:
        """Compute the band anew from the positions, the time and the last accepted price."""
        at = self.previous_at or min((p.opened_at for p in self.positions.values()), default=_BEFORE)
        lower, upper, until = -math.inf, math.inf, _NEVER
        guard_ratio: Decimal | None = None
        self.busy = any(p.state is not State.MONITORING for p in self.positions.values())
        self.max_age = min(
            (timedelta(seconds=p.policy.price_guard.max_age_seconds) for p in self.positions.values()),
            default=timedelta.max,
        )
        for p in self.positions.values():
            band = wake_band(p, at)
            if band is None:
                self.lower = self.upper = math.nan
                return
            if band.lower is not None:
                lower = max(lower, float(band.lower))
            if band.upper is not None:
                upper = min(upper, float(band.upper))
            if band.until is not None:
                until = min(until, band.until)
            guard = p.policy.price_guard
            if guard.enabled and (guard_ratio is None or guard.max_jump_ratio < guard_ratio):
                guard_ratio = guard.max_jump_ratio
        if guard_ratio is not None:
            reference = self.reference_price
            if reference is None:
                self.lower = self.upper = math.nan
                return
            # Two prices within a factor of sqrt(ratio) of one anchor are within ratio of each other.
            reach = math.sqrt(float(guard_ratio)) * _NARROWER
            lower, upper = max(lower, float(reference) / reach), min(upper, float(reference) * reach)
        self.lower, self.upper, self.until = lower, upper, until


class Levels:
    """The slots of all symbols in which something is open."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}

    def put(self, p: Position, *, reference: Decimal | None = None, bar: Bar | None = None) -> None:
        """Arm a position: a new one (with the price or the bar it starts from), or one that changed.

        A terminal position is taken out, and its symbol with it when it was the last.
        """
        if p.state.terminal:
            self.drop(p)
            return
        slot = self.slots.get(p.symbol)
        if slot is None:
            slot = self.slots[p.symbol] = Slot(p.symbol)
        if bar is not None:
            slot.accept(bar)
        elif reference is not None and slot.last_bar is None:
            slot.reference = reference
        slot.positions[p.position_id] = p
        slot.arm()

    def restore(self, p: Position, *, reference: Decimal | None, seen_at: datetime | None) -> None:
        """Take an open position up again after a restart. Its symbol is not armed: the first bar wakes it, and arms it.

        Args:
            p: the position.
            reference: the last known price of its symbol, where there is one.
            seen_at: up to when bars were looked at: they must not meet what came of them once more.
        """
        slot = self.slots.get(p.symbol)
        if slot is None:
            slot = self.slots[p.symbol] = Slot(p.symbol)
        slot.lower = slot.upper = math.nan
        slot.busy = slot.busy or p.state is not State.MONITORING
        if reference is not None and slot.last_bar is None:
            slot.reference = reference
        for at in (p.stop_moved_at, seen_at):
            if at is not None and at > slot.last_at:
                slot.last_at = at
        slot.positions[p.position_id] = p

    def drop(self, p: Position) -> None:
        """Forget a position."""
        slot = self.slots.get(p.symbol)
        if slot is None:
            return
        slot.positions.pop(p.position_id, None)
        if slot.positions:
            slot.arm()
        else:
            del self.slots[p.symbol]

    def watched(self, symbol: str) -> bool:
        """True when a position of the symbol is monitored."""
        slot = self.slots.get(symbol)
        return slot is not None and any(p.state is State.MONITORING for p in slot.positions.values())
