"""Gets a trading bot out of its positions: exactly once, through crashes, with every step recorded.

This module is the whole public API: what a bot, an adapter or a tool of yours needs is here by its name, and the tests
see to it that it is. For tests there is `exitfsm.testing`. What only some uses need (the store, the manager with its
event loop, the configuration reader, simulation, audit, files of bars) is loaded when it is first asked for, so that
`import exitfsm` stays quick.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from exitfsm.custom_rules import CustomRuleFunction
from exitfsm.errors import (
    BrokerError,
    ConfigError,
    ExitFsmError,
    FeedError,
    IllegalTransition,
    NotSent,
    OrderRefused,
    RateLimited,
    StoreError,
    StoreLocked,
    VersionConflict,
)
from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    BreakerClosed,
    BreakerOpened,
    CancelRefused,
    CancelRequested,
    CommandAnswered,
    CommandGiven,
    Event,
    ExitCompleted,
    ExitEscalated,
    ExitPostponed,
    ExitRetried,
    ExitTriggered,
    ExitWithdrawn,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    OrderRestated,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionOpened,
    PositionReleased,
    PositionResized,
    ProtectionLost,
    Recorded,
    RefusalEnded,
    ScopeChanged,
    StopMoved,
    TradingPaused,
    TradingResumed,
    TriggerRefused,
    UnitChanged,
)
from exitfsm.lifecycle import (
    TABLE,
    State,
    advance,
    allows,
    mermaid,
)
from exitfsm.messages import (
    Acknowledge,
    BarSeen,
    ChangePolicy,
    Contradiction,
    ForceExit,
    GiveWay,
    Ignore,
    Message,
    MoveStop,
    Open,
    PositionRead,
    RaiseAlarm,
    RecordRead,
    Recover,
    Release,
    Report,
    Rescale,
    TimeSeen,
    Withdraw,
)
from exitfsm.outside import harmless, logger
from exitfsm.policy import (
    AtrLevels,
    BreakEven,
    CustomRule,
    CustomRules,
    EndOfSession,
    ExitPolicy,
    LadderStep,
    OneRule,
    PartialFills,
    PriceGuard,
    ProfitTaking,
    StopLoss,
    Target,
    TargetLadder,
    Targets,
    Then,
    TimeLimit,
    TrailingStop,
)
from exitfsm.ports import (
    EXIT_WAITS,
    AssetRules,
    BarFeed,
    Broker,
    Capabilities,
    Clock,
    EventBus,
    IdMemory,
    Instrument,
    Session,
)
from exitfsm.position import (
    Action,
    Cancel,
    ExitOrder,
    LookUp,
    Position,
    ReadPosition,
    Submit,
    client_order_id,
    decide,
    evolve,
    owed,
    replay,
)
from exitfsm.values import (
    EXACT,
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
    canonical_symbol,
    decimal_of,
    exactly,
    plain,
    tradable,
    utc,
)

if TYPE_CHECKING:
    from exitfsm.audit import (
        Explanation,
        Verification,
        WhatIf,
        position_at,
    )
    from exitfsm.audit.explain import explain
    from exitfsm.audit.verify import verify
    from exitfsm.audit.whatif import whatif
    from exitfsm.bars import read_bars
    from exitfsm.clocks import ManualClock, SystemClock
    from exitfsm.config import ConfigWarning, ExitConfig, load_config
    from exitfsm.engine import Engine
    from exitfsm.manager import ExitManager, InProcessBus
    from exitfsm.simulate import SimulatedExit, SimulationResult, simulate
    from exitfsm.simulated import Act, SimulatedBroker
    from exitfsm.store import ExitStore

__version__ = "0.2.0"

#: What is loaded late, and from where.
_LAZY = {
    "Explanation": "exitfsm.audit",
    "Verification": "exitfsm.audit",
    "WhatIf": "exitfsm.audit",
    "explain": "exitfsm.audit",
    "position_at": "exitfsm.audit",
    "verify": "exitfsm.audit",
    "whatif": "exitfsm.audit",
    "read_bars": "exitfsm.bars",
    "ManualClock": "exitfsm.clocks",
    "SystemClock": "exitfsm.clocks",
    "ConfigWarning": "exitfsm.config",
    "ExitConfig": "exitfsm.config",
    "load_config": "exitfsm.config",
    "Engine": "exitfsm.engine",
    "ExitManager": "exitfsm.manager",
    "InProcessBus": "exitfsm.manager",
    "SimulatedExit": "exitfsm.simulate",
    "SimulationResult": "exitfsm.simulate",
    "simulate": "exitfsm.simulate",
    "Act": "exitfsm.simulated",
    "SimulatedBroker": "exitfsm.simulated",
    "ExitStore": "exitfsm.store",
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


def __dir__() -> list[str]:
    """Name what is loaded late, too."""
    return sorted({*globals(), *__all__})


class _Api(ModuleType):
    """This module, in which `simulate` is always the function, and never the module of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "simulate" and isinstance(value, ModuleType):
            value = value.simulate
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Api

