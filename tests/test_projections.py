"""What each event does to the read models, and that however they are folded the rows are the same."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Recorded,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.lifecycle import LOOKUP
from exitfsm.policy import ExitPolicy
from exitfsm.position import replay
from exitfsm.projections import KINDS, MARK, TABLES, Mark, ReadModels, differences, mark_params
from exitfsm.projections import tables as tables_module
from exitfsm.store.sqlite.layout import DDL
from exitfsm.values import Alarm, ExitType, OrderType, Side, TimeInForce

T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
POLICY = ExitPolicy()
D = Decimal


class Tables:
    """The read models in a database of their own."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for statement in DDL:
            self.db.execute(statement)
        self.models = ReadModels(self._load, self._last_order_id)
        self.versions: dict[str, int] = {}
        self.log: list[Recorded] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def _load(self, name: str, owner: str) -> list[dict[str, Any]]:
        table = TABLES[name]
        sql = f"SELECT {', '.join(table.columns)} FROM {name} WHERE {table.owner} = ? ORDER BY {', '.join(table.key)}"
        return [dict(zip(table.columns, row, strict=True)) for row in self.db.execute(sql, (owner,))]

    def _last_order_id(self) -> int:
        return self.db.execute("SELECT MAX(id) FROM exit_orders").fetchone()[0] or 0

    def take(self, stream_id: str, *events: Event, at: datetime = T0) -> None:
        """Folds events; nothing is written yet."""
        for event in events:
            self.versions[stream_id] = version = self.versions.get(stream_id, 0) + 1
            ns = int((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000
            recorded = Recorded(stream_id=stream_id, version=version, at_ns=ns, by="bar", event=event)
            self.log.append(recorded)
            self.models.apply(recorded)

    def write(self) -> None:
        for sql, rows in self.models.writes():
            self.db.executemany(sql, rows)

    def rows(self, name: str) -> list[Any]:
        table = TABLES[name]
        sql = f"SELECT {', '.join(table.columns)} FROM {name} ORDER BY {', '.join(table.key)}"
        return [msgspec.convert(row, table.row) for row in self.db.execute(sql).fetchall()]

    def then(self, stream_id: str, *events: Event, at: datetime = T0) -> Tables:
        self.take(stream_id, *events, at=at)
        self.write()
        return self

    @property
    def order(self) -> Any:
        return self.rows("exit_orders")[-1]

    @property
    def tracking(self) -> Any:
        return self.rows("position_tracking")[0]

    @property
    def position(self) -> Any:
        return self.rows("positions")[0]


def opened(symbol: str = "AAPL", side: Side = Side.LONG, qty: str = "10", price: str = "100.5") -> PositionOpened:
    return PositionOpened(
        account="acc", symbol=symbol, side=side, epoch="e1", qty=D(qty), entry_price=D(price), opened_at=T0,
        policy=POLICY, strategy_name="s",
    )  # fmt: skip


def triggered(coid: str = "c1", qty: str = "10", attempt: int = 1) -> ExitTriggered:
    return ExitTriggered(
        reason=ExitType.PROFIT_TAKE, client_order_id=coid, attempt=attempt, qty=D(qty), order_type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY, at=T0, trigger_price=D("103"), level=D("102.51"), threshold_pct=D("2.0"),
    )  # fmt: skip


def retried(coid: str = "c2", qty: str = "6", attempt: int = 2) -> ExitRetried:
    return ExitRetried(
        client_order_id=coid, attempt=attempt, qty=D(qty), order_type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY, at=T0, budget_spent=attempt - 1,
    )  # fmt: skip


def accepted(coid: str = "c1") -> OrderAccepted:
    return OrderAccepted(client_order_id=coid, broker_order_id=f"b-{coid}", at=T0)


def fills(qty: str, price: str | None = "102.6", coid: str = "c1", corrected: bool = False) -> FillsRecorded:
    return FillsRecorded(
        client_order_id=coid, filled_qty=D(qty), avg_fill_price=None if price is None else D(price), at=T0,
        corrected=corrected,
    )  # fmt: skip


def ended(how: str, qty: str = "0", coid: str = "c1") -> OrderEnded:
    return OrderEnded(client_order_id=coid, how=how, filled_qty=D(qty), at=T0, next_attempt_at=None)


def completed(qty: str = "10") -> ExitCompleted:
    return ExitCompleted(
        filled_qty=D(qty), avg_fill_price=D("102.6"), filled_at=T0, at=T0, cooldown_until=T0 + timedelta(seconds=300)
    )


def cancel(coid: str = "c1") -> CancelRequested:
    return CancelRequested(client_order_id=coid, at=T0, why="slow")


@pytest.fixture
def tables() -> Iterator[Tables]:
    with Tables() as tables:
        yield tables


# ---- one test for each thing that a row says


def test_an_opened_position_is_tracked_as_monitoring(tables):
    row = tables.then("p1", opened()).tracking
    assert (row.symbol, row.qty, row.avg_entry_price, row.status) == ("AAPL", D(10), D("100.5"), "monitoring")
    assert (row.exit_order_id, row.current_price, row.created_at_utc) == (None, None, T0)
    assert tables.position.state == "monitoring"
    assert tables.position.strategy_name == "s"


def test_a_trigger_inserts_a_pending_order_as_of_the_trigger(tables):
    order = tables.then("p1", opened()).then("p1", triggered()).order
    assert (order.id, order.client_order_id, order.symbol, order.side) == (1, "c1", "AAPL", "sell")
    assert (order.qty, order.filled_qty, order.avg_fill_price) == (D(10), D(0), None)
    assert (order.exit_type, order.entry_price) == ("profit_take", D("100.5"))
    assert (order.target_price, order.threshold_pct) == (D("102.51"), D(2))
    assert (order.status, order.resubmit_count, order.alpaca_order_id, order.filled_at_utc) == (
        "pending",
        0,
        None,
        None,
    )
    assert tables.tracking.status == "exit_pending"
    assert tables.tracking.exit_order_id == 1
    assert tables.position.exit_reason == "profit_take"


def test_a_short_is_exited_by_a_buy(tables):
    assert tables.then("p1", opened(side=Side.SHORT), triggered()).order.side == "buy"


def test_a_retry_is_a_row_of_its_own_with_the_reason_of_the_trigger(tables):
    tables.then("p1", opened(), triggered(), accepted(), ended("rejected"))
    tables.then("p1", PositionResized(qty=D(99), entry_price=D(1), at=T0), retried())
    first, second = tables.rows("exit_orders")
    assert (first.status, second.status) == ("rejected", "pending")
    assert (second.resubmit_count, second.qty) == (1, D(6))
    same = ("exit_type", "entry_price", "target_price", "threshold_pct")
    assert [getattr(first, name) for name in same] == [getattr(second, name) for name in same]
    assert tables.tracking.exit_order_id == second.id


def test_a_retry_that_an_operator_orders_where_nothing_was_triggered_has_no_reason(tables):
    lost = ProtectionLost(why="?", at=T0)
    order = tables.then("p1", opened(), lost, retried("c1", "10", 1)).order
    assert (order.exit_type, order.target_price, order.entry_price) == (None, None, D("100.5"))


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([accepted()], "submitted"),
        ([accepted(), fills("4")], "partial"),
        ([accepted(), fills("10")], "filled"),
        ([accepted(), OrderRestated(client_order_id="c1", qty=D(9), at=T0), fills("9")], "filled"),
        ([accepted(), fills("9"), OrderRestated(client_order_id="c1", qty=D(9), at=T0)], "partial"),
        ([accepted(), cancel()], "canceling"),
        ([accepted(), ExitEscalated(client_order_id="c1", at=T0, why="stop")], "canceling"),
        ([accepted(), cancel(), fills("4")], "canceling"),
        ([accepted(), cancel(), fills("10")], "filled"),
        ([accepted(), cancel(), CancelRefused(client_order_id="c1", at=T0)], "submitted"),
        ([accepted(), fills("4"), cancel(), CancelRefused(client_order_id="c1", at=T0)], "partial"),
        ([ended("refused")], "rejected"),
        ([ended("rejected")], "rejected"),
        ([accepted(), ended("canceled")], "canceled"),
        ([accepted(), ended("expired")], "expired"),
        ([accepted(), ended("canceled", "4"), fills("5")], "canceled"),
        ([accepted(), ended("canceled", "4"), fills("10")], "filled"),
        ([accepted(), fills("10"), fills("8", corrected=True)], "partial"),
        ([accepted(), ended("canceled", "4"), fills("3", corrected=True)], "canceled"),
    ],
)
def test_the_status_of_an_order(tables, events, status):
    tables.then("p1", opened(), triggered())
    for event in events:
        tables.then("p1", event)
    assert tables.order.status == status
    assert (tables.order.filled_at_utc == T0) == (status == "filled")


