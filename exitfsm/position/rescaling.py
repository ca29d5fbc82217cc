"""What a change of the unit means: a split, or a dividend in shares, and an intent that it overtakes."""

from __future__ import annotations

from exitfsm.events import Event, ExitWithdrawn, UnitChanged
from exitfsm.lifecycle import State
from exitfsm.messages import Rescale, Withdraw
from exitfsm.ports import Capabilities
from exitfsm.position.attempting import is_price
from exitfsm.position.reading import overtaken
from exitfsm.position.state import Position


def on_rescale(p: Position, m: Rescale, broker: Capabilities) -> list[Event]:
    """All figures are restated; never while an order of ours may work, for that is in the old unit."""
    if p.state not in (State.MONITORING, State.REJECTED, State.UNPROTECTED) or p.live_orders or overtaken(p, m.known):
        return []
    if m.factor == 1 or not all(map(is_price, (m.factor, m.qty, m.entry_price))):
        return []
    return [UnitChanged(factor=m.factor, qty=m.qty, entry_price=m.entry_price, at=m.at, why=m.why)]


def on_withdraw(p: Position, m: Withdraw, broker: Capabilities) -> list[Event]:
    """The first order of an exit, of which nothing was reported, is taken back; the latch with it."""
    order = p.order
    is_first = p.exit.triggered_at is not None and p.exit.triggered_at == p.waiting_since
    unsent = order.broker_order_id is None and not order.filled_qty and not order.found
    if p.state is not State.PENDING or m.client_order_id != order.client_order_id or not (is_first and unsent):
        return []
    return [ExitWithdrawn(client_order_id=order.client_order_id, at=m.at, why=m.why)]
