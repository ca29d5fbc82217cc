"""How other people name what a bar holds: the one table, for the columns of files and for what `on_bar` is given.

A name is written here once, in lower case with underscores; case, blanks, brackets and underscores do not count when it
is looked for (`fold`). A name of one letter counts as it stands where a live bar is read (`T` is not `t`); in a header,
where no column has it as it stands, in either case. The order of the names is the order of preference; the numbers are
FIX's tags.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: What we mean -> the names that others give it.
BAR_NAMES: dict[str, tuple[str, ...]] = {
    "symbol": ("symbol", "S", "ticker", "sym", "instrument", "pair", "55"),
    "bar_at": (
        "timestamp", "time", "t", "ts", "datetime", "unix", "unix_timestamp", "unix_time", "date", "at", "bar_time",
        "start", "open_time", "start_time",
        "time_key", "epoch", "window_start", "timestamp_utc", "time_utc", "datetime_utc", "date_time", "gmt_time",
        "local_time", "begin", "period_start", "ts_event",
    ),
    "open": ("open", "o", "open_price"),
    "high": ("high", "h", "high_price"),
    "low": ("low", "l", "low_price"),
    "close": ("close", "c", "close_price", "price", "last", "last_price", "close_last"),
    "volume": ("volume", "v", "vol", "tick_vol", "tick_volume"),
}  # fmt: skip

#: Names that mean something in the header of a file only: a row of a table that is given live has a `name` of its own.
FILE_NAMES: dict[str, tuple[str, ...]] = {
    **BAR_NAMES,
    "symbol": (*BAR_NAMES["symbol"], "symbols", "tickers", "name", "code", "stock", "act_symbol"),
    "bar_at": (*BAR_NAMES["bar_at"], "day", "trade_date", "bar_start"),
    "adjusted_open": ("adj_open", "adjusted_open"),
    "adjusted_high": ("adj_high", "adjusted_high"),
    "adjusted_low": ("adj_low", "adjusted_low"),
    "adjusted_close": ("adj_close", "adjusted_close", "close_adjusted", "close_adj"),
}

#: Columns of a day and of a time of day, where a file has one of each.
DAYS, TIMES_OF_DAY = ("date", "day", "trade_date"), ("time", "hour", "t")
#: What stands over a column that has no name: the index of a table that was written by pandas.
NAMELESS = frozenset({"", "unnamed0", "index", "indexlevel0"})

_NUMBERED = re.compile(r"\d+[.)]\s*(?=[A-Za-z])")


@lru_cache(maxsize=2048)
def fold(name: str) -> str:
    """A name without case, underscores and the like."""
    return "".join(char for char in name if char.isalnum()).lower()


def column(names: list[str], meaning: str) -> int | None:
    """Where the column of a meaning is in a header; None when there is none."""
    plain = [_NUMBERED.sub("", name.strip()) for name in names]
    for name in FILE_NAMES[meaning]:
        if len(name) == 1:
            found = [i for i, one in enumerate(plain) if one == name] or [
                i for i, one in enumerate(plain) if one.lower() == name.lower()
            ]
        else:
            folded = fold(name)
            found = [i for i, one in enumerate(plain) if fold(one) == folded]
        if found:
            return found[0]
    if meaning == "volume":  # CryptoDataDownload writes `Volume BTC`
        return next((i for i, one in enumerate(plain) if fold(one).startswith("volume")), None)
    return None


__all__ = ["BAR_NAMES", "DAYS", "FILE_NAMES", "NAMELESS", "TIMES_OF_DAY", "column", "fold"]
