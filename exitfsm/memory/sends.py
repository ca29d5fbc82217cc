"""Sends of exit orders: which are under way, when each was last sent, and how often the broker did not know it.

`life_s` is the longest that a request may live on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from exitfsm.clocks import SteadyTime
from exitfsm.holdings import NEVER
from exitfsm.lifecycle import State
from exitfsm.position import Position


class Sends:
    """What is known of the sending of exit orders, by their ids."""

    def __init__(self, time: SteadyTime, life_s: float = 105.0) -> None:
        self._time, self._life_s = time, life_s
        self._unknown: dict[str, int] = {}
        #: When the broker last did not know each, in monotonic seconds.
        self._denied_at: dict[str, float] = {}
        #: When a copy of each may last have left whose outcome is not known, in monotonic seconds.
        self._unclear_at: dict[str, float] = {}
        #: When each was last sent, in monotonic seconds: what was asked before says nothing of it.
        self._sent_at: dict[str, float] = {}
        #: Those that are being sent at this moment: the broker may not know them yet.
        self.under_way: set[str] = set()

    @contextmanager
    def sending(self, client_order_id: str) -> Iterator[None]:
        """While this lasts, an order is being sent."""
        self.under_way.add(client_order_id)
        try:
            yield
        finally:
            self.under_way.discard(client_order_id)
            self._sent_at[client_order_id] = self._time.monotonic()

    def since(self, client_order_id: str, monotonic: float) -> bool:
        """True for an order that is being sent, or was since then: what was asked then says nothing of it."""
        return client_order_id in self.under_way or monotonic < self._sent_at.get(client_order_id, NEVER)

    def found(self, client_order_id: str) -> None:
        """The broker knows an order."""
        for remembered in (self._unknown, self._denied_at, self._unclear_at):
            remembered.pop(client_order_id, None)

    def unclear(self, client_order_id: str) -> None:
        """What became of the copy that was just sent is not known."""
        self._unclear_at[client_order_id] = self._time.monotonic()

    def not_found(self, client_order_id: str) -> int:
        """The broker does not know an order; returns how often that was so."""
        self._unclear_at.setdefault(client_order_id, self._time.monotonic())  # of a life before this one
        self._denied_at[client_order_id] = self._time.monotonic()
        self._unknown[client_order_id] = self._unknown.get(client_order_id, 0) + 1
        return self._unknown[client_order_id]

    def may_have_left(self, client_order_id: str) -> bool:
        """True for an order of which an earlier copy may be at the broker: it was asked for, and not known there."""
        return client_order_id in self._unknown

    def has_lapsed(self, p: Position, can_look_up: Callable[[str], bool], unknown: Collection[str]) -> bool:
        """True where the current order may have been sent, can arrive no more, and the broker knows, or says, nothing.

        Where it is not known when it was sent (by a life before this one), that is as of the first question. That the
        broker did not know it counts once it can arrive no more: a look-up that fails since then is no answer.
        """
        name = p.client_order_id or ""
        if p.state is not State.PENDING or name not in unknown or name in self.under_way:
            return False
        left_at = self._unclear_at.setdefault(name, self._time.monotonic())
        asked_at = self._denied_at.get(name, NEVER) if can_look_up(name) else self._time.monotonic()
        return asked_at - left_at >= self._life_s

    def may_be_on_its_way(self, client_order_id: str, *, is_held_by_unknown: bool = False) -> bool:
        """True for such an order whose copy may still arrive: no request lives longer than this one has.

        `is_held_by_unknown`: it was refused for an order that nobody knows, which may be the first copy.
        """
        if is_held_by_unknown:
            self._unknown.setdefault(client_order_id, 0)
            self._unclear_at.setdefault(client_order_id, self._time.monotonic())
        left_at = self._unclear_at.get(client_order_id, NEVER)
        return self.may_have_left(client_order_id) and self._time.monotonic() - left_at < self._life_s

    def is_in_doubt(self, p: Position, can_look_up: Callable[[str], bool]) -> bool:
        """True where the current order may have been sent, is not being sent now, and cannot be asked about."""
        order_id = p.client_order_id
        return order_id is not None and order_id not in self.under_way and not can_look_up(order_id)

    def forget(self, p: Position) -> None:
        """A position has ended."""
        for order in p.orders:
            self._sent_at.pop(order.client_order_id, None)
            self.found(order.client_order_id)
