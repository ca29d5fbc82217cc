"""The newest read of what is held, when the next one is due, and what in it nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from exitfsm import holdings
from exitfsm.holdings import NEVER, Read, Watching, rows_of
from exitfsm.ports import AssetRules
from exitfsm.values import BrokerPosition


class Seen:
    """What was last seen of the account as a whole. Times are monotonic seconds.

    Args:
        every_s: how often it is to be looked at, where nothing else does.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._newest = Read()
        self._is_fresh = False
        self._asked_at: float | None = None

    def noted(self, read: Read) -> Read:
        """Remember a read, unless a newer one is known; returns it."""
        if read.began >= self._newest.began:
            self._newest, self._is_fresh = read, True
        return read

    def is_due(self, monotonic: float) -> bool:
        """True when the account is to be looked at now; the first time a while after the first call."""
        before = self._asked_at if self._asked_at is not None else monotonic
        due = monotonic - before >= self._every_s
        self._asked_at = monotonic if due else before
        return due

    def may_hold(self, symbol: str) -> bool:
        """False where the newest read shows that nothing of a symbol is held."""
        read = self._newest
        return bool(rows_of(read.rows, symbol)) or holdings.is_silent(read, symbol) or read.began == NEVER

    def unwatched(self, watched: Iterable[Watching], rules: Callable[[str], AssetRules]) -> list[BrokerPosition]:
        """What nobody watches in a read that was not asked about before; nothing where that has been answered.

        What the venue would not take by its `rules` for a symbol is not watched either.
        """
        fresh, self._is_fresh = self._is_fresh, False
        return holdings.unwatched(self._newest.clear, watched, rules) if fresh else []
