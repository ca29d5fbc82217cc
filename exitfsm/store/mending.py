"""What lies beside the log must never stop the bot: read models that cannot be read are made again from the events.

Rules of this room: the events are never touched. What cannot be made again (marks: the last look at a position) is set
aside; the next bar makes it anew. Every call says in a line what was done, for an alarm.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from exitfsm.errors import StoreError
from exitfsm.outside import logger
from exitfsm.projections import HELD, MARK, MARKS, AlarmRow, HeldRow, TrackingRow
from exitfsm.store.exit_store import ExitStore, row_of

log = logger("exitfsm")

_TRACKINGS = f"SELECT {', '.join(TrackingRow.__struct_fields__)} FROM position_tracking"
_ALARMS = f"SELECT {', '.join(AlarmRow.__struct_fields__)} FROM alarms WHERE acknowledged_at_utc IS NULL"
_COOLDOWNS = "SELECT cooldown_until_utc FROM positions WHERE cooldown_until_utc IS NOT NULL"


def mend(store: ExitStore) -> list[str]:
    """Have a store that is opened for writing readable beside its events; what was done, one line each.

    Raises:
        StoreError: the events cannot be read, or nothing can be written.
    """
    done = list(_set_marks_aside(store))
    wrong = next(_unreadable(store), None)
    if wrong is None:
        return done
    log.error("read_models_rebuilt store=%s error=%s", store.where, wrong)
    store.rebuild()
    done += _set_marks_aside(store)
    left = next(_unreadable(store), None)
    if left is not None:
        raise StoreError(f"{store.where}: {left}, and made again from the events it cannot be read either")
    return [*done, f"{store.where}: {wrong}; the tables were made again from the events, which are whole"]


def _set_marks_aside(store: ExitStore) -> Iterator[str]:
    columns = TrackingRow.__struct_fields__
    for row in store._rows(_TRACKINGS):
        if _fault(row, TrackingRow) is None:
            continue
        bare = tuple(None if name in MARKS else value for name, value in zip(columns, row, strict=True))
        if _fault(bare, TrackingRow) is not None:
            continue  # more than the marks is wrong with it: the table is made again, without them
        symbol, position_id = row[columns.index("symbol")], row[columns.index("position_id")]
        store._write([(MARK, [(*(None for _ in MARKS), symbol, position_id)])])
        yield (
            f"{store.where}: the last look at {symbol} (position_tracking) could not be read, and was set aside; the "
            "next bar makes it anew"
        )


def _unreadable(store: ExitStore) -> Iterator[str]:
    """The rows that a start reads and cannot."""
    for name, sql, kind in (
        ("position_tracking", _TRACKINGS, TrackingRow),
        ("positions", HELD, HeldRow),
        ("alarms", _ALARMS, AlarmRow),
    ):
        for row in store._rows(sql):
            why = _fault(row, kind)
            if why is not None:
                yield f"a row of {name} ({row[0]!r}) could not be read: {why}"
    for (until,) in store._rows(_COOLDOWNS):
        try:
            datetime.fromisoformat(until)
        except (TypeError, ValueError) as error:
            yield f"a cooldown of positions ({until!r}) could not be read: {error}"
    try:
        store.open_positions()
    except StoreError as error:
        yield str(error)


def _fault(row: tuple[Any, ...], kind: type[msgspec.Struct]) -> str | None:
    try:
        row_of(row, kind)
    except ValueError as error:
        return str(error)
    return None


__all__ = ["mend"]
