"""What several commands ask for: a position, a time, and the bars that go with it.

Bars are those of files, else those recorded beside the store, else none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exitfsm.cli import screen
from exitfsm.cli.bar_files import BarsFromFiles, HowToRead
from exitfsm.errors import StoreError
from exitfsm.position import symbol_in

if TYPE_CHECKING:
    from exitfsm.recorded_bars import Seen
    from exitfsm.store import ExitStore


def _position(which: str) -> Any:
    """An argument that names a position; of a symbol `which` of its positions is meant."""
    what = f"A symbol ({which}), a position's id or the start of one, or the id of an exit order."
    return typer.Argument(metavar="[POSITION]", help=what, show_default=False)


#: Bars may follow `--bars` one after the other, as a shell's `*.csv` gives them: what is a file among the arguments.
PositionAndFiles = Annotated[list[str] | None, _position("its newest position")]
PositionsAndFiles = Annotated[list[str] | None, _position("all its positions")]
BarFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--bars",
        metavar="FILE…",
        exists=True,
        dir_okay=False,
        help="Files of bars, or a file that record_bars wrote; the one beside the store when not given.",
        show_default=False,
    ),
]


def split(given: Sequence[str] | None, bars: Sequence[Path] | None) -> tuple[str | None, list[Path]]:
    """The position that is asked for, if any, and the files of bars: those of `--bars` and those that follow it.

    Raises:
        typer.BadParameter: more than one argument is no file.
    """
    files, words = list(bars or ()), []
    for text in given or ():
        if bars and Path(text).is_file():
            files.append(Path(text))
        else:
            words.append(text)
    if len(words) > 1:
        raise typer.BadParameter(f"one position, please, or files of bars after --bars; got {', '.join(words)}")
    return (words[0] if words else None), files


def newest(store: ExitStore, wanted: str, at: datetime | None = None) -> str:
    """The position that a word means; of several in a symbol the newest (that was open at a time), which is said.

    Raises:
        StoreError: there is none.
    """
    from exitfsm.audit import find, position_at

    found = find(store, wanted)
    if len(found) == 1:
        return found[0]
    known = [key for key in found if at is None or position_at(store, key, at) is not None] or found
    which = "newest" if at is None else "newest then"
    screen.warn(f"{wanted} has {len(found)} positions; this is the {which}, {known[-1]}")
    return known[-1]


def moment(text: str) -> datetime:
    """A time from the command line; UTC where it names no zone, as in everything that is printed."""
    try:
        at = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time; write it as 2014-06-09T13:45:00Z") from None


class BarsGiven:
    """The bars to use, from the first on with each call: those of files, else those recorded, else none.

    Args:
        store: the store that they are held against.
        files: files of bars, or one of recorded bars (`.bars`); those recorded beside the store where there are none.
        keys: the positions that they are for.
        how: how files are read.
        needed: there is no answer without them; else one that cannot be read is said, and those before it are used.
    """

    def __init__(
        self, store: ExitStore, files: Sequence[Path], keys: Sequence[str], how: HowToRead, *, needed: bool = False
    ) -> None:
        from exitfsm.recorded_bars import bars_path

        recorded = [file for file in files if file.suffix == ".bars"]
        given = [file for file in files if file.suffix != ".bars"]
        self._files = BarsFromFiles(given, how) if given else None
        self._recorded = recorded[0] if recorded else bars_path(store)
        self._wanted = {symbol_in(key) for key in keys}
        self._needed = needed
        self._told: set[str] = set()
        self._spans: dict[str, tuple[datetime, datetime]] = {}

    def __call__(self) -> Iterator[Seen]:
        """The bars, from the first on."""
        from exitfsm.recorded_bars import Seen, recorded_bars

        if self._files is not None:
            for bar in self._files:
                first, last = self._spans.get(bar.symbol, (bar.timestamp, bar.timestamp))
                self._spans[bar.symbol] = min(first, bar.timestamp), max(last, bar.timestamp)
                yield Seen(bar, None)
        elif self._recorded is not None and self._recorded.is_file():
            try:
                yield from recorded_bars(self._recorded, self._wanted)
            except StoreError as error:
                if self._needed:
                    raise
                if str(error) not in self._told:  # once, however often the bars are asked for
                    self._told.add(str(error))
                    screen.warn(f"{error}; what follows does without the bars from there on")

    def said(self) -> str:
        """What the files hold, in words: after a call has been read to its end."""
        spans = sorted(self._spans.items())
        listed = [f"{name} from {screen.when(first)} to {screen.when(last)}" for name, (first, last) in spans[:5]]
        return "; ".join([*listed, *(["…"] if len(spans) > 5 else [])]) or "nothing"

    def warn(self, opened_at: datetime, ended_at: datetime | None) -> None:
        """Say how files were read, and that they were given in vain where they hold no bar of a position's life."""
        if self._files is None:
            return
        for line in self._files.said():
            screen.warn(line)
        for symbol in self._wanted:
            first, last = self._spans.get(symbol, (None, None))
            if first is None or last is None:
                screen.warn(f"the files hold no bar of {symbol}; they hold {self.said()}")
            elif last <= opened_at or (ended_at is not None and first > ended_at):
                until = f" to {screen.when(ended_at)}" if ended_at is not None else " on"
                screen.warn(
                    f"the files hold no bar of {symbol} from its entry at {screen.when(opened_at)}{until}; "
                    f"they hold {self.said()}"
                )
