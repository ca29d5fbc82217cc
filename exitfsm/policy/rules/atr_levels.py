"""Target and stop in multiples of the average true range."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from exitfsm.policy.prices import Level, pct_of
from exitfsm.policy.rule import Held, Rule
from exitfsm.policy.rules import profit_taking, stop_loss
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import EXACT, Bar, ExitType, Side

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy


class AtrLevels(Section, frozen=True):
    """Target and stop in multiples of the average true range, which is frozen and recorded at the entry.

    Where no usable range is known at the entry, the fixed stop and target apply instead.
    """

    enabled: Annotated[bool, Spec("whether the rule is on; its levels replace the fixed ones")] = False
    period: Annotated[int, Spec("bars in the average", ge=1, le=1000)] = 14
    target_multiple: Annotated[Decimal, Spec("target distance in average true ranges", gt=0, le=1000)] = Decimal("3.0")
    stop_multiple: Annotated[Decimal, Spec("stop distance in average true ranges", gt=0, le=1000)] = Decimal("1.5")


class AtrLevelsRule(Rule[AtrLevels]):
    """Levels as far from the entry as the market moves. Without a usable range they degrade to the fixed ones.

    So they do where the fixed stop is switched off: never to no stop.
    """

    name = "atr_levels"
    section = AtrLevels
    reason = ExitType.STOP_LOSS
    stands_in_for = (profit_taking.RULE.name, stop_loss.RULE.name)

    def target(self, p: Held, at: datetime) -> Level | None:
        atr = _usable(p)
        if atr is None:
            return None
        distance = EXACT.multiply(atr, p.policy.atr_levels.target_multiple)
        price = EXACT.fma(distance, p.side.sign, p.entry_price)
        return Level(price, profit_taking.RULE.reason, pct_of(distance, p.entry_price))

    def entry_stop(self, p: Held) -> Level | None:
        atr = _usable(p)
        if atr is None:
            return stop_loss.RULE.entry_stop(p)
        distance = EXACT.multiply(atr, p.policy.atr_levels.stop_multiple)
        price = EXACT.fma(distance, -p.side.sign, p.entry_price)
        return Level(price, self.reason, pct_of(distance, p.entry_price))

    def bars_before_entry(self, policy: ExitPolicy) -> int:
        return policy.atr_levels.period + 1 if policy.atr_levels.enabled else 0

    def not_on_record(self, p: Held, *, watched: bool) -> str:
        return "an average true range at the entry, so the fixed levels apply" if p.atr is None else ""


def _usable(p: Held) -> Decimal | None:
    """The range of the entry where its levels are real prices; None when the fixed levels must serve."""
    atr, settings = p.atr, p.policy.atr_levels
    if atr is None or not atr.is_finite() or atr <= 0:
        return None
    widest = settings.stop_multiple if p.side is Side.LONG else settings.target_multiple
    return atr if p.entry_price > EXACT.multiply(atr, widest) else None


def average_true_range(bars: Sequence[Bar], period: int) -> Decimal | None:
    """Mean true range of the last `period` bars, to nine decimals; None when there are fewer than `period` + 1.

    The true range of a bar is the largest of high - low and the distances of high and low from the close before it.
    """
    if len(bars) <= period:
        return None
    ranges = []
    for before, bar in pairwise(bars[-period - 1 :]):
        top, bottom = max(bar.high, before.close), min(bar.low, before.close)
        ranges.append(EXACT.subtract(top, bottom))
    return EXACT.divide(reduce(EXACT.add, ranges), period).quantize(Decimal("0.000000001"), context=EXACT)


def range_at_entry(policy: ExitPolicy, bars: Sequence[Bar]) -> Decimal | None:
    """The average true range that a policy wants at an entry at the close of the last of these bars.

    None where it wants none, or the bars are too few.
    """
    return average_true_range(bars, policy.atr_levels.period) if policy.atr_levels.enabled else None


def same_range(policy: ExitPolicy, other: ExitPolicy) -> bool:
    """True where a range that was recorded for one policy serves the other."""
    return policy.atr_levels == other.atr_levels


RULE = AtrLevelsRule()
