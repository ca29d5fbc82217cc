"""Rows of cells into bars: what one file's times, figures and columns mean, settled once, then applied to each row.

Rules of this room: a row is a bar or a `ValueError` in words; nothing is repaired. What a bar says is not judged here:
a price of `nan`, 0 or -1 makes a bar like any other, which the engine refuses and counts. A row of plain cells takes a
short way; what fails there is read once more with care.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from math import isfinite

from exitfsm.bars.figures import Figure, plainly, volume
from exitfsm.bars.layout import Layout, Row
from exitfsm.bars.symbols import given_symbol
from exitfsm.bars.times import CACHE_MAX, SHOWN_MAX, Times, shown
from exitfsm.values import EXACT, PRICE_MAX, PRICE_MIN, Bar, CheckedBar, canonical_symbol, decimal_of, plain, rounded

_HALF = Decimal("0.5")
_MILLISECONDS = 9  # digits of a time since midnight, and some


class Symbols(dict[str, str]):
    """Symbols by their text."""

    def __missing__(self, text: str) -> str:
        if len(self) >= CACHE_MAX:
            self.clear()
        stripped = text.strip()
        if len(stripped) > SHOWN_MAX:
            raise ValueError(f"symbol {shown(text)} is too long")
        self[text] = symbol = canonical_symbol(stripped)
        return symbol


class Table:
    """What the rows of one file mean.

    Args:
        layouts: where a row holds a bar, one for each symbol in a row.
        symbol: of all rows whose layout has none.
        times: texts as times.
        symbols: texts as symbols.
        figure: how prices are written.
        scale: prices are multiplied by ten to this.
        adjusted: take the adjusted prices.
        lean_midnight: the midnight from which times count in milliseconds.
    """

    def __init__(
        self,
        layouts: tuple[Layout, ...],
        symbol: str | None,
        times: Times,
        symbols: Symbols,
        *,
        figure: Figure = plainly,
        scale: int = 0,
        adjusted: bool = False,
        lean_midnight: datetime | None = None,
    ) -> None:
        self.layouts, self.times, self.symbols, self.figure = layouts, times, symbols, figure
        self.symbol, self.scale, self.adjusted, self.midnight = symbol, scale, adjusted, lean_midnight
        self.width = layouts[0].width
        one = layouts[0]
        self.plain = (
            len(layouts) == 1
            and figure is plainly
            and not scale
            and not adjusted
            and lean_midnight is None
            and one.asked is None
            and one.clock is None
        )
        #: The symbols that were given by a layout, in their one spelling.
        self._constants = [given_symbol(one.symbol) if one.symbol is not None else symbol for one in layouts]

    def bars(self, row: Row) -> Iterator[Bar]:
        """The bars of a row: one, or one for each symbol that has figures in it.

        Raises:
            ValueError: it holds none.
        """
        if len(row) != self.width:
            row = self._trimmed(row)
        for layout, constant in zip(self.layouts, self._constants, strict=True):
            if len(self.layouts) > 1 and not any(row[place].strip() for place in layout.prices):
                continue  # of several symbols in a row, one that was not traded
            yield self._careful(layout, constant, row)

    def _trimmed(self, row: Row) -> Row:
        """A row without empty cells behind its last column.

        Raises:
            ValueError: it has another number of fields.
        """
        while len(row) > self.width and not row[-1].strip():
            row = row[:-1]
        if len(row) != self.width:
            raise ValueError(f"{len(row)} fields instead of {self.width}")
        return row

    def quick(self, row: Row) -> Bar | None:
        """The one bar of a row of plain cells; None when it must be read with care."""
        if not self.plain or len(row) != self.width:
            return None
        layout, constant = self.layouts[0], self._constants[0]
        a, b, c, d = layout.prices
        o, h, lo, close = row[a], row[b], row[c], row[d]
        try:
            first, ceiling, floor, last = float(o), float(h), float(lo), float(close)
            if not (PRICE_MIN <= floor <= first <= ceiling < PRICE_MAX and floor <= last <= ceiling):
                return None
            size = row[layout.volume] if layout.volume is not None else "0"
            if not (size.isdecimal() or isfinite(float(size))):
                return None
            symbol = constant if layout.symbol_at is None else self.symbols[row[layout.symbol_at]]
            if symbol is None:
                return None
            return CheckedBar(symbol, self.times[row[layout.at]], o, h, lo, close, size, floor, ceiling)
        except (ValueError, OverflowError):
            return None

    def _careful(self, layout: Layout, constant: str | None, row: Row) -> Bar:
        symbol = constant if layout.symbol_at is None else self.symbols[row[layout.symbol_at]]
        if symbol is None:
            raise ValueError("no symbol")
        o, h, lo, c = self._prices(layout, row)
        size = row[layout.volume] if layout.volume is not None else "0"
        try:
            size = volume(size, self.figure)
        except ValueError:
            raise ValueError(f"volume {shown(size)} is not a number") from None
        return Bar(symbol, self._at(layout, row), o, h, lo, c, size)

    def _at(self, layout: Layout, row: Row) -> datetime:
        text = row[layout.at]
        try:
            if self.midnight is not None:
                return self._since_midnight(text)
            return self.times[text if layout.clock is None else f"{text.strip()} {row[layout.clock].strip()}"]
        except ValueError as error:
            raise ValueError(f"timestamp {error}") from None

    def _since_midnight(self, text: str) -> datetime:
        """Milliseconds since midnight, by the clock on the wall."""
        assert self.midnight is not None
        if not text.strip().isdecimal() or len(text.strip()) > _MILLISECONDS:
            raise ValueError(f"{shown(text)} is no number of milliseconds since midnight")
        wall = self.midnight + timedelta(milliseconds=int(text))
        return self.times[wall.isoformat()]

    def _prices(self, layout: Layout, row: Row) -> list[str]:
        o, h, lo, c = (self._price(name, row[place]) for name, place in zip(_NAMES, layout.prices, strict=True))
        if layout.asked is not None:
            asked = [self._price(f"ask {name}", row[place]) for name, place in zip(_NAMES, layout.asked, strict=True)]
            return [_between(bid, ask) for bid, ask in zip((o, h, lo, c), asked, strict=True)]
        if self.adjusted and len(layout.adjusted) == 4:
            return [self._price(name, row[place]) for name, place in zip(_NAMES, layout.adjusted, strict=True)]
        if self.adjusted:
            adjusted = self._price("adjusted close", row[layout.adjusted[0]])
            return [*(_moved(price, adjusted, c) for price in (o, h, lo)), adjusted]
        return [o, h, lo, c]

    def _price(self, name: str, text: str) -> str:
        try:
            price = self.figure(text)
        except ValueError:
            raise ValueError(f"{name} {shown(text)} is not a number") from None
        return plain(decimal_of(price).scaleb(self.scale, EXACT)) if self.scale and isfinite(float(price)) else price


_NAMES = ("open", "high", "low", "close")


def _between(bid: str, ask: str) -> str:
    """The middle of the two prices; the one of them that there is."""
    one, other = decimal_of(bid), decimal_of(ask)
    if not one.is_finite() or not other.is_finite():
        return ask if one.is_nan() else bid
    return plain(EXACT.multiply(EXACT.add(one, other), _HALF))


def _moved(price: str, adjusted: str, close: str) -> str:
    """A price moved as far as its close was adjusted, to nine decimals."""
    whole, share, of = decimal_of(price), decimal_of(adjusted), decimal_of(close)
    if not (whole.is_finite() and share.is_finite() and of.is_finite()) or of == 0:
        return "NaN"
    return plain(rounded(EXACT.divide(EXACT.multiply(whole, share), of)))


__all__ = ["Symbols", "Table"]
