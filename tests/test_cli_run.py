"""`exitfsm run` with the paper broker: the live manager on recorded bars, as a user runs it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("typer")

from exitfsm import ExitStore, State
from exitfsm.cli import main

T0 = datetime(2024, 1, 3, 15, 0, tzinfo=UTC)
HEADER = "symbol,timestamp,open,high,low,close,volume"


def bars_file(path: Path, *closes: str, start: datetime = T0) -> Path:
    lines = [HEADER]
    for minute, close in enumerate(closes):
        at = (start + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines.append(f"ACME,{at},{close},{close},{close},{close},1")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_given_bars_that_stop_out_when_run_on_paper_then_each_step_is_printed_and_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = bars_file(tmp_path / "bars.csv", "100", "100.5", "98.9", "98.8", "98.7")
    store = tmp_path / "exits.db"
    assert main(["run", "--bars", str(bars), "--store", str(store)]) == 0
    out = capsys.readouterr().out
    steps = [line.split()[2] for line in out.splitlines() if " ACME " in line]
    assert steps == ["PositionOpened", "ExitTriggered", "OrderAccepted", "FillsRecorded", "ExitCompleted"]
    assert "5 bars" in out
    with ExitStore(str(store), read_only=True) as exits:
        assert [row.state for row in exits.positions()] == [State.FILLED]
        (order,) = exits.exit_orders()
        assert (str(order.avg_fill_price), order.resubmit_count) == ("98.8", 0)
        assert exits.verify_chain() is None


def test_given_re_enter_when_the_cooldown_is_over_then_the_symbol_is_entered_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closes = ["100", "98.9", "98.8", *["98.8"] * 8]
    bars = bars_file(tmp_path / "bars.csv", *closes)
    store = tmp_path / "exits.db"
    assert main(["run", "--bars", str(bars), "--store", str(store), "--re-enter"]) == 0
    with ExitStore(str(store), read_only=True) as exits:
        first, second = exits.positions()
        assert first.cooldown_until_utc == T0 + timedelta(minutes=2, seconds=300)
        assert second.opened_at_utc == T0 + timedelta(minutes=7)


def test_given_a_closed_market_when_a_stop_is_hit_then_the_order_waits_for_the_open(tmp_path: Path) -> None:
    before_the_open = datetime(2024, 1, 3, 14, 26, tzinfo=UTC)  # 9:26 in New York
    bars = bars_file(tmp_path / "bars.csv", "100", "98.9", *["98.8"] * 5, start=before_the_open)
    store, config = tmp_path / "exits.db", tmp_path / "trading.yaml"
    config.write_text("exit_manager: {session: {trade: extended}}\n")  # else a price before the open decides nothing
    assert main(["run", "--bars", str(bars), "--store", str(store), "--config", str(config)]) == 0
    with ExitStore(str(store), read_only=True) as exits:
        (position,) = exits.positions()
        times = {type(r.event).__name__: r.at_ns // 10**9 for r in exits.stream(position.position_id)}
    opens = int(datetime(2024, 1, 3, 14, 30, tzinfo=UTC).timestamp())
    assert times["ExitTriggered"] < opens <= times["OrderAccepted"]


def test_given_a_store_that_is_in_use_when_run_then_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = bars_file(tmp_path / "bars.csv", "100", "98.9", "98.8")
    store = tmp_path / "exits.db"
    assert main(["run", "--bars", str(bars), "--store", str(store)]) == 0
    with ExitStore(str(store), read_only=True) as exits:
        count = exits.count()
    assert main(["run", "--bars", str(bars), "--store", str(store)]) == 2
    assert "give a new path" in capsys.readouterr().err
    with ExitStore(str(store), read_only=True) as exits:
        assert exits.count() == count


def test_given_a_broker_that_is_not_known_when_run_then_the_error_names_what_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = bars_file(tmp_path / "bars.csv", "100")
    assert main(["run", "--broker", "nobody", "--bars", str(bars), "--store", str(tmp_path / "x.db")]) == 2
    assert "paper" in capsys.readouterr().err


def test_given_record_bars_when_run_on_paper_then_what_if_and_the_page_need_no_other_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = bars_file(tmp_path / "bars.csv", "100", "100.5", "98.9", "98.8", "98.7")
    store, config = str(tmp_path / "exits.db"), tmp_path / "trading.yaml"
    config.write_text("exit_manager:\n  record_bars: true\n", encoding="utf-8")
    assert main(["run", "--bars", str(bars), "--store", store, "--config", str(config)]) == 0
    assert main(["whatif", store]) == 0
    assert "reproduces the log: 1 decision" in capsys.readouterr().out
    assert main(["audit", store, "ACME", "-o", str(tmp_path / "page.html")]) == 0
    assert "No bars" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    for left in tmp_path.glob("exits.db*"):
        if left.name != "exits.db.bars":
            left.unlink()
    assert main(["run", "--bars", str(bars), "--store", store, "--config", str(config)]) == 2
    assert "holds the bars of another run" in capsys.readouterr().err


def test_given_a_broker_that_does_not_exist_when_run_then_that_is_said_and_not_what_else_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--broker", "papper"]) == 2
    err = capsys.readouterr().err
    assert "'papper'" in err
    assert "--broker" in err
    assert "--bars" not in err
