"""The worst of a simulation: prices that jump, sessions that end early, bars that are long, prices that are tiny."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from exitfsm import exchange_days
from exitfsm.audit import whatif
from exitfsm.config import SessionHours, load_config
from exitfsm.jumps import split_ratio
from exitfsm.recorded_bars import Seen
from exitfsm.sessions import is_crypto, market_session
from exitfsm.simulate import SimulationResult, simulate
from exitfsm.simulated import Act, SimulatedBroker
from exitfsm.store import ExitStore
from exitfsm.values import Bar, Side

MONDAY = datetime(2024, 11, 18, 14, 30, tzinfo=UTC)
END_OF_SESSION = {"end_of_session": {"enabled": True, "minutes_before_close": 10}}


def bars(
    *prices: Any, symbol: str = "XYZ", start: datetime = MONDAY, step: timedelta = timedelta(minutes=1)
) -> list[Bar]:
    """A bar a step; a price alone is the whole bar, a pair is open and close."""
    found = []
    for number, price in enumerate(prices):
        opened, close = map(Decimal, map(str, price if isinstance(price, tuple) else (price, price)))
        at = start + number * step
        found.append(Bar(symbol, at, opened, max(opened, close), min(opened, close), close, 100))
    return found


def run(given: Iterable[Bar], config: dict[str, Any] | None = None, **more: Any) -> SimulationResult:
    return simulate(given, load_config(config or {}), **more)


def brief(result: SimulationResult) -> list[tuple[str | None, str, str]]:
    return [(e.reason, str(e.avg_fill_price), str(e.pnl_pct)) for e in result.exits]


# --- jumps while an exit is under way ---------------------------------------------------------------------------------


def test_given_a_stop_that_is_gapped_through_then_it_fills_at_the_open_with_a_word_of_warning() -> None:
    result = run(bars(100, "98.5", 70, 69))
    assert brief(result) == [("stop_loss", "70", "-30.0000")]
    assert result.open == []
    (alarm,) = result.exits[0].alarms
    assert "opened at 70 after 98.5, and the exit fills there" in alarm


def test_given_a_short_that_is_gapped_through_then_it_fills_at_the_open() -> None:
    assert brief(run(bars(100, "101.5", 160, 161), side=Side.SHORT)) == [("stop_loss", "160", "-60.0000")]


def test_given_a_split_while_a_market_order_works_then_it_fills_and_is_counted_apart() -> None:
    result = run(bars(645, 630, 92, 92, 93))
    assert result.exits == result.open == []
    (ended,) = result.splits
    assert (ended.reason, str(ended.avg_fill_price), ended.state) == ("split?", "92", "filled")
    assert "a split 7:1? It is not in the figures" in ended.alarms[-1]


def test_given_a_jump_while_a_limit_order_works_then_it_does_not_fill_on_a_price_nobody_believes() -> None:
    patient = {"profit_taking": {"order_type": "limit"}, "partial_fills": {"resubmit_delay_seconds": 3600}}
    result = run(bars(100, (101, 102), "101.5", 160, "101.5", 102), patient)
    assert brief(result) == [("profit_take", "102", "2.0000")]


def test_given_a_bar_that_is_unsound_while_a_market_order_works_then_the_next_sound_one_fills_it() -> None:
    broken = Bar("XYZ", MONDAY + timedelta(minutes=2), "NaN", "NaN", "NaN", "NaN", 1)
    result = run([*bars(100, "98.5"), broken, *bars(70, 69, start=MONDAY + timedelta(minutes=3))])
    assert brief(result) == [("stop_loss", "70", "-30.0000")]


# --- jumps while nothing is under way ---------------------------------------------------------------------------------


def test_given_a_crash_that_three_bars_confirm_then_it_exits() -> None:
    result = run(bars(100, 60, 58, 55, 50, 45))
    assert brief(result) == [("stop_loss", "50", "-50.0000")]
    assert result.exits[0].triggered_at == MONDAY + timedelta(minutes=3)
    assert result.splits == []


def test_given_a_rise_that_three_bars_confirm_then_the_profit_is_taken() -> None:
    assert brief(run(bars(100, 170, 171, 172, 173))) == [("profit_take", "173", "73.0000")]


@pytest.mark.parametrize("prices", [(100, 60, 100, 60, 100, 60, 100), (100, 60, 61, 100, 60, 61, 100)])
def test_given_prices_that_come_back_then_they_were_bad_prints(prices: tuple[int, ...]) -> None:
    result = run(bars(*prices))
    assert (brief(result), result.splits, len(result.open)) == ([], [], 1)


def test_given_jumps_that_do_not_agree_then_nothing_is_confirmed_until_three_in_a_row_do() -> None:
    assert brief(run(bars(100, 60, 30, 15, 100))) == []
    assert brief(run(bars(100, 60, 30, 31, 32, 33))) == [("stop_loss", "33", "-67.0000")]


@pytest.mark.parametrize("guard_on", [True, False])
def test_given_the_guard_is_off_then_a_jump_decides_at_once(guard_on: bool) -> None:
    result = run(bars(100, 60, 59, 58, 57), {"price_guard": {"enabled": guard_on}})
    assert brief(result)[0][1] == ("57" if guard_on else "59")


def test_given_a_split_that_three_bars_confirm_then_the_position_ends_before_it_and_apart() -> None:
    store = ExitStore(":memory:")
    result = run(bars(640, 645, 93, "93.5", 94, 95, 96), store=store)
    assert result.exits == result.open == []
    (ended,) = result.splits
    assert (ended.reason, str(ended.avg_fill_price), str(ended.pnl_pct)) == ("split?", "645", "0.7812")
    assert ended.filled_at == MONDAY + timedelta(minutes=2)
    assert "a split 7:1?" in ended.alarms[-1]
    assert [str(row.state) for row in store.positions()] == ["closed"]
    assert store.verify_read_models() == []
    assert whatif(store, lambda: (Seen(b, None) for b in bars(640, 645, 93, "93.5", 94, 95, 96))).reproduced


@pytest.mark.parametrize("symbol", ["BTC/USD", "BTCUSDT"])
def test_given_crypto_that_halves_then_it_is_a_crash_and_no_split(symbol: str) -> None:
    result = run(bars(300, 150, 149, 148, 147, symbol=symbol))
    assert (brief(result), result.splits) == ([("stop_loss", "147", "-51.0000")], [])
    assert brief(run(bars(300, 296, 150, 149, symbol=symbol))) == [("stop_loss", "150", "-50.0000")]


def test_given_shares_put_together_then_it_is_a_split_too() -> None:
    (ended,) = run(bars(2, 2, "19.9", 20, 20), side=Side.SHORT).splits
    assert "a split 1:10?" in ended.alarms[-1]


def test_given_a_limit_order_that_rests_over_a_split_then_it_is_canceled_and_the_position_ends() -> None:
    broker = SimulatedBroker()
    result = run(
        bars(640, (650, 653), "652.5", 93, 93, 93, 94), {"profit_taking": {"order_type": "limit"}}, broker=broker
    )
    assert result.exits == result.open == []
    assert [e.reason for e in result.splits] == ["split?"]
    assert (broker.held("XYZ"), broker.open_orders()) == (0, [])


def test_given_a_position_between_two_attempts_over_a_split_then_it_ends_as_its_alarm_says() -> None:
    broker = SimulatedBroker()
    broker.script("XYZ", Act(reject="halted"))
    slowly = {"partial_fills": {"resubmit_delay_seconds": 600}}
    result = run(bars(661, 661, 651, 651, 93, 93, 93, 93), slowly, broker=broker)
    assert result.exits == result.open == []
    (ended,) = result.splits
    assert (str(ended.avg_fill_price), ended.state) == ("651", "closed")
    assert "The position ends at 651" in ended.alarms[-1]


def test_given_re_entry_then_life_goes_on_after_a_split() -> None:
    result = run(bars(645, 645, 93, 93, 93, *[93] * 6, 96, 96), re_enter=True)
    assert [e.reason for e in result.splits] == ["split?"]
    assert brief(result) == [("profit_take", "96", "3.2258")]


@pytest.mark.parametrize(
    ("before", "after", "ratio"),
    [
        ("645.57", "92.70", "7:1"), ("499.23", "127.58", "4:1"), ("2447", "125.25", "20:1"), ("150", "100", "3:2"),
        ("100", "75", "4:3"), ("10", "100", "1:10"), ("100", "60", None), ("98.5", "70", None), ("100", "71", None),
        ("100", "40", "5:2"), ("100", "41", None), ("100", "9.2", None), ("1000", "0.5", None),
    ],
)  # fmt: skip
def test_what_looks_like_a_split(before: str, after: str, ratio: str | None) -> None:
    assert split_ratio(Decimal(before), Decimal(after)) == ratio


@for_all(st.decimals("0.01", "10000", places=2), st.sampled_from([2, 3, 4, 5, 7, 10, 20]))
def test_an_exact_split_is_always_seen_and_mirrored(price: Decimal, n: int) -> None:
    assert split_ratio(price * n, price) == f"{n}:1"
    assert split_ratio(price, price * n) == f"1:{n}"


@for_all(st.lists(st.decimals("20", "300", places=1), min_size=4, max_size=30), st.sampled_from(Side))
def test_whatever_the_prices_no_position_is_lost_and_every_log_replays(prices: list[Decimal], side: Side) -> None:
    broker = SimulatedBroker()
    with ExitStore(":memory:") as store:
        result = run(bars(*prices), side=side, re_enter=True, broker=broker, store=store)
        assert store.verify_read_models() == []
        assert len(result.exits) + len(result.splits) + len(result.open) == len(store.positions())
    assert broker.held("XYZ") * side.sign == sum(e.qty for e in result.open)


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_given_a_half_day_then_the_session_ends_at_one() -> None:
    friday = datetime(2024, 11, 29, 14, 30, tzinfo=UTC)
    day = bars(*[100] * 42, symbol="SPY", start=friday, step=timedelta(minutes=5))
    monday = bars(97, 97, symbol="SPY", start=datetime(2024, 12, 2, 14, 30, tzinfo=UTC))
    (only,) = run([*day, *monday], END_OF_SESSION).exits
    assert (only.reason, str(only.avg_fill_price)) == ("end_of_session", "100")
    assert only.filled_at == datetime(2024, 11, 29, 17, 55, tzinfo=UTC)


@pytest.mark.parametrize(
    ("minutes", "triggered", "filled"),
    [
        (60, "19:30", "20:30"),
        (30, "20:00", "20:30"),
        (10, "20:40", "20:50"),
        (5, "20:50", "20:55"),
        (1, "20:50", "20:51"),
    ],
)
def test_given_long_bars_then_it_fires_on_the_last_one_that_leaves_time(
    minutes: int, triggered: str, filled: str
) -> None:
    step = timedelta(minutes=minutes)
    days = [
        bars(*[100] * (390 // minutes + (390 % minutes > 0)), start=MONDAY + timedelta(days=d), step=step)
        for d in (0, 1)
    ]
    (only,) = run([bar for day in days for bar in day], END_OF_SESSION).exits
    assert only.triggered_at is not None
    assert only.filled_at is not None
    assert only.triggered_at.strftime("%d %H:%M") == f"18 {triggered}"
    assert only.filled_at.strftime("%d %H:%M") == f"18 {filled}"


def test_given_an_entry_on_the_last_bar_of_a_day_then_the_night_is_not_taken_for_the_length_of_a_bar() -> None:
    evening = bars(100, start=datetime(2024, 11, 18, 20, 30, tzinfo=UTC))
    tuesday = bars(*[100] * 7, start=MONDAY + timedelta(days=1), step=timedelta(hours=1))
    (only,) = run([*evening, *tuesday], END_OF_SESSION).exits
    assert only.triggered_at == datetime(2024, 11, 19, 19, 30, tzinfo=UTC)


@pytest.mark.parametrize("start", [datetime(2024, 11, 18, tzinfo=UTC), datetime(2024, 11, 18, 5, tzinfo=UTC)])
def test_given_daily_bars_then_it_fires_as_soon_as_it_can(start: datetime) -> None:
    (only,) = run(bars(*[100] * 4, start=start, step=timedelta(days=1)), END_OF_SESSION).exits
    assert only.triggered_at == start + timedelta(days=1)


@pytest.mark.parametrize("symbol", ["BTC/USD", "BTCUSDT", "ETH-USD", "ADABTC", "BTC_USDT", "XBTUSD", "FOO/BAR"])
def test_given_crypto_by_any_name_then_no_session_ends(symbol: str) -> None:
    assert is_crypto(symbol)
    assert market_session(SessionHours(), symbol, MONDAY).close is None
    hours = bars(*[100] * 30, symbol=symbol, step=timedelta(hours=1))
    assert run(hours, END_OF_SESSION).exits == []


@pytest.mark.parametrize("symbol", ["AAPL", "BRK-B", "BRK.B", "BTC", "EURUSD", "BETH", "USD", "6EH4.XCME", "NT-SPY"])
def test_given_what_may_be_a_stock_then_it_is_no_crypto(symbol: str) -> None:
    assert not is_crypto(symbol)


def test_given_other_hours_then_new_yorks_days_do_not_count() -> None:
    thanksgiving = datetime(2024, 11, 28, 15, 0, tzinfo=UTC)
    assert not market_session(SessionHours(), "SPY", thanksgiving).is_open
    assert market_session(SessionHours(), "SPY", thanksgiving).close is None
    assert market_session(SessionHours(timezone="Europe/London"), "SPY", thanksgiving).is_open


def test_given_a_night_or_a_holiday_then_the_next_opening_is_the_next_trading_days() -> None:
    wednesday_night = datetime(2024, 11, 27, 22, 0, tzinfo=UTC)
    friday = datetime(2024, 11, 29, 14, 30, tzinfo=UTC)
    assert market_session(SessionHours(), "SPY", wednesday_night).next_open == friday
    assert market_session(SessionHours(), "SPY", friday).close == datetime(2024, 11, 29, 18, 0, tzinfo=UTC)


# By the exchange's published calendars.
EARLY = """
2006-07-03 2006-11-24 2007-07-03 2007-11-23 2007-12-24 2008-07-03 2008-11-28 2008-12-24 2009-11-27 2009-12-24 2010-11-26
2011-11-25 2012-07-03 2012-11-23 2012-12-24 2013-07-03 2013-11-29 2013-12-24 2014-07-03 2014-11-28 2014-12-24 2015-11-27
2015-12-24 2016-11-25 2017-07-03 2017-11-24 2018-07-03 2018-11-23 2018-12-24 2019-07-03 2019-11-29 2019-12-24 2020-11-27
2020-12-24 2021-11-26 2022-11-25 2023-07-03 2023-11-24 2024-07-03 2024-11-29 2024-12-24 2025-07-03 2025-11-28 2025-12-24
2026-11-27 2026-12-24
""".split()  # noqa: SIM905  days as they stand in a calendar
CLOSED_2024_TO_2026 = """
2024-01-01 2024-01-15 2024-02-19 2024-03-29 2024-05-27 2024-06-19 2024-07-04 2024-09-02 2024-11-28 2024-12-25 2025-01-01
2025-01-09 2025-01-20 2025-02-17 2025-04-18 2025-05-26 2025-06-19 2025-07-04 2025-09-01 2025-11-27 2025-12-25 2026-01-01
2026-01-19 2026-02-16 2026-04-03 2026-05-25 2026-06-19 2026-07-03 2026-09-07 2026-11-26 2026-12-25
""".split()  # noqa: SIM905  the same


def days(first: int, last: int) -> list[date]:
    start = date(first, 1, 1)
    every = (start + timedelta(days=n) for n in range((date(last + 1, 1, 1) - start).days))
    return [day for day in every if day.weekday() < 5]


def test_the_early_closes_are_those_of_the_published_calendars() -> None:
    assert [str(day) for day in days(2006, 2026) if exchange_days.closes_early(day)] == EARLY
    assert not exchange_days.closes_early(date(2022, 12, 24))  # a Saturday
    assert [d for d in (1996, 2002) if exchange_days.closes_early(date(d, 7, 3))] == []


def test_the_holidays_are_those_of_the_published_calendars() -> None:
    assert [str(day) for day in days(2024, 2026) if exchange_days.is_holiday(day)] == CLOSED_2024_TO_2026
    assert not exchange_days.is_holiday(date(2021, 12, 31))  # New Year's Day of 2022 was a Saturday
    assert exchange_days.is_holiday(date(2023, 1, 2))
    assert not exchange_days.is_holiday(date(1997, 1, 20))  # before it was kept
    assert exchange_days.is_holiday(date(2001, 9, 11))


# --- prices with many figures -----------------------------------------------------------------------------------------


def test_given_prices_far_below_one_then_the_fill_keeps_its_figures() -> None:
    tiny = ("0.00000000242", "0.00000000242", "0.00000000239", "0.00000000239")
    assert [(e.reason, e.avg_fill_price) for e in run(bars(*tiny, symbol="PEPE/ETH")).exits] == [
        ("stop_loss", Decimal("2.39E-9"))
    ]


def test_given_a_price_with_more_than_nine_decimals_then_the_fill_has_them_all() -> None:
    (only,) = run(bars(100, 98, "97.98999786376953")).exits
    assert str(only.avg_fill_price) == "97.98999786376953"
