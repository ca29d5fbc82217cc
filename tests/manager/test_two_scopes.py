"""Two bots by ids and a hand on one account, at random: neither sells more than its ids bought, and none of the hand's.

Independent of the rules: the truth is counted here, order by order, by whose it was.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness import T0, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scopes import BARE, BEHIND, GOOD, by, told, wants_one_exit_of_each

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("buy"), st.sampled_from(["A", "B", "hand"]), st.integers(1, 30), st.booleans()),
        st.tuples(st.just("sell"), st.sampled_from(["A", "B", "hand"]), st.integers(1, 30), st.booleans()),
        st.tuples(st.just("bar"), st.sampled_from(["A", "B"]), st.sampled_from([100, 99, 97]), st.booleans()),
        st.tuples(st.just("fill"), st.sampled_from(["A", "B"]), st.integers(1, 30), st.booleans()),
        st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 5, 60]), st.booleans()),
        st.tuples(st.just("restart"), st.sampled_from(["A", "B"]), st.just(0), st.booleans()),
    ),
    min_size=6,
    max_size=24,
)


class Account:
    """What each has truly bought and sold."""

    def __init__(self, bots: dict[str, World]) -> None:
        self.bots, self.broker = bots, bots["A"].broker
        self.has: Counter[str] = Counter()
        self.marks: dict[str, str] = {}
        self.number = 0

    def trade(self, who: str, side: str, qty: int) -> None:
        """By its own order; nobody sells more than is its own, nor a bot while an exit of it works."""
        if side == "sell":
            qty = min(qty, int(self.has[who] - self.sold(who)))
            if not qty or (who in self.bots and self.exits(who)):
                return
        self.number += 1
        self.has[who] += qty if side == "buy" else -qty
        order = self.broker.place("AAPL", side, qty, client_order_id=f"{who}-{self.number}", tell=False)
        self.broker.fill(order, qty, 100)

    def exits(self, who: str) -> list[Any]:
        """The working exits of a bot, by the mark in their ids."""
        mark = who_is(self.bots[who])
        return [b for b in self.broker.live_exits("AAPL") if b.order.client_order_id[3:8] == mark]

    def sold(self, who: str) -> Decimal:
        """What its exits have sold."""
        if who not in self.bots:
            return Decimal(0)
        mark = who_is(self.bots[who])
        return sum(
            (f.qty for f in self.broker.executions if (f.client_order_id or "")[3:8] == mark),
            Decimal(0),
        )

    def fill(self, who: str, qty: int) -> None:
        for booked in self.exits(who)[:1]:
            self.broker.fill(booked.order, min(Decimal(qty), booked.leaves), 97)

    def check(self) -> None:
        """What exits are to sell, and have sold, was bought by their bot's ids."""
        for who, bot in self.bots.items():
            working = sum((booked.leaves for booked in self.exits(who)), Decimal(0))
            assert self.sold(who) + working <= self.has[who], bot.story()


def who_is(bot: World) -> str:
    """The mark in the ids of its exits."""
    return bot.manager._made.context.scoped.scope.mark  # type: ignore[union-attr]


async def live(path: Path, steps: list[Any], capabilities: Any) -> None:
    bots: dict[str, World] = {}
    for name in "AB":
        (path / name).mkdir()
        bots[name] = bot = World(path / name, by(f"{name}-"), capabilities=capabilities, start=T0)
        first = bots["A"]
        bot.clock, bot.broker, bot.seen_by_manager = first.clock, first.broker, first.broker
        bot.manager = bot._new_manager()
    account = Account(bots)
    wants_one_exit_of_each(account.broker)
    for bot in bots.values():
        await bot.start()
    try:
        for what, who, number, is_told in steps:
            await step(account, what, who, number)
            if is_told:
                await told(*bots.values())
            account.broker.lose_updates()
            for bot in bots.values():
                await bot.settle()
            account.check()
        for bot in bots.values():
            await bot.passes(120, step=5)
        account.check()
        for name, bot in bots.items():
            left = sum((p.remaining_qty for p in bot.manager.positions()), Decimal(0))
            assert left == account.has[name] - account.sold(name) or bot.manager.alarms(), bot.story()
    finally:
        for bot in bots.values():
            await bot.finish()


async def step(account: Account, what: str, who: str, number: int) -> None:
    bot = account.bots.get(who, account.bots["A"])
    bot.clock.move(0.5)
    if what in ("buy", "sell"):
        account.trade(who, what, number)
    elif what == "fill":
        account.fill(who, number)
    elif what == "bar":
        await bot.bar(number)
    elif what == "restart":
        await bot.restart_in_order()  # the other one's tasks live in this process, too
    else:
        await bot.passes(number, step=max(1, number / 10))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS, st.sampled_from([GOOD, BARE, BEHIND]))
def test_neither_bot_sells_more_than_its_ids_bought(steps: list[Any], capabilities: Any) -> None:
    with tempfile.TemporaryDirectory() as path:
        asyncio.run(live(Path(path), steps, capabilities))
