"""A bar that still forms: what a later look at it decides, and what it must not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from exitfsm.bar import Quote
from exitfsm.engine import Engine
from exitfsm.events import Event, ExitEscalated, ExitTriggered, RefusalEnded, StopMoved, TriggerRefused
from exitfsm.levels import Slot
from exitfsm.policy import ExitPolicy, PriceGuard, age_max, silence_max_s
from exitfsm.position import Position, RuleStates, fold_bar, judged, judged_by, new_in, refolded
from exitfsm.position.looks import at_its_close
from exitfsm.store import ExitStore
from exitfsm.testing.given import BROKER, after, opened, policy, to_open
from exitfsm.values import Bar, ExecutionReport, OrderStatus, Side

RANGE = policy(evaluate_on="range", profit_taking=False)
TRAIL = {"activation_pct": 1, "trail_pct": 1, "step_pct": 0}


class Watch:
    """An engine with positions that are not entered at a bar, as live."""

    def __init__(self, store: ExitStore) -> None:
        self.store, self.engine = store, Engine(store, BROKER)

    def buy(self, *, rules: ExitPolicy | None = None, side: Side = Side.LONG) -> Position:
        """A position at 100."""
        return self.engine.open(to_open(opened(side, policy=rules)), reference=Decimal(100))

    def exited(self, p: Position, bar: Bar, arrived: datetime) -> bool:
        """A bar comes; true when the position is on its way out."""
        self.engine.on_bar(bar, arrived)
        return any(isinstance(e, ExitTriggered) for e in news(self, p))


@pytest.fixture
def desk() -> Iterator[Watch]:
    with ExitStore(":memory:") as store:
        yield Watch(store)


def look(close: Any, at: float = 60, low: Any = None, high: Any = None, volume: Any = 0) -> Bar:
    """A look at the bar of a time: low and high as far as they are given."""
    bottom, top = close if low is None else low, close if high is None else high
    return Bar("AAPL", after(at), close, top, bottom, close, volume)


def news(desk: Watch, p: Position) -> list[Event]:
    return [r.event for r in desk.store.stream(p.position_id)][1:]


def tell(desk: Watch, bar: Bar, arrives: float) -> None:
    desk.engine.on_bar(bar, after(arrives))


# --- what is new ------------------------------------------------------------------------------------------------------


def test_given_a_later_look_then_its_close_and_new_extremes_are_what_is_new() -> None:
    before = judged(look(100, low=99, high=101, volume=10))
    new = new_in(look("100.5", low=98, high=101, volume=12), before)
    assert new is not None
    assert (new.open, new.low, new.high, new.close) == (Decimal("100.5"), 98, Decimal("100.5"), Decimal("100.5"))
    both = judged(new, before)
    assert (both.lowest, both.highest, both.close, both.volume) == (98, 101, Decimal("100.5"), 12)


@pytest.mark.parametrize("volume", ["nan", "junk", -5, 0])
def test_given_a_volume_that_is_none_then_the_look_counts_by_its_prices(volume: Any) -> None:
    before = judged(look(100, volume=10))
    assert new_in(look(99, volume=volume), before) is not None
    assert new_in(look(100, volume=volume), before) is None


def test_given_a_look_with_less_volume_or_an_identical_one_then_nothing_is_new() -> None:
    before = judged(look(100, low=99, volume=10))
    assert new_in(look(90, volume=9), before) is None
    assert new_in(look(100, low=99, volume=10), before) is None
    assert new_in(look(100, low=99, volume=11), before) is not None


def test_given_an_unsound_look_then_it_is_judged_as_it_is() -> None:
    odd = look("NaN")
    assert new_in(odd, judged(look(100))) is odd


def test_given_a_bar_then_its_close_alone_is_a_bar_of_one_price() -> None:
    flat = at_its_close(look(100, low=90, high=110, volume=3))
    assert (flat.open, flat.low, flat.high, flat.close, flat.volume) == (100, 100, 100, 100, 3)


# --- what is decided --------------------------------------------------------------------------------------------------


def test_given_a_fall_inside_a_bar_then_the_stop_does_not_wait_for_the_next_one(desk: Watch) -> None:
    p = desk.buy()
    for n, close in enumerate((100, "99.8", "99.5", 98)):
        tell(desk, look(close), 65 + 5 * n)
    (exit_,) = news(desk, p)
    assert isinstance(exit_, ExitTriggered)
    assert (exit_.trigger_price, exit_.bar_at, exit_.at) == (98, after(60), after(80))


def test_given_a_low_from_before_the_stop_moved_then_no_later_look_meets_it(desk: Watch) -> None:
    p = desk.buy(rules=policy(evaluate_on="range", profit_taking=False, trailing_stop=TRAIL))
    tell(desk, look(103, low="99.5", high=103), 61)  # the trail stands at 101.97
    tell(desk, look("102.5", low="99.5", high=103), 62)
    assert [type(e) for e in news(desk, p)] == [StopMoved]
    tell(desk, look("102.5", low="99.4", high=103), 63)
    assert [type(e) for e in news(desk, p)] == [StopMoved, ExitTriggered]


def test_given_identical_looks_then_nothing_is_written(desk: Watch) -> None:
    p = desk.buy(rules=policy(evaluate_on="range", trailing_stop=TRAIL, profit_taking=False))
    for n in range(5):
        tell(desk, look("100.9", low="99.5", high=103, volume=5), 61 + n)
    assert [type(e) for e in news(desk, p)] == [StopMoved]
    assert desk.engine.refusals() == []


def test_given_a_look_that_jumps_then_it_is_refused_and_the_next_true_one_decides(desk: Watch) -> None:
    p = desk.buy()
    tell(desk, look(100), 61)
    tell(desk, look(50), 62)
    tell(desk, look("NaN"), 63)
    tell(desk, look(98), 64)
    assert [getattr(e, "reason", "") for e in news(desk, p) if isinstance(e, TriggerRefused)] == [
        "price_jump",
        "not_finite",
    ]
    assert isinstance(news(desk, p)[-1], ExitTriggered)


def test_given_many_looks_at_once_then_each_is_judged_after_the_one_before(desk: Watch) -> None:
    p = desk.buy()
    desk.engine.on_bars([look(100), look("100.1"), look(98), look(101)], received_at=after(65))
    assert [type(e) for e in news(desk, p)] == [ExitTriggered]


def test_given_the_same_bar_twice_without_an_arrival_then_it_is_refused_as_before(desk: Watch) -> None:
    p = desk.buy()
    desk.engine.on_bar(look(100))
    desk.engine.on_bar(look(98))
    assert [e.reason for e in news(desk, p) if isinstance(e, TriggerRefused)] == ["already_seen"]


def test_given_a_bar_in_which_the_entry_fell_then_only_closes_that_came_after_it_count(desk: Watch) -> None:
    p = desk.buy(rules=RANGE)
    tell(desk, look(100, at=-30, low=90, high=110), 1)
    tell(desk, look("99.9", at=-30, low=89, high=111), 2)
    assert news(desk, p) == []
    tell(desk, look("98.9", at=-30, low=89, high=111), 3)
    (exit_,) = news(desk, p)
    assert isinstance(exit_, ExitTriggered)
    assert exit_.trigger_price == Decimal("98.9")


def test_given_a_bar_that_had_ended_at_the_entry_then_a_correction_of_it_decides_nothing(desk: Watch) -> None:
    p = desk.buy(rules=RANGE)
    slot = desk.engine.levels.slots["AAPL"]
    for n, at in enumerate((-240, -180, -120)):
        tell(desk, look(100, at=at, volume=5), 1 + 2 * n)
        tell(desk, look(100, at=at, volume=6), 2 + 2 * n)
    assert slot.length == timedelta(seconds=60)
    tell(desk, look(95, at=-120, volume=7), 7)
    assert news(desk, p) == []


def test_given_a_restart_then_bars_that_were_seen_are_not_refused_and_the_newest_counts_by_its_close(
    desk: Watch,
) -> None:
    p = desk.buy(rules=RANGE)
    for n, close in enumerate((100, 100, "100.5")):
        tell(desk, look(close, at=60 * (n + 1), low=close, high=101), 60 * (n + 2))
    desk.store.save_marks(desk.engine.marks())
    again = Engine(desk.store, BROKER)
    again.load()
    for n, close in enumerate((100, 100, "100.5")):
        again.on_bar(look(close, at=60 * (n + 1), low=98, high=110), after(245 + n))
    assert news(desk, p) == []
    assert again.refusals() == []
    again.on_bar(look("99.5", at=180, low=98, high=110), after(250))
    assert news(desk, p) == []
    again.on_bar(look("99.4", at=180, low=97, high=110), after(251))
    assert news(desk, p) == []  # the low may be from before
    again.on_bar(look(99, at=180, low=97, high=110), after(252))
    assert [type(e) for e in news(desk, p)] == [ExitTriggered]


def test_given_a_restart_with_a_clock_put_back_then_bars_of_now_count(desk: Watch) -> None:
    p = desk.buy()
    tell(desk, look(100, at=7200), 7200)
    desk.store.save_marks(desk.engine.marks())
    again = Engine(desk.store, BROKER)
    again.load()
    again.on_bar(look(98, at=60), after(61))
    assert [type(e) for e in news(desk, p)] == [ExitTriggered]


def test_given_long_bars_and_a_clock_put_back_before_a_restart_then_what_is_dated_after_the_restart_counts(
    desk: Watch,
) -> None:
    p = desk.buy()
    tell(desk, look(100, at=2000), 2000)  # the clock was half an hour ahead
    desk.store.save_marks(desk.engine.marks())
    again = Engine(desk.store, BROKER)
    again.levels.expect(3600)
    again.load()
    again.on_bar(look(98, at=60), after(61))
    assert news(desk, p) == []  # as far as its time says it may have been seen
    again.on_bar(look(98, at=80), after(81))
    assert [type(e) for e in news(desk, p)] == [ExitTriggered]


# --- how long bars are ------------------------------------------------------------------------------------------------


def test_given_hourly_bars_dated_by_their_start_then_their_length_is_learnt_and_they_count(desk: Watch) -> None:
    p = desk.buy()
    for hour in range(1, 4):
        tell(desk, look("100.1", at=3600 * hour), 3600 * (hour + 1))
    assert [type(e) for e in news(desk, p)] == [TriggerRefused, RefusalEnded]
    tell(desk, look(98, at=3600 * 4), 3600 * 5 + 10)
    assert isinstance(news(desk, p)[-1], ExitTriggered)


def test_given_minute_bars_that_come_late_then_no_length_makes_them_fresh(desk: Watch) -> None:
    p = desk.buy()
    for minute in range(1, 8):
        tell(desk, look(98, at=60 * minute), 60 * minute + 900)
    assert [type(e) for e in news(desk, p)] == [TriggerRefused]
    assert desk.engine.levels.slots["AAPL"].length == timedelta(seconds=60)


def test_given_a_gap_between_bars_then_it_is_not_taken_for_their_length(desk: Watch) -> None:
    p = desk.buy()
    tell(desk, look(100, at=60), 61)
    for hour in (17, 18.5):
        tell(desk, look(98, at=3600 * hour), 3600 * hour + 900)
    assert [type(e) for e in news(desk, p)] == [TriggerRefused]


def test_given_a_length_then_age_and_silence_are_measured_by_it() -> None:
    guard, minute, hour = PriceGuard(), timedelta(minutes=1), timedelta(hours=1)
    assert age_max(guard, None) == age_max(guard, minute) == timedelta(seconds=300)
    assert age_max(guard, hour) == timedelta(seconds=3900)
    assert silence_max_s(100, guard, None) == silence_max_s(100, guard, minute) == 100
    assert silence_max_s(600, guard, hour) == 3900
    assert silence_max_s(600, PriceGuard(max_age_seconds=7200), None) == 7200


def test_given_a_length_that_was_said_then_long_bars_count_from_the_first_on(desk: Watch) -> None:
    desk.engine.levels.expect(3600)
    p = desk.buy()
    tell(desk, look(98, at=3600), 7210)
    assert [type(e) for e in news(desk, p)] == [ExitTriggered]


def test_given_looks_that_say_nothing_new_then_the_symbol_is_heard_of_until_they_are_old(desk: Watch) -> None:
    p = desk.buy()
    slot = desk.engine.levels.slots["AAPL"]
    tell(desk, look(100), 61)
    first = slot.heard
    tell(desk, look(100), 300)
    second = slot.heard
    assert first != second
    tell(desk, look(100), 700)
    assert slot.heard == second
    text = "no bar of AAPL for 640 s (they come, and are refused: already_seen): its levels are not being watched"
    assert slot.silent(p, 640, after(700)).text == text


def test_given_a_symbol_then_it_is_known_which_sides_are_held(desk: Watch) -> None:
    desk.buy()
    assert desk.engine.levels.sides("AAPL") == {Side.LONG}
    assert desk.engine.levels.sides("MSFT") == set()


def quote(bid: Any, ask: Any, at: float = 60) -> Quote:
    """A quote whose price is in the middle."""
    bid, ask = Decimal(str(bid)), Decimal(str(ask))
    middle = (bid + ask) / 2
    return Quote("AAPL", after(at), middle, middle, middle, middle, bid=bid, ask=ask)


def test_given_both_sides_held_when_a_quote_comes_then_each_is_judged_by_what_it_would_get(desk: Watch) -> None:
    long, short = desk.buy(rules=policy(profit_taking=False)), desk.buy(side=Side.SHORT)
    desk.engine.on_bar(quote("98.99", "99.03"), after(60))
    assert [(e.trigger_price, e.level) for e in news(desk, long) if isinstance(e, ExitTriggered)] == [
        (Decimal("98.99"), Decimal(99))
    ], "the middle is above the stop, and the bid is not"
    assert news(desk, short) == []


def test_given_a_quote_then_nobody_sleeps_through_its_far_side(desk: Watch) -> None:
    short = desk.buy(side=Side.SHORT)
    desk.engine.on_bar(quote("100", "101"), after(60))
    assert [e.trigger_price for e in news(desk, short) if isinstance(e, ExitTriggered)] == [Decimal(101)]


def test_given_two_quotes_of_one_time_then_the_second_is_judged_by_side_too(desk: Watch) -> None:
    p = desk.buy()
    desk.engine.on_bar(quote("99.5", "99.7"), after(60))
    desk.engine.on_bar(quote("98.9", "99.3"), after(61))
    assert [e.trigger_price for e in news(desk, p) if isinstance(e, ExitTriggered)] == [Decimal("98.9")]


@pytest.mark.parametrize("side", [Side.LONG, Side.SHORT])
def test_given_a_quote_with_one_side_only_then_the_price_counts_for_the_other(side: Side) -> None:
    half = Quote("AAPL", after(60), 100, 100, 100, 100, bid=Decimal(99))
    assert judged_by(half, side).close == (99 if side is Side.LONG else 100)
    assert judged_by(look(98), side) == look(98)


def test_given_a_quote_with_a_price_that_is_none_then_it_is_refused(desk: Watch) -> None:
    p = desk.buy()
    desk.engine.on_bar(quote("NaN", "99"), after(60))
    assert [type(e) for e in news(desk, p)] == [TriggerRefused]


# --- out of session ---------------------------------------------------------------------------------------------------


def test_given_a_closed_market_then_bars_that_began_after_the_close_decide_nothing_in_one_run(desk: Watch) -> None:
    p = desk.buy()
    slot = desk.engine.levels.slots["AAPL"]
    slot.shut(after(120))
    for at in (120, 180, 240):
        tell(desk, look(98, at), at)
    tell(desk, look(100, 300), 300)
    assert [getattr(e, "reason", "") for e in news(desk, p)] == ["out_of_session"]
    slot.shut(None)
    tell(desk, look(100, 360), 360)
    assert [type(e) for e in news(desk, p)] == [TriggerRefused, RefusalEnded]
    tell(desk, look(98, 420), 420)
    assert isinstance(news(desk, p)[-1], ExitTriggered)


def test_given_a_closed_market_then_a_bar_with_a_part_inside_counts(desk: Watch) -> None:
    p = desk.buy()
    desk.engine.levels.slots["AAPL"].shut(after(120))
    tell(desk, look(98, 119), 180)
    assert [type(e) for e in news(desk, p)] == [ExitTriggered]


def test_given_bars_of_a_day_then_a_closed_market_holds_none_up(desk: Watch) -> None:
    desk.engine.levels.expect(86_400)
    p = desk.buy()
    desk.engine.levels.slots["AAPL"].shut(after(-86_400))
    tell(desk, look(98, 60), 86_460)
    assert [type(e) for e in news(desk, p)] == [ExitTriggered]


def test_given_an_exit_under_way_then_a_closed_market_does_not_hold_up_its_stop(desk: Watch) -> None:
    p = desk.buy(rules=policy(profit_taking={"order_type": "limit"}))
    tell(desk, look(102, 60), 60)
    order_id = desk.engine.positions[p.position_id].client_order_id or ""
    accepted = ExecutionReport(client_order_id=order_id, status=OrderStatus.NEW, at=after(61))
    desk.engine.on_report(accepted, at=after(61))
    desk.engine.levels.slots["AAPL"].shut(after(100))
    tell(desk, look(98, 120), 120)
    assert isinstance(news(desk, p)[-1], ExitEscalated)


# --- no exit that the prices would not have had -----------------------------------------------------------------------

PRICES = st.sampled_from([Decimal(price) for price in ("97.5", "98", "99", "100", "101.5", "102.5", "103")])
#: Bars, each of its looks, each of the prices that came since the look before.
BARS = st.lists(st.lists(st.lists(PRICES, min_size=1, max_size=4), min_size=1, max_size=4), min_size=1, max_size=3)


def looks_of(bars: list[list[list[Decimal]]], first_at: float) -> Iterator[tuple[Bar, int]]:
    """Each look at each bar, and how many prices have come by then."""
    count = 0
    for number, looks in enumerate(bars):
        prices: list[Decimal] = []
        for part in looks:
            prices += part
            count += len(part)
            at = after(first_at + 60 * number)
            yield Bar("AAPL", at, prices[0], max(prices), min(prices), prices[-1], len(prices)), count


@settings(max_examples=300)
@for_all(BARS, st.sampled_from(["range", "close"]), st.sampled_from(list(Side)), st.booleans())
def test_given_any_looks_then_none_exits_where_the_prices_in_order_of_arrival_would_not(
    bars: list[list[list[Decimal]]], on: str, side: Side, in_entry: bool
) -> None:
    rules = {"evaluate_on": on, "trailing_stop": TRAIL, "profit_taking": {"threshold_pct": 5}}
    rules |= {"stop_loss": {"threshold_pct": 5}, "break_even": {"activation_pct": 2, "offset_pct": 1}}
    prices = [price for looks in bars for part in looks for price in part]
    unseen = len(bars[0][0]) if in_entry else 0  # prices before the entry
    with ExitStore(":memory:") as one, ExitStore(":memory:") as other:
        by_looks, by_prices = Watch(one), Watch(other)
        p, q = (watch.buy(rules=policy(**rules), side=side) for watch in (by_looks, by_prices))
        exited_at = len(prices) + 1
        for count, price in enumerate(prices[unseen:], unseen + 1):
            if by_prices.exited(q, Bar("AAPL", after(count), price, price, price, price), after(count)):
                exited_at = count
                break
        for bar, count in looks_of(bars, -30 if in_entry else 1):
            if by_looks.exited(p, bar, after(200 + count)):
                assert exited_at <= count
                break


def test_the_prices_of_looks_are_those_that_came() -> None:
    found = list(looks_of([[[Decimal(1)], [Decimal(3), Decimal(2)]]], 1))
    assert [(b.low, b.high, b.close, n) for b, n in found] == [(1, 1, 1, 1), (1, 3, 2, 3)]
    assert all(a.timestamp == b.timestamp for (a, _), (b, _) in pairwise(found))


# --- rules that fold each bar -----------------------------------------------------------------------------------------


class Sum:
    """A rule that folds value and volume of each bar."""

    name = "sum"

    def fold(self, state: tuple[Decimal, Decimal] | None, p: object, bar: Bar) -> tuple[Decimal, Decimal]:
        value, volume = state or (Decimal(0), Decimal(0))
        return value + (bar.high + bar.low) * bar.volume, volume + bar.volume


def folding() -> Any:
    """What of a position the folding of bars asks for."""
    policy = SimpleNamespace(plan=SimpleNamespace(folding=[Sum()]), price_guard=PriceGuard())
    return SimpleNamespace(position_id="P", symbol="AAPL", opened_at=after(0), policy=policy)


def taken(looks: list[Bar], *, arrived: bool) -> RuleStates:
    """What has been folded of bars that were accepted, each look by what is new in it."""
    slot = Slot()
    slot.positions = (folding(),)
    for n, one in enumerate(looks):
        received = after(61 + n) if arrived else None
        if arrived and slot.new_in(one, received) is None:
            continue
        slot.take(slot.look_at(one, received)[0])
    return slot.folded_of(slot.positions[0])


def test_given_looks_at_a_bar_then_a_folded_state_counts_it_once_and_as_it_is_in_the_end() -> None:
    forming = [look(100, volume=10), look("100.5", low=99, volume=14), look("100.2", low=99, volume=14)]
    forming += [look("100.2", low=99, volume=14), look("99.5", low="99.2", high="100.6", at=120, volume=5)]
    closed = [look("100.2", low=99, high="100.5", volume=14), look("99.5", low="99.2", high="100.6", at=120, volume=5)]
    assert taken(forming, arrived=True).states == taken(closed, arrived=False).states
    assert taken(closed, arrived=False).states["sum"][1] == 19
    recorded = [look(100, volume=10), look("100.5", low=99, volume=13), closed[0], closed[1]]  # each look, whole
    assert refolded(folding(), recorded).states == taken(closed, arrived=False).states


def test_given_a_later_look_then_a_rule_is_asked_with_the_state_before_its_bar() -> None:
    first = look(100, volume=10)
    states = taken([first, look(100, at=120, volume=3), look(101, at=120, volume=4)], arrived=True)
    assert states.before(after(120)) == taken([first], arrived=True).states
    assert states.before(after(180)) == states.states


def test_given_states_that_were_restored_then_a_later_look_at_their_last_bar_is_not_counted_again() -> None:
    known = RuleStates(after(60), {"sum": (Decimal(2000), Decimal(10))})
    assert fold_bar(folding(), look(101, volume=12), known) is known
    assert fold_bar(folding(), look(101, at=30, volume=12), known) is known
    assert fold_bar(folding(), look(101, at=120, volume=1), known).states["sum"][1] == 11
