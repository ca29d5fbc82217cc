"""Files as they lie there: plain, compressed or in a zip archive, as lines of text or as the bytes of something else.

Rules of this room: what a file is, its first bytes say, not its name. A file is opened once and read in pieces as they
are needed, so that a pipe does as well, and memory does not grow with the size of a text. Whatever cannot be read is a
`FeedError` that names the file and, in an archive, the member.
"""

from __future__ import annotations

import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from exitfsm.bars.symbols import stem
from exitfsm.errors import FeedError

LINE_MAX = 1 << 16  # characters in a line: a table of hundreds of symbols has long ones
WHOLE_MAX = 1 << 29  # bytes, unpacked, of what must be in memory as a whole
_MEMBERS_MAX = 10_000  # of an archive
_PACKINGS_MAX = 3  # around one file
_HEAD = 64  # bytes that say what a file is

#: What a file is by its first bytes, and what to do with what cannot be read here.
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow stream"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)
_FOREIGN = (
    (b"FEA1", "an old feather file: write it anew with to_feather of a pandas from after 2020"),
    (b"\x89HDF", "an HDF5 file: write the table with to_csv or to_parquet"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook: save the sheet as CSV"),
    (b"SQLite format 3", "an SQLite file: bars come from text files, JSON, Parquet or Arrow"),
)


class Opened(NamedTuple):
    """One file, or one member of an archive.

    Attributes:
        label: what it is called in messages.
        parts: the folders of its path, and its name without suffixes last.
        name: its name.
        kind: `text`, `json`, `parquet`, `arrow` or `arrow stream`.
        stream: its bytes, unpacked.
    """

    label: str
    parts: tuple[str, ...]
    name: str
    kind: str
    stream: io.BufferedReader


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Let whatever fails below be a `FeedError` of this file."""
    try:
        yield
    except FeedError:
        raise
    except EOFError:
        raise FeedError(f"{label}: cannot be read: the compressed data ends too early") from None
    except (OSError, ValueError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise FeedError(f"{label}: cannot be read: {reason}") from None


@contextmanager
def members(path: str | os.PathLike[str]) -> Iterator[list[Callable[[], Opened]]]:
    """The file of a path, or the files of the archive that it is: each a function that opens it, while this is open.

    Raises:
        FeedError: it cannot be read.
    """
    label = os.fsdecode(path)
    with ExitStack() as stack:
        with reading(label):
            file = stack.enter_context(Path(label).open("rb"))
            archive = _archive(file)
        if archive is None:
            yield [lambda: _opened(label, Path(label).parts[:-1], Path(label).name, file)]
            return
        stack.enter_context(archive)
        names = [info.filename for info in archive.infolist() if not info.is_dir() and _wanted(info.filename)]
        if "[Content_Types].xml" in names:
            raise FeedError(f"{label}: is an Excel workbook: save the sheet as CSV")
        if len(names) > _MEMBERS_MAX:
            raise FeedError(f"{label}: more than {_MEMBERS_MAX} files in one archive")
        yield [_member(archive, label, name) for name in names]


def _archive(file: io.BufferedReader) -> zipfile.ZipFile | None:
    """The archive that a file is; None when it is none."""
    return zipfile.ZipFile(file) if file.peek(4).startswith((b"PK\x03\x04", b"PK\x05\x06")) else None


def _wanted(name: str) -> bool:
    """False for what systems put beside the files of an archive."""
    return not name.startswith("__MACOSX/") and not PurePosixPath(name).name.startswith(".")


def _member(archive: zipfile.ZipFile, path: str, name: str) -> Callable[[], Opened]:
    def opened() -> Opened:
        with reading(f"{path}:{name}"):
            stream = archive.open(name)
        folders = (*Path(path).parts[:-1], *PurePosixPath(name).parts[:-1])
        return _opened(f"{path}:{name}", folders, PurePosixPath(name).name, _buffered(stream))

    return opened


def _buffered(stream: Any) -> io.BufferedReader:
    """A stream that can be looked into ahead. Those of archives are raw streams, in all but their declared types."""
    return io.BufferedReader(stream)


def _opened(label: str, folders: tuple[str, ...], name: str, file: io.BufferedReader) -> Opened:
    """A stream without its packing, and what it holds."""
    with reading(label):
        for _ in range(_PACKINGS_MAX):
            kind = _kind(label, file.peek(_HEAD)[:_HEAD])
            if kind != "gzip":
                break
            file = _buffered(gzip.GzipFile(fileobj=file, mode="rb"))
        else:
            raise FeedError(f"{label}: is packed more than {_PACKINGS_MAX} times")
        if kind == "zip":
            raise FeedError(f"{label}: an archive in an archive: unpack it first")
    return Opened(label, (*folders, stem(name)), name, kind, file)


def _kind(label: str, head: bytes) -> str:
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise FeedError(f"{label}: is {what}")
    found = next((what for magic, what in _MAGIC if head.startswith(magic)), None)
    if found is not None:
        return found
    return "json" if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{") else "text"


def whole(opened: Opened) -> bytes:
    """All bytes of a file that can only be read as a whole.

    Raises:
        FeedError: there are too many.
    """
    with reading(opened.label):
        content = opened.stream.read(WHOLE_MAX + 1)
    if len(content) > WHOLE_MAX:
        raise FeedError(f"{opened.label}: is larger than {WHOLE_MAX >> 20} MB, unpacked; give it in parts, or as CSV")
    return content


def pieces(opened: Opened, size: int) -> Generator[list[str]]:
    """The lines of a text file, about `size` characters of it at a time, never none.

    Raises:
        FeedError: it cannot be read, or a line is too long for one.
    """
    rest, number = "", 0
    label = opened.label
    with reading(label):
        utf_16 = opened.stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
        # Bytes that are no UTF-8 come through as lone surrogates, so that the line that has them can be named.
        encoding, errors = ("utf-16", "strict") if utf_16 else ("utf-8-sig", "surrogateescape")
        file = io.TextIOWrapper(opened.stream, encoding=encoding, errors=errors)
        try:
            while text := file.read(size):
                lines = (rest + text).split("\n")
                if len(longest := max(lines, key=len)) > LINE_MAX:
                    raise FeedError(
                        f"{label}:{number + lines.index(longest) + 1}: a line of more than {LINE_MAX} "
                        "characters is no bar"
                    )
                rest = lines.pop()
                number += len(lines)
                if lines:
                    yield lines
        finally:
            file.detach()  # whoever opened the file closes it
    if rest:
        yield [rest]


__all__ = ["LINE_MAX", "Opened", "members", "pieces", "reading", "whole"]
