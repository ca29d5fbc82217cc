"""What the passing of time means: a limit is given up, a person is told, a rule of time ends the position."""

from __future__ import annotations

from exitfsm.events import Event
from exitfsm.kinds import AlarmKind
from exitfsm.lifecycle import State
from exitfsm.messages import TimeSeen
from exitfsm.ports import Capabilities
from exitfsm.position.alarming import alarm
from exitfsm.position.attempting import escalated, is_price, rests, trigger
from exitfsm.position.evaluating import Verdict, due_by_time
from exitfsm.position.parting import widened
from exitfsm.position.state import Position
from exitfsm.position.watching import end_refusals
from exitfsm.values import ZERO, ExitType, first_by_precedence

_WAITS: dict[State, tuple[AlarmKind, str]] = {
    State.PENDING: (AlarmKind.SUBMIT_UNRESOLVED, "is not known to have reached the broker"),
    State.SUBMITTED: (AlarmKind.ORDER_STALLED, "is working without a fill"),
    State.PARTIAL: (AlarmKind.ORDER_STALLED, "makes no progress"),
    State.CANCELING: (AlarmKind.CANCEL_UNRESOLVED, "was asked to be canceled and has no final record"),
    State.REJECTED: (AlarmKind.RETRY_STALLED, "ended, and no further attempt could be made"),
}


def on_time(p: Position, m: TimeSeen, broker: Capabilities) -> list[Event]:
    """Give up a limit that does not fill; tell a person of a wait that lasts too long; exit by time without a bar."""
    if p.state is State.MONITORING:
        return _exit_by_time(p, m, broker)
    if p.keep_qty > 0 and (due := _due(p, m)) is not None:
        return widened(p, due, m.at, m.price, "no bar came")
    if p.waiting_since is None:
        return []
    waited = (m.at - p.waiting_since).total_seconds()
    if rests(p) and waited >= p.policy.partial_fills.resubmit_delay_seconds:
        return [escalated(p, m.at, "no progress")]
    if m.patience_s is None or p.state not in _WAITS:
        return []
    since = max(p.waiting_since, p.next_attempt_at or p.waiting_since, p.order.postponed_until or p.waiting_since)
    if (m.at - since).total_seconds() < m.patience_s:
        return []
    kind, text = _WAITS[p.state]
    why = f" (its newest send: {m.why})" if m.why and p.state is State.PENDING else ""
    return alarm(p, kind, f"exit order {p.client_order_id} of {p.symbol} {text} since {since.isoformat()}{why}", m.at)


def _exit_by_time(p: Position, m: TimeSeen, broker: Capabilities) -> list[Event]:
    """A time rule is due and no bar came to say so: the last known price is the evidence."""
    due = _due(p, m)
    if due is None or m.price is None:
        return []
    return [*end_refusals(p, m.at), trigger(p, Verdict(due, m.price, m.price, ZERO, "no bar came"), m.at, broker)]


def _due(p: Position, m: TimeSeen) -> ExitType | None:
    """The time rule that ends the position now, where a price is known."""
    if m.price is None or not is_price(m.price) or not p.policy.enabled:
        return None
    return first_by_precedence(due_by_time(p, m.at, m.session_close))
