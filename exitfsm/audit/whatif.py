"""What if: the positions of a store, with their real entries, under another policy, on bars.

With the policy that they had they must decide what the log says they decided: `WhatIf.reproduced`. That is the proof
that the log, the bars and this program fit together; only then do the other figures mean something.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from msgspec.structs import replace

from exitfsm.audit.changes import settings_of
from exitfsm.audit.replaying import (
    DECISIONS,
    Given,
    Logged,
    Replay,
    Replayed,
    Rules,
    bare,
    given_of,
    pauses_of,
    watched_of,
)
from exitfsm.audit.trail import steps, time_of
from exitfsm.config import SessionHours
from exitfsm.config.changes import Changes, changed
from exitfsm.errors import StoreError
from exitfsm.events import (
    Event,
    ExitTriggered,
    OrderAccepted,
    PolicyChanged,
    PositionOpened,
)
from exitfsm.policy import ExitPolicy
from exitfsm.position import Position, evolve
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.recorded_bars import Seen
from exitfsm.simulate import SimulatedExit, simulated_exit
from exitfsm.store import ExitStore
from exitfsm.values import ZERO, Bar, exactly, pct_change, plain, stamp
from exitfsm.words import in_words

#: Gives the bars, in order of arrival, from the first on: asked once for each policy.
Bars = Callable[[], Iterable[Seen]]


class WhatIfPosition(msgspec.Struct, frozen=True, kw_only=True):
    """One position: how it went, how it would have gone (None where it never exits), and whether that is the same.

    Attributes:
        opened_at, entry_price: the entry, which is the same in both.
        pnl_difference_pct: replayed less logged, in percent of the entry; None where one of them has no figure.
        same_policy: it ran with the very policy that the log has.
        decisions: how many decisions the log has.
        same_decisions: the replay decided the same, at the same bars, on the same evidence.
        same_events: it recorded the same altogether, the broker's own numbers of the orders aside.
        first_difference: the first decision that differs, in words; empty when none does.
        entered: bars reached its entry; without that nothing could be replayed.
        decided_inside_bar: the log has an exit at a price of a bar that still formed, and the bars given have that bar
            only as it closed: they cannot say what was decided when.
    """

    position_id: str
    symbol: str
    opened_at: datetime
    entry_price: Decimal
    logged: SimulatedExit | None
    replayed: SimulatedExit | None
    pnl_difference_pct: Decimal | None
    same_policy: bool
    decisions: int
    same_decisions: bool
    same_events: bool
    first_difference: str = ""
    entered: bool = True
    decided_inside_bar: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As JSON data; `decided_inside_bar` is there where it is so."""
        inside = {"decided_inside_bar": True} if self.decided_inside_bar else {}
        return inside | {
            "position_id": self.position_id,
            "symbol": self.symbol,
            "logged": self.logged.as_dict() if self.logged is not None else None,
            "replayed": self.replayed.as_dict() if self.replayed is not None else None,
            "pnl_difference_pct": str(self.pnl_difference_pct) if self.pnl_difference_pct is not None else None,
        }


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one policy.

    Attributes:
        changes: the settings that were changed.
        policy: the effective settings as plain data; a setting in which the positions differ is None.
        positions: one entry each, in the order of the entries.
        bars: how many bars there were.
    """

    changes: dict[str, str]
    policy: dict[str, Any] | None
    positions: list[WhatIfPosition]
    bars: int

    @property
    def unchanged(self) -> bool:
        """True when every position ran with the policy that it had."""
        return all(p.same_policy for p in self.positions)

    @property
    def reproduced(self) -> bool | None:
        """True when every position with its own policy decided what the log says; None when there is none."""
        own = [p.same_decisions for p in self.positions if p.same_policy]
        return all(own) if own else None

    def as_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return {"policy": self.policy, "positions": [p.as_dict() for p in self.positions]}


@exactly
def whatif(
    store: ExitStore,
    bars: Bars,
    changes: Changes | None = None,
    *,
    positions: Sequence[str] | None = None,
    session: SessionHours | None = None,
    slippage_pct: Decimal = ZERO,
    rules: Rules | None = None,
    progress: Callable[[int], None] | None = None,
) -> WhatIf:
    """Replay positions of a store under a changed policy.

    Args:
        store: where their logs are.
        bars: gives the bars.
        changes: settings to change, as `{"stop_loss.threshold_pct": "1.5"}`; none: the policy that each had.
        positions: ids; all of the store when None.
        session: the market's hours, for `end_of_session`; the default ones when None. The log does not hold them.
        slippage_pct: how much worse than the open orders fill, in percent.
        rules: functions for `custom_rule`, by (name, version).
        progress: told now and then how many bars are done.

    Raises:
        ConfigError: a setting is unknown or not allowed, or a policy has a custom rule that is not given.
        StoreError: there is no such position.
    """
    wanted = dict(changes or {})
    logged = [_logged(store, key) for key in (positions if positions is not None else _ids(store))]
    known: dict[str, ExitPolicy] = {}

    def change(policy: ExitPolicy) -> ExitPolicy:
        digest = policy.digest()
        if digest not in known:
            known[digest] = changed(policy, wanted)
        return known[digest]

    replay = Replay(
        logged,
        pauses=_pauses(store, logged),
        change=change,
        session=session or SessionHours(),
        slippage_pct=slippage_pct,
        rules=rules or {},
    )
    counted = _Counted(bars(), {key for one in logged for key in _decided_at(one)})
    ran = replay.run(counted, progress)
    found = [
        _compared(one, ran.get(one.position.position_id), change, replay.bars_end(one.opened.symbol), counted)
        for one in logged
    ]
    return WhatIf(changes=wanted, policy=settings_of(replay.policies.values()), positions=found, bars=counted.count)


class _Counted:
    """Bars, counted as they go by; those of the times in `wanted`, by symbol, are kept."""

    def __init__(self, bars: Iterable[Seen], wanted: Collection[tuple[str, datetime]]) -> None:
        self._bars, self.count = iter(bars), 0
        self._wanted, self._kept = wanted, dict[tuple[str, datetime], list[Bar]]()

    def closed_elsewhere(self, one: Logged) -> tuple[ExitTriggered, Bar] | None:
        """The first exit of a log that no close of the bars shows, with the one look at its bar that they have."""
        for e in one.events:
            if isinstance(e, ExitTriggered) and e.bar_at is not None:
                looks = self._kept.get((one.opened.symbol, e.bar_at), [])
                if len(looks) == 1 and looks[0].close != e.trigger_price:
                    return e, looks[0]
        return None

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> Seen:
        seen = next(self._bars)
        self.count += 1
        if (key := (seen.bar.symbol, seen.bar.timestamp)) in self._wanted:
            self._kept.setdefault(key, []).append(seen.bar)
        return seen


def _decided_at(one: Logged) -> list[tuple[str, datetime]]:
    return [(one.opened.symbol, e.bar_at) for e in one.events if isinstance(e, ExitTriggered) and e.bar_at is not None]


def _ids(store: ExitStore) -> list[str]:
    return [row.position_id for row in store.positions()]


def _logged(store: ExitStore, position_id: str) -> Logged:
    recorded = store.stream(position_id)
    if not recorded or not isinstance(recorded[0].event, PositionOpened):
        raise StoreError(f"the store has no position {position_id!r}")
    told = steps(recorded)
    last, before = told[-1].after, [s.before for s in told]
    assert last is not None
    return Logged(
        position=last,
        events=tuple(r.event for r in recorded),
        opened_at=time_of(recorded[0]),
        given=given_of(position_id, recorded, before),
        watched=watched_of(recorded, before),
    )


def _pauses(store: ExitStore, logged: Iterable[Logged]) -> list[Given]:
    accounts = sorted({one.opened.account for one in logged})
    found = [g for account in accounts for g in pauses_of(store.stream(f"{ACCOUNT_PREFIX}{account}"))]
    return sorted(found, key=lambda g: g.at)


# --- comparing --------------------------------------------------------------------------------------------------------


def _compared(
    one: Logged,
    ran: Replayed | None,
    change: Callable[[ExitPolicy], ExitPolicy],
    bars_end: datetime | None,
    counted: _Counted,
) -> WhatIfPosition:
    logged = _exit(one.position)
    replayed = _exit(ran.position) if ran is not None else None
    policies = [one.opened.policy, *(g.event.policy for g in one.given if isinstance(g.event, PolicyChanged))]
    decided = [bare(e) for e in one.events if isinstance(e, DECISIONS)]
    events = ran.events if ran is not None else ()
    difference = _first_difference(one.events, events, bars_end, watched=not one.position.state.terminal)
    inside = counted.closed_elsewhere(one) if difference else None
    if inside is not None:
        difference += f" ({_inside(*inside)})"
    return WhatIfPosition(
        position_id=one.position.position_id,
        symbol=one.position.symbol,
        opened_at=one.opened.opened_at,
        entry_price=one.opened.entry_price,
        logged=logged,
        replayed=replayed,
        pnl_difference_pct=_difference(logged, replayed),
        same_policy=all(change(policy) == policy for policy in policies),
        decisions=len(decided),
        same_decisions=ran is not None and not difference,
        same_events=list(map(_nameless, one.events)) == list(map(_nameless, events)),
        first_difference=difference if ran is not None else "no bar reaches its entry",
        entered=ran is not None,
        decided_inside_bar=inside is not None,
    )


def _inside(e: ExitTriggered, bar: Bar) -> str:
    """What bars that have closed cannot show of an exit."""
    when = f"{plain(e.trigger_price)} came while the bar of {stamp(bar.timestamp)} formed, which closed at"
    return f"decided inside a bar: {when} {plain(bar.close)}; record_bars: true keeps each look"


def _exit(p: Position) -> SimulatedExit | None:
    """How it ended; of one that was sold in parts what all of them came to."""
    if not p.state.terminal:
        return None
    last, average = simulated_exit(p), p.avg_exit_price
    if not p.parts.orders or average is None:
        return last
    return replace(last, qty=p.qty, avg_fill_price=average, pnl_pct=pct_change(p.entry_price, average, p.side))


def _difference(logged: SimulatedExit | None, replayed: SimulatedExit | None) -> Decimal | None:
    one = logged.pnl_pct if logged is not None else None
    other = replayed.pnl_pct if replayed is not None else None
    return other - one if one is not None and other is not None else None


def _nameless(e: Event) -> Event:
    """An event without the number that the broker gave the order."""
    return replace(e, broker_order_id=None) if isinstance(e, OrderAccepted) else e


def _first_difference(
    logged: Sequence[Event], replayed: Sequence[Event], bars_end: datetime | None, *, watched: bool
) -> str:
    """The first decision that differs, in words; empty when none does. `watched`: the log ends before the exit."""
    ours, theirs = _decisions(logged), _decisions(replayed)
    for number, ((one, said), (other, said_other)) in enumerate(zip(ours, theirs, strict=False), 1):
        if bare(one) != bare(other):
            return f"decision {number} of the log is {said}; of the replay {said_other}"
    if len(theirs) < len(ours):
        missing, said = ours[len(theirs)]
        at = getattr(missing, "bar_at", None) or getattr(missing, "at", None)
        ended = bars_end is not None and at is not None and bars_end < at
        why = f" (the bars end at {stamp(bars_end)})" if ended and bars_end is not None else ""
        return f"decision {len(theirs) + 1} of the log, {said}, is not in the replay{why}"
    if len(theirs) > len(ours):
        after = " (the log ends there, and the bars go on)" if watched else ""
        return f"the replay decides {theirs[len(ours)][1]} after the last decision of the log{after}"
    return ""


def _decisions(events: Sequence[Event]) -> list[tuple[Event, str]]:
    """Every decision, and what it says."""
    found: list[tuple[Event, str]] = []
    position: Position | None = None
    for e in events:
        before, position = position, evolve(position, e)
        if isinstance(e, DECISIONS):
            bar_at = getattr(e, "bar_at", None)
            at = f" at {stamp(bar_at)}" if bar_at is not None else ""
            found.append((e, f"{type(e).__name__}{at} ({in_words(before, position, e)})"))
    return found
