"""Alarms that are over end by themselves, and say so; the operator's list holds what he must look at."""

from __future__ import annotations

from decimal import Decimal

from harness import World

from exitfsm.events import AlarmAcknowledged
from exitfsm.testing import Raises, Returns
from exitfsm.values import BrokerPosition, Side


def ends(world: World) -> list[tuple[str, object]]:
    """Which alarms have ended by themselves, and why."""
    acks = [e for _, e in world.events if isinstance(e, AlarmAcknowledged) and e.by == "exitfsm"]
    return [(e.alarm_id.split("/")[-2], e.why) for e in acks]


async def test_the_broker_is_reconciled_with_again(world: World) -> None:
    await world.enter()
    world.broker.always("positions", Raises(ConnectionError()))
    await world.passes(200)
    assert "not_reconciled" in world.alarm_kinds
    world.broker.always("positions", None)
    await world.until(lambda: "not_reconciled" not in world.alarm_kinds, 90)
    assert ("not_reconciled", "the broker's books are clear again") in ends(world)


async def test_what_troubles_the_broker_is_over_when_it_says_so_no_more(world: World) -> None:
    said = ["the account is blocked", "a stream does not come up"]
    world.broker.troubles = lambda: list(said)  # type: ignore[attr-defined]
    await world.restart_in_order()
    await world.until(lambda: world.alarm_kinds.count("broker_trouble") == 2, 60)
    said.remove("the account is blocked")
    await world.until(lambda: world.alarm_kinds.count("broker_trouble") == 1, 60)
    assert [a.text for a in world.manager.alarms() if a.kind == "broker_trouble"] == ["a stream does not come up"]
    said.clear()
    await world.restart_in_order()
    await world.until(lambda: "broker_trouble" not in world.alarm_kinds, 60)


async def test_a_position_without_a_price_is_watched_at_last(world: World) -> None:
    row = BrokerPosition(symbol="TSLA", side=Side.LONG, qty=Decimal(5), avg_entry_price=Decimal(0))
    world.broker.always("positions", Returns([row]))
    world.broker.always("fills", Returns([]))
    await world.until(lambda: "unpriceable" in world.alarm_kinds, 300)
    world.broker.always("positions", Returns([]))
    await world.until(lambda: "unpriceable" not in world.alarm_kinds, 120)


async def test_bars_that_come_again_end_the_silence(world: World) -> None:
    await world.enter()
    await world.bar(100)
    await world.passes(620, step=5)
    assert "feed_silent" in world.alarm_kinds
    await world.bar("100.1")
    assert "feed_silent" not in world.alarm_kinds
    await world.passes(620, step=5)
    assert world.alarm_kinds.count("feed_silent") == 1  # the next silence is said, too


async def test_a_restart_remembers_what_has_ended(world: World) -> None:
    await world.enter()
    await world.bar(100)
    await world.passes(620, step=5)
    await world.restart()
    assert "feed_silent" in world.alarm_kinds
    await world.bar("100.1")
    await world.restart()
    assert "feed_silent" not in world.alarm_kinds
