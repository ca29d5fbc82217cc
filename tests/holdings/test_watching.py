"""Positions as the rules see them, conclusions as messages and in words, and what is news to a life without a past."""

from __future__ import annotations

from decimal import Decimal

import pytest
from makers import at, changed, ended, fill, held, over, row
from msgspec.structs import replace

from exitfsm import holdings
from exitfsm.holdings import weighing
from exitfsm.holdings.facts import (
    BEFORE,
    Adopted,
    Calm,
    ClosedBy,
    Concluded,
    Evidence,
    Failed,
    Instrument,
    Memory,
    Needed,
    Raise,
    Read,
    Resized,
    Run,
    Unit,
    Watched,
)
from exitfsm.holdings.units import factor_of
from exitfsm.holdings.watching import (
    are_at_rest,
    instrument_of,
    is_news,
    is_part_sold,
    is_rescaled,
    key_of,
    last_price,
    messages,
    next_look_s,
    split_message,
    text_of,
    watched_of,
    withdrawn,
)
from exitfsm.messages import Acknowledge, PositionRead, RaiseAlarm, Rescale, Withdraw
from exitfsm.policy import ExitPolicy
from exitfsm.policy.rules.trailing_stop import TrailingStop
from exitfsm.ports import CAREFUL, AssetRules, Capabilities
from exitfsm.ports import Instrument as Declared
from exitfsm.position import Position
from exitfsm.values import Alarm, BrokerPosition, Fill, Side

D = Decimal
EXACT_BOOKS = Instrument(lag_s=0.0, executions_late_s=0.0, gap_s=0.0, absent_s=0.0)


def evidence(p: Position, *rows: BrokerPosition, fills: tuple[Fill, ...] | None = (), **fields: object) -> Evidence:
    given: dict[str, object] = {
        "key": key_of(p, CAREFUL), "instrument": EXACT_BOOKS, "watched": (watched_of(p, None),), "next_ids_known": True,
        "read": Read(rows=(*rows, row(1, symbol="ZZZ")), begin=at(100).timestamp(), end=at(101).timestamp()),
        "executions": fills,
    }  # fmt: skip
    return Evidence(**(given | fields))  # type: ignore[arg-type]


def news(e: Evidence, memory: Memory | None = None) -> list[Concluded]:
    return [one for one in weighing.weigh(e, memory or Memory())[0] if not isinstance(one, Needed | Calm)]


# --- what is watched --------------------------------------------------------------------------------------------------


def test_a_position_that_was_released_has_its_sales_behind_it() -> None:
    p = changed(held(), before=(over("xf1-0", 4, "canceled", "B0"),), filled_qty=D(0))
    watched = watched_of(p, D(101))
    assert (watched.left, watched.qty, watched.price) == (p.remaining_qty, p.remaining_qty + 4, 101)
    assert all(order.is_final(5.0) for order in watched.orders)
    assert are_at_rest([held()])
    assert not are_at_rest([held(), ended()])


def after_a_part(side: Side = Side.LONG) -> Watched:
    """Ten were held, and an order of ours sold four of them."""
    p = changed(held(side=side), before=(over("xf1-0", 4, "filled", "B0"),), filled_qty=D(0))
    return watched_of(changed(p, qty=D(10)), None)


