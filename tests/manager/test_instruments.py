"""What a venue accepts for single symbols: asked once, rounded to, and asked anew after a refusal that names it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from harness import GOOD, T0, World
from msgspec.structs import replace

from exitfsm import AssetRules, Instrument, State, TimeInForce
from exitfsm.broker.instruments import About, coarser, subject_of
from exitfsm.broker.market import instrument_of
from exitfsm.config import load_config
from exitfsm.errors import BrokerError, OrderRefused
from exitfsm.order_ids import form_of
from exitfsm.ports import CRYPTO, STOCKS
from exitfsm.sessions import closing
from exitfsm.testing import Raises

DOGE = Instrument(qty_step=Decimal(1), price_tick=Decimal("0.01"), price_tick_below_1=Decimal("0.01"))


class Asked:
    """`Broker.instrument`, as a test sets it."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, list[str]()

    async def __call__(self, symbol: str) -> Any:
        self.asked.append(symbol)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def told(path: Path, answer: Any, **changes: Any) -> tuple[World, Asked]:
    """A world whose broker tells of its instruments."""
    world, asked = World(path, **changes), Asked(answer)
    world.broker.instrument = asked  # type: ignore[attr-defined]  # optional
    world.manager = world._new_manager()
    await world.start()
    return world, asked


async def test_an_instrument_is_asked_once_and_its_step_and_form_count(tmp_path: Path) -> None:
    world, asked = await told(tmp_path, {"qty_step": 1, "id_form": "uuid"})
    await world.enter("499.5", at=100, symbol="DOGE/USDT")
    await world.bar("98.9", "DOGE/USDT")
    (order,) = world.orders
    assert order.qty == 499
    assert form_of(order.client_order_id) == world.position.id_form == "uuid"
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    assert world.ended()[0].state is State.CLOSED  # half a coin cannot be sold
    assert asked.asked == ["DOGE/USDT"]
    await world.finish()


@pytest.mark.parametrize(("side", "target"), [("long", "101.01"), ("short", "98.99")])
async def test_a_limit_lies_on_the_tick_and_gives_nothing_away(tmp_path: Path, side: str, target: str) -> None:
    config = {"profit_taking": {"order_type": "limit", "threshold_pct": "1.0025"}}
    world, _ = await told(tmp_path, DOGE, config=config)
    await world.enter(10, at=100, side=side)
    await world.bar("102" if side == "long" else "98")
    limit = world.last_order.limit_price
    assert limit is not None
    exact = Decimal("101.0025") if side == "long" else Decimal("98.9975")
    assert limit == Decimal(target)
    assert (limit >= exact) is (side == "long")
    assert limit % DOGE.price_tick == 0
    world.broker.fill(world.last_order)
    await world.until(lambda: world.manager.positions() == [])
    await world.finish()


async def test_given_a_refusal_that_names_the_step_then_the_instrument_is_asked_anew(tmp_path: Path) -> None:
    world, asked = await told(tmp_path, None)
    await world.enter("499.5", at=100)
    asked.answer = DOGE
    world.broker.answer("submit", Raises(OrderRefused("LOT_SIZE", "499.5 is no multiple of 1")))
    await world.bar("98.9")
    await world.until(lambda: len(world.orders) == 1, seconds=60)
    assert world.last_order.qty == 499
    assert asked.asked == ["AAPL", "AAPL"]
    assert world.alarm_kinds == []
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    await world.finish()


@pytest.mark.parametrize("answer", [ConnectionError("no"), 7, {"qty_step": -1}, {"id_form": "xf2-3"}, {"lot": 1}])
async def test_given_no_sound_answer_then_the_rules_of_the_class_count(tmp_path: Path, answer: Any) -> None:
    world, _ = await told(tmp_path, answer)
    await world.enter("499.5", at=100)
    await world.bar("98.9")
    assert world.last_order.qty == Decimal("499.5")
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    await world.finish()


async def test_given_a_least_value_then_an_exit_waits_with_an_alarm_until_it_is_worth_that(tmp_path: Path) -> None:
    world, _ = await told(tmp_path, Instrument(value_min=Decimal(10), multiplier=Decimal(10)))
    await world.enter("0.01", at=100)
    await world.bar("98.9")
    await world.passes(60)
    assert world.orders == []
    assert world.alarm_kinds == ["value_too_small"]
    await world.bar(101)
    await world.until(lambda: len(world.orders) == 1, 120)
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    assert len(world.alarms) == 1
    await world.finish()


async def test_given_too_little_value_when_another_is_declared_then_it_is_sent(
    tmp_path: Path,
) -> None:
    capabilities = replace(GOOD, instruments={"AAPL": Instrument(value_min=Decimal(10_000))})
    world = World(tmp_path, capabilities=capabilities)
    await world.start()
    await world.enter(10, at=100)
    await world.bar("98.9")
    await world.passes(30)
    assert world.orders == []
    world.broker.capabilities = GOOD
    await world.restart()
    await world.until(lambda: len(world.orders) == 1, 60)
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    await world.finish()


def test_an_instrument_of_a_slash_may_close_and_one_without_may_not() -> None:
    told = {"BRK/B": Instrument(always_open=False), "BTC-PERP": Instrument(always_open=True)}
    closes = replace(GOOD, instruments=told)
    assert closes.rules("ETH/USD").always_open
    assert not closes.rules("BRK/B").always_open
    assert closes.rules("BTC-PERP").always_open
    assert [closes.never_closes(symbol) for symbol in ("BRK/B", "BTC-PERP", "ETH/USD")] == [False, True, None]


