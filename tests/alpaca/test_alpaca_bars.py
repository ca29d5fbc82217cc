"""`AlpacaBars` by itself: bars of what is watched, in order, without gaps where Alpaca has none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from exitfsm_alpaca import Access, AlpacaBars

from exitfsm import Bar
from exitfsm.testing.alpaca_server import AlpacaServer, Fault

MINUTE = timedelta(minutes=1)
#: So long ago that every bar of a test is over.
BEGIN = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=1)


def bar(minute: int, close: str = "100", symbol: str = "AAPL") -> Bar:
    return Bar(symbol, BEGIN + minute * MINUTE, close, close, close, close, 5)


class Ear:
    """A feed, and the minutes that came out of it."""

    def __init__(self, feed: AlpacaBars) -> None:
        self.feed, self.bars = feed, list[Bar]()

    async def listen(self) -> None:
        async for one in self.feed.bars():
            self.bars.append(one)

    def minutes(self, symbol: str = "AAPL") -> list[int]:
        return [round((b.timestamp - BEGIN) / MINUTE) for b in self.bars if b.symbol == symbol]


@pytest.fixture
async def ear(server: AlpacaServer, access: Access) -> AsyncIterator[Ear]:
    made = Ear(AlpacaBars(access, stale_after_s=0.5, poll_s=0.1, backfill_max_s=7200))
    count_reads(made.feed)
    async with made.feed:
        listening = asyncio.create_task(made.listen())
        yield made
    await asyncio.wait_for(listening, 60)


async def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "never"
        await asyncio.sleep(0.01)


async def watched(server: AlpacaServer, ear: Ear, *symbols: str, since: int = 0) -> None:
    """Watch, with the bar of minute `since` as the last that was seen."""
    ear.feed.watch(symbols, dict.fromkeys(symbols, BEGIN + since * MINUTE))
    await until(lambda: (server.stocks.subscribed | server.crypto.subscribed) >= set(symbols))


def count_reads(feed: AlpacaBars) -> None:
    inner, feed.reads = feed._read, [0, 0]  # type: ignore[attr-defined]

    async def read(*args: Any) -> Any:
        feed.reads[0] += 1  # type: ignore[attr-defined]
        found = await inner(*args)
        feed.reads[1] += 1  # type: ignore[attr-defined]
        return found

    feed._read = read  # type: ignore[method-assign]


async def all_read(feed: AlpacaBars) -> None:
    """The look at what came before is over, also the one after the connection was made."""
    await until(lambda: feed.is_connected("AAPL") and not feed._behind.is_set())
    await until(lambda: not feed._behind.is_set() and feed.reads[0] == feed.reads[1] > 0)  # type: ignore[attr-defined]


async def test_streams_what_is_watched_and_nothing_else(server: AlpacaServer, ear: Ear) -> None:
    await watched(server, ear, "AAPL", "BTC/USD")
    for minute in (1, 2, 3):
        for symbol in ("AAPL", "MSFT", "BTC/USD"):
            server.bar(bar(minute, f"100.{minute}", symbol))
    await until(lambda: len(ear.bars) == 6)
    assert (ear.minutes(), ear.minutes("BTC/USD"), ear.minutes("MSFT")) == ([1, 2, 3], [1, 2, 3], [])
    assert ear.bars[0].close == Decimal("100.1")
    ear.feed.watch(["BTC/USD", "MSFT"])
    await until(lambda: (server.stocks.subscribed, server.crypto.subscribed) == ({"MSFT"}, {"BTC/USD"}))
    ear.feed.watch([])
    await until(lambda: not server.stocks.subscribed | server.crypto.subscribed)


async def test_many_changes_at_once_end_with_the_last(server: AlpacaServer, ear: Ear) -> None:
    for n in range(1, 30):
        ear.feed.watch([f"S{i}" for i in range(n)])
    await until(lambda: server.stocks.subscribed == {f"S{i}" for i in range(29)})
    assert server.stocks.connections == 1


async def test_what_was_missed_before_the_start_comes_first(server: AlpacaServer, ear: Ear) -> None:
    for minute in range(10):
        server.bar(bar(minute))
    await watched(server, ear, "AAPL", since=4)
    await until(lambda: ear.minutes() == [5, 6, 7, 8, 9])


async def test_a_gap_of_a_lost_connection_is_filled_in_order(server: AlpacaServer, ear: Ear) -> None:
    await watched(server, ear, "AAPL", "MSFT")
    for symbol in ("AAPL", "MSFT"):
        server.bar(bar(1, "100", symbol))
    await until(lambda: len(ear.bars) == 2)
    server.drop_data()
    for minute, high in ((2, "104"), (3, "109"), (4, "103")):
        for symbol in ("AAPL", "MSFT"):
            server.bar(bar(minute, high, symbol))
    await until(lambda: server.stocks.connections >= 2)
    server.bar(bar(5, "101"))
    await until(lambda: ear.minutes() == [1, 2, 3, 4, 5])
    await until(lambda: ear.minutes("MSFT") == [1, 2, 3, 4])
    assert max(b.high for b in ear.bars) == 109


async def test_a_bar_after_a_gap_waits_for_those_before_it(server: AlpacaServer, access: Access) -> None:
    """The connection is new, and bars were lost before its first one: these come first."""
    ear = Ear(AlpacaBars(access, stale_after_s=60, poll_s=60, backfill_max_s=7200))
    async with ear.feed:
        listening = asyncio.create_task(ear.listen())
        count_reads(ear.feed)
        await watched(server, ear, "AAPL")
        await all_read(ear.feed)
        server.stocks.silent = {"AAPL"}
        for minute in (1, 2, 3):
            server.bar(bar(minute))
        server.stocks.silent = set()
        await asyncio.sleep(0.1)
        assert ear.minutes() == []
        server.bar(bar(4))
        await until(lambda: ear.minutes() == [1, 2, 3, 4])
        server.bar(bar(9))
        await until(lambda: ear.minutes() == [1, 2, 3, 4, 9])
    await asyncio.wait_for(listening, 60)


async def test_a_gap_that_alpaca_has_too_is_none(server: AlpacaServer, ear: Ear) -> None:
    """Nothing traded for minutes: the next bar comes at once, and nothing is asked."""
    await watched(server, ear, "AAPL")
    await all_read(ear.feed)
    server.bar(bar(1))
    await until(lambda: ear.minutes() == [1])
    before = len(server.rest.requests)
    server.bar(bar(9))
    await until(lambda: ear.minutes() == [1, 9])
    assert len(server.rest.requests) == before


async def test_without_a_connection_rest_serves(server: AlpacaServer, ear: Ear) -> None:
    server.stocks.refuse = 1000
    ear.feed.watch(["AAPL"], {"AAPL": BEGIN})
    await asyncio.sleep(0.1)
    for minute in (1, 2, 3):
        server.bar(bar(minute))
        await until(lambda n=minute: ear.minutes()[-1:] == [n])  # type: ignore[misc]
    assert ear.minutes() == [1, 2, 3]


async def test_a_mute_stream_is_replaced_by_rest_and_connected_anew(server: AlpacaServer, ear: Ear) -> None:
    await watched(server, ear, "AAPL")
    server.bar(bar(1))
    await until(lambda: ear.minutes() == [1])
    server.stocks.muted = True
    for minute in range(2, 20):
        server.bar(bar(minute))
        await until(lambda n=minute: ear.minutes()[-1:] == [n])  # type: ignore[misc]
        if server.stocks.connections >= 2:
            break
    await until(lambda: server.stocks.connections >= 2)
    seen = ear.minutes()
    assert seen == list(range(1, len(seen) + 1))


async def test_one_silent_symbol_is_served_by_rest(server: AlpacaServer, ear: Ear) -> None:
    await watched(server, ear, "AAPL", "MSFT")
    server.stocks.silent = {"MSFT"}
    for minute in (1, 2):
        server.bar(bar(minute, "100", "AAPL"))
        server.bar(bar(minute, "100", "MSFT"))
    await until(lambda: ear.minutes("MSFT") == [1, 2])


async def test_a_bar_is_never_held_back_for_rest_for_long(server: AlpacaServer, ear: Ear) -> None:
    """The gap cannot be read: the newest price comes all the same."""
    await watched(server, ear, "AAPL")
    server.bar(bar(1))
    await until(lambda: ear.minutes() == [1])
    server.drop_data()
    await until(lambda: server.stocks.connections >= 2 and server.stocks.subscribed)
    server.fail(Fault("html", "before", method="GET", path="bars", status=502, times=50))
    server.bar(bar(5))
    await until(lambda: ear.minutes()[-1:] == [5])


async def test_a_minute_that_is_not_over_is_no_bar(server: AlpacaServer, ear: Ear) -> None:
    server.stocks.refuse = 1000
    now = datetime.now(UTC)
    ear.feed.watch(["AAPL"], {"AAPL": BEGIN})
    server.bar(bar(1))
    server.bar(Bar("AAPL", now - timedelta(seconds=5), 100, 100, 100, 100))
    await until(lambda: ear.minutes() == [1])
    await asyncio.sleep(0.3)
    assert ear.minutes() == [1]


async def test_bars_are_read_page_by_page(
    server: AlpacaServer, access: Access, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    import exitfsm_alpaca.bars as module

    monkeypatch.setattr(module, "PAGE", 4)
    for minute in range(1, 20):
        for symbol in ("AAPL", "MSFT", "ETH/USD"):
            server.bar(bar(minute, "100", symbol))
    await watched(server, ear, "AAPL", "MSFT", "ETH/USD")
    for symbol in ("AAPL", "MSFT", "ETH/USD"):
        await until(lambda s=symbol: ear.minutes(s) == list(range(1, 20)))  # type: ignore[misc]


@pytest.mark.parametrize("message", [{"T": "b", "S": "AAPL"}, {"T": "b", "S": "AAPL", "t": "x", "o": 1}, {"T": "zzz"}])
async def test_an_odd_frame_ends_nothing(server: AlpacaServer, ear: Ear, message: dict[str, Any]) -> None:
    await watched(server, ear, "AAPL")
    ear.feed._on_message("stocks", message)
    server.bar(bar(1))
    await until(lambda: ear.minutes() == [1])


async def test_a_bar_that_is_sent_again_is_a_later_look_at_it(server: AlpacaServer, ear: Ear) -> None:
    await watched(server, ear, "AAPL")
    await all_read(ear.feed)
    assert server.stocks.wanted("updatedBars") == {"AAPL"}
    server.bar(bar(1))
    server.bar(bar(2))
    await until(lambda: ear.minutes() == [1, 2])
    for minute in (1, 2, 3):  # too late, just in time, and of a bar that was never sent
        late = {"T": "u", "S": "AAPL", "t": bar(minute).timestamp, "o": 100, "h": 101, "l": 97, "c": 100, "v": 9}
        ear.feed._on_message("stocks", late)
    server.bar(bar(3))
    await until(lambda: len(ear.bars) == 4)
    assert ear.minutes() == [1, 2, 2, 3]
    assert (ear.bars[2].low, ear.bars[2].volume) == (97, 9)
    ear.feed.watch([])
    await until(lambda: not server.stocks.wanted("updatedBars"))


async def test_stop_leaves_nothing(server: AlpacaServer, access: Access) -> None:
    feed = AlpacaBars(access)
    await feed.start()
    feed.watch(["AAPL", "BTC/USD"])
    await until(lambda: server.stocks.subscribed and server.crypto.subscribed)
    await feed.stop()
    await feed.stop()
    assert [batch async for batch in feed.batches()] == []
    assert not [t for t in threading.enumerate() if t.name.startswith("exitfsm-alpaca")]
