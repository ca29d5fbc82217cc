"""`AlpacaUpdates` by itself: what it passes on, what it leaves out, and when it has everything reconciled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest
from exitfsm_alpaca import Access, AlpacaBroker, AlpacaUpdates, streams

from exitfsm import ExecutionReport, Order, OrderSide, OrderType
from exitfsm.testing.alpaca_server import AlpacaServer


class Listener:
    def __init__(self, access: Access, broker: AlpacaBroker, **options: Any) -> None:
        self.reports: list[ExecutionReport] = []
        self.syncs = 0
        self.fail_syncs = 0
        self.fail_reports = 0
        timing = {"poll_s": 0.2, "check_s": 30.0, "grace_s": 0.3} | options
        self.updates = AlpacaUpdates(access, broker, self.report, self.sync, **timing)

    async def report(self, report: ExecutionReport) -> None:
        if self.fail_reports > 0:
            self.fail_reports -= 1
            raise RuntimeError("the bot's own handler")
        self.reports.append(report)

    async def sync(self) -> None:
        self.syncs += 1
        if self.fail_syncs > 0:
            self.fail_syncs -= 1
            raise TimeoutError

    @property
    def told(self) -> list[tuple[str, Decimal | None]]:
        return [(str(r.status), r.filled_qty) for r in self.reports]


@pytest.fixture
async def listener(server: AlpacaServer, access: Access, broker: AlpacaBroker) -> AsyncIterator[Listener]:
    made = Listener(access, broker)
    server.account.fills = "by_hand"
    server.hold("AAPL", 10, 100)
    async with made.updates:
        await until(lambda: made.updates.listening and made.syncs > 0)
        yield made


async def until(what: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "never"
        await asyncio.sleep(0.01)


async def working(broker: AlpacaBroker, listener: Listener) -> None:
    order = Order(client_order_id="xf1-u-1", symbol="AAPL", side=OrderSide.SELL, qty=Decimal(10),
                  order_type=OrderType.LIMIT, limit_price=Decimal(150))  # fmt: skip
    await asyncio.to_thread(broker.submit, order)
    await until(lambda: ("new", 0) in listener.told)


async def test_passes_on_each_step_once(server: AlpacaServer, broker: AlpacaBroker, listener: Listener) -> None:
    await working(broker, listener)
    server.updates.double_next = 9
    server.fill("xf1-u-1", 4, 150)
    server.fill("xf1-u-1", 6, 150)
    await until(lambda: ("filled", 10) in listener.told)
    await asyncio.sleep(0.05)
    assert listener.told == [("new", 0), ("partially_filled", 4), ("filled", 10)]
    assert listener.reports[-1].execution_id


async def test_an_update_that_was_overtaken_is_left_out(
    server: AlpacaServer, broker: AlpacaBroker, listener: Listener
) -> None:
    await working(broker, listener)
    server.updates.holding = True
    for qty in (2, 3, 5):
        server.fill("xf1-u-1", qty, 150)
    server.do(lambda: server.updates.release([2, 0, 1]))
    await until(lambda: ("filled", 10) in listener.told)
    await asyncio.sleep(0.05)
    assert listener.told == [("new", 0), ("filled", 10)]


async def test_an_unknown_event_is_looked_up(server: AlpacaServer, broker: AlpacaBroker, listener: Listener) -> None:
    await working(broker, listener)
    server.updates.drop_next = 1
    server.fill("xf1-u-1", 4, 150)
    order = server.order("xf1-u-1")
    server.push({"stream": "trade_updates", "data": {"event": "restated", "order": order | {"status": "calculated"}}})
    await until(lambda: ("partially_filled", 4) in listener.told)


async def test_a_bust_is_passed_on_as_a_correction(
    server: AlpacaServer, broker: AlpacaBroker, listener: Listener
) -> None:
    await working(broker, listener)
    server.fill("xf1-u-1", 4, 150)
    await until(lambda: ("partially_filled", 4) in listener.told)
    order = server.order("xf1-u-1") | {"filled_qty": "1"}
    server.push({"stream": "trade_updates", "data": {"event": "trade_bust", "event_id": "B1", "order": order}})
    await until(lambda: listener.reports[-1].corrected)
    assert listener.reports[-1].filled_qty == 1


@pytest.mark.parametrize(
    "frame",
    [
        "not JSON",
        "[]",
        "7",
        {},
        {"stream": None},
        {"stream": "trade_updates"},
        {"stream": "trade_updates", "data": []},
        {"stream": "trade_updates", "data": {"event": "fill"}},
        {"stream": "trade_updates", "data": {"event": {}, "order": {}}},
        {"stream": "listening", "data": {"streams": []}},
        {"action": "error", "data": {"error_message": "internal"}},
    ],
)
async def test_no_frame_ends_the_stream(
    server: AlpacaServer, broker: AlpacaBroker, listener: Listener, frame: Any
) -> None:
    server.push(frame)
    await working(broker, listener)
    assert listener.updates.connections == 1


async def test_a_handler_that_raises_ends_nothing(
    server: AlpacaServer, broker: AlpacaBroker, listener: Listener
) -> None:
    listener.fail_reports = 1
    before = listener.syncs
    server.foreign("MSFT", OrderSide.BUY, 1)
    await until(lambda: listener.syncs > before)
    await working(broker, listener)


async def test_everything_is_reconciled_with_each_subscription_until_it_succeeds(
    server: AlpacaServer, listener: Listener
) -> None:
    listener.fail_syncs = 2
    before = listener.syncs
    server.drop_stream()
    await until(lambda: listener.updates.connections >= 2)
    await until(lambda: listener.syncs >= before + 3 and listener.fail_syncs == 0)


async def test_without_a_subscription_the_account_is_polled(server: AlpacaServer, listener: Listener) -> None:
    server.updates.refuse = 1000
    server.drop_stream()
    await until(lambda: not listener.updates.listening)
    before = listener.syncs
    await until(lambda: listener.syncs >= before + 3)
    assert not listener.updates.trusted


async def test_with_a_subscription_nothing_is_polled(listener: Listener) -> None:
    updates = listener.updates
    await until(lambda: updates.trusted and updates._known is not None and not updates._behind.is_set())
    before = listener.syncs
    await asyncio.sleep(0.7)
    assert listener.syncs == before


async def test_bad_keys_are_polled_around(server: AlpacaServer, access: Access, broker: AlpacaBroker) -> None:
    server.updates.deny = 1
    listener = Listener(access, broker)
    async with listener.updates:
        await until(lambda: listener.syncs >= 2)
        assert not listener.updates.listening
        await until(lambda: listener.updates.listening)


async def test_a_half_open_connection_is_noticed(
    server: AlpacaServer, access: Access, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PING_S", 0.1)
    monkeypatch.setattr(streams, "PONG_S", 0.2)
    listener = Listener(access, broker)
    async with listener.updates:
        await until(lambda: listener.updates.listening)
        server.updates.half_open = True
        await until(lambda: not listener.updates.listening)
        server.updates.half_open, server.updates.one_only = False, False
        await until(lambda: listener.updates.listening)


async def test_a_thread_that_ends_is_replaced(server: AlpacaServer, broker: AlpacaBroker, listener: Listener) -> None:
    async def end(stream: Any) -> None:
        await stream.stop_ws()
        await stream._ws.close()

    thread = listener.updates._thread
    assert thread is not None
    thread.call(end)
    await until(lambda: not listener.updates.listening)
    await until(lambda: listener.updates.connections >= 2)
    await working(broker, listener)


async def test_stop__leaves_nothing(server: AlpacaServer, access: Access, broker: AlpacaBroker) -> None:
    listener = Listener(access, broker)
    await listener.updates.start()
    await until(lambda: listener.updates.listening)
    await listener.updates.stop()
    await listener.updates.stop()
    assert not [t for t in threading.enumerate() if t.name.startswith("exitfsm-alpaca")]
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("exitfsm-alpaca")]


@pytest.mark.parametrize("steps", [None, 0, 1, 3, 10])
async def test_stop_while_it_connects_leaves_nothing(
    server: AlpacaServer, access: Access, broker: AlpacaBroker, steps: int | None
) -> None:
    """A stop that comes while the stream starts is no less a stop."""
    listener = Listener(access, broker)
    await listener.updates.start()
    thread = listener.updates._thread
    assert thread is not None
    if steps is not None:  # else: before anything that it started has run
        await asyncio.sleep(steps / 1000)
    await listener.updates.stop()
    assert not [t for t in threading.enumerate() if t.name.startswith("exitfsm-alpaca")]
    await until(lambda: not server.updates._open)


async def test_stop_is_heard_while_frames_pour_in(
    server: AlpacaServer, access: Access, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelling a wait that a frame ends at the same moment is lost: here the first two are."""

    class Deaf(streams.UpdatesStream):
        lost = 0

        async def _consume(self) -> None:
            while Deaf.lost < 2:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    Deaf.lost += 1
            await asyncio.sleep(60)

    monkeypatch.setattr(streams, "UpdatesStream", Deaf)
    listener = Listener(access, broker)
    await listener.updates.start()
    await until(lambda: server.updates.listening)
    await listener.updates.stop()
    assert Deaf.lost == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("exitfsm-alpaca")]
    await until(lambda: not server.updates._open)


async def test_two_listeners_do_not_share_a_connection(
    server: AlpacaServer, access: Access, broker: AlpacaBroker
) -> None:
    """Alpaca lets one in; the other is polled, and takes over when the first goes."""
    first, second = Listener(access, broker), Listener(access, broker)
    async with second.updates:
        await until(lambda: second.updates.listening)
        await first.updates.start()
        await until(lambda: first.syncs >= 2)
        assert not first.updates.listening
    await until(lambda: first.updates.listening)
    await first.updates.stop()
