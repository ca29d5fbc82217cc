"""What of the account is managed: rows are left out, the start says which, and what is unclear is an alarm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from exitfsm import scope
from exitfsm.aio.tasks import leave_turn
from exitfsm.config import Managed
from exitfsm.holdings import Read, bare
from exitfsm.holdings.facts import Scope
from exitfsm.holdings.rows import scope_tag
from exitfsm.kinds import AlarmKind
from exitfsm.lifecycle import State
from exitfsm.memory.kept import Kept
from exitfsm.others.ground import Ground
from exitfsm.others.new import New
from exitfsm.outside import log, logged
from exitfsm.position import Position, scope_mark
from exitfsm.position.evaluating import due_by_time
from exitfsm.values import BrokerPosition, Side, same_symbol

#: A time rule that would act without a price is announced so long before.
AHEAD = timedelta(minutes=1)
#: For so many seconds an execution may be missing in the broker's list.
LATE_S = 40.0


def scope_of(manage: Managed) -> Scope:
    """What is configured, as holdings ask it."""
    symbols, ignore = frozenset(manage.symbols), frozenset(manage.ignore)
    given = Scope(symbols=symbols, ignore=ignore, ids=manage.ids, handed=manage.owner == "handed")
    return replace(given, mark=scope_mark(scope_tag(given)))


class Scoped:
    """Knows what is managed."""

    def __init__(self, ground: Ground, kept: Kept) -> None:
        self._calls, self._time, self._live = ground.calls, ground.time, ground.live
        self._positions, self._engine, self.raise_alarm = ground.positions, ground.engine, ground.raise_alarm
        self.scope, self._began_at = ground.scope, self._time.now()
        #: What the bot's ids bought, where only that is ours.
        self.new = New(ground, kept)
        #: True once it was said of each row what it is to us; and symbols that were watched before this life began.
        self._said, self._dropped = False, set[str]()
        #: Since when it is asked who bought what is held of a symbol, in monotonic seconds; for ever once it is known.
        self._asked: dict[str, float] = {}
        #: Positions that the bot handed over in this life; and the last bar of each symbol as it was at first.
        self._handed: set[str] = set()
        self._first_bars: dict[str, datetime | None] = {}

    # --- rows ---------------------------------------------------------------------------------------------------------

    async def to_adopt(self, held: Read) -> list[BrokerPosition]:
        """The rows that may be adopted; the first time it is said of each row what it is to us."""
        whole = held.of_all().rows
        await leave_turn(len(whole))
        if self.scope.ids:
            owned, rows = await self.new.look(held, self.managed(whole))
        else:
            owned, rows = {}, self.managed(held.rows)
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
        await self._ask_who_bought(rows)
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
        new = [row for row in new if not scope.is_named(row.symbol, self.scope)]
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
