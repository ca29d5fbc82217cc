"""What the outside must offer: a broker, bars, a clock, an event bus. Structural: your classes fit without subclassing.

A `Broker` also declares what it can do (`Capabilities`). What is not declared counts as the most careful assumption,
because every default here is what keeps money safe when nothing is known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextvars import ContextVar
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec
from msgspec.structs import replace

from exitfsm.order_ids import DEFAULT_FORM
from exitfsm.values import (
    EXACT,
    ZERO,
    Bar,
    BrokerPosition,
    ExecutionReport,
    Fill,
    Order,
    OrderStatus,
    OrderType,
    TimeInForce,
)

T = TypeVar("T")
#: A broker's or feed's method may be plain or async.
MaybeAsync: TypeAlias = T | Awaitable[T]
#: True in calls of a broker that an exit waits for. A broker that counts its requests keeps some for these alone.
EXIT_WAITS: ContextVar[bool] = ContextVar("exit_waits", default=False)


class IdMemory(StrEnum):
    """How long the broker refuses a client order id it has seen."""

    FOREVER = "forever"
    OPEN_ORDERS = "open_orders"
    NEVER = "never"


class AssetRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the venue accepts for one class of assets.

    Attributes:
        qty_step: quantities are whole multiples of it; 0 when any quantity goes.
        qty_min: smallest quantity that can be sold.
        price_tick: limit prices are whole multiples of it; 0 when any price goes. `price_tick_below_1` the same for
            prices below 1, where the venue has a finer grid there.
        order_types, times_in_force: what is accepted; the first of each is what to fall back to.
        fractional_times_in_force: what is accepted for quantities that are not whole.
        always_open: the market never closes; None, in an `Instrument` only, where that is not said.
    """

    qty_step: Decimal = ZERO
    qty_min: Decimal = ZERO
    price_tick: Decimal = Decimal("0.01")
    price_tick_below_1: Decimal = Decimal("0.0001")
    order_types: tuple[OrderType, ...] = (OrderType.MARKET, OrderType.LIMIT)
    times_in_force: tuple[TimeInForce, ...] = (TimeInForce.DAY, TimeInForce.GTC)
    fractional_times_in_force: tuple[TimeInForce, ...] = (TimeInForce.DAY,)
    always_open: bool | None = False

    def tick(self, price: Decimal) -> Decimal:
        """The price step at `price`."""
        return self.price_tick_below_1 if price < 1 else self.price_tick

    def accepted_time(self, wanted: TimeInForce, qty: Decimal) -> TimeInForce:
        """`wanted` where the venue takes it for this quantity, else what it does take."""
        accepted = self.times_in_force if qty == qty.to_integral_value() else self.fractional_times_in_force
        return wanted if wanted in accepted else accepted[0]

    def accepted_type(self, wanted: OrderType) -> OrderType:
        """`wanted` where the venue takes it, else what it does take."""
        return wanted if wanted in self.order_types else self.order_types[0]


class Instrument(AssetRules, frozen=True, kw_only=True):
    """What the venue accepts for one symbol; it goes before the rules of its class.

    What order types and times in force are not given are those of the class. Other defaults are no bound at all.

    Attributes:
        price_tick, price_tick_below_1: as in `AssetRules`; the second is the first where it is 0.
        value_min: least value of an order: quantity by price by `multiplier`. What is worth less waits until it
            is worth that much, with an alarm.
        multiplier: what one contract's price counts for.
        always_open: whether its market never closes; None where that is not said, so that its class or name says it.
        hedge: whether both of its sides are held at once, as in `Capabilities`; None where that is the account's.
        id_form: which client order ids are taken for it; empty for the broker's own, see `Capabilities`.
    """

    price_tick: Decimal = ZERO
    price_tick_below_1: Decimal = ZERO
    order_types: tuple[OrderType, ...] = ()
    times_in_force: tuple[TimeInForce, ...] = ()
    fractional_times_in_force: tuple[TimeInForce, ...] = ()
    always_open: bool | None = None
    value_min: Decimal = ZERO
    multiplier: Decimal = Decimal(1)
    id_form: str = ""
    hedge: bool | None = None

    def tick(self, price: Decimal) -> Decimal:
        """The price step at `price`."""
        return (self.price_tick_below_1 if price < 1 else ZERO) or self.price_tick

    def completed(self, rules: AssetRules) -> Instrument:
        """The same with what it leaves open by the rules of its class."""
        times, fractional = self.times_in_force, self.fractional_times_in_force
        return replace(
            self,
            order_types=self.order_types or rules.order_types,
            times_in_force=times or rules.times_in_force,
            fractional_times_in_force=fractional or times or rules.fractional_times_in_force,
            always_open=rules.always_open if self.always_open is None else self.always_open,
        )

    def value(self, qty: Decimal, price: Decimal) -> Decimal:
        """What an order is worth."""
        return EXACT.multiply(EXACT.multiply(qty, price), self.multiplier)


