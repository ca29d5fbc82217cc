"""What the passing of time brings: timers, look-ups, reconciliation, time rules where no bar comes, and marks."""

from __future__ import annotations

from datetime import datetime

from exitfsm.aio.tasks import in_slices
from exitfsm.bar_keeping import BarKeeper
from exitfsm.errors import BrokerError, StoreError
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context, Part, in_order
from exitfsm.manager.executor import Executor
from exitfsm.manager.reconciler import Reconciler
from exitfsm.memory.intervals import LOOK_UPS_MAX, Polls, Silence, Spaced
from exitfsm.messages import TimeSeen
from exitfsm.others.scope import AHEAD
from exitfsm.outside import log, logged
from exitfsm.policy import silence_max_s
from exitfsm.position import Position

#: How often the manager looks at what time has brought, in seconds.
TICK_S = 0.25
#: How old the last bar must be before a time rule is decided without one.
NO_BAR_S = 90.0
MARKS_EVERY_S = 1.0


class Timer(Part):
    """Does what has come due."""

    def __init__(self, context: Context, executor: Executor, reconciler: Reconciler, keeper: BarKeeper) -> None:
        super().__init__(context)
        self._executor, self._reconciler, self.keeper = executor, reconciler, keeper
        #: Prices that have moved are stored.
        self.marks = Spaced(MARKS_EVERY_S)
        self._silence, self._polls = Silence(), Polls(float(self._live.poll_seconds))

    async def watch(self) -> None:
        """Turn after turn, for ever."""
        while True:
            await self._given.clock.sleep(TICK_S)
            try:
                with logged("tick_failed error=%s", of=(BrokerError, StoreError)):
                    await self.tick()
            except Exception:
                # The timer is what retries everything: a defect in one turn must not be its last.
                log.exception("tick_crashed")

    async def tick(self) -> None:
        """One turn."""
        now, mono = self._time.now(), self._time.monotonic()
        busy = [p for p in in_order(self._engine) if p.state is not State.MONITORING]
        if busy:
            self._waits.begin(busy)
            await self._mailbox.tell_all([(p.position_id, self._time_seen(p, mono)) for p in busy])
            self._executor.drive([p.position_id for p in busy], now=False)
            self._poll(busy, mono)
        self._waits.watched()
        await self._rules_of_time(now, mono)
        self._reconciler.look_around(mono)
        if self._reconciler.due.has_come(mono):
            self._tasks.spawn(self._reconciler.try_sync(), "exitfsm-sync")
        if self.marks.has_come(mono):
            self.keeper.write()
            await self._mailbox.run(self.save_marks)
        if (failure := self.keeper.failure()) is not None:
            await self._alarms.raise_alarm("bars_not_recorded", failure)

    def save_marks(self) -> None:
        """In the writer's thread: the newest prices, for the read model; then the store may do what can wait."""
        self._engine.store.save_marks(self._engine.marks())
        self._engine.store.settle()

    def _time_seen(self, p: Position, mono: float) -> TimeSeen:
        """Patience runs while the market is open only: a closed one keeps everybody waiting."""
        hours, patience_s = self._hours.at_a_glance(p.symbol), float(self._live.patience_seconds)
        ends = hours is not None and hours.is_open and mono - self._waits.began(p) >= patience_s
        why = self._calls.why(p.client_order_id)
        return TimeSeen(at=self._waits.now(p), patience_s=patience_s if ends else None, why=why)

    def _poll(self, busy: list[Position], mono: float) -> None:
        """Look working orders up now and then: an update may have been lost."""
        owners = {key: p.position_id for p in busy if p.state is not State.PENDING for key in p.orders_in_question}
        if len(due := self._polls.due(owners, mono)) > LOOK_UPS_MAX:
            return self._reconciler.due.hurry()
        for order_id in due:
            self._executor.look_up_soon(owners[order_id], order_id)

    async def _rules_of_time(self, now: datetime, mono: float) -> None:
        """Time rules where no bar comes, of what a part keeps, too; and a word to a person where none came for long."""
        async for p in in_slices(in_order(self._engine)):
            slot = self._engine.levels.slots.get(p.symbol)
            if slot is None or not ((monitored := p.state is State.MONITORING) or p.keep_qty):
                continue
            slot.shut(self._hours.shut(p.symbol) if self._given.config.session.trade != "extended" else None)
            silence = self._silence.since(p.symbol, slot.heard, mono)
            longest = silence_max_s(float(self._live.feed_silence_seconds), p.policy.price_guard, slot.length)
            timed = bool(p.policy.plan.timed)
            unseen = timed and self._scoped.is_unseen(p, slot.previous_at)
            hours = self._hours.at_a_glance(p.symbol) if timed or silence >= longest else None
            if hours is None:
                continue
            if unseen and silence >= NO_BAR_S - AHEAD.total_seconds():
                await self._scoped.say_unseen(p, hours.close)
            elif timed and silence >= NO_BAR_S and not self._engine.paused:
                price = self._engine.last_price(p.symbol) or p.entry_price
                await self._mailbox.tell(p.position_id, TimeSeen(at=now, price=price, session_close=hours.close))
            if silence >= longest and hours.is_open and monitored:
                await self._mailbox.tell(p.position_id, slot.silent(p, silence, now))
