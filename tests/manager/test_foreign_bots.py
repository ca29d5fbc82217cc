"""Bots that were written without us: what counts is which orders reach their broker.

Never two, never too much, none missing; whatever shapes their objects have, whether their calls block, and however
their updates arrive: every order's (entries too), at least once, in any order.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bots import BareBroker, Broker, DataclassBroker, DictBroker, TheirBar, UndeclaredBroker
from harness import GOOD, World, executed
from msgspec.structs import replace

from exitfsm.ports import CAREFUL
from exitfsm.values import ExecutionReport

KINDS: list[type[Any]] = [DictBroker, DataclassBroker, BareBroker]
SYMBOLS = ("AAPL", "MSFT", "TSLA")


class Bot:
    """A bot with an event loop of its own making: one queue, one consumer, entries at random.

    Args:
        world: the true books and the clock; its manager is made anew, on the bot's own broker.
        kind: the bot's broker.
        disorder: how its updates arrive; None in order and once.
    """

    def __init__(self, world: World, kind: Callable[[Any], Broker], disorder: random.Random | None = None) -> None:
        self.world, self.books, self.disorder = world, world.broker, disorder
        self.broker = kind(world.broker)
        world.seen_by_manager = self.broker
        world.manager = world._new_manager()
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.held_back: list[ExecutionReport] = []

    async def start(self) -> None:
        """Start the manager."""
        await self.world.start()

    def tell(self) -> None:
        """Put the broker's news into the bot's queue: perhaps later, twice, and in another order."""
        news, self.books.updates = self.held_back + self.books.updates, []
        self.held_back = []
        if self.disorder is not None:
            news = [u for u in news for _ in range(self.disorder.choice((1, 1, 2, 3)))]
            self.disorder.shuffle(news)
            kept = self.disorder.randrange(len(news) + 1) if news else 0
            news, self.held_back = news[:kept], news[kept:]
        for update in news:
            self.queue.put_nowait(self.broker.update(update))

    def bar(self, symbol: str, price: float) -> None:
        """Put a bar into the queue."""
        self.books.price(symbol, Decimal(str(price)))
        self.queue.put_nowait(TheirBar(symbol, self.world.clock.now(), price, price, price, price))

    async def consume(self) -> None:
        """The bot's one consumer."""
        while not self.queue.empty():
            event = self.queue.get_nowait()
            if isinstance(event, TheirBar):
                await self.world.manager.on_bar(event)
            else:
                await self.world.manager.on_order_update(event)
        await self.world.settle()


async def make_bot(path: Path, kind: Any, seed: int | None = None, **options: Any) -> Bot:
    """A bot whose manager runs."""
    world = World(path, **options)
    bot = Bot(world, kind, random.Random(seed) if seed is not None else None)
    await bot.start()
    return bot


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["long", "short"])
async def test_given_a_foreign_bot_when_its_position_breaches_then_one_order_closes_it(
    tmp_path: Path, kind: Any, side: str
) -> None:
    bot = await make_bot(tmp_path, kind)
    world = bot.world
    world.broker.enter("AAPL", side, 10, 100)
    bot.tell()
    await bot.consume()
    for price in (100.5, 99.5, 97.9 if side == "long" else 102.1, 97.0 if side == "long" else 103.0):
        world.clock.move(60)
        bot.bar("AAPL", price)
        await bot.consume()
    assert [(o.symbol, str(o.side), o.qty) for o in world.orders] == [("AAPL", "sell" if side == "long" else "buy", 10)]
    world.broker.fill(world.last_order)
    bot.tell()
    await bot.consume()
    await world.until(lambda: world.state == "filled", seconds=20)
    assert world.broker.held("AAPL") == 0
    await world.finish()


@pytest.mark.parametrize("kind", KINDS)
async def test_given_fractions_as_floats_then_not_a_crumb_more_or_less_is_sold(tmp_path: Path, kind: Any) -> None:
    bot = await make_bot(tmp_path, kind)
    world = bot.world
    entry = world.broker.place("AAPL", "buy", "0.3", tell=False)
    for _ in range(3):
        world.broker.fill(entry, "0.1", "33.3333333")
        bot.tell()
        await bot.consume()
        world.clock.move(1)
    await world.passes(5)
    bot.bar("AAPL", 32.0)
    await bot.consume()
    assert [o.qty for o in world.orders] == [Decimal("0.3")]
    world.broker.fill(world.last_order)
    bot.tell()
    await bot.consume()
    await world.until(lambda: world.state == "filled", seconds=20)
    await world.finish()


