"""Threads for calls that may never come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[[], Any]]


class DaemonThreads(Executor):
    """Runs calls in threads that do not keep the process from ending, as those of `ThreadPoolExecutor` do.

    A broker's call that hangs for ever would otherwise leave a bot that has stopped neither running nor gone, and
    whoever starts it again would wait for it. Such a call is lost as it is in a crash. There are `most` threads at one
    time; further calls wait for one.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle, self._lock = threading.Semaphore(0), threading.Lock()
        self._threads, self._closed = 0, False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Begin a call as soon as a thread is free; a `RuntimeError` after the shutdown."""
        with self._lock:
            if self._closed:
                raise RuntimeError("no call after the shutdown")
            future: Future[T] = Future()
            self._jobs.put((future, partial(fn, *args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._threads < self._most:
                threading.Thread(target=self._work, name=f"{self._name}_{self._threads}", daemon=True).start()
                self._threads += 1
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002  Executor's own
        """Take no more calls, and let the threads end after what they do; they are never waited for."""
        with self._lock:
            self._closed = True
            while cancel_futures:
                try:
                    job = self._jobs.get_nowait()
                except Empty:
                    break
                if job is not None:
                    job[0].cancel()
            for _ in range(self._threads):
                self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, call = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # whatever it is, it belongs to who waits
                    future.set_exception(error)
            del job, future, call  # an idle thread holds on to nothing
            self._idle.release()
