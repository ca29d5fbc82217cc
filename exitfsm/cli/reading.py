"""`exitfsm status`, `history` and `diagram`: what a store holds, and the lifecycle itself. Nothing here writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from exitfsm.cli import screen
from exitfsm.cli.options import JsonFlag, StoreArgument
from exitfsm.cli.words import in_words
from exitfsm.errors import StoreError
from exitfsm.events import Recorded, tag_of
from exitfsm.lifecycle import NOTHING, TABLE, State, mermaid
from exitfsm.policy import Level
from exitfsm.position import Position, evolve, levels, replay
from exitfsm.projections import ACCOUNT_PREFIX, AlarmRow, PositionRow, TrackingRow, stamp_ns
from exitfsm.values import pct_change, plain, stamp, symbol_key

if TYPE_CHECKING:
    from decimal import Decimal

    from exitfsm.store import ExitStore


# --- status -----------------------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """An open position, its last known price and the levels that stand."""

    position: Position
    price: Decimal | None
    price_at: datetime | None
    pnl_pct: Decimal | None
    target: Level | None
    stop: Level | None

    @property
    def to_stop_pct(self) -> Decimal | None:
        """How far the last price is from the stop, in percent of the price; None without either, negative beyond it."""
        if self.stop is None or self.price is None:
            return None
        return pct_change(self.price, self.stop.price, self.position.side) * -1


def status(
    store: StoreArgument,
    as_json: JsonFlag = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="TIME", help="As it was known then, e.g. 2014-06-09T13:45:00Z.", show_default=False
        ),
    ] = None,
) -> None:
    """Show the open positions, their levels and their alarms."""
    from exitfsm.cli.auditing import status_as_of
    from exitfsm.store import ExitStore

    if as_of is not None:
        status_as_of(store, as_of, as_json)
        return
    now = datetime.now(UTC)
    with ExitStore(store, read_only=True) as opened:
        held = [_held(opened, row) for row in opened.open_positions()]
        alarms = opened.alarms()
        over = len(opened.positions()) - len(held)
    if as_json:
        data = {"positions": [_held_json(h) for h in held], "alarms": [_alarm_json(a) for a in alarms], "over": over}
        screen.emit_json(data)
        return
    console = screen.out()
    off = [h for h in held if not h.position.policy.enabled]
    if off:
        symbols = ", ".join(screen.clean(h.position.symbol) for h in off)
        off_line = f"Exits are off (enabled: false) for {symbols}: nothing will be triggered."
        console.print(Text(off_line, style="bold red"))
    if held:
        console.print(_held_table(console, held, now))
    console.print(f"{screen.plural(len(held), 'position')} open, {over:,} over" + ("" if alarms else ", no alarms"))
    for alarm in alarms:
        console.print()
        kind = (screen.clean(alarm.kind), "bold red")
        where = screen.clean(alarm.stream_id)
        console.print(Text.assemble("alarm ", kind, f" since {screen.when(alarm.raised_at_utc)} UTC on {where}"))
        console.print(Padding(Text(screen.clean(alarm.text)), (0, 0, 0, 2), expand=False))


def _held(store: ExitStore, row: PositionRow) -> Held:
    recorded = store.stream(row.position_id)
    p = replay(r.event for r in recorded)
    tracked = store.tracking(p.symbol)
    mark: TrackingRow | None = tracked if tracked is not None and tracked.position_id == p.position_id else None
    # There is no clock here: levels that change with time are those of the last time the store knows.
    looked_at = mark.last_evaluated_at_utc if mark is not None else None
    target, stops = levels(p, looked_at or p.opened_at)
    watched = p.state is State.MONITORING
    return Held(
        position=p,
        price=mark.current_price if mark is not None else None,
        price_at=looked_at,
        pnl_pct=mark.unrealised_pnl_pct if mark is not None else None,
        target=target if watched else None,
        stop=stops[0] if watched and stops else None,
    )


def _held_table(console: Console, held: Sequence[Held], now: datetime) -> screen.Rows:
    columns: list[screen.Column] = [("Symbol", "left"), ("Held", "left"), ("State", "left"), ("Entry", "right")]
    columns += [("Last", "right"), ("P&L %", "right"), ("Stop", "right"), ("To stop %", "right"), ("Target", "right")]
    columns += [("Bar age", "right"), ("Exit", "left")]
    rows: list[Sequence[screen.Cell]] = [
        (
            screen.clean(h.position.symbol),
            f"{h.position.side} {screen.number(h.position.remaining_qty)}",
            Text(str(h.position.state), style="bold red" if h.position.state is State.UNPROTECTED else ""),
            screen.number(h.position.entry_price),
            screen.number(h.price),
            screen.colored(h.pnl_pct, screen.percent(h.pnl_pct)),
            screen.number(h.stop.price if h.stop else None),
            screen.percent(h.to_stop_pct),
            screen.number(h.target.price if h.target else None),
            screen.age(h.price_at, now),
            f"{h.position.reason}, attempt {h.position.attempt}" if h.position.reason else screen.NONE,
        )
        for h in held
    ]
    if not any(h.position.reason for h in held):  # none on its way out: a column of dashes says nothing
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return screen.table(columns, rows, fit=console, may_drop=("Entry", "Target", "Last"))


def _held_json(h: Held) -> dict[str, Any]:
    p = h.position
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
        "last_price": _plain(h.price),
        "last_price_at": _stamp(h.price_at),
        "unrealised_pnl_pct": _plain(h.pnl_pct),
        "stop": _level_json(h.stop),
        "to_stop_pct": _plain(h.to_stop_pct),
        "target": _level_json(h.target),
        "reason": str(p.reason) if p.reason is not None else None,
        "triggered_at": _stamp(p.triggered_at),
        "trigger_price": _plain(p.trigger_price),
        "attempts": p.attempt,
        "client_order_id": p.client_order_id,
        "next_attempt_at": _stamp(p.next_attempt_at),
        "strategy_name": p.strategy_name,
        "alarms": [a.alarm_id for a in p.alarms],
    }


def _level_json(level: Level | None) -> dict[str, str] | None:
    if level is None:
        return None
    return {"price": plain(level.price), "rule": str(level.rule), "threshold_pct": plain(level.threshold_pct)}


def _alarm_json(alarm: AlarmRow) -> dict[str, str]:
    return {
        "alarm_id": alarm.alarm_id,
        "stream": alarm.stream_id,
        "kind": alarm.kind,
        "text": alarm.text,
        "raised_at": stamp(alarm.raised_at_utc),
    }


# --- history ----------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One event of a stream with what it did: `before` and `after` are None for events of no position."""

    recorded: Recorded
    before: Position | None
    after: Position | None

    @property
    def moved(self) -> str:
        """The state, or the change of state."""
        if self.after is None:
            return ""
        if self.before is None:
            return f"{NOTHING} → {self.after.state}"
        same = self.before.state is self.after.state
        return str(self.after.state) if same else f"{self.before.state} → {self.after.state}"


