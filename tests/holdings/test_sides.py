"""Both sides of a symbol: two holdings in hedge mode, a contradiction anywhere else; and who took one to the other."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import changed, fill, held, over, read, row
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.holdings import Alarm, Executed, Opening
from exitfsm.holdings.crossing import Crossing, crossing, crossing_of, opened_by_exit
from exitfsm.holdings.facts import Instrument
from exitfsm.holdings.sides import bare_names, is_watched, said_side
from exitfsm.lifecycle import State
from exitfsm.ports import CAREFUL, AssetRules, Capabilities
from exitfsm.ports import Instrument as Declared
from exitfsm.position import client_order_id
from exitfsm.values import ExecutionReport, OrderSide, OrderStatus, Side

HEDGED = Capabilities(hedge=True)
EXIT = client_order_id("p", 1)
ANY, STEPS = Instrument(), Instrument(step=Decimal("0.1"))


def test_hedge_mode_is_the_accounts_and_an_instrument_may_say_otherwise() -> None:
    assert (CAREFUL.holds_both("AAPL"), HEDGED.holds_both("AAPL")) == (False, True)
    mixed = Capabilities(hedge=True, instruments={"A": Declared(hedge=False), "B": Declared()})
    assert (mixed.holds_both("A"), mixed.holds_both("B")) == (False, True)
    one = Capabilities(instruments={"A": Declared(hedge=True)})
    assert (one.may_hold_both, CAREFUL.may_hold_both, one.holds_both("B")) == (True, False, False)


def test_in_hedge_mode_a_row_is_watched_by_its_side() -> None:
    assert holdings.watching_of("AAPL", Side.LONG, CAREFUL) == "AAPL"
    known = bare_names([holdings.watching_of("BTC/USD", Side.LONG, HEDGED), "AAPL"])
    long, short = row(1, symbol="BTCUSD"), row(1, symbol="BTCUSD", side="short")
    assert [is_watched(one, known) for one in (long, short, row(1, side="short"))] == [True, False, True]
    assert holdings.unwatched([long, short], [("BTC/USD", Side.LONG)], CAREFUL.rules) == [short]


@pytest.mark.parametrize(
    ("side", "order_id", "named", "said"),
    [
        ("buy", "bot-1", None, None),
        ("buy", "bot-1", Side.SHORT, Side.SHORT),
        ("buy", EXIT, None, Side.SHORT),
        ("sell", EXIT, None, Side.LONG),
    ],
)
def test_an_execution_is_of_the_side_that_it_says_and_an_exit_of_the_one_that_it_closes(
    side: str, order_id: str, named: Side | None, said: Side | None
) -> None:
    assert said_side(replace(fill(side, 1, client_order_id=order_id), position_side=named)) is said


def test_given_a_residue_after_exits_then_no_trade_took_the_holding_across() -> None:
    """What is held is less than can be sold, and the executions lead elsewhere: nothing opened it."""
    assert crossing([fill("buy", 3), fill("sell", 2)], Decimal("0.04"), STEPS) is None
    assert crossing([], Decimal("0.04"), STEPS) is None


def test_executions_that_do_not_say_their_side_prove_nothing_in_hedge_mode() -> None:
    bought = replace(fill("buy", 1), position_side=Side.LONG)
    sold = replace(fill("sell", 1, second=1), position_side=Side.SHORT)
    listed = {"AAPL": [bought, sold]}
    assert Executed(listed, CAREFUL).of("AAPL", Side.LONG) == [bought, sold]
    assert Executed(listed, HEDGED).of("AAPL", Side.LONG) == [bought]
    assert Executed(listed, HEDGED).of("MSFT", Side.LONG) == []
    assert Executed({"AAPL": [bought, fill("sell", 1)]}, HEDGED).of("AAPL", Side.LONG) is None
    assert Executed(None, CAREFUL).of("AAPL", Side.LONG) is None


def test_rows_on_both_sides_contradict_each_other_but_in_hedge_mode() -> None:
    rows = [row(1), row(2, side="short"), row(3, symbol="MSFT")]
    assert holdings.contradicting(rows, frozenset()) == {"AAPL"}
    assert holdings.contradicting(rows, frozenset({"AAPL"})) == frozenset()
    shown = read(*rows, both=frozenset({"AAPL"}))
    assert holdings.is_silent(shown, "AAPL")
    assert not holdings.is_silent(shown, "MSFT")
    assert (shown.clear, read(*rows).clear) == ((rows[2],), tuple(rows))


def test_in_hedge_mode_a_read_shows_each_side_its_own_row() -> None:
    long, short = held(), replace(held(), side=Side.SHORT)
    shown = read(row(10, 99), row(4, 101, side="short"), hedged=frozenset({"AAPL"}))
    assert holdings.net(shown, long, ()) == (10, 99)
    assert holdings.net(shown, short, ()) == (4, 101)
    assert holdings.net(read(row(4, side="short"), hedged=frozenset({"AAPL"})), long, ()) == (0, None)
    assert holdings.net(read(row(4, side="short")), long, ()) == (-4, None)
    assert holdings.jumped_rows(shown, "AAPL", [short, long]) == (shown.rows[1], [short])
    assert holdings.jumped_rows(read(row(10)), "AAPL", [long]) == (row(10), [long])
    assert holdings.jumped_rows(read(), "AAPL", []) == (None, [])


def test_an_order_of_the_other_side_concerns_no_position() -> None:
    order = ExecutionReport(client_order_id="web-1", status=OrderStatus.NEW, at=held().opened_at, side=OrderSide.SELL)
    named = replace(order, position_side=Side.SHORT)
    assert [holdings.concerns(one, Side.LONG) for one in (order, named)] == [True, False]
    assert holdings.closing(held(), [order, named]) == (order,)


def test_an_operator_must_say_which_side_only_where_both_are_positions_of_their_own() -> None:
    both = [held(), replace(held(), side=Side.SHORT)]
    assert holdings.meant(both, "AAPL", None, CAREFUL) == both
    assert holdings.meant(both, "AAPL", "short", HEDGED) == both[1:]
    assert holdings.meant(both[:1], "AAPL", None, HEDGED) == both[:1]
    with pytest.raises(ValueError, match=r"both sides \(long 10 and short 10\)"):
        holdings.meant(both, "AAPL", None, HEDGED)


# --- who took it to the other side ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fills", "shown", "expected"),
    [
        ([("buy", 10, "bot"), ("sell", 15, "bot")], -5, ("bot", 10, -5, False)),
        ([("buy", 10, "bot"), ("sell", 10, "web"), ("sell", 10, EXIT)], -10, (EXIT, 0, -10, True)),
        ([("buy", 10, "bot"), ("sell", 10, EXIT), ("sell", 10, "bot")], -10, ("bot", 0, -10, False)),
        ([("sell", 4, "bot"), ("buy", 6, EXIT), ("buy", 1, "bot")], 3, (EXIT, -4, 2, True)),
        ([("buy", 10, "bot"), ("sell", 10, EXIT)], -10, None),  # one is missing yet
        ([], -10, None),
        ([("buy", 10, "bot")], 0, None),
    ],
)
def test_the_trade_that_opened_what_is_held_is_the_one_that_crossed_zero_last(
    fills: list[tuple[str, int, str]], shown: int, expected: tuple[object, ...] | None
) -> None:
    traded = [fill(side, qty, second=at, client_order_id=who) for at, (side, qty, who) in enumerate(fills)]
    found = crossing(traded, Decimal(shown), ANY)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert (found.order_id, found.before, found.after, found.is_exit) == expected


def test_what_cannot_be_sold_is_flat_and_the_brokers_own_id_tells_an_exit() -> None:
    traded = [fill("buy", "10.05"), fill("sell", 10, second=1), fill("sell", 5, second=2, broker_order_id="b7")]
    found = crossing(traded, Decimal("-4.95"), STEPS, frozenset({"b7"}))
    assert found == Crossing(symbol="AAPL", order_id="b7", before=Decimal("0.05"), after=Decimal("-4.95"), is_exit=True)
    assert "exit order b7 took AAPL from 0.05 to -4.95" in found.text
    nameless = crossing([fill("sell", 1)], Decimal(-1), ANY)
    assert nameless is not None
    assert nameless.order_id == "without an id"


def test_where_no_executions_are_listed_a_positions_own_orders_count_by_what_they_filled() -> None:
    p = changed(held(state=State.SUBMITTED), before=(over("xf1-1", 10, "filled"),), attempt=2)
    told = [fill("buy", 10, client_order_id="bot"), fill("sell", 10, second=90, client_order_id="bot-2")]
    found = crossing_of(p, told, Decimal(-10), ANY)
    assert found is not None
    assert (found.order_id, found.is_exit) == ("bot-2", False)
    assert crossing_of(p, told[:1], Decimal(-10), ANY) is None


@given(st.lists(st.tuples(st.sampled_from(["buy", "sell"]), st.integers(1, 9)), min_size=1, max_size=8))
def test_a_crossing_ends_on_the_side_that_is_held_and_begins_elsewhere(traded: list[tuple[str, int]]) -> None:
    fills = [fill(side, qty, second=at) for at, (side, qty) in enumerate(traded)]
    shown = Decimal(sum(qty if side == "buy" else -qty for side, qty in traded))
    found = crossing(fills, shown, ANY)
    assert (found is None) is (shown == 0)
    if found is not None:
        assert found.after * shown > 0
        assert found.before * shown <= 0


def test_what_our_own_exit_opened_is_an_alarm_and_not_adopted() -> None:
    traded = (fill("buy", 10, client_order_id="bot"), fill("sell", 15, second=5, client_order_id=EXIT))
    opening = Opening(row=row(5, side="short"), symbol="AAPL", executions=traded)
    conclusion, tries = holdings.adopt(opening, None)
    assert isinstance(conclusion, Alarm)
    assert (conclusion.kind, tries is not None) == ("oversold", True)
    assert f"exit order {EXIT} took AAPL from 10 to -5" in conclusion.text
    assert opened_by_exit(traded[:1], Decimal(10), Side.LONG, ANY) is None


# --- residues ---------------------------------------------------------------------------------------------------------

WHOLE = AssetRules(qty_step=Decimal(1))


@pytest.mark.parametrize(
    ("fills", "bought"),
    [
        ([("buy", "0.9")], True),
        ([("buy", "0.4"), ("buy", "0.5")], True),
        ([("buy", "2.9"), ("sell", "2")], False),
        ([("buy", "0.5")], False),  # the executions do not reach back to flat
        ([], False),
    ],
)
def test_a_residue_that_was_bought_as_it_is_is_doubted(fills: list[tuple[str, str]], bought: bool) -> None:
    traded = [fill(side, qty, second=at) for at, (side, qty) in enumerate(fills)]
    assert holdings.was_bought(row("0.9"), traded) is bought
    assert "step 1 and the least 0 that are known here: NOT protected" in holdings.residue_doubted(row("0.9"), WHOLE)


def test_residues_are_the_rows_that_the_venue_would_not_take() -> None:
    rows = [row("0.9"), row(3), row("0.5", symbol="MSFT")]
    assert holdings.residues(rows, ["MSFT"], lambda _: WHOLE) == rows[:1]


@pytest.mark.parametrize(
    ("qty", "declared", "adopted"),
    [("0.0005", ANY, False), ("2.0005", ANY, True), ("0.0005", Instrument(step=Decimal("0.0001")), True)],
)
def test_what_an_earlier_life_left_is_no_position_until_more_is_bought(
    qty: str, declared: Instrument, adopted: bool
) -> None:
    previous = changed(held(state=State.CLOSED), before=(), attempt=1)
    opening = Opening(row=row(qty), symbol="AAPL", previous=previous, residue=Decimal("0.0005"), instrument=declared)
    assert isinstance(holdings.adopt(replace(opening, is_old=True), None)[0], holdings.Adopt) is adopted
