"""What went wrong for others at Alpaca, one test for each case, by its number in the list that this was built from.

Numbers 30 and 31 are about bracket legs and stops on a bracket: this library sends neither, and 30 says so.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from desk import Desk
from exitfsm_alpaca import AlpacaBroker

from exitfsm import OrderSide, OrderStatus
from exitfsm.order_ids import looks_like_exit
from exitfsm.testing.alpaca_server import AlpacaServer, Fault, Hours

#: A profit limit that only a stop makes give way (its own patience is longer than a test).
LIMIT = {"profit_taking": {"order_type": "limit"}, "partial_fills": {"resubmit_delay_seconds": 30}}


@pytest.fixture
def by_hand(server: AlpacaServer) -> AlpacaServer:
    """A server on which orders fill when a test says so."""
    server.account.fills = "by_hand"
    return server


async def test_01_a_post_that_timed_out_is_not_sent_by_the_next_process(by_hand: AlpacaServer, tmp_path: Path) -> None:
    desk = Desk(by_hand, tmp_path, answer_s=0.4)
    async with desk:
        await desk.held()
        by_hand.fail(Fault("hang", "after", seconds=0.6))
        by_hand.fail(Fault("hang", "before", method="GET", path="order", times=100, seconds=0.6))
        await desk.price("98.9")
        await desk.until(lambda: desk.taken, "an order is taken")
        await desk.crash()
        by_hand.do(by_hand.rest.faults.planned.clear)
        await desk.start()
        await desk.state("submitted")
        by_hand.fill(desk.taken[0]["client_order_id"], None, "98.9")
        await desk.gone()
    assert len(desk.exits) == 1


async def test_02_a_gateway_timeout_is_not_repeated_blindly(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        server.fail(Fault("status", "after", status=504, times=5))
        await desk.price("98.9")
        await desk.gone()
    assert len(desk.exits) == 1


async def test_03_an_id_is_not_used_again_after_a_cancel(by_hand: AlpacaServer, tmp_path: Path) -> None:
    """A profit limit gives way to the stop: the market order after it has another id."""
    async with Desk(by_hand, tmp_path, config=LIMIT) as desk:
        await desk.held()
        await desk.price("102.5")
        await desk.state("submitted")
        await desk.price("98.9")
        await desk.until(lambda: len(desk.taken) == 2, "the second attempt is taken")
        by_hand.fill(desk.taken[1]["client_order_id"], None, "98.9")
        await desk.gone()
    first, second = desk.taken
    assert (first["status"], first["type"], first["limit_price"]) == ("canceled", "limit", "102")
    assert (second["status"], second["type"]) == ("filled", "market")
    assert first["client_order_id"] != second["client_order_id"]


async def test_04_a_second_exit_on_the_same_day_has_its_own_id(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        for _ in range(2):
            await desk.held()
            await desk.price("98.9")
            await desk.gone()
    assert len({body["client_order_id"] for body in desk.exits}) == len(desk.taken) == 2


async def test_05_a_fraction_is_not_cut_off(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held("0.729270001", 15000)
        await desk.price("14800")
        await desk.gone(qty="0.729270001")
    assert desk.exits[0]["qty"] == "0.729270001"


async def test_06_a_stream_that_is_connected_and_mute_is_noticed(server: AlpacaServer, tmp_path: Path) -> None:
    """Executions that it does not tell give it away; it is connected anew, and polled meanwhile."""
    async with Desk(server, tmp_path, grace_s=0.5) as desk:
        await desk.until(lambda: desk.updates._known is not None, "the stream was held against the account once")
        server.updates.muted = True
        server.do(lambda: server.account.trade_by_hand("AAPL", OrderSide.BUY, Decimal(10), Decimal(100)))
        await desk.until(lambda: not desk.updates.trusted, "it is not trusted")
        await desk.state("monitoring")
        server.updates.muted = False
        await desk.until(lambda: desk.updates.connections >= 2, "it connected anew")
        await desk.price("98.9")
        await desk.gone()
        await desk.until(lambda: desk.updates.trusted, "it is trusted again")
    assert any("stream_mute" in line for line in desk.heard.lines)


async def test_06_refused_connections_are_not_hammered(server: AlpacaServer, tmp_path: Path) -> None:
    """The SDK waits half a second at least after the first refusal, and longer after each more."""
    server.updates.refuse = 1000
    async with Desk(server, tmp_path, streams="") as desk:
        began = asyncio.get_running_loop().time()
        await desk.updates.start()
        await desk.held()
        await desk.until(lambda: server.updates.refuse <= 998, "it is refused twice")
        await asyncio.sleep(0.7)
        attempts = 1000 - server.updates.refuse
        assert attempts <= 1 + (asyncio.get_running_loop().time() - began) / 0.5
        await desk.price("98.9")
        await desk.gone()


async def test_07_an_unknown_status_or_exchange_hides_nothing(by_hand: AlpacaServer, tmp_path: Path) -> None:
    by_hand.account.odd_positions = [
        {"symbol": "ZZZ", "exchange": "MOON", "asset_class": "treasury", "side": "long", "qty": "many"},
        {"symbol": "YYY", "exchange": None, "asset_class": "ipo", "side": "long", "qty": "1", "avg_entry_price": None},
    ]
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        await desk.state("submitted")
        exit_id = desk.taken[0]["client_order_id"]
        order = by_hand.order(exit_id)
        by_hand.push(
            {"stream": "trade_updates", "data": {"event": "pondered", "order": order | {"status": "pondering"}}}
        )
        by_hand.push({"stream": "trade_updates", "data": None})
        by_hand.push({"stream": "trade_updates", "data": {"event": "fill", "order": {"client_order_id": 7}}})
        by_hand.push("this is not JSON")
        by_hand.push('["neither", "is", "this"]')
        by_hand.fill(exit_id, None, "98.9")
        await desk.gone()
        assert desk.updates.connections == 1


async def test_08_a_cancel_that_is_never_streamed_is_seen(by_hand: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        await desk.state("submitted")
        by_hand.updates.drop_next = 1
        first = desk.taken[0]["client_order_id"]
        by_hand.do(lambda: by_hand.account.move(first, OrderStatus.CANCELED))
        await desk.until(lambda: len(desk.taken) == 2, "the next attempt is taken")
        by_hand.fill(desk.taken[1]["client_order_id"], None, "98.9")
        await desk.gone()


async def test_09_an_order_that_goes_on_under_another_id_is_followed(by_hand: AlpacaServer, tmp_path: Path) -> None:
    """A person replaces our order at Alpaca: the fill comes under an id that we never sent."""
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        await desk.state("submitted")
        await desk.until(lambda: by_hand.order(desk_id(by_hand))["status"] == "new", "it can be replaced")
        new = by_hand.do(lambda: by_hand.account.replace(desk_order(by_hand), {}))
        by_hand.do(lambda: by_hand.account.opened(new))
        by_hand.fill(new.client_order_id, None, "98.9")
        await desk.gone()
    assert len(desk.exits) == 1


async def test_10_a_held_leg_that_is_not_listed_stops_the_exit_with_an_alarm(
    by_hand: AlpacaServer, tmp_path: Path
) -> None:
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        leg = by_hand.foreign("AAPL", OrderSide.SELL, 10, "150")
        by_hand.do(lambda: by_hand.account.move(leg, OrderStatus.NEW, "held"))
        assert [r.client_order_id for r in desk.broker.open_orders()] == []
        await desk.price("98.9")
        p = await desk.state("unprotected")
        assert p.remaining_qty == 10
    assert "protection_lost" in desk.kinds()


async def test_11_executions_are_not_counted_twice(by_hand: AlpacaServer, tmp_path: Path) -> None:
    """The quantity of the single execution stands beside the cumulative one: only the latter counts."""
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        await desk.state("submitted")
        by_hand.updates.double_next = 10
        for qty, total in ((4, 4), (4, 8), (2, 10)):
            by_hand.fill(desk.taken[0]["client_order_id"], qty, "98.9")
            await desk.until(lambda n=total: desk.last().sold_qty == n, f"{total} are sold")  # type: ignore[misc]
        await desk.gone()


async def test_12_a_replacement_for_more_than_is_left_is_an_alarm(by_hand: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        await desk.state("submitted")
        by_hand.fill(desk.taken[0]["client_order_id"], 4, "98.9")
        await desk.state("partial")
        new = by_hand.do(lambda: by_hand.account.replace(desk_order(by_hand), {"qty": "14"}))
        by_hand.do(lambda: by_hand.account.opened(new))
        p = await desk.state("unprotected")
        assert p.remaining_qty == 6
    assert "from 10 to 14" in next(a.text for a in desk.alarms if a.kind == "protection_lost")


async def test_13_executions_within_a_millisecond_are_put_in_order(broker: AlpacaBroker, server: AlpacaServer) -> None:
    activity = {"activity_type": "FILL", "symbol": "AAPL", "side": "buy", "price": "100", "order_id": "o",
                "transaction_time": "2024-01-03T15:00:00.123456789Z"}  # fmt: skip
    page = [
        activity | {"id": f"20240103150000123::{n}", "qty": "100", "cum_qty": cum}
        for n, cum in enumerate(("970", "869"))
    ]
    server.fail(Fault("status", "before", method="GET", path="activities", status=200, body=json.dumps(page)))
    fills = await asyncio.to_thread(broker.fills, datetime(2024, 1, 1, tzinfo=UTC))
    assert [f.fill_id[-1] for f in fills] == ["1", "0"]


async def test_14_filled_and_canceled_at_once_is_filled(by_hand: AlpacaServer, tmp_path: Path) -> None:
    """The cancel of a limit crosses its fill: all of it was sold, and nothing more is."""
    by_hand.account.cancels = "by_hand"
    async with Desk(by_hand, tmp_path, config=LIMIT) as desk:
        await desk.held()
        await desk.price("102.5")
        await desk.state("submitted")
        await desk.price("98.9")
        await desk.state("canceling")
        exit_id = desk.taken[0]["client_order_id"]
        by_hand.fill(exit_id, None, "102")
        by_hand.do(lambda: by_hand.account.finish_cancel(exit_id))
        await desk.gone()
    assert len(desk.taken) == 1


async def test_15_replaced_with_nothing_executed_is_not_over(by_hand: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        await desk.state("submitted")
        await desk.until(lambda: by_hand.order(desk_id(by_hand))["status"] == "new", "it can be replaced")
        new = by_hand.do(lambda: by_hand.account.replace(desk_order(by_hand), {}))
        await desk.until(lambda: len(seen(by_hand, "by_client_order_id")) >= 2, "it is looked up")
        assert str(desk.last().state) == "submitted"  # type: ignore[union-attr]
        by_hand.do(lambda: by_hand.account.opened(new))
        by_hand.fill(new.client_order_id, None, "98.9")
        await desk.gone()


async def test_16_stuck_in_pending_cancel(by_hand: AlpacaServer, tmp_path: Path) -> None:
    """No second order while the cancel is only asked for; a person is told; a fill meanwhile counts."""
    by_hand.account.cancels = "by_hand"
    async with Desk(by_hand, tmp_path, config=LIMIT) as desk:
        await desk.held()
        await desk.price("102.5")
        await desk.state("submitted")
        await desk.price("98.9")
        await desk.until(lambda: "cancel_unresolved" in desk.kinds(), "a person is told")
        assert (len(desk.taken), str(desk.last().state)) == (1, "canceling")  # type: ignore[union-attr]
        first = desk.taken[0]["client_order_id"]
        by_hand.fill(first, 4, "102")
        by_hand.do(lambda: by_hand.account.finish_cancel(first))
        await desk.until(lambda: len(desk.taken) == 2, "the rest is sold")
        assert desk.taken[1]["qty"] == "6"
        by_hand.fill(desk.taken[1]["client_order_id"], None, "98.9")
        await desk.gone()


async def test_17_the_next_order_waits_for_the_end_of_the_first(by_hand: AlpacaServer, tmp_path: Path) -> None:
    """Selling right after the 204 of a cancel is refused, and burns an attempt: it is not tried."""
    by_hand.account.cancels = "by_hand"
    async with Desk(by_hand, tmp_path, config=LIMIT) as desk:
        await desk.held()
        await desk.price("102.5")
        await desk.state("submitted")
        await desk.price("98.9")
        await desk.state("canceling")
        await asyncio.sleep(0.5)
        assert len(desk.exits) == 1
        by_hand.do(lambda: by_hand.account.finish_cancel(desk_id(by_hand)))
        await desk.until(lambda: len(desk.taken) == 2, "the next attempt is taken")
        by_hand.fill(desk.taken[1]["client_order_id"], None, "98.9")
        await desk.gone()


@pytest.mark.parametrize("prefix", ["", "bot-"])
async def test_18_a_stop_of_the_bot_holds_all_shares(server: AlpacaServer, tmp_path: Path, prefix: str) -> None:
    """An order whose id begins as configured is canceled first; any other ends in an alarm that names it."""
    server.account.fills = "by_hand"
    config = {"live": {"entry_id_prefix": prefix, "poll_seconds": 0.3, "sync_seconds": 1}}
    async with Desk(server, tmp_path, config=config) as desk:
        await desk.held()
        body = {"symbol": "AAPL", "side": "sell", "qty": "10", "type": "limit", "limit_price": "150"}
        body |= {"time_in_force": "gtc", "client_order_id": "bot-stop"}
        server.do(lambda: server.account.opened(server.account.submit(body)))
        await desk.manager.sync()
        await desk.price("98.9")
        if prefix:
            await desk.until(lambda: desk.taken, "the exit is taken")
            assert server.order("bot-stop")["status"] == "canceled"
            server.fill(desk.taken[0]["client_order_id"], None, "98.9")
            await desk.gone()
        else:
            await desk.state("unprotected")
            assert {"foreign_order", "protection_lost"} <= set(desk.kinds())
            assert "bot-stop" in next(a.text for a in desk.alarms if a.kind == "foreign_order")
            assert server.order("bot-stop")["id"] in next(a.text for a in desk.alarms if a.kind == "protection_lost")


async def test_19_a_wash_trade_refusal_is_named(by_hand: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        by_hand.foreign("AAPL", OrderSide.BUY, 5, "90")
        await desk.price("98.9")
        await desk.state("unprotected")
    assert "refused twice for the same reason (wash_trade)" in next(
        a.text for a in desk.alarms if a.kind == "protection_lost"
    )


async def test_20_a_part_filled_profit_limit_gives_way_to_the_stop(by_hand: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(by_hand, tmp_path, config=LIMIT) as desk:
        await desk.held()
        await desk.price("102.5")
        await desk.state("submitted")
        by_hand.fill(desk.taken[0]["client_order_id"], 7, "102")
        await desk.state("partial")
        await desk.price("98.9")
        await desk.until(lambda: len(desk.taken) == 2, "the stop is sent")
        assert (desk.taken[1]["qty"], desk.taken[1]["type"]) == ("3", "market")
        by_hand.fill(desk.taken[1]["client_order_id"], None, "98.9")
        await desk.gone()


async def test_21_a_halt_is_waited_out(by_hand: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        await desk.state("submitted")
        by_hand.do(lambda: by_hand.account.move(desk_id(by_hand), OrderStatus.SUSPENDED))
        await desk.until(lambda: "order_stalled" in desk.kinds(), "a person is told")
        assert not [r for r in by_hand.rest.requests if r[0] == "DELETE"]
        by_hand.do(lambda: by_hand.account.move(desk_id(by_hand), OrderStatus.NEW))
        by_hand.fill(desk_id(by_hand), None, "60")
        await desk.gone()
    assert len(desk.exits) == 1


async def test_22_rejected_twice_is_not_sent_for_ever(by_hand: AlpacaServer, tmp_path: Path) -> None:
    """Taken with 200 and rejected afterwards, twice: a person, not a loop."""
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        for n in (1, 2):
            await desk.until(lambda n=n: len(desk.taken) == n, f"attempt {n} is taken")  # type: ignore[misc]
            await desk.state("submitted")
            by_hand.do(lambda n=n: by_hand.account.move(desk_id(by_hand, n - 1), OrderStatus.REJECTED))  # type: ignore[misc]
        await desk.state("unprotected")
        await asyncio.sleep(0.7)
    assert len(desk.exits) == 2


async def test_23_a_fill_is_found_while_the_stream_is_down(server: AlpacaServer, tmp_path: Path) -> None:
    server.updates.refuse = 1000
    async with Desk(server, tmp_path, streams="") as desk:
        await desk.updates.start()
        await desk.held()
        await desk.price("98.9")
        await desk.gone()
        assert desk.updates.connections == 0


async def test_24_one_lost_frame_starts_no_loop(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        server.updates.drop_next = 2
        await desk.price("98.9")
        await desk.gone()
    assert len(desk.exits) == 1


async def test_25_a_stale_list_of_positions_sells_nothing_again(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        stale = json.dumps(server.do(server.account.positions))
        server.fail(Fault("status", "before", method="GET", path="positions", status=200, body=stale, times=3))
        await desk.price("98.9")
        await desk.gone()
    assert len(desk.exits) == 1


async def test_26_no_call_waits_for_ever(server: AlpacaServer, impatient: AlpacaBroker) -> None:
    server.fail(Fault("hang", "before", method="GET", path=".", seconds=300.0))
    began = asyncio.get_running_loop().time()
    with pytest.raises(Exception, match="no answer"):
        await asyncio.to_thread(impatient.positions)
    assert asyncio.get_running_loop().time() - began < 60


async def test_27_a_bad_start_is_survived(server: AlpacaServer, tmp_path: Path) -> None:
    """Everything fails when the manager starts: it starts, lets nobody enter, and asks again."""
    server.hold("AAPL", 10, 100)
    for kind in ("html", "reset", "hang"):
        server.fail(Fault(kind, "before", method="GET", path=".", status=502, times=2, seconds=0.5))  # type: ignore[arg-type]
    async with Desk(server, tmp_path, answer_s=0.4) as desk:
        await desk.state("monitoring")
        await desk.price("98.9")
        await desk.gone()


async def test_27_a_position_whose_executions_cannot_be_read_is_an_alarm(server: AlpacaServer, tmp_path: Path) -> None:
    """It cannot be named without them, and so not be watched: a person is told; the log says what fails."""
    server.fail(Fault("html", "before", method="GET", path="activities", status=404, times=10_000))
    server.hold("AAPL", 10, 100)
    async with Desk(server, tmp_path, streams="") as desk:
        await desk.until(lambda: "epoch_unknown" in desk.kinds(), "a person is told")
        assert [a.text for a in desk.alarms if a.kind == "epoch_unknown"] == [
            "10 AAPL long: the broker's fills cannot be read, so it is NOT protected"
        ]
        assert any("GET /account/activities/FILL: HTTP 404" in line for line in desk.heard.lines)
        server.do(server.rest.faults.planned.clear)
        await desk.state("monitoring")
        await desk.price("98.9")
        await desk.gone()


async def test_28_a_clock_that_says_open_at_night_is_not_believed(server: AlpacaServer, broker: AlpacaBroker) -> None:
    server.account.hours = Hours()
    night = datetime(2024, 1, 3, 7, 0, tzinfo=UTC)
    clock = '{"timestamp":"2024-01-03T02:00:00-05:00","is_open":true,"next_open":"x","next_close":"x"}'
    server.fail(Fault("status", "before", method="GET", path="clock", status=200, body=clock, times=9))
    session = await asyncio.to_thread(broker.session, "AAPL", night)
    assert not session.is_open
    assert session.next_open == datetime(2024, 1, 3, 14, 30, tzinfo=UTC)


async def test_29_a_day_order_that_expires_is_sent_again(by_hand: AlpacaServer, tmp_path: Path) -> None:
    """Expiry is not a failed attempt: the next order follows, as often as it takes."""
    async with Desk(by_hand, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        for n in range(1, 6):
            await desk.until(lambda n=n: len(desk.taken) == n, f"attempt {n} is taken")  # type: ignore[misc]
            await desk.state("submitted")
            by_hand.do(by_hand.account.close_session)
        await desk.until(lambda: len(desk.taken) == 6, "one more is taken")
        await desk.state("submitted")
        by_hand.fill(desk_id(by_hand, 5), None, "98.9")
        await desk.gone()


async def test_30_no_brackets_no_stops_no_close_position(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        for symbol in ("AAPL", "BTC/USD"):
            await desk.held(10, 100, symbol)
            await desk.price("98.9", symbol)
            await desk.gone(symbol)
    fields = {key for body in desk.exits for key in body}
    assert fields == {"symbol", "qty", "side", "type", "time_in_force", "client_order_id", "position_intent"}
    assert not [r for r in server.rest.requests if r[0] in ("DELETE", "PATCH")]


async def test_32_dust_is_refused_twice_and_then_a_person_is_told(server: AlpacaServer, tmp_path: Path) -> None:
    message = "insufficient balance for BTC (requested: 0.1, available: 0.0999)"
    body = json.dumps({"code": 40310000, "message": message})
    async with Desk(server, tmp_path) as desk:
        await desk.held("0.000000001", 100, "BTC/USD")
        server.fail(Fault("status", "before", status=403, body=body, times=9))
        await desk.price("98.9", "BTC/USD")
        await desk.state("unprotected", symbol="BTC/USD")
        await asyncio.sleep(0.5)
    assert len(desk.exits) == 2


async def test_32_dust_that_is_worth_too_little_waits_and_a_person_is_told(
    server: AlpacaServer, tmp_path: Path
) -> None:
    body = json.dumps({"code": 40310000, "message": "cost basis must be >= minimal amount of order 10"})
    async with Desk(server, tmp_path) as desk:
        await desk.held("0.000000001", 100, "BTC/USD")
        server.fail(Fault("status", "before", status=403, body=body, times=9))
        await desk.price("98.9", "BTC/USD")
        await desk.until(lambda: bool(desk.alarms), "a person is told")
        await asyncio.sleep(0.5)
        assert [str(p.state) for p in desk.manager.positions()] == ["pending"]
    assert desk.kinds() == ["value_too_small"]


async def test_33_nothing_is_sold_after_the_exit(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        await desk.price("98.9")
        await desk.gone()
        for close in ("97", "96", "95"):
            await desk.price(close)
        await desk.manager.sync()
        await asyncio.sleep(0.2)
    assert (len(desk.exits), server.held("AAPL")) == (1, 0)


async def test_34_the_intent_is_on_disk_before_the_order_leaves(server: AlpacaServer, tmp_path: Path) -> None:
    """When the POST arrives, the store already names the order."""
    from desk import stored

    seen_in_store: list[bool] = []
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        inner = server.account.submit

        def submit(body: dict[str, object]) -> object:
            ids = [getattr(e, "client_order_id", None) for e in stored(desk.store)]
            seen_in_store.append(body["client_order_id"] in ids)
            return inner(body)

        server.account.submit = submit  # type: ignore[method-assign, assignment]
        await desk.price("98.9")
        await desk.gone()
    assert seen_in_store == [True]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "position does not exist"),
        (422, "asset AAPL is not active"),
        (403, "insufficient qty available for order (requested: 10, available: 0)"),
    ],
)
async def test_35_a_refusal_does_not_close_a_position(
    server: AlpacaServer, tmp_path: Path, status: int, message: str
) -> None:
    body = json.dumps({"code": status * 100_000 + 10_000, "message": message})
    async with Desk(server, tmp_path) as desk:
        await desk.held()
        server.fail(Fault("status", "before", status=status, body=body, times=9))
        await desk.price("98.9")
        p = await desk.state("unprotected")
        assert p.remaining_qty == 10
        server.do(server.rest.faults.planned.clear)
        await desk.manager.force_exit("AAPL", "by hand")
        await desk.gone()
    assert len(desk.exits) == 3


async def test_a_split_stops_nobody_out(server: AlpacaServer, tmp_path: Path) -> None:
    async with Desk(server, tmp_path) as desk:
        await desk.held(10, 700, ago_s=3600)
        await desk.price("701")
        server.do(lambda: server.account.split("AAPL", Decimal(7)))
        await desk.price("100.2")
        await desk.until(lambda: desk.last().qty == 70, "the split is followed")  # type: ignore[union-attr]
        assert desk.exits == []
        await desk.price("98.9")
        await desk.gone(qty="70")


# --- words ------------------------------------------------------------------------------------------------------------


def desk_id(server: AlpacaServer, at: int = 0) -> str:
    """The client order id of the n-th exit order; also within the server's thread."""
    return [r for r in server.account.records.values() if looks_like_exit(r.client_order_id)][at].client_order_id


def desk_order(server: AlpacaServer) -> str:
    return server.account.records[desk_id(server)].id


def seen(server: AlpacaServer, path: str) -> list[object]:
    return [r for r in server.rest.requests if path in r[1]]
