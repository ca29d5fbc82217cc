"""The list of all rules. Their order is that in which they are asked; which reason wins is the order of `ExitType`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from exitfsm.policy.rule import OrderTerms, Rule, UserRule
from exitfsm.policy.rules import (
    atr_levels,
    break_even,
    custom_rule,
    custom_rules,
    end_of_session,
    profit_taking,
    stop_loss,
    target_ladder,
    targets,
    time_limit,
    trailing_stop,
)
from exitfsm.values import ExitType

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy

RULES: tuple[Rule[Any], ...] = (
    targets.RULE,
    target_ladder.RULE,
    atr_levels.RULE,
    stop_loss.RULE,
    profit_taking.RULE,
    break_even.RULE,
    trailing_stop.RULE,
    time_limit.RULE,
    end_of_session.RULE,
    custom_rule.RULE,
    custom_rules.RULE,
)


def has(rule: Rule[Any], what: str) -> bool:
    """True where a rule has something of its own to say to a question of `Rule`."""
    return getattr(type(rule), what) is not getattr(Rule, what)


#: The reasons of stops that move, of levels (those of rules, and the stop that a person sets), and of rules of time.
MOVING: dict[ExitType, Rule[Any]] = {rule.reason: rule for rule in RULES if has(rule, "next_stop")}
BY_LEVEL: frozenset[ExitType] = frozenset(
    rule.reason for rule in RULES if any(has(rule, what) for what in ("target", "entry_stop", "stop", "moved_stop"))
) | {ExitType.OPERATOR}
TIMED: frozenset[ExitType] = frozenset(rule.reason for rule in RULES if has(rule, "due"))
_ORDERED_BY = {reason: next(rule for rule in RULES if rule.orders(reason)) for reason in ExitType}
_MOVED = tuple(rule for rule in RULES if has(rule, "moved_stop"))


class Plan(NamedTuple):
    """Whom to ask what under one policy: the rules that are on, by what they have to say.

    Attributes:
        aiming, entry_stops: the first that has a target, or a stop, sets it.
        parting: whose targets sell the position in parts.
        stops: each stop counts.
        moved_stops: whose stop may have moved, whether or not it is on still.
        moving: whose stops follow the price.
        timed: what comes due by time.
        changing: what changes with the time held.
        folding: what folds bars into a state.
        user_rules: the user's functions, in order.
        every_bar: bars are never quiet, whatever the state.
        needs_session: some rule asks when the session ends.
    """

    aiming: tuple[Rule[Any], ...]
    entry_stops: tuple[Rule[Any], ...]
    parting: tuple[Rule[Any], ...]
    stops: tuple[Rule[Any], ...]
    moved_stops: tuple[Rule[Any], ...]
    moving: tuple[Rule[Any], ...]
    timed: tuple[Rule[Any], ...]
    changing: tuple[Rule[Any], ...]
    folding: tuple[Rule[Any], ...]
    user_rules: tuple[UserRule, ...]
    every_bar: bool
    needs_session: bool


def plan_of(policy: ExitPolicy) -> Plan:
    """Whom to ask what under `policy`."""
    on = [rule for rule in RULES if rule.on(policy)]

    def asked(what: str) -> tuple[Rule[Any], ...]:
        return tuple(rule for rule in on if has(rule, what))

    return Plan(
        aiming=tuple(rule for rule in on if rule.sole_target) or asked("target"),
        entry_stops=asked("entry_stop"),
        parting=asked("parts_reached"),
        stops=asked("stop"),
        moved_stops=_MOVED,
        moving=asked("next_stop"),
        timed=asked("due"),
        changing=asked("next_change_s"),
        folding=tuple(rule for rule in on if rule.state is not None),
        user_rules=tuple(one for rule in on for one in rule.user_rules(policy)),
        every_bar=any(rule.every_bar for rule in on),
        needs_session=any(rule.needs_session for rule in on),
    )


def order_terms(policy: ExitPolicy, reason: ExitType) -> OrderTerms:
    """How the order of an exit for this reason is to be."""
    return _ORDERED_BY[reason].terms(policy)


def bars_before_entry(policy: ExitPolicy) -> int:
    """How many bars up to the entry the rules need."""
    return max(rule.bars_before_entry(policy) for rule in RULES)


def rules_on(policy: ExitPolicy) -> list[Rule[Any]]:
    """The rules that are on, in the order of the sections."""
    return [rule for rule in rules_by_section(policy) if rule.on(policy)]


def rules_off(policy: ExitPolicy) -> list[str]:
    """The rules that are off, in the order of the sections.

    One whose levels another rule sets counts as on; one that only sets those of others, or was never set, is left out.
    """
    on = {name for rule in RULES if rule.on(policy) for name in (rule.name, *rule.stands_in_for)}
    known = [rule for rule in rules_by_section(policy) if getattr(policy, rule.name) is not msgspec.UNSET]
    return [rule.name for rule in known if rule.name not in on and not rule.stands_in_for]


def rules_by_section(policy: ExitPolicy) -> list[Rule[Any]]:
    """All rules, in the order of the sections."""
    return sorted(RULES, key=lambda rule: policy.__struct_fields__.index(rule.name))
