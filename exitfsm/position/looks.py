"""A bar that is still forming: what is new in a later look at it; and a price without a bar.

Rules of this room: pure. A stream sends the newest bar again and again while it forms, and each look holds the whole
bar: a low from before a stop had moved stands in every look after it. So a later look is judged by what is new in it:
its close, and a low (high) beyond those judged before. No sequence of looks then exits where the sequence of its
prices, in order of arrival, would not.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from exitfsm.bar import Quote
from exitfsm.values import EXACT, ZERO, Bar, Side, decimal_of


class Judged(msgspec.Struct, frozen=True, gc=False):
    """What of a bar was judged so far: lowest and highest price, close and volume of the newest look, and its open."""

    at: datetime
    lowest: Decimal
    highest: Decimal
    close: Decimal
    volume: Decimal
    open: Decimal | None = None


def judged(bar: Bar, before: Judged | None = None) -> Judged:
    """What is judged of a bar after this sound look at it; `before` is what was judged of an earlier bar or look."""
    lowest, highest = min(bar.low, bar.close, bar.open), max(bar.high, bar.close, bar.open)
    if before is None or before.at != bar.timestamp:
        return Judged(bar.timestamp, lowest, highest, bar.close, _volume(bar), bar.open)
    volume, low, high = max(before.volume, _volume(bar)), min(before.lowest, lowest), max(before.highest, highest)
    return Judged(bar.timestamp, low, high, bar.close, volume, before.open)


def whole(look: Bar, so_far: Judged | None) -> Bar:
    """The bar as all its looks have shown it so far; the look itself where it is the first."""
    if so_far is None or so_far.at != look.timestamp or so_far.open is None:
        return look
    low, high = so_far.lowest, so_far.highest
    return Bar(look.symbol, look.timestamp, so_far.open, high, low, so_far.close, so_far.volume)


def new_in(look: Bar, before: Judged) -> Bar | None:
    """What is new in a later look at a bar, as a bar of its own; None where that is nothing.

    A look with less volume is an older one that came late. An unsound look is returned as it is: it is refused, and
    what is wrong with it is said.
    """
    if not look.floor > 0:
        return look
    volume = _volume(look)
    if volume and volume < before.volume:
        return None
    close = look.close
    low = look.low if look.low < before.lowest else close
    high = look.high if look.high > before.highest else close
    if low == high == before.close and volume <= before.volume:
        return None
    if isinstance(look, Quote):
        return look  # it is one price, and all of it is new
    return Bar(look.symbol, look.timestamp, close, max(high, close), min(low, close), close, volume)


def at_its_close(bar: Bar) -> Bar:
    """The bar as its close alone: all that counts where its other prices may be from before something."""
    close = bar.close
    return Bar(bar.symbol, bar.timestamp, close, close, close, close, _volume(bar))


def price_for(sides: Collection[Side], price: Any = None, bid: Any = None, ask: Any = None) -> Any:
    """The price by which what is held is judged: a long sells at the bid, a short buys at the ask.

    Where they are not given, or both sides are held, it is the price; without one the middle, or what there is.
    """
    at_once = bid if set(sides) == {Side.LONG} else ask if set(sides) == {Side.SHORT} else None
    given = at_once if at_once is not None else price
    if given is not None or bid is None or ask is None:
        return next((one for one in (given, bid, ask) if one is not None), None)
    return EXACT.divide(EXACT.add(decimal_of(bid), decimal_of(ask)), 2)


def judged_by(bar: Bar, side: Side) -> Bar:
    """The bar by which a position of this side is judged: of a quote what it would get, the bid or the ask."""
    if not isinstance(bar, Quote):
        return bar
    price = bar.bid if side is Side.LONG else bar.ask
    if price is None or price == bar.close:
        return bar
    return Bar(bar.symbol, bar.timestamp, price, price, price, price)


def _volume(bar: Bar) -> Decimal:
    """The traded quantity that a look says; 0 where it says none."""
    try:
        volume = bar.volume
    except ValueError:
        return ZERO
    return volume if volume.is_finite() and volume > 0 else ZERO
