"""Calls to the bot's broker: plain or async, bounded in time, and sorted by what their outcome proves.

A submit ends in one of four ways. ACK: the broker reported the order. REFUSED: a definite no, the order never existed.
NOT_SENT: the request never left. UNKNOWN: everything else (a time-out, a reset, an answer that is not understood, a
duplicate id): only a look-up of the same id can tell. When in doubt it is UNKNOWN.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from msgspec.structs import replace

from exitfsm.broker.fitting import Fitted, Fitting, Known, order_parts, says_duplicate, says_not_found
from exitfsm.broker.ingest import fill_of, position_of, report_of, says_unknown, session_of
from exitfsm.broker.spellings import meant
from exitfsm.broker.threads import DaemonThreads
from exitfsm.clocks import SteadyTime
from exitfsm.errors import BrokerError, ConfigError, NotSent, OrderRefused
from exitfsm.fix import DUPLICATE_OF_VERBAL
from exitfsm.outside import logger
from exitfsm.ports import Capabilities, Session
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, Order, OrderStatus, refused_report

log = logger("exitfsm")

#: Broker calls that may be under way at once, where they are plain functions and need a thread each.
THREADS_MAX = 32
#: Keys under which a broker's answer says that it is none.
_NO_ANSWER = frozenset({"error", "errors", "code", "msg", "message", "status_code"})
#: Keys under which a list may lie in an answer.
_LISTS = ("positions", "orders", "fills", "data", "items", "results", "result")


class Outcome(Enum):
    """How a submit ended."""

    ACK = "ack"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


class Held(list[BrokerPosition]):
    """What the broker held when it was asked.

    Attributes:
        began: monotonic seconds at which the read began; it is as old as that, however long the answer took.
        unclear: symbols of entries that could not be read; empty text for one that does not even name its symbol.
    """

    def __init__(self, positions: Iterable[BrokerPosition] = (), unclear: Iterable[str] = (), *, began: float) -> None:
        super().__init__(positions)
        self.began = began
        self.unclear = frozenset(unclear)


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

    def restore(self, is_open: bool) -> None:
        """It was left like this by the life before."""
        self.is_open = is_open

    def allows(self, monotonic: float) -> bool:
        """True when a send may go out now; while open, one for each probe interval."""
        return not self.is_open or self._probed_at is None or monotonic - self._probed_at >= self._probe_s

    def sends(self, monotonic: float) -> None:
        """A send goes out now; while open, it is the probe."""
        if self.is_open:
            self._probed_at = monotonic

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


class BrokerCalls:
    """The bot's broker, as the manager uses it.

    Args:
        broker: anything with the methods of the `Broker` port, plain or async, or with methods that can be fitted.
        time: for reports that carry no time of their own.
        timeout_s: longest wait for one answer.
        on_result: told after each call whether the broker answered; a refusal is an answer.

    Attributes:
        known: says what is known of an order of which the broker is asked by its own id.
        client_id_of: says which of our orders an id of the broker's names.
    """

    def __init__(self, broker: Any, time: SteadyTime, timeout_s: float, on_result: Callable[[bool, str], None]) -> None:
        self._broker = broker
        self._time = time
        self._timeout_s = timeout_s
        self._on_result = on_result
        self.known: Callable[[str], Known] = lambda client_order_id: Known()
        self.client_id_of: Callable[[str], str | None] = lambda broker_order_id: None
        self.open()

    def open(self) -> None:
        """Look at what the broker offers, and take calls."""
        self._fitting = Fitting(self._broker)
        self._not_implemented: set[str] = set()
        self._threads = DaemonThreads(THREADS_MAX, "exitfsm-broker")

    def check(self) -> None:
        """See that nothing can be watched with a broker that cannot be asked.

        Raises:
            ConfigError: what is needed is missing or does not fit; the text says what to do.
        """
        if self._fitting.mistakes:
            raise ConfigError(self._fitting.mistakes)

    @property
    def capabilities(self) -> Capabilities:
        """What the broker declares."""
        return self._fitting.capabilities

    @property
    def missing(self) -> list[str]:
        """What the broker does not offer, and what that means, in words."""
        return self._fitting.missing

    @property
    def asks_by_our_id(self) -> bool:
        """True when the broker can be asked about an order by our id, so that one it does not find is not there."""
        return self.takes_our_id("order")

    def can_look_up(self, client_order_id: str) -> bool:
        """True when the broker can be asked about this order: by our id, or by its own where that is known."""
        return self.has("order") and self._named("order", client_order_id)[1]

    def takes_our_id(self, method: str) -> bool:
        """True when this method names an order by our id, not by the broker's own."""
        fitted = self._fitting.get(method)
        return fitted is not None and not fitted.names_order_by_its_own_id()

    def has(self, method: str) -> bool:
        """True when the broker offers this method, and has not said that it is not implemented."""
        if method in self._not_implemented:
            return False
        fitted = self._fitting.get(method)
        return fitted is not None and callable(getattr(self._broker, fitted.name, None))

    def close(self) -> None:
        """Stop taking calls; one that hangs is left to its fate, and does not keep the process from ending."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def report_of(self, source: Any, client_order_id: str | None = None) -> ExecutionReport | None:
        """What a broker says of an order; None when it does not say what became of it.

        A rejection for an id that the broker knows already says nothing of the order: it may well be working.

        Raises:
            BrokerError, ValueError: a field holds what it cannot hold.
        """
        now = self._time.now()
        report = report_of(source, now=now, client_order_id=client_order_id, client_id_of=self.client_id_of)
        if report is None or report.status is not OrderStatus.REJECTED or report.filled_qty:
            return report
        same_id = report.refusal != DUPLICATE_OF_VERBAL and says_duplicate(report.refusal, report.text)
        return None if same_id else report

    async def submit(self, order: Order) -> Submitted:
        """Send an order once, and sort the outcome. Never raises for what the broker does."""
        try:
            answer = await self._call("submit", (order,), order_parts(order))
        except OrderRefused as refusal:
            if says_duplicate(refusal.kind, refusal.text):
                return Submitted(Outcome.UNKNOWN, None, str(refusal))
            return Submitted(
                Outcome.REFUSED, refused_report(order.client_order_id, refusal, self._time.now()), str(refusal)
            )
        except NotSent as error:
            return Submitted(Outcome.NOT_SENT, None, str(error))
        except Exception as error:
            # Whatever else a wrapper raises: the order may be live.
            return Submitted(Outcome.UNKNOWN, None, describe(error))
        if isinstance(answer, (str, int, UUID)) and not isinstance(answer, bool):
            answer = {"client_order_id": order.client_order_id, "status": "new", "broker_order_id": str(answer)}
        try:
            report = self.report_of(answer, order.client_order_id)
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
        asked, proves = self._named("order", client_order_id)
        try:
            answer = await self._call("order", (client_order_id,), asked)
        except Exception as error:
            if not says_not_found(error, asked["order_id"]):
                raise _as_broker_error("order", error) from None
            answer = None
        if answer is None or says_unknown(answer):
            if not proves:
                raise BrokerError(f"order {client_order_id} is not found by our id, and the broker's own is not known")
            return None
        report = self.report_of(answer, client_order_id)
        if report is None or not self._is_about(report, client_order_id):
            raise BrokerError(f"the answer about order {client_order_id} is not understood")
        return replace(report, client_order_id=client_order_id)

    def _is_about(self, report: ExecutionReport, client_order_id: str) -> bool:
        """True for an answer about this order: by its id, or by the broker's own where it was replaced repeatedly."""
        if client_order_id in (report.client_order_id, report.orig_client_order_id):
            return True
        own = self.known(client_order_id).broker_order_id
        return own is not None and report.broker_order_id == own

    def _named(self, method: str, client_order_id: str) -> tuple[dict[str, Any], bool]:
        """An order as the broker's method wants it named; and whether it would then be found if it were there."""
        fitted, known = self._fitting.get(method), self.known(client_order_id)
        by_its_own = fitted is not None and fitted.names_order_by_its_own_id()
        order_id = (known.broker_order_id or client_order_id) if by_its_own else client_order_id
        given = {"client_order_id": client_order_id, "order_id": order_id, "symbol": known.symbol}
        return given, not by_its_own or known.broker_order_id is not None

    async def cancel(self, client_order_id: str) -> ExecutionReport | None:
        """Ask for a cancel; a report where the broker refused to cancel.

        Raises:
            BrokerError: no answer; asking again does no harm.
        """
        given, proves = self._named("cancel", client_order_id)
        if not proves:
            raise BrokerError(f"order {client_order_id} cannot be canceled: the broker's own id of it is not known")
        try:
            await self._asked("cancel", client_order_id, **given)
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
        began = self._time.monotonic()
        found: list[BrokerPosition] = []
        unclear: list[str] = []
        for symbol, raw in _by_symbol(await self._asked("positions")):
            try:
                position = position_of(raw, symbol)
            except (BrokerError, ValueError) as error:
                log.error("position_unreadable error=%s", error)
                unclear.append(str(meant(raw, "symbol") or symbol or "").upper().replace("/", ""))
                continue
            if position is not None:
                found.append(position)
        return Held(found, unclear, began=began)

    async def open_orders(self) -> list[ExecutionReport]:
        """All working orders of the account; those that are not understood are left out.

        Raises:
            BrokerError: no answer.
        """
        reports = (self.report_of(raw) for raw in _listed(await self._asked("open_orders")))
        return [report for report in reports if report is not None]

    async def fills(self, since: datetime) -> list[Fill]:
        """Executions since a time, oldest first.

        Raises:
            BrokerError: no answer.
        """
        found = (fill_of(raw) for raw in _listed(await self._asked("fills", since, since=since)))
        return sorted((fill for fill in found if fill is not None), key=lambda fill: fill.at)

    async def session(self, symbol: str, at: datetime) -> Session:
        """The market's hours; open where the broker does not tell hours.

        Raises:
            BrokerError: no answer.
        """
        if not self.has("session"):
            return Session(is_open=True)
        return session_of(await self._asked("session", symbol, at, symbol=symbol, at=at))

    async def _asked(self, method: str, *args: Any, **given: Any) -> Any:
        """A call whose failure is a `BrokerError`."""
        try:
            return await self._call(method, args, given)
        except Exception as error:
            raise _as_broker_error(method, error) from None

    async def _call(self, method: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
        """One bounded call, in a thread of its own where it is a plain function.

        Args:
            method: of the port.
            args: the port's own arguments.
            given: what the parameters of a method that was fitted may ask for.
        """
        fitted: Fitted | None = self._fitting.get(method)
        function = getattr(self._broker, fitted.name, None) if fitted is not None else None
        if fitted is None or not callable(function):
            raise BrokerError(f"the broker has no method {method!r}")
        positional, named = fitted.arguments(args, given)
        try:
            # Not wait_for: where the answer and a cancel come together, Python 3.11's loses the cancel.
            async with asyncio.timeout(self._timeout_s):
                answer = await self._run(partial(function, *positional, **named))
        except OrderRefused:
            self._on_result(True, method)
            raise
        except NotImplementedError:
            self._not_implemented.add(method)
            self._on_result(False, method)
            raise
        except Exception:
            self._on_result(False, method)
            raise
        self._on_result(True, method)
        return answer

    async def _run(self, call: partial[Any]) -> Any:
        if inspect.iscoroutinefunction(call.func):
            return await call()
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        return await _awaited(answer) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _as_broker_error(method: str, error: Exception) -> BrokerError:
    return error if isinstance(error, BrokerError) else BrokerError(f"{method}: {describe(error)}")


def _listed(answer: Any) -> list[Any]:
    """A list of things, out of a list, of a dictionary of them, or of one that a list lies in.

    Raises:
        BrokerError: it is neither; that is no empty answer, but none.
    """
    if isinstance(answer, Mapping):
        if _NO_ANSWER & answer.keys():
            raise BrokerError(f"a list was expected, not an answer with {', '.join(sorted(map(str, answer)))}"[:200])
        within = next((answer[key] for key in _LISTS if key in answer), None)
        return _listed(within) if isinstance(within, (list, tuple)) else list(answer.values())
    if answer is None or isinstance(answer, (str, bytes)) or not isinstance(answer, Iterable):
        raise BrokerError(f"a list was expected, not {type(answer).__name__}")
    return list(answer)


def _by_symbol(answer: Any) -> list[tuple[str | None, Any]]:
    """The same for positions, each with the symbol that it is listed under, where it is."""
    things = _listed(answer)
    if isinstance(answer, Mapping) and not any(isinstance(answer.get(key), (list, tuple)) for key in _LISTS):
        return [(str(key), value) for key, value in answer.items()]
    return [(None, thing) for thing in things]


def describe(error: BaseException) -> str:
    """An error as one short line without its arguments' secrets: the class, and the text where it is our own."""
    if isinstance(error, BrokerError):
        return f"{type(error).__name__}: {error}"[:300]
    return type(error).__name__
