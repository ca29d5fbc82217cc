"""What a command means: whom it concerns, what the answer says of them, and what proves that an account is flat.

Rules of this room: pure. Figures come in, and lines for people go out; text from outside stays as it is, and whoever
shows a line makes it harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from exitfsm.control.protocol import DONE, NOT_DONE
from exitfsm.events import (
    CommandAnswered,
    CommandGiven,
    Event,
    ExitEscalated,
    ExitTriggered,
    PositionOpened,
    Recorded,
    TradingResumed,
)
from exitfsm.lifecycle import State
from exitfsm.order_ids import looks_like_exit
from exitfsm.outside import harmless
from exitfsm.ports import Capabilities
from exitfsm.position import Position
from exitfsm.position.operating import is_stuck
from exitfsm.position.parting import why_no_part
from exitfsm.values import Alarm, BrokerPosition, ExecutionReport, Side, canonical_symbol, plain, same_symbol, stamp


class Said(NamedTuple):
    """One line of an answer, and whether it says that something was done."""

    line: str
    code: int = DONE


def code_of(said: Iterable[Said]) -> int:
    """The code of an answer made of these lines: the worst of theirs."""
    return max((one.code for one in said), default=DONE)


# --- once -------------------------------------------------------------------------------------------------------------


#: What is recorded as the answer to a `flatten` once all is proved to be flat.
PROVED = "flat: the broker shows nothing held and no order working"


def name_of(said: str) -> str:
    """Who somebody says he is, as it may stand in a log; `#` begins the id of a command there."""
    return harmless(said).replace("#", "_") or "operator"


def signed(name: str, command_id: str) -> str:
    """Who gives a command, as it stands in the events that come of it: with the command's id."""
    return f"{name} #{command_id}"


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What the log knows of a command: that it was given, at which place in the store, and what was answered.

    `answered` None: the manager ended before.
    """

    event: CommandGiven
    sequence: int
    answered: CommandAnswered | None = None


def commands_in(recorded: Iterable[Recorded]) -> dict[str, Past]:
    """The commands of an account's stream, by their ids."""
    found: dict[str, Past] = {}
    for one in recorded:
        event = one.event
        if isinstance(event, CommandGiven):
            found.setdefault(event.command_id, Past(event=event, sequence=one.sequence))
        elif isinstance(event, CommandAnswered) and event.command_id in found:
            found[event.command_id] = replace(found[event.command_id], answered=event)
    return found


def names(event: Event, command_id: str) -> bool:
    """True for an event that came of this command: who gave it is signed with its id.

    A reason that quotes the id of another command comes after the signature, and does not count.
    """
    if isinstance(event, (CommandGiven, CommandAnswered)):
        return False
    who: object
    if isinstance(event, ExitTriggered):
        who = event.detail
    else:
        who = event.why if isinstance(event, ExitEscalated) else getattr(event, "by", "")
    if not isinstance(who, str):
        return False  # nobody has ordered it
    _, mark, rest = who.partition("#")
    return bool(mark) and (rest == command_id or rest.startswith(f"{command_id}: "))


class Effect(NamedTuple):
    """An event that came of a command, and whom it concerns: a position's stream and symbol, or an alarm."""

    recorded: Recorded
    symbol: str | None = None

    @property
    def line(self) -> Said:
        """What is said of it."""
        one = self.recorded
        of = f"{self.symbol} ({one.stream_id})" if self.symbol is not None else one.stream_id
        return Said(f"took effect before the manager ended: {of}: {type(one.event).__name__} (event {one.sequence})")

    def is_of(self, subject: str) -> bool:
        """True where this is what the command meant by that subject: a symbol, a position, or an alarm."""
        if subject in (self.recorded.stream_id, getattr(self.recorded.event, "alarm_id", None)):
            return True
        try:
            return self.symbol is not None and same_symbol(self.symbol, canonical_symbol(subject))
        except ValueError:
            return False


