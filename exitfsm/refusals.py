"""Runs of refused bars: each is told of as one, with its length, and not bar by bar."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec.structs import replace

from exitfsm.lifecycle import State
from exitfsm.messages import BarSeen
from exitfsm.policy import Fault
from exitfsm.position import Position, fault_of
from exitfsm.values import Bar, EvaluateOn


class Refused(msgspec.Struct, frozen=True):
    """A run of bars of one symbol that were not believed while a position was open."""

    symbol: str
    reason: str
    price: str
    first_at: datetime
    last_at: datetime
    count: int
    position_id: str


class Refusals:
    """The runs since the start: those under way, at most one for each position, and those that are over."""

    def __init__(self) -> None:
        self._under_way: dict[str, Refused] = {}
        self._over: list[Refused] = []

    def length(self, position_id: str) -> int:
        """How many bars in a row a position has refused by now."""
        run = self._under_way.get(position_id)
        return run.count if run is not None else 0

    def note(self, before: Position, p: Position, fault: Fault | None, told: BarSeen) -> None:
        """A bar was told to a position; `before` and `p` are what it was and is, `fault` why its symbol refused it."""
        own = fault
        reason: str | None = fault.reason if fault is not None else None
        if before.state is State.MONITORING:  # what the symbol's others refused, it may have believed
            # Only by its range can a position refuse a bar that its symbol as a whole does not.
            asked = fault is not None or before.policy.evaluate_on is EvaluateOn.RANGE
            own = fault_of(before, told) if asked else None
            reason = own.reason if own is not None else p.refusing if p.refusing in ("paused", "disabled") else None
            if p.refusing is None:
                self.end(p.position_id)
        if reason is not None:
            self._count(p, reason, own.price if own is not None else str(told.bar.close), told.bar)

    def _count(self, p: Position, reason: str, price: str, bar: Bar) -> None:
        run = self._under_way.get(p.position_id)
        if run is not None and run.reason == reason:
            self._under_way[p.position_id] = replace(run, last_at=bar.timestamp, count=run.count + 1)
            return
        self.end(p.position_id)
        at = bar.timestamp
        self._under_way[p.position_id] = Refused(p.symbol, reason, price, at, at, 1, p.position_id)

    def end(self, position_id: str) -> None:
        """The run of a position is over, where there is one."""
        run = self._under_way.pop(position_id, None)
        if run is not None:
            self._over.append(run)

    def all(self) -> list[Refused]:
        """All runs, those under way included, in order of their first bar."""
        return sorted([*self._over, *self._under_way.values()], key=lambda run: (run.first_at, run.symbol))