def history(
    store: StoreArgument,
    position: Annotated[
        str | None,
        typer.Argument(
            metavar="POSITION",
            help="A symbol (all its positions), a position's id or the start of one, or the id of an exit order.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show every transition of each position, with its evidence.

    Without POSITION: of all positions, oldest first.
    """
    from exitfsm.store import ExitStore

    with ExitStore(store, read_only=True) as opened:
        streams = opened.stream_ids() if position is None else _chosen(opened, position)
        if as_json:
            _print_json(opened, streams)
        else:
            _print_steps(opened, streams)


def steps(recorded: Sequence[Recorded]) -> list[Step]:
    """A stream, folded event by event."""
    made: list[Step] = []
    p: Position | None = None
    for r in recorded:
        if r.stream_id.startswith(ACCOUNT_PREFIX):
            made.append(Step(r, None, None))
            continue
        before, p = p, evolve(p, r.event)
        made.append(Step(r, before, p))
    return made


def _chosen(store: ExitStore, wanted: str) -> list[str]:
    """The streams that a word of the user's means.

    Raises:
        StoreError: none, or several that are not of one symbol.
    """
    streams = store.stream_ids()
    if wanted in streams:
        return [wanted]
    of_symbol = [row.position_id for row in store.positions(symbol=symbol_key(wanted))]
    if of_symbol:
        return of_symbol
    order = store.exit_order(wanted)
    if order is not None:
        return [order.position_id]
    begin = [stream for stream in streams if stream.upper().startswith(wanted.upper())]
    if len(begin) == 1:
        return begin
    if begin:
        listed = "\n".join(begin[:10]) + ("\n…" if len(begin) > 10 else "")
        raise StoreError(f"{wanted!r} is the start of {len(begin)} positions: say which, or give the symbol\n{listed}")
    symbols = sorted({row.symbol for row in store.positions()})
    known = f"it has {', '.join(symbols[:20])}{', …' if len(symbols) > 20 else ''}" if symbols else "it is empty"
    raise StoreError(f"the store has no position {wanted!r}; {known}")


def _print_steps(store: ExitStore, streams: Sequence[str]) -> None:
    if not streams:
        screen.out().print("The store is empty.")
    for index, stream in enumerate(streams):
        if index:
            screen.out().print()
        print_stream(stream, store.stream(stream))


def print_stream(stream: str, recorded: Sequence[Recorded]) -> None:
    """One stream: a heading, and two lines for each event."""
    console = screen.out()
    told = steps(recorded)
    last = told[-1].after
    console.print(Text(screen.clean(stream), style="bold"), soft_wrap=True)
    if last is not None:
        console.print(_position_line(last))
    count_width = len(str(len(told)))
    event_width = max(len(type(s.recorded.event).__name__) for s in told)
    moved_width = max(len(s.moved) for s in told)
    indent = count_width + 4
    for s in told:
        r = s.recorded
        name = type(r.event).__name__
        line = Text(f"  {r.version:>{count_width}}  {_shown_time(r.at_ns)}  ")
        line.append(f"{name:<{event_width}}", style="bold")
        line.append(f"  {s.moved:<{moved_width}}  by {screen.clean(r.by)}")
        console.print(line)
        console.print(Padding(Text(in_words(s.before, s.after, r.event)), (0, 0, 0, indent), expand=False))


def _position_line(p: Position) -> Text:
    alarms = f", {screen.plural(len(p.alarms), 'alarm')}" if p.alarms else ""
    held = f"{p.side} {screen.number(p.qty)} at {screen.number(p.entry_price)}"
    return Text(f"{screen.clean(p.symbol)} {held}: {p.state}{alarms}; times are UTC")


def _shown_time(at_ns: int) -> str:
    return stamp_ns(at_ns).replace("T", " ").removesuffix("Z")


def _print_json(store: ExitStore, streams: Sequence[str]) -> None:
    """One JSON array with one event on a line: a document for parsers, lines for grep."""
    screen.emit("[")
    separator = "\n"
    for each in _json_steps(store, streams):
        screen.emit(separator + json.dumps(each))
        separator = ",\n"
    screen.emit("\n]\n")


def _json_steps(store: ExitStore, streams: Sequence[str]) -> Iterator[dict[str, Any]]:
    for stream in streams:
        for s in steps(store.stream(stream)):
            r = s.recorded
            fields = msgspec.to_builtins(r.event)
            fields.pop("event", None)
            yield {
                "sequence": r.sequence,
                "position_id": r.stream_id,
                "version": r.version,
                "at": stamp_ns(r.at_ns),
                "by": r.by,
                "event": tag_of(r.event),
                "what": in_words(s.before, s.after, r.event),
                "state_before": str(s.before.state) if s.before is not None else None,
                "state_after": str(s.after.state) if s.after is not None else None,
                "fields": fields,
            }


# --- diagram ----------------------------------------------------------------------------------------------------------


def diagram(as_json: JsonFlag = False) -> None:
    """Print the lifecycle of an exit as a mermaid state diagram.

    Events that leave the state as it is are left out of the picture; --json lists every row of the table.
    """
    if not as_json:
        screen.emit(mermaid())
        return
    screen.emit_json(
        [
            {
                "source": str(row.source) if row.source is not None else None,
                "event": row.event.__name__,
                "target": str(row.target),
                "why": row.why,
            }
            for row in TABLE
        ]
    )


def _plain(value: Decimal | None) -> str | None:
    return plain(value) if value is not None else None


def _stamp(value: datetime | None) -> str | None:
    return stamp(value) if value is not None else None
