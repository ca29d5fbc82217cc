"""Live, paper and simulation are the same: one position, the same bars, the same events to the last byte."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness import T0

from exitfsm import Act, Bar, ExitStore, Recorded, Side, SimulatedBroker
from exitfsm.config import load_config
from exitfsm.manager import ExitManager, ManualClock
from exitfsm.simulate import SIMULATION_ACCOUNT, market_session, simulate
from exitfsm.values import ExecutionReport

Script = Callable[[SimulatedBroker], None]


def bars(*closes: float, gap_s: int = 60, opens: dict[int, float] | None = None) -> list[Bar]:
    """Bars of AAPL, a minute apart, each opening at the close before it (or where `opens` says)."""
    made, before = [], closes[0]
    for n, close in enumerate(closes):
        start = (opens or {}).get(n, before)
        at = T0 + timedelta(seconds=gap_s * n)
        made.append(Bar("AAPL", at, start, max(start, close) + 0.05, min(start, close) - 0.05, close))
        before = close
    return made


def nothing(broker: SimulatedBroker) -> None:
    """The venue simply fills."""


def partial_and_expiry(broker: SimulatedBroker) -> None:
    """The first order fills 3 and expires, the second is rejected, the third fills."""
    broker.script("AAPL", Act(fills=(Decimal(3),), then="expire"), Act(reject="not_tradable"), Act())


def refused_twice(broker: SimulatedBroker) -> None:
    """Two refusals of the same kind."""
    broker.script("AAPL", Act(refuse="not_tradable"), Act(refuse="not_tradable"))


def in_pieces(broker: SimulatedBroker) -> None:
    """One order fills in three pieces."""
    broker.script("AAPL", Act(fills=(Decimal(2), Decimal(3))))


LIMIT: dict[str, Any] = {"profit_taking": {"order_type": "limit", "threshold_pct": 2}}
CASES: dict[str, tuple[dict[str, Any], list[Bar], Script, Side]] = {
    "stop": ({}, bars(100, 100.4, 99.5, 98.9, 98.7, 98.8), nothing, Side.LONG),
    "target": ({}, bars(100, 101, 102.2, 102.5, 102), nothing, Side.LONG),
    "short": ({}, bars(100, 100.5, 101.2, 101.5, 101), nothing, Side.SHORT),
    "pieces": ({}, bars(100, 98.9, 98.7, 98.6, 98.5, 98.4), in_pieces, Side.LONG),
    "retries": ({}, bars(100, 98.9, 98.7, 98.6, 98.5, 98.4, 98.4, 98.4, 98.4), partial_and_expiry, Side.LONG),
    "refused": ({}, bars(100, 98.9, 98.7, 98.6, 98.5, 98.4), refused_twice, Side.LONG),
    "trailing": (
        {"trailing_stop": {"enabled": True, "activation_pct": 1, "trail_pct": 1}, "profit_taking": {"enabled": False}},
        bars(100, 101.2, 102, 103, 102.5, 101.7, 101.5),
        nothing,
        Side.LONG,
    ),
    "break-even": (
        {"break_even": {"enabled": True, "activation_pct": 1}},
        bars(100, 101.5, 100.6, 99.9, 99.8, 99.7),
        nothing,
        Side.LONG,
    ),
    "limit-fills": (LIMIT, bars(100, 101, 102.3, 102.4, 102), nothing, Side.LONG),
    "limit-gives-way": (LIMIT, bars(100, 101, 102.3, 100.5, 98.5, 98.6, 98.7, opens={3: 100.9}), nothing, Side.LONG),
    "range": ({"evaluate_on": "range"}, bars(100, 100.2, 99.04, 98.9, 98.8), nothing, Side.LONG),
    "time-limit": (
        {"time_limit": {"enabled": True, "max_seconds": 150}},
        bars(100, 100.1, 100, 100.1, 100),
        nothing,
        Side.LONG,
    ),
    "nan-in-between": (
        {},
        [
            *bars(100, 100.4),
            Bar("AAPL", T0 + timedelta(seconds=90), "NaN", 1, 1, 1),
            *bars(100, 100, 99.5, 98.9, 98.7)[2:],
        ],
        nothing,
        Side.LONG,
    ),
}  # fmt: skip


#: What a case is there to show; without it the bars would miss their point.
SHOWS = {
    "retries": "ExitRetried",
    "refused": "ProtectionLost",
    "trailing": "StopMoved",
    "break-even": "StopMoved",
    "limit-gives-way": "ExitEscalated",
    "nan-in-between": "RefusalEnded",
}


async def live(config: Any, feed: list[Bar], script: Script, side: Side, store: ExitStore) -> None:
    """The manager on the simulated venue, driven by the same bars on a clock that follows them."""
    broker = SimulatedBroker(hours=lambda symbol, at: market_session(config.session, symbol, at))
    script(broker)
    updates: list[ExecutionReport] = []
    broker.subscribe(updates.append)
    clock = ManualClock(feed[0].timestamp)
    manager = ExitManager(
        broker, store, config=config, strategy_name="simulate", account=SIMULATION_ACCOUNT, clock=clock
    )
    await manager.start()

    async def deliver() -> None:
        while updates:
            await manager.on_order_update(updates.pop(0))
            await manager.settled()

    entered: datetime | None = None
    for bar in feed:
        clock.move_to(bar.timestamp)
        if entered is not None and bar.floor > 0 and bar.timestamp > broker.now:
            broker.on_bar(bar)
        await deliver()
        await manager.tick()
        await manager.settled()
        await manager.on_bar(bar)
        await manager.settled()
        await deliver()
        if entered is None:
            entered = bar.timestamp
            broker.hold("AAPL", side, Decimal(10), bar.close, bar.timestamp)
            await manager.watch("AAPL", side, Decimal(10), bar.close, bar.timestamp)
    await manager.stop()


def told(recorded: Recorded) -> bytes:
    """An event as bytes, with everything but its place in the whole store."""
    return msgspec.json.encode(
        (recorded.stream_id, recorded.version, recorded.at_ns, recorded.by, recorded.event), order="deterministic"
    )


@pytest.mark.parametrize("name", CASES)
async def test_given_the_same_bars_then_live_and_simulation_record_the_same_events(tmp_path: Path, name: str) -> None:
    changes, feed, script, side = CASES[name]
    config = load_config(changes)
    venue = SimulatedBroker()
    script(venue)
    with ExitStore(tmp_path / "simulated.db") as simulated, ExitStore(tmp_path / "live.db") as lived:
        simulate(feed, config, store=simulated, side=side, broker=venue)
        await live(config, feed, script, side, lived)
        (stream,) = simulated.stream_ids()
        assert [str(r.event) for r in lived.stream(stream)] == [str(r.event) for r in simulated.stream(stream)]
        assert [told(r) for r in lived.stream(stream)] == [told(r) for r in simulated.stream(stream)]
        assert SHOWS.get(name, "ExitCompleted") in [type(r.event).__name__ for r in simulated.stream(stream)]
