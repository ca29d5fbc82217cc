"""Residues that nobody watches: silent, unless the executions say that the declared step or least may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from exitfsm import holdings
from exitfsm.books import Books
from exitfsm.kinds import AlarmKind
from exitfsm.others.ground import Ground
from exitfsm.outside import logged
from exitfsm.values import BrokerPosition, Side, bare


class Residues:
    """Looks at each residue once: what was bought as it is may be sold, too."""

    def __init__(self, ground: Ground, books: Books) -> None:
        self._orders, self._live = ground.orders, ground.live
        self._books, self.raise_alarm = books, ground.raise_alarm
        #: Of which quantity it is known whether it was bought as it is, by bare symbol and side.
        self._known: dict[tuple[str, Side], Decimal] = {}

    async def look_at(self, rows: Sequence[BrokerPosition]) -> None:
        """Say of residues that are new here which of them were bought as they are."""
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
                if fills is None:
                    fills = sorted(self._orders.reported.of(symbol), key=lambda fill: fill.at)
                if holdings.was_bought(row, fills):
                    await self.raise_alarm(AlarmKind.RESIDUE_DOUBTED, holdings.residue_doubted(row, rules))


def _key(row: BrokerPosition) -> tuple[str, Side]:
    return bare(row.symbol), row.side