def test_fills_are_cumulative_figures(tables):
    tables.then("p1", opened(), triggered(), accepted(), fills("4", "102.5"), fills("7", "102.6"))
    assert (tables.order.filled_qty, tables.order.avg_fill_price) == (D(7), D("102.6"))
    assert (tables.position.sold_qty, tables.position.avg_exit_price) == (D(7), D("102.6"))


def test_what_is_sold_is_over_all_orders_and_exact_to_nine_places(tables):
    tables.then("p1", opened(qty="0.6"), triggered(qty="0.6"), accepted(), fills("0.1", "3"), ended("canceled", "0.1"))
    tables.then("p1", retried(qty="0.5"), fills("0.2", "4", "c2"))
    assert tables.position.sold_qty == D("0.3")
    assert tables.position.avg_exit_price == D("3.666666667")


def test_an_average_is_unknown_while_that_of_a_part_is(tables):
    tables.then("p1", opened(), triggered(), accepted(), fills("4", None), ended("canceled", "4"))
    tables.then("p1", retried(), fills("6", "102", "c2"))
    assert tables.position.sold_qty == D(10)
    assert tables.position.avg_exit_price is None


def test_a_completed_exit_ends_the_position_and_starts_the_cooldown(tables):
    tables.then("p1", opened(), triggered(), accepted(), fills("10"), completed())
    assert tables.tracking.status == "exited"
    row = tables.position
    assert (row.state, row.ended_at_utc, row.cooldown_until_utc) == ("filled", T0, T0 + timedelta(seconds=300))
    assert (row.sold_qty, row.avg_exit_price, row.version) == (D(10), D("102.6"), 5)


