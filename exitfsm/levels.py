"""The armed prices of every position: what makes a quiet bar cheap.

For each symbol there is one band of floats. A bar whose lowest and highest price lie strictly inside it can change
nothing for any position of the symbol: no level is breached, no stop moves, no price is beyond belief. That is two
comparisons, whatever else is held. Everything outside is decided exactly, on decimals, by `position.decide`; the band
may be too narrow (it then wakes for nothing), never too wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise

from exitfsm.kinds import AlarmKind, BarRefusal
from exitfsm.lifecycle import State
from exitfsm.messages import RaiseAlarm
from exitfsm.policy import AHEAD_MAX, Fault, PriceGuard, age_max, bar_fault
from exitfsm.position import NO_STATES, Judged, Position, RuleStates, fold_bar, judged, new_in, wake_band, whole
from exitfsm.values import EXACT, Bar, CheckedBar, Side, plain

_NEVER = datetime.max.replace(tzinfo=UTC)
_BEFORE = datetime.min.replace(tzinfo=UTC)
_DAY = timedelta(days=1)
#: One object for all slots that have seen no bar yet.
_LOWEST = -math.inf
#: The jump guard as a band round an anchor is narrowed by this, so that rounding can only wake too early.
_NARROWER = 1 - 1e-9
#: One object for all slots in which no rule folds bars.
_NOTHING: Mapping[str, RuleStates] = {}
#: Stands for the last bar where there is none.
_NO_BAR = CheckedBar("", _BEFORE, "NaN", "NaN", "NaN", "NaN")


#: Of a bar that was seen before a restart, nobody knows what was judged: only a close can be new in it.
_ALL = (Decimal(0), Decimal("Infinity"))


@lru_cache(maxsize=64)
def _age_max(guard: PriceGuard, length: timedelta | None) -> timedelta:
    """One object for equal spans, however many symbols have them."""
    return age_max(guard, length)


def _any_monitored(positions: tuple[Position, ...]) -> bool:
    return any(p.state is State.MONITORING for p in positions)


class Slot:
    """All that concerns one symbol's bars.

    Attributes:
        lower, upper: the quiet band; NaN wakes for every bar.
        low, high: a bar with `low < floor`, a timestamp after that of `last` and `ceiling <= high or rises(ceiling)`
            is quiet, and then `last` is all that has to be set; `low` is NaN where that is not enough.
        until: when time alone wakes the symbol.
        busy: a position of the symbol is on its way out, so that time and the broker matter to it.
        max_age: how old a bar may be when it arrives, where age counts.
        last: the last accepted bar, or a bar of long ago where there is none; of one that forms, what was new last.
        judged: what was judged of the last bar of which more than one look came.
        length: how long the bars of the symbol are; None where that is not known.
        shut_since: since when the market is closed, where nothing is decided then; None while it is open.
        repeats: how often a look came that was not old and said nothing new.
        repeated: the time of the last bar of which a look said nothing new.
        seen_to: bars up to this time were looked at before a restart.
        began: when the first bar came that was not newer than that; bars dated later are new ones.
        reference: the last accepted price as given with a position, until a bar brings a newer one.
        highest: highest price seen since the oldest position opened, for the read model.
        positions: the open positions of the symbol.
        folded: the states of the rules that fold each bar, by the position's id; empty where no rule does.
    """

    __slots__ = (
        "began",
        "busy",
        "folded",
        "high",
        "highest",
        "judged",
        "last",
        "late",
        "length",
        "low",
        "lower",
        "max_age",
        "positions",
        "reference",
        "repeated",
        "repeats",
        "seen_to",
        "shut_since",
        "until",
        "upper",
    )

    def __init__(self, length: timedelta | None = None) -> None:
        self.low = self.high = self.lower = self.upper = math.nan
        self.until = _NEVER
        self.busy = False
        self.max_age = timedelta.max
        self.last: Bar = _NO_BAR
        self.judged: Judged | None = None
        self.length = length
        self.shut_since: datetime | None = None
        self.repeats = 0
        self.repeated: datetime | None = None
        #: Times of the newest bars that came late or formed.
        self.late: tuple[datetime, ...] = ()
        self.seen_to = _BEFORE
        self.began: datetime | None = None
        self.reference: Decimal | None = None
        self.highest = _LOWEST
        self.positions: tuple[Position, ...] = ()
        self.folded: Mapping[str, RuleStates] = _NOTHING

    @property
    def last_bar(self) -> Bar | None:
        """The last accepted bar; None before there is one."""
        return self.last if self.last is not _NO_BAR else None

    @property
    def reference_price(self) -> Decimal | None:
        """The last accepted price; None before there is one."""
        return self.last.close if self.last is not _NO_BAR else self.reference

    @property
    def last_at(self) -> datetime:
        """Only bars after this time are new."""
        return max(self.seen_to, self.last.timestamp)

    @property
    def previous_at(self) -> datetime | None:
        """Timestamp of the last accepted bar; None before there is one."""
        at = self.last_at
        return at if at is not _BEFORE else None

    @property
    def heard(self) -> tuple[datetime | None, Bar, int, datetime | None]:
        """What was heard last: it differs with each bar that is believed, each look, and each opening and close."""
        return self.previous_at, self.last, self.repeats, self.shut_since

    def silent(self, p: Position, silence_s: float, at: datetime) -> RaiseAlarm:
        """The alarm of a position for which nothing was heard for so long, with the reason."""
        again = self.repeated is not None and self.repeated == self.previous_at
        why = p.refusing or (BarRefusal.ALREADY_SEEN if again else None)
        refused = f" (they come, and are refused: {why})" if why else ""
        text = f"no bar of {p.symbol} for {silence_s:.0f} s{refused}: its levels are not being watched"
        return RaiseAlarm(at=at, kind=AlarmKind.FEED_SILENT, text=text)

    def hold(self, p: Position) -> bool:
        """The position is among the symbol's, in place of what it was before; True where it is new among others."""
        if len(self.positions) <= 1 and all(other.position_id == p.position_id for other in self.positions):
            self.positions = (p,)
            return False
        known = [other.position_id for other in self.positions]
        place = known.index(p.position_id) if p.position_id in known else len(known)
        self.positions = (*self.positions[:place], p, *self.positions[place + 1 :])
        return place == len(known)

    def fold(self, bar: Bar) -> None:
        """Fold a bar that was accepted, and was not quiet, into the states of the rules that want it."""
        folding = [p for p in self.positions if p.policy.plan.folding]
        if folding:
            seen = whole(bar, self.judged)
            self.folded = {p.position_id: fold_bar(p, seen, self.folded_of(p)) for p in folding}

    def folded_of(self, p: Position) -> RuleStates:
        """The states of a position's rules."""
        return self.folded.get(p.position_id, NO_STATES)

    def refold(self, p: Position, states: RuleStates) -> None:
        """Take up the states of a position's rules where they were left."""
        self.folded = {**self.folded, p.position_id: states}

    def accept(self, bar: Bar) -> None:
        """`bar` is the newest that is believed."""
        self.last, self.reference = bar, None
        self.highest = max(self.highest, bar.ceiling)
        self.ease()

    def take(self, bar: Bar) -> None:
        """Accept a bar that was not quiet, or what is new in a later look at one."""
        if bar.timestamp == self.last_at:
            self._take_look(bar)
        else:
            self.accept(bar)
        self.fold(bar)

    def look_at(self, bar: Bar, received_at: datetime | None) -> tuple[Bar, datetime | None, bool]:
        """What of a bar is judged, the time of the bar before it, and whether it is a later look at the newest one."""
        if self.is_look(bar, received_at):
            return self._new_in_look(bar) or bar, None, True
        return bar, self.previous_at, False

    def is_look(self, bar: Bar, received_at: datetime | None) -> bool:
        """True for a later look at the newest bar. A bar without an arrival is whole: the same one is a repetition."""
        return received_at is not None and bar.timestamp == self.last_at

    def new_in(self, bar: Bar, received_at: datetime | None) -> Bar | None:
        """What is new in a bar; None where nothing is: the same look again, or a bar seen before a restart."""
        if self.is_look(bar, received_at):
            return self._new_in_look(bar)
        if received_at is None or bar.timestamp >= self.seen_to:
            return bar
        # A clock that was ahead before the restart dated what was seen too late: bars of since then are new.
        self.began = self.began or received_at
        is_ahead = self.seen_to - received_at > self.max_age
        return bar if is_ahead or bar.timestamp > self.began else None

    def _new_in_look(self, look: Bar) -> Bar | None:
        if self.last.timestamp != look.timestamp and look.close == self.reference:
            return None  # as far as is known after a restart, it is the very same
        return new_in(look, self._judged_of(look))

    def _judged_of(self, look: Bar) -> Judged:
        """What was judged of the newest bar before this look."""
        if self.judged is not None and self.judged.at == look.timestamp:
            return self.judged
        if self.last.timestamp == look.timestamp:
            return judged(self.last)
        return Judged(look.timestamp, *_ALL, look.close, Decimal(-1))

    def _take_look(self, new: Bar) -> None:
        self.judged = judged(new, self._judged_of(new))
        self.last, self.reference = new, None
        self.highest = max(self.highest, new.ceiling)
        self.learn(new.timestamp)
        self.ease()

    def learn(self, at: datetime) -> bool:
        """Learn how long bars are, of three in a row that are equally far apart; True where that is news.

        Only where a bar forms or comes late does it matter; `at` is of a bar that does.
        """
        self.late = times = tuple(sorted({*self.late, at})[-3:])
        gaps = {after - before for before, after in pairwise(times)}
        if len(times) < 3 or len(gaps) > 1 or (self.length is not None and self.length <= min(gaps)):
            return False
        self.length = gaps.pop()
        self.note_age_and_exits()
        return True

    def shut(self, since: datetime | None) -> None:
        """The market is closed since then, or open (None): bars that began later decide nothing while it is closed."""
        self.shut_since = since

    def is_shut_for(self, bar: Bar) -> bool:
        """True when no part of a bar lies in a session; a bar of a day or more always has one."""
        if self.shut_since is None or (self.length is not None and self.length >= _DAY):
            return False
        return bar.timestamp >= self.shut_since

    def start_over(self, bar: Bar) -> None:
        """The symbol's prices begin anew at `bar`, as after a split: its high is the only one, nothing is folded."""
        self.folded = _NOTHING
        self.last, self.reference, self.highest, self.judged = bar, None, bar.ceiling, None
        self.arm()

    def rescale(self, factor: Decimal) -> None:
        """The unit changed: the last price is what it was, divided by `factor`."""

        def scaled(price: Decimal) -> Decimal:
            return EXACT.divide(price, factor)

        if self.last is _NO_BAR:
            self.reference = scaled(self.reference) if self.reference is not None else None
            self.folded = _NOTHING
            self.arm()
            return
        last, highest = self.last, self.highest / float(factor)
        o, h, lo, c = (scaled(price) for price in (last.open, last.high, last.low, last.close))
        self.start_over(Bar(last.symbol, last.timestamp, o, h, lo, c))
        self.highest = max(highest, self.highest)
        self.ease()

    def wake(self) -> None:
        """The short test does not count for the next bar."""
        self.low = math.nan

    def quiet(self, bar: Bar, received_at: datetime | None) -> bool:
        """True when the bar changes nothing: it is then accepted."""
        if (  # mostly only a new high made the short test fail
            self.low < bar.floor
            and self.high < bar.ceiling
            and self.last.timestamp < bar.timestamp
            and received_at is None
            and self.rises(bar.ceiling)
        ):
            self.last = bar
            return True
        if (
            self.lower < bar.floor
            and bar.ceiling < self.upper
            and self.last_at < bar.timestamp < self.until
            and (received_at is None or -AHEAD_MAX <= received_at - bar.timestamp <= self.max_age)
        ):
            self.accept(bar)
            return True
        return bar.timestamp <= self.last_at and self._quiet_again(bar, received_at)

    def _quiet_again(self, bar: Bar, received_at: datetime | None) -> bool:
        """True where a bar that is not newer than the last changes nothing: a later look at it, or one seen before."""
        new = self.new_in(bar, received_at)
        if new is None:
            self.repeated = bar.timestamp
            if received_at is not None and received_at - bar.timestamp <= self.max_age:
                self.repeats += 1
            return True
        if (
            received_at is None
            or not (self.is_look(bar, received_at) and new.timestamp < self.until)
            or not (self.lower < new.floor and new.ceiling < self.upper)
            or not -AHEAD_MAX <= received_at - new.timestamp <= self.max_age
        ):
            return False
        self._take_look(new)
        return True

    def fault(self, bar: Bar, received_at: datetime | None, reference: Decimal | None) -> Fault | None:
        """Why the bar is not believed by at least one position of the symbol; None when all believe it.

        A bar that comes late may be one of long bars: then it is judged once more by how long they are.

        Args:
            bar, received_at: the bar, and when it arrived.
            reference: the price that it is held against; None leaves the jump guard out.
        """
        new, previous_at, _ = self.look_at(bar, received_at)
        fault = self._fault(new, received_at, reference, previous_at)
        if fault is not None and fault.reason is BarRefusal.STALE and self.learn(bar.timestamp):
            fault = self._fault(new, received_at, reference, previous_at)
        if fault is None and self.is_shut_for(bar):
            return Fault(BarRefusal.OUT_OF_SESSION, plain(bar.close)) if _any_monitored(self.positions) else None
        return fault

    def _fault(
        self, bar: Bar, received_at: datetime | None, reference: Decimal | None, previous_at: datetime | None
    ) -> Fault | None:
        asked = None
        for p in self.positions:
            guard = p.policy.price_guard
            if guard is asked:  # mostly all have the same
                continue
            asked = guard
            fault = bar_fault(
                bar, guard, reference=reference, previous_at=previous_at, received_at=received_at, length=self.length
            )
            if fault is not None:
                return fault
        return None

    def ease(self) -> None:
        """Say whether the short test is enough; to be called after whatever it depends on has changed."""
        ask = self.busy or self.until is not _NEVER or self.last is _NO_BAR or self.seen_to > self.last.timestamp
        self.low = math.nan if ask else self.lower
        self.high = min(math.nextafter(self.upper, 0.0), self.highest)

    def rises(self, ceiling: float) -> bool:
        """True when a new high is still inside the band; it is then taken note of: to be asked last."""
        if ceiling < self.upper:
            self.highest = self.high = ceiling
            return True
        return False

    def arm(self) -> None:
        """Compute the band anew from the positions, the time and the last accepted price."""
        at = self.previous_at or min((p.opened_at for p in self.positions), default=_BEFORE)
        lower, upper, until = _LOWEST, math.inf, _NEVER
        guard_ratio: Decimal | None = None
        self.note_age_and_exits()
        for p in self.positions:
            band = wake_band(p, at)
            if band is None:
                self.wake_for_all()
                return
            if band.lower is not None:
                lower = max(lower, float(band.lower))
            if band.upper is not None:
                upper = min(upper, float(band.upper))
            if band.until is not None:
                until = min(until, band.until)
            guard = p.policy.price_guard
            if guard.enabled and (guard_ratio is None or guard.max_jump_ratio < guard_ratio):
                guard_ratio = guard.max_jump_ratio
        if guard_ratio is not None:
            reference = self.reference_price
            if reference is None:
                self.wake_for_all()
                return
            # Two prices within a factor of sqrt(ratio) of one anchor are within ratio of each other.
            anchor, reach = float(reference), math.sqrt(float(guard_ratio)) * _NARROWER
            lower, upper = max(lower, anchor / reach), min(upper, anchor * reach)
        self.lower, self.upper, self.until = lower, upper, until
        self.ease()

    def arm_beside(self, p: Position) -> None:
        """Narrow the band, which is that of the others, by a position that is new: the others need not be asked.

        It may be narrower than `arm` makes it, never wider. The last accepted price must be what it was for the others.
        """
        guard, reference = p.policy.price_guard, self.reference_price
        if math.isnan(self.lower) or (guard.enabled and reference is None):
            self.arm()
            return
        band = wake_band(p, self.previous_at or min(other.opened_at for other in self.positions))
        if band is None:
            self.note_age_and_exits()
            self.wake_for_all()
            return
        if band.lower is not None:
            self.lower = max(self.lower, float(band.lower))
        if band.upper is not None:
            self.upper = min(self.upper, float(band.upper))
        if band.until is not None:
            self.until = min(self.until, band.until)
        if guard.enabled and reference is not None:
            anchor, reach = float(reference), math.sqrt(float(guard.max_jump_ratio)) * _NARROWER
            self.lower, self.upper = max(self.lower, anchor / reach), min(self.upper, anchor * reach)
        self.busy = self.busy or p.state is not State.MONITORING
        self.max_age = min(self.max_age, _age_max(guard, self.length))
        self.ease()

    def note_age_and_exits(self) -> None:
        """How old a bar may be for the strictest of the positions, and whether one is on its way out."""
        busy, oldest = False, None
        for p in self.positions:
            guard = p.policy.price_guard
            oldest = guard if oldest is None or guard.max_age_seconds < oldest.max_age_seconds else oldest
            busy = busy or p.state is not State.MONITORING
        self.busy, self.max_age = busy, timedelta.max if oldest is None else _age_max(oldest, self.length)

    def wake_for_all(self) -> None:
        """No bar is quiet, until the band is computed anew."""
        self.low = self.high = self.lower = self.upper = math.nan


