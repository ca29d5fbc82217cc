"""How costs grow with the number of things, by counts of calls: a clock would say something of the machine as well."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import FrameType

import pytest

from exitfsm import levels
from exitfsm.account import Account
from exitfsm.clocks import ManualClock
from exitfsm.engine import Engine
from exitfsm.manager import ExitManager
from exitfsm.messages import Open
from exitfsm.policy import ExitPolicy
from exitfsm.ports import Capabilities, Session
from exitfsm.position import account_hash
from exitfsm.simulate import simulate
from exitfsm.store import ExitStore
from exitfsm.values import Bar, BrokerPosition, ExecutionReport, Fill, Order, OrderStatus, Side

T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
PRICE = Decimal(100)
FEW, MORE = 200, 800
#: So much more may be done for each where four times as many are there.
LINEAR = 1.05


class Calls:
    """Counts the calls that a thread makes, of functions in Python and of those in C."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count inside the block."""
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _note(self, _: FrameType, event: str, __: object) -> None:
        self.count += event in ("call", "c_call")


class Desk:
    """A broker that holds so many positions, and takes every order."""

    capabilities = Capabilities(queues_orders=True, reduce_only=True)

    def __init__(self, count: int) -> None:
        self.rows = [
            BrokerPosition(symbol=f"S{n:04d}", side=Side.LONG, qty=Decimal(10), avg_entry_price=PRICE)
            for n in range(count)
        ]
        self.taken: dict[str, ExecutionReport] = {}

    async def submit(self, order: Order) -> ExecutionReport:
        """It works."""
        report = self.taken[order.client_order_id] = ExecutionReport(
            client_order_id=order.client_order_id, status=OrderStatus.NEW, at=T0, filled_qty=Decimal(0)
        )
        return report

    async def positions(self) -> list[BrokerPosition]:
        """What is held."""
        return self.rows

    async def order(self, client_order_id: str) -> ExecutionReport | None:
        """What was taken."""
        return self.taken.get(client_order_id)

    async def open_orders(self) -> list[ExecutionReport]:
        """None of others."""
        return list(self.taken.values())

    async def cancel(self, _: str) -> None:
        """As asked."""

    async def fills(self, _: datetime) -> list[Fill]:
        """None."""
        return []

    async def session(self, _: str, __: datetime) -> Session:
        """Always open."""
        return Session(is_open=True)


def to_open(symbol: str, number: int = 0) -> Open:
    at = T0 + timedelta(seconds=number)
    return Open(
        at=at,
        account=account_hash("default"),
        symbol=symbol,
        side=Side.LONG,
        epoch=f"{at:%Y%m%dT%H%M%SZ}",
        qty=Decimal(10),
        entry_price=PRICE,
        opened_at=at,
        policy=ExitPolicy(),
    )


async def calls_of(count: int, work: Callable[[ExitManager], object]) -> int:
    """The calls that a manager with so many positions makes on its loop for some work."""
    store, calls = ExitStore(":memory:"), Calls()
    engine = Engine(store)
    with store.bulk():
        for number in range(count):
            engine.open(to_open(f"S{number:04d}"), reference=PRICE)
    clock = ManualClock(T0 + timedelta(minutes=1))
    manager = ExitManager(Desk(count), store, config={"live": {"orders_per_minute": 100_000}}, clock=clock)
    await manager.start()
    await manager.settled()
    with calls.counted():
        done = work(manager)
        assert asyncio.iscoroutine(done)
        await done
        await manager.settled()
    await manager.stop()
    store.close()
    return calls.count


def falls(count: int) -> list[Bar]:
    """A bar of each symbol that breaches its stop."""
    return [Bar(f"S{n:04d}", T0 + timedelta(minutes=1), *[Decimal(98)] * 4, 100) for n in range(count)]


@pytest.mark.parametrize("what", ["sync", "tick", "breach"])
def test_given_four_times_the_positions_then_their_work_is_four_times_as_much(what: str) -> None:
    def per_position(count: int) -> float:
        bars = falls(count)
        work: dict[str, Callable[[ExitManager], object]] = {
            "sync": lambda manager: manager.sync(),
            "tick": lambda manager: manager.tick(),
            "breach": lambda manager: manager.on_bars(bars),
        }
        return asyncio.run(calls_of(count, work[what])) / count

    assert per_position(MORE) <= per_position(FEW) * LINEAR


def test_given_many_positions_of_one_symbol_then_one_more_asks_for_no_levels_but_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    wake_band = levels.wake_band
    monkeypatch.setattr(levels, "wake_band", lambda p, at: asked.append(p) or wake_band(p, at))
    with ExitStore(":memory:") as store:
        engine = Engine(store)
        for number in range(50):
            engine.open(to_open("AAPL", number), reference=PRICE)
        assert len(asked) == 50


def test_given_many_alarms_then_one_more_is_raised_and_acknowledged_without_looking_at_the_others() -> None:
    def calls_at(count: int) -> int:
        calls = Calls()
        with ExitStore(":memory:") as store:
            account = Account(store, "a")
            with store.bulk():
                for number in range(count):
                    account.raise_alarm("bar_unreadable", f"text {number}", at=T0)
            account.raise_alarm("bar_unreadable", "one before", at=T0)
            with calls.counted():
                raised = account.raise_alarm("bar_unreadable", "one more", at=T0)
                again = account.raise_alarm("bar_unreadable", "one more", at=T0)
                account.acknowledge(next(reversed(account.alarms)), at=T0, who="op")
            assert (len(raised), len(again), len(account.alarms)) == (1, 0, count + 1)
        return calls.count

    calls_at(1)  # what is done once in a process is done by now
    assert calls_at(400) <= calls_at(50) * LINEAR


def test_given_an_alarm_that_was_acknowledged_when_it_comes_again_then_it_is_raised_again() -> None:
    with ExitStore(":memory:") as store:
        account = Account(store, "a")
        account.raise_alarm("bar_unreadable", "x", at=T0)
        account.acknowledge(next(iter(account.alarms)), at=T0, who="op")
        assert len(account.raise_alarm("bar_unreadable", "x", at=T0)) == 1
        account.restore(T0)
        assert account.raise_alarm("bar_unreadable", "x", at=T0) == ()
        assert store.verify_read_models() == []


def test_given_a_crash_of_four_times_the_simulated_symbols_then_each_life_costs_the_same() -> None:
    def per_life(count: int) -> float:
        calls, at = Calls(), (T0 + timedelta(minutes=n) for n in range(3))
        bars = [
            Bar(f"S{n:04d}", time, *[Decimal(price)] * 4, 100)
            for time, price in zip(at, (100, 95, 95), strict=True)
            for n in range(count)
        ]
        with calls.counted():
            result = simulate(bars)
        assert len([one for one in result.exits if one.filled_at]) == count
        return calls.count / count

    assert per_life(MORE) <= per_life(FEW) * LINEAR
