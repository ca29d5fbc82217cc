"""For tests of bots: a broker double whose books are true and whose answers are scripted.

`ScriptedBroker` stands in for a broker in a test of a bot, of an adapter, or of this library itself. It holds orders,
executions and positions truthfully, does what the test says (the venue fills, rejects, expires, busts; a person trades
by hand; an answer is lost, late or stale), records every call, and refuses by itself what must never happen: two live
exit orders in a symbol, more sold than is held, two orders under one id.

Beside it: `conformance` (what every adapter must pass), `strategies` (bars and faults for hypothesis), `given` (given,
when, then), `machine` (everything that can happen to a manager, in any order), `alpaca_server`, and `plugin` (fixtures
for pytest).

Nothing that runs in production imports this package.
"""

from typing import TYPE_CHECKING, Any

from exitfsm.testing.books import Books
from exitfsm.testing.scripted import Answer, Call, Hang, LostReply, Meanwhile, Plain, Raises, Returns, ScriptedBroker

if TYPE_CHECKING:
    from exitfsm.testing.alpaca_server import AlpacaServer
    from exitfsm.testing.conformance import Bench, BrokerConformance
    from exitfsm.testing.machine import ManagerMachine

#: What needs pytest, hypothesis or aiohttp, and from where it is loaded when it is asked for.
_LAZY = {
    "AlpacaServer": "exitfsm.testing.alpaca_server",
    "Bench": "exitfsm.testing.conformance",
    "BrokerConformance": "exitfsm.testing.conformance",
    "ManagerMachine": "exitfsm.testing.machine",
}


def __getattr__(name: str) -> Any:
    """Load what needs more than the library itself."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'exitfsm.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)


__all__ = [
    "AlpacaServer",
    "Answer",
    "Bench",
    "Books",
    "BrokerConformance",
    "Call",
    "Hang",
    "LostReply",
    "ManagerMachine",
    "Meanwhile",
    "Plain",
    "Raises",
    "Returns",
    "ScriptedBroker",
]
