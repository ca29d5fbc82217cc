"""What of the account is managed, and why not: asked of each row that the broker shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from exitfsm.holdings.executions import first_since_flat
from exitfsm.holdings.facts import Scope
from exitfsm.order_ids import looks_like_exit
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.position import Position
from exitfsm.values import EXACT, ZERO, BrokerPosition, Fill, bare, exactly, plain, same_symbol

#: A fee in the asset itself is no purchase of others.
_GRAIN = Decimal("0.01")


class Others(msgspec.Struct, frozen=True):
    """So much of a row was bought under other ids than the bot's; `by` is one of them, empty where none is known."""

    qty: Decimal
    by: str


def is_named(symbol: str, scope: Scope) -> bool:
    """True where the configuration, or a person, names this symbol as managed."""
    return scope.choices.takes_in(symbol) or any(same_symbol(symbol, one) for one in scope.symbols)


def why_not(symbol: str, scope: Scope, *, watched: bool) -> str:
    """Why what is held of a symbol is not managed; empty where it is."""
    if (chosen := scope.choices.of(symbol)) is not None:
        return chosen.why_not
    if any(same_symbol(symbol, one) for one in scope.ignore):
        return "manage.ignore names it"
    if scope.symbols and not is_named(symbol, scope):
        return "manage.symbols does not name it"
    if scope.handed and not watched:
        return "nobody handed it to watch()"
    return ""


def described_scope(row: BrokerPosition, scope: Scope, *, watched: bool, ours: Decimal | None = None) -> str:
    """What a row is to us, in words: for a person, at the start and in `exitfsm preflight`.

    Args:
        ours: in scope by ids, what the bot's ids bought of it; None where the executions do not say it (yet).
    """
    what, not_so = f"{plain(row.qty)} {row.symbol} {row.side}", why_not(row.symbol, scope, watched=watched)
    if not_so:
        kept = " any more: no exit of it begins, and one under way goes on to its end" if watched else ""
        return f"{what}: not managed{kept} ({not_so})"
    if not scope.ids:
        return f"{what}: managed ({'what was handed to watch()' if scope.handed else 'all of it, whoever bought it'})"
    by = f"{' or '.join(f'{one}…' for one in scope.ids)}"
    if ours is None:
        return f"{what}: not managed (what orders of {by} bought is not known yet)"
    if not ours:
        return f"{what}: not managed (no order of {by} bought it)"
    if abs(ours) >= row.qty:
        return f"{what}: managed (bought by {by})"
    return f"{what}: managed are {plain(abs(ours))} (bought by {by}); the rest is not"


class Share(msgspec.Struct, frozen=True):
    """What of a symbol is ours: the quantity, signed, and what it cost on average."""

    qty: Decimal
    entry: Decimal


@exactly
def shares(positions: Iterable[Position]) -> dict[str, Share]:
    """What is left of what is watched, by the symbol's bare name."""
    found: dict[str, Share] = {}
    for p in positions:
        left, before = p.remaining_qty * p.side.sign, found.get(bare(p.symbol), Share(ZERO, ZERO))
        qty = before.qty + left
        entry = EXACT.divide(before.qty * before.entry + left * p.entry_price, qty) if qty else p.entry_price
        found[bare(p.symbol)] = Share(qty, entry)
    return found


@exactly
def handed_rows(rows: Sequence[BrokerPosition], ours: Mapping[str, Share]) -> tuple[BrokerPosition, ...]:
    """The rows, each for no more than what is ours of its symbol, at what that cost.

    What others hold on the side of ours is not shown at all: no sale is sized by it, and nothing grows with it.
    """
    limited: list[BrokerPosition] = []
    for row in rows:
        share = ours.get(bare(row.symbol), Share(ZERO, ZERO))
        left = share.qty * row.side.sign
        if left < 0 or not row.qty.is_finite():
            limited.append(row)  # the other side of ours: that is to be seen
        elif left > 0:
            limited.append(replace(row, qty=min(row.qty, left), avg_entry_price=share.entry))
    return tuple(limited)


def two_managers(broker: Capabilities) -> str:
    """What a person must know of a second manager with a store of its own; empty where the broker refuses its ids."""
    if broker.ids_refused is IdMemory.FOREVER:
        return ""
    guard = (
        "it refuses to sell more than is held" if broker.reduce_only or broker.reserves else "nothing else guards it"
    )
    return (
        f"the broker takes an order id again ({broker.ids_refused}): two managers of one account with a store each "
        f"would both sell ({guard}). Run one, or let them share one store"
    )


@exactly
def bought_by_others(row: BrokerPosition, executions: Iterable[Fill], prefix: str) -> Others | None:
    """What of a row was not bought by orders of the bot's prefix, as far as executions say; None where nothing is.

    One that names no client order id does not say who bought it.
    """
    mine = [fill for fill in executions if same_symbol(fill.symbol, row.symbol)]
    start = first_since_flat(mine, row.side, row.qty)
    since = [fill for fill in mine if start is None or fill.at >= start]
    opens = [fill for fill in since if fill.side is not row.side.exit_side]
    known = sum((fill.qty for fill in opens), ZERO) - sum((f.qty for f in since if f not in opens), ZERO)
    named = ((f, f.client_order_id) for f in opens if f.client_order_id)
    theirs = [f for f, order_id in named if not (order_id.startswith(prefix) or looks_like_exit(order_id))]
    bought = sum((fill.qty for fill in theirs), ZERO) + max(ZERO, row.qty - known)
    if bought <= row.qty * _GRAIN:
        return None
    return Others(min(row.qty, bought), next((f.client_order_id for f in theirs if f.client_order_id), ""))


def unclear_scope(row: BrokerPosition, others: Others, prefix: str) -> str:
    """What a person must know of a row that others have bought."""
    by = f" by {others.by}" if others.by else " before the executions that are listed"
    return (
        f"{plain(others.qty)} of {plain(row.qty)} {row.symbol} were bought{by}, not by {prefix}…: they will be sold, "
        "too. Name the symbol in manage.symbols if that is meant; else in manage.ignore, or set manage.owner: ids"
    )


@exactly
def beyond_exits(qty: Decimal, shown: Decimal, selling: Sequence[Position]) -> Decimal:
    """What of a quantity can be taken up beside exits under way: what is shown beyond all that they still sell."""
    left = sum((p.remaining_qty for p in selling), ZERO)
    return max(ZERO, min(qty, EXACT.subtract(shown, left)))


@exactly
def part_rows(rows: Sequence[BrokerPosition], ours: Mapping[str, Share]) -> tuple[BrokerPosition, ...]:
    """The rows, each for what is ours of it, at what that cost; what others hold is shown as nothing.

    So is all of what is held against ours: no sale is sized by it, and it is no list without a row either.
    """
    limited: list[BrokerPosition] = []
    for row in rows:
        share = ours.get(bare(row.symbol), Share(ZERO, ZERO))
        left = share.qty * row.side.sign
        if not row.qty.is_finite():
            limited.append(row)
        elif left > 0:
            limited.append(replace(row, qty=min(row.qty, left), avg_entry_price=share.entry))
        else:
            limited.append(replace(row, qty=ZERO))
    return tuple(limited)


def guards_of(broker: Capabilities, scope: Scope) -> Capabilities:
    """What a broker can do for what is in scope: it guards all that the account holds, and knows no parts of that."""
    return replace(broker, reduce_only=False, reserves=False) if scope.ids else broker


@exactly
def capped(share: Share, most: Decimal) -> Share:
    """The same with no more than this."""
    return share if abs(share.qty) <= most else Share(most.copy_sign(share.qty), share.entry)
