"""The end of the session."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from exitfsm.policy.rule import Held, Rule
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import ExitType


class EndOfSession(Section, frozen=True):
    """Exit before the market closes. Has no effect where the market never closes."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    minutes_before_close: Annotated[int, Spec("minutes before the close at which to exit", ge=0, le=1440)] = 5


class EndOfSessionRule(Rule[EndOfSession]):
    """Due some minutes before the close, which comes with each bar."""

    name = "end_of_session"
    section = EndOfSession
    reason = ExitType.END_OF_SESSION
    every_bar = True
    needs_session = True

    def due(self, p: Held, at: datetime, session_close: datetime | None) -> bool:
        minutes = p.policy.end_of_session.minutes_before_close
        return session_close is not None and at >= session_close - timedelta(minutes=minutes)

    def watches(self, p: Held) -> str:
        return "end_of_session is on."

    def not_on_record(self, p: Held, *, watched: bool) -> str:
        return "the session's hours, so when end_of_session would be due" if watched else ""


RULE = EndOfSessionRule()
