"""Build the site: all pages, the reference of the code by mkdocstrings, and a check of what came out.

    python3 dev docs --site           into .dev/site/html; exit 1 when a page or a link is missing

Nothing is fetched, while it is built or while it is read: no web fonts, no scripts of others. Diagrams are drawn here,
for light and for dark. The pages are copied first, so that those of the repository's root, and links to it, fit into
the site. What zensical's strict mode does not find (pages that are missing, links in HTML, files, pictures) is looked
for in the HTML.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".dev" / "site"
#: Pages of the repository's root, by the name that they have in the site.
OF_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
FIRST_DECISION = "decisions/0001-policy-below-events.md"
#: The public names of the code, by the page that has them.
CODE = {
    "manager": ("exitfsm.ExitManager", "exitfsm.sync.ExitManager"),
    "store": ("exitfsm.ExitStore",),
    "broker": (
        "exitfsm.ports.Broker",
        "exitfsm.ports.Capabilities",
        "exitfsm.ports.Instrument",
        "exitfsm.ports.AssetRules",
    ),
    "events": ("exitfsm.events",),
    "messages": ("exitfsm.messages",),
    "simulate": ("exitfsm.simulate",),
    "audit": ("exitfsm.audit",),
    "testing": ("exitfsm.testing",),
}
SECTIONS = {"tutorial": "Tutorial", "how-to": "How to", "reference": "Reference", "explanation": "Explanation"}
OPTIONS = {
    "show_root_heading": True,
    "show_source": False,
    "inherited_members": True,
    "show_if_no_docstring": True,
    "filters": ["!^_"],
    "separate_signature": True,
    "show_signature_annotations": True,
    "members_order": "source",
    "docstring_style": "google",
    "heading_level": 2,
}


def staged(text: str, place: str) -> str:
    """A page's text with its links to the repository's root turned to where these pages are in the site."""
    up = "../" * place.count("/")
    for name, new in OF_ROOT.items():
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(name)}", f"]({up}{new}", text)
    text = re.sub(r"\]\((?:\.\./)+examples/", f"]({up}examples/", text)
    if "/" not in place:
        text = text.replace("](docs/decisions/)", f"]({FIRST_DECISION})").replace("](docs/", "](")
    return text


def stage(docs: Path) -> None:
    """Copy all pages to where they are in the site, and write those of the code."""
    shutil.rmtree(docs, ignore_errors=True)
    pages = {str(path.relative_to(ROOT / "docs")): path for path in (ROOT / "docs").rglob("*.md")}
    pages |= {new: ROOT / name for name, new in OF_ROOT.items()}
    for place, path in pages.items():
        (docs / place).parent.mkdir(parents=True, exist_ok=True)
        (docs / place).write_text(staged(path.read_text(encoding="utf-8"), place), encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "pictures", docs / "pictures")
    shutil.copytree(ROOT / "examples", docs / "examples", ignore=shutil.ignore_patterns("__pycache__", "bars", "*.db*"))
    (docs / "reference" / "code").mkdir()
    for name, things in CODE.items():
        lines = [f"# {name.capitalize()}, from the code", *(f"::: {thing}" for thing in things)]
        (docs / "reference" / "code" / f"{name}.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def draw(page: Path) -> None:
    """Draw each diagram of a page, in two files beside it: the theme shows the one of its colours."""
    import mermaidx  # the tests read this file without it

    count = 0

    def drawn(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        shown = []
        for theme, only in (("default", "light"), ("dark", "dark")):
            picture = page.with_name(f"{page.stem}-{count}-{only}.svg")
            picture.write_text(mermaidx.render(found[1], theme=theme).svg(), encoding="utf-8")
            shown.append(f"[![Diagram {count}]({picture.name}#only-{only})]({picture.name})")
        return "\n".join(shown)

    text = page.read_text(encoding="utf-8")
    if (new := re.sub(r"^```mermaid\n(.*?)^```$", drawn, text, flags=re.DOTALL | re.MULTILINE)) != text:
        page.write_text(new, encoding="utf-8")


def nav(docs: Path) -> list[object]:
    """Every page that there is, in its section; one that has no place is an error."""
    left = {str(path.relative_to(docs)) for path in docs.rglob("*.md")}

    def take(*wanted: str) -> list[str]:
        left.difference_update(wanted)
        return sorted(wanted)

    def of(folder: str) -> list[str]:
        return take(*(page for page in left if page.rpartition("/")[0] == folder))

    made: list[object] = [*take("index.md")]
    for folder, title in SECTIONS.items():
        inside: list[object] = [*of(folder)]
        if folder == "reference":
            inside.append({"Code": of("reference/code")})
        if folder == "explanation":
            inside += take("reliability.md", "laboratory.md", "mutation.md")
        made.append({title: inside})
    made += [{"Decisions": of("decisions")}, *take("changelog.md", "contributing.md", "security.md")]
    if left:
        raise SystemExit(f"site: {', '.join(sorted(left))}: no place in the menu (docs/build_site.py)")
    return made


def configuration(docs: Path) -> dict[str, object]:
    """What zensical is told, in the words of mkdocs.yml."""
    modes = (("(prefers-color-scheme: light)", "default", "dark"), ("(prefers-color-scheme: dark)", "slate", "light"))
    palette = [
        {"media": media, "scheme": scheme, "toggle": {"icon": "lucide/sun-moon", "name": f"Switch to {other}"}}
        for media, scheme, other in modes
    ]
    python = {"paths": [str(ROOT), str(ROOT / "adapters")], "options": OPTIONS}
    return {
        "site_name": "exitfsm",
        "docs_dir": str(docs.relative_to(WORK)),
        "site_dir": "html",
        "use_directory_urls": False,
        "theme": {"name": "material", "font": False, "palette": palette, "features": ["navigation.indexes"]},
        "plugins": ["search", {"mkdocstrings": {"handlers": {"python": python}}}],
        "markdown_extensions": ["tables", "admonition", "pymdownx.superfences", {"toc": {"permalink": True}}],
        "nav": nav(docs),
    }


class Links(HTMLParser):
    """The addresses in a page: what is linked, what is loaded with it, and what can be linked to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag's addresses."""
        given = {name: value for name, value in attrs if value}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.linked.append(given["href"])
        elif tag != "a":
            is_loaded = tag != "link" or given.get("rel") in ("stylesheet", "icon", "preload", "modulepreload")
            self.loaded += [given[name] for name in ("href", "src") if name in given and is_loaded]


