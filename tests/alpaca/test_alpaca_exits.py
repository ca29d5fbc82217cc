"""Buy, breach, exit, fill: the whole manager with the real SDK, through each class of fault."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderSide as Side
from alpaca.trading.enums import TimeInForce
from alpaca.trading.requests import MarketOrderRequest
from desk import Desk

from exitfsm import Bar
from exitfsm.testing.alpaca_server import AlpacaServer, Fault

FAULTS = [
    Fault("status", "before", status=500),
    Fault("status", "after", status=500),
    Fault("status", "before", status=504),
    Fault("status", "after", status=504),
    Fault("html", "before", status=502),
    Fault("html", "after", status=502),
    Fault("empty", "before"),
    Fault("empty", "after"),
    Fault("garbage", "before"),
    Fault("garbage", "after"),
    Fault("hang", "before", seconds=0.6),
    Fault("hang", "after", seconds=0.6),
    Fault("reset", "before"),
    Fault("reset", "after"),
    Fault("redirect", "before"),
    Fault("redirect", "after"),
    Fault("slow", "after", seconds=0.2),
    Fault("status", "before", status=401, body='{"code":40110000,"message":"request is not authorized"}'),
    Fault("status", "before", status=403, body='{"message":"forbidden."}'),
    Fault("html", "before", status=403),
    Fault("html", "before", status=404),
    Fault("status", "before", status=408, body='{"message":"timeout"}'),
    Fault("status", "before", status=429, body='{"code":42910000,"message":"rate limit exceeded"}'),
    Fault("status", "after", status=422, body='{"code":40010001,"message":"client_order_id must be unique"}'),
]


async def test_buys_breaches_exits_and_fills(server: AlpacaServer, tmp_path: Path) -> None:
    """The bot buys over the SDK; the update stream tells; a bar of the stream breaches; the exit fills."""
    async with Desk(server, tmp_path, streams="updates bars") as desk:
        server.price("AAPL", 100)
        bot = TradingClient(server.key, server.secret, url_override=server.url)
        order = MarketOrderRequest(
            symbol="AAPL", qty=10, side=Side.BUY, time_in_force=TimeInForce.DAY, client_order_id="bot-1"
        )
        bot.submit_order(order)
        await desk.state("monitoring")
        desk.bars.watch(["AAPL"])
        await desk.until(lambda: server.stocks.subscribed == {"AAPL"}, "bars are subscribed")
        await desk.price("100.5")
        assert desk.exits == []
        await desk.price("98.9")
        p = await desk.gone()
        bot._session.close()
    assert (p.reason, p.attempt, str(p.avg_exit_price)) == ("stop_loss", 1, "98.9")
    body = desk.exits[0]
    assert body == {
        "symbol": "AAPL", "qty": "10", "side": "sell", "type": "market", "time_in_force": "day",
        "position_intent": "sell_to_close", "client_order_id": p.client_order_id,
    }  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{f.kind}-{f.status}-{f.when}")
async def test_a_fault_of_the_submit(server: AlpacaServer, tmp_path: Path, fault: Fault) -> None:
    """Whatever goes wrong with the POST, before or after it took effect: one order is taken, and it fills once."""
    async with Desk(server, tmp_path, answer_s=0.4 if fault.kind == "hang" else 30.0) as desk:
        await desk.held()
        server.fail(Fault(**vars(fault) | {"times": 1}))
        await desk.price("98.9")
        await desk.gone()
    assert len(desk.taken) == 1
    assert {body["client_order_id"] for body in desk.exits} == {desk.taken[0]["client_order_id"]}


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("kind", ["html", "reset"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_faults_in_a_row(server: AlpacaServer, tmp_path: Path, kind: str, when: str, times: int) -> None:
    """The POST and the look-ups after it fail, several times."""
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        server.fail(Fault(kind, when, status=502))  # type: ignore[arg-type]
        server.fail(Fault(kind, "before", method="GET", path="by_client_order_id", status=502, times=times))  # type: ignore[arg-type]
        await desk.price("98.9")
        await desk.gone()
    assert len(desk.taken) == 1


async def test_the_server_is_away_and_comes_back(server: AlpacaServer, tmp_path: Path) -> None:
    """A breach while Alpaca is down: the order goes out when it is back, once, and the streams come back too."""
    async with Desk(server, tmp_path, streams="updates bars") as desk:
        await desk.held()
        desk.streams = "updates"
        server.stop()
        await desk.manager.on_bar(Bar("AAPL", datetime.now(UTC), 99, 99, 98, "98.9"))
        await desk.state("pending")
        assert desk.exits == []
        server.start()
        await desk.gone()
        await desk.until(lambda: desk.updates.connections >= 2, "the stream listens again")
    assert len(desk.taken) == 1


@pytest.mark.parametrize("stream", ["dropped", "doubled", "reversed", "muted", "closed", "cut", "early", "unknown"])
async def test_a_fault_of_the_stream(server: AlpacaServer, tmp_path: Path, stream: str) -> None:
    """Updates lost, doubled, out of order or before the answer: three executions, one exit, the same end."""
    server.account.fills = "by_hand"
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        updates = server.updates
        match stream:
            case "dropped":
                updates.drop_next = 100
            case "doubled":
                updates.double_next = 100
            case "reversed":
                updates.holding = True
            case "muted":
                updates.muted = True
            case "early":
                server.rest.events_first, server.account.fills = True, "at_once"
        await desk.price("98.9")
        await desk.until(lambda: desk.taken, "an order is taken")
        exit_id = desk.taken[0]["client_order_id"]
        if stream != "early":
            for qty in (3, 5, 2):
                if stream == "closed":
                    server.drop_stream()
                elif stream == "cut":
                    server.do(updates.abort)
                elif stream == "unknown":
                    server.push(
                        {"stream": "trade_updates", "data": {"event": "trade_sneeze", "order": server.order(exit_id)}}
                    )
                server.fill(exit_id, qty, "98.9")
        if stream == "reversed":
            server.do(lambda: updates.release(list(range(len(updates.held)))[::-1]))
        p = await desk.gone()
    assert len(desk.exits) == 1
    assert str(p.avg_exit_price) == "98.9"


@pytest.mark.parametrize("moment", ["before it was sent", "after it was taken", "half filled"])
async def test_the_process_dies(server: AlpacaServer, tmp_path: Path, moment: str) -> None:
    """A new process finds the intent in the store and the order at Alpaca, by its id."""
    server.account.fills = "by_hand"
    desk = Desk(server, tmp_path)
    async with desk:
        await desk.held()
        if moment == "before it was sent":
            server.fail(Fault("reset", "before", method="*", path="order", times=10_000))
        elif moment == "after it was taken":
            server.fail(Fault("reset", "after"))
            server.fail(Fault("reset", "before", method="GET", path="order", times=10_000))
        await desk.price("98.9")
        if moment == "half filled":
            await desk.state("submitted")
            server.fill(desk.taken[0]["client_order_id"], 5, "98.9")
        elif moment == "after it was taken":
            await desk.until(lambda: desk.taken, "an order is taken")
        else:
            await desk.until(lambda: desk.exits, "an order was sent")
        await desk.crash()
        server.do(server.rest.faults.planned.clear)
        await desk.start()
        await desk.until(lambda: desk.taken, "an order is taken")
        server.fill(desk.taken[0]["client_order_id"], None, "98.9")
        await desk.gone()
    assert len(desk.taken) == 1


async def test_the_store_is_lost(server: AlpacaServer, tmp_path: Path) -> None:
    """Without any record, the position gets the same name from Alpaca's fills, and its working order is found by it."""
    server.account.fills = "by_hand"
    desk = Desk(server, tmp_path)
    async with desk:
        first = await desk.held()
        await desk.price("98.9")
        await desk.state("submitted")
        await desk.stop()
        desk.generation += 1
        await desk.start()
        p = await desk.state("submitted")
        assert p.position_id == first.position_id
        server.fill(desk.taken[0]["client_order_id"], None, "98.9")
        p = await desk.gone()
    assert (len(desk.exits), p.reason) == (1, "recovered")


