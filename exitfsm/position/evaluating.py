"""Does this bar end the position, and where would it?

`evaluate` is the one place where a price meets a level. `wake_band` gives the prices between which nothing at all can
happen to a position, so that a quiet bar never gets here.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import msgspec

from exitfsm.lifecycle import State
from exitfsm.policy import (
    ORDER_FAULTS,
    Level,
    away,
    break_even_stop,
    fixed_stop,
    next_ladder_step_s,
    reached,
    target_level,
    trailing_stop,
)
from exitfsm.position.state import Position
from exitfsm.values import EXACT, HUNDRED, ZERO, Bar, EvaluateOn, ExitType, OrderType, first_by_precedence


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Why to exit: the rule, the price that breached, the level it breached and the percentage it stands for."""

    reason: ExitType
    price: Decimal
    level: Decimal
    threshold_pct: Decimal
    detail: str = ""


def held_s(p: Position, at: datetime) -> float:
    """Seconds since the entry."""
    return (at - p.opened_at).total_seconds()


def levels(p: Position, at: datetime) -> tuple[Level | None, list[Level]]:
    """The profit target and the stops that stand at `at`, the tightest stop first."""
    policy = p.policy
    held = held_s(p, at) if policy.target_ladder.enabled else 0.0
    target = target_level(policy, p.side, p.entry_price, p.atr, held)
    stops: list[Level] = []
    fixed = fixed_stop(policy, p.side, p.entry_price, p.atr)
    if fixed is not None:
        stops.append(fixed)
    moved = p.stops
    if moved.break_even is not None:
        stops.append(Level(moved.break_even, ExitType.BREAK_EVEN, policy.break_even.offset_pct))
    if moved.trail is not None:
        stops.append(Level(moved.trail, ExitType.TRAILING_STOP, policy.trailing_stop.trail_pct))
    if len(stops) > 1:
        stops.sort(key=lambda level: level.price, reverse=p.side.sign > 0)
    return target, stops


def worst_and_best(p: Position, bar: Bar) -> tuple[Decimal, Decimal]:
    """The bar's price as the stops see it, and as the target and the trail see it."""
    if p.policy.evaluate_on is EvaluateOn.CLOSE:
        close = bar.close
        return close, close
    return (bar.low, bar.high) if p.side.sign > 0 else (bar.high, bar.low)


def evaluate(
    p: Position, bar: Bar, *, session_close: datetime | None = None, custom: str | None = None
) -> Verdict | None:
    """Why this sound bar ends the position; None when it does not. Of several reasons `ExitType`'s order decides."""
    worst, best = worst_and_best(p, bar)
    target, stops = levels(p, bar.timestamp)
    found: dict[ExitType, Verdict] = {}
    sign = p.side.sign
    for stop in stops:
        if reached(worst, stop.price, -sign):
            found[stop.rule] = Verdict(stop.rule, worst, stop.price, stop.threshold_pct)
    if target is not None and reached(best, target.price, sign):
        found[target.rule] = Verdict(target.rule, best, target.price, target.threshold_pct)
    for rule in due_by_time(p, bar.timestamp, session_close):
        found[rule] = Verdict(rule, bar.close, bar.close, ZERO)
    if custom is not None:
        rule_name = f"{p.policy.custom_rule.name} {p.policy.custom_rule.version}: {custom}"
        found[ExitType.CUSTOM] = Verdict(ExitType.CUSTOM, bar.close, bar.close, ZERO, rule_name)
    winner = first_by_precedence(found) if len(found) > 1 else next(iter(found), None)
    return found[winner] if winner is not None else None


def due_by_time(p: Position, at: datetime, session_close: datetime | None) -> list[ExitType]:
    """The time rules that have come due at `at`."""
    due = []
    if p.policy.time_limit.enabled and held_s(p, at) >= p.policy.time_limit.max_seconds:
        due.append(ExitType.TIME_LIMIT)
    rule = p.policy.end_of_session
    if (
        rule.enabled
        and session_close is not None
        and at >= session_close - timedelta(minutes=rule.minutes_before_close)
    ):
        due.append(ExitType.END_OF_SESSION)
    return due


