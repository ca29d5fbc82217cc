"""Fixtures for pytest. Nothing happens unless you ask for them: in your `conftest.py`,

    pytest_plugins = "exitfsm.testing.plugin"

- `exit_clock`: a clock that stands still until it is moved.
- `exit_store`: an empty store in a file of its own.
- `scripted_broker`: a broker whose books are true; when the test is over they must hold nothing that never may happen.
- `exit_manager`: makes a manager on all of these: `async with exit_manager(config=…) as manager:`.
- `alpaca_server`: a local Alpaca.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exitfsm.manager import ExitManager, ManualClock
from exitfsm.store import ExitStore
from exitfsm.testing.scripted import ScriptedBroker

if TYPE_CHECKING:
    from exitfsm.testing.alpaca_server import AlpacaServer

#: When the clock of a test begins: a Tuesday, an hour into the New York session.
START = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)
MakeManager = Callable[..., ExitManager]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker of the conformance cases known."""
    config.addinivalue_line("markers", "conformance: what every broker or store must pass")


@pytest.fixture
def exit_clock() -> ManualClock:
    """A clock that stands still until `move` or `move_to`."""
    return ManualClock(START)


@pytest.fixture
def exit_store(tmp_path: Path) -> Iterator[ExitStore]:
    """An empty store in a file of its own; at the end its chain must hold and its tables be those of its events."""
    with ExitStore(tmp_path / "exits.db") as store:
        yield store
        assert store.verify_chain() is None
        assert store.verify_read_models() == []


@pytest.fixture
def scripted_broker(exit_clock: ManualClock) -> Iterator[ScriptedBroker]:
    """A broker that does what the test says; at the end nothing may have happened that never may."""
    broker = ScriptedBroker(exit_clock)
    yield broker
    broker.verify()


@pytest.fixture
def exit_manager(exit_clock: ManualClock, exit_store: ExitStore, scripted_broker: ScriptedBroker) -> MakeManager:
    """Makes managers on the clock, the store and the broker of the test, or on what it is given instead."""

    def make(**options: Any) -> ExitManager:
        chosen: dict[str, Any] = {"broker": scripted_broker, "state_store": exit_store, "clock": exit_clock}
        return ExitManager(**(chosen | options))

    return make


@pytest.fixture
def alpaca_server() -> Iterator[AlpacaServer]:
    """A local Alpaca on a free port; `alpaca_server.environment` is what an adapter's settings are made of."""
    from exitfsm.testing.alpaca_server import AlpacaServer

    with AlpacaServer() as server:
        yield server
