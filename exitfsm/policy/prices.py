"""Prices as levels: exact arithmetic of percentages.

Rules of this room: every level is exact. entry · (100 ± pct) / 100 is computed without rounding, so "at the threshold"
means exactly at it. Long and short are mirror images.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from exitfsm.values import EXACT, HUNDRED, ExitType

#: A price that a setting may name; `UNSET` where it names none, so that nothing of it is stored.
PriceSetting = Decimal | msgspec.UnsetType


class Level(msgspec.Struct, frozen=True, gc=False):
    """One price that ends the position when it is reached, why it then is exited, and the percentage it stands for.

    `section` names the rule where the reason alone does not.
    """

    price: Decimal
    rule: ExitType
    threshold_pct: Decimal
    section: str = ""

    @property
    def name(self) -> str:
        """What the level is called."""
        return self.section or str(self.rule)


def away(entry: Decimal, pct: Decimal, sign: int) -> Decimal:
    """The price `pct` percent from `entry`, upward for `sign` +1 and downward for -1; exact."""
    part = EXACT.add(HUNDRED, pct) if sign > 0 else EXACT.subtract(HUNDRED, pct)
    return EXACT.multiply(entry, part).scaleb(-2, EXACT)


def pct_of(distance: Decimal, entry: Decimal) -> Decimal:
    """A distance in percent of the entry price, to four decimals."""
    return EXACT.divide(distance.scaleb(2, EXACT), entry).quantize(Decimal("0.0001"), context=EXACT)


def level_at(entry: Decimal, price: PriceSetting, pct: Decimal, sign: int, rule: ExitType) -> Level:
    """The level of a rule: the price that is set, or else `pct` percent from the entry in the direction of `sign`."""
    if isinstance(price, Decimal):
        return Level(price, rule, pct_of(abs(EXACT.subtract(price, entry)), entry))
    return Level(away(entry, pct, sign), rule, pct)


def reached(price: Decimal, level: Decimal, sign: int) -> bool:
    """True when `price` is at or beyond `level` in the direction of `sign` (+1 up, -1 down)."""
    return price >= level if sign > 0 else price <= level
