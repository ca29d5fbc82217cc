"""The parts of a manager between a start and the stop after it, and how they come to be.

Each is made of those before it and is whole from then on. Three things would need what is made after them: the engine
asks when a session ends, and reads a table that the hours fill later; it tells of its commits, and a list takes them
until the mailbox fetches them; and the broker's calls ask for names of orders, which a table of them knows.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from exitfsm import holdings
from exitfsm.bar_keeping import BarKeeper
from exitfsm.broker.calls import Breaker, BrokerCalls
from exitfsm.broker.fitting import Fitting
from exitfsm.broker.hours import Hours, Sessions
from exitfsm.broker.instruments import Instruments
from exitfsm.clocks import SteadyTime
from exitfsm.engine import Engine, SessionClose
from exitfsm.errors import StoreError
from exitfsm.events import BreakerClosed, BreakerOpened, ExitCompleted, OrderEnded, PositionClosedElsewhere
from exitfsm.lifecycle import State
from exitfsm.manager.adopter import Adopter
from exitfsm.manager.alarms import Account, Alarms
from exitfsm.manager.confirming import Confirmer
from exitfsm.manager.context import Context, Given
from exitfsm.manager.executor import Executor
from exitfsm.manager.intake import Intake
from exitfsm.manager.mailbox import Commits, Group, Mailbox
from exitfsm.manager.operators import Operators
from exitfsm.manager.orders import Orders
from exitfsm.manager.reconciler import Reconciler
from exitfsm.manager.tasks import Tasks
from exitfsm.manager.timer import Timer
from exitfsm.manager.view import View
from exitfsm.outside import logger
from exitfsm.ports import Capabilities
from exitfsm.position import Position
from exitfsm.recorded_bars import bars_path
from exitfsm.sessions import closing
from exitfsm.store import ExitStore

log = logger("exitfsm")


class Parts:
    """One life of a manager, on an open store.

    Args:
        given: what the bot gave.
        store: where everything is recorded.
        fitting: how the bot's broker is called.
    """

    def __init__(self, given: Given, store: ExitStore, fitting: Fitting) -> None:
        live, time, sessions, commits = given.config.live, given.time, Sessions(), Commits()
        self._missing = fitting.missing
        self.store, self._account = store, Account(store, given.account)
        engine = Engine(
            store,
            fitting.capabilities,
            rules=given.rules,
            session_close=_session_closes(fitting.capabilities, sessions),
            listener=commits,
        )
        tasks = Tasks()
        mailbox = Mailbox(engine, commits, time.now, given.clock.now)
        alarms = Alarms(mailbox, self._account, tasks, time.now, (given.on_event, given.on_alarm))
        breaker = Breaker(live.breaker_failures, float(live.breaker_probe_seconds))
        orders = Orders(engine)
        calls = BrokerCalls(
            fitting,
            names=orders,
            time=time,
            timeout_s=float(live.broker_timeout_seconds),
            on_result=_on_call(breaker, alarms, time),
            closes=closing(given.config, fitting.capabilities),
        )
        self.context = context = Context(
            given=given,
            engine=engine,
            mailbox=mailbox,
            alarms=alarms,
            calls=calls,
            breaker=breaker,
            hours=Hours(calls, time, sessions),
            instruments=Instruments(calls, time, mailbox.alarm),
            orders=orders,
            tasks=tasks,
        )
        self._keeper = _keeper_of(given, store)
        self.view = View(context)
        self.executor = Executor(context, self.view)
        self.adopter = Adopter(context, self.view)
        self.reconciler = Reconciler(context, self.view, self.executor, self.adopter)
        self.timer = Timer(context, self.view, self.executor, self.reconciler, self._keeper)
        self.confirmer = Confirmer(context, self.view)
        self.intake = Intake(context, self.executor, self.reconciler, self.timer, self._keeper)
        self.operators = Operators(context, self.view, self.executor, self.reconciler)
        #: True from when everything is restored until it is stopped.
        self.running = False
        self._cooldowns: dict[str, datetime] = {}

    async def begin(self) -> None:
        """Restore what the store knows, remind of what stands, and be at work.

        Raises:
            StoreError: the store cannot be read, or belongs to another account; then nothing is left behind.
        """
        context = self.context
        context.mailbox.open(self._after_group)
        try:
            await context.mailbox.run(self._restore)
            self.running = True
            for symbol in {p.symbol for p in list(context.engine.positions.values())}:
                context.tasks.spawn(context.instruments.ask(symbol), "exitfsm-instrument")
            context.alarms.remind()
            for lack in self._missing:
                await context.alarms.raise_alarm("broker_incomplete", f"the broker has no {lack}")
        except BaseException:
            self.running = False
            await context.mailbox.close()
            context.calls.close()
            raise

    def _restore(self) -> None:
        """In the writer's thread: everything the store knows."""
        store, context = self.store, self.context
        store.bind(context.given.account)
        self.adopter.load()
        context.engine.load()
        self._account.load()
        if self._account.paused:
            context.engine.pause()
        context.alarms.load(store)
        context.breaker.restore(self._account.breaker_open)
        self._cooldowns.update(store.cooldowns(context.given.time.now()))
        if self._keeper is not None:
            self._keeper.keep([row.symbol for row in store.trackings()])

    def stop_taking(self) -> None:
        """Nothing new is taken from now on."""
        self.running = False

    async def end(self) -> None:
        """Let what must become durable be; leave no task behind."""
        context = self.context
        await context.tasks.cancel()
        await self.reconciler.close()
        await self.executor.close(float(context.given.config.live.broker_timeout_seconds))
        await context.tasks.finish_writes()
        try:
            await context.mailbox.run(self.timer.save_marks)
        except StoreError as error:
            log.error("marks_not_saved error=%s", error)
        await context.mailbox.close()
        context.calls.close()

    async def close_bars(self) -> None:
        """Close the file of the bars that were kept."""
        if self._keeper is not None:
            await self._keeper.close()

    def account(self) -> holdings.Account:
        """What speaks for or against an entry."""
        return holdings.Account(
            positions=list(self.context.engine.positions.values()),
            cooldowns=dict(self._cooldowns),
            is_reconciled=self.running and self.reconciler.is_done,
            is_paused=self.context.engine.paused,
        )

    # --- what comes back from the mailbox -----------------------------------------------------------------------------

    def _after_group(self, group: Group) -> None:
        """On the event loop, after each group: tell the callbacks, work on what is owed, confirm prices that jumped."""
        context = self.context
        for position, recorded in group.commits:
            if any(isinstance(one.event, (ExitCompleted, PositionClosedElsewhere)) for one in recorded):
                self._on_ended(position)
            waiting = [q.position_id for q in context.engine.beside(position) if q.state is State.PENDING]
            self.executor.drive(waiting)  # one exit goes after the other
            for one in recorded:
                context.alarms.announce(position, one)
                if isinstance(one.event, OrderEnded):
                    self.view.note_wait(position)
                    self.reconciler.hurry()  # what stands in the way of the next attempt is read before it is due
        for error in group.failures if self.running else ():
            log.critical("not_stored error=%s", error)
            context.alarms.alarm_without_store("store_unwritable", f"the store could not be written: {error}")
        self.executor.drive(group.owing)
        self.confirmer.confirm(group.jumps)

    def _on_ended(self, p: Position) -> None:
        self.executor.forget(p)
        if p.cooldown_until is not None:
            self._cooldowns[p.symbol] = max(p.cooldown_until, self._cooldowns.get(p.symbol, p.cooldown_until))
        self.context.orders.note_end(p)
        self.reconciler.hurry()  # what was bought meanwhile is taken up now


def _session_closes(capabilities: Capabilities, sessions: Sessions) -> SessionClose:
    """For the engine, in the writer's thread: when the session ends, as last read."""

    def session_close(symbol: str, _: datetime) -> datetime | None:
        known = None if capabilities.rules(symbol).always_open else sessions.get(symbol)
        return known[1].close if known is not None else None

    return session_close


def _on_call(breaker: Breaker, alarms: Alarms, time: SteadyTime) -> Callable[[bool, str], None]:
    """Sends that fail in a row open the breaker; one that gets through closes it."""

    def on_call(answered: bool, method: str) -> None:
        if method not in ("submit", "cancel"):
            return
        if not answered and breaker.failed():
            alarms.record(BreakerOpened(failures=breaker.failures, at=time.now(), why=method))
        elif answered and breaker.succeeded():
            alarms.record(BreakerClosed(at=time.now()))

    return on_call


def _keeper_of(given: Given, store: ExitStore) -> BarKeeper | None:
    if not given.config.record_bars:
        return None
    path = bars_path(store, given.config.bars)
    if path is None:
        log.warning("bars_not_recorded error=the store is no file: set bars: PATH to record them there")
    return BarKeeper(path, ()) if path is not None else None
