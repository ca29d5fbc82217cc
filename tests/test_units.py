"""A change of the unit under a position: every figure is restated, and an intent that it overtakes is taken back."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from msgspec import structs

from exitfsm.events import ExitTriggered, ExitWithdrawn, PositionOpened, UnitChanged
from exitfsm.messages import Rescale, Withdraw
from exitfsm.position import decide, evolve, fold, levels
from exitfsm.testing.given import Scenario, after, given, holds, like, opened, policy, reported, seen, timer, to_open
from exitfsm.values import significant

D = Decimal
TRAILING = policy(trailing_stop={"trail_pct": 3}, break_even={"activation_pct": 1}, profit_taking={"enabled": False})
monitoring = given().when(to_open(opened(policy=TRAILING, atr=D("2.5"))), seen(110, at=60), seen(112, at=120))
pending = given().when(to_open(opened()), seen(99))


def ten_for_one(**fields: object) -> Rescale:
    told = {"at": after(200), "factor": D(10), "qty": D(100), "entry_price": D(10), **fields}
    return Rescale(**told)  # type: ignore[arg-type]


def test_every_level_keeps_its_distance() -> None:
    before = monitoring.now

    after_it = monitoring.when(ten_for_one()).then(like(UnitChanged, factor=D(10))).now

    assert (after_it.qty, after_it.remaining_qty, after_it.entry_price, after_it.atr) == (100, 100, 10, D("0.25"))
    assert before.stops.trail is not None
    assert after_it.stops.trail == before.stops.trail / 10
    assert after_it.stops.best_price == D("11.2")
    _, old = levels(before, after(200))
    _, new = levels(after_it, after(200))
    assert [(level.rule, level.price) for level in new] == [(level.rule, level.price / 10) for level in old]


@drawn(st.integers(2, 97), st.booleans())
def test_a_factor_that_does_not_divide_evenly_keeps_twelve_digits(factor: int, reverse: bool) -> None:
    by = D(1) / factor if reverse else D(factor)
    p = evolve(monitoring.now, UnitChanged(factor=by, qty=D(10) * factor, entry_price=D(100) / factor, at=after(200)))
    best = monitoring.now.stops.best_price
    assert best is not None
    assert p.stops.best_price is not None
    assert p.stops.best_price == significant(best / by)
    assert abs(p.stops.best_price * by / best - 1) < D("1e-11")


def test_what_was_sold_before_stays_sold() -> None:
    rejected = pending.when(reported("new"), reported("expired", 4))

    p = rejected.when(ten_for_one(qty=D(60))).then(UnitChanged).now

    assert (p.remaining_qty, p.sold_qty) == (60, 4)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (monitoring, ten_for_one(factor=D(1))),
        (monitoring, ten_for_one(qty=D(0))),
        (monitoring, ten_for_one(entry_price=D("NaN"))),
        (monitoring, ten_for_one(known=("monitoring", D(7), None))),
        (pending, ten_for_one()),
        (pending.when(reported("new")), ten_for_one()),
    ],
)
def test_what_proves_nothing_or_comes_while_an_order_works_changes_nothing(before: Scenario, message: Rescale) -> None:
    before.when(message).then()


def test_an_intent_that_never_left_is_taken_back_and_its_number_is_free() -> None:
    first = pending.now.client_order_id
    withdrawn = pending.when(Withdraw(at=after(90), client_order_id=first or "", why="a split"))

    withdrawn.then(ExitWithdrawn).is_in("monitoring")
    assert (withdrawn.now.orders, withdrawn.now.reason) == ((), None)
    withdrawn.when(seen(98, at=240)).then(like(ExitTriggered, client_order_id=first, attempt=1)).is_in("pending")


@pytest.mark.parametrize(
    "before",
    [
        pending.when(reported("new")),
        pending.when(reported("new"), reported("expired", 4), timer(200), holds(6, at=200)),
        monitoring,
    ],
)
def test_what_may_have_left_or_is_no_first_order_is_not_taken_back(before: Scenario) -> None:
    before.when(Withdraw(at=after(300), client_order_id=before.now.client_order_id or "", why="a split")).then()


def test_folding_on_from_a_position_leaves_it_as_it_was() -> None:
    base = pending.when(reported("new"), reported("expired", 4), timer(200), holds(6, at=200)).now
    kept = base.orders
    withdrawn = ExitWithdrawn(client_order_id=base.client_order_id or "", at=after(300), why="a split")
    late = reported("expired", 5, attempt=1, at=301)
    events = [withdrawn, *(e for e in pending.when(reported("new"), reported("expired", 4)).when(late).news)]

    one_by_one = base
    for event in events:
        one_by_one = evolve(one_by_one, event)

    assert fold(base, events) == one_by_one
    assert base.orders is kept
    assert kept[0].filled_qty == 4


@pytest.mark.parametrize("atr", [float("nan"), D("NaN"), 0, float("inf"), None])
def test_an_average_true_range_that_is_none_leaves_the_fixed_stop(atr: object) -> None:
    asked = to_open(opened())
    opened_with = decide(None, structs.replace(asked, atr=atr))
    assert [e.atr for e in opened_with if isinstance(e, PositionOpened)] == [None]


def test_an_average_true_range_may_be_a_float() -> None:
    (first,) = decide(None, structs.replace(to_open(opened()), atr=1.25))
    assert isinstance(first, PositionOpened)
    assert first.atr == D("1.25")
