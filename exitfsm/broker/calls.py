"""Calls to the bot's broker: plain or async, bounded in time, and sorted by what their outcome proves.

A submit ends in one of four ways. ACK: the broker reported the order. REFUSED: a definite no, the order never existed.
NOT_SENT: the request never left. UNKNOWN: everything else (a time-out, a reset, an answer that is not understood, a
duplicate id): only a look-up of the same id can tell. When in doubt it is UNKNOWN.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from msgspec.structs import replace

from exitfsm.aio.threads import DaemonThreads
from exitfsm.bars.names import fold
from exitfsm.broker.fields import by_symbol, listed, name_of, symbol_in
from exitfsm.broker.fitting import Fitting, order_parts
from exitfsm.broker.lists import SOUGHT_IN_FILLS, Executed, fills_of, working_orders_of
from exitfsm.broker.market import instrument_of, position_of, session_of
from exitfsm.broker.orders import Dialect, report_of, says_unknown
from exitfsm.clocks import SteadyTime
from exitfsm.errors import BrokerError, NotSent, OrderRefused, RateLimited
from exitfsm.fix import DUPLICATE_OF_VERBAL, plain_word
from exitfsm.kinds import AlarmKind
from exitfsm.outside import logger
from exitfsm.ports import Capabilities, Instrument, Session
from exitfsm.values import (
    BrokerPosition,
    ExecutionReport,
    Fill,
    Order,
    OrderStatus,
    bare,
    plain,
    refused_report,
    symbol_key,
)

log = logger("exitfsm")

#: Broker calls that may be under way at once, where they are plain functions and need a thread each.
THREADS_MAX = 32
#: Classes of errors that mean that there is no such order, by folded name.
_NOT_FOUND = frozenset(word + end for word in ("ordernotfound", "notfound", "unknownorder") for end in ("", "error"))
#: So many different things that cannot be read are told of; a broker that makes up words would fill the log.
NOTED_MAX = 50
#: Of so many sends it is kept why their outcome is not known.
WHYS_MAX = 1_000
#: What tells one order, and one count, from another in such a text.
_OF_ONE_ORDER = re.compile(r"order \S+|\d+ of \d+")
#: What brokers say of an id that they know already.
_DUPLICATE_WORDS = ("duplicate", "must be unique", "not unique", "already exist", "already used", "already been used")


class Outcome(Enum):
    """How a submit ended."""

    ACK = "ack"
    REFUSED = "refused"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"


class Submitted(NamedTuple):
    """The outcome of a submit."""

    outcome: Outcome
    report: ExecutionReport | None = None  # what an ACK or a refusal amounts to
    why: str = ""  # in words, where it is no ACK; safe to log
    error: Exception | None = None  # what was raised, where something was; its text may hold the broker's secrets


class Held(list[BrokerPosition]):
    """What the broker held at `began`, in monotonic seconds: it is as old as that, however long the answer took.

    `unclear` are symbols of entries that could not be read; empty text is one that does not even name its symbol.
    """

    def __init__(self, positions: Iterable[BrokerPosition] = (), unclear: Iterable[str] = (), *, began: float) -> None:
        super().__init__(positions)
        self.began, self.unclear = began, frozenset(unclear)


class Known(NamedTuple):
    """What is known of an order before it is asked about: the broker's own id, and the symbol."""

    broker_order_id: str | None = None
    symbol: str | None = None


class OrderNames(Protocol):
    """Ours and the broker's ids of orders, for a broker that does not name each order by our id."""

    def known(self, client_order_id: str) -> Known:
        """What is known of an order by now."""

    def client_id(self, broker_order_id: str) -> str | None:
        """Our id of an order; None for one that is not ours."""

    def client_ids(self) -> Mapping[str, str]:
        """Our ids of all exit orders that are known, by the broker's: for a list of many."""


class Hears(NamedTuple):
    """Who hears of answers.

    Attributes:
        result: whether there was one, as a refusal is, and the method.
        unreadable: what of it could not be read, the same thing once: the kind of alarm, and the text.
    """

    result: Callable[[bool, str], None]
    unreadable: Callable[[str, str], None] = lambda kind, text: None


