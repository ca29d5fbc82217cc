"""The lifecycle: every row is walked by real messages, nothing else is legal, and no row ever changes."""

from __future__ import annotations

import logging
from decimal import Decimal
from itertools import product

import pytest

from exitfsm.committing import guard
from exitfsm.errors import IllegalTransition
from exitfsm.events import (
    POSITION_EVENTS,
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
from exitfsm.lifecycle import LOOKUP, MACHINE, MEANING, NOTHING, ROWS, TABLE, Row, State, advance, allows, mermaid, move
from exitfsm.messages import (
    Acknowledge,
    ChangePolicy,
    Contradiction,
    ForceExit,
    RaiseAlarm,
    Release,
    Rescale,
    Withdraw,
)
from exitfsm.ports import AssetRules, Capabilities
from exitfsm.position import Position, evolve, replay
from exitfsm.testing.given import (
    Scenario,
    Told,
    after,
    given,
    holds,
    opened,
    policy,
    refused,
    reported,
    seen,
    timer,
    to_open,
)

MON, PEN, SUB, PAR, CAN = State.MONITORING, State.PENDING, State.SUBMITTED, State.PARTIAL, State.CANCELING
REJ, FIL, CLO, UNP = State.REJECTED, State.FILLED, State.CLOSED, State.UNPROTECTED

# --- the way to each state, by messages only --------------------------------------------------------------------------

_LIMIT = policy(profit_taking={"order_type": "limit"}, trailing_stop={"trail_pct": 1})
_DOUBT = Contradiction(at=after(90), why="two brokers in one")
_ALARM = RaiseAlarm(at=after(90), kind="feed_lost", text="no bars")

nothing = given()
monitoring = nothing.when(to_open(opened(policy=_LIMIT)))
pending = monitoring.when(seen(99))
submitted = pending.when(reported("new"))
partial = submitted.when(reported("partially_filled", 4, 99))
resting = monitoring.when(seen(102), reported("new"))
resting_partly = resting.when(reported("partially_filled", 4, 102))
canceling = resting_partly.when(timer(120))
rejected = partial.when(reported("expired", 4))
filled = partial.when(reported("filled", 10, 99), holds(0))
closed = monitoring.when(holds(0))
unprotected = monitoring.when(_DOUBT)
unprotected_live = submitted.when(_DOUBT)
unprotected_ended = unprotected_live.when(reported("canceled", 4))

# A venue that takes whole shares only, and a position that is not whole.
_WHOLE = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal(1)))
partial_with_residue = nothing.at(_WHOLE).when(
    to_open(opened(qty="10.5", policy=_LIMIT)), seen(99), reported("filled", 10, 99)
)
canceling_with_residue = nothing.at(_WHOLE).when(
    to_open(opened(qty="10.5", policy=_LIMIT)), seen(102), reported("new"), timer(120), reported("filled", 10, 102)
)

# A position of which the first target sells half.
_PARTS = policy(targets=[{"at_pct": 2, "sell_pct": 50}, {"at_pct": 4, "sell_pct": 50}])
part_pending = nothing.when(to_open(opened(policy=_PARTS)), seen(102))
part_submitted = part_pending.when(reported("new"))
part_partial = part_submitted.when(reported("partially_filled", 2, 102))
part_canceling = part_partial.when(holds(1))
part_rejected = part_partial.when(reported("expired", 2))
_ALL = ForceExit(at=after(90))

AT: dict[State | None, Scenario] = {
    None: nothing,
    MON: monitoring,
    PEN: pending,
    SUB: submitted,
    PAR: partial,
    CAN: canceling,
    REJ: rejected,
    FIL: filled,
    CLO: closed,
    UNP: unprotected,
}


def rescaled(p: Position) -> Rescale:
    """Ten for one."""
    return Rescale(at=after(90), factor=Decimal(10), qty=p.remaining_qty * 10, entry_price=p.entry_price / 10)


