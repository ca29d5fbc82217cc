"""A stop below the average price by volume: a rule as somebody might add it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import msgspec

from exitfsm.policy.prices import Level, away
from exitfsm.policy.rule import Folded, Held, Rule
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import EXACT, Bar, ExitType, plain

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy


class VwapStop(Section, frozen=True):
    """Exit at a percentage beyond the average price since the entry, weighted by volume."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    beyond_pct: Annotated[Decimal, Spec("distance from the average price in percent", ge=0, lt=100)] = Decimal("0.5")


class Traded(msgspec.Struct, frozen=True):
    """What was traded since the entry."""

    volume: Decimal = Decimal(0)
    value: Decimal = Decimal(0)


class VwapStopRule(Rule[VwapStop]):
    """A level that moves with every bar, both ways."""

    name = "vwap_stop"
    section = VwapStop
    reason = ExitType.STOP_LOSS
    label = name
    state = Traded

    def fold(self, state: Traded | None, p: Held, bar: Bar) -> Traded:
        known = state or Traded()
        value = EXACT.multiply(bar.close, bar.volume)
        return Traded(EXACT.add(known.volume, bar.volume), EXACT.add(known.value, value))

    def stop(self, p: Held, at: datetime, folded: Folded) -> Level | None:
        traded = folded.get(self.name)
        if not isinstance(traded, Traded) or traded.volume <= 0:
            return None
        average = EXACT.divide(traded.value, traded.volume).quantize(Decimal("0.000000001"), context=EXACT)
        pct = self.of(p.policy).beyond_pct
        return Level(away(average, pct, -p.side.sign), self.reason, pct, self.label)

    def brief(self, policy: ExitPolicy) -> str:
        settings = self.of(policy)
        return f"vwap stop {plain(settings.beyond_pct)} %" if settings.enabled else ""

    def alternatives(self, policy: ExitPolicy) -> Sequence[dict[str, str]]:
        settings = self.of(policy)
        return [{"vwap_stop.beyond_pct": plain(settings.beyond_pct * 2)}] if settings.enabled else []


RULE = VwapStopRule()
