"""An event in words: what happened, with its evidence, on one line.

Each function is given the position before the event (None before the first), the position after it, and the event.
The texts are for people; programs read the fields. They hold text from outside (a broker's message, an operator's name)
as it came: whoever shows them makes them harmless for the place where they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from msgspec import UNSET, UnsetType

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
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.policy import ExitPolicy, Level, differences
from exitfsm.position import Position, levels
from exitfsm.profit import Change, Profit, change_of, gain_in_words, others_in_words
from exitfsm.values import ExitType, plain, stamp


def in_words(before: Position | None, after: Position | None, event: Event, profit: Profit | None = None) -> str:
    """What happened and why.

    Args:
        before: the position before the event; None before its first one, and for events that are of no position.
        after: the position after it; None for events that are of no position.
        event: the event.
        profit: what has come of the position with it, where its whole log is known.
    """
    say = WORDS.get(type(event))
    if say is None or after is None:
        return ", ".join(f"{name} {getattr(event, name)}" for name in event.__struct_fields__)
    if profit is not None and isinstance(event, ExitCompleted):
        return _completed(before or after, after, event, profit)
    if profit is not None and isinstance(event, PositionClosedElsewhere):
        return _elsewhere(before or after, after, event, profit)
    return say(before or after, after, event)


def n(value: Decimal | None) -> str:
    """A number in plain digits."""
    return plain(value) if value is not None else "-"


def level_in_words(level: Level) -> str:
    """A level with its rule, e.g. `stop_loss 99 (1 %)`."""
    return f"{level.name} {n(level.price)} ({n(level.threshold_pct)} %)"


def levels_in_words(p: Position, at: datetime) -> str:
    """The levels that stand at `at`, or that there are none."""
    if not p.policy.enabled:
        return "exits are off (enabled: false)"
    target, stops = levels(p, at)
    return ", ".join(map(level_in_words, [*stops, *([target] if target else [])])) or "no levels"


def _opened(_: Position, p: Position, e: PositionOpened) -> str:
    strategy = f", strategy {e.strategy_name}" if e.strategy_name else ""
    return f"{e.side} {n(e.qty)} at {n(e.entry_price)}; {levels_in_words(p, e.opened_at)}{strategy}"


def _resized(before: Position, p: Position, e: PositionResized) -> str:
    if change_of(before, e) is Change.SPLIT:
        units = f"{n(before.remaining_qty)} at {n(before.entry_price)} to {n(e.qty)} at {n(e.entry_price)}"
        return f"from {units}, worth the same (a split, or the like); {levels_in_words(p, e.at)}"
    why = f" ({e.why})" if e.why else ""
    return f"from {n(before.remaining_qty)} to {n(e.qty)} at {n(e.entry_price)}{why}; {levels_in_words(p, e.at)}"


def _policy(before: Position, p: Position, e: PolicyChanged) -> str:
    by = f", by {e.by}" if e.by else ""
    whose = {True: ", its own", False: ", that of all again"}.get(e.own is True, "") if e.own is not UNSET else ""
    why = f" ({e.why})" if e.why else ""
    changed = f"{settings_in_words(before.policy, p.policy)}; " if before is not p else ""
    return f"{changed}policy {e.policy.digest()}{whose}{by}{why}; {levels_in_words(p, e.at)}"


def adjusted_in_words(before: Position, after: Position) -> str:
    """What a change of a position's settings, or of its stop, has led to: `AAPL: stop 1 % → 2 %`."""
    said = [settings_in_words(before.policy, after.policy)] if before.policy != after.policy else []
    if before.own_policy != after.own_policy:
        said.append("by settings of its own" if after.own_policy else "by the settings for all")
    old, new = _stop_of(before), _stop_of(after)
    found = [stop.price for rule in after.policy.plan.moved_stops if (stop := rule.moved_stop(after)) is not None]
    moved = (max if after.side.sign > 0 else min)(found, default=None)
    if after.stops.operator is not None and after.stops.operator != before.stops.operator:
        said.append(f"stop {n(old)} → {n(new)}")
    elif after.stops.operator is not None:
        said.append(f"its stop stays at {n(new)}, where a person has put it")
    elif moved is not None:
        said.append(f"its stop that has moved stays at {n(moved)}")
    return f"{after.symbol}: {', '.join(said) or 'as it was'}"


def _stop_of(p: Position) -> Decimal | None:
    """The stop that is reached first, by what is known from the entry on."""
    return next((stop.price for stop in levels(p, p.stops.moved_at or p.opened_at)[1]), None)


