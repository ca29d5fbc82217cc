"""What there is to set: the configuration as structs, and each setting's type, default, bounds and description."""

from __future__ import annotations

import inspect
from datetime import time
from decimal import Decimal
from enum import StrEnum
from functools import cache, partial
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from exitfsm.config.alerts import HIDDEN, AlertSettings
from exitfsm.config.mistakes import SECTION, Path
from exitfsm.policy import ExitPolicy, Section, Spec
from exitfsm.values import decimal_of, plain

#: The value of a setting that has none.
NONE = "none"


class SessionHours(Section, frozen=True):
    """Regular market hours, Monday to Friday, for the simulation and the paper broker; a live broker knows its own."""

    timezone: Annotated[str, Spec("time zone of the exchange, by its IANA name")] = "America/New_York"
    trade: Annotated[
        Literal["live", "regular", "extended"],
        Spec(
            "`live`: where a live broker says that the market is closed, a bar decides nothing; `regular`: so it is in "
            "simulation, too, by the hours below; `extended`: it does decide"
        ),
    ] = "live"
    open: Annotated[time, Spec("when the session opens, in that zone")] = time(9, 30)
    close: Annotated[time, Spec("when the session closes, in that zone")] = time(16, 0)
    calendar: Annotated[
        str,
        Spec(
            "an exchange's calendar with its half days and holidays, e.g. XLON, CMES or 24/7 (exitfsm[calendars]); it "
            "counts instead of the hours, which are used where it cannot be had"
        ),
    ] = ""


class LiveSettings(Section, frozen=True):
    """How the live manager talks to the broker. None of it changes what is decided."""

    broker_timeout_seconds: Annotated[Decimal, Spec("longest wait for one answer of the broker", gt=0, le=600)] = (
        Decimal(10)
    )
    poll_seconds: Annotated[Decimal, Spec("how often a working exit order is looked up", gt=0, le=3600)] = Decimal(5)
    sync_seconds: Annotated[Decimal, Spec("how often everything is reconciled with the broker", gt=0, le=86_400)] = (
        Decimal(60)
    )
    request_life_seconds: Annotated[
        Decimal,
        Spec("for how long a request without an answer may still reach the broker", gt=0, le=86_400),
    ] = Decimal(105)
    patience_seconds: Annotated[
        Decimal, Spec("how long any wait may last before a person is told", gt=0, le=86_400)
    ] = Decimal(120)
    feed_silence_seconds: Annotated[
        Decimal,
        Spec("how long a held symbol may be without a bar, in its session, before a person is told", gt=0, le=86_400),
    ] = Decimal(600)
    bar_seconds: Annotated[
        int,
        Spec("how long a bar is, in seconds, where bars are long; 0 learns it of the bars", ge=0, le=10**7),
    ] = 0
    orders_per_minute: Annotated[int, Spec("most orders and cancels sent in a minute", gt=0, le=100_000)] = 120
    breaker_failures: Annotated[int, Spec("failures in a row after which sends are spaced out", gt=0, le=1000)] = 5
    breaker_probe_seconds: Annotated[Decimal, Spec("time between sends while the broker fails", gt=0, le=3600)] = (
        Decimal(15)
    )
    lookback_days: Annotated[
        int, Spec("how far back the broker's fills are read to find a position's start", gt=0, le=3650)
    ] = 30
    takeover_after_seconds: Annotated[
        Decimal,
        Spec("how long the owner of a store on a server may be silent before a standby takes it", gt=2, le=3600),
    ] = Decimal(10)
    entry_id_prefix: Annotated[
        str,
        Spec("how the client order ids of the bot's own entry orders begin; such an order is canceled before an exit"),
    ] = ""
    foreign_exits: Annotated[
        Literal["by_prefix", "cancel", "wait"],
        Spec(
            "what becomes of a closing order that is not ours before an exit: it is canceled, or waited for where the "
            "broker would sell both; `by_prefix` cancels one whose id begins with entry_id_prefix, and waits for others"
        ),
    ] = "by_prefix"


