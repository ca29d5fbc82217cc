"""The event store on a file: how it is made, opened, kept from others, and what a disk can do to it.

What every store does is in `store_contract.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from store_engines import HERE, T0, check, life, mark, opened, put, triggered

from exitfsm.errors import StoreError, VersionConflict
from exitfsm.events import (
    ACCOUNT_EVENTS,
    POSITION_EVENTS,
    OrderAccepted,
    tag_of,
)
from exitfsm.policy import ExitPolicy
from exitfsm.store import ExitStore
from exitfsm.store import appending as appending_module
from exitfsm.store.mapping import EventMapper
from exitfsm.store.sqlite import connection, engine, files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exits.db"


@pytest.fixture
def store(path: Path) -> Iterator[ExitStore]:
    with ExitStore(path) as opened_store:
        yield opened_store


def test_a_stored_event_is_readable_by_any_sql_tool(store, path):
    put(store, "p1", opened(), triggered())
    with contextlib.closing(sqlite3.connect(path)) as db:
        sql = "SELECT rowid, originator_id, originator_version, topic, CAST(state AS TEXT) FROM stored_events"
        row = db.execute(sql).fetchall()[1]
        assert row[:4] == (2, "p1", 2, "exit_triggered.v1")
        assert row[4].startswith('{"at":1704205800000000000,"by":"bar","body":{"event":"exit_triggered.v1",')
        assert '"level":"99.495"' in row[4], "money is text, exact to the last digit"


def test_a_transaction_shuts_other_writers_out_from_its_beginning(store, path, monkeypatch):
    real, met = appending_module.ReadModels.apply, []

    def meets_another(self, recorded):
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as e:
                met.append(str(e))
        real(self, recorded)

    monkeypatch.setattr(appending_module.ReadModels, "apply", meets_another)
    put(store, "p1", opened())
    assert met == ["database is locked"]


def test_a_writer_without_the_lock_is_noticed(store, path):
    """Where the platform has no file locks, two processes may write in turns; neither overwrites the other."""
    put(store, "p1", opened(), triggered())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(files, "_HAS_FLOCK", False)
        with ExitStore(path) as second:
            put(second, "p1", OrderAccepted(client_order_id="c1", broker_order_id="b7", at=T0), after=2)
            put(second, "p2", opened("MSFT"))
    with pytest.raises(VersionConflict):
        put(store, "p1", OrderAccepted(client_order_id="c1", broker_order_id="b8", at=T0), after=2)
    put(store, "p1", *life()[3:], after=3)
    assert store.exit_order("c1").alpaca_order_id == "b7"
    check(store)


# ---- the file


def test_memory_holds_a_store_too():
    with ExitStore(":memory:") as one, ExitStore(":memory:") as two:
        put(one, "p1", *life())
        assert two.count() == 0
        check(one)
    with pytest.raises(StoreError, match="in memory"):
        ExitStore(":memory:", read_only=True)


@pytest.mark.parametrize("url", ["mysql://x", "", "a\0b"])
def test_what_is_no_url_of_a_store(url):
    with pytest.raises(StoreError, match="give the path of a file"):
        ExitStore(url)


def test_a_url_that_went_through_a_path_says_so():
    with pytest.raises(StoreError, match="has lost a slash, as in a path: give it as text"):
        ExitStore(Path("postgresql://localhost/exits"))


def test_odd_paths_are_paths(tmp_path):
    for name in ("a b?c#d%20.db", "exits;mode=ro.db", "Ünïcode.db"):
        with ExitStore(tmp_path / name) as store:
            put(store, "p1", opened())
        assert (tmp_path / name).exists()


def test_nobody_else_can_read_the_files(store, path):
    put(store, "p1", opened())
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert modes == dict.fromkeys(["exits.db", "exits.db-shm", "exits.db-wal", "exits.db.lock"], 0o600)


def test_a_file_that_others_could_read_is_closed_to_them(path):
    ExitStore(path).close()
    path.chmod(0o644)
    ExitStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_commit_is_synced_and_the_schema_not_trusted(store):
    pragma = lambda name: store._rows(f"PRAGMA {name}")[0][0]  # noqa: E731
    assert (pragma("journal_mode"), pragma("synchronous"), pragma("trusted_schema")) == ("wal", 2, 0)


def test_a_store_that_settled_has_room_for_the_next_commits_and_everything_in_its_place(store, path):
    wal = path.with_name("exits.db-wal")
    put(store, "p1", *life())
    store.settle()
    room = wal.stat().st_size
    assert room == files.ROOM
    assert stat.S_IMODE(wal.stat().st_mode) == 0o600
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as file_alone:
        assert file_alone.execute("SELECT COUNT(*) FROM stored_events").fetchone() == (5,)
    put(store, "p2", *life("c2", "MSFT"))
    store.settle()  # so soon there is nothing to do
    assert wal.stat().st_size == room, "the next commits were written into the room"
    copy = path.with_name("crashed.db")  # as a crash leaves it: the file, and a WAL that ends in zeros
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    with ExitStore(copy) as again:
        assert list(again.events()) == list(store.events())
        check(again)
    with store.bulk():
        store.settle()  # not now
    check(store)


def test_a_store_settles_again_after_many_commits_and_without_room_it_does_without(store, path, monkeypatch):
    monkeypatch.setattr(engine, "_SETTLE_AFTER", 3)
    checkpoints = []
    connection = store._db._connection
    monkeypatch.setattr(connection, "checkpoint", lambda: checkpoints.append(1) or True)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    for n in range(8):
        put(store, f"p{n}", opened(f"S{n}"))
        store.settle()
    assert len(checkpoints) == 4  # at once, and after each three commits, of which its own is one
    check(store)


def test_no_environment_variable_changes_the_store(path, monkeypatch):
    for name in ("CIPHER_KEY", "COMPRESSOR_TOPIC", "PERSISTENCE_MODULE", "SQLITE_DBNAME", "TRANSCODER_TOPIC"):
        monkeypatch.setenv(name, "zlib" if name == "COMPRESSOR_TOPIC" else "x")
    with ExitStore(path) as store:
        put(store, "p1", opened())
    monkeypatch.undo()
    with ExitStore(path) as store:
        assert store.stream("p1")[0].event == opened()


def foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE theirs (x)")
        db.execute("INSERT INTO theirs VALUES (1)")


def foreign_wal(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE theirs (x)")


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        foreign,
        foreign_wal,
        lambda path: path.write_bytes(b"my only copy of the thesis"),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"\1" * 500),
        lambda path: path.write_bytes(b"\0" * 4096),
    ],
)
def test_a_file_that_is_not_ours_is_refused_and_not_touched(path, make, read_only):
    make(path)
    path.chmod(0o640)
    before = (path.read_bytes(), path.stat())
    with pytest.raises(StoreError, match=r"not an exitfsm store|damaged"):
        ExitStore(path, read_only=read_only)
    after = path.stat()
    assert path.read_bytes() == before[0]
    assert (after.st_mtime_ns, after.st_mode, after.st_ino) == (
        before[1].st_mtime_ns,
        before[1].st_mode,
        before[1].st_ino,
    )
    assert {p.name for p in path.parent.iterdir()} <= {"exits.db", "exits.db.lock"}


def test_a_newer_format_says_upgrade(path):
    ExitStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(StoreError, match=r"newer version of exitfsm .*upgrade exitfsm"):
            ExitStore(path, read_only=read_only)
    assert path.read_bytes() == before


def test_a_directory_a_link_and_a_pipe_are_no_stores(tmp_path):
    (tmp_path / "dir").mkdir()
    with ExitStore(tmp_path / "real.db"):
        pass
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    (tmp_path / "dangling.db").symlink_to(tmp_path / "nowhere.db")
    os.mkfifo(tmp_path / "pipe")
    for name, why in [
        ("dir", "no file"),
        ("link.db", "symbolic link"),
        ("dangling.db", "symbolic"),
        ("pipe", "no file"),
    ]:
        for read_only in (False, True):
            with pytest.raises(StoreError, match=why):
                ExitStore(tmp_path / name, read_only=read_only)
    assert not (tmp_path / "nowhere.db").exists()
    os.link(tmp_path / "real.db", tmp_path / "hard.db")
    with pytest.raises(StoreError, match="hard links"):
        ExitStore(tmp_path / "hard.db")
    with pytest.raises(StoreError, match="no directory"):
        ExitStore(tmp_path / "missing" / "exits.db")


def test_a_file_of_another_user_is_refused(path, monkeypatch):
    ExitStore(path).close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for read_only in (False, True):
        with pytest.raises(StoreError, match="another user"):
            ExitStore(path, read_only=read_only)


def test_an_empty_file_becomes_a_store(path):
    path.touch()
    with pytest.raises(StoreError, match="there is no store"):
        ExitStore(path, read_only=True)
    with ExitStore(path) as store:
        put(store, "p1", opened())
        check(store)


def test_the_journal_of_a_lost_store_is_not_mixed_into_a_new_one(path):
    wal = path.with_name("exits.db-wal")
    wal.write_bytes(b"the newest events")
    with pytest.raises(StoreError, match="newest events of a lost store"):
        ExitStore(path)
    assert wal.read_bytes() == b"the newest events"
    assert not path.exists()


def test_a_crash_while_it_is_made_leaves_no_store(path, monkeypatch):
    def crash(self):
        modes.append(stat.S_IMODE(path.with_name("exits.db.new").stat().st_mode))
        raise KeyboardInterrupt

    modes: list[int] = []

    with monkeypatch.context() as patched:
        patched.setattr(engine.SQLiteDatabase, "_create", crash)
        with pytest.raises(KeyboardInterrupt):
            ExitStore(path)
    assert not path.exists()
    assert modes == [0o600], "nobody else can read it from the first moment on"
    path.with_name("exits.db.new").write_bytes(b"rest of a crash")
    with ExitStore(path) as store:
        put(store, "p1", opened())
    assert not path.with_name("exits.db.new").exists()


def test_a_store_that_is_taken_away_while_in_use_takes_no_more(store, path):
    put(store, "p1", opened())
    moved = path.with_name("moved.db")
    path.rename(moved)
    with pytest.raises(StoreError, match="moved, replaced or deleted"):
        put(store, "p1", triggered(), after=1)
    with pytest.raises(StoreError, match="moved, replaced or deleted"):
        store.save_marks([mark()])
    moved.rename(path)
    put(store, "p1", triggered(), after=1)
    check(store)


def test_a_backup_is_a_store(store, path):
    for n in range(10):
        put(store, f"p{n}", *life(f"c{n}"))
    copy = path.with_name("backup.db")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM INTO ?", (str(copy),))
    with ExitStore(copy) as backup:
        assert backup.chain_head() == store.chain_head()
        assert list(backup.events()) == list(store.events())
        check(backup)


# ---- two at once


def test_a_failed_opening_frees_the_lock(path):
    foreign(path)
    with pytest.raises(StoreError):
        ExitStore(path)
    path.unlink()
    ExitStore(path).close()


def test_a_disk_that_fails_while_it_is_opened_is_told_in_plain_words(path, monkeypatch):
    ExitStore(path).close()

    def fails(self):
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as m:
        m.setattr(connection.Pool, "_create_connection", fails)
        with pytest.raises(StoreError, match="disk I/O error"):
            ExitStore(path)
    ExitStore(path).close()


def test_a_lock_of_another_program_is_named(store, path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        store._rows("PRAGMA busy_timeout = 10")
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another program holds the file"):
            put(store, "p1", opened())
        db.execute("ROLLBACK")
    put(store, "p1", opened())


# ---- disks


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory in which permissions count, also where the tests run as root."""
    directory = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(directory, 65534, 65534)
        os.seteuid(65534)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o700)
        shutil.rmtree(directory)


