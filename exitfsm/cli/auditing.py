"""`exitfsm verify`, `anchor`, `explain`, `audit`, `export`, and the past for `status`: what the log answers.

Nothing here writes to a store. `register` puts the commands on an app.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from exitfsm.cli import BAD_INPUT, FINDING, screen
from exitfsm.cli.bar_files import AdjustedFlag, BarsFromFiles, HowToRead, SymbolOption, TimezoneOption
from exitfsm.cli.options import JsonFlag, StoreArgument
from exitfsm.errors import StoreError
from exitfsm.position import symbol_in
from exitfsm.values import plain, stamp

if TYPE_CHECKING:
    from exitfsm.audit import Verification
    from exitfsm.position import Position
    from exitfsm.recorded_bars import Seen
    from exitfsm.store import ExitStore
    from exitfsm.values import Bar


class Format(StrEnum):
    """What to export as."""

    JSONL = "jsonl"
    CSV = "csv"


#: Bars may follow `--bars` one after the other, as a shell's `*.csv` gives them: what is a file among the arguments.
PositionAndFiles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[POSITION]",
        help="A symbol (its newest position), a position's id or the start of one, or the id of an exit order.",
        show_default=False,
    ),
]
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


def register(app: typer.Typer) -> None:
    """Put the commands on an app."""
    from exitfsm.cli.whatif import whatif

    app.command("verify")(verify)
    app.command("anchor")(anchor)
    app.command("explain")(explain)
    app.command("whatif")(whatif)
    app.command("audit")(audit)
    app.command("export")(export)


# --- verify, anchor ---------------------------------------------------------------------------------------------------


def verify(
    store: StoreArgument,
    as_json: JsonFlag = False,
    anchors: Annotated[
        Path | None,
        typer.Option(
            "--anchors", metavar="FILE", exists=True, dir_okay=False, help="What `exitfsm anchor` printed, a line each."
        ),
    ] = None,
) -> None:
    """Check everything that a store says about itself.

    Every event is held against the lifecycle, the invariants and the hash chain, and the read models against a rebuild.

    Exit codes: 0 everything holds, 1 something does not, 2 it is no store.
    """
    from exitfsm.audit import read_anchors
    from exitfsm.audit import verify as check

    heads = read_anchors(anchors) if anchors is not None else []
    with progress("events") as told:
        found = check(store, anchors=heads, progress=told)
    if as_json:
        screen.emit_json(found.as_dict())
    else:
        _show_verification(store, found)
    if not found.ok:
        raise typer.Exit(FINDING)


def _show_verification(store: str, found: Verification) -> None:
    for f in found.findings:
        where = f"{f.position_id}, event {f.event}" if f.event is not None else f.position_id
        if f.position_id is None:
            where = f"event {f.event} of the store" if f.event is not None else "the store"
        elif f.event is None:
            where = f.position_id
        screen.complain(f"{screen.clean(where)}: {screen.clean(f.what)}")
    positions, events = screen.plural(found.positions, "position"), screen.plural(found.events, "event")
    anchored = f", {screen.plural(found.anchors, 'anchor')}" if found.anchors else ""
    verdict = "everything holds" if found.ok else screen.plural(len(found.findings), "finding")
    line = f"{screen.store(store)}: {positions}, {events}{anchored}, chain head {found.chain_head}: {verdict}"
    screen.out().print(Text(line, style="green" if found.ok else "bold red"), soft_wrap=True)


def anchor(store: StoreArgument) -> None:
    """Print the head of the hash chain, to be kept elsewhere.

    One line of JSON: exitfsm anchor exits.db >> anchors.jsonl; later exitfsm verify exits.db --anchors anchors.jsonl.
    """
    from exitfsm.audit import anchor as head
    from exitfsm.store import ExitStore

    with ExitStore(store, read_only=True) as opened:
        screen.emit(head(opened, datetime.now(UTC)).as_json() + "\n")


# --- explain ----------------------------------------------------------------------------------------------------------


def explain(
    store: StoreArgument,
    position: PositionAndFiles = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="TIME", help="As it was known then, e.g. 2014-06-09T13:45:00Z (UTC).", show_default=False
        ),
    ] = None,
    bars: BarFiles = None,
    symbol: SymbolOption = None,
    timezone: TimezoneOption = None,
    adjusted: AdjustedFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Say why a position was exited, or why it was not."""
    from exitfsm.audit import explain as facts
    from exitfsm.audit.telling import as_dict, sentences
    from exitfsm.store import ExitStore

    wanted, files = split(position, bars)
    if wanted is None:
        raise typer.BadParameter("say which position: a symbol, an id, or the start of one", param_hint="POSITION")
    with ExitStore(store, read_only=True) as opened:
        when = moment(at) if at else None
        key = newest(opened, wanted, when)
        given = BarsGiven(opened, files, [key], HowToRead(symbol, timezone, adjusted))
        told = facts(opened, key, at=when, bars=(s.bar for s in given()))
    given.warn(told.opened_at, told.outcome.at if told.outcome is not None else None)
    if as_json:
        screen.emit_json(as_dict(told))
        return
    console = screen.out()
    console.print(Text(screen.clean(key), style="bold"), soft_wrap=True)
    for sentence in sentences(told):
        console.print(Text(screen.clean(sentence)), width=min(console.width, screen.PROSE))


