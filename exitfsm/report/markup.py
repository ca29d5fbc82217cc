"""Text into HTML, SVG and the script's data: everything from outside is made harmless here, and nowhere else.

Rules of this room: what is shown goes through `t` (or `attributes`), what the script reads through `embedded`. No other
way leads into a page. The same input gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from typing import Any

from exitfsm.outside import harmless


def t(value: object) -> str:
    """Text to stand between tags or in quotes; what cannot be seen (controls, direction marks) is shown by its code."""
    return html.escape(harmless(value), quote=True)


def attributes(given: dict[str, object]) -> str:
    """Attributes of a tag, a space before each: `class_` is class, `_` a dash; None and False are left out."""
    parts = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        plain = name.rstrip("_").replace("_", "-")
        parts.append(f" {plain}" if value is True else f' {plain}="{t(value)}"')
    return "".join(parts)


def tag(name: str, *inside: str, **given: object) -> str:
    """An element; `inside` is markup already, text in it must have gone through `t`."""
    return f"<{name}{attributes(given)}>{''.join(inside)}</{name}>"


def void(name: str, **given: object) -> str:
    """An element of SVG without content."""
    return f"<{name}{attributes(given)}/>"


def number(value: float) -> str:
    """A coordinate: one decimal place, and none where it is whole."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def embedded(data: Any) -> str:
    """Data as JSON that can stand inside a script element: nothing in it can end the element or begin another."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def asset(name: str) -> str:
    """A file of this package as text."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def document(*, title: str, body: str, data: Any, scripts: tuple[str, ...]) -> str:
    """A whole page: one file that loads nothing and runs nothing but its own script.

    The page says so itself: its content security policy allows the very style and script that are in it, by their
    hashes, and no connection. Text that slipped in as a script would not run.

    Args:
        title: text.
        body: markup.
        data: what the script reads, as JSON.
        scripts: names of the assets that make up the script.
    """
    style, script = asset("style.css"), "\n".join(asset(name) for name in scripts)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{t(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"<title>{t(title)}</title><style>{style}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}\n'
        f'<script type="application/json" id="data">{embedded(data)}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
