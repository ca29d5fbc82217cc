"""Tells a FIX story to the real manager: a venue that keeps its books by the story, and speaks as brokers speak.

The books move when a line of the story happens, whether or not the manager hears of it: what it reads or asks for is
always the truth. A fault is put into one place: the news comes twice, or after the next step, or the process dies
before it, or dies before the news has come. When the story has been told, the venue fills or cancels what still works.
"""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from harness import GOOD, T0, World, check_store
from msgspec.structs import replace
from order_stories import STORIES

from exitfsm import BrokerPosition, Fill, Order, OrderRefused, OrderSide, Session, Side, State

SYMBOL, HELD, ENTRY = "AAPL", Decimal(100), Decimal(100)
#: Long ago, so that no bar of a story is older than the entry.
ENTERED = T0 - timedelta(minutes=5)
VENUE = replace(GOOD, late_fill_window_s=1)
#: Our words for FIX's states and events: the name FIX gives it, its code as a state, its code as an event.
NAMES = {
    "new": ("New", "0", "0"),
    "partial": ("PartiallyFilled", "1", ""),
    "filled": ("Filled", "2", ""),
    "done_for_day": ("DoneForDay", "3", "3"),
    "canceled": ("Canceled", "4", "4"),
    "replaced": ("Replaced", "5", "5"),
    "pending_cancel": ("PendingCancel", "6", "6"),
    "stopped": ("Stopped", "7", "7"),
    "rejected": ("Rejected", "8", "8"),
    "suspended": ("Suspended", "9", "9"),
    "pending_new": ("PendingNew", "A", "A"),
    "calculated": ("Calculated", "B", "B"),
    "expired": ("Expired", "C", "C"),
    "restated": ("Restated", "", "D"),
    "pending_replace": ("PendingReplace", "E", "E"),
    "trade": ("Trade", "", "F"),
    "trade_correct": ("TradeCorrect", "", "G"),
    "trade_cancel": ("TradeCancel", "", "H"),
    "order_status": ("OrderStatus", "", "I"),
}
REASONS = {"unknown_order": "5", "duplicate_order": "6", "duplicate_of_verbal": "7", "too_late": "0"}
OVER = ("filled", "canceled", "rejected", "expired", "replaced")
DIALECTS = ("names", "tags", "update")


class Do(NamedTuple):
    """What the manager is to do: order, cancel, ask; or, with a `!`, what happens elsewhere."""

    what: str
    crosses: bool = False


class Said(NamedTuple):
    """One report, or (state only) one refusal of a request."""

    kind: str
    state: str
    qty: Decimal = HELD
    filled: Decimal = Decimal(0)
    leaves: Decimal = Decimal(0)
    told: str = "X"
    before: str = ""
    reason: str = ""
    price: Decimal = Decimal(99)
    to_replace: bool = False
    crosses: bool = False

    @property
    def moves_books(self) -> bool:
        """False for what is no record of the order: a refusal, a repetition, a question about something else."""
        return self.kind != "no" and self.reason not in ("duplicate_order", "unknown_order")


Step = Do | Said


class Way(NamedTuple):
    """One way through a story."""

    name: str
    steps: tuple[Step, ...]
    ends: str
    flags: frozenset[str]


class Fault(NamedTuple):
    """What goes wrong at one step.

    `twice`: its news come twice. `late`: they come after the next step. `dropped`: they never come. `crash`: the
    process dies before it, and a new one opens the store. `lost`: it dies before the news have come, and nobody tells
    them again. `slow` is about the whole way: between its steps passes more time than any wait of the manager lasts.
    """

    kind: str
    at: int = 0


NO_FAULT = Fault("none")


