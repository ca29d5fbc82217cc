"""`python -m exitfsm.testing.alpaca_server`: serve until interrupted, and say which variables lead a program here."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from random import Random

from exitfsm.testing.alpaca_server import AlpacaServer
from exitfsm.values import Bar


def main(argv: Sequence[str] | None = None) -> int:
    """Serve; with `--walk`, the prices of these symbols wander, one bar every `--every` seconds."""
    parser = argparse.ArgumentParser(prog="python -m exitfsm.testing.alpaca_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="any free one when 0")
    parser.add_argument(
        "--hold", action="append", default=[], metavar="SYMBOL:QTY:PRICE", help="a position to begin with"
    )
    parser.add_argument("--walk", action="append", default=[], metavar="SYMBOL:PRICE", help="a price that wanders")
    parser.add_argument("--every", type=float, default=1.0, metavar="SECONDS", help="time between bars")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same prices")
    args = parser.parse_args(argv)
    with AlpacaServer(port=args.port) as server:
        for symbol, qty, price in (item.rsplit(":", 2) for item in args.hold):
            server.hold(symbol, qty, price)
        for name, value in server.environment.items():
            print(f"export {name}={value}")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            _walk(server, [item.rsplit(":", 1) for item in args.walk], args.every, Random(args.seed))
    return 0


def _walk(server: AlpacaServer, symbols: Sequence[Sequence[str]], every_s: float, random: Random) -> None:
    prices = {symbol: Decimal(price) for symbol, price in symbols}
    if not prices:
        threading.Event().wait()
    while True:
        for symbol, before in prices.items():
            after = (before * Decimal(1 + random.gauss(0, 0.002))).quantize(Decimal("0.01"))
            high, low = max(before, after), min(before, after)
            server.bar(Bar(symbol, datetime.now(UTC), before, high, low, after, 100))
            prices[symbol] = after
        time.sleep(every_s)


if __name__ == "__main__":
    sys.exit(main())
