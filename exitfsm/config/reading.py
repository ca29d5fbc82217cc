"""From plain data to the structs: pydantic models, made from the structs, find every mistake in one go."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import time
from decimal import Decimal
from functools import cache, partial
from numbers import Integral
from typing import TYPE_CHECKING, Annotated, Any, get_args
from zoneinfo import ZoneInfo

import msgspec

from exitfsm.config import alerts
from exitfsm.config.mistakes import SECTION, Mistake, Origin, Path, shown
from exitfsm.config.settings import NONE, ExitConfig, Field, allowed, bounds, field_at, fields_of, root_fields
from exitfsm.errors import nearest
from exitfsm.order_ids import EXIT_PREFIXES
from exitfsm.policy import RULES, ExitPolicy
from exitfsm.values import EXACT, decimal_of, plain, same_symbol

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

#: One way to write a number: `010` (8 or 10?), `0x1F` and `1:30` (90?) mean different things to different readers.
NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*(?:_[0-9]+)*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?\Z")
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\Z")
_DIGITS_MAX = 60  # characters of a number given as text
_PLACES_MAX = 18  # decimal places of a setting: keeps every product in the levels within `values.EXACT`
_DEPTH_MAX = 20  # nesting of mappings; the section needs 4


def checked(origin: Origin) -> tuple[ExitConfig, list[Mistake]]:
    """The configuration and all mistakes; where there are any, what is mistaken has its default."""
    from pydantic import ValidationError

    mistakes = list(origin.mistakes)
    if not isinstance(origin.section, Mapping):
        text = f"{shown(origin.section)} is not allowed; must be a section of settings"
        return ExitConfig(), mistakes or [Mistake((), text)]
    section = _as_dicts(origin.section, _DEPTH_MAX)
    try:
        model = _model().model_validate(section)
    except ValidationError as error:
        found = error.errors(include_url=False)
        left_out = {mistake.path for mistake in mistakes}  # not missing: told of already
        mistakes += [mistake for mistake in map(_mistake_of, found) if mistake.path not in left_out]
        # Once more without what is wrong, so that the checks across settings are made in the same go.
        model = _model().model_validate(_without(section, {detail["loc"] for detail in found}))
    values = _built(root_fields(), model)
    others = {field.name: values.pop(field.name) for field in fields_of(ExitConfig) if field.name in values}
    config = ExitConfig(policy=ExitPolicy(**values), **others)
    mistakes += [Mistake(paths[0], text) for paths, text in _conflicts(config) if not _touches(mistakes, paths)]
    return config, mistakes


def doubts(config: ExitConfig) -> Iterator[tuple[Path, str]]:
    """What is allowed but probably not meant."""
    for rule in RULES:
        for paths, text in rule.doubts(config.policy):
            yield paths[0], text


# --- One value ------------------------------------------------------------------------------------------------------


def _read(field: Field, value: object) -> Any:
    """The exact value of one setting.

    Raises:
        ValueError: its text is the mistake.
    """
    if field.may_be_none and value == NONE:
        return msgspec.UNSET
    if field.choices:
        if isinstance(value, str) and str(value) in field.choices:
            words = {str(word): word for word in get_args(field.type)}
            return field.type(value) if isinstance(field.type, type) else words[value]
    elif field.is_texts:
        if isinstance(value, list) and all(isinstance(one, str) and one.strip() and one.isprintable() for one in value):
            return tuple(value)
    elif field.type is bool:
        if isinstance(value, bool):
            return value
    elif field.type is str:
        if isinstance(value, str) and value.isprintable():
            return value
    elif field.type is time:
        if (moment := _time(value)) is not None:
            return moment
    elif field.spec.word and value == field.spec.word:
        return Decimal(0)
    elif (number := _number(value)) is not None and number.is_finite():
        return _bounded(field, value, number)
    raise ValueError(f"{_shown(field, value)} is not allowed; must be {allowed(field)}")


def _shown(field: Field | None, value: object) -> str:
    """A value for a message; one that is a secret, or stands where one belongs, is not shown."""
    return "what is there" if field is not None and field.holds_secret else shown(value)


def _number(value: object) -> Decimal | None:
    """The number that a value stands for, a float by its shortest text; None when it is none."""
    if isinstance(value, bool):
        return None  # although Python counts it among the integers
    if isinstance(value, str):
        return Decimal(value) if len(value) <= _DIGITS_MAX and NUMBER.match(value) else None
    if isinstance(value, Integral):
        return Decimal(int(value))
    return decimal_of(value) if isinstance(value, (Decimal, float)) else None


def _bounded(field: Field, value: object, number: Decimal) -> Decimal | int:
    gt, ge, lt, le = field.limits
    if (
        (gt is not None and number <= gt)
        or (ge is not None and number < ge)
        or (lt is not None and number >= lt)
        or (le is not None and number > le)
    ):
        raise ValueError(f"{shown(value)} is not allowed; must be {bounds(field)}")
    rounded = EXACT.quantize(number, Decimal(1) if field.type is int else Decimal(1).scaleb(-_PLACES_MAX))
    if rounded != number:
        must = f"be {allowed(field)}" if field.type is int else f"have at most {_PLACES_MAX} decimal places"
        raise ValueError(f"{shown(value)} is not allowed; must {must}")
    if field.type is int:
        return int(number)
    # 2, 2.0 and 2.00 are one setting, so they must be the same bytes in the events.
    is_default = isinstance(field.default, Decimal | int | float) and number == field.default
    return decimal_of(field.default) if is_default else Decimal(plain(rounded))


def _time(value: object) -> time | None:
    if isinstance(value, time) and value.tzinfo is None:
        return value if value == value.replace(second=0, microsecond=0) else None
    match = _TIME.match(value) if isinstance(value, str) else None
    return time(int(match[1]), int(match[2])) if match else None


# --- The section as a whole -----------------------------------------------------------------------------------------


@cache
def _model() -> type[BaseModel]:
    return _model_of(SECTION, root_fields())


def _model_of(name: str, fields: Sequence[Field]) -> type[BaseModel]:
    """A pydantic model that knows these fields and no others."""
    from pydantic import ConfigDict, PlainValidator, create_model

    parts: dict[str, Any] = {}
    for field in fields:
        kind: Any = Annotated[Any, PlainValidator(partial(_read, field))]
        if field.inner:
            kind = _model_of(field.name, field.inner)
            kind = list[kind] if field.item else kind
        # A default is never validated, and what was not set is never read: the real defaults are the structs'.
        parts[field.name] = (kind, ... if field.default is msgspec.NODEFAULT else None)
    return create_model(name, __config__=ConfigDict(extra="forbid"), **parts)


def _built(fields: Sequence[Field], model: BaseModel) -> dict[str, Any]:
    """The arguments for a struct: what was set, and nothing else."""
    values: dict[str, Any] = {}
    for field in fields:
        if field.name in model.model_fields_set:
            value = getattr(model, field.name)
            if field.section:
                value = field.section(**_built(field.inner, value))
            elif field.item:
                value = tuple(field.item(**_built(field.inner, item)) for item in value)
                value = field.listed(**{field.listed.listed: value}) if field.listed else value
            values[field.name] = value
    return values


def _as_dicts(value: object, depth: int) -> Any:
    """The one form that the models read: mappings as dicts with text keys, sequences as lists."""
    if depth and isinstance(value, Mapping):
        return {key if isinstance(key, str) else shown(key): _as_dicts(v, depth - 1) for key, v in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_as_dicts(item, depth - 1) for item in value]
    return value


def _without(section: Mapping[str, Any], wrong: Collection[Path]) -> dict[str, Any]:
    """A copy that lacks the mistaken keys; of a list with a mistake nothing is left."""
    kept: dict[str, Any] = {}
    for key, value in section.items():
        below = {path[1:] for path in wrong if path[0] == key}
        if not below:
            kept[key] = value
        elif () not in below and isinstance(value, dict):
            kept[key] = _without(value, below)
    return kept


def _touches(mistakes: Collection[Mistake], paths: Sequence[Path]) -> bool:
    """True when one of the paths, or something above or below it, is mistaken already."""
    return any(wrong.path[: len(path)] == path[: len(wrong.path)] for wrong in mistakes for path in paths)


# --- What is wrong --------------------------------------------------------------------------------------------------


def _mistake_of(detail: ErrorDetails) -> Mistake:
    """One of pydantic's errors in our words."""
    path, value = detail["loc"], detail["input"]
    field = field_at(path)
    match detail["type"]:
        case "value_error":
            why = field.spec.why if field is not None else ""
            text = f"{detail['ctx']['error']}{f' ({why})' if why else ''}"
        case "extra_forbidden":
            text = _unknown(path)
        case "missing" if field is not None:
            text = f"is missing; must be {allowed(field)}"
        case _ if value is None:
            switchable = field is not None and any(inner.name == "enabled" for inner in field.inner)
            off = ", or write {enabled: false} to switch the rule off" if switchable else ""
            text = f"is empty; remove the key to take the defaults{off}"
        case _:
            must = "a section of settings" if field is None or isinstance(path[-1], int) else allowed(field)
            text = f"{_shown(field, value)} is not allowed; must be {must}"
    return Mistake(path, text)


