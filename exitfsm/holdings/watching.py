"""Positions of the engine as the rules of holdings see them, and what these conclude as messages and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from exitfsm.holdings.beside import FRESH_S, order_to_prove
from exitfsm.holdings.facts import (
    Calm,
    ClosedBy,
    Concluded,
    Evidence,
    Failed,
    Instrument,
    Key,
    Memory,
    Placed,
    Raise,
    Resized,
    Unit,
    Watched,
)
from exitfsm.holdings.facts import Read as Dated
from exitfsm.holdings.leaving import Intent, Leaving, Working
from exitfsm.holdings.reads import ABSENT_BY_LAG, NEVER, Read, is_silent, known
from exitfsm.holdings.rows import Shown, net, sign
from exitfsm.holdings.units import factor_of
from exitfsm.holdings.working import closing, leaves_of
from exitfsm.kinds import PositionEnd
from exitfsm.lifecycle import State
from exitfsm.messages import Acknowledge, Message, PositionRead, RaiseAlarm, Rescale, Withdraw
from exitfsm.ports import Capabilities
from exitfsm.ports import Instrument as Declared
from exitfsm.position import READS_MIN, Position
from exitfsm.values import EXACT, ZERO, ExecutionReport, Fill, exactly, rounded, rows_of, significant

#: What a venue may keep of a purchase in the coin that was bought, as a part of it.
_FEE_MAX = Decimal("0.01")
_LOOK_S = 1.0


def key_of(p: Position, broker: Capabilities) -> Key:
    """The holding that a position is part of; the rows of other accounts were left out before."""
    return Key(None, p.symbol, p.side if broker.holds_both(p.symbol) else None)


def instrument_of(broker: Capabilities, symbol: str) -> Instrument:
    """What a broker declares of an instrument and of its books. Where they cannot be behind, reads need no pause."""
    rules, lag_s = broker.rules(symbol), broker.positions_lag_s
    careful = Instrument()
    return Instrument(
        step=rules.qty_step,
        least=rules.qty_min,
        least_value=rules.value_min if isinstance(rules, Declared) else ZERO,
        multiplier=rules.multiplier if isinstance(rules, Declared) else careful.multiplier,
        fee_max=_FEE_MAX if "/" in symbol else ZERO,
        hedge=broker.holds_both(symbol),
        reduce_only=broker.reduce_only,
        reserves=broker.reserves,
        lag_s=lag_s,
        executions_late_s=broker.executions_late_s,
        gap_s=min(careful.gap_s, lag_s),
        absent_s=ABSENT_BY_LAG * lag_s,
    )


def are_at_rest(positions: Sequence[Position]) -> bool:
    """True where none of them is on its way out: no order of ours can change what is held."""
    return all(p.state is State.MONITORING for p in positions)


@exactly
def watched_of(p: Position, price: Decimal | None) -> Watched:
    """A position that is monitored. Orders that it had before a release are over, and stand for what they sold."""
    orders = tuple(
        Placed(
            order_id=order.client_order_id,
            qty=order.filled_qty,
            cum=order.filled_qty,
            sent=0.0,
            ended=0.0,
            broker_order_id=order.broker_order_id,
            dead=True,
        )
        for order in p.orders
    )
    return Watched(
        name=p.position_id,
        side=p.side,
        qty=p.remaining_qty + sum((order.cum for order in orders), ZERO),
        entry=p.entry_price,
        opened=p.opened_at.timestamp(),
        orders=orders,
        price=price,
    )


@exactly
def is_part_sold(watched: Iterable[Watched], before: Mapping[str, Decimal]) -> bool:
    """True where our orders sold a part of one that is watched on, since so much was left of it or in another life."""
    return any(p.sold and (p.name not in before or abs(p.left) < abs(before[p.name])) for p in watched)


class Looks(msgspec.Struct, frozen=True, kw_only=True):
    """Looks at what is held for one order that is about to leave: the newest; how many showed something, or failed.

    `proved`: when the newest look-up began that showed the order before it over, in monotonic seconds.
    """

    read: Read | None = None
    shown: int = 0
    failed: int = 0
    executions: tuple[Fill, ...] = ()
    proved: float = NEVER
    why: str = ""


def leaving_of(
    intent: Intent, looks: Looks, broker: Capabilities, now: float, working: Iterable[ExecutionReport] = ()
) -> Leaving:
    """The order of an intent as the rules see it; `working` are orders of others in its symbol. Times are monotonic."""
    p, instrument = intent.position, instrument_of(broker, intent.position.symbol)
    holding = sorted([p, *(other.position for other in intent.beside)], key=lambda q: (q.opened_at, q.position_id))
    watched = {q.position_id: watched_of(q, None) for q in holding if q.side is p.side}
    mine, before = watched[p.position_id], order_to_prove(p)
    if before is not None:  # that its late fills were waited for is its position's rule
        ended = intent.asked - FRESH_S - instrument.late_fill_s
        orders = [
            replace(order, dead=False, ended=ended, read=looks.proved)
            if order.order_id == before.client_order_id
            else order
            for order in mine.orders
        ]
        mine = watched[p.position_id] = replace(mine, orders=tuple(orders))
    read: Dated | Failed | None = None
    if looks.read is not None:
        seen = looks.read
        # A row that names no symbol may be of any: it silences what has no row, and hides none that is shown.
        unreadable = seen.unreadable if is_silent(seen, p.symbol) else seen.unreadable - {""}
        read = Dated(rows=seen.rows, begin=seen.began, end=seen.ended, unreadable=unreadable)
    elif looks.failed:
        read = Failed(begin=now, end=now)
    others = [
        Working(order_id=r.client_order_id, qty=leaves_of(r), broker_order_id=r.broker_order_id)
        for r in closing(p, working)
    ]
    return Leaving(
        key=key_of(p, broker),
        instrument=instrument,
        memory=Memory(),
        position=mine,
        watched=tuple(watched.values()),
        read=read,
        since=intent.asked,
        now=now,
        working=tuple(others),
        failed=looks.failed,
        looks=looks.shown,
        intent=replace(intent, executions=looks.executions),
    )


@exactly
def is_news(e: Evidence) -> bool:
    """True where a read shows another quantity than is watched, or another average: then executions are asked for.

    In scope by ids always: what others trade beside us may hide what our ids did.
    """
    if e.scope.ids:
        return True
    shown = net(e.read, e.key, hedge=e.instrument.hedge) if not isinstance(e.read, Failed) else None
    if not isinstance(shown, Shown):
        return False
    entries = {p.entry for p in e.watched}
    other = shown.average is not None and len(entries) == 1 and shown.average not in entries
    return other or shown.qty != sum((p.left * sign(p.side, e.key) for p in e.watched), ZERO)


@exactly
def is_rescaled(p: Position, qty: Decimal, average: Decimal | None) -> bool:
    """True where quantity and average entry say that the unit of a position changed."""
    return average is not None and factor_of(p.remaining_qty, p.entry_price, qty, average) is not None


def next_look_s(memory: Memory, instrument: Instrument) -> float:
    """How soon the next read helps, in seconds: the first ones as soon as they count, then as often as books change."""
    few = memory.run is None or memory.run.reads < instrument.reads_min
    return max(_LOOK_S, instrument.gap_s) if few else max(_LOOK_S, instrument.lag_s)


def last_price(e: Evidence) -> Decimal | None:
    """The price that the broker shows of a holding, else the last accepted one."""
    rows = () if isinstance(e.read, Failed) else e.read.rows
    shown = [row.current_price for row in rows_of(rows, e.key.symbol) if row.qty]
    return next((price for price in shown if price is not None), e.price)


# --- conclusions ------------------------------------------------------------------------------------------------------


def messages(
    said: Iterable[Concluded], positions: Mapping[str, Position], began: Mapping[str, datetime], at: datetime
) -> list[tuple[str, Message]]:
    """Conclusions as messages to the positions of a holding, oldest first; its alarms are those of the first.

    Args:
        began: when the read began, in the time of each position.
    """
    first, conclusions = next(iter(positions)), tuple(said)
    raised = [one for one in conclusions if isinstance(one, Raise) and one.kind in RAISED_HERE]
    told: list[tuple[str, Message]] = [(first, RaiseAlarm(at=at, kind=one.kind, text=text_of(one))) for one in raised]
    for one in conclusions:
        if isinstance(one, Calm):
            standing = [(key, a.alarm_id) for key, p in positions.items() for a in p.alarms if a.kind == one.kind]
            told += [(key, Acknowledge(at=at, alarm_id=alarm_id, who=_BOOKS)) for key, alarm_id in standing]
        elif isinstance(one, Resized | ClosedBy | Unit):
            p = positions[one.position]
            told.append((one.position, _message(one, p, began[one.position], at)))
    return told


@exactly
def split_message(p: Position, read: PositionRead) -> Message:
    """What a split that a price has shown means for a position: its unit changed, or its average entry alone did."""
    qty, entry = read.qty, read.avg_entry_price
    if entry is None or qty <= 0 or qty == p.remaining_qty:
        return read
    factor = significant(EXACT.divide(p.entry_price, entry))
    return Rescale(at=read.at, factor=factor, qty=qty, entry_price=entry, known=read.known)


def withdrawn(p: Position, read: PositionRead) -> Withdraw | None:
    """An intent that a split has overtaken is taken back; None where the unit is as it was."""
    if not is_rescaled(p, read.qty, read.avg_entry_price):
        return None
    why = "the unit of what is held has changed, and the price that triggered it is in the new one"
    return Withdraw(at=read.at, client_order_id=p.client_order_id or "", why=why)


#: Who takes an alarm down that has resolved itself.
_BOOKS = "the broker's books"


def _message(one: Resized | ClosedBy | Unit, p: Position, began: datetime, at: datetime) -> Message:
    if isinstance(one, Unit):
        factor, entry = significant(one.factor), significant(one.entry)
        return Rescale(at=at, factor=factor, qty=one.left, entry_price=entry, known=known(p))
    qty, average, how = ZERO, None, ""
    if isinstance(one, Resized):
        qty, average = one.left, rounded(one.entry)
    else:
        how = PositionEnd.BY_HAND if one.how == PositionEnd.EXTERNAL else PositionEnd(one.how)
    return PositionRead(at=at, began=began, qty=qty, avg_entry_price=average, reads=READS_MIN, known=known(p), how=how)


#: What is said of a position; the rest the shell says of each read, and of what cannot be adopted.
RAISED_HERE = (
    *("positions_missing", "entry_not_shown", "unit_unclear", "unexplained_quantity"),
    *("other_exit", "oversold", "scope_netted", "scope_unknown"),
)


def text_of(one: Raise) -> str:
    """An alarm in words, with its figures."""
    symbol, shown, expected = (one.figures[name] for name in ("symbol", "shown", "expected"))
    beside = f"{symbol} is shown with {shown}, and {expected} is watched"
    match one.kind:
        case "positions_missing":
            return f"the broker lists no position at all; {symbol} ({expected}) stays watched"
        case "entry_not_shown":
            return f"{symbol}: executed, and not shown ({one.figures['executions']}): what it bought is NOT protected"
        case "unit_unclear":
            return f"{beside}: quantity and average fit no trade and no split; stops that had moved are dropped"
        case "oversold":
            return f"{beside}: an exit order of ours went through zero, and what it opened is watched by nobody"
        case "other_exit":
            return f"{beside}: an exit under our prefix sold the rest, and no order on record here is it"
        case "scope_netted":
            return f"{beside}: others hold the other side, and nothing is sold beyond what the account shows"
        case "scope_unknown":
            return f"{beside}: no executions lead to that; no more than it is sold, and no more than is shown"
    return f"{beside}; no execution says why"
