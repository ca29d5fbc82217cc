"""The way of an exit: what of others works in its symbol is asked, canceled where that is allowed, or waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from decimal import Decimal
from functools import partial

from exitfsm import holdings
from exitfsm.broker.probing import cancel
from exitfsm.holdings import Pass, bare
from exitfsm.kinds import AlarmKind
from exitfsm.order_ids import looks_like_exit
from exitfsm.others.ground import Ground
from exitfsm.outside import logged
from exitfsm.ports import Capabilities
from exitfsm.position import READS_MIN, Position
from exitfsm.scope import guards_of
from exitfsm.values import ExecutionReport

#: What is held for a position by a read that begins now, of ours and of all; `BrokerError` where it is not known.
HeldFor = Callable[[Position], Awaitable[tuple[Decimal, Decimal]]]


class Way:
    """Makes way for exits."""

    def __init__(self, ground: Ground, held_for: HeldFor, pause: Callable[[str], Awaitable[None]]) -> None:
        self._calls, self._orders, self._time = ground.calls, ground.orders, ground.time
        self._positions, self._engine, self._live = ground.positions, ground.engine, ground.live
        self._is_ours, self._scope = ground.is_ours, ground.scope
        self._held_for, self._pause = held_for, pause
        #: Since when an exit waits for an order of others, in monotonic seconds, by position.
        self._since: dict[str, float] = {}
        #: Positions whose way was looked at when they were adopted.
        self._looked_at: set[str] = set()

    @property
    def broker(self) -> Capabilities:
        """What the broker can do for what is in scope."""
        return guards_of(self._calls.capabilities, self._scope)

    async def is_free(self, p: Position) -> bool:
        """Make way for an exit that is about to leave; False while another's closing order is in its way."""
        doubtful = await self._ask_anew(p.symbol)
        working = self._orders.foreign.get(bare(p.symbol), {})
        for order_id, order in [*working.items(), *doubtful.items()]:
            if not holdings.concerns(order, p.side):
                continue
            if holdings.gives_way(order, p, self._live.foreign_exits, self._live.entry_id_prefix):
                await self._cancel(p, order_id)
            elif not self._is_apart(order):
                side = order.side or "unknown side"
                text = f"order {order_id} ({side}) of {p.symbol} works while {p.symbol} is exited"
                await self._positions.alarm(p.position_id, AlarmKind.FOREIGN_ORDER, text)
        blocking = await self._blocking(p, list(working.values()))
        if not blocking:
            self._since.pop(p.position_id, None)
            return True
        await self._wait(p, blocking)
        return False

    async def look_at_adopted(self) -> None:
        """Say of positions that are new here which limit order of others keeps their exit from leaving."""
        open_positions = dict(self._engine.positions)
        new = [p for p in open_positions.values() if p.position_id not in self._looked_at]
        self._looked_at = set(open_positions)
        self._since = {key: since for key, since in self._since.items() if key in open_positions}
        for p in new:
            working = list(self._orders.foreign.get(bare(p.symbol), {}).values())
            with logged("way_unknown position=%s error=%s", p.position_id):
                for order in await self._blocking(p, working):
                    if holdings.rests(order):
                        text = holdings.blocked_by(order, p)
                        await self._positions.alarm(p.position_id, AlarmKind.BLOCKED_BY_ORDER, text)

    async def _ask_anew(self, symbol: str) -> dict[str, ExecutionReport]:
        """The working orders as they are now, where one of others matters or is known.

        Returns those that were known, and that neither the list nor a record shows any more: a person is told of them.
        """
        known = dict(self._orders.foreign.get(bare(symbol), {}))
        if not self._calls.has("open_orders") or (self._is_guarded() and not known):
            return {}
        began = self._time.monotonic()
        with logged("open_orders_failed error=%s"):
            orders = [self._orders.under_our_id(report) for report in await self._calls.open_orders()]
            self._orders.forget_foreign(before=began)
            for report in orders:
                if not await self._is_ours(report.client_order_id):
                    self._orders.note_foreign(report, self._time.monotonic())
        now = self._orders.foreign.get(bare(symbol), {})
        return {
            order_id: order
            for order_id, order in known.items()
            if order_id not in now and await self._is_doubtful(order_id)
        }

    async def _is_doubtful(self, order_id: str) -> bool:
        """True for an order that the list does not show, and whose record does not say what became of it."""
        record: ExecutionReport | None = None
        with logged("look_up_failed id=%s error=%s", order_id):
            record = await self._calls.order(order_id)
        if record is not None:
            self._orders.note_foreign(record, self._time.monotonic())
        return record is None

    async def _cancel(self, p: Position, order_id: str) -> None:
        working = self._orders.foreign.get(bare(p.symbol), {})
        if await cancel(self._calls, order_id, READS_MIN, partial(self._pause, p.position_id)):
            working.pop(order_id, None)

    async def _blocking(self, p: Position, working: list[ExecutionReport]) -> tuple[ExecutionReport, ...]:
        """Closing orders of others that together with ours would sell more than is held."""
        closing = holdings.closing(p, working)
        if not closing or self._is_guarded():
            return ()
        ours, whole = await self._held_for(p)
        return holdings.blocking(p, self.in_scope(closing), ours) or holdings.blocking(p, closing, whole)

    def in_scope(self, orders: Iterable[ExecutionReport]) -> list[ExecutionReport]:
        """Those that may sell what is ours."""
        return [order for order in orders if not self._is_apart(order)]

    def _is_guarded(self) -> bool:
        """True where the venue keeps others' orders and ours from selling more than is ours: it knows no parts."""
        return holdings.is_guarded(self.broker)

    def _is_apart(self, order: ExecutionReport) -> bool:
        """True for an order that sells what is not in scope: another's beside us, or an exit of another scope."""
        order_id = order.client_order_id
        return looks_like_exit(order_id) or (bool(self._scope.ids) and not order_id.startswith(self._scope.ids))

    async def _wait(self, p: Position, blocking: tuple[ExecutionReport, ...]) -> None:
        """A stop is waited for in silence, for a while; a limit may rest for ever."""
        since = self._since.setdefault(p.position_id, self._time.monotonic())
        waited_s = self._time.monotonic() - since
        for order in blocking:
            said = holdings.waits_for(order, waited_s, float(self._live.patience_seconds))
            if said is Pass.ALARM:
                text = holdings.blocked_by(order, p)
                await self._positions.alarm(p.position_id, AlarmKind.BLOCKED_BY_ORDER, text)
