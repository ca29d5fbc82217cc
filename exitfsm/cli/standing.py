"""`exitfsm status`: what is held, now or as of a time, by one serializer. Nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from exitfsm.choices import NO_CHOICES, Choice, chosen
from exitfsm.cli import screen
from exitfsm.cli.asked import moment
from exitfsm.cli.options import JsonFlag, StoreArgument
from exitfsm.lifecycle import State
from exitfsm.policy import Level
from exitfsm.position import Position, levels, replay
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.values import pct_change, plain, stamp

if TYPE_CHECKING:
    from decimal import Decimal

    from exitfsm.projections import TrackingRow
    from exitfsm.store import ExitStore


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
        return -pct_change(self.price, self.stop.price, self.position.side)


class Active(NamedTuple):
    """An alarm that nobody had acknowledged, and the stream that it stands on."""

    alarm_id: str
    stream: str
    kind: str
    text: str
    raised_at: datetime


class Standing(NamedTuple):
    """What is held, what nobody has acknowledged, and how many positions are over; `as_of` None: now.

    `scope`: what a person said of single symbols, where it counts before the configuration.
    """

    as_of: datetime | None
    held: Sequence[Held]
    alarms: Sequence[Active]
    over: int
    scope: Sequence[Choice] = ()


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
    from exitfsm.store import ExitStore

    when = moment(as_of) if as_of is not None else None
    with ExitStore(store, read_only=True) as opened:
        found = _now(opened) if when is None else _then(opened, when)
    if as_json:
        screen.emit_json(as_data(found))
        return
    _show(found)


def _now(store: ExitStore) -> Standing:
    held = [
        _held(store, replay(r.event for r in store.stream(row.position_id)), None) for row in store.open_positions()
    ]
    alarms = [Active(a.alarm_id, a.stream_id, a.kind, a.text, a.raised_at_utc) for a in store.alarms()]
    return Standing(None, held, alarms, store.count_positions() - len(held), _choices(store, None))


def _choices(store: ExitStore, when: datetime | None) -> tuple[Choice, ...]:
    choices = NO_CHOICES
    for recorded in store.stream(f"{ACCOUNT_PREFIX}{store.meta.get('account', '')}"):
        if when is None or recorded.at_ns <= when.timestamp() * 1e9:
            choices = chosen(choices, recorded.event)
    return choices.all


def _then(store: ExitStore, when: datetime) -> Standing:
    from exitfsm.audit import alarms_at, positions_at

    known = positions_at(store, when)
    held = [_held(store, p, when) for p in known if not p.state.terminal]
    alarms = [Active(a.alarm_id, stream, a.kind, a.text, a.raised_at) for stream, a in alarms_at(store, when, known)]
    return Standing(when, held, alarms, len(known) - len(held), _choices(store, when))


def _held(store: ExitStore, p: Position, when: datetime | None) -> Held:
    mark = _mark(store, p, when)
    # There is no clock here: levels that change with time are those of the last time the store knows.
    looked_at = mark.last_evaluated_at_utc if mark is not None else None
    target, stops = levels(p, when or looked_at or p.opened_at)
    watched = p.state is State.MONITORING
    return Held(
        position=p,
        price=mark.current_price if mark is not None else None,
        price_at=looked_at,
        pnl_pct=mark.unrealised_pnl_pct if mark is not None else None,
        target=target if watched else None,
        stop=stops[0] if watched and stops else None,
    )


def _mark(store: ExitStore, p: Position, when: datetime | None) -> TrackingRow | None:
    """The last look at a position, where it is one of this position, and of that time."""
    mark = store.tracking(p.symbol)
    if mark is None or mark.position_id != p.position_id:
        return None
    seen_at = mark.last_evaluated_at_utc
    return None if when is not None and (seen_at is None or seen_at > when) else mark


# --- for people -------------------------------------------------------------------------------------------------------


def _show(found: Standing) -> None:
    console = screen.out()
    off = [h for h in found.held if not h.position.policy.enabled]
    if off:
        symbols = ", ".join(screen.clean(h.position.symbol) for h in off)
        off_line = f"Exits are off (enabled: false) for {symbols}: nothing will be triggered."
        console.print(Text(off_line, style="bold red"))
    if found.held:
        console.print(_held_table(console, found.held, found.as_of or datetime.now(UTC)))
    for line in filter(None, map(_why_not, found.held)):
        console.print(Padding(Text(screen.clean(line)), (0, 0, 0, 2), expand=False))
    count = screen.plural(len(found.held), "position")
    if found.as_of is not None:
        console.print(f"{count} open at {screen.when(found.as_of)} UTC")
    else:
        console.print(f"{count} open, {found.over:,} over" + ("" if found.alarms else ", no alarms"))
    for line in (_waiting(found.held, found.as_of or datetime.now(UTC)), *(choice.said for choice in found.scope)):
        if line:
            console.print(Text(screen.clean(line)), soft_wrap=True)
    _show_alarms(console, found.alarms)


def _why_not(h: Held) -> str:
    """What the broker said when it refused the newest order that it refused; empty where it took them all."""
    order, p = h.position.refused_order, h.position
    if order is None:
        return ""
    again = order.postponed_until if order.live else p.next_attempt_at
    after = f"; again from {screen.when(again)} UTC" if again is not None and not p.filled_qty else ""
    how = "refused for now" if order.live else order.ended_how
    said = f"{order.refusal}: {order.said}" if order.said else f"{order.refusal}"
    return f"{p.symbol}: order {order.client_order_id} was {how} ({said}){after}"


def _waiting(held: Sequence[Held], now: datetime) -> str:
    """How many exits have not reached the broker, as far as is known, and for how long the oldest; empty for none."""
    since = [h.position.waiting_since for h in held if h.position.state is State.PENDING]
    oldest = screen.age(min((at for at in since if at is not None), default=None), now)
    exits = "1 exit has" if len(since) == 1 else f"{len(since)} exits have"
    return f"{exits} not reached the broker yet, the oldest for {oldest}" if since else ""


def _show_alarms(console: Console, alarms: Iterable[Active]) -> None:
    for alarm in alarms:
        console.print()
        kind, where = (screen.clean(alarm.kind), "bold red"), screen.clean(alarm.stream)
        console.print(Text.assemble("alarm ", kind, f" since {screen.when(alarm.raised_at)} UTC on {where}"))
        console.print(Padding(Text(screen.clean(alarm.text)), (0, 0, 0, 2), expand=False))


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


# --- for programs -----------------------------------------------------------------------------------------------------


def as_data(found: Standing) -> dict[str, Any]:
    """All of it as JSON data: one form, whether of now or of then."""
    return {
        "as_of": _stamp(found.as_of),
        "positions": [held_data(h) for h in found.held],
        "alarms": [a._asdict() | {"raised_at": stamp(a.raised_at)} for a in found.alarms],
        "over": found.over,
        "scope": [{**msgspec.structs.asdict(choice), "at": stamp(choice.at)} for choice in found.scope],
    }


def held_data(h: Held) -> dict[str, Any]:
    """A held position as JSON data."""
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
        "stop": _level(h.stop),
        "to_stop_pct": _plain(h.to_stop_pct),
        "target": _level(h.target),
        "reason": str(p.reason) if p.reason is not None else None,
        "triggered_at": _stamp(p.triggered_at),
        "trigger_price": _plain(p.trigger_price),
        "attempts": p.attempt,
        "client_order_id": p.client_order_id,
        "next_attempt_at": _stamp(p.next_attempt_at),
        "refusal": _refusal(p),
        "strategy_name": p.strategy_name,
        "events": p.version,
        "alarms": [a.alarm_id for a in p.alarms],
    }


def _refusal(p: Position) -> dict[str, str | None] | None:
    order = p.refused_order
    if order is None:
        return None
    again = _stamp(order.postponed_until) if order.live else None
    how = {"client_order_id": order.client_order_id, "how": "postponed" if order.live else order.ended_how}
    return {**how, "refusal": order.refusal, "text": order.said, "again_from": again}


def _level(level: Level | None) -> dict[str, str] | None:
    if level is None:
        return None
    return {"price": plain(level.price), "rule": str(level.rule), "threshold_pct": plain(level.threshold_pct)}


def _plain(value: Decimal | None) -> str | None:
    return plain(value) if value is not None else None


def _stamp(value: datetime | None) -> str | None:
    return stamp(value) if value is not None else None
