"""The market day of the demo: its bars, a bot in a process of its own, and the crash of that process.

The venue lives here, in the parent. The bot is a child process with the engine and the store; it speaks with the venue
over a pipe, call by call, as with a broker over a network. When the venue has taken the exit order of `CRASH`, it does
not answer but kills the bot: the order is real, and nobody has recorded that it is. The market goes on for two minutes
without a bot, in which the order fills. Then a new engine opens the same store and finds its way by asking.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from exitfsm.carrying_out import Carrier
from exitfsm.config import ExitConfig, load_config
from exitfsm.engine import Engine
from exitfsm.errors import ExitFsmError, StoreError
from exitfsm.simulate import Simulation
from exitfsm.simulated import Act, SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.values import Bar, BrokerPosition, ExecutionReport, Fill, Order, OrderSide, Side

QTY = Decimal(100)
SETTINGS: dict[str, Any] = {"trailing_stop": {"enabled": True, "activation_pct": 1, "trail_pct": 0.8}}
CRASH = "CRASH"
OPENS_AT = datetime(2024, 3, 4, 14, 30, tzinfo=UTC)
_OFF_MINUTES = 2  # how long there is no bot


class Story(NamedTuple):
    """One symbol: what it shows, its prices minute by minute, and what the venue does with its orders.

    A price is a bar's close; the bar opens at the close before it, or where another open is given: `96.4>96.1`.
    """

    shows: str
    prices: str
    acts: tuple[Act, ...] = ()


STORIES: dict[str, Story] = {
    "TARGET": Story("profit take", "100 100.4 100.9 102.3 102.4 102.2 102.1 102 101.9 101.8 101.7 101.6 101.6"),
    "GAP": Story("gap past the stop", "100 99.8 99.5 96.4>96.1 95.9 96 96.2 96.3 96.2 96.4 96.3 96.2 96.1"),
    "PARTIAL": Story(
        "partial, resubmit",
        "100 99.7 99.4 98.9 98.8 98.7 98.6 98.5 98.6 98.7 98.6 98.5 98.4",
        (Act(fills=(Decimal(40),), then="cancel"),),
    ),
    "REJECT": Story(
        "reject, retry",
        "100 100.3 100.8 102.1 102.3 102.2 102.4 102.5 102.4 102.3 102.2 102.1 102",
        (Act(reject="halted"),),
    ),
    "TRAIL": Story(
        "trailing stop",
        "100 100.6 101.4 101.7 101.5 101.3 101.4 101.6 101.4 101.3 101.2 101.1 100.8 100.7 100.6",
    ),
    CRASH: Story("crash, recovery", "100 99.9 100.1 99.8 99.6 99.7 99.5 99.3 98.8 98.7 98.6 98.6 98.5"),
}


class Crash(NamedTuple):
    """What happened to the bot's process, as seen from outside, and what the next one found.

    Attributes:
        pid: the process that was killed.
        exit_code: its exit code: minus the number of the signal, where the system has signals.
        client_order_id: the order whose answer it never got.
        held: how many open positions the new engine found in the store.
        known_as: the state in which the store had the position.
        asked: what the new engine owed the venue first.
        answer: what the venue said of the order.
    """

    pid: int
    exit_code: int
    client_order_id: str
    held: int
    known_as: str
    asked: str
    answer: str


def run_day(path: str, venue: SimulatedBroker) -> Crash:
    """The whole day: a bot until it is killed, nobody, and another bot from the same store.

    Args:
        path: an empty store, or where to make one.
        venue: where the orders go; it is given the script of the day.

    Raises:
        StoreError: the store cannot be used, or holds events already.
    """
    with ExitStore(path) as store:
        if store.count():
            raise StoreError(f"{path} already holds {store.count()} events: give the demo a new path, or none")
    for symbol, story in STORIES.items():
        venue.script(symbol, *story.acts)
    pid, exit_code, order = _until_killed(path, venue)
    rest = [bar for bar in bars() if bar.timestamp > venue.now]
    back_at = venue.now + timedelta(minutes=_OFF_MINUTES)
    for bar in rest:
        if bar.timestamp <= back_at:
            venue.on_bar(bar)
    back = [bar for bar in rest if bar.timestamp > back_at]
    return Crash(pid, exit_code, order.client_order_id, *_go_on(path, venue, order.client_order_id, back))


def config() -> ExitConfig:
    """The rules of the day: the defaults, and a trailing stop."""
    return load_config(SETTINGS)


def bars() -> Iterator[Bar]:
    """All bars in time order."""
    paths = {symbol: list(_path_of(story)) for symbol, story in STORIES.items()}
    for minute in range(max(map(len, paths.values()))):
        for symbol, path in paths.items():
            if minute < len(path):
                opened, closed = path[minute]
                at = OPENS_AT + timedelta(minutes=minute)
                yield Bar(symbol, at, opened, max(opened, closed), min(opened, closed), closed, 1000)


def _path_of(story: Story) -> Iterator[tuple[Decimal, Decimal]]:
    before: Decimal | None = None
    for price in story.prices.split():
        opened, _, closed = price.rpartition(">")
        close = Decimal(closed)
        yield Decimal(opened) if opened else before or close, close
        before = close


# --- the bot that is killed -------------------------------------------------------------------------------------------


def _until_killed(path: str, venue: SimulatedBroker) -> tuple[int, int, Order]:
    """Run the bot in a process of its own and be its venue. When the order of `CRASH` comes, take it and kill the bot.

    Returns:
        The process, its exit code, and the order.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    bot = context.Process(target=_bot, args=(path, theirs), daemon=True)
    bot.start()
    theirs.close()
    try:
        order = _serve(venue, ours)
        bot.kill()
        bot.join()
        return bot.pid or 0, bot.exitcode or 0, order
    finally:
        if bot.is_alive():
            bot.kill()
            bot.join()
        ours.close()


