"""What a message says: its subject, its text for people, and the same for programs.

Text from outside is made harmless: what a broker writes forges no header and no line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exitfsm.alerts.deciding import Message, MessageKind, severity_of
from exitfsm.kinds import ALARMS, AlarmKind
from exitfsm.outside import harmless
from exitfsm.projections import ACCOUNT_PREFIX
from exitfsm.values import Alarm, stamp

#: Alarms whose text is in a message for people; a market that stops out a thousand positions is still one message.
_LINES_MAX = 50
_SUBJECT_MAX, _IDS_MAX = 200, 20
_SAYS = {
    MessageKind.ALARM: "",
    MessageKind.AGAIN: "not acknowledged: ",
    MessageKind.ALL_CLEAR: "all clear: ",
}


def subject(message: Message) -> str:
    """One line that says the worst of it, with the id of that alarm."""
    first, more = message.alarms[0], len(message.alarms) - 1
    if message.kind is MessageKind.TEST:
        return f"exitfsm: test, nothing is wrong [{first.alarm_id}]"
    severity = "" if message.kind is MessageKind.ALL_CLEAR else f"{severity_of(first)} "
    what = f"{_SAYS[message.kind]}{severity}{first.kind} {about(first)}".rstrip()
    others = f" and {more:,} more" if more else ""
    return _short(harmless(f"exitfsm: {what}{others} [{first.alarm_id}]"))


def _short(text: str) -> str:
    """A line that a header takes; its end, with the id, is kept."""
    if len(text) <= _SUBJECT_MAX:
        return text
    head, _, alarm_id = text.rpartition(" [")
    return f"{head[: max(20, _SUBJECT_MAX - len(alarm_id) - 4)]}… [{alarm_id}"


def body(message: Message) -> str:
    """All of it, for a person: what is wrong, what to do, the id of each alarm."""
    lines = [line for alarm in message.alarms[:_LINES_MAX] for line in _of_one(alarm, message)]
    more = len(message.alarms) - _LINES_MAX
    if more > 0:
        lines.append(f"and {more:,} more: see `exitfsm status`")
    return "\n".join(lines).rstrip() + "\n"


def _of_one(alarm: Alarm, message: Message) -> list[str]:
    if message.kind is MessageKind.TEST:
        return [alarm.text, _id_line(alarm)]
    title = f"{severity_of(alarm)} {alarm.kind} {about(alarm)}".rstrip()
    if message.kind is MessageKind.ALL_CLEAR:
        return [harmless(f"no longer active: {title}, raised {stamp(alarm.raised_at)}"), _id_line(alarm), ""]
    lines = [harmless(f"{title} since {stamp(alarm.raised_at)}"), f"  {harmless(alarm.text)}"]
    if what_to_do := _do(alarm):
        lines.append(f"  what to do: {what_to_do}")
    return [*lines, _id_line(alarm), ""]


def _id_line(alarm: Alarm) -> str:
    return f"  id: {harmless(alarm.alarm_id)}"


def headers(message: Message) -> dict[str, str]:
    """Headers that let a receiver drop what it has already: the ids of the alarms, and what is said of them."""
    ids = [harmless(alarm.alarm_id) for alarm in message.alarms[:_IDS_MAX]]
    ascii_ids = " ".join(ids).encode("ascii", "backslashreplace").decode()
    return {"X-Exitfsm-Alarm": ascii_ids, "X-Exitfsm-Message": str(message.kind)}


def as_data(message: Message) -> dict[str, Any]:
    """The message for a program: what a webhook is sent as JSON, with every alarm."""
    return {
        "version": 1,
        "kind": str(message.kind),
        "subject": subject(message),
        "text": body(message),
        "alarms": [_data_of(alarm, level) for alarm, level in zip(message.alarms, message.levels, strict=True)],
    }


def _data_of(alarm: Alarm, level: int) -> dict[str, Any]:
    return {
        "id": alarm.alarm_id,
        "kind": alarm.kind,
        "severity": str(severity_of(alarm)),
        "about": about(alarm),
        "text": alarm.text,
        "raised_at": stamp(alarm.raised_at),
        "do": _do(alarm),
        "escalated": level,
    }


def about(alarm: Alarm) -> str:
    """The symbol that an alarm is about; empty where it is about no position."""
    if alarm.alarm_id.startswith(ACCOUNT_PREFIX):
        return ""
    parts = alarm.alarm_id.rsplit(":", 3)  # symbol:side:epoch:account/kind/number
    return parts[0] if len(parts) == 4 else ""


def _do(alarm: Alarm) -> str:
    return ALARMS[AlarmKind(alarm.kind)].do if alarm.kind in ALARMS else ""


def for_test(channel: str, alarm: Alarm) -> Message:
    """A message that says that it is a test."""
    return Message(channel=channel, kind=MessageKind.TEST, alarms=(alarm,), levels=(0,))


def ids(alarms: Sequence[Alarm]) -> str:
    """Alarms in a line of the log."""
    return " ".join(alarm.alarm_id for alarm in alarms[:_IDS_MAX])


__all__ = ["about", "as_data", "body", "for_test", "headers", "ids", "subject"]