def test_a_directory_that_cannot_be_written():
    with unprivileged() as directory:
        path = directory / "exits.db"
        with ExitStore(path) as store:
            put(store, "p1", opened())
        path.with_name("exits.db.lock").unlink()
        directory.chmod(0o500)
        with pytest.raises(StoreError, match=r"Permission denied.*read_only=True"):
            ExitStore(path)
        with pytest.raises(StoreError, match="Permission denied"):
            ExitStore(directory / "new.db")
        with ExitStore(path, read_only=True) as reader:
            assert [r.event for r in reader.events()] == [opened()]
            check(reader)


def test_a_file_that_cannot_be_written():
    with unprivileged() as directory:
        path = directory / "exits.db"
        ExitStore(path).close()
        path.chmod(0o400)
        with pytest.raises(StoreError, match="cannot be written"):
            ExitStore(path)
        assert sorted(p.name for p in directory.iterdir()) == ["exits.db", "exits.db.lock"]
        with ExitStore(path, read_only=True) as reader:
            check(reader)
        path.chmod(0o600)
        with ExitStore(path) as store:
            put(store, "p1", opened())


def test_a_file_that_cannot_be_read():
    with unprivileged() as directory:
        path = directory / "exits.db"
        ExitStore(path).close()
        path.chmod(0)
        for read_only in (False, True):
            with pytest.raises(StoreError, match="check the path and its permissions"):
                ExitStore(path, read_only=read_only)


