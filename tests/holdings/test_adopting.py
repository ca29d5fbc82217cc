"""Positions that nobody watches: which they are, their names and prices, and when waiting makes no more sense."""

from __future__ import annotations

from decimal import Decimal
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import at, changed, ended, executions, fill, held, mirrored, over, quantities, read, report, row
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.holdings import Adopt, Alarm, Executed, Nothing, Opening, Tries
from exitfsm.holdings.facts import Instrument
from exitfsm.lifecycle import State
from exitfsm.ports import CAREFUL, AssetRules, Capabilities, IdMemory
from exitfsm.position import client_order_id, epoch_of
from exitfsm.values import Fill, Side

BOUGHT = fill("buy", 10, 101, second=3)


def opening(**fields: Any) -> Opening:
    """Ten AAPL that the broker shows, bought at 101 by the one execution that it lists."""
    given_fields: dict[str, Any] = {"row": row(10, 101), "symbol": "AAPL", "executions": (BOUGHT,)}
    return Opening(**(given_fields | fields))


# --- what is new ------------------------------------------------------------------------------------------------------


def test_given_a_list_of_positions_then_the_rows_of_symbols_that_nobody_watches_are_new() -> None:
    rows = [row(1), row(1, symbol="MSFT"), row(1, symbol="BTCUSD")]
    assert holdings.unwatched(rows, ["BTC/USD", "AAPL"], CAREFUL.rules) == [rows[1]]
    assert holdings.unwatched(rows, [], CAREFUL.rules) == rows


def test_given_executions_then_it_is_known_when_each_row_was_first_filled() -> None:
    rows = [row(10), row(1, symbol="MSFT")]
    assert holdings.first_fills(rows, Executed({"AAPL": [BOUGHT]}, CAREFUL)) == [BOUGHT.at]
    assert holdings.first_fills(rows, Executed(None, CAREFUL)) == []


def test_given_a_later_read_then_a_row_is_still_held_where_its_quantity_is_the_same() -> None:
    assert holdings.still_held(read(row(3), row(10, 99)), row(10))
    for other in (row(9), row(10, side="short"), row(10, symbol="MSFT")):
        assert not holdings.still_held(read(other), row(10))


# --- adopted ----------------------------------------------------------------------------------------------------------


def test_given_executions_that_lead_from_flat_to_what_is_held_then_it_is_adopted_under_the_first_fill() -> None:
    assert holdings.adopt(opening(), None) == (Adopt("20240102T143003Z", at(3), Decimal(101)), None)


def test_given_no_executions_yet_then_it_is_waited_for_them_and_then_it_is_named_by_its_price() -> None:
    tries, conclusions = None, []
    for _ in range(3):
        conclusion, tries = holdings.adopt(opening(executions=()), tries)
        conclusions.append(conclusion)
    assert conclusions == [Nothing(), Nothing(), Adopt(None, None, Decimal(101))]


def test_given_a_first_fill_that_an_update_told_of_then_it_names_what_the_list_does_not() -> None:
    late = opening(executions=(), first_fill=at(2))
    assert holdings.adopt(late, Tries(Decimal(10), 2)) == (Adopt("20240102T143002Z", at(2), 101), Tries(10, 3, 1))


def test_by_ids_nothing_is_named_by_its_price() -> None:
    tries: Any = None
    for _ in range(3):
        said, tries = holdings.adopt(opening(executions=(), by_ids=True), tries)
    assert isinstance(said, Alarm)
    assert (said.kind, "hand it to watch()" in said.text) == ("scope_unknown", True)


def test_given_a_broker_that_lists_none_then_what_was_there_before_is_named_by_its_price_at_once() -> None:
    old = opening(executions=None, is_old=True)
    assert holdings.adopt(old, None)[0] == Adopt(None, None, Decimal(101))
    assert holdings.adopt(replace(old, is_old=False), None)[0] == Nothing()
    opened = replace(old.row, opened_at=at(1))
    assert holdings.adopt(replace(old, row=opened), None)[0] == Adopt("20240102T143001Z", at(1), Decimal(101))


