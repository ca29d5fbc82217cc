"""One exit order of a position."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

from exitfsm.values import EXACT, ZERO, OrderType, TimeInForce


class ExitOrder(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One exit order: as it was sent, and what the broker has told of it since.

    Attributes:
        client_order_id, attempt: its id, and which of the position's orders it is, from 1.
        qty: what it is for; another figure than was sent once it is `restated`.
        order_type, time_in_force, limit_price: as it was sent.
        found: it is ours by its id and was found at the broker, so that `time_in_force` is what we would have sent.
        ordered_by: the operator who ordered it; empty where the rules did.
        broker_order_id: the broker's own id, where it is known.
        filled_qty, avg_fill_price: cumulative, by the broker's word; no average where the broker left it out.
        live: it may be working at the broker. Of an order before the current one: it was refused, and works after all.
        cancel_asked: its cancel is on record. Of an order before the current one it is owed without that.
        cancels_refused: how often the broker would not cancel it.
        escalated: it is a limit order that was given up for a market order.
        restated: the broker, or somebody at it, made it larger or smaller.
        corrected: the broker has corrected executions of it.
        ended_how: how it ended, as reported: `rejected`, `refused`, `canceled` or `expired`; empty while it has not.
        refusal: class of the refusal with which it ended, empty where it was none; None before it has. What is told of
            it when it is not the current one any more leaves this as it was.
        next_attempt_at: before this no attempt follows it; None where none follows by itself.
    """

    client_order_id: str
    attempt: int
    qty: Decimal
    order_type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce = TimeInForce.DAY
    limit_price: Decimal | None = None
    found: bool = False
    ordered_by: str = ""
    broker_order_id: str | None = None
    filled_qty: Decimal = ZERO
    avg_fill_price: Decimal | None = None
    live: bool = True
    cancel_asked: bool = False
    cancels_refused: int = 0
    escalated: bool = False
    restated: bool = False
    corrected: bool = False
    ended_how: str = ""
    refusal: str | None = None
    next_attempt_at: datetime | None = None

    @property
    def leaves_qty(self) -> Decimal:
        """What it has still to fill."""
        return EXACT.subtract(self.qty, self.filled_qty)

    @property
    def resting(self) -> bool:
        """True for a limit order that may be working."""
        return self.live and self.order_type is OrderType.LIMIT


#: Stands for the current order of a position that has none yet.
NO_ORDER = ExitOrder(client_order_id="", attempt=0, qty=ZERO, live=False)
