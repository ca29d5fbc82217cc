"""The event store, as its users meet it: nothing that was acknowledged is lost, and nothing is ever half there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
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

from exitfsm import events as events_module
from exitfsm.errors import StoreError, StoreLocked, VersionConflict
from exitfsm.events import (
    ACCOUNT_EVENTS,
    POSITION_EVENTS,
    AlarmAcknowledged,
    AlarmRaised,
    Event,
    ExitCompleted,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    PolicyChanged,
    PositionOpened,
    StopMoved,
    TradingResumed,
    tag_of,
)
from exitfsm.policy import ExitPolicy
from exitfsm.projections import Mark
from exitfsm.store import Append, ExitStore
from exitfsm.store import appending as appending_module
from exitfsm.store import sqlite as sqlite_module
from exitfsm.store.mapping import EventMapper
from exitfsm.values import ExitType, OrderType, Side, TimeInForce

NAIVE_FIRST, NAIVE_LAST = datetime(1970, 1, 1), datetime(2100, 1, 1)  # noqa: DTZ001  hypothesis adds the zone
T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
D = Decimal


#: For a process that imports this file.
_PATHS = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
HERE = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, _PATHS))}


def opened(symbol: str = "AAPL") -> PositionOpened:
    return PositionOpened(
        account="acc", symbol=symbol, side=Side.LONG, epoch="e1", qty=D(10), entry_price=D("100.5"), opened_at=T0,
        policy=ExitPolicy(),
    )  # fmt: skip


def triggered(coid: str = "c1") -> ExitTriggered:
    return ExitTriggered(
        reason=ExitType.STOP_LOSS, client_order_id=coid, attempt=1, qty=D(10), order_type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY, at=T0, trigger_price=D(99), level=D("99.495"), threshold_pct=D(1),
    )  # fmt: skip


def life(coid: str = "c1", symbol: str = "AAPL") -> list[Event]:
    """A whole exit: five events."""
    return [
        opened(symbol),
        triggered(coid),
        OrderAccepted(client_order_id=coid, broker_order_id="b1", at=T0),
        FillsRecorded(client_order_id=coid, filled_qty=D(10), avg_fill_price=D("99.1"), at=T0),
        ExitCompleted(
            filled_qty=D(10), avg_fill_price=D("99.1"), filled_at=T0, at=T0, cooldown_until=T0 + timedelta(seconds=300)
        ),
    ]


def stop_moved(n: int) -> StopMoved:
    return StopMoved(rule=ExitType.TRAILING_STOP, stop=D(n), best_price=D(n + 1), bar_at=T0)


def put(store: ExitStore, stream_id: str, *events: Event, after: int = 0) -> None:
    store.append(stream_id, after, events, at=T0, by="bar")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exits.db"


@pytest.fixture
def store(path: Path) -> Iterator[ExitStore]:
    with ExitStore(path) as opened_store:
        yield opened_store


def check(store: ExitStore) -> None:
    """What must be true of every store at any time."""
    assert store.verify_chain() is None
    assert store.verify_read_models() == []
    assert store.chain_head()[0] == store.count()


# ---- events go in and come out


def _values(hint: Any) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may have."""
    if hint is Decimal:
        return st.decimals(-(10**12), 10**12, allow_nan=False, places=9)
    if hint is datetime:
        zones = st.sampled_from([UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))])
        return st.datetimes(NAIVE_FIRST, NAIVE_LAST, timezones=zones)
    if hint is str:
        return st.text(st.characters(codec="utf-8"), max_size=20)
    if hint is ExitPolicy:
        return st.builds(ExitPolicy, enabled=st.booleans(), exit_cooldown_seconds=st.integers(0, 10**9))
    if typing.get_args(hint):
        return st.one_of([st.none() if arm is type(None) else _values(arm) for arm in typing.get_args(hint)])
    return st.from_type(hint)


@st.composite
def any_event(draw: st.DrawFn) -> Event:
    cls = draw(st.sampled_from((*POSITION_EVENTS, *ACCOUNT_EVENTS)))
    hints = typing.get_type_hints(cls)
    return cls(**{name: draw(_values(hints[name])) for name in cls.__struct_fields__})


