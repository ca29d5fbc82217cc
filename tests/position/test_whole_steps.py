"""The orders of an exit under what the venue takes of one symbol: whole steps, and limits that give nothing away."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace
from positions import LIMIT

from exitfsm.events import ExitRetried, ExitTriggered, PositionClosedElsewhere, PositionReleased
from exitfsm.messages import Contradiction, Release
from exitfsm.ports import CRYPTO, AssetRules, Capabilities, Instrument
from exitfsm.position import ReadPosition
from exitfsm.testing.given import after, given, holds, like, opened, reported, seen
from exitfsm.values import TimeInForce

STEPS = st.sampled_from([Decimal(one) for one in ("1", "0.5", "0.1", "0.025", "0.01", "0.001", "0.00001")])
PRICES = st.decimals("0.001", "5000", places=4)


def venue(**told: object) -> Capabilities:
    """A broker that has said this of AAPL."""
    return Capabilities(late_fills=False, instruments={"AAPL": Instrument(**told)})  # type: ignore[arg-type]  # of a test


@for_all(PRICES, STEPS, st.sampled_from(["long", "short"]))
def test_a_limit_lies_on_the_tick_and_never_on_the_markets_side_of_its_level(
    entry: Decimal, tick: Decimal, side: str
) -> None:
    broker = venue(price_tick=tick)
    far = entry * 2 if side == "long" else entry / 2
    (e,) = given(opened(side, entry=entry, policy=LIMIT)).at(broker).when(seen(far)).news
    assert isinstance(e, ExitTriggered)
    assert e.limit_price is not None
    assert e.level is not None
    assert e.limit_price > 0
    assert (e.limit_price >= e.level) if side == "long" else (e.limit_price <= e.level)
    assert abs(e.limit_price - e.level) < tick
    assert e.limit_price % tick == 0 or tick > e.level  # a grid coarser than the price is none of this market


@for_all(st.decimals("0.00001", "100", places=5), STEPS)
def test_what_is_sold_is_whole_steps_and_never_nothing_nor_more_than_is_held(qty: Decimal, step: Decimal) -> None:
    (e,) = given(opened(qty=qty)).at(venue(qty_step=step)).when(seen(90)).news
    assert isinstance(e, ExitTriggered)
    assert 0 < e.qty <= qty
    assert e.qty % step == 0 or e.qty == qty < step  # of a mere residue the venue is to say so itself


def test_given_less_than_a_step_is_left_then_the_position_ends_and_says_what_is_left() -> None:
    s = given(opened(qty="499.5")).at(venue(qty_step=Decimal(1))).when(seen(99)).then(like(ExitTriggered, qty=499))
    s = s.when(reported("filled", 499, 99)).owes(ReadPosition)
    s.when(holds("0.5", at=62)).then(like(PositionClosedElsewhere, how="residue", remaining_qty=Decimal("0.5")))


def test_an_instrument_goes_before_its_class_and_leaves_to_it_what_it_does_not_say() -> None:
    pair = Instrument(qty_step=Decimal(1), price_tick=Decimal("0.01"), price_tick_below_1=Decimal("1e-8"))
    broker = Capabilities(instruments={"SHIB/USDT": pair}, id_form="xf2-28")
    rules = broker.rules("SHIB/USDT")
    assert (rules.qty_step, rules.times_in_force, rules.always_open) == (1, CRYPTO.times_in_force, True)
    assert rules.accepted_time(TimeInForce.DAY, Decimal(1)) is TimeInForce.GTC
    assert (rules.tick(Decimal(2)), rules.tick(Decimal("0.1"))) == (Decimal("0.01"), Decimal("1e-8"))
    assert Instrument(price_tick=Decimal("0.1")).tick(Decimal("0.1")) == Decimal("0.1")
    assert broker.never_closes("SHIB/USDT") is broker.never_closes("ETH/USDT") is None
    assert broker.form("SHIB/USDT") == broker.form("ETH/USDT") == "xf2-28"
    said = Capabilities(instruments={"ES": Instrument(always_open=False, id_form="uuid", multiplier=Decimal(50))})
    assert (said.never_closes("ES"), said.form("ES")) == (False, "uuid")
    assert said.instruments["ES"].value(Decimal(2), Decimal(5000)) == 500_000


def test_given_all_of_it_is_less_than_a_step_then_a_person_must_look_and_it_is_not_forgotten() -> None:
    broker = venue(qty_step=Decimal(1000))  # what it said may be wrong, too
    s = given(opened(qty="499")).at(broker).when(seen(99)).then(like(ExitTriggered, qty=499))
    s = s.when(reported("rejected", 0, None), holds("499", at=120), holds("499", at=200)).is_in("unprotected")
    assert s.position is not None
    assert "less than the venue takes" in s.position.alarms[-1].text


def test_given_a_venue_that_rounds_by_itself_then_what_it_rounded_off_is_a_residue_once_it_is_refused() -> None:
    s = given(opened(qty="0.999")).when(seen(99), reported("new"), reported("new", qty=Decimal("0.99")))
    s = s.when(reported("filled", "0.99", 99, qty=Decimal("0.99")))
    again = s.when(holds("0.009", at=120)).then(like(ExitRetried, qty=Decimal("0.009")))
    again = again.when(reported("rejected", 0, None, refusal="MIN_QTY"))
    again.when(holds("0.009", at=300)).then(like(PositionClosedElsewhere, how="residue"))


def test_given_what_an_exit_left_of_less_than_a_step_when_it_is_released_then_it_ends_as_a_residue() -> None:
    whole = Capabilities(late_fills=False, stocks=AssetRules(qty_step=Decimal(1), qty_min=Decimal(1)))
    sold = given(opened(qty="10.5")).at(whole).when(seen(99), reported("new"))
    lost = sold.when(Contradiction(at=after(70), why="?"), reported("filled", 10, 99, at=80))
    wish = Release(at=after(90), qty=Decimal("0.5"), entry_price=Decimal(100))
    lost.when(wish).then(like(PositionClosedElsewhere, how="residue", remaining_qty=Decimal("0.5"))).is_in("closed")
    lost.when(replace(wish, qty=Decimal(2))).then(like(PositionReleased, qty=Decimal(2))).is_in("monitoring")
