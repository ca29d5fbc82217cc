"""`exitfsm verify`, `anchor`, `explain`, `audit` and `export`: what the log answers. Nothing here writes to a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from exitfsm.cli import screen
from exitfsm.cli.asked import BarFiles, BarsGiven, PositionAndFiles, moment, newest, split
from exitfsm.cli.bar_files import AdjustedFlag, HowToRead, SymbolOption, TimezoneOption
from exitfsm.cli.codes import FINDING
from exitfsm.cli.files import PRIVATE, ModeOption, add, folder, write
from exitfsm.cli.options import JsonFlag, StoreArgument
from exitfsm.position import symbol_in

if TYPE_CHECKING:
    from exitfsm.audit import Verification
    from exitfsm.recorded_bars import Seen
    from exitfsm.store import ExitStore
    from exitfsm.values import Bar


class Format(StrEnum):
    """What to export as."""

    JSONL = "jsonl"
    CSV = "csv"


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
    with screen.progress("events") as told:
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


def anchor(
    store: StoreArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Add the line to this file instead.", show_default=False),
    ] = None,
    mode: ModeOption = PRIVATE,
) -> None:
    """Print the head of the hash chain, to be kept elsewhere.

    One line of JSON: exitfsm anchor exits.db -o anchors.jsonl; later exitfsm verify exits.db --anchors anchors.jsonl.
    """
    from exitfsm.audit import anchor as head
    from exitfsm.store import ExitStore

    with ExitStore(store, read_only=True) as opened:
        line = head(opened, datetime.now(UTC)).as_json() + "\n"
    if output is not None:
        add(output, line, mode)
    else:
        screen.emit(line)


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
    when = moment(at) if at is not None else None
    with ExitStore(store, read_only=True) as opened:
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
    mode: ModeOption = PRIVATE,
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
            _write_index(opened, output, files, HowToRead(symbol, timezone, adjusted), pages, mode)
            return
        key = newest(opened, wanted)
        given = BarsGiven(opened, files, [key], HowToRead(symbol, timezone, adjusted))
        held = [seen for seen in given() if seen.bar.symbol == symbol_in(key)]
        row = next(row for row in opened.positions(symbol=symbol_in(key)) if row.position_id == key)
        given.warn(row.opened_at_utc, row.ended_at_utc)
        supposed = suppose(opened, key, held) if held else []
        page = position_page(opened, key, bars=[s.bar for s in held], chain=chain_of(opened), supposed=supposed)
        write(output, page, mode)
    screen.out().print(f"{screen.clean(output)}: the page of {screen.clean(key)}", soft_wrap=True)


def _write_index(store: ExitStore, output: Path, files: Sequence[Path], how: HowToRead, pages: bool, mode: int) -> None:
    from exitfsm.report import chain_of, index_pages, page_name, position_page

    chain = chain_of(store)
    keys = store.position_ids()
    inside = output.with_name(f"{output.stem}-pages")
    href = (lambda key: f"{inside.name}/{page_name(key)}") if pages else None
    written = 0
    for name, text in index_pages(store, partial(_name_of, output), href=href, chain=chain):
        write(output.with_name(name), text, mode)
        written += 1
    several = f" on {written} pages" if written > 1 else ""
    screen.out().print(f"{screen.clean(output)}: {screen.plural(len(keys), 'position')}{several}", soft_wrap=True)
    if not pages:
        return
    folder(inside, mode)
    held = _by_symbol(BarsGiven(store, files, keys, how)())
    with screen.progress("pages") as told:
        for number, key in enumerate(keys, 1):
            symbol = symbol_in(key)
            page = position_page(store, key, bars=held.get(symbol, ()), chain=chain, index=f"../{output.name}")
            write(inside / page_name(key), page, mode)
            if told is not None:
                told(number, len(keys))
    screen.out().print(f"{screen.clean(inside)}: {screen.plural(len(keys), 'page')}", soft_wrap=True)


def _name_of(output: Path, number: int) -> str:
    """The file of a page of the index: the first is `output` itself."""
    return output.name if number == 1 else f"{output.stem}-{number}{output.suffix}"


def _by_symbol(seen: Iterable[Seen]) -> dict[str, list[Bar]]:
    held: dict[str, list[Bar]] = {}
    for bar, _ in seen:
        held.setdefault(bar.symbol, []).append(bar)
    return held


# --- export -----------------------------------------------------------------------------------------------------------


def export(
    store: StoreArgument,
    as_format: Annotated[
        Format, typer.Option("--format", help="jsonl is exact; csv is for spreadsheets.")
    ] = Format.JSONL,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Write them to this file instead.", show_default=False),
    ] = None,
    mode: ModeOption = PRIVATE,
) -> None:
    """Print every event on a line, in the order they were stored."""
    from exitfsm.audit import export_csv, export_jsonl
    from exitfsm.store import ExitStore

    with ExitStore(store, read_only=True) as opened:
        lines = export_csv(opened) if as_format is Format.CSV else export_jsonl(opened)
        if output is not None:
            write(output, lines, mode)
            return
        for line in lines:
            screen.emit(line)
