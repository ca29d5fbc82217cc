"""Time in the shells: the system's clock, one that only moves when told, and a reading that never goes back."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

from exitfsm.ports import Clock


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Aware UTC time."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until it is moved: for paper runs on recorded bars, and for tests."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._elapsed = 0.0
        self._moved = asyncio.Event()

    def now(self) -> datetime:
        """The time it was moved to."""
        return self._now

    def monotonic(self) -> float:
        """Seconds it was moved forward in all."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Return once the clock has been moved this far."""
        until = self._elapsed + seconds
        while self._elapsed < until:
            await self._moved.wait()

    def move(self, seconds: float) -> None:
        """Let time pass; sleepers that are due wake up."""
        self._elapsed += seconds
        self.set(self._now + timedelta(seconds=seconds))

    def move_to(self, at: datetime) -> None:
        """Let time pass until `at`; earlier times are ignored."""
        if at > self._now:
            self.move((at - self._now).total_seconds())

    def set(self, at: datetime) -> None:
        """Set the wall clock alone, as a correction by hand or by the network would, also backward."""
        self._now = at
        self._moved.set()
        self._moved = asyncio.Event()


class SteadyTime:
    """Wall time that never goes back and does not jump with corrections: the start plus what really passed.

    Where the wall clock runs ahead of that (the machine slept), it is followed.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.now()
        self._began = clock.monotonic()

    def monotonic(self) -> float:
        """Seconds that never go back, for how old a fact is."""
        return self._clock.monotonic()

    def age(self, at: datetime) -> timedelta:
        """How long ago that was, by this time or by the clock, whichever says less: a clock that was ahead for a while
        and is right again leaves this time ahead.
        """
        return min(self.now(), self._clock.now()) - at

    def now(self) -> datetime:
        """The present, for records and for waits."""
        wall = self._clock.now()
        passed = self._start + timedelta(seconds=self._clock.monotonic() - self._began)
        if wall > passed:
            self._start += wall - passed
            return wall
        return passed
