"""Files that the command line writes: whole or not at all, for their owner alone, and never through somebody's link."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from errno import ELOOP, ENOENT
from pathlib import Path
from typing import Annotated

import typer

#: What nobody but the owner may read, as the store itself.
PRIVATE = 0o600
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
_MORE = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)


def mode(text: str | int) -> int:
    """The mode of a file from the command line, as for chmod: `600`, `0644`."""
    try:
        value = text if isinstance(text, int) else int(text, 8)
    except ValueError:
        value = -1
    if not 0o400 <= value <= 0o777 or not value & 0o400:
        raise typer.BadParameter(f"{text} is no mode of a file; write it as 600 or 644")
    return value


ModeOption = Annotated[
    int,
    typer.Option("--mode", parser=mode, metavar="OCTAL", help="Who may read what is written, as for chmod."),
]


def write(path: Path, text: str | Iterable[str], mode: int = PRIVATE) -> None:
    """Write a file whole, of a text or of lines: what was there stays until the new one is complete.

    A link in its place is replaced.

    Raises:
        OSError: it cannot be written; nothing was.
    """
    _needs_directory(path)
    new = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.new")  # nobody can lie in wait under this name
    fd = os.open(new, _NEW, mode)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
            os.chmod(new, mode)  # noqa: PTH101  whatever the process masks
            file.writelines([text] if isinstance(text, str) else text)
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def add(path: Path, text: str, mode: int = PRIVATE) -> None:
    """Add text to the end of a file, made where there is none.

    Raises:
        OSError: it cannot be written, or is a link.
    """
    _needs_directory(path)
    try:
        fd = os.open(path, _MORE, mode)
    except OSError as error:
        if error.errno == ELOOP:
            raise OSError(ELOOP, "it is a symbolic link: give the path of the file itself", str(path)) from None
        raise
    with os.fdopen(fd, "a", encoding="utf-8", newline="\n") as file:
        file.write(text)


def folder(path: Path, mode: int = PRIVATE) -> None:
    """A folder for files of that mode, made where there is none.

    Raises:
        OSError: it cannot be made, or is a link.
    """
    if path.is_symlink():
        raise OSError(ELOOP, "it is a symbolic link: move it away, or give another path", str(path))
    path.mkdir(mode=mode | (mode & 0o444) >> 2, exist_ok=True)


def _needs_directory(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(
            ENOENT, "there is no such directory: make it first, or give another path", str(path.parent)
        )