STOCKS = AssetRules()
CRYPTO = AssetRules(
    times_in_force=(TimeInForce.GTC, TimeInForce.IOC),
    fractional_times_in_force=(TimeInForce.GTC, TimeInForce.IOC),
    price_tick=ZERO,
    price_tick_below_1=ZERO,
    always_open=True,
)


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker declares about itself.

    Attributes:
        ids_refused: how long a repeated client order id is refused. Only `forever` allows sending an id again after
            the broker said it does not know it.
        lookup_sees_closed: look-up by client order id also finds orders that are over.
        reduce_only: the broker refuses an order that would sell more than is held.
        reserves: what a working order is to sell is taken from what is available: it refuses a second order for it.
        late_fills: an order may still fill after the broker reported it canceled.
        late_fill_window_s: seconds after a cancel in which such a fill can come; None when the broker does not say,
            and then no attempt follows a cancel by itself. 0 where late fills are impossible.
        hedge: the account is in hedge mode: a long and a short of one symbol are held side by side, and an order names
            the side that it closes (`Order.position_side`). Each side is a position of its own then. An `Instrument`
            may say otherwise of its symbol. Executions should say their side, too (`Fill.position_side`).
        queues_orders: an order sent while the market is closed is taken and works from the next open on; otherwise an
            exit waits for the session before it is sent.
        positions_lag_s: how many seconds what `positions` shows may be behind. Of what only reads say, nothing is
            concluded sooner.
        executions_late_s: how many seconds after a trade its execution may be listed. That none is listed says nothing
            sooner.
        stocks, crypto: what the venue accepts for each class of assets.
        instruments: what it accepts for single symbols, by symbol in our spelling; those that `Broker.instrument` tells
            are added.
        id_form: which client order ids it takes: `xf2` (32 characters of `[a-z0-9]`), `xf2-20` to `xf2-31` (so many
            characters), or `uuid`; see `exitfsm.order_ids`. It holds for what is opened from now on.
        status_words: its own words for an order's state, where the table of order words lacks them, and what each
            means: `{"FROZEN": OrderStatus.SUSPENDED}`. They go before the table.
    """

    ids_refused: IdMemory = IdMemory.NEVER
    lookup_sees_closed: bool = False
    reduce_only: bool = False
    reserves: bool = False
    late_fills: bool = True
    late_fill_window_s: int | None = None
    queues_orders: bool = False
    positions_lag_s: float = 10.0
    executions_late_s: float = 30.0
    stocks: AssetRules = STOCKS
    crypto: AssetRules = CRYPTO
    id_form: str = DEFAULT_FORM
    instruments: dict[str, Instrument] = {}
    status_words: dict[str, OrderStatus] = {}
    hedge: bool = False

    def rules(self, symbol: str) -> AssetRules:
        """The rules for a symbol: its own, or those of its class; a pair such as BTC/USD is crypto."""
        rules, instrument = self.class_rules(symbol), self.instruments.get(symbol)
        return instrument.completed(rules) if instrument is not None else rules

    def class_rules(self, symbol: str) -> AssetRules:
        """The rules for the class of a symbol."""
        return self.crypto if "/" in symbol else self.stocks

    def never_closes(self, symbol: str) -> bool | None:
        """Whether a symbol's market is always open, where its instrument says it; None where it does not."""
        instrument = self.instruments.get(symbol)
        return instrument.always_open if instrument is not None else None

    def holds_both(self, symbol: str) -> bool:
        """True where both sides of a symbol are held at once."""
        instrument = self.instruments.get(symbol)
        return self.hedge if instrument is None or instrument.hedge is None else instrument.hedge

    @property
    def may_hold_both(self) -> bool:
        """True where that is so of any symbol."""
        return self.hedge or any(one.hedge for one in self.instruments.values())

    def form(self, symbol: str) -> str:
        """The form of the client order ids for a symbol."""
        instrument = self.instruments.get(symbol)
        return (instrument.id_form if instrument is not None else "") or self.id_form


