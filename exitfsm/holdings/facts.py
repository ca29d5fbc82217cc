"""What comes in and what goes out: reads, orders and positions of one holding, and the conclusions about it.

All of it is frozen. A holding is what one account shows of one instrument; in hedge mode each side is a holding of its
own. Quantities are signed: in net mode what is long is positive, in hedge mode what is held. Times are seconds on one
scale that never goes back, set to UTC at the start, so that executions can be held against reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from exitfsm.choices import NO_CHOICES, Choices
from exitfsm.order_ids import looks_like_exit
from exitfsm.values import ZERO, BrokerPosition, Fill, Side

#: A time before everything.
BEFORE = float("-inf")


class Key(msgspec.Struct, frozen=True):
    """A holding: `side` is None in net mode; `account` is None where the broker names none."""

    account: str | None
    symbol: str
    side: Side | None = None


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an instrument and of the books that show it. Every default is the careful one.

    Attributes:
        step, least, least_value: quantities are whole steps, at least so many, worth at least so much.
        multiplier: what one unit of quantity is of the price.
        fee_max: the share of a purchase that the venue may keep in the asset itself.
        hedge, reduce_only, reserves: both sides are held at once; an order for more than is held is refused; what a
            working order is to sell is taken from what is available.
        lag_s: how far behind a read of positions may be. `executions_late_s`: how late an execution may be listed.
            `late_fill_s`: how long after its end an order may fill.
        reads_min: reads in a row that count as a second witness; each begins `gap_s` after the one before.
        absent_s, empty_s: how long a row that is merely absent, or an empty list, must last.
        growth_reads, growth_s: the same for more than is expected, while nothing else says so.
        changes_max: after so many values in turn a person is told.
    """

    step: Decimal = ZERO
    least: Decimal = ZERO
    least_value: Decimal = ZERO
    multiplier: Decimal = Decimal(1)
    fee_max: Decimal = ZERO
    hedge: bool = False
    reduce_only: bool = False
    reserves: bool = False
    lag_s: float = 10.0
    executions_late_s: float = 30.0
    late_fill_s: float = 5.0
    reads_min: int = 3
    gap_s: float = 2.0
    absent_s: float = 30.0
    empty_s: float = 300.0
    growth_reads: int = 10
    growth_s: float = 120.0
    changes_max: int = 12


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of the broker to the question what is held: it shows a moment between `begin - lag` and `end`.

    `unreadable`: symbols of rows that could not be read; empty text for one that does not even name its symbol.
    """

    rows: tuple[BrokerPosition, ...]
    begin: float
    end: float
    unreadable: frozenset[str] = frozenset()


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """No answer."""

    begin: float
    end: float
    why: str = ""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """An exit order of ours.

    Attributes:
        qty, cum: what it is for, and what it has filled as far as is known; positive.
        sent: when it was sent. `ended`: when its end was reported; None while it may work. `read`: when the newest
            look-up of its record began.
        dead: it never existed at the venue, so that nothing can follow.
    """

    order_id: str
    qty: Decimal
    sent: float
    cum: Decimal = ZERO
    ended: float | None = None
    read: float = BEFORE
    broker_order_id: str | None = None
    dead: bool = False

    def is_final(self, late_fill_s: float) -> bool:
        """True once its record was asked for after the last moment at which it could fill."""
        return self.dead or (self.ended is not None and self.read > self.ended + late_fill_s)


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """A position that is watched: `qty` less what its orders filled and less `external` is what is left of it.

    `price`: the last accepted price in the position's unit; None where there is none. `wanted`: when its exit was
    decided; None while it is monitored.
    """

    name: str
    side: Side
    qty: Decimal
    entry: Decimal
    opened: float
    orders: tuple[Placed, ...] = ()
    external: Decimal = ZERO
    price: Decimal | None = None
    wanted: float | None = None

    @property
    def sold(self) -> Decimal:
        """What our orders have sold of it."""
        return sum((order.cum for order in self.orders), ZERO)

    @property
    def left(self) -> Decimal:
        """What is still to sell."""
        return self.qty - self.external - self.sold


class Run(msgspec.Struct, frozen=True):
    """Equal reads in a row: what they show, what was expected, how many, and when the first and the last began."""

    qty: Decimal
    expected: tuple[Decimal, Decimal]
    said: str
    reads: int
    first: float
    last: float


class Change(msgspec.Struct, frozen=True):
    """What we expect of the account changed by `qty` (signed), as learned at `at`."""

    qty: Decimal
    at: float


class Rescaled(msgspec.Struct, frozen=True):
    """The unit changed: executions before `at` count `factor` times."""

    at: float
    factor: Decimal


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a holding from one read to the next: handed in and handed back.

    Attributes:
        changes: what changed the expectation lately. `confirmed`: since our last sale a read has shown exactly it.
        run, runs: equal reads in a row that deviate, and how many different ones there were.
        horizon, booked: executions up to this time are history, and so are these that are younger.
        units, unit_at: changes of the unit, and when the newest one was concluded.
        born: when this life began, where it knows nothing of what was before; BEFORE otherwise.
        refused: when an order was refused as more than is held.
        empty, naming, unshown, flat: since when the list is empty, a name is awaited, an execution is not shown, and
            nothing is held while an order has no record; BEFORE where that is not so.
        odd: equal reads whose average alone is another.
        ended: names of positions that are over. `others`: executions of exits under our prefix that are nobody's.
        raised: the alarms that stand. `failed`: reads in a row without an answer.
        foreign: what lay there beside ours, as last settled; `early`, `early_ids`: what was taken up before that.
    """

    changes: tuple[Change, ...] = ()
    confirmed: bool = True
    run: Run | None = None
    runs: int = 0
    horizon: float = BEFORE
    booked: frozenset[str] = frozenset()
    units: tuple[Rescaled, ...] = ()
    unit_at: float = BEFORE
    born: float = BEFORE
    refused: float = BEFORE
    empty: float = BEFORE
    naming: float = BEFORE
    unshown: float = BEFORE
    flat: float = BEFORE
    odd: Run | None = None
    ended: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    raised: frozenset[str] = frozenset()
    failed: int = 0
    foreign: Decimal | None = None
    early: Decimal = ZERO
    early_ids: frozenset[str] = frozenset()


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What of an account is ours.

    Attributes:
        symbols: these alone; none means all. `ignore`: not these.
        ids: what orders with these prefixes bought is ours; none means all that the account holds.
        handed: only what the bot hands over is ours.
        exit_prefix: how the ids of this scope's exits begin. `mark`: what tells them from those of other scopes of the
            account; empty where all of it is ours.
        choices: what a person has said of single symbols, which counts before all that.
    """

    symbols: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    ids: tuple[str, ...] = ()
    handed: bool = False
    exit_prefix: str = "xf1-"
    mark: str = ""
    choices: Choices = NO_CHOICES

    def is_exit(self, order_id: str) -> bool:
        """True for the id of an exit of this scope, or of what looks like one of ours."""
        return looks_like_exit(order_id, self.mark) or (not self.mark and order_id.startswith(self.exit_prefix))

    @property
    def by_ids(self) -> bool:
        """True where only what certain orders bought is ours."""
        return bool(self.ids) or self.handed


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a holding when a read is weighed.

    Attributes:
        key, instrument, scope: what is looked at, and how.
        read: the read, or that there was no answer.
        watched: the holding's open positions, oldest first.
        executions: the account's executions, oldest first; None where the broker lists none, `Failed` where they could
            not be read: that is no statement about anything.
        reported: executions that order updates have reported; asked where none are listed.
        price: the last accepted price.
        next_ids_known: the broker was asked for the next order of each position: nobody else has sent it.
        exit_began: when the exit of the holding's newest ended position was decided; None where there is none.
        works: True, False: the broker lists an exit order of ours as working, or none; None where it was not asked.
    """

    key: Key
    instrument: Instrument
    read: Read | Failed
    scope: Scope = Scope()
    watched: tuple[Watched, ...] = ()
    executions: tuple[Fill, ...] | Failed | None = None
    reported: tuple[Fill, ...] = ()
    price: Decimal | None = None
    next_ids_known: bool = False
    exit_began: float | None = None
    works: bool | None = None


