"""The orders of an exit: the first one, the next one, and the giving up of one that rests."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from msgspec import UNSET

from exitfsm.events import ExitEscalated, ExitRetried, ExitTriggered
from exitfsm.kinds import OrderEnd
from exitfsm.lifecycle import State
from exitfsm.order_ids import client_order_id
from exitfsm.policy import order_terms
from exitfsm.ports import AssetRules, Capabilities
from exitfsm.position.evaluating import Verdict
from exitfsm.position.parting import Part
from exitfsm.position.state import Position
from exitfsm.values import EXACT, ZERO, OrderType, TimeInForce, floor_to, round_to_tick, tradable


def trigger(
    p: Position,
    v: Verdict,
    at: datetime,
    broker: Capabilities,
    bar_at: datetime | None = None,
    part: Part | None = None,
) -> ExitTriggered:
    """The decision to exit, with everything its order needs. `part` is what it sells, where that is not everything."""
    rules = broker.rules(p.symbol)
    terms = order_terms(p.policy, v.reason)
    order_type = rules.accepted_type(terms.order_type)
    attempt = p.attempt + 1
    part = part or Part(p.remaining_qty, ZERO, "")
    if part.leg:
        order_type = rules.accepted_type(OrderType.MARKET)
    size = sellable(p, part.qty, broker) or part.qty  # of a mere residue the venue is to say so itself
    return ExitTriggered(
        reason=v.reason,
        client_order_id=client_order_id(p.position_id, attempt, p.id_form),
        attempt=attempt,
        qty=size,
        order_type=order_type,
        time_in_force=rules.accepted_time(terms.time_in_force, size),
        at=at,
        trigger_price=v.price,
        level=v.level,
        threshold_pct=v.threshold_pct,
        limit_price=_limit(p, v.level, rules) if order_type is OrderType.LIMIT else None,
        bar_at=bar_at,
        best_price=p.stops.best_price,
        detail=v.detail,
        sold_elsewhere=p.sold_elsewhere,
        keep_qty=part.keep_qty if part.keep_qty else UNSET,
        leg=part.leg or UNSET,
    )


def _limit(p: Position, level: Decimal, rules: AssetRules) -> Decimal:
    """The level on the venue's grid, on the side that gives nothing away; itself where the grid is coarser than it."""
    tick = rules.tick(level)
    return round_to_tick(level, tick, up=p.side.sign > 0) if 0 < tick <= level else level


def sellable(p: Position, qty: Decimal, broker: Capabilities) -> Decimal:
    """As much of `qty` as the venue takes in one order: whole steps, and 0 when that is below its least."""
    rules = broker.rules(p.symbol)
    size = floor_to(qty, rules.qty_step)
    return size if size >= rules.qty_min and size > 0 else ZERO


def is_rounded_off(p: Position, qty: Decimal) -> bool:
    """True for so little that the venue has rounded it off an order of ours: less than the last digit that it left.

    Nothing has declared a step then; the venue's own rounding says one.
    """
    return any(
        order.restated and order.filled_qty == order.qty and ZERO < qty < _last_digit(order.qty) for order in p.orders
    )


def _last_digit(qty: Decimal) -> Decimal:
    exponent = qty.normalize(EXACT).as_tuple().exponent
    return Decimal(1).scaleb(min(exponent, 0) if isinstance(exponent, int) else 0)


class Attempt(NamedTuple):
    """The next attempt: its quantity, what of the rest is gone by other hands, and the budget spent with it."""

    qty: Decimal
    gone: Decimal
    spent: int


def next_attempt(p: Position, a: Attempt, at: datetime, broker: Capabilities, by: str = "") -> ExitRetried:
    """The intent of the next order. It is market, except for a limit that merely ran out its day."""
    before = p.order
    again = before.ended_how == "expired" and not before.escalated and before.order_type is OrderType.LIMIT
    attempt = before.attempt + 1
    return ExitRetried(
        client_order_id=client_order_id(p.position_id, attempt, p.id_form),
        attempt=attempt,
        qty=a.qty,
        order_type=OrderType.LIMIT if again else OrderType.MARKET,
        time_in_force=broker.rules(p.symbol).accepted_time(before.time_in_force, a.qty),
        at=at,
        budget_spent=a.spent,
        limit_price=before.limit_price if again else None,
        sold_elsewhere=p.sold_elsewhere + a.gone,
        by=by,
    )


def spent_by_next(p: Position) -> int:
    """What of the budget is spent by one more attempt.

    One that follows the day's end, a limit given up, a part that is sold, or a refusal whose cause passes, is free.
    """
    before = p.order
    day_ended = before.ended_how == "expired" and before.time_in_force == TimeInForce.DAY
    free = before.escalated or before.passing or day_ended or before.ended_how == OrderEnd.FILLED
    return p.exit.budget_spent + (0 if free else 1)


def rests(p: Position) -> bool:
    """True while a limit order of its exit waits at the broker for its price."""
    return p.order.resting and p.state in (State.SUBMITTED, State.PARTIAL)


def escalated(p: Position, at: datetime, why: str, price: Decimal | None = None) -> ExitEscalated:
    """The limit order that rests is given up for a market order."""
    return ExitEscalated(client_order_id=p.order.client_order_id, at=at, why=why, price=price)


def is_price(value: Decimal | None) -> bool:
    """True for a number that a price or a held quantity can be."""
    return value is not None and tradable(value) and value > 0
