"""The exit rules: each by itself, their order, what is refused, and every threshold exactly."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from exitfsm.events import (
    AlarmRaised,
    Event,
    ExitTriggered,
    PolicyChanged,
    RefusalEnded,
    StopMoved,
    TriggerRefused,
)
from exitfsm.messages import ChangePolicy
from exitfsm.policy import (
    AHEAD_MAX,
    ExitPolicy,
    PriceGuard,
    ProfitTaking,
    StopLoss,
    average_true_range,
    away,
    bar_fault,
    is_jump,
)
from exitfsm.position import levels
from exitfsm.position.watching import REFUSED_BARS_ALARM
from exitfsm.testing.given import Scenario, after, bar, given, holds, like, opened, policy, reported, seen, to_open
from exitfsm.values import EXACT, Bar, ExitType, OrderType, Side, first_by_precedence

SIDES = tuple(Side)


def mirrored(side: Side, price: Decimal | int | str, entry: int = 100) -> Decimal:
    """The price as it is for a long position, or on the other side of the entry for a short one."""
    return Decimal(price) if side is Side.LONG else 2 * entry - Decimal(price)


def held(side: Side = Side.LONG, atr: Any = None, entry: Any = 100, **sections: Any) -> Scenario:
    """A position at 100 under these rules."""
    return given(opened(side, entry=entry, policy=policy(**sections), atr=atr))


ONLY_TARGET = {"stop_loss": False}
ONLY_STOP = {"profit_taking": False}
NEITHER = {"stop_loss": False, "profit_taking": False}

# --- each rule by itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_profit_target_then_the_exit_is_at_the_threshold_and_not_before(side: Side) -> None:
    s = held(side, **ONLY_TARGET)
    s.when(seen(mirrored(side, "101.99999"))).then()
    s.when(seen(mirrored(side, "102"))).then(
        like(
            ExitTriggered,
            reason="profit_take",
            trigger_price=mirrored(side, "102"),
            level=mirrored(side, "102"),
            threshold_pct=Decimal("2.0"),
        )
    )
    s.when(seen(mirrored(side, "104.5"))).then(
        like(ExitTriggered, trigger_price=mirrored(side, "104.5"), level=mirrored(side, "102"))
    )
    s.when(seen(mirrored(side, "50"))).then()


@pytest.mark.parametrize("side", SIDES)
def test_stop_loss_then_the_exit_is_at_the_threshold_and_not_before(side: Side) -> None:
    s = held(side, **ONLY_STOP)
    s.when(seen(mirrored(side, "99.00001"))).then()
    s.when(seen(mirrored(side, "99"))).then(
        like(ExitTriggered, reason="stop_loss", level=mirrored(side, "99"), threshold_pct=Decimal("1.0"))
    )
    s.when(seen(mirrored(side, "90"))).then(
        like(ExitTriggered, trigger_price=mirrored(side, "90"), level=mirrored(side, "99"))
    )
    s.when(seen(mirrored(side, "150"))).then()


def test_rules_that_are_off_then_never_trigger() -> None:
    s = held(**NEITHER)
    for price in ("0.01", "50", "99", "100", "102", "1000000"):
        s.when(seen(price)).then()


@pytest.mark.parametrize("side", SIDES)
def test_trailing_stop_then_it_starts_at_the_activation_and_follows_the_best_price_by_steps(side: Side) -> None:
    def at(price: str) -> Decimal:
        return mirrored(side, price)

    trail = {"activation_pct": 2, "trail_pct": 1, "step_pct": "0.5"}
    s = held(side, trailing_stop=trail, **NEITHER)
    s.when(seen(at("101.99"))).then()
    s = s.when(seen(at("102"), 60)).then(like(StopMoved, rule="trailing_stop", best_price=at("102"), bar_at=after(60)))
    first = s.now.trail_stop
    assert first == (Decimal("100.98") if side is Side.LONG else Decimal("98.98"))
    s.when(seen(at("101.1"), 120)).then()  # it does not follow back
    s.when(seen(at("102.4"), 120)).then()  # less than a step
    s = s.when(seen(at("103"), 120)).then(like(StopMoved, best_price=at("103")))
    stop = s.now.trail_stop
    assert stop == (Decimal("101.97") if side is Side.LONG else Decimal("97.97"))
    s = s.when(seen(at("102.5"), 180)).then().has(trail_stop=stop)
    s.when(seen(stop + Decimal("0.001") * side.sign, 240)).then()
    s.when(seen(stop, 240)).then(
        like(ExitTriggered, reason="trailing_stop", level=stop, threshold_pct=Decimal(1), best_price=at("103"))
    )


def test_trailing_stop_then_the_bar_is_tested_against_the_old_stop_before_it_moves() -> None:
    s = held(trailing_stop={"activation_pct": 1, "trail_pct": 1}, evaluate_on="range", **NEITHER)
    s = s.when(seen(bar(105, 60))).has(trail_stop=Decimal("103.95"))
    wide = bar(109, 120, open=109, high=110, low="103.96")  # its high would put the stop at 108.9, above its low
    s.when(seen(wide)).then(like(StopMoved, best_price=Decimal(110), stop=Decimal("108.9")))


def test_trailing_stop_with_a_step_of_zero_then_every_better_price_moves_it() -> None:
    s = held(trailing_stop={"activation_pct": 0, "trail_pct": 1, "step_pct": 0}, **NEITHER)
    s = s.when(seen(100, 60)).has(trail_stop=Decimal(99))
    s.when(seen(100, 120)).then()
    s.when(seen("100.000000001", 120)).then(like(StopMoved, stop=Decimal("99.00000000099")))


@pytest.mark.parametrize("side", SIDES)
def test_break_even_then_the_stop_moves_to_the_entry_once(side: Side) -> None:
    def at(price: str) -> Decimal:
        return mirrored(side, price)

    s = held(side, break_even={"activation_pct": 2, "offset_pct": "0.5"}, profit_taking=False)
    s.when(seen(at("101.999"))).then()
    s = s.when(seen(at("102"))).then(like(StopMoved, rule="break_even", stop=at("100.5"), best_price=at("102")))
    s = s.when(seen(at("104"), 120)).then()
    s.when(seen(at("100.51"), 180)).then()
    s.when(seen(at("100.5"), 180)).then(
        like(ExitTriggered, reason="break_even", level=at("100.5"), threshold_pct=Decimal("0.5"))
    )
    s.when(seen(at("98"), 180)).then(like(ExitTriggered, reason="stop_loss"))  # both: the stop comes first


@pytest.mark.parametrize("side", SIDES)
def test_atr_levels_then_they_replace_the_fixed_ones(side: Side) -> None:
    s = held(side, atr="0.5", atr_levels={"target_multiple": 3, "stop_multiple": "1.5"})
    s.when(seen(mirrored(side, "99"))).then(like(ExitTriggered, reason="stop_loss", level=mirrored(side, "99.25")))
    s.when(seen(mirrored(side, "99.26"))).then()
    s.when(seen(mirrored(side, "99.25"))).then(like(ExitTriggered, threshold_pct=Decimal("0.75")))
    s.when(seen(mirrored(side, "101.49"))).then()
    s.when(seen(mirrored(side, "101.5"))).then(
        like(ExitTriggered, reason="profit_take", level=mirrored(side, "101.5"), threshold_pct=Decimal("1.5"))
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("atr", [None, "NaN", "Infinity", "0", "-1", "66.7", "1000000"])
@pytest.mark.parametrize("fixed", [{}, {"stop_loss": False}])
def test_atr_that_cannot_be_used_then_the_fixed_stop_serves_even_where_it_is_off(
    side: Side, atr: str | None, fixed: dict[str, Any]
) -> None:
    s = held(side, atr=atr, atr_levels={"target_multiple": 3, "stop_multiple": "1.5"}, **fixed)
    s.when(seen(mirrored(side, "99.01"))).then()
    s.when(seen(mirrored(side, "99"))).then(like(ExitTriggered, reason="stop_loss", level=mirrored(side, "99")))
    s.when(seen(mirrored(side, "102"))).then(like(ExitTriggered, reason="profit_take", level=mirrored(side, "102")))


def test_average_true_range_then_it_counts_gaps_and_needs_enough_bars() -> None:
    bars = [bar(100, 0), bar(110, 60, open=110, high=111, low=109), bar(108, 120, open=109, high=109, low=107)]
    assert average_true_range(bars, 2) == Decimal("7")  # 111 - 100 = 11, 110 - 107 = 3
    assert average_true_range(bars, 3) is None
    assert average_true_range([bar(100, 0), *bars], 2) == Decimal("7")  # only the last ones count
    thirds = [bar(100, i, high=101) for i in range(3)] + [bar(100, 9)]
    assert average_true_range(thirds, 3) == Decimal("0.666666667")


def test_time_limit_then_the_exit_is_at_the_first_bar_that_old() -> None:
    s = held(time_limit={"max_seconds": 600})
    s.when(seen(100, 599)).then()
    s.when(seen("100.5", 600)).then(
        like(
            ExitTriggered, reason="time_limit", trigger_price=Decimal("100.5"), level=Decimal("100.5"), threshold_pct=0
        )
    )


def test_end_of_session_then_the_exit_is_so_many_minutes_before_the_close() -> None:
    s = held(end_of_session={"minutes_before_close": 5})
    s.when(seen(100, 3299, session_close=after(3600))).then()
    s.when(seen(100, 3300, session_close=after(3600))).then(like(ExitTriggered, reason="end_of_session"))
    s.when(seen(100, 10**6)).then()  # where it is not known, or never closes
    held().when(seen(100, 3600, session_close=after(3600))).then()


def test_target_ladder_then_the_target_comes_down_with_time() -> None:
    steps = [{"after_seconds": 600, "threshold_pct": "1"}, {"after_seconds": 1200, "threshold_pct": "0"}]
    s = held(target_ladder={"steps": steps})
    s.when(seen("101.5", 599)).then()
    s.when(seen("102", 599)).then(like(ExitTriggered, threshold_pct=Decimal("2.0")))
    s.when(seen("100.99", 600)).then()
    s.when(seen("101", 600)).then(
        like(ExitTriggered, reason="profit_take", level=Decimal(101), threshold_pct=Decimal(1))
    )
    s.when(seen("99.99", 1200)).then()
    s.when(seen("100", 1200)).then(like(ExitTriggered, level=Decimal(100), threshold_pct=Decimal(0)))
    short = held(Side.SHORT, target_ladder={"steps": steps}, atr_levels={}, atr="0.1")
    short.when(seen("99", 600)).then(like(ExitTriggered, reason="profit_take", level=Decimal(99)))
    short.when(seen("99.7", 599)).then(like(ExitTriggered, reason="profit_take", level=Decimal("99.7")))


def test_custom_rule_then_its_verdict_exits_and_is_recorded() -> None:
    s = held(custom_rule={"name": "gap", "version": "3"})
    s.when(seen("100.1", verdict=None)).then()
    s.when(seen("100.1", verdict="too quiet")).then(
        like(
            ExitTriggered,
            reason="custom",
            detail="gap 3: too quiet",
            trigger_price=Decimal("100.1"),
            order_type="market",
        )
    )


# --- close or range ---------------------------------------------------------------------------------------------------


def test_evaluate_on_close_then_the_range_of_a_bar_means_nothing() -> None:
    held().when(seen(bar(100, open=100, high=110, low=90))).then()


@pytest.mark.parametrize("side", SIDES)
def test_evaluate_on_range_then_the_extremes_count_and_both_are_the_stop(side: Side) -> None:
    s = held(side, evaluate_on="range")
    low, high = sorted((mirrored(side, "99"), mirrored(side, "100")))
    s.when(seen(bar(100, low=low, high=high))).then(
        like(ExitTriggered, reason="stop_loss", trigger_price=mirrored(side, 99))
    )
    low, high = sorted((mirrored(side, "103"), mirrored(side, "100")))
    s.when(seen(bar(100, low=low, high=high))).then(
        like(ExitTriggered, reason="profit_take", trigger_price=mirrored(side, 103), level=mirrored(side, 102))
    )
    s.when(seen(bar(100, low=98, high=102))).then(like(ExitTriggered, reason="stop_loss"))
    s.when(
        seen(bar(100, low="99.01", high="101.99") if side is Side.LONG else bar(100, low="98.01", high="100.99"))
    ).then()


@pytest.mark.parametrize("side", SIDES)
def test_evaluate_on_range_then_the_stops_follow_the_favourable_extreme(side: Side) -> None:
    low, high = sorted((mirrored(side, "110"), mirrored(side, "100")))
    s = held(side, evaluate_on="range", trailing_stop={"trail_pct": 1}, **NEITHER)
    s.when(seen(bar(100, low=low, high=high))).then(like(StopMoved, best_price=mirrored(side, "110")))


# --- which rule wins --------------------------------------------------------------------------------------------------

PRECEDENCE = (
    "emergency",
    "stop_loss",
    "operator",
    "break_even",
    "trailing_stop",
    "time_limit",
    "end_of_session",
    "profit_take",
    "custom",
    "recovered",
)


def test_the_order_of_precedence_is_total_and_published() -> None:
    assert tuple(ExitType) == PRECEDENCE
    for size in range(1, len(PRECEDENCE) + 1):
        for reasons in combinations(ExitType, size):
            assert first_by_precedence(reversed(reasons)) is reasons[0]
    assert first_by_precedence([]) is None


def _everything_at_once(rules: set[str]) -> Event:
    """What triggers on one bar (96 to 110, close 100) at which exactly these rules apply."""
    position = held(
        evaluate_on="range",
        stop_loss={"threshold_pct": 1} if "stop_loss" in rules else False,
        profit_taking={} if "profit_take" in rules else False,
        break_even={"activation_pct": 1} if "break_even" in rules else False,
        trailing_stop={"activation_pct": 1, "trail_pct": 1} if "trailing_stop" in rules else False,
        time_limit={"max_seconds": 600} if "time_limit" in rules else False,
        end_of_session={} if "end_of_session" in rules else False,
        custom_rule={"name": "x"} if "custom" in rules else False,
    ).when(seen("101.5", 60))
    verdict = "go" if "custom" in rules else None
    now = position.when(seen(bar(100, 600, low=96, high=110), session_close=after(600), verdict=verdict))
    (event,) = now.news
    return event


def test_of_rules_that_apply_together_the_first_in_order_wins() -> None:
    rules = [r for r in PRECEDENCE if r not in ("emergency", "operator", "recovered")]
    for size in (1, 2, 3, len(rules)):
        for chosen in combinations(rules, size):
            assert _everything_at_once(set(chosen)) == like(ExitTriggered, reason=chosen[0])


# --- latch, policy ----------------------------------------------------------------------------------------------------


def test_given_a_decision_when_the_price_recovers_then_it_stands() -> None:
    s = held().when(seen(99))
    for price, at in (("100", 120), ("150", 180), ("101", 240)):
        s = s.when(seen(price, at)).then().is_in("pending")
    s = s.when(reported("rejected", 0), seen(101, 300)).then().is_in("rejected")
    s.when(holds(10, 400)).is_in("pending").has(reason=ExitType.STOP_LOSS)


def test_given_an_exit_under_way_when_more_bars_breach_then_there_is_no_second_order() -> None:
    s = held().when(seen(99))
    for state in (
        s,
        s.when(reported("new")),
        s.when(reported("partially_filled", 4, 99)),
        s.when(reported("expired", 4)),
    ):
        for price in ("99", "90", "102", "120"):
            state.when(seen(price, 600)).then()


def test_given_a_trail_when_the_policy_changes_then_it_is_not_loosened() -> None:
    s = held(trailing_stop={"trail_pct": 1}, **NEITHER).when(seen(105, 60)).has(trail_stop=Decimal("103.95"))
    for new in (policy(trailing_stop={"trail_pct": 5}, **NEITHER), policy(trailing_stop=False, **NEITHER)):
        changed = s.when(ChangePolicy(at=after(90), policy=new)).then(PolicyChanged).has(trail_stop=Decimal("103.95"))
        changed.when(seen(107, 120)).then().when(seen("103.95", 180)).then(like(ExitTriggered, reason="trailing_stop"))


def test_given_a_disabled_policy_when_levels_are_breached_then_it_says_so_and_triggers_nothing() -> None:
    s = held(enabled=False).when(seen(99)).then(like(TriggerRefused, reason="disabled", price="99")).is_in("monitoring")
    s = s.when(seen(98, 120, refused_count=1)).then()
    s.when(seen(100, 180, refused_count=2)).then(RefusalEnded(reason="disabled", count=2, bar_at=after(180)))


def test_given_a_pause_when_levels_are_breached_then_it_waits_and_triggers_when_the_pause_is_over() -> None:
    s = held().when(seen(99, paused=True)).then(like(TriggerRefused, reason="paused"))
    s.when(seen(99, 120, refused_count=1)).then(
        RefusalEnded(reason="paused", count=1, bar_at=after(120)), ExitTriggered
    )


def test_given_a_bar_at_or_before_the_entry_when_it_breaches_then_it_is_not_evaluated() -> None:
    held().when(seen(90, 0)).then()
    held().when(seen(90, -60)).then()
    held().when(seen(90, 1)).then(ExitTriggered)


def test_given_a_policy_made_in_python_from_plain_values_then_it_means_what_it_says() -> None:
    loose = ExitPolicy(
        evaluate_on="close",
        profit_taking=ProfitTaking(threshold_pct=2.5, order_type="limit"),
        stop_loss=StopLoss(threshold_pct=1),
    )
    s = given().when(to_open(opened(policy=loose)))
    s.has(policy=policy(profit_taking={"threshold_pct": "2.5", "order_type": "limit"}, stop_loss={"threshold_pct": 1}))
    s.when(seen(bar(100, low=90, high=110))).then()
    s.when(seen("102.5")).then(like(ExitTriggered, order_type=OrderType.LIMIT, limit_price=Decimal("102.5")))
    s.when(seen("99")).then(like(ExitTriggered, reason="stop_loss"))
    changed = held(stop_loss=False).when(ChangePolicy(at=after(30), policy=loose)).then(PolicyChanged)
    changed.has(policy=s.now.policy).when(seen(bar(100, low=90, high=110))).then()


@pytest.mark.parametrize(
    "nonsense", [{"evaluate_on": "sometimes"}, {"stop_loss": StopLoss(threshold_pct="much")}], ids=str
)
def test_given_a_policy_made_in_python_that_means_nothing_then_it_is_refused(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not an exit policy"):
        given().when(to_open(opened(policy=ExitPolicy(**nonsense))))
    with pytest.raises(ValueError, match="not an exit policy"):
        held().when(ChangePolicy(at=after(30), policy=ExitPolicy(**nonsense)))


# --- what is refused --------------------------------------------------------------------------------------------------

BAD = {
    "NaN": "not_finite",
    "Infinity": "not_finite",
    "-Infinity": "not_finite",
    "0": "not_positive",
    "-1": "not_positive",
}


@pytest.mark.parametrize(("price", "reason"), BAD.items())
@pytest.mark.parametrize("where", ["open", "high", "low", "close"])
def test_given_an_impossible_price_anywhere_in_a_bar_then_it_is_refused(price: str, reason: str, where: str) -> None:
    prices = {"open": "90", "high": "91", "low": "89", "close": "90"} | {where: price}
    bad = Bar("AAPL", after(60), **prices)
    held().when(seen(bad)).then(TriggerRefused(reason=reason, bar_at=after(60), price=price, reference_price=None))


def test_given_a_bar_whose_high_is_below_its_low_then_it_is_refused() -> None:
    bad = Bar("AAPL", after(60), 90, 89, 91, 90)
    held().when(seen(bad)).then(like(TriggerRefused, reason="high_below_low", price="89 < 91"))


def test_given_a_bar_that_is_old_then_it_is_refused_only_where_age_counts() -> None:
    s = held(price_guard={"max_age_seconds": 300})
    s.when(seen(90, 60, received_at=after(360))).then(ExitTriggered)
    s.when(seen(90, 60, received_at=after(360.001))).then(like(TriggerRefused, reason="stale", price="90"))
    s.when(seen(90, 60)).then(ExitTriggered)


def test_given_a_bar_dated_far_ahead_of_its_arrival_then_it_is_refused_only_where_age_counts() -> None:
    ahead = int(AHEAD_MAX.total_seconds())
    s = held()
    s.when(seen(90, 60 + ahead, received_at=after(60))).then(ExitTriggered)
    s.when(seen(90, 61 + ahead, received_at=after(60))).then(like(TriggerRefused, reason="in_the_future"))
    s.when(seen(90, 61 + ahead)).then(ExitTriggered)


def test_given_a_bar_seen_before_or_out_of_order_then_it_is_refused() -> None:
    held().when(seen(90, 60, previous_bar_at=after(60))).then(like(TriggerRefused, reason="already_seen"))
    held().when(seen(90, 60, previous_bar_at=after(61))).then(like(TriggerRefused, reason="out_of_order"))
    held().when(seen(90, 60, previous_bar_at=after(59))).then(ExitTriggered)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("price", "believed"), [("130", True), ("130.01", False), ("76.93", True), ("76.92", False), ("1", False)]
)
def test_given_a_jump_then_nothing_is_decided_and_a_person_is_told(side: Side, price: str, believed: bool) -> None:
    s = held(side).when(seen(price, reference_price=Decimal(100)))
    if believed:
        s.then(ExitTriggered)
        return
    s.then(
        TriggerRefused(reason="price_jump", bar_at=after(60), price=price, reference_price=Decimal(100)),
        like(AlarmRaised, kind="price_jump"),
    ).is_in("monitoring")
    s.when(seen(price, 120, reference_price=Decimal(100), refused_count=1)).then()  # one event and one alarm for a run


def test_given_a_jump_at_the_open_only_then_it_is_refused_too() -> None:
    s = held().when(seen(bar(100, open=140, high=140, low=100), reference_price=Decimal(100)))
    s.then(like(TriggerRefused, price="140"), AlarmRaised)


def test_given_an_exit_under_way_when_prices_jump_then_a_person_is_told_once() -> None:
    jump = {"reference_price": Decimal(99)}
    s = held().when(seen(99))
    for under_way in (s, s.when(reported("new")), s.when(reported("expired", 4))):
        told = under_way.when(seen(14, 120, **jump)).then(like(AlarmRaised, kind="price_jump"))
        told.is_in(under_way.now.state).when(seen(14, 180, **jump)).then()
    s.when(seen("NaN", 120, **jump)).then()


def test_given_a_jump_that_a_second_source_confirms_then_it_triggers() -> None:
    held().when(seen(50, reference_price=Decimal(100), confirmed=True)).then(ExitTriggered)
    held().when(seen("NaN", reference_price=Decimal(100), confirmed=True)).then(TriggerRefused)


def test_given_the_guard_is_off_then_a_jump_triggers_but_impossible_prices_do_not() -> None:
    s = held(price_guard=False)
    s.when(seen(1, reference_price=Decimal(100))).then(ExitTriggered)
    s.when(seen("NaN", reference_price=Decimal(100))).then(TriggerRefused)
    s.when(seen(99, 60, previous_bar_at=after(60))).then(TriggerRefused)


def test_given_a_run_of_refusals_then_it_is_one_event_at_the_start_and_one_with_the_count_at_the_end() -> None:
    s = held().when(seen("NaN", 60)).then(like(TriggerRefused, reason="not_finite"))
    s = s.when(seen("NaN", 120, refused_count=1), seen("Infinity", 180, refused_count=2)).then()
    s.when(seen("100", 240, refused_count=3)).then(RefusalEnded(reason="not_finite", count=3, bar_at=after(240)))
    s.when(seen("99", 240, refused_count=3)).then(like(RefusalEnded, count=3), ExitTriggered)
    s.when(seen("0", 240, refused_count=3)).then(
        like(RefusalEnded, count=3), like(TriggerRefused, reason="not_positive")
    )


def test_given_a_feed_that_repeats_itself_then_the_run_is_not_opened_and_closed_at_every_bar() -> None:
    s = held()
    for minute in range(1, 10):
        s = s.when(seen(100, 60 * minute, previous_bar_at=after(60 * minute - 60)))
        s = s.when(seen(100, 60 * minute, previous_bar_at=after(60 * minute), refused_count=minute - 1))
    assert s.history[1:] == (like(TriggerRefused, reason="already_seen"),)
    s.when(seen(99, 900, refused_count=9)).then(like(RefusalEnded, reason="already_seen", count=9), ExitTriggered)


def test_given_a_feed_without_usable_prices_when_it_goes_on_then_a_person_is_told_once() -> None:
    s = held()
    for bars in range(REFUSED_BARS_ALARM + 5):
        s = s.when(seen("NaN", 60 + bars, refused_count=bars))
    assert s.history[1:] == (like(TriggerRefused), like(AlarmRaised, kind="feed_unusable"))
    assert REFUSED_BARS_ALARM == 10


def test_given_a_price_guard_when_prices_are_asked_about_directly_then_the_ratio_is_exact() -> None:
    ratio = Decimal("1.3")
    assert not is_jump(Decimal(130), Decimal(100), ratio)
    assert not is_jump(Decimal(100), Decimal(130), ratio)
    assert is_jump(Decimal("130.000000000000000000000000001"), Decimal(100), ratio)
    assert is_jump(Decimal("99.999999999999999999999999999"), Decimal(130), ratio)
    sound = bar(130, 60)
    guard = ExitPolicy().price_guard
    assert bar_fault(sound, guard, reference=Decimal(100), previous_at=None) is None
    assert bar_fault(sound, guard, reference=Decimal("99.99"), previous_at=None) is not None


@for_all(
    st.decimals("0.0001", "100000", places=4),
    st.decimals("1.0001", "3", places=4),
    st.sampled_from([-1, 1]),
    st.integers(-2, 2),
)
def test_a_jump_is_found_exactly_at_the_ratio_whatever_the_floats_in_front_say(
    reference: Decimal, ratio: Decimal, way: int, ulps: int
) -> None:
    edge = EXACT.multiply(reference, ratio) if way > 0 else EXACT.divide(reference, ratio)
    price = EXACT.add(edge, Decimal(ulps).scaleb(-28))
    guard = PriceGuard(max_jump_ratio=ratio)

    fault = bar_fault(Bar("S", after(60), price, price, price, price), guard, reference=reference, previous_at=None)

    assert (fault is not None) is is_jump(price, reference, ratio)


# --- every threshold, exactly: against fractions ----------------------------------------------------------------------


@dataclass
class Model:
    """The rules once more, on fractions and without any of the library's arithmetic."""

    side: int
    entry: Fraction
    rules: ExitPolicy
    atr: Fraction | None
    trail: Fraction | None = None
    even: Fraction | None = None

    def away(self, price: Fraction, pct: Decimal, sign: int) -> Fraction:
        return price * (100 + sign * Fraction(pct)) / 100

    def target(self, held_s: int) -> Fraction | None:
        ladder = [s for s in self.rules.target_ladder.steps if s.after_seconds <= held_s]
        if self.rules.target_ladder.enabled and ladder:
            return self.away(self.entry, ladder[-1].threshold_pct, self.side)
        if self.atr is not None:
            return self.entry + self.side * self.atr * Fraction(self.rules.atr_levels.target_multiple)
        rule = self.rules.profit_taking
        return self.away(self.entry, rule.threshold_pct, self.side) if rule.enabled else None

    def stops(self) -> dict[str, Fraction]:
        found = {}
        if self.atr is not None:
            found["stop_loss"] = self.entry - self.side * self.atr * Fraction(self.rules.atr_levels.stop_multiple)
        elif self.rules.stop_loss.enabled or self.rules.atr_levels.enabled:
            found["stop_loss"] = self.away(self.entry, self.rules.stop_loss.threshold_pct, -self.side)
        if self.even is not None:
            found["break_even"] = self.even
        if self.trail is not None:
            found["trailing_stop"] = self.trail
        return found

    def moves(self) -> list[Fraction]:
        """Prices at which a stop next moves."""
        even, trail = self.rules.break_even, self.rules.trailing_stop
        prices = []
        if even.enabled and self.even is None:
            prices.append(self.away(self.entry, even.activation_pct, self.side))
        if trail.enabled and self.trail is None:
            prices.append(self.away(self.entry, trail.activation_pct, self.side))
        if trail.enabled and self.trail is not None:
            least = self.away(self.trail, trail.step_pct, self.side)
            prices.append(least * 100 / (100 - self.side * Fraction(trail.trail_pct)))
        return prices

    def reason(self, worst: Fraction, best: Fraction, held_s: int) -> str | None:
        """Why a bar with these prices exits; when it does not, the stops follow."""
        found = {rule for rule, price in self.stops().items() if (worst - price) * self.side <= 0}
        target = self.target(held_s)
        if target is not None and (best - target) * self.side >= 0:
            found.add("profit_take")
        if self.rules.time_limit.enabled and held_s >= self.rules.time_limit.max_seconds:
            found.add("time_limit")
        for rule in PRECEDENCE:
            if rule in found:
                return rule
        self.follow(best)
        return None

    def follow(self, best: Fraction) -> None:
        even, trail = self.rules.break_even, self.rules.trailing_stop
        if (
            even.enabled
            and self.even is None
            and self.beyond(best, self.away(self.entry, even.activation_pct, self.side))
        ):
            self.even = self.away(self.entry, even.offset_pct, self.side)
        if not trail.enabled:
            return
        stop = self.away(best, trail.trail_pct, -self.side)
        if self.trail is None:
            if self.beyond(best, self.away(self.entry, trail.activation_pct, self.side)):
                self.trail = stop
        elif stop != self.trail and self.beyond(stop, self.away(self.trail, trail.step_pct, self.side)):
            self.trail = stop

    def beyond(self, price: Fraction, level: Fraction) -> bool:
        return (price - level) * self.side >= 0


