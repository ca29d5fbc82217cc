"""What is sent to which channel, and when: a function of the active alarms, what was sent before, and a time.

There is no queue. What is active, the events of the store say; beside them stands what each channel has been sent (the
outbox). What is active and was not sent is due. So nothing is lost in a crash; and where one falls between a send and
its record, the message is sent once more, with the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

import msgspec
from msgspec.structs import replace

from exitfsm.config import AlertSettings
from exitfsm.config.alerts import Channel, Escalation, QuietHours
from exitfsm.kinds import ALARMS, AlarmKind, Severity
from exitfsm.values import Alarm

#: How the id of an alarm begins that is about a channel.
OF_A_CHANNEL = "alerts/"
#: Failures in a row after which a channel is an alarm on the others.
FAILURES_MAX = 3
_RETRY_S, _RETRY_MAX_S = 1.0, 300.0
#: From the worst on.
_SEVERITIES = tuple(Severity)


class MessageKind(StrEnum):
    """What a message says of its alarms."""

    ALARM = "alarm"
    AGAIN = "again"
    ALL_CLEAR = "all_clear"
    TEST = "test"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm: since when it is known here, since when it is no longer active, and when each channel was sent it."""

    alarm: Alarm
    seen_at: datetime
    cleared_at: datetime | None = None
    sent: dict[str, datetime] = {}


#: All alarms that are active, or of which an all-clear is due; by their ids, oldest first.
Outbox = Mapping[str, Entry]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent in one go.

    Attributes:
        channel: the name of the channel.
        kind: what it says of the alarms.
        alarms: the alarms, the most severe first.
        levels: of each alarm, how often the time to escalate has passed.
    """

    channel: str
    kind: MessageKind
    alarms: tuple[Alarm, ...]
    levels: tuple[int, ...]


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a channel does: its failures in a row, since when, why, and when it is tried again."""

    failures: int = 0
    since: datetime | None = None
    why: str = ""
    retry_at: datetime | None = None


def severity_of(alarm: Alarm) -> Severity:
    """How severe an alarm is; one of a kind that is not known here counts as critical."""
    return ALARMS[AlarmKind(alarm.kind)].severity if alarm.kind in ALARMS else Severity.CRITICAL


def noted(outbox: Outbox, active: Iterable[Alarm], settings: AlertSettings, now: datetime) -> Outbox:
    """The outbox with what is active now, and what an all-clear is due of. Where nothing changes, the same object.

    Where the clock was put back, what was noted before counts as of now, so that nothing waits for the clock.
    """
    names = {channel.name for channel in settings.channels}
    by_id = {alarm.alarm_id: alarm for alarm in active}
    made: dict[str, Entry] = {}
    for alarm_id, entry in outbox.items():
        sent = entry.sent if entry.sent.keys() <= names else {n: s for n, s in entry.sent.items() if n in names}
        is_active = by_id.pop(alarm_id, None) is not None
        if not is_active and not (sent and settings.all_clear):
            continue
        cleared_at = None if is_active else min(entry.cleared_at or now, now)
        noted_now = replace(entry, sent=sent, cleared_at=cleared_at, seen_at=min(entry.seen_at, now))
        made[alarm_id] = entry if noted_now == entry else noted_now
    made |= {alarm_id: Entry(alarm=alarm, seen_at=now) for alarm_id, alarm in by_id.items()}
    is_same = made.keys() == outbox.keys() and all(made[alarm_id] is entry for alarm_id, entry in outbox.items())
    return outbox if is_same else made


def due(
    outbox: Outbox, channel: Channel, settings: AlertSettings, now: datetime, *, hurry: bool = False
) -> Message | None:
    """What is to be sent to a channel now; None where nothing is.

    Args:
        outbox: what is active, and what was sent.
        channel: which one.
        settings: all settings.
        now: the time.
        hurry: there will be no later time: nothing is waited for.
    """
    wait = timedelta(seconds=0 if hurry else float(settings.burst_seconds))
    quiet = is_quiet(settings.quiet_hours, now)
    may = [entry for entry in outbox.values() if _is_for(entry.alarm, channel, settings, is_quiet=quiet)]
    levels = {entry.alarm.alarm_id: level(entry, settings.escalation, now) for entry in may}
    after = timedelta(seconds=settings.escalation.after_seconds)
    active = [entry for entry in may if entry.cleared_at is None]
    if not channel.escalation_only:
        fresh = [entry for entry in active if channel.name not in entry.sent]
        if fresh and min(entry.seen_at for entry in fresh) + wait <= now:
            return _message(channel, MessageKind.ALARM, fresh, levels)
    late = [entry for entry in active if levels[entry.alarm.alarm_id] > 0]
    again = [entry for entry in late if _is_due_again(entry.sent.get(channel.name), channel, now, after)]
    if again:
        return _message(channel, MessageKind.AGAIN, again, levels)
    over = [entry for entry in may if entry.cleared_at is not None and channel.name in entry.sent]
    if over and min(entry.cleared_at or now for entry in over) + wait <= now:
        return _message(channel, MessageKind.ALL_CLEAR, over, levels)
    return None