@pytest.mark.parametrize("side", [Side.LONG, Side.SHORT])
def test_a_part_is_sold_where_less_is_left_by_an_order_of_ours_or_another_life_sold_it(side: Side) -> None:
    p, sign = after_a_part(side), 1 if side is Side.LONG else -1
    assert (p.left, p.sold) == (6, 4)
    assert is_part_sold([p], {p.name: D(10) * sign})
    assert is_part_sold([p], {})
    assert not is_part_sold([p], {p.name: D(6) * sign})
    assert not is_part_sold([p], {p.name: D(5) * sign}), "bought on"
    assert not is_part_sold([watched_of(held(side=side), None)], {})


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("confirmed", [True, False])
def test_after_a_part_more_is_believed_only_once_the_books_have_shown_what_is_left(
    confirmed: bool, listed: bool
) -> None:
    """However often it is shown: a list that is behind repeats itself."""
    memory, found = Memory(confirmed=confirmed), list[Concluded]()
    for number in range(200):
        shown = Read(rows=(row(10),), begin=10_000.0 + 10 * number, end=10_001.0 + 10 * number)
        e = evidence(held(), read=shown, watched=(after_a_part(),), fills=() if listed else None)
        said, memory = weighing.weigh(e, memory)
        found += [one for one in said if not isinstance(one, Needed | Calm)]
    raised = [one.kind for one in found if isinstance(one, Raise)]
    assert raised == ([] if confirmed else ["unexplained_quantity"])
    assert any(isinstance(one, Resized) for one in found) is confirmed


def test_where_nothing_of_what_is_watched_was_sold_more_is_believed_after_ten_reads_and_two_minutes() -> None:
    """A sale beside it left the books in doubt: then a person hears first, and repetition decides."""
    p, memory, found = held(), Memory(confirmed=False), list[tuple[int, Concluded]]()
    for number in range(14):
        shown = Read(rows=(row(15),), begin=10_000.0 + 10 * number, end=10_001.0 + 10 * number)
        said, memory = weighing.weigh(evidence(p, read=shown), memory)
        found += [(number, one) for one in said if not isinstance(one, Needed | Calm)]
    (_, raised), (number, resized) = found[:2]
    assert isinstance(raised, Raise)
    assert isinstance(resized, Resized)
    assert (raised.kind, resized.left, number) == ("unexplained_quantity", 15, 12)


def test_after_a_part_books_that_show_what_is_left_are_believed_from_then_on() -> None:
    e = evidence(held(), row(6), watched=(after_a_part(),))
    _, memory = weighing.weigh(e, Memory(confirmed=False))
    assert memory.confirmed


def test_an_instrument_is_what_the_broker_declares() -> None:
    broker = Capabilities(
        stocks=AssetRules(qty_step=D(1), qty_min=D(2)),
        instruments={"GC": Declared(qty_step=D(1), value_min=D(5), multiplier=D(100))},
    )
    assert instrument_of(broker, "AAPL").least == 2
    assert instrument_of(broker, "AAPL").fee_max == 0
    assert instrument_of(broker, "BTC/USD").fee_max == D("0.01")
    gold = instrument_of(broker, "GC")
    assert (gold.multiplier, gold.least_value, gold.lag_s, gold.absent_s) == (100, 5, 10.0, 30.0)


@pytest.mark.parametrize(
    ("rows", "expected"), [((row(10),), False), ((row(10, 101),), True), ((row(9),), True), ((), True)]
)
def test_another_quantity_or_average_is_news(rows: tuple[BrokerPosition, ...], expected: bool) -> None:
    assert is_news(evidence(held(), *rows)) is expected


def test_no_answer_is_no_news_and_has_no_price() -> None:
    e = evidence(held(), read=Failed(begin=1.0, end=2.0), price=D(7))
    assert not is_news(e)
    assert last_price(e) == 7
    assert last_price(evidence(held(), replace(row(10), current_price=D(99)), price=D(7))) == 99


def test_the_first_looks_are_soon() -> None:
    careful, run = Instrument(), Run(D(1), (D(2), D(2)), "ROW", 3, 0.0, 4.0)
    assert next_look_s(Memory(), careful) == 2.0
    assert next_look_s(Memory(run=run), careful) == 10.0


# --- what is concluded, as messages -----------------------------------------------------------------------------------


def told(*said: Concluded, p: Position | None = None) -> list[object]:
    q = p or held()
    return [message for _, message in messages(said, {q.position_id: q}, {q.position_id: at(100)}, at(101))]