def stories(text: str = STORIES) -> Iterator[Way]:
    """Every way through every story: with each alternative, and with each crossing in both orders."""
    for block in text.strip().split("\n\n"):
        head, *lines = block.splitlines()
        title, *flags = (part.strip() for part in head.split("|"))
        ref = title.split()[0]
        ends = next(flag for flag in flags if flag.startswith("ends ")).removeprefix("ends ")
        kinds = frozenset(flag for flag in flags if not flag.startswith("ends "))
        main: list[Step] = []
        for line in lines:
            if line.startswith("? "):
                said, _, other = line[2:].partition(" | ends ")
                yield Way(f"{ref} or {said}", (*main, _step(said)), other or ends, kinds)
            else:
                main.append(_step(line))
        yield Way(ref, tuple(main), ends, kinds)
        for i, step in enumerate(main):
            if step.crosses:
                crossed = (*main[: i - 1], step, main[i - 1], *main[i + 1 :])
                yield Way(f"{ref} crossing", crossed, ends, kinds)


def _step(line: str) -> Step:
    crosses, line = line.startswith("~ "), line.removeprefix("~ ")
    if line[0] in ">!":
        return Do(line.removeprefix("> "), crosses)
    told, before, reason, price, numbers, words = "X", "", "", Decimal(99), [], []
    for word in line.split():
        if re.fullmatch(r"[XYZ]<[XYZ]", word):
            told, before = word.split("<")
        elif word in ("Y", "Z"):
            told = word
        elif word.startswith("@"):
            price = Decimal(word[1:])
        elif re.fullmatch(r"[\d.]+", word):
            numbers.append(Decimal(word))
        else:
            words.append(word)
    kind, state, *others = words
    if kind == "no":
        told, before = (told, before) if before else ("Y", "X")
    reason = next((word for word in others if word in REASONS), "")
    return Said(
        kind, state, *numbers, told=told, before=before, reason=reason, price=price,
        to_replace="replace" in others, crosses=crosses,
    )  # fmt: skip


class Booked:
    """An exit order in the venue's books."""

    def __init__(self, order: Order, at: datetime) -> None:
        self.order, self.at = order, at
        self.said = Said("pending_new", "pending_new", order.qty, Decimal(0), order.qty)
        self.cancel_asked = False

    @property
    def live(self) -> bool:
        """True while the venue may still fill it."""
        done = self.said.state in ("done_for_day", "calculated") and self.said.leaves == 0
        return self.said.state not in OVER and not (done and self.order.time_in_force == "day")


