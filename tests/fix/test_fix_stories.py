"""FIX's order state changes through the manager's own door: each way, each dialect, each fault in each place.

Every way is told. Into the stories of plain orders, cancels, repetitions, questions and times in force all doubled and
late piece of news, every crash and long waits are put; of what else can go wrong, and into the other stories, a part.
`EXITFSM_DEEP=1 pytest tests/fix` puts everything into every way in every dialect.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fix_desk import DIALECTS, Do, Fault, Said, Step, Told, Way, faults, stories, tell

from exitfsm import State

DEEP = bool(os.environ.get("EXITFSM_DEEP"))
WAYS = list(stories())
MAIN = [way for way in WAYS if " " not in way.name]
#: Stories that news doubled and late, crashes and long waits are put into at each step, always.
CORE = ("A", "B", "F", "G", "I")
#: Of what else can go wrong, and in the other stories, one in so many.
PART = 12
#: Stories in which the dialects differ most: ids of their own, refusals, corrections.
IN_EACH_DIALECT = ("B", "F", "J", "C.1", "D.1")
TABLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "fix_order_state_matrices.json"


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_each_way_ends_as_it_must(way: Way) -> None:
    undisturbed(way)


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if dialect != "names"])
@pytest.mark.parametrize(
    "way", WAYS if DEEP else [way for way in MAIN if way.name.startswith(IN_EACH_DIALECT)], ids=lambda way: way.name
)
def test_however_the_broker_says_it_the_same_comes_of_it(way: Way, dialect: str) -> None:
    assert tell(way, dialect=dialect)[:2] == undisturbed(way)[:2]


@pytest.mark.parametrize("way", MAIN, ids=lambda way: way.name)
def test_with_a_fault_in_any_place_the_same_comes_of_it(way: Way) -> None:
    _with_faults(way, list(faults(way)) if DEEP else _chosen(way))


def _chosen(way: Way) -> list[Fault]:
    """What of all faults is put into a story where there is little time."""
    kinds = ("twice", "late", "crash", "slow") if way.name.startswith(CORE) else ()
    if way.name.startswith("J"):
        kinds = ("late",)  # what is older than a correction must not undo it
    always = [fault for fault in faults(way) if fault.kind in kinds]
    others = [fault for fault in faults(way) if fault.kind not in kinds]
    return always + others[::PART]


@pytest.mark.slow
@pytest.mark.skipif(not DEEP, reason="every fault in every way takes minutes: set EXITFSM_DEEP=1")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_with_a_fault_in_any_place_of_any_way_in_any_dialect(dialect: str) -> None:
    for way in WAYS:
        _with_faults(way, list(faults(way)), dialect)


@cache
def undisturbed(way: Way, dialect: str = "names") -> Told:
    """What comes of it when nothing goes wrong."""
    return tell(way, dialect=dialect)


def _with_faults(way: Way, chosen: list[Fault], dialect: str = "names") -> None:
    wanted = undisturbed(way, dialect)
    for fault in chosen:
        told = tell(way, fault, dialect)
        if fault.kind == "twice":
            assert told == wanted, f"{fault} changed something"
        elif wanted.state is State.FILLED and way.ends == "filled":
            assert (told.state, told.sold) == (wanted.state, wanted.sold), fault


# --- the table itself -------------------------------------------------------------------------------------------------

_WORDS = {
    "New": "new", "PartiallyFilled": "partial", "Filled": "filled", "DoneForDay": "done_for_day",
    "Canceled": "canceled", "PendingCancel": "pending_cancel", "Rejected": "rejected", "PendingNew": "pending_new",
    "PendingReplace": "pending_replace", "Replace": "replaced", "Trade": "trade", "OrderStatus": "order_status",
}  # fmt: skip


def _table() -> Iterator[Way]:
    """Every path of the table, as a way through a story; quantities in hundreds."""
    if not TABLE.exists():
        return
    for scenario in json.loads(TABLE.read_text(encoding="utf-8"))["scenarios"]:
        for number, path in enumerate(scenario["paths"]):
            rows = [scenario["steps"][i] for i in path]
            for order in dict.fromkeys(row.get("order") for row in rows if row["msg"] == "NewOrder"):
                yield _way(f"{scenario['ref']}/{number}/{order}", [r for r in rows if r.get("order", order) == order])
            if not any(row["msg"] == "NewOrder" for row in rows):
                yield _way(f"{scenario['ref']}/{number}", rows)


def _way(name: str, rows: list[dict[str, Any]]) -> Way:
    steps: list[Step] = [Do("order")]
    scale = Decimal(next((r["order_qty"] for r in rows if r["msg"] == "NewOrder"), 10_000)) / 100
    for row in rows:
        if row["msg"] == "CancelRequest":
            steps.append(Do("cancel"))
        elif row["msg"] == "StatusRequest":
            steps.append(Do("ask"))
        elif row["dir"] == "sell_to_buy":
            steps.append(_said(row, scale))
    said = [step for step in steps if isinstance(step, Said)]
    alarm = any(s.reason == "duplicate_of_verbal" or s.qty > 100 for s in said)
    tif = next((row["tif"] for row in rows if row.get("tif")), "")
    flags = {"limit"} if Do("cancel") in steps else {"ioc"} if tif in ("IOC", "FOK") else set()
    return Way(name, tuple(steps), "alarm" if alarm else "filled", frozenset(flags))


def _said(row: dict[str, Any], scale: Decimal) -> Said:
    own = row["cl_ord_id"] == row.get("order") or not row.get("orig_cl_ord_id")
    told, before = ("X", "") if own else ("Y", "X")
    reason = row.get("reason") or ""
    if row["msg"] == "OrderCancelReject":
        return Said("no", _WORDS[row["ord_status"]], told=told, before=before, reason=reason)
    numbers = (Decimal(row[name]) / scale for name in ("order_qty", "cum_qty", "leaves_qty"))
    return Said(_WORDS[row["exec_type"]], _WORDS[row["ord_status"]], *numbers, told=told, before=before, reason=reason)


@pytest.mark.skipif(not TABLE.exists(), reason="the table is not beside the project")
def test_the_table_has_ways_and_each_of_its_scenarios_is_a_story() -> None:
    table = list(_table())
    assert len(table) > 30
    assert {way.name.split("/")[0] for way in table} <= {way.name for way in MAIN}


@pytest.mark.skipif(not TABLE.exists(), reason="the table is not beside the project")
@pytest.mark.parametrize("way", list(_table()), ids=lambda way: way.name)
def test_each_path_of_the_table_ends_as_it_must(way: Way) -> None:
    _with_faults(way, list(faults(way)) if DEEP else [])
    undisturbed(way)
