"""Changed settings, read and bounded as in a configuration file, and put into a policy.

Rules of this room: only what is named changes. A setting that is named with the value that it has leaves the policy as
it is, byte for byte.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from exitfsm.config import ConfigWarning, ExitConfig, load_config
from exitfsm.config.settings import plain_value
from exitfsm.errors import ConfigError
from exitfsm.policy import ExitPolicy, differences

#: Dotted name of a setting of the policy -> its value as text, as it would stand in a configuration file.
Changes = Mapping[str, str]
_WHOLE = re.compile(r"[-+]?[0-9]+\Z")
_WORDS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}


def parse_change(text: str) -> tuple[str, str]:
    """Name and value of `name=value`.

    Raises:
        ConfigError: it is not of that form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError([f"{text!r} is no change: write it as stop_loss.threshold_pct=1.5"])
    return name.strip(), value.strip()


def changed(policy: ExitPolicy, changes: Changes) -> ExitPolicy:
    """`policy` with these settings.

    Raises:
        ConfigError: with every mistake: an unknown setting, a value that is not allowed, settings that do not fit.
    """
    if not changes:
        return policy
    wanted = plain_value(policy)
    mistakes = [mistake for name, text in changes.items() for mistake in _put(wanted, name, _value(text))]
    config = ExitConfig()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)  # odd settings are what this is for
            config = load_config(wanted)
    except ConfigError as error:
        mistakes += [line.replace("config: exit_manager.", "") for line in error.mistakes]
    if mistakes:
        raise ConfigError(mistakes)
    new = policy
    for name in changes:
        new = _taken(new, config.policy, name.split("."))
    return new


def _put(data: dict[str, Any], name: str, value: Any) -> Iterator[str]:
    """Put a value in its place; a mistake where there is no such place."""
    *sections, last = name.split(".")
    place: Any = data
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        known = ", ".join(sorted(place if isinstance(place, dict) else data))
        yield f"{name} is no setting of the policy; known here: {known}"
    elif isinstance(place[last], dict):
        yield f"{name} is a section; name one of its settings: {', '.join(f'{name}.{key}' for key in place[last])}"
    else:
        place[last] = value


def _value(text: str) -> Any:
    """A value as a configuration file would give it: numbers stay text, so that they stay exact."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _WHOLE.match(text):
        return int(text)
    if text.startswith(("[", "{")):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError([f"{text!r} cannot be read: {' '.join(str(error).split())}"]) from None
    return text


def _taken(policy: Any, source: Any, path: Sequence[str]) -> Any:
    """`policy` with one setting taken from `source`; itself where that is the same."""
    name, *rest = path
    ours, theirs = _setting(policy, name), _setting(source, name)
    value = _taken(ours, theirs, rest) if rest else theirs
    same = value == ours or _bytes(value) == _bytes(ours)
    return policy if same else replace(policy, **{name: value})


def _bytes(value: Any) -> bytes:
    return msgspec.json.encode([value] if value is not msgspec.UNSET else None)


def _setting(of: Any, name: str) -> Any:
    """A setting or section of a policy or of one of its sections."""
    return of.section(name) if isinstance(of, ExitPolicy) else getattr(of, name)


def policy_of(given: ExitPolicy | Mapping[str, Any], base: ExitPolicy) -> ExitPolicy:
    """A policy as a bot gives it: a whole one, or sections and settings that are put into `base`.

    Raises:
        ConfigError: with every mistake: an unknown setting, a value that is not allowed, settings that do not fit.
    """
    wanted = plain_value(given if isinstance(given, ExitPolicy) else base)
    if not isinstance(given, ExitPolicy):
        unknown = [name for name in given if name not in wanted]
        if unknown:
            known = ", ".join(wanted)
            raise ConfigError([f"{name} is no setting of the policy; known here: {known}" for name in unknown])
        for name, value in given.items():
            was = wanted[name]
            wanted[name] = {**was, **value} if isinstance(was, dict) and isinstance(value, Mapping) else value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)
            return load_config(wanted).policy
    except ConfigError as error:
        raise ConfigError([line.replace("config: exit_manager.", "") for line in error.mistakes]) from None


def needs_restart(before: ExitConfig, after: ExitConfig) -> list[str]:
    """The settings that differ and are no part of the policy, by their names: what they say may be a secret."""
    found = [d.name for d in differences(before, after) if not d.name.startswith("policy")]
    return list(dict.fromkeys(found))
