"""The one door: reports, bars that are refused, rules of the user, and the simulated venue behind it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from engine_desk import Desk, checked_desk
from msgspec.structs import replace

from exitfsm.engine import Engine
from exitfsm.errors import OrderRefused, StoreError
from exitfsm.events import (
    AlarmRaised,
    ExitCompleted,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    PositionClosedElsewhere,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
)
from exitfsm.messages import ForceExit, PositionRead, RaiseAlarm, TimeSeen
from exitfsm.policy import Fault
from exitfsm.ports import Capabilities
from exitfsm.position import (
    READS_MIN,
    Cancel,
    LookUp,
    Position,
    Submit,
    client_order_id,
)
from exitfsm.simulated import Act, SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.testing.given import T0, after, bar, like, opened, policy, reported, to_open
from exitfsm.values import Bar, ExecutionReport, Order, OrderSide, OrderStatus, OrderType, Side


@pytest.fixture
def desk() -> Iterator[Desk]:
    yield from checked_desk()


# --- reports ----------------------------------------------------------------------------------------------------------


def test_given_an_ended_position_when_a_fill_comes_late_then_it_is_open_again_and_alarmed(desk: Desk) -> None:
    p = desk.buy()
    desk.bar(99, 60)
    desk.bar(99, 120)
    assert desk.engine.positions == {}
    late = ExecutionReport(
        client_order_id=client_order_id(p.position_id, 1),
        status=OrderStatus.FILLED,
        at=after(200),
        filled_qty=Decimal(11),
    )
    desk.engine.on_report(late, at=after(200))
    assert [type(e) for e in desk.events(p)[-3:]] == [ProtectionLost, FillsRecorded, AlarmRaised]
    assert desk.engine.positions[p.position_id].state == "unprotected"
    assert [a.kind for a in desk.store.alarms()] == ["protection_lost"]


def test_given_a_report_of_an_order_that_is_not_ours_then_nothing_happens(desk: Desk) -> None:
    p = desk.buy()
    stranger = ExecutionReport(client_order_id="manual-7", status=OrderStatus.FILLED, at=T0, filled_qty=Decimal(5))
    assert desk.engine.on_report(stranger, at=after(60)) == []
    assert desk.events(p) == []


def test_given_several_messages_to_one_position_when_they_come_together_then_each_sees_the_one_before(
    desk: Desk,
) -> None:
    p = desk.buy()
    desk.engine.on_bar(bar(99, 60))
    position = desk.now(p)
    messages = [reported("partially_filled", n, 99)(position) for n in (3, 7, 7, 2)]
    desk.engine.tell_all([(p.position_id, m) for m in messages])
    assert [e.filled_qty for e in desk.events(p) if isinstance(e, FillsRecorded)] == [3, 7]


# --- bars that are refused, rules of the user, pause ------------------------------------------------------------------


def test_given_runs_of_refused_bars_then_each_is_one_entry_with_its_count(desk: Desk) -> None:
    p = desk.buy()
    for at, close in ((60, "NaN"), (120, "NaN"), (180, 300), (240, 300), (300, 300), (360, "100.5"), (420, "NaN")):
        desk.bar(close, at)
    runs = [(r.reason, r.price, r.count, r.first_at, r.last_at) for r in desk.engine.refusals()]
    assert runs == [
        ("not_finite", "NaN", 2, after(60), after(120)),
        ("price_jump", "300", 3, after(180), after(300)),
        ("not_finite", "NaN", 1, after(420), after(420)),
    ]
    assert [(type(e), getattr(e, "count", None)) for e in desk.events(p)] == [
        (TriggerRefused, None),
        (RefusalEnded, 2),
        (TriggerRefused, None),
        (AlarmRaised, None),
        (RefusalEnded, 3),
        (TriggerRefused, None),
    ]


def test_given_a_bar_that_was_seen_or_is_out_of_order_then_it_decides_nothing_and_is_counted(desk: Desk) -> None:
    p = desk.buy()
    desk.bar(100, 120)
    desk.bar(90, 120)
    desk.bar(90, 60)
    assert [e.reason for e in desk.events(p) if isinstance(e, TriggerRefused)] == ["already_seen", "out_of_order"]
    assert desk.now(p).state == "monitoring"


def test_given_a_bar_that_is_old_when_it_arrives_then_it_is_refused_live_and_not_in_simulation(desk: Desk) -> None:
    p = desk.buy()
    assert desk.engine.on_bar(bar("100.1", 60), received_at=after(361)) == ()
    assert desk.events(p) == [like(TriggerRefused, reason="stale")]
    assert desk.engine.on_bar(bar(99, 120), received_at=after(420)) != []


def test_given_a_jump_that_a_person_explains_when_prices_start_over_then_bars_are_believed_again(desk: Desk) -> None:
    p = desk.buy(700, rules=policy(stop_loss={"threshold_pct": 95}))
    desk.bar(100, 60)
    assert desk.engine.fault(bar(100, 120)) is not None
    desk.engine.rebase("AAPL", bar(100, 120))
    assert desk.engine.fault(bar(101, 180)) is None
    desk.bar(101, 180)
    assert desk.now(p).refusing is None


def test_given_a_custom_rule_when_it_answers_then_it_exits_and_when_it_fails_the_levels_hold(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def rule(p: Position, the_bar: Bar) -> str | None:
        if the_bar.close == 101:
            raise ZeroDivisionError
        return "time to go" if the_bar.close > Decimal("101.5") else None

    rules = policy(custom_rule={"name": "mine", "version": "2"}, profit_taking=False)
    for closes, reason in (([100, 101, "101.6"], "custom"), ([101, 99], "stop_loss")):
        desk = Desk(rules={("mine", "2"): rule})
        p = desk.buy(rules=rules)
        for minute, close in enumerate(closes, 1):
            desk.engine.on_bar(bar(close, 60 * minute))
        assert [e.reason for e in desk.events(p)] == [reason]
        assert "rule_failed" in caplog.text
        caplog.clear()


def test_given_a_custom_rule_that_is_not_there_then_the_levels_hold_and_it_is_logged(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    p = desk.buy(rules=policy(custom_rule={"name": "mine"}))
    with caplog.at_level(logging.ERROR):
        desk.engine.on_bar(bar(99, 60))
    assert desk.events(p) == [like(ExitTriggered, reason="stop_loss")]
    assert "rule_missing name=mine" in caplog.text


def test_given_a_pause_when_time_that_was_told_before_comes_in_then_no_rule_of_time_exits(desk: Desk) -> None:
    p = desk.buy(rules=policy(time_limit={"enabled": True, "max_seconds": 60}))
    told = TimeSeen(at=after(120), price=Decimal(100))
    desk.engine.pause()
    assert desk.engine.tell(p.position_id, told) == []
    desk.engine.resume()
    assert [type(action) for action in desk.engine.tell(p.position_id, told)] == [Submit]


def test_given_a_pause_when_levels_are_breached_then_it_is_recorded_and_exits_under_way_go_on(desk: Desk) -> None:
    under_way, p = desk.buy(symbol="MSFT"), desk.buy()
    desk.bar(99, 60, symbol="MSFT")
    desk.engine.pause()
    desk.bar(99, 60)
    desk.bar(99, 120, symbol="MSFT")
    assert desk.now(under_way).state == "filled"
    assert desk.events(p) == [like(TriggerRefused, reason="paused")]
    desk.engine.tell(p.position_id, ForceExit(at=after(90)))
    assert desk.now(p).state == "pending"  # an operator outranks the pause


# --- what is known besides --------------------------------------------------------------------------------------------


def test_given_bars_then_the_marks_follow_without_any_event(desk: Desk) -> None:
    p = desk.buy()
    short = desk.buy(side=Side.SHORT, symbol="MSFT")
    desk.bar("101.5", 60)
    desk.bar("100.5", 120)
    desk.bar("99.5", 60, symbol="MSFT")
    marks = {m.position_id: m for m in desk.engine.marks()}
    assert (marks[p.position_id].price, marks[p.position_id].best_price) == (Decimal("100.5"), Decimal("101.5"))
    assert (marks[p.position_id].pnl_pct, marks[p.position_id].at) == (Decimal("0.5"), after(120))
    assert marks[short.position_id].pnl_pct == Decimal("0.5")
    desk.store.save_marks(marks.values())
    row = desk.store.tracking("AAPL")
    assert (row.current_price, row.unrealised_pnl_pct, row.highest_price) == (
        Decimal("100.5"),
        Decimal("0.5"),
        Decimal("101.5"),
    )
    assert desk.store.count() == 2


def test_given_time_passes_then_only_what_waits_for_it_moves(desk: Desk) -> None:
    limit = policy(profit_taking={"order_type": "limit"})
    resting, other = desk.buy(rules=limit), desk.buy(symbol="MSFT", rules=limit)
    for symbol in ("AAPL", "MSFT"):
        desk.broker.script(symbol, Act(then="rest"))
        desk.bar(102, 60, symbol=symbol)
    assert desk.engine.tick(after(89)) == []
    assert [type(a) for a in desk.engine.tick(after(9999), symbol="AAPL")] == [Cancel]
    assert (desk.now(resting).state, desk.now(other).state) == ("canceling", "submitted")


def test_given_a_wait_that_is_too_long_then_the_alarm_is_stored_once(desk: Desk) -> None:
    desk.buy()
    desk.engine.on_bar(bar(99, 60))
    for seconds in (100, 200, 300):
        desk.engine.tick(after(60 + seconds), patience_s=100)
    assert [a.kind for a in desk.store.alarms()] == ["submit_unresolved"]


def test_given_the_whole_life_of_a_trail_then_the_log_tells_each_step(desk: Desk) -> None:
    p = desk.buy(rules=policy(trailing_stop={"trail_pct": 1, "activation_pct": 1}, profit_taking=False))
    for minute, close in enumerate((101, "101.05", 103, "102.5", "101.97"), 1):
        desk.bar(close, 60 * minute)
    desk.bar("101.9", 360, open="101.8")
    log = desk.events(p)
    assert [type(e) for e in log] == [StopMoved, StopMoved, ExitTriggered, OrderAccepted, FillsRecorded, ExitCompleted]
    assert log[2] == like(ExitTriggered, reason="trailing_stop", level=Decimal("101.97"), best_price=Decimal(103))
    assert log[-1] == like(ExitCompleted, avg_fill_price=Decimal("101.8"), filled_at=after(360))
    assert desk.now(p).state.terminal


def test_given_an_account_alarm_when_a_person_is_told_then_it_stands_in_the_store(desk: Desk) -> None:
    p = desk.buy()
    for _ in range(2):
        desk.engine.tell(p.position_id, RaiseAlarm(at=after(60), kind="feed_lost", text="no bars"))
    assert [(a.kind, a.stream_id) for a in desk.store.alarms()] == [("feed_lost", p.position_id)]


# --- the simulated venue ----------------------------------------------------------------------------------------------


def test_given_the_simulated_venue_then_it_fills_at_the_next_open_and_sells_no_more_than_is_held() -> None:
    desk = Desk(broker=SimulatedBroker(slippage_pct=Decimal(1)))
    desk.buy()
    (action,) = desk.engine.on_bar(bar(99, 60))
    report = desk.broker.submit(action.order)
    assert (report.status, report.filled_qty) == ("new", 0)
    with pytest.raises(OrderRefused, match="insufficient"):
        desk.broker.submit(replace(action.order, client_order_id="again"))
    (filled,) = desk.broker.on_bar(bar(95, 120, open=98))
    assert (filled.status, filled.avg_fill_price) == ("filled", Decimal("97.02"))
    assert desk.broker.held("AAPL") == 0
    with pytest.raises(OrderRefused, match="insufficient"):
        desk.broker.submit(replace(action.order, client_order_id="later"))


def test_given_the_simulated_venue_when_a_limit_is_reached_then_it_fills_there_or_better() -> None:
    venue = SimulatedBroker()
    order = Order(
        client_order_id="1",
        symbol="X",
        side=OrderSide.SELL,
        qty=Decimal(1),
        order_type=OrderType.LIMIT,
        limit_price=Decimal(10),
    )
    for number, (the_bar, price) in enumerate(
        (
            (bar("9.9", 60, symbol="X"), None),
            (bar("9.9", 60, open="9.8", high="10", symbol="X"), "10"),
            (bar("9.9", 60, open="10.5", symbol="X"), "10.5"),
        )
    ):
        venue.hold("X", Side.LONG, Decimal(1), Decimal(9), T0)
        venue.submit(replace(order, client_order_id=str(number)))
        reports = venue.on_bar(the_bar)
        assert [r.avg_fill_price for r in reports] == ([] if price is None else [Decimal(price)])
        if price is None:
            venue.cancel(str(number))


def test_given_a_scripted_fault_when_it_is_due_then_it_strikes_once_before_or_after_the_effect() -> None:
    desk = Desk()
    desk.buy()
    (action,) = desk.engine.on_bar(bar(99, 60))
    desk.broker.fail_next("submit", "before", TimeoutError())
    desk.broker.fail_next("submit", "after", TimeoutError())
    with pytest.raises(TimeoutError):
        desk.broker.submit(action.order)
    assert desk.broker.order(action.order.client_order_id) is None
    with pytest.raises(TimeoutError):
        desk.broker.submit(action.order)
    assert desk.broker.order(action.order.client_order_id) is not None
    with pytest.raises(OrderRefused):
        desk.broker.submit(action.order)


def test_given_a_broker_that_declares_nothing_then_the_careful_assumptions_hold() -> None:
    careful = Capabilities()
    assert careful.late_fill_window_s is None
    assert careful.late_fills
    assert not careful.reduce_only
    assert careful.ids_refused == "never"


def unclear(store: ExitStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The next append takes place, and raises all the same; then the store works as ever."""
    append_many = store.append_many

    def once(batches: Any) -> Any:
        monkeypatch.setattr(store, "append_many", append_many)
        append_many(batches)
        raise StoreError("disk I/O error: whether it was stored is not known")

    monkeypatch.setattr(store, "append_many", once)