def settings_in_words(before: ExitPolicy, after: ExitPolicy) -> str:
    """What has changed between two policies, e.g. `stop 1 % → 2 %, target 2 % → 5 %`."""
    return ", ".join(map(str, differences(before, after))) or "the same settings"


def _stop_moved(before: Position, _: Position, e: StopMoved) -> str:
    old = before.stops.of(e.rule)
    if e.rule is ExitType.OPERATOR:
        old = next((stop.price for stop in levels(before, e.bar_at)[1]), None)
        why = f" ({e.why})" if e.why else ""
        return f"the stop {f'from {n(old)} ' if old is not None else ''}to {n(e.stop)}, by {e.by or 'an operator'}{why}"
    start = f"from {n(old)} " if old is not None else ""
    return f"{e.rule} {start}to {n(e.stop)}; best price {n(e.best_price)}"


def _refused(_: Position, __: Position, e: TriggerRefused) -> str:
    last = f", last believed {n(e.reference_price)}" if e.reference_price is not None else ""
    return f"{e.reason}: {e.price}{last}; nothing is decided on it"


def _refusal_ended(_: Position, __: Position, e: RefusalEnded) -> str:
    return f"{e.reason} is over after {e.count} {'bar' if e.count == 1 else 'bars'}"


def _triggered(p: Position, _: Position, e: ExitTriggered) -> str:
    if e.level == e.trigger_price and not e.threshold_pct:
        cause = f"{e.reason} at {n(e.trigger_price)}"
    else:
        best = f", best price {n(e.best_price)}" if e.best_price is not None else ""
        cause = f"{e.reason}: {n(e.trigger_price)} reached {n(e.level)} ({n(e.threshold_pct)} %{best})"
    detail = f" ({e.detail})" if e.detail else ""
    part = f"; {part_in_words(e.leg)}, {n(e.keep_qty)} is kept" if isinstance(e.keep_qty, Decimal) else ""
    label = f", by the bar of {stamp(e.bar_at)}" if e.bar_at is not None and e.bar_at != e.at else ""
    return f"{cause}{detail}{label}{part}; {_order(p, e)}"


def part_in_words(leg: str | UnsetType) -> str:
    """What a part is called: `part 2`, or by whom."""
    leg = leg if isinstance(leg, str) else ""
    return f"part {leg}" if leg.isdecimal() else f"a part, {leg}"


def _leg_completed(_: Position, p: Position, e: LegCompleted) -> str:
    price = f" at {n(e.avg_fill_price)}" if e.avg_fill_price is not None else ", price not known"
    sold = f"{part_in_words(e.leg)} is sold: {n(e.filled_qty)}{price}"
    return f"{sold}; {n(e.remaining_qty)} left; {levels_in_words(p, e.at)}"


def _leg_widened(before: Position, _: Position, e: LegWidened) -> str:
    price = f" at {n(e.price)}" if e.price is not None else ""
    detail = f" ({e.detail})" if e.detail else ""
    alone = f", and not {part_in_words(before.exit.leg)} alone" if before.exit.leg else ""
    return f"{e.reason}{price}{detail}: everything is to be sold{alone}"


def _order(p: Position, e: ExitTriggered | ExitRetried) -> str:
    price = f" {n(e.limit_price)}" if e.limit_price is not None else ""
    return f"{p.side.exit_side} {n(e.qty)} {e.order_type}{price} {e.time_in_force} as {e.client_order_id}"


def _accepted(before: Position, _: Position, e: OrderAccepted) -> str:
    name = f"the earlier {e.client_order_id}" if e.client_order_id != before.client_order_id else "it"
    again = " after all" if e.client_order_id not in before.live_orders else ""
    return f"the broker has {name}{again}{f' as {e.broker_order_id}' if e.broker_order_id else ''}"


def _cancel_requested(before: Position, _: Position, e: CancelRequested) -> str:
    name = f"the earlier {e.client_order_id}; " if e.client_order_id != before.client_order_id else ""
    return f"{name}why: {e.why}"


def _filled(_: Position, p: Position, e: FillsRecorded) -> str:
    of = f" of {n(p.order_qty)}" if e.client_order_id == p.client_order_id else f" of the earlier {e.client_order_id}"
    price = f" at {n(e.avg_fill_price)}" if e.avg_fill_price is not None else ", price not known"
    return f"{n(e.filled_qty)}{of}{price}{' (corrected)' if e.corrected else ''}"


def _restated(before: Position, _: Position, e: OrderRestated) -> str:
    text = f" ({e.text})" if e.text else ""
    return f"the broker changed the order from {n(before.order_qty)} to {n(e.qty)}{text}"


