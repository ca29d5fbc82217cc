"""What makes a position exit: the rules with their settings, and the exact prices they compile to.

Rules of this room: settings are data (they are stored inside events, so a field may be added with a default but never
removed, renamed or given another default), levels are pure functions of them, and every level is exact: entry ·
(100 ± pct) / 100 is computed without rounding, so "at the threshold" means exactly at it. Long and short are mirror
images everywhere.

Each field carries its own documentation and bounds in a `Spec`; the configuration reader, the JSON Schema and the
reference page are made from these, so that a setting is described in one place only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache, reduce
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import msgspec

from exitfsm.values import (
    EXACT,
    HUNDRED,
    PRICE_MAX,
    Bar,
    EvaluateOn,
    ExitType,
    OrderType,
    Side,
    TimeInForce,
    as_average,
    plain,
)


@dataclass(frozen=True)
class Spec:
    """Documentation and bounds of one setting: greater than `gt`, at least `ge`, at most `le`, below `lt`."""

    doc: str
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Base of the policy's sections. Unknown fields of a newer writer are ignored when read back."""


class ProfitTaking(Section, frozen=True):
    """Take the profit at a fixed percentage above the entry (below it for a short)."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = True
    threshold_pct: Annotated[Decimal, Spec("profit in percent of the entry price at which to exit", gt=0, le=1000)] = (
        Decimal("2.0")
    )
    order_type: Annotated[
        OrderType, Spec("`market`, or `limit` at the target (escalated to market when it does not fill)")
    ] = OrderType.MARKET
    time_in_force: Annotated[TimeInForce, Spec("how long the venue keeps the order")] = TimeInForce.DAY


class StopLoss(Section, frozen=True):
    """Stop the loss at a fixed percentage below the entry (above it for a short). The order is always market."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = True
    threshold_pct: Annotated[Decimal, Spec("loss in percent of the entry price at which to exit", gt=0, lt=100)] = (
        Decimal("1.0")
    )
    order_type: Annotated[Literal["market"], Spec("only `market`: a stop that rests is no stop")] = "market"
    time_in_force: Annotated[TimeInForce, Spec("how long the venue keeps the order")] = TimeInForce.DAY


class TrailingStop(Section, frozen=True):
    """A stop that follows the best price at a distance, once the profit has reached the activation."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    activation_pct: Annotated[
        Decimal, Spec("profit in percent of the entry price at which it starts", ge=0, le=1000)
    ] = Decimal("1.0")
    trail_pct: Annotated[Decimal, Spec("distance from the best price, in percent of that price", gt=0, lt=100)] = (
        Decimal("1.0")
    )
    step_pct: Annotated[
        Decimal, Spec("smallest move of the stop worth recording, in percent of the stop; 0 records each", ge=0, lt=100)
    ] = Decimal("0.1")


class AtrLevels(Section, frozen=True):
    """Target and stop in multiples of the average true range, which is frozen and recorded at the entry.

    Where no usable range is known at the entry, the fixed stop and target apply instead.
    """

    enabled: Annotated[bool, Spec("whether the rule is on; its levels replace the fixed ones")] = False
    period: Annotated[int, Spec("bars in the average", ge=1, le=1000)] = 14
    target_multiple: Annotated[Decimal, Spec("target distance in average true ranges", gt=0, le=1000)] = Decimal("3.0")
    stop_multiple: Annotated[Decimal, Spec("stop distance in average true ranges", gt=0, le=1000)] = Decimal("1.5")


class BreakEven(Section, frozen=True):
    """Move the stop to the entry once the profit has reached the activation."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    activation_pct: Annotated[Decimal, Spec("profit in percent at which the stop moves", gt=0, le=1000)] = Decimal(
        "1.0"
    )
    offset_pct: Annotated[Decimal, Spec("where the stop goes, in percent beyond the entry", ge=0, le=1000)] = Decimal(
        "0"
    )


class TimeLimit(Section, frozen=True):
    """Exit when the position has been held for so long."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    max_seconds: Annotated[int, Spec("longest time to hold, in seconds", gt=0, le=10**9)] = 86_400


class EndOfSession(Section, frozen=True):
    """Exit before the market closes. Has no effect where the market never closes."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    minutes_before_close: Annotated[int, Spec("minutes before the close at which to exit", ge=0, le=1440)] = 5


