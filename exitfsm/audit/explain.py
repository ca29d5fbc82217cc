"""Why did it exit, and why not? The facts, from the log.

Rules of this room: facts first. `explain` gathers what is on record into an `Explanation`, and the sentences are made
from that alone (`telling`). What is not on record is named as such and never guessed: bars are no part of the log, so
that a price between two events is known only where bars are given or were recorded beside the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from exitfsm.audit.facts import (
    Explanation,
    LevelFact,
    OutcomeFact,
    PriceFact,
    RefusalFact,
    RuleFact,
    TrailFact,
)
from exitfsm.audit.life import (
    changes_of,
    decisions_of,
    entry_of,
    exit_fact,
    last_split,
    orders_of,
    overtaken_of,
)
from exitfsm.audit.plainly import plainly
from exitfsm.audit.trail import Causes, Step, account_at, last_of, steps, until
from exitfsm.errors import StoreError
from exitfsm.events import (
    ExitCompleted,
    ExitTriggered,
    PolicyChanged,
    PositionClosedElsewhere,
    ProtectionLost,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
)
from exitfsm.kinds import BarRefusal, PositionEnd
from exitfsm.lifecycle import State
from exitfsm.policy import away, rules_off, rules_on
from exitfsm.position import NO_STATES, Position, RuleStates, fold_bar, levels, restored
from exitfsm.profit import Profit
from exitfsm.store import ExitStore
from exitfsm.values import EXACT, Bar, Side, exactly, pct_change

#: Reasons of refusals that last until a price is believed again, so that no bar in between was.
_BY_PRICE = frozenset({BarRefusal.PRICE_JUMP, BarRefusal.STALE, BarRefusal.IN_THE_FUTURE})


@exactly
def explain(store: ExitStore, position_id: str, *, at: datetime | None = None, bars: Iterable[Bar] = ()) -> Explanation:
    """Why a position was exited, or why it was not.

    Args:
        store: where its log is.
        position_id: the position.
        at: as it was known then; None for all that is on record.
        bars: bars of the symbol, where there are any; others are left alone.

    Raises:
        StoreError: there is no such position, or not yet at that time.
    """
    recorded = store.stream(position_id)
    if not recorded:
        raise StoreError(f"the store has no position {position_id!r}")
    told = steps(recorded if at is None else until(recorded, at))
    if not told or told[0].after is None:
        raise StoreError(f"{position_id} was not known yet at that time: it was opened later")
    return _Explaining(store, told, at, bars).result()


class _Explaining:
    """The facts of one position at one time."""

    def __init__(self, store: ExitStore, told: list[Step], at: datetime | None, bars: Iterable[Bar]) -> None:
        self.store, self.told = store, told
        last = told[-1].after
        assert last is not None
        self.p: Position = last
        self.profit = told[-1].profit or Profit()
        self.split = last_split(told)
        self.trigger = self._trigger()
        # What stood at the decision is what explains it; without a decision, what stands now.
        self.deciding = self.trigger.before if self.trigger is not None and self.trigger.before else self.p
        self.refusals = _refusals(told)
        self.bars = _Bars(bars, self.p, self.deciding, self._evidence_at(), at, self.refusals, self.split)
        self.states = self.bars.states if self.bars.states.to is not None else self._states(at)
        self.mark, self.peak = self._marks(at)
        known = (self.bars.last, self.bars.refused, self.mark)
        self.as_of = at or max([told[-1].at, *(price.at for price in known if price is not None)])

    def result(self) -> Explanation:
        p, trigger = self.p, self.trigger
        price = self._price()
        account = account_at(self.store, p.account, self.as_of)
        watched = p.state is State.MONITORING
        return Explanation(
            position_id=p.position_id,
            symbol=p.symbol,
            side=p.side,
            qty=p.qty,
            entry_price=p.entry_price,
            entered=entry_of(self.told),
            changes=changes_of(self.told),
            opened_at=p.opened_at,
            strategy_name=p.strategy_name,
            as_of=self.as_of,
            events=len(self.told),
            state=p.state,
            enabled=p.policy.enabled,
            policy=self.deciding.policy.digest(),
            policy_event=self._event_of_policy(),
            price=price,
            refused_price=self._refused_price(price),
            best=self._best(),
            levels=self._levels(price),
            waiting=_waiting(self.deciding),
            watching=_watching(p),
            exit=exit_fact(trigger, self.bars.evidence) if trigger is not None else None,
            earlier_exits=[exit_fact(s, None) for s in decisions_of(self.told) if s is not trigger],
            orders=orders_of(self.told),
            overtaken=overtaken_of(self.told),
            profit=self.profit,
            outcome=self._outcome(),
            refusals=self.refusals,
            alarms=[f"{alarm.kind}: {alarm.text}" for alarm in p.alarms],
            lost=[s.recorded.event.why for s in self.told if isinstance(s.recorded.event, ProtectionLost)],
            paused_since=account.paused_since,
            paused_by=account.paused_by,
            breaker_since=account.breaker_since,
            next_attempt_at=p.next_attempt_at if p.state is State.REJECTED else None,
            rules_off=rules_off(p.policy),
            not_recorded=self._not_recorded(price, watched=watched),
        )

    def _states(self, at: datetime | None) -> RuleStates:
        """What the rules have folded of bars, as the store noted it beside its events, where that is of then."""
        if not self.deciding.policy.plan.folding or self.trigger is not None:
            return NO_STATES
        known = restored(self.p, self.store.folded(self.p.position_id))
        return known if at is None or (known.to is not None and known.to <= at) else NO_STATES

    def _trigger(self) -> Step | None:
        """The decision that stands: the newest, unless an operator handed the position back after it."""
        return last_of(self.told, ExitTriggered) if self.p.reason is not None else None

    def _evidence_at(self) -> datetime | None:
        event = self.trigger.recorded.event if self.trigger is not None else None
        return event.bar_at if isinstance(event, ExitTriggered) else None

    def _event_of_policy(self) -> int:
        changed = [s.version for s in self.told if isinstance(s.recorded.event, PolicyChanged)]
        return changed[-1] if changed else 1

    def _marks(self, at: datetime | None) -> tuple[PriceFact | None, PriceFact | None]:
        """The last and the highest price that the store noted beside its events, where they are known to be of then."""
        row = self.store.tracking(self.p.symbol)
        if row is None or row.position_id != self.p.position_id:
            return None, None
        when = row.last_evaluated_at_utc
        if row.current_price is None or when is None or (at is not None and when > at):
            return None, None
        last = PriceFact(price=row.current_price, at=when, source="mark")
        peak = row.highest_price
        return last, PriceFact(price=peak, at=when, source="mark") if peak is not None else None

    def _price(self) -> PriceFact | None:
        """The price that the levels are compared with: that of the decision, else the newest that is known."""
        event = self.trigger.recorded.event if self.trigger is not None else None
        if isinstance(event, ExitTriggered):
            return PriceFact(price=event.trigger_price, at=event.bar_at or event.at, source="event")
        known = [price for price in (self.mark, self.bars.last) if price is not None]
        return max(known, key=lambda price: price.at, default=None)

    def _refused_price(self, price: PriceFact | None) -> PriceFact | None:
        """The newest price that was not believed, where it is newer than the last that was."""
        refused = self.bars.refused
        if self.p.state is not State.MONITORING or refused is None or (price is not None and price.at >= refused.at):
            return None
        return refused

    def _best(self) -> PriceFact | None:
        """The best price while it was held: from bars, else what the newest stop was moved by, else as noted."""
        if self.bars.best is not None:
            return self.bars.best
        if self.peak is not None and self.p.side is Side.LONG:
            return self.peak
        since = self.split.version if self.split is not None else 0  # prices of before are in other units
        moved = last_of(self.told[since:], StopMoved)
        if moved is None or not isinstance(moved.recorded.event, StopMoved):
            return None
        return PriceFact(price=moved.recorded.event.best_price, at=moved.at, source="event")

    def _levels(self, price: PriceFact | None) -> list[LevelFact]:
        p = self.deciding
        when = price.at if price is not None else self.as_of
        if self.trigger is None:
            when = self.as_of
        target, stops = levels(p, when, self.states.states)
        found, causes = [], self._causes()
        for level, is_target in [*((stop, False) for stop in stops), *([(target, True)] if target else [])]:
            distance = percent = None
            if price is not None:
                sign = p.side.sign if is_target else -p.side.sign
                distance = EXACT.multiply(EXACT.subtract(level.price, price.price), Decimal(sign))
                percent = pct_change(price.price, level.price, Side.LONG) * sign
            found.append(
                LevelFact(
                    rule=level.rule,
                    price=level.price,
                    threshold_pct=level.threshold_pct,
                    since_event=causes.setter(level.rule) or 1,
                    distance=distance,
                    distance_pct=percent,
                    section=level.section,
                )
            )
        return found

    def _causes(self) -> Causes:
        """What set the levels that stood at the decision, or that stand now."""
        causes = Causes()
        for s in self.told[: self.trigger.version - 1] if self.trigger is not None else self.told:
            causes.of(s.recorded)
        return causes

    def _outcome(self) -> OutcomeFact | None:
        p = self.p
        if not p.state.terminal or p.ended_at is None or p.cooldown_until is None:
            return None
        ended = last_of(self.told, ExitCompleted if p.state is State.FILLED else PositionClosedElsewhere)
        assert ended is not None
        e, profit = ended.recorded.event, self.profit
        return OutcomeFact(
            how=e.how if isinstance(e, PositionClosedElsewhere) else PositionEnd.FILLED,
            event=ended.version,
            at=p.ended_at,
            qty=profit.qty,
            avg_price=p.avg_exit_price,
            pnl=profit.pnl,
            pnl_pct=profit.pnl_pct,
            by_hand_qty=profit.by_hand_qty,
            residue_qty=profit.residue_qty,
            held_seconds=round((p.ended_at - p.opened_at).total_seconds()),
            cooldown_until=p.cooldown_until,
        )

    def _not_recorded(self, price: PriceFact | None, *, watched: bool) -> list[str]:
        missing = []
        if self.trigger is not None and self._evidence_at() is not None and self.bars.evidence is None:
            missing.append("the other prices of the bar that decided (bars are no part of the log)")
        if self._best() is None and price is not None:
            extreme = "highest" if self.p.side is Side.LONG else "lowest"
            missing.append(f"the {extreme} price while it was held (no bars were given or recorded)")
        if watched and price is None:
            missing.append("the last price (no bars were given or recorded, and no mark was saved)")
        said = (rule.not_on_record(self.p, watched=watched) for rule in rules_on(self.p.policy))
        return [*missing, *filter(None, said)]


class _Bars:
    """What bars say about a position, in one pass and constant memory.

    Attributes:
        last: the newest price that was believed.
        refused: the newest price that was not, by a run of refusals that is on record.
        best: the best price while it was held, up to the decision to exit.
        evidence: the bar that decided.
        states: what the rules had folded of them, up to that one.
    """

    def __init__(
        self,
        bars: Iterable[Bar],
        p: Position,
        deciding: Position,
        evidence_at: datetime | None,
        at: datetime | None,
        runs: Sequence[RefusalFact],
        split: Step | None,
    ) -> None:
        self.last: PriceFact | None = None
        self.refused: PriceFact | None = None
        self.best: PriceFact | None = None
        self.evidence: dict[str, str] | None = None
        self.states = NO_STATES
        since = split.at if split is not None else p.opened_at  # prices of before are in other units
        end = evidence_at or p.triggered_at or p.ended_at
        for bar in bars:
            if bar.symbol != p.symbol or (at is not None and bar.timestamp > at) or not bar.floor > 0:
                continue
            if p.ended_at is not None and bar.timestamp > p.ended_at:
                continue
            if _was_refused(bar, runs):
                self.refused = _newer(self.refused, bar)
                continue
            self.last = _newer(self.last, bar)
            if deciding.policy.plan.folding and (end is None or bar.timestamp < end):
                self.states = fold_bar(deciding, bar, self.states)
            if since < bar.timestamp and (end is None or bar.timestamp <= end):
                self._note_best(bar, p.side)
            if bar.timestamp == evidence_at:
                names = ("open", "high", "low", "close")
                self.evidence = {name: str(plainly(getattr(bar, name))) for name in names}

    def _note_best(self, bar: Bar, side: Side) -> None:
        price = bar.high if side is Side.LONG else bar.low
        if self.best is None or (price - self.best.price) * side.sign > 0:
            self.best = PriceFact(price=price, at=bar.timestamp, source="bars")


def _newer(known: PriceFact | None, bar: Bar) -> PriceFact:
    if known is not None and bar.timestamp < known.at:
        return known
    return PriceFact(price=bar.close, at=bar.timestamp, source="bars")


def _was_refused(bar: Bar, runs: Sequence[RefusalFact]) -> bool:
    """True when a run of refusals says that this bar's price was not believed."""
    return any(
        run.reason in _BY_PRICE
        and run.bar_at <= bar.timestamp
        and (run.ended_at is None or bar.timestamp < run.ended_at)
        for run in runs
    )


