"""Calls to the broker, by themselves: what a cancel of the one who waits must come to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from exitfsm.manager.calls import BrokerCalls
from exitfsm.manager.clock import SteadyTime, SystemClock


class Slow:
    """A broker that answers when told to."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    async def positions(self) -> list[Any]:
        return await self.answer


async def test_a_cancel_that_comes_with_the_answer_is_not_lost() -> None:
    """Who is canceled stays canceled, or a loop of calls outlives the one who stops it."""
    broker = Slow()
    calls = BrokerCalls(broker, SteadyTime(SystemClock()), 5.0, lambda answered, method: None)

    async def loop() -> None:
        while True:
            await calls.positions()
            await asyncio.sleep(0)

    with contextlib.closing(calls):
        for steps in range(6):  # the cancel falls into each step between the answer and the one who waits for it
            broker.answer = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(loop())
            for _ in range(4):
                await asyncio.sleep(0)
            broker.answer.set_result([])
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=5)
            assert done, f"still running after a cancel {steps} steps after the answer"
            with pytest.raises(asyncio.CancelledError):
                task.result()
