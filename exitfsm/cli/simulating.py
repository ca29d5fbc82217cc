"""`exitfsm simulate`: bars from files through the rules, on the simulated broker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from exitfsm.cli import screen
from exitfsm.cli.bar_files import AdjustedFlag, BarsFromFiles, HowToRead, SymbolOption, TimezoneOption
from exitfsm.cli.codes import FINDING
from exitfsm.cli.configuring import configured
from exitfsm.cli.options import JsonFlag, quantity, slippage
from exitfsm.errors import FeedError
from exitfsm.values import Side

if TYPE_CHECKING:
    from exitfsm.config import ExitConfig
    from exitfsm.refusals import Refused
    from exitfsm.simulate import SimulatedExit, SimulationResult
    from exitfsm.store import ExitStore


def simulate(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Files of bars: CSV and other text, JSON, Parquet, Arrow, plain or packed; merged in time order.",
        ),
    ],
    *,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML file with an exit_manager section.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="STORE", help="Keep the events in this new store.")
    ] = None,
    qty: Annotated[
        Decimal, typer.Option("--qty", parser=quantity, metavar="NUMBER", help="Quantity of each entry.")
    ] = Decimal(10),
    side: Annotated[Side, typer.Option("--side", help="Which way to enter.")] = Side.LONG,
    re_enter: Annotated[
        bool, typer.Option("--re-enter", help="Enter a symbol again once its cooldown is over.")
    ] = False,
    slippage_pct: Annotated[
        Decimal,
        typer.Option(
            "--slippage-pct", parser=slippage, metavar="NUMBER", help="How much worse than the open orders fill, in %."
        ),
    ] = Decimal(0),
    symbol: SymbolOption = None,
    timezone: TimezoneOption = None,
    adjusted: AdjustedFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Run bars from files through the exit rules.

    Each symbol is entered at the close of its first bar. An exit that is decided on one bar fills at the open of the
    symbol's next bar. Nothing is random: the same bars and settings give the same exits.

    A position over a price that jumped as in a split, and stayed there, ends at the last price before: `split?`, which
    is not in the figures. Exit codes: 0, 1 when a file holds no bar, 2 when one cannot be read.
    """
    from exitfsm.simulate import simulate as run
    from exitfsm.simulated import SimulatedBroker
    from exitfsm.store import ExitStore

    settings = configured(config)
    bars = BarsFromFiles(files, HowToRead(symbol, timezone, adjusted))
    with ExitStore(store if store is not None else ":memory:") as opened, _progress(files) as progress:
        was_empty = not opened.count()
        try:
            result = run(
                bars,
                settings,
                store=opened,
                qty=qty,
                side=side,
                re_enter=re_enter,
                broker=SimulatedBroker(slippage_pct=slippage_pct),
                progress=progress,
            )
        except FeedError as error:
            raise FeedError(f"{error}{_left_behind(opened, store) if was_empty else ''}") from None
    _emit(result, settings, bars, as_json=as_json)
    if store is not None and not as_json:
        path = screen.store(store)
        screen.out().print(f"\nEvery step is in {path}; read it with: exitfsm history {path}", soft_wrap=True)
    for empty in bars.empty():
        screen.warn(empty)
    if bars.empty():
        raise typer.Exit(FINDING)


def _emit(result: SimulationResult, settings: ExitConfig, bars: BarsFromFiles, *, as_json: bool) -> None:
    if as_json:
        for line in bars.said():
            screen.warn(line)
        screen.emit_json(result.as_dict())
        return
    for line in bars.said():
        screen.out().print(line, soft_wrap=True)
    if bars.said():
        screen.out().print()
    _show(screen.out(), result, settings)


def _left_behind(store: ExitStore, path: str | None) -> str:
    """What a run that broke off leaves in its store, where that is a file."""
    if path is None or not store.count():
        return ""
    return f"\n{store.where} holds what happened up to there; repair the file, and give a new path to run again"


