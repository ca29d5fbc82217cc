"""The market's hours, as the broker tells them: read when asked for, and believed for a while."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime

from exitfsm.broker.calls import BrokerCalls
from exitfsm.clocks import SteadyTime
from exitfsm.errors import BrokerError
from exitfsm.outside import logger
from exitfsm.ports import Session

log = logger("exitfsm")

#: How long hours that were read are believed.
AGE_S = 30.0
#: How long they are good enough to say whether a bar counts.
SELDOM_S = 270.0
#: How soon they are asked for again when they could not be read.
RETRY_S = 5.0
#: How long a market that was said to be closed counts as that at least, where its hours cannot be read any more.
OPENS_MIN_S = 60.0
#: How long an exit waits to hear whether it may go.
WAIT_MAX_S = 1.0
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Sessions:
    """What was read of hours, by symbol. Any thread may ask it.

    Attributes:
        read: hours as last read, and until when they are believed, in monotonic seconds.
        opens: when a closed market is to open by that, in monotonic seconds: a clock that is set moves it not.
        shut: since when no session runs.
    """

    __slots__ = ("opens", "read", "shut")

    def __init__(self) -> None:
        self.read: dict[str, tuple[float, Session]] = {}
        self.opens: dict[str, float] = {}
        self.shut: dict[str, datetime] = {}

    def last(self, symbol: str) -> Session | None:
        """Hours as last read; None before the first answer."""
        known = self.read.get(symbol)
        return known[1] if known is not None else None

    def closed_since(self, symbol: str) -> datetime | None:
        """Since when the market is closed, by the broker's own word; None while it is open, and where nothing says so.

        No clock opens it: one that is ahead would, too early. When it was to open, the broker is asked.
        """
        known = self.last(symbol)
        return None if known is None or known.is_open else self.shut.get(symbol)


class Hours:
    """Hours by symbol. What is not known counts as open. Who has no broker to ask reads them in `sessions`."""

    def __init__(self, calls: BrokerCalls, time: SteadyTime, sessions: Sessions) -> None:
        self._calls, self._time, self._sessions = calls, time, sessions
        #: When, in monotonic seconds, a market that was said to be closed may be open, where nothing can be read.
        self._opens: dict[str, float] = {}
        self._reads: dict[str, asyncio.Task[None]] = {}
        #: When the session that was read last ends, by symbol.
        self._ends: dict[str, datetime] = {}

    def at_a_glance(self, symbol: str) -> Session | None:
        """The market's hours as last read, None before the first answer; what is old is read anew meanwhile."""
        if self._calls.capabilities.rules(symbol).always_open:
            return Session(is_open=True)
        self._ask(symbol)
        return self.known(symbol)

    def known(self, symbol: str) -> Session | None:
        """The same, and nothing is read."""
        return self._sessions.last(symbol)

    def shut(self, symbol: str) -> datetime | None:
        """Since when the market is closed, by the broker's own word; None while it is open, and where nothing says so.

        Read now and then, and when it has opened or closed by what was read.
        """
        if not self._calls.has("session") or self._calls.capabilities.rules(symbol).always_open:
            return None
        known, mono, now = self._sessions.read.get(symbol), self._time.monotonic(), self._time.now()
        due = mono >= self._sessions.opens.get(symbol, math.inf)
        if known is None or due or _is_over(known[1], now) or mono >= known[0] + SELDOM_S:
            self._ask(symbol, anew=due)
        return self._sessions.closed_since(symbol)

    def _note(self, symbol: str, session: Session) -> None:
        """Note since when a symbol's market is closed: since the end that was read before, or for all that is known."""
        if session.is_open:
            self._sessions.shut.pop(symbol, None)
            if session.close is not None:
                self._ends[symbol] = session.close
        else:
            ends = self._ends.get(symbol, _LONG_AGO)
            self._sessions.shut.setdefault(symbol, min(ends, self._time.now()))

    def _ask(self, symbol: str, *, anew: bool = False) -> asyncio.Task[None] | None:
        """The read of a symbol's hours that is under way; None when what is known is fresh and not asked `anew`."""
        if symbol in self._reads:
            return self._reads[symbol]
        known = self._sessions.read.get(symbol)
        fresh = known is not None and self._time.monotonic() < known[0] and not _is_over(known[1], self._time.now())
        if fresh and not anew:
            return None
        task = asyncio.create_task(self._read(symbol), name="exitfsm-session")
        self._reads[symbol] = task
        task.add_done_callback(lambda _: self._reads.pop(symbol, None))
        return task

    async def _read(self, symbol: str) -> None:
        age, began = AGE_S, self._time.monotonic()
        try:
            session = await self._calls.session(symbol, self._time.now())
        except BrokerError as error:
            log.warning("session_unknown symbol=%s error=%s", symbol, error)
            known, age = self.known(symbol), RETRY_S
            # Of a market that was to open by now, nothing says any more that it is closed.
            opened = known is not None and not known.is_open and self._time.monotonic() >= self._opens[symbol]
            session = Session(is_open=True) if known is None or opened else known
        else:
            left = (session.next_open - self._time.now()).total_seconds() if session.next_open else math.inf
            self._opens[symbol] = began + max(left, OPENS_MIN_S)
            # Closed, and to open in the past: it just opens, or our clock is wrong. The word itself is of now.
            self._sessions.opens[symbol] = began + left if left > 0 else self._opens[symbol]
            self._note(symbol, session)
        self._sessions.read[symbol] = (began + age, session)

    async def let_pass(self, symbol: str) -> bool:
        """True when an order can be sent now: the market is open by what is read, or the broker keeps it until then."""
        if not self._matter(symbol):
            return True
        reading = self._ask(symbol)
        if reading is not None:
            await asyncio.wait([reading], timeout=WAIT_MAX_S)  # no exit waits for long to hear whether it may go
        known = self.known(symbol)
        return known is None or known.is_open

    def heard_closed(self, symbol: str) -> bool:
        """True when the last word is that the market is closed, to orders too: it may have come while one waited."""
        known = self.known(symbol) if self._matter(symbol) else None
        return known is not None and not known.is_open and not _is_over(known, self._time.now())

    def may_have_changed(self, symbol: str) -> bool:
        """True when the market has opened or closed by our clock since its hours were read; read them again then."""
        known = self.known(symbol) if self._matter(symbol) else None
        return known is not None and _is_over(known, self._time.now())

    def _matter(self, symbol: str) -> bool:
        """True when the broker takes orders for this symbol during its market's hours only."""
        capabilities = self._calls.capabilities
        return not capabilities.queues_orders and not capabilities.rules(symbol).always_open

    async def close(self) -> None:
        """Give up the reads that are under way."""
        reads = list(self._reads.values())
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


def _is_over(session: Session, now: datetime) -> bool:
    """True when the market has opened or closed since."""
    until = session.close if session.is_open else session.next_open
    return until is not None and now >= until
