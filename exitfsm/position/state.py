"""The position itself, and how events change it.

`evolve` is total: whatever was stored can be folded, so an old log always reads back. Legality is checked when an event
is appended (by the machine) and when a log is verified (by the lookup), never here.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from msgspec.structs import force_setattr, replace

from exitfsm.errors import IllegalTransition
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
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
)
from exitfsm.lifecycle import LOOKUP, NOTHING, State
from exitfsm.policy import ExitPolicy, is_jump
from exitfsm.values import EXACT, ZERO, Alarm, ExitType, OrderType, Side, TimeInForce, utc

#: An average entry that moved by more than this did not move by trading a little more: the share itself changed.
SPLIT_RATIO = Decimal("1.3")


#: How an earlier order "ended" that was refused, and works at the broker after all.
WORKING = "working"


class EndedOrder(msgspec.Struct, frozen=True, gc=False):
    """An earlier exit order: its id, what it filled at which average, how it ended (or `WORKING`), the broker's id."""

    client_order_id: str
    filled_qty: Decimal
    avg_fill_price: Decimal | None
    how: str
    broker_order_id: str | None = None


class Position(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One position and its exit. Quantities are positive on both sides; `version` is the number of events folded.

    The fields from `client_order_id` to `cancel_asked` are about the current exit order; `ended_orders` holds those
    before it; `ordered_by` is the operator who ordered it. `refusing` names the run of refused prices under way.
    `waiting_since` is when the current wait for the broker began.
    """

    position_id: str
    account: str
    symbol: str
    side: Side
    epoch: str
    qty: Decimal
    entry_price: Decimal
    opened_at: datetime
    policy: ExitPolicy
    state: State = State.MONITORING
    version: int = 1
    atr: Decimal | None = None
    strategy_name: str = ""
    source: str = ""
    break_even_stop: Decimal | None = None
    trail_stop: Decimal | None = None
    best_price: Decimal | None = None
    stop_moved_at: datetime | None = None
    refusing: str | None = None
    reason: ExitType | None = None
    triggered_at: datetime | None = None
    trigger_price: Decimal | None = None
    client_order_id: str | None = None
    attempt: int = 0
    order_qty: Decimal = ZERO
    order_type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce = TimeInForce.DAY
    limit_price: Decimal | None = None
    broker_order_id: str | None = None
    filled_qty: Decimal = ZERO
    avg_fill_price: Decimal | None = None
    order_live: bool = False
    ordered_by: str = ""
    cancel_asked: bool = False
    cancels_refused: int = 0
    restated: bool = False
    corrected_orders: tuple[str, ...] = ()
    ended_orders: tuple[EndedOrder, ...] = ()
    ended_how: str = ""
    last_refusal: str = ""
    sold_elsewhere: Decimal = ZERO
    escalated: bool = False
    budget_spent: int = 0
    next_attempt_at: datetime | None = None
    waiting_since: datetime | None = None
    last_fill_at: datetime | None = None
    ended_at: datetime | None = None
    cooldown_until: datetime | None = None
    alarms: tuple[Alarm, ...] = ()

    @property
    def sold_qty(self) -> Decimal:
        """What our own orders have sold so far."""
        total = self.filled_qty
        for order in self.ended_orders:
            total = EXACT.add(total, order.filled_qty)
        return total

    @property
    def remaining_qty(self) -> Decimal:
        """What is still to sell, by the broker's own figures for our orders."""
        return EXACT.subtract(EXACT.subtract(self.qty, self.sold_qty), self.sold_elsewhere)

    @property
    def leaves_qty(self) -> Decimal:
        """What the current order has still to fill."""
        return EXACT.subtract(self.order_qty, self.filled_qty)

    @property
    def avg_exit_price(self) -> Decimal | None:
        """Average price over all our exit orders; None where nothing was sold or the broker left a price out."""
        parts = [(o.filled_qty, o.avg_fill_price) for o in self.ended_orders if o.filled_qty]
        if self.filled_qty:
            parts.append((self.filled_qty, self.avg_fill_price))
        value = ZERO
        for qty, price in parts:
            if price is None:
                return None
            value = EXACT.add(value, EXACT.multiply(qty, price))
        if len(parts) < 2:
            return parts[0][1] if parts else None
        return EXACT.divide(value, self.sold_qty).quantize(Decimal("0.000000001"), context=EXACT).normalize()

    @property
    def works_again(self) -> tuple[str, ...]:
        """Earlier orders that were refused, and work at the broker after all."""
        return tuple(o.client_order_id for o in self.ended_orders if o.how == WORKING)

    @property
    def live_orders(self) -> tuple[str, ...]:
        """Every exit order of the position that may be live: the current one, and earlier ones that work again."""
        live = (self.client_order_id,) if self.order_live and self.client_order_id is not None else ()
        return (*live, *self.works_again)

    @property
    def orders_in_question(self) -> tuple[str, ...]:
        """The orders whose record the broker is to be asked for: those that may be live, and those it has corrected."""
        live = self.live_orders
        return (*live, *(one for one in self.corrected_orders if one not in live))

    @property
    def broker_order_ids(self) -> dict[str, str]:
        """The broker's own id of each exit order of which it is known: ours, by the broker's."""
        ids = {o.broker_order_id: o.client_order_id for o in self.ended_orders}
        ids[self.broker_order_id] = self.client_order_id or ""
        return {own: ours for own, ours in ids.items() if own is not None}

    def how_ended(self, client_order_id: str) -> str:
        """How one of the position's orders ended, as reported; empty for one that has not."""
        if client_order_id == self.client_order_id:
            return self.ended_how
        return next((o.how for o in self.ended_orders if o.client_order_id == client_order_id), "")

    def order_known(self, client_order_id: str) -> bool:
        """True when the id belongs to this position's current or an earlier exit order."""
        return client_order_id == self.client_order_id or any(
            o.client_order_id == client_order_id for o in self.ended_orders
        )


def account_hash(account: str) -> str:
    """The account as it enters ids, events and logs: 12 hex digits of a SHA-256, never the number itself."""
    return hashlib.sha256(b"exitfsm account\0" + account.encode()).hexdigest()[:12]


def epoch_of(first_fill_at: datetime) -> str:
    """The epoch that a broker's first fill names: its UTC time, e.g. `20140605T081500Z`."""
    at = utc(first_fill_at)
    fraction = f".{at.microsecond:06d}" if at.microsecond else ""
    return f"{at:%Y%m%dT%H%M%S}{fraction}Z"


def position_id(account: str, symbol: str, side: Side, epoch: str) -> str:
    """The name of a position, which is also its stream: `AAPL:long:20140605T081500Z:1f0c…` (account as its hash)."""
    return ":".join((symbol, side, epoch, account))


def client_order_id(position_id: str, attempt: int) -> str:
    """The id of a position's `attempt`-th exit order (from 1): at most 48 characters of `[A-Za-z0-9-]`.

    Depends on nothing else, so a second machine, or this one after a crash, names the same order the same.
    """
    return f"xf1-{hashlib.sha256(position_id.encode()).hexdigest()[:32]}-{attempt}"


def is_exit_of(position_id: str, order_id: str | None) -> bool:
    """True when an order id is that of some exit order of a position."""
    return order_id is not None and order_id.startswith(client_order_id(position_id, 0)[:-1])


def _opened(event: PositionOpened) -> Position:
    return Position(
        position_id=position_id(event.account, event.symbol, event.side, event.epoch),
        account=sys.intern(event.account),  # one for all positions of it
        symbol=event.symbol,
        side=event.side,
        epoch=event.epoch,
        qty=event.qty,
        entry_price=event.entry_price,
        opened_at=event.opened_at,
        policy=event.policy,
        atr=event.atr,
        strategy_name=event.strategy_name,
        source=event.source,
    )


def _triggered(p: Position, e: ExitTriggered) -> dict[str, Any]:
    changes = _new_order(p, e)
    changes["reason"] = e.reason
    changes["triggered_at"] = e.at
    changes["trigger_price"] = e.trigger_price
    changes["sold_elsewhere"] = e.sold_elsewhere
    changes["ordered_by"] = ""
    changes["refusing"] = None
    return changes


def _new_order(p: Position, e: ExitTriggered | ExitRetried) -> dict[str, Any]:
    """The fields of a fresh exit order; the one before it, if any, joins the ended ones and leaves nothing behind."""
    changes: dict[str, Any] = {
        "client_order_id": e.client_order_id,
        "attempt": e.attempt,
        "order_qty": e.qty,
        "order_type": e.order_type,
        "time_in_force": e.time_in_force,
        "limit_price": e.limit_price,
        "order_live": True,
        "waiting_since": e.at,
    }
    if p.client_order_id is not None:
        before = EndedOrder(p.client_order_id, p.filled_qty, p.avg_fill_price, p.ended_how, p.broker_order_id)
        changes |= _NOTHING_YET
        changes["ended_orders"] = (*p.ended_orders, before)
    return changes


#: Of an order of which the broker has said nothing.
_NOTHING_YET: dict[str, Any] = {
    "broker_order_id": None,
    "filled_qty": ZERO,
    "avg_fill_price": None,
    "cancel_asked": False,
    "cancels_refused": 0,
    "restated": False,
    "ended_how": "",
    "escalated": False,
    "next_attempt_at": None,
}


def _fills(p: Position, e: FillsRecorded) -> dict[str, Any]:
    corrected = p.corrected_orders
    if e.corrected and e.client_order_id not in corrected:
        corrected = (*corrected, e.client_order_id)
    if e.client_order_id == p.client_order_id:
        # An order that was over because it was filled whole may work again when some of that is taken back.
        works = p.order_live or (e.corrected and p.filled_qty >= p.order_qty)
        return {
            "filled_qty": e.filled_qty,
            "avg_fill_price": e.avg_fill_price,
            "order_live": works and e.filled_qty < p.order_qty,
            "last_fill_at": e.at,
            "waiting_since": _waiting(p, e.at),
            "corrected_orders": corrected,
        }
    filled = _earlier(p, e.client_order_id, filled_qty=e.filled_qty, avg_fill_price=e.avg_fill_price)
    return {**filled, "last_fill_at": e.at, "corrected_orders": corrected}


def _earlier(p: Position, client_order_id: str, **changes: Any) -> dict[str, Any]:
    """One of the orders before the current one, with other figures."""
    orders = p.ended_orders
    return {"ended_orders": tuple(replace(o, **changes) if o.client_order_id == client_order_id else o for o in orders)}


def _accepted(p: Position, e: OrderAccepted) -> dict[str, Any]:
    """The broker has it; and where it had been refused, it has it after all."""
    if e.client_order_id != p.client_order_id:
        return _earlier(p, e.client_order_id, how=WORKING, broker_order_id=e.broker_order_id)
    changes: dict[str, Any] = {"broker_order_id": e.broker_order_id, "waiting_since": _waiting(p, e.at)}
    if not p.order_live:
        changes |= {"order_live": True, "ended_how": "", "next_attempt_at": None, "cancel_asked": False}
    return changes


def _cancel_requested(p: Position, e: CancelRequested) -> dict[str, Any]:
    """Of an earlier order that works again the cancel is owed without being noted."""
    return {"cancel_asked": True, "waiting_since": e.at} if e.client_order_id == p.client_order_id else {}


def _restated(p: Position, e: OrderRestated) -> dict[str, Any]:
    """One that is made as small as what it has filled works until its end is reported."""
    if e.client_order_id != p.client_order_id:
        return {}
    over = not p.order_live and p.filled_qty < p.order_qty
    live = not over and (e.qty > p.filled_qty or (p.order_live and e.qty == p.filled_qty))
    return {"order_qty": e.qty, "restated": True, "order_live": live, "waiting_since": e.at}


def _waiting(p: Position, at: datetime) -> datetime:
    """Since when we wait, after news that the broker dates `at`: its clock may be slow, but our order came first."""
    since = p.waiting_since
    return since if since is not None and since > at else at


def _ended(p: Position, e: OrderEnded) -> dict[str, Any]:
    if e.client_order_id != p.client_order_id:
        return _earlier(p, e.client_order_id, how=e.how)
    return {
        "filled_qty": max(p.filled_qty, e.filled_qty),
        "order_live": False,
        "ended_how": e.how,
        "last_refusal": e.refusal,
        "next_attempt_at": e.next_attempt_at,
        "waiting_since": e.at,
    }


def _retried(p: Position, e: ExitRetried) -> dict[str, Any]:
    spent = {"budget_spent": e.budget_spent, "sold_elsewhere": e.sold_elsewhere}
    return {**spent, "ordered_by": e.by, **_new_order(p, e)}


def _stop_moved(p: Position, e: StopMoved) -> dict[str, Any]:
    which = "trail_stop" if e.rule is ExitType.TRAILING_STOP else "break_even_stop"
    return {which: e.stop, "best_price": e.best_price, "stop_moved_at": e.bar_at}


def _released(p: Position, e: PositionReleased) -> dict[str, Any]:
    return {
        "qty": EXACT.add(e.qty, p.sold_qty),
        "entry_price": e.entry_price,
        "sold_elsewhere": ZERO,
        "reason": None,
        "triggered_at": None,
        "trigger_price": None,
        "escalated": False,
        "budget_spent": 0,
        "last_refusal": "",
        "next_attempt_at": None,
        "waiting_since": None,
    }


def _resized(p: Position, e: PositionResized) -> dict[str, Any]:
    """New figures. A stop that had moved stays, for it never loosens; only a split leaves it without a meaning."""
    keep = not is_jump(e.entry_price, p.entry_price, SPLIT_RATIO)
    return {
        "qty": EXACT.add(e.qty, p.sold_qty),
        "entry_price": e.entry_price,
        "break_even_stop": p.break_even_stop if keep else None,
        "trail_stop": p.trail_stop if keep else None,
        "best_price": p.best_price if keep else None,
    }


def _alarm(p: Position, e: AlarmRaised) -> dict[str, Any]:
    alarm = Alarm(alarm_id=e.alarm_id, kind=e.kind, text=e.text, raised_at=e.at)
    return {"alarms": (*p.alarms, alarm)}


_CHANGES: dict[type[Event], Callable[[Position, Any], dict[str, Any]]] = {
    PositionResized: _resized,
    PolicyChanged: lambda p, e: {"policy": e.policy},
    StopMoved: _stop_moved,
    TriggerRefused: lambda p, e: {"refusing": e.reason},
    RefusalEnded: lambda p, e: {"refusing": None},
    ExitTriggered: _triggered,
    OrderAccepted: _accepted,
    FillsRecorded: _fills,
    OrderRestated: _restated,
    CancelRequested: _cancel_requested,
    CancelRefused: lambda p, e: {
        "cancel_asked": False,
        "escalated": False,
        "waiting_since": e.at,
        "cancels_refused": p.cancels_refused + 1,
    },
    ExitEscalated: lambda p, e: {"cancel_asked": True, "escalated": True, "waiting_since": e.at},
    OrderEnded: _ended,
    ExitRetried: _retried,
    ExitCompleted: lambda p, e: {"ended_at": e.filled_at, "cooldown_until": e.cooldown_until, "order_live": False},
    PositionClosedElsewhere: lambda p, e: {"ended_at": e.at, "cooldown_until": e.cooldown_until, "order_live": False},
    ProtectionLost: lambda p, e: {"waiting_since": None},
    PositionReleased: _released,
    AlarmRaised: _alarm,
    AlarmAcknowledged: lambda p, e: {"alarms": tuple(a for a in p.alarms if a.alarm_id != e.alarm_id)},
    PositionOpened: lambda p, e: {},  # it is open already
}


#: event class -> state before -> state after, of the lifecycle's rows.
_TARGETS: dict[type[Event], dict[State | None, State]] = {kind: {} for kind in _CHANGES}
for (_source, _event), _target in LOOKUP.items():
    _TARGETS[_event][_source] = _target


def evolve(position: Position | None, event: Event) -> Position:
    """`position` after `event`. Never fails on an event that was appended once.

    An event that the lifecycle does not allow leaves the state as it is and changes the figures only: refusing it is
    the business of append and verify, and a log must stay readable. Only a stream that does not start with
    `PositionOpened` cannot be folded.

    Raises:
        IllegalTransition: the first event is not `PositionOpened`.
    """
    after = fold(position, (event,))
    assert after is not None
    return after


def fold(position: Position | None, events: Iterable[Event]) -> Position | None:
    """`position` after all `events`, each as `evolve` says; `position` itself stays as it is.

    Raises:
        IllegalTransition: the first event is not `PositionOpened`.
    """
    # A position is only changed here, where nobody else has it yet: a copy at each event would take twice the time.
    p, ours = position, False
    version = p.version if p is not None else 0
    for event in events:
        kind = type(event)
        version += 1
        if p is None:
            if not isinstance(event, PositionOpened):
                raise IllegalTransition(NOTHING, kind.__name__)
            p, ours = _opened(event), True
            continue
        changes = _CHANGES[kind](p, event)
        if not ours:
            p, ours = replace(p, **changes), True
        else:
            for field, value in changes.items():
                force_setattr(p, field, value)
        target = _TARGETS[kind].get(p.state)
        if target is not None:
            force_setattr(p, "state", target)
    if p is not None and ours:
        force_setattr(p, "version", version)
    return p


def replay(events: Iterable[Event]) -> Position:
    """The position that a whole stream of events makes.

    Raises:
        IllegalTransition: the stream is empty or does not start with `PositionOpened`.
    """
    position = fold(None, events)
    if position is None:
        raise IllegalTransition(NOTHING, "(no event)")
    return position
