"""Market data: the bars so far, the REST answers made of them, and the market-data sockets.

The sockets speak msgpack (with its timestamp type) or JSON, as the client's Content-Type asks, and allow one connection
each. A symbol can be silenced, and a whole socket muted, cut or refused.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from exitfsm.testing.alpaca_server.words import CLOSE_S, Json, at_text
from exitfsm.values import Bar

STOCK_FEEDS = ("iex", "sip")


def bar_json(bar: Bar) -> Json:
    """A bar as REST shows it: numbers are numbers here."""
    prices = {"o": bar.open, "h": bar.high, "l": bar.low, "c": bar.close, "v": bar.volume}
    return {"t": at_text(bar.timestamp), **{k: float(v) for k, v in prices.items()}, "n": 1, "vw": float(bar.close)}


class Market:
    """The bars of every symbol, in order."""

    def __init__(self) -> None:
        self.bars: dict[str, list[Bar]] = defaultdict(list)

    def add(self, bar: Bar) -> None:
        """A minute is over."""
        self.bars[bar.symbol].append(bar)

    def page(
        self, symbols: Sequence[str], start: datetime, limit: int, token: str | None
    ) -> tuple[dict[str, list[Json]], str | None]:
        """Bars since a time, symbol by symbol, and the token of the next page."""
        found = [(s, b) for s in sorted(symbols) for b in self.bars.get(s, []) if b.timestamp >= start]
        at = int(token or 0)
        shown: dict[str, list[Json]] = defaultdict(list)
        for symbol, bar in found[at : at + limit]:
            shown[symbol].append(bar_json(bar))
        return dict(shown), str(at + limit) if at + limit < len(found) else None

    def latest(self, what: str, symbols: Sequence[str]) -> dict[str, Json]:
        """Newest bar, trade or quote of each symbol that has one."""
        found: dict[str, Json] = {}
        for symbol in symbols:
            if not self.bars.get(symbol):
                continue
            bar = self.bars[symbol][-1]
            t, price = at_text(bar.timestamp), float(bar.close)
            found[symbol] = {
                "bars": bar_json(bar),
                "trades": {"t": t, "p": price, "s": 1, "x": "V", "i": 1, "c": [], "z": "A"},
                "quotes": {"t": t, "ap": price, "as": 1, "ax": "V", "bp": price, "bs": 1, "bx": "V", "c": [], "z": "A"},
            }[what]
        return found


@dataclass
class _Client:
    ws: web.WebSocketResponse
    as_json: bool
    subscribed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    async def send(self, messages: list[Json]) -> None:
        with suppress(ConnectionError):
            if self.as_json:
                texts = [{k: at_text(v) if isinstance(v, datetime) else v for k, v in m.items()} for m in messages]
                await self.ws.send_str(json.dumps(texts))
            else:
                await self.ws.send_bytes(msgspec.msgpack.encode(messages))


class DataSocket:
    """One market-data endpoint.

    Attributes:
        connections: how many connections were let in so far.
        muted: says nothing more, but keeps its connections.
        silent: symbols of which nothing is sent.
        refuse: how many of the next connections to refuse (429).
    """

    def __init__(self, key: str, secret: str) -> None:
        self._key, self._secret = key, secret
        self._clients: list[_Client] = []
        self.connections = 0
        self.muted = False
        self.silent: set[str] = set()
        self.refuse = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One connection, until it ends."""
        if self.refuse > 0:
            self.refuse -= 1
            return web.Response(status=429)
        ws = web.WebSocketResponse(timeout=CLOSE_S)
        await ws.prepare(request)
        client = _Client(ws, "msgpack" not in request.headers.get("Content-Type", ""))
        if any(not c.ws.closed for c in self._clients):
            await client.send([{"T": "error", "code": 406, "msg": "connection limit exceeded"}])
            await ws.close()
            return ws
        await client.send([{"T": "success", "msg": "connected"}])
        try:
            if await self._authenticated(client):
                self.connections += 1
                self._clients.append(client)
                await self._listen(client)
        finally:
            if client in self._clients:
                self._clients.remove(client)
        return ws

    async def _authenticated(self, client: _Client) -> bool:
        said = await self._receive(client)
        if said is None:
            return False
        if (said.get("key"), said.get("secret")) != (self._key, self._secret):
            await client.send([{"T": "error", "code": 402, "msg": "auth failed"}])
            await client.ws.close()
            return False
        await client.send([{"T": "success", "msg": "authenticated"}])
        return True

    async def _listen(self, client: _Client) -> None:
        while (said := await self._receive(client)) is not None:
            wanted = said.get("action") == "subscribe"
            for channel, symbols in said.items():
                if channel != "action" and isinstance(symbols, list):
                    if wanted:
                        client.subscribed[channel].update(symbols)
                    else:
                        client.subscribed[channel].difference_update(symbols)
            channels = {c: sorted(s) for c, s in client.subscribed.items()}
            await client.send([{"T": "subscription", "trades": [], "quotes": [], "bars": [], **channels}])

    async def _receive(self, client: _Client) -> dict[str, Any] | None:
        message = await client.ws.receive()
        if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
            return None
        said = msgspec.json.decode(message.data) if client.as_json else msgspec.msgpack.decode(message.data)
        return said if isinstance(said, dict) else None

    async def publish(self, bar: Bar) -> None:
        """Send a bar to whoever wants it."""
        if self.muted or bar.symbol in self.silent:
            return
        message = bar_json(bar) | {"T": "b", "S": bar.symbol, "t": bar.timestamp}
        for client in list(self._clients):
            if client.subscribed["bars"] & {bar.symbol, "*"}:
                await client.send([message])

    async def drop(self) -> None:
        """End all connections."""
        for client in list(self._clients):
            with suppress(asyncio.TimeoutError, ConnectionError):
                await client.ws.close(code=1011)

    @property
    def subscribed(self) -> set[str]:
        """The symbols whose bars are wanted now."""
        return {s for c in self._clients for s in c.subscribed["bars"]}
