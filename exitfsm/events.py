"""What happened to a position: past tense, permanent.

Rules of this room: the class names, tags and field names below ARE the storage format. A stored event is read back by
every later version of this library. A field may be added, as `name: kind | msgspec.UnsetType = msgspec.UNSET`: where
nothing is said it is left out of the bytes, so that what was written before is what is written today. Nothing is ever
renamed, retyped or removed, and a changed meaning is a new version (`….v2`) with a reader for the old one in `UPCASTS`.
An event says all its evidence itself: the price, the time, the level, the id. Folding it must never need anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from exitfsm.order_ids import FIRST_FORM
from exitfsm.policy import ExitPolicy
from exitfsm.values import ZERO, ExitType, OrderType, Side, TimeInForce


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", gc=False):
    """Base of all events."""


class PositionOpened(Event, frozen=True, tag="position_opened.v1"):
    """A position is watched from here on.

    `account` is a hash; `epoch` tells this position from earlier ones in the same symbol and comes from the broker's
    first fill (in simulation: the entry bar). `atr` is the average true range at the entry, frozen. `id_form` is the
    form of its client order ids (see `exitfsm.order_ids`); what was stored before there was another names none.
    `own_policy`: its settings are its own, and those for all do not replace them.
    """

    account: str
    symbol: str
    side: Side
    epoch: str
    qty: Decimal
    entry_price: Decimal
    opened_at: datetime
    policy: ExitPolicy
    atr: Decimal | None = None
    strategy_name: str = ""
    source: str = ""
    id_form: str | msgspec.UnsetType = msgspec.UNSET
    own_policy: bool | msgspec.UnsetType = msgspec.UNSET

    @property
    def form(self) -> str:
        """The form of its client order ids."""
        return self.id_form if isinstance(self.id_form, str) else FIRST_FORM


class PositionResized(Event, frozen=True, tag="position_resized.v1"):
    """More was bought, or part was sold by other hands, while no exit was under way."""

    qty: Decimal
    entry_price: Decimal
    at: datetime
    why: str = ""


class PolicyChanged(Event, frozen=True, tag="policy_changed.v1"):
    """Other settings apply from here on. A stop that has moved stays where it is.

    `own`: true where they are given to this position, and those for all do not replace them; false where it goes by
    those for all again. Where nothing is said, the settings for all have changed. `why` is a person's reason.
    """

    policy: ExitPolicy
    at: datetime
    by: str = ""
    own: bool | msgspec.UnsetType = msgspec.UNSET
    why: str | msgspec.UnsetType = msgspec.UNSET


class StopMoved(Event, frozen=True, tag="stop_moved.v1"):
    """The trailing or break-even stop moved; `stop` IS the effective stop of that rule from here on.

    Rule `operator`: a person has put it there (`by`, for the reason `why`). It may be looser than before, and stands in
    for every other stop; those that follow the price go on from it, with a price better than `best_price`. `bar_at` is
    then the last bar that was looked at before.
    """

    rule: ExitType
    stop: Decimal
    best_price: Decimal
    bar_at: datetime
    by: str | msgspec.UnsetType = msgspec.UNSET
    why: str | msgspec.UnsetType = msgspec.UNSET


class TriggerRefused(Event, frozen=True, tag="trigger_refused.v1"):
    """A price was not believed, and nothing was decided on it. The first of a run; `RefusalEnded` closes the run."""

    reason: str
    bar_at: datetime
    price: str
    reference_price: Decimal | None = None


class RefusalEnded(Event, frozen=True, tag="refusal_ended.v1"):
    """A run of refused prices is over; `count` is its length."""

    reason: str
    count: int
    bar_at: datetime


class ExitTriggered(Event, frozen=True, tag="exit_triggered.v1"):
    """The decision to exit, and the intent to send this order. It is durable before anything is sent.

    `at` is when it was decided: live, at the bar's arrival; in simulation, and in older logs, at the bar's label, which
    is `bar_at`. `trigger_price` is the price that breached, `level` what it breached (the same price where the rule has
    no level), `threshold_pct` the percentage that `level` stands for (0 where there is none). `sold_elsewhere` is what
    of the position other hands had sold already, so that it is not sold again. An exit of a part names it in `leg` (the
    index of a target, from 1, or `by hand`), and what is kept in `keep_qty`.
    """

    reason: ExitType
    client_order_id: str
    attempt: int
    qty: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    at: datetime
    trigger_price: Decimal
    level: Decimal
    threshold_pct: Decimal
    limit_price: Decimal | None = None
    bar_at: datetime | None = None
    best_price: Decimal | None = None
    detail: str = ""
    sold_elsewhere: Decimal = ZERO
    keep_qty: Decimal | msgspec.UnsetType = msgspec.UNSET
    leg: str | msgspec.UnsetType = msgspec.UNSET


class OrderAccepted(Event, frozen=True, tag="order_accepted.v1"):
    """The broker has the order."""

    client_order_id: str
    broker_order_id: str | None
    at: datetime


class FillsRecorded(Event, frozen=True, tag="fills_recorded.v1"):
    """Cumulative fills of one order; no average price where the broker did not say it.

    `corrected` marks the broker lowering or changing an earlier figure.
    """

    client_order_id: str
    filled_qty: Decimal
    avg_fill_price: Decimal | None
    at: datetime
    corrected: bool = False


class OrderRestated(Event, frozen=True, tag="order_restated.v1"):
    """The broker, or somebody at it, changed the quantity of our order: from here on it is for `qty`."""

    client_order_id: str
    qty: Decimal
    at: datetime
    text: str = ""


class CancelRequested(Event, frozen=True, tag="cancel_requested.v1"):
    """The intent to cancel, durable before it is sent."""

    client_order_id: str
    at: datetime
    why: str


class CancelRefused(Event, frozen=True, tag="cancel_refused.v1"):
    """The broker would not cancel; the order works on."""

    client_order_id: str
    at: datetime
    text: str = ""


class ExitEscalated(Event, frozen=True, tag="exit_escalated.v1"):
    """A limit exit is given up for a market one: it is canceled first, and the next attempt is market."""

    client_order_id: str
    at: datetime
    why: str
    price: Decimal | None = None


class OrderEnded(Event, frozen=True, tag="order_ended.v1"):
    """The order is over at the broker with quantity left, by the broker's own terminal record or a definite refusal.

    `how` is `rejected`, `refused`, `canceled` or `expired`; or `filled`, of the order of a part, where more than the
    part is to be sold since. `refusal` is the class of a reject. `next_attempt_at` is the
    earliest time of the next attempt, None when there must be no automatic one. `passing`: the cause of the refusal
    passes by itself, so that the next attempt spends nothing. `corrected`: the broker took back executions of it that
    nobody had heard of.
    """

    client_order_id: str
    how: str
    filled_qty: Decimal
    at: datetime
    next_attempt_at: datetime | None
    refusal: str = ""
    text: str = ""
    passing: bool | msgspec.UnsetType = msgspec.UNSET
    corrected: bool | msgspec.UnsetType = msgspec.UNSET


class ExitPostponed(Event, frozen=True, tag="exit_postponed.v1"):
    """The broker refused the order for a cause that passes: it never had it, and the same order is sent again.

    Not before `until`; `times` is how often in a row it was refused, `refusal` and `text` the broker's own reason.
    """

    client_order_id: str
    at: datetime
    until: datetime
    times: int
    refusal: str
    text: str = ""


class ExitRetried(Event, frozen=True, tag="exit_retried.v1"):
    """The intent to send the next attempt, for what is still to sell."""

    client_order_id: str
    attempt: int
    qty: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    at: datetime
    budget_spent: int
    limit_price: Decimal | None = None
    sold_elsewhere: Decimal = ZERO
    by: str = ""


class LegCompleted(Event, frozen=True, tag="leg_completed.v1"):
    """A part is sold, and the rest is monitored again. `filled_qty` and its average are those of the part's orders.

    `remaining_qty` is what is left of the position.
    """

    client_order_id: str
    leg: str
    filled_qty: Decimal
    remaining_qty: Decimal
    at: datetime
    avg_fill_price: Decimal | None = None


class LegWidened(Event, frozen=True, tag="leg_widened.v1"):
    """While a part is sold, everything is to be sold: its order goes on, and the rest follows in the same exit."""

    reason: ExitType
    at: datetime
    price: Decimal | None = None
    detail: str = ""


class ExitCompleted(Event, frozen=True, tag="exit_completed.v1"):
    """Everything is sold by our own orders and the broker shows the position flat."""

    filled_qty: Decimal
    avg_fill_price: Decimal | None
    filled_at: datetime
    at: datetime
    cooldown_until: datetime


class PositionClosedElsewhere(Event, frozen=True, tag="position_closed_elsewhere.v1"):
    """Flat without us, or only a residue is left that cannot be sold.

    `how` is `by_hand` or `external`; `residue`; `reversed`, by an order that went through zero; `vanished`, where the
    broker lists no position and no executions; `other_exit`, by an exit of ours that no order on record explains;
    `unresolved`, where nothing is held and an order of ours has no record; or `ignored`, where a person took it out of
    what is managed, and it is held on.
    """

    how: str
    remaining_qty: Decimal
    at: datetime
    cooldown_until: datetime


class ProtectionLost(Event, frozen=True, tag="protection_lost.v1"):
    """Nothing automatic may be done any more; a person must look. Fills are still recorded."""

    why: str
    at: datetime


class PositionReleased(Event, frozen=True, tag="position_released.v1"):
    """An operator hands the position back to the rules, with nothing of ours live at the broker."""

    by: str
    at: datetime
    qty: Decimal
    entry_price: Decimal


class UnitChanged(Event, frozen=True, tag="unit_changed.v1"):
    """A split or a dividend in shares: quantities count `factor` times, every level and price is divided by it.

    `qty` and `entry_price` are what the broker shows since, in the new unit.
    """

    factor: Decimal
    qty: Decimal
    entry_price: Decimal
    at: datetime
    why: str = ""


class ExitWithdrawn(Event, frozen=True, tag="exit_withdrawn.v1"):
    """An intent that never left is taken back: what it rested on was in another unit. Its number is free again."""

    client_order_id: str
    at: datetime
    why: str


class AlarmRaised(Event, frozen=True, tag="alarm_raised.v1"):
    """Something a person must look at."""

    alarm_id: str
    kind: str
    text: str
    at: datetime


class AlarmAcknowledged(Event, frozen=True, tag="alarm_acknowledged.v1"):
    """A person has looked; or, where `why` says so, it ended by itself."""

    alarm_id: str
    by: str
    at: datetime
    why: str | msgspec.UnsetType = msgspec.UNSET


class TradingPaused(Event, frozen=True, tag="trading_paused.v1"):
    """No new triggers and no entries; exits under way go on. On the account's stream."""

    by: str
    at: datetime
    why: str = ""


