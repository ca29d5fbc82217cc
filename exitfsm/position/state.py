"""The position itself, its name, and what is computed of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from exitfsm.lifecycle import State
from exitfsm.order_ids import FIRST_FORM
from exitfsm.policy import ExitPolicy
from exitfsm.position.order import NO_ORDER, ExitOrder
from exitfsm.values import EXACT, ZERO, Alarm, ExitType, OrderType, Side, rounded, utc


class Stops(msgspec.Struct, frozen=True, gc=False):
    """The stops that have moved: where they stand, the best price behind the newest, and the bar that moved it.

    `operator` is where a person has put the stop: it stands in for all but those that have moved since.
    """

    break_even: Decimal | None = None
    trail: Decimal | None = None
    best_price: Decimal | None = None
    moved_at: datetime | None = None
    operator: Decimal | None = None

    def is_only(self, price: Decimal) -> bool:
        """True where a person has put the stop at this price, and none has moved since."""
        return self.operator == price and self.trail is None and self.break_even is None

    def of(self, rule: ExitType) -> Decimal | None:
        """Where the stop of a rule stands; None where it has not moved."""
        if rule is ExitType.TRAILING_STOP:
            return self.trail
        if rule is ExitType.OPERATOR:
            return self.operator
        return self.break_even if rule is ExitType.BREAK_EVEN else None


class Exit(msgspec.Struct, frozen=True, gc=False):
    """Why a position is exited, since when and at which price, and what of the budget its attempts have spent.

    `leg` names the part that is sold, and `keep_qty` is what is kept: 0 where everything is to be sold.
    """

    reason: ExitType | None = None
    triggered_at: datetime | None = None
    trigger_price: Decimal | None = None
    budget_spent: int = 0
    keep_qty: Decimal = ZERO
    leg: str = ""


class Parts(msgspec.Struct, frozen=True, gc=False):
    """What of a position was sold in parts: of which quantity the parts are shares, and what they came to.

    Attributes:
        base_qty: what was held when the first part was decided; None before.
        done: the index of the highest target sold, from 1.
        orders: how many of the position's orders belong to parts that are sold.
    """

    base_qty: Decimal | None = None
    done: int = 0
    orders: int = 0


NO_STOPS = Stops()
NO_EXIT = Exit()
NO_PARTS = Parts()
_subtract = EXACT.subtract


class Position(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One position and its exit. Quantities are positive on both sides; `version` is the number of events folded.

    `orders` are its exit orders, the last one the current; `id_form` is how they are named. `refusing` names the run
    of refused prices under way. `own_policy`: its policy is its own, and the settings for all do not replace it.
    `sold_elsewhere` is what other hands have sold of it. `waiting_since` is when the current wait for the broker began.
    """

    position_id: str
    account: str
    symbol: str
    side: Side
    epoch: str
    qty: Decimal
    entry_price: Decimal
    opened_at: datetime
    policy: ExitPolicy
    own_policy: bool = False
    state: State = State.MONITORING
    version: int = 1
    atr: Decimal | None = None
    strategy_name: str = ""
    source: str = ""
    stops: Stops = NO_STOPS
    refusing: str | None = None
    exit: Exit = NO_EXIT
    parts: Parts = NO_PARTS
    orders: tuple[ExitOrder, ...] = ()
    id_form: str = FIRST_FORM
    sold_elsewhere: Decimal = ZERO
    waiting_since: datetime | None = None
    last_fill_at: datetime | None = None
    ended_at: datetime | None = None
    cooldown_until: datetime | None = None
    alarms: tuple[Alarm, ...] = ()

    # --- why it is exited ---------------------------------------------------------------------------------------------

    @property
    def trail_stop(self) -> Decimal | None:
        """The trailing stop, where it has moved."""
        return self.stops.trail

    @property
    def break_even_stop(self) -> Decimal | None:
        """The stop at break-even, where it has moved."""
        return self.stops.break_even

    @property
    def reason(self) -> ExitType | None:
        """Why it is exited; None while it is not."""
        return self.exit.reason

    @property
    def triggered_at(self) -> datetime | None:
        """When its exit was decided."""
        return self.exit.triggered_at

    @property
    def trigger_price(self) -> Decimal | None:
        """The price that decided its exit."""
        return self.exit.trigger_price

    @property
    def keep_qty(self) -> Decimal:
        """What the exit under way keeps; 0 where it sells everything, or none is under way."""
        return self.exit.keep_qty

    # --- the current order --------------------------------------------------------------------------------------------

    @property
    def order(self) -> ExitOrder:
        """The current exit order; `NO_ORDER` before there is one."""
        return self.orders[-1] if self.orders else NO_ORDER

    @property
    def client_order_id(self) -> str | None:
        """Our id of the current order; None before there is one."""
        return self.orders[-1].client_order_id if self.orders else None

    @property
    def attempt(self) -> int:
        """How many exit orders there have been."""
        return self.order.attempt

    @property
    def order_qty(self) -> Decimal:
        """What the current order is for."""
        return self.order.qty

    @property
    def order_type(self) -> OrderType:
        """The type of the current order."""
        return self.order.order_type

    @property
    def order_live(self) -> bool:
        """True while the current order may be working at the broker."""
        return self.orders[-1].live if self.orders else False

    @property
    def broker_order_id(self) -> str | None:
        """The broker's id of the current order."""
        return self.order.broker_order_id

    @property
    def filled_qty(self) -> Decimal:
        """What the current order has filled."""
        return self.orders[-1].filled_qty if self.orders else ZERO

    @property
    def leaves_qty(self) -> Decimal:
        """What the current order has still to fill."""
        order = self.order
        return EXACT.subtract(order.qty, order.filled_qty)

    @property
    def cancel_asked(self) -> bool:
        """True where the cancel of the current order is on record."""
        return self.order.cancel_asked

    @property
    def ended_how(self) -> str:
        """How the current order ended, as reported; empty while it has not."""
        return self.order.ended_how

    @property
    def next_attempt_at(self) -> datetime | None:
        """Before this no attempt follows the current order; None where none follows by itself."""
        return self.order.next_attempt_at

    # --- all its orders -----------------------------------------------------------------------------------------------

    def find(self, client_order_id: str) -> ExitOrder | None:
        """The order of this id, the current one or one before it; None for no order of this position."""
        for order in reversed(self.orders):
            if order.client_order_id == client_order_id:
                return order
        return None

    @property
    def last_refusal(self) -> str:
        """Class of the refusal with which the newest end of an order was reported; empty where it was none."""
        return next((o.refusal for o in reversed(self.orders) if o.refusal is not None), "")

    @property
    def refused_order(self) -> ExitOrder | None:
        """The newest order that the broker refused or rejected, and has not taken since; None where there is none."""
        waits = self.state is State.PENDING
        return next((o for o in reversed(self.orders) if o.refusal and (waits or not o.live)), None)

    @property
    def works_again(self) -> tuple[str, ...]:
        """Earlier orders that were refused, and work at the broker after all."""
        orders = self.orders
        return tuple([o.client_order_id for o in orders[:-1] if o.live]) if len(orders) > 1 else ()

    @property
    def live_orders(self) -> tuple[str, ...]:
        """Every exit order of the position that may be live: the current one, and earlier ones that work again."""
        live = (self.orders[-1].client_order_id,) if self.order_live else ()
        return (*live, *self.works_again)

    @property
    def corrected_orders(self) -> tuple[str, ...]:
        """The orders of which the broker has corrected executions."""
        return tuple([o.client_order_id for o in self.orders if o.corrected])

    @property
    def orders_in_question(self) -> tuple[str, ...]:
        """The orders whose record the broker is to be asked for: those that may be live, and those it has corrected."""
        live = self.live_orders
        return (*live, *(one for one in self.corrected_orders if one not in live))

    @property
    def broker_order_ids(self) -> dict[str, str]:
        """The broker's own id of each exit order of which it is known: ours, by the broker's."""
        return {o.broker_order_id: o.client_order_id for o in self.orders if o.broker_order_id is not None}

    # --- figures ------------------------------------------------------------------------------------------------------

    @property
    def sold_qty(self) -> Decimal:
        """What our own orders have sold so far."""
        orders = self.orders
        total = orders[-1].filled_qty if orders else ZERO
        for order in orders[:-1]:
            total = EXACT.add(total, order.filled_qty)
        return total

    @property
    def remaining_qty(self) -> Decimal:
        """What is still to sell, by the broker's own figures for our orders."""
        left = self.qty
        for order in self.orders:
            left = _subtract(left, order.filled_qty)
        return _subtract(left, self.sold_elsewhere)

    @property
    def avg_exit_price(self) -> Decimal | None:
        """Average price over all our exit orders; None where nothing was sold or the broker left a price out."""
        return self.average_of(self.orders)

    @staticmethod
    def average_of(orders: Sequence[ExitOrder]) -> Decimal | None:
        """Average price over some exit orders; None where they sold nothing or the broker left a price out."""
        fills = [(o.filled_qty, o.avg_fill_price) for o in orders if o.filled_qty]
        value = sold = ZERO
        for qty, price in fills:
            if price is None:
                return None
            value, sold = EXACT.add(value, EXACT.multiply(qty, price)), EXACT.add(sold, qty)
        if len(fills) < 2:
            return fills[0][1] if fills else None
        return rounded(EXACT.divide(value, sold)).normalize(EXACT)


