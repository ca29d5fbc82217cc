"""Executions of a holding, one for each trade: who traded what since the last conclusion, and when it was opened.

They are the second witness beside a read, never the first: they come late, twice, or not at all. So they are walked as
a whole each time, in the present unit, and never added up read by read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from exitfsm.holdings.facts import Evidence, Instrument, Key, Memory, Scope, Watched
from exitfsm.holdings.rows import sellable, side_of
from exitfsm.holdings.sides import said_side
from exitfsm.order_ids import is_exit_of
from exitfsm.position.attempting import is_price
from exitfsm.values import EXACT, ZERO, Fill, OrderSide, exactly, same_symbol, significant

_CORRECTION = 2  # digits of the last part of an execution's id, where that counts corrections


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """One trade of the holding: `qty` is signed as the holding is, in the present unit, less what the venue kept."""

    root: str
    qty: Decimal
    price: Decimal
    at: float
    when: datetime
    order_id: str
    broker_order_id: str | None = None


def root_of(fill_id: str) -> str:
    """The id of the trade of which an execution is one version: `x.01` and `x.02` are both `x`."""
    root, _, version = fill_id.rpartition(".")
    return root if root and len(version) == _CORRECTION and version.isdigit() else fill_id


@exactly
def trades(fills: Iterable[Fill], key: Key, memory: Memory) -> tuple[Trade, ...]:
    """The holding's executions, one a trade (of corrections the newest), oldest first, in the present unit."""
    newest: dict[str, Fill] = {}
    for fill in fills:
        if not same_symbol(fill.symbol, key.symbol) or (
            key.account is not None and fill.account not in (None, key.account)
        ):
            continue
        if key.side is not None and said_side(fill) is not key.side:
            continue
        root = root_of(fill.fill_id)
        if root not in newest or fill.fill_id > newest[root].fill_id:
            newest[root] = fill
    return tuple(sorted((_trade(root, f, key, memory) for root, f in newest.items()), key=lambda t: (t.at, t.root)))


def _trade(root: str, fill: Fill, key: Key, memory: Memory) -> Trade:
    at, factor = fill.at.timestamp(), Decimal(1)
    for unit in memory.units:
        factor = factor * unit.factor if at < unit.at else factor
    buys = fill.side is OrderSide.BUY
    opens = buys if key.side is None else fill.side is not key.side.exit_side
    got = fill.qty - fill.base_fee if buys else fill.qty
    return Trade(
        root=root,
        qty=(got if opens else -got) * factor,
        price=EXACT.divide(fill.price, factor),
        at=at,
        when=fill.at,
        order_id=fill.client_order_id or "",
        broker_order_id=fill.broker_order_id,
    )


def explain(found: Sequence[Trade], e: Evidence, memory: Memory) -> tuple[Trade, ...]:
    """What others traded and no conclusion has accounted for yet, oldest first."""
    own = {order.broker_order_id for p in e.watched for order in p.orders if order.broker_order_id}
    return tuple(
        t
        for t in found
        if t.at > memory.horizon
        and t.root not in memory.booked
        and not e.scope.is_exit(t.order_id)
        and t.broker_order_id not in own
    )


@exactly
def total(found: Iterable[Trade]) -> Decimal:
    """What trades come to."""
    return sum((t.qty for t in found), ZERO)


def doubles_merged(found: Sequence[Trade]) -> tuple[Trade, ...]:
    """The same with what one order traded twice in a second, at one price and quantity, taken for one trade.

    Some venues list a trade under two ids; at others these are two trades. Which of them is right, only a read says.
    """
    seen: set[tuple[object, ...]] = set()
    once: list[Trade] = []
    for t in found:
        same = (t.order_id or t.broker_order_id, t.qty, t.price, int(t.at))
        if same not in seen or not same[0]:
            once.append(t)
        seen.add(same)
    return tuple(once)


