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

from exitfsm.testing.books import Books
from exitfsm.testing.scripted import Answer, Call, Hang, LostReply, Meanwhile, Plain, Raises, Returns, ScriptedBroker

__all__ = ["Answer", "Books", "Call", "Hang", "LostReply", "Meanwhile", "Plain", "Raises", "Returns", "ScriptedBroker"]
