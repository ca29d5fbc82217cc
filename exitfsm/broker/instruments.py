"""What the venue accepts for each symbol: asked of the broker once, and anew after a refusal that names it.

Rules of this room: what is known lies in the capabilities, where deciding looks it up. Where the broker tells nothing
of a symbol, the rules of its class count; a refusal then teaches what it can: a coarser step, or a value that is too
little. Nothing learned makes an order smaller by more than a hundredth: the rest would be left behind.
"""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from enum import Enum

import msgspec
from msgspec.structs import replace

from exitfsm.broker.calls import BrokerCalls
from exitfsm.clocks import SteadyTime
from exitfsm.errors import BrokerError
from exitfsm.outside import logger
from exitfsm.ports import AssetRules, Instrument
from exitfsm.values import EXACT, HUNDRED, ZERO, Order, OrderType, floor_to, plain, symbol_key

log = logger("exitfsm")

#: How soon a symbol is asked about again that the broker could not tell of.
RETRY_S = 60.0


class About(Enum):
    """What a refusal is about, as far as an instrument's rules are concerned."""

    PRICE = "the price"
    VALUE = "the value"
    STEP = "the quantity"


#: The words of refusals, the first that is found counts: a kind or a text of the venue, in lower case.
_WORDS: tuple[tuple[re.Pattern[str], About], ...] = (
    (
        re.compile(r"price.?filter|\btick\b|tick.?size|price (?:increment|precision)|bad_price|invalid price"),
        About.PRICE,
    ),
    (re.compile(r"notional|min.?value|order value|cost basis|min.?cost"), About.VALUE),
    (re.compile(r"lot.?size|step.?size|qty.?step|multiple of|(?:quantity|amount|qty) precision"), About.STEP),
)

#: A refusal of too much is none of too little.
_TOO_MUCH = re.compile(r"\bmax|exceed|too (?:large|big|high)|no (?:larger|more) than|no larger")


def subject_of(*said: str | None) -> About | None:
    """What a refusal is about, by its kind and text; None where it names none of an instrument's rules."""
    text = " ".join(part for part in said if part).lower()
    if _TOO_MUCH.search(text):
        return None
    return next((about for words, about in _WORDS if words.search(text)), None)


def coarser(qty: Decimal, rules: AssetRules) -> Decimal | None:
    """The next power of ten as a step, where the venue refuses a quantity by its step; None where too much is left."""
    exponent = qty.normalize().as_tuple().exponent
    assert isinstance(exponent, int)  # what is sent is finite
    step = max(Decimal(1).scaleb(exponent + 1), rules.qty_step)
    left = EXACT.subtract(qty, floor_to(qty, step))
    return step if left > ZERO and EXACT.multiply(left, HUNDRED) <= qty else None


class Instruments:
    """The rules of symbols. They are kept in the capabilities of `calls`."""

    def __init__(self, calls: BrokerCalls, time: SteadyTime) -> None:
        self._calls, self._time = calls, time
        self._known = calls.capabilities.instruments
        #: When each symbol is to be asked about again, in monotonic seconds; None for one that was answered.
        self._asked: dict[str, float | None] = {}
        self._reads: dict[str, asyncio.Task[None]] = {}
        #: What an order of each symbol was worth that the venue would not take.
        self._refused_value: dict[str, Decimal] = {}

    async def ask(self, symbol: str, *, anew: bool = False) -> None:
        """See to it that the broker was asked about a symbol; a failure is logged, and it is asked again later."""
        if not self._calls.has("instrument"):
            return
        if not anew and symbol in self._asked:
            again = self._asked[symbol]
            if again is None or self._time.monotonic() < again:
                return
        if symbol not in self._reads:
            task = self._reads[symbol] = asyncio.create_task(self._read(symbol), name="exitfsm-instrument")
            task.add_done_callback(lambda _: self._reads.pop(symbol, None))
        await asyncio.wait([self._reads[symbol]])

    async def _read(self, symbol: str) -> None:
        try:
            told = await self._calls.instrument(symbol)
        except BrokerError as error:
            log.warning("instrument_unknown symbol=%s error=%s", symbol, error)
            self._asked[symbol] = self._time.monotonic() + RETRY_S
            return
        self._asked[symbol] = None
        if told is not None:
            self._known[symbol_key(symbol)] = told

    def too_small(self, order: Order, price: Decimal | None) -> str | None:
        """Why an order is worth too little to be sent at this price; None where it is not known to be."""
        price = order.limit_price or price
        if price is None:
            return None
        rules = self._known.get(order.symbol)
        value = rules.value(order.qty, price) if rules is not None else EXACT.multiply(order.qty, price)
        refused, least = self._refused_value.get(order.symbol), rules.value_min if rules is not None else ZERO
        what = f"{plain(order.qty)} {order.symbol} is worth {plain(value)}"
        if value < least:
            return f"{what}, and the venue takes {plain(least)} at least"
        return f"{what}, and the venue refused {plain(refused)} as too little" if refused and value <= refused else None

    async def refused(self, order: Order, price: Decimal | None, *said: str | None) -> tuple[About | None, str]:
        """Learn from a definite refusal: what it is about, and what a person should hear of it."""
        about, symbol = subject_of(*said), order.symbol
        if about is None:
            return None, ""
        before = self._known.get(symbol)
        await self.ask(symbol, anew=True)
        if self._known.get(symbol) != before:
            return (about, "") if about is not About.VALUE else self._value_refused(order, price)
        if about is About.VALUE:
            return self._value_refused(order, price)
        declare = "declare what it takes: Broker.instrument(symbol)"
        if about is About.PRICE:
            limit = plain(order.limit_price) if order.limit_price is not None else "none"
            return about, f"the venue refused the limit {limit} of {symbol}: {declare}" if order.limit_price else ""
        rules = self._calls.capabilities.rules(symbol)
        step = coarser(order.qty, rules)
        if step is None:
            return about, f"the venue refused {plain(order.qty)} of {symbol} by its step: {declare}"
        self._known[symbol] = replace(_instrument_of(rules), qty_step=step)
        less = plain(floor_to(order.qty, step))
        return about, (
            f"the venue refused {plain(order.qty)} of {symbol} by its step; {less} is tried next, and what is below "
            f"{plain(step)} will be left: {declare}"
        )

    def _value_refused(self, order: Order, price: Decimal | None) -> tuple[About | None, str]:
        price = order.limit_price or price
        if price is None or order.order_type is OrderType.LIMIT:
            return None, ""  # what it was worth is not known, or a market order is to follow
        rules = self._known.get(order.symbol)
        worth = rules.value(order.qty, price) if rules is not None else EXACT.multiply(order.qty, price)
        self._refused_value[order.symbol] = max(worth, self._refused_value.get(order.symbol, ZERO))
        return About.VALUE, self.too_small(order, price) or ""

    def accepted(self, symbol: str) -> None:
        """The venue took an order: what was too little before is no bound any more."""
        self._refused_value.pop(symbol, None)

    async def close(self) -> None:
        """Give up the reads that are under way."""
        reads = list(self._reads.values())
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


def _instrument_of(rules: AssetRules) -> Instrument:
    """The rules of a class as those of one symbol."""
    return rules if isinstance(rules, Instrument) else msgspec.convert(msgspec.structs.asdict(rules), Instrument)


__all__ = ["About", "Instruments", "coarser", "subject_of"]
