"""`adopt`, `ignore`, and what a `flatten` makes of what is not managed, on the real manager."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from harness import MakeWorld, World
from test_steering import ID, commands, fill_all, flattening, give, runtime_folder, steered, unprotected
from test_steering_hard import until

from exitfsm import Session
from exitfsm.cli.standing import _now as standing_of
from exitfsm.control import desk as desk_module
from exitfsm.control.telling import scope_lines
from exitfsm.errors import StoreError
from exitfsm.events import ExitTriggered, PositionClosedElsewhere, PositionOpened, ScopeChanged
from exitfsm.lifecycle import State
from exitfsm.store import ExitStore
from exitfsm.testing import Returns

__all__ = ["runtime_folder"]
IGNORED = {"manage": {"ignore": ["VTI"]}}
HANDED = {"manage": {"owner": "handed"}, "live": {"entry_id_prefix": "bot-"}}


async def beside(make_world: MakeWorld, config: dict[str, Any]) -> World:
    """A manager that starts where 40 VTI have been held for long; then the bot buys ten AAPL."""
    world = await make_world(config, started=False)
    world.broker.now = lambda: world.clock.now() - timedelta(days=20)
    world.broker.enter("VTI", "long", 40, 200, client_order_id="by-hand-1")
    world.broker.lose_updates()
    world.broker.now = world.clock.now
    await world.start()
    world.broker.enter("AAPL", "long", 10, 100)
    await world.deliver()
    world.clock.move(1)
    if config is HANDED:
        await world.manager.watch("AAPL", "long", 10, 100, world.clock.now())
    await world.manager.sync()
    return world


def watched(world: World) -> dict[str, int]:
    return {p.symbol: int(p.remaining_qty) for p in world.manager.positions()}


def scoped(world: World) -> list[tuple[str, str, str]]:
    return [(e.symbol, e.how, e.command) for _, e in world.events if isinstance(e, ScopeChanged)]


# --- adopt and ignore -------------------------------------------------------------------------------------------------


async def test_what_is_adopted_is_watched_and_sold_by_the_rules_and_a_restart_keeps_it(make_world: MakeWorld) -> None:
    world = await beside(make_world, IGNORED)
    assert watched(world) == {"AAPL": 10}
    async with steered(world):
        answer = await give(world, lambda c: c.adopt("vti", "AAPL", reason="mine now"))
        assert answer.code == 0
        assert "AAPL: it is managed already" in answer.lines[0]
        assert answer.lines[1] == "VTI: managed from now on; 40 long at 200 are watched"
        assert watched(world) == {"AAPL": 10, "VTI": 40}
    await world.restart()
    assert watched(world) == {"AAPL": 10, "VTI": 40}
    await world.bar(100, "VTI")
    await world.until(lambda: world.orders)
    assert [(order.symbol, order.qty) for order in world.orders] == [("VTI", 40)]
    (change,) = [e for _, e in world.events if isinstance(e, ScopeChanged)]
    assert (change.how, change.why, change.command) == ("adopted", "mine now", "")
    assert "#" in change.by


async def test_what_is_ignored_is_held_on_unwatched_and_a_restart_keeps_it(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter(10, at=100)
    async with steered(world):
        answer = await give(world, lambda c: c.ignore("AAPL", reason="mine"))
        assert (answer.code, watched(world)) == (0, {})
        assert answer.lines == ("AAPL: not managed from now on; 10 long are held on, and nobody watches them",)
        again = await give(world, lambda c: c.ignore("AAPL"))
        assert (again.code, "not managed already" in again.lines[0]) == (0, True)
        assert any(line.startswith("not managed: AAPL 10, ignored by") for line in scope_lines(world.manager))
    await world.bar(50)
    await world.restart()
    await world.bar(50)
    await world.passes(130, step=10)
    assert world.orders == []
    assert world.broker.held("AAPL") == 10
    (closed,) = [e for _, e in world.events if isinstance(e, PositionClosedElsewhere)]
    assert closed.how == "ignored"
    with pytest.raises(ValueError, match="ignored by"):
        await world.manager.watch("AAPL", "long", 10, 100, world.clock.now())
    with ExitStore(world.store_path, read_only=True) as store:
        assert [(one.symbol, one.managed) for one in standing_of(store).scope] == [("AAPL", False)]


async def test_what_was_ignored_and_is_adopted_again_is_another_position_of_the_same(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.enter(10, at=100)
    names = [world.position.position_id]
    async with steered(world):
        for _ in range(2):
            world.clock.move(1)
            assert (await give(world, lambda c: c.ignore("AAPL"))).code == 0
            world.clock.move(1)
            assert (await give(world, lambda c: c.adopt("AAPL"))).code == 0
            names.append(world.position.position_id)
    assert len(set(names)) == 3
    assert "epoch_unknown" not in world.alarm_kinds
    await world.bar("98.9")
    await world.until(lambda: world.orders)
    await world.fill()
    await world.until(lambda: not world.manager.positions())
    assert world.broker.held("AAPL") == 0
    assert len(world.orders) == 1


async def test_while_an_order_of_ours_may_be_live_the_scope_stays_as_it_is(world: World) -> None:
    await world.bar(98)
    async with steered(world):
        answer = await give(world, lambda c: c.ignore("AAPL"))
        assert answer.code == 1
        assert answer.lines[0].startswith("AAPL: nothing was done: order ")
        assert answer.lines[0].endswith("of ours works at the broker: give it again once that has ended")
    assert scoped(world) == []
    await world.fill()
    await world.until(lambda: not world.manager.positions())
    assert world.broker.held("AAPL") == 0


async def test_what_is_unprotected_is_seen_to_first(world: World) -> None:
    await unprotected(world)
    async with steered(world):
        answer = await give(world, lambda c: c.ignore("AAPL"))
    assert (answer.code, "AAPL is unprotected: see to it first" in answer.lines[0]) == (1, True)
    assert scoped(world) == []


async def test_where_the_broker_does_not_say_which_orders_work_the_scope_stays_as_it_is(world: World) -> None:
    for _ in range(3):
        world.broker.answer("open_orders", Returns(None))
    async with steered(world):
        answer = await give(world, lambda c: c.ignore("AAPL"))
    assert (answer.code, watched(world)) == (1, {"AAPL": 10})


async def test_an_exit_that_begins_while_a_person_says_ignore_is_not_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = world.manager._at_work.context.calls
    listed = calls.open_orders

    async def meanwhile() -> Any:
        found = await listed()
        world.clock.move(60)
        await world.manager.on_bar(world.make_bar(98))
        return found

    monkeypatch.setattr(calls, "open_orders", meanwhile)
    async with steered(world):
        answer = await give(world, lambda c: c.ignore("AAPL"))
        assert answer.code == 1
        assert "its exit is under way" in answer.lines[0]
    await world.settle()
    assert scoped(world) == []
    assert len(world.orders) == 1


async def test_one_that_was_let_go_in_the_store_alone_is_let_go_at_the_start(world: World) -> None:
    async with steered(world) as server:
        change = ScopeChanged(symbol="AAPL", how="ignored", by=f"jo #{ID}", at=world.clock.now())
        await server._desk._record(change)  # killed between the two commits
    assert watched(world) == {"AAPL": 10}
    for _ in range(20):  # no reconciliation comes to an end before a bar does
        world.broker.answer("positions", Returns(None))
    await world.restart()
    assert watched(world) == {}
    await world.bar(50)
    assert world.orders == []
    world.broker.truthful()


async def test_a_repeat_of_an_ignore_that_was_killed_says_that_it_took_effect(world: World) -> None:
    async with steered(world) as server:
        record = server._desk._record

        async def dies(event: Any) -> None:
            if type(event).__name__ == "CommandAnswered":
                raise StoreError("the process is dead")
            await record(event)

        server._desk._record = dies  # type: ignore[method-assign]
        await give(world, lambda c: c.command("ignore", "AAPL", command_id=ID))
    await world.restart()
    async with steered(world):
        answer = await give(world, lambda c: c.command("ignore", "AAPL", command_id=ID))
    assert answer.lines[0].startswith("took effect before the manager ended: AAPL")
    assert [how for _, how, _ in scoped(world)] == ["ignored"]


async def test_of_what_is_handed_over_in_part_all_is_watched_once_it_is_adopted(make_world: MakeWorld) -> None:
    world = await make_world(HANDED)
    world.broker.enter("AAPL", "long", 100, 100, client_order_id="by-hand-1")
    world.clock.move(1)
    await world.manager.watch("AAPL", "long", 10, 100, world.clock.now())
    assert scope_lines(world.manager) == [] or "AAPL" in scope_lines(world.manager)[0]
    await world.manager.sync()
    assert scope_lines(world.manager) == ["not managed: AAPL 90, more than was handed to watch()"]
    async with steered(world):
        assert (await give(world, lambda c: c.adopt("AAPL"))).code == 0
    await world.until(lambda: watched(world) == {"AAPL": 100}, seconds=300, step=5)


# --- flatten ----------------------------------------------------------------------------------------------------------


async def test_flatten_sells_what_is_managed_and_lists_what_is_not(make_world: MakeWorld) -> None:
    world = await beside(make_world, IGNORED)
    async with steered(world):
        pressed = await flattening(world)
        await until(lambda: world.orders)
        await fill_all(world)
        answer = await pressed
    assert answer.code == 0, answer
    assert answer.lines == ("not managed: VTI 40, manage.ignore names it",)
    assert answer.data["outside"] == list(answer.lines)
    assert [order.symbol for order in world.orders] == ["AAPL"]
    assert world.broker.held("VTI") == 40
    assert scoped(world) == []


@pytest.mark.parametrize("config", [IGNORED, HANDED])
async def test_with_all_positions_it_is_taken_in_for_this_alone_and_sold(
    make_world: MakeWorld, config: dict[str, Any]
) -> None:
    world = await beside(make_world, config)
    async with steered(world):
        pressed = await flattening(world, command_id=ID, all_positions=True)
        await until(lambda: len(world.orders) == 2)
        await fill_all(world)
        answer = await pressed
        assert answer.code == 0, answer
        assert {order.symbol for order in world.orders} == {"AAPL", "VTI"}
        assert world.broker.held("VTI") == world.broker.held("AAPL") == 0
        await until(lambda: scoped(world)[-1][1] == "restored")
        assert scoped(world)[0] == ("VTI", "adopted", ID)
        world.broker.enter("VTI", "long", 5, 200)  # what is bought after that is nobody's here
        world.clock.move(5)
        await world.manager.sync()
        assert watched(world) == {}
    assert len(world.orders) == 2


async def test_what_could_not_be_taken_in_is_in_the_way_of_the_proof(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await beside(make_world, IGNORED)

    async def nothing(*_: Any) -> list[Any]:
        return []

    async with steered(world) as server:
        monkeypatch.setattr(server._desk._scoping, "_take_all_in", nothing)
        pressed = await flattening(world, all_positions=True, timeout_s=3.0)
        await until(lambda: world.orders)
        await fill_all(world)
        answer = await pressed
    assert answer.code == 1
    assert answer.lines == ("VTI: the broker shows 40 long that is not watched yet",)


async def test_what_was_taken_in_goes_out_when_trading_is_resumed_and_the_next_start_finds_it_so(
    make_world: MakeWorld,
) -> None:
    world = await beside(make_world, IGNORED)
    closed = Session(is_open=False, next_open=world.clock.now() + timedelta(hours=20))
    for _ in range(80):
        world.broker.answer("session", Returns(closed))
    world.clock.move(24 * 3600)
    async with steered(world):
        answer = await (await flattening(world, command_id=ID, all_positions=True))
        assert answer.code == 1
        assert [how for _, how, _ in scoped(world)] == ["adopted"]
    await world.restart()
    async with steered(world):
        assert [how for _, how, _ in scoped(world)] == ["adopted"]  # it is in force yet
        await give(world, lambda c: c.resume())
        assert [how for _, how, _ in scoped(world)] == ["adopted", "restored"]


async def test_an_exit_that_is_latched_for_all_positions_is_not_cut_off_by_the_end_of_it(make_world: MakeWorld) -> None:
    world = await beside(make_world, {**IGNORED, "live": {"sync_seconds": 5}})
    async with steered(world):
        await (await flattening(world, all_positions=True, timeout_s=0.3))
        await until(lambda: len(world.orders) == 2)
        await give(world, lambda c: c.resume())
        await world.passes(20)
        await fill_all(world)
        await world.until(lambda: not world.manager.positions(), seconds=60)
    assert world.broker.held("VTI") == 0
    assert len(world.orders) == 2


# --- entries ----------------------------------------------------------------------------------------------------------


async def with_orders(make_world: MakeWorld) -> World:
    """The bot's entries and a person's orders work, in what is managed and beside it."""
    world = await beside(make_world, {**IGNORED, "live": {"entry_id_prefix": "bot-"}})
    place = world.broker.place
    place("NVDA", "buy", 3, client_order_id="bot-1", tell=False)
    place("NVDA", "buy", 4, client_order_id="web-1", tell=False)
    place("VTI", "buy", 4, client_order_id="bot-2", tell=False)
    place("VTI", "sell", 4, client_order_id="web-2", tell=False)
    return world


def working(world: World) -> set[str]:
    return {booked.client_order_id for booked in world.broker.working} - {o.client_order_id for o in world.orders}


async def test_flatten_cancels_the_bots_entries_in_what_is_managed_and_never_a_persons(make_world: MakeWorld) -> None:
    world = await with_orders(make_world)
    said: list[Any] = []
    async with steered(world):
        pressed = await flattening(world, timeout_s=4.0, said=said.append)
        await until(lambda: world.orders)
        await until(lambda: "bot-1" in cancels_asked(world))
        world.broker.end_cancel("bot-1")
        await fill_all(world)
        answer = await pressed
        assert answer.code == 1  # a person's order works in what is managed
        assert any("NVDA: order web-1 works, not ours: cancel it at the broker" in line for line in answer.lines)
        assert not any("web-2" in line or "bot-2" in line for line in answer.lines)
        assert cancels_asked(world) == {"bot-1"}
        world.broker.end_cancel("web-1")  # he does
        assert (await passing(world, await flattening(world, timeout_s=8.0))).code == 0
    assert cancels_asked(world) == {"bot-1"}
    assert any("entry order bot-1" in line for line in said[0].lines)


def cancels_asked(world: World) -> set[str]:
    return {str(call.args[0]) for call in world.broker.calls if call.method == "cancel"}


async def passing(world: World, pressed: asyncio.Task[Any]) -> Any:
    """What is answered, while time passes."""
    while not pressed.done():
        world.clock.move(0.1)
        await asyncio.sleep(0.01)
    return await pressed


async def test_an_entry_that_comes_while_it_is_in_force_is_canceled_too(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "FOLLOW_S", 0.05)
    world = await make_world({"live": {"entry_id_prefix": "bot-"}})
    async with steered(world):
        world.broker.place("NVDA", "buy", 3, client_order_id="bot-1", tell=False)
        pressed = await flattening(world, timeout_s=20.0)
        await until(lambda: "bot-1" in cancels_asked(world))
        world.broker.place("NVDA", "buy", 3, client_order_id="bot-2", tell=False)
        world.broker.end_cancel("bot-1")
        await until(lambda: "bot-2" in cancels_asked(world))
        world.broker.end_cancel("bot-2")
        assert (await passing(world, pressed)).code == 0
    assert world.orders == []


async def test_where_only_what_is_handed_over_is_managed_orders_of_others_are_nobodys(make_world: MakeWorld) -> None:
    world = await beside(make_world, HANDED)
    world.broker.place("NVDA", "buy", 4, client_order_id="web-1", tell=False)
    async with steered(world):
        pressed = await flattening(world)
        await until(lambda: world.orders)
        await fill_all(world)
        answer = await pressed
    assert answer.code == 0, answer
    assert any(line.startswith("not managed: VTI 40") for line in answer.lines)
    assert cancels_asked(world) == set()


async def test_all_that_a_person_said_is_in_the_log_once(make_world: MakeWorld) -> None:
    world = await beside(make_world, IGNORED)
    async with steered(world):
        pressed = [await flattening(world, all_positions=True) for _ in range(3)]
        await until(lambda: len(world.orders) == 2)
        await fill_all(world)
        answers = await asyncio.gather(*pressed)
    assert [answer.code for answer in answers] == [0, 0, 0]
    assert len(world.orders) == 2
    assert len([e for _, e in world.events if isinstance(e, PositionOpened) and e.symbol == "VTI"]) == 1
    assert len([e for _, e in world.events if isinstance(e, ExitTriggered)]) == 2
    assert len(commands(world)) >= 6
    assert all(p.state is not State.UNPROTECTED for p in world.manager.positions())
