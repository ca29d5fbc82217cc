"""Rules of the user's own: guests, whose failures harm nothing but themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import localcontext
from typing import NamedTuple

from exitfsm.lifecycle import State
from exitfsm.outside import logger
from exitfsm.policy import ExitPolicy, UserRule
from exitfsm.position import Position
from exitfsm.values import Bar

log = logger("exitfsm")

#: A rule of the user's own: a reason to exit, or None. It must depend on its arguments only.
CustomRuleFunction = Callable[[Position, Bar], str | None]
#: The user's rules, by (name, version) as in the policy.
CustomRules = Mapping[tuple[str, str], CustomRuleFunction]


class Answer(NamedTuple):
    """A reason to exit, and the rule that gave it, by name and version."""

    reason: str | None
    rule: str


NO_ANSWER = Answer(None, "")


def answer_of(rules: CustomRules, p: Position, bar: Bar) -> Answer:
    """What the user's rules that a position has say to a bar, asked in order: the first reason counts."""
    if p.state is State.MONITORING:
        for rule in p.policy.plan.user_rules:
            reason = _reason_of(rules, rule, p, bar)
            if reason is not None:
                return Answer(reason, str(rule))
    return NO_ANSWER


def _reason_of(rules: CustomRules, rule: UserRule, p: Position, bar: Bar) -> str | None:
    """What one rule says. One that is missing or raises says nothing, and is logged."""
    function = rules.get((rule.name, rule.version))
    if function is None:
        log.error("rule_missing name=%s version=%s position=%s", rule.name, rule.version, p.position_id)
        return None
    try:
        with localcontext():  # what it sets for its own decimals must not reach ours
            return function(p, bar)
    except Exception:
        # A rule of the user's may fail in any way; the fixed levels must be tested all the same.
        log.exception("rule_failed name=%s version=%s position=%s", rule.name, rule.version, p.position_id)
        return None


def missing(rules: CustomRules, policy: ExitPolicy) -> UserRule | None:
    """The first rule that a policy names and that is not given; None where all are."""
    return next((rule for rule in policy.plan.user_rules if (rule.name, rule.version) not in rules), None)