class Managed(Section, frozen=True):
    """What of the account is managed: which symbols, and whose purchases. The start says it for each position."""

    symbols: Annotated[tuple[str, ...], Spec("these alone are managed; all where it is empty")] = ()
    ignore: Annotated[tuple[str, ...], Spec("these are never managed, and never sold")] = ()
    owner: Annotated[
        Literal["account", "ids", "handed"],
        Spec(
            "`account`: all that the account holds; `ids`: what orders bought whose client ids begin as one of "
            "`manage.ids`, by the broker's executions; `handed`: what the bot hands to `watch()`, and no more of it"
        ),
    ] = "account"
    ids: Annotated[
        tuple[str, ...], Spec("with `owner: ids`, how the client order ids begin of what buys and sells for the bot")
    ] = ()


class ExitConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is configured. In the file the fields of `policy` stand directly in the section."""

    policy: ExitPolicy = ExitPolicy()
    session: SessionHours = SessionHours()
    live: LiveSettings = LiveSettings()
    manage: Managed = Managed()
    alerts: AlertSettings = AlertSettings()
    record_bars: Annotated[bool, Spec("whether the bars of held positions are recorded beside the events")] = False
    bars: Annotated[
        str, Spec("the file that record_bars writes; beside the store's own when empty, needed where that is a URL")
    ] = ""

    def as_dict(self, *, secrets: bool = False) -> dict[str, Any]:
        """The effective configuration as plain data, every default filled in: `{"exit_manager": {…}}`.

        `load_config` reads it back to an equal configuration, also by way of JSON or YAML; where there are secrets,
        only with `secrets`, which is not to be shown or logged. Numbers are int or float where that is exact, and text
        otherwise.
        """
        flat = plain_value(self, secrets=secrets)
        return {SECTION: {**flat.pop("policy"), **flat}}


class Field(NamedTuple):
    """One setting, one section, or one list of sections."""

    name: str
    type: Any  # a type, or a typing form such as Literal or tuple[LadderStep, ...]
    spec: Spec
    default: Any  # msgspec.NODEFAULT when it must be given

    @property
    def section(self) -> type[Section] | None:
        """The struct of a section; None for a single setting and for a list."""
        struct = self._struct
        return struct if struct is not None and not struct.listed else None

    @property
    def listed(self) -> type[Section] | None:
        """The struct of a section that is written as a list; None for anything else."""
        struct = self._struct
        return struct if struct is not None and struct.listed else None

    @property
    def _struct(self) -> type[Section] | None:
        return self.type if isinstance(self.type, type) and issubclass(self.type, Section) else None

    @property
    def item(self) -> type[Section] | None:
        """The struct of a list's items; None for anything but a list."""
        struct = self.listed
        if struct is not None:
            [inner] = [field for field in fields_of(struct) if field.name == struct.listed]
            return inner.item
        return get_args(self.type)[0] if get_origin(self.type) is tuple and not self.is_texts else None

    @property
    def is_texts(self) -> bool:
        """True for a list of plain texts."""
        return get_origin(self.type) is tuple and get_args(self.type)[0] is str

    @property
    def choices(self) -> list[str]:
        """The allowed words; empty where any value of the type goes."""
        if get_origin(self.type) is Literal:
            return [str(member) for member in get_args(self.type)]
        return [str(member) for member in self.type] if isinstance(self.type, type(StrEnum)) else []

    @property
    def inner(self) -> list[Field]:
        """The fields of the section, or of each item; empty for a single setting."""
        struct = self.section or self.item
        return fields_of(struct) if struct else []

    @property
    def holds_secret(self) -> bool:
        """True where it is a secret, or has one inside."""
        return self.spec.secret or any(inner.holds_secret for inner in self.inner)

    @property
    def may_be_none(self) -> bool:
        """True for a setting that has no value where it is not set."""
        return self.default is msgspec.UNSET and not self.inner

    @property
    def limits(self) -> tuple[float | None, ...]:
        """The bounds: above, at least, below, at most."""
        return self.spec.gt, self.spec.ge, self.spec.lt, self.spec.le


