"""Bars, clocks and the market's hours, on the real manager."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from harness import GOOD, T0, MakeWorld, World
from msgspec.structs import replace

from exitfsm import Bar, Session
from exitfsm.events import ExitRetried
from exitfsm.testing import Hang, Raises

EXTENDED = {"session": {"trade": "extended"}}
SILENT = {"live": {"feed_silence_seconds": 100}}


def minute_bar(symbol: str, minute: int, close: Any) -> Bar:
    """The bar of a minute after the start."""
    return Bar(symbol, T0 + timedelta(minutes=minute), close, close, close, close)


# --- bars -------------------------------------------------------------------------------------------------------------


async def test_given_bars_that_stop_then_a_person_is_told_and_the_next_bar_still_counts(make_world: MakeWorld) -> None:
    world = await make_world(SILENT)
    await world.enter()
    await world.bar(100)
    await world.passes(99, step=1)
    assert world.alarm_kinds == []
    await world.passes(10, step=1)
    assert world.alarm_kinds == ["feed_silent"]
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_bars_that_stop_while_the_market_is_closed_then_nobody_is_told(make_world: MakeWorld) -> None:
    world = await make_world(SILENT)
    await world.enter()
    world.broker.market = Session(is_open=False, next_open=T0 + timedelta(hours=20))
    await world.passes(400, step=5)
    assert world.alarm_kinds == []


async def test_given_another_symbols_bars_then_this_ones_silence_is_not_hidden(make_world: MakeWorld) -> None:
    world = await make_world(SILENT)
    await world.enter()
    for _ in range(30):
        await world.bar(50, "MSFT", after=5)
    assert world.alarm_kinds == ["feed_silent"]


async def test_given_a_breach_and_a_recovery_in_one_delivery_then_the_breach_counts(world: World) -> None:
    world.clock.move(180)
    bars = [minute_bar("AAPL", 1, 98), minute_bar("AAPL", 2, 100)]
    await world.manager.on_bars(bars)
    await world.settle()
    assert [o.qty for o in world.orders] == [10]


async def test_given_a_storm_of_bars_then_the_one_that_breaches_counts_and_none_is_sold_twice(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    for symbol in ("AAPL", "MSFT", "TSLA"):
        await world.enter(10, 100, symbol=symbol)
    world.clock.move(30_000)
    await world.settle()
    bars = []
    for minute in range(1, 400):
        for symbol in ("AAPL", "MSFT", "TSLA"):
            close = Decimal("100.3") if minute % 2 else Decimal("99.7")
            if symbol == "MSFT" and minute == 397:
                close = Decimal(98)
            bars.append(minute_bar(symbol, minute, close))
    world.clock.set(bars[-1].timestamp)
    await asyncio.gather(*(world.manager.on_bar(bar) for bar in bars))
    await world.settle()
    assert [o.symbol for o in world.orders] == ["MSFT"]


async def test_given_bars_repeated_and_out_of_order_then_only_new_ones_decide(world: World) -> None:
    await world.bar(100, after=60)
    old = world.make_bar(97, at=T0 + timedelta(seconds=30))
    for bar in (old, old, world.make_bar(100)):
        await world.manager.on_bar(bar)
    await world.settle()
    assert world.orders == []
    assert world.names().count("TriggerRefused") == 1
    await world.bar(98.9)
    assert len(world.orders) == 1


async def test_given_a_bar_that_forms_then_a_fall_inside_it_is_not_missed(world: World) -> None:
    start = world.clock.now() + timedelta(seconds=1)
    for close in (100, "99.5", "99.5", "98.9"):
        world.clock.move(5)
        await world.manager.on_bar(world.make_bar(close, at=start))
        await world.settle()
    assert len(world.orders) == 1
    assert world.names()[:2] == ["PositionOpened", "ExitTriggered"]


async def test_given_prices_without_bars_then_a_long_is_judged_by_the_bid(world: World) -> None:
    await world.manager.on_price("aapl", 100, bid="99.1", ask="100.9")
    world.clock.move(1)
    await world.manager.on_price("AAPL", bid="99.05", ask="102.5")
    world.clock.move(1)
    await world.manager.on_price("AAPL", float("nan"))
    await world.settle()
    assert world.orders == []
    world.clock.move(1)
    await world.manager.on_price("AAPL", bid=99, ask=101)
    await world.settle()
    assert len(world.orders) == 1
    assert world.position.trigger_price == 99


async def test_given_a_price_that_cannot_be_read_then_it_is_an_alarm(world: World) -> None:
    await world.manager.on_price("AAPL")
    await world.manager.on_price("MSFT", 5)
    await world.settle()
    assert world.alarm_kinds == ["bar_unreadable"]


async def test_given_bars_of_an_hour_then_no_silence_is_cried(make_world: MakeWorld) -> None:
    world = await make_world({"live": {"bar_seconds": 3600}})
    await world.enter()
    for _ in range(2):
        at = world.clock.now()
        await world.passes(3599, step=30)
        await world.manager.on_bar(world.make_bar(100, at=at))
    assert world.alarm_kinds == []
    await world.passes(3960, step=30)
    assert world.alarm_kinds == ["feed_silent"]


async def test_given_a_bar_that_is_too_old_then_it_triggers_nothing(world: World) -> None:
    await world.bar(100)
    world.clock.move(400)
    await world.settle()
    await world.manager.on_bar(world.make_bar(98, at=world.clock.now() - timedelta(seconds=301)))
    await world.settle()
    assert world.orders == []
    await world.bar(98)
    assert len(world.orders) == 1


@pytest.mark.parametrize("close", [float("nan"), float("inf"), 0, -5, "1e-400"])
async def test_given_prices_that_cannot_be_then_nothing_is_decided_and_the_next_good_bar_counts(
    world: World, close: Any
) -> None:
    await world.bar(100)
    for n in range(12):
        world.clock.move(1)
        await world.manager.on_bar({"symbol": "AAPL", "timestamp": world.clock.now(), "close": close})
        await world.settle()
        assert world.orders == [], n
    assert world.state == "monitoring"
    await world.bar(98.9)
    assert len(world.orders) == 1


async def test_given_a_bar_dated_far_ahead_then_the_ones_after_it_are_not_taken_for_old(world: World) -> None:
    await world.bar(100)
    ahead = world.clock.now() + timedelta(days=400)
    await world.manager.on_bar(world.make_bar(100, at=ahead))
    await world.manager.on_bar(world.make_bar(98, at=ahead + timedelta(minutes=1)))
    assert world.orders == []
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_bars_of_which_none_is_believed_then_a_person_is_told_as_if_none_came(
    make_world: MakeWorld,
) -> None:
    world = await make_world(SILENT)
    await world.enter()
    await world.bar(100)
    await world.manager.on_bar(world.make_bar(100, at=world.clock.now() + timedelta(seconds=250)))
    for _ in range(30):
        await world.bar(98, after=5)
    assert world.orders == []
    assert world.alarm_kinds == ["feed_silent"]


async def test_given_what_is_no_bar_at_all_then_it_is_ignored(world: World) -> None:
    for garbage in (None, 7, {}, {"symbol": "AAPL"}, {"symbol": "AAPL", "timestamp": "soon", "close": 1}, object()):
        await world.manager.on_bar(garbage)
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_several_positions_when_one_is_hit_then_only_that_one_is_sold(make_world: MakeWorld) -> None:
    world = await make_world()
    for n, symbol in enumerate(("AAPL", "MSFT", "TSLA", "NVDA"), 1):
        await world.enter(n, 100 * n, symbol=symbol)
    await world.bar(205, "MSFT")
    assert [(o.symbol, o.qty) for o in world.orders] == [("MSFT", 2)]
    assert world.manager.may_enter("AAPL")
    assert not world.manager.may_enter("MSFT")


async def test_given_both_levels_in_one_bar_then_it_counts_as_the_stop(make_world: MakeWorld) -> None:
    world = await make_world({"evaluate_on": "range"})
    await world.enter()
    await world.bar(101, low=98, high=103)
    assert world.position.reason == "stop_loss"


# --- the clock --------------------------------------------------------------------------------------------------------


async def test_given_the_clock_steps_back_an_hour_then_waits_and_exits_go_on(world: World) -> None:
    await world.bar(98)
    await world.fill(4)
    world.broker.expire(world.last_order)
    await world.deliver()
    world.clock.set(world.clock.now() - timedelta(hours=1))
    await world.until(lambda: len(world.orders) == 2, seconds=40)
    await world.fill()
    await world.until(lambda: world.state == "filled", seconds=10)


async def test_given_the_clock_steps_back_an_hour_then_the_next_breach_still_counts(world: World) -> None:
    await world.bar(100)
    right = world.clock.now()
    world.clock.set(right - timedelta(hours=1))
    await world.passes(5)
    await world.manager.on_bar(world.make_bar(98, at=right + timedelta(seconds=5)))
    await world.settle()
    assert len(world.orders) == 1


async def test_given_a_clock_that_was_an_hour_ahead_when_it_is_put_right_then_fresh_bars_count_again(
    make_world: MakeWorld,
) -> None:
    world = await make_world(start=T0 + timedelta(hours=1))
    world.broker.now = lambda: T0
    await world.enter()
    world.clock.set(T0)
    await world.passes(5)
    await world.manager.on_bar(world.make_bar(98, at=T0 + timedelta(seconds=5)))
    await world.settle()
    assert len(world.orders) == 1


async def test_given_the_clock_steps_back_an_hour_before_a_restart_then_the_next_attempt_is_not_an_hour_late(
    world: World,
) -> None:
    await world.bar(98)
    await world.fill(4)
    world.broker.expire(world.last_order)
    await world.deliver()
    world.clock.set(world.clock.now() - timedelta(hours=1))
    await world.restart()
    await world.passes(20)
    assert len(world.orders) == 1
    await world.until(lambda: len(world.orders) == 2, seconds=20)
    await world.fill()
    await world.until(lambda: world.state == "filled", seconds=10)


async def test_given_the_clock_comes_to_where_a_wait_began_then_its_time_does_not_go_back(world: World) -> None:
    await world.bar(98)
    await world.fill(4)
    world.broker.expire(world.last_order)
    await world.deliver()
    due = world.position.next_attempt_at
    world.clock.set(world.clock.now() - timedelta(seconds=10))
    await world.restart()
    await world.until(lambda: len(world.orders) == 2, seconds=32)
    [attempt] = [event for _, event in world.events if isinstance(event, ExitRetried)]
    assert due is not None
    assert attempt.at >= due


async def test_given_the_clock_steps_back_an_hour_before_a_restart_then_a_wait_still_ends_in_an_alarm(
    world: World,
) -> None:
    await world.bar(98)
    world.clock.set(world.clock.now() - timedelta(hours=1))
    await world.restart()
    await world.passes(130)
    assert world.alarm_kinds == ["order_stalled"]


async def test_given_our_clock_runs_behind_the_brokers_then_the_wait_for_late_fills_is_kept(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    await world.enter()
    world.broker.now = lambda: world.clock.now() + timedelta(minutes=10)
    await world.bar(98)
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    await world.passes(25)
    assert len(world.orders) == 1
    await world.until(lambda: len(world.orders) == 2, seconds=10)


async def test_given_the_machine_slept_then_what_came_due_meanwhile_happens(world: World) -> None:
    await world.bar(98)
    await world.fill(4)
    world.broker.expire(world.last_order)
    await world.deliver()
    world.clock.set(world.clock.now() + timedelta(hours=2))
    await world.passes(1)
    assert len(world.orders) == 2


# --- the market's hours -----------------------------------------------------------------------------------------------


def closed(next_open: datetime) -> Session:
    """A closed market."""
    return Session(is_open=False, next_open=next_open)


async def heard_of_the_close(world: World) -> None:
    """The market is closed, and the manager knows."""
    world.broker.market = closed(T0 + timedelta(hours=18))
    world.clock.move(300)
    await world.until(lambda: world.manager._parts.context.hours.shut("AAPL") is not None, seconds=60)


async def test_given_an_unprotected_position_when_it_is_released_at_night_then_no_price_of_the_night_exits_it(
    world: World,
) -> None:
    await world.manager.pause()
    await heard_of_the_close(world)
    await world.manager.resume()
    slot = world.manager._parts.context.engine.levels.slots["AAPL"]
    slot.shut(None)  # as of one that nobody asked about while it was unprotected
    await world.bar(94)
    assert world.orders == []
    assert world.position.state == "monitoring"


async def test_given_a_clock_that_is_set_forward_at_night_then_the_market_is_still_closed(world: World) -> None:
    world.broker.market = closed(T0 + timedelta(hours=1))
    world.clock.move(300)
    await world.until(lambda: world.manager._parts.context.hours.shut("AAPL") is not None, seconds=60)
    world.clock.set(world.clock.now() + timedelta(hours=2))
    await world.bar(94)
    await world.settle()
    assert world.orders == []
    assert world.position.state == "monitoring"


async def test_given_a_clock_that_was_ahead_when_the_hours_were_read_then_the_market_does_not_open_early(
    world: World,
) -> None:
    opens = T0 + timedelta(seconds=600)
    world.clock.set(world.clock.now() + timedelta(seconds=200))
    world.broker.market = closed(opens)
    world.clock.move(300)  # by this clock 100 s before it opens
    await world.until(lambda: world.manager._parts.context.hours.shut("AAPL") is not None, seconds=60)
    world.clock.set(world.clock.now() - timedelta(seconds=200))
    await world.passes(110, step=10)
    assert world.clock.now() < opens
    await world.bar(94)
    assert world.position.state == "monitoring"
    assert world.orders == []


async def test_given_a_clock_that_stays_ahead_then_the_market_opens_when_the_broker_says_so(world: World) -> None:
    opens = T0 + timedelta(seconds=600)
    world.clock.set(world.clock.now() + timedelta(seconds=200))
    world.broker.market = closed(opens)
    await world.until(lambda: world.manager._parts.context.hours.shut("AAPL") is not None, seconds=60)
    await world.passes(500, step=10)
    assert world.clock.now() > opens
    await world.bar(94)
    assert world.orders == []
    world.broker.market = Session(is_open=True)
    await world.passes(61, step=10)
    await world.bar(94)
    assert [order.qty for order in world.orders] == [10]


async def test_given_the_market_closes_while_an_exit_waits_for_its_next_attempt_then_it_goes_out_at_the_open(
    world: World,
) -> None:
    await world.bar(98)
    await world.fill(4)
    world.broker.market = closed(T0 + timedelta(hours=18))
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.passes(7200, step=20)
    assert len(world.orders) == 1
    assert world.alarm_kinds == []
    world.broker.market = Session(is_open=True)
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    assert (world.last_order.qty, world.position.exit.budget_spent) == (6, 0)


async def test_given_day_orders_that_expire_day_after_day_then_the_budget_is_not_spent(world: World) -> None:
    await world.bar(98)
    for day in range(1, 7):
        world.broker.expire(world.last_order)
        await world.deliver()
        await world.until(lambda day=day: len(world.orders) == day + 1, seconds=60)  # type: ignore[misc]
    assert world.alarm_kinds == []


async def test_given_a_closed_market_when_a_person_forces_the_exit_then_it_waits_for_the_open(world: World) -> None:
    world.broker.market = closed(T0 + timedelta(hours=18))
    await world.passes(31)
    await world.manager.force_exit("AAPL", "out")
    await world.passes(300, step=5)
    assert world.orders == []
    assert world.state == "pending"
    assert world.alarm_kinds == []
    world.broker.market = Session(is_open=True)
    await world.until(lambda: world.orders, seconds=60)


async def test_given_a_broker_that_queues_orders_then_a_closed_market_does_not_hold_the_exit_up(
    make_world: MakeWorld,
) -> None:
    world = await make_world(EXTENDED, capabilities=replace(GOOD, queues_orders=True))
    await world.enter()
    world.broker.market = closed(T0 + timedelta(hours=18))
    await world.passes(31)
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_a_print_while_the_market_is_closed_then_it_decides_nothing_and_the_run_is_one(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    await world.enter()
    world.broker.market = closed(T0 + timedelta(hours=18))
    await world.passes(301, step=10)
    for _ in range(3):
        await world.bar(98, after=60)
    await world.bar(100, after=60)
    assert world.orders == []
    assert world.names()[1:] == ["TriggerRefused"]
    assert world.position.refusing == "out_of_session"
    assert world.alarm_kinds == []
    world.broker.market = Session(is_open=True)
    await world.passes(301, step=10)
    await world.bar(101)
    assert world.names()[1:] == ["TriggerRefused", "RefusalEnded"]
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_a_bar_that_began_before_the_close_then_it_counts_after_it(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter()
    world.broker.market = Session(is_open=True, close=T0 + timedelta(seconds=120))
    await world.passes(100, step=10)
    world.broker.market = closed(T0 + timedelta(hours=18))
    await world.passes(30, step=10)
    await world.manager.on_bar(world.make_bar(98, at=T0 + timedelta(seconds=100)))
    assert world.state != "monitoring"


async def test_given_a_broker_that_knows_no_hours_then_every_price_counts(make_world: MakeWorld) -> None:
    world = await make_world()
    world.broker.market = closed(T0 + timedelta(hours=18))
    await world.enter("0.5", 40000, symbol="BTC/USD")
    await world.passes(301, step=10)
    await world.bar(39000, "BTC/USD")
    assert len(world.orders) == 1


async def test_given_crypto_then_a_closed_stock_market_means_nothing_to_it(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter("0.5", 40000, symbol="BTC/USD")
    world.broker.market = closed(T0 + timedelta(hours=18))
    await world.passes(31)
    await world.bar(39000, "BTC/USD")
    assert [str(o.time_in_force) for o in world.orders] == ["gtc"]


async def test_given_hours_that_cannot_be_read_then_the_exit_goes_out(world: World) -> None:
    world.broker.always("session", Raises(ConnectionError()))
    await world.bar(98)
    assert len(world.orders) == 1


async def test_given_the_end_of_a_half_day_then_the_position_is_flattened_before_it(make_world: MakeWorld) -> None:
    world = await make_world({"end_of_session": {"enabled": True, "minutes_before_close": 5}})
    close = T0 + timedelta(minutes=30)
    world.broker.market = Session(is_open=True, close=close)
    await world.enter()
    await world.bar(100, after=24 * 60)
    assert world.orders == []
    await world.bar(100, after=61)
    assert world.position.reason == "end_of_session"
    assert len(world.orders) == 1


async def test_given_no_bars_before_the_end_of_the_session_then_it_is_flattened_all_the_same(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"end_of_session": {"enabled": True, "minutes_before_close": 5}})
    world.broker.market = Session(is_open=True, close=T0 + timedelta(minutes=30))
    await world.enter()
    await world.until(lambda: world.orders, seconds=1600, step=10)
    assert world.clock.now() < T0 + timedelta(minutes=26)


async def test_given_a_time_limit_and_no_bars_then_the_position_is_exited(make_world: MakeWorld) -> None:
    world = await make_world({"time_limit": {"enabled": True, "max_seconds": 600}})
    await world.enter()
    await world.passes(599, step=10)
    assert world.orders == []
    await world.until(lambda: world.orders, seconds=30)
    assert world.position.reason == "time_limit"


async def test_given_a_pause_then_no_time_rule_triggers_either_until_it_ends(make_world: MakeWorld) -> None:
    world = await make_world({"time_limit": {"enabled": True, "max_seconds": 600}})
    await world.enter()
    await world.manager.pause()
    await world.passes(900, step=10)
    assert world.orders == []
    await world.manager.resume()
    await world.until(lambda: world.orders, seconds=30)


async def test_given_hours_that_hang_for_one_symbol_then_the_other_positions_timers_run_on(
    make_world: MakeWorld,
) -> None:
    world = await make_world({"live": {"broker_timeout_seconds": 2, "feed_silence_seconds": 10_000}})
    await world.enter(10, 100)
    await world.enter(5, 50, symbol="MSFT")
    await world.bar(98)
    await world.bar(49, "MSFT")
    world.broker.expire(world.orders[1])
    await world.deliver()
    await world.passes(28)
    hours = Hang("never")
    world.broker.always("session", hours)
    world.clock.move(4)
    await world.really(lambda: len(world.orders) == 3, seconds=1.5)


async def test_given_a_session_that_has_just_ended_then_an_order_is_not_sent_into_the_night(
    make_world: MakeWorld,
) -> None:
    world = await make_world(EXTENDED)
    await world.enter()
    world.broker.market = Session(is_open=True, close=T0 + timedelta(seconds=50))
    await world.passes(45)
    await world.bar(100)
    await world.manager.force_exit("MSFT")
    await world.manager._parts.context.hours.let_pass("AAPL")
    await world.passes(8)
    world.broker.market = closed(T0 + timedelta(hours=18))
    await world.bar(98)
    await world.passes(5)
    assert world.orders == []
    world.broker.market = Session(is_open=True)
    await world.until(lambda: world.orders, seconds=60)


async def test_given_word_of_the_close_while_an_order_waits_for_what_is_held_then_it_is_not_sent(
    make_world: MakeWorld,
) -> None:
    world = await make_world(capabilities=replace(GOOD, reduce_only=False))
    await world.enter()
    hours, held = Hang("on_release"), Hang("on_release")
    world.broker.answer("session", hours)
    world.broker.answer("positions", held)
    await world.manager.on_bar(minute_bar("AAPL", 1, 98))
    await world.really(lambda: held.waiting, seconds=3)
    world.broker.market = closed(T0 + timedelta(hours=18))
    hours.release()
    await world.really(lambda: world.manager._parts.context.hours.heard_closed("AAPL"), seconds=3)
    held.release()
    await world.passes(5)
    assert world.orders == []
    world.broker.market = Session(is_open=True)
    await world.until(lambda: world.orders, seconds=60)
