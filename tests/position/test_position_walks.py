"""Invariants of a position, whatever comes, in whatever order; and the same bytes in every process."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal, localcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from positions import BROKERS, LIMIT

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    Event,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionEvent,
    PositionResized,
    ProtectionLost,
    StopMoved,
)
from exitfsm.lifecycle import State, advance
from exitfsm.messages import (
    Acknowledge,
    ChangePolicy,
    Contradiction,
    ForceExit,
    Message,
    PositionRead,
    RaiseAlarm,
    Recover,
    Release,
    Report,
)
from exitfsm.ports import AssetRules, Capabilities
from exitfsm.position import (
    READS_MIN,
    Cancel,
    Position,
    ReadPosition,
    Submit,
    client_order_id,
    decide,
    evolve,
    fold,
    owed,
    replay,
)
from exitfsm.testing.given import (
    bar,
    given,
    holds,
    like,
    opened,
    policy,
    refused,
    reported,
    seen,
    timer,
    to_open,
)
from exitfsm.values import ExitType, OrderStatus, Side

# --- whatever comes, in whatever order --------------------------------------------------------------------------------

QTYS = (None, "0", "1", "3", "4", "6", "10", "11", "0.5", "-1", "NaN", "Infinity")
PRICES = (None, "97", "99", "100", "101", "102", "105", "50", "0", "-5", "NaN", "Infinity", "99.123456789")
BAR_PRICES = tuple(p for p in PRICES if p is not None)
POLICIES = (
    policy(),
    LIMIT,
    policy(trailing_stop={"trail_pct": 1}, break_even={}, evaluate_on="range"),
    policy(atr_levels={}, time_limit={"max_seconds": 900}, profit_taking={"order_type": "limit"}),
    policy(
        target_ladder={"steps": [{"after_seconds": 60, "threshold_pct": "0.5"}]},
        partial_fills={"max_resubmit_attempts": 1},
    ),
    policy(enabled=False),
)
SECONDS = (0, 1, 30, 61, 600)
#: What a position can be told, as plain data: a kind, and for each of its parts what to choose from.
TOLD: dict[str, tuple[tuple[Any, ...], ...]] = {
    "bar": (BAR_PRICES, BAR_PRICES, (None, "99", "100"), (True, False, False), (None, None, "sell"), (0, 1, 9)),
    "report": (tuple(OrderStatus), QTYS, PRICES, (0, 0, 0, -1, 1, 7), (True, False, False, False), (None, "a", "b")),
    "refused": (("a", "b"),),
    "read": (tuple(q for q in QTYS if q), (1, READS_MIN), PRICES),
    "time": ((None, 60.0), (None, None, "100", "NaN", "0")),
    "recover": ((0, 1, 2, 9), QTYS, tuple(OrderStatus), QTYS),
    "force": (PRICES, QTYS),
    "policy": (POLICIES,),
    "release": (tuple(q for q in QTYS if q), BAR_PRICES),
    "acknowledge": ((0, -1),),
    "alarm": (("x", "price_jump"),),
    "doubt": (("why",),),
    "open": ((None,),),
}
Command = tuple[Any, ...]
COMMANDS = st.lists(
    st.one_of(
        *(
            st.tuples(st.just(kind), st.sampled_from(SECONDS), *map(st.sampled_from, parts))
            for kind, parts in [*TOLD.items(), *[(k, TOLD[k]) for k in ("bar", "report", "report", "read")]]
        )
    ),
    max_size=30,
)
STARTS = st.tuples(st.sampled_from(Side), st.sampled_from(POLICIES), st.sampled_from(BROKERS))


def dec(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def message_of(p: Position, command: Command, at: Any) -> Message:
    """The message that a command means for this position."""
    match command:
        case "bar", _, close, other, reference, paused, verdict, count:
            prices = sorted((close, other), key=lambda text: float(Decimal(text)) if text != "NaN" else 0.0)
            the_bar = msgspec.structs.replace(seen(bar(close, low=prices[0], high=prices[1])), at=at)
            context = {"reference_price": dec(reference), "paused": paused, "verdict": verdict, "refused_count": count}
            moved = type(the_bar.bar)("AAPL", at, close, prices[1], prices[0], close)
            return msgspec.structs.replace(the_bar, bar=moved, **context)
        case "report", _, status, qty, price, which, corrected, refusal:
            attempt = max(p.attempt + which, 0)
            message = reported(status, qty, price, attempt=attempt, corrected=corrected, refusal=refusal)(p)
        case "refused", _, kind:
            message = refused(kind)(p)
        case "read", _, qty, reads, entry:
            return msgspec.structs.replace(holds(qty, reads=reads, entry=entry)(p), at=at, began=at)
        case "time", _, patience, price:
            return msgspec.structs.replace(timer(0, patience), at=at, price=dec(price))
        case "recover", _, attempt, qty, status, done:
            found = reported(status, done, qty=dec(qty), attempt=attempt)(p).report
            return Recover(at=at, attempt=attempt, report=found)
        case "force", _, price, qty:
            return ForceExit(at=at, price=dec(price), qty=dec(qty))
        case "policy", _, new:
            return ChangePolicy(at=at, policy=new)
        case "release", _, qty, entry:
            return Release(at=at, qty=Decimal(qty), entry_price=Decimal(entry))
        case "acknowledge", _, index:
            return Acknowledge(at=at, alarm_id=p.alarms[index].alarm_id if p.alarms else "none")
        case "alarm", _, kind:
            return RaiseAlarm(at=at, kind=kind, text=kind)
        case "doubt", _, why:
            return Contradiction(at=at, why=why)
        case _:
            return to_open(opened())
    return msgspec.structs.replace(message, at=at, report=msgspec.structs.replace(message.report, at=at))


def walk(
    side: Side, rules: Any, broker: Capabilities, commands: Iterable[Command]
) -> list[tuple[Message, tuple[Event, ...], Position]]:
    """Tell a position all this; each step as (message, its events, the position after it)."""
    p = evolve(None, opened(side, policy=rules, atr="0.7"))
    steps, at = [], p.opened_at
    for command in commands:
        at += timedelta(seconds=command[1])
        message = message_of(p, command, at)
        events = decide(p, message, broker)
        p = fold(p, events)
        assert p is not None
        steps.append((message, events, p))
    return steps


def events_of(steps: list[tuple[Message, tuple[Event, ...], Position]]) -> list[Event]:
    return [event for _, events, _ in steps for event in events]


@for_all(STARTS, COMMANDS)
def test_whatever_comes_every_event_is_legal_and_the_log_tells_it_all(start: Any, commands: list[Command]) -> None:
    side, rules, broker = start
    first = opened(side, policy=rules, atr="0.7")
    before, log = evolve(None, first), [first]
    for message, events, p in walk(side, rules, broker, commands):
        assert decide(before, message, broker) == events  # deciding changes nothing, and is the same every time
        state: State = before.state
        for event in events:
            state = advance(state, type(event))
        assert p.state is state
        log += events
        assert p.version == len(log)
        assert replay(log) == p
        if isinstance(message, (Report, PositionRead)):
            assert decide(p, message, broker) == ()  # saying it twice is saying it once
        before = p
    stored = [msgspec.json.decode(msgspec.json.encode(e), type=PositionEvent) for e in log]
    assert stored == log
    assert replay(stored) == before


@for_all(STARTS, COMMANDS)
def test_whatever_comes_folding_all_at_once_is_folding_one_by_one_and_touches_nothing_that_was_handed_out(
    start: Any, commands: list[Command]
) -> None:
    log = [opened(start[0], policy=start[1], atr="0.7"), *events_of(walk(*start, commands))]
    alone: list[Position] = []
    for event in log:
        alone.append(evolve(alone[-1] if alone else None, event))
    as_they_were = [msgspec.json.encode(p) for p in alone]
    for n in range(len(log) + 1):
        begun = fold(None, log[:n])
        assert begun == (alone[n - 1] if n else None)
        assert fold(begun, log[n:]) == alone[-1]
        assert begun == (alone[n - 1] if n else None)
    assert [msgspec.json.encode(p) for p in alone] == as_they_were


#: Where an exit order may be working at the broker.
MAY_BE_LIVE = {State.PENDING, State.SUBMITTED, State.PARTIAL, State.CANCELING, State.UNPROTECTED}


@for_all(STARTS, COMMANDS)
def test_whatever_comes_no_more_is_sold_or_on_offer_than_is_held(start: Any, commands: list[Command]) -> None:
    for _, _, p in walk(*start, commands):
        on_offer = p.leaves_qty if p.order_live else Decimal(0)
        if p.state is not State.UNPROTECTED:
            assert p.sold_qty + on_offer + p.sold_elsewhere <= p.qty
        if p.state is State.MONITORING:
            assert p.remaining_qty > 0
            assert not p.order_live
        if p.state is State.FILLED:
            assert p.sold_qty + p.sold_elsewhere == p.qty
        assert p.order_live <= (p.state in MAY_BE_LIVE)


@for_all(STARTS, COMMANDS)
def test_whatever_comes_an_attempt_follows_only_when_the_one_before_is_over(
    start: Any, commands: list[Command]
) -> None:
    attempt, over, name = 0, True, evolve(None, opened(start[0])).position_id
    for message, events, p in walk(*start, commands):
        for event in events:
            if isinstance(event, (ExitTriggered, ExitRetried)):
                assert over
                # An order found at the broker after the store was lost may be of any later attempt.
                assert event.attempt > attempt if isinstance(message, Recover) else event.attempt == attempt + 1
                assert event.client_order_id == client_order_id(name, event.attempt, "xf1")
                assert event.qty > 0
                attempt, over, qty = event.attempt, False, event.qty
            elif isinstance(event, OrderAccepted) and event.client_order_id == client_order_id(name, attempt, "xf1"):
                over = False  # refused, and taken after all
            elif isinstance(event, OrderEnded) or (
                isinstance(event, FillsRecorded)
                and event.client_order_id == client_order_id(name, attempt, "xf1")
                and event.filled_qty >= qty
            ):
                over = True
            if isinstance(event, ExitRetried) and not isinstance(message, ForceExit):
                assert isinstance(message, PositionRead)  # never without a fresh read
                assert event.qty <= message.qty
            if isinstance(event, ExitRetried):
                limit = p.policy.partial_fills.max_resubmit_attempts
                assert event.budget_spent <= limit or event.by
        assert over == (not p.order_live)


@for_all(STARTS, COMMANDS)
def test_whatever_comes_the_figures_are_decimals_that_exist(start: Any, commands: list[Command]) -> None:
    steps = walk(*start, commands)
    for struct in [*events_of(steps), *(one for _, _, p in steps for one in (p, p.stops, p.exit, *p.orders))]:
        for field in struct.__struct_fields__:
            value = getattr(struct, field)
            assert not isinstance(value, float), field
            if isinstance(value, Decimal):
                assert value.is_finite(), field
                assert value >= 0 or field in ("stop", "limit_price", "level", "remaining_qty"), field


@for_all(STARTS, COMMANDS)
def test_whatever_comes_a_stop_only_ever_tightens(start: Any, commands: list[Command]) -> None:
    sign = start[0].sign
    stops: dict[ExitType, Decimal] = {}
    for event in events_of(walk(*start, commands)):
        if isinstance(event, PositionResized):
            stops.clear()  # another entry price: the stops of the old one are gone
        if isinstance(event, StopMoved):
            if event.rule in stops:
                assert event.stop * sign > stops[event.rule] * sign
            stops[event.rule] = event.stop


@for_all(STARTS, COMMANDS)
def test_whatever_comes_open_quantity_has_a_way_out_or_an_alarm(start: Any, commands: list[Command]) -> None:
    alarmed = False
    for _, events, p in walk(*start, commands):
        for event in events:
            if isinstance(event, ProtectionLost):
                alarmed = False
            alarmed = alarmed or (isinstance(event, AlarmRaised) and event.kind == "protection_lost")
        action = owed(p, p.opened_at + timedelta(days=1))
        match p.state:
            case State.UNPROTECTED:
                assert alarmed
            case State.PENDING:
                assert isinstance(action, Submit)
                assert action.order.qty == p.leaves_qty > 0
            case State.CANCELING:
                assert isinstance(action, Cancel if p.order_live else ReadPosition)
            case State.REJECTED:
                assert isinstance(action, ReadPosition)
            case State.SUBMITTED | State.PARTIAL:
                assert p.order_live or isinstance(action, ReadPosition)
            case _:
                assert action is None
        ids = [a.alarm_id for a in p.alarms]
        assert len(set(ids)) == len(ids)


@for_all(STARTS, COMMANDS)
def test_whatever_comes_a_terminal_position_is_disturbed_only_by_a_contradiction(
    start: Any, commands: list[Command]
) -> None:
    steps = walk(*start, commands)
    for (_, _, before), (_, events, _) in pairwise(steps):
        if before.state.terminal and events:
            assert {type(e) for e in events} <= {AlarmRaised, AlarmAcknowledged} or type(events[0]) is ProtectionLost


@for_all(STARTS, COMMANDS, st.integers(6, 50))
def test_whatever_comes_the_decimal_context_of_the_bot_changes_nothing(
    start: Any, commands: list[Command], digits: int
) -> None:
    qty, entry = Decimal("123456.123456789"), Decimal("98765.987654321")
    told = [holds(qty), seen(bar(entry)), seen(bar(entry * 2)), reported("partially_filled", "23456.111111111", entry)]
    told += [reported("canceled", "23456.222222222"), holds("50000.987654321", at=300)]  # others sold of it, too

    def run() -> bytes:
        s = given(opened(start[0], qty=qty, entry=entry, policy=start[1])).at(start[2]).when(*told)
        return msgspec.json.encode([s.history, events_of(walk(*start, commands)), s.now.remaining_qty])

    expected = run()
    with localcontext() as context:
        context.prec = digits
        assert run() == expected


@pytest.mark.parametrize("digits", [6, 9, 28])
def test_given_a_bot_that_rounds_when_orders_are_sized_then_they_are_rounded_down_all_the_same(digits: int) -> None:
    whole = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal(1)))
    qty, sold = Decimal("123456.923456789"), Decimal("23456.511111111")
    with localcontext() as context:
        context.prec = digits
        s = given(opened(qty=qty)).at(whole).when(seen(99)).then(like(ExitTriggered, qty=Decimal(123456)))
        s = s.when(reported("expired", sold, 99)).has(remaining_qty=Decimal("100000.412345678"))
        s = s.when(holds("99999.912345678", at=200))
        s.then(like(ExitRetried, qty=Decimal(99999), sold_elsewhere=Decimal("0.5")))
        s.has(remaining_qty=Decimal("99999.912345678"), leaves_qty=Decimal(99999))


@pytest.mark.parametrize("digits", [3, 6, 28])
def test_given_a_bot_that_rounds_then_the_average_exit_price_is_what_it_is(digits: int) -> None:
    price = Decimal("98765.987654321")
    s = given(opened(qty=10, entry=100_000)).when(seen(price), reported("new"), reported("expired", 3, price))
    s = s.when(holds(7, at=200), reported("filled", 7, price, attempt=2, at=201))
    with localcontext() as context:
        context.prec = digits
        average = s.now.avg_exit_price
    assert average == price


# --- determinism ------------------------------------------------------------------------------------------------------


def digest_of_many_walks() -> str:
    """Fingerprint of all events of a few hundred walks: the same on every machine and in every process."""
    rng = random.Random(20240102)
    digest = hashlib.sha256()
    for _ in range(200):
        start = rng.choice(list(Side)), rng.choice(POLICIES), rng.choice(BROKERS)
        kinds = rng.choices(list(TOLD), k=40, weights=[8, 10, 2, 6, *[1] * (len(TOLD) - 4)])
        commands = [(kind, rng.choice(SECONDS), *map(rng.choice, TOLD[kind])) for kind in kinds]
        for event in events_of(walk(*start, commands)):
            digest.update(msgspec.json.encode(event))
    return digest.hexdigest()


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_the_same_messages_give_the_same_bytes_in_every_process(hash_seed: str) -> None:
    code = "import test_position_walks; print(test_position_walks.digest_of_many_walks())"
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": "Asia/Tokyo", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest_of_many_walks()
