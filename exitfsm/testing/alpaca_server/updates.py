"""The trade-updates socket: authorisation, listening, and everything that can happen to a frame or a connection.

Frames to the client are binary JSON, as those of the real stream are. There is no replay and no snapshot: what is said
while nobody listens is gone.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from aiohttp import WSMsgType, web

from exitfsm.testing.alpaca_server.words import CLOSE_S, Json


class UpdatesSocket:
    """`/stream`.

    Attributes:
        connections: how many connections came to listen so far.
        drop_next, double_next: how many of the next updates to lose, or to send twice.
        holding: updates wait in `held` until they are let go.
        muted: nothing is sent any more, but the connection stays.
        half_open: pings are not answered.
        refuse: how many of the next connections to refuse (429).
        one_only: a second connection beside a live one is refused (429).
        deny: how many of the next authorisations to deny.
    """

    def __init__(self, key: str, secret: str) -> None:
        self._key, self._secret = key, secret
        self._listeners: list[web.WebSocketResponse] = []
        self._open: dict[web.WebSocketResponse, web.Request] = {}
        self._order = asyncio.Lock()
        self._sending: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.drop_next = 0
        self.double_next = 0
        self.holding = False
        self.held: list[Json] = []
        self.muted = False
        self.half_open = False
        self.refuse = 0
        self.one_only = True
        self.deny = 0

    def begin(self) -> None:
        """The server starts, maybe not for the first time: in a new event loop."""
        self._order = asyncio.Lock()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One connection, until it ends."""
        if self.refuse > 0 or (self.one_only and any(not ws.closed for ws in self._open)):
            self.refuse = max(0, self.refuse - 1)
            return web.Response(status=429)
        ws = web.WebSocketResponse(timeout=CLOSE_S, autoping=False, autoclose=True)
        await ws.prepare(request)
        self._open[ws] = request
        try:
            async for message in ws:
                if message.type == WSMsgType.PING:
                    if not self.half_open:
                        await ws.pong(message.data)
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY) and not await self._said(
                    ws, _json(message.data)
                ):
                    break
        finally:
            del self._open[ws]
            if ws in self._listeners:
                self._listeners.remove(ws)
        return ws

    async def _said(self, ws: web.WebSocketResponse, said: Json) -> bool:
        """What a client says; False ends the connection."""
        action, data = said.get("action"), said.get("data") or {}
        if action in ("authenticate", "auth"):
            keys = (data.get("key_id") or said.get("key"), data.get("secret_key") or said.get("secret"))
            authorized = keys == (self._key, self._secret) and self.deny <= 0
            self.deny = max(0, self.deny - 1)
            status = {"status": "authorized" if authorized else "unauthorized", "action": action}
            await _send(ws, {"stream": "authorization", "data": status})
            return authorized
        if action == "listen":
            streams = [s for s in data.get("streams", []) if s == "trade_updates"]
            if streams and ws not in self._listeners:
                self._listeners.append(ws)
                self.connections += 1
            await _send(ws, {"stream": "listening", "data": {"streams": streams}})
        return True

    def tell(self, update: Json) -> None:
        """Send an update, or whatever is planned for it instead."""
        if self.muted:
            return
        if self.drop_next > 0:
            self.drop_next -= 1
        elif self.holding:
            self.held.append(update)
        else:
            copies = 2 if self.double_next > 0 else 1
            self.double_next = max(0, self.double_next - 1)
            for _ in range(copies if self._listeners else 0):  # also when the server has ended meanwhile
                task = asyncio.get_running_loop().create_task(self.send({"stream": "trade_updates", "data": update}))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    def release(self, order: list[int] | None = None) -> None:
        """Let go of what was held, in this order (of places in `held`), or as it came."""
        held, self.held, self.holding = self.held, [], False
        for place in order if order is not None else range(len(held)):
            self.tell(held[place])

    async def send(self, frame: Json | str) -> None:
        """Send any frame to those who listen."""
        async with self._order:
            for ws in list(self._listeners):
                await _send(ws, frame)

    async def drop(self, code: int = 1011) -> None:
        """Close all connections."""
        for ws in list(self._open):
            with suppress(asyncio.TimeoutError, ConnectionError):
                await ws.close(code=code)

    def abort(self) -> None:
        """Cut all connections without a word."""
        for request in list(self._open.values()):
            if request.transport is not None:
                request.transport.abort()

    @property
    def listening(self) -> int:
        """How many listen now."""
        return len(self._listeners)


def _json(text: str | bytes) -> Json:
    """What a client said; nothing when that is no JSON object."""
    try:
        said = json.loads(text)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


async def _send(ws: web.WebSocketResponse, frame: Json | str) -> None:
    with suppress(ConnectionError):
        text = frame if isinstance(frame, str) else json.dumps(frame)
        await ws.send_bytes(text.encode())
