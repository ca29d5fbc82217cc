"""Live and simulation cannot differ in what books prove: both ask holdings, so that what is broken there breaks both.

The same bars go through `simulate` and, as a paper run, through the live manager; each is summed up by what was watched
under which name, at which price, and what became of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from makers import T0, at
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.config import load_config
from exitfsm.events import PositionOpened
from exitfsm.paper import PaperRun
from exitfsm.position import replay
from exitfsm.simulate import simulate
from exitfsm.simulated import Act, SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.values import Bar, OrderSide, plain

#: Entered at 100, stopped out at 98.9; the first order fills four and expires. Then it cools down for two minutes.
CLOSES = (100, 100.2, 98.9, 98.8, 98.7, 98.6, 98.6, 98.7, 98.6, 98.7, 98.6)
CONFIG = load_config({"exit_cooldown_seconds": 120, "partial_fills": {"resubmit_delay_seconds": 30}})
#: Name, entry, state, and what was sold.
Summary = list[tuple[str, str, str, str]]
RIGHT: Summary = [
    ("20240102T143000Z", "100", "filled", "10"),
    ("20240102T143800Z", "98.6", "monitoring", "0"),
]


def bars(venue: SimulatedBroker, by_hand: int) -> Iterator[Bar]:
    """A minute each; somebody sells so many by hand just before the stop is reached."""
    for minute, close in enumerate(CLOSES):
        if minute == 2 and by_hand:
            venue.trade_by_hand("AAPL", OrderSide.SELL, Decimal(by_hand), Decimal(100))
        yield Bar("AAPL", T0 + timedelta(minutes=minute), close, close, close, close)


def scripted(venue: SimulatedBroker, *, guards: bool) -> SimulatedBroker:
    """The venue of both: it refuses an order for more than is held, or does not."""
    venue.capabilities = replace(venue.capabilities, reduce_only=guards)
    venue.script("AAPL", Act(fills=(Decimal(4),), then="expire"))
    return venue


def summary(store: ExitStore) -> Summary:
    """What a run came to, position by position."""
    logs = [events for _, events in store.histories(store.stream_ids())]
    watched = [replay(events) for events in logs if isinstance(events[0], PositionOpened)]
    return [(p.epoch, plain(p.entry_price), str(p.state), plain(p.sold_qty)) for p in watched]


def simulated(guards: bool, by_hand: int = 0) -> Summary:
    """The run as a simulation."""
    with ExitStore(":memory:") as store:
        venue = scripted(SimulatedBroker(), guards=guards)
        simulate(bars(venue, by_hand), CONFIG, store=store, re_enter=True, broker=venue)
        return summary(store)


def live(guards: bool, by_hand: int = 0) -> Summary:
    """The run through the live manager."""
    with ExitStore(":memory:") as store:
        paper = PaperRun(CONFIG, store, re_enter=True)
        venue = scripted(paper.broker, guards=guards)
        asyncio.run(paper.run(bars(venue, by_hand)))
        return summary(store)


@pytest.mark.parametrize("guards", [True, False])
@pytest.mark.parametrize("shell", [simulated, live])
def test_given_the_same_bars_then_both_shells_come_to_the_same(shell: Callable[..., Summary], guards: bool) -> None:
    assert shell(guards) == RIGHT


@pytest.mark.parametrize("guards", [True, False])
@pytest.mark.parametrize("shell", [simulated, live])
def test_given_a_sale_by_hand_before_the_exit_then_both_shells_sell_what_is_left(
    shell: Callable[..., Summary], guards: bool
) -> None:
    assert shell(guards, by_hand=3)[0] == ("20240102T143000Z", "100", "filled", "7")


#: What is broken, and how; the last one is asked only where the venue does not guard.
BROKEN: dict[str, Callable[..., Any]] = {
    "weigh": lambda evidence, memory: (holdings.Nothing(), memory),
    "reads.net": lambda read, p, beside: (p.remaining_qty + 1, None),
    "may_send": lambda leaving: holdings.Blocked("foreign_order"),
    "may_enter": lambda symbol, at, account: True,
    "adopting.name": lambda opening: at(1),
    "adopting.entry": lambda opening, first: Decimal(77),
    "leaving._whole": lambda leaving, intent, shown: holdings.Short(Decimal(0)),
}


@pytest.mark.parametrize("shell", [simulated, live])
@pytest.mark.parametrize("function", BROKEN)
def test_given_a_function_that_is_broken_then_either_shell_goes_wrong(
    function: str, shell: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"exitfsm.holdings.{function}", BROKEN[function])
    assert shell(False) != RIGHT
