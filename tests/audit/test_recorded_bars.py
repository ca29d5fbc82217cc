"""Bars beside the store: what was looked at comes back exactly, and recording never harms an exit."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import stat
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from stores import T0, TRAILING, wander

from exitfsm import Bar, ExitStore, StoreError, load_config
from exitfsm.recorded_bars import BarRecorder, Seen, bars_path, recorded_bars
from exitfsm.simulate import simulate

RECORDING = {**TRAILING, "record_bars": True}


def bar(close: Any, minute: int = 0, symbol: str = "AAPL") -> Bar:
    return Bar(symbol, T0 + timedelta(minutes=minute), close, close, close, close, 7)


def test_what_is_recorded_comes_back_exactly_in_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "x.bars"
    told = [
        Seen(bar("100.10", 1), None),
        Seen(bar(0.1, 0), T0 + timedelta(seconds=61, microseconds=5)),
        Seen(bar("1E+3", 2, "BTC/USD"), T0),
        Seen(bar(Decimal("0.00000001"), 3), None),
    ]
    with BarRecorder(path) as recorder:
        for seen in told:
            recorder.record(seen.bar, received_at=seen.received_at)
    assert list(recorded_bars(path)) == told
    assert [str(s.bar.close) for s in recorded_bars(path)] == ["100.10", "0.1", "1E+3", "1E-8"]


def test_bars_that_are_refused_are_kept_too(tmp_path: Path) -> None:
    with BarRecorder(tmp_path / "x.bars") as recorder:
        recorder.record(bar("nan"))
        recorder.record(bar(-1))
    kept = [s.bar for s in recorded_bars(tmp_path / "x.bars")]
    assert [str(b.close) for b in kept] == ["NaN", "-1"]
    assert all(not b.floor > 0 for b in kept)


def test_a_symbol_and_a_span_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.bars"
    with BarRecorder(path) as recorder:
        for b in wander(3, 50):
            recorder.record(b)
    since, until = T0 + timedelta(minutes=10), T0 + timedelta(minutes=20)
    found = [s.bar for s in recorded_bars(path, ["S1"], since=since, until=until)]
    assert found == [b for b in wander(3, 50) if b.symbol == "S1" and since <= b.timestamp <= until]
    assert list(recorded_bars(path, [])) == []


def test_a_second_run_adds_to_the_file(tmp_path: Path) -> None:
    for minute in range(2):
        with BarRecorder(tmp_path / "x.bars") as recorder:
            recorder.record(bar(100, minute))
    assert len(list(recorded_bars(tmp_path / "x.bars"))) == 2


def test_what_is_flushed_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with BarRecorder(tmp_path / "x.bars") as recorder:
        recorder.record(bar(100))
        assert list(recorded_bars(tmp_path / "x.bars")) == []
        recorder.flush()
        assert len(list(recorded_bars(tmp_path / "x.bars"))) == 1
        recorder.record(bar(101, 1))
    recorder.close()
    assert len(list(recorded_bars(tmp_path / "x.bars"))) == 2
    recorder.record(bar(102, 2))  # too late: it is closed


def test_the_file_is_its_owners(tmp_path: Path) -> None:
    with BarRecorder(tmp_path / "x.bars"):
        assert stat.S_IMODE((tmp_path / "x.bars").stat().st_mode) == 0o600


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.bars"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE bars (x)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="holds no recorded bars"):
        BarRecorder(path)
    with pytest.raises(StoreError, match="holds no recorded bars"):
        list(recorded_bars(path))
    assert path.read_bytes() == before
    path.write_text("text")
    with pytest.raises(StoreError, match="cannot record bars"):
        BarRecorder(path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.bars").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="cannot record bars"):
        BarRecorder(tmp_path / "x.bars")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there are no recorded bars"):
        list(recorded_bars(tmp_path / "none"))


def test_a_failing_disk_ends_recording_and_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = BarRecorder(tmp_path / "x.bars")
    with contextlib.closing(sqlite3.connect(tmp_path / "x.bars")) as db, db:
        db.execute("DROP TABLE bars")
    recorder.record(bar(100))
    with caplog.at_level(logging.ERROR, "exitfsm"):
        recorder.flush()
        recorder.record(bar(101))
        recorder.close()
    assert "bars_not_recorded" in caplog.text


class TestSimulation:
    def test_it_records_the_bars_of_what_it_entered(self, tmp_path: Path) -> None:
        unsound = [bar("nan", 0, "S0"), bar(0, 1, "S0")]
        bars = [
            *unsound,
            *(Bar(b.symbol, b.timestamp + timedelta(minutes=5), b.open, b.high, b.low, b.close) for b in wander()),
        ]
        with ExitStore(tmp_path / "e.db") as store:
            result = simulate(bars, load_config(RECORDING), store=store, re_enter=True)
            path = bars_path(store)
        assert path == tmp_path / "e.db.bars"
        assert [s.bar for s in recorded_bars(path)] == bars[2:]
        assert all(s.received_at is None for s in recorded_bars(path))
        assert result.bars == len(bars)

    def test_the_exits_are_the_same_with_and_without(self, tmp_path: Path) -> None:
        with ExitStore(tmp_path / "a.db") as a, ExitStore(tmp_path / "b.db") as b:
            one = simulate(wander(), load_config(RECORDING), store=a, re_enter=True)
            other = simulate(wander(), load_config(TRAILING), store=b, re_enter=True)
            assert one.as_dict() == other.as_dict()
            assert a.chain_head() == b.chain_head()
        assert not (tmp_path / "b.db.bars").exists()

    def test_beside_a_store_in_memory_there_is_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        simulate(wander(1, 5), load_config(RECORDING))
        assert list(tmp_path.iterdir()) == []

    def test_bars_of_another_run_are_not_mixed_in(self, tmp_path: Path) -> None:
        BarRecorder(tmp_path / "e.db.bars").close()
        with ExitStore(tmp_path / "e.db") as store, pytest.raises(StoreError, match="bars of another run"):
            simulate(wander(1, 5), load_config(RECORDING), store=store)


@pytest.mark.parametrize("store", [":memory:", "x/exits.db"])
def test_where_they_lie(store: str) -> None:
    assert bars_path(store) == (None if store == ":memory:" else Path("x/exits.db.bars"))
