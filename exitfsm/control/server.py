"""The shell that listens: a Unix socket for this user alone, or a port on this machine with a token.

What comes in is bounded: so many connections, so many bytes, so long. A process of another user is cut off without a
word. Nothing that happens here harms the manager: what goes wrong with a connection ends that connection.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from exitfsm.control.desk import Desk
from exitfsm.control.place import make_folder, socket_of
from exitfsm.control.protocol import DONE, NOT_DONE, REQUEST_MAX, Answer, Malformed, Request, line_of, refused
from exitfsm.control.protocol import request_of as read_request
from exitfsm.errors import ConfigError, StoreError
from exitfsm.outside import log

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager

#: How long a client may take to ask, and to take its answer, in seconds.
ASK_S, TAKE_S = 5.0, 10.0
#: How many clients may be connected at the same time; those beyond are told to come again.
CLIENTS_MAX = 32
#: How long a wrong token is kept waiting, in seconds.
WRONG_TOKEN_S = 0.5
#: The shortest token, in characters.
TOKEN_MIN = 16


class Peer(NamedTuple):
    """Who is at the other end; `user` None: the system does not say."""

    user: int | None
    whence: str


def serve(
    manager: ExitManager,
    *,
    on_stop: Callable[[], Awaitable[None] | None] | None = None,
    listen: str | None = None,
    token: str = "",
) -> Server:
    """What lets a running manager be steered from outside: `async with manager, control.serve(manager): …`.

    Args:
        manager: started before this is entered.
        on_stop: called for the command `stop`, after its answer; `manager.stop` when None.
        listen: `HOST:PORT` on this machine beside the socket; needs the token. Other hosts reach it by ssh.
        token: the secret that a client on the port must know.

    Raises:
        ConfigError: the address is not on this machine, or there is no token worth the name.
    """
    return Server(manager, on_stop or manager.stop, address_of(listen, token), token)


def address_of(listen: str | None, token: str) -> tuple[str, int] | None:
    """Host and port to listen on; None where it is the socket alone.

    Raises:
        ConfigError: the address is not on this machine, or there is no token worth the name.
    """
    if listen is None:
        return None
    host, _, port = listen.rpartition(":")
    try:
        here = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
        number = int(port)
    except ValueError:
        raise ConfigError([f"listen: {listen!r} is not HOST:PORT, such as 127.0.0.1:7070"]) from None
    if not here or not 0 <= number < 1 << 16:
        raise ConfigError([f"listen: {listen} is not on this machine: use 127.0.0.1:PORT, and ssh -L from elsewhere"])
    if len(token) < TOKEN_MIN:
        raise ConfigError([f"listen: a port needs a token of at least {TOKEN_MIN} characters (EXITFSM_CONTROL_TOKEN)"])
    return host.strip("[]"), number


class Server:
    """Listens for a manager from when it is entered until it is left; made by `serve`.

    Attributes:
        path: its socket; None before it is entered, and where the store is in memory.
        port: its port; None where there is none.
    """

    def __init__(
        self,
        manager: ExitManager,
        on_stop: Callable[[], Awaitable[None] | None],
        address: tuple[str, int] | None,
        token: str,
    ) -> None:
        self._manager, self._on_stop, self._address, self._token = manager, on_stop, address, token
        self._desk = Desk(manager)
        self._servers: list[asyncio.Server] = []
        self._clients: set[asyncio.Task[None]] = set()
        self._stopping: asyncio.Task[None] | None = None
        self._inode: tuple[int, int] | None = None
        self.path: Path | None = None
        self.port: int | None = None

    def __repr__(self) -> str:
        """Without the token."""
        return f"Server(path={self.path}, port={self.port})"

    async def __aenter__(self) -> Server:
        """Listen.

        Raises:
            StoreError: another manager listens for this store, or the socket cannot be made.
        """
        await self._desk.begin()
        store = self._manager.store
        if str(store.where) != "the store in memory":
            await self._listen_at(socket_of(store.path if store.path is not None else store.where))
        if self._address is not None:
            await self._listen_on(*self._address)
        return self

    async def _listen_at(self, path: Path) -> None:
        if not hasattr(socket, "AF_UNIX"):  # pragma: no cover  Windows
            log.warning("control_without_socket text=this system has no Unix sockets: use listen")
            return
        try:
            make_folder(path.parent)
            _clear(path)
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                made.bind(str(path))
                path.chmod(0o600)  # before it listens: nobody else gets in between
                info = path.lstat()
                server = await asyncio.start_unix_server(self._on_unix, sock=made, limit=REQUEST_MAX)
            except BaseException:
                made.close()
                raise
        except OSError as error:
            raise StoreError(f"cannot listen at {path}: {error.strerror or error}") from error
        self.path, self._inode = path, (info.st_dev, info.st_ino)
        self._servers.append(server)

    async def _listen_on(self, host: str, port: int) -> None:
        try:
            server = await asyncio.start_server(self._on_port, host, port, limit=REQUEST_MAX)
        except OSError as error:
            await self.__aexit__()
            raise StoreError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.port = int(server.sockets[0].getsockname()[1])
        self._servers.append(server)

    async def __aexit__(self, *_: object) -> None:
        """Listen no longer; commands that are being carried out come to their end first."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        self._remove()
        await self._desk.end()
        if self._clients:
            await asyncio.wait(list(self._clients), timeout=1.0)  # their answers leave
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def _remove(self) -> None:
        """Take the socket away, where it is still ours: who took the store over has made one of its own."""
        path, self.path = self.path, None
        with suppress(OSError):
            info = path.lstat() if path is not None else None
            if path is not None and info is not None and (info.st_dev, info.st_ino) == self._inode:
                path.unlink()

    # --- connections --------------------------------------------------------------------------------------------------

    async def _on_unix(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer(writer.get_extra_info("socket"))
        if peer.user is not None and peer.user not in (os.geteuid(), 0):
            log.warning("control_refused whence=%s", peer.whence)
            writer.transport.abort()
            return
        await self._client(reader, writer, peer)

    async def _on_port(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")[:2]
        await self._client(reader, writer, Peer(None, f"{host}:{port}"), by_token=True)

    async def _client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer, *, by_token: bool = False
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # a connection has one of its own
        self._clients.add(task)
        try:
            if len(self._clients) > CLIENTS_MAX:
                busy = f"the manager is busy: {CLIENTS_MAX} clients are connected; give the command again"
                await _say(writer, Answer(code=NOT_DONE, lines=(busy,)))
                return
            await self._conversation(reader, writer, peer, by_token=by_token)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return  # whoever asked has gone, or takes too long: what was begun goes on
        except Exception:
            log.exception("control_crashed whence=%s", peer.whence)
        finally:
            self._clients.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _conversation(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer, *, by_token: bool
    ) -> None:
        try:
            line = await asyncio.wait_for(reader.readuntil(b"\n"), ASK_S)
        except asyncio.LimitOverrunError:
            await _say(writer, refused(f"a request has at most {REQUEST_MAX} bytes"))
            return
        try:
            request = read_request(line)
        except Malformed as error:
            await _say(writer, refused(str(error)))
            return
        if by_token and not hmac.compare_digest(request.token.encode(), self._token.encode()):
            log.warning("control_wrong_token whence=%s", peer.whence)
            await asyncio.sleep(WRONG_TOKEN_S)
            await _say(writer, refused("the token is wrong: set EXITFSM_CONTROL_TOKEN to the manager's"))
            return
        answer = await self._answer(request, peer)
        try:
            await _say(writer, answer)
        finally:
            if request.verb == "stop" and answer.code == DONE and not answer.again:
                self._stopping = asyncio.ensure_future(self._end())

    async def _answer(self, request: Request, peer: Peer) -> Answer:
        if request.expires < time.time():
            return refused("the command came too late, and nothing was done: the manager was busy; give it again")
        name = _name_of(peer.user) if peer.user is not None else request.who or "operator"
        return await self._desk.answer(request, name, peer.whence)

    async def _end(self) -> None:
        result = self._on_stop()
        if result is not None:
            await result


async def _say(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(line_of(answer))
    await asyncio.wait_for(writer.drain(), TAKE_S)
    if writer.can_write_eof():
        writer.write_eof()


def _peer(connection: socket.socket) -> Peer:
    """Who is at the other end of a Unix socket, by the kernel; elsewhere the mode of the file must do."""
    if not hasattr(socket, "SO_PEERCRED"):  # pragma: no cover  not Linux
        return Peer(os.geteuid(), "a process of this user")
    size = struct.calcsize("3i")
    pid, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return Peer(user, f"process {pid}, user {user}")


def _name_of(user: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(user).pw_name
    except (ImportError, KeyError):
        return f"user {user}"


def _clear(path: Path) -> None:
    """Take away the socket of a manager that is gone.

    Raises:
        StoreError: somebody listens there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StoreError(f"{path} is in the way and no socket: move it elsewhere")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # it is busy, and so it is there
    raise StoreError(f"another manager listens at {path}: stop that one")
