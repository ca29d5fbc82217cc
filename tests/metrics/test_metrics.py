"""Figures and health of a real manager, asked over HTTP; and the rules, by the real promtool where there is one."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

import exitfsm
from exitfsm import Bar, BrokerError, Capabilities, ConfigError, OrderRefused, Side, State
from exitfsm.kinds import AlarmKind
from exitfsm.manager import ExitManager
from exitfsm.metrics import Metrics, verdict
from exitfsm.metrics.metering import Call, Metered
from exitfsm.ports import IdMemory
from exitfsm.testing import ScriptedBroker
from exitfsm.values import Alarm

pytest.importorskip("prometheus_client")
RULES = Path(exitfsm.__file__).parent / "metrics" / "rules.yml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="there is no promtool here, and no wheel has it (Debian: apt-get install prometheus)"
)
GOOD = Capabilities(ids_refused=IdMemory.FOREVER, lookup_sees_closed=True, reduce_only=True)


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def figures(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


class Desk:
    """A manager with its figures on a port."""

    def __init__(self, broker: ScriptedBroker, manager: ExitManager, port: int) -> None:
        self.broker, self.manager, self.port = broker, manager, port

    def figures(self) -> dict[str, float]:
        status, text = get(self.port, "/metrics")
        assert status == 200
        return figures(text)

    def health(self) -> tuple[int, dict[str, Any]]:
        status, text = get(self.port, "/healthz")
        return status, json.loads(text)

    async def bar(self, price: float) -> None:
        close = Decimal(str(price))
        await self.manager.on_bar(Bar("AAPL", datetime.now(UTC), close, close, close, close))


@asynccontextmanager
async def desk(tmp_path: Path, broker: ScriptedBroker | None = None) -> AsyncIterator[Desk]:
    metrics, broker = Metrics(), broker or ScriptedBroker(capabilities=GOOD)
    manager = ExitManager(metrics.metered(broker), tmp_path / "a.db", on_event=metrics.on_event)
    async with manager:
        with metrics.serve(manager, port=0) as port:
            yield Desk(broker, manager, port)


async def test_given_an_exit_when_asked_then_every_figure_tells_it(tmp_path: Path) -> None:
    async with desk(tmp_path) as d:
        d.broker.enter("AAPL", Side.LONG, 10, 100)
        await d.manager.sync()
        await d.bar(100)
        before = d.figures()
        assert before['exitfsm_positions{state="monitoring"}'] == 1
        assert 0 <= before['exitfsm_bar_age_seconds{symbol="AAPL"}'] < 60

        await d.bar(98.5)
        await d.manager.settled()
        (order,) = d.broker.live_exits("AAPL")
        await d.manager.on_order_update(d.broker.fill(order.order, 10, Decimal("98.4")))
        await d.manager.sync()
        await d.manager.settled()
        found = d.figures()

    rule = 'rule="stop_loss"'
    assert found[f'exitfsm_transitions_total{{{rule},source="monitoring",target="pending"}}'] == 1
    assert found[f'exitfsm_exits_total{{how="filled",{rule}}}'] == 1
    assert found["exitfsm_trigger_to_sent_seconds_count"] == found["exitfsm_trigger_to_filled_seconds_count"] == 1
    assert found["exitfsm_slippage_percent_count"] == 1
    worse = [found[f'exitfsm_slippage_percent_bucket{{le="{pct}"}}'] for pct in (0.1, 0.25)]
    assert worse == [0, 1]  # 98.5 -> 98.4
    assert found['exitfsm_broker_call_seconds_count{method="submit",outcome="answered"}'] == 1
    assert found['exitfsm_broker_call_seconds_count{method="positions",outcome="answered"}'] >= 1
    assert found["exitfsm_sends_last_minute"] == 1
    assert found["exitfsm_sends_per_minute_max"] == 120
    assert found["exitfsm_commit_seconds_count"] >= 3
    assert found["exitfsm_chain_head"] >= 5
    assert found['exitfsm_positions{state="monitoring"}'] == 0
    assert found["exitfsm_paused"] == 0


async def test_given_alarms_when_asked_then_they_are_counted_and_health_is_red_until_they_are_acknowledged(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path) as d:
        assert d.health() == (200, {"ok": True, "reasons": []})
        assert d.figures()["exitfsm_healthy"] == 1
        await d.manager._parts.context.alarms.raise_alarm("store_unwritable", "disk\nfull")
        assert d.health() == (503, {"ok": False, "reasons": ["store_unwritable: disk\\nfull"]})
        found = d.figures()
        assert found['exitfsm_alarms_active{kind="store_unwritable"}'] == 1
        assert found['exitfsm_alarms_raised_total{kind="store_unwritable"}'] == 1
        assert found["exitfsm_healthy"] == 0
        await d.manager.acknowledge(d.manager.alarms()[0])
        assert d.health()[0] == 200


async def test_given_a_manager_that_is_not_reconciled_or_stopped_when_asked_then_health_is_red(tmp_path: Path) -> None:
    class Away(ScriptedBroker):
        async def positions(self) -> Any:
            raise BrokerError("away")

    async with desk(tmp_path, Away(capabilities=GOOD)) as d:
        status, said = d.health()
        assert status == 503
        assert said["reasons"][0].startswith("not reconciled")
        assert d.figures()['exitfsm_broker_call_seconds_count{method="positions",outcome="failed"}'] >= 1
        await d.manager.stop()
        assert d.health() == (503, {"ok": False, "reasons": ["stopped"]})
        assert get(d.port, "/metrics")[0] == 200


async def test_given_anything_else_when_asked_then_it_is_not_there_and_nothing_breaks(tmp_path: Path) -> None:
    async with desk(tmp_path) as d:
        assert get(d.port, "/")[0] == get(d.port, "/metrics/../etc/passwd")[0] == 404
        for junk in (b"\x00" * 500, b"GET", b"POST /metrics HTTP/1.0\r\n\r\n", b"GET /healthz HTTP/9.9\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", d.port), timeout=5) as client:
                client.sendall(junk)
                client.shutdown(socket.SHUT_WR)
                client.recv(1000)
        assert d.health()[0] == 200


async def test_given_a_port_that_is_taken_when_served_then_it_says_so(tmp_path: Path) -> None:
    manager = ExitManager(ScriptedBroker(), tmp_path / "a.db")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serving = Metrics().serve(manager, taken.getsockname()[1])
        with pytest.raises(ConfigError, match="cannot be used"):
            serving.__enter__()


async def test_given_it_is_served_when_looked_at_from_outside_then_it_listens_on_loopback_only(tmp_path: Path) -> None:
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    async with desk(tmp_path) as d:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((own, d.port), timeout=2)


def test_given_prometheus_client_is_not_installed_when_made_then_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigError, match=r'pip install "exitfsm\[metrics\]"'):
        Metrics()


# --- health -----------------------------------------------------------------------------------------------------------


class Held:
    symbol, state = "AAPL", State.UNPROTECTED


def alarm(kind: str) -> Alarm:
    return Alarm(alarm_id="x", kind=kind, text="text", raised_at=datetime(2024, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        ({}, ()),
        ({"stopped": "stopped", "is_reconciled": False}, ("stopped",)),
        ({"is_reconciled": False}, ("not reconciled: the broker's positions have not been compared since the start",)),
        ({"positions": [Held()]}, ("unprotected: AAPL",)),
        ({"alarms": [alarm(AlarmKind.FEED_SILENT)]}, ("feed_silent: text",)),
        ({"alarms": [alarm("of a newer version")]}, ("of a newer version: text",)),
        ({"alarms": [alarm(AlarmKind.ORDER_STALLED), alarm(AlarmKind.PROTECTION_LOST)]}, ()),
    ],
)
def test_what_makes_health_red(given: dict[str, Any], reasons: tuple[str, ...]) -> None:
    asked: dict[str, Any] = {"stopped": None, "is_reconciled": True, "positions": [], "alarms": []}
    assert verdict(**asked | given).reasons == reasons


# --- the broker -------------------------------------------------------------------------------------------------------


async def test_given_brokers_of_all_shapes_when_metered_then_they_are_themselves_and_each_end_is_heard() -> None:
    class Theirs:
        name = "theirs"

        async def positions(self) -> list[Any]:
            return []

        def place_order(self, symbol: str, qty: Decimal, side: str, client_order_id: str) -> str:
            raise OrderRefused("no")

        def cancel(self, client_order_id: str) -> Any:
            return self.positions()

        def fills(self) -> None:
            raise RuntimeError("x")

    heard: list[Call] = []
    metered: Any = Metered(Theirs(), heard.append)
    assert metered.name == "theirs"
    assert await metered.positions() == []
    with pytest.raises(OrderRefused):
        metered.place_order("AAPL", Decimal(1), "sell", client_order_id="id-1")
    assert await metered.cancel("id-1") == []
    with pytest.raises(RuntimeError, match="x"):
        metered.fills()

    assert [(c.method, c.outcome) for c in heard if c.outcome] == [
        ("positions", "answered"),
        ("submit", "refused"),
        ("cancel", "answered"),
        ("fills", "failed"),
    ]
    assert "id-1" in heard[2].texts
    assert not hasattr(metered, "nothing")


# --- the rules --------------------------------------------------------------------------------------------------------


async def text_of(tmp_path: Path) -> str:
    async with desk(tmp_path) as d:
        await d.manager._parts.context.alarms.raise_alarm("not_reconciled", "x")
        return get(d.port, "/metrics")[1]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


async def test_every_figure_that_a_rule_names_is_there(tmp_path: Path) -> None:
    there = set(re.findall(r"^(exitfsm_\w+?)(?:\{| )", await text_of(tmp_path), re.MULTILINE))
    named = set(re.findall(r"exitfsm_\w+", "\n".join(rule["expr"] for rule in rules())))
    assert len(named) > 6
    assert named <= there


def test_every_kind_of_alarm_that_a_rule_names_is_one() -> None:
    named = [found for rule in rules() for found in re.findall(r'kind=~"([^"]+)"', rule["expr"])]
    assert len(named) >= 2
    assert {word for found in named for word in found.split("|")} <= set(AlarmKind)


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *map(str, arguments)], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", RULES)


@needs_promtool
async def test_promtool_has_nothing_to_say_against_the_figures(tmp_path: Path) -> None:
    assert promtool("check", "metrics", text=await text_of(tmp_path)).strip() == ""


@needs_promtool
def test_promtool_finds_the_rules_firing_when_they_should(tmp_path: Path) -> None:
    def fires(alert: str, at: str, **labels: str) -> dict[str, Any]:
        text = next(rule["annotations"]["summary"] for rule in rules() if rule["alert"] == alert)
        text = text.replace("{{ $value }}", "1").replace("{{ $labels.kind }}", "store_silent")
        expected = [{"exp_labels": labels, "exp_annotations": {"summary": text}}] if labels else []
        return {"eval_time": at, "alertname": alert, "exp_alerts": expected}

    series = [
        {"series": 'up{job="exitfsm"}', "values": "1+0x10 0+0x10"},
        {"series": 'exitfsm_positions{state="unprotected"}', "values": "0+0x4 1+0x20"},
        {"series": 'exitfsm_alarms_active{kind="store_silent"}', "values": "0+0x4 1+0x20"},
    ]
    wanted = [
        fires("ExitfsmDown", "5m"),
        fires("ExitfsmDown", "15m", severity="critical", job="exitfsm"),
        fires("ExitfsmUnprotected", "3m"),
        fires("ExitfsmUnprotected", "6m", severity="critical", state="unprotected"),
        fires("ExitfsmStoreFailing", "6m", severity="critical", kind="store_silent"),
    ]
    path = tmp_path / "test.yml"
    given = {"interval": "1m", "input_series": series, "alert_rule_test": wanted}
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": [given]}))
    assert "SUCCESS" in promtool("test", "rules", path)
