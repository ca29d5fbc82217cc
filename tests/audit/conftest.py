"""Stores to audit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exitfsm_csv import read_bars
from stores import REAL_BARS, TRAILING, troubled, wander

from exitfsm import Bar, ExitStore, load_config
from exitfsm.simulate import SimulationResult, simulate

Make = Callable[..., SimulationResult]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Simulate into `tmp_path / name`; returns the result."""

    def run(name: str = "exits.db", config: dict[str, Any] | None = None, **options: Any) -> SimulationResult:
        bars = options.pop("bars", None)
        with ExitStore(tmp_path / name) as store:
            settings = load_config(TRAILING if config is None else config)
            options.setdefault("re_enter", True)
            return simulate(bars if bars is not None else wander(), settings, store=store, **options)

    return run


@pytest.fixture
def exits(tmp_path: Path, make: Make) -> Path:
    """The path of a store with some hundred events, and trouble among them."""
    make(broker=troubled())
    return tmp_path / "exits.db"


@pytest.fixture(scope="session")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a store with a thousand events and a few more."""
    path = tmp_path_factory.mktemp("thousand") / "exits.db"
    with ExitStore(path) as store:
        simulate(wander(4, 450), load_config(TRAILING), store=store, re_enter=True, broker=troubled())
        assert store.count() >= 1000
    return path


@pytest.fixture(scope="session")
def real_bars() -> list[Bar]:
    """The real bars of all symbols, file by file."""
    if not REAL_BARS.is_dir():
        pytest.skip(f"the real bars are not here: {REAL_BARS}")
    return list(read_bars(*sorted(REAL_BARS.glob("*.csv"))))
