"""What the account shows of a holding, what it should show, and how much of a quantity can be sold.

A read is a statement about an interval, not about now: what is watched, widened by everything that the read may be too
old to contain and by every order of ours that may still fill. Only what lies outside is news.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import Enum

import msgspec

from exitfsm.holdings.facts import Change, Instrument, Key, Memory, Read, Scope, Watched
from exitfsm.values import (
    EXACT,
    ZERO,
    BrokerPosition,
    Side,
    bare,
    exactly,
    floor_to,
    plain,
    rows_of,
    same_symbol,
    tradable,
)  # fmt: skip


class Said(Enum):
    """How strongly a read says what it says."""

    ROW = "a row of the holding"
    ABSENT = "rows of others, none of the holding"
    EMPTY = "no row at all: no statement about any position"


class Silent(msgspec.Struct, frozen=True):
    """The read says nothing of the holding, or contradicts itself: `kind` is the alarm where it stays so."""

    kind: str
    text: str


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What the account shows of the holding: signed quantity, average entry and price where it says them."""

    qty: Decimal
    said: Said
    average: Decimal | None = None
    price: Decimal | None = None
    available: Decimal | None = None


class Expected(msgspec.Struct, frozen=True):
    """What the account should show now, and the interval of what a read may show."""

    qty: Decimal
    low: Decimal
    high: Decimal

    @property
    def is_clean(self) -> bool:
        """True where the read can say only one thing."""
        return self.low == self.high

    def holds(self, qty: Decimal) -> bool:
        """True for what may be shown without being news."""
        return self.low <= qty <= self.high


def sign(side: Side, key: Key) -> int:
    """+1 or -1: which way the quantity of a position counts."""
    return 1 if key.side is not None else side.sign


def side_of(qty: Decimal, key: Key) -> Side:
    """On which side a quantity of the holding is held."""
    return key.side or (Side.LONG if qty >= 0 else Side.SHORT)


@exactly
def net(read: Read, key: Key, *, hedge: bool = False) -> Shown | Silent:
    """What the account shows of a holding: the rows of its own account, added up.

    A row without an account is ours only where no row has one. A row of zero is a statement. Where both sides are
    shown of what can be held on one only, the read contradicts itself.
    """
    if not read.unreadable.isdisjoint(("", bare(key.symbol))):
        return Silent("positions_unreadable", f"a row of {key.symbol} could not be read")
    rows = [row for row in rows_of(read.rows, key.symbol) if _is_own(row, read, key)]
    if not hedge and len({row.side for row in rows if row.qty}) > 1:
        shown = " and ".join(f"{row.side} {row.qty:f}" for row in rows if row.qty)
        return Silent("both_sides", f"{key.symbol} is shown {shown}: rows of one instrument; nothing is sent")
    if key.side is not None:
        rows = [row for row in rows if row.side is key.side]
    if not rows:
        shows_others = any(_is_own(row, read, key) for row in read.rows)
        return Shown(qty=ZERO, said=Said.ABSENT if shows_others else Said.EMPTY)
    return _added(rows, key)


def _is_own(row: BrokerPosition, read: Read, key: Key) -> bool:
    """True for a row of the holding's account, and where no row names one."""
    return key.account in (None, row.account) or all(one.account is None for one in read.rows)


def _one_row(row: BrokerPosition, key: Key) -> Shown:
    """What a sum of rows says where there is only this one."""
    average, price = row.avg_entry_price, row.current_price
    return Shown(
        qty=(ZERO + row.qty) * sign(row.side, key),
        said=Said.ROW,
        average=ZERO + average if row.qty and tradable(average) and average > 0 else None,
        price=price if price is not None and price > 0 else None,
        available=row.qty_available,
    )


