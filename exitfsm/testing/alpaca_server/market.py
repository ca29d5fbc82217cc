"""Market data: the bars so far, the REST answers made of them, and the market-data sockets.

The sockets speak msgpack (with its timestamp type) or JSON, as the client's Content-Type asks, and allow one connection
each. A symbol can be silenced, and a whole socket muted, cut or refused.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any, NamedTuple

import msgspec
from aiohttp import WSMsgType, web

from exitfsm.testing.alpaca_server.words import CLOSE_S, EASTERN, Json, at_text
from exitfsm.values import ZERO, Bar

STOCK_FEEDS = ("iex", "sip")
#: Kind of a message, and the channel in which it is subscribed.
CHANNELS = {
    "b": "bars", "u": "updatedBars", "d": "dailyBars", "t": "trades", "q": "quotes", "s": "statuses", "l": "lulds",
    "o": "orderbooks",
}  # fmt: skip


def bar_json(bar: Bar) -> Json:
    """A bar as REST shows it: numbers are numbers here."""
    prices = {"o": bar.open, "h": bar.high, "l": bar.low, "c": bar.close, "v": bar.volume}
    return {"t": at_text(bar.timestamp), **{k: float(v) for k, v in prices.items()}, "n": 1, "vw": float(bar.close)}


def trade_json(bar: Bar) -> Json:
    """The trade that closed a bar."""
    return {"t": at_text(bar.timestamp), "p": float(bar.close), "s": 1, "x": "V", "i": 1, "c": [], "z": "A"}


def quote_json(bar: Bar) -> Json:
    """Bid and ask at the close of a bar, without a spread."""
    price, sides = float(bar.close), {"as": 1, "ax": "V", "bs": 1, "bx": "V", "c": [], "z": "A"}
    return {"t": at_text(bar.timestamp), "ap": price, "bp": price, **sides}


class Market:
    """The bars of every symbol, in order."""

    def __init__(self) -> None:
        self.bars: dict[str, list[Bar]] = defaultdict(list)

    def add(self, bar: Bar) -> None:
        """A minute is over."""
        self.bars[bar.symbol].append(bar)

    def page(
        self, symbols: Sequence[str], start: str, end: str | None, frame: Timeframe, desc: bool, limit: int, at: int
    ) -> tuple[dict[str, list[Json]], str | None]:
        """Bars between two times, symbol by symbol, from the `at`-th on, and the token of the next page."""
        found = []
        for symbol in sorted(symbols):
            shown = [(symbol, bar_json(bar)) for bar in frame.whole(self.bars.get(symbol, []))]
            chosen = [(s, b) for s, b in shown if start <= b["t"] and (end is None or b["t"] <= end)]
            found += chosen[::-1] if desc else chosen
        page: dict[str, list[Json]] = defaultdict(list)
        for symbol, bar in found[at : at + limit]:
            page[symbol].append(bar)
        return dict(page), str(at + limit) if at + limit < len(found) else None

    def latest(self, what: str, symbols: Sequence[str]) -> dict[str, Json]:
        """Newest bar, trade or quote of each symbol that has one."""
        made = {"bars": bar_json, "trades": trade_json, "quotes": quote_json}[what]
        return {symbol: made(self.bars[symbol][-1]) for symbol in symbols if self.bars.get(symbol)}

    def snapshots(self, symbols: Sequence[str]) -> dict[str, Json]:
        """What is newest of each symbol that has bars."""
        found: dict[str, Json] = {}
        for symbol in symbols:
            if not (bars := self.bars.get(symbol)):
                continue
            days = [bar_json(day) for day in Timeframe.of("1Day").whole(bars)]
            found[symbol] = {
                "latestTrade": trade_json(bars[-1]),
                "latestQuote": quote_json(bars[-1]),
                "minuteBar": bar_json(bars[-1]),
                "dailyBar": days[-1],
                "prevDailyBar": days[-2] if len(days) > 1 else None,
            }
        return found


class Timeframe(NamedTuple):
    """How long a bar is: so many minutes, hours or days (of New York)."""

    every: int
    unit: str

    @classmethod
    def of(cls, text: str) -> Timeframe:
        """`1Min`, `15Min`, `1Hour`, `1Day`.

        Raises:
            ValueError: it is none of these.
        """
        found = re.fullmatch(r"([1-9]\d?)(Min|T|Hour|H|Day|D)", text)
        if found is None:
            raise ValueError(f"invalid timeframe: {text}")
        return cls(int(found[1]), found[2][0].replace("T", "M"))

    def begin(self, at: datetime) -> datetime:
        """The start of the bar in which a moment lies."""
        if self.unit == "D":
            day = at.astimezone(EASTERN).date()
            return datetime.combine(day - timedelta(days=day.toordinal() % self.every), time(0), EASTERN)
        length = self.every * (60 if self.unit == "M" else 3600)
        return datetime.fromtimestamp(at.timestamp() // length * length, UTC)

    def whole(self, bars: Sequence[Bar]) -> list[Bar]:
        """Minute bars put together; those of one minute stay as they came."""
        if self == (1, "M"):
            return list(bars)
        grouped: dict[datetime, list[Bar]] = defaultdict(list)
        for bar in bars:
            grouped[self.begin(bar.timestamp)].append(bar)
        return [
            Bar(g[0].symbol, at, g[0].open, max(b.high for b in g), min(b.low for b in g), g[-1].close,
                sum((b.volume for b in g), ZERO))
            for at, g in grouped.items()
        ]  # fmt: skip


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
        """Send a bar to whoever wants it, and the trade and the quote that closed it."""
        for kind, message in (("b", bar_json(bar)), ("t", trade_json(bar)), ("q", quote_json(bar))):
            await self.send({**message, "T": kind, "S": bar.symbol, "t": bar.timestamp})

    async def send(self, message: Json) -> None:
        """Send a message of any kind to whoever subscribed its kind and symbol; one of no known kind to all."""
        channel, symbol = CHANNELS.get(str(message.get("T"))), message.get("S")
        if self.muted or symbol in self.silent:
            return
        for client in list(self._clients):
            if channel is None or client.subscribed[channel] & {symbol, "*"}:
                await client.send([message])

    async def drop(self) -> None:
        """End all connections."""
        for client in list(self._clients):
            with suppress(asyncio.TimeoutError, ConnectionError):
                await client.ws.close(code=1011)

    def wanted(self, channel: str) -> set[str]:
        """The symbols that are subscribed in a channel now."""
        return {s for c in self._clients for s in c.subscribed[channel]}

    @property
    def subscribed(self) -> set[str]:
        """The symbols whose bars are wanted now."""
        return self.wanted("bars")
