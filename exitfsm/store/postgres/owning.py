"""The one writer of a store on PostgreSQL: a lock that ends with its session, and a fence that every commit asks for.

Rules of this room: the lock is held by the very session that writes, so that losing one loses the other. The fence
rises each time somebody takes the store; a session whose fence is an old one cannot commit, however late it wakes up.
Safety never rests on this: what the broker is told is kept to once by other means.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time

from exitfsm.errors import StoreLocked
from exitfsm.store.postgres.address import Address
from exitfsm.store.postgres.link import Link

#: How long the store may still be held by a session that was closed or killed: the server needs a moment to notice.
PATIENCE_S = 1.0
_STEP_S = 0.02


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
            link.rows(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ?::int AND backend_start::text = ?",
                mine,
            )
        if time.monotonic() > deadline:
            raise StoreLocked(
                f"{address.shown} is being written by {_holder(link, key)}: stop that one first, or open the store "
                "with read_only=True"
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


def _holder(link: Link, key: int) -> str:
    """Who holds the lock: what the owner said of itself, and its session as the server knows it."""
    high, low = (key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF
    rows = link.rows(
        "SELECT pid, application_name, coalesce(host(client_addr), 'this host') FROM pg_locks JOIN pg_stat_activity "
        "USING (pid) WHERE locktype = 'advisory' AND classid::bigint = ?::bigint AND objid::bigint = ?::bigint "
        "AND objsubid = 1 AND granted",
        (high, low),
    )
    if not rows:
        return "another session"
    pid, name, host = rows[0]
    return f"{name or 'another program'} (session {pid} from {host})"


__all__ = ["PATIENCE_S", "lock", "lock_key", "lost_to", "myself", "take", "unlock"]
