"""`--metrics PORT` of `exitfsm run`."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from exitfsm.cli import BAD_INPUT, main
from exitfsm.cli.serving import Served
from exitfsm.manager import ExitManager
from exitfsm.testing import ScriptedBroker

pytest.importorskip("prometheus_client")


async def test_given_a_port_when_run_then_it_says_where_and_the_callbacks_are_heard_as_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[Any] = []
    served = Served(0)
    manager = ExitManager(
        served.metered(ScriptedBroker()), tmp_path / "a.db", on_event=served.on_event(lambda *e: heard.append(e))
    )
    async with manager, served.on(manager):
        await manager.pause()
        (url,) = re.findall(r"figures on (\S+),", capsys.readouterr().out)
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"exitfsm_paused 1.0" in answer.read()
    assert heard


async def test_given_no_port_when_run_then_nothing_is_between_the_manager_and_its_broker(tmp_path: Path) -> None:
    heard: list[Any] = []
    broker, served = ScriptedBroker(), Served(None)
    assert served.metered(broker) is broker
    assert served.on_event(heard.append) == heard.append  # type: ignore[arg-type]  # it is not called here
    manager = ExitManager(broker, tmp_path / "a.db")
    async with manager, served.on(manager):
        assert manager.positions() == []


def test_given_a_paper_run_when_figures_are_wanted_then_it_says_that_nobody_would_look(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--metrics", "0"]) == BAD_INPUT
    assert "--metrics is for alpaca" in " ".join(capsys.readouterr().err.split())