class LadderStep(Section, frozen=True):
    """From `after_seconds` on the profit target is `threshold_pct`."""

    after_seconds: Annotated[int, Spec("seconds since the entry", ge=0, le=10**9)]
    threshold_pct: Annotated[Decimal, Spec("profit target in percent from then on", ge=0, le=1000)]


class TargetLadder(Section, frozen=True):
    """A profit target that comes down the longer the position is held. Before the first step the fixed target holds."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    steps: Annotated[tuple[LadderStep, ...], Spec("steps in rising order of `after_seconds`")] = ()


class CustomRule(Section, frozen=True):
    """A rule of your own: a function of `(position, bar)` that returns a reason or None, found by name and version."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    name: Annotated[str, Spec("name under which the function is registered")] = ""
    version: Annotated[str, Spec("version of the function; recorded with each verdict")] = "1"


class PartialFills(Section, frozen=True):
    """What follows when an exit order ended with quantity left."""

    resubmit_delay_seconds: Annotated[int, Spec("wait before the next attempt, in seconds", ge=0, le=86_400)] = 30
    max_resubmit_attempts: Annotated[int, Spec("most further attempts after the first", ge=0, le=100)] = 3


class PriceGuard(Section, frozen=True):
    """Refuses prices that cannot be true, so that a split or a bad print stops nobody out."""

    enabled: Annotated[bool, Spec("whether the guard is on")] = True
    max_jump_ratio: Annotated[
        Decimal, Spec("largest believable ratio between an accepted price and the next, either way", gt=1, le=1000)
    ] = Decimal("1.3")
    max_age_seconds: Annotated[
        int, Spec("oldest bar that may trigger, in seconds (live only: a simulation has no age)", gt=0, le=10**9)
    ] = 300


class ExitPolicy(Section, frozen=True):
    """All the rules of one position. The defaults are the bot's: +2 %, -1 %, market, day, 30 s, 3 times, 300 s."""

    enabled: Annotated[bool, Spec("false tracks and reports positions but triggers nothing")] = True
    evaluate_on: Annotated[
        EvaluateOn, Spec("`close`: the bar's close is the current price; `range`: its low and high count, stop first")
    ] = EvaluateOn.CLOSE
    profit_taking: ProfitTaking = ProfitTaking()
    stop_loss: StopLoss = StopLoss()
    trailing_stop: TrailingStop = TrailingStop()
    atr_levels: AtrLevels = AtrLevels()
    break_even: BreakEven = BreakEven()
    time_limit: TimeLimit = TimeLimit()
    end_of_session: EndOfSession = EndOfSession()
    target_ladder: TargetLadder = TargetLadder()
    custom_rule: CustomRule = CustomRule()
    partial_fills: PartialFills = PartialFills()
    exit_cooldown_seconds: Annotated[
        int, Spec("seconds after an exit during which the symbol may not be entered again", ge=0, le=10**9)
    ] = 300
    price_guard: PriceGuard = PriceGuard()

    def digest(self) -> str:
        """Short fingerprint of all settings: equal policies have equal digests on any machine."""
        return hashlib.sha256(msgspec.json.encode(_canonical(self), order="deterministic")).hexdigest()[:12]


def _canonical(value: object) -> object:
    """A setting as plain data in which equal numbers look equal (1 and 1.0)."""
    if isinstance(value, msgspec.Struct):
        return {name: _canonical(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_canonical(item) for item in value]
    return plain(value) if isinstance(value, Decimal) else value


def typed(policy: ExitPolicy) -> ExitPolicy:
    """The same settings, each of its declared type: a struct made in Python takes `"close"` and 1.5 as they are.

    Raises:
        ValueError: a setting is of another kind altogether.
    """
    try:
        return _decoded(msgspec.json.encode(policy))
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"not an exit policy: {error}") from None


@lru_cache(maxsize=256)
def _decoded(settings: bytes) -> ExitPolicy:
    """One object for equal settings, however many positions have them."""
    return msgspec.json.decode(settings, type=ExitPolicy)


class Level(msgspec.Struct, frozen=True, gc=False):
    """One price that ends the position when it is reached, the rule it belongs to, and the percentage it stands for."""

    price: Decimal
    rule: ExitType
    threshold_pct: Decimal


