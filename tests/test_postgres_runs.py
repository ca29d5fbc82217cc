"""Whole runs on PostgreSQL: the same decisions, the same bytes and the same chain head as on a file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Server
from simulation import Day
from simulation import day as day_module
from simulation import disk as disk_module
from simulation import faults as faults_module
from store_engines import Postgres

from exitfsm.control import ControlError, connect, serve
from exitfsm.manager import ExitManager, SystemClock
from exitfsm.store import ExitStore
from exitfsm.testing import ScriptedBroker

pytest.importorskip("psycopg")
pytestmark = pytest.mark.postgres


@pytest.fixture
def on(postgres_server: Server) -> Iterator[Postgres]:
    made = Postgres(postgres_server)
    yield made
    made.close()


@pytest.fixture
def without_file_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's disk is not put back, lost or written over by a test."""
    for name in ("power", "store lost", "store damaged"):
        monkeypatch.setitem(faults_module.CHANCES, name, 0.0)
    monkeypatch.setattr(ExitStore, "settle", lambda _: None)  # on a file it is a transaction more, which may fail
    monkeypatch.setattr(
        ExitStore, "heart", lambda _: None
    )  # a thread more, which draws delays from the seed as others do


class OnServer:
    """In the place of `ExitStore`: what is opened as a file is a schema of its own on a server."""

    def __init__(self, on: Postgres) -> None:
        self._on = on

    def url(self, path: Path) -> str:
        return f"{self._on.url}_{path.stem.lower().replace('-', '_')}"

    def __call__(self, path: Path, **options: Any) -> ExitStore:
        path.touch()
        store = ExitStore(self.url(path), **options)
        db: Any = store._open_db()
        db._address = db._address._replace(shown=str(path))  # what is said of it is part of what is compared
        return store


@pytest.mark.slow
@pytest.mark.usefixtures("without_file_faults")
@pytest.mark.parametrize(
    ("seed", "number", "size"),
    [
        (5, 0, {"symbols": 8, "minutes": 6}),
        (5, 2, {"symbols": 8, "minutes": 6}),
        pytest.param(
            *(1, 0, {}),
            marks=pytest.mark.skipif("EXITFSM_DEEP" not in os.environ, reason="a day of full size: set EXITFSM_DEEP=1"),
        ),
    ],
)
@pytest.mark.timeout(3600)
def test_a_day_of_the_simulation_is_the_same_day(on, monkeypatch, seed, number, size):
    heads: list[list[Any]] = []

    def run() -> str:
        day = Day(seed, number, **size)
        kept: list[Any] = []

        def keep(disk: Any) -> None:
            with disk_module.ExitStore(disk.path) as store:
                kept.append((store.chain_head(), [r.event for r in store.events()]))
            close(disk)

        close = disk_module.Disk.close
        with monkeypatch.context() as m:
            m.setattr(disk_module.Disk, "close", keep)
            result = day.run()
        assert result.violation is None, result.violation
        assert result.exits > 0
        heads.append(kept)
        print(f"{day.profile.symbols} symbols, {day.profile.minutes} minutes, {result.events} events, {kept[0][0]}")
        return result.digest

    on_file = run()
    server = OnServer(on)
    monkeypatch.setattr(disk_module, "ExitStore", server)
    monkeypatch.setattr(day_module, "ExitStore", server)
    assert run() == on_file
    assert heads[0] == heads[1]
    assert heads[0][0][0][0] > 50


@pytest.mark.slow
@pytest.mark.skipif("EXITFSM_DEEP" not in os.environ, reason="takes a minute: set EXITFSM_DEEP=1")
def test_a_restarted_manager_goes_on_as_on_a_file():
    """The tests of restarts, as they are, on PostgreSQL."""
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "postgres_worlds", "manager/test_restart.py"]
    environment = {**os.environ, "PYTHONPATH": str(here)}
    run = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]


async def test_a_manager_on_a_server_is_steered_by_the_url_that_it_was_given(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema is the account's, which a client does not know; two accounts on one server are told apart."""
    short = tempfile.TemporaryDirectory()  # the address of a socket has some 100 bytes
    monkeypatch.setenv("XDG_RUNTIME_DIR", short.name)
    import psycopg

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE steered")  # without the stores of other tests
    url = f"{postgres_server.url.rpartition('/')[0]}/steered"
    managers = [ExitManager(ScriptedBroker(SystemClock()), url, account=account) for account in ("one", "other")]

    def pids(store: str) -> int:
        return int(connect(store, patience_s=5).standing().data["pid"])

    async with managers[0], serve(managers[0]):
        spellings = (url, url.replace("postgresql:", "postgres:"), url.replace("postgres@", "postgres:any@"))
        for spelling in spellings:
            assert await asyncio.to_thread(pids, spelling) == os.getpid()
        async with managers[1], serve(managers[1]):
            with pytest.raises(ControlError, match="name the schema"):
                await asyncio.to_thread(pids, url)
            schema = managers[1].store.where.rpartition("=")[2]
            assert await asyncio.to_thread(pids, f"{url}?exitfsm_schema={schema}") == os.getpid()
    with pytest.raises(ControlError, match=r"no manager of .* was found on this machine") as nobody:
        await asyncio.to_thread(pids, url)
    assert "nobody drives" not in str(nobody.value)
    short.cleanup()