def _escalated(_: Position, __: Position, e: ExitEscalated) -> str:
    price = f" at {n(e.price)}" if e.price is not None else ""
    return f"{e.why}{price}: the limit order is canceled, the next attempt is market"


def _ended(p: Position, _: Position, e: OrderEnded) -> str:
    why = ": ".join(part for part in (e.refusal, e.text) if part)
    after = f"next attempt from {stamp(e.next_attempt_at)}" if e.next_attempt_at else "no automatic attempt follows"
    if e.client_order_id != p.client_order_id:
        return f"the earlier {e.client_order_id} is {e.how} with {n(e.filled_qty)} filled{f' ({why})' if why else ''}"
    return f"{e.how} with {n(e.filled_qty)} of {n(p.order_qty)} filled{f' ({why})' if why else ''}; {after}"


def _retried(p: Position, _: Position, e: ExitRetried) -> str:
    by = f", by {e.by}" if e.by else ""
    return f"attempt {e.attempt}{by}; {_order(p, e)}"


def _completed(_: Position, p: Position, e: ExitCompleted, profit: Profit | None = None) -> str:
    price = f" at {n(e.avg_fill_price)}" if e.avg_fill_price is not None else ", price not known"
    gain = gain_in_words(profit) if profit is not None and e.avg_fill_price is not None else ""
    others = f"; {others_in_words(profit)}" if profit is not None and others_in_words(profit) else ""
    until = f"cooldown until {stamp(e.cooldown_until)}"
    return f"{n(e.filled_qty)}{price}{gain}{others}; the broker shows none left; {until}"


def _rescaled(before: Position, p: Position, e: UnitChanged) -> str:
    why = f" ({e.why})" if e.why else ""
    was = f"from {n(before.remaining_qty)} at {n(before.entry_price)}"
    return f"{was} to {n(e.qty)} at {n(e.entry_price)}, times {n(e.factor)}{why}; {levels_in_words(p, e.at)}"


_HOW = {
    "residue": "a residue that cannot be sold",
    "external": "closed externally",
    "reversed": "reversed by one order",
    "vanished": "gone from a broker that lists no executions",
    "other_exit": "by an exit under our prefix that is on no record here",
    "unresolved": "nothing is held, and an order of ours has no record",
    "ignored": "not managed any more, on a person's word",
}


def _elsewhere(_: Position, __: Position, e: PositionClosedElsewhere, profit: Profit | None = None) -> str:
    how = _HOW.get(e.how, e.how.replace("_", " "))
    ours = f"; {plain(profit.qty)} sold by us{gain_in_words(profit)}" if profit is not None and profit.qty else ""
    return f"{how}: {n(e.remaining_qty)} not sold by us{ours}; cooldown until {stamp(e.cooldown_until)}"


def _released(_: Position, p: Position, e: PositionReleased) -> str:
    return f"by {e.by}: {n(e.qty)} at {n(e.entry_price)}; {levels_in_words(p, e.at)}"


#: event class -> what says it: (position before, or after where there is none before; position after; event).
WORDS: dict[type[Event], Callable[[Position, Position, Any], str]] = {
    PositionOpened: _opened,
    PositionResized: _resized,
    PolicyChanged: _policy,
    StopMoved: _stop_moved,
    TriggerRefused: _refused,
    RefusalEnded: _refusal_ended,
    ExitTriggered: _triggered,
    OrderAccepted: _accepted,
    FillsRecorded: _filled,
    OrderRestated: _restated,
    CancelRequested: _cancel_requested,
    ExitPostponed: lambda _, __, e: (
        f"refused for now ({': '.join(part for part in (e.refusal, e.text) if part)}), {e.times} in a row; "
        f"the same order is sent again from {stamp(e.until)}"
    ),
    CancelRefused: lambda _, __, e: e.text or "the broker would not cancel; the order works on",
    ExitEscalated: _escalated,
    OrderEnded: _ended,
    ExitRetried: _retried,
    LegCompleted: _leg_completed,
    LegWidened: _leg_widened,
    ExitCompleted: _completed,
    PositionClosedElsewhere: _elsewhere,
    ProtectionLost: lambda _, __, e: e.why,
    PositionReleased: _released,
    UnitChanged: _rescaled,
    ExitWithdrawn: lambda _, __, e: f"{e.client_order_id} never left, and is taken back: {e.why}",
    AlarmRaised: lambda _, __, e: f"{e.kind}: {e.text}",
    AlarmAcknowledged: lambda _, __, e: f"{e.alarm_id}, by {e.by}{f': {e.why}' if e.why else ''}",
}
