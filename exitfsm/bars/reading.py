"""Bars from files as people have them: `read_bars("AAPL.csv", "BTCUSDT-1m.zip")`.

Rules of this room: a file is understood by its first rows, once, and what was understood is told (`FileRead`); each row
is then a bar or a `FeedError` that names file and line. Nothing is repaired, and only blank lines are skipped; a file
that is newest first is turned round. Text is read in pieces as it is needed, so that memory does not grow with the size
of a file (but for one that is turned round, and for JSON, Parquet and Arrow).

The file that this library writes itself (`symbol,timestamp,open,high,low,close,volume`) takes a way of its own, which
is as fast as reading lines goes in Python.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from heapq import heapify, heappop, heapreplace
from itertools import chain, islice
from math import isfinite
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from exitfsm.bars import json_tables
from exitfsm.bars.figures import Figure, plainly, way_of
from exitfsm.bars.layout import HEAD_MAX, Form, Layout, Misread, Row, by_header, form_of
from exitfsm.bars.opening import Opened, members, pieces, whole
from exitfsm.bars.symbols import given_symbol, symbol_of
from exitfsm.bars.tables import Symbols, Table
from exitfsm.bars.times import Times, has_zone, is_ambiguous, order_of_days, parsed, shown
from exitfsm.errors import FeedError
from exitfsm.values import PRICE_MAX, PRICE_MIN, Bar, CheckedBar

#: The columns of the library's own files.
COLUMNS = ("symbol", "timestamp", "open", "high", "low", "close", "volume")

_HEADER = ",".join(COLUMNS)
_EXAMPLE = "AAPL,2014-06-09T13:30:00Z,92.70,92.75,92.61,92.70,1200"
_BUFFER = 1 << 19  # characters read ahead, shared among the files
_PIECE_MIN = 1 << 14
_SAMPLE = 1000  # rows by which a file is understood
_OWN_SAMPLE = 50  # of the library's own files, in which little can be otherwise
_SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar (|)"}
_SHOWN_NAMES = 200  # characters of a header in a message
_EMPTY = ""

Numbered = tuple[int, Row]


class FileRead(msgspec.Struct):
    """What was found out about one file, or one member of an archive; complete when its last bar has been read.

    Attributes:
        label: what the file is called.
        form: the format, where it has a name; else empty.
        symbol: the symbol that the file's name stands for, where nothing in the file says it.
        zone: the zone in which times that name none were read; None where each names its own.
        remarks: what else was not simply as written.
        bars: how many bars have been read.
    """

    label: str
    form: str = ""
    symbol: str | None = None
    zone: str | None = None
    remarks: list[str] = []
    bars: int = 0

    def words(self) -> str:
        """What there is to say of it, on one line; empty where there is nothing."""
        parts = [self.form] if self.form else []
        parts += [f"symbol {self.symbol}, from the file's name"] if self.symbol is not None else []
        parts += [f"times without a zone read as {self.zone} (--timezone)"] if self.zone is not None else []
        return "; ".join([*parts, *self.remarks])


class Wanted(NamedTuple):
    """What a caller says of all files."""

    symbol: str | None = None
    zone: ZoneInfo | None = None
    adjusted: bool = False
    on_file: Callable[[FileRead], object] | None = None


class Kept(NamedTuple):
    """What the files of one call share: times by their text, where each names a zone and in UTC, and symbols."""

    zoned: Times
    in_utc: Times
    symbols: Symbols


def read_bars(
    *paths: str | os.PathLike[str],
    symbol: str | None = None,
    timezone: str | None = None,
    adjusted: bool = False,
    on_file: Callable[[FileRead], object] | None = None,
) -> Iterator[Bar]:
    """The bars of all files, merged in time order; at equal times, in the order in which the files are given.

    A file may be text with any usual header and separator (or Binance's, LEAN's and the like without one), JSON,
    Parquet or Arrow, packed by gzip or zip. Each is taken to be in time order itself, or newest first throughout, and
    then it is turned round. A line that is not in order comes out where it stands: to refuse it is the engine's
    business. Symbols may be mixed in a file and spread over files.

    Args:
        paths: the files.
        symbol: of the files in which nothing says it, instead of what their names say.
        timezone: IANA name of the zone in which times that name none are read, instead of that of the format, or UTC.
        adjusted: take the prices adjusted for splits and dividends, in files that have both.
        on_file: told of each file when it has been understood.

    Raises:
        FeedError: while iterating: a file cannot be read, or a line is no bar. At once: no such zone or symbol.
    """
    wanted = Wanted(
        given_symbol(symbol) if symbol is not None else None,
        zone_of(timezone) if timezone is not None else None,
        adjusted,
        on_file,
    )
    kept = Kept(Times(None), Times(UTC), Symbols())
    piece = max(_PIECE_MIN, _BUFFER // max(1, len(paths)))
    sources = [_of_path(path, wanted, kept, piece) for path in paths]
    return sources[0] if len(sources) == 1 else _merged(sources)


def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name.

    Raises:
        FeedError: there is none of this name.
    """
    try:
        return ZoneInfo(name.strip())
    except (KeyError, ValueError, OSError):  # OSError: a name that is a folder of zones
        raise FeedError(f"{shown(name)} is no time zone: give an IANA name, e.g. Europe/Berlin or UTC") from None


