"""What operators say, time without bars, and a store that was lost."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest
from positions import (
    LIMIT,
    canceling,
    closed,
    expired,
    filled,
    monitoring,
    partial,
    pending,
    resting,
    submitted,
    unprotected,
)

from exitfsm.events import (
    AlarmAcknowledged,
    AlarmRaised,
    ExitEscalated,
    ExitRetried,
    ExitTriggered,
    FillsRecorded,
    OrderAccepted,
    PolicyChanged,
    PositionClosedElsewhere,
    PositionReleased,
    ProtectionLost,
    RefusalEnded,
)
from exitfsm.messages import (
    Acknowledge,
    ChangePolicy,
    Contradiction,
    ForceExit,
    Ignore,
    RaiseAlarm,
    Recover,
    Release,
)
from exitfsm.position import may_owe
from exitfsm.position.operating import is_in_the_dark, is_stuck
from exitfsm.testing.given import (
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
)

# --- operators --------------------------------------------------------------------------------------------------------


def test_given_a_monitored_position_when_an_operator_wants_out_then_it_exits_at_market_without_needing_a_price() -> (
    None
):
    order = ForceExit(at=after(60), who="ann", reason="news")
    given(opened(policy=LIMIT)).when(order).then(
        like(ExitTriggered, reason="emergency", order_type="market", detail="ann: news", trigger_price=Decimal(100))
    )
    monitoring.when(ForceExit(at=after(60), price=Decimal(97))).then(like(ExitTriggered, trigger_price=Decimal(97)))
    monitoring.when(ForceExit(at=after(60), price=Decimal("NaN"))).then(like(ExitTriggered, trigger_price=Decimal(100)))


def test_given_refused_bars_or_a_switched_off_policy_when_an_operator_wants_out_then_it_exits() -> None:
    monitoring.when(seen("NaN"), ForceExit(at=after(90))).then(RefusalEnded, like(ExitTriggered, reason="emergency"))
    given(opened(policy=policy(enabled=False))).when(ForceExit(at=after(60))).then(ExitTriggered)


def test_given_an_exit_under_way_when_an_operator_wants_out_then_no_second_order_is_made() -> None:
    for s in (pending, submitted, partial, canceling, expired, filled, closed, unprotected):
        s.when(ForceExit(at=after(61))).then()
    resting.when(ForceExit(at=after(70), who="ann", reason="now")).then(like(ExitEscalated, why="ann: now"))


def test_given_an_unprotected_position_when_an_operator_wants_out_then_the_next_attempt_is_made() -> None:
    ended = unprotected.when(reported("canceled", 4, 99))
    ended.when(ForceExit(at=after(300), who="ann")).then(
        like(ExitRetried, attempt=2, qty=Decimal(6), by="ann", budget_spent=0, order_type="market")
    ).is_in("pending")


def test_given_an_unprotected_position_when_it_is_released_then_it_is_watched_again_with_what_is_left() -> None:
    release = Release(at=after(300), qty=Decimal(6), entry_price=Decimal(101), who="ann")
    unprotected.when(release).then(like(AlarmRaised, kind="not_done")).is_in("unprotected")  # its order may be live
    s = unprotected.when(reported("canceled", 4, 99), release).then(
        PositionReleased(by="ann", at=after(300), qty=Decimal(6), entry_price=Decimal(101))
    )
    s.is_in("monitoring").has(remaining_qty=Decimal(6), reason=None)
    assert s.now.exit.budget_spent == 0
    s.when(seen("99.99", at=360)).then(like(ExitTriggered, attempt=2, qty=Decimal(6), client_order_id=order_id(2)))


def test_given_a_position_when_a_person_takes_it_out_then_it_ends_held_on_but_no_exit_is_cut_off() -> None:
    ignored = like(PositionClosedElsewhere, how="ignored", remaining_qty=Decimal(10), at=after(90))
    monitoring.when(Ignore(at=after(90))).then(ignored).is_in("closed")
    monitoring.when(seen("NaN"), Ignore(at=after(90))).then(RefusalEnded, ignored)
    for s in (pending, submitted, partial, canceling, expired, filled, closed, unprotected, resting):
        s.when(Ignore(at=after(300))).then()


@pytest.mark.parametrize(
    ("qty", "entry"), [("0", "100"), ("-1", "0"), ("6", "0"), ("NaN", "100"), ("6", "NaN"), ("Infinity", "1")]
)
def test_given_a_release_with_impossible_figures_then_nothing_follows(qty: str, entry: str) -> None:
    ended = unprotected.when(reported("canceled", 4, 99))
    ended.when(Release(at=after(300), qty=Decimal(qty), entry_price=Decimal(entry))).then()


def test_given_a_monitored_position_when_the_policy_changes_then_it_applies_and_otherwise_not() -> None:
    change = ChangePolicy(at=after(60), policy=policy(stop_loss={"threshold_pct": 5}), who="ann")
    monitoring.when(change).then(like(PolicyChanged, by="ann")).when(change).then().when(seen(96, at=120)).then()
    for s in (pending, submitted, partial, canceling, expired, filled, closed, unprotected):
        s.when(change).then()


def test_given_an_alarm_when_it_is_raised_again_then_it_is_not_doubled_until_it_is_acknowledged() -> None:
    raised = RaiseAlarm(at=after(60), kind="feed_lost", text="no bars")
    s = monitoring.when(raised).then(like(AlarmRaised, kind="feed_lost", text="no bars")).when(raised).then()
    s.when(RaiseAlarm(at=after(61), kind="rule_failed", text="x")).then(AlarmRaised)
    first = s.now.alarms[0].alarm_id
    s = s.when(Acknowledge(at=after(62), alarm_id=first, who="ann")).then(
        AlarmAcknowledged(alarm_id=first, by="ann", at=after(62))
    )
    s = s.has(alarms=()).when(Acknowledge(at=after(63), alarm_id=first)).then().when(raised).then(AlarmRaised)
    assert s.now.alarms[0].alarm_id != first


@pytest.mark.parametrize(
    ("before", "kind"),
    [
        (pending, "submit_unresolved"),
        (submitted, "order_stalled"),
        (partial, "order_stalled"),
        (canceling, "cancel_unresolved"),
        (expired, "retry_stalled"),
    ],
)
def test_given_a_wait_for_the_broker_when_it_lasts_too_long_then_a_person_is_told_once(
    before: Scenario, kind: str
) -> None:
    start = max(t for t in (before.now.waiting_since, before.now.next_attempt_at) if t is not None)
    early, late = (start + timedelta(seconds=s) for s in (119, 120))
    s = before.when(msgspec.structs.replace(timer(0, 120), at=early)).then()
    s = s.when(msgspec.structs.replace(timer(0, 120), at=late)).then(like(AlarmRaised, kind=kind))
    s.when(msgspec.structs.replace(timer(0, 120), at=late)).then().is_in(before.now.state)
    before.when(msgspec.structs.replace(timer(0), at=late)).then()  # where time passes only at bars


def test_given_a_send_whose_outcome_is_not_known_then_the_alarm_says_what_it_ended_with() -> None:
    late = msgspec.structs.replace(timer(0, 120), at=pending.now.waiting_since + timedelta(seconds=120), why="HTTP 503")
    assert "its newest send: HTTP 503" in pending.when(late).now.alarms[-1].text
    told = submitted.when(msgspec.structs.replace(late, at=late.at + timedelta(seconds=60))).now.alarms[-1].text
    assert "HTTP 503" not in told  # it is known that the broker has it


# --- time without bars, and a store that was lost ---------------------------------------------------------------------


def test_given_a_time_rule_when_no_bar_comes_then_the_timer_exits_at_the_last_known_price() -> None:
    s = given(opened(policy=policy(time_limit={"max_seconds": 600})))
    late = msgspec.structs.replace(timer(600), price=Decimal(101))
    s.when(msgspec.structs.replace(late, at=after(599))).then()
    s.when(timer(600)).then()  # without a price the bars must tell
    s.when(late).then(like(ExitTriggered, reason="time_limit", trigger_price=Decimal(101), detail="no bar came"))
    monitoring.when(late).then()


@pytest.mark.parametrize("price", ["NaN", "Infinity", "0", "-1"])
def test_given_a_time_rule_when_the_last_known_price_is_impossible_then_it_is_not_recorded_as_one(price: str) -> None:
    s = given(opened(policy=policy(time_limit={"max_seconds": 600})))
    s = s.when(msgspec.structs.replace(timer(600), price=Decimal(price)))
    assert all(e.trigger_price > 0 for e in s.news if isinstance(e, ExitTriggered))


def test_given_a_lost_store_when_our_order_is_found_at_the_broker_then_the_exit_goes_on() -> None:
    found = reported("partially_filled", 4, 99, qty=Decimal(10), attempt=2)(monitoring.now)
    recover = Recover(at=after(60), attempt=2, report=found.report)
    s = monitoring.when(recover).then(
        like(ExitTriggered, reason="recovered", attempt=2, client_order_id=order_id(2), qty=Decimal(10)),
        OrderAccepted,
        like(FillsRecorded, filled_qty=Decimal(4)),
    )
    s.is_in("partial").when(recover).then().owes(None)
    s.when(reported("expired", 4), holds(6, at=200)).then(like(ExitRetried, attempt=3, qty=Decimal(6)))


@pytest.mark.parametrize(("attempt", "qty"), [(1, "11"), (1, "NaN"), (1, "0"), (0, "10")])
def test_given_a_lost_store_when_the_order_found_cannot_be_taken_over_then_a_person_is_told(
    attempt: int, qty: str
) -> None:
    found = reported("new", 0, qty=Decimal(qty), attempt=attempt)(monitoring.now)
    s = monitoring.when(Recover(at=after(60), attempt=attempt, report=found.report))
    s.then(ProtectionLost, AlarmRaised).is_in("unprotected")


def test_given_an_order_under_another_id_when_it_is_taken_for_ours_then_nothing_follows() -> None:
    found = reported("new", 0, qty=Decimal(10), attempt=1)(monitoring.now)
    monitoring.when(Recover(at=after(60), attempt=2, report=found.report)).then()
    submitted.when(Recover(at=after(60), attempt=1, report=found.report)).then()


@pytest.mark.parametrize(
    ("scenario", "stuck"),
    [
        (monitoring, False),
        (submitted, False),
        (expired, False),
        (expired.when(RaiseAlarm(at=after(1), kind="foreign_order", text="it works")), False),
        (expired.when(RaiseAlarm(at=after(1), kind="ended_order_works", text="it works")), True),
        (submitted.when(RaiseAlarm(at=after(1), kind="order_not_found", text="asked")), False),
        (unprotected, True),
    ],
)
def test_an_exit_that_goes_on_with_an_operators_word_only_is_stuck(scenario: Scenario, stuck: bool) -> None:
    assert is_stuck(scenario.now) is stuck


_DOUBT = Contradiction(at=after(90), why="it cannot be")


@pytest.mark.parametrize(
    ("scenario", "dark"),
    [
        (monitoring, False),
        (pending, True),
        (pending.when(_DOUBT), True),
        (pending.when(refused()), False),  # that is a word of it
        (submitted, False),
        (pending.when(reported("new", broker_order_id="B1"), _DOUBT), False),
        (unprotected.when(reported("canceled", 4, 99)), False),
    ],
)
def test_an_order_that_may_have_been_sent_and_of_which_the_broker_said_nothing_is_in_the_dark(
    scenario: Scenario, dark: bool
) -> None:
    assert is_in_the_dark(scenario.now) is dark


def test_of_many_only_those_on_their_way_out_are_asked_what_they_owe() -> None:
    watched, leaving = monitoring.now, msgspec.structs.replace(submitted.now, position_id="leaving")
    assert may_owe([watched, leaving], 2) == [watched.position_id, "leaving"]
    assert may_owe([watched, leaving], 1) == ["leaving"]
