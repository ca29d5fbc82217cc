"""The public API is whole: everything that its functions take and hand out is there, and has a type."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

import exitfsm
from exitfsm import messages, testing
from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS
from exitfsm.lifecycle import TABLE
from exitfsm.manager import ExitManager

USERS_BOT = Path(__file__).parent / "api" / "users_bot.py"
SOURCES = Path(exitfsm.__file__).parents[1]


def python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def imported_for_types(module: str) -> set[str]:
    """What a checker of types sees in a module that loads it late."""
    tree = ast.parse(Path(module).read_text(encoding="utf-8"))
    late = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {name.name for node in late for one in node.body if isinstance(one, ast.ImportFrom) for name in one.names}


@pytest.mark.parametrize("module", [exitfsm, testing], ids=lambda module: module.__name__)
def test_what_is_listed_is_there(module) -> None:
    assert len(module.__all__) == len(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("module", [exitfsm, testing], ids=lambda module: module.__name__)
def test_what_is_loaded_late_is_listed_and_has_a_type(module) -> None:
    assert imported_for_types(module.__file__) == set(module._LAZY) <= set(module.__all__)


def test_what_nobody_knows_is_an_attribute_error() -> None:
    for module in (exitfsm, testing):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018  asking is the test


def test_every_event_and_every_message_is_public() -> None:
    events = {*POSITION_EVENTS, *ACCOUNT_EVENTS, *(row.event for row in TABLE)}
    told = {kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, messages.Message)}
    assert len(events) > 20
    assert len(told) > 10
    for kind in (*events, *told, messages.RecordRead):
        assert getattr(exitfsm, kind.__name__, None) is kind, f"exitfsm.{kind.__name__} is missing"
        assert kind.__name__ in exitfsm.__all__


def structs_in(hint: Any) -> Iterator[type]:
    """The structs that a type is made of, at any depth."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
        for field in get_type_hints(hint).values():
            yield from structs_in(field)
    for part in get_args(hint):
        yield from structs_in(part)


@pytest.mark.parametrize("whole", [exitfsm.ExitPolicy, exitfsm.Capabilities])
def test_every_part_of_what_is_public_is_public(whole: type) -> None:
    missing = {part.__name__ for part in structs_in(whole)} - set(exitfsm.__all__)
    assert missing == set()


def test_the_main_door_takes_a_broker() -> None:
    assert exitfsm.ExitManager is ExitManager
    assert get_type_hints(ExitManager.__init__)["broker"] is exitfsm.Broker


@pytest.mark.parametrize(
    "code",
    [
        "from exitfsm import simulate",
        "from exitfsm.simulate import Simulation; from exitfsm import simulate",
        "from exitfsm import simulate; import exitfsm.simulate; from exitfsm import simulate",
    ],
)
def test_simulate_is_the_function_whatever_was_loaded_first(code: str) -> None:
    assert python("-c", f"{code}; print(type(simulate).__name__)") == "function\n"


def test_the_doubles_for_tests_need_no_test_library() -> None:
    code = "import sys, exitfsm.testing; print({'pytest', 'hypothesis', 'aiohttp'} & set(sys.modules))"
    assert python("-c", code) == "set()\n"


def test_a_users_bot_runs(tmp_path: Path) -> None:
    said = python(str(USERS_BOT), str(tmp_path / "exits.db")).splitlines()
    assert said == [
        "live: profit_take 10 completed 10",
        "state: True verified: True",
        "simulated: profit_take decided: monitoring",
    ]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mypy") is None, reason="needs mypy")
def test_a_users_bot_has_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if SOURCES.name != "site-packages":
        monkeypatch.setenv("MYPYPATH", str(SOURCES))
    monkeypatch.chdir(tmp_path)  # no settings of ours
    strict = ("-m", "mypy", "--strict", "--follow-imports", "silent", "--cache-dir", str(tmp_path))
    python(*strict, str(USERS_BOT))
    wrong = USERS_BOT.read_text(encoding="utf-8")
    for right, instead in (
        ("async def submit(self, order: Order) -> ExecutionReport:", "async def submit(self, order: int) -> object:"),
        ("explain(store, stream).state == State.FILLED", "explain(store, stream).stat == State.FILLED"),
        ("on_alarm=on_alarm", "on_alarm=on_event"),
    ):
        assert right in wrong
        wrong = wrong.replace(right, instead)
    Path("wrong.py").write_text(wrong, encoding="utf-8")
    done = subprocess.run([sys.executable, *strict, "wrong.py"], capture_output=True, text=True, check=False)
    found = [line.rpartition(" ")[2] for line in done.stdout.splitlines() if ": error:" in line]
    assert {"[arg-type]", "[attr-defined]"} <= set(found), done.stdout
    assert len(found) >= 3
