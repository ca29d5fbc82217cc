"""Which column of a file holds what: by its header, by the shape of its rows where it has none, or by its name (LEAN).

Rules of this room: a layout says where things are and reads nothing; what cannot be a bar's columns is a `Misread` that
says what was looked for. Rows without a header are taken for bars only where their prices prove it: no open or close
above its high, and none below its low.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from exitfsm.bars.figures import is_number, plainly, with_decimal_comma
from exitfsm.bars.names import DAYS, FILE_NAMES, NAMELESS, TIMES_OF_DAY, column, fold
from exitfsm.bars.times import is_clock, is_day, is_time

Row = list[str]
#: Rows that are looked at to find a header, what stands above it included.
HEAD_MAX = 12
_PRICES = ("open", "high", "low", "close")
_PROVED = 0.95  # part of the rows whose prices must be a bar's
_CLOCKLESS = frozenset({"date", "datetime", "day"})
_WIDE_CORNERS = frozenset({"ticker", "tickers", "price", "attributes", "symbols", "symbol", ""})
_LEAN_NAME = re.compile(r"(\d{8})_(.+?)_(minute|second|hour|daily|tick)_(trade|quote|openinterest)(.*)", re.IGNORECASE)
_LEAN_SUFFIX = re.compile(r"_(?:trade|quote)(?:_perp)?$", re.IGNORECASE)
_LEAN_TIME = re.compile(r"\d{8} \d{2}:\d{2}")
#: Kinds and markets of LEAN's folders, and the zone that their files are in; what is not here is in UTC.
_LEAN_ZONES = {
    "equity/india": "Asia/Kolkata", "option/india": "Asia/Kolkata", "future/india": "Asia/Kolkata",
    "index/india": "Asia/Kolkata", "equity": "America/New_York", "option": "America/New_York",
    "index/usa": "America/New_York", "index/cboe": "America/New_York", "indexoption": "America/New_York",
    "index/eurex": "Europe/Berlin", "future/eurex": "Europe/Berlin", "index/hkfe": "Asia/Hong_Kong",
    "future/hkfe": "Asia/Hong_Kong", "index/krx": "Asia/Seoul", "future/krx": "Asia/Seoul", "index/ose": "Asia/Tokyo",
    "forex/fxcm": "Etc/GMT+5",
}  # fmt: skip
_LEAN_KINDS = frozenset(
    {"equity", "option", "crypto", "cryptofuture", "forex", "cfd", "future", "futureoption", "index", "indexoption"}
)
#: Kinds whose prices LEAN writes multiplied by 10,000.
_LEAN_SCALED = frozenset({"equity", "option", "indexoption"})


class Misread(ValueError):
    """The columns of a file are not those of bars; the text says why."""


class Layout(NamedTuple):
    """Where a row holds one bar.

    Attributes:
        at: the column of its time, or of its day where `clock` is that of its time of day.
        prices: the columns of open, high, low and close, the same one several times where there is but one price.
        symbol: the symbol, where it is that of all rows; `symbol_at` its column, where there is one.
        volume: None where there is none.
        adjusted: the columns of the adjusted prices, or of the adjusted close alone; none where there is none.
        asked: the columns of the seller's open, high, low and close, where `prices` are the buyer's.
        width: how many fields a row has.
    """

    at: int
    prices: tuple[int, int, int, int]
    width: int
    clock: int | None = None
    symbol: str | None = None
    symbol_at: int | None = None
    volume: int | None = None
    adjusted: tuple[int, ...] = ()
    asked: tuple[int, int, int, int] | None = None


class Form(NamedTuple):
    """How a file holds its bars.

    Attributes:
        name: what is said of it to people.
        layouts: one, or one for each symbol that a row holds a bar of.
        head: how many rows stand above the first bar.
        zone: the IANA name of the zone that its times are in, where the format says so.
        lean_date: the day as YYYYMMDD, where the times are milliseconds since its midnight.
        scale: prices are multiplied by ten to this.
        symbol: the symbol, where the file's name has it in a way that the format says.
        pairs: `BTC_USDT` in the file's name is a pair.
    """

    name: str
    layouts: tuple[Layout, ...]
    head: int
    zone: str | None = None
    lean_date: str | None = None
    scale: int = 0
    symbol: str | None = None
    pairs: bool = False


def form_of(rows: Sequence[Row], file: Sequence[str]) -> Form:
    """How a file holds its bars, by its first rows.

    Args:
        rows: the first rows, blank ones left out; the more, the surer.
        file: the parts of its path, its name without suffixes last.

    Raises:
        Misread: these are no bars, as far as can be seen.
    """
    named = _lean_by_name(rows, file)
    if named is not None:
        return named
    for number, row in enumerate(rows[:HEAD_MAX]):
        if (wide := _wide(rows, number)) is not None:
            return wide
        if _is_header(row):
            layout = by_header(row, rows[number + 1 :])
            return Form(_known(row), (layout,), number + 1)
    return _by_shape(rows, file)


# --- with a header ----------------------------------------------------------------------------------------------------


def _is_header(row: Row) -> bool:
    """True for a row of names among which one is a price's, and none is a number."""
    cells = [cell for cell in row if cell.strip()]
    return (
        len(cells) >= 2
        and any(column(row, name) is not None for name in _PRICES)
        and not any(cell[:1].isdigit() and (is_number(cell) or is_time(cell)) for cell in cells)
    )