def test_a_position_closed_by_hand_is_exited(tables):
    gone = PositionClosedElsewhere(how="by hand", remaining_qty=D(10), at=T0, cooldown_until=T0)
    tables.then("p1", opened(), gone)
    assert (tables.tracking.status, tables.position.state) == ("exited", "closed")


def test_an_unprotected_position_is_pending_only_where_an_exit_was_triggered(tables):
    lost = ProtectionLost(why="?", at=T0)
    assert tables.then("p1", opened(), lost).tracking.status == "monitoring"
    with Tables() as others:
        assert others.then("p1", opened(), triggered(), lost).tracking.status == "exit_pending"


def test_a_released_position_is_monitored_again_without_its_exit(tables):
    tables.then("p1", opened(), triggered(), accepted(), fills("4"), ended("canceled", "4"))
    tables.then("p1", ProtectionLost(why="?", at=T0), PositionReleased(by="me", at=T0, qty=D(6), entry_price=D(101)))
    row = tables.tracking
    assert (row.status, row.exit_order_id, row.qty, row.avg_entry_price) == ("monitoring", None, D(6), D(101))
    assert (tables.position.state, tables.position.exit_reason) == ("monitoring", None)
    assert (tables.position.qty, tables.position.sold_qty) == (D(10), D(4)), "what is sold counts into the whole"