@given(first=any_event(), second=any_event(), ns=st.integers(0, 2**62), by=st.text(st.characters(codec="utf-8")))
def test_every_event_reads_back_as_itself(first, second, ns, by):
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000)
    with ExitStore(":memory:") as store:
        recorded = store.append("account:x", 0, [first, second], at=at, by=by)
        assert store.stream("account:x") == recorded == list(store.events())
        assert [r.event for r in recorded] == [first, second]
        assert [(r.stream_id, r.version, r.sequence, r.by) for r in recorded] == [
            ("account:x", 1, 1, by),
            ("account:x", 2, 2, by),
        ]
        assert all(r.at_ns == ns // 1000 * 1000 for r in recorded)
        check(store)


def test_the_hour_that_comes_twice_when_the_clocks_go_back_is_two_hours(store):
    new_york = ZoneInfo("America/New_York")
    first, second = (datetime(2024, 11, 3, 1, 30, tzinfo=new_york, fold=fold) for fold in (0, 1))
    assert first == second  # Python's own view of two times of one zone

    before = store.append("p1", 0, [opened()], at=first, by="bot")
    after = store.append("p2", 0, [opened("MSFT")], at=second, by="bot")

    assert after[0].at_ns - before[0].at_ns == 3600 * 10**9


def test_a_stored_event_is_readable_by_any_sql_tool(store, path):
    put(store, "p1", opened(), triggered())
    with contextlib.closing(sqlite3.connect(path)) as db:
        sql = "SELECT rowid, originator_id, originator_version, topic, CAST(state AS TEXT) FROM stored_events"
        row = db.execute(sql).fetchall()[1]
        assert row[:4] == (2, "p1", 2, "exit_triggered.v1")
        assert row[4].startswith('{"at":1704205800000000000,"by":"bar","body":{"event":"exit_triggered.v1",')
        assert '"level":"99.495"' in row[4], "money is text, exact to the last digit"


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


def test_a_policy_that_is_read_again_is_held_once(path):
    other = msgspec.structs.replace(ExitPolicy(), exit_cooldown_seconds=7)
    with ExitStore(path) as store:
        for n in range(3):
            put(store, f"p{n}", opened(f"S{n}"), PolicyChanged(policy=other, at=T0))
    with ExitStore(path) as store:
        read = [events for _, events in store.histories(store.stream_ids())]
    assert read == [[opened(f"S{n}"), PolicyChanged(policy=other, at=T0)] for n in range(3)]
    assert len({id(event.policy) for events in read for event in events}) == 2


def test_the_librarys_own_notification_log_agrees(store):
    put(store, "p1", *life())
    put(store, "p2", *life("c2", "MSFT"))
    recorder, mapper = store._db.recorder, store._mapper
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
        msgspec.structs.replace(opened(), qty=None),
        msgspec.structs.replace(opened(), qty=1.1),
        msgspec.structs.replace(opened(), symbol="\ud800"),
        msgspec.structs.replace(opened(), policy=object()),
    ]
    for event in bad:
        with pytest.raises(StoreError, match="stored"):
            put(store, "p1", opened(), event)
    assert store.count() == 0
    with pytest.raises(ValueError, match="time zone"):
        store.append("p1", 0, [opened()], at=NAIVE_FIRST, by="bar")
    with pytest.raises(ValueError, match="expected_version"):
        put(store, "p1", opened(), after=-1)


def test_an_event_of_an_older_version_is_upcast(store, path, monkeypatch):
    put(store, "p1", opened())
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE stored_events SET topic = 'position_opened.v0', state = REPLACE(CAST(state AS TEXT), "
                   "'position_opened.v1', 'position_opened.v0')")  # fmt: skip
        db.execute("UPDATE stored_events SET state = CAST(REPLACE(state, '\"qty\"', '\"quantity\"') AS BLOB)")
    with ExitStore(path) as again:
        with pytest.raises(StoreError, match="newer version of exitfsm: upgrade"):
            again.stream("p1")
        monkeypatch.setitem(
            events_module.UPCASTS,
            "position_opened.v0",
            lambda fields: {**{k: v for k, v in fields.items() if k != "quantity"}, "qty": fields["quantity"]},
        )
        assert again.stream("p1")[0].event == opened()


def test_an_event_of_a_newer_version_says_upgrade(store, path):
    put(store, "p1", opened())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE stored_events SET topic = 'position_teleported.v1'")
    with pytest.raises(StoreError, match=r"position_teleported\.v1.*upgrade exitfsm"):
        list(store.events())


def test_a_damaged_event_is_named(store, path):
    put(store, "p1", opened(), triggered())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE stored_events SET state = '{\"at\":1}' WHERE rowid = 2")
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


def test_a_group_is_one_commit(store, monkeypatch):
    commits = []
    real = sqlite_module.SQLiteDatabase.commit
    monkeypatch.setattr(sqlite_module.SQLiteDatabase, "commit", lambda self: (commits.append(1), real(self))[1])
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


