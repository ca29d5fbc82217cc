"""Crash points for real: a bot's process on a real file dies, or fails, at every write, every sync and every send.

The broker lives on in this process; after the fault a new manager opens what the old one left and carries on. Nothing
that was acknowledged may be lost, no order may be sent that was not on disk before, and the exit ends with exactly the
orders it takes. This proves the store against the death of a process and against calls that fail; the page cache
survives both, so it says nothing about the loss of power.

The suite takes a slice of the points; `EXITFSM_DEEP=1 pytest tests/crash` takes them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

import pytest
from harness import World, executed
from lives import LIVES, Life
from tracing import CALLS, SYNCS, TALK, WRITES, Point, Tracer, why_not
from wire import Answer, Ask, Durable, Next, Over, Step, hear, tell

from exitfsm import ExitStore
from exitfsm.events import Event

DEEP = bool(os.environ.get("EXITFSM_DEEP"))
#: Points of one life that the suite tries, out of all; together with the lives that is a few seconds.
SLICE = 5
STEPS_MAX = 60
#: Alarms that a fault may leave behind, each of which tells a person the truth.
FAIR = {"store_unwritable", "exit_stalled"}

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(0 if DEEP else 300),
]


class Zygote:
    """A process with everything imported that becomes a bot in a moment."""

    def __init__(self) -> None:
        program, harness = Path(__file__).with_name("bot.py"), Path(__file__).parent.parent / "manager"
        self._process = subprocess.Popen(
            [sys.executable, program],
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(harness), os.environ.get("PYTHONPATH", "")))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fork(self, wire: Path, world: World) -> int:
        """A new bot, which waits; its process id."""
        order = {"wire": str(wire), "path": str(world.path), "config": world.config}
        _pipe(self._process.stdin).write(json.dumps(order) + "\n")
        _pipe(self._process.stdin).flush()
        return int(_pipe(self._process.stdout).readline())

    def close(self) -> None:
        """No more bots."""
        _pipe(self._process.stdin).close()
        self._process.wait(60)
        _pipe(self._process.stdout).close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


class Venue:
    """What outlives the bot: the broker, the script, and everything that the bot was promised."""

    def __init__(self, world: World, life: Life) -> None:
        self.world, self.life = world, life
        self.step = 0
        self.disk_failed = False
        self.durable: dict[tuple[str, int], Event] = {}
        self.over: Over | None = None

    def moves_on(self) -> Step:
        """The next step of the script."""
        self.life.market(self.world.broker)
        news, self.world.broker.updates = self.world.broker.updates, []
        price = self.life.prices[min(self.step, len(self.life.prices) - 1)]
        self.world.broker.price("AAPL", str(price))
        self.world.clock.move(1)
        self.step += 1
        return Step(self.world.clock.now(), news, price)

    @property
    def is_flat(self) -> bool:
        return self.step > len(self.life.prices) + 4 and self.world.broker.held("AAPL") == 0

    def serve(self, wire: socket.socket, steps: int = STEPS_MAX) -> None:
        """Answer the bot until it is gone, or the script is over."""
        tell(wire, "begin")
        until = self.step + steps
        while (message := hear(wire)) is not None:
            match message:
                case Ask():
                    self.world.clock.move_to(message.now)
                    with suppress(BrokenPipeError):
                        wire.send(self._answer(message))
                case Next():
                    if self.is_flat or self.step >= until:
                        wire.shutdown(socket.SHUT_WR)
                    else:
                        with suppress(BrokenPipeError):
                            tell(wire, self.moves_on())
                case Durable():
                    self.durable[message.stream_id, message.version] = message.event
                case Over():
                    self.over = message

    def _answer(self, ask: Ask) -> bytes:
        if ask.method == "submit":
            self._is_on_disk(ask.args[0].client_order_id)
        try:
            return pickle.dumps(Answer(ask.number, self.world.broker.asked_plainly(ask.method, *ask.args), None))
        except Exception as error:
            return pickle.dumps(Answer(ask.number, None, error))

    def _is_on_disk(self, client_order_id: str) -> None:
        """The intent is in the file before a byte of the order leaves."""
        with ExitStore(self.world.store_path, read_only=True) as store:
            row = store.exit_order(client_order_id)
        assert row is not None, f"{client_order_id} was sent, and is not in the store"


async def prepared(path: Path, life: Life) -> Venue:
    """The world at the moment at which the life begins."""
    world = World(path, life.config)
    world.broker.cancels = "pending"
    world.broker.enter("AAPL", "long", 10, 100)
    venue = Venue(world, life)
    if life.made:
        ExitStore(world.store_path).close()
    if life.before:
        await world.start()
        for _ in range(life.before):
            await one_step(venue)
        await world.bury()
        world.manager = world._new_manager()
    return venue


async def one_step(venue: Venue) -> None:
    """The same step for a manager in this process."""
    world, step = venue.world, venue.moves_on()
    await world.settle()
    for update in step.news:
        await world.manager.on_order_update(update)
        await world.settle()
    await world.manager.on_bar(world.make_bar(step.price))
    await world.passes(4, step=2)


async def lived(zygote: Zygote, path: Path, life: Life, point: Point | None) -> tuple[Venue, Tracer]:
    """A life in a process of its own, with a fault at one point; it ends there, or in good order."""
    venue = await prepared(path, life)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as listening:
        listening.bind(str(path / "wire"))
        listening.listen()
        pid = zygote.fork(path / "wire", venue.world)
        wire, _ = listening.accept()
    with closing(wire):
        wire.settimeout(60)
        tracer = Tracer(pid, path / "strace", point)
        try:
            venue.serve(wire)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            tracer.close()
    return venue, tracer


async def recovered(venue: Venue) -> None:
    """A new process finds what the old one left, and carries on until the position is over."""
    world = venue.world
    world.heard.lines.clear()
    await world.start()
    for _ in range(STEPS_MAX):
        ended = world.ended()
        if ended and not world.manager.positions():
            break
        await one_step(venue)
    assert [p.state for p in world.ended()] == ["filled"], world.story()
    sent = [order.client_order_id[-2:] for order in world.orders]
    assert sent == ["01", "02"][: venue.life.orders] or (venue.disk_failed and sent == ["01"])
    assert executed(world.broker, "AAPL", "sell") == 10
    for (stream, version), event in venue.durable.items():
        recorded = world.manager.store.stream(stream, version - 1)
        assert recorded, f"{type(event).__name__}, version {version} of {stream}, was acknowledged and is lost"
        assert recorded[0].event == event
    with closing(sqlite3.connect(world.store_path)) as c:
        assert c.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    await world.finish()


async def survives(zygote: Zygote, path: Path, life: Life, point: Point) -> Venue:
    """One point: the fault, and the recovery from it."""
    path.mkdir()
    venue, tracer = await lived(zygote, path, life, point)
    try:
        venue.disk_failed = point.on
        if point.what == "kill":
            # Threads meet a little differently each time: the last call of a kind may not be made.
            assert venue.over is None or tracer.counts()[point.call] < point.n, "the process was not killed"
        else:
            assert venue.over is not None, "the process died of it"
            assert not venue.over.defects, venue.over.defects
        await recovered(venue)
        alarms = set(venue.world.alarm_kinds) | set(venue.over.alarms if venue.over is not None else ())
        assert alarms <= FAIR, alarms
    except BaseException as error:
        raise AssertionError(f"{point}: {error}") from error
    return venue


def points(counts: Counter[str]) -> list[Point]:
    """Every fault of a life that made so many calls: death at each, and an error at each that can fail."""
    found = [Point(call, n, "kill") for call in CALLS for n in range(1, counts[call] + 1)]
    for call in (*WRITES, *SYNCS):
        for n in range(1, counts[call] + 1):
            found += [Point(call, n, "EIO"), Point(call, n, "ENOSPC"), Point(call, n, "ENOSPC", on=True)]
    for call in TALK:
        found += [Point(call, n, "ECONNRESET") for n in range(1, counts[call] + 1)]
    return found


def chosen(all_points: list[Point], name: str) -> list[Point]:
    """All of them, or the few that the suite has time for: spread over all, others for each life."""
    if DEEP:
        return all_points
    stride = len(all_points) // SLICE
    return all_points[list(LIVES).index(name) * stride // len(LIVES) :: stride][:SLICE]


@pytest.mark.parametrize("name", LIVES)
def test_given_a_fault_at_any_write_sync_or_send_then_nothing_is_lost_and_nothing_is_sent_twice(
    tmp_path: Path, zygote: Zygote, name: str
) -> None:
    life = LIVES[name]
    (tmp_path / "untouched").mkdir()
    counts = asyncio.run(untouched(zygote, tmp_path / "untouched", life))
    assert counts["fdatasync"] >= 8
    assert counts["sendmsg"] >= 10
    failed = []
    for number, point in enumerate(chosen(points(counts), name)):
        path = tmp_path / str(number)
        try:
            asyncio.run(survives(zygote, path, life, point))
        except AssertionError as error:
            failed.append(str(error))
        shutil.rmtree(path)
    assert not failed, "\n\n".join([f"{len(failed)} points", *failed])


async def untouched(zygote: Zygote, path: Path, life: Life) -> Counter[str]:
    """A life in which nothing fails: the calls it makes."""
    venue, tracer = await lived(zygote, path, life, None)
    assert venue.over == Over([], [], "")
    await recovered(venue)
    return tracer.counts()
