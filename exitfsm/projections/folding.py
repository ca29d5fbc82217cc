"""Folding events into read-model rows.

Rules of this room: pure. `ReadModels` says which rows to write and executes nothing; it reads only through the two
functions it is given. Folding is total: an event that the lifecycle would not allow changes nothing rather than fail.
Events of a stream that is no position (`account:…`) touch the alarms only.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

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
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    Recorded,
    UnitChanged,
)
from exitfsm.lifecycle import LOOKUP, State
from exitfsm.projections.tables import (
    INSERT,
    TABLES,
    Param,
    Row,
    number,
    update,
)
from exitfsm.values import EXACT, ZERO, ExitStatus, Side, rounded, stamp

#: Streams with this prefix hold facts about the whole account, not about one position.
ACCOUNT_PREFIX = "account:"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NEXT: dict[tuple[Param, type[Event]], str] = {
    (str(state), event): str(target) for (state, event), target in LOOKUP.items() if state is not None
}
_OVER = ("filled", "closed")
_EXIT_SIDE: dict[Param, str] = {str(side): str(side.exit_side) for side in Side}
_LIVE_STATUS = ("pending", "submitted", "partial", "canceling")


class ReadModels:
    """The rows as they stand after the events folded so far.

    Args:
        load: the stored rows of a table (its name) that belong to an owner (a value of `Table.owner`), in key order.
        last_order_id: the highest stored `exit_orders.id`, 0 when there is none.

    Rows stay in memory until `forget`; while nobody else writes the tables they need not be loaded again.
    """

    def __init__(self, load: Callable[[str, str], list[Row]], last_order_id: Callable[[], int]) -> None:
        self._load, self._last_order_id = load, last_order_id
        self._rows: dict[str, dict[str, list[Row]]] = {name: {} for name in TABLES}
        #: The alarms of each owner by their ids: an account may have thousands of them.
        self._named: dict[str, dict[str, Row]] = {}
        self._order_id: int | None = None
        self._new: dict[int, tuple[str, Row]] = {}
        self._changed: dict[int, tuple[str, Row, Row]] = {}

    def apply(self, recorded: Recorded) -> None:
        """Folds one event."""
        cls, stream_id = type(recorded.event), recorded.stream_id
        handler = _HANDLERS.get(cls)
        if stream_id.startswith(ACCOUNT_PREFIX) and cls not in _ALARMS:
            return
        if cls is PositionOpened:
            _opened(self, recorded)
        else:
            position = self.one("positions", stream_id)
            if position is not None:
                before = position["state"]
                state = _NEXT.get((before, cls), before)
                self.change("positions", position, version=recorded.version, state=state)
            if handler is not None and (position is not None or cls in _ALARMS):
                handler(self, position or {}, recorded, recorded.event)

    def writes(self) -> list[tuple[str, list[tuple[Param, ...]]]]:
        """The rows that are not written yet, as SQL with the parameters of each row; afterwards they count as written.

        Changes come before new rows: an order is over before the next one of its position is there. Of positions that
        are over nothing stays in memory.
        """
        groups: dict[str, list[tuple[Param, ...]]] = {}
        over: list[Row] = []
        for name, row, changes in self._changed.values():
            sql, params = update(name, tuple(changes))
            groups.setdefault(sql, []).append(params(row))
            if name == "positions" and row["state"] in _OVER:
                over.append(row)
        for name, row in self._new.values():
            groups.setdefault(INSERT[name], []).append(tuple(row.values()))
            if name == "positions" and row["state"] in _OVER:
                over.append(row)
        self._new.clear()
        self._changed.clear()
        for row in over:
            self._forget_position(row)
        return list(groups.items())

    def version(self, position_id: str) -> int | None:
        """The version of a position as far as it is in memory; None when it is not."""
        rows = self._rows["positions"].get(position_id)
        return int(rows[0]["version"]) if rows else None  # type: ignore[arg-type]  # a version is never NULL

    def forget(self) -> None:
        """Drops all rows from memory; those that are not written are lost."""
        for rows in self._rows.values():
            rows.clear()
        self._named.clear()
        self._new.clear()
        self._changed.clear()
        self._order_id = None

    def _forget_position(self, position: Row) -> None:
        self._named.pop(str(position["position_id"]), None)
        for name, table in TABLES.items():
            if table.owner != "symbol":
                self._rows[name].pop(str(position["position_id"]), None)
        tracked = self._rows["position_tracking"].get(str(position["symbol"]))
        if tracked and tracked[0]["position_id"] == position["position_id"]:  # not the row of a newer position
            del self._rows["position_tracking"][str(position["symbol"])]

    # ---- for the functions below

    def all(self, table: str, owner: str) -> list[Row]:
        """The rows of an owner."""
        known = self._rows[table]
        rows = known.get(owner)
        if rows is None:
            rows = known[owner] = self._load(table, owner)
        return rows

    def alarm(self, owner: str, alarm_id: str) -> Row | None:
        """One alarm of an owner."""
        rows, named = self.all("alarms", owner), self._named.setdefault(owner, {})
        named.update((str(row["alarm_id"]), row) for row in rows[len(named) :])  # those that came since
        return named.get(alarm_id)

    def one(self, table: str, owner: str) -> Row | None:
        """The only row of an owner."""
        rows = self.all(table, owner)
        return rows[0] if rows else None

    def add(self, table: str, owner: str, row: Row) -> None:
        """A new row, with all columns in order."""
        self.all(table, owner).append(row)
        self._new[id(row)] = (table, row)

    def add_first(self, table: str, owner: str, row: Row) -> None:
        """A new row that is the only one of its owner."""
        self._rows[table][owner] = [row]
        self._new[id(row)] = (table, row)

    def none_yet(self, table: str, owner: str) -> None:
        """A new owner has no rows: they need not be looked for."""
        self._rows[table][owner] = []

    def change(self, table: str, row: Row, **values: Param) -> None:
        """Other values in a row."""
        row.update(values)
        key = id(row)
        if key in self._new:
            return
        known = self._changed.get(key)
        if known is None:
            self._changed[key] = (table, row, values)
        else:
            known[2].update(values)

    def order(self, position_id: str, client_order_id: str) -> Row | None:
        """An exit order of a position."""
        return next((o for o in self.all("exit_orders", position_id) if o["client_order_id"] == client_order_id), None)

    def tracking(self, position: Row) -> Row | None:
        """The tracking row of a position, unless a newer one has taken it over."""
        row = self.one("position_tracking", str(position["symbol"]))
        return row if row is not None and row["position_id"] == position["position_id"] else None

    def next_order_id(self) -> int:
        """The id of the next exit order."""
        self._order_id = (self._last_order_id() if self._order_id is None else self._order_id) + 1
        return self._order_id


@lru_cache(256)
def stamp_ns(ns: int) -> str:
    """Nanoseconds since 1970 as ISO text in UTC, to the microsecond."""
    return stamp(_EPOCH + timedelta(microseconds=ns // 1000))


def _at(r: Recorded) -> str:
    return stamp_ns(r.at_ns)


# ---------------------------------------------------------------------------------------------- positions come and go


def _opened(m: ReadModels, r: Recorded) -> None:
    e, at = r.event, _at(r)
    assert isinstance(e, PositionOpened)
    if r.version > 1 and m.all("positions", r.stream_id):
        return
    qty, price = number(e.qty), number(e.entry_price)
    position: Row = {  # here and below: all columns, in the order of the table
        "position_id": r.stream_id,
        "account": e.account,
        "symbol": e.symbol,
        "side": str(e.side),
        "epoch": e.epoch,
        "strategy_name": e.strategy_name,
        "state": str(State.MONITORING),
        "qty": qty,
        "entry_price": price,
        "opened_at_utc": stamp(e.opened_at),
        "exit_reason": None,
        "sold_qty": 0,
        "avg_exit_price": None,
        "ended_at_utc": None,
        "cooldown_until_utc": None,
        "version": r.version,
        "open_alarms": 0,
    }
    m.add_first("positions", r.stream_id, position)
    if r.version == 1:
        m.none_yet("exit_orders", r.stream_id)
    tracking: Row = {
        "symbol": e.symbol,
        "qty": qty,
        "avg_entry_price": price,
        "current_price": None,
        "unrealised_pnl_pct": None,
        "highest_price": None,
        "exit_order_id": None,
        "status": "monitoring",
        "last_evaluated_at_utc": None,
        "created_at_utc": at,
        "updated_at_utc": at,
        "position_id": r.stream_id,
    }
    m.add_first("position_tracking", e.symbol, tracking)  # in the place of an earlier position in the symbol


def _track(m: ReadModels, p: Row, r: Recorded, **values: Param) -> None:
    """Other values in the tracking row of a position."""
    row = m.tracking(p)
    if row is not None:
        m.change("position_tracking", row, updated_at_utc=_at(r), **values)


def _resized(m: ReadModels, p: Row, r: Recorded, e: PositionResized) -> None:
    price = number(e.entry_price)
    m.change("positions", p, qty=_whole(p, e.qty), entry_price=price)
    _track(m, p, r, qty=number(e.qty), avg_entry_price=price)


def _released(m: ReadModels, p: Row, r: Recorded, e: PositionReleased) -> None:
    price = number(e.entry_price)
    m.change("positions", p, qty=_whole(p, e.qty), entry_price=price, exit_reason=None)
    _track(m, p, r, qty=number(e.qty), avg_entry_price=price, status="monitoring", exit_order_id=None)


def _whole(p: Row, held: Decimal) -> Param:
    """What a position was in all, when `held` is there now: what our orders have sold of it counts."""
    return number(EXACT.add(held, _decimal(p["sold_qty"])))


def _leg_completed(m: ReadModels, p: Row, r: Recorded, e: LegCompleted) -> None:
    """Its order stays a row of its own; the rest is tracked again."""
    m.change("positions", p, exit_reason=None)
    _track(m, p, r, qty=number(e.remaining_qty), status="monitoring", exit_order_id=None)


def _leg_widened(m: ReadModels, p: Row, r: Recorded, e: LegWidened) -> None:
    m.change("positions", p, exit_reason=str(e.reason))


def _rescaled(m: ReadModels, p: Row, r: Recorded, e: UnitChanged) -> None:
    price = number(e.entry_price)
    m.change("positions", p, qty=_whole(p, e.qty), entry_price=price)
    _track(m, p, r, qty=number(e.qty), avg_entry_price=price)


def _withdrawn(m: ReadModels, p: Row, r: Recorded, e: ExitWithdrawn) -> None:
    """Its row stays, over, until the next exit takes its id again."""
    order = m.order(r.stream_id, e.client_order_id)
    if order is not None:
        _order(m, r, order, status=str(ExitStatus.CANCELED))
    m.change("positions", p, exit_reason=None)
    _track(m, p, r, status="monitoring", exit_order_id=None)


def _completed(m: ReadModels, p: Row, r: Recorded, e: ExitCompleted) -> None:
    m.change(
        "positions",
        p,
        sold_qty=number(e.filled_qty),
        avg_exit_price=number(e.avg_fill_price),
        ended_at_utc=stamp(e.filled_at),
        cooldown_until_utc=stamp(e.cooldown_until),
    )
    _exited(m, p, r)


def _closed_elsewhere(m: ReadModels, p: Row, r: Recorded, e: PositionClosedElsewhere) -> None:
    m.change("positions", p, ended_at_utc=stamp(e.at), cooldown_until_utc=stamp(e.cooldown_until))
    _exited(m, p, r)


def _exited(m: ReadModels, p: Row, r: Recorded) -> None:
    """The position is over, and so is its exit order, whether or not the broker's last word on it was recorded."""
    for order in m.all("exit_orders", r.stream_id):
        if order["status"] in _LIVE_STATUS:
            over = ExitStatus.FILLED if order["filled_qty"] else ExitStatus.CANCELED
            m.change("exit_orders", order, status=str(over), updated_at_utc=_at(r))
    _track(m, p, r, status="exited")


