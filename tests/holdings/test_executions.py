"""What executions say: the first fill of what is held, its average, what others sold, what is bought beyond an exit."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import (
    at,
    changed,
    ended,
    executions,
    exiting,
    fill,
    held,
    mirrored,
    over,
    positions,
    quantities,
    shuffled,
)
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.lifecycle import State
from exitfsm.values import Fill, OrderSide, Side

# --- the walk back to flat --------------------------------------------------------------------------------------------


def test_given_purchases_since_flat_then_the_first_of_them_opened_what_is_held() -> None:
    fills = [
        fill("buy", 5, second=0), fill("sell", 5, second=1), fill("buy", 4, second=2), fill("sell", 1, second=3),
        fill("buy", 3, second=4),
    ]  # fmt: skip
    assert holdings.first_since_flat(fills, Side.LONG, Decimal(6)) == at(2)
    assert holdings.first_since_flat([*map(mirrored, fills)], Side.SHORT, Decimal(6)) == at(2)


def test_given_executions_that_do_not_reach_back_to_flat_then_the_first_fill_is_not_known() -> None:
    assert holdings.first_since_flat([fill("buy", 4)], Side.LONG, Decimal(6)) is None
    assert holdings.first_since_flat([], Side.LONG, Decimal(6)) is None


@given(executions(), st.integers(1, 8))
def test_the_walk_finds_the_last_time_that_the_symbol_was_flat(fills: list[Fill], first: int) -> None:
    """Held against a walk forward from an account that was flat."""
    held_qty, began = Decimal(0), None
    sound: list[Fill] = []
    for one in fills:
        change = one.qty if one.side is OrderSide.BUY else -one.qty
        if held_qty + change < 0:
            continue  # short, and no business of this walk
        began = one.at if held_qty == 0 and change > 0 else began
        held_qty += change
        sound.append(one)
    if held_qty > 0:
        assert holdings.first_since_flat(sound, Side.LONG, held_qty) == began
        assert holdings.first_since_flat([*map(mirrored, sound)], Side.SHORT, held_qty) == began


@pytest.mark.parametrize(
    ("cut_off", "since", "is_since"),
    [
        (at(2), at(2.4), True),  # in whole seconds: perhaps later
        (at(2.4), at(2.4001), True),  # in milliseconds
        (at(2.400001), at(2.400002), False),
        (at(1), at(2.4), False),
    ],
)
def test_an_execution_is_since_a_time_as_far_as_its_own_time_is_told(cut_off, since, is_since) -> None:
    assert holdings.is_since(replace(fill("buy", 1), at=cut_off), since) is is_since


# --- entered anew -----------------------------------------------------------------------------------------------------


def test_given_a_sale_of_all_and_a_purchase_then_the_symbol_was_entered_anew() -> None:
    fills = [fill("buy", 10), fill("sell", 10, second=1), fill("buy", 10, second=2)]
    assert holdings.entered_anew(fills, Side.LONG, Decimal(10), reads=1)
    assert not holdings.entered_anew(fills[:1], Side.LONG, Decimal(10), reads=1)
    assert not holdings.entered_anew([], Side.LONG, Decimal(10), reads=9)


def test_given_executions_of_more_than_is_held_then_one_list_is_behind_and_nothing_is_proved() -> None:
    fills = [fill("buy", 10), fill("sell", 10, second=1), fill("buy", 10, second=2)]
    assert not holdings.entered_anew(fills, Side.LONG, Decimal(9), reads=9)


def test_given_executions_of_less_than_is_held_then_it_counts_once_it_was_read_often_enough() -> None:
    fills = [fill("buy", 5), fill("sell", 10, second=1), fill("buy", 10, second=2)]
    assert not holdings.entered_anew(fills, Side.LONG, Decimal(10), reads=2)
    assert holdings.entered_anew(fills, Side.LONG, Decimal(10), reads=3)


# --- averages ---------------------------------------------------------------------------------------------------------


def test_an_average_entry_is_that_of_what_was_bought_on() -> None:
    def of(*fills: Fill, side: Side = Side.LONG) -> Decimal | None:
        return holdings.average_entry(fills, side)

    assert of(fill("buy", 4, 100), fill("buy", 6, 110)) == 106
    assert of(fill("buy", 4, 100), fill("sell", 2, 90), fill("buy", 2, 120)) == 110
    assert of(fill("sell", 4, 100), side=Side.SHORT) == 100
    assert of(fill("buy", 4, 100), fill("sell", 4, 90)) is None
    assert of(fill("buy", 4, 0)) is None
    assert of(fill("buy", 0), fill("buy", 1, 3)) == 3


@given(st.lists(st.tuples(quantities, quantities), min_size=1, max_size=6), st.integers(4, 9))
def test_an_average_lies_between_its_prices_whatever_context_it_is_computed_in(
    bought: list[tuple[Decimal, Decimal]], precision: int
) -> None:
    fills = [replace(fill("buy", 1), qty=qty, price=price) for qty, price in bought]
    exact = holdings.average_entry(fills, Side.LONG)
    with localcontext(prec=precision):
        assert holdings.average_entry(fills, Side.LONG) == exact
    tiny = Decimal("1e-9")
    assert exact is not None
    assert min(price for _, price in bought) - tiny <= exact <= max(price for _, price in bought) + tiny
    assert holdings.average_entry([*map(mirrored, fills)], Side.SHORT) == exact


# --- sold by others ---------------------------------------------------------------------------------------------------


def test_what_an_ended_attempt_of_ours_sold_is_not_taken_for_a_sale_by_others() -> None:
    """Executions that name their order by the broker's id alone: a live order was canceled over this."""
    before = over("xf1-1", 4, "expired")
    p = exiting(client_order_id="xf1-2", broker_order_id="B2", order_qty=Decimal(6), before=(before,))
    fills = [fill("buy", 10), fill("sell", 4, broker_order_id="B1"), fill("sell", 3, broker_order_id="B2")]
    assert holdings.sold_by_others(p, fills) == 0
    assert holdings.sold_by_others(p, [*fills, fill("sell", 2, broker_order_id="B3")]) == 2


