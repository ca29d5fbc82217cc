"""Shapes of other people: what each of them means, and what is refused with a word that helps."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, make_dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Context, Decimal, localcontext
from enum import Enum, IntEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest

from exitfsm.broker.market import bar_of, is_bar, position_of, session_of
from exitfsm.broker.orders import fill_of, is_order_update, report_of
from exitfsm.errors import BrokerError, NotSent, OrderRefused
from exitfsm.values import EXACT, Bar, BrokerPosition, ExecutionReport, Fill, OrderSide, OrderStatus, Side

AT = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)
SECONDS = AT.timestamp()


class Row:
    """A row of a table: keys and items, and attributes of its own that are no columns."""

    size = 6
    at = object()

    def __init__(self, name: Any = None, **columns: Any) -> None:
        self.name, self._columns = name, columns

    def keys(self) -> Any:
        return self._columns.keys()

    def __getitem__(self, key: str) -> Any:
        return self._columns[key]


TheirBar = make_dataclass("TheirBar", ["symbol", "start", "open", "high", "low", "close"])
BarTuple = namedtuple("BarTuple", "Index symbol timestamp open high low close volume")


@pytest.mark.parametrize(
    "shape",
    [
        Bar("AAPL", AT, 1, 2, "0.5", 1.5),
        {"symbol": "AAPL", "timestamp": AT, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5},
        {"S": "AAPL", "T": "b", "t": "2024-01-02T15:30:00Z", "o": 1, "h": 2, "l": 0.5, "c": 1.5, "v": 10, "n": 3},
        {"ticker": "AAPL", "date": "2024-01-02 15:30:00", "Open": 1, "High": 2, "Low": 0.5, "Close": "1.5"},
        {"Symbol": "aapl", "openTime": int(SECONDS * 1000), "open": "1", "high": "2", "low": "0.5", "close": "1.5"},
        {"type": "bar", "data": {"symbol": "AAPL", "ts": SECONDS, "o": 1, "h": 2, "l": 0.5, "c": 1.5}},
        {"symbol": "AAPL", "bar": {"t": int(SECONDS * 1e9), "o": 1, "h": 2, "l": 0.5, "c": 1.5}},
        TheirBar("AAPL", AT.astimezone(timezone(timedelta(hours=-5))), 1.0, 2.0, 0.5, 1.5),
        BarTuple(0, "AAPL", AT.replace(tzinfo=None), 1.0, 2.0, 0.5, 1.5, 9),
        ("AAPL", AT, 1, 2, 0.5, 1.5),
        ["AAPL", str(int(SECONDS)), 1, 2, 0.5, 1.5, 1000],
        MappingProxyType({"symbol": "AAPL", "time": AT, "open": 1, "high": 2, "low": 0.5, "close": 1.5}),
        SimpleNamespace(symbol="AAPL", timestamp=AT, open=1, high=2, low=0.5, close=1.5, volume=None),
        SimpleNamespace(kind="bar", bar=SimpleNamespace(symbol="AAPL", at=AT, open=1, high=2, low=0.5, close=1.5)),
        Row(AT, symbol="AAPL", open=1, high=2, low=0.5, close=1.5),
        Row(7, symbol="AAPL", timestamp=AT, open=1, high=2, low=0.5, close=1.5),
    ],
    ids=lambda shape: type(shape).__name__,
)
def test_a_bar_in_any_reasonable_shape_is_the_same_bar(shape: Any) -> None:
    read = bar_of(shape)
    assert (read.symbol, read.timestamp) == ("AAPL", AT)
    assert [read.open, read.high, read.low, read.close] == [1, 2, Decimal("0.5"), Decimal("1.5")]
    assert type(read.timestamp) is datetime
    assert is_bar(shape) == (not isinstance(shape, (tuple, list)) or hasattr(shape, "_fields"))


def test_a_bar_without_a_symbol_is_read_under_the_name_it_is_given() -> None:
    assert bar_of([int(SECONDS * 1000), 1, 2, 0.5, 1.5, 100], "BTC/USDT") == bar_of(
        {"t": AT, "o": 1, "h": 2, "l": 0.5, "c": 1.5, "v": 100}, "BTC/USDT"
    )


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ({"symbol": "AAPL", "close": 1}, "no timestamp"),
        ({"timestamp": AT, "close": 1}, "no symbol"),
        ({"symbol": "AAPL", "timestamp": AT}, "no close"),
        ({"symbol": "AAPL", "timestamp": "noon", "close": 1}, "'noon', which is not a time"),
        ({"symbol": "AAPL", "timestamp": AT, "close": "n/a"}, "'n/a', which is not a number"),
        ((AT, 1.0), "a sequence of 2 values"),
        (None, "NoneType"),
        (42, "int"),
    ],
)
def test_a_bar_that_cannot_be_read_says_what_it_lacks(shape: Any, complaint: str) -> None:
    with pytest.raises(BrokerError, match=complaint):
        bar_of(shape)


class Direction(Enum):
    LONG = "LONG"
    SHORT = "SHORT"


@dataclass
class Lot:
    ticker: str
    quantity: float
    direction: Direction
    entry_price: float


@pytest.mark.parametrize(
    ("shape", "symbol"),
    [
        ({"symbol": "TSLA", "qty": "-5", "avg_entry_price": "200.10"}, None),
        ({"symbol": "TSLA", "side": "short", "qty": 5.0, "avg_entry_price": 200.1, "opened": True}, None),
        ({"symbol": "TSLA", "contracts": 5, "side": "short", "entryPrice": 200.1, "created_at": "?"}, None),
        ({"symbol": "TSLA", "positionAmt": "-5.0", "entryPrice": "200.10"}, None),
        ({"symbol": "TSLA", "shares": -5, "cost_basis": -1000.5}, None),
        (Lot("tsla", 5.0, Direction.SHORT, 200.1), None),
        ({"qty": -5, "avg_price": 200.1}, "TSLA"),
        ((-5, 200.1), "TSLA"),
    ],
)
def test_a_short_position_in_any_reasonable_shape_is_the_same(shape: Any, symbol: str | None) -> None:
    position = position_of(shape, symbol)
    assert position is not None
    assert (position.symbol, position.side, position.qty) == ("TSLA", Side.SHORT, 5)
    assert position.avg_entry_price == Decimal("200.1")


def test_a_bare_quantity_is_a_position_without_a_price_and_zero_is_none() -> None:
    position = position_of(-5.0, "TSLA")
    assert position is not None
    assert (position.side, position.qty, position.avg_entry_price.is_finite()) == (Side.SHORT, 5, False)
    assert position_of(0.0, "TSLA") is None
    assert position_of(1.0 - 0.9 - 0.1, "TSLA") is None


@pytest.mark.parametrize(
    ("said", "exact"),
    [
        (0.1 + 0.2, "0.3"), (0.7 + 0.1 + 0.1 + 0.1, "1"), (33.3, "33.3"), (1e-9, "0.000000001"), (10.0, "10"),
        ("0.1234567891234", "0.1234567891234"), (1234567.1 + 0.2, "1234567.3"), ("1e-18", "0.000000000000000001"),
    ],
)  # fmt: skip
def test_what_floats_leave_behind_is_no_quantity(said: Any, exact: str) -> None:
    """0.30000000000000004 filled of 0.3 ordered is no overfill, and 0.9999999999999999 of 1 leaves nothing to sell."""
    report = report_of({"client_order_id": "a", "status": "new", "filled_qty": said}, now=AT)
    assert report is not None
    assert report.filled_qty == Decimal(exact)


class Code(IntEnum):
    FILLED = 2


@pytest.mark.parametrize(
    ("shape", "status", "filled"),
    [
        ({"id": "9", "clientOrderId": "a", "amount": 10.0, "filled": 10.0, "status": "closed"}, "filled", 10),
        ({"id": "9", "clientOrderId": "a", "amount": 10.0, "filled": 4.0, "status": "closed"}, "canceled", 4),
        ({"id": "9", "clientOrderId": "a", "amount": 10.0, "remaining": 6.0, "status": "open"}, "new", 4),
        ({"clientOrderId": "a", "status": "PARTIALLY_FILLED", "executedQty": "4"}, "partially_filled", 4),
        ({"client_order_id": "a", "status": "OrderStatus.FILLED", "filled_qty": "10"}, "filled", 10),
        ({"event": "fill", "order": {"client_order_id": "a", "status": "filled", "filled_qty": "10"}}, "filled", 10),
        ({"event": "fill", "client_order_id": "a", "qty": 10, "filled_qty": 10}, "filled", 10),
        ({"event": "partial_fill", "client_order_id": "a", "filled_qty": 4.0}, "partially_filled", 4),
        ({"stream": "t", "data": {"event": "canceled", "order": {"client_order_id": "a"}}}, "canceled", None),
        ({"type": "order_update", "payload": {"cl_ord_id": "a", "state": "Cancelled", "cum_qty": 0}}, "canceled", 0),
        (SimpleNamespace(clientOrderID="a", OrdStatus="Partially Filled", CumQty=4), "partially_filled", 4),
        ({"client_order_id": "a", "qty": -10, "filled_qty": -4, "status": "partial"}, "partially_filled", 4),
        ({"client_order_id": "a", "status": "Submitted", "filled": False}, "new", None),
        ({"client_order_id": "a", "status": Code.FILLED, "filled_qty": 10}, "filled", 10),
    ],
)  # fmt: skip
def test_an_order_in_any_reasonable_shape_says_what_became_of_it(shape: Any, status: str, filled: int | None) -> None:
    report = report_of(shape, now=AT)
    assert report is not None
    assert (report.client_order_id, str(report.status), report.filled_qty) == ("a", status, filled)
    assert is_order_update(shape)
    assert not is_bar(shape)


@pytest.mark.parametrize(
    "shape",
    [
        {"client_order_id": "a", "status": "closed"},  # filled, or canceled?
        {"client_order_id": "a", "status": "gone fishing"},
        {"status": "filled", "filled_qty": 10},  # of which order?
        {"client_order_id": "a"},
        None,
        "filled",
    ],
)
def test_news_that_leave_open_what_became_of_which_order_are_not_guessed_at(shape: Any) -> None:
    assert report_of(shape, now=AT) is None


def test_a_fill_without_a_running_total_says_that_something_filled_and_not_that_all_did() -> None:
    report = report_of({"event": "fill", "client_order_id": "a", "qty": 4, "price": 99.0}, now=AT)
    assert report is not None
    assert (report.status, report.filled_qty) == (OrderStatus.PARTIALLY_FILLED, None)


def test_an_order_named_by_the_brokers_id_alone_is_ours_where_that_is_known() -> None:
    shape = {"id": 77, "symbol": "AAPL", "status": "filled", "filled": 10}
    ours = report_of(shape, now=AT, client_id_of={"77": "xf1-a-1"}.get)
    other = report_of(shape, now=AT)
    assert ours is not None
    assert other is not None
    assert (ours.client_order_id, other.client_order_id) == ("xf1-a-1", "77")


def test_the_time_of_an_order_is_that_of_its_last_change() -> None:
    later = AT + timedelta(minutes=5)
    shape = {"clientOrderId": "a", "status": "closed", "filled": 1, "timestamp": int(SECONDS * 1000),
             "lastTradeTimestamp": int(later.timestamp() * 1000)}  # fmt: skip
    report = report_of(shape, now=datetime.now(UTC))
    assert report is not None
    assert report.at == later


def test_executions_with_signs_or_sides_are_the_same() -> None:
    signed = fill_of({"symbol": "AAPL", "quantity": -3.0, "price": 9.5, "executed_at": AT, "exec_id": "e"})
    sided = fill_of({"symbol": "AAPL", "amount": 3, "side": "Sell", "price": "9.5", "datetime": AT, "id": "e"})
    assert signed == sided
    assert sided is not None
    assert sided.side is OrderSide.SELL
    assert fill_of({"symbol": "AAPL", "qty": 3, "price": 1, "time": AT}) is None


def test_hours_come_as_a_clock_a_truth_value_or_a_word() -> None:
    assert session_of(SimpleNamespace(is_open=True, next_close=AT, next_open=AT)).close == AT
    assert session_of({"isOpen": 0, "nextOpen": AT.isoformat()}).next_open == AT
    assert session_of("closed").is_open is False
    assert session_of(True).is_open is True
    with pytest.raises(BrokerError, match="without is_open"):
        session_of({"state": "?"})


def test_a_date_is_its_midnight_and_digits_are_since_1970() -> None:
    assert bar_of({"symbol": "A", "date": date(2024, 1, 2), "close": 1}).timestamp == datetime(2024, 1, 2, tzinfo=UTC)
    for text in (
        "1704209400",
        "1704209400000",
        "1704209400.0",
        "2024-01-02T15:30:00.000000000",
        "2024-01-02T10:30-05:00",
    ):
        assert bar_of({"symbol": "A", "t": text, "c": 1}).timestamp == AT


@pytest.mark.parametrize("figure", ["NaN", "sNaN", "-sNaN", "Infinity", "-Infinity"])
def test_given_a_figure_that_is_no_quantity_then_a_report_or_position_is_read_or_refused_and_nothing_else(
    figure: str,
) -> None:
    reports = [
        {"status": "closed", "qty": "10", "filled": figure},
        {"status": "closed", "qty": figure, "filled": "1"},
        {"event": "fill", "qty": figure, "filled": "1"},
        {"status": "new", "qty": "-3", "filled": figure},
        {"status": "new", "qty": "3", "remaining": figure},
        {"status": "rejected", "event": "I", "qty": figure},
    ]
    for fields in reports:
        report_of({"client_order_id": "a", **fields}, now=AT)
    assert report_of({"client_order_id": "a", **reports[0]}, now=AT) is None  # over, and how is not said
    for fields in ({"avg_entry_price": figure}, {"available": figure, "cost_basis": "3"}, {"cost_basis": figure}):
        position = position_of({"symbol": "A", "qty": "3", **fields})
        assert position is not None
        assert not position.avg_entry_price.is_snan()
    with pytest.raises(BrokerError):
        position_of({"symbol": "A", "qty": figure})
    assert fill_of({"symbol": "A", "side": "buy", "qty": figure, "price": "3", "at": AT}) is None
    assert fill_of({"symbol": "A", "qty": "-1", "price": figure, "at": AT}) is None


@pytest.mark.parametrize("digits", [3, 28])
def test_given_a_bot_that_rounds_its_decimals_then_what_it_says_is_read_exactly(digits: int) -> None:
    qty = Decimal("12345678901234567890.123456789")
    with localcontext(Context(prec=digits)):
        held = position_of({"symbol": "A", "qty": str(qty.copy_negate()), "avg_entry_price": qty, "available": qty})
        report = report_of({"client_order_id": "a", "status": "new", "qty": f"-{qty}", "remaining": "1"}, now=AT)
        fill = fill_of({"symbol": "A", "qty": f"-{qty}", "price": "1", "at": AT})
    assert held is not None
    assert (held.qty, held.avg_entry_price, held.qty_available, held.side) == (qty, qty, qty, Side.SHORT)
    assert report is not None
    assert (report.qty, report.filled_qty) == (qty, EXACT.subtract(qty, Decimal(1)))
    assert fill is not None
    assert (fill.qty, fill.side) == (qty, OrderSide.SELL)


def test_our_own_objects_may_be_made_of_floats_and_plain_words() -> None:
    held: Any = {"symbol": "AAPL", "side": "short", "qty": 10.5, "avg_entry_price": 100}
    position = position_of(BrokerPosition(**held))
    assert position == BrokerPosition(symbol="AAPL", side=Side.SHORT, qty=Decimal("10.5"), avg_entry_price=Decimal(100))
    assert type(position.side) is Side
    mixed = position_of(BrokerPosition(**held | {"side": Side.SHORT, "qty": Decimal("10.5"), "avg_entry_price": 100.0}))
    assert mixed == position
    assert type(mixed.avg_entry_price) is Decimal
    assert position_of(BrokerPosition(**held | {"qty": 0})) is None
    said: Any = {"client_order_id": "a", "at": AT, "status": "partially_filled", "side": "sell", "filled_qty": 0.1}
    report = report_of(ExecutionReport(**said), now=AT)
    assert report is not None
    assert (report.status, report.filled_qty) == (OrderStatus.PARTIALLY_FILLED, Decimal("0.1"))
    assert report.side is OrderSide.SELL
    traded: Any = {"fill_id": "f", "symbol": "AAPL", "at": AT, "qty": 3, "price": 99.5, "side": "buy"}
    fill = fill_of(Fill(**traded))
    assert fill is not None
    assert (fill.side is OrderSide.BUY, fill.qty, type(fill.price)) == (True, 3, Decimal)
    with pytest.raises(BrokerError, match="sideways"):
        position_of(BrokerPosition(**held | {"side": "sideways"}))
    with pytest.raises(BrokerError, match="sideways"):
        report_of(ExecutionReport(**said | {"status": "sideways"}), now=AT)


@pytest.mark.parametrize("symbol", ["A" * 65, "", " ", "A\nB"])
def test_a_symbol_that_is_none_is_an_answer_that_cannot_be_read_and_nothing_else(symbol: str) -> None:
    """One odd row of an account must not end whoever reads its executions."""
    with pytest.raises(BrokerError, match="is not a symbol"):
        position_of({"symbol": symbol, "qty": 1})
    with pytest.raises(BrokerError, match="is not a symbol"):
        fill_of({"symbol": symbol, "side": "buy", "qty": 1, "price": 2, "at": AT})


# --- text that no database holds


@pytest.mark.parametrize(
    "said",
    [
        {"client_order_id": "c1", "id": "b\0", "status": "rejected", "reject_reason": "no\0t allowed", "filled_qty": 0},
        ExecutionReport(
            client_order_id="c1", status=OrderStatus.REJECTED, at=AT, broker_order_id="b\0", text="no\0t allowed"
        ),
    ],
)
def test_a_nul_character_is_taken_out_of_what_a_broker_says(said: Any) -> None:
    report = report_of(said, now=AT)
    assert report is not None
    assert (report.broker_order_id, report.text) == ("b\ufffd", "no\ufffdt allowed")


def test_and_out_of_what_it_raises() -> None:
    refused = OrderRefused("not\0tradable", "A\0")
    assert (refused.kind, refused.text) == ("not\ufffdtradable", "A\ufffd")
    assert str(BrokerError("half an answer\0", 7)) == "('half an answer\ufffd', 7)"
    assert str(NotSent("\0")) == "\ufffd"