# --- conclusions ------------------------------------------------------------------------------------------------------


class Needed(msgspec.Struct, frozen=True):
    """Nothing is concluded before this was asked: reads, executions, record, next_id; within `gap_s`."""

    what: str
    of: str = ""


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """Watch it. `first` is the broker's time of the fill that opened it; None where only its price can name it."""

    side: Side
    qty: Decimal
    entry: Decimal
    name: str
    first: float | None = None


class Resized(msgspec.Struct, frozen=True, kw_only=True):
    """So much of the position is left to sell, at this average entry."""

    position: str
    left: Decimal
    entry: Decimal
    why: str
    external: Decimal = ZERO


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """The unit changed: quantity times `factor`, every level and price divided by it."""

    position: str
    factor: Decimal
    left: Decimal
    entry: Decimal


class ClosedBy(msgspec.Struct, frozen=True):
    """It is over without us. `how`: external, residue, reversed, vanished, other_exit, unresolved."""

    position: str
    how: str
    qty: Decimal


class Flat(msgspec.Struct, frozen=True):
    """The proof that a sold position is flat."""

    position: str


class Shrink(msgspec.Struct, frozen=True):
    """Its working order could sell more than is there."""

    position: str


class Reported(msgspec.Struct, frozen=True):
    """What executions under our own id prove of an order whose record lacks it."""

    order_id: str
    cum: Decimal
    average: Decimal | None


class Raise(msgspec.Struct, frozen=True):
    """A person must look; `figures` is what they will want to know."""

    kind: str
    figures: Mapping[str, str] = {}


class Calm(msgspec.Struct, frozen=True):
    """That alarm has resolved itself."""

    kind: str


Concluded = Needed | Adopted | Resized | Unit | ClosedBy | Flat | Shrink | Reported | Raise | Calm
#: What was concluded, in order, and what is to be remembered.
Answer = tuple[tuple[Concluded, ...], Memory]
