"""What README and the pages show is run as it stands: commands with what they print, settings, and Python.

Each page has a folder of its own with what it takes for granted: the examples, and a store where it speaks of one. A
command that is not run is named here, with the reason; where it is one of ours its options are asked for all the same.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exitfsm import Bar, ManualClock, SimulatedBroker, load_config

pytest.importorskip("typer")

ROOT = Path(__file__).parents[1]
BARS = ROOT / "examples" / "bars"
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
#: How a command begins that is not run, and why.
NOT_RUN = {
    "python3 dev ": "makes the environment that this runs in",
    "HYPOTHESIS_PROFILE=brief python3 dev ": "the same",
    "pip install ": "fetches",
    "python3 -m venv .venv ": "this is one: `python3 dev follow` makes a new one",
    "createdb ": "needs a server: test_postgres.py has one",
    "litestream ": "tests/manager/test_litestream.py does",
    "export APCA_": "keys",
    "exitfsm alerts test ": "calls a person: tests/alerts/test_alerts_cli.py",
    "exitfsm preflight ": "needs an account: tests/alpaca/test_alpaca_cli.py has one",
    "exitfsm run --broker alpaca ": "the same",
    "EXITFSM_ALPACA_PAPER=1 ": "the same, a real one",
    "python -m exitfsm.testing.alpaca_server ": "never ends: tests/alpaca/test_alpaca_server.py starts it",
    "python examples/alpaca_bot.py ": "tests/alpaca/test_alpaca_example.py does",
    'exitfsm status "postgresql://': "needs a server: test_postgres.py has one",
    'exitfsm verify "postgresql://': "the same",
    'exitfsm owner "postgresql://': "the same: test_ownership.py",
    'exitfsm copy exits.db "postgresql://': "the same",
    'exitfsm copy "postgresql://': "the same",
}
#: Pages whose Python is run elsewhere, or speaks of what is not here; that it is Python is looked at all the same.
PYTHON_NOT_RUN = {
    "docs/how-to/prove-your-broker.md": "tests/kit/test_kit.py does",
    "docs/how-to/configure.md": "needs positions: tests/manager/test_changed_settings.py has them",
    "docs/how-to/alpaca.md": "tests/alpaca/test_alpaca_example.py runs the same lines",
    "docs/how-to/scale-out.md": "needs a server",
    "docs/how-to/operate.md": "needs a manager that runs: tests/manager/test_steering.py has one",
}


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[name], re.DOTALL | re.MULTILINE)


def commands(name: str) -> list[tuple[str, list[str]]]:
    """The commands of a page, each with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks(name, "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:].partition("  #")[0].strip(), []))
            else:
                found[-1][1].append(line)
    return found


def prints(expected: list[str], said: str) -> str:
    """Why what was said is not what is expected, in which `…` stands for anything; empty where it is."""
    lines, at, anywhere = [line.rstrip() for line in said.splitlines()], 0, False
    for line in expected:
        if line == "…":
            anywhere = True
            continue
        wanted = re.compile(re.escape(line.rstrip()).replace("…", ".*"))
        places = [n for n in range(at, len(lines)) if wanted.fullmatch(lines[n])]
        if not places or not (anywhere or places[0] == at):
            return f"the page says {line!r}; it says {lines[at : at + 1]}, of:\n{said}"
        at, anywhere = places[0] + 1, False
    return "" if anywhere or at == len(lines) or not expected else f"more is said than {expected[-1]!r}:\n{said}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples in it, in which `exitfsm` and `.venv/bin/exitfsm` are this package."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program, module in (("exitfsm", "-m exitfsm"), ("python", "")):
        (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (programs / program).chmod(0o755)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(command: str) -> str:
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done.stdout


def granted(name: str) -> None:
    """Make what a page takes for granted."""
    Path("elsewhere").mkdir()
    if shown := re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', TEXTS[name], re.DOTALL | re.MULTILINE):
        for named, content in shown:
            Path(named).write_text(content)
        return
    for settings in blocks(name, "yaml"):
        text = Path("trading.yaml").read_text() if Path("trading.yaml").exists() else "exit_manager:\n"
        Path("trading.yaml").write_text(text + settings.partition("exit_manager:\n")[2])
    for number, text in enumerate(blocks(name, "text")):
        if text.startswith("symbol,timestamp"):
            Path("acme.csv" if number == 0 else f"acme{number}.csv").write_text(text)
    if name == "docs/how-to/simulate.md":
        shutil.copy(BARS / "SPY.csv", "AAPL.csv")
        with zipfile.ZipFile("BTCUSDT-1m-2026-01.zip", "w") as packed:
            packed.writestr("BTCUSDT-1m-2026-01.csv", klines())
    elif not any("exitfsm simulate " in command for command, _ in commands(name)):
        shell("exitfsm simulate examples/bars/*.csv --re-enter --store exits.db")


def klines() -> str:
    rows = ((1767225600000 + minute * 60_000, 100 + minute % 5) for minute in range(30))
    return "".join(f"{at},{p},{p},{p},{p},1.5,{at + 59_999},150,3,0.7,70,0\n" for at, p in rows)


def why_not(command: str) -> str:
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), "")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the pages speak of a POSIX shell")
@pytest.mark.parametrize("name", [name for name in PAGES if commands(name)])
def test_the_commands_of_a_page_run_as_they_stand(name: str, folder: Path) -> None:
    granted(name)
    for command, expected in commands(name):
        if not why_not(command):
            wrong = prints(expected, shell(command.replace("/mnt/", f"{folder}/")))
            assert not wrong, f"{name}: $ {command}\n{wrong}"
        elif command.startswith("exitfsm "):
            shell(f"{command} --help")  # an option that there is not is refused before that


