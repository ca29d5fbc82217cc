"""Simulated time, and an asyncio loop in it for each simulated process.

One thread does everything: whatever happens next in the world is taken from one queue, and time jumps to it. A
process's timers, its answers from the network and its work for other threads are entries of that queue, so that their
order is the order of their (seeded) delays and of nothing else. No real time passes and nothing waits.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary


class ProcessKilled(BaseException):
    """Ends work that runs outside of any task when its process dies in the middle of it."""


class Violation(Exception):
    """Something that must hold does not."""


class World:
    """What happens next, and when.

    Attributes:
        time: seconds since the world began.
        failures: what no loop of a simulated process may ever be told: errors that nobody handled.
        grain_s: what `after` puts off happens at multiples of this, much of it together; 0 for any time.
        broken: the first thing that did not hold; nothing happens after it.
    """

    def __init__(self, grain_s: float = 0.0) -> None:
        self.time = 0.0
        self.grain_s = grain_s
        self.failures: list[str] = []
        self.broken: str | None = None
        self.ready: deque[asyncio.Handle] = deque()
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, what: Callable[..., Any], *args: Any) -> None:
        """Do `what` at a time; of several at one time the first to be said comes first."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, what, args))

    def after(self, seconds: float, what: Callable[..., Any], *args: Any) -> None:
        """Do `what` so many seconds from now, or a little later: at the next moment at which the world moves."""
        when, grain = self.time + seconds, self.grain_s
        self.at(math.ceil(when / grain) * grain if grain else when, what, *args)

    def run_until(self, end: float) -> None:
        """Let everything happen that happens before `end`; then it is that time."""
        heap, pop, drain = self._heap, heapq.heappop, self.drain
        drain()
        while heap and heap[0][0] <= end:
            when, _, what, args = pop(heap)
            self.time = max(self.time, when)
            what(*args)
            if self.ready:
                drain()
            if self.broken is not None:
                raise Violation(self.broken)
        self.time = max(self.time, end)

    def drain(self) -> None:
        """Run what the processes have ready, until nothing is left to do but to wait."""
        ready = self.ready
        try:
            while ready:
                handle = ready.popleft()
                loop: ProcessLoop = handle._loop  # type: ignore[attr-defined]  # there is no other way from one to the other
                if loop.dead:
                    loop.remains.append(handle)
                    continue
                if handle.cancelled():
                    continue
                if loop.asleep_until > self.time:
                    self.at(loop.asleep_until, ready.append, handle)
                    continue
                loop.steps_left -= 1
                if loop.steps_left <= 0 and loop.on_last_step is not None:
                    loop.on_last_step()
                    loop.remains.append(handle)
                    continue
                events._set_running_loop(loop._self)
                handle._run()
        finally:
            events._set_running_loop(None)

    def clear(self, dead: ProcessLoop) -> None:
        """Take what a dead process had ready out of the queue."""
        dead.remains += [handle for handle in self.ready if handle._loop is dead]  # type: ignore[attr-defined]  # as above
        living = [handle for handle in self.ready if handle._loop is not dead]  # type: ignore[attr-defined]
        self.ready.clear()
        self.ready.extend(living)


class ProcessLoop:
    """The event loop of one simulated process: as much of one as asyncio's tasks, futures and timers ask for.

    Args:
        world: whose time it lives in.
        thread_delay: seconds until the next piece of work in a thread begins.

    Attributes:
        dead: nothing of it runs any more, not even what would clean up.
        asleep_until: nothing of it runs before that time (a machine that is starved, or suspended).
        steps_left: how many callbacks it may still run before `on_last_step` is called instead of one.
        remains: what it would have run next when it died.
    """

    def __init__(self, world: World, thread_delay: Callable[[], float]) -> None:
        self._self: Any = self  # for asyncio, which is told that it is a loop like any other
        self._world = world
        self._thread_delay = thread_delay
        self.dead = False
        self.asleep_until = 0.0
        self.steps_left = 1 << 62
        self.on_last_step: Callable[[], None] | None = None
        self.remains: list[asyncio.Handle] = []
        #: In which order its tasks were made.
        self._number: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        self._numbers = count()

    # --- what asyncio asks of a loop ----------------------------------------------------------------------------------

    def time(self) -> float:
        """The world's time."""
        return self._world.time

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Run it next, after what is ready already."""
        handle = asyncio.Handle(callback, args, self._self, context)
        self._world.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Run it at a time."""
        handle = asyncio.TimerHandle(when, callback, args, self._self, context)
        self._world.at(when, self._world.ready.append, handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Run it after a while."""
        return self.call_at(self._world.time + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self._self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        """A task of this loop."""
        task = asyncio.Task(coro, loop=self._self, name=name, context=context)
        self._number[task] = next(self._numbers)
        return task

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Work for another thread: it is done in one piece, a moment later, while the loop's own tasks go on."""
        future = self.create_future()
        self._world.at(self._world.time + self._thread_delay(), self._in_thread, future, func, args)
        return future

    def _in_thread(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self.dead:
            return
        if self.asleep_until > self._world.time:
            self._world.at(self.asleep_until, self._in_thread, future, func, args)
            return
        try:
            result = func(*args)
        except ProcessKilled:
            return
        except Exception as error:
            self._answer(future, error=error)
        else:
            self._answer(future, result)

    def _answer(self, future: asyncio.Future[Any], result: Any = None, *, error: Exception | None = None) -> None:
        if self.dead or future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error that nobody handled: a defect, unless the process is dead and only its remains are cleared away."""
        if not self.dead:
            self._world.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Always, while its process lives."""
        return not self.dead

    def is_closed(self) -> bool:
        """True once its process is dead."""
        return self.dead

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Left in the queue until its time comes; it does nothing then."""

    # --- the end of a process -----------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process is gone, as by `kill -9`: no task goes on, none is told."""
        self.dead = True

    def bury(self) -> None:
        """Clear away what a dead process left in memory. Nothing of it can have an effect any more."""
        buried: set[asyncio.Task[Any]] = set()
        self._world.clear(self)
        events._set_running_loop(self._self)  # what cleans up after itself may want to begin something: it never runs
        try:
            while left := asyncio.all_tasks(self._self) - buried:
                for task in sorted(left, key=self._number.__getitem__):  # a set has an order of its own in each process
                    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is pending for ever, as is meant
                    _close(task.get_coro())
                buried |= left
                self._world.clear(self)
        finally:
            events._set_running_loop(None)
        self.remains.clear()


def _close(coro: Any) -> None:
    """Close what a dead process was doing, also where it would wait for something as it cleans up after itself."""
    while True:
        try:
            coro.close()
            return
        except RuntimeError:  # it waits for the next thing
            continue