def _merged(sources: Sequence[Generator[Bar]]) -> Generator[Bar]:
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


def _of_path(path: str | os.PathLike[str], wanted: Wanted, kept: Kept, piece: int) -> Generator[Bar]:
    """The bars of a file, or of the files of an archive, merged."""
    with members(path) as opening:
        sources = [_File(one, wanted, kept).bars(piece) for one in opening]
        yield from sources[0] if len(sources) == 1 else _merged(sources)
        if not sources and wanted.on_file is not None:
            wanted.on_file(FileRead(os.fsdecode(path)))


class _File:
    """One file: how it is understood, its bars, and the words for what is wrong with it."""

    def __init__(self, opening: Callable[[], Opened], wanted: Wanted, kept: Kept) -> None:
        self.opening, self.wanted, self.kept = opening, wanted, kept
        self.read = FileRead("")
        self.row_word = ""  # what a row is called in messages, where it is no line
        self.expected = f"expected {_HEADER}, like {_EXAMPLE}"

    def bars(self, piece: int) -> Generator[Bar]:
        """The bars of the file, about `piece` characters of it in memory at a time where it is text."""
        opened = self.opening()
        self.read.label = opened.label
        if opened.kind == "text":
            with closing(pieces(opened, piece)) as found:
                first = next(found, None)
                if first is not None and self._is_own(first):
                    self._tell()
                    yield from self._own(chain([first], found))
                else:
                    yield from self._text(opened, chain([first or []], found))
        elif opened.kind == "json":
            yield from self._json(opened)
        else:
            from exitfsm.bars import columnar  # is run as a program, too, and must not be there before

            names, rows = columnar.table(opened.label, opened.kind, whole(opened))
            yield from self._named(opened, names, rows, None)

    def _tell(self) -> None:
        if self.wanted.on_file is not None:
            self.wanted.on_file(self.read)

    # --- the library's own files --------------------------------------------------------------------------------------

    def _is_own(self, lines: list[str]) -> bool:
        """True for the header of this library's files and plain rows below, oldest first, each time with its zone."""
        if lines[0].lower().replace(" ", "") != _HEADER:
            return False
        rows = [line.split(",") for line in lines[1 : _OWN_SAMPLE + 1] if line and not line.isspace()]
        try:
            if not all(len(row) == len(COLUMNS) and has_zone(row[1]) for row in rows):
                return False
        except ValueError:
            return False
        return not _is_descending((row[0].upper(), parsed(row[1])) for row in rows)

    def _own(self, found: Iterable[list[str]]) -> Generator[Bar]:
        times, symbols, number, read = self.kept.zoned, self.kept.symbols, 0, self.read
        table: Table | None = None
        for lines in found:
            blank = 0
            if not number:
                lines[0] = _EMPTY
            for line in lines:
                number += 1
                bar = None
                try:
                    symbol, at, o, h, lo, c, volume = line.split(",")
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
                elif not line or line.isspace():
                    blank += 1
                else:
                    table = table or Table((by_header(list(COLUMNS)),), None, times, symbols)
                    yield from self._bars_of_row(table, number, self._cells(line, number))
            read.bars += len(lines) - blank

    def _cells(self, line: str, number: int) -> Row:
        try:
            return next(csv.reader([line], skipinitialspace=True, strict=True), [])
        except csv.Error as error:
            raise self._error(number, str(error), line) from None

    # --- other text ---------------------------------------------------------------------------------------------------

    def _text(self, opened: Opened, found: Iterator[list[str]]) -> Generator[Bar]:
        lines = next(found)
        separator = None
        if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) == 5:  # Excel's own first line
            separator, lines[0] = lines[0].strip()[4], _EMPTY
        head = [line for line in lines if line and not line.isspace()]
        if not head:
            rest = [line for more in found for line in more if line and not line.isspace()]
            if rest:
                raise self._error(1, "the file begins with blank lines", rest[0])
            self._tell()
            return
        self._check_text(lines)
        form, separator = self._form(opened, head, [separator] if separator else _SEPARATORS)
        rows = self._rows(chain([lines], found), separator)
        skipped = list(islice(rows, form.head))
        self.expected = self._said_columns(form, skipped, separator)
        if form.head > 1 and form.name != "yfinance":
            self.read.remarks.append(f"{form.head - 1} lines above the header left out")
        yield from self._understood(opened, form, rows, separator, None)

    def _check_text(self, lines: list[str]) -> None:
        for number, line in enumerate(lines[:HEAD_MAX], 1):
            if any("\udc80" <= char <= "\udcff" for char in line):
                raise self._error(number, "", line)

    def _form(self, opened: Opened, head: list[str], separators: Iterable[str]) -> tuple[Form, str]:
        """How the file holds its bars, and what separates its fields.

        Raises:
            FeedError: it cannot be seen.
        """
        misread: dict[str, str] = {}
        # What splits the first lines into most fields is what was meant; a comma may be a decimal one.
        order = sorted(separators, key=lambda s: -min(line.count(s) for line in head[:HEAD_MAX][-3:]))
        for separator in order:
            try:
                rows = list(islice(csv.reader(head, delimiter=separator, skipinitialspace=True, strict=True), _SAMPLE))
            except csv.Error as error:
                misread.setdefault(separator, str(error))
                rows = []
            try:
                if rows:
                    return form_of(rows, opened.parts), separator
            except Misread as error:
                misread.setdefault(separator, str(error))
        best = order[0]
        split = f"fields separated by {_named(best)}" if best in head[0] else "nothing that separates fields"
        raise FeedError(
            f"{opened.label}:1: {misread.get(best, 'no rows')}. Found: {split}, and the first line {shown(head[0])}. "
            f"A file that works has the header {_HEADER} and lines like {_EXAMPLE}"
        )

    def _said_columns(self, form: Form, skipped: Sequence[Numbered], separator: str) -> str:
        if not skipped:
            return f"expected lines as the first one, {form.layouts[0].width} fields of {form.name or 'bars'}"
        names = separator.join(skipped[-1][1])
        if tuple(name.strip().lower() for name in skipped[-1][1]) == COLUMNS and separator == ",":
            return self.expected
        shown_names = names if len(names) <= _SHOWN_NAMES else f"{names[:_SHOWN_NAMES]}..."
        return f"expected {shown_names}, separated by {_named(separator)}"

    def _rows(self, found: Iterable[list[str]], separator: str) -> Generator[Numbered]:
        """The rows of cells that are not blank, each with the number of its line."""
        before = 0
        for lines in found:
            reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
            try:
                for row in reader:
                    if len(row) > 1 or (row and not row[0].isspace() and row[0]):
                        yield before + reader.line_num, row
            except csv.Error as error:
                at = reader.line_num
                raise self._error(before + at, str(error), lines[min(at, len(lines)) - 1]) from None
            before += len(lines)

    # --- tables -------------------------------------------------------------------------------------------------------

    def _json(self, opened: Opened) -> Generator[Bar]:
        try:
            tables = list(json_tables.tables(whole(opened)))
        except (ValueError, RecursionError) as error:
            raise FeedError(f"{opened.label}: is no JSON that can be read: {str(error)[:100]}") from None
        if not tables:
            raise FeedError(
                f"{opened.label}: JSON without bars: expected rows [time, open, high, low, close, volume], or objects "
                'with names such as {"t": ..., "o": ..., "h": ..., "l": ..., "c": ...}'
            )
        sources = []
        for table in tables:
            one = _File(self.opening, self.wanted, self.kept)
            one.read.label = opened.label
            sources.append(one._named(opened, table.names, iter(table.rows), table.symbol))
        yield from sources[0] if len(sources) == 1 else _merged(sources)

    def _named(self, opened: Opened, names: Row | None, rows: Iterator[Row], symbol: str | None) -> Generator[Bar]:
        """The bars of a table whose names are known, or that has none."""
        self.row_word, self.expected = "row ", "expected " + (",".join(names) if names else "rows as the first one")
        sample = list(islice(rows, _SAMPLE))
        if not sample:
            self._tell()
            return
        try:
            form = Form("", (by_header(names, sample),), 0) if names is not None else form_of(sample, opened.parts)
        except Misread as error:
            found = ",".join(names) if names is not None else ",".join(sample[0])
            raise FeedError(
                f"{opened.label}: {error}. Found: {shown(found)}. A table that works has the columns {_HEADER}"
            ) from None
        form = form._replace(
            name="" if form.name == "no header" else form.name, pairs=names is None or opened.kind != "json"
        )
        yield from self._understood(opened, form, enumerate(chain(sample, rows), 1), ",", symbol)

    # --- understanding ------------------------------------------------------------------------------------------------

    def _understood(
        self, opened: Opened, form: Form, rows: Iterator[Numbered], separator: str, symbol: str | None
    ) -> Generator[Bar]:
        """The bars of rows, once what they mean is settled by the first of them."""
        layout = form.layouts[0]
        sample = list(islice(rows, _SAMPLE))
        fitting = [row for _, row in sample if len(row) >= layout.width]
        day_first = None
        if form.lean_date is None and any(is_ambiguous(_time_text(layout, row)) for row in fitting):
            day_first = order_of_days(_time_text(layout, row) for row in fitting)
            if day_first is None:  # only further down can it be seen which of the numbers is the day
                sample, rows = [*sample, *rows], iter(())
                day_first = self._order_of_days(layout, [row for _, row in sample if len(row) >= layout.width])
        table = self._table(opened, form, fitting, separator, symbol, bool(day_first))
        stamps = ((_cell(row, layout.symbol_at), _stamp(layout, row, bool(day_first))) for row in fitting)
        if form.lean_date is None and _is_descending(stamps):
            self.read.remarks.append("newest first, so turned round")
            sample, rows = [*sample, *rows][::-1], iter(())
        self._tell()
        yield from self._bars(table, chain(sample, rows))

    def _order_of_days(self, layout: Layout, rows: Sequence[Row]) -> bool:
        texts = [_time_text(layout, row) for row in rows]
        day_first = order_of_days(texts)
        if day_first is None:
            day_first = "/" not in next(filter(is_ambiguous, texts))
            said = "day, month" if day_first else "month, day"
            self.read.remarks.append(f"days read as {said}, which nothing in the file shows")
        return day_first

    def _table(
        self, opened: Opened, form: Form, sample: Sequence[Row], separator: str, symbol: str | None, day_first: bool
    ) -> Table:
        """What the rows mean, and what is said of it."""
        read, wanted, layout = self.read, self.wanted, form.layouts[0]
        read.form = form.name
        figure = self._figure(form, sample, separator)
        midnight = parsed(form.lean_date) if form.lean_date is not None else None
        zone = None
        if midnight is not None or not any(_has_zone(layout, row, day_first) for row in sample):
            zone = wanted.zone or ZoneInfo(form.zone or "UTC")
            read.zone = zone.key
        if wanted.adjusted and not layout.adjusted:
            raise FeedError(
                f"{opened.label}: has no adjusted prices (a column such as Adj Close); leave --adjusted out"
            )
        if layout.adjusted:
            read.remarks.append("adjusted prices" if wanted.adjusted else "prices as traded, not adjusted (--adjusted)")
        if layout.asked is not None:
            read.remarks.append("prices between bid and ask")
        if form.scale:
            read.remarks.append("prices divided by 10,000")
        if len(set(layout.prices)) == 1:
            read.remarks.append("one price in a row, so each bar is flat")
        times = self.kept.zoned if zone is None else self.kept.in_utc if zone.key == "UTC" else Times(zone)
        if day_first:
            times = Times(times.zone, day_first)
        return Table(
            form.layouts,
            self._symbol(opened, form, symbol),
            times,
            self.kept.symbols,
            figure=figure,
            scale=form.scale,
            adjusted=wanted.adjusted,
            lean_midnight=midnight,
        )

    def _figure(self, form: Form, sample: Sequence[Row], separator: str) -> Figure:
        texts = (row[place] for row in sample for one in form.layouts for place in {*one.prices, *one.adjusted})
        figure = way_of(texts, separator)
        if figure is not plainly:
            self.read.remarks.append("decimal commas")
        return figure

    def _symbol(self, opened: Opened, form: Form, said: str | None) -> str | None:
        """The symbol of all rows; None where each row says its own."""
        if all(one.symbol_at is not None or one.symbol is not None for one in form.layouts):
            return None
        if said is not None:
            return given_symbol(said)
        if self.wanted.symbol is not None:
            return self.wanted.symbol
        self.read.symbol = symbol_of(form.symbol or opened.name, pairs=form.pairs)
        return self.read.symbol

    def _bars(self, table: Table, rows: Iterable[Numbered]) -> Generator[Bar]:
        read, quick = self.read, table.quick
        for number, row in rows:
            bar = quick(row)
            if bar is not None:
                read.bars += 1
                yield bar
            else:
                yield from self._bars_of_row(table, number, row)

    def _bars_of_row(self, table: Table, number: int, row: Row) -> Generator[Bar]:
        try:
            bars = list(table.bars(row))
        except ValueError as error:
            raise self._error(number, str(error), "".join(row)) from None
        self.read.bars += len(bars)
        yield from bars

    def _error(self, number: int, what: str, text: str) -> FeedError:
        where = f"{self.read.label}:{self.row_word}{number}"
        if any("\udc80" <= char <= "\udcff" for char in text):
            return FeedError(f"{where}: not UTF-8 text; give a text file with the encoding UTF-8")
        return FeedError(f"{where}: {what}; {self.expected}")


