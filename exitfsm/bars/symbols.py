"""Which symbol a file is of, where no column says it: out of its name.

`BTCUSDT-1m-2024-01.csv`, `spy_minute_trade`, `NASDAQ_AAPL, 1D.csv`, `WIKI-AAPL-2011-quandl.csv`: whatever is a date, a
bar's length or a word such as `ohlc` is taken off both ends, and what is left is the symbol. It is a label: nothing is
decided by it but whether the market closes.
"""

from __future__ import annotations

import re

from exitfsm.errors import FeedError
from exitfsm.values import SYMBOL_MAX, canonical_symbol

_NOISE = re.compile(
    r"\d{4}|\d{6}|\d{8}|\d{10,14}|\d{2}|\d{3}"  # days and their parts, and running numbers
    r"|\d*(?:s|sec|second|seconds|m|min|mins|minute|minutes|h|hour|hours|hourly|d|day|days|daily|w|week|weekly|mo|month"
    r"|monthly)|[smhdw]\d{1,3}|mn1?"  # 1m, 5min, daily, M15
    r"|bars?|ohlcv?|volume|candles?|candlesticks?|klines?|data|datas|hist|history|historical|prices?|quotes?|trades?|bid|ask|mid|csv|json"
    r"|adjusted|unadjusted|raw|spot|futures|dat|ascii|download|export|yahoo|yahoofinance|yfinance|quandl|wiki"
    r"|googlefinance|stooq|alpaca|binance|tradingview|polygon|cryptodatadownload",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"\.(?:csv|txt|tsv|json|jsonl|ndjson|parquet|feather|arrow|arrows|ipc|gz|zip|dat|prn)$", re.IGNORECASE
)
_COPY = re.compile(r"\s*\(\d+\)$")
#: `NASDAQ_AAPL, 1D`: the market and the symbol, and what is shown of it.
_TRADINGVIEW = re.compile(r"(?:[A-Z0-9]+_)?([A-Za-z0-9.!-]+), ?\w+(?:_\w+)?")
_PAIR = re.compile(r"([A-Z0-9]+)_([A-Z]+)(?:_[A-Z]+)?", re.IGNORECASE)


def stem(name: str) -> str:
    """A file's name without what says how it is written."""
    while (cut := _SUFFIX.sub("", name)) != name and cut:
        name = cut
    return _COPY.sub("", name)


def symbol_of(name: str, *, pairs: bool = False) -> str:
    """The symbol that a file's name stands for, in upper case.

    Args:
        name: of the file, without its folder.
        pairs: `BTC_USDT` is a pair, BTC/USDT.
    """
    text = stem(name)
    if found := _TRADINGVIEW.fullmatch(text):
        text = found[1]
    parts = [part for part in re.split(r"([-_ ,]+)", text) if part]
    first, last = 0, len(parts)
    while last > first and (_NOISE.fullmatch(parts[last - 1]) or not parts[last - 1].strip("-_ ,")):
        last -= 1
    while first < last and (_NOISE.fullmatch(parts[first]) or not parts[first].strip("-_ ,")):
        first += 1
    kept = "".join(parts[first:last]) or text
    if pairs and (found := _PAIR.fullmatch(kept)):
        kept = f"{found[1]}/{found[2]}"
    return _legal(kept)


def _legal(text: str) -> str:
    """A text as a symbol, with `-` for what none can hold."""
    kept = re.sub(r"[^A-Za-z0-9./_-]+", "-", text).strip("-./_") or "BARS"
    return canonical_symbol(kept[:SYMBOL_MAX])


def given_symbol(text: str) -> str:
    """A symbol that somebody gave, in upper case.

    Raises:
        FeedError: it is none.
    """
    try:
        return canonical_symbol(text.strip())
    except ValueError as error:
        raise FeedError(f"symbol {error}") from None


__all__ = ["given_symbol", "stem", "symbol_of"]
