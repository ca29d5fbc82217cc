"""`exitfsm run --broker alpaca` and `exitfsm preflight` against the local server, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from postgres_server import Server

from exitfsm import Act, Bar, ExitStore, OrderSide, SimulatedBroker
from exitfsm.cli import _run, alpaca_checks
from exitfsm.cli.alpaca import connected
from exitfsm.cli.app import app
from exitfsm.order_ids import looks_like_exit
from exitfsm.position import account_hash
from exitfsm.store import owner_of
from exitfsm.testing.alpaca_server import AlpacaServer, Fault

#: Keys that must turn up nowhere.
KEY, SECRET = "PKCANARY0KEY0ID", "canary+secret/that=must0never0be0seen"
PROGRAM = "import sys; from exitfsm.cli import _run; from exitfsm.cli.app import app; sys.exit(_run(app, None))"


@pytest.fixture
def canary() -> Iterator[AlpacaServer]:
    with AlpacaServer(key=KEY, secret=SECRET) as server:
        yield server


def environment(server: AlpacaServer, **changes: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APCA")}
    return clean | server.environment | changes


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def exitfsm(server: AlpacaServer, *args: str, **changes: str) -> Done:
    """One command, in this process (alpaca-py takes seconds to import)."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        for name, value in environment(server, **changes).items():
            patch.setenv(name, value)
        code = _run(app, args)
    return Done(code, out.getvalue(), err.getvalue())


@contextmanager
def running(server: AlpacaServer, folder: Path, *args: str, code: int = 0) -> Iterator[subprocess.Popen[str]]:
    """The command until the block ends, then a Ctrl-C; what it wrote is in `out` and `err`."""
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", "--broker", "alpaca", *args],
            env=environment(server), stdout=out, stderr=err, text=True,
        )  # fmt: skip
        try:
            try:
                yield process
            except AssertionError as error:
                raise AssertionError(f"{error}\n{(folder / 'out').read_text()}{(folder / 'err').read_text()}") from None
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == code, (folder / "err").read_text()
        finally:
            process.kill()
            process.wait(60)


