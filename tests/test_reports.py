"""What a report is, and that there is an answer to each: stages, kinds, the table, and when an order is over."""

from __future__ import annotations

from decimal import Decimal
from itertools import product

import pytest

from exitfsm.events import (
    AlarmRaised,
    CancelRequested,
    ExitRetried,
    FillsRecorded,
    OrderAccepted,
    OrderEnded,
    PositionClosedElsewhere,
    PositionReleased,
    ProtectionLost,
)
from exitfsm.messages import Contradiction, ForceExit, RecordRead, Recover, Release
from exitfsm.position import is_over, is_proved_over
from exitfsm.position.alarming import lost
from exitfsm.position.reporting import TABLE, cancel_refused, late_of_earlier, nothing, postponed
from exitfsm.position.reports import Kind, News, Stage, kind_of, news_of
from exitfsm.testing.given import (
    BROKER,
    Scenario,
    after,
    given,
    holds,
    like,
    opened,
    order_id,
    policy,
    refused,
    reported,
    seen,
    timer,
    triggered,
)
from exitfsm.values import ExecutionReport, OrderStatus, TimeInForce

pending = given(opened(), triggered())
submitted = pending.when(reported("new"))
partial = submitted.when(reported("partially_filled", 4, 99))
resting = given(
    opened(policy=policy(profit_taking={"order_type": "limit"})), triggered(reason="profit_take", limit=102)
).when(reported("new"))
canceling = resting.when(reported("partially_filled", 4, 102), timer(200))
expired = partial.when(reported("expired", 4))
turned_down = pending.when(refused())
unprotected = submitted.when(Contradiction(at=after(90), why="it cannot be"))
second = turned_down.when(holds(10, at=200), reported("new", attempt=2, at=201))

GTC = policy(stop_loss={"time_in_force": "gtc"})
NONE_LEFT = {"leaves_qty": Decimal(0)}


def news(s: Scenario, status: str, filled: object = None, price: object = None, **fields: object) -> News:
    """A report beside what is known."""
    message = reported(status, filled, price, **fields)(s.now)  # type: ignore[arg-type]
    found = news_of(s.now, message.report, message.at, BROKER)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("s", "attempt", "stage"),
    [
        (pending, 1, Stage.PENDING),
        (submitted, 1, Stage.WORKING),
        (partial, 1, Stage.WORKING),
        (canceling, 1, Stage.CANCELING),
        (expired, 1, Stage.OVER),
        (partial.when(reported("filled", 10, 99)), 1, Stage.OVER),
        (partial.when(reported("filled", 10, 99), holds(0)), 1, Stage.OVER),
        (unprotected, 1, Stage.UNPROTECTED),
        (second, 1, Stage.EARLIER),
        (second, 2, Stage.WORKING),
        (second.when(Contradiction(at=after(300), why="it cannot be")), 1, Stage.EARLIER),
    ],
)
def test_where_an_order_stands(s: Scenario, attempt: int, stage: Stage) -> None:
    assert news(s, "new", attempt=attempt).stage is stage


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (news(submitted, "new", symbol="MSFT"), Kind.IMPOSSIBLE),
        (news(submitted, "new", "NaN"), Kind.IMPOSSIBLE),
        (news(submitted, "new", "1E+9999999"), Kind.IMPOSSIBLE),
        (news(submitted, "new", qty=Decimal(8)), Kind.RESTATED),
        (news(expired, "expired", 4, qty=Decimal(8)), Kind.ENDED),
        (news(submitted, "rejected", 0, refused_at_submit=True), Kind.COPY_REFUSED),
        (news(pending, "rejected", 0, refused_at_submit=True), Kind.REFUSED),
        (news(partial, "partially_filled", 3, 99, corrected=True), Kind.CORRECTED),
        (news(partial, "partially_filled", 4, 98, corrected=True), Kind.CORRECTED),
        (news(partial, "partially_filled", 4, 99, corrected=True), Kind.NEWS),
        (news(partial, "partially_filled", 11, 99), Kind.OVERFILLED),
        (news(turned_down, "new"), Kind.REVIVED),
        (news(second, "new", attempt=1), Kind.REVIVED),
        (news(second, "new", attempt=1, symbol="MSFT"), Kind.REVIVED),
        (news(submitted, "replaced"), Kind.REPLACED),
        (news(canceling, "cancel_rejected"), Kind.CANCEL_REFUSED),
        (news(submitted, "cancel_rejected"), Kind.NEWS),
        (news(submitted, "rejected", 0), Kind.REFUSED),
        (news(partial, "filled", 6, 99), Kind.ENDED),
        (news(partial, "filled", 10, 99), Kind.NEWS),
        (news(partial, "canceled", 4), Kind.ENDED),
        (news(partial, "canceled"), Kind.NEWS),
        (news(partial, "done_for_day", 4, **NONE_LEFT), Kind.ENDED),
        (news(partial, "done_for_day", 4), Kind.NEWS),
        (news(second, "canceled", 0, attempt=1), Kind.NEWS),
    ],
)
def test_what_kind_of_report_it_is(found: News, kind: Kind) -> None:
    assert kind_of(found) is kind


