"""What a run says of itself: to people at its start and each minute, to systemd, and to programs as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import sys
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from harness import MakeWorld, World

pytest.importorskip("typer")

from rich.console import Console

from exitfsm import ExitStore, Session
from exitfsm.cli import _run, service
from exitfsm.cli.app import app
from exitfsm.cli.service import JsonLines, Notices, banner, beat, hours_in_words, minute_line, print_json, steered
from exitfsm.cli.watching import Eye, picture
from exitfsm.events import ScopeChanged

AT = datetime(2024, 1, 2, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "words"),
    [
        (None, "the market's hours are not known"),
        (Session(is_open=True), "the market is open"),
        (Session(is_open=True, close=AT), "the market is open until 2024-01-02T21:00:00Z"),
        (Session(is_open=False, next_open=AT), "the market is closed until 2024-01-02T21:00:00Z"),
        (Session(is_open=False), "the market is closed"),
    ],
)
def test_hours_in_words(hours: Session | None, words: str) -> None:
    assert hours_in_words(hours) == words


async def test_it_begins_with_what_it_watches_in_money_and_how_it_is_steered(world: World) -> None:
    lines = banner(world.manager, "account …001 (paper)", "iex", Session(is_open=False, next_open=AT), "steer it: so")
    assert lines == [
        "watching 1 position: everything that account …001 (paper) holds",
        "  AAPL long 10 at 100 (1000)",
        "bars: Alpaca's feed iex; order updates: Alpaca's stream; the market is closed until 2024-01-02T21:00:00Z",
        "steer it: so",
    ]


async def test_each_minute_says_what_goes_on_and_what_does_not(world: World) -> None:
    assert minute_line(world.manager, None) == "watching 1 position"
    await world.bar(98)
    assert "1 exit under way, the oldest for " in minute_line(world.manager, Session(is_open=True))
    for n in (1, 2):
        await world.until(lambda n=n: len(world.orders) == n, seconds=60)  # type: ignore[misc]
        world.broker.reject(world.last_order, "not_tradable")
        await world.deliver()
    line = minute_line(world.manager, Session(is_open=False))
    assert "UNPROTECTED: AAPL" in line
    assert "active alarm" in line
    assert line.endswith("the market is closed")


async def test_a_line_says_how_many_exits_wait_for_the_order_budget_and_status_what_has_not_left(
    make_world: MakeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world = await make_world({"live": {"orders_per_minute": 2}})
    for symbol in ("AAPL", "MSFT", "NVDA", "TSLA", "VTI"):
        await world.enter(symbol=symbol)
    assert "wait" not in minute_line(world.manager, None)
    forced = asyncio.ensure_future(world.manager.flatten_all())
    await world.passes(2)
    assert len(world.orders) == 2
    line = minute_line(world.manager, None)
    assert "5 exits under way" in line
    assert re.search(r"3 exits wait \d+ s", line), line
    standing = asyncio.to_thread(lambda: _run(app, ["status", str(world.store_path)]))
    assert await standing == 0
    assert "3 exits have not reached the broker yet, the oldest for " in capsys.readouterr().out
    await world.passes(130, step=5)
    assert len(world.orders) == 5
    assert "wait" not in minute_line(world.manager, None)
    await forced


async def test_it_begins_with_what_is_not_managed_and_what_a_person_said(make_world: MakeWorld) -> None:
    world = await make_world({"manage": {"ignore": ["VTI"]}})
    await world.enter()
    world.broker.enter("VTI", "long", 40, 200)
    await world.manager.sync()
    change = ScopeChanged(symbol="TSLA", how="adopted", by="jo #1", at=world.clock.now(), why="mine")
    await world.manager._at_work.context.alarms.record(change)
    lines = banner(world.manager, "account …001 (paper)", "iex", None, "steer it: so")
    assert lines[0] == "watching 1 position: what is managed of account …001 (paper)"
    assert "  not managed: VTI 40, manage.ignore names it" in lines
    assert any(line.startswith("  said by a person: TSLA: managed since ") for line in lines)
    with ExitStore(world.store_path, read_only=True) as store:
        seen = Eye(store).look()
    assert [choice.symbol for choice in seen.scope] == ["TSLA"]
    console = Console(width=200, record=True, file=StringIO())
    console.print(picture(seen, AT))
    assert "TSLA: managed since" in console.export_text()


async def test_what_happens_is_a_line_of_json_each(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    out = StringIO()
    world = await make_world(on_event=print_json)
    monkeypatch.setattr(sys, "stdout", out)
    await world.enter()
    await world.manager.pause("anna\nforged", "lunch")
    monkeypatch.undo()
    first, *_, last = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (first["event"], first["symbol"], first["state"]) == ("position_opened.v1", "AAPL", "monitoring")
    assert first["body"]["qty"] == "10"
    assert (last["event"], last["symbol"], last["body"]["by"]) == ("trading_paused.v1", None, "anna\nforged")


def test_the_log_is_a_line_of_json_each_with_its_traceback() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("exitfsm", logging.ERROR, "", 1, "a %s", ("b\nc",), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["level"], said["logger"], said["text"]) == ("error", "exitfsm", "a b\nc")
    assert "ValueError: why" in said["traceback"]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    monkeypatch.chdir(tmp_path)  # so that its path is short
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind("notify")
    made.settimeout(5)
    return made


async def test_systemd_hears_of_a_start_and_that_it_lives(world: World, systemd: socket.socket) -> None:
    with systemd:
        notices = Notices({"NOTIFY_SOCKET": "notify", "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())})
        notices.say(READY="1", STATUS="a\nFORGED=1")
        assert systemd.recv(1000) == b"READY=1\nSTATUS=a\\nFORGED=1"
        beating = asyncio.create_task(beat(notices, world.manager))
        await asyncio.sleep(0.1)
        beating.cancel()
        assert [systemd.recv(1000) for _ in range(3)] == [b"WATCHDOG=1\nSTATUS=watching 1 position"] * 3


async def test_the_watchdog_hears_of_a_manager_that_cannot_say_what_it_watches(
    world: World, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise RuntimeError("a defect")

    monkeypatch.setattr(service, "minute_line", broken)
    with systemd:
        beating = asyncio.create_task(
            beat(Notices({"NOTIFY_SOCKET": "notify", "WATCHDOG_USEC": "40000"}), world.manager)
        )
        await asyncio.sleep(0.1)
        beating.cancel()
        assert [systemd.recv(1000).startswith(b"WATCHDOG=1\nSTATUS=it lives") for _ in range(2)] == [True, True]


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog_is_heard_where_it_is_meant(environment: dict[str, str], seconds: float | None) -> None:
    assert Notices(environment).watchdog_s == seconds


def test_where_no_systemd_is_nothing_is_said(tmp_path: Path) -> None:
    Notices({}).say(READY="1")
    Notices({"NOTIFY_SOCKET": str(tmp_path / "gone")}).say(READY="1")


async def test_a_manager_that_cannot_be_steered_watches_all_the_same(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    async with steered(world.manager, asyncio.Event(), None) as line:
        assert "it listens at" in line
    world.store_path.with_name(f"{world.store_path.name}.sock").write_text("in the way")
    async with steered(world.manager, asyncio.Event(), None) as line:
        assert line.startswith("it cannot be steered")
    assert "in the way and no socket" in capsys.readouterr().err
    await world.bar(98)
    assert len(world.orders) == 1


async def test_the_line_a_minute_is_for_a_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def hours() -> Session:
        return Session(is_open=False, next_open=AT)

    await service.each_minute(world.manager, hours)  # no terminal: it has nothing to do
    monkeypatch.setattr(service, "LINE_S", 0.01)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    saying = asyncio.create_task(service.each_minute(world.manager, hours))
    await asyncio.sleep(0.1)
    saying.cancel()
    assert "watching 1 position, the market is closed until 2024-01-02T21:00:00Z" in capsys.readouterr().out
