"""What a durable decision costs: bar in → the order is handed to the broker with its intent synced.

Held against a bare sqlite3 commit (WAL, synchronous=FULL, all else as sqlite3 comes) of the same rows into the same
tables, in the same run: each decision is followed by its bare twin, on a file of its own beside it. In between the
store rests, as the manager lets it each second; a decision never comes in that moment here.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import durable_postgres
from lives import T0, place, raw
from side_by_side import Table, main

from exitfsm.clocks import ManualClock
from exitfsm.committing import Listener
from exitfsm.engine import Engine
from exitfsm.events import Recorded
from exitfsm.manager import ExitManager
from exitfsm.messages import Open
from exitfsm.policy import ExitPolicy
from exitfsm.ports import Capabilities, Session
from exitfsm.position import Submit, account_hash
from exitfsm.store import ExitStore
from exitfsm.store.database import ChainRow, EventRow, Write
from exitfsm.values import Bar, BrokerPosition, ExecutionReport, Fill, Order, OrderStatus, Side

ENTRY = Decimal("100.25")
#: So many decisions lie between two rests of the store, and so much is measured.
_REST = 50
DECISIONS = 300
AT_ONCE = ((10, 1.8), (100, 7.0), (1000, 45.0))

Rows = list[tuple[str, list[tuple[Any, ...]]]]


def symbol(number: int) -> str:
    """The symbol of a position."""
    return f"S{number:05d}"


def bar(number: int, at: datetime) -> Bar:
    """A bar that breaches the stop; the higher the number, the deeper."""
    price = Decimal(98) - Decimal(number) / 1000
    return Bar(symbol(number), at, price, price, price, price, 100)


def _kept_in(commits: list[Recorded]) -> Listener:
    return lambda _, recorded: commits.extend(recorded)


def open_positions(store: ExitStore, count: int, listener: Listener | None = None) -> Engine:
    """An engine that watches so many positions, each in a symbol of its own."""
    engine = Engine(store, listener=listener)
    with store.bulk():
        for number in range(count):
            message = Open(
                at=T0,
                account=account_hash("default"),
                symbol=symbol(number),
                side=Side.LONG,
                epoch="20240102T143000Z",
                qty=Decimal(10),
                entry_price=ENTRY,
                opened_at=T0,
                policy=ExitPolicy(),
                strategy_name="sma-crossover",
            )
            engine.open(message, reference=ENTRY)
    return engine


def rows_of(decide: Callable[[Engine], object], count: int) -> list[Rows]:
    """What each commit of a run writes, as SQL with its parameters: the same work as anybody would do it by hand."""
    commits: list[Rows] = []
    with ExitStore(":memory:") as store:
        engine = open_positions(store, count)
        db = store._open_db()
        insert = db.insert

        def note(events: Sequence[EventRow], chain: Sequence[ChainRow], writes: Iterable[Write]) -> None:
            writes = list(writes)
            commits.append(
                [
                    ("INSERT INTO stored_events VALUES (?, ?, ?, ?, ?)", list(events)),
                    ("INSERT INTO chain VALUES (?, ?)", list(chain)),
                    *((sql, list(params)) for sql, params in writes),
                ]
            )
            insert(events, chain, writes)

        db.insert = note  # type: ignore[method-assign]  # to look on
        decide(engine)
    return commits


class Bare:
    """The bare twin of a store: the same tables with the same rows in them."""

    def __init__(self, path: Path, count: int) -> None:
        with ExitStore(path) as store:
            open_positions(store, count)
        self._db = raw(path)

    def commit(self, rows: Rows) -> float:
        """One commit; returns its seconds."""
        begun = time.perf_counter()
        self._db.execute("BEGIN IMMEDIATE")
        for sql, params in rows:
            self._db.executemany(sql, params)
        self._db.execute("COMMIT")
        return time.perf_counter() - begun

    def close(self) -> None:
        """Close the file."""
        self._db.close()


class Taken(NamedTuple):
    """Seconds of each decision, and of its bare twin."""

    ours: list[float]
    bare: list[float]

    def add_to(self, table: Table, what: str, p50: float, p99: float) -> None:
        """The rows of the table."""
        for name, part, goal in (("p50", 0.5, p50), ("p99", 0.99, p99)):
            ours, bare = (sorted(taken)[int(len(taken) * part)] * 1e6 for taken in self)
            measured = f"{ours:,.0f} µs against {bare:,.0f} µs, {len(self.ours)} decisions"
            table.figure(f"{what}, {name}", ours / bare, "×", at_most=goal, measured=measured)


def direct(folder: Path, count: int = DECISIONS) -> Taken:
    """The synchronous engine on the store, called directly."""
    at = T0 + timedelta(minutes=1)

    def all_of(engine: Engine) -> None:
        for number in range(count):
            engine.on_bar(bar(number, at))

    rows = rows_of(all_of, count)
    taken = Taken([], [])
    bare = Bare(folder / "bare.db", count)
    with ExitStore(folder / "ours.db") as store:
        engine = open_positions(store, count)
        sent: list[Order] = []
        for number in range(count):
            if number % _REST == 0:
                store.settle()
            the_bar = bar(number, at)

            def decide(the_bar: Bar = the_bar) -> float:
                begun = time.perf_counter()
                for action in engine.on_bar(the_bar):
                    if isinstance(action, Submit):
                        sent.append(action.order)
                return time.perf_counter() - begun

            for way in (0, 1) if number % 2 else (1, 0):  # now this first, now that
                if way:
                    taken.ours.append(decide())
                else:
                    taken.bare.append(bare.commit(rows[number]))
        assert len(sent) == count
        assert store.verify_chain() is None
    bare.close()
    return taken


class Desk:
    """A broker that notes when an order was handed to it, and takes it.

    Args:
        guards: it refuses to sell what is not held, so that nobody has to look before an order is sent.
    """

    def __init__(self, count: int, *, guards: bool) -> None:
        self.capabilities = Capabilities(queues_orders=True, reduce_only=guards)
        self.handed: dict[str, float] = {}
        self.at = asyncio.Event()
        self._known: dict[str, ExecutionReport] = {}
        self._held = [
            BrokerPosition(symbol=symbol(n), side=Side.LONG, qty=Decimal(10), avg_entry_price=ENTRY)
            for n in range(count)
        ]

    async def submit(self, order: Order) -> ExecutionReport:
        """Note the time."""
        self.handed[order.symbol] = time.perf_counter()
        self.at.set()
        report = self._known[order.client_order_id] = ExecutionReport(
            client_order_id=order.client_order_id,
            status=OrderStatus.NEW,
            at=T0 + timedelta(minutes=1),
            filled_qty=Decimal(0),
            broker_order_id=f"b-{order.client_order_id}",
        )
        return report

    async def positions(self) -> list[BrokerPosition]:
        """All that were there at the start."""
        return self._held

    async def order(self, client_order_id: str) -> ExecutionReport | None:
        """What was taken."""
        return self._known.get(client_order_id)

    async def open_orders(self) -> list[ExecutionReport]:
        """None."""
        return []

    async def cancel(self, _: str) -> None:
        """As asked."""

    async def fills(self, _: datetime) -> list[Fill]:
        """None."""
        return []

    async def session(self, _: str, __: datetime) -> Session:
        """Always open."""
        return Session(is_open=True)


async def managed(folder: Path, count: int = DECISIONS, *, guards: bool = False) -> Taken:
    """Through the async `ExitManager`, with its queue and its writer's thread."""
    at = T0 + timedelta(minutes=1)

    def all_of(engine: Engine) -> None:
        for number in range(count):
            engine.on_bar(bar(number, at))

    rows = rows_of(all_of, count)
    taken = Taken([], [])
    bare = Bare(folder / "bare.db", count)
    with ExitStore(folder / "ours.db") as store:
        open_positions(store, count)
    desk = Desk(count, guards=guards)
    no_budget = {"live": {"orders_per_minute": 100_000}}  # its clock stands still
    manager = ExitManager(desk, folder / "ours.db", config=no_budget, clock=ManualClock(at))
    await manager.start()
    for number in range(count):
        if number % _REST == 0:
            await manager._parts.context.mailbox.run(manager.store.settle)
        the_bar = bar(number, at)
        for way in (0, 1) if number % 2 else (1, 0):
            if not way:
                taken.bare.append(bare.commit(rows[number]))
                continue
            desk.at.clear()
            begun = time.perf_counter()
            await manager.on_bar(the_bar)
            await desk.at.wait()
            taken.ours.append(desk.handed[the_bar.symbol] - begun)
            while tasks := manager._parts.executor.workers.tasks:  # what the broker's answer leads to is not part of it
                await asyncio.wait(tasks)
    assert len(desk.handed) == count
    await manager.stop()
    bare.close()
    return taken


