"""A sample event and a sample command, added to a copy of the package by their recipes, go all the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import COMMAND, EVENT, Recipe, apply

import exitfsm

PACKAGE = Path(exitfsm.__file__).parent
ROOT = Path(__file__).parents[2]
#: A note is made while the position is held and after it has ended; everything that reads a log reads it.
STORY = """
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import exitfsm
from exitfsm import *
from exitfsm import audit, report, words

assert Path(exitfsm.__file__).is_relative_to(sys.argv[1]), exitfsm.__file__
AT, path = datetime(2024, 3, 4, 15, tzinfo=UTC), Path(sys.argv[1], "exits.db")
bars = [Bar("ACME", AT + timedelta(minutes=i), p, p, p, p) for i, p in enumerate((100, 101, 103, 103))]
with ExitStore(path) as store:
    result = simulate(bars, store=store)
    stream = store.stream_ids()[0]
    TELL
    position = replay(r.event for r in store.stream(stream))
    assert position.state is State.FILLED
    note = store.stream(stream)[-1]
    assert note.event == NoteTaken(text="looked at", by="anna", at=AT), note
    print(store.stream(stream)[-1].by, words.in_words(position, position, note.event))
    assert store.verify_read_models() == []
    store.rebuild()
    verified = verify(store)
    assert verified.ok, verified
    assert explain(store, stream).state is State.FILLED
    assert "looked at" in "".join(audit.export_jsonl(store))
    assert "looked at" in report.position_page(store, stream)
"""
APPEND = """
    event = NoteTaken(text="looked at", by="anna", at=AT)
    store.append(stream, len(store.stream(stream)), [event], at=AT, by="bot")
"""
DECIDE = """
    p = replay(r.event for r in store.stream(stream))
    events = decide(p, TakeNote(at=AT, text="looked at", who="anna"))
    store.append(stream, p.version, events, at=AT, by=TakeNote.by)
"""


def copied(folder: Path, *recipes: Recipe) -> None:
    """A copy of the package with the recipes in it."""
    shutil.copytree(PACKAGE, folder / "exitfsm", ignore=shutil.ignore_patterns("__pycache__"))
    for recipe in recipes:
        read = {file: (folder / "exitfsm" / file).read_text(encoding="utf-8") for file in recipe}
        for file, text in apply(recipe, "exitfsm", read).items():
            (folder / "exitfsm" / file).write_text(text, encoding="utf-8")


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'adapters'}", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipes", "tell", "said"),
    [((EVENT,), APPEND, "bot looked at (anna)"), ((EVENT, COMMAND), DECIDE, "operator looked at (anna)")],
    ids=["event", "command"],
)
def test_a_sample_goes_all_the_way(recipes: tuple[Recipe, ...], tell: str, said: str, tmp_path: Path) -> None:
    copied(tmp_path, *recipes)
    assert run(tmp_path, "-c", STORY.replace("TELL", tell.strip()), str(tmp_path)) == f"{said}\n"
    if len(recipes) == 1:
        assert "looked at (anna)" in run(tmp_path, "-m", "exitfsm", "history", "exits.db")
        shutil.copytree(ROOT / "docs", tmp_path / "docs")
        run(tmp_path, "docs/generate.py")
        assert "### NoteTaken" in (tmp_path / "docs" / "reference" / "events.md").read_text(encoding="utf-8")


def test_the_files_that_each_touches() -> None:
    page = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
    assert [file for file in (*EVENT, *COMMAND) if f"`{file}`" not in page] == []
    assert sorted(EVENT) == ["__init__.py", "events.py", "lifecycle.py", "position/folding.py", "words.py"]
    assert sorted(COMMAND) == ["__init__.py", "messages.py", "position/deciding.py", "position/operating.py"]