def _unknown(path: Path) -> str:
    parent = field_at(path[:-1])
    known = [field.name for field in (parent.inner if parent else root_fields())]
    guess = nearest(str(path[-1]), known if parent else [*known, SECTION])
    return "unknown setting; " + (f'did you mean "{guess}"?' if guess else f"known here: {', '.join(known)}")


def _conflicts(config: ExitConfig) -> Iterator[tuple[list[Path], str]]:
    """Settings that are right by themselves and wrong together: the paths concerned, the one to report first."""
    session = config.session
    for rule in RULES:
        yield from rule.conflicts(config.policy)
    both = sorted(
        one for one in config.manage.symbols if any(same_symbol(one, other) for other in config.manage.ignore)
    )
    if both:
        text = f"{shown(both[0])} is not allowed; it stands in ignore, too: is it to be managed or not?"
        yield [("manage", "symbols"), ("manage", "ignore")], text
    if (config.manage.owner == "ids") is not bool(config.manage.ids):
        lacking = 'needs ids: how do the bot\'s order ids begin? For example ["bot-"]'
        needless = "stands beside ids, which count with owner: ids only"
        text = f'"{config.manage.owner}" is not allowed; it {needless if config.manage.ids else lacking}'
        yield [("manage", "owner"), ("manage", "ids")], text
    exits = [one for one in config.manage.ids if any(one.startswith(p) or p.startswith(one) for p in EXIT_PREFIXES)]
    if exits:
        text = f"{shown(exits[0])} is not allowed; so begin the ids of exits: what they sell is no purchase"
        yield [("manage", "ids")], text
    for path, zone in (
        (("session", "timezone"), session.timezone),
        (("alerts", "quiet_hours", "timezone"), config.alerts.quiet_hours.timezone),
    ):
        if (trouble := _zone_trouble(zone)) is not None:
            yield [path], trouble
    yield from alerts.conflicts(config.alerts)
    if session.open >= session.close:
        text = f'"{session.open:%H:%M}" is not allowed; must be before close ("{session.close:%H:%M}")'
        yield [("session", "open"), ("session", "close")], text


def _zone_trouble(name: str) -> str | None:
    """What is wrong with a time zone's name; None when it is known."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # malformed, a folder of the database, not found
        from zoneinfo import available_timezones

        guess = nearest(name, sorted(available_timezones()))
        hint = f'did you mean "{guess}"?' if guess else 'use an IANA name like "America/New_York"'
        return f"{shown(name)} is no known time zone; {hint}"
    return None
