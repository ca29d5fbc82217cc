"""Both sides of a symbol: two holdings in hedge mode, and a contradiction anywhere else.

A broker declares hedge mode (`Capabilities.hedge`, or an `Instrument`'s own). There nothing that one side trades counts
for the other: an execution is of the side that it names, and an exit order of ours of the one that it closes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from exitfsm.order_ids import looks_like_exit
from exitfsm.ports import Capabilities
from exitfsm.position import Position
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, OrderSide, Side, bare, plain, same_symbol

#: What is watched as one: a symbol, or in hedge mode a symbol and its side.
Watching = str | tuple[str, Side]
#: A side as it may be said; None where it is not.
OnSide = Side | str | None


def watching_of(symbol: str, side: Side, broker: Capabilities) -> Watching:
    """As what a position is watched."""
    return (symbol, side) if broker.holds_both(symbol) else symbol


def is_watched(row: BrokerPosition, known: frozenset[Watching]) -> bool:
    """True for a row of what is watched; `known` has the symbols' bare names."""
    name = bare(row.symbol)
    return name in known or (name, row.side) in known


def bare_names(watched: Iterable[Watching]) -> frozenset[Watching]:
    """The same by the symbols' bare names."""
    return frozenset(bare(one) if isinstance(one, str) else (bare(one[0]), one[1]) for one in watched)


def said_side(fill: Fill) -> Side | None:
    """The side that an execution opened or closed; an exit of ours only closes. None where nothing says it."""
    if fill.position_side is not None or not looks_like_exit(fill.client_order_id):
        return fill.position_side
    return Side.LONG if fill.side is OrderSide.SELL else Side.SHORT


def of_side(fills: Iterable[Fill], side: Side) -> tuple[Fill, ...]:
    """The executions that are known to be of a side."""
    return tuple(fill for fill in fills if said_side(fill) is side)


def concerns(order: ExecutionReport, side: Side) -> bool:
    """True for an order that may be of this side: it says so, or says nothing."""
    return order.position_side in (None, side)


class Executed(msgspec.Struct, frozen=True):
    """The account's executions by the symbol's bare name; None where the broker lists none."""

    by_symbol: Mapping[str, Sequence[Fill]] | None
    broker: Capabilities

    def of(self, symbol: str, side: Side) -> list[Fill] | None:
        """Those of a holding; None where none are listed, or where in hedge mode one does not say of which side it is.

        They prove nothing then, neither by what they say nor by what they do not.
        """
        if self.by_symbol is None:
            return None
        found = self.by_symbol.get(bare(symbol), ())
        if not self.broker.holds_both(symbol):
            return list(found)
        return None if any(said_side(fill) is None for fill in found) else list(of_side(found, side))


def on_side(said: OnSide) -> Side | None:
    """The side that is meant; `ValueError` for a word that is none."""
    return Side(str(said)) if said is not None else None


def meant(positions: Iterable[Position], symbol: str, said: OnSide, broker: Capabilities) -> list[Position]:
    """The positions of a symbol, of one side where that is said.

    Raises:
        ValueError: in hedge mode both sides are watched, and it is not said which is meant.
    """
    side = on_side(said)
    found = [p for p in positions if same_symbol(p.symbol, symbol) and side in (None, p.side)]
    if len({p.side for p in found}) > 1 and any(broker.holds_both(p.symbol) for p in found):
        shown = " and ".join(f"{p.side} {plain(p.remaining_qty)}" for p in found)
        raise ValueError(
            f"{symbol} is watched on both sides ({shown}): nothing was done. Say which is meant, side='long' or "
            "side='short', or order each of them"
        )
    return found


def contradicting(rows: Iterable[BrokerPosition], hedged: frozenset[str]) -> frozenset[str]:
    """The bare names of symbols that are shown on both sides, and can be held on one only."""
    sides: dict[str, Side] = {}
    found = set[str]()
    for row in rows:
        name = bare(row.symbol)
        if sides.setdefault(name, row.side) is not row.side and name not in hedged:
            found.add(name)
    return frozenset(found)