async def test_given_a_broker_that_declares_nothing_when_all_goes_well_then_the_exit_is_like_any_other(
    tmp_path: Path,
) -> None:
    bot = await make_bot(tmp_path, UndeclaredBroker, capabilities=CAREFUL)
    world = bot.world
    world.broker.enter("AAPL", "long", 10, 100)
    bot.tell()
    await bot.consume()
    world.clock.move(60)
    bot.bar("AAPL", 98.0)
    await bot.consume()
    await world.until(lambda: world.orders, seconds=5)
    world.broker.fill(world.last_order, 4)
    world.broker.fill(world.last_order, 6)
    bot.tell()
    await bot.consume()
    await world.until(lambda: world.state == "filled", seconds=20)
    assert len(world.orders) == 1
    await world.finish()


async def test_given_a_broker_that_declares_nothing_when_an_answer_is_lost_then_nothing_is_sent_twice(
    tmp_path: Path,
) -> None:
    bot = await make_bot(tmp_path, UndeclaredBroker, capabilities=CAREFUL)
    world = bot.world
    world.broker.enter("AAPL", "long", 10, 100)
    bot.tell()
    await bot.consume()
    taken, calls = bot.broker.submit, []

    def loses(order: Any) -> Any:
        calls.append(order)
        taken(order)
        raise ConnectionResetError

    bot.broker.submit = loses  # type: ignore[method-assign, assignment]
    world.clock.move(60)
    bot.bar("AAPL", 98.0)
    await bot.consume()
    await world.until(lambda: world.state == "submitted", seconds=10)
    assert len(calls) == len(world.orders) == 1
    await world.finish()


async def test_given_a_client_that_repeats_its_posts_then_its_complaint_about_the_repetition_is_no_refusal(
    tmp_path: Path,
) -> None:
    bot = await make_bot(tmp_path, DictBroker)
    world = bot.world
    world.broker.enter("AAPL", "long", 10, 100)
    bot.tell()
    await bot.consume()
    once = bot.broker.submit

    def twice(order: Any) -> Any:
        once(order)
        return once(order)

    bot.broker.submit = twice  # type: ignore[method-assign, assignment]
    world.clock.move(60)
    bot.bar("AAPL", 98.0)
    await bot.consume()
    assert world.state == "submitted"
    assert len(world.orders) == 1
    await world.finish()


async def test_given_a_rejection_as_a_plain_answer_then_the_next_attempt_follows(tmp_path: Path) -> None:
    bot = await make_bot(tmp_path, DictBroker)
    world = bot.world
    world.broker.enter("AAPL", "long", 10, 100)
    bot.tell()
    await bot.consume()
    blocking = world.broker.place("AAPL", "sell", 10, client_order_id="by-hand")
    world.clock.move(60)
    bot.bar("AAPL", 98.0)
    await bot.consume()
    assert world.state == "rejected"
    world.broker.end_cancel(blocking)
    await world.until(lambda: world.orders, seconds=40)
    await world.finish()


# --- whole days -------------------------------------------------------------------------------------------------------


