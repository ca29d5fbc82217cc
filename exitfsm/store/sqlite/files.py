"""The file of a store, as the system sees it: whose it is, which it is, its lock, its room, its directory.

Rules of this room: no SQL. A file that is not ours is never written to.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from exitfsm.errors import StoreError, StoreLocked

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows: SQLite's own locks are then the only ones
    _HAS_FLOCK = False
else:
    _HAS_FLOCK = True

#: Bytes that the WAL has room for once it is settled: a sync within a file costs less than one that makes it longer.
ROOM = 4 << 20


def lock(path: Path) -> int | None:
    """Take the lock of the one writer, beside the store; its descriptor, None where the system has no such lock.

    Raises:
        StoreLocked: another process holds it.
        StoreError: it cannot be made.
    """
    if not _HAS_FLOCK:  # pragma: no cover
        return None
    lock = path.with_name(path.name + ".lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        raise StoreError(
            f"cannot make {lock}: {e.strerror}: check the path and its permissions, or open with read_only=True"
        ) from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        holder = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        whose = "this very process" if holder == str(os.getpid()) else f"process {holder}"
        raise StoreLocked(
            f"{path} is being written by {whose}: stop that one first, or open the store with read_only=True"
        ) from e
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def inode(path: str) -> tuple[int, int] | None:
    """What file lies at `path` now; None when none does."""
    try:
        info = os.stat(path)  # noqa: PTH116  at each commit: a path object takes twice as long
    except FileNotFoundError:
        return None
    return info.st_dev, info.st_ino


def own_file(path: Path) -> os.stat_result | None:
    """What lies at `path`, which must be a plain file of this user; None when nothing does.

    Raises:
        StoreError: it is something else; nothing was done to it.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(info.st_mode):
        raise StoreError(f"{path} is a symbolic link: give the path of the store itself")
    if not stat.S_ISREG(info.st_mode):
        raise StoreError(f"{path} is no file: give the path of a store, or of a file that does not exist yet")
    if hasattr(os, "geteuid") and info.st_uid != os.geteuid():
        raise StoreError(f"{path} belongs to another user (uid {info.st_uid}): open it as that user, or copy it")
    return info


def make_room(wal: Path) -> None:
    """Writes zeros behind the end of a WAL that is short: no frame, and no more to SQLite than what a crash may leave.

    SQLite holds no locks on this file, so that closing it here drops none.
    """
    with contextlib.suppress(OSError):  # it does without
        fd = os.open(wal, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            end = os.fstat(fd).st_size
            if 0 < end < ROOM:
                os.pwrite(fd, bytes(ROOM - end), end)
                os.fsync(fd)
        finally:
            os.close(fd)


def sync_directory(directory: Path) -> None:
    """Makes a rename in `directory` durable, where the platform can."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


__all__ = ["ROOM", "inode", "lock", "make_room", "own_file", "sync_directory"]
