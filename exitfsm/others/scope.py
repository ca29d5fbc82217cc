"""What of the account is managed: rows are left out, the start says which, and what is unclear is an alarm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from msgspec.structs import replace

from exitfsm import scope
from exitfsm.account import Account
from exitfsm.aio.tasks import leave_turn
from exitfsm.books import Rows
from exitfsm.config import Managed
from exitfsm.holdings import Opening, Read, bare, too_little
from exitfsm.holdings.facts import Scope
from exitfsm.holdings.rows import scope_tag
from exitfsm.kinds import AlarmKind
from exitfsm.lifecycle import State
from exitfsm.memory.kept import Kept
from exitfsm.messages import Ignore, Message
from exitfsm.others.crossing import Crossings
from exitfsm.others.ground import Ground
from exitfsm.others.new import New
from exitfsm.others.residues import Residues
from exitfsm.others.share import Share
from exitfsm.outside import log, logged
from exitfsm.position import Position, scope_mark
from exitfsm.position.evaluating import due_by_time
from exitfsm.values import EXACT, ZERO, BrokerPosition, Side, plain, same_symbol

#: A time rule that would act without a price is announced so long before.
AHEAD = timedelta(minutes=1)
#: For so many seconds an execution may be missing in the broker's list.
LATE_S = 40.0


def scope_of(manage: Managed) -> Scope:
    """What is configured, as holdings ask it."""
    symbols, ignore = frozenset(manage.symbols), frozenset(manage.ignore)
    given = Scope(symbols=symbols, ignore=ignore, ids=manage.ids, handed=manage.owner == "handed")
    return replace(given, mark=scope_mark(scope_tag(given)))


class Outside(NamedTuple):
    """So much of a row of the account is not managed, and why not."""

    row: BrokerPosition
    qty: Decimal
    why: str

    def __str__(self) -> str:
        """In words."""
        side = "" if self.row.side is Side.LONG else f" {self.row.side}"
        return f"not managed: {self.row.symbol} {plain(self.qty)}{side}, {self.why}"


def outside(rows: Rows, ours: Sequence[BrokerPosition], given: Scope, watched: set[str]) -> list[Outside]:
    """What of the account's rows is not managed; `ours` are the rows as far as they are."""
    found = []
    for row in rows:
        is_watched = bare(row.symbol) in watched
        why = scope.why_not(row.symbol, given, watched=is_watched)
        if why and is_watched:
            continue  # from before, until it ends
        if why:
            found.append(Outside(row, row.qty, why))
        elif row.qty.is_finite():
            shown = sum((o.qty for o in ours if same_symbol(o.symbol, row.symbol) and o.side is row.side), ZERO)
            if (left := EXACT.subtract(row.qty, shown)) > 0:
                why = "not bought by the bot's ids" if given.ids else "more than was handed to watch()"
                found.append(Outside(row, left, why))
    return found


