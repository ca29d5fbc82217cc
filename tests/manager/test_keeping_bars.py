"""`record_bars` live: what was looked at is kept beside the store, and no exit ever knows of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from harness import T0, MakeWorld, World

from exitfsm import Bar, ExitStore, Session
from exitfsm import bar_keeping as keeping
from exitfsm.audit import whatif
from exitfsm.bar_keeping import BarKeeper
from exitfsm.config import load_config
from exitfsm.events import AlarmRaised
from exitfsm.ownership import Opening
from exitfsm.paper import PaperRun
from exitfsm.recorded_bars import BarRecorder, Seen, recorded_bars
from exitfsm.values import BrokerPosition

RECORDING = {"record_bars": True}


def kept(world: World) -> list[Seen]:
    return list(recorded_bars(f"{world.store_path}.bars"))


def closes(seen: list[Seen]) -> list[tuple[str, str]]:
    return [(one.bar.symbol, str(one.bar.close)) for one in seen]


async def is_said(world: World) -> None:
    """Until the alarm is up: the other thread takes real time, and the manager looks at it when the clock moves."""
    for _ in range(1000):
        if any(a.kind == "bars_not_recorded" for a in world.alarms):
            return
        await asyncio.sleep(0.005)
        await world.passes(1)
    raise AssertionError(f"never said; {world.story()}")


async def test_the_bars_of_what_is_held_are_kept_with_their_arrival_and_no_others(make_world: MakeWorld) -> None:
    world = await make_world(RECORDING)
    await world.bar(101)  # before there is a position
    await world.enter(at=100)
    await world.bar(100.5)
    await world.bar(50, "MSFT")  # never held
    await world.bar("NaN")
    await world.bar(98.9)
    await world.fill()
    assert world.state == "filled"
    await world.bar(98.5)  # after the exit: a wider stop would still hold
    await world.stop()
    seen = kept(world)
    assert closes(seen) == [("AAPL", "100.5"), ("AAPL", "NaN"), ("AAPL", "98.9"), ("AAPL", "98.5")]
    assert all(one.received_at is not None and one.received_at >= one.bar.timestamp for one in seen)


async def test_they_can_be_read_a_second_later(make_world: MakeWorld) -> None:
    world = await make_world(RECORDING)
    await world.enter(at=100)
    await world.bar(100.5)
    await world.passes(2)
    await world.really(lambda: closes(kept(world)) == [("AAPL", "100.5")])


async def test_after_a_crash_and_a_restart_the_same_file_goes_on(make_world: MakeWorld) -> None:
    world = await make_world(RECORDING)
    await world.enter(at=100)
    await world.bar(98.9)
    await world.fill()
    await world.restart_in_order()
    await world.bar(98.7)  # flat since before the restart: it was held once, so what-if may need it
    await world.stop()
    assert closes(kept(world)) == [("AAPL", "98.9"), ("AAPL", "98.7")]


async def test_off_by_default(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter(at=100)
    await world.bar(100.5)
    await world.stop()
    assert not Path(f"{world.store_path}.bars").exists()


async def test_a_file_that_is_something_else_is_said_and_harms_no_exit(make_world: MakeWorld) -> None:
    world = await make_world(RECORDING, started=False)
    Path(f"{world.store_path}.bars").write_text("not a database, but a note of somebody's")
    await world.start()
    await world.enter(at=100)
    await world.bar(98.9)
    await world.fill()
    assert world.state == "filled"
    await is_said(world)
    await world.bar(98.5)
    await world.passes(5)
    said = [e for _, e in world.events if isinstance(e, AlarmRaised) and e.kind == "bars_not_recorded"]
    assert len(said) == 1
    assert "no longer recorded" in said[0].text
    assert Path(f"{world.store_path}.bars").read_text() == "not a database, but a note of somebody's"


async def test_a_file_that_breaks_later_is_said_and_harms_no_exit(make_world: MakeWorld) -> None:
    world = await make_world(RECORDING)
    await world.enter(at=100)
    await world.bar(100.5)
    await world.passes(2)
    await world.really(lambda: Path(f"{world.store_path}.bars").exists() and kept(world))
    with contextlib.closing(sqlite3.connect(f"{world.store_path}.bars")) as db, db:
        db.execute("DROP TABLE bars")
    await world.bar(98.9)
    await world.fill()
    assert world.state == "filled"
    await is_said(world)
    assert any("bars_not_recorded" in line for line in world.heard.lines)


async def test_a_disk_that_hangs_holds_nothing_up(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write to the bars' file never comes back: bars, exits, marks and the end of the manager go on."""
    hangs, told = threading.Event(), threading.Event()

    def record(self: BarRecorder, bar: Bar, *, received_at: datetime | None = None) -> None:
        told.set()
        hangs.wait()

    monkeypatch.setattr(BarRecorder, "record", record)
    monkeypatch.setattr(keeping, "WAITING_MAX", 3)
    monkeypatch.setattr(keeping, "CLOSE_WAIT_S", 0.05)
    try:
        world = await make_world(RECORDING)
        await world.enter(at=100)
        await world.bar(100.5)
        await world.passes(1)
        await world.really(told.is_set)
        for close in (100.4, 100.3, 100.2, 100.1):
            await world.bar(close)
        await world.bar(98.9)
        await world.fill()
        assert world.state == "filled"
        await is_said(world)
        await world.stop()
        assert any("did not come back" in line for line in world.heard.lines)
    finally:
        hangs.set()


