"""When a decision was taken: live at the bar's arrival, in simulation at its label; history never runs backwards."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from harness import World
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from exitfsm import Bar, simulate
from exitfsm.events import AlarmRaised, ExitTriggered, StopMoved
from exitfsm.store import ExitStore

MINUTE = timedelta(seconds=60)


def by_start(world: World, close: str, *, late_s: float = 61) -> Bar:
    """A bar that is dated by its start, and comes after its end."""
    price = Decimal(close)
    return Bar("AAPL", world.clock.now() - timedelta(seconds=late_s), price, price, price, price)


def times(world: World) -> list[int]:
    return [r.at_ns for r in world.manager.store.stream(world.position.position_id)]


async def test_a_decision_is_dated_by_the_arrival_and_names_the_bar(world: World) -> None:
    await world.enter()
    await world.passes(120)
    bar, now = by_start(world, "98"), world.clock.now()
    await world.manager.on_bar(bar)
    await world.settle()
    (triggered,) = [e for _, e in world.events if isinstance(e, ExitTriggered)]
    assert (triggered.at, triggered.bar_at) == (now, bar.timestamp)
    assert world.position.triggered_at == now
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert times(world) == sorted(times(world))


async def test_a_fill_before_a_late_bar_comes_first_in_history(world: World) -> None:
    await world.enter()
    await world.passes(90)
    await world.manager.on_bar(by_start(world, "100.5"))
    await world.passes(30)
    await world.manager.on_bar(by_start(world, "500"))  # refused, and dated by its arrival, too
    await world.manager.settled()
    (raised,) = [e for _, e in world.events if isinstance(e, AlarmRaised)]
    assert raised.at == world.clock.now()
    assert times(world) == sorted(times(world))


async def test_a_clock_that_is_put_back_turns_no_history_round(world: World) -> None:
    await world.enter()
    await world.passes(200)
    world.clock.set(world.clock.now() - timedelta(seconds=100))
    await world.bar("98")
    await world.fill()
    await world.until(lambda: world.state == "filled")
    assert times(world) == sorted(times(world))


@settings(max_examples=30, deadline=None)
@for_all(st.lists(st.integers(97, 103), min_size=3, max_size=12))
def test_in_simulation_a_decision_has_the_label_of_its_bar(closes: list[int]) -> None:
    start = datetime.fromisoformat("2024-01-02T14:30:00+00:00")
    bars = [Bar("AAPL", start + n * MINUTE, *[Decimal(c)] * 4) for n, c in enumerate(closes)]
    with ExitStore(":memory:") as store:
        simulate(bars, store=store)
        for stream in {r.stream_id for r in store.events()}:
            for r in store.stream(stream):
                if isinstance(r.event, ExitTriggered | StopMoved):
                    label = r.event.bar_at
                    assert label is not None
                    assert r.at_ns == int(label.timestamp()) * 10**9
