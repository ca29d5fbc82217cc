"""What is on record about a position's exit, or about why there was none: the nouns of `explain`."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

from exitfsm.lifecycle import State
from exitfsm.profit import Change, Profit
from exitfsm.values import ExitType, OrderType, Side, TimeInForce


class EntryFact(msgspec.Struct, frozen=True, kw_only=True):
    """What a position was entered at, as it was then."""

    qty: Decimal
    price: Decimal
    at: datetime


class ChangeFact(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the size or the average entry while it was watched, or a release by an operator."""

    event: int
    at: datetime
    kind: Change
    qty_before: Decimal
    entry_price_before: Decimal
    qty: Decimal
    entry_price: Decimal
    by: str


class OvertakenFact(msgspec.Struct, frozen=True, kw_only=True):
    """A resting limit that was given up: for a rule that was reached (`why`, at `level`), or for something else."""

    event: int
    at: datetime
    client_order_id: str
    why: str
    price: Decimal | None
    level: Decimal | None
    threshold_pct: Decimal | None


class LevelFact(msgspec.Struct, frozen=True, kw_only=True):
    """A level that stood: its price, the percentage it stands for, and how far the last known price was from it.

    `distance` and `distance_pct` (of the price, to four places) are above zero while the level is not reached; both are
    None where no price is known. `since_event` is the event that set it. `section` names its rule where `rule`, the
    reason, alone does not.
    """

    rule: ExitType
    price: Decimal
    threshold_pct: Decimal
    since_event: int
    distance: Decimal | None = None
    distance_pct: Decimal | None = None
    section: str = ""

    @property
    def name(self) -> str:
        """What the level is called."""
        return self.section or str(self.rule)


class PriceFact(msgspec.Struct, frozen=True, kw_only=True):
    """A price that is known, of when, and from where: `bars`, `mark` or `event`."""

    price: Decimal
    at: datetime
    source: str


class ExitFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The decision to exit and its evidence, as recorded. Of a part: its name, and what of the position it keeps."""

    event: int
    reason: ExitType
    at: datetime
    by: str
    bar_at: datetime | None
    trigger_price: Decimal
    level: Decimal
    threshold_pct: Decimal
    best_price: Decimal | None
    detail: str
    bar: dict[str, str] | None
    level_set_by_event: int | None
    part: str = ""
    keep_qty: Decimal | None = None


class OrderFact(msgspec.Struct, frozen=True, kw_only=True):
    """One exit order, from its intent to its end; `decision` is the event of the decision that it belongs to."""

    event: int
    decision: int
    client_order_id: str
    attempt: int
    qty: Decimal
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price: Decimal | None
    at: datetime
    by: str
    accepted_at: datetime | None = None
    broker_order_id: str | None = None
    filled_qty: Decimal = Decimal(0)
    avg_fill_price: Decimal | None = None
    filled_at: datetime | None = None
    cancel_asked: str | None = None
    ended_how: str | None = None
    ended_at: datetime | None = None
    refusal: str = ""
    text: str = ""
    next_attempt_at: datetime | None = None


class OutcomeFact(msgspec.Struct, frozen=True, kw_only=True):
    """How the position ended: `filled`, or the way it was closed externally.

    `qty`, `avg_price`, `pnl` and `pnl_pct` are of our own orders, held against the entries of their times;
    `by_hand_qty` is what manual trades have sold, `residue_qty` what cannot be sold.
    """

    how: str
    event: int
    at: datetime
    qty: Decimal
    avg_price: Decimal | None
    pnl: Decimal | None
    pnl_pct: Decimal | None
    by_hand_qty: Decimal
    residue_qty: Decimal
    held_seconds: int
    cooldown_until: datetime


class RefusalFact(msgspec.Struct, frozen=True, kw_only=True):
    """A run of inputs on which nothing was decided; `count` is None while it lasts."""

    event: int
    reason: str
    bar_at: datetime
    price: str
    reference_price: Decimal | None
    count: int | None
    ended_at: datetime | None


class TrailFact(msgspec.Struct, frozen=True, kw_only=True):
    """A stop that would follow, and has not begun to: it begins at `begins_at` (`activation_pct` in profit)."""

    rule: ExitType
    activation_pct: Decimal
    begins_at: Decimal


class RuleFact(msgspec.Struct, frozen=True, kw_only=True):
    """A rule without a level that is on: when it is due, where that is known, or what else is to be said of it."""

    rule: str
    due_at: datetime | None
    text: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on record about whether, why and how a position was exited, as it was known at `as_of`.

    `entered` is the entry as it was then, `changes` what changed it since; `qty` and `entry_price` are those of now.
    `exit` is the decision to exit that stands, `earlier_exits` those that a release gave up; `profit` is what has come
    of it. `levels` are those that stood at the decision to exit, or, without one, at `as_of`. `price` is the last that
    was accepted, `refused_price` the newest that was not, where it is newer. `best` is the highest price while it was
    held (of a short the lowest), up to the decision. `not_recorded` names what would be of interest and is not there.
    """

    position_id: str
    symbol: str
    side: Side
    qty: Decimal
    entry_price: Decimal
    entered: EntryFact
    changes: list[ChangeFact]
    opened_at: datetime
    strategy_name: str
    as_of: datetime
    events: int
    state: State
    enabled: bool
    policy: str
    policy_event: int
    price: PriceFact | None
    refused_price: PriceFact | None
    best: PriceFact | None
    levels: list[LevelFact]
    waiting: list[TrailFact]
    watching: list[RuleFact]
    exit: ExitFact | None
    earlier_exits: list[ExitFact]
    orders: list[OrderFact]
    overtaken: list[OvertakenFact]
    profit: Profit
    outcome: OutcomeFact | None
    refusals: list[RefusalFact]
    alarms: list[str]
    lost: list[str]
    paused_since: datetime | None
    paused_by: str
    breaker_since: datetime | None
    next_attempt_at: datetime | None
    rules_off: list[str]
    not_recorded: list[str]
