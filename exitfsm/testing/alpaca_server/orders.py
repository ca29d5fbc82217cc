"""An order as Alpaca keeps it: what was asked for, at what price it trades, and how it is shown.

Requests are checked here as far as neither positions nor other orders matter, and refused in Alpaca's words. There are
limits, stops, trailing stops and amounts in money, but no groups (bracket, OCO, OTO): these are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from exitfsm.testing.alpaca_server.words import Json, asset_class, at_text, is_pair, named, number, session_end
from exitfsm.values import ZERO, ExecutionReport, Order, OrderStatus, TimeInForce, plain

#: Alpaca's word for a venue's status; `pending_new`, `held` and the like are put over it by the account.
STATUS: dict[OrderStatus, str] = {
    OrderStatus.NEW: "new",
    OrderStatus.PARTIALLY_FILLED: "partially_filled",
    OrderStatus.PENDING_CANCEL: "pending_cancel",
    OrderStatus.CANCEL_REJECTED: "new",
    OrderStatus.SUSPENDED: "suspended",
    OrderStatus.DONE_FOR_DAY: "done_for_day",
    OrderStatus.FILLED: "filled",
    OrderStatus.CANCELED: "canceled",
    OrderStatus.EXPIRED: "expired",
    OrderStatus.REJECTED: "rejected",
}
TERMINAL_WORDS = frozenset({"filled", "canceled", "expired", "rejected", "replaced"})
_STEP = Decimal("0.000000001")
_TIMES = {"us_equity": ("day", "gtc", "opg", "cls", "ioc", "fok"), "crypto": ("gtc", "ioc")}
_PAIR_TYPES = ("market", "limit", "stop_limit")
#: What each type must name, and how Alpaca asks for it.
_NEEDS = {
    "market": (),
    "limit": ("limit_price",),
    "stop": ("stop_price",),
    "stop_limit": ("limit_price", "stop_price"),
    "trailing_stop": (),
}


class Refusal(Exception):
    """An HTTP error with Alpaca's body."""

    def __init__(self, status: int, code: int, message: str, **fields: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"code": code, "message": message, **fields}


@dataclass
class Terms:
    """The prices of one order.

    Attributes:
        hwm: the best price since a trailing stop was taken: highest for a sell, lowest for a buy.
        elected: a stop was reached, and the order trades as the market or limit order that it has become.
    """

    type: str = "market"
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    hwm: Decimal | None = None
    elected: bool = False

    @property
    def waits(self) -> bool:
        """A stop that was not reached yet."""
        return self.type in ("stop", "stop_limit", "trailing_stop") and not self.elected

    def trades_at(self, price: Decimal, side: str) -> bool:
        """True when the order trades at this price; moves a trailing stop, and elects a stop that is reached."""
        sign = 1 if side == "buy" else -1
        self._follow(price, sign)
        if self.waits and self.stop_price is not None and price * sign >= self.stop_price * sign:
            self.elected = True
        return not self.waits and (self.limit_price is None or price * sign <= self.limit_price * sign)

    def _follow(self, price: Decimal, sign: int) -> None:
        if self.type != "trailing_stop":
            return
        self.hwm = price if self.hwm is None or (price - self.hwm) * sign < 0 else self.hwm
        trail = self.trail_price if self.trail_price is not None else self.hwm * (self.trail_percent or 0) / 100
        self.stop_price = self.hwm + sign * trail

    def split(self, ratio: Decimal) -> None:
        """Each share becomes `ratio` shares."""
        for name in ("limit_price", "stop_price", "trail_price", "hwm"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value / ratio)


def terms_of(body: Json, symbol: str) -> Terms:
    """What a request asks for.

    Raises:
        Refusal: it does not go together.
    """
    if str(body.get("order_class") or "simple") != "simple":
        raise Refusal(422, 42210000, f"{body['order_class']} orders are not known to this server")
    kind = str(body.get("type"))
    if kind not in _NEEDS:
        raise Refusal(422, 40010001, "invalid order type")
    if is_pair(symbol) and kind not in _PAIR_TYPES:
        raise Refusal(422, 42210000, "invalid order type for crypto order")
    prices: Any = {name: decimal(body, name) for name in ("limit_price", "stop_price", "trail_price", "trail_percent")}
    for name in _NEEDS[kind]:
        if prices[name] is None:
            raise Refusal(422, 42210000, f"{kind.replace('_', ' ')} orders require {name.replace('_', ' ')}")
    if kind == "market" and prices["limit_price"] is not None:
        raise Refusal(422, 42210000, "market orders require no limit price")
    if kind == "trailing_stop" and (prices["trail_price"] is None) == (prices["trail_percent"] is None):
        raise Refusal(422, 42210000, "trailing stop orders must specify one of trail_percent or trail_price")
    for name in ("limit_price", "stop_price"):
        check_increment(prices[name], name, symbol)
    return Terms(type=kind, **prices)


