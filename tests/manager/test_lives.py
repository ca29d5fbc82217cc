"""Sixteen tricky lives: what is said of each agrees with the venue's own fills, and with itself, everywhere.

The figures are reckoned here once more, from the venue's executions alone: what was bought or opened moves the average
entry, what an order of ours sold is held against the average of its time, what others sold has no part in it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from harness import T0, MakeWorld, World
from msgspec.structs import replace

from exitfsm import ExitStore
from exitfsm.audit import explain, export_jsonl, position_at, sentences, steps, trail, whatif
from exitfsm.audit.telling import as_dict
from exitfsm.audit.trail import time_of
from exitfsm.errors import OrderRefused
from exitfsm.order_ids import looks_like_exit
from exitfsm.position import fold
from exitfsm.profit import money
from exitfsm.recorded_bars import bars_path, recorded_bars
from exitfsm.report import index_page
from exitfsm.testing.scripted import Raises

D = Decimal
LIMIT = {"profit_taking": {"order_type": "limit"}}


class Truth(NamedTuple):
    """What our orders sold of a symbol since it was flat, and what that gained."""

    qty: Decimal
    pnl: Decimal
    cost: Decimal


def truth(world: World, symbol: str, corrected: dict[str, Decimal], splits: list[tuple[int, Decimal]]) -> list[Truth]:
    """One for each time that the symbol was held, oldest first; by the venue's executions and nothing of ours."""
    found, held, average = [], D(0), D(0)
    qty = pnl = cost = D(0)
    ratios = dict(splits)
    for number, fill in enumerate([f for f in world.broker.executions if f.symbol == symbol]):
        if number in ratios:
            held, average = held * ratios[number], average / ratios[number]
        signed = fill.qty if str(fill.side) == "buy" else -fill.qty
        ours = looks_like_exit(fill.client_order_id)
        price = corrected.get(fill.client_order_id or "", fill.price)
        if held == 0 or (held > 0) == (signed > 0):
            average = (abs(held) * average + fill.qty * price) / (abs(held) + fill.qty)
        elif ours:
            sign = 1 if held > 0 else -1
            qty, pnl, cost = qty + fill.qty, pnl + sign * fill.qty * (price - average), cost + fill.qty * average
        held += signed
        if held == 0:
            found.append(Truth(qty, pnl, cost))
            qty = pnl = cost = D(0)
    return found


# --- the lives --------------------------------------------------------------------------------------------------------


async def over(world: World) -> None:
    await world.until(lambda: world.manager.positions() == [], seconds=400, step=5)


async def give_up(world: World, *, filled: int = 0) -> None:
    """The stop is reached, its order sells `filled`, and no further one is taken: unprotected."""
    await world.bar(98.5)
    if filled:
        world.broker.fill(world.last_order, filled, D("98.4"))
        await world.deliver()
    world.broker.always("submit", Raises(OrderRefused("margin", "no margin")))
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.until(lambda: str(world.state) == "unprotected", seconds=400, step=5)
    world.broker.always("submit", None)


async def a_stop(world: World) -> None:
    await world.bar(98.5)
    await world.fill(price=D("98.4"))


async def a_profit_in_parts(world: World) -> None:
    await world.bar(102.5)
    await world.fill(3, D("102.4"))
    await world.fill(7, D("102.1"))


async def an_order_that_expires(world: World) -> None:
    await world.bar(98.5)
    await world.fill(4, D("98.4"))
    world.broker.expire(world.last_order)
    await world.deliver()
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    await world.fill(price=D("97.125"))


async def a_top_up(world: World) -> None:
    await world.bar(101)
    world.broker.trade_by_hand("AAPL", "buy", 5, 104)
    await world.until(lambda: world.position.remaining_qty == 15, seconds=200, step=5)
    await world.bar(99)
    await world.fill(price=D(99))


async def part_by_hand(world: World) -> None:
    world.broker.trade_by_hand("AAPL", "sell", 4, 101)
    await world.until(lambda: world.position.remaining_qty == 6, seconds=200, step=5)
    await world.bar(98.5)
    await world.fill(price=D("98.4"))


async def part_ours_rest_by_hand(world: World) -> None:
    await world.bar(98.5)
    await world.fill(4, D("98.4"))
    world.broker.expire(world.last_order)
    await world.deliver()
    world.broker.trade_by_hand("AAPL", "sell", 6, D("98.2"))


async def all_by_hand(world: World) -> None:
    world.broker.trade_by_hand("AAPL", "sell", 10, 101)


async def a_release(world: World) -> None:
    await give_up(world)
    await world.manager.release(world.position)
    await world.bar(100)
    await world.bar(102.5)
    await world.fill(price=D("102.5"))


async def a_release_after_a_part_and_a_top_up(world: World) -> None:
    await give_up(world, filled=4)
    world.broker.trade_by_hand("AAPL", "buy", 10, 90)
    await world.manager.release(world.position)
    await world.bar(94)
    await world.bar(96)
    await world.fill(price=D(96))


