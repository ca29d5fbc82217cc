"""A broker in its own words, asked by the port's: what a manager hears of it, with the port's types and errors."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from typing import Any, TypeVar

from exitfsm.broker.calls import BrokerCalls, Known, Outcome, Submitted
from exitfsm.broker.fitting import Fitting
from exitfsm.clocks import SteadyTime, SystemClock
from exitfsm.errors import BrokerError, NotSent, OrderRefused
from exitfsm.ports import Capabilities, Session
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, Order

T = TypeVar("T")
#: Longest wait for one answer: far beyond what a bench that is slow on purpose takes.
_TIMEOUT_S = 60.0


class OwnIds(dict[str, Known]):
    """What is known of orders, by our id: the names that calls ask for."""

    def known(self, client_order_id: str) -> Known:
        """What is known of an order by now."""
        return self.get(client_order_id, Known())

    def client_id(self, broker_order_id: str) -> str | None:
        """Our id of an order; None for one that is not known."""
        return next((ours for ours, known in self.items() if known.broker_order_id == broker_order_id), None)

    def client_ids(self) -> dict[str, str]:
        """The same of all orders, by the broker's ids."""
        return {known.broker_order_id: ours for ours, known in self.items() if known.broker_order_id is not None}


class AsManagersDo:
    """The methods of the port, on whatever broker a manager would take.

    Args:
        broker: with the port's methods, or with methods that can be fitted; plain or async.
        own_ids: where orders that are sent are noted, and those that are asked about looked up.

    Raises:
        ConfigError: no manager would take it; the text says what to do.
    """

    def __init__(self, broker: Any, own_ids: OwnIds) -> None:
        self._own_ids, self._fitting = own_ids, Fitting(broker)
        self._fitting.check()
        self._calls = BrokerCalls(
            self._fitting,
            names=own_ids,
            time=SteadyTime(SystemClock()),
            timeout_s=_TIMEOUT_S,
            on_result=lambda answered, method: None,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the broker declares; the most careful assumptions where it declares nothing."""
        return self._fitting.capabilities

    def has(self, method: str) -> bool:
        """True when the broker offers this method."""
        return self._calls.has(method)

    def takes_our_id(self, method: str) -> bool:
        """True when this method names an order by our id, not by the broker's own."""
        return self._fitting.takes_our_id(method)

    async def submit(self, order: Order) -> ExecutionReport:
        """Send an order.

        Raises:
            OrderRefused: a definite no.
            NotSent: it never left.
            BrokerError: anything else: its fate is not known.
        """
        self._own_ids[order.client_order_id] = Known(None, order.symbol)
        outcome = await self._calls.submit(order)
        if outcome.outcome is not Outcome.ACK or outcome.report is None:
            raise _refusal(outcome) from outcome.error
        if outcome.report.broker_order_id:
            self._own_ids[order.client_order_id] = Known(outcome.report.broker_order_id, order.symbol)
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
        """What comes of a call; where it fails, with what the broker raised as the cause: an adapter broke there."""
        try:
            return await work
        except BrokerError as error:
            raise error from error.__context__

    def close(self) -> None:
        """Let the threads go."""
        self._calls.close()


def _refusal(outcome: Submitted) -> BrokerError:
    if outcome.outcome is Outcome.REFUSED and outcome.report is not None:
        return OrderRefused(outcome.report.refusal or "unspecified", outcome.report.text)
    return NotSent(outcome.why) if outcome.outcome is Outcome.NOT_SENT else BrokerError(outcome.why)


__all__ = ["AsManagersDo", "OwnIds"]
