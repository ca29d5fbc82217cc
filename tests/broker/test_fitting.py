"""Brokers whose methods have other names and parameters: what fits, what is refused at the start, and how."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from asked import calls_of

from exitfsm.broker.calls import Known, Outcome
from exitfsm.broker.fitting import Fitting
from exitfsm.errors import BrokerError, ConfigError, OrderRefused
from exitfsm.ports import CAREFUL, IdMemory
from exitfsm.values import Order, OrderSide, OrderStatus, OrderType

ORDER = Order(client_order_id="xf1-a-1", symbol="AAPL", side=OrderSide.SELL, qty=Decimal("0.3"))


class Side(Enum):
    BUY = "BUY"
    SELL = "SELL"


class Base:
    """What they all have."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def get_positions(self) -> dict[str, float]:
        return {"AAPL": 0.1 + 0.2, "TSLA": -2}


class Keywords(Base):
    def submit_order(self, symbol, qty, side, type, time_in_force, client_order_id):  # type: ignore[no-untyped-def]
        self.sent.append((symbol, qty, side, type, time_in_force, client_order_id))
        return "their-id"


class Annotated(Base):
    async def place_order(
        self, ticker: str, side: Side, quantity: str, order_type: str = "market", *, client_id: str
    ) -> int:
        self.sent.append((ticker, quantity, side, order_type, "day", client_id))
        return 77


class TakesDict(Base):
    def submit(self, order: dict[str, Any]) -> None:
        names = ("symbol", "qty", "side", "type", "time_in_force", "client_order_id")
        self.sent.append(tuple(order[name] for name in names))


class CcxtLike(Base):
    def create_order(self, symbol, type, side, amount, price=None, params={}):  # type: ignore[no-untyped-def]  # noqa: B006
        self.sent.append((symbol, amount, side, type, "day", params["clientOrderId"]))
        return {"id": "9", "clientOrderId": params["clientOrderId"], "status": "open", "filled": 0.0, "amount": amount}


class Rest(Base):
    def submit_order(self, symbol: str, side: str, qty: float, **more: Any) -> dict[str, Any]:
        self.sent.append((symbol, qty, side, "market", "day", more["client_order_id"]))
        return {"client_order_id": more["client_order_id"], "status": "ACCEPTED"}


@pytest.mark.parametrize("kind", [Keywords, Annotated, TakesDict, CcxtLike, Rest])
async def test_a_submit_by_any_name_is_given_what_its_parameters_ask_for(kind: Any) -> None:
    broker = kind()
    Fitting(broker).check()
    calls = calls_of(broker)
    outcome = await calls.submit(ORDER)
    qty = "0.3" if kind is Annotated else 0.3
    side = Side.SELL if kind is Annotated else "sell"
    assert broker.sent == [("AAPL", qty, side, "market", "day", "xf1-a-1")]
    assert outcome.outcome is (Outcome.UNKNOWN if kind is TakesDict else Outcome.ACK)  # no answer: it is looked up
    assert [(p.symbol, str(p.side), p.qty) for p in await calls.positions()] == [
        ("AAPL", "long", Decimal("0.3")), ("TSLA", "short", 2),
    ]  # fmt: skip
    calls.close()


async def test_a_limit_price_and_a_closing_flag_reach_a_submit_that_takes_them() -> None:
    class Limits(Base):
        def submit_order(self, symbol, qty, side, order_type, client_order_id, limit_price=None, reduce_only=False):  # type: ignore[no-untyped-def]
            self.sent.append((order_type, limit_price, reduce_only))

    broker = Limits()
    calls = calls_of(broker)
    order = Order(
        client_order_id="a", symbol="A", side=OrderSide.SELL, qty=Decimal(1),
        order_type=OrderType.LIMIT, limit_price=Decimal("10.1"),
    )  # fmt: skip
    await calls.submit(order)
    assert broker.sent == [("limit", 10.1, True)]
    calls.close()


class NoId(Base):
    def submit_order(self, symbol: str, qty: float, side: str) -> str:
        raise AssertionError("it must not be called")


class TheirRequest:
    """A request class of theirs."""


class WantsRequest(Base):
    def submit_order(self, order_data: TheirRequest) -> None:
        raise AssertionError("it must not be called")


class Misspelt(Keywords):
    capabilities = {"ids_refused": "forever", "reduce_onyl": True}  # noqa: RUF012


@pytest.mark.parametrize(
    ("broker", "complaint"),
    [
        (object(), r"it has no positions\(\) .*\n.*it has no submit\(\)"),
        (None, "broker NoneType: it has no positions"),
        (NoId(), "submit_order takes no client order id"),
        (WantsRequest(), "submit_order wants a TheirRequest: wrap it"),
        (Misspelt(), """'reduce_onyl' is not known; did you mean "reduce_only"?"""),
    ],
)
def test_a_broker_that_cannot_be_asked_is_refused_with_what_to_do(broker: Any, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Fitting(broker).check()


def test_a_broker_without_look_up_or_cancel_works_and_says_what_it_lacks() -> None:
    fitting = Fitting(Keywords())
    fitting.check()
    assert [lack.split("(")[0] for lack in fitting.missing] == ["order", "cancel"]


async def test_capabilities_may_be_declared_as_a_mapping() -> None:
    class Declares(Keywords):
        capabilities = {"ids_refused": "forever", "late_fill_window_s": 5}  # noqa: RUF012

    fitting = Fitting(Declares())
    fitting.check()
    assert (fitting.capabilities.ids_refused, fitting.capabilities.late_fill_window_s) == (IdMemory.FOREVER, 5)
    assert Fitting(Keywords()).capabilities == CAREFUL


class NotFoundError(Exception):
    """Theirs."""


class HttpError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__(status_code)
        self.status_code = status_code


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (KeyError("xf1-a-1"), True),
        (NotFoundError(), True),
        (HttpError(404), True),
        (KeyError("status"), False),  # a defect in the wrapper
        (HttpError(500), False),
        (TimeoutError(), False),
        (LookupError(), False),
    ],
    ids=repr,
)
async def test_only_a_word_that_the_id_is_not_known_says_so(error: Exception, unknown: bool) -> None:
    class Broker(Keywords):
        def order(self, client_order_id: str) -> Any:
            raise error

    calls = calls_of(Broker())
    if unknown:
        assert await calls.order("xf1-a-1") is None
    else:
        with pytest.raises(BrokerError):
            await calls.order("xf1-a-1")
    calls.close()