def at_once(folder: Path, count: int, rounds: int) -> tuple[float, float]:
    """Median seconds until the first of so many orders may leave, all intents durable; and of one bare commit."""
    at = T0 + timedelta(minutes=1)
    bars = [bar(number, at) for number in range(count)]
    one = rows_of(lambda engine: engine.on_bar(bar(0, at)), 1)[0]
    ours, bare = [], []
    for number in range(rounds):
        here = folder / f"{count}-{number}"
        here.mkdir()
        twin = Bare(here / "bare.db", 1)
        bare.append(twin.commit(one))
        twin.close()
        with ExitStore(here / "ours.db") as store:
            commits: list[Recorded] = []
            engine = open_positions(store, count, _kept_in(commits))
            store.settle()
            commits.clear()
            begun = time.perf_counter()
            actions = engine.on_bars(bars)
            ours.append(time.perf_counter() - begun)
            sent = [action.order.symbol for action in actions if isinstance(action, Submit)]
            assert sent == [symbol(n) for n in reversed(range(count))], "none is dropped, the worst goes first"
            assert len(commits) == count
            assert len(store.exit_orders(status="pending")) == count
    return median(ours), median(bare)


def measure(table: Table) -> None:
    """Fill the table."""
    place().mkdir(exist_ok=True)
    ways: tuple[tuple[str, Callable[[Path], Taken], tuple[float, float]], ...] = (
        ("a durable decision, called directly, of a bare commit", direct, (1.15, 1.5)),
        ("the same through the async manager", lambda folder: asyncio.run(managed(folder)), (1.5, 1.5)),
        (
            "through the manager, at a broker that guards what is held",
            lambda folder: asyncio.run(managed(folder, guards=True)),
            (1.5, 1.5),
        ),
    )
    for what, run, goals in ways:
        with tempfile.TemporaryDirectory(dir=place()) as folder:
            run(Path(folder)).add_to(table, what, *goals)
    for count, goal in AT_ONCE:
        with tempfile.TemporaryDirectory(dir=place()) as folder:
            ours, bare = at_once(Path(folder), count, table.rounds or 7)
            measured = f"{ours * 1e3:,.2f} ms against {bare * 1e3:,.2f} ms"
            table.figure(
                f"{count:,} breach at once, of one bare commit", ours / bare, "×", at_most=goal, measured=measured
            )


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", measure, stores={"postgresql": durable_postgres.measure}))
