"""What other brokers call the state of an order, and the shapes in which their SDKs hand it over."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from types import SimpleNamespace as Obj
from typing import Any

import pytest
from asked import calls_of
from hypothesis import given as for_all
from hypothesis import strategies as st

from exitfsm import fix
from exitfsm.broker.fields import by_symbol
from exitfsm.broker.lists import fill_of
from exitfsm.broker.market import position_of
from exitfsm.broker.orders import Dialect, is_order_update, report_of
from exitfsm.errors import BrokerError
from exitfsm.ports import Capabilities
from exitfsm.values import ExecutionReport, OrderSide, OrderStatus, Side

NOW = datetime(2024, 1, 2, 15, 30, tzinfo=UTC)
OURS = f"xf1-{0:032x}-1"

#: Each broker's own words, as its API has them, by what they mean.
WORDS: dict[str, dict[str, str]] = {
    "interactive brokers": {
        "new": "ApiPending PendingSubmit PreSubmitted Submitted",
        "pending_cancel": "PendingCancel ApiCancelled",
        "filled": "Filled",
        "canceled": "Cancelled",
        "suspended": "Inactive",
    },
    "tradier": {
        "new": "open pending",
        "partially_filled": "partially_filled",
        "filled": "filled",
        "canceled": "canceled",
        "expired": "expired",
        "rejected": "rejected error",
    },
    "tradestation": {
        "new": "ACK DON OPN PLA DIS CND STP OSO LAT RPD RSN CHG",
        "partially_filled": "FPR",
        "filled": "FLL",
        "canceled": "CAN OUT TSC FLP",
        "pending_cancel": "UCN",
        "expired": "EXP",
        "rejected": "REJ",
        "replaced": "UCH",
        "suspended": "SUS",
        "cancel_rejected": "RJC",
    },
    "moomoo": {
        "new": "UNSUBMITTED WAITING_SUBMIT SUBMITTING SUBMITTED",
        "partially_filled": "FILLED_PART",
        "filled": "FILLED_ALL",
        "pending_cancel": "CANCELLING_PART CANCELLING_ALL",
        "canceled": "CANCELLED_PART CANCELLED_ALL DELETED",
        "rejected": "SUBMIT_FAILED FAILED",
        "suspended": "DISABLED",
    },
    "vnpy": {
        "new": "SUBMITTING NOTTRADED 提交中 未成交",
        "partially_filled": "PARTTRADED 部分成交",
        "filled": "ALLTRADED 全部成交",
        "canceled": "CANCELLED 已撤销",
        "rejected": "REJECTED 拒单",
    },
    "schwab": {
        "new": "AWAITING_PARENT_ORDER AWAITING_CONDITION AWAITING_STOP_CONDITION AWAITING_MANUAL_REVIEW ACCEPTED "
        "PENDING_ACTIVATION QUEUED WORKING NEW AWAITING_RELEASE_TIME PENDING_ACKNOWLEDGEMENT PENDING_REPLACE",
        "pending_cancel": "AWAITING_UR_OUT PENDING_CANCEL PENDING_RECALL",
        "filled": "FILLED",
        "canceled": "CANCELED",
        "replaced": "REPLACED",
        "rejected": "REJECTED",
        "expired": "EXPIRED",
    },
    "lean": {
        "new": "New Submitted UpdateSubmitted",
        "partially_filled": "PartiallyFilled",
        "filled": "Filled",
        "canceled": "Canceled",
        "pending_cancel": "CancelPending",
        "rejected": "Invalid",
    },
    "zerodha": {
        "new": "OPEN|PUT ORDER REQ RECEIVED|VALIDATION PENDING|OPEN PENDING|MODIFY VALIDATION PENDING|MODIFY PENDING|"
        "TRIGGER PENDING|AMO REQ RECEIVED|MODIFIED",
        "pending_cancel": "CANCEL PENDING|CANCEL_PENDING",
        "filled": "COMPLETE",
        "canceled": "CANCELLED|CANCELLED AMO",
        "rejected": "REJECTED",
    },
    "dhan": {"new": "TRANSIT PENDING", "partially_filled": "PART_TRADED", "filled": "TRADED"},
    "etrade": {"pending_cancel": "CANCEL_REQUESTED", "filled": "EXECUTED", "partially_filled": "INDIVIDUAL_FILLS"},
    "ccxt": {"new": "open", "canceled": "canceled", "expired": "expired", "rejected": "rejected"},
    "exchanges": {
        "new": "NEW PENDING_NEW live Untriggered",
        "canceled": "PartiallyFilledCanceled mmp_canceled partial-canceled",
        "expired": "EXPIRED_IN_MATCH",
        "filled": "full_fill",
    },
}


def spelled(text: str) -> list[str]:
    return text.split("|") if "|" in text else text.split()


EACH = [
    (broker, said, means)
    for broker, words in WORDS.items()
    for means, text in words.items()
    for said in spelled(text)
]  # fmt: skip


def read(answer: Any, **given: Any) -> ExecutionReport:
    report = report_of(answer, now=NOW, **given)
    assert report is not None
    return report


@pytest.mark.parametrize(("broker", "said", "means"), EACH, ids=[f"{b} {s}" for b, s, _ in EACH])
def test_a_word_of_a_broker_means_what_the_broker_means_by_it(broker: str, said: str, means: str) -> None:
    assert read({"client_order_id": OURS, "status": said}).status == means
    # Between cancel and replace no figures are needed: the word itself says whether the order may still fill.
    assert OrderStatus(means).terminal == (means in ("filled", "canceled", "expired", "rejected"))


def test_a_member_of_an_enumeration_is_read_by_its_value_or_by_its_name() -> None:
    class Vnpy(Enum):
        ALLTRADED = "全部成交"
        ODD = "nothing that is known"

    class Lean(IntEnum):
        Invalid = 7

    class Named(Enum):
        FILLED_ALL = "F.1"

    assert read({"client_order_id": OURS, "status": Vnpy.ALLTRADED}).status == "filled"
    assert read({"client_order_id": OURS, "status": Lean.Invalid, "qty": 1}).status == "rejected"
    assert read({"client_order_id": OURS, "status": Named.FILLED_ALL}).status == "filled"
    assert report_of({"client_order_id": OURS, "status": Vnpy.ODD}, now=NOW) is None


def test_of_an_order_that_does_not_work_the_broker_s_own_word_is_kept() -> None:
    assert read({"client_order_id": OURS, "status": "Inactive"}).text == "Inactive"
    assert read({"client_order_id": OURS, "status": "Inactive", "why_held": "locate"}).text == "Inactive: locate"
    assert read({"client_order_id": OURS, "status": "Submitted", "whyHeld": ""}).text == ""


@pytest.mark.parametrize("said", sorted(fix.FAILURES))
def test_a_request_that_failed_says_nothing_of_the_order(said: str) -> None:
    answer = {"status": said, "message": "try again"}
    assert report_of(answer, now=NOW, client_order_id=OURS) is None
    named = report_of({**answer, "order_id": "b-1"}, now=NOW, client_order_id=OURS)
    assert said == "failure" or (named is not None and named.status == "rejected")


def test_an_unknown_word_is_noted_and_nothing_is_concluded() -> None:
    noted: list[tuple[str, str]] = []
    dialect = Dialect(note=lambda kind, text: noted.append((kind, text)))
    assert report_of({"client_order_id": OURS, "status": "Frozen"}, now=NOW, dialect=dialect) is None
    assert [kind for kind, _ in noted] == ["status_unknown"]
    assert "'Frozen'" in noted[0][1]
    assert "status_words" in noted[0][1]
    # what answers a request, and what names no order, is none
    for answer in ({"status": "success", "order_id": "b"}, {"status": "Frozen"}, {"client_order_id": OURS}, {}):
        assert report_of(answer, now=NOW, client_order_id=OURS, dialect=dialect) is None
    assert len(noted) == 1
    assert report_of({"event": "odd", "order": {"id": "b"}}, now=NOW, dialect=dialect) is None
    assert "'odd'" in noted[1][1]
    # and on a bus it is an update all the same
    assert is_order_update({"client_order_id": OURS, "status": "Frozen"})
    assert is_order_update({"id": "b", "status": "Frozen", "side": "sell", "qty": 1})
    assert not is_order_update({"id": "b", "status": "up"})


def test_a_bot_says_what_a_word_means() -> None:
    class Bot:
        def __init__(self) -> None:
            self.capabilities = {"status_words": {"Frozen Solid": "suspended", "open": "pending_cancel"}}

        def positions(self) -> list[Any]:
            return []

        def submit(self, order: Any) -> None: ...

        def order(self, client_order_id: str) -> Any:
            return {"client_order_id": client_order_id, "status": "FROZEN_SOLID"}

    calls = calls_of(Bot())
    report = calls.report_of({"client_order_id": OURS, "status": "frozen-solid"})
    assert report is not None
    assert report.status is OrderStatus.SUSPENDED
    again = calls.report_of({"client_order_id": OURS, "status": "open"})  # its own words go before the table
    assert again is not None
    assert again.status is OrderStatus.PENDING_CANCEL
    assert Capabilities().status_words == {}


@for_all(
    st.sampled_from(["timestamp", "filled_avg_price", "qty", "leaves_qty", "filled_qty"]),
    st.sampled_from(["06-Jan-2026 21:00:08", "n/a", "-", "1e999999", [], {}]),
)
def test_one_field_that_cannot_be_read_discards_no_other(name: str, value: Any) -> None:
    noted: list[str] = []
    answer = {"client_order_id": OURS, "status": "partially_filled", "symbol": "AAPL", "side": "sell", name: value}
    report = read(answer, dialect=Dialect(note=lambda kind, text: noted.append(kind)))
    assert (report.status, report.symbol, report.side) == (OrderStatus.PARTIALLY_FILLED, "AAPL", OrderSide.SELL)
    assert set(noted) <= {"answer_unreadable"}
    fields = (report.filled_qty, report.avg_fill_price, report.qty, report.leaves_qty)
    assert noted or name == "timestamp" or any(one is not None for one in fields)


def test_a_filled_quantity_that_cannot_be_read_is_not_zero() -> None:
    assert read({"client_order_id": OURS, "status": "canceled", "filled_qty": "n/a"}).filled_qty is None


def test_filled_with_figures_of_nothing_is_read_as_it_says_so_that_executions_are_asked() -> None:
    """Interactive Brokers' completed orders say `Filled`, and 0 for each figure: that contradicts itself."""
    answer = {
        "orderRef": OURS,
        "status": "Filled",
        "filled": 0,
        "remaining": 0,
        "avgFillPrice": 0.0,
        "totalQuantity": 0,
    }
    assert read(answer).filled_qty == 0
    assert read({**answer, "totalQuantity": 10}).filled_qty == 0
    assert read({**answer, "status": "Cancelled"}).filled_qty == 0
    assert read({"orderRef": OURS, "status": "Filled", "quantity": 10, "remaining": 0}).filled_qty == 10


