"""Given these events, when a position is told this, then these events follow.

    given(opened(), triggered()).when(reported("new")).then(OrderAccepted).is_in("submitted")

A scenario needs no broker, store or clock: it is `decide` and `evolve`, nothing else. Each message is decided on, each
event it leads to is held against the lifecycle and folded, and the next message meets the position as it then is. The
builders below fill in what a test does not care about: AAPL, 10 shares bought at 100, one bar a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

import msgspec

from exitfsm.events import Event, ExitTriggered, PositionOpened
from exitfsm.lifecycle import State, advance
from exitfsm.messages import BarSeen, Message, Open, PositionRead, RecordRead, Report, TimeSeen
from exitfsm.policy import ExitPolicy
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.position import READS_MIN, Action, Position, client_order_id, decide, fold, owed
from exitfsm.values import Bar, ExecutionReport, ExitType, OrderStatus, OrderType, Side, TimeInForce

#: When the position of every scenario was opened: a Tuesday, at the opening of the New York market.
T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
ACCOUNT = "0123456789ab"
#: A broker that declares how long fills may follow a cancel, so that an attempt may follow one.
BROKER = Capabilities(
    ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, reduce_only=True, late_fills=True, late_fill_window_s=5
)

Number = Decimal | int | str
#: A message, or what makes one of the position it is for.
Told = Message | Callable[[Position], Message]


@dataclass(frozen=True)
class Like:
    """An event of this class with at least these fields."""

    event: type[Event]
    fields: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return type(other) is self.event and all(getattr(other, name) == value for name, value in self.fields.items())

    __hash__ = None  # type: ignore[assignment]  # compared, never looked up

    def __repr__(self) -> str:
        return f"{self.event.__name__}({', '.join(f'{k}={v!r}' for k, v in self.fields.items())}, …)"


def like(event: type[Event], **fields: Any) -> Like:
    """An event of this class with at least these fields, to compare with."""
    unknown = fields.keys() - set(event.__struct_fields__)
    assert not unknown, f"{event.__name__} has no {', '.join(sorted(unknown))}"
    return Like(event, fields)


@dataclass(frozen=True)
class Scenario:
    """A position on its way: all that happened, and what the last message led to."""

    position: Position | None = None
    history: tuple[Event, ...] = ()
    news: tuple[Event, ...] = ()
    broker: Capabilities = BROKER

    def at(self, broker: Capabilities) -> Self:
        """The same at another broker."""
        return replace(self, broker=broker)

    def when(self, *told: Told) -> Self:
        """Tell the position these messages, one after another; `then` is about the last of them.

        Raises:
            IllegalTransition: the lifecycle has no row for what was decided.
        """
        position, history, events = self.position, self.history, self.news
        for one in told:
            message = one(self.there(position)) if callable(one) else one
            events = decide(position, message, self.broker)
            state = position.state if position is not None else None
            for event in events:
                state = advance(state, type(event))
            position = fold(position, events)
            assert position is None or position.state is state
            history = (*history, *events)
        return replace(self, position=position, history=history, news=events)

    def then(self, *expected: Event | type[Event] | Like) -> Self:
        """The last message led to exactly these events, in this order; a class stands for any event of it."""
        same = len(expected) == len(self.news) and all(
            type(got) is want if isinstance(want, type) else want == got
            for got, want in zip(self.news, expected, strict=True)
        )
        wanted = [f"  {e.__name__ if isinstance(e, type) else e}" for e in expected]
        assert same, "\n".join(["", "expected:", *wanted, "got:", *(f"  {e}" for e in self.news)])
        return self

    def is_in(self, state: State | str) -> Self:
        """The position stands in this state now."""
        assert self.now.state == state, f"{self.now.state}, not {state}"
        return self

    def has(self, **fields: Any) -> Self:
        """The position has these figures now."""
        got = {name: getattr(self.now, name) for name in fields}
        assert got == fields, f"{got}, not {fields}"
        return self

    def owes(self, action: type[Action] | None, at: datetime | None = None, *, outcome_unknown: bool = False) -> Self:
        """The broker must be told or asked this next; None: nothing."""
        got = owed(self.now, at or T0, outcome_unknown=outcome_unknown)
        assert (got if got is None else type(got)) is action, f"owes {got}, not {action}"
        return self

    @property
    def now(self) -> Position:
        """The position as it stands."""
        return self.there(self.position)

    @staticmethod
    def there(position: Position | None) -> Position:
        """The position, of which there is one."""
        assert position is not None, "there is no position yet"
        return position


def given(*events: Event) -> Scenario:
    """What happened so far; nothing at all when empty."""
    return Scenario(position=fold(None, events), history=events)


# --- builders ---------------------------------------------------------------------------------------------------------


def after(seconds: float) -> datetime:
    """The time so long after the opening."""
    return T0 + timedelta(seconds=seconds)


def dec(value: Number | float | None) -> Decimal | None:
    """The decimal that a test means by 10 or `"0.1"`."""
    return value if value is None or isinstance(value, Decimal) else Decimal(str(value))


def policy(**changes: Any) -> ExitPolicy:
    """The default policy with these changes: a section that is given is switched on, one that is False is off.

    `policy(trailing_stop={"trail_pct": 2}, profit_taking=False, evaluate_on="range")`; a list is that of its section.
    """
    default = ExitPolicy()
    settings = {name: msgspec.to_builtins(default.section(name)) for name in default.__struct_fields__}
    for name, value in changes.items():
        if isinstance(value, dict):
            settings[name] |= ({"enabled": True} if "enabled" in settings[name] else {}) | value
        elif value is False and isinstance(settings[name], dict):
            settings[name]["enabled"] = False
        else:
            settings[name] = {default.section(name).listed: value} if isinstance(value, list) else value
    return msgspec.convert(settings, ExitPolicy)


def opened(
    side: Side | str = Side.LONG,
    qty: Number = 10,
    entry: Number = 100,
    *,
    symbol: str = "AAPL",
    policy: ExitPolicy | None = None,
    atr: Number | None = None,
    at: datetime = T0,
    epoch: str = "20240102T143000Z",
) -> PositionOpened:
    """A position is watched from now on."""
    return PositionOpened(
        account=ACCOUNT,
        symbol=symbol,
        side=Side(side),
        epoch=epoch,
        qty=Decimal(qty),
        entry_price=Decimal(entry),
        opened_at=at,
        policy=policy or ExitPolicy(),
        atr=dec(atr),
    )


def to_open(event: PositionOpened) -> Open:
    """The message that leads to this event."""
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return Open(at=event.opened_at, **fields)


def triggered(
    attempt: int = 1, qty: Number = 10, *, reason: str = "stop_loss", limit: Number | None = None, at: float = 60
) -> ExitTriggered:
    """The exit of the position of `opened()` is decided: at market, or with a limit."""
    price = Decimal(99) if reason == "stop_loss" else Decimal(102)
    return ExitTriggered(
        reason=ExitType(reason),
        client_order_id=order_id(attempt),
        attempt=attempt,
        qty=Decimal(qty),
        order_type=OrderType.MARKET if limit is None else OrderType.LIMIT,
        time_in_force=TimeInForce.DAY,
        at=after(at),
        trigger_price=price,
        level=price,
        threshold_pct=Decimal(1) if reason == "stop_loss" else Decimal(2),
        limit_price=dec(limit),
    )


def order_id(attempt: int = 1, *, of: PositionOpened | None = None) -> str:
    """The client order id of an attempt to exit the position of `opened()`, or another."""
    return of_attempt(Scenario.there(fold(None, [of or opened()])), attempt)


def of_attempt(p: Position, attempt: int) -> str:
    """The client order id of an attempt to exit a position."""
    return client_order_id(p.position_id, attempt, p.id_form)


def bar(
    close: Number | float,
    at: float = 60,
    *,
    open: Number | float | None = None,
    high: Number | float | None = None,
    low: Number | float | None = None,
    symbol: str = "AAPL",
) -> Bar:
    """A bar `at` seconds after the opening; what is not given is the close, and the range spans what is."""
    prices = [p for p in (open, close) if p is not None]
    top = max(prices, key=Decimal) if high is None else high
    bottom = min(prices, key=Decimal) if low is None else low
    return Bar(symbol, after(at), close if open is None else open, top, bottom, close)


def seen(what: Bar | Number | float, at: float = 60, **context: Any) -> BarSeen:
    """A bar, or one with nothing but this close, is seen; `context` as in `BarSeen`."""
    the_bar = what if isinstance(what, Bar) else bar(what, at)
    return BarSeen(at=the_bar.timestamp, bar=the_bar, **context)


def reported(
    status: OrderStatus | str,
    filled: Number | None = None,
    price: Number | None = None,
    at: float = 61,
    *,
    attempt: int | None = None,
    **fields: Any,
) -> Callable[[Position], Report]:
    """The broker reports on the current order, or on that of an attempt; `fields` as in `ExecutionReport`."""

    def of(p: Position) -> Report:
        report = ExecutionReport(
            client_order_id=(p.client_order_id or "") if attempt is None else of_attempt(p, attempt),
            status=OrderStatus(status),
            at=after(at),
            filled_qty=dec(filled),
            avg_fill_price=dec(price),
            **fields,
        )
        return Report(at=after(at), report=report)

    return of


def refused(kind: str = "insufficient_qty", at: float = 61, **fields: Any) -> Callable[[Position], Report]:
    """The broker definitely refuses the current order when it is sent."""
    return reported("rejected", 0, at=at, refusal=kind, refused_at_submit=True, **fields)


#: Ends of an order that its record shows.
_ENDED = ("canceled", "expired", "rejected")


def holds(
    qty: Number,
    at: float = 62,
    *,
    reads: int = READS_MIN,
    entry: Number | None = None,
    began: float | None = None,
    record: ExecutionReport | OrderStatus | str | None = None,
    record_read: bool = True,
) -> Callable[[Position], PositionRead]:
    """The broker shows this quantity, by default often enough to be believed.

    Args:
        qty, at, reads, entry: as in `PositionRead`.
        began: when the read began; `at` where it is not given.
        record: what the record of the newest order says; None: that it ended as was reported.
        record_read: False where that record was not read.
    """

    def of(p: Position) -> PositionRead:
        since = after(at if began is None else began)
        order_id = p.client_order_id or ""
        said = record if record is not None else p.ended_how if p.ended_how in _ENDED else None
        report = said if isinstance(said, ExecutionReport) else None
        if isinstance(said, str):
            report = ExecutionReport(client_order_id=order_id, status=OrderStatus(said), at=since)
        seen = RecordRead(client_order_id=order_id, began=since, report=report) if record_read else None
        entered = dec(entry)
        return PositionRead(
            at=after(at), began=since, qty=Decimal(qty), reads=reads, avg_entry_price=entered, record=seen
        )

    return of


def timer(at: float, patience: float | None = None) -> TimeSeen:
    """Time has come so far after the opening."""
    return TimeSeen(at=after(at), patience_s=patience)
