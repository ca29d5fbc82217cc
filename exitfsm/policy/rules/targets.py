"""Profit targets that sell the position in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from exitfsm.policy.prices import Level, away, reached
from exitfsm.policy.rule import Conflict, Held, Rule
from exitfsm.policy.rules import atr_levels, break_even, profit_taking, target_ladder
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import HUNDRED, ZERO, plain

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy


class Then(Section, frozen=True):
    """What follows once the part is sold."""

    stop: Annotated[
        Decimal | msgspec.UnsetType,
        Spec(
            "where the break-even stop goes, in percent beyond the entry; `entry` is 0. It never loosens",
            gt=-100,
            le=1000,
            word="entry",
        ),
    ] = msgspec.UNSET


class Target(Section, frozen=True):
    """One target, and the part of the position that it sells."""

    at_pct: Annotated[Decimal, Spec("profit in percent of the entry price at which the part is sold", gt=0, le=1000)]
    sell_pct: Annotated[Decimal, Spec("how much is sold, in percent of the quantity at the first part", gt=0, le=100)]
    then: Then = Then()


class Targets(Section, frozen=True):
    """Profit targets that each sell a part of the position, with market orders. They replace the one profit target.

    Parts are rounded down to the venue's step. Where they come to 100 %, the last one sells what is left; otherwise
    the rest leaves by a stop or by time.
    """

    listed: ClassVar[str] = "parts"

    parts: Annotated[tuple[Target, ...], Spec("the targets, in rising order of `at_pct`")] = ()


class TargetsRule(Rule[Targets]):
    """Some targets, of which the next that is not sold counts."""

    name = "targets"
    section = Targets
    reason = profit_taking.RULE.reason
    stands_in_for = (profit_taking.RULE.name,)
    sole_target = True

    def on(self, policy: ExitPolicy) -> bool:
        return bool(self.of(policy).parts)

    def target(self, p: Held, at: datetime) -> Level | None:
        parts = self.of(p.policy).parts
        if p.parts.done >= len(parts):
            return None
        pct = parts[p.parts.done].at_pct
        return Level(away(p.entry_price, pct, p.side.sign), self.reason, pct, self.name)

    def parts_reached(self, p: Held, best: Decimal) -> int | None:
        found = None
        for index, part in enumerate(self.of(p.policy).parts, 1):
            price = away(p.entry_price, part.at_pct, p.side.sign)
            if index > p.parts.done and reached(best, price, p.side.sign):
                found = index
        return found

    def shares(self, p: Held, index: int) -> Sequence[Decimal] | None:
        parts = self.of(p.policy).parts
        if index == len(parts) and sum(part.sell_pct for part in parts) == HUNDRED:
            return None
        return [part.sell_pct for part in parts[p.parts.done : index]]

    def stop_after(self, p: Held, index: int) -> Level | None:
        asked = [part.then.stop for part in self.of(p.policy).parts[:index]]
        pcts = [pct for pct in asked if isinstance(pct, Decimal)]
        if not pcts:
            return None
        pct = max(pcts)
        return Level(away(p.entry_price, pct, p.side.sign), break_even.RULE.reason, pct, self.name)

    def conflicts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        parts = self.of(policy).parts
        if not parts:
            return
        for index, (before, after) in enumerate(pairwise(parts), 1):
            if after.at_pct <= before.at_pct:
                text = f"{plain(after.at_pct)} is not allowed; must be greater than {plain(before.at_pct)}"
                yield [(self.name, index, "at_pct")], f"{text}, the target before"
        total = sum((part.sell_pct for part in parts), ZERO)
        if total > HUNDRED:
            yield [(self.name,)], f"the parts come to {plain(total)} %; they must come to 100 % at most"
        for index, part in enumerate(parts):
            stop = part.then.stop
            if isinstance(stop, Decimal) and stop >= part.at_pct:
                text = f"{plain(stop)} is not allowed; must be less than at_pct ({plain(part.at_pct)})"
                yield [(self.name, index, "then", "stop")], text
        yield from self._beside(policy)

    def _beside(self, policy: ExitPolicy) -> Iterator[Conflict]:
        """Another target that somebody has set: which of them counts?"""
        profit, default = policy.profit_taking, profit_taking.ProfitTaking()
        said = "stands beside targets, which replace it; remove the one or the other"
        if profit.enabled and profit != default:
            yield [(profit_taking.RULE.name,), (self.name,)], said
        if policy.target_ladder.enabled:
            yield [(target_ladder.RULE.name, "enabled"), (self.name,)], said
        atr = policy.atr_levels
        if atr.enabled and atr.target_multiple != atr_levels.AtrLevels().target_multiple:
            yield [(atr_levels.RULE.name, "target_multiple"), (self.name,)], said

    def doubts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        for part in self.of(policy).parts[:1]:
            yield from self.too_near("at_pct", part.at_pct)

    def brief(self, policy: ExitPolicy) -> str:
        parts = self.of(policy).parts
        return "targets " + ", ".join(f"{plain(part.sell_pct)} % at {plain(part.at_pct)} %" for part in parts)


RULE = TargetsRule()
