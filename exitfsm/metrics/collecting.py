"""What is counted, and what is read when somebody asks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from exitfsm.errors import ConfigError
from exitfsm.events import AlarmRaised, Event, ExitCompleted, ExitTriggered, PositionClosedElsewhere, Recorded
from exitfsm.lifecycle import LOOKUP, State
from exitfsm.metrics.health import health_of
from exitfsm.metrics.metering import Call, Metered
from exitfsm.metrics.serving import serving
from exitfsm.position import Position
from exitfsm.values import Side

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

    from exitfsm.manager import ExitManager

_FAST_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_PCT = (-1.0, -0.5, -0.25, -0.1, -0.05, 0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_MINUTE_S = 60.0


class _Exit(NamedTuple):
    """An exit under way: when it was triggered, at which price, and its order's id until it is sent."""

    at: datetime
    price: Decimal
    client_order_id: str


class Metrics:
    """The figures of one manager.

    Args:
        registry: where they are registered; one of its own when None.
        now: the time; the system's when None.

    Raises:
        ConfigError: prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry | None = None, now: Callable[[], datetime] | None = None) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ModuleNotFoundError:
            raise ConfigError(['metrics need prometheus-client: pip install "exitfsm[metrics]"']) from None
        self.now = now or _utc_now
        self.registry = registry or CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        moved = ["source", "target", "rule"]
        self._transitions = counter("exitfsm_transitions", "Events that change a state.", moved)
        self._exits = counter("exitfsm_exits", "Positions that ended, by how and by the rule.", ["how", "rule"])
        self._alarms = counter("exitfsm_alarms_raised", "Alarms that went up.", ["kind"])
        self._slippage = histogram(
            "exitfsm_slippage_percent", "How much worse than the trigger the exit was filled.", buckets=_PCT
        )
        self._sent = histogram("exitfsm_trigger_to_sent_seconds", "From the trigger to the send.", buckets=_FAST_S)
        self._filled = histogram("exitfsm_trigger_to_filled_seconds", "From the trigger to flat.", buckets=_SLOW_S)
        self._calls = histogram(
            "exitfsm_broker_call_seconds", "Calls of the broker.", ["method", "outcome"], buckets=_SLOW_S
        )
        self._commits = histogram("exitfsm_commit_seconds", "Durable commits of events.", buckets=_FAST_S)
        self._head = gauge("exitfsm_chain_head", "Sequence of the newest event.")
        self._states: dict[str, State] = {}
        self._under_way: dict[str, _Exit] = {}
        self._ids: dict[str, str] = {}
        #: When orders and cancels were sent, within the last minute, in monotonic seconds.
        self._sends: deque[float] = deque()

    # --- what is handed to the manager --------------------------------------------------------------------------------

    def metered(self, broker: Any) -> Any:
        """The broker, with each call of it counted and timed. All else of it is as it was."""
        return Metered(broker, self._called)

    def on_event(self, position: Position | None, recorded: Recorded) -> None:
        """For `on_event` of the manager: count what happened."""
        event = recorded.event
        self._head.set(recorded.sequence)
        if isinstance(event, AlarmRaised):
            self._alarms.labels(event.kind).inc()
        if position is not None:
            self._moved(position, event)
            self._timed(position, event)

    def _moved(self, position: Position, event: Event) -> None:
        before = self._states.get(position.position_id)
        after = LOOKUP.get((before, type(event)), position.state)
        self._states[position.position_id] = after
        if after is not before:
            self._transitions.labels(before or "none", after, position.reason or "none").inc()
        if after.terminal:
            self._states.pop(position.position_id)

    def _timed(self, position: Position, event: Event) -> None:
        key, rule = position.position_id, str(position.reason or "none")
        match event:
            case ExitTriggered():
                self._under_way[key] = _Exit(event.at, event.trigger_price, event.client_order_id)
                self._ids[event.client_order_id] = key
            case ExitCompleted():
                self._exits.labels("filled", rule).inc()
                self._ended(position, event)
            case PositionClosedElsewhere():
                self._exits.labels(event.how, rule).inc()
                self._forget(key)

    def _ended(self, position: Position, event: ExitCompleted) -> None:
        under_way = self._forget(position.position_id)
        if under_way is None:  # it was triggered before this process began
            return
        self._filled.observe(max(0.0, (event.filled_at - under_way.at).total_seconds()))
        if event.avg_fill_price is not None and under_way.price > 0:
            worse = under_way.price - event.avg_fill_price
            worse = worse if position.side is Side.LONG else -worse
            self._slippage.observe(float(worse / under_way.price * 100))

    def _forget(self, key: str) -> _Exit | None:
        under_way = self._under_way.pop(key, None)
        if under_way is not None:
            self._ids.pop(under_way.client_order_id, None)
        return under_way

    def _called(self, call: Call) -> None:
        """A call of the broker has begun, or has ended."""
        if call.outcome:
            self._calls.labels(call.method, call.outcome).observe(call.seconds)
            return
        if call.method not in ("submit", "cancel"):
            return
        self._sends.append(time.monotonic())
        sent = {text for text in call.texts if text in self._ids}
        if call.method == "submit" and sent:
            client_order_id = sent.pop()
            under_way = self._under_way.get(self._ids.pop(client_order_id, ""))
            if under_way is not None:
                self._sent.observe(max(0.0, (self.now() - under_way.at).total_seconds()))

    # --- what stands --------------------------------------------------------------------------------------------------

    def serve(self, manager: ExitManager, port: int = 9464, host: str = "127.0.0.1") -> AbstractContextManager[int]:
        """Answer `/metrics` and `/healthz` while the block runs; gives the port, which is a free one for 0.

        Raises:
            ConfigError: the address is in use.
        """
        return serving(self, manager, host, port)

    def watch(self, manager: ExitManager) -> _Standing:
        """Read what stands from this manager, from now on; hand what comes back to the registry to end it."""
        self._states |= {p.position_id: p.state for p in manager.positions()}
        if manager._made is not None:
            manager.store.time_commits(self._commits.observe)
        standing = _Standing(manager, self)
        self.registry.register(standing)
        return standing

    def sends_of_the_last_minute(self) -> int:
        """Orders and cancels."""
        since = time.monotonic() - _MINUTE_S
        while self._sends and self._sends[0] <= since:
            self._sends.popleft()
        return len(self._sends)


class _Standing:
    """What stands, read at each look."""

    def __init__(self, manager: ExitManager, metrics: Metrics) -> None:
        self._manager, self._metrics = manager, metrics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Asked by the registry at each look."""
        from prometheus_client.core import GaugeMetricFamily

        manager, now = self._manager, self._metrics.now()
        positions, alarms = manager.positions(), manager.alarms()
        counts = dict.fromkeys(State, 0)
        for p in positions:
            counts[p.state] += 1
        by_state = GaugeMetricFamily("exitfsm_positions", "Open positions, by state.", labels=["state"])
        for state, count in counts.items():
            if not state.terminal:
                by_state.add_metric([state], count)
        yield by_state
        ages = GaugeMetricFamily("exitfsm_bar_age_seconds", "Age of the last bar of what is held.", labels=["symbol"])
        for symbol, at in _last_bars(manager, {p.symbol for p in positions}):
            ages.add_metric([symbol], (now - at).total_seconds())
        yield ages
        active = GaugeMetricFamily("exitfsm_alarms_active", "Active alarms, by kind.", labels=["kind"])
        for kind in sorted({alarm.kind for alarm in alarms}):
            active.add_metric([kind], sum(alarm.kind == kind for alarm in alarms))
        yield active
        live = manager.config.live
        yield GaugeMetricFamily(
            "exitfsm_sends_last_minute", "Orders and cancels sent.", self._metrics.sends_of_the_last_minute()
        )
        yield GaugeMetricFamily("exitfsm_sends_per_minute_max", "The rate budget.", live.orders_per_minute)
        yield GaugeMetricFamily("exitfsm_paused", "1 while trading is paused.", _is_paused(manager))
        yield GaugeMetricFamily("exitfsm_healthy", "1 while /healthz is green.", health_of(manager).is_well)

    def end(self) -> None:
        """Read no more."""
        self._metrics.registry.unregister(self)
        if self._manager._made is not None:
            self._manager.store.time_commits(None)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _last_bars(manager: ExitManager, symbols: set[str]) -> list[tuple[str, datetime]]:
    """When the last accepted bar of each was, where there has been one."""
    if manager._made is None:
        return []
    slots = manager._made.context.engine.levels.slots
    found = [(symbol, slots[symbol].previous_at) for symbol in sorted(symbols) if symbol in slots]
    return [(symbol, at) for symbol, at in found if at is not None]


def _is_paused(manager: ExitManager) -> bool:
    return manager._made is not None and manager._made.context.engine.paused


__all__ = ["Metrics"]