# --- the objects of SDKs ----------------------------------------------------------------------------------------------

STOCK = Obj(conId=1, symbol="AAPL", secType="STK", localSymbol="AAPL")


def trade(status: str = "Submitted", filled: float = 0.0, average: float = 0.0) -> Obj:
    order = Obj(orderId=7, clientId=1, action="SELL", totalQuantity=10.0, orderRef=OURS, filledQuantity=1.7e308)
    state = Obj(orderId=7, status=status, filled=filled, remaining=10 - filled, avgFillPrice=average, whyHeld="")
    return Obj(contract=STOCK, order=order, orderStatus=state, fills=[], log=[], filled=lambda: filled)


def test_the_objects_of_ib_async_are_read_as_they_are() -> None:
    report = read(trade("Filled", 10.0, 98.5))
    assert (report.client_order_id, report.broker_order_id) == (OURS, "7")
    assert (report.status, report.filled_qty, report.avg_fill_price) == (OrderStatus.FILLED, 10, Decimal("98.5"))
    assert (report.symbol, report.side, report.qty) == ("AAPL", OrderSide.SELL, 10)
    assert is_order_update(trade())
    held = position_of(Obj(account="DU1", contract=STOCK, position=-10.0, avgCost=100.0))
    assert held is not None
    assert (held.symbol, held.side, held.qty) == ("AAPL", Side.SHORT, 10)
    execution = Obj(execId="1.1", time=NOW, side="SLD", shares=10.0, price=98.5, orderRef=OURS, orderId=7)
    fill = fill_of(Obj(contract=STOCK, execution=execution, commissionReport=Obj(commission=1.0), time=NOW))
    assert fill is not None
    assert (fill.symbol, fill.side, fill.qty, fill.client_order_id) == ("AAPL", OrderSide.SELL, 10, OURS)