def _protection_lost(m: ReadModels, p: Row, r: Recorded, _: ProtectionLost) -> None:
    m.change("positions", p, ended_at_utc=None)
    row = m.tracking(p)
    if row is not None:
        _track(m, p, r, status="monitoring" if row["exit_order_id"] is None else "exit_pending")


# --------------------------------------------------------------------------------------------------------- exit orders


def _new_order(m: ReadModels, p: Row, r: Recorded, e: ExitTriggered | ExitRetried, why: Row) -> None:
    at = _at(r)
    again = m.order(r.stream_id, e.client_order_id)
    if again is not None and (again["status"] != ExitStatus.CANCELED or again["alpaca_order_id"] is not None):
        again = None  # it was sent: the table refuses a second one of its id
    number_of_it = int(str(again["id"])) if again is not None else m.next_order_id()
    order: Row = {
        "id": number_of_it,
        "client_order_id": e.client_order_id,
        "symbol": p["symbol"],
        "side": _EXIT_SIDE[p["side"]],
        "qty": number(e.qty),
        "filled_qty": 0,
        "avg_fill_price": None,
        **why,
        "status": "pending",
        "alpaca_order_id": None,
        "resubmit_count": e.attempt - 1,
        "created_at_utc": at,
        "updated_at_utc": at,
        "filled_at_utc": None,
        "position_id": r.stream_id,
    }
    if again is None:
        m.add("exit_orders", r.stream_id, order)
    else:  # the one before with this id was withdrawn: it never left
        m.change("exit_orders", again, **{name: order[name] for name in TABLES["exit_orders"].changing})
    row = m.tracking(p)
    if row is not None:
        m.change("position_tracking", row, updated_at_utc=at, status="exit_pending", exit_order_id=number_of_it)


