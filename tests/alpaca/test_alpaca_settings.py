"""`exitfsm run` reads its configuration anew on SIGHUP, and its levels are changed from a second process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from test_alpaca_steering import CONFIG, priced, run_of

from exitfsm import ExitStore
from exitfsm.control import connect
from exitfsm.events import PolicyChanged, StopMoved
from exitfsm.testing.alpaca_server import AlpacaServer


def test_a_service_goes_by_a_changed_file_and_by_a_stop_by_hand(server: AlpacaServer, tmp_path: Path) -> None:
    server.hold("AAPL", 10, 100, ago_s=600)
    priced(server, "AAPL", 100)
    with run_of(server, tmp_path) as run:
        assert run.process is not None
        file, store = tmp_path / "trading.yaml", str(run.store)
        run.until(lambda: stop_of(run.store) == "99", "it is watched")

        file.write_text("exit_manager:\n  stop_loss: {threshold_pct: 200}\n")
        os.kill(run.process.pid, signal.SIGHUP)
        run.until(lambda: "threshold_pct: 200 is not allowed" in run.said(), "a broken file is said")
        assert stop_of(run.store) == "99"
        broken = run.exitfsm("reload", store)
        assert broken.returncode == 1
        assert "nothing was changed" in broken.stderr

        file.write_text(CONFIG.replace("poll_seconds: 0.5", "poll_seconds: 2") + "  stop_loss: {threshold_pct: 1.5}\n")
        os.kill(run.process.pid, signal.SIGHUP)
        run.until(lambda: "AAPL: stop 1 % → 1.5 %" in run.said(), "it is read")
        run.until(lambda: "need a restart: live.poll_seconds" in run.said(), "what waits is named")
        assert stop_of(run.store) == "98.5"

        asked = run.exitfsm("set-stop", store, "AAPL", "97")
        assert asked.returncode == 2
        assert "say --yes" in asked.stderr
        moved = run.exitfsm("set-stop", store, "AAPL", "97", "--yes", "--reason", "earnings")
        assert (moved.returncode, moved.stdout) == (0, "AAPL: stop 98.5 → 97\n"), moved.stderr
        given = run.exitfsm("set-policy", store, "AAPL", "profit_taking.price=120", "--yes")
        assert given.returncode == 0, given.stderr
        assert "target at none → 120, by settings of its own" in given.stdout
        for what in (("set-stop", store, "AAPL", "0", "--yes"), ("set-policy", store, "AAPL", "--yes")):
            assert run.exitfsm(*what).returncode == 2
        wrong = run.exitfsm("set-policy", store, "AAPL", "profit_taking.price=90", "--yes")
        assert wrong.returncode == 1
        assert "must be above its entry at 100" in wrong.stderr

        run.kill()
        run.start()
        assert stop_of(run.store) == "97"
        priced(server, "AAPL", 96.5)
        run.until(lambda: server.held("AAPL") == 0, "the stop by hand fires")
    with ExitStore(run.store, read_only=True) as opened:
        events = [recorded.event for recorded in opened.events()]
    changes = [(e.by.partition(" #")[0], e.own is True) for e in events if isinstance(e, PolicyChanged)]
    assert changes[0] == ("SIGHUP", False)
    assert [own for _, own in changes] == [False, True]
    assert [str(e.stop) for e in events if isinstance(e, StopMoved)] == ["97"]


def stop_of(store: Path) -> str | None:
    rows = connect(store).standing().data["positions"]
    return rows[0]["stop"] if rows else None
