"""The tasks of one object: none is lost, none fails unheard, and what must become durable is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from typing import Any, Generic, TypeVar

from exitfsm.outside import logger

log = logger("exitfsm")
T = TypeVar("T")
#: So much is done at a stretch of what is done for each position: a few milliseconds.
SLICE = 25
#: From so many on, work on all of them at once would hold up the loop.
MANY = 4 * SLICE


def begin_shared(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Begin work that callers wait for together, by `shared`: its failure is theirs, or nobody's where all left."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_hear)
    return task


async def shared(task: asyncio.Future[T]) -> T:
    """What a shared task brings. It goes on when a caller is canceled.

    Not `asyncio.shield`: from Python 3.14 on, that reports a failure to the loop when its caller has left.
    """
    await asyncio.wait([task])
    return task.result()


def _hear(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def in_slices(items: Collection[T]) -> AsyncIterator[T]:
    """Items one by one; where they are many, after each `SLICE` of them everything else on the loop has its turn."""
    for number, item in enumerate(items, 1):
        yield item
        if number % SLICE == 0:
            await leave_turn(len(items))


async def leave_turn(count: int) -> None:
    """Between two things that are done for so many: where they are many, everything else has its turn."""
    if count > MANY:
        await asyncio.sleep(0)


class Fresh(Generic[T]):
    """A question whose answer must be new: callers that wait together share one that was asked after they came.

    Args:
        ask: asks it.
        name: of its tasks.
    """

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, T]], name: str) -> None:
        self._ask, self._name = ask, name
        self._newest: asyncio.Task[T] | None = None
        self._under_way: set[asyncio.Task[T]] = set()

    async def answer(self, patience_s: float) -> T:
        """The answer to a question that is asked after this call; one that is under way is waited for so long."""
        running = self._newest
        if running is not None and not running.done():
            await asyncio.wait([running], timeout=patience_s)  # one that hangs must not hold up the others
        if self._newest is None or self._newest is running:
            self._newest = begin_shared(self._ask(), self._name)
            self._under_way.add(self._newest)
            self._newest.add_done_callback(self._under_way.discard)
        return await shared(self._newest)  # begun after this call, by this or another caller

    async def close(self) -> None:
        """Give up what is under way."""
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


class OneAtATime:
    """Work of which only one run is under way: callers that come meanwhile share the one after it.

    Args:
        work: one run.
        name: of the task that is shared.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work, self._name = work, name
        self._lock = asyncio.Lock()
        self._waiting: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """A run that begins after this call."""
        if not self._lock.locked():
            await self._exclusive()
            return
        if self._waiting is None or self._waiting.done():
            self._waiting = begin_shared(self._exclusive(), self._name)
        await shared(self._waiting)

    @property
    def is_running(self) -> bool:
        """True while a run is under way."""
        return self._lock.locked()

    async def close(self) -> None:
        """Give up the run that callers wait for together."""
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)

    async def _exclusive(self) -> None:
        async with self._lock:
            self._waiting = None
            await self._work()


class Tasks:
    """Tasks that run beside the calls of the bot."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writes: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` on its own; where it fails, that is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def write(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """The same for what must become durable: it is not canceled by `cancel`."""
        task = self.spawn(work, "exitfsm-write")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return task

    def named(self, name: str) -> list[asyncio.Task[Any]]:
        """Those of this name that have not ended."""
        return [task for task in self._tasks if task.get_name() == name]

    def call(self, callback: Callable[..., Any] | None, *args: Any) -> None:
        """Call a guest's callback, plain or async: where it raises, that is logged, and harms nothing."""
        if callback is None:
            return
        try:
            result = callback(*args)
        except Exception:
            log.exception("callback_failed")
            return
        if asyncio.iscoroutine(result):
            self.spawn(result, "exitfsm-callback")

    async def cancel(self) -> None:
        """End everything but the writes."""
        passing = self._tasks - self._writes
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)

    async def finish_writes(self) -> None:
        """Until everything that must become durable is."""
        await asyncio.gather(*self._writes, return_exceptions=True)

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task_failed name=%s error=%s", task.get_name(), task.exception())
