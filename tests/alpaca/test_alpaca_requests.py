"""What is asked of Alpaca where the account's limit is the real one, 200 requests a minute, and answers take 50 ms.

Counted on the local server, which turns away what is too much; the manager and the adapter have their defaults.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from exitfsm_alpaca import AlpacaBroker, AlpacaUpdates
from exitfsm_alpaca.access import Access
from exitfsm_alpaca.rest import PER_MINUTE

from exitfsm import Alarm, Bar, OrderSide, RateLimited, State
from exitfsm.manager import ExitManager
from exitfsm.order_ids import looks_like_exit
from exitfsm.testing.alpaca_server import AlpacaServer, Fault

ANSWER_S = 0.05
LOOK_UP, SENT = "GET /v2/orders:by_client_order_id", "POST /v2/orders"


def symbols(count: int) -> list[str]:
    return [f"S{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(count)]


class Account:
    """A manager and its update stream at an account; what is asked there is counted."""

    def __init__(self, server: AlpacaServer, path: Path) -> None:
        self.server, self.path = server, path
        self.alarms: list[Alarm] = []
        self.seen = 0

    def hold(self, names: list[str]) -> None:
        for symbol in names:
            self.server.hold(symbol, 10, 100, ago_s=3600)

    @asynccontextmanager
    async def running(self, store: str = "exits.db") -> AsyncIterator[Account]:
        server, access = self.server, Access.from_environment(self.server.environment)
        if not server.rest.faults.planned:
            server.fail(Fault("slow", method="*", path="/v2/", times=1_000_000, seconds=ANSWER_S))
        server.limit(PER_MINUTE)
        self.count()
        self.broker = AlpacaBroker(access)
        self.manager = ExitManager(
            self.broker, self.path / store, None, None, account="desk", on_alarm=self.alarms.append
        )
        await self.manager.start()
        updates = AlpacaUpdates(access, self.broker, self.manager.on_order_update, self.manager.sync)
        await updates.start()
        try:
            yield self
        finally:
            await updates.stop()
            await self.manager.stop()
            self.broker.close()

    async def fall(self, *names: str, to: Callable[[int], str] = lambda _: "90") -> None:
        """A bar below the stop of each, all of them at once."""
        bars = []
        for at, symbol in enumerate(names):
            price = Decimal(to(at))
            bars.append(Bar(symbol, datetime.now(UTC), price, price, price, price, 100))
            self.server.price(symbol, price)
        await self.manager.on_bars(bars)

    @property
    def sent(self) -> list[str]:
        """The symbols of the exit orders that were taken, in the order in which they were."""
        return [o["symbol"] for o in self.server.orders() if looks_like_exit(o["client_order_id"])]

    def count(self) -> Counter[str]:
        """How often what was asked since the last count, by method and path."""
        requests = list(self.server.rest.requests)
        new, self.seen = requests[self.seen :], len(requests)
        return Counter(f"{method} {path.split('?')[0]}" for method, path, _ in new)

    async def until(self, what: Callable[[], Any], seconds: float = 60.0) -> float:
        """How long it took."""
        began = time.monotonic()
        while not what():
            assert time.monotonic() - began < seconds, f"never: {self.count()}"
            await asyncio.sleep(0.005)
        return time.monotonic() - began


@pytest.fixture
def account(server: AlpacaServer, tmp_path: Path) -> Account:
    return Account(server, tmp_path)


async def test_given_200_positions_and_a_new_store_then_one_list_answers_for_all_and_a_stop_leaves_at_once(
    account: Account,
) -> None:
    names = symbols(200)
    account.hold(names)
    async with account.running():
        assert len(account.manager.positions()) == 200
        start = account.count()
        assert start[LOOK_UP] == 0
        assert start.total() <= 16, start
        await account.fall(names[77])
        await account.until(lambda: account.sent, seconds=10)  # the machine may be busy; what counts is what was asked
        before = account.count()
        assert before[LOOK_UP] == 0
        assert before.total() - before[SENT] <= 12, before  # the streams' first reconciliation among them
    assert account.sent == [names[77]]


async def test_given_other_reads_that_use_up_their_share_then_a_stop_leaves_all_the_same(account: Account) -> None:
    account.hold(["SAA"])
    async with account.running():
        reads = [asyncio.to_thread(account.broker.clock) for _ in range(PER_MINUTE)]
        answers = await asyncio.gather(*reads, return_exceptions=True)
        assert any(isinstance(answer, RateLimited) for answer in answers)
        account.count()
        await account.fall("SAA")
        await account.until(lambda: account.sent, seconds=10)


async def test_given_the_order_stream_then_an_exit_costs_few_requests(account: Account) -> None:
    account.hold(symbols(3))
    async with account.running():
        await account.fall("SAA")
        await account.until(lambda: len(account.manager.positions()) == 2)
        await asyncio.sleep(1)
        account.count()
        await account.fall("SAB")
        await account.until(lambda: len(account.manager.positions()) == 1)
        await asyncio.sleep(1)
        asked = account.count()
        assert asked[SENT] == 1
        del asked["GET /v2/calendar"]  # once a day
        # A look, the order, the proof that all is sold; executions where that was read before the fill was reported.
        syncs = asked["GET /v2/orders"]  # one list of orders and one of positions each, whatever else happens
        assert syncs <= 1, asked
        assert asked.total() - 2 * syncs <= 4, asked
    assert account.alarms == []


async def test_given_150_breaches_then_as_many_orders_as_fit_leave_before_any_look_up_the_worst_first(
    account: Account,
) -> None:
    names = symbols(150)
    account.hold(names)
    async with account.running():
        await asyncio.sleep(0.5)
        account.count()
        await account.fall(*names, to=lambda at: f"{98 - at / 10:.1f}")  # the last one loses most
        await account.until(lambda: len(account.sent) == 120)
        asked = account.count()
        assert asked[LOOK_UP] == 0, asked
        assert asked[SENT] == 120
        assert set(account.sent) == set(names[30:])
        await account.until(lambda: account.alarms)
    (alarm,) = account.alarms
    assert alarm.kind == "exits_wait"
    assert alarm.text.startswith("30 exits wait ")
    assert len(account.sent) == 120


async def test_given_an_exit_order_of_a_lost_store_then_the_list_finds_it_among_the_others(account: Account) -> None:
    """The order has ended: no list of working orders shows it, and what it sold is known by its record alone."""
    names = symbols(8)
    account.hold(names)
    account.server.account.fills = "by_hand"
    async with account.running("first.db"):
        await account.fall("SAC")
        await account.until(lambda: account.sent)
        (order,) = [o for o in account.server.orders() if looks_like_exit(o["client_order_id"])]
        await asyncio.sleep(0.5)
        account.server.fill(order["client_order_id"], 4, 90)
    account.server.do(account.server.account.cancel(order["id"]))
    async with account.running("second.db"):
        (found,) = [p for p in account.manager.positions() if p.symbol == "SAC"]
        assert (found.qty, found.sold_qty, found.remaining_qty) == (10, 4, 6)
        assert found.state is not State.MONITORING
        assert len(account.manager.positions()) == 8
        asked = account.count()
        assert 1 <= asked[LOOK_UP] <= 4, asked  # the one that was found, and whether there is another after it


async def test_given_no_list_of_orders_then_each_is_looked_up_out_of_what_is_not_kept_for_exits(
    account: Account,
) -> None:
    account.hold(symbols(5))
    account.server.fail(Fault("status", method="GET", path="^/v2/orders$", times=2, status=500))
    async with account.running():
        await account.until(lambda: len(account.manager.positions()) == 5)
        assert account.count()[LOOK_UP] == 0  # the working orders were asked for twice, and the list was there
    account.server.rest.faults.planned.insert(
        0, Fault("status", method="GET", path="^/v2/orders$", times=1_000, status=500)
    )
    async with account.running("second.db"):
        await account.until(lambda: len(account.manager.positions()) == 5)
        assert account.count()[LOOK_UP] >= 5


async def test_given_an_entry_that_nobody_announced_then_it_is_watched_within_15_seconds(account: Account) -> None:
    account.server.updates.muted = True
    async with account.running():
        await asyncio.sleep(0.5)
        account.server.do(
            lambda: account.server.account.trade_by_hand("AAPL", OrderSide.BUY, Decimal(10), Decimal(100))
        )
        took = await account.until(account.manager.positions, seconds=30)
        assert took <= 15.0 + 3.0  # with what a busy machine adds


async def test_who_waits_for_executions_together_shares_a_read_that_began_after_they_came(
    server: AlpacaServer, broker: AlpacaBroker
) -> None:
    server.hold("AAPL", 10, 100, ago_s=60)
    since = datetime.now(UTC) - timedelta(hours=1)
    server.fail(Fault("slow", method="GET", path="activities", times=3, seconds=0.4))
    first = asyncio.create_task(asyncio.to_thread(broker.fills, since))
    await asyncio.sleep(0.2)
    server.hold("MSFT", 10, 100)  # the first read is under way, and need not show it
    others = await asyncio.gather(*(asyncio.to_thread(broker.fills, since) for _ in range(6)))
    await first
    assert all({fill.symbol for fill in fills} == {"AAPL", "MSFT"} for fills in others)
    asked = [path for method, path, _ in server.rest.requests if "activities" in path]
    assert 2 <= len(asked) <= 3  # one thread more or less may come in time on a busy machine; they are seven


async def test_a_read_of_executions_that_failed_is_shared_with_nobody(
    server: AlpacaServer, broker: AlpacaBroker
) -> None:
    server.hold("AAPL", 10, 100, ago_s=60)
    since = datetime.now(UTC) - timedelta(hours=1)
    server.fail(Fault("slow", method="GET", path="activities", times=1, seconds=0.4))
    server.fail(Fault("status", method="GET", path="activities", times=1, status=500))
    first = asyncio.create_task(asyncio.to_thread(broker.fills, since))
    await asyncio.sleep(0.2)
    answers = await asyncio.gather(*(asyncio.to_thread(broker.fills, since) for _ in range(3)), return_exceptions=True)
    await first
    assert sum(isinstance(answer, BaseException) for answer in answers) == 1
