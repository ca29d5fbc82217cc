"""What is wrong, where, and how it is said. One mistake is one line, whatever the file or the caller put into it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

#: Name of the section in the bot's file.
SECTION = "exit_manager"

_MISTAKES_MAX = 100  # lines in one error
_SHOWN_MAX = 60  # characters of a value or a key in a message

#: The way to a setting, from the section down: keys, and positions in a list.
Path = tuple[str | int, ...]


class Mistake(NamedTuple):
    """One thing that is wrong with the setting at `path`."""

    path: Path
    text: str
    line: int | None = None  # where the path alone does not say: a key that is given twice


class Origin(NamedTuple):
    """A section as it was given: plain data, and where each key stands."""

    name: str  # the file, or "config"
    section: object
    lines: Mapping[Path, int] = {}  # empty for data that comes from no file
    mistakes: Sequence[Mistake] = ()  # what its form already gets wrong


def lines_of(origin: Origin, mistakes: Sequence[Mistake]) -> list[str]:
    """The mistakes as text, in the order of the file; without one, in the order of the settings."""
    placed = sorted(((mistake.line or _line_of(origin, mistake.path), mistake) for mistake in mistakes), key=_first)
    lines = [
        f"{origin.name}{f':{line}' if line else ''}: {_dotted(mistake.path)}: {mistake.text}"
        for line, mistake in placed[:_MISTAKES_MAX]
    ]
    more = len(placed) - len(lines)
    return [*lines, f"{origin.name}: and {more} more mistakes"] if more else lines


def _first(placed: tuple[int, Mistake]) -> int:
    return placed[0]


def _line_of(origin: Origin, path: Path) -> int:
    """The line of a key, or of the nearest thing around it (a missing key has none); 0 where there are no lines."""
    return next((origin.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in origin.lines), 0)


def _dotted(path: Path) -> str:
    return SECTION + "".join(f"[{key}]" if isinstance(key, int) else f".{word(key)}" for key in path)


def word(text: str, most: int = _SHOWN_MAX) -> str:
    """Text for one line of a message: printable and not too long."""
    text = text[: most + 1]
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= most else text[: most - 1] + "…"


def shown(value: object) -> str:
    """A value for a message, as it would stand in the file."""
    if value is None:
        return "an empty value"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{word(value)}"'
    try:
        return word(str(value) if isinstance(value, (Decimal, float)) else reprlib.repr(value))
    except Exception:  # a stranger's __repr__ may do anything; the mistake must still be told
        return f"a value of type {type(value).__name__}"