def test_a_full_disk_leaves_no_half_written_state(store, path):
    """`max_page_count` makes SQLite say just what it says when the disk is full."""
    put(store, "p0", opened())
    store._rows(f"PRAGMA max_page_count = {store._rows('PRAGMA page_count')[0][0] + 4}")
    acknowledged = 1

    def fill() -> None:
        nonlocal acknowledged
        for n in range(1, 1000):
            put(store, f"p{n}", *life(f"c{n}", f"S{n}"))
            acknowledged += 5

    def fill_in_bulk() -> None:
        with store.bulk():
            for n in range(2000, 3000):
                put(store, f"p{n}", *life(f"c{n}", f"S{n}"))

    with pytest.raises(StoreError, match="the disk is full and nothing was stored: free space") as caught:
        fill()
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert store.count() == acknowledged > 1
    check(store)
    with pytest.raises(StoreError, match="the disk is full"):
        fill_in_bulk()
    check(store)
    store._rows("PRAGMA max_page_count = 100000")
    put(store, "q", *life("q"))
    check(store)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no limits on files here")
def test_a_disk_that_takes_no_more_bytes(path):
    """The write itself fails, in the middle of a transaction, and the process lives on."""
    script = """
import resource, signal, sys
from exitfsm.errors import StoreError
from store_engines import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with ExitStore(sys.argv[1]) as store:
    put(store, "p0", opened())
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    acknowledged = 1
    try:
        for n in range(1, 1000):
            put(store, f"p{n}", *life(f"c{n}", f"S{n}"))
            acknowledged += 5
    except StoreError as e:
        print(e)
    else:
        raise SystemExit("no limit was met")
    assert store.count() == acknowledged > 1, (store.count(), acknowledged)
    check(store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    put(store, "q", *life("q"))
    check(store)
"""
    command = [sys.executable, "-c", script, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, env=HERE, check=False)
    assert run.returncode == 0, run.stderr
    assert "check the disk" in run.stdout
    with ExitStore(path) as store:
        assert store.stream("q")
        check(store)


