"""The demo: every story happens, the crash is real, and what is printed is what the store says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from exitfsm import ExitStore, ExitType, Position, Side, SimulatedBroker, State, StoreError, replay
from exitfsm.cli import BAD_INPUT, main, market_day
from exitfsm.cli.market_day import CRASH, QTY, STORIES, Crash
from exitfsm.events import (
    ExitCompleted,
    ExitRetried,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionOpened,
    StopMoved,
)
from exitfsm.values import pct_change, plain


class Day(NamedTuple):
    """A day that was played, and what is left of it."""

    store: ExitStore
    venue: SimulatedBroker
    crash: Crash

    def position(self, symbol: str) -> Position:
        (row,) = self.store.positions(symbol=symbol)
        return replay(r.event for r in self.store.stream(row.position_id))

    def events(self, symbol: str) -> list[str]:
        return [type(r.event).__name__ for r in self.store.stream(self.position(symbol).position_id)]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    path, venue = tmp_path_factory.mktemp("demo") / "exits.db", SimulatedBroker()
    crash = market_day.run_day(str(path), venue)
    with closing(ExitStore(path, read_only=True)) as store:
        yield Day(store, venue, crash)


class TestStories:
    def test_all_are_told_to_their_end(self, day: Day) -> None:
        assert {row.symbol for row in day.store.positions()} == set(STORIES)
        assert day.store.open_positions() == []
        assert day.store.alarms() == []
        assert day.store.verify_chain() is None
        assert day.store.verify_read_models() == []
        assert day.venue.positions() == []

    def test_each_quantity_is_sold_exactly_once(self, day: Day) -> None:
        for symbol in STORIES:
            assert sum(market_day.sold(day.venue, symbol)) == QTY, symbol

    def test_profit_take(self, day: Day) -> None:
        assert day.position("TARGET").reason is ExitType.PROFIT_TAKE

    def test_stop_through_a_gap(self, day: Day) -> None:
        p = day.position("GAP")
        assert p.reason is ExitType.STOP_LOSS
        assert p.avg_exit_price is not None
        assert pct_change(p.entry_price, p.avg_exit_price, p.side) < -3 * p.policy.stop_loss.threshold_pct

    def test_trailing_stop(self, day: Day) -> None:
        p = day.position("TRAIL")
        assert p.reason is ExitType.TRAILING_STOP
        assert p.avg_exit_price is not None
        assert p.avg_exit_price > p.entry_price

    def test_partial_fill_with_resubmit(self, day: Day) -> None:
        p = day.position("PARTIAL")
        assert p.attempt == 2
        assert day.events("PARTIAL")[-6:] == [
            "FillsRecorded", "OrderEnded", "ExitRetried", "OrderAccepted", "FillsRecorded", "ExitCompleted",
        ]  # fmt: skip
        assert market_day.sold(day.venue, "PARTIAL") == [Decimal(40), Decimal(60)]

    def test_reject_with_retry(self, day: Day) -> None:
        assert day.position("REJECT").attempt == 2
        ended = [
            r.event for r in day.store.stream(day.position("REJECT").position_id) if isinstance(r.event, OrderEnded)
        ]
        assert [(e.how, e.refusal, e.filled_qty) for e in ended] == [("rejected", "halted", 0)]
        assert "ExitRetried" in day.events("REJECT")


class TestCrash:
    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal there")
    def test_the_process_was_killed(self, day: Day) -> None:
        assert day.crash.exit_code == -signal.SIGKILL

    def test_the_new_engine_asked_before_it_sent(self, day: Day) -> None:
        assert (day.crash.known_as, day.crash.asked, day.crash.answer) == ("pending", "LookUp", "filled")

    def test_one_order_was_sent_and_its_fill_found(self, day: Day) -> None:
        p = day.position(CRASH)
        assert p.state is State.FILLED
        assert (p.client_order_id, p.attempt) == (day.crash.client_order_id, 1)
        assert market_day.sold(day.venue, CRASH) == [QTY]
        kinds = [type(r.event) for r in day.store.stream(p.position_id)]
        assert kinds[-3:] == [OrderAccepted, FillsRecorded, ExitCompleted]
        assert ExitRetried not in kinds

    def test_what_was_committed_before_the_crash_outlives_it(self, day: Day) -> None:
        """The trailing stop was moved by the process that died, and decided in the one after it."""
        triggered_at = day.position(CRASH).triggered_at
        trail = day.position("TRAIL")
        assert triggered_at is not None
        assert trail.triggered_at is not None
        assert trail.triggered_at > triggered_at
        moved = [r.event for r in day.store.stream(trail.position_id) if isinstance(r.event, StopMoved)]
        assert moved[-1].bar_at < triggered_at

    def test_the_store_is_left_as_the_dead_process_had_it(self, tmp_path: Path) -> None:
        """After the kill: the intent is durable, the order is at the venue, its answer is nowhere, the lock is free."""
        path, venue = str(tmp_path / "exits.db"), SimulatedBroker()
        _, _, order = market_day._until_killed(path, venue)
        at_venue = venue.order(order.client_order_id)
        assert at_venue is not None
        assert not at_venue.status.terminal
        with ExitStore(path) as store:
            row = store.exit_order(order.client_order_id)
            assert row is not None
            assert (row.status, row.alpaca_order_id) == ("pending", None)
            assert store.verify_chain() is None

    def test_an_order_that_never_arrived_is_sent_again_under_its_id(self, tmp_path: Path) -> None:
        path, venue = str(tmp_path / "exits.db"), SimulatedBroker()
        _, _, order = market_day._until_killed(path, venue)
        other = SimulatedBroker()  # the same books, but it never heard of the order
        for symbol in STORIES:
            if venue.held(symbol):
                other.hold(symbol, Side.LONG, venue.held(symbol), Decimal(100), market_day.OPENS_AT)
        rest = [bar for bar in market_day.bars() if bar.timestamp > venue.now]
        _, state, asked, answer = market_day._go_on(path, other, order.client_order_id, rest)
        assert (state, asked, answer) == ("pending", "LookUp", "unknown")
        with ExitStore(path) as store:
            row = store.exit_order(order.client_order_id)
            assert row is not None
            assert (row.status, row.resubmit_count) == ("filled", 0)
        assert market_day.sold(other, CRASH) == [QTY]

    def test_a_bot_that_fails_is_an_error_and_no_hanging(self, tmp_path: Path) -> None:
        path = str(tmp_path / "exits.db")
        with ExitStore(path), pytest.raises(StoreError, match="is being written by"):
            market_day._until_killed(path, SimulatedBroker())


class TestCommand:
    @pytest.fixture(autouse=True)
    def _plain_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR"):
            monkeypatch.delenv(name, raising=False)

    def test_prints_what_the_store_says(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "exits.db"
        assert main(["demo", "--store", str(path)]) == 0
        out = capsys.readouterr().out
        with ExitStore(path, read_only=True) as store:
            positions = [replay(r.event for r in store.stream(row.position_id)) for row in store.positions()]
        assert len(positions) == len(STORIES)
        for p in positions:
            assert p.trigger_price is not None
            assert p.avg_exit_price is not None
            prices = [plain(price) for price in (p.entry_price, p.trigger_price, p.avg_exit_price)]
            pnl = f"{pct_change(p.entry_price, p.avg_exit_price, p.side):+.2f}"
            assert [p.symbol, STORIES[p.symbol].shows, p.reason, *prices, pnl, str(p.attempt)] in _rows(out)
        assert re.search(r"Process \d+ was killed ", out)
        assert f"exitfsm history {path}\n" in out
        assert "\x1b" not in out
        self._reads_back(path, capsys)

    def _reads_back(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["history", str(path), CRASH, "--json"]) == 0
        events = json.loads(capsys.readouterr().out)
        assert [e["state_after"] for e in events] == ["monitoring", "pending", "submitted", "partial", "filled"]

    def test_a_store_with_events_is_left_alone(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "exits.db"
        with ExitStore(path) as store:
            bar = next(market_day.bars())
            opened = PositionOpened(
                account="y", symbol="AAPL", side="long", epoch="x", qty=QTY, entry_price=bar.close,
                opened_at=bar.timestamp, policy=market_day.config().policy,
            )  # fmt: skip
            store.append("AAPL:long:x:y", 0, [opened], at=bar.timestamp, by="bot")
        assert main(["demo", "--store", str(path)]) == BAD_INPUT
        assert "give the demo a new path" in capsys.readouterr().err
        with ExitStore(path, read_only=True) as store:
            assert store.count() == 1

    def test_memory_cannot_outlive_a_process(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--store", ":memory:"]) == BAD_INPUT
        assert "must be a file" in capsys.readouterr().err

    def test_as_a_program_in_its_own_temporary_folder(self, tmp_path: Path) -> None:
        env = os.environ | {"TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
        ran = subprocess.run(
            [sys.executable, "-m", "exitfsm", "demo"], capture_output=True, text=True, env=env, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        (store,) = tmp_path.glob("exitfsm-demo-*/exits.db")
        assert f"The store is {store}." in ran.stdout


def _rows(out: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