def by_header(names: Row, sample: Sequence[Row] = ()) -> Layout:
    """Where a row holds its bar, by the names above it.

    Args:
        names: of the columns.
        sample: some of the rows below, to tell a day and a time of day from two times.

    Raises:
        Misread: a column is missing, or is there twice.
    """
    if sample and _split_day(names, sample):
        names = [names[0], "time", *names[1:]]
    close, opened, high, low = (column(names, name) for name in ("close", "open", "high", "low"))
    at, clock = _time_columns(names, sample)
    missing = [word for word, found in (("time", at), ("close", close)) if found is None]
    some = [name for name, found in zip(_PRICES, (opened, high, low, close), strict=True) if found is None]
    if not missing and some and len(some) < 3:
        missing = some
    if missing or at is None or close is None:
        sought = "; ".join(", ".join(FILE_NAMES["bar_at" if w == "time" else w][:5]) + ", ..." for w in missing)
        raise Misread(f"no column for {' and '.join(missing)} (looked for {sought})")
    twice = [name for name in (*_PRICES, "volume") if sum(fold(one) == name for one in names) > 1]
    if twice:
        raise Misread(f"column {twice[0]} is there twice")
    prices = (
        (close, close, close, close) if opened is None or high is None or low is None else (opened, high, low, close)
    )
    adjusted = [column(names, f"adjusted_{name}") for name in _PRICES]
    whole = tuple(place for place in adjusted if place is not None)
    return Layout(
        at=at,
        clock=clock,
        prices=prices,
        width=len(names),
        symbol_at=column(names, "symbol"),
        volume=column(names, "volume"),
        adjusted=whole if len(whole) == 4 else (adjusted[3],) if adjusted[3] is not None else (),
    )


def _time_columns(names: Row, sample: Sequence[Row]) -> tuple[int | None, int | None]:
    """The column of the time, and that of the time of day where the first holds the day alone."""
    folded = [fold(name) for name in names]
    day = next((folded.index(name) for name in map(fold, DAYS) if name in folded), None)
    clock = next((folded.index(name) for name in TIMES_OF_DAY if name in folded), None)
    if day is not None and clock is not None:
        pairs = [(row[day], row[clock]) for row in sample if len(row) > max(day, clock)]
        if pairs and all(is_day(one) and is_clock(other) for one, other in pairs[:50]):
            return day, clock
    at = column(names, "bar_at")
    if at is None:
        at = next((i for i, name in enumerate(folded) if name in NAMELESS), None)
        values = [row[at] for row in sample if at is not None and len(row) > at]
        at = at if values and all(is_time(value) for value in values[:50]) else None
    return at, None


