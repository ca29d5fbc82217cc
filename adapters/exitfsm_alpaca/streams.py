"""The SDK's streams with an ear: subclasses that hand every raw frame on and tell of each connection. Imports alpaca.

Each runs in a thread of its own, so that a busy bot does not miss its pings. What hears the frames must be quick and
must not raise; it is called in that thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from alpaca.data.live.crypto import CryptoDataStream
from alpaca.data.live.stock import StockDataStream
from alpaca.trading.stream import TradingStream

from exitfsm import logger
from exitfsm_alpaca.access import Access

Hear = Callable[[dict[str, Any]], None]

#: A half-open connection is noticed after this, in seconds (the SDK's own default is three minutes).
PING_S, PONG_S = 10.0, 20.0
_STOP_S, _CANCEL_S = 5.0, 0.1
_log = logger("exitfsm.alpaca")
_quiet = logger("exitfsm.alpaca.websocket")
_quiet.setLevel(logging.INFO)  # its debug lines show frames, and the first frame holds the keys


def socket_settings() -> dict[str, Any]:
    """Settings of a connection; the SDK takes all or none."""
    return {
        "ping_interval": PING_S,
        "ping_timeout": PONG_S,
        "open_timeout": 10,
        "close_timeout": 2,
        "max_queue": 1024,
        "logger": _quiet,
    }


class UpdatesStream(TradingStream):
    """Trade updates. Beside the frames it hears `{"stream": "closed"}` whenever there is no connection any more."""

    def __init__(self, access: Access, hear: Hear) -> None:
        super().__init__(
            access.key_id,
            access.secret_key,
            raw_data=True,
            url_override=access.stream_url,
            websocket_params=socket_settings(),
        )
        self._hear = hear
        self.subscribe_trade_updates(_unused)

    async def _dispatch(self, msg: dict[str, Any]) -> None:
        """Every frame after the authorisation."""
        self._hear(msg)

    async def close(self) -> None:
        """The connection ends."""
        self._hear({"stream": "closed"})
        with suppress(Exception):  # whatever a broken connection says on its way out
            await super().close()


async def _unused(_: Any) -> None:
    """The SDK connects only when there is a handler; the frames are heard before it."""


#: Bars, and bars sent again because a trade of theirs was reported late.
_CHANNELS = ("bars", "updatedBars")


class _Ear:
    """What the two market-data streams have in common: wanted symbols, and bars handed on as they come."""

    def _set_up(self: Any, hear: Hear, symbols: Iterable[str]) -> None:
        self._hear = hear
        self._sent: set[str] = set()
        for channel in _CHANNELS:
            self._handlers[channel].update(dict.fromkeys(symbols, self._on_bar))

    async def want(self: Any, symbols: Iterable[str]) -> None:
        """Have bars of exactly these symbols from now on; in the stream's own thread. Repeating it changes nothing."""
        wanted = set(symbols)
        for handlers in (self._handlers[channel] for channel in _CHANNELS):
            handlers.update(dict.fromkeys(wanted, self._on_bar))
            for symbol in handlers.keys() - wanted:
                del handlers[symbol]
        if self._running and self._ws is not None and wanted != self._sent:
            for channel in _CHANNELS:
                await self._send_unsubscribe_msg(channel, sorted(self._sent - wanted))
            self._sent = set()
            if wanted:
                await self._send_subscribe_msg()

    async def _send_subscribe_msg(self: Any) -> None:
        sent = set(self._handlers["bars"])
        await super()._send_subscribe_msg()  # type: ignore[misc]  # of the stream that is mixed in
        self._sent = sent

    async def _on_bar(self, bar: dict[str, Any]) -> None:
        self._hear(bar)

    async def _start_ws(self: Any) -> None:
        self._sent = set()
        await super()._start_ws()  # type: ignore[misc]
        self._hear({"T": "connected"})

    async def close(self: Any) -> None:
        """The connection ends."""
        self._hear({"T": "closed"})
        with suppress(Exception):
            await super().close()  # type: ignore[misc]


class StockBars(_Ear, StockDataStream):
    """Minute bars of stocks; begin with at least one (the SDK waits in a tight loop for the first)."""

    def __init__(self, access: Access, feed: str, hear: Hear, symbols: Iterable[str]) -> None:
        StockDataStream.__init__(
            self,
            access.key_id,
            access.secret_key,
            raw_data=True,
            url_override=f"{access.data_stream_url}/v2/{feed}",
            websocket_params=socket_settings(),
        )
        self._set_up(hear, symbols)


class CryptoBars(_Ear, CryptoDataStream):
    """Minute bars of crypto pairs; begin with at least one."""

    def __init__(self, access: Access, hear: Hear, symbols: Iterable[str]) -> None:
        CryptoDataStream.__init__(
            self,
            access.key_id,
            access.secret_key,
            raw_data=True,
            url_override=f"{access.data_stream_url}/v1beta3/crypto/us",
            websocket_params=socket_settings(),
        )
        self._set_up(hear, symbols)


class StreamThread:
    """A stream in a thread and an event loop of its own, started again when it ends by itself.

    Its end is kept here and not left to the SDK, whose own `stop` is lost when it comes while the stream starts, and
    takes the closing of the connection for a failure.

    Args:
        make: a new stream.
        name: of the thread.
    """

    def __init__(self, make: Callable[[], TradingStream | StockBars | CryptoBars], name: str) -> None:
        self._make, self._name = make, name
        self._stream: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop = asyncio.Event()
        self._stopping = False
        self._calls: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Run, unless it does or was stopped."""
        if self._stopping or (self._thread is not None and self._thread.is_alive()):
            return
        self._stream, self._loop, self._stop = self._make(), asyncio.new_event_loop(), asyncio.Event()
        work = self._live(self._stream, self._stop)
        self._thread = threading.Thread(target=_run, args=(work, self._loop), name=self._name, daemon=True)
        self._thread.start()

    @staticmethod
    async def _live(stream: Any, stop: asyncio.Event) -> None:
        """The stream, until it ends or is ended; then its connection is closed, whatever it was about to do."""
        running, stopped = asyncio.create_task(stream._run_forever()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            stopped.cancel()
            while not running.done():
                running.cancel()  # once is not enough: a `wait_for` loses it to a frame that comes at the same moment
                await asyncio.wait({running}, timeout=_CANCEL_S)
            await asyncio.gather(running, stopped, return_exceptions=True)
            await stream.close()

    def call(self, work: Callable[[Any], Any]) -> None:
        """Let the stream do something in its own thread, where it runs. Nothing is waited for."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._begin, work, self._stream)

    def _begin(self, work: Callable[[Any], Any], stream: Any) -> None:
        task = asyncio.ensure_future(_quietly(work, stream))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def reconnect(self) -> None:
        """Give up the connection: the stream makes another."""
        self.call(_reconnect)

    def stop(self) -> None:
        """End it, and wait for its end, within reason. It does not start again."""
        self._stopping = True
        if self._loop is None or self._thread is None:
            return
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            _log.error("stream_does_not_end thread=%s", self._name)


def _run(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(work)
    except Exception as error:
        # The one who looks after the stream starts another thread.
        _log.error("stream_ended error=%s", type(error).__name__)


async def _reconnect(stream: Any) -> None:
    if stream._ws is not None:
        await stream._ws.close()


async def _quietly(work: Callable[[Any], Any], stream: Any) -> None:
    try:
        await work(stream)
    except Exception as error:
        _log.warning("stream_call_failed error=%s", type(error).__name__)