def test_an_order_of_one_leg_is_read_by_its_leg() -> None:
    leg = {
        "BuyOrSell": "Sell",
        "QuantityOrdered": "10",
        "ExecQuantity": "4",
        "QuantityRemaining": "6",
        "Symbol": "AAPL",
    }
    tradestation = {"OrderID": "1", "Status": "FPR", "StatusDescription": "Partial Fill (Alive)", "Legs": [leg]}
    report = read(tradestation, client_order_id=OURS)
    assert (report.symbol, report.side, report.qty, report.filled_qty) == ("AAPL", OrderSide.SELL, 10, 4)
    assert report.status is OrderStatus.PARTIALLY_FILLED
    two = read({**tradestation, "Legs": [leg, {**leg, "Symbol": "MSFT"}]}, client_order_id=OURS)
    assert two.symbol is None  # which of them it is about is not guessed
    schwab = {
        "orderId": 1000, "status": "WORKING", "quantity": 10.0, "filledQuantity": 4.0,
        "orderLegCollection": [{"instruction": "SELL", "quantity": 10.0, "instrument": {"symbol": "AAPL"}}],
    }  # fmt: skip
    report = read(schwab, client_order_id=OURS)
    assert (report.symbol, report.side, report.qty, report.filled_qty) == ("AAPL", OrderSide.SELL, 10, 4)


