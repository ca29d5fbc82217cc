"""The example bot, against the local server."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "alpaca_bot.py"


def test_the_example_buys_and_gets_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--demo"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert end.value.code is None
    said = capsys.readouterr().out
    assert "buy   10 ACME" in said
    assert "ExitCompleted" in said
    assert "ACME: 10 from" in said
