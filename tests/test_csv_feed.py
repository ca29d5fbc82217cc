"""Bars from CSV files: what is a bar, what is refused and in which words, and the order in which they come."""

from __future__ import annotations

import csv
import io
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from math import isnan
from pathlib import Path

import pytest
from exitfsm_csv import COLUMNS, read_bars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exitfsm import Bar, FeedError
from exitfsm.bars import reading, tables, times

HEADER = "symbol,timestamp,open,high,low,close,volume\n"
LINE = "AAPL,2014-06-09T13:30:00Z,92.70,92.75,92.61,92.70,1200\n"
NOON = datetime(2014, 6, 9, 12, 0, tzinfo=UTC)

Write = Callable[..., Path]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    """A function that writes a file and returns its path."""

    def write(content: str | bytes, name: str = "bars.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def line(symbol: str, minute: int, close: object = 100) -> str:
    at = (NOON + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{symbol},{at},100,101,99,{close},10\n"


def error_of(path: Path) -> str:
    """What is wrong with a file, without its folder."""
    with pytest.raises(FeedError) as caught:
        list(read_bars(path))
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{path.parent}/")


# --- What is a bar --------------------------------------------------------------------------------------------------


def test_given_a_plain_file_when_read_then_every_field_arrives_exactly(file: Write) -> None:
    path = file(HEADER + LINE + "btc/usd,2014-06-09 15:31:00.5+02:00,0.10,1e1,.1,1_0,0.123456789\n")

    first, second = read_bars(path)

    assert first == Bar("AAPL", datetime(2014, 6, 9, 13, 30, tzinfo=UTC), "92.70", "92.75", "92.61", "92.70", 1200)
    assert str(first.close) == "92.70"
    assert second.symbol == "BTC/USD"
    assert second.timestamp == datetime(2014, 6, 9, 13, 31, 0, 500_000, tzinfo=UTC)
    assert second.timestamp.tzinfo is UTC
    prices = (second.open, second.high, second.low, second.close, second.volume)
    assert prices == tuple(map(Decimal, ("0.1", "10", "0.1", "10", "0.123456789")))


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + HEADER + LINE,
        (HEADER + LINE).replace("\n", "\r\n"),
        (HEADER + LINE).replace("\n", "\r"),
        (HEADER + LINE).rstrip("\n"),
        HEADER + "\n" + LINE + "\n  \n\n",
        HEADER + 'AAPL,2014-06-09T13:30:00Z,"92.70","92.75","92.61","92.70","1200"\n',
        '"' + HEADER.strip().replace(",", '","') + '"\n' + '"' + LINE.strip().replace(",", '","') + '"\n',
        "close,volume,symbol,low,high,open,timestamp\n92.70,1200,AAPL,92.61,92.75,92.70,2014-06-09T13:30:00Z\n",
        'close,volume,symbol,low,high,open,timestamp\n"92.70",1200,AAPL,92.61,92.75,92.70,2014-06-09T13:30:00Z\n',
    ],
    ids=["mark", "crlf", "cr", "no end", "blank", "some quotes", "all quotes", "order", "order and quotes"],
)
def test_given_the_same_bar_in_another_form_when_read_then_it_is_the_same_bar(file: Write, content: str) -> None:
    [bar] = read_bars(file(content))

    assert bar == Bar("AAPL", datetime(2014, 6, 9, 13, 30, tzinfo=UTC), "92.70", "92.75", "92.61", "92.70", 1200)


@pytest.mark.parametrize("price", ["nan", "NaN", "-nan", "inf", "-Infinity", "0", "0.0", "-1", "-0.01"])
@pytest.mark.parametrize("column", [2, 3, 4, 5])
def test_given_an_impossible_price_when_read_then_it_is_a_bar_for_the_engine_to_refuse(
    file: Write, price: str, column: int
) -> None:
    fields = LINE.strip().split(",")
    fields[column] = price

    [bar] = read_bars(file(HEADER + ",".join(fields)))

    assert isnan(bar.floor)
    assert str((bar.open, bar.high, bar.low, bar.close)[column - 2]) == str(Decimal(price))


def test_given_a_high_below_the_low_when_read_then_it_is_a_bar_for_the_engine_to_refuse(file: Write) -> None:
    [bar] = read_bars(file(HEADER + "AAPL,2014-06-09T13:30:00Z,1,1,2,1,0\n"))

    assert isnan(bar.floor)


def test_given_a_header_alone_when_read_then_there_are_no_bars(file: Write) -> None:
    assert list(read_bars(file(HEADER))) == []
    assert list(read_bars(file(""))) == []
    assert list(read_bars(file("\n \n"))) == []
    assert list(read_bars(file(HEADER.strip()))) == []
    assert list(read_bars()) == []


