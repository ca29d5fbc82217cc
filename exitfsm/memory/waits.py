"""The time of a position's waits: as long as they were meant to be, whatever a clock was set to meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

from exitfsm import holdings
from exitfsm.clocks import SteadyTime
from exitfsm.holdings import NEVER
from exitfsm.lifecycle import State
from exitfsm.ports import Capabilities
from exitfsm.position import Position

#: State, order, what of it filled, and since when by the record.
Wait = tuple[State, str | None, Decimal, datetime | None]


class Waits:
    """When it is for what a position waits for.

    Args:
        time: the present.
        broker: for how long fills may follow a cancel.
    """

    def __init__(self, time: SteadyTime, broker: Capabilities) -> None:
        self._time, self._broker = time, broker
        #: When a wait was first seen whose record lies ahead of the clock, in monotonic seconds.
        self._ahead: dict[tuple[str, datetime], float] = {}
        #: When no fill can follow each canceled order any more, in monotonic seconds: no clock that is set moves it.
        self._settled: dict[tuple[str, datetime | None], float] = {}
        #: What each position waits for, and since when by our own watch: that of bars and brokers may be wrong.
        self._begun: dict[str, tuple[Wait, float]] = {}
        self._is_restored = True

    def now(self, p: Position) -> datetime:
        """The present as the waits of a position see it.

        Where its record lies ahead of the clock, because the clock was set back before a restart, its time goes on from
        there: a wait is as long as it was meant to be, whatever the clock says.
        """
        now, began = self._time.now(), holdings.wait_began(p, self._broker)
        if began is None:
            return now
        mono, key = self._time.monotonic(), (p.position_id, began)
        if began > now:
            self._ahead.setdefault(key, mono)
        seen = self._ahead.get(key)
        # Once ahead, it stays ahead: when the clock comes to where the wait began, its time must not go back.
        return now if seen is None else max(now, began + timedelta(seconds=mono - seen))

    def at(self, p: Position, monotonic: float) -> datetime:
        """A moment of which the monotonic time is known, as the waits of a position see it.

        Before the time in which fills may follow a cancel has really passed, it lies before the next attempt, whatever
        the clock was set to meanwhile.
        """
        moment = self.now(p) - timedelta(seconds=self._time.monotonic() - monotonic)
        if p.next_attempt_at is None or monotonic >= (settled := self.settled(p)):
            return moment
        return min(moment, p.next_attempt_at - timedelta(seconds=settled - monotonic))

    def begin(self, waiting: Iterable[Position]) -> None:
        """See what these wait for. A wait from before a restart is as old as its record says, and so long enough."""
        before, now = self._begun, NEVER if self._is_restored else self._time.monotonic()
        self._begun = {}
        for p in waiting:
            wait = (p.state, p.client_order_id, p.filled_qty, p.waiting_since)
            known = before.get(p.position_id)
            self._begun[p.position_id] = known if known is not None and known[0] == wait else (wait, now)

    def watched(self) -> None:
        """All waits from before the restart were seen."""
        self._is_restored = False

    def began(self, p: Position) -> float:
        """Since when a position waits for what it waits for, in monotonic seconds."""
        return self._begun[p.position_id][1]

    def settled(self, p: Position) -> float:
        """When no fill can follow a position's canceled order any more, in monotonic seconds from the first call on."""
        key = (p.position_id, p.next_attempt_at)
        if key not in self._settled:
            late_s = holdings.late_fills_s(p, self._broker, self.now(p))
            self._settled[key] = self._time.monotonic() + late_s
        return self._settled[key]

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._settled = {key: at for key, at in self._settled.items() if key[0] != p.position_id}
        self._ahead = {key: at for key, at in self._ahead.items() if key[0] != p.position_id}
