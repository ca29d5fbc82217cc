"""A small event bus for one process: every subscriber sees every event, in order, and nothing is dropped silently."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from exitfsm.errors import ConfigError
from exitfsm.outside import logger
from exitfsm.ports import MaybeAsync

log = logger("exitfsm")


class InProcessBus:
    """Delivers each event to each subscriber before `publish` returns.

    A handler that raises is logged and does not keep the event from the others.
    """

    def __init__(self) -> None:
        self._handlers: list[Callable[[Any], MaybeAsync[None]]] = []

    def subscribe(self, handler: Callable[[Any], MaybeAsync[None]]) -> Callable[[], None]:
        """Call `handler` (plain or async) for each event; the returned function ends it."""
        self._handlers.append(handler)

        def unsubscribe() -> None:
            if handler in self._handlers:
                self._handlers.remove(handler)

        return unsubscribe

    async def publish(self, event: Any) -> None:
        """Give `event` to every subscriber, one after another."""
        for handler in list(self._handlers):
            try:
                result = handler(event)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                # One part of a bot must not take the others' events away.
                log.exception("bus_handler_failed handler=%r", handler)


class Subscription:
    """Of a handler, to a bot's bus, plain or async; there may be none.

    Args:
        bus: the bus; None: nothing comes.
    """

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self._unsubscribe: Any = None

    async def begin(self, handler: Callable[[Any], Any]) -> None:
        """Have the handler called for each event."""
        if self._bus is not None:
            self._unsubscribe = await _awaited(self._bus.subscribe(handler))

    async def end(self) -> None:
        """No longer, where the bus offers a way to end it."""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if callable(unsubscribe):
            await _awaited(unsubscribe())


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def check_bus(bus: Any) -> None:
    """See that a bus can be subscribed to with one handler.

    Raises:
        ConfigError: it cannot; the text says what to do.
    """
    if bus is None:
        return
    what = f"event bus {type(bus).__name__}: "
    instead = "pass None as event_bus, and call manager.on_bar and manager.on_order_update where the bot consumes them"
    subscribe = getattr(bus, "subscribe", None)
    if not callable(subscribe):
        raise ConfigError([f"{what}it has no subscribe(handler); {instead}"])
    try:
        inspect.signature(subscribe).bind(check_bus)
    except TypeError:
        raise ConfigError([f"{what}subscribe takes more than a handler; {instead}"]) from None
    except ValueError:
        return  # not written in Python