class BrokerCalls:
    """The bot's broker, as the manager uses it: from one start to the next stop, then `close` it and make a new one.

    But for `submit`, which never raises, a call raises `BrokerError` where no answer came, or one not understood.
    `names` is asked for ids of orders at each call; `time` dates reports that carry no time, and reads. One answer is
    waited for `timeout_s` at most; `on_result` then hears of it, and, where it is `Hears`, of what cannot be read.
    `closes` says when a session ends, where the broker does not and a rule asks for it.
    """

    def __init__(
        self,
        fitting: Fitting,
        names: OrderNames,
        time: SteadyTime,
        timeout_s: float,
        on_result: Callable[[bool, str], None] | Hears,
        closes: Callable[[str, datetime], datetime | None] | None = None,
    ) -> None:
        self._closes = closes
        #: Symbols as the broker spells them, by ours, where they differ: some have small letters that count.
        self._spelled: dict[str, str] = {}
        self._fitting, self._names, self._time = fitting, names, time
        self._timeout_s, self._hears = timeout_s, on_result if isinstance(on_result, Hears) else Hears(on_result)
        self._noted: set[str] = set()
        self._whys: dict[str, str] = {}
        words = {plain_word(said): status for said, status in fitting.capabilities.status_words.items()}
        self._dialect = Dialect(words, self._note)
        self._not_implemented: set[str] = set()
        #: What the broker said last that troubles it; None before it was asked.
        self.troubled: list[str] | None = None
        self._forbidden: str | None = None
        self._threads = DaemonThreads(THREADS_MAX, "exitfsm-broker")

    def close(self) -> None:
        """Stop taking calls; one that hangs is left to its fate, and does not keep the process from ending."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def forbid(self, why: str) -> None:
        """Nothing is sent from now on, neither orders nor cancels: somebody else drives them. It may still be read."""
        self._forbidden = why

    @property
    def capabilities(self) -> Capabilities:
        """What the broker declares."""
        return self._fitting.capabilities

    @property
    def asks_by_our_id(self) -> bool:
        """True when the broker can be asked about an order by our id, so that one it does not find is not there."""
        return self._fitting.takes_our_id("order")

    def can_look_up(self, client_order_id: str) -> bool:
        """True when the broker can be asked about this order: by our id, or by its own where that is known."""
        return self.has("order") and self._named("order", client_order_id)[1]

    def has(self, method: str) -> bool:
        """True when the broker offers this method, and has not said that it is not implemented."""
        return method not in self._not_implemented and self._fitting.function(method) is not None

    def _named(self, method: str, client_order_id: str) -> tuple[dict[str, Any], bool]:
        """An order as the broker's method wants it named; and whether it would then be found if it were there."""
        known, by_its_own = self._names.known(client_order_id), self._fitting.takes_its_own_id(method)
        order_id = (known.broker_order_id or client_order_id) if by_its_own else client_order_id
        symbol = self._spelled.get(known.symbol, known.symbol) if known.symbol is not None else None
        given = {"client_order_id": client_order_id, "order_id": order_id, "symbol": symbol}
        return given, not by_its_own or known.broker_order_id is not None

    def _note(self, kind: str, text: str) -> None:
        """Something could not be read; of each word and each field one is heard of, whatever order it is of."""
        what = _OF_ONE_ORDER.sub("", text)
        if what not in self._noted and len(self._noted) < NOTED_MAX:
            self._noted.add(what)
            log.warning("answer_unreadable kind=%s text=%s", kind, text)
            self._hears.unreadable(kind, text)

    def report_of(
        self, source: Any, client_order_id: str | None = None, *, dialect: Dialect | None = None
    ) -> ExecutionReport | None:
        """What a broker says of an order; None when it does not say what became of it.

        A rejection for an id that the broker knows already says nothing of the order: it may well be working.
        """
        report = report_of(
            source, now=self._time.now(), client_order_id=client_order_id, client_id_of=self._names.client_id,
            dialect=dialect or self._dialect,
        )  # fmt: skip
        if report is None or report.status is not OrderStatus.REJECTED or report.filled_qty:
            return report
        same_id = report.refusal != DUPLICATE_OF_VERBAL and _says_duplicate(report.refusal, report.text)
        return None if same_id else report

    async def submit(self, order: Order) -> Submitted:
        """Send an order once, and sort the outcome. Never raises for what the broker does."""
        done, name = await self._submit(order), order.client_order_id
        log.info(
            "submit id=%s symbol=%s side=%s qty=%s outcome=%s why=%s",
            name, order.symbol, order.side, plain(order.qty), done.outcome.value, done.why,
        )  # fmt: skip
        self._whys.pop(name, None)
        if done.outcome is not Outcome.ACK:
            while len(self._whys) >= WHYS_MAX:
                self._whys.pop(next(iter(self._whys)))
            self._whys[name] = done.why
        return done

    def why(self, client_order_id: str | None) -> str:
        """Why the broker has not taken the newest send of an order, or is not known to; empty where it has."""
        return self._whys.get(client_order_id or "", "")

    async def _submit(self, order: Order) -> Submitted:
        name, ours = order.client_order_id, order.symbol
        if order.symbol in self._spelled:
            order = replace(order, symbol=self._spelled[order.symbol])
        try:
            parts = order_parts(order, hedged=self.capabilities.holds_both(ours))
            answer = await self._call("submit", (order,), parts)
            if isinstance(answer, (str, int, UUID)) and not isinstance(answer, bool):
                answer = {"client_order_id": name, "status": "new", "broker_order_id": str(answer)}
        except OrderRefused as refusal:
            if _says_duplicate(refusal.kind, refusal.text):
                return Submitted(Outcome.UNKNOWN, None, str(refusal), refusal)
            report = refused_report(name, refusal, self._time.now())
            return Submitted(Outcome.REFUSED, report, str(refusal), refusal)
        except NotSent as error:
            return Submitted(Outcome.NOT_SENT, None, str(error), error)
        except Exception as error:  # whatever else a wrapper raises: the order may be live
            return Submitted(Outcome.UNKNOWN, None, describe(error), error)
        try:
            acked = self.report_of(answer, name)
        except Exception as error:
            return Submitted(Outcome.UNKNOWN, None, describe(error), error)
        if acked is None or acked.client_order_id != name:
            return Submitted(Outcome.UNKNOWN, why=f"the answer to a submit is not understood: {type(answer).__name__}")
        return Submitted(Outcome.ACK, acked)

    async def order(self, client_order_id: str) -> ExecutionReport | None:
        """What the broker knows of an order; None only when it says that it does not know the id."""
        asked, proves = self._named("order", client_order_id)
        try:
            answer = await self._call("order", (client_order_id,), asked)
        except Exception as error:
            if not _says_not_found(error, asked["order_id"]):
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
        return self._names.known(client_order_id).broker_order_id in {report.broker_order_id} - {None}

    @property
    def cancels_by_its_own_id(self) -> bool:
        """True when one of several orders of the same id can be canceled."""
        return self.has("cancel") and self._fitting.takes_both_ids("cancel")

    async def cancel(
        self, client_order_id: str, broker_order_id: str | None = None, symbol: str | None = None
    ) -> ExecutionReport | None:
        """Ask for a cancel, which does no harm when repeated; a report where the broker refused to cancel.

        `broker_order_id` names one of several orders of this id: it is canceled, and no other.
        """
        given, proves = self._named("cancel", client_order_id)
        if broker_order_id is not None:
            given |= {"order_id": broker_order_id, "broker_order_id": broker_order_id}
            given["symbol"], proves = symbol or given["symbol"], self.cancels_by_its_own_id
        if not proves:
            raise BrokerError(f"order {client_order_id} cannot be canceled: the broker's own id of it is not known")
        try:
            await self._asked("cancel", client_order_id, **given)
        except OrderRefused as refusal:
            status, now = OrderStatus.CANCEL_REJECTED, self._time.now()
            return ExecutionReport(client_order_id=client_order_id, status=status, at=now, text=refusal.text)
        return None

    async def open_orders(self) -> list[ExecutionReport]:
        """All working orders of the account, also of an unknown state, as they are listed, and unreadable ones."""
        return [report for report in await self.listed_orders() if report is not None]

    async def listed_orders(self) -> list[ExecutionReport | None]:
        """The same, with None for each of which not even the id can be read."""
        answers = listed(await self._asked("open_orders"))
        read = partial(self.report_of, dialect=self._dialect._replace(unknown=OrderStatus.NEW))
        reports, texts = working_orders_of(answers, read, self._time.now(), self._names.client_id)
        for text in texts:
            self._note(AlarmKind.ANSWER_UNREADABLE, text)
        return reports

    async def troubles(self) -> list[str]:
        """What troubles the broker, by its own word: what of it began since the last call."""
        try:
            now = [str(text)[:500] for text in listed(await self._asked("troubles") if self.has("troubles") else [])]
        except BrokerError as error:
            log.warning("troubles_not_told error=%s", error)
            return []
        before, self.troubled = self.troubled or (), now
        return [text for text in now if text not in before]

    async def order_ids(self, since: datetime) -> frozenset[str]:
        """Our ids of all orders that the account was sent since a time, whatever became of them."""
        answer = listed(await self._asked("order_ids", since, since=since))
        if not all(isinstance(name, str) for name in answer):
            raise BrokerError("the list of ids of orders holds something that is none")
        return frozenset(answer)

    async def positions(self) -> Held:
        """What the broker holds. A position that cannot be read is logged and noted; it hides none of the others."""
        began, found, unclear = self._time.monotonic(), list[BrokerPosition](), list[str]()
        for symbol, raw in by_symbol(await self._asked("positions")):
            try:
                position = position_of(raw, symbol)
            except (BrokerError, ValueError) as error:  # a wrapper's own object may raise when it is looked at
                log.error("position_unreadable error=%s", error)
                unclear.append(bare(symbol_key(name_of(symbol_in(raw) or symbol or ""))))
                continue
            if position is not None:
                found.append(position)
                self._note_spelling(raw, symbol, position.symbol)
        return Held(found, unclear, began=began)

    def _note_spelling(self, raw: Any, listed_under: str | None, ours: str) -> None:
        said = symbol_in(raw)
        theirs = name_of(said if said is not None else listed_under)
        if theirs != ours and symbol_key(theirs) == ours:
            self._spelled[ours] = theirs

    async def fills(self, since: datetime, symbol: str | None = None) -> list[Fill]:
        """The same, oldest first; `BrokerError` also where one of the `symbol` that is asked about cannot be read."""
        return (await self.executions(since, symbol)).of(symbol)

    async def executions(self, since: datetime, symbol: str | None = None) -> Executed:
        """Executions since a time, of one symbol where the broker takes that; `BrokerError` where none can be read."""
        theirs = self._spelled.get(symbol, symbol) if symbol is not None else None
        answers = listed(await self._asked("fills", since, since=since, symbol=theirs))
        found, unreadable = fills_of(answers, self._names.client_ids().get)
        for text in unreadable.values():
            self._note(AlarmKind.ANSWER_UNREADABLE, f"{text}; looked for {SOUGHT_IN_FILLS}")
        if unreadable and not found:
            raise BrokerError(next(iter(unreadable.values())))  # which is not: there were none
        return Executed(sorted(found, key=lambda fill: fill.at), unreadable)

    async def instrument(self, symbol: str) -> Instrument | None:
        """What the broker says of one symbol; None where it says nothing."""
        rules, theirs = self.capabilities.class_rules(symbol), self._spelled.get(symbol, symbol)
        return instrument_of(await self._asked("instrument", theirs, symbol=theirs), rules)

    async def session(self, symbol: str, at: datetime) -> Session:
        """The market's hours around a moment; open where the broker does not tell hours: no exit waits for a guess."""
        if not self.has("session"):
            closes = await self._run(partial(self._closes, symbol, at)) if self._closes is not None else None
            return Session(is_open=True, close=closes)
        theirs = self._spelled.get(symbol, symbol)
        return session_of(await self._asked("session", theirs, at, symbol=theirs, at=at))

    async def _asked(self, method: str, *args: Any, **given: Any) -> Any:
        """A call whose failure is a `BrokerError`."""
        try:
            return await self._call(method, args, given)
        except Exception as error:
            raise _as_broker_error(method, error) from None

    async def _call(self, method: str, args: tuple[Any, ...], given: Mapping[str, Any]) -> Any:
        """One bounded call, as `Fitting.call` makes it, in a thread of its own where it is a plain function."""
        if self._forbidden is not None and method in ("submit", "cancel"):
            raise NotSent(self._forbidden)
        call = self._fitting.call(method, args, given)
        try:
            # Not wait_for: where the answer and a cancel come together, Python 3.11's loses the cancel.
            async with asyncio.timeout(self._timeout_s):
                answer = await self._run(call)
        except Exception as error:
            if isinstance(error, NotImplementedError):
                self._not_implemented.add(method)
            if not isinstance(error, RateLimited):  # it did not get as far as the broker
                self._hears.result(isinstance(error, OrderRefused), method)
            raise
        self._hears.result(True, method)
        return answer

    async def _run(self, call: partial[Any]) -> Any:
        if inspect.iscoroutinefunction(call.func):
            return await call()
        # By way of the loop: a simulated one decides when it runs. The thread knows whether an exit waits for it.
        work = partial(contextvars.copy_context().run, call)
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        return await answer if inspect.isawaitable(answer) else answer


