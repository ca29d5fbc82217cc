"""`exitfsm run`: the live manager, on a paper broker or on a real one."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exitfsm.cli import screen
from exitfsm.cli.bar_files import AdjustedFlag, BarsFromFiles, HowToRead, SymbolOption, TimezoneOption
from exitfsm.cli.configuring import configured
from exitfsm.cli.options import quantity
from exitfsm.cli.words import in_words
from exitfsm.errors import StoreError
from exitfsm.values import Side, stamp

if TYPE_CHECKING:
    from exitfsm.events import Recorded
    from exitfsm.position import Position


def run(
    *,
    broker: Annotated[str, typer.Option("--broker", metavar="NAME", help="paper: the simulated broker.")] = "paper",
    bars: Annotated[
        list[Path],
        typer.Option("--bars", metavar="FILE", exists=True, dir_okay=False, help="File of bars; may be repeated."),
    ],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML file with an exit_manager section.")
    ] = None,
    store: Annotated[
        str,
        typer.Option("--store", metavar="STORE", help="Keep the events in this new store: a file, or postgresql://…"),
    ] = "exits.db",
    qty: Annotated[
        Decimal, typer.Option("--qty", parser=quantity, metavar="NUMBER", help="Quantity of each entry.")
    ] = Decimal(10),
    side: Annotated[Side, typer.Option("--side", help="Which way to enter.")] = Side.LONG,
    re_enter: Annotated[bool, typer.Option("--re-enter", help="Enter again whenever the manager allows it.")] = False,
    pace: Annotated[float, typer.Option("--pace", min=0, metavar="SECONDS", help="Wait between bars, to watch.")] = 0.0,
    symbol: SymbolOption = None,
    timezone: TimezoneOption = None,
    adjusted: AdjustedFlag = False,
) -> None:
    """Run the live manager on a broker.

    With the paper broker, recorded bars go through it, and time follows the bars. Prints each step as it
    happens; meanwhile `exitfsm status STORE` shows the positions from another terminal.
    """
    import asyncio

    from exitfsm.paper import PaperRun
    from exitfsm.recorded_bars import new_bars_path
    from exitfsm.store import ExitStore

    if broker != "paper":
        raise typer.BadParameter(f"{broker!r} is not a broker that can be run here; use paper", param_hint="--broker")
    with ExitStore(store) as opened:
        if opened.count():
            raise StoreError(
                f"{opened.where} already holds events; a paper run starts from an empty store: give a new path"
            )
        settings = configured(config)
        if settings.record_bars:
            new_bars_path(opened, settings.bars)
        paper = PaperRun(settings, opened, qty=qty, side=side, re_enter=re_enter, pace_s=pace, on_event=_Printer())
        given = BarsFromFiles(bars, HowToRead(symbol, timezone, adjusted))
        asyncio.run(paper.run(given))
        path = screen.store(store)
        for line in [*given.said(), *given.empty()]:
            screen.warn(line)
        screen.out().print(f"\n{paper.bars:,} bars. Every step is in {path}; read it with: exitfsm history {path}")


class _Printer:
    """One line for each step, in the words of `exitfsm history`."""

    def __init__(self) -> None:
        self._positions: dict[str, Position] = {}

    def __call__(self, position: Position | None, recorded: Recorded) -> None:
        from exitfsm.position import evolve

        event, stream = recorded.event, recorded.stream_id
        before = self._positions.get(stream)
        after = evolve(before, event) if position is not None else None
        if after is not None:
            self._positions[stream] = after
        where = screen.clean(position.symbol) if position is not None else "account"
        at = stamp(datetime.fromtimestamp(recorded.at_ns // 10**9, UTC))
        said = screen.clean(in_words(before, after, event))
        screen.emit(f"{at}  {where:<10} {type(event).__name__:<24} {said}\n")
