"""What a person, or a changed configuration, wants of the levels of a position that is monitored.

Rules of this room: nothing here reaches an exit that is under way: what has decided it stays as it was. A stop that has
moved stays where it is, whatever the settings are now; only a person puts one somewhere else, by name.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from msgspec import UNSET

from exitfsm.events import Event, PolicyChanged, StopMoved
from exitfsm.lifecycle import State
from exitfsm.messages import ChangePolicy, MoveStop
from exitfsm.policy import ExitPolicy, cannot_be, fitted, is_jump, typed
from exitfsm.ports import Capabilities
from exitfsm.position.attempting import is_price
from exitfsm.position.evaluating import levels
from exitfsm.position.state import Position
from exitfsm.values import ExitType, plain


def on_change_policy(p: Position, m: ChangePolicy, broker: Capabilities) -> list[Event]:
    """New settings while monitored; a position on its way out keeps those that decided it."""
    policy = typed(m.policy)
    if m.own is not True:
        policy = fitted(policy, p.side, p.entry_price)
    if why_not_policy(p, policy) or (m.own is None and p.own_policy):
        return []
    own = p.own_policy if m.own is None else m.own
    if policy == p.policy and own == p.own_policy:
        return []
    return [
        PolicyChanged(
            policy=policy, at=m.at, by=m.who, own=UNSET if m.own is None else own, why=m.why if m.why else UNSET
        )
    ]


def on_move_stop(p: Position, m: MoveStop, broker: Capabilities) -> list[Event]:
    """The stop goes where a person wants it, in place of every other; those that follow the price go on from it."""
    if why_not_stop(p, m.price, m.last_price) or p.stops.is_only(m.price):
        return []
    looked_at = [at for at in (p.opened_at, p.stops.moved_at, m.bar_at) if at is not None]
    return [
        StopMoved(
            rule=ExitType.OPERATOR,
            stop=m.price,
            best_price=_best(p, m.last_price),
            bar_at=max(looked_at),
            by=m.who,
            why=m.why if m.why else UNSET,
        )
    ]


def _best(p: Position, last: Decimal | None) -> Decimal:
    """The best price that is known of a position: with a better one its stops go on."""
    known = [price for price in (p.entry_price, p.stops.best_price, last) if is_price(price) and price is not None]
    return (max if p.side.sign > 0 else min)(known)


def why_not_policy(p: Position, policy: ExitPolicy) -> str:
    """Why a position cannot have these settings; empty where it can."""
    if p.state is not State.MONITORING:
        return f"it is {p.state}: its exit goes on by the settings that decided it"
    return "; ".join(cannot_be(policy, p.side, p.entry_price))


def why_not_stop(p: Position, price: Decimal, last: Decimal | None) -> str:
    """Why the stop of a position cannot be put at a price; empty where it can.

    One beyond the market fires at the next price. One so far beyond it that no price is believed there is a mistake.
    """
    if p.state is not State.MONITORING:
        return f"it is {p.state}, and a stop does not change an exit that is under way"
    if not is_price(price):
        return f"{price} is no price; it must be a finite number above 0"
    if last is not None and fires_at(p, price, last) and is_jump(price, last, p.policy.price_guard.max_jump_ratio):
        return f"{plain(price)} is far beyond the last price {plain(last)}; to be out now, order the exit"
    return ""


def fires_at(p: Position, price: Decimal, last: Decimal) -> bool:
    """True where a stop at this price is reached by the last price: it fires at the next one."""
    return (last - price) * p.side.sign <= 0


def tightest_stop(p: Position, at: datetime) -> Decimal | None:
    """The stop that is reached first; None where there is none."""
    stops = levels(p, at)[1]
    return stops[0].price if stops else None
