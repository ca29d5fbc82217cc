"""Stores to measure on: whole lives of positions, five events each, with the figures and texts that real ones have."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from exitfsm.events import Event, ExitCompleted, ExitTriggered, FillsRecorded, OrderAccepted, PositionOpened, StopMoved
from exitfsm.policy import ExitPolicy
from exitfsm.position import client_order_id, position_id
from exitfsm.store import Append, ExitStore
from exitfsm.values import ExitType, OrderType, Side, TimeInForce

T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
#: Events in a life.
EACH = 5
_POLICY = ExitPolicy()
_TOGETHER = 200


def place() -> Path:
    """Where stores are made: BENCHMARK_DIR, or the folder of this file's project (a disk, where /tmp may be memory)."""
    return Path(os.environ.get("BENCHMARK_DIR", Path(__file__).parent.parent / ".dev"))


def opened(number: int, symbol: str) -> PositionOpened:
    """The first event of a life."""
    at = T0 + timedelta(minutes=number)
    return PositionOpened(
        account="1f0c4a7be2d1",
        symbol=symbol,
        side=Side.LONG,
        epoch=f"{at:%Y%m%dT%H%M%SZ}",
        qty=Decimal(10 + number % 90),
        entry_price=Decimal(10_000 + number % 5000).scaleb(-2),
        opened_at=at,
        policy=_POLICY,
        strategy_name="sma-crossover",
        source="bot",
    )


def life(number: int, *, over: bool) -> tuple[str, list[Event]]:
    """The stream and the events of a position that was stopped out, or of one that is open with its stop moved."""
    first = opened(number, f"S{number % 500:03d}" if over else f"OPEN{number}")
    stream = position_id(first.account, first.symbol, first.side, first.epoch)
    at, entry = first.opened_at + timedelta(minutes=30), first.entry_price
    order = client_order_id(stream, 1)
    if not over:
        moves = [(entry * (100 + step) / 100, at + timedelta(minutes=step)) for step in range(1, EACH)]
        return stream, [
            first,
            *(StopMoved(rule=ExitType.TRAILING_STOP, stop=p, best_price=p, bar_at=t) for p, t in moves),
        ]
    stop, price, after = entry * Decimal("0.99"), entry * Decimal("0.985"), at + timedelta(seconds=1)
    return stream, [
        first,
        ExitTriggered(
            reason=ExitType.STOP_LOSS,
            client_order_id=order,
            attempt=1,
            qty=first.qty,
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY,
            at=at,
            trigger_price=price,
            level=stop,
            threshold_pct=Decimal(1),
            bar_at=at,
        ),
        OrderAccepted(client_order_id=order, broker_order_id=f"61e69015-8549-4bfd-b9c3-{number:012d}", at=after),
        FillsRecorded(client_order_id=order, filled_qty=first.qty, avg_fill_price=price, at=after),
        ExitCompleted(
            filled_qty=first.qty,
            avg_fill_price=price,
            filled_at=after,
            at=after,
            cooldown_until=after + timedelta(minutes=5),
        ),
    ]


def fill(path: Path, *, events: int, open_positions: int = 0) -> None:
    """Make a store with so many events, the newest of them those of the open positions."""
    with ExitStore(path) as store, store.bulk(20_000):
        for group in _groups(events // EACH, open_positions):
            for result in store.append_many(group):
                assert isinstance(result, list), result


def _groups(lives: int, open_positions: int) -> Iterator[list[Append]]:
    group: list[Append] = []
    for number in range(lives):
        stream, events = life(number, over=number < lives - open_positions)
        group.append(Append(stream, 0, events, T0 + timedelta(minutes=number), "bar"))
        if len(group) == _TOGETHER:
            yield group
            group = []
    yield group


def raw(path: Path) -> sqlite3.Connection:
    """The file by sqlite3 alone, as it comes, but for WAL and synchronous=FULL."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


if __name__ == "__main__":  # a store to look at: python benchmarks/lives.py PATH EVENTS [OPEN]
    fill(Path(sys.argv[1]), events=int(sys.argv[2]), open_positions=int(sys.argv[3]) if len(sys.argv) > 3 else 0)