# ---- names and policies


def test_topics_are_the_tags():
    names = {tag_of(cls) for cls in (*POSITION_EVENTS, *ACCOUNT_EVENTS)}
    assert len(names) == len(POSITION_EVENTS) + len(ACCOUNT_EVENTS)
    assert all(name.rpartition(".v")[2].isdigit() for name in names)


def test_a_policy_that_was_read_before_is_taken_for_the_policy_of_an_event_and_for_nothing_else():
    mapper = EventMapper()
    first, other = opened(), msgspec.structs.replace(opened(), policy=ExitPolicy(exit_cooldown_seconds=7))
    topic, known = (encoded := mapper.encode(1, "bot", first)).topic, encoded.state
    assert mapper.recorded(1, "p1", 1, topic, known).event == first
    seven, text = mapper.encode(1, "bot", other).state, msgspec.json.encode(first.policy)
    assert b'"policy":' + text in known
    assert b'"policy":' + text not in seven

    for place in (b'"body":{', b'"epoch":"1",'):
        before, found, after = seven.replace(b'"epoch":', b'"epoch":"1","epoch":').partition(place)
        crafted = before + found + b'"later":{"policy":' + text + b"}," + after
        mapper.recorded(1, "p1", 1, topic, known)  # its policy is the newest that was read
        assert mapper.recorded(1, "p1", 1, topic, crafted).event == other
    only_there = known.replace(b'"policy":' + text, b'"later":{"policy":' + text + b"}")
    with pytest.raises(StoreError, match="policy"):
        mapper.recorded(1, "p1", 1, topic, only_there)
