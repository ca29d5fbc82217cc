"""The translation table, the rate limit, the addresses: what goes out, what comes in, and what is not believed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from alpaca.trading.enums import OrderStatus as TheirStatus
from alpaca.trading.enums import TradeEvent
from exitfsm_alpaca import ALPACA, LIVE_URL, PAPER_URL, Access, words
from exitfsm_alpaca.broker import _hours
from exitfsm_alpaca.rest import Budget, Refused
from hypothesis import given
from hypothesis import strategies as st

from exitfsm import (
    BrokerError,
    ConfigError,
    ExitConfig,
    NotSent,
    Order,
    OrderRefused,
    OrderSide,
    OrderStatus,
    OrderType,
    RateLimited,
    Side,
    TimeInForce,
)

ORDER: dict[str, Any] = {
    "id": "61e69015-8549-4bfd-b9c3-01e75843f47d",
    "client_order_id": "xf1-a-1",
    "created_at": "2024-01-03T15:00:00.123456789Z",
    "updated_at": "2024-01-03T15:00:01Z",
    "submitted_at": "2024-01-03T15:00:00Z",
    "filled_at": None,
    "symbol": "AAPL",
    "asset_class": "us_equity",
    "qty": "10",
    "filled_qty": "0",
    "filled_avg_price": None,
    "side": "sell",
    "status": "new",
}
#: Error bodies as they were recorded or reported.
REFUSALS = [
    (403, 40310000, "insufficient qty available for order (requested: 11, available: 10)", "insufficient_qty"),
    (403, 40310000, "insufficient balance for BTC (requested: 1, available: 0.9975)", "insufficient_qty"),
    (403, 40310000, "potential wash trade detected. use complex orders", "wash_trade"),
    (422, 42210000, "potential wash trade detected. opposite side market/stop order exists", "wash_trade"),
    (403, 40310000, 'asset "OCGN" is not fractionable', "not_fractionable"),
    (403, 40310000, "cannot open a long buy while a short sell order is open", "opposite_order"),
    (403, 40310100, "trade denied due to pattern day trading protection", "day_trading"),
    (422, 42210000, "sub-penny increment does not fulfill minimum pricing criteria", "bad_price"),
    (422, 42210000, "invalid crypto time_in_force", "time_in_force"),
    (422, 42210000, 'asset "ZZZZ" is not tradable', "not_tradable"),
    (403, 40310000, "insufficient buying power", "insufficient_funds"),
    (403, 40310000, "cost basis must be >= minimal amount of order 10", "bad_quantity"),
    (403, 40310000, "something that nobody has seen", "alpaca_40310000"),
    (422, 42210000, "bracket orders must be entry orders", "alpaca_42210000"),
]


@pytest.mark.parametrize(("status", "code", "message", "kind"), REFUSALS)
def test_refusals_are_told_apart_by_their_words(status: int, code: int, message: str, kind: str) -> None:
    refusal = words.refusal_of(Refused(status, code, message, {}))
    assert isinstance(refusal, OrderRefused)
    assert refusal.kind == kind
    assert message in refusal.text


def test_refusals_are_told_apart_by_their_fields() -> None:
    fields = {
        "available": "0",
        "existing_qty": "106",
        "held_for_orders": "106",
        "related_orders": ["a-b"],
        "symbol": "EWY",
    }
    refusal = words.refusal_of(Refused(403, 40310000, "no", fields))
    assert isinstance(refusal, OrderRefused)
    assert (refusal.kind, "a-b" in refusal.text) == ("insufficient_qty", True)
    refusal = words.refusal_of(Refused(403, 40310000, "no", {"existing_order_id": "c-d", "reject_reason": "opposite"}))
    assert isinstance(refusal, OrderRefused)
    assert (refusal.kind, "c-d" in refusal.text) == ("wash_trade", True)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (40010001, "client_order_id must be unique"),
        (40010001, "client order id is used already"),
        (40010001, ""),
        (42210000, "client_order_id must be unique"),
        (42210000, "duplicate order"),
    ],
)
def test_a_duplicate_id_is_never_a_refusal(code: int, message: str) -> None:
    assert not isinstance(words.refusal_of(Refused(422, code, message, {})), (OrderRefused, NotSent))


@pytest.mark.parametrize("message", ["qty must be > 0", "invalid order type", "request body format is invalid"])
def test_the_code_of_a_duplicate_id_is_that_of_any_request_that_is_not_valid(message: str) -> None:
    refusal = words.refusal_of(Refused(422, 40010001, message, {}))
    assert isinstance(refusal, OrderRefused)
    assert message in refusal.text


@pytest.mark.parametrize("status", sorted(s.value for s in TheirStatus))
def test_every_status_of_the_sdk_is_known(status: str) -> None:
    if status == "replaced":
        with pytest.raises(BrokerError):
            words.report_of(ORDER | {"status": status})
    else:
        report = words.report_of(ORDER | {"status": status})
        assert report.status.terminal == (status in ("filled", "canceled", "expired", "rejected"))


@pytest.mark.parametrize("kind", sorted(e.value for e in TradeEvent))
def test_every_event_of_the_sdk_is_told_or_looked_up(kind: str) -> None:
    if kind in ("replaced", "restated"):
        with pytest.raises(BrokerError):
            words.report_of_update({"event": kind, "order": ORDER})
    else:
        assert words.report_of_update({"event": kind, "order": ORDER}).status is OrderStatus.NEW


def test_an_update_is_told_by_its_order() -> None:
    order = ORDER | {"status": "partially_filled", "filled_qty": "7", "filled_avg_price": "98.95"}
    update = {
        "event": "partial_fill",
        "qty": "3",
        "price": "98.9",
        "position_qty": "3",
        "execution_id": "e1",
        "order": order,
    }
    report = words.report_of_update(update)
    assert (report.filled_qty, report.avg_fill_price, report.execution_id) == (7, Decimal("98.95"), "e1")
    assert words.report_of_update(update | {"event": "trade_bust"}).corrected
    refused = words.report_of_update(update | {"event": "order_cancel_rejected"})
    assert refused.status is OrderStatus.CANCEL_REJECTED
    filled = words.report_of_update({"event": "order_cancel_rejected", "order": order | {"status": "filled"}})
    assert filled.status is OrderStatus.FILLED


def test_a_report_keeps_every_digit_and_its_time() -> None:
    order = ORDER | {"status": "filled", "filled_qty": "123456789.123456789", "filled_avg_price": "0.00000001",
                     "qty": "123456789.123456789", "filled_at": "2024-01-03T15:00:02.987654321Z"}  # fmt: skip
    report = words.report_of(order)
    assert report.filled_qty == Decimal("123456789.123456789")
    assert report.avg_fill_price == Decimal("0.00000001")
    assert report.at == datetime(2024, 1, 3, 15, 0, 2, 987654, tzinfo=UTC)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "pondering"},
        {"status": None},
        {"client_order_id": None},
        {"filled_qty": "lots"},
        {"updated_at": "soon"},
        {"updated_at": None, "submitted_at": None, "created_at": None},
    ],
)
def test_what_is_not_understood_is_not_guessed(change: dict[str, Any]) -> None:
    with pytest.raises(BrokerError):
        words.report_of(ORDER | change)


def test_missing_is_not_zero() -> None:
    report = words.report_of(ORDER | {"filled_qty": None})
    assert report.filled_qty is None


@given(qty=st.decimals("0.000000001", "1e12", places=9, allow_nan=False), limit=st.decimals("0.0001", "1e7", places=4))
def test_an_order_goes_out_in_exact_text(qty: Decimal, limit: Decimal) -> None:
    order = Order(
        client_order_id="x", symbol="AAPL", side=OrderSide.SELL, qty=qty, order_type=OrderType.LIMIT, limit_price=limit
    )
    body = words.order_body(order)
    assert (Decimal(body["qty"]), Decimal(body["limit_price"])) == (qty, limit)
    assert not set("eE+") & set(body["qty"] + body["limit_price"])
    assert all(isinstance(value, str) for value in body.values())


def test_an_order_says_that_it_closes() -> None:
    order = Order(client_order_id="x", symbol="AAPL", side=OrderSide.SELL, qty=Decimal(1))
    assert words.order_body(order)["position_intent"] == "sell_to_close"
    short = Order(client_order_id="x", symbol="AAPL", side=OrderSide.BUY, qty=Decimal(1), position_side=Side.SHORT)
    assert words.order_body(short)["position_intent"] == "buy_to_close"
    entry = Order(client_order_id="x", symbol="AAPL", side=OrderSide.BUY, qty=Decimal(1), position_side=Side.LONG)
    assert "position_intent" not in words.order_body(entry)
    pair = Order(client_order_id="x", symbol="BTC/USD", side=OrderSide.SELL, qty=Decimal(1))
    assert "position_intent" not in words.order_body(pair)


@pytest.mark.parametrize(
    ("symbol", "asset_class", "ours"),
    [("BTCUSD", "crypto", "BTC/USD"), ("BTC/USD", "crypto", "BTC/USD"), ("AVAXUSDT", "crypto", "AVAX/USDT"),
     ("ETHBTC", "crypto", "ETH/BTC"), ("USDTUSD", "crypto", "USDT/USD"), ("BRK.B", "us_equity", "BRK.B"),
     ("AAPL", None, "AAPL"), ("ODDCOIN", "crypto", "ODDCOIN")],
)  # fmt: skip
def test_symbols_have_one_spelling(symbol: str, asset_class: str | None, ours: str) -> None:
    assert words.spelled(symbol, asset_class) == ours


def test_a_position_is_read_as_far_as_it_can_be() -> None:
    source = {"symbol": "BTCUSD", "asset_class": "crypto", "side": "long", "qty": "0.5", "avg_entry_price": "40000.1",
              "qty_available": "0.4", "current_price": "41000"}  # fmt: skip
    p = words.position_of(source)
    assert (p.symbol, p.side, p.qty, p.qty_available) == ("BTC/USD", Side.LONG, Decimal("0.5"), Decimal("0.4"))
    short = words.position_of(
        {"symbol": "AAPL", "side": "short", "qty": "-3", "qty_available": "-3", "avg_entry_price": "1"}
    )
    assert (short.side, short.qty, short.qty_available) == (Side.SHORT, 3, 3)
    odd = words.position_of({"symbol": "AAPL", "qty": "many", "avg_entry_price": None, "current_price": {}})
    assert odd.qty.is_nan()
    assert odd.avg_entry_price.is_nan()
    assert (odd.current_price, odd.qty_available) == (None, None)
    with pytest.raises(BrokerError):
        words.position_of({"qty": "1"})


def test_an_execution_has_our_spelling() -> None:
    activity = {"id": "1::2", "symbol": "BTCUSD", "side": "sell", "qty": "0.1", "price": "40000", "order_id": "o",
                "transaction_time": "2024-01-03T15:00:00.123456789Z"}  # fmt: skip
    assert words.fill_of(activity).symbol == "BTC/USD"
    assert words.fill_of(activity | {"symbol": "AAPL"}).symbol == "AAPL"
    assert words.fill_of(activity | {"symbol": "AAPL", "side": "sell_short"}).side is OrderSide.SELL
    with pytest.raises(BrokerError):
        words.fill_of(activity | {"price": None})


def test_times_in_force_are_those_of_the_asset() -> None:
    stocks, pairs = ALPACA.rules("AAPL"), ALPACA.rules("BTC/USD")
    assert stocks.accepted_time(TimeInForce.GTC, Decimal("1.5")) is TimeInForce.DAY
    assert stocks.accepted_time(TimeInForce.GTC, Decimal(1)) is TimeInForce.GTC
    assert pairs.accepted_time(TimeInForce.DAY, Decimal("1.5")) is TimeInForce.GTC
    assert pairs.always_open


# --- keys and addresses -----------------------------------------------------------------------------------------------


def test_addresses_are_paper_unless_live_is_said() -> None:
    paper = Access(key_id="PKTEST", secret_key="secret")
    assert (paper.base_url, paper.stream_url) == (PAPER_URL, "wss://paper-api.alpaca.markets/stream")
    assert paper.data_stream_url == "wss://stream.data.alpaca.markets"
    live = Access(key_id="AKTEST", secret_key="secret", live=True)
    assert (live.base_url, live.stream_url) == (LIVE_URL, "wss://api.alpaca.markets/stream")
    with pytest.raises(ConfigError, match="live trading was not asked for"):
        Access(key_id="PKTEST", secret_key="secret", base_url=LIVE_URL)
    with pytest.raises(ConfigError, match="paper server"):
        Access(key_id="PKTEST", secret_key="secret", base_url=PAPER_URL + "/v2", live=True)
    with pytest.raises(ConfigError, match="https"):
        Access(key_id="PKTEST", secret_key="secret", base_url="http://example.org")


def test_other_servers_can_be_named() -> None:
    env = {"APCA_API_KEY_ID": "key1", "APCA_API_SECRET_KEY": "secret", "APCA_API_BASE_URL": "http://127.0.0.1:99/v2/"}
    access = Access.from_environment(env)
    assert (access.base_url, access.stream_url, access.is_local) == (
        "http://127.0.0.1:99",
        "ws://127.0.0.1:99/stream",
        True,
    )
    access = Access.from_environment(env | {"APCA_API_DATA_URL": "http://127.0.0.1:98"})
    assert access.data_stream_url == "ws://127.0.0.1:98"
    for named in ("ws://localhost:97", "http://localhost:97/", "ws://localhost:97/stream"):
        access = Access.from_environment(env | {"APCA_API_STREAM_URL": named})
        assert access.stream_url == "ws://localhost:97/stream"
    with pytest.raises(ConfigError, match="market-data server"):
        Access.from_environment(env | {"APCA_API_STREAM_URL": "wss://stream.data.alpaca.markets"})
    with pytest.raises(ConfigError, match="by https or wss"):
        Access.from_environment(env | {"APCA_API_STREAM_URL": "ws://127.0.0.1.example.org/stream"})


@pytest.mark.parametrize("bad", ["", "PK SECRET", "PKSECRET\n", "PK\tX", "PKé", "\x00PKX"])
def test_a_bad_key_is_refused_without_being_shown(bad: str) -> None:
    with pytest.raises(ConfigError) as error:
        Access(key_id=bad, secret_key="sesame-sesame")
    assert "APCA_API_KEY_ID" in str(error.value)
    assert "sesame" not in str(error.value)
    assert not bad.strip() or bad.strip() not in str(error.value)
    assert "sesame" not in repr(Access(key_id="PKX1", secret_key="sesame"))


# --- the rate limit ---------------------------------------------------------------------------------------------------


def test_the_reserve_is_for_orders() -> None:
    budget = Budget(per_minute=10, reserve=4)
    for _ in range(6):
        budget.spend(urgent=False)
    with pytest.raises(NotSent):
        budget.spend(urgent=False)
    for _ in range(4):
        budget.spend(urgent=True)
    with pytest.raises(NotSent):
        budget.spend(urgent=True)


def test_what_exits_use_leaves_the_others_their_share() -> None:
    budget = Budget(per_minute=10, reserve=6)
    for _ in range(6):
        budget.spend(urgent=True)
    for _ in range(4):
        budget.spend(urgent=False)
    for urgent in (False, True):
        with pytest.raises(RateLimited):
            budget.spend(urgent=urgent)


def test_the_usual_reserve_is_what_a_manager_sends_in_a_minute_and_some_more() -> None:
    budget = Budget()
    for _ in range(70):
        budget.spend(urgent=False)
    with pytest.raises(RateLimited) as error:
        budget.spend(urgent=False)
    assert 55 < error.value.for_s <= 60
    for _ in range(ExitConfig().live.orders_per_minute + 10):
        budget.spend(urgent=True)


def test_too_many_requests_close_the_way_for_a_while() -> None:
    budget = Budget()
    budget.exceeded(30)
    with pytest.raises(NotSent):
        budget.spend(urgent=True)
    budget = Budget()
    budget.exceeded(0.2)
    began = time.monotonic()
    budget.spend(urgent=True)
    assert time.monotonic() - began > 0.5


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_at_the_edge_of_the_calendar_is_an_answer_that_is_not_understood(at: str) -> None:
    with pytest.raises(BrokerError, match="no time"):
        words.report_of(ORDER | {"updated_at": at})
    with pytest.raises(BrokerError, match="not understood"):
        _hours({"date": "9999-12-31", "open": "09:30", "close": "23:30"})


def test_a_number_that_cannot_be_compared_is_none_that_can() -> None:
    report = words.report_of(ORDER | {"filled_qty": "sNaN", "qty": "-sNaN7"})
    assert report.filled_qty is not None
    assert report.filled_qty.is_qnan()
    assert words.position_of({"symbol": "A", "qty": "sNaN"}).qty.is_qnan()


@pytest.mark.parametrize("volume", ["l", [], "1E+400"])
def test_a_bar_whose_volume_is_no_number_is_refused_when_it_is_read(volume: Any) -> None:
    with pytest.raises(BrokerError):
        words.bar_of("AAPL", {"o": 1, "h": 1, "l": 1, "c": 1, "v": volume}, datetime(2024, 1, 2, tzinfo=UTC))
    bar = words.bar_of("AAPL", {"o": 1, "h": 1, "l": 1, "c": 1, "v": None}, datetime(2024, 1, 2, tzinfo=UTC))
    assert bar.volume == 0
