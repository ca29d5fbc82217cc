"""`AlpacaServer`: the account, its REST side and its sockets on one port of 127.0.0.1, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

from aiohttp import web

from exitfsm.testing.alpaca_server.account import Account
from exitfsm.testing.alpaca_server.faults import Fault, RateLimit
from exitfsm.testing.alpaca_server.market import STOCK_FEEDS, DataSocket, Market
from exitfsm.testing.alpaca_server.rest import Rest
from exitfsm.testing.alpaca_server.updates import UpdatesSocket
from exitfsm.testing.alpaca_server.words import Json
from exitfsm.values import Bar, OrderSide, Side

T = TypeVar("T")
KEY, SECRET = "LOCALTESTKEY", "local-test-secret"
_WAIT_S = 60.0


class AlpacaServer:
    """A server that speaks Alpaca, for the unmodified clients of alpaca-py through `url_override`.

    Args:
        key, secret: the only credentials it takes.
        now: the present; the machine's clock when None.
        port: 0 takes any free one.
        rate: requests that are answered in a minute before 429.

    Attributes:
        account: orders, positions and the rules; change it through `do` while the server runs.
        rest, updates, stocks, crypto: the sides of the server, with what can go wrong on each.

    It runs in its own thread from `start` to `stop`; a second `start` goes on with the same account on the same port,
    as after a restart. All other methods may be called from any thread while it runs.
    """

    def __init__(
        self,
        *,
        key: str = KEY,
        secret: str = SECRET,
        now: Callable[[], datetime] | None = None,
        port: int = 0,
        rate: int = 100_000,
    ) -> None:
        self.key, self.secret, self.port = key, secret, port
        self.account = Account(now or (lambda: datetime.now(UTC)))
        self.market = Market()
        self.rest = Rest(self.account, self.market, key, secret, rate)
        self.updates = UpdatesSocket(key, secret)
        self.stocks = DataSocket(key, secret)
        self.crypto = DataSocket(key, secret)
        self.account.tell = self.updates.tell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> AlpacaServer:
        """Serve from now on.

        Raises:
            OSError: the port is taken.
        """
        ready: list[BaseException | None] = []
        began = threading.Event()

        def run() -> None:
            try:
                asyncio.run(self._serve(began))
            except BaseException as error:
                ready.append(error)
                began.set()

        self._thread = threading.Thread(target=run, name="alpaca-server", daemon=True)
        self._thread.start()
        began.wait(_WAIT_S)
        if ready and ready[0] is not None:
            raise ready[0]
        return self

    async def _serve(self, began: threading.Event) -> None:
        self.updates.begin()
        app = web.Application()
        self.rest.add_to(app)
        app.router.add_get("/stream", self.updates.handle)
        for feed in STOCK_FEEDS:
            app.router.add_get(f"/v2/{feed}", self.stocks.handle)
        app.router.add_get("/v1beta3/crypto/us", self.crypto.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        began.set()
        await self._ended.wait()
        self.updates.abort()
        for socket in (self.stocks, self.crypto):
            await socket.drop()
        await runner.cleanup()

    def stop(self) -> None:
        """Serve no more; connections are cut. The account is kept. Idempotent."""
        if self._loop is None or self._thread is None:
            return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_WAIT_S)
        self._loop = self._thread = None

    def __enter__(self) -> AlpacaServer:
        """`with AlpacaServer() as server:` starts and stops it."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- where it is --------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """For `TradingClient(url_override=…)` and the historical data clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream_url(self) -> str:
        """For `TradingStream(url_override=…)`."""
        return f"ws://127.0.0.1:{self.port}/stream"

    @property
    def data_url(self) -> str:
        """For `StockDataStream(url_override=…)`."""
        return f"ws://127.0.0.1:{self.port}/v2/iex"

    @property
    def crypto_url(self) -> str:
        """For `CryptoDataStream(url_override=…)`."""
        return f"ws://127.0.0.1:{self.port}/v1beta3/crypto/us"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that lead a program here."""
        return {
            "APCA_API_KEY_ID": self.key,
            "APCA_API_SECRET_KEY": self.secret,
            "APCA_API_BASE_URL": self.url,
            "APCA_API_STREAM_URL": self.stream_url,
            "APCA_API_DATA_URL": self.url,
        }

    # --- what happens there -------------------------------------------------------------------------------------------

    def do(self, work: Callable[[], T]) -> T:
        """Do something with the account or the sockets, in the server's thread."""

        async def run() -> T:
            return work()

        return self._await(run())

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError("the server is not running")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_WAIT_S)

    def fail(self, fault: Fault) -> None:
        """Plan something that goes wrong."""
        self.do(lambda: self.rest.faults.planned.append(fault))

    def limit(self, per_minute: int) -> None:
        """Answer this many requests in a minute from now on."""
        self.rest.limit = RateLimit(per_minute)

    def bar(self, bar: Bar) -> None:
        """A minute is over: the bar trades, and is published on the symbol's socket."""

        async def run() -> None:
            self.market.add(bar)
            self.account.bar(bar)
            await (self.crypto if "/" in bar.symbol else self.stocks).publish(bar)

        self._await(run())

    def hold(
        self,
        symbol: str,
        qty: Decimal | int | str,
        price: Decimal | int | str,
        side: Side = Side.LONG,
        *,
        ago_s: float = 0.0,
    ) -> None:
        """A position, as if bought (or sold short) so many seconds ago."""
        self.do(lambda: self.account.hold(symbol, side, Decimal(qty), Decimal(price), ago_s))

    def price(self, symbol: str, price: Decimal | int | str) -> None:
        """The last price of a symbol, without a bar."""
        self.do(lambda: self.account.prices.update({symbol: Decimal(price)}))

    def held(self, symbol: str) -> Decimal:
        """Net quantity of a symbol: negative when short."""
        return self.do(lambda: self.account.venue.held(symbol))

    def fill(
        self, client_order_id: str, qty: Decimal | int | str | None = None, price: Decimal | int | str | None = None
    ) -> None:
        """An execution of an order by hand: all that is left, at the last price, where not given."""
        size, at = Decimal(qty) if qty is not None else None, Decimal(price) if price is not None else None
        self.do(lambda: self.account.fill(client_order_id, size, at))

    def foreign(
        self, symbol: str, side: OrderSide, qty: Decimal | int | str, limit_price: Decimal | int | str | None = None
    ) -> str:
        """An order that somebody else has in the market; returns its client order id."""
        limit = Decimal(limit_price) if limit_price is not None else None
        return self.do(lambda: self.account.foreign(symbol, side, Decimal(qty), limit).client_order_id)

    def push(self, frame: Json | str) -> None:
        """Send any frame on the trade-updates socket."""
        self._await(self.updates.send(frame))

    def push_data(self, message: Json) -> None:
        """Send a market-data message: `T` is its kind (`u`, `s`, `l`, …), `S` its symbol, `t` its time."""
        socket = self.crypto if "/" in str(message.get("S")) else self.stocks
        self._await(socket.send(message))

    def drop_stream(self) -> None:
        """Close the trade-updates connections."""
        self._await(self.updates.drop())

    def drop_data(self) -> None:
        """Close the market-data connections."""

        async def run() -> None:
            await self.stocks.drop()
            await self.crypto.drop()

        self._await(run())

    @property
    def posts(self) -> list[Json]:
        """The bodies of all orders that were sent here, also of those that were refused."""
        return [body for method, path, body in list(self.rest.requests) if method == "POST" and path == "/v2/orders"]

    def order(self, client_order_id: str) -> Json:
        """An order, as REST shows it."""
        return self.do(lambda: self.account.order_json(self.account.by_client_id(client_order_id)))

    def orders(self) -> list[Json]:
        """All orders, oldest first."""
        return self.do(lambda: [self.account.order_json(r) for r in self.account.orders("all")])
