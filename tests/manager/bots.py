"""Brokers as bots have them that were written without this library: their own shapes, words and habits.

All stand before the same true books, which check by themselves what must never happen.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from exitfsm import Order, OrderRefused
from exitfsm.ports import Capabilities
from exitfsm.testing import Books
from exitfsm.values import ExecutionReport, Fill, OrderStatus

ALPACA_WORDS = {
    OrderStatus.NEW: "accepted",
    OrderStatus.PARTIALLY_FILLED: "partially_filled",
    OrderStatus.FILLED: "filled",
    OrderStatus.CANCELED: "canceled",
    OrderStatus.EXPIRED: "expired",
    OrderStatus.REJECTED: "rejected",
    OrderStatus.PENDING_CANCEL: "pending_cancel",
    OrderStatus.SUSPENDED: "suspended",
}
ALPACA_EVENTS = {**{word: word for word in ALPACA_WORDS.values()}, "filled": "fill", "partially_filled": "partial_fill"}


class ApiError(Exception):
    """What the bot's client raises for anything that is not a 200."""


class DictBroker:
    """Plain methods, dictionaries with floats and text, Alpaca's words."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.capabilities = books.capabilities

    def positions(self) -> list[dict[str, Any]]:
        self.books.seen()
        return [
            {
                "asset_id": "b0b6dd9d",
                "symbol": p.symbol,
                "qty": str(p.qty if p.side == "long" else -p.qty),
                "side": str(p.side),
                "avg_entry_price": float(p.avg_entry_price),
                "current_price": None if p.current_price is None else float(p.current_price),
                "market_value": "123.45",
            }
            for p in self.books.snapshot()
        ]

    def submit(self, order: Order) -> dict[str, Any]:
        try:
            return order_dict(self.books.take(order))
        except OrderRefused as refusal:
            if refusal.kind == "duplicate_id":
                raise ApiError('{"code":40010001,"message":"client_order_id must be unique"}') from None
            return {**order_dict(None, order), "status": "rejected"}

    def order(self, client_order_id: str) -> dict[str, Any] | None:
        booked = self.books.booked(client_order_id)
        return order_dict(booked.report()) if booked else None

    def open_orders(self) -> list[dict[str, Any]]:
        return [order_dict(booked.report()) for booked in self.books.working()]

    def cancel(self, client_order_id: str) -> None:
        try:
            self.books.ask_cancel(client_order_id)
        except OrderRefused:
            raise ApiError('{"code":42210000,"message":"order is not cancelable"}') from None

    def fills(self, since: datetime) -> list[dict[str, Any]]:
        return [
            {
                "id": fill.fill_id,
                "activity_type": "FILL",
                "symbol": fill.symbol,
                "side": str(fill.side),
                "qty": str(fill.qty),
                "price": float(fill.price),
                "transaction_time": fill.at.isoformat(),
                "order_id": fill.broker_order_id,
            }
            for fill in self.books.executions
            if fill.at >= since
        ]

    def session(self, symbol: str, at: datetime) -> dict[str, Any]:
        return {"timestamp": at.isoformat(), "is_open": True, "next_open": None, "next_close": None}

    @staticmethod
    def update(report: ExecutionReport) -> dict[str, Any]:
        """A message of the update stream."""
        order = order_dict(report)
        return {"event": ALPACA_EVENTS[order["status"]], "timestamp": report.at.isoformat(), "order": order}


def order_dict(report: ExecutionReport | None, order: Order | None = None) -> dict[str, Any]:
    """An order as Alpaca's REST interface shows it, with floats where the bot made them."""
    if report is None:
        assert order is not None
        shown: Any = order
        return {"client_order_id": shown.client_order_id, "symbol": shown.symbol, "side": str(shown.side)}
    return {
        "id": report.broker_order_id,
        "client_order_id": report.client_order_id,
        "symbol": report.symbol,
        "side": str(report.side),
        "qty": float(report.qty) if report.qty is not None else None,
        "filled_qty": str(report.filled_qty),
        "filled_avg_price": float(report.avg_fill_price) if report.avg_fill_price is not None else None,
        "status": ALPACA_WORDS[report.status],
        "type": "market",
        "updated_at": report.at.isoformat(),
    }


class TheirSide(enum.Enum):
    """The bot's own enumeration."""

    BUY = "BUY"
    SELL = "SELL"


class TheirStatus(enum.Enum):
    """The bot's own enumeration of states."""

    Accepted = "Accepted"
    PartiallyFilled = "PartiallyFilled"
    Filled = "Filled"
    Cancelled = "Cancelled"
    Expired = "Expired"
    Rejected = "Rejected"
    PendingCancel = "PendingCancel"
    Suspended = "Suspended"


