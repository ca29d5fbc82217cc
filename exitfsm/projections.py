"""The read models: what each event means for the tables that people and the bot's own SQL look at.

Rules of this room: pure. An event becomes SQL statements with parameters, nothing is executed here and nothing is read
but the event. The statements run inside the transaction that stores the event, so they may refer to what earlier
events wrote; run over all events in order on empty tables they give the same rows again, ids included. They are total:
an event that the lifecycle would not allow changes nothing rather than fail. Events of a stream that is no position
(`account:…`) touch the alarms only.

The tables are views. Money and quantities are NUMERIC, so that they compare as numbers in SQL (SQLite keeps about 15
digits of them); the truth, exact to the last digit, is the events. The SQL is the part that SQLite and PostgreSQL
share, with `?` for a parameter. Marks (`MARKS`: current price, profit, best price, time of the last look) are no
events: the engine flushes them with `MARK`, and whatever compares or rebuilds the tables leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    Recorded,
)
from exitfsm.lifecycle import TABLE, State
from exitfsm.values import ExitStatus, ExitType, OrderSide, Side, plain, stamp

Param = str | int | None
Statement = tuple[str, tuple[Param, ...]]

#: Streams with this prefix hold facts about the whole account, not about one position.
ACCOUNT_PREFIX = "account:"
#: Columns of `position_tracking` that no event carries.
MARKS = ("current_price", "unrealised_pnl_pct", "highest_price", "last_evaluated_at_utc")


class ExitOrderRow(msgspec.Struct, frozen=True, array_like=True):
    """One exit order: one row per attempt. `side` is the order's, `target_price` the level that was breached."""

    id: int
    client_order_id: str
    symbol: str
    side: OrderSide
    qty: Decimal
    filled_qty: Decimal
    avg_fill_price: Decimal | None
    exit_type: ExitType | None
    entry_price: Decimal | None
    target_price: Decimal | None
    threshold_pct: Decimal | None
    status: ExitStatus
    alpaca_order_id: str | None
    resubmit_count: int
    created_at_utc: datetime
    updated_at_utc: datetime
    filled_at_utc: datetime | None
    position_id: str


class TrackingRow(msgspec.Struct, frozen=True, array_like=True):
    """The newest position of one symbol. `qty` is what is watched; what of it is sold is on the exit order."""

    symbol: str
    qty: Decimal
    avg_entry_price: Decimal
    current_price: Decimal | None
    unrealised_pnl_pct: Decimal | None
    highest_price: Decimal | None
    exit_order_id: int | None
    status: str
    last_evaluated_at_utc: datetime | None
    created_at_utc: datetime
    updated_at_utc: datetime
    position_id: str


class PositionRow(msgspec.Struct, frozen=True, array_like=True):
    """One position, open or over. `sold_qty` and `avg_exit_price` are of our own orders, over its whole life."""

    position_id: str
    account: str
    symbol: str
    side: Side
    epoch: str
    strategy_name: str
    state: State
    qty: Decimal
    entry_price: Decimal
    opened_at_utc: datetime
    exit_reason: ExitType | None
    sold_qty: Decimal
    avg_exit_price: Decimal | None
    ended_at_utc: datetime | None
    cooldown_until_utc: datetime | None
    version: int
    open_alarms: int


