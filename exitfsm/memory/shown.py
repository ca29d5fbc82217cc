"""What the broker's books have shown: reads of positions that agree, look-ups of ended orders, tries to adopt."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from exitfsm import holdings
from exitfsm.holdings import Count, LookUps, Tries, bare
from exitfsm.kinds import AlarmKind
from exitfsm.position import READS_MIN, Position
from exitfsm.values import BrokerPosition, Side


class Shown:
    """What reads have shown of the positions that are watched, and look-ups of orders whose end was reported."""

    def __init__(self) -> None:
        self._counts: dict[str, Count] = {}
        self._look_ups: dict[str, LookUps] = {}

    def counted(self, p: Position) -> Count | None:
        """What the newest reads showed for a position."""
        return self._counts.get(p.position_id)

    def keep(self, p: Position, count: Count | None) -> None:
        """What the newest reads showed for a position, from now on; None: nothing."""
        if count is None:
            self._counts.pop(p.position_id, None)
        else:
            self._counts[p.position_id] = count

    def count(self, p: Position, net: Decimal, began: float) -> int:
        """A read that began then showed this much for a position; returns how often in a row that was so."""
        reads, self._counts[p.position_id] = holdings.count(self.counted(p), p, net, began)
        return reads

    def look_ups(self, client_order_id: str) -> LookUps:
        """What the look-ups of an order whose end was reported have shown."""
        return self._look_ups.get(client_order_id, LookUps())

    def looked_up(self, client_order_id: str, look_ups: LookUps) -> None:
        """They have shown this by now."""
        self._look_ups[client_order_id] = look_ups

    def forget(self, p: Position) -> None:
        """A position has ended."""
        self._counts.pop(p.position_id, None)
        for order in p.orders:
            self._look_ups.pop(order.client_order_id, None)


class Missing:
    """Positions that the broker shows and that could not be adopted yet, with how often that was tried."""

    def __init__(self) -> None:
        self._tries: dict[tuple[str, Side], Tries] = {}

    def are_impatient(self) -> bool:
        """True while the next answer may help one of them."""
        return any(tries.answered < READS_MIN for tries in self._tries.values())

    def over(self) -> set[str]:
        """The kinds of alarms that a reconciliation ends, where it does not say them again."""
        always: set[str] = {AlarmKind.NOT_RECONCILED, AlarmKind.POSITION_UNREADABLE, AlarmKind.BOTH_SIDES}
        return always if self._tries else always | {AlarmKind.UNPRICEABLE, AlarmKind.EXIT_UNKNOWN}

    def tries(self, row: BrokerPosition) -> Tries | None:
        """How often it was tried to adopt this one; None where it is not missing."""
        return self._tries.get(_key(row))

    def keep(self, row: BrokerPosition, tries: Tries | None) -> None:
        """It was tried so often to adopt this one, to no avail; None: it is what it was."""
        if tries is not None:
            self._tries[_key(row)] = tries

    def tried(self, row: BrokerPosition, *, answered: bool = True) -> Tries:
        """One more try to adopt this one has come to nothing."""
        tries = self._tries[_key(row)] = holdings.tried(self.tries(row), row.qty, answered=answered)
        return tries

    def found(self, row: BrokerPosition) -> None:
        """It is adopted."""
        self._tries.pop(_key(row), None)

    def keep_only(self, rows: Iterable[BrokerPosition]) -> None:
        """All others are watched by now, or held no more."""
        keys = set(map(_key, rows))
        self._tries = {key: tries for key, tries in self._tries.items() if key in keys}


def _key(row: BrokerPosition) -> tuple[str, Side]:
    return bare(row.symbol), row.side