def account_hash(account: str) -> str:
    """The account as it enters ids, events and logs: 12 hex digits of a SHA-256, never the number itself."""
    return hashlib.sha256(b"exitfsm account\0" + account.encode()).hexdigest()[:12]


def scope_mark(tag: str) -> str:
    """Five hex digits that stand for a part of an account in names and order ids; empty where all of it is meant."""
    return hashlib.sha256(b"exitfsm scope\0" + tag.encode()).hexdigest()[:5] if tag else ""


def part_of(account: str, mark: str) -> str:
    """The hash of an account, with the mark of the part of it that is meant."""
    return f"{account}-{mark}" if mark else account


def account_in(part: str) -> str:
    """The hash of the account of which this is all or a part."""
    return part.partition("-")[0]


def epoch_of(first_fill_at: datetime) -> str:
    """The epoch that a broker's first fill names: its UTC time, e.g. `20140605T081500Z`."""
    at = utc(first_fill_at)
    fraction = f".{at.microsecond:06d}" if at.microsecond else ""
    return f"{at:%Y%m%dT%H%M%S}{fraction}Z"


def entered_at(p: Position) -> datetime:
    """When a position began by the broker's clock: by its epoch, where our own clock was behind when it was opened."""
    try:
        named = datetime.fromisoformat(p.epoch) if p.epoch.endswith("Z") else p.opened_at
    except ValueError:
        return p.opened_at
    return max(named, p.opened_at)


def position_id(account: str, symbol: str, side: Side, epoch: str) -> str:
    """The name of a position, which is also its stream: `AAPL:long:20140605T081500Z:1f0c…` (account as its hash)."""
    return ":".join((symbol, side, epoch, account))


def symbol_in(position_id: str) -> str:
    """The symbol in the name of a position; it may hold a colon itself."""
    return position_id.rsplit(":", 3)[0]
