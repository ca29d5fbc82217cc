"""In scope by ids: what the bot's orders have bought that nobody watches yet, by the executions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec.structs import replace

from exitfsm import scope
from exitfsm.broker.lists import Executed
from exitfsm.errors import ConfigError
from exitfsm.holdings import Read, bare, watching
from exitfsm.holdings.facts import Adopted, Concluded, Evidence, Needed, Raise
from exitfsm.kinds import AlarmKind
from exitfsm.memory.kept import Kept
from exitfsm.others.ground import Ground
from exitfsm.outside import logged
from exitfsm.position import READS_MIN
from exitfsm.values import BrokerPosition, same_symbol

#: Between two looks executions are asked for that are so much older than the last look: lists are late.
OVERLAP = timedelta(minutes=10)


class New:
    """Looks at what the executions say of rows that nobody watches."""

    def __init__(self, ground: Ground, kept: Kept) -> None:
        self._calls, self._orders, self._time, self._live = ground.calls, ground.orders, ground.time, ground.live
        self._engine, self.raise_alarm, self._kept, self._scope = ground.engine, ground.raise_alarm, kept, ground.scope
        #: When the executions were last read; None before the first time.
        self._read_at: datetime | None = None
        self._failed = 0
        #: What was watched at the last look, by bare symbol; and what is over since, and was not looked at yet: what
        #: was bought beside its exit may be older than the newest executions.
        self._watched: set[str] = set()
        self._over: set[str] = set()
        #: Since when the executions say of a symbol that something is ours which nobody watches, in monotonic seconds.
        self._unwatched: dict[str, float] = {}

    async def check_broker(self) -> None:
        """See that the broker's executions say whose they are, where the scope goes by that.

        Raises:
            ConfigError: they do not, or it lists none; or both sides of a symbol are held at once, and not all is ours.
        """
        if self._scope.by_ids and self._calls.capabilities.may_hold_both:
            raise ConfigError(
                [
                    "manage.owner: in hedge mode what is ours of an account is not told apart by ids or by handing. "
                    "Set manage.owner: account, with manage.symbols or manage.ignore; or use a sub-account for each bot"
                ]
            )
        if not self._scope.ids:
            return
        lacks, listed = "its list of executions names no client order ids", None
        with logged("executions_unknown error=%s"):  # else it is asked again later; nothing is adopted before
            listed = await self._calls.executions(self._lookback())
        if not self._calls.has("fills"):
            lacks = "it lists no executions: it has no fills()"
        elif listed is None or not scope.is_nameless(listed.items):
            return
        raise ConfigError(
            [
                f"manage.owner: ids goes by the client order ids of executions, and of this broker {lacks}. Let "
                "fills() name client_order_id; or set manage.owner: handed, and hand what the bot buys to watch()"
            ]
        )

    async def look(self, held: Read, rows: Sequence[BrokerPosition]) -> tuple[dict[str, Decimal], list[BrokerPosition]]:
        """What is ours of each of these rows, by bare symbol; and what is to be adopted, as rows of no more than that.

        Args:
            rows: all that the account holds of what is managed.
        """
        watched = {bare(p.symbol) for p in list(self._engine.positions.values())}
        self._over |= self._watched - watched
        self._watched = watched
        shown = self._over & {bare(row.symbol) for row in rows}
        listed = await self._listed(rows, whole=bool(shown or self._unwatched))
        if listed is None:
            return {}, []
        self._unwatched = {name: since for name, since in self._unwatched.items() if name not in watched}
        self._over -= shown | watched
        symbols = {bare(row.symbol): row.symbol for row in rows}
        traded = [f.symbol for f in listed.items if scope.is_in_scope(f, self._scope)]
        symbols |= {bare(one): one for one in traded if not scope.why_not(one, self._scope, watched=True)}
        owned, new = dict[str, Decimal](), list[BrokerPosition]()
        for name, symbol in symbols.items():
            if name in watched or listed.why_unreadable(symbol) or name in held.unreadable:
                continue
            fills = tuple(f for f in listed.items if same_symbol(f.symbol, symbol))
            evidence = self._kept.of_nobody(self._orders.known_spelling(symbol), held, fills)
            owned[name] = scope.owned(evidence).qty
            said = self._kept.weigh_new(evidence)[0]
            new += await self._told(said, [row for row in rows if same_symbol(row.symbol, symbol)])
            await self._note_unwatched(name, evidence)
            if any(isinstance(one, Needed) for one in said):
                self._kept.look_in(watching.next_look_s(self._kept.memory_of(evidence), evidence.instrument))
        return owned, new

    async def _note_unwatched(self, name: str, evidence: Evidence) -> None:
        """Whatever is remembered of executions: what they say is ours is watched soon, or a person hears of it."""
        if not scope.is_ours_to_watch(evidence):
            self._unwatched.pop(name, None)
        elif scope.lasts_unwatched(evidence, self._unwatched.setdefault(name, evidence.read.begin)):
            text = f"{evidence.key.symbol}: the bot's ids bought what nobody watches here: it is NOT protected"
            await self._say(f"{text}. Hand it to watch(), or sell it")

    async def _told(self, said: Iterable[Concluded], rows: Sequence[BrokerPosition]) -> list[BrokerPosition]:
        """Alarms are raised; what is to be adopted is handed back as rows."""
        new: list[BrokerPosition] = []
        for one in said:
            if isinstance(one, Raise):
                await self.raise_alarm(one.kind, scope.text_of_new(one))
            elif isinstance(one, Adopted):
                of_it = (row for row in rows if row.side is one.side)
                new += [replace(row, qty=one.qty, avg_entry_price=one.entry, opened_at=None) for row in of_it]
        return new

    async def _listed(self, rows: Sequence[BrokerPosition], *, whole: bool) -> Executed | None:
        """The executions: all that are looked at where some are new, else only the newest; None where unreadable."""
        began, listed = self._time.now(), None
        newest = self._read_at - OVERLAP if self._read_at is not None and not whole else None
        with logged("executions_unknown error=%s"):
            listed = await self._calls.executions(newest or self._lookback())
            symbols = [self._orders.known_spelling(row.symbol) for row in rows]
            if newest is not None and self._kept.is_news(symbols, listed.items):
                listed = await self._calls.executions(self._lookback())
        if listed is None:
            self._failed += 1
            if self._failed >= READS_MIN:
                await self._say("the executions cannot be read, so that what the bot's ids buy is NOT protected")
            return None
        if scope.is_nameless(listed.items):
            await self._say("no execution names a client order id, so that what the bot's ids buy is NOT protected")
        self._failed, self._read_at = 0, began
        return listed

    async def _say(self, text: str) -> None:
        await self.raise_alarm(AlarmKind.SCOPE_UNKNOWN, text)

    def _lookback(self) -> datetime:
        return self._time.now() - timedelta(days=self._live.lookback_days)
