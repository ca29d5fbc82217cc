"""Bars in Parquet and Arrow files (feather among them), through the extra `columns`, as tables of text.

Rules of this room: the library that reads them is imported when there is such a file, not before; a number becomes the
shortest text that stands for it, as everywhere.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any

from exitfsm.bars.layout import Row
from exitfsm.errors import FeedError

_SAID_MAX = 200  # characters of another library's message
_FLOAT_DIGITS = range(6, 10)  # significant digits of a float of four bytes


def table(label: str, kind: str, content: bytes) -> tuple[Row, Iterator[Row]]:
    """The names of the columns, and the rows.

    Args:
        label: what the file is called in messages.
        kind: `parquet`, `arrow` or `arrow stream`.
        content: all of it.

    Raises:
        FeedError: it cannot be read, or what reads it is not installed.
    """
    try:
        from arro3.io import read_ipc, read_ipc_stream, read_parquet
    except ModuleNotFoundError:
        raise FeedError(f"{label}: reading {kind} files needs arro3: pip install exitfsm[columns]") from None
    read: Any = {"parquet": read_parquet, "arrow": read_ipc, "arrow stream": read_ipc_stream}[kind]
    with _reading(label, kind):
        batches = read(io.BytesIO(content))
        names = [_name(field.name) for field in batches.schema]
    return names, _rows(label, kind, batches)


@contextmanager
def _reading(label: str, kind: str) -> Iterator[None]:
    """Let whatever arro3 raises be a `FeedError`: plain exceptions, and panics of Rust, which are no `Exception`s."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise FeedError(f"{label}: cannot be read as {kind}: {str(error)[:_SAID_MAX]}") from None
        raise


def _name(text: str) -> str:
    """The name of a column; of a pandas table with two levels of names, `('Close', 'AAPL')`, the first."""
    return text.split("'")[1] if text.startswith("('") and text.count("'") == 4 else text


def _rows(label: str, kind: str, batches: Iterator[Any]) -> Iterator[Row]:
    while True:
        with _reading(label, kind):
            batch = next(batches, None)
            if batch is None:
                return
            columns = [_texts(batch.column(place)) for place in range(batch.num_columns)]
        for cells in zip(*columns, strict=True):
            yield list(cells)


def _texts(column: Any) -> list[str]:
    short = str(column.type).startswith(("Float32", "arro3.core.DataType<Float32"))
    return [_short(value) if short and isinstance(value, float) else _text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"  # some library's own numbers
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


def _short(value: float) -> str:
    """The shortest text of a float of four bytes: 101.35, not 101.3499985."""
    for digits in _FLOAT_DIGITS:
        text = f"{value:.{digits}g}"
        if struct.pack("f", float(text)) == struct.pack("f", value):
            return text
    return str(value)


__all__ = ["table"]
