"""The local server, pinned from outside: the SDK's strict models, its streams with parsed data, and recorded errors."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests
from alpaca.common.enums import Sort
from alpaca.common.exceptions import APIError
from alpaca.data.enums import DataFeed
from alpaca.data.historical import CryptoHistoricalDataClient, StockHistoricalDataClient
from alpaca.data.live import CryptoDataStream, StockDataStream
from alpaca.data.requests import (
    CryptoBarsRequest,
    StockBarsRequest,
    StockLatestBarRequest,
    StockLatestQuoteRequest,
    StockLatestTradeRequest,
    StockSnapshotRequest,
)
from alpaca.data.timeframe import TimeFrame
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import (
    ActivityType,
    AssetClass,
    OrderSide,
    OrderStatus,
    PositionSide,
    QueryOrderStatus,
    TimeInForce,
)
from alpaca.trading.models import TradeActivity
from alpaca.trading.requests import (
    ClosePositionRequest,
    GetAssetsRequest,
    GetCalendarRequest,
    GetOrdersRequest,
    LimitOrderRequest,
    MarketOrderRequest,
    ReplaceOrderRequest,
    StopLimitOrderRequest,
    StopOrderRequest,
    TrailingStopOrderRequest,
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


def limit(qty: float, price: float, side: OrderSide = OrderSide.SELL) -> LimitOrderRequest:
    return LimitOrderRequest(symbol="AAPL", qty=qty, side=side, time_in_force=TimeInForce.DAY, limit_price=price)


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


def test_the_other_endpoints_of_a_bot(server: AlpacaServer, client: TradingClient) -> None:
    server.hold("AAPL", 10, 100)
    server.hold("TSLA", 5, 200, Side.SHORT)
    server.hold("BTC/USD", "0.5", 40_000)
    assert {a.symbol: a.asset_class for a in client.get_all_assets()} == {
        "AAPL": AssetClass.US_EQUITY, "TSLA": AssetClass.US_EQUITY, "BTC/USD": AssetClass.CRYPTO,
    }  # fmt: skip
    assert [a.symbol for a in client.get_all_assets(GetAssetsRequest(asset_class=AssetClass.CRYPTO))] == ["BTC/USD"]
    assert client.get_open_position(client.get_open_position("AAPL").asset_id).symbol == "AAPL"
    assert not client.get_account_configurations().no_shorting
    days = client.get("/calendar")
    assert (days[0]["date"], days[-1]["date"]) == ("1970-01-01", "2029-12-31")
    assert client.close_position("AAPL", ClosePositionRequest(percentage="25")).qty == "2.5"
    until(lambda: server.held("AAPL") == Decimal("7.5"))
    client.submit_order(limit(7, 150))
    told = client.close_all_positions(cancel_orders=True)
    assert {(t.symbol, t.status, t.body.side) for t in told} == {
        ("AAPL", 200, OrderSide.SELL), ("TSLA", 200, OrderSide.BUY), ("BTCUSD", 200, OrderSide.SELL),
    }  # fmt: skip
    until(lambda: client.get_all_positions() == [])
    with pytest.raises(APIError) as error:
        client.get_open_position("AAPL")
    assert (error.value.status_code, error.value.code) == (404, 40410000)
    client.submit_order(limit(7, 90, OrderSide.BUY))
    assert [t.status for t in client.cancel_orders()] == [200]
    until(lambda: client.get_orders() == [])


def test_lists_of_orders_are_filtered(server: AlpacaServer, client: TradingClient) -> None:
    server.account.fills = "by_hand"
    at = datetime(2024, 1, 3, 15, tzinfo=UTC)
    for n, symbol in enumerate(("AAPL", "MSFT", "BTC/USD", "AAPL")):
        server.account.now = lambda n=n: at + timedelta(minutes=n)  # type: ignore[misc]
        times = TimeInForce.GTC if "/" in symbol else TimeInForce.DAY
        client.submit_order(
            LimitOrderRequest(
                symbol=symbol, qty=1, side=OrderSide.BUY, time_in_force=times, limit_price=10, client_order_id=f"o{n}"
            )
        )
    until(lambda: all(o.status is OrderStatus.NEW for o in client.get_orders()))
    client.cancel_order_by_id(client.get_order_by_client_id("o1").id)
    until(lambda: client.get_order_by_client_id("o1").status is OrderStatus.CANCELED)

    def names(**fields: Any) -> list[str]:
        return [o.client_order_id for o in client.get_orders(GetOrdersRequest(**fields))]

    assert names() == ["o3", "o2", "o0"]
    assert names(status=QueryOrderStatus.ALL, direction=Sort.ASC) == ["o0", "o1", "o2", "o3"]
    assert names(status=QueryOrderStatus.CLOSED) == ["o1"]
    assert names(symbols=["AAPL"], nested=True) == ["o3", "o0"]
    assert names(symbols=["BTC/USD"]) == names(symbols=["BTCUSD"]) == ["o2"]
    assert names(side=OrderSide.SELL) == []
    assert names(limit=1) == ["o3"]
    assert names(after=at + timedelta(minutes=1), status=QueryOrderStatus.ALL) == ["o3", "o2"]
    assert names(until=at + timedelta(minutes=1), status=QueryOrderStatus.ALL) == ["o0"]


def test_executions_are_paged(server: AlpacaServer, client: TradingClient) -> None:
    for n in range(5):
        server.hold("AAPL", n + 1, 100, ago_s=60 * (5 - n))
    path, query = "/account/activities/FILL", {"direction": "asc", "page_size": 2}
    pages: list[list[dict[str, Any]]] = [client.get(path, query)]
    while pages[-1]:
        pages.append(client.get(path, query | {"page_token": pages[-1][-1]["id"]}))
    assert [[a["qty"] for a in page] for page in pages] == [["1", "2"], ["3", "4"], ["5"], []]
    read = [TradeActivity(**activity) for page in pages for activity in page]
    assert (read[0].activity_type, read[0].side, read[0].price) == (ActivityType.FILL, OrderSide.BUY, 100)
    newest = client.get(path, {"after": pages[1][0]["transaction_time"]})
    assert [a["qty"] for a in newest] == ["5", "4"]
    assert client.get("/account/activities", {"activity_types": "DIV"}) == []


def stop(kind: Any, times: str, side: OrderSide = OrderSide.SELL, **prices: float) -> Any:
    return kind(symbol="AAPL", qty=10, side=side, time_in_force=times, **prices)


STOPS = [
    (stop(StopOrderRequest, "gtc", stop_price=95), ["96", "95", "94"], "95"),
    (stop(StopLimitOrderRequest, "gtc", stop_price=95, limit_price=94.5), ["96", "94", "94.6"], "94.6"),
    (stop(TrailingStopOrderRequest, "day", trail_percent=10), ["104", "110", "100", "99"], "99"),
    (stop(TrailingStopOrderRequest, "day", trail_price=5), ["104", "100", "99"], "99"),
    (stop(StopOrderRequest, "day", OrderSide.BUY, stop_price=105), ["104", "106"], "106"),
]


@pytest.mark.parametrize("fills", ["at_once", "on_bar"])
@pytest.mark.parametrize(("request_", "closes", "price"), STOPS)
def test_stops_wait_for_their_price(
    server: AlpacaServer, client: TradingClient, request_: Any, closes: list[str], price: str, fills: Any
) -> None:
    server.account.fills = fills
    server.hold("AAPL", 10, 100, Side.LONG if request_.side is OrderSide.SELL else Side.SHORT)
    order = client.submit_order(request_)
    until(lambda: client.get_order_by_id(order.id).status is OrderStatus.NEW)
    begin = datetime.now(UTC)
    for n, close in enumerate(closes):
        assert client.get_order_by_id(order.id).status is OrderStatus.NEW
        server.bar(Bar("AAPL", begin + timedelta(minutes=n), close, close, close, close))
        if price == close:
            break
    done = client.get_order_by_id(order.id)
    assert (done.status, done.filled_avg_price, done.type) == (OrderStatus.FILLED, price, request_.type)


def test_a_stop_holds_the_shares_and_can_be_moved(server: AlpacaServer, client: TradingClient) -> None:
    server.hold("AAPL", 10, 100)
    order = client.submit_order(STOPS[0][0])
    until(lambda: client.get_order_by_id(order.id).status is OrderStatus.NEW)
    assert client.get_open_position("AAPL").qty_available == "0"
    with pytest.raises(APIError, match="insufficient qty"):
        client.submit_order(market(1))
    new = client.replace_order_by_id(order.id, ReplaceOrderRequest(stop_price=97))
    assert (new.stop_price, new.replaces) == ("97", order.id)


def test_money_buys_a_fraction(server: AlpacaServer, client: TradingClient) -> None:
    server.price("AAPL", 30)
    request = MarketOrderRequest(symbol="AAPL", notional=100, side=OrderSide.BUY, time_in_force=TimeInForce.DAY)
    order = client.submit_order(request)
    assert (order.qty, order.notional) == (None, "100")
    until(lambda: server.held("AAPL") == Decimal("3.333333333"))


def test_a_replacement_is_a_request(server: AlpacaServer, client: TradingClient) -> None:
    """200 says that it was asked for: the old order may work on, and the new one be rejected."""
    server.account.replaces = "by_hand"
    server.hold("AAPL", 10, 100)
    order = client.submit_order(limit(10, 150))
    until(lambda: client.get_order_by_id(order.id).status is OrderStatus.NEW)
    for ok in (False, True):
        new = client.replace_order_by_id(order.id, ReplaceOrderRequest(limit_price=140))
        assert client.get_order_by_id(order.id).status is OrderStatus.PENDING_REPLACE
        server.do(lambda n=new, ok=ok: server.account.finish_replace(n.client_order_id, ok=ok))  # type: ignore[misc]
        states = [client.get_order_by_id(i).status for i in (order.id, new.id)]
        good = [OrderStatus.REPLACED, OrderStatus.NEW]
        assert states == (good if ok else [OrderStatus.NEW, OrderStatus.REJECTED])


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"type": "stop"}, 422, "stop orders require stop price"),
    ({"type": "limit"}, 422, "limit orders require limit price"),
    ({"type": "trailing_stop"}, 422, "one of trail_percent or trail_price"),
    ({"type": "hope"}, 422, "invalid order type"),
    ({"type": "limit", "limit_price": "100.005"}, 422, "sub-penny"),
    ({"qty": None}, 422, "qty or notional is required"),
    ({"qty": "0"}, 422, "qty must be > 0"),
    ({"qty": "many"}, 422, "format is invalid"),
    ({"side": "both"}, 422, "format is invalid"),
    ({"order_class": "bracket"}, 422, "bracket orders are not known to this server"),
    ({"symbol": "BTC/USD", "type": "stop", "stop_price": "9"}, 422, "invalid order type for crypto"),
    ({"symbol": "BTC/USD"}, 422, "invalid crypto time_in_force"),
    ({"extended_hours": True}, 422, "extended hours"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "status", "message"), BAD, ids=lambda v: str(v)[:30])
def test_bad_orders_are_refused(
    server: AlpacaServer, client: TradingClient, changes: dict[str, Any], status: int, message: str
) -> None:
    server.hold("AAPL", 10, 100)
    body = {"symbol": "AAPL", "qty": "1", "side": "sell", "type": "market", "time_in_force": "day"}
    with pytest.raises(APIError) as error:
        client.post("/orders", body | changes)
    assert error.value.status_code == status
    assert message in error.value.message
    assert client.get_orders() == []


@pytest.mark.parametrize("path", ["/orders?after=soon", "/orders?limit=many", "/calendar?start=x", "/stocks/bars"])
def test_bad_questions_are_refused(client: TradingClient, path: str) -> None:
    with pytest.raises(APIError) as error:
        client.get(path)
    assert error.value.status_code in (400, 422)


def test_a_body_that_is_no_json_is_refused(server: AlpacaServer) -> None:
    headers = {"APCA-API-KEY-ID": server.key, "APCA-API-SECRET-KEY": server.secret}
    answer = requests.post(server.url + "/v2/orders", data="{", headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (400, 40010000)


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


def test_market_data_is_read_by_the_sdk(server: AlpacaServer) -> None:
    """Bars of longer times, pages, snapshots, and every kind of message that the SDK knows."""
    midnight = datetime(2024, 1, 2, 5, tzinfo=UTC)  # in New York
    begin = midnight.replace(hour=15)
    for minute in range(90):
        for symbol in ("AAPL", "MSFT"):
            close = 100 + minute % 7
            server.bar(Bar(symbol, begin + timedelta(minutes=minute), close, close + 1, close - 1, close, 7))
    server.bar(Bar("AAPL", begin + timedelta(days=1), 200, 200, 200, 200, 7))
    data = StockHistoricalDataClient(server.key, server.secret, url_override=server.url)

    def bars(frame: TimeFrame, **fields: Any) -> Any:
        return data.get_stock_bars(
            StockBarsRequest(symbol_or_symbols=["AAPL", "MSFT"], timeframe=frame, start=midnight, **fields)
        ).data

    assert [(len(found["AAPL"]), len(found["MSFT"])) for found in (bars(TimeFrame.Minute),)] == [(91, 90)]
    hours = bars(TimeFrame.Hour)["MSFT"]
    assert [(b.timestamp.hour, b.volume, b.high, b.low) for b in hours] == [(15, 420, 107, 99), (16, 210, 107, 99)]
    assert [b.timestamp for b in bars(TimeFrame.Day)["AAPL"]] == [
        midnight,
        midnight + timedelta(days=1),
    ]
    assert len(bars(TimeFrame.Minute, end=begin + timedelta(minutes=4))["MSFT"]) == 5
    assert bars(TimeFrame.Day, sort=Sort.DESC)["AAPL"][0].close == 200
    first = data.get("/stocks/bars", {"symbols": "AAPL,MSFT", "timeframe": "1Min", "start": begin, "limit": 100})
    assert [len(first["bars"][s]) for s in ("AAPL", "MSFT")] == [91, 9]
    rest = {"symbols": "AAPL,MSFT", "timeframe": "1Min", "start": begin, "page_token": first["next_page_token"]}
    assert {s: len(b) for s, b in data.get("/stocks/bars", rest)["bars"].items()} == {"MSFT": 81}
    shot = data.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols="AAPL"))["AAPL"]
    assert (shot.latest_trade.price, shot.daily_bar.close, shot.previous_daily_bar.open) == (200, 200, 100)
    assert data.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols="MSFT"))["MSFT"].volume == 7
    assert data.get("/stocks/AAPL/trades/latest", {})["trade"]["p"] == 200
    assert len(data.get("/stocks/AAPL/bars", {"start": begin})["bars"]) == 91
    data._session.close()


def test_every_channel_is_read_by_the_sdk(server: AlpacaServer) -> None:
    heard: list[Any] = []

    async def hear(message: Any) -> None:
        heard.append(message)

    stream = StockDataStream(server.key, server.secret, url_override=server.data_url)
    stream.subscribe_trades(hear, "AAPL")
    stream.subscribe_quotes(hear, "AAPL")
    stream.subscribe_updated_bars(hear, "AAPL")
    stream.subscribe_trading_statuses(hear, "AAPL")
    thread = threading.Thread(target=stream.run, daemon=True)
    thread.start()
    until(lambda: server.stocks.connections == 1 and server.do(lambda: server.stocks.wanted("statuses")) == {"AAPL"})
    at = datetime(2024, 1, 3, 15, tzinfo=UTC)
    server.bar(Bar("MSFT", at, 100, 100, 100, 100))
    server.bar(Bar("AAPL", at, 100, 102, 99, 101, 7))
    halt = {"T": "s", "S": "AAPL", "sc": "H", "sm": "Trading Halt", "rc": "T12", "rm": "News", "t": at, "z": "C"}
    server.push_data(halt)
    server.push_data({"T": "u", "S": "AAPL", "t": at, "o": 1, "h": 2, "l": 1, "c": 2, "v": 9, "n": 1, "vw": 1})
    until(lambda: len(heard) == 4)
    assert [type(m).__name__ for m in heard] == ["Trade", "Quote", "TradingStatus", "Bar"]
    assert (heard[0].price, heard[1].bid_price, heard[2].status_code, heard[3].volume) == (101, 101, "H", 9)
    stream.stop()
    server.drop_data()
    thread.join(60)
    assert not thread.is_alive()


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
