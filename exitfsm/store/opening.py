"""From what a user names as the store to an open database: a file, memory, or a schema on a PostgreSQL server.

Rules of this room: an engine's driver is imported only when a store of that engine is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exitfsm.errors import StoreError
from exitfsm.store.database import Database, Owner, Watch
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


def watch(url: str | os.PathLike[str], *, account: str, takeover_after_s: float) -> Watch:
    """What waits for a store that somebody else owns; see `Watch`.

    Args:
        takeover_after_s: how long an owner on a server may be silent before it is replaced. That of a file is not: its
            lock ends with its process.
    """
    text = os.fspath(url)
    if text == ":memory:":
        raise StoreError("a store in memory is nobody else's: nothing can be waited for")
    if not is_url(url):
        return _FileWatch()
    with _psycopg():
        from exitfsm.store.postgres.watching import Watch as ServerWatch
    return ServerWatch(text, account, takeover_after_s)


class _FileWatch:
    """For a file: to try is to look."""

    def look(self) -> bool:
        """Always: opening it finds out."""
        return True

    def close(self) -> None:
        """Nothing is open."""


def owner_of(url: str, *, release: bool = False) -> Owner:
    """Who owns a store on a server; with `release` it is freed, and the owner's session ended.

    Raises:
        StoreMissing: there is no store.
        StoreError: it is a file, or the server refuses; the text says what to do.
    """
    if not is_url(url):
        raise StoreError(
            f"{shown(url)} is a file: its lock is held by the process that writes it, and ends with it; stop that one"
        )
    with _psycopg():
        from exitfsm.store.postgres.watching import owner_of as on_a_server
    return on_a_server(url, release=release)


def _on_a_server(url: str, *, read_only: bool, account: str) -> Database:
    with _psycopg():
        from exitfsm.store.postgres import PostgresDatabase
    return PostgresDatabase(url, read_only=read_only, account=account)


@contextmanager
def _psycopg() -> Iterator[None]:
    """For an import that needs it."""
    try:
        yield
    except ImportError as e:
        raise StoreError(f'a store on PostgreSQL needs psycopg: pip install "exitfsm[postgres]" ({e})') from e
