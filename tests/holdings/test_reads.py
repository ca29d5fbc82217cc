"""What a read of positions means: quantities, counts, what must be read beside it, and each conclusion."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import (
    BROKER,
    T0,
    at,
    changed,
    ended,
    evidence,
    executions,
    exiting,
    fill,
    held,
    mirrored,
    positions,
    quantities,
    read,
    report,
    row,
    shuffled,
)
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.holdings import Closed, Count, Evidence, Executions, Holds, Missing, Need, Nothing, Read
from exitfsm.lifecycle import State
from exitfsm.messages import RecordRead
from exitfsm.order_ids import client_order_id
from exitfsm.position import READS_MIN, Position, decide, epoch_of, fold
from exitfsm.values import Fill

HAND_SOLD = fill("sell", 4, second=5, client_order_id="web-17")
BOUGHT = fill("buy", 10)


def weighed(e: Evidence, *, times: int = 1) -> holdings.Conclusion:
    """The conclusion from reads in a row that say the same, each begun twenty seconds after the one before."""
    memory: Count | None = None
    conclusion: holdings.Conclusion = Nothing()
    for number in range(times):
        later = replace(e, read=replace(e.read, began=e.read.began + 20 * number))
        conclusion, memory = holdings.weigh(later, memory)
    return conclusion


# --- quantities -------------------------------------------------------------------------------------------------------


def test_given_one_position_then_the_row_is_its_and_so_is_the_average() -> None:
    assert holdings.net(read(row(8, 101)), held(), ()) == (8, 101)
    assert holdings.net(read(row(8, side="short")), held(), ()) == (-8, None)
    assert holdings.net(read(row(8, symbol="MSFT")), held(), ()) == (0, None)
    assert holdings.net(read(row(2, symbol="BTCUSD")), held(symbol="BTC/USD"), ()) == (2, 100)


@pytest.mark.parametrize("entry", ["NaN", "0", "-1", "Infinity"])
def test_given_an_average_that_is_none_then_there_is_none(entry: str) -> None:
    assert holdings.net(read(row(8, entry)), held(), ()) == (8, None)


def test_given_two_epochs_then_what_is_missing_is_missing_of_the_oldest() -> None:
    older, newer = ended(filled_qty=Decimal(4)), held(position_id="q", opened_at=at(15), qty=Decimal(5))
    for shown, of_older, of_newer in [(11, 6, 5), (9, 4, 5), (4, 0, 4), (0, 0, 0), (13, 8, 7)]:
        assert holdings.net(read(row(shown)), older, [newer]) == (of_older, None)
        assert holdings.net(read(row(shown)), newer, [older]) == (of_newer, None)


@given(st.lists(quantities, min_size=1, max_size=4), st.one_of(st.just(Decimal(0)), quantities))
def test_a_position_gets_no_more_than_the_rows_show_and_a_lack_is_shared_out_exactly(
    left: list[Decimal], shown: Decimal
) -> None:
    watched = [held(position_id=str(n), opened_at=at(n), qty=qty) for n, qty in enumerate(left)]
    books = read(*([row(shown)] if shown else []))
    nets = [holdings.net(books, p, [q for q in watched if q is not p])[0] for p in watched]
    assert all(0 <= qty <= shown for qty in nets)
    if shown <= sum(left):
        assert all(qty <= p.remaining_qty for qty, p in zip(nets, watched, strict=True))
        assert sum(nets) == shown


@given(positions(), st.lists(st.sampled_from(["AAPL", "MSFT", "BTC/USD"]), unique=True), st.randoms())
def test_the_order_of_rows_is_irrelevant(p: Position, symbols: list[str], order: random.Random) -> None:
    rows = [row(3, symbol=symbol) for symbol in symbols]
    other = list(rows)
    order.shuffle(other)
    assert weighed(evidence(p, read(*rows))) == weighed(evidence(p, read(*other)))


# --- reads that prove nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unreadable", "rows", "silent"),
    [({"AAPL"}, (), True), ({""}, (), True), ({"MSFT"}, (), False), (set(), (), False), ({""}, (row(3),), False)],
)
def test_given_a_row_that_cannot_be_read_then_its_symbol_and_no_other_is_silent(unreadable, rows, silent: bool) -> None:
    books = read(*rows, unreadable=frozenset(unreadable))
    assert holdings.is_silent(books, "AAPL") is silent
    conclusion, memory = holdings.weigh(evidence(held(), books), None)
    if silent:
        assert (conclusion, memory) == (Nothing(), None)


def test_given_a_read_that_was_overtaken_then_nothing_is_concluded_or_counted() -> None:
    before = exiting()
    now = changed(before, filled_qty=Decimal(4))
    for expected in (holdings.expect(before, ()), holdings.expect(now, [held(position_id="q")]), None):
        overtaken = evidence(now, read(row(10)), expected=expected)
        assert holdings.weigh(overtaken, None) == (Nothing(), None)


@given(positions(), executions(), quantities)
def test_the_same_read_twice_is_one_read(p: Position, fills: list[Fill], shown: Decimal) -> None:
    e = evidence(p, read(row(shown)), *fills)
    first, memory = holdings.weigh(e, None)
    assert holdings.weigh(e, memory) == (first, memory)
    if not isinstance(first, Holds | Closed):
        return
    after = fold(p, decide(p, holdings.position_read(e, first, at(40)), BROKER))
    assert after is not None
    if holdings.known(after) != holdings.known(p):  # what followed from it makes it a read of before
        assert holdings.weigh(replace(e, position=after), memory) == (Nothing(), memory)


@given(positions(), executions(), quantities)
def test_a_short_position_is_weighed_as_a_long_one_is(p: Position, fills: list[Fill], shown: Decimal) -> None:
    e = evidence(p, read(row(shown)), *fills)
    short = evidence(mirrored(p), read(mirrored(row(shown))), *map(mirrored, fills))
    assert weighed(short, times=3) == weighed(e, times=3)


@given(positions(), executions(), quantities, st.randoms())
def test_the_order_of_executions_is_irrelevant(p, fills: list[Fill], shown: Decimal, order: random.Random) -> None:
    e, other = evidence(p, read(row(shown))), shuffled(fills, order)
    asked = [replace(e, executions=Executions(items=holdings.executions_of(p, f, listed=True))) for f in (fills, other)]
    assert weighed(asked[0], times=3) == weighed(asked[1], times=3)


@given(positions(), executions(), st.booleans(), st.integers(1, 5))
def test_an_empty_list_proves_nothing_unless_executions_say_the_same(p, fills, offered: bool, times: int) -> None:
    e = evidence(p, Read(began=30), executions=Executions(items=tuple(fills), offered=offered))
    conclusion = weighed(e, times=times)
    explained = p.remaining_qty <= 0 or holdings.sold_by_others(p, fills) >= p.remaining_qty
    if not explained:
        assert isinstance(conclusion, Nothing | Missing)
        assert times >= READS_MIN or conclusion == Nothing()


# --- what must be read beside it --------------------------------------------------------------------------------------

SOLD = exiting(state=State.PARTIAL, order_live=False, filled_qty=Decimal(10), ended_how="filled")
NOTHING_HELD = read(row(3, symbol="MSFT"))


@given(executions())
def test_given_that_all_is_sold_and_nothing_is_shown_then_no_execution_is_asked_for(fills: list[Fill]) -> None:
    assert SOLD.remaining_qty == 0
    nothing = evidence(SOLD, NOTHING_HELD, executions=None)
    assert weighed(nothing) == Holds(Decimal(0), None, 1)
    assert weighed(nothing, times=3) == weighed(evidence(SOLD, NOTHING_HELD, *fills), times=3)


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize(
    ("rows", "span_s"), [((row(6),), 10), ((row(3, symbol="MSFT"),), 30)], ids=["less is held", "no row of it"]
)
def test_given_reads_soon_after_each_other_then_they_are_no_second_witness(
    rows: tuple[Any, ...], span_s: int, offered: bool
) -> None:
    """A list that is behind shows the same to all who ask within seconds; executions are listed late."""
    span_s = max(span_s, 40 if offered else 0)
    shown, memory = Decimal(6) if span_s in (10, 40) and rows[0].symbol == "AAPL" else Decimal(0), None
    for began, reads in ((30, 1), (31, 2), (32, 2), (29 + span_s, 2), (30 + span_s, 5)):
        e = evidence(ended(), read(*rows, began=began), executions=Executions(items=(BOUGHT,), offered=offered))
        conclusion, memory = holdings.weigh(e, memory)
        assert conclusion == Holds(shown, Decimal(100) if shown else None, reads)


def test_given_that_something_is_left_or_shown_then_executions_are_asked_for() -> None:
    more, watched = evidence(SOLD, read(row(1)), executions=None), evidence(held(), NOTHING_HELD, executions=None)
    assert weighed(more) is Need.EXECUTIONS
    assert weighed(watched) is Need.EXECUTIONS


def test_given_less_than_is_left_after_an_order_then_its_record_is_needed_first() -> None:
    e = evidence(ended(), read(row(6)), record=None, executions=None)
    assert weighed(e) is Need.RECORD
    assert weighed(replace(e, record=evidence(ended(), read()).record)) is Need.EXECUTIONS


def test_given_an_attempt_that_is_due_then_record_next_order_and_executions_are_needed_in_turn() -> None:
    e = evidence(ended(), read(row(10)), BOUGHT, record=None, executions=None, next_order_known=False)
    full = evidence(ended(), read(row(10)), BOUGHT)
    assert weighed(e) is Need.RECORD
    e = replace(e, record=full.record)
    assert weighed(e) is Need.NEXT_ORDER
    e = replace(e, next_order_known=True)
    assert weighed(e) is Need.EXECUTIONS
    assert weighed(replace(e, executions=full.executions)) == Holds(Decimal(10), Decimal(100), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"record": RecordRead(client_order_id="xf1-1", began=at(30), report=report("new", 0))},
        {"read": replace(read(row(10)), began=24.0), "began": at(24)},
    ],
    ids=["its record shows it working", "not due when the read began"],
)
def test_given_no_attempt_that_can_follow_then_its_order_is_not_asked_for(changes: dict[str, Any]) -> None:
    e = replace(evidence(ended(), read(row(10)), BOUGHT, next_order_known=False), **changes)
    assert isinstance(weighed(e), Holds)


def test_given_an_operators_case_or_nothing_left_then_no_next_order_is_asked_for() -> None:
    lost = ended(state=State.UNPROTECTED)
    assert isinstance(weighed(evidence(lost, read(row(10)), BOUGHT, next_order_known=False)), Holds)
    sold = ended(filled_qty=Decimal(10))
    assert isinstance(weighed(evidence(sold, read(), BOUGHT, next_order_known=False)), Holds)


def test_given_a_working_order_and_what_is_expected_then_no_executions_are_needed() -> None:
    assert weighed(evidence(exiting(), read(row(10)), executions=None)) == Holds(Decimal(10), Decimal(100), 1)
    assert weighed(evidence(exiting(), read(row(6)), executions=None)) is Need.EXECUTIONS
    assert weighed(evidence(held(), read(row(10, 99)), executions=None)) is Need.EXECUTIONS


# --- conclusions ------------------------------------------------------------------------------------------------------


def test_given_what_is_expected_of_a_monitored_position_then_nothing_follows_and_counting_starts_anew() -> None:
    memory = Count(Decimal(6), holdings.known(held()), 2, 20.0)
    assert holdings.weigh(evidence(held(), read(row(10)), executions=None), memory) == (Nothing(), None)
    assert holdings.weigh(evidence(held(), read(row(10, 0)), executions=None), memory) == (Nothing(), None)


def test_given_less_and_no_execution_that_says_why_then_reads_are_counted() -> None:
    e = evidence(held(), read(row(6)), BOUGHT)
    assert [weighed(e, times=times) for times in (1, 2, 3)] == [Holds(Decimal(6), Decimal(100), n) for n in (1, 2, 3)]


def test_given_less_and_an_execution_that_says_why_then_one_read_is_enough() -> None:
    assert weighed(evidence(held(), read(row(6)), BOUGHT, HAND_SOLD)) == Holds(Decimal(6), Decimal(100), READS_MIN)


def test_given_an_empty_list_when_executions_say_that_more_was_sold_than_held_then_they_do_not_agree() -> None:
    """As after a split: what is sold is in another unit, and 86 are held as ever."""
    more = fill("sell", 14, client_order_id=None)
    assert weighed(evidence(held(), read(), BOUGHT, more)) == Holds(Decimal(0), None, 1), "one read is not enough"
    exactly = fill("sell", 10, client_order_id=None)
    assert weighed(evidence(held(), read(), BOUGHT, exactly)) == Holds(Decimal(0), None, READS_MIN)


@pytest.mark.parametrize(("sold_at", "explains"), [(1, False), (190, True)])
def test_given_a_row_that_was_there_after_a_sale_then_that_does_not_explain_an_empty_list(
    sold_at: float, explains: bool
) -> None:
    """A split during an exit, of which two are held: one was sold by hand, and the bot had bought one."""
    sold = fill("sell", 10, client_order_id=None, second=sold_at)
    there = evidence(held(), read(row(6)), BOUGHT, sold)
    there = replace(there, read=replace(there.read, began=180.0), began=at(180))
    _, memory = holdings.weigh(there, None)
    gone = replace(there, read=replace(read(), began=200.0), began=at(200))
    conclusion, memory = holdings.weigh(gone, memory)
    assert conclusion == (Holds(Decimal(0), None, READS_MIN) if explains else Nothing())


def test_given_books_that_cannot_be_behind_then_one_read_is_enough() -> None:
    assert weighed(evidence(held(), read(row(6), exact=True), BOUGHT)) == Holds(Decimal(6), Decimal(100), READS_MIN)
    assert weighed(evidence(held(), read(exact=True), BOUGHT)) == Holds(Decimal(0), None, READS_MIN)
    sold = ended(filled_qty=Decimal(10))
    assert weighed(evidence(sold, read(exact=True), executions=None)) == Holds(Decimal(0), None, READS_MIN)
    assert weighed(evidence(ended(), read(row(10), exact=True), executions=None)) == Holds(Decimal(10), 100, READS_MIN)
    assert weighed(evidence(ended(), read(exact=True), executions=None)) is Need.EXECUTIONS


def test_given_more_sold_than_there_was_then_an_empty_list_proves_nothing_either() -> None:
    """A restated order filled for more; what is still held is not listed for a while."""
    p = ended(state=State.UNPROTECTED, filled_qty=Decimal(12))
    assert p.remaining_qty == -2
    assert weighed(evidence(p, read(), BOUGHT), times=5) in (Nothing(), Need.RECORD)


def test_given_a_list_without_any_position_then_after_several_reads_it_is_missing() -> None:
    e = evidence(held(), read(), BOUGHT)
    assert [weighed(e, times=times) for times in (1, 2, 3)] == [Nothing(), Nothing(), Missing()]
    for p in (exiting(), ended(state=State.UNPROTECTED)):  # the order may have sold it; a person looks after it
        assert weighed(evidence(p, read(), BOUGHT), times=3) == Nothing()
    assert weighed(evidence(held(), read(row(1, symbol="MSFT")), BOUGHT), times=3) == Holds(Decimal(0), None, 3)


def test_given_an_order_that_can_arrive_no_more_then_a_list_that_is_empty_for_long_says_that_nothing_is_held() -> None:
    e = replace(evidence(exiting(state=State.PENDING, broker_order_id=None), read(), BOUGHT), lapsed=True)
    memory: Count | None = None
    said = []
    for began in (100, 250, 399, 400):
        conclusion, memory = holdings.weigh(replace(e, read=replace(e.read, began=began)), memory)
        said.append(conclusion)
    assert said == [Nothing(), Nothing(), Nothing(), Holds(Decimal(0), None, 4)]
    assert holdings.position_read(e, said[-1], at(500)).lapsed
    shown, memory = holdings.weigh(replace(e, read=replace(read(row(3)), began=410)), memory)
    assert shown == Holds(Decimal(3), Decimal(100), 1)
    assert memory is not None
    assert memory.since == 410  # and it begins anew


def test_given_more_then_executions_must_explain_it_or_it_is_read_often() -> None:
    more = fill("buy", 4, 105, second=9)
    assert weighed(evidence(held(), read(row(14, 101)), BOUGHT, more)) == Holds(Decimal(14), Decimal(101), 1)
    unexplained = evidence(held(), read(row(14, 101)), BOUGHT)
    assert [weighed(unexplained, times=times) for times in (1, 3)] == [Nothing(), Holds(Decimal(14), Decimal(101), 3)]
    none_listed = replace(unexplained, executions=Executions(offered=False))
    assert weighed(none_listed) == Holds(Decimal(14), Decimal(101), 1)


def test_given_more_without_an_average_then_what_was_bought_says_it() -> None:
    e = evidence(held(), read(row(20, 0)), BOUGHT, fill("buy", 10, 110, second=9))
    assert weighed(e) == Holds(Decimal(20), Decimal(105), 1)


def test_given_a_sale_of_all_and_a_new_entry_then_it_was_closed_by_others() -> None:
    anew = (BOUGHT, fill("sell", 10, second=5), fill("buy", 8, second=6))
    assert weighed(evidence(held(), read(row(8)), *anew)) == Closed()
    later = tuple(replace(one, at=at(26 + n)) for n, one in enumerate(anew))
    assert weighed(evidence(ended(), read(row(8)), *later)) == Closed()
    lost = ended(state=State.UNPROTECTED, next_attempt_at=None)
    assert weighed(evidence(lost, read(row(10)), *anew[:2], fill("buy", 10, second=6), record=None)) is Need.RECORD
    shared = Executions(items=anew, shared=True)
    assert weighed(evidence(held(), read(row(8)), executions=shared)) != Closed()
    assert weighed(evidence(exiting(), read(row(8)), *anew)) != Closed()


def test_given_what_was_bought_during_an_exit_then_it_is_not_its() -> None:
    p = ended(filled_qty=Decimal(10))
    fills = (BOUGHT, fill("sell", 10, second=15, client_order_id="xf1-1"), fill("buy", 3, second=18))
    assert weighed(evidence(p, read(row(3)), *fills, executions=Executions(items=fills, shared=True))) == Holds(
        Decimal(0), Decimal(100), 1
    )


# --- counts -----------------------------------------------------------------------------------------------------------


def test_a_count_starts_anew_when_another_quantity_is_shown_or_more_was_learned() -> None:
    p, memory = held(), None
    counts = []
    for qty, began in [(6, 1), (6, 2), (6, 2), (5, 1), (5, 3), (5, 4)]:
        reads, memory = holdings.count(memory, p, Decimal(qty), began)
        counts.append(reads)
    assert counts == [1, 2, 2, 1, 1, 2]
    assert holdings.count(memory, exiting(), Decimal(5), 1)[0] == 1


def test_what_the_newest_reads_agree_on_counts_until_more_is_learned() -> None:
    p = exiting()
    once, agreed = (Count(Decimal(6), holdings.known(p), reads, 20.0) for reads in (1, READS_MIN))
    assert (holdings.agreed_qty(None, p), holdings.agreed_qty(once, p), holdings.agreed_qty(agreed, p)) == (
        None,
        None,
        6,
    )
    assert (holdings.last_qty(None, p), holdings.last_qty(once, p)) == (None, 6)
    filled = changed(p, filled_qty=Decimal(1))
    assert holdings.agreed_qty(agreed, filled) is None
    assert holdings.last_qty(once, filled) is None
    canceling = replace(p, state=State.CANCELING)
    assert (holdings.agreed_qty(agreed, canceling), holdings.last_qty(once, canceling)) == (None, 6)


@pytest.mark.parametrize(
    ("shown", "agree"), [([10], True), ([12], True), ([6], None), ([6, 6], None), ([6, 6, 6], True), ([6, 5], False),
                         ([6, 10], True)]
)  # fmt: skip
def test_less_than_is_left_counts_where_several_reads_agree(shown: list[int], agree: bool | None) -> None:
    assert holdings.agreement(held(), [Decimal(qty) for qty in shown]) is agree


def test_executions_are_shared_where_another_position_of_the_symbol_is_open() -> None:
    p = held()
    assert holdings.is_shared(p, [p, held(position_id="q")])
    assert not holdings.is_shared(p, [p, held(position_id="q", symbol="MSFT")])


def test_executions_of_a_position_are_those_of_its_symbol_since_its_entry() -> None:
    p = held(opened_at=at(0.5))
    fills = [fill("sell", 1, second=3), fill("buy", 1, second=0), replace(fill("buy", 1, second=2), symbol="MSFT")]
    assert [f.at for f in holdings.executions_of(p, fills, listed=True)] == [T0, at(3)]
    assert [f.at for f in holdings.executions_of(p, fills, listed=False)] == [at(3)]
    assert holdings.executions_of(p, [replace(fills[1], at=at(-1))], listed=True) == ()


@pytest.mark.parametrize(("epoch", "count"), [(epoch_of(at(3)), 1), (epoch_of(at(-3)), 2), ("1", 2), ("noneZ", 2)])
def test_executions_before_the_epoch_are_another_positions_where_our_clock_was_behind(epoch: str, count: int) -> None:
    p = held(opened_at=at(-40), epoch=epoch)
    fills = [fill("buy", 9, second=0), fill("buy", 10, second=3)]
    assert len(holdings.executions_of(p, fills, listed=True)) == count


def test_a_position_is_told_what_was_concluded() -> None:
    e = evidence(ended(), read(row(6)))
    told = holdings.position_read(e, Holds(Decimal(6), Decimal(101), 2), at(40))
    assert (told.qty, told.avg_entry_price, told.reads, told.at, told.began) == (6, 101, 2, at(40), at(30))
    assert (told.known, told.record) == (holdings.known(ended()), e.record)
    closed = holdings.position_read(e, Closed(), at(40))
    assert (closed.qty, closed.reads, closed.avg_entry_price) == (0, READS_MIN, None)


# --- spellings --------------------------------------------------------------------------------------------------------


def test_spellings_of_a_pair_are_one_instrument() -> None:
    assert holdings.same_symbol("BTC/USD", "BTCUSD")
    assert holdings.same_symbol("AAPL", "AAPL")
    assert not holdings.same_symbol("BTC/USD", "BTC/USDT")
    assert not holdings.same_symbol("AAPL", "MSFT")
    assert holdings.known_spelling("BTCUSD", ["AAPL", "BTC/USD"], {}) == "BTC/USD"
    assert holdings.known_spelling("ETHUSD", ["AAPL"], {"ETHUSD": "ETH/USD"}) == "ETH/USD"
    assert holdings.known_spelling("aapl", [], {}) == "AAPL"


# --- a store that was put back ----------------------------------------------------------------------------------------

#: The id of an exit of the position that is not on its record.
FORGOTTEN = client_order_id("p", 1)
FOUR = Holds(qty=Decimal(4), entry_price=Decimal(100), reads=3)


@pytest.mark.parametrize(
    ("p", "conclusion", "seen", "may_have"),
    [
        (held(), FOUR, Executions(items=(fill("sell", 6, client_order_id=FORGOTTEN),)), True),
        (held(), FOUR, Executions(items=(fill("sell", 6),)), True),  # whose it is was not said
        (held(), FOUR, Executions(items=(fill("sell", 6, client_order_id="by-hand"),)), False),
        (held(), FOUR, Executions(items=(fill("buy", 6, client_order_id=FORGOTTEN),)), False),
        (held(), FOUR, Executions(offered=False), True),
        (held(), FOUR, None, True),
        (held(), replace(FOUR, qty=Decimal(10)), None, False),  # nothing is missing
        (held(), Missing(), None, True),
        (held(), Closed(), None, False),
        (exiting(), FOUR, None, False),  # its orders are known
    ],
)
def test_an_exit_that_the_store_forgot_is_looked_for_where_less_is_held(
    p: Position, conclusion: holdings.Conclusion, seen: Executions | None, may_have: bool
) -> None:
    assert holdings.may_have_exited(evidence(p, read(row(4)), executions=seen), conclusion) is may_have