# --- what an error says -----------------------------------------------------------------------------------------------


def _says_not_found(error: BaseException, asked: str) -> bool:
    """True when an error of a look-up means that the broker does not know the id, and nothing else."""
    if isinstance(error, KeyError):
        return error.args == (asked,)  # any other key is a defect in the wrapper, and proves nothing
    if any(fold(cls.__name__) in _NOT_FOUND for cls in type(error).__mro__):
        return True
    response = getattr(error, "response", None)
    codes = (getattr(source, name, None) for source in (error, response) for name in ("status_code", "status", "code"))
    return any(code in (404, "404") for code in codes)


def _says_duplicate(*texts: object) -> bool:
    """True when what a broker says of an order means that it has one of this id already: then it was not refused."""
    said = " ".join(str(text) for text in texts if text is not None).lower().replace("_", " ")
    return any(words in said for words in _DUPLICATE_WORDS)


def _as_broker_error(method: str, error: Exception) -> BrokerError:
    return error if isinstance(error, BrokerError) else BrokerError(f"{method}: {describe(error)}")


def describe(error: BaseException) -> str:
    """An error as one short line without its arguments' secrets: the class, and the text where it is our own."""
    if isinstance(error, BrokerError):
        return f"{type(error).__name__}: {error}"[:300]
    return type(error).__name__