__all__ = [
    "EXACT",
    "EXIT_WAITS",
    "TABLE",
    "Acknowledge",
    "Act",
    "Action",
    "Alarm",
    "AlarmAcknowledged",
    "AlarmRaised",
    "AssetRules",
    "AtrLevels",
    "Bar",
    "BarFeed",
    "BarSeen",
    "BreakEven",
    "BreakerClosed",
    "BreakerOpened",
    "Broker",
    "BrokerError",
    "BrokerPosition",
    "Cancel",
    "CancelRefused",
    "CancelRequested",
    "Capabilities",
    "ChangePolicy",
    "Clock",
    "CommandAnswered",
    "CommandGiven",
    "ConfigError",
    "ConfigWarning",
    "Contradiction",
    "CustomRule",
    "CustomRuleFunction",
    "CustomRules",
    "EndOfSession",
    "Engine",
    "EvaluateOn",
    "Event",
    "EventBus",
    "ExecutionReport",
    "ExitCompleted",
    "ExitConfig",
    "ExitEscalated",
    "ExitFsmError",
    "ExitManager",
    "ExitOrder",
    "ExitPolicy",
    "ExitPostponed",
    "ExitRetried",
    "ExitStatus",
    "ExitStore",
    "ExitTriggered",
    "ExitType",
    "ExitWithdrawn",
    "Explanation",
    "FeedError",
    "Fill",
    "FillsRecorded",
    "ForceExit",
    "GiveWay",
    "IdMemory",
    "Ignore",
    "IllegalTransition",
    "InProcessBus",
    "Instrument",
    "LadderStep",
    "LegCompleted",
    "LegWidened",
    "LookUp",
    "ManualClock",
    "Message",
    "MoveStop",
    "NotSent",
    "OneRule",
    "Open",
    "Order",
    "OrderAccepted",
    "OrderEnded",
    "OrderRefused",
    "OrderRestated",
    "OrderSide",
    "OrderStatus",
    "OrderType",
    "PartialFills",
    "PolicyChanged",
    "Position",
    "PositionClosedElsewhere",
    "PositionOpened",
    "PositionRead",
    "PositionReleased",
    "PositionResized",
    "PriceGuard",
    "ProfitTaking",
    "ProtectionLost",
    "RaiseAlarm",
    "RateLimited",
    "ReadPosition",
    "RecordRead",
    "Recorded",
    "Recover",
    "RefusalEnded",
    "Release",
    "Report",
    "Rescale",
    "ScopeChanged",
    "Session",
    "Side",
    "SimulatedBroker",
    "SimulatedExit",
    "SimulationResult",
    "State",
    "StopLoss",
    "StopMoved",
    "StoreError",
    "StoreLocked",
    "Submit",
    "SystemClock",
    "Target",
    "TargetLadder",
    "Targets",
    "Then",
    "TimeInForce",
    "TimeLimit",
    "TimeSeen",
    "TradingPaused",
    "TradingResumed",
    "TrailingStop",
    "TriggerRefused",
    "UnitChanged",
    "Verification",
    "VersionConflict",
    "WhatIf",
    "Withdraw",
    "__version__",
    "advance",
    "allows",
    "canonical_symbol",
    "client_order_id",
    "decide",
    "decimal_of",
    "evolve",
    "exactly",
    "explain",
    "harmless",
    "load_config",
    "logger",
    "mermaid",
    "owed",
    "plain",
    "position_at",
    "read_bars",
    "replay",
    "simulate",
    "tradable",
    "utc",
    "verify",
    "whatif",
]