def test_given_no_price_anywhere_then_it_is_an_alarm_after_several_tries() -> None:
    unpriced = opening(row=row(10, 0), executions=(replace(BOUGHT, price=Decimal(0)),))
    assert holdings.adopt(unpriced, None)[0] == Nothing()
    conclusion, _ = holdings.adopt(unpriced, Tries(Decimal(10), 2))
    assert conclusion == Alarm("unpriceable", "10 AAPL long has no entry price: it is NOT protected")


@given(executions(), quantities)
def test_a_short_position_is_named_and_priced_as_a_long_one_is(fills: list[Fill], qty: Decimal) -> None:
    long, short = row(qty, 0), row(qty, 0, side="short")
    adopted, tries = holdings.adopt(opening(row=long, executions=fills), Tries(qty, 2))
    mirror = holdings.adopt(opening(row=short, executions=[*map(mirrored, fills)]), Tries(qty, 2))
    assert mirror[1] == tries
    if isinstance(adopted, Adopt):
        assert mirror[0] == adopted
        assert adopted.epoch is None or any(epoch_of(f.at) == adopted.epoch for f in fills)


# --- names ------------------------------------------------------------------------------------------------------------


def test_given_a_position_on_record_that_nobody_watches_then_its_name_is_taken_up() -> None:
    assert holdings.name(opening(previous=held(opened_at=at(1)))) == at(1)


def test_given_a_symbol_that_was_not_flat_since_the_one_before_then_what_was_bought_beyond_that_names_it() -> None:
    before = ended(state=State.FILLED, ended_at=at(30))
    fills = (fill("buy", 10), fill("sell", 6, second=12, client_order_id="xf1-1"), fill("buy", 5, second=15))
    assert holdings.name(opening(row=row(9), executions=fills, previous=before)) == at(15)
    later = (*fills, fill("sell", 9, second=40), fill("buy", 2, second=50))
    assert holdings.name(opening(row=row(2), executions=later, previous=before)) == at(50)
    assert holdings.name(opening(row=row(99), executions=later, previous=before)) is None


def test_names_by_price_are_the_price_and_then_numbered() -> None:
    names = list(holdings.names_by_price(Decimal("100.50")))
    assert (names[:3], len(names)) == (["at-100.5", "at-100.5-2", "at-100.5-3"], 999)
    assert list(islice(holdings.names_by_price(Decimal("1E+2")), 1)) == ["at-100"]


# --- prices -----------------------------------------------------------------------------------------------------------


def test_the_brokers_average_is_the_entry_and_else_that_of_the_executions_since_the_first_fill() -> None:
    bare = row(10, 0)
    older = fill("buy", 2, 50, second=1)
    other = replace(fill("buy", 5, 7, second=4), symbol="MSFT")
    assert holdings.entry(opening(executions=()), None) == 101
    assert holdings.entry(opening(row=bare, executions=(older, BOUGHT, other)), at(3)) == 101
    assert holdings.entry(opening(row=bare, executions=()), at(3)) is None
    told = opening(row=bare, executions=None, updates=(BOUGHT, replace(BOUGHT, side=older.side, price=Decimal(103))))
    assert holdings.entry(told, None) == 102


# --- tries ------------------------------------------------------------------------------------------------------------


def test_tries_are_counted_for_a_quantity_and_in_all() -> None:
    tries = holdings.tried(None, Decimal(5), answered=True)
    assert tries == Tries(Decimal(5), 1, 1, 0)
    tries = holdings.tried(tries, Decimal(5), answered=False)
    assert tries == Tries(Decimal(5), 1, 1, 1)
    tries = holdings.tried(tries, Decimal(6), answered=True)
    assert tries == Tries(Decimal(6), 1, 2, 1)
    assert not tries.are_enough


@given(st.lists(st.integers(1, 3), min_size=10, max_size=20))
def test_waiting_ends_however_often_the_quantity_changes(quantities_shown: list[int]) -> None:
    tries: Tries | None = None
    for qty in quantities_shown:
        tries = holdings.tried(tries, Decimal(qty), answered=True)
    assert tries is not None
    assert tries.are_enough


