"""Exits in parts: what a target sells, what ends a part, what widens it, and what never happens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given as any_of
from hypothesis import strategies as st

from exitfsm.audit.invariants import Invariants
from exitfsm.events import (
    AlarmRaised,
    Event,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    LegCompleted,
    LegWidened,
    OrderAccepted,
    OrderEnded,
    Recorded,
    StopMoved,
)
from exitfsm.lifecycle import LOOKUP, State
from exitfsm.messages import ForceExit, Message, PositionRead, RecordRead, Report, TimeSeen
from exitfsm.ports import AssetRules, Capabilities
from exitfsm.position import Position, decide, evolve, levels
from exitfsm.testing.given import (
    BROKER,
    after,
    bar,
    given,
    holds,
    like,
    opened,
    policy,
    reported,
    seen,
    to_open,
)
from exitfsm.values import ExecutionReport, ExitType, OrderStatus, Side

D = Decimal
HALVES = policy(targets=[{"at_pct": 2, "sell_pct": 50, "then": {"stop": 0}}, {"at_pct": 4, "sell_pct": 50}])
WHOLE = Capabilities(late_fills=False, stocks=AssetRules(qty_step=D(1), qty_min=D(1)))
monitoring = given(opened(policy=HALVES))
first = monitoring.when(seen(102))
sold = first.when(reported("new"), reported("filled", 5, 102))


def part(at_pct: object, sell_pct: object, **then: object) -> dict[str, Any]:
    return {"at_pct": at_pct, "sell_pct": sell_pct, **({"then": then} if then else {})}


def test_given_the_first_target_when_it_is_reached_then_its_part_is_sold_and_the_rest_is_kept() -> None:
    first.then(like(ExitTriggered, qty=D(5), keep_qty=D(5), leg="1", reason=ExitType.PROFIT_TAKE, level=D(102)))
    first.is_in("pending").has(remaining_qty=D(10))


def test_given_a_part_when_its_order_is_filled_then_the_rest_is_monitored_behind_the_stop_that_it_asks_for() -> None:
    sold.then(
        like(FillsRecorded, filled_qty=D(5)),
        like(LegCompleted, leg="1", filled_qty=D(5), remaining_qty=D(5), avg_fill_price=D(102)),
        like(StopMoved, rule=ExitType.BREAK_EVEN, stop=D(100)),
    )
    sold.is_in("monitoring").has(remaining_qty=D(5), reason=None, cooldown_until=None, order_live=False)
    target, stops = levels(sold.now, after(180))
    assert target is not None
    assert target.price == 104
    assert [stop.price for stop in stops] == [100, 99]
    sold.when(seen(104, at=180)).then(like(ExitTriggered, qty=D(5), attempt=2, leg="2"))


def test_given_a_price_beyond_several_targets_then_one_order_sells_all_of_their_parts() -> None:
    three = policy(targets=[part(1, 20), part(2, 30, stop=0), part(3, 20, stop=1)])
    s = given(opened(policy=three)).when(seen("102.5")).then(like(ExitTriggered, qty=D(5), leg="2", keep_qty=D(5)))
    s = s.when(reported("filled", 5, 102))
    s.then(like(OrderAccepted), like(FillsRecorded), like(LegCompleted, leg="2"), like(StopMoved, stop=D(100)))
    s = s.when(seen(103, at=180)).then(like(ExitTriggered, qty=D(2), keep_qty=D(3), leg="3"))
    s = s.when(reported("filled", 2, 103, at=181, attempt=2))
    s.then(like(OrderAccepted), like(FillsRecorded), like(LegCompleted, leg="3"), like(StopMoved, stop=D(101)))
    assert levels(s.now, after(240))[0] is None, "the rest has no target: it leaves by its stop"
    s.when(seen(110, at=240)).then()
    s.when(seen(101, at=240)).then(like(ExitTriggered, reason=ExitType.BREAK_EVEN, qty=D(3)))


def test_given_parts_that_come_to_all_then_the_last_one_sells_what_is_left() -> None:
    thirds = policy(targets=[part(1, "33.3"), part(2, "33.3"), part(3, "33.4")])
    s = given(opened(policy=thirds)).at(WHOLE).when(seen(101)).then(like(ExitTriggered, qty=D(3), keep_qty=D(7)))
    s = s.when(reported("filled", 3, 101), seen(103, at=180))
    s.then(like(ExitTriggered, qty=D(7), leg="3"))
    assert s.now.keep_qty == 0


def test_given_a_part_of_less_than_a_step_then_it_waits_for_the_next_target() -> None:
    s = given(opened(qty="1", policy=HALVES)).at(WHOLE).when(seen(102)).then().is_in("monitoring")
    s.when(seen(104, at=120)).then(like(ExitTriggered, qty=D(1), leg="2"))


def test_given_a_part_that_would_leave_less_than_the_venue_takes_then_everything_is_sold() -> None:
    rules = Capabilities(late_fills=False, stocks=AssetRules(qty_step=D(1), qty_min=D(3)))
    s = given(opened(policy=policy(targets=[part(2, 80)]))).at(rules).when(seen(102))
    s.then(like(ExitTriggered, qty=D(10)))
    assert s.now.keep_qty == 0


def test_given_a_purchase_before_the_first_part_then_it_counts_and_one_after_it_does_not() -> None:
    s = monitoring.when(holds(20), seen(102)).then(like(ExitTriggered, qty=D(10), keep_qty=D(10)))
    three = policy(targets=[part(1, 20), part(2, 20)])
    s = given(opened(policy=three)).when(seen(101), reported("filled", 2, 101), holds(20, at=90))
    s.has(remaining_qty=D(20)).when(seen(102, at=180)).then(like(ExitTriggered, qty=D(2), keep_qty=D(18)))


@pytest.mark.parametrize(
    "news", [seen(99, at=120), ForceExit(at=after(120), who="jo", reason="out")], ids=["stop", "operator"]
)
def test_given_a_part_under_way_when_all_is_to_be_sold_then_it_is_widened_and_the_rest_follows_its_record(
    news: Message,
) -> None:
    s = first.when(reported("new"), reported("partially_filled", 2, 102), news)
    reason = ExitType.EMERGENCY if isinstance(news, ForceExit) else ExitType.STOP_LOSS
    s.then(like(LegWidened, reason=reason)).is_in("partial").has(reason=reason, keep_qty=D(0))
    s.when(seen(98, at=180)).then()
    s = s.when(reported("filled", 5, 101, at=190)).then(
        like(FillsRecorded, filled_qty=D(5)), like(OrderEnded, how="filled", filled_qty=D(5))
    )
    s = s.is_in("rejected").when(holds(5, at=200))
    s.then(like(ExitRetried, qty=D(5), attempt=2, budget_spent=0))
    s.when(reported("filled", 5, 98, at=201), holds(0, at=202)).is_in("filled").has(sold_qty=D(10))


def test_given_a_time_rule_that_comes_due_without_a_bar_then_a_part_under_way_is_widened() -> None:
    timed = policy(targets=[part(2, 50)], time_limit={"max_seconds": 600})
    s = given(opened(policy=timed)).when(seen(102), reported("new"))
    s.when(TimeSeen(at=after(601), price=D(101))).then(like(LegWidened, reason=ExitType.TIME_LIMIT, price=D(101)))
    s.when(TimeSeen(at=after(601))).then()


def test_given_a_pause_then_a_part_under_way_goes_on_and_is_not_widened() -> None:
    s = first.when(reported("new"))
    s.when(seen(99, at=120, paused=True)).then()


def test_given_a_part_that_ends_short_then_the_next_order_is_for_the_rest_of_the_part_alone() -> None:
    s = first.when(reported("new"), reported("partially_filled", 2, 102), reported("expired", 2, at=70))
    s.is_in("rejected").has(keep_qty=D(5))
    s = s.when(holds(8, at=200)).then(like(ExitRetried, qty=D(3), attempt=2))
    s = s.when(reported("filled", 3, 102, at=201))
    s.then(
        like(OrderAccepted),
        like(FillsRecorded),
        like(LegCompleted, filled_qty=D(5), remaining_qty=D(5)),
        like(StopMoved),
    )


def test_given_others_sell_so_much_that_only_what_is_kept_is_left_then_the_part_is_over() -> None:
    s = first.when(reported("new"), reported("partially_filled", 2, 102), reported("expired", 2, at=70))
    s.when(holds(4, at=200, reads=2)).then()
    s = s.when(holds(4, at=200)).then(like(LegCompleted, filled_qty=D(2), remaining_qty=D(4)), like(StopMoved))
    s.is_in("monitoring").has(remaining_qty=D(4), sold_elsewhere=D(4))
    s.when(holds(4, at=210)).then()


def test_given_a_spent_budget_then_protection_is_lost_and_the_part_is_not_begun_again() -> None:
    s = first
    for attempt in range(1, 5):
        s = s.when(reported("rejected", 0, refusal=f"r{attempt}", attempt=attempt, at=70 + 100 * attempt))
        s = s.when(holds(10, at=150 + 100 * attempt))
    s.then(like(type(s.news[0])), like(AlarmRaised)).is_in("unprotected").has(keep_qty=D(0))
    assert s.now.parts.done == 1


def test_given_an_operator_who_wants_a_part_then_it_is_sold_and_the_rest_is_monitored() -> None:
    wish = ForceExit(at=after(90), who="jo", reason="half", at_most=D("2.5"))
    s = given(opened(policy=policy())).when(wish)
    s.then(like(ExitTriggered, reason=ExitType.EMERGENCY, qty=D("2.5"), keep_qty=D("7.5"), leg="by hand"))
    s = s.when(reported("filled", "2.5", 101, at=95)).is_in("monitoring").has(remaining_qty=D("7.5"))
    s.when(seen(99, at=120)).then(like(ExitTriggered, qty=D("7.5"), attempt=2))
    given(opened()).at(WHOLE).when(ForceExit(at=after(90), at_most=D("0.5"))).then(like(AlarmRaised, kind="not_done"))


def test_given_a_short_position_then_everything_is_mirrored() -> None:
    s = given(opened(Side.SHORT, policy=HALVES)).when(seen(98), reported("filled", 5, 98))
    s.is_in("monitoring").has(remaining_qty=D(5), break_even_stop=D(100))
    s.when(seen(96, at=180)).then(like(ExitTriggered, qty=D(5), level=D(96)))


# --- whatever happens -------------------------------------------------------------------------------------------------

POLICIES = (
    HALVES,
    policy(targets=[part(1, 30, stop="-0.5"), part(2, 30, stop=0), part(3, 40)]),
    policy(targets=[part(1, 25), part(2, 25, stop=1)], trailing_stop={"activation_pct": 1, "trail_pct": 1}),
)


def _messages(rng: random.Random, p: Position, at: float) -> Message:
    """Something that a market, a broker or a person may do now; what the broker says is true."""
    order = p.order
    choice = rng.random()
    if choice < 0.35 or not p.orders:
        if choice < 0.03:
            return ForceExit(at=after(at), at_most=D(rng.randint(1, 12)) if rng.random() < 0.7 else None)
        return seen(bar(D(rng.randint(970, 1050)) / 10, at), at=at)
    if order.live and choice < 0.8:
        filled = min(order.filled_qty + rng.randint(0, 4), order.qty)
        word = "filled" if filled == order.qty else rng.choice(["new", "partially_filled", "canceled", "expired"])
        status = OrderStatus(word) if word != "new" or not filled else OrderStatus.PARTIALLY_FILLED
        report = ExecutionReport(
            client_order_id=order.client_order_id, status=status, at=after(at), filled_qty=filled,
            avg_fill_price=D(101) if filled else None,
        )  # fmt: skip
        return Report(at=after(at), report=report)
    return PositionRead(
        at=after(at), began=after(at), qty=p.remaining_qty, reads=3,
        record=RecordRead(
            client_order_id=order.client_order_id, began=after(at),
            report=ExecutionReport(
                client_order_id=order.client_order_id, status=OrderStatus.CANCELED, at=after(at),
                filled_qty=order.filled_qty,
            ),
        ) if order.ended_how not in ("", "filled") else None,
    )  # fmt: skip


def _walk(seed: int) -> Iterator[tuple[Position | None, Event, Position]]:
    rng = random.Random(seed)
    broker = rng.choice([BROKER, WHOLE])
    start = to_open(opened(rng.choice(list(Side)), policy=rng.choice(POLICIES), qty=str(rng.randint(1, 12))))
    p, at = None, 0.0
    message: Message = start
    for _ in range(60):
        for event in decide(p, message, broker):
            before, p = p, evolve(p, event)
            yield before, event, p
        assert p is not None
        if p.state.terminal:
            return
        at += rng.choice([1, 30, 61])
        message = _messages(rng, p, at)


@any_of(st.integers(0, 2**32))
def test_given_anything_that_can_happen_then_no_more_is_sold_than_held_and_no_part_is_sold_twice(seed: int) -> None:
    invariants, done = Invariants(), 0
    for version, (before, event, after_it) in enumerate(_walk(seed), 1):
        assert (before.state if before else None, type(event)) in LOOKUP
        recorded = Recorded(
            stream_id=after_it.position_id, version=version, at_ns=0, by="broker", event=event, sequence=version
        )
        assert invariants.check(before, recorded, after_it) == []
        assert after_it.sold_qty + max(after_it.leaves_qty if after_it.order_live else D(0), D(0)) <= after_it.qty
        assert after_it.parts.done >= done, "a target that was sold stays sold"
        done = after_it.parts.done
        if isinstance(event, LegCompleted):
            assert after_it.state is State.MONITORING
            assert after_it.remaining_qty == event.remaining_qty > 0
            assert not after_it.live_orders
            assert (after_it.reason, after_it.keep_qty, after_it.exit.budget_spent) == (None, 0, 0)
        if after_it.state is State.MONITORING:
            assert after_it.keep_qty == 0


def test_the_walks_meet_parts_of_every_kind() -> None:
    met: dict[object, int] = {}
    for seed in range(300):
        for _, event, _ in _walk(seed):
            kind: object = (type(event).__name__, getattr(event, "leg", ""))
            met[kind] = met.get(kind, 0) + 1
    for kind in (("LegCompleted", "1"), ("LegCompleted", "2"), ("LegCompleted", "by hand"), ("LegWidened", "")):
        assert met.get(kind, 0) > 2, met


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("number", range(6))
def test_given_seeded_bars_then_an_independent_calculation_sells_the_same_parts(side: Side, number: int) -> None:
    from parts_reference import bars_of, reference, simulated

    for seed in range(number * 40, number * 40 + 40):
        settings, bars = bars_of(seed)
        assert simulated(settings, bars, side) == reference(settings, bars, side), seed


def test_the_seeded_bars_meet_each_end() -> None:
    from parts_reference import bars_of, reference

    ends = {(reason, number) for seed in range(240) for _, reason, number, *_ in reference(*bars_of(seed), Side.LONG)}
    assert {("profit_take", 1), ("profit_take", 2), ("stop_loss", None), ("break_even", None)} <= ends


def test_a_part_starts_no_cooldown_and_the_end_does() -> None:
    assert sold.now.cooldown_until is None
    s = sold.when(seen(104, at=180), reported("filled", 5, 104, at=181, attempt=2), holds(0, at=182))
    assert s.is_in("filled").now.cooldown_until == after(181) + timedelta(seconds=300)
