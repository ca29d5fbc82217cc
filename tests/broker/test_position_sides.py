"""Hedge mode at a broker: the side that an exit closes is given, and the sides that answers name are read."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from exitfsm.broker.fitting import Fitting, order_parts
from exitfsm.broker.lists import fill_of
from exitfsm.broker.market import instrument_of
from exitfsm.broker.orders import report_of
from exitfsm.ports import STOCKS, Instrument
from exitfsm.values import Fill, Order, OrderSide, Side

NOW = datetime(2024, 1, 2, tzinfo=UTC)
ORDER = Order(client_order_id="xf2abc", symbol="BTCUSDT", side=OrderSide.BUY, qty=Decimal(1), position_side=Side.SHORT)


class Single:
    """It takes single arguments."""

    def positions(self) -> list[Any]:
        return []

    def submit(
        self, symbol: str, qty: float, side: str, client_order_id: str, position_side: str | None = None
    ) -> dict[str, Any]:
        return {"position_side": position_side}


class Like(Single):
    """It takes them as ccxt does."""

    def submit(self, symbol: str, type: str, side: str, amount: float, price: Any, params: dict[str, Any]) -> Any:  # type: ignore[override]
        return params


class Whole(Single):
    """It takes an order as a dictionary."""

    def submit(self, order: dict[str, Any]) -> Any:  # type: ignore[override]
        return order


def sent(broker: Any, *, hedged: bool) -> Any:
    return Fitting(broker).call("submit", (ORDER,), order_parts(ORDER, hedged=hedged))()


def test_a_submit_is_told_the_side_that_it_closes_in_hedge_mode_only() -> None:
    assert sent(Single(), hedged=True) == {"position_side": "short"}
    assert sent(Single(), hedged=False) == {"position_side": None}
    assert sent(Like(), hedged=True) == {"clientOrderId": "xf2abc", "hedged": True, "reduceOnly": True}
    assert sent(Like(), hedged=False) == {"clientOrderId": "xf2abc"}
    assert sent(Whole(), hedged=True)["position_side"] == "short"
    assert "position_side" not in sent(Whole(), hedged=False)


@pytest.mark.parametrize(
    ("said", "side"), [({"positionSide": "LONG"}, Side.LONG), ({"pos_side": "short"}, Side.SHORT), ({}, None)]
)
def test_the_side_that_an_answer_names_is_read(said: dict[str, str], side: Side | None) -> None:
    order = {"client_order_id": "a", "status": "new", "symbol": "BTCUSDT", "side": "buy", "qty": 1, **said}
    report = report_of(order, now=NOW)
    assert report is not None
    assert report.position_side is side
    execution = {"symbol": "BTCUSDT", "side": "buy", "qty": 1, "price": 2, "time": NOW.isoformat(), **said}
    fill = fill_of(execution)
    assert fill is not None
    assert fill.position_side is side


def test_both_is_no_side_and_our_own_words_are_read_as_they_are_declared() -> None:
    both = fill_of({"symbol": "A", "side": "sell", "qty": 1, "price": 2, "time": NOW, "positionSide": "BOTH"})
    assert both is not None
    assert both.position_side is None
    own = replace(both, position_side="short")
    read = fill_of(own)
    assert isinstance(read, Fill)
    assert read.position_side is Side.SHORT


def test_an_instrument_says_whether_both_sides_are_held() -> None:
    assert instrument_of({"hedge": True}, STOCKS) == replace(
        instrument_of({"qty_step": 0}, STOCKS) or Instrument(), hedge=True
    )