def _split_day(names: Row, sample: Sequence[Row]) -> bool:
    """True where rows hold a time of day behind the day that the header does not name."""
    return fold(names[0]) in _CLOCKLESS and all(
        len(row) == len(names) + 1 and is_day(row[0]) and ":" in row[1] and is_clock(row[1]) for row in sample[:50]
    )


def _wide(rows: Sequence[Row], number: int) -> Form | None:
    """A table with two rows of names, prices and symbols, as yfinance writes it; None when it is none."""
    upper, lower = rows[number], rows[number + 1] if len(rows) > number + 1 else []
    if len(upper) != len(lower) or len(upper) < 3 or not {fold(upper[0]), fold(lower[0])} <= _WIDE_CORNERS:
        return None
    for names, symbols in ((upper, lower), (lower, upper)):
        if column(names[1:], "close") is None or column(symbols[1:], "close") is not None:
            continue
        groups: dict[str, list[int]] = {}
        for place, symbol in enumerate(symbols[1:], 1):
            groups.setdefault(symbol.strip(), []).append(place)
        head = number + 2
        if len(rows) > head and not any(cell.strip() for cell in rows[head][1:]):
            head += 1  # the name of the index alone
        layouts = tuple(_part(names, symbol, places) for symbol, places in groups.items() if symbol)
        return Form("yfinance", layouts, head) if layouts else None
    return None


def _part(names: Row, symbol: str, places: list[int]) -> Layout:
    """The layout of one symbol's columns among those of several."""
    found = by_header(["date", *(names[place] for place in places)])
    there = [0, *places]
    o, h, lo, c = (there[place] for place in found.prices)
    return found._replace(
        prices=(o, h, lo, c),
        volume=there[found.volume] if found.volume is not None else None,
        adjusted=tuple(there[place] for place in found.adjusted),
        symbol=symbol,
        symbol_at=None,
        width=len(names),
    )


def _known(names: Row) -> str:
    """What people call a format, by its header."""
    folded = {fold(name) for name in names}
    for name, needed in (
        ("Alpaca", {"tradecount", "vwap"}),
        ("Polygon", {"windowstart", "ticker"}),
        ("Stooq", {"ticker", "per", "date"}),
        ("MetaTrader", {"date", "tickvol"}),
        ("Quandl", {"adjclose", "exdividend"}),
        ("Yahoo", {"adjclose"}),
    ):
        if needed <= folded:
            return name
    return ""


# --- without a header -------------------------------------------------------------------------------------------------


def _by_shape(rows: Sequence[Row], file: Sequence[str]) -> Form:
    """How rows without a header hold their bars.

    Raises:
        Misread: they do not.
    """
    for number, first in enumerate(rows[:HEAD_MAX]):
        data = [row for row in rows[number:] if len(row) == len(first)]
        if len(data) < len(rows) - number:
            continue
        layout = _shape(first)
        if layout is None:
            continue
        if not _proved(layout, data):
            continue
        lean = _lean_by_shape(layout, data, file)
        if lean is not None:
            return lean._replace(head=number)
        binance = len(first) == 12 and first[0].strip().isdecimal()
        return Form("Binance klines" if binance else "no header", (layout,), number)
    raise Misread("no header with a time and a close, and the rows have not the shape of bars")


def _shape(row: Row) -> Layout | None:
    """Where a row without a header may hold a bar: [symbol,] time, open, high, low, close[, volume]."""
    at, symbol_at = 0, None
    if not is_time(row[0]):
        at, symbol_at = 1, 0
    elif len(row) > 1 and row[1].strip() and not is_number(row[1]) and not is_clock(row[1]):
        symbol_at = 1
    if at >= len(row) or not is_time(row[at]):
        return None
    start = max(at, symbol_at if symbol_at is not None else at) + 1
    clock = None
    if is_day(row[at]) and len(row) > start and (":" in row[start] or len(row) - start >= 6) and is_clock(row[start]):
        clock, start = start, start + 1
    if len(row) < start + 4 or not all(is_number(cell) for cell in row[start : start + 4]):
        return None
    volume = start + 4 if len(row) > start + 4 and is_number(row[start + 4]) else None
    prices = (start, start + 1, start + 2, start + 3)
    return Layout(at=at, clock=clock, prices=prices, width=len(row), symbol_at=symbol_at, volume=volume)