def test_our_id_may_stand_in_a_note_and_another_note_is_no_id() -> None:
    assert read({"order_id": "1", "status": "OPEN", "tag": OURS}).client_order_id == OURS
    assert read({"order_id": "1", "status": "OPEN", "tag": "momentum"}).client_order_id == "1"
    moomoo = {"order_id": "1", "order_status": "FILLED_ALL", "trd_side": "SELL", "dealt_qty": 10, "dealt_avg_price": 9}
    report = read({**moomoo, "remark": OURS})
    assert (report.client_order_id, report.side, report.filled_qty, report.avg_fill_price) == (OURS, "sell", 10, 9)


def test_positions_in_the_shapes_of_other_brokers() -> None:
    class Direction(Enum):
        SHORT = "空"

    schwab = position_of({"longQuantity": 0, "shortQuantity": 4.0, "averagePrice": 9, "instrument": {"symbol": "AAPL"}})
    assert schwab is not None
    assert (schwab.symbol, schwab.side, schwab.qty) == ("AAPL", Side.SHORT, 4)
    vnpy = position_of(Obj(symbol="rb2410", direction=Direction.SHORT, volume=3, price=3500.0))
    assert vnpy is not None
    assert (vnpy.side, vnpy.qty) == (Side.SHORT, 3)
    one = {"symbol": "AAPL", "quantity": 1, "cost_basis": 100}
    assert by_symbol({"positions": {"position": one}}) == [(None, one)]
    assert by_symbol({"positions": {"position": [one, one]}}) == [(None, one), (None, one)]
    assert by_symbol({"positions": "null"}) == []
    assert by_symbol({"data": {"net": [one], "day": [one]}}) == [(None, one)]
    assert by_symbol({"AAPL": 1}) == [("AAPL", 1)]
    with pytest.raises(BrokerError):
        by_symbol({"positions": "none of them"})


# --- lists of them ----------------------------------------------------------------------------------------------------


class Listed:
    """A broker with these answers."""

    def __init__(self, *, fills: list[Any] | None = None, orders: list[Any] | None = None) -> None:
        self._fills, self._orders = fills or [], orders or []

    def positions(self) -> list[Any]:
        return []

    def submit(self, order: Any) -> None: ...

    def fills(self, since: datetime) -> list[Any]:
        return self._fills

    def open_orders(self) -> list[Any]:
        return self._orders


GOOD = {"symbol": "AAPL", "side": "sell", "qty": 1, "price": 9, "time": NOW, "id": "1"}


async def test_executions_none_of_which_can_be_read_are_not_no_fills() -> None:
    noted: list[tuple[str, str]] = []
    calls = calls_of(Listed(fills=[{**GOOD, "time": "06-Jan-2026"}, {"symbol": "AAPL"}]), noted=noted)
    with pytest.raises(BrokerError, match="an execution of AAPL cannot be read"):
        await calls.fills(NOW)
    assert [kind for kind, _ in noted] == ["answer_unreadable"]
    assert await calls_of(Listed()).fills(NOW) == []


async def test_an_execution_that_cannot_be_read_hides_none_of_the_others_and_is_noted_once() -> None:
    noted: list[tuple[str, str]] = []
    calls = calls_of(Listed(fills=[GOOD, {"symbol": "AAPL", "side": "sell", "qty": 1}]), noted=noted)
    for _ in range(3):
        assert len(await calls.fills(NOW)) == 1
    assert len(noted) == 1
    assert "price and at" in noted[0][1]


async def test_a_working_order_whose_state_is_not_understood_works_as_it_is_listed() -> None:
    noted: list[tuple[str, str]] = []
    orders = [{"client_order_id": OURS, "status": "Frozen"}, {"client_order_id": "b", "status": "new"}, {"id": [[]]}]
    calls = calls_of(Listed(orders=orders), noted=noted)
    found = await calls.open_orders()
    assert [(r.client_order_id, r.status) for r in found][:2] == [(OURS, "new"), ("b", "new")]
    assert "status_unknown" in [kind for kind, _ in noted]
