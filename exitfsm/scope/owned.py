"""What certain orders bought: how much of a holding is ours where only what they bought is.

All executions are walked, others' too, for what is ours is never more than the account held at that moment: an account
that was flat ends what was ours. What is watched is known from the store; executions say which of them made it so, and
what came after that the ledger of `holdings` weighs. None of this is a second opinion of it: it says where the ledger
begins, and how much may leave at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from decimal import Decimal
from math import floor

import msgspec
from msgspec.structs import replace

from exitfsm.holdings.facts import (
    BEFORE,
    Adopted,
    Answer,
    ClosedBy,
    Concluded,
    Evidence,
    Instrument,
    Key,
    Memory,
    Needed,
    Raise,
    Read,
    Resized,
    Scope,
)
from exitfsm.holdings.rows import Silent, net, sellable, sign
from exitfsm.holdings.trades import Trade, lost_exits, total, trades
from exitfsm.holdings.weighing import SHOWN_S, weigh
from exitfsm.values import ZERO, BrokerPosition, Fill, exactly, plain, same_symbol

#: So much longer may a purchase stay unwatched than its executions and its row may be late.
UNWATCHED_S = 45.0


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """What of a holding is ours, signed, by the executions alone.

    Attributes:
        history: the executions up to the last moment at which nothing was ours. `since`: those after it.
    """

    qty: Decimal
    history: tuple[Trade, ...]
    since: tuple[Trade, ...]


def is_in_scope(fill: Fill, scope: Scope) -> bool:
    """True for an execution of an order whose purchases are ours, or of an exit of this scope."""
    order_id = fill.client_order_id or ""
    return not scope.ids or order_id.startswith(scope.ids) or scope.is_exit(order_id)


def is_nameless(fills: Collection[Fill]) -> bool:
    """True where executions are listed, and none of them names a client order id: then nobody knows whose they are."""
    return bool(fills) and not any(fill.client_order_id for fill in fills)


@exactly
def owned(e: Evidence) -> Owned:
    """What is ours of a holding of which nothing is watched: the walk over its executions from nothing."""
    found = _found(e)
    now, share, flat = _held(e) - total(found), ZERO, 0
    for at, t in enumerate(found, 1):
        now += t.qty
        share = _within(_after(share, t, e.scope), now)
        flat = flat if sellable(share, e.instrument) else at
    return Owned(qty=share, history=found[:flat], since=found[flat:])


def bought_of(row: BrokerPosition, executions: Iterable[Fill], scope: Scope) -> Decimal | None:
    """What the bot's ids bought of a row, where only that is ours; None where that is not the question."""
    if not scope.ids:
        return None
    key, read = Key(None, row.symbol), Read(rows=(row,), begin=0.0, end=0.0)
    of_it = tuple(fill for fill in executions if same_symbol(fill.symbol, row.symbol))
    return owned(Evidence(key=key, instrument=Instrument(), read=read, scope=scope, executions=of_it)).qty


def _after(share: Decimal, t: Trade, scope: Scope) -> Decimal:
    """What is ours after an execution: exits of ours close, and open nothing."""
    if t.order_id.startswith(scope.ids):
        return share + t.qty
    if scope.is_exit(t.order_id) and share * t.qty < 0:
        return share + t.qty if share * (share + t.qty) > 0 else ZERO
    return share


def _within(share: Decimal, held: Decimal) -> Decimal:
    """No more of it than the account holds."""
    return max(ZERO, min(share, held)) if share > 0 else min(ZERO, max(share, held))


def _found(e: Evidence) -> tuple[Trade, ...]:
    return trades(e.executions, e.key, Memory()) if isinstance(e.executions, tuple) else ()


def _held(e: Evidence) -> Decimal:
    shown = net(e.read, e.key, hedge=e.instrument.hedge) if isinstance(e.read, Read) else None
    return shown.qty if shown is not None and not isinstance(shown, Silent) else ZERO


# --- what is watched --------------------------------------------------------------------------------------------------


class _Made(msgspec.Struct, frozen=True):
    """What our ids have made of a holding by an execution, as if no exit had sold of it; and what they bought."""

    by: Trade
    qty: Decimal
    bought: Decimal


def _steps(e: Evidence, found: Iterable[Trade]) -> list[_Made]:
    """The same after each execution that is no exit of ours, from the first fill of the oldest position on."""
    since = floor(min(p.opened for p in e.watched))
    traded = [t for t in found if not e.scope.is_exit(t.order_id)]
    sold = sum((order.cum * sign(p.side, e.key) for p in e.watched for order in p.orders), ZERO)
    now, made, bought = _held(e) + sold - total(traded), ZERO, ZERO
    steps: list[_Made] = []
    for t in traded:
        now += t.qty
        if t.at >= since and t.order_id.startswith(e.scope.ids):
            made, bought = made + t.qty, bought + max(ZERO, t.qty)
        made = _within(made, now)
        steps.append(_Made(t, made, bought))
    return steps


def _wanted(e: Evidence) -> Decimal:
    """What is watched, before exits of ours sold of it; signed."""
    return sum(((p.left + sum((o.cum for o in p.orders), ZERO)) * sign(p.side, e.key) for p in e.watched), ZERO)


def accounted(e: Evidence) -> tuple[Trade, ...] | None:
    """The executions until our ids had first made what is watched; None where they never did, as far as is listed."""
    steps, wanted = _steps(e, _found(e)), _wanted(e)
    for at, made in enumerate(steps, 1):
        if made.qty - made.bought * e.instrument.fee_max <= wanted <= made.qty:
            return tuple(one.by for one in steps[:at])
    return None