def next_stops(p: Position, bar: Bar) -> list[tuple[ExitType, Decimal, Decimal]]:
    """The stops that this bar moves, as (rule, new stop, best price): the ratchet after the evaluation."""
    best = worst_and_best(p, bar)[1]
    moves: list[tuple[ExitType, Decimal, Decimal]] = []
    if p.stops.break_even is None:
        stop = break_even_stop(p.policy, p.side, p.entry_price, best)
        if stop is not None:
            moves.append((ExitType.BREAK_EVEN, stop, best))
    stop = trailing_stop(p.policy, p.side, p.entry_price, best, p.stops.trail)
    if stop is not None:
        moves.append((ExitType.TRAILING_STOP, stop, best))
    return moves


def ratchet_price(p: Position) -> Decimal | None:
    """A price short of which no stop moves: the nearest at which `next_stops` may have something. None: none moves."""
    prices = []
    sign = p.side.sign
    if p.policy.break_even.enabled and p.stops.break_even is None:
        prices.append(away(p.entry_price, p.policy.break_even.activation_pct, sign))
    trail = p.policy.trailing_stop
    if trail.enabled and p.stops.trail is None:
        prices.append(away(p.entry_price, trail.activation_pct, sign))
    elif trail.enabled and p.stops.trail is not None:
        least = away(p.stops.trail, trail.step_pct, sign).scaleb(2, EXACT)
        # The one division: rounded toward the entry, so that it wakes early rather than late.
        rounding = Context(prec=28, rounding=ROUND_FLOOR if sign > 0 else ROUND_CEILING)
        prices.append(rounding.divide(least, away(HUNDRED, trail.trail_pct, -sign)))
    if not prices:
        return None
    return min(prices) if sign > 0 else max(prices)


class Band(msgspec.Struct, frozen=True, gc=False):
    """Between `lower` and `upper`, and before `until`, no bar can change the position. None: no bound on that side."""

    lower: Decimal | None
    upper: Decimal | None
    until: datetime | None


_UNBOUNDED = Band(None, None, None)


def wake_band(p: Position, at: datetime) -> Band | None:
    """The band in which bars are quiet for `p` from `at` on; None when each bar must be looked at.

    A resting limit exit only watches its stops and the time; any other exit under way does not depend on bars at all.
    """
    monitored = p.state is State.MONITORING
    if not (monitored or (p.state in (State.SUBMITTED, State.PARTIAL) and p.order_type is OrderType.LIMIT)):
        return _UNBOUNDED
    if p.policy.end_of_session.enabled:
        return None
    if not monitored:
        stops = levels(p, at)[1]
        return _band(p, stops[0].price if stops else None, None, _time_bound(p, at))
    if p.policy.custom_rule.enabled:
        return None
    if p.refusing is not None and p.refusing not in ORDER_FAULTS:
        return None
    target, stops = levels(p, at)
    favourable = [price for price in (target.price if target else None, ratchet_price(p)) if price is not None]
    nearest = (min if p.side.sign > 0 else max)(favourable, default=None)
    return _band(p, stops[0].price if stops else None, nearest, _time_bound(p, at))


def _band(p: Position, stop: Decimal | None, favourable: Decimal | None, until: datetime | None) -> Band:
    return Band(stop, favourable, until) if p.side.sign > 0 else Band(favourable, stop, until)


def _time_bound(p: Position, at: datetime) -> datetime | None:
    """When time alone next changes something for the position."""
    policy, seconds = p.policy, []
    if policy.time_limit.enabled:
        seconds.append(policy.time_limit.max_seconds)
    if policy.target_ladder.enabled and (step := next_ladder_step_s(policy, held_s(p, at))) is not None:
        seconds.append(step)
    return p.opened_at + timedelta(seconds=min(seconds)) if seconds else None
