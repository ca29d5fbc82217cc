"""One simulated venue: for simulation, paper runs and tests.

It offers the `Broker` port (with plain methods) on one side and moves by bars on the other: a market order fills at the
open of the symbol's next bar, a limit order when the price gets there. It remembers every client order id for ever,
sells no more than is held, and can be scripted to part-fill, reject, expire, or to lose an answer. It has no clock and
no randomness: its time is that of the last bar.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal

import msgspec
from msgspec.structs import replace

from exitfsm.errors import OrderRefused
from exitfsm.policy import away
from exitfsm.ports import Capabilities, IdMemory, Session
from exitfsm.values import (
    EXACT,
    ZERO,
    Bar,
    BrokerPosition,
    ExecutionReport,
    Fill,
    Order,
    OrderSide,
    OrderStatus,
    OrderType,
    Side,
    canonical_symbol,
    exactly,
    plain,
    tradable,
)

#: What the simulated venue can do, which is everything that makes an exit safe.
SIMULATED = Capabilities(
    ids_refused=IdMemory.FOREVER,
    lookup_sees_closed=True,
    reduce_only=True,
    late_fills=False,
    late_fill_window_s=0,
)
#: Decimals of an average price; below 1, as many figures from the first one on.
_PLACES = 9


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """What the venue does with one order, instead of simply filling it.

    Attributes:
        refuse: refuse it at once with this class of refusal; the order never exists.
        reject: accept it, and reject it at the next bar with this class of refusal.
        fills: quantities to fill, one for each following bar.
        then: what follows: fill the rest, or let the order expire, be canceled, or rest for ever.
    """

    refuse: str | None = None
    reject: str | None = None
    fills: tuple[Decimal, ...] = ()
    then: Literal["fill", "expire", "cancel", "rest"] = "fill"


class _Working(msgspec.Struct):
    """One order as the venue keeps it."""

    order: Order
    broker_order_id: str
    status: OrderStatus
    at: datetime
    act: Act
    filled: Decimal = ZERO
    value: Decimal = ZERO
    fills_made: int = 0
    text: str = ""
    refusal: str | None = None

    @property
    def leaves(self) -> Decimal:
        return EXACT.subtract(self.order.qty, self.filled)

    def report(self) -> ExecutionReport:
        average = _average(self.value, self.filled) if self.filled else None
        return ExecutionReport(
            client_order_id=self.order.client_order_id,
            status=self.status,
            at=self.at,
            filled_qty=self.filled,
            avg_fill_price=Decimal(plain(average)) if average is not None else None,
            broker_order_id=self.broker_order_id,
            symbol=self.order.symbol,
            side=self.order.side,
            qty=self.order.qty,
            refusal=self.refusal,
            text=self.text,
        )


class SimulatedBroker:
    """The venue and its books.

    Args:
        slippage_pct: how much worse than the open a market order fills, in percent.
        capabilities: what the venue declares (and, for late fills and the like, what tests make of it).
        hours: the market's hours; always open when None.

    Attributes:
        plain_act: what is done with an order for which there is no script.
    """

    def __init__(
        self,
        *,
        slippage_pct: Decimal = ZERO,
        capabilities: Capabilities = SIMULATED,
        hours: Callable[[str, datetime], Session] | None = None,
    ) -> None:
        self.capabilities = capabilities
        self.slippage_pct = slippage_pct
        self.now = datetime.min.replace(tzinfo=UTC)
        self.plain_act = Act()
        self._hours = hours
        self._orders: dict[str, _Working] = {}
        #: Those of them that were not over when last looked at; and by symbol: each bar asks for its own.
        self._alive: dict[str, _Working] = {}
        self._alive_of: defaultdict[str, dict[str, _Working]] = defaultdict(dict)
        self._held: dict[str, tuple[Decimal, Decimal]] = {}
        self._prices: dict[str, Decimal] = {}
        self._fills: list[Fill] = []
        self._scripts: dict[str, deque[Act]] = defaultdict(deque)
        self._faults: dict[str, deque[tuple[str, Exception]]] = defaultdict(deque)
        self._subscribers: list[Callable[[ExecutionReport], object]] = []

    # --- the port -----------------------------------------------------------------------------------------------------

    def positions(self) -> Sequence[BrokerPosition]:
        """All open positions, by symbol."""
        with_fault = self._fault("positions")
        held = [p for symbol in sorted(self._held) if (p := self.position(symbol)) is not None]
        with_fault()
        return [replace(p, qty_available=self._free(p.symbol, p.side)) for p in held]

    def submit(self, order: Order) -> ExecutionReport:
        """Take an order.

        Raises:
            OrderRefused: the id was used before (`duplicate_id`), or more would be sold than is free to sell
                (`insufficient_qty`), or a script refuses it.
        """
        finish = self._fault("submit")
        if order.client_order_id in self._orders:
            raise OrderRefused("duplicate_id", f"client_order_id {order.client_order_id} must be unique")
        act = self._scripts[order.symbol].popleft() if self._scripts[order.symbol] else self.plain_act
        if act.refuse is not None:
            raise OrderRefused(act.refuse, f"refused by script: {act.refuse}")
        self._check_free(order)
        working = _Working(
            order=order,
            broker_order_id=f"sim-{len(self._orders) + 1}",
            status=OrderStatus.NEW,
            at=self.now,
            act=act,
        )
        self._orders[order.client_order_id] = working
        self._revive(working)
        finish()
        return working.report()

    def order(self, client_order_id: str) -> ExecutionReport | None:
        """What is known of an order, open or over; None for an id never seen."""
        finish = self._fault("order")
        working = self._orders.get(client_order_id)
        finish()
        return working.report() if working is not None else None

    def open_orders(self) -> Sequence[ExecutionReport]:
        """All working orders, oldest first."""
        finish = self._fault("open_orders")
        reports = [w.report() for w in self._working()]
        finish()
        return reports

    def cancel(self, client_order_id: str) -> None:
        """Cancel an order at once; the report comes as an update.

        Raises:
            OrderRefused: there is nothing to cancel (`not_cancelable`).
        """
        finish = self._fault("cancel")
        working = self._orders.get(client_order_id)
        if working is None or working.status.terminal:
            raise OrderRefused("not_cancelable", f"order {client_order_id} is not working")
        self._end(working, OrderStatus.CANCELED)
        finish()

    def fills(self, since: datetime) -> Sequence[Fill]:
        """Executions at or after `since`, oldest first."""
        finish = self._fault("fills")
        found = [fill for fill in self._fills if fill.at >= since]
        finish()
        return found

    def session(self, symbol: str, at: datetime) -> Session:
        """The market's hours; always open unless hours were given."""
        return self._hours(symbol, at) if self._hours is not None else Session(is_open=True)

    # --- the market's side --------------------------------------------------------------------------------------------

    def on_bar(self, bar: Bar, *, limits: bool = True) -> list[ExecutionReport]:
        """A bar trades: working orders of its symbol fill at its open or at their limit. Returns what changed.

        Args:
            bar: the bar.
            limits: limit orders trade, too; not so on a price that nobody believes.
        """
        self.now = bar.timestamp
        self._prices[bar.symbol] = bar.close
        changed = []
        for working in self._working(bar.symbol):
            if working.status.terminal:
                continue
            if (limits or working.order.order_type is OrderType.MARKET) and self._trade(working, bar):
                changed.append(working.report())
        for report in changed:
            self._publish(report)
        return changed

    def hold(self, symbol: str, side: Side, qty: Decimal, price: Decimal, at: datetime) -> Fill:
        """Put a position on the books, as if bought (or sold short) at `price`."""
        self.now = max(self.now, at)
        self._prices[symbol] = price
        order_side = OrderSide.BUY if side is Side.LONG else OrderSide.SELL
        return self._book(canonical_symbol(symbol), order_side, qty, price, at, None)

    def trade_by_hand(self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal) -> Fill:
        """Somebody else trades in the account."""
        return self._book(symbol, side, qty, price, self.now, None)

    def expire_day_orders(self, at: datetime) -> list[ExecutionReport]:
        """The session ends: working day orders expire."""
        self.now = at
        expired = [w for w in self._working() if w.order.time_in_force == "day"]
        for working in expired:
            self._end(working, OrderStatus.EXPIRED)
        return [w.report() for w in expired]

    def fill(self, client_order_id: str, qty: Decimal | None = None, price: Decimal | None = None) -> ExecutionReport:
        """Fill an order by hand, now: `qty` of it, or all that is left, at `price`, or at the last one of its symbol.

        An order that is over takes the fill too, and stays over: such late fills happen.

        Raises:
            KeyError: no such order, or no price is known.
            ValueError: more than is left, or nothing.
        """
        working = self._orders[client_order_id]
        size = working.leaves if qty is None else qty
        if not 0 < size <= working.leaves:
            raise ValueError(f"cannot fill {size} of order {client_order_id}: {working.leaves} is left")
        before = working.status
        self._fill(working, size, self._prices[working.order.symbol] if price is None else price, self.now)
        if before.terminal:
            working.status = before
        self._publish(working.report())
        return working.report()

    def move(
        self, client_order_id: str, status: OrderStatus, *, refusal: str | None = None, text: str = ""
    ) -> ExecutionReport:
        """Put an order into another status by hand, now: suspended, done for the day, rejected, expired, working again.

        Raises:
            KeyError: no such order.
        """
        working = self._orders[client_order_id]
        working.refusal, working.text = refusal, text
        self._revive(working)  # it may work again
        self._end(working, status)
        return working.report()

    def split(self, symbol: str, ratio: Decimal) -> None:
        """A split: each share becomes `ratio` shares, in the position and in working orders. Nothing is reported."""
        held, entry = self._held.get(symbol, (ZERO, ZERO))
        self._held[symbol] = (EXACT.multiply(held, ratio), EXACT.divide(entry, ratio))
        if symbol in self._prices:
            self._prices[symbol] = EXACT.divide(self._prices[symbol], ratio)
        for working in self._working(symbol):
            order = working.order
            limit = EXACT.divide(order.limit_price, ratio) if order.limit_price is not None else None
            working.order = replace(order, qty=EXACT.multiply(order.qty, ratio), limit_price=limit)
            working.filled = EXACT.multiply(working.filled, ratio)

    def script(self, symbol: str, *acts: Act) -> None:
        """What to do with the next orders in `symbol`, one act each; after the last they fill plainly again."""
        self._scripts[symbol].extend(acts)

    def fail_next(self, method: str, when: Literal["before", "after"], error: Exception) -> None:
        """Let the next call of a port method raise, before or after it took effect. Calls queue up."""
        self._faults[method].append((when, error))

    def subscribe(self, handler: Callable[[ExecutionReport], object]) -> Callable[[], None]:
        """Hear of every change of every order; the returned function ends it."""
        self._subscribers.append(handler)
        return lambda: self._subscribers.remove(handler)

    def position(self, symbol: str) -> BrokerPosition | None:
        """What is held of one symbol, without what of it is free to sell; None where nothing is."""
        qty, entry = self._held.get(symbol, (ZERO, ZERO))
        if qty == 0:
            return None
        return BrokerPosition(
            symbol=symbol,
            side=Side.LONG if qty > 0 else Side.SHORT,
            qty=qty.copy_abs(),
            avg_entry_price=entry,
            current_price=self._prices.get(symbol),
        )

    def held(self, symbol: str) -> Decimal:
        """Net quantity on the books: negative when short."""
        return self._held.get(symbol, (ZERO, ZERO))[0]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _fault(self, method: str) -> Callable[[], None]:
        """Raise a fault that is due before the effect; the returned function raises one that is due after it."""
        if not self._faults[method]:
            return _nothing
        when, error = self._faults[method].popleft()
        if when == "before":
            raise error

        def after() -> None:
            raise error

        return after

    def _check_free(self, order: Order) -> None:
        """A closing order may not reserve more than is held and free."""
        if not self.capabilities.reduce_only or order.side is not order.position_side.exit_side:
            return
        free = self._free(order.symbol, order.position_side)
        if order.qty > free:
            raise OrderRefused(
                "insufficient_qty",
                f"insufficient qty available for order (requested: {plain(order.qty)}, available: {plain(free)})",
            )

    def _working(self, symbol: str = "") -> list[_Working]:
        """The orders that are not over, of one symbol where it is given. A long run has thousands that are."""
        alive = self._alive_of[symbol] if symbol else self._alive
        for key in [key for key, working in alive.items() if working.status.terminal]:
            del alive[key]
        return list(alive.values())

    def _revive(self, working: _Working) -> None:
        key, order = working.order.client_order_id, working.order
        self._alive[key] = self._alive_of[order.symbol][key] = working

    @exactly
    def _free(self, symbol: str, side: Side) -> Decimal:
        reserved = sum(
            (w.leaves for w in self._working(symbol) if w.order.side is side.exit_side),
            ZERO,
        )
        return max(ZERO, self.held(symbol) * side.sign) - reserved

    def _trade(self, working: _Working, bar: Bar) -> bool:
        """What one bar does to one working order; True when something changed."""
        act = working.act
        if act.reject is not None:
            working.refusal, working.text = act.reject, f"rejected by script: {act.reject}"
            working.status, working.at = OrderStatus.REJECTED, bar.timestamp
            return True
        price = self._fill_price(working.order, bar)
        if working.fills_made < len(act.fills):
            qty = act.fills[working.fills_made]
        elif act.then == "fill":
            qty = working.leaves
        elif act.then == "rest":
            return False
        else:
            working.status = OrderStatus.EXPIRED if act.then == "expire" else OrderStatus.CANCELED
            working.at = bar.timestamp
            return True
        if price is None or qty <= 0:
            return False
        self._fill(working, min(qty, working.leaves), price, bar.timestamp)
        return True

    def _fill_price(self, order: Order, bar: Bar) -> Decimal | None:
        """Where the bar fills the order; None when it does not reach the limit."""
        sign = 1 if order.side is OrderSide.BUY else -1
        if order.order_type is OrderType.MARKET:
            return bar.open if self.slippage_pct == 0 else away(bar.open, self.slippage_pct, sign)
        limit = order.limit_price
        if limit is None:
            return None
        if bar.open * sign <= limit * sign:
            return bar.open
        touched = bar.low <= limit if sign > 0 else bar.high >= limit
        return limit if touched else None

    @exactly
    def _fill(self, working: _Working, qty: Decimal, price: Decimal, at: datetime) -> None:
        working.filled += qty
        working.value = EXACT.add(working.value, EXACT.multiply(qty, price))
        working.fills_made += 1
        working.at = at
        working.status = OrderStatus.FILLED if working.leaves == 0 else OrderStatus.PARTIALLY_FILLED
        self._book(working.order.symbol, working.order.side, qty, price, at, working)

    def _end(self, working: _Working, status: OrderStatus) -> None:
        working.status, working.at = status, self.now
        self._publish(working.report())

    @exactly
    def _book(
        self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal, at: datetime, working: _Working | None
    ) -> Fill:
        """Change the position by one execution, and note it."""
        held, entry = self._held.get(symbol, (ZERO, ZERO))
        change = qty if side is OrderSide.BUY else -qty
        now = held + change
        if held == 0 or held * change > 0:
            value = EXACT.add(EXACT.multiply(abs(held), entry), EXACT.multiply(qty, price))
            entry = _average(value, abs(now)).normalize(EXACT)
        elif held * now < 0:
            entry = price
        self._held[symbol] = (now, entry if now else ZERO)
        fill = Fill(
            fill_id=f"simfill-{len(self._fills) + 1}",
            symbol=symbol,
            side=side,
            qty=qty,
            price=price,
            at=at,
            client_order_id=working.order.client_order_id if working else None,
            broker_order_id=working.broker_order_id if working else None,
        )
        self._fills.append(fill)
        return fill

    def _publish(self, report: ExecutionReport) -> None:
        for handler in list(self._subscribers):
            handler(replace(report))


def _average(value: Decimal, qty: Decimal) -> Decimal:
    """A price out of what was paid in all: exact where it can be, else so fine that 0.00000000242 keeps its figures."""
    price = EXACT.divide(value, qty)
    if tradable(price) and EXACT.multiply(price, qty) == value:
        return price
    return price.quantize(Decimal(1).scaleb(min(0, price.adjusted()) - _PLACES), ROUND_HALF_EVEN, EXACT)


def _nothing() -> None:
    """No fault is due."""