def test_what_was_sold_before_more_was_bought_stays_sold_of_a_position_on_its_way_out_and_no_other() -> None:
    fills = [
        replace(fill(side, qty), at=at(60 * minute))
        for minute, (side, qty) in enumerate([("buy", 10), ("sell", 4), ("buy", 4)])
    ]
    for listed in (fills, list(reversed(fills))):
        assert holdings.sold_by_others(held(), listed) == 0  # sold, and bought again: nothing is missing
        assert holdings.sold_by_others(held(triggered_at=at(180)), listed) == 0
        assert holdings.sold_by_others(held(triggered_at=at(30)), listed) == 4
        assert holdings.sold_by_others(held(triggered_at=at(90)), listed) == 4


def test_the_brokers_own_ids_of_ended_orders_say_whose_an_execution_is() -> None:
    before = over("xf1-1", 0, "expired", "B1")
    p = held(client_order_id="xf1-2", broker_order_id="B2", order_qty=Decimal(6), before=(before,))
    fills = [fill("buy", 10), fill("sell", 4, broker_order_id="B1")]
    assert holdings.sold_by_others(p, fills) == 0
    assert holdings.sold_by_others(p, [*fills, fill("sell", 2, broker_order_id="B3")]) == 2


def test_given_an_order_that_never_left_then_a_nameless_sale_is_not_its() -> None:
    p, fills = exiting(broker_order_id=None), [fill("buy", 10), fill("sell", 4, second=11)]
    assert holdings.sold_by_others(p, fills) == 0
    assert holdings.sold_by_others(p, fills, unsent=True) == 4


def test_executions_say_that_others_closed_a_position_where_they_sold_what_was_left_of_it() -> None:
    assert not holdings.say_closed(held(), [fill("buy", 10), fill("sell", 9, second=9)])
    assert holdings.say_closed(held(), [fill("buy", 10), fill("sell", 10, second=9)])


def test_executions_of_a_position_that_sold_more_than_it_had_say_so_only_if_they_leave_nothing() -> None:
    oversold = ended(qty=Decimal(8), filled_qty=Decimal(12))  # it was 24, and an exit of before had sold 12
    assert oversold.remaining_qty < 0
    ours = oversold.order.client_order_id
    fills = [fill("buy", 24), fill("sell", 12, second=9, client_order_id=ours), fill("sell", 4, second=19)]
    assert not holdings.say_closed(oversold, fills)
    assert holdings.say_closed(oversold, [*fills, fill("sell", 8, second=29)])
    assert not holdings.say_closed(oversold, [])


@given(positions(), executions(), st.randoms(use_true_random=False), st.booleans())
def test_sold_by_others_is_never_negative_nor_more_than_was_sold(p, fills, order: random.Random, unsent: bool) -> None:
    sold = holdings.sold_by_others(p, fills, unsent=unsent)
    closing = sum((f.qty for f in fills if f.side is p.side.exit_side), Decimal(0))
    assert 0 <= sold <= closing
    assert holdings.sold_by_others(p, shuffled(fills, order), unsent=unsent) == sold
    assert holdings.sold_by_others(mirrored(p), [*map(mirrored, fills)], unsent=unsent) == sold


@given(positions(), executions())
def test_what_our_own_order_sold_is_never_a_sale_by_others(p, fills: list[Fill]) -> None:
    ours = [f for f in fills if f.side is OrderSide.BUY or f.client_order_id == "xf1-1" or f.broker_order_id == "B1"]
    by_id = sum((f.qty for f in ours if f.side is OrderSide.SELL), Decimal(0))
    if p.broker_order_id == "B1" and (p.order_live or by_id == p.sold_qty):
        assert holdings.sold_by_others(p, ours) == 0


