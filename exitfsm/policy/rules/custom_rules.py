"""Several rules of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from exitfsm.policy.rule import Conflict, Held, Rule, UserRule
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import ExitType

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy

_NO_NAME = "the rule has no name; give the name under which the function is registered"
_NO_RULES = "the rules are enabled but there are none; name at least one"


class OneRule(Section, frozen=True):
    """One function, found by name and version."""

    name: Annotated[str, Spec("name under which the function is registered")]
    version: Annotated[str, Spec("version of the function; recorded with each verdict")] = "1"


class CustomRules(Section, frozen=True):
    """Further rules of your own, asked in this order after `custom_rule`; the first reason counts."""

    enabled: Annotated[bool, Spec("whether the rules are on")] = False
    rules: Annotated[tuple[OneRule, ...], Spec("the functions, in the order in which they are asked")] = ()


class CustomRulesRule(Rule[CustomRules]):
    """Some functions."""

    name = "custom_rules"
    section = CustomRules
    reason = ExitType.CUSTOM

    def user_rules(self, policy: ExitPolicy) -> tuple[UserRule, ...]:
        return tuple(UserRule(rule.name, rule.version, self.name) for rule in self.of(policy).rules)

    def conflicts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        settings, rules = self.of(policy), (self.name, "rules")
        if settings.enabled and not settings.rules:
            yield [rules, (self.name, "enabled")], _NO_RULES
        for index, rule in enumerate(settings.rules):
            if not rule.name.strip():
                yield [(*rules, index, "name"), rules], _NO_NAME

    def watches(self, p: Held) -> str:
        names = ", ".join(map(str, self.user_rules(p.policy)))
        return f"The custom rules {names} have given no reason to exit."

    def not_on_record(self, p: Held, *, watched: bool) -> str:
        return "the answers of the custom rules while they gave no reason to exit" if watched else ""


RULE = CustomRulesRule()
