"""The event store: what was decided, durable before anything is sent, and readable back.

Rules of this room: only here are `eventsourcing` and a database touched. An append stores all its events, their
read-model rows and their hashes in one transaction, or nothing. Nothing here knows a clock, decides anything or checks
the lifecycle: it stores what `position.decide` returned and refuses a writer that did not know the newest event of the
stream. Every failure is a `StoreError` that says what to do.

An event is a row of `stored_events`: its place in the store, its stream and version, its name as the topic
(`exit_triggered.v1`) and JSON: `{"at": nanoseconds, "by": …, "body": {"event": "exit_triggered.v1", …}}`.

- `exit_store` is the interface.
- `appending` takes appends and writes them together.
- `mapping` turns events into bytes and back, and chains their hashes.
- `policies` reads events that hold a policy, each policy once.
- `database` is the port to a database; `sqlite` and `postgres` are the engines behind it, and `opening` tells which.
- `checking` reads what a check of a store needs; `copying` copies a store into another one.
"""

from exitfsm.projections import AlarmRow, ExitOrderRow, Mark, PositionRow, TrackingRow
from exitfsm.store.appending import Append, Result
from exitfsm.store.database import Heart
from exitfsm.store.exit_store import ExitStore
from exitfsm.store.opening import is_url, owner_of, shown, watch

__all__ = [
    "AlarmRow",
    "Append",
    "ExitOrderRow",
    "ExitStore",
    "Heart",
    "Mark",
    "PositionRow",
    "Result",
    "TrackingRow",
    "is_url",
    "owner_of",
    "shown",
    "watch",
]
