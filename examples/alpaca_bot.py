"""A minimal bot on Alpaca: it buys with alpaca-py as it always did, and `ExitManager` gets it out again.

Try it without an account:   python examples/alpaca_bot.py --demo
On a paper account:          APCA_API_KEY_ID=… APCA_API_SECRET_KEY=… python examples/alpaca_bot.py SPY

The demo runs against the local Alpaca server, with made-up prices; the bot is the same. The lines marked (exits) are
all that a bot needs.
"""

import argparse
import asyncio
import math
import os
import signal
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from exitfsm_alpaca import Access, AlpacaBars, AlpacaBroker, AlpacaUpdates

from exitfsm import Bar, ExitManager, ExitStore, Position, Recorded

if TYPE_CHECKING:
    from alpaca.trading.client import TradingClient

    from exitfsm.testing.alpaca_server import AlpacaServer

CONFIG = {
    "profit_taking": {"threshold_pct": 2.0},
    "stop_loss": {"threshold_pct": 1.0},
    "exit_cooldown_seconds": 300,
    "live": {"entry_id_prefix": "bot-"},  # an entry of ours that still rests is canceled before an exit
}


class Bot:
    """Buys ten shares whenever a close is above the one before it and nothing is held."""

    def __init__(self, client: "TradingClient", manager: ExitManager) -> None:
        self.client, self.manager = client, manager
        self.before: Bar | None = None
        self.orders = 0

    async def on_bar(self, bar: Bar) -> None:
        rises = self.before is not None and bar.close > self.before.close
        self.before = bar
        may = rises and self.manager.may_enter(bar.symbol)  # (exits) the risk check
        if may and await asyncio.to_thread(self.is_free, bar.symbol):
            await asyncio.to_thread(self.buy, bar.symbol)

    def is_free(self, symbol: str) -> bool:
        """True when nothing is held and no order works. Orders first: one that fills meanwhile is a position then."""
        from alpaca.trading.requests import GetOrdersRequest

        orders = self.client.get_orders(GetOrdersRequest(symbols=[symbol]))  # the open ones
        held = self.client.get_all_positions()
        return not orders and all(getattr(position, "symbol", None) != symbol for position in held)

    def buy(self, symbol: str) -> None:
        from alpaca.trading.enums import OrderSide, TimeInForce
        from alpaca.trading.requests import MarketOrderRequest

        self.orders += 1
        name = f"bot-{datetime.now(UTC):%Y%m%d%H%M%S}-{self.orders}"
        self.client.submit_order(
            MarketOrderRequest(
                symbol=symbol, qty=10, side=OrderSide.BUY, time_in_force=TimeInForce.DAY, client_order_id=name
            )
        )
        print(f"buy   10 {symbol}")


async def run(access: Access, symbol: str, store: str, stop: asyncio.Event) -> None:
    from alpaca.trading.client import TradingClient

    broker = AlpacaBroker(access)  # (exits)
    account = await asyncio.to_thread(broker.account_name)  # (exits) a store belongs to one account
    manager = ExitManager(broker, store, None, CONFIG, "example", account=account, on_event=tell)  # (exits)
    updates = AlpacaUpdates(access, broker, manager.on_order_update, manager.sync)  # (exits)
    bot = Bot(TradingClient(access.key_id, access.secret_key, url_override=access.base_url), manager)
    async with manager, updates, AlpacaBars(access, noticed=broker.noticed) as bars:  # (exits)
        bars.watch([symbol])
        feeding = asyncio.create_task(feed(bars, manager, bot))
        await stop.wait()
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    broker.close()


async def feed(bars: AlpacaBars, manager: ExitManager, bot: Bot) -> None:
    async for batch in bars.batches():
        await manager.on_bars(batch)  # (exits)
        for bar in batch:
            await bot.on_bar(bar)


def tell(position: Position | None, recorded: Recorded) -> None:
    """One line for each step of each exit."""
    if position is not None:
        print(f"      {type(recorded.event).__name__:<18} {position.symbol} {position.state}")


async def demo() -> None:
    """The same bot on the local server: a price that goes up and down."""
    from exitfsm.testing.alpaca_server import AlpacaServer

    store = str(Path(tempfile.mkdtemp()) / "exits.db")
    stop = asyncio.Event()
    with AlpacaServer() as server:
        bot = asyncio.create_task(run(Access.from_environment(server.environment), "ACME", store, stop))
        await play(server, bot)
        stop.set()
        await bot
    with ExitStore(store, read_only=True) as exits:
        for p in exits.positions():
            print(f"{p.symbol}: {p.qty} from {p.entry_price} to {p.avg_exit_price}, {p.exit_reason}")
    print(f"every step: exitfsm history {store}")


async def play(server: "AlpacaServer", bot: "asyncio.Task[None]") -> None:
    """Bars, faster than in life, until the position has come and gone."""
    for minute in range(400):
        price = round(100 + 3 * math.sin(minute / 6), 2)
        if server.stocks.subscribed:
            await asyncio.to_thread(server.bar, Bar("ACME", datetime.now(UTC), price, price, price, price))
        await asyncio.sleep(0.03)
        sold = [o for o in server.orders() if o["side"] == "sell" and o["status"] == "filled"]
        if bot.done() or sold:
            await asyncio.sleep(0.3)
            return


async def main(symbol: str, store: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # a system without them stops by KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(Access.from_environment(os.environ), symbol, store, stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("symbol", nargs="?", default="SPY")
    parser.add_argument("--store", default="exits.db")
    parser.add_argument("--demo", action="store_true")
    given = parser.parse_args()
    sys.exit(asyncio.run(demo() if given.demo else main(given.symbol, given.store)))
