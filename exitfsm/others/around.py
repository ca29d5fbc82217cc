"""A look around: what is held, for all who hear of reads, and what troubles the broker by its own word."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from exitfsm.broker.calls import BrokerCalls
from exitfsm.errors import BrokerError
from exitfsm.kinds import AlarmKind
from exitfsm.outside import log


class Alarms(Protocol):
    """Where alarms about the account go up and down."""

    async def raise_alarm(self, kind: str, text: str) -> None:
        """An alarm about the account."""

    async def keep_only(self, kinds: Collection[str], texts: Collection[str], why: str) -> None:
        """Alarms of these kinds go on where their text is among these; the others are over."""


async def look_around(calls: BrokerCalls, read: Callable[[], Awaitable[object]], alarms: Alarms) -> None:
    """Read what is held; tell a person what troubles the broker, when it begins and when it is over."""
    try:
        await read()
    except BrokerError as error:
        log.warning("look_failed error=%s", error)
    for text in await calls.troubles():
        await alarms.raise_alarm(AlarmKind.BROKER_TROUBLE, text)
    if calls.troubled is not None:
        await alarms.keep_only({AlarmKind.BROKER_TROUBLE}, calls.troubled, "the broker says it no more")
