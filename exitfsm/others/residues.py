"""Residues that nobody watches: silent, unless the executions show that the declared step or least is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

from exitfsm import holdings
from exitfsm.books import Books
from exitfsm.kinds import AlarmKind
from exitfsm.others.ground import Ground
from exitfsm.outside import logged
from exitfsm.values import BrokerPosition, Side, bare


class Residues:
    """Looks at each residue once: what could be bought can be sold, too.

    Args:
        ground, books: what it stands on.
        is_taught: True for a symbol of which the venue's own refusals have said what it takes.
    """

    def __init__(self, ground: Ground, books: Books, is_taught: Callable[[str], bool]) -> None:
        self._is_taught = is_taught
        self._orders, self._live = ground.orders, ground.live
        self._books, self.raise_alarm = books, ground.raise_alarm
        #: Of which quantity it is known whether it was bought as it is, by bare symbol and side.
        self._known: dict[tuple[str, Side], Decimal] = {}

    async def look_at(self, rows: Sequence[BrokerPosition]) -> None:
        """Say of residues that are new here which of them are none by what was traded."""
        left = holdings.residues(rows, self._orders.watched(), self._orders.rules)
        self._known = {key: qty for row in left if (qty := self._known.get(key := _key(row))) is not None}
        new = [row for row in left if self._known.get(_key(row)) != row.qty]
        if not new:
            return
        with logged("residues_unknown error=%s"):
            executed = await self._books.executed(self._live.lookback_days)
            for row in new:
                symbol = self._orders.known_spelling(row.symbol)
                fills, rules = executed.of(symbol, row.side), self._orders.rules(symbol)
                self._known[_key(row)] = row.qty
                known = sorted(self._orders.reported.of(symbol), key=lambda fill: fill.at) if fills is None else fills
                why = holdings.not_by_rules(row, known, rules, taught=self._is_taught(symbol))
                if why:
                    await self.raise_alarm(AlarmKind.RESIDUE_DOUBTED, holdings.residue_doubted(row, why, rules))


def _key(row: BrokerPosition) -> tuple[str, Side]:
    return bare(row.symbol), row.side