def decimals(low: str, high: str, places: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(low, high, places=places, allow_nan=False, allow_infinity=False)


PCTS = st.one_of(decimals("0.01", "5", 2), decimals("0.0001", "30", 4))
POLICIES = st.builds(
    policy,
    evaluate_on=st.sampled_from(["close", "range"]),
    profit_taking=st.one_of(st.just(False), st.fixed_dictionaries({"threshold_pct": PCTS})),
    stop_loss=st.one_of(st.just(False), st.fixed_dictionaries({"threshold_pct": PCTS})),
    trailing_stop=st.one_of(
        st.just(False),
        st.fixed_dictionaries({"activation_pct": PCTS, "trail_pct": PCTS, "step_pct": decimals("0", "1", 2)}),
    ),
    break_even=st.one_of(st.just(False), st.fixed_dictionaries({"activation_pct": PCTS, "offset_pct": PCTS})),
    atr_levels=st.one_of(st.just(False), st.fixed_dictionaries({"target_multiple": PCTS, "stop_multiple": PCTS})),
    time_limit=st.one_of(st.just(False), st.just({"max_seconds": 200})),
    target_ladder=st.one_of(
        st.just(False),
        st.builds(
            lambda a, b: {
                "steps": [{"after_seconds": 60, "threshold_pct": a}, {"after_seconds": 180, "threshold_pct": b}]
            },
            PCTS,
            PCTS,
        ),
    ),
    price_guard=st.just(False),
)
ENTRIES = st.one_of(decimals("0.01", "9", 2), decimals("1", "700", 4), decimals("0.000001", "99999", 9))


def grid(price: Fraction, tick: Decimal, steps: int) -> Decimal:
    """A price on the grid of `tick`: `steps` above the last grid point that is not above `price`."""
    whole = price // Fraction(tick)
    return EXACT.multiply(Decimal(int(whole) + steps), tick)


@st.composite
def bars_near_triggers(draw: Any, model: Model) -> tuple[Decimal, Decimal, Decimal, int]:
    """A range and a close on, just above or just below what matters now, and the seconds since the last bar."""
    near = [*model.stops().values(), *model.moves(), model.entry]
    target = model.target(60)
    near += [] if target is None else [target]
    tick = draw(st.sampled_from([Decimal("0.01"), Decimal("1E-9"), Decimal("1E-15")]))

    def price() -> Decimal:
        at = draw(st.sampled_from(near))
        return max(grid(at, tick, draw(st.sampled_from([-1, 0, 0, 1, 1, 2]))), tick)

    prices = sorted([price(), price(), price()])
    return prices[0], prices[1], prices[2], draw(st.sampled_from([1, 59, 60, 61]))


@for_all(st.sampled_from(SIDES), POLICIES, ENTRIES, PCTS, st.data())
def test_whatever_the_rules_decisions_are_those_of_exact_arithmetic(
    side: Side, rules: ExitPolicy, entry: Decimal, atr: Decimal, data: Any
) -> None:
    widest = rules.atr_levels.stop_multiple if side is Side.LONG else rules.atr_levels.target_multiple
    usable = rules.atr_levels.enabled and Fraction(atr) * Fraction(widest) < Fraction(entry)
    model = Model(side.sign, Fraction(entry), rules, Fraction(atr) if usable else None)
    s = given(opened(side, entry=entry, policy=rules, atr=atr))
    at = 0
    for _ in range(8):
        low, close, high, seconds = data.draw(bars_near_triggers(model))
        at += seconds
        on_range = rules.evaluate_on == "range"
        worst, best = (low, high) if side is Side.LONG else (high, low)
        expected = model.reason(Fraction(worst if on_range else close), Fraction(best if on_range else close), at)
        s = s.when(seen(bar(close, at, open=close, low=low, high=high)))
        triggered = [e for e in s.news if isinstance(e, ExitTriggered)]
        assert [e.reason for e in triggered] == ([] if expected is None else [expected])
        if expected is not None:
            (event,) = triggered
            levels = {**model.stops(), "profit_take": model.target(at)}
            if expected in levels:
                assert Fraction(event.level) == levels[expected]
            return
        for mine, its in ((model.trail, s.now.trail_stop), (model.even, s.now.stops.break_even)):
            assert mine == (None if its is None else Fraction(its))


@for_all(st.sampled_from(["profit_take", "stop_loss"]), ENTRIES, PCTS, st.sampled_from(["0.01", "1E-9", "1E-15"]))
def test_a_tick_either_side_of_a_threshold_decides(rule: str, entry: Decimal, pct: Decimal, tick: str) -> None:
    for side in SIDES:
        sign = side.sign if rule == "profit_take" else -side.sign
        level = Fraction(entry) * (100 + sign * Fraction(pct)) / 100
        section = "profit_taking" if rule == "profit_take" else "stop_loss"
        off = {"stop_loss": False} if rule == "profit_take" else {"profit_taking": False}
        s = given(opened(side, entry=entry, policy=policy(**{section: {"threshold_pct": pct}}, **off)))
        exactly = EXACT.divide(Decimal(level.numerator), Decimal(level.denominator))
        assert Fraction(exactly) == level  # a level is a decimal: nothing was rounded
        s.when(seen(exactly)).then(like(ExitTriggered, reason=rule, level=exactly))
        step = Decimal(tick) * sign
        beyond, inside = EXACT.add(exactly, step), EXACT.subtract(exactly, step)
        if beyond > 0:
            s.when(seen(beyond)).then(like(ExitTriggered, reason=rule, level=exactly))
        if inside > 0:
            s.when(seen(inside)).then()


@for_all(st.sampled_from(["close", "range"]), PCTS, PCTS, st.lists(decimals("60", "140", 2), min_size=3, max_size=12))
def test_short_is_the_mirror_image_of_long(
    mode: str, activation: Decimal, trail: Decimal, prices: list[Decimal]
) -> None:
    # Percentages of the moving stop are of different prices on the two sides, so the mirror holds for rules in terms
    # of the entry; these are all but the trail's own distance, which the exact model above covers.
    rules = {"break_even": {"activation_pct": activation, "offset_pct": 0}, "stop_loss": {"threshold_pct": trail}}
    outcomes = []
    for side in SIDES:
        s = held(side, evaluate_on=mode, price_guard=False, **rules)
        for minute, price in enumerate(prices, 1):
            s = s.when(seen(mirrored(side, price), 60 * minute))
        outcomes.append(
            [
                (type(e), getattr(e, "reason", None), mirrored(side, getattr(e, "level", None) or e.stop))
                for e in s.history[1:]
                if isinstance(e, (ExitTriggered, StopMoved))
            ]
        )
    assert outcomes[0] == outcomes[1]


@for_all(st.sampled_from(SIDES), PCTS, decimals("0", "1", 2), st.lists(decimals("80", "130", 2), max_size=30))
def test_a_trail_never_loosens(side: Side, trail: Decimal, step: Decimal, prices: list[Decimal]) -> None:
    rules = policy(
        trailing_stop={"activation_pct": 0, "trail_pct": trail, "step_pct": step}, price_guard=False, **NEITHER
    )
    s = given(opened(side, policy=rules))
    best = None
    for minute, price in enumerate(prices, 1):
        s = s.when(seen(price, 60 * minute))
        stop = s.now.trail_stop
        assert best is None or (stop - best) * side.sign >= 0
        best = stop


def test_limit_prices_are_rounded_away_from_the_entry_never_short_of_the_target() -> None:
    rules = policy(profit_taking={"threshold_pct": "1.23", "order_type": "limit"})
    for side, rounding in ((Side.LONG, ROUND_CEILING), (Side.SHORT, ROUND_FLOOR)):
        s = given(opened(side, entry="33.33", policy=rules)).when(seen(33 + 3 * side.sign))
        (event,) = s.news
        assert event == like(ExitTriggered, order_type=OrderType.LIMIT)
        assert event.limit_price == event.level.quantize(Decimal("0.01"), rounding) != event.level


def test_given_the_bar_of_the_entry_then_it_decides_nothing() -> None:
    for at in (-60, 0):
        held().when(seen(50, at)).then()
        held().when(seen(50, at, received_at=after(0))).then()


def test_given_bars_of_the_present_that_are_dated_before_the_entry_then_a_person_is_told() -> None:
    at = after(-1000)
    s = held().when(seen(100, -1000, received_at=at))
    s.then(like(TriggerRefused, reason="before_entry", price="100"), like(AlarmRaised, kind="feed_unusable", at=at))
    s.when(seen(100, -940, received_at=after(-940))).then()  # told once
    edge = -ExitPolicy().price_guard.max_age_seconds
    held().when(seen(100, edge, received_at=after(edge))).then()
    held().when(seen(100, edge - 1, received_at=after(edge - 1))).then(TriggerRefused, AlarmRaised)


def test_given_a_bot_that_rounds_then_levels_and_ranges_are_exact() -> None:
    entry, atr = Decimal("98765.432198765"), Decimal("12.345678912")
    settings = {"atr": atr, "entry": entry, "atr_levels": {"stop_multiple": "1.2345678"}}
    bars = [bar("1234.567891"), bar("1230.123456", 120), bar("1244.765432", 180)]

    def figures() -> tuple[Any, ...]:
        return (
            away(entry, Decimal("1.2345678"), 1),
            levels(held(Side.LONG, **settings).position, after(0)),
            levels(held(Side.SHORT, **settings).position, after(0)),
            average_true_range(bars, 2),
        )

    expected = figures()
    for digits in (2, 9):
        with localcontext(Context(prec=digits, traps=[])):
            assert figures() == expected
    assert Fraction(expected[0]) == Fraction(entry) * (100 + Fraction("1.2345678")) / 100


def test_given_more_bars_than_the_average_takes_then_only_the_last_count() -> None:
    bars = [bar(100), bar(150, 120), bar(152, 180), bar(156, 240)]
    assert average_true_range(bars, 2) == 3
    assert average_true_range(bars, 3) == Decimal("18.666666667")
    assert average_true_range(bars, 4) is None