def test_a_contradiction_opens_an_ended_position_again(tables):
    tables.then("p1", opened(), triggered(), accepted(), fills("10"), completed(), ProtectionLost(why="bust", at=T0))
    assert (tables.position.state, tables.position.ended_at_utc) == ("unprotected", None)
    assert tables.tracking.status == "exit_pending"


def test_the_newest_position_takes_the_row_of_its_symbol_over_with_all_marks(tables):
    tables.then("p1", opened(), triggered(), accepted(), fills("10"), completed())
    mark = Mark(symbol="AAPL", position_id="p1", price=D("102.6"), pnl_pct=D("2.1"), best_price=D(103), at=T0)
    tables.db.execute(MARK, mark_params(mark))
    assert tables.tracking.highest_price == D(103)
    tables.then("p2", opened(qty="3"))
    row = tables.tracking
    assert (row.position_id, row.qty, row.status, row.highest_price, row.exit_order_id) == (
        "p2",
        D(3),
        "monitoring",
        None,
        None,
    )
    tables.then("p1", ProtectionLost(why="late fill", at=T0))
    assert (tables.tracking.position_id, tables.tracking.status) == ("p2", "monitoring")


def test_alarms_stand_until_they_are_acknowledged(tables):
    raised = AlarmRaised(alarm_id="a1", kind="stall", text="look", at=T0)
    tables.then("p1", opened(), raised)
    assert tables.position.open_alarms == 1
    (row,) = tables.rows("alarms")
    assert row.alarm == Alarm(alarm_id="a1", kind="stall", text="look", raised_at=T0)
    tables.then("p1", AlarmAcknowledged(alarm_id="a1", by="me", at=T0))
    assert tables.position.open_alarms == 0
    assert [(a.acknowledged_by, a.acknowledged_at_utc) for a in tables.rows("alarms")] == [("me", T0)]
    tables.then("p1", raised)
    assert tables.position.open_alarms == 1, "raised again it stands again"


def test_the_account_stream_touches_the_alarms_only(tables):
    tables.then("account:x", AlarmRaised(alarm_id="a1", kind="feed", text="lost", at=T0), opened(), triggered())
    assert [a.stream_id for a in tables.rows("alarms")] == ["account:x"]
    assert [tables.rows(name) for name in TABLES if name != "alarms"] == [[], [], []]


def test_the_database_refuses_a_second_live_order_of_a_position(tables):
    tables.then("p1", opened(), triggered(), accepted())
    with pytest.raises(sqlite3.IntegrityError):
        tables.then("p1", retried())


def test_the_database_refuses_a_client_order_id_that_was_used(tables):
    tables.then("p1", opened(), triggered())
    with pytest.raises(sqlite3.IntegrityError):
        tables.then("p2", opened("MSFT"), triggered())


def test_an_exit_that_was_withdrawn_leaves_its_row_and_its_id_to_the_next(tables):
    tables.then("p1", opened(), triggered(), ExitWithdrawn(client_order_id="c1", at=T0, why="a split"))
    number = tables.order.id
    tables.then("p1", triggered(qty="20"))
    assert len(tables.rows("exit_orders")) == 1
    assert (tables.order.id, tables.order.status, tables.order.qty) == (number, "pending", 20)


@pytest.mark.parametrize("over", [[accepted(), ended("canceled")], [ended("rejected")]], ids=["sent", "refused"])
def test_an_id_under_which_an_order_was_sent_never_gets_its_row_again(tables, over):
    tables.then("p1", opened(), triggered(), *over)
    before = tables.order
    with pytest.raises(sqlite3.IntegrityError):
        tables.then("p1", retried("c1"))
    assert tables.rows("exit_orders") == [before]