def _serve(venue: SimulatedBroker, bot: Connection) -> Order:
    """Answer the bot's calls; the order of `CRASH` is taken and returned instead of answered."""
    while True:
        try:
            method, now, args = bot.recv()
        except (EOFError, ConnectionError):
            raise StoreError("the bot of the demo ended before it sent the order that it is to be killed at") from None
        if method == "failed":
            raise StoreError(args[0])
        venue.now = max(venue.now, now)
        if method == "on_bar":
            args = (Bar(*args),)
        answer: Any = getattr(venue, method)(*args)
        if method == "submit" and args[0].symbol == CRASH:
            order: Order = args[0]
            return order
        bot.send(answer)


def _bot(path: str, wire: Connection) -> None:
    """The child process: a simulation whose venue is at the other end of the wire."""
    try:
        with ExitStore(path) as store:
            day = Simulation(config(), store, QTY, Side.LONG, False, _FarVenue(wire), {}, "demo")
            for bar in bars():
                day.on_bar(bar)
    except ExitFsmError as error:
        wire.send(("failed", OPENS_AT, (str(error),)))


class _FarVenue(SimulatedBroker):
    """The venue as the bot sees it: each call goes over the wire, and returns when the answer comes."""

    def __init__(self, wire: Connection) -> None:
        super().__init__()
        self._wire = wire

    def _call(self, method: str, *args: Any) -> Any:
        self._wire.send((method, self.now, args))
        return self._wire.recv()

    def on_bar(self, bar: Bar, *, limits: bool = True) -> list[ExecutionReport]:  # noqa: ARG002  its prices never jump
        self.now = bar.timestamp
        prices = (str(bar.open), str(bar.high), str(bar.low), str(bar.close), str(bar.volume))
        reports: list[ExecutionReport] = self._call("on_bar", bar.symbol, bar.timestamp, *prices)
        return reports

    def hold(self, symbol: str, side: Side, qty: Decimal, price: Decimal, at: datetime) -> Any:
        self.now = max(self.now, at)
        return self._call("hold", symbol, side, qty, price, at)

    def submit(self, order: Order) -> ExecutionReport:
        report: ExecutionReport = self._call("submit", order)
        return report

    def order(self, client_order_id: str) -> ExecutionReport | None:
        report: ExecutionReport | None = self._call("order", client_order_id)
        return report

    def cancel(self, client_order_id: str) -> None:
        self._call("cancel", client_order_id)

    def position(self, symbol: str) -> BrokerPosition | None:
        row: BrokerPosition | None = self._call("position", symbol)
        return row

    def fills(self, since: datetime) -> Sequence[Fill]:
        fills: Sequence[Fill] = self._call("fills", since)
        return fills


# --- the bot that goes on ---------------------------------------------------------------------------------------------


def _go_on(path: str, venue: SimulatedBroker, order_id: str, rest: Sequence[Bar]) -> tuple[int, str, str, str]:
    """Open the store anew, do what is owed, and live through the rest of the day.

    Returns:
        How many open positions there were, the state of the one with the order, what was owed first, and what the venue
        says of the order.
    """
    now = rest[0].timestamp
    with ExitStore(path) as store:
        engine = Engine(store, venue.capabilities)
        carry_out = Carrier(engine, venue).carry_out
        held = engine.load()
        position = engine.get(engine.owner_of(order_id) or "")
        owed = engine.owed(now)
        known = venue.order(order_id)
        carry_out(owed, now)
        for bar in rest:
            at = bar.timestamp
            for report in venue.on_bar(bar):
                carry_out(engine.on_report(report, at=at), at)
            carry_out(engine.tick(at, symbol=bar.symbol), at)
            carry_out(engine.on_bar(bar), at)
        store.save_marks(engine.marks())
    state = str(position.state) if position is not None else "(nothing)"
    asked = type(owed[0]).__name__ if owed else "nothing"
    return held, state, asked, str(known.status) if known is not None else "unknown"


def sold(venue: SimulatedBroker, symbol: str) -> list[Decimal]:
    """The quantities that the venue sold of a symbol, one for each execution."""
    return [fill.qty for fill in venue.fills(OPENS_AT) if fill.symbol == symbol and fill.side is OrderSide.SELL]
