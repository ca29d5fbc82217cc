"""Whether a symbol may be entered, and what a price that jumped beyond belief is by the broker's own row."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import BROKER, T0, at, ended, exiting, held, mirrored, quantities, row
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.holdings import Account, Jumped, Meaning
from exitfsm.lifecycle import State
from exitfsm.values import Bar

# --- entries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("account", "block"),
    [
        (Account(positions=[], cooldowns={}), None),
        (Account(positions=[held()], cooldowns={"AAPL": at(30)}), None),
        (Account(positions=[], cooldowns={}, is_reconciled=False), "not reconciled with the broker yet"),
        (Account(positions=[], cooldowns={}, is_paused=True), "paused"),
        (Account(positions=[exiting()], cooldowns={}), "an exit of AAPL is under way (submitted)"),
        (Account(positions=[replace(exiting(), symbol="MSFT")], cooldowns={"MSFT": at(99)}), None),
        (Account(positions=[], cooldowns={"AAPL": at(31)}), "cooldown until 2024-01-02T14:30:31+00:00"),
    ],
)
def test_a_symbol_may_be_entered_where_nothing_speaks_against_it(account: Account, block: str | None) -> None:
    assert holdings.entry_block("AAPL", at(30), account) == block
    assert holdings.may_enter("AAPL", at(30), account) is (block is None)


@pytest.mark.parametrize("symbol", ["", " AAPL", "A\u202eB", "A" * 65])
def test_what_is_no_symbol_is_not_entered_for_its_position_could_not_be_watched(symbol: str) -> None:
    nothing = Account(positions=[], cooldowns={})
    assert "is not a symbol" in (holdings.entry_block(symbol, at(30), nothing) or "")
    assert not holdings.may_enter(symbol, at(30), nothing)
    assert holdings.may_enter("BTC/USDT:USDT", at(30), nothing)


@given(st.sampled_from(list(State)), st.integers(0, 60), st.integers(0, 60))
def test_whatever_is_on_its_way_out_or_cools_down_is_not_entered(state: State, now: int, until: int) -> None:
    account = Account(positions=[held(state=state)], cooldowns={"AAPL": at(until)})
    assert holdings.may_enter("AAPL", at(now), account) is (state is State.MONITORING and now >= until)


# --- prices that jumped -----------------------------------------------------------------------------------------------


def jumped(now: int, **fields: Any) -> Jumped:
    """AAPL went from 100 to this, and ten are held."""
    price = Decimal(now)
    given_fields: dict[str, Any] = {
        "bar": Bar("AAPL", T0, price, price, price, price), "price_before": Decimal(100), "row": row(10),
        "watched": (held(),), "beside": (), "ratio_max": Decimal("1.1"),
    }  # fmt: skip
    return Jumped(**(given_fields | fields))


def test_given_ten_times_the_shares_at_a_tenth_of_the_entry_then_it_is_a_split() -> None:
    assert holdings.meaning_of(jumped(10, row=row(100, 10))) is Meaning.SPLIT
    short = jumped(10, row=mirrored(row(100, 10)), watched=(mirrored(held()),))
    assert holdings.meaning_of(short) is Meaning.SPLIT
    assert holdings.meaning_of(jumped(80, row=row(10, 80))) is Meaning.SPLIT  # the entry alone: a part was spun off


@pytest.mark.parametrize(
    "changes",
    [
        {"row": None},
        {"row": row(100, 100)},  # another quantity at the same entry: sold and entered anew?
        {"row": row(7, 10)},
        {"row": row(10, "NaN")},
        {"watched": ()},
        {"price_before": None},
        {"row": replace(row(10), current_price=Decimal("NaN"))},
        {"row": replace(row(10), current_price=Decimal(0))},
        {"row": replace(row(10), current_price=Decimal(100))},
    ],
)
def test_given_that_quantity_and_entry_did_not_move_as_the_price_did_then_it_is_unclear(changes: Any) -> None:
    assert holdings.meaning_of(jumped(10, **changes)) is Meaning.UNCLEAR


def test_given_that_the_brokers_own_price_is_as_far_out_then_it_is_real() -> None:
    assert holdings.meaning_of(jumped(10, row=replace(row(10), current_price=Decimal(10)))) is Meaning.REAL


def test_given_an_exit_beside_it_then_what_is_held_may_be_less_by_what_that_has_filled() -> None:
    other = ended(position_id="q", filled_qty=Decimal(4))  # six of ten are left of it
    for shown, meaning in [(160, Meaning.SPLIT), (130, Meaning.SPLIT), (100, Meaning.SPLIT), (60, Meaning.UNCLEAR)]:
        assert holdings.meaning_of(jumped(10, row=row(shown, 10), beside=(other,))) is meaning
    unknown = replace(row(100), avg_entry_price=Decimal("NaN"))
    assert holdings.meaning_of(jumped(10, row=unknown, beside=(other,))) is Meaning.SPLIT


@given(st.sampled_from([2, 4, 5, 10, 20]), quantities)
def test_a_split_keeps_what_the_position_is_worth(ratio: int, qty: Decimal) -> None:
    price = Decimal(100) / ratio
    bar = Bar("AAPL", T0, price, price, price, price)
    split = jumped(1, bar=bar, row=row(qty * ratio, "1"), watched=(held(qty=qty),))
    split = replace(split, row=replace(split.row, avg_entry_price=price))
    assert holdings.meaning_of(split) is Meaning.SPLIT


# --- the waits of a position ------------------------------------------------------------------------------------------


def test_a_wait_began_so_long_before_the_next_attempt_as_it_may_last() -> None:
    assert holdings.wait_began(held(), BROKER) is None
    assert holdings.wait_began(exiting(), BROKER) == at(10)
    delay_s = ended().policy.partial_fills.resubmit_delay_seconds
    assert holdings.wait_began(ended(), BROKER) == at(25 - max(delay_s, 5))
    slow = replace(BROKER, late_fill_window_s=delay_s + 60)
    assert holdings.wait_began(ended(), slow) == at(25 - delay_s - 60)
    assert holdings.wait_began(ended(), replace(BROKER, late_fill_window_s=None)) == at(25 - delay_s)


@pytest.mark.parametrize(
    ("p", "broker", "now", "seconds"),
    [
        (ended(), BROKER, at(20), 5),
        (ended(), BROKER, at(23), 2),
        (ended(), BROKER, at(40), 0),
        (ended(), BROKER, at(-100), 5),  # the clock was set back: never longer than the broker declares
        (ended(ended_how="expired"), BROKER, at(20), 0),
        (ended(next_attempt_at=None), BROKER, at(20), 0),
        (ended(), replace(BROKER, late_fills=False), at(20), 0),
        (ended(), replace(BROKER, late_fill_window_s=None), at(20), 0),
    ],
)
def test_fills_may_follow_a_cancel_for_as_long_as_the_broker_declares(
    p: Any, broker: Any, now: Any, seconds: int
) -> None:
    assert holdings.late_fills_s(p, broker, now) == seconds
