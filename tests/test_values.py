"""The nouns: numbers as they come, numbers in plain digits, bars."""

from __future__ import annotations

import math
import pickle
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from exitfsm.errors import nearest
from exitfsm.policy import ExitPolicy, Fault, bar_fault, typed
from exitfsm.testing.given import T0, after, bar, policy
from exitfsm.values import (
    PRICE_MAX,
    PRICE_MIN,
    Bar,
    Side,
    canonical_symbol,
    decimal_of,
    floor_to,
    pct_change,
    plain,
    round_to_tick,
    rounded,
    significant,
    stamp,
    symbol_key,
    tradable,
    utc,
)

D = Decimal

# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "meant"), [("Trailing_Stopp", "trailing_stop"), ("zzz", None)])
def test_given_a_name_that_is_misspelled_then_the_nearest_one_was_meant(text: str, meant: str | None) -> None:
    assert nearest(text, ["trailing_stop", "stop_loss"]) == meant


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "number"),
    [(D("1.10"), "1.10"), (3, "3"), ("1e2", "1E+2"), (0.1, "0.1"), (0.30000000000000004, "0.30000000000000004")],
)
def test_given_a_number_of_any_kind_then_it_is_the_decimal_that_it_shows(given: Any, number: str) -> None:
    assert str(decimal_of(given)) == number


@pytest.mark.parametrize("given", [True, False, "ten", "", None, [1], object()])
def test_given_what_is_no_number_then_it_is_refused_by_name(given: Any) -> None:
    with pytest.raises(ValueError, match="not a number"):
        decimal_of(given)


@pytest.mark.parametrize(
    ("number", "is_one"),
    [
        ("1E-30", True),
        ("9E-31", False),
        ("1E+29", True),
        ("9.99E+29", True),
        ("1E+30", False),
        ("1" * 30 + "." + "1" * 30, True),
        ("1" * 30 + "." + "1" * 31, False),
        ("NaN", False),
        ("Infinity", False),
        ("0", True),
        ("-5", True),
    ],
)
def test_given_a_number_then_it_can_be_traded_up_to_thirty_digits_on_either_side(number: str, is_one: bool) -> None:
    assert tradable(D(number)) is is_one


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1.10", "1.1"),
        ("1E+3", "1000"),
        ("100", "100"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("0.00", "0"),
        ("-1.50", "-1.5"),
        ("1E+999999999", "1.000000E+999999999"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
    ],
)
def test_given_a_number_then_its_text_is_plain_and_short(number: str, text: str) -> None:
    assert plain(D(number)) == text


@pytest.mark.parametrize(
    ("price", "side", "pct"),
    [
        ("101", Side.LONG, "1.0000"),
        ("101", Side.SHORT, "-1.0000"),
        ("99", Side.SHORT, "1.0000"),
        ("100.00005", Side.LONG, "0.0000"),  # half to even
        ("100.00015", Side.LONG, "0.0002"),
        ("100.00025", Side.LONG, "0.0002"),
    ],
)
def test_given_a_price_then_the_profit_is_in_percent_to_four_places(price: str, side: Side, pct: str) -> None:
    assert str(pct_change(D(100), D(price), side)) == pct


def test_given_a_step_then_a_quantity_is_rounded_toward_zero_and_without_one_it_stays() -> None:
    assert floor_to(D("6.29"), D("0.1")) == D("6.2")
    assert floor_to(D("0.09"), D("0.1")) == 0
    assert floor_to(D(7), D(7)) == 7
    for none in (D(0), D(-1)):
        assert floor_to(D("6.29"), none) == D("6.29")


def test_given_a_tick_then_a_price_off_the_grid_goes_up_or_down_and_one_on_it_stays() -> None:
    assert round_to_tick(D("1.011"), D("0.01"), up=True) == D("1.02")
    assert round_to_tick(D("1.019"), D("0.01"), up=False) == D("1.01")
    for up in (True, False):
        assert round_to_tick(D("1.01"), D("0.01"), up=up) == D("1.01")


# --- names and times --------------------------------------------------------------------------------------------------


