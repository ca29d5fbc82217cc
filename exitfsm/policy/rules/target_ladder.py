"""The target that comes down with time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from exitfsm.policy.prices import Level, away
from exitfsm.policy.rule import Conflict, Held, Rule, held_s
from exitfsm.policy.rules import profit_taking
from exitfsm.policy.settings import Section, Spec

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy


class LadderStep(Section, frozen=True):
    """From `after_seconds` on the profit target is `threshold_pct`."""

    after_seconds: Annotated[int, Spec("seconds since the entry", ge=0, le=10**9)]
    threshold_pct: Annotated[Decimal, Spec("profit target in percent from then on", ge=0, le=1000)]


class TargetLadder(Section, frozen=True):
    """A profit target that comes down the longer the position is held. Before the first step the fixed target holds."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    steps: Annotated[tuple[LadderStep, ...], Spec("steps in rising order of `after_seconds`")] = ()


class TargetLadderRule(Rule[TargetLadder]):
    """A target for each time since the entry."""

    name = "target_ladder"
    section = TargetLadder
    reason = profit_taking.RULE.reason
    stands_in_for = (profit_taking.RULE.name,)

    def target(self, p: Held, at: datetime) -> Level | None:
        held = held_s(p, at)
        due = [s for s in p.policy.target_ladder.steps if s.after_seconds <= held]
        if not due:
            return None
        pct = due[-1].threshold_pct
        return Level(away(p.entry_price, pct, p.side.sign), self.reason, pct)

    def next_change_s(self, p: Held, at: datetime) -> int | None:
        held = held_s(p, at)
        return next((s.after_seconds for s in p.policy.target_ladder.steps if s.after_seconds > held), None)

    def conflicts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        ladder, steps = policy.target_ladder, (self.name, "steps")
        if ladder.enabled and not ladder.steps:
            yield [steps, (self.name, "enabled")], "the ladder is enabled but has no steps; give at least one"
        for index, (before, after) in enumerate(pairwise(ladder.steps), 1):
            if after.after_seconds <= before.after_seconds:
                text = f"{after.after_seconds} is not allowed; must be greater than {before.after_seconds}"
                yield [(*steps, index, "after_seconds"), steps], f"{text}, the step before"


RULE = TargetLadderRule()