class TradingResumed(Event, frozen=True, tag="trading_resumed.v1"):
    """The pause is over. On the account's stream."""

    by: str
    at: datetime


class BreakerOpened(Event, frozen=True, tag="breaker_opened.v1"):
    """The broker failed so often in a row that sends are spaced out. On the account's stream."""

    failures: int
    at: datetime
    why: str = ""


class BreakerClosed(Event, frozen=True, tag="breaker_closed.v1"):
    """A send got through again. On the account's stream."""

    at: datetime


class CommandGiven(Event, frozen=True, tag="command_given.v1"):
    """A person gave a command from outside, and it was received. On the account's stream, before anything is done.

    `by` is who gave it, `whence` from which process or address; `given` is a price or settings that it names. What it
    leads to names it: the word `#` with
    `command_id` stands in each event that comes of it.
    """

    command_id: str
    verb: str
    subjects: tuple[str, ...]
    by: str
    whence: str
    at: datetime
    reason: str = ""
    given: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class CommandAnswered(Event, frozen=True, tag="command_answered.v1"):
    """What was answered to a command. On the account's stream; a repeated command gets this answer again.

    `code` is 0 for done, 1 for not done, or not all of it; `lines` say what, and why not. A `flatten` has a second one
    once all is proved to be flat: it is over then.
    """

    command_id: str
    code: int
    lines: tuple[str, ...]
    at: datetime


