"""The shell that listens: a Unix socket for this user alone, or a port on this machine with a token.

What comes in is bounded: so many connections, so many bytes, so long. The socket and the port are counted apart, and
who has not yet said anything makes room for who comes: nobody is kept out by those who only connect. A process of
another user is cut off without a word. Nothing that happens here harms the manager: what goes wrong with a connection
ends that connection, and where it cannot listen, that is said, and tried again.

The store is the authority: who has it listens, and puts its socket in the place of any other. A manager that is
stopped, or has lost its store, does not listen.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
import stat
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from exitfsm.control.desk import Desk
from exitfsm.control.place import make_folder, socket_of
from exitfsm.control.protocol import (
    DONE,
    REQUEST_MAX,
    Answer,
    Hello,
    Malformed,
    Request,
    has_mac,
    line_of,
    mac_of,
    not_stored,
    refused,
)
from exitfsm.control.protocol import request_of as read_request
from exitfsm.errors import ConfigError, StoreError
from exitfsm.outside import log
from exitfsm.store import is_url

if TYPE_CHECKING:
    from exitfsm.manager import ExitManager

#: How long a client may take to ask, and to take its answer, in seconds.
ASK_S, TAKE_S = 5.0, 10.0
#: How many clients of one way in may have commands under way, and how many more for `flatten` alone; those beyond are
#: told to come again. And how many may be connected that have not said anything yet: the oldest makes room.
CLIENTS_MAX, RESERVED, SILENT_MAX = 32, 8, 16
#: What is let in however many others there are.
URGENT = ("flatten", "proof")
#: How often it is looked whether it must listen, or must not any more, in seconds; and how long a failure waits.
KEEP_S, AGAIN_S = 0.25, 5.0
#: How long the system may take to name a user, in seconds.
NAME_S = 1.0
#: What is said where too many commands are under way.
BUSY = f"the manager is busy: {CLIENTS_MAX} commands are under way; nothing was done: give it again"
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


class Door:
    """One way in: the socket, or the port. Counts who is connected there."""

    def __init__(self) -> None:
        self._silent: dict[asyncio.StreamWriter, None] = {}
        self._at_work = 0

    def enter(self, writer: asyncio.StreamWriter) -> None:
        """Somebody has connected; where too many say nothing, the oldest of them is cut off."""
        self._silent[writer] = None
        if len(self._silent) > SILENT_MAX:
            oldest = next(iter(self._silent))
            self.leave(oldest)
            oldest.transport.abort()

    def leave(self, writer: asyncio.StreamWriter) -> None:
        """Somebody has said what he wants, or is gone."""
        self._silent.pop(writer, None)

    @asynccontextmanager
    async def work(self, verb: str) -> AsyncIterator[bool]:
        """Around what is done for a request; gives whether there is room for it."""
        self._at_work += 1
        try:
            yield self._at_work <= CLIENTS_MAX + (RESERVED if verb in URGENT else 0)
        finally:
            self._at_work -= 1


class Server:
    """Listens for a manager from when it is entered until it is left; made by `serve`.

    Attributes:
        path: its socket; None while it does not listen there, and where the store is in memory.
        port: its port; None where there is none.
        problem: why it cannot listen, in words; empty where it does. It goes on trying.
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
        self._socket: asyncio.Server | None = None
        self._listener: asyncio.Server | None = None
        self._doors = {False: Door(), True: Door()}
        self._clients: set[asyncio.Task[None]] = set()
        self._keeping: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._inode: tuple[int, int] | None = None
        self._names: dict[int, str] = {}
        self._has_begun = False
        self.path: Path | None = None
        self.port: int | None = None
        self.problem = ""

    def __repr__(self) -> str:
        """Without the token."""
        return f"Server(path={self.path}, port={self.port})"

    async def __aenter__(self) -> Server:
        """Listen; where that cannot be, it is said (`problem`) and tried again: the manager watches all the same."""
        for user in {0, os.geteuid()} if hasattr(os, "geteuid") else set():
            with suppress(TimeoutError):  # a directory of users that does not answer
                self._names[user] = await asyncio.wait_for(asyncio.to_thread(_name_of, user), NAME_S)
        await self._begin()
        self._keeping = asyncio.create_task(self._keep(), name="exitfsm-control")
        return self

    async def _begin(self) -> None:
        """Listen wherever that is wanted and is not so yet."""
        problems = []
        if not self._has_begun:
            await self._desk.begin()
            self._has_begun = True
        for listen in (self._listen_at, self._listen_on):
            try:
                await listen()
            except StoreError as error:
                problems.append(str(error))
        said = "; ".join(problems)
        if said and said != self.problem:
            log.error("control_not_listening error=%s", said)
        self.problem = said

    async def _keep(self) -> None:
        """Listen while the manager is at work, and only then; it may be stopped and started anew."""
        while True:
            await asyncio.sleep(AGAIN_S if self.problem else KEEP_S)
            try:
                if not self._desk.at_work:
                    await self._close()
                elif self.problem or not self._has_begun or self._is_swept():
                    await self._begin()
            except Exception:
                log.exception("control_not_kept")

    def _is_swept(self) -> bool:
        """True where somebody has removed the socket from its folder: nobody would find it any more."""
        if self.path is None or self.path.exists() or self._socket is None:
            return False
        self._socket.close()
        self._socket = self.path = None
        return True

    async def _listen_at(self) -> None:
        store = self._manager.store
        if self._socket is not None or str(store.where) == "the store in memory":
            return
        if not hasattr(socket, "AF_UNIX"):  # pragma: no cover  Windows
            log.warning("control_without_socket text=this system has no Unix sockets: use listen")
            return
        path = self._place()
        try:
            make_folder(path.parent)
            if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
                raise StoreError(f"{path} is in the way and no socket: move it elsewhere")
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            beside = path.with_name(f".{secrets.token_hex(3)}")
            try:
                made.bind(str(beside))
                beside.chmod(0o600)  # before it listens: nobody else gets in between
                info = beside.lstat()
                server = await asyncio.start_unix_server(self._on_unix, sock=made, limit=REQUEST_MAX)
                beside.replace(path)  # the store is ours, and so is its socket, whoever listened there before
            except BaseException:
                made.close()
                beside.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise StoreError(f"cannot listen at {path}: {error.strerror or error}") from error
        self.path, self._inode, self._socket = path, (info.st_dev, info.st_ino), server

    def _place(self) -> Path:
        """Where to listen: a client knows the URL as the manager was given it, and perhaps the schema."""
        store, given = self._manager.store, self._desk.store_given
        if store.path is not None:
            return socket_of(store.path)
        where = str(store.where)
        schema = where.rpartition("exitfsm_schema=")[2].partition("&")[0]
        return socket_of(given if isinstance(given, str) and is_url(given) else where, schema)

    async def _listen_on(self) -> None:
        if self._address is None or self._listener is not None:
            return
        host, port = self._address
        try:
            self._listener = await asyncio.start_server(self._on_port, host, port, limit=REQUEST_MAX)
        except OSError as error:
            raise StoreError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self.port = int(self._listener.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        """Listen no longer; commands that are being carried out come to their end first."""
        for server in (self._socket, self._listener):
            if server is not None:
                server.close()
        self._socket = self._listener = None
        self._has_begun = False
        self._remove()
        await self._desk.end()

    async def __aexit__(self, *_: object) -> None:
        """Listen no longer; commands that are being carried out come to their end first."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._close()
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
        door = self._doors[by_token]
        door.enter(writer)
        try:
            await self._conversation(reader, writer, peer, by_token=by_token)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return  # whoever asked has gone, or takes too long: what was begun goes on
        except Exception:
            log.exception("control_crashed whence=%s", peer.whence)
        finally:
            door.leave(writer)
            self._clients.discard(task)
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _conversation(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer, *, by_token: bool
    ) -> None:
        nonce, greeted = secrets.token_hex(16), time.monotonic()
        writer.write(line_of(Hello(nonce=nonce)))
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
        if by_token and not has_mac(self._token, nonce, request):
            log.warning("control_wrong_token whence=%s", peer.whence)
            await asyncio.sleep(WRONG_TOKEN_S)
            await _say(writer, refused("the token is wrong: set EXITFSM_CONTROL_TOKEN to the manager's"))
            return
        door = self._doors[by_token]
        door.leave(writer)
        async with door.work(request.verb) as has_room:
            answer = await self._answer(request, peer, greeted) if has_room else not_stored(BUSY, retry=True)
        if by_token:
            answer = replace(answer, mac=mac_of(self._token, nonce + request.nonce, answer))
        try:
            await _say(writer, answer)
        finally:
            if request.verb == "stop" and answer.code == DONE and not answer.again:
                self._stopping = asyncio.ensure_future(self._end())

    async def _answer(self, request: Request, peer: Peer, greeted: float) -> Answer:
        is_late = time.monotonic() - greeted > request.within
        name = request.who if peer.user is None else self._names.get(peer.user, f"user {peer.user}")
        return await self._desk.answer(request, name, peer.whence, is_late=is_late)

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
