"""The pages that stand at the front: their language is plain, and what they name is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import exitfsm

ROOT = Path(__file__).parents[1]
PACKAGE = Path(exitfsm.__file__).parent
#: A sentence has fewer words than this, on average over a page.
WORDS_MAX = 25
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def words_of_a_sentence(text: str) -> float:
    """How many words a sentence has, on average. Tables and code are left out; a point of a list is a sentence."""
    text = re.sub(r"^```.*?^```|^\|.*?$|^#.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    sentences = re.split(r"[.!?:;](?:\s|\*|$)|\n\s*\n|\n(?:[-*]|\d+\.) ", text)
    counts = [len(words) for words in (re.findall(r"\w[\w'/.=-]*", one) for one in sentences) if words]
    return sum(counts) / len(counts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_written_in_short_sentences(page: Path) -> None:
    assert words_of_a_sentence(page.read_text(encoding="utf-8")) < WORDS_MAX


def test_long_sentences_are_found() -> None:
    assert words_of_a_sentence("A word. " + "word " * 60 + ". A word, `too`.") > 20
    assert words_of_a_sentence("Two words. " * 9) == 2


def test_each_source_of_the_comparison_is_used_and_is_there() -> None:
    text = (ROOT / "docs" / "explanation" / "comparison.md").read_text(encoding="utf-8")
    table, _, sources = text.partition("## Sources")
    assert {int(n) for n in re.findall(r"\[(\d+)\]", table)} == {
        int(n) for n in re.findall(r"^(\d+)\. ", sources, re.M)
    }


def anchors(page: Path) -> set[str]:
    """What a heading of the page is called in links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_to_a_part_of_a_page_leads_to_a_heading(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target, part in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        assert part in anchors((page.parent / target) if target else page), f"{page.name}: {target}#{part}"


def test_each_claim_of_reliability_has_its_command_and_its_notes() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "|---" not in line][1:]
    assert len(rows) > 8
    assert [row[0] for row in rows if len(row) != 3 or not re.search(r"`[^`]+`", row[1])] == []
    for place in re.findall(r"`[^`]*?(tests/[\w/.]+)`", text):
        assert (ROOT / place).exists(), place


# --- the recipes ------------------------------------------------------------------------------------------------------


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECIPES, SAMPLE_RULE = (loaded(ROOT / "tests" / name) for name in ("recipes/recipes.py", "test_sample_rule.py"))


def section(name: str) -> str:
    return CONTRIBUTING.partition(f"\n### {name}\n")[2].partition("\n### ")[0]


def named_files(name: str) -> set[str]:
    """The files of the package that a recipe of the page names between `Files:` and the end of that sentence."""
    sentence = re.search(r"Files: (.*?`)(?: \([^)]*\))?\.(?=\s)", section(name), re.DOTALL)
    assert sentence is not None, f"no files are named for {name}"
    return {one for one in re.findall(r"`([^`]+)`", sentence[1]) if one.endswith(".py")}


def test_the_files_of_a_rule_are_those_of_the_sample() -> None:
    sample = {file.replace("vwap_stop", "NAME") for file in SAMPLE_RULE.TOUCHED}
    named = set(re.findall(r"`(policy/[^`]+\.py)`", section("A rule").partition("Sample:")[0]))
    assert named == sample


@pytest.mark.parametrize(("name", "recipe"), [("An event", "EVENT"), ("A command", "COMMAND")])
def test_the_files_of_a_recipe_are_those_that_the_sample_touches(name: str, recipe: str) -> None:
    assert named_files(name) == set(getattr(RECIPES, recipe))


def is_there(name: str) -> bool:
    """True for a file of the repository, of the package, or for an adapter, which a wheel has beside the package."""
    beside = PACKAGE.parent / Path(name).name if name.startswith("adapters/") else ROOT / name
    return any(place.exists() for place in (ROOT / name, PACKAGE / name, beside))


def test_every_file_that_the_recipes_name_is_there() -> None:
    named = set(re.findall(r"`([\w/.]+)`", CONTRIBUTING.partition("## Recipes")[2]))
    places = [one for one in named if ("/" in one or one.endswith(".py")) and "NAME" not in one]
    assert len(places) > 20
    assert [one for one in places if not is_there(one)] == []
    besides = set(re.findall(r"\b[\w/]+\.(?:py|txt)\b", " ".join(RECIPES.BESIDE)))
    assert [one for one in besides if not is_there(one)] == []


# --- decisions --------------------------------------------------------------------------------------------------------

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_has_number_status_date_and_alternatives(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    number = int(page.name.partition("-")[0])
    head = rf"# {number}\. \S.*\n\nStatus: (accepted|superseded by \d+), 20\d\d-\d\d-\d\d\n\n\S"
    assert re.match(head, text), f"{page.name} begins otherwise"
    assert re.search(r"\n## Alternatives\n\n- ", text), f"{page.name} names no alternative"


def test_decisions_are_numbered_in_one_row() -> None:
    assert [int(page.name.partition("-")[0]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
