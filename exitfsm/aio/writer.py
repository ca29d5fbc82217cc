"""One writer for many callers: what they put into its queue is done in one thread, in groups.

A single worker takes whatever is ready, has it done in the writer's thread, and answers each caller. The event loop
never waits for that thread, and no two threads do such work at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from exitfsm.errors import StoreError
from exitfsm.outside import logger

log = logger("exitfsm")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn of the worker brought: answers by the place in its queue, and each failure once."""

    results: dict[int, Any] = field(default_factory=dict)
    failed: dict[int, Exception] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)


T = TypeVar("T", bound=Turn)
R = TypeVar("R")


class Waiting(NamedTuple):
    """One thing that waits: what does it, with all of its kind that wait in a row; None for work, which is a function
    and done alone.
    """

    do: Callable[[list[Any], Any], None] | None
    what: Any
    answer: asyncio.Future[Any]


class Writer(Generic[T]):
    """The queue, its worker and the writer's thread.

    Args:
        turn: makes the record of a turn, which is handed to what does the work.
        after: told on the event loop what each turn brought, before the callers are answered.
    """

    def __init__(self, turn: Callable[[], T], after: Callable[[T], None]) -> None:
        self._turn, self._after = turn, after
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="exitfsm-writer")
        self._writing = self._closing = False
        self._worker: asyncio.Task[None] | None = None

    def open(self, watchdog: AbstractContextManager[None]) -> None:
        """Start the worker; the watchdog is around each wait for the writer's thread."""
        self._worker = asyncio.create_task(self._work(watchdog), name="exitfsm-mailbox")

    async def close(self) -> None:
        """Let what waits be done, then stop."""
        self._closing = True
        if self._worker is not None:
            await self._queue.join()
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        self._thread.shutdown(wait=True)

    @property
    def at_rest(self) -> bool:
        """True while nothing is done, and nothing waits."""
        return not self._writing and self._queue.empty()

    def put(self, do: Callable[[list[Any], T], None] | None, what: Any) -> asyncio.Future[Any]:
        """Put something into the queue; its answer comes when it is done.

        Raises:
            StoreError: it is closed; nothing is left waiting there.
        """
        if self._worker is None or self._closing:
            raise StoreError("the manager is stopped")
        waiting = Waiting(do, what, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return waiting.answer

    async def run(self, work: Callable[[], R]) -> R:
        """Have a function done in the writer's thread."""
        done: R = await self.put(None, work)
        return done

    async def _work(self, watchdog: AbstractContextManager[None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            waiting, turn = [await self._queue.get()], self._turn()
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            self._writing = True
            try:
                with watchdog:
                    await loop.run_in_executor(self._thread, _do, waiting, turn)
            finally:
                self._writing = False
                try:
                    self._after(turn)
                except Exception:
                    # A defect there must not end the only worker: every caller would wait for ever.
                    log.exception("after_group_crashed")
                self._answer(waiting, turn)

    def _answer(self, waiting: Sequence[Waiting], turn: T) -> None:
        for number, one in enumerate(waiting):
            self._queue.task_done()
            if one.answer.done():
                continue
            if number in turn.failed:
                one.answer.set_exception(turn.failed[number])
            else:
                one.answer.set_result(turn.results.get(number))


def _do(waiting: Sequence[Waiting], turn: Turn) -> None:
    """In the writer's thread: those of one kind that wait in a row are done together."""
    start = 0
    while start < len(waiting):
        do, end = waiting[start].do, start + 1
        while end < len(waiting) and do is not None and waiting[end].do == do:
            end += 1
        try:
            if do is None:
                turn.results[start] = waiting[start].what()
            else:
                do([one.what for one in waiting[start:end]], turn)
        except Exception as error:
            # The callers of this part hear of it; the others' turn comes all the same.
            turn.failed.update(dict.fromkeys(range(start, end), error))
            turn.failures.append(error)
        start = end


async def all_done(answers: Sequence[asyncio.Future[Any]]) -> None:
    """Wait for all; the first failure is raised after the last has been answered.

    Raises:
        StoreError: one was not done.
    """
    for result in await asyncio.gather(*answers, return_exceptions=True):
        if isinstance(result, StoreError):
            raise result
        if isinstance(result, BaseException):
            raise StoreError(f"not stored: {type(result).__name__}: {result}")
