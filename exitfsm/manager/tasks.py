"""The manager's own tasks: none is lost, none fails unheard, and what must become durable is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from exitfsm.outside import logger

log = logger("exitfsm")


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
        """The same for what must become durable: it is not canceled when the manager stops."""
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
