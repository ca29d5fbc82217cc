"""Walks the sample rule through everything that knows rules. Run on a copy of the package that has it; see the test.

Each step is named when it is done. What it is walked with is the real thing: a file of settings, the simulation, the
live manager, a store, a page.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from harness import T0, World  # type: ignore[import-not-found]  # beside the tests of the manager

from exitfsm import Bar, ExitStore
from exitfsm.audit import explain, sentences, trail, verify, whatif
from exitfsm.cli.alpaca_checks import policy_checks
from exitfsm.config import config_schema, load_config, reference_table
from exitfsm.errors import ConfigError
from exitfsm.events import ExitTriggered
from exitfsm.policy import ExitPolicy
from exitfsm.recorded_bars import Seen
from exitfsm.report import position_page, suppose
from exitfsm.simulate import simulate
from exitfsm.words import in_words

SETTINGS = """
exit_manager:
  record_bars: true
  stop_loss: {threshold_pct: 5}
  profit_taking: {threshold_pct: 9}
  vwap_stop: {enabled: true, beyond_pct: 1}
"""
SETTINGS_OFF = {"stop_loss": {"threshold_pct": 5}, "profit_taking": {"threshold_pct": 9}}
#: Entered at 100; the average of what follows is 101: 99.98 is within the stop of 5 % and beyond that of the rule.
CLOSES = ("100", "100.6", "101.2", "101.2", "99.98", "99.9")


def bars(symbol: str = "AAPL") -> list[Bar]:
    """A rise, and a fall that only the sample rule minds."""
    times = (T0 + timedelta(seconds=60 * number) for number in range(len(CLOSES)))
    return [Bar(symbol, at, c, c, c, c, 100) for at, c in zip(times, map(Decimal, CLOSES), strict=True)]


def configured(place: Path) -> Path:
    """A file of settings, its schema and its mistakes."""
    file = place / "bot.yaml"
    file.write_text(SETTINGS)
    policy = load_config(file).policy
    assert policy.section("vwap_stop").beyond_pct == 1
    assert policy.digest() != load_config(SETTINGS_OFF).policy.digest()
    assert ExitPolicy().digest() == "dbec64c2e6ff"
    assert load_config({"vwap_stop": {"enabled": False}}).policy == ExitPolicy()
    schema = config_schema()["properties"]["exit_manager"]["properties"]["vwap_stop"]
    assert set(schema["properties"]) == {"enabled", "beyond_pct"}
    assert "vwap_stop.beyond_pct" in {row.key for row in reference_table()}
    with contextlib.suppress(ConfigError):
        load_config({"vwap_stop": {"beyond_pct": 100}})
        raise AssertionError("100 % is not below 100")
    print("done: configuration file, schema, reference, digest")
    return file


def simulated(place: Path, file: Path) -> tuple[ExitStore, str]:
    """The simulation exits by the rule, and says by what level."""
    store = ExitStore(place / "simulated.db")
    result = simulate(bars(), load_config(file), store=store)
    [ended] = result.exits
    assert ended.reason == "stop_loss"
    assert ended.trigger_price == Decimal("99.98")
    assert not simulate(bars(), load_config(SETTINGS_OFF)).exits
    [trigger] = (r for r in store.stream(ended.position_id) if isinstance(r.event, ExitTriggered))
    assert trigger.event.detail == "vwap_stop"
    assert trigger.event.level == Decimal("99.99")
    assert verify(store).ok
    print("done: evaluation in the simulation, events, verification")
    return store, ended.position_id


async def live(place: Path, *, stop: str) -> None:
    """The live manager exits on the same bar; what was folded outlives a stop, and a crash that lost it."""
    (place / stop).mkdir()
    config = load_config(place / "bot.yaml").as_dict()["exit_manager"]
    config |= {"record_bars": stop == "crashes", "bars": str(place / stop / "bars.db")}
    world = World(place / stop, config)
    await world.start()
    await world.enter(10, at=100)
    for number, one in enumerate(bars()[1:5], 1):
        await world.passes((one.timestamp - world.clock.now()).total_seconds(), step=5)
        world.broker.price("AAPL", one.close)
        await world.manager.on_bar(one)
        await world.settle()
        assert world.state == ("monitoring" if number < 4 else "submitted"), number
        if number == 2 and stop == "stops":
            await world.restart_in_order()
        elif number == 2:
            await world.passes(2)
            await world.crash()
            lose_what_was_folded(world.store_path)
            await world.start()
    [trigger] = (e for _, e in world.events if isinstance(e, ExitTriggered))
    assert (trigger.detail, trigger.level) == ("vwap_stop", Decimal("99.99"))
    await world.fill()
    await world.finish()


def lose_what_was_folded(path: Path) -> None:
    """The store comes back without what the rules had folded."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        assert db.execute("DELETE FROM meta WHERE key LIKE 'folded/%'").rowcount == 1


def audited(store: ExitStore, key: str) -> None:
    """`explain`, what-if and the page know the rule by its name."""
    seen = [Seen(bar, None) for bar in bars()]
    watched = explain(store, key, at=T0 + timedelta(seconds=200), bars=bars())
    assert [level.price for level in watched.levels if level.name == "vwap_stop"] == [Decimal("99.99")]
    assert any("vwap_stop stands at 99.99" in sentence for sentence in sentences(watched))
    assert any("the stop at 99.99 (1 %)" in sentence for sentence in sentences(explain(store, key, bars=bars())))
    [step] = (s for s in trail(store, key) if isinstance(s.recorded.event, ExitTriggered))
    assert "(vwap_stop)" in in_words(step.before, step.after, step.recorded.event)
    print("done: levels, explain, words")
    same = whatif(store, lambda: seen)
    assert same.reproduced
    [other] = whatif(store, lambda: seen, {"vwap_stop.beyond_pct": "3"}).positions
    assert other.replayed is None
    with contextlib.suppress(ConfigError):
        whatif(store, lambda: seen, {"vwap_stop.nothing": "3"})
        raise AssertionError("no such setting")
    print("done: what-if")
    supposed = suppose(store, key, seen)
    assert any("vwap_stop" in one.changes for one in supposed)
    page = position_page(store, key, bars=bars(), supposed=supposed)
    assert page.count("vwap_stop") >= 3
    print("done: page")


def checked(file: Path) -> None:
    """Preflight names it."""
    said = " ".join(check.text for check in policy_checks(load_config(file).policy))
    assert "vwap stop 1 %" in said
    assert "vwap_stop" in said.partition("on: ")[2]
    print("done: preflight")


def main(place: Path) -> None:
    """All of it, in a folder of its own."""
    file = configured(place)
    store, key = simulated(place, file)
    asyncio.run(live(place, stop="stops"))
    asyncio.run(live(place, stop="crashes"))
    print("done: evaluation live, after a stop and after a crash that lost what was folded")
    audited(store, key)
    checked(file)
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