#: How files begin whose lines are not bars: packed ones, tables of columns, JSON.
_NO_LINES = (b"\x1f\x8b", b"PK", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff", b"[", b"{")
_MAGIC_MAX = max(map(len, _NO_LINES))


@contextmanager
def _progress(files: Sequence[Path]) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on stderr where that is a terminal; told the number of bars so far."""
    console = screen.err()
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("bars"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("bars", total=_lines(files))
        yield lambda count: bar.update(task, completed=count)


def _lines(files: Sequence[Path]) -> int | None:
    """How many bars the files hold, about; None where only reading them tells (a pipe, a packed one)."""
    count = 0
    for path in files:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            if file.read(_MAGIC_MAX).startswith(_NO_LINES):
                return None
            while block := file.read(1 << 20):
                count += block.count(b"\n")
    return count


# --- showing ----------------------------------------------------------------------------------------------------------


def _show(console: Console, result: SimulationResult, settings: ExitConfig) -> None:
    parts: list[Group] = []
    if result.exits:
        parts.append(_exits(console, result.exits, "Exits"))
    if result.splits:
        parts.append(_exits(console, result.splits, _SPLITS))
    if result.open:
        parts.append(_open(console, result.open))
    if result.refused:
        parts.append(_refused(console, result.refused))
    parts.append(_summary(result, settings))
    for index, part in enumerate(parts):
        if index:
            console.print()
        console.print(part)


_SPLITS = "Ended at a price that jumped as in a split: not in the figures"


def _exits(console: Console, exits: Sequence[SimulatedExit], heading: str) -> Group:
    """Positions that are over, each with what a person should look at."""
    columns: list[screen.Column] = [("Symbol", "left"), ("Held", "left"), ("Reason", "left"), ("Entered (UTC)", "left")]
    columns += [
        ("Entry", "right"),
        ("Trigger", "right"),
        ("Filled (UTC)", "left"),
        ("Fill", "right"),
        ("P&L %", "right"),
    ]
    rows = [
        (
            screen.clean(e.symbol),
            _held(e),
            e.reason or screen.NONE,
            screen.when(e.opened_at),
            screen.number(e.entry_price),
            screen.number(e.trigger_price),
            screen.when(e.filled_at),
            screen.number(e.avg_fill_price),
            screen.colored(e.pnl_pct, screen.percent(e.pnl_pct)),
        )
        for e in exits
    ]
    table = screen.table(columns, rows, fit=console, may_drop=("Entered (UTC)", "Trigger"))
    return Group(_heading(heading), table, *_alarms(exits))


def _open(console: Console, held: Sequence[SimulatedExit]) -> Group:
    """Positions that are still open, each with what a person must look at."""
    columns: list[screen.Column] = [("Symbol", "left"), ("Held", "left"), ("State", "left"), ("Reason", "left")]
    columns += [("Entered (UTC)", "left"), ("Entry", "right")]
    rows = [
        (
            screen.clean(e.symbol),
            _held(e),
            str(e.state),
            e.reason or screen.NONE,
            screen.when(e.opened_at),
            screen.number(e.entry_price),
        )
        for e in held
    ]
    table = screen.table(columns, rows, fit=console, may_drop=("Entered (UTC)",))
    return Group(_heading("Still open"), table, *_alarms(held))


def _alarms(positions: Sequence[SimulatedExit]) -> list[Text]:
    return [Text.assemble(("alarm: ", "bold red"), screen.clean(alarm)) for e in positions for alarm in e.alarms]


def _held(e: SimulatedExit) -> str:
    return f"{e.side} {screen.number(e.qty)}"


def _refused(console: Console, refused: Sequence[Refused]) -> Group:
    columns: list[screen.Column] = [("Symbol", "left"), ("Why", "left"), ("Price", "right"), ("Bars", "right")]
    columns += [("First (UTC)", "left"), ("Last (UTC)", "left")]
    rows = [
        (
            screen.clean(r.symbol),
            screen.clean(r.reason),
            screen.clean(r.price),
            f"{r.count:,}",
            screen.when(r.first_at),
            screen.when(r.last_at),
        )
        for r in refused
    ]
    table = screen.table(columns, rows, fit=console, may_drop=("Last (UTC)",))
    return Group(_heading("Refused bars: nothing was decided on them"), table)


def _summary(result: SimulationResult, settings: ExitConfig) -> Group:
    """What it comes to: bars, exits by reason with their profits, what is open."""
    by_reason: dict[str, list[SimulatedExit]] = defaultdict(list)
    for e in result.exits:
        by_reason[e.reason or "closed elsewhere"].append(e)
    rows = [(reason, *_figures(by_reason[reason])) for reason in sorted(by_reason)]
    if len(rows) > 1:
        rows.append(("all", *_figures(result.exits)))
    columns: list[screen.Column] = [
        ("Reason", "left"),
        ("Exits", "right"),
        ("Total %", "right"),
        ("Average %", "right"),
    ]
    refused = sum(r.count for r in result.refused)
    counts = [screen.plural(result.bars, "bar"), screen.plural(len(result.exits), "exit"), f"{len(result.open)} open"]
    counts += [f"{len(result.splits)} split?"] if result.splits else []
    counts += [f"{screen.plural(refused, 'bar')} refused"] if refused else []
    lines: list[RenderableType] = [_heading("Summary")]
    lines += [screen.table(columns, rows)] if rows else []
    lines.append(Text(", ".join(counts)))
    if not settings.policy.enabled:
        lines.append(Text("exits are off (enabled: false): nothing could be triggered", style="bold"))
    return Group(*lines)


def _figures(exits: Sequence[SimulatedExit]) -> tuple[str, Text, Text]:
    """How many exits, their profits added up, and the average."""
    known = [e.pnl_pct for e in exits if e.pnl_pct is not None]
    total = sum(known, Decimal(0)) if known else None
    average = total / len(known) if total is not None else None
    shown = [screen.colored(value, screen.percent(value)) for value in (total, average)]
    return f"{len(exits):,}", shown[0], shown[1]


def _heading(text: str) -> Text:
    return Text(text, style="bold")
