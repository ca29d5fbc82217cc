"""What a person says of the scope is stored, and takes effect with that: symbols are taken in, and out.

Rules of this room: nothing changes while an order of ours may be live; that is asked of the broker first, and of what
is watched once more where it is stored, so that an exit which begins in between is not cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

from exitfsm.errors import ExitFsmError
from exitfsm.events import Recorded, ScopeChanged
from exitfsm.kinds import ScopeHow
from exitfsm.lifecycle import State
from exitfsm.order_ids import looks_like_exit
from exitfsm.others.ground import Ground
from exitfsm.others.scope import Scoped
from exitfsm.position import Position
from exitfsm.values import ExecutionReport, same_symbol


class MayBeLive(ExitFsmError):
    """An order of ours may be live in a symbol: who manages it does not change meanwhile; the text says which."""


class Choosing:
    """Takes symbols into what is managed, and out of it."""

    def __init__(self, ground: Ground, scoped: Scoped) -> None:
        self._calls, self._orders, self._time = ground.calls, ground.orders, ground.time
        self._positions, self._engine = ground.positions, ground.engine
        self._scoped = scoped

    async def choose(self, change: ScopeChanged) -> Sequence[Recorded]:
        """Store what was said; what is watched of a symbol that was taken out is watched no more.

        Raises:
            MayBeLive: an order of ours may be live there; nothing was stored.
            BrokerError: the broker does not say which orders work.
            StoreError: it could not be stored.
        """
        lasts = change.how == ScopeHow.IGNORED or (change.how == ScopeHow.ADOPTED and not change.command)
        if lasts and self._calls.has("open_orders"):
            self._check(may_be_live(change.symbol, (), await self._calls.open_orders()))

        def stored() -> tuple[str, Sequence[Recorded]]:
            # In one turn of the writer's: no bar gets in between.
            if lasts and (why := may_be_live(change.symbol, self._of(change.symbol), ())):
                return why, ()
            recorded = self._scoped.account.record(change, at=change.at, by="operator")
            self._engine.tell_all(self._scoped.let_go())
            return "", recorded

        why, recorded = await self._positions.run(stored)
        self._check(why)
        return recorded

    def _of(self, symbol: str) -> list[Position]:
        return [p for p in list(self._engine.positions.values()) if same_symbol(p.symbol, symbol)]

    def _check(self, why: str) -> None:
        if why:
            raise MayBeLive(why)


def may_be_live(symbol: str, watched: Sequence[Position], working: Sequence[ExecutionReport]) -> str:
    """Which order of ours may be live in a symbol, in words; empty where none is."""
    for p in watched:
        if p.state is State.UNPROTECTED:
            return f"{p.symbol} is unprotected: see to it first (exitfsm release)"
        if p.state is not State.MONITORING:
            return f"its exit is under way ({p.state}, order {p.client_order_id}): give it again once that has ended"
        if p.live_orders:
            return f"order {p.live_orders[0]} may still be live: give it again once that has ended"
    for order in working:
        if looks_like_exit(order.client_order_id) and same_symbol(order.symbol or symbol, symbol):
            return f"order {order.client_order_id} of ours works at the broker: give it again once that has ended"
    return ""


__all__ = ["Choosing", "MayBeLive", "may_be_live"]
