"""The one door: what comes in is decided, committed, and only then owed to the broker."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from exitfsm import engine as engine_module
from exitfsm.config import load_config
from exitfsm.engine import CONFLICTS_MAX, Engine
from exitfsm.errors import IllegalTransition, OrderRefused, StoreError, VersionConflict
from exitfsm.events import (
    AlarmRaised,
    Event,
    ExitCompleted,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    PositionClosedElsewhere,
    PositionOpened,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
)
from exitfsm.messages import ForceExit, PositionRead, RaiseAlarm, RecordRead, TimeSeen
from exitfsm.policy import ExitPolicy, Fault
from exitfsm.ports import Capabilities
from exitfsm.position import (
    READS_MIN,
    Action,
    Cancel,
    LookUp,
    Position,
    ReadPosition,
    Submit,
    client_order_id,
    position_id,
    replay,
)
from exitfsm.simulate import simulate
from exitfsm.simulated import Act, SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.testing.given import ACCOUNT, T0, after, bar, like, opened, policy, reported, to_open
from exitfsm.values import Bar, ExecutionReport, Order, OrderSide, OrderStatus, OrderType, Side, refused_report


class Desk:
    """An engine, a simulated venue, and somebody who does what is owed."""

    def __init__(self, store: ExitStore | None = None, broker: SimulatedBroker | None = None, **settings: Any) -> None:
        self.store = store or ExitStore(":memory:")
        self.broker = broker or SimulatedBroker()
        self.engine = Engine(self.store, self.broker.capabilities, **settings)

    def buy(
        self,
        entry: Any = 100,
        qty: int = 10,
        *,
        side: Side = Side.LONG,
        symbol: str = "AAPL",
        rules: ExitPolicy | None = None,
        at: float = 0,
    ) -> Position:
        """A position comes on the books of the venue and under watch."""
        first = opened(side, qty, entry, symbol=symbol, policy=rules, at=after(at), epoch=f"e{at}")
        self.broker.hold(symbol, side, Decimal(qty), first.entry_price, first.opened_at)
        return self.engine.open(to_open(first), bar=bar(entry, at, symbol=symbol))

    def bar(self, close: Any, at: float, symbol: str = "AAPL", **prices: Any) -> tuple[Action, ...]:
        """A bar trades at the venue, and is told to the engine; what is owed is done."""
        the_bar = bar(close, at, symbol=symbol, **prices)
        for report in self.broker.on_bar(the_bar):
            self.do(self.engine.on_report(report, at=the_bar.timestamp), the_bar.timestamp)
        self.do(self.engine.tick(the_bar.timestamp), the_bar.timestamp)
        actions = self.engine.on_bar(the_bar)
        self.do(actions, the_bar.timestamp)
        return actions

    def do(self, actions: Iterable[Action], at: datetime) -> None:
        """What is owed, and what is owed after that."""
        waiting = deque(actions)
        while waiting:
            waiting.extend(self.act(waiting.popleft(), at))

    def act(self, action: Action, at: datetime) -> list[Action]:
        engine, broker = self.engine, self.broker
        match action:
            case Submit(order=order):
                engine.sent(order.client_order_id)
                try:
                    report = broker.submit(order)
                except OrderRefused as refusal:
                    report = refused_report(order.client_order_id, refusal, at)
                return engine.on_report(report, at=at)
            case LookUp(position_id=owner, client_order_id=order_id):
                known = broker.order(order_id)
                if known is not None:
                    return engine.on_report(known, at=at)
                engine.not_known(order_id)
                again = engine.owed_by(engine.positions[owner], at)
                return [again] if again is not None else []
            case Cancel(client_order_id=order_id):
                broker.cancel(order_id)
                return engine.on_report(broker.order(order_id), at=at)
            case ReadPosition(position_id=owner, symbol=symbol):
                position = engine.get(owner)
                order_id = position.client_order_id or ""
                record = RecordRead(client_order_id=order_id, began=at, report=broker.order(order_id))
                held = broker.held(symbol) * position.side.sign
                read = PositionRead(at=at, began=at, qty=held, reads=READS_MIN, record=record)
                return engine.tell(owner, read)

    def events(self, p: Position) -> list[Event]:
        """Everything stored about a position after its opening."""
        return [r.event for r in self.store.stream(p.position_id)][1:]

    def now(self, p: Position) -> Position:
        """The position as it is, open or ended."""
        found = self.engine.get(p.position_id)
        assert found is not None
        assert found == replay(r.event for r in self.store.stream(p.position_id))
        return found


@pytest.fixture
def desk() -> Iterator[Desk]:
    a_desk = Desk()
    yield a_desk
    assert a_desk.store.verify_read_models() == []
    assert a_desk.store.verify_chain() is None
    a_desk.store.close()


# --- the bot's own list -----------------------------------------------------------------------------------------------


def test_exit_triggered_on_profit_threshold(desk: Desk) -> None:
    p = desk.buy()
    desk.bar("101.99", 60)
    assert desk.events(p) == []
    desk.bar(102, 120)
    assert desk.events(p)[0] == like(
        ExitTriggered,
        reason="profit_take",
        trigger_price=Decimal(102),
        level=Decimal(102),
        threshold_pct=Decimal("2.0"),
    )
    row = desk.store.exit_orders(symbol="AAPL")[0]
    assert (row.exit_type, row.target_price, row.side, row.qty) == ("profit_take", Decimal(102), "sell", Decimal(10))


def test_exit_triggered_on_stop_threshold(desk: Desk) -> None:
    p = desk.buy()
    desk.bar("99.01", 60)
    assert desk.events(p) == []
    desk.bar(99, 120)
    assert desk.events(p)[0] == like(
        ExitTriggered, reason="stop_loss", trigger_price=Decimal(99), level=Decimal(99), threshold_pct=Decimal("1.0")
    )
    assert [r.exit_type for r in desk.store.exit_orders(symbol="AAPL")] == ["stop_loss"]


def test_no_exit_when_threshold_not_met(desk: Desk) -> None:
    p = desk.buy()
    for minute, close in enumerate(("99.01", "101.99", "100", "99.5", "101.5"), 1):
        assert desk.bar(close, 60 * minute) == ()
    assert desk.events(p) == []
    assert desk.store.exit_orders() == []
    assert desk.now(p).state == "monitoring"


def test_duplicate_exit_prevented(desk: Desk) -> None:
    p = desk.buy()
    first = desk.engine.on_bar(bar(99, 60))
    assert [type(a) for a in first] == [Submit]
    for minute in range(2, 10):  # nothing has been heard of the order, and the price goes on breaching
        assert desk.engine.on_bar(bar(99 - minute, 60 * minute)) == ()
    assert desk.engine.tell(p.position_id, ForceExit(at=after(600))) == []
    assert desk.engine.owed(after(600)) == list(first)  # the same order, under the same id
    assert [type(e) for e in desk.events(p)] == [ExitTriggered]
    desk.do(first, after(600))
    assert len(desk.broker.open_orders()) == len(desk.store.exit_orders()) == 1
    with pytest.raises(OrderRefused, match="duplicate_id"):
        desk.broker.submit(first[0].order)


def test_partial_fill_handling(desk: Desk) -> None:
    p = desk.buy()
    desk.broker.script("AAPL", Act(fills=(Decimal(4), Decimal(2)), then="expire"))
    desk.bar(99, 60)
    desk.bar(98, 120, open="98.5")
    assert desk.now(p).filled_qty == 4
    assert desk.store.exit_orders()[0].status == "partial"
    desk.bar(97, 180, open="97.5")
    assert (desk.now(p).filled_qty, desk.now(p).remaining_qty) == (Decimal(6), Decimal(4))
    desk.bar(97, 240)
    assert desk.now(p).state == "rejected"
    desk.bar(97, 269)
    assert desk.now(p).attempt == 1  # the delay is not over
    desk.bar(97, 270)
    assert (desk.now(p).attempt, desk.now(p).order_qty) == (2, Decimal(4))
    desk.bar(96, 330, open=96)
    assert desk.now(p).state == "filled"
    assert desk.now(p).avg_exit_price == Decimal("97.3")  # (4 × 98.5 + 2 × 97.5 + 4 × 96) / 10
    rows = [(r.status, r.qty, r.filled_qty, r.resubmit_count) for r in desk.store.exit_orders()]
    assert rows == [("expired", Decimal(10), Decimal(6), 0), ("filled", Decimal(4), Decimal(4), 1)]
    assert desk.broker.held("AAPL") == 0


def test_cooldown_prevents_re_entry() -> None:
    store = ExitStore(":memory:")
    prices = [100, 102, 102, *[101] * 30]
    bars = [bar(price, 60 * minute) for minute, price in enumerate(prices)]
    config = load_config({"exit_cooldown_seconds": 600})

    result = simulate(bars, config, store=store, re_enter=True)

    (done,) = result.exits
    assert done.filled_at == after(120)
    assert store.cooldown_until("AAPL") == after(120 + 600)
    assert [p.opened_at for p in result.open] == [after(720)]  # the first bar at or after the end, and none before


def test_deterministic_order_id() -> None:
    ids = []
    for _ in range(2):
        desk = Desk()
        p = desk.buy()
        (action,) = desk.engine.on_bar(bar(99, 60))
        ids.append(action.order.client_order_id)
        assert (
            ids[-1]
            == client_order_id(position_id(ACCOUNT, "AAPL", Side.LONG, "e0"), 1)
            == client_order_id(p.position_id, 1)
        )
    assert ids[0] == ids[1] == "xf2pxk88npbstqxs1eetjyroxpeti001"
    assert desk.engine.owner_of(ids[0]) == p.position_id
    assert desk.engine.owner_of("manual-1") is None


# --- opening ----------------------------------------------------------------------------------------------------------


def test_given_a_position_when_it_is_opened_twice_then_it_is_watched_once(desk: Desk) -> None:
    p = desk.buy()
    lower = to_open(opened(epoch="e0", symbol="aapl"))
    assert desk.engine.open(lower) is desk.engine.positions[p.position_id]
    assert [type(r.event) for r in desk.store.events()] == [PositionOpened]


def test_given_a_holding_that_is_watched_when_it_comes_under_another_name_then_it_is_watched_once(desk: Desk) -> None:
    held = desk.buy()
    short = desk.engine.open_unless_watched(to_open(opened(Side.SHORT, 10, 100, at=after(1), epoch="e1")))
    other = desk.engine.open_unless_watched(to_open(opened(Side.LONG, 10, 100, symbol="TSLA", at=after(1), epoch="e1")))
    assert len({held.position_id, short.position_id, other.position_id}) == 3
    again = to_open(opened(Side.LONG, 5, 100, at=after(2), epoch="e2"))
    assert desk.engine.open_unless_watched(again) == held
    desk.bar(98, 10)
    desk.engine.on_bar(bar(97, 20))
    at_once = to_open(opened(Side.LONG, 5, 100, at=after(10), epoch="e10"))  # no later than the exit began
    assert desk.engine.open_unless_watched(at_once).position_id == held.position_id
    later = to_open(opened(Side.LONG, 5, 100, at=after(11), epoch="e11"))
    assert desk.engine.open_unless_watched(later).epoch == "e11"
    assert [p.epoch for p in desk.engine.beside(desk.now(held))] == ["e11"]
    assert desk.engine.beside(short) == desk.engine.beside(other) == []
    unheard = replace(other, symbol="MSFT")
    assert desk.engine.beside(unheard) == []
    assert [p.position_id for p in desk.engine.against(desk.now(held))] == [short.position_id]
    assert desk.engine.against(unheard) == []


def test_given_an_ended_position_when_it_is_opened_again_then_it_stays_ended(desk: Desk) -> None:
    p = desk.buy()
    desk.bar(99, 60)
    desk.bar(99, 120)
    again = desk.engine.open(to_open(opened(epoch="e0")))
    assert again == desk.now(p)
    assert again.state == "filled"
    assert desk.engine.positions == {}


@pytest.mark.parametrize(
    ("qty", "entry", "symbol"), [("0", 1, "A"), ("-1", 1, "A"), ("NaN", 1, "A"), (1, "0", "A"), (1, 1, "Ä")]
)
def test_given_figures_that_no_position_has_when_it_is_opened_then_it_is_refused_and_nothing_stored(
    desk: Desk, qty: Any, entry: Any, symbol: str
) -> None:
    with pytest.raises(ValueError, match=r"cannot watch|is not a symbol"):
        desk.engine.open(to_open(opened(qty=qty, entry=entry, symbol=symbol)))
    assert desk.store.count() == 0
    assert desk.engine.positions == {}


# --- first the commit, then the rest ----------------------------------------------------------------------------------


def test_given_a_breach_when_it_is_owed_then_the_intent_is_in_the_store_already(desk: Desk) -> None:
    desk.buy()
    (action,) = desk.engine.on_bar(bar(99, 60))
    row = desk.store.exit_order(action.order.client_order_id)
    assert row is not None
    assert (row.status, row.qty) == ("pending", action.order.qty)


@pytest.mark.parametrize("how", ["raises", "returns"])
def test_given_a_store_that_fails_when_a_level_is_breached_then_nothing_is_owed_and_the_next_bar_tries_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    p = desk.buy()

    def fails(batches: Any) -> Any:
        if how == "raises":
            raise StoreError("the disk is full")
        return [StoreError("the disk is full") for _ in batches]

    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "append_many", fails)
        with pytest.raises(StoreError, match="full"):
            desk.engine.on_bar(bar(99, 60))
        assert desk.engine.owed(after(60)) == []
        assert desk.now(p).state == "monitoring"
    assert [type(a) for a in desk.engine.on_bar(bar(99, 120))] == [Submit]


def test_given_another_writer_when_a_level_is_breached_then_it_is_decided_anew_on_what_that_one_wrote(
    desk: Desk,
) -> None:
    p = desk.buy()
    theirs = AlarmRaised(alarm_id="x", kind="x", text="x", at=after(30))
    desk.store.append(p.position_id, 1, [theirs], at=after(30), by="operator")

    (action,) = desk.engine.on_bar(bar(99, 60))

    assert desk.events(p) == [theirs, like(ExitTriggered, client_order_id=action.order.client_order_id)]
    assert [a.alarm_id for a in desk.now(p).alarms] == ["x"]


def test_given_another_writer_that_decided_the_exit_when_a_level_is_breached_then_there_is_no_second(
    desk: Desk,
) -> None:
    p = desk.buy()
    other = Engine(desk.store, desk.broker.capabilities)
    other.load()
    (theirs,) = other.tell(p.position_id, ForceExit(at=after(30)))

    assert desk.engine.on_bar(bar(99, 60)) == ()

    assert desk.now(p).client_order_id == theirs.order.client_order_id
    assert [type(e) for e in desk.events(p)] == [ExitTriggered]


def test_given_a_writer_that_is_always_faster_when_a_level_is_breached_then_it_ends_with_a_clear_error(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.buy()
    tries = []

    def conflict(batches: Any) -> Any:
        tries.append(1)
        return [VersionConflict(b.stream_id, b.expected_version) for b in batches]

    with monkeypatch.context() as patch:
        patch.setattr(desk.store, "append_many", conflict)
        with pytest.raises(StoreError, match="only one process may drive a store"):
            desk.engine.on_bar(bar(99, 60))
    assert len(tries) == CONFLICTS_MAX


def test_given_a_decision_that_the_lifecycle_does_not_have_then_it_is_refused_and_nothing_is_stored(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = desk.buy()
    illegal = OrderAccepted(client_order_id="x", broker_order_id=None, at=after(60))
    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "decide", lambda *_: (illegal,))
        with pytest.raises(IllegalTransition) as refusal:
            desk.engine.on_bar(bar(99, 60))
    assert (refusal.value.state, refusal.value.event) == ("monitoring", "OrderAccepted")
    assert desk.events(p) == []
    assert desk.now(p) == p


def test_given_many_positions_when_a_bar_breaches_them_all_then_it_is_one_commit_and_the_worst_goes_first(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [100, 110, 105, 103]
    for number, entry in enumerate(entries):
        desk.buy(entry, at=number)
    commits = []
    append_many = desk.store.append_many
    monkeypatch.setattr(desk.store, "append_many", lambda batches: commits.append(len(batches)) or append_many(batches))

    actions = desk.engine.on_bar(bar(98, 60))

    assert commits == [4]
    assert [desk.engine.positions[a.position_id].entry_price for a in actions] == [110, 105, 103, 100]


def test_given_longs_and_shorts_when_they_breach_together_then_the_worst_of_both_goes_first(desk: Desk) -> None:
    losses = {"A": (Side.LONG, 97), "B": (Side.SHORT, 104), "C": (Side.LONG, 98), "D": (Side.SHORT, "102.5")}
    for symbol, (side, _) in losses.items():
        desk.buy(side=side, symbol=symbol)

    actions = desk.engine.on_bars([bar(price, 60, symbol=symbol) for symbol, (_, price) in losses.items()])

    assert [a.order.symbol for a in actions if isinstance(a, Submit)] == ["B", "A", "D", "C"]


def test_given_bars_of_many_symbols_at_once_then_the_decisions_are_those_of_one_by_one() -> None:
    bars = [
        bar(price, 60 * n, symbol=s) for n, price in enumerate(("100.5", 99, 98), 1) for s in ("AAPL", "MSFT", "SPY")
    ]
    logs = []
    for together in (True, False):
        desk = Desk()
        held = [desk.buy(symbol=s) for s in ("AAPL", "MSFT")]
        actions = desk.engine.on_bars(bars) if together else [a for b in bars for a in desk.engine.on_bar(b)]
        logs.append(([desk.events(p) for p in held], sorted(a.position_id for a in actions)))
    assert logs[0] == logs[1]
    assert len(logs[0][1]) == 2


def test_given_a_listener_that_raises_when_something_is_committed_then_it_harms_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard = []

    def listener(p: Position, recorded: Any) -> None:
        heard.extend(type(r.event) for r in recorded)
        raise RuntimeError("a guest")

    desk = Desk(listener=listener)
    desk.buy()
    assert [type(a) for a in desk.engine.on_bar(bar(99, 60))] == [Submit]
    assert heard == [PositionOpened, ExitTriggered]
    assert "listener_failed" in caplog.text


# --- after a restart --------------------------------------------------------------------------------------------------


def test_given_a_store_when_it_is_loaded_then_every_open_position_is_as_it_was(desk: Desk) -> None:
    trail = policy(trailing_stop={"trail_pct": 1}, profit_taking=False)
    open_ones = [desk.buy(rules=trail), desk.buy(symbol="MSFT"), desk.buy(50, symbol="SPY", at=1)]
    done = desk.buy(symbol="DONE")
    desk.bar(105, 60)
    desk.bar(99, 60, symbol="MSFT")
    desk.bar(99, 60, symbol="DONE")
    desk.bar(99, 120, symbol="DONE")
    assert desk.now(done).state == "filled"

    again = Engine(desk.store, desk.broker.capabilities)

    assert again.load() == len(open_ones)
    assert again.positions == desk.engine.positions
    assert again.positions[open_ones[0].position_id].trail_stop == Decimal("103.95")
    assert [type(a) for a in again.on_bar(bar("103.95", 120))] == [Submit]


def test_given_a_store_when_it_is_loaded_then_the_first_bar_arms_its_symbol_and_a_working_order_is_not_unknown(
    desk: Desk,
) -> None:
    desk.buy()
    sent = desk.buy(symbol="MSFT")
    desk.bar(99, 60, symbol="MSFT")
    again = Engine(desk.store, desk.broker.capabilities)
    again.load()
    slot = again.levels.slots["AAPL"]
    assert (slot.busy, again.levels.slots["MSFT"].busy) == (False, True)
    assert not again.quiet(bar("100.1", 60)), "nothing is quiet before it is armed"
    assert again.on_bar(bar("100.1", 60)) == ()
    assert slot.lower < 100.2 < slot.upper
    assert again.quiet(bar("100.2", 120))
    assert desk.now(sent).state == "submitted"
    assert again.unknown == set()


def test_given_a_trail_when_old_bars_come_again_after_a_restart_then_they_do_not_meet_the_newer_stop(
    desk: Desk,
) -> None:
    p = desk.buy(rules=policy(trailing_stop={"trail_pct": 1}, profit_taking=False))
    desk.bar("100.5", 60)
    desk.bar(105, 120)
    again = Engine(desk.store, desk.broker.capabilities)
    again.load()
    assert again.on_bar(bar("100.5", 60)) == ()
    assert again.on_bar(bar("100.5", 120)) == ()
    assert again.positions[p.position_id].state == "monitoring"
    assert [r.reason for r in again.refusals()] == ["out_of_order", "already_seen"]
    assert [type(a) for a in again.on_bar(bar("103.9", 180))] == [Submit]


def test_given_marks_when_the_engine_restarts_then_it_goes_on_from_the_last_bar_it_looked_at(desk: Desk) -> None:
    p = desk.buy()
    desk.bar("100.5", 60)
    desk.store.save_marks(desk.engine.marks())
    again = Engine(desk.store, desk.broker.capabilities)
    again.load()
    assert again.last_price("AAPL") == Decimal("100.5")
    assert again.on_bar(bar(99, 60)) == ()
    assert again.on_bar(bar(50, 120)) == ()
    assert [e.reason for e in desk.events(p) if isinstance(e, TriggerRefused)] == ["already_seen", "price_jump"]


def test_given_an_intent_when_the_engine_restarts_then_the_broker_is_asked_before_anything_is_sent(desk: Desk) -> None:
    p = desk.buy()
    (sent,) = desk.engine.on_bar(bar(99, 60))
    again = Engine(desk.store, desk.broker.capabilities)
    again.load()
    order_id = sent.order.client_order_id
    assert again.owed(after(70)) == [LookUp(position_id=p.position_id, client_order_id=order_id)]
    again.not_known(order_id)
    assert again.owed(after(70)) == [sent]  # byte for byte the same order
    again.sent(order_id)
    assert [type(a) for a in again.owed(after(70))] == [LookUp]


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
