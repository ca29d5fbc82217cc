"""The documentation says what the code does: made pages are fresh, links lead somewhere, examples run."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

import exitfsm
from exitfsm.config import reference_table
from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS
from exitfsm.lifecycle import State

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md")])


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = _generator()


@pytest.fixture
def generator() -> ModuleType:
    return GENERATOR


def test_every_made_page_is_made_by_the_generator() -> None:
    made = {path.name for path in (ROOT / "docs").rglob("*.md") if GENERATOR.MADE.strip() in path.read_text("utf-8")}
    assert made == set(GENERATOR.PAGES)


@pytest.mark.parametrize("name", GENERATOR.PAGES)
def test_a_made_page_says_what_the_code_says(generator: ModuleType, name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == generator.PAGES[name](), f"docs/reference/{name} is stale: run python3 dev docs"


def test_a_changed_page_is_found_stale(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "HERE", tmp_path)
    assert generator.main([]) == 0
    assert generator.stale() == []
    (tmp_path / "states.md").write_text("something else", encoding="utf-8")
    assert generator.stale() == ["states.md"]
    assert generator.main(["--check"]) == 1


def test_every_state_event_and_setting_has_its_place_in_the_reference() -> None:
    states, events, config = (
        (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        for name in ("states.md", "events.md", "config.md")
    )
    assert all(f"`{state}`" in states for state in State)
    assert all(f"### {event.__name__}" in events for event in (*POSITION_EVENTS, *ACCOUNT_EVENTS))
    assert all(f"`{row.key}`" in config for row in reference_table())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_holds_two_versions_of_a_line_as_a_merge_leaves_them(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^(<{7}|>{7}|={7}$)", text, re.MULTILINE), f"{page.name}: merge it"


def test_everything_public_is_there_and_says_what_it_is() -> None:
    for name in exitfsm.__all__:
        thing = getattr(exitfsm, name)
        if isinstance(thing, (type, FunctionType)):
            assert (thing.__doc__ or "").strip(), f"exitfsm.{name} has no docstring"


def test_the_example_bot_ends_in_real_exits() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "bot.py")], capture_output=True, text=True, timeout=60, check=True
    )
    assert "exit profit_take" in done.stdout
    assert "exit stop_loss" in done.stdout
    assert "still" not in done.stdout


def test_importing_the_library_leaves_out_what_only_some_uses_need() -> None:
    code = "import sys, exitfsm; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "exitfsm" in loaded
    assert loaded.isdisjoint(
        {"pydantic", "yaml", "typer", "rich", "alpaca", "pandas", "numpy", "hypothesis", "asyncio"}
    )
