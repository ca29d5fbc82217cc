"""What the parts of a manager share. It is whole before the first of them is made, and nothing of it is exchanged."""

from __future__ import annotations

from dataclasses import dataclass

from exitfsm.aio.tasks import Tasks
from exitfsm.books import Books
from exitfsm.broker.breaker import Breaker
from exitfsm.broker.calls import BrokerCalls
from exitfsm.broker.hours import Hours
from exitfsm.broker.instruments import Instruments
from exitfsm.clocks import SteadyTime
from exitfsm.config import ExitConfig
from exitfsm.custom_rules import CustomRules
from exitfsm.engine import Engine
from exitfsm.manager.mailbox import Mailbox
from exitfsm.memory.memory import Memory
from exitfsm.others.alarms import Alarms, OnAlarm, OnEvent
from exitfsm.others.ground import Ground
from exitfsm.others.scope import Scoped
from exitfsm.others.settings import Settings
from exitfsm.ports import Clock
from exitfsm.position import Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the bot has given beside its broker, store and bus.

    `account` is the hash of its name; `time` outlives a stop, so that it does not go back with the next start.
    """

    config: ExitConfig
    account: str
    strategy_name: str
    clock: Clock
    time: SteadyTime
    rules: CustomRules | None
    on_event: OnEvent | None
    on_alarm: OnAlarm | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The ground that the parts stand on."""

    given: Given
    engine: Engine
    mailbox: Mailbox
    alarms: Alarms
    calls: BrokerCalls
    books: Books
    breaker: Breaker
    hours: Hours
    instruments: Instruments
    memory: Memory
    tasks: Tasks
    ground: Ground
    scoped: Scoped
    settings: Settings


class Part:
    """Has at hand what all parts use."""

    def __init__(self, context: Context) -> None:
        self._given, self._time, self._live = context.given, context.given.time, context.given.config.live
        self._engine, self._mailbox, self._alarms = context.engine, context.mailbox, context.alarms
        self._calls, self._books, self._hours = context.calls, context.books, context.hours
        self._breaker, self._tasks = context.breaker, context.tasks
        memory, self._seen, self._instruments = context.memory, context.memory.seen, context.instruments
        self._ground, self._scoped, self._settings = context.ground, context.scoped, context.settings
        self._orders, self._sends, self._shown, self._waits = memory.orders, memory.sends, memory.shown, memory.waits
        self._kept, self._jumps = memory.kept, memory.jumps


def in_order(engine: Engine) -> list[Position]:
    """All open positions, oldest first."""
    return sorted(engine.positions.values(), key=lambda p: (p.opened_at, p.position_id))