def _is_for(alarm: Alarm, channel: Channel, settings: AlertSettings, *, is_quiet: bool) -> bool:
    """True where a channel hears of an alarm now. It does not hear that it fails itself."""
    if alarm.alarm_id.startswith(f"{OF_A_CHANNEL}{channel.name}/"):
        return False
    severity = severity_of(alarm)
    if is_quiet and severity is not Severity.CRITICAL:
        return False
    return reaches(severity, settings.least_severity)


def _is_due_again(sent_at: datetime | None, channel: Channel, now: datetime, after: timedelta) -> bool:
    """True where the time to escalate has passed since a channel was sent an alarm, or where it is there for that."""
    if sent_at is None:
        return channel.escalation_only
    return not sent_at <= now < sent_at + after


def _message(channel: Channel, kind: MessageKind, entries: Iterable[Entry], levels: Mapping[str, int]) -> Message:
    worst_first = sorted((entry.alarm for entry in entries), key=lambda a: _SEVERITIES.index(severity_of(a)))
    chosen = tuple(levels[alarm.alarm_id] for alarm in worst_first)
    return Message(channel=channel.name, kind=kind, alarms=tuple(worst_first), levels=chosen)


def reaches(severity: Severity, least: Severity) -> bool:
    """True where it is at least as severe."""
    return _SEVERITIES.index(severity) <= _SEVERITIES.index(least)


def level(entry: Entry, escalation: Escalation, now: datetime) -> int:
    """How often the time to escalate has passed since an alarm came up."""
    if not escalation.enabled or not reaches(severity_of(entry.alarm), escalation.least_severity):
        return 0
    return max(0, (now - entry.seen_at) // timedelta(seconds=escalation.after_seconds))


def is_quiet(quiet: QuietHours, now: datetime) -> bool:
    """True in the hours in which only critical alarms are sent."""
    if not quiet.enabled:
        return False
    local = now.astimezone(ZoneInfo(quiet.timezone)).time()
    if quiet.start < quiet.end:
        return quiet.start <= local < quiet.end
    return local >= quiet.start or local < quiet.end


# --- what became of a message -----------------------------------------------------------------------------------------


def delivered(outbox: Outbox, message: Message, now: datetime) -> Outbox:
    """The outbox after a channel took a message. Of what ended while it was sent an all-clear is due."""
    made = dict(outbox)
    for alarm in message.alarms:
        entry = made.get(alarm.alarm_id) or Entry(alarm=alarm, seen_at=now)
        sent = {name: at for name, at in entry.sent.items() if name != message.channel}
        if message.kind is not MessageKind.ALL_CLEAR:
            sent[message.channel] = now
        made[alarm.alarm_id] = replace(entry, sent=sent)
    return made


def failed(health: Health, why: str, now: datetime) -> Health:
    """How a channel does after one more failure."""
    failures = health.failures + 1
    pause_s = min(_RETRY_MAX_S, _RETRY_S * 2.0 ** min(failures, 20))
    return Health(failures=failures, since=health.since or now, why=why, retry_at=now + timedelta(seconds=pause_s))


def may_try(health: Health, now: datetime) -> bool:
    """True where a channel may be sent something now. A clock that was put back does not keep it waiting."""
    if health.retry_at is None:
        return True
    return not health.retry_at - timedelta(seconds=_RETRY_MAX_S) <= now < health.retry_at


def alarms_of(healths: Mapping[str, Health]) -> list[Alarm]:
    """An alarm for each channel that fails."""
    return [
        Alarm(
            alarm_id=f"{OF_A_CHANNEL}{name}/{health.since:%Y%m%dT%H%M%S}Z",
            kind=AlarmKind.ALERT_FAILED,
            text=f"the channel {name} takes no messages: {health.why}",
            raised_at=health.since,
        )
        for name, health in healths.items()
        if health.failures >= FAILURES_MAX and health.since is not None
    ]


# --- as it is kept in the store ---------------------------------------------------------------------------------------


def as_text(outbox: Outbox) -> str:
    """The outbox as it is saved."""
    return msgspec.json.encode(list(outbox.values())).decode()


def from_text(text: str) -> Outbox:
    """What was saved; nothing where it cannot be read: then all that is active is sent again."""
    try:
        entries = msgspec.json.decode(text or "[]", type=list[Entry])
    except (msgspec.DecodeError, UnicodeError):
        return {}
    return {entry.alarm.alarm_id: entry for entry in entries}