def test_conclusions_are_messages() -> None:
    (resized,) = told(Resized(position="p", left=D(4), entry=D(100), why="external"))
    assert isinstance(resized, PositionRead)
    assert (resized.qty, resized.how) == (4, "")
    closed = told(ClosedBy("p", "external", D(10)), ClosedBy("p", "reversed", D(10)))
    assert [(m.qty, m.how) for m in closed if isinstance(m, PositionRead)] == [(0, "by_hand"), (0, "reversed")]
    (rescaled,) = told(Unit(position="p", factor=D(2), left=D(20), entry=D(50)))
    assert isinstance(rescaled, Rescale)
    assert (rescaled.factor, rescaled.qty, rescaled.entry_price) == (2, 20, 50)
    assert told(Needed("reads"), Adopted(side=Side.LONG, qty=D(1), entry=D(1), name="n"), Raise("both_sides", {})) == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("positions_missing", "lists no position at all"),
        ("entry_not_shown", "NOT protected"),
        ("unit_unclear", "no trade and no split"),
        ("other_exit", "an exit under our prefix"),
        ("oversold", "went through zero"),
        ("unexplained_quantity", "no execution says why"),
    ],
)
def test_an_alarm_has_its_figures_and_is_taken_down_again(kind: str, words: str) -> None:
    figures = {"symbol": "AAPL", "shown": "4", "expected": "10", "executions": "-6 by web"}
    assert words in text_of(Raise(kind, figures))
    (raised,) = told(Raise(kind, figures))
    assert isinstance(raised, RaiseAlarm)
    p = held(alarms=(Alarm(alarm_id="p/1", kind=kind, text="", raised_at=at(1)),))
    (calmed, *others) = told(Calm(kind), Calm("not_done"), p=p)
    assert isinstance(calmed, Acknowledge)
    assert others == []


# --- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qty", "held_now", "average", "factor"),
    [
        ("10", "100", "10", "10"),
        ("100", "125", "80", "1.25"),
        ("15", "1", "1000", "0.1"),  # half a share was paid in cash
        ("7", "8", "80", "1.25"),  # so were three quarters of one
        ("0.2", "0.3", "100", None),  # bought on, at one price
        ("2", "3", "100", None),
        ("1", "2", "60", None),  # bought on far below
        ("0.5", "0.8", "85", None),
        ("10", "4", "100", None),
        ("10", "0", "100", None),
    ],
)
def test_a_purchase_is_no_split(qty: str, held_now: str, average: str, factor: str | None) -> None:
    found = factor_of(D(qty), D(100), D(held_now), D(average))
    assert found == (D(factor) if factor is not None else None)
    p = held(qty=D(qty))
    assert is_rescaled(p, D(held_now), D(average)) is (factor is not None)
    assert not is_rescaled(p, D(held_now), None)


def test_a_split_that_a_price_has_shown_is_one_of_the_unit_or_of_the_average_alone() -> None:
    shown = PositionRead(at=at(1), began=at(0), qty=D(70), avg_entry_price=D("14.2857142857"))
    split = split_message(held(), shown)
    assert isinstance(split, Rescale)
    assert abs(split.factor - 7) < D("1e-9")
    alone = replace(shown, qty=D(10))
    assert split_message(held(), alone) is alone
    assert isinstance(withdrawn(held(), shown), Withdraw)
    assert withdrawn(held(), alone) is None


# --- what is news in a life that has concluded nothing yet ------------------------------------------------------------


def test_executions_are_walked_until_they_come_to_what_is_watched() -> None:
    p = held(qty=D(15))
    fills = (fill("buy", 10, second=0.1), fill("buy", 5, second=1), fill("sell", 6, second=50))
    assert news(evidence(p, row(9), fills=fills)) == [
        Resized(position="p", left=D(9), entry=D(100), why="external", external=D(6))
    ]
    assert news(evidence(p, row(9), fills=(fill("buy", 9, second=-50),))) == []  # they do not say what is watched


