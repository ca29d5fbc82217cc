"""What lies beside the log, old copies, and files: none of it stops the bot or an answer, and none is written over."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from harness import World

from exitfsm import Bar, ExitStore
from exitfsm.aio import loops
from exitfsm.cli import BAD_INPUT, main
from exitfsm.errors import StoreDamaged, StoreError, StoreLocked
from exitfsm.manager import ExitManager
from exitfsm.store.backing_up import back_up
from exitfsm.store.mending import mend


def damage(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE position_tracking SET last_evaluated_at_utc = 'x'",
        "UPDATE position_tracking SET current_price = 'abc', qty = 'abc'",
        "UPDATE positions SET opened_at_utc = 'nonsense'",
        "UPDATE positions SET qty = 'abc'",
        "UPDATE positions SET cooldown_until_utc = 7",
        "INSERT INTO alarms VALUES ('a', 'b', 'k', 't', '9999-12-31T23:59:59-23:00', NULL, NULL)",
    ],
)
async def test_given_damage_beside_the_log_when_started_then_it_is_mended_with_an_alarm(
    world: World, statement: str
) -> None:
    await world.stop()
    damage(world.store_path, statement)
    with ExitStore(world.store_path, read_only=True) as store:
        assert store.count() == 1
    world.manager = world._new_manager()
    await world.start()
    assert [p.symbol for p in world.manager.positions()] == ["AAPL"]
    assert set(world.alarm_kinds) == {"store_mended"}
    await world.bar(98)
    assert len(world.orders) == 1
    await world.fill()


async def test_given_damage_beside_the_log_then_a_reader_says_file_row_and_what_to_do(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.stop()
    damage(world.store_path, "UPDATE positions SET qty = 'abc'")
    with ExitStore(world.store_path, read_only=True) as store, pytest.raises(StoreDamaged, match="of positions cannot"):
        store.positions()
    assert main(["status", str(world.store_path)]) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(world.store_path) in said
    assert main(["verify", str(world.store_path)]) == 1
    world.manager = world._new_manager()
    await world.start()


async def test_given_a_sound_store_then_nothing_is_mended(world: World) -> None:
    assert mend(world.manager.store) == []


async def test_given_a_damaged_bar_then_the_rest_of_the_answer_is_given(
    make_world, capsys: pytest.CaptureFixture[str]
) -> None:
    world = await make_world({"record_bars": True})
    await world.enter()
    for price in (100, 101, 98):
        await world.bar(price)
    await world.fill()
    await world.until(lambda: world.manager.positions() == [], seconds=60)
    await world.stop()
    bars = world.store_path.with_name(world.store_path.name + ".bars")
    damage(bars, "UPDATE bars SET close = 'abc' WHERE id = 2")
    assert main(["explain", str(world.store_path), "AAPL"]) == 0
    out, err = capsys.readouterr()
    assert f"{bars}: the bar in row 2 cannot be read" in err
    assert err.count("\n") == 1
    assert "It was exited by stop_loss" in out


# --- old copies, backups ----------------------------------------------------------------------------------------------


async def test_given_an_old_copy_put_back_then_the_exit_done_since_is_caught_up(world: World) -> None:
    await world.stop()
    copy = world.path / "copy.db"
    with ExitStore(world.store_path, read_only=True) as store:
        back_up(store, copy)
    world.manager = world._new_manager()
    await world.start()
    await world.bar(98)
    await world.fill()
    await world.until(lambda: world.manager.positions() == [], seconds=60)
    await world.stop()
    for suffix in ("-wal", "-shm"):
        Path(f"{world.store_path}{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, world.store_path)
    world.manager = world._new_manager()
    await world.start()
    await world.until(lambda: world.manager.positions() == [], seconds=300, step=5)
    assert (str(world.state), str(world.position.reason), len(world.orders)) == ("filled", "recovered", 1)
    assert "protection_lost" not in world.alarm_kinds


async def test_given_a_bot_that_runs_then_a_backup_is_whole_private_and_never_written_over(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = world.path / "copy.db"
    assert main(["backup", str(world.store_path), str(copy)]) == 0
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(p.name for p in world.path.iterdir() if "copy" in p.name or "backup" in p.name) == ["copy.db"]
    with ExitStore(copy, read_only=True) as store:
        assert store.chain_head() == world.manager.store.chain_head()
        assert store.verify_read_models() == []
    before = copy.read_bytes()
    assert main(["backup", str(world.store_path), str(copy)]) == BAD_INPUT
    link = world.path / "link.db"
    link.symlink_to(world.path / "nowhere.db")
    assert main(["backup", str(world.store_path), str(link)]) == BAD_INPUT
    assert copy.read_bytes() == before
    assert not (world.path / "nowhere.db").exists()
    assert "is there already" in capsys.readouterr().err


# --- the lock ---------------------------------------------------------------------------------------------------------


async def test_given_a_lock_that_was_removed_then_it_is_taken_again(world: World) -> None:
    lock = Path(f"{world.store_path}.lock")
    lock.unlink()
    await world.bar(98)
    assert lock.exists()
    assert len(world.orders) == 1
    with pytest.raises(StoreLocked):
        ExitStore(world.store_path)
    await world.fill()


async def test_given_a_second_manager_behind_a_removed_lock_then_the_first_stops_and_sends_nothing(
    world: World,
) -> None:
    world.expected |= {"not_stored"}
    Path(f"{world.store_path}.lock").unlink()
    second = ExitManager(world.broker, world.store_path, None, {}, "test", clock=world.clock)
    await second.start()
    await world.bar(98)
    assert world.orders == []
    assert world.alarm_kinds == ["ownership_lost", "store_unwritable"]
    assert all("another writer has it now" in alarm.text for alarm in world.alarms)
    await world.bar(98)
    assert world.orders == []  # it has stopped, as one does that has lost its store on a server
    await second.stop()
    await world.manager.start()
    await world.bar(98)
    assert len(world.orders) == 1  # the other one is gone, and the lock is ours again
    await world.fill()


# --- files and streams ------------------------------------------------------------------------------------------------


def test_given_planted_links_then_nothing_that_is_written_follows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    victim, store = tmp_path / "victim", tmp_path / "e.db"
    victim.write_text("mine")
    with ExitStore(store):
        pass
    for name in (".page.html.new", "page.html", "anchors", "events", "page-pages"):
        (tmp_path / name).symlink_to(victim)
    assert main(["audit", str(store), "-o", str(tmp_path / "page.html")]) == 0
    assert not (tmp_path / "page.html").is_symlink()
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600
    assert main(["audit", str(store), "-o", str(tmp_path / "page.html"), "--pages"]) == BAD_INPUT
    assert main(["anchor", str(store), "-o", str(tmp_path / "anchors")]) == BAD_INPUT
    assert main(["export", str(store), "-o", str(tmp_path / "events"), "--mode", "644"]) == 0
    assert stat.S_IMODE((tmp_path / "events").stat().st_mode) == 0o644
    assert main(["export", str(store), "-o", str(tmp_path / "events"), "--mode", "999"]) == BAD_INPUT
    assert victim.read_text() == "mine"
    assert "symbolic link" in capsys.readouterr().err


@pytest.mark.parametrize("width", ["0", "1", "abc", "99999999999999999999"])
def test_given_an_odd_width_then_there_is_an_answer(
    tmp_path: Path, width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    with ExitStore(tmp_path / "e.db"):
        pass
    assert main(["status", str(tmp_path / "e.db")]) == 0
    assert "open" in capsys.readouterr().out


@pytest.mark.parametrize(("closing_of", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("<&- >&- 2>&-", 0)])
def test_given_closed_streams_then_the_exit_codes_are_the_same(tmp_path: Path, closing_of: str, code: int) -> None:
    store = tmp_path / "e.db"
    with ExitStore(store):
        pass
    command = f"'{sys.executable}' -m exitfsm status '{store}' {closing_of}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_given_nobody_who_reads_the_errors_then_the_answer_and_the_code_are_the_same(tmp_path: Path) -> None:
    command = f"set -o pipefail; '{sys.executable}' -m exitfsm status '{tmp_path}/none.db' 2>&1 >/dev/null | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == BAD_INPUT
    assert done.stderr == ""


@pytest.mark.parametrize("at", ["", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "soon"])
def test_given_a_time_that_is_none_then_it_is_wrong_usage(
    tmp_path: Path, at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStore(tmp_path / "e.db"):
        pass
    assert main(["status", str(tmp_path / "e.db"), "--as-of", at]) == BAD_INPUT
    assert main(["explain", str(tmp_path / "e.db"), "AAPL", "--at", at]) == BAD_INPUT
    assert "is no time" in capsys.readouterr().err


def test_given_a_manager_without_asyncio_then_it_says_what_it_needs(tmp_path: Path) -> None:
    manager = ExitManager(object(), tmp_path / "e.db")
    with pytest.raises(RuntimeError, match="asyncio"):
        manager.start().send(None)


async def test_given_a_manager_in_a_forked_child_then_it_says_so(world: World) -> None:
    loops.HOMES[asyncio.get_running_loop()] += 1  # as it is seen from another process
    thread = asyncio.to_thread(asyncio.run, world.manager.on_bar(world.make_bar(98)))
    with pytest.raises(RuntimeError, match="before a fork"):
        await thread
    loops.HOMES[asyncio.get_running_loop()] -= 1
    assert world.orders == []


def test_given_a_store_in_a_forked_child_then_it_says_so(tmp_path: Path) -> None:
    with ExitStore(tmp_path / "e.db") as store:
        store._pid += 1
        with pytest.raises(StoreError, match="before a fork"):
            store.count()
        store._pid -= 1


def test_equal_bars_are_equal_and_not_unequal() -> None:
    from harness import T0

    one, same, other = (Bar("A", T0, 1, 1, 1, price) for price in (1, "1.0", 2))
    assert one == same
    assert not one != same  # noqa: SIM202  both operators are what is tested
    assert one != other
