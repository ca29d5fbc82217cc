"""A broker in its own words, asked by the port's: what a manager hears of it, with the port's types and errors."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Any, TypeVar

from exitfsm.broker.calls import BrokerCalls, Outcome, Submitted
from exitfsm.broker.fitting import Known
from exitfsm.clocks import SteadyTime, SystemClock
from exitfsm.errors import BrokerError, NotSent, OrderRefused
from exitfsm.ports import Capabilities, Session
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, Order

T = TypeVar("T")
#: Longest wait for one answer: far beyond what a bench that is slow on purpose takes.
_TIMEOUT_S = 60.0


class _Calls(BrokerCalls):
    """Keeps what the broker raised last: whoever writes an adapter must see where it broke."""

    raised: Exception | None = None

    async def _call(self, *args: Any) -> Any:
        self.raised = None
        try:
            return await super()._call(*args)
        except Exception as error:
            self.raised = error
            raise


class AsManagersDo:
    """The methods of the port, on whatever broker a manager would take.

    Args:
        broker: with the port's methods, or with methods that can be fitted; plain or async.

    Raises:
        ConfigError: no manager would take it; the text says what to do.
    """

    def __init__(self, broker: Any) -> None:
        self._calls = _Calls(broker, SteadyTime(SystemClock()), _TIMEOUT_S, lambda answered, method: None)
        self._calls.check()
        self.remember({})

    def remember(self, own_ids: dict[str, Known]) -> None:
        """Look orders up, and add them, in this list of what is known of them by our id."""
        self._known = own_ids
        self._calls.known = lambda client_order_id: own_ids.get(client_order_id, Known())
        self._calls.client_id_of = lambda own: next(
            (key for key, k in own_ids.items() if k.broker_order_id == own), None
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the broker declares; the most careful assumptions where it declares nothing."""
        return self._calls.capabilities

    def has(self, method: str) -> bool:
        """True when the broker offers this method."""
        return self._calls.has(method)

    def takes_our_id(self, method: str) -> bool:
        """True when this method names an order by our id, not by the broker's own."""
        return self._calls.takes_our_id(method)

    async def submit(self, order: Order) -> ExecutionReport:
        """Send an order.

        Raises:
            OrderRefused: a definite no.
            NotSent: it never left.
            BrokerError: anything else: its fate is not known.
        """
        self._known[order.client_order_id] = Known(None, order.symbol)
        outcome = await self._calls.submit(order)
        if outcome.outcome is not Outcome.ACK or outcome.report is None:
            raise _refusal(outcome) from self._calls.raised
        if outcome.report.broker_order_id:
            self._known[order.client_order_id] = Known(outcome.report.broker_order_id, order.symbol)
        return outcome.report

    async def order(self, client_order_id: str) -> ExecutionReport | None:
        """What the broker knows of an order."""
        return await self._shown(self._calls.order(client_order_id))

    async def cancel(self, client_order_id: str) -> None:
        """Ask for a cancel.

        Raises:
            OrderRefused: it cannot be canceled.
        """
        refused = await self._shown(self._calls.cancel(client_order_id))
        if refused is not None:
            raise OrderRefused("not_cancelable", refused.text)

    async def positions(self) -> list[BrokerPosition]:
        """What is held.

        Raises:
            BrokerError: no answer, or an entry of it cannot be read.
        """
        held = await self._shown(self._calls.positions())
        if held.unclear:
            raise BrokerError(f"positions that cannot be read: {', '.join(sorted(held.unclear))}")
        return held

    async def open_orders(self) -> list[ExecutionReport]:
        """All working orders."""
        return await self._shown(self._calls.open_orders())

    async def fills(self, since: datetime) -> list[Fill]:
        """Executions since a time."""
        return await self._shown(self._calls.fills(since))

    async def session(self, symbol: str, at: datetime) -> Session:
        """The market's hours."""
        return await self._shown(self._calls.session(symbol, at))

    async def _shown(self, work: Awaitable[T]) -> T:
        """What comes of a call; where it fails, with what the broker raised as the cause."""
        try:
            return await work
        except BrokerError as error:
            raise error from self._calls.raised

    def close(self) -> None:
        """Let the threads go."""
        self._calls.close()


def _refusal(outcome: Submitted) -> BrokerError:
    if outcome.outcome is Outcome.REFUSED and outcome.report is not None:
        return OrderRefused(outcome.report.refusal or "unspecified", outcome.report.text)
    return NotSent(outcome.why) if outcome.outcome is Outcome.NOT_SENT else BrokerError(outcome.why)


__all__ = ["AsManagersDo"]
