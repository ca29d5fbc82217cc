"""An object's one event loop, and calls of it that come from anywhere else.

The manager works on the loop that it was started on. Who calls it from another loop, or from a thread that has none,
has the work carried out there, so that nothing is touched by two loops. Where that loop does not run any more, the
caller hears so at once, instead of waiting for an answer that cannot come.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from exitfsm.aio.tasks import shared

Loop = asyncio.AbstractEventLoop
P = ParamSpec("P")
T = TypeVar("T")

#: What is said of anything that is asked for too early.
NOT_STARTED = "not started: await manager.start() first, or use `async with manager:`"
_NO_LOOP = "the manager runs on asyncio, and no asyncio event loop runs here (trio has none): start it with asyncio.run"
_GONE = (
    "the event loop that the manager was started on does not run any more: start, feed and stop it on one loop that "
    "keeps running (not with asyncio.run for each call)"
)

#: The process in which each loop runs: in a forked child it looks as if it ran there.
HOMES: WeakKeyDictionary[Loop, int] = WeakKeyDictionary()


class OnALoop(Protocol):
    """What is at home on one loop; None before it is started."""

    _loop: Loop | None


S = TypeVar("S", bound=OnALoop)


def on_its_loop(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Have a method carried out on the loop of its object, from whatever loop it is called.

    It raises `RuntimeError` where the object is not started, or where its loop does not run any more.
    """

    @wraps(method)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if asyncio.get_running_loop() is self._loop:
            return await method(self, *args, **kwargs)
        return await _there(self._loop, lambda: method(self, *args, **kwargs))

    return guarded


class Begun(Awaitable[None]):
    """Work that was begun on its loop, from wherever: it goes on whether it is awaited or not, on any loop.

    Args:
        loop: where it belongs.
        begin: begins it there.

    Raises:
        RuntimeError: the loop is not known yet, or does not run any more.
    """

    def __init__(self, loop: Loop | None, begin: Callable[[], asyncio.Task[None]]) -> None:
        home = running(loop)
        self._loop = home
        self._work: asyncio.Task[None] | Future[None] = (
            begin() if running_loop() is home else asyncio.run_coroutine_threadsafe(_carried_out(begin), home)
        )

    def __await__(self) -> Generator[Any, Any, None]:
        work = self._work
        if isinstance(work, Future):
            return shared(asyncio.wrap_future(work)).__await__()
        if running_loop() is self._loop:
            return work.__await__()
        return _there(self._loop, lambda: shared(work)).__await__()


def handed_over(
    loop: Loop,
    work: Callable[[], Coroutine[Any, Any, Any]] | None,
    spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]],
) -> Any:
    """Have work done on a loop, for a caller in any thread that may await what comes back or not.

    Args:
        loop: where it is done, if it runs.
        work: begins it; None where there is nothing to do.
        spawn: makes a task of it on that loop.
    """
    here = running_loop()
    if here is loop:
        if work is not None:
            return spawn(work())
        nothing = loop.create_future()
        nothing.set_result(None)
        return nothing
    if work is None or not loop.is_running():
        return None
    done = asyncio.run_coroutine_threadsafe(work(), loop)
    return asyncio.wrap_future(done) if here is not None else done


def home() -> Loop:
    """The event loop that runs here, as the home of what is started now.

    Raises:
        RuntimeError: none of asyncio's runs here.
    """
    loop = running_loop()
    if loop is None:
        raise RuntimeError(_NO_LOOP)
    HOMES[loop] = os.getpid()
    return loop


def running_loop() -> Loop | None:
    """The event loop that runs in this thread; None where none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def running(loop: Loop | None) -> Loop:
    """The loop, where it runs.

    Raises:
        RuntimeError: there is none yet, or it does not run any more; the text says what to do.
    """
    if loop is None:
        raise RuntimeError(NOT_STARTED)
    if loop is not running_loop() and not loop.is_running():
        raise RuntimeError(_GONE)
    if HOMES.get(loop, os.getpid()) != os.getpid():
        raise RuntimeError(
            "the manager was started before a fork: start one of its own in the new process, on another store"
        )
    return loop


async def _there(loop: Loop | None, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Have work done on another loop, and wait for it.

    Raises:
        RuntimeError: the loop does not run, or has ended before the work.
    """
    home = running(loop)
    try:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), home))
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if caller is None or caller.cancelling():
            raise
        raise RuntimeError(_GONE) from None  # it was not the caller who was canceled


async def _carried_out(begin: Callable[[], asyncio.Task[None]]) -> None:
    await shared(begin())
