"""Who is called when something is wrong, and when: the section `alerts`.

Rules of this room: the address of a channel is a secret (who has it can write there, or read its token out of it). It
is part of no text that this library makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import time
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from exitfsm.config.mistakes import Path
from exitfsm.kinds import Severity
from exitfsm.policy import Section, Spec

#: What stands for a secret wherever settings are shown.
HIDDEN = "(hidden)"
#: The name of an environment variable that holds the address.
VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)\Z")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")


class ChannelKind(StrEnum):
    """How a channel is reached."""

    WEBHOOK = "webhook"
    APPRISE = "apprise"


class Channel(Section, frozen=True):
    """One way to reach a person."""

    name: Annotated[str, Spec("what it is called in messages: letters, digits, - and _")]
    url: Annotated[
        str,
        Spec("its address, or `$NAME` for what an environment variable holds; shown nowhere", secret=True),
    ]
    kind: Annotated[
        ChannelKind,
        Spec("`webhook`: JSON by POST to an http(s) address; `apprise`: any URL of apprise (extra `notify`)"),
    ] = ChannelKind.WEBHOOK
    escalation_only: Annotated[bool, Spec("whether it is used only for what nobody has acknowledged in time")] = False

    def __repr__(self) -> str:
        return f"Channel(name={self.name!r}, url={HIDDEN}, kind={self.kind}, escalation_only={self.escalation_only})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("name", self.name), ("url", HIDDEN), ("kind", str(self.kind))]


class QuietHours(Section, frozen=True):
    """Hours in which only critical alarms are sent; the others follow at their end. They may go over midnight."""

    enabled: Annotated[bool, Spec("whether there are any")] = False
    start: Annotated[time, Spec("when they begin")] = time(22, 0)
    end: Annotated[time, Spec("when they end")] = time(7, 0)
    timezone: Annotated[str, Spec("time zone of both, by its IANA name")] = "UTC"


class Escalation(Section, frozen=True):
    """An alarm that nobody acknowledges is sent again, and to the channels that are there for it only."""

    enabled: Annotated[bool, Spec("whether alarms escalate")] = True
    after_seconds: Annotated[
        int, Spec("how long an alarm may be active; it is sent again each time it has passed", ge=1, le=604_800)
    ] = 900
    least_severity: Annotated[Severity, Spec("the least severity that escalates")] = Severity.CRITICAL


class AlertSettings(Section, frozen=True):
    """Alarms that are sent to a person. Nothing is sent where there are no channels."""

    channels: Annotated[tuple[Channel, ...], Spec("where alarms are sent")] = ()
    least_severity: Annotated[Severity, Spec("the least severity that is sent")] = Severity.WARNING
    burst_seconds: Annotated[
        Decimal, Spec("how long further alarms are waited for, so that a burst is one message", ge=0, le=600)
    ] = Decimal(5)
    all_clear: Annotated[bool, Spec("whether a message follows when what was sent is no longer active")] = True
    quiet_hours: QuietHours = QuietHours()
    escalation: Escalation = Escalation()


def conflicts(alerts: AlertSettings) -> Iterator[tuple[list[Path], str]]:
    """Settings of the section that are right by themselves and wrong together."""
    seen: set[str] = set()
    for number, channel in enumerate(alerts.channels):
        here: Path = ("alerts", "channels", number)
        if not _NAME.match(channel.name):
            yield [(*here, "name")], "must be 1 to 40 letters, digits, - or _"
        elif channel.name in seen:
            yield [(*here, "name")], f'"{channel.name}" is the name of another channel, too'
        seen.add(channel.name)
        if (trouble := _trouble_of(channel)) is not None:
            yield [(*here, "url")], trouble
    if alerts.channels and all(channel.escalation_only for channel in alerts.channels):
        yield [("alerts", "channels")], "each has escalation_only: an alarm would reach nobody before it escalates"
    quiet = alerts.quiet_hours
    if quiet.enabled and quiet.start == quiet.end:
        yield [("alerts", "quiet_hours", "end"), ("alerts", "quiet_hours", "start")], "must not be the same as start"


def _trouble_of(channel: Channel) -> str | None:
    """What is wrong with an address, without showing it; None where nothing is, or where only its place is known."""
    url = channel.url
    if url.startswith("$"):
        return None if VARIABLE.match(url) else "begins with $, and is no name of an environment variable"
    if channel.kind is ChannelKind.APPRISE:
        return None if "://" in url else "is no URL of apprise: there is no :// in it"
    if not url.startswith(("https://", "http://")):
        return "is no address of a webhook: it must begin with https:// or http:// (or set kind: apprise)"
    return None


__all__ = [
    "HIDDEN",
    "VARIABLE",
    "AlertSettings",
    "Channel",
    "ChannelKind",
    "Escalation",
    "QuietHours",
    "conflicts",
]
