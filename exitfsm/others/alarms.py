"""What people hear: alarms, the bot's callbacks, the log, and facts about the whole account.

Callbacks are guests: plain or async, and one that raises harms nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar

from exitfsm.account import Account
from exitfsm.aio.tasks import Tasks
from exitfsm.errors import StoreError
from exitfsm.events import AlarmAcknowledged, AlarmRaised, BreakerClosed, BreakerOpened, Event, Recorded
from exitfsm.kinds import EACH_NAMES_ITS_OWN
from exitfsm.messages import Acknowledge, Message
from exitfsm.outside import log
from exitfsm.position import Position
from exitfsm.store import ExitStore
from exitfsm.values import Alarm

R = TypeVar("R")
OnEvent = Callable[[Position | None, Recorded], Any]
OnAlarm = Callable[[Alarm], Any]


class Writes(Protocol):
    """The one way into the engine and the store."""

    async def tell(self, position_id: str, message: Message) -> None:
        """A message to a position; returns when what it meant is durable."""

    async def run(self, work: Callable[[], R]) -> R:
        """Have a function done in the writer's thread."""
        ...


class Alarms:
    """Who hears what."""

    def __init__(
        self,
        mailbox: Writes,
        account: Account,
        tasks: Tasks,
        now: Callable[[], datetime],
        callbacks: tuple[OnEvent | None, OnAlarm | None],
    ) -> None:
        self._mailbox, self._account, self._tasks, self._now = mailbox, account, tasks, now
        self._on_event, self._on_alarm = callbacks
        #: Each active alarm, with the stream of its events, by its id.
        self.active: dict[str, tuple[str, Alarm]] = {}

    def load(self, store: ExitStore) -> None:
        """In the writer's thread: the active alarms."""
        self.active.update({row.alarm_id: (row.stream_id, row.alarm) for row in store.alarms()})

    def remind(self) -> None:
        """Every active alarm, once more: at the start."""
        for _, alarm in list(self.active.values()):
            self._tasks.call(self._on_alarm, alarm)

    def announce(self, position: Position | None, recorded: Recorded) -> None:
        """One event, after it is durable."""
        event, stream = recorded.event, recorded.stream_id
        self.active.pop(f"{self._account.stream_id}/store_unwritable", None)  # it takes commits again
        log.info("event=%s stream=%s version=%s by=%s", type(event).__name__, stream, recorded.version, recorded.by)
        if isinstance(event, AlarmRaised):
            alarm = Alarm(alarm_id=event.alarm_id, kind=event.kind, text=event.text, raised_at=event.at)
            self.active[alarm.alarm_id] = (stream, alarm)
            log.error("alarm kind=%s text=%s", alarm.kind, alarm.text)
            self._tasks.call(self._on_alarm, alarm)
        elif isinstance(event, AlarmAcknowledged):
            self.active.pop(event.alarm_id, None)
        self._tasks.call(self._on_event, position, recorded)

    def alarm_without_store(self, kind: str, text: str) -> None:
        """An alarm that cannot be stored still reaches a person: the callback, and the list of alarms."""
        alarm = Alarm(alarm_id=f"{self._account.stream_id}/{kind}", kind=kind, text=text, raised_at=self._now())
        if alarm.alarm_id not in self.active:
            self.active[alarm.alarm_id] = (self._account.stream_id, alarm)
            self._tasks.call(self._on_alarm, alarm)

    async def raise_alarm(self, kind: str, text: str) -> None:
        """An alarm about the account."""
        now = self._now()
        await self._in_writer(lambda: self._account.raise_alarm(kind, text, at=now))

    async def keep_only(self, kinds: Collection[str], texts: Collection[str], why: str) -> None:
        """Alarms of these kinds about the account go on where their text is among these; the others are over."""
        for stream, alarm in list(self.active.values()):
            if stream == self._account.stream_id and alarm.kind in kinds and alarm.text not in texts:
                await self._in_writer(partial(self._account.ended, alarm.alarm_id, at=self._now(), why=why))

    def raise_soon(self, kind: str, text: str) -> None:
        """The same, without waiting for it; one of its kind that is active is enough, but where each names its own."""
        if kind in EACH_NAMES_ITS_OWN or not any(alarm.kind == kind for _, alarm in self.active.values()):
            self._tasks.write(self._raise_anyway(kind, text))

    async def _raise_anyway(self, kind: str, text: str) -> None:
        try:
            await self.raise_alarm(kind, text)
        except StoreError:
            self.alarm_without_store(kind, text)

    def record(self, event: Event) -> asyncio.Task[None]:
        """A fact about the account. Await it to know that it is durable."""
        at, by = self._now(), "broker" if isinstance(event, (BreakerOpened, BreakerClosed)) else "operator"
        return self._tasks.write(self._in_writer(lambda: self._account.record(event, at=at, by=by)))

    def acknowledge(self, alarm_id: str, who: str) -> asyncio.Task[None]:
        """Take an alarm down. Await it to know that it is durable."""
        if alarm_id not in self.active:
            raise ValueError(f"no alarm is active under the id {alarm_id!r}: it was taken down, or ended by itself")
        now, stream = self._now(), self.active[alarm_id][0]
        if stream != self._account.stream_id:
            return self._tasks.write(self._mailbox.tell(stream, Acknowledge(at=now, alarm_id=alarm_id, who=who)))
        if alarm_id not in self._account.alarms:
            self.active.pop(alarm_id, None)  # it could not be stored when it went up
        return self._tasks.write(self._in_writer(lambda: self._account.acknowledge(alarm_id, at=now, who=who)))

    async def _in_writer(self, work: Callable[[], Sequence[Recorded]]) -> None:
        for recorded in await self._mailbox.run(work):
            self.announce(None, recorded)
