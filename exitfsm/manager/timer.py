"""What the passing of time brings: timers, look-ups, reconciliation, time rules where no bar comes, and marks."""

from __future__ import annotations

from datetime import datetime

from exitfsm.bar_keeping import BarKeeper
from exitfsm.errors import BrokerError, StoreError
from exitfsm.lifecycle import State
from exitfsm.manager.context import Context, Part, in_order
from exitfsm.manager.executor import Executor
from exitfsm.manager.reconciler import Reconciler
from exitfsm.messages import RaiseAlarm, TimeSeen
from exitfsm.outside import logger
from exitfsm.ports import Session
from exitfsm.position import Position

log = logger("exitfsm")

#: How often the manager looks at what time has brought, in seconds.
TICK_S = 0.25
#: How old the last bar must be before a time rule is decided without one.
NO_BAR_S = 90.0
MARKS_EVERY_S = 1.0
#: The hours of a market that never closes.
ALWAYS = Session(is_open=True)


class Timer(Part):
    """Does what has come due."""

    def __init__(self, context: Context, executor: Executor, reconciler: Reconciler, keeper: BarKeeper) -> None:
        super().__init__(context)
        self._executor, self._reconciler, self._keeper = executor, reconciler, keeper
        #: Prices have moved since they were last stored; and when that may be again, in monotonic seconds.
        self._marks_due = False
        self._marks_at = 0.0
        #: Timestamp of the last bar of each symbol that was accepted, and when it was seen to be.
        self._accepted: dict[str, tuple[datetime | None, float]] = {}
        self._polled: dict[str, float] = {}

    def prices_moved(self) -> None:
        """There are prices to be stored."""
        self._marks_due = True

    async def watch(self) -> None:
        """Turn after turn, for ever."""
        while True:
            await self._given.clock.sleep(TICK_S)
            try:
                await self.tick()
            except (BrokerError, StoreError) as error:
                log.warning("tick_failed error=%s", error)
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
        if self._reconciler.is_due(mono):
            self._tasks.spawn(self._reconciler.try_sync(), "exitfsm-sync")
        if self._marks_due and mono >= self._marks_at:
            self._marks_due, self._marks_at = False, mono + MARKS_EVERY_S
            self._keeper.write()
            await self._mailbox.run(self.save_marks)
        failure = self._keeper.failure()
        if failure is not None:
            await self._alarms.raise_alarm("bars_not_recorded", failure)

    def save_marks(self) -> None:
        """In the writer's thread: the newest prices, for the read model; then the store may do what can wait."""
        self._engine.store.save_marks(self._engine.marks())
        self._engine.store.settle()

    def _hours_of(self, symbol: str) -> Session | None:
        """The market's hours, as far as they are known."""
        return ALWAYS if self._calls.capabilities.rules(symbol).always_open else self._hours.at_a_glance(symbol)

    def _time_seen(self, p: Position, mono: float) -> TimeSeen:
        """Patience runs while the market is open only: a closed one keeps everybody waiting."""
        hours, patience_s = self._hours_of(p.symbol), float(self._live.patience_seconds)
        ends = hours is not None and hours.is_open and mono - self._waits.began(p) >= patience_s
        return TimeSeen(at=self._waits.now(p), patience_s=patience_s if ends else None)

    def _poll(self, busy: list[Position], mono: float) -> None:
        """Look working orders up now and then: an update may have been lost."""
        every, polled = float(self._live.poll_seconds), self._polled
        self._polled = {}
        for p in busy:
            for order_id in p.orders_in_question if p.state is not State.PENDING else ():
                self._polled[order_id] = polled.get(order_id, mono)
                if mono - self._polled[order_id] >= every:
                    self._polled[order_id] = mono
                    self.look_up_soon(p.position_id, order_id)

    def look_up_soon(self, position_id: str, client_order_id: str) -> None:
        """Ask the broker about an order, without waiting for the answer."""
        self._tasks.spawn(self._look_up(position_id, client_order_id), "exitfsm-poll")

    async def _look_up(self, position_id: str, client_order_id: str) -> None:
        try:
            await self._executor.look_up(position_id, client_order_id)
        except (BrokerError, StoreError) as error:
            log.warning("look_up_failed id=%s error=%s", client_order_id, error)

    async def _rules_of_time(self, now: datetime, mono: float) -> None:
        """Time rules where no bar comes, and a word to a person where none has come for long."""
        longest = float(self._live.feed_silence_seconds)
        for p in in_order(self._engine):
            if p.state is not State.MONITORING:
                continue
            silence = self._silence_s(p.symbol, mono)
            timed = bool(p.policy.plan.timed)
            hours = self._hours_of(p.symbol) if timed or silence >= longest else None
            if hours is None:
                continue
            if timed and silence >= NO_BAR_S and not self._engine.paused:
                price = self._engine.last_price(p.symbol) or p.entry_price
                due = TimeSeen(at=now, price=price, session_close=hours.close)
                await self._mailbox.tell(p.position_id, due)
            if silence >= longest and hours.is_open:
                refused = f" (they come, and are refused: {p.refusing})" if p.refusing else ""
                text = f"no bar of {p.symbol} for {silence:.0f} s{refused}: its levels are not being watched"
                await self._mailbox.tell(p.position_id, RaiseAlarm(at=now, kind="feed_silent", text=text))

    def _silence_s(self, symbol: str, mono: float) -> float:
        """How long no bar of a symbol has been accepted; one that was refused leaves it as unwatched as none."""
        slot = self._engine.levels.slots.get(symbol)
        at = slot.previous_at if slot is not None else None
        known = self._accepted.get(symbol)
        if known is None or known[0] != at:
            known = self._accepted[symbol] = (at, mono)
        return mono - known[1]
