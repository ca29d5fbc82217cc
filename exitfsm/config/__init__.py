"""The configuration: the `exit_manager` section of the bot's YAML file, read, checked and explained.

Rules of this room: a setting is described once, in the `Spec` beside its field (in policy, and in settings.py for
what is no policy); the reader, the JSON Schema and the reference table are all made from that. Every mistake is
reported at once, with its place, its value and what is allowed. Nothing is guessed: what could be meant in two ways is
a mistake, because a wrong threshold costs money and a message does not. The file is data: no tag in it is ever acted
upon.

pydantic and yaml are imported where they are used, so that importing the library stays cheap.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

from exitfsm.config.alerts import AlertSettings
from exitfsm.config.files import read_file
from exitfsm.config.mistakes import SECTION, Mistake, Origin, lines_of, shown
from exitfsm.config.reading import checked, doubts
from exitfsm.config.reference import Setting, config_schema, reference_table
from exitfsm.config.settings import ExitConfig, LiveSettings, Managed, SessionHours
from exitfsm.errors import ConfigError

__all__ = [
    "AlertSettings",
    "ConfigWarning",
    "ExitConfig",
    "LiveSettings",
    "Managed",
    "SessionHours",
    "Setting",
    "config_schema",
    "load_config",
    "reference_table",
]


class ConfigWarning(UserWarning):
    """A setting is allowed but probably not what was meant."""


def load_config(source: ExitConfig | Mapping[str, Any] | str | os.PathLike[str]) -> ExitConfig:
    """Read and check a configuration.

    Args:
        source: the path of a YAML file with an `exit_manager` section (its other sections are left alone); or a
            mapping that has the key `exit_manager` or is the section itself; or a configuration, which is checked too.

    Returns:
        The configuration; what is not set takes its default. Equal settings give equal bytes (2, 2.0 and "2.00").

    Raises:
        ConfigError: with every mistake, one line each: `file:line: exit_manager.key: what is wrong; what is allowed`.

    Warns:
        ConfigWarning: something is allowed but probably not meant, as a stop nearer than the spread.
    """
    origin = _origin_of(source)
    config, mistakes = checked(origin)
    if mistakes:
        raise ConfigError(lines_of(origin, mistakes))
    for path, text in doubts(config):
        warnings.warn(lines_of(origin, [Mistake(path, text)])[0], ConfigWarning, stacklevel=2)
    return config


def _origin_of(source: ExitConfig | Mapping[str, Any] | str | os.PathLike[str]) -> Origin:
    if isinstance(source, (str, os.PathLike)):
        return read_file(source)
    if isinstance(source, ExitConfig):
        source = source.as_dict(secrets=True)
    if isinstance(source, Mapping):
        section = source.get(SECTION, {}) if SECTION in source else source
        return Origin("config", {} if section is None else section)
    raise ConfigError([f"config: {shown(source)} is no configuration; give the path of a YAML file, or a mapping"])