# --- What is refused ------------------------------------------------------------------------------------------------

EXPECTED = f"; expected {HEADER.strip()}, like AAPL,2014-06-09T13:30:00Z,92.70,92.75,92.61,92.70,1200"


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        ("AAPL,2014-06-09T13:30:00Z,1,2,1,1", "6 fields instead of 7"),
        ("AAPL,2014-06-09T13:30:00Z,1,2,1,1,5,6", "8 fields instead of 7"),
        ("AAPL,2014-06", "2 fields instead of 7"),
        ("AAPL;2014-06-09T13:30:00Z;1;2;1;1;5", "1 fields instead of 7"),
        ('AAPL,2014-06-09T13:30:00Z,1,2,1,1,"1,20"', "volume '1,20' is not a number"),
        ('AAPL,2014-06-09T13:30:00Z,"1,2,1,1,5', "unexpected end of data"),
        ('AAPL,2014-06-09T13:30:00Z,"1"2,1,1,5,5', "',' expected after '\"'"),
        ("AAPL,2014-06-09T13:30:00Z,one,2,1,1,5", "open 'one' is not a number"),
        ("AAPL,2014-06-09T13:30:00Z,1,2;3,1,1,5", "high '2;3' is not a number"),
        ("AAPL,2014-06-09T13:30:00Z,1,2,0x1,1,5", "low '0x1' is not a number"),
        ("AAPL,2014-06-09T13:30:00Z,1,2,1,1\0,5", "close '1\\x00' is not a number"),
        ("AAPL,2014-06-09T13:30:00Z,1,2,1,snan,5", "close 'snan' is not a number"),
        ("AAPL,2014-06-09T13:30:00Z,1,2,1,1e99999999999999999999,5", "close '1e99999999999999999999' is not a number"),
        ("AAPL,2014-06-09T13:30:00Z,1,2,1,1,many", "volume 'many' is not a number"),
        ("AAPL,2014-06-09T13:30:00Z,1,2,1,1," + "x" * 99, f"volume '{'x' * 60}...' is not a number"),
        ("AAPL,2014-06-09T13:30:00,1,2,1,1,5", "timestamp '2014-06-09T13:30:00' has no time zone"),
        ("AAPL,2014-06-09,1,2,1,1,5", "timestamp '2014-06-09' has no time zone"),
        ("AAPL,14023,1,2,1,1,5", "timestamp '14023' is not a time"),
        ("AAPL,2014-02-30T13:30:00Z,1,2,1,1,5", "timestamp '2014-02-30T13:30:00Z' is not a time"),
        ("AAPL,0001-01-01T00:00:00+10:00,1,2,1,1,5", "timestamp '0001-01-01T00:00:00+10:00' is not a time"),
        ("AAPL,,1,2,1,1,5", "timestamp '' is not a time"),
        (",2014-06-09T13:30:00Z,1,2,1,1,5", "'' is not a symbol"),
        ("A\x07APL,2014-06-09T13:30:00Z,1,2,1,1,5", r"'A\x07APL' is not a symbol"),
        ("A" * 65 + ",2014-06-09T13:30:00Z,1,2,1,1,5", f"symbol '{'A' * 60}...' is too long"),
        ("\0" * 99, "1 fields instead of 7"),
    ],
)
def test_given_a_malformed_line_when_read_then_file_line_fault_and_what_is_expected_are_named(
    file: Write, bad: str, wrong: str
) -> None:
    text = error_of(file(f"{HEADER}{LINE}\n{bad}\n{LINE}"))

    assert text.startswith(f"bars.csv:4: {wrong}")
    assert text.endswith(EXPECTED)


def test_given_a_malformed_line_when_read_then_the_bars_before_it_have_come(file: Write) -> None:
    bars = read_bars(file(HEADER + LINE + "broken\n"))

    assert next(bars).symbol == "AAPL"
    with pytest.raises(FeedError):
        next(bars)
    assert list(bars) == []


def test_given_a_bad_line_far_down_when_read_then_its_number_is_right(file: Write) -> None:
    content = HEADER + "".join(line("AAPL", minute) for minute in range(20_000)) + "broken\n"

    assert error_of(file(content)).startswith("bars.csv:20002: 1 fields instead of 7")


