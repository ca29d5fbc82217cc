"""Rules of the user's own: guests, whose failures harm nothing but themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exitfsm.lifecycle import State
from exitfsm.outside import logger
from exitfsm.position import Position
from exitfsm.values import Bar

log = logger("exitfsm")

#: A rule of the user's own: a reason to exit, or None. It must depend on its arguments only.
CustomRuleFunction = Callable[[Position, Bar], str | None]
#: The user's rules, by (name, version) as in the policy.
CustomRules = Mapping[tuple[str, str], CustomRuleFunction]


def verdict_of(rules: CustomRules, p: Position, bar: Bar) -> str | None:
    """What a position's rule of that kind says to a bar. One that is missing or raises says nothing, and is logged."""
    rule = p.policy.custom_rule
    if not rule.enabled or p.state is not State.MONITORING:
        return None
    function = rules.get((rule.name, rule.version))
    if function is None:
        log.error("rule_missing name=%s version=%s position=%s", rule.name, rule.version, p.position_id)
        return None
    try:
        return function(p, bar)
    except Exception:
        # A rule of the user's may fail in any way; the fixed levels must be tested all the same.
        log.exception("rule_failed name=%s version=%s position=%s", rule.name, rule.version, p.position_id)
        return None