class Trail(NamedTuple):
    """What the log knows of a command that was stored and never answered; nothing of one that is new."""

    given_at: datetime | None = None
    effects: tuple[Effect, ...] = ()

    def has(self, position_id: str) -> bool:
        """True where it has had its effect on this position."""
        return any(effect.recorded.stream_id == position_id for effect in self.effects)

    def is_older(self, at: datetime) -> bool:
        """True where the command was given before this time: it did not mean what came up then."""
        return self.given_at is not None and at > self.given_at


def symbol_of(event: Event, stream: Sequence[Recorded]) -> str | None:
    """The symbol that an event is about: its own, or that of the position whose stream this is."""
    own = getattr(event, "symbol", None)
    opened = next((one.event for one in stream if isinstance(one.event, PositionOpened)), None)
    return own if isinstance(own, str) else opened.symbol if opened is not None else None


def parts_left(subjects: Sequence[str], trail: Trail) -> tuple[list[Said], tuple[str, ...]]:
    """What is said of the parts of a command that had their effect, and the subjects that are still to be seen to."""
    left = tuple(s for s in subjects if not any(effect.is_of(s) for effect in trail.effects))
    return [effect.line for effect in trail.effects], left


class Share(NamedTuple):
    """Of the open positions that a subject means: those that are still to be seen to, and what is said of the rest."""

    positions: list[Position]
    said: list[Said]


def share_of(subject: str, positions: Sequence[Position], trail: Trail) -> Share:
    """What a command for a symbol still has to do: not what it did before its manager ended, and nothing younger."""
    found = of_symbol(positions, subject)
    said = [effect.line for effect in trail.effects if effect.is_of(subject)]
    if not found and not said:
        said.append(not_watched(subject, positions))
    open_yet = [p for p in found if not trail.has(p.position_id)]
    said += [opened_since(p) for p in open_yet if trail.is_older(p.opened_at)]
    return Share([p for p in open_yet if not trail.is_older(p.opened_at)], said)


def opened_since(p: Position) -> Said:
    """What is said of a position that is younger than a command that comes again."""
    return Said(f"{p.symbol}: bought after the command was given, and not meant by it; give a new one", NOT_DONE)


def not_again(process: int) -> Said:
    """What is said where the manager that was to stop has ended, and another one gets its command again."""
    return Said(f"nothing was done: that manager has ended; process {process} drives the store now", NOT_DONE)


def is_in_force(command_id: str, recorded: Iterable[Recorded]) -> bool:
    """True while a `flatten` holds: from when it is given until trading is resumed, or all is proved to be flat.

    Where the newest is over, all are.
    """
    given = False
    for one in recorded:
        event = one.event
        if isinstance(event, CommandGiven) and event.command_id == command_id:
            given = event.verb == "flatten"
        elif isinstance(event, TradingResumed) or (isinstance(event, CommandAnswered) and event.lines == (PROVED,)):
            given = False  # whichever of them it was proved for
    return given


# --- whom -------------------------------------------------------------------------------------------------------------


def of_symbol(positions: Sequence[Position], symbol: str) -> list[Position]:
    """The open positions of a symbol as a person spells it; with `:long` or `:short` after it those of one side."""
    named, _, said = symbol.rpartition(":")
    side = said if named and said in (Side.LONG, Side.SHORT) else None
    try:
        name = canonical_symbol(named if side else symbol)
    except ValueError:
        return []
    return [p for p in positions if same_symbol(p.symbol, name) and side in (None, p.side)]


def not_watched(symbol: str, positions: Sequence[Position]) -> Said:
    """What is said of a symbol of which nothing is open."""
    watched = " ".join(sorted({p.symbol for p in positions})) or "none"
    return Said(f"{symbol}: no open position of it is watched (watched: {watched}); nothing was done", NOT_DONE)


def meant(subject: str, alarms: Mapping[str, tuple[str, Alarm]], positions: Sequence[Position]) -> list[str]:
    """The ids of the alarms that a person means: by an id, by a symbol, or `account` for those of no position."""
    if subject in alarms:
        return [subject]
    if subject == "account":
        streams = {stream for stream, _ in alarms.values()} - {p.position_id for p in positions}
    else:
        streams = {p.position_id for p in of_symbol(positions, subject)}
    return [alarm_id for alarm_id, (stream, _) in alarms.items() if stream in streams]


