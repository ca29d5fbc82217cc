"""Bars in JSON: rows, objects or columns, under whatever a vendor wraps them in, as tables of text.

Rules of this room: numbers keep their exact text; nothing is looked up by a vendor's name but by the form of the data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from exitfsm.bars.layout import Row
from exitfsm.bars.names import column, fold

#: Under which names vendors put bars, and what else may stand around them.
_WRAPPERS = (
    "bars", "results", "values", "data", "candles", "klines", "historical", "quotes", "prices", "result", "chart",
    "payload", "items", "ohlc", "ohlcv",
)  # fmt: skip
_DEPTH_MAX = 6


class JsonTable(NamedTuple):
    """Rows of bars: `names` of their columns, None where rows have none; `symbol` where the data say it around them."""

    symbol: str | None
    names: Row | None
    rows: list[Row]


def tables(content: bytes) -> Iterator[JsonTable]:
    """All tables of bars in a JSON text, or in lines of JSON.

    Raises:
        ValueError: it is no JSON.
    """
    text = content.decode("utf-8-sig")
    try:
        data = json.loads(text, parse_float=str, parse_int=str)
    except json.JSONDecodeError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        data = [json.loads(line, parse_float=str, parse_int=str) for line in lines]
    yield from _found(data, None, _DEPTH_MAX)


def _found(data: Any, symbol: str | None, depth: int) -> Iterator[JsonTable]:
    if not depth:
        return
    if isinstance(data, list):
        yield from _of_list(data, symbol, depth)
    elif isinstance(data, dict):
        yield from _of_object(data, symbol, depth) if data else (JsonTable(symbol, None, []),)


def _of_list(data: list[Any], symbol: str | None, depth: int) -> Iterator[JsonTable]:
    if not data:
        yield JsonTable(symbol, None, [])
    elif all(isinstance(row, list) for row in data):
        yield JsonTable(symbol, None, [[_cell(cell) for cell in row] for row in data])
    elif all(isinstance(row, dict) for row in data) and column(names := _names(data), "close") is not None:
        rows = [[_cell(row.get(name)) for name in names] for row in data]
        yield JsonTable(symbol, [str(name) for name in names], rows)
    else:
        for part in data:
            yield from _found(part, symbol, depth - 1)


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _of_object(data: dict[str, Any], symbol: str | None, depth: int) -> Iterator[JsonTable]:
    named = _symbol_in(data) or symbol
    names = list(data)
    if _is_yahoo_chart(data):
        quote = {**data["indicators"]["quote"][0], **(data["indicators"].get("adjclose") or [{}])[0]}
        yield _columns({"timestamp": data["timestamp"], **quote}, _symbol_in(data.get("meta")) or named)
    elif isinstance(data.get("columns"), list) and isinstance(data.get("data"), list):  # pandas, orient="split"
        index, rows = data.get("index"), data["data"]
        with_index = isinstance(index, list) and len(index) == len(rows)
        head, body = (
            (["index"], [[i, *row] for i, row in zip(index or (), rows, strict=True)]) if with_index else ([], rows)
        )
        yield JsonTable(named, [*head, *map(_cell, data["columns"])], [[_cell(cell) for cell in row] for row in body])
    elif column(names, "close") is not None and all(isinstance(data[n], list) for n in _price_names(names)):
        yield _columns({name: cells for name, cells in data.items() if isinstance(cells, list)}, named)
    elif column(names, "close") is not None and all(isinstance(data[n], dict) for n in _price_names(names)):
        keys = list(data[_price_names(names)[0]])  # pandas, orient="columns": each column by the index of its rows
        cells = {name: [by_key.get(key) for key in keys] for name, by_key in data.items() if isinstance(by_key, dict)}
        has_time = column(list(cells), "bar_at") is not None
        yield _columns(cells if has_time else {"index": keys, **cells}, named)
    elif all(isinstance(one, dict) for one in data.values()) and _are_bars(list(data.values())):
        names = _names(list(data.values()))  # Alpha Vantage, and pandas' orient="index": bars by their time
        rows = [[key, *(_cell(bar.get(name)) for name in names)] for key, bar in data.items()]
        yield JsonTable(named, ["index", *names], rows)
    else:
        yield from _wrapped(data, named, depth)


def _wrapped(data: dict[str, Any], symbol: str | None, depth: int) -> Iterator[JsonTable]:
    """Bars somewhere inside; a key that is no wrapper's name is the symbol of the list under it."""
    known = {fold(name) for name in _WRAPPERS}
    inner = {key: one for key, one in data.items() if isinstance(one, (list, dict))}
    wrappers = [key for key in inner if fold(key) in known or fold(key).startswith("timeseries")]
    for key in wrappers or inner:
        named = symbol if wrappers or not isinstance(inner[key], list) else key
        yield from _found(inner[key], named, depth - 1)


def _symbol_in(data: Any) -> str | None:
    """The symbol that an object says of itself, or in what it says of its data."""
    if not isinstance(data, dict):
        return None
    place = column(list(data), "symbol")
    if place is not None and isinstance(value := list(data.values())[place], str) and value != "ok":  # Finnhub's `s`
        return value
    return next((_symbol_in(one) for key, one in data.items() if fold(key) in ("meta", "metadata")), None)


def _price_names(names: list[str]) -> list[str]:
    found = (column(names, name) for name in ("close", "open", "high", "low"))
    return [names[place] for place in found if place is not None]


def _are_bars(parts: list[dict[str, Any]]) -> bool:
    first = parts[0]
    return column(list(first), "close") is not None and not any(isinstance(one, (list, dict)) for one in first.values())


def _is_yahoo_chart(data: dict[str, Any]) -> bool:
    indicators = data.get("indicators")
    return (
        isinstance(indicators, dict)
        and isinstance(indicators.get("quote"), list)
        and isinstance(data.get("timestamp"), list)
    )


def _columns(cells: dict[str, list[Any]], symbol: str | None) -> JsonTable:
    length = max(map(len, cells.values()))
    whole = {name: one for name, one in cells.items() if len(one) == length}
    return JsonTable(symbol, list(whole), [[_cell(cell) for cell in row] for row in zip(*whole.values(), strict=True)])


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


__all__ = ["JsonTable", "tables"]
