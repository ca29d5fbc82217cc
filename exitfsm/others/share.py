"""What of the account's rows and executions is ours, where not all of them are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from exitfsm import scope
from exitfsm.account import Account
from exitfsm.books import Rows
from exitfsm.broker.calls import BrokerCalls
from exitfsm.engine import Engine
from exitfsm.holdings import Read, bare, in_prices, watching
from exitfsm.holdings.facts import Scope
from exitfsm.memory.kept import Asked, Kept
from exitfsm.outside import logged
from exitfsm.values import BrokerPosition, Fill, same_symbol


class Share:
    """Knows what of a read is ours: no more than is watched.

    In scope by ids it is also no more than is left of it by the executions: what the bot sold by itself, while an exit
    is under way, is not sold again out of what others hold.
    """

    def __init__(self, engine: Engine, given: Scope, calls: BrokerCalls, kept: Kept, account: Account) -> None:
        self._engine, self.scope, self._calls, self._kept = engine, given, calls, kept
        #: Where what a person says of the scope is stored, and folded.
        self.account = account
        #: All rows of the account, as they were read last, and what of them was shown as ours.
        self.rows: Rows = ()
        self.shown: Rows = ()
        #: The newest executions of each symbol that is on its way out.
        self._listed: dict[str, tuple[Fill, ...]] = {}

    async def limits(self) -> Callable[[Rows], Rows]:
        """What a read that begins now is to show of its rows."""
        limited = await self._limits()

        def noted(rows: Rows) -> Rows:
            self.rows, self.shown = rows, limited(rows)
            return self.shown

        return noted

    async def _limits(self) -> Callable[[Rows], Rows]:
        if not self.scope.by_ids:
            return lambda rows: rows
        if self.scope.ids:
            await self._learn()
        ours, choices = scope.shares(list(self._engine.positions.values())), self.account.choices

        def limited(rows: Rows) -> Rows:
            if self.scope.handed:
                whole = tuple(row for row in rows if choices.takes_in(row.symbol))  # all of those is ours
                return scope.handed_rows([row for row in rows if not choices.takes_in(row.symbol)], ours) + whole
            return scope.part_rows(rows, {name: self._left(name, one, rows) for name, one in ours.items()})

        return limited

    def priced(self, rows: Rows) -> Rows:
        """The rows with their average entries as prices, where the account shows them for whole contracts."""
        return tuple(map(self._priced, rows))

    def _priced(self, row: BrokerPosition) -> BrokerPosition:
        multiplier = watching.instrument_of(self._calls.capabilities, row.symbol).multiplier
        if multiplier == 1:
            return row
        watched = (p for p in list(self._engine.positions.values()) if same_symbol(p.symbol, row.symbol))
        entry = next((p.entry_price for p in watched if p.side is row.side), None)
        return in_prices(row, entry, multiplier)

    def own(self, fills: Iterable[Fill]) -> list[Fill]:
        """Those of these executions that are in scope, or an exit's that is on record."""
        owner = self._engine.known_owner
        return [f for f in fills if scope.is_in_scope(f, self.scope) or owner(f.client_order_id or "") is not None]

    async def _learn(self) -> None:
        """Ask for the executions of what is on its way out; where that fails, what was known counts."""
        leaving = {p.symbol: p for p in list(self._engine.positions.values()) if not watching.are_at_rest((p,))}
        self._listed = {symbol: fills for symbol, fills in self._listed.items() if symbol in leaving}

        async def ask(symbol: str) -> None:
            since = min(p.opened_at for p in self._engine.levels.holding(symbol) or (leaving[symbol],))
            with logged("fills_failed symbol=%s error=%s", symbol):
                self._listed[symbol] = tuple(await self._calls.fills(since.replace(microsecond=0), symbol))

        await asyncio.gather(*map(ask, leaving))

    def _left(self, name: str, one: scope.Share, rows: Rows) -> scope.Share:
        """What of a symbol may leave at most."""
        symbol = next((symbol for symbol in self._listed if bare(symbol) == name), None)
        holding = self._engine.levels.holding(symbol) if symbol is not None else ()
        if symbol is None or not holding:
            return one
        read, asked = Read(rows=rows, whole=rows), Asked(self._listed[symbol])
        most = scope.at_most(self._kept.evidence(holding, read, asked, None, listed=True))
        return scope.capped(one, most)
