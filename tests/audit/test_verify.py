"""Verify: silent about what is whole, exact about what is not, and it changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from stores import T0, rechain, tamper

from exitfsm import ExitStore, Side, StoreError
from exitfsm.audit import Anchor, anchor, read_anchors, verify
from exitfsm.events import AlarmRaised, BreakerOpened, ExitCompleted, PositionOpened, StopMoved, TradingPaused
from exitfsm.policy import ExitPolicy
from exitfsm.position import position_id
from exitfsm.store import checking
from exitfsm.values import ExitType

ACCOUNT = "0123456789ab"


def whats(path: Path, **options: Any) -> str:
    found = verify(path, **options)
    assert found.ok is not bool(found.findings)
    return "\n".join(f"{f.position_id} {f.event}: {f.what}" for f in found.findings)


class TestWhole:
    def test_a_store_with_every_kind_of_trouble_holds(self, exits: Path) -> None:
        found = verify(exits)
        assert found.findings == []
        with ExitStore(exits, read_only=True) as store:
            assert (found.events, found.chain_head) == store.chain_head()
            assert found.positions == len(store.positions())

    def test_an_empty_store_holds(self, tmp_path: Path) -> None:
        ExitStore(tmp_path / "e.db").close()
        found = verify(tmp_path / "e.db")
        assert found.as_dict() == {"ok": True, "positions": 0, "events": 0, "chain_head": "0" * 64, "findings": []}

    def test_facts_of_the_account_hold(self, tmp_path: Path) -> None:
        with ExitStore(tmp_path / "a.db") as store:
            store.append(
                "account:x", 0, [TradingPaused(by="ann", at=T0), BreakerOpened(failures=5, at=T0)], at=T0, by="operator"
            )
        assert verify(tmp_path / "a.db").as_dict() | {"chain_head": ""} == {
            "ok": True, "positions": 0, "events": 2, "chain_head": "", "findings": [],
        }  # fmt: skip

    def test_it_changes_nothing(self, exits: Path) -> None:
        before, stat = exits.read_bytes(), exits.stat()
        verify(exits)
        assert exits.read_bytes() == before
        assert (exits.stat().st_mtime_ns, exits.stat().st_mode) == (stat.st_mtime_ns, stat.st_mode)

    def test_it_may_run_beside_the_writer(self, exits: Path) -> None:
        with ExitStore(exits) as store:
            assert verify(exits).ok
            store.append("account:x", 0, [TradingPaused(by="ann", at=T0)], at=T0, by="operator")
            assert verify(exits).ok

    def test_it_can_be_given_a_store(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            assert verify(store).ok

    def test_it_tells_how_far_it_is(self, thousand: Path) -> None:
        told: list[tuple[int, int]] = []
        found = verify(thousand, progress=lambda done, total: told.append((done, total)))
        assert told
        assert told == sorted(told)
        assert all(total == 2 * found.events for _, total in told)

    @pytest.mark.slow
    def test_memory_does_not_grow_with_the_log(self, thousand: Path, exits: Path) -> None:
        def peak(path: Path) -> int:
            tracemalloc.start()
            try:
                verify(path)
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        for path in (exits, thousand):
            peak(path)  # whatever is made once
        with ExitStore(exits, read_only=True) as few, ExitStore(thousand, read_only=True) as many:
            assert many.count() > 1.5 * few.count()
        assert peak(thousand) < peak(exits) + 200_000  # measured: 154,000 to 174,000 more

    def test_what_is_no_store_is_no_finding(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="there is no store"):
            verify(tmp_path / "none.db")


class TestTamperedLog:
    """Somebody who can write the file; what the chain alone finds is in test_tampering."""

    def test_the_finding_names_position_event_and_what(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            event = next(r for r in store.events() if isinstance(r.event, StopMoved))
        tamper(
            exits,
            "UPDATE stored_events SET state = replace(CAST(state AS TEXT), '\"bar\"', '\"ann\"') "
            f"WHERE rowid = {event.sequence}",
        )
        found = verify(exits)
        assert not found.ok
        named = [f for f in found.findings if "hash chain" in f.what or "stored as" in f.what]
        assert [(f.position_id, f.event) for f in named] == [(event.stream_id, event.version)]
        assert set(found.as_dict()["findings"][0]) == {"position_id", "event", "what"}

    def test_deletion(self, exits: Path) -> None:
        tamper(exits, "DELETE FROM stored_events WHERE rowid = 7", "DELETE FROM chain WHERE sequence = 7")
        assert "None 7: event 7 is missing from the log" in whats(exits)

    def test_deletion_of_the_event_alone(self, exits: Path) -> None:
        tamper(exits, "DELETE FROM stored_events WHERE rowid = 7")
        assert "event 7 is missing: only its hash is there" in whats(exits)

    def test_deletion_of_the_hash_alone(self, exits: Path) -> None:
        tamper(exits, "DELETE FROM chain WHERE sequence = 7")
        assert "event 7 of the log: it has no hash" in whats(exits)

    def test_deletion_with_everything_after_it_moved_up_and_a_new_chain(self, exits: Path) -> None:
        tamper(
            exits,
            "DELETE FROM stored_events WHERE rowid = 7",
            "UPDATE stored_events SET rowid = -rowid + 1 WHERE rowid > 7",
        )
        tamper(exits, "UPDATE stored_events SET rowid = -rowid WHERE rowid < 0")
        rechain(exits)
        said = whats(exits)
        assert "hash chain" not in said
        assert "events are missing, or were moved" in said

    def test_insertion(self, exits: Path) -> None:
        tamper(
            exits,
            "INSERT INTO stored_events SELECT (SELECT MAX(rowid) FROM stored_events) + 1, originator_id, 1 + (SELECT "
            "MAX(originator_version) FROM stored_events s WHERE s.originator_id = e.originator_id), topic, state "
            "FROM stored_events e WHERE rowid = 1",
        )
        assert "it has no hash" in whats(exits)
        rechain(exits)
        assert "no transition for PositionOpened" in whats(exits)

    def test_reordering(self, exits: Path) -> None:
        tamper(
            exits,
            *(f"UPDATE stored_events SET rowid = {new} WHERE rowid = {old}" for old, new in ((5, -5), (6, 5), (-5, 6))),
        )
        assert "hash chain" in whats(exits)
        rechain(exits)
        assert "not what the events make it" in whats(exits) or "events were moved" in whats(exits)

    def test_truncation_shows_in_the_read_models(self, exits: Path) -> None:
        last = verify(exits).events
        tamper(
            exits,
            f"DELETE FROM stored_events WHERE rowid > {last - 3}",
            f"DELETE FROM chain WHERE sequence > {last - 3}",
        )
        assert "not what the events make it: positions" in whats(exits)

    def test_truncation_of_everything_shows_by_an_anchor_alone(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            head = anchor(store, T0)
        tamper(exits, f"DELETE FROM stored_events WHERE rowid > {head.sequence - 3}")
        rechain(exits)
        with ExitStore(exits) as store:
            store.rebuild()
        assert verify(exits).ok  # a chain in the file proves no more than this
        said = whats(exits, anchors=[head])
        assert f"None {head.sequence}: the anchor at event {head.sequence}" in said
        assert "cut off or rewritten" in said

    def test_a_rewritten_file_shows_by_an_anchor_alone(self, exits: Path) -> None:
        with ExitStore(exits, read_only=True) as store:
            head = anchor(store, T0)
            stop = next(r for r in store.events() if isinstance(r.event, StopMoved))
        tamper(
            exits,
            "UPDATE stored_events SET state = CAST(replace(CAST(state AS TEXT), '\"at\":', '\"at\":1') AS BLOB) "
            f"WHERE rowid = {stop.sequence}",
        )
        rechain(exits)
        with ExitStore(exits) as store:
            store.rebuild()
        assert verify(exits).ok
        assert "has another hash" in whats(exits, anchors=[head])

    @pytest.mark.parametrize(
        "change",
        [
            "state = x''",
            "state = x'ff'",
            "state = CAST('{}' AS BLOB)",
            "state = CAST('[]' AS BLOB)",
            "state = 'text'",
            "state = CAST(substr(CAST(state AS TEXT), 2) AS BLOB)",
            "topic = 'nothing.v1'",
            "topic = 'exit_completed.v9'",
            "topic = CAST(x'ff' AS TEXT)",
            "topic = ''",
            "originator_version = -1",
            "originator_version = 9223372036854775807",
            "originator_version = 'one'",
            "originator_id = ''",
            "originator_id = CAST(x'c3' AS TEXT)",
            "originator_id = 'account:x'",
            "rowid = -9",
        ],
    )
    @pytest.mark.parametrize("row", [1, 2, 40])
    def test_nothing_that_lies_there_makes_it_fail(self, exits: Path, change: str, row: int) -> None:
        tamper(exits, f"UPDATE stored_events SET {change} WHERE rowid = {row}")
        assert not verify(exits).ok
        rechain_where_possible(exits)
        assert not verify(exits).ok

    def test_a_hash_of_the_wrong_kind(self, exits: Path) -> None:
        tamper(exits, "UPDATE chain SET hash = 'abc' WHERE sequence = 3")
        assert "event 3 of the log" in whats(exits)

    def test_a_damaged_file(self, exits: Path) -> None:
        content = bytearray(exits.read_bytes())
        content[4096 * 3 : 4096 * 4] = os.urandom(4096)
        exits.write_bytes(content)
        with contextlib.suppress(StoreError):  # so damaged that it cannot be opened
            assert not verify(exits).ok

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
    def test_what_is_left_of_a_file_that_was_cut_short(self, exits: Path, part: float) -> None:
        content = exits.read_bytes()
        exits.write_bytes(content[: int(len(content) * part)])
        found = verify(exits)
        assert not found.ok
        assert any("damaged" in f.what for f in found.findings)

    @pytest.mark.parametrize("mark", ["last_evaluated_at_utc = 'yesterday'", "current_price = 'a lot'"])
    def test_marks_that_cannot_be_read(self, exits: Path, mark: str) -> None:
        tamper(exits, f"UPDATE position_tracking SET {mark} WHERE symbol = 'S1'")
        (finding,) = verify(exits).findings
        assert finding.what.startswith("position_tracking S1: the row cannot be read")

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE meta SET value = 'x' WHERE key = 'created_by'",
            "UPDATE meta SET key = 'creator' WHERE key = 'created_by'",
            "INSERT INTO meta VALUES ('note', 'all is well')",
        ],
    )
    def test_what_the_store_says_of_itself(self, exits: Path, change: str) -> None:
        tamper(exits, change)
        (finding,) = verify(exits).findings
        assert "is none that this library writes" in finding.what

    def test_tables_triggers_and_views_that_do_not_belong(self, exits: Path) -> None:
        tamper(
            exits,
            "CREATE TRIGGER t AFTER INSERT ON stored_events BEGIN DELETE FROM chain; END",
            "DROP INDEX positions_open",
        )
        said = whats(exits)
        assert "the trigger t does not belong there" in said
        assert "the index positions_open is missing" in said

    def test_facts_of_another_account(self, tmp_path: Path) -> None:
        with ExitStore(tmp_path / "e.db") as store:
            store.bind("mine")
            store.append("account:other", 0, [TradingPaused(by="ann", at=T0)], at=T0, by="operator")
        (finding,) = verify(tmp_path / "e.db").findings
        assert (finding.position_id, finding.what) == ("account:other", "the store is bound to another account, mine")

    def test_a_store_that_is_bound_to_another_account(self, exits: Path) -> None:
        with ExitStore(exits) as store:
            store.bind("ffffffffffff")
        assert "but the store is bound to ffffffffffff" in whats(exits)


def rechain_where_possible(path: Path) -> None:
    with contextlib.suppress(Exception):  # what cannot be hashed cannot be chained either
        rechain(path)


class TestReadModels:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE positions SET state = 'monitoring' WHERE state = 'filled'",
            "UPDATE positions SET entry_price = entry_price + 0.01 WHERE rowid = 1",
            "UPDATE positions SET version = CAST(version AS TEXT) || 'x' WHERE rowid = 1",
            "DELETE FROM exit_orders WHERE id = 1",
            "INSERT INTO alarms VALUES ('a', 'b', 'c', 'd', '2024-01-01T00:00:00Z', NULL, NULL)",
            "UPDATE position_tracking SET status = 'exited' WHERE symbol = 'S2'",
            "UPDATE exit_orders SET position_id = 'another' WHERE id = 2",
        ],
    )
    def test_a_row_that_no_event_made(self, exits: Path, statement: str) -> None:
        tamper(exits, statement)
        found = verify(exits)
        assert not found.ok
        assert all(f.what.startswith("not what the events make it") and f.position_id for f in found.findings)

    def test_marks_are_left_out(self, exits: Path) -> None:
        tamper(exits, "UPDATE position_tracking SET current_price = 1, highest_price = NULL")
        assert verify(exits).ok

    def test_rows_are_compared_in_the_order_of_the_database(self) -> None:
        rows = [(1, "a"), (2, "b"), (10, "c"), ("1", "d")]
        pairs = list(checking._unequal(iter(rows), iter([rows[0], (3, "x"), *rows[2:]]), [0]))
        assert pairs == [((2, "b"), None), (None, (3, "x"))]


class TestForgedLog:
    """Events that were appended by the store itself, and are no history of a position."""

    def forged(self, path: Path, *events: Any, by: str = "bar") -> str:
        with ExitStore(path) as store:
            first = opened()
            stream = position_id(first.account, first.symbol, first.side, first.epoch)
            for version, event in enumerate((first, *events)):
                store.append(stream, version, [event], at=T0, by=by if version else "bot")
        return whats(path)

    def test_an_event_that_the_lifecycle_does_not_allow(self, tmp_path: Path) -> None:
        done = ExitCompleted(filled_qty=Decimal(10), avg_fill_price=None, filled_at=T0, at=T0, cooldown_until=T0)
        said = self.forged(tmp_path / "f.db", done)
        assert "2: no transition for ExitCompleted in state 'monitoring'" in said
        assert "I10" in said

    def test_an_invariant(self, tmp_path: Path) -> None:
        moved = StopMoved(rule=ExitType.TRAILING_STOP, stop=Decimal(99), best_price=Decimal(100), bar_at=T0)
        assert "2: I15 (a stop moves as its rule says, and never loosens): trailing_stop goes to 99" in self.forged(
            tmp_path / "f.db", moved
        )

    def test_a_stream_that_does_not_begin_with_an_entry(self, tmp_path: Path) -> None:
        with ExitStore(tmp_path / "f.db") as store:
            store.append("x", 0, [AlarmRaised(alarm_id="a", kind="k", text="t", at=T0)], at=T0, by="bot")
        assert "x 1: no transition for AlarmRaised in state '(nothing)'" in whats(tmp_path / "f.db")

    def test_an_event_of_a_position_on_the_account(self, tmp_path: Path) -> None:
        with ExitStore(tmp_path / "f.db") as store:
            store.append("account:x", 0, [opened()], at=T0, by="bot")
        assert "PositionOpened on the account's stream" in whats(tmp_path / "f.db")

    def test_figures_that_nobody_can_count_with(self, tmp_path: Path) -> None:
        path = tmp_path / "f.db"
        self.forged(path)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            (state,) = db.execute("SELECT state FROM stored_events").fetchone()
            db.execute("UPDATE stored_events SET state = ?", (state.replace(b'"qty":"10"', b'"qty":"NaN"'),))
        rechain(path)
        assert "1: its figures cannot be true" in whats(path)


def opened() -> PositionOpened:
    return PositionOpened(
        account=ACCOUNT, symbol="AAPL", side=Side.LONG, epoch="20240102T143000Z", qty=Decimal(10),
        entry_price=Decimal(100), opened_at=T0, policy=ExitPolicy(),
    )  # fmt: skip


class TestAnchors:
    def test_a_line_is_read_back(self, exits: Path, tmp_path: Path) -> None:
        file = tmp_path / "anchors.jsonl"
        with ExitStore(exits, read_only=True) as store:
            one = anchor(store, datetime(2026, 1, 2, tzinfo=UTC))
        file.write_text(one.as_json() + "\n\n" + one.as_json() + "\n")
        assert json.loads(one.as_json()) == {
            "anchored_at": "2026-01-02T00:00:00Z",
            "sequence": one.sequence,
            "hash": one.hash,
        }
        back = read_anchors(file)
        assert [a.line for a in back] == [1, 3]
        assert msgspec.structs.replace(back[0], line=0) == one
        found = verify(exits, anchors=back)
        assert found.ok
        assert found.anchors == 2

    def test_anchors_stay_true_while_the_store_grows(self, exits: Path) -> None:
        with ExitStore(exits) as store:
            heads = [anchor(store, T0)]
            for version in range(3):
                store.append("account:x", version, [TradingPaused(by="ann", at=T0)], at=T0, by="operator")
                heads.append(anchor(store, T0))
        assert verify(exits, anchors=heads).ok

    def test_one_of_an_empty_store(self, tmp_path: Path, exits: Path) -> None:
        with ExitStore(":memory:") as store:
            empty = anchor(store, T0)
        assert verify(exits, anchors=[empty]).ok
        assert not verify(exits, anchors=[Anchor(sequence=0, hash="1" * 64)]).ok

    def test_a_broken_chain_is_not_anchored(self, exits: Path) -> None:
        tamper(exits, "UPDATE stored_events SET topic = 'x' WHERE rowid = 4")
        with ExitStore(exits, read_only=True) as store, pytest.raises(StoreError, match="does not hold at event 4"):
            anchor(store, T0)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "\n",
            "{}",
            "nothing",
            '{"sequence": -1, "hash": "00"}',
            '{"sequence": 1, "hash": "' + "g" * 64 + '"}',
            "[1]",
        ],
    )
    def test_a_file_that_holds_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a").write_text(text)
        with pytest.raises(StoreError, match="anchor"):
            read_anchors(tmp_path / "a")

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="cannot read the anchors"):
            read_anchors(tmp_path / "none")
