"""How anything is shown: consoles, tables, numbers, times, and text from outside made harmless.

Strings are never markup here: the consoles have it switched off, and style is put on by `Text` objects. Without a
terminal there are no colour codes, and lines are as long as they need to be, so that `grep` finds whole ones.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NoReturn

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exitfsm.values import plain, stamp

_UNBOUNDED = 10_000  # columns
#: The longest line of prose, in columns.
PROSE = 100
NONE = "-"


class PipeClosed(Exception):
    """Whoever read our output stopped reading."""


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise PipeClosed


def out() -> Console:
    """The console for results."""
    return _made(stderr=False)


def err() -> Console:
    """The console for everything else."""
    return _made(stderr=True)


def _made(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    bounded = stream.isatty() or "COLUMNS" in os.environ
    width = None if bounded else _UNBOUNDED
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def emit(text: str) -> None:
    """Write text to stdout as it is."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise PipeClosed from None


def emit_json(data: Any) -> None:
    """Write one JSON document to stdout; whatever is not ASCII is escaped."""
    emit(json.dumps(data, indent=2) + "\n")


def complain(text: str) -> None:
    """An error, on stderr."""
    _say("error", text, "bold red")


def warn(text: str) -> None:
    """A warning, on stderr."""
    _say("warning", text, "bold yellow")


def _say(what: str, text: str, style: str) -> None:
    lines = [clean(line) for line in text.split("\n")]
    message = Text.assemble("exitfsm: ", (f"{what}: ", style), "\n  ".join(lines))
    err().print(message, soft_wrap=True)


def clean(text: object) -> str:
    """Text from outside on one line: control characters, line breaks and direction marks are shown by their codes."""
    said = str(text)
    if said.isprintable():
        return said
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in said)


def number(value: Decimal | None) -> str:
    """A number in plain digits."""
    return plain(value) if value is not None else NONE


def percent(value: Decimal | None, places: int = 2) -> str:
    """A profit or loss in percent, with its sign."""
    return f"{value:+.{places}f}" if value is not None else NONE


def when(value: datetime | None) -> str:
    """A time for people, in UTC (the heading says so); without seconds where there are none."""
    if value is None:
        return NONE
    text = stamp(value).replace("T", " ").removesuffix("Z")
    return text.removesuffix(":00") if len(text) == len("2014-06-09 08:00:00") else text


def age(since: datetime | None, now: datetime) -> str:
    """How long ago, in the largest unit that says it: `12 s`, `5 min`, `3 h`, `2 d`."""
    if since is None:
        return NONE
    seconds = max(0, int((now - since).total_seconds()))
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86_400:,} d"


def colored(value: Decimal | None, text: str) -> Text:
    """`text` in the colour of a gain or a loss."""
    return Text(text, style="" if not value else "green" if value > 0 else "red")


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 exit`, `2 exits`, `1,000 bars`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


#: A column: its heading, and how it stands.
Column = tuple[str, Literal["left", "right"]]
Cell = str | Text


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    fit: Console | None = None,
    may_drop: Sequence[str] = (),
) -> Table:
    """A table in the one style of this command line.

    Args:
        columns: heading and justification of each.
        rows: the cells of each row, as many as there are columns.
        fit: where it is to fit; columns named in `may_drop` are left out, in that order, until it does.
        may_drop: headings of the columns that can be spared.
    """
    made = _table(columns, rows)
    if fit is not None and may_drop and _natural_width(fit, made) > fit.width:
        drop, *more = may_drop
        kept = [i for i, (heading, _) in enumerate(columns) if heading != drop]
        return table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], fit=fit, may_drop=more)
    return made


def _natural_width(console: Console, made: Table) -> int:
    return console.measure(made, options=console.options.update(max_width=_UNBOUNDED)).maximum


def _table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Table:
    made = Table(box=SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, collapse_padding=True)
    for heading, justify in columns:
        made.add_column(heading, justify=justify)
    for row in rows:
        made.add_row(*row)
    return made
