"""One position that cannot be dealt with hides no other one."""

from __future__ import annotations

from decimal import Decimal

import pytest
from harness import GOOD, MakeWorld, World
from msgspec.structs import replace

from exitfsm.ports import AssetRules
from exitfsm.testing import Returns


async def test_given_a_defect_in_one_position_when_reconciled_then_the_others_are_told_and_it_is_an_alarm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.enter(5, symbol="MSFT")
    view = world.manager._parts.view
    tell = view.tell_read

    async def fails_for_one(position_id: str, *rest: object) -> None:
        if position_id.startswith("AAPL"):
            raise IndexError("list index out of range")
        await tell(position_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(view, "tell_read", fails_for_one)
    world.expected.add("read_not_understood")
    world.broker.trade_by_hand("MSFT", "buy", 3, 100)
    await world.manager.sync()
    await world.passes(30, step=5)
    await world.manager.sync()
    assert [p.remaining_qty for p in world.manager.positions() if p.symbol == "MSFT"] == [8]
    assert "position_unreadable" in world.alarm_kinds
    monkeypatch.undo()
    await world.manager.sync()
    assert world.manager.alarms() == [], "it ends by itself"


async def test_given_a_residue_beyond_an_exit_at_work_when_the_bot_says_what_it_bought_then_no_residue_is_watched(
    make_world: MakeWorld,
) -> None:
    """What is shown may be from before the purchase: what is beyond the exit by that is too little to sell."""
    steps = AssetRules(qty_step=Decimal("0.1"), qty_min=Decimal("0.1"))
    world = await make_world(capabilities=replace(GOOD, stocks=steps))
    await world.enter("10.05")
    await world.bar(98)
    await world.fill("9.9")
    [row] = await world.broker.positions()
    world.broker.always("positions", Returns([replace(row, qty=Decimal("0.20"))]))
    world.clock.move(1)
    found = await world.manager.watch("AAPL", "long", 5, 98, world.clock.now())
    assert found.position_id == world.manager.positions()[0].position_id
    assert len(world.manager.positions()) == 1
