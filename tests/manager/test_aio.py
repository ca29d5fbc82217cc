"""Pieces of asyncio: one writer for many callers, answers that are new, and runs that do not overlap."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from typing import Any

import pytest

from exitfsm.aio.tasks import Fresh, OneAtATime
from exitfsm.aio.writer import Turn, Writer, all_done
from exitfsm.errors import StoreError


class Desk:
    """A writer, what it did and in which thread, and what it said of each turn."""

    def __init__(self) -> None:
        self.done: list[tuple[str, list[Any]]] = []
        self.threads: set[str] = set()
        self.turns: list[Turn] = []
        self.breaks_after = False
        self.writer = Writer(Turn, self.after)

    def after(self, turn: Turn) -> None:
        self.turns.append(turn)
        if self.breaks_after:
            raise RuntimeError("a defect")

    def ones(self, what: list[Any], _: Turn) -> None:
        self.threads.add(threading.current_thread().name)
        self.done.append(("one", what))
        if "bad" in what:
            raise ValueError("bad")

    def others(self, what: list[Any], _: Turn) -> None:
        self.done.append(("other", what))


async def test_given_things_that_wait_in_a_row_when_they_are_done_then_each_run_of_a_kind_is_done_at_once() -> None:
    desk = Desk()
    desk.writer.open(nullcontext())
    put = desk.writer.put
    answers = [put(desk.ones, 1), put(desk.ones, 2), put(desk.others, 3), put(desk.ones, 4)]
    assert not desk.writer.at_rest
    work = asyncio.create_task(desk.writer.run(lambda: "an answer"))
    await all_done(answers)
    assert await work == "an answer"
    assert desk.done == [("one", [1, 2]), ("other", [3]), ("one", [4])]
    assert desk.threads == {"exitfsm-writer_0"}
    assert desk.writer.at_rest
    await desk.writer.close()


async def test_given_one_that_fails_when_it_is_done_then_those_of_its_run_hear_of_it_and_the_others_go_on() -> None:
    desk = Desk()
    desk.writer.open(nullcontext())
    bad, beside, good = (
        desk.writer.put(desk.ones, "bad"),
        desk.writer.put(desk.ones, 1),
        desk.writer.put(desk.others, 2),
    )
    await good
    for failed in (bad, beside):
        with pytest.raises(ValueError, match="bad"):
            await failed
    with pytest.raises(StoreError, match="not stored: ValueError: bad"):
        await all_done([bad, good])
    assert [str(failure) for turn in desk.turns for failure in turn.failures] == ["bad"]
    await desk.writer.close()


async def test_given_a_defect_after_a_turn_then_its_callers_are_answered_and_the_writer_goes_on() -> None:
    desk = Desk()
    desk.breaks_after = True
    desk.writer.open(nullcontext())
    await desk.writer.run(lambda: None)
    assert await desk.writer.run(lambda: 7) == 7
    await desk.writer.close()


async def test_given_a_writer_that_is_closed_then_nothing_is_left_waiting_in_it() -> None:
    desk = Desk()
    with pytest.raises(StoreError):
        desk.writer.put(None, lambda: None)
    desk.writer.open(nullcontext())
    waiting = desk.writer.put(desk.ones, 1)
    await desk.writer.close()
    assert waiting.done()
    with pytest.raises(StoreError):
        desk.writer.put(desk.ones, 2)
    assert desk.done == [("one", [1])]


class Source:
    """Answers in order, each when it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.gates: list[asyncio.Event] = []

    async def is_asked(self, times: int) -> None:
        for _ in range(200):
            if self.asked >= times:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"asked {self.asked} times, not {times}")

    async def ask(self) -> int:
        self.asked += 1
        number, gate = self.asked, asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        return number


async def test_given_a_question_under_way_when_more_ask_then_they_share_one_that_begins_after_they_came() -> None:
    source = Source()
    fresh = Fresh(source.ask, "a-question")
    first = asyncio.create_task(fresh.answer(60))
    await asyncio.sleep(0)
    later = [asyncio.create_task(fresh.answer(60)) for _ in range(3)]
    await asyncio.sleep(0)
    assert source.asked == 1
    source.gates[0].set()
    await source.is_asked(2)
    source.gates[1].set()
    assert [await first, *[await one for one in later]] == [1, 2, 2, 2]


async def test_given_a_question_that_hangs_when_another_asks_then_it_is_not_waited_for_longer_than_it_may() -> None:
    source = Source()
    fresh = Fresh(source.ask, "a-question")
    hangs = asyncio.create_task(fresh.answer(60))
    await asyncio.sleep(0)
    second = asyncio.create_task(fresh.answer(0.001))
    await source.is_asked(2)
    source.gates[1].set()
    assert await second == 2
    await fresh.close()
    with pytest.raises(asyncio.CancelledError):
        await hangs


async def test_given_a_run_under_way_when_more_want_one_then_they_share_the_one_after_it() -> None:
    source = Source()

    async def run() -> None:
        await source.ask()

    runs = OneAtATime(run, "a-run")
    first = asyncio.create_task(runs.run())
    await asyncio.sleep(0)
    later = [asyncio.create_task(runs.run()) for _ in range(3)]
    await asyncio.sleep(0)
    assert source.asked == 1
    source.gates[0].set()
    await first
    await source.is_asked(2)
    source.gates[1].set()
    async with asyncio.timeout(5):
        await asyncio.gather(*later)
    assert source.asked == 2
    await runs.close()
