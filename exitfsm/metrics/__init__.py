"""Figures for Prometheus, and whether all is well, on loopback. Needs the extra `metrics`.

    metrics = Metrics()
    manager = ExitManager(metrics.metered(broker), store, config=config, on_event=metrics.on_event)
    async with manager:
        with metrics.serve(manager, port=9464):
            ...

Rules of this room: it only looks. What the manager does is counted from its public callbacks and from the calls of the
broker; what stands is read from its memory when somebody asks. Nothing here waits for the store, nor makes the manager
wait.
"""

from exitfsm.metrics.collecting import Metrics
from exitfsm.metrics.health import Health, health_of, verdict

__all__ = ["Health", "Metrics", "health_of", "verdict"]