def test_what_is_known_of_an_earlier_order_is_not_written_anew_where_nothing_is_new() -> None:
    works = second.when(reported("partially_filled", "6", 99, attempt=1, at=202))
    assert str(news(works, "canceled", "6.0", attempt=1).filled) == "6"
    (end,) = works.when(reported("canceled", "6.0", attempt=1, at=203)).then(OrderEnded).news
    assert isinstance(end, OrderEnded)
    assert str(end.filled_qty) == "6"


def test_a_report_that_is_about_no_order_of_the_position_is_no_news_of_it() -> None:
    for s in (given(opened()), second):
        assert news_of(s.now, reported("new", attempt=7)(s.now).report, after(61), BROKER) is None
        s.when(reported("filled", 10, attempt=7)).then()


@pytest.mark.parametrize(("stage", "kind"), list(product(Stage, Kind)))
def test_each_kind_of_report_has_an_answer_at_each_stage(stage: Stage, kind: Kind) -> None:
    assert callable(TABLE[stage][kind])


def test_what_is_special_in_the_table_stands_where_it_should() -> None:
    assert {s for s, k in product(Stage, Kind) if TABLE[s][k] is cancel_refused} == {Stage.CANCELING}
    assert TABLE[Stage.WORKING][Kind.COPY_REFUSED] is TABLE[Stage.CANCELING][Kind.COPY_REFUSED] is nothing
    assert TABLE[Stage.PENDING][Kind.REFUSED] is postponed  # or ended: without an acceptance that never was
    assert {k for k in Kind if TABLE[Stage.EARLIER][k] is not late_of_earlier} == {Kind.REVIVED}


def test_what_comes_with_the_loss_of_protection_stands_between_it_and_its_alarm() -> None:
    p = submitted.now
    fact = CancelRequested(client_order_id=order_id(), at=after(90), why="why")
    assert lost(p, "why", after(90), facts=[fact]) == [
        ProtectionLost(why="why", at=after(90)),
        fact,
        AlarmRaised(
            alarm_id=f"{p.position_id}/protection_lost/5", kind="protection_lost", text="why", at=after(90)
        ),
    ]  # fmt: skip


# --- an order before the current one ----------------------------------------------------------------------------------


def gtc_beside_day() -> Scenario:
    """The first order, good till canceled, was refused and works after all; the second is for the day: it is a part."""
    s = given(opened(policy=GTC)).when(seen(99), refused(), holds("9.5", at=200), reported("new", attempt=2, at=201))
    assert [o.time_in_force for o in s.now.orders] == [TimeInForce.GTC, TimeInForce.DAY]
    return s.when(reported("new", attempt=1, at=202)).is_in("unprotected").has(live_orders=(order_id(2), order_id(1)))


def test_given_an_earlier_order_for_days_when_the_day_is_over_then_it_is_not_though_the_current_one_is() -> None:
    s = gtc_beside_day()
    s.when(reported("done_for_day", 0, attempt=1, at=300, **NONE_LEFT)).then().has(
        live_orders=(order_id(2), order_id(1))
    )
    both = s.when(reported("done_for_day", 0, attempt=2, at=300, **NONE_LEFT)).then(OrderEnded)
    both.has(live_orders=(order_id(1),))
    both.when(ForceExit(at=after(400), qty=Decimal("9.5"))).then(like(AlarmRaised, kind="not_done"))
    both.when(reported("expired", 0, attempt=1, at=400)).then(OrderEnded).has(live_orders=())


def test_given_an_earlier_day_order_when_the_day_is_over_then_it_is_though_the_current_one_is_for_days() -> None:
    part = given(opened(policy=GTC, qty="9.5")).when(seen(99), refused(), Contradiction(at=after(65), why="no"))
    whole = part.when(Release(at=after(70), qty=Decimal(10), entry_price=Decimal(100)), seen(99, at=120))
    assert [o.time_in_force for o in whole.now.orders] == [TimeInForce.DAY, TimeInForce.GTC]
    s = whole.when(reported("new", at=121), reported("new", attempt=1, at=122)).is_in("unprotected")
    done = s.when(reported("done_for_day", 0, attempt=1, at=300, **NONE_LEFT))
    done.then(like(OrderEnded, client_order_id=order_id(1), how="expired")).has(live_orders=(order_id(2),))


def found_at_the_broker(s: Scenario, attempt: int) -> Scenario:
    """An order of ours is found: for how long it was sent is not known."""
    report = ExecutionReport(
        client_order_id=order_id(attempt), status=OrderStatus.NEW, at=after(40), qty=Decimal(10), filled_qty=Decimal(0)
    )
    return s.when(Recover(at=after(400), attempt=attempt, report=report))


