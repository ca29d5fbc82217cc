"""`exitfsm config …`: check a configuration, describe what may be set, show what is in effect."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exitfsm.cli import screen
from exitfsm.cli.codes import FINDING
from exitfsm.cli.options import JsonFlag
from exitfsm.errors import ConfigError

if TYPE_CHECKING:
    from exitfsm.config import ExitConfig

# A file that cannot be opened is wrong usage (exit code 2); what is wrong inside it is a finding (1).
_FileArgument = typer.Argument(
    metavar="FILE", exists=True, dir_okay=False, readable=True, help="YAML file with an exit_manager section."
)


def check(file: Annotated[Path, _FileArgument], as_json: JsonFlag = False) -> None:
    """Find every mistake in a configuration file.

    Exit codes: 0 no mistakes (there may be warnings), 1 mistakes, 2 the file cannot be read.
    """
    doubts: list[str] = []
    mistakes: list[str] = []
    try:
        doubts = load(file)[1]
    except ConfigError as error:
        mistakes = error.mistakes
    if as_json:
        screen.emit_json({"file": str(file), "ok": not mistakes, "mistakes": mistakes, "warnings": doubts})
    else:
        for doubt in doubts:
            screen.warn(doubt)
        for mistake in mistakes:
            screen.complain(mistake)
        if not mistakes:
            screen.out().print(f"{screen.clean(file)}: no mistakes", soft_wrap=True)
    if mistakes:
        raise typer.Exit(FINDING)


def schema() -> None:
    """Print the JSON Schema of a configuration, for editors."""
    from exitfsm.config import config_schema

    screen.emit_json(config_schema())


def show(file: Annotated[Path | None, _FileArgument] = None, as_json: JsonFlag = False) -> None:
    """Print the configuration in effect, as YAML.

    Every default is filled in. Without FILE: the defaults.
    """
    effective = configured(file).as_dict()
    if as_json:
        screen.emit_json(effective)
        return
    import yaml

    screen.emit(yaml.safe_dump(effective, sort_keys=False, allow_unicode=False))


def configured(path: Path | None) -> ExitConfig:
    """The configuration of a file, or the defaults without one; its warnings are shown on stderr.

    Raises:
        ConfigError: the file has mistakes, or cannot be read.
    """
    from exitfsm.config import ExitConfig

    if path is None:
        return ExitConfig()
    config, doubts = load(path)
    for doubt in doubts:
        screen.warn(doubt)
    return config


def load(path: Path) -> tuple[ExitConfig, list[str]]:
    """The configuration of a file, and what in it is allowed but probably not meant.

    Raises:
        ConfigError: the file has mistakes, or cannot be read.
    """
    from exitfsm.config import ConfigWarning, load_config

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConfigWarning)
        config = load_config(path)
    return config, [str(warning.message) for warning in caught if issubclass(warning.category, ConfigWarning)]
