"""A slice of fuzzing: each target on its seeds and on inputs made of them in small steps, the same ones each time.

The long run is `python3 dev fuzz TARGET`; what it found has a test of its own where the code is tested.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fuzz.seeds import SEEDS, mutated  # noqa: E402  # a folder beside the tests, no part of the library
from fuzz.targets import TARGETS  # noqa: E402

COUNTS = {"store": 60}


def test_every_target_has_seeds() -> None:
    assert SEEDS.keys() == TARGETS.keys()
    assert all(SEEDS.values())


@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_from_outside_only_documented_errors_come_out(name: str) -> None:
    for data in mutated(name, COUNTS.get(name, 400)):
        try:
            TARGETS[name](data)
        except Exception as error:
            pytest.fail(f"{name} on {data!r}: {type(error).__name__}: {error}")