class Levels:
    """The slots of all symbols in which something is open."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self._length: timedelta | None = None

    def expect(self, seconds: int) -> None:
        """Take bars to be so long; 0 learns it of them."""
        self._length = timedelta(seconds=seconds) if seconds else None

    def put(self, p: Position, *, reference: Decimal | None = None, bar: Bar | None = None, armed: bool = True) -> None:
        """Arm a position: a new one (with the price or the bar it starts from), or one that changed.

        A terminal position is taken out, and its symbol with it when it was the last. What is not `armed` yet wakes for
        every bar until its slot is: for whoever arms it in a moment anyway.
        """
        if p.state.terminal:
            self.drop(p)
            return
        slot = self.slots.get(p.symbol)
        new = slot is None
        if slot is None:
            slot = self.slots[p.symbol] = Slot(self._length)
        before = slot.reference_price
        if bar is not None:
            slot.accept(bar)
            if new:
                slot.highest = float(bar.close)  # what the bar reached before its close was before the entry
        elif reference is not None and slot.last is _NO_BAR:
            slot.reference = reference
        is_beside = slot.hold(p)
        if not armed:
            slot.wake_for_all()
        elif is_beside and bar is None and slot.reference_price == before:
            slot.arm_beside(p)
        else:
            slot.arm()

    def restore(self, p: Position, *, reference: Decimal | None, seen_at: datetime | None) -> None:
        """Take an open position up again after a restart. Its symbol is not armed: the first bar wakes it, and arms it.

        Args:
            p: the position.
            reference: the last known price of its symbol, where there is one.
            seen_at: up to when bars were looked at: they must not meet what came of them once more.
        """
        slot = self.slots.get(p.symbol)
        if slot is None:
            slot = self.slots[p.symbol] = Slot(self._length)
        slot.wake_for_all()
        if reference is not None and slot.last is _NO_BAR:
            slot.reference = reference
        for at in (p.stops.moved_at, seen_at):
            if at is not None and at > slot.last_at:
                slot.seen_to = at
        slot.hold(p)
        slot.note_age_and_exits()

    def drop(self, p: Position) -> None:
        """Forget a position."""
        slot = self.slots.get(p.symbol)
        if slot is None:
            return
        slot.positions = tuple(other for other in slot.positions if other.position_id != p.position_id)
        if slot.positions:
            slot.arm()
        else:
            del self.slots[p.symbol]

    def sides(self, symbol: str) -> set[Side]:
        """The sides on which something of a symbol is open."""
        slot = self.slots.get(symbol)
        return {p.side for p in slot.positions} if slot is not None else set()

    def watched(self, symbol: str) -> bool:
        """True when a position of the symbol is monitored."""
        slot = self.slots.get(symbol)
        return slot is not None and _any_monitored(slot.positions)

    def holding(self, symbol: str) -> list[Position]:
        """The open positions of a symbol, of either side, oldest first."""
        slot = self.slots.get(symbol)
        return sorted(slot.positions, key=lambda p: (p.opened_at, p.position_id)) if slot is not None else []

    def last_at(self, symbol: str) -> datetime | None:
        """The time of the last accepted bar of a symbol; None when there is none."""
        slot = self.slots.get(symbol)
        return slot.previous_at if slot is not None else None

    def rescale(self, symbol: str, factor: Decimal) -> None:
        """The unit of a symbol changed by `factor`: its last price is held against the next in the new one."""
        slot = self.slots.get(symbol)
        if slot is not None:
            slot.rescale(factor)
