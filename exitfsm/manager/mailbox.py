"""The one way into the engine, for many callers and one writer.

Every message to a position waits in one queue. A single worker takes whatever is ready, hands it to the engine in the
writer's thread as one group (so that what happens together is committed together), and answers each caller. The event
loop never waits for the disk, and the engine is never used by two threads at once. A quiet bar does not queue: while
the writer rests it is noted in memory, on the spot.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from exitfsm.engine import Engine
from exitfsm.errors import StoreError
from exitfsm.events import Recorded
from exitfsm.messages import Message, RaiseAlarm, Report
from exitfsm.outside import logger
from exitfsm.position import Action, Position
from exitfsm.values import Bar, ExecutionReport

log = logger("exitfsm")

#: A position after a commit, and what was recorded.
Commit = tuple[Position, Sequence[Recorded]]


@dataclass(frozen=True, slots=True)
class Group:
    """What one turn of the worker brought: positions that owe something, commits, and bars that jumped too far.

    `results` and `failed` are answers, by the place in the turn's queue.
    """

    owing: list[str] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    jumps: list[Bar] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    results: dict[int, Any] = field(default_factory=dict)
    failed: dict[int, Exception] = field(default_factory=dict)


class Waiting(NamedTuple):
    """One thing that waits: what the engine does with a run of its kind, or None for a function, which runs alone."""

    commit: Callable[[list[Any], Group], Sequence[Action]] | None
    what: Any
    answer: asyncio.Future[Any]


class Mailbox:
    """The queue, its worker and the writer's thread.

    Args:
        engine: used in the writer's thread only, but for reading what it holds in memory.
        commits: the engine's listener puts them there, in the writer's thread.
        now: the present.
        received: the wall clock as it is, for the age of bars: putting it right must not make fresh bars look old.
    """

    def __init__(
        self, engine: Engine, commits: deque[Commit], now: Callable[[], datetime], received: Callable[[], datetime]
    ) -> None:
        self._engine, self._commits, self._now, self._received = engine, commits, now, received
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="exitfsm-writer")
        self._writing = self._closing = False
        self._worker: asyncio.Task[None] | None = None

    def open(self, after: Callable[[Group], None]) -> None:
        """Start the worker; `after` hears on the event loop what each group brought, before the callers do."""
        self._worker = asyncio.create_task(self._work(after), name="exitfsm-mailbox")

    async def close(self) -> None:
        """Let what waits be done, then stop."""
        self._closing = True
        if self._worker is not None:
            await self._queue.join()
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        self._thread.shutdown(wait=True)

    async def bars(self, bars: Sequence[Bar], *, confirmed: bool = False) -> None:
        """Bars, in order; returns when what they decided is durable.

        Raises:
            StoreError: it could not be stored; the next bar will decide it again.
        """
        waiting: list[asyncio.Future[Any]] = []
        for bar in bars:
            at_rest = not self._writing and self._queue.empty()
            if at_rest and not confirmed and self._engine.quiet(bar, self._received()):
                continue
            waiting.append(self._put(self._confirmed if confirmed else self._bars, bar))
        if waiting:
            await _all(waiting)

    async def tell(self, position_id: str, message: Message) -> None:
        """A message to a position; returns when what it meant is durable.

        Raises:
            StoreError: it could not be stored.
        """
        await self.tell_all([(position_id, message)])

    async def tell_all(self, messages: Sequence[tuple[str, Message]]) -> None:
        """Messages to several positions, committed together."""
        await _all([self._put(self._messages, message) for message in messages])

    async def alarm(self, position_id: str, kind: str, text: str) -> None:
        """An alarm of a position."""
        await self.tell(position_id, RaiseAlarm(at=self._now(), kind=kind, text=text))

    async def report(self, report: ExecutionReport) -> None:
        """A report on an order of ours, for the position that it belongs to."""
        position_id = await self.owner_of(report.client_order_id)
        if position_id is not None:
            await self.tell(position_id, Report(at=self._now(), report=report))

    async def owner_of(self, client_order_id: str) -> str | None:
        """The position that an order belongs to, by memory or by the store; None where it belongs to none."""
        owner: str | None = self._engine.known_owner(client_order_id)
        return owner or await self.run(partial(self._engine.owner_of, client_order_id))

    async def run(self, work: Callable[[], Any]) -> Any:
        """Anything else that belongs into the writer's thread."""
        return await self._put(None, work)

    def _put(self, commit: Callable[[list[Any], Group], Sequence[Action]] | None, what: Any) -> asyncio.Future[Any]:
        if self._worker is None or self._closing:  # nothing is left waiting at one that is closed
            raise StoreError("the manager is stopped")
        waiting = Waiting(commit, what, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return waiting.answer

    async def _work(self, after: Callable[[Group], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            waiting, group = [await self._queue.get()], Group()
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            self._writing = True
            try:
                await loop.run_in_executor(self._thread, self._process, waiting, group)
            finally:
                self._writing = False
                while self._commits:
                    group.commits.append(self._commits.popleft())
                try:
                    after(group)
                except Exception:
                    # A defect there must not end the only worker: every caller would wait for ever.
                    log.exception("after_group_crashed")
                self._answer(waiting, group)

    def _answer(self, waiting: Sequence[Waiting], group: Group) -> None:
        for number, one in enumerate(waiting):
            self._queue.task_done()
            if one.answer.done():
                continue
            if number in group.failed:
                one.answer.set_exception(group.failed[number])
            else:
                one.answer.set_result(group.results.get(number))

    # --- in the writer's thread ---------------------------------------------------------------------------------------

    def _process(self, waiting: Sequence[Waiting], group: Group) -> None:
        """Runs of bars and runs of messages are one commit each."""
        start = 0
        while start < len(waiting):
            commit, end = waiting[start].commit, start + 1
            while end < len(waiting) and commit is not None and waiting[end].commit == commit:
                end += 1
            try:
                if commit is None:
                    group.results[start] = waiting[start].what()
                else:
                    actions = commit([one.what for one in waiting[start:end]], group)
                    group.owing.extend(action.position_id for action in actions)
            except Exception as error:
                # The callers of this part hear of it; the others' turn comes all the same.
                group.failed.update(dict.fromkeys(range(start, end), error))
                group.failures.append(error)
            start = end

    def _messages(self, messages: list[tuple[str, Message]], _: Group) -> list[Action]:
        return self._engine.tell_all(messages)

    def _confirmed(self, bars: list[Bar], _: Group) -> list[Action]:
        now = self._received()
        return [action for bar in bars for action in self._engine.on_bar(bar, received_at=now, confirmed=True)]

    def _bars(self, bars: list[Bar], group: Group) -> list[Action]:
        """Bars in order; those that jumped too far wait for a second source to confirm them.

        A bar is judged by what the bars of its symbol before it left behind, so that a second one of a symbol begins a
        commit of its own.
        """
        actions: list[Action] = []
        together: dict[str, Bar] = {}
        now = self._received()
        for bar in bars:
            if bar.symbol in together:
                actions += self._engine.on_bars(together.values(), received_at=now)
                together = {}
            if self._engine.quiet(bar, now):
                continue
            fault = self._engine.fault(bar, now)
            if fault is not None and fault.reason == "price_jump" and self._engine.levels.watched(bar.symbol):
                group.jumps.append(bar)
            else:
                together[bar.symbol] = bar
        return actions + self._engine.on_bars(together.values(), received_at=now)


async def _all(waiting: Sequence[asyncio.Future[Any]]) -> None:
    """Wait for all; the first failure is raised after the last has been answered."""
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(result, StoreError):
            raise result
        if isinstance(result, BaseException):
            raise StoreError(f"not stored: {type(result).__name__}: {result}")