@exactly
def at_most(e: Evidence) -> Decimal:
    """How much of what is watched may leave: less what our ids, or an exit on no record here, have sold of it.

    Where the executions do not reach back to what made it, all that is left; and of what was watched in another scope,
    what our ids have made.
    """
    left = sum((max(ZERO, p.left) for p in e.watched), ZERO)
    found = _found(e)
    steps, wanted = _steps(e, found), _wanted(e)
    way = 1 if wanted > 0 else -1
    if not any(made.qty * way >= wanted * way for made in steps) and _is_of_scope(e):
        return left
    made = steps[-1].qty if steps else ZERO
    missing = max(ZERO, (wanted - made) * way)
    gone = sum((abs(t.qty) for t in lost_exits(found, e.watched, Memory())), ZERO)
    return max(ZERO, left - missing - gone)


# --- where the ledger begins ------------------------------------------------------------------------------------------


@exactly
def begin(e: Evidence, memory: Memory, since: float) -> Answer | None:
    """The memory in which what led to what is watched is accounted for; None while executions of it may be late.

    Where they never come that is an alarm: what is watched stays so, and of the past nothing is concluded.

    Args:
        since: since when that is awaited.
    """
    if not isinstance(e.executions, tuple) or not isinstance(e.read, Read):
        return None
    late_s = e.instrument.lag_s + e.instrument.executions_late_s
    if e.watched:
        history = accounted(e)
        is_clear, late_s = history is not None, late_s + SHOWN_S
        awaited = not is_clear
    else:
        past = owned(e)
        history = tuple(t for t in past.history if t.at < since)
        old = [t for t in past.since if t.at < since]
        is_clear = not any(e.scope.is_exit(t.order_id) for t in old)
        awaited = any(t.order_id.startswith(e.scope.ids) for t in old)  # a sale of it may not be listed yet
    if awaited and e.read.begin - since < late_s:
        return None
    if not is_clear or history is None:
        history = tuple(t for t in _found(e) if t.at < since)
    roots = memory.booked | {t.root for t in history}
    said: tuple[Concluded, ...] = () if is_clear else (_unknown(e), *_not_ours(e))
    return said, replace(memory, booked=roots, early=ZERO, early_ids=frozenset(), run=None, unshown=BEFORE)


def is_ours_to_watch(e: Evidence) -> bool:
    """True where the executions, walked as a whole, say that something of it is ours, and it can be sold."""
    return bool(sellable(abs(owned(e).qty), e.instrument))


def lasts_unwatched(e: Evidence, since: float) -> bool:
    """True where that is so for longer than a purchase may stay unwatched (I34)."""
    return e.read.begin - since > SHOWN_S + UNWATCHED_S + e.instrument.lag_s + e.instrument.executions_late_s


@exactly
def weigh_new(e: Evidence, memory: Memory) -> Answer:
    """What is ours of a holding that nobody watches: to be adopted, for no more than all executions say."""
    mine = total(t for t in _found(e) if t.order_id.startswith(e.scope.ids) and t.root not in memory.booked)
    if not mine:
        return (), memory
    said, memory = weigh(e, memory)
    if mine * _held(e) < 0:
        return (*said, Raise("scope_netted", _figures(e, mine))), memory
    most = abs(owned(e).qty)
    sized = (replace(one, qty=min(one.qty, most)) if isinstance(one, Adopted) else one for one in said)
    kept = tuple(one for one in sized if not isinstance(one, Adopted) or sellable(one.qty, e.instrument))
    return (kept or (Needed("reads"),)), memory


def _is_of_scope(e: Evidence) -> bool:
    """True where what is watched was adopted in this scope: then what was bought of it is what is watched."""
    return all(p.name.endswith(f"-{e.scope.mark}") for p in e.watched)


def _not_ours(e: Evidence) -> Iterator[Concluded]:
    """What was watched in another scope, and what our ids bought less of: no more of it is watched, oldest first."""
    if not e.watched or _is_of_scope(e):
        return
    missing = sum((max(ZERO, p.left) for p in e.watched), ZERO) - at_most(e)
    for p in e.watched:
        gone = min(missing, max(ZERO, p.left))
        missing -= gone
        if gone and not sellable(p.left - gone, e.instrument):
            yield ClosedBy(p.name, "external", p.left)
        elif gone:
            yield Resized(position=p.name, left=p.left - gone, entry=p.entry, why="external", external=gone)


def text_of_new(one: Raise) -> str:
    """An alarm about a holding that nobody watches, in words."""
    symbol, shown = one.figures["symbol"], one.figures["shown"]
    match one.kind:
        case "scope_netted":
            return f"the bot's ids bought {symbol}, and the account shows {shown}: others hold the other side of it"
        case "entry_not_shown":
            return f"{symbol}: executed by the bot's ids, and not shown ({shown} is): what it bought is NOT protected"
        case "scope_unknown":
            return (
                f"{symbol} ({shown} is shown): what of it is the bot's is not known, for an exit sold a part that is "
                "on no record here: it is NOT protected. Hand what is the bot's to watch()"
            )
    return f"{symbol} ({shown} is shown): what of it is the bot's is not clear: it is NOT protected"


def _unknown(e: Evidence) -> Raise:
    return Raise("scope_unknown", _figures(e, _wanted(e)))


def _figures(e: Evidence, expected: Decimal) -> dict[str, str]:
    return {"symbol": e.key.symbol, "shown": plain(_held(e)), "expected": plain(expected)}
