"""The broker's own reason stands everywhere: in the event, the alarm, the status, the history and the log."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest
from harness import World

from exitfsm import OrderRefused
from exitfsm.errors import BrokerError
from exitfsm.testing import Raises

MakeWorld = Callable[..., Awaitable[World]]


async def shown(world: World, *command: str) -> str:
    """What a command of the line shows of the store, wide enough for every word."""
    env = {"COLUMNS": "200", "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "exitfsm", command[0], str(world.store_path), *command[1:]],
        capture_output=True, text=True, check=True, env=env,
    )  # fmt: skip
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "text", "how"),
    [("halted", "trading in AAPL is paused", "postponed"), ("not_tradable", "AAPL cannot be traded here", "refused")],
)
async def test_a_refusal_is_shown_wherever_a_person_looks(world: World, code: str, text: str, how: str) -> None:
    await world.enter()
    world.broker.always("submit", Raises(OrderRefused(code, text)))
    await world.bar(98)
    await world.passes(3)
    name = world.position.client_order_id
    status = await shown(world, "status")
    assert f"{code}: {text}" in status
    assert f"order {name}" in status
    (held,) = json.loads(await shown(world, "status", "--json"))["positions"]
    assert held["refusal"] | {"again_from": None} == {
        "client_order_id": name, "how": how, "refusal": code, "text": text, "again_from": None,
    }  # fmt: skip
    assert text in await shown(world, "history")
    assert any("submit id=" in line and text in line for line in world.heard.lines)
    world.broker.always("submit", None)
    await world.until(lambda: world.state == "submitted", 120)
    if how == "postponed":  # it was taken at last
        assert text not in await shown(world, "status")


async def test_an_attempt_that_was_refused_is_remembered_while_the_next_one_works(world: World) -> None:
    await world.enter()
    world.broker.answer("submit", Raises(OrderRefused("not_tradable", "not now")))
    await world.bar(98)
    await world.until(lambda: world.state == "submitted", 120)
    assert "(not_tradable: not now)" in await shown(world, "status")


async def test_the_second_refusal_alarms_with_the_brokers_reason(world: World) -> None:
    await world.enter()
    world.broker.always("submit", Raises(OrderRefused("not_tradable", "AAPL cannot be traded here")))
    await world.bar(98)
    await world.until(lambda: "protection_lost" in world.alarm_kinds, 200)
    assert "not_tradable" in await shown(world, "status")
    (alarm,) = [a for a in world.manager.alarms() if a.kind == "protection_lost"]
    assert "AAPL cannot be traded here" in alarm.text


async def test_what_a_send_of_unknown_outcome_ended_with_is_said(world: World) -> None:
    await world.enter()
    world.broker.always("submit", Raises(BrokerError("the gateway answered 504: upstream is gone")))
    world.broker.always("order", Raises(ConnectionError()))
    await world.bar(98)
    await world.passes(150)
    said = [a.text for a in world.manager.alarms() if a.kind == "submit_unresolved"]
    assert "504: upstream is gone" in said[0]
    assert "504: upstream is gone" in await shown(world, "status")
    assert "504: upstream is gone" in await shown(world, "history")
