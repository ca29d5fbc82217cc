"""The shell for the past: bars in, exits out, on the simulated broker and the bars' own time.

At each bar of a symbol, in this order: orders fill at the open, timers that are due fire, the levels are tested, the
stops follow. A market exit decided on one bar fills at the symbol's next bar. A position is entered at a bar's close
and first evaluated on the bar after it. Everything is decided by the same engine that runs live.

A price that jumps beyond belief is judged by what follows (`jumps`): an exit whose market order works fills all the
same; a crash that is confirmed is acted on; a position over what looks like a split ends at the last price before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from exitfsm import holdings
from exitfsm.carrying_out import Carrier
from exitfsm.config import ExitConfig
from exitfsm.custom_rules import CustomRuleFunction, missing
from exitfsm.engine import Engine
from exitfsm.errors import ConfigError, StoreError
from exitfsm.events import LegCompleted, Recorded
from exitfsm.jumps import Jump, Jumps, split_ratio
from exitfsm.kinds import AlarmKind
from exitfsm.levels import Slot
from exitfsm.lifecycle import State
from exitfsm.messages import Open, RaiseAlarm
from exitfsm.policy import bars_before_entry, is_jump, range_at_entry
from exitfsm.position import NO_EXIT, Action, Exit, Position, account_hash
from exitfsm.recorded_bars import BarRecorder, new_bars_path
from exitfsm.refusals import Refused
from exitfsm.sessions import LongBars, is_crypto, market_session
from exitfsm.simulated import SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.values import (
    EXACT,
    ZERO,
    Bar,
    BrokerPosition,
    ExitType,
    Fill,
    OrderType,
    Side,
    pct_change,
    plain,
    rounded,
    stamp,
)

#: The account name under which simulated positions are kept.
SIMULATION_ACCOUNT = "simulation"
_PROGRESS_EVERY = 2000
#: The reason of a position that ended at a price that jumped as in a split.
SPLIT = "split?"
_PRICE_JUMP = "price_jump"


class SimulatedExit(msgspec.Struct, frozen=True, kw_only=True):
    """One exit of a run, or an open position. What has not happened is None.

    Attributes:
        qty: what this exit was of: of a part what it sold, else all that was left.
        remaining_qty: what is left of the position after it.
        part: of an exit of a part that a target sold, the index of the highest target, from 1; None otherwise.
        pnl_pct: of what this exit sold, in percent, rounded half-even to 4 places.
    """

    position_id: str
    symbol: str
    side: Side
    qty: Decimal
    reason: str | None
    opened_at: datetime
    entry_price: Decimal
    triggered_at: datetime | None
    trigger_price: Decimal | None
    filled_at: datetime | None
    avg_fill_price: Decimal | None
    pnl_pct: Decimal | None
    state: State
    alarms: tuple[str, ...] = ()
    part: int | None = None
    remaining_qty: Decimal = ZERO

    def as_dict(self) -> dict[str, Any]:
        """As JSON data: numbers as text, times as `YYYY-MM-DDTHH:MM:SSZ`."""
        plainly = {name: _plainly(getattr(self, name)) for name in self.__struct_fields__}
        plainly["pnl_pct"] = str(self.pnl_pct) if self.pnl_pct is not None else None
        if self.state.terminal or self.filled_at is not None:
            del plainly["state"]
            if not self.alarms:
                del plainly["alarms"]
        else:  # it has sold nothing yet: `qty` is what is left
            del plainly["part"], plainly["remaining_qty"]
        return plainly


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run: positions that were exited, those still open after the last bar, and refused inputs.

    `splits` are positions that ended at a price that jumped as in a split: what they made cannot be told from the bars.
    """

    bars: int
    exits: list[SimulatedExit]
    open: list[SimulatedExit]
    refused: list[Refused]
    splits: list[SimulatedExit] = []

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "bars": self.bars,
            "exits": [e.as_dict() for e in self.exits],
            "open": [e.as_dict() for e in self.open],
            "splits": [e.as_dict() for e in self.splits],
            "refused": [{k: _plainly(v) for k, v in asdict(r).items()} for r in self.refused],
        }


