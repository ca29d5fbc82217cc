"""What the broker's own row means for a price that jumped beyond belief: it is the second source."""

from __future__ import annotations

from decimal import Decimal
from enum import Enum

import msgspec

from exitfsm.policy import is_jump
from exitfsm.position import Position
from exitfsm.values import ZERO, Bar, BrokerPosition, exactly


class Meaning(Enum):
    """What a price that jumped is."""

    SPLIT = "quantity and entry moved as it did: the unit changed, and no level was reached"
    REAL = "the broker's own price is as far out"
    UNCLEAR = "the broker says neither"


class Jumped(msgspec.Struct, frozen=True, kw_only=True):
    """A price that jumped, and what the broker shows."""

    bar: Bar
    price_before: Decimal | None  # the last accepted one
    row: BrokerPosition | None  # the broker's row of the symbol
    watched: tuple[Position, ...]  # the symbol's monitored positions
    beside: tuple[Position, ...]  # the others of their holdings, on their way out
    ratio_max: Decimal  # what counts as a jump


@exactly
def meaning_of(jump: Jumped) -> Meaning:
    """What a price that jumped is, by the broker's row. Sold and entered anew is no split: the print may be bad."""
    row = jump.row
    if row is None:
        return Meaning.UNCLEAR
    if jump.watched and jump.price_before is not None and _was_split(jump, jump.price_before, row):
        return Meaning.SPLIT
    price = row.current_price
    if price is None or not price.is_finite() or price <= 0:
        return Meaning.UNCLEAR
    return Meaning.REAL if _near(jump, jump.bar.close, price) else Meaning.UNCLEAR


def _was_split(jump: Jumped, before: Decimal, row: BrokerPosition) -> bool:
    """True when quantity and entry moved as the price did: a tenth of the price, ten times the shares.

    Beside an exit that is under way, what is held may be less by what that has filled, and its average is of both.
    """
    holding, entry, now = (*jump.watched, *jump.beside), row.avg_entry_price, jump.bar.close
    if entry.is_finite() and not any(_near(jump, entry * before, p.entry_price * now) for p in holding):
        return False
    most = sum((p.remaining_qty for p in holding), ZERO)
    least = sum((p.remaining_qty for p in jump.watched), ZERO)
    if least <= row.qty <= most:
        return entry.is_finite()  # the entry alone moved: a part of the company was spun off, say
    was = row.qty * now / before
    return least <= was <= most or _near(jump, was, least) or _near(jump, was, most)


def _near(jump: Jumped, one: Decimal, other: Decimal) -> bool:
    return not is_jump(one, other, jump.ratio_max)