def test_given_a_symbol_then_it_has_one_spelling() -> None:
    assert canonical_symbol("btc/usd") == "BTC/USD"
    assert canonical_symbol("A" * 64) == "A" * 64
    assert canonical_symbol("caf\u0065\u0301") == canonical_symbol("CAF\u00e9")  # one letter, written in two ways
    assert canonical_symbol("STRA\u00dfE") != canonical_symbol("STRASSE")


@pytest.mark.parametrize(
    "text",
    ["BRK B", "BTC/USDT:USDT", "ES=F", "M&M", "NSE:SBIN", "AAPL  240621C00190000", "^GSPC", ".INX", "贵州茅台", "СБЕР"],
)
def test_given_what_a_venue_calls_an_instrument_then_it_is_a_symbol_and_keeps_its_name(text: str) -> None:
    assert canonical_symbol(text) == symbol_key(text) == text
    assert Bar(text, T0, 1, 1, 1, 1).symbol == text


@pytest.mark.parametrize("text", ["", " AAPL", "AAPL ", "A" * 65, "AAPL\n", "A\x00", "A\u202eB", "A\u2028B"])
def test_given_what_is_no_symbol_then_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a symbol"):
        canonical_symbol(text)


def test_given_a_time_of_any_zone_then_it_is_the_same_moment_in_utc_and_a_naive_one_is_refused() -> None:
    new_york = datetime(2024, 1, 2, 9, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert utc(new_york).isoformat() == "2024-01-02T14:30:00+00:00"
    assert stamp(new_york) == "2024-01-02T14:30:00Z"
    assert stamp(T0.replace(microsecond=5)) == "2024-01-02T14:30:00.000005Z"
    with pytest.raises(ValueError, match="has no time zone"):
        utc(datetime(2024, 1, 2, 9, 30))  # noqa: DTZ001  # that it is naive is the point


@pytest.mark.parametrize("value", [None, "2024-01-02T09:30:00Z", 1704187800])
def test_given_a_time_that_is_no_datetime_then_it_is_told_what_to_give(value: Any) -> None:
    with pytest.raises(ValueError, match="is no datetime: give an aware one"):
        utc(value)


# --- bars -------------------------------------------------------------------------------------------------------------


def test_given_prices_in_any_form_then_the_bar_keeps_what_was_given_and_shows_decimals() -> None:
    one = Bar("aapl", datetime(2024, 1, 2, 9, 30, tzinfo=timezone(timedelta(hours=-5))), "100.10", 101, 99.5, D(100), 7)
    assert (one.symbol, one.timestamp) == ("AAPL", T0)
    assert one.timestamp.tzinfo is UTC
    assert [str(x) for x in (one.open, one.high, one.low, one.close, one.volume)] == [
        "100.10",
        "101",
        "99.5",
        "100",
        "7",
    ]
    assert (one.floor, one.ceiling) == (99.5, 101.0)
    assert repr(one) == "Bar(AAPL 2024-01-02T14:30:00Z o=100.1 h=101 l=99.5 c=100)"


def test_given_a_range_that_leaves_out_open_or_close_then_floor_and_ceiling_span_all_four() -> None:
    high = Bar("A", T0, 105, 101, 99, 100)
    assert (high.floor, high.ceiling) == (99.0, 105.0)
    low = Bar("A", T0, 100, 101, 99, 95)
    assert (low.floor, low.ceiling) == (95.0, 101.0)


@pytest.mark.parametrize("prices", [("ten", 1, 1, 1), (None, 1, 1, 1), (10**400, 1, 1, 1), ("NaN", "x", 1, 1)])
def test_given_what_is_no_price_then_there_is_no_bar(prices: Any) -> None:
    with pytest.raises(ValueError, match="are not prices"):
        Bar("A", T0, *prices)


def test_given_an_unsound_bar_then_each_of_its_prices_must_be_readable_all_the_same() -> None:
    with pytest.raises(ValueError, match="truth value"):
        Bar("A", T0, "NaN", True, 1, 1)
    assert math.isnan(Bar("A", T0, "NaN", 1, 1, 1).floor)


def test_given_two_bars_of_the_same_figures_then_they_are_equal_and_survive_a_copy() -> None:
    one, other = bar("100.10"), bar(D("100.1"))
    assert one == other
    assert hash(one) == hash(other)
    assert one != bar("100.11")
    assert one != "100.10"
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize("price", ["1E+400", "1E-400", "1E+30", "9E-31", "9E+300", "1E+999999999", "1" * 80])
@pytest.mark.parametrize("where", ["open", "high", "low", "close"])
def test_given_a_price_that_no_market_has_then_the_bar_is_refused_without_a_guard_too(price: str, where: str) -> None:
    number = D(price)
    prices = {"open": D(100), "high": max(D(100), number), "low": min(D(100), number), "close": D(100)}
    if where in ("open", "close"):
        prices[where] = number
    elif prices[where] != number:
        return  # the other end of the range holds it
    the_bar = Bar("AAPL", after(60), **prices)
    assert math.isnan(the_bar.floor)
    guard = policy(price_guard=False).price_guard
    fault = bar_fault(the_bar, guard, reference=None, previous_at=None)
    assert fault == Fault("not_tradable", plain(number))


@for_all(st.floats(min_value=PRICE_MIN, max_value=PRICE_MAX, exclude_max=True))
def test_whatever_price_a_market_can_have_the_bar_is_sound_and_its_profit_can_be_told(price: float) -> None:
    the_bar = bar(price)
    assert the_bar.floor == the_bar.ceiling == price
    assert pct_change(D(100), the_bar.close, Side.LONG) >= -100


# --- settings ---------------------------------------------------------------------------------------------------------


def test_given_settings_of_the_same_worth_then_they_have_the_same_digest_and_others_another() -> None:
    steps = {"steps": [{"after_seconds": 60, "threshold_pct": "1.50"}]}
    same = {"steps": [{"after_seconds": 60, "threshold_pct": "1.5"}]}
    assert policy(target_ladder=steps).digest() == policy(target_ladder=same).digest()
    other = {"steps": [{"after_seconds": 60, "threshold_pct": "1.6"}]}
    assert len({policy(target_ladder=steps).digest(), policy(target_ladder=other).digest(), policy().digest()}) == 3
    assert ExitPolicy().digest() == policy().digest() == "dbec64c2e6ff"


def test_given_settings_as_python_takes_them_then_each_becomes_what_it_is_declared_to_be() -> None:
    loose = ExitPolicy(evaluate_on="range", exit_cooldown_seconds=5)  # type: ignore[arg-type]
    assert typed(loose) == policy(evaluate_on="range", exit_cooldown_seconds=5)
    assert typed(loose) is typed(loose)
    for nonsense in (ExitPolicy(evaluate_on="never"), ExitPolicy(stop_loss=object())):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="not an exit policy"):
            typed(nonsense)


