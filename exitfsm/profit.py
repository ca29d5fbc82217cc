"""What a position gained: entries and exits as they happened, from its log, in one place for all who show it.

Rules of this room: pure, and exact whatever the decimal context. What our orders sold is held against the average
entry of its time, so that a top-up, a release or a split later changes nothing of it. What others sold (a manual trade)
has no price on record: it is counted, and stands beside.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import NamedTuple

import msgspec

from exitfsm.events import (
    Event,
    ExitRetried,
    ExitTriggered,
    LegCompleted,
    PositionClosedElsewhere,
    PositionReleased,
    PositionResized,
    UnitChanged,
)
from exitfsm.position import Position, evolve
from exitfsm.values import EXACT, HUNDRED, ZERO, Side, plain

#: Two values of a holding that differ by less than this part of them are the same holding in other units.
_SAME_VALUE = Decimal("0.01")
_PCT = Decimal("0.0001")
_MONEY = Decimal("1e-8")


class Change(StrEnum):
    """How the size of a watched position changed."""

    BOUGHT = "bought"
    SOLD_BY_HAND = "sold_by_hand"
    SPLIT = "split"
    AVERAGE = "average"
    RELEASED = "released"


class Profit(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a position so far.

    Attributes:
        qty: what our orders have sold.
        pnl: what that gained; None where nothing was sold or a price is not known.
        pnl_pct: the same in percent of what it was entered at, rounded half-even to 4 places.
        by_hand_qty: what manual trades have sold; at which price is not on record.
        residue_qty: what is left because it cannot be sold.
    """

    qty: Decimal = ZERO
    pnl: Decimal | None = None
    pnl_pct: Decimal | None = None
    by_hand_qty: Decimal = ZERO
    residue_qty: Decimal = ZERO


class _Sold(NamedTuple):
    """What one order has sold: how much, at which average, and what that was entered at in all."""

    qty: Decimal
    average: Decimal | None
    cost: Decimal


_NOTHING = _Sold(ZERO, None, ZERO)


def change_of(before: Position, e: PositionResized | PositionReleased | UnitChanged) -> Change:
    """How an event changed the size of a position. A split leaves what is held worth the same."""
    if isinstance(e, PositionReleased):
        return Change.RELEASED
    if isinstance(e, UnitChanged):
        return Change.SPLIT
    held = before.remaining_qty
    if e.entry_price != before.entry_price and e.qty != held:
        was, is_now = EXACT.multiply(held, before.entry_price), EXACT.multiply(e.qty, e.entry_price)
        if abs(EXACT.subtract(is_now, was)) <= EXACT.multiply(was, _SAME_VALUE):
            return Change.SPLIT
    if e.qty == held:
        return Change.AVERAGE
    return Change.BOUGHT if e.qty > held else Change.SOLD_BY_HAND


class Ledger:
    """The sales of one position, event by event."""

    def __init__(self) -> None:
        self._side = Side.LONG
        self._orders: dict[str, _Sold] = {}
        self._by_hand = self._residue = ZERO

    def add(self, before: Position | None, event: Event, after: Position) -> None:
        """The next event of the position, as it was before and after it."""
        self._side = after.side
        if before is None:
            return
        if after.orders is not before.orders:
            for order in after.orders:
                self._note(order.client_order_id, order.filled_qty, order.avg_fill_price, before.entry_price)
        match event:
            case PositionResized() | PositionReleased():
                if change_of(before, event) is not Change.SPLIT:
                    self._by_hand = EXACT.add(self._by_hand, max(EXACT.subtract(before.remaining_qty, event.qty), ZERO))
            case ExitTriggered() | ExitRetried() | LegCompleted():
                more = EXACT.subtract(after.sold_elsewhere, before.sold_elsewhere)
                self._by_hand = EXACT.add(self._by_hand, max(more, ZERO))
            case PositionClosedElsewhere(how="residue", remaining_qty=left):
                self._residue = left
            case PositionClosedElsewhere(how="ignored"):
                pass  # it is held on
            case PositionClosedElsewhere(remaining_qty=left):
                self._by_hand = EXACT.add(self._by_hand, max(left, ZERO))

    def _note(self, order_id: str, qty: Decimal, average: Decimal | None, entry: Decimal) -> None:
        known = self._orders.get(order_id, _NOTHING)
        more = EXACT.subtract(qty, known.qty)
        if more > 0:
            cost = EXACT.add(known.cost, EXACT.multiply(more, entry))
        elif more < 0:  # taken back: at what it was entered at in the mean
            cost = EXACT.divide(EXACT.multiply(known.cost, qty), known.qty)
        else:
            cost = known.cost
        if qty:
            self._orders[order_id] = _Sold(qty, average, cost)
        else:
            self._orders.pop(order_id, None)

    def profit(self) -> Profit:
        """What came of it so far."""
        qty = value = cost = ZERO
        known = bool(self._orders)
        for sold in self._orders.values():
            qty, cost = EXACT.add(qty, sold.qty), EXACT.add(cost, sold.cost)
            known = known and sold.average is not None
            value = EXACT.add(value, EXACT.multiply(sold.qty, sold.average or ZERO))
        pnl = EXACT.multiply(EXACT.subtract(value, cost), Decimal(self._side.sign)) if known else None
        return Profit(
            qty=qty,
            pnl=Decimal(plain(pnl)) if pnl is not None else None,
            pnl_pct=_percent(pnl, cost) if pnl is not None else None,
            by_hand_qty=self._by_hand,
            residue_qty=self._residue,
        )


def profit_of(events: Iterable[Event]) -> tuple[Position, Profit]:
    """A position and what came of it, from its whole log.

    Raises:
        IllegalTransition: there is no event, or the first does not open a position.
    """
    ledger, p = Ledger(), None
    for event in events:
        before, p = p, evolve(p, event)
        ledger.add(before, event, p)
    assert p is not None, "a stored stream has an event"
    return p, ledger.profit()


def _percent(pnl: Decimal, cost: Decimal) -> Decimal | None:
    if not cost:
        return None
    return EXACT.divide(EXACT.multiply(pnl, HUNDRED), cost).quantize(_PCT, ROUND_HALF_EVEN, EXACT)


def money(value: Decimal) -> str:
    """An amount for people, with its sign: at most 8 places, unless that would leave nothing of it."""
    rounded = value.quantize(_MONEY, ROUND_HALF_EVEN, EXACT)
    return f"{'+' if value > 0 else ''}{plain(rounded or value)}"


def sold_in_words(profit: Profit) -> str:
    """What our orders sold, and what others did: `4 sold by our orders, -1.6 % (-6.4); 6 by a manual trade`."""
    ours = f"{plain(profit.qty)} sold by our orders{gain_in_words(profit)}" if profit.qty else ""
    return "; ".join(part for part in (ours, others_in_words(profit)) if part)


def others_in_words(profit: Profit) -> str:
    """What others sold, and what nobody could; empty where there is nothing of that."""
    parts = []
    if profit.by_hand_qty:
        parts.append(f"{plain(profit.by_hand_qty)} by a manual trade, price not recorded")
    if profit.residue_qty:
        parts.append(f"{plain(profit.residue_qty)} left that cannot be sold")
    return "; ".join(parts)


def gain_in_words(profit: Profit) -> str:
    """`, -1.6 % (-6.4)`; where the price is not known, that."""
    if profit.pnl is None or profit.pnl_pct is None:
        return ", price not recorded"
    sign = "+" if profit.pnl_pct > 0 else ""
    return f", {sign}{plain(profit.pnl_pct)} % ({money(profit.pnl)})"
