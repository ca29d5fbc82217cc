"""A local server that speaks Alpaca: REST, trade updates and market data on one port of 127.0.0.1.

    with AlpacaServer() as server:
        client = TradingClient(server.key, server.secret, url_override=server.url)

The venue behind it is `SimulatedBroker`, so it fills, part-fills, cancels and expires as told, and it can break in
every way that was seen of the real one: `fail(Fault(...))` for REST, the attributes of `updates`, `stocks` and `crypto`
for the sockets. There are no bracket or OCO orders: this library sends none.

It is written from the documentation and from recorded answers, and proves what a client does with such answers. It
cannot prove what Alpaca does: the conformance suite on a paper account is for that.

    python -m exitfsm.testing.alpaca_server --port 8000

needs the extra `testing`.
"""

from exitfsm.testing.alpaca_server.account import Account
from exitfsm.testing.alpaca_server.faults import Fault
from exitfsm.testing.alpaca_server.orders import Refusal
from exitfsm.testing.alpaca_server.server import KEY, SECRET, AlpacaServer
from exitfsm.testing.alpaca_server.words import Hours

__all__ = ["KEY", "SECRET", "Account", "AlpacaServer", "Fault", "Hours", "Refusal"]