def test_orders_change_in_the_order_of_the_events_so_that_one_is_over_before_the_next_is_live(tables):
    first = [opened(), triggered(), accepted(), fills("10"), retried()]
    tables.then("p1", *first).then("p1", ended("canceled", "0", "c2"))

    # Now the second works again, and then the first as well, which ends the second before.
    tables.take("p1", fills("9", corrected=True), ended("expired", "9"), fills("1", None, "c2", corrected=True))

    changes = [rows for sql, rows in tables.models.writes() if sql.startswith("UPDATE exit_orders")]
    assert [[row[-1] for row in rows] for rows in changes] == [[1, 2]]


def test_what_has_not_changed_is_not_written_again(tables):
    tables.then("p1", opened())
    tables.take("p1", StopMoved(rule=ExitType.TRAILING_STOP, stop=D(1), best_price=D(2), bar_at=T0))

    [(sql, rows)] = tables.models.writes()

    assert sql == "UPDATE positions SET version = ?, state = ? WHERE position_id = ?"
    assert rows == [(2, "monitoring", "p1")]


def test_a_column_that_no_event_may_change_is_refused(tables):
    tables.then("p1", opened())
    tables.models.change("positions", tables.models.one("positions", "p1"), opened_at_utc="2024-01-01T00:00:00Z")
    with pytest.raises(LookupError, match="opened_at_utc"):
        tables.write()


def test_columns_compare_as_numbers(tables):
    tables.then("p1", opened(price="9.5")).then("p2", opened("MSFT", price="10.25")).then(
        "p3", opened("X", price="100")
    )
    found = tables.db.execute(
        "SELECT symbol FROM position_tracking WHERE avg_entry_price > 9.9 ORDER BY avg_entry_price"
    )
    assert [row[0] for row in found] == ["MSFT", "X"]


def test_the_tables_have_the_columns_and_indexes_that_are_promised(tables):
    for name, table in TABLES.items():
        columns = [row[1] for row in tables.db.execute(f"PRAGMA table_info({name})")]
        assert columns == list(table.columns), name
    indexed = {
        tuple(column[2] for column in tables.db.execute(f"PRAGMA index_info({index[1]})"))
        for index in tables.db.execute("PRAGMA index_list(exit_orders)")
    }
    assert {("symbol", "status"), ("client_order_id",)} <= indexed
    plan = tables.db.execute("EXPLAIN QUERY PLAN SELECT * FROM positions WHERE state NOT IN ('filled', 'closed')")
    assert "positions_open" in plan.fetchall()[0][3], "open positions are found without reading the history"


# ---- whatever happens


def story(rng: random.Random, stream: str, symbol: str, length: int) -> list[Event]:
    """A random history that the lifecycle allows: the next order comes only once the one before it is over."""
    events: list[Event] = [opened(symbol, rng.choice(list(Side)), rng.choice(["1", "0.1", "10", "123456.789"]))]
    for _ in range(length - 1):
        position = replay(events)
        classes = [cls for cls in POSITION_EVENTS if (position.state, cls) in LOOKUP]
        cls = rng.choice(classes)
        if cls in NEXT_ORDER and position.order_live:
            cls = OrderEnded
        if cls in ABOUT_AN_ORDER and not position.client_order_id:
            cls = AlarmRaised
        attempt = position.attempt + (cls in NEXT_ORDER)
        events.append(made(rng, cls, f"{stream}-{attempt}", attempt))
    return events


LIVE = ("pending", "submitted", "partial", "canceling")
NEXT_ORDER = (ExitTriggered, ExitRetried, PositionReleased, LegCompleted)
ABOUT_AN_ORDER = (OrderEnded, CancelRequested, FillsRecorded, ExitWithdrawn)


