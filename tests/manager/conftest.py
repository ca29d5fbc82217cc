"""Worlds for the tests of the manager; each is checked when its test is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from harness import MakeWorld, World

from exitfsm.audit import verify


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[MakeWorld]:
    """Makes worlds with a started manager: `await make_world(config, plain=True, …)`."""
    made: list[World] = []

    async def make(config: dict[str, Any] | None = None, *, started: bool = True, **options: Any) -> World:
        path = tmp_path / str(len(made))
        path.mkdir()
        world = World(path, config, **options)
        made.append(world)
        if started:
            await world.start()
        return world

    yield make
    for world in made:
        await world.finish()
    for world in made[:: max(1, len(made) // 3)]:  # where a test makes many worlds, some of them
        if world.store_path.exists():
            assert verify(world.store_path).findings == []
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("exitfsm")]
    assert not left, left


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """A world with the defaults, in which the bot holds 10 AAPL bought at 100."""
    made = await make_world()
    await made.enter()
    return made
