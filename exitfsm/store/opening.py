"""From what a user names as the store to an open database: a file, memory, or a schema on a PostgreSQL server.

Rules of this room: an engine's driver is imported only when a store of that engine is opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from exitfsm.errors import StoreError
from exitfsm.store.database import Database
from exitfsm.store.sqlite import SQLiteDatabase

_SCHEMES = ("postgresql://", "postgres://")


def is_url(store: str | os.PathLike[str]) -> bool:
    """True for the URL of a server; False for the path of a file, or memory."""
    return os.fspath(store).startswith(_SCHEMES)


def shown(store: str | os.PathLike[str]) -> str:
    """What names a store, for people: a URL without its secrets."""
    if not is_url(store):
        return os.fspath(store)
    try:
        from exitfsm.store.postgres.address import parse

        return parse(os.fspath(store)).shown
    except (ImportError, StoreError):
        return "postgresql://…"


def open_database(url: str | os.PathLike[str], *, read_only: bool, account: str = "") -> Database:
    """The database that `url` names, open.

    Args:
        account: the account (a hash) whose store is meant, on a server that holds several.

    Raises:
        StoreLocked: another process writes it.
        StoreError: it is no store, or cannot be opened; the text says why and what to do.
    """
    text = os.fspath(url)
    if text == ":memory:":
        if read_only:
            raise StoreError("a store in memory begins empty and is gone at the end: open it for writing")
        return SQLiteDatabase(None, read_only=False)
    if is_url(url):
        return _on_a_server(text, read_only=read_only, account=account)
    if text.startswith(("postgresql:/", "postgres:/")):
        raise StoreError("the URL of a store has lost a slash, as in a path: give it as text")
    if not text or "://" in text or "\0" in text:
        raise StoreError(f"{text!r} is no store: give the path of a file, postgresql://…, or ':memory:'")
    return SQLiteDatabase(Path(text).expanduser().absolute(), read_only=read_only)


def _on_a_server(url: str, *, read_only: bool, account: str) -> Database:
    try:
        from exitfsm.store.postgres import PostgresDatabase
    except ImportError as e:
        raise StoreError(f'a store on PostgreSQL needs psycopg: pip install "exitfsm[postgres]" ({e})') from e
    return PostgresDatabase(url, read_only=read_only, account=account)
