"""One thing hides no other at Alpaca, and each that is wrong is said once, in an alarm."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from desk import Desk
from exitfsm_alpaca import Access, AlpacaBars, AlpacaBroker
from exitfsm_alpaca.troubles import Troubles, of_account, of_classes

from exitfsm import Bar, BrokerError, OrderSide
from exitfsm.memory import memory
from exitfsm.testing.alpaca_server import AlpacaServer, Fault

ACCOUNT = {"status": "ACTIVE", "account_blocked": False, "trading_blocked": False, "trade_suspended_by_user": False}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The account is looked at every half second, and not every quarter of a minute."""
    monkeypatch.setattr(memory, "LOOK_EVERY_S", 0.5)
    monkeypatch.setattr("exitfsm_alpaca.broker.ACCOUNT_EVERY_S", 0.5)


def texts(desk: Desk, kind: str) -> list[str]:
    return [alarm.text for alarm in desk.alarms if alarm.kind == kind]


def odd(symbol: str, **fields: Any) -> dict[str, Any]:
    return {"symbol": symbol, "qty": "1", "side": "long", "avg_entry_price": "5", "asset_class": "us_equity", **fields}


# --- positions, orders, executions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [None, 7, {"qty": "1"}, odd("MSFT", qty="a few")])
async def test_given_a_row_that_cannot_be_read_then_it_is_said_once_and_the_others_are_exited(
    server: AlpacaServer, tmp_path: Path, row: Any
) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        await desk.held(symbol="TSLA")  # it is shown all the time
        server.account.odd_positions.append(row)
        await desk.manager.sync()
        await desk.price("98.9")
        await desk.until(lambda: desk.taken, "the exit leaves")
        await desk.manager.sync()
        await desk.manager.sync()
        assert len(texts(desk, "position_unreadable")) == 1
    assert len(desk.exits) == 1


