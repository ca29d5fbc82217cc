"""`AlpacaBroker` on the local server: paging, replacements, hours, and what it takes from the SDK's inside."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time as clock
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pytest
from exitfsm_alpaca import Access, AlpacaBroker
from exitfsm_alpaca.rest import TIMEOUT_S, _client

from exitfsm import (
    EXIT_WAITS,
    BrokerError,
    IdMemory,
    NotSent,
    Order,
    OrderRefused,
    OrderSide,
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
)
from exitfsm.testing.alpaca_server import AlpacaServer, Fault, Hours


def sell(qty: str = "10", coid: str = "xf1-test-1", **fields: object) -> Order:
    return Order(client_order_id=coid, symbol="AAPL", side=OrderSide.SELL, qty=Decimal(qty), **fields)  # type: ignore[arg-type]


def wait_for(what: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = clock.monotonic() + seconds
    while not what():
        assert clock.monotonic() < deadline, "never"
        clock.sleep(0.005)


def resting(qty: str = "10", coid: str = "xf1-test-1") -> Order:
    return sell(qty, coid, order_type=OrderType.LIMIT, limit_price=Decimal(150))


# --- what is taken from the SDK ---------------------------------------------------------------------------------------


def test_the_sdk_sends_once_and_never_waits_for_ever(access: Access) -> None:
    """The two private names that the adapter sets are there and mean what they meant."""
    from alpaca.trading.client import TradingClient

    plain = TradingClient("key1", "secret")
    assert plain._retry == 3
    assert plain._retry_codes == [429, 504]
    client = _client(access, TIMEOUT_S)
    assert client._retry == 0
    adapter = client._session.get_adapter("https://paper-api.alpaca.markets")
    assert adapter.timeout_s == TIMEOUT_S  # type: ignore[attr-defined]
    assert adapter.max_retries.total == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", [429, 504])
def test_no_request_is_repeated_by_the_sdk(server: AlpacaServer, broker: AlpacaBroker, status: int) -> None:
    server.hold("AAPL", 10, 100)
    server.fail(Fault("status", "before", method="*", path=".", status=status, times=9))
    with pytest.raises(BrokerError):
        broker.submit(sell())
    assert len(server.posts) == 1


def test_a_redirect_leaves_no_connection_open(
    server: AlpacaServer, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its body is never read, so that no pool gets the connection back by itself."""
    from requests.adapters import HTTPAdapter

    answers, inner = [], HTTPAdapter.send
    monkeypatch.setattr(HTTPAdapter, "send", lambda *a, **k: answers.append(inner(*a, **k)) or answers[-1])
    server.fail(Fault("redirect", "before", method="GET", path="positions"))
    with pytest.raises(BrokerError, match="InvalidURL"):
        broker.positions()
    assert [answer.raw.closed for answer in answers] == [True]


def test_a_call_that_outlives_the_broker_leaves_no_connection_open(server: AlpacaServer, access: Access) -> None:
    server.fail(Fault("slow", "after", method="GET", path="positions", seconds=0.2))
    broker = AlpacaBroker(access)
    with ThreadPoolExecutor() as pool:
        call = pool.submit(broker.positions)
        wait_for(lambda: server.rest.requests)
        broker.close()
        assert call.result() == []
    assert not broker._rest._idle


def test_the_streams_have_what_the_adapter_takes_over() -> None:
    from alpaca.data.live.websocket import DataStream
    from alpaca.trading.stream import TradingStream

    for name in ("_dispatch", "_start_ws", "close", "_run_forever"):
        assert callable(getattr(TradingStream, name)), name
    for name in ("_start_ws", "_send_subscribe_msg", "_send_unsubscribe_msg", "close", "_run_forever"):
        assert callable(getattr(DataStream, name)), name


def test_nothing_of_alpaca_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, exitfsm, exitfsm_alpaca, exitfsm.manager;"
        "print([m for m in sys.modules if m.split('.')[0] in ('alpaca', 'pandas', 'requests', 'aiohttp')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- orders -----------------------------------------------------------------------------------------------------------


