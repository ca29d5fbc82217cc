"""The rules of the room: what a broker's books prove is decided without a clock, tasks, files, logs or a memory."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import exitfsm.holdings

ROOM = sorted(Path(exitfsm.holdings.__file__).parent.glob("*.py"))
#: The library's own modules that it may import; of the standard library, what has no effect.
OURS = {"holdings", "position", "kinds", "policy", "messages", "ports", "values", "events", "lifecycle", "errors"}
OURS |= {"order_ids", "choices"}
HARMLESS = {
    "__future__",
    "collections",
    "datetime",
    "decimal",
    "enum",
    "functools",
    "itertools",
    "math",
    "msgspec",
    "typing",
}
#: Calls that ask a clock, speak with the outside, or make something up.
EFFECTS = {"now", "utcnow", "today", "monotonic", "open", "print", "input", "eval", "exec", "globals", "setattr"}


def nodes(path: Path) -> Iterator[ast.AST]:
    """All of a module's syntax tree."""
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def broken_rules(path: Path) -> Iterator[str]:
    """Each place of a module that breaks a rule of the room."""
    for node in nodes(path):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                top, *rest = name.split(".")
                if top not in HARMLESS and not (top == "exitfsm" and rest and rest[0] in OURS):
                    yield f"{where} imports {name}"
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global | ast.Nonlocal):
            yield f"{where} has a {type(node).__name__}"
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in EFFECTS:
                yield f"{where} calls {called}"
        elif isinstance(node, ast.ClassDef) and not frozen(node):
            yield f"{where} has a class that is not frozen: {node.name}"


def frozen(node: ast.ClassDef) -> bool:
    """True for a class whose instances nobody changes."""
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    named = {
        keyword.arg for keyword in node.keywords if isinstance(keyword.value, ast.Constant) and keyword.value.value
    }
    return bool(bases & {"Enum", "StrEnum", "NamedTuple"}) or "frozen" in named


@pytest.mark.parametrize("path", ROOM, ids=lambda path: path.name)
def test_the_rules_of_the_room_are_kept(path: Path) -> None:
    assert list(broken_rules(path)) == []


def test_what_breaks_them_is_found(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import time\nfrom exitfsm.manager import x\nfrom exitfsm import y\nSEEN = {}\n"
        "async def f():\n    await g()\n    datetime.now()\nclass A:\n    pass\ndef h():\n    global SEEN\n",
        encoding="utf-8",
    )
    assert len(list(broken_rules(bad))) == 8


@pytest.mark.parametrize("path", ROOM, ids=lambda path: path.name)
def test_no_module_remembers_anything(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    mutable = [
        ast.unparse(node) for node in kept if isinstance(node.value, ast.Dict | ast.Set | ast.DictComp | ast.Call)
    ]
    figure = re.compile(r"= (Decimal|float)\('[-.a-z0-9]+'\)$")
    assert [text for text in mutable if not text.startswith("NEVER") and not figure.search(text)] == []
    assert all(ast.unparse(node).startswith("__all__") for node in kept if isinstance(node.value, ast.List))


def test_the_room_is_small() -> None:
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in ROOM}
    assert max(lines.values()) <= 450