#: Nothing is known about the broker.
CAREFUL = Capabilities()


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The market's hours around a moment: `close` of the running session when open, `next_open` when closed."""

    is_open: bool
    close: datetime | None = None
    next_open: datetime | None = None


class Broker(Protocol):
    """Where orders go. Each method may be plain or `async`.

    `submit` returns the broker's first report of the order, or raises: `OrderRefused` for a definite no, `NotSent` when
    the request never left, anything else for "don't know". `order` returns None only when the broker says that it does
    not know the id; when it cannot be asked, it raises.
    """

    capabilities: Capabilities

    def positions(self) -> MaybeAsync[Sequence[BrokerPosition]]:
        """All open positions."""
        ...

    def submit(self, order: Order) -> MaybeAsync[ExecutionReport]:
        """Send one order, once."""
        ...

    def order(self, client_order_id: str) -> MaybeAsync[ExecutionReport | None]:
        """What the broker knows of this order; None when it does not know the id."""
        ...

    def open_orders(self) -> MaybeAsync[Sequence[ExecutionReport]]:
        """All working orders of the account, whoever sent them."""
        ...

    def cancel(self, client_order_id: str) -> MaybeAsync[None]:
        """Ask for a cancel; a return means asked, never done. Raises `OrderRefused` when it cannot be canceled.

        Where it takes them too, it is given by name what is known: `symbol`, and `broker_order_id` where one of several
        orders of the same id is meant: that one is canceled, and no other.
        """
        ...

    def fills(self, since: datetime) -> MaybeAsync[Sequence[Fill]]:
        """Executions of the account since a time, oldest first; where it takes a `symbol` by name, of that alone."""
        ...

    def session(self, symbol: str, at: datetime) -> MaybeAsync[Session]:
        """The market's hours for a symbol around a moment."""
        ...

    # A broker may also have a method `instrument(symbol)` that returns an `Instrument`, a mapping of its fields, or
    # None: it is asked once for each symbol that is held, and anew after a refusal that names what it says.
    #
    # And a method `order_ids(since)` that returns the client order ids of all orders sent to the account since a time,
    # whatever became of them: one such list answers for all positions of which no record is left.
    #
    # And a method `troubles()` that returns a sentence for each thing that keeps positions from being watched or exited
    # at the moment, and is seen by the broker only: each is an alarm when it begins.


class BarFeed(Protocol):
    """A source of bars, in time order for each symbol."""

    def bars(self) -> AsyncIterator[Bar] | Iterable[Bar]:
        """The bars, as they come."""
        ...


@runtime_checkable
class Clock(Protocol):
    """The only source of time in the shells. The core has none: time comes in with each message."""

    def now(self) -> datetime:
        """Aware UTC time, for records."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back, for waits."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let this much time pass."""
        ...


class EventBus(Protocol):
    """Where a bot's parts hear of things. Every subscriber gets every event."""

    def subscribe(self, handler: Callable[[Any], MaybeAsync[None]]) -> Callable[[], None]:
        """Call `handler` for each event; the returned function ends it."""
        ...

    def publish(self, event: Any) -> MaybeAsync[None]:
        """Give `event` to every subscriber."""
        ...
