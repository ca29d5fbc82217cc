"""An explanation in sentences. Every sentence is made from the facts of an `Explanation` and from nothing else.

They hold text from outside (a broker's message, an operator's name) as it came: whoever shows them makes them harmless.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from exitfsm.audit.facts import (
    ChangeFact,
    ExitFact,
    Explanation,
    LevelFact,
    OrderFact,
    OutcomeFact,
    OvertakenFact,
    RefusalFact,
)
from exitfsm.audit.plainly import plainly
from exitfsm.lifecycle import State
from exitfsm.policy import MOVING, TIMED
from exitfsm.profit import Change, Profit, gain_in_words, others_in_words, sold_in_words
from exitfsm.values import EXACT, ExitType, OrderType, Side, plain, stamp

_SAID = {
    State.MONITORING: "It is watched, and no exit is under way.",
    State.PENDING: "The exit is decided; whether the broker has the order is not known yet.",
    State.SUBMITTED: "The broker has the exit order; nothing is filled yet.",
    State.PARTIAL: "Something of the exit is filled; it is not complete.",
    State.CANCELING: "The exit order was asked to be canceled; its final record is awaited.",
    State.REJECTED: "The last exit order ended without filling the rest; the exit stands.",
    State.UNPROTECTED: "Nothing automatic happens any more: it waits for a person.",
}


def sentences(x: Explanation) -> list[str]:
    """The facts of an explanation, one sentence or two to an entry."""
    return list(_sentences(x))


def as_dict(x: Explanation) -> dict[str, Any]:
    """An explanation as JSON data, with its sentences."""
    data: dict[str, Any] = plainly(x)
    return {**data, "sentences": sentences(x)}


def _sentences(x: Explanation) -> Iterator[str]:
    strategy = f" for strategy {x.strategy_name}" if x.strategy_name else ""
    entered = f"{plain(x.entered.qty)} was entered at {plain(x.entered.price)} on {_time(x.entered.at)}"
    yield f"{x.symbol} {x.side} {entered}{strategy}."
    yield from _before(x)
    if x.exit is not None:
        yield from _exited(x, x.exit)
        yield from _orders(x, x.exit)
    elif x.outcome is not None and x.earlier_exits:
        yield "After the release no rule of ours exited what was left."
    elif x.outcome is not None:
        yield "No rule of ours exited it."
    else:
        yield from _not_exited(x)
    if x.outcome is not None:
        yield _outcome(x.outcome, x.profit)
    elif x.exit is not None or x.state is not State.MONITORING:
        due = f" The next attempt is due from {_time(x.next_attempt_at)}." if x.next_attempt_at is not None else ""
        yield _SAID.get(x.state, f"It is {x.state}.") + due
    if x.outcome is None and (x.profit.qty or x.profit.by_hand_qty):
        yield f"So far: {sold_in_words(x.profit)}."
    for run in x.refusals:
        yield _refusal(run)
    for why in x.lost:
        yield _closed(f"Protection was lost: {why}")
    for alarm in x.alarms:
        yield _closed(f"An alarm stands: {alarm}")
    for missing in x.not_recorded:
        yield f"Not recorded: {missing}."


# --- what came before -------------------------------------------------------------------------------------------------


def _before(x: Explanation) -> Iterator[str]:
    """What changed it, and the decisions that were given up, in the order in which they came."""
    happened: list[ChangeFact | ExitFact] = [*x.changes, *x.earlier_exits]
    for one in sorted(happened, key=lambda fact: fact.event):
        if isinstance(one, ChangeFact):
            yield _change(one)
        else:
            yield f"{_decided(x, one)} (event {one.event})."
            yield from _orders(x, one)


def _change(c: ChangeFact) -> str:
    when, now = f"{_time(c.at)} (event {c.event})", f"{plain(c.qty)} at {plain(c.entry_price)}"
    was = f"{plain(c.qty_before)} at {plain(c.entry_price_before)}"
    match c.kind:
        case Change.SPLIT:
            return f"It was split, or the like, at {when}: {was} became {now}, worth the same."
        case Change.BOUGHT:
            return f"{plain(EXACT.subtract(c.qty, c.qty_before))} more was bought at {when}: {was} became {now}."
        case Change.SOLD_BY_HAND:
            gone = plain(EXACT.subtract(c.qty_before, c.qty))
            return f"{gone} was sold by a manual trade, price not recorded, at {when}: {now} was left."
        case Change.RELEASED:
            return f"It was released by {c.by or 'an operator'} at {when}, and watched again: {now}."
    return f"The average entry changed at {when}: {was} became {now}."


# --- why it exited ----------------------------------------------------------------------------------------------------


def _exited(x: Explanation, e: ExitFact) -> Iterator[str]:
    yield f"{_decided(x, e)} (event {e.event})."
    if e.level_set_by_event is not None and e.reason in MOVING:
        best = f", when the best price was {plain(e.best_price)}" if e.best_price is not None else ""
        yield f"That stop was set at event {e.level_set_by_event}{best}."
    if e.bar is not None:
        prices = ", ".join(f"{name} {price}" for name, price in e.bar.items())
        yield f"The bar that decided: {prices}."
    others = [level for level in x.levels if level.rule is not e.reason or level.price != e.level]
    if others:
        yield f"The other levels at that moment: {'; '.join(map(_level, others))}."
    yield from _best(x)
    yield f"The policy that applied was version {x.policy}, set at event {x.policy_event}."


def _decided(x: Explanation, e: ExitFact) -> str:
    when = f"the bar of {_time(e.bar_at)}" if e.bar_at is not None else f"at {_time(e.at)}"
    price, level = plain(e.trigger_price), plain(e.level)
    detail = f" ({e.detail})" if e.detail else ""
    it, its = "It", "Its"
    if e.keep_qty is not None:
        part = f"part {e.part}" if e.part.isdecimal() else f"a part ({e.part})"
        it, its = f"{part[0].upper()}{part[1:]}, with {plain(e.keep_qty)} kept,", f"The {part}'s"
    if e.reason in TIMED:
        found = "found it due" if e.bar_at is not None else "it was due, without a bar"
        return f"{it} was exited by {e.reason}: {when} {found}, at {price}{detail}"
    if e.reason is ExitType.EMERGENCY:
        return f"{it} was exited by an operator{detail}, {when}; the price was {price}"
    if e.reason is ExitType.RECOVERED:
        return f"{its} exit was found at the broker without a record of it{detail}, {when}"
    if e.reason is ExitType.CUSTOM:
        return f"{it} was exited by the custom rule{detail}: {when}, at {price}"
    profit = e.reason.takes_profit
    reached = "at or above" if profit is (x.side is Side.LONG) else "at or below"
    name = "target" if profit else "stop"
    percent = f" ({plain(e.threshold_pct)} %)" if e.threshold_pct else ""
    return f"{it} was exited by {e.reason}: {when} had {price}, {reached} the {name} at {level}{percent}{detail}"


def _level(level: LevelFact) -> str:
    return f"{level.name} {plain(level.price)}, {_distance(level)}"


def _distance(level: LevelFact) -> str:
    if level.distance is None or level.distance_pct is None:
        return "distance not recorded"
    if level.distance <= 0:
        return "reached"
    return f"{plain(level.distance)} ({plain(level.distance_pct)} %) away"


def _best(x: Explanation) -> Iterator[str]:
    if x.best is None:
        return
    name = "highest" if x.side is Side.LONG else "lowest"
    price, at = plain(x.best.price), _time(x.best.at)
    where = {"bars": f"in the bar of {at}", "mark": f"as noted at {at}", "event": f"when a stop moved, at {at}"}
    yield f"The {name} price on record while it was held is {price}, {where[x.best.source]}."


def _sold_a_part(x: Explanation) -> bool:
    return x.exit is not None and x.exit.keep_qty is not None


# --- why it did not ---------------------------------------------------------------------------------------------------


def _not_exited(x: Explanation) -> Iterator[str]:
    if x.state is not State.MONITORING:
        return
    it = "the rest" if any(one.keep_qty is not None for one in x.earlier_exits) or _sold_a_part(x) else "it"
    yield f"As of {_time(x.as_of)} {it} has not been exited."
    if not x.enabled:
        yield "Exits are off for it (enabled: false): nothing is triggered, whatever the price."
    if x.paused_since is not None:
        by = f" by {x.paused_by}" if x.paused_by else ""
        yield f"Trading is paused since {_time(x.paused_since)}{by}: no exit is triggered until it is resumed."
    if x.price is not None:
        where = {"bars": "the bar", "mark": "the mark", "event": "the event"}[x.price.source]
        kind = "known" if x.refused_price is None else "believed"
        yield f"The last {kind} price is {plain(x.price.price)}, from {where} of {_time(x.price.at)}."
    if x.refused_price is not None:
        price, at = plain(x.refused_price.price), _time(x.refused_price.at)
        yield f"Newer ones, up to {price} in the bar of {at}, were refused: nothing is decided on them."
    yield from (_not_reached(level) for level in x.levels)
    if not x.levels:
        yield "No level stands: no rule with a price is on."
    for waiting in x.waiting:
        begins, percent = plain(waiting.begins_at), plain(waiting.activation_pct)
        yield f"{waiting.rule} has not begun: it begins at {begins} ({percent} % in profit)."
    yield from _best(x)
    yield from _watching(x)
    if x.rules_off:
        yield f"Rules that are off: {', '.join(x.rules_off)}."


def _not_reached(level: LevelFact) -> str:
    percent = f" ({plain(level.threshold_pct)} %)" if level.threshold_pct else ""
    said = f"{level.name} stands at {plain(level.price)}{percent}"
    if level.distance is None:
        return f"{said}; how far the price is from it is not recorded."
    if level.distance <= 0:
        return f"{said} and the last known price is beyond it: the next bar that counts is to exit."
    return f"{said}, {_distance(level)}: it was not reached."


def _watching(x: Explanation) -> Iterator[str]:
    for rule in x.watching:
        if rule.due_at is not None:
            left = round((rule.due_at - x.as_of).total_seconds())
            due = f"in {_duration(left)}" if left > 0 else "so it is due now"
            yield f"{rule.rule} is due at {_time(rule.due_at)}, {due}."
        if rule.text:
            yield rule.text


# --- orders, outcome, refusals ----------------------------------------------------------------------------------------


def _orders(x: Explanation, decision: ExitFact) -> Iterator[str]:
    """The orders of a decision, each with what overtook it while it rested."""
    for order in x.orders:
        if order.decision != decision.event:
            continue
        yield _order(x, order)
        for fact in x.overtaken:
            if fact.client_order_id == order.client_order_id and fact.level is not None:
                yield _overtaken(x, fact)


def _overtaken(x: Explanation, o: OvertakenFact) -> str:
    reached = "at or below" if x.side is Side.LONG else "at or above"
    percent = f" ({plain(o.threshold_pct)} %)" if o.threshold_pct else ""
    price = plain(o.price) if o.price is not None else "the price"
    level = plain(o.level) if o.level is not None else "its level"
    what = f"{price}, {reached} the stop at {level}{percent}"
    return f"While that limit rested, {o.why} overtook it at {_time(o.at)}: {what} (event {o.event})."


def _order(x: Explanation, o: OrderFact) -> str:
    price = f" {plain(o.limit_price)}" if o.limit_price is not None else ""
    what = f"{x.side.exit_side} {plain(o.qty)} {o.order_type}{price} {o.time_in_force}"
    parts = [f"Attempt {o.attempt} (event {o.event}), {_time(o.at)}: {what} as {o.client_order_id}"]
    if o.accepted_at is not None:
        parts.append(f"the broker had it at {_time(o.accepted_at)}")
    elif o.ended_how is None:
        parts.append("the broker's acknowledgement is not recorded")
    if o.cancel_asked is not None:
        parts.append(f"it was asked to be canceled ({o.cancel_asked})")
    if o.filled_qty:
        average = f" at {plain(o.avg_fill_price)}" if o.avg_fill_price is not None else ", price not recorded"
        last = f" by {_time(o.filled_at)}" if o.filled_at is not None else ""
        parts.append(f"{plain(o.filled_qty)} filled{average}{last}")
    if o.ended_how is not None:
        why = ": ".join(part for part in (o.refusal, o.text) if part)
        when = f" at {_time(o.ended_at)}" if o.ended_at is not None else ""
        parts.append(f"{o.ended_how}{when}{f' ({why})' if why else ''}")
    elif o.order_type is OrderType.LIMIT and not o.filled_qty:
        parts.append("nothing is filled")
    return "; ".join(parts) + "."


def _outcome(o: OutcomeFact, profit: Profit) -> str:
    until = f"Held {_duration(o.held_seconds)}; the symbol cools down until {_time(o.cooldown_until)}."
    when = f"{_time(o.at)} (event {o.event})"
    if o.how != "filled":
        how = (
            "only a residue that cannot be sold is left" if o.how == "residue" else f"it went flat {_elsewhere(o.how)}"
        )
        parts = sold_in_words(profit) if o.qty else "its price is not recorded" if o.by_hand_qty else ""
        return f"It is closed since {when}: {how}{f'; {parts}' if parts else ''}. {until}"
    others = f"; {others_in_words(profit)}" if others_in_words(profit) else ""
    if o.avg_price is None or o.pnl_pct is None or o.pnl is None:
        return f"The exit was complete at {when}; its price is not recorded{others}. {until}"
    ours = f"{plain(o.qty)} at {plain(o.avg_price)}{gain_in_words(profit)}"
    return f"The exit was complete at {when}: {ours}{others}. {until}"


def _elsewhere(how: str) -> str:
    return "by a manual trade" if how in ("by_hand", "external") else f"by a manual trade ({how.replace('_', ' ')})"


def _refusal(run: RefusalFact) -> str:
    last = f" (last believed {plain(run.reference_price)})" if run.reference_price is not None else ""
    begin = f"From {_time(run.bar_at)} on the price {run.price} was refused as {run.reason}{last} (event {run.event})"
    if run.count is None or run.ended_at is None:
        return f"{begin}; that run has no end on record, and nothing is decided while it lasts."
    bars = f"{run.count} {'bar' if run.count == 1 else 'bars'}"
    return f"{begin}, {bars} until {_time(run.ended_at)}; nothing was decided on them."


def _closed(sentence: str) -> str:
    """A sentence that holds somebody else's text, with one mark at its end."""
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


# --- words ------------------------------------------------------------------------------------------------------------


def _time(at: datetime | None) -> str:
    return stamp(at).replace("T", " ").removesuffix("Z") + " UTC" if at is not None else "an unknown time"


def _duration(seconds: int) -> str:
    """A span of time in its two largest units."""
    parts = []
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(max(seconds, 0), size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"