async def a_release_and_the_rest_by_hand(world: World) -> None:
    await give_up(world, filled=4)
    await world.manager.release(world.position)
    world.broker.trade_by_hand("AAPL", "sell", 6, 101)


async def a_target_overtaken(world: World) -> None:
    await world.bar(102.5)
    await world.bar(98.5)
    world.broker.end_cancel(world.last_order)
    await world.deliver()
    await world.until(lambda: len(world.orders) == 2, seconds=60)
    await world.fill(price=D("98.5"))


async def a_forced_exit(world: World) -> None:
    await world.bar(D("100.5"))
    await world.manager.force_exit("AAPL", "enough")
    await world.settle()
    await world.fill(price=D("100.5"))


async def a_trailing_stop(world: World) -> None:
    for price in (102, 105, 110):
        await world.bar(price)
    await world.bar(104)
    await world.fill(price=D("103.9"))


async def two_lives(world: World) -> None:
    await a_stop(world)
    await over(world)
    await world.passes(400, 20)
    await world.enter(5, 98)
    await world.bar(101)
    await world.fill(price=D("100.9"))


async def a_short(world: World) -> None:
    await world.bar(97)
    await world.fill(1, D("96.9"))
    await world.fill(2, D("97.2"))


async def a_coin(world: World) -> None:
    await world.bar(1950, "ETH/USD")
    await world.fill(price=D("1950.05"))


async def a_split(world: World) -> None:
    await world.bar(101)
    world.broker.split("AAPL", 10)
    await world.until(lambda: world.position.remaining_qty == 100, seconds=400, step=5)
    await world.bar(D("9.8"))
    await world.fill(price=D("9.8"))


class Life(NamedTuple):
    live: Callable[[World], Awaitable[None]]
    config: dict[str, Any] = {}  # noqa: RUF012  a default, never changed
    qty: Decimal | int = 10
    at: Decimal | int = 100
    symbol: str = "AAPL"
    side: str = "long"
    by_hand: int = 0
    splits: tuple[tuple[int, Decimal], ...] = ()


TRAIL = {
    "trailing_stop": {"enabled": True, "activation_pct": 1, "trail_pct": 5},
    "profit_taking": {"threshold_pct": 50},
}
LIVES = {
    "a stop": Life(a_stop),
    "a profit in parts": Life(a_profit_in_parts),
    "an order that expires": Life(an_order_that_expires),
    "a top-up": Life(a_top_up),
    "part by hand": Life(part_by_hand, by_hand=4),
    "part ours, the rest by hand": Life(part_ours_rest_by_hand, by_hand=6),
    "all by hand": Life(all_by_hand, by_hand=10),
    "a release": Life(a_release),
    "a release after a part and a top-up": Life(a_release_after_a_part_and_a_top_up),
    "a release, and the rest by hand": Life(a_release_and_the_rest_by_hand, by_hand=6),
    "a target overtaken": Life(a_target_overtaken, LIMIT),
    "a forced exit": Life(a_forced_exit),
    "a trailing stop": Life(a_trailing_stop, TRAIL),
    "two lives": Life(two_lives),
    "a short": Life(a_short, qty=3, side="short"),
    "a coin": Life(a_coin, qty=D("0.123456789012345678"), at=2000, symbol="ETH/USD"),
    "a split": Life(a_split, splits=((1, D(10)),)),
}


@pytest.mark.parametrize("name", LIVES)
async def test_given_a_tricky_life_then_everything_said_of_it_agrees_with_the_venue(
    name: str, make_world: MakeWorld
) -> None:
    life = LIVES[name]
    world = await make_world(life.config)
    await world.enter(life.qty, life.at, symbol=life.symbol, side=life.side)
    await life.live(world)
    await over(world)
    await world.stop()
    right = truth(world, life.symbol, {}, list(life.splits))
    with ExitStore(world.store_path, read_only=True) as store:
        rows = store.positions(symbol=life.symbol)
        assert len(rows) == len(right)
        for row, true in zip(rows, right, strict=True):
            agrees(store, row.position_id, true, D(life.by_hand))
            as_of_agrees(store, row.position_id)


