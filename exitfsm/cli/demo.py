"""`exitfsm demo`: a short market day, with everything that can go wrong in it, told from its store."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from exitfsm.cli import screen
from exitfsm.cli.reading import print_stream
from exitfsm.position import Position, replay
from exitfsm.values import pct_change

if TYPE_CHECKING:
    from exitfsm.cli.market_day import Crash
    from exitfsm.simulated import SimulatedBroker
    from exitfsm.store import ExitStore


def demo(
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="PATH", help="Keep the store here; in a new temporary folder when not given."),
    ] = None,
) -> None:
    """Play a short market day with a real crash in it.

    A profit is taken, a stop is jumped over by a gap, a trailing stop follows, an order fills in parts, another is
    rejected, and a process is killed after its order was sent and before the answer came. What is printed is read back
    from the store.
    """
    from exitfsm.cli.market_day import run_day
    from exitfsm.simulated import SimulatedBroker
    from exitfsm.store import ExitStore, is_url

    if store is not None and (store == ":memory:" or is_url(store)):
        raise typer.BadParameter(
            "the store must be a file, because it has to outlive a process", param_hint="'--store'"
        )
    path = store if store is not None else str(Path(tempfile.mkdtemp(prefix="exitfsm-demo-"), "exits.db"))
    venue = SimulatedBroker()
    console = screen.out()
    crash = run_day(path, venue)
    with ExitStore(path, read_only=True) as opened:
        console.print(_rules(opened), width=min(console.width, screen.PROSE))
        console.print()
        console.print(_exits(opened))
        console.print()
        _tell_crash(console, crash, opened, venue)
        page = _write_page(opened, path)
    shown = screen.clean(path)
    console.print(f"\nThe store is {shown}. Look at it:", soft_wrap=True)
    console.print(f"  exitfsm history {shown}\n  exitfsm verify {shown}", soft_wrap=True)
    console.print(f"\nThe same as a page to look at, with every step, is {screen.clean(page)}", soft_wrap=True)


def _write_page(store: ExitStore, path: str) -> Path:
    """The page of the position that the crash hit, beside the store where that is a file."""
    from exitfsm.cli.files import write
    from exitfsm.cli.market_day import CRASH, bars
    from exitfsm.recorded_bars import Seen
    from exitfsm.report import position_page, suppose

    beside = Path(tempfile.mkdtemp(prefix="exitfsm-demo-"), "exits") if "://" in path else Path(path)
    page, key = beside.with_suffix(".html"), store.positions(symbol=CRASH)[0].position_id
    supposed = suppose(store, key, [Seen(bar, None) for bar in bars()])
    write(page, position_page(store, key, bars=bars(), supposed=supposed))
    return page


def _positions(store: ExitStore) -> list[Position]:
    return [replay(r.event for r in store.stream(row.position_id)) for row in store.positions()]


def _rules(store: ExitStore) -> Text:
    """The rules of the day, as the positions recorded them."""
    p = _positions(store)[0]
    target, stop, trail = p.policy.profit_taking, p.policy.stop_loss, p.policy.trailing_stop
    n = screen.number
    return Text(
        f"Bought {n(p.qty)} of each at {n(p.entry_price)}. Out at +{n(target.threshold_pct)} %, at "
        f"-{n(stop.threshold_pct)} %, or {n(trail.trail_pct)} % behind the best price once that is "
        f"+{n(trail.activation_pct)} %."
    )


def _exits(store: ExitStore) -> screen.Rows:
    from exitfsm.cli.market_day import STORIES

    columns: list[screen.Column] = [("Symbol", "left"), ("What it shows", "left"), ("Reason", "left")]
    columns += [("Entry", "right"), ("Trigger", "right"), ("Fill", "right"), ("P&L %", "right"), ("Orders", "right")]
    found = {p.symbol: p for p in _positions(store)}
    return screen.table(columns, [_exit_row(found[symbol], story.shows) for symbol, story in STORIES.items()])


def _exit_row(p: Position, shows: str) -> tuple[str | Text, ...]:
    price = p.avg_exit_price
    pnl = pct_change(p.entry_price, price, p.side) if price is not None else None
    return (
        p.symbol,
        shows,
        str(p.reason) if p.reason is not None else screen.NONE,
        screen.number(p.entry_price),
        screen.number(p.trigger_price),
        screen.number(price),
        screen.colored(pnl, screen.percent(pnl)),
        str(p.attempt),
    )


def _tell_crash(console: Console, crash: Crash, store: ExitStore, venue: SimulatedBroker) -> None:
    """The crash as it was seen from outside, and the history of the position that it hit."""
    from exitfsm.cli.market_day import CRASH, sold

    row = store.positions(symbol=CRASH)[0]
    parts = sold(venue, CRASH)
    quantities = " + ".join(screen.number(qty) for qty in parts)
    console.print(Text("The crash", style="bold"))
    told = (
        f"Process {crash.pid} {_died_of(crash.exit_code)} when the venue had taken its order "
        f"{crash.client_order_id} and had not answered yet: in the store it was {crash.known_as}. A new engine opened "
        f"the store, found {screen.plural(crash.held, 'open position')}, and the first thing it owed was a "
        f"{crash.asked} of that order. The venue's answer: {crash.answer}. In all the venue sold {quantities} of "
        f"{screen.number(row.qty)} in {screen.plural(len(parts), 'execution')}, and holds "
        f"{screen.number(venue.held(CRASH))}."
    )
    console.print(told, width=min(console.width, screen.PROSE))
    console.print()
    print_stream(row.position_id, store.stream(row.position_id), screen.Page())


def _died_of(exit_code: int) -> str:
    if exit_code >= 0:  # a system without signals
        return f"was killed (exit code {exit_code})"
    return f"was killed by {signal.Signals(-exit_code).name}"
