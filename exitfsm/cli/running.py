"""`exitfsm run`: the live manager, on the paper broker or on a real one."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from exitfsm.cli import screen
from exitfsm.cli.bar_files import AdjustedFlag, BarsFromFiles, HowToRead, SymbolOption, TimezoneOption
from exitfsm.cli.configuring import configured
from exitfsm.cli.options import AccountOption, ConfigFile, LiveFlag, quantity
from exitfsm.cli.words import Printer
from exitfsm.errors import StoreError
from exitfsm.values import Side


def run(
    *,
    broker: Annotated[
        str, typer.Option("--broker", metavar="NAME", help="paper: the simulated broker; alpaca: an Alpaca account.")
    ] = "paper",
    config: ConfigFile = None,
    store: Annotated[str, typer.Option("--store", metavar="STORE", help="Where the events are kept.")] = "exits.db",
    live: LiveFlag = False,
    account: AccountOption = None,
    standby: Annotated[
        bool, typer.Option("--standby", help="Alpaca: wait until the store is free, or its owner has fallen silent.")
    ] = False,
    feed: Annotated[str, typer.Option("--feed", metavar="NAME", help="Alpaca: stock data, iex or sip.")] = "iex",
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Alpaca: take commands on this port of this machine, too."),
    ] = None,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="Alpaca: each event and line of the log is a line of JSON.")
    ] = False,
    strategy: Annotated[str, typer.Option("--strategy", metavar="NAME", help="Alpaca: label of the positions.")] = "",
    metrics: Annotated[
        int | None,
        typer.Option(
            "--metrics", metavar="PORT", min=0, max=65535, help="Alpaca: /metrics and /healthz on 127.0.0.1:PORT."
        ),
    ] = None,
    bars: Annotated[
        list[Path] | None,
        typer.Option(
            "--bars", metavar="FILE", exists=True, dir_okay=False, help="Paper: file of bars; may be repeated."
        ),
    ] = None,
    qty: Annotated[
        Decimal, typer.Option("--qty", parser=quantity, metavar="NUMBER", help="Paper: quantity of each entry.")
    ] = Decimal(10),
    side: Annotated[Side, typer.Option("--side", help="Paper: which way to enter.")] = Side.LONG,
    re_enter: Annotated[bool, typer.Option("--re-enter", help="Paper: enter again whenever it is allowed.")] = False,
    pace: Annotated[float, typer.Option("--pace", min=0, metavar="SECONDS", help="Paper: wait between bars.")] = 0.0,
    symbol: SymbolOption = None,
    timezone: TimezoneOption = None,
    adjusted: AdjustedFlag = False,
) -> None:
    """Run the live manager on a broker.

    paper: recorded bars go through it, and time follows the bars. alpaca: an account, with the keys of the environment
    (APCA_API_KEY_ID, APCA_API_SECRET_KEY): a paper account, unless --live is given and confirmed by --account.
    """
    if broker == "alpaca":
        from exitfsm.cli.alpaca import run_alpaca

        run_alpaca(
            config=config, store=store, live=live, account=account, feed=feed, strategy=strategy, standby=standby,
            metrics=metrics, listen=listen, json_logs=json_logs,
        )  # fmt: skip
        return
    if broker != "paper":
        raise typer.BadParameter(
            f"{broker!r} is no broker that can be run here; use paper or alpaca", param_hint="--broker"
        )
    if live or account is not None:
        raise typer.BadParameter("--live and --account are for --broker alpaca")
    if metrics is not None:
        raise typer.BadParameter("a paper run ends with its bars, and nobody looks meanwhile: --metrics is for alpaca")
    if listen is not None or json_logs:
        raise typer.BadParameter("--listen and --json-logs are for --broker alpaca")
    if standby:
        raise typer.BadParameter("a paper run starts from an empty store, which nobody owns: --standby is for alpaca")
    if not bars:
        raise typer.BadParameter("the paper broker needs recorded bars", param_hint="--bars")
    entry = Entry(qty, side, re_enter)
    run_paper(bars, HowToRead(symbol, timezone, adjusted), config=config, store=store, entry=entry, pace=pace)


class Entry(NamedTuple):
    """How the paper run enters."""

    qty: Decimal
    side: Side
    re_enter: bool


def run_paper(
    bars: Sequence[Path], how: HowToRead, *, config: Path | None, store: str, entry: Entry, pace: float
) -> None:
    """Run the live manager on the paper broker: recorded bars go through it, and time follows them.

    Raises:
        StoreError: the store already holds events.
    """
    import asyncio

    from exitfsm.paper import PaperRun
    from exitfsm.recorded_bars import new_bars_path
    from exitfsm.store import ExitStore

    with ExitStore(store) as opened:
        if opened.count():
            raise StoreError(
                f"{opened.where} already holds events; a paper run starts from an empty store: give a new path"
            )
        settings = configured(config)
        if settings.record_bars:
            new_bars_path(opened, settings.bars)
        paper = PaperRun(
            settings, opened, qty=entry.qty, side=entry.side, re_enter=entry.re_enter, pace_s=pace, on_event=Printer()
        )
        given = BarsFromFiles(bars, how)
        asyncio.run(paper.run(given))
        path = screen.store(store)
        for line in [*given.said(), *given.empty()]:
            screen.warn(line)
        screen.out().print(f"\n{paper.bars:,} bars. Every step is in {path}; read it with: exitfsm history {path}")