def _proved(layout: Layout, rows: Sequence[Row]) -> bool:
    """True where the prices of nearly all rows are those of bars."""
    sound = known = 0
    for row in rows:
        prices = [_value(row[place]) for place in layout.prices]
        if None in prices:
            continue
        o, h, lo, c = (price for price in prices if price is not None)
        known += 1
        sound += lo <= min(o, c) and max(o, c) <= h
    return known > 0 and sound >= _PROVED * known


def _value(text: str) -> float | None:
    """A price, whichever way it is written; None for none."""
    for figure in (plainly, with_decimal_comma):
        try:
            return float(figure(text))
        except ValueError:
            continue
    return None


# --- LEAN -------------------------------------------------------------------------------------------------------------


def _lean_by_name(rows: Sequence[Row], file: Sequence[str]) -> Form | None:
    """A day of LEAN's, by its name: milliseconds since midnight, and the symbol and the day in the name."""
    found = _LEAN_NAME.fullmatch(file[-1])
    if found is None or not rows or not rows[0][0].strip().isdecimal():
        return None
    day, symbol, length, what, rest = found.groups()
    if what.lower() == "openinterest" or length.lower() == "tick":
        raise Misread(f"LEAN's {what} by {length} holds no bars: give a file of trades or quotes by minute or second")
    width = len(rows[0])
    layout = _lean_layout(width, quotes=what.lower() == "quote")
    scaled, zone = _lean_kind(rows, layout, file[:-1])
    name = f"LEAN {what.lower()}s by {length.lower()}"
    return Form(name, (layout,), 0, zone, day, -4 if scaled else 0, f"{symbol}{rest}".replace("_", "-"))


def _lean_layout(width: int, *, quotes: bool) -> Layout:
    if quotes and width == 11:
        return Layout(at=0, prices=(1, 2, 3, 4), volume=5, asked=(6, 7, 8, 9), width=width)
    if width < 5:
        raise Misread(f"{width} fields are no bar of LEAN's")
    return Layout(at=0, prices=(1, 2, 3, 4), volume=5 if width > 5 else None, width=width)


def _lean_by_shape(layout: Layout, rows: Sequence[Row], file: Sequence[str]) -> Form | None:
    """Many days of LEAN's, by hour or day: `20131007 09:00`, and the symbol in the name."""
    first = rows[0]
    if layout.at != 0 or layout.clock is not None or not _LEAN_TIME.fullmatch(first[0].strip()):
        return None
    layout = _lean_layout(len(first), quotes=len(first) == 11)
    scaled, zone = _lean_kind(rows, layout, file[:-1])
    return Form("LEAN", (layout,), 0, zone, scale=-4 if scaled else 0, symbol=_LEAN_SUFFIX.sub("", file[-1]))


def _lean_kind(rows: Sequence[Row], layout: Layout, folders: Sequence[str]) -> tuple[bool, str]:
    """Whether prices are multiplied by 10,000, and the zone: by LEAN's folders, else by whether prices are whole."""
    parts = [part.lower() for part in folders]
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] in _LEAN_KINDS:
            kind, market = parts[place], "/".join(parts[place : place + 2])
            return kind in _LEAN_SCALED, _LEAN_ZONES.get(market) or _LEAN_ZONES.get(kind) or "UTC"
    scaled = all(
        row[place].strip().isdecimal() for row in rows for place in layout.prices if len(row) > place and row[place]
    )
    return scaled, "America/New_York" if scaled else "UTC"


__all__ = ["HEAD_MAX", "Form", "Layout", "Misread", "Row", "by_header", "form_of"]
