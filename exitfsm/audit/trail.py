"""The log of a position, event by event, with what each event did and what it follows from; and the past.

Rules of this room: everything is read from the store and folded; nothing is kept. `before` and `after` are the position
around an event; both are None for events of the account's own stream, which are about no single position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches

import msgspec

from exitfsm.errors import StoreError
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    BreakerClosed,
    BreakerOpened,
    CancelRefused,
    CancelRequested,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitPostponed,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PolicyChanged,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    Recorded,
    RefusalEnded,
    StopMoved,
    TradingPaused,
    TradingResumed,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.lifecycle import NOTHING
from exitfsm.policy import is_jump
from exitfsm.position import SPLIT_RATIO, Position, evolve, fold, symbol_in
from exitfsm.profit import Ledger, Profit
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.store import ExitStore
from exitfsm.values import Alarm, ExitType, symbol_key
from exitfsm.words import in_words

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Step(msgspec.Struct, frozen=True):
    """One event of a stream, what it did, and the event of the same stream (its version) that it follows from.

    `profit` is what has come of the position with it; None for events of the account.
    """

    recorded: Recorded
    before: Position | None
    after: Position | None
    cause: int | None = None
    profit: Profit | None = None

    @property
    def version(self) -> int:
        """Place in the stream, from 1."""
        return self.recorded.version

    @property
    def at(self) -> datetime:
        """When the message that caused it happened."""
        return time_of(self.recorded)

    @property
    def moved(self) -> bool:
        """True when the state changed."""
        return self.after is not None and (self.before is None or self.before.state is not self.after.state)

    @property
    def words(self) -> str:
        """What happened and why."""
        return in_words(self.before, self.after, self.recorded.event, self.profit)

    @property
    def states(self) -> str:
        """The state, or the change of state; empty for events of the account."""
        if self.after is None:
            return ""
        before = str(self.before.state) if self.before is not None else NOTHING
        return f"{before} → {self.after.state}" if self.moved else str(self.after.state)


def time_of(recorded: Recorded) -> datetime:
    """When the message that caused an event happened, to the microsecond."""
    return _EPOCH + timedelta(microseconds=recorded.at_ns // 1000)


def steps(recorded: Iterable[Recorded]) -> list[Step]:
    """A stream, folded event by event."""
    made: list[Step] = []
    causes, ledger = Causes(), Ledger()
    p: Position | None = None
    for r in recorded:
        if r.stream_id.startswith(ACCOUNT_PREFIX):
            made.append(Step(r, None, None, causes.of(r)))
            continue
        before, p = p, evolve(p, r.event)
        ledger.add(before, r.event, p)
        made.append(Step(r, before, p, causes.of(r), ledger.profit()))
    return made


def trail(store: ExitStore, position_id: str) -> list[Step]:
    """The log of a position.

    Raises:
        StoreError: the store has no such position.
    """
    recorded = store.stream(position_id)
    if not recorded:
        raise StoreError(f"the store has no position {position_id!r}")
    return steps(recorded)


def find(store: ExitStore, wanted: str) -> list[str]:
    """The positions that a person means: an id or the start of one, a symbol, or the id of an exit order.

    Raises:
        StoreError: none, or the start of several.
    """
    rows = store.positions(symbol=symbol_key(wanted))
    if rows:
        return [row.position_id for row in rows]
    if store.stream(wanted, 0):
        return [wanted]
    order = store.exit_order(wanted)
    if order is not None:
        return [order.position_id]
    streams = [stream for stream in store.stream_ids() if not stream.startswith(ACCOUNT_PREFIX)]
    begin = [stream for stream in streams if stream.upper().startswith(wanted.upper())]
    if len(begin) == 1:
        return begin
    if begin:
        listed = "\n".join(begin[:10]) + ("\n…" if len(begin) > 10 else "")
        raise StoreError(f"{wanted!r} is the start of {len(begin)} positions: say which, or give the symbol\n{listed}")
    raise StoreError(f"the store has no position {wanted!r}; {_nearest(store, wanted, streams)}")


def _nearest(store: ExitStore, wanted: str, streams: Sequence[str]) -> str:
    """What somebody may have meant who named a position that there is not."""
    if not streams:
        return "it has none"
    symbols = [row.symbol for row in store.trackings()]
    symbol = symbol_key(symbol_in(wanted))
    of_symbol = [stream for stream in streams if symbol_in(stream) == symbol]
    close = get_close_matches(wanted, of_symbol or streams, 3, 0.6)
    if close:
        return "\n".join([f"the nearest {'is' if len(close) == 1 else 'are'}", *close])
    alike = get_close_matches(symbol, symbols, 3, 0.6)
    return f"it has {', '.join((alike or sorted(symbols))[:20])}{', …' if len(alike or symbols) > 20 else ''}"


# --- the past ---------------------------------------------------------------------------------------------------------


def until(recorded: Sequence[Recorded], at: datetime) -> Sequence[Recorded]:
    """The events that were recorded up to and at a time: what was known then.

    Where a clock was set back in between, all that stand before one that was recorded by then were recorded by then.
    """
    for index in range(len(recorded), 0, -1):
        if time_of(recorded[index - 1]) <= at:
            return recorded[:index]
    return ()


def position_at(store: ExitStore, position_id: str, at: datetime) -> Position | None:
    """A position as it was known at a time; None when it was not known yet.

    Args:
        at: aware; an event of that very moment counts.
    """
    return fold(None, (r.event for r in until(store.stream(position_id), at)))


def positions_at(store: ExitStore, at: datetime) -> list[Position]:
    """The positions that were known at a time, open and over, as they were known then, oldest first."""
    known = (position_at(store, stream, at) for stream in store.stream_ids() if not stream.startswith(ACCOUNT_PREFIX))
    return sorted((p for p in known if p is not None), key=lambda p: (p.opened_at, p.position_id))


def open_at(store: ExitStore, at: datetime) -> list[Position]:
    """The positions that were open at a time, as they were known then, oldest first."""
    return [p for p in positions_at(store, at) if not p.state.terminal]


def alarms_at(store: ExitStore, at: datetime, known: Iterable[Position]) -> list[tuple[str, Alarm]]:
    """The alarms that nobody had acknowledged at a time, oldest first, each with its stream.

    Args:
        known: the positions as they were known then.
    """
    found = [(p.position_id, alarm) for p in known for alarm in p.alarms]
    for stream in store.stream_ids():
        if not stream.startswith(ACCOUNT_PREFIX):
            continue
        active: dict[str, Alarm] = {}
        for r in until(store.stream(stream), at):
            match r.event:
                case AlarmRaised(alarm_id=alarm_id, kind=kind, text=text, at=raised_at):
                    active[alarm_id] = Alarm(alarm_id=alarm_id, kind=kind, text=text, raised_at=raised_at)
                case AlarmAcknowledged(alarm_id=alarm_id):
                    active.pop(alarm_id, None)
        found += [(stream, alarm) for alarm in active.values()]
    return sorted(found, key=lambda one: (one[1].raised_at, one[0], one[1].alarm_id))


class AccountAt(msgspec.Struct, frozen=True):
    """What was known of the whole account at a time: who paused it, and since when the breaker is open."""

    paused_since: datetime | None = None
    paused_by: str = ""
    paused_why: str = ""
    breaker_since: datetime | None = None


def account_at(store: ExitStore, account: str, at: datetime) -> AccountAt:
    """The account (its hash) as it was known at a time."""
    found = AccountAt()
    for r in until(store.stream(f"{ACCOUNT_PREFIX}{account}"), at):
        match r.event:
            case TradingPaused(by=by, at=since, why=why):
                found = msgspec.structs.replace(found, paused_since=since, paused_by=by, paused_why=why)
            case TradingResumed():
                found = msgspec.structs.replace(found, paused_since=None, paused_by="", paused_why="")
            case BreakerClosed():
                found = msgspec.structs.replace(found, breaker_since=None)
            case BreakerOpened(at=since):
                found = msgspec.structs.replace(found, breaker_since=since)
    return found


# --- causes -----------------------------------------------------------------------------------------------------------


class Causes:
    """Finds for each event the earlier one that it follows from, as the log itself links them: ids, runs, levels."""

    def __init__(self) -> None:
        self._armed: int | None = None  # the event that set the policy or the entry that the levels come from
        self._entry: Decimal | None = None
        self._stops: dict[ExitType, int] = {}
        self._orders: dict[str, int] = {}
        self._asked: int | None = None  # the newest request to cancel
        self._ended: int | None = None
        self._filled: int | None = None
        self._refusal: int | None = None
        self._lost: int | None = None
        self._alarms: dict[str, int] = {}
        self._last: Recorded | None = None

    def of(self, r: Recorded) -> int | None:
        """The event that the next one of the log follows from; None where it follows from none."""
        cause = self._cause(r.event)
        if cause is None and self._last is not None and self._last.at_ns == r.at_ns and self._last.by == r.by:
            cause = self._last.version  # of the same message
        self._note(r)
        return cause

    def setter(self, rule: ExitType) -> int | None:
        """The event that set the level of a rule as it is now."""
        return self._stops.get(rule, self._armed)

    def _cause(self, e: Event) -> int | None:
        match e:
            case StopMoved(rule=rule):
                return self.setter(rule)
            case ExitTriggered(reason=reason):
                return self.setter(reason)
            case (
                OrderAccepted() | CancelRequested() | ExitEscalated() | FillsRecorded() | OrderRestated()
                | ExitWithdrawn()
            ):  # fmt: skip
                return self._orders.get(e.client_order_id)
            case ExitPostponed():
                return self._orders.get(e.client_order_id)
            case CancelRefused():
                return self._asked
            case OrderEnded():
                return self._asked or self._orders.get(e.client_order_id)
            case ExitRetried():
                return self._lost or self._ended
            case ExitCompleted() | LegCompleted():
                return self._filled
            case LegWidened(reason=reason):
                return self.setter(reason)
            case RefusalEnded():
                return self._refusal
            case PositionReleased():
                return self._lost
            case AlarmAcknowledged():
                return self._alarms.get(e.alarm_id)
        return None

    def _note(self, r: Recorded) -> None:
        e, version = r.event, r.version
        match e:
            case PositionOpened(entry_price=entry) | PositionResized(entry_price=entry):
                if entry != self._entry:
                    self._armed = version
                if self._entry is not None and is_jump(entry, self._entry, SPLIT_RATIO):
                    self._stops.clear()  # after a split a stop that had moved means nothing; else it stays
                self._entry = entry
            case UnitChanged(entry_price=entry):
                self._armed, self._entry = version, entry
                self._stops = dict.fromkeys(self._stops, version)  # they stand where the new unit has them
            case ExitWithdrawn(client_order_id=order):
                self._orders.pop(order, None)
            case PositionReleased(entry_price=entry):
                self._armed, self._lost, self._entry = version, None, entry
            case PolicyChanged():
                self._armed, self._lost = version, None
            case StopMoved(rule=rule):
                if rule is ExitType.OPERATOR:
                    self._stops.clear()  # it stands in for every other
                self._stops[rule] = version
            case ExitTriggered(client_order_id=order) | ExitRetried(client_order_id=order):
                self._orders[order] = version
                self._asked = self._lost = None
            case CancelRequested() | ExitEscalated():
                self._asked = version
            case CancelRefused():
                self._asked = None
            case OrderEnded():
                self._ended = version
            case FillsRecorded():
                self._filled = version
            case TriggerRefused():
                self._refusal = version
            case ProtectionLost():
                self._lost = version
            case AlarmRaised(alarm_id=alarm):
                self._alarms[alarm] = version
        self._last = r


def last_of(told: Sequence[Step], kind: type[Event]) -> Step | None:
    """The newest step with an event of a class; None when there is none."""
    return next((s for s in reversed(told) if isinstance(s.recorded.event, kind)), None)