#: row -> the position just before it, and the message that leads over it.
WALKS: dict[tuple[State | None, type[Event]], tuple[Scenario, Told]] = {
    (None, PositionOpened): (nothing, to_open(opened())),
    (MON, PositionResized): (monitoring, holds(12)),
    (MON, PolicyChanged): (monitoring, ChangePolicy(at=after(60), policy=policy(stop_loss={"threshold_pct": 3}))),
    (MON, StopMoved): (monitoring, seen(101)),
    (MON, TriggerRefused): (monitoring, seen("NaN")),
    (MON, RefusalEnded): (monitoring.when(seen("NaN")), seen(100, at=120)),
    (MON, ExitTriggered): (monitoring, seen(99)),
    (PEN, OrderAccepted): (pending, reported("new")),
    (PEN, ExitPostponed): (pending, refused("halted")),
    (SUB, FillsRecorded): (submitted, reported("partially_filled", 4, 99)),
    (PAR, FillsRecorded): (partial, reported("partially_filled", 5, 99)),
    (CAN, FillsRecorded): (canceling, reported("pending_cancel", 5, 102)),
    (REJ, FillsRecorded): (rejected, reported("expired", 5, 99)),
    (UNP, FillsRecorded): (unprotected_live, reported("partially_filled", 5, 99)),
    (FIL, FillsRecorded): (filled, reported("filled", 10, 98, corrected=True)),
    (CLO, FillsRecorded): (rejected.when(holds(0)), reported("expired", 4, 98, corrected=True)),
    (SUB, OrderRestated): (submitted, reported("new", qty=Decimal(9))),
    (PAR, OrderRestated): (partial, reported("partially_filled", 4, 99, qty=Decimal(9))),
    (CAN, OrderRestated): (canceling, reported("pending_cancel", 4, 102, qty=Decimal(9))),
    (UNP, OrderRestated): (unprotected_live, reported("new", qty=Decimal(11))),
    (SUB, CancelRequested): (submitted, holds(0)),
    (PAR, CancelRequested): (partial, holds(2)),
    (CAN, CancelRefused): (canceling, reported("cancel_rejected", 4)),
    (SUB, ExitEscalated): (resting, seen(99, at=120)),
    (PAR, ExitEscalated): (resting_partly, seen(99, at=120)),
    (PEN, OrderEnded): (pending, refused()),
    (SUB, OrderEnded): (submitted, reported("expired", 0)),
    (PAR, OrderEnded): (partial, reported("rejected", 4)),
    (CAN, OrderEnded): (canceling, reported("canceled", 4)),
    (UNP, OrderEnded): (unprotected_live, reported("canceled", 0)),
    (UNP, OrderAccepted): (pending.when(refused(), _DOUBT), reported("new")),
    (UNP, CancelRequested): (  # the first order turns out to have filled all while the second is working
        rejected.when(timer(200), holds(6, at=200), reported("new", at=201)),
        reported("filled", 10, 99, attempt=1, at=202),
    ),
    (REJ, ExitRetried): (rejected, holds(6, at=200)),
    (UNP, ExitRetried): (unprotected_ended, ForceExit(at=after(200))),
    (PAR, LegCompleted): (part_partial, reported("filled", 5, 102)),
    (CAN, LegCompleted): (part_canceling, reported("filled", 5, 102)),
    (REJ, LegCompleted): (part_rejected, holds(5, at=200)),
    (PEN, LegWidened): (part_pending, seen(99, at=120)),
    (SUB, LegWidened): (part_submitted, seen(99, at=120)),
    (PAR, LegWidened): (part_partial, _ALL),
    (CAN, LegWidened): (part_canceling, seen(99, at=120)),
    (REJ, LegWidened): (part_rejected, _ALL),
    (PAR, ExitCompleted): (partial.when(reported("filled", 10, 99)), holds(0)),
    (CAN, ExitCompleted): (canceling.when(reported("filled", 10, 102)), holds(0)),
    (REJ, ExitCompleted): (rejected.when(reported("expired", 10, 99)), holds(0)),
    (UNP, ExitCompleted): (unprotected_live.when(reported("filled", 10, 99)), holds(0)),
    (MON, PositionClosedElsewhere): (monitoring, holds(0)),
    (REJ, PositionClosedElsewhere): (rejected, holds(0)),
    (PAR, PositionClosedElsewhere): (partial_with_residue, holds("0.5")),
    (CAN, PositionClosedElsewhere): (canceling_with_residue, holds("0.5")),
    (UNP, PositionClosedElsewhere): (unprotected, holds(0)),
    **{(state, ProtectionLost): (AT[state], _DOUBT) for state in (MON, PEN, SUB, PAR, CAN, REJ, CLO)},
    (FIL, ProtectionLost): (filled, reported("filled", 4, 99, corrected=True)),
    (UNP, PositionReleased): (unprotected_ended, Release(at=after(200), qty=opened().qty, entry_price=opened().qty)),
    **{(state, UnitChanged): (AT[state], rescaled) for state in (MON, REJ, UNP)},
    (PEN, ExitWithdrawn): (pending, lambda p: Withdraw(at=after(90), client_order_id=p.client_order_id, why="a split")),
    **{(state, AlarmRaised): (AT[state], _ALARM) for state in State},
    **{
        (state, AlarmAcknowledged): (
            AT[state].when(_ALARM),
            lambda p: Acknowledge(at=after(200), alarm_id=p.alarms[-1].alarm_id),
        )
        for state in State
    },
}