def simulate(
    bars: Iterable[Bar],
    config: ExitConfig | None = None,
    *,
    store: ExitStore | None = None,
    qty: Decimal = Decimal(10),
    side: Side = Side.LONG,
    re_enter: bool = False,
    broker: SimulatedBroker | None = None,
    rules: Mapping[tuple[str, str], CustomRuleFunction] | None = None,
    strategy_name: str = "simulate",
    progress: Callable[[int], None] | None = None,
) -> SimulationResult:
    """Enter each symbol at the close of its first sound bar, and let the rules get it out.

    Args:
        bars: in time order; several symbols may be mixed.
        config: the rules; the defaults when None.
        store: where the events go (an empty one); in memory when None.
        qty: quantity of each entry.
        side: long or short.
        re_enter: enter again at the close of the first bar at or after the end of the cooldown.
        broker: a venue, e.g. one with a script.
        rules: functions for `custom_rule`, by (name, version).
        strategy_name: the label on each position and its events.
        progress: called now and then with the number of bars so far.

    Raises:
        StoreError: the store holds events already, or bars of another run lie beside it.
        ConfigError: the policy names a custom rule that is not given.
        ValueError: the quantity is not a finite number above 0.
    """
    owned = store is None
    store = store or ExitStore(":memory:")
    try:
        run = Simulation(config or ExitConfig(), store, qty, side, re_enter, broker, rules or {}, strategy_name)
        path = new_bars_path(store, run.bars_file) if run.records_bars else None
        recorder = BarRecorder(path) if path is not None else None
        with store.bulk(), recorder or nullcontext():
            run.feed(bars if recorder is None else run.recorded(bars, recorder), progress)
        store.save_marks(run.engine.marks())
        return run.result()
    finally:
        if owned:
            store.close()


