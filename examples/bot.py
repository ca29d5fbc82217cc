"""A minimal bot with exits: SMA crossover entries of its own, and `ExitManager` to get it out again.

Run it:  python examples/bot.py

The market is made up and the broker is the simulated one, so that it runs anywhere; with a real broker and a real bar
feed the lines marked (exits) are the same, and the clock argument goes.
"""

import asyncio
import math
import tempfile
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from exitfsm import (
    Bar,
    ExecutionReport,
    ExitManager,
    ExitStore,
    ManualClock,
    Order,
    OrderSide,
    SimulatedBroker,
    State,
)

CONFIG = {"profit_taking": {"threshold_pct": 2.0}, "stop_loss": {"threshold_pct": 1.0}, "exit_cooldown_seconds": 300}


def market() -> Iterator[Bar]:
    """Two hours of made-up minute bars: a wave on a slow rise, with one sharp fall."""
    at = datetime(2024, 3, 4, 15, 0, tzinfo=UTC)
    before = Decimal("100.00")
    for minute in range(120):
        wave = 3 * math.sin(minute / 9) + minute * 0.02 - (4 if 78 <= minute < 90 else 0)
        price = Decimal(f"{100 + wave:.2f}")
        yield Bar("ACME", at + timedelta(minutes=minute), before, max(before, price), min(before, price), price)
        before = price


class SmaCrossover:
    """True on the bar at which the short average crosses above the long one."""

    def __init__(self, short: int = 3, long: int = 8) -> None:
        self.short, self.long = short, long
        self.closes: deque[Decimal] = deque(maxlen=long)
        self.above = True

    def __call__(self, bar: Bar) -> bool:
        self.closes.append(bar.close)
        if len(self.closes) < self.long:
            return False
        recent = list(self.closes)[-self.short :]
        above = sum(recent) / self.short > sum(self.closes) / self.long
        crossed, self.above = above and not self.above, above
        return crossed


async def main() -> None:
    store = str(Path(tempfile.mkdtemp()) / "exits.db")
    broker, signal, entries = SimulatedBroker(), SmaCrossover(), 0
    clock = ManualClock(datetime(2024, 3, 4, 15, 0, tzinfo=UTC))
    manager = ExitManager(broker, store, None, CONFIG, "sma-crossover", clock=clock)  # (exits)
    updates: list[ExecutionReport] = []
    broker.subscribe(updates.append)
    await manager.start()  # (exits)

    for bar in market():
        clock.move_to(bar.timestamp)
        broker.on_bar(bar)
        while updates:
            await manager.on_order_update(updates.pop(0))  # (exits) every order's updates, entries too
            await manager.settled()
        await manager.on_bar(bar)  # (exits)
        await manager.settled()
        if signal(bar) and not manager.positions() and manager.may_enter("ACME"):  # (exits) the risk check
            entries += 1
            broker.submit(Order(client_order_id=f"sma-{entries}", symbol="ACME", side=OrderSide.BUY, qty=Decimal(10)))
            print(f"{bar.timestamp:%H:%M}  enter  10 ACME near {bar.close}")

    await manager.stop()  # (exits)
    show(store)
    print(f"\nevery step: exitfsm history {store}")


def show(store: str) -> None:
    """What became of each position, out of the store."""
    with ExitStore(store, read_only=True) as exits:
        for p in exits.positions():
            out = f"exit {p.exit_reason} at {p.avg_exit_price}" if p.state is State.FILLED else f"still {p.state}"
            print(f"{p.opened_at_utc:%H:%M}  {p.symbol} {p.qty} from {p.entry_price}: {out}")
        print(f"{len(exits.exit_orders())} exit orders were sent, {exits.count()} events recorded")


if __name__ == "__main__":
    asyncio.run(main())
