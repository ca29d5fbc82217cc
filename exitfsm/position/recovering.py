"""Taking up an exit order of ours that is found at the broker."""

from __future__ import annotations

from msgspec import UNSET

from exitfsm.events import Event, ExitTriggered
from exitfsm.lifecycle import State
from exitfsm.messages import Recover, Report
from exitfsm.order_ids import client_order_id
from exitfsm.policy import order_terms
from exitfsm.ports import Capabilities
from exitfsm.position.alarming import lost
from exitfsm.position.attempting import Attempt, is_price, next_attempt, spent_by_next
from exitfsm.position.folding import fold
from exitfsm.position.parting import part_found
from exitfsm.position.reporting import on_report
from exitfsm.position.state import Position
from exitfsm.position.watching import end_refusals
from exitfsm.values import ZERO, ExitType, OrderType, plain


def on_recover(p: Position, m: Recover, broker: Capabilities) -> list[Event]:
    """Take up the exit where the lost record left it: the order is ours, so the decision to exit was taken.

    So it is with the next attempt, where another machine was faster.
    """
    r = m.report
    if r.client_order_id != client_order_id(p.position_id, m.attempt, p.id_form):
        return []
    if p.state is State.REJECTED:
        return _taken_over(p, m, broker)
    if p.state is not State.MONITORING or r.qty is None:
        return []
    if m.attempt <= p.attempt or not is_price(r.qty) or r.qty > p.remaining_qty:
        return lost(p, f"the broker has exit order {r.client_order_id} for {r.qty} of {plain(p.remaining_qty)}", m.at)
    terms, part = order_terms(p.policy, ExitType.RECOVERED), part_found(p, r.qty, broker)
    triggered = ExitTriggered(
        reason=ExitType.RECOVERED,
        client_order_id=r.client_order_id,
        attempt=m.attempt,
        qty=r.qty,
        order_type=OrderType.MARKET,
        time_in_force=broker.rules(p.symbol).accepted_time(terms.time_in_force, r.qty),
        at=m.at,
        trigger_price=p.entry_price,
        level=p.entry_price,
        threshold_pct=ZERO,
        detail="found at the broker",
        keep_qty=part.keep_qty if part else UNSET,
        leg=part.leg if part else UNSET,
    )
    return _with_news(p, [*end_refusals(p, m.at), triggered], m, broker)


def _taken_over(p: Position, m: Recover, broker: Capabilities) -> list[Event]:
    """The next attempt, as it is at the broker. One that is larger than what is left is so by its record."""
    if m.attempt != p.attempt + 1 or p.next_attempt_at is None or m.at < p.next_attempt_at:
        return []
    if p.remaining_qty <= ZERO:
        return lost(p, f"the broker has exit order {m.report.client_order_id}, and nothing is left to sell", m.at)
    qty = m.report.qty
    size = min(qty, p.remaining_qty) if qty is not None and is_price(qty) else p.remaining_qty
    spent = min(spent_by_next(p), p.policy.partial_fills.max_resubmit_attempts)
    return _with_news(p, [next_attempt(p, Attempt(size, gone=ZERO, spent=spent), m.at, broker)], m, broker)


def _with_news(p: Position, events: list[Event], m: Recover, broker: Capabilities) -> list[Event]:
    """The order that was found, and what its record says."""
    after = fold(p, events)
    assert after is not None
    return [*events, *on_report(after, Report(at=m.at, report=m.report), broker)]
