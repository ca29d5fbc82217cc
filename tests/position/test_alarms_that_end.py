"""Alarms that end by themselves: where what they say is over no person need look, and every other one waits for him."""

from __future__ import annotations

from decimal import Decimal

import pytest
from positions import monitoring, pending, submitted

from exitfsm.events import AlarmAcknowledged, AlarmRaised, ExitCompleted, PositionClosedElsewhere
from exitfsm.kinds import ALARMS, ENDS_WHEN, AlarmKind
from exitfsm.messages import BarSeen, PositionRead, RaiseAlarm
from exitfsm.position import wake_band
from exitfsm.position.alarming import ENDED_BY, ENDED_BY_A_BAR
from exitfsm.testing.given import Scenario, after, bar, holds, like, reported, seen, timer

#: Those that the parts around a position end: the list of positions, the account, a channel.
BY_OTHERS = {
    *("exits_wait", "broker_trouble", "unpriceable", "exit_unknown", "position_unreadable", "both_sides"),
    *("positions_missing", "entry_not_shown", "unexplained_quantity", "not_reconciled", "store_unwritable"),
    "alert_failed",
}
ENDED = like(AlarmAcknowledged, by="exitfsm")


def alarmed(s: Scenario, kind: str, at: float = 65) -> Scenario:
    return s.when(RaiseAlarm(at=after(at), kind=kind, text="x"))


def kinds(s: Scenario) -> list[str]:
    return [a.kind for a in s.now.alarms]


def live(price: float, at: float) -> BarSeen:
    return seen(bar(price, at), at, received_at=after(at + 1), reference_price=Decimal(100))


def test_the_words_and_the_table_name_the_same_kinds() -> None:
    assert set(ENDS_WHEN) == set(ENDED_BY) | set(ENDED_BY_A_BAR) | BY_OTHERS
    assert set(ENDS_WHEN) < set(ALARMS)
    assert not {AlarmKind.PROTECTION_LOST, AlarmKind.OVERSOLD, AlarmKind.TWIN_ORDERS} & set(ENDS_WHEN)


@pytest.mark.parametrize("kind", sorted(set(AlarmKind) - set(ENDED_BY) - {"exit_postponed"}))
def test_what_is_for_a_person_stays_until_he_takes_it_down(kind: str) -> None:
    s = alarmed(submitted, kind).when(reported("filled", 10, at=70), holds(0, 71)).is_in("filled")
    assert kinds(s) == [kind]


@pytest.mark.parametrize("kind", sorted(ENDED_BY))
def test_what_is_over_with_the_position_is_taken_down_before_its_last_event(kind: str) -> None:
    s = alarmed(submitted, kind).when(reported("filled", 10, at=70), holds(0, 71)).is_in("filled")
    assert kinds(s) == []
    assert isinstance(s.news[-1], ExitCompleted)


@pytest.mark.parametrize("kind", sorted(ENDED_BY))
def test_a_position_given_up_with_an_order_without_a_record_keeps_its_alarms_for_a_person(kind: str) -> None:
    flat = PositionRead(at=after(300), began=after(300), qty=Decimal(0), reads=3, lapsed=True)
    s = alarmed(pending, kind).when(flat).is_in("closed")
    assert isinstance(s.news[-1], PositionClosedElsewhere)
    assert kinds(s) == [kind]


@pytest.mark.parametrize("kind", ["submit_unresolved", "order_not_found"])
def test_an_order_that_the_broker_has_is_in_doubt_no_more(kind: str) -> None:
    s = alarmed(pending, kind).when(reported("new", at=70))
    assert kinds(s) == []


def test_a_wait_that_goes_on_ends_no_alarm_and_begins_none() -> None:
    s = submitted.when(timer(600, 120)).then(like(AlarmRaised, kind="order_stalled"))
    s = s.when(timer(900, 120)).then()
    s = s.when(reported("partially_filled", 4, at=901))
    assert kinds(s) == []
    s.when(timer(1900, 120)).then(like(AlarmRaised, kind="order_stalled"))


@pytest.mark.parametrize("kind", sorted(ENDED_BY_A_BAR))
def test_a_bar_that_is_believed_ends_what_was_said_of_bars(kind: str) -> None:
    s = alarmed(monitoring, kind, 10)
    assert wake_band(s.now, after(10)) is None  # the next bar is not quiet
    assert kind in kinds(s.when(live(500, 60)))  # it is refused: a jump
    s = s.when(live(100, 60)).then(ENDED)
    assert kinds(s) == []
    assert wake_band(s.now, after(60)) is not None


def test_a_bar_that_is_late_still_counts_as_one_and_an_exit_begins_with_the_alarm_ended() -> None:
    s = alarmed(monitoring, "feed_silent", 10).when(live(98, 60)).is_in("pending")
    assert kinds(s) == []


def test_files_have_no_arrival_and_end_nothing() -> None:
    s = alarmed(monitoring, "price_jump", 10).when(seen(100, 60)).then()
    assert kinds(s) == ["price_jump"]
