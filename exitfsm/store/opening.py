"""From what a user names as the store to an open database: a file, or memory.

Rules of this room: an engine's driver is imported only when a store of that engine is opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from exitfsm.errors import StoreError
from exitfsm.store.database import Database
from exitfsm.store.sqlite import SQLiteDatabase


def open_database(url: str | os.PathLike[str], *, read_only: bool) -> Database:
    """The database that `url` names, open.

    Raises:
        StoreLocked: another process writes it.
        StoreError: it is no store, or cannot be opened; the text says why and what to do.
    """
    text = os.fspath(url)
    if text == ":memory:":
        if read_only:
            raise StoreError("a store in memory begins empty and is gone at the end: open it for writing")
        return SQLiteDatabase(None, read_only=False)
    if text.startswith(("postgresql://", "postgres://")):
        raise StoreError("PostgreSQL is not supported yet: give the path of a file")
    if not text or "://" in text or "\0" in text:
        raise StoreError(f"{text!r} is no store: give the path of a file, or ':memory:'")
    return SQLiteDatabase(Path(text).expanduser().absolute(), read_only=read_only)