def agrees(store: ExitStore, key: str, true: Truth, by_hand: Decimal, *, corrected: bool = False) -> None:
    """`explain`, its JSON, the history, the index, the export and the two tables say the same, and the truth."""
    pct = (true.pnl * 100 / true.cost).quantize(D("0.0001")) if true.cost else None
    pnl = true.pnl if true.cost else None
    found = explain(store, key)
    outcome = found.outcome
    assert outcome is not None
    assert (outcome.qty, outcome.pnl_pct, outcome.by_hand_qty) == (true.qty, pct, by_hand)
    # The broker rounds its own average, and that is the entry.
    assert (pnl is None) == (outcome.pnl is None)
    assert pnl is None or outcome.pnl is None or abs(outcome.pnl - pnl) < D("1e-6")
    pnl = outcome.pnl
    data = as_dict(found)["outcome"]
    assert (data["pnl"] and D(data["pnl"]), data["pnl_pct"] and D(data["pnl_pct"])) == (pnl, pct)
    told, text = trail(store, key), " ".join(sentences(found))
    end = next(s.words for s in reversed(told) if s.moved)
    for where in (text,) if corrected else (text, end):
        assert pnl is None or f"({money(pnl)})" in where
    if by_hand:
        assert "by a manual trade" in text
    assert f"{found.symbol} {found.side} " in text
    line = next(one for one in _index(store)["positions"] if one["position_id"] == key)
    assert (line["pnl"] and D(line["pnl"]), D(line["sold_qty"]), D(line["by_hand_qty"])) == (pnl, true.qty, by_hand)
    orders = [o for o in store.exit_orders(found.symbol) if o.position_id == key]
    row = next(p for p in store.positions() if p.position_id == key)
    assert sum((o.filled_qty for o in orders), D(0)) == row.sold_qty == true.qty
    fills: dict[str, Decimal] = {}
    for line in map(json.loads, export_jsonl(store)):
        if line["stream_id"] == key and line["event"] == "fills_recorded.v1":
            fills[line["fields"]["client_order_id"]] = D(line["fields"]["filled_qty"])
    assert sum(fills.values(), D(0)) == true.qty


def _index(store: ExitStore) -> dict[str, Any]:
    page = index_page(store)
    begin = page.index('{"format":"exitfsm.index.v1"')
    return json.JSONDecoder().raw_decode(page[begin:])[0]  # type: ignore[no-any-return]


def as_of_agrees(store: ExitStore, key: str) -> None:
    """Between every two events, as of then is what the events until then make."""
    recorded = store.stream(key)
    assert position_at(store, key, T0.replace(year=1999)) is None
    for one, following in pairwise(recorded):
        if one.at_ns // 1000 < following.at_ns // 1000:
            known = [r.event for r in recorded[: one.version]]
            assert position_at(store, key, time_of(one)) == fold(None, known)
    assert position_at(store, key, time_of(recorded[-1])) == steps(recorded)[-1].after


async def test_given_a_price_corrected_after_the_end_then_the_figures_follow(world: World) -> None:
    await a_stop(world)
    await over(world)
    order = world.last_order.client_order_id
    booked = world.broker.booked(order)
    assert booked is not None
    report = replace(booked.report(corrected=True), avg_fill_price=D("98.9"))
    await world.manager.on_order_update(report)
    await world.settle()
    assert world.alarm_kinds == ["fill_corrected"]
    right = truth(world, "AAPL", {order: D("98.9")}, [])[0]
    agrees(world.manager.store, world.position.position_id, right, D(0), corrected=True)


async def test_given_a_life_then_explain_names_the_entry_as_it_was_and_what_changed_it(make_world: MakeWorld) -> None:
    said: dict[str, str] = {}
    for name in ("a split", "a top-up", "part by hand", "a release after a part and a top-up", "a target overtaken"):
        life = LIVES[name]
        world = await make_world(life.config)
        await world.enter()
        await life.live(world)
        await over(world)
        said[name] = " ".join(sentences(explain(world.manager.store, world.position.position_id)))
        assert "AAPL long 10 was entered at 100 on " in said[name]
    assert "It was split, or the like, at " in said["a split"]
    assert "5 more was bought at " in said["a top-up"]
    assert "4 was sold by a manual trade, price not recorded, at " in said["part by hand"]
    released = said["a release after a part and a top-up"]
    assert released.index("It was exited by stop_loss") < released.index("It was released by")
    assert released.index("It was released by") < released.index("It was exited by profit_take")
    assert "stop_loss overtook it at " in said["a target overtaken"]
    assert "98.5, at or below the stop at 99 (1 %)" in said["a target overtaken"]


@pytest.mark.parametrize(
    "name", ["a release", "a split", "a forced exit", "a top-up", "part by hand", "a trailing stop"]
)
async def test_given_a_tricky_life_then_the_unchanged_policy_decides_the_same_again(
    name: str, make_world: MakeWorld
) -> None:
    life = LIVES[name]
    world = await make_world({**life.config, "record_bars": True})
    await world.enter()
    await life.live(world)
    await over(world)
    await world.stop()
    with ExitStore(world.store_path, read_only=True) as store:
        path = bars_path(store)
        assert path is not None
        found = whatif(store, lambda: recorded_bars(path))
    assert found.reproduced, [p.first_difference for p in found.positions]


async def test_given_a_wait_between_events_then_explain_as_of_then_knows_no_more(world: World) -> None:
    await a_stop(world)
    await over(world)
    key = world.position.position_id
    for step in trail(world.manager.store, key):
        assert explain(world.manager.store, key, at=step.at).as_of == step.at
    first = world.manager.store.stream(key)[0]
    early = explain(world.manager.store, key, at=time_of(first))
    assert (early.exit, early.outcome, early.profit.qty) == (None, None, 0)