def made(rng: random.Random, cls: type[Event], coid: str, attempt: int) -> Event:
    """An event of this class with random figures."""

    def figure() -> Decimal:
        return D(rng.randint(0, 10**6)).scaleb(-rng.randint(0, 6))

    def price() -> str | None:
        return rng.choice([None, str(figure())])

    alarm = str(rng.randint(1, 3))
    make: dict[type[Event], Callable[[], Event]] = {
        PositionResized: lambda: PositionResized(qty=figure(), entry_price=figure(), at=T0),
        PolicyChanged: lambda: PolicyChanged(policy=POLICY, at=T0),
        StopMoved: lambda: StopMoved(rule=ExitType.TRAILING_STOP, stop=figure(), best_price=figure(), bar_at=T0),
        TriggerRefused: lambda: TriggerRefused(reason="stale", bar_at=T0, price="1"),
        RefusalEnded: lambda: RefusalEnded(reason="stale", count=2, bar_at=T0),
        ExitTriggered: lambda: triggered(coid, str(figure() + 1), attempt),
        ExitRetried: lambda: retried(coid, str(figure() + 1), attempt),
        OrderAccepted: lambda: accepted(coid),
        FillsRecorded: lambda: fills(str(figure()), price(), coid, rng.random() < 0.2),
        OrderRestated: lambda: OrderRestated(client_order_id=coid, qty=figure() + 1, at=T0),
        CancelRequested: lambda: cancel(coid),
        CancelRefused: lambda: CancelRefused(client_order_id=coid, at=T0),
        ExitPostponed: lambda: ExitPostponed(client_order_id=coid, at=T0, until=T0, times=1, refusal="halted"),
        ExitEscalated: lambda: ExitEscalated(client_order_id=coid, at=T0, why="stop"),
        OrderEnded: lambda: ended(rng.choice(["rejected", "refused", "canceled", "expired"]), str(figure()), coid),
        ExitCompleted: lambda: completed(str(figure())),
        PositionClosedElsewhere: lambda: PositionClosedElsewhere(
            how="by hand", remaining_qty=D(1), at=T0, cooldown_until=T0
        ),
        ProtectionLost: lambda: ProtectionLost(why="?", at=T0),
        LegCompleted: lambda: LegCompleted(
            client_order_id=coid, leg="1", filled_qty=figure(), remaining_qty=figure(), at=T0
        ),
        LegWidened: lambda: LegWidened(reason=ExitType.STOP_LOSS, at=T0),
        UnitChanged: lambda: UnitChanged(factor=D(2), qty=figure() + 1, entry_price=figure() + 1, at=T0),
        ExitWithdrawn: lambda: ExitWithdrawn(client_order_id=coid, at=T0, why="a split"),
        PositionReleased: lambda: PositionReleased(by="me", at=T0, qty=figure(), entry_price=figure()),
        AlarmRaised: lambda: AlarmRaised(alarm_id=alarm, kind="k", text="t", at=T0),
        AlarmAcknowledged: lambda: AlarmAcknowledged(alarm_id=alarm, by="me", at=T0),
    }
    return make[cls]()


@given(seed=st.integers(0, 2**32), length=st.integers(1, 40))
def test_however_they_are_folded_the_rows_are_the_same(seed, length):
    rng = random.Random(seed)
    stories = {f"p{n}": story(rng, f"p{n}", rng.choice(["AAPL", "MSFT"]), length) for n in range(3)}
    with Tables() as tables, Tables() as again:
        _fold_in_any_order(rng, stories, tables)
        for recorded in tables.log:
            again.models.apply(recorded)
            again.write()
        for name in TABLES:
            assert tables.rows(name) == again.rows(name)
        _rows_say_what_the_events_say(tables, stories)


def _fold_in_any_order(rng, stories, tables):
    queues = {stream: list(events) for stream, events in stories.items()}
    while queues:
        stream = rng.choice(sorted(queues))
        tables.take(stream, queues[stream].pop(0), at=T0 + timedelta(seconds=rng.randint(0, 9)))
        if not queues[stream]:
            del queues[stream]
        if rng.random() < 0.5:
            tables.write()
            if rng.random() < 0.5:
                tables.models.forget()
    tables.write()


