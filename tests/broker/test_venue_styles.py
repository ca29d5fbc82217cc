"""The suite for brokers on fakes that speak as venues do: ccxt's spot, a perpetual in hedge mode, Interactive Brokers.

Each takes only the ids that its kind of venue takes, calls instruments by its own names, and answers in its own words.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
from msgspec.structs import replace

from exitfsm import Bar, NotSent, Order, OrderSide, OrderType, Side, SimulatedBroker, TimeInForce
from exitfsm.errors import OrderRefused
from exitfsm.ports import CRYPTO, IdMemory, Instrument
from exitfsm.simulated import SIMULATED
from exitfsm.testing.conformance import Bench, BrokerConformance, CannotDo
from exitfsm.testing.given import T0
from exitfsm.values import ExecutionReport, OrderStatus


class Venue:
    """What the three have in common: a market of one symbol, and the ids that are taken."""

    ids = r"[a-zA-Z0-9]{1,32}"
    words: ClassVar[dict[OrderStatus, str]] = {}

    def __init__(self, market: SimulatedBroker) -> None:
        self._market = market
        self.capabilities = market.capabilities

    def _sent(self, order: Order) -> ExecutionReport:
        if re.fullmatch(self.ids, order.client_order_id) is None:
            raise OrderRefused("bad_id", f"id {order.client_order_id!r}")
        return self._market.submit(order)

    def _word(self, report: ExecutionReport) -> str:
        return self.words.get(report.status, "open")

    def fills(self, since: datetime) -> list[dict[str, Any]]:
        return [
            {"id": f.fill_id, "symbol": f.symbol, "side": str(f.side), "amount": str(f.qty), "price": str(f.price),
             "timestamp": round(f.at.timestamp() * 1000), "order": f.broker_order_id}
            for f in self._market.fills(since)
        ]  # fmt: skip


class CcxtSpot(Venue):
    """Orders as ccxt's dictionaries; what is held is a balance; `closed` says that an order is filled."""

    words: ClassVar = {OrderStatus.FILLED: "closed", OrderStatus.CANCELED: "canceled", OrderStatus.EXPIRED: "expired"}

    async def positions(self) -> list[dict[str, Any]]:
        return [
            {"symbol": p.symbol, "amount": str(p.qty), "average": str(p.avg_entry_price)}
            for p in self._market.positions()
        ]

    async def create_order(self, symbol: str, type: str, side: str, amount: Any, price: Any, params: Any) -> Any:
        limit = Decimal(str(price)) if price is not None else None
        order = Order(
            client_order_id=params["clientOrderId"], symbol=symbol, side=OrderSide(side), qty=Decimal(str(amount)),
            order_type=OrderType(type), time_in_force=TimeInForce.GTC, limit_price=limit,
        )  # fmt: skip
        return self._order(self._sent(order))

    async def order(self, client_order_id: str) -> Any:
        report = self._market.order(client_order_id)
        return self._order(report) if report is not None else None

    async def fetch_open_orders(self) -> list[Any]:
        return [self._order(report) for report in self._market.open_orders()]

    async def cancel(self, client_order_id: str) -> None:
        self._market.cancel(client_order_id)

    def instrument(self, symbol: str) -> dict[str, Any]:
        return {"qty_step": "0.00001", "price_tick": "0.01", "always_open": True}

    def _order(self, r: ExecutionReport) -> dict[str, Any]:
        return {
            "id": r.broker_order_id, "clientOrderId": r.client_order_id, "symbol": r.symbol, "side": str(r.side),
            "amount": float(r.qty or 0), "filled": float(r.filled_qty or 0), "remaining": None, "fee": None,
            "average": float(r.avg_fill_price) if r.avg_fill_price is not None else None, "status": self._word(r),
            "timestamp": round(r.at.timestamp() * 1000), "info": {},
        }  # fmt: skip


class HedgePerpetual(Venue):
    """A row for each side of a symbol, of which one is empty; UUIDs only; orders name the side of their position."""

    ids = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    words: ClassVar = {
        OrderStatus.FILLED: "FILLED", OrderStatus.CANCELED: "CANCELED", OrderStatus.EXPIRED: "EXPIRED",
        OrderStatus.PARTIALLY_FILLED: "PARTIALLY_FILLED", OrderStatus.NEW: "NEW",
    }  # fmt: skip

    def get_positions(self) -> list[dict[str, Any]]:
        held = {(p.symbol, p.side): p for p in self._market.positions()}
        return [
            {"symbol": symbol, "positionSide": side.upper(), "markPrice": "100",
             "positionAmt": str(p.qty * side.sign) if (p := held.get((symbol, side))) is not None else "0",
             "entryPrice": str(p.avg_entry_price) if p is not None else "0"}
            for symbol in {p.symbol for p in self._market.positions()} for side in Side
        ]  # fmt: skip

    def submit(self, order: Order) -> Any:
        assert order.side is order.position_side.exit_side  # or it would open the other side
        return self._order(self._sent(order))

    def order(self, client_order_id: str) -> Any:
        report = self._market.order(client_order_id)
        return self._order(report) if report is not None else None

    def open_orders(self) -> list[Any]:
        return [self._order(report) for report in self._market.open_orders()]

    def cancel(self, client_order_id: str) -> None:
        self._market.cancel(client_order_id)

    def instrument(self, symbol: str) -> dict[str, Any]:
        return {"qty_step": "0.001", "price_tick": "0.1", "value_min": 5, "always_open": True, "id_form": "uuid"}

    def _order(self, r: ExecutionReport) -> dict[str, Any]:
        return {
            "orderId": r.broker_order_id, "clientOrderId": r.client_order_id, "symbol": r.symbol,
            "side": str(r.side).upper(), "origQty": str(r.qty), "executedQty": str(r.filled_qty),
            "avgPrice": str(r.avg_fill_price or 0), "status": self._word(r),
            "updateTime": round(r.at.timestamp() * 1000),
        }  # fmt: skip


