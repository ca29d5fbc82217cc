"""Bars as people have them: whatever the header, separator, numbers, times and packing, the same bars."""

# Times on the wall are meant, and a file stands in one line of a table.
# ruff: noqa: DTZ001, E501

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exitfsm.bars import FileRead, columnar, read_bars
from exitfsm.bars.names import BAR_NAMES, FILE_NAMES
from exitfsm.bars.symbols import symbol_of
from exitfsm.bars.times import parsed
from exitfsm.broker.market import bar_of
from exitfsm.broker.spellings import SPELLINGS
from exitfsm.errors import FeedError
from exitfsm.values import Bar

AT = datetime(2026, 1, 5, 14, 30, tzinfo=UTC)
MIDNIGHT = datetime(2026, 1, 5, tzinfo=UTC)
PRICES = [("100", "100", "100", "100"), ("101", "103", "101", "103"), ("104", "104", "104", "104")]
OWN = """symbol,timestamp,open,high,low,close,volume
AAPL,2026-01-05T14:30:00Z,100,100,100,100,10
AAPL,2026-01-05T14:31:00Z,101,103,101,103,10
AAPL,2026-01-05T14:32:00Z,104,104,104,104,10
"""

packed = partial(gzip.compress, mtime=0)  # the same bytes in each process
Write = Callable[[str, "str | bytes"], Path]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    """A function that writes a file of a name and returns its path."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def rows(header: str, row: str, *times: str) -> str:
    """A table: a row for each time, `{t}` its time and `{o}`, `{h}`, `{l}`, `{c}` the prices."""
    lines = [
        row.format(t=time, o=o, h=h, l=low, c=c)
        for time, (o, h, low, c) in zip(times, PRICES, strict=True)
    ]  # fmt: skip
    return "\n".join([*header.splitlines(), *lines]) + "\n"


def zipped(name: str, content: str) -> bytes:
    content_of = io.BytesIO()
    with zipfile.ZipFile(content_of, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
        archive.writestr(zipfile.ZipInfo("__MACOSX/._" + name), "left behind by a system")
    return content_of.getvalue()


def told(path: Path, **how: object) -> tuple[list[Bar], list[FileRead]]:
    read: list[FileRead] = []
    return list(read_bars(path, on_file=read.append, **how)), read  # type: ignore[arg-type]


def backwards(text: str, above: int = 1) -> str:
    lines = text.splitlines()
    return "\n".join([*lines[:above], *reversed(lines[above:])]) + "\n"


def own_with(*times: str) -> str:
    text = OWN
    for minute, time in zip((30, 31, 32), times, strict=True):
        text = text.replace(f"2026-01-05T14:{minute}:00Z", time)
    return text


MINUTES = ("2026-01-05 14:30:00", "2026-01-05 14:31:00", "2026-01-05 14:32:00")
DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")
SECONDS = [1767623400, 1767623460, 1767623520]
KLINE = "{t},{o},{h},{l},{c},10,1767623459999,1,1,1,1,0"
MT5 = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>"
MT5_DAYS = [f"2026.01.05\t14:{minute}:00" for minute in (30, 31, 32)]
STOOQ = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>"
QUANDL = "Date,Open,High,Low,Close,Volume,Ex-Dividend,Adj. Open,Adj. High,Adj. Low,Adj. Close,Adj. Volume"

#: What the file is, its name, its content, the symbol and the first time that it has.
TEXTS: list[tuple[str, str, str | bytes, str, datetime]] = [
    ("own", "a.csv", OWN, "AAPL", AT),
    ("capitals", "a.csv", OWN.replace("symbol,timestamp,open", "Symbol,TIMESTAMP,Open"), "AAPL", AT),
    ("blanks", "a.csv", OWN.replace(",", ", "), "AAPL", AT),
    ("tabs", "a.tsv", OWN.replace(",", "\t"), "AAPL", AT),
    ("semicolons", "a.csv", OWN.replace(",", ";"), "AAPL", AT),
    ("bars", "a.txt", OWN.replace(",", "|"), "AAPL", AT),
    ("Excel's first line", "a.csv", "sep=;\n" + OWN.replace(",", ";"), "AAPL", AT),
    ("UTF-16", "a.csv", OWN.encode("utf-16"), "AAPL", AT),
    ("newest first", "a.csv", backwards(OWN), "AAPL", AT),
    ("gzip", "a.csv.gz", packed(OWN.encode()), "AAPL", AT),
    ("zip", "a.zip", zipped("a.csv", OWN), "AAPL", AT),
    ("no volume", "a.csv", re.sub(r",[^,\n]*$", "", OWN, flags=re.MULTILINE), "AAPL", AT),
    ("no header", "a.csv", OWN.partition("\n")[2], "AAPL", AT),
    ("more columns", "a.csv", re.sub(r"$", ",x", OWN.strip(), flags=re.MULTILINE), "AAPL", AT),
    ("a table with an index", "AAPL.csv", rows(",Open,High,Low,Close", "{t},{o},{h},{l},{c}", *DAYS), "AAPL", MIDNIGHT),
    ("seconds", "a.csv", own_with(*(str(s) for s in SECONDS)), "AAPL", AT),
    ("milliseconds", "a.csv", own_with(*(f"{s}000" for s in SECONDS)), "AAPL", AT),
    ("microseconds", "a.csv", own_with(*(f"{s}000000" for s in SECONDS)), "AAPL", AT),
    ("nanoseconds", "a.csv", own_with(*(f"{s}000000000" for s in SECONDS)), "AAPL", AT),
    ("no zone", "a.csv", OWN.replace("Z,", ","), "AAPL", AT),
    ("Alpaca", "a.csv",
     rows("symbol,timestamp,open,high,low,close,volume,trade_count,vwap", "AAPL,{t}+00:00,{o},{h},{l},{c},10,3,1", *MINUTES),
     "AAPL", AT),
    ("Yahoo", "AAPL.csv",
     rows("Date,Open,High,Low,Close,Adj Close,Volume", "{t},{o},{h},{l},{c},7,10", *DAYS), "AAPL", MIDNIGHT),
    ("Yahoo by minute", "AAPL.csv",
     rows("Datetime,Open,High,Low,Close,Adj Close,Volume", "{t}-05:00,{o},{h},{l},{c},7,10",
          *(t.replace("14:", "09:") for t in MINUTES)), "AAPL", AT),
    ("yfinance", "x.csv",
     rows("Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,", "{t},{c},{h},{l},{o},10", *DAYS),
     "AAPL", MIDNIGHT),
    ("yfinance by ticker", "x.csv",
     rows("Ticker,AAPL,AAPL,AAPL,AAPL\nPrice,Open,High,Low,Close\nDate,,,,", "{t},{o},{h},{l},{c}", *DAYS), "AAPL", MIDNIGHT),
    ("Quandl", "WIKI-AAPL-2026-quandl.csv",
     backwards(rows(QUANDL, "{t},{o},{h},{l},{c},10,0.0,1,1,1,1,10", *DAYS)), "AAPL", MIDNIGHT),
    ("Binance", "BTCUSDT-1m-2026-01.csv", rows("", KLINE, *(f"{s}000" for s in SECONDS)).lstrip(), "BTCUSDT", AT),
    ("Binance in µs", "BTCUSDT-1m.csv", rows("", KLINE, *(f"{s}000000" for s in SECONDS)).lstrip(), "BTCUSDT", AT),
    ("Stooq", "aapl.us.txt",
     rows(STOOQ, "AAPL.US,5,20260105,{t},{o},{h},{l},{c},10,0", "143000", "143100", "143200"), "AAPL.US", AT),
    ("MetaTrader 5", "EURUSD_M1_202601050000_202601052359.csv", rows(MT5, "{t}\t{o}\t{h}\t{l}\t{c}\t1\t0\t1", *MT5_DAYS),
     "EURUSD", AT),
    ("MetaTrader 4", "EURUSD.csv",
     rows("", "2026.01.05,{t},{o},{h},{l},{c},10", "14:30", "14:31", "14:32").lstrip(), "EURUSD", AT),
    ("TradingView", "NASDAQ_AAPL, 1D.csv", rows("time,open,high,low,close,Volume", "{t},{o},{h},{l},{c},1", *map(str, SECONDS)),
     "AAPL", AT),
    ("Polygon", "2026-01-05.csv.gz",
     packed(rows("ticker,volume,open,close,high,low,window_start,transactions", "AAPL,10,{o},{c},{h},{l},{t},3",
                        *(f"{s}000000000" for s in SECONDS)).encode()), "AAPL", AT),
    ("LEAN by minute", "20260105_trade.zip",
     zipped("20260105_aapl_minute_trade.csv",
            rows("", "{t},{o}0000,{h}0000,{l}0000,{c}0000,10", "34200000", "34260000", "34320000").lstrip()), "AAPL", AT),
    ("LEAN by day", "aapl.zip",
     zipped("aapl.csv", rows("", "{t} 00:00,{o}0000,{h}0000,{l}0000,{c}0000,10", "20260105", "20260106", "20260107").lstrip()),
     "AAPL", datetime(2026, 1, 5, 5, tzinfo=UTC)),
    ("LEAN's crypto", "20260105_trade.zip",
     zipped("20260105_btcusd_minute_trade.csv",
            rows("", "{t},{o}.0,{h}.0,{l}.0,{c}.0,0.1", "52200000", "52260000", "52320000").lstrip()), "BTCUSD", AT),
    ("LEAN's quotes", "20260105_quote.zip",
     zipped("20260105_aapl_minute_quote.csv",
            rows("", "{t},{o}0000,{h}0000,{l}0000,{c}0000,1,{o}0000,{h}0000,{l}0000,{c}0000,1", "34200000", "34260000", "34320000")
            .lstrip()), "AAPL", AT),
    ("NinjaTrader", "SPY.csv", rows("", "20260105 {t};{o};{h};{l};{c};1", "143000", "143100", "143200").lstrip(), "SPY", AT),
    ("Kraken", "XBTUSD.csv", rows("", "{t},{o},{h},{l},{c},10,1", *map(str, SECONDS)).lstrip(), "XBTUSD", AT),
    ("Dukascopy", "EURUSD_Candlestick.csv",
     rows("Gmt time,Open,High,Low,Close,Volume", "05.01.2026 {t}.000,{o},{h},{l},{c},1", "14:30:00", "14:31:00", "14:32:00"),
     "EURUSD", AT),
    ("Investing", "AAPL Historical Data.csv",
     backwards(rows('"Date","Price","Open","High","Low","Vol.","Change %"', '"{t}","{c}.00","{o}.00","{h}.00","{l}.00","1.2M","0.9%"',
                    "01/05/2026", "01/06/2026", "01/30/2026")), "AAPL", MIDNIGHT),
    ("Nasdaq", "AAPL.csv",
     backwards(rows("Date,Close/Last,Volume,Open,High,Low", "{t},${c}.00,10,${o}.00,${h}.00,${l}.00",
                    "01/05/2026", "01/06/2026", "01/07/2026")), "AAPL", MIDNIGHT),
    ("CryptoDataDownload", "Binance_BTCUSDT_1h.csv",
     backwards(rows("https://www.CryptoDataDownload.com\nUnix,Date,Symbol,Open,High,Low,Close,Volume BTC,Volume USDT",
                    "{t},x,BTCUSDT,{o},{h},{l},{c},1,2", *(f"{s}000" for s in SECONDS)), 2), "BTCUSDT", AT),
    ("Google", "orcl-2026-googlefinance.csv",
     backwards(rows("Date,Open,High,Low,Close,Volume", "{t},{o},{h},{l},{c},1", "5-Jan-26", "6-Jan-26", "7-Jan-26")),
     "ORCL", MIDNIGHT),
    ("a time of day that the header leaves out", "fut.txt",
     rows("Date,Open,High,Low,Close,Volume", "2026-01-05,{t},{o},{h},{l},{c},1", "14:30:00", "14:31:00", "14:32:00"), "FUT", AT),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "symbol", "first"), [pytest.param(*t[1:], id=t[0]) for t in TEXTS])
def test_given_a_file_as_people_have_it_when_read_then_its_bars_are_there(
    file: Write, name: str, content: str | bytes, symbol: str, first: datetime
) -> None:
    bars, (read,) = told(file(name, content))
    assert [b.symbol for b in bars] == [symbol] * 3
    assert [(b.open, b.high, b.low, b.close) for b in bars] == [tuple(map(Decimal, prices)) for prices in PRICES]
    assert bars[0].timestamp == first
    assert sorted(bars, key=lambda b: b.timestamp) == bars
    assert read.bars == 3


def objects(time: str = "t") -> list[dict[str, object]]:
    return [
        {time: second * 1000, "o": int(o), "h": int(h), "l": int(low), "c": int(c), "v": 10}
        for second, (o, h, low, c) in zip(SECONDS, PRICES, strict=True)
    ]


LISTS = [[o["t"], o["o"], o["h"], o["l"], o["c"], 1] for o in objects()]
COLUMNS = {name: [o[name] for o in objects()] for name in "tohlc"}
NAMED = [{"open": o["o"], "high": o["h"], "low": o["l"], "close": o["c"]} for o in objects()]
QUOTE = {"open": COLUMNS["o"], "high": COLUMNS["h"], "low": COLUMNS["l"], "close": COLUMNS["c"]}

JSONS: list[tuple[str, str, object, str]] = [
    ("Alpaca", "a.json", {"bars": {"AAPL": objects()}}, "AAPL"),
    ("Alpaca, one symbol", "a.json", {"bars": objects(), "symbol": "AAPL", "next_page_token": None}, "AAPL"),
    ("Polygon", "a.json", {"ticker": "AAPL", "status": "OK", "results": objects()}, "AAPL"),
    ("freqtrade", "BTC_USDT-5m.json", LISTS, "BTC/USDT"),
    ("Finnhub", "AAPL.json", {**COLUMNS, "s": "ok"}, "AAPL"),
    ("Yahoo", "a.json",
     {"chart": {"result": [{"meta": {"symbol": "AAPL"}, "timestamp": SECONDS, "indicators": {"quote": [QUOTE]}}]}}, "AAPL"),
    ("Twelve Data", "a.json", {"meta": {"symbol": "AAPL"}, "values": objects("datetime")[::-1], "status": "ok"}, "AAPL"),
    ("Alpha Vantage", "a.json",
     {"Meta Data": {"2. Symbol": "AAPL"},
      "Time Series (1min)": {str(second): {f"{n}. {k}": v for n, (k, v) in enumerate(bar.items(), 1)}
                             for second, bar in list(zip(SECONDS, NAMED, strict=True))[::-1]}}, "AAPL"),
    ("pandas, by column", "AAPL.json",
     {"date": {str(n): second * 1000 for n, second in enumerate(SECONDS)},
      **{name: {str(n): value for n, value in enumerate(cells)} for name, cells in QUOTE.items()}}, "AAPL"),
    ("pandas, split", "AAPL.json",
     {"columns": list(QUOTE), "index": [s * 1000 for s in SECONDS], "data": [list(bar.values()) for bar in NAMED]}, "AAPL"),
    ("pandas, by row", "AAPL.json", {str(s * 1000): bar for s, bar in zip(SECONDS, NAMED, strict=True)}, "AAPL"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "symbol"), [pytest.param(*t[1:], id=t[0]) for t in JSONS])
def test_given_json_as_vendors_have_it_when_read_then_its_bars_are_there(
    file: Write, name: str, content: object, symbol: str
) -> None:
    bars, _ = told(file(name, json.dumps(content)))
    assert [(b.symbol, str(b.open), str(b.close)) for b in bars] == [(symbol, o, c) for o, _, _, c in PRICES]
    assert bars[0].timestamp == AT


def test_given_lines_of_json_then_they_are_rows(file: Write) -> None:
    bars, _ = told(file("AAPL.jsonl", "\n".join(map(json.dumps, objects()))))
    assert [str(b.close) for b in bars] == ["100", "103", "104"]


def test_given_a_number_in_json_then_its_text_is_kept(file: Write) -> None:
    bars, _ = told(file("A.json", "[[1767623400000, 0.10, 0.100000000000000000001, 0.10, 0.1, 1]]"))
    assert (str(bars[0].open), str(bars[0].high)) == ("0.10", "0.100000000000000000001")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrow stream"])
def test_given_a_table_of_columns_then_its_bars_are_there(file: Write, kind: str) -> None:
    arro3 = pytest.importorskip("arro3.core", reason="the extra `columns` is not installed")
    io_of = pytest.importorskip("arro3.io")
    nanoseconds = arro3.Array([s * 1_000_000_000 for s in SECONDS], type=arro3.DataType.int64())
    times = nanoseconds.cast(arro3.DataType.timestamp("ns", tz="America/New_York"))
    floats = {
        n: arro3.Array([float(p[i]) for p in PRICES], type=arro3.DataType.float64()) for i, n in enumerate("ohlc")
    }
    thirds = arro3.Array([101.35, 0.1, 1e-5], type=arro3.DataType.float32())
    table = arro3.Table.from_arrays(
        [times, *floats.values(), thirds], names=["__index_level_0__", "open", "high", "low", "close", "volume"]
    )
    content = io.BytesIO()
    write = {"parquet": io_of.write_parquet, "arrow": io_of.write_ipc, "arrow stream": io_of.write_ipc_stream}[kind]
    write(table, content)
    bars, (read,) = told(file("AAPL.parquet", content.getvalue()))
    assert [(b.symbol, b.open, b.close) for b in bars] == [("AAPL", Decimal(o), Decimal(c)) for o, _, _, c in PRICES]
    assert [b.timestamp for b in bars] == [AT + timedelta(minutes=n) for n in range(3)]
    assert [str(b.volume) for b in bars] == ["101.35", "0.1", "0.00001"]
    assert (read.zone, read.bars) == (None, 3)


def test_given_no_reader_of_columns_then_the_program_ends_with_the_code_that_says_so() -> None:
    code = (
        "import importlib.util, sys\n"
        "from exitfsm.bars import columnar\n"
        "importlib.util.find_spec = lambda name: None\n"
        "sys.exit(columnar._convert('parquet'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3


def test_given_a_parquet_file_that_is_none_or_without_the_extra_then_it_says_so(
    file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("arro3.io", reason="the extra `columns` is not installed")
    for damaged in (b"PAR1 and no more", b"ARROW1\0\0 and no more", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"PAR1" * 9):
        with pytest.raises(FeedError, match=r"a.bin: cannot be read as \w+"):
            told(file("a.bin", damaged))
    absent = subprocess.CompletedProcess([], 3, b"", b"")  # as it ends where arro3 is not there
    monkeypatch.setattr(columnar.subprocess, "run", lambda *_, **__: absent)
    with pytest.raises(FeedError, match=r"pip install exitfsm\[columns\]"):
        columnar.table("a.parquet", "parquet", b"")


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("separator", "cell", "price"),
    [
        (",", '"1,234.50"', "1234.50"), (",", '"1,234"', "1234"), (",", '"1,5"', "1.5"), (",", "$12.50", "12.50"),
        (";", "1,5", "1.5"), (";", "1.234,50", "1234.50"), (";", "1,234", "1.234"), (";", "1 234,5", "1234.5"),
        (";", "1,234.50", "1234.50"), (";", "1.234", "1.234"), ("\t", "0,0001", "0.0001"), (",", "1'234.5", "1234.5"),
        (",", "12,34,567.5".join('""'), "1234567.5"), (",", "1e-8", "1e-8"), (";", "12,", "12"),
    ],
)  # fmt: skip
def test_given_numbers_as_people_write_them_then_they_are_what_was_meant(
    file: Write, separator: str, cell: str, price: str
) -> None:
    lines = [separator.join(["symbol", "timestamp", "open", "high", "low", "close"])]
    lines += [separator.join(["A", f"2026-01-0{day}", cell, cell, cell, cell]) for day in (1, 2)]
    bars, _ = told(file("a.csv", "\n".join(lines)))
    assert [b.close for b in bars] == [Decimal(price)] * 2


@pytest.mark.parametrize("empty", ["", "null", "NaN", "-", "N/A", "None"])
def test_given_a_cell_without_a_price_then_the_bar_is_for_the_engine_to_refuse(file: Write, empty: str) -> None:
    bars, _ = told(
        file("A.csv", f"Date,Open,High,Low,Close,Volume\n2026-01-05,1,1,1,1,1\n2026-01-06,1,{empty},1,1,{empty}\n")
    )
    assert [str(b.high) for b in bars] == ["1", "NaN"]


def test_given_a_number_that_is_written_another_way_than_those_above_then_it_is_refused(file: Write) -> None:
    path = file(
        "A.csv", "Date;Open;High;Low;Close\n" + "2026-01-05;1,5;1,5;1,5;1,5\n" * 1200 + "2026-01-06;1.55;1,6;1,5;1,5\n"
    )
    with pytest.raises(FeedError, match=r"A.csv:1202: open '1.55' is not a number"):
        told(path)


def test_given_adjusted_prices_then_they_are_taken_when_they_are_wanted(file: Write) -> None:
    yahoo = file(
        "AAPL.csv", "Date,Open,High,Low,Close,Adj Close\n2026-01-05,198,202,196,200,50\n2026-01-06,99,101,98,100,50\n"
    )
    assert [str(b.close) for b in told(yahoo)[0]] == ["200", "100"]
    adjusted, (read,) = told(yahoo, adjusted=True)
    assert [tuple(map(str, (b.open, b.high, b.low, b.close))) for b in adjusted] == [
        ("49.5", "50.5", "49", "50"),
        ("49.5", "50.5", "49", "50"),
    ]
    assert "adjusted prices" in read.remarks
    quandl = file("Q.csv", f"{QUANDL}\n2026-01-05,198,202,196,200,1,0,50,51,49,50,1\n")
    assert [str(b.high) for b in told(quandl, adjusted=True)[0]] == ["51"]
    with pytest.raises(FeedError, match=r"a.csv: has no adjusted prices"):
        told(file("a.csv", OWN.replace("Z,", ",")), adjusted=True)


# --- times ------------------------------------------------------------------------------------------------------------


def test_given_times_without_a_zone_then_the_zone_is_said_and_can_be_given(file: Write) -> None:
    naive = file("a.csv", OWN.replace("Z,", ","))
    bars, (read,) = told(naive)
    assert (bars[0].timestamp, read.zone) == (AT, "UTC")
    assert "times without a zone read as UTC" in read.words()
    bars, (read,) = told(naive, timezone="America/New_York")
    assert (bars[0].timestamp, read.zone) == (AT + timedelta(hours=5), "America/New_York")
    zoned = file("b.csv", OWN)
    bars, (read,) = told(zoned, timezone="America/New_York")
    assert (bars[0].timestamp, read.zone, read.words()) == (AT, None, "")
    with pytest.raises(FeedError, match=r"'Mars/Olympus' is no time zone: give an IANA name"):
        read_bars(naive, timezone="Mars/Olympus")


@pytest.mark.parametrize("lines", [10, 3000])
def test_given_some_times_with_a_zone_and_some_without_then_it_is_refused(file: Write, lines: int) -> None:
    mixed = file(
        "a.csv", OWN + "AAPL,2026-01-05T14:33:00Z,1,1,1,1,1\n" * lines + "AAPL,2026-01-05T14:34:00,1,1,1,1,1\n"
    )
    with pytest.raises(FeedError, match=rf"a.csv:{lines + 5}: timestamp '2026-01-05T14:34:00' has no time zone"):
        told(mixed)


@pytest.mark.parametrize("newest_first", [False, True])
def test_given_the_hour_that_comes_twice_then_the_times_before_it_tell_which_it_is(
    file: Write, newest_first: bool
) -> None:
    wall = ["00:59", "01:00", "01:30", "01:59", "01:00", "01:30", "01:59", "02:00"]
    text = "Date,Open,High,Low,Close\n" + "".join(f"2026-11-01 {clock},1,1,1,1\n" for clock in wall)
    bars, _ = told(file("A.csv", backwards(text) if newest_first else text), timezone="America/New_York")
    expected = ["04:59", "05:00", "05:30", "05:59", "06:00", "06:30", "06:59", "07:00"]
    assert [b.timestamp.strftime("%H:%M") for b in bars] == expected


@pytest.mark.parametrize(
    ("days", "first", "said"),
    [
        (["13/01/2026", "14/01/2026"], datetime(2026, 1, 13), False),
        (["01/13/2026", "01/14/2026"], datetime(2026, 1, 13), False),
        (["11/01/2026", "12/01/2026", "01/02/2026"], datetime(2026, 1, 11), False),
        (["05/01/2026", "05/01/2026"], datetime(2026, 5, 1), True),
        (["05.01.2026", "05.01.2026"], datetime(2026, 1, 5), True),
        (["05/01/2026"] * 3000 + ["13/01/2026"], datetime(2026, 1, 5), False),
        (["31-Dec-25", "1-Jan-26"], datetime(2025, 12, 31), False),
    ],
)
def test_given_days_in_any_order_then_the_whole_file_tells_which_number_is_the_month(
    file: Write, days: list[str], first: datetime, said: bool
) -> None:
    text = "Date,Open,High,Low,Close\n" + "".join(f"{day},1,1,1,1\n" for day in days)
    bars, (read,) = told(file("A.csv", text))
    assert bars[0].timestamp == first.replace(tzinfo=UTC)
    assert any("which nothing in the file shows" in remark for remark in read.remarks) is said


@given(st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)), st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_a_number_since_1970_is_the_time_it_counts_in_any_unit(moment: datetime, unit: int) -> None:
    at = moment.replace(microsecond=0, tzinfo=UTC)
    if at.timestamp() >= 10**9:  # before that, seconds could be milliseconds of 1970
        assert parsed(str(int(at.timestamp()) * unit)) == at


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),
    st.sampled_from(["%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y.%m.%d %H:%M:%S", "%d-%b-%Y %H:%M:%S", "%Y%m%d %H%M%S",
                     "%Y%m%d%H%M%S", "%b %d, %Y %I:%M:%S %p", "%a %b %d %Y %H:%M:%S", "%m/%d/%Y %I:%M:%S %p"]),
)  # fmt: skip
def test_a_time_in_words_and_figures_is_the_time_it_says(moment: datetime, form: str) -> None:
    assert parsed(moment.strftime(form)) == moment.replace(microsecond=0)


@pytest.mark.parametrize(
    "text", ["", "x", "2026-02-30", "2026-01-05 25:00", "12", "1" * 5000, "24:00", "2026-01-05 09:30 IST"]
)
def test_what_is_no_time_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parsed(text)


def test_given_the_end_of_a_day_and_zones_in_words_then_they_are_read() -> None:
    assert parsed("2026-01-05 24:00") == datetime(2026, 1, 6)
    assert parsed("2026-01-05 09:30 EST") == AT
    assert parsed("05 Jan 2026 15:30 GMT+0100 (Central European Time)") == AT


# --- symbols ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("AAPL.csv", "AAPL"), ("BTCUSDT-1m-2024-01.csv", "BTCUSDT"), ("NASDAQ_AAPL, 1D.csv", "AAPL"), ("BRK-A.csv", "BRK-A"),
        ("WIKI-AAPL-2011-quandl.csv", "AAPL"), ("gbpusd-m1-bid-2012.csv", "GBPUSD"), ("AAPL (1).csv", "AAPL"),
        ("EURUSD_M1_202401020000_202401312359.csv", "EURUSD"), ("6EH4.XCME_1min_bars_20240101_20240131.csv.gz", "6EH4.XCME"),
        ("^GSPC.csv", "GSPC"), ("D.csv", "D"), ("600000.csv", "600000"), ("2026-01-05.csv", "2026-01-05"), ("日本.csv", "BARS"),
        ("x" * 99 + ".csv", "X" * 64), ("BTC-USD.csv", "BTC-USD"),
    ],
)  # fmt: skip
def test_the_symbol_that_a_file_name_stands_for(name: str, symbol: str) -> None:
    assert symbol_of(name) == symbol


def test_given_no_column_of_symbols_then_the_caller_says_it_or_the_name_does(file: Write) -> None:
    path = file("AAPL-2026.csv", "Date,Close\n2026-01-05,1\n")
    bars, (read,) = told(path)
    assert (bars[0].symbol, read.symbol) == ("AAPL", "AAPL")
    bars, (read,) = told(path, symbol="tsla")
    assert (bars[0].symbol, read.symbol) == ("TSLA", None)
    assert "one price in a row, so each bar is flat" in read.remarks
    assert told(file("a.csv", OWN), symbol="TSLA")[0][0].symbol == "AAPL"  # the file itself says it


@given(st.text(min_size=1, max_size=60))
def test_any_file_name_is_a_symbol(name: str) -> None:
    assert re.fullmatch(r"[A-Z0-9][A-Z0-9./_-]{0,31}", symbol_of(name))


def test_given_several_symbols_in_a_row_then_each_that_was_traded_has_a_bar(file: Write) -> None:
    text = "Price,Close,Close,Open,Open,High,High,Low,Low\nTicker,A,B,A,B,A,B,A,B\nDate,,,,,,,,\n"
    bars, _ = told(file("x.csv", text + "2026-01-05,1,,1,,1,,1,\n2026-01-06,2,3,2,3,2,3,2,3\n"))
    assert [(b.symbol, str(b.close)) for b in bars] == [("A", "1"), ("A", "2"), ("B", "3")]


def test_given_symbols_one_after_the_other_newest_first_then_each_is_turned_round(file: Write) -> None:
    more = backwards(OWN).partition("\n")[2].replace("AAPL", "MSFT")
    bars, (read,) = told(file("a.csv", backwards(OWN) + more))
    assert [b.timestamp for b in bars if b.symbol == "AAPL"] == [AT + timedelta(minutes=n) for n in range(3)]
    assert [b.timestamp for b in bars if b.symbol == "MSFT"] == [AT + timedelta(minutes=n) for n in range(3)]
    assert "newest first, so turned round" in read.remarks


def test_given_several_files_in_an_archive_then_they_are_merged_in_time(file: Write) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for symbol in ("MSFT", "AAPL"):
            archive.writestr(f"{symbol}.csv", "Date,Close\n2026-01-05,1\n2026-01-06,2\n")
    bars, read = told(file("x.zip", content.getvalue()))
    assert [b.symbol for b in bars] == ["MSFT", "AAPL", "MSFT", "AAPL"]
    assert [one.bars for one in read] == [2, 2]


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.csv", "timestamp;bid;ask\n2026-01-05;1;2\n", "fields separated by a semicolon, and the first line 'timestamp;bid"),
        ("a.csv", "hello\n", "nothing that separates fields"),
        ("a.csv", "2026-01-05,1,2,3,4\n2026-01-06,1,2,3,4\n", "the rows have not the shape of bars"),
        ("a.json", "{", "a.json: is no JSON that can be read"),
        ("a.json", '{"hello": 1}', "a.json: JSON without bars"),
        ("a.json", '[{"t": 1, "c": 2}, {"t": "x", "c": 2}]', "a.json:row 1: timestamp '1' is not a time"),
        ("a.json", "[" * 100_000, "a.json: is no JSON that can be read"),
        ("a.zip", zipped("b.csv", OWN.replace("104,10\n", "104,ten\n")), "a.zip:b.csv:4: volume 'ten' is not a number"),
        ("20260105_aapl_tick_trade.csv", "34200000,1000000,100,P,0,0\n", "holds no bars: give a file of trades or quotes"),
        ("a.h5", b"\x89HDF\r\n", "an HDF5 file: write the table with to_csv or to_parquet"),
        ("a.db", b"SQLite format 3\0", "an SQLite file"),
        ("a.gz", packed(packed(packed(packed(b"x")))), "packed more than 3 times"),
        ("a.gz", packed(OWN.encode())[:40], "the compressed data ends too early"),
        ("a.gz", packed(zipped("a.csv", OWN)), "an archive in an archive"),
        ("a.xlsx", zipped("[Content_Types].xml", "x"), "an Excel workbook: save the sheet as CSV"),
    ],
)  # fmt: skip
def test_given_what_is_no_file_of_bars_then_it_says_what_was_found(
    file: Write, name: str, content: str | bytes, wrong: str
) -> None:
    with pytest.raises(FeedError) as caught:
        told(file(name, content))
    assert wrong in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", ""), ("a.csv", OWN.partition("\n")[0]), ("a.gz", packed(b"")), ("a.json", "[]"), ("a.json", "{}"),
     ("a.zip", zipped("a.csv", "")), ("a.csv", "Date;Close\n")],
)  # fmt: skip
def test_given_a_file_without_a_bar_then_it_is_told_as_read_with_none(
    file: Write, name: str, content: str | bytes
) -> None:
    bars, read = told(file(name, content))
    assert (bars, [one.bars for one in read]) == ([], [0])


_SEEDS = [
    *((name, content if isinstance(content, bytes) else content.encode()) for _, name, content, *_ in TEXTS),
    *((name, json.dumps(content).encode()) for _, name, content, _ in JSONS),
]
_SCRAPS = [
    b",",
    b";",
    b"\t",
    b"\n",
    b'"',
    b"-",
    b".",
    b"nan",
    b"\xff",
    b"\0",
    b"{",
    b"]",
    b"Z",
    b"1e999",
    b"9" * 40,
    b"close",
    b"",
]


@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(_SCRAPS), st.integers(0, 20)), min_size=1, max_size=6),
    st.sampled_from([{}, {"timezone": "America/New_York"}, {"adjusted": True}, {"symbol": "X"}]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_given_any_file_that_is_damaged_then_there_are_bars_or_one_feed_error(
    tmp_path: Path, seed: tuple[str, bytes], damage: list[tuple[float, bytes, int]], how: dict[str, object]
) -> None:
    name, content = seed
    for where, scrap, gone in damage:
        at = int(where * len(content))
        content = content[:at] + scrap + content[at + gone :]
    path = tmp_path / name
    path.write_bytes(content)
    try:
        for bar in read_bars(path, **how):  # type: ignore[arg-type]
            assert repr(bar)
            assert bar.volume is not None
    except FeedError as error:
        assert "\n" not in str(error)  # noqa: PT017  whether it raises is not the question


# --- one table of names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meaning", ["open", "high", "low", "close", "volume", "symbol", "bar_at"])
def test_the_names_of_live_bars_and_of_columns_are_one_table(file: Write, meaning: str) -> None:
    assert SPELLINGS[meaning] is BAR_NAMES[meaning]
    usual = {"symbol": "symbol", "bar_at": "timestamp", **{n: n for n in ("open", "high", "low", "close", "volume")}}
    for name in BAR_NAMES[meaning]:
        names = {**usual, meaning: name}
        values = dict(
            zip(names.values(), ["AAPL", "2026-01-05T14:31:00Z", "101", "103", "100", "102", "7"], strict=True)
        )
        live = bar_of(values)
        (read,) = told(file("x.csv", ",".join(values) + "\n" + ",".join(values.values()) + "\n"))[0]
        assert read == live


def test_every_meaning_of_a_live_bar_has_its_names_in_files() -> None:
    assert all(set(names) <= set(FILE_NAMES[meaning]) for meaning, names in BAR_NAMES.items())


# --- whatever is written is read --------------------------------------------------------------------------------------

_PRICE = st.decimals("0.01", "9999", places=2)


@given(
    st.lists(st.tuples(st.datetimes(datetime(2001, 10, 1), datetime(2040, 1, 1)), _PRICE, _PRICE), min_size=1, max_size=8,
             unique_by=lambda r: r[0].replace(microsecond=0)),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["point", "comma", "american"]),
    st.sampled_from(["iso", "ms", "packed", "split"]),
    st.booleans(),
    st.sampled_from(["UTC", "Europe/Berlin"]),
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_given_any_bars_in_any_dress_when_read_then_they_are_the_same_bars(
    tmp_path: Path,
    drawn: list[tuple[datetime, Decimal, Decimal]],
    separator: str,
    figures: str,
    times: str,
    newest_first: bool,
    zone: str,
) -> None:
    drawn = sorted((at.replace(microsecond=0), a, b) for at, a, b in drawn)
    moments = [at.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)) for at, _, _ in drawn]
    write = {
        "point": str,
        "comma": lambda p: str(p).replace(".", ","),
        "american": lambda p: f"{p:,}",
    }[figures]
    written = {
        "iso": lambda at: [at.replace(tzinfo=None).isoformat(" ")],
        "ms": lambda at: [str(int(at.timestamp()) * 1000)],
        "packed": lambda at: [at.strftime("%Y%m%d%H%M%S")],
        "split": lambda at: [at.strftime("%Y.%m.%d"), at.strftime("%H:%M:%S")],
    }[times]
    head = ["Date", "Time"] if times == "split" else ["time"]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerow([*head, "Open", "High", "Low", "Close"])
    lines = [
        [*written(at), *map(write, (a, max(a, b), min(a, b), b))] for at, (_, a, b) in zip(moments, drawn, strict=True)
    ]
    writer.writerows(reversed(lines) if newest_first and len(lines) > 1 else lines)
    path = tmp_path / "XYZ.csv"
    path.write_text(text.getvalue(), newline="")

    bars = list(read_bars(path, timezone=zone))

    twice = any(at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset() for at in moments)
    if not twice or times == "ms":  # of two bars an hour apart that look the same, nothing says which came first
        assert bars == [
            Bar("XYZ", at, a, max(a, b), min(a, b), b, 0) for at, (_, a, b) in zip(moments, drawn, strict=True)
        ]
