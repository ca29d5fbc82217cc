"""The books of a venue, moved by hand: orders, executions and positions as they truly are.

A test is the market here: it says what fills, what is rejected, who trades by hand. The books check by themselves what
no exit manager may ever do (`violations`); `verify` raises the first of them. What other hands did without anybody
having been told is nobody's fault: it is taken into account until the positions have been read.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from msgspec.structs import replace

from exitfsm.errors import OrderRefused
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.simulated import SIMULATED
from exitfsm.values import (
    EXACT,
    ZERO,
    BrokerPosition,
    ExecutionReport,
    Fill,
    Order,
    OrderSide,
    OrderStatus,
    Side,
    exactly,
    plain,
    rounded,
)

Number = Decimal | int | str


@dataclass(slots=True)
class Booked:
    """One order as the venue keeps it.

    `ours` marks an exit order of the manager; others are the bot's or a person's. `disturbed`: somebody traded in the
    symbol by hand while it worked.
    """

    order: Order
    broker_order_id: str
    at: datetime
    ours: bool
    status: OrderStatus = OrderStatus.NEW
    filled: Decimal = ZERO
    value: Decimal = ZERO
    refusal: str | None = None
    text: str = ""
    disturbed: bool = False

    @property
    def live(self) -> bool:
        """True while the venue may still fill it."""
        return not self.status.terminal

    @property
    def leaves(self) -> Decimal:
        """What is left to fill."""
        return EXACT.subtract(self.order.qty, self.filled)

    def report(self, *, corrected: bool = False) -> ExecutionReport:
        """What the venue says of it."""
        average = rounded(EXACT.divide(self.value, self.filled)) if self.filled else None
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
            corrected=corrected,
        )


class Books:
    """A venue whose market is the test.

    Args:
        now: the venue's time.
        capabilities: what the venue declares, and does: it refuses repeated ids and oversized orders as declared.

    Attributes:
        orders: the exit orders that reached the venue and were taken, in order.
        updates: news of orders that nobody has been given yet, oldest first.
        executions: every execution, oldest first.
        violations: what happened and never may, in words.
        cancels: what a request to cancel leads to: `at_once` ends the order, `pending` leaves it live until
            `end_cancel`, `refused` is refused.
        fills_at_once: a market order fills whole, at the symbol's price, as soon as it is taken.
    """

    def __init__(self, now: Callable[[], datetime], capabilities: Capabilities = SIMULATED) -> None:
        self.capabilities = capabilities
        self.now = now
        self.orders: list[Order] = []
        self.updates: list[ExecutionReport] = []
        self.executions: list[Fill] = []
        self._executed = 0
        self.violations: list[str] = []
        self.cancels: Literal["at_once", "pending", "refused"] = "at_once"
        self.fills_at_once = False
        self.prices: dict[str, Decimal] = {}
        self.lock = threading.RLock()
        self._booked: dict[str, Booked] = {}
        self._works: dict[str, Booked] = {}
        self._count = 0
        self._held: dict[str, tuple[Decimal, Decimal]] = {}
        self._unseen: dict[str, Decimal] = defaultdict(lambda: ZERO)

    # --- what there is ------------------------------------------------------------------------------------------------

    def held(self, symbol: str) -> Decimal:
        """Net quantity: negative when short."""
        return self._held.get(symbol, (ZERO, ZERO))[0]

    def ids(self) -> list[str]:
        """The ids of all orders that came, working or over."""
        return list(self._booked)

    def booked(self, client_order_id: str) -> Booked | None:
        """An order by its id, working or over; None for an id that never came."""
        return self._booked.get(client_order_id)

    def live_exits(self, symbol: str | None = None) -> list[Booked]:
        """The exit orders that work, of one symbol where given."""
        return [b for b in self._works.values() if b.ours and symbol in (None, b.order.symbol)]

    def ended_exits(self) -> list[Booked]:
        """The exit orders that are over."""
        return [b for b in self._booked.values() if b.ours and not b.live]

    def working(self) -> list[Booked]:
        """All orders that work, whoever sent them."""
        return list(self._works.values())

    def snapshot(self) -> list[BrokerPosition]:
        """The positions as they truly are."""
        with self.lock:
            return [self._position(symbol) for symbol in sorted(self._held) if self.held(symbol) != 0]

    def verify(self) -> None:
        """Raise what happened and never may.

        Raises:
            AssertionError: one of the safety rules was broken.
        """
        assert not self.violations, "; ".join(self.violations)

    # --- the market ---------------------------------------------------------------------------------------------------

    def price(self, symbol: str, price: Number) -> None:
        """The market's price of a symbol, from now on."""
        self.prices[symbol] = Decimal(price)

    @exactly
    def fill(
        self, order: str | Order, qty: Number | None = None, price: Number | None = None, *, late: bool = False
    ) -> ExecutionReport:
        """The venue fills `qty` of an order (all that is left when None) at `price` (the symbol's when None).

        `late` lets an order that is over fill all the same; it stays over.
        """
        with self.lock:
            booked = self._find(order)
            if not booked.live and not late:
                raise ValueError(f"order {booked.order.client_order_id} is {booked.status}: it fills no more")
            size = booked.leaves if qty is None else Decimal(qty)
            at = self.prices[booked.order.symbol] if price is None else Decimal(price)
            booked.filled += size
            booked.value = EXACT.add(booked.value, EXACT.multiply(size, at))
            if booked.live:
                booked.status = OrderStatus.FILLED if booked.leaves <= 0 else OrderStatus.PARTIALLY_FILLED
                self._leaves_work(booked)
            self._execute(booked.order.symbol, booked.order.side, size, at, booked)
            if booked.ours and not late and not booked.disturbed:
                self._check_sign(booked)
            return self._tell(booked)

    def reject(self, order: str | Order, kind: str = "rejected", text: str = "") -> ExecutionReport:
        """The venue rejects an order that it had taken."""
        booked = self._find(order)
        booked.refusal, booked.text = kind, text
        return self._end(booked, OrderStatus.REJECTED)

    def expire(self, order: str | Order) -> ExecutionReport:
        """An order runs out."""
        return self._end(self._find(order), OrderStatus.EXPIRED)

    def end_cancel(self, order: str | Order) -> ExecutionReport:
        """An order is canceled for good: after a request that was pending, or because the venue wants it so."""
        return self._end(self._find(order), OrderStatus.CANCELED)

    def refuse_cancel(self, order: str | Order) -> ExecutionReport:
        """A pending cancel is turned down; the order works on."""
        booked = self._find(order)
        booked.status = OrderStatus.PARTIALLY_FILLED if booked.filled else OrderStatus.NEW
        report = booked.report()
        self.updates.append(_with_status(report, OrderStatus.CANCEL_REJECTED))
        return report

    def suspend(self, order: str | Order) -> ExecutionReport:
        """The market halts; the order is neither over nor filling."""
        return self._end(self._find(order), OrderStatus.SUSPENDED)

    def bust(self, order: str | Order, qty: Number) -> ExecutionReport:
        """The venue takes back `qty` of what an order had filled."""
        with self.lock:
            booked, size = self._find(order), Decimal(qty)
            average = EXACT.divide(booked.value, booked.filled)
            booked.filled -= size
            booked.value = EXACT.subtract(booked.value, EXACT.multiply(size, average))
            booked.at = self.now()
            back = OrderSide.BUY if booked.order.side is OrderSide.SELL else OrderSide.SELL
            self._move(booked.order.symbol, back, size, average)
            self._unlist(booked.order.client_order_id, size)
            report = booked.report(corrected=True)
            self.updates.append(report)
            return report

    def _unlist(self, client_order_id: str, qty: Decimal) -> None:
        """What was taken back of an order is no execution any more: of the newest first."""
        for at in reversed(range(len(self.executions))):
            fill = self.executions[at]
            if fill.client_order_id != client_order_id or not qty:
                continue
            gone = min(qty, fill.qty)
            qty -= gone
            if fill.qty == gone:
                del self.executions[at]
            else:
                self.executions[at] = replace(fill, qty=EXACT.subtract(fill.qty, gone))

    def reopen(self, order: str | Order) -> ExecutionReport:
        """The venue takes an order's end back: it works again."""
        with self.lock:
            booked = self._find(order)
            booked.status = OrderStatus.PARTIALLY_FILLED if booked.filled else OrderStatus.NEW
            self._works[booked.order.client_order_id] = booked
            return self._tell(booked)

    def deny_end(self, order: str | Order, status: OrderStatus) -> ExecutionReport:
        """An update tells of an end that the record denies: the order works on."""
        with self.lock:
            self.updates.append(_with_status(self._find(order).report(), status))
            return self.updates[-1]

    def split(self, symbol: str, ratio: Number) -> None:
        """One share becomes `ratio`: quantity, entry and price change, and nobody traded."""
        with self.lock:
            held, entry = self._held[symbol]
            by = Decimal(ratio)
            self._held[symbol] = (held * by, EXACT.divide(entry, by).normalize())
            if symbol in self.prices:
                self.prices[symbol] = EXACT.divide(self.prices[symbol], by).normalize()

    # --- the bot and other people -------------------------------------------------------------------------------------

    def enter(
        self, symbol: str, side: Side | str, qty: Number, price: Number, *, client_order_id: str | None = None
    ) -> ExecutionReport:
        """The bot enters: its order is filled whole, at once."""
        order_side = OrderSide.BUY if Side(str(side)) is Side.LONG else OrderSide.SELL
        order = self.place(symbol, order_side, qty, client_order_id=client_order_id, tell=False)
        self.prices.setdefault(symbol, Decimal(price))
        return self.fill(order, qty, price)

    def place(
        self, symbol: str, side: OrderSide | str, qty: Number, *, client_order_id: str | None = None, tell: bool = True
    ) -> Order:
        """The bot, or a person, has an order work at the venue."""
        with self.lock:
            order_side = OrderSide(str(side))
            order = Order(
                client_order_id=client_order_id or f"bot-{self._count + 1}",
                symbol=symbol,
                side=order_side,
                qty=Decimal(qty),
                position_side=Side.LONG if order_side is OrderSide.BUY else Side.SHORT,
            )
            booked = self._book(order, ours=False)
            if tell:
                self._tell(booked)
            return order

    def trade_by_hand(self, symbol: str, side: OrderSide | str, qty: Number, price: Number | None = None) -> Fill:
        """A person trades in the account, and tells nobody."""
        with self.lock:
            size, order_side = Decimal(qty), OrderSide(str(side))
            at = self.prices[symbol] if price is None else Decimal(price)
            before = abs(self.held(symbol))
            fill = self._execute(symbol, order_side, size, at, None)
            self._unseen[symbol] += max(ZERO, before - abs(self.held(symbol)))
            for booked in self.live_exits(symbol):
                booked.disturbed = True
            return fill

    # --- taking orders ------------------------------------------------------------------------------------------------

    def take(self, order: Order) -> ExecutionReport:
        """An exit order reaches the venue.

        Raises:
            OrderRefused: the id is known, or more would be sold than is free, as far as the venue looks at that.
            AssertionError: it breaks a safety rule, whether or not the venue would have refused it.
        """
        with self.lock:
            self._check_id(order)
            self._check_size(order)
            booked = self._book(order, ours=True)
            self.orders.append(order)
            self._tell(booked)
            if self.fills_at_once and order.limit_price is None:
                self.fill(order)
            return booked.report()

    def ask_cancel(self, client_order_id: str) -> None:
        """A request to cancel reaches the venue.

        Raises:
            OrderRefused: there is nothing to cancel, or the venue will not.
        """
        with self.lock:
            booked = self._booked.get(client_order_id)
            if booked is None or not booked.live or self.cancels == "refused":
                raise OrderRefused("not_cancelable", f"order {client_order_id} cannot be canceled")
            if self.cancels == "at_once":
                self._end(booked, OrderStatus.CANCELED)
            else:
                self._end(booked, OrderStatus.PENDING_CANCEL)

    def seen(self) -> None:
        """Somebody has read the positions: what was done by hand before is no surprise any more."""
        self._unseen.clear()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _check_id(self, order: Order) -> None:
        known = self._booked.get(order.client_order_id)
        if known is None:
            return
        memory = self.capabilities.ids_refused
        if memory is IdMemory.FOREVER or (memory is IdMemory.OPEN_ORDERS and known.live):
            raise OrderRefused("duplicate_id", f"client_order_id {order.client_order_id} must be unique")
        self._broken(f"a second order under the id {order.client_order_id}, which this venue does not refuse")

    def _check_size(self, order: Order) -> None:
        others = self.live_exits(order.symbol)
        if others:
            names = ", ".join(b.order.client_order_id for b in others)
            self._broken(f"{order.client_order_id} was sent for {order.symbol} while {names} may still fill")
        there = max(ZERO, self.held(order.symbol) * order.position_side.sign)
        if self.capabilities.reduce_only and order.qty > self._free(order.symbol, order.position_side):
            raise OrderRefused("insufficient_qty", f"requested {plain(order.qty)}, held {plain(there)}")
        if order.qty > there + self._unseen[order.symbol]:
            self._broken(f"{order.client_order_id} sells {plain(order.qty)} {order.symbol}, and {plain(there)} is held")

    @exactly
    def _free(self, symbol: str, side: Side) -> Decimal:
        """What is held and no closing order reserves, whoever sent that."""
        closing = [b for b in self.working() if b.order.symbol == symbol and b.order.side is side.exit_side]
        return max(ZERO, self.held(symbol) * side.sign) - sum((b.leaves for b in closing), ZERO)

    def _check_sign(self, booked: Booked) -> None:
        """After a fill of ours: the position may have come to zero, never beyond."""
        if self.held(booked.order.symbol) * booked.order.position_side.sign < 0:
            self._broken(f"{booked.order.client_order_id} sold more {booked.order.symbol} than was held")

    def _broken(self, what: str) -> None:
        self.violations.append(what)
        raise AssertionError(what)

    def _book(self, order: Order, *, ours: bool) -> Booked:
        self._count += 1
        booked = Booked(order, f"venue-{self._count}", self.now(), ours)
        self._booked[order.client_order_id] = self._works[order.client_order_id] = booked
        return booked

    def _find(self, order: str | Order) -> Booked:
        return self._booked[order if isinstance(order, str) else order.client_order_id]

    def _end(self, booked: Booked, status: OrderStatus) -> ExecutionReport:
        booked.status = status
        self._leaves_work(booked)
        return self._tell(booked)

    def _leaves_work(self, booked: Booked) -> None:
        """Orders that work are kept apart, so that a long run does not go through its whole history at each look."""
        if not booked.live:
            self._works.pop(booked.order.client_order_id, None)

    def _tell(self, booked: Booked) -> ExecutionReport:
        booked.at = self.now()
        report = booked.report()
        self.updates.append(report)
        return report

    def _execute(self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal, booked: Booked | None) -> Fill:
        self._executed = number = self._executed + 1
        fill = Fill(
            fill_id=f"execution-{number}",
            symbol=symbol,
            side=side,
            qty=qty,
            price=price,
            at=self.now(),
            client_order_id=booked.order.client_order_id if booked else None,
            broker_order_id=booked.broker_order_id if booked else f"by-hand-{number}",
        )
        self.executions.append(fill)
        self._move(symbol, side, qty, price)
        return fill

    @exactly
    def _move(self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal) -> None:
        held, entry = self._held.get(symbol, (ZERO, ZERO))
        change = qty if side is OrderSide.BUY else -qty
        now = held + change
        if held * change >= 0 and now != 0:
            value = EXACT.add(EXACT.multiply(abs(held), entry), EXACT.multiply(qty, price))
            entry = rounded(EXACT.divide(value, abs(now))).normalize(EXACT)
        elif held * now < 0:
            entry = price
        self._held[symbol] = (now, entry if now else ZERO)

    @exactly
    def _position(self, symbol: str) -> BrokerPosition:
        qty, entry = self._held[symbol]
        side = Side.LONG if qty > 0 else Side.SHORT
        return BrokerPosition(
            symbol=symbol,
            side=side,
            qty=abs(qty),
            avg_entry_price=entry,
            qty_available=self._free(symbol, side),
            current_price=self.prices.get(symbol),
        )


def _with_status(report: ExecutionReport, status: OrderStatus) -> ExecutionReport:
    return replace(report, status=status)
