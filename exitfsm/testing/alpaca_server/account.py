"""The account behind the server: Alpaca's rules and words over the simulated venue.

The venue keeps orders, fills and positions; this room adds what Alpaca adds: ids and times, `pending_new`, the checks
at submit with their error bodies, quantity that other orders hold, cancels and replaces that are only requests, and
the trade updates. Refusals are worded as they were recorded or documented. Everything runs in the server's loop.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal

from exitfsm.errors import OrderRefused
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.simulated import Act, SimulatedBroker
from exitfsm.testing.alpaca_server.orders import (
    TERMINAL_WORDS,
    Record,
    Refusal,
    Terms,
    check_increment,
    check_order,
    decimal,
    qty_of,
    terms_of,
)
from exitfsm.testing.alpaca_server.words import (
    Hours,
    Json,
    account_json,
    activity_json,
    asset_json,
    at_text,
    compact,
    is_pair,
    named,
    position_json,
)
from exitfsm.values import (
    ZERO,
    Bar,
    ExecutionReport,
    Order,
    OrderSide,
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
    canonical_symbol,
    plain,
)

#: A sell from flat is a short sale here: nothing at the venue would save an exit that was sent twice.
VENUE = Capabilities(ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, reduce_only=False)
_KINDS: dict[OrderStatus, str] = {
    OrderStatus.NEW: "new",
    OrderStatus.SUSPENDED: "suspended",
    OrderStatus.DONE_FOR_DAY: "done_for_day",
    OrderStatus.CANCELED: "canceled",
    OrderStatus.EXPIRED: "expired",
    OrderStatus.REJECTED: "rejected",
    OrderStatus.CANCEL_REJECTED: "order_cancel_rejected",
    OrderStatus.PENDING_CANCEL: "pending_cancel",
}


@dataclass
class Account:
    """The account, its orders and its market.

    Attributes:
        now: the present.
        fills: when orders fill: as soon as their price is there (`at_once`), at bars (`on_bar`), or by hand only.
        cancels: a cancel takes effect at once, or stays a request until `finish_cancel`.
        replaces: the same for a replacement, until `finish_replace`.
        hours: the market's calendar.
        shorting: a sell from flat is a short sale; otherwise it is refused.
        tell: where trade updates go.
    """

    now: Callable[[], datetime]
    venue: SimulatedBroker = field(default_factory=lambda: SimulatedBroker(capabilities=VENUE))
    number: str = "PA3TEST00001"
    fills: Literal["at_once", "on_bar", "by_hand"] = "at_once"
    cancels: Literal["at_once", "by_hand"] = "at_once"
    replaces: Literal["at_once", "by_hand"] = "at_once"
    hours: Hours = field(default_factory=lambda: Hours(always=True))
    shorting: bool = True
    not_fractionable: set[str] = field(default_factory=set)
    not_tradable: set[str] = field(default_factory=set)
    odd_positions: list[Json] = field(default_factory=list)
    tell: Callable[[Json], None] = lambda update: None
    records: dict[str, Record] = field(default_factory=dict)
    prices: dict[str, Decimal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.venue.subscribe(self._on_report)

    # --- questions ----------------------------------------------------------------------------------------------------

    def json(self) -> Json:
        """The account itself."""
        return account_json(self.number)

    def asset(self, name: str) -> Json:
        """An asset; every name is one."""
        symbol = self.spelled(name)
        return asset_json(
            symbol, tradable=symbol not in self.not_tradable, fractionable=symbol not in self.not_fractionable
        )

    def symbols(self) -> list[str]:
        """Every symbol that was traded or priced here."""
        return sorted({*self.prices, *(r.symbol for r in self.records.values())})

    def spelled(self, name: str) -> str:
        """The symbol of a path or an order: a pair that is known gets its slash back."""
        upper = name.upper()
        return next((symbol for symbol in self.symbols() if compact(symbol) == compact(upper)), upper)

    def positions(self) -> list[Json]:
        """All open positions; odd ones that a test wants among them come first."""
        return [*self.odd_positions, *(position_json(p) for p in self.venue.positions())]

    def position(self, name: str) -> Json:
        """One position, by its symbol or the id of its asset."""
        for shown in self.positions():
            if compact(name.upper()) == shown["symbol"] or name == shown.get("asset_id"):
                return shown
        raise Refusal(404, 40410000, "position does not exist")

    def order_json(self, record: Record) -> Json:
        """One order as it stands."""
        return record.json(self._report(record))

    def by_id(self, order_id: str) -> Record:
        """An order by Alpaca's id."""
        for record in self.records.values():
            if record.id == order_id:
                return record
        raise Refusal(404, 40410000, f"order not found for {order_id}")

    def by_client_id(self, client_order_id: str) -> Record:
        """An order by the client's id."""
        record = self.records.get(client_order_id)
        if record is None:
            raise Refusal(404, 40410000, f"order not found for {client_order_id}")
        return record

    def orders(self, status: str) -> list[Record]:
        """Orders, oldest first: `all`, `closed`, `open` (without legs that are held, as Alpaca has it), or `live`."""
        chosen = []
        for record in self.records.values():
            word = record.status(self._report(record))
            if status == "open" and word == "held":
                continue
            if status == "all" or (status == "closed") == (word in TERMINAL_WORDS):
                chosen.append(record)
        return chosen

    def activities(self) -> list[Json]:
        """All executions, oldest first; two within a millisecond stand in the order of their ids, which is none."""
        cumulative: dict[str, Decimal] = {}
        found = []
        for fill in self.venue.fills(datetime.min.replace(tzinfo=UTC)):
            record = self.records.get(fill.client_order_id or "")
            order_id = record.id if record is not None else named("by hand", fill.fill_id)
            total = cumulative[order_id] = cumulative.get(order_id, ZERO) + fill.qty
            ordered = self._report(record).qty if record is not None else fill.qty
            found.append(activity_json(fill, order_id, total, max(ZERO, (ordered or total) - total)))
        return sorted(found, key=lambda a: str(a["id"]))

    def is_open(self) -> bool:
        """True while the market is open."""
        return self.hours.is_open(self.now())

    def _report(self, record: Record) -> ExecutionReport:
        report = self.venue.order(record.client_order_id)
        assert report is not None, record.client_order_id
        return report

    # --- orders -------------------------------------------------------------------------------------------------------

    def submit(self, body: Json) -> Record:
        """Take an order, as `pending_new`; `opened` makes it work.

        Raises:
            Refusal: as Alpaca words it.
        """
        coid = str(body.get("client_order_id") or uuid.uuid4())
        if coid in self.records:
            raise Refusal(422, 40010001, "client_order_id must be unique")
        if len(coid) > 128:
            raise Refusal(422, 40010000, "client_order_id must be no longer than 128 characters")
        order, terms = self._order_of(body, coid)
        self._check(order, terms, body)
        return self._take(order, terms, body)

    def _take(self, order: Order, terms: Terms, body: Json) -> Record:
        self.venue.now = self.now()
        self.venue.plain_act = Act() if self.fills == "on_bar" and not terms.waits else Act(then="rest")
        try:
            self.venue.submit(order)
        except OrderRefused as refused:
            raise Refusal(403, 40310000, refused.text) from None
        record = Record(
            id=named("order", order.client_order_id),
            client_order_id=order.client_order_id,
            symbol=order.symbol,
            side=str(order.side),
            terms=terms,
            time_in_force=str(order.time_in_force),
            created_at=self.now(),
            notional=decimal(body, "notional"),
            position_intent=body.get("position_intent"),
            extended_hours=bool(body.get("extended_hours")),
        )
        self.records[order.client_order_id] = record
        return record

    def _order_of(self, body: Json, coid: str) -> tuple[Order, Terms]:
        try:
            symbol = canonical_symbol(self.spelled(str(body["symbol"])))
            side, times = OrderSide(body["side"]), TimeInForce(body["time_in_force"])
        except (KeyError, ValueError):
            raise Refusal(422, 40010000, "request body format is invalid") from None
        terms = terms_of(body, symbol)
        terms.hwm = self.prices.get(symbol) if terms.type == "trailing_stop" else None
        held = self.venue.held(symbol)
        closing = held * (1 if side is OrderSide.SELL else -1) > 0
        order = Order(
            client_order_id=coid,
            symbol=symbol,
            side=side,
            qty=qty_of(body, self.prices.get(symbol)),
            order_type=OrderType.MARKET if terms.limit_price is None else OrderType.LIMIT,
            time_in_force=times,
            limit_price=terms.limit_price,
            position_side=Side.LONG if (side is OrderSide.SELL) == closing else Side.SHORT,
        )
        return order, terms

    def _check(self, order: Order, terms: Terms, body: Json) -> None:
        """Alpaca's rules at submit, in the order in which it was seen to apply them."""
        if order.symbol in self.not_tradable:
            raise Refusal(422, 42210000, f'asset "{order.symbol}" is not tradable')
        check_order(order, terms, fractionable=order.symbol not in self.not_fractionable)
        if body.get("extended_hours") and terms.type != "limit":
            raise Refusal(422, 42210000, "extended hours order must be DAY or GTC limit orders")
        self._check_opposite(order)
        self._check_free(order)

    def _check_opposite(self, order: Order) -> None:
        """The wash-trade rule: no order against one that rests on the other side."""
        for record in self.orders("open"):
            if record.symbol != order.symbol or record.side == str(order.side):
                continue
            mine, theirs = order.limit_price, record.terms.limit_price
            apart = mine is not None and theirs is not None
            if apart and ((mine > theirs) if order.side is OrderSide.SELL else (mine < theirs)):  # type: ignore[operator]
                continue
            raise Refusal(
                403,
                40310000,
                "potential wash trade detected. use complex orders",
                existing_order_id=record.id,
                reject_reason=f"opposite side {'market/stop' if theirs is None else 'limit'} order exists",
            )

    def _check_free(self, order: Order) -> None:
        """No order may close more than is held and free; none may cross zero."""
        held = self.venue.held(order.symbol)
        against = held if order.side is OrderSide.SELL else -held
        if against <= 0:
            sells_nothing = order.side is OrderSide.SELL and (is_pair(order.symbol) or not self.shorting)
            if not sells_nothing:
                return
            against = ZERO
        holders = [r for r in self.orders("live") if r.symbol == order.symbol and r.side == str(order.side)]
        taken = sum((self._leaves(r) for r in holders), ZERO)
        if order.qty <= against - taken:
            return
        free = plain(max(ZERO, against - taken))
        what = "balance for" if is_pair(order.symbol) else "qty available for"
        raise Refusal(
            403,
            40310000,
            f"insufficient {what} order (requested: {plain(order.qty)}, available: {free})",
            available=free,
            existing_qty=plain(against),
            held_for_orders=plain(taken),
            symbol=order.symbol,
            **({"related_orders": [r.id for r in holders]} if holders else {}),  # type: ignore[arg-type]
        )

    def _leaves(self, record: Record) -> Decimal:
        report = self._report(record)
        return (report.qty or ZERO) - (report.filled_qty or ZERO)

    def opened(self, record: Record) -> None:
        """The order begins to work: `new`, and its fills where they come at once."""
        if record.replaces is not None and self.by_id(record.replaces).word == "pending_replace":
            return
        if record.word == "pending_new":
            record.word = None if self.is_open() else "accepted"
            self._event(record, "new" if record.word is None else "accepted")
        self.match(record.symbol)

    def match(self, symbol: str) -> None:
        """Fill what the last price fills: everything where fills come at once, only stops where they come at bars."""
        price = self.prices.get(symbol)
        if self.fills == "by_hand" or price is None or not self.is_open():
            return
        for record in self.orders("open"):
            word = record.status(self._report(record))
            if record.symbol != symbol or word in ("pending_new", "held", "suspended", "done_for_day"):
                continue
            stops = record.terms.type in ("stop", "stop_limit", "trailing_stop")
            if (self.fills == "at_once" or stops) and record.terms.trades_at(price, record.side):
                self.fill(record.client_order_id, None, price)

    def fill(self, client_order_id: str, qty: Decimal | None = None, price: Decimal | None = None) -> None:
        """An execution of an order; also of one that is over (a late fill)."""
        record = self.by_client_id(client_order_id)
        if record.word in ("pending_new", "accepted"):
            record.word = None
        self.venue.now = self.now()
        self.venue.fill(client_order_id, qty, price if price is not None else self.prices.get(record.symbol))

    def move(self, client_order_id: str, status: OrderStatus, word: str | None = None) -> None:
        """Another status, by hand; `word` is Alpaca's, where the venue has none of its own."""
        record = self.by_client_id(client_order_id)
        record.word = word
        self.venue.now = self.now()
        self.venue.move(client_order_id, status)

    def cancel(self, order_id: str) -> Callable[[], None]:
        """Take a request to cancel; the returned function carries it out, where that happens at once."""
        record = self.by_id(order_id)
        word = record.status(self._report(record))
        if word in ("filled", "canceled", "expired", "rejected", "replaced", "pending_cancel"):
            raise Refusal(422, 42210000, f'order is already in "{word}" state')
        record.word = "pending_cancel"
        if self.cancels == "at_once":
            return lambda: self.finish_cancel(record.client_order_id)
        self._event(record, "pending_cancel")
        return lambda: None

    def finish_cancel(self, client_order_id: str) -> None:
        """The venue has canceled the order, unless it filled meanwhile."""
        record = self.by_client_id(client_order_id)
        if record.word == "pending_cancel":
            record.word = None
        if not self._report(record).status.terminal:
            self.move(client_order_id, OrderStatus.CANCELED)

    def refuse_cancel(self, client_order_id: str) -> None:
        """The venue will not cancel: the order works on."""
        record = self.by_client_id(client_order_id)
        record.word = None
        self._event(record, "order_cancel_rejected")

    def replace(self, order_id: str, body: Json) -> Record:
        """Replace an order: a new order with a new id. The old one is `replaced`, at once or when that is finished.

        Raises:
            Refusal: as Alpaca words it.
        """
        old = self.by_id(order_id)
        report, word = self._report(old), old.status(self._report(old))
        if word not in ("new", "partially_filled"):
            raise Refusal(422, 42210000, f"cannot replace order in {word} status")
        coid = str(body.get("client_order_id") or uuid.uuid4())
        if coid in self.records:
            raise Refusal(422, 40010001, "client_order_id must be unique")
        terms = replace(old.terms, hwm=None)
        trail = "trail_price" if terms.trail_price is not None else "trail_percent"
        for name, asked in (("limit_price", "limit_price"), ("stop_price", "stop_price"), (trail, "trail")):
            if (value := decimal(body, asked)) is not None:
                setattr(terms, name, value)
                check_increment(value, name, old.symbol)
        order = Order(
            client_order_id=coid,
            symbol=old.symbol,
            side=OrderSide(old.side),
            qty=decimal(body, "qty") or report.qty or ZERO,  # the whole again, also after a partial fill
            order_type=OrderType.MARKET if terms.limit_price is None else OrderType.LIMIT,
            time_in_force=TimeInForce(str(body.get("time_in_force") or old.time_in_force)),
            limit_price=terms.limit_price,
        )
        new = self._take(order, terms, {"position_intent": old.position_intent})
        new.replaces = old.id
        if self.replaces == "at_once":
            self._replaced(old, new)
        else:
            old.word = "pending_replace"
            self._event(old, "pending_replace")
        return new

    def finish_replace(self, client_order_id: str, *, ok: bool = True) -> None:
        """The venue has made a replacement, named by the new order's id; or it has not, and the old order works on."""
        new = self.by_client_id(client_order_id)
        old = self.by_id(new.replaces or "")
        old.word = None
        if ok and not self._report(old).status.terminal:
            self._replaced(old, new)
            self.opened(new)
            return
        self._event(old, "order_replace_rejected")
        self.move(client_order_id, OrderStatus.REJECTED)

    def _replaced(self, old: Record, new: Record) -> None:
        old.replaced_by, old.replaced_at, old.word = new.id, self.now(), "replaced"
        self.venue.now = self.now()
        self.venue.move(old.client_order_id, OrderStatus.CANCELED)

    # --- the market ---------------------------------------------------------------------------------------------------

    def hold(self, symbol: str, side: Side, qty: Decimal, price: Decimal, ago_s: float) -> None:
        """A position, as if bought or sold short so many seconds ago."""
        self.prices.setdefault(symbol, price)
        order_side = OrderSide.BUY if side is Side.LONG else OrderSide.SELL
        self.trade_by_hand(symbol, order_side, qty, price, ago_s)

    def trade_by_hand(self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal, ago_s: float = 0.0) -> None:
        """Somebody trades in the account by other means: an order, and its fill at once."""
        coid, at = f"by-hand-{len(self.records) + 1}", self.now() - timedelta(seconds=ago_s)
        order = Order(client_order_id=coid, symbol=symbol, side=side, qty=qty)
        record = self._take(order, Terms(), {})
        record.created_at, record.word = at, None
        self.venue.now = at
        self.venue.fill(coid, qty, price)
        self.venue.now = self.now()

    def foreign(self, symbol: str, side: OrderSide, qty: Decimal, limit_price: Decimal | None) -> Record:
        """An order that is not ours, and that holds quantity."""
        body: Json = {"symbol": symbol, "side": str(side), "qty": plain(qty), "time_in_force": "gtc", "type": "market"}
        if limit_price is not None:
            body |= {"type": "limit", "limit_price": plain(limit_price)}
        record = self.submit(body)
        self.opened(record)
        return record

    def bar(self, bar: Bar) -> None:
        """A bar: the last price, and what fills at it."""
        self.prices[bar.symbol] = bar.close
        self.venue.on_bar(bar)
        self.venue.now = self.now()
        self.match(bar.symbol)

    def close_session(self) -> None:
        """The session ends: DAY orders expire."""
        self.venue.expire_day_orders(self.now())

    def split(self, symbol: str, ratio: Decimal) -> None:
        """A split overnight: position and orders are scaled."""
        self.venue.split(symbol, ratio)
        if symbol in self.prices:
            self.prices[symbol] /= ratio
        for record in self.orders("open"):
            if record.symbol == symbol:
                record.terms.split(ratio)

    # --- trade updates ------------------------------------------------------------------------------------------------

    def _on_report(self, report: ExecutionReport) -> None:
        """The venue changed an order: times, and an update for the stream."""
        record = self.records.get(report.client_order_id)
        if record is None:
            return
        if report.status.terminal and record.word not in ("replaced",):
            record.word = None
        stamped = {
            OrderStatus.FILLED: "filled_at",
            OrderStatus.CANCELED: "canceled_at",
            OrderStatus.EXPIRED: "expired_at",
            OrderStatus.REJECTED: "failed_at",
        }.get(report.status)
        if stamped is not None and getattr(record, stamped) is None:
            setattr(record, stamped, report.at)
        record.updated_at = report.at
        filled = report.filled_qty or ZERO
        if filled > record.told:
            self._fill_event(record, report, filled)
        elif record.word == "replaced":
            self._event(record, "replaced")
        else:
            self._event(record, _KINDS[report.status])

    def _fill_event(self, record: Record, report: ExecutionReport, filled: Decimal) -> None:
        last = [
            f for f in self.venue.fills(datetime.min.replace(tzinfo=UTC)) if f.client_order_id == record.client_order_id
        ]
        record.told = filled
        whole = report.qty == filled
        self._event(
            record,
            "fill" if whole else "partial_fill",
            price=plain(last[-1].price),
            qty=plain(last[-1].qty),
            position_qty=plain(self.venue.held(record.symbol)),
            execution_id=named("fill", last[-1].fill_id),
        )

    def _event(self, record: Record, kind: str, **fields: str) -> None:
        now = at_text(self.now())
        update = {"event": kind, "event_id": uuid.uuid4().hex[:26].upper(), "at": now, "timestamp": now, **fields}
        self.tell({**update, "order": self.order_json(record)})