class ScopeChanged(Event, frozen=True, tag="scope_changed.v1"):
    """A person took a symbol into what is managed, or out of it. On the account's stream; it counts before settings.

    `how` is `adopted`, `ignored`, or `restored`: what was said of it for one `flatten` alone counts no more. `command`
    is the id of that `flatten`, empty for what lasts.
    """

    symbol: str
    how: str
    by: str
    at: datetime
    why: str = ""
    command: str = ""


PositionEvent = (
    PositionOpened
    | PositionResized
    | PolicyChanged
    | StopMoved
    | TriggerRefused
    | RefusalEnded
    | ExitTriggered
    | OrderAccepted
    | FillsRecorded
    | OrderRestated
    | CancelRequested
    | CancelRefused
    | ExitEscalated
    | OrderEnded
    | ExitPostponed
    | ExitRetried
    | LegCompleted
    | LegWidened
    | ExitCompleted
    | PositionClosedElsewhere
    | ProtectionLost
    | PositionReleased
    | UnitChanged
    | ExitWithdrawn
    | AlarmRaised
    | AlarmAcknowledged
)
POSITION_EVENTS: tuple[type[Event], ...] = PositionEvent.__args__
#: Facts about the whole account; they stand on its own stream, beside alarms that concern no single position.
ACCOUNT_EVENTS: tuple[type[Event], ...] = (
    *(TradingPaused, TradingResumed, BreakerOpened, BreakerClosed),
    *(CommandGiven, CommandAnswered, ScopeChanged),
)

#: tag of an old version -> function that turns its decoded fields into those of the current one.
UPCASTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def tag_of(event: type[Event] | Event) -> str:
    """The permanent name of an event on disk, e.g. `exit_triggered.v1`."""
    return str(event.__struct_config__.tag)


class Recorded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event in its stream.

    Attributes:
        stream_id: the position's id (or the account's, for facts about the whole).
        version: place in the stream, from 1.
        at_ns: when the message that caused it happened, in nanoseconds since 1970 UTC: live, of a bar, its arrival; in
            simulation, and in logs of before, its label.
        by: who told: `bar`, `broker`, `timer`, `operator`, `reconcile`, `bot`.
        event: what happened.
        sequence: place in the whole store, from 1; 0 before it is stored.
    """

    stream_id: str
    version: int
    at_ns: int
    by: str
    event: Event
    sequence: int = 0
