"""One task for each key that has something to do, so that a slow answer about one never delays another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

#: Steps that one task takes in a row before it leaves the rest to whoever drives it: a bound on any loop.
STEPS_MAX = 25
#: The longest pause before the same thing is tried again.
PAUSE_MAX_S = 30.0


class Workers:
    """Tasks that take step after step until nothing is left to do, or nothing moves.

    What did not move is left alone for a pause that grows; `drive` begins it anew.

    Args:
        step: takes one step for a key, and raises nothing; None when nothing is left to do, else whether something
            moved.
        begins, ended: a key is worked on, and no longer.
        monotonic: the present, in seconds.
        pause_s: the first pause.
    """

    def __init__(
        self,
        step: Callable[[str], Awaitable[bool | None]],
        *,
        begins: Callable[[str], None],
        ended: Callable[[str], None],
        monotonic: Callable[[], float],
        pause_s: float,
    ) -> None:
        self._step, self._begins, self._ended = step, begins, ended
        self._monotonic, self._pause_s = monotonic, pause_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        #: Until when each key is left alone, in monotonic seconds, and how long that pause is.
        self._pauses: dict[str, tuple[float, float]] = {}

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is being worked on."""
        return list(self._tasks.values())

    def drive(self, keys: Iterable[str], *, now: bool = True) -> None:
        """See to it that these are worked on; `now` does not wait for a pause to end."""
        for key in keys:
            if now:
                self._pauses.pop(key, None)
            elif self._monotonic() < self._pauses.get(key, (0.0, 0.0))[0]:
                continue
            if key not in self._tasks:
                self._begins(key)  # all of these, before the first of their tasks runs
                task = self._tasks[key] = asyncio.create_task(self._work(key), name=f"exitfsm-{key}")
                task.add_done_callback(partial(self._end, key))

    def _end(self, key: str, _: asyncio.Task[None]) -> None:
        self._tasks.pop(key, None)
        self._ended(key)

    async def wait(self, seconds: float) -> None:
        """Until all that is being worked on is done, but no longer than this."""
        if self._tasks:
            await asyncio.wait(self.tasks, timeout=seconds)

    async def close(self, wait_s: float) -> None:
        """Take no more steps; let those that are under way come back, within reason; then give up."""
        self._closing = True
        await self.wait(wait_s)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def forget(self, key: str) -> None:
        """Nothing will be left to do for a key."""
        self._pauses.pop(key, None)

    async def _work(self, key: str) -> None:
        for _ in range(STEPS_MAX):
            if self._closing:
                return
            moved = await self._step(key)
            if moved is None:
                self._pauses.pop(key, None)
                return
            if not moved:
                break
        pause = min(self._pauses.get(key, (0.0, self._pause_s / 2))[1] * 2, PAUSE_MAX_S)
        self._pauses[key] = (self._monotonic() + pause, pause)