def wrong_in(site: Path) -> list[str]:
    """What is wrong with a built site: addresses that lead nowhere, and what is loaded from elsewhere."""
    pages = {path: Links(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    found = []
    for page, links in pages.items():
        place = page.relative_to(site)
        elsewhere = [a for a in links.loaded if urlsplit(a).scheme in ("http", "https") or a.startswith("//")]
        found += [f"{place} loads {address}" for address in elsewhere]
        for address in {*links.linked, *links.loaded} - set(elsewhere):
            parts = urlsplit(html.unescape(address))
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_relative_to(site) or not target.exists() or target.is_dir():
                found.append(f"{place} links to {address}, which is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids | {"__top"}:
                found.append(f"{place} links to {address}: no such part")
    return found


def main() -> int:
    """Build the site and look at it; 1 where something is wrong."""
    docs, site = WORK / "pages", WORK / "html"
    stage(docs)
    for page in docs.rglob("*.md"):
        draw(page)
    (WORK / "mkdocs.yml").write_text(json.dumps(configuration(docs), indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", "mkdocs.yml"]
    if code := subprocess.run(command, cwd=WORK, check=False).returncode:
        return code
    missing = [p for p in docs.rglob("*.md") if not (site / p.relative_to(docs).with_suffix(".html")).exists()]
    wrong = [f"{p.relative_to(docs)} is not in the site" for p in missing] + wrong_in(site.resolve())
    for line in wrong:
        print(f"site: {line}", file=sys.stderr)
    print(f"site: {len(list(site.rglob('*.html')))} pages in {site.relative_to(ROOT)}, {len(wrong)} findings")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