def test_given_another_column_order_when_a_line_is_too_long_then_nothing_is_dropped_in_silence(file: Write) -> None:
    content = "timestamp,symbol,open,high,low,close,volume\n2014-06-09T13:30:00Z,AAPL,1,2,1,1,5,6\n"

    assert error_of(file(content)).startswith("bars.csv:2: 8 fields instead of 7")


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ("symbol,timestamp,open,high,low,volume", "no column for close"),
        ("symbol,open,high,low,close,volume", "no column for time (looked for timestamp, time"),
        ("symbol,timestamp,open,close,volume", "no column for high and low"),
        ("symbol,timestamp,open,high,low,close,volume,open", "column open is there twice"),
        ("one,two,three", "no header with a time and a close"),
        ("\0\0", "no header with a time and a close"),
    ],
)
def test_given_a_header_that_is_not_understood_then_what_was_found_and_a_line_that_works_are_said(
    file: Write, header: str, wrong: str
) -> None:
    text = error_of(file(f"{header}\nsome,thing,else\n"))

    assert text.startswith(f"bars.csv:1: {wrong}")
    split = "fields separated by a comma" if "," in header else "nothing that separates fields"
    assert f"Found: {split}, and the first line {header!r}" in text
    assert text.endswith(f" has the header {HEADER.strip()} and lines like {LINE.strip()}")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x1f\x8b\x08\x00", "bars.csv: cannot be read: the compressed data ends too early"),
        (b"PK\x03\x04 and no more", "bars.csv: cannot be read: File is not a zip file"),
        (b"\xd0\xcf\x11\xe0 and more", "bars.csv: is an Excel workbook: save the sheet as CSV"),
        (HEADER.encode() + LINE.encode() + b"\xff" + LINE.encode(), "bars.csv:3: not UTF-8 text"),
        (HEADER.encode() + LINE.encode().replace(b"92.61", b"\xe9"), "bars.csv:2: not UTF-8 text"),
        (HEADER.encode() + b"x" * 2_000_000, "bars.csv:2: a line of more than 65536 characters is no bar"),
        (b"x" * 2_000_000, "bars.csv:1: a line of more than 65536 characters is no bar"),
        (
            HEADER.encode() + b"A" * 200_000 + LINE.encode(),
            "bars.csv:2: a line of more than 65536 characters is no bar",
        ),
        (HEADER.encode() + LINE.encode() + b"\0" * 100, "bars.csv:3: 1 fields instead of 7"),
    ],
    ids=["gzip", "zip", "xls", "latin symbol", "latin price", "endless", "no lines", "field", "torn write"],
)
def test_given_a_file_that_is_no_csv_when_read_then_it_says_so(file: Write, content: bytes, found: str) -> None:
    assert error_of(file(content)).startswith(found)


@pytest.mark.parametrize("name", ["missing.csv", ".", "a\0b"])
def test_given_a_file_that_cannot_be_read_when_read_then_it_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(FeedError, match="cannot be read: "):
        list(read_bars(f"{tmp_path}/{name}"))


def test_given_one_of_several_files_is_missing_when_read_then_nothing_comes_first(file: Write, tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"missing\.csv: cannot be read"):
        next(read_bars(file(HEADER + LINE), tmp_path / "missing.csv"))


_BYTES = st.lists(
    st.sampled_from([*LINE.strip().split(","), *',,,,\n\n"\0\r-', "é", "nan", "\udcff", "\ud800", " "]), max_size=40
).map("".join)


