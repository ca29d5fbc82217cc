"""`exitfsm watch`: what is held, live, in a terminal. It only reads the store, and may run beside the bot.

Rules of this room: `look` reads, `picture` draws from what was read and a time; the loop does nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Group
from rich.text import Text

from exitfsm.account import Account
from exitfsm.choices import Choice
from exitfsm.cli import screen
from exitfsm.cli.options import StoreArgument
from exitfsm.errors import StoreError
from exitfsm.lifecycle import State
from exitfsm.policy import Level
from exitfsm.position import Position, levels, replay
from exitfsm.projections import AlarmRow
from exitfsm.values import pct_change

if TYPE_CHECKING:
    from decimal import Decimal

    from exitfsm.store import ExitStore

#: Alarms that are shown; how old a price may be before it stands out, in seconds.
_ALARMS_MAX, _OLD_S = 8, 120
#: Lines around the table: heading, rule, summary, alarms.
_AROUND = 8


class Row(NamedTuple):
    """A position, its last price, and the levels that count."""

    position: Position
    price: Decimal | None
    price_at: datetime | None
    levels: Sequence[Level]

    def distance_pct(self, level: Level) -> Decimal | None:
        """How far the price has to go to a level, in percent of the price: below 0 towards a loss."""
        return pct_change(self.price, level.price, self.position.side) if self.price else None

    @property
    def urgency(self) -> tuple[int, float, str]:
        """Unprotected first, then what is on its way out, then what is nearest to a level."""
        rank = {State.UNPROTECTED: 0, State.MONITORING: 2}.get(self.position.state, 1)
        near = [abs(d) for level in self.levels if (d := self.distance_pct(level)) is not None]
        return rank, float(min(near, default=0)), self.position.symbol


class Seen(NamedTuple):
    """One look at a store."""

    where: str
    rows: Sequence[Row]
    alarms: Sequence[AlarmRow]
    is_paused: bool
    is_spaced: bool
    scope: Sequence[Choice] = ()


def watch(
    store: StoreArgument,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, max=3600, help="Time between looks.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so it is where the output is no terminal.")] = False,
) -> None:
    """Show the open positions live: state, distance to each level, age of the price, attempts, alarms.

    It only reads, beside the bot. Ctrl-C ends it.
    """
    from exitfsm.store import ExitStore

    with ExitStore(store, read_only=True) as opened:
        eye = Eye(opened)
        if once or not sys.stdout.isatty():
            screen.out().print(picture(eye.look(), datetime.now(UTC)))
            return
        _live(eye, every)


class Eye:
    """Looks at one store, again and again."""

    def __init__(self, store: ExitStore) -> None:
        self._store = store
        self._account = Account(store, store.meta.get("account", ""))

    def look(self) -> Seen:
        """What stands now."""
        self._account.load()
        rows = [self._row(row.position_id) for row in self._store.open_positions()]
        return Seen(
            self._store.where,
            sorted(rows, key=lambda row: row.urgency),
            self._store.alarms(),
            self._account.paused,
            self._account.breaker_open,
            self._account.choices.all,
        )

    def _row(self, position_id: str) -> Row:
        p = replay(recorded.event for recorded in self._store.stream(position_id))
        mark = self._store.tracking(p.symbol)
        if mark is not None and mark.position_id != p.position_id:
            mark = None
        looked_at = mark.last_evaluated_at_utc if mark is not None else None
        target, stops = levels(p, looked_at or p.opened_at)
        shown = [*stops, *([target] if target is not None else [])] if p.state is State.MONITORING else []
        return Row(p, mark.current_price if mark is not None else None, looked_at, shown)


def _live(eye: Eye, every: float) -> None:
    from rich.live import Live

    console = screen.out()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                now = datetime.now(UTC)
                try:
                    seen = eye.look()
                    drawn = picture(seen, now, width=console.width, rows_max=max(3, console.height - _AROUND))
                except StoreError as error:  # it may be back at the next look
                    drawn = Group(Text(f"{screen.clean(error)}", style="bold red"))
                live.update(drawn, refresh=True)
                time.sleep(every)
    except KeyboardInterrupt:
        return


def picture(seen: Seen, now: datetime, *, width: int = 0, rows_max: int = 1000) -> Group:
    """What is drawn of one look.

    Args:
        seen: what was read.
        now: the time.
        width: columns there are; 0: as many as it takes.
        rows_max: the most positions that are drawn, the most urgent.
    """
    drawn: list[Text | screen.Rows] = [_heading(seen, now)]
    if seen.rows:
        drawn.append(_table(seen.rows[:rows_max], now, width))
    if len(seen.rows) > rows_max:
        drawn.append(Text(f"and {len(seen.rows) - rows_max:,} more, less urgent"))
    for choice in seen.scope[:_ALARMS_MAX]:
        drawn.append(Text(screen.clean(choice.said), overflow="ellipsis", no_wrap=True))
    for alarm in seen.alarms[:_ALARMS_MAX]:
        text = f"alarm {alarm.kind} ({screen.age(alarm.raised_at_utc, now)}): {alarm.text}"
        drawn.append(Text(screen.clean(text), style="bold red", overflow="ellipsis", no_wrap=True))
    if len(seen.alarms) > _ALARMS_MAX:
        drawn.append(Text(f"and {len(seen.alarms) - _ALARMS_MAX:,} more alarms: exitfsm status", style="bold red"))
    return Group(*drawn)


def _heading(seen: Seen, now: datetime) -> Text:
    newest = max((row.price_at for row in seen.rows if row.price_at is not None), default=None)
    said = [screen.clean(seen.where), f"{now:%H:%M:%S} UTC", screen.plural(len(seen.rows), "position")]
    said.append(f"newest bar {screen.age(newest, now)} ago" if newest is not None else "no bars yet")
    text = Text(" · ".join(said), style="bold")
    if seen.is_paused:
        text.append(" · PAUSED: no new exits", style="bold yellow")
    if seen.is_spaced:
        text.append(" · the broker fails: sends are spaced", style="bold yellow")
    if seen.alarms:
        text.append(f" · {screen.plural(len(seen.alarms), 'alarm')}", style="bold red")
    return text


def _table(rows: Sequence[Row], now: datetime, width: int) -> screen.Rows:
    columns: list[screen.Column] = [("Symbol", "left"), ("Held", "left"), ("State", "left"), ("Entry", "right")]
    columns += [("Last", "right"), ("P&L %", "right"), ("To each level, %", "left"), ("Bar age", "right")]
    columns += [("Attempt", "right"), ("Exit", "left")]
    cells = [_cells(row, now) for row in rows]
    spare = ("Entry", "Held", "Last", "Exit")
    made = screen.table(columns, cells)
    for heading in spare:
        if not width or made.width <= width:
            break
        kept = [i for i, (name, _) in enumerate(columns) if name != heading]
        columns, cells = [columns[i] for i in kept], [[cell[i] for i in kept] for cell in cells]
        made = screen.table(columns, cells)
    return made


def _cells(row: Row, now: datetime) -> Sequence[screen.Cell]:
    p = row.position
    pnl = pct_change(p.entry_price, row.price, p.side) if row.price is not None else None
    is_old = row.price_at is not None and (now - row.price_at).total_seconds() > _OLD_S
    told = [f"{level.name} {screen.percent(row.distance_pct(level))}" for level in row.levels]
    return [
        screen.clean(p.symbol),
        f"{p.side} {screen.number(p.remaining_qty)}",
        Text(str(p.state), style="bold red" if p.state is State.UNPROTECTED else ""),
        screen.number(p.entry_price),
        screen.number(row.price),
        screen.colored(pnl, screen.percent(pnl)),
        "  ".join(told) or screen.NONE,
        Text(screen.age(row.price_at, now), style="yellow" if is_old else ""),
        str(p.attempt) if p.reason else screen.NONE,
        str(p.reason) if p.reason else screen.NONE,
    ]