class AlarmRow(msgspec.Struct, frozen=True, array_like=True):
    """One alarm; it stands until `acknowledged_at_utc` is set."""

    alarm_id: str
    stream_id: str
    kind: str
    text: str
    raised_at_utc: datetime
    acknowledged_by: str | None
    acknowledged_at_utc: datetime | None


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The last look at a position: price, profit in percent, best price since the entry, time of the look."""

    symbol: str
    position_id: str
    price: Decimal
    pnl_pct: Decimal
    best_price: Decimal
    at: datetime


#: table -> its row class, whose fields are the columns in order, and the columns that order it.
ROWS: dict[str, tuple[type[msgspec.Struct], tuple[str, ...]]] = {
    "exit_orders": (ExitOrderRow, ("id",)),
    "position_tracking": (TrackingRow, ("symbol",)),
    "positions": (PositionRow, ("position_id",)),
    "alarms": (AlarmRow, ("stream_id", "alarm_id")),
}

#: An order that may be working at the broker. At most one per position: the database itself refuses a second.
_LIVE = "('pending', 'submitted', 'partial', 'canceling')"

#: SQLite's spelling; PostgreSQL differs in the AUTOINCREMENT only. UNIQUE is the index on client_order_id.
DDL: tuple[str, ...] = (
    """CREATE TABLE exit_orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    client_order_id TEXT NOT NULL UNIQUE,
    symbol TEXT NOT NULL,
    side TEXT NOT NULL,
    qty NUMERIC NOT NULL,
    filled_qty NUMERIC NOT NULL DEFAULT 0,
    avg_fill_price NUMERIC,
    exit_type TEXT,
    entry_price NUMERIC,
    target_price NUMERIC,
    threshold_pct NUMERIC,
    status TEXT NOT NULL,
    alpaca_order_id TEXT,
    resubmit_count INTEGER NOT NULL DEFAULT 0,
    created_at_utc TEXT NOT NULL,
    updated_at_utc TEXT NOT NULL,
    filled_at_utc TEXT,
    position_id TEXT NOT NULL)""",
    "CREATE INDEX exit_orders_symbol_status ON exit_orders (symbol, status)",
    "CREATE INDEX exit_orders_position ON exit_orders (position_id)",
    f"CREATE UNIQUE INDEX exit_orders_one_live ON exit_orders (position_id) WHERE status IN {_LIVE}",
    """CREATE TABLE position_tracking (
    symbol TEXT NOT NULL PRIMARY KEY,
    qty NUMERIC NOT NULL,
    avg_entry_price NUMERIC NOT NULL,
    current_price NUMERIC,
    unrealised_pnl_pct NUMERIC,
    highest_price NUMERIC,
    exit_order_id INTEGER,
    status TEXT NOT NULL,
    last_evaluated_at_utc TEXT,
    created_at_utc TEXT NOT NULL,
    updated_at_utc TEXT NOT NULL,
    position_id TEXT NOT NULL)""",
    "CREATE INDEX position_tracking_position ON position_tracking (position_id)",
    """CREATE TABLE positions (
    position_id TEXT NOT NULL PRIMARY KEY,
    account TEXT NOT NULL,
    symbol TEXT NOT NULL,
    side TEXT NOT NULL,
    epoch TEXT NOT NULL,
    strategy_name TEXT NOT NULL,
    state TEXT NOT NULL,
    qty NUMERIC NOT NULL,
    entry_price NUMERIC NOT NULL,
    opened_at_utc TEXT NOT NULL,
    exit_reason TEXT,
    sold_qty NUMERIC NOT NULL DEFAULT 0,
    avg_exit_price NUMERIC,
    ended_at_utc TEXT,
    cooldown_until_utc TEXT,
    version INTEGER NOT NULL,
    open_alarms INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX positions_open ON positions (position_id) WHERE state NOT IN ('filled', 'closed')",
    "CREATE INDEX positions_symbol ON positions (symbol, opened_at_utc)",
    "CREATE INDEX positions_cooldown ON positions (cooldown_until_utc)",
    """CREATE TABLE alarms (
    alarm_id TEXT NOT NULL,
    stream_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    text TEXT NOT NULL,
    raised_at_utc TEXT NOT NULL,
    acknowledged_by TEXT,
    acknowledged_at_utc TEXT,
    PRIMARY KEY (stream_id, alarm_id))""",
    "CREATE INDEX alarms_standing ON alarms (stream_id) WHERE acknowledged_at_utc IS NULL",
)

OPEN_POSITIONS = "state NOT IN ('filled', 'closed')"
MARK = (
    "UPDATE position_tracking SET current_price = ?, unrealised_pnl_pct = ?, highest_price = ?, "
    "last_evaluated_at_utc = ? WHERE symbol = ? AND position_id = ?"
)


def statements(recorded: Recorded) -> list[Statement]:
    """What `recorded` changes in the read models, in the order in which to run it."""
    event = recorded.event
    handler = _HANDLERS.get(type(event))
    if recorded.stream_id.startswith(ACCOUNT_PREFIX):
        return handler(recorded, event) if handler is not None and type(event) in _ALARMS else []
    out: list[Statement] = [(_ADVANCE[type(event)], (recorded.version, recorded.stream_id))]
    if handler is not None:
        out += handler(recorded, event)
    return out


def mark_params(mark: Mark) -> tuple[Param, ...]:
    """The parameters of `MARK`."""
    return (
        plain(mark.price), plain(mark.pnl_pct), plain(mark.best_price), stamp(mark.at), mark.symbol, mark.position_id,
    )  # fmt: skip


def _plain(value: Decimal | None) -> str | None:
    return None if value is None else plain(value)


