"""The one writer of a store on PostgreSQL: a lock that ends with its session, and a fence that every commit asks for.

Rules of this room: the lock is held by the very session that writes, so that losing one loses the other. The fence
rises each time somebody takes the store; a session whose fence is an old one cannot commit, however late it wakes up.
An owner that wants to be replaced when it fails says each second that it is alive, on a session of its own. Safety
never rests on any of this: what the broker is told is kept to once by other means.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time

import psycopg

from exitfsm.errors import StoreError, StoreLocked
from exitfsm.store.database import Owner
from exitfsm.store.postgres.address import Address
from exitfsm.store.postgres.link import Link, failure

#: How long the store may still be held by a session that was closed or killed: the server needs a moment to notice.
PATIENCE_S = 1.0
_STEP_S = 0.02
#: How long a heartbeat may take: a later one says the same.
_BEAT_TIMEOUT_S = 5
_OWNER = (
    "SELECT o.fence, o.who, to_char(o.since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), "
    "CASE WHEN h.fence = o.fence THEN h.seen::text END, "
    "extract(epoch FROM clock_timestamp() - h.seen)::float8 FROM owner o LEFT JOIN heartbeat h USING (id)"
)
_HOLDER = (
    "SELECT pid, backend_start::text, application_name, coalesce(host(client_addr), 'this host') FROM pg_locks JOIN "
    "pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND classid::bigint = ?::bigint AND objid::bigint = "
    "?::bigint AND objsubid = 1 AND granted AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = "
    "current_database())"
)
_TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ?::int AND backend_start::text = ?"
_DEPOSE = (
    "UPDATE owner SET fence = fence + 1, who = ?, since = now() WHERE id = 1 AND fence = ?::bigint RETURNING fence"
)
# Whoever was replaced while it slept changes nothing here.
_BEAT = (
    "UPDATE heartbeat SET fence = ?::bigint, seen = clock_timestamp() WHERE id = 1 AND EXISTS (SELECT 1 FROM owner "
    "WHERE fence = ?::bigint) RETURNING 1"
)


def lock_key(schema: str) -> int:
    """The number of a store's lock within its database."""
    return int.from_bytes(hashlib.sha256(f"exitfsm store {schema}".encode()).digest()[:8], "big", signed=True)


