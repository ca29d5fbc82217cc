"""A running `exitfsm run` steered by real second processes, through kills of it, against the local Alpaca server."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from exitfsm import Bar, ExitStore
from exitfsm.control import Answer, ControlError, connect
from exitfsm.control.client import new_id
from exitfsm.control.deciding import commands_in, names
from exitfsm.events import CommandAnswered, CommandGiven, ExitTriggered, TradingPaused, TradingResumed
from exitfsm.order_ids import looks_like_exit
from exitfsm.testing.alpaca_server import AlpacaServer

PROGRAM = "import sys; from exitfsm.cli import _run; from exitfsm.cli.app import app; sys.exit(_run(app, None))"
CONFIG = "exit_manager:\n  live: {poll_seconds: 0.5, sync_seconds: 1}\n"


class Run:
    """`exitfsm run` as a process that may be killed and started again."""

    def __init__(self, server: AlpacaServer, folder: Path, *args: str, **environment: str) -> None:
        self.server, self.folder, self.args = server, folder, args
        self.store = folder / "exits.db"
        (folder / "trading.yaml").write_text(CONFIG)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("APCA")}
        self.environment = clean | server.environment | environment
        self.program = PROGRAM
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        command = [
            "run",
            "--broker",
            "alpaca",
            "--config",
            str(self.folder / "trading.yaml"),
            "--store",
            str(self.store),
        ]
        with (self.folder / "out").open("ab") as out, (self.folder / "err").open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", self.program, *command, *self.args], env=self.environment, stdout=out, stderr=err
            )
        if wait:
            self.until(self.listens, "it listens")

    def listens(self) -> bool:
        try:
            return bool(connect(self.store).standing().data)
        except ControlError:
            return False

    def until(self, what: Callable[[], Any], say: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert self.process is None or self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, f"never: {say}\n{self.said()}"
            time.sleep(0.05)

    def said(self) -> str:
        return (self.folder / "out").read_text() + (self.folder / "err").read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)

    def exitfsm(self, *args: str) -> subprocess.CompletedProcess[str]:
        """A command in a second process."""
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *args], env=self.environment, capture_output=True, text=True, timeout=180,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip


@contextmanager
def run_of(server: AlpacaServer, folder: Path, *args: str, **environment: str) -> Iterator[Run]:
    run = Run(server, folder, *args, **environment)
    run.start()
    try:
        yield run
    finally:
        if run.process is not None and run.process.poll() is None:
            run.kill()


def priced(server: AlpacaServer, symbol: str, price: float) -> None:
    server.bar(Bar(symbol, datetime.now(UTC), price, price, price, price, 100))


def test_a_person_steers_a_service_from_a_second_process(server: AlpacaServer, tmp_path: Path) -> None:
    server.hold("AAPL", 10, 100, ago_s=600)
    server.hold("MSFT", 5, 300, ago_s=600)
    priced(server, "AAPL", 100)
    priced(server, "MSFT", 300)
    notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notices.bind(str(tmp_path / "n"))
    notices.settimeout(30)
    with run_of(server, tmp_path, NOTIFY_SOCKET=str(tmp_path / "n"), WATCHDOG_USEC="1000000") as run:
        ready = notices.recv(4096)
        assert ready.startswith(b"READY=1\nSTATUS=watching 2 positions")
        assert notices.recv(4096).startswith(b"WATCHDOG=1")
        store = str(run.store)
        assert "everything that account …001 (paper) holds" in run.said()
        assert "AAPL long 10 at 100 (1000)" in run.said()
        assert "it listens at" in run.said()

        asked = run.exitfsm("exit", store, "AAPL")
        assert asked.returncode == 2
        assert "say --yes" in asked.stderr
        assert server.held("AAPL") == 10

        done = run.exitfsm("exit", store, "AAPL", "--yes", "--reason", "news", "--json")
        assert done.returncode == 0, done.stderr
        run.until(lambda: server.held("AAPL") == 0, "AAPL is sold")
        again = run.exitfsm("exit", store, "AAPL", "--yes", "--id", json.loads(done.stdout)["id"])
        assert again.returncode == 0
        assert "given before" in again.stderr
        assert run.exitfsm("exit", store, "NVDA", "--yes").returncode == 1

        flat = run.exitfsm("flatten", store, "--yes", "--reason", "enough", "--timeout", "60")
        assert flat.returncode == 0, flat.stderr + run.said()
        assert "flat: the broker shows nothing held" in flat.stdout
        assert server.held("MSFT") == 0
        assert run.exitfsm("flatten", store, "--yes", "--timeout", "60").returncode == 0  # pressed again
        assert run.exitfsm("resume", store).returncode == 0

        stopped = run.exitfsm("stop", store, "--yes")
        assert stopped.returncode == 0, stopped.stderr
        assert run.process is not None
        assert run.process.wait(60) == 0
        nobody = run.exitfsm("pause", store)
        assert nobody.returncode == 2
        assert "nobody drives" in nobody.stderr
        assert "Traceback" not in nobody.stderr
    notices.close()
    assert len([b for b in server.posts if looks_like_exit(str(b["client_order_id"]))]) == 2
    with ExitStore(run.store, read_only=True) as opened:
        whys = [r.event.detail for r in opened.events() if isinstance(r.event, ExitTriggered)]
    assert [why.rsplit(": ", 1)[1] for why in whys] == ["news", "enough"]


def test_flatten_is_proved_through_kills_of_the_manager(server: AlpacaServer, tmp_path: Path) -> None:
    symbols = ["AAPL", "MSFT", "NVDA"]
    for symbol in symbols:
        server.hold(symbol, 10, 100, ago_s=600)
        priced(server, symbol, 100)
    with run_of(server, tmp_path) as run:
        flatten = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "flatten", str(run.store), "--yes", "--timeout", "100"],
                env=run.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for _ in range(2)
        ]  # fmt: skip
        run.until(lambda: run.said().count("command verb=flatten") == 2, "both were taken")
        run.kill()
        run.start(wait=False)
        ends = [process.communicate(timeout=180) for process in flatten]
        assert [process.returncode for process in flatten] == [0, 0], (ends, run.said())
    assert {server.held(symbol) for symbol in symbols} == {0}
    ids = [str(b["client_order_id"]) for b in server.posts if looks_like_exit(str(b["client_order_id"]))]
    taken = [o for o in server.orders() if looks_like_exit(o["client_order_id"])]
    assert len(taken) == len({o["symbol"] for o in taken}) == 3, ids


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_day_with_a_person_every_command_took_effect_once_or_said_why_not(
    server: AlpacaServer, tmp_path: Path, seed: int
) -> None:
    """Commands from another process at random moments, kills of the manager in between; the log is the witness."""
    chance = random.Random(seed)
    symbols = [f"S{n}" for n in range(8)]
    for symbol in symbols:
        server.hold(symbol, 10, 100, ago_s=600)
        priced(server, symbol, 100)
    given: list[tuple[str, str, tuple[str, ...], Answer | None]] = []
    with run_of(server, tmp_path) as run:
        for _ in range(24):
            verb = chance.choice(["pause", "resume", "exit", "exit", "sync"])
            subjects = (chance.choice(symbols),) if verb == "exit" else ()
            command_id = new_id()
            given.append((command_id, verb, subjects, a_command(run, chance, command_id, verb, *subjects)))
            if run.process is not None and run.process.poll() is not None:
                run.start()
        run.until(run.listens, "it listens at the end")
        answers = {one[0]: connect(run.store).command(one[1], *one[2], command_id=one[0]) for one in given}
        run.until(lambda: bool(connect(run.store).sync().code == 0), "all is known")
    once(run.store, given, answers)
    taken = [o for o in server.orders() if looks_like_exit(o["client_order_id"])]
    assert len(taken) == len({o["symbol"] for o in taken}), "one exit order of each"
    assert all(server.held(symbol) in (0, 10) for symbol in symbols)


def a_command(run: Run, chance: random.Random, command_id: str, verb: str, *subjects: str) -> Answer | None:
    """One command, perhaps with a kill at a random moment after it left; None where no answer came."""
    if chance.random() > 0.25:
        return connect(run.store, patience_s=20).command(verb, *subjects, command_id=command_id)
    client = subprocess.Popen(
        [sys.executable, "-c",
         "import sys; from exitfsm.control import connect; "
         "connect(sys.argv[1], patience_s=1).command(*sys.argv[3:], command_id=sys.argv[2])",
         str(run.store), command_id, verb, *subjects],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=run.environment,
    )  # fmt: skip
    time.sleep(chance.uniform(0.2, 0.9))
    run.kill()
    client.wait(60)
    return None


def once(store: Path, given: list[tuple[str, str, tuple[str, ...], Answer | None]], answers: dict[str, Answer]) -> None:
    """By the log: each command was stored and answered once, and led to no more than one effect of its kind."""
    with ExitStore(store, read_only=True) as opened:
        log = list(opened.events())
    for command_id, verb, _, first in given:
        stored = [r for r in log if isinstance(r.event, CommandGiven) and r.event.command_id == command_id]
        ends = [r for r in log if isinstance(r.event, CommandAnswered) and r.event.command_id == command_id]
        effects = [r.event for r in log if names(r.event, command_id)]
        assert len(stored) == len(ends) == 1, (verb, stored, ends)
        assert len(effects) <= 1, (verb, effects)
        kinds = {"pause": TradingPaused, "resume": TradingResumed, "exit": ExitTriggered}
        assert all(isinstance(effect, kinds[verb]) for effect in effects)
        assert answers[command_id].lines
        if first is not None:
            assert (answers[command_id].code, answers[command_id].lines) == (first.code, first.lines)
            assert answers[command_id].again
    assert len(commands_in(log)) >= len(given)
