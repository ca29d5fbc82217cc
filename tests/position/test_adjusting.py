"""Settings of a position's own, levels as prices, and a stop that a person puts somewhere."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st
from msgspec.structs import replace

from exitfsm.events import ExitTriggered, PolicyChanged, PositionOpened, PositionResized, StopMoved, UnitChanged
from exitfsm.messages import ChangePolicy, Message, MoveStop, Rescale
from exitfsm.policy import RULES, ExitPolicy, cannot_be, differences, fitted, rescaled
from exitfsm.position import evolve, levels, wake_band
from exitfsm.position.adjusting import fires_at, tightest_stop, why_not_policy, why_not_stop
from exitfsm.position.evaluating import goes_on
from exitfsm.testing.given import Scenario, after, given, like, opened, policy, reported, seen, to_open
from exitfsm.values import ExitType, Side
from exitfsm.words import adjusted_in_words, in_words

D = Decimal
PRICED = policy(stop_loss={"price": "95"}, profit_taking={"price": "120"})
TRAILING = policy(trailing_stop={"trail_pct": 2, "activation_pct": 1}, profit_taking=False, stop_loss={})


def held(policy: ExitPolicy = TRAILING, side: str = "long") -> Scenario:
    return given(opened(side, policy=policy))


def moved(price: str | int, at: float = 90, last: str | None = None, who: str = "ann", why: str = "") -> MoveStop:
    return MoveStop(at=after(at), price=D(price), who=who, last_price=D(last) if last else None, why=why)


def change(to: ExitPolicy, own: bool | None = None, at: float = 90) -> ChangePolicy:
    return ChangePolicy(at=after(at), policy=to, who="ann", own=own)


def stops(s: Scenario) -> list[tuple[str, Decimal]]:
    return [(str(level.rule), level.price) for level in levels(s.now, after(1))[1]]


# --- levels as prices -------------------------------------------------------------------------------------------------


def test_given_levels_as_prices_then_they_count_in_place_of_the_percentages() -> None:
    s = given().when(to_open(opened(policy=PRICED)))
    target, [stop] = levels(s.now, after(1))
    assert target is not None
    assert (target.price, target.threshold_pct, stop.price, stop.threshold_pct) == (120, 20, 95, 5)
    s.when(seen("95.01"), seen("119.99", 120)).then()
    s.when(seen("95")).then(like(ExitTriggered, reason="stop_loss", level=D(95), threshold_pct=D(5)))
    s.when(seen("120")).then(like(ExitTriggered, reason="profit_take", level=D(120)))


def test_given_a_price_then_digests_and_bytes_without_one_are_as_before() -> None:
    assert ExitPolicy().digest() == "dbec64c2e6ff"
    assert b'"price"' not in msgspec.json.encode(ExitPolicy())
    assert PRICED.digest() != policy(stop_loss={}, profit_taking={}).digest()
    back = msgspec.json.decode(msgspec.json.encode(PRICED), type=ExitPolicy)
    assert back == PRICED
    event = opened(policy=PRICED)
    for one in (PositionOpened, PolicyChanged, StopMoved):
        fields = {f.name: f.default for f in msgspec.structs.fields(one)}
        assert all(fields[name] is msgspec.UNSET for name in ("own_policy", "own", "by", "why") if name in fields) or (
            one is PolicyChanged and fields["by"] == ""
        )
    assert b"own_policy" not in msgspec.json.encode(event)


@pytest.mark.parametrize("side", ["long", "short"])
@pytest.mark.parametrize(
    ("section", "price", "is_wrong"),
    [("stop_loss", 95, "short"), ("stop_loss", 105, "long"), ("profit_taking", 105, "short"), ("stop_loss", 100, "")],
)
def test_given_a_price_on_the_wrong_side_then_a_position_refuses_it_and_for_all_the_percentage_counts(
    side: str, section: str, price: int, is_wrong: str
) -> None:
    priced = policy(**{section: {"price": str(price)}})
    wrong = cannot_be(priced, Side(side), D(100))
    assert bool(wrong) == (side == is_wrong or not is_wrong)
    asked = msgspec.structs.replace(to_open(opened(side, policy=priced)), own_policy=True)
    if not wrong:
        assert given().when(asked).then(like(PositionOpened, own_policy=True)).now.own_policy
        return
    with pytest.raises(ValueError, match=f"cannot watch AAPL: {section}.price: the"):
        given().when(asked)
    plain = given().when(to_open(opened(side, policy=priced))).now.policy
    assert plain == fitted(priced, Side(side), D(100)) == policy(**{section: {}})
    s = held(side=side)
    assert not s.when(change(priced, own=True)).news
    assert why_not_policy(s.now, priced) == wrong[0]
    assert s.when(change(priced)).now.policy == plain


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "Infinity"])
def test_given_a_price_that_is_none_then_it_is_refused(price: str) -> None:
    made = replace(ExitPolicy(), stop_loss=replace(ExitPolicy().stop_loss, price=D(price)))
    assert "is no price" in cannot_be(made, Side.LONG, D(100))[0]


def test_given_a_price_when_another_rule_sets_that_level_then_it_is_refused() -> None:
    made = policy(stop_loss={"price": "95"}, profit_taking={"price": "120"}, atr_levels={})
    assert cannot_be(made, Side.LONG, D(100)) == [
        "stop_loss.price: it does not count while atr_levels sets the stop: switch one of the two off",
        "profit_taking.price: it does not count while atr_levels sets the target: switch one of the two off",
    ]


def test_given_a_split_then_prices_and_a_stop_by_hand_are_in_the_new_unit() -> None:
    split = Rescale(at=after(120), factor=D(4), qty=D(40), entry_price=D(25))
    s = held(PRICED).when(moved("96"), split).then(UnitChanged)
    assert stops(s) == [("operator", D(24))]
    assert (s.now.policy.stop_loss.price, s.now.policy.profit_taking.price) == (D("23.75"), D(30))
    assert s.now.stops.best_price == 25
    assert rescaled(PRICED, D(0)) is PRICED
    assert rescaled(TRAILING, D(4)) is TRAILING


def test_given_an_average_that_jumps_as_by_a_split_then_prices_keep_their_distance() -> None:
    s = held(PRICED).when(moved("96"))
    resized = evolve(s.now, PositionResized(qty=D(40), entry_price=D(25), at=after(120)))
    assert resized.policy.stop_loss.price == D("23.75")
    assert resized.stops.operator == 24
    nothing = evolve(s.now, PositionResized(qty=D(40), entry_price=D(0), at=after(120)))
    assert nothing.stops.operator == 96
    dearer = evolve(s.now, PositionResized(qty=D(40), entry_price=D(101), at=after(120)))
    assert (dearer.policy, dearer.stops) == (s.now.policy, s.now.stops)


# --- a policy of its own ----------------------------------------------------------------------------------------------


def test_given_a_policy_of_its_own_when_the_settings_for_all_change_then_it_keeps_it() -> None:
    s = held().when(change(PRICED, own=True)).then(like(PolicyChanged, own=True)).has(own_policy=True)
    s.when(change(TRAILING)).then()
    s.when(change(PRICED, own=True)).then()
    back = s.when(change(TRAILING, own=False)).then(like(PolicyChanged, own=False)).has(own_policy=False)
    assert adjusted_in_words(s.now, back.now).endswith("by the settings for all")
    back.when(change(TRAILING, own=False)).then()
    wider = back.when(change(PRICED)).then(like(PolicyChanged, own=msgspec.UNSET)).has(own_policy=False)
    assert "its own" not in in_words(back.now, wider.now, wider.news[0])


def test_given_the_same_settings_as_for_all_when_they_are_given_to_it_then_they_are_its_own() -> None:
    s = held().when(change(TRAILING, own=True)).then(like(PolicyChanged, own=True))
    assert in_words(held().now, s.now, s.news[0]).startswith("the same settings; policy")
    assert adjusted_in_words(held().now, s.now) == "AAPL: by settings of its own"


def test_given_an_exit_under_way_then_neither_settings_nor_stop_change() -> None:
    s = held().when(seen(98))
    for state in (s, s.when(reported("new")), s.when(reported("rejected", 0))):
        for told in (change(PRICED), change(PRICED, own=True), change(PRICED, own=False), moved("90")):
            state.when(told).then()
        assert "goes on by the settings that decided it" in why_not_policy(state.now, PRICED)
        assert "does not change an exit that is under way" in why_not_stop(state.now, D(90), None)


# --- a stop by hand ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "sign"), [("long", 1), ("short", -1)])
def test_given_a_stop_by_hand_then_it_is_the_only_one_and_may_be_looser(side: str, sign: int) -> None:
    s = held(policy(trailing_stop={"trail_pct": 2}, break_even={}, profit_taking=False), side)
    s = s.when(seen(100 + 10 * sign))
    assert len(stops(s)) == 3
    s = s.when(moved(100 - 5 * sign, last=str(100 + 10 * sign), why="news")).then(
        like(StopMoved, rule=ExitType.OPERATOR, by="ann", why="news", best_price=D(100 + 10 * sign), bar_at=after(60))
    )
    assert stops(s) == [("operator", D(100 - 5 * sign))]
    assert s.now.trail_stop is s.now.break_even_stop is None
    assert s.now.stops.of(ExitType.OPERATOR) == 100 - 5 * sign
    s.when(moved(100 - 5 * sign)).then()
    for number, close in enumerate((9, 10, 3, -4), 2):
        s = s.when(seen(100 + close * sign, 60 * number)).then()
    s.when(seen(100 - 5 * sign, 600)).then(like(ExitTriggered, reason=ExitType.OPERATOR, level=D(100 - 5 * sign)))
    better = s.when(seen(100 + 11 * sign, 600)).then(like(StopMoved, rule="break_even"), like(StopMoved))
    assert len(stops(better)) == 3


def test_given_a_tighter_stop_by_hand_then_the_trail_goes_on_only_beyond_it() -> None:
    s = held().when(seen(110), moved("109", last="110"))
    s = s.when(seen("111", 120)).then()  # its trail would be at 108.78
    s = s.when(seen("111.5", 180)).then(like(StopMoved, stop=D("109.27")))
    assert stops(s) == [("trailing_stop", D("109.27")), ("operator", D(109))]


@pytest.mark.parametrize(
    ("price", "last", "why"),
    [
        ("0", None, "is no price"),
        ("-3", None, "is no price"),
        ("NaN", None, "is no price"),
        ("131", "100", "far beyond the last price 100"),
        ("101", "100", ""),
        ("50", "100", ""),
        ("1000", None, ""),
    ],
)
def test_given_a_price_then_a_stop_can_be_there_or_it_is_said_why_not(price: str, last: str | None, why: str) -> None:
    s = held().when(moved(price, last=last))
    assert why in why_not_stop(held().now, D(price), D(last) if last else None)
    assert bool(s.news) == (not why)


@pytest.mark.parametrize(("side", "price", "fires"), [("long", 101, True), ("long", 99, False), ("short", 99, True)])
def test_given_a_stop_beyond_the_market_then_it_fires_at_the_next_price(side: str, price: int, fires: bool) -> None:
    s = held(side=side)
    assert fires_at(s.now, D(price), D(100)) is fires
    assert bool(s.when(moved(price, last="100"), seen(100, 120)).news) is fires


def test_given_no_stop_at_all_then_there_is_none_to_say() -> None:
    s = held(policy(stop_loss=False, profit_taking=False))
    assert tightest_stop(s.now, after(1)) is None
    after_it = s.when(moved("95"))
    assert tightest_stop(after_it.now, after(1)) == 95
    assert in_words(s.now, after_it.now, after_it.news[0]) == "the stop to 95, by ann"
    assert adjusted_in_words(s.now, after_it.now) == "AAPL: stop - → 95"
    assert adjusted_in_words(s.now, s.now) == "AAPL: as it was"


def test_given_a_change_then_its_words_say_from_where_to_where_and_what_stays() -> None:
    s = held().when(seen(110))
    wider = s.when(change(policy(trailing_stop={"trail_pct": 6, "activation_pct": 1}, profit_taking=False)))
    text = adjusted_in_words(s.now, wider.now)
    assert text == "AAPL: trailing_stop.trail_pct 2 % → 6 %, its stop that has moved stays at 107.8"
    by_hand = s.when(moved("90"))
    assert in_words(s.now, by_hand.now, by_hand.news[0]) == "the stop from 107.8 to 90, by ann"
    later = by_hand.when(change(PRICED))
    assert adjusted_in_words(by_hand.now, later.now).endswith("its stop stays at 90, where a person has put it")


def test_given_policies_then_every_setting_in_which_they_differ_is_named() -> None:
    ladder = policy(target_ladder={"steps": ({"after_seconds": 60, "threshold_pct": 1},)}, evaluate_on="range")
    found = list(map(str, differences(ExitPolicy(), ladder)))
    assert "evaluate_on close → range" in found
    assert any(text.startswith("target_ladder.steps () → (60 1") for text in found)
    named = policy(custom_rule={"name": "mine"})
    assert "custom_rule.name none → mine" in list(map(str, differences(ExitPolicy(), named)))
    assert "stop at none → 95" in list(map(str, differences(ExitPolicy(), PRICED)))
    assert not list(differences(ExitPolicy(), ExitPolicy()))


# --- for any sequence -------------------------------------------------------------------------------------------------

CLOSES = st.decimals("92", "109", places=1)
POLICIES = st.sampled_from(
    [
        TRAILING,
        policy(trailing_stop={"trail_pct": 5, "activation_pct": 2}, break_even={}, profit_taking=False),
        policy(trailing_stop=False, stop_loss={"threshold_pct": 3}, profit_taking={"threshold_pct": 30}),
        PRICED,
    ]
)
STEPS = st.one_of(CLOSES, POLICIES.map(change), CLOSES.map(lambda price: moved(str(price), last="100")))


@for_all(st.sampled_from(["long", "short"]), st.lists(STEPS, max_size=25))
def test_only_a_person_ever_moves_a_stop_against_the_position(side: str, steps: list[Any]) -> None:
    s = held(side=side)
    for number, step in enumerate(steps, 1):
        before = s.now
        told: Message = step if isinstance(step, Message) else seen(step, 60 * number)
        s = s.when(told)
        for event in s.news:
            if isinstance(event, StopMoved) and event.rule is not ExitType.OPERATOR:
                standing = [x for x in (before.stops.of(event.rule), before.stops.operator) if x is not None]
                assert all((event.stop - x) * before.side.sign > 0 for x in standing)
        if isinstance(told, ChangePolicy):
            assert s.now.stops == before.stops
        if s.now.stops.operator is not None and s.now.state == "monitoring":
            assert {rule for rule, _ in stops(s)} <= {"operator", "trailing_stop", "break_even"}


@pytest.mark.parametrize(("side", "sign"), [("long", 1), ("short", -1)])
def test_given_a_stop_by_hand_then_bars_are_quiet_up_to_the_best_price_before(side: str, sign: int) -> None:
    s = held(side=side).when(seen(100 + 10 * sign))
    assert goes_on(s.now, D(1), D(1))
    band = wake_band(s.when(moved(100 - 5 * sign, last=str(100 + 10 * sign))).now, after(90))
    assert band is not None
    inner, outer = (band.lower, band.upper) if sign > 0 else (band.upper, band.lower)
    assert (inner, outer) == (100 - 5 * sign, 100 + 10 * sign)


def test_given_a_price_in_the_settings_for_all_then_that_is_doubted_and_the_figures_say_where_it_is() -> None:
    doubts = [text for rule in RULES for _, text in rule.doubts(PRICED)]
    assert [text.partition(",")[0] for text in doubts] == ["95 is a price", "120 is a price"]
    assert [rule.brief(PRICED) for rule in RULES if rule.price_side] == ["stop at 95", "target at 120"]
    assert not any(rule.alternatives(PRICED) for rule in RULES if rule.price_side)
    one = policy(stop_loss={"price": "95"}, profit_taking={})
    assert rescaled(one, D(2)).stop_loss.price == D("47.5")
    assert not [text for rule in RULES for _, text in rule.doubts(one) if "gain no more" in text]