def test_all_open_orders_are_read_page_by_page(server: AlpacaServer, broker: AlpacaBroker) -> None:
    server.hold("AAPL", 2000, 100)
    body = {"symbol": "AAPL", "side": "sell", "qty": "1", "type": "limit", "limit_price": "150", "time_in_force": "day"}

    def many() -> None:
        for n in range(1103):
            record = server.account._take(*server.account._order_of(body, f"bot-{n}"), body)
            record.word = None
            record.created_at = datetime(2024, 1, 3, 15, tzinfo=UTC) + timedelta(microseconds=100 * n)

    server.do(many)
    found = broker.open_orders()
    assert [r.client_order_id for r in found] == [f"bot-{n}" for n in range(1103)]
    assert len([r for r in server.rest.requests if r[1].startswith("/v2/orders?")]) == 3


def test_an_open_order_of_an_unknown_status_is_listed(server: AlpacaServer, broker: AlpacaBroker) -> None:
    server.hold("AAPL", 10, 100)
    name = server.foreign("AAPL", OrderSide.SELL, 10, 150)
    server.do(lambda: server.account.move(name, OrderStatus.NEW, "pondering"))
    assert [r.client_order_id for r in broker.open_orders()] == [name]
    with pytest.raises(BrokerError):
        broker.order(name)


def test_a_replaced_order_counts_what_all_of_them_executed(server: AlpacaServer, broker: AlpacaBroker) -> None:
    server.account.fills = "by_hand"
    server.hold("AAPL", 10, 100)
    broker.submit(resting())
    server.fill("xf1-test-1", 4, 150)
    old = server.order("xf1-test-1")["id"]
    new = server.do(lambda: server.account.replace(old, {"limit_price": "149", "qty": "6"}))
    server.do(lambda: server.account.opened(new))
    server.fill(new.client_order_id, 5, 149)
    report = broker.order("xf1-test-1")
    assert report is not None
    assert (report.status, report.filled_qty) == (OrderStatus.PARTIALLY_FILLED, 9)
    assert report.avg_fill_price == Decimal("149.444444444")
    assert report.client_order_id == "xf1-test-1"
    broker.cancel("xf1-test-1")
    assert server.order(new.client_order_id)["status"] in ("pending_cancel", "canceled")