def until(what: Callable[[], Any], say: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"never: {say}"
        time.sleep(0.05)


def leaks(folder: Path) -> list[str]:
    """The files in which a key stands."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and any(word.encode() in path.read_bytes() for word in (KEY, SECRET)):
            found.append(path.name)
    return found


def test_runs_until_it_is_interrupted(canary: AlpacaServer, tmp_path: Path) -> None:
    """A position is found, breaches and is exited, through faults; and no key is left anywhere."""
    config = tmp_path / "trading.yaml"
    config.write_text("exit_manager:\n  stop_loss: {threshold_pct: 1.0}\n  live: {poll_seconds: 0.5}\n")
    store = tmp_path / "exits.db"
    canary.hold("AAPL", 10, 100, ago_s=600)
    canary.fail(Fault("html", "before", method="GET", path="orders", status=502))
    with running(canary, tmp_path, "--config", str(config), "--store", str(store)) as process:
        until(lambda: canary.stocks.subscribed == {"AAPL"} or process.poll() is not None, "bars are wanted")
        canary.fail(
            Fault("status", "before", status=401, body='{"code":40110000,"message":"request is not authorized"}')
        )
        canary.fail(Fault("reset", "after"))
        canary.drop_stream()
        until(lambda: canary.updates.listening, "the stream is back")
        canary.bar(Bar("AAPL", datetime.now(UTC), "98.9", "98.9", "98.9", "98.9"))
        until(lambda: canary.held("AAPL") == 0, "it is sold")
        until(lambda: "ExitCompleted" in (tmp_path / "out").read_text(), "it is proved flat")
    said = (tmp_path / "out").read_text()
    assert "exitfsm on Alpaca (paper), account …001" in said
    assert "stop_loss: 98.9 reached 99 (1 %)" in said
    with ExitStore(store, read_only=True) as opened:
        assert [str(p.state) for p in opened.positions()] == ["filled"]
    assert len([b for b in canary.posts if looks_like_exit(b["client_order_id"])]) <= 3
    assert canary.held("AAPL") == 0
    assert leaks(tmp_path) == []


def test_a_standby_waits_for_the_store_and_then_runs(canary: AlpacaServer, tmp_path: Path) -> None:
    store, out = tmp_path / "exits.db", tmp_path / "out"
    with ExitStore(store), running(canary, tmp_path, "--store", str(store), "--standby"):
        until(lambda: "standing by" in out.read_text(), "it stands by")
        time.sleep(1)
    assert "watching" not in out.read_text(), "it was stopped while it waited"
    with ExitStore(store) as owned, running(canary, tmp_path, "--store", str(store), "--standby") as process:
        until(lambda: "standing by" in out.read_text(), "it stands by")
        owned.close()
        until(lambda: "watching 0 positions" in out.read_text() or process.poll() is not None, "it has the store")
    assert "stopped" in out.read_text()


@pytest.mark.postgres
def test_one_that_loses_its_store_ends_and_says_who_has_it(
    canary: AlpacaServer, tmp_path: Path, postgres_server: Server
) -> None:
    pytest.importorskip("psycopg")
    url, out = f"{postgres_server.url}?exitfsm_schema=run_loses", tmp_path / "out"
    with running(canary, tmp_path, "--store", url, "--standby", code=2) as process:
        until(lambda: "watching 0 positions" in out.read_text() or process.poll() is not None, "it runs")
        assert owner_of(url, release=True).alive_s is not None
        process.wait(60)
    said = (tmp_path / "err").read_text()
    assert "ALARM ownership_lost" in said
    assert "was taken by an operator" in said
    assert "Traceback" not in said


def test_a_standby_is_for_a_real_account(canary: AlpacaServer) -> None:
    done = exitfsm(canary, "run", "--standby", "--bars", __file__)
    assert done.returncode == 2
    assert "--standby is for alpaca" in " ".join(done.stderr.replace("│", " ").split())


def test_a_store_is_for_one_account(canary: AlpacaServer, tmp_path: Path) -> None:
    store = str(tmp_path / "exits.db")
    with ExitStore(store) as opened:
        opened.bind(account_hash("alpaca:live:" + canary.account.number))
    done = exitfsm(canary, "run", "--broker", "alpaca", "--store", store)
    assert done.returncode == 2
    assert "was written for account" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "changes", "code", "words"),
    [
        ((), {"APCA_API_KEY_ID": ""}, 2, "APCA_API_KEY_ID is not set"),
        ((), {"APCA_API_SECRET_KEY": SECRET + "\n"}, 2, "holds a space, a line end"),
        ((), {"APCA_API_SECRET_KEY": "wrong" + SECRET}, 2, "the keys are not authorised (127.0.0.1:"),
        ((), {"APCA_API_BASE_URL": "http://127.0.0.1:9"}, 2, "Connection refused (127.0.0.1:9)"),
        ((), {"APCA_API_BASE_URL": "https://api.alpaca.markets"}, 2, "live trading was not asked for"),
        (("--live",), {"APCA_API_BASE_URL": "https://paper-api.alpaca.markets"}, 2, "paper server"),
        (("--live",), {}, 2, "confirm it with --account"),
        (("--live", "--account", "123"), {}, 2, "account …001, not to 123"),
        (("--account", "123"), {}, 2, "account …001, not to 123"),
        (("--config", "/nowhere.yaml"), {}, 2, "nowhere.yaml"),
        (("--feed", "nasdaq"), {}, 2, "none of Alpaca's; there are iex, sip"),
        (("--listen", "0.0.0.0:7070"), {}, 2, "is not on this machine"),
    ],
)
def test_says_what_is_wrong_and_shows_no_key(
    canary: AlpacaServer, tmp_path: Path, args: tuple[str, ...], changes: dict[str, str], code: int, words: str
) -> None:
    done = exitfsm(canary, "run", "--broker", "alpaca", "--store", str(tmp_path / "x.db"), *args, **changes)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "PA3TEST00001" not in done.stdout + done.stderr


def test_live_runs_when_the_account_is_named(canary: AlpacaServer) -> None:
    access, broker, name = connected(live=True, account=canary.account.number, environment=canary.environment)
    assert access.live
    assert name == "alpaca:live:PA3TEST00001"
    broker.close()


# --- preflight --------------------------------------------------------------------------------------------------------


def checks(canary: AlpacaServer, *args: str, **changes: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = exitfsm(canary, "preflight", "--json", *args, **changes)
    assert "Traceback" not in done.stderr, done.stderr
    assert KEY not in done.stdout + done.stderr
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


def test_preflight_finds_nothing_wrong(canary: AlpacaServer, tmp_path: Path) -> None:
    canary.hold("AAPL", 10, 100)
    canary.hold("BTC/USD", "0.5", 40_000)
    requests = len(canary.rest.requests)
    code, found = checks(canary, "--store", str(tmp_path / "new.db"))
    assert (code, [name for name, check in found.items() if check["ok"] is False]) == (0, [])
    assert [check["ok"] for check in found.values()].count(True) >= 10
    assert "2 positions" in found["positions"]["text"]
    assert "10 AAPL long: managed (all of it, whoever bought it); 0.5 BTC/USD long: managed" in found["managed"]["text"]
    assert not [r for r in canary.rest.requests[requests:] if r[0] != "GET"]
    assert list(tmp_path.iterdir()) == []


def test_preflight_finds_what_is_wrong(canary: AlpacaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alpaca_checks, "STREAM_S", 0.3)
    config = tmp_path / "trading.yaml"
    config.write_text("exit_manager:\n  enabled: false\n  stop_loss: {enabled: false}\n")
    canary.hold("AAPL", 10, 100)
    canary.hold("OLD", 10, 100, ago_s=40 * 86_400)
    canary.foreign("AAPL", OrderSide.SELL, Decimal(10), Decimal(150))
    canary.stocks.refuse = canary.updates.refuse = 1000
    canary.account.odd_positions = [{"symbol": "ODD", "qty": "many", "side": "long"}]
    store = tmp_path / "exits.db"
    with ExitStore(store) as opened:
        opened.bind("another")
    code, found = checks(canary, "--config", str(config), "--store", str(store))
    assert code == 1
    wrong = {name for name, check in found.items() if check["ok"] is False}
    assert wrong == {"enabled", "thresholds", "positions", "other orders", "store", "trade updates", "market data"}
    assert "OLD was opened more than 30 days ago" in found["positions"]["text"]
    assert "ODD has no readable quantity" in found["positions"]["text"]
    assert "only 0 free" in found["other orders"]["text"]


@pytest.mark.parametrize(
    ("manage", "is_ok", "said"),
    [
        ("{ignore: [AAPL]}", True, "10 AAPL long: not managed (manage.ignore names it)"),
        ("{owner: handed}", True, "10 AAPL long: not managed (nobody handed it to watch())"),
        ("{owner: ids, ids: [bot-]}", False, "needs executions that name client order ids"),
    ],
)
def test_preflight_says_what_is_managed_as_the_start_does(
    canary: AlpacaServer, tmp_path: Path, manage: str, is_ok: bool, said: str
) -> None:
    config = tmp_path / "trading.yaml"
    config.write_text(f"exit_manager:\n  manage: {manage}\n")
    canary.hold("AAPL", 10, 100)
    _, found = checks(canary, "--store", str(tmp_path / "new.db"), "--config", str(config))
    assert (found["managed"]["ok"], said in found["managed"]["text"]) == (is_ok, True), found["managed"]


def test_preflight_without_keys_or_account(canary: AlpacaServer) -> None:
    code, found = checks(canary, APCA_API_SECRET_KEY="no" + SECRET)
    assert (code, found["account"]["ok"]) == (1, False)


def test_preflight_takes_a_paper_run_as_evidence(canary: AlpacaServer, tmp_path: Path) -> None:
    """A simulated run with an order that fills in parts, and a symbol that is entered again after its cooldown."""
    from exitfsm.simulate import simulate

    begin = datetime(2024, 1, 2, 15, tzinfo=UTC)
    closes = ["100", "98", "98", "98", "98", "98", "98", "98", "98", "98", "98", "96", "96", "96", "96"]
    bars = [Bar("AAPL", begin + timedelta(minutes=n), c, c, c, c) for n, c in enumerate(closes)]
    venue = SimulatedBroker()
    venue.script("AAPL", Act(fills=(Decimal(4),)))
    store = tmp_path / "paper.db"
    with ExitStore(store) as opened:
        simulate(bars, store=opened, re_enter=True, broker=venue)
    _, found = checks(canary, "--store", str(tmp_path / "new.db"), "--paper-store", str(store))
    assert [found[name]["ok"] for name in ("paper run", "fills", "partial fills", "cooldown")] == [True] * 4
    assert found["cooldown"]["text"] == "kept 1 times, broken 0 times"
