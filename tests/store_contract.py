"""What every store does, on whatever engine: nothing that was acknowledged is lost, and nothing is ever half there.

Each test runs on memory, on a file and on PostgreSQL. What only a file can do is in `test_store.py`, what only
PostgreSQL can in `test_postgres.py`.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_engines import HERE, T0, D, Engine, check, life, made, mark, opened, put, stop_moved, triggered

from exitfsm import events as events_module
from exitfsm.errors import StoreError, StoreLocked, VersionConflict
from exitfsm.events import (
    ACCOUNT_EVENTS,
    POSITION_EVENTS,
    AlarmAcknowledged,
    AlarmRaised,
    Event,
    FillsRecorded,
    OrderAccepted,
    PolicyChanged,
    TradingResumed,
)
from exitfsm.policy import ExitPolicy
from exitfsm.store import Append, ExitStore, checking
from exitfsm.store import appending as appending_module
from exitfsm.values import Side

NAIVE_FIRST, NAIVE_LAST = datetime(1970, 1, 1), datetime(2100, 1, 1)  # noqa: DTZ001  hypothesis adds the zone
_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")


POSTGRES = pytest.param("postgresql", marks=pytest.mark.postgres)


@pytest.fixture(params=["memory", "file", POSTGRES])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each engine."""
    engine = made(request.param, tmp_path, request)
    yield engine
    engine.close()


@pytest.fixture(params=["file", POSTGRES])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each engine whose store can be opened again."""
    engine = made(request.param, tmp_path, request)
    yield engine
    engine.close()


@pytest.fixture
def store(engine: Engine) -> ExitStore:
    return engine.open()


# ---- events go in and come out


def _values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may have."""
    if hint is Decimal:
        return st.decimals(-(10**12), 10**12, allow_nan=False, places=9)
    if hint is datetime:
        zones = st.sampled_from([UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))])
        return st.datetimes(NAIVE_FIRST, NAIVE_LAST, timezones=zones)
    if hint is str:
        return st.text(_CHARACTERS, max_size=20)
    if hint is ExitPolicy:
        return st.builds(ExitPolicy, enabled=st.booleans(), exit_cooldown_seconds=st.integers(0, 10**9))
    if typing.get_origin(hint) is tuple:
        return st.lists(_values(typing.get_args(hint)[0]), max_size=3).map(tuple)
    if typing.get_args(hint):
        return st.one_of([st.none() if arm is type(None) else _values(arm) for arm in typing.get_args(hint)])
    return st.from_type(hint)


@st.composite
def any_event(draw: st.DrawFn) -> Event:
    cls = draw(st.sampled_from((*POSITION_EVENTS, *ACCOUNT_EVENTS)))
    hints = typing.get_type_hints(cls)
    return cls(**{name: draw(_values(hints[name])) for name in cls.__struct_fields__})


