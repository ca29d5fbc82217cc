"""`exitfsm history` and `diagram`: what a store has recorded, and the lifecycle itself. Nothing here writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.text import Text

from exitfsm.cli import screen
from exitfsm.cli.options import JsonFlag, StoreArgument
from exitfsm.errors import StoreError
from exitfsm.events import PositionOpened, Recorded, tag_of
from exitfsm.lifecycle import TABLE, mermaid
from exitfsm.position import Position
from exitfsm.profit import sold_in_words
from exitfsm.projections import stamp_ns
from exitfsm.values import stamp, symbol_key

if TYPE_CHECKING:
    from exitfsm.audit.trail import Step
    from exitfsm.store import ExitStore


# --- history ----------------------------------------------------------------------------------------------------------


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
    page = screen.Page()
    for index, stream in enumerate(streams):
        if index:
            page.paragraph("")
        print_stream(stream, store.stream(stream), page)


def print_stream(stream: str, recorded: Sequence[Recorded], page: screen.Page) -> None:
    """One stream: a heading, and two lines for each event."""
    from exitfsm.audit.trail import steps

    told = steps(recorded)
    last = told[-1].after
    page.line(Text(screen.clean(stream), style="bold"))
    if last is not None:
        page.paragraph(_position_line(told[0], last, is_bar_time=any(map(_has_bar_time, told))))
        profit = told[-1].profit
        if profit is not None and (
            profit.by_hand_qty or profit.residue_qty or (profit.qty and not last.state.terminal)
        ):
            page.paragraph(f"{'' if last.state.terminal else 'so far: '}{sold_in_words(profit)}")
    count_width = len(str(len(told)))
    event_width = max(len(type(s.recorded.event).__name__) for s in told)
    moved_width = max(len(s.states) for s in told)
    for s in told:
        r = s.recorded
        line = Text(f"  {r.version:>{count_width}}  {_shown_time(r.at_ns)}  ")
        line.append(f"{type(r.event).__name__:<{event_width}}", style="bold")
        line.append(f"  {s.states:<{moved_width}}  by {screen.clean(r.by)}")
        page.paragraph(line)
        page.paragraph(screen.clean(s.words), indent=count_width + 4)
    page.show()


def _has_bar_time(s: Step) -> bool:
    """True for an event that is dated by its bar's label: in simulation, and in logs of before bars had an arrival."""
    at = getattr(s.recorded.event, "bar_at", None)
    return at is not None and stamp_ns(s.recorded.at_ns) == stamp(at)


def _position_line(first: Step, p: Position, *, is_bar_time: bool) -> str:
    """What was entered, as it was then, and how it stands; `is_bar_time`: events by bars have the bar's own time."""
    of_bars = ", those of bars are bar time" if is_bar_time else ""
    e = first.recorded.event
    assert isinstance(e, PositionOpened)
    alarms = f", {screen.plural(len(p.alarms), 'alarm')}" if p.alarms else ""
    entered = f"{p.side} {screen.number(e.qty)} at {screen.number(e.entry_price)}"
    now = (p.remaining_qty, p.entry_price)
    changed = not p.state.terminal and now != (e.qty, e.entry_price)
    left = f", now {screen.number(now[0])} at {screen.number(now[1])}" if changed else ""
    return f"{screen.clean(p.symbol)} {entered}{left}: {p.state}{alarms}; times are UTC{of_bars}"


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
    from exitfsm.audit.trail import steps

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
                "what": screen.clean(s.words),
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