# --- exits of ours that may work --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "store_began", "working", "is_free"),
    [
        (at(1), None, None, True),  # the store knows every order
        (at(5), at(4), None, True),  # it began after us
        (at(1), at(4), None, False),
        (None, at(4), None, False),
        (None, at(4), [], True),
        (None, at(4), [report("new")], False),
        (None, at(4), [report("new", symbol="MSFT")], True),
        (None, at(4), [report("new", symbol=None)], False),
    ],
)
def test_whether_an_exit_of_ours_can_work_for_what_the_store_does_not_know(
    first: Any, store_began: Any, working: Any, is_free: bool
) -> None:
    assert holdings.is_free_of_exits("AAPL", first, store_began, working) is is_free


def test_given_exits_that_cannot_be_looked_up_then_it_is_adopted_where_a_repeated_id_is_refused_for_ever() -> None:
    for_ever, never = Capabilities(ids_refused=IdMemory.FOREVER), Capabilities()
    assert holdings.is_safe_unprobed("p", [BOUGHT], for_ever)
    assert not holdings.is_safe_unprobed("p", [BOUGHT], never)
    sold = fill("sell", 4, client_order_id=client_order_id("p", 1))
    assert not holdings.is_safe_unprobed("p", [BOUGHT, sold], for_ever)


def test_what_is_held_in_words() -> None:
    assert holdings.described(row("10.50", side="short"), "BTC/USD") == "10.5 BTC/USD short"
    assert Side.SHORT == "short"


# --- residues, averages in another unit, and faults of a read ---------------------------------------------------------


def test_given_less_than_the_venue_takes_then_it_is_a_residue_and_not_new() -> None:
    rules = AssetRules(qty_step=Decimal(1), qty_min=Decimal(2))
    rows = [row("0.5"), row(1, symbol="MSFT"), row(2, symbol="GOOG")]
    assert holdings.unwatched(rows, [], lambda symbol: rules) == rows[2:]


def test_given_what_the_venue_rounded_off_an_exit_then_it_is_not_adopted() -> None:
    order = replace(over("xf1-1", 0, "filled"), qty=Decimal("0.99"), filled_qty=Decimal("0.99"), restated=True)
    previous = changed(held(state=State.CLOSED), before=(order,), attempt=2)
    left = opening(row=row("0.009"), previous=previous)
    assert holdings.adopt(left, None) == (Nothing(), None)
    assert holdings.adopt(replace(left, row=row(10)), None)[0] != Nothing()


def test_given_an_average_in_another_unit_then_the_executions_are_believed() -> None:
    assert holdings.adopt(opening(row=row(10, 10100)), None)[0] == Adopt("20240102T143003Z", at(3), Decimal(101))


def test_given_no_executions_and_a_declared_multiplier_then_the_average_of_a_contract_becomes_a_price() -> None:
    shown = replace(row(10, 5000), current_price=Decimal(101))
    known = opening(row=shown, executions=None, is_old=True, instrument=Instrument(multiplier=Decimal(50)))
    assert holdings.entry(known, None) == 100
    assert holdings.entry(replace(known, instrument=Instrument()), None) == 5000


@pytest.mark.parametrize(
    ("average", "entry", "price", "is_read_as"),
    [
        (5000, 100, 101, 100),  # of a whole contract, as the entry says
        (5000, 100, None, 100),
        (100, 100, 45, 100),  # a price as it was entered, whatever the price is now
        (2500, 100, 50, 50),  # after a split neither agrees with the entry, and the price decides
        (5000, None, 101, 100),
        (5000, None, 180, 5000),  # neither agrees: whoever weighs it says so
        (5000, None, None, 5000),
        ("NaN", 100, 101, "NaN"),
    ],
)
def test_given_a_row_of_a_contract_then_its_average_is_read_as_a_price(
    average: Any, entry: Any, price: Any, is_read_as: Any
) -> None:
    shown = replace(row(10, average), current_price=price if price is None else Decimal(price))
    watched = entry if entry is None else Decimal(entry)
    assert str(holdings.in_prices(shown, watched, Decimal(50)).avg_entry_price) == str(is_read_as)


def test_given_rows_that_cannot_be_read_or_contradict_each_other_then_a_person_is_told() -> None:
    shown = read(row(4), row(6, side="short"), unreadable=frozenset(("", "MSFT")), both=frozenset(("AAPL",)))
    assert [fault.kind for fault in holdings.faults(shown)] == ["position_unreadable"] * 2 + ["both_sides"]
    assert "for MSFT" in holdings.faults(shown)[1].text