@cache
def fields_of(struct: type[msgspec.Struct]) -> list[Field]:
    """The fields of a struct with their descriptions."""
    hints = get_type_hints(struct, include_extras=True)
    fields = []
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        kind = _without_unset(kind)
        spec = next((note for note in notes if isinstance(note, Spec)), None)
        fields.append(Field(field.name, kind, spec or Spec(doc_of(kind)), field.default))
    return fields


def _without_unset(kind: Any) -> Any:
    """The type of a setting; what is stored only where it is set has it beside `UnsetType`."""
    kinds = get_args(kind)
    return next(k for k in kinds if k is not msgspec.UnsetType) if msgspec.UnsetType in kinds else kind


@cache
def root_fields() -> list[Field]:
    """The fields of the section. It is flat: the policy's fields stand beside the others."""
    return fields_of(ExitPolicy) + [field for field in fields_of(ExitConfig) if field.name != "policy"]


def field_at(path: Path) -> Field | None:
    """The field that a path leads to; None for the section itself and for what is not known."""
    fields, found = root_fields(), None
    for key in path:
        if not isinstance(key, int):
            found = next((field for field in fields if field.name == key), None)
            fields = found.inner if found else []
    return found


def doc_of(struct: type) -> str:
    """A struct's own description, on one line."""
    return " ".join(inspect.cleandoc(struct.__doc__ or "").split())


def bounds(field: Field) -> str:
    """The bounds of a number in words."""
    limits = zip(("greater than", "at least", "less than", "at most"), field.limits, strict=True)
    return " and ".join(f"{text} {plain(decimal_of(limit))}" for text, limit in limits if limit is not None)


def allowed(field: Field) -> str:
    """What may stand there, in words."""
    if field.section is not None:
        return "a section of settings"
    if field.item is not None:
        return "a list, each item with " + " and ".join(inner.name for inner in field.inner)
    if field.is_texts:
        return "a list of texts, none of them empty"
    if field.choices:
        return " or ".join(filter(None, (", ".join(field.choices[:-1]), field.choices[-1])))
    if field.type is bool:
        return "true or false"
    if field.type is time:
        return 'a time of day in quotes, like "16:00"'
    if field.type is str:
        return "text (in quotes where it looks like a number, or like yes or no)"
    word = f"{field.spec.word} or " if field.spec.word else ""
    number = f"{word}{'a whole number' if field.type is int else 'a number'}, {bounds(field)}".rstrip(", ")
    return f"{number}; or none" if field.may_be_none else number


def plain_value(value: object, *, secrets: bool = False) -> Any:
    """A value of a struct as plain data for YAML and JSON; a secret only where it is asked for."""
    if isinstance(value, Section) and value.listed:
        return plain_value(getattr(value, value.listed), secrets=secrets)
    if isinstance(value, msgspec.Struct):
        get = value.section if isinstance(value, ExitPolicy) else partial(getattr, value)
        hidden = set() if secrets else {field.name for field in fields_of(type(value)) if field.spec.secret}
        return {
            name: HIDDEN if name in hidden else plain_value(get(name), secrets=secrets)
            for name in value.__struct_fields__
            if get(name) is not msgspec.UNSET or isinstance(value, Section)  # a field of an event is left out instead
        }
    if value is msgspec.UNSET:
        return NONE
    if isinstance(value, (tuple, list)):
        return [plain_value(item, secrets=secrets) for item in value]
    if isinstance(value, time):
        return value.isoformat("minutes")
    if isinstance(value, StrEnum):
        return str(value)
    return _plain_number(value) if isinstance(value, Decimal) else value


def _plain_number(value: Decimal) -> int | float | str:
    if not value.is_finite() or not -30 < value.adjusted() < 30 or decimal_of(float(value)) != value:
        return str(value)
    return int(value) if value.as_tuple().exponent == 0 else float(value)