def test_a_replaced_order_whose_executions_lag_behind_it_is_unknown(
    server: AlpacaServer, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.account.fills = "by_hand"
    server.hold("AAPL", 10, 100)
    broker.submit(resting())
    server.fill("xf1-test-1", 4, 150)
    old = server.order("xf1-test-1")["id"]
    server.do(lambda: server.account.opened(server.account.replace(old, {"limit_price": "149", "qty": "6"})))
    monkeypatch.setattr(AlpacaBroker, "fills", lambda self, since: [])
    with pytest.raises(BrokerError, match="lag behind"):
        broker.order("xf1-test-1")


def test_a_replacement_that_cannot_be_found_is_unknown(server: AlpacaServer, broker: AlpacaBroker) -> None:
    server.hold("AAPL", 10, 100)
    broker.submit(resting())
    server.do(lambda: setattr(server.account.records["xf1-test-1"], "word", "replaced"))
    with pytest.raises(BrokerError):
        broker.order("xf1-test-1")


ANOTHER = {"client_order_id": "another", "id": "x", "status": "new", "updated_at": "2024-01-03T15:00:00Z"}


@pytest.mark.parametrize("body", ["[]", "null", '"yes"', '{"id": null}', json.dumps(ANOTHER)])
def test_an_odd_answer_to_a_submit_is_unknown(server: AlpacaServer, broker: AlpacaBroker, body: str) -> None:
    server.hold("AAPL", 10, 100)
    server.fail(Fault("status", "after", status=200, body=body))
    with pytest.raises(BrokerError) as error:
        broker.submit(sell())
    assert not isinstance(error.value, (OrderRefused, NotSent))


@pytest.mark.parametrize("method", ["positions", "open_orders", "fills", "order", "account", "clock"])
@pytest.mark.parametrize("body", ["null", "{}", "7", "[7]", "[null]"])
def test_an_odd_answer_is_no_empty_one(server: AlpacaServer, broker: AlpacaBroker, method: str, body: str) -> None:
    server.fail(Fault("status", "before", method="GET", path=".", status=200, body=body))
    args = {"fills": (datetime.now(UTC),), "order": ("xf1-test-1",)}.get(method, ())
    if (method, body) == ("account", "{}"):
        return  # an object, with nothing in it
    with pytest.raises(BrokerError):
        getattr(broker, method)(*args)


def test_an_unknown_order_is_told_from_a_wrong_address(server: AlpacaServer, broker: AlpacaBroker) -> None:
    assert broker.order("xf1-nobody-1") is None
    for body in ('{"message":"Not Found"}', '{"code":404,"message":"no route"}', "<html>"):
        server.fail(Fault("status", "before", method="GET", path="client_order_id", status=404, body=body))
        with pytest.raises(BrokerError):
            broker.order("xf1-nobody-1")


def test_a_cancel_that_is_under_way_is_enough(server: AlpacaServer, broker: AlpacaBroker) -> None:
    server.account.cancels = "by_hand"
    server.hold("AAPL", 10, 100)
    broker.submit(resting())
    broker.cancel("xf1-test-1")
    broker.cancel("xf1-test-1")
    assert broker.order("xf1-test-1").status is OrderStatus.PENDING_CANCEL  # type: ignore[union-attr]


def test_connections_are_used_again(server: AlpacaServer, broker: AlpacaBroker) -> None:
    """Threads come and go; the connection of the last request is the one that is used next."""
    for _ in range(5):
        thread = threading.Thread(target=broker.positions)
        thread.start()
        thread.join()
    assert len(broker._rest._idle) == 1


# --- executions -------------------------------------------------------------------------------------------------------


def test_executions_are_read_page_by_page_and_only_once(server: AlpacaServer, broker: AlpacaBroker) -> None:
    def many(first: int, last: int, ago: int) -> None:
        for n in range(first, last):
            server.account.trade_by_hand("AAPL", OrderSide.BUY, Decimal(1), Decimal(100 + n % 7), ago - 60 * n)

    server.do(lambda: many(0, 250, 80_000))
    since = datetime.now(UTC) - timedelta(days=1)
    found = broker.fills(since)
    assert len(found) == 250
    assert [f.at for f in found] == sorted(f.at for f in found)
    assert len(asked(server)) == 3
    server.do(lambda: many(0, 3, 180))
    assert len(broker.fills(since)) == 253
    assert len(asked(server)) == 4, "only what is new is read, with an overlap"
    server.do(lambda: many(0, 1, 600))
    assert len(broker.fills(since)) == 254, "one that appears late is found in the overlap"
    assert len(broker.fills(datetime.now(UTC) - timedelta(minutes=4))) == 3
    assert len(broker.fills(since - timedelta(days=9))) == 254, "an earlier time reads all again"


def asked(server: AlpacaServer) -> list[str]:
    return [r[1] for r in server.rest.requests if "activities" in r[1]]


def test_an_unreadable_execution_hides_no_other(server: AlpacaServer, broker: AlpacaBroker) -> None:
    server.hold("AAPL", 10, 100)
    good = server.do(server.account.activities)[0]
    body = json.dumps([{"id": "odd"}, good])
    server.fail(Fault("status", "before", method="GET", path="activities", status=200, body=body))
    assert [f.qty for f in broker.fills(datetime(2020, 1, 1, tzinfo=UTC))] == [10]


# --- hours ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "is_open", "close", "next_open"),
    [
        ("2024-11-27T14:29:59", False, None, "2024-11-27T14:30"),  # before the open
        ("2024-11-27T14:30:00", True, "2024-11-27T21:00", None),
        ("2024-11-27T20:59:59", True, "2024-11-27T21:00", None),
        ("2024-11-27T21:00:00", False, None, "2024-11-29T14:30"),  # the day before a holiday
        ("2024-11-28T16:00:00", False, None, "2024-11-29T14:30"),
        ("2024-11-29T17:59:00", True, "2024-11-29T18:00", None),  # a half day
        ("2024-11-29T18:00:00", False, None, "2024-12-02T14:30"),
        ("2024-11-30T16:00:00", False, None, "2024-12-02T14:30"),  # a weekend
        ("2024-07-05T13:30:00", True, "2024-07-05T20:00", None),  # summer time
    ],
)
def test_hours_are_those_of_the_calendar(
    server: AlpacaServer, broker: AlpacaBroker, at: str, is_open: bool, close: str | None, next_open: str | None
) -> None:
    server.account.hours = Hours(holidays={date(2024, 11, 28)}, half_days={date(2024, 11, 29): time(13)})
    session = broker.session("AAPL", _utc(at))
    assert session.is_open is is_open
    assert session.close == (_utc(close) if close else None)
    assert session.next_open == (_utc(next_open) if next_open else None)
    assert broker.session("BTC/USD", _utc(at)).is_open
    broker.session("AAPL", _utc(at) + timedelta(seconds=1))
    assert len([r for r in server.rest.requests if "calendar" in r[1]]) == 1, "a day's calendar is read once"


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- beside the port --------------------------------------------------------------------------------------------------


