"""The time limit."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

from exitfsm.policy.rule import Held, Rule, held_s
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import ExitType

if TYPE_CHECKING:
    pass


class TimeLimit(Section, frozen=True):
    """Exit when the position has been held for so long."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    max_seconds: Annotated[int, Spec("longest time to hold, in seconds", gt=0, le=10**9)] = 86_400


class TimeLimitRule(Rule[TimeLimit]):
    """Due a fixed time after the entry."""

    name = "time_limit"
    section = TimeLimit
    reason = ExitType.TIME_LIMIT

    def due(self, p: Held, at: datetime, session_close: datetime | None) -> bool:
        return held_s(p, at) >= p.policy.time_limit.max_seconds

    def due_at(self, p: Held) -> datetime | None:
        return p.opened_at + timedelta(seconds=p.policy.time_limit.max_seconds)

    def next_change_s(self, p: Held, at: datetime) -> int | None:
        return p.policy.time_limit.max_seconds


RULE = TimeLimitRule()
