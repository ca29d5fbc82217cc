"""The account's own stream: the pause, the breaker, and alarms that concern no single position.

A restart finds them as they were. Everything here runs in the writer's thread; but its cooldowns, once they are read,
are the event loop's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from exitfsm.choices import NO_CHOICES, chosen
from exitfsm.errors import VersionConflict
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    BreakerClosed,
    BreakerOpened,
    Event,
    Recorded,
    TradingPaused,
    TradingResumed,
)
from exitfsm.position import BY_ITSELF, Position
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.store import ExitStore
from exitfsm.values import Alarm, Side


class Account:
    """The account as its stream has it."""

    def __init__(self, store: ExitStore, account: str) -> None:
        self._store = store
        self.stream_id = f"{ACCOUNT_PREFIX}{account}"
        self._version = 0
        self.paused = False
        self.breaker_open = False
        #: What a person has said of the scope; exchanged whole, so that any thread may read it.
        self.choices = NO_CHOICES
        self.alarms: dict[str, Alarm] = {}
        #: How many of them are active with each kind and text.
        self._said: Counter[tuple[str, str]] = Counter()
        #: Until when symbols are not to be entered, by symbol and side.
        self._cooldowns: dict[tuple[str, Side], datetime] = {}

    def restore(self, at: datetime) -> None:
        """All that the store knows."""
        self.load()
        self._cooldowns.update(self._store.cooldowns_of_sides(at))

    def cools_down(self, p: Position) -> None:
        """A position has ended: its symbol cools down."""
        if p.cooldown_until is not None:
            key = (p.symbol, p.side)
            self._cooldowns[key] = max(p.cooldown_until, self._cooldowns.get(key, p.cooldown_until))

    def cooling(self, side: Side | str | None) -> dict[str, datetime]:
        """Until when symbols are not to be entered on a side; on either where it is None."""
        found: dict[str, datetime] = {}
        for (symbol, of), until in list(self._cooldowns.items()):
            if side in (None, of):
                found[symbol] = max(until, found.get(symbol, until))
        return found

    def load(self) -> None:
        """Fold the stream as far as it goes."""
        for recorded in self._store.stream(self.stream_id, self._version):
            self._fold(recorded.event)
            self._version = recorded.version

    def _fold(self, event: Event) -> None:
        self.choices = chosen(self.choices, event)
        match event:
            case TradingPaused():
                self.paused = True
            case TradingResumed():
                self.paused = False
            case BreakerOpened():
                self.breaker_open = True
            case BreakerClosed():
                self.breaker_open = False
            case AlarmRaised():
                self._take_down(event.alarm_id)
                self._said[event.kind, event.text] += 1
                self.alarms[event.alarm_id] = Alarm(
                    alarm_id=event.alarm_id, kind=event.kind, text=event.text, raised_at=event.at
                )
            case AlarmAcknowledged():
                self._take_down(event.alarm_id)

    def _take_down(self, alarm_id: str) -> None:
        alarm = self.alarms.pop(alarm_id, None)
        if alarm is not None:
            self._said[alarm.kind, alarm.text] -= 1
            if not self._said[alarm.kind, alarm.text]:
                del self._said[alarm.kind, alarm.text]

    def record(self, event: Event, *, at: datetime, by: str) -> Sequence[Recorded]:
        """Append one fact and fold it."""
        while True:
            try:
                recorded = self._store.append(self.stream_id, self._version, [event], at=at, by=by)
            except VersionConflict:
                self.load()
                continue
            self._version += 1
            self._fold(event)
            return recorded

    def raise_alarm(self, kind: str, text: str, *, at: datetime) -> Sequence[Recorded]:
        """Put up an alarm, unless the same is active."""
        if (kind, text) in self._said:
            return ()
        alarm_id = f"{self.stream_id}/{kind}/{self._version + 1}"
        return self.record(AlarmRaised(alarm_id=alarm_id, kind=kind, text=text, at=at), at=at, by="reconcile")

    def acknowledge(self, alarm_id: str, *, at: datetime, who: str) -> Sequence[Recorded]:
        """Take an alarm down; one that is not active is left alone."""
        if alarm_id not in self.alarms:
            return ()
        return self.record(AlarmAcknowledged(alarm_id=alarm_id, by=who, at=at), at=at, by="operator")

    def ended(self, alarm_id: str, *, at: datetime, why: str) -> Sequence[Recorded]:
        """An alarm is over by itself; one that is not active is left alone."""
        if alarm_id not in self.alarms:
            return ()
        over = AlarmAcknowledged(alarm_id=alarm_id, by=BY_ITSELF, at=at, why=why)
        return self.record(over, at=at, by="reconcile")
