"""The one way into the engine, for many callers and one writer.

Every message to a position waits in one queue. What waits together is handed to the engine in the writer's thread as
one group, and is committed together. A quiet bar does not queue: while the writer rests it is noted in memory, on the
spot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from exitfsm.aio.writer import Turn, Writer, all_done
from exitfsm.clocks import SteadyTime
from exitfsm.engine import Engine
from exitfsm.messages import Message, RaiseAlarm, Report
from exitfsm.ports import Clock
from exitfsm.position import Action
from exitfsm.values import Bar, ExecutionReport


@dataclass(frozen=True, slots=True)
class Group(Turn):
    """What one turn brought: positions that owe something, by their ids, and bars that jumped too far."""

    owing: list[str] = field(default_factory=list)
    jumps: list[Bar] = field(default_factory=list)


class Mailbox(Writer[Group]):
    """The queue to the engine, which is used in the writer's thread only, but for reading what it holds in memory.

    `clock` tells the age of bars: putting the time right must not make fresh bars look old. `closed_since` says of a
    symbol since when its market is closed, where bars decide nothing then: it is asked when a bar is judged.
    """

    def __init__(
        self,
        engine: Engine,
        time: SteadyTime,
        clock: Clock,
        after: Callable[[Group], None],
        closed_since: Callable[[str], datetime | None],
    ) -> None:
        super().__init__(Group, after)
        self._closed_since = closed_since
        self._engine, self._now, self._received = engine, time.now, clock.now

    async def bars(self, bars: Sequence[Bar], *, confirmed: bool = False) -> None:
        """Bars, in order; returns when what they decided is durable."""
        take, rests, waiting = self._bars, self.at_rest, []
        if confirmed:
            take, rests = self._confirmed, False
        for bar in bars:
            if rests and self._engine.quiet(bar, self._received()):
                continue
            rests = False  # what follows waits behind it
            waiting.append(self.put(take, bar))
        if waiting:
            await all_done(waiting)

    async def tell(self, position_id: str, message: Message) -> None:
        """A message to a position; returns when what it meant is durable."""
        await self.tell_all([(position_id, message)])

    async def tell_all(self, messages: Sequence[tuple[str, Message]]) -> None:
        """Messages to several positions, committed together."""
        await all_done([self.put(self._messages, message) for message in messages])

    async def alarm(self, position_id: str, kind: str, text: str) -> None:
        """An alarm of a position."""
        await self.tell(position_id, RaiseAlarm(at=self._now(), kind=kind, text=text))

    async def report(self, report: ExecutionReport) -> None:
        """A report on an order of ours, for the position that it belongs to."""
        position_id = await self.owner_of(report.client_order_id)
        if position_id is not None:
            await self.tell(position_id, Report(at=self._now(), report=report))

    async def owner_of(self, client_order_id: str) -> str | None:
        """The position that an order belongs to, by memory or by the store; None where it belongs to none."""
        owner = self._engine.known_owner(client_order_id)
        return owner or await self.run(partial(self._engine.owner_of, client_order_id))

    # --- in the writer's thread: a run of one kind is one commit ------------------------------------------------------

    def _messages(self, messages: list[tuple[str, Message]], group: Group) -> None:
        _note(group, self._engine.tell_all(messages))

    def _confirmed(self, bars: list[Bar], group: Group) -> None:
        now = self._received()
        for bar in bars:
            self._tell_hours(bar.symbol)
        _note(group, [a for bar in bars for a in self._engine.on_bar(bar, now, True, self._now())])

    def _bars(self, bars: list[Bar], group: Group) -> None:
        """Bars in order; those that jumped too far wait for a second source to confirm them.

        A bar is judged by what the bars of its symbol before it left behind, so that a second one of a symbol begins a
        commit of its own.
        """
        actions: list[Action] = []
        together: dict[str, Bar] = {}
        now = self._received()
        for bar in bars:
            if bar.symbol in together:
                actions += self._engine.on_bars(together.values(), received_at=now, at=self._now())
                together = {}
            if self._engine.quiet(bar, now):
                continue
            self._tell_hours(bar.symbol)
            fault = self._engine.fault(bar, now)
            if fault is not None and fault.reason == "price_jump" and self._engine.levels.watched(bar.symbol):
                group.jumps.append(bar)
            else:
                together[bar.symbol] = bar
        _note(group, actions + self._engine.on_bars(together.values(), received_at=now, at=self._now()))

    def _tell_hours(self, symbol: str) -> None:
        slot = self._engine.levels.slots.get(symbol)
        if slot is not None:
            slot.shut(self._closed_since(symbol))


def _note(group: Group, actions: Iterable[Action]) -> None:
    group.owing.extend(action.position_id for action in actions)