def test_a_transaction_shuts_other_writers_out_from_its_beginning(store, path, monkeypatch):
    real, met = appending_module.ReadModels.apply, []

    def meets_another(self, recorded):
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as e:
                met.append(str(e))
        real(self, recorded)

    monkeypatch.setattr(appending_module.ReadModels, "apply", meets_another)
    put(store, "p1", opened())
    assert met == ["database is locked"]


def test_a_commit_that_fails_stores_nothing_and_leaves_the_store_usable(store, monkeypatch):
    put(store, "p1", opened())

    def fails(self):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(sqlite_module.SQLiteDatabase, "commit", fails)
        for _ in range(2):
            with pytest.raises(StoreError, match="disk I/O error") as caught:
                put(store, "p1", triggered(), after=1)
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        with pytest.raises(StoreError, match="disk I/O error"):
            store.append_many([Append("p2", 0, [opened("A")], T0, "b"), Append("p3", 0, [opened("B")], T0, "b")])
    assert store.count() == 1
    put(store, "p1", triggered(), after=1)
    check(store)


def test_a_commit_that_landed_though_it_raised_is_found_by_reading(store, monkeypatch):
    real = sqlite_module.SQLiteDatabase.commit

    def lands_and_fails(self):
        real(self)
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(sqlite_module.SQLiteDatabase, "commit", lands_and_fails)
        with pytest.raises(StoreError, match="disk I/O error"):
            put(store, "p1", opened())
    assert [r.event for r in store.stream("p1")] == [opened()]
    put(store, "p1", triggered(), after=1)
    check(store)


def test_a_writer_without_the_lock_is_noticed(store, path):
    """Where the platform has no file locks, two processes may write in turns; neither overwrites the other."""
    put(store, "p1", opened(), triggered())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sqlite_module, "_HAS_FLOCK", False)
        with ExitStore(path) as second:
            put(second, "p1", OrderAccepted(client_order_id="c1", broker_order_id="b7", at=T0), after=2)
            put(second, "p2", opened("MSFT"))
    with pytest.raises(VersionConflict):
        put(store, "p1", OrderAccepted(client_order_id="c1", broker_order_id="b8", at=T0), after=2)
    put(store, "p1", *life()[3:], after=3)
    assert store.exit_order("c1").alpaca_order_id == "b7"
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


def test_alarms_stand_until_acknowledged(store):
    put(store, "p1", opened(), AlarmRaised(alarm_id="a1", kind="k", text="t", at=T0))
    put(store, "account:x", AlarmRaised(alarm_id="a2", kind="k", text="t", at=T0 + timedelta(seconds=1)))
    assert [a.alarm_id for a in store.alarms()] == ["a1", "a2"]
    put(store, "p1", AlarmAcknowledged(alarm_id="a1", by="me", at=T0), after=2)
    assert [a.alarm_id for a in store.alarms()] == ["a2"]
    assert [a.acknowledged_by for a in store.alarms(standing_only=False)] == ["me", None]
    check(store)


def mark(position_id: str = "p1", price: str = "101.5", symbol: str = "AAPL") -> Mark:
    return Mark(symbol=symbol, position_id=position_id, price=D(price), pnl_pct=D(1), best_price=D(102), at=T0)


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


def test_a_rebuild_gives_the_same_rows(store, path):
    for n in range(20):
        put(store, f"p{n}", *life(f"c{n}", f"S{n % 7}")[: n % 6])
    dump = [store._rows(f"SELECT * FROM {t} ORDER BY 1, 2") for t in ("exit_orders", "position_tracking", "positions")]
    store.rebuild()
    again = [store._rows(f"SELECT * FROM {t} ORDER BY 1, 2") for t in ("exit_orders", "position_tracking", "positions")]
    assert again == dump
    put(store, "p20", *life("c20", "S1"))
    assert store.exit_order("c20").id == len(store.exit_orders()), "the ids go on where they were"
    check(store)


def test_a_changed_read_model_is_found_and_mended(store, path):
    put(store, "p1", *life()[:3])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE exit_orders SET status = 'filled', filled_qty = 10")
        db.execute("DELETE FROM position_tracking")
        db.execute("INSERT INTO alarms VALUES ('a', 's', 'k', 't', 'x', NULL, NULL)")
    assert store.verify_read_models() == [
        "exit_orders 1: filled_qty is 10, not 0, status is 'filled', not 'submitted'",
        "position_tracking AAPL: the row is missing",
        "alarms s/a: no event made this row",
    ]
    store.rebuild()
    check(store)