def stamp_ns(ns: int) -> str:
    """Nanoseconds since 1970 as ISO text in UTC, to the microsecond."""
    return stamp(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000))


def _advance_sql(event: type[Event]) -> str:
    """The update that each event of a position makes: its version, and the state as the lifecycle's table has it."""
    moves = [(r.source, r.target) for r in TABLE if r.event is event and r.source not in (None, r.target)]
    cases = " ".join(f"WHEN '{source}' THEN '{target}'" for source, target in moves)
    state = f", state = CASE state {cases} ELSE state END" if cases else ""
    return f"UPDATE positions SET version = ?{state} WHERE position_id = ?"


_ADVANCE: dict[type[Event], str] = {row.event: _advance_sql(row.event) for row in TABLE}

# ---------------------------------------------------------------------------------------------- positions come and go

_OPEN_POSITION = (
    "INSERT INTO positions (position_id, account, symbol, side, epoch, strategy_name, state, qty, entry_price, "
    "opened_at_utc, version) VALUES (?, ?, ?, ?, ?, ?, 'monitoring', ?, ?, ?, ?) ON CONFLICT (position_id) DO NOTHING"
)
# The row of an earlier position in the symbol is taken over whole: its marks and its exit order are not this one's.
_TRACK = (
    "INSERT INTO position_tracking (symbol, qty, avg_entry_price, status, created_at_utc, updated_at_utc, position_id) "
    "VALUES (?, ?, ?, 'monitoring', ?, ?, ?) ON CONFLICT (symbol) DO UPDATE SET qty = excluded.qty, "
    "avg_entry_price = excluded.avg_entry_price, status = excluded.status, created_at_utc = excluded.created_at_utc, "
    "updated_at_utc = excluded.updated_at_utc, position_id = excluded.position_id, exit_order_id = NULL, "
    + ", ".join(f"{column} = NULL" for column in MARKS)
)


def _opened(r: Recorded, e: PositionOpened) -> list[Statement]:
    qty, price, at = plain(e.qty), plain(e.entry_price), stamp_ns(r.at_ns)
    who = (r.stream_id, e.account, e.symbol, e.side, e.epoch, e.strategy_name)
    return [(_OPEN_POSITION, (*who, qty, price, stamp(e.opened_at), r.version)), (_TRACK, (e.symbol, qty, price, at, at, r.stream_id))]


def _resized(r: Recorded, e: PositionResized) -> list[Statement]:
    return [
        (
            "UPDATE positions SET qty = ?, entry_price = ? WHERE position_id = ?",
            (plain(e.qty), plain(e.entry_price), r.stream_id),
        ),
        (
            "UPDATE position_tracking SET qty = ?, avg_entry_price = ?, updated_at_utc = ? WHERE position_id = ?",
            (plain(e.qty), plain(e.entry_price), stamp_ns(r.at_ns), r.stream_id),
        ),
    ]


def _released(r: Recorded, e: PositionReleased) -> list[Statement]:
    return [
        (
            "UPDATE positions SET qty = ?, entry_price = ?, exit_reason = NULL WHERE position_id = ?",
            (plain(e.qty), plain(e.entry_price), r.stream_id),
        ),
        (
            "UPDATE position_tracking SET qty = ?, avg_entry_price = ?, status = 'monitoring', exit_order_id = NULL, "
            "updated_at_utc = ? WHERE position_id = ?",
            (plain(e.qty), plain(e.entry_price), stamp_ns(r.at_ns), r.stream_id),
        ),
    ]


_EXITED = "UPDATE position_tracking SET status = 'exited', updated_at_utc = ? WHERE position_id = ?"


def _completed(r: Recorded, e: ExitCompleted) -> list[Statement]:
    return [
        (
            "UPDATE positions SET sold_qty = ?, avg_exit_price = ?, ended_at_utc = ?, cooldown_until_utc = ? "
            "WHERE position_id = ?",
            (plain(e.filled_qty), _plain(e.avg_fill_price), stamp(e.filled_at), stamp(e.cooldown_until), r.stream_id),
        ),
        (_EXITED, (stamp_ns(r.at_ns), r.stream_id)),
    ]


def _closed_elsewhere(r: Recorded, e: PositionClosedElsewhere) -> list[Statement]:
    return [
        (
            "UPDATE positions SET ended_at_utc = ?, cooldown_until_utc = ? WHERE position_id = ?",
            (stamp(e.at), stamp(e.cooldown_until), r.stream_id),
        ),
        (_EXITED, (stamp_ns(r.at_ns), r.stream_id)),
    ]


