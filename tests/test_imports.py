"""What `import exitfsm` leaves alone: a bot pays at its start for what it uses, and for nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("pydantic", "typer", "rich", "yaml", "alpaca", "pandas", "numpy", "asyncio", "psycopg", "aiohttp")


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_the_library_loads_nothing_heavy() -> None:
    loaded = loaded_by("import exitfsm")
    assert "msgspec" in loaded  # what is looked at is what was loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_command_line_loads_an_event_loop_and_an_adapter_only_where_they_are_used() -> None:
    pytest.importorskip("typer")
    assert loaded_by("import exitfsm.cli.app").isdisjoint({"pydantic", "alpaca", "pandas", "asyncio"})


def test_what_is_loaded_late_is_there_when_it_is_asked_for() -> None:
    assert "pydantic" in loaded_by("import exitfsm; exitfsm.load_config({'evaluate_on': 'close'})")
