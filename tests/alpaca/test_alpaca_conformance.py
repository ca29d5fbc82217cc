"""One suite, every broker: the simulated venue, the scripted one, Alpaca on the local server, and a paper account."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import pytest
from exitfsm_alpaca import Access, AlpacaBroker

from exitfsm import Bar, NotSent, Order, OrderSide, Side, SimulatedBroker
from exitfsm.testing import LostReply, Raises, ScriptedBroker
from exitfsm.testing.alpaca_server import AlpacaServer, Fault
from exitfsm.testing.conformance import Bench, BrokerConformance, CannotDo
from exitfsm.testing.given import T0

When = Literal["before", "after"]


REQUESTS = {
    "submit": ("POST", "^/v2/orders$"),
    "cancel": ("DELETE", "^/v2/orders/"),
    "order": ("GET", "by_client_order_id"),
    "positions": ("GET", "^/v2/positions$"),
}


class SimulatedBench(Bench):
    def __init__(self) -> None:
        self.broker = SimulatedBroker()
        self.minute = 0

    async def hold(self, qty: Decimal, side: Side = Side.LONG) -> None:
        if qty:
            self.broker.hold(self.symbol, side, qty, self.price, T0)

    async def trade(self) -> None:
        self.minute += 1
        at = T0 + timedelta(minutes=self.minute)
        self.broker.on_bar(Bar(self.symbol, at, self.price, self.price, self.price, self.price))

    async def fill_part(self, client_order_id: str, qty: Decimal) -> None:
        self.broker.fill(client_order_id, qty, self.price)

    async def expire(self) -> None:
        self.broker.expire_day_orders(T0 + timedelta(hours=7))

    async def lose(self, method: str, when: When) -> None:
        self.broker.fail_next(method, when, TimeoutError("lost"))

    async def unplug(self) -> None:
        self.broker.fail_next("submit", "before", NotSent("nobody there"))


class ScriptedBench(Bench):
    holds_twice = False  # the double calls a second live order what it is: a broken promise

    def __init__(self) -> None:
        self.broker = ScriptedBroker()

    async def hold(self, qty: Decimal, side: Side = Side.LONG) -> None:
        if qty:
            self.broker.enter(self.symbol, side, qty, self.price)

    async def trade(self) -> None:
        for booked in self.broker.working():
            if booked.order.limit_price is None:
                self.broker.fill(booked.order)

    async def fill_part(self, client_order_id: str, qty: Decimal) -> None:
        self.broker.fill(client_order_id, qty, self.price)

    async def expire(self) -> None:
        for booked in self.broker.working():
            self.broker.expire(booked.order)

    async def lose(self, method: str, when: When) -> None:
        error = TimeoutError("lost")
        self.broker.answer(method, Raises(error) if when == "before" else LostReply(error))

    async def unplug(self) -> None:
        self.broker.answer("submit", Raises(NotSent("nobody there")))


class AlpacaBench(Bench):
    """The adapter and the unmodified SDK on the local server, whose orders fill by hand only."""

    def __init__(
        self,
        server: AlpacaServer,
        broker: AlpacaBroker,
        impatient: AlpacaBroker,
        kind: Literal["hang", "reset", "status", "html"],
    ) -> None:
        self.server, self.broker, self.kind = server, broker, kind
        self.patient, self.impatient = broker, impatient
        self.patience_s = 60.0
        server.account.fills = "by_hand"

    async def ask(self, method: str, *args: Any) -> Any:
        try:
            return await super().ask(method, *args)
        finally:
            self.broker = self.patient

    async def hold(self, qty: Decimal, side: Side = Side.LONG) -> None:
        if qty:
            self.server.hold(self.symbol, qty, self.price, side)

    async def trade(self) -> None:
        await asyncio.sleep(0.01)  # an order becomes `new` a moment after it was taken
        for order in self.server.orders():
            if order["status"] in ("new", "pending_new") and order["type"] == "market":
                self.server.fill(order["client_order_id"])

    async def fill_part(self, client_order_id: str, qty: Decimal) -> None:
        self.server.fill(client_order_id, qty, self.price)

    async def expire(self) -> None:
        self.server.do(self.server.account.close_session)

    async def lose(self, method: str, when: When) -> None:
        verb, path = REQUESTS[method]
        self.server.fail(Fault(self.kind, when, method=verb, path=path, status=502, seconds=300.0))
        self.broker = self.impatient

    async def unplug(self) -> None:
        self.server.stop()

    async def plug(self) -> None:
        self.server.start()


class TestSimulatedBroker(BrokerConformance):
    @pytest.fixture
    def bench(self) -> SimulatedBench:
        return SimulatedBench()


class TestScriptedBroker(BrokerConformance):
    @pytest.fixture
    def bench(self) -> ScriptedBench:
        return ScriptedBench()


class TestAlpaca(BrokerConformance):
    @pytest.fixture(params=["html", "reset", "hang", "status"])
    def bench(
        self, server: AlpacaServer, broker: AlpacaBroker, impatient: AlpacaBroker, request: pytest.FixtureRequest
    ) -> AlpacaBench:
        return AlpacaBench(server, broker, impatient, request.param)


class TestAlpacaPairs(BrokerConformance):
    """The same with a pair: another spelling in positions, other times in force."""

    @pytest.fixture
    def bench(self, server: AlpacaServer, broker: AlpacaBroker, impatient: AlpacaBroker) -> AlpacaBench:
        bench = AlpacaBench(server, broker, impatient, "reset")
        bench.symbol = "BTC/USD"

        async def none(qty: Decimal = Decimal(0), side: Side = Side.LONG) -> None:
            pytest.skip("a pair cannot be sold short, and its orders know no day")

        bench.short, bench.expire = none, none  # type: ignore[method-assign]
        return bench


@pytest.mark.skipif(
    os.environ.get("EXITFSM_ALPACA_PAPER") != "1",
    reason="EXITFSM_ALPACA_PAPER=1 and paper keys run it on a paper account",
)
class TestAlpacaPaper(BrokerConformance):
    """A real paper account, by a pair, whose market never closes. The account must hold none of it before."""

    @pytest.fixture
    async def bench(self) -> AsyncIterator[Bench]:
        bench = PaperBench(AlpacaBroker(Access.from_environment()))
        await bench.flatten()
        yield bench
        await bench.flatten()
        bench.broker.close()


class PaperBench(Bench):
    symbol = "ETH/USD"
    qty = Decimal("0.02")
    fraction = Decimal("0.023456789")
    patience_s = 20.0

    def __init__(self, broker: AlpacaBroker) -> None:
        self.broker = broker

    async def hold(self, qty: Decimal, side: Side = Side.LONG) -> None:
        if not qty:
            return
        await self.ask("submit", self.exit_order(qty, side=OrderSide.BUY))
        held = await self.until(self.held)
        p = await self.position()
        assert p is not None
        self.far_price = ((p.current_price or p.avg_entry_price) * Decimal("1.3")).quantize(Decimal("0.01"))
        self.qty = self.fraction = held  # the fee was taken from what was bought

    async def short(self) -> None:
        pytest.skip("a pair cannot be sold short")

    async def flatten(self) -> None:
        for report in await self.ask("open_orders"):
            if report.symbol == self.symbol:
                await self.ask("cancel", report.client_order_id)
        await asyncio.sleep(1)
        p = await self.position()
        if p is not None:
            order: Order = self.exit_order(p.qty)
            await self.ask("submit", order)
            await self.filled(order.client_order_id)


def test_what_a_bench_cannot_do_is_skipped() -> None:
    async def case() -> None:
        with pytest.raises(CannotDo):
            await Bench().fill_part("x", Decimal(1))

    asyncio.run(case())
