"""The one door: what comes in is decided, committed, and only then owed to the broker."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from engine_desk import Desk, checked_desk
from msgspec.structs import replace

from exitfsm import engine as engine_module
from exitfsm.config import load_config
from exitfsm.engine import CONFLICTS_MAX, Engine
from exitfsm.errors import IllegalTransition, OrderRefused, StoreError, VersionConflict
from exitfsm.events import (
    AlarmRaised,
    ExitTriggered,
    OrderAccepted,
    PositionOpened,
    TriggerRefused,
)
from exitfsm.messages import ForceExit
from exitfsm.position import (
    LookUp,
    Position,
    Submit,
    client_order_id,
    position_id,
)
from exitfsm.simulate import simulate
from exitfsm.simulated import Act
from exitfsm.store import ExitStore
from exitfsm.testing.given import ACCOUNT, after, bar, like, opened, policy, to_open
from exitfsm.values import Side


@pytest.fixture
def desk() -> Iterator[Desk]:
    yield from checked_desk()


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
    ("qty", "entry", "symbol"), [("0", 1, "A"), ("-1", 1, "A"), ("NaN", 1, "A"), (1, "0", "A"), (1, 1, "A\x00")]
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


def test_given_symbols_that_are_not_managed_when_it_is_loaded_then_only_their_exits_under_way_are(desk: Desk) -> None:
    for symbol in ("AAPL", "MSFT", "SPY"):
        desk.buy(symbol=symbol)
    desk.bar(99, 60, symbol="MSFT")

    again = Engine(desk.store, desk.broker.capabilities)

    assert again.load(lambda symbol: symbol == "SPY") == 2
    assert sorted(p.symbol for p in again.positions.values()) == ["MSFT", "SPY"]
    assert again.on_bar(bar(50, 120)) == ()


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
