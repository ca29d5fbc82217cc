"""Copying a store into another one, on whatever engines: the same bytes and chain, however often it breaks off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from store_engines import T0, D, Engine, check, life, made, mark, opened, put, stop_moved, triggered

from exitfsm.cli import main
from exitfsm.errors import StoreError
from exitfsm.events import AlarmRaised
from exitfsm.projections import Mark
from exitfsm.store import Append, ExitStore, copying, mapping
from exitfsm.store.copying import copy_store

POSTGRES = pytest.param("postgresql", marks=pytest.mark.postgres)
Make = Callable[[str, str], Engine]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """An engine of a kind, with a folder of its own."""
    engines: list[Engine] = []

    def one(kind: str, name: str) -> Engine:
        (tmp_path / name).mkdir()
        engines.append(made(kind, tmp_path / name, request))
        return engines[-1]

    yield one
    for engine in engines:
        engine.close()


@pytest.fixture(params=["memory", "file", POSTGRES])
def source(request: pytest.FixtureRequest, make: Make) -> ExitStore:
    store = make(request.param, "source").open()
    fill(store)
    return store


@pytest.fixture(params=["memory", "file", POSTGRES])
def target(request: pytest.FixtureRequest, make: Make) -> ExitStore:
    return make(request.param, "target").open()


def fill(store: ExitStore, lives: int = 12) -> None:
    """Lives that are over and one that is not, an alarm, a mark, an owner."""
    store.bind("acc1", "paper")
    store.append_many([Append(f"p{n}", 0, life(f"c{n}", f"S{n % 5}"), T0, "bot") for n in range(lives)])
    put(store, "q", opened("OPEN"), triggered("q1"), stop_moved(7))
    put(store, "account:x", AlarmRaised(alarm_id="a1", kind="k", text="Ünruhe", at=T0))
    store.save_marks([Mark(symbol="OPEN", position_id="q", price=D("1.1"), pnl_pct=D(1), best_price=D(2), at=T0)])


def everything(store: ExitStore) -> tuple[object, ...]:
    events = [(r.sequence, r.stream_id, r.version, r.at_ns, r.by, r.event) for r in store.events()]
    return (
        store.chain_head(),
        events,
        store.exit_orders(),
        store.trackings(),
        store.positions(),
        store.alarms(),
        store.meta,
    )


def test_a_copy_is_the_same_store(source, target):
    source.save_outbox('["sent"]')
    assert copy_store(source, target) == source.count() == 64
    assert everything(target) == everything(source)
    check(target)
    put(target, "q", stop_moved(8), after=3)
    assert target.chain_head()[0] == 65
    check(target)


def test_a_copy_that_broke_off_goes_on(source, target, monkeypatch):
    monkeypatch.setattr(copying, "GROUP", 10)

    def breaks_off(done: int, total: int) -> None:
        if done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_store(source, target, breaks_off)
    assert target.count() == 30
    check(target)
    seen: list[tuple[int, int]] = []
    assert copy_store(source, target, lambda done, total: seen.append((done, total))) == 34
    assert seen == [(40, 64), (50, 64), (60, 64), (64, 64)]
    assert everything(target) == everything(source)
    assert copy_store(source, target) == 0, "and once more there is nothing to do"
    put(source, "q", stop_moved(8), after=3)
    assert copy_store(source, target) == 1
    check(target)


def test_a_copy_reaches_as_far_as_the_source_did_when_it_began(source, target, monkeypatch):
    monkeypatch.setattr(copying, "GROUP", 10)
    head = source.chain_head()
    version = iter(range(3, 100))
    copy_store(source, target, lambda done, total: put(source, "q", stop_moved(done), after=next(version)))
    assert target.chain_head() == head
    check(target)


@pytest.mark.parametrize("events", [1, 200])
def test_a_store_that_holds_something_else_is_left_alone(source, target, events):
    put(target, "p0", opened("OTHER"))
    for n in range(1, events):
        put(target, "p0", stop_moved(n), after=n)
    before = everything(target)
    with pytest.raises(StoreError, match=r"holds \d+ events that are not the first of .*: copy into a new store"):
        copy_store(source, target)
    assert everything(target) == before


def test_a_store_of_another_account_is_left_alone(source, target):
    target.bind("acc2")
    with pytest.raises(StoreError, match="written for account 'acc2'"):
        copy_store(source, target)
    assert target.count() == 0


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE chain SET hash = {zeros} WHERE sequence = 33", "event 33 of .* is not what was stored"),
        (
            "UPDATE stored_events SET topic = 'stop_moved.v1' WHERE {place} = 33",
            "event 33 of .* is not what was stored",
        ),
        ("DELETE FROM stored_events WHERE {place} = 33", "is not whole: event 33 is missing"),
    ],
)
def test_a_source_that_was_tampered_with_is_copied_up_to_there(make, request, target, monkeypatch, sql, said):
    monkeypatch.setattr(copying, "GROUP", 10)
    engine = make("file", "tampered")
    source = engine.open()
    fill(source)
    engine.tamper(sql)
    with pytest.raises(StoreError, match=said):
        copy_store(source, target)
    assert target.count() == 30
    check(target)


def test_an_old_store_that_holds_a_nul_reads_and_goes_to_a_file_only(make, monkeypatch, request):
    """Today none is stored any more; what a store holds already cannot be refused when it is read."""
    with monkeypatch.context() as m:
        m.setattr(mapping, "_NUL", b"\0 never")
        source = make("file", "old").open()
        put(source, "p1", msgspec.structs.replace(opened(), strategy_name="a\0b"))
    assert source.stream("p1")[0].event.strategy_name == "a\0b"
    check(source)
    copy_store(source, other := make("memory", "other").open())
    assert other.chain_head() == source.chain_head()


@pytest.mark.postgres
def test_an_old_store_that_holds_a_nul_is_told_where_it_cannot_go(make, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(mapping, "_NUL", b"\0 never")
        source = make("file", "old").open()
        put(source, "p1", msgspec.structs.replace(opened(), strategy_name="a\0b"))
    target = make("postgresql", "target").open()
    with pytest.raises(StoreError, match="a value cannot be stored, and nothing was"):
        copy_store(source, target)
    assert target.count() == 0


@pytest.mark.postgres
def test_by_the_command_line_there_and_back(make, tmp_path, capsys):
    source, server = make("file", "source"), make("postgresql", "server")
    with source.open() as store:
        fill(store)
        head = store.chain_head()[1]
    url = server.url.replace("postgres@", "postgres:hunter2-very-secret@")
    for there, here in ((source.url, url), (url, str(tmp_path / "back.db"))):
        assert main(["copy", there, here]) == 0
        assert f"64 events copied, 64 in all, chain head {head}" in capsys.readouterr().out
    for where in (source.url, url, str(tmp_path / "back.db")):
        main(["verify", where])
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert f"chain head {head}" in said
        assert "read model" not in said, "and its tables are those of a rebuild"
        assert "hunter2" not in said
    for command in ("status", "export", "history"):
        assert main([command, url]) == 0
        captured = capsys.readouterr()
        assert "OPEN" in captured.out
        assert "hunter2" not in captured.out + captured.err


def test_a_source_that_is_not_there(tmp_path, capsys):
    assert main(["copy", str(tmp_path / "a.db"), str(tmp_path / "b.db")]) == 2
    assert "there is no store at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_marks_of_a_symbol_that_another_position_has_taken_do_not_come_along(source, target):
    source.save_marks([mark("p0", "5", "S0")])
    copy_store(source, target)
    assert everything(target) == everything(source)