class Venue:
    """The broker's port over books that follow the story."""

    capabilities = VENUE
    hanging = 0

    def __init__(self, clock: Any, dialect: str) -> None:
        self.clock, self.dialect = clock, dialect
        self.held = HELD
        self.booked: dict[str, Booked] = {}
        self.violations: list[str] = []
        self.refuses_cancel = False
        self.told_all = False
        self.market = Session(is_open=True)
        self.news: list[Any] = []
        self.asked = 0

    @property
    def orders(self) -> list[Order]:
        """The exit orders that reached the venue."""
        return [one.order for one in self.booked.values()]

    @property
    def first(self) -> Booked:
        """The order that the story is about."""
        return next(iter(self.booked.values()))

    # --- the port -----------------------------------------------------------------------------------------------------

    async def positions(self) -> list[BrokerPosition]:
        side = Side.LONG if self.held > 0 else Side.SHORT
        one = BrokerPosition(symbol=SYMBOL, side=side, qty=abs(self.held), avg_entry_price=ENTRY)
        return [one] if self.held else []

    async def fills(self, since: datetime) -> list[Fill]:
        found = [Fill(fill_id="entry", symbol=SYMBOL, side=OrderSide.BUY, qty=HELD, price=ENTRY, at=ENTERED)]
        for name, one in self.booked.items():
            if one.said.filled:
                said = one.said
                found.append(
                    Fill(fill_id=name, symbol=SYMBOL, side=OrderSide.SELL, qty=said.filled, price=said.price,
                         at=one.at, client_order_id=name)
                )  # fmt: skip
        return [fill for fill in found if fill.at >= since]

    async def submit(self, order: Order) -> Any:
        if order.client_order_id in self.booked:
            raise OrderRefused("duplicate_id")
        live = [name for name, one in self.booked.items() if one.live]
        if live:
            self.violations.append(f"{order.client_order_id} was sent while {live} may still fill")
        if order.qty > self.held:
            self.violations.append(f"{order.client_order_id} sells {order.qty}, and {self.held} is held")
        self.booked[order.client_order_id] = Booked(order, self.clock.now())
        return self.wire(self.booked[order.client_order_id].said, order.client_order_id)

    async def order(self, client_order_id: str) -> Any:
        self.asked += 1
        one = self.booked.get(client_order_id)
        if one is None:
            return None
        return self.wire(one.said._replace(kind="order_status", told="X", before=""), client_order_id)

    async def cancel(self, client_order_id: str) -> None:
        one = self.booked[client_order_id]
        if not one.live:
            raise OrderRefused("not_cancelable")
        one.cancel_asked = True

    async def open_orders(self) -> list[Any]:
        return [
            self.wire(one.said._replace(kind="order_status", told="X", before=""), name)
            for name, one in self.booked.items()
            if one.live
        ]

    async def session(self, symbol: str, at: datetime) -> Session:
        return self.market

    # --- the story ----------------------------------------------------------------------------------------------------

    def happens(self, said: Said, name: str) -> Any:
        """A line of the story: the books move, and the news of it is returned."""
        one = self.booked[name]
        if said.moves_books:
            if said.kind.startswith("trade"):
                self.held -= said.filled - one.said.filled
            one.said, one.at = said, self.clock.now()
            if self.held < 0 and said.qty == HELD:
                self.violations.append(f"{name} sold more than was held")
        elif said.kind == "no" and not said.to_replace:
            one.cancel_asked = False
            if one.live and said.state != "rejected":
                one.said = one.said._replace(state=said.state)
        return self.wire(said, name)

    def split(self, ratio: Decimal) -> None:
        """One share becomes `ratio`."""
        self.held *= ratio

    def goes_on(self) -> None:
        """The story is told: what works is filled, or canceled where that was asked for."""
        for name, one in self.booked.items():
            if not one.live:
                continue
            said = one.said
            if one.cancel_asked:
                end = said._replace(kind="canceled", state="canceled", leaves=Decimal(0))
            else:
                end = said._replace(kind="trade", state="filled", filled=said.qty, leaves=Decimal(0))
            self.news.append(self.happens(end._replace(told="X", before=""), name))

    # --- how it is said -----------------------------------------------------------------------------------------------

    def wire(self, said: Said, ours: str) -> dict[str, Any]:
        """The news as a dictionary, as this broker writes it."""
        told, before = (ours if one == "X" else f"other-{one}" for one in (said.told, said.before or "X"))
        if self.dialect == "update":
            return self._update(said, ours)
        tags = self._tags(said, told, before if said.before else "")
        if self.dialect == "tags":
            return tags
        return {_NAMED.get(tag, tag): _named(tag, value, said) for tag, value in tags.items()}

    def _tags(self, said: Said, told: str, before: str) -> dict[str, Any]:
        tags: dict[str, Any] = {"35": "9" if said.kind == "no" else "8", "11": told, "39": NAMES[said.state][1]}
        if before:
            tags["41"] = before
        if said.kind == "no":
            tags["434"] = "2" if said.to_replace else "1"
            if said.reason:
                tags["102"] = {"unknown_order": "1"}.get(said.reason, "0")
            return tags
        tags |= {
            "150": NAMES[said.kind][2], "38": str(said.qty), "14": str(said.filled), "151": str(said.leaves),
            "6": str(said.price if said.filled else 0), "55": SYMBOL, "54": "2",
        }  # fmt: skip
        if said.reason:
            tags["103"] = REASONS[said.reason]
        return tags

    def _update(self, said: Said, ours: str) -> dict[str, Any]:
        """As Alpaca writes it, always under our id."""
        kind = {"trade": "fill" if said.state == "filled" else "partial_fill", "trade_cancel": "trade_bust",
                "order_status": said.state}.get(said.kind, said.kind)  # fmt: skip
        state = "partially_filled" if said.state == "partial" else said.state
        order = {"client_order_id": ours, "status": state}
        if said.kind == "no":
            kind = "order_replace_rejected" if said.to_replace else "order_cancel_rejected"
        else:
            order |= {
                "qty": str(said.qty), "filled_qty": str(said.filled), "symbol": SYMBOL, "side": "sell",
                "filled_avg_price": str(said.price) if said.filled else None, "leaves_qty": str(said.leaves),
                "reject_reason": said.reason or None,
            }  # fmt: skip
        return {"event": kind, "order": order}


