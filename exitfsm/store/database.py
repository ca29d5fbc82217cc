"""The port between the store and a database: what every engine does, in the same words.

Rules of this room: no SQL and no engine's own names. An engine is a module beside this one (`sqlite`, `postgres`) with
one class that is a `Database`; nothing else knows how it works. SQL is given to it with `?` for a parameter and values
as `int`, `float`, `str`, `bytes` or None. What differs between engines is an attribute, never a question which engine
it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from exitfsm.errors import StoreError

#: Version of what is stored: tables, envelope, chain. A newer one is refused.
FORMAT = 1

Params = tuple[Any, ...]
#: What `Database.raw` says of the types of a sound event.
SOUND = "text integer text blob blob"
#: An event as it is stored: its place, stream, version, topic and state.
EventRow = tuple[int, str, int, str, bytes]
#: The place of an event, and the hash of the store up to it.
ChainRow = tuple[int, bytes]
#: SQL, and the parameters of each of its rows.
Write = tuple[str, Sequence[Params]]


class Owner(NamedTuple):
    """Who owns a store on a server.

    Attributes:
        who: process and host, as it called itself.
        since: when it took the store.
        fence: how often the store has been taken.
        session: its session at the server; None where it has none any more.
        alive_s: seconds since it last said that it is alive; None where it does not say so.
    """

    who: str
    since: str
    fence: int
    session: str | None
    alive_s: float | None

    @property
    def is_owned(self) -> bool:
        """True while somebody owns it, alive or not."""
        return self.session is not None or self.alive_s is not None


class Heart(Protocol):
    """Says that an owner is alive. Used from one thread, beside whatever the store does."""

    def beat(self) -> None:
        """Say it once.

        Raises:
            StoreLocked: somebody else has taken the store.
            StoreError: it could not be said.
        """

    def close(self) -> None:
        """Say no more."""


class Watch(Protocol):
    """Waits for a store that somebody else owns. Used from one thread."""

    def look(self) -> bool:
        """Look once; True when the store may be opened now, which may still find it locked.

        Raises:
            StoreError: it cannot be waited for.
        """
        ...

    def close(self) -> None:
        """Look no more."""


class Database(Protocol):
    """One open database. Not thread safe: `ExitStore` holds a lock around every use.

    Attributes:
        where: what messages call it; holds no secret.
        path: its file; None where it is none.
        read_only: only reads are done.
        errors: what its driver raises. Every method may raise one of them, and `StoreError` where it knows better.
        place: the column of `stored_events` that numbers the events in commit order, from 1 without gaps.
        raw: SELECT … FROM `stored_events e`, `chain c` beside it, for a check: the place, then stream, version, topic,
            state and hash with texts as bytes, whoever tampered with them, and the types of the five as one text
            (`SOUND` where they are right).
        raw_page: a page of the chain, by place and length: the place, whether stream and topic are text, then stream,
            version, topic, state and hash as in `raw`.
        recorder: the recorder of the library `eventsourcing`, for reading.
    """

    read_only: bool
    errors: tuple[type[Exception], ...]
    place: str
    raw: str
    raw_page: str

    @property
    def where(self) -> str:
        """What messages call it."""
        ...

    @property
    def path(self) -> Path | None:
        """Its file."""
        ...

    @property
    def recorder(self) -> Any:
        """The library's recorder."""
        ...

    # ---- writing

    def begin(self) -> None:
        """Begin a transaction that writes; `commit` or `give_up` ends it."""

    def insert(self, events: Sequence[EventRow], chain: Sequence[ChainRow], writes: Iterable[Write]) -> None:
        """Store events, the hash of each, and the read-model rows of all, in the transaction that has begun."""

    def remake(self) -> None:
        """Drop the read models and make them again, empty, in the transaction that has begun."""

    def commit(self) -> None:
        """Make the transaction durable. When this fails, `give_up` must follow.

        Raises:
            StoreError: it was not stored, or that cannot be found out; the text says which.
        """

    def give_up(self) -> None:
        """Undo the transaction. Never fails."""

    def transaction(self) -> AbstractContextManager[None]:
        """A transaction that commits when the block ends well and leaves nothing when it does not."""
        ...

    def settle(self) -> None:
        """While nothing is urgent: do what a later commit would have to do otherwise."""

    # ---- reading

    def snapshot(self) -> AbstractContextManager[None]:
        """Inside the block every read sees one state, whoever writes meanwhile."""
        ...

    def rows(self, sql: str, params: Params = ()) -> list[Params]:
        """All rows of a query, as the transaction under way sees them."""
        ...

    def each(self, sql: str, params: Params = ()) -> Iterator[Params]:
        """The rows of a query, read as they are asked for."""
        ...

    def damage(self) -> Iterator[str]:
        """What is wrong with its tables apart from what stands in them, one line each."""
        ...

    # ---- failures: what an exception of `errors` means

    def failure(self, error: Exception) -> StoreError:
        """What it means, and what to do about it."""
        ...

    def is_conflict(self, error: Exception) -> bool:
        """True when what was written contradicts what is stored: perhaps somebody else wrote."""
        ...

    def is_whole(self, error: Exception) -> bool:
        """True when every append would fail like this now (full, locked, out of reach): not the fault of one."""
        ...

    def is_damage(self, error: Exception) -> bool:
        """True when what is stored is damaged; False when it is no store, or out of reach."""
        ...

    def heart(self) -> Heart | None:
        """What says to others that this owner is alive; None where nobody would take the store from it."""
        ...

    def close(self) -> None:
        """Close it and free it for another writer. May be called twice."""

    def abandon(self) -> None:
        """Let go of it as a process does that is killed: nothing is finished, and another writer may have it."""
