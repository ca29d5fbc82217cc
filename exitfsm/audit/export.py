"""Export: every event of a store, one on a line, for other programs.

Rules of this room: JSON lines are exact (each holds the event as it is stored, its place, its hash and what it did);
CSV is for spreadsheets, with one column for each field that any event has. Both come in commit order, line by line.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from exitfsm.audit.trail import time_of
from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS, Event, Recorded, tag_of
from exitfsm.lifecycle import LOOKUP, State
from exitfsm.outside import harmless
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.store import ExitStore, checking
from exitfsm.values import stamp

_HEAD = ("sequence", "stream_id", "version", "at", "by", "event", "state_before", "state_after")
#: What a spreadsheet would take for the start of a formula.
_FORMULA = re.compile(r"(^|;)(\s*[=+\-@\t\r])")


def export_jsonl(store: ExitStore) -> Iterator[str]:
    """Every event as a line of JSON, with its line break: `{"sequence", "stream_id", "version", "at", "at_ns", "by",
    "event", "state_before", "state_after", "hash", "fields"}`.

    Raises:
        StoreError: the store cannot be read, or an event in it.
    """
    for r, before, after, hash_ in _events(store):
        head = dict(zip(_HEAD, _head(r, before, after), strict=True))
        line = {**head, "at_ns": r.at_ns, "hash": hash_, "fields": _fields(r.event)}
        yield json.dumps(line) + "\n"


def export_csv(store: ExitStore) -> Iterator[str]:
    """Every event as a line of CSV, the names of the columns first.

    A nested value (a policy) is JSON in its cell. An event stays on one line: what cannot be seen is shown by its code.
    Text that a spreadsheet would run as a formula, also one that parts cells at `;`, has a `'` before it.

    Raises:
        StoreError: the store cannot be read, or an event in it.
    """
    fields = columns()
    yield _csv([*_HEAD, *(f"event_{name}" if name in _HEAD else name for name in fields)])
    for r, before, after, _ in _events(store):
        values = _fields(r.event)
        row = [*_head(r, before, after), *(values.get(name) for name in fields)]
        yield _csv([_cell(value) for value in row])


def columns() -> list[str]:
    """The fields that any event has, in the order in which events and fields are declared."""
    names: dict[str, None] = {}
    for event in (*POSITION_EVENTS, *ACCOUNT_EVENTS):
        names |= dict.fromkeys(event.__struct_fields__)
    return list(names)


def _events(store: ExitStore) -> Iterator[tuple[Recorded, State | None, State | None, str]]:
    """Each event, the state of its position before and after it, and its hash."""
    states: dict[str, State] = {}
    with checking.snapshot(store):
        for stored in checking.stored(store):
            r = checking.read(store, stored)
            before = states.get(r.stream_id)
            after = None
            if not r.stream_id.startswith(ACCOUNT_PREFIX):
                after = LOOKUP.get((before, type(r.event)), before)
                if after is not None:
                    states[r.stream_id] = after
            yield r, before, after, (stored.hash or b"").hex()


def _head(r: Recorded, before: State | None, after: State | None) -> tuple[Any, ...]:
    at = stamp(time_of(r))
    return r.sequence, r.stream_id, r.version, at, r.by, tag_of(r.event), _name(before), _name(after)


def _name(state: State | None) -> str | None:
    return str(state) if state is not None else None


def _fields(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(event)
    fields.pop("event", None)
    return fields


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value)
    if not isinstance(value, str) or _is_number(value):
        return value
    return harmless(_FORMULA.sub(lambda found: f"{found[1]}'{found[2]}", value))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _csv(row: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(row)
    return out.getvalue()