def _added(rows: Sequence[BrokerPosition], key: Key) -> Shown:
    """Rows of one side as one."""
    if len(rows) == 1:  # mostly
        return _one_row(rows[0], key)
    total = sum((row.qty for row in rows), ZERO)
    averages = [row.avg_entry_price for row in rows if row.qty]
    average = None
    if total and all(tradable(one) and one > 0 for one in averages):
        worth = sum((row.qty * row.avg_entry_price for row in rows if row.qty), ZERO)
        average = EXACT.divide(worth, total)
    available = [row.qty_available for row in rows]
    free = sum((one for one in available if one is not None), ZERO) if None not in available else None
    prices = sorted(row.current_price for row in rows if row.current_price is not None and row.current_price > 0)
    side = next((row.side for row in rows if row.qty), rows[0].side)
    return Shown(
        qty=total * sign(side, key),
        said=Said.ROW,
        average=average,
        price=prices[len(prices) // 2] if prices else None,
        available=free,
    )


class OwnRows(msgspec.Struct, frozen=True):
    """The rows of our account, one for each symbol and side; and the symbols of which it is not known what is ours."""

    rows: tuple[BrokerPosition, ...]
    unclear: frozenset[str] = frozenset()


@exactly
def own_rows(rows: Sequence[BrokerPosition], is_ours: Callable[[str], bool]) -> OwnRows:
    """Rows of our own account, those of one symbol and side added up.

    Where no account has our name, a symbol that several accounts hold is unclear: it is no statement about ours.
    """
    accounts = {row.account for row in rows if row.account is not None}
    ours = set(filter(is_ours, accounts))
    unclear: frozenset[str] = frozenset()
    if ours:
        rows = [row for row in rows if row.account in ours]
    elif len(accounts) > 1:
        by_symbol: dict[str, set[str | None]] = {}
        for row in rows:
            by_symbol.setdefault(bare(row.symbol), set()).add(row.account)
        unclear = frozenset(symbol for symbol, held_by in by_symbol.items() if len(held_by) > 1)
        rows = [row for row in rows if bare(row.symbol) not in unclear]
    together: dict[tuple[str, Side], list[BrokerPosition]] = {}
    for row in rows:
        together.setdefault((bare(row.symbol), row.side), []).append(row)
    if len(together) < len(rows):
        rows = [of_one[0] if len(of_one) == 1 else _one(of_one) for of_one in together.values()]
    return OwnRows(tuple(rows), unclear)


def _one(rows: Sequence[BrokerPosition]) -> BrokerPosition:
    first, opened = rows[0], [row.opened_at for row in rows if row.opened_at is not None]
    shown = _added(rows, Key(None, first.symbol))
    return msgspec.structs.replace(
        first,
        qty=abs(shown.qty),
        avg_entry_price=shown.average if shown.average is not None else Decimal("NaN"),
        qty_available=shown.available,
        current_price=shown.price,
        opened_at=min(opened, default=None),
    )


def both_sides(rows: Sequence[BrokerPosition]) -> list[str]:
    """What is shown on both sides, in words."""
    said = {bare(row.symbol): row for row in reversed(rows)}
    other = [(said[bare(row.symbol)], row) for row in rows if said[bare(row.symbol)].side is not row.side]
    text = (
        "rows of one symbol. Nothing is sent for either side: both are NOT protected. "
        "Where the account holds both at once, declare hedge (Capabilities, or Broker.instrument)"
    )
    return [f"{a.symbol} is shown {a.side} {plain(a.qty)} and {b.side} {plain(b.qty)}: {text}" for a, b in other]


@exactly
def expect(
    watched: Sequence[Watched], memory: Memory, begin: float, end: float, key: Key, instrument: Instrument
) -> Expected:
    """What the account should show, and the interval of what a read from `begin` to `end` may show.

    What was learned after `begin - lag` need not be in it, and an order of ours without a final record may have filled
    whole, in part or not at all.
    """
    now = sum((p.left * sign(p.side, key) for p in watched), ZERO)
    low = high = now
    younger = [c.qty for c in memory.changes if c.at > begin - instrument.lag_s]
    younger += [leaves(p, end, instrument.late_fill_s) * sign(p.side, key) for p in watched]
    for qty in younger:
        low, high = (low - qty, high) if qty > 0 else (low, high - qty)
    return Expected(now, low, high)


def leaves(p: Watched, by: float, late_fill_s: float) -> Decimal:
    """What its orders that were sent by then may still fill."""
    open_orders = [order for order in p.orders if not order.is_final(late_fill_s) and order.sent <= by]
    return sum((order.qty - order.cum for order in open_orders), ZERO)


def learned(memory: Memory, qty: Decimal, at: float) -> Memory:
    """An order of ours has filled: `qty` is signed as the change of what we expect. Unconfirmed until it is shown."""
    changes = (*(c for c in memory.changes if c.at > at - KEPT_S), Change(qty, at))
    return msgspec.structs.replace(memory, changes=changes, confirmed=False)


#: How long changes are remembered, in seconds: longer than any endpoint is behind.
KEPT_S = 300.0


@exactly
def sellable(qty: Decimal, instrument: Instrument) -> Decimal:
    """What of a quantity can be sold, by the venue's step and least quantity; positive."""
    whole = floor_to(abs(qty), instrument.step)
    return whole if whole >= instrument.least else ZERO


@exactly
def is_worth_sending(qty: Decimal, price: Decimal | None, instrument: Instrument) -> bool:
    """True where the venue's least value is reached, or no price says that it is not."""
    if price is None or not instrument.least_value:
        return True
    return abs(qty) * price * instrument.multiplier >= instrument.least_value


def is_residue(qty: Decimal, price: Decimal | None, instrument: Instrument, *, was_sold: bool) -> bool:
    """True for what is flat though something is there: it cannot be sold.

    What is worth less than the venue's least value is a residue only where an exit of ours left it: else it stays
    watched, for its price may rise.
    """
    if not sellable(qty, instrument):
        return True
    return was_sold and not is_worth_sending(qty, price, instrument)


def in_scope(symbol: str, scope: Scope) -> bool:
    """True where the symbol is managed at all."""
    if any(same_symbol(symbol, one) for one in scope.ignore):
        return False
    return not scope.symbols or any(same_symbol(symbol, one) for one in scope.symbols)


def scope_tag(scope: Scope) -> str:
    """What tells this scope's names from another's; empty for the whole account, so that its names stay as they are."""
    if scope.handed:
        return "handed"
    return "ids:" + ",".join(sorted(scope.ids)) if scope.ids else ""