def _protection_lost(r: Recorded, e: ProtectionLost) -> list[Statement]:
    return [
        ("UPDATE positions SET ended_at_utc = NULL WHERE position_id = ?", (r.stream_id,)),
        (
            "UPDATE position_tracking SET status = CASE WHEN exit_order_id IS NULL THEN 'monitoring' "
            "ELSE 'exit_pending' END, updated_at_utc = ? WHERE position_id = ?",
            (stamp_ns(r.at_ns), r.stream_id),
        ),
    ]


# --------------------------------------------------------------------------------------------------------- exit orders

_NEW_ORDER = (
    "INSERT INTO exit_orders (client_order_id, symbol, side, qty, exit_type, entry_price, target_price, threshold_pct, "
    "status, resubmit_count, created_at_utc, updated_at_utc, position_id) "
    "SELECT ?, p.symbol, CASE p.side WHEN 'long' THEN 'sell' ELSE 'buy' END, CAST(? AS NUMERIC), "
)
_FIRST_ORDER = (
    _NEW_ORDER + "?, p.entry_price, CAST(? AS NUMERIC), CAST(? AS NUMERIC), 'pending', CAST(? AS INTEGER), ?, ?, "
    "p.position_id FROM positions p WHERE p.position_id = ?"
)
# Why and at which level stays as it was at the trigger, which the attempt before carries.
_NEXT_ORDER = (
    _NEW_ORDER + "b.exit_type, COALESCE(b.entry_price, p.entry_price), b.target_price, b.threshold_pct, 'pending', "
    "CAST(? AS INTEGER), ?, ?, p.position_id FROM positions p LEFT JOIN exit_orders b "
    "ON b.id = (SELECT MAX(id) FROM exit_orders WHERE position_id = p.position_id) WHERE p.position_id = ?"
)
_TRACK_ORDER = (
    "UPDATE position_tracking SET status = 'exit_pending', exit_order_id = "
    "(SELECT id FROM exit_orders WHERE client_order_id = ?), updated_at_utc = ? WHERE position_id = ?"
)
_ORDER = "UPDATE exit_orders SET updated_at_utc = ?, {} WHERE client_order_id = ? AND position_id = ?"


def _triggered(r: Recorded, e: ExitTriggered) -> list[Statement]:
    at = stamp_ns(r.at_ns)
    level = (plain(e.level), plain(e.threshold_pct))
    return [
        ("UPDATE positions SET exit_reason = ? WHERE position_id = ?", (e.reason, r.stream_id)),
        (_FIRST_ORDER, (e.client_order_id, plain(e.qty), e.reason, *level, e.attempt - 1, at, at, r.stream_id)),
        (_TRACK_ORDER, (e.client_order_id, at, r.stream_id)),
    ]


def _retried(r: Recorded, e: ExitRetried) -> list[Statement]:
    at = stamp_ns(r.at_ns)
    return [
        (_NEXT_ORDER, (e.client_order_id, plain(e.qty), e.attempt - 1, at, at, r.stream_id)),
        (_TRACK_ORDER, (e.client_order_id, at, r.stream_id)),
    ]


# An order that is over stays over: a late fill can complete it, a bust does not bring it back to life.
_ACCEPTED_SQL = _ORDER.format(
    "status = CASE status WHEN 'pending' THEN 'submitted' ELSE status END, "
    "alpaca_order_id = COALESCE(?, alpaca_order_id)"
)
_CANCELING_SQL = _ORDER.format(f"status = CASE WHEN status IN {_LIVE} THEN 'canceling' ELSE status END")
_UNCANCELED_SQL = _ORDER.format(
    "status = CASE WHEN status <> 'canceling' THEN status WHEN filled_qty > 0 THEN 'partial' ELSE 'submitted' END"
)
_FILLS_SQL = _ORDER.format(
    "filled_qty = ?, avg_fill_price = COALESCE(?, avg_fill_price), "
    "status = CASE WHEN CAST(? AS NUMERIC) >= qty THEN 'filled' "
    "WHEN status IN ('pending', 'submitted') THEN 'partial' ELSE status END, "
    "filled_at_utc = CASE WHEN CAST(? AS NUMERIC) >= qty THEN COALESCE(filled_at_utc, ?) ELSE filled_at_utc END"
)
_ENDED_SQL = _ORDER.format("status = ?, filled_qty = ?")
# 1.0 * keeps SQLite from dividing whole numbers as integers. The average is unknown while that of a part is.
_SOLD_SQL = (
    "UPDATE positions SET sold_qty = (SELECT ROUND(COALESCE(SUM(filled_qty), 0), 9) FROM exit_orders o "
    "WHERE o.position_id = positions.position_id), avg_exit_price = (SELECT "
    "CASE WHEN COUNT(avg_fill_price) = COUNT(*) THEN ROUND(SUM(1.0 * filled_qty * avg_fill_price) / SUM(filled_qty), 9) "
    "END FROM exit_orders o WHERE o.position_id = positions.position_id AND filled_qty > 0) WHERE position_id = ?"
)
_HOW_ENDED = {"canceled": ExitStatus.CANCELED, "expired": ExitStatus.EXPIRED}