def test_what_came_and_went_between_two_reads_is_another_position() -> None:
    fills = (fill("buy", 10), fill("sell", 10, second=40), fill("buy", 10, second=50))
    closed, adopted = news(evidence(held(), row(10), fills=fills))
    assert isinstance(closed, ClosedBy)
    assert isinstance(adopted, Adopted)


def test_where_no_executions_are_listed_one_sum_is_reported_of_each_order() -> None:
    reported = (fill("buy", 15, price=101),)
    (resized,) = news(evidence(held(), row(15, "NaN"), fills=None, reported=reported))
    assert isinstance(resized, Resized)
    assert (resized.left, resized.entry) == (15, 101)
    assert news(evidence(held(), row(15), fills=None)) == []


@pytest.mark.parametrize("side", Side)
def test_where_less_was_reported_bought_than_is_watched_an_empty_list_is_explained_by_sales_alone(side: Side) -> None:
    entry, exit_side = ("buy", "sell") if side is Side.LONG else ("sell", "buy")
    p = replace(held(), side=side)
    before_a_split = (fill(entry, 4),)
    assert not any(isinstance(one, ClosedBy) for one in news(evidence(p, fills=None, reported=before_a_split)))
    sold = (*before_a_split, fill(exit_side, 10, second=60))
    assert [type(one) for one in news(evidence(p, fills=None, reported=sold))] == [ClosedBy]


def test_what_one_order_closed_of_the_other_side_first_has_opened_nothing() -> None:
    short = replace(held(), side=Side.SHORT, opened_at=at(50))
    reported = (fill("buy", 15, second=0), fill("sell", 25, second=50))
    e = evidence(short, row(10, side="short"), fills=None, reported=reported)
    memory = Memory(unshown=at(0).timestamp())
    assert news(e, memory) == []
    more = evidence(short, row(10, side="short"), fills=None, reported=(*reported, fill("sell", 30, second=60)))
    assert [one.kind for one in news(more, memory) if isinstance(one, Raise)] == ["entry_not_shown"]


def test_what_was_bought_just_after_an_adoption_is_believed_where_executions_say_so() -> None:
    e = evidence(held(), row(15), fills=(fill("buy", 10), fill("buy", 5, second=60)))
    memory = Memory(changes=(weighing.Change(D(10), at(100).timestamp() + 1),))
    (resized,) = news(e, memory)
    assert isinstance(resized, Resized)
    assert resized.left == 15


def test_less_and_an_exit_that_nobody_knows_then_the_next_order_is_asked_for() -> None:
    sold = fill("sell", 4, second=50, client_order_id="xf1-" + "0" * 32 + "-1")
    e = evidence(held(), row(6), fills=(fill("buy", 10), sold), next_ids_known=False)
    assert weighing.weigh(e, Memory())[0] == (Needed("next_id"),)


def test_an_empty_list_without_executions_ends_nothing_before_the_next_order_was_asked_for() -> None:
    e, memory = evidence(held(), fills=None, next_ids_known=False), Memory()
    for second in range(0, 400, 20):
        begin = at(100 + second).timestamp()
        e = replace(e, read=Read(rows=(), begin=begin, end=begin + 1))
        said, memory = weighing.weigh(e, memory)
    assert said == (Needed("next_id"),)
    said, memory = weighing.weigh(replace(e, next_ids_known=True), memory)
    assert said == (ClosedBy("p", "vanished", D(10)),)
    assert memory.empty > BEFORE


# --- what an empty store finds ----------------------------------------------------------------------------------------


def test_a_stop_that_may_have_moved_before_is_said_to_begin_anew() -> None:
    policy = ExitPolicy(trailing_stop=TrailingStop(enabled=True, activation_pct=D(1), trail_pct=D(2)))
    p = held(policy=policy)
    assert "trailing_stop begins anew" in (holdings.stops_begin_anew(p, D(110)) or "")
    assert holdings.stops_begin_anew(p, D("100.5")) is None
    assert holdings.stops_begin_anew(p, None) is None
