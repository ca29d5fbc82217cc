"""Whose order is it? Ours and the broker's ids of one order, held against each other, and what others' orders said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.broker.calls import Known
from exitfsm.engine import Engine
from exitfsm.holdings import NEVER, Watching, bare
from exitfsm.holdings.facts import Scope
from exitfsm.memory.reported import Reported
from exitfsm.ports import AssetRules
from exitfsm.position import Position
from exitfsm.position.refusing import holders
from exitfsm.scope import is_in_scope
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, OrderSide, Side

#: Ids, and orders of others, that are remembered.
REMEMBERED_MAX = 10_000
#: All that the account holds.
ALL = Scope()
T = TypeVar("T")


class Orders:
    """What is known of the account's orders: their ids, and those of others.

    Args:
        engine: knows whose exits are ours.
        listed_by: until when no exit leaves before the working orders were listed once, in monotonic seconds: one of
            ours might be among them.
        scope: what of the account is ours.
    """

    def __init__(self, engine: Engine, listed_by: float, scope: Scope = ALL) -> None:
        self._engine, self._listed_by, self._scope = engine, listed_by, scope
        #: Orders of others that are known to work, by symbol and id: the bot's entries above all.
        self.foreign: dict[str, dict[str, ExecutionReport]] = {}
        #: When each of them was last reported, in monotonic seconds; and those that have ended.
        self._noted: dict[str, float] = {}
        self._terminal: dict[str, ExecutionReport] = {}
        #: Orphan orders: they look like exits of ours, work, and belong to no known position. Their symbols, by id.
        self.orphans: dict[str, str] = {}
        #: Working exit orders of ours as last listed; None where the broker does not list any.
        self.open_exits: Sequence[ExecutionReport] | None = None
        #: Executions of others that the bot's updates reported: where the broker lists none.
        self.reported = Reported(REMEMBERED_MAX)
        #: The first of them since the symbol was flat, by symbol and side; and when a position of a symbol has ended.
        self.first_fills: dict[tuple[str, Side], datetime] = {}
        self._ended: dict[str, datetime] = {}
        #: Pairs as written with their slash, by their spelling without it; and our ids, by those that came after them.
        self._pairs: dict[str, str] = {}
        self._both_sides: frozenset[str] = frozenset()
        self._renamed: dict[str, str] = {}
        #: Our ids of exit orders whose positions have ended, by the broker's own.
        self._past: dict[str, str] = {}

    def restore(self) -> None:
        """In the writer's thread: which of the newest orders were ours."""
        self._past = self._engine.store.newest_broker_ids(REMEMBERED_MAX)

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
        """Our id of an exit order that is named by the broker's id alone, also of a position that has ended."""
        ids = (p.broker_order_ids.get(broker_order_id) for p in list(self._engine.positions.values()))
        return next((ours for ours in ids if ours is not None), self._past.get(broker_order_id))

    def client_ids(self) -> dict[str, str]:
        """The same of all that are known, for a list of many: what is monitored has mostly sent none."""
        exits = [p for p in list(self._engine.positions.values()) if p.orders]
        return self._past | {own: ours for p in exits for own, ours in p.broker_order_ids.items()}

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

    def holding(self, p: Position) -> list[Position]:
        """The open positions of its holding, oldest first: of its symbol, and in hedge mode of its side."""
        both = self._engine.broker.holds_both(p.symbol)
        return [q for q in self._engine.levels.holding(p.symbol) if not both or q.side is p.side]

    def watched(self) -> set[Watching]:
        """What is watched: symbols, and in hedge mode each with its side."""
        known = list(self._engine.positions.values())
        return {holdings.watching_of(p.symbol, p.side, self._engine.broker) for p in known}

    def of_other_sides(self, rows: Sequence[BrokerPosition]) -> set[str]:
        """The symbols of rows on another side than is watched, or than another row is."""
        sides = {(bare(p.symbol), p.side) for p in list(self._engine.positions.values())}
        sides |= {(bare(row.symbol), row.side) for row in rows}
        longs, shorts = ({name for name, on in sides if on is side} for side in Side)
        return {self.known_spelling(row.symbol) for row in rows if bare(row.symbol) in longs & shorts}

    def hedged(self, symbols: Iterable[str]) -> frozenset[str]:
        """Those of which both sides are held at once, by their bare names."""
        broker = self._engine.broker
        if not broker.may_hold_both:
            return frozenset()
        return frozenset(bare(one) for one in symbols if broker.holds_both(self.known_spelling(one)))

    def shown_on_both_sides(self, names: frozenset[str]) -> None:
        """These symbols are shown on both sides, though only one can be held: nothing is sent for either."""
        self._both_sides = names

    def hold_back(self, symbol: str, monotonic: float) -> bool:
        """True while another exit of ours is, or might be, at the broker, or while both sides of the symbol are shown.

        Of either there is an alarm.
        """
        name, owner = bare(symbol), self._engine.known_owner  # one that was an orphan may have an owner by now
        is_orphaned = any(of == name and owner(key) is None for key, of in self.orphans.items())
        return monotonic < self._listed_by or is_orphaned or name in self._both_sides

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
        fill = holdings.execution_of(report, self.reported.get(report.client_order_id))
        if fill is None or not is_in_scope(fill, self._scope):
            return
        self.reported.note(fill)
        opened = Side.LONG if fill.side is OrderSide.BUY else Side.SHORT
        if self._engine.broker.holds_both(fill.symbol) and fill.position_side is not opened:
            return  # it closed, or does not say
        key, ended = (fill.symbol, opened), self._ended.get(fill.symbol)
        if ended is None or fill.at > ended:
            self.first_fills[key] = min(fill.at, self.first_fills.get(key, fill.at))

    def forget(self, p: Position) -> None:
        """A position has ended. What others opened since its exit was triggered is the start of the one after it."""
        for own, ours in p.broker_order_ids.items():
            remember(self._past, own, ours)
        if p.ended_at is not None:
            self._ended[p.symbol] = p.ended_at
        opened_at = holdings.opened_since_exit(p, self.reported.of(p.symbol))
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
