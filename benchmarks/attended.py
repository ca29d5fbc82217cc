"""What it costs a decision that somebody looks: a client on the socket and a scraper of the metrics, against nobody.

Two managers in one process, each on a store of its own, decide in turns, twenty and twenty. While the one with the
socket and the metrics does, a second process asks what stands, twice a second by the socket (as `flatten` looks at its
fastest), and for its figures once a second by HTTP; while the other does, that process is stopped. A decision is from
the bar to the order that is handed to the broker, its intent synced. On a machine with other work only the processor's
time says something.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from durable import Desk, bar, open_positions
from lives import T0, place
from side_by_side import Table, main

from exitfsm.clocks import ManualClock
from exitfsm.control import serve
from exitfsm.manager import ExitManager
from exitfsm.metrics import Metrics
from exitfsm.store import ExitStore

#: So many decisions of each, so many in a row.
DECISIONS, IN_A_ROW = 400, 20
CLIENT = """
import sys, time, urllib.request
from exitfsm.control import connect
control, number = connect(sys.argv[1]), 0
print("ready", flush=True)
while True:
    assert control.standing().data["positions"] is not None
    if number % 2 == 0:
        urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[2]}/metrics", timeout=5).read()
    number += 1
    print(number, flush=True)
    time.sleep(0.5)
"""


async def decided(manager: ExitManager, desk: Desk, number: int) -> tuple[float, float]:
    """Seconds from a bar to its order, on the wall and of the processor; what the broker answers is not part of it."""
    the_bar = bar(number, manager._given.clock.now())
    desk.at.clear()
    worked, begun = time.process_time(), time.perf_counter()
    await manager.on_bar(the_bar)
    await desk.at.wait()
    taken = desk.handed[the_bar.symbol] - begun, time.process_time() - worked
    while tasks := manager._parts.executor.workers.tasks:
        await asyncio.wait(tasks)
    return taken


def store_with(path: Path) -> Path:
    """A store that watches as many positions as are decided on."""
    with ExitStore(path) as store:
        open_positions(store, DECISIONS)
    return path


Taken = list[tuple[float, float]]


async def both(folder: Path) -> tuple[Taken, Taken, int]:
    """Seconds of each decision, with nobody and with both; and how often the client was answered."""
    desks = [Desk(DECISIONS, guards=False), Desk(DECISIONS, guards=False)]
    no_budget = {"live": {"orders_per_minute": 100_000}}  # its clock stands still
    metrics, clock = Metrics(), ManualClock(T0.replace(minute=31))
    alone = ExitManager(desks[0], store_with(folder / "alone.db"), config=no_budget, clock=clock)
    seen = ExitManager(
        metrics.metered(desks[1]), store_with(folder / "seen.db"), config=no_budget, clock=clock,
        on_event=metrics.on_event,
    )  # fmt: skip
    took: tuple[Taken, Taken] = ([], [])
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(alone)
        await stack.enter_async_context(seen)
        await stack.enter_async_context(serve(seen))
        port = stack.enter_context(metrics.serve(seen, 0))
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(folder / "seen.db"), str(port)], stdout=subprocess.PIPE
        )
        assert client.stdout is not None
        try:
            os.set_blocking(client.stdout.fileno(), False)
            while b"ready" not in (client.stdout.read() or b""):
                await asyncio.sleep(0.05)
            answers = b""
            for begin in range(0, DECISIONS, IN_A_ROW):
                for way in (0, 1) if begin // IN_A_ROW % 2 else (1, 0):
                    manager = (alone, seen)[way]
                    os.kill(client.pid, signal.SIGCONT if way else signal.SIGSTOP)
                    await manager._parts.context.mailbox.run(manager.store.settle)
                    await asyncio.sleep(0.15)  # the client is at work, or at rest
                    took[way].extend([await decided(manager, desks[way], begin + n) for n in range(IN_A_ROW)])
                    answers += client.stdout.read() or b""
        finally:
            os.kill(client.pid, signal.SIGCONT)
            client.kill()
            client.wait()
            client.stdout.close()
    return *took, answers.count(b"\n")


def measure(table: Table) -> None:
    """Fill the table."""
    place().mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place()) as folder:
        alone, seen, answers = asyncio.run(both(Path(folder)))
    what = "a decision with a client and a scraper, of one with nobody"
    for number, of in enumerate(("on the wall", "of the processor")):
        for name, part, goal in (("p50", 0.5, 1.05), ("p99", 0.99, None)):
            ours, bare = (sorted(one[number] for one in took)[int(len(took) * part)] for took in (seen, alone))
            said = f"{ours * 1e6:,.0f} µs against {bare * 1e6:,.0f} µs, {len(seen)} decisions, {answers} answers"
            table.figure(f"{what}, {of}, {name}", ours / bare, "×", at_most=goal, measured=said)


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure))