def test_given_an_order_that_was_found_then_the_days_end_is_not_its_end_whichever_attempt_it_is() -> None:
    over = unprotected.when(reported("canceled", 0, at=91))
    released = over.when(Release(at=after(300), qty=Decimal(10), entry_price=Decimal(100))).then(PositionReleased)
    for s in (found_at_the_broker(given(opened()), 1), found_at_the_broker(released, 2)):
        assert s.now.order.found
        s.is_in("submitted").when(reported("done_for_day", 0, at=500, **NONE_LEFT)).then().has(order_live=True)


def test_given_an_order_that_was_found_when_another_follows_then_the_days_end_still_does_not_prove_its_end() -> None:
    s = (
        found_at_the_broker(given(opened()), 1)
        .when(reported("expired", 0, at=500), holds(10, at=600))
        .then(ExitRetried)
    )
    first, next_one = s.now.orders
    assert (first.found, next_one.found) == (True, False)
    done = reported("done_for_day", 0, attempt=1, at=700, **NONE_LEFT)(s.now).report
    record = RecordRead(client_order_id=first.client_order_id, began=after(700), report=done)
    assert not is_over(first, done)
    assert not is_proved_over(first, record, BROKER)
    assert is_over(next_one, done)


# --- orders, one by one -----------------------------------------------------------------------------------------------


def test_given_several_orders_then_each_keeps_its_own_figures() -> None:
    s = resting.when(reported("partially_filled", 4, 102, broker_order_id="b1"), timer(200), reported("canceled", 4))
    s = s.when(holds(6, at=300)).then(like(ExitRetried, attempt=2))
    s = s.when(reported("new", attempt=2, broker_order_id="b2"), ForceExit(at=after(310), who="jo"))
    first, current = s.now.orders
    assert (first.limit_price, first.order_type.value, first.filled_qty, first.escalated) == (102, "limit", 4, True)
    assert (first.ended_how, first.refusal, first.live, first.cancel_asked) == ("canceled", "", False, True)
    assert (current.limit_price, current.qty, current.live, current.ended_how) == (None, 6, True, "")
    assert s.now.order is current
    assert (s.now.broker_order_id, s.now.client_order_id, s.now.attempt) == ("b2", order_id(2), 2)
    by_jo = unprotected.when(reported("canceled", 0), ForceExit(at=after(300), who="jo")).then(ExitRetried)
    assert [o.ordered_by for o in by_jo.now.orders] == ["", "jo"]


def test_given_no_order_then_nothing_of_one_is_known() -> None:
    p = given(opened()).now
    assert (p.client_order_id, p.broker_order_id, p.attempt, p.order_qty, p.filled_qty) == (None, None, 0, 0, 0)
    assert (p.order_live, p.cancel_asked, p.ended_how, p.next_attempt_at, p.live_orders) == (False, False, "", None, ())


def test_given_a_corrected_earlier_order_that_works_again_then_all_of_that_is_known_of_it() -> None:
    s = second.when(reported("partially_filled", 3, 99, attempt=1, at=202))
    s = s.when(reported("partially_filled", 2, 99, attempt=1, at=203, corrected=True)).then(
        like(FillsRecorded, corrected=True), CancelRequested
    )
    first, _ = s.now.orders
    assert (first.live, first.corrected, first.filled_qty, first.ended_how) == (True, True, 2, "")
    s = s.when(reported("canceled", 2, attempt=1, at=204)).then(OrderEnded)
    assert (s.now.orders[0].live, s.now.orders[0].ended_how) == (False, "canceled")


def test_given_a_refusal_when_the_position_was_released_then_the_same_refusal_is_the_first_of_its_kind() -> None:
    s = turned_down.when(Contradiction(at=after(65), why="no")).when(
        Release(at=after(70), qty=Decimal(10), entry_price=Decimal(100))
    )
    assert (turned_down.now.last_refusal, s.now.last_refusal) == ("insufficient_qty", "")
    s.when(seen(99, at=120), refused(at=121)).then(OrderEnded).is_in("rejected")
    turned_down.when(holds(10, at=200), refused(at=201)).then(OrderEnded, ProtectionLost, AlarmRaised)


def test_given_events_that_cannot_follow_when_they_are_folded_at_once_then_the_state_stays() -> None:
    closed = PositionClosedElsewhere(how="by_hand", remaining_qty=Decimal(10), at=after(90), cooldown_until=after(390))
    s = given(opened(), triggered(), closed).is_in("pending").has(order_live=False)
    of_another = OrderAccepted(client_order_id=order_id(9), broker_order_id="b9", at=after(91))
    s = given(*s.history, of_another, triggered(2)).is_in("submitted").has(attempt=2, broker_order_ids={})
    assert s.now.version == len(s.history)
