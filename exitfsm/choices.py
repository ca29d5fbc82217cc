"""What a person has said of the scope: symbols taken into what is managed, or out of it, while the manager runs.

Rules of this room: pure. It is folded from the account's stream, and counts before what is configured, until a person
says otherwise. What was taken in for one `flatten` alone counts before that, and ends with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec.structs import replace

from exitfsm.events import Event, ScopeChanged
from exitfsm.kinds import ScopeHow
from exitfsm.values import same_symbol, stamp


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a person said of one symbol; `command`: it holds for that `flatten` alone, empty where it lasts."""

    symbol: str
    managed: bool
    by: str
    at: datetime
    why: str = ""
    command: str = ""

    @property
    def why_not(self) -> str:
        """Why it is not managed; empty where it is."""
        return "" if self.managed else f"ignored by {self.by}"

    @property
    def said(self) -> str:
        """All of it, in words."""
        how = "managed" if self.managed else "not managed"
        why = f": {self.why}" if self.why else ""
        until = ", for a flatten alone" if self.command else ""
        return f"{self.symbol}: {how} since {stamp(self.at)}, by {self.by}{until}{why}"


class Choices(msgspec.Struct, frozen=True):
    """What counts now: one choice for a symbol that lasts, and one that is for a `flatten` alone."""

    lasting: tuple[Choice, ...] = ()
    passing: tuple[Choice, ...] = ()

    def of(self, symbol: str) -> Choice | None:
        """What was said of a symbol; None where nothing was, and the configuration counts."""
        return next((one for one in (*self.passing, *self.lasting) if same_symbol(one.symbol, symbol)), None)

    def takes_in(self, symbol: str) -> bool:
        """True where a person took a symbol into what is managed."""
        chosen = self.of(symbol)
        return chosen is not None and chosen.managed

    def lets_go(self, symbol: str) -> bool:
        """True where a person took a symbol out of what is managed."""
        chosen = self.of(symbol)
        return chosen is not None and not chosen.managed

    @property
    def all(self) -> tuple[Choice, ...]:
        """What counts, each symbol once, as it was said."""
        return (*self.passing, *(one for one in self.lasting if self.of(one.symbol) is one))


#: Nothing was said.
NO_CHOICES = Choices()


def chosen(choices: Choices, event: Event) -> Choices:
    """The choices after an event of the account's stream."""
    if not isinstance(event, ScopeChanged):
        return choices
    passing = _without(choices.passing, event.symbol)
    if event.how == ScopeHow.RESTORED:
        return replace(choices, passing=passing)
    one = Choice(
        symbol=event.symbol,
        managed=event.how == ScopeHow.ADOPTED,
        by=event.by,
        at=event.at,
        why=event.why,
        command=event.command,
    )
    if event.command:
        return replace(choices, passing=(*passing, one))
    return Choices((*_without(choices.lasting, event.symbol), one), passing)


def _without(choices: Iterable[Choice], symbol: str) -> tuple[Choice, ...]:
    return tuple(one for one in choices if not same_symbol(one.symbol, symbol))
