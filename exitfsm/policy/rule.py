"""What a rule is: one section of the policy, with everything that the rest of the library asks of it.

Rules of this room: a rule is one object in a file of its own, and stands in `RULES`. It says what its settings are,
where its levels are, when it is due, in which band bars are quiet for it, and what is said of it. Nothing outside its
file names it. What a rule does not say has the default here: it does nothing.

A rule is asked about a position that is held, and depends on its arguments only. What it must remember beside the log
(a sum, a highest price) is its folded state: a frozen struct that `fold` makes of the one before and a bar. It is kept
in memory and saved with the marks; where it is lost, it is folded from bars again. The log needs none of it: the
decision to exit records its own evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar, cast

import msgspec

from exitfsm.policy.prices import Level
from exitfsm.policy.settings import Section
from exitfsm.values import Bar, ExitType, OrderType, Side, TimeInForce, plain

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy

#: The folded states of one position, by the name of the rule.
Folded = Mapping[str, msgspec.Struct]
NOTHING_FOLDED: Folded = MappingProxyType({})
#: Settings that are right by themselves and wrong together: the paths concerned, the one to report first.
Conflict = tuple[list[tuple[str | int, ...]], str]
#: A level nearer than this, in percent of a price, is probably not meant.
NEAR_PCT = Decimal("0.1")
_Settings = TypeVar("_Settings", bound=Section)


class Moved(Protocol):
    """The stops of a position that have moved: where each is by its last `StopMoved`; None before the first."""

    @property
    def break_even(self) -> Decimal | None:
        """The stop at the entry."""

    @property
    def trail(self) -> Decimal | None:
        """The stop that follows."""


class Sold(Protocol):
    """What of a position was sold in parts."""

    @property
    def done(self) -> int:
        """The index of the highest target sold, from 1; 0 before the first."""


class Held(Protocol):
    """What a rule sees of a position."""

    @property
    def policy(self) -> ExitPolicy:
        """All settings that apply to it."""

    @property
    def side(self) -> Side:
        """Long or short."""

    @property
    def entry_price(self) -> Decimal:
        """Average price of the entry."""

    @property
    def opened_at(self) -> datetime:
        """When it was entered."""

    @property
    def atr(self) -> Decimal | None:
        """Average true range at the entry, where it is known."""

    @property
    def stops(self) -> Moved:
        """The stops that have moved."""

    @property
    def parts(self) -> Sold:
        """What was sold in parts."""


class UserRule(NamedTuple):
    """A function of the user's that a policy names, and the section that names it."""

    name: str
    version: str
    section: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class OrderTerms(NamedTuple):
    """How the order of an exit is to be, as far as the venue takes it."""

    order_type: OrderType
    time_in_force: TimeInForce


def held_s(p: Held, at: datetime) -> float:
    """Seconds since the entry."""
    return (at - p.opened_at).total_seconds()