def _accepted(r: Recorded, e: OrderAccepted) -> list[Statement]:
    return [(_ACCEPTED_SQL, (stamp_ns(r.at_ns), e.broker_order_id, e.client_order_id, r.stream_id))]


def _fills(r: Recorded, e: FillsRecorded) -> list[Statement]:
    filled = plain(e.filled_qty)
    figures = (filled, _plain(e.avg_fill_price), filled, filled, stamp(e.at))
    return [
        (_FILLS_SQL, (stamp_ns(r.at_ns), *figures, e.client_order_id, r.stream_id)),
        (_SOLD_SQL, (r.stream_id,)),
    ]


def _canceling(r: Recorded, e: CancelRequested | ExitEscalated) -> list[Statement]:
    return [(_CANCELING_SQL, (stamp_ns(r.at_ns), e.client_order_id, r.stream_id))]


def _cancel_refused(r: Recorded, e: CancelRefused) -> list[Statement]:
    return [(_UNCANCELED_SQL, (stamp_ns(r.at_ns), e.client_order_id, r.stream_id))]


def _ended(r: Recorded, e: OrderEnded) -> list[Statement]:
    how = _HOW_ENDED.get(e.how, ExitStatus.REJECTED)
    return [
        (_ENDED_SQL, (stamp_ns(r.at_ns), how, plain(e.filled_qty), e.client_order_id, r.stream_id)),
        (_SOLD_SQL, (r.stream_id,)),
    ]


# -------------------------------------------------------------------------------------------------------------- alarms

_RAISE = (
    "INSERT INTO alarms (alarm_id, stream_id, kind, text, raised_at_utc) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (stream_id, alarm_id) DO UPDATE SET kind = excluded.kind, text = excluded.text, "
    "raised_at_utc = excluded.raised_at_utc, acknowledged_by = NULL, acknowledged_at_utc = NULL"
)
_ACKNOWLEDGE = (
    "UPDATE alarms SET acknowledged_by = ?, acknowledged_at_utc = ? "
    "WHERE stream_id = ? AND alarm_id = ? AND acknowledged_at_utc IS NULL"
)
_COUNT_ALARMS = (
    "UPDATE positions SET open_alarms = (SELECT COUNT(*) FROM alarms a WHERE a.stream_id = positions.position_id "
    "AND a.acknowledged_at_utc IS NULL) WHERE position_id = ?"
)


def _alarm(r: Recorded, e: AlarmRaised) -> list[Statement]:
    return [(_RAISE, (e.alarm_id, r.stream_id, e.kind, e.text, stamp(e.at))), (_COUNT_ALARMS, (r.stream_id,))]


def _acknowledged(r: Recorded, e: AlarmAcknowledged) -> list[Statement]:
    return [(_ACKNOWLEDGE, (e.by, stamp(e.at), r.stream_id, e.alarm_id)), (_COUNT_ALARMS, (r.stream_id,))]


_ALARMS = frozenset({AlarmRaised, AlarmAcknowledged})
#: event class -> what it changes besides version and state. An event without an entry changes nothing more.
_HANDLERS: dict[type[Event], Callable[[Recorded, Any], list[Statement]]] = {
    PositionOpened: _opened,
    PositionResized: _resized,
    ExitTriggered: _triggered,
    ExitRetried: _retried,
    OrderAccepted: _accepted,
    FillsRecorded: _fills,
    CancelRequested: _canceling,
    ExitEscalated: _canceling,
    CancelRefused: _cancel_refused,
    OrderEnded: _ended,
    ExitCompleted: _completed,
    PositionClosedElsewhere: _closed_elsewhere,
    ProtectionLost: _protection_lost,
    PositionReleased: _released,
    AlarmRaised: _alarm,
    AlarmAcknowledged: _acknowledged,
}
