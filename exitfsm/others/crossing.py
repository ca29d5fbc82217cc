"""A position on its way out whose holding is shown on the other side: by whose order, the executions say."""

from __future__ import annotations

from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.books import Books
from exitfsm.holdings import Read, watching
from exitfsm.kinds import AlarmKind
from exitfsm.others.ground import Ground
from exitfsm.position import Position


class Crossings:
    """Asks the executions who took a holding to the other side."""

    def __init__(self, ground: Ground, books: Books) -> None:
        self._calls, self._positions, self._books = ground.calls, ground.positions, books

    async def seen_by(self, p: Position, read: Read) -> Read:
        """What a read shows to a position: where others have reversed its holding, that nothing is left of it.

        Where an order of ours did, or where the executions do not lead there, it stays on the other side.
        """
        row = holdings.row_of(read, p.symbol, p.side)
        if row is None or row.side is p.side:
            return read
        instrument = watching.instrument_of(self._calls.capabilities, p.symbol)
        fills = await self._books.fills_of(p) or ()
        found = holdings.crossing_of(p, fills, row.qty * row.side.sign, instrument)
        if found is None:
            return read
        if found.is_exit:
            await self._positions.alarm(p.position_id, AlarmKind.OVERSOLD, found.text)
            return read
        return replace(read, rows=tuple(one for one in read.rows if one is not row))
