"""A store that the version before orders were kept one by one has left, with exits in flight: today's finishes them."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness import GOOD
from in_flight import FROZEN, STATES, Story, in_flight

from exitfsm import Engine, ExitStore, State
from exitfsm.audit import verify
from exitfsm.order_ids import form_of


def logged(path: Path) -> dict[str, list[object]]:
    """What lies in a store, stream by stream."""
    with ExitStore(path, read_only=True) as store:
        return {stream: [r.event for r in store.stream(stream)] for stream in store.stream_ids()}


async def come_to_an_end(story: Story) -> None:
    """The venue fills and ends what it has; where a person is needed, there is one."""
    world, venue = story.world, story.venue
    for _ in range(60):
        for booked in venue.live_exits():
            venue.fill(booked.order, price=venue.prices[booked.order.symbol])
        await world.deliver()
        await world.passes(60, step=20)
        for p in world.manager.positions():
            if p.state is State.MONITORING:
                await story.stopped(p.symbol)
            elif p.state is State.UNPROTECTED and not p.live_orders:
                await world.manager.force_exit(p.symbol)
        if not world.manager.positions():
            return


async def test_given_a_store_of_before_when_it_is_opened_then_every_exit_in_flight_is_finished_once(
    tmp_path: Path,
) -> None:
    story = await in_flight(tmp_path)
    world, venue = story.world, story.venue
    as_left = {p.position_id: p for p in world.manager.positions()}
    world.keep_files()
    assert logged(tmp_path / "exits-1.db") == logged(FROZEN)  # what is written today is what was written then

    await world.crash()
    for beside in ("", "-wal"):
        Path(f"{world.store_path}{beside}").unlink(missing_ok=True)
    shutil.copy(FROZEN, world.store_path)
    with ExitStore(world.store_path) as store:
        engine = Engine(store)
        engine.load()
        assert engine.positions == as_left
        assert verify(world.store_path).findings == []

    venue.truthful()
    venue.cancels = "at_once"
    in_the_air = {order.client_order_id for order in world.orders}
    venue.capabilities = GOOD  # what is opened from here on has ids of today
    await world.start()
    await world.enter(10, at=100, symbol="NEW")
    await come_to_an_end(story)
    assert world.manager.positions() == []
    ended = [*STATES, "NEW"]
    assert {p.symbol: p.state for p in world.ended()} == dict.fromkeys(ended, State.FILLED)
    assert venue.snapshot() == []
    sold = {p.symbol: p.sold_qty for p in world.ended()}
    assert sold == dict.fromkeys(ended, 10)
    forms = {p.symbol: {form_of(o.client_order_id) for o in p.orders} for p in world.ended()}
    assert forms == {symbol: {"xf1"} for symbol in STATES} | {"NEW": {"xf2"}}  # also those sent, or decided, after it
    again = [o.client_order_id for o in world.orders if o.client_order_id in in_the_air]
    assert sorted(again) == sorted(in_the_air)  # none of them was sent a second time
    path = world.store_path
    await world.finish()
    assert verify(path).findings == []
