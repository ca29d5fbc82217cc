"""Carrying out what is owed: one task for each position, so that a slow answer about one never delays another.

A task asks the engine what its position owes, does it, tells the engine what came of it, and asks again until nothing
is owed or nothing moves. What did not move is asked again by the manager's timer, after a pause that grows. The same
code serves the first send, the retry and the recovery after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from exitfsm.aio.budget import PAUSE_S
from exitfsm.errors import BrokerError, StoreError
from exitfsm.manager.context import Context, Part
from exitfsm.manager.steps import Steps
from exitfsm.manager.view import View
from exitfsm.outside import logger
from exitfsm.position import Action, Cancel, Position, Submit

log = logger("exitfsm")

#: Steps that one task takes in a row before it leaves the rest to the timer: a bound on any loop with the broker.
STEPS_MAX = 25
#: The longest pause before the same thing is tried again; the first is `PAUSE_S`.
PAUSE_MAX_S = 30.0
#: How long the bot's call waits for orders that it caused to have left; a broker that is slower is not waited for.
GRACE_S = 0.01


class Executor(Part):
    """Works on what positions owe the broker."""

    def __init__(self, context: Context, view: View, steps: Steps) -> None:
        super().__init__(context)
        self._view, self._steps, self._turns = view, steps, steps.turns
        self._running: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        #: Until when each position is left alone, in monotonic seconds, and how long that pause is.
        self._pauses: dict[str, tuple[float, float]] = {}

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is being worked on."""
        return list(self._running.values())

    def drive(self, position_ids: Iterable[str], *, now: bool = True) -> None:
        """See to it that each position's debts are worked on; `now` does not wait for its pause to end."""
        for position_id in position_ids:
            if now:
                self._pauses.pop(position_id, None)
            elif self._time.monotonic() < self._pauses.get(position_id, (0.0, 0.0))[0]:
                continue
            if position_id not in self._running:
                self._announce(position_id, self._owed(position_id)[1])  # all of these, before the first of them runs
                task = asyncio.create_task(self._run(position_id), name=f"exitfsm-{position_id}")
                self._running[position_id] = task
                task.add_done_callback(partial(self._ended, position_id))

    def _owed(self, position_id: str) -> tuple[Position | None, Action | None]:
        p = self._engine.positions.get(position_id)
        return p, self._engine.owed_by(p, self._view.now_for(p)) if p is not None else None

    def _announce(self, position_id: str, action: Action | None) -> None:
        self._turns.announce(position_id, sends=isinstance(action, (Submit, Cancel)))

    def _ended(self, position_id: str, _: asyncio.Task[None]) -> None:
        self._running.pop(position_id, None)
        self._announce(position_id, None)

    async def grace(self) -> None:
        """Give orders that were caused just now a moment to leave."""
        if self._running:
            await asyncio.wait(self.tasks, timeout=GRACE_S)

    async def close(self, wait_s: float) -> None:
        """Let calls that are under way come back, within reason; then give up. Nothing is lost: it stays owed.

        What only waits for time to pass is not waited for.
        """
        self._closing = True
        self._turns.stop()
        if self._running:
            await asyncio.wait(self.tasks, timeout=wait_s)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._turns.close()
        await self._hours.close()
        await self._view.close()

    async def _run(self, position_id: str) -> None:
        for _ in range(STEPS_MAX):
            if self._closing:
                return
            p, action = self._owed(position_id)
            if p is None or action is None:
                self._pauses.pop(position_id, None)
                return
            self._announce(position_id, action)
            try:
                moved = await self._steps.take(p, action)
            except (BrokerError, StoreError) as error:
                log.warning("owed_failed position=%s action=%s error=%s", position_id, type(action).__name__, error)
                moved = False
            except Exception:
                # A defect here must not end the only task that gets this position out: log it, and try again later.
                log.exception("owed_crashed position=%s action=%s", position_id, type(action).__name__)
                moved = False
            if not moved:
                break
        pause = min(self._pauses.get(position_id, (0.0, PAUSE_S / 2))[1] * 2, PAUSE_MAX_S)
        self._pauses[position_id] = (self._time.monotonic() + pause, pause)

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._view.forget(p)
        self._steps.forget(p)
        self._pauses.pop(p.position_id, None)