def test_paper_and_live_are_different_accounts(server: AlpacaServer, broker: AlpacaBroker) -> None:
    assert broker.account_name() == "alpaca:paper:PA3TEST00001"
    live = AlpacaBroker(Access.from_environment(server.environment, live=True))
    assert live.account_name() == "alpaca:live:PA3TEST00001"
    live.close()


async def test_the_rate_limit_leaves_room_for_orders(server: AlpacaServer, access: Access) -> None:
    """Reads use up their share; an order still goes out, and what an exit waits for; and a cancel with its look-up."""
    broker = AlpacaBroker(access, requests_per_minute=30, reserve=10)
    server.hold("AAPL", 10, 100)
    reads = await asyncio.gather(*(asyncio.to_thread(broker.positions) for _ in range(25)), return_exceptions=True)
    assert sum(isinstance(r, NotSent) for r in reads) == 5
    await asyncio.to_thread(broker.submit, resting())
    with pytest.raises(NotSent):
        await asyncio.to_thread(broker.order, "xf1-test-1")
    await asyncio.to_thread(broker.cancel, "xf1-test-1")
    EXIT_WAITS.set(True)
    assert (await asyncio.to_thread(broker.order, "xf1-test-1")) is not None
    broker.close()


def test_a_limit_of_alpaca_is_heeded(server: AlpacaServer, access: Access) -> None:
    server.limit(3)
    server.do(lambda: [server.rest.limit.take() for _ in range(3)])
    broker = AlpacaBroker(access)
    with pytest.raises(NotSent, match="too many"):
        broker.positions()
    before = len(server.rest.requests)
    broker._rest.budget.exceeded(60)
    with pytest.raises(NotSent):
        broker.submit(sell())
    assert len(server.rest.requests) == before
    broker.close()


def test_declares_no_more_than_is_known(broker: AlpacaBroker) -> None:
    """From flat, a sell is a short sale at Alpaca: the manager must look before it sends. Late fills have no bound
    that is documented: the assumed one is declared, never none at all.
    """
    declared = broker.capabilities
    assert not declared.reduce_only
    assert (declared.ids_refused, declared.lookup_sees_closed) == (IdMemory.FOREVER, True)
    assert (declared.late_fills, declared.late_fill_window_s, declared.queues_orders) == (True, 5, True)
    assert Side.LONG.exit_side is OrderSide.SELL
    assert broker.capabilities.rules("AAPL").times_in_force[0] is TimeInForce.DAY