def test_every_reason_not_to_run_a_command_is_still_needed() -> None:
    every = [command for name in PAGES for command, _ in commands(name)]
    assert len(every) > 30
    assert {start for start in NOT_RUN if not any(command.startswith(start) for command in every)} == set()


@pytest.mark.parametrize("name", [name for name in PAGES if blocks(name, "yaml")])
def test_the_settings_of_a_page_are_taken(name: str, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(name, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert load_config(path) is not None


@pytest.mark.parametrize("name", [name for name in PAGES if blocks(name, "python")])
def test_the_python_of_a_page_is_python_and_imports_what_there_is(name: str) -> None:
    for text in blocks(name, "python"):
        compile(text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(ast.parse(text)):
            ours = isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "exitfsm"
            if ours:
                exec(ast.unparse(node), {})


class Bus:
    """The bot's own events, one of each kind, and its end."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        yield a_bar()
        yield an_update()


def a_bar() -> Bar:
    return Bar("SPY", datetime(2013, 10, 7, 14, tzinfo=UTC), 167, 168, 166, 167)


def an_update() -> dict[str, Any]:
    return {"client_order_id": "b-1", "status": "filled", "filled_qty": 1, "symbol": "SPY", "side": "buy"}


async def nothing(_: Any) -> None:
    """What a part of the bot does."""


class Client(SimulatedBroker):
    """What `MyBroker` wraps, and the rest of what it hands through."""

    def submit_order(self, **order: Any) -> dict[str, Any]:
        raise AssertionError(f"nothing is held, and {order} was sent")


def world(name: str) -> dict[str, Any]:
    """The bot around the lines of a page: what they name and do not make."""
    there = {
        **{"broker": Client(), "client": Client(), "bar": a_bar(), "update": an_update(), "account_number": "1"},
        **{"clock": ManualClock(datetime(2013, 10, 7, 14, tzinfo=UTC)), "page_somebody": print},
        **{"my_bus": Bus(), "BarEvent": Bar, "OrderUpdate": dict, "MyClientRejected": KeyError},
        "my_strategy": SimpleNamespace(on_bar=nothing),
        "my_order_manager": SimpleNamespace(on_update=nothing),
    }
    return {**there, "__name__": name}


async def run(texts: list[str], there: dict[str, Any]) -> None:
    for text in texts:
        made = eval(compile(text, there["__name__"], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), there)
        if made is not None:
            await made
        if "MyBroker" in there:  # of which the page shows one method
            there["MyBroker"].__getattr__ = lambda self, method: getattr(self.client, method)
        if "manager" in there:  # a page shows its start and its end first, and what lies between later
            await there["manager"].start()
    if "risk_check" in there:
        assert there["risk_check"]("SPY", a_bar().timestamp + timedelta(days=1)) in (True, False)
    if "manager" in there:
        await there["manager"].stop()


@pytest.mark.parametrize("name", [name for name in PAGES if blocks(name, "python") and name not in PYTHON_NOT_RUN])
def test_the_python_of_a_page_runs(name: str, folder: Path) -> None:
    granted(name)
    if not Path("trading.yaml").exists():
        Path("trading.yaml").write_text("exit_manager:\n")
    asyncio.run(run(blocks(name, "python"), world(name)))
