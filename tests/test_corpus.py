"""Stores that earlier versions wrote: they must always open, read back the same, and fold to the same positions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from corpus.freeze import readings

from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS, tag_of
from exitfsm.store import ExitStore

FROZEN = sorted((Path(__file__).parent / "corpus").glob("*.store"))


def as_before(was: Any, now: Any) -> bool:
    """Nothing changed; a field may have come to it."""
    if isinstance(was, dict) and isinstance(now, dict):
        return all(name in now and as_before(value, now[name]) for name, value in was.items())
    if isinstance(was, list) and isinstance(now, list):
        return len(was) == len(now) and all(map(as_before, was, now))
    return bool(was == now)


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda path: path.stem)
def test_a_store_of_an_earlier_version_reads_back_as_it_did(frozen: Path, tmp_path: Path) -> None:
    path = shutil.copy(frozen, tmp_path / "exits.db")
    then = json.loads(frozen.with_suffix(".json").read_text())
    with ExitStore(path) as store:
        now = readings(store)
        assert store.verify_read_models() == []
        assert store.verify_chain() is None
        store.rebuild()
        assert readings(store) == now
    assert now["chain_head"] == then["chain_head"]
    assert now["meta"] == then["meta"]
    assert as_before(then["events"], now["events"])
    assert as_before(then["positions"], now["positions"])
    assert now["rows"] == then["rows"]


def test_the_corpus_holds_every_kind_of_event() -> None:
    held = {e["event"]["event"] for path in FROZEN for e in json.loads(path.with_suffix(".json").read_text())["events"]}
    assert held == {tag_of(kind) for kind in (*POSITION_EVENTS, *ACCOUNT_EVENTS)}