@exactly
def crosses(start: Decimal, found: Iterable[Trade], instrument: Instrument) -> bool:
    """True where the holding came to be flat, or changed its side, on the way."""
    held = start
    for t in found:
        held += t.qty
        if held * start <= 0 or not sellable(held, instrument):
            return True
    return False


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a holding comes from: its average entry by the executions, the fill that opened it, and its order."""

    entry: Decimal
    opened: Trade


@exactly
def origin(found: Sequence[Trade], held: Decimal, instrument: Instrument) -> Origin | None:
    """The walk back from what is held to the fill that opened it; None where the executions do not reach to flat.

    Flat includes what cannot be sold, and what the venue may have kept of purchases. Where a fill crossed zero, it is
    the part beyond that opened.
    """
    way = 1 if held > 0 else -1
    rest, bought = held * way, ZERO
    for at in reversed(range(len(found))):
        traded = found[at].qty * way
        rest -= traded
        bought += max(ZERO, traded)
        if rest <= 0 or (traded > 0 and _is_flat(rest, bought, instrument)):
            return _averaged(found[at:], way, rest)
    return None


def _is_flat(rest: Decimal, bought: Decimal, instrument: Instrument) -> bool:
    return not sellable(rest, instrument) or rest <= bought * instrument.fee_max


def _averaged(found: Sequence[Trade], way: int, before: Decimal) -> Origin | None:
    held = worth = ZERO
    for t in found:
        qty = t.qty * way
        if qty > 0:
            if not is_price(t.price):
                return None
            opened = qty + before if not held and before < 0 < qty + before else qty
            worth = EXACT.divide(held * worth + opened * t.price, held + opened) if held + opened > 0 else t.price
            held += opened
        else:
            held += qty
    return Origin(entry=worth, opened=found[0])


def name_of(first: Origin | None, held: Decimal, key: Key, tag: str, entry: Decimal) -> str:
    """The name of what is held: by the fill that opened it, else by its price."""
    side = side_of(held, key)
    end = f":{tag}" if tag else ""
    if first is None:
        return f"{key.symbol}:{side}:at-{significant(entry):f}{end}"
    return f"{key.symbol}:{side}:{first.opened.when.isoformat()}{end}"


def own_sales(found: Iterable[Trade], p: Watched) -> dict[str, tuple[Decimal, Decimal | None]]:
    """What the executions under our ids, or the broker's of them, say that each order of a position has filled."""
    by_id = {order.order_id: order.order_id for order in p.orders}
    by_id |= {order.broker_order_id: order.order_id for order in p.orders if order.broker_order_id}
    sums: dict[str, tuple[Decimal, Decimal]] = {}
    for t in found:
        order_id = by_id.get(t.order_id) or by_id.get(t.broker_order_id or "")
        if order_id is not None:
            qty, worth = sums.get(order_id, (ZERO, ZERO))
            sums[order_id] = qty + abs(t.qty), worth + abs(t.qty) * t.price
    return {one: (qty, significant(EXACT.divide(worth, qty)) if qty else None) for one, (qty, worth) in sums.items()}


def nobodys(found: Iterable[Trade], watched: Sequence[Watched], scope: Scope, memory: Memory) -> tuple[Trade, ...]:
    """Executions of exits under our prefix that belong to no order we know: another machine's, or a lost life's."""
    known = {order.order_id for p in watched for order in p.orders}
    since = min((p.opened for p in watched), default=0.0)
    return tuple(
        t
        for t in found
        if scope.is_exit(t.order_id) and t.order_id not in known and t.root not in memory.others and t.at > since
    )


def lost_exits(found: Iterable[Trade], watched: Sequence[Watched], memory: Memory) -> tuple[Trade, ...]:
    """Executions of exits of these positions that are on no record here: another machine's, or a lost life's."""
    known = {order.order_id for p in watched for order in p.orders}
    return tuple(
        t
        for t in found
        if t.order_id not in known
        and t.root not in memory.booked
        and any(is_exit_of(p.name, t.order_id) for p in watched)
    )