class ByItsOwnId(Keywords):
    """Orders are looked up and canceled by the broker's own id."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def get_order(self, order_id: str) -> dict[str, Any]:
        self.asked.append(order_id)
        if order_id != "77":
            raise KeyError(order_id)
        return {"id": "77", "status": "filled", "filled_qty": "0.3"}

    def cancel_order(self, order_id: str, symbol: str) -> None:
        self.asked.append(f"{order_id} {symbol}")


async def test_a_broker_that_goes_by_its_own_ids_is_asked_by_them() -> None:
    broker = ByItsOwnId()
    calls = calls_of(broker, Known("77", "AAPL"))
    report = await calls.order("xf1-a-1")
    assert report is not None
    assert (report.client_order_id, report.status) == ("xf1-a-1", OrderStatus.FILLED)
    assert await calls.cancel("xf1-a-1") is None
    assert broker.asked == ["77", "77 AAPL"]
    calls.close()


async def test_a_broker_that_goes_by_its_own_ids_proves_nothing_about_an_order_whose_id_is_not_known() -> None:
    broker = ByItsOwnId()
    calls = calls_of(broker)
    with pytest.raises(BrokerError, match="the broker's own is not known"):
        await calls.order("xf1-a-1")
    with pytest.raises(BrokerError, match="cannot be canceled"):
        await calls.cancel("xf1-a-1")
    assert broker.asked == ["xf1-a-1"]
    calls.close()


@pytest.mark.parametrize(
    "refusal",
    [
        OrderRefused("duplicate_id"),
        OrderRefused(40010001, "client_order_id must be unique"),  # type: ignore[arg-type]  # a code of theirs
        OrderRefused("order_exists", "Order already exists"),
        {"status": "rejected", "reject_reason": "Duplicate ClOrdID"},
    ],
    ids=str,
)
async def test_a_complaint_about_a_repeated_id_is_no_refusal_in_whatever_words(refusal: Any) -> None:
    """The order may well be working: it is looked up, and never followed by another."""

    class Broker(Keywords):
        def submit(self, order: Order) -> Any:
            if isinstance(refusal, Exception):
                raise refusal
            return refusal

    calls = calls_of(Broker())
    assert (await calls.submit(ORDER)).outcome is Outcome.UNKNOWN
    calls.close()


async def test_a_refusal_with_a_number_for_its_kind_can_be_stored() -> None:
    class Broker(Keywords):
        def submit(self, order: Order) -> Any:
            raise OrderRefused(422, None)  # type: ignore[arg-type]  # as their client gives them

    calls = calls_of(Broker())
    report = (await calls.submit(ORDER)).report
    assert report is not None
    assert (report.refusal, report.text) == ("422", "")
    calls.close()


@pytest.mark.parametrize(
    "answer", [{"error": "rate limited"}, {"code": 429, "message": "slow down"}, None, "nothing", 5]
)
async def test_an_answer_that_is_none_is_not_an_empty_list(answer: Any) -> None:
    class Broker(Keywords):
        def positions(self) -> Any:
            return answer

    calls = calls_of(Broker())
    with pytest.raises(BrokerError):
        await calls.positions()
    calls.close()


@pytest.mark.parametrize("wrap", [list, tuple, lambda x: {"positions": x}, lambda x: {p["symbol"]: p for p in x}, iter])
async def test_lists_come_in_several_wrappings(wrap: Any) -> None:
    class Broker(Keywords):
        def positions(self) -> Any:
            return wrap([{"symbol": "AAPL", "qty": 1, "avg_price": 2}])

    calls = calls_of(Broker())
    assert [(p.symbol, p.qty, p.avg_entry_price) for p in await calls.positions()] == [("AAPL", 1, 2)]
    calls.close()


def test_a_mapping_is_no_set_of_positional_arguments() -> None:
    """`submit(order: Mapping)` is given a plain mapping of plain values."""

    class Broker(Base):
        def submit(self, order: Mapping[str, object]) -> str:
            self.sent.append(dict(order))
            return "1"

    broker = Broker()
    calls = calls_of(broker)
    asyncio.run(calls.submit(ORDER))
    assert broker.sent == [
        {"symbol": "AAPL", "qty": 0.3, "quantity": 0.3, "side": "sell", "type": "market", "order_type": "market",
         "time_in_force": "day", "client_order_id": "xf1-a-1"}
    ]  # fmt: skip
    calls.close()
