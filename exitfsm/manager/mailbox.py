"""The one way into the engine, for many callers and one writer.

Everything that is told to a position waits in one queue. A single worker takes whatever is ready, hands it to the
engine in the writer's thread as one group (so that what happens together is committed together), and answers each
caller. The event loop never waits for the disk, and the engine is never used by two threads at once. A quiet bar does
not queue: while the writer rests it is taken note of in memory, on the spot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
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


class Kind(Enum):
    """What waits in the queue. Those of one kind that wait in a row are committed together; work is done alone."""

    BAR = "a bar"
    CONFIRMED = "a bar whose price a second source has confirmed"
    MESSAGE = "a position's id, and a message to it"
    WORK = "anything else that belongs into the writer's thread, as a function"


class Told(NamedTuple):
    """One thing that waits, and where its answer is awaited."""

    kind: Kind
    what: Any
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Group:
    """What one turn of the worker brought: positions that owe something, commits, and bars that jumped too far.

    `results` and `failed` are answers, by the place in the turn's queue of what was told.
    """

    owing: list[str] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    jumps: list[Bar] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    results: dict[int, Any] = field(default_factory=dict)
    failed: dict[int, Exception] = field(default_factory=dict)


class Commits:
    """Listens to an engine: its commits, until they are taken out."""

    def __init__(self) -> None:
        self._kept: list[Commit] = []

    def __call__(self, position: Position, recorded: Sequence[Recorded]) -> None:
        """One commit, told in the writer's thread."""
        self._kept.append((position, recorded))

    def take(self) -> list[Commit]:
        """Those since the last time, oldest first."""
        taken, self._kept = self._kept, []
        return taken


class Mailbox:
    """The queue, its worker and the writer's thread.

    Args:
        engine: used in the writer's thread only, but for reading what it holds in memory.
        commits: listens to it.
        now: the present.
        received: the wall clock as it is, for the age of bars: putting it right must not make fresh bars look old.
    """

    def __init__(
        self, engine: Engine, commits: Commits, now: Callable[[], datetime], received: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._commits = commits
        self._now = now
        self._received = received
        self._queue: asyncio.Queue[Told] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="exitfsm-writer")
        self._writing = False
        self._closing = False
        self._worker: asyncio.Task[None] | None = None

    def open(self, after: Callable[[Group], None], watchdog: AbstractContextManager[None]) -> None:
        """Start the worker.

        Args:
            after: told on the event loop what each group brought, before the callers are answered.
            watchdog: is around each wait for the writer's thread.
        """
        self._worker = asyncio.create_task(self._work(after, watchdog), name="exitfsm-mailbox")

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
            waiting.append(self._put(Kind.CONFIRMED if confirmed else Kind.BAR, bar))
        if waiting:
            await _all(waiting)

    async def tell(self, position_id: str, message: Message) -> None:
        """A message to a position; returns when what it meant is durable.

        Raises:
            StoreError: it could not be stored.
        """
        await self.tell_all([(position_id, message)])

    async def alarm(self, position_id: str, kind: str, text: str) -> None:
        """An alarm of a position."""
        await self.tell(position_id, RaiseAlarm(at=self._now(), kind=kind, text=text))

    async def tell_all(self, messages: Sequence[tuple[str, Message]]) -> None:
        """Messages to several positions, committed together."""
        await _all([self._put(Kind.MESSAGE, told) for told in messages])

    async def report(self, report: ExecutionReport) -> None:
        """News of an order of ours, for the position that it belongs to."""
        position_id = await self.owner_of(report.client_order_id)
        if position_id is not None:
            await self.tell(position_id, Report(at=self._now(), report=report))

    async def owner_of(self, client_order_id: str) -> str | None:
        """The position that an order belongs to, by memory or by the store; None where it belongs to none."""
        owner: str | None = self._engine.known_owner(client_order_id)
        return owner or await self.run(partial(self._engine.owner_of, client_order_id))

    async def run(self, work: Callable[[], Any]) -> Any:
        """Anything else that belongs into the writer's thread."""
        return await self._put(Kind.WORK, work)

    def _put(self, kind: Kind, what: Any) -> asyncio.Future[Any]:
        """Into the queue; nothing is left waiting at one that is closed."""
        if self._worker is None or self._closing:
            raise StoreError("the manager is stopped")
        told = Told(kind, what, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(told)
        return told.answer

    async def _work(self, after: Callable[[Group], None], watchdog: AbstractContextManager[None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            waiting, group = [await self._queue.get()], Group()
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            self._writing = True
            try:
                with watchdog:
                    await loop.run_in_executor(self._thread, self._process, waiting, group)
            finally:
                self._writing = False
                group.commits.extend(self._commits.take())
                try:
                    after(group)
                except Exception:
                    # A defect there must not end the only worker: whoever tells something would wait for ever.
                    log.exception("after_group_crashed")
                self._answer(waiting, group)

    def _answer(self, waiting: Sequence[Told], group: Group) -> None:
        for number, told in enumerate(waiting):
            self._queue.task_done()
            if told.answer.done():
                continue
            if number in group.failed:
                told.answer.set_exception(group.failed[number])
            else:
                told.answer.set_result(group.results.get(number))

    def _process(self, waiting: Sequence[Told], group: Group) -> None:
        """In the writer's thread: runs of bars and runs of messages are one commit each."""
        start = 0
        while start < len(waiting):
            kind, end = waiting[start].kind, start + 1
            while end < len(waiting) and kind is not Kind.WORK and waiting[end].kind is kind:
                end += 1
            try:
                group.results[start] = self._one_commit(kind, [told.what for told in waiting[start:end]], group)
            except Exception as error:
                # The callers of this part hear of it; the others' turn comes all the same.
                group.failed.update(dict.fromkeys(range(start, end), error))
                group.failures.append(error)
            start = end

    def _one_commit(self, kind: Kind, part: Sequence[Any], group: Group) -> Any:
        if kind is Kind.WORK:
            return part[0]()
        if kind is Kind.MESSAGE:
            actions = self._engine.tell_all(part)
        elif kind is Kind.CONFIRMED:
            now = self._received()
            actions = [a for bar in part for a in self._engine.on_bar(bar, received_at=now, confirmed=True)]
        else:
            actions = self._bars(part, group)
        group.owing.extend(action.position_id for action in actions)
        return None

    def _bars(self, bars: Sequence[Bar], group: Group) -> list[Action]:
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
