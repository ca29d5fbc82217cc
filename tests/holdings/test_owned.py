"""What certain orders bought, by the executions alone: where the ledger begins, and how much may leave at most."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import T0, at, fill, row
from msgspec.structs import replace

from exitfsm import holdings, scope
from exitfsm.holdings import watching
from exitfsm.holdings.facts import (
    Adopted,
    ClosedBy,
    Evidence,
    Failed,
    Instrument,
    Key,
    Memory,
    Needed,
    Placed,
    Raise,
    Read,
    Resized,
    Scope,
    Watched,
)
from exitfsm.holdings.weighing import weigh
from exitfsm.order_ids import client_order_id
from exitfsm.position import scope_mark
from exitfsm.values import Fill, Side

MARK, OTHER = scope_mark("ids:A-"), scope_mark("ids:B-")
BY_A = Scope(ids=("A-",), mark=MARK)
NAME = f"AAPL:long:20240102T143000Z:0123456789ab-{MARK}"
OURS, THEIRS = client_order_id(NAME, 1), client_order_id(NAME.replace(MARK, OTHER), 1)
EXACT = Instrument(lag_s=0, executions_late_s=0, gap_s=0)
Traded = tuple[str, int, str]


def listed(*traded: Traded) -> tuple[Fill, ...]:
    return tuple(
        replace(fill(side, qty, second=n, client_order_id=name), fill_id=f"f{n}")
        for n, (side, qty, name) in enumerate(traded)
    )


def shown(qty: int, *traded: Traded, watched: tuple[Watched, ...] = (), second: float = 100.0, **more: Any) -> Evidence:
    begin = at(second).timestamp()
    side = Side.LONG if qty >= 0 else Side.SHORT
    rows = (replace(row(abs(qty)), side=side),) if qty else (replace(row(1), symbol="MSFT"),)
    given_: dict[str, Any] = {
        "key": Key(None, "AAPL"), "instrument": EXACT, "read": Read(rows=rows, begin=begin, end=begin),
        "scope": BY_A, "watched": watched, "executions": listed(*traded),
    }  # fmt: skip
    return Evidence(**(given_ | more))


def ours(left: int, sold: int = 0, name: str = NAME, order_id: str = OURS) -> Watched:
    orders = (Placed(order_id=order_id, qty=Decimal(sold), cum=Decimal(sold), sent=0.0, dead=True),) if sold else ()
    qty = Decimal(left + sold)
    return Watched(name=name, side=Side.LONG, qty=qty, entry=Decimal(100), opened=T0.timestamp(), orders=orders)


# --- the walk from nothing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "traded", "share"),
    [
        (100, [("buy", 90, "web-1"), ("buy", 10, "A-1")], 10),
        (96, [("buy", 90, "web-1"), ("buy", 10, "A-1"), ("sell", 4, OURS)], 6),
        (90, [("buy", 90, "web-1"), ("buy", 10, "A-1"), ("sell", 10, OURS)], 0),
        (80, [("buy", 90, "web-1"), ("buy", 10, "A-1"), ("sell", 20, OURS)], 0),  # it opens nothing
        (90, [("buy", 90, "web-1"), ("buy", 10, "A-1"), ("sell", 10, THEIRS)], 10),
        (50, [("buy", 10, "A-1"), ("sell", 10, "web-1"), ("buy", 50, "web-2")], 0),  # the account was flat in between
        (6, [("buy", 10, "A-1"), ("sell", 4, "web-1")], 6),
        (-10, [("sell", 10, "A-1")], -10),
        (90, [("buy", 90, "web-1"), ("sell", 5, OURS)], 0),  # what it closed was bought before the list begins
        (100, [], 0),
    ],
)
def test_what_is_ours_is_what_our_ids_bought_and_no_exit_of_ours_sold(
    held: int, traded: list[Traded], share: int
) -> None:
    assert scope.owned(shown(held, *traded)).qty == share
    shows = replace(row(abs(held)), side=Side.LONG if held > 0 else Side.SHORT)
    assert scope.bought_of(shows, listed(*traded), BY_A) == share
    assert scope.bought_of(shows, listed(*traded), Scope()) is None


def test_what_is_not_shown_or_not_listed_is_nobodys() -> None:
    unread = Failed(begin=0.0, end=0.0)
    assert scope.owned(shown(10, ("buy", 10, "A-1"), read=unread)).qty == 0
    assert scope.owned(shown(10, executions=None)).qty == 0
    both = Read(rows=(row(10), replace(row(10), side=Side.SHORT)), begin=0.0, end=0.0)
    assert scope.owned(shown(10, ("buy", 10, "A-1"), read=both)).qty == 0


STEPS = st.lists(st.tuples(st.sampled_from(["A", "B", "hand", "exit A", "exit B"]), st.integers(-20, 20)), max_size=30)


@given(STEPS)
def test_of_two_bots_and_a_hand_each_walk_finds_its_own(steps: list[tuple[str, int]]) -> None:
    """Each sells no more than is its own: then what a walk finds is that, to the share."""
    has, traded = {"A": 0, "B": 0, "hand": 0}, list[Traded]()
    for n, (who, wanted) in enumerate(steps):
        owner = who[-1] if who.startswith("exit") else who
        qty = max(wanted, -has[owner]) if not who.startswith("exit") else -min(abs(wanted), has[owner])
        if qty:
            has[owner] += qty
            order_id = {"A": f"A-{n}", "B": f"B-{n}", "hand": f"web-{n}", "exit A": OURS, "exit B": THEIRS}[who]
            traded.append(("buy" if qty > 0 else "sell", abs(qty), order_id))
    held = sum(has.values())
    for ids, mark in (("A-", MARK), ("B-", OTHER)):
        e = shown(held, *traded, scope=Scope(ids=(ids,), mark=mark))
        assert scope.owned(e).qty == has[ids[0]]


@given(STEPS, st.integers(0, 40), st.integers(0, 40))
def test_no_more_may_leave_than_is_left_whatever_is_listed(steps: list[tuple[str, int]], left: int, held: int) -> None:
    names = {"A": "A-1", "B": "B-1", "hand": "web-1", "exit A": OURS, "exit B": THEIRS}
    traded = [("buy" if qty > 0 else "sell", abs(qty) or 1, names[who]) for who, qty in steps]
    e = shown(held, *traded, watched=(ours(left),) if left else ())
    assert 0 <= scope.at_most(e) <= left if left else scope.at_most(replace(e, watched=(ours(0),))) == 0


# --- what is watched --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("watched", "traded", "held", "most"),
    [
        (ours(10), [("buy", 10, "A-1")], 100, 10),
        (ours(10), [("buy", 10, "A-1"), ("sell", 4, "A-2")], 96, 6),
        (ours(6), [("buy", 10, "A-1"), ("sell", 4, "A-2")], 96, 6),  # it is known already
        (ours(10), [("buy", 10, "A-1"), ("buy", 5, "A-2")], 105, 10),  # what is bought on is the next one's
        (ours(6, sold=4), [("buy", 10, "A-1"), ("sell", 4, OURS)], 96, 6),
        (ours(6, sold=4), [("buy", 10, "A-1")], 96, 6),  # our own sale is not listed yet
        (ours(10), [("buy", 10, "A-1"), ("sell", 4, client_order_id(NAME, 2))], 96, 6),  # another machine's
        (ours(10), [("buy", 10, "A-1"), ("sell", 4, THEIRS)], 96, 10),
        (ours(10), [], 100, 10),  # the executions do not reach back: nothing is concluded from them
        (ours(10, name="AAPL:long:e:0123456789ab"), [("buy", 3, "A-1")], 100, 3),  # of another scope: ours is 3 of it
        (ours(10, name="AAPL:long:e:0123456789ab"), [], 100, 0),
    ],
)
def test_how_much_may_leave_at_most(watched: Watched, traded: list[Traded], held: int, most: int) -> None:
    assert scope.at_most(shown(held, *traded, watched=(watched,))) == most


def test_a_short_is_counted_like_a_long() -> None:
    short = replace(ours(10), side=Side.SHORT)
    e = shown(-96, ("sell", 10, "A-1"), ("buy", 4, "A-2"), watched=(short,))
    assert scope.at_most(e) == 6
    assert scope.accounted(replace(e, read=shown(-100).read, executions=e.executions[:1])) is not None  # type: ignore[index]


def begun(e: Evidence, since: float = 0.0) -> tuple[list[str], set[str]] | None:
    answer = scope.begin(e, Memory(), at(since).timestamp())
    if answer is None:
        return None
    return [type(one).__name__ for one in answer[0]], set(answer[1].booked)


def test_what_led_to_what_is_watched_is_accounted_for_and_what_came_after_is_not() -> None:
    e = shown(107, ("buy", 90, "web-1"), ("buy", 10, "A-1"), ("buy", 7, "A-2"), watched=(ours(10),))
    assert begun(e) == ([], {"f0", "f1"})
    said, _ = weigh(e, scope.begin(e, Memory(foreign=Decimal(90)), 0.0)[1])  # type: ignore[index]
    assert [one.left for one in said if isinstance(one, Resized)] == [17]


def test_what_led_to_it_is_waited_for_and_then_it_is_an_alarm() -> None:
    e = shown(100, ("buy", 4, "A-1"), watched=(ours(10),))
    assert begun(e, since=95) is None
    assert begun(e, since=80) == (["Raise"], {"f0"})
    assert begun(replace(e, executions=Failed(begin=0.0, end=0.0)), since=0) is None
    assert begun(replace(e, read=Failed(begin=0.0, end=0.0)), since=0) is None


def test_of_what_was_watched_in_another_scope_no_more_stays_than_our_ids_bought() -> None:
    old = ours(10, name="AAPL:long:e:0123456789ab")
    older = replace(old, name="AAPL:long:d:0123456789ab", qty=Decimal(5))
    e = shown(100, ("buy", 4, "A-1"), watched=(older, old))
    said, _ = scope.begin(e, Memory(), at(0).timestamp()) or ((), None)
    assert [(type(one), getattr(one, "position", "")) for one in said] == [
        (Raise, ""), (ClosedBy, older.name), (Resized, old.name),
    ]  # fmt: skip
    (resized,) = [one for one in said if isinstance(one, Resized)]
    assert (resized.left, resized.external) == (4, 6)
    whole = shown(100, ("buy", 15, "A-1"), watched=(older, old))
    assert begun(whole) == ([], {"f0"})
    less = shown(100, ("buy", 12, "A-1"), watched=(older, old))
    said, _ = scope.begin(less, Memory(), at(0).timestamp()) or ((), None)
    assert [(one.position, one.left) for one in said if isinstance(one, Resized)] == [(older.name, 2)]


# --- what nobody watches ----------------------------------------------------------------------------------------------


def adopted(e: Evidence, memory: Memory | None = None) -> list[Decimal]:
    said, _ = scope.weigh_new(e, memory or Memory())
    return [one.qty for one in said if isinstance(one, Adopted)]


def test_a_purchase_of_our_ids_is_adopted_at_once_for_so_much() -> None:
    assert adopted(shown(100, ("buy", 90, "web-1"), ("buy", 10, "A-1")), Memory(booked=frozenset({"f0"}))) == [10]
    assert scope.weigh_new(shown(90, ("buy", 90, "web-1")), Memory()) == ((), Memory())


def test_what_an_exit_of_ours_has_sold_is_never_adopted_again() -> None:
    e = shown(95, ("buy", 90, "web-1"), ("buy", 10, "A-1"), ("sell", 10, OURS), ("buy", 5, "A-2"))
    assert all(qty <= 5 for qty in adopted(e, Memory(booked=frozenset({"f0"}))))
    gone = shown(90, ("buy", 90, "web-1"), ("buy", 10, "A-1"), ("sell", 10, OURS))
    assert adopted(gone, Memory(booked=frozenset({"f0"}))) == []


def test_what_others_hold_against_it_is_an_alarm() -> None:
    e = shown(-30, ("buy", 10, "A-1"), ("sell", 40, "web-1"))
    said, _ = scope.weigh_new(e, Memory())
    assert [one.kind for one in said if isinstance(one, Raise)] == ["scope_netted"]


def test_at_a_start_what_was_bought_before_waits_until_its_sale_would_be_listed() -> None:
    late = replace(EXACT, lag_s=10.0, executions_late_s=30.0)
    traded: list[Traded] = [("buy", 90, "web-1"), ("buy", 10, "A-1")]
    assert begun(shown(100, *traded, instrument=late), since=90) is None
    assert begun(shown(100, *traded, instrument=late), since=50) == ([], {"f0"})
    assert begun(shown(100, *traded, second=1.5, instrument=late), since=0.5) == ([], {"f0"})  # bought since the start
    assert begun(shown(90, ("buy", 90, "web-1")), since=100) == ([], {"f0"})


def test_what_an_exit_that_is_on_no_record_sold_a_part_of_is_an_alarm() -> None:
    e = shown(96, ("buy", 90, "web-1"), ("buy", 10, "A-1"), ("sell", 4, OURS))
    assert begun(e, since=50) == (["Raise"], {"f0", "f1", "f2"})
    assert adopted(e, Memory(booked=frozenset({"f0", "f1", "f2"}))) == []


@pytest.mark.parametrize("kind", ["scope_netted", "entry_not_shown", "scope_unknown", "unpriceable"])
def test_what_is_said_of_what_nobody_watches_names_it_and_what_is_shown(kind: str) -> None:
    text = scope.text_of_new(Raise(kind, {"symbol": "AAPL", "shown": "96", "expected": "0"}))
    assert "AAPL" in text
    assert "96" in text


# --- the ledger, where another machine has sold -----------------------------------------------------------------------


def test_an_exit_of_ours_that_is_on_no_record_is_asked_for_and_then_counts_as_a_sale() -> None:
    e = shown(96, ("buy", 90, "web-1"), ("buy", 10, "A-1"), ("sell", 4, client_order_id(NAME, 2)), watched=(ours(10),))
    memory = Memory(booked=frozenset({"f0", "f1"}), foreign=Decimal(90))
    assert Needed("next_id") in weigh(e, memory)[0]
    said, after = weigh(replace(e, next_ids_known=True), memory)
    assert [one.left for one in said if isinstance(one, Resized)] == [6]
    again, _ = weigh(replace(e, next_ids_known=True, watched=(ours(6),)), after)
    assert not [one for one in again if isinstance(one, Resized)]


# --- executions that cannot be read -----------------------------------------------------------------------------------


def test_executions_that_cannot_be_read_are_no_silence() -> None:
    """Less is shown, and equal reads are a second witness where none is listed: here they are not, for minutes."""
    e = shown(6, watched=(ours(10),), scope=Scope(), executions=Failed(begin=0.0, end=0.0), next_ids_known=True)
    memory, kinds, resized = Memory(), list[str](), list[float]()
    for second in range(100, 240, 4):
        begin = at(second).timestamp()
        said, memory = weigh(replace(e, read=Read(rows=(row(6),), begin=begin, end=begin)), memory)
        kinds += [one.kind for one in said if isinstance(one, Raise)]
        resized += [second for one in said if isinstance(one, Resized)]
    assert kinds == ["unexplained_quantity"]
    assert resized[:1] == [220]


def test_nor_does_what_is_as_expected_say_more() -> None:
    e = shown(10, watched=(ours(10),), scope=Scope(), executions=Failed(begin=0.0, end=0.0))
    assert weigh(e, Memory())[0] == (Needed("executions"),)


def test_by_ids_nothing_is_concluded_without_executions() -> None:
    e = shown(96, watched=(ours(10),), executions=Failed(begin=0.0, end=0.0))
    memory, kinds = Memory(), list[str]()
    for second in range(100, 500, 4):
        begin = at(second).timestamp()
        said, memory = weigh(replace(e, read=Read(rows=(row(96),), begin=begin, end=begin)), memory)
        kinds += [one.kind for one in said if isinstance(one, Raise)]
        assert not [one for one in said if not isinstance(one, Raise | Needed)]
    assert kinds == ["scope_unknown"]


# --- rows of a part ---------------------------------------------------------------------------------------------------


def test_of_a_part_it_is_still_held_while_the_account_holds_so_much() -> None:
    part = holdings.Read(rows=(row(10),), whole=(row(100),))
    assert holdings.still_held(part, row(10))
    assert holdings.still_held(part, row(100))
    assert not holdings.still_held(part, row(101))
    assert not holdings.still_held(part, replace(row(10), side=Side.SHORT))
    assert part.of_all().rows == (row(100),)
    assert holdings.Read(rows=(row(10),)).of_all().rows == (row(10),)


def test_by_ids_executions_are_asked_for_whatever_a_read_shows() -> None:
    e = shown(10, watched=(ours(10),))
    assert watching.is_news(e)
    assert not watching.is_news(replace(e, scope=Scope()))


@pytest.mark.parametrize("kind", ["scope_netted", "scope_unknown"])
def test_what_is_said_of_what_is_watched_names_both_figures(kind: str) -> None:
    text = watching.text_of(Raise(kind, {"symbol": "AAPL", "shown": "96", "expected": "10"}))
    assert text.startswith("AAPL is shown with 96, and 10 is watched: ")
    assert kind in watching.RAISED_HERE


def test_is_in_scope() -> None:
    bought, by_hand, sold = listed(("buy", 1, "A-1"), ("buy", 1, "web-1"), ("sell", 1, OURS))
    assert [scope.is_in_scope(one, BY_A) for one in (bought, by_hand, sold)] == [True, False, True]
    assert scope.is_in_scope(by_hand, Scope())
    assert scope.is_nameless([replace(bought, client_order_id=None)])
    assert not scope.is_nameless([])
    assert not scope.is_nameless([bought, by_hand])


# --- the account is a cap ---------------------------------------------------------------------------------------------


def weighed(e: Evidence, memory: Memory, *, until: int) -> tuple[list[Any], Memory]:
    """What is said of the same read, begun every ten seconds until then, without what is asked for."""
    heard, second = list[Any](), 100
    while second <= until:
        begin = at(second).timestamp()
        assert isinstance(e.read, Read)
        said, memory = weigh(replace(e, read=replace(e.read, begin=begin, end=begin)), memory)
        heard += [one for one in said if not isinstance(one, Needed)]
        if any(isinstance(one, ClosedBy | Resized) for one in said):
            break
        second += 10
    return heard, memory


SETTLED = Memory(booked=frozenset({"f0"}), foreign=Decimal(0))


def test_less_than_ours_that_no_execution_explains_counts_once_it_is_shown_often_and_long_enough() -> None:
    e = shown(6, ("buy", 10, "A-1"), watched=(ours(10),), instrument=replace(EXACT, lag_s=20.0))
    assert weighed(e, SETTLED, until=110)[0] == []
    (resized,), _ = weighed(e, SETTLED, until=400)
    assert resized == Resized(position=NAME, left=Decimal(6), entry=Decimal(100), why="external", external=Decimal(4))


def test_of_several_it_is_missing_of_the_oldest() -> None:
    older = ours(10, name=NAME.replace("T14", "T13"))
    said, _ = weighed(shown(4, ("buy", 20, "A-1"), watched=(older, ours(10))), SETTLED, until=400)
    assert [(type(one), one.position) for one in said] == [(ClosedBy, older.name), (Resized, NAME)]
    assert (said[0].how, said[1].left) == ("external", 4)


def test_it_does_not_count_while_an_order_of_ours_has_no_final_record() -> None:
    order = Placed(order_id=OURS, qty=Decimal(10), cum=Decimal(2), sent=0.0, ended=at(90).timestamp())
    p = replace(ours(10), orders=(order,))
    assert weighed(shown(6, ("buy", 10, "A-1"), watched=(p,)), SETTLED, until=900)[0] == []


def test_what_others_hold_against_ours_is_an_alarm_and_closes_nothing() -> None:
    said, _ = weighed(shown(-5, ("buy", 10, "A-1"), watched=(ours(10),)), SETTLED, until=400)
    assert [one.kind for one in said] == ["scope_netted"]


def test_a_name_that_is_over_is_not_watched_again() -> None:
    e = shown(10, ("buy", 10, "A-1"))
    said, _ = weigh(e, Memory())
    (adopted,) = [one for one in said if isinstance(one, Adopted)]
    said, memory = weigh(e, Memory(ended=frozenset({adopted.name})))
    assert [type(one) for one in said] == [Raise]
    assert said[0] == Raise("epoch_unknown", {"symbol": "AAPL", "shown": "10", "expected": "0", "reads": "1",
                                              "executions": "10 by A-1"})  # fmt: skip
    assert memory.changes == ()


def test_what_the_walk_says_is_ours_is_to_be_watched_and_not_for_ever_unwatched() -> None:
    read = Read(rows=(row(10),), begin=100.0, end=100.0)
    bought = Evidence(
        key=Key(None, "AAPL"), instrument=EXACT, read=read, scope=BY_A, executions=listed(("buy", 10, "A-1"))
    )
    assert scope.is_ours_to_watch(bought)
    assert not scope.is_ours_to_watch(replace(bought, executions=listed(("buy", 10, "by-hand"))))
    assert not scope.is_ours_to_watch(replace(bought, instrument=replace(EXACT, step=Decimal(100))))
    assert scope.lasts_unwatched(bought, since=39.9)
    assert not scope.lasts_unwatched(bought, since=40.0)


def test_a_purchase_without_a_price_is_watched_by_the_accounts_average_or_not_at_all() -> None:
    bought = (replace(fill("buy", 10, second=0, client_order_id="A-1"), price=Decimal(0)),)
    read = Read(rows=(replace(row(10), avg_entry_price=Decimal(0)),), begin=100.0, end=100.0)
    e = Evidence(key=Key(None, "AAPL"), instrument=EXACT, read=read, scope=BY_A, executions=bought)
    said = [weigh(e, Memory())[0]]
    assert not [one for one in said[0] if isinstance(one, Adopted)]
    assert [one.kind for one in said[0] if isinstance(one, Raise)] == ["unpriceable"]
    priced = replace(e, read=Read(rows=(replace(row(10), avg_entry_price=Decimal(101)),), begin=100.0, end=100.0))
    assert [one.entry for one in weigh(priced, Memory())[0] if isinstance(one, Adopted)] == [Decimal(101)]


def test_what_is_not_listed_is_missing_for_good_after_five_minutes() -> None:
    assert holdings.is_missing_for_good(0.0, 300.0)
    assert not holdings.is_missing_for_good(0.0, 299.9)