_NAMED = {
    "11": "ClOrdID", "41": "OrigClOrdID", "39": "OrdStatus", "150": "ExecType", "38": "OrderQty", "14": "CumQty",
    "151": "LeavesQty", "6": "AvgPx", "55": "Symbol", "54": "Side", "35": "msg_type", "103": "ord_rej_reason",
    "102": "cxl_rej_reason", "434": "CxlRejResponseTo",
}  # fmt: skip


def _named(tag: str, value: str, said: Said) -> str:
    """A value in words where its field has words."""
    if tag == "39":
        return NAMES[said.state][0]
    if tag == "150":
        return NAMES[said.kind][0]
    if tag == "35":
        return {"8": "ExecutionReport", "9": "OrderCancelReject"}[value]
    return {"54": "sell", "103": said.reason, "102": said.reason}.get(tag, value)


class Told(NamedTuple):
    """What came of a story."""

    state: State
    sold: Decimal
    alarms: tuple[str, ...]
    events: tuple[str, ...]


class Teller:
    """Tells one way through a story, with one fault, and judges how it ended."""

    def __init__(self, folder: Path, path: Way, fault: Fault = NO_FAULT, dialect: str = "names") -> None:
        self.path, self.fault = path, fault
        tif = next((flag for flag in path.flags if flag in ("gtc", "ioc")), "day")
        kind = "limit" if "limit" in path.flags else "market"
        config = {
            "profit_taking": {"order_type": kind, "time_in_force": tif},
            "stop_loss": {"time_in_force": tif},
            "partial_fills": {"resubmit_delay_seconds": 1},
            "live": {"feed_silence_seconds": 80_000, "patience_seconds": 80_000},
        }
        rules = replace(VENUE.stocks, times_in_force=("day", "gtc", "ioc"))
        self.world = World(folder, config, start=T0)
        self.venue = Venue(self.world.clock, dialect)
        self.venue.capabilities = replace(VENUE, stocks=rules)
        self.world.broker = self.venue  # type: ignore[assignment]  # what a world of its own books offers is not used
        self.world.seen_by_manager = self.venue
        self.world.manager = self.world._new_manager()

    async def tell(self) -> Told:
        """From the entry to the end."""
        world = self.world
        try:
            await world.start()
            late: Any = None
            for i, step in enumerate(self.path.steps):
                if self.fault == ("crash", i):
                    await world.restart()
                if isinstance(step, Do):
                    await self._do(step.what)
                    news = None
                else:
                    news = self.venue.happens(step, self.venue.first.order.client_order_id)
                if self.fault.kind == "slow":
                    await world.passes(3, step=3)
                if self.fault == ("lost", i):
                    await world.restart()
                elif self.fault == ("dropped", i):
                    continue
                elif self.fault == ("late", i):
                    late = news
                    continue
                elif news is not None:
                    await self._hear(news, 2 if self.fault == ("twice", i) else 1)
                if late is not None:
                    await self._hear(late)
                    late = None
            if late is not None:
                await self._hear(late)
            if self.fault == ("crash", len(self.path.steps)):
                await world.restart()
            await self._to_the_end()
            return self._judged()
        finally:
            await world.stop()
            await world.settle()
            logging.getLogger("exitfsm").removeHandler(world.heard)

    async def _do(self, what: str) -> None:
        world = self.world
        limit = "limit" in self.path.flags
        if what == "order":
            await self._bar("102.5" if limit else "98.5")
            assert self.venue.booked, f"no order was sent: {world.heard.lines[-5:]}"
        elif what == "cancel":
            await self._bar("98.5")
            asked = self.venue.first.cancel_asked or not self.venue.first.live
            assert asked, f"no cancel was asked for: {world.heard.lines[-5:]}"
        elif what == "ask":
            await world.manager.sync()
            await world.settle()
        elif what == "! next day":
            self.venue.market = Session(is_open=False)
            await world.passes(17.5 * 3600, step=17.5 * 3600)
            self.venue.market = Session(is_open=True)
            await world.passes(35, step=35)
        elif what.startswith("! split"):
            self.venue.split(Decimal(what.split()[2]))

    async def _bar(self, close: str) -> None:
        self.world.clock.move(1)
        await self.world.settle()
        await self.world.manager.on_bar(self.world.make_bar(close))
        await self.world.settle()

    async def _hear(self, news: Any, times: int = 1) -> None:
        for _ in range(times):
            await self.world.manager.on_order_update(news)
            await self.world.settle()

    async def _to_the_end(self) -> None:
        quiet = 0
        for _ in range(40):
            self.venue.goes_on()
            news, self.venue.news = self.venue.news, []
            for one in news:
                await self._hear(one)
            before = (self.world.position.version, len(self.venue.booked))
            if self.world.position.state.terminal and not any(one.live for one in self.venue.booked.values()):
                return
            await self.world.passes(2, step=2)
            quiet = quiet + 1 if before == (self.world.position.version, len(self.venue.booked)) else 0
            if quiet > 4:
                return

    def _correction_was_lost(self) -> bool:
        """True where nobody ever told the manager of a correction: then only the figures must be right."""
        step = self.path.steps[self.fault.at] if self.fault.kind in ("lost", "dropped") else None
        return isinstance(step, Said) and step.kind in ("trade_cancel", "trade_correct")

    def _judged(self) -> Told:
        world, venue, p = self.world, self.venue, self.world.position
        story = f"{self.path.name} {self.fault}: {p.state}, alarms {world.alarm_kinds}\n{world.story()}"
        assert not venue.violations, f"{venue.violations}\n{story}"
        assert not world.defects(), world.defects()
        check_store(world.manager.store, world.manager)
        recorded = {order.client_order_id: order.filled_qty for order in p.orders}
        true = {name: one.said.filled for name, one in venue.booked.items()}
        assert recorded == true, f"recorded {recorded}, true {true}\n{story}"
        doubt = {"protection_lost", "fill_corrected"} & set(world.alarm_kinds)
        if self.path.ends == "filled":
            assert p.state is State.FILLED, story
            assert not doubt, story
        elif not self._correction_was_lost():
            assert doubt, story
        if p.state is not State.UNPROTECTED:
            assert p.state.terminal, story
            assert venue.held == 0, f"{venue.held} held\n{story}"
        return Told(p.state, p.sold_qty, tuple(world.alarm_kinds), tuple(world.names()))


def tell(way: Way, fault: Fault = NO_FAULT, dialect: str = "names") -> Told:
    """Tell one way through a story in a world of its own; its store lies in memory where there is a place for it."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:

        async def telling() -> Told:
            return await Teller(Path(folder), way, fault, dialect).tell()

        return asyncio.run(telling())


def faults(path: Way) -> Iterator[Fault]:
    """Everything that can go wrong in one place of a story."""
    for i, step in enumerate(path.steps):
        if i:
            yield Fault("crash", i)
        if isinstance(step, Said):
            yield Fault("twice", i)
            yield Fault("lost", i)
            yield Fault("dropped", i)
            if i + 1 < len(path.steps):
                yield Fault("late", i)
    yield Fault("crash", len(path.steps))
    if not _moves_after_its_end(path):
        yield Fault("slow")


def _moves_after_its_end(path: Way) -> bool:
    """True where an order fills, or is made to work again, later than its venue declares that it may."""
    ended = False
    for step in path.steps:
        if isinstance(step, Said) and step.moves_books:
            if ended and step.kind.startswith(("trade", "replaced")):
                return True
            ended = ended or step.state in OVER or (step.state in ("done_for_day", "calculated") and not step.leaves)
    return False
