"""The local server, pinned from outside: the SDK's strict models, its streams with parsed data, and recorded errors."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import requests
from alpaca.common.exceptions import APIError
from alpaca.data.enums import DataFeed
from alpaca.data.historical import CryptoHistoricalDataClient, StockHistoricalDataClient
from alpaca.data.live import CryptoDataStream, StockDataStream
from alpaca.data.requests import CryptoBarsRequest, StockBarsRequest, StockLatestQuoteRequest, StockLatestTradeRequest
from alpaca.data.timeframe import TimeFrame
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide, OrderStatus, PositionSide, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import (
    GetCalendarRequest,
    GetOrdersRequest,
    LimitOrderRequest,
    MarketOrderRequest,
    ReplaceOrderRequest,
)
from alpaca.trading.stream import TradingStream

from exitfsm import Bar, Side
from exitfsm import OrderStatus as Ours
from exitfsm.testing.alpaca_server import AlpacaServer, Fault, Hours


@pytest.fixture
def client(server: AlpacaServer) -> Iterator[TradingClient]:
    made = TradingClient(server.key, server.secret, url_override=server.url)
    yield made
    made._session.close()


def market(qty: float = 10, side: OrderSide = OrderSide.SELL, **fields: Any) -> MarketOrderRequest:
    return MarketOrderRequest(symbol="AAPL", qty=qty, side=side, time_in_force=TimeInForce.DAY, **fields)


def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "never"
        time.sleep(0.01)


def test_the_models_of_the_sdk_read_everything(server: AlpacaServer, client: TradingClient) -> None:
    server.hold("AAPL", 10, 100)
    server.hold("TSLA", 5, 200, Side.SHORT)
    server.hold("BTC/USD", "0.5", 40_000)
    held = {p.symbol: p for p in client.get_all_positions()}
    assert set(held) == {"AAPL", "TSLA", "BTCUSD"}
    assert (held["TSLA"].side, held["TSLA"].qty, held["TSLA"].qty_available) == (PositionSide.SHORT, "-5", "-5")
    assert client.get_open_position("BTCUSD").qty == "0.5"
    assert client.get_account().status == "ACTIVE"
    assert client.get_asset("AAPL").fractionable
    clock = client.get_clock()
    assert clock.is_open
    assert clock.next_open.tzinfo is not None
    calendar = client.get_calendar(GetCalendarRequest(start=date(2024, 1, 2), end=date(2024, 1, 3)))
    assert [day.date for day in calendar] == [date(2024, 1, 2), date(2024, 1, 3)]
    order = client.submit_order(market(4, client_order_id="a"))
    assert (order.status, order.filled_qty) == (OrderStatus.PENDING_NEW, "0")
    until(lambda: client.get_order_by_client_id("a").status is OrderStatus.FILLED)
    assert client.get_order_by_id(order.id).filled_avg_price == "100"
    assert client.get_orders(GetOrdersRequest(status=QueryOrderStatus.CLOSED))[0].client_order_id == "a"
    assert client.close_position("TSLA").side is OrderSide.BUY


def test_limits_cancels_and_replacements(server: AlpacaServer, client: TradingClient) -> None:
    server.hold("AAPL", 10, 100)
    request = LimitOrderRequest(
        symbol="AAPL", qty=10, side=OrderSide.SELL, time_in_force=TimeInForce.GTC, limit_price=150
    )
    order = client.submit_order(request)
    until(lambda: client.get_order_by_id(order.id).status is OrderStatus.NEW)
    new = client.replace_order_by_id(order.id, ReplaceOrderRequest(limit_price=140))
    assert new.id != order.id
    assert (client.get_order_by_id(order.id).status, client.get_order_by_id(order.id).replaced_by) == (
        OrderStatus.REPLACED,
        new.id,
    )
    until(lambda: client.get_order_by_id(new.id).status is OrderStatus.NEW)
    assert [o.id for o in client.get_orders()] == [new.id]
    client.cancel_order_by_id(new.id)
    until(lambda: client.get_order_by_id(new.id).status is OrderStatus.CANCELED)
    with pytest.raises(APIError, match='order is already in \\\\"canceled\\\\" state'):
        client.cancel_order_by_id(new.id)


RECORDED = [
    (market(11), 403, 40310000, "insufficient qty available for order (requested: 11, available: 10)"),
    (market(1.5), 403, 40310000, 'asset "AAPL" is not fractionable'),
    (market(5, client_order_id="used"), 422, 40010001, "client_order_id must be unique"),
    (market(5, OrderSide.BUY), 403, 40310000, "potential wash trade detected. use complex orders"),
]


@pytest.mark.parametrize(("request_", "status", "code", "message"), RECORDED)
def test_refusals_have_the_recorded_bodies(
    server: AlpacaServer, client: TradingClient, request_: MarketOrderRequest, status: int, code: int, message: str
) -> None:
    server.account.fills = "by_hand"
    server.account.not_fractionable.add("AAPL")
    server.hold("AAPL", 15, 100)
    client.submit_order(market(5, client_order_id="used"))
    until(lambda: client.get_order_by_client_id("used").status is OrderStatus.NEW)
    with pytest.raises(APIError) as error:
        client.submit_order(request_)
    assert (error.value.status_code, error.value.code, error.value.message) == (status, code, message)
    if "insufficient" in message:
        body = json.loads(str(error.value))
        fields = [body[k] for k in ("available", "existing_qty", "held_for_orders", "symbol")]
        assert fields == ["10", "15", "5", "AAPL"]
        assert body["related_orders"] == [str(client.get_order_by_client_id("used").id)]


def test_a_used_id_stays_used(server: AlpacaServer, client: TradingClient) -> None:
    server.hold("AAPL", 10, 100)
    client.submit_order(market(4, client_order_id="a"))
    until(lambda: client.get_order_by_client_id("a").status is OrderStatus.FILLED)
    with pytest.raises(APIError, match="must be unique"):
        client.submit_order(market(4, client_order_id="a"))


def test_a_sell_from_flat_is_a_short_sale_and_none_crosses_zero(server: AlpacaServer, client: TradingClient) -> None:
    server.price("AAPL", 100)
    client.submit_order(market(5))
    until(lambda: server.held("AAPL") == -5)
    with pytest.raises(APIError, match="insufficient qty"):
        client.submit_order(market(6, OrderSide.BUY))


def test_hours_and_expiry(server: AlpacaServer, client: TradingClient) -> None:
    """A DAY order that is sent while the market is closed waits for the open; one that does not fill expires."""
    night = datetime(2024, 1, 3, 7, tzinfo=UTC)
    server.account.hours, server.account.now = Hours(), lambda: night
    server.hold("AAPL", 10, 100)
    order = client.submit_order(market(10))
    until(lambda: client.get_order_by_id(order.id).status is OrderStatus.ACCEPTED)
    assert not client.get_clock().is_open
    server.account.now = lambda: night.replace(hour=15)
    server.bar(Bar("AAPL", night.replace(hour=15), 99, 99, 99, 99))
    assert client.get_order_by_id(order.id).status is OrderStatus.FILLED
    server.hold("AAPL", 10, 100)
    request = LimitOrderRequest(
        symbol="AAPL", qty=10, side=OrderSide.SELL, time_in_force=TimeInForce.DAY, limit_price=150
    )
    order = client.submit_order(request)
    until(lambda: client.get_order_by_id(order.id).status is OrderStatus.NEW)
    server.do(server.account.close_session)
    assert client.get_order_by_id(order.id).status is OrderStatus.EXPIRED


def test_keys_and_the_rate_limit(server: AlpacaServer) -> None:
    headers = {"APCA-API-KEY-ID": server.key, "APCA-API-SECRET-KEY": "wrong"}
    answer = requests.get(server.url + "/v2/account", headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (401, 40110000)
    server.limit(2)
    headers["APCA-API-SECRET-KEY"] = server.secret
    codes = [requests.get(server.url + "/v2/account", headers=headers, timeout=60) for _ in range(3)]
    assert [a.status_code for a in codes] == [200, 200, 429]
    assert (codes[2].json()["code"], codes[2].headers["Retry-After"]) == (42910000, "1")


def test_a_restart_keeps_the_account_and_the_port(server: AlpacaServer, client: TradingClient) -> None:
    server.hold("AAPL", 10, 100)
    port = server.port
    server.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        client.get_all_positions()
    server.start()
    assert server.port == port
    assert client.get_open_position("AAPL").qty == "10"


def test_trade_updates_are_read_by_the_sdk(server: AlpacaServer, client: TradingClient) -> None:
    """Parsed by its model, which is strict about every field."""
    heard: list[Any] = []

    async def hear(update: Any) -> None:
        heard.append(update)

    stream = TradingStream(server.key, server.secret, url_override=server.stream_url)
    stream.subscribe_trade_updates(hear)
    thread = threading.Thread(target=stream.run, daemon=True)
    thread.start()
    until(lambda: server.updates.listening == 1)
    server.hold("AAPL", 10, 100)
    server.account.fills = "by_hand"
    order = client.submit_order(market(10, client_order_id="a"))
    until(lambda: client.get_order_by_client_id("a").status is OrderStatus.NEW)
    server.fill("a", 4, "99.5")
    server.fill("a", 6, "99")
    until(lambda: len(heard) >= 4)
    told = [
        (str(u.event), u.order.client_order_id, u.qty, u.price, u.position_qty) for u in heard if u.order.id == order.id
    ]
    assert [t[2:] for t in told[-2:]] == [(4.0, 99.5, 6.0), (6.0, 99.0, 0.0)]
    assert heard[-1].order.filled_avg_price == "99.2"
    stream.stop()
    server.drop_stream()
    thread.join(60)
    assert not thread.is_alive()


def test_bars_are_read_by_the_sdk(server: AlpacaServer) -> None:
    heard: list[Any] = []

    async def hear(bar: Any) -> None:
        heard.append(bar)

    stocks = StockDataStream(server.key, server.secret, url_override=server.data_url)
    pairs = CryptoDataStream(server.key, server.secret, url_override=server.crypto_url)
    stocks.subscribe_bars(hear, "AAPL")
    pairs.subscribe_bars(hear, "BTC/USD")
    threads = [threading.Thread(target=stream.run, daemon=True) for stream in (stocks, pairs)]
    for thread in threads:
        thread.start()
    until(lambda: server.stocks.subscribed and server.crypto.subscribed)
    at = datetime(2024, 1, 3, 15, tzinfo=UTC)
    for n, symbol in enumerate(("AAPL", "BTC/USD")):
        for minute in range(3):
            server.bar(Bar(symbol, at + timedelta(minutes=minute), 100 + n, 102 + n, 99 + n, 101 + n, 7))
    until(lambda: len(heard) == 6)
    assert {(b.symbol, b.timestamp.minute, b.high) for b in heard} >= {("AAPL", 0, 102.0), ("BTC/USD", 2, 103.0)}
    for stream in (stocks, pairs):
        stream.stop()
    server.drop_data()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    data = StockHistoricalDataClient(server.key, server.secret, url_override=server.url)
    found = data.get_stock_bars(
        StockBarsRequest(symbol_or_symbols=["AAPL"], timeframe=TimeFrame.Minute, start=at, feed=DataFeed.IEX)
    )
    assert [b.timestamp.minute for b in found["AAPL"]] == [0, 1, 2]
    assert data.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols="AAPL"))["AAPL"].price == 101
    assert data.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols="AAPL"))["AAPL"].bid_price == 101
    coins = CryptoHistoricalDataClient(server.key, server.secret, url_override=server.url)
    request = CryptoBarsRequest(symbol_or_symbols=["BTC/USD"], timeframe=TimeFrame.Minute, start=at)
    assert len(coins.get_crypto_bars(request)["BTC/USD"]) == 3
    for client in (data, coins):
        client._session.close()


@pytest.mark.parametrize("kind", ["status", "html", "empty", "garbage", "hang", "reset", "redirect", "slow"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_fault_does_what_it_says(server: AlpacaServer, kind: Any, when: Any) -> None:
    """Before: nothing happened; after: the order is there. Either way the client is told something else."""
    server.hold("AAPL", 10, 100)
    server.fail(Fault(kind, when, seconds=0.3))
    headers = {"APCA-API-KEY-ID": server.key, "APCA-API-SECRET-KEY": server.secret}
    body = {
        "symbol": "AAPL",
        "qty": "10",
        "side": "sell",
        "type": "market",
        "time_in_force": "day",
        "client_order_id": "a",
    }
    try:
        answer = requests.post(server.url + "/v2/orders", json=body, headers=headers, timeout=60, allow_redirects=False)
        good = answer.ok and answer.text.startswith("{") and "client_order_id" in answer.text
    except requests.exceptions.ConnectionError:
        good = False
    assert good is (kind == "slow")
    assert (len([o for o in server.orders() if o["client_order_id"] == "a"]) == 1) is (
        when == "after" or kind == "slow"
    )
    assert requests.get(server.url + "/v2/account", headers=headers, timeout=60).ok


def test_statuses_by_hand(server: AlpacaServer, client: TradingClient) -> None:
    server.account.fills = "by_hand"
    server.hold("AAPL", 10, 100)
    client.submit_order(market(10, client_order_id="a"))
    until(lambda: client.get_order_by_client_id("a").status is OrderStatus.NEW)
    for status, word, theirs in (
        (Ours.SUSPENDED, None, OrderStatus.SUSPENDED),
        (Ours.DONE_FOR_DAY, None, OrderStatus.DONE_FOR_DAY),
        (Ours.NEW, "held", OrderStatus.HELD),
        (Ours.NEW, None, OrderStatus.NEW),
        (Ours.REJECTED, None, OrderStatus.REJECTED),
    ):
        server.do(lambda s=status, w=word: server.account.move("a", s, w))  # type: ignore[misc]
        assert client.get_order_by_client_id("a").status is theirs
        assert bool(client.get_orders()) is (theirs not in (OrderStatus.HELD, OrderStatus.REJECTED))


def test_runs_as_a_program() -> None:
    """It says which variables lead there, and serves until it is interrupted."""
    command = [
        sys.executable,
        "-m",
        "exitfsm.testing.alpaca_server",
        "--hold",
        "AAPL:10:100",
        "--walk",
        "AAPL:100",
        "--every",
        "0.05",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(5)]
    env = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
    headers = {"APCA-API-KEY-ID": env["APCA_API_KEY_ID"], "APCA-API-SECRET-KEY": env["APCA_API_SECRET_KEY"]}
    shown = requests.get(env["APCA_API_BASE_URL"] + "/v2/positions", headers=headers, timeout=60).json()
    assert [(p["symbol"], p["qty"]) for p in shown] == [("AAPL", "10")]
    until(
        lambda: requests.get(
            env["APCA_API_DATA_URL"] + "/v2/stocks/bars/latest?symbols=AAPL", headers=headers, timeout=60
        ).json()["bars"]
    )
    process.terminate()
    process.wait(60)
    process.stdout.close()
