"""Where a store's manager listens: a Unix socket whose path is a function of the store.

Rules of this room: the same store leads to the same path by whatever name it is called, in whatever process of the
same user. Nothing here makes a store, or opens one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from exitfsm.errors import StoreError
from exitfsm.store import is_url, shown

#: The longest path that every system's sockets take, in bytes.
PATH_MAX = 100


def socket_of(store: str | os.PathLike[str]) -> Path:
    """The socket of a store's manager: beside its file where that path fits, else in the user's runtime directory.

    Raises:
        StoreError: it is a store in memory, which nobody else can name.
    """
    text = os.fspath(store)
    if text == ":memory:":
        raise StoreError("a store in memory has no name that another process could reach it by")
    if is_url(text):
        return _elsewhere(shown(text))
    path = Path(text).expanduser().resolve()
    beside = path.with_name(f"{path.name}.sock")
    return beside if len(os.fsencode(beside)) <= PATH_MAX else _elsewhere(str(path))


def _elsewhere(name: str) -> Path:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return runtime_folder() / f"{digest}.sock"


def runtime_folder() -> Path:
    """The folder for sockets that do not fit beside their stores; it need not be there."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given and Path(given).is_absolute():
        return Path(given) / "exitfsm"
    return Path(tempfile.gettempdir()) / f"exitfsm-{_user()}"


def make_folder(folder: Path) -> None:
    """Make the folder of a socket where it is missing, for this user alone.

    Raises:
        StoreError: it is somebody else's, or others may write to it.
    """
    if folder != runtime_folder():
        return  # the folder of the store, which is there
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if folder.is_symlink() or info.st_uid != _user() or info.st_mode & 0o022:
        raise StoreError(f"{folder} is not this user's alone: remove it, or set XDG_RUNTIME_DIR to a folder that is")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def writer_of(store: str | os.PathLike[str]) -> int | None:
    """The process that wrote a store's file last, where it still runs; None where that is not so, or not known.

    Its lock is not tried: a manager that starts at that moment would find it taken.
    """
    if is_url(store):
        return None
    path = Path(os.fspath(store)).expanduser().resolve()
    try:
        said = path.with_name(f"{path.name}.lock").read_bytes()[:32].strip()
    except OSError:
        return None
    pid = int(said) if said.isdigit() else 0
    try:
        os.kill(pid, 0)
    except PermissionError:
        return pid  # somebody else's, and alive
    except OSError:
        return None
    return pid or None