class Simulation:
    """One run, bar by bar. `simulate` is the whole of it for most uses."""

    #: Whether a jump that looks like a split ends the positions of its symbol.
    ends_at_splits = True

    def __init__(
        self,
        config: ExitConfig,
        store: ExitStore,
        qty: Decimal,
        side: Side,
        re_enter: bool,
        broker: SimulatedBroker | None,
        rules: Mapping[tuple[str, str], CustomRuleFunction],
        strategy_name: str,
    ) -> None:
        if not (qty.is_finite() and qty > 0):
            raise ValueError(f"qty is {qty}, it must be a finite number above 0")
        if store.count():
            raise StoreError(
                f"the store is not empty ({store.count()} recorded); a simulation starts from an empty store: "
                "give a new path, or move the old file away"
            )
        if (rule := missing(rules, config.policy)) is not None:
            text = f"{rule.section} names {rule.name!r} version {rule.version!r}, but no such function was given"
            raise ConfigError([text])
        self.policy, self.records_bars, self.bars_file = config.policy, config.record_bars, config.bars
        self.qty, self.side, self.re_enter, self.strategy_name = qty, side, re_enter, strategy_name
        self.broker = broker or SimulatedBroker()
        self.engine = Engine(
            store,
            self.broker.capabilities,
            rules=rules,
            session_close=self._session_close,
            listener=self._on_commit,
        )
        self._carrier = Carrier(self.engine, self.broker)
        self.bars = 0
        self._slots = self.engine.levels.slots
        self._sessions = LongBars(config.session)
        #: Tells which bars are out of session, where the configuration says that those decide nothing.
        self._gate = LongBars(config.session) if config.session.trade == "regular" else None
        self._jumps = Jumps()
        #: What is shown of positions that ended at a split, or at a price that looks like one, by id.
        self._splits: dict[str, dict[str, Any]] = {}
        self._history_bars = bars_before_entry(self.policy)
        self._account = account_hash(SIMULATION_ACCOUNT)
        self._entered: dict[str, datetime] = {}
        self._cooldowns: dict[str, datetime] = {}
        self._history: dict[str, deque[Bar]] = {}
        #: The exits so far; of a position that is over the last has its id, too.
        self._exits: list[tuple[str | None, SimulatedExit]] = []
        self._exiting: dict[str, Exit] = {}
        self._unsound: dict[tuple[str, str], Refused] = {}

    def feed(self, bars: Iterable[Bar], progress: Callable[[int], None] | None = None) -> None:
        """All the bars. Most are quiet, and for those nothing but the band is looked at."""
        slots, on_bar, looks_at_all = self._slots, self.on_bar, self._history_bars > 0 or self._gate is not None
        count = 0  # of the quiet ones
        for bar in bars:
            slot = slots.get(bar.symbol)
            if (
                slot is None
                or looks_at_all
                or not (
                    slot.low < bar.floor
                    and slot.last.timestamp < bar.timestamp
                    and (bar.ceiling <= slot.high or slot.rises(bar.ceiling))
                )
            ):
                on_bar(bar)
                continue
            slot.last = bar
            count += 1
            if count >= _PROGRESS_EVERY:
                self.bars += count
                count = 0
                if progress is not None:
                    progress(self.bars)
        self.bars += count

    def recorded(self, bars: Iterable[Bar], recorder: BarRecorder) -> Iterator[Bar]:
        """The bars, each noted once it was told, from the one on at which its symbol was first entered."""
        for bar in bars:
            yield bar
            if bar.symbol in self._entered:
                recorder.record(bar)

    def on_bar(self, bar: Bar, received_at: datetime | None = None) -> None:
        """One bar of one symbol; `received_at` where its age counts, as it did live."""
        self.bars += 1
        symbol = bar.symbol
        slot = self._slots.get(symbol)
        if slot is not None and slot.is_look(bar, received_at):
            new = slot.new_in(bar, received_at)
            if new is None:
                return
            bar = new  # orders fill at the price that is new, too
        if slot is not None:
            if self._gate is not None:
                slot.shut(bar.timestamp if self._is_outside(bar) else None)
            if slot.busy:
                self._trade(bar, received_at)
            actions = self._told(slot, bar, received_at)
            if actions:
                self.broker.now = bar.timestamp
                self._carrier.carry_out(actions, bar.timestamp)
        if slot is None or symbol not in self._slots:
            self._maybe_enter(bar)
        if self._history_bars and bar.floor > 0:
            self._history.setdefault(symbol, deque(maxlen=self._history_bars)).append(bar)

    def _told(self, slot: Slot, bar: Bar, received_at: datetime | None) -> Sequence[Action]:
        """Tell the engine of a bar; one that confirms a jump as a crash, or ends a position as a split, is settled."""
        if not slot.positions or self.engine.quiet(bar, received_at):
            return ()
        jump = self._jump(slot, bar, received_at)
        split = jump.split(_guard_ratio(slot)) if jump is not None and not self._never_closes(bar.symbol) else None
        if jump is not None and split is not None and self.ends_at_splits:
            self._end_at_split(slot, jump, split, bar)
            return ()
        return self.engine.on_bar(bar, received_at, jump is not None and split is None)

    def _jump(self, slot: Slot, bar: Bar, received_at: datetime | None) -> Jump | None:
        """The jump of the price that this bar confirms; None where it does not."""
        reference = slot.reference_price
        if reference is None or not self._is_jump(bar, received_at):
            return None
        return self._jumps.confirmed(bar, slot.last, reference, _guard_ratio(slot))

    def _is_jump(self, bar: Bar, received_at: datetime | None) -> bool:
        fault = self.engine.fault(bar, received_at)
        return fault is not None and fault.reason == _PRICE_JUMP

    def _end_at_split(self, slot: Slot, jump: Jump, ratio: str, bar: Bar) -> None:
        """End the positions of a symbol at the last price before a jump that looks like a split of its shares."""
        text = (
            f"{bar.symbol} went from {plain(jump.reference)} to {plain(jump.first.close)} and stayed there: a split "
            f"{ratio}? The position ends at {plain(jump.reference)}; give bars that are adjusted for splits"
        )
        for p in list(slot.positions):
            self._splits[p.position_id] = _at_split(p, jump)
            self.engine.tell(p.position_id, RaiseAlarm(at=bar.timestamp, kind=AlarmKind.SPLIT, text=text))
            order_side = p.side.exit_side
            self.broker.trade_by_hand(p.symbol, order_side, p.remaining_qty, jump.reference)
            now = self.engine.positions[p.position_id]
            self._carrier.carry_out(self._carrier.read_position(now, bar.timestamp), bar.timestamp)

    def _is_outside(self, bar: Bar) -> bool:
        always_open = self.broker.capabilities.never_closes(bar.symbol)
        return self._gate is not None and self._gate.is_outside(bar.symbol, bar.timestamp, always_open)

    def _never_closes(self, symbol: str) -> bool:
        known = self.broker.capabilities.never_closes(symbol)
        return known if known is not None else is_crypto(symbol)

    def _session_close(self, symbol: str, at: datetime) -> datetime | None:
        """The close that counts for a symbol's bar of this time, for `end_of_session`, and nothing else."""
        slot = self._slots.get(symbol)
        if slot is None or not any(p.policy.plan.needs_session for p in slot.positions):
            return None
        always_open = self.broker.capabilities.never_closes(symbol)
        return self._sessions.close(symbol, at, slot.previous_at, always_open)

    def _trade(self, bar: Bar, received_at: datetime | None) -> None:
        """Orders fill at the open of a bar that is believed, and what waited for time comes due.

        A market order fills at any price: where the open jumped beyond belief, that is the worst trade there is, and to
        leave it out would hide it. Only an alarm says so.
        """
        fault = self.engine.fault(bar, received_at)
        if fault is not None and fault.reason != _PRICE_JUMP:
            return
        if fault is not None:
            self._warn_of_jump(bar)
        for report in self.broker.on_bar(bar, limits=fault is None):
            self._carrier.carry_out(self.engine.on_report(report, at=bar.timestamp), bar.timestamp)
        self._carrier.carry_out(self.engine.tick(bar.timestamp, symbol=bar.symbol), bar.timestamp)

    def _warn_of_jump(self, bar: Bar) -> None:
        """Say beside an exit that it fills at a price beyond belief; near a split's ratio, it is counted apart."""
        slot = self._slots[bar.symbol]
        reference = slot.reference_price
        if reference is None or not is_jump(bar.open, reference, _guard_ratio(slot)):
            return
        ratio = split_ratio(reference, bar.open) if not self._never_closes(bar.symbol) else None
        guess = f": a split {ratio}? It is not in the figures" if ratio is not None else ""
        text = f"{bar.symbol} opened at {plain(bar.open)} after {plain(reference)}, and the exit fills there{guess}"
        for p in list(slot.positions):
            order = self.broker.order(p.client_order_id) if p.client_order_id is not None else None
            if order is None or order.status.terminal or p.order_type is not OrderType.MARKET:
                continue
            self.engine.tell(p.position_id, RaiseAlarm(at=bar.timestamp, kind=AlarmKind.FILLED_AT_JUMP, text=text))
            if ratio is not None:
                self._splits[p.position_id] = {}

    def result(self) -> SimulationResult:
        """What came of the run so far."""
        held = sorted(self.engine.positions.values(), key=lambda p: (p.opened_at, p.symbol))
        refused = [*self._unsound.values(), *self.engine.refusals()]
        return SimulationResult(
            bars=self.bars,
            exits=[one for ended, one in self._exits if ended not in self._splits],
            open=[simulated_exit(p) for p in held],
            splits=[
                replace(one, reason=SPLIT, **self._splits[ended])
                for ended, one in self._exits
                if ended is not None and ended in self._splits
            ],
            refused=sorted(refused, key=lambda r: (r.first_at, r.symbol)),
        )

    def _maybe_enter(self, bar: Bar) -> None:
        """Enter at this bar's close where the symbol was never held, or may be entered again."""
        symbol, at = bar.symbol, bar.timestamp
        entered_at = self._entered.get(symbol)
        if entered_at is not None and (not self.re_enter or at < entered_at):
            return
        slot, cooldown = self._slots.get(symbol), self._cooldowns.get(symbol)
        account = holdings.Account(
            positions=slot.positions if slot is not None else (),
            cooldowns={symbol: cooldown} if cooldown is not None else {},
        )
        if not holdings.may_enter(symbol, at, account):
            return
        if not bar.floor > 0:
            self._refuse_unsound(bar)
            return
        self._enter(bar, self.broker.hold(symbol, self.side, self.qty, bar.close, at))

    def _enter(self, bar: Bar, entry: Fill) -> None:
        """Watch what was entered, named and priced as the live manager does it."""
        row = BrokerPosition(symbol=entry.symbol, side=self.side, qty=entry.qty, avg_entry_price=entry.price)
        opening = holdings.Opening(row=row, symbol=bar.symbol, executions=(entry,))
        adopt, _ = holdings.adopt(opening, None)
        if not isinstance(adopt, holdings.Adopt) or adopt.epoch is None:
            return
        self._entered[bar.symbol] = bar.timestamp
        atr = range_at_entry(self.policy, [*self._history.get(bar.symbol, ()), bar])
        message = Open(
            at=bar.timestamp,
            account=self._account,
            symbol=bar.symbol,
            side=self.side,
            epoch=adopt.epoch,
            qty=row.qty,
            entry_price=adopt.entry_price,
            opened_at=bar.timestamp,
            policy=self.policy,
            atr=atr,
            strategy_name=self.strategy_name,
            source="broker",
        )
        self.engine.open(message, bar=bar)

    def _refuse_unsound(self, bar: Bar) -> None:
        """Count a bar that nobody could have been entered on."""
        key = (bar.symbol, "unsound")
        run = self._unsound.get(key) or Refused(
            bar.symbol, "unsound", str(bar.close), bar.timestamp, bar.timestamp, 0, ""
        )
        self._unsound[key] = replace(run, last_at=bar.timestamp, count=run.count + 1)

    def _on_commit(self, p: Position, recorded: Sequence[Recorded]) -> None:
        if p.state.terminal:
            self._exits.append((p.position_id, simulated_exit(p)))
            if p.cooldown_until is not None:
                self._cooldowns[p.symbol] = p.cooldown_until
        if p.policy.plan.parting or p.parts.orders:
            self._note_parts(p, recorded)

    def _note_parts(self, p: Position, recorded: Sequence[Recorded]) -> None:
        """Each part that is sold is an exit of its own."""
        for r in recorded:
            if isinstance(r.event, LegCompleted):
                latch = self._exiting.pop(p.position_id, NO_EXIT)
                self._exits.append((None, simulated_part(p, latch, r.event)))
        if p.state.exiting:
            self._exiting[p.position_id] = p.exit


