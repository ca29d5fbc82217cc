"""Working orders that an exit meets: what gives way, what blocks it, and what is one too many."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import T0, at, exiting, held, mirrored, report
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.ports import CAREFUL
from exitfsm.values import ExecutionReport, OrderSide, OrderStatus, WorkingOrder


def order(order_id: str = "web-1", side: str = "sell", qty: int | None = 10, **fields: object) -> WorkingOrder:
    base = report("new", client_order_id=order_id, side=OrderSide(side), qty=Decimal(qty) if qty is not None else None)
    return WorkingOrder(**{name: getattr(base, name) for name in base.__struct_fields__} | fields)


# --- what gives way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order_id", "side", "foreign_exits", "prefix", "gives"),
    [
        ("bot-7", "buy", "by_prefix", "bot-", True), ("bot-7", "sell", "by_prefix", "bot-", True),
        ("web-7", "sell", "by_prefix", "bot-", False), ("bot-7", "sell", "by_prefix", "", False),
        ("web-7", "sell", "cancel", "", True), ("web-7", "buy", "cancel", "bot-", False),
        ("bot-7", "sell", "wait", "bot-", False), ("bot-7", "buy", "wait", "bot-", True),
    ],
)  # fmt: skip
def test_what_gives_way_to_an_exit(order_id: str, side: str, foreign_exits: str, prefix: str, gives: bool) -> None:
    assert holdings.gives_way(order(order_id, side), held(), foreign_exits, prefix) is gives
    flipped = order(order_id, "sell" if side == "buy" else "buy")
    assert holdings.gives_way(flipped, mirrored(held()), foreign_exits, prefix) is gives


# --- what is in the way -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qty", "shown", "blocks"), [(10, 10, True), (1, 10, True), (5, 15, False), (5, 14, True), (None, 100, True)]
)
def test_together_never_more_than_is_held(qty: int | None, shown: int, blocks: bool) -> None:
    theirs = holdings.closing(held(), [order(qty=qty), order("bot-1", "buy")])
    assert [o.client_order_id for o in theirs] == ["web-1"]
    assert bool(holdings.blocking(held(), theirs, Decimal(shown))) is blocks


def test_what_has_filled_already_does_not_count() -> None:
    assert holdings.blocking(held(), (order(qty=10, filled_qty=Decimal(10)),), Decimal(10)) == ()
    assert holdings.blocking(held(), (order(qty=10, leaves_qty=Decimal(0)),), Decimal(10)) == ()
    assert holdings.blocking(held(), (order(qty=10, filled_qty=Decimal(9)),), Decimal(10))


@given(st.lists(st.integers(0, 20), max_size=4), st.integers(0, 60))
def test_what_does_not_block_leaves_enough_for_all(leaves: list[int], shown: int) -> None:
    theirs = tuple(order(f"web-{n}", qty=qty) for n, qty in enumerate(leaves))
    if sum(leaves) and not holdings.blocking(held(), theirs, Decimal(shown)):
        assert sum(leaves) + held().remaining_qty <= shown


def test_the_venue_is_the_guard_where_it_reserves_or_refuses() -> None:
    assert not holdings.is_guarded(CAREFUL)
    assert holdings.is_guarded(replace(CAREFUL, reserves=True))
    assert holdings.is_guarded(replace(CAREFUL, reduce_only=True))


@pytest.mark.parametrize(
    ("kind", "waited", "alarm"),
    [("limit", 0, True), ("stop", 0, False), ("stop", 120, True), ("stop_limit", 119, False), ("", 119, False)],
)
def test_a_limit_is_an_alarm_at_once_and_a_stop_when_patience_ends(kind: str, waited: float, alarm: bool) -> None:
    theirs = order(order_type=kind, limit_price=Decimal(130), stop_price=Decimal(97) if "stop" in kind else None)
    assert (holdings.waits_for(theirs, waited, 120) is holdings.Pass.ALARM) is alarm


def test_the_alarm_says_both_prices() -> None:
    text = holdings.blocked_by(order(order_type="stop", stop_price=Decimal(97)), exiting())
    assert "stop web-1 for 10 at 97 closes AAPL" in text
    assert "97" in text
    assert "to come" in holdings.blocked_by(report("new", client_order_id="x"), held())


# --- what is one too many ---------------------------------------------------------------------------------------------


def twin(own: str | None, second: float = 0, **fields: object) -> ExecutionReport:
    return report("new", client_order_id="xf1-1", broker_order_id=own, at=at(second), **fields)


@pytest.mark.parametrize(
    ("listed", "on_record", "surplus"),
    [
        ([twin("a")], None, []),
        ([twin("a"), twin("a")], None, []),  # one order that is listed twice
        ([twin("a", 1), twin("b", 0)], None, ["a"]),  # the oldest stays
        ([twin("a", 1), twin("b", 0)], "a", ["b"]),  # the one on record stays
        ([twin("a", 1), twin("b", 0)], "c", ["a"]),
        ([twin("a"), twin(None)], "a", []),  # what has no id of the broker cannot be told apart
        ([twin("a"), twin("b", orig_client_order_id="xf1-0")], "a", []),  # it is being replaced
        ([twin("a"), replace(twin("b"), status=OrderStatus.REPLACED)], "a", []),
        ([replace(twin("a"), client_order_id="web-1"), replace(twin("b"), client_order_id="web-1")], None, []),
    ],
)
def test_a_second_order_of_one_id_is_surplus(
    listed: list[ExecutionReport], on_record: str | None, surplus: list[str]
) -> None:
    found = holdings.twins(listed, {"xf1-1": on_record})
    assert [one.report.broker_order_id for one in found] == surplus
    # Before the answer to a submit has named one, either may be ours: then none is canceled.
    assert all(one.is_sure is (on_record in {report.broker_order_id for report in listed}) for one in found)


@pytest.mark.parametrize(
    ("record", "ended", "works"),
    [
        (report("new"), None, True), (report("new"), 20, True), (report("new"), 21, False),
        (report("filled", 10), None, False), (None, None, False),
    ],
)  # fmt: skip
def test_an_exit_works_after_its_position_has_ended(
    record: ExecutionReport | None, ended: float | None, works: bool
) -> None:
    assert holdings.works_after_its_end(record, at(ended) if ended is not None else None, at(30)) is works
    assert at(0) == T0
