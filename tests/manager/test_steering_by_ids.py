"""Commands from outside in scope by ids: they mean what the bot's ids bought, and say what they do not mean."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from harness import MakeWorld, World
from scopes import by, told
from test_by_ids import beside_a_hand, buys
from test_steering import fill_all, flattening, give, steered


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside the store is this test's own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


async def beside(make_world: MakeWorld) -> World:
    world = await beside_a_hand(make_world, by("A-"))
    await buys(world, 10, "A-1")
    return world


@pytest.mark.parametrize("everything", [False, True])
async def test_flatten_sells_what_the_ids_bought_and_lists_the_rest(make_world: MakeWorld, everything: bool) -> None:
    """What a hand bought cannot be told to an order of ours: asked to sell it, too, the answer is no, and why."""
    world = await beside(make_world)
    async with steered(world):
        pressed = await flattening(world, all_positions=everything)
        while not world.orders:
            await asyncio.sleep(0.005)
        await fill_all(world)
        answer = await pressed
    assert [(order.symbol, order.qty) for order in world.orders] == [("AAPL", 10)]
    assert world.broker.held("AAPL") == 90
    assert answer.code == (1 if everything else 0)
    why = "90 are held on: manage.owner is ids" if everything else "AAPL 90"
    assert any(why in line for line in answer.lines), answer.lines


async def test_exit_and_adopt_mean_what_the_ids_bought(make_world: MakeWorld) -> None:
    world = await beside(make_world)
    async with steered(world):
        adopted = await give(world, lambda control: control.adopt("AAPL", reason="all of it"))
        assert (adopted.code, adopted.lines) == (
            0, ("AAPL: what the bot's ids bought of it is managed already; nothing was done",),
        )  # fmt: skip
        await give(world, lambda control: control.exit("AAPL", reason="out"))
        await world.until(lambda: world.orders)
    assert [(order.symbol, order.qty) for order in world.orders] == [("AAPL", 10)]


async def test_what_is_ignored_is_neither_watched_nor_flattened_and_is_back_once_it_is_adopted(
    make_world: MakeWorld,
) -> None:
    world = await beside(make_world)
    async with steered(world):
        assert (await give(world, lambda control: control.ignore("AAPL", reason="mine"))).code == 0
        assert world.manager.positions() == []
        answer = await give(world, lambda control: control.flatten(reason="out", timeout_s=2.0))
        assert (answer.code, world.orders) == (0, [])
        assert [line.partition(" by ")[0] for line in answer.lines] == ["not managed: AAPL 100, ignored"]
        world.clock.move(5)
        world.broker.enter("AAPL", "long", 5, 100, client_order_id="A-2")
        await told(world)
        world.clock.move(5)
        assert world.manager.positions() == []
        back = await give(world, lambda control: control.adopt("AAPL", reason="watch it again"))
        assert back.code == 0, back.lines
        await world.until(lambda: [p.remaining_qty for p in world.manager.positions()] == [15], seconds=120)
    assert world.orders == []