def test_given_a_commit_that_fails_and_took_place_then_what_was_decided_is_owed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    p = desk.buy()
    unclear(desk.store, monkeypatch)
    (action,) = desk.engine.on_bar(bar(99, 60))
    assert isinstance(action, Submit)
    assert desk.now(p).state == "pending"
    assert [record.message.split()[0] for record in caplog.records] == ["commit_failed_and_took_place"]


@pytest.mark.parametrize("exits", [False, True])
def test_given_a_position_that_only_the_store_knows_when_it_is_opened_again_then_it_is_watched(
    desk: Desk, exits: bool
) -> None:
    other = Engine(desk.store, desk.broker.capabilities)
    p = other.open(to_open(opened()), bar=bar(100, 0))
    if exits:
        other.on_bar(bar(99, 60))
    assert desk.engine.positions == {}
    again = desk.engine.open(to_open(opened()))
    assert desk.engine.positions == {p.position_id: again}
    # Whether its order was sent, nobody knows.
    assert desk.engine.unknown == ({again.client_order_id} if exits else set())
    assert [type(a) for a in desk.engine.owed(after(60))] == ([LookUp] if exits else [])
    assert again is desk.engine.open(to_open(opened()))


def test_given_a_store_that_refuses_when_a_position_is_opened_then_it_is_not_watched(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "append_many", lambda batches: [StoreError("the disk is full") for _ in batches])
        with pytest.raises(StoreError, match="full"):
            desk.engine.open(to_open(opened()))
    assert desk.engine.positions == {}
    assert desk.store.stream_ids() == []