def _named(separator: str) -> str:
    return _SEPARATOR_NAMES.get(separator, shown(separator))


def _cell(row: Row, place: int | None) -> str:
    return row[place].strip() if place is not None else ""


def _time_text(layout: Layout, row: Row) -> str:
    return row[layout.at].strip() if layout.clock is None else f"{row[layout.at].strip()} {row[layout.clock].strip()}"


def _stamp(layout: Layout, row: Row, day_first: bool) -> datetime | None:
    try:
        at = parsed(_time_text(layout, row), day_first)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _has_zone(layout: Layout, row: Row, day_first: bool) -> bool:
    """True for a time that names its zone."""
    try:
        return parsed(_time_text(layout, row), day_first).tzinfo is not None
    except ValueError:
        return False


def _is_descending(stamps: Iterable[tuple[str, datetime | None]]) -> bool:
    """True where the times of each symbol go back from row to row, and hardly ever forward."""
    last: dict[str, datetime] = {}
    steps: Counter[bool] = Counter()
    for symbol, at in stamps:
        if at is None:
            continue
        if symbol in last and at != last[symbol]:
            steps[at < last[symbol]] += 1
        last[symbol] = at
    return steps[True] > 4 * steps[False]  # a few lines in the wrong place, or an hour that comes twice


__all__ = ["COLUMNS", "FileRead", "read_bars", "zone_of"]
