"""What a market can do, as hypothesis strategies: prices, bars, series of bars with gaps, splits and bad ticks, faults.

    @given(bar_series(gaps=True))
    def test_my_bot_ends_flat(bars): ...

Everything drawn is exact (`Decimal`), in UTC and in order, except where a strategy says that it is not. A series
shrinks towards few bars at one price, so that a failure is short to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from hypothesis import strategies as st

from exitfsm.errors import NotSent, OrderRefused
from exitfsm.testing.scripted import Answer, LostReply, Raises, Returns
from exitfsm.values import Bar

#: When a series begins: a Tuesday, at the opening of the New York market.
START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
_CENT = Decimal("0.01")
#: Prices that are none, as feeds have them.
BAD_PRICES = ("NaN", "Infinity", "0", "-1", "1E+400")


def prices(low: Decimal | int = 1, high: Decimal | int = 1000, tick: Decimal = _CENT) -> st.SearchStrategy[Decimal]:
    """Prices on a tick grid, from `low` to `high`."""
    first, last = int(Decimal(low) / tick), int(Decimal(high) / tick)
    return st.integers(first, last).map(lambda ticks: ticks * tick)


@st.composite
def bars(
    draw: st.DrawFn,
    symbol: str = "AAPL",
    at: datetime = START,
    around: Decimal | int = 100,
    move_pct: Decimal | int = 2,
    tick: Decimal = _CENT,
) -> Bar:
    """One sound bar, each of whose prices is at most `move_pct` percent away from `around`."""
    center, reach = Decimal(around), Decimal(around) * Decimal(move_pct) / 100
    one = prices(max(tick, center - reach), center + reach, tick)
    opened, close, other, another = draw(one), draw(one), draw(one), draw(one)
    four = (opened, close, other, another)
    return Bar(symbol, at, opened, max(four), min(four), close, draw(st.integers(0, 10**6)))


@st.composite
def bar_series(
    draw: st.DrawFn,
    symbol: str = "AAPL",
    *,
    start: datetime = START,
    first: Decimal | int = 100,
    min_size: int = 1,
    max_size: int = 40,
    move_pct: Decimal | int = 2,
    gaps: bool = False,
    splits: bool = False,
    bad_ticks: bool = False,
    disorder: bool = False,
) -> list[Bar]:
    """Minute bars that walk from `first` on.

    Args:
        gaps: now and then the price opens up to 20 % away, or minutes are missing.
        splits: at most once the price becomes a half, a third, a tenth, or ten times what it was.
        bad_ticks: now and then a bar has a price that is none (NaN, 0, negative, infinite).
        disorder: now and then a bar comes twice, or late.
    """
    price, at, made = Decimal(first), start, list[Bar]()
    split = draw(st.integers(0, max_size)) if splits else None
    for number in range(draw(st.integers(min_size, max_size))):
        at += timedelta(minutes=draw(st.integers(1, 30)) if gaps and draw(_seldom) else 1)
        if gaps and draw(_seldom):
            price = _moved(price, draw(st.integers(-20, 20)))
        if number == split:
            price = max(_CENT, (price / draw(_ratios)).quantize(_CENT))
        bar = draw(bars(symbol, at, price, move_pct))
        price = bar.close
        made.append(bar)
        if bad_ticks and draw(_seldom):
            made.append(_bad(symbol, at, draw(st.sampled_from(BAD_PRICES))))
        if disorder and draw(_seldom):
            made.append(made[draw(st.integers(0, len(made) - 1))])
    return made


_ratios: st.SearchStrategy[Decimal] = st.sampled_from([Decimal(r) for r in ("2", "3", "10", "0.1")])
_seldom = st.integers(0, 9).map(lambda n: n == 9)


def _moved(price: Decimal, pct: int) -> Decimal:
    return max(_CENT, (price * (100 + pct) / 100).quantize(_CENT, ROUND_HALF_EVEN))


def _bad(symbol: str, at: datetime, price: str) -> Bar:
    return Bar(symbol, at, price, price, price, price)


def faults(
    methods: Sequence[str] = ("submit", "cancel", "order", "positions"),
) -> st.SearchStrategy[tuple[str, Answer]]:
    """A method of the broker port, and a wrong answer for `ScriptedBroker.answer`.

    The request never left, was lost on its way, took effect with its answer lost, was refused (`submit` and
    `cancel`), or the list came back empty (`positions`).
    """
    lost: tuple[Answer, ...] = (Raises(NotSent("no connection")), Raises(ConnectionResetError()), LostReply())
    more: dict[str, tuple[Answer, ...]] = {
        "submit": (Raises(OrderRefused("halted", "not now")), LostReply(OrderRefused("duplicate_id"))),
        "cancel": (Raises(OrderRefused("not_cancelable")),),
        "positions": (Returns([]),),
    }
    return st.sampled_from([(method, answer) for method in methods for answer in (*lost, *more.get(method, ()))])


__all__ = ["BAD_PRICES", "START", "bar_series", "bars", "faults", "prices"]
