"""What a person is told where a command comes to nothing: one line, exit code 1 or 2, and nothing half done.

Each case is the command line as a person types it, in a process that holds the real manager, or an impostor.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from harness import World
from test_steering import TOKEN, commands, runtime_folder, steered
from test_steering_hard import Impostor

pytest.importorskip("typer")

from exitfsm.cli import _run
from exitfsm.cli.app import app
from exitfsm.control import server as server_module
from exitfsm.control.client import TOKEN as TOKEN_NAME
from exitfsm.events import CommandAnswered, ExitTriggered
from exitfsm.testing import Hang

__all__ = ["runtime_folder"]
Case = Callable[[World, pytest.MonkeyPatch], AbstractAsyncContextManager[list[str]]]


async def typed(*words: str) -> int:
    """The exit code of what a person types, in a thread of its own."""
    work: Future[int] = Future()
    threading.Thread(target=lambda: work.set_result(_run(app, list(words))), daemon=True).start()
    while not work.done():
        await asyncio.sleep(0.002)
    return work.result()


# --- cases: each gives what is typed beside the verb and the store ----------------------------------------------------


@asynccontextmanager
async def no_manager(world: World, _: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    await world.stop()
    Path(f"{world.store_path}.lock").write_text("0")
    yield []
    await world.restart_in_order()


@asynccontextmanager
async def one_that_does_not_listen(_: World, __: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    yield []


def one_that_says(greeting: bytes) -> Case:
    @asynccontextmanager
    async def says(world: World, _: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{world.store_path}.sock")
            impostor = Impostor(listener, greeting)
            yield ["--wait", "2"]
            assert b"exit" not in impostor.heard

    return says


@asynccontextmanager
async def a_wrong_token(world: World, patch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    patch.setenv(TOKEN_NAME, "a-token-that-is-not-it")
    patch.setattr(server_module, "WRONG_TOKEN_S", 0.0)
    async with steered(world, listen="127.0.0.1:0", token=TOKEN) as server:
        yield ["--connect", f"127.0.0.1:{server.port}"]


@asynccontextmanager
async def a_busy_one(world: World, patch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    patch.setattr(server_module, "CLIENTS_MAX", 0)
    async with steered(world):
        yield ["--wait", "0.5"]


@asynccontextmanager
async def a_full_disk(world: World, _: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """`max_page_count` makes SQLite say at the commit just what it says when the disk is full."""
    world.expected |= {"not_stored", "task_failed"}
    store, mailbox = world.manager.store, world.manager._at_work.context.mailbox

    def pages(more: int) -> None:
        store._rows(f"PRAGMA max_page_count = {store._rows('PRAGMA page_count')[0][0] + more}")

    async with steered(world) as server:
        await mailbox.run(lambda: pages(0))
        for size in (500, 150, 0):  # what is left of the last pages is filled
            while await typed("sync", str(world.store_path), "--reason", "x" * size) == 0:
                pass
        given = len(commands(world))
        yield []
        assert len(commands(world)) == given
        await mailbox.run(lambda: pages(100_000))
        assert server.path is not None
        assert await typed("exit", str(world.store_path), "AAPL", "--yes") == 0  # room was made
        await world.settle()
        assert len(world.orders) == 1
        assert len([e for _, e in world.events if isinstance(e, ExitTriggered)]) == 1


CASES: dict[str, tuple[Case, int, str]] = {
    "nobody": (no_manager, 2, "nobody drives"),
    "a bot without a socket": (one_that_does_not_listen, 2, "and does not listen at"),
    "an older manager": (one_that_says(b'{"v":0,"nonce":"n"}\n'), 2, "the manager 0: upgrade the manager"),
    "a newer manager": (one_that_says(b'{"v":9,"nonce":"n"}\n'), 2, "the manager 9: upgrade this exitfsm"),
    "something else": (one_that_says(b"220 mail.example.org ESMTP\n"), 2, "the answer is not understood"),
    "a wrong token": (a_wrong_token, 2, "the token is wrong"),
    "a busy manager": (a_busy_one, 1, "commands are under way; nothing was done: give it again"),
    "a full disk": (a_full_disk, 1, "the disk is full and nothing was stored: free space"),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_command_that_comes_to_nothing_is_one_line_and_nothing_is_half_done(
    case: str, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrange, code, words = CASES[case]
    async with arrange(world, monkeypatch) as more:
        capsys.readouterr()
        before = len(commands(world))
        assert await typed("exit", str(world.store_path), "AAPL", "--yes", *more) == code
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith("exitfsm: error: ")
        assert words in line
        assert TOKEN not in line
        assert "Traceback" not in line
        assert len(commands(world)) == before
        assert world.orders == []


async def test_a_command_that_is_answered_too_late_names_its_id_and_counts_once(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    hang = Hang("first")
    async with steered(world):
        world.broker.answer("positions", hang)
        assert await typed("sync", str(world.store_path), "--wait", "0.5") == 2
        (line,) = capsys.readouterr().err.splitlines()
        command_id = line.rpartition("--id ")[2].split(",")[0]
        hang.release()
        assert await typed("sync", str(world.store_path), "--id", command_id) == 0
    assert len([c for c in commands(world) if not isinstance(c, CommandAnswered)]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exit", "AAPL", "--yes", "--qty", "none"], "'none' is no quantity: exit takes one number above 0"),
        (["exit", "AAPL", "MSFT", "--yes", "--qty", "3"], "a quantity is of one symbol: name one"),
        (["exit", "AAPL"], "exit: nobody can be asked here: say --yes"),
        (["ignore", "AAPL"], "ignore: nobody can be asked here: say --yes"),
        (["exit", "--yes"], "Missing argument 'SYMBOL"),
        (["pause", "--id", "x"], "'x' is no command's id"),
    ],
)
async def test_what_is_typed_wrongly_does_nothing(
    words: list[str], said: str, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoTerminal:
        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", NoTerminal())
    verb, *rest = words
    async with steered(world):
        assert await typed(verb, str(world.store_path), *rest) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert commands(world) == []
    assert world.orders == []
