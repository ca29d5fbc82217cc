"""The tasks of one object: none is lost, none fails unheard, and what must become durable is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from exitfsm.outside import logger

log = logger("exitfsm")
T = TypeVar("T")


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