def test_a_rebuild_that_fails_changes_nothing(store, path, monkeypatch):
    put(store, "p1", *life()[:3])
    monkeypatch.setattr(
        "exitfsm.store.exit_store.ExitStore.events", lambda self: (_ for _ in ()).throw(StoreError("cannot be read"))
    )
    with pytest.raises(StoreError, match="cannot be read"):
        store.rebuild()
    monkeypatch.undo()
    check(store)


# ---- simulations


def test_a_bulk_commits_in_groups_and_reads_see_what_it_took(store, path):
    with ExitStore(path, read_only=True) as reader:
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


def test_what_a_bulk_took_is_kept_when_an_exception_leaves_it(store, path):
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
    with ExitStore(path, read_only=True) as again:
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


# ---- the file


def test_a_closed_store_opens_again_with_everything(path):
    with ExitStore(path) as store:
        put(store, "p1", *life())
        head = store.chain_head()
    with ExitStore(path) as again:
        assert again.chain_head() == head
        assert [r.event for r in again.events()] == life()
        put(again, "p2", *life("c2"))
        check(again)
    assert sorted(p.name for p in path.parent.iterdir()) == ["exits.db", "exits.db.lock"]


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    for call in (store.count, store.rebuild, lambda: put(store, "p1", opened()), lambda: store.save_marks([mark()])):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_memory_holds_a_store_too():
    with ExitStore(":memory:") as one, ExitStore(":memory:") as two:
        put(one, "p1", *life())
        assert two.count() == 0
        check(one)
    with pytest.raises(StoreError, match="in memory"):
        ExitStore(":memory:", read_only=True)


@pytest.mark.parametrize("url", ["postgresql://localhost/exits", "mysql://x", "", "a\0b"])
def test_what_is_no_url_of_a_store(url):
    with pytest.raises(StoreError, match="give the path of a file"):
        ExitStore(url)


def test_odd_paths_are_paths(tmp_path):
    for name in ("a b?c#d%20.db", "exits;mode=ro.db", "Ünïcode.db"):
        with ExitStore(tmp_path / name) as store:
            put(store, "p1", opened())
        assert (tmp_path / name).exists()


def test_nobody_else_can_read_the_files(store, path):
    put(store, "p1", opened())
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert modes == dict.fromkeys(["exits.db", "exits.db-shm", "exits.db-wal", "exits.db.lock"], 0o600)


def test_a_file_that_others_could_read_is_closed_to_them(path):
    ExitStore(path).close()
    path.chmod(0o644)
    ExitStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_commit_is_synced_and_the_schema_not_trusted(store):
    pragma = lambda name: store._rows(f"PRAGMA {name}")[0][0]  # noqa: E731
    assert (pragma("journal_mode"), pragma("synchronous"), pragma("trusted_schema")) == ("wal", 2, 0)