#: The table as it was published. Rows may be added here; none may ever be changed or taken away.
PUBLISHED = """
    (nothing) PositionOpened monitoring
    monitoring PositionResized monitoring
    monitoring PolicyChanged monitoring
    monitoring StopMoved monitoring
    monitoring TriggerRefused monitoring
    monitoring RefusalEnded monitoring
    monitoring ExitTriggered pending
    pending OrderAccepted submitted
    pending ExitPostponed pending
    submitted FillsRecorded partial
    partial FillsRecorded partial
    canceling FillsRecorded canceling
    rejected FillsRecorded rejected
    unprotected FillsRecorded unprotected
    filled FillsRecorded filled
    closed FillsRecorded closed
    submitted OrderRestated submitted
    partial OrderRestated partial
    canceling OrderRestated canceling
    unprotected OrderRestated unprotected
    submitted CancelRequested canceling
    partial CancelRequested canceling
    canceling CancelRefused submitted
    submitted ExitEscalated canceling
    partial ExitEscalated canceling
    pending OrderEnded rejected
    submitted OrderEnded rejected
    partial OrderEnded rejected
    canceling OrderEnded rejected
    unprotected OrderAccepted unprotected
    unprotected OrderEnded unprotected
    unprotected CancelRequested unprotected
    rejected ExitRetried pending
    unprotected ExitRetried pending
    partial LegCompleted monitoring
    canceling LegCompleted monitoring
    rejected LegCompleted monitoring
    pending LegWidened pending
    submitted LegWidened submitted
    partial LegWidened partial
    canceling LegWidened canceling
    rejected LegWidened rejected
    partial ExitCompleted filled
    canceling ExitCompleted filled
    rejected ExitCompleted filled
    unprotected ExitCompleted filled
    monitoring PositionClosedElsewhere closed
    partial PositionClosedElsewhere closed
    canceling PositionClosedElsewhere closed
    rejected PositionClosedElsewhere closed
    unprotected PositionClosedElsewhere closed
    monitoring ProtectionLost unprotected
    pending ProtectionLost unprotected
    submitted ProtectionLost unprotected
    partial ProtectionLost unprotected
    canceling ProtectionLost unprotected
    rejected ProtectionLost unprotected
    filled ProtectionLost unprotected
    closed ProtectionLost unprotected
    unprotected PositionReleased monitoring
    monitoring UnitChanged monitoring
    rejected UnitChanged rejected
    unprotected UnitChanged unprotected
    pending ExitWithdrawn monitoring
    monitoring AlarmRaised monitoring
    pending AlarmRaised pending
    submitted AlarmRaised submitted
    partial AlarmRaised partial
    canceling AlarmRaised canceling
    rejected AlarmRaised rejected
    filled AlarmRaised filled
    closed AlarmRaised closed
    unprotected AlarmRaised unprotected
    monitoring AlarmAcknowledged monitoring
    pending AlarmAcknowledged pending
    submitted AlarmAcknowledged submitted
    partial AlarmAcknowledged partial
    canceling AlarmAcknowledged canceling
    rejected AlarmAcknowledged rejected
    filled AlarmAcknowledged filled
    closed AlarmAcknowledged closed
    unprotected AlarmAcknowledged unprotected
"""