def _triggered(m: ReadModels, p: Row, r: Recorded, e: ExitTriggered) -> None:
    why: Row = {
        "exit_type": str(e.reason),
        "entry_price": p["entry_price"],
        "target_price": number(e.level),
        "threshold_pct": number(e.threshold_pct),
    }
    m.change("positions", p, exit_reason=str(e.reason))
    _new_order(m, p, r, e, why)


def _retried(m: ReadModels, p: Row, r: Recorded, e: ExitRetried) -> None:
    """Why and at which level stays as it was at the trigger; the attempt before has it."""
    before = m.all("exit_orders", r.stream_id)
    why: Row = {"exit_type": None, "entry_price": p["entry_price"], "target_price": None, "threshold_pct": None}
    if before:
        why = {column: before[-1][column] for column in why}
    _new_order(m, p, r, e, why)


def _order(m: ReadModels, r: Recorded, order: Row, **values: Param) -> None:
    """Other values in an exit order. One that is over stays over, but for `_works_again`."""
    if order["status"] not in _LIVE_STATUS and values.get("status") in _LIVE_STATUS:
        del values["status"]
    m.change("exit_orders", order, updated_at_utc=_at(r), **values)


def _accepted(m: ReadModels, _: Row, r: Recorded, e: OrderAccepted) -> None:
    order = m.order(r.stream_id, e.client_order_id)
    if order is not None:
        if order["status"] not in _LIVE_STATUS and not _another_works(m, r, order):
            m.change("exit_orders", order, status="pending")  # it had been refused, and works after all
        status = "submitted" if order["status"] == "pending" else order["status"]
        broker_id = e.broker_order_id or order["alpaca_order_id"]
        _order(m, r, order, status=status, alpaca_order_id=broker_id)


