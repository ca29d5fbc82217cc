"""Where a store's manager listens: a Unix socket whose path is a function of its store.

Rules of this room: the same store leads to the same path by whatever name it is called, in whatever process of the
same user. A client looks in every folder that a manager of this user, or of a service, may have chosen: its environment
may be another. Nothing here makes a store, or opens one.
"""

from __future__ import annotations

import getpass
import hashlib
import os
from pathlib import Path

from exitfsm.errors import StoreError
from exitfsm.store import is_url

#: The longest path that every system's sockets take, in bytes.
PATH_MAX = 100
#: Where a service has its folder (`RuntimeDirectory=exitfsm`).
SERVICE_FOLDER = Path("/run/exitfsm")


def socket_of(store: str | os.PathLike[str], schema: str = "") -> Path:
    """Where a store's manager listens: beside its file where that path fits, else in the user's runtime directory.

    Args:
        store: the path of its file, or the URL that the manager was given.
        schema: of a store on a server: the schema that was found or made for it.

    Raises:
        StoreError: it is a store in memory, which nobody else can name.
    """
    if is_url(store):
        place, named = _server_of(os.fspath(store))
        return runtime_folder() / f"{place}-{_digest(named or schema)[:8]}.sock"
    path = _file_of(store)
    beside = path.with_name(f"{path.name}.sock")
    return beside if len(os.fsencode(beside)) <= PATH_MAX else runtime_folder() / f"{_digest(str(path))[:32]}.sock"


def sockets_of(store: str | os.PathLike[str]) -> list[Path]:
    """The sockets at which the manager of a store may be found. For a URL without a schema: all that are there.

    Raises:
        StoreError: it is a store in memory.
    """
    if not is_url(store):
        usual = socket_of(store)
        is_beside = usual.parent == _file_of(store).parent
        return [usual] if is_beside else [folder / usual.name for folder in folders(store)]
    place, schema = _server_of(os.fspath(store))
    if schema:
        return [folder / f"{place}-{_digest(schema)[:8]}.sock" for folder in folders(store)]
    return [path for folder in folders(store) for path in sorted(folder.glob(f"{place}-*.sock"))]


def _file_of(store: str | os.PathLike[str]) -> Path:
    text = os.fspath(store)
    if text == ":memory:":
        raise StoreError("a store in memory has no name that another process could reach it by")
    return Path(text).expanduser().resolve()


def _server_of(url: str) -> tuple[str, str]:
    """A digest of the server and database that a URL names, however it is spelled, and the schema that it names."""
    from exitfsm.store.postgres.address import parse

    address = parse(url)
    given = address.settings

    def setting(name: str, variable: str, default: str) -> str:
        return given.get(name) or os.environ.get(variable) or default

    user = setting("user", "PGUSER", getpass.getuser())
    host = setting("host", "PGHOST", "") or given.get("hostaddr", "")
    place = (host, setting("port", "PGPORT", "5432"), setting("dbname", "PGDATABASE", user), given.get("service", ""))
    return _digest("\0".join(place))[:16], address.schema or ""


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def runtime_folder() -> Path:
    """The folder for sockets that do not fit beside their stores; it need not be there."""
    service = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    return Path(service) if Path(service).is_absolute() else _folders_of(_user())[0]


def folders(store: str | os.PathLike[str]) -> list[Path]:
    """The folders in which the socket of a store's manager may lie, each once."""
    users = sorted(trusted(store), key=lambda user: user != _user())
    found = [runtime_folder(), *(folder for user in users for folder in _folders_of(user)), SERVICE_FOLDER]
    return list(dict.fromkeys(found))


def _folders_of(user: int) -> list[Path]:
    given = os.environ.get("XDG_RUNTIME_DIR", "") if user == _user() else ""
    run = Path(f"/run/user/{user}")
    found = [Path(given)] if given and Path(given).is_absolute() else []
    found += [run] if run.is_dir() else []
    return [*(folder / "exitfsm" for folder in found), Path(f"/tmp/exitfsm-{user}")]  # nosec B108


def trusted(store: str | os.PathLike[str]) -> frozenset[int]:
    """The users whose process may be the manager of a store: this one; for root, the owner of the store as well."""
    own, owner = _user(), SERVICE_FOLDER if is_url(store) else Path(os.fspath(store)).expanduser()
    try:
        return frozenset({own, 0, owner.stat().st_uid}) if own == 0 else frozenset({own, 0})
    except OSError:
        return frozenset({own, 0})


def make_folder(folder: Path) -> None:
    """Make the folder of a socket where it is missing, for this user alone.

    Raises:
        StoreError: it is somebody else's, or others may write to it.
    """
    if folder != runtime_folder():
        return  # the folder of the store, which is there
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_safe(folder, frozenset({_user()})):
        raise StoreError(f"{folder} is not this user's alone: remove it, or set XDG_RUNTIME_DIR to a folder that is")


def is_safe(folder: Path, users: frozenset[int]) -> bool:
    """True for a folder in which only these users can have put a socket."""
    info = folder.lstat()
    return not folder.is_symlink() and info.st_uid in users and not info.st_mode & 0o022


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
    except (OSError, OverflowError):  # gone, or no number of a process
        return None
    return pid or None
