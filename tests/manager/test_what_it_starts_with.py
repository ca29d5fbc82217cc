"""What a manager is started with: a broker or a bus that will not do is refused, and what lacks is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from exitfsm.errors import ConfigError
from exitfsm.manager import ExitManager
from exitfsm.values import ExecutionReport


class Sends:
    """It can be asked what it holds, and sent an order."""

    def positions(self) -> list[Any]:
        return []

    def submit_order(self, symbol: str, qty: float, side: str, client_order_id: str) -> str:
        return "their-id"


async def test_given_a_broker_that_cannot_be_asked_then_the_start_is_refused_and_nothing_is_made(
    tmp_path: Path,
) -> None:
    manager = ExitManager(object(), tmp_path / "exits.db")
    with pytest.raises(ConfigError, match=r"it has no positions\(\) .*\n.*it has no submit\(\)"):
        await manager.start()
    assert not (tmp_path / "exits.db").exists()
    assert manager.positions() == []


def told_of(manager: ExitManager) -> list[str]:
    """What an alarm says that the broker lacks."""
    return [alarm.text.split("(")[0] for alarm in manager.alarms() if alarm.kind == "broker_incomplete"]


async def test_given_a_broker_without_look_up_or_cancel_then_it_works_and_a_person_is_told(tmp_path: Path) -> None:
    async with ExitManager(Sends(), tmp_path / "exits.db") as manager:
        assert told_of(manager) == ["the broker has no order", "the broker has no cancel"]


async def test_given_a_broker_with_other_methods_at_the_next_start_then_these_are_asked(tmp_path: Path) -> None:
    """Whoever mends a broker between a stop and a start must not be told that it lacks what it has now."""
    broker, asked = Sends(), []

    def fetch_order(client_order_id: str) -> ExecutionReport | None:
        asked.append(client_order_id)
        return None

    manager = ExitManager(broker, tmp_path / "exits.db")
    await manager.start()
    assert not manager._calls.has("order")
    await manager.stop()
    broker.fetch_order = fetch_order  # type: ignore[attr-defined]
    await manager.start()
    assert await manager._calls.order("xf1-a-01") is None
    await manager.stop()
    assert asked == ["xf1-a-01"]


async def test_given_a_broker_mended_by_the_next_start_then_what_it_said_before_does_not_count(tmp_path: Path) -> None:
    class Unfinished(Sends):
        def fills(self, since: object) -> list[Any]:
            raise NotImplementedError

    broker = Unfinished()
    manager = ExitManager(broker, tmp_path / "exits.db")
    await manager.start()
    with pytest.raises(Exception, match="NotImplementedError"):
        await manager._calls.fills(manager._time.now())
    assert not manager._calls.has("fills")
    await manager.stop()
    broker.fills = lambda since: []  # type: ignore[method-assign]
    await manager.start()
    assert manager._calls.has("fills")
    assert await manager._calls.fills(manager._time.now()) == []
    await manager.stop()


class TwoArguments:
    def subscribe(self, kind: str, handler: Any) -> None:
        raise AssertionError("it must not be called")


@pytest.mark.parametrize("bus", [asyncio.Queue, TwoArguments])
async def test_given_a_bus_that_cannot_be_subscribed_to_then_the_start_is_refused(tmp_path: Path, bus: Any) -> None:
    with pytest.raises(ConfigError, match="pass None as event_bus"):
        await ExitManager(Sends(), tmp_path / "exits.db", bus()).start()
