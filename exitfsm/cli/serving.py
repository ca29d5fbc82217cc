"""`--metrics PORT`: the figures of a run, where they are wanted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from exitfsm.cli import screen
from exitfsm.events import Recorded
from exitfsm.position import Position

if TYPE_CHECKING:
    from collections.abc import Callable

    from exitfsm.manager import ExitManager


class Served:
    """The figures of one run.

    Args:
        port: where on loopback they are asked for, 0 for a free one; None: they are not wanted, and nothing is counted.

    Raises:
        ConfigError: prometheus-client is not installed.
    """

    def __init__(self, port: int | None) -> None:
        self._port, self._metrics = port, None
        if port is not None:
            from exitfsm.metrics import Metrics

            self._metrics = Metrics()

    def metered(self, broker: Any) -> Any:
        """The broker that the manager is given."""
        return self._metrics.metered(broker) if self._metrics is not None else broker

    def on_event(self, first: Callable[[Position | None, Recorded], Any]) -> Callable[[Position | None, Recorded], Any]:
        """What the manager calls for each event: what was there before, and the counting."""
        if self._metrics is None:
            return first
        count = self._metrics.on_event

        def both(position: Position | None, recorded: Recorded) -> None:
            count(position, recorded)
            first(position, recorded)

        return both

    @asynccontextmanager
    async def on(self, manager: ExitManager) -> AsyncIterator[None]:
        """Answer while the block runs."""
        if self._metrics is None or self._port is None:
            yield
            return
        with self._metrics.serve(manager, self._port) as port:
            screen.emit(f"figures on http://127.0.0.1:{port}/metrics, health on http://127.0.0.1:{port}/healthz\n")
            yield