class Day:
    """A day of a bot that enters at random, on a venue that fills, half fills, expires and rejects at random."""

    def __init__(self, bot: Bot, seed: int, *, kind_of_fault: bool = True) -> None:
        self.bot, self.world, self.faults = bot, bot.world, kind_of_fault
        self.chance = random.Random(seed)
        self.prices = dict.fromkeys(SYMBOLS, 100.0)
        self.entry: dict[str, float] = {}
        self.late: dict[str, int] = defaultdict(int)

    async def live(self, minutes: int) -> None:
        """Let the minutes pass."""
        for _ in range(minutes):
            await self.world.passes(60, step=15)
            self._venue()
            for symbol in SYMBOLS:
                self.prices[symbol] = round(self.prices[symbol] * (1 + self.chance.uniform(-0.008, 0.008)), 2)
                for _ in range(self.chance.choice((1, 1, 1, 2))):
                    self.bot.bar(symbol, self.prices[symbol])
            self.bot.tell()
            await self.bot.consume()
            self._none_missing()
            self._enter()
            self.bot.tell()
            await self.bot.consume()
            self.world.broker.verify()

    async def end(self) -> None:
        """The venue becomes kind, and everybody gets out."""
        self.faults = False
        self.bot.disorder = None
        await self.world.manager.flatten_all("the end of the day")
        for _ in range(12):
            await self.world.passes(60, step=5)
            self._venue()
            self.bot.tell()
            await self.bot.consume()

    def _venue(self) -> None:
        for booked in self.world.broker.live_exits():
            luck = self.chance.random() if self.faults else 0.0
            if luck < 0.6:
                self.world.broker.fill(booked.order)
            elif luck < 0.8 and booked.leaves > 1:
                self.world.broker.fill(booked.order, 1)
            elif luck < 0.84:
                self.world.broker.expire(booked.order)
            elif luck < 0.88 and booked.filled == 0:
                self.world.broker.reject(booked.order, f"kind {self.chance.randrange(3)}")

    def _enter(self) -> None:
        for symbol in SYMBOLS:
            flat = self.world.broker.held(symbol) == 0 and not self.world.broker.live_exits(symbol)
            if flat and self.chance.random() < 0.3 and self.world.manager.may_enter(symbol):
                side = self.chance.choice(("buy", "sell"))
                qty = self.chance.randrange(2, 9)
                order = self.world.broker.place(symbol, side, qty)
                first = self.chance.randrange(1, qty)
                self.world.broker.fill(order, first)
                self.world.broker.fill(order)
                self.entry[symbol] = self.prices[symbol]

    def _none_missing(self) -> None:
        """A position well beyond its levels has an exit soon, or a person was told."""
        for symbol in SYMBOLS:
            held = self.world.broker.held(symbol)
            entry = self.entry.get(symbol, 100.0)
            gain = (self.prices[symbol] / entry - 1) * (1 if held > 0 else -1) if held else 0.0
            if held and (gain > 0.022 or gain < -0.012) and not self.world.broker.live_exits(symbol):
                self.late[symbol] += 1
                assert self.late[symbol] < 4 or self.world.manager.alarms(), f"{symbol}: {self.world.story()}"
            else:
                self.late[symbol] = 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_given_whole_days_of_disorder_then_orders_are_never_two_never_too_much_and_none_is_missing(
    tmp_path: Path, kind: Any, seed: int
) -> None:
    bot = await make_bot(tmp_path, kind, seed)
    day = Day(bot, seed)
    await day.live(60)
    await day.end()
    assert len(bot.world.orders) > 3
    for symbol in SYMBOLS:
        books = bot.world.broker
        flat = books.held(symbol) == 0
        alarmed = any(symbol in alarm.text for alarm in bot.world.manager.alarms())
        assert flat or alarmed, bot.world.story()
        if flat:
            assert executed(books, symbol, "buy") == executed(books, symbol, "sell")
    await bot.world.finish()


@pytest.mark.parametrize("kind", [DictBroker, DataclassBroker])
async def test_given_whole_days_and_crashes_then_orders_are_never_two_never_too_much_and_none_is_missing(
    tmp_path: Path, kind: Any
) -> None:
    bot = await make_bot(tmp_path, kind, 4)
    day = Day(bot, 4)
    for _ in range(12):
        await day.live(4)
        await bot.world.restart()
    await day.end()
    assert len(bot.world.orders) > 3
    for symbol in SYMBOLS:
        alarmed = any(symbol in alarm.text for alarm in bot.world.manager.alarms())
        assert bot.world.broker.held(symbol) == 0 or alarmed, bot.world.story()
    await bot.world.finish()


async def test_given_a_quiet_day_without_faults_then_everything_is_out_and_no_alarm_stands(tmp_path: Path) -> None:
    bot = await make_bot(tmp_path, DictBroker, 5)
    day = Day(bot, 5, kind_of_fault=False)
    await day.live(60)
    await day.end()
    assert bot.world.alarm_kinds == []
    assert all(bot.world.broker.held(symbol) == 0 for symbol in SYMBOLS)
    exits = [p for p in bot.world.ended() if p.state == "filled"]
    assert len(exits) == len(bot.world.orders) > 3
    await bot.world.finish()


async def test_given_a_bot_that_sells_its_position_itself_then_ours_is_over_and_nothing_is_sold_twice(
    tmp_path: Path,
) -> None:
    bot = await make_bot(tmp_path, BareBroker, capabilities=replace(GOOD, reduce_only=False))
    world = bot.world
    world.broker.enter("AAPL", "long", 10, 100)
    bot.tell()
    await bot.consume()
    own = world.broker.place("AAPL", "sell", 10, client_order_id="bot-own-exit")
    world.broker.fill(own, 10, 101)
    bot.tell()
    await bot.consume()
    world.clock.move(60)
    bot.bar("AAPL", 97.0)
    await bot.consume()
    await world.passes(400, step=5)
    assert world.orders == []
    assert [p.state for p in world.ended()] == ["closed"]
    assert world.alarm_kinds == []
    await world.finish()