def check_increment(price: Decimal | None, name: str, symbol: str) -> None:
    """Stocks trade in cents, below a dollar in hundredths of one.

    Raises:
        Refusal: the price lies between.
    """
    if price is not None and not is_pair(symbol) and price % Decimal("0.01" if price >= 1 else "0.0001"):
        text = f"invalid {name} {plain(price)}. sub-penny increment does not fulfill minimum pricing criteria"
        raise Refusal(422, 42210000, text)


def check_order(order: Order, terms: Terms, *, fractionable: bool) -> None:
    """Quantity and time in force.

    Raises:
        Refusal: Alpaca does not take them.
    """
    pair, whole = is_pair(order.symbol), order.qty == order.qty.to_integral_value()
    if not order.qty.is_finite() or order.qty <= 0:
        raise Refusal(422, 42210000, "qty must be > 0")
    if -int(order.qty.normalize().as_tuple().exponent) > 9:
        raise Refusal(422, 42210000, "qty must have at most 9 decimals")
    if not whole and not fractionable:
        raise Refusal(403, 40310000, f'asset "{order.symbol}" is not fractionable')
    if str(order.time_in_force) not in _TIMES["crypto" if pair else "us_equity"]:
        raise Refusal(422, 42210000, f"invalid {'crypto ' if pair else ''}time_in_force")
    if not whole and not pair and order.time_in_force is not TimeInForce.DAY:
        raise Refusal(422, 42210000, "fractional orders must be DAY orders")
    if not whole and terms.type == "trailing_stop":
        raise Refusal(422, 42210000, "fractional orders cannot be trailing stop orders")


def qty_of(body: Json, price: Decimal | None) -> Decimal:
    """The quantity of a request, which may name an amount of money instead.

    Raises:
        Refusal: it names neither or both, or no price is known to divide by.
    """
    qty, notional = decimal(body, "qty"), decimal(body, "notional")
    if (qty is None) == (notional is None):
        raise Refusal(422, 40010001, "qty or notional is required" if qty is None else "only one of qty or notional")
    if qty is not None:
        return qty
    if notional is None or price is None or body.get("type") != "market" or body.get("time_in_force") == "gtc":
        raise Refusal(422, 42210000, "notional orders must be market DAY orders in a symbol with a price")
    return (notional / price).quantize(_STEP)


def decimal(body: Json, name: str) -> Decimal | None:
    """A number out of a request; None when it is missing or null.

    Raises:
        Refusal: it is no number.
    """
    if body.get(name) is None:
        return None
    try:
        return Decimal(str(body[name]))
    except InvalidOperation:
        raise Refusal(422, 40010000, "request body format is invalid") from None


@dataclass
class Record:
    """What Alpaca keeps of an order beside what the venue knows.

    Attributes:
        word: a status put over the venue's; None lets the venue's show.
        told: cumulative quantity of which the update stream has been told.
    """

    id: str
    client_order_id: str
    symbol: str
    side: str
    terms: Terms
    time_in_force: str
    created_at: datetime
    notional: Decimal | None = None
    position_intent: str | None = None
    extended_hours: bool = False
    word: str | None = "pending_new"
    updated_at: datetime | None = None
    filled_at: datetime | None = None
    expired_at: datetime | None = None
    canceled_at: datetime | None = None
    failed_at: datetime | None = None
    replaced_at: datetime | None = None
    replaced_by: str | None = None
    replaces: str | None = None
    told: Decimal = ZERO
    extra: Json = field(default_factory=dict)

    def status(self, report: ExecutionReport) -> str:
        """Alpaca's word for how the order stands."""
        return self.word if self.word is not None else STATUS[report.status]

    def json(self, report: ExecutionReport) -> Json:
        """The order as REST and the update stream show it."""
        terms = self.terms
        return {
            "id": self.id,
            "client_order_id": self.client_order_id,
            "created_at": at_text(self.created_at),
            "updated_at": at_text(self.updated_at or self.created_at),
            "submitted_at": at_text(self.created_at),
            "filled_at": at_text(self.filled_at),
            "expired_at": at_text(self.expired_at),
            "canceled_at": at_text(self.canceled_at),
            "failed_at": at_text(self.failed_at),
            "replaced_at": at_text(self.replaced_at),
            "replaced_by": self.replaced_by,
            "replaces": self.replaces,
            "asset_id": named("asset", self.symbol),
            "symbol": self.symbol,
            "asset_class": asset_class(self.symbol),
            "notional": number(self.notional),
            "qty": number(report.qty) if self.notional is None else None,
            "filled_qty": number(report.filled_qty),
            "filled_avg_price": number(report.avg_fill_price),
            "order_class": "",
            "order_type": terms.type,
            "type": terms.type,
            "side": self.side,
            "position_intent": self.position_intent,
            "time_in_force": self.time_in_force,
            "limit_price": number(terms.limit_price),
            "stop_price": number(terms.stop_price),
            "status": self.status(report),
            "extended_hours": self.extended_hours,
            "legs": None,
            "trail_percent": number(terms.trail_percent),
            "trail_price": number(terms.trail_price),
            "hwm": number(terms.hwm),
            "subtag": None,
            "source": None,
            "expires_at": at_text(session_end(self.created_at)) if self.time_in_force == "day" else None,
            **self.extra,
        }
