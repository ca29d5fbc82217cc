"""Exits in flight, one in each state in which a process can die: the story that leads there, and the store of it.

The store was written once, by the version before orders were kept one by one, and lies in `tests/corpus`. The venue's
part of the story is played again by `test_in_flight.py`, which puts that store under a manager of today.

    python tests/manager/in_flight.py    freezes it; with the code that is to write it on PYTHONPATH
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from harness import GOOD, World
from msgspec.structs import replace

from exitfsm import Order, Position, Side, State
from exitfsm.errors import OrderRefused
from exitfsm.position import client_order_id, epoch_of, order_of, position_id
from exitfsm.store import ExitStore
from exitfsm.testing.books import Booked
from exitfsm.testing.scripted import LostReply, Raises

FROZEN = Path(__file__).parent.parent / "corpus" / "in_flight.store"
CONFIG: dict[str, Any] = {
    "profit_taking": {"order_type": "limit"},
    "trailing_stop": {"enabled": True, "activation_pct": 1, "trail_pct": 1},
    "break_even": {"enabled": True, "activation_pct": 1, "offset_pct": 0},
    "partial_fills": {"resubmit_delay_seconds": 900, "max_resubmit_attempts": 5},
    "live": {"patience_seconds": 86_400, "feed_silence_seconds": 86_400},
}
#: Symbol, and the state in which it is left. `IBM` is short.
STATES = {
    "AAPL": State.MONITORING,  # its stops have moved
    "ADBE": State.PARTIAL,  # its order was made smaller at the broker
    "AMZN": State.PARTIAL,
    "CSCO": State.REJECTED,  # by the venue, for a reason that must not come twice
    "GOOG": State.CANCELING,  # a limit that met the stop; the cancel is pending
    "IBM": State.SUBMITTED,  # a limit that rests
    "INTC": State.UNPROTECTED,  # a fill was taken back
    "META": State.REJECTED,  # waits for its next attempt
    "MSFT": State.PENDING,  # it arrived, and nobody heard of that
    "MSTR": State.PENDING,  # it never arrived
    "NVDA": State.SUBMITTED,
    "ORCL": State.UNPROTECTED,  # its first order was refused, and works after all
    "QCOM": State.PARTIAL,  # filled whole, and not proved flat
    "TSLA": State.PARTIAL,  # with its second order
    "ZM": State.SUBMITTED,  # found at the broker
}


class Story:
    """The symbols, one after another, in a world whose manager is started."""

    def __init__(self, world: World) -> None:
        self.world, self.venue = world, world.broker

    def of(self, symbol: str) -> Position:
        """What the manager holds of a symbol."""
        return next(p for p in self.world.manager.positions() if p.symbol == symbol)

    def live(self, symbol: str) -> Booked:
        """The exit order of a symbol that works at the venue."""
        return self.venue.live_exits(symbol)[0]

    async def stopped(self, *symbols: str) -> None:
        """The stop is reached."""
        for symbol in symbols:
            await self.world.bar("98.9", symbol)

    async def filled(self, symbol: str, qty: int, price: str = "98.8") -> None:
        """A part of the exit is filled, and told."""
        self.venue.fill(self.live(symbol).order, qty, price)
        await self.world.deliver()

    async def told(self) -> None:
        """To its end."""
        world, venue = self.world, self.venue
        for symbol in STATES:
            if symbol != "ZM":
                await world.enter(10, at=100, symbol=symbol, side="short" if symbol == "IBM" else "long")
        await self._with_an_order_before()
        await self._changed_by_others()
        await self.stopped("AMZN", "META", "CSCO", "NVDA")
        await self.filled("AMZN", 4)
        await self.filled("META", 3)
        venue.expire(self.live("META").order)
        venue.reject(self.live("CSCO").order, "margin")
        await world.bar(102, "GOOG")
        await self.filled("GOOG", 4, "102")
        await self.stopped("GOOG")  # the cancel is pending: see above
        await world.bar(98, "IBM")
        await world.bar("101.5", "AAPL")
        await world.deliver()
        await self._found()
        venue.always("positions", Raises(ConnectionError("no list")))
        await self.stopped("QCOM")
        await self.filled("QCOM", 10)
        venue.always("order", Raises(ConnectionError("no record")))
        venue.answer("submit", LostReply())
        await self.stopped("MSFT")
        venue.answer("submit", Raises(TimeoutError("it never left")))
        await self.stopped("MSTR")
        venue.lose_updates()
        await world.settle()

    async def _with_an_order_before(self) -> None:
        """Two exits with a second order; the first order of one was refused, and works all the same."""
        world, venue = self.world, self.venue
        await self.stopped("TSLA")
        await self.filled("TSLA", 3)
        venue.expire(self.live("TSLA").order)
        await world.deliver()
        venue.answer("submit", Raises(OrderRefused("halted")))
        await self.stopped("ORCL")
        first = order_of(self.of("ORCL"))
        await world.until(lambda: len(world.orders) == 3, 1000, step=5)
        await self.filled("TSLA", 2)
        venue.cancels = "pending"
        again = venue._book(first, ours=True)  # beside the second: the rules of the books allow it to nobody
        venue._tell(again)
        await world.deliver()
        venue.end_cancel(next(b.order for b in venue.live_exits("ORCL") if b is not again))
        await world.deliver()

    async def _changed_by_others(self) -> None:
        """One exit of which a fill is taken back, and one that is made smaller."""
        world, venue = self.world, self.venue
        await self.stopped("INTC", "ADBE")
        await self.filled("INTC", 4)
        venue.bust(self.live("INTC").order, 1)
        await self.filled("ADBE", 2)
        smaller = self.live("ADBE")
        smaller.order = replace(smaller.order, qty=smaller.order.qty - 2)
        venue._tell(smaller)
        await world.deliver()

    async def _found(self) -> None:
        """An exit order of a position that nobody watches: another life has sent it."""
        world, venue = self.world, self.venue
        venue.enter("ZM", "long", 10, 100)
        name = position_id(self.of("AAPL").account, "ZM", Side.LONG, epoch_of(world.clock.now()))
        order_id = client_order_id(name, 1, "xf1")
        venue.take(Order(client_order_id=order_id, symbol="ZM", side=Side.LONG.exit_side, qty=venue.held("ZM")))
        await world.deliver()
        await world.until(lambda: any(order_id in p.live_orders for p in world.manager.positions()), 30)


async def in_flight(path: Path) -> Story:
    """A world in which the story was told, at the moment at which its process dies."""
    world = World(path, CONFIG, capabilities=replace(GOOD, id_form="xf1"))  # as its ids were then
    await world.start()
    story = Story(world)
    await story.told()
    assert {p.symbol: p.state for p in world.manager.positions()} == STATES, world.story()
    return story


async def _freeze() -> None:
    from corpus.freeze import readings  # of the time of the code that writes it

    assert not FROZEN.exists(), f"{FROZEN} is frozen: it stays as it is"
    with tempfile.TemporaryDirectory() as folder:
        story = await in_flight(Path(folder))
        story.world.keep_files()
        following = Path(folder, "exits-1.db")
        with closing(sqlite3.connect(following)) as db:
            db.execute("PRAGMA journal_mode = DELETE")  # one file
        FROZEN.write_bytes(following.read_bytes())
        with ExitStore(following) as store:
            read = readings(store)
        await story.world.bury()
    FROZEN.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(read), indent=1) + b"\n")


if __name__ == "__main__":
    sys.exit(asyncio.run(_freeze()))