class Rule(Generic[_Settings]):
    """One rule. A subclass overrides what it has something to say to.

    Attributes:
        name: the name of its section, in the policy and in the configuration file.
        section: the struct of its settings.
        reason: why a position is exited that it ends; the order of `ExitType` is the order of precedence.
        noun: what its level is called; empty where it has no name of its own.
        price_side: where its section may name the level as a `price`: on which side of the entry that lies, +1 towards
            a profit and -1 towards a loss; 0 where it may not.
        label: recorded as the detail of its exits, where the reason alone does not say which rule it was.
        stands_in_for: the rules whose levels it sets where it is on.
        sole_target: while it is on, no other rule sets a target.
        every_bar: bars are never quiet while it is on.
        needs_session: it asks when the session ends.
        state: the struct that it folds bars into; None where it needs none.
    """

    name: ClassVar[str]
    section: type[_Settings]
    reason: ClassVar[ExitType]
    noun: ClassVar[str] = ""
    price_side: ClassVar[int] = 0
    label: ClassVar[str] = ""
    stands_in_for: ClassVar[tuple[str, ...]] = ()
    sole_target: ClassVar[bool] = False
    every_bar: ClassVar[bool] = False
    needs_session: ClassVar[bool] = False
    state: ClassVar[type[msgspec.Struct] | None] = None

    def of(self, policy: ExitPolicy) -> _Settings:
        """Its settings in a policy."""
        return cast("_Settings", policy.section(self.name))

    def on(self, policy: ExitPolicy) -> bool:
        """Whether it is on."""
        return bool(getattr(self.of(policy), "enabled"))  # noqa: B009  # each rule's section has it

    # --- levels -------------------------------------------------------------------------------------------------------

    def target(self, p: Held, at: datetime) -> Level | None:
        """The profit target. Of several rules the first in `RULES` that has one sets it."""
        return None

    def parts_reached(self, p: Held, best: Decimal) -> int | None:
        """The index, from 1, of the highest target that `best` reaches and that has not sold; None: there is none."""
        return None

    def shares(self, p: Held, index: int) -> Sequence[Decimal] | None:
        """What the parts up to this one sell that are not sold yet, in percent; None where that is all of it."""
        return None

    def stop_after(self, p: Held, index: int) -> Level | None:
        """Where the break-even stop is at least, once the parts up to this one are sold; None where it stays."""
        return None

    def entry_stop(self, p: Held) -> Level | None:
        """The stop that counts from the entry on. Of several rules the first in `RULES` that has one sets it."""
        return None

    def stop(self, p: Held, at: datetime, folded: Folded) -> Level | None:
        """A stop beside the others: each counts. `folded` holds its state where it has one."""
        return None

    def moved_stop(self, p: Held) -> Level | None:
        """Its stop that has moved, by the log: it counts even where the rule was switched off since."""
        return None

    def next_stop(self, p: Held, best: Decimal) -> Decimal | None:
        """Where it moves its stop when the best price is `best`; None where it does not."""
        return None

    def next_stop_at(self, p: Held) -> Decimal | None:
        """A price short of which `next_stop` has nothing. None: there is none."""
        return None

    def loosens(self, standing: Decimal, stop: Decimal, sign: int) -> bool:
        """True where a stop may not move from `standing` to `stop`."""
        return not (stop - standing) * sign > 0

    def fold(self, state: Any, p: Held, bar: Bar) -> Any:
        """Its state after an accepted bar; `state` is None before the first."""
        return state

    # --- time ---------------------------------------------------------------------------------------------------------

    def due(self, p: Held, at: datetime, session_close: datetime | None) -> bool:
        """True when time alone ends the position."""
        return False

    def due_at(self, p: Held) -> datetime | None:
        """When it comes due, where that is known from the entry."""
        return None

    def next_change_s(self, p: Held, at: datetime) -> int | None:
        """Seconds since the entry at which time alone next changes something after `at`; None when it does not."""
        return None

    # --- orders, entries, the user's functions ------------------------------------------------------------------------

    def orders(self, reason: ExitType) -> bool:
        """True where it says how the order of an exit for this reason is to be. Of several rules the first does."""
        return False

    def terms(self, policy: ExitPolicy) -> OrderTerms:
        """How the orders are to be of which it says so."""
        raise NotImplementedError(f"{self.name} says nothing of orders")

    def bars_before_entry(self, policy: ExitPolicy) -> int:
        """How many bars up to the entry it needs."""
        return 0

    def user_rules(self, policy: ExitPolicy) -> Sequence[UserRule]:
        """The user's functions that it asks."""
        return ()

    # --- words --------------------------------------------------------------------------------------------------------

    def conflicts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        """Its settings that do not fit together."""
        return iter(())

    def doubts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        """What is allowed but probably not meant."""
        return iter(())

    def too_near(self, setting: str, pct: Decimal) -> Iterator[Conflict]:
        """A doubt about a distance that the spread alone may use up: a fraction was perhaps given for percent."""
        if pct < NEAR_PCT:
            meant = plain(pct * 100)
            text = (
                f"{plain(pct)} means {plain(pct)} %, nearer than many spreads; where {meant} % is meant, give {meant}"
            )
            yield [(self.name, setting)], text

    def brief(self, policy: ExitPolicy) -> str:
        """Its main figure, e.g. `stop 1 %`; empty where it has none."""
        return ""

    def alternatives(self, policy: ExitPolicy) -> Sequence[dict[str, str]]:
        """Changes of its settings that are worth a look after an exit."""
        return ()

    def begins_pct(self, p: Held) -> Decimal | None:
        """The profit in percent at which its stop begins to move; None where it has begun, or is off."""
        return None

    def watches(self, p: Held) -> str:
        """What is said of it where it has no level and has not ended the position; empty for nothing."""
        return ""

    def not_on_record(self, p: Held, *, watched: bool) -> str:
        """What of it the log does not say; empty where it says all. `watched`: the position is monitored."""
        return ""
