"""The library's own recorder on a store: its readers, on a session of their own; none of its writers.

Rules of this room: writing as the library does would lock the table and say NOTIFY in each commit, number the events
with gaps, and repeat an insert blindly after a lost connection, so that what was stored would come back as a
contradiction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.rows import DictRow, dict_row

from exitfsm.errors import StoreError


class _Datastore(PostgresDatastore):
    """The library's datastore over one connection that is opened when it is first read from."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], schema: str) -> None:
        # Not the library's own: that makes a pool of host, port, name, user and password, and knows of nothing else.
        self._connect = connect
        self._connection: psycopg.Connection[DictRow] | None = None
        self.schema = schema
        self.originator_id_type = "text"
        self.lock_timeout = 0
        self.enable_db_functions = False
        self.single_row_tracking = True
        self.db_type_names: set[str] = set()
        self.psycopg_type_adapters = {}
        self.psycopg_python_types = {}

    def register_type_adapters(self) -> None:
        """None: they are for writing."""

    @contextmanager
    def get_connection(self) -> Iterator[psycopg.Connection[DictRow]]:
        if self._connection is None or self._connection.closed:
            connection = self._connect()
            connection.row_factory = dict_row
            connection.execute("SET default_transaction_read_only = on")
            self._connection = connection
        yield self._connection

    def close(self) -> None:
        connection, self._connection = getattr(self, "_connection", None), None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()


class Recorder(PostgresApplicationRecorder):
    """The library's recorder, to read with."""

    @classmethod
    def on(cls, connect: Callable[[], psycopg.Connection[Any]], schema: str) -> Recorder:
        """A recorder of the store in a schema."""
        return cls(_Datastore(connect, schema))

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:  # noqa: ARG002
        """Refuse."""
        raise StoreError("events are stored by ExitStore alone, with their hashes and read models")


__all__ = ["Recorder"]