def test_every_event_reads_back_as_itself(store):
    @given(first=any_event(), second=any_event(), ns=st.integers(0, 2**62), by=st.text(_CHARACTERS))
    def reads_back(first, second, ns, by):
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)
        before = store.count()
        stream = f"account:{before}"
        recorded = store.append(stream, 0, [first, second], at=at, by=by)
        assert store.stream(stream) == recorded == list(store.events(before))
        assert [r.event for r in recorded] == [first, second]
        assert [(r.stream_id, r.version, r.sequence, r.by) for r in recorded] == [
            (stream, 1, before + 1, by),
            (stream, 2, before + 2, by),
        ]
        assert all(r.at_ns == ns // 1000 * 1000 for r in recorded)

    reads_back()
    check(store)


def test_the_hour_that_comes_twice_when_the_clocks_go_back_is_two_hours(store):
    new_york = ZoneInfo("America/New_York")
    first, second = (datetime(2024, 11, 3, 1, 30, tzinfo=new_york, fold=fold) for fold in (0, 1))
    assert first == second  # Python's own view of two times of one zone

    before = store.append("p1", 0, [opened()], at=first, by="bot")
    after = store.append("p2", 0, [opened("MSFT")], at=second, by="bot")

    assert after[0].at_ns - before[0].at_ns == 3600 * 10**9


def test_streams_are_read_from_any_version(store):
    put(store, "p1", *life())
    assert [r.version for r in store.stream("p1")] == [1, 2, 3, 4, 5]
    assert [r.version for r in store.stream("p1", after=3)] == [4, 5]
    assert store.stream("nobody") == []


def test_all_events_are_read_in_commit_order(store, monkeypatch):
    monkeypatch.setattr("exitfsm.store.exit_store._PAGE", 3)
    for n in range(5):
        put(store, "p1", opened() if n == 0 else stop_moved(n), after=n)
        put(store, "p2", opened("MSFT") if n == 0 else stop_moved(n), after=n)
    every = list(store.events())
    assert [r.sequence for r in every] == list(range(1, 11))
    assert [r.stream_id for r in every] == ["p1", "p2"] * 5
    assert list(store.events(after=4)) == every[4:]
    assert list(store.events(after=4, limit=5)) == every[4:9]
    assert list(store.events(limit=3)) == every[:3]
    assert list(store.events(limit=0)) == []
    assert store.stream_ids() == ["p1", "p2"]
    assert store.count() == 10


def test_many_streams_are_read_in_a_few_reads(store, monkeypatch):
    monkeypatch.setattr("exitfsm.store.exit_store._STREAMS", 2)
    wanted = [*(f"p{n}" for n in range(5)), "nobody"]
    for n in reversed(range(5)):
        put(store, f"p{n}", opened(f"S{n}"))
    for n in range(5):
        put(store, f"p{n}", *(stop_moved(m) for m in range(1, n + 1)), after=1)
    read = list(store.histories(wanted))
    assert [stream_id for stream_id, _ in read] == wanted, "in the order that was asked for"
    assert dict(read) == {stream: [r.event for r in store.stream(stream)] for stream in wanted}
    assert [len(events) for _, events in read] == [1, 2, 3, 4, 5, 0]


def test_a_policy_that_is_read_again_is_held_once(kept):
    other = msgspec.structs.replace(ExitPolicy(), exit_cooldown_seconds=7)
    with kept.open() as store:
        for n in range(3):
            put(store, f"p{n}", opened(f"S{n}"), PolicyChanged(policy=other, at=T0))
    with kept.open() as store:
        read = [events for _, events in store.histories(store.stream_ids())]
    assert read == [[opened(f"S{n}"), PolicyChanged(policy=other, at=T0)] for n in range(3)]
    assert len({id(event.policy) for events in read for event in events}) == 2


def test_the_librarys_own_notification_log_agrees(store):
    put(store, "p1", *life())
    put(store, "p2", *life("c2", "MSFT"))
    recorder, mapper = store._open_db().recorder, store._mapper
    log = recorder.select_notifications(start=1, limit=100)
    rows = [(n.id, str(n.originator_id), n.originator_version, n.topic, n.state) for n in log]
    assert [mapper.recorded(*row) for row in rows] == list(store.events())
    assert [mapper.to_domain_event(e).event for e in recorder.select_events("p2")] == life("c2", "MSFT")
    assert mapper.to_stored_event(next(store.events())).state == log[0].state
    assert recorder.max_notification_id() == 10


def test_what_could_not_be_read_back_is_not_stored(store):
    class Stranger(Event, frozen=True, tag="stranger.v1"):
        pass

    bad: list[Any] = [
        Stranger(),
        msgspec.structs.replace(opened(), symbol="A\0"),
        msgspec.structs.replace(opened(), qty=None),
        msgspec.structs.replace(opened(), qty=1.1),
        msgspec.structs.replace(opened(), symbol="\ud800"),
        msgspec.structs.replace(opened(), policy=object()),
    ]
    for event in bad:
        with pytest.raises(StoreError, match="stored"):
            put(store, "p1", opened(), event)
    assert store.count() == 0
    with pytest.raises(StoreError, match="holds a NUL character, which databases refuse"):
        put(store, "p\0", opened())
    with pytest.raises(StoreError, match="holds a NUL character, which databases refuse"):
        store.append("p1", 0, [opened()], at=T0, by="bot\0")
    put(store, "p1", msgspec.structs.replace(opened(), symbol="\\u0000"))  # a backslash, and no NUL
    assert store.stream("p1")[0].event.symbol == "\\u0000"
    with pytest.raises(ValueError, match="time zone"):
        store.append("p1", 0, [opened()], at=NAIVE_FIRST, by="bar")
    with pytest.raises(ValueError, match="expected_version"):
        put(store, "p1", opened(), after=-1)


def test_an_event_of_an_older_version_is_upcast(kept, monkeypatch):
    with kept.open() as store:
        put(store, "p1", opened())
    kept.tamper(
        "UPDATE stored_events SET topic = 'position_opened.v0', "
        "state = {b0}REPLACE(REPLACE({t0}state{t1}, 'position_opened.v1', 'position_opened.v0'), "
        "'\"qty\"', '\"quantity\"'){b1}"
    )
    with kept.open() as again:
        with pytest.raises(StoreError, match="newer version of exitfsm: upgrade"):
            again.stream("p1")
        monkeypatch.setitem(
            events_module.UPCASTS,
            "position_opened.v0",
            lambda fields: {**{k: v for k, v in fields.items() if k != "quantity"}, "qty": fields["quantity"]},
        )
        assert again.stream("p1")[0].event == opened()


def test_an_event_of_a_newer_version_says_upgrade(engine, store):
    put(store, "p1", opened())
    engine.tamper("UPDATE stored_events SET topic = 'position_teleported.v1'")
    with pytest.raises(StoreError, match=r"position_teleported\.v1.*upgrade exitfsm"):
        list(store.events())


def test_a_damaged_event_is_named(engine, store):
    put(store, "p1", opened(), triggered())
    engine.tamper("UPDATE stored_events SET state = '{{\"at\":1}}' WHERE {place} = 2")
    with pytest.raises(StoreError, match=r"event 2 \(exit_triggered\.v1 of 'p1'\)"):
        store.stream("p1")


# ---- one writer's knowledge


def test_a_writer_that_missed_an_event_is_refused(store):
    put(store, "p1", opened())
    put(store, "account:x", AlarmRaised(alarm_id="a1", kind="k", text="t", at=T0))
    for stream_id, event in [("p1", stop_moved(1)), ("account:x", AlarmAcknowledged(alarm_id="a1", by="me", at=T0))]:
        for right, wrong in enumerate([0, 3, 0, 7], 1):
            with pytest.raises(VersionConflict) as caught:
                put(store, stream_id, event, after=wrong)
            assert (caught.value.stream_id, caught.value.expected) == (stream_id, wrong)
            put(store, stream_id, event, after=right)
    assert store.count() == 10
    check(store)


def test_appending_nothing_is_nothing(store):
    assert store.append("p1", 0, [], at=T0, by="bar") == []
    assert store.append_many([]) == []
    assert store.count() == 0


def test_one_bad_append_of_a_group_fails_alone(store):
    put(store, "p1", *life()[:2])
    results = store.append_many(
        [
            Append("p2", 0, [opened("MSFT")], T0, "bot"),
            Append("p1", 9, [stop_moved(1)], T0, "bar"),
            Append("p3", 0, [opened("X"), triggered("c1")], T0, "bar"),
            Append("p4", 0, [msgspec.structs.replace(opened("Y"), qty=None)], T0, "bar"),
            Append("p2", 1, [triggered("c2")], T0, "bar"),
            Append("p5", 0, [], T0, "bar"),
        ]
    )
    assert [[r.version for r in result] if isinstance(result, list) else type(result) for result in results] == [
        [1], VersionConflict, StoreError, StoreError, [2], [],
    ]  # fmt: skip
    assert "client_order_id" in str(results[2]), "the order id is used already"
    assert store.stream_ids() == ["p1", "p2"]
    assert [o.id for o in store.exit_orders()] == [1, 2]
    check(store)


def test_a_group_is_one_commit(engine, store):
    commits = []
    with engine.commits(store, lambda commit: (commits.append(1), commit())):
        store.append_many([Append(f"p{n}", 0, [opened(f"S{n}")], T0, "bot") for n in range(100)])
    assert len(commits) == 1
    assert len(store.open_positions()) == 100


def test_an_append_is_all_or_nothing(store, monkeypatch):
    put(store, "p1", opened())
    before = store.chain_head()
    with pytest.raises(StoreError, match="contradicts what is stored"):
        put(store, "p2", opened("MSFT"), triggered("c9"), msgspec.structs.replace(triggered("c9"), attempt=2))
    real = appending_module.ReadModels.apply

    def fails_on_fills(self, recorded):
        if isinstance(recorded.event, FillsRecorded):
            raise ZeroDivisionError("a bug")
        real(self, recorded)

    monkeypatch.setattr(appending_module.ReadModels, "apply", fails_on_fills)
    with pytest.raises(StoreError, match="a bug"):
        put(store, "p1", *life()[1:], after=1)
    results = store.append_many(
        [Append("p1", 1, life()[1:], T0, "bar"), Append("p3", 0, [opened("X"), triggered("c3")], T0, "bar")]
    )
    assert isinstance(results[0], StoreError)
    assert isinstance(results[1], list), "the other exit is not kept back"
    monkeypatch.undo()
    assert store.chain_head() != before
    assert [r.version for r in store.stream("p1")] == [1]
    assert [o.client_order_id for o in store.exit_orders()] == ["c3"]
    put(store, "p1", *life()[1:], after=1)
    check(store)


def test_a_commit_that_fails_stores_nothing_and_leaves_the_store_usable(engine, store):
    put(store, "p1", opened())
    error = engine.driver_error()

    def fails(_):
        raise error

    with engine.commits(store, fails):
        for _ in range(2):
            with pytest.raises(StoreError, match=str(error)) as caught:
                put(store, "p1", triggered(), after=1)
            assert caught.value.__cause__ is error
        with pytest.raises(StoreError, match=str(error)):
            store.append_many([Append("p2", 0, [opened("A")], T0, "b"), Append("p3", 0, [opened("B")], T0, "b")])
    assert store.count() == 1
    put(store, "p1", triggered(), after=1)
    check(store)


def test_a_commit_that_landed_though_it_raised_is_found_by_reading(engine, store):
    def lands_and_fails(commit):
        commit()
        raise engine.driver_error()

    with engine.commits(store, lands_and_fails), pytest.raises(StoreError, match=str(engine.driver_error())):
        put(store, "p1", opened())
    assert [r.event for r in store.stream("p1")] == [opened()]
    put(store, "p1", triggered(), after=1)
    check(store)


# ---- what is read


def test_the_read_models(store):
    put(store, "p1", *life()[:3])
    put(store, "p2", *life("c2", "MSFT"))
    order = store.exit_order("c1")
    assert (order.id, order.symbol, order.status, order.qty, order.created_at_utc) == (
        1,
        "AAPL",
        "submitted",
        D(10),
        T0,
    )
    assert store.exit_order("nobody") is None
    assert [o.id for o in store.exit_orders()] == [1, 2]
    assert [o.id for o in store.exit_orders(symbol="MSFT")] == [2]
    assert [o.id for o in store.exit_orders(status="submitted")] == [1]
    assert store.exit_orders(symbol="MSFT", status="submitted") == []
    assert store.tracking("AAPL").status == "exit_pending"
    assert store.tracking("nobody") is None
    assert [t.status for t in store.trackings()] == ["exit_pending", "exited"]
    assert [p.position_id for p in store.positions()] == ["p1", "p2"]
    assert [p.position_id for p in store.positions(symbol="MSFT")] == ["p2"]
    assert [p.position_id for p in store.positions(state="filled")] == ["p2"]
    assert [(p.position_id, p.state, p.version) for p in store.open_positions()] == [("p1", "submitted", 3)]


def test_the_cooldown_is_the_latest_of_the_symbol(store):
    assert store.cooldown_until("AAPL") is None
    for n, micros in enumerate([0, 500_000, 0]):
        last = msgspec.structs.replace(life()[4], cooldown_until=T0 + timedelta(seconds=300 + n, microseconds=micros))
        put(store, f"p{n}", opened(), triggered(f"c{n}"), last)
    assert store.cooldown_until("AAPL") == T0 + timedelta(seconds=302)
    put(store, "p9", opened(), triggered("c9"),
        msgspec.structs.replace(life()[4], cooldown_until=T0 + timedelta(seconds=302, microseconds=1)))  # fmt: skip
    assert store.cooldown_until("AAPL") == T0 + timedelta(seconds=302, microseconds=1)
    assert store.cooldowns(T0) == {"AAPL": T0 + timedelta(seconds=302, microseconds=1)}
    assert store.cooldowns(T0 + timedelta(seconds=302)) == {"AAPL": T0 + timedelta(seconds=302, microseconds=1)}
    assert store.cooldowns(T0 + timedelta(seconds=302, microseconds=1)) == {}


def test_the_newest_position_is_of_the_symbol_and_side_also_within_a_second(store):
    assert store.newest_position("AAPL", Side.LONG) is None
    for n, micros in enumerate([999_999, 0, 250_000]):
        at = T0 + timedelta(seconds=min(n, 1), microseconds=micros)
        put(store, f"p{n}", msgspec.structs.replace(opened(), opened_at=at))
    put(store, "p8", msgspec.structs.replace(opened("TSLA"), opened_at=T0 + timedelta(hours=1)))
    newest = store.newest_position("AAPL", Side.LONG)
    assert newest is not None
    assert newest.position_id == "p2"
    assert store.newest_position("AAPL", Side.SHORT) is None


def test_the_newest_orders_are_known_by_the_brokers_own_ids(store):
    assert store.newest_broker_ids(9) == {}
    for n in range(3):
        put(
            store,
            f"p{n}",
            opened(),
            triggered(f"x{n}"),
            OrderAccepted(client_order_id=f"x{n}", broker_order_id=f"b{n}", at=T0),
        )
    put(store, "p9", opened(), triggered("x9"))
    assert store.newest_broker_ids(2) == {"b1": "x1", "b2": "x2"}


def test_alarms_stand_until_acknowledged(store):
    put(store, "p1", opened(), AlarmRaised(alarm_id="a1", kind="k", text="t", at=T0))
    put(store, "account:x", AlarmRaised(alarm_id="a2", kind="k", text="t", at=T0 + timedelta(seconds=1)))
    assert [a.alarm_id for a in store.alarms()] == ["a1", "a2"]
    put(store, "p1", AlarmAcknowledged(alarm_id="a1", by="me", at=T0), after=2)
    assert [a.alarm_id for a in store.alarms()] == ["a2"]
    assert [a.acknowledged_by for a in store.alarms(standing_only=False)] == ["me", None]
    check(store)


def test_marks_are_kept_beside_the_events(store):
    put(store, "p1", opened())
    store.save_marks([mark(), mark("p0", "1")])
    row = store.tracking("AAPL")
    assert (row.current_price, row.unrealised_pnl_pct, row.highest_price) == (D("101.5"), D(1), D(102))
    assert row.last_evaluated_at_utc == T0
    put(store, "p1", triggered(), after=1)
    assert store.tracking("AAPL").current_price == D("101.5"), "an event does not take them back"
    check(store)
    store.rebuild()
    assert store.tracking("AAPL").current_price == D("101.5"), "nor does a rebuild"
    put(store, "p1", *life()[2:], after=2)
    put(store, "p2", opened())
    assert store.tracking("AAPL").current_price is None, "but the next position starts without"
    store.save_marks([])


def test_what_rules_have_folded_is_kept_with_the_marks_while_the_position_is_open(store):
    put(store, "p1", opened())
    put(store, "p2", opened(symbol="MSFT"))
    store.save_marks(
        [
            msgspec.structs.replace(mark(), folded='{"to":1}'),
            msgspec.structs.replace(mark("p2", symbol="MSFT"), folded='{"to":2}'),
        ]
    )
    store.save_marks([msgspec.structs.replace(mark(), folded='{"to":3}')])
    assert (store.folded("p1"), store.folded("p2"), store.folded("p0")) == ('{"to":3}', '{"to":2}', "")
    assert list(checking.damage(store)) == []
    check(store)
    store.rebuild()
    assert store.folded("p1") == '{"to":3}'
    put(store, "p2", *life("c2", "MSFT")[1:], after=1)
    store.save_marks([msgspec.structs.replace(mark(), folded='{"to":4}')])
    assert (store.folded("p1"), store.folded("p2")) == ('{"to":4}', ""), "an ended position needs none"


def test_what_was_sent_of_alarms_is_kept_and_is_no_damage(store):
    assert store.outbox() == ""
    put(store, "p1", opened())
    store.save_outbox('["ä"]')
    store.save_outbox('["b"]')
    assert store.outbox() == '["b"]'
    assert list(checking.damage(store)) == []
    check(store)
    store.rebuild()
    assert store.outbox() == '["b"]'


def test_who_wants_to_hears_how_long_each_commit_of_events_took(store):
    heard = []
    store.time_commits(heard.append)
    put(store, "p1", opened())
    store.save_outbox("[]")  # no event
    assert len(heard) == 1
    assert heard[0] > 0
    store.time_commits(None)
    put(store, "p2", opened(symbol="MSFT"))
    assert len(heard) == 1


def test_a_rebuild_gives_the_same_rows(store):
    for n in range(20):
        put(store, f"p{n}", *life(f"c{n}", f"S{n % 7}")[: n % 6])
    dump = [store._rows(f"SELECT * FROM {t} ORDER BY 1, 2") for t in ("exit_orders", "position_tracking", "positions")]
    store.rebuild()
    again = [store._rows(f"SELECT * FROM {t} ORDER BY 1, 2") for t in ("exit_orders", "position_tracking", "positions")]
    assert again == dump
    put(store, "p20", *life("c20", "S1"))
    assert store.exit_order("c20").id == len(store.exit_orders()), "the ids go on where they were"
    check(store)


def test_a_changed_read_model_is_found_and_mended(engine, store):
    put(store, "p1", *life()[:3])
    engine.tamper(
        "UPDATE exit_orders SET status = 'filled', filled_qty = 10",
        "DELETE FROM position_tracking",
        "INSERT INTO alarms VALUES ('a', 's', 'k', 't', 'x', NULL, NULL)",
    )
    assert store.verify_read_models() == [
        "exit_orders 1: filled_qty is 10, not 0, status is 'filled', not 'submitted'",
        "position_tracking AAPL: the row is missing",
        "alarms s/a: no event made this row",
    ]
    store.rebuild()
    check(store)


def test_a_rebuild_that_fails_changes_nothing(store, monkeypatch):
    put(store, "p1", *life()[:3])
    monkeypatch.setattr(
        "exitfsm.store.exit_store.ExitStore.events", lambda self: (_ for _ in ()).throw(StoreError("cannot be read"))
    )
    with pytest.raises(StoreError, match="cannot be read"):
        store.rebuild()
    monkeypatch.undo()
    check(store)


# ---- simulations


def test_a_bulk_commits_in_groups_and_reads_see_what_it_took(kept):
    store = kept.open()
    with kept.open(read_only=True) as reader:
        with store.bulk(every=4):
            put(store, "p1", *life()[:3])
            assert store.count() == 3
            assert [r.version for r in store.stream("p1")] == [1, 2, 3]
            assert store.exit_order("c1").status == "submitted"
            assert reader.count() == 0, "not committed yet"
            with pytest.raises(VersionConflict):
                put(store, "p1", stop_moved(1), after=1)
            put(store, "p1", *life()[3:], after=3)
            assert reader.count() == 5
            put(store, "p2", opened("MSFT"))
            store.save_marks([mark("p2", symbol="MSFT")])
            assert store.verify_read_models() == []
            assert store.verify_chain() is None
            assert reader.count() == 5
        assert reader.count() == 6
        assert reader.tracking("MSFT").current_price == D("101.5")
    check(store)
    put(store, "p2", stop_moved(1), after=1)
    check(store)


def test_what_a_bulk_took_is_kept_when_an_exception_leaves_it(kept):
    store = kept.open()

    def run() -> None:
        with store.bulk():
            put(store, "p1", *life())
            raise KeyError

    with pytest.raises(KeyError):
        run()
    assert store.count() == 5
    check(store)
    with store.bulk():
        put(store, "p2", *life("c2"))
        store.close()
    with kept.open(read_only=True) as again:
        assert again.count() == 10


def test_a_bulk_that_cannot_be_stored_takes_nothing_more(store):
    put(store, "p0", opened())
    with store.bulk(every=100):
        put(store, "p1", opened("A"), triggered("c1"))
        put(store, "p2", opened("B"), triggered("c1"))
        with pytest.raises(StoreError, match="client_order_id"):
            store.count()
        with pytest.raises(StoreError, match="leave the block"):
            put(store, "p3", opened("C"))
        with pytest.raises(StoreError, match="leave the block"):
            store.count()
    assert store.count() == 1
    put(store, "p1", opened("A"))
    check(store)


def test_a_bulk_is_a_bulk(store):
    with store.bulk():
        with pytest.raises(StoreError, match="already"), store.bulk():
            pass
        with pytest.raises(StoreError, match="leave bulk"):
            store.rebuild()
        put(store, "p1", opened())
    assert store.count() == 1


# ---- closed and opened again


def test_a_closed_store_opens_again_with_everything(kept):
    with kept.open() as store:
        put(store, "p1", *life())
        head = store.chain_head()
    with kept.open() as again:
        assert again.chain_head() == head
        assert [r.event for r in again.events()] == life()
        put(again, "p2", *life("c2"))
        check(again)


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    for call in (store.count, store.rebuild, lambda: put(store, "p1", opened()), lambda: store.save_marks([mark()])):
        with pytest.raises(StoreError, match="closed"):
            call()


# ---- two at once


def test_a_second_writer_is_told_who_writes(kept):
    script = (
        "import sys, exitfsm.store as s; store = s.ExitStore(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, kept.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"{kept.holder(other.pid)}: stop that one first"):
            kept.open()
        with kept.open(read_only=True) as reader:
            assert reader.count() == 0
        other.kill()
        other.wait()
    with kept.open() as store:
        put(store, "p1", opened())
        with pytest.raises(StoreLocked, match=f"{kept.holder(os.getpid())}: stop that one first"):
            kept.open()
        with kept.open(read_only=True) as reader:
            assert reader.count() == 1
        put(store, "p1", triggered(), after=1)


def test_a_store_that_was_forgotten_open_frees_the_lock(kept):
    ExitStore(kept.url)
    kept.open()


def test_a_reader_only_reads(kept):
    store = kept.open()
    put(store, "p1", opened())
    with kept.open(read_only=True) as reader:
        for call in (
            lambda: put(reader, "p1", triggered(), after=1),
            reader.rebuild,
            lambda: reader.save_marks([mark()]),
            lambda: reader.bulk().__enter__(),
        ):
            with pytest.raises(StoreError, match="opened with read_only=True"):
                call()
        put(store, "p1", triggered(), after=1)
        assert reader.count() == 2, "it sees what was written meanwhile"
        assert [o.client_order_id for o in reader.exit_orders()] == ["c1"]
        check(reader)


def test_a_snapshot_sees_one_state_of_the_store(kept):
    store = kept.open()
    put(store, "p1", opened())
    with kept.open(read_only=True) as reader:
        with checking.snapshot(reader):
            before = reader.chain_head()
            put(store, "p1", *life()[1:], after=1)
            with checking.snapshot(reader):  # a snapshot within one is the same
                assert reader.chain_head() == before
            assert (reader.count(), reader.exit_orders(), list(checking.damage(reader))) == (1, [], [])
            assert [event.sequence for event in checking.stored(reader)] == [1]
            check(reader)
        assert reader.count() == 5


def test_a_reader_needs_a_store(kept):
    for _ in range(2):  # the first has made none
        with pytest.raises(StoreError, match="there is no store at"):
            kept.open(read_only=True)


def test_a_store_may_be_used_from_any_thread(store):
    failures: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for k in range(20):
                put(store, f"p{n}", opened(f"S{n}") if k == 0 else stop_moved(k), after=k)
                store.tracking(f"S{n}")
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.count() == 80
    check(store)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_store_does_not_survive_a_fork(kept):
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from exitfsm.errors import StoreError
from exitfsm.store import ExitStore
from store_engines import opened, put
store = ExitStore(sys.argv[1])
put(store, "p1", opened())
if pid := os.fork():
    assert os.waitpid(pid, 0)[1] == 0
    put(store, "p2", opened("MSFT"))
    print("acknowledged", flush=True)
    os.kill(os.getpid(), 9)
else:
    try:
        store.count()
    except StoreError as e:
        assert "fork" in str(e)
    else:
        raise SystemExit("the child used the connection of its parent")
    store.close()
"""
    command = [sys.executable, "-c", script, kept.url]
    run = subprocess.run(command, env=HERE, capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("acknowledged\n", -signal.SIGKILL), run.stderr
    with kept.open() as store:
        assert store.stream_ids() == ["p1", "p2"], "the child that ended took nothing of its parent with it"
        check(store)


KILLED = """
import sys
from store_engines import *
with ExitStore(sys.argv[1]) as store:
    for n in range(int(sys.argv[2]), 10**6):
        for version, event in enumerate(life(f"c{n}", f"S{n % 50}")):
            put(store, f"p{n}", event, after=version)
            print(n, version + 1, flush=True)
"""


@pytest.mark.slow
def test_kill_in_the_middle_of_writing_loses_nothing_that_was_acknowledged(kept):
    acknowledged: set[tuple[str, int]] = set()
    for round_number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, kept.url, str(round_number * 10**5)],
            stdout=subprocess.PIPE, text=True, env=HERE,
        ) as writer:  # fmt: skip
            lines = [writer.stdout.readline()]
            time.sleep(0.05 + 0.03 * round_number)
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        acknowledged |= {(f"p{n}", int(v)) for n, v in (line.split() for line in lines if line.endswith("\n"))}
        with kept.open(read_only=True) as reader:
            check(reader)
        with kept.open() as store:
            stored = {(r.stream_id, r.version) for r in store.events()}
            assert acknowledged <= stored
            assert len(stored) <= len(acknowledged) + round_number + 1, "at most the one under way is there as well"
            check(store)
    assert len(acknowledged) > 20


# ---- tampering


_ADD = "INSERT INTO stored_events ({place}, originator_id, originator_version, topic, state) "
TAMPER = {
    "changed": ("UPDATE stored_events SET state = {b0}REPLACE({t0}state{t1}, '99.1', '98.1'){b1} WHERE {place} = 4", 4),
    "retyped": ("UPDATE stored_events SET state = CAST(state AS TEXT) || ' ' WHERE {place} = 7", 7),
    "renamed": ("UPDATE stored_events SET topic = 'exit_escalated.v1' WHERE {place} = 3", 3),
    "moved to another stream": ("UPDATE stored_events SET originator_id = 'p9' WHERE {place} = 10", 10),
    "another version": ("UPDATE stored_events SET originator_version = 9 WHERE {place} = 5", 5),
    "no text any more": ("UPDATE stored_events SET topic = CAST(x'ff' AS TEXT) WHERE {place} = 2", 2),
    "deleted": ("DELETE FROM stored_events WHERE {place} = 6", 6),
    "deleted at the end": ("DELETE FROM stored_events WHERE {place} = 10", 10),
    "deleted with its hash": ("DELETE FROM stored_events WHERE {place} = 6; DELETE FROM chain WHERE sequence = 6", 6),
    "hash deleted": ("DELETE FROM chain WHERE sequence = 2", 2),
    "hash changed": ("UPDATE chain SET hash = {zeros} WHERE sequence = 8", 8),
    "reordered": ("UPDATE stored_events SET {place} = -{place} WHERE {place} IN (4, 9); "
                  "UPDATE stored_events SET {place} = 13 + {place} WHERE {place} < 0", 4),
    "added": (_ADD + "VALUES (11, \'p9\', 1, \'stop_moved.v1\', \'{{}}\')", 11),
    "added in front": (_ADD + "VALUES (0, \'p9\', 1, \'stop_moved.v1\', \'{{}}\')", 1),
    "hash added": ("INSERT INTO chain VALUES (11, {zeros})", 11),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPER)
def test_tampering_shows(engine, store, how):
    put(store, "p1", *life())
    put(store, "p2", *life("c2", "MSFT"))
    assert store.verify_chain() is None
    sql, broken = TAMPER[how]
    if engine.typed and how == "retyped":
        pytest.skip("no column of this engine takes a value of another type")
    engine.tamper(*sql.split("; "))
    assert store.verify_chain() == broken


def test_a_store_whose_end_was_cut_off_is_not_written_on(kept):
    with kept.open() as store:
        put(store, "p1", *life())
    kept.tamper("DELETE FROM stored_events WHERE {place} = 5")
    with pytest.raises(StoreError, match=r"changed by other hands.*restore a backup"):
        kept.open()
    with kept.open(read_only=True) as reader:
        assert reader.verify_chain() == 5


def test_the_head_of_the_chain_names_the_whole_history(store):
    heads = []
    for price in ("99.1", "99.2"):
        with ExitStore(":memory:") as other:
            assert other.chain_head() == (0, "00" * 32)
            put(other, "p1", *life()[:3])
            fills = FillsRecorded(client_order_id="c1", filled_qty=D(10), avg_fill_price=D(price), at=T0)
            put(other, "p1", fills, after=3)
            heads.append(other.chain_head())
    assert heads[0][0] == heads[1][0] == 4
    assert heads[0][1] != heads[1][1]
    put(store, "p1", *life()[:4])
    assert store.chain_head() == heads[0], "the same events have the same head on any machine"


def test_the_chain_is_permanent(engine, store):
    """A store of yesterday must verify tomorrow: bytes and hashes as they are documented, made here independently."""
    put(store, "account:x", AlarmRaised(alarm_id="a1", kind="k", text="Ünruhe", at=T0), TradingResumed(by="me", at=T0))
    put(store, "p1", stop_moved(7))
    rows = engine.raw(
        "SELECT {place}, originator_id, originator_version, topic, state FROM stored_events ORDER BY {place}"
    )
    assert [row[:4] for row in rows] == [
        (1, "account:x", 1, "alarm_raised.v1"),
        (2, "account:x", 2, "trading_resumed.v1"),
        (3, "p1", 1, "stop_moved.v1"),
    ]
    assert rows[0][4].decode() == (
        '{"at":1704205800000000000,"by":"bar","body":{"event":"alarm_raised.v1","alarm_id":"a1","kind":"k",'
        '"text":"Ünruhe","at":"2024-01-02T14:30:00Z"}}'
    )
    head = bytes(32)
    for sequence, stream_id, version, topic, state in rows:
        parts = [stream_id.encode(), topic.encode(), state]
        numbers = sequence.to_bytes(8, "big") + version.to_bytes(8, "big")
        lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
        head = hashlib.sha256(head + numbers + lengths + b"".join(parts)).digest()
    assert store.chain_head() == (3, head.hex())


# ---- whose store it is


def test_a_store_is_bound_to_one_account_and_endpoint(kept):
    with kept.open() as store:
        store.bind("acc1")
        store.bind("acc1", "paper")
        assert store.meta == {"account": "acc1", "created_by": "exitfsm", "endpoint": "paper", "format": "1"}
    with kept.open() as store:
        store.bind("acc1", "paper")
        with pytest.raises(StoreError, match="written for account 'acc1', not 'acc2'"):
            store.bind("acc2", "paper")
        with pytest.raises(StoreError, match="written for endpoint 'paper', not 'live'"):
            store.bind("acc1", "live")
    with kept.open(read_only=True) as reader:
        reader.bind("acc1", "paper")
        with pytest.raises(StoreError, match="acc2"):
            reader.bind("acc2")
