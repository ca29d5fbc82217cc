"""Stores that earlier versions wrote: they must always open, read back the same, and fold to the same positions."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from corpus.freeze import STORES, T0, readings, write

from exitfsm.events import ACCOUNT_EVENTS, POSITION_EVENTS, Event, OrderAccepted, tag_of
from exitfsm.store import ExitStore, mapping
from exitfsm.store.mapping import EventMapper

CORPUS = Path(__file__).parent / "corpus"
FROZEN = sorted(CORPUS.glob("*.store"))
DIGESTS = {
    "commands": "a111eb1d70479d2f5f97e396cbd0ad2f155f082ede7173b07af68177b378a90a",
    "format1": "559f64d416642e99f348df64ec7998557d654b6ec0d4ba7bdd61a582fe53f0d7",
    "in_flight": "a9917417d716c38022fec63d2548fcdc3e45e69a37e77e81098e0b2950acf55e",
    "later1": "5c4109ae2bfff8b815d7b8e97a75ba2560b9462b3556ff3c66d8b8a347e12b2e",
    "parts": "78cad0a05080f06bebe80dd1ad5a370a0a635733650bac316ca7a9cc95a2b569",
    "scope": "c56d56ba62874d2a6375267c250d637af7355d62d8863eab49d4364c4b23c638",
    "postponed": "b990a8735ae833af9adcf7cae00f105de7af74a7275849249ea044a774005b37",
    "settings": "77e8f34f35217eae7e4d5ff5a2f631d5342e68cb8ea8976e6162c80e1de04a30",
    "units": "71808bfa105e1bc6dfda5ac3254da30e1d2b6c972759ba3a2d7c5a7c2bbb33f9",
}


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


@pytest.mark.parametrize("frozen", FROZEN, ids=lambda path: path.stem)
def test_what_is_frozen_is_never_written_again(frozen: Path) -> None:
    assert hashlib.sha256(frozen.read_bytes()).hexdigest() == DIGESTS[frozen.stem]
    assert len(FROZEN) == len(DIGESTS)


@pytest.mark.parametrize("name", STORES)
def test_the_same_events_are_the_same_bytes_today(name: str, tmp_path: Path) -> None:
    then = json.loads((CORPUS / f"{name}.json").read_text())["chain_head"]
    with ExitStore(tmp_path / "exits.db") as store:
        write(store, name)
        assert list(store.chain_head()) == then  # a hash over all bytes


def accepted(**more: type) -> type[Any]:
    """`OrderAccepted` as a later version may have it, and as it is."""
    fields = [(f.name, f.type) for f in msgspec.structs.fields(OrderAccepted)]
    later = [(name, kind | msgspec.UnsetType, msgspec.UNSET) for name, kind in more.items()]
    return msgspec.defstruct(
        "OrderAccepted", [*fields, *later], bases=(Event,), tag=tag_of(OrderAccepted), frozen=True, kw_only=True
    )


@pytest.mark.parametrize("venue", [msgspec.UNSET, "", "XNAS"])
def test_a_field_that_came_later_is_left_out_where_nothing_is_said(venue: Any, monkeypatch) -> None:
    given = {"client_order_id": "xf1-1", "broker_order_id": None, "at": T0}
    before = EventMapper().encode(1, "broker", OrderAccepted(**given)).state
    later = accepted(venue=str)
    monkeypatch.setattr(mapping, "POSITION_EVENTS", (later,))
    mapper = EventMapper()
    encoded = mapper.encode(1, "broker", later(**given, venue=venue))
    assert (encoded.state == before) is (venue is msgspec.UNSET)
    assert encoded.event == later(**given, venue=venue)
    assert mapper.recorded(1, "s", 1, encoded.topic, before).event == later(**given)
    # What it says is lost on a version that does not know the field, and nothing else.
    monkeypatch.undo()
    assert EventMapper().recorded(1, "s", 1, encoded.topic, encoded.state).event == OrderAccepted(**given)
