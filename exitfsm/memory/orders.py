"""Whose order is it? Ours and the broker's ids of one order, held against each other, and what others' orders said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.broker.calls import Known
from exitfsm.engine import Engine
from exitfsm.holdings import NEVER, bare
from exitfsm.ports import AssetRules
from exitfsm.position import Position
from exitfsm.position.refusing import holders
from exitfsm.values import ExecutionReport, Fill, OrderSide, Side

#: Ids, and orders of others, that are remembered.
REMEMBERED_MAX = 10_000
T = TypeVar("T")


class Orders:
    """What is known of the account's orders: their ids, and those of others.

    Args:
        engine: knows whose exits are ours.
        listed_by: until when no exit leaves before the working orders were listed once, in monotonic seconds: one of
            ours might be among them.
    """

    def __init__(self, engine: Engine, listed_by: float) -> None:
        self._engine, self._listed_by = engine, listed_by
        #: Orders of others that are known to work, by symbol and id: the bot's entries above all.
        self.foreign: dict[str, dict[str, ExecutionReport]] = {}
        #: When each of them was last reported, in monotonic seconds; and those that have ended.
        self._noted: dict[str, float] = {}
        self._terminal: dict[str, ExecutionReport] = {}
        #: Orphan orders: they look like exits of ours, work, and belong to no known position. Their symbols, by id.
        self.orphans: dict[str, str] = {}
        #: Working exit orders of ours as last listed; None where the broker does not list any.
        self.open_exits: Sequence[ExecutionReport] | None = None
        #: Executions of others that the bot's updates reported, one for each order: where the broker lists none.
        self.told: dict[str, Fill] = {}
        #: The first of them since the symbol was flat, by symbol and side; and when a position of a symbol has ended.
        self.first_fills: dict[tuple[str, Side], datetime] = {}
        self._ended: dict[str, datetime] = {}
        #: Pairs as written with their slash, by their spelling without it; and our ids, by those that came after them.
        self._pairs: dict[str, str] = {}
        self._renamed: dict[str, str] = {}

    def owner(self, client_order_id: str) -> Position | None:
        """The open position that an exit order belongs to."""
        return self._engine.positions.get(self._engine.known_owner(client_order_id) or "")

    def known(self, client_order_id: str) -> Known:
        """The broker's own id of an order, and its symbol, for a broker that wants to be asked by them."""
        p = self.owner(client_order_id)
        if p is not None:
            return Known(own_id(p, client_order_id), p.symbol)
        for working in self.foreign.values():
            if client_order_id in working:
                return Known(working[client_order_id].broker_order_id, working[client_order_id].symbol)
        return Known()

    def client_id(self, broker_order_id: str) -> str | None:
        """Our id of an exit order that is named by the broker's id alone."""
        ids = (p.broker_order_ids.get(broker_order_id) for p in list(self._engine.positions.values()))
        return next((ours for ours in ids if ours is not None), None)

    def names_unknown(self, text: str) -> bool:
        """True for a refusal that names an order which is neither a known one of others nor an exit on record here."""
        named = set(holders(text))
        if not named:
            return False
        known = {own for p in list(self._engine.positions.values()) for own in p.broker_order_ids}
        for working in list(self.foreign.values()):
            known |= {name for key, report in working.items() for name in (key, report.broker_order_id) if name}
        return not named <= known

    def under_our_id(self, report: ExecutionReport) -> ExecutionReport:
        """The report under the id that we gave its order; see `holdings.our_id`."""
        ours = holdings.our_id(report, self._renamed)
        if ours is None or ours == report.client_order_id:
            return report
        remember(self._renamed, report.client_order_id, ours)
        return replace(report, client_order_id=ours)

    def note_foreign(self, report: ExecutionReport, monotonic: float) -> None:
        """Remember, or forget, a working order of somebody else."""
        if report.symbol is None:
            return
        self.note_spelling(report.symbol)
        order_id, working = report.client_order_id, self.foreign.setdefault(bare(report.symbol), {})
        if report.status.terminal:
            remember(self._terminal, order_id, report)
            working.pop(order_id, None)
        elif order_id not in self._terminal:  # else the report is older than its end
            working[order_id] = report
            remember(self._noted, order_id, monotonic)

    def forget_foreign(self, before: float) -> None:
        """Forget the working orders of others; not those that came up since: a list is as old as its beginning."""
        for symbol, working in list(self.foreign.items()):
            self.foreign[symbol] = {k: report for k, report in working.items() if self._noted.get(k, NEVER) >= before}

    def listed(self, exits: Sequence[ExecutionReport], orphans: dict[str, str]) -> None:
        """The working orders of the account were listed.

        Args:
            exits: those that look like exits of ours.
            orphans: the symbols of those that work, by that list or by an older one, and belong to nobody, by id.
        """
        self.open_exits, self.orphans = exits, orphans
        self.wait_for_no_list()

    def not_listed(self) -> None:
        """Which exits of ours work is not known."""
        self.open_exits = None

    def wait_for_no_list(self) -> None:
        """The working orders were listed once, or cannot be."""
        self._listed_by = 0.0

    def hold_back(self, symbol: str, monotonic: float) -> bool:
        """True while another exit of ours is, or might be, at the broker. Of one that is known there is an alarm."""
        name, owner = bare(symbol), self._engine.known_owner  # one that was an orphan may have an owner by now
        is_orphaned = any(of == name and owner(key) is None for key, of in self.orphans.items())
        return monotonic < self._listed_by or is_orphaned

    def by_symbol(self, fills: Iterable[Fill]) -> dict[str, list[Fill]]:
        """Executions by the symbol's bare name, in their order; how each is written is remembered."""
        found: dict[str, list[Fill]] = {}
        for fill in fills:
            self.note_spelling(fill.symbol)
            found.setdefault(bare(fill.symbol), []).append(fill)
        return found

    def note_spelling(self, symbol: str) -> None:
        """Remember how a pair is written with its slash: some lists of positions leave it out."""
        if "/" in symbol:
            self._pairs[bare(symbol)] = symbol

    def note_fills(self, report: ExecutionReport) -> None:
        """An order of somebody else has filled so far: as the bot's updates say, once or often, in any order."""
        fill = holdings.execution_of(report, self.told.get(report.client_order_id))
        if fill is None:
            return
        remember(self.told, report.client_order_id, fill)
        key = (fill.symbol, Side.LONG if fill.side is OrderSide.BUY else Side.SHORT)
        ended = self._ended.get(fill.symbol)
        if ended is None or fill.at > ended:
            self.first_fills[key] = min(fill.at, self.first_fills.get(key, fill.at))

    def forget(self, p: Position) -> None:
        """A position has ended. What others opened since its exit was triggered is the start of the one after it."""
        if p.ended_at is not None:
            self._ended[p.symbol] = p.ended_at
        opened_at = holdings.opened_since_exit(p, self.told.values())
        self.first_fills.pop((p.symbol, p.side), None)
        if opened_at is not None:
            self.first_fills[p.symbol, p.side] = opened_at

    def ended_at(self, symbol: str) -> datetime | None:
        """When the newest position of a symbol ended in this life; None where none has."""
        return max((at for of, at in self._ended.items() if bare(of) == bare(symbol)), default=None)

    def rules(self, symbol: str) -> AssetRules:
        """What the venue takes of a symbol, however it is spelled."""
        return self._engine.broker.rules(self.known_spelling(symbol))

    def known_spelling(self, symbol: str) -> str:
        """The spelling under which the bars of a pair come: with its slash where that is already known."""
        return holdings.known_spelling(symbol, list(self._engine.levels.slots), self._pairs)


def own_id(p: Position, client_order_id: str) -> str | None:
    """The broker's own id of an exit order, where it is known."""
    return next((own for own, ours in p.broker_order_ids.items() if ours == client_order_id), None)


def remember(memory: dict[str, T], key: str, value: T) -> None:
    """Put the newest into a memory that forgets the oldest."""
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > REMEMBERED_MAX:
        del memory[next(iter(memory))]
