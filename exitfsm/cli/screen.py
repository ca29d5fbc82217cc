"""How anything is shown: consoles, tables, numbers, times, and text from outside made harmless.

Strings are never markup here: the consoles have it switched off, and style is put on by `Text` objects. Without a
terminal there are no colour codes, and lines are as long as they need to be, so that `grep` finds whole ones.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

from exitfsm.outside import harmless
from exitfsm.values import plain, stamp

if TYPE_CHECKING:
    from rich.table import Table

_UNBOUNDED = 10_000  # columns
_TERMINAL, _NARROWEST = 80, 20
#: The longest line of prose, in columns.
PROSE = 100
NONE = "-"
#: Text from outside on one line.
clean = harmless


def store(text: str) -> str:
    """What names a store, fit to be printed: a URL without its secrets."""
    from exitfsm.store import shown

    return clean(shown(text))


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
    width = _width(sys.stderr if stderr else sys.stdout)
    return _Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def _width(stream: TextIO) -> int:
    """How wide the screen is; where nobody says a width that can be, as wide as a line needs to be."""
    said = os.environ.get("COLUMNS", "")
    columns = int(said) if said.isascii() and said.isdecimal() and len(said) < 6 else 0
    if not columns and stream.isatty():
        with suppress(OSError, ValueError):
            columns = os.get_terminal_size(stream.fileno()).columns
        columns = columns or _TERMINAL
    return max(columns, _NARROWEST) if columns else _UNBOUNDED


class Page:
    """Lines that are shown together: plain text where nobody needs colours or a width, which is much faster."""

    def __init__(self) -> None:
        self._console = out()
        self._plain = not self._console.is_terminal and self._console.width == _UNBOUNDED
        self._lines: list[tuple[Text, int, bool]] = []

    def line(self, text: Text) -> None:
        """Add a line that is never wrapped."""
        self._lines.append((text, 0, True))

    def paragraph(self, text: Text | str, indent: int = 0) -> None:
        """Add text that is wrapped to the screen, `indent` columns from the left."""
        self._lines.append((text if isinstance(text, Text) else Text(text), indent, False))

    def show(self) -> None:
        """Write these lines to stdout, and begin anew."""
        lines, self._lines = self._lines, []
        if self._plain and max((len(text) + indent for text, indent, _ in lines), default=0) < _UNBOUNDED:
            emit("".join(f"{' ' * indent}{text.plain}\n" for text, indent, _ in lines))
            return
        for text, indent, whole in lines:
            shown = Padding(text, (0, 0, 0, indent), expand=False) if indent else text
            self._console.print(shown, soft_wrap=whole)


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
    with suppress(PipeClosed, OSError):  # nobody reads it any more; what is answered stays the same
        err().print(message, soft_wrap=True)


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
_GAP = "  "


class Rows:
    """A table in the one style of this command line. Where it fits, its lines are simply put together: rich takes as
    long for a thousand rows as the simulation for all their bars. Where it does not, rich breaks the cells.
    """

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        self.columns, self.rows = columns, rows
        told = [[heading for heading, _ in columns], *([str(cell) for cell in row] for row in rows)]
        self._widths = [max(map(_cells, column)) for column in zip(*told, strict=True)]
        #: How wide it wants to be, in columns of the screen.
        self.width = sum(self._widths) + len(_GAP) * (len(columns) - 1)
        self._simple = not any("\n" in text for row in told for text in row) and not any(
            isinstance(cell, Text) and cell.spans for row in rows for cell in row
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType | Segment]:
        if self.width > options.max_width or not self._simple:
            yield broken(self.columns, self.rows)
            return
        yield from self._line([Text(heading, style="bold") for heading, _ in self.columns], console)
        yield Segment(f"{'─' * self.width}\n")
        for row in self.rows:
            yield from self._line(row, console)

    def _line(self, row: Sequence[Cell], console: Console) -> Iterator[Segment]:
        """One row, in as few segments as its styles allow."""
        told = ""
        for cell, (_, justify), width in zip(row, self.columns, self._widths, strict=True):
            text = str(cell)
            space = " " * (width - _cells(text))
            text = text + space if justify == "left" else space + text
            if isinstance(cell, Text) and cell.style:
                if told:
                    yield Segment(told)
                yield Segment(text, console.get_style(cell.style))
                told = _GAP
            else:
                told += text + _GAP
        yield Segment(told[: -len(_GAP)] + "\n")


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    fit: Console | None = None,
    may_drop: Sequence[str] = (),
) -> Rows:
    """A table in the one style of this command line.

    Args:
        columns: heading and justification of each.
        rows: the cells of each row, as many as there are columns.
        fit: where it is to fit; columns named in `may_drop` are left out, in that order, until it does.
        may_drop: headings of the columns that can be spared.
    """
    made = Rows(columns, rows)
    if fit is not None and may_drop and made.width > fit.width:
        drop, *more = may_drop
        kept = [i for i, (heading, _) in enumerate(columns) if heading != drop]
        return table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], fit=fit, may_drop=more)
    return made


def broken(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> Table:
    """The table by rich, which breaks what is too long."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, collapse_padding=True)
    for heading, justify in columns:
        made.add_column(heading, justify=justify)
    for row in rows:
        made.add_row(*row)
    return made


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr where that is a terminal; told how many are done, of how many."""
    console = err()
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
