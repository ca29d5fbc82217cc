"""Bars from CSV files: `symbol,timestamp,open,high,low,close,volume`, ISO-8601 UTC timestamps, one bar on a line.

    for bar in read_bars("AAPL.csv", "SPY.csv"): ...

Rules of this room: a line is a bar or a `FeedError` that names file and line; nothing is repaired, and only blank lines
are skipped. What a bar says is not judged here: a price of `nan`, 0 or -1 makes a bar like any other, which the engine
refuses and counts. Files are read in pieces as they are needed, so that memory does not grow with their size.

The common line (seven plain fields) takes a short way. What fails there is read once more with care, which either makes
the bar after all (quotes) or finds the words for what is wrong.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from heapq import heapify, heappop, heapreplace
from math import isfinite
from pathlib import Path

from exitfsm import Bar, FeedError
from exitfsm.values import PRICE_MAX, PRICE_MIN, CheckedBar, canonical_symbol, decimal_of, utc

__all__ = ["COLUMNS", "read_bars"]

#: The columns of a file: all of them by these names, in any order, and no others.
COLUMNS = ("symbol", "timestamp", "open", "high", "low", "close", "volume")

_HEADER = ",".join(COLUMNS)
_EXAMPLE = "AAPL,2014-06-09T13:30:00Z,92.70,92.75,92.61,92.70,1200"
_BUFFER = 1 << 19  # characters read ahead, shared among the files
_PIECE_MIN = 1 << 12
_LINE_MAX = 4096  # characters in a line
_CACHE_MAX = 1 << 14  # timestamps and symbols remembered, each
_SHOWN_MAX = 60  # characters of a bad value in a message


def read_bars(*paths: str | os.PathLike[str]) -> Iterator[Bar]:
    """The bars of all files, merged in time order; at equal times, in the order in which the files are given.

    Each file is taken to be in time order itself. A line that is not comes out where it stands: to refuse it is the
    engine's business. Symbols may be mixed in a file and spread over files.

    Raises:
        FeedError: while iterating: a file cannot be read, or a line is no bar.
    """
    times, symbols = _Times(), _Symbols()
    piece = max(_PIECE_MIN, _BUFFER // max(1, len(paths)))
    sources = [_File(path, times, symbols).bars(piece) for path in paths]
    return sources[0] if len(sources) == 1 else _merged(sources)


def _merged(sources: Sequence[Generator[Bar]]) -> Iterator[Bar]:
    with ExitStack() as stack:
        for source in sources:
            stack.callback(source.close)
        firsts = ((next(source, None), index, source) for index, source in enumerate(sources))
        heads = [(bar.timestamp, index, bar, source) for bar, index, source in firsts if bar is not None]
        heapify(heads)
        while len(heads) > 1:
            _, index, bar, source = heads[0]
            # Files often follow one another: the earliest runs on, without the heap, until it reaches the next.
            until, rival = min(heads[1:3])[:2]
            yield bar
            for bar in source:
                at = bar.timestamp
                if at > until or (at == until and index > rival):
                    heapreplace(heads, (at, index, bar, source))
                    break
                yield bar
            else:
                heappop(heads)
        for _, _, bar, source in heads:
            yield bar
            yield from source


class _Times(dict[str, datetime]):
    """Timestamps by their text: the symbols of a market share their minutes."""

    def __missing__(self, text: str) -> datetime:
        if len(self) >= _CACHE_MAX:
            self.clear()
        self[text] = at = utc(datetime.fromisoformat(text))
        return at


class _Symbols(dict[str, str]):
    """Symbols by their text."""

    def __missing__(self, text: str) -> str:
        if len(self) >= _CACHE_MAX:
            self.clear()
        if len(text) > _SHOWN_MAX or not text.isascii():  # not left to upper(), which makes SS of ß
            raise ValueError(f"symbol {_shown(text)} is not made of A-Z 0-9 . / _ -")
        self[text] = symbol = canonical_symbol(text)
        return symbol


class _File:
    """One file: its bars, and the words for what is wrong with it."""

    def __init__(self, path: str | os.PathLike[str], times: _Times, symbols: _Symbols) -> None:
        self.path = os.fsdecode(path)
        self.times = times
        self.symbols = symbols
        self.order: tuple[int, ...] | None = None  # where the columns are, when not in the usual order

    def bars(self, piece: int) -> Generator[Bar]:
        """The bars of the file, about `piece` characters of it in memory at a time."""
        times, symbols, number = self.times, self.symbols, 0
        with closing(self._pieces(piece)) as pieces:
            for lines in pieces:
                if not number:
                    self._read_header(lines[0])
                    lines[0] = ""
                usual = self.order is None
                for line in lines:
                    number += 1
                    bar = None
                    try:
                        symbol, at, o, h, lo, c, volume = line.split(",") if usual else self._usual(line)
                        first, ceiling, floor, last = float(o), float(h), float(lo), float(c)
                        if (
                            PRICE_MIN <= floor <= first <= ceiling < PRICE_MAX
                            and floor <= last <= ceiling
                            and (volume.isdecimal() or isfinite(float(volume)))
                        ):
                            bar = CheckedBar(symbols[symbol], times[at], o, h, lo, c, volume, floor, ceiling)
                    except (ValueError, OverflowError):
                        pass  # said with care below
                    if bar is not None:
                        yield bar
                    elif line and not line.isspace():
                        yield self._read_with_care(line, number)
        if not number:
            raise FeedError(f"{self.path}: the file is empty; its first line must be {_HEADER}")

    def _pieces(self, size: int) -> Generator[list[str]]:
        """The lines of the file, some at a time, never none."""
        rest, number = "", 0
        try:
            # Bytes that are no UTF-8 come through as lone surrogates, so that the line that has them can be named.
            with Path(self.path).open(encoding="utf-8-sig", errors="surrogateescape") as file:
                while text := file.read(size):
                    lines = (rest + text).split("\n")
                    if len(longest := max(lines, key=len)) > _LINE_MAX:
                        raise FeedError(
                            f"{self.path}:{number + lines.index(longest) + 1}: a line of more than {_LINE_MAX} "
                            "characters is no bar"
                        )
                    rest = lines.pop()
                    number += len(lines)
                    if lines:
                        yield lines
        except (OSError, ValueError) as error:  # ValueError: a path that no system takes
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise FeedError(f"{self.path}: cannot be read: {reason}") from None
        if rest:
            yield [rest]

    def _read_header(self, line: str) -> None:
        names = self._fields(line, 1)
        odd = [f"column {_shown(name)} is not known" for name in names if name not in COLUMNS]
        odd += [f"column {name} is missing" for name in COLUMNS if name not in names]
        odd += [f"column {name} is there twice" for name in COLUMNS if names.count(name) > 1]
        if odd:
            raise FeedError(f"{self.path}:1: {', '.join(odd[:3])}; the first line must be {_HEADER}")
        if tuple(names) != COLUMNS:
            self.order = tuple(names.index(name) for name in COLUMNS)

    def _usual(self, line: str) -> list[str]:
        """The fields of a plain line in the usual order."""
        return self._ordered(line.split(","))

    def _ordered(self, fields: list[str]) -> list[str]:
        if len(fields) != len(COLUMNS):
            raise ValueError(f"{len(fields)} fields instead of {len(COLUMNS)}")
        return fields if self.order is None else [fields[place] for place in self.order]

    def _read_with_care(self, line: str, number: int) -> Bar:
        """The bar of a line that is not plain.

        Raises:
            FeedError: it is no bar.
        """
        try:
            symbol, at, *figures = self._ordered(self._fields(line, number))
            symbol, moment = self.symbols[symbol], _timestamp(at)
            o, h, lo, c, volume = map(_figure, COLUMNS[2:], figures)
            return Bar(symbol, moment, o, h, lo, c, volume)
        except ValueError as error:
            raise FeedError(f"{self.path}:{number}: {error}; expected {_HEADER}, like {_EXAMPLE}") from None

    def _fields(self, line: str, number: int) -> list[str]:
        if any("\udc80" <= char <= "\udcff" for char in line):
            raise FeedError(f"{self.path}:{number}: not UTF-8 text; give a plain CSV file with the encoding UTF-8")
        try:
            return next(csv.reader([line], strict=True), [])
        except csv.Error as error:
            raise FeedError(f"{self.path}:{number}: {error}; expected {_HEADER}, like {_EXAMPLE}") from None


def _timestamp(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return utc(at)
    except (ValueError, OverflowError):
        raise ValueError(f"timestamp {_shown(text)} is not an ISO-8601 time") from None
    raise ValueError(f"timestamp {_shown(text)} has no time zone (a time in UTC ends in Z)")


def _figure(name: str, text: str) -> str:
    """The text of a price or volume: whatever is a number both as float and as Decimal, NaN and infinity among them."""
    try:
        float(text)
        decimal_of(text)
    except ValueError:
        raise ValueError(f"{name} {_shown(text)} is not a number") from None
    return text


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "...")