# --- the past, for `status --as-of` -----------------------------------------------------------------------------------


def status_as_of(store: str, at: str, as_json: bool = False) -> None:
    """Show the positions that were open at a time, as they were known then: `exitfsm status STORE --as-of T`."""
    from exitfsm.audit import open_at
    from exitfsm.store import ExitStore

    when = moment(at)
    with ExitStore(store, read_only=True) as opened:
        held = open_at(opened, when)
    if as_json:
        screen.emit_json({"as_of": stamp(when), "positions": [_held_json(p, when) for p in held]})
        return
    console = screen.out()
    if held:
        console.print(_held_table(held, when))
    console.print(f"{screen.plural(len(held), 'position')} open at {screen.when(when)} UTC")


def _held_table(held: Sequence[Position], when: datetime) -> Any:
    from exitfsm.position import levels

    columns: list[screen.Column] = [("Symbol", "left"), ("Held", "left"), ("State", "left"), ("Entry", "right")]
    columns += [("Stop", "right"), ("Target", "right"), ("Exit", "left"), ("Alarms", "right")]
    rows: list[Sequence[screen.Cell]] = []
    for p in held:
        target, stops = levels(p, when)
        watched = str(p.state) == "monitoring"
        rows.append(
            (
                screen.clean(p.symbol),
                f"{p.side} {screen.number(p.remaining_qty)}",
                str(p.state),
                screen.number(p.entry_price),
                screen.number(stops[0].price if stops and watched else None),
                screen.number(target.price if target and watched else None),
                f"{p.reason}, attempt {p.attempt}" if p.reason else screen.NONE,
                str(len(p.alarms) or screen.NONE),
            )
        )
    return screen.table(columns, rows)


def _held_json(p: Position, when: datetime) -> dict[str, Any]:
    from exitfsm.position import levels

    target, stops = levels(p, when)
    watched = str(p.state) == "monitoring"
    return {
        "position_id": p.position_id,
        "symbol": p.symbol,
        "side": str(p.side),
        "state": str(p.state),
        "enabled": p.policy.enabled,
        "qty": plain(p.qty),
        "remaining_qty": plain(p.remaining_qty),
        "entry_price": plain(p.entry_price),
        "opened_at": stamp(p.opened_at),
        "stop": plain(stops[0].price) if stops and watched else None,
        "target": plain(target.price) if target is not None and watched else None,
        "reason": str(p.reason) if p.reason is not None else None,
        "triggered_at": stamp(p.triggered_at) if p.triggered_at is not None else None,
        "trigger_price": plain(p.trigger_price) if p.trigger_price is not None else None,
        "attempts": p.attempt,
        "events": p.version,
        "alarms": [a.alarm_id for a in p.alarms],
    }


# --- audit ------------------------------------------------------------------------------------------------------------


def audit(
    store: StoreArgument,
    position: PositionAndFiles = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.html", help="Where to write the page.")],
    bars: BarFiles = None,
    symbol: SymbolOption = None,
    timezone: TimezoneOption = None,
    adjusted: AdjustedFlag = False,
    pages: Annotated[
        bool,
        typer.Option("--pages", help="Without POSITION: also write the page of each position, in a folder beside it."),
    ] = False,
) -> None:
    """Write a page of one position, or of the whole store.

    The page is one file that needs no network: price and levels, the path through the lifecycle, every event, and what
    was checked.
    """
    from exitfsm.report import chain_of, position_page, suppose
    from exitfsm.store import ExitStore

    wanted, files = split(position, bars)
    with ExitStore(store, read_only=True) as opened:
        if wanted is None:
            _write_index(opened, output, files, HowToRead(symbol, timezone, adjusted), pages)
            return
        key = newest(opened, wanted)
        given = BarsGiven(opened, files, [key], HowToRead(symbol, timezone, adjusted))
        held = [seen for seen in given() if seen.bar.symbol == symbol_in(key)]
        row = next(row for row in opened.positions(symbol=symbol_in(key)) if row.position_id == key)
        given.warn(row.opened_at_utc, row.ended_at_utc)
        supposed = suppose(opened, key, held) if held else []
        page = position_page(opened, key, bars=[s.bar for s in held], chain=chain_of(opened), supposed=supposed)
        write(output, page)
    screen.out().print(f"{screen.clean(output)}: the page of {screen.clean(key)}", soft_wrap=True)