def _waiting(p: Position) -> list[TrailFact]:
    """The stops that have not begun to move."""
    return [
        TrailFact(rule=rule.reason, activation_pct=pct, begins_at=away(p.entry_price, pct, p.side.sign))
        for rule in p.policy.plan.moving
        if (pct := rule.begins_pct(p)) is not None
    ]


def _watching(p: Position) -> list[RuleFact]:
    """The rules without a level that have not ended the position."""
    known = ((rule.name, rule.due_at(p), rule.watches(p)) for rule in rules_on(p.policy))
    return [RuleFact(rule=name, due_at=due, text=text) for name, due, text in known if due is not None or text]


def _refusals(told: Sequence[Step]) -> list[RefusalFact]:
    """Every run of refused inputs."""
    found: list[RefusalFact] = []
    for s in told:
        e = s.recorded.event
        if isinstance(e, TriggerRefused):
            run = RefusalFact(
                event=s.version,
                reason=e.reason,
                bar_at=e.bar_at,
                price=e.price,
                reference_price=e.reference_price,
                count=None,
                ended_at=None,
            )
            found.append(run)
        elif isinstance(e, RefusalEnded) and found and found[-1].count is None:
            found[-1] = msgspec.structs.replace(found[-1], count=e.count, ended_at=e.bar_at)
    return found
