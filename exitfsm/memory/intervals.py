"""What is due by the time that has passed since something was last seen or done. Times are monotonic seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable

#: So many orders are looked up one by one; of more, those that the list of working orders shows are told by it.
LOOK_UPS_MAX = 4


class Due:
    """When work that comes again and again is due, and since when it has failed.

    Args:
        monotonic: the present.
        every_s: how often it is due.
        soon_s: how soon it is due where that helps.
    """

    def __init__(self, monotonic: Callable[[], float], every_s: float, soon_s: float) -> None:
        self._monotonic, self._every_s, self._soon_s = monotonic, every_s, soon_s
        self._at = 0.0
        self._failing_since: float | None = None

    def hurry(self) -> None:
        """It is due at once."""
        self._at = 0.0

    def again(self, *, soon: bool = False, by: float = math.inf) -> None:
        """It was done: it is due again in a while, or soon, and at this time at the latest."""
        self._at = min(by, self._monotonic() + (self._soon_s if soon else self._every_s))

    def has_come(self, monotonic: float) -> bool:
        """True when it is due; the next time is in a while then."""
        due = monotonic >= self._at
        if due:
            self._at = monotonic + self._every_s
        return due

    def failed(self) -> float:
        """It has failed; returns for how long that has gone on."""
        now = self._monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        return now - self._failing_since

    def worked(self) -> None:
        """It has not failed this time."""
        self._failing_since = None


class Spaced:
    """Work that something calls for, and that is done no more often than `every_s`."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._next_at, self._is_wanted = every_s, 0.0, False

    def want(self) -> None:
        """There is something to do."""
        self._is_wanted = True

    def has_come(self, monotonic: float) -> bool:
        """True when it is to be done now; then nothing is left to do."""
        due = self._is_wanted and monotonic >= self._next_at
        if due:
            self._is_wanted, self._next_at = False, monotonic + self._every_s
        return due


class Polls:
    """When each of the orders that work was last asked about.

    Args:
        every_s: how often each is.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._polled: dict[str, float] = {}

    def due(self, order_ids: Iterable[str], monotonic: float) -> list[str]:
        """Those that are to be asked about now; of those that are not among `order_ids` nothing is remembered."""
        self._polled = {order_id: self._polled.get(order_id, monotonic) for order_id in order_ids}
        due = [order_id for order_id, at in self._polled.items() if monotonic - at >= self._every_s]
        self._polled.update(dict.fromkeys(due, monotonic))
        return due


class Silence:
    """When each symbol was last heard of."""

    def __init__(self) -> None:
        #: What was heard last, and when that was first seen.
        self._heard: dict[str, tuple[Hashable, float]] = {}

    def since(self, symbol: str, heard: Hashable, monotonic: float) -> float:
        """How long nothing was heard of a symbol but this: what differs from it is news."""
        known = self._heard.get(symbol)
        if known is None or known[0] != heard:
            known = self._heard[symbol] = (heard, monotonic)
        return monotonic - known[1]
