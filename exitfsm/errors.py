"""Every error of the library, named by whose fault it is.

- `IllegalTransition` is ours: the code asked the lifecycle for a move it does not have.
- `ConfigError`, `FeedError` and `StoreError` are yours: a setting, a data file or a store that needs a person. Their
  text says what is wrong, where, and what to do.
- `BrokerError` is nobody's yet: what the broker did is not known until its own record says so. Its subclasses are the
  exceptions to that: `OrderRefused` (a definite no) and `NotSent` (the request never left; `RateLimited` where it was
  one too many).

What the market does (a reject, a fill after a cancel, an insane price) is never raised: it is recorded as an event.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

_T = TypeVar("_T")


class ExitFsmError(Exception):
    """Base of everything this library raises on purpose."""


class IllegalTransition(ExitFsmError):
    """The lifecycle has no row for this event in this state. Nothing was changed.

    Attributes:
        state: name of the state the position was in (`"(nothing)"` before `PositionOpened`).
        event: name of the event class that was refused.
    """

    def __init__(self, state: str, event: str) -> None:
        super().__init__(state, event)
        self.state = state
        self.event = event

    def __str__(self) -> str:
        return f"no transition for {self.event} in state {self.state!r}; nothing was changed"


class ConfigError(ExitFsmError):
    """The configuration has mistakes; all of them are in `mistakes`, one line each, `file:line` first where known."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__(mistakes)
        self.mistakes = mistakes

    def __str__(self) -> str:
        return "\n".join(self.mistakes)


class FeedError(ExitFsmError):
    """A bar file cannot be read; the text names file and line."""


class StoreError(ExitFsmError):
    """The store cannot be used as asked; the text says why and what to do. Nothing was half written."""


class StoreMissing(StoreError):
    """There is no store where one was to be read."""


class StoreDamaged(StoreError):
    """What is stored is damaged: keep a copy, and restore a backup."""


class StoreLocked(StoreError):
    """Another process writes this store."""


class VersionConflict(StoreError):
    """The stream is not at the version the writer expected: somebody else wrote. Reload, decide again, append again.

    Attributes:
        stream_id: the stream.
        expected: the version (number of events) the writer had seen.
    """

    def __init__(self, stream_id: str, expected: int) -> None:
        super().__init__(stream_id, expected)
        self.stream_id = stream_id
        self.expected = expected

    def __str__(self) -> str:
        return (
            f"stream {self.stream_id!r} is no longer at version {self.expected}: another writer appended to it; "
            "reload the position and decide again"
        )


class BrokerError(ExitFsmError):
    """The broker's answer is missing or not understood. The outcome is unknown: look the order up by its id."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(storable(arg) for arg in args))


class OrderRefused(BrokerError):
    """The broker definitely refused the order: it does not exist and never will under this id.

    Attributes:
        kind: a short, stable class of refusal (`"insufficient_qty"`, `"not_tradable"`, …); two of the same kind in a
            row end the automatic attempts, where their cause does not pass.
        text: the broker's own reason.
        passing: the cause passes by itself (a halt, maintenance), so that the same order is sent again until it is
            taken; None where a table of codes and words is to decide.
    """

    def __init__(self, kind: str, text: str = "", passing: bool | None = None) -> None:
        super().__init__(kind, text)
        self.passing = passing
        self.kind = storable(str(kind))  # a broker's code may well be a number, and its text missing
        self.text = storable(str(text or ""))

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}" if self.text else self.kind


class NotSent(BrokerError):
    """The request never left this machine (connection refused, local rate limit): the same id may be sent again."""


class RateLimited(NotSent):
    """The request never left because too many were made before it: that says nothing against the broker.

    Attributes:
        for_s: for how long there is no place for it, in seconds.
    """

    def __init__(self, text: str, for_s: float = 0.0) -> None:
        super().__init__(text)
        self.for_s = for_s


def storable(said: _T) -> _T:
    """What a broker said, as every store can hold it: in a text, U+FFFD in the place of each NUL character."""
    return said.replace("\0", "\ufffd") if isinstance(said, str) and "\0" in said else said  # type: ignore[return-value]  # text stays text


def nearest(text: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant, whatever its case; None when nothing is near."""
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in known}
    near = get_close_matches(text.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else None
