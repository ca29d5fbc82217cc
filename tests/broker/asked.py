"""A broker as the calls see it, for the tests of this room."""

from __future__ import annotations

from typing import Any, NamedTuple

from exitfsm.broker.calls import BrokerCalls, Hears, Known
from exitfsm.broker.fitting import Fitting
from exitfsm.clocks import SteadyTime, SystemClock


class Names(NamedTuple):
    """The same is known of every order, and none is ours."""

    of_all: Known = Known()

    def known(self, client_order_id: str) -> Known:
        return self.of_all

    def client_id(self, broker_order_id: str) -> str | None:
        return None

    def client_ids(self) -> dict[str, str]:
        return {}


def calls_of(
    broker: Any,
    known: Known | None = None,
    *,
    timeout_s: float = 5.0,
    noted: list[tuple[str, str]] | None = None,
) -> BrokerCalls:
    """Calls to a broker of whose orders this is known; `noted` is what could not be read."""
    heard = noted if noted is not None else []
    return BrokerCalls(
        Fitting(broker),
        names=Names(known or Known()),
        time=SteadyTime(SystemClock()),
        timeout_s=timeout_s,
        on_result=Hears(lambda answered, method: None, lambda kind, text: heard.append((kind, text))),
    )
