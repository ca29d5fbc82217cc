"""`AlpacaBars`: minute bars of the symbols that are held, stocks and pairs, without gaps where Alpaca has none.

Bars come over the market-data sockets. While there is no connection, and for a symbol that falls silent, REST is asked
now and then; after a connection was lost, what was missed is delivered first, in order, so that trails follow the true
extremes (how old a bar may be to still decide something is not judged here). A stream that stays silent while REST has
newer bars is mute: it is connected anew, and REST serves until it speaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from exitfsm import Bar, BrokerError, canonical_symbol, logger
from exitfsm_alpaca import words
from exitfsm_alpaca.access import Access
from exitfsm_alpaca.rest import Budget, Refused, Rest
from exitfsm_alpaca.troubles import Troubles

if TYPE_CHECKING:
    from exitfsm_alpaca.streams import CryptoBars, StockBars, StreamThread

log = logger("exitfsm.alpaca")

MINUTE = timedelta(minutes=1)
#: Symbols in one request, and bars in one page.
SYMBOLS_MAX, PAGE = 100, 10_000
#: How long newer bars wait for those before them.
HOLD_S = 3.0
#: Silent rounds with newer bars at REST after which a stream is connected anew.
MUTE_ROUNDS = 2
#: How long a stream may take to connect before a person hears of it.
SILENCE_S = 25.0
_KINDS = ("stocks", "crypto")


@dataclass
class _Watched:
    """One symbol: the newest bar delivered, when one was last streamed, and newer ones that wait for a gap to close.

    `doubtful`: a connection was lost or made since the last streamed bar, so that a gap may be one of ours.
    """

    symbol: str
    last: datetime
    heard: float
    doubtful: bool = False
    waiting: list[Bar] = field(default_factory=list)


def _wanting(symbols: list[str]) -> Callable[[Any], Any]:
    return lambda stream: stream.want(symbols)


class AlpacaBars:
    """A `BarFeed` of minute bars.

    Args:
        access: keys and addresses.
        feed: which stock data: `iex` is free and thin, `sip` needs a subscription.
        stale_after_s: how long a symbol may be silent before REST is asked; a minute's bar comes a minute after its
            start, and not at all where nothing traded.
        poll_s: time between looks at what is silent.
        backfill_max_s: how far back a gap is filled; older bars are refused by the default price guard anyway.
        noticed: where it is noted what keeps bars from coming: `broker.noticed` makes it the manager's alarms.
    """

    def __init__(
        self,
        access: Access,
        *,
        feed: str = "iex",
        stale_after_s: float = 130.0,
        poll_s: float = 20.0,
        backfill_max_s: float = 300.0,
        noticed: Troubles | None = None,
    ) -> None:
        from exitfsm_alpaca import streams

        self._streams = streams
        self._access, self._feed = access, feed
        self._noticed = noticed or Troubles()
        #: Symbols that market data does not know, and when each kind's stream was last connected or not needed.
        self._refused: dict[str, str] = {}
        self._heard: dict[str, float] = {}
        self._stale_after_s, self._poll_s = stale_after_s, poll_s
        self._backfill_max = timedelta(seconds=backfill_max_s)
        self._rest = Rest(access, Budget(reserve=1))
        self._watched: dict[str, _Watched] = {}
        self._queue: asyncio.Queue[Bar | None] = asyncio.Queue()
        self._behind = asyncio.Event()
        self._threads: dict[str, StreamThread] = {}
        self._silent_rounds = dict.fromkeys(_KINDS, 0)
        self._connected = dict.fromkeys(_KINDS, False)
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; a stream is connected when its first symbol is watched."""
        if self._tasks:
            return
        self._loop = asyncio.get_running_loop()
        for work in (self._look_after, self._fill_gaps):
            self._tasks.append(asyncio.create_task(_again_and_again(work), name="exitfsm-alpaca-bars"))
        self._subscribe()

    async def stop(self) -> None:
        """Disconnect; `bars` and `batches` end. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        threads, self._threads = list(self._threads.values()), {}
        await asyncio.gather(*(asyncio.to_thread(thread.stop) for thread in threads))
        self._rest.close()
        self._queue.put_nowait(None)

    async def __aenter__(self) -> AlpacaBars:
        """`async with AlpacaBars(...) as bars:` connects and disconnects."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- what is watched, and what comes ------------------------------------------------------------------------------

    def watch(self, symbols: Iterable[str], since: Mapping[str, datetime] | None = None) -> None:
        """Have bars of exactly these symbols from now on. Repeating it changes nothing.

        Args:
            symbols: pairs with their slash.
            since: per symbol, the last bar that was seen already: those after it are delivered first.
        """
        wanted = {canonical_symbol(symbol) for symbol in symbols}
        if wanted == self._watched.keys():
            return
        for symbol in self._watched.keys() - wanted:
            del self._watched[symbol]
            self._refused.pop(symbol, None)
            self._noticed.note(f"symbol/{symbol}", None)
        now = self._now()
        lately = datetime.now(UTC) - 2 * MINUTE
        for symbol in wanted - self._watched.keys():
            self._watched[symbol] = _Watched(symbol, (since or {}).get(symbol, lately), now, doubtful=True)
            self._behind.set()
        self._subscribe()

    async def bars(self) -> AsyncIterator[Bar]:
        """The bars, one by one, until `stop`."""
        async for batch in self.batches():
            for bar in batch:
                yield bar

    async def batches(self) -> AsyncIterator[list[Bar]]:
        """The bars, as many at once as are there, until `stop`: what breaches together is then decided together."""
        while True:
            bar = await self._queue.get()
            batch = []
            while bar is not None:
                batch.append(bar)
                if self._queue.empty():
                    break
                bar = self._queue.get_nowait()
            if batch:
                yield batch
            if bar is None:
                return

    def is_connected(self, symbol: str) -> bool:
        """True while the stream of a symbol's kind is connected."""
        return self._connected["crypto" if "/" in symbol else "stocks"]

    # --- the streams --------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        """Tell each stream what is wanted of it, and start one that is needed for the first time."""
        if self._loop is None:
            return
        for kind in _KINDS:
            symbols = self._of(kind)
            thread = self._threads.get(kind)
            if thread is not None:
                thread.call(_wanting(symbols))
            elif symbols:
                make = partial(self._make, kind)
                self._threads[kind] = self._streams.StreamThread(make, f"exitfsm-alpaca-{kind}")
                self._threads[kind].start()

    def _make(self, kind: str) -> StockBars | CryptoBars:
        if kind == "crypto":
            return self._streams.CryptoBars(self._access, self._ear(kind), self._of(kind))
        return self._streams.StockBars(self._access, self._feed, self._ear(kind), self._of(kind))

    def _of(self, kind: str) -> list[str]:
        return sorted(s for s in list(self._watched) if ("/" in s) == (kind == "crypto"))

    def _ear(self, kind: str) -> Any:
        loop = self._loop
        assert loop is not None

        def hear(message: dict[str, Any]) -> None:
            with suppress(RuntimeError):  # the bot's loop is closed
                loop.call_soon_threadsafe(self._on_message, kind, message)

        return hear

    def _on_message(self, kind: str, message: Mapping[str, Any]) -> None:
        """A frame of a stream, in the bot's loop."""
        if message.get("T") in ("b", "u"):
            self._on_streamed(kind, message)
        elif message.get("T") in ("closed", "connected"):
            self._connected[kind] = message["T"] == "connected"
            log.info("bars_%s stream=%s", message["T"], kind)
            for symbol in self._of(kind):
                self._watched[symbol].doubtful = True
            self._behind.set()

    def _on_streamed(self, kind: str, message: Mapping[str, Any]) -> None:
        watched = self._watched.get(str(message.get("S")))
        if watched is None:
            return
        try:
            bar = words.bar_of(watched.symbol, message, _time(message.get("t")))
        except BrokerError as error:
            log.warning("bar_unreadable error=%s", error)
            return
        if message.get("T") == "u":
            self._look_again(watched, bar)
            return
        self._silent_rounds[kind] = 0
        watched.heard = self._now()
        if watched.waiting or (watched.doubtful and bar.timestamp > watched.last + MINUTE):
            watched.waiting.append(bar)
            self._behind.set()
        else:
            watched.doubtful = False
            self._deliver(watched, bar)

    def _look_again(self, watched: _Watched, bar: Bar) -> None:
        """Hand on a later look at the last bar, with what was reported late of it; of an older one it is too late."""
        if bar.timestamp == watched.last and not watched.waiting:
            self._queue.put_nowait(bar)

    def _deliver(self, watched: _Watched, bar: Bar) -> bool:
        """Hand a bar on, unless it is not newer than the last; True when it was."""
        if bar.timestamp <= watched.last:
            return False
        watched.last = bar.timestamp
        self._queue.put_nowait(bar)
        return True

    # --- REST -------------------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Now and then: ask REST for what is silent, connect a mute stream anew, restart one that ended."""
        await asyncio.sleep(self._poll_s)
        for kind in _KINDS:
            self._say_whether_it_speaks(kind)
            if kind in self._threads:
                self._threads[kind].start()
                self._threads[kind].call(_wanting(self._of(kind)))
            silent = [w for w in self._watched.values() if self._is_silent(w, kind)]
            for watched in silent:
                watched.doubtful = True
            found = await self._read(silent, kind)
            newer = sum(self._close_gap(w, found[w.symbol]) for w in silent if w.symbol in found)
            mute = newer > 0 and self._connected[kind]
            self._silent_rounds[kind] = self._silent_rounds[kind] + 1 if mute else 0
            if self._silent_rounds[kind] >= MUTE_ROUNDS:
                log.error("bars_mute stream=%s symbols=%s", kind, [w.symbol for w in silent][:5])
                self._silent_rounds[kind] = 0
                self._threads[kind].reconnect()

    def _say_whether_it_speaks(self, kind: str) -> None:
        """A person hears of a stream that does not come up, or not again."""
        if self._connected[kind] or not self._of(kind):
            self._heard[kind] = self._now()
        late = self._now() - self._heard.setdefault(kind, self._now()) >= SILENCE_S
        text = f"the stream of bars of {kind} is not there: it does not come up, or is refused; REST is asked instead"
        self._noticed.note(f"bars/{kind}", text if late else None)

    def _is_silent(self, watched: _Watched, kind: str) -> bool:
        stale = self._now() - watched.heard >= self._stale_after_s
        return ("/" in watched.symbol) == (kind == "crypto") and (stale or not self._connected[kind])

    async def _fill_gaps(self) -> None:
        """Whenever a connection was lost or made, or a bar leaves a gap: what was missed, then what waited."""
        await self._behind.wait()
        await asyncio.sleep(0.05)  # what comes together is read together
        self._behind.clear()
        for kind in _KINDS:
            doubtful = [self._watched[s] for s in self._of(kind)]
            doubtful = [w for w in doubtful if w.doubtful or w.waiting]
            found = await self._read(doubtful, kind)
            for watched in doubtful:
                if watched.waiting and watched.symbol in found:
                    watched.doubtful = False
                self._close_gap(watched, found.get(watched.symbol, []))

    def _close_gap(self, watched: _Watched, missed: list[Bar]) -> int:
        """Deliver bars out of REST, then those that waited for them; returns how many of the former were news."""
        delivered = sum(self._deliver(watched, bar) for bar in missed)
        waiting, watched.waiting = watched.waiting, []
        for bar in waiting:
            self._deliver(watched, bar)
        return delivered

    async def _read(self, watched: list[_Watched], kind: str) -> dict[str, list[Bar]]:
        """Whole bars after the last delivered one of each symbol; a symbol that could not be read is missing."""
        found: dict[str, list[Bar]] = {}
        for at in range(0, len(watched), SYMBOLS_MAX):
            part = watched[at : at + SYMBOLS_MAX]
            earliest = max(datetime.now(UTC) - self._backfill_max, min(w.last for w in part))
            try:
                async with asyncio.timeout(HOLD_S):  # wait_for may lose a cancel, and `stop` would wait for ever
                    found |= await asyncio.to_thread(self._read_bars, [w.symbol for w in part], earliest, kind)
            except (BrokerError, TimeoutError) as error:
                log.warning("bars_not_read symbols=%s error=%s", len(part), type(error).__name__)
        return found

    def _read_bars(self, symbols: list[str], start: datetime, kind: str) -> dict[str, list[Bar]]:
        """The bars of each since a time. Where Alpaca refuses a symbol, the others are asked for without it."""
        known = [symbol for symbol in symbols if symbol not in self._refused]
        try:
            return self._pages(known, start, kind) if known else {}
        except Refused as refused:
            if "symbol" not in refused.message.lower():
                raise  # the whole question is refused, and each of them would be
            if len(known) > 1:
                half = len(known) // 2
                return self._read_bars(known[:half], start, kind) | self._read_bars(known[half:], start, kind)
            self._refused[known[0]] = f"{known[0]} is not watched: Alpaca's market data refuses it: {refused.message}"
            self._noticed.keep_only("symbol", self._refused)
            return {}

    def _pages(self, symbols: list[str], start: datetime, kind: str) -> dict[str, list[Bar]]:
        """All pages of the bars since a time; a minute that is not over is left out."""
        found: dict[str, list[Bar]] = {symbol: [] for symbol in symbols}
        query: dict[str, Any] = {
            "symbols": ",".join(symbols),
            "timeframe": "1Min",
            "start": start.isoformat(),
            "limit": PAGE,
            "sort": "asc",
        }
        path, version = ("/crypto/us/bars", "v1beta3") if kind == "crypto" else ("/stocks/bars", "v2")
        if kind == "stocks":
            query["feed"] = self._feed
        while True:
            answer = words.mapping(self._rest.get_data(path, query, version=version), "the bars")
            shown = words.mapping(answer.get("bars") or {}, "the bars")
            for symbol, sources in shown.items():
                for source in words.listed(sources, "the bars"):
                    bar = words.bar_of(symbol, source, _time(source.get("t")))
                    if symbol in found and bar.timestamp + MINUTE <= datetime.now(UTC):
                        found[symbol].append(bar)
            token = answer.get("next_page_token")
            if not token or token == query.get("page_token"):
                return found
            query["page_token"] = token

    def _now(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0


async def _again_and_again(work: Callable[[], Awaitable[None]]) -> None:
    """A loop that outlives whatever goes wrong in one of its turns."""
    while True:
        try:
            await work()
        except Exception:
            # Without this loop nobody would notice that prices have stopped.
            log.exception("bars_turn_failed")
            await asyncio.sleep(1.0)


def _time(value: object) -> datetime:
    """The time of a bar: text, or the timestamp type of msgpack.

    Raises:
        BrokerError: it is none.
    """
    to_datetime = getattr(value, "to_datetime", None)
    if callable(to_datetime):
        at = to_datetime()
        if isinstance(at, datetime):
            return at
    found = words.moment({"t": value}, "t")
    if found is None:
        raise BrokerError("a bar without a time")
    return found


__all__ = ["AlpacaBars"]