@pytest.mark.parametrize(
    ("said", "meant"), [("traling_stop", "trailing_stop"), ("STOP_LOSS", "stop_loss"), ("colour", None)]
)
def test_a_name_that_is_not_known_brings_the_nearest_one(said: str, meant: str | None) -> None:
    assert nearest(said, {"trailing_stop", "stop_loss"}) == meant


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("98.1234567891234", "98.123456789"),
        ("1.0000000005", "1.000000000"),
        ("0.33333333333333333", "0.333333333333"),
        ("2.4200000000000001234e-9", "2.42000000000e-9"),
        ("0", "0e-9"),
        ("NaN", "NaN"),
    ],
)
def test_a_small_price_keeps_as_many_digits_as_a_large_one(value: str, written: str) -> None:
    assert str(rounded(Decimal(value))) == str(Decimal(written))


def test_significant_digits_not_decimals() -> None:
    assert significant(Decimal("2.4212345678901234e-9")) == Decimal("2.42123456789e-9")
    assert significant(Decimal("12345.678901234567")) == Decimal("12345.6789012")


@pytest.mark.parametrize("text", ["0", "0.00", "NaN", "Infinity", "-Infinity"])
def test_what_has_no_significant_digit_is_left_as_it_is(text: str) -> None:
    assert str(significant(Decimal(text))) == text
