"""`ScriptedBroker`: true books behind scripted answers.

Each method of the port answers truthfully until a test says otherwise: `answer("submit", LostReply())` lets the next
submit take effect and then raise, `answer("positions", Returns([]))` lets the next read come back empty, a `Hang` keeps
a call from coming back until it is released. Answers queue up; when the queue is empty the truth is told again.

The methods are `async`; `broker.plain` offers the same ones as plain functions, for bots that work with threads.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple

from exitfsm.ports import Capabilities, Clock, MaybeAsync, Session
from exitfsm.simulated import SIMULATED
from exitfsm.testing.books import Books
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, Order

Effect = Callable[[], Any]
#: A plain call that hangs gives up after this long, so that a test that forgot to release it ends.
HANG_MAX_S = 30.0


class Call(NamedTuple):
    """One call of the port, as it came."""

    method: str
    args: tuple[Any, ...]
    at: datetime


class Returns(NamedTuple):
    """Answer this, whatever is true. The call has no effect."""

    value: Any


class Raises(NamedTuple):
    """Raise this; the call has no effect."""

    error: Exception


class LostReply(NamedTuple):
    """Take effect, then raise: the answer was lost."""

    error: Exception = TimeoutError("no answer")


class Meanwhile(NamedTuple):
    """Take effect, then let this happen before the answer is heard: the clock moves, an update comes, others trade.

    What it returns is awaited where it can be; in a thread it must be plain.
    """

    happens: Callable[[], Any]


class Hang:
    """A call that does not come back until `release`.

    Args:
        effect: whether it takes effect `first`, only `on_release` (also when nobody waits for it any more: a request
            that arrives late), or `never`.
    """

    def __init__(self, effect: Literal["first", "on_release", "never"] = "on_release") -> None:
        self.effect = effect
        self.released = threading.Event()
        self.waiting = 0
        self._late: list[Effect] = []
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def release(self) -> None:
        """Let it come back; what was to take effect now does."""
        self.released.set()
        late, self._late = self._late, []
        for effect in late:
            effect()
        waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, future)

    def begin(self, effect: Effect) -> Effect:
        """The call begins; what is returned gives its answer after the release."""
        if self.effect == "never":
            return _no_answer
        outcome = _Once(effect)
        if self.effect == "first":
            outcome.run()
        else:
            self._late.append(outcome.run)
        return outcome.answer

    async def wait(self) -> None:
        """Until it is released."""
        if not self.released.is_set():
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, future))
            self.waiting += 1
            try:
                await future
            finally:
                self.waiting -= 1

    def wait_plainly(self) -> None:
        """Until it is released, in a thread."""
        self.waiting += 1
        try:
            self.released.wait(HANG_MAX_S)
        finally:
            self.waiting -= 1


Answer = Returns | Raises | LostReply | Meanwhile | Hang


class _Once:
    """An effect that takes place once and remembers what came of it."""

    def __init__(self, effect: Effect) -> None:
        self._effect = effect
        self._done = False
        self._value: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        if self._done:
            return
        self._done = True
        try:
            self._value = self._effect()
        except Exception as error:
            # Raised to whoever still waits; a request that arrives late has nobody to raise it to.
            self._error = error

    def answer(self) -> Any:
        self.run()
        if self._error is not None:
            raise self._error
        return self._value


def _no_answer() -> Any:
    raise TimeoutError("no answer")


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class ScriptedBroker(Books):
    """A broker for tests: it does what the test says, and knows what must never happen.

    Args:
        clock: the time of its records; the system's when None.
        capabilities: what it declares and does.

    Attributes:
        calls: every call of the port, in the order in which they came.
        market: the hours it tells for every symbol.
        moment: called with `"submit before"`, `"submit after"`, … around the effect of each call: a place for crashes.
    """

    def __init__(self, clock: Clock | None = None, capabilities: Capabilities = SIMULATED) -> None:
        super().__init__(clock.now if clock is not None else _utc_now, capabilities)
        self.calls: list[Call] = []
        self.market = Session(is_open=True)
        self.moment: Callable[[str], None] | None = None
        self.plain = Plain(self)
        self._answers: dict[str, deque[Answer]] = defaultdict(deque)
        self._always: dict[str, Answer] = {}
        self._hangs: list[Hang] = []

    # --- the script ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, *answers: Answer, times: int = 1) -> None:
        """What the next calls of a method get, one answer each."""
        for _ in range(times):
            self._answers[method].extend(answers)
        self._hangs += [a for a in answers if isinstance(a, Hang)]

    def always(self, method: str, answer: Answer | None) -> None:
        """What every call of a method gets, where nothing else is queued; None: the truth again."""
        if answer is None:
            self._always.pop(method, None)
        else:
            self._always[method] = answer
            if isinstance(answer, Hang):
                self._hangs.append(answer)

    def truthful(self) -> None:
        """From now on every method tells the truth, and whatever hangs comes back."""
        self._answers.clear()
        self._always.clear()
        hangs, self._hangs = self._hangs, []
        for hang in hangs:
            hang.release()

    @property
    def hanging(self) -> int:
        """How many calls hang."""
        return sum(hang.waiting for hang in self._hangs)

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(call.method == method for call in self.calls)

    # --- the updates --------------------------------------------------------------------------------------------------

    async def deliver(
        self,
        to: Callable[[Any], MaybeAsync[None]],
        *,
        times: int = 1,
        order: Literal["as_told", "reversed"] | random.Random = "as_told",
    ) -> int:
        """Hand over all news that nobody has been given yet; returns how many there were.

        Args:
            to: the handler, plain or async, for example `manager.on_order_update`.
            times: how often each is delivered.
            order: the order in which they arrive; a `random.Random` shuffles them.
        """
        news, self.updates = self.updates * times, []
        if order == "reversed":
            news.reverse()
        elif isinstance(order, random.Random):
            order.shuffle(news)
        for update in news:
            result = to(update)
            if inspect.isawaitable(result):
                await result
        return len(news)

    def lose_updates(self) -> int:
        """Nobody ever hears of what has not been delivered yet; returns how many that were."""
        lost, self.updates = len(self.updates), []
        return lost

    # --- the port -----------------------------------------------------------------------------------------------------

    async def positions(self) -> Sequence[BrokerPosition]:
        """All open positions."""
        return await self._asked("positions")  # type: ignore[no-any-return]  # scripted answers may be anything

    async def submit(self, order: Order) -> ExecutionReport:
        """Send one order."""
        return await self._asked("submit", order)  # type: ignore[no-any-return]

    async def order(self, client_order_id: str) -> ExecutionReport | None:
        """What is known of an order."""
        return await self._asked("order", client_order_id)  # type: ignore[no-any-return]

    async def open_orders(self) -> Sequence[ExecutionReport]:
        """All working orders, whoever sent them."""
        return await self._asked("open_orders")  # type: ignore[no-any-return]

    async def cancel(self, client_order_id: str) -> None:
        """Ask for a cancel."""
        await self._asked("cancel", client_order_id)

    async def fills(self, since: datetime) -> Sequence[Fill]:
        """Executions since a time, oldest first."""
        return await self._asked("fills", since)  # type: ignore[no-any-return]

    async def session(self, symbol: str, at: datetime) -> Session:
        """The market's hours."""
        return await self._asked("session", symbol, at)  # type: ignore[no-any-return]

    async def _asked(self, method: str, *args: Any) -> Any:
        answer, effect = self._begin(method, args)
        if isinstance(answer, Hang):
            outcome = answer.begin(effect)
            await answer.wait()
            return outcome()
        if isinstance(answer, Meanwhile):
            value, happening = effect(), answer.happens()
            if inspect.isawaitable(happening):
                await happening
            return value
        return _given(answer, effect)

    def asked_plainly(self, method: str, *args: Any) -> Any:
        """A call of the port from a thread: what `plain` does."""
        answer, effect = self._begin(method, args)
        if isinstance(answer, Hang):
            outcome = answer.begin(effect)
            answer.wait_plainly()
            return outcome()
        if isinstance(answer, Meanwhile):
            value = effect()
            answer.happens()
            return value
        return _given(answer, effect)

    def _begin(self, method: str, args: tuple[Any, ...]) -> tuple[Answer | None, Effect]:
        with self.lock:
            self.calls.append(Call(method, args, self.now()))
            queue = self._answers[method]
            answer = queue.popleft() if queue else self._always.get(method)
        return answer, partial(self._effect, method, args)

    def _effect(self, method: str, args: tuple[Any, ...]) -> Any:
        """What the call truly does."""
        if self.moment is not None:
            self.moment(f"{method} before")
        with self.lock:
            value = _TRUTH[method](self, *args)
        if self.moment is not None:
            self.moment(f"{method} after")
        return value

    # --- the truth ----------------------------------------------------------------------------------------------------

    def _positions(self) -> list[BrokerPosition]:
        self.seen()
        return self.snapshot()

    def _order(self, client_order_id: str) -> ExecutionReport | None:
        booked = self.booked(client_order_id)
        if booked is None or not (booked.live or self.capabilities.lookup_sees_closed):
            return None
        return booked.report()

    def _open_orders(self) -> list[ExecutionReport]:
        return [booked.report() for booked in self.working()]

    def _fills(self, since: datetime) -> list[Fill]:
        return [fill for fill in self.executions if fill.at >= since]

    def _session(self, *_: Any) -> Session:
        return self.market


