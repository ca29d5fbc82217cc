"""What is sent to whom, and when."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exitfsm.alerts import deciding
from exitfsm.alerts.deciding import Health, MessageKind, Outbox, alarms_of, delivered, due, failed, may_try, noted
from exitfsm.config import AlertSettings, load_config
from exitfsm.kinds import ALARMS, AlarmKind, Severity
from exitfsm.values import Alarm

T0 = datetime(2024, 1, 2, 12, 0, tzinfo=UTC)
LOUD = {"name": "loud", "url": "https://127.0.0.1/x"}
BOSS = {"name": "boss", "url": "https://127.0.0.1/y", "escalation_only": True}


def settings(**alerts: Any) -> AlertSettings:
    return load_config({"alerts": {"channels": [LOUD, BOSS], **alerts}}).alerts


def alarm(number: int = 1, kind: str = AlarmKind.PROTECTION_LOST) -> Alarm:
    return Alarm(alarm_id=f"AAPL:long:e:acc/{kind}/{number}", kind=kind, text="look", raised_at=T0)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


class Desk:
    """A channel that takes everything, and a clock."""

    def __init__(self, given: AlertSettings) -> None:
        self.settings = given
        self.outbox: Outbox = {}
        self.active: list[Alarm] = []

    def look(self, seconds: float, *, hurry: bool = False) -> list[tuple[str, str, list[str]]]:
        """What is sent at a time: channel, kind, ids."""
        now, sent = at(seconds), []
        self.outbox = noted(self.outbox, self.active, self.settings, now)
        for channel in self.settings.channels:
            while (message := due(self.outbox, channel, self.settings, now, hurry=hurry)) is not None:
                sent.append((message.channel, str(message.kind), [a.alarm_id for a in message.alarms]))
                self.outbox = delivered(self.outbox, message, now)
        return sent


def ids(alarms: Sequence[Alarm]) -> list[str]:
    return [a.alarm_id for a in alarms]


def test_given_a_burst_when_its_time_has_passed_then_one_message_has_all_of_it() -> None:
    desk = Desk(settings())
    desk.active = [alarm(1)]
    assert desk.look(0) == []
    desk.active = [alarm(1), alarm(2), alarm(3)]

    assert desk.look(4.9) == []
    assert desk.look(5) == [("loud", "alarm", ids(desk.active))]
    assert desk.look(6) == desk.look(100) == []


def test_given_alarms_of_all_severities_when_sent_then_the_worst_is_first_and_the_least_is_left_out() -> None:
    desk = Desk(settings(burst_seconds=0))
    notice, warning = alarm(1, AlarmKind.SPLIT), alarm(2, AlarmKind.ORDER_STALLED)
    desk.active = [notice, warning, alarm(3)]

    assert desk.look(0) == [("loud", "alarm", ids([alarm(3), warning]))]
    every = Desk(settings(burst_seconds=0, least_severity="notice"))
    every.active = [notice]
    assert every.look(0) == [("loud", "alarm", ids([notice]))]


def test_given_a_kind_from_a_newer_version_when_sent_then_it_counts_as_critical() -> None:
    desk = Desk(settings(burst_seconds=0, least_severity="critical"))
    desk.active = [alarm(1, "something_new")]
    assert desk.look(0) == [("loud", "alarm", ids(desk.active))]


def test_given_nobody_acknowledges_when_the_time_has_passed_then_it_is_sent_again_and_elsewhere() -> None:
    desk = Desk(settings(burst_seconds=0, escalation={"after_seconds": 900}))
    desk.active = [alarm(1), alarm(2, AlarmKind.ORDER_STALLED)]
    desk.look(0)

    again = ids([alarm(1)])  # what is less severe does not escalate
    assert desk.look(899) == []
    assert desk.look(900) == [("loud", "again", again), ("boss", "again", again)]
    assert desk.look(1799) == []
    assert desk.look(5000) == [("loud", "again", again), ("boss", "again", again)]  # once, however long it was away


def test_given_escalation_is_off_when_nobody_acknowledges_then_it_is_sent_once() -> None:
    desk = Desk(settings(burst_seconds=0, escalation={"enabled": False}))
    desk.active = [alarm(1)]
    assert len(desk.look(0)) == 1
    assert desk.look(10**6) == []


def test_given_an_alarm_is_acknowledged_when_it_was_sent_then_an_all_clear_follows_to_who_was_sent_it() -> None:
    desk = Desk(settings(burst_seconds=2, escalation={"enabled": False}))
    desk.active = [alarm(1), alarm(2)]
    desk.look(0)
    desk.look(2)
    desk.active = []

    assert desk.look(10) == []
    assert desk.look(12) == [("loud", "all_clear", ids([alarm(1), alarm(2)]))]
    assert desk.look(13) == []
    assert desk.outbox == {}


def test_given_all_clears_are_off_when_an_alarm_ends_then_nothing_is_sent_nor_kept() -> None:
    desk = Desk(settings(burst_seconds=0, all_clear=False))
    desk.active = [alarm(1)]
    desk.look(0)
    desk.active = []
    assert desk.look(10) == []
    assert desk.outbox == {}


def test_given_an_alarm_ends_before_it_is_sent_when_looked_at_then_nobody_hears_of_it() -> None:
    desk = Desk(settings())
    desk.active = [alarm(1)]
    desk.look(0)
    desk.active = []
    assert desk.look(60) == []
    assert desk.outbox == {}


def test_given_an_alarm_comes_back_before_its_all_clear_when_looked_at_then_it_is_active_as_before() -> None:
    desk = Desk(settings(burst_seconds=5, escalation={"enabled": False}))
    desk.active = [alarm(1)]
    desk.look(0)
    desk.look(5)
    desk.active = []
    desk.look(10)
    desk.active = [alarm(1)]
    assert desk.look(11) == desk.look(100) == []


def test_given_quiet_hours_when_an_alarm_comes_then_only_what_is_critical_is_sent_and_the_rest_at_their_end() -> None:
    quiet = {"enabled": True, "start": "11:30", "end": "13:00"}
    desk = Desk(settings(burst_seconds=0, quiet_hours=quiet, escalation={"enabled": False}))
    stalled = alarm(2, AlarmKind.ORDER_STALLED)
    desk.active = [alarm(1), stalled]

    assert desk.look(0) == [("loud", "alarm", ids([alarm(1)]))]
    assert desk.look(3599) == []
    assert desk.look(3600) == [("loud", "alarm", ids([stalled]))]


@pytest.mark.parametrize(
    ("start", "end", "quiet"),
    [("22:00", "07:00", False), ("11:00", "12:01", True), ("12:00", "11:00", True), ("12:01", "12:00", False)],
)
def test_given_hours_over_midnight_or_not_when_asked_then_the_end_is_outside(start: str, end: str, quiet: bool) -> None:
    hours = settings(quiet_hours={"enabled": True, "start": start, "end": end}).quiet_hours
    assert deciding.is_quiet(hours, T0) is quiet


def test_given_a_time_zone_when_asked_then_the_hours_are_those_of_its_clock() -> None:
    zone = {"enabled": True, "start": "20:30", "end": "21:30", "timezone": "Asia/Tokyo"}
    assert deciding.is_quiet(settings(quiet_hours=zone).quiet_hours, T0)  # 21:00 there
    assert not deciding.is_quiet(settings(quiet_hours=zone).quiet_hours, at(3600))


def test_given_a_stop_when_something_is_due_then_a_burst_is_not_waited_for() -> None:
    desk = Desk(settings())
    desk.active = [alarm(1)]
    assert desk.look(0, hurry=True) == [("loud", "alarm", ids([alarm(1)]))]


def test_given_the_clock_is_put_back_when_looked_at_then_nothing_waits_for_it() -> None:
    desk = Desk(settings())
    desk.active = [alarm(1)]
    desk.look(3600)
    assert desk.look(0) == []
    assert desk.look(5) == [("loud", "alarm", ids([alarm(1)]))]  # and not an hour later
    assert [kind for _, kind, _ in desk.look(5 + 900)] == ["again", "again"]
    health = failed(Health(), "x", at(3600))
    assert not may_try(health, at(3600))
    assert may_try(health, at(0))
    assert may_try(Health(), at(0))


def test_given_a_channel_is_taken_out_when_looked_at_then_nothing_is_kept_of_it() -> None:
    desk = Desk(settings(burst_seconds=0))
    desk.active = [alarm(1)]
    desk.look(0)
    desk.settings = load_config({"alerts": {"channels": [LOUD | {"name": "other"}], "burst_seconds": 0}}).alerts
    assert desk.look(1) == [("other", "alarm", ids([alarm(1)]))]
    assert set(desk.outbox[alarm(1).alarm_id].sent) == {"other"}


def test_given_nothing_changes_when_looked_at_then_the_outbox_is_the_same_object() -> None:
    desk = Desk(settings(burst_seconds=0))
    desk.active = [alarm(1)]
    desk.look(0)
    before = desk.outbox
    desk.look(1)
    assert desk.outbox is before


def test_given_a_channel_fails_when_it_has_done_so_three_times_then_it_is_an_alarm_on_the_others_only() -> None:
    health = Health()
    for second in range(3):
        assert alarms_of({"loud": health}) == []
        health = failed(health, "HTTP 500", at(second))
    found = alarms_of({"loud": health, "boss": Health()})
    assert [(a.kind, a.raised_at) for a in found] == [(AlarmKind.ALERT_FAILED, T0)]
    assert "HTTP 500" in found[0].text

    desk = Desk(load_config({"alerts": {"channels": [LOUD, LOUD | {"name": "other"}], "burst_seconds": 0}}).alerts)
    desk.active = list(found)
    assert [channel for channel, *_ in desk.look(0)] == ["other"]
    assert not may_try(health, at(3))
    assert may_try(health, at(2 + 8))


def test_given_a_channel_fails_on_and_on_when_tried_then_the_pauses_grow_up_to_a_bound() -> None:
    health, pauses = Health(), []
    for _ in range(40):
        health = failed(health, "x", T0)
        assert health.retry_at is not None
        pauses.append((health.retry_at - T0).total_seconds())
    assert pauses[:3] == [2, 4, 8]
    assert max(pauses) == pauses[-1] == 300


@pytest.mark.parametrize("kind", [k for k in AlarmKind if ALARMS[k].severity is Severity.CRITICAL])
def test_given_quiet_hours_when_something_is_unprotected_then_they_never_hold_it_back(kind: AlarmKind) -> None:
    always = {"enabled": True, "start": "00:00", "end": "23:59"}
    desk = Desk(settings(burst_seconds=0, quiet_hours=always, least_severity="critical"))
    desk.active = [alarm(1, kind)]
    assert ("loud", "alarm", ids(desk.active)) in desk.look(0)


def test_given_an_outbox_when_saved_and_read_back_then_it_is_the_same() -> None:
    desk = Desk(settings(burst_seconds=0))
    desk.active = [alarm(1), alarm(2)]
    desk.look(0)
    desk.active = [alarm(1)]
    desk.look(0)
    assert deciding.from_text(deciding.as_text(desk.outbox)) == desk.outbox


@pytest.mark.parametrize("text", ["", "[", "{}", '[{"alarm": 1}]', "null", "\udcff"])
def test_given_an_outbox_that_cannot_be_read_when_loaded_then_all_that_is_active_is_sent_again(text: str) -> None:
    assert deciding.from_text(text) == {}


def test_given_an_alarm_ends_while_it_is_sent_when_it_was_taken_then_an_all_clear_follows() -> None:
    chosen = settings(burst_seconds=0)
    outbox = noted({}, [alarm(1)], chosen, at(0))
    message = due(outbox, chosen.channels[0], chosen, at(0))
    assert message is not None
    outbox = delivered(noted(outbox, [], chosen, at(1)), message, at(2))
    outbox = noted(outbox, [], chosen, at(3))
    after = due(outbox, chosen.channels[0], chosen, at(3))
    assert after is not None
    assert (after.kind, ids(after.alarms)) == (MessageKind.ALL_CLEAR, ids([alarm(1)]))


_STEPS = st.lists(
    st.tuples(st.sampled_from(["raise", "end", "crash", "fail", "wait"]), st.integers(0, 4), st.integers(0, 2000)),
    max_size=30,
)


@given(_STEPS, st.booleans())
def test_given_any_course_of_things_when_alarms_stay_active_then_each_arrives_and_only_a_crash_repeats_it(
    steps: list[tuple[str, int, int]], quiet: bool
) -> None:
    chosen = settings(escalation={"enabled": False}, quiet_hours={"enabled": quiet, "start": "12:00", "end": "12:30"})
    outbox: Outbox = {}
    saved = deciding.as_text(outbox)
    active: dict[str, Alarm] = {}
    arrived: list[str] = []
    crashes, seconds = 0, 0

    def turn(*, takes: bool, keeps: bool) -> None:
        nonlocal outbox, saved
        outbox = noted(outbox, active.values(), chosen, at(seconds))
        message = due(outbox, chosen.channels[0], chosen, at(seconds))
        if message is not None and takes:
            if message.kind is MessageKind.ALARM:
                arrived.extend(ids(message.alarms))
            outbox = delivered(outbox, message, at(seconds))
        if keeps:
            saved = deciding.as_text(outbox)

    for number, (what, which, wait) in enumerate(steps):
        seconds += wait
        if what == "raise":
            one = alarm(number, AlarmKind.ORDER_STALLED if which % 2 else AlarmKind.PROTECTION_LOST)
            active[one.alarm_id] = one
        elif what == "end" and active:
            active.pop(list(active)[which % len(active)])
        turn(takes=what != "fail", keeps=what != "crash")
        if what == "crash":
            crashes += 1
            outbox = deciding.from_text(saved)
    for _ in range(4):
        seconds += 3600
        turn(takes=True, keeps=True)

    assert set(active) <= set(arrived)
    assert all(arrived.count(alarm_id) <= 1 + crashes for alarm_id in arrived)
