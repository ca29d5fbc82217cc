"""A position that the broker shows and nobody watches: its name, its entry price, and whether it can be adopted.

It is named by its first fill since the symbol was flat, so that any machine arrives at the same name. What cannot be
named or priced is asked for again, and then it is an alarm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from exitfsm.holdings import units
from exitfsm.holdings.crossing import opened_by_exit
from exitfsm.holdings.executions import average_entry, first_since_flat, next_epoch_start
from exitfsm.holdings.facts import Instrument
from exitfsm.holdings.reads import Nothing, Read
from exitfsm.holdings.rows import both_sides
from exitfsm.holdings.sides import Executed
from exitfsm.kinds import AlarmKind
from exitfsm.policy import MOVING
from exitfsm.ports import Capabilities, IdMemory
from exitfsm.position import READS_MIN, Position, epoch_of, is_exit_of
from exitfsm.position.attempting import is_price, is_rounded_off
from exitfsm.values import (
    ZERO,
    BrokerPosition,
    ExecutionReport,
    Fill,
    bare,
    canonical_symbol,
    plain,
    same_symbol,
)

#: So many answers in all, where what is held is another quantity each time.
TRIES_MAX = 10


class Tries(msgspec.Struct, frozen=True):
    """How often it was tried to adopt a position of a symbol."""

    qty: Decimal
    answered: int = 0  # the broker's answer did not help, for this quantity; another one is another position
    in_all: int = 0  # the same for any quantity
    failed: int = 0  # there was no answer

    @property
    def are_enough(self) -> bool:
        """True when waiting for better knowledge makes no more sense."""
        return self.answered >= READS_MIN or self.in_all >= TRIES_MAX


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """A position that the broker shows and nobody watches, and what is known of it."""

    row: BrokerPosition  # as the broker's list shows it
    symbol: str  # as the bars spell it
    executions: Sequence[Fill] | None = None  # the symbol's, oldest first; None where the broker lists none
    updates: Sequence[Fill] = ()  # executions of any symbol, as the bot's order updates report them
    first_fill: datetime | None = None  # the first fill of the position by these
    previous: Position | None = None  # the newest position of the symbol and side on record
    taken_in: datetime | None = None  # when a person took it in, after the newest one on record had ended
    residue: Decimal = ZERO  # what that one left, because the venue would not take it
    instrument: Instrument = Instrument()  # what is known of the symbol
    by_ids: bool = False  # only what orders of certain ids bought is ours: no price names it
    is_old: bool = False  # it was there before we were, and the broker lists no executions: never to be known better


class Adopt(msgspec.Struct, frozen=True):
    """Watch it, under this epoch; None where only its price can name it, because its first fill is not known."""

    epoch: str | None
    first_fill: datetime | None
    entry_price: Decimal


class Alarm(msgspec.Struct, frozen=True):
    """A person must look."""

    kind: str
    text: str


def first_fills(rows: Iterable[BrokerPosition], executions: Executed) -> list[datetime]:
    """When each of these was first filled since its symbol was flat, as far as executions tell it."""
    of = ((row, executions.of(row.symbol, row.side) or ()) for row in rows)
    found = (first_since_flat(fills, row.side, row.qty) for row, fills in of)
    return [first for first in found if first is not None]


def still_held(read: Read, row: BrokerPosition) -> bool:
    """True when a later read shows the same quantity: what was read in between belongs to it.

    Of what is a part of a holding, true where so much is held.
    """
    if read.whole is not None:
        return any(row.qty <= now.qty for now in read.whole if (now.symbol, now.side) == (row.symbol, row.side))
    return any((now.symbol, now.side, now.qty) == (row.symbol, row.side, row.qty) for now in read.rows)


def faults(read: Read) -> list[Alarm]:
    """What a person must know of the rows of a read: those that cannot be read, and both sides of one symbol."""
    found = []
    for symbol in sorted(read.unreadable):
        of = f"for {symbol} " if symbol else ""
        text = f"an entry {of}in the broker's positions cannot be read: NOT protected"
        found.append(Alarm(AlarmKind.POSITION_UNREADABLE, text))
    both = [row for row in read.rows if bare(row.symbol) in read.both]
    return found + [Alarm(AlarmKind.BOTH_SIDES, shown) for shown in both_sides(both)]


def tried(tries: Tries | None, qty: Decimal, *, answered: bool) -> Tries:
    """One more try to adopt so much has come to nothing."""
    before = tries or Tries(qty)
    same = before.answered if before.qty == qty else 0
    return Tries(qty, same + answered, before.in_all + answered, before.failed + (not answered))


def adopt(opening: Opening, tries: Tries | None) -> tuple[Adopt | Alarm | Nothing, Tries | None]:
    """Whether a position can be watched, and the tries in vain: executions may be behind, and are waited for."""
    before, row = opening.previous, opening.row
    by_exit = opened_by_exit(opening.executions or (), row.qty, row.side, opening.instrument)
    if by_exit is not None:
        return Alarm(AlarmKind.OVERSOLD, by_exit.text), tried(tries, row.qty, answered=True)
    if before is not None and before.state.terminal and (is_rounded_off(before, row.qty) or _is_left(opening)):
        return Nothing(), None  # it is what an exit left, and the venue takes no order for it
    first = name(opening)
    if opening.taken_in is not None and (first is None or before is None or first <= before.opened_at):
        first = opening.taken_in  # the natural name is that of the one that has ended
    price = entry(opening, first)
    if first is not None and price is not None:
        return Adopt(epoch_of(first), first, price), tries
    tries = tried(tries, row.qty, answered=True)
    if not (tries.are_enough or opening.is_old):
        return Nothing(), tries
    if price is None:
        what = described(row, opening.symbol)
        return Alarm(AlarmKind.UNPRICEABLE, f"{what} has no entry price: it is NOT protected"), tries
    reported = opening.first_fill
    if opening.by_ids and reported is None:
        what = described(opening.row, opening.symbol)
        text = f"{what}: no execution of the bot's ids opened it: it is NOT protected; hand it to watch()"
        return Alarm(AlarmKind.SCOPE_UNKNOWN, text), tries
    return Adopt(epoch_of(reported) if reported is not None else None, reported, price), tries


def _is_left(opening: Opening) -> bool:
    """True for a residue that an earlier life was taught: nothing declares a step or a least that it is sold by."""
    rules = opening.instrument
    return opening.row.qty <= opening.residue and not (rules.step or rules.least)


def name(opening: Opening) -> datetime | None:
    """When the position was first filled since the symbol was flat, which names it; None when that is not known."""
    row, previous = opening.row, opening.previous
    if opening.executions is None:
        return opening.first_fill or row.opened_at
    if previous is not None and not previous.state.terminal:
        return previous.opened_at  # on record, and watched by nobody: its commit seemed to fail
    found = first_since_flat(opening.executions, row.side, row.qty)
    if previous is not None and found is not None and found <= previous.opened_at:
        return next_epoch_start(opening.executions, previous, row.side)  # it has not been flat since that one began
    return found


def names_by_price(price: Decimal) -> Iterator[str]:
    """Epochs for a position whose first fill is not known, in the order in which they are to be tried.

    The average entry stays while a position is only sold: another machine mostly arrives at the same name.
    """
    yield f"at-{plain(price)}"  # an ended position keeps its name for itself
    yield from (f"at-{plain(price)}-{number}" for number in range(2, 1000))


def entry(opening: Opening, first: datetime | None) -> Decimal | None:
    """The average entry: the broker's own, unless its executions, or the bot's updates, say it in another unit."""
    row, known, instrument = opening.row, opening.executions, opening.instrument
    shown = row.avg_entry_price if is_price(row.avg_entry_price) else None
    if known is None and shown is not None:
        return units.entry(shown, None, row.current_price, instrument)
    known = known if known is not None else sorted(opening.updates, key=lambda fill: fill.at)
    since = [f for f in known if same_symbol(f.symbol, opening.symbol) and (first is None or f.at >= first)]
    said = average_entry(since, row.side) if first is not None or shown is None else None
    return units.entry(shown, said, row.current_price, instrument)


def is_free_of_exits(
    symbol: str, first: datetime | None, store_began: datetime | None, working: Sequence[ExecutionReport] | None
) -> bool:
    """True when no exit order of ours can work for a position of this first fill that the store does not know.

    `store_began` is None where it has a past, and knows every order; `working` where the broker does not list ours.
    """
    if store_began is None or (first is not None and first >= store_began):
        return True
    return working is not None and not any(same_symbol(r.symbol or symbol, symbol) for r in working)


def is_safe_unprobed(name: str, executions: Iterable[Fill], broker: Capabilities) -> bool:
    """True where a position may be adopted though its exit orders cannot be looked up.

    A first send under a used id is refused, and looked up. Not where executions show one: what it sold is not known.
    """
    sold = any(is_exit_of(name, fill.client_order_id) for fill in executions)
    return not sold and broker.ids_refused is IdMemory.FOREVER


def stops_begin_anew(p: Position, price: Decimal | None) -> str | None:
    """What is said of a position that an empty store has found, where a stop of it may have moved before; else None."""
    if price is None or not is_price(price):
        return None
    rules = [rule for rule in MOVING.values() if rule.on(p.policy) and rule.next_stop(p, price) is not None]
    if not rules:
        return None
    names = " and ".join(rule.name for rule in rules)
    found = f"{plain(p.qty)} {p.symbol} {p.side} at {plain(p.entry_price)}"
    return f"{found} was found without a record at {plain(price)}: its {names} begins anew at the present price"


def described(row: BrokerPosition, symbol: str) -> str:
    """What is held, in words."""
    return f"{plain(row.qty)} {symbol} {row.side}"


def known_spelling(symbol: str, watched: Iterable[str], pairs: Mapping[str, str]) -> str:
    """The spelling under which a symbol's bars come: that of one watched, or of `pairs`, by those without a slash."""
    known = next((one for one in watched if same_symbol(one, symbol)), None)
    return known or pairs.get(symbol) or canonical_symbol(symbol)