_TRUTH: dict[str, Callable[..., Any]] = {
    "positions": ScriptedBroker._positions,
    "submit": ScriptedBroker.take,
    "order": ScriptedBroker._order,
    "open_orders": ScriptedBroker._open_orders,
    "cancel": ScriptedBroker.ask_cancel,
    "fills": ScriptedBroker._fills,
    "session": ScriptedBroker._session,
}


class Plain:
    """The same broker with plain methods, as a bot with a thread pool has it."""

    def __init__(self, broker: ScriptedBroker) -> None:
        self._broker = broker

    @property
    def capabilities(self) -> Capabilities:
        """What the broker declares."""
        return self._broker.capabilities

    def positions(self) -> Sequence[BrokerPosition]:
        """All open positions."""
        return self._broker.asked_plainly("positions")  # type: ignore[no-any-return]  # scripted answers may be anything

    def submit(self, order: Order) -> ExecutionReport:
        """Send one order."""
        return self._broker.asked_plainly("submit", order)  # type: ignore[no-any-return]

    def order(self, client_order_id: str) -> ExecutionReport | None:
        """What is known of an order."""
        return self._broker.asked_plainly("order", client_order_id)  # type: ignore[no-any-return]

    def open_orders(self) -> Sequence[ExecutionReport]:
        """All working orders, whoever sent them."""
        return self._broker.asked_plainly("open_orders")  # type: ignore[no-any-return]

    def cancel(self, client_order_id: str) -> None:
        """Ask for a cancel."""
        self._broker.asked_plainly("cancel", client_order_id)

    def fills(self, since: datetime) -> Sequence[Fill]:
        """Executions since a time, oldest first."""
        return self._broker.asked_plainly("fills", since)  # type: ignore[no-any-return]

    def session(self, symbol: str, at: datetime) -> Session:
        """The market's hours."""
        return self._broker.asked_plainly("session", symbol, at)  # type: ignore[no-any-return]


def _given(answer: Returns | Raises | LostReply | None, effect: Effect) -> Any:
    """The answer to a call that does not hang."""
    match answer:
        case Returns(value):
            return value
        case Raises(error):
            raise error
        case LostReply(error):
            effect()
            raise error
        case None:
            return effect()


def _utc_now() -> datetime:
    return datetime.now(UTC)