@pytest.mark.parametrize("symbol", ["SHIB/USDT", "BTCUSDT"])
def test_an_instrument_that_says_nothing_of_hours_does_not_close_a_market_of_coins(symbol: str) -> None:
    config = load_config({"end_of_session": {"enabled": True}})
    step_only = replace(GOOD, instruments={symbol: Instrument(qty_step=Decimal(1)), "AAPL": Instrument()})
    closes = closing(config, step_only)
    assert closes is not None
    assert closes(symbol, T0) is None
    assert closes("AAPL", T0) is not None


@pytest.mark.parametrize(
    ("said", "about"),
    [
        (("LOT_SIZE", ""), About.STEP),
        (("MIN_QTY", "quantity 0.005"), About.LEAST),
        (("order_error", "minimum order size is 0.01"), About.LEAST),
        (("invalid_qty", "Quantity is too small."), About.LEAST),
        (("", "qty must not be less than the minimum"), About.LEAST),
        (("", "minimum margin is not met"), None),
        (("", "Filter failure: PRICE_FILTER"), About.PRICE),
        (("MIN_NOTIONAL", "value 9.9 is too small"), About.VALUE),
        (("-4164", "Order's notional must be no smaller than 5"), About.VALUE),
        (("bad_quantity", "cost basis must be >= minimal amount of order 10"), About.VALUE),
        (("insufficient_qty", "requested 10, held 3"), None),
        (("halted", None), None),
        (("MAX_NOTIONAL", "notional exceeds the limit"), None),
    ],
)
def test_what_a_refusal_is_about(said: tuple[str, str | None], about: About | None) -> None:
    assert subject_of(*said) is about


@pytest.mark.parametrize(
    ("qty", "step"), [("499.5", "1"), ("0.12345", "0.0001"), ("499", None), ("1.5", None), ("0.5", None), ("500", None)]
)
def test_a_coarser_step_leaves_next_to_nothing_behind(qty: str, step: str | None) -> None:
    assert coarser(Decimal(qty), AssetRules()) == (Decimal(step) if step else None)


def test_an_instrument_comes_as_itself_or_as_a_mapping_of_its_fields() -> None:
    told = instrument_of({"qty_step": 0.001, "value_min": "5", "other": 1}, CRYPTO)
    assert told is not None
    assert (told.qty_step, told.value_min, told.price_tick) == (Decimal("0.001"), 5, CRYPTO.price_tick)
    assert told.times_in_force == CRYPTO.times_in_force
    assert told.always_open is None
    assert told.completed(CRYPTO).always_open
    with pytest.raises(BrokerError, match="multiplier is 0"):
        instrument_of({"multiplier": 0}, CRYPTO)
    assert instrument_of(told, STOCKS) is told
    assert instrument_of(None, STOCKS) is None


def test_an_instrument_leaves_to_its_class_what_it_does_not_say() -> None:
    broker = replace(GOOD, instruments={"SHIB/USDT": Instrument(qty_step=Decimal(1), price_tick=Decimal("1e-8"))})
    rules = broker.rules("SHIB/USDT")
    assert rules.times_in_force == CRYPTO.times_in_force
    assert rules.accepted_time(TimeInForce.DAY, Decimal(1)) is TimeInForce.GTC
    assert rules.tick(Decimal("0.00001234")) == rules.tick(Decimal(2)) == Decimal("1e-8")
    assert Instrument(price_tick=Decimal("0.01"), price_tick_below_1=Decimal("0.0001")).tick(Decimal("0.5")) == Decimal(
        "0.0001"
    )


async def test_given_a_refusal_that_is_taken_for_too_little_then_the_order_is_sent_again_all_the_same(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter(10, at=100)
    world.broker.answer("submit", Raises(OrderRefused("risk", "the notional is not to our liking")), times=3)
    await world.bar("98.9")
    await world.passes(30)
    assert world.orders == []
    assert world.alarm_kinds == ["value_too_small"]
    await world.passes(600)
    assert world.broker.count("submit") == 4  # at the same price, after one, two and four minutes
    await world.until(lambda: len(world.orders) == 1, 600)
    kinds = [alarm.kind for alarm in world.alarms]
    assert sorted(kinds) == ["order_stalled", "submit_unresolved", "value_too_small"]  # each once
    assert world.alarm_kinds == ["order_stalled"]  # the others are over
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    await world.finish()


async def test_given_an_instrument_that_is_not_told_at_once_then_it_is_asked_again_before_ids_are_fixed(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    answers: list[Any] = [ConnectionError("busy"), {"id_form": "uuid"}]

    async def instrument(symbol: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    world.broker.instrument = instrument  # type: ignore[attr-defined]  # optional
    world.manager = world._new_manager()
    await world.start()
    await world.enter(10, at=100)
    assert world.position.id_form == "uuid"
    await world.finish()


async def test_given_a_step_that_a_refusal_names_then_the_hours_of_the_market_stay_as_they_were(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    await world.enter("499.5", at=100, symbol="BTCUSDT")
    world.broker.answer("submit", Raises(OrderRefused("LOT_SIZE", "no multiple of the step")))
    await world.bar("98.9", "BTCUSDT")
    await world.until(lambda: len(world.orders) == 1, seconds=60)
    assert world.last_order.qty == 499
    assert world.manager._made is not None
    assert world.manager._made.context.calls.capabilities.never_closes("BTCUSDT") is None
    await world.fill()
    await world.until(lambda: world.manager.positions() == [])
    await world.finish()
