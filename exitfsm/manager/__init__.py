"""The live manager: the async shell around the engine that a running bot imports."""

from exitfsm.aio.bus import InProcessBus
from exitfsm.clocks import ManualClock, SystemClock
from exitfsm.manager.manager import ExitManager

__all__ = ["ExitManager", "InProcessBus", "ManualClock", "SystemClock"]