def test_given_a_row_that_calls_an_ended_position_open_when_it_is_loaded_then_its_events_count(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = desk.buy()
    held = desk.store.held()
    desk.store.append(
        p.position_id,
        1,
        [PositionClosedElsewhere(how="by_hand", remaining_qty=Decimal(10), at=after(60), cooldown_until=after(60))],
        at=after(60),
        by="broker",
    )
    monkeypatch.setattr(desk.store, "held", lambda: held)
    again = Engine(desk.store, desk.broker.capabilities)
    assert again.load() == 0
    assert again.positions == {}
    monkeypatch.undo()


def test_given_bars_together_when_one_closes_its_position_then_the_next_of_its_symbol_meets_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = desk.buy()
    woken = desk.engine._woken

    def and_it_is_over(*args: Any) -> Any:
        actions = woken(*args)
        read = PositionRead(at=after(60), began=after(60), qty=Decimal(0), reads=READS_MIN)
        return [*actions, *desk.engine.tell(p.position_id, read)]

    monkeypatch.setattr(desk.engine, "_woken", and_it_is_over)
    bars = [bar(1, 30, symbol="MSFT"), bar(200, 60), bar(99, 120), bar(98, 180)]
    assert desk.engine.on_bars(bars) == []
    assert [type(e) for e in desk.events(p)][-1] is PositionClosedElsewhere


def test_given_a_message_to_a_position_that_is_not_known_then_nothing_happens(desk: Desk) -> None:
    assert desk.engine.tell("nobody", ForceExit(at=after(1))) == []
    assert desk.store.stream_ids() == []


def test_given_orders_then_memory_knows_their_owner_until_the_position_is_over(desk: Desk) -> None:
    p = desk.buy()
    desk.bar(99, 60)
    order_id = client_order_id(p.position_id, 1)
    assert desk.engine.known_owner(order_id) == p.position_id
    desk.bar(99, 120)
    assert desk.now(p).state == "filled"
    assert desk.engine.known_owner(order_id) is None
    assert desk.engine.owner_of(order_id) == p.position_id
    assert desk.engine.owner_of("theirs") is None


def test_given_a_bar_then_what_is_wrong_with_it_is_told_without_telling_it(desk: Desk) -> None:
    assert desk.engine.fault(bar(100)) is None
    assert desk.engine.fault(bar("NaN")) == Fault("unsound", "NaN")
    desk.buy()
    assert desk.engine.fault(bar(101, 60)) is None
    assert desk.engine.fault(bar(200, 60)) == Fault("price_jump", "200")
    desk.engine.rebase("MSFT", bar(200, 60, symbol="MSFT"))  # a symbol that is not held has no prices
    assert desk.engine.last_price("MSFT") is None
    assert desk.engine.last_price("AAPL") == 100


def test_given_a_price_that_no_market_has_and_no_guard_then_it_is_refused_and_marks_can_be_told(desk: Desk) -> None:
    rules = policy(price_guard=False, profit_taking=False)
    p = desk.buy(rules=rules)
    q = desk.buy(rules=rules, at=1)
    for n, price in enumerate((1e300, "1E+400", "1E-400", "1" * 80), 1):
        assert desk.engine.on_bar(bar(price, 60 * n)) == ()
    assert [type(e) for e in desk.events(p)] == [type(e) for e in desk.events(q)] == [TriggerRefused]
    assert [(m.price, m.best_price) for m in desk.engine.marks()] == [(100, 100)] * 2


def test_given_another_writer_that_closed_the_position_when_a_bar_comes_then_it_is_over_here_too(desk: Desk) -> None:
    p = desk.buy()
    gone = PositionClosedElsewhere(how="by_hand", remaining_qty=Decimal(10), at=after(30), cooldown_until=after(30))
    desk.store.append(p.position_id, 1, [gone], at=after(30), by="broker")
    assert desk.engine.on_bar(bar(99, 60)) == ()
    assert desk.engine.positions == {}
    assert desk.engine.levels.slots == {}
    assert desk.events(p) == [gone]


def test_given_a_position_that_no_bar_has_reached_then_it_has_no_mark(desk: Desk) -> None:
    desk.engine.open(to_open(opened()))
    assert desk.engine.marks() == []
    desk.engine.on_bar(bar("100.5", 60))
    assert [(m.price, m.pnl_pct, m.at) for m in desk.engine.marks()] == [(Decimal("100.5"), Decimal("0.5"), after(60))]