def away(entry: Decimal, pct: Decimal, sign: int) -> Decimal:
    """The price `pct` percent from `entry`, upward for `sign` +1 and downward for -1; exact."""
    part = EXACT.add(HUNDRED, pct) if sign > 0 else EXACT.subtract(HUNDRED, pct)
    return EXACT.multiply(entry, part).scaleb(-2, EXACT)


def usable_atr(policy: ExitPolicy, side: Side, entry: Decimal, atr: Decimal | None) -> Decimal | None:
    """`atr` when the rule is on and its levels are real prices; None when the fixed levels must serve."""
    if not policy.atr_levels.enabled or atr is None or not atr.is_finite() or atr <= 0:
        return None
    widest = policy.atr_levels.stop_multiple if side is Side.LONG else policy.atr_levels.target_multiple
    return atr if entry > EXACT.multiply(atr, widest) else None


def average_true_range(bars: Sequence[Bar], period: int) -> Decimal | None:
    """Mean true range of the last `period` bars; None when there are fewer than `period` + 1.

    The true range of a bar is the largest of high - low and the distances of high and low from the close before it.
    """
    if len(bars) <= period:
        return None
    ranges = []
    for before, bar in pairwise(bars[-period - 1 :]):
        top, bottom = max(bar.high, before.close), min(bar.low, before.close)
        ranges.append(EXACT.subtract(top, bottom))
    return as_average(EXACT.divide(reduce(EXACT.add, ranges), period), nine_from=-3)


def target_level(policy: ExitPolicy, side: Side, entry: Decimal, atr: Decimal | None, held_s: float) -> Level | None:
    """The profit target after `held_s` seconds; None when no rule sets one."""
    if policy.target_ladder.enabled:
        due = [s for s in policy.target_ladder.steps if s.after_seconds <= held_s]
        if due:
            pct = due[-1].threshold_pct
            return Level(away(entry, pct, side.sign), ExitType.PROFIT_TAKE, pct)
    usable = usable_atr(policy, side, entry, atr)
    if usable is not None:
        distance = EXACT.multiply(usable, policy.atr_levels.target_multiple)
        return Level(EXACT.fma(distance, side.sign, entry), ExitType.PROFIT_TAKE, _pct_of(distance, entry))
    if policy.profit_taking.enabled:
        pct = policy.profit_taking.threshold_pct
        return Level(away(entry, pct, side.sign), ExitType.PROFIT_TAKE, pct)
    return None


def next_ladder_step_s(policy: ExitPolicy, held_s: float) -> int | None:
    """Seconds since the entry at which the target of a ladder that is on next changes; None when it does not."""
    return next((s.after_seconds for s in policy.target_ladder.steps if s.after_seconds > held_s), None)


def fixed_stop(policy: ExitPolicy, side: Side, entry: Decimal, atr: Decimal | None) -> Level | None:
    """The stop that stands from the entry on: by range multiples where usable, else fixed; None when switched off.

    A range rule without a usable range degrades to the fixed stop even where that is switched off: never to no stop.
    """
    usable = usable_atr(policy, side, entry, atr)
    if usable is not None:
        distance = EXACT.multiply(usable, policy.atr_levels.stop_multiple)
        return Level(EXACT.fma(distance, -side.sign, entry), ExitType.STOP_LOSS, _pct_of(distance, entry))
    if policy.stop_loss.enabled or policy.atr_levels.enabled:
        pct = policy.stop_loss.threshold_pct
        return Level(away(entry, pct, -side.sign), ExitType.STOP_LOSS, pct)
    return None


def break_even_stop(policy: ExitPolicy, side: Side, entry: Decimal, best: Decimal) -> Decimal | None:
    """Where the break-even rule puts the stop when the best price is `best`; None when it does not apply yet."""
    rule = policy.break_even
    if not rule.enabled or not reached(best, away(entry, rule.activation_pct, side.sign), side.sign):
        return None
    return away(entry, rule.offset_pct, side.sign)


def trailing_stop(
    policy: ExitPolicy, side: Side, entry: Decimal, best: Decimal, standing: Decimal | None
) -> Decimal | None:
    """Where the trailing rule puts the stop when the best price is `best`; None when it does not move.

    Args:
        standing: the trailing stop recorded last, or None before the activation.
    """
    rule = policy.trailing_stop
    if not rule.enabled:
        return None
    stop = away(best, rule.trail_pct, -side.sign)
    if standing is None:
        return stop if reached(best, away(entry, rule.activation_pct, side.sign), side.sign) else None
    least = away(standing, rule.step_pct, side.sign)
    return stop if stop != standing and reached(stop, least, side.sign) else None


