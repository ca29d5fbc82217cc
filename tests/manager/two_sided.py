"""A venue in hedge mode, moved by hand: both sides of a symbol are held at once, and orders name their side."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from harness import GOOD, World
from msgspec.structs import replace

from exitfsm import OrderRefused, OrderSide, Side
from exitfsm.ports import Capabilities
from exitfsm.testing import ScriptedBroker
from exitfsm.testing.books import Booked, Number
from exitfsm.values import BrokerPosition, Fill, Order

HEDGED = replace(GOOD, hedge=True)
ZERO = Decimal(0)


class TwoSided(ScriptedBroker):
    """The books of each side. `says_sides`: its executions name the side."""

    def __init__(self, clock: Any, capabilities: Capabilities) -> None:
        super().__init__(clock, capabilities)
        self.sides: dict[tuple[str, Side], tuple[Decimal, Decimal]] = {}
        self.says_sides = True

    def on(self, symbol: str, side: str) -> Decimal:
        """What is held on a side."""
        return self.sides.get((symbol, Side(side)), (ZERO, ZERO))[0]

    def close_by_hand(self, symbol: str, side: str, qty: Number, price: Number) -> None:
        """A person closes a part of one side, and tells nobody."""
        closes = Side(side)
        order = replace(self.place(symbol, closes.exit_side, qty, tell=False), position_side=closes)
        booked = self._find(order)
        booked.order = order
        self.fill(order, qty, price)
        self.lose_updates()

    def snapshot(self) -> list[BrokerPosition]:
        """A row for each side."""
        return [
            BrokerPosition(
                symbol=symbol, side=side, qty=qty, avg_entry_price=entry, current_price=self.prices.get(symbol)
            )
            for (symbol, side), (qty, entry) in sorted(self.sides.items())
            if qty
        ]

    def _check_size(self, order: Order) -> None:
        works = [b for b in self.live_exits(order.symbol) if b.order.position_side is order.position_side]
        assert not works, f"{order} beside {works}"
        assert order.side is order.position_side.exit_side, order
        if order.qty > self.on(order.symbol, order.position_side):
            raise OrderRefused("insufficient_qty", f"{order.qty} of {order.position_side}")

    def _check_sign(self, booked: Booked) -> None:
        assert self.on(booked.order.symbol, booked.order.position_side) >= 0, booked

    def _execute(self, symbol: str, side: OrderSide, qty: Decimal, price: Decimal, booked: Booked | None) -> Fill:
        assert booked is not None
        on = booked.order.position_side
        held, entry = self.sides.get((symbol, on), (ZERO, ZERO))
        opens = side is not on.exit_side
        now = held + qty if opens else held - qty
        self.sides[symbol, on] = now, (held * entry + qty * price) / now if opens else entry
        fill = Fill(
            fill_id=f"execution-{len(self.executions) + 1}",
            symbol=symbol,
            side=side,
            qty=qty,
            price=price,
            at=self.now(),
            client_order_id=booked.order.client_order_id,
            broker_order_id=booked.broker_order_id,
            position_side=on if self.says_sides else None,
        )
        self.executions.append(fill)
        return fill


class Telling(TwoSided):
    """A broker that tells of hedge mode by its instruments alone."""

    def instrument(self, symbol: str) -> dict[str, Any]:
        """What it accepts of a symbol."""
        return {"hedge": True}


async def two_sided(
    path: Path, config: dict[str, Any] | None = None, capabilities: Capabilities = HEDGED, kind: type = TwoSided
) -> tuple[World, TwoSided]:
    """A started world of such a venue."""
    world = World(path, config, capabilities=capabilities)
    broker = kind(world.clock, capabilities)
    world.broker = world.seen_by_manager = broker
    world.manager = world._new_manager()
    await world.start()
    return world, broker
