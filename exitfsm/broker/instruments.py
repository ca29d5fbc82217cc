"""What the venue accepts for each symbol: asked of the broker once, and anew after a refusal that names it.

Rules of this room: what is known lies in the capabilities, where deciding looks it up. Where the broker tells nothing
of a symbol, the rules of its class count; a refusal then teaches what it can: a coarser step, a quantity or a value
that is too little. Nothing learned makes an order smaller by more than a hundredth: the rest would be left behind.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from enum import Enum

import msgspec
from msgspec.structs import replace

from exitfsm.broker.calls import BrokerCalls
from exitfsm.clocks import SteadyTime
from exitfsm.errors import BrokerError
from exitfsm.kinds import AlarmKind
from exitfsm.outside import log
from exitfsm.ports import AssetRules, Instrument
from exitfsm.values import (
    EXACT,
    HUNDRED,
    ZERO,
    ExecutionReport,
    Order,
    OrderStatus,
    OrderType,
    floor_to,
    plain,
    symbol_key,
)

#: How soon a symbol is asked about again that the broker could not tell of.
RETRY_S = 60.0
#: An order that was refused for too little is sent again after that time, then after twice as long, and so on to this.
WAIT_MAX_S = 3600.0
#: So often it is asked in a row: the form of a position's ids is fixed when it is opened.
TRIES = 2


class About(Enum):
    """What a refusal is about, as far as an instrument's rules are concerned."""

    PRICE = "the price"
    VALUE = "the value"
    STEP = "the quantity"
    LEAST = "the quantity, which is too little"


#: What a person can do.
_DECLARE = "declare what it takes: Broker.instrument(symbol)"
#: The words of refusals, the first that is found counts: a kind or a text of the venue, in lower case.
_WORDS: tuple[tuple[re.Pattern[str], About], ...] = (
    (
        re.compile(r"price.?filter|\btick\b|tick.?size|price (?:increment|precision)|bad_price|invalid price"),
        About.PRICE,
    ),
    (re.compile(r"notional|min.?value|order value|cost basis|min.?cost"), About.VALUE),
    (
        re.compile(
            r"min(?:imum)?[ _.-]?(?:order|trade|trading)?[ _.-]?(?:qty|quantity|size|amount|lot)\b"
            r"|(?:qty|quantity|size|amount|volume)[^.;]* too (?:small|low|little)\b"
            r"|(?:qty|quantity|size|amount|volume)[^.;]* (?:less than|below|under|smaller than) [^.;]*min"
        ),
        About.LEAST,
    ),
    (re.compile(r"lot.?size|step.?size|qty.?step|multiple of|(?:quantity|amount|qty) precision"), About.STEP),
)

#: A refusal of too much is none of too little.
_TOO_MUCH = re.compile(r"\bmax|exceed|too (?:large|big|high)|no (?:larger|more) than|no larger")


class Refused(msgspec.Struct, frozen=True):
    """What an order was worth that the venue would not take; what is worth no more waits so long, until then."""

    value: Decimal = ZERO
    wait_s: float = RETRY_S / 2
    until: float = 0.0

    def again(self, value: Decimal, monotonic: float) -> Refused:
        """The same after one more: the wait is twice as long."""
        wait_s = min(2 * self.wait_s, WAIT_MAX_S)
        return Refused(value, wait_s, monotonic + wait_s)


