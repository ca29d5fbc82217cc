"""The one door: a message comes in, events are committed, and what is owed to the broker comes out.

`Engine` is synchronous and knows no clock: every time comes in with a message. It holds the open positions in memory,
asks `decide`, guards each new event with the lifecycle's machine, commits (everything that one bar breached in one
transaction), folds what was committed, and only then says what is owed. The live manager and the simulation are two
thin shells around it, so that they cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from exitfsm.committing import Listener, append, guard, notify
from exitfsm.custom_rules import NO_ANSWER, CustomRules, answer_of
from exitfsm.errors import StoreError, VersionConflict
from exitfsm.events import Event
from exitfsm.kinds import BarRefusal
from exitfsm.levels import Levels, Slot
from exitfsm.lifecycle import State, advance
from exitfsm.marking import BarsSince, marks_of, states_of
from exitfsm.messages import BarSeen, Message, Open, Report, TimeSeen
from exitfsm.order_ids import check_stored
from exitfsm.policy import Fault
from exitfsm.ports import CAREFUL, Capabilities
from exitfsm.position import Action, Position, decide, evolve, fold, judged_by, owed, position_id, replay
from exitfsm.projections import Mark
from exitfsm.refusals import Refusals, Refused
from exitfsm.store import Append, ExitStore
from exitfsm.values import Bar, ExecutionReport, canonical_symbol

#: When the session that runs at a moment ends for a symbol; None when it never does or is not known.
SessionClose = Callable[[str, datetime], datetime | None]
#: A position, what it was told, the events that follow, and the position after them.
_Decided = tuple[Position, Message, tuple[Event, ...], Position]
#: How often a decision is taken anew because another writer was faster.
CONFLICTS_MAX = 5


class Engine:
    """Positions, their messages and their events, on one store.

    Args:
        store: where events are committed.
        broker: what the broker can do.
        rules: the user's own rules, by (name, version) as in the policy.
        session_close: when the running session ends; needed by `end_of_session` only.
        listener: told of each commit, after it.
        bars_since: gives the bars of a symbol from a time on, for rules whose folded state is lost.
    """

    def __init__(
        self,
        store: ExitStore,
        broker: Capabilities = CAREFUL,
        *,
        rules: CustomRules | None = None,
        session_close: SessionClose | None = None,
        listener: Listener | None = None,
        bars_since: BarsSince | None = None,
    ) -> None:
        self.store, self.broker, self.rules = store, broker, dict(rules or {})
        self.session_close, self.listener, self.bars_since = session_close, listener, bars_since
        #: No new triggers; exits under way go on.
        self.paused = False
        self.levels = Levels()
        self.positions: dict[str, Position] = {}
        self._refusals = Refusals()
        self._orders: dict[str, str] = {}
        #: Exit orders that were sent, or may have been, and of which the broker has said nothing yet.
        self.unknown: set[str] = set()
        self._slots = self.levels.slots

    # --- positions ----------------------------------------------------------------------------------------------------

    def load(self, is_managed: Callable[[str], bool] = lambda symbol: True) -> int:
        """Restore every open position from the store, but for monitored ones that are not managed; returns how many.

        Each exit order that may be live counts as sent with unknown outcome. One whose intent alone is known is looked
        up before it is sent; the others are the shell's to look up, as it does after any silence.
        """
        held = {row.position_id: row for row in self.store.held()}
        for stream, events in self.store.histories(held):
            position = replay(events)
            if position.state.terminal or (position.state is State.MONITORING and not is_managed(position.symbol)):
                continue  # whatever its row says
            for order in position.orders:
                self._orders[order.client_order_id] = stream
            if position.client_order_id is not None and position.order_live and position.state is State.PENDING:
                self.unknown.add(position.client_order_id)
            check_stored(stream, position.id_form)
            self.positions[stream] = position
            row = held[stream]
            # One that no bar has reached yet is held against its entry: the first price must not be beyond belief.
            reference = row.current_price if row.current_price is not None else position.entry_price
            self.levels.restore(position, reference=reference, seen_at=row.last_evaluated_at_utc)
            self._refold(position)
        return len(self.positions)

    def _refold(self, p: Position) -> None:
        """The states of a position's rules as they were saved, and what bars have come since."""
        if p.policy.plan.folding:
            self._slots[p.symbol].refold(p, states_of(p, self.store.folded(p.position_id), self.bars_since))

    def get(self, position_id: str) -> Position | None:
        """The position, open or ended; None when there is none of this id."""
        return self.positions.get(position_id) or fold(None, (r.event for r in self.store.stream(position_id)))

    def open(self, message: Open, *, reference: Decimal | None = None, bar: Bar | None = None) -> Position:
        """Watch a position from now on; one that is known already is returned as it is.

        Args:
            message: the position.
            reference: its last known price, against which the first bar is held. Without one the entry counts, as long
                as it is no older than a bar may be; after that the guard is lax.
            bar: the bar at whose close it was opened, where there is one.

        Raises:
            ValueError: no position can be made of the message.
        """
        symbol = canonical_symbol(message.symbol)
        max_age = timedelta(seconds=message.policy.price_guard.max_age_seconds)
        if reference is None and bar is None and message.at - message.opened_at <= max_age:
            reference = message.entry_price
        name = position_id(message.account, symbol, message.side, message.epoch)
        if name in self.positions:
            return self.positions[name]
        events = decide(None, message, self.broker)
        advance(None, type(events[0]))
        position = evolve(None, events[0])
        result = append(self.store, [Append(name, 0, events, message.at, message.by)])[0]
        if isinstance(result, VersionConflict):
            position = self.get(name) or position  # it has ended, or a commit stored it that seemed to fail
            if position.state is State.PENDING and position.client_order_id is not None:
                self.unknown.add(position.client_order_id)  # whether its order was sent is not known either
            if not position.state.terminal:
                self._keep(position, reference=reference, bar=bar)
            return position
        if isinstance(result, StoreError):
            raise result
        self._keep(position, reference=reference, bar=bar)
        self._refold(position)
        notify(self.listener, position, result)
        return position

    def beside(self, p: Position) -> list[Position]:
        """The other open positions of its symbol and side: further epochs of the same holding."""
        return [q for q in self._of(p.symbol) if q.side is p.side and q.position_id != p.position_id]

    def against(self, p: Position) -> list[Position]:
        """The open positions of its symbol on the other side: of an account that nets, only one side can be held."""
        return [] if self.broker.holds_both(p.symbol) else [q for q in self._of(p.symbol) if q.side is not p.side]

    def _of(self, symbol: str) -> tuple[Position, ...]:
        return self._slots[symbol].positions if symbol in self._slots else ()

    def open_unless_watched(self, message: Open, *, reference: Decimal | None = None) -> Position:
        """The same, but one holding is watched once: what is watched of the symbol and side already is returned.

        Only what was opened after the exit of that had begun is another position.
        """
        for p in self._of(canonical_symbol(message.symbol)):
            begun = p.triggered_at is not None and message.opened_at > p.triggered_at
            if p.side is message.side and not begun:
                return p
        return self.open(message, reference=reference)

    # --- messages -----------------------------------------------------------------------------------------------------

    def on_bar(
        self, bar: Bar, received_at: datetime | None = None, confirmed: bool = False, at: datetime | None = None
    ) -> tuple[Action, ...]:
        """A bar of any symbol: levels are tested, stops follow, and what became owed is returned, worst position first.

        One inside the quiet band costs two comparisons (and one of its time) and writes nothing: an empty tuple.

        Args:
            bar: the bar; one of a symbol that is not held is nobody's business.
            received_at: when it arrived, for its age; None where age means nothing.
            confirmed: a second source confirmed the price, so the jump guard does not apply.
            at: when what follows counts as decided; at the arrival, without one at the bar's label, where it is None.
        """
        try:
            slot = self._slots[bar.symbol]
        except KeyError:
            return ()
        if (
            slot.low < bar.floor
            and bar.ceiling <= slot.high
            and slot.last.timestamp < bar.timestamp
            and received_at is None
        ):
            slot.last = bar
            return ()
        return () if slot.quiet(bar, received_at) else tuple(self._woken([(slot, bar)], received_at, confirmed, at))

    def quiet(self, bar: Bar, received_at: datetime | None = None) -> bool:
        """True when the bar changes nothing (it is then taken note of, in memory); False when `on_bar` must see it."""
        slot = self._slots.get(bar.symbol)
        return slot is None or slot.quiet(bar, received_at)

    def on_bars(
        self, bars: Iterable[Bar], *, received_at: datetime | None = None, at: datetime | None = None
    ) -> list[Action]:
        """Many bars at once: the same decisions as one by one, with one commit for all that breach together."""
        actions: list[Action] = []
        woken: dict[str, tuple[Slot, Bar]] = {}
        slots = self._slots
        for bar in bars:
            try:
                slot = slots[bar.symbol]
            except KeyError:
                continue
            if (
                slot.low < bar.floor
                and bar.ceiling <= slot.high
                and slot.last.timestamp < bar.timestamp
                and received_at is None
            ):
                slot.last = bar
                continue
            if bar.symbol in woken:
                actions += self._woken(list(woken.values()), received_at, False, at)
                woken = {}
                if bar.symbol not in slots:
                    continue
                slot = slots[bar.symbol]
            if not slot.quiet(bar, received_at):
                slot.wake()  # what comes after this bar must be looked at after it
                woken[bar.symbol] = (slot, bar)
        if woken:
            actions += self._woken(list(woken.values()), received_at, False, at)
        return actions

    def on_report(self, report: ExecutionReport, *, at: datetime) -> list[Action]:
        """The broker says something about an order. One that is not ours means nothing here."""
        owner = self.owner_of(report.client_order_id)
        return self.tell(owner, Report(at=at, report=report)) if owner else []

    def known_owner(self, client_order_id: str) -> str | None:
        """The open position that an exit order belongs to, from memory alone."""
        return self._orders.get(client_order_id)

    def owner_of(self, client_order_id: str) -> str | None:
        """The position that an exit order belongs to; None when the order is not ours."""
        row = None if client_order_id in self._orders else self.store.exit_order(client_order_id)
        return row.position_id if row is not None else self._orders.get(client_order_id)

    def tell(self, position_id: str, message: Message) -> list[Action]:
        """One message to one position; returns what is owed after it."""
        return self.tell_all([(position_id, message)])

    def tell_all(self, messages: Sequence[tuple[str, Message]]) -> list[Action]:
        """Messages to several positions, committed together; returns what is owed after them, worst position first.

        Raises:
            StoreError: nothing could be committed, and nothing is owed that was not before.
        """
        told = dict(messages)
        return self._owed_by_all(self._commit(messages), lambda p: told[p.position_id].at)

    def fault(self, bar: Bar, received_at: datetime | None = None) -> Fault | None:
        """Why a position of the bar's symbol would refuse it; None when it would not."""
        slot = self._slots.get(bar.symbol)
        if slot is None:
            return None if bar.floor > 0 else Fault(BarRefusal.UNSOUND, str(bar.close))
        return slot.fault(bar, received_at, slot.reference_price)

    def rebase(self, symbol: str, bar: Bar) -> None:
        """The symbol's prices start over at this bar (a split): it is the new reference, and decides nothing."""
        slot = self._slots.get(symbol)
        if slot is not None:
            slot.start_over(bar)

    # --- what is owed -------------------------------------------------------------------------------------------------

    def owed_by(self, p: Position, now: datetime) -> Action | None:
        """What one position owes the broker."""
        return owed(p, now, outcome_unknown=p.client_order_id in self.unknown)

    def standing(self, p: Position) -> float:
        """Present return, -0.01 for a loss of 1 %; infinity without a price. It says who goes first: floats will do."""
        price = self.last_price(p.symbol)
        known = price if price is not None else p.trigger_price
        return p.side.sign * (float(known) / float(p.entry_price) - 1) if known is not None else math.inf

    def owed(self, now: datetime) -> list[Action]:
        """Everything that is owed to the broker at `now`, worst position first."""
        due = [p for p in self.positions.values() if p.state is not State.MONITORING]
        return self._owed_by_all(due, lambda _: now)

    def sent(self, client_order_id: str) -> None:
        """The order is about to be sent: until the broker answers, its outcome is unknown."""
        self.unknown.add(client_order_id)

    def not_known(self, client_order_id: str) -> None:
        """The broker was asked and does not know the id (or it never left): the same id may be sent again."""
        self.unknown.discard(client_order_id)

    def pause(self) -> None:
        """No new triggers from now on; what is under way goes on."""
        self.paused = True

    def resume(self) -> None:
        """Triggers count again."""
        self.paused = False

    def tick(self, now: datetime, *, patience_s: float | None = None, symbol: str | None = None) -> list[Action]:
        """Time has come this far: what was waiting for it happens. `symbol` limits it to one symbol's positions."""
        held = tuple(self.positions.values()) if symbol is None else self._of(symbol)
        due = [p for p in held if p.state is not State.MONITORING]
        waits = [p.position_id for p in due if p.waiting_since is not None]
        if waits:
            self._commit([(position_id, TimeSeen(at=now, patience_s=patience_s)) for position_id in waits])
            due = [self.positions[p.position_id] for p in due if p.position_id in self.positions]
        return self._owed_by_all(due, lambda _: now)

    def marks(self) -> list[Mark]:
        """Last price, profit and highest price of each open position, for `ExitStore.save_marks`."""
        return marks_of(self._slots.values())

    def last_price(self, symbol: str) -> Decimal | None:
        """The last accepted price of a symbol that is held; None when there is none."""
        slot = self._slots.get(symbol)
        return slot.reference_price if slot is not None else None

    def refusals(self) -> list[Refused]:
        """All runs of refused bars since the start, those under way included, in order of their first bar."""
        return self._refusals.all()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _woken(
        self, woken: Sequence[tuple[Slot, Bar]], received_at: datetime | None, confirmed: bool, at: datetime | None
    ) -> list[Action]:
        """Bars of different symbols, outside their quiet bands: ask every position of each symbol, exactly."""
        messages: dict[str, BarSeen] = {}
        faults: list[tuple[Slot, Bar, tuple[Position, ...], Fault | None]] = []
        for slot, look in woken:
            held, reference = slot.positions, slot.reference_price
            bar, previous_at, is_look = slot.look_at(look, received_at)
            decided_at = at or received_at or bar.timestamp
            fault = slot.fault(bar, received_at, None if confirmed else reference)
            faults.append((slot, bar, held, fault))
            for p in held:
                own = judged_by(bar, p.side)
                verdict, rule = answer_of(self.rules, p, own) if fault is None else NO_ANSWER
                messages[p.position_id] = BarSeen(
                    at=decided_at, bar=own, reference_price=reference, received_at=received_at,
                    previous_bar_at=previous_at, refused_count=self._refusals.length(p.position_id),
                    session_close=self.session_close(p.symbol, bar.timestamp) if self.session_close else None,
                    verdict=verdict, verdict_of=rule,
                    folded=slot.folded_of(p).before(bar.timestamp),
                    paused=self.paused, confirmed=confirmed, is_look=is_look, length=slot.length,
                    shut=slot.is_shut_for(bar),
                )  # fmt: skip
        changed = self._commit(list(messages.items()), armed=False)
        for slot, bar, held, fault in faults:
            for p in held:
                self._refusals.note(p, self.positions.get(p.position_id, p), fault, messages[p.position_id])
            if fault is None:
                slot.take(bar)
            if slot.positions:
                slot.arm()
        return self._owed_by_all(changed, lambda p: messages[p.position_id].at)

    def _commit(self, messages: Sequence[tuple[str, Message]], *, armed: bool = True) -> list[Position]:
        """Decide on each message, commit all events in one transaction, fold them; the positions that changed.

        Several messages to one position are decided in order, each on what the one before it made of the position.
        With `armed` off, their symbols wake for every bar until the caller arms them.
        """
        changed: dict[str, Position] = {}
        waiting = list(messages)
        for _ in range(CONFLICTS_MAX):
            decided = self._decide_all(waiting)
            if not decided:
                return list(changed.values())
            batches = [Append(p.position_id, p.version, events, m.at, m.by) for p, m, events, _ in decided]
            results = append(self.store, batches)
            failure: StoreError | None = None
            waiting = []
            for (position, message, _, after), result in zip(decided, results, strict=True):
                if isinstance(result, VersionConflict):
                    waiting.append((position.position_id, message))
                elif isinstance(result, StoreError):
                    failure = result
                else:
                    self._keep(after, armed=armed)
                    changed[after.position_id] = after
                    notify(self.listener, after, result)
            for stream in dict.fromkeys(s for s, _ in waiting):
                self._keep(replay(r.event for r in self.store.stream(stream)))
            if failure is not None:
                raise failure
            if not waiting:
                return list(changed.values())
        raise StoreError(
            f"another writer was faster {CONFLICTS_MAX} times in a row on {[s for s, _ in waiting]}; "
            "only one process may drive a store"
        )

    def _decide_all(self, messages: Sequence[tuple[str, Message]]) -> list[_Decided]:
        """What each message means, guarded by the lifecycle; nothing is stored yet."""
        now: dict[str, Position] = {}
        decided: list[_Decided] = []
        for stream, told in messages:
            position = now.get(stream) or self.get(stream)
            if position is None:
                continue
            message = told
            if self.paused and isinstance(told, TimeSeen) and told.price is not None:
                message = replace(told, price=None)  # the pause may have come after it was told
            events = decide(position, message, self.broker)
            if events:
                guard(position, events)
                after = fold(position, events)
                assert after is not None
                decided.append((position, message, events, after))
                now[stream] = after
        return decided

    def _keep(
        self, p: Position, *, reference: Decimal | None = None, bar: Bar | None = None, armed: bool = True
    ) -> None:
        """The position as it is now, in memory and armed; a terminal one leaves memory."""
        ids = [order.client_order_id for order in p.orders]
        if ids and p.state is not State.PENDING:
            self.unknown.discard(ids[-1])
        if p.refusing is None:
            self._refusals.end(p.position_id)
        if p.state.terminal:
            self.positions.pop(p.position_id, None)
            for order_id in ids:
                self._orders.pop(order_id, None)
        else:
            self.positions[p.position_id] = p
            for order_id in ids:
                self._orders[order_id] = p.position_id
        self.levels.put(p, reference=reference, bar=bar, armed=armed)

    def _owed_by_all(self, positions: list[Position], now_for: Callable[[Position], datetime]) -> list[Action]:
        """What they owe, by present loss, the largest first; those without a price last."""
        if len(positions) > 1:
            positions.sort(key=self.standing)
        return [action for p in positions if (action := self.owed_by(p, now_for(p))) is not None]
