"""Export: every event, exactly, in commit order; and cells that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import msgspec
from stores import T0

from exitfsm import ExitStore
from exitfsm.audit import export_csv, export_jsonl
from exitfsm.events import POSITION_EVENTS, AlarmRaised, TradingPaused, tag_of
from exitfsm.position import replay

CLASSES = {tag_of(cls): cls for cls in POSITION_EVENTS}


def test_json_lines_hold_every_event_as_it_is(exits: Path) -> None:
    with ExitStore(exits, read_only=True) as store:
        lines = list(export_jsonl(store))
        recorded = list(store.events())
        head = store.chain_head()[1]
        ends = {row.position_id: str(row.state) for row in store.positions()}
    assert len(lines) == len(recorded)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
    streams: dict[str, list[object]] = {}
    for line, r in zip(map(json.loads, lines), recorded, strict=True):
        assert (line["sequence"], line["stream_id"], line["version"]) == (r.sequence, r.stream_id, r.version)
        assert (line["at_ns"], line["by"], line["event"]) == (r.at_ns, r.by, tag_of(r.event))
        back = msgspec.convert({**line["fields"], "event": line["event"]}, CLASSES[line["event"]])
        assert back == r.event
        streams.setdefault(line["stream_id"], []).append(back)
        last = line
    assert last["hash"] == head
    for stream, events in streams.items():
        assert str(replay(events).state) == ends[stream]  # type: ignore[arg-type]


def test_states_before_and_after_fit_together(exits: Path) -> None:
    states: dict[str, str | None] = {}
    with ExitStore(exits, read_only=True) as store:
        for line in map(json.loads, export_jsonl(store)):
            assert line["state_before"] == states.get(line["stream_id"])
            states[line["stream_id"]] = line["state_after"]


def test_csv_has_a_column_for_every_field_and_none_twice(exits: Path) -> None:
    with ExitStore(exits, read_only=True) as store:
        rows = list(csv.DictReader(io.StringIO("".join(export_csv(store)))))
        recorded = list(store.events())
        names = next(csv.reader(io.StringIO(next(export_csv(store)))))
    assert len(names) == len(set(names))
    for row, r in zip(rows, recorded, strict=True):
        assert row["sequence"] == str(r.sequence)
        for field, value in msgspec.to_builtins(r.event).items():
            if field != "event" and not isinstance(value, dict):
                name = f"event_{field}" if field in ("at", "by") else field
                assert row[name] == ("" if value is None else str(value))
    assert json.loads(rows[0]["policy"])["stop_loss"]["threshold_pct"] == "0.6"


def test_text_from_outside_is_no_formula_and_no_new_line() -> None:
    bad = ["=1+1", "@SUM(A1)", "+cmd", "-cmd|x", "\tx", "a\nb", '"', "-5", "+1.5", "x;=cmd", "\x1b[31m"]
    with ExitStore(":memory:") as store:
        alarms = [AlarmRaised(alarm_id=str(n), kind="k", text=text, at=T0) for n, text in enumerate(bad)]
        store.append("account:x", 0, alarms, at=T0, by="bot")
        rows = list(csv.DictReader(io.StringIO("".join(export_csv(store)))))
        exact = [json.loads(line)["fields"]["text"] for line in export_jsonl(store)]
    assert exact == bad
    assert [row["text"] for row in rows] == [
        "'=1+1",
        "'@SUM(A1)",
        "'+cmd",
        "'-cmd|x",
        "'\\tx",
        "a\\nb",
        '"',
        "-5",
        "+1.5",
        "x;'=cmd",
        "\\x1b[31m",
    ]


def test_facts_of_the_account_have_no_state() -> None:
    with ExitStore(":memory:") as store:
        store.append("account:x", 0, [TradingPaused(by="ann", at=T0)], at=T0, by="operator")
        (line,) = map(json.loads, export_jsonl(store))
    assert (line["state_before"], line["state_after"], line["stream_id"]) == (None, None, "account:x")
