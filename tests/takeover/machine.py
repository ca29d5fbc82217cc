"""A machine of the bot: one process with a manager for each account, all of them standbys until they own their store.

Run as `machine.py PORT SOCKET LOG AFTER ACCOUNT…`: the port of its way to the server, the broker's socket, the file
that it writes what happens to (a line each, in one write: what is there was so when the process died), and how long an
owner may be silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from exitfsm import Bar, Session
from exitfsm.errors import BrokerError, StoreError
from exitfsm.events import Recorded
from exitfsm.manager import ExitManager
from exitfsm.ports import Capabilities
from exitfsm.position import Position
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, Order

BARS_S = 0.25


def asked(path: str, account: str, method: str, *args: Any) -> Any:
    """A question to the desk, on a connection of its own."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(5)
        wire.connect(path)
        wire.sendall(pickle.dumps((account, method, args)))
        wire.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    value, error = pickle.loads(answer)
    if error is not None:
        raise error
    return value


class Remote:
    """The broker port over the socket, with plain methods."""

    def __init__(self, path: str, account: str) -> None:
        self._path, self._account = path, account
        self.capabilities: Capabilities = self._asked("capabilities")

    def _asked(self, method: str, *args: Any) -> Any:
        return asked(self._path, self._account, method, *args)

    def positions(self) -> Sequence[BrokerPosition]:
        return self._asked("positions")

    def submit(self, order: Order) -> ExecutionReport:
        return self._asked("submit", order)

    def order(self, client_order_id: str) -> ExecutionReport | None:
        return self._asked("order", client_order_id)

    def open_orders(self) -> Sequence[ExecutionReport]:
        return self._asked("open_orders")

    def cancel(self, client_order_id: str) -> None:
        self._asked("cancel", client_order_id)

    def fills(self, since: datetime) -> Sequence[Fill]:
        return self._asked("fills", since)

    def session(self, symbol: str, at: datetime) -> Session:
        return self._asked("session", symbol, at)

    def prices(self) -> dict[str, Decimal]:
        return self._asked("prices")


class Machine:
    """What it does, and what it writes down."""

    def __init__(self, port: str, desk: str, log: str, after: str) -> None:
        self._url = f"postgresql://postgres@127.0.0.1:{port}/postgres?connect_timeout=2"
        self._desk, self._after = desk, after
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._stop = asyncio.Event()

    def say(self, what: str, account: str = "", **more: Any) -> None:
        """One line."""
        os.write(self._log, (json.dumps({"is": what, "account": account, "at": time.time(), **more}) + "\n").encode())

    async def run(self, accounts: Sequence[str]) -> None:
        """Until it is told to stop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop.set)
        await asyncio.gather(*(self._account(account) for account in accounts))
        self.say("stopped")

    async def _account(self, account: str) -> None:
        while not self._stop.is_set():
            try:
                await self._life(account)
            except (StoreError, BrokerError) as error:
                self.say("failed", account, why=str(error))
                await asyncio.sleep(0.5)

    async def _life(self, account: str) -> None:
        """One manager, from the moment it waits until it has lost its store or is stopped."""
        broker = Remote(self._desk, account)

        def durable(_: Position | None, recorded: Recorded) -> None:
            event = type(recorded.event).__name__
            self.say("durable", account, stream=recorded.stream_id, version=recorded.version, event=event)

        manager = ExitManager(
            broker,
            self._url,
            config={
                "exit_cooldown_seconds": 0,
                "live": {"sync_seconds": 1, "poll_seconds": 1, "takeover_after_seconds": self._after},
            },
            account=account,
            on_event=durable,
            on_alarm=lambda alarm: self.say("alarm", account, kind=alarm.kind, text=alarm.text),
            standby=True,
        )
        self.say("waits", account)
        starting, stopped = asyncio.create_task(manager.start()), asyncio.create_task(self._stop.wait())
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            await manager.stop()
            await asyncio.gather(starting, return_exceptions=True)
            return
        stopped.cancel()
        await starting
        self.say("owner", account)
        while manager.lost_to is None and not self._stop.is_set():
            with contextlib.suppress(StoreError, BrokerError):
                now, prices = datetime.now(UTC), await asyncio.to_thread(broker.prices)
                await manager.on_bars([Bar(symbol, now, *[price] * 4) for symbol, price in prices.items()])
            await asyncio.sleep(BARS_S)
        if manager.lost_to is not None:
            self.say("lost", account, to=manager.lost_to)
        await manager.stop()


def main() -> None:
    """Run it."""
    port, desk, log, after, *accounts = sys.argv[1:]
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")

    async def run() -> None:
        await Machine(port, desk, log, after).run(accounts)

    asyncio.run(run())


if __name__ == "__main__":
    main()
