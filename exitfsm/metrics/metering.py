"""A broker whose calls are timed. It is the bot's own in all else: names, signatures, attributes, what is raised."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NamedTuple, Self

from exitfsm.broker.fitting import METHODS
from exitfsm.errors import OrderRefused

#: What a broker may call a method -> what the port calls it.
_NAMES = {name: method for method, names in METHODS.items() for name in names}


class Call(NamedTuple):
    """A call of the broker: that it has begun (no outcome yet), or how it ended and how long it took.

    `texts` are the texts among what it was given, and the id of an order.
    """

    method: str
    outcome: str
    seconds: float
    texts: frozenset[str]


class Metered:
    """A broker, and who hears of each call of it."""

    def __init__(self, broker: Any, heard: Callable[[Call], None]) -> None:
        self._metered, self._heard = broker, heard

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._metered, name)
        method = _NAMES.get(name)
        return _timed(method, found, self._heard) if method is not None and callable(found) else found


def _timed(method: str, function: Callable[..., Any], heard: Callable[[Call], None]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def waits(*args: Any, **named: Any) -> Any:
            with _Watch(method, (*args, *named.values()), heard):
                return await function(*args, **named)

        return waits

    @wraps(function)
    def plain(*args: Any, **named: Any) -> Any:
        with _Watch(method, (*args, *named.values()), heard) as watch:
            result = function(*args, **named)
            return watch.handed_over(result) if inspect.isawaitable(result) else result

    return plain


class _Watch:
    """Times one call."""

    def __init__(self, method: str, given: tuple[Any, ...], heard: Callable[[Call], None]) -> None:
        self._method, self._heard = method, heard
        ids = (getattr(value, "client_order_id", value) for value in given)
        self._texts = frozenset(value for value in ids if isinstance(value, str))
        self._began, self._goes_on = 0.0, False

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._heard(Call(self._method, "", 0.0, self._texts))
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not self._goes_on:
            self._say(error)

    def handed_over(self, awaitable: Awaitable[Any]) -> Awaitable[Any]:
        """What a plain function has handed out is awaited elsewhere; the call ends there."""
        self._goes_on = True
        return self._until(awaitable)

    async def _until(self, awaitable: Awaitable[Any]) -> Any:
        try:
            result = await awaitable
        except BaseException as error:
            self._say(error)
            raise
        self._say(None)
        return result

    def _say(self, error: BaseException | None) -> None:
        seconds = time.perf_counter() - self._began
        self._heard(Call(self._method, _outcome(error), seconds, self._texts))


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "answered"
    if isinstance(error, OrderRefused):
        return "refused"
    return "given_up" if isinstance(error, asyncio.CancelledError) else "failed"