async def test_nothing_of_it_runs_on_the_event_loop(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()
    originals = {name: getattr(BarRecorder, name) for name in ("__init__", "record", "flush", "close")}

    def watched(name: str) -> object:
        def method(self: BarRecorder, *args: object, **options: object) -> object:
            threads.add(threading.current_thread().name)
            return originals[name](self, *args, **options)

        return method

    for name in originals:
        monkeypatch.setattr(BarRecorder, name, watched(name))
    world = await make_world(RECORDING)
    await world.enter(at=100)
    for _ in range(3):
        await world.bar(100.5)
        await world.passes(2)
    await world.stop()
    assert len(kept(world)) == 3
    assert threads
    assert all(name.startswith("exitfsm-bars") for name in threads)


async def test_in_memory_there_is_no_place_for_them_and_that_is_said(make_world: MakeWorld) -> None:
    world = await make_world(RECORDING, started=False)
    store = ExitStore(":memory:")
    world.manager._opening = Opening(store, "", None)
    await world.start()
    await world.enter(at=100)
    await world.bar(98.9)
    await world.fill()
    assert any("bars_not_recorded" in line for line in world.heard.lines)
    await world.stop()
    store.close()


async def test_close_without_anything_kept_makes_no_file(tmp_path: Path) -> None:
    keeper = BarKeeper(tmp_path / "x.bars", ())
    keeper.write()
    await keeper.close()
    assert list(tmp_path.iterdir()) == []


def wandering(minutes: int) -> list[Bar]:
    """A price that swings about 100, wider and wider."""
    made, before = [], Decimal(100)
    for minute in range(minutes):
        close = Decimal(100) + Decimal((minute * 37) % 19 - 9) * Decimal(minute) / 400
        close = close.quantize(Decimal("0.01"))
        low, high = min(before, close), max(before, close)
        made.append(Bar("AAPL", T0 + timedelta(minutes=minute), before, high, low, close))
        before = close
    return made


async def test_what_if_reproduces_a_live_run_from_the_bars_it_kept(tmp_path: Path) -> None:
    """No file of bars is given: those that the manager kept are enough to take every decision again."""
    config = load_config(RECORDING | {"trailing_stop": {"enabled": True, "activation_pct": 0.3, "trail_pct": 0.2}})
    path = tmp_path / "exits.db"
    await PaperRun(config, str(path), re_enter=True).run(wandering(150))
    with ExitStore(path, read_only=True) as store:
        found = whatif(store, lambda: recorded_bars(f"{path}.bars"))
    assert len(found.positions) >= 3
    assert sum(p.decisions for p in found.positions) >= 6
    assert [p.first_difference for p in found.positions if not p.same_decisions] == []
    assert found.reproduced is True


@pytest.mark.parametrize("answers_after_s", [0, 0.02])
async def test_a_paper_run_believes_a_split_no_more_than_a_simulation_does(
    tmp_path: Path, answers_after_s: float
) -> None:
    """The paper venue has no price but that of the bars: it must not be the second source that confirms them."""
    start = datetime(2024, 1, 2, 15, 0, tzinfo=UTC)
    prices = (700, 701, 700, 100, "100.1", 100)
    feed = [Bar("AAPL", start + timedelta(minutes=n), p, p, p, p) for n, p in enumerate(prices)]
    run = PaperRun(load_config({}), str(tmp_path / "exits.db"))
    positions = run.broker.positions

    def slow() -> Sequence[BrokerPosition]:
        time.sleep(answers_after_s)
        return positions()

    run.broker.positions = slow  # type: ignore[method-assign]
    await run.run(feed)
    with ExitStore(tmp_path / "exits.db", read_only=True) as store:
        (row,) = store.positions()
        told = [type(r.event).__name__ for r in store.stream(row.position_id)]
    assert "TriggerRefused" in told
    assert "ExitTriggered" not in told


async def test_given_looks_at_bars_and_a_closed_market_then_what_if_decides_the_same_again(
    make_world: MakeWorld,
) -> None:
    trail = {"trailing_stop": {"enabled": True, "activation_pct": 1, "trail_pct": 1}, "evaluate_on": "range"}
    world = await make_world(RECORDING | trail | {"profit_taking": {"enabled": False}})
    await world.enter()
    world.broker.market = Session(is_open=False, next_open=T0 + timedelta(hours=1))
    await world.passes(301, step=10)
    for price in (98, "98.5"):
        await world.bar(price, after=60)
    world.broker.market = Session(is_open=True)
    await world.passes(301, step=10)
    start = world.clock.now() + timedelta(seconds=1)
    for close, low, high in (
        (100, "99.5", 100),
        ("102.5", "99.5", 103),
        ("102.2", "99.5", 103),
        ("101.9", "99.5", 103),
    ):
        world.clock.move(5)
        await world.manager.on_bar(world.make_bar(close, low=low, high=high, at=start))
        await world.settle()
    await world.fill()
    await world.until(lambda: world.state == "filled", seconds=20)
    await world.passes(2)
    names = [name for name in world.names() if name in ("TriggerRefused", "RefusalEnded", "StopMoved", "ExitTriggered")]
    assert names == ["TriggerRefused", "RefusalEnded", "StopMoved", "ExitTriggered"]
    await world.manager.stop()
    assert [str(one.bar.close) for one in kept(world)] == ["98", "98.5", "100", "102.5", "102.2", "101.9"]
    with ExitStore(world.store_path) as store:
        found = whatif(store, lambda: recorded_bars(f"{world.store_path}.bars"))
    assert [one.first_difference for one in found.positions] == [""]
    assert found.reproduced