def reached(price: Decimal, level: Decimal, sign: int) -> bool:
    """True when `price` is at or beyond `level` in the direction of `sign` (+1 up, -1 down)."""
    return price >= level if sign > 0 else price <= level


class Fault(NamedTuple):
    """Why a price is not believed, and the price itself as text."""

    reason: str
    price: str


#: Reasons that concern the order of bars; a feed that repeats itself would otherwise open and close a run at every bar.
ORDER_FAULTS = frozenset({"already_seen", "out_of_order"})
#: A bar of the present that is dated before the position's entry: one of the two was dated by a clock that is wrong.
BEFORE_ENTRY = "before_entry"
#: Reasons that leave a position without a price to watch.
PRICE_FAULTS = frozenset({"not_finite", "not_positive", "high_below_low", "not_tradable", "stale", "in_the_future"})
#: A bar that is dated further ahead of its arrival is none: once it were believed, all that come after it would be old.
AHEAD_MAX = timedelta(days=1)
#: What is within a ratio that is made shorter by this on floats is within the ratio itself.
_SHORTER = 1 - 1e-9


def bar_fault(
    bar: Bar,
    guard: PriceGuard,
    *,
    reference: Decimal | None,
    previous_at: datetime | None,
    received_at: datetime | None = None,
    on_range: bool = False,
) -> Fault | None:
    """Why `bar` may decide nothing; None when it may.

    Args:
        reference: the last accepted price of the symbol, None when there is none yet.
        previous_at: timestamp of the last accepted bar.
        received_at: when the bar arrived, None where age means nothing (simulation).
        on_range: low and high decide too, so that they must be believable as well.
    """
    if previous_at is not None and bar.timestamp == previous_at:
        return Fault("already_seen", str(bar.close))
    if previous_at is not None and bar.timestamp < previous_at and not is_ahead(previous_at, received_at, guard):
        return Fault("out_of_order", str(bar.close))
    if not bar.floor > 0:  # NaN when unsound: say which price and why
        prices = (bar.open, bar.high, bar.low, bar.close)
        for price in prices:
            if not price.is_finite():
                return Fault("not_finite", str(price))
            if price <= 0:
                return Fault("not_positive", str(price))
        if bar.high < bar.low:
            return Fault("high_below_low", f"{bar.high} < {bar.low}")
        top = max(prices)
        return Fault("not_tradable", plain(top if float(top) >= PRICE_MAX else min(prices)))
    if received_at is not None and (received_at - bar.timestamp).total_seconds() > guard.max_age_seconds:
        return Fault("stale", str(bar.close))
    if received_at is not None and bar.timestamp - received_at > AHEAD_MAX:
        return Fault("in_the_future", str(bar.close))
    if guard.enabled and reference is not None and not _near(bar, float(reference), float(guard.max_jump_ratio)):
        for price in (bar.close, bar.open, bar.low, bar.high) if on_range else (bar.close, bar.open):
            if is_jump(price, reference, guard.max_jump_ratio):
                return Fault("price_jump", str(price))
    return None


def _near(bar: Bar, reference: float, ratio: float) -> bool:
    """True when all prices of the bar are surely within `ratio` of the reference; False says nothing.

    On floats, with a reach so much shorter than the ratio that no rounding can make it longer.
    """
    reach = ratio * _SHORTER
    return reference < bar.floor * reach and bar.ceiling < reference * reach


def is_ahead(at: datetime, received_at: datetime | None, guard: PriceGuard) -> bool:
    """True when a time on record lies further ahead of the present than a bar may lie behind it.

    A clock was set back since, or was wrong then: bars of the present must not count as old beside it.
    """
    return received_at is not None and (at - received_at).total_seconds() > guard.max_age_seconds


def is_jump(price: Decimal, reference: Decimal, ratio: Decimal) -> bool:
    """True when the two prices are more than `ratio` apart, either way; exact."""
    return price > EXACT.multiply(reference, ratio) or EXACT.multiply(price, ratio) < reference


def _pct_of(distance: Decimal, entry: Decimal) -> Decimal:
    return EXACT.divide(distance.scaleb(2, EXACT), entry).quantize(Decimal("0.0001"), context=EXACT)
