"""`PostgresDatabase`: a store in one schema of a PostgreSQL database, behind the port of `database`.

Rules of this room: a commit is one round trip, and is acknowledged only when the server has said that it is durable.
When the session is lost in between, the outcome is found out before anything is said: by the hash of the newest event,
which stands for everything up to it. What cannot be found out is said to be not known.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from exitfsm.errors import StoreError, StoreMissing
from exitfsm.outside import logger
from exitfsm.projections import TABLES
from exitfsm.store.database import FORMAT, ChainRow, EventRow, Params, Write
from exitfsm.store.postgres import link as linking
from exitfsm.store.postgres import owning
from exitfsm.store.postgres.address import parse, with_schema
from exitfsm.store.postgres.layout import damage_of, find_schema, make
from exitfsm.store.postgres.link import Link
from exitfsm.store.postgres.reading import Recorder
from exitfsm.store.postgres.statements import (
    DDL,
    FENCED,
    PLACE,
    RAW,
    RAW_PAGE,
    Statement,
    inserting,
    translated,
    writing,
)

log = logger("exitfsm")

#: How long a session that was lost is tried to be had again, before its outcome counts as not known.
RECONNECT_S = 5.0
_RETRY_S = 0.1
_PAGE = 2000
_BEGIN = Statement("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", ())
_COMMIT = Statement("COMMIT", ())
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_NOT_KNOWN = (
    "the connection was lost at the commit, and whether it was stored is not known: read the stream before doing "
    "anything else"
)


class PostgresDatabase:
    """One store on a PostgreSQL server. Not thread safe: `ExitStore` holds a lock around every use.

    Args:
        url: as libpq reads it, with `exitfsm_schema=` in its query where the schema is not the account's own.
        read_only: only read, without being the owner.
        account: the account (a hash) whose store is meant; empty where there is only one.

    Raises:
        StoreLocked: another session writes it.
        StoreError: it cannot be used; the text says why and what to do.
    """

    errors: tuple[type[Exception], ...] = (psycopg.Error,)
    path: Path | None = None
    place = PLACE
    raw = RAW
    raw_page = RAW_PAGE

    def __init__(self, url: str, *, read_only: bool, account: str = "") -> None:
        self.read_only = read_only
        self._pid = os.getpid()
        self._link: Link | None = None
        self._address = parse(url)
        self._fence: int | None = None
        self._acknowledged: ChainRow | None = None
        self._names = count()
        self._in_snapshot = False
        self._reset()
        try:
            self._open(account)
        except psycopg.Error as e:
            self.close()
            raise self.failure(e) from e
        except BaseException:
            self.close()
            raise

    @property
    def where(self) -> str:
        """The URL without secrets."""
        return self._address.shown

    @property
    def schema(self) -> str:
        """The schema of the store."""
        return self._address.schema or ""

    @cached_property
    def recorder(self) -> Recorder:
        """The library's recorder, on a session of its own."""
        return Recorder.on(lambda: linking.connect(self._address, "exitfsm: reading"), self.schema)

    # ---- opening

    def _open(self, account: str) -> None:
        self._link = self._connect()
        linking.check_pooler(self._link, self._address)
        linking.check_server(self._link, self._address, read_only=self.read_only)
        schema = find_schema(self._link, self._address, account)
        if schema is None:
            schema = self._address.schema or (f"exitfsm_{account}" if account else "exitfsm")
            if self.read_only:
                raise StoreMissing(
                    f"there is no store at {self._address.shown}: check the URL, or open it for writing to make one"
                )
        self._address = with_schema(self._address, schema)
        self._choose_schema()
        if not self.read_only:
            owning.lock(self._link, self._address)
            make(self._link, self._address, account)
            self._fence = owning.take(self._link)
        self._check_format()
        if not self.read_only:
            self._check_whole()

    def _connect(self) -> Link:
        settings = {"default_transaction_read_only": "on"} if self.read_only else {}
        return Link(self._address, f"exitfsm: {owning.myself()}", settings=settings)

    def _choose_schema(self) -> None:
        self._open_link().rows("SELECT set_config('search_path', quote_ident(?), false)", (self.schema,))

    def _check_format(self) -> None:
        rows = self._open_link().rows("SELECT value FROM meta WHERE key = 'format'")
        version = rows[0][0] if rows else ""
        if not str(version).isdigit():
            raise StoreError(f"{self.where} is not an exitfsm store: give another schema")
        if int(version) > FORMAT:
            raise StoreError(
                f"{self.where} was written by a newer version of exitfsm (format {version}, this one knows {FORMAT}): "
                "upgrade exitfsm"
            )

    def _check_whole(self) -> None:
        sql = f"SELECT (SELECT MAX({PLACE}) FROM stored_events), (SELECT MAX(sequence) FROM chain)"
        events, chain = self._open_link().rows(sql)[0]
        if events != chain:
            raise StoreError(
                f"{self.where} was changed by other hands: its events end at {events or 0}, its chain at {chain or 0}: "
                "keep a copy, restore a backup, and see verify_chain() with read_only=True"
            )

    # ---- writing

    def _reset(self) -> None:
        """No transaction."""
        self._begun = self._sent = False
        self._waiting: list[Statement] = []
        self._newest: ChainRow | None = None

    def begin(self) -> None:
        """Begin a transaction that writes; it goes over with its first read, or with the commit."""
        if self._open_link().looks_dead():
            self._regain()
        self._reset()
        self._begun = True

    def insert(self, events: Sequence[EventRow], chain: Sequence[ChainRow], writes: Iterable[Write]) -> None:
        """Store events, the hash of each, and the read-model rows of all; they go over with the commit."""
        self._waiting += inserting(events, chain)
        for write in writes:
            self._waiting += writing(write)
        if chain:
            self._newest = chain[-1]

    def remake(self) -> None:
        """Drop the read models and make them again, empty, in the transaction that has begun."""
        self.rows("SELECT 1")  # it has begun at the server from now on
        for sql in (*(f"DROP TABLE {table}" for table in TABLES), *DDL):
            self._open_link().connection.execute(sql, prepare=False)

    def commit(self) -> None:
        """Make the transaction durable: one round trip for all of it that is not at the server yet.

        Raises:
            StoreLocked: somebody else has taken the store; nothing was stored.
            StoreError: it was not stored, or that cannot be found out; the text says which.
        """
        try:
            self._send([*self._head(), *self._waiting, _COMMIT])
        except psycopg.Error as e:
            if not (self._open_link().broken or linking.is_lost(e)):
                raise
            self._find_out(e)
        if self._newest is not None:
            self._acknowledged = self._newest
        self._reset()

    def give_up(self) -> None:
        """Undo the transaction."""
        sent = self._sent
        self._reset()
        link = self._link
        if sent and link is not None and link.in_transaction:
            with contextlib.suppress(psycopg.Error):
                link.connection.rollback()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that commits when the block ends well and leaves nothing when it does not."""
        self.begin()
        try:
            yield
            self.commit()
        except BaseException:
            self.give_up()
            raise

    def settle(self) -> None:
        """While nothing is urgent: a session that was lost is had again now, and not when an exit waits for it."""
        link = self._open_link()
        try:
            if not link.broken:
                link.rows("SELECT 1")
                return
        except psycopg.Error as e:
            if not (link.broken or linking.is_lost(e)):
                raise
        self._regain()

    def _head(self) -> list[Statement]:
        """What begins the transaction at the server, unless it has begun there."""
        return [] if self._sent else [_BEGIN, Statement("SELECT check_fence(%s)", (self._fence,))]

    def _send(self, statements: list[Statement], query: Statement | None = None) -> list[Params]:
        link = self._open_link()
        self._sent = True
        try:
            return link.send(statements, query)
        except psycopg.Error as e:
            if linking.state_of(e) != FENCED:
                raise
            with contextlib.suppress(psycopg.Error):
                link.connection.rollback()
            raise owning.lost_to(link, self._address, "nothing was stored: ") from e

    def _find_out(self, error: psycopg.Error) -> None:
        """After a commit without an answer: return when it is stored.

        Raises:
            StoreError: it is not, or that is not known.
        """
        newest = self._newest
        try:
            self._regain()
            found = (
                []
                if newest is None
                else self._open_link().rows("SELECT hash FROM chain WHERE sequence = ?", (newest[0],))
            )
        except (psycopg.Error, StoreError) as e:
            why = e if isinstance(e, StoreError) else linking.words(e, self._address)
            raise StoreError(f"{self.where}: {_NOT_KNOWN}: {why}") from error
        if newest is None:
            raise StoreError(f"{self.where}: {_NOT_KNOWN}") from error
        if not found or found[0][0] != newest[1]:
            raise StoreError(f"{self.where}: the connection was lost, and nothing was stored") from error
        log.warning("commit_found store=%s event=%s text=stored, though its answer was lost", self.where, newest[0])

    # ---- a session that was lost

    def _regain(self) -> None:
        """A new session in the place of one that was lost: the owner again, of the same store.

        Raises:
            psycopg.Error: the server cannot be reached.
            StoreLocked: somebody else has taken the store meanwhile.
            StoreError: the server no longer holds what it had acknowledged.
        """
        lost = self._open_link()
        with contextlib.suppress(psycopg.Error):
            lost.close()
        link = self._reached()
        try:
            linking.check_server(link, self._address, read_only=self.read_only)
            self._link = link
            self._choose_schema()
            if not self.read_only:
                self._check_still_mine(link)  # before the lock as well: whoever has the store is not waited for
                owning.lock(link, self._address, mine=lost.backend)
                self._check_still_mine(link)
        except BaseException:
            self._link = lost
            link.close()
            raise
        log.warning("session_regained store=%s", self.where)

    def _reached(self) -> Link:
        deadline = time.monotonic() + RECONNECT_S
        while True:
            try:
                return self._connect()
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_S)

    def _check_still_mine(self, link: Link) -> None:
        fence = link.rows("SELECT fence FROM owner WHERE id = 1")
        if not fence or fence[0][0] != self._fence:
            raise owning.lost_to(link, self._address)
        known = self._acknowledged
        if known is None:
            return
        found = link.rows("SELECT hash FROM chain WHERE sequence = ?", (known[0],))
        if not found or found[0][0] != known[1]:
            raise StoreError(
                f"{self.where}: the server has lost what it had acknowledged (event {known[0]} is gone): "
                "stop, open the store again and let it reconcile with the broker; see synchronous_standby_names"
            )

    # ---- reading

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Inside the block every read sees one state, whoever writes meanwhile."""
        if self._in_snapshot or self._open_link().in_transaction:
            yield
            return
        self._again(lambda: self._open_link().connection.execute(_SNAPSHOT))
        self._in_snapshot = True
        try:
            yield
        finally:
            self._in_snapshot = False
            link = self._open_link()
            if link.in_transaction:
                with contextlib.suppress(psycopg.Error):
                    link.connection.commit()  # it has only read; after a rollback all statements are prepared anew

    def rows(self, sql: str, params: Params = ()) -> list[Params]:
        """All rows of a query, as the transaction under way sees them."""
        if not self._begun:
            found: list[Params] = self._again(lambda: self._open_link().rows(sql, params))
            return found
        if self._sent and not self._waiting:
            return self._open_link().rows(sql, params)
        statements, self._waiting = [*self._head(), *self._waiting], []
        return self._send(statements, Statement(translated(sql), params))

    def each(self, sql: str, params: Params = ()) -> Iterator[Params]:
        """The rows of a query, read as they are asked for."""
        if self._begun and (self._waiting or not self._sent):
            self.rows("SELECT 1")
        link = self._open_link()
        name = f"each_{next(self._names)}"  # several may be read in turns
        with link.connection.cursor(name, withhold=not link.in_transaction) as cursor:
            cursor.itersize = _PAGE
            cursor.execute(translated(sql), params, binary=True)
            yield from cursor

    def damage(self) -> Iterator[str]:
        """What is wrong with the tables apart from what stands in them, one line each."""
        yield from damage_of(self._open_link(), self.schema)

    def _again(self, read: Callable[[], Any]) -> Any:
        """Read, and once more when the session was lost: reading twice does no harm, but in a snapshot that is gone."""
        link = self._open_link()
        if self._in_snapshot or link.in_transaction:
            return read()
        try:
            return read()
        except psycopg.Error as e:
            if not (link.broken or linking.is_lost(e)):
                raise
        self._regain()
        return read()

    # ---- failures

    def failure(self, error: Exception) -> StoreError:
        """What it means and what to do about it."""
        return linking.failure(error, self._address)

    def is_conflict(self, error: Exception) -> bool:
        """True when what was written contradicts what is stored."""
        return isinstance(error, psycopg.IntegrityError)

    def is_whole(self, error: Exception) -> bool:
        """True for a failure of the server or the way to it, which is not the fault of one append."""
        return isinstance(error, psycopg.Error) and not isinstance(error, (psycopg.IntegrityError, psycopg.DataError))

    def is_damage(self, error: Exception) -> bool:
        """True when the server says that what is stored is damaged."""
        return linking.is_damage(error)

    # ---- owning

    def heart(self) -> owning.Heart | None:
        """What says to others that this owner is alive."""
        return owning.Heart(self._address, self._fence) if self._fence is not None else None

    # ---- closing

    def _open_link(self) -> Link:
        if self._link is None:
            raise StoreError("the store is closed")
        return self._link

    def close(self) -> None:
        """End the session and free the store; may be called twice. After a fork it is the parent's, and left alone."""
        link = getattr(self, "_link", None)
        if link is None or self._pid != os.getpid():
            return
        self._link = None
        recorder = self.__dict__.pop("recorder", None)
        if recorder is not None:
            recorder.datastore.close()
        with contextlib.suppress(psycopg.Error):
            if not self.read_only and self._fence is not None and not link.broken:
                if link.in_transaction:
                    link.connection.rollback()
                owning.say_goodbye(link, self._fence)
                owning.unlock(link, self.schema)
        link.close()

    def abandon(self) -> None:
        """Let go of it as a process does that is killed: the session is gone, and another writer may have it."""
        if self._link is not None and self._pid == os.getpid():
            self._link.close()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


__all__ = ["RECONNECT_S", "PostgresDatabase"]