def simulated_exit(p: Position) -> SimulatedExit:
    """A position as one row of a result."""
    orders = p.orders[p.parts.orders :]
    average = p.average_of(orders) if p.state.terminal else None
    return SimulatedExit(
        position_id=p.position_id,
        symbol=p.symbol,
        side=p.side,
        qty=EXACT.subtract(p.qty, sum((order.filled_qty for order in p.orders[: p.parts.orders]), ZERO)),
        reason=str(p.reason) if p.reason is not None else None,
        opened_at=p.opened_at,
        entry_price=p.entry_price,
        triggered_at=p.triggered_at,
        trigger_price=p.trigger_price,
        filled_at=p.ended_at,
        avg_fill_price=average,
        pnl_pct=pct_change(p.entry_price, average, p.side) if average is not None else None,
        state=p.state,
        alarms=tuple(a.text for a in p.alarms),
        part=_part(p.exit.leg, p.exit.reason),
        remaining_qty=ZERO if p.state.terminal else p.remaining_qty,
    )


def simulated_part(p: Position, latch: Exit, e: LegCompleted) -> SimulatedExit:
    """A part that is sold as one row of a result; `latch` is why it was."""
    return SimulatedExit(
        position_id=p.position_id,
        symbol=p.symbol,
        side=p.side,
        qty=e.filled_qty,
        reason=str(latch.reason) if latch.reason is not None else None,
        opened_at=p.opened_at,
        entry_price=p.entry_price,
        triggered_at=latch.triggered_at,
        trigger_price=latch.trigger_price,
        filled_at=p.last_fill_at,
        avg_fill_price=e.avg_fill_price,
        pnl_pct=pct_change(p.entry_price, e.avg_fill_price, p.side) if e.avg_fill_price is not None else None,
        state=p.state,
        part=_part(e.leg, latch.reason),
        remaining_qty=e.remaining_qty,
    )


def _part(leg: str, reason: ExitType | None) -> int | None:
    """The index of the target that sold a part; None for any other reason."""
    return int(leg) if leg.isdecimal() and reason is not None and reason.takes_profit else None


def _at_split(p: Position, jump: Jump) -> dict[str, Any]:
    """What is shown of a position that ends at a split: what was left of it counts at the price before."""
    left = EXACT.multiply(p.remaining_qty, jump.reference)
    sold = EXACT.multiply(p.sold_qty, p.avg_exit_price or ZERO)
    average = rounded(EXACT.divide(EXACT.add(left, sold), EXACT.add(p.remaining_qty, p.sold_qty)))
    return {
        "filled_at": jump.first.timestamp,
        "avg_fill_price": Decimal(plain(average)),
        "pnl_pct": pct_change(p.entry_price, average, p.side),
    }


def _guard_ratio(slot: Slot) -> Decimal:
    """The strictest price guard of a symbol's positions."""
    return min(p.policy.price_guard.max_jump_ratio for p in slot.positions)


def _plainly(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, StrEnum):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


__all__ = ["SimulatedExit", "Simulation", "SimulationResult", "market_session", "simulate"]