def _write_index(store: ExitStore, output: Path, files: Sequence[Path], how: HowToRead, pages: bool) -> None:
    from exitfsm.report import chain_of, index_page, page_name, position_page

    chain = chain_of(store)
    keys = [row.position_id for row in store.positions()]
    folder = output.with_name(f"{output.stem}-pages")
    href = (lambda key: f"{folder.name}/{page_name(key)}") if pages else None
    write(output, index_page(store, href=href, chain=chain))
    screen.out().print(f"{screen.clean(output)}: {screen.plural(len(keys), 'position')}", soft_wrap=True)
    if not pages:
        return
    folder.mkdir(exist_ok=True)
    held = _by_symbol(BarsGiven(store, files, keys, how)())
    with progress("pages") as told:
        for number, key in enumerate(keys, 1):
            symbol = symbol_in(key)
            page = position_page(store, key, bars=held.get(symbol, ()), chain=chain, index=f"../{output.name}")
            write(folder / page_name(key), page)
            if told is not None:
                told(number, len(keys))
    screen.out().print(f"{screen.clean(folder)}: {screen.plural(len(keys), 'page')}", soft_wrap=True)


def _by_symbol(seen: Iterable[Seen]) -> dict[str, list[Bar]]:
    held: dict[str, list[Bar]] = {}
    for bar, _ in seen:
        held.setdefault(bar.symbol, []).append(bar)
    return held


def write(path: Path, text: str) -> None:
    """Write a file whole: what was there stays until the new one is complete."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            ENOENT, "there is no such directory: make it first, or give another path", str(path.parent)
        )
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8", newline="\n")
    new.replace(path)


# --- export -----------------------------------------------------------------------------------------------------------


def export(
    store: StoreArgument,
    as_format: Annotated[
        Format, typer.Option("--format", help="jsonl is exact; csv is for spreadsheets.")
    ] = Format.JSONL,
) -> None:
    """Print every event on a line, in the order they were stored."""
    from exitfsm.audit import export_csv, export_jsonl
    from exitfsm.store import ExitStore

    with ExitStore(store, read_only=True) as opened:
        for line in export_csv(opened) if as_format is Format.CSV else export_jsonl(opened):
            screen.emit(line)


# --- arguments --------------------------------------------------------------------------------------------------------


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
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time; write it as 2014-06-09T13:45:00Z") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


class BarsGiven:
    """The bars to use, from the first on with each call: those of files, else those recorded, else none.

    Args:
        store: the store that they are held against.
        files: files of bars, or one of recorded bars (`.bars`); those recorded beside the store where there are none.
        keys: the positions that they are for.
        how: how files are read.
    """

    def __init__(self, store: ExitStore, files: Sequence[Path], keys: Sequence[str], how: HowToRead) -> None:
        from exitfsm.recorded_bars import bars_path

        recorded = [file for file in files if file.suffix == ".bars"]
        given = [file for file in files if file.suffix != ".bars"]
        self._files = BarsFromFiles(given, how) if given else None
        self._recorded = recorded[0] if recorded else bars_path(store)
        self._wanted = {symbol_in(key) for key in keys}
        self._spans: dict[str, tuple[datetime, datetime]] = {}

    def __call__(self) -> Iterator[Seen]:
        from exitfsm.recorded_bars import Seen, recorded_bars

        if self._files is not None:
            for bar in self._files:
                first, last = self._spans.get(bar.symbol, (bar.timestamp, bar.timestamp))
                self._spans[bar.symbol] = min(first, bar.timestamp), max(last, bar.timestamp)
                yield Seen(bar, None)
        elif self._recorded is not None and self._recorded.is_file():
            yield from recorded_bars(self._recorded, self._wanted)

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


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr where that is a terminal; told how many are done, of how many."""
    console = screen.err()
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


__all__ = ["BAD_INPUT", "StoreError", "register", "status_as_of"]
