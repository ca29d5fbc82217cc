"""What is remembered of each holding from one read of positions to the next, for the rules that weigh them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from exitfsm import scope as scopes
from exitfsm.clocks import SteadyTime
from exitfsm.holdings import Read, watching, weighing
from exitfsm.holdings.facts import (
    BEFORE,
    Adopted,
    Answer,
    Change,
    Evidence,
    Failed,
    Key,
    Memory,
    Needed,
    Rescaled,
    Scope,
    Watched,
)
from exitfsm.holdings.facts import Read as Shown
from exitfsm.holdings.glance import at_a_glance
from exitfsm.holdings.rows import KEPT_S, sign
from exitfsm.holdings.trades import root_of
from exitfsm.lifecycle import State
from exitfsm.ports import Capabilities
from exitfsm.position import Position
from exitfsm.values import EXACT, ZERO, Fill, bare, exactly

#: A price so far from the one before may be in another unit.
_GAP = Decimal("0.02")


class Asked(msgspec.Struct, frozen=True):
    """What else was asked for beside a read: executions, None where they were not; and the next order of each."""

    executions: tuple[Fill, ...] | Failed | None = None
    next_ids: bool = False


class Kept:
    """The memory of each holding, and what was watched of it when it was last weighed.

    Args:
        time: the present. Reads and executions are held against each other on one scale: monotonic seconds, set to UTC
            at the start.
        broker: what it declares of its books.
        reported: the executions in a symbol that order updates have reported.
        scope: what is ours. Where only what was handed over is, executions do not say whose they are, and reads show no
            more.
    """

    def __init__(
        self, time: SteadyTime, broker: Capabilities, reported: Callable[[str], Sequence[Fill]], scope: Scope
    ) -> None:
        self._time, self._look_at = time, math.inf
        self._utc = time.now().timestamp() - time.monotonic()
        self._broker, self._reported, self._scope = broker, reported, scope
        self._memory: dict[Key, Memory] = {}
        self._left: dict[Key, dict[str, Decimal]] = {}
        #: The last accepted price when a read last showed what was expected.
        self._price: dict[Key, Decimal | None] = {}
        #: In scope by ids, holdings of which it is awaited what led to what is watched, and since when; and what one
        #: that is being adopted is remembered by once it is watched.
        self._awaited: dict[Key, float] = {}
        self._proposed: dict[Key, Memory] = {}

    def evidence(
        self, positions: Sequence[Position], read: Read, asked: Asked, price: Decimal | None, *, listed: bool
    ) -> Evidence:
        """All that is known of the holding of these positions, oldest first; `listed` where executions can be had."""
        key = watching.key_of(positions[0], self._broker)
        reported = tuple(self._reported(key.symbol) if not self._scope.handed else ())
        listed = listed and not self._scope.handed
        told = asked.executions if asked.executions is not None else reported
        evidence = Evidence(
            key=key,
            instrument=watching.instrument_of(self._broker, key.symbol),
            read=self._shown(read),
            scope=self._scope if self._scope.ids else Scope(),
            watched=tuple(watching.watched_of(p, None) for p in positions),
            executions=told if listed else None,
            reported=reported,
            price=price,
            next_ids_known=asked.next_ids,
        )
        before = self._price.get(key)
        if before is None or before == watching.last_price(evidence):
            return evidence  # a price that has not moved says nothing of the unit
        return replace(evidence, watched=tuple(watching.watched_of(p, before) for p in positions))

    def weigh(self, e: Evidence, by: float) -> Answer:
        """What a read means. What is watched became what it is at that moment (monotonic), or before."""
        memory, is_new = self._remembered(e, by)
        if not self._scope.ids:
            return at_a_glance(e, memory) or weighing.weigh(e, memory)
        begun = self._begun(e, memory, is_new=is_new)
        if begun is None:
            return (Needed("executions"),), memory
        if begun[0]:
            return (*begun[0], Needed("reads")), begun[1]
        return weighing.weigh(e, begun[1])

    def weigh_new(self, e: Evidence) -> Answer:
        """In scope by ids, what a read means of a holding that nobody watches; remembered, unless it is adopted."""
        memory = self._memory.get(e.key)
        if self._left.pop(e.key, None) and e.key in self._awaited:
            self._awaited[e.key] = e.read.begin  # it ended before that was known: its sale may not be listed yet
        begun = self._begun(e, memory or Memory(), is_new=memory is None)
        if begun is None:
            return (Needed("executions"),), Memory()
        said, memory = scopes.weigh_new(e, begun[1])
        is_adopted = any(isinstance(one, Adopted) for one in said)
        self._memory[e.key] = begun[1] if is_adopted else memory
        if is_adopted:
            ids = memory.booked | memory.early_ids
            self._proposed[e.key] = replace(memory, booked=ids, early=ZERO, early_ids=frozenset())
        return (*begun[0], *said), memory

    def memory_of(self, e: Evidence) -> Memory:
        """What is remembered of a holding."""
        return self._memory.get(e.key, Memory())

    def is_news(self, symbols: Iterable[str], executions: Iterable[Fill]) -> bool:
        """In scope by ids, True where these say more of what nobody watches than is remembered, or a holding is new."""
        keys = {Key(None, symbol) for symbol in symbols}
        if self._awaited.keys() & keys or not keys <= self._memory.keys():
            return True
        known = {bare(key.symbol): memory.booked for key, memory in self._memory.items()}
        mine = (f for f in executions if (f.client_order_id or "").startswith(self._scope.ids))
        return any(root_of(f.fill_id) not in known.get(bare(f.symbol), ()) for f in mine)

    def adopted(self, p: Position) -> None:
        """A holding that nobody watched is watched from now on."""
        key = watching.key_of(p, self._broker)
        if (memory := self._proposed.pop(key, None)) is not None:
            self._memory[key] = memory
            self._note(key, [p])

    def begin_anew(self, symbol: str) -> None:
        """A person has taken a symbol in: of what nobody watched of it, all that executions say counts again."""
        for key in [key for key in self._memory if bare(key.symbol) == bare(symbol)]:
            for remembered in (self._memory, self._left, self._price, self._awaited, self._proposed):
                remembered.pop(key, None)

    def of_nobody(self, symbol: str, read: Read, executions: tuple[Fill, ...]) -> Evidence:
        """In scope by ids, all that is known of a holding that nobody watches."""
        return Evidence(
            key=Key(None, symbol),
            instrument=watching.instrument_of(self._broker, symbol),
            read=self._shown(read),
            scope=self._scope,
            executions=executions,
        )

    def _begun(self, e: Evidence, memory: Memory, *, is_new: bool) -> Answer | None:
        """The memory in which what led to what is watched is accounted for; None while that is awaited."""
        if not is_new and e.key not in self._awaited:
            return (), memory
        begun = scopes.begin(e, memory, self._awaited.setdefault(e.key, e.read.begin))
        if begun is not None:
            del self._awaited[e.key]
        return begun

    def _shown(self, read: Read) -> Shown:
        rows = read.rows if read.whole is None or not self._scope.ids else read.whole
        return Shown(rows=rows, begin=self._at(read.began), end=self._at(read.ended), unreadable=read.unreadable)

    def _remembered(self, e: Evidence, by: float) -> tuple[Memory, bool]:
        """What is remembered of a holding; and whether what is watched of it changed but by what it concluded."""
        key, at = e.key, self._at(by)
        memory, before, now = self._memory.get(key, Memory()), self._left.get(key, {}), _left(e.watched, key)
        changes = [EXACT.subtract(now.get(name, ZERO), before.get(name, ZERO)) for name in before | now]
        younger = tuple(Change(qty, at) for qty in changes if qty)
        if not younger:
            return memory, False
        memory = replace(memory, changes=(*(c for c in memory.changes if c.at > at - KEPT_S), *younger))
        if before.keys() - now.keys() or watching.is_part_sold(e.watched, before):
            memory = replace(memory, confirmed=False)
        if now.keys() - before.keys():
            memory = replace(memory, horizon=BEFORE, run=None, runs=0, empty=BEFORE)  # what opened it is no news
        return memory, True

    def keep(self, e: Evidence, memory: Memory, positions: Sequence[Position], *, news: bool) -> None:
        """This is remembered from now on, and these are watched by it; `news` as of `watching.is_news`."""
        self._memory[e.key] = memory
        self._note(e.key, positions)
        if not news:
            self._price[e.key] = watching.last_price(e)

    def rescaled(self, p: Position, factor: Decimal, by: float, positions: Sequence[Position]) -> None:
        """The unit of a holding changed, as a price that jumped has shown, at that moment (monotonic)."""
        key, at = watching.key_of(p, self._broker), self._at(by)
        memory = self._memory.get(key, Memory())
        units = (*memory.units, Rescaled(at, factor))
        self._memory[key] = replace(memory, units=units, unit_at=at, changes=(), run=None)
        self._note(key, positions)

    def is_gap(self, p: Position) -> bool:
        """True where the price that triggered an exit is far from the one at which a read last showed what is expected.

        Of a position whose exit nobody ordered, and of which nothing was sent yet.
        """
        price, before = p.trigger_price, self._price.get(watching.key_of(p, self._broker)) or p.entry_price
        if price is None or p.attempt > 1 or p.order.ordered_by or p.state is not State.PENDING:
            return False
        return abs(EXACT.divide(price, before) - 1) > _GAP

    def look_in(self, seconds: float) -> None:
        """Another read helps something that waits for it, so many seconds from now."""
        self._look_at = min(self._look_at, self._time.monotonic() + seconds)

    def next_look(self) -> float:
        """When the next read helps, in monotonic seconds; each is said once."""
        at, self._look_at = self._look_at, math.inf
        return at

    def _note(self, key: Key, positions: Sequence[Position]) -> None:
        self._left[key] = _left([watching.watched_of(p, None) for p in positions], key)

    def _at(self, monotonic: float) -> float:
        return self._utc + monotonic


@exactly
def _left(watched: Sequence[Watched], key: Key) -> dict[str, Decimal]:
    return {p.name: p.left * sign(p.side, key) for p in watched}