def _rows_say_what_the_events_say(tables, stories):
    for row in tables.rows("positions"):
        position = replay(stories[row.position_id])
        assert row.state == position.state
        assert row.version == position.version
        assert row.open_alarms == len({alarm.alarm_id for alarm in position.alarms})
        assert row.cooldown_until_utc == position.cooldown_until
        assert row.exit_reason == position.reason
        live = [o for o in tables.rows("exit_orders") if o.position_id == row.position_id and o.status in LIVE]
        assert len(live) == position.order_live


@given(st.lists(st.sampled_from(sorted(POSITION_EVENTS, key=str)), max_size=12), st.integers(0, 2**32))
def test_events_that_the_lifecycle_forbids_change_nothing_rather_than_fail(classes, seed):
    rng = random.Random(seed)
    with Tables() as tables:
        for number, cls in enumerate(classes):
            if cls is not PositionOpened and not (
                cls in NEXT_ORDER and any(o.status in LIVE for o in tables.rows("exit_orders"))
            ):
                tables.then("p1", made(rng, cls, f"c{number}", number))
            else:
                tables.then("p1", opened())


def test_a_position_is_opened_once(tables):
    tables.then("p1", opened(), opened(qty="7"))
    assert [row.qty for row in tables.rows("position_tracking")] == [10]


def test_differences_name_row_and_column(tables):
    tables.then("p1", opened()).then("p2", opened("MSFT"))
    rows = tables.db.execute("SELECT * FROM position_tracking ORDER BY symbol").fetchall()
    changed = (rows[0][0], 11, *rows[0][2:3], 55.5, *rows[0][4:])
    lines = list(differences("position_tracking", [changed], rows))
    assert lines == ["position_tracking AAPL: qty is 11, not 10", "position_tracking MSFT: the row is missing"]
    assert list(differences("position_tracking", rows, rows[:1])) == ["position_tracking MSFT: no event made this row"]


@pytest.mark.parametrize(
    "event",
    [
        accepted("c9"),
        fills("4", coid="c9"),
        OrderRestated(client_order_id="c9", qty=D(3), at=T0),
        cancel("c9"),
        ExitEscalated(client_order_id="c9", at=T0, why="stop"),
        CancelRefused(client_order_id="c9", at=T0),
        ended("canceled", "4", "c9"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_news_of_an_order_that_has_no_row_leave_those_of_the_others_as_they_are(tables, event):
    tables.then("p1", opened(), triggered(), accepted())
    order, tracking = tables.order, tables.tracking
    tables.then("p1", event)
    assert (tables.order, tables.tracking) == (order, tracking)
    assert tables.position.version == 4


def test_a_refused_cancel_of_an_order_that_is_over_does_not_bring_it_back(tables):
    tables.then("p1", opened(), triggered(), accepted(), fills("10"), CancelRefused(client_order_id="c1", at=T0))
    assert tables.order.status == "filled"


def test_an_order_that_was_refused_and_works_after_all_is_live_again(tables):
    tables.then("p1", opened(), triggered(), ended("refused"), ProtectionLost(why="?", at=T0), accepted())
    assert tables.order.status == "submitted"


def test_each_statement_says_what_it_writes() -> None:
    """For a database that takes many rows at once: table, columns of the parameters, and which tell the rows apart."""
    assert tables_module.shape(MARK) == tables_module.Shape(
        "UPDATE", "position_tracking", (*tables_module.MARKS, "symbol", "position_id"), (4, 5)
    )
    for name, table in TABLES.items():
        insert = tables_module.shape(tables_module.INSERT[name])
        assert insert == tables_module.Shape("INSERT", name, table.columns, tuple(map(table.columns.index, table.key)))
        update = tables_module.update(name, table.changing[:2])
        shape = tables_module.shape(update.sql)
        assert shape is not None
        assert (shape.verb, shape.table) == ("UPDATE", name)
        row: Any = {column: column for column in table.columns}
        assert update.params(row) == shape.columns
        assert tuple(shape.columns[i] for i in shape.key_at) == table.key
        assert set(KINDS[name]) == set(table.columns)
    assert tables_module.shape("SELECT 1") is None
