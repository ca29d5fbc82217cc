"""The manager's own tests on PostgreSQL: `pytest -p postgres_worlds tests/manager` (with `tests` on PYTHONPATH).

What they open as a file is a schema of its own on one server, and a crash copies the store as it is committed. Nine
tests of `test_keeping_bars` fail: they look for a file beside the store, which there is not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import server

from exitfsm.store import ExitStore
from exitfsm.store.copying import copy_store

sys.path.insert(0, str(Path(__file__).parent / "manager"))


@pytest.fixture(scope="session", autouse=True)
def worlds_on_postgresql() -> Iterator[None]:
    """Every store that is opened as a file lies on a server."""
    import harness

    names: dict[Path, str] = {}
    open_store = ExitStore.__init__

    def keep_files(world: Any) -> None:
        following = world.path / f"exits-{world._generation + 1}.db"
        if world.store_path.exists():
            with ExitStore(world.store_path, read_only=True) as source, ExitStore(following) as target:
                copy_store(source, target)

    with server() as running, pytest.MonkeyPatch.context() as patched:

        def opened(store: ExitStore, url: Any, **options: Any) -> None:
            if isinstance(url, Path):
                if not options.get("read_only"):
                    url.touch()
                url = f"{running.url}?exitfsm_schema={names.setdefault(url, f'w{len(names)}')}"
            open_store(store, url, **options)

        patched.setattr(ExitStore, "__init__", opened)
        patched.setattr(harness.World, "keep_files", keep_files)
        yield
