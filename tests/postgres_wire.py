"""What may stand between a store and its PostgreSQL server: a network that is cut, and a pooler.

`Proxy` and `Pooler` take a client's bytes to the server and back, as threads on loopback; `pgbouncer` is the real one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from postgres_server import Server, as_nobody, free_port

_CHUNK = 65536


class Proxy:
    """Passes bytes on; when armed it cuts the connection after so many more of one direction, and passes on again.

    Attributes:
        port: where it listens.
        cuts: how often it has cut.
        turns: how often the server has begun to answer.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.cuts = self.turns = 0
        self._last = ""
        self._armed: tuple[str, int] | None = None
        self._silent = False
        self._kept: set[socket.socket] = set()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, direction: str, after: int, *, silent: bool = False) -> None:
        """Cut after `after` bytes of what comes next: `"answer"` of the server, or `"request"` of the client.

        When it is silent the server hears nothing of it: its session lives on, as behind a network that is down.
        """
        self._armed, self._silent = (direction, after), silent

    @property
    def armed(self) -> bool:
        """True while it has not cut yet."""
        return self._armed is not None

    def disarm(self) -> None:
        """Cut no more."""
        self._armed = None

    def refuse(self) -> None:
        """Take no connection any more; those that are open stay."""
        _end(self._listener)

    def close(self) -> None:
        """End everything."""
        for one in (self._listener, *self._open):
            _end(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                return
            self._open += (client, server)
            for source, target, direction in ((client, server, "request"), (server, client, "answer")):
                threading.Thread(target=self._pump, args=(source, target, direction), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self.turns += direction == "answer" and self._last == "request"
                self._last = direction
                armed = self._armed
                if armed is not None and armed[0] == direction:
                    if armed[1] < len(data):
                        self._armed = None
                        self.cuts += 1
                        target.sendall(data[: armed[1]])
                        if self._silent:
                            self._kept.add(target if direction == "request" else source)
                        break
                    self._armed = (direction, armed[1] - len(data))
                target.sendall(data)
        for one in {source, target} - self._kept:
            _end(one)


@contextmanager
def pgbouncer(server: Server, mode: str, settings: str = "") -> Iterator[int]:
    """The port of a PgBouncer before a server; skips the test where that is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (apt-get install pgbouncer)")
    port, folder = free_port(), server.folder
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users\n"
        f"pool_mode = {mode}\n{settings}\n"
    )
    with (folder / "pgbouncer.log").open("ab") as log:
        command = [program, str(folder / "pgbouncer.ini")]
        running = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **as_nobody())
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert time.monotonic() < deadline, (folder / "pgbouncer.log").read_text()
            time.sleep(0.02)
        yield port
    finally:
        running.terminate()
        running.wait(20)


class Pooler:
    """A pooler in transaction mode: clients share one session of the server, a transaction at a time."""

    def __init__(self, server_port: int, user: str, database: str) -> None:
        self._server = socket.create_connection(("127.0.0.1", server_port))
        self._lock = threading.Lock()
        start = b"\0\3\0\0" + b"".join(text.encode() + b"\0" for text in ("user", user, "database", database)) + b"\0"
        self._server.sendall(struct.pack(">I", len(start) + 4) + start)
        self._greeting = b"".join(self._until_ready())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End everything."""
        for one in (self._listener, self._server):
            _end(one)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error), client:
            (length,) = struct.unpack(">I", _exactly(client, 4))
            _exactly(client, length - 4)
            client.sendall(self._greeting)
            held = False
            while True:
                kind, message = _message(client)
                if kind == b"X":
                    return
                if not held:
                    self._lock.acquire()
                    held = True
                self._server.sendall(message)
                if kind in b"QS":  # a simple query, or the end of a batch: there is an answer
                    for answer in self._until_ready():
                        client.sendall(answer)
                        if answer[:1] == b"Z" and answer[5:6] == b"I":
                            self._lock.release()
                            held = False

    def _until_ready(self) -> Any:
        while True:
            kind, message = _message(self._server)
            yield message
            if kind == b"Z":
                return


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(source, 5)
    return head[:1], head + _exactly(source, struct.unpack(">I", head[1:])[0] - 4)


def _exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise OSError("ended")
        data += more
    return data


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
