"""What comes from outside can neither forge a log, nor fill the memory, nor lead the store's files elsewhere."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from exitfsm_csv import read_bars
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm import Bar, BrokerError, ExitStore, FeedError, StoreError
from exitfsm.audit.anchors import read_anchors
from exitfsm.broker.market import position_of
from exitfsm.broker.orders import report_of
from exitfsm.events import AlarmRaised, TradingPaused
from exitfsm.outside import harmless, logger
from exitfsm.position import decide
from exitfsm.recorded_bars import BarRecorder, bars_path, recorded_bars
from exitfsm.store.sqlite.connection import ROW_MAX
from exitfsm.testing.given import BROKER, fold, holds, opened, order_id, reported, triggered
from exitfsm.values import plain, tradable

NOW = datetime(2024, 1, 2, 15, tzinfo=UTC)
NASTY = "AAPL\x1b[2J\r\nERROR forged line \u202egnol"


# --- texts ------------------------------------------------------------------------------------------------------------


@given(st.text())
def test_whatever_the_text_it_is_one_printable_line_and_nothing_is_lost(text: str) -> None:
    assert harmless(text).isprintable()
    if text.isprintable():
        assert harmless(text) == text


def test_a_log_line_cannot_be_forged_by_what_is_in_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    logger("exitfsm").error("alarm kind=%s text=%s n=%d of %.1f", NASTY, BrokerError(NASTY), 3, 0.5)
    logger("exitfsm").error("odd %s", Odd())
    said, odd = (record.getMessage() for record in caplog.records)
    assert said.isprintable()
    assert said.endswith(r"\x1b[2J\r\nERROR forged line \u202egnol n=3 of 0.5")
    assert odd == "odd a Odd that cannot be shown"


def test_every_logger_of_ours_says_what_is_in_its_lines_harmlessly() -> None:
    pytest.importorskip("exitfsm_alpaca")
    pytest.importorskip("alpaca")
    import exitfsm.manager  # noqa: F401

    filters = logger("exitfsm").filters
    ours = [n for n in logging.root.manager.loggerDict if n == "exitfsm" or n.startswith("exitfsm.")]
    assert {"exitfsm", "exitfsm.alpaca"} <= set(ours)
    for name in ours:
        log = logging.getLogger(name)
        assert set(filters) <= set(log.filters), f"{name} does not"


# --- numbers ----------------------------------------------------------------------------------------------------------


ABSURD = ["1E+999999999", "-1E+999999999", "1E-999999999", "0E-999999999", "1E+31", "1" * 100, "1." + "1" * 100]


@pytest.mark.parametrize("text", ABSURD)
def test_a_number_that_no_market_has_is_short_and_moves_nothing(text: str) -> None:
    number = Decimal(text)
    assert not tradable(number)
    assert len(plain(number)) < 30
    waiting, watched = fold(None, [opened(), triggered()]), fold(None, [opened()])
    assert waiting is not None
    assert watched is not None
    for p in (waiting, watched):
        read = replace(holds(0)(p), qty=number, avg_entry_price=number)
        assert decide(p, read, BROKER) == ()
    for field in ("filled_qty", "qty", "avg_fill_price"):
        report = reported("partially_filled", 1, 99)(waiting)
        events = decide(waiting, replace(report, report=replace(report.report, **{field: number})), BROKER)
        assert all(len(str(event)) < 1000 for event in events)
        if field != "avg_fill_price":
            assert [type(e).__name__ for e in events] == ["ProtectionLost", "AlarmRaised"]
    report_said = report_of({"client_order_id": order_id(), "status": "new", "filled_qty": text}, now=NOW)
    assert report_said is not None
    assert report_said.filled_qty is None  # as if it had not been said
    with pytest.raises(BrokerError, match="which no market has"):
        position_of({"symbol": "AAPL", "qty": text})


@given(st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-(10**18), max_value=10**18))
def test_a_number_that_a_market_has_is_as_it_was(number: Decimal) -> None:
    assert tradable(number)
    assert Decimal(plain(number)) == number


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", ".lock", ".bars"])
def test_a_link_where_a_file_beside_the_store_belongs_is_refused_and_not_followed(tmp_path: Path, suffix: str) -> None:
    path, victim = tmp_path / "exits.db", tmp_path / "victim"
    ExitStore(path).close()
    victim.write_text("mine")
    victim.chmod(0o644)
    beside = Path(f"{path}{suffix}")
    beside.unlink(missing_ok=True)
    beside.symlink_to(victim)
    with pytest.raises(StoreError):
        BarRecorder(beside) if suffix == ".bars" else ExitStore(path)
    assert victim.read_text() == "mine"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_file_of_another_user_beside_the_store_is_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "exits.db"
    ExitStore(path).close()
    Path(f"{path}{suffix}").touch()
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(f"{path}{suffix}", 65534, 65534)
    with pytest.raises(StoreError, match="belongs to another user"):
        ExitStore(path)


def test_recorded_bars_are_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "exits.db.bars"
    path.touch(0o644)
    path.chmod(0o644)
    with BarRecorder(path) as recorder:
        recorder.record(Bar("AAPL", NOW, 1, 1, 1, 1))
        recorder.flush()
        assert {p.name for p in tmp_path.iterdir()} == {path.name, f"{path.name}-wal", f"{path.name}-shm"}
        assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_an_event_that_is_too_long_is_not_stored_and_harms_no_other(tmp_path: Path) -> None:
    with ExitStore(tmp_path / "exits.db") as store:
        endless = AlarmRaised(alarm_id="a", kind="k", text="x" * ROW_MAX, at=NOW)
        with pytest.raises(StoreError, match="too big"):
            store.append("account:1", 0, [endless], at=NOW, by="bot")
        store.append("account:1", 0, [TradingPaused(by="me", at=NOW)], at=NOW, by="operator")
        assert store.count() == 1


def test_a_row_that_is_too_long_is_said_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "exits.db"
    with ExitStore(path) as store:
        store.append("account:1", 0, [TradingPaused(by="me", at=NOW)], at=NOW, by="operator")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE stored_events SET state = zeroblob(?)", (ROW_MAX + 1,))
    with ExitStore(path, read_only=True) as store, pytest.raises(StoreError, match=f"longer than {ROW_MAX} bytes"):
        list(store.events())


def test_recorded_bars_that_are_too_long_are_said_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "exits.db.bars"
    with BarRecorder(path) as recorder:
        recorder.record(Bar("AAPL", NOW, 1, 1, 1, 1))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE bars SET volume = ?", ("1" * 100_000,))
    assert bars_path(tmp_path / "exits.db") == path
    with pytest.raises(StoreError, match="cannot read the bars"):
        list(recorded_bars(path))


def test_a_file_of_anchors_that_is_too_long_is_no_file_of_anchors(tmp_path: Path) -> None:
    path = tmp_path / "anchors.jsonl"
    with path.open("wb") as file:
        file.truncate((1 << 24) + 1)
    with pytest.raises(StoreError, match="larger than"):
        read_anchors(path)


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_line_of_a_feed_that_is_too_long_is_no_bar_wherever_it_ends(tmp_path: Path, end: str) -> None:
    path = tmp_path / "bars.csv"
    bar = "AAPL,2024-01-02T15:00:00Z,1,1,1,1,"
    path.write_text(f"symbol,timestamp,open,high,low,close,volume\n{bar}1\n{bar}{'1' * 70_000}{end}", encoding="utf-8")
    with pytest.raises(FeedError, match=r"bars.csv:3: a line of more than 65536 characters"):
        list(read_bars(path))


def test_an_answer_of_the_broker_that_is_too_long_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    alpaca = pytest.importorskip("exitfsm_alpaca")
    pytest.importorskip("alpaca.trading")
    pytest.importorskip("aiohttp")
    from exitfsm_alpaca import sending

    from exitfsm.testing.alpaca_server import AlpacaServer

    monkeypatch.setattr(sending, "ANSWER_MAX", 1)
    with AlpacaServer() as server:
        broker: Any = alpaca.AlpacaBroker(alpaca.Access.from_environment(server.environment))
        with pytest.raises(BrokerError, match="no answer: AnswerTooLong"):
            broker.positions()
        broker.close()


def test_deep_json_in_an_error_of_the_broker_is_no_body() -> None:
    rest = pytest.importorskip("exitfsm_alpaca.rest")
    assert rest._body("[" * 100_000) == (None, "", {})
