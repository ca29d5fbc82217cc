"""Calls to the bot's broker: plain or async, bounded in time, and sorted by what their outcome proves.

A submit ends in one of four ways. ACK: the broker reported the order. REFUSED: a definite no, the order never existed.
NOT_SENT: the request never left. UNKNOWN: everything else (a time-out, a reset, an answer that is not understood, a
duplicate id): only a look-up of the same id can tell. When in doubt it is UNKNOWN.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

from exitfsm.errors import BrokerError, NotSent, OrderRefused
from exitfsm.manager.clock import SteadyTime
from exitfsm.manager.ingest import field, fill_of, position_of, report_of, session_of
from exitfsm.ports import CAREFUL, Capabilities, Clock, Session
from exitfsm.simulate import refused_report
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, Order, OrderStatus

log = logging.getLogger("exitfsm")

#: Broker calls that may be under way at once, where they are plain functions and need a thread each.
THREADS_MAX = 32
#: Kinds of refusal that do not refuse: the id is known to the broker, so the order may well exist.
NOT_A_REFUSAL = frozenset({"duplicate_id"})


class Outcome(Enum):
    """How a submit ended."""

    ACK = "ack"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


class Held(list[BrokerPosition]):
    """What the broker holds.

    Attributes:
        unclear: symbols of entries that could not be read; empty text for one that does not even name its symbol.
    """

    def __init__(self, positions: Iterable[BrokerPosition] = (), unclear: Iterable[str] = ()) -> None:
        super().__init__(positions)
        self.unclear = frozenset(unclear)

    def is_silent_about(self, symbol: str) -> bool:
        """True when the symbol may be held although no readable entry says so: that it is missing proves nothing."""
        if any(bp.symbol.replace("/", "") == symbol.replace("/", "") for bp in self):
            return False
        return any(name in ("", symbol.replace("/", "")) for name in self.unclear)


class Submitted(NamedTuple):
    """The outcome of a submit, with the report that an ACK or a refusal amounts to."""

    outcome: Outcome
    report: ExecutionReport | None
    why: str = ""


class Breaker:
    """Counts failures in a row; when there are too many, sends are spaced out until one gets through.

    It never stops a send for good, and look-ups do not ask it.
    """

    def __init__(self, failures_max: int, probe_s: float) -> None:
        self._failures_max = failures_max
        self._probe_s = probe_s
        self._probed_at: float | None = None
        self.failures = 0
        self.is_open = False

    def allows(self, monotonic: float) -> bool:
        """True when a send may go out now; while open, one for each probe interval."""
        if not self.is_open:
            return True
        if self._probed_at is None or monotonic - self._probed_at >= self._probe_s:
            self._probed_at = monotonic
            return True
        return False

    def failed(self) -> bool:
        """One more failure; True when it opened the breaker."""
        self.failures += 1
        if self.is_open or self.failures < self._failures_max:
            return False
        self.is_open = True
        return True

    def succeeded(self) -> bool:
        """The broker answered; True when that closed the breaker."""
        self.failures = 0
        self._probed_at = None
        was_open, self.is_open = self.is_open, False
        return was_open


class RateBudget:
    """At most so many sends in any minute; who asks first goes first."""

    def __init__(self, clock: Clock, per_minute: int) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._sent: deque[float] = deque()
        self._turn = asyncio.Lock()

    async def spend(self) -> None:
        """Return when one more send fits into the minute."""
        async with self._turn:
            while True:
                now = self._clock.monotonic()
                while self._sent and now - self._sent[0] >= 60:
                    self._sent.popleft()
                if len(self._sent) < self._per_minute:
                    self._sent.append(now)
                    return
                await self._clock.sleep(60 - (now - self._sent[0]))


class BrokerCalls:
    """The bot's broker, as the manager uses it.

    Args:
        broker: anything with the methods of the `Broker` port, plain or async.
        time: for reports that carry no time of their own.
        timeout_s: longest wait for one answer.
        on_result: told after each call whether the broker answered; a refusal is an answer.
    """

    def __init__(self, broker: Any, time: SteadyTime, timeout_s: float, on_result: Callable[[bool, str], None]) -> None:
        self._broker = broker
        self._time = time
        self._timeout_s = timeout_s
        self._on_result = on_result
        self.open()
        declared = getattr(broker, "capabilities", None)
        self.capabilities = declared if isinstance(declared, Capabilities) else CAREFUL

    def open(self) -> None:
        """Take calls."""
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="exitfsm-broker")

    def has(self, method: str) -> bool:
        """True when the broker offers this method."""
        return callable(getattr(self._broker, method, None))

    def close(self) -> None:
        """Stop taking calls; one that hangs is left to its fate."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def submit(self, order: Order) -> Submitted:
        """Send an order once, and sort the outcome. Never raises for what the broker does."""
        try:
            answer = await self._call("submit", order)
        except OrderRefused as refusal:
            if refusal.kind in NOT_A_REFUSAL:
                return Submitted(Outcome.UNKNOWN, None, str(refusal))
            return Submitted(
                Outcome.REFUSED, refused_report(order.client_order_id, refusal, self._time.now()), str(refusal)
            )
        except NotSent as error:
            return Submitted(Outcome.NOT_SENT, None, str(error))
        except Exception as error:
            # Whatever else a wrapper raises: the order may be live.
            return Submitted(Outcome.UNKNOWN, None, describe(error))
        if isinstance(answer, str):
            answer = {"client_order_id": order.client_order_id, "status": "new", "broker_order_id": answer}
        try:
            report = report_of(answer, now=self._time.now(), client_order_id=order.client_order_id)
        except Exception as error:
            return Submitted(Outcome.UNKNOWN, None, describe(error))
        if report is None or report.client_order_id != order.client_order_id:
            return Submitted(
                Outcome.UNKNOWN, None, f"the answer to the submit is not understood: {type(answer).__name__}"
            )
        return Submitted(Outcome.ACK, report)

    async def order(self, client_order_id: str) -> ExecutionReport | None:
        """What the broker knows of an order; None only when it says that it does not know the id.

        Raises:
            BrokerError: no answer, or one that is not understood.
        """
        answer = await self._asked("order", client_order_id)
        if answer is None:
            return None
        report = report_of(answer, now=self._time.now(), client_order_id=client_order_id)
        if report is None or report.client_order_id != client_order_id:
            raise BrokerError(f"the answer about order {client_order_id} is not understood")
        return report

    async def cancel(self, client_order_id: str) -> ExecutionReport | None:
        """Ask for a cancel; a report where the broker refused to cancel.

        Raises:
            BrokerError: no answer; asking again does no harm.
        """
        try:
            await self._asked("cancel", client_order_id)
        except OrderRefused as refusal:
            return ExecutionReport(
                client_order_id=client_order_id,
                status=OrderStatus.CANCEL_REJECTED,
                at=self._time.now(),
                text=refusal.text,
            )
        return None

    async def positions(self) -> Held:
        """What the broker holds. A position that cannot be read is logged and noted; it hides none of the others.

        Raises:
            BrokerError: no answer.
        """
        found: list[BrokerPosition] = []
        unclear: list[str] = []
        for raw in _listed(await self._asked("positions")):
            try:
                position = position_of(raw)
            except (BrokerError, ValueError) as error:
                log.error("position_unreadable error=%s", error)
                unclear.append(str(field(raw, "symbol", "ticker") or "").upper().replace("/", ""))
                continue
            if position is not None:
                found.append(position)
        return Held(found, unclear)

    async def open_orders(self) -> list[ExecutionReport]:
        """All working orders of the account; those that are not understood are left out.

        Raises:
            BrokerError: no answer.
        """
        reports = (report_of(raw, now=self._time.now()) for raw in _listed(await self._asked("open_orders")))
        return [report for report in reports if report is not None]

    async def fills(self, since: datetime) -> list[Fill]:
        """Executions since a time, oldest first.

        Raises:
            BrokerError: no answer.
        """
        found = (fill_of(raw) for raw in _listed(await self._asked("fills", since)))
        return sorted((fill for fill in found if fill is not None), key=lambda fill: fill.at)

    async def session(self, symbol: str, at: datetime) -> Session:
        """The market's hours; open where the broker does not tell hours.

        Raises:
            BrokerError: no answer.
        """
        if not self.has("session"):
            return Session(is_open=True)
        return session_of(await self._asked("session", symbol, at))

    async def _asked(self, method: str, *args: Any) -> Any:
        """A call whose failure is a `BrokerError`."""
        try:
            return await self._call(method, *args)
        except BrokerError:
            raise
        except Exception as error:
            raise BrokerError(f"{method}: {describe(error)}") from None

    async def _call(self, method: str, *args: Any) -> Any:
        """One bounded call, in a thread of its own where it is a plain function."""
        function = getattr(self._broker, method, None)
        if not callable(function):
            raise BrokerError(f"the broker has no method {method!r}")
        try:
            # Not wait_for: where the answer and a cancel come together, Python 3.11's loses the cancel.
            async with asyncio.timeout(self._timeout_s):
                answer = await self._run(function, args)
        except OrderRefused:
            self._on_result(True, method)
            raise
        except Exception:
            self._on_result(False, method)
            raise
        self._on_result(True, method)
        return answer

    async def _run(self, function: Callable[..., Any], args: Sequence[Any]) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args))
        return await _awaited(answer) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _listed(answer: Any) -> Sequence[Any]:
    """A list of things, out of a list or out of a dictionary by symbol.

    Raises:
        BrokerError: it is neither; that is no empty answer, but none.
    """
    if isinstance(answer, dict):
        return [{"symbol": key, **value} if isinstance(value, dict) else value for key, value in answer.items()]
    if isinstance(answer, (list, tuple, set, frozenset)):
        return list(answer)
    raise BrokerError(f"a list was expected, not {type(answer).__name__}")


def describe(error: BaseException) -> str:
    """An error as one short line without its arguments' secrets: the class, and the text where it is our own."""
    if isinstance(error, BrokerError):
        return f"{type(error).__name__}: {error}"[:300]
    return type(error).__name__
