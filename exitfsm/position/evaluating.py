"""Does this bar end the position, and where would it?

`evaluate` is the one place where a price meets a level. `wake_band` gives the prices between which nothing at all can
happen to a position, so that a quiet bar never gets here. Both ask the rules that the position's policy has on, and
name none.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from operator import attrgetter

import msgspec

from exitfsm.lifecycle import State
from exitfsm.policy import NOTHING_FOLDED, ORDER_FAULTS, Folded, Level, pct_of, reached
from exitfsm.position.alarming import awaits_a_bar
from exitfsm.position.state import Position
from exitfsm.values import EXACT, ZERO, Bar, EvaluateOn, ExitType, OrderType, first_by_precedence

_PRICE = attrgetter("price")


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Why to exit: the reason, the price that breached, the level it breached and the percentage it stands for."""

    reason: ExitType
    price: Decimal
    level: Decimal
    threshold_pct: Decimal
    detail: str = ""


def levels(p: Position, at: datetime, folded: Folded = NOTHING_FOLDED) -> tuple[Level | None, list[Level]]:
    """The profit target and the stops that count at `at`, the tightest stop first.

    Args:
        folded: the states of the rules that have one; without it they have no level.
    """
    plan = p.policy.plan
    target = None
    for rule in plan.aiming:
        target = rule.target(p, at)
        if target is not None:
            break
    stops = _rules_stops(p, at, folded) if p.stops.operator is None else [_operators_stop(p, p.stops.operator)]
    if p.stops.moved_at is not None:
        stops += [stop for rule in plan.moved_stops if (stop := rule.moved_stop(p)) is not None]
    if len(stops) > 1:
        stops.sort(key=_PRICE, reverse=p.side.sign > 0)
    return target, stops


def _rules_stops(p: Position, at: datetime, folded: Folded) -> list[Level]:
    """The stops of the rules that count without having moved."""
    plan = p.policy.plan
    stops: list[Level] = []
    for rule in plan.entry_stops:
        stop = rule.entry_stop(p)
        if stop is not None:
            stops.append(stop)
            break
    if plan.stops:
        stops += [stop for rule in plan.stops if (stop := rule.stop(p, at, folded)) is not None]
    return stops


def _operators_stop(p: Position, price: Decimal) -> Level:
    """The stop that a person has set, which stands in for those of the rules."""
    return Level(price, ExitType.OPERATOR, pct_of(abs(EXACT.subtract(price, p.entry_price)), p.entry_price))


def worst_and_best(p: Position, bar: Bar) -> tuple[Decimal, Decimal]:
    """The bar's price as the stops see it, and as the target and the trail see it."""
    if p.policy.evaluate_on is EvaluateOn.CLOSE:
        close = bar.close
        return close, close
    return (bar.low, bar.high) if p.side.sign > 0 else (bar.high, bar.low)


def evaluate(
    p: Position,
    bar: Bar,
    *,
    session_close: datetime | None = None,
    custom: str | None = None,
    folded: Folded = NOTHING_FOLDED,
) -> Verdict | None:
    """Why this sound bar ends the position; None when it does not.

    Of several reasons `ExitType`'s order decides, of several levels with one reason the tightest counts.

    Args:
        p, bar: the position and the bar.
        session_close: when the session ends.
        custom: the reason that a rule of the user's own gives, with its name.
        folded: the states of the position's rules, before this bar.
    """
    worst, best = worst_and_best(p, bar)
    target, stops = levels(p, bar.timestamp, folded)
    found: dict[ExitType, Verdict] = {}
    sign = p.side.sign
    for stop in stops:
        if reached(worst, stop.price, -sign) and stop.rule not in found:
            found[stop.rule] = Verdict(stop.rule, worst, stop.price, stop.threshold_pct, stop.section)
    if target is not None and reached(best, target.price, sign):
        found[target.rule] = Verdict(target.rule, best, target.price, target.threshold_pct, target.section)
    if p.policy.plan.timed:
        for reason, label in due_by_time(p, bar.timestamp, session_close).items():
            found[reason] = Verdict(reason, bar.close, bar.close, ZERO, label)
    if custom is not None:
        found[ExitType.CUSTOM] = Verdict(ExitType.CUSTOM, bar.close, bar.close, ZERO, custom)
    if not found:
        return None
    winner = first_by_precedence(found) if len(found) > 1 else next(iter(found))
    return found[winner] if winner is not None else None


