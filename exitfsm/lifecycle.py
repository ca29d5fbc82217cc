"""The lifecycle of an exit, as one table.

Everything that says which event may follow in which state lives here and nowhere else: the `transitions` machine,
`allows`, `advance`, the diagram in the docs, the tests, the audit replay and the report all read `TABLE`. The trigger
is the event class itself. There are no conditions: `position.decide` weighs the facts and either returns an event or
nothing; once an event exists there is nothing left to guard.

Rows are as permanent as events. Adding one is fine; removing or re-targeting one makes old logs illegal.

The machine is never bound to a position (that would break equality and copying and cost ten times as much): one
unbound machine per process is moved on a throw-away cursor. `advance` guards each new event by what the machine says;
without conditions and callbacks it says the same each time, so it is moved once for each state and event, and what it
said is kept. `LOOKUP` is the same table as a plain dictionary, used to re-check stored events; a test proves that the
two agree everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from transitions import Machine, MachineError

from exitfsm.errors import IllegalTransition
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitPostponed,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
    UnitChanged,
)


class State(StrEnum):
    """Where a position stands."""

    MONITORING = "monitoring"
    PENDING = "pending"
    SUBMITTED = "submitted"
    PARTIAL = "partial"
    CANCELING = "canceling"
    REJECTED = "rejected"
    FILLED = "filled"
    CLOSED = "closed"
    UNPROTECTED = "unprotected"

    @property
    def terminal(self) -> bool:
        """True when the position needs nothing more (a contradiction can still re-open it as `unprotected`)."""
        return self is State.FILLED or self is State.CLOSED

    @property
    def exiting(self) -> bool:
        """True when an exit is under way."""
        return self in _EXITING


MEANING: dict[State, str] = {
    State.MONITORING: "open, levels armed, no exit order works; parts may have been sold",
    State.PENDING: "the intent is durable; the broker may or may not have the order; its quantity is reserved",
    State.SUBMITTED: "the broker acknowledged the order; nothing filled yet",
    State.PARTIAL: "something filled; with nothing left to fill it waits here for the proof that the position is flat",
    State.CANCELING: "we asked the broker to cancel; unknown until a terminal record; fills still count",
    State.REJECTED: "this attempt ended without filling the rest; the exit stays latched, the next attempt is due",
    State.FILLED: "exit complete and proved flat; terminal; the cooldown runs from the broker's fill time",
    State.CLOSED: "went flat by other hands, or only an unsellable residue is left; terminal",
    State.UNPROTECTED: "budget spent, or evidence contradicts; alarmed; waits for an operator, still accepts fills",
}
NOTHING = "(nothing)"
_EXITING = frozenset({State.PENDING, State.SUBMITTED, State.PARTIAL, State.CANCELING, State.REJECTED})


class Row(NamedTuple):
    """`event` in `source` leads to `target`; `why` where that is not obvious. `source` None: before the first event."""

    source: State | None
    event: type[Event]
    target: State
    why: str = ""


def _rows(sources: Iterable[State], event: type[Event], target: State | None = None, why: str = "") -> list[Row]:
    """One row per source; without a target each stays where it is."""
    return [Row(s, event, target or s, why) for s in sources]


_MON, _PEN, _SUB, _PAR = State.MONITORING, State.PENDING, State.SUBMITTED, State.PARTIAL
_CAN, _REJ, _FIL, _CLO, _UNP = State.CANCELING, State.REJECTED, State.FILLED, State.CLOSED, State.UNPROTECTED

TABLE: tuple[Row, ...] = (
    Row(None, PositionOpened, _MON),
    Row(_MON, PositionResized, _MON),
    Row(_MON, PolicyChanged, _MON),
    Row(_MON, StopMoved, _MON),
    Row(_MON, TriggerRefused, _MON),
    Row(_MON, RefusalEnded, _MON),
    Row(_MON, ExitTriggered, _PEN),
    Row(_PEN, OrderAccepted, _SUB),
    Row(_PEN, ExitPostponed, _PEN, "refused for a cause that passes: the same order is sent again"),
    Row(_SUB, FillsRecorded, _PAR),
    Row(_PAR, FillsRecorded, _PAR),
    Row(_CAN, FillsRecorded, _CAN, "fills still count while the cancel is pending"),
    Row(_REJ, FillsRecorded, _REJ, "a fill can cross a cancel"),
    Row(_UNP, FillsRecorded, _UNP, "fills are facts, whatever else is in doubt"),
    *_rows((_FIL, _CLO), FillsRecorded, why="a price can be corrected after the end; the quantity is as it was"),
    *_rows((_SUB, _PAR, _CAN, _UNP), OrderRestated, why="of less, it goes on; of more, it is `unprotected` first"),
    *_rows((_SUB, _PAR), CancelRequested, _CAN, "the request is on disk before it is sent"),
    Row(_CAN, CancelRefused, _SUB, "followed by FillsRecorded in the same commit where something had filled"),
    *_rows((_SUB, _PAR), ExitEscalated, _CAN, "the limit order is canceled first; the next attempt is market"),
    *_rows((_PEN, _SUB, _PAR, _CAN), OrderEnded, _REJ),
    Row(_UNP, OrderAccepted, _UNP, "an order that had been refused works after all; it is canceled"),
    Row(_UNP, OrderEnded, _UNP, "a terminal record is a fact too: without it nothing could be released or retried"),
    Row(_UNP, CancelRequested, _UNP, "a live order that could sell too much is ended, here too"),
    Row(_REJ, ExitRetried, _PEN),
    Row(_UNP, ExitRetried, _PEN, "only on an operator's word"),
    *_rows((_PAR, _CAN, _REJ), LegCompleted, _MON, "the part's terminal record, and what was to be kept is left"),
    *_rows((_PEN, _SUB, _PAR, _CAN, _REJ), LegWidened, why="all is to be sold now, in the same exit"),
    *_rows((_PAR, _CAN, _REJ, _UNP), ExitCompleted, _FIL),
    *_rows((_MON, _REJ, _UNP), PositionClosedElsewhere, _CLO, "a live order of ours is ended first"),
    *_rows(
        (_PAR, _CAN), PositionClosedElsewhere, _CLO, "the order is filled, and what is left is less than can be sold"
    ),
    *_rows((_MON, _PEN, _SUB, _PAR, _CAN, _REJ), ProtectionLost, _UNP),
    *_rows((_FIL, _CLO), ProtectionLost, _UNP, "a late fill, a bust, or evidence that contradicts"),
    Row(_UNP, PositionReleased, _MON, "only with no live order; clears the latch"),
    *_rows((_MON, _REJ, _UNP), UnitChanged, why="never while an order of ours may work: that is in the old unit"),
    Row(_PEN, ExitWithdrawn, _MON, "only an intent that never left; the trigger is judged again on the new levels"),
    *_rows(State, AlarmRaised),
    *_rows(State, AlarmAcknowledged),
)

#: (state or None, event class) -> the row. The whole lifecycle as a plain dictionary.
ROWS: dict[tuple[State | None, type[Event]], Row] = {(r.source, r.event): r for r in TABLE}
#: (state or None, event class) -> next state: what replay uses.
LOOKUP: dict[tuple[State | None, type[Event]], State] = {key: r.target for key, r in ROWS.items()}

MACHINE = Machine(
    model=None,
    states=[NOTHING, *(str(s) for s in State)],
    initial=NOTHING,
    auto_transitions=False,
    name="exitfsm",
    transitions=[
        {"trigger": r.event.__name__, "source": str(r.source or NOTHING), "dest": str(r.target)} for r in TABLE
    ],
)


def _not_ours(record: logging.LogRecord) -> bool:
    """False for the lines that `transitions` logs at each move of our machine: the events themselves tell the moves."""
    return not (isinstance(record.args, tuple) and record.args[:1] == (MACHINE.name,))


logging.getLogger("transitions.core").addFilter(_not_ours)


class _Cursor:
    """The smallest thing the machine can move: a state."""

    __slots__ = ("state",)

    def __init__(self, state: str) -> None:
        self.state = state


#: What the machine has answered so far. A refusal is not kept: it is rare, and asked for anew each time.
_ANSWERS: dict[tuple[State | None, type[Event]], State] = {}


def advance(state: State | None, event: type[Event]) -> State:
    """The state after `event`, by the machine.

    Raises:
        IllegalTransition: the table has no such row; nothing was changed.
    """
    target = _ANSWERS.get((state, event))
    if target is None:
        target = _ANSWERS[state, event] = move(state, event)
    return target


def move(state: State | None, event: type[Event]) -> State:
    """The same, by a move of the machine, whatever it has answered before, and many times as slow."""
    cursor = _Cursor(str(state or NOTHING))
    trigger = MACHINE.events.get(event.__name__)
    try:
        if trigger is None:
            raise IllegalTransition(cursor.state, event.__name__)
        trigger.trigger(cursor)
    except MachineError:
        raise IllegalTransition(str(state or NOTHING), event.__name__) from None
    return State(cursor.state)


def allows(state: State | None, event: type[Event]) -> bool:
    """True when the table has a row for `event` in `state`."""
    return (state, event) in LOOKUP


def mermaid() -> str:
    """The lifecycle as a mermaid state diagram; events that stay in a state and alarms are left out, for legibility."""
    lines = ["stateDiagram-v2"]
    edges: dict[tuple[str, str], list[str]] = {}
    for row in TABLE:
        if row.source is not row.target:
            edges.setdefault((str(row.source or "[*]"), str(row.target)), []).append(row.event.__name__)
    lines += [f"    {source} --> {target}: {', '.join(names)}" for (source, target), names in edges.items()]
    lines += [f"    {state} --> [*]" for state in State if state.terminal]
    return "\n".join(lines) + "\n"
