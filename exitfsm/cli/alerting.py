"""`exitfsm alerts …`: whether alarms would reach a person."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from exitfsm.cli import screen
from exitfsm.cli.codes import FINDING
from exitfsm.cli.configuring import configured
from exitfsm.cli.options import JsonFlag
from exitfsm.errors import ConfigError

_FileArgument = typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="The bot's YAML file.")


def try_out(file: Annotated[Path, _FileArgument], as_json: JsonFlag = False) -> None:
    """Send a test message by every channel of the section `alerts`, also by those for escalations only.

    Exit codes: 0 all were taken, 1 one was not, 2 a channel cannot be made, or there is none.
    """
    from exitfsm.alerts import open_channels
    from exitfsm.alerts.channels import tried
    from exitfsm.alerts.wording import for_test
    from exitfsm.kinds import AlarmKind
    from exitfsm.values import Alarm

    settings = configured(file).alerts
    if not settings.channels:
        raise ConfigError([f"{file}: alerts has no channels: alarms reach nobody"])
    channels, now = open_channels(settings), datetime.now(UTC)
    text = "this is a test by exitfsm alerts test: nothing is wrong"
    alarm = Alarm(alarm_id=f"test/{now:%Y%m%dT%H%M%S}Z", kind=AlarmKind.ALERT_FAILED, text=text, raised_at=now)
    found = tried(channels, [for_test(name, alarm) for name in channels])
    if as_json:
        screen.emit_json({"id": alarm.alarm_id, "channels": {name: why or "taken" for name, why in found.items()}})
    else:
        for name, why in found.items():
            screen.out().print(f"{name}: {f'not taken: {why}' if why else 'taken'}", soft_wrap=True, markup=False)
    if any(found.values()):
        raise typer.Exit(FINDING)
