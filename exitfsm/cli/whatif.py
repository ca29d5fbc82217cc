"""`exitfsm whatif`: the positions of a store once more, under another policy."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from exitfsm.cli import screen
from exitfsm.cli.asked import BarFiles, BarsGiven, PositionsAndFiles, split
from exitfsm.cli.bar_files import AdjustedFlag, HowToRead, SymbolOption, TimezoneOption
from exitfsm.cli.codes import FINDING
from exitfsm.cli.configuring import configured
from exitfsm.cli.options import JsonFlag, StoreArgument, slippage
from exitfsm.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from exitfsm.audit import WhatIf, WhatIfPosition
    from exitfsm.simulate import SimulatedExit


def whatif(
    store: StoreArgument,
    position: PositionsAndFiles = None,
    *,
    bars: BarFiles = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting to change, e.g. stop_loss.threshold_pct=1.5.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="NAME=A,B,C",
            help="Try each of these values; several make every combination.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="FILE", help="YAML file whose session hours hold; the log does not have them."
        ),
    ] = None,
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
    """Replay real positions under a changed policy.

    With their real entries, on the same bars.

    POSITION may be a symbol: then all its positions are replayed, not only the newest. Without --set and --grid the
    policy is the one that each position had, and the replay must decide what the log says.

    Exit codes: 0, 1 when a position with its own policy has no bars or does not decide what the log says, 2 when
    nothing can be replayed at all.
    """
    from exitfsm.audit import find
    from exitfsm.audit import grid as combined
    from exitfsm.audit import whatif as replay
    from exitfsm.store import ExitStore

    wanted, files = split(position, bars)
    combinations = combined(_changes(settings), [_axis(text) for text in grid or ()])
    session = configured(config).session
    with ExitStore(store, read_only=True) as opened:
        keys = find(opened, wanted) if wanted is not None else [row.position_id for row in opened.positions()]
        source = BarsGiven(opened, files, keys, HowToRead(symbol, timezone, adjusted), needed=True)
        if not files and next(iter(source()), None) is None:
            raise StoreError("there are no bars to replay on: give --bars FILE, or record them with record_bars: true")
        ran = [
            replay(opened, source, changes, positions=keys, session=session, slippage_pct=slippage_pct)
            for changes in combinations
        ]
    if not any(p.entered for p in ran[0].positions):
        raise StoreError(_no_entry(ran[0], source if files else None))
    _emit(ran, as_json=as_json, as_grid=bool(grid))
    for one in ran:
        _say_missing(one)
        _say_reproduced(one, as_json=as_json)
    if any(one.reproduced is False for one in ran):
        raise typer.Exit(FINDING)


def _changes(settings: Sequence[str] | None) -> dict[str, str]:
    from exitfsm.audit import parse_change

    return dict(parse_change(text) for text in settings or ())


def _axis(text: str) -> tuple[str, list[str]]:
    """One axis of a grid: the setting and its values."""
    from exitfsm.audit import parse_change

    name, values = parse_change(text)
    parts = [part.strip() for part in values.split(",") if part.strip()]
    if not parts:
        raise ConfigError([f"{text!r} has no values: write it as stop_loss.threshold_pct=0.5,1,1.5"])
    return name, parts


def _emit(ran: Sequence[WhatIf], *, as_json: bool, as_grid: bool) -> None:
    if as_json:
        screen.emit_json([one.as_dict() for one in ran] if as_grid else ran[0].as_dict())
    elif as_grid:
        _show_grid(ran)
    else:
        _show(ran[0])


# --- showing ----------------------------------------------------------------------------------------------------------


def _show(one: WhatIf) -> None:
    console = screen.out()
    columns: list[screen.Column] = [("Symbol", "left"), ("Entered (UTC)", "left"), ("Entry", "right"), ("Log", "left")]
    columns += [("At", "right"), ("P&L %", "right"), ("Replay", "left"), ("When (UTC)", "left"), ("At", "right")]
    columns += [("P&L %", "right"), ("Difference", "right")]
    rows = [_row(p) for p in one.positions]
    if rows:
        console.print(screen.table(columns, rows, fit=console, may_drop=("Entry", "At", "When (UTC)")))
    changes = ", ".join(f"{name} = {value}" for name, value in one.changes.items()) or "nothing changed"
    console.print(Text(screen.clean(f"{screen.plural(len(one.positions), 'position')}, {one.bars:,} bars; {changes}")))
    console.print(
        Text.assemble(
            "total P&L %: logged ",
            *_sum([p.logged for p in one.positions]),
            ", replayed ",
            *_sum([p.replayed for p in one.positions]),
        )
    )


def _sum(exits: Sequence[SimulatedExit | None]) -> tuple[str | Text, ...]:
    """The total of some exits, and of how many: positions that never exit are in no total."""
    total, count = _total(exits), sum(e is not None and e.pnl_pct is not None for e in exits)
    return screen.colored(total, screen.percent(total)), f" ({screen.plural(count, 'exit')})"


def _row(p: WhatIfPosition) -> tuple[str | Text, ...]:
    difference = p.pnl_difference_pct
    return (
        screen.clean(p.symbol),
        screen.when(p.opened_at),
        screen.number(p.entry_price),
        _reason(p.logged),
        screen.number(p.logged.avg_fill_price if p.logged is not None else None),
        _pnl(p.logged),
        _reason(p.replayed) if p.entered else "no bars",
        screen.when(p.replayed.filled_at if p.replayed is not None else None),
        screen.number(p.replayed.avg_fill_price if p.replayed is not None else None),
        _pnl(p.replayed),
        screen.colored(difference, screen.percent(difference)),
    )


def _reason(e: SimulatedExit | None) -> str:
    return "never exits" if e is None else e.reason or "closed elsewhere"


def _pnl(e: SimulatedExit | None) -> Text:
    value = e.pnl_pct if e is not None else None
    return screen.colored(value, screen.percent(value))


def _show_grid(ran: Sequence[WhatIf]) -> None:
    """A line for each combination."""
    names = list(ran[0].changes)
    columns: list[screen.Column] = [(screen.clean(name), "right") for name in names]
    columns += [
        ("Exits", "right"),
        ("Never", "right"),
        ("Total %", "right"),
        ("Average %", "right"),
        ("To the log", "right"),
    ]
    rows: list[Sequence[screen.Cell]] = []
    for one in ran:
        exits = [p.replayed for p in one.positions if p.replayed is not None]
        total, logged = _total(exits), _total([p.logged for p in one.positions])
        average = total / len(exits) if total is not None and exits else None
        gap = total - logged if total is not None and logged is not None else None
        figures = [screen.colored(value, screen.percent(value)) for value in (total, average, gap)]
        counts = (f"{len(exits):,}", f"{len(one.positions) - len(exits):,}")
        rows.append((*(screen.clean(one.changes[name]) for name in names), *counts, *figures))
    screen.out().print(screen.table(columns, rows))
    logged = _total([p.logged for p in ran[0].positions])
    screen.out().print(
        f"{screen.plural(len(ran[0].positions), 'position')}; the log's total is {screen.percent(logged)} %"
    )


def _total(exits: Sequence[SimulatedExit | None]) -> Decimal | None:
    known = [e.pnl_pct for e in exits if e is not None and e.pnl_pct is not None]
    return sum(known, Decimal(0)) if known else None


def _no_entry(one: WhatIf, given: BarsGiven | None) -> str:
    """None of the bars is of any use here: what there is, and what would be needed."""
    if not one.positions:
        return "the store has no position to replay"
    first = one.positions[0]
    rest = f", and {len(one.positions) - 1} more" if len(one.positions) > 1 else ""
    held = f"the files hold {given.said()}" if given is not None else "those that were recorded do not"
    return f"no bar reaches an entry ({first.symbol} at {screen.when(first.opened_at)}{rest}): {held}"


def _say_missing(one: WhatIf) -> None:
    missing = [p.position_id for p in one.positions if not p.entered]
    if missing:
        listed = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        screen.warn(f"no bar reaches the entry of {screen.plural(len(missing), 'position')}: {listed}")


def _say_reproduced(one: WhatIf, *, as_json: bool) -> None:
    """Whether positions with their own policy decided what the log says; to stderr where stdout is for programs."""
    if one.reproduced is None:
        return
    own = [p for p in one.positions if p.same_policy and p.entered]
    if own and all(p.same_decisions for p in own):
        text = f"{_which(own, one.positions)} reproduces the log: {_how_well(own)}"
        (screen.err() if as_json else screen.out()).print(Text(text), soft_wrap=True)
        return
    different = [p for p in own if not p.same_decisions]
    for p in different[:10]:
        screen.complain(f"{p.position_id}: the replay does not reproduce the log: {p.first_difference}")


def _which(own: Sequence[WhatIfPosition], every: Sequence[WhatIfPosition]) -> str:
    counted = screen.plural(len(every), "position")
    of = f"all {counted}" if len(own) == len(every) > 1 else f"{len(own)} of {counted}" if len(every) > 1 else counted
    return f"with the policy that {'each' if len(own) > 1 else 'it'} had, the replay of {of}"


def _how_well(own: Sequence[WhatIfPosition]) -> str:
    """What is the same: the decisions always, the rest where the broker did what the simulated one does."""
    said = f"{screen.plural(sum(p.decisions for p in own), 'decision')}, each the same on the same evidence"
    others = sum(not p.same_events for p in own)
    if not others:
        return f"{said}, and everything else that is recorded is the same too"
    whose = "its" if len(own) == 1 else f"of {others} the"
    return f"{said}; {whose} orders went another way at the broker than in the replay, which fills at the next open"