def test_a_store_that_settled_has_room_for_the_next_commits_and_everything_in_its_place(store, path):
    wal = path.with_name("exits.db-wal")
    put(store, "p1", *life())
    store.settle()
    room = wal.stat().st_size
    assert room == sqlite_module._ROOM
    assert stat.S_IMODE(wal.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as file_alone:
        assert file_alone.execute("SELECT COUNT(*) FROM stored_events").fetchone() == (5,)
    put(store, "p2", *life("c2", "MSFT"))
    store.settle()  # so soon there is nothing to do
    assert wal.stat().st_size == room, "the next commits were written into the room"
    copy = path.with_name("crashed.db")  # as a crash leaves it: the file, and a WAL that ends in zeros
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with ExitStore(copy) as again:
        assert list(again.events()) == list(store.events())
        check(again)
    with store.bulk():
        store.settle()  # not now
    check(store)


def test_a_store_settles_again_after_many_commits_and_without_room_it_does_without(store, path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "_SETTLE_AFTER", 3)
    checkpoints = []
    connection = store._db._connection
    monkeypatch.setattr(connection, "checkpoint", lambda: checkpoints.append(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    for n in range(8):
        put(store, f"p{n}", opened(f"S{n}"))
        store.settle()
    assert len(checkpoints) == 4  # at once, and after each three commits, of which its own is one
    check(store)


def test_no_environment_variable_changes_the_store(path, monkeypatch):
    for name in ("CIPHER_KEY", "COMPRESSOR_TOPIC", "PERSISTENCE_MODULE", "SQLITE_DBNAME", "TRANSCODER_TOPIC"):
        monkeypatch.setenv(name, "zlib" if name == "COMPRESSOR_TOPIC" else "x")
    with ExitStore(path) as store:
        put(store, "p1", opened())
    monkeypatch.undo()
    with ExitStore(path) as store:
        assert store.stream("p1")[0].event == opened()


def foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE theirs (x)")
        db.execute("INSERT INTO theirs VALUES (1)")


def foreign_wal(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE theirs (x)")


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        foreign,
        foreign_wal,
        lambda path: path.write_bytes(b"my only copy of the thesis"),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"\1" * 500),
        lambda path: path.write_bytes(b"\0" * 4096),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_not_touched(path, make, read_only):
    make(path)
    path.chmod(0o640)
    before = (path.read_bytes(), path.stat())
    with pytest.raises(StoreError, match=r"not an exitfsm store|damaged"):
        ExitStore(path, read_only=read_only)
    after = path.stat()
    assert path.read_bytes() == before[0]
    assert (after.st_mtime_ns, after.st_mode, after.st_ino) == (
        before[1].st_mtime_ns,
        before[1].st_mode,
        before[1].st_ino,
    )
    assert {p.name for p in path.parent.iterdir()} <= {"exits.db", "exits.db.lock"}


def test_a_newer_format_says_upgrade(path):
    ExitStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"newer version of exitfsm .*upgrade exitfsm"):
            ExitStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_directory_a_link_and_a_pipe_are_no_stores(tmp_path):
    (tmp_path / "dir").mkdir()
    with ExitStore(tmp_path / "real.db"):
        pass
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    (tmp_path / "dangling.db").symlink_to(tmp_path / "nowhere.db")
    os.mkfifo(tmp_path / "pipe")
    for name, why in [
        ("dir", "no file"),
        ("link.db", "symbolic link"),
        ("dangling.db", "symbolic"),
        ("pipe", "no file"),
    ]:
        for read_only in (False, True):
            with pytest.raises(StoreError, match=why):
                ExitStore(tmp_path / name, read_only=read_only)
    assert not (tmp_path / "nowhere.db").exists()
    os.link(tmp_path / "real.db", tmp_path / "hard.db")
    with pytest.raises(StoreError, match="hard links"):
        ExitStore(tmp_path / "hard.db")
    with pytest.raises(StoreError, match="no directory"):
        ExitStore(tmp_path / "missing" / "exits.db")


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    ExitStore(path).close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for read_only in (False, True):
        with pytest.raises(StoreError, match="another user"):
            ExitStore(path, read_only=read_only)


def test_an_empty_file_becomes_a_store(path):
    path.touch()
    with pytest.raises(StoreError, match="there is no store"):
        ExitStore(path, read_only=True)
    with ExitStore(path) as store:
        put(store, "p1", opened())
        check(store)


def test_the_journal_of_a_lost_store_is_not_mixed_into_a_new_one(path):
    wal = path.with_name("exits.db-wal")
    wal.write_bytes(b"the newest events")
    with pytest.raises(StoreError, match="newest events of a lost store"):
        ExitStore(path)
    assert wal.read_bytes() == b"the newest events"
    assert not path.exists()


def test_a_crash_while_it_is_made_leaves_no_store(path, monkeypatch):
    def crash(self):
        modes.append(stat.S_IMODE(path.with_name("exits.db.new").stat().st_mode))
        raise KeyboardInterrupt

    modes: list[int] = []

    with monkeypatch.context() as patched:
        patched.setattr(sqlite_module.SQLiteDatabase, "_create", crash)
        with pytest.raises(KeyboardInterrupt):
            ExitStore(path)
    assert not path.exists()
    assert modes == [0o600], "nobody else can read it from the first moment on"
    path.with_name("exits.db.new").write_bytes(b"rest of a crash")
    with ExitStore(path) as store:
        put(store, "p1", opened())
    assert not path.with_name("exits.db.new").exists()


def test_a_store_that_is_taken_away_while_in_use_takes_no_more(store, path):
    put(store, "p1", opened())
    moved = path.with_name("moved.db")
    path.rename(moved)
    with pytest.raises(StoreError, match="moved, replaced or deleted"):
        put(store, "p1", triggered(), after=1)
    with pytest.raises(StoreError, match="moved, replaced or deleted"):
        store.save_marks([mark()])
    moved.rename(path)
    put(store, "p1", triggered(), after=1)
    check(store)


def test_a_backup_is_a_store(store, path):
    for n in range(10):
        put(store, f"p{n}", *life(f"c{n}"))
    copy = path.with_name("backup.db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM INTO ?", (str(copy),))
    with ExitStore(copy) as backup:
        assert backup.chain_head() == store.chain_head()
        assert list(backup.events()) == list(store.events())
        check(backup)


# ---- two at once


def test_a_second_writer_is_told_who_writes(path):
    script = (
        "import sys, exitfsm.store as s; store = s.ExitStore(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"process {other.pid}: stop that one first"):
            ExitStore(path)
        with ExitStore(path, read_only=True) as reader:
            assert reader.count() == 0
        other.kill()
        other.wait()
    with ExitStore(path) as store:
        put(store, "p1", opened())
        with pytest.raises(StoreLocked, match="this very process"):
            ExitStore(path)
        with ExitStore(path, read_only=True) as reader:
            assert reader.count() == 1
        put(store, "p1", triggered(), after=1)


def test_a_failed_opening_frees_the_lock(path):
    foreign(path)
    with pytest.raises(StoreError):
        ExitStore(path)
    path.unlink()
    ExitStore(path).close()


def test_a_disk_that_fails_while_it_is_opened_is_told_in_plain_words(path, monkeypatch):
    ExitStore(path).close()

    def fails(self):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as m:
        m.setattr(sqlite_module._Pool, "_create_connection", fails)
        with pytest.raises(StoreError, match="disk I/O error"):
            ExitStore(path)
    ExitStore(path).close()


def test_a_store_that_was_forgotten_open_frees_the_lock(path):
    ExitStore(path)
    ExitStore(path).close()


def test_a_reader_only_reads(store, path):
    put(store, "p1", opened())
    with ExitStore(path, read_only=True) as reader:
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


def test_a_reader_needs_a_store(path):
    with pytest.raises(StoreError, match="there is no store at"):
        ExitStore(path, read_only=True)
    assert list(path.parent.iterdir()) == []


def test_a_lock_of_another_program_is_named(store, path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        store._rows("PRAGMA busy_timeout = 10")
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program holds the file"):
            put(store, "p1", opened())
        db.execute("ROLLBACK")
    put(store, "p1", opened())


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
def test_a_store_does_not_survive_a_fork(path):
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from exitfsm.errors import StoreError
from exitfsm.store import ExitStore
from test_store import opened, put
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
    command = [sys.executable, "-c", script, str(path)]
    run = subprocess.run(command, env=HERE, capture_output=True, text=True, check=False)
    assert (run.stdout, run.returncode) == ("acknowledged\n", -signal.SIGKILL), run.stderr
    with ExitStore(path) as store:
        assert store.stream_ids() == ["p1", "p2"], "the child that ended took nothing of its parent with it"
        check(store)


# ---- disks


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory in which permissions count, also where the tests run as root."""
    directory = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o700)
        shutil.rmtree(directory)


def test_a_directory_that_cannot_be_written():
    with unprivileged() as directory:
        path = directory / "exits.db"
        with ExitStore(path) as store:
            put(store, "p1", opened())
        path.with_name("exits.db.lock").unlink()
        directory.chmod(0o500)
        with pytest.raises(StoreError, match=r"Permission denied.*read_only=True"):
            ExitStore(path)
        with pytest.raises(StoreError, match="Permission denied"):
            ExitStore(directory / "new.db")
        with ExitStore(path, read_only=True) as reader:
            assert [r.event for r in reader.events()] == [opened()]
            check(reader)


def test_a_file_that_cannot_be_written():
    with unprivileged() as directory:
        path = directory / "exits.db"
        ExitStore(path).close()
        path.chmod(0o400)
        with pytest.raises(StoreError, match="cannot be written"):
            ExitStore(path)
        assert sorted(p.name for p in directory.iterdir()) == ["exits.db", "exits.db.lock"]
        with ExitStore(path, read_only=True) as reader:
            check(reader)
        path.chmod(0o600)
        with ExitStore(path) as store:
            put(store, "p1", opened())


def test_a_file_that_cannot_be_read():
    with unprivileged() as directory:
        path = directory / "exits.db"
        ExitStore(path).close()
        path.chmod(0)
        for read_only in (False, True):
            with pytest.raises(StoreError, match="check the path and its permissions"):
                ExitStore(path, read_only=read_only)


def test_a_full_disk_leaves_no_half_written_state(store, path):
    """`max_page_count` makes SQLite say just what it says when the disk is full."""
    put(store, "p0", opened())
    store._rows(f"PRAGMA max_page_count = {store._rows('PRAGMA page_count')[0][0] + 4}")
    acknowledged = 1

    def fill() -> None:
        nonlocal acknowledged
        for n in range(1, 1000):
            put(store, f"p{n}", *life(f"c{n}", f"S{n}"))
            acknowledged += 5

    def fill_in_bulk() -> None:
        with store.bulk():
            for n in range(2000, 3000):
                put(store, f"p{n}", *life(f"c{n}", f"S{n}"))

    with pytest.raises(StoreError, match="the disk is full and nothing was stored: free space") as caught:
        fill()
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert store.count() == acknowledged > 1
    check(store)
    with pytest.raises(StoreError, match="the disk is full"):
        fill_in_bulk()
    check(store)
    store._rows("PRAGMA max_page_count = 100000")
    put(store, "q", *life("q"))
    check(store)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no limits on files here")
def test_a_disk_that_takes_no_more_bytes(path):
    """The write itself fails, in the middle of a transaction, and the process lives on."""
    script = """
import resource, signal, sys
from test_store import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with ExitStore(sys.argv[1]) as store:
    put(store, "p0", opened())
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    acknowledged = 1
    try:
        for n in range(1, 1000):
            put(store, f"p{n}", *life(f"c{n}", f"S{n}"))
            acknowledged += 5
    except StoreError as e:
        print(e)
    else:
        raise SystemExit("no limit was met")
    assert store.count() == acknowledged > 1, (store.count(), acknowledged)
    check(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    put(store, "q", *life("q"))
    check(store)
"""
    command = [sys.executable, "-c", script, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, env=HERE, check=False)
    assert run.returncode == 0, run.stderr
    assert "check the disk" in run.stdout
    with ExitStore(path) as store:
        assert store.stream("q")
        check(store)


KILLED = """
import sys
from test_store import *
with ExitStore(sys.argv[1]) as store:
    for n in range(int(sys.argv[2]), 10**6):
        for version, event in enumerate(life(f"c{n}", f"S{n % 50}")):
            put(store, f"p{n}", event, after=version)
            print(n, version + 1, flush=True)
"""


@pytest.mark.slow
def test_kill_in_the_middle_of_writing_loses_nothing_that_was_acknowledged(path):
    acknowledged: set[tuple[str, int]] = set()
    for round_number in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), str(round_number * 10**5)],
            stdout=subprocess.PIPE, text=True, env=HERE,
        ) as writer:  # fmt: skip
            lines = [writer.stdout.readline()]
            time.sleep(0.05 + 0.03 * round_number)
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        acknowledged |= {(f"p{n}", int(v)) for n, v in (line.split() for line in lines if line.endswith("\n"))}
        with ExitStore(path, read_only=True) as reader:
            check(reader)
        with ExitStore(path) as store:
            stored = {(r.stream_id, r.version) for r in store.events()}
            assert acknowledged <= stored
            assert len(stored) <= len(acknowledged) + round_number + 1, "at most the one under way is there as well"
            check(store)
    assert len(acknowledged) > 20


# ---- tampering


TAMPER = {
    "changed": ("UPDATE stored_events SET state = REPLACE(state, '99.1', '98.1') WHERE rowid = 4", 4),
    "retyped": ("UPDATE stored_events SET state = CAST(state AS TEXT) || ' ' WHERE rowid = 7", 7),
    "renamed": ("UPDATE stored_events SET topic = 'exit_escalated.v1' WHERE rowid = 3", 3),
    "moved to another stream": ("UPDATE stored_events SET originator_id = 'p9' WHERE rowid = 10", 10),
    "another version": ("UPDATE stored_events SET originator_version = 9 WHERE rowid = 5", 5),
    "no text any more": ("UPDATE stored_events SET topic = CAST(x'ff' AS TEXT) WHERE rowid = 2", 2),
    "deleted": ("DELETE FROM stored_events WHERE rowid = 6", 6),
    "deleted at the end": ("DELETE FROM stored_events WHERE rowid = 10", 10),
    "deleted with its hash": ("DELETE FROM stored_events WHERE rowid = 6; DELETE FROM chain WHERE sequence = 6", 6),
    "hash deleted": ("DELETE FROM chain WHERE sequence = 2", 2),
    "hash changed": ("UPDATE chain SET hash = zeroblob(32) WHERE sequence = 8", 8),
    "reordered": ("UPDATE stored_events SET rowid = -rowid WHERE rowid IN (4, 9);"
                  "UPDATE stored_events SET rowid = 13 + rowid WHERE rowid < 0", 4),
    "added": ("INSERT INTO stored_events VALUES (11, 'p9', 1, 'stop_moved.v1', '{}')", 11),
    "added in front": ("INSERT INTO stored_events VALUES (0, 'p9', 1, 'stop_moved.v1', '{}')", 1),
    "hash added": ("INSERT INTO chain VALUES (11, zeroblob(32))", 11),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPER)
def test_tampering_shows(store, path, how):
    put(store, "p1", *life())
    put(store, "p2", *life("c2", "MSFT"))
    assert store.verify_chain() is None
    sql, broken = TAMPER[how]
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(sql)
    assert store.verify_chain() == broken


def test_a_store_whose_end_was_cut_off_is_not_written_on(path):
    with ExitStore(path) as store:
        put(store, "p1", *life())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM stored_events WHERE rowid = 5")
    with pytest.raises(StoreError, match=r"changed by other hands.*restore a backup"):
        ExitStore(path)
    with ExitStore(path, read_only=True) as reader:
        assert reader.verify_chain() == 5


def test_the_head_of_the_chain_names_the_whole_history(path):
    heads = []
    for price in ("99.1", "99.2"):
        with ExitStore(":memory:") as store:
            assert store.chain_head() == (0, "00" * 32)
            put(store, "p1", *life()[:3])
            fills = FillsRecorded(client_order_id="c1", filled_qty=D(10), avg_fill_price=D(price), at=T0)
            put(store, "p1", fills, after=3)
            heads.append(store.chain_head())
    assert heads[0][0] == heads[1][0] == 4
    assert heads[0][1] != heads[1][1]
    with ExitStore(path) as store:
        put(store, "p1", *life()[:4])
        assert store.chain_head() == heads[0], "the same events have the same head on any machine"


def test_the_chain_is_permanent(store, path):
    """A store of yesterday must verify tomorrow: bytes and hashes as they are documented, made here independently."""
    put(store, "account:x", AlarmRaised(alarm_id="a1", kind="k", text="Ünruhe", at=T0), TradingResumed(by="me", at=T0))
    put(store, "p1", stop_moved(7))
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT rowid, originator_id, originator_version, topic, state FROM stored_events").fetchall()
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


def test_a_store_is_bound_to_one_account_and_endpoint(path):
    with ExitStore(path) as store:
        store.bind("acc1")
        store.bind("acc1", "paper")
        assert store.meta == {"account": "acc1", "created_by": "exitfsm", "endpoint": "paper", "format": "1"}
    with ExitStore(path) as store:
        store.bind("acc1", "paper")
        with pytest.raises(StoreError, match="written for account 'acc1', not 'acc2'"):
            store.bind("acc2", "paper")
        with pytest.raises(StoreError, match="written for endpoint 'paper', not 'live'"):
            store.bind("acc1", "live")
    with ExitStore(path, read_only=True) as reader:
        reader.bind("acc1", "paper")
        with pytest.raises(StoreError, match="acc2"):
            reader.bind("acc2")


def test_topics_are_the_tags():
    names = {tag_of(cls) for cls in (*POSITION_EVENTS, *ACCOUNT_EVENTS)}
    assert len(names) == len(POSITION_EVENTS) + len(ACCOUNT_EVENTS)
    assert all(name.rpartition(".v")[2].isdigit() for name in names)


def test_a_policy_that_was_read_before_is_taken_for_the_policy_of_an_event_and_for_nothing_else():
    mapper = EventMapper()
    first, other = opened(), msgspec.structs.replace(opened(), policy=ExitPolicy(exit_cooldown_seconds=7))
    topic, known = (encoded := mapper.encode(1, "bot", first)).topic, encoded.state
    assert mapper.recorded(1, "p1", 1, topic, known).event == first
    seven, text = mapper.encode(1, "bot", other).state, msgspec.json.encode(first.policy)
    assert b'"policy":' + text in known
    assert b'"policy":' + text not in seven

    for place in (b'"body":{', b'"epoch":"1",'):
        before, found, after = seven.replace(b'"epoch":', b'"epoch":"1","epoch":').partition(place)
        crafted = before + found + b'"later":{"policy":' + text + b"}," + after
        mapper.recorded(1, "p1", 1, topic, known)  # its policy is the newest that was read
        assert mapper.recorded(1, "p1", 1, topic, crafted).event == other
    only_there = known.replace(b'"policy":' + text, b'"later":{"policy":' + text + b"}")
    with pytest.raises(StoreError, match="policy"):
        mapper.recorded(1, "p1", 1, topic, only_there)
