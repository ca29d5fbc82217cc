"""Brings alarms to people, beside the manager: looks which are active, sends what is due, keeps what was sent.

All of it is in threads of its own, which end with the process. The one that looks never waits for a service nor for the
store: each send and each save is another thread's, and one of a kind is under way at a time. So a channel that hangs
holds up no other, and a store that hangs holds up no message.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Generic, TypeVar

from exitfsm.alerts import deciding, wording
from exitfsm.alerts.channels import SENDING, Channel, NotSent, open_channels
from exitfsm.alerts.deciding import Health, Message, Outbox
from exitfsm.config import AlertSettings
from exitfsm.outside import logger
from exitfsm.store import ExitStore
from exitfsm.values import Alarm

log = logger("exitfsm")
T = TypeVar("T")

#: How often it is looked which alarms are active, in seconds.
LOOK_S = 0.5
#: How long a stop waits for messages that are due, and how long a start waits for what was sent before.
FLUSH_S = 5.0
#: How long a send may take; then it counts as failed, and its thread is left to its fate.
STUCK_S = 60.0
#: How long after a save that failed it is tried again, in seconds.
SAVE_AGAIN_S = 10.0


class Job(Generic[T]):
    """One call in a thread of its own.

    Args:
        work: what is called.
        name: of the thread.
        done: called in that thread at the end.
    """

    def __init__(self, work: Callable[[], T], name: str, done: Callable[[], None]) -> None:
        self._work, self._done = work, done
        self.result: T | None = None
        self.error: Exception | None = None
        self._over = threading.Event()
        self._began = time.monotonic()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def is_over(self) -> bool:
        """True when it has ended."""
        return self._over.is_set()

    @property
    def is_stuck(self) -> bool:
        """True when it has taken longer than anything may."""
        return not self.is_over and time.monotonic() - self._began >= STUCK_S

    def wait(self, seconds: float) -> None:
        """Until it has ended, or a time has passed."""
        self._over.wait(seconds)

    def _run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:  # whoever asks for the result hears of it
            self.error = error
        finally:
            self._over.set()
            self._done()


class Alerting:
    """Sends alarms by the channels that are configured; does nothing where there are none.

    Args:
        settings: who is called, and when.
        active: the active alarms; called from another thread, again and again.
        now: the time; the system's when None.
        channels: what sends, by name; made of the settings when None.

    Raises:
        ConfigError: a channel cannot be made; see `open_channels`.
    """

    def __init__(
        self,
        settings: AlertSettings,
        active: Callable[[], Sequence[Alarm]],
        now: Callable[[], datetime] | None = None,
        channels: dict[str, Channel] | None = None,
    ) -> None:
        self._settings, self._active = settings, active
        self._channels = open_channels(settings) if channels is None else channels
        self._now = now or _utc_now
        self._life: _Life | None = None

    def begin(self, store: ExitStore) -> None:
        """Look and send from now on. What was sent before, the store knows."""
        if self._settings.channels and self._life is None:
            self._life = _Life(self._settings, self._active, self._now, self._channels, store)

    async def end(self) -> None:
        """Send what is due, as far as that takes a few seconds, and look no more."""
        life, self._life = self._life, None
        if life is not None:
            life.end()
            while not life.is_over:
                await asyncio.sleep(0.02)


class _Life:
    """From a begin to its end."""

    def __init__(
        self,
        settings: AlertSettings,
        active: Callable[[], Sequence[Alarm]],
        now: Callable[[], datetime],
        channels: dict[str, Channel],
        store: ExitStore,
    ) -> None:
        self._settings, self._active, self._now = settings, active, now
        self._channels, self._store = channels, store
        self._outbox: Outbox = {}
        self._saved: Outbox = self._outbox
        self._healths = {name: Health() for name in channels}
        self._sends: dict[str, tuple[Message, Job[None]]] = {}
        self._save: tuple[Outbox, Job[None]] | None = None
        self._save_from = 0.0
        self._ending, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="exitfsm-alerts", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Come to an end."""
        self._ending.set()
        self._wake.set()

    @property
    def is_over(self) -> bool:
        """True when it has."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._restore()
        while not self._ending.is_set():
            self._turn(hurry=False)
            self._wake.wait(LOOK_S)
            self._wake.clear()
        until = time.monotonic() + FLUSH_S
        while self._turn(hurry=True) and time.monotonic() < until:
            self._wake.wait(0.05)
            self._wake.clear()

    def _restore(self) -> None:
        """What was sent before this start. Where the store does not say it in time, what is active is sent again."""
        job = Job(self._store.outbox, "exitfsm-alerts-load", self._wake.set)
        job.wait(FLUSH_S)
        if job.is_over and job.error is None:
            self._outbox = self._saved = deciding.from_text(job.result or "")
        else:
            log.warning("alerts_not_restored error=%s", job.error or "no answer")

    def _turn(self, *, hurry: bool) -> bool:
        """Look once; True while something is under way."""
        try:
            now = self._now()
            self._hear_of_sends(now)
            alarms = [*self._active(), *deciding.alarms_of(self._healths)]
            self._outbox = deciding.noted(self._outbox, alarms, self._settings, now)
            self._send(now, hurry=hurry)
            self._keep()
        except Exception:
            log.exception("alerts_crashed")  # the next turn is another one
        return bool(self._sends) or self._save is not None

    def _send(self, now: datetime, *, hurry: bool) -> None:
        for channel in self._settings.channels:
            health = self._healths[channel.name]
            if channel.name in self._sends or not deciding.may_try(health, now):
                continue
            message = deciding.due(self._outbox, channel, self._settings, now, hurry=hurry)
            if message is not None:
                self._sends[channel.name] = (message, self._begin(message))

    def _begin(self, message: Message) -> Job[None]:
        channel = self._channels[message.channel]
        return Job(lambda: channel.send(message), f"{SENDING}{message.channel}", self._wake.set)

    def _hear_of_sends(self, now: datetime) -> None:
        for name, (message, job) in list(self._sends.items()):
            if not job.is_over and not job.is_stuck:
                continue
            del self._sends[name]
            if job.is_over and job.error is None:
                self._healths[name] = Health()
                self._outbox = deciding.delivered(self._outbox, message, now)
                log.info("alert_sent channel=%s kind=%s alarms=%s", name, message.kind, wording.ids(message.alarms))
                continue
            # Only our own words: those of another library may hold the address.
            why = _why(job.error)
            self._healths[name] = deciding.failed(self._healths[name], why, now)
            log.error("alert_failed channel=%s times=%s why=%s", name, self._healths[name].failures, why)

    def _keep(self) -> None:
        """Have the store keep what was sent, beside whatever else it does."""
        if self._save is not None:
            outbox, job = self._save
            if not job.is_over:
                return
            self._save = None
            if job.error is None:
                self._saved = outbox
            else:
                log.warning("alerts_not_kept error=%s", job.error)
                self._save_from = time.monotonic() + SAVE_AGAIN_S
        if self._outbox is not self._saved and time.monotonic() >= self._save_from:
            outbox = self._outbox
            self._save = (outbox, Job(lambda: self._store_now(outbox), "exitfsm-alerts-save", self._wake.set))

    def _store_now(self, outbox: Outbox) -> None:
        self._store.save_outbox(deciding.as_text(outbox))


def _why(error: Exception | None) -> str:
    if error is None:
        return f"no answer within {STUCK_S:g} s"
    return str(error) if isinstance(error, NotSent) else type(error).__name__


def _utc_now() -> datetime:
    return datetime.now(UTC)


__all__ = ["FLUSH_S", "LOOK_S", "Alerting"]
