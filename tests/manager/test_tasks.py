"""Work that callers wait for together."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from exitfsm.aio.tasks import begin_shared, shared
from exitfsm.errors import BrokerError


async def test_a_failure_after_its_callers_have_left_is_no_failure_of_the_loop() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def read() -> int:
        return await answer

    work = begin_shared(read(), "read")
    caller = asyncio.create_task(shared(work))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    answer.set_exception(BrokerError("too late"))
    await asyncio.wait([work])
    await asyncio.sleep(0)
    del work
    assert reported == []


async def test_one_caller_is_canceled_and_the_other_has_the_answer_or_the_failure() -> None:
    for failure in (None, BrokerError("no answer")):
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def read(answer: asyncio.Future[int] = answer) -> int:
            return await answer

        work = begin_shared(read(), "read")
        first, second = asyncio.create_task(shared(work)), asyncio.create_task(shared(work))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        if failure is None:
            answer.set_result(7)
            assert await second == 7
        else:
            answer.set_exception(failure)
            with pytest.raises(BrokerError, match="no answer"):
                await second
        assert first.cancelled()
