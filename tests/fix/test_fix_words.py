"""Every word that FIX has for the state of an order, and what a report in FIX's own fields means."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from exitfsm import fix
from exitfsm.broker.orders import is_order_update, report_of, says_unknown
from exitfsm.values import ExecutionReport, OrderSide, OrderStatus

NOW = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)
#: The values as FIX 4.4 has them, and those that FIX 5.0 added; OrdStatus 5 is of FIX 4.2.
ORD_STATUS = "0123456789ABCDE"
EXEC_TYPE = "0123456789ABCDEFGHIJKLMN"
TERMINAL = {"2": "filled", "4": "canceled", "8": "rejected", "C": "expired"}


def read(**fields: Any) -> ExecutionReport | None:
    return report_of({"client_order_id": "xf1-a-1", **fields}, now=NOW)


def status(**fields: Any) -> OrderStatus | None:
    report = read(**fields)
    return report.status if report is not None else None


def test_every_value_of_fix_has_a_row_and_no_code_has_two() -> None:
    assert "".join(word.code for word in fix.ORD_STATUS) == ORD_STATUS
    assert "".join(word.code for word in fix.EXEC_TYPE) == EXEC_TYPE
    assert all(word.meaning for word in (*fix.ORD_STATUS, *fix.EXEC_TYPE))
    spellings = [fix.plain_word(s) for word in fix.ORD_STATUS for s in (word.name, *word.others.split())]
    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("word", fix.ORD_STATUS, ids=lambda word: word.name)
def test_a_status_means_the_same_as_a_code_and_in_every_spelling(word: fix.Word) -> None:
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in word.name).lstrip("_")
    for spelling in (word.name, snake, snake.upper(), snake.replace("_", " "), f"OrdStatus.{word.name}"):
        assert status(status=spelling) is word.status
        assert status(ord_status=spelling) is word.status
    for field in ("ord_status", "OrdStatus", "39"):
        assert status(**{field: word.code}) is word.status
    assert word.status is not None
    assert word.status.terminal == (word.code in TERMINAL)


def test_a_word_for_the_state_of_a_refused_request_and_a_word_that_is_none() -> None:
    assert fix.status_of("Cancel-Rejected") is OrderStatus.CANCEL_REJECTED
    assert fix.status_of("order_replace_rejected") is OrderStatus.NEW
    assert fix.status_of("2") is None
    assert fix.status_of(" 2 ", coded=True) is OrderStatus.FILLED
    assert fix.status_of("I", coded=True) is None
    assert fix.event_of("nothing of the kind") is None
    assert fix.refuses_cancel("order cancel rejected")
    assert not fix.refuses_cancel("replace_rejected")
    assert not fix.corrects(None)
    assert fix.reason_of("Duplicate ClOrdID") == fix.DUPLICATE_ORDER
    assert fix.reason_of("no") is None


@pytest.mark.parametrize("word", fix.EXEC_TYPE, ids=lambda word: word.name)
def test_what_happened_counts_only_where_no_state_is_said(word: fix.Word) -> None:
    for kind in ({"exec_type": word.code}, {"150": word.code}, {"ExecType": word.name}, {"event": word.name}):
        assert status(**kind) is word.status
        assert status(**kind, ord_status="PartiallyFilled") is OrderStatus.PARTIALLY_FILLED
        report = read(**kind, ord_status="1", cum_qty="3")
        assert report is not None
        assert report.corrected == (word.code in "GH")


def test_a_code_in_a_field_that_is_not_fix_s_is_not_understood() -> None:
    assert status(status="2") is None
    assert status(status=2) is None
    assert status(state="8", event="4") is None
    assert status(status="closed") is None
    assert status(exec_type="I") is None


def test_a_reject_of_a_repetition_does_not_end_the_order() -> None:
    assert status(exec_type="8", ord_status="1", ord_rej_reason="6") is OrderStatus.PARTIALLY_FILLED
    for reason in ({"103": "6"}, {"ord_rej_reason": "DuplicateOrder"}, {"reject_code": "duplicate_id"}):
        assert read(exec_type="8", ord_status="8", **reason) is None
        assert not says_unknown({"client_order_id": "a", "39": "8", **reason})


def test_not_knowing_the_order_is_no_reject_of_it() -> None:
    for answer in (
        {"39": "8", "150": "I", "103": "5"},
        {"ord_status": "Rejected", "exec_type": "OrderStatus", "order_qty": 0},
        {"status": "rejected", "reject_reason": "unknown order"},
    ):
        assert read(**answer) is None
        assert says_unknown({"client_order_id": "a", **answer})
    for answer in ({"39": "8", "150": "8", "103": "99"}, {"status": "new"}, {"status": "who knows"}):
        assert not says_unknown({"client_order_id": "a", **answer})


@pytest.mark.parametrize(
    ("state", "means"),
    [("0", "cancel_rejected"), ("1", "cancel_rejected"), ("6", "cancel_rejected"), ("8", "cancel_rejected"),
     ("2", "filled"), ("4", "canceled")],
)  # fmt: skip
def test_a_refused_cancel_tells_of_the_order_only_where_it_is_over(state: str, means: str) -> None:
    for message in ({"35": "9"}, {"msg_type": "OrderCancelReject"}, {"434": "1", "35": "9"}):
        assert status(**message, **{"39": state, "102": "1"}) == means


def test_a_refused_replacement_is_nobody_s_cancel() -> None:
    assert status(**{"35": "9", "434": "2", "39": "0"}) is OrderStatus.NEW
    assert status(event="order_replace_rejected", order={"client_order_id": "a", "status": "new"}) is OrderStatus.NEW


def test_a_report_by_its_tag_numbers_is_read_whole() -> None:
    report = report_of(
        {"35": "8", "11": "other-1", "41": "xf1-a-1", "37": "b-7", "17": "e-3", "39": "1", "150": "F", "55": "AAPL",
         "54": "2", "38": "100", "14": "20", "151": "80", "6": "99.5", "60": "20240102-15:29:58.250", "58": "hello"},
        now=NOW,
    )  # fmt: skip
    assert report == ExecutionReport(
        client_order_id="other-1",
        orig_client_order_id="xf1-a-1",
        status=OrderStatus.PARTIALLY_FILLED,
        at=datetime(2024, 1, 2, 15, 29, 58, 250_000, tzinfo=UTC),
        filled_qty=Decimal(20),
        leaves_qty=Decimal(80),
        avg_fill_price=Decimal("99.5"),
        broker_order_id="b-7",
        symbol="AAPL",
        side=OrderSide.SELL,
        qty=Decimal(100),
        execution_id="e-3",
        text="hello",
    )
    assert is_order_update({"35": "8", "11": "x", "39": "1"})
    assert not is_order_update({"11": "x"})
