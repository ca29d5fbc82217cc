"""Calls to the broker, by themselves: what a cancel of the one who waits must come to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError, Future
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asked import calls_of

from exitfsm.aio.threads import DaemonThreads
from exitfsm.broker.calls import Outcome
from exitfsm.errors import BrokerError
from exitfsm.values import Order, OrderSide


class Slow:
    """A broker that answers when told to."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    async def positions(self) -> list[Any]:
        return await self.answer


async def test_a_cancel_that_comes_with_the_answer_is_not_lost() -> None:
    """Who is canceled stays canceled, or a loop of calls outlives the one who stops it."""
    broker = Slow()
    calls = calls_of(broker)

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


_HANGS = """
import asyncio, threading
from asked import calls_of
from exitfsm.errors import BrokerError

class Hangs:
    def positions(self):
        threading.Event().wait()

async def main():
    calls = calls_of(Hangs(), timeout_s=0.1)
    try:
        await calls.positions()
    except BrokerError:
        calls.close()
        print("stopped", flush=True)

asyncio.run(main())
"""


def test_a_plain_call_that_hangs_does_not_keep_the_process_from_ending() -> None:
    """A bot that has stopped must be gone, or whoever starts it again waits for it for ever."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", _HANGS],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")


def test_threads_run_what_they_are_given_and_no_more_than_so_many_at_once() -> None:
    threads = DaemonThreads(2, "few")
    gate, begun = threading.Event(), threading.Semaphore(0)

    def wait(n: int) -> int:
        begun.release()
        gate.wait(10)
        return n

    futures = [threads.submit(wait, n) for n in range(5)]
    assert all(begun.acquire(timeout=10) for _ in range(2))
    assert not begun.acquire(timeout=0.05)
    assert futures[4].cancel()
    gate.set()
    assert [f.result(10) for f in futures[:4]] == [0, 1, 2, 3]
    failed: Future[int] = threads.submit(int, "none")
    with pytest.raises(ValueError, match="none"):
        failed.result(10)
    assert threads.submit(int, "7").result(10) == 7


def test_threads_that_were_shut_down_take_nothing_more_and_begin_nothing_that_waited() -> None:
    threads = DaemonThreads(1, "one")
    gate = threading.Event()
    running, waiting = threads.submit(gate.wait, 10), threads.submit(int)
    threads.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert running.result(10)
    with pytest.raises(CancelledError):
        waiting.result(10)
    with pytest.raises(RuntimeError, match="shutdown"):
        threads.submit(int)


async def test_why_the_outcome_of_a_send_is_not_known_is_kept_until_it_is() -> None:
    """The text of what is raised may hold secrets: of an error that is not ours its class is all that is said."""

    class Bot:
        raises: Exception | None = None

        def positions(self) -> list[Any]:
            return []

        def submit(self, order: Order) -> Any:
            if self.raises is not None:
                raise self.raises
            return {"client_order_id": order.client_order_id, "status": "new"}

    bot, order = Bot(), Order(client_order_id="xf1-a-1", symbol="AAPL", side=OrderSide.SELL, qty=Decimal(1))
    calls = calls_of(bot)
    bot.raises = BrokerError("HTTP 503: try later")
    assert (await calls.submit(order)).outcome is Outcome.UNKNOWN
    assert calls.why("xf1-a-1") == "BrokerError: HTTP 503: try later"
    bot.raises = ConnectionError("https://key:secret@host")
    await calls.submit(order)
    assert calls.why("xf1-a-1") == "ConnectionError"
    bot.raises = None
    await calls.submit(order)
    assert (calls.why("xf1-a-1"), calls.why("another"), calls.why(None)) == ("", "", "")
