"""Gets a trading bot out of its positions: exactly once, through crashes, with every step recorded.

This module is the whole public API. What only some uses need (the configuration reader, the simulation, the command
line) is loaded when it is first asked for, so that `import exitfsm` stays quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exitfsm.custom_rules import CustomRuleFunction
from exitfsm.engine import Engine
from exitfsm.errors import (
    BrokerError,
    ConfigError,
    ExitFsmError,
    FeedError,
    IllegalTransition,
    NotSent,
    OrderRefused,
    StoreError,
    StoreLocked,
    VersionConflict,
)
from exitfsm.events import Event, Recorded
from exitfsm.lifecycle import TABLE, State, advance, allows, mermaid
from exitfsm.policy import ExitPolicy
from exitfsm.ports import AssetRules, BarFeed, Broker, Capabilities, Clock, EventBus, IdMemory, Instrument, Session
from exitfsm.position import ExitOrder, Position, client_order_id, decide, evolve, owed, replay
from exitfsm.store import ExitStore
from exitfsm.values import (
    Alarm,
    Bar,
    BrokerPosition,
    EvaluateOn,
    ExecutionReport,
    ExitStatus,
    ExitType,
    Fill,
    Order,
    OrderSide,
    OrderStatus,
    OrderType,
    Side,
    TimeInForce,
)

if TYPE_CHECKING:
    from exitfsm.config import ConfigWarning, ExitConfig, load_config
    from exitfsm.simulated import Act, SimulatedBroker

__version__ = "0.1.0"

_LAZY = {
    "ConfigWarning": "exitfsm.config",
    "ExitConfig": "exitfsm.config",
    "load_config": "exitfsm.config",
    "Act": "exitfsm.simulated",
    "SimulatedBroker": "exitfsm.simulated",
}


def __getattr__(name: str) -> Any:
    """Load what is not needed by every use."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'exitfsm' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


__all__ = [
    "TABLE",
    "Act",
    "Alarm",
    "AssetRules",
    "Bar",
    "BarFeed",
    "Broker",
    "BrokerError",
    "BrokerPosition",
    "Capabilities",
    "Clock",
    "ConfigError",
    "ConfigWarning",
    "CustomRuleFunction",
    "Engine",
    "EvaluateOn",
    "Event",
    "EventBus",
    "ExecutionReport",
    "ExitConfig",
    "ExitFsmError",
    "ExitOrder",
    "ExitPolicy",
    "ExitStatus",
    "ExitStore",
    "ExitType",
    "FeedError",
    "Fill",
    "IdMemory",
    "IllegalTransition",
    "Instrument",
    "NotSent",
    "Order",
    "OrderRefused",
    "OrderSide",
    "OrderStatus",
    "OrderType",
    "Position",
    "Recorded",
    "Session",
    "Side",
    "SimulatedBroker",
    "State",
    "StoreError",
    "StoreLocked",
    "TimeInForce",
    "VersionConflict",
    "__version__",
    "advance",
    "allows",
    "client_order_id",
    "decide",
    "evolve",
    "load_config",
    "mermaid",
    "owed",
    "replay",
]
