"""What a page tells of one position: its log, its levels over time, the bars around it, and what was checked.

Rules of this room: facts only, gathered once, from the store and the bars that are given; how they look is the business
of the other modules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import NamedTuple

from exitfsm.audit import Explanation, Invariants, Step, Violation, explain, trail
from exitfsm.audit.trail import last_of
from exitfsm.events import (
    ExitCompleted,
    ExitTriggered,
    FillsRecorded,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    StopMoved,
)
from exitfsm.lifecycle import LOOKUP, State
from exitfsm.policy import NOTHING_FOLDED, ORDER_FAULTS, Folded, bar_fault
from exitfsm.position import Position, RuleStates, fold_bars, levels
from exitfsm.store import ExitStore, checking
from exitfsm.values import Bar, exactly

#: Bars shown before the entry and after the end.
BARS_AROUND = 30
#: Most candles in a picture; more bars are drawn several to a candle.
CANDLES_MAX = 360
_ARMS = (PositionOpened, PositionResized, PolicyChanged, StopMoved, PositionReleased)


class Chain(NamedTuple):
    """What the hash chain of the whole store says: its length and head, and where it first does not hold."""

    events: int
    head: str
    broken_at: int | None


class Candle(NamedTuple):
    """One or several bars: when the first began, their prices, and how many they are."""

    at: datetime
    open: float
    high: float
    low: float
    close: float
    bars: int


class RefusedBar(NamedTuple):
    """A bar that the price guard or its own prices speak against."""

    at: datetime
    price: str
    reason: str


class Standing(NamedTuple):
    """The entry, the effective stop and the target from a time on; None where there is none, as during an exit."""

    at: datetime
    entry: Decimal | None = None
    stop: Decimal | None = None
    target: Decimal | None = None


class Story(NamedTuple):
    """Everything that a page shows.

    Attributes:
        steps: the log, event by event.
        sequences, hashes: place in the store and hash (hex) of each event.
        violations: invariants, or rows of the lifecycle, that do not hold.
        standing: the levels over time.
        candles: the accepted bars around the position; `bars` says how many they are.
        until: where the picture ends.
    """

    position: Position
    steps: list[Step]
    sequences: list[int]
    hashes: list[str]
    violations: list[Violation]
    explanation: Explanation
    standing: list[Standing]
    candles: list[Candle]
    refused: list[RefusedBar]
    bars: int
    until: datetime
    chain: Chain

    @property
    def trigger(self) -> ExitTriggered | None:
        """The decision to exit that stands; None without one."""
        step = last_of(self.steps, ExitTriggered) if self.position.reason is not None else None
        event = step.recorded.event if step is not None else None
        return event if isinstance(event, ExitTriggered) else None


def chain_of(store: ExitStore) -> Chain:
    """The chain of a store, checked whole: for many pages of one store, once."""
    sequence, head = store.chain_head()
    return Chain(sequence, head, store.verify_chain())


@exactly
def story_of(store: ExitStore, position_id: str, *, bars: Iterable[Bar] = (), chain: Chain | None = None) -> Story:
    """The story of a position.

    Args:
        store: where its log is.
        position_id: the position.
        bars: bars, in time order; those of other symbols are left alone.
        chain: what is known of the store's chain already.

    Raises:
        StoreError: the store has no such position.
    """
    told = trail(store, position_id)
    position = told[-1].after
    assert position is not None
    rows = list(checking.stored(store, position_id))
    until = _until(told, position)
    window = _Window(told, position, until)
    for bar in bars:
        if bar.symbol == position.symbol:
            window.add(bar)
    shown = window.bars()
    return Story(
        position=position,
        steps=told,
        sequences=[row.sequence for row in rows],
        hashes=[(row.hash or b"").hex() for row in rows],
        violations=_violations(told),
        explanation=explain(store, position_id, bars=[*shown, *window.newest_refused]),
        standing=_standing(told, until or _seen_to(told, position, shown), shown),
        candles=candles(shown),
        refused=window.refused,
        bars=len(shown),
        until=max([told[-1].at, *(bar.timestamp for bar in shown[-1:])]),
        chain=chain or chain_of(store),
    )


def _until(told: Sequence[Step], p: Position) -> datetime | None:
    """When it was over, with what came after it; None while it is not."""
    return max(told[-1].at, p.ended_at or told[-1].at) if p.state.terminal else None


def _seen_to(told: Sequence[Step], p: Position, bars: Sequence[Bar]) -> datetime:
    """Until when the levels of an open position are known: the last event, or the last bar that its rules fold."""
    return max([told[-1].at, *(bar.timestamp for bar in bars[-1:] if p.policy.plan.folding)])


def _violations(told: Sequence[Step]) -> list[Violation]:
    checks, found = Invariants(), []
    for s in told:
        if s.after is None:
            continue
        state = s.before.state if s.before is not None else None
        if (state, type(s.recorded.event)) not in LOOKUP:
            found.append(Violation("lifecycle", s.version, f"no transition in state {state}"))
        found += checks.check(s.before, s.recorded, s.after)
    return [*found, *checks.finish()]


def _standing(told: Sequence[Step], until: datetime, bars: Sequence[Bar]) -> list[Standing]:
    """The levels at every time at which they changed; while the position is not watched there are none."""
    found: list[list[Standing]] = []
    end = until
    for s in reversed(told):
        p = s.after
        watched = p is not None and p.state is State.MONITORING
        if watched and p is not None and isinstance(s.recorded.event, _ARMS):
            found.append(_stands(p, [s.at, *_change_times(p, s.at, end)], _folded(p, bars, s.at, end)))
            end = s.at
        elif s.moved and s.before is not None and s.before.state is State.MONITORING:
            found.append([Standing(s.at)])
            end = s.at
    return [standing for group in reversed(found) for standing in group]


def _folded(p: Position, bars: Sequence[Bar], since: datetime, until: datetime) -> list[RuleStates]:
    """What the rules had folded after each bar of a time; empty where no rule does."""
    if not p.policy.plan.folding:
        return []
    return [known for known in fold_bars(p, bars) if known.to is not None and since < known.to < until]


def _stands(p: Position, times: Iterable[datetime], folded: Sequence[RuleStates]) -> list[Standing]:
    """The levels at these times and after each of these states, each where it differs from the one before."""
    found: list[Standing] = []
    news: list[tuple[datetime, Folded | None]] = [(at, None) for at in times]
    news += [(known.to, known.states) for known in folded if known.to is not None]
    states: Folded = NOTHING_FOLDED
    for at, newer in sorted(news, key=itemgetter(0)):
        states = newer if newer is not None else states
        standing = _stand(p, at, states)
        if not found or (standing.stop, standing.target) != (found[-1].stop, found[-1].target):
            found.append(standing)
    return found


def _stand(p: Position, at: datetime, states: Folded) -> Standing:
    target, stops = levels(p, at, states)
    return Standing(at, p.entry_price, stops[0].price if stops else None, target.price if target else None)


def _change_times(p: Position, since: datetime, until: datetime) -> list[datetime]:
    """When time alone changes a level between two events."""
    found: list[datetime] = []
    for rule in p.policy.plan.changing:
        at = since
        while (after := rule.next_change_s(p, at)) is not None and (
            then := p.opened_at + timedelta(seconds=after)
        ) > at:
            at = then
            found.append(at)
    return sorted(at for at in found if since < at < until)


class _Window:
    """The bars around a position, in one pass: some before the entry, all while it was held, some after the end."""

    def __init__(self, told: Sequence[Step], p: Position, until: datetime | None) -> None:
        self.refused: list[RefusedBar] = []
        self.newest_refused: list[Bar] = []
        self._guard = p.policy.price_guard
        self._opened, self._until = p.opened_at, until
        self._resized = deque(s.at for s in told if isinstance(s.recorded.event, PositionResized))
        self._before: deque[Bar] = deque(maxlen=BARS_AROUND)
        self._held: list[Bar] = []
        self._after = 0
        self._reference: Decimal | None = None
        self._previous: datetime | None = None

    def add(self, bar: Bar) -> None:
        """The next bar of the symbol."""
        at = bar.timestamp
        if self._until is not None and at > self._until and self._after >= BARS_AROUND:
            return
        while self._resized and self._resized[0] <= at:
            self._resized.popleft()
            self._reference = None  # a split: the prices start over
        fault = bar_fault(bar, self._guard, reference=self._reference, previous_at=self._previous)
        if fault is not None:
            if at > self._opened and fault.reason not in ORDER_FAULTS:
                self.refused.append(RefusedBar(at, fault.price, fault.reason))
                self.newest_refused = [bar]
            return
        self._reference, self._previous = bar.close, at
        if at < self._opened:
            self._before.append(bar)
            return
        self._held.append(bar)
        self._after += self._until is not None and at > self._until

    def bars(self) -> list[Bar]:
        """The accepted bars."""
        return [*self._before, *self._held]


def candles(bars: Sequence[Bar], most: int = CANDLES_MAX) -> list[Candle]:
    """Bars as at most `most` candles, each of the same number of bars."""
    each = -(-len(bars) // most) or 1
    found = []
    for start in range(0, len(bars), each):
        part = bars[start : start + each]
        found.append(
            Candle(
                part[0].timestamp,
                float(part[0].open),
                max(bar.ceiling for bar in part),
                min(bar.floor for bar in part),
                float(part[-1].close),
                len(part),
            )
        )
    return found


def price_of(step: Step) -> Decimal | None:
    """The price that an event is about; None when it is about none."""
    e = step.recorded.event
    match e:
        case PositionOpened() | PositionResized() | PositionReleased():
            return e.entry_price
        case StopMoved():
            return e.stop
        case ExitTriggered():
            return e.trigger_price
        case FillsRecorded() | ExitCompleted():
            return e.avg_fill_price
        case PositionClosedElsewhere():
            return None
    return None
