"""Freeze stores and what is read from them, each once: `python tests/corpus/freeze.py NAME`.

What lies here was written by the version of its time and must always read back the same (`tests/test_corpus.py`). A
store is never written again: an event, or a field of one, that came later goes into a store of its own, as in `later1`,
and its digest into the test. The figures are made up: they are for reading back, and not all of them could come of the
rules.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    BreakerClosed,
    BreakerOpened,
    CancelRefused,
    CancelRequested,
    CommandAnswered,
    CommandGiven,
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
    ScopeChanged,
    StopMoved,
    TradingPaused,
    TradingResumed,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.policy import ExitPolicy
from exitfsm.policy.rules.targets import Target, Targets, Then
from exitfsm.position import Position, client_order_id, position_id, replay
from exitfsm.projections import ACCOUNT_PREFIX, TABLES
from exitfsm.store import ExitStore
from exitfsm.values import ExitType, OrderType, Side, TimeInForce

D = Decimal
HERE = Path(__file__).parent
ACCOUNT = "626cb000cf2a"
T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
OTHER = msgspec.structs.replace(ExitPolicy(), exit_cooldown_seconds=61)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def opened(symbol: str, side: Side, qty: str, price: str) -> PositionOpened:
    return PositionOpened(
        account=ACCOUNT, symbol=symbol, side=side, epoch="20240102T143000Z", qty=D(qty), entry_price=D(price),
        opened_at=T0, policy=ExitPolicy(), atr=D("1.25"), strategy_name="sma-crossover", source="bot",
    )  # fmt: skip


def lives() -> list[tuple[str, list[Event]]]:
    """One life with everything that can happen on the way, one that a person ends, one open, and the account's.

    Format 1 as it was first written; nothing is added here.
    """
    first, second = opened("AAPL", Side.LONG, "10", "100.5"), opened("BTC/USD", Side.SHORT, "0.3", "42000")
    third = opened("MSFT", Side.LONG, "7", "370.01")
    one, two, three = (position_id(ACCOUNT, o.symbol, o.side, o.epoch) for o in (first, second, third))
    order, again, forced = (client_order_id(p, n, "xf1") for p, n in ((one, 1), (one, 2), (two, 1)))
    day, limit, market = TimeInForce.DAY, OrderType.LIMIT, OrderType.MARKET
    long: list[Event] = [
        first,
        PositionResized(qty=D(12), entry_price=D("100.75"), at=at(1), why="more was bought"),
        PolicyChanged(policy=OTHER, at=at(2), by="anna"),
        StopMoved(rule=ExitType.TRAILING_STOP, stop=D("100.1"), best_price=D("101.9"), bar_at=at(60)),
        TriggerRefused(reason="price_jump", bar_at=at(120), price="14.4", reference_price=D("101.9")),
        AlarmRaised(alarm_id="a1", kind="price_jump", text="a split? – “14.4”", at=at(120)),
        RefusalEnded(reason="price_jump", count=2, bar_at=at(240)),
        AlarmAcknowledged(alarm_id="a1", by="anna", at=at(250)),
        ExitTriggered(
            reason=ExitType.PROFIT_TAKE, client_order_id=order, attempt=1, qty=D(12), order_type=limit,
            time_in_force=day, at=at(300), trigger_price=D("102.8"), level=D("102.765"), threshold_pct=D(2),
            limit_price=D("102.77"), bar_at=at(300), best_price=D("101.9"), detail="",
        ),
        OrderAccepted(client_order_id=order, broker_order_id="b-1", at=at(301)),
        FillsRecorded(client_order_id=order, filled_qty=D(4), avg_fill_price=D("102.77"), at=at(302)),
        ExitEscalated(client_order_id=order, at=at(360), why="stop_loss", price=D("99.5")),
        CancelRefused(client_order_id=order, at=at(361), text="not now"),
        FillsRecorded(client_order_id=order, filled_qty=D(5), avg_fill_price=D("102.77"), at=at(362)),
        CancelRequested(client_order_id=order, at=at(420), why="no progress"),
        OrderEnded(
            client_order_id=order, how="canceled", filled_qty=D(5), at=at(421), next_attempt_at=at(450), text="by us"
        ),
        ExitRetried(
            client_order_id=again, attempt=2, qty=D(7), order_type=market, time_in_force=day, at=at(451), budget_spent=1
        ),
        OrderAccepted(client_order_id=again, broker_order_id=None, at=at(452)),
        FillsRecorded(client_order_id=again, filled_qty=D(7), avg_fill_price=D("99.456789123"), at=at(453)),
        ExitCompleted(
            filled_qty=D(12), avg_fill_price=D("100.837293655"), filled_at=at(453), at=at(454), cooldown_until=at(514.5)
        ),
    ]  # fmt: skip
    by_hand: list[Event] = [
        second,
        ExitTriggered(
            reason=ExitType.EMERGENCY, client_order_id=forced, attempt=1, qty=D("0.3"), order_type=market,
            time_in_force=TimeInForce.GTC, at=at(10), trigger_price=D(42100), level=D(42100), threshold_pct=D(0),
            detail="anna: news",
        ),
        OrderEnded(
            client_order_id=forced, how="refused", filled_qty=D(0), at=at(11), next_attempt_at=None, refusal="unknown"
        ),
        ProtectionLost(why="refused twice", at=at(12)),
        AlarmRaised(alarm_id="a2", kind="protection_lost", text="refused twice", at=at(12)),
        PositionReleased(by="anna", at=at(20), qty=D("0.3"), entry_price=D(42000)),
        PositionClosedElsewhere(how="by_hand", remaining_qty=D("0.3"), at=at(30), cooldown_until=at(91)),
    ]  # fmt: skip
    still: list[Event] = [
        third,
        StopMoved(rule=ExitType.BREAK_EVEN, stop=D("370.01"), best_price=D(375), bar_at=at(60)),
    ]
    account: list[Event] = [
        TradingPaused(by="anna", at=at(5), why="lunch"),
        BreakerOpened(failures=5, at=at(6), why="timeouts"),
        BreakerClosed(at=at(7)),
        TradingResumed(by="anna", at=at(8)),
        AlarmRaised(alarm_id="a3", kind="broker_incomplete", text="the broker has no fills", at=at(9)),
    ]
    return [(one, long), (two, by_hand), (three, still), (f"{ACCOUNT_PREFIX}{ACCOUNT}", account)]


def units() -> list[tuple[str, list[Event]]]:
    """Lives in which the unit of a holding changed: while it was monitored, under an intent, and between two orders."""
    first, second = opened("NVDA", Side.LONG, "10", "1200"), opened("GE", Side.SHORT, "80", "12.5")
    one, two = (position_id(ACCOUNT, o.symbol, o.side, o.epoch) for o in (first, second))
    order, short = client_order_id(one, 1, "xf1"), client_order_id(two, 1, "xf1")
    day, market = TimeInForce.DAY, OrderType.MARKET
    intent = ExitTriggered(
        reason=ExitType.STOP_LOSS, client_order_id=order, attempt=1, qty=D(10), order_type=market, time_in_force=day,
        at=at(120), trigger_price=D(121), level=D(1188), threshold_pct=D(1), bar_at=at(120),
    )  # fmt: skip
    long: list[Event] = [
        first,
        StopMoved(rule=ExitType.TRAILING_STOP, stop=D("1213.75"), best_price=D(1250), bar_at=at(60)),
        intent,
        ExitWithdrawn(client_order_id=order, at=at(121), why="quantity and entry say that the unit changed"),
        UnitChanged(factor=D(10), qty=D(100), entry_price=D(120), at=at(122), why="quantity times entry is unchanged"),
        msgspec.structs.replace(
            intent, qty=D(100), at=at(180), trigger_price=D(118), level=D("121.375"), bar_at=at(180)
        ),
    ]
    other: list[Event] = [
        second,
        ExitTriggered(
            reason=ExitType.TIME_LIMIT, client_order_id=short, attempt=1, qty=D(80), order_type=market,
            time_in_force=day, at=at(60), trigger_price=D(12), level=D(12), threshold_pct=D(0),
        ),
        OrderAccepted(client_order_id=short, broker_order_id="b-9", at=at(61)),
        FillsRecorded(client_order_id=short, filled_qty=D(16), avg_fill_price=D(12), at=at(62)),
        OrderEnded(client_order_id=short, how="expired", filled_qty=D(16), at=at(63), next_attempt_at=at(93)),
        UnitChanged(factor=D("0.125"), qty=D(8), entry_price=D(100), at=at(70), why="a reverse split"),
        PositionClosedElsewhere(how="reversed", remaining_qty=D(8), at=at(80), cooldown_until=at(140)),
    ]  # fmt: skip
    return [(one, long), (two, other)]


def later1() -> list[tuple[str, list[Event]]]:
    """What came later: the broker changes the quantity of an order."""
    first = opened("AAPL", Side.LONG, "12", "100.5")
    one = position_id(ACCOUNT, first.symbol, first.side, first.epoch)
    order = client_order_id(one, 1, "xf1")
    life: list[Event] = [
        first,
        ExitTriggered(
            reason=ExitType.STOP_LOSS, client_order_id=order, attempt=1, qty=D(12), order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY, at=at(300), trigger_price=D("99.4"), level=D("99.495"), threshold_pct=D(1),
            bar_at=at(300),
        ),
        OrderAccepted(client_order_id=order, broker_order_id="b-1", at=at(301)),
        OrderRestated(client_order_id=order, qty=D("12.5"), at=at(301.5), text="a dividend in shares"),
        OrderRestated(client_order_id=order, qty=D(12), at=at(301.75)),
        FillsRecorded(client_order_id=order, filled_qty=D(12), avg_fill_price=D("99.456789123"), at=at(302)),
        ExitCompleted(
            filled_qty=D(12), avg_fill_price=D("99.456789123"), filled_at=at(302), at=at(303), cooldown_until=at(602)
        ),
    ]  # fmt: skip
    return [(one, life)]


def postponed() -> list[tuple[str, list[Event]]]:
    """What came later: refusals that pass, and alarms that end by themselves."""
    first = opened("AAPL", Side.LONG, "12", "100.5")
    one = position_id(ACCOUNT, first.symbol, first.side, first.epoch)
    order, again = client_order_id(one, 1), client_order_id(one, 2)
    life: list[Event] = [
        first,
        ExitTriggered(
            reason=ExitType.STOP_LOSS, client_order_id=order, attempt=1, qty=D(12), order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY, at=at(300), trigger_price=D("99.4"), level=D("99.495"), threshold_pct=D(1),
            bar_at=at(300),
        ),
        ExitPostponed(
            client_order_id=order, at=at(301), until=at(306), times=1, refusal="market_halted", text="paused – “LULD”"
        ),
        AlarmRaised(alarm_id="a1", kind="exit_postponed", text="refused for now", at=at(301)),
        ExitPostponed(client_order_id=order, at=at(306), until=at(316), times=2, refusal="market_halted"),
        OrderAccepted(client_order_id=order, broker_order_id="b-1", at=at(317)),
        AlarmAcknowledged(alarm_id="a1", by="exitfsm", at=at(317), why="the broker took the order"),
        OrderEnded(
            client_order_id=order, how="rejected", filled_qty=D(0), at=at(318), next_attempt_at=at(323),
            refusal="halted", text="halted again", passing=True,
        ),
        ExitRetried(
            client_order_id=again, attempt=2, qty=D(12), order_type=OrderType.MARKET, time_in_force=TimeInForce.DAY,
            at=at(324), budget_spent=0,
        ),
        OrderAccepted(client_order_id=again, broker_order_id="b-2", at=at(325)),
        FillsRecorded(client_order_id=again, filled_qty=D(12), avg_fill_price=D("99.456789123"), at=at(326)),
        ExitCompleted(
            filled_qty=D(12), avg_fill_price=D("99.456789123"), filled_at=at(326), at=at(327), cooldown_until=at(626)
        ),
    ]  # fmt: skip
    return [(one, life)]


def commands() -> list[tuple[str, list[Event]]]:
    """What came later: commands from outside, one that was answered and one that was not."""
    account: list[Event] = [
        CommandGiven(
            command_id="00000000deadbeef", verb="exit", subjects=("AAPL", "MSFT"), by="anna",
            whence="process 4711, user 1000", at=at(1), reason="news",
        ),
        CommandAnswered(
            command_id="00000000deadbeef", code=1, lines=("AAPL: submitted", "MSFT: not watched"), at=at(1.5)
        ),
        CommandGiven(command_id="0123456789abcdef", verb="sync", subjects=(), by="jo", whence="127.0.0.1:5", at=at(2)),
    ]  # fmt: skip
    return [(f"{ACCOUNT_PREFIX}{ACCOUNT}", account)]


def scope() -> list[tuple[str, list[Event]]]:
    """What came later: what a person said of the scope, for good and for one flatten alone, and what that ended."""
    account: list[Event] = [
        ScopeChanged(symbol="VTI", how="adopted", by="anna #00000000deadbeef", at=at(1), why="mine"),
        ScopeChanged(symbol="AAPL", how="ignored", by="jo #0123456789abcdef", at=at(2)),
        ScopeChanged(symbol="MSFT", how="adopted", by="jo #1", at=at(3), why="flatten", command="00000000deadbeef"),
        ScopeChanged(symbol="MSFT", how="restored", by="jo #1", at=at(4), command="00000000deadbeef"),
    ]
    life: list[Event] = [
        opened("AAPL", Side.LONG, "10", "100"),
        PositionClosedElsewhere(how="ignored", remaining_qty=D("10"), at=at(2), cooldown_until=at(62)),
    ]
    one = position_id(ACCOUNT, "AAPL", Side.LONG, "20240102T143000Z")
    return [(f"{ACCOUNT_PREFIX}{ACCOUNT}", account), (one, life)]


def settings() -> list[tuple[str, list[Event]]]:
    """What came later: a policy of its own with levels as prices, a changed configuration, and a stop by hand."""
    plain = ExitPolicy()
    priced = msgspec.structs.replace(plain, stop_loss=msgspec.structs.replace(plain.stop_loss, price=D("95.5")))
    first = msgspec.structs.replace(opened("AAPL", Side.LONG, "10", "100.5"), policy=priced, own_policy=True)
    second = opened("MSFT", Side.SHORT, "7", "370")
    one, two = (position_id(ACCOUNT, o.symbol, o.side, o.epoch) for o in (first, second))
    operator = ExitType.OPERATOR
    own: list[Event] = [
        first,
        StopMoved(rule=ExitType.TRAILING_STOP, stop=D("101"), best_price=D("103"), bar_at=at(60)),
        StopMoved(
            rule=operator, stop=D("97"), best_price=D("103"), bar_at=at(60), by="anna #00000000deadbeef", why="news"
        ),
        StopMoved(rule=ExitType.TRAILING_STOP, stop=D("102"), best_price=D("104"), bar_at=at(120)),
        UnitChanged(factor=D(2), qty=D(20), entry_price=D("50.25"), at=at(130), why="a split"),
        PolicyChanged(policy=plain, at=at(140), by="anna", own=False, why="by the file again"),
    ]
    other: list[Event] = [
        second,
        PolicyChanged(policy=OTHER, at=at(10), by="the configuration"),
        PolicyChanged(policy=plain, at=at(20), by="jo", own=True),
        StopMoved(rule=operator, stop=D("380"), best_price=D("369"), bar_at=at(60), by="jo"),
    ]
    account: list[Event] = [
        CommandGiven(
            command_id="00000000deadbeef", verb="set-stop", subjects=("AAPL",), by="anna", whence="process 4711",
            at=at(1), given=("97",),
        ),
    ]  # fmt: skip
    return [(one, own), (two, other), (f"{ACCOUNT_PREFIX}{ACCOUNT}", account)]


#: What each store holds.
def parts() -> list[tuple[str, list[Event]]]:
    """What came later: parts by targets and by hand, one that is widened, and an order that fills in between."""
    targets = Targets(parts=(Target(D("2"), D("50"), Then(D("0"))), Target(D("4.5"), D("25"))))
    policy = msgspec.structs.replace(ExitPolicy(), targets=targets)
    first = msgspec.structs.replace(opened("AAPL", Side.LONG, "10", "100"), policy=policy)
    one = position_id(ACCOUNT, first.symbol, first.side, first.epoch)
    ids = [client_order_id(one, n) for n in (1, 2, 3)]
    market: dict[str, Any] = {"order_type": OrderType.MARKET, "time_in_force": TimeInForce.DAY}
    life: list[Event] = [
        first,
        ExitTriggered(
            reason=ExitType.PROFIT_TAKE, client_order_id=ids[0], attempt=1, qty=D(5), **market, at=at(60),
            trigger_price=D("102.1"), level=D(102), threshold_pct=D(2), bar_at=at(60), detail="targets",
            keep_qty=D(5), leg="1",
        ),
        OrderAccepted(client_order_id=ids[0], broker_order_id="b-1", at=at(61)),
        FillsRecorded(client_order_id=ids[0], filled_qty=D(5), avg_fill_price=D("102.05"), at=at(62)),
        LegCompleted(
            client_order_id=ids[0], leg="1", filled_qty=D(5), remaining_qty=D(5), at=at(62), avg_fill_price=D("102.05")
        ),
        StopMoved(rule=ExitType.BREAK_EVEN, stop=D(100), best_price=D("102.1"), bar_at=at(60)),
        ExitTriggered(
            reason=ExitType.EMERGENCY, client_order_id=ids[1], attempt=2, qty=D(2), **market, at=at(90),
            trigger_price=D("101"), level=D("101"), threshold_pct=D(0), detail="anna: half off", keep_qty=D(3),
            leg="by hand",
        ),
        OrderAccepted(client_order_id=ids[1], broker_order_id="b-2", at=at(91)),
        LegWidened(reason=ExitType.STOP_LOSS, at=at(92), price=D("98.5"), detail="fell – “fast”"),
        FillsRecorded(client_order_id=ids[1], filled_qty=D(2), avg_fill_price=D("98.4"), at=at(93)),
        OrderEnded(client_order_id=ids[1], how="filled", filled_qty=D(2), at=at(93), next_attempt_at=at(93)),
        ExitRetried(client_order_id=ids[2], attempt=3, qty=D(3), **market, at=at(94), budget_spent=0),
        OrderAccepted(client_order_id=ids[2], broker_order_id="b-3", at=at(95)),
        FillsRecorded(client_order_id=ids[2], filled_qty=D(3), avg_fill_price=D("98.1"), at=at(96)),
        ExitCompleted(
            filled_qty=D(10), avg_fill_price=D("100.135"), filled_at=at(96), at=at(97), cooldown_until=at(396)
        ),
    ]  # fmt: skip
    return [(one, life)]


STORES: dict[str, Callable[[], list[tuple[str, list[Event]]]]] = {
    "format1": lives,
    "later1": later1,
    "postponed": postponed,
    "units": units,
    "commands": commands,
    "scope": scope,
    "settings": settings,
    "parts": parts,
}


#: Figures of a position that were frozen under other names than they have now.
RENAMED = {
    "break_even_stop": "stops.break_even",
    "best_price": "stops.best_price",
    "stop_moved_at": "stops.moved_at",
    "time_in_force": "order.time_in_force",
    "limit_price": "order.limit_price",
    "avg_fill_price": "order.avg_fill_price",
    "ordered_by": "order.ordered_by",
    "cancels_refused": "order.cancels_refused",
    "restated": "order.restated",
    "escalated": "order.escalated",
    "budget_spent": "exit.budget_spent",
}
FROZEN_AS_IT_IS = (
    *("position_id", "account", "symbol", "side", "epoch", "qty", "entry_price", "opened_at", "policy", "state"),
    *("version", "atr", "strategy_name", "source", "trail_stop", "refusing", "reason", "triggered_at", "trigger_price"),
    *("client_order_id", "attempt", "order_qty", "order_type", "broker_order_id", "filled_qty", "order_live"),
    *("cancel_asked", "corrected_orders", "ended_how", "last_refusal", "sold_elsewhere", "next_attempt_at"),
    *("waiting_since", "last_fill_at", "ended_at", "cooldown_until", "alarms"),
)


def figures(p: Position) -> dict[str, Any]:
    """What a position says, by the names of the time in which the first store was frozen: one order, and those before.

    How a position keeps its figures may change; what they are may not.
    """
    said = {name: attrgetter(RENAMED.get(name, name))(p) for name in (*FROZEN_AS_IT_IS, *RENAMED)}
    said["ended_orders"] = [
        {
            "client_order_id": o.client_order_id,
            "filled_qty": o.filled_qty,
            "avg_fill_price": o.avg_fill_price,
            "how": "working" if o.live else o.ended_how,
            "broker_order_id": o.broker_order_id,
        }
        for o in p.orders[:-1]
    ]
    return said


def readings(store: ExitStore) -> dict[str, Any]:
    """Everything that a store says, as JSON data."""
    streams = [s for s in store.stream_ids() if not s.startswith(ACCOUNT_PREFIX)]
    said = {
        "meta": store.meta,
        "chain_head": store.chain_head(),
        "events": list(store.events()),
        "positions": {s: figures(replay(r.event for r in store.stream(s))) for s in streams},
        "rows": {name: store._rows(f"SELECT * FROM {name}") for name in TABLES},
    }
    return dict(msgspec.json.decode(msgspec.json.encode(said)))


def write(store: ExitStore, name: str) -> None:
    """Append what the store of this name holds."""
    store.bind(ACCOUNT, "paper")
    for number, (stream, events) in enumerate(STORES[name]()):
        for version, event in enumerate(events):
            by = ("bar", "broker", "timer", "operator", "reconcile", "bot")[(number + version) % 6]
            store.append(stream, version, [event], at=at(version), by=by)


def freeze(name: str) -> None:
    """Make the store of this name, which must not exist, and its readings beside it."""
    path = HERE / f"{name}.store"
    if path.exists():
        raise SystemExit(f"{path} is frozen: it stays as it is")
    with ExitStore(path) as store:
        write(store, name)
        read = readings(store)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = DELETE")  # one file, as small as it can be; opening makes a WAL store of it
    for beside in ("-wal", "-shm", ".lock"):
        Path(f"{path}{beside}").unlink(missing_ok=True)
    path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(read), indent=1) + b"\n")


if __name__ == "__main__":
    freeze(sys.argv[1])