@pytest.mark.parametrize("field", ["qty", "filled_qty", "created_at"])
def test_a_working_order_with_a_field_that_cannot_be_read_hides_no_other(
    server: AlpacaServer, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    server.account.fills = "by_hand"
    server.hold("AAPL", 10, 100)
    first, second = (server.foreign("AAPL", OrderSide.SELL, 1, 200) for _ in range(2))
    shown = server.account.order_json

    def garbled(record: Any) -> dict[str, Any]:
        told = dict(shown(record))
        if told["client_order_id"] == first:
            told |= {field: "?!"} | ({"updated_at": "?!", "submitted_at": "?!"} if field == "created_at" else {})
        return told

    monkeypatch.setattr(server.account, "order_json", garbled)
    found = {report.client_order_id: report for report in broker.open_orders()}
    assert set(found) == {first, second}
    assert not found[first].status.terminal
    assert len([text for text in broker.noticed.all() if "working order" in text]) == 1
    monkeypatch.setattr(server.account, "order_json", shown)
    broker.open_orders()
    assert broker.noticed.all() == []


def test_a_working_order_that_does_not_say_its_id_is_shown_as_it_came(
    server: AlpacaServer, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.account.fills = "by_hand"
    server.hold("AAPL", 10, 100)
    first, second = (server.foreign("AAPL", OrderSide.SELL, 1, 200) for _ in range(2))
    shown = server.account.order_json
    nameless = {"id": "1", "status": "new"}

    def some(record: Any) -> dict[str, Any]:
        told = dict(shown(record))
        return nameless if told["client_order_id"] == first else told

    monkeypatch.setattr(server.account, "order_json", some)
    one, other = sorted(broker.open_orders(), key=lambda found: isinstance(found, dict))
    assert (one.client_order_id, other) == (second, nameless)


def test_a_list_of_orders_without_an_id_is_no_list_of_what_was_sent(
    server: AlpacaServer, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hold("AAPL", 10, 100)
    name = server.foreign("AAPL", OrderSide.SELL, 1, 200)
    since = datetime.now(UTC) - timedelta(hours=1)
    assert name in broker.order_ids(since)
    monkeypatch.setattr(server.account, "order_json", lambda record: {"id": record.id})
    with pytest.raises(BrokerError):
        broker.order_ids(since)


def test_the_list_of_what_was_sent_has_ended_orders_and_all_of_its_pages(
    server: AlpacaServer, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exitfsm_alpaca.broker.ORDERS_PAGE", 2)
    for n in range(5):
        server.hold(f"S{chr(65 + n)}", 10, 100, ago_s=600 - n)
    ids = broker.order_ids(datetime.now(UTC) - timedelta(hours=1))
    assert {order["client_order_id"] for order in server.orders()} == set(ids)
    assert len(ids) == 5


# --- keys, account, kinds of assets -----------------------------------------------------------------------------------


async def test_given_keys_that_are_revoked_then_a_person_hears_of_it_once(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        server.rest.secret = "another one"  # of a local server
        await desk.until(lambda: texts(desk, "broker_trouble"), "an alarm")
        await asyncio.sleep(1.5)
        (text,) = texts(desk, "broker_trouble")
        assert text.startswith("the keys are not authorised")
        server.rest.secret = server.secret
        await desk.until(lambda: not desk.broker.troubles(), "it is over")


async def test_given_a_blocked_account_then_a_person_hears_of_it(
    server: AlpacaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.account, "json", lambda: {**ACCOUNT, "account_number": "1", "trading_blocked": True})
    async with Desk(server, tmp_path) as desk:
        await desk.until(lambda: texts(desk, "broker_trouble"), "an alarm")
        assert texts(desk, "broker_trouble") == ["trading is blocked at Alpaca: exits are refused"]


def test_a_field_of_the_account_that_cannot_be_read_hides_none_of_the_others() -> None:
    found = of_account({**ACCOUNT, "account_blocked": "perhaps", "trading_blocked": True, "status": "ACCOUNT_CLOSED"})
    assert set(found) == {"account_blocked", "trading_blocked", "status"}
    assert "cannot be read" in found["account_blocked"]
    assert of_account(ACCOUNT) == {}


async def test_given_an_option_then_it_is_said_that_it_is_not_watched(server: AlpacaServer, tmp_path: Path) -> None:
    server.account.odd_positions.append(odd("AAPL260117C00150000", asset_class="us_option"))
    async with Desk(server, tmp_path) as desk:
        await desk.until(lambda: texts(desk, "broker_trouble"), "an alarm")
        (text,) = texts(desk, "broker_trouble")
        assert text.startswith("not watched: us_option (AAPL260117C00150000)")


def test_kinds_of_assets_that_are_watched_are_no_trouble() -> None:
    assert of_classes([odd("AAPL"), odd("BTCUSD", asset_class="crypto"), {"symbol": "X"}, None]) == {}


# --- streams and market data ------------------------------------------------------------------------------------------


async def test_given_a_stream_that_never_comes_up_then_a_person_hears_of_it_and_exits_go_on(
    server: AlpacaServer, tmp_path: Path
) -> None:
    server.updates.refuse = 1000
    async with Desk(server, tmp_path, streams="", silence_s=0.5) as desk:
        await desk.updates.start()
        await desk.held()
        await desk.until(lambda: texts(desk, "broker_trouble"), "an alarm")
        (text,) = texts(desk, "broker_trouble")
        assert "the stream of trade updates is not there" in text
        await desk.price("98.9")
        await desk.gone()
        server.updates.refuse = 0
        await desk.until(lambda: desk.updates.listening, "it comes up")
        await desk.until(lambda: not desk.broker.noticed.all(), "it is over")


async def test_given_a_symbol_that_market_data_refuses_then_the_others_are_watched_and_it_is_said(
    server: AlpacaServer, access: Access
) -> None:
    noticed = Troubles()
    names = ["AAPL", "MSFT", "ODD", "TSLA"]
    server.fail(
        Fault(
            "status",
            method="GET",
            path="/stocks/bars",
            query="ODD",
            times=1_000,
            status=400,
            body='{"message":"invalid symbol: ODD"}',
        )
    )
    at = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=1)
    for name in names:
        server.bar(Bar(name, at, *[Decimal(100)] * 4, 10))
    server.stocks.refuse = 1000
    async with AlpacaBars(access, stale_after_s=0.1, poll_s=0.1, noticed=noticed) as bars:
        bars.watch(names)
        seen: set[str] = set()
        async with asyncio.timeout(60):
            async for bar in bars.bars():
                seen.add(bar.symbol)
                if seen == {"AAPL", "MSFT", "TSLA"}:
                    break
        assert any(text.startswith("ODD is not watched") for text in noticed.all())
        bars.watch(["AAPL"])
        assert not any("ODD" in text for text in noticed.all())


async def test_given_market_data_that_refuses_everything_then_no_symbol_is_blamed(
    server: AlpacaServer, access: Access
) -> None:
    noticed = Troubles()
    body = '{"message":"subscription does not permit querying recent SIP data"}'
    server.fail(Fault("status", method="GET", path="/stocks/bars", times=8, status=403, body=body))
    at = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=1)
    server.bar(Bar("AAPL", at, *[Decimal(100)] * 4, 10))
    server.stocks.refuse = 1000
    async with AlpacaBars(access, stale_after_s=0.1, poll_s=0.1, noticed=noticed) as bars:
        bars.watch(["AAPL", "MSFT"])
        async with asyncio.timeout(60):
            bar = await anext(bars.bars())  # once it is over
        assert bar.symbol == "AAPL"
        assert noticed.all() == []


async def test_given_a_stream_of_bars_that_never_comes_up_then_it_is_said(
    server: AlpacaServer, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exitfsm_alpaca.bars.SILENCE_S", 0.3)
    server.stocks.refuse = 1000
    noticed = Troubles()
    async with AlpacaBars(access, poll_s=0.1, noticed=noticed) as bars:
        bars.watch(["AAPL"])
        async with asyncio.timeout(60):
            while not noticed.all():
                await asyncio.sleep(0.05)
        assert "the stream of bars of stocks is not there" in noticed.all()[0]


async def test_an_execution_that_cannot_be_read_is_said_and_the_others_are_there(
    server: AlpacaServer, broker: AlpacaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hold("AAPL", 10, 100)
    shown = server.account.activities
    monkeypatch.setattr(server.account, "activities", lambda: [{"id": "odd", "transaction_time": "2999"}, *shown()])
    fills = await asyncio.to_thread(broker.fills, datetime.now(UTC) - timedelta(hours=1))
    assert [fill.symbol for fill in fills] == ["AAPL"]
    assert any("an execution cannot be read" in text for text in broker.noticed.all())


def test_a_trouble_ends_by_itself() -> None:
    noticed = Troubles()
    noticed.note("keys", "they are refused")
    noticed.keep_only("class", {"a": "one", "b": "two"})
    assert noticed.all() == ["they are refused", "one", "two"]
    noticed.keep_only("class", {"b": "two"})
    noticed.note("keys", None)
    assert noticed.all() == ["two"]