_THEIR_STATUS = dict(
    zip(
        (
            OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED, OrderStatus.FILLED, OrderStatus.CANCELED,
            OrderStatus.EXPIRED, OrderStatus.REJECTED, OrderStatus.PENDING_CANCEL, OrderStatus.SUSPENDED,
        ),
        TheirStatus,
        strict=True,
    )
)  # fmt: skip


@dataclass
class TheirPosition:
    """The bot's own position."""

    ticker: str
    quantity: float
    average_price: float
    last_price: float | None


@dataclass
class TheirOrder:
    """The bot's own order; a quantity that was not filled yet is None."""

    client_order_id: str
    order_id: str | None
    ticker: str
    side: TheirSide
    quantity: float
    filled_quantity: float | None
    average_fill_price: float | None
    status: TheirStatus
    time: float


@dataclass
class TheirTrade:
    """The bot's own execution."""

    trade_id: str
    ticker: str
    side: TheirSide
    quantity: float
    fill_price: float
    time: float


class DataclassBroker:
    """Async methods, dataclasses with floats, enumerations of their own, times as seconds since 1970."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.capabilities = books.capabilities

    async def positions(self) -> dict[str, TheirPosition]:
        self.books.seen()
        return {
            p.symbol: TheirPosition(
                p.symbol,
                float(p.qty if p.side == "long" else -p.qty),
                float(p.avg_entry_price),
                None if p.current_price is None else float(p.current_price),
            )
            for p in self.books.snapshot()
        }

    async def submit(self, order: Order) -> str:
        report = self.books.take(order)
        assert report.broker_order_id is not None
        return report.broker_order_id

    async def order(self, client_order_id: str) -> TheirOrder | None:
        booked = self.books.booked(client_order_id)
        return self.update(booked.report()) if booked else None

    async def open_orders(self) -> tuple[TheirOrder, ...]:
        return tuple(self.update(booked.report()) for booked in self.books.working())

    async def cancel(self, client_order_id: str) -> None:
        self.books.ask_cancel(client_order_id)

    async def fills(self, since: datetime) -> list[TheirTrade]:
        return [
            TheirTrade(f.fill_id, f.symbol, TheirSide[f.side.upper()], float(f.qty), float(f.price), f.at.timestamp())
            for f in self.books.executions
            if f.at >= since
        ]

    async def session(self, symbol: str, at: datetime) -> bool:
        return True

    @staticmethod
    def update(report: ExecutionReport) -> TheirOrder:
        """A message of the update stream: the order itself."""
        return TheirOrder(
            report.client_order_id,
            report.broker_order_id,
            str(report.symbol),
            TheirSide[str(report.side).upper()],
            float(report.qty or 0),
            float(report.filled_qty) if report.filled_qty else None,
            float(report.avg_fill_price) if report.avg_fill_price is not None else None,
            _THEIR_STATUS[report.status],
            report.at.timestamp(),
        )


class BareBroker:
    """As little as a bot may have: no list of fills or orders, no hours. Updates tell of everything."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.capabilities = books.capabilities

    def positions(self) -> list[dict[str, Any]]:
        self.books.seen()
        return [
            {"symbol": p.symbol, "qty": float(p.qty * p.side.sign), "entry_price": float(p.avg_entry_price)}
            for p in self.books.snapshot()
        ]

    def submit(self, order: Order) -> dict[str, Any]:
        return order_dict(self.books.take(order))

    def order(self, client_order_id: str) -> dict[str, Any] | None:
        booked = self.books.booked(client_order_id)
        return order_dict(booked.report()) if booked else None

    def cancel(self, client_order_id: str) -> None:
        self.books.ask_cancel(client_order_id)

    update = staticmethod(DictBroker.update)


class UndeclaredBroker(DictBroker):
    """One that declares nothing."""

    def __init__(self, books: Books) -> None:
        super().__init__(books)
        del self.capabilities


Broker = DictBroker | DataclassBroker | BareBroker


@dataclass
class TheirBar:
    """The bot's own bar: floats, and one letter for each field."""

    S: str
    t: datetime
    o: float
    h: float
    l: float  # noqa: E741  the feed's own name
    c: float
    v: int = 100


def trades_of(fills: list[Fill], symbol: str, side: str) -> Decimal:
    """How much of a symbol was traded on a side."""
    return sum((f.qty for f in fills if f.symbol == symbol and f.side == side), Decimal(0))


__all__ = [
    "ApiError", "BareBroker", "Broker", "Capabilities", "DataclassBroker", "DictBroker", "TheirBar", "UndeclaredBroker",
    "order_dict", "trades_of",
]  # fmt: skip
