"""A rule of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from exitfsm.policy.rule import Conflict, Held, Rule, UserRule
from exitfsm.policy.settings import Section, Spec
from exitfsm.values import ExitType

if TYPE_CHECKING:
    from exitfsm.policy.exit_policy import ExitPolicy

_NO_NAME = "the rule is enabled but has no name; give the name under which the function is registered"


class CustomRule(Section, frozen=True):
    """A rule of your own: a function of `(position, bar)` that returns a reason or None, found by name and version."""

    enabled: Annotated[bool, Spec("whether the rule is on")] = False
    name: Annotated[str, Spec("name under which the function is registered")] = ""
    version: Annotated[str, Spec("version of the function; recorded with each verdict")] = "1"


class CustomRuleRule(Rule[CustomRule]):
    """One function."""

    name = "custom_rule"
    section = CustomRule
    reason = ExitType.CUSTOM

    def user_rules(self, policy: ExitPolicy) -> tuple[UserRule, ...]:
        return (UserRule(policy.custom_rule.name, policy.custom_rule.version, self.name),)

    def conflicts(self, policy: ExitPolicy) -> Iterator[Conflict]:
        if policy.custom_rule.enabled and not policy.custom_rule.name.strip():
            yield [(self.name, "name"), (self.name, "enabled")], _NO_NAME

    def watches(self, p: Held) -> str:
        return f"The custom rule {self.user_rules(p.policy)[0]} has given no reason to exit."

    def not_on_record(self, p: Held, *, watched: bool) -> str:
        return "the answers of the custom rule while it gave no reason to exit" if watched else ""


RULE = CustomRuleRule()