def _fills(m: ReadModels, p: Row, r: Recorded, e: FillsRecorded) -> None:
    order = m.order(r.stream_id, e.client_order_id)
    if order is None:
        return
    values: Row = {"filled_qty": number(e.filled_qty), "avg_fill_price": number(e.avg_fill_price)}
    if _decimal(values["filled_qty"]) >= _decimal(order["qty"]):
        values |= {"status": "filled", "filled_at_utc": order["filled_at_utc"] or stamp(e.at)}
    elif e.corrected:
        _works_again(m, r, order)
    if "status" not in values and order["status"] != "canceling":
        values["status"] = "partial"
    _order(m, r, order, **values)
    _sold(m, p, r)


def _another_works(m: ReadModels, r: Recorded, order: Row) -> bool:
    """True where another order of the position counts as live: the table has room for one."""
    return any(o["status"] in _LIVE_STATUS and o is not order for o in m.all("exit_orders", r.stream_id))


def _works_again(m: ReadModels, r: Recorded, order: Row) -> None:
    """The newest order, over because it was filled whole, may work again when it is not whole any more."""
    whole = _decimal(order["filled_qty"]) >= _decimal(order["qty"])
    newest = order is m.all("exit_orders", r.stream_id)[-1]
    if whole and newest and order["status"] not in _LIVE_STATUS and not _another_works(m, r, order):
        m.change("exit_orders", order, status="partial", filled_at_utc=None)


def _restated(m: ReadModels, _: Row, r: Recorded, e: OrderRestated) -> None:
    order = m.order(r.stream_id, e.client_order_id)
    if order is None:
        return
    if e.qty > (filled := _decimal(order["filled_qty"])):
        _works_again(m, r, order)
    _order(m, r, order, qty=number(e.qty), **({"status": "filled"} if e.qty < filled else {}))


