"""Between a decision and the store: each event is a row of the lifecycle, and what became of a commit is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from exitfsm.errors import StoreError
from exitfsm.events import Event, Recorded
from exitfsm.lifecycle import State, advance
from exitfsm.outside import logger
from exitfsm.position import Position
from exitfsm.store import Append, ExitStore, Result

log = logger("exitfsm")

#: Called after each commit: with the position after it and what was recorded.
Listener = Callable[[Position, Sequence[Recorded]], None]


def guard(position: Position, events: Iterable[Event]) -> None:
    """Every new event must be a row of the lifecycle, by the machine.

    Raises:
        IllegalTransition: one is not; nothing was stored.
    """
    state: State | None = position.state
    for event in events:
        state = advance(state, type(event))


def append(store: ExitStore, batches: Sequence[Append]) -> list[Result]:
    """Store what was decided. A COMMIT that fails may have taken place all the same: only the store knows.

    Raises:
        StoreError: nothing was stored, or that cannot be found out.
    """
    try:
        return store.append_many(batches)
    except StoreError:
        found = [store.stream(b.stream_id, b.expected_version)[: len(b.events)] for b in batches]
        if any([r.event for r in one] != list(b.events) for one, b in zip(found, batches, strict=True)):
            raise
        log.error("commit_failed_and_took_place streams=%s", [b.stream_id for b in batches])
        return list(found)


def notify(listener: Listener | None, p: Position, recorded: Sequence[Recorded]) -> None:
    """Say what was committed. Callbacks are guests: one that raises harms nothing."""
    if listener is None:
        return
    try:
        listener(p, recorded)
    except Exception:
        log.exception("listener_failed position=%s", p.position_id)
