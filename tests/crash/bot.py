"""The bot's process: a real manager on a real file, whose broker and script are in another process.

Run as a program it waits for lines of JSON and forks a bot for each, warm, before there is any thread or store:
`{"wire": path of the socket, "path": folder of the store, "config": {…}}`. It answers with the process id. The bot says
nothing and does nothing until it is told to begin, so that a tracer can get hold of it first.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness import GOOD, World
from wire import LENGTH_MAX, Answer, Ask, Durable, Next, Over, hear, tell

from exitfsm import Session, StoreError, load_config
from exitfsm.ports import Capabilities, Clock
from exitfsm.values import BrokerPosition, ExecutionReport, Fill, Order

#: Words in the log that only a defect writes, whatever fails underneath.
CRASHES = ("owed_crashed", "tick_crashed", "after_group_crashed", "task_failed", "callback_failed")


class Remote:
    """The broker port over the wire. A fault on the wire is an answer that did not come."""

    def __init__(self, wire: socket.socket, clock: Clock, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._wire, self._clock, self._number = wire, clock, 0

    def _asked(self, method: str, *args: Any) -> Any:
        self._number += 1
        self._wire.sendmsg([pickle.dumps(Ask(self._number, self._clock.now(), method, args))])
        while True:
            answer: Answer = pickle.loads(self._wire.recvmsg(LENGTH_MAX)[0])
            if answer.number == self._number:
                break
        if answer.error is not None:
            raise answer.error
        return answer.value

    async def positions(self) -> Sequence[BrokerPosition]:
        return self._asked("positions")

    async def submit(self, order: Order) -> ExecutionReport:
        return self._asked("submit", order)

    async def order(self, client_order_id: str) -> ExecutionReport | None:
        return self._asked("order", client_order_id)

    async def open_orders(self) -> Sequence[ExecutionReport]:
        return self._asked("open_orders")

    async def cancel(self, client_order_id: str) -> None:
        self._asked("cancel", client_order_id)

    async def fills(self, since: datetime) -> Sequence[Fill]:
        return self._asked("fills", since)

    async def session(self, symbol: str, at: datetime) -> Session:
        return self._asked("session", symbol, at)


async def live(wire: socket.socket, path: Path, config: dict[str, Any]) -> Over:
    """One life: whatever the script says, until it says nothing more."""
    world = World(path, config, on_event=lambda _, r: tell(wire, Durable(r.stream_id, r.version, r.event)))
    world.seen_by_manager = Remote(wire, world.clock, GOOD)
    world.manager = world._new_manager()
    try:
        await world.start()
    except StoreError as error:
        return Over([], [], str(error))
    while True:
        tell(wire, Next())
        step = hear(wire)
        if step is None:
            break
        world.clock.move_to(step.now)
        await world.settle()
        for update in step.news:
            await world.manager.on_order_update(update)
            await world.settle()
        await world.manager.on_bar(world.make_bar(step.price))
        await world.passes(4, step=2)
    await world.stop()
    crashed = [line for line in world.heard.lines if any(word in line for word in CRASHES)]
    return Over([alarm.kind for alarm in world.alarms], crashed, "")


def run(order: dict[str, Any]) -> None:
    """In the forked process, from which nothing returns."""
    code = 1
    try:
        wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wire.connect(order["wire"])
        hear(wire)  # begin
        tell(wire, asyncio.run(live(wire, Path(order["path"]), order["config"])))
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Fork bots on demand, until nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    load_config({})  # what is imported late is imported now
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