class Learned(msgspec.Struct, frozen=True):
    """What was learned: its alarm, with no text where a person has heard of it; and whether the order waits."""

    kind: str
    text: str
    waits: bool = False


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
    """The rules of symbols. They are kept in the capabilities of `calls`.

    Args:
        calls, time: the broker, and when it is.
        alarm: raises an alarm of a position: its id, the alarm's kind and text.
    """

    def __init__(self, calls: BrokerCalls, time: SteadyTime, alarm: Callable[[str, str, str], Awaitable[None]]) -> None:
        self._calls, self._time, self._alarm = calls, time, alarm
        self._known = calls.capabilities.instruments
        #: When each symbol is to be asked about again, in monotonic seconds; None for one that was answered.
        self._asked: dict[str, float | None] = {}
        self._reads: dict[str, asyncio.Task[None]] = {}
        #: The newest order of each symbol that was worth too little, by the words of its refusal.
        self._refused: dict[str, Refused] = {}
        #: The order of each symbol that waits until it is worth more, of which a person has heard.
        self._notified: dict[str, str] = {}

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
        for _ in range(TRIES):
            try:
                found = await self._calls.instrument(symbol)
            except BrokerError as error:
                log.warning("instrument_unknown symbol=%s error=%s", symbol, error)
                self._asked[symbol] = self._time.monotonic() + RETRY_S
                continue
            self._asked[symbol] = None
            if found is not None:
                self._known[symbol_key(symbol)] = found
            return

    async def hold_back(
        self,
        position_id: str,
        order: Order,
        price: Decimal | None,
        report: ExecutionReport | None = None,
        whole: Decimal = ZERO,
    ) -> bool:
        """True while an order is worth too little to be sent, before it or after this answer; a person hears of it.

        `whole`: what the position was, of which the order may be a remainder.
        """
        learned = self._too_small(order, price) if report is None else await self._heard(order, report, price, whole)
        if learned is not None and learned.text:
            await self._alarm(position_id, learned.kind, learned.text)
        return learned is not None and learned.waits

    def _too_small(self, order: Order, price: Decimal | None) -> Learned | None:
        """That an order is worth too little to be sent at this price; None where it is not known to be."""
        price = order.limit_price or price
        if price is None:
            return None
        rules, refused = self._known.get(order.symbol), self._refused.get(order.symbol, Refused())
        value = _value(rules, order.qty, price)
        least = rules.value_min if rules is not None else ZERO
        if value < least:
            why = f"the venue takes {plain(least)} at least"
        elif value <= refused.value and self._time.monotonic() < refused.until:
            why = f"the venue refused {plain(refused.value)} as too little"
        else:
            return None
        what = f"{plain(order.qty)} {order.symbol} is worth {plain(value)}, and {why}: it waits until it is worth more"
        is_notified = self._notified.get(order.symbol) == order.client_order_id
        self._notified[order.symbol] = order.client_order_id
        return Learned(kind=AlarmKind.VALUE_TOO_SMALL, text="" if is_notified else what, waits=True)

    async def _heard(
        self, order: Order, report: ExecutionReport, price: Decimal | None, whole: Decimal
    ) -> Learned | None:
        """Learn from the answer to an order: what a person should hear of it, and whether the order waits."""
        if report.status is not OrderStatus.REJECTED:
            self._refused.pop(order.symbol, None)
            return None
        about = subject_of(report.refusal, report.text)
        if about is None:
            return None
        before = self._known.get(order.symbol)
        await self.ask(order.symbol, anew=True)
        if about is About.VALUE:
            return self._value_refused(order, report, price)
        if self._known.get(order.symbol) != before:
            return None
        if about is About.PRICE:
            return Learned(kind=AlarmKind.PRICE_REFUSED, text=self._limit_refused(order))
        if about is About.LEAST or EXACT.multiply(order.qty, HUNDRED) <= whole:
            return self._least_refused(order)
        return Learned(kind=AlarmKind.QUANTITY_REFUSED, text=self._step_refused(order))

    def _least_refused(self, order: Order) -> Learned:
        """So little is not taken: for this run it is a residue, which ends a position and adds to the next purchase."""
        rules = self._calls.capabilities.rules(order.symbol)
        known = self._known.get(order.symbol) or _instrument_of(rules)
        self._known[order.symbol] = replace(known, qty_min=max(rules.qty_min, EXACT.next_plus(order.qty)))
        text = f"the venue refused {plain(order.qty)} of {order.symbol} as too little: it is left, {_DECLARE}"
        return Learned(kind=AlarmKind.QUANTITY_REFUSED, text=text)

    def _limit_refused(self, order: Order) -> str:
        limit = order.limit_price
        return f"the venue refused the limit {plain(limit)} of {order.symbol}: {_DECLARE}" if limit is not None else ""

    def _step_refused(self, order: Order) -> str:
        rules, said = self._calls.capabilities.rules(order.symbol), f"{plain(order.qty)} of {order.symbol} by its step"
        step = coarser(order.qty, rules)
        if step is None:
            return f"the venue refused {said}: {_DECLARE}"
        known = self._known.get(order.symbol) or _instrument_of(rules)
        self._known[order.symbol] = replace(known, qty_step=step)
        less = plain(floor_to(order.qty, step))
        return f"the venue refused {said}; {less} is tried next, and what is below {plain(step)} is left: {_DECLARE}"

    def _value_refused(self, order: Order, report: ExecutionReport, price: Decimal | None) -> Learned | None:
        if price is None or order.order_type is OrderType.LIMIT:
            return None  # what it was worth is not known, or a market order is to follow
        worth = _value(self._known.get(order.symbol), order.qty, price)
        # What a refusal meant is guessed from its words: no exit waits for ever on that, it is sent again.
        before = self._refused.get(order.symbol, Refused())
        self._refused[order.symbol] = before.again(worth, self._time.monotonic())
        learned = self._too_small(order, price)
        return replace(learned, waits=report.refused_at_submit) if learned is not None else None

    async def close(self) -> None:
        """Give up the reads that are under way."""
        reads = list(self._reads.values())
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


def _value(rules: Instrument | None, qty: Decimal, price: Decimal) -> Decimal:
    return rules.value(qty, price) if rules is not None else EXACT.multiply(qty, price)


def _instrument_of(rules: AssetRules) -> Instrument:
    """The rules of a class as those of one symbol. Of its hours they say nothing: its name says more."""
    return msgspec.convert(msgspec.structs.asdict(rules) | {"always_open": None}, Instrument)


__all__ = ["About", "Instruments", "Learned", "coarser", "subject_of"]
