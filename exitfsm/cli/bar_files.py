"""Files of bars on the command line: the options that say how to read them, and what is said of how they were read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from exitfsm.cli import screen

if TYPE_CHECKING:
    from exitfsm.bars import FileRead
    from exitfsm.values import Bar

SymbolOption = Annotated[
    str | None,
    typer.Option("--symbol", metavar="NAME", help="Symbol of the files that do not say it; otherwise their names do."),
]
TimezoneOption = Annotated[
    str | None,
    typer.Option(
        "--timezone",
        metavar="ZONE",
        help="Zone of times that name none, e.g. America/New_York; otherwise that of the format, or UTC.",
    ),
]
AdjustedFlag = Annotated[
    bool, typer.Option("--adjusted", help="Take prices adjusted for splits and dividends, where a file has both.")
]

_NAMED_MAX = 3  # files that are named where the same is to be said of many


class HowToRead(NamedTuple):
    """What the options say, as for `read_bars`."""

    symbol: str | None = None
    timezone: str | None = None
    adjusted: bool = False


class BarsFromFiles:
    """Bars of files, from the first on with each iteration, and what came of reading them.

    Args:
        files: the files.
        how: what the options say.

    Raises:
        FeedError: there is no such zone, or no such symbol.
    """

    def __init__(self, files: Sequence[Path], how: HowToRead) -> None:
        self._files, self._how = files, how
        self.read: list[FileRead] = []
        iter(self)  # what is wrong with the options shows before anything is done

    def __iter__(self) -> Iterator[Bar]:
        from exitfsm.bars import read_bars

        self.read = []
        return read_bars(*self._files, **self._how._asdict(), on_file=self.read.append)

    def said(self) -> list[str]:
        """How the files were read, where that was not simply as written: one line for each way."""
        by_words: dict[str, list[str]] = {}
        for one in self.read:
            words = one.words()
            if words:
                by_words.setdefault(words, []).append(one.label)
        return [screen.clean(f"{_named(labels)}: {words}") for words, labels in by_words.items()]

    def empty(self) -> list[str]:
        """The files in which there was no bar, in words; to be asked when all have been read."""
        return [screen.clean(f"{one.label} holds no bar") for one in self.read if not one.bars]


def _named(labels: Sequence[str]) -> str:
    names = [Path(label).name for label in labels]
    if len(names) <= _NAMED_MAX:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED_MAX])} and {len(names) - _NAMED_MAX} more"