class Ib(Venue):
    """Objects with attributes; an id is `orderRef`, is never refused, and may be of 40 characters; words of its own."""

    ids = r"[ -~]{1,40}"
    words: ClassVar = {
        OrderStatus.FILLED: "Filled", OrderStatus.CANCELED: "Cancelled", OrderStatus.NEW: "Submitted",
        OrderStatus.PARTIALLY_FILLED: "Submitted", OrderStatus.EXPIRED: "expired",
    }  # fmt: skip

    async def positions(self) -> list[Any]:
        return [
            SimpleNamespace(
                contract=SimpleNamespace(symbol=p.symbol, secType="STK"), symbol=p.symbol,
                position=float(p.qty * p.side.sign), avgCost=float(p.avg_entry_price),
            )
            for p in self._market.positions()
        ]  # fmt: skip

    async def place_order(
        self, symbol: str, action: str, quantity: Decimal, order_ref: str, order_type: str, limit_price: Decimal | None
    ) -> Any:
        order = Order(
            client_order_id=order_ref, symbol=symbol, side=OrderSide(action), qty=quantity,
            order_type=OrderType(order_type), limit_price=limit_price,
        )  # fmt: skip
        return self._trade(self._sent(order))

    async def order(self, order_ref: str) -> Any:
        report = self._market.order(order_ref)
        return self._trade(report) if report is not None else None

    async def open_orders(self) -> list[Any]:
        return [self._trade(report) for report in self._market.open_orders()]

    async def cancel(self, order_ref: str) -> None:
        self._market.cancel(order_ref)

    def _trade(self, r: ExecutionReport) -> Any:
        return SimpleNamespace(
            permId=r.broker_order_id, orderRef=r.client_order_id, symbol=r.symbol, action=str(r.side).upper(),
            totalQuantity=float(r.qty or 0), filled=float(r.filled_qty or 0), status=self._word(r),
            avgFillPrice=float(r.avg_fill_price or 0), remaining=float((r.qty or 0) - (r.filled_qty or 0)), at=r.at,
        )  # fmt: skip


class VenueBench(Bench):
    """One of them, and the hands that move its market."""

    def __init__(self, kind: type[Venue], symbol: str, **declared: Any) -> None:
        self.market = SimulatedBroker(capabilities=replace(SIMULATED, **declared))
        self.broker, self.symbol, self.minute = kind(self.market), symbol, 0

    async def hold(self, qty: Decimal, side: Side = Side.LONG) -> None:
        if qty:
            self.market.hold(self.symbol, side, qty, self.price, T0)

    async def trade(self) -> None:
        self.minute += 1
        at = T0 + timedelta(minutes=self.minute)
        self.market.on_bar(Bar(self.symbol, at, self.price, self.price, self.price, self.price))

    async def fill_part(self, client_order_id: str, qty: Decimal) -> None:
        self.market.fill(client_order_id, qty, self.price)

    async def lose(self, method: str, when: Literal["before", "after"]) -> None:
        self.market.fail_next(method, when, TimeoutError("lost"))

    async def unplug(self) -> None:
        self.market.fail_next("submit", "before", NotSent("nobody there"))


class SpotBench(VenueBench):
    async def short(self) -> None:
        raise CannotDo("hold less than nothing")


class TestCcxtSpot(BrokerConformance):
    @pytest.fixture
    def bench(self) -> VenueBench:
        return SpotBench(CcxtSpot, "BTC/USDT", crypto=CRYPTO)


class TestHedgePerpetual(BrokerConformance):
    @pytest.fixture
    def bench(self) -> VenueBench:
        return VenueBench(HedgePerpetual, "BTC/USDT:USDT", id_form="uuid")


class TestIb(BrokerConformance):
    @pytest.fixture
    def bench(self) -> VenueBench:
        return VenueBench(Ib, "BRK B", ids_refused=IdMemory.NEVER)


class Bare(CcxtSpot):
    """An honest adapter of a venue that promises little: an id may be sent twice, no record has a price, an order is
    named by its symbol, too, and nothing is answered before it is connected.
    """

    connected = False

    async def positions(self) -> list[dict[str, Any]]:
        assert self.connected, "not connected"
        return await super().positions()

    async def order(self, client_order_id: str, symbol: str | None = None) -> Any:  # type: ignore[override]
        assert symbol, "an order cannot be asked about without its symbol"
        return await super().order(client_order_id)

    async def cancel(self, client_order_id: str, symbol: str | None = None) -> None:
        assert symbol, "an order cannot be canceled without its symbol"
        await super().cancel(client_order_id)

    def _order(self, r: ExecutionReport) -> dict[str, Any]:
        return super()._order(r) | {"average": None}


class BareBench(SpotBench):
    async def connect(self) -> None:
        self.broker.connected = True

    async def disconnect(self) -> None:
        self.broker.connected = False


class TestBare(BrokerConformance):
    @pytest.fixture
    def bench(self) -> VenueBench:
        return BareBench(Bare, "BTC/USDT", crypto=CRYPTO, ids_refused=IdMemory.NEVER)


def test_ids_have_the_form_that_is_really_sent() -> None:
    bench = VenueBench(CcxtSpot, "BTC/USDT", instruments={"BTC/USDT": Instrument(id_form="uuid")})
    assert re.fullmatch(HedgePerpetual.ids, bench.new_id())
