"""Bars in Parquet and Arrow files (feather among them), through the extra `columns`, as tables of text.

Rules of this room: what reads these files (arro3, of which all together takes 33 MB where pyarrow or polars take 170
and more) ends the whole process on some damaged ones. So it is never imported here, but in a process of its own, which
is this module run as a program: bytes go in, CSV comes out. A number becomes the shortest text that stands for it, as
everywhere.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import struct
import subprocess  # nosec B404
import sys
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any

from exitfsm.bars.layout import Row
from exitfsm.errors import FeedError

_FLOAT_DIGITS = range(6, 10)  # significant digits of a float of four bytes
_SAID_MAX = 200  # characters of another library's message
_NO_READER = 3  # exit code
_PANIC = "PanicException"  # of Rust, in a library that did not expect such bytes


def table(label: str, kind: str, content: bytes) -> tuple[Row, Iterator[Row]]:
    """The names of the columns, and the rows.

    Args:
        label: what the file is called in messages.
        kind: `parquet`, `arrow` or `arrow stream`.
        content: all of it.

    Raises:
        FeedError: it cannot be read, or what reads it is not installed.
    """
    program = [sys.executable, "-m", __name__, kind]
    # The program is our own, and there is no shell.
    ran = subprocess.run(program, input=content, capture_output=True, check=False)  # nosec B603
    if ran.returncode == _NO_READER:
        raise FeedError(f"{label}: reading {kind} files needs arro3: pip install exitfsm[columns]")
    if ran.returncode != 0:
        said = ran.stderr.decode(errors="replace").strip().splitlines()
        plain = ran.returncode == 1 and said and _PANIC not in said[-1]
        why = said[-1][:_SAID_MAX] if plain else "it is damaged"
        raise FeedError(f"{label}: cannot be read as {kind}: {why}")
    rows = csv.reader(io.StringIO(ran.stdout.decode(), newline=""))
    return next(rows, []), rows


def _name(text: str) -> str:
    """The name of a column; of a pandas table with two levels of names, `('Close', 'AAPL')`, the first."""
    return text.split("'")[1] if text.startswith("('") and text.count("'") == 4 else text


def _texts(column: Any) -> list[str]:
    short = "Float32" in str(column.type)
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


def _convert(kind: str) -> int:
    """Write what comes in as CSV; the exit code."""
    if importlib.util.find_spec("arro3") is None:
        return _NO_READER
    from arro3 import io as arrow

    read: Any = {"parquet": arrow.read_parquet, "arrow": arrow.read_ipc, "arrow stream": arrow.read_ipc_stream}[kind]
    try:
        batches = read(io.BytesIO(sys.stdin.buffer.read()))
        sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]  # it is a text stream here
        write = csv.writer(sys.stdout)
        write.writerow([_name(field.name) for field in batches.schema])
        for batch in batches:
            write.writerows(zip(*(_texts(batch.column(n)) for n in range(batch.num_columns)), strict=True))
    except Exception as error:  # arro3 raises plain exceptions of its own
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


__all__ = ["table"]

if __name__ == "__main__":
    sys.exit(_convert(sys.argv[1]))
