"""The command line, as a user and as a program sees it: what is printed where, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

pytest.importorskip("typer")
pytest.importorskip("rich")

from rich.console import Console

from exitfsm import TABLE, ExitPolicy, ExitStore, Side, __version__, load_config, mermaid
from exitfsm.cli import BAD_INPUT, DEFECT, FINDING, PIPE_CLOSED, main, screen, words
from exitfsm.errors import ConfigError
from exitfsm.events import (
    POSITION_EVENTS,
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitPostponed,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.position import evolve
from exitfsm.simulate import simulate
from exitfsm.values import ExitType, OrderType, TimeInForce

REAL_BARS = Path(__file__).resolve().parents[2] / "shared" / "data" / "bars"
HEADER = "symbol,timestamp,open,high,low,close,volume"
T0 = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
ACCOUNT = "da0713165965"
ESCAPE = "\x1b"


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process."""

    def run(*args: object) -> Ran:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def real_bars() -> list[Path]:
    if not REAL_BARS.is_dir():
        pytest.skip(f"the real bars are not here: {REAL_BARS}")
    return sorted(REAL_BARS.glob("*.csv"))


def bars_file(path: Path, *bars: str, symbol: str = "AAPL") -> Path:
    """A CSV file of minute bars; a bar is `close`, or `open>close`."""
    lines = [HEADER]
    for minute, bar in enumerate(bars):
        opened, _, closed = bar.rpartition(">")
        at = (T0 + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")
        prices = [opened or closed, *(sorted((opened or closed, closed), key=float)[::-1]), closed]
        lines.append(",".join([symbol, at, *prices, "100"]))
    path.write_text("\n".join(lines) + "\n")
    return path


#: +2.5 % on the third bar, filled at the open of the fourth; four minutes later the cooldown is over; then the stop.
PROFIT = ("100", "101", "102.5", "102.6>102.7", "102", "102", "102", "102", "103", "101.9")


@pytest.fixture
def bars(tmp_path: Path) -> Path:
    return bars_file(tmp_path / "bars.csv", *PROFIT)


@pytest.fixture
def store(cli: Cli, bars: Path, tmp_path: Path) -> Path:
    """A store with one exit, and one position whose stop was reached on the last bar."""
    path = tmp_path / "exits.db"
    assert cli("simulate", bars, "--re-enter", "--store", path).code == 0
    return path


PROFIT_EXIT = {
    "position_id": f"AAPL:long:20240102T143000Z:{ACCOUNT}",
    "symbol": "AAPL",
    "side": "long",
    "qty": "10",
    "reason": "profit_take",
    "opened_at": "2024-01-02T14:30:00Z",
    "entry_price": "100",
    "triggered_at": "2024-01-02T14:32:00Z",
    "trigger_price": "102.5",
    "filled_at": "2024-01-02T14:33:00Z",
    "avg_fill_price": "102.6",
    "pnl_pct": "2.6000",
    "part": None,
    "remaining_qty": "0",
}


class TestSimulate:
    def test_json_has_exactly_the_documented_shape(self, cli: Cli, bars: Path) -> None:
        expected = {"bars": 10, "exits": [PROFIT_EXIT], "open": [], "splits": [], "refused": []}
        assert cli("simulate", bars, "--json").json() == expected

    def test_json_is_the_result_of_the_library(self, cli: Cli, real_bars: list[Path]) -> None:
        from exitfsm_csv import read_bars

        expected = simulate(read_bars(*real_bars), re_enter=True).as_dict()
        assert cli("simulate", *real_bars, "--re-enter", "--json").json() == expected
        assert len(expected["exits"]) > 1

    def test_re_entry_after_the_cooldown_and_an_exit_that_is_still_under_way(self, cli: Cli, bars: Path) -> None:
        data = cli("simulate", bars, "--re-enter", "--json").json()
        assert data["exits"] == [PROFIT_EXIT]
        (held,) = data["open"]
        assert held["opened_at"] == "2024-01-02T14:38:00Z"
        assert (held["reason"], held["trigger_price"]) == ("stop_loss", "101.9")
        assert (held["filled_at"], held["avg_fill_price"], held["pnl_pct"]) == (None, None, None)

    def test_short_quantity_and_slippage(self, cli: Cli, tmp_path: Path) -> None:
        falling = bars_file(tmp_path / "falling.csv", "100", "97", "97>96")
        data = cli("simulate", falling, "--side", "short", "--qty", "2.50", "--slippage-pct", "1", "--json").json()
        (only,) = data["exits"]
        assert (only["side"], only["qty"], only["reason"]) == ("short", "2.5", "profit_take")
        assert (only["avg_fill_price"], only["pnl_pct"]) == ("97.97", "2.0300")

    def test_tables_for_people_without_any_colour_codes(self, cli: Cli, bars: Path) -> None:
        ran = cli("simulate", bars, "--re-enter")
        assert ran.code == 0
        assert ran.err == ""
        assert ESCAPE not in ran.out
        assert re.search(
            r"AAPL +long 10 +profit_take +2024-01-02 14:30 +100 +102\.5 +2024-01-02 14:33 +102\.6 +\+2\.60", ran.out
        )
        assert re.search(r"AAPL +long 10 +submitted +stop_loss +2024-01-02 14:38 +103", ran.out)
        assert "10 bars, 1 exit, 1 open" in ran.out

    def test_summary_by_reason(self, cli: Cli, tmp_path: Path) -> None:
        files = [
            bars_file(tmp_path / "up.csv", "100", "103", "103", symbol="UP"),
            bars_file(tmp_path / "down.csv", "100", "98", "98", symbol="DOWN"),
            bars_file(tmp_path / "more.csv", "100", "97", "97", symbol="MORE"),
        ]
        out = cli("simulate", *files).out
        assert re.search(r"profit_take +1 +\+3\.00 +\+3\.00", out)
        assert re.search(r"stop_loss +2 +-5\.00 +-2\.50", out)
        assert re.search(r"all +3 +-2\.00 +-0\.67", out)

    def test_a_nan_bar_is_refused_counted_and_told(self, cli: Cli, tmp_path: Path) -> None:
        bad = bars_file(tmp_path / "nan.csv", "100", "nan", "98", "98")
        data = cli("simulate", bad, "--json").json()
        assert data["refused"] == [
            {
                "symbol": "AAPL",
                "reason": "not_finite",
                "price": "NaN",
                "first_at": "2024-01-02T14:31:00Z",
                "last_at": "2024-01-02T14:31:00Z",
                "count": 1,
                "position_id": f"AAPL:long:20240102T143000Z:{ACCOUNT}",
            }
        ]
        assert [e["reason"] for e in data["exits"]] == ["stop_loss"]
        out = cli("simulate", bad).out
        assert re.search(r"AAPL +not_finite +NaN +1 +2024-01-02 14:31", out)
        assert "1 bar refused" in out

    def test_the_split_ends_the_position_apart_from_the_figures_and_says_why(
        self, cli: Cli, real_bars: list[Path]
    ) -> None:
        data = cli("simulate", *real_bars, "--json").json()
        (ended,) = data["splits"]
        assert (ended["symbol"], ended["reason"], ended["avg_fill_price"]) == ("AAPL", "split?", "645.7")
        assert "AAPL" not in {e["symbol"] for e in data["exits"]}
        out = cli("simulate", *real_bars).out
        assert "Ended at a price that jumped as in a split: not in the figures" in out
        assert "alarm: AAPL went from 645.7 to 92.42 and stayed there: a split 7:1?" in out
        assert "0 open, 1 split?" in out

    def test_a_malformed_line_names_file_and_line(self, cli: Cli, tmp_path: Path) -> None:
        bad, store = tmp_path / "bad.csv", tmp_path / "exits.db"
        bad.write_text(f"{HEADER}\nAAPL,2024-01-02T14:30:00Z,1,1,1,1,1\nAAPL,2024-01-02T14:31:00Z,1,1\n")
        ran = cli("simulate", bad, "--store", store)
        assert ran.code == BAD_INPUT
        assert ran.out == ""
        assert f"exitfsm: error: {bad}:3: " in ran.err
        assert f"{store} holds what happened up to there" in ran.err
        with ExitStore(store, read_only=True) as opened:
            assert opened.count() == 1

    def test_a_malformed_line_without_a_store_says_nothing_of_one(self, cli: Cli, tmp_path: Path) -> None:
        bad = tmp_path / "bad.csv"
        bad.write_text(f"{HEADER}\nAAPL,2024-01-02T14:30:00Z,1,1,1,1,1\nAAPL,yesterday,1,1,1,1,1\n")
        ran = cli("simulate", bad)
        assert ran.code == BAD_INPUT
        assert f"{bad}:3: " in ran.err
        assert "holds what happened" not in ran.err

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (("--qty", "0"), "0 is not above 0"),
            (("--qty", "nan"), "'nan' is not a number that can be traded"),
            (("--qty", "1e99"), "'1e99' is not a number that can be traded"),
            (("--qty", "ten"), "'ten' is not a number"),
            (("--side", "up"), "'up'"),
            (("--slippage-pct", "100"), "100 is not from 0 to below 100"),
            (("--slippage-pct", "-1"), "-1 is not from 0 to below 100"),
            (("--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
            (("--what",), "No such option"),
        ],
    )
    def test_wrong_usage(self, cli: Cli, bars: Path, args: tuple[str, ...], says: str) -> None:
        ran = cli("simulate", bars, *args)
        assert ran.code == BAD_INPUT
        assert ran.out == ""
        assert says in ran.err
        assert "Traceback" not in ran.err

    def test_files_that_cannot_be_read(self, cli: Cli, tmp_path: Path) -> None:
        for wrong in (tmp_path / "nowhere.csv", tmp_path):
            ran = cli("simulate", wrong, "--store", tmp_path / "exits.db")
            assert ran.code == BAD_INPUT
            assert str(wrong) in ran.err
        assert not (tmp_path / "exits.db").exists()
        assert cli("simulate").code == BAD_INPUT

    def test_a_store_with_events_is_left_alone(self, cli: Cli, bars: Path, store: Path) -> None:
        with ExitStore(store, read_only=True) as opened:
            before = opened.chain_head()
        ran = cli("simulate", bars, "--store", store)
        assert ran.code == BAD_INPUT
        assert "starts from an empty store: give a new path" in ran.err
        assert "up to there" not in ran.err
        with ExitStore(store, read_only=True) as opened:
            assert opened.chain_head() == before

    def test_a_store_that_another_process_writes(self, cli: Cli, bars: Path, tmp_path: Path) -> None:
        with ExitStore(tmp_path / "exits.db"):
            ran = cli("simulate", bars, "--store", tmp_path / "exits.db")
        assert ran.code == BAD_INPUT
        assert "is being written by" in ran.err

    def test_a_file_that_is_not_ours_is_not_touched(self, cli: Cli, bars: Path) -> None:
        before = bars.read_bytes()
        for args in (("simulate", bars, "--store", bars), ("status", bars), ("history", bars)):
            ran = cli(*args)
            assert ran.code == BAD_INPUT
            assert "is not an exitfsm store" in ran.err
        assert bars.read_bytes() == before

    def test_the_configuration_counts(self, cli: Cli, bars: Path, tmp_path: Path) -> None:
        config = tmp_path / "trading.yaml"
        config.write_text("exit_manager: {profit_taking: {threshold_pct: 5}, stop_loss: {threshold_pct: 4}}\n")
        assert cli("simulate", bars, "--config", config, "--json").json()["exits"] == []

    def test_mistakes_in_the_configuration_are_bad_input(self, cli: Cli, bars: Path, tmp_path: Path) -> None:
        config = tmp_path / "trading.yaml"
        config.write_text("exit_manager:\n  profit_takng: {}\n  stop_loss: {threshold_pct: 0}\n")
        ran = cli("simulate", bars, "--config", config)
        assert ran.code == BAD_INPUT
        assert f"{config}:2: " in ran.err
        assert f"{config}:3: " in ran.err

    def test_doubts_about_the_configuration_are_told_and_it_runs(self, cli: Cli, bars: Path, tmp_path: Path) -> None:
        config = tmp_path / "trading.yaml"
        config.write_text("exit_manager: {profit_taking: {threshold_pct: 1}}\n")
        ran = cli("simulate", bars, "--config", config, "--json")
        assert ran.json()["bars"] == 10
        assert ran.err.startswith(f"exitfsm: warning: {config}:1: exit_manager.profit_taking.threshold_pct")

    def test_a_custom_rule_cannot_be_given_here(self, cli: Cli, bars: Path, tmp_path: Path) -> None:
        config = tmp_path / "trading.yaml"
        config.write_text("exit_manager: {custom_rule: {enabled: true, name: mine}}\n")
        ran = cli("simulate", bars, "--config", config)
        assert ran.code == BAD_INPUT
        assert "'mine'" in ran.err

    def test_a_file_without_a_bar_is_a_finding(self, cli: Cli, bars: Path, tmp_path: Path) -> None:
        ran = cli("simulate", bars_file(tmp_path / "none.csv"))
        assert ran.code == FINDING
        assert "0 bars, 0 exits, 0 open" in ran.out
        assert "none.csv holds no bar" in ran.err
        (tmp_path / "nothing.csv").write_text("")
        among_others = cli("simulate", bars, tmp_path / "nothing.csv")
        assert among_others.code == FINDING
        assert "profit_take" in among_others.out
        assert "nothing.csv holds no bar" in among_others.err

    def test_narrow_terminals_leave_out_what_can_be_spared(
        self, cli: Cli, bars: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        out = cli("simulate", bars).out
        assert max(map(len, out.splitlines())) <= 80
        assert "Entered" not in out.split("Summary")[0]
        assert re.search(r"AAPL +long 10 +profit_take +100 +102\.5 +2024-01-02 14:33 +102\.6 +\+2\.60", out)


class TestStatus:
    def test_json(self, cli: Cli, tmp_path: Path) -> None:
        store = tmp_path / "exits.db"
        cli("simulate", bars_file(tmp_path / "calm.csv", "100", "101"), "--store", store)
        assert cli("status", store, "--json").json() == {
            "as_of": None,
            "positions": [
                {
                    "position_id": f"AAPL:long:20240102T143000Z:{ACCOUNT}",
                    "symbol": "AAPL",
                    "side": "long",
                    "state": "monitoring",
                    "enabled": True,
                    "qty": "10",
                    "remaining_qty": "10",
                    "entry_price": "100",
                    "opened_at": "2024-01-02T14:30:00Z",
                    "last_price": "101",
                    "last_price_at": "2024-01-02T14:31:00Z",
                    "unrealised_pnl_pct": "1",
                    "stop": {"price": "99", "rule": "stop_loss", "threshold_pct": "1"},
                    "to_stop_pct": "1.9802",
                    "target": {"price": "102", "rule": "profit_take", "threshold_pct": "2"},
                    "reason": None,
                    "triggered_at": None,
                    "trigger_price": None,
                    "attempts": 0,
                    "client_order_id": None,
                    "next_attempt_at": None,
                    "refusal": None,
                    "strategy_name": "simulate",
                    "events": 1,
                    "alarms": [],
                }
            ],
            "alarms": [],
            "over": 0,
            "scope": [],
        }

    def test_an_exit_under_way(self, cli: Cli, store: Path) -> None:
        (held,) = cli("status", store, "--json").json()["positions"]
        assert (held["state"], held["reason"], held["attempts"]) == ("submitted", "stop_loss", 1)
        assert (held["stop"], held["target"]) == (None, None)
        out = cli("status", store).out
        assert re.search(
            r"AAPL +long 10 +submitted +103 +101\.9 +-1\.07 +- +- +- +[0-9,]+ d +stop_loss, attempt 1", out
        )
        assert "1 position open, 1 over, no alarms" in out

    def test_alarms(self, cli: Cli, real_bars: list[Path], tmp_path: Path) -> None:
        store = tmp_path / "exits.db"
        cli("simulate", *real_bars, "--store", store)
        data = cli("status", store, "--json").json()
        (alarm,) = data["alarms"]  # that of the jump has ended with the position
        assert alarm["kind"] == "split"
        out = cli("status", store).out
        assert "alarm split since 2014-06-09" in out
        assert "on AAPL:long:20140605T081500Z" in out
        assert "give bars that are adjusted for splits" in out

    def test_says_that_exits_are_off(self, cli: Cli, tmp_path: Path) -> None:
        config, store = tmp_path / "trading.yaml", tmp_path / "exits.db"
        config.write_text("exit_manager: {enabled: false}\n")
        falling = bars_file(tmp_path / "falling.csv", "100", "97", "96")
        ran = cli("simulate", falling, "--config", config, "--store", store)
        assert "exits are off (enabled: false): nothing could be triggered" in ran.out
        assert "Exits are off (enabled: false) for AAPL: nothing will be triggered." in cli("status", store).out
        assert cli("status", store, "--json").json()["positions"][0]["enabled"] is False

    def test_nothing_there(self, cli: Cli, tmp_path: Path) -> None:
        for command in ("status", "history"):
            ran = cli(command, tmp_path / "nowhere.db")
            assert ran.code == BAD_INPUT
            assert "there is no store at" in ran.err
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_store(self, cli: Cli, tmp_path: Path) -> None:
        ExitStore(tmp_path / "exits.db").close()
        assert cli("status", tmp_path / "exits.db").out == "0 positions open, 0 over, no alarms\n"
        assert cli("history", tmp_path / "exits.db").out == "The store is empty.\n"
        assert cli("history", tmp_path / "exits.db", "--json").json() == []

    def test_reads_while_another_process_writes(self, cli: Cli, store: Path) -> None:
        with ExitStore(store):
            assert cli("status", store).code == 0
            assert cli("history", store).code == 0


class TestHistory:
    def test_shows_each_transition_with_who_and_why(self, cli: Cli, store: Path) -> None:
        out = cli("history", store, f"AAPL:long:20240102T143000Z:{ACCOUNT}").out
        order = "xf2[0-9a-z]{26}001"
        expected = [
            rf"AAPL:long:20240102T143000Z:{ACCOUNT}",
            r"AAPL long 10 at 100: filled; times are UTC, those of bars are bar time",
            r"  1  2024-01-02 14:30:00  PositionOpened  \(nothing\) → monitoring  by bot",
            r"     long 10 at 100; stop_loss 99 \(1 %\), profit_take 102 \(2 %\), strategy simulate",
            r"  2  2024-01-02 14:32:00  ExitTriggered   monitoring → pending    by bar",
            rf"     profit_take: 102.5 reached 102 \(2 %\); sell 10 market day as {order}",
            r"  3  2024-01-02 14:32:00  OrderAccepted   pending → submitted     by broker",
            r"     the broker has it as sim-1",
            r"  4  2024-01-02 14:33:00  FillsRecorded   submitted → partial     by broker",
            r"     10 of 10 at 102.6",
            r"  5  2024-01-02 14:33:00  ExitCompleted   partial → filled        by broker",
            r"     10 at 102.6, \+2.6 % \(\+26\); the broker shows none left; cooldown until 2024-01-02T14:38:00Z",
        ]
        lines = out.splitlines()
        assert len(lines) == len(expected)
        for line, pattern in zip(lines, expected, strict=True):
            assert re.fullmatch(pattern, line.rstrip()), line

    def test_json_has_every_event_with_all_its_fields(self, cli: Cli, store: Path) -> None:
        ran = cli("history", store, "--json")
        events = ran.json()
        with ExitStore(store, read_only=True) as opened:
            assert [e["sequence"] for e in events] == [r.sequence for r in opened.events()]
        states = [(e["version"], e["event"], e["state_before"], e["state_after"]) for e in events[:5]]
        assert states == [
            (1, "position_opened.v1", None, "monitoring"),
            (2, "exit_triggered.v1", "monitoring", "pending"),
            (3, "order_accepted.v1", "pending", "submitted"),
            (4, "fills_recorded.v1", "submitted", "partial"),
            (5, "exit_completed.v1", "partial", "filled"),
        ]
        triggered = events[1]
        assert set(triggered) == {
            "sequence", "position_id", "version", "at", "by", "event", "what", "state_before", "state_after", "fields",
        }  # fmt: skip
        of_parts = {"keep_qty", "leg"}  # left out of an exit of everything, as in the bytes
        assert set(triggered["fields"]) == set(ExitTriggered.__struct_fields__) - of_parts
        assert triggered["fields"]["trigger_price"] == "102.5"
        assert (triggered["at"], triggered["by"]) == ("2024-01-02T14:32:00Z", "bar")
        assert ran.out.count("\n") == len(events) + 2  # one event on a line

    def test_every_transition_of_every_exit_on_the_real_bars(
        self, cli: Cli, real_bars: list[Path], tmp_path: Path
    ) -> None:
        store = tmp_path / "exits.db"
        assert cli("simulate", *real_bars, "--re-enter", "--store", store).code == 0
        with ExitStore(store, read_only=True) as opened:
            exits = [row for row in opened.positions() if row.state.terminal]
            count = opened.count()
        events = cli("history", store, "--json").json()
        assert len(events) == count
        at_splits = [row for row in exits if str(row.state) == "closed"]
        assert len(at_splits) == 1
        for row in exits:
            told = [e["state_after"] for e in events if e["position_id"] == row.position_id]
            if row not in at_splits:
                assert told == ["monitoring", "pending", "submitted", "partial", "filled"]
        assert cli("history", store).out.count(": filled; times are UTC") == len(exits) - len(at_splits)

    @pytest.mark.parametrize(
        "wanted", ["AAPL", "aapl", "AAPL:long:20240102T1430", f"aapl:LONG:20240102T143000Z:{ACCOUNT}"]
    )
    def test_a_position_by_symbol_or_by_the_start_of_its_id(self, cli: Cli, store: Path, wanted: str) -> None:
        events = cli("history", store, wanted, "--json").json()
        streams = {e["position_id"] for e in events}
        assert f"AAPL:long:20240102T143000Z:{ACCOUNT}" in streams
        assert len(streams) == (2 if wanted.upper() == "AAPL" else 1)

    def test_a_position_by_the_id_of_its_order(self, cli: Cli, store: Path) -> None:
        with ExitStore(store, read_only=True) as opened:
            order = opened.exit_orders()[1]
        events = cli("history", store, order.client_order_id, "--json").json()
        assert {e["position_id"] for e in events} == {order.position_id}

    def test_an_ambiguous_start_lists_what_it_could_be(self, cli: Cli, store: Path) -> None:
        ran = cli("history", store, "AAPL:long")
        assert ran.code == BAD_INPUT
        assert "'AAPL:long' is the start of 2 positions" in ran.err
        assert f"AAPL:long:20240102T143000Z:{ACCOUNT}" in ran.err

    def test_an_unknown_position_lists_what_there_is(self, cli: Cli, store: Path) -> None:
        ran = cli("history", store, "MSFT")
        assert ran.code == BAD_INPUT
        assert "no position 'MSFT'; it has AAPL" in ran.err

    def test_an_ambiguous_symbol_is_not_ambiguous(self, cli: Cli, tmp_path: Path) -> None:
        store = tmp_path / "exits.db"
        files = [bars_file(tmp_path / f"{s}.csv", "100", "100", symbol=s) for s in ("A", "AA")]
        cli("simulate", *files, "--store", store)
        assert {e["position_id"].split(":")[0] for e in cli("history", store, "a", "--json").json()} == {"A"}

    def test_text_from_outside_can_do_no_harm(self, cli: Cli, tmp_path: Path) -> None:
        store = tmp_path / "exits.db"
        nasty = f"{ESCAPE}[2J\r\n[bold]gone[/bold] [/] \u202e\x07\x9b31m :smile:"
        stream = "AAPL:long:x:y"
        with ExitStore(store) as opened:
            events = [
                PositionOpened(
                    account="y", symbol="AAPL", side=Side.LONG, epoch="x", qty=Decimal(1), entry_price=Decimal(1),
                    opened_at=T0, policy=ExitPolicy(), strategy_name=nasty,
                ),
                AlarmRaised(alarm_id="1", kind=nasty, text=nasty, at=T0),
            ]  # fmt: skip
            opened.append(stream, 0, events, at=T0, by=nasty)
        for ran in (cli("history", store), cli("status", store), cli("history", store, nasty)):
            assert not set("\x1b\r\u202e\x07\x9b") & set(ran.out + ran.err)
        out = cli("history", store).out
        assert r"\x1b[2J\r\n[bold]gone[/bold] [/] \u202e\x07\x9b31m :smile:" in out
        assert ESCAPE not in cli("history", store, "--json").out


def _d(text: str) -> Decimal:
    return Decimal(text)


OPENED = PositionOpened(
    account="y", symbol="AAPL", side=Side.SHORT, epoch="x", qty=_d("5"), entry_price=_d("100"), opened_at=T0,
    policy=ExitPolicy(),
)  # fmt: skip
TRIGGERED = ExitTriggered(
    reason=ExitType.TIME_LIMIT, client_order_id="id-1", attempt=1, qty=_d("5"), order_type=OrderType.LIMIT,
    time_in_force=TimeInForce.DAY, at=T0, trigger_price=_d("99"), level=_d("99"), threshold_pct=_d("0"),
    limit_price=_d("98.50"), detail="why not",
)  # fmt: skip
#: An event and its words; all but the first kind happen to a short position whose first exit order is pending.
SAID: list[tuple[Event, str]] = [
    (OPENED, "short 5 at 100; stop_loss 101 (1 %), profit_take 98 (2 %)"),
    (replace(OPENED, policy=ExitPolicy(enabled=False)), "short 5 at 100; exits are off (enabled: false)"),
    (
        PositionResized(qty=_d("7.0"), entry_price=_d("50"), at=T0, why="bought"),
        "from 5 to 7 at 50 (bought); stop_loss 50.5 (1 %), profit_take 49 (2 %)",
    ),
    (
        PolicyChanged(policy=ExitPolicy(exit_cooldown_seconds=1, enabled=False), at=T0, by="eve"),
        "enabled on → off, exit_cooldown_seconds 300 → 1; "
        f"policy {ExitPolicy(exit_cooldown_seconds=1, enabled=False).digest()}, by eve; exits are off (enabled: false)",
    ),
    (
        StopMoved(rule=ExitType.TRAILING_STOP, stop=_d("98"), best_price=_d("97"), bar_at=T0),
        "trailing_stop to 98; best price 97",
    ),
    (
        TriggerRefused(reason="price_jump", bar_at=T0, price="14", reference_price=_d("98")),
        "price_jump: 14, last believed 98; nothing is decided on it",
    ),
    (RefusalEnded(reason="price_jump", count=1, bar_at=T0), "price_jump is over after 1 bar"),
    (TRIGGERED, "time_limit at 99 (why not); buy 5 limit 98.5 day as id-1"),
    (
        replace(
            TRIGGERED, reason=ExitType.STOP_LOSS, level=_d("98"), threshold_pct=_d("1"), best_price=_d("97"), detail=""
        ),
        "stop_loss: 99 reached 98 (1 %, best price 97); buy 5 limit 98.5 day as id-1",
    ),
    (OrderAccepted(client_order_id="id-1", broker_order_id="b-1", at=T0), "the broker has it as b-1"),
    (OrderAccepted(client_order_id="id-1", broker_order_id=None, at=T0), "the broker has it"),
    (FillsRecorded(client_order_id="id-1", filled_qty=_d("2"), avg_fill_price=_d("99.0"), at=T0), "2 of 5 at 99"),
    (
        FillsRecorded(client_order_id="id-1", filled_qty=_d("2"), avg_fill_price=None, at=T0, corrected=True),
        "2 of 5, price not known (corrected)",
    ),
    (
        FillsRecorded(client_order_id="id-0", filled_qty=_d("2"), avg_fill_price=_d("99"), at=T0),
        "2 of the earlier id-0 at 99",
    ),
    (OrderRestated(client_order_id="id-1", qty=_d("4"), at=T0), "the broker changed the order from 5 to 4"),
    (
        OrderRestated(client_order_id="id-1", qty=_d("4"), at=T0, text="by hand"),
        "the broker changed the order from 5 to 4 (by hand)",
    ),
    (CancelRequested(client_order_id="id-1", at=T0, why="too much"), "why: too much"),
    (LegWidened(reason=ExitType.STOP_LOSS, at=T0, price=_d("98")), "stop_loss at 98: everything is to be sold"),
    (
        LegCompleted(client_order_id="id-1", leg="1", filled_qty=_d("2"), remaining_qty=_d("3"), at=T0),
        "part 1 is sold: 2, price not known; 3 left; stop_loss 101 (1 %), profit_take 98 (2 %)",
    ),
    (ExitWithdrawn(client_order_id="id-1", at=T0, why="a split"), "id-1 never left, and is taken back: a split"),
    (
        UnitChanged(factor=_d("2"), qty=_d("10"), entry_price=_d("50"), at=T0, why="a split"),
        "from 5 at 100 to 10 at 50, times 2 (a split); stop_loss 50.5 (1 %), profit_take 49 (2 %)",
    ),
    (
        ExitPostponed(client_order_id="id-1", at=T0, until=T0, times=3, refusal="halted"),
        "refused for now (halted), 3 in a row; the same order is sent again from 2024-01-02T14:30:00Z",
    ),
    (CancelRefused(client_order_id="id-1", at=T0), "the broker would not cancel; the order works on"),
    (CancelRefused(client_order_id="id-1", at=T0, text="too late"), "too late"),
    (
        ExitEscalated(client_order_id="id-1", at=T0, why="stop_loss", price=_d("101")),
        "stop_loss at 101: the limit order is canceled, the next attempt is market",
    ),
    (
        OrderEnded(
            client_order_id="id-1",
            how="rejected",
            filled_qty=_d("2"),
            at=T0,
            next_attempt_at=None,
            refusal="halted",
            text="no [trading]",
        ),
        "rejected with 2 of 5 filled (halted: no [trading]); no automatic attempt follows",
    ),
    (
        OrderEnded(client_order_id="id-1", how="expired", filled_qty=_d("0"), at=T0, next_attempt_at=T0),
        "expired with 0 of 5 filled; next attempt from 2024-01-02T14:30:00Z",
    ),
    (
        ExitRetried(
            client_order_id="id-2",
            attempt=2,
            qty=_d("3"),
            order_type=OrderType.MARKET,
            time_in_force=TimeInForce.DAY,
            at=T0,
            budget_spent=1,
            by="eve",
        ),
        "attempt 2, by eve; buy 3 market day as id-2",
    ),
    (
        ExitCompleted(filled_qty=_d("5"), avg_fill_price=_d("98"), filled_at=T0, at=T0, cooldown_until=T0),
        "5 at 98; the broker shows none left; cooldown until 2024-01-02T14:30:00Z",
    ),
    (
        ExitCompleted(filled_qty=_d("5"), avg_fill_price=None, filled_at=T0, at=T0, cooldown_until=T0),
        "5, price not known; the broker shows none left; cooldown until 2024-01-02T14:30:00Z",
    ),
    (
        PositionClosedElsewhere(how="by_hand", remaining_qty=_d("5"), at=T0, cooldown_until=T0),
        "by hand: 5 not sold by us; cooldown until 2024-01-02T14:30:00Z",
    ),
    (
        PositionClosedElsewhere(how="residue", remaining_qty=_d("0.1"), at=T0, cooldown_until=T0),
        "a residue that cannot be sold: 0.1 not sold by us; cooldown until 2024-01-02T14:30:00Z",
    ),
    (ProtectionLost(why="no more attempts", at=T0), "no more attempts"),
    (
        PositionReleased(by="eve", at=T0, qty=_d("5"), entry_price=_d("50")),
        "by eve: 5 at 50; stop_loss 50.5 (1 %), profit_take 49 (2 %)",
    ),
    (AlarmRaised(alarm_id="1", kind="feed", text="lost", at=T0), "feed: lost"),
    (AlarmAcknowledged(alarm_id="1", by="eve", at=T0), "1, by eve"),
]


class TestWords:
    def test_every_event_has_words(self) -> None:
        assert set(words._WORDS) == set(POSITION_EVENTS)

    def test_an_event_of_no_position_is_told_by_its_fields(self) -> None:
        said = words.in_words(None, None, AlarmRaised(alarm_id="1", kind="feed", text="lost", at=T0))
        assert said.startswith("alarm_id 1, kind feed, text lost")

    @pytest.mark.parametrize(("event", "said"), SAID, ids=[f"{type(e).__name__}-{i}" for i, (e, _) in enumerate(SAID)])
    def test_what_is_said(self, event: Event, said: str) -> None:
        if isinstance(event, PositionOpened):
            assert words.in_words(None, evolve(None, event), event) == said
        else:
            p = evolve(evolve(None, OPENED), TRIGGERED)
            assert words.in_words(p, evolve(p, event), event) == said

    def test_each_kind_of_event_is_in_that_list(self) -> None:
        assert {type(event) for event, _ in SAID} == set(POSITION_EVENTS)


class TestDiagram:
    def test_is_the_lifecycle(self, cli: Cli) -> None:
        assert cli("diagram").out == mermaid()
        rows = cli("diagram", "--json").json()
        assert [row["event"] for row in rows] == [row.event.__name__ for row in TABLE]
        assert rows[0] == {"source": None, "event": "PositionOpened", "target": "monitoring", "why": ""}


class TestConfig:
    def test_no_mistakes(self, cli: Cli, tmp_path: Path) -> None:
        good = tmp_path / "good.yaml"
        good.write_text("exit_manager: {}\n")
        assert cli("config", "check", good) == (0, f"{good}: no mistakes\n", "")
        assert cli("config", "check", good, "--json").json() == {
            "file": str(good),
            "ok": True,
            "mistakes": [],
            "warnings": [],
        }

    def test_mistakes_are_findings_all_of_them(self, cli: Cli, tmp_path: Path) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("exit_manager:\n  profit_takng: {}\n  stop_loss: {threshold_pct: -1}\n")
        ran = cli("config", "check", bad)
        assert (ran.code, ran.out) == (FINDING, "")
        first, second = ran.err.splitlines()
        assert first.startswith(f"exitfsm: error: {bad}:2: exit_manager.profit_takng: ")
        assert '"profit_taking"' in first
        assert second.startswith(f"exitfsm: error: {bad}:3: exit_manager.stop_loss.threshold_pct: ")
        as_json = cli("config", "check", bad, "--json")
        assert as_json.code == FINDING
        assert as_json.err == ""
        data = json.loads(as_json.out)
        assert data["ok"] is False
        with pytest.raises(ConfigError) as raised:
            load_config(bad)
        assert data["mistakes"] == raised.value.mistakes

    def test_a_warning_is_no_mistake(self, cli: Cli, tmp_path: Path) -> None:
        odd = tmp_path / "odd.yaml"
        odd.write_text("exit_manager: {profit_taking: {threshold_pct: 1}}\n")
        ran = cli("config", "check", odd)
        assert ran.code == 0
        assert ran.err.startswith(f"exitfsm: warning: {odd}:1: ")
        assert len(cli("config", "check", odd, "--json").json()["warnings"]) == 1

    def test_a_file_that_cannot_be_read_is_bad_input(self, cli: Cli, tmp_path: Path) -> None:
        assert cli("config", "check", tmp_path / "nowhere.yaml").code == BAD_INPUT
        assert cli("config", "check", tmp_path).code == BAD_INPUT

    def test_schema(self, cli: Cli) -> None:
        from exitfsm.config import config_schema

        assert cli("config", "schema").json() == config_schema()

    def test_show_reads_back_to_the_same_configuration(self, cli: Cli, tmp_path: Path) -> None:
        from exitfsm.config import ExitConfig

        mine, shown = tmp_path / "mine.yaml", tmp_path / "shown.yaml"
        mine.write_text("exit_manager: {time_limit: {enabled: true, max_seconds: 60}, session: {open: '08:00'}}\n")
        for source, expected in (((), ExitConfig()), ((mine,), load_config(mine))):
            shown.write_text(cli("config", "show", *source).out)
            assert load_config(shown) == expected
            assert load_config(cli("config", "show", *source, "--json").json()) == expected


class TestMain:
    def test_version_and_help(self, cli: Cli) -> None:
        assert cli("--version") == (0, f"exitfsm {__version__}\n", "")
        ran = cli("--help")
        assert ran.code == 0
        for command in ("demo", "simulate", "status", "history", "diagram", "config"):
            assert re.search(rf"^  {command} +[A-Z][^.]+\.$", ran.out, re.MULTILINE), command  # none is cut short
        assert ran.out.isascii()

    def test_no_command_and_an_unknown_one(self, cli: Cli) -> None:
        assert cli().code == BAD_INPUT
        ran = cli("histry")
        assert ran.code == BAD_INPUT
        assert "'history'" in ran.err

    def test_without_the_extra_it_says_how_to_get_it(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in [name for name in sys.modules if name.startswith("exitfsm.cli.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, "typer", None)
        ran = cli("--version")
        assert ran.code == BAD_INPUT
        assert "pip install exitfsm[cli]" in ran.err

    def test_a_defect_of_ours_is_no_finding(self, cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(ExitStore, "open_positions", broken)
        ran = cli("status", store)
        assert ran.code == DEFECT
        assert "ZeroDivisionError" in ran.err

    def test_a_failing_system_is_a_message(self, cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def failing(*_: object) -> None:
            raise PermissionError(13, "Permission denied", "exits.db")

        monkeypatch.setattr(ExitStore, "open_positions", failing)
        assert cli("status", store) == (BAD_INPUT, "", "exitfsm: error: exits.db: Permission denied\n")

    def test_tables_are_as_wide_as_they_need_to_be_without_a_terminal(self, cli: Cli, store: Path) -> None:
        assert max(map(len, cli("history", store).out.splitlines())) > 80

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain", "plain"),
            ("a\tb", r"a\tb"),
            ("\x1b[0m", r"\x1b[0m"),
            ("\u202e", r"\u202e"),
            ("\udcff", r"\udcff"),
            ("é", "é"),
        ],
    )
    def test_clean(self, text: str, shown: str) -> None:
        assert screen.clean(text) == shown

    @pytest.mark.parametrize("width", [80, 30, 12])
    def test_a_table_looks_the_same_whether_it_was_put_together_or_laid_out(self, width: int) -> None:
        columns: list[screen.Column] = [("Symbol", "left"), ("P&L %", "right"), ("Where", "left")]
        rows: list[list[screen.Cell]] = [
            ["A", screen.colored(Decimal(1), "+1.00"), "日本"],
            ["ABCDEFGHI", screen.colored(Decimal(0), "0"), ""],
            ["x", "1", screen.colored(Decimal(-1), "b c")],
        ]
        shown = []
        for made in (screen.table(columns, rows), screen.broken(columns, rows)):
            console = Console(file=io.StringIO(), width=width, markup=False, color_system=None)
            console.print(made)
            assert isinstance(console.file, io.StringIO)
            shown.append(console.file.getvalue())
        assert shown[0] == shown[1]

    def test_a_table_in_colour_has_its_colours_where_they_belong(self) -> None:
        made = screen.table([("P&L %", "right"), ("On", "left")], [[screen.colored(Decimal(-1), "-1"), "x"]])
        console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard")
        console.print(made)
        assert isinstance(console.file, io.StringIO)
        assert console.file.getvalue().splitlines()[2] == "\x1b[31m   -1\x1b[0m  x "


def process(*args: object, **kwargs: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "exitfsm", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


class TestProcess:
    def test_runs_as_a_module(self) -> None:
        ran = process("--version")
        assert ran.communicate() == (f"exitfsm {__version__}\n".encode(), b"")
        assert ran.returncode == 0

    @pytest.mark.skipif(os.name == "nt", reason="no such pipes there")
    @pytest.mark.parametrize("args", [("history",), ("history", "--json"), ("status",), ("--help",)])
    def test_a_closed_pipe_is_quiet(self, store: Path, args: tuple[str, ...]) -> None:
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "exitfsm", *args, *([str(store)] if args != ("--help",) else [])]
        ran = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
        os.close(write)
        assert (ran.returncode, ran.stderr) == (PIPE_CLOSED, b"")

    def test_a_terminal_without_the_characters(self, store: Path) -> None:
        ran = process("history", store, env=os.environ | {"PYTHONIOENCODING": "ascii"})
        out, err = ran.communicate()
        assert (ran.returncode, err) == (0, b"")
        assert rb"monitoring \u2192 pending" in out

    @pytest.mark.skipif(os.name == "nt", reason="no such terminals there")
    @pytest.mark.parametrize("extra", [(), ("--json",)])
    def test_progress_is_shown_on_a_terminal_and_nowhere_else(self, bars: Path, extra: tuple[str, ...]) -> None:
        ours, theirs = os.openpty()
        command = [sys.executable, "-m", "exitfsm", "simulate", str(bars), *extra]
        ran = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=theirs, check=False, env=os.environ | {"TERM": "xterm"}
        )
        os.close(theirs)
        seen = os.read(ours, 1 << 16)
        os.close(ours)
        assert ran.returncode == 0
        assert b"bars" in seen
        assert b"\x1b" not in ran.stdout
