"""All the rules of one position: the settings of every section, in one struct.

Rules of this room: the sections of format 1 stand in every stored policy and in its digest, with their defaults. A
later section stands in both only where it differs from its default: it changes no old log and no digest that was
printed. So a default is permanent: who wants another gives the section another name.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from exitfsm.policy.guard import PriceGuard
from exitfsm.policy.listed import RULES, Plan, plan_of
from exitfsm.policy.rules.atr_levels import AtrLevels
from exitfsm.policy.rules.break_even import BreakEven
from exitfsm.policy.rules.custom_rule import CustomRule
from exitfsm.policy.rules.end_of_session import EndOfSession
from exitfsm.policy.rules.profit_taking import ProfitTaking
from exitfsm.policy.rules.stop_loss import StopLoss
from exitfsm.policy.rules.target_ladder import TargetLadder
from exitfsm.policy.rules.time_limit import TimeLimit
from exitfsm.policy.rules.trailing_stop import TrailingStop
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import EvaluateOn, plain


class PartialFills(Section, frozen=True):
    """What follows when an exit order ended with quantity left."""

    resubmit_delay_seconds: Annotated[int, Spec("wait before the next attempt, in seconds", ge=0, le=86_400)] = 30
    max_resubmit_attempts: Annotated[int, Spec("most further attempts after the first", ge=0, le=100)] = 3


class Format1(Section, frozen=True):
    """The sections of format 1, each a field. Nothing is added here any more: a later section comes from its rule."""

    enabled: Annotated[bool, Spec("false tracks and reports positions but triggers nothing")] = True
    evaluate_on: Annotated[
        EvaluateOn, Spec("`close`: the bar's close is the current price; `range`: its low and high count, stop first")
    ] = EvaluateOn.CLOSE
    profit_taking: ProfitTaking = ProfitTaking()
    stop_loss: StopLoss = StopLoss()
    trailing_stop: TrailingStop = TrailingStop()
    atr_levels: AtrLevels = AtrLevels()
    break_even: BreakEven = BreakEven()
    time_limit: TimeLimit = TimeLimit()
    end_of_session: EndOfSession = EndOfSession()
    target_ladder: TargetLadder = TargetLadder()
    custom_rule: CustomRule = CustomRule()
    partial_fills: PartialFills = PartialFills()
    exit_cooldown_seconds: Annotated[
        int, Spec("seconds after an exit during which the symbol may not be entered again", ge=0, le=10**9)
    ] = 300
    price_guard: PriceGuard = PriceGuard()


#: The later sections, by name, as they are where nothing is set.
LATER: dict[str, Section] = {r.name: r.section() for r in RULES if r.name not in Format1.__struct_fields__}

if TYPE_CHECKING:
    _AllSections = Format1
else:
    _AllSections = msgspec.defstruct(
        "_AllSections",
        [(name, type(section) | msgspec.UnsetType, msgspec.UNSET) for name, section in LATER.items()],
        bases=(Format1,),
        frozen=True,
        kw_only=True,
    )


class ExitPolicy(_AllSections, frozen=True, dict=True):
    """All the rules of one position. The defaults are the bot's: +2 %, -1 %, market, day, 30 s, 3 times, 300 s.

    The field of a section of format 1 holds it; that of a later one holds `msgspec.UNSET` where all is as by default.
    `section` gives either.
    """

    def __post_init__(self) -> None:
        for name, default in LATER.items():
            if getattr(self, name) == default:
                msgspec.structs.force_setattr(self, name, msgspec.UNSET)

    @cached_property
    def plan(self) -> Plan:
        """Which rules are on, by what they have to say."""
        return plan_of(self)

    def section(self, name: str) -> Any:
        """A section or setting by its name, a later one as by default where nothing of it is set."""
        value = getattr(self, name)
        return LATER[name] if value is msgspec.UNSET else value

    def digest(self) -> str:
        """Short fingerprint of all settings: equal policies have equal digests on any machine."""
        return hashlib.sha256(msgspec.json.encode(_canonical(self), order="deterministic")).hexdigest()[:12]


def _canonical(value: object) -> object:
    """A setting as plain data in which equal numbers look equal (1 and 1.0); what is as by default may be left out."""
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return {name: _canonical(field) for name, field in fields.items() if field is not msgspec.UNSET}
    if isinstance(value, tuple):
        return [_canonical(item) for item in value]
    return plain(value) if isinstance(value, Decimal) else value


def typed(policy: ExitPolicy) -> ExitPolicy:
    """The same settings, each of its declared type: a struct made in Python takes `"close"` and 1.5 as they are.

    Raises:
        ValueError: a setting is of another kind altogether.
    """
    try:
        return _decoded(msgspec.json.encode(policy))
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"not an exit policy: {error}") from None


@lru_cache(maxsize=256)
def _decoded(settings: bytes) -> ExitPolicy:
    """One object for equal settings, however many positions have them."""
    return msgspec.json.decode(settings, type=ExitPolicy)