def myself() -> str:
    """Who this is, for others."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def lock(link: Link, address: Address, *, mine: tuple[int, str] | None = None) -> None:
    """Take the lock of a store.

    Args:
        mine: a session of this very object that may still hold it at the server, though it was lost here; it is ended.

    Raises:
        StoreLocked: another session holds it.
    """
    assert address.schema is not None
    key = lock_key(address.schema)
    deadline = time.monotonic() + PATIENCE_S
    while not link.rows("SELECT pg_try_advisory_lock(?::bigint)", (key,))[0][0]:
        if mine is not None:
            link.rows(_TERMINATE, mine)
        if time.monotonic() > deadline:
            holder = _holder(link, key)
            raise StoreLocked(
                f"{address.shown} is being written by {holder.named if holder else 'another session'}: stop that one "
                "first, or open the store with read_only=True"
            )
        time.sleep(_STEP_S)


def unlock(link: Link, schema: str) -> None:
    """Free the lock."""
    link.rows("SELECT pg_advisory_unlock(?::bigint)", (lock_key(schema),))


def take(link: Link) -> int:
    """Take the store, whose lock is held: the fence from now on."""
    sql = "UPDATE owner SET fence = fence + 1, who = ?, since = now() WHERE id = 1 RETURNING fence"
    return int(link.rows(sql, (myself(),))[0][0])


def lost_to(link: Link, address: Address, outcome: str = "") -> StoreLocked:
    """What is said to a session that is no longer the owner, with what became of its commit where it had one."""
    rows = link.rows("SELECT who, to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM owner WHERE id = 1")
    who, since = rows[0] if rows else ("somebody", "an unknown time")
    return StoreLocked(
        f"{address.shown} was taken by {who} at {since} UTC: {outcome}send no order from here; stop, and "
        "open the store again when that one has ended"
    )


class Holder:
    """The session that holds the lock of a store."""

    def __init__(self, pid: int, began: str | None, name: str | None, host: str) -> None:
        self.backend = pid, began
        self.named = f"{name or 'another program'} (session {pid} from {host})"


def _holder(link: Link, key: int) -> Holder | None:
    """Who holds the lock: what the owner said of itself, and its session as the server knows it."""
    rows = link.rows(_HOLDER, ((key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF))
    return Holder(*rows[0]) if rows else None


# --- the owner, seen by others ----------------------------------------------------------------------------------------


class State:
    """What the server knows of a store's owner at one moment.

    Attributes:
        fence: the owner's.
        beat: its last heartbeat, as text that changes with each; None where it has said nothing.
        holder: the session that holds the lock; None where nobody does.
        owner: the same for people.
    """

    def __init__(self, link: Link, address: Address) -> None:
        assert address.schema is not None
        self.fence, who, since, self.beat, age_s = link.rows(_OWNER)[0]
        self.holder = _holder(link, lock_key(address.schema))
        self.owner = Owner(
            who=str(who),
            since=str(since),
            fence=int(self.fence),
            session=self.holder.named if self.holder is not None else None,
            alive_s=float(age_s) if self.beat is not None else None,
        )


def end(link: Link, address: Address, state: State, who: str) -> int | None:
    """End the ownership that was seen: its fence is an old one from now on, and its session is over.

    Returns:
        The fence from now on; None where somebody else was faster.

    Raises:
        StoreError: this role may not end the owner's session.
    """
    end_session(link, address, state)  # first: a commit of it that hangs keeps the row
    rows = link.rows(_DEPOSE, (who, state.fence))
    return int(rows[0][0]) if rows else None


def end_session(link: Link, address: Address, state: State) -> None:
    """End the session that holds the lock.

    Raises:
        StoreError: this role may not.
    """
    if state.holder is None:
        return
    if state.holder.backend[1] is None:  # what the server does not show of it is another role's
        raise StoreError(
            f"{address.shown}: this role may not end the session of the owner ({state.owner.who}): both must log in "
            "as one role"
        )
    link.rows(_TERMINATE, state.holder.backend)


# --- the owner, for others to see -------------------------------------------------------------------------------------


class Heart:
    """Says that an owner is alive, on a session of its own that a commit which hangs does not keep waiting.

    Args:
        fence: the owner's.
    """

    def __init__(self, address: Address, fence: int) -> None:
        self._address, self._fence = address, fence
        self._link: Link | None = None

    def beat(self) -> None:
        """Say it once.

        Raises:
            StoreLocked: somebody else has taken the store; the text says who.
            StoreError: it could not be said. The next one may be.
        """
        try:
            link = self._opened()
            if not link.rows(_BEAT, (self._fence, self._fence)):
                raise lost_to(link, self._address)
        except psycopg.Error as e:
            self.close()
            raise failure(e, self._address) from e
        except StoreLocked:
            self.close()
            raise

    def _opened(self) -> Link:
        if self._link is None:
            # No commit of any weight waits for this one: that the disk has it is not needed.
            settings = {"synchronous_commit": "off", "statement_timeout": f"{_BEAT_TIMEOUT_S}s"}
            link = Link(self._address, f"exitfsm: alive, {myself()}", settings=settings)
            link.rows("SELECT set_config('search_path', quote_ident(?), false)", (self._address.schema,))
            self._link = link
        return self._link

    def close(self) -> None:
        """End its session."""
        link, self._link = self._link, None
        if link is not None:
            with contextlib.suppress(psycopg.Error):
                link.close()


def say_goodbye(link: Link, fence: int) -> None:
    """Leave the store in good order: nobody waits for a sign of life that cannot come any more."""
    link.connection.execute("UPDATE heartbeat SET fence = 0 WHERE id = 1 AND fence = %s::bigint", (fence,))


__all__ = [
    "PATIENCE_S",
    "Heart",
    "Holder",
    "State",
    "end",
    "end_session",
    "lock",
    "lock_key",
    "lost_to",
    "myself",
    "say_goodbye",
    "take",
    "unlock",
]
