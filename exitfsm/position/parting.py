"""Exits in parts: how much a part sells, when it is sold, and what widens it to everything.

A part is an exit with something to keep. It ends with the terminal record of its order, and the rest is monitored
again. What is decided against the whole position while a part is under way widens it: there is never a second exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from exitfsm.events import Event, LegCompleted, LegWidened, OrderEnded, StopMoved
from exitfsm.kinds import OrderEnd
from exitfsm.lifecycle import State
from exitfsm.policy import Level
from exitfsm.ports import Capabilities
from exitfsm.position.evaluating import Verdict
from exitfsm.position.folding import fold
from exitfsm.position.state import Position
from exitfsm.values import EXACT, ZERO, ExitType, floor_to, plain

#: What a part is called that an operator ordered, and one that was found at the broker and is that of no target.
BY_HAND, FOUND = "by hand", "found"
#: States in which the order of a part can have its terminal record.
_AT_REST = (State.PARTIAL, State.CANCELING, State.REJECTED)


class Part(NamedTuple):
    """What an exit sells: how much, what is kept, and the name of the part; no name where it sells everything."""

    qty: Decimal
    keep_qty: Decimal
    leg: str


def part_of(p: Position, v: Verdict, broker: Capabilities) -> Part | None:
    """The part that a verdict sells; None where it sells everything.

    The parts of all targets that the price reaches are one order. One of which the venue takes nothing waits for the
    next; one that would leave less than the venue takes sells everything. A quantity of 0 is no exit.
    """
    if not v.reason.takes_profit:
        return None
    for rule in p.policy.plan.parting:
        index = rule.parts_reached(p, v.price)
        if index is None:
            continue
        shares = rule.shares(p, index)
        left = p.remaining_qty
        if shares is None:
            return Part(left, ZERO, str(index))
        base = p.parts.base_qty if p.parts.done and p.parts.base_qty is not None else left
        qty = sum((_share(p, base, pct, broker) for pct in shares), ZERO)
        return _sized(p, qty, str(index), broker)
    return None


def part_by_hand(p: Position, qty: Decimal, broker: Capabilities) -> Part:
    """The part that an operator wants sold."""
    return _sized(p, _step(p, qty, broker), BY_HAND, broker)


def why_no_part(p: Position, qty: Decimal, broker: Capabilities) -> str | None:
    """Why an operator cannot have so much sold of a position; None where he can."""
    if p.state.exiting:
        return "an exit is under way, and no part leaves beside it"
    if qty > p.remaining_qty:
        return f"{plain(qty)} is more than the {plain(p.remaining_qty)} that is held"
    if qty < p.remaining_qty and not part_by_hand(p, qty, broker).qty:
        return f"{plain(qty)} is less than the venue takes in one order"
    return None


def part_found(p: Position, qty: Decimal, broker: Capabilities) -> Part | None:
    """The part that an exit order at the broker is, of which nothing is on record; None where it sells everything."""
    if not p.policy.plan.parting or qty >= p.remaining_qty:
        return None
    base = p.parts.base_qty if p.parts.done and p.parts.base_qty is not None else p.remaining_qty
    for rule in p.policy.plan.parting:
        shares = rule.shares(p, p.parts.done + 1)
        while shares:
            index = p.parts.done + len(shares)
            if sum((_share(p, base, pct, broker) for pct in shares), ZERO) == qty:
                return Part(qty, EXACT.subtract(p.remaining_qty, qty), str(index))
            more = rule.shares(p, index + 1)
            shares = more if more and len(more) > len(shares) else None
    return Part(qty, EXACT.subtract(p.remaining_qty, qty), FOUND)


def _share(p: Position, base: Decimal, pct: Decimal, broker: Capabilities) -> Decimal:
    return _step(p, EXACT.multiply(base, pct).scaleb(-2, EXACT), broker)


def _step(p: Position, qty: Decimal, broker: Capabilities) -> Decimal:
    return floor_to(qty, broker.rules(p.symbol).qty_step)


def _sized(p: Position, qty: Decimal, leg: str, broker: Capabilities) -> Part:
    rules, left = broker.rules(p.symbol), p.remaining_qty
    if qty <= ZERO or qty < rules.qty_min:
        return Part(ZERO, left, leg)
    keep = EXACT.subtract(left, qty)
    if keep <= ZERO or floor_to(keep, rules.qty_step) < max(rules.qty_min, rules.qty_step):
        return Part(left, ZERO, leg)
    return Part(qty, keep, leg)


# --- what follows from news of its order ------------------------------------------------------------------------------


def after_news(p: Position, events: Sequence[Event], at: datetime) -> list[Event]:
    """The same events, and the end of the part where they bring its terminal record.

    Args:
        p: the position before the events.
        events: what is decided.
        at: when.
    """
    if not events or not _may_be_part(p, events):
        return list(events)
    after = fold(p, events)
    assert after is not None
    if not after.exit.leg or after.state not in _AT_REST or after.live_orders:
        return list(events)
    left, keep = after.remaining_qty, after.keep_qty
    if ZERO < left <= keep:
        return [*events, *completed(after, at)]
    if left > keep and after.state is not State.REJECTED:
        return [*events, _order_filled(after, at)]
    return list(events)


def _may_be_part(p: Position, events: Sequence[Event]) -> bool:
    return bool(p.exit.leg) or any(getattr(event, "leg", "") for event in events)


def completed(p: Position, at: datetime, left: Decimal | None = None) -> list[Event]:
    """A part is sold: the rest is monitored, behind the stop that the part asks for. `left` is what is held of it."""
    orders = p.orders[p.parts.orders :]
    sold = sum((order.filled_qty for order in orders), ZERO)
    done: list[Event] = [
        LegCompleted(
            client_order_id=p.order.client_order_id,
            leg=p.exit.leg,
            filled_qty=sold,
            remaining_qty=p.remaining_qty if left is None else left,
            at=at,
            avg_fill_price=p.average_of(orders),
        )
    ]
    index = index_of(p.exit.leg)
    if index > p.parts.done:
        for rule in p.policy.plan.parting:
            stop = rule.stop_after(p, index)
            if stop is not None and _is_further(p, stop):
                best = p.stops.best_price or p.trigger_price or p.entry_price
                done.append(
                    StopMoved(
                        rule=stop.rule,
                        stop=stop.price,
                        best_price=best,
                        bar_at=p.stops.moved_at or p.opened_at,
                    )
                )
    return done


def _is_further(p: Position, stop: Level) -> bool:
    standing = p.stops.of(stop.rule)
    return standing is None or (stop.price - standing) * p.side.sign > 0


def index_of(leg: str) -> int:
    """The index of the highest target that a part is of; 0 where it is of none."""
    return int(leg) if leg.isdecimal() else 0


def _order_filled(p: Position, at: datetime) -> OrderEnded:
    """The part's order is filled, and more is to be sold since: the next order follows at once."""
    return OrderEnded(
        client_order_id=p.order.client_order_id,
        how=OrderEnd.FILLED,
        filled_qty=p.filled_qty,
        at=at,
        next_attempt_at=at,
    )


def widened(p: Position, reason: ExitType, at: datetime, price: Decimal | None = None, detail: str = "") -> list[Event]:
    """Everything is to be sold, where a part is; nothing where everything is already."""
    if not (p.state.exiting and p.keep_qty > ZERO):
        return []
    return [LegWidened(reason=reason, at=at, price=price, detail=detail)]
