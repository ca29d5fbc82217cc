"""`exitfsm watch`: the most urgent first, beside the bot, in a terminal and out of one."""

from __future__ import annotations

import io
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from exitfsm import ExitPolicy, ExitStore, Side
from exitfsm.account import Account
from exitfsm.cli import main
from exitfsm.cli.watching import Eye, picture
from exitfsm.events import AlarmRaised, ExitTriggered, PositionOpened, ProtectionLost, TradingPaused
from exitfsm.position import client_order_id, position_id
from exitfsm.projections import Mark
from exitfsm.values import ExitType, OrderType, TimeInForce

T0 = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)
ACCOUNT = "abcdef012345"


def held(store: ExitStore, symbol: str, price: str | None = None, *, side: Side = Side.LONG) -> str:
    key = position_id(ACCOUNT, symbol, side, "20240102T153000Z")
    opened = PositionOpened(
        account=ACCOUNT,
        symbol=symbol,
        side=side,
        epoch="20240102T153000Z",
        qty=Decimal(10),
        entry_price=Decimal(100),
        opened_at=T0,
        policy=ExitPolicy(),
    )
    store.append(key, 0, [opened], at=T0, by="bot")
    if price is not None:
        mark = Mark(
            symbol=symbol, position_id=key, price=Decimal(price), pnl_pct=Decimal(0), best_price=Decimal(100), at=T0
        )
        store.save_marks([mark])
    return key


def triggered(key: str) -> ExitTriggered:
    return ExitTriggered(
        reason=ExitType.STOP_LOSS,
        client_order_id=client_order_id(key, 1),
        attempt=1,
        qty=Decimal(10),
        order_type=OrderType.MARKET,
        time_in_force=TimeInForce.DAY,
        at=T0,
        trigger_price=Decimal(99),
        level=Decimal(99),
        threshold_pct=Decimal(1),
    )


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with ExitStore(tmp_path / "a.db") as made:
        made.bind(ACCOUNT)
        yield made


def drawn(store: ExitStore, *, seconds: float = 5, **how: Any) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=200, markup=False, highlight=False)
    console.print(picture(Eye(store).look(), T0 + timedelta(seconds=seconds), **how))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_given_positions_when_drawn_then_the_most_urgent_is_first_with_all_there_is_to_see(store: ExitStore) -> None:
    held(store, "FAR", "100.2")
    held(store, "NEAR", "99.1")
    held(store, "SHORT", "100.5", side=Side.SHORT)
    leaving, lost = held(store, "LEAVING"), held(store, "LOST")
    store.append(leaving, 1, [triggered(leaving)], at=T0, by="bar")
    alarm = AlarmRaised(alarm_id="x", kind="protection_lost", text="look\x1b[2J\nhere", at=T0)
    store.append(lost, 1, [ProtectionLost(why="x", at=T0), alarm], at=T0, by="timer")

    heading, columns, _, *rows = drawn(store)
    assert "5 positions · newest bar 5 s ago · 1 alarm" in heading
    assert columns.split()[:3] == ["Symbol", "Held", "State"]
    assert [row.split()[0] for row in rows[:5]] == ["LOST", "LEAVING", "NEAR", "SHORT", "FAR"]
    assert rows[1].split()[-2:] == ["1", "stop_loss"]
    assert "stop_loss -0.10  profit_take +2.93" in rows[2]
    assert "stop_loss -0.50  profit_take +2.49" in rows[3]
    assert rows[5] == "alarm protection_lost (5 s): look\\x1b[2J\\nhere"


def test_given_the_account_when_drawn_then_a_pause_is_seen_and_nothing_held_is_said(store: ExitStore) -> None:
    assert drawn(store) == [f"{store.where} · 15:30:05 UTC · 0 positions · no bars yet"]
    Account(store, ACCOUNT).record(TradingPaused(by="me", at=T0), at=T0, by="operator")
    assert drawn(store)[0].endswith("· PAUSED: no new exits")


def test_given_more_than_the_screen_takes_when_drawn_then_the_least_urgent_are_counted(store: ExitStore) -> None:
    for number in range(30):
        held(store, f"S{number:02}", str(100 + number / 100))
    lines = drawn(store, rows_max=5, width=80)
    assert lines[-1] == "and 25 more, less urgent"
    assert all(len(line) <= 80 for line in lines[1:])
    assert lines[3].startswith("S00")


def test_given_no_terminal_when_run_then_it_looks_once(store: ExitStore, capsys: pytest.CaptureFixture[str]) -> None:
    held(store, "AAPL", "99.5")
    assert main(["watch", str(store.path)]) == 0
    assert "AAPL" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="needs a terminal of POSIX")
def test_given_a_terminal_when_run_beside_the_bot_then_it_shows_what_comes_and_ends_with_ctrl_c(
    store: ExitStore,
) -> None:
    import pty

    held(store, "FIRST", "99.5")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "exitfsm", "watch", "--every", "0.1", str(store.path)]
    environment = os.environ | {"COLUMNS": "150", "LINES": "40", "TERM": "xterm"}
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        seen = read_until(ours, "FIRST")
        held(store, "SECOND", "99.4")
        seen += read_until(ours, "SECOND")
        end = time.monotonic() + 20
        while running.poll() is None and time.monotonic() < end:  # a terminal that nobody reads is full at some time
            running.send_signal(signal.SIGINT)  # Python loses one that comes while it finalizes an object: press again
            for _ in range(10):
                seen += read(ours) if running.poll() is None else ""
        assert running.returncode == 0, seen
    finally:
        running.kill()
        running.wait()
        os.close(ours)
    assert "Traceback" not in seen


def read_until(terminal: int, word: str) -> str:
    seen, end = "", time.monotonic() + 30
    while word not in seen:
        assert time.monotonic() < end, seen
        seen += read(terminal)
    return seen


def read(terminal: int) -> str:
    """What is there to read within a moment; nothing where the other side has gone."""
    if not select.select([terminal], [], [], 0.2)[0]:
        return ""
    with suppress(OSError):
        return os.read(terminal, 100_000).decode("utf-8", "replace")
    return ""