PAIRS = list(product([None, *State], POSITION_EVENTS))


def name(of: Row | tuple[State | None, type[Event]]) -> str:
    return f"{of[0] or NOTHING} {of[1].__name__}"


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE, ids=name)
def test_given_the_source_state_when_the_message_comes_then_its_row_is_walked(row: Row) -> None:
    before, message = WALKS[row.source, row.event]

    steps = before.when(message)

    state = before.position.state if before.position is not None else None
    walked = []
    for event in steps.news:
        walked.append((state, type(event), advance(state, type(event))))
        state = walked[-1][-1]
    assert (row.source, row.event, row.target) in walked
    steps.is_in(walked[-1][-1])


def test_every_row_and_only_rows_have_a_walk() -> None:
    assert set(WALKS) == set(ROWS)


def test_published_rows_are_all_still_there_with_the_same_target() -> None:
    rows = {tuple(line.split()) for line in PUBLISHED.strip().splitlines()}

    assert len(rows) == len(PUBLISHED.strip().splitlines())
    assert rows <= {(str(r.source or NOTHING), r.event.__name__, str(r.target)) for r in TABLE}


def test_each_state_and_event_have_one_row_at_most() -> None:
    assert len({(r.source, r.event) for r in TABLE}) == len(TABLE) == len(ROWS) == len(LOOKUP)


def test_every_event_is_in_the_table_and_every_state_can_be_reached() -> None:
    assert {r.event for r in TABLE} == set(POSITION_EVENTS)
    reached: set[State | None] = {None}
    while True:
        further = {r.target for r in TABLE if r.source in reached}
        if further <= reached:
            break
        reached |= further
    assert reached == {None, *State}
    assert {state for state, scenario in AT.items() if scenario.position and scenario.now.state is state} == set(State)


def test_every_state_has_a_meaning() -> None:
    assert set(MEANING) == set(State)
    assert all(len(text) > 20 for text in MEANING.values())


def test_only_filled_and_closed_are_terminal_and_neither_is_exiting() -> None:
    assert {s for s in State if s.terminal} == {FIL, CLO}
    assert {s for s in State if s.exiting} == {PEN, SUB, PAR, CAN, REJ}


# --- every state, every event -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_machine_lookup_and_allows_agree_everywhere(pair: tuple[State | None, type[Event]]) -> None:
    state, event = pair
    if (target := LOOKUP.get(pair)) is not None:
        assert allows(state, event)
        for ask in (move, advance, advance):  # an answer that is kept is the answer that is given
            assert ask(state, event) is target
        return
    assert not allows(state, event)
    for ask in (move, advance, advance):
        with pytest.raises(IllegalTransition) as refusal:
            ask(state, event)
        assert (refusal.value.state, refusal.value.event) == (str(state or NOTHING), event.__name__)
    assert {p: t for p in PAIRS if (t := _by_machine(*p)) is not None} == LOOKUP  # the machine has not moved


