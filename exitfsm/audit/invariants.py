"""The invariants of an exit, checked on the log alone, at every event.

Rules of this room: a check is given the position before the event, the event and the position after it, and says in a
line what does not hold. It decides nothing anew: it holds what was recorded against what the table, the policy and the
earlier events make of it. Where the log cannot tell (the venue's grid, the session's hours, a bar), nothing is claimed.

The numbers are those of the list of failures of real systems from which the invariants come; what is missing from the
sequence cannot be seen in a log and is held by the tests of the running parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitPostponed,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    Recorded,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.kinds import ORDER_ENDS
from exitfsm.lifecycle import State
from exitfsm.policy import BY_LEVEL, MOVING, reached
from exitfsm.position import Position, client_order_id, held_within, levels, position_id
from exitfsm.position.attempting import is_price
from exitfsm.position.evaluating import goes_on
from exitfsm.values import EXACT, ZERO, ExitType, OrderType, first_by_precedence, plain

#: What is checked, by number.
INVARIANTS: dict[str, str] = {
    "I1": "what is sold and what may still be sold never exceeds what is held",
    "I2": "fills are facts: an order's fills only grow, except by an explicit correction",
    "I3": "an order's id follows from position and attempt, and is on record before anything is said of it",
    "I4": "no attempt begins before the one before it has ended",
    "I5": "what an order did, and that the position is flat, is the broker's word",
    "I6": "no exit on a refused price; the evidence reaches the level that stood",
    "I8": "no exit order outlives its position",
    "I9": "without protection there is an alarm",
    "I10": "no exit is complete with quantity left",
    "I11": "the retry budget only grows and is kept; two equal refusals end the attempts",
    "I13": "quantities and prices are finite, and above zero where they must be",
    "I15": "a stop moves as its rule says, and never loosens",
    "I18": "flat is proved: nothing live, nothing left",
    "I19": "what follows from the log follows the same way again",
    "I20": "of several reasons the first in the order of precedence won",
    "I26": "a part is complete when its order is over, and what was to be kept is left",
}
#: What may stand between the loss of protection and its alarm: facts that came with the same news.
_FACTS = (FillsRecorded, OrderAccepted, OrderRestated, OrderEnded, CancelRequested)
_OF_ORDER = (OrderAccepted, OrderRestated, CancelRequested, CancelRefused, ExitEscalated, ExitPostponed, OrderEnded)
_BY_BROKER = ("broker", "reconcile")
_UNCONTESTED = (ExitType.EMERGENCY, ExitType.RECOVERED)


class Violation(NamedTuple):
    """An invariant that does not hold at an event."""

    invariant: str
    version: int
    what: str


class Invariants:
    """The invariants of one position: give it every event, in order, then `finish`."""

    def __init__(self) -> None:
        self._alarm_owed = 0
        self._loss_owed = 0
        self._version = 0

    def check(self, before: Position | None, recorded: Recorded, after: Position) -> list[Violation]:
        """What does not hold at this event; empty when all does."""
        event, self._version = recorded.event, recorded.version
        found = [*_numbers(event), *self._follow_up(before, event)]
        if before is None:
            found += _opened(recorded, event)
        else:
            found += _known_order(before, event)
            check = _CHECKS.get(type(event))
            if check is not None:
                found += check(before, recorded, event)
        found += _conserved(after)
        return [Violation(invariant, recorded.version, what) for invariant, what in found]

    def finish(self) -> list[Violation]:
        """What is still owed when the log ends."""
        found = []
        if self._alarm_owed:
            found.append(Violation("I9", self._alarm_owed, "protection was lost and no alarm was raised"))
        if self._loss_owed:
            found.append(Violation("I11", self._loss_owed, "refused twice alike, and the attempts were not ended"))
        return found

    def _follow_up(self, before: Position | None, event: Event) -> Iterator[tuple[str, str]]:
        """What an event obliges the ones after it to say."""
        if self._loss_owed and not isinstance(event, ProtectionLost):
            yield "I11", f"event {self._loss_owed} was the second equal refusal, and the attempts were not ended"
        if self._alarm_owed and not isinstance(event, (AlarmRaised, *_FACTS)):
            yield "I9", f"protection was lost at event {self._alarm_owed} and no alarm was raised"
            self._alarm_owed = 0
        self._loss_owed = 0
        if isinstance(event, ProtectionLost):
            self._alarm_owed = self._version
        elif isinstance(event, AlarmRaised):
            self._alarm_owed = 0
        elif isinstance(event, OrderEnded) and before is not None and event.refusal:
            twice = not event.passing and event.refusal == before.last_refusal and before.state is not State.UNPROTECTED
            self._loss_owed = self._version if twice else 0


_Found = Iterator[tuple[str, str]]


def _opened(r: Recorded, event: Event) -> _Found:
    if isinstance(event, PositionOpened):
        named = position_id(event.account, event.symbol, event.side, event.epoch)
        if named != r.stream_id:
            yield "I3", f"the position is {named}, but stands in the stream of {r.stream_id}"


def _numbers(event: Event) -> _Found:
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if isinstance(value, Decimal):
            if not value.is_finite():
                yield "I13", f"{name} is {value}"
            elif (value < 0 and name != "remaining_qty") or (value == 0 and name in _ABOVE_ZERO):
                yield "I13", f"{name} is {plain(value)}"


# What remains is below zero where more was filled than was held.
_ABOVE_ZERO = frozenset(
    (
        *("qty", "entry_price", "stop", "best_price", "trigger_price", "level", "limit_price"),
        *("avg_fill_price", "price", "factor"),
    )
)


def _conserved(p: Position) -> _Found:
    """Conservation; where evidence contradicts, the position is `unprotected` and says so."""
    if p.state is State.UNPROTECTED or p.state.terminal:
        return
    committed = EXACT.add(p.sold_qty, p.sold_elsewhere)
    if p.order_live:
        committed = EXACT.add(committed, max(p.leaves_qty, ZERO))
    if committed > p.qty:
        yield "I1", f"{plain(committed)} of {plain(p.qty)} is sold or may still be sold"


def _known_order(p: Position, event: Event) -> _Found:
    if isinstance(event, _OF_ORDER) and event.client_order_id != p.client_order_id and not _works_again(p, event):
        yield "I3", f"it is about order {event.client_order_id}, but the current one is {p.client_order_id}"
    if isinstance(event, FillsRecorded) and p.find(event.client_order_id) is None:
        yield "I3", f"it is about order {event.client_order_id}, of which there is no record"


def _works_again(p: Position, event: Event) -> bool:
    """True for news of an earlier order that was refused and works after all, and for its end."""
    order = p.find(getattr(event, "client_order_id", ""))
    if order is None:
        return False
    if isinstance(event, OrderAccepted):
        return order.ended_how == "refused"
    return order.live and isinstance(event, (CancelRequested, OrderEnded))


# --- orders -----------------------------------------------------------------------------------------------------------


def _new_order(p: Position, e: ExitTriggered | ExitRetried, found: bool) -> _Found:
    if e.client_order_id != client_order_id(p.position_id, e.attempt, p.id_form):
        yield "I3", f"order {e.client_order_id} is not the id of attempt {e.attempt}"
    if e.attempt != p.attempt + 1 and not (found and e.attempt > p.attempt):
        yield "I3", f"attempt {e.attempt} follows attempt {p.attempt}"
    if p.live_orders:
        yield "I4", f"order {p.live_orders[0]} may still be live"
    if (e.order_type is OrderType.LIMIT) != (e.limit_price is not None):
        yield "I13", f"a {e.order_type} order with limit price {e.limit_price}"


def _triggered(p: Position, r: Recorded, e: ExitTriggered) -> _Found:
    yield from _new_order(p, e, e.reason is ExitType.RECOVERED)
    if p.refusing is not None:
        yield "I6", f"an exit while prices were being refused ({p.refusing})"
    # A bar that forms is known by when it began: what a later look at it decided was decided after the entry.
    if e.bar_at is not None and e.bar_at <= p.opened_at and e.at <= p.opened_at:
        yield "I6", "an exit on a bar from before the entry"
    if r.by in ("bar", "timer") and not p.policy.enabled:
        yield "I6", "an exit while exits are off (enabled: false)"
    if e.reason in BY_LEVEL:
        yield from _reached(p, e)
    if e.bar_at is not None and e.reason not in _UNCONTESTED:
        winner = first_by_precedence({e.reason, *_reasons(p, e, e.bar_at)})
        if winner is not e.reason:
            yield "I20", f"{e.reason}, though {winner} applied too and comes first"


def _reached(p: Position, e: ExitTriggered) -> _Found:
    """The level must be the one that stood, and the price must have reached it."""
    target, stops = levels(p, e.bar_at or e.at)
    folds = any(rule.label and rule.label == e.detail for rule in p.policy.plan.folding)  # the log alone has no level
    standing = [level for level in (target, *stops) if level is not None and level.rule is e.reason]
    if not folds and not any(level.price == e.level and level.threshold_pct == e.threshold_pct for level in standing):
        said = " and ".join(plain(level.price) for level in standing) or "none"
        yield "I6", f"{e.reason} at level {plain(e.level)}, but the level that stood is {said}"
    sign = p.side.sign if e.reason.takes_profit else -p.side.sign
    if not reached(e.trigger_price, e.level, sign):
        yield "I6", f"{plain(e.trigger_price)} did not reach {plain(e.level)}"


def _reasons(p: Position, e: ExitTriggered, at: datetime) -> Iterator[ExitType]:
    """Every other reason that the evidence itself gives."""
    target, stops = levels(p, at)
    for level in stops:
        if reached(e.trigger_price, level.price, -p.side.sign):
            yield level.rule
    if target is not None and reached(e.trigger_price, target.price, p.side.sign):
        yield target.rule
    yield from (rule.reason for rule in p.policy.plan.timed if rule.due(p, at, None))


def _retried(p: Position, r: Recorded, e: ExitRetried) -> _Found:
    yield from _new_order(p, e, False)
    if e.by:
        return  # on an operator's word
    if not p.exit.budget_spent <= e.budget_spent <= p.exit.budget_spent + 1:
        yield "I11", f"the budget spent goes from {p.exit.budget_spent} to {e.budget_spent}"
    most = p.policy.partial_fills.max_resubmit_attempts
    if e.budget_spent > most:
        yield "I11", f"{e.budget_spent} further attempts counted, and {most} are allowed"
    if p.next_attempt_at is None or e.at < p.next_attempt_at:
        yield "I4", "the attempt comes before it was due"


def _filled(p: Position, r: Recorded, e: FillsRecorded) -> _Found:
    yield from _from_broker(r)
    known, average = _fills_of(p, e.client_order_id)
    if e.filled_qty < known and not e.corrected:
        yield "I2", f"the fills of {e.client_order_id} fall from {plain(known)} to {plain(e.filled_qty)}"
    again = p.state is State.SUBMITTED  # after a refused cancel they are said again, to be `partial` again
    if (e.filled_qty, e.avg_fill_price) == (known, average) and not (again or e.corrected):
        yield "I2", f"it says nothing new of {e.client_order_id}"
    if p.state.terminal and (e.filled_qty != known or not e.corrected):
        yield "I18", f"{plain(e.filled_qty)} filled of {e.client_order_id} after the end; only a price can change then"
    current = e.client_order_id == p.client_order_id
    if current and e.filled_qty > p.order_qty and p.state is not State.UNPROTECTED:
        yield "I1", f"{plain(e.filled_qty)} filled of an order for {plain(p.order_qty)}"


def _fills_of(p: Position, order_id: str) -> tuple[Decimal, Decimal | None]:
    found = p.find(order_id)
    return (found.filled_qty, found.avg_fill_price) if found is not None else (ZERO, None)


def _from_broker(r: Recorded) -> _Found:
    if r.by not in _BY_BROKER:
        yield "I5", f"told by {r.by}, not by the broker"


def _ended(p: Position, r: Recorded, e: OrderEnded) -> _Found:
    yield from _from_broker(r)
    if e.how not in ORDER_ENDS:
        yield "I5", f"{e.how!r} ends no order"
    known, _ = _fills_of(p, e.client_order_id)
    if e.filled_qty < known:
        yield "I2", f"the fills fall from {plain(known)} to {plain(e.filled_qty)}"


# --- the end ----------------------------------------------------------------------------------------------------------


def _completed(p: Position, r: Recorded, e: ExitCompleted) -> _Found:
    yield from _from_broker(r)
    if p.live_orders:
        yield "I8", f"order {p.live_orders[0]} may still be live"
        yield "I18", f"order {p.live_orders[0]} may still be live"
    if p.remaining_qty != 0:
        yield "I10", f"{plain(p.remaining_qty)} is left"
        yield "I18", f"{plain(p.remaining_qty)} is left"
    if e.filled_qty != p.sold_qty or not _same(e.avg_fill_price, p.avg_exit_price):
        sold, average = plain(p.sold_qty), p.avg_exit_price
        yield "I19", f"{plain(e.filled_qty)} at {e.avg_fill_price}, but the fills come to {sold} at {average}"
    if e.filled_at not in (p.last_fill_at or e.at, held_within(p, p.last_fill_at or e.at, e.at)):
        yield "I19", "the time of the last fill is not that of the fills"
    yield from _cooldown(p, e.cooldown_until, e.filled_at)


def _leg_completed(p: Position, r: Recorded, e: LegCompleted) -> _Found:
    yield from _from_broker(r)
    if p.live_orders:
        yield "I26", f"order {p.live_orders[0]} may still be live"
    if e.leg != p.exit.leg or not e.leg:
        yield "I26", f"part {e.leg!r} is complete, but under way was {p.exit.leg!r}"
    if not ZERO < e.remaining_qty <= p.remaining_qty:
        yield "I26", f"{plain(e.remaining_qty)} remaining, but the log leaves {plain(p.remaining_qty)}"
    # Less than the venue takes may be left of the part, where its order was rounded down to a step.
    if p.order.leaves_qty <= 0 and e.remaining_qty - p.keep_qty >= p.order.qty:
        yield "I26", f"{plain(e.remaining_qty)} is left, more than the {plain(p.keep_qty)} to keep"
    orders = p.orders[p.parts.orders :]
    sold = sum((order.filled_qty for order in orders), ZERO)
    if e.filled_qty != sold or not _same(e.avg_fill_price, p.average_of(orders)):
        yield "I19", f"{plain(e.filled_qty)} at {e.avg_fill_price}, but the fills come to {plain(sold)}"


def _leg_widened(p: Position, r: Recorded, e: LegWidened) -> _Found:
    if p.keep_qty <= 0:
        yield "I26", "everything is to be sold already"


def _same(one: Decimal | None, other: Decimal | None) -> bool:
    """True for one average; before small prices kept their digits, all were written to nine decimals."""
    if one is None or other is None or one == other:
        return one == other
    return one == other.quantize(Decimal("0.000000001"), context=EXACT)


def _closed_elsewhere(p: Position, r: Recorded, e: PositionClosedElsewhere) -> _Found:
    if p.live_orders:
        yield "I8", f"order {p.live_orders[0]} may still be live"
    if e.remaining_qty != p.remaining_qty:
        yield "I19", f"{plain(e.remaining_qty)} remaining, but the log leaves {plain(p.remaining_qty)}"
    since = p.last_fill_at if e.how == "residue" and p.last_fill_at else e.at
    if e.cooldown_until - since != _length(p):  # so it was reckoned before the broker's time was held
        yield from _cooldown(p, e.cooldown_until, held_within(p, since, e.at))


def _length(p: Position) -> timedelta:
    return timedelta(seconds=p.policy.exit_cooldown_seconds)


def _cooldown(p: Position, until: datetime, since: datetime) -> _Found:
    due = since + _length(p)
    if until != due:
        yield "I19", f"the cooldown ends at {until.isoformat()}, not at {due.isoformat()}"


def _rescaled(p: Position, r: Recorded, e: UnitChanged) -> _Found:
    if p.live_orders:
        yield "I8", f"order {p.live_orders[0]} may still be live, in the old unit"
    if e.factor == 1:
        yield "I19", "it says nothing new"


def _withdrawn(p: Position, r: Recorded, e: ExitWithdrawn) -> _Found:
    if e.client_order_id != p.client_order_id:
        yield "I3", f"it is about order {e.client_order_id}, but the current one is {p.client_order_id}"
    if p.filled_qty or p.broker_order_id is not None:
        yield "I2", f"order {e.client_order_id} had left, and is taken back"


def _released(p: Position, r: Recorded, e: PositionReleased) -> _Found:
    if p.live_orders:
        yield "I8", f"order {p.live_orders[0]} may still be live"


# --- stops, refusals, alarms ------------------------------------------------------------------------------------------


def _stop_moved(p: Position, r: Recorded, e: StopMoved) -> _Found:
    if e.rule is ExitType.OPERATOR:
        if not (is_price(e.stop) and e.by):
            yield "I15", f"nobody has put the stop at {plain(e.stop)}"
        return
    rule = MOVING.get(e.rule)
    if rule is None:
        yield "I15", f"{e.rule} is no stop that moves"
        return
    standing = p.stops.of(e.rule)
    due = [rule.next_stop(p, e.best_price)] if rule.on(p.policy) else []
    if p.parts.done:
        after_part = (one.stop_after(p, p.parts.done) for one in p.policy.plan.parting)
        due += [level.price for level in after_part if level is not None and level.rule is e.rule]
    dues = [price for price in due if price is not None]
    if standing is not None and rule.loosens(standing, e.stop, p.side.sign):
        yield "I15", f"{e.rule} goes from {plain(standing)} to {plain(e.stop)}: that loosens it"
    elif e.stop not in dues or not goes_on(p, e.stop, e.best_price):
        said = " or ".join(map(plain, dues)) or "nowhere"
        yield "I15", f"{e.rule} goes to {plain(e.stop)}, but by its rule {said}"


def _refused(p: Position, r: Recorded, e: TriggerRefused) -> _Found:
    if p.refusing == e.reason:
        yield "I19", f"a run of refusals ({e.reason}) begins inside itself"


def _refusal_ended(p: Position, r: Recorded, e: RefusalEnded) -> _Found:
    if p.refusing != e.reason or e.count < 1:
        yield "I19", f"a run of {e.count} refusals ({e.reason}) ends, but under way was {p.refusing}"


def _acknowledged(p: Position, r: Recorded, e: AlarmAcknowledged) -> _Found:
    if not any(alarm.alarm_id == e.alarm_id for alarm in p.alarms):
        yield "I9", f"alarm {e.alarm_id} is acknowledged, but does not stand"


def _alarm(p: Position, r: Recorded, e: AlarmRaised) -> _Found:
    if any(alarm.alarm_id == e.alarm_id for alarm in p.alarms):
        yield "I9", f"alarm {e.alarm_id} is raised, but stands already"


def _resized(p: Position, r: Recorded, e: PositionResized) -> _Found:
    if (e.qty, e.entry_price) == (p.remaining_qty, p.entry_price):
        yield "I19", "it says nothing new"


_CHECKS: dict[type[Event], Callable[[Position, Recorded, Any], _Found]] = {
    PositionResized: _resized,
    ExitTriggered: _triggered,
    ExitRetried: _retried,
    FillsRecorded: _filled,
    OrderEnded: _ended,
    LegCompleted: _leg_completed,
    LegWidened: _leg_widened,
    ExitCompleted: _completed,
    PositionClosedElsewhere: _closed_elsewhere,
    PositionReleased: _released,
    UnitChanged: _rescaled,
    ExitWithdrawn: _withdrawn,
    StopMoved: _stop_moved,
    TriggerRefused: _refused,
    RefusalEnded: _refusal_ended,
    AlarmAcknowledged: _acknowledged,
    AlarmRaised: _alarm,
}
