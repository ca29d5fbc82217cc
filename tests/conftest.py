"""Settings of the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from postgres_server import Server, server

# `HYPOTHESIS_PROFILE=thorough pytest` looks twenty times harder, at other examples each time; the default keeps the
# suite quick, and tries the same examples each time, so that a change is judged by what it changed.
settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
settings.register_profile(
    "thorough",
    deadline=None,
    max_examples=1000,
    derandomize=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# For what runs the tests of the core again and again (mutation), or slowly (coverage).
settings.register_profile("brief", deadline=None, max_examples=10, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server for all tests of this process that need one; each takes a schema of its own."""
    with server() as running:
        yield running
