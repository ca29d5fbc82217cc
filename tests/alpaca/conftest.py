"""The local Alpaca server, and a broker of ours on it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
from exitfsm_alpaca import Access, AlpacaBroker

from exitfsm.testing.alpaca_server import AlpacaServer

try:
    import_module("alpaca.trading")
    collect_ignore_glob = []
except ImportError:  # without the extra `alpaca` there is nothing to test here
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def server() -> Iterator[AlpacaServer]:
    with AlpacaServer() as running:
        yield running


@pytest.fixture
def access(server: AlpacaServer) -> Access:
    return Access.from_environment(server.environment)


@pytest.fixture
def broker(access: Access) -> Iterator[AlpacaBroker]:
    made = AlpacaBroker(access, timeout_s=(30.0, 30.0), requests_per_minute=10_000)
    yield made
    made.close()


@pytest.fixture
def impatient(access: Access) -> Iterator[AlpacaBroker]:
    """A broker that soon gives up, for servers that do not answer."""
    made = AlpacaBroker(access, timeout_s=(30.0, 1.0), requests_per_minute=10_000)
    yield made
    made.close()
