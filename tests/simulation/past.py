"""What the venue's records said a moment ago: for answers that are behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from exitfsm.testing.books import Booked
from exitfsm.values import ExecutionReport


class _State(NamedTuple):
    """A record as it was from a time on; `ended_at`: since when the order had been over, None while it worked."""

    since: float
    report: ExecutionReport
    ended_at: float | None


class Past:
    """The records of exit orders, each as it was from when on.

    Args:
        now: the world's time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._states: dict[str, list[_State]] = {}
        #: When orders changed, oldest first: what a list that is behind has to look at.
        self._changes: list[tuple[float, str]] = []

    def note(self, booked: Booked) -> None:
        """A record is another one from now on."""
        order_id, now = booked.order.client_order_id, self._now()
        ended_at = None if booked.live else self.ended_at(order_id)
        if not booked.live and ended_at is None:
            ended_at = now
        self._states.setdefault(order_id, []).append(_State(now, booked.report(), ended_at))
        self._changes.append((now, order_id))

    def ended_at(self, order_id: str) -> float | None:
        """Since when an order has been over; None while it works, and for one that never came."""
        states = self._states.get(order_id)
        return states[-1].ended_at if states else None

    def changed_at(self, order_id: str) -> float:
        """When the record of an order last changed."""
        states = self._states.get(order_id)
        return states[-1].since if states else -1e9

    def before(self, order_id: str, at: float) -> tuple[ExecutionReport | None, float | None]:
        """The record at a time, and since when the order had been over then; None where there was none."""
        for state in reversed(self._states.get(order_id, ())):
            if state.since <= at:
                return state.report, state.ended_at
        return None, None

    def changed_since(self, at: float) -> list[str]:
        """The orders whose records changed after a time, each once, in order of their newest change."""
        found: dict[str, None] = {}
        for since, order_id in reversed(self._changes):
            if since <= at:
                break
            found[order_id] = None
        return list(found)
