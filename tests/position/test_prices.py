"""The price by which a position is judged where there are no bars."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from exitfsm.position import price_for
from exitfsm.values import Side

LONG, SHORT, BOTH, NONE = {Side.LONG}, {Side.SHORT}, {Side.LONG, Side.SHORT}, set[Side]()


@pytest.mark.parametrize(
    ("sides", "given", "by"),
    [
        (LONG, {"price": 100, "bid": 99, "ask": 101}, 99),
        (SHORT, {"price": 100, "bid": 99, "ask": 101}, 101),
        (BOTH, {"price": 100, "bid": 99, "ask": 101}, 100),
        (BOTH, {"bid": "99.5", "ask": 101}, Decimal("100.25")),
        (LONG, {"price": 100, "ask": 101}, 100),
        (LONG, {"ask": 101}, 101),
        (SHORT, {"bid": 99}, 99),
        (NONE, {"bid": 99, "ask": 101}, 100),
        (NONE, {}, None),
    ],
)
def test_given_a_quote_then_a_long_is_judged_by_the_bid_and_a_short_by_the_ask(
    sides: set[Side], given: dict[str, Any], by: Any
) -> None:
    assert price_for(sides, **given) == by
