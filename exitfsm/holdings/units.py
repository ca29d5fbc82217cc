"""Whether the unit of a holding changed: a split, a stock dividend, or an average in another unit than the price.

Value is conserved by a split: quantity times entry stays. Trades in between may lie before or after it, and value is
conserved by every placement; so the prices choose, and where none fits, that is an alarm and no trade.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal

import msgspec
from msgspec.structs import replace

from exitfsm.holdings.facts import Instrument, Watched
from exitfsm.holdings.trades import Trade, total
from exitfsm.values import EXACT, ZERO, BrokerPosition, exactly, tradable

#: A factor nearer to 1 is no change of the unit; a price may be so far from what the factor says.
FACTOR_MIN, PRICE_OFF_MAX = Decimal("0.02"), Decimal("0.03")
#: So far it may be where nothing was traded in between: then value says enough, and the price may have moved, too.
ALONE_OFF_MAX = Decimal("0.3")
#: Two averages of one thing differ by less.
AVERAGE_OFF_MAX = Decimal("0.1")
_VALUE_OFF_MAX = Decimal("0.01")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the unit by `factor`, after which the average is `entry`; it came before the trade at `before`."""

    factor: Decimal
    entry: Decimal
    before: int


@exactly
def factor_of(qty: Decimal, entry: Decimal, held: Decimal, average: Decimal) -> Decimal | None:
    """By what factor the unit changed where nothing was traded; None where it did not.

    The average says it: a purchase can never bring so much. A fraction of a whole share may have been paid in cash.
    """
    factor = EXACT.divide(entry, average)
    there = qty * factor
    in_cash = held == held.to_integral_value() and there.to_integral_value(ROUND_FLOOR) == held
    same = held > 0 and (in_cash or abs(EXACT.divide(there, held) - 1) < _VALUE_OFF_MAX)
    return factor if same and abs(factor - 1) > FACTOR_MIN else None


@exactly
def unit(
    p: Watched, shown: Decimal, average: Decimal, price: Decimal | None, traded: Sequence[Trade], way: int
) -> Change | None:
    """What factor explains the quantity and the average that are shown, beside these trades; None where none does.

    Args:
        shown: what is held, signed; `way` is the sign of the position.
    """
    if not traded:
        alone = factor_of(p.left, p.entry, shown * way, average)
        if alone is None or _price_off(p, alone, price) >= ALONE_OFF_MAX:
            return None
        return Change(factor=alone, entry=average, before=0)
    qty, entry = p.left, p.entry
    best: tuple[Decimal, Change] | None = None
    in_cash = price is not None and p.price is not None
    for before in range(len(traded) + 1):
        if before:
            qty, entry = _bought(qty, entry, traded[before - 1], way)
        later = traded[before:]
        if qty <= 0 or shown * way - total(later) * way <= 0:
            continue
        factor = EXACT.divide(shown * way - total(later) * way, qty)
        held, after = qty * factor, EXACT.divide(entry, factor)
        for t in later:
            held, after = _bought(held, after, t, way)
        off = _price_off(p, factor, price)
        is_near = _is_near(after, average, held, in_cash=in_cash)
        if abs(factor - 1) <= FACTOR_MIN or not is_near or off >= PRICE_OFF_MAX:
            continue
        if best is None or off < best[0]:
            best = off, Change(factor=factor, entry=after, before=before)
    return best[1] if best is not None else None


def _bought(qty: Decimal, entry: Decimal, t: Trade, way: int) -> tuple[Decimal, Decimal]:
    traded = t.qty * way
    if traded > 0 and qty + traded > 0:
        entry = EXACT.divide(qty * entry + traded * t.price, qty + traded)
    return qty + traded, entry


def _is_near(after: Decimal, average: Decimal, held: Decimal, *, in_cash: bool) -> bool:
    """Value is conserved but for rounding, and, where prices choose, for one unit that was paid in cash."""
    paid = EXACT.divide(Decimal(1), held) if in_cash and held > 1 else ZERO
    return abs(EXACT.divide(after, average) - 1) < _VALUE_OFF_MAX + paid


def _price_off(p: Watched, factor: Decimal, price: Decimal | None) -> Decimal:
    """How far the prices are from what the factor says; nothing where one of them is not known."""
    if price is None or not p.price:
        return ZERO
    return abs(EXACT.divide(factor * price, p.price) - 1)


@exactly
def is_off(one: Decimal, other: Decimal) -> bool:
    """True for two averages that cannot be of one thing in one unit."""
    return not other or abs(EXACT.divide(one, other) - 1) > AVERAGE_OFF_MAX


@exactly
def entry(
    average: Decimal | None, said: Decimal | None, price: Decimal | None, instrument: Instrument
) -> Decimal | None:
    """The entry price of what is held: the broker's average, held against its own executions; None where unclear.

    Where the two are of different units, the executions are right. Without executions an average that is a multiple
    of the instrument's multiplier is taken back to the price, where that agrees.
    """
    if average is None or average <= 0:
        return said
    if said is not None:
        return said if is_off(average, said) else average
    if price is None or instrument.multiplier == 1 or not _is_far(average, price):
        return average
    per_unit = EXACT.divide(average, instrument.multiplier)
    return None if _is_far(per_unit, price) else per_unit


@exactly
def in_prices(row: BrokerPosition, entry: Decimal | None, multiplier: Decimal) -> BrokerPosition:
    """The row with its average entry as a price, where the account shows it for a whole contract.

    What agrees with the entry that is watched says which of the two it is; else the price that is shown does.
    """
    average, price = row.avg_entry_price, row.current_price
    if multiplier == 1 or not (tradable(average) and average > 0) or (entry and not is_off(average, entry)):
        return row
    per_unit = EXACT.divide(average, multiplier)
    agrees = bool(entry) and not is_off(per_unit, entry or ZERO)
    if not agrees and (not price or not _is_far(average, price) or _is_far(per_unit, price)):
        return row
    return replace(row, avg_entry_price=per_unit)


def _is_far(one: Decimal, other: Decimal) -> bool:
    """True for prices that no market takes in one go: more than the guard's ratio apart, either way."""
    return not EXACT.divide(other, _RATIO_MAX) <= one <= other * _RATIO_MAX


_RATIO_MAX = Decimal("1.3")
