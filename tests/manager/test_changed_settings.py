"""Changed settings reach open positions: at a restart, when the configuration is read anew, and by a person's word."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness import T0, MakeWorld, World

from exitfsm import ExitPolicy, ExitType, PolicyChanged, PositionOpened, StopMoved
from exitfsm.config import ExitConfig
from exitfsm.errors import ConfigError
from exitfsm.position import levels
from exitfsm.store import ExitStore

WIDE = {"profit_taking": {"threshold_pct": 80}}
TRAIL = {"trailing_stop": {"enabled": True, "activation_pct": 1, "trail_pct": 2}, **WIDE}
HEAD = "exit_manager:\n  profit_taking: {threshold_pct: 80}\n"


def stop_of(world: World) -> Decimal | None:
    """The stop that is reached first."""
    p = world.position
    stops = levels(p, p.opened_at)[1]
    return stops[0].price if stops else None


def changes(world: World) -> list[PolicyChanged]:
    return [event for _, event in world.events if isinstance(event, PolicyChanged)]


def said(world: World) -> list[str]:
    return [line.partition("settings_changed ")[2] for line in world.heard.lines if "settings_changed" in line]


async def restart_with(world: World, config: dict[str, Any]) -> None:
    world.config = {**WIDE, **config}
    await world.restart_in_order()


# --- a restart --------------------------------------------------------------------------------------------------------


async def test_given_other_settings_at_a_restart_then_they_are_recorded_said_and_in_force(
    make_world: MakeWorld,
) -> None:
    world = await make_world(WIDE)
    await world.enter(10, at=100)
    await restart_with(world, {"stop_loss": {"threshold_pct": 2}})
    assert [(c.by, c.policy.stop_loss.threshold_pct) for c in changes(world)] == [("the configuration", Decimal(2))]
    assert said(world) == ["AAPL: stop 1 % → 2 %"]
    await world.bar("98.5")
    assert world.state == "monitoring"
    await world.bar("97.9")
    assert world.position.reason == "stop_loss"


async def test_given_the_same_settings_at_a_restart_then_nothing_is_recorded(make_world: MakeWorld) -> None:
    world = await make_world(TRAIL)
    await world.enter(10, at=100)
    await restart_with(world, TRAIL)
    await world.restart()
    assert not changes(world)
    assert not said(world)


async def test_given_a_wider_trail_at_a_restart_then_the_stop_stays_where_it_has_moved(make_world: MakeWorld) -> None:
    world = await make_world(TRAIL)
    await world.enter(10, at=100)
    await world.bar(110)
    assert world.position.trail_stop == Decimal("107.8")
    await restart_with(world, {**TRAIL, "trailing_stop": {**TRAIL["trailing_stop"], "trail_pct": 6}})
    assert said(world) == ["AAPL: trailing_stop.trail_pct 2 % → 6 %, its stop that has moved stays at 107.8"]
    assert world.position.trail_stop == Decimal("107.8")
    await world.bar("107.7")
    assert world.position.reason == "trailing_stop"


async def test_given_a_trail_that_is_switched_off_at_a_restart_then_its_stop_still_counts(
    make_world: MakeWorld,
) -> None:
    world = await make_world(TRAIL)
    await world.enter(10, at=100)
    await world.bar(110)
    await restart_with(world, {"profit_taking": {"threshold_pct": 80}})
    await world.bar("107.7")
    assert world.position.reason == "trailing_stop"


async def test_given_an_exit_under_way_at_a_restart_then_it_goes_on_by_what_decided_it(make_world: MakeWorld) -> None:
    world = await make_world(WIDE)
    await world.enter(10, at=100)
    await world.bar("98.9")
    await restart_with(world, {"stop_loss": {"threshold_pct": 5}})
    assert not changes(world)
    assert world.position.policy.stop_loss == ExitPolicy().stop_loss
    assert world.state == "submitted"
    await world.fill()
    await world.until(lambda: world.state == "filled")


async def test_given_a_position_with_its_own_policy_at_a_restart_then_it_keeps_it(make_world: MakeWorld) -> None:
    world = await make_world(WIDE)
    await world.enter(10, at=100)
    await world.manager.change_policy("AAPL", stop_loss={"threshold_pct": 3})
    await restart_with(world, {"stop_loss": {"threshold_pct": 2}})
    assert len(changes(world)) == 1
    assert world.position.policy.stop_loss.threshold_pct == 3
    assert world.position.own_policy
    await world.manager.change_policy("AAPL")
    assert world.position.policy.stop_loss.threshold_pct == 2
    assert not world.position.own_policy
    await restart_with(world, {"stop_loss": {"threshold_pct": 4}})
    assert world.position.policy.stop_loss.threshold_pct == 4


async def test_given_a_price_for_all_when_it_is_on_the_wrong_side_of_an_entry_then_the_percentage_counts(
    make_world: MakeWorld,
) -> None:
    with pytest.warns(UserWarning, match="these settings are for every position"):
        world = await make_world({**WIDE, "stop_loss": {"price": 150, "threshold_pct": 2}})
    await world.enter(10, at=100)
    await world.enter(10, at=200, symbol="MSFT")
    aapl, msft = world.manager.positions()
    assert levels(aapl, T0)[1][0].price == 98
    assert levels(msft, T0)[1][0].price == 150


# --- a policy of its own ----------------------------------------------------------------------------------------------


async def watched(world: World, **given: Any) -> None:
    world.broker.enter("AAPL", "long", 10, 100)
    await world.manager.watch("AAPL", "long", 10, 100, world.clock.now(), **given)
    await world.settle()


async def test_given_a_policy_when_watched_then_it_is_the_positions_own_from_its_first_event(
    make_world: MakeWorld,
) -> None:
    world = await make_world(WIDE)
    await watched(world, policy={"stop_loss": {"price": 95}, "profit_taking": {"price": "120.5"}})
    [opened] = [event for _, event in world.events if isinstance(event, PositionOpened)]
    assert opened.own_policy is True
    target, [stop] = levels(world.position, T0)
    assert target is not None
    assert (target.price, stop.price, stop.threshold_pct) == (Decimal("120.5"), 95, 5)
    await watched_again(world)
    await world.bar(95)
    assert world.position.reason == "stop_loss"
    assert world.last_order.qty == 10


async def watched_again(world: World) -> None:
    """Repeating it changes nothing; nor does another policy: that is changed by name."""
    before = world.position
    await world.manager.watch("AAPL", "long", 10, 100, world.position.opened_at, policy={"stop_loss": {"price": 90}})
    assert world.position == before


async def test_given_a_position_that_was_found_first_when_watched_with_a_policy_then_it_has_it(
    make_world: MakeWorld,
) -> None:
    world = await make_world(WIDE)
    await world.enter(10, at=100)
    await world.manager.watch("AAPL", "long", 10, 100, world.position.opened_at, policy={"stop_loss": {"price": 95}})
    assert stop_of(world) == 95
    assert [c.own for c in changes(world)] == [True]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"stop_loss": {"price": 101}}, "the stop of a long must be below its entry at 100, and 101 is not"),
        ({"stop_loss": {"price": 100}}, "must be below its entry at 100"),
        ({"profit_taking": {"price": 99}}, "the target of a long must be above its entry at 100, and 99 is not"),
        ({"stop_loss": {"price": 0}}, "stop_loss.price: 0 is not allowed; must be greater than 0"),
        ({"stop_loss": {"prize": 99}}, 'did you mean "price"'),
        ({"live": {"poll_seconds": 1}}, "live is no setting of the policy"),
        (
            {"stop_loss": {"price": 99}, "atr_levels": {"enabled": True}},
            "while atr_levels sets the stop",
        ),
        ({"custom_rule": {"enabled": True, "name": "mine"}}, "no function was given for the rule 'mine' '1'"),
        ({"end_of_session": {"enabled": True}}, "the broker tells no hours"),
    ],
)
async def test_given_what_cannot_be_had_then_it_is_said_and_nothing_is_changed(
    make_world: MakeWorld, given: dict[str, Any], why: str
) -> None:
    world = await make_world(WIDE)
    world.manager._parts.context.settings._has_hours = False
    with pytest.raises((ValueError, ConfigError), match=why):
        await watched(world, policy=given)
    assert not world.manager.positions() or not world.position.own_policy
    await world.manager.sync()
    with pytest.raises((ValueError, ConfigError), match=why):
        await world.manager.change_policy("AAPL", given)
    with pytest.raises(ValueError, match="MSFT: no open position of it is watched"):
        await world.manager.change_policy("MSFT", given)
    assert not changes(world)


async def test_given_an_exit_under_way_when_settings_or_stop_are_changed_then_it_is_refused(
    make_world: MakeWorld,
) -> None:
    world = await make_world(WIDE)
    await world.enter(10, at=100)
    await world.bar("98.9")
    with pytest.raises(ValueError, match="AAPL: nothing was changed: it is submitted: its exit goes on"):
        await world.manager.change_policy("AAPL", stop_loss={"threshold_pct": 5})
    with pytest.raises(ValueError, match="a stop does not change an exit that is under way"):
        await world.manager.set_stop("AAPL", 90)
    assert world.alarm_kinds == []


# --- a stop by hand ---------------------------------------------------------------------------------------------------


async def test_given_a_looser_stop_by_hand_then_it_stands_in_for_every_other_also_after_a_restart(
    make_world: MakeWorld,
) -> None:
    config = {**TRAIL, "break_even": {"enabled": True, "activation_pct": 1}}
    world = await make_world(config)
    await world.enter(10, at=100)
    await world.bar(110)
    [p] = await world.manager.set_stop("AAPL", "96.5", who="ann", reason="earnings")
    moved = [event for _, event in world.events if isinstance(event, StopMoved)][-1]
    assert (moved.rule, moved.stop, moved.by, moved.why) == (ExitType.OPERATOR, Decimal("96.5"), "ann", "earnings")
    assert (moved.best_price, p.trail_stop, stop_of(world)) == (110, None, Decimal("96.5"))
    await world.restart()
    for close in (109, 105, 97):
        await world.bar(close)
        assert stop_of(world) == Decimal("96.5")
    await world.bar("96.5")
    assert world.position.reason == "operator"


async def test_given_a_stop_by_hand_when_the_price_is_better_than_ever_then_the_trail_goes_on(
    make_world: MakeWorld,
) -> None:
    world = await make_world(TRAIL)
    await world.enter(10, at=100)
    await world.bar(110)
    await world.manager.set_stop("AAPL", 104)
    await world.bar("109.9")
    await world.bar(110)
    assert stop_of(world) == 104
    await world.bar(111)
    assert stop_of(world) == Decimal("108.78")
    await world.manager.set_stop("AAPL", 112)  # beyond the market: it fires at the next price
    await world.bar(111)
    assert world.position.reason == "operator"


async def test_given_a_stop_that_is_a_slip_of_the_pen_then_nothing_is_changed(make_world: MakeWorld) -> None:
    world = await make_world(WIDE)
    await world.enter(10, at=100)
    await world.bar(100)
    for price, why in (("975", "far beyond the last price 100"), ("0", "is no price"), ("NaN", "is no price")):
        with pytest.raises(ValueError, match=why):
            await world.manager.set_stop("AAPL", price)
    assert stop_of(world) == 99


async def test_given_a_command_between_two_long_bars_when_restarted_then_the_second_bar_still_counts(
    make_world: MakeWorld,
) -> None:
    world = await make_world({**WIDE, "live": {"bar_seconds": 3600}})
    await world.enter(10, at=100)
    await world.passes(3600, 600)
    await world.bar(100)
    began = world.clock.now()
    await world.passes(1800, 600)
    await world.manager.set_stop("AAPL", 95)
    await world.restart()
    await world.passes(1800, 600)
    await world.manager.on_bar(world.make_bar(94, at=began.replace(second=began.second)))
    bar = world.make_bar(94, at=world.clock.now())
    await world.manager.on_bar(bar)
    await world.settle()
    assert world.position.reason == "operator"


# --- read anew --------------------------------------------------------------------------------------------------------


async def test_given_a_changed_file_when_read_anew_then_it_counts_for_what_is_open_and_what_comes(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    file = tmp_path / "bot.yaml"
    file.write_text(HEAD)
    world = await make_world(started=False)
    world.config = file  # type: ignore[assignment]
    world.manager = world._new_manager()
    await world.start()
    await world.enter(10, at=100)
    file.write_text("exit_manager:\n  stop_loss: {threshold_pct: 200}\n")
    with pytest.raises(ConfigError, match="threshold_pct: 200 is not allowed"):
        await world.manager.reload()
    assert stop_of(world) == 99
    file.write_text(HEAD + "  stop_loss: {threshold_pct: 3}\n  live: {poll_seconds: 1}\n  record_bars: true\n")
    assert await world.manager.reload(who="ann") == [
        "AAPL: stop 1 % → 3 %",
        "these settings need a restart: live.poll_seconds, record_bars",
    ]
    assert [c.by for c in changes(world)] == ["ann"]
    await world.enter(10, at=200, symbol="MSFT")
    assert [levels(p, T0)[1][0].price for p in world.manager.positions()] == [97, 194]
    await world.manager.stop()
    await world.manager.start()
    assert len(changes(world)) == 1
    with ExitStore(world.store_path, read_only=True) as store:
        assert store.count()
    assert isinstance(world.manager.config, ExitConfig)