def due_by_time(p: Position, at: datetime, session_close: datetime | None) -> dict[ExitType, str]:
    """The reasons of the time rules that have come due at `at`, each with the label of its rule."""
    return {rule.reason: rule.label for rule in p.policy.plan.timed if rule.due(p, at, session_close)}


def next_stops(p: Position, bar: Bar) -> list[tuple[ExitType, Decimal, Decimal]]:
    """The stops that this bar moves, as (reason, new stop, best price): the ratchet after the evaluation.

    From a stop that a person has set they go on with a better price than any that moved one, and to better stops only.
    """
    asked = p.policy.plan.moving
    if not asked:
        return []
    best = worst_and_best(p, bar)[1]
    moved = [(rule.reason, stop, best) for rule in asked if (stop := rule.next_stop(p, best)) is not None]
    return moved if p.stops.operator is None else [one for one in moved if goes_on(p, one[1], best)]


def goes_on(p: Position, stop: Decimal, best: Decimal) -> bool:
    """True where a rule may move its stop after a person has set one."""
    operator, before, sign = p.stops.operator, p.stops.best_price, p.side.sign
    if operator is None:
        return True
    return (stop - operator) * sign > 0 and (before is None or (best - before) * sign > 0)


def ratchet_price(p: Position) -> Decimal | None:
    """A price short of which no stop moves: the nearest at which `next_stops` may have something. None: none moves."""
    asked = p.policy.plan.moving
    if not asked:
        return None
    prices = [price for rule in asked if (price := rule.next_stop_at(p)) is not None]
    near, far = (min, max) if p.side.sign > 0 else (max, min)
    nearest, best = near(prices, default=None), p.stops.best_price
    if nearest is None or best is None or p.stops.operator is None:
        return nearest
    return far(nearest, best)


class Band(msgspec.Struct, frozen=True, gc=False):
    """Between `lower` and `upper`, and before `until`, no bar can change the position. None: no bound on that side."""

    lower: Decimal | None
    upper: Decimal | None
    until: datetime | None


_UNBOUNDED = Band(None, None, None)


def wake_band(p: Position, at: datetime) -> Band | None:
    """The band in which bars are quiet for `p` from `at` on; None when each bar must be looked at.

    A resting limit exit only watches its stops and the time; any other exit under way does not depend on bars at all,
    but for rules that fold each of them.
    """
    plan = p.policy.plan
    if plan.folding:
        return None
    monitored = p.state is State.MONITORING or p.keep_qty > 0
    if not (monitored or (p.state in (State.SUBMITTED, State.PARTIAL) and p.order_type is OrderType.LIMIT)):
        return _UNBOUNDED
    if plan.every_bar:
        return None
    if not monitored:
        stops = levels(p, at)[1]
        return _band(p, stops[0].price if stops else None, None, _time_bound(p, at))
    if plan.user_rules or (p.refusing is not None and p.refusing not in ORDER_FAULTS):
        return None
    if p.alarms and awaits_a_bar(p):
        return None
    target, stops = levels(p, at)
    favourable = [price for price in (target.price if target else None, ratchet_price(p)) if price is not None]
    nearest = (min if p.side.sign > 0 else max)(favourable, default=None)
    return _band(p, stops[0].price if stops else None, nearest, _time_bound(p, at))


def _band(p: Position, stop: Decimal | None, favourable: Decimal | None, until: datetime | None) -> Band:
    return Band(stop, favourable, until) if p.side.sign > 0 else Band(favourable, stop, until)


def _time_bound(p: Position, at: datetime) -> datetime | None:
    """When time alone next changes something for the position."""
    changing = p.policy.plan.changing
    if not changing:
        return None
    seconds = [after for rule in changing if (after := rule.next_change_s(p, at)) is not None]
    return p.opened_at + timedelta(seconds=min(seconds)) if seconds else None
