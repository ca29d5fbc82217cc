"""The pause of a manager: it counts at once, and is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import datetime

from exitfsm.aio.loops import Begun, Loop, running
from exitfsm.engine import Engine
from exitfsm.events import Event, TradingPaused, TradingResumed


class Pausable:
    """What of a manager pauses it."""

    _loop: Loop | None

    @property
    def _engine(self) -> Engine:
        """The engine that is paused."""
        raise NotImplementedError

    def _record(self, event: Event) -> asyncio.Task[None]:
        """Record a fact about the account."""
        raise NotImplementedError

    def _now(self) -> datetime:
        """The time."""
        raise NotImplementedError

    def pause(self, who: str = "operator", why: str = "") -> Awaitable[None]:
        """No new triggers and no entries, at once; exits under way go on. Await it to know that it is durable."""
        running(self._loop)
        self._engine.pause()

        def begin() -> asyncio.Task[None]:
            self._engine.pause()  # again, in the order in which it is recorded
            return self._record(TradingPaused(by=who, at=self._now(), why=why))

        return Begun(self._loop, begin)

    def resume(self, who: str = "operator") -> Awaitable[None]:
        """End the pause. Await it to know that it is durable."""

        def begin() -> asyncio.Task[None]:
            self._engine.resume()
            return self._record(TradingResumed(by=who, at=self._now()))

        return Begun(self._loop, begin)
