"""The parts of a manager between a start and the stop after it, and how they come to be.

Each is made of those before it and is whole from then on. Three things would need what is made after them: the engine
asks when a session ends, and reads a table that the hours fill later; it hands its commits to a queue, which is
emptied after each turn of the mailbox; and the broker's calls ask for names of orders, which a table of them knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from exitfsm import holdings
from exitfsm.account import Account
from exitfsm.aio.tasks import Tasks
from exitfsm.bar_keeping import keeper_of
from exitfsm.books import Books
from exitfsm.broker.breaker import Breaker
from exitfsm.broker.calls import BrokerCalls, Hears
from exitfsm.broker.fitting import Fitting
from exitfsm.broker.hours import Hours, Sessions
from exitfsm.broker.instruments import Instruments
from exitfsm.engine import Engine
from exitfsm.errors import StoreError
from exitfsm.events import BreakerClosed, BreakerOpened, ExitCompleted, OrderEnded, PositionClosedElsewhere, Recorded
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context, Given
from exitfsm.manager.executor import Executor
from exitfsm.manager.intake import Intake, Operators
from exitfsm.manager.mailbox import Group, Mailbox
from exitfsm.manager.reconciler import Adopter, Reconciler
from exitfsm.manager.timer import Timer
from exitfsm.manager.view import View
from exitfsm.memory.memory import Memory
from exitfsm.others.alarms import Alarms
from exitfsm.others.crossing import Crossings
from exitfsm.others.ground import Ground
from exitfsm.others.residues import Residues
from exitfsm.others.scope import Scoped, scope_of
from exitfsm.others.settings import Settings
from exitfsm.others.share import Share
from exitfsm.outside import log
from exitfsm.ownership import Ownership, Watchdog
from exitfsm.position import Position, account_hash
from exitfsm.recorded_bars import bars_since
from exitfsm.sessions import closing
from exitfsm.store import ExitStore
from exitfsm.store.mending import mend


class Parts:
    """One life of a manager, on an open store, which is closed with it where it is its own."""

    def __init__(self, given: Given, store: ExitStore, fitting: Fitting, *, is_own: bool) -> None:
        live, time = given.config.live, given.time
        sessions = Sessions()
        #: Commits of which nobody on the event loop has heard yet.
        self._commits: deque[tuple[Position, Sequence[Recorded]]] = deque()

        def session_close(symbol: str, _: datetime) -> datetime | None:
            """In the writer's thread: when the session ends, as last read."""
            known = None if fitting.capabilities.rules(symbol).always_open else sessions.last(symbol)
            return known.close if known is not None else None

        def closed_since(symbol: str) -> datetime | None:
            """In the writer's thread: since when the market is closed, where nothing is decided then."""
            is_gated = given.config.session.trade != "extended"
            return sessions.closed_since(symbol) if is_gated else None

        self.store, self._account, self._fitting = store, Account(store, given.account), fitting
        self._is_own = is_own
        self._keeper = keeper_of(store, wanted=given.config.record_bars, chosen=given.config.bars)
        engine = Engine(
            store,
            fitting.capabilities,
            rules=given.rules,
            session_close=session_close,
            listener=lambda position, recorded: self._commits.append((position, recorded)),
            bars_since=bars_since(self._keeper.path) if given.config.record_bars else None,
        )
        engine.levels.expect(live.bar_seconds)
        tasks, timeout_s, scope = Tasks(), float(live.broker_timeout_seconds), scope_of(given.config.manage)
        life_s = max(float(live.request_life_seconds), timeout_s)
        memory = Memory(engine, time, time.monotonic() + 2 * timeout_s, scope, life_s=life_s)
        mailbox = Mailbox(engine, time, given.clock, self._after_group, closed_since)
        alarms = Alarms(mailbox, self._account, tasks, time.now, (given.on_event, given.on_alarm))
        closes = closing(given.config, fitting.capabilities)
        calls = BrokerCalls(fitting, memory.orders, time, timeout_s, Hears(self._after_call, alarms.raise_soon), closes)
        kept, instruments = memory.kept, Instruments(calls, time, mailbox.alarm)
        share = Share(engine, scope, calls, kept, self._account)
        books = Books(calls, memory, time, lambda name: account_hash(name) == given.account, share, instruments.ask)
        ground = Ground(
            calls=calls, orders=memory.orders, positions=mailbox, engine=engine, time=time, live=live,
            raise_alarm=alarms.raise_alarm, scope=scope,
        )  # fmt: skip
        residues = Residues(ground, books)
        self.context = context = Context(
            given=given, engine=engine, mailbox=mailbox, alarms=alarms, calls=calls, books=books, memory=memory,
            tasks=tasks, ground=ground, scoped=Scoped(ground, kept, share, residues, Crossings(ground, books)),
            breaker=Breaker(live.breaker_failures, float(live.breaker_probe_seconds)),
            hours=Hours(calls, time, sessions), instruments=instruments,
            settings=Settings(engine, given.config, given.rules, time.now, tells_hours=calls.has("session")),
        )  # fmt: skip
        self.view = View(context)
        self.executor = Executor(context, self.view)
        self.adopter = Adopter(context, self.view)
        self.reconciler = Reconciler(context, self.view, self.executor, self.adopter)
        self.timer = Timer(context, self.executor, self.reconciler, self._keeper)
        self.intake = Intake(context, self.view, self.executor, self.reconciler, self.timer)
        self.operators = Operators(context, self.view, self.executor, self.reconciler)
        #: That this is the owner of the store, and what happens when it is not any more.
        self.ownership = Ownership(store, calls.forbid, alarms.alarm_without_store)
        #: True from when everything is restored until it is stopped.
        self.running = False
        self._mended: list[str] = []

    async def begin(self) -> None:
        """Restore what the store knows, remind of active alarms, and be at work."""
        context = self.context
        context.mailbox.open(Watchdog(context.alarms.alarm_without_store))
        try:
            await context.mailbox.run(self._restore)
            await context.scoped.new.check_broker()
            self.running = True
            for symbol in sorted({p.symbol for p in list(context.engine.positions.values())}):
                context.tasks.spawn(context.instruments.ask(symbol), "exitfsm-instrument")
            context.alarms.remind()
            for lack in self._fitting.missing:
                await context.alarms.raise_alarm("broker_incomplete", f"the broker has no {lack}")
            for line in self._mended:
                await context.alarms.raise_alarm("store_mended", line)
        except BaseException:
            self.running = False
            await self._close()
            raise

    def _restore(self) -> None:
        """In the writer's thread: everything the store knows."""
        store, context = self.store, self.context
        store.bind(context.given.account)
        self._mended = mend(store)
        self.adopter.load()
        self._account.restore(context.given.time.now())
        context.memory.orders.restore()
        context.scoped.restore()
        context.settings.apply()
        if self._account.paused:
            context.engine.pause()
        context.alarms.load(store)
        context.breaker.restore(self._account.breaker_open)
        self._keeper.keep([row.symbol for row in store.trackings()])

    async def end(self, unsubscribe: Callable[[], Awaitable[None]], send_alarms: Callable[[], Awaitable[None]]) -> None:
        """Take nothing new from now on, let what must become durable be, and leave no task behind."""
        self.running, context = False, self.context
        await unsubscribe()
        await self.ownership.end()
        await context.tasks.cancel()
        await self.reconciler.runs.close()
        await self.executor.close(float(context.given.config.live.broker_timeout_seconds))
        await context.hours.close()
        await context.books.reads.close()
        await context.instruments.close()
        await context.tasks.finish_writes()
        await send_alarms()
        try:
            await context.mailbox.run(self.timer.save_marks)
        except StoreError as error:
            log.error("marks_not_saved error=%s", error)
        await self._close()
        await self._keeper.close()

    async def _close(self) -> None:
        await self.context.mailbox.close()
        self.context.calls.close()
        if self._is_own:
            self.store.close()

    def account(self, symbol: str, side: holdings.OnSide) -> holdings.Account:
        """What speaks for or against an entry; where both sides are held at once, what is of the other does not."""
        one = side if self.context.engine.broker.holds_both(symbol) else None
        return holdings.Account(
            positions=[p for p in list(self.context.engine.positions.values()) if one in (None, p.side)],
            cooldowns=self._account.cooling(one),
            is_reconciled=self.running and self.reconciler.is_done,
            is_paused=self.context.engine.paused,
        )

    def _after_group(self, group: Group) -> None:
        """On the event loop, after each group: call back, work on what is owed, confirm prices that jumped."""
        context = self.context
        while self._commits:
            position, recorded = self._commits.popleft()
            if any(isinstance(one.event, (ExitCompleted, PositionClosedElsewhere)) for one in recorded):
                self._on_ended(position)
            waiting = [q.position_id for q in context.engine.beside(position) if q.state is State.PENDING]
            self.executor.drive(waiting)  # one exit goes after the other
            for one in recorded:
                context.alarms.announce(position, one)
                if isinstance(one.event, OrderEnded):
                    context.memory.waits.settled(position)
                    self.reconciler.due.hurry()  # what stands in the way of the next attempt is read before it is due
        self.ownership.note(group.failures)
        for error in group.failures if self.running else ():
            log.critical("not_stored error=%s", error)
            context.alarms.alarm_without_store("store_unwritable", f"the store could not be written: {error}")
        self.executor.drive(group.owing)
        self.intake.confirm(group.jumps)

    def _on_ended(self, p: Position) -> None:
        context = self.context
        context.memory.forget(p)
        self.executor.workers.forget(p.position_id)
        self._account.cools_down(p)
        if context.memory.seen.may_hold(p.symbol):
            self.reconciler.due.hurry()  # what was bought meanwhile is adopted now

    def _after_call(self, answered: bool, method: str) -> None:
        """Sends that fail in a row open the breaker; one that gets through closes it."""
        breaker = self.context.breaker
        if method in ("submit", "cancel") and (breaker.succeeded() if answered else breaker.failed()):
            now = self.context.given.time.now()
            opened = BreakerOpened(failures=breaker.failures, at=now, why=method)
            self.context.alarms.record(BreakerClosed(at=now) if answered else opened)
