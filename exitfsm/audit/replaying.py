"""Real positions with their real entries, once more through the engine, on bars and the simulated broker.

Rules of this room: nothing is decided here. Each position runs in a `Simulation`, the same that `exitfsm simulate`
runs, which is told where to enter instead of choosing. A changed policy may hold a position beyond the next entry in
its symbol, and a simulated account is netted: such positions run beside each other, in accounts of their own (lanes).

What came from outside comes again at its time: entries, operators' orders and policies, the pause, a change of size by
other hands. What the broker did does not: the simulated broker fills as it always does.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from msgspec import UNSET
from msgspec.structs import replace

from exitfsm.audit.trail import time_of
from exitfsm.config import ExitConfig, SessionHours
from exitfsm.custom_rules import CustomRuleFunction, missing
from exitfsm.errors import ConfigError
from exitfsm.events import (
    Event,
    ExitTriggered,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    Recorded,
    RefusalEnded,
    StopMoved,
    TradingPaused,
    TradingResumed,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.kinds import BarRefusal
from exitfsm.levels import Slot
from exitfsm.lifecycle import LOOKUP, State
from exitfsm.messages import ChangePolicy, ForceExit, Ignore, Message, MoveStop, Open, PositionRead, Rescale
from exitfsm.policy import ExitPolicy, bars_before_entry, fitted, range_at_entry, same_range
from exitfsm.position import READS_MIN, Action, Position, fold
from exitfsm.recorded_bars import Seen
from exitfsm.simulate import Simulation
from exitfsm.simulated import SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.values import ZERO, Bar, ExitType, OrderSide, Side

#: What a policy decides; the rest is what the broker did.
DECISIONS: tuple[type[Event], ...] = (StopMoved, TriggerRefused, RefusalEnded, ExitTriggered)
Rules = Mapping[tuple[str, str], CustomRuleFunction]
#: What a setting of a logged policy becomes.
Change = Callable[[ExitPolicy], ExitPolicy]


class Given(NamedTuple):
    """Something that came from outside, and when: an event of a position's log, or of the account's.

    `before` is, of a release, the log of the position up to and with it.
    """

    at: datetime
    position_id: str
    event: Event
    by: str
    refusing: str | None = None
    before: tuple[Recorded, ...] = ()


class Watched(NamedTuple):
    """A time in which a position was watched, and the runs in it of prices that were refused.

    `refused` are those refused as a jump, `shut` those of a market that was closed.
    """

    since: datetime
    until: datetime | None
    refused: tuple[tuple[datetime, datetime | None], ...]
    shut: tuple[tuple[datetime, datetime | None], ...] = ()

    def accepted(self, bar: Bar) -> bool:
        """True where a bar of this time was accepted."""
        at = bar.timestamp
        if not (self.since < at and (self.until is None or at <= self.until)):
            return False
        return not _within(self.refused, at)

    def was_shut(self, bar: Bar) -> bool:
        """True where a bar of this time was refused because the market was closed."""
        return _within(self.shut, bar.timestamp)


def _within(runs: Iterable[tuple[datetime, datetime | None]], at: datetime) -> bool:
    return any(begin <= at and (end is None or at < end) for begin, end in runs)


class Logged(NamedTuple):
    """A position as it is on record: its whole log, and what of it came from outside after the entry."""

    position: Position
    events: tuple[Event, ...]
    opened_at: datetime
    given: tuple[Given, ...]
    watched: tuple[Watched, ...] = ()

    @property
    def opened(self) -> PositionOpened:
        """The entry."""
        first = self.events[0]
        assert isinstance(first, PositionOpened)
        return first


class Replayed(NamedTuple):
    """A position as it ran: where it stands after the last bar, and everything that was recorded of it."""

    position: Position
    events: tuple[Event, ...]


def bare(e: Event) -> Event:
    """What of an event the policy decided: of an exit why and on what evidence, not how its order looks at a broker."""
    if not isinstance(e, ExitTriggered):
        return e
    order = {"client_order_id": "", "time_in_force": "day", "limit_price": None, "sold_elsewhere": ZERO, "detail": ""}
    return replace(e, **order)


class _Lane(Simulation):
    """A simulated account of one side in which a symbol is held once at a time."""

    #: What was done about a split is in the log, and comes from there.
    ends_at_splits = False

    def __init__(
        self, store: ExitStore, side: Side, session: SessionHours, slippage_pct: Decimal, rules: Rules
    ) -> None:
        broker = SimulatedBroker(slippage_pct=slippage_pct)
        config = ExitConfig(session=session)
        super().__init__(config, store, Decimal(1), side, False, broker, rules, "what-if")
        self.logs: dict[str, list[Event]] = {}
        self.ended: dict[str, Position] = {}
        #: Whether a price that jumped was accepted when the log was written: a second source had confirmed it.
        self.was_accepted: Callable[[Bar], bool] = lambda _: False
        #: Whether the market was closed to a bar, by what was refused live.
        self.was_shut: Callable[[Bar], bool] = lambda _: False

    def enter(self, message: Open, *, bar: Bar | None, reference: Decimal | None) -> str:
        """Hold a position from now on."""
        self.broker.hold(message.symbol, message.side, message.qty, message.entry_price, message.at)
        return self.engine.open(message, bar=bar, reference=reference).position_id

    def restore(self, p: Position, recorded: Sequence[Recorded], last: Bar | None) -> None:
        """Go on with a position from where its log stood; this account must be empty."""
        at = time_of(recorded[-1])
        self.engine.store.append(p.position_id, 0, [r.event for r in recorded], at=at, by=recorded[-1].by)
        self.broker.hold(p.symbol, p.side, p.remaining_qty, p.entry_price, at)
        self.logs[p.position_id] = [r.event for r in recorded]
        self.engine.load()
        if last is not None and last.floor > 0:
            self.engine.rebase(p.symbol, last)

    def tell(self, position_id: str, message: Message) -> None:
        """Tell a position something that is not a bar."""
        self.broker.now = max(self.broker.now, message.at)
        self._carrier.carry_out(self.engine.tell(position_id, message), message.at)

    def forget(self, position_id: str) -> None:
        """A position goes on elsewhere: what is left of it here counts for nothing."""
        p = self.engine.positions.pop(position_id, None)
        if p is not None:
            self.engine.levels.drop(p)
        self.ended.pop(position_id, None)

    def hold_exactly(self, p: Position, qty: Decimal) -> None:
        """Other hands make the account hold this much."""
        change = qty - p.remaining_qty
        buys = (change > 0) is (p.side is Side.LONG)
        if change:
            self.broker.trade_by_hand(p.symbol, OrderSide.BUY if buys else OrderSide.SELL, abs(change), p.entry_price)

    def _told(self, slot: Slot, bar: Bar, received_at: datetime | None) -> Sequence[Action]:
        slot.shut(bar.timestamp if self.was_shut(bar) else None)
        fault = self.engine.fault(bar, received_at) if slot.positions else None
        if fault is not None and fault.reason == "price_jump" and self.was_accepted(bar):
            return self.engine.on_bar(bar, received_at, True)
        return super()._told(slot, bar, received_at)

    def _maybe_enter(self, bar: Bar) -> None:
        """Never by itself."""

    def _on_commit(self, p: Position, recorded: Sequence[Recorded]) -> None:
        self.logs.setdefault(p.position_id, []).extend(r.event for r in recorded)
        if p.state.terminal:
            self.ended[p.position_id] = p


class Replay:
    """A run of logged positions over bars.

    Args:
        logged: the positions.
        pauses: the account's pauses and resumptions, in order.
        change: makes of each logged policy the one to run with.
        session: the market's hours, for `end_of_session`.
        slippage_pct: as of the simulated broker.
        rules: functions for `custom_rule`.

    Raises:
        ConfigError: a policy names a custom rule that is not given, or the changed settings do not fit.
    """

    def __init__(
        self,
        logged: Iterable[Logged],
        *,
        pauses: Iterable[Given] = (),
        change: Change,
        session: SessionHours,
        slippage_pct: Decimal,
        rules: Rules,
    ) -> None:
        self._change, self._rules = change, rules
        self._session, self._slippage_pct = session, slippage_pct
        self._stack = ExitStack()
        self._lanes: dict[Side, list[_Lane]] = {side: [] for side in Side}
        self._at: dict[str, _Lane] = {}
        self._waiting: dict[str, deque[Logged]] = defaultdict(deque)
        self._given: dict[str, deque[Given]] = {}
        self._pauses = deque(pauses)
        self._paused = False
        self._last: dict[str, Bar] = {}
        self._history: dict[str, deque[Bar]] = {}
        self.policies: dict[str, ExitPolicy] = {}
        self._watched: dict[str, list[Watched]] = defaultdict(list)
        by_symbol: dict[str, list[Given]] = defaultdict(list)
        for one in sorted(logged, key=lambda one: one.opened_at):
            policy = self._policy(one.opened.policy)
            self.policies[one.position.position_id] = policy
            self._waiting[one.opened.symbol].append(one)
            by_symbol[one.opened.symbol].extend(one.given)
            self._watched[one.opened.symbol].extend(one.watched)
            if wanted := bars_before_entry(policy):
                depth = max(wanted, _depth(self._history.get(one.opened.symbol)))
                self._history[one.opened.symbol] = deque(maxlen=depth)
        for symbol, given in by_symbol.items():
            self._given[symbol] = deque(sorted(given, key=lambda g: g.at))

    @property
    def symbols(self) -> set[str]:
        """The symbols whose bars are needed."""
        return set(self._waiting)

    def bars_end(self, symbol: str) -> datetime | None:
        """When the last bar of a symbol was; None when there was none."""
        last = self._last.get(symbol)
        return last.timestamp if last is not None else None

    def run(self, bars: Iterable[Seen], progress: Callable[[int], None] | None = None) -> dict[str, Replayed]:
        """All the bars, in order of arrival. Returns the positions that were entered, by id."""
        with self._stack:
            for count, (bar, received_at) in enumerate(bars, 1):
                if bar.symbol in self._waiting:
                    self._bar(bar, received_at)
                if progress is not None and count % 2000 == 0:
                    progress(count)
            for symbol in list(self._given):  # what came from outside after the last bar needs no bar
                self._outside(symbol, None)
            return {key: self._result(key, lane) for key, lane in self._at.items()}

    def _result(self, key: str, lane: _Lane) -> Replayed:
        position = lane.ended.get(key) or lane.engine.positions[key]
        return Replayed(position, tuple(lane.logs[key]))

    def _bar(self, bar: Bar, received_at: datetime | None) -> None:
        """What came before the bar, the bar itself, and the entries of that very moment."""
        symbol, at = bar.symbol, received_at or bar.timestamp
        self._enter_until(symbol, at, None)
        self._outside(symbol, at)
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.on_bar(bar, received_at)
        history = self._history.get(symbol)
        if history is not None and bar.floor > 0:
            if history and history[-1].timestamp == bar.timestamp:
                history.pop()  # a later look at it has all of the bar
            history.append(bar)
        self._enter_until(symbol, at, bar)
        self._last[symbol] = bar

    # --- entries ------------------------------------------------------------------------------------------------------

    def _enter_until(self, symbol: str, at: datetime, bar: Bar | None) -> None:
        """Enter what was entered before `at`; with the bar of that moment, also what was entered at its close."""
        waiting = self._waiting[symbol]
        while waiting and (waiting[0].opened_at < at or (bar is not None and waiting[0].opened_at == at)):
            self._enter(waiting.popleft(), bar)

    def _enter(self, one: Logged, bar: Bar | None) -> None:
        e, key = one.opened, one.position.position_id
        policy = fitted(self.policies[key], e.side, e.entry_price)
        lane = self._free_lane(e.side, e.symbol)
        message = Open(
            at=one.opened_at,
            account=e.account,
            symbol=e.symbol,
            side=e.side,
            epoch=e.epoch,
            qty=e.qty,
            entry_price=e.entry_price,
            opened_at=e.opened_at,
            policy=policy,
            atr=e.atr if same_range(policy, e.policy) else self._range(e.symbol, policy),
            strategy_name=e.strategy_name,
            source=e.source,
            own_policy=e.own_policy is True,
        )
        last = self._last.get(e.symbol)
        sound = last is not None and last.floor > 0
        self._at[key] = lane
        lane.enter(message, bar=bar, reference=last.close if bar is None and last is not None and sound else None)

    def _range(self, symbol: str, policy: ExitPolicy) -> Decimal | None:
        """The average true range at the entry, where a changed policy wants one that was not recorded."""
        return range_at_entry(policy, list(self._history.get(symbol, ())))

    def _free_lane(self, side: Side, symbol: str) -> _Lane:
        for lane in self._lanes[side]:
            if symbol not in lane.engine.levels.slots:
                return lane
        return self._new_lane(side)

    def _new_lane(self, side: Side) -> _Lane:
        store = self._stack.enter_context(ExitStore(":memory:"))
        self._stack.enter_context(store.bulk())
        lane = _Lane(store, side, self._session, self._slippage_pct, self._rules)
        lane.was_accepted = lambda bar: any(one.accepted(bar) for one in self._watched[bar.symbol])
        lane.was_shut = lambda bar: any(one.was_shut(bar) for one in self._watched[bar.symbol])
        if self._paused:
            lane.engine.pause()
        self._lanes[side].append(lane)
        return lane

    def _policy(self, policy: ExitPolicy) -> ExitPolicy:
        changed = self._change(policy)
        rule = missing(self._rules, changed)
        if rule is not None:
            text = (
                f"a position's policy has the custom rule {rule.name!r} version {rule.version!r}, and no such function "
                f"was given: what it would answer is not known; {rule.section}.enabled=false leaves it out"
            )
            raise ConfigError([text])
        return changed

    # --- what came from outside ---------------------------------------------------------------------------------------

    def _outside(self, symbol: str, at: datetime | None) -> None:
        """What came from outside before `at`; all of it where that is None."""
        while self._pauses and (at is None or self._pauses[0].at < at):
            self._paused = isinstance(self._pauses.popleft().event, TradingPaused)
            for lane in (lane for lanes in self._lanes.values() for lane in lanes):
                (lane.engine.pause if self._paused else lane.engine.resume)()
        given = self._given.get(symbol)
        while given and (at is None or given[0].at < at):
            self._tell(given.popleft())

    def _tell(self, g: Given) -> None:
        lane = self._at.get(g.position_id)
        if lane is not None and isinstance(g.event, PositionReleased):
            self._release(lane, g)
            return
        p = lane.engine.positions.get(g.position_id) if lane is not None else None
        if lane is None or p is None or p.state is not State.MONITORING:
            return
        match g.event:
            case ExitTriggered(detail=detail, trigger_price=price, qty=qty, keep_qty=keep):
                who, _, reason = detail.partition(": ")
                at_most = qty if keep is not UNSET else None
                lane.tell(g.position_id, ForceExit(at=g.at, who=who, reason=reason, price=price, at_most=at_most))
            case PolicyChanged() | StopMoved():
                lane.tell(g.position_id, self._adjusted(p, g))
            case PositionResized(qty=qty, entry_price=entry):
                last = self._last.get(p.symbol)
                if g.refusing == "price_jump" and last is not None and last.floor > 0:
                    lane.engine.rebase(p.symbol, last)  # a split: the prices start over, too
                lane.hold_exactly(p, qty)
                read = PositionRead(at=g.at, began=g.at, qty=qty, avg_entry_price=entry, reads=READS_MIN)
                lane.tell(g.position_id, read)
            case UnitChanged(factor=factor, qty=qty, entry_price=entry, why=why):
                last = self._last.get(p.symbol)
                if last is not None and last.floor > 0:
                    lane.engine.rebase(p.symbol, last)
                lane.hold_exactly(p, qty)
                lane.tell(g.position_id, Rescale(at=g.at, factor=factor, qty=qty, entry_price=entry, why=why))
            case PositionClosedElsewhere(how="ignored"):
                lane.tell(g.position_id, Ignore(at=g.at))
            case PositionClosedElsewhere():
                lane.hold_exactly(p, Decimal(0))
                lane.tell(g.position_id, PositionRead(at=g.at, began=g.at, qty=Decimal(0), reads=READS_MIN))

    def _adjusted(self, p: Position, g: Given) -> Message:
        """What a person, or a changed configuration, wanted of the levels."""
        e = g.event
        if isinstance(e, StopMoved):
            who, why = e.by or "", e.why or ""
            return MoveStop(at=g.at, price=e.stop, who=who, last_price=e.best_price, bar_at=e.bar_at, why=why)
        assert isinstance(e, PolicyChanged)
        policy, own = fitted(self._policy(e.policy), p.side, p.entry_price), None if e.own is UNSET else e.own
        return ChangePolicy(at=g.at, policy=policy, who=e.by, own=own, why=e.why or "")

    def _release(self, lane: _Lane, g: Given) -> None:
        """A position that was handed back to the rules goes on from there, where it had decided as the log says.

        Where it decided otherwise, nothing had to be released.
        """
        before = [r.event for r in g.before[:-1]]
        if [bare(e) for e in lane.logs[g.position_id] if isinstance(e, DECISIONS)] != [
            bare(e) for e in before if isinstance(e, DECISIONS)
        ]:
            return
        p = fold(None, (r.event for r in g.before))
        assert p is not None
        fresh = self._new_lane(p.side)  # its store must be empty of this position
        fresh.restore(p, g.before, self._last.get(p.symbol))
        lane.forget(g.position_id)
        self._at[g.position_id] = fresh


def watched_of(recorded: Sequence[Recorded], positions: Sequence[Position | None]) -> tuple[Watched, ...]:
    """When a position was watched, and which prices were refused meanwhile; arguments as of `given_of`."""
    found: list[Watched] = []
    since: datetime | None = None
    runs: dict[str, list[tuple[datetime, datetime | None]]] = {BarRefusal.PRICE_JUMP: [], BarRefusal.OUT_OF_SESSION: []}

    def watched(since: datetime, until: datetime | None) -> Watched:
        return Watched(since, until, *(tuple(run) for run in runs.values()))

    for r, before in zip(recorded, positions, strict=True):
        e, at = r.event, time_of(r)
        state = LOOKUP.get((before.state if before is not None else None, type(e)))
        if isinstance(e, TriggerRefused) and e.reason in runs:
            runs[e.reason].append((e.bar_at, None))
        elif isinstance(e, RefusalEnded):
            for run in runs.values():
                if run and run[-1][1] is None:
                    run[-1] = (run[-1][0], e.bar_at)
        if since is None and state is State.MONITORING:
            since = at
        elif since is not None and state is not State.MONITORING:
            found.append(watched(since, at))
            since = None
            for run in runs.values():
                run.clear()
    if since is not None:
        found.append(watched(since, None))
    return tuple(found)


def given_of(position_id: str, recorded: Sequence[Recorded], positions: Sequence[Position | None]) -> tuple[Given, ...]:
    """What of a position's log came from outside while it was monitored.

    Args:
        position_id: the position.
        recorded: its log.
        positions: the position before each event.
    """
    found = []
    for r, before in zip(recorded, positions, strict=True):
        e = r.event
        if isinstance(e, PositionReleased):
            found.append(Given(time_of(r), position_id, e, r.by, None, tuple(recorded[: r.version])))
        if before is None or before.state is not State.MONITORING:
            continue
        by_hand = isinstance(e, StopMoved) and e.rule is ExitType.OPERATOR
        forced = isinstance(e, ExitTriggered) and e.reason is ExitType.EMERGENCY
        if forced or by_hand or isinstance(e, PolicyChanged | PositionResized | UnitChanged | PositionClosedElsewhere):
            found.append(Given(time_of(r), position_id, e, r.by, before.refusing))
    return tuple(found)


def pauses_of(recorded: Iterable[Recorded]) -> list[Given]:
    """The pauses and resumptions of an account's log."""
    return [
        Given(time_of(r), r.stream_id, r.event, r.by)
        for r in recorded
        if isinstance(r.event, TradingPaused | TradingResumed)
    ]


def _depth(history: deque[Bar] | None) -> int:
    return history.maxlen or 0 if history is not None else 0