def _by_machine(state: State | None, event: type[Event]) -> State | None:
    try:
        return move(state, event)
    except IllegalTransition:
        return None


def test_the_machine_has_nothing_by_which_it_could_answer_otherwise_a_second_time() -> None:
    """That is why `advance` may keep its answers: a condition, a callback or an own state would make them stale."""
    transitions = [t for event in MACHINE.events.values() for ts in event.transitions.values() for t in ts]
    assert len(transitions) == len(TABLE)
    hooks: list[object] = [t.conditions or t.before or t.after or t.prepare for t in transitions]
    hooks += [s.on_enter or s.on_exit for s in MACHINE.states.values()]
    hooks += [MACHINE.before_state_change, MACHINE.after_state_change, MACHINE.prepare_event, MACHINE.finalize_event]
    hooks += [MACHINE.on_exception, MACHINE.on_final, MACHINE.models]
    assert not any(hooks)


def _samples() -> dict[type[Event], Event]:
    """One real event of each class, from the walks."""
    return {type(event): event for before, message in WALKS.values() for event in before.when(message).history}


@pytest.mark.parametrize("state", State)
def test_given_an_illegal_event_when_it_is_guarded_then_it_is_refused_and_when_it_was_stored_it_still_folds(
    state: State,
) -> None:
    samples = _samples()
    assert set(samples) == set(POSITION_EVENTS)
    position: Position = AT[state].now
    for event in samples.values():
        if allows(state, type(event)):
            continue
        before = repr(position)
        with pytest.raises(IllegalTransition) as refusal:
            guard(position, [event])
        assert (refusal.value.state, refusal.value.event) == (state, type(event).__name__)
        assert repr(position) == before
        # An old log must stay readable whatever it holds: folding never fails, and moves by rows only.
        assert evolve(position, event).state is state


def test_given_nothing_when_anything_but_an_opening_comes_then_it_cannot_be_folded() -> None:
    for event in _samples().values():
        if isinstance(event, PositionOpened):
            assert evolve(None, event).state is MON
            continue
        with pytest.raises(IllegalTransition) as refusal:
            evolve(None, event)
        assert (refusal.value.state, refusal.value.event) == (NOTHING, type(event).__name__)


def test_an_event_that_the_table_has_never_heard_of_is_illegal_everywhere() -> None:
    class Imagined(Event, frozen=True, tag="imagined.v1"):
        pass

    for state in (None, *State):
        assert not allows(state, Imagined)
        for ask in (advance, move):
            with pytest.raises(IllegalTransition) as refusal:
                ask(state, Imagined)
            assert (refusal.value.state, refusal.value.event) == (str(state or NOTHING), "Imagined")


def test_the_diagram_shows_every_row_that_leads_to_another_state_and_no_other() -> None:
    first, *lines = mermaid().splitlines()
    drawn = set()
    for line in lines:
        arrow, _, label = line.strip().partition(": ")
        source, target = arrow.split(" --> ")
        drawn |= {(source, target, event) for event in label.split(", ") if event}
    assert first == "stateDiagram-v2"
    assert drawn == {(str(r.source or "[*]"), str(r.target), r.event.__name__) for r in TABLE if r.source != r.target}
    assert {line.strip() for line in lines if line.endswith("--> [*]")} == {"filled --> [*]", "closed --> [*]"}


def test_given_a_move_then_the_machine_logs_nothing_and_machines_of_others_log_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "transitions.core"):
        assert move(None, PositionOpened) is MON
        logging.getLogger("transitions.core").info("%s moves", "theirs")
        logging.getLogger("transitions.core").info("no name at all")
    assert [record.getMessage() for record in caplog.records] == ["theirs moves", "no name at all"]


def test_given_no_event_at_all_then_there_is_no_position_to_replay() -> None:
    with pytest.raises(IllegalTransition) as refusal:
        replay([])
    assert (refusal.value.state, refusal.value.event) == (NOTHING, "(no event)")