# --- what became of it ------------------------------------------------------------------------------------------------


def no_part(meant: Sequence[Position], qty: Decimal, broker: Capabilities) -> Said | None:
    """Why so much cannot be exited of these; None where it can: it is of one position, of which no exit works."""
    if len(meant) > 1:
        names = ", ".join(p.position_id for p in meant)
        return Said(f"a quantity is of one position, and there are {len(meant)}: {names}; name one", NOT_DONE)
    if meant and meant[0].state.exiting:
        p = meant[0]
        return Said(f"{p.symbol}: an exit is under way ({p.state}, {_order(p)}); no part beside it", NOT_DONE)
    if meant and meant[0].state is State.MONITORING and (why := why_no_part(meant[0], qty, broker)) is not None:
        return Said(f"{meant[0].symbol}: nothing was done: {why}", NOT_DONE)
    return None


def after_exit(before: Position, after: Position | None) -> Said:
    """What an order to exit has led to."""
    if after is None:
        return Said(f"{before.symbol}: its exit is complete, and proved")
    if after.state is State.MONITORING and after.sold_qty > before.sold_qty:
        sold = plain(after.sold_qty - before.sold_qty)
        return Said(f"{after.symbol}: {sold} sold; {plain(after.remaining_qty)} left, and watched")
    if after.state is State.MONITORING:
        return Said(f"{after.symbol}: no exit was begun; it is watched as before", NOT_DONE)
    if is_stuck(after):
        looked = any(alarm.kind == "not_done" for alarm in after.alarms)
        how = f"; once you have looked: exitfsm exit STORE {after.symbol} --override" if looked else ""
        return Said(f"{after.symbol}: {_why_stuck(after)}{how}", NOT_DONE)
    return Said(f"{after.symbol}: {after.state}, {_order(after)}")


def after_release(before: Position, after: Position | None) -> Said:
    """What a release has led to."""
    if after is None:
        return Said(f"{before.symbol}: the broker shows none of it: it has ended")
    if after.state is State.MONITORING:
        left, entry = plain(after.remaining_qty), plain(after.entry_price)
        return Said(f"{after.symbol}: the rules watch it again, with {left} entered at {entry}")
    return Said(f"{after.symbol}: not released: {_why_stuck(after)}", NOT_DONE)


def cannot_be_released(p: Position) -> Said:
    """What is said of a position that is not unprotected."""
    return Said(f"{p.symbol}: it is {p.state}, not unprotected: there is nothing to release", NOT_DONE)


def _order(p: Position) -> str:
    verb = "sell" if p.side == "long" else "buy back"
    left = f"{plain(p.remaining_qty - p.keep_qty)} left to {verb}"
    left += f", {plain(p.keep_qty)} is kept" if p.keep_qty > 0 else ""
    return f"{left}, order {p.client_order_id} (attempt {p.attempt})"


def _why_stuck(p: Position) -> str:
    alarms = [alarm for alarm in p.alarms if alarm.kind == "not_done"] or list(p.alarms)
    text = alarms[-1].text if alarms else "look at its orders at the broker"
    return f"{p.state}, {plain(p.remaining_qty)} left; {text}"


