"""A bot that rounds its own decimals: what is held and sold is exact all the same."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from harness import World

from exitfsm import State
from exitfsm.values import Side, exactly

ROUNDS = Context(prec=4)


class Exact:
    """A broker that is somewhere else: its books are not kept in the bot's decimal context."""

    def __init__(self, broker: Any) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._broker, name)
        return exactly(found) if callable(found) else found


@pytest.mark.parametrize("side", Side)
async def test_given_a_bot_that_rounds_then_exactly_what_is_held_is_sold(tmp_path: Path, side: Side) -> None:
    world = World(tmp_path, plain=True)
    world.seen_by_manager = Exact(world.seen_by_manager)
    world.manager = world._new_manager()
    with localcontext(ROUNDS):
        await world.start()
    await world.enter("1.234567", at=100, side=side)
    with localcontext(ROUNDS):
        await world.bar("98.9" if side is Side.LONG else "101.1")
    assert [order.qty for order in world.orders] == [Decimal("1.234567")]
    world.broker.fill(world.last_order, "0.123456")
    world.broker.end_cancel(world.last_order)
    with localcontext(ROUNDS):
        await world.deliver()
        await world.until(lambda: len(world.orders) == 2, 120)
    assert world.last_order.qty == Decimal("1.111111")
    await world.fill()
    await world.until(lambda: world.state is State.FILLED)
    assert world.alarm_kinds == []
    assert "PositionResized" not in world.names()
    await world.finish()
