"""A rule is added: in a file of its own and one line of the list, and everything that knows rules knows it.

The package is copied, the sample is put into the copy, and a process of its own walks through everything with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import exitfsm

PACKAGE = Path(exitfsm.__file__).parent
HERE = Path(__file__).parent
SAMPLE = HERE / "sample_rule" / "vwap_stop.py"
#: All that is touched in the package to add the rule, beside the pages that are generated.
TOUCHED = ["policy/listed.py", "policy/rules/vwap_stop.py"]
STEPS = [
    "configuration file, schema, reference, digest",
    "evaluation in the simulation, events, verification",
    "evaluation live, after a stop and after a crash that lost what was folded",
    "levels, explain, words",
    "what-if",
    "page",
    "preflight",
]


def with_the_sample(place: Path) -> Path:
    """A copy of the package with the sample rule: its file, its import, and its place in the list."""
    copy = place / "exitfsm"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(SAMPLE, copy / "policy" / "rules" / SAMPLE.name)
    listed = copy / "policy" / "listed.py"
    text = listed.read_text(encoding="utf-8")
    text = text.replace("    trailing_stop,\n)", "    trailing_stop,\n    vwap_stop,\n)")
    text = text.replace("    custom_rules.RULE,\n)", "    custom_rules.RULE,\n    vwap_stop.RULE,\n)")
    listed.write_text(text, encoding="utf-8")
    return copy


def files(package: Path) -> dict[str, bytes]:
    """Every source file by its place in the package."""
    return {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*.py")}


def test_given_a_sample_rule_then_everything_that_knows_rules_knows_it(tmp_path: Path) -> None:
    before, after = files(PACKAGE), files(with_the_sample(tmp_path))
    assert sorted(name for name in after if before.get(name) != after[name]) == TOUCHED

    paths = [tmp_path, PACKAGE.parent / "adapters", HERE / "manager"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, str(HERE / "sample_rule" / "walk.py"), str(tmp_path / "walk")]
    (tmp_path / "walk").mkdir()
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [f"done: {step}" for step in STEPS]