def _canceling(m: ReadModels, _: Row, r: Recorded, e: CancelRequested | ExitEscalated) -> None:
    order = m.order(r.stream_id, e.client_order_id)
    if order is not None:
        _order(m, r, order, status="canceling")


def _cancel_refused(m: ReadModels, _: Row, r: Recorded, e: CancelRefused) -> None:
    order = m.order(r.stream_id, e.client_order_id)
    if order is not None and order["status"] == "canceling":
        _order(m, r, order, status="partial" if order["filled_qty"] else "submitted")


def _ended(m: ReadModels, p: Row, r: Recorded, e: OrderEnded) -> None:
    order = m.order(r.stream_id, e.client_order_id)
    if order is None:
        return
    how = e.how if e.how in ("canceled", "expired", "filled") else "rejected"
    filled = max(e.filled_qty, _decimal(order["filled_qty"]))
    _order(m, r, order, status=how, filled_qty=number(filled))
    _sold(m, p, r)


def _sold(m: ReadModels, p: Row, r: Recorded) -> None:
    """What our orders have sold of a position; its average is unknown while that of a part is."""
    parts = [
        (_decimal(o["filled_qty"]), o["avg_fill_price"]) for o in m.all("exit_orders", r.stream_id) if o["filled_qty"]
    ]
    sold = worth = ZERO
    for qty, price in parts:
        sold = EXACT.add(sold, qty)
        worth = EXACT.add(worth, EXACT.multiply(qty, _decimal(price or 0)))
    average = None
    if sold and all(price is not None for _, price in parts):
        average = number(rounded(EXACT.divide(worth, sold)))
    m.change("positions", p, sold_qty=number(sold), avg_exit_price=average)


def _decimal(value: Param) -> Decimal:
    return Decimal(str(value))


# -------------------------------------------------------------------------------------------------------------- alarms


def _alarm(m: ReadModels, p: Row, r: Recorded, e: AlarmRaised) -> None:
    raised: Row = {"kind": e.kind, "text": e.text, "raised_at_utc": stamp(e.at)}
    standing: Row = {"acknowledged_by": None, "acknowledged_at_utc": None}
    known = m.alarm(r.stream_id, e.alarm_id)
    if known is not None:
        m.change("alarms", known, **raised, **standing)
    else:
        m.add("alarms", r.stream_id, {"alarm_id": e.alarm_id, "stream_id": r.stream_id, **raised, **standing})
    _count_alarms(m, p, r)


def _acknowledged(m: ReadModels, p: Row, r: Recorded, e: AlarmAcknowledged) -> None:
    known = m.alarm(r.stream_id, e.alarm_id)
    if known is not None and known["acknowledged_at_utc"] is None:
        m.change("alarms", known, acknowledged_by=e.by, acknowledged_at_utc=stamp(e.at))
        _count_alarms(m, p, r)


def _count_alarms(m: ReadModels, p: Row, r: Recorded) -> None:
    if p:
        standing = sum(a["acknowledged_at_utc"] is None for a in m.all("alarms", r.stream_id))
        m.change("positions", p, open_alarms=standing)


_ALARMS = frozenset({AlarmRaised, AlarmAcknowledged})
#: event class -> what it changes besides version and state. An event without an entry changes nothing more.
_HANDLERS: dict[type[Event], Callable[[ReadModels, Row, Recorded, Any], None]] = {
    PositionResized: _resized,
    ExitTriggered: _triggered,
    ExitRetried: _retried,
    OrderAccepted: _accepted,
    FillsRecorded: _fills,
    OrderRestated: _restated,
    CancelRequested: _canceling,
    ExitEscalated: _canceling,
    CancelRefused: _cancel_refused,
    OrderEnded: _ended,
    LegCompleted: _leg_completed,
    LegWidened: _leg_widened,
    ExitCompleted: _completed,
    PositionClosedElsewhere: _closed_elsewhere,
    ProtectionLost: _protection_lost,
    PositionReleased: _released,
    UnitChanged: _rescaled,
    ExitWithdrawn: _withdrawn,
    AlarmRaised: _alarm,
    AlarmAcknowledged: _acknowledged,
}
