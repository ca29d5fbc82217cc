"""A bot as a user writes it: it is run, and its types are checked strictly. All comes from the public API."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from exitfsm import (
    Alarm,
    Bar,
    Broker,
    BrokerPosition,
    Capabilities,
    ExecutionReport,
    ExitCompleted,
    ExitManager,
    ExitPolicy,
    ExitStore,
    ExitTriggered,
    Fill,
    ManualClock,
    Open,
    Order,
    Position,
    ProfitTaking,
    Recorded,
    Session,
    Side,
    SimulatedBroker,
    State,
    Submit,
    TimeSeen,
    decide,
    evolve,
    explain,
    load_config,
    owed,
    replay,
    simulate,
    verify,
)
from exitfsm.testing import Bench, BrokerConformance, ScriptedBroker

AT = datetime(2024, 3, 4, 15, tzinfo=UTC)


class Wrapped:
    """A broker of the user's own, around another one; some methods are async."""

    capabilities = Capabilities(late_fill_window_s=5)

    def __init__(self, inner: SimulatedBroker) -> None:
        self.inner = inner

    def positions(self) -> Sequence[BrokerPosition]:
        return self.inner.positions()

    async def submit(self, order: Order) -> ExecutionReport:
        return self.inner.submit(order)

    def order(self, client_order_id: str) -> ExecutionReport | None:
        return self.inner.order(client_order_id)

    def open_orders(self) -> Sequence[ExecutionReport]:
        return self.inner.open_orders()

    def cancel(self, client_order_id: str) -> None:
        self.inner.cancel(client_order_id)

    def fills(self, since: datetime) -> Sequence[Fill]:
        return self.inner.fills(since)

    def session(self, symbol: str, at: datetime) -> Session:
        return self.inner.session(symbol, at)


class MyBench(Bench):
    """What the conformance suite needs."""

    broker: Broker


class TestMine(BrokerConformance):
    """Here only its type counts."""

    __test__ = False


def bars() -> list[Bar]:
    return [Bar("ACME", AT + timedelta(minutes=i), p, p, p, p) for i, p in enumerate((100, 101, 103, 103))]


async def live(path: str) -> list[str]:
    said: list[str] = []

    def on_event(position: Position | None, recorded: Recorded) -> None:
        match recorded.event:
            case ExitTriggered(reason=reason, qty=qty):
                said.append(f"{reason} {qty}")
            case ExitCompleted(filled_qty=filled_qty):
                said.append(f"completed {filled_qty}")
            case _:
                pass

    def on_alarm(alarm: Alarm) -> None:
        said.append(alarm.kind)

    clock, broker = ManualClock(AT), SimulatedBroker()
    broker.hold("ACME", Side.LONG, Decimal(10), Decimal(100), AT)
    manager = ExitManager(Wrapped(broker), path, clock=clock, on_event=on_event, on_alarm=on_alarm)
    async with manager:
        for bar in bars():
            clock.move_to(bar.timestamp)
            for report in broker.on_bar(bar):
                await manager.on_order_update(report)
            await manager.on_bar(bar)
            await asyncio.sleep(0.05)
    return said


def decided() -> str:
    """The core alone: messages in, events out."""
    policy = ExitPolicy(profit_taking=ProfitTaking(threshold_pct=Decimal(3)))
    opened = Open(
        account="a", symbol="ACME", side=Side.LONG, epoch="1", qty=Decimal(1), entry_price=Decimal(9),
        opened_at=AT, policy=policy, at=AT,
    )  # fmt: skip
    position = replay(decide(None, opened))
    for event in decide(position, TimeSeen(at=AT + timedelta(hours=1))):
        position = evolve(position, event)
    asked = owed(position, AT)
    return "order" if isinstance(asked, Submit) else str(position.state)


def doors(store: ExitStore) -> tuple[ExitManager, ExitManager]:
    """Each broker that is shipped is a `Broker`."""
    return ExitManager(SimulatedBroker(), store), ExitManager(ScriptedBroker(), store)


def main(path: str) -> None:
    print("live:", *asyncio.run(live(path)))
    with ExitStore(path, read_only=True) as store:
        (stream,) = [s for s in store.stream_ids() if not s.startswith("account")]
        print("state:", explain(store, stream).state == State.FILLED, "verified:", verify(store).ok)
    result = simulate(bars(), load_config({"profit_taking": {"threshold_pct": 2}}))
    print("simulated:", *[one.reason for one in result.exits], "decided:", decided())


if __name__ == "__main__":
    main(sys.argv[1])