@given(_BYTES | st.text(), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_given_any_junk_when_read_then_there_are_bars_or_one_feed_error(
    tmp_path: Path, junk: str, headed: bool
) -> None:
    path = tmp_path / "junk.csv"
    path.write_bytes(((HEADER if headed else "") + junk).encode("utf-8", "surrogatepass"))

    def bars() -> Iterator[Bar]:
        try:
            yield from read_bars(path)
        except FeedError as error:
            assert str(error).startswith(str(path))  # noqa: PT017  whether it raises is not the question

    for bar in bars():
        assert repr(bar)  # whatever is a bar has prices that can be read


# --- In which order -------------------------------------------------------------------------------------------------


def names(*paths: Path) -> list[str]:
    return [f"{bar.symbol}{int((bar.timestamp - NOON).total_seconds()) // 60}" for bar in read_bars(*paths)]


def test_given_several_files_when_read_then_bars_come_in_time_order_and_ties_in_the_order_given(file: Write) -> None:
    a = file(HEADER + line("A", 0) + line("A", 1) + line("A", 4), "a.csv")
    b = file(HEADER + line("B", 1) + line("C", 1) + line("B", 3), "b.csv")

    assert names(a, b) == ["A0", "A1", "B1", "C1", "B3", "A4"]
    assert names(b, a) == ["A0", "B1", "C1", "A1", "B3", "A4"]


def test_given_files_that_follow_one_another_when_read_then_they_are_chained(file: Write) -> None:
    days = [file(HEADER + line("A", day * 10) + line("A", day * 10 + 1), f"{day}.csv") for day in range(3)]

    assert names(days[2], days[0], days[1]) == ["A0", "A1", "A10", "A11", "A20", "A21"]


def test_given_an_empty_file_among_others_when_read_then_it_adds_nothing(file: Write) -> None:
    assert names(file(HEADER, "none.csv"), file(HEADER + line("A", 0), "a.csv")) == ["A0"]


def test_given_lines_out_of_order_when_read_then_they_are_passed_on_where_they_stand(file: Write) -> None:
    a = file(HEADER + line("A", 5) + line("A", 2) + line("A", 5) + line("A", 6), "a.csv")
    b = file(HEADER + line("B", 4) + line("B", 7), "b.csv")

    assert names(a) == ["A5", "A2", "A5", "A6"]
    assert names(a, b) == ["B4", "A5", "A2", "A5", "A6", "B7"]


@given(st.lists(st.lists(st.integers(0, 20), max_size=12).map(sorted), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_given_any_files_in_order_when_read_then_it_is_a_stable_sort_of_all_lines(
    tmp_path: Path, minutes: list[list[int]]
) -> None:
    paths = [tmp_path / f"{index}.csv" for index in range(len(minutes))]
    for index, path in enumerate(paths):
        path.write_text(HEADER + "".join(line(f"S{index}", minute) for minute in minutes[index]))

    every = [(minute, f"S{index}{minute}") for index, column in enumerate(minutes) for minute in column]

    assert names(*paths) == [name for _, name in sorted(every, key=lambda pair: pair[0])]


_PRICES = st.decimals(0, 10_000, places=4, allow_nan=False).map(str)
_ROWS = st.tuples(
    st.sampled_from(["AAPL", "BRK.B", "BTC/USD"]),
    st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001  made aware below
    *(_PRICES,) * 5,
)


@given(st.lists(_ROWS, max_size=10), st.permutations(COLUMNS), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_given_any_bars_when_written_by_a_csv_writer_then_the_same_bars_are_read(
    tmp_path: Path, rows: list[tuple[str, datetime, str, str, str, str, str]], order: list[str], quoting: int
) -> None:
    bars = [(symbol, at.replace(tzinfo=UTC), *figures) for symbol, at, *figures in rows]
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting)
    writer.writerow(order)
    for symbol, at, *figures in bars:
        fields = dict(zip(COLUMNS, [symbol, at.isoformat(), *figures], strict=True))
        writer.writerow([fields[name] for name in order])
    path = tmp_path / "written.csv"
    path.write_text(text.getvalue(), newline="")

    assert list(read_bars(path)) == [Bar(*bar) for bar in bars]


@given(st.lists(st.tuples(*(st.sampled_from(["99.1", "1e2", "100.0000000000000000001", "101", "0", "nan"]),) * 4)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_given_any_prices_when_read_then_the_floor_and_ceiling_are_those_of_a_bar_made_by_hand(
    tmp_path: Path, rows: list[tuple[str, str, str, str]]
) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(HEADER + "".join(f"AAPL,{NOON.isoformat()},{','.join(prices)},1\n" for prices in rows))

    read = list(read_bars(path))
    made = [Bar("AAPL", NOON, *prices, 1) for prices in rows]
    assert str(read) == str(made)
    assert str([(b.floor, b.ceiling) for b in read]) == str([(b.floor, b.ceiling) for b in made])  # as text: NaN is NaN


# --- At what cost ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [1, 3])
def test_given_a_file_five_times_as_long_when_read_then_it_takes_no_more_memory(
    file: Write, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_BUFFER", 1 << 12)
    monkeypatch.setattr(reading, "_PIECE_MIN", 1 << 12)
    monkeypatch.setattr(times, "CACHE_MAX", 100)
    monkeypatch.setattr(tables, "CACHE_MAX", 100)

    def peak(bars: int) -> int:
        content = HEADER + "".join(line(f"S{minute % 500}", minute) for minute in range(bars))
        paths = [file(content, f"{bars}-{index}.csv") for index in range(files)]
        tracemalloc.start()
        for _ in read_bars(*paths):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(25_000) < 1.2 * peak(5_000)  # from then on every cache is full


def test_given_a_reader_that_stops_early_when_dropped_then_the_files_are_closed(file: Write) -> None:
    # An open file that is collected is a ResourceWarning, and warnings are errors here.
    paths = [file(HEADER + LINE + LINE, f"{index}.csv") for index in range(3)]

    next(read_bars(*paths))
    next(read_bars(paths[0]))
