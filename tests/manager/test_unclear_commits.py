"""A COMMIT that raises although it took place: what was decided stands, and memory must not know less than the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import World

from exitfsm import State, StoreError


def let_next_commit_be_unclear(world: World, *, tellable: bool = True) -> None:
    """The next append is stored, and raises all the same; `tellable`: the streams can be read after it."""
    store: Any = world.manager.store
    append_many, stream = store.append_many, store.stream
    unreadable = [] if tellable else ["once"]

    def unclear(batches: Any) -> Any:
        store.append_many = append_many
        append_many(batches)
        if not tellable:
            store.stream = refused
        raise StoreError("disk I/O error: whether it was stored is not known")

    def refused(*args: Any, **given: Any) -> Any:
        if unreadable:
            unreadable.pop()
            store.stream = stream
            raise StoreError("disk I/O error")
        return stream(*args, **given)

    store.append_many = unclear


async def test_an_exit_whose_commit_was_unclear_is_carried_out(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    let_next_commit_be_unclear(world)
    await world.bar("98.9")
    await world.bar("100")  # the price recovers: the decision stands
    assert world.state is State.SUBMITTED
    assert len(world.orders) == 1
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_position_whose_commit_was_unclear_is_watched(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    let_next_commit_be_unclear(world)
    await world.enter(10, at=100)
    await world.bar("98.9")
    assert world.state is State.SUBMITTED
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()


async def test_a_position_is_found_on_the_disk_when_nothing_could_be_read_after_its_commit(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.expected |= {"not_stored", "task_failed"}
    await world.start()
    let_next_commit_be_unclear(world, tellable=False)
    await world.enter(10, at=100, tell=False)
    await world.deliver()
    await world.until(world.manager.positions, 120)
    assert [p.position_id for p in world.manager.positions()] == world.manager.store.stream_ids()[:1]
    assert "epoch_unknown" not in world.alarm_kinds
    await world.bar("98.9")
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    await world.finish()
