"""The site: every page has its place, and what zensical does not find is found in the HTML."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILDER = _builder()
GOOD = '<link rel="stylesheet" href="look.css"><a href="b.html#part">b</a><a href="https://example.org/x">x</a>'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two pages and a style sheet, with nothing wrong."""
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "b.html").write_text('<h2 id="part">Part</h2><a href="a.html">a</a>')
    (tmp_path / "look.css").write_text("")
    assert BUILDER.wrong_in(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ('<a href="c.html">c</a>', "a.html links to c.html, which is not there"),
        ('<a href="b.html#other">b</a>', "a.html links to b.html#other: no such part"),
        ('<a href="#other">here</a>', "a.html links to #other: no such part"),
        ('<img src="picture.png">', "a.html links to picture.png, which is not there"),
        ('<a href="folder/">all</a>', "a.html links to folder/, which is not there"),
        ('<a href="../outside.html">out</a>', "a.html links to ../outside.html, which is not there"),
        ('<script src="https://cdn.example.org/x.js"></script>', "a.html loads https://cdn.example.org/x.js"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "a.html loads //fonts.example.org/x.css"),
    ],
)
def test_a_defect_of_the_site_is_found(site: Path, defect: str, said: str) -> None:
    (site / "folder").mkdir()
    (site / "a.html").write_text(GOOD + defect)
    assert BUILDER.wrong_in(site) == [said]


def names(entries: list[object]) -> list[str]:
    return [
        name
        for entry in entries
        for name in (names(next(iter(entry.values()))) if isinstance(entry, dict) else [str(entry)])
    ]


def test_every_page_stands_in_the_menu_once(tmp_path: Path) -> None:
    BUILDER.stage(tmp_path / "pages")
    pages = sorted(str(path.relative_to(tmp_path / "pages")) for path in (tmp_path / "pages").rglob("*.md"))
    assert sorted(names(BUILDER.nav(tmp_path / "pages"))) == pages
    assert len(pages) > len(list(ROOT.glob("docs/**/*.md")))


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    BUILDER.stage(tmp_path / "pages")
    (tmp_path / "pages" / "stray.md").write_text("# Stray\n")
    with pytest.raises(SystemExit, match=r"stray\.md: no place in the menu"):
        BUILDER.nav(tmp_path / "pages")


def test_links_to_the_root_of_the_repository_lead_into_the_site() -> None:
    text = "[a](../../CHANGELOG.md) [b](../../examples/alpaca_bot.py)"
    assert BUILDER.staged(text, "how-to/operate.md") == "[a](../changelog.md) [b](../examples/alpaca_bot.py)"
    text = "[a](docs/how-to/operate.md) [b](SECURITY.md) [c](docs/decisions/)"
    assert BUILDER.staged(text, "index.md") == (
        f"[a](how-to/operate.md) [b](security.md) [c]({BUILDER.FIRST_DECISION})"
    )
