"""The tables of the read models: their rows as people see them, their SQL, and how values stand in them.

Rules of this room: data and SQL text only. The SQL is what SQLite and PostgreSQL share, with `?` for a parameter; how
they spell the kinds of columns they say themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import msgspec

from exitfsm.lifecycle import State
from exitfsm.values import Alarm, ExitStatus, ExitType, OrderSide, Side, stamp

Param = str | int | float | None
Row = dict[str, Param]

_EXACT_INT = 2.0**53

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


class HeldRow(msgspec.Struct, frozen=True, array_like=True):
    """A position that is not over, and the last look at its symbol."""

    position_id: str
    current_price: Decimal | None
    last_evaluated_at_utc: datetime | None


class AlarmRow(msgspec.Struct, frozen=True, array_like=True):
    """One alarm; it stands until `acknowledged_at_utc` is set."""

    alarm_id: str
    stream_id: str
    kind: str
    text: str
    raised_at_utc: datetime
    acknowledged_by: str | None
    acknowledged_at_utc: datetime | None

    @property
    def alarm(self) -> Alarm:
        """The alarm itself."""
        return Alarm(alarm_id=self.alarm_id, kind=self.kind, text=self.text, raised_at=self.raised_at_utc)


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The last look at a position: price, profit in percent, best price since the entry, time of the look.

    `folded` is what its rules have folded of the bars, as text; empty where no rule does.
    """

    symbol: str
    position_id: str
    price: Decimal
    pnl_pct: Decimal
    best_price: Decimal
    at: datetime
    folded: str = ""