class Scoped:
    """Knows what is managed."""

    def __init__(self, ground: Ground, kept: Kept, share: Share, residues: Residues, crossings: Crossings) -> None:
        self._residues, self.crossings = residues, crossings
        self._calls, self._time, self._live = ground.calls, ground.time, ground.live
        self._positions, self._engine, self.raise_alarm = ground.positions, ground.engine, ground.raise_alarm
        self._ground, self._share, self._began_at = ground, share, self._time.now()
        #: What the bot's ids bought, where only that is ours.
        self.new = New(ground, kept)
        #: By ids, what the executions say that is ours of what nobody watches, by bare symbol, at the newest look.
        self.owned: dict[str, Decimal] = {}
        #: True once it was said of each row what it is to us; and symbols that were watched before this life began.
        self._said, self._dropped = False, set[str]()
        #: Since when it is asked who bought what is held of a symbol, in monotonic seconds; for ever once it is known.
        self._asked: dict[str, float] = {}
        #: Positions that the bot handed over in this life; and the last bar of each symbol as it was at first.
        self._handed: set[str] = set()
        self._first_bars: dict[str, datetime | None] = {}

    @property
    def scope(self) -> Scope:
        """What is managed now."""
        return replace(self._ground.scope, choices=self.account.choices)

    @property
    def account(self) -> Account:
        """Where what a person says of the scope is stored, and folded."""
        return self._share.account

    @property
    def rows(self) -> Rows:
        """All rows of the account, as they were read last, whosever they are."""
        return self._share.rows

    def outside(self) -> list[Outside]:
        """What of the account is not managed, by the newest read of what is held."""
        watched = {bare(p.symbol) for p in list(self._engine.positions.values())}
        return outside(self._share.rows, self._share.shown, self.scope, watched)

    # --- what a person has said ---------------------------------------------------------------------------------------

    def let_go(self) -> list[tuple[str, Message]]:
        """What positions are to be told that a person took out of what is managed, and that are watched yet."""
        choices, now = self.scope.choices, self._time.now()
        watched = [p for p in list(self._engine.positions.values()) if p.state is State.MONITORING]
        return [(p.position_id, Ignore(at=now)) for p in watched if choices.lets_go(p.symbol)]

    def restore(self) -> None:
        """In the writer's thread: every open position that is managed; what a person took out ends now."""
        self._engine.load(self.is_managed)
        self._engine.tell_all(self.let_go())

    def as_taken_in(self, opening: Opening) -> Opening:
        """The same, with when a person took its symbol in, where the newest position of it had ended before."""
        chosen, newest = self.scope.choices.of(opening.symbol), opening.previous
        if chosen is None or not chosen.managed or newest is None or newest.ended_at is None:
            return opening
        return replace(opening, taken_in=chosen.at) if newest.ended_at <= chosen.at else opening

    # --- rows ---------------------------------------------------------------------------------------------------------

    async def to_adopt(self, held: Read) -> list[BrokerPosition]:
        """The rows that may be adopted; the first time it is said of each row what it is to us."""
        whole = held.of_all().rows
        await leave_turn(len(whole))
        if self.scope.ids:
            owned, rows = await self.new.look(held, self.managed(whole))
            self.owned = owned
        else:
            owned, rows = {}, self.managed(held.clear)
        if not self._said:
            self._said = True
            if doubt := scope.two_managers(self._calls.capabilities):
                log.warning("two_managers %s", doubt)
            watched = scope.shares(list(self._engine.positions.values()))
            for row in whole:
                share = watched.get(bare(row.symbol))
                ours = share.qty if share is not None else owned.get(bare(row.symbol))
                is_known = share is not None or bare(row.symbol) in self._dropped
                said = scope.described_scope(row, self.scope, watched=is_known, ours=ours)
                log.info("scope %s", said)
        if messages := self.let_go():  # the manager was killed, or one was found, when a person said so
            await self._positions.tell_all(messages)
        await self._ask_who_bought(rows)
        await self._residues.look_at(rows)
        await leave_turn(len(whole))
        return rows

    def managed(self, rows: Sequence[BrokerPosition]) -> list[BrokerPosition]:
        """The rows that are managed."""
        watched = {bare(p.symbol) for p in list(self._engine.positions.values())}
        return [r for r in rows if not scope.why_not(r.symbol, self.scope, watched=bare(r.symbol) in watched)]

    async def _ask_who_bought(self, rows: Sequence[BrokerPosition]) -> None:
        """Where the bot's own ids are known, and all is to be sold: what others bought is said at once.

        What no execution explains is waited for: executions are late.
        """
        prefix, now = self._live.entry_id_prefix, self._time.monotonic()
        self._asked = {key: since for row in rows if (since := self._asked.get(key := bare(row.symbol))) is not None}
        new = [row for row in rows if self._asked.get(bare(row.symbol), now) < math.inf and row.qty.is_finite()]
        rules = self._calls.capabilities.rules
        new = [r for r in new if not (scope.is_named(r.symbol, self.scope) or too_little(r.qty, rules(r.symbol)))]
        if not (new and prefix and not self.scope.by_ids and self._calls.has("fills")):
            return
        with logged("who_bought_unknown error=%s"):
            lookback = self._time.now() - timedelta(days=self._live.lookback_days)
            listed = await self._calls.executions(lookback, new[0].symbol if len(new) == 1 else None)
            for row in new:
                if listed.why_unreadable(row.symbol):
                    continue  # that hides nothing of the others; it is asked again
                asked = self._asked.setdefault(bare(row.symbol), now)
                others = scope.bought_by_others(row, listed.items, prefix)
                if others is not None and not others.by and now - asked < LATE_S:
                    continue
                self._asked[bare(row.symbol)] = math.inf
                if others is not None:
                    await self.raise_alarm(AlarmKind.SCOPE_UNCLEAR, scope.unclear_scope(row, others, prefix))

    def selling(self, symbol: str, side: Side) -> list[Position]:
        """The positions of a symbol and side whose exit is, or may be, at the broker."""
        known, unknown = list(self._engine.positions.values()), self._engine.unknown
        exits = [p for p in known if p.state.exiting and p.side is side and same_symbol(p.symbol, symbol)]
        return [p for p in exits if p.state is not State.PENDING or p.client_order_id in unknown]

    def is_managed(self, symbol: str) -> bool:
        """False for a symbol that is not managed, whoever bought it; the start says of it that it was watched."""
        not_so = bool(scope.why_not(symbol, self.scope, watched=True))
        if self.scope.choices.lets_go(symbol):
            return True  # it is told so, and ends
        self._dropped |= {bare(symbol)} if not_so else set()
        return not not_so

    def check(self, symbol: str) -> None:
        """Raise `ValueError` for a symbol that is not managed."""
        if not_so := scope.why_not(symbol, self.scope, watched=True):
            raise ValueError(f"{symbol} is not managed: {not_so}")

    # --- rules that need no price -------------------------------------------------------------------------------------

    def handed_over(self, p: Position) -> Position:
        """The bot handed this position over: its time rules hold, whether bars come or not."""
        self._handed.add(p.position_id)
        return p

    def is_unseen(self, p: Position, last_bar_at: datetime | None) -> bool:
        """True for a position older than the start of which no bar came since, and that nobody named or handed over.

        To be asked again and again: what the first answer saw is what later ones go by.
        """
        first = self._first_bars.setdefault(p.symbol, last_bar_at)
        seen = last_bar_at != first or (last_bar_at is not None and last_bar_at >= self._began_at)
        seen = seen or p.opened_at >= self._began_at
        trusted = p.position_id in self._handed or self.scope.handed or scope.is_named(p.symbol, self.scope)
        return not (seen or trusted)

    async def say_unseen(self, p: Position, closes_at: datetime | None) -> None:
        """A person hears, a minute before, that a time rule is due which does not sell what nobody sees a price of."""
        if due_by_time(p, self._time.now() + AHEAD, closes_at):
            text = (
                f"no bar of {p.symbol} came since the start: its time rule is due and sells nothing unseen. Feed bars, "
                "or name it in manage.symbols; hand it to watch() if the bot bought it; else name it in manage.ignore"
            )
            await self._positions.alarm(p.position_id, AlarmKind.NO_PRICE, text)