@pytest.mark.parametrize("symbol", ["AAPL", "BTC/USD"])
async def test_a_fraction_is_sold_to_the_last_decimal(server: AlpacaServer, tmp_path: Path, symbol: str) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held("1.123456789", 100, symbol)
        await desk.price("98.9", symbol)
        await desk.gone(symbol, "1.123456789")
    assert desk.exits[0]["qty"] == "1.123456789"
    assert desk.exits[0]["symbol"] == symbol
    assert desk.exits[0]["time_in_force"] == ("gtc" if "/" in symbol else "day")


async def test_a_short_is_bought_back(server: AlpacaServer, tmp_path: Path) -> None:
    from exitfsm import Side as Held

    async with Desk(server, tmp_path) as desk:
        await desk.held(10, 100, side=Held.SHORT)
        await desk.price("101.1")
        await desk.gone()
    assert (desk.exits[0]["side"], desk.exits[0]["position_intent"]) == ("buy", "buy_to_close")


async def test_many_positions_fall_at_once(server: AlpacaServer, tmp_path: Path) -> None:
    """Forty positions breach in one minute: forty exits, each once."""
    async with Desk(server, tmp_path) as desk:
        symbols = [f"S{n:02}" for n in range(40)]
        for symbol in symbols:
            server.hold(symbol, 10, 100)
        await desk.manager.sync()
        await desk.until(lambda: len(desk.manager.positions()) == 40, "all are watched")
        for symbol in symbols:
            await desk.price("98.9", symbol)
        for symbol in symbols:
            await desk.gone(symbol)
    assert len(desk.exits) == len(desk.taken) == 40


@pytest.mark.parametrize(("gap", "exits"), [(3, True), (30, False)])
async def test_a_trail_follows_what_was_missed(server: AlpacaServer, tmp_path: Path, gap: int, exits: bool) -> None:
    """The high came while the bars' connection was lost; a fall from it that is none from the last seen bar exits.

    As far as the price guard lets a bar decide anything: what is older than that moves no stop.
    """
    rules = {
        "profit_taking": {"enabled": False},
        "trailing_stop": {"enabled": True, "activation_pct": 1, "trail_pct": 2},
        "price_guard": {"max_age_seconds": 600},
    }
    async with Desk(server, tmp_path, streams="updates bars", config=rules, backfill_max_s=7200) as desk:
        start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=gap + 2)
        await desk.held(ago_s=60 * (gap + 10))
        desk.bars.watch(["AAPL"], {"AAPL": start})
        await desk.until(lambda: server.stocks.subscribed == {"AAPL"}, "bars are subscribed")
        server.stocks.refuse = 3
        server.drop_data()
        for minute in range(1, gap + 1):
            at_minute(server, start, minute, "110" if minute == 2 else "107.7")
        if exits:
            p = await desk.gone()
            assert (p.reason, str(p.trigger_price)) == ("trailing_stop", "107.7")
        else:
            await desk.until(lambda: desk.manager._engine.last_price("AAPL") == Decimal("107.7"), "the last bar came")
            await asyncio.sleep(0.3)
            assert desk.exits == []


def at_minute(server: AlpacaServer, start: datetime, minute: int, close: str) -> None:
    server.bar(Bar("AAPL", start + timedelta(minutes=minute), close, close, close, close))