class Table(NamedTuple):
    """One read model.

    Attributes:
        row: its row class, whose fields are the columns in order.
        key: what tells its rows apart, and orders them.
        owner: the column by which rows are looked up while folding.
        changing: the columns that a later event may change.
    """

    row: type[msgspec.Struct]
    key: tuple[str, ...]
    owner: str
    changing: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in order."""
        return self.row.__struct_fields__


TABLES: dict[str, Table] = {
    "exit_orders": Table(
        ExitOrderRow,
        ("id",),
        "position_id",
        (
            *("qty", "filled_qty", "avg_fill_price", "exit_type", "entry_price", "target_price", "threshold_pct"),
            *("status", "alpaca_order_id", "updated_at_utc", "filled_at_utc"),
        ),
    ),
    "position_tracking": Table(
        TrackingRow,
        ("symbol",),
        "symbol",
        ("qty", "avg_entry_price", "exit_order_id", "status", "updated_at_utc"),
    ),
    "positions": Table(
        PositionRow,
        ("position_id",),
        "position_id",
        (
            *("state", "qty", "entry_price", "exit_reason", "sold_qty", "avg_exit_price", "ended_at_utc"),
            *("cooldown_until_utc", "version", "open_alarms"),
        ),
    ),
    "alarms": Table(
        AlarmRow,
        ("stream_id", "alarm_id"),
        "stream_id",
        ("kind", "text", "raised_at_utc", "acknowledged_by", "acknowledged_at_utc"),
    ),
}

#: A position that is not over.
OPEN = "state NOT IN ('filled', 'closed')"
#: The rows of `HeldRow`, oldest position first.
HELD = (
    "SELECT p.position_id, t.current_price, t.last_evaluated_at_utc FROM positions p "
    f"LEFT JOIN position_tracking t ON t.symbol = p.symbol WHERE p.{OPEN} ORDER BY p.opened_at_utc, p.position_id"
)
#: An order that may be working at the broker. At most one per position: the database itself refuses a second.
_LIVE = "('pending', 'submitted', 'partial', 'canceling')"

#: What stands in a column: text, a number (money, quantities, percentages), a whole number, or the number of the row.
Kind = Literal["text", "number", "integer", "place"]


class Column(NamedTuple):
    """One column: what stands in it, and what is asked of that."""

    name: str
    kind: Kind
    rule: str = "NOT NULL"


_COLUMNS: dict[str, tuple[Column, ...]] = {
    "exit_orders": (
        Column("id", "place", ""),
        Column("client_order_id", "text", "NOT NULL UNIQUE"),
        Column("symbol", "text"),
        Column("side", "text"),
        Column("qty", "number"),
        Column("filled_qty", "number", "NOT NULL DEFAULT 0"),
        Column("avg_fill_price", "number", ""),
        Column("exit_type", "text", ""),
        Column("entry_price", "number", ""),
        Column("target_price", "number", ""),
        Column("threshold_pct", "number", ""),
        Column("status", "text"),
        Column("alpaca_order_id", "text", ""),
        Column("resubmit_count", "integer", "NOT NULL DEFAULT 0"),
        Column("created_at_utc", "text"),
        Column("updated_at_utc", "text"),
        Column("filled_at_utc", "text", ""),
        Column("position_id", "text"),
    ),
    "position_tracking": (
        Column("symbol", "text", "NOT NULL PRIMARY KEY"),
        Column("qty", "number"),
        Column("avg_entry_price", "number"),
        Column("current_price", "number", ""),
        Column("unrealised_pnl_pct", "number", ""),
        Column("highest_price", "number", ""),
        Column("exit_order_id", "integer", ""),
        Column("status", "text"),
        Column("last_evaluated_at_utc", "text", ""),
        Column("created_at_utc", "text"),
        Column("updated_at_utc", "text"),
        Column("position_id", "text"),
    ),
    "positions": (
        Column("position_id", "text", "NOT NULL PRIMARY KEY"),
        Column("account", "text"),
        Column("symbol", "text"),
        Column("side", "text"),
        Column("epoch", "text"),
        Column("strategy_name", "text"),
        Column("state", "text"),
        Column("qty", "number"),
        Column("entry_price", "number"),
        Column("opened_at_utc", "text"),
        Column("exit_reason", "text", ""),
        Column("sold_qty", "number", "NOT NULL DEFAULT 0"),
        Column("avg_exit_price", "number", ""),
        Column("ended_at_utc", "text", ""),
        Column("cooldown_until_utc", "text", ""),
        Column("version", "integer"),
        Column("open_alarms", "integer", "NOT NULL DEFAULT 0"),
    ),
    "alarms": (
        Column("alarm_id", "text"),
        Column("stream_id", "text"),
        Column("kind", "text"),
        Column("text", "text"),
        Column("raised_at_utc", "text"),
        Column("acknowledged_by", "text", ""),
        Column("acknowledged_at_utc", "text", ""),
    ),
}
#: What a table asks of several columns together.
_TOGETHER = {"alarms": ("PRIMARY KEY (stream_id, alarm_id)",)}
_INDEXES = {
    "exit_orders": (
        "CREATE INDEX exit_orders_symbol_status ON exit_orders (symbol, status)",
        "CREATE INDEX exit_orders_position ON exit_orders (position_id)",
        f"CREATE UNIQUE INDEX exit_orders_one_live ON exit_orders (position_id) WHERE status IN {_LIVE}",
    ),
    "position_tracking": ("CREATE INDEX position_tracking_position ON position_tracking (position_id)",),
    "positions": (
        f"CREATE INDEX positions_open ON positions (position_id) WHERE {OPEN}",
        "CREATE INDEX positions_symbol ON positions (symbol, opened_at_utc)",
        "CREATE INDEX positions_cooldown ON positions (cooldown_until_utc) WHERE cooldown_until_utc IS NOT NULL",
    ),
    "alarms": ("CREATE INDEX alarms_standing ON alarms (stream_id) WHERE acknowledged_at_utc IS NULL",),
}
#: table -> column -> what stands in it.
KINDS: dict[str, dict[str, Kind]] = {
    name: {column.name: column.kind for column in columns} for name, columns in _COLUMNS.items()
}


def ddl(types: Mapping[Kind, str]) -> tuple[str, ...]:
    """The statements that make all tables and their indexes.

    Args:
        types: how a database spells each kind of column. `place` is the number of a row, and its primary key.
    """
    statements: list[str] = []
    for name, columns in _COLUMNS.items():
        lines = [_line(column, types) for column in columns] + list(_TOGETHER.get(name, ()))
        statements.append(f"CREATE TABLE {name} (\n    " + ",\n    ".join(lines) + ")")
        statements += _INDEXES[name]
    return tuple(statements)


def _line(column: Column, types: Mapping[Kind, str]) -> str:
    return f"{column.name} {types[column.kind]} {column.rule}".rstrip()


class Shape(NamedTuple):
    """What a statement of this module writes, for a database that takes many rows at once.

    Attributes:
        verb: `INSERT` or `UPDATE`.
        columns: those of the parameters, in their order.
        key_at: which of them tell the rows apart.
    """

    verb: Literal["INSERT", "UPDATE"]
    table: str
    columns: tuple[str, ...]
    key_at: tuple[int, ...]


_SHAPES: dict[str, Shape] = {}


def shape(sql: str) -> Shape | None:
    """What a statement writes; None when it is not one of this module."""
    return _SHAPES.get(sql)


def _noted(sql: str, verb: Literal["INSERT", "UPDATE"], table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """The statement, with its shape noted; the key stands last in an update, or is found among the columns."""
    last = len(columns) - len(key)
    key_at = range(last, len(columns)) if verb == "UPDATE" else (columns.index(column) for column in key)
    _SHAPES[sql] = Shape(verb, table, tuple(columns), tuple(key_at))
    return sql


#: Writes the marks of one position; its parameters come from `mark_params`.
MARK = _noted(
    f"UPDATE position_tracking SET {', '.join(f'{mark} = ?' for mark in MARKS)} WHERE symbol = ? AND position_id = ?",
    "UPDATE",
    "position_tracking",
    (*MARKS, "symbol", "position_id"),
    ("symbol", "position_id"),
)


def _insert_sql(name: str, table: Table) -> str:
    sql = f"INSERT INTO {name} ({', '.join(table.columns)}) VALUES ({', '.join('?' * len(table.columns))})"
    if table.row is TrackingRow:  # a new position takes the symbol's row over, marks and all
        sql += " ON CONFLICT (symbol) DO UPDATE SET " + ", ".join(f"{c} = excluded.{c}" for c in table.columns)
    return _noted(sql, "INSERT", name, table.columns, table.key)


INSERT = {name: _insert_sql(name, table) for name, table in TABLES.items()}


class Update(NamedTuple):
    """A change of some columns of a row: its SQL, and what takes its parameters from the row."""

    sql: str
    params: Callable[[Row], tuple[Param, ...]]


@lru_cache(maxsize=512)
def update(name: str, changed: tuple[str, ...]) -> Update:
    """How a row of a table is written again of which these columns have changed: what has not is left alone.

    Of an exit order all that can change is written: its rows must change in the order in which the events came, by one
    statement, or an order could be live before another one of its position is over, which the database refuses.
    """
    table = TABLES[name]
    wanted = table.changing if name == "exit_orders" else changed
    if unknown := set(changed) - set(table.changing):
        raise LookupError(f"no event may change {', '.join(sorted(unknown))} of {name}")
    sql = (
        f"UPDATE {name} SET {', '.join(f'{c} = ?' for c in wanted)} WHERE {' AND '.join(f'{c} = ?' for c in table.key)}"
    )
    _noted(sql, "UPDATE", name, (*wanted, *table.key), table.key)
    return Update(sql, itemgetter(*wanted, *table.key))


def mark_params(mark: Mark) -> tuple[Param, ...]:
    """The parameters of `MARK`."""
    figures = (number(mark.price), number(mark.pnl_pct), number(mark.best_price))
    return (*figures, stamp(mark.at), mark.symbol, mark.position_id)


def differences(table: str, have: Iterable[Sequence[Any]], want: Iterable[Sequence[Any]]) -> Iterator[str]:
    """How the rows of `table` differ from those they should be, one line for each; marks are left out."""
    columns = TABLES[table].columns
    key_at = [columns.index(key) for key in TABLES[table].key]
    ours = {tuple(row[i] for i in key_at): row for row in have}
    right = {tuple(row[i] for i in key_at): row for row in want}
    for key in sorted(ours.keys() | right.keys()):
        name = f"{table} {'/'.join(map(str, key))}"
        if key not in right:
            yield f"{name}: no event made this row"
        elif key not in ours:
            yield f"{name}: the row is missing"
        else:
            pairs = zip(columns, ours[key], right[key], strict=True)
            wrong = [f"{c} is {h!r}, not {w!r}" for c, h, w in pairs if c not in MARKS and h != w]
            if wrong:
                yield f"{name}: {', '.join(wrong)}"


def number(value: Decimal | None) -> Param:
    """A decimal as the database gives it back: the nearest float, and where that is whole an int.

    What is no finite number is no value.
    """
    if value is None:
        return None
    nearest = float(value)
    if nearest.is_integer() and -_EXACT_INT < nearest < _EXACT_INT:
        return int(nearest)
    return nearest if math.isfinite(nearest) else None
