"""Bars out of session: in simulation they count, unless the file's configuration says otherwise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from exitfsm import Bar, ConfigError, ExitManager, load_config, simulate
from exitfsm.events import ExitTriggered, TriggerRefused
from exitfsm.store import ExitStore
from exitfsm.testing import ScriptedBroker

#: A Tuesday; New York opens at 14:30 UTC and closes at 21:00.
DAY = datetime(2024, 1, 2, tzinfo=UTC)
GATED = {"session": {"trade": "regular"}}


def minute(hour: int, of: int, close: str, symbol: str = "AAPL") -> Bar:
    price = Decimal(close)
    return Bar(symbol, DAY + timedelta(hours=hour, minutes=of), price, price, price, price)


DAY_OF_BARS = [
    minute(20, 58, "100"),
    minute(20, 59, "100"),
    minute(21, 0, "90"),  # after the close, beyond the stop
    minute(21, 1, "90"),
    minute(38, 29, "90"),  # the next morning, before the open
    minute(38, 30, "98.5"),
    minute(38, 31, "98.4"),
]


def run(config: dict[str, object], bars: list[Bar]) -> tuple[list[object], list[object]]:
    with ExitStore(":memory:") as store:
        simulate(bars, load_config(config), store=store)
        events = [r.event for r in store.events()]
    return [e for e in events if isinstance(e, ExitTriggered)], [e for e in events if isinstance(e, TriggerRefused)]


@pytest.mark.parametrize("config", [{}, {"session": {"trade": "live"}}, {"session": {"trade": "extended"}}])
def test_prices_count_whenever_they_come(config: dict[str, object]) -> None:
    (triggered,), refused = run(config, DAY_OF_BARS)
    assert triggered.bar_at == DAY + timedelta(hours=21)
    assert refused == []


def test_with_regular_hours_in_the_file_a_bar_out_of_session_decides_nothing() -> None:
    (triggered,), refused = run(GATED, DAY_OF_BARS)
    assert triggered.bar_at == DAY + timedelta(hours=38, minutes=30)
    assert [(e.reason, e.bar_at) for e in refused] == [
        ("out_of_session", DAY + timedelta(hours=21))
    ]  # one run, one event


def test_a_bar_is_inside_if_any_part_of_it_is() -> None:
    hours = [minute(19, 0, "100"), minute(20, 0, "100"), minute(21, 0, "90"), minute(38, 0, "90"), minute(39, 0, "90")]
    (triggered,), _ = run(GATED, hours)
    assert triggered.bar_at == DAY + timedelta(hours=38)  # 14:00 to 15:00 has half an hour of the session


def test_bars_of_days_are_always_inside_and_coins_never_close() -> None:
    days = [Bar("AAPL", DAY + timedelta(days=n), *[Decimal(c)] * 4) for n, c in enumerate(("100", "100", "98", "98"))]
    (triggered,), refused = run(GATED, days)
    assert (triggered.bar_at, refused) == (DAY + timedelta(days=2), [])
    coins = [minute(21, n, c, "BTC/USD") for n, c in enumerate(("100", "100", "98", "98"))]
    assert len(run(GATED, coins)[0]) == 1


async def test_a_rule_that_needs_a_session_where_there_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    broker = ScriptedBroker()
    broker.session = None  # type: ignore[assignment, method-assign]
    rule = {"end_of_session": {"enabled": True}}
    manager = ExitManager(broker, tmp_path / "exits.db", config=rule)
    with pytest.raises(ConfigError, match="nobody says when that is"):
        await manager.start()
    for said in ({"calendar": "24/7"}, {"close": "15:00"}):
        async with ExitManager(broker, tmp_path / "exits.db", config=rule | {"session": said}):
            pass
    async with ExitManager(ScriptedBroker(), tmp_path / "exits.db", config=rule):
        pass
