"""Commands from outside that change levels: what each does, that it does it once, and what it refuses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness import MakeWorld, World

from exitfsm import ExitType, PolicyChanged, StopMoved
from exitfsm.control import Answer, Control, connect, serve
from exitfsm.control.protocol import Malformed, Request, line_of, request_of
from exitfsm.events import CommandGiven

ID = "00000000deadbeef"


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside the store is this test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


async def give(world: World, command: Callable[[Control], Answer]) -> Answer:
    """A command from a thread of its own, to a manager that is served for as long."""
    control, work = connect(world.store_path), Future[Answer]()

    def run() -> None:
        try:
            work.set_result(command(control))
        except BaseException as error:
            work.set_exception(error)

    async with serve(world.manager):
        threading.Thread(target=run, daemon=True).start()
        while not work.done():
            await asyncio.sleep(0.002)
    return work.result()


def of(world: World, kind: type[Any]) -> list[Any]:
    return [event for _, event in world.events if isinstance(event, kind)]


async def test_a_stop_is_put_somewhere_and_the_answer_says_from_where(world: World) -> None:
    await world.bar(101)
    answer = await give(world, lambda c: c.set_stop("aapl", "97.5", reason="earnings"))
    assert (answer.code, answer.lines) == (0, ("AAPL: stop 99 → 97.5",))
    [moved] = of(world, StopMoved)
    [given] = of(world, CommandGiven)
    assert (moved.rule, moved.stop, moved.why) == (ExitType.OPERATOR, Decimal("97.5"), "earnings")
    assert moved.by == f"{given.by} #{given.command_id}"
    assert given.given == ("97.5",)
    answer = await give(world, lambda c: c.set_stop("AAPL", 102))
    assert answer.lines == ("AAPL: stop 97.5 → 102; the last price 101 is beyond it: it exits at the next price",)
    await world.bar(101)
    assert world.position.reason == "operator"
    answer = await give(world, lambda c: c.set_stop("AAPL", 90))
    assert answer.code == 1
    assert "a stop does not change an exit that is under way" in answer.lines[0]
    assert not world.alarm_kinds


async def test_settings_are_given_and_taken_back_and_the_answer_says_what_has_changed(world: World) -> None:
    answer = await give(world, lambda c: c.set_policy("AAPL", "stop_loss.price=95", "profit_taking.threshold_pct=5"))
    assert answer.lines == ("AAPL: target 2 % → 5 %, stop at none → 95, by settings of its own",)
    answer = await give(world, lambda c: c.set_policy("AAPL", "stop_loss.price=105"))
    assert answer.code == 1
    assert "the stop of a long must be below its entry at 100, and 105 is not" in answer.lines[0]
    answer = await give(world, lambda c: c.set_policy("AAPL", "stop_loss.prize=105", "x"))
    assert answer.code == 1
    assert "nothing was changed" in answer.lines[0]
    await world.restart()
    assert world.position.policy.stop_loss.price == 95
    answer = await give(world, lambda c: c.set_policy("AAPL"))
    assert answer.code == 0
    assert [(e.own, e.policy.stop_loss.threshold_pct) for e in of(world, PolicyChanged)] == [(True, 1), (False, 1)]


@pytest.mark.parametrize(
    ("verb", "given", "kind"),
    [("set-stop", ("97",), StopMoved), ("set-policy", ("stop_loss.threshold_pct=3",), PolicyChanged)],
)
async def test_a_command_takes_effect_once_also_after_a_kill_before_its_answer(
    make_world: MakeWorld, verb: str, given: tuple[str, ...], kind: type[Any]
) -> None:
    world = await make_world()
    await world.enter(10, at=100)

    def command(c: Control) -> Answer:
        return c.command(verb, "AAPL", given=given, command_id=ID)

    first = await give(world, command)
    assert first.code == 0
    assert (await give(world, command)).again
    other = await give(world, lambda c: c.command(verb, "AAPL", given=("0.5",), command_id=ID))
    assert other.code == 2
    await world.restart()
    again = await give(world, command)
    assert again.again
    assert again.lines == first.lines
    assert len(of(world, kind)) == 1


async def test_a_command_whose_manager_was_killed_before_its_answer_is_not_carried_out_again(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exitfsm.control.desk import Desk

    async def lost(*_: object) -> None:
        """The manager ends before the answer is stored."""

    world = await make_world()
    await world.enter(10, at=100)
    with monkeypatch.context() as patch:
        patch.setattr(Desk, "_record_answer", lost)
        await give(world, lambda c: c.command("set-stop", "AAPL", given=("97",), command_id=ID))
    await world.restart()
    await world.manager.set_stop("AAPL", 96)
    answer = await give(world, lambda c: c.command("set-stop", "AAPL", given=("97",), command_id=ID))
    assert "took effect before the manager ended" in answer.lines[0]
    assert [event.stop for event in of(world, StopMoved)] == [97, 96]


async def test_without_a_file_there_is_nothing_to_read_anew(world: World) -> None:
    answer = await give(world, lambda c: c.reload())
    assert answer.code == 0
    assert answer.lines == ("nothing of the settings has changed",)


@pytest.mark.parametrize(
    ("verb", "subjects", "given", "why"),
    [
        ("set-stop", ("AAPL",), (), "needs to know what"),
        ("set-stop", (), ("1",), "needs to know which"),
        ("set-stop", ("AAPL",), ("0",), "is no price"),
        ("set-stop", ("AAPL",), ("nan",), "is no price"),
        ("set-stop", ("AAPL",), ("1", "2"), "needs one number"),
        ("set-policy", ("AAPL",), (), "needs to know what"),
        ("set-policy", ("AAPL",), ("x" * 201,), "at most"),
        ("release", ("AAPL",), ("1",), "takes no settings"),
        ("exit", ("AAPL",), ("none",), "is no quantity"),
        ("exit", ("AAPL",), ("1", "2"), "is no quantity"),
        ("exit", ("AAPL", "MSFT"), ("1",), "a quantity is of one symbol"),
    ],
)
def test_what_is_no_such_command_is_refused(
    verb: str, subjects: tuple[str, ...], given: tuple[str, ...], why: str
) -> None:
    request = Request(version=1, verb=verb, within=1.0, id=ID, subjects=subjects, given=given)
    with pytest.raises(Malformed, match=why):
        request_of(line_of(request))
