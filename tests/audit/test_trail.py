"""The log event by event: what each follows from, and how things stood at a time."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from stores import T0

from exitfsm import Engine, ExitStore, State, StoreError
from exitfsm.audit import account_at, find, open_at, position_at, steps, trail
from exitfsm.events import (
    AlarmRaised,
    BreakerClosed,
    BreakerOpened,
    ExitCompleted,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    StopMoved,
    TradingPaused,
    TradingResumed,
)
from exitfsm.position import replay


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


class TestAsOf:
    def test_at_every_moment_it_is_what_had_happened_until_then(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            for row in store.positions()[:20]:
                recorded = store.stream(row.position_id)
                for step in steps(recorded):
                    known = [r.event for r in recorded if r.at_ns <= step.recorded.at_ns]
                    assert position_at(store, row.position_id, step.at) == replay(known)
                assert position_at(store, row.position_id, row.opened_at_utc - minutes(1)) is None

    def test_what_was_open_was_what_an_engine_would_have_held(self, exits: Path) -> None:
        with ExitStore(exits) as store:
            last = max(step.at for row in store.positions() for step in trail(store, row.position_id))
            engine = Engine(store)
            engine.load()
            assert {p.position_id for p in open_at(store, last)} == set(engine.positions)
            assert open_at(store, T0 - minutes(1)) == []
            at = T0 + minutes(100)
            for p in open_at(store, at):
                assert not p.state.terminal
                assert p.opened_at <= at

    def test_a_position_that_is_not_there(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            assert position_at(store, "none", T0) is None
            with pytest.raises(StoreError, match="no position 'none'"):
                trail(store, "none")

    def test_the_account(self) -> None:
        told = [
            TradingPaused(by="ann", at=T0, why="lunch"),
            BreakerOpened(failures=5, at=T0 + minutes(1)),
            TradingResumed(by="bob", at=T0 + minutes(2)),
            BreakerClosed(at=T0 + minutes(3)),
        ]
        with ExitStore(":memory:") as store:
            for version, event in enumerate(told):
                store.append("account:x", version, [event], at=T0 + minutes(version), by="operator")
            assert account_at(store, "x", T0 - minutes(1)) == account_at(store, "y", T0)
            paused = account_at(store, "x", T0 + minutes(1))
            assert (paused.paused_since, paused.paused_by, paused.paused_why) == (T0, "ann", "lunch")
            assert paused.breaker_since == T0 + minutes(1)
            after = account_at(store, "x", T0 + minutes(9))
            assert (after.paused_since, after.breaker_since) == (None, None)


class TestCauses:
    def test_each_event_follows_from_the_one_that_the_log_links_it_to(self, exits: Path) -> None:
        wanted = {
            StopMoved: {"PositionOpened", "StopMoved"},
            ExitTriggered: {"PositionOpened", "StopMoved"},
            OrderAccepted: {"ExitTriggered", "ExitRetried"},
            FillsRecorded: {"ExitTriggered", "ExitRetried"},
            OrderEnded: {"ExitTriggered", "ExitRetried"},
            ExitRetried: {"OrderEnded"},
            ExitCompleted: {"FillsRecorded"},
        }
        seen = set()
        with ExitStore(exits, read_only=True) as store:
            for row in store.positions():
                told = trail(store, row.position_id)
                assert told[0].cause is None
                for step in told[1:]:
                    assert step.cause is not None
                    assert step.cause < step.version
                    kind = type(step.recorded.event)
                    assert type(told[step.cause - 1].recorded.event).__name__ in wanted[kind]
                    seen.add(kind)
        assert seen == set(wanted)

    def test_an_exit_by_the_trail_follows_from_the_stop_it_reached(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            for row in store.positions():
                told = trail(store, row.position_id)
                for step in told:
                    event = step.recorded.event
                    if isinstance(event, ExitTriggered) and event.reason == "trailing_stop":
                        moved = told[(step.cause or 0) - 1].recorded.event
                        assert isinstance(moved, StopMoved)
                        assert moved.stop == event.level

    def test_an_alarm_of_the_same_message_follows_from_what_came_before_it(self) -> None:
        with ExitStore(":memory:") as store:
            alarms = [AlarmRaised(alarm_id=name, kind="k", text="t", at=T0) for name in "ab"]
            store.append("account:x", 0, alarms, at=T0, by="bot")
            assert [s.cause for s in steps(store.stream("account:x"))] == [None, 1]
            assert [s.after for s in steps(store.stream("account:x"))] == [None, None]


class TestFind:
    def test_by_symbol_id_beginning_and_order(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            rows = store.positions()
            first = rows[0]
            assert find(store, first.position_id) == [first.position_id]
            assert find(store, first.symbol.lower()) == [r.position_id for r in rows if r.symbol == first.symbol]
            assert find(store, first.position_id[:-3].lower()) == [first.position_id]
            order = store.exit_orders()[0]
            assert find(store, order.client_order_id) == [order.position_id]

    @pytest.mark.parametrize(("wanted", "said"), [("none", "it has S0, S1, S2"), ("S", "is the start of")])
    def test_what_is_not_there_or_not_clear(self, exits: Path, wanted: str, said: str) -> None:
        with ExitStore(exits, read_only=True) as store, pytest.raises(StoreError, match=said):
            find(store, wanted)

    def test_the_nearest_are_named(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            known = store.positions(symbol="S1")[0].position_id
            with pytest.raises(StoreError, match="the nearest") as told:
                find(store, known[:-1] + "_")
            assert known in str(told.value)
            with pytest.raises(StoreError, match=r"it has S0, S1, S2"):
                find(store, "TSLA")

    def test_in_an_empty_store(self) -> None:
        with ExitStore(":memory:") as store, pytest.raises(StoreError, match="it has none"):
            find(store, "AAPL")


def test_a_step_says_whether_the_state_changed(exits: Path) -> None:
    with ExitStore(exits, read_only=True) as store:
        told = trail(store, store.positions()[0].position_id)
    for step in told:
        assert step.after is not None
        before = step.before.state if step.before is not None else None
        assert step.moved is (before is not step.after.state)
    assert told[-1].after is not None
    assert told[-1].after.state is State.FILLED
    assert told[-1].after.remaining_qty == Decimal(0)