# --- flat -------------------------------------------------------------------------------------------------------------


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What is known when it is asked whether all is flat.

    Attributes:
        rows: what the broker shows as held, by a read that began after its orders were listed: what fills in between
            is in one of them.
        unreadable: symbols that it shows and that could not be read.
        orders: the orders that work there, None in it for each that is not understood; None where it lists none.
        foreign: orders of others that work by what they themselves reported.
        positions: the open positions that are watched.
        opens: symbols whose market is closed, with when it opens where that is known.
        doubts: why what is known may not be enough.
        outside: what of the account is not managed, in words.
    """

    rows: tuple[BrokerPosition, ...]
    unreadable: frozenset[str] = frozenset()
    orders: tuple[ExecutionReport | None, ...] | None = ()
    foreign: tuple[ExecutionReport, ...] = ()
    positions: tuple[Position, ...] = ()
    opens: Mapping[str, datetime | None] = {}
    doubts: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


class Proof(NamedTuple):
    """Why an account is not flat, one line for each reason; flat where there is none.

    `waits_for_market`: all that is left waits for a market to open. `outside`: what is not managed, and was not asked.
    """

    lines: tuple[str, ...]
    waits_for_market: bool = False
    outside: tuple[str, ...] = ()

    @property
    def is_flat(self) -> bool:
        """True where the broker shows nothing held and nothing working, and nothing is watched."""
        return not self.lines


def proof_of(books: Books) -> Proof:
    """Whether an account is flat, by the broker's books and ours; what cannot be known is a reason that it is not."""
    closed = [p for p in books.positions if p.state is not State.UNPROTECTED and p.symbol in books.opens]
    others = [p for p in books.positions if p not in closed]
    lines = [_why_open(p, books) for p in others]
    lines += [
        f"{row.symbol}: the broker shows {plain(row.qty)} {row.side} that is not watched yet"
        for row in books.rows
        if not any(same_symbol(p.symbol, row.symbol) and p.side is row.side for p in books.positions)
    ]
    lines += [f"{symbol or 'a position'}: what the broker shows of it cannot be read" for symbol in books.unreadable]
    lines += [*_working(books), *books.doubts]
    reasons = (*(_why_closed(p, books.opens[p.symbol]) for p in closed), *lines)
    return Proof(reasons, bool(closed) and not lines, books.outside)


def held_on(symbol: str, qty: Decimal) -> str:
    """Why what others bought is held on where the scope is by ids, whatever was asked for."""
    why = "manage.owner is ids, and what others bought cannot be taken in: sell it at the broker"
    return f"{symbol}: {plain(qty)} are held on: {why}"


def _working(books: Books) -> list[str]:
    if books.orders is None:
        return ["the broker lists no orders: whether one works is not known; look there"]
    known = [order for p in books.positions for order in p.orders]
    ours = {order.client_order_id for order in known} | {order.broker_order_id for order in known} - {None}
    unclear = books.orders.count(None)
    lines = [f"orders that cannot be read: {unclear}; whether they work is not known; look there"] * bool(unclear)
    listed = {order.client_order_id: order for order in (*books.foreign, *books.orders) if order is not None}
    for order in listed.values():
        if order.client_order_id in ours or order.broker_order_id in ours:
            continue  # said with its position
        name = order.client_order_id or order.broker_order_id
        whose = "an exit order of no open position" if looks_like_exit(name) else "not ours"
        lines.append(f"{order.symbol or 'an order'}: order {name} works, {whose}: cancel it at the broker")
    return lines


def _why_open(p: Position, books: Books) -> str:
    if p.state is State.MONITORING:
        return f"{p.symbol}: {plain(p.remaining_qty)} {p.side} held, and no exit is under way"
    if is_stuck(p):
        return f"{p.symbol}: {_why_stuck(p)}"
    shown = any(same_symbol(p.symbol, row.symbol) and p.side is row.side for row in books.rows)
    gone = "" if shown else "; the broker shows none, which is being proved"
    if p.state is State.REJECTED:
        again = f"again at {stamp(p.next_attempt_at)}" if p.next_attempt_at is not None else "no attempt is planned"
        return f"{p.symbol}: attempt {p.attempt} ended, {plain(p.remaining_qty)} left, {again}{gone}"
    return f"{p.symbol}: {p.state}, {_order(p)}{gone}"


def _why_closed(p: Position, opens: datetime | None) -> str:
    until = f" until {stamp(opens)}" if opens is not None else ""
    stored = "its exit is stored, and leaves when it opens" if p.orders else "no exit is under way"
    return f"{p.symbol}: {plain(p.remaining_qty)} {p.side} held; the market is closed{until}; {stored}"