# --- bought beyond an exit --------------------------------------------------------------------------------------------


def test_given_a_purchase_during_the_exit_then_it_is_surplus_and_starts_the_next_epoch() -> None:
    p = ended(filled_qty=Decimal(4))
    fills = [fill("buy", 10), fill("sell", 4, second=12, client_order_id="xf1-1"), fill("buy", 3, second=15)]
    assert holdings.surplus(p, Decimal(9), fills) == 3
    assert holdings.next_epoch_start(fills, p, Side.LONG) == at(15)
    assert holdings.surplus(held(), Decimal(13), fills) == 0  # a monitored position grows
    assert holdings.surplus(p, Decimal(6), fills) == 0  # what is left is its own
    assert holdings.surplus(changed(p, filled_qty=Decimal(11)), Decimal(3), fills) == 0  # sold more than it was


def test_given_a_purchase_beyond_the_quantity_just_before_the_exit_then_it_starts_the_next_epoch() -> None:
    fills = [fill("buy", 10), fill("buy", 3, second=9)]
    assert holdings.next_epoch_start(fills, ended(), Side.LONG) == at(9)
    assert holdings.next_epoch_start(fills[:1], ended(), Side.LONG) is None
    assert holdings.next_epoch_start(fills[:1], held(), Side.LONG) is None
    assert holdings.next_epoch_start([fill("buy", 1, second=-60), fill("sell", 1)], ended(), Side.LONG) is None


@given(positions(), executions(), quantities)
def test_surplus_is_never_negative_nor_more_than_lies_beyond_what_is_left(p, fills: list[Fill], qty: Decimal) -> None:
    beyond = holdings.surplus(p, qty, fills)
    assert 0 <= beyond <= max(Decimal(0), qty - max(Decimal(0), p.remaining_qty))
    assert holdings.surplus(mirrored(p), qty, [*map(mirrored, fills)]) == beyond


# --- our own order, by its executions ---------------------------------------------------------------------------------


def test_given_more_executions_of_an_ended_order_than_are_known_then_they_are_its_report() -> None:
    p = ended(filled_qty=Decimal(4))
    fills = [
        fill("sell", 4, 98, second=12, client_order_id="xf1-1"), fill("sell", 2, 95, second=21, broker_order_id="B1"),
        fill("sell", 1, 95, second=22),
    ]  # fmt: skip
    found = holdings.report_from_executions(p, fills)
    assert found is not None
    assert (found.filled_qty, found.avg_fill_price, found.at, found.status) == (6, 97, at(21), "canceled")


@pytest.mark.parametrize(
    ("p", "fills"),
    [
        (ended(filled_qty=Decimal(4)), [fill("sell", 4, client_order_id="xf1-1")]),
        (ended(corrected=True), [fill("sell", 4, client_order_id="xf1-1")]),
        (ended(), [fill("sell", 4, 0, client_order_id="xf1-1")]),
        (ended(broker_order_id=None), [fill("sell", 4, broker_order_id="B1")]),
        (ended(), []),
    ],
    ids=["known", "corrected", "no price", "whose?", "none"],
)
def test_given_executions_that_say_no_more_then_there_is_no_report(p, fills: list[Fill]) -> None:
    assert holdings.report_from_executions(p, fills) is None


def test_net_traded_is_what_was_opened_less_what_was_closed() -> None:
    fills = [fill("buy", 10), fill("sell", 4, second=1)]
    assert holdings.net_traded(fills, Side.LONG) == 6
    assert holdings.net_traded(fills, Side.SHORT) == -6
    assert holdings.net_traded([], Side.LONG) == 0


@pytest.mark.parametrize("price", ["0", "-1", "NaN", "Infinity", "1E+99"])
def test_what_no_market_shows_is_no_price(price: str) -> None:
    assert not holdings.is_price(Decimal(price))
    assert holdings.is_price(Decimal("0.01"))


def test_states_of_the_makers_are_what_they_say() -> None:
    assert (held().state, exiting().state, ended().state) == (State.MONITORING, State.SUBMITTED, State.REJECTED)
    assert ended().next_attempt_at == at(20) + timedelta(seconds=5)


@pytest.mark.parametrize(
    ("price", "average"),
    [
        ("0.00000000242", "2.42E-9"),
        ("0.0000001234567890123", "1.23456789012E-7"),
        ("0.0000023456789012", "0.0000023456789012"),
        ("1.23456789012345", "1.234567890"),
    ],
)
def test_an_average_keeps_the_digits_of_a_price_that_is_very_small(price: str, average: str) -> None:
    assert holdings.average_entry([fill("buy", 10, price)], Side.LONG) == Decimal(average)
